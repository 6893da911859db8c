"""Losses of the classifiers and of the flow (OFF18 §4.2, RF19 §3.3, AF18 §3)."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from motionspec.checks import choice, levels, message, positive, some, whole_ratios
from motionspec.refimpl.checks import Array, arrays


def flow_pair(operator: str, flow: Any, target: Any, mask: Any, *, mean: bool) -> tuple[Array, Array, np.ndarray]:
    """Check a flow (N, 2, H, W) or (N, 2, T, H, W), its target and mask: what every comparison of flows begins with.

    Without a mask all pixels are valid. Where it is False anything may stand, NaN and infinity included.
    """
    found = _checked(operator, _pair(flow, target), mask, mean)
    return found["flow"], found["target"], found["mask"]


def _pair(flow: Any, target: Any) -> dict[str, tuple[Any, str]]:
    axes = "N 2 T H W" if getattr(flow, "ndim", 0) == 5 else "N 2 H W"
    return {"flow": (flow, axes), "target": (target, axes)}


def _listed(name: str, flows: Any, target: Any) -> dict[str, tuple[Any, str]]:
    listed = {f"{name}[{r}]": (flow, f"N 2 H{r} W{r}") for r, flow in enumerate(flows)}
    return listed | {"target": (target, "N 2 H W")}


def _checked(operator: str, arguments: dict[str, tuple[Any, str]], mask: Any, mean: bool) -> dict[str, np.ndarray]:
    """Check scores and label if given, flows, target and mask; the results have a mask in any case."""
    first, axes = next(iter(arguments)), arguments["target"][1]
    flows = tuple(name for name in arguments if name not in ("scores", "label"))
    if mask is not None:
        arguments = arguments | {"mask": (mask, axes.replace("2", "1"))}
    checked = arrays(operator, nonfinite=flows, boolean=("mask",), integer=("label",), **arguments)
    found: dict[str, np.ndarray] = dict(zip(arguments, checked, strict=True))
    N, _, *sides = found["target"].shape
    valid = found.setdefault("mask", np.ones((N, 1, *sides), bool))
    for name in flows:
        if found[name].shape == found["target"].shape:  # a coarse flow has a coarse mask, see `_multiscale`
            _finite(operator, name, found[name], valid)
    if mean:
        some(operator, first, N)
        if not valid.any():
            raise ValueError(message(operator, "mask", "at least one valid pixel to take the mean of", "none"))
    return found


def _finite(operator: str, name: str, array: Array, valid: np.ndarray) -> None:
    wrong = valid & ~np.isfinite(array)
    if wrong.any():
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(message(operator, name, "finite values at valid pixels", f"{array[first]} at {first}"))


def endpoint_error(flow: Array, target: Array, *, mask: np.ndarray | None = None, reduction: str = "sum") -> Array:
    """`sum_t sum_p |o_(t,p) - o^_(t,p)|`, the L2 distance of two flows summed over frames, pixels and the batch.

    Equation: AF18 (1), and "EPE" in AF18 §3.1.
    Shapes: flow, target (N, 2, H, W) or (N, 2, T, H, W), mask (N, 1, H, W) or (N, 1, T, H, W) of bool -> ().
    Units: pixels; `reduction="mean"`: per valid pixel of the whole batch, not a mean of the samples' means.
    Border: none, it is pointwise.
    Kinks: at distance 0 the derivative is 0. A pixel outside the mask is selected out: neither value nor derivative
        depends on what stands there, be it NaN or 1e10.
    Deviations: none; the authors' code is not public. The paper is silent on the batch, on unknown flow and on whether
        it divides by the number of pixels: hence `mask` and `reduction`.
    Raises: TypeError or ValueError for dtypes, shapes, `reduction`, values at valid pixels that are not finite, and for
        a mean over no pixel. The operator does not look at values: there an empty mask gives the mean NaN and the
        gradient 0 (test_losses.py::test_endpoint_error_mean_over_no_pixel).
    """
    choice("losses.endpoint_error", "reduction", reduction, ("sum", "mean"))
    return _endpoint_error(*flow_pair("losses.endpoint_error", flow, target, mask, mean=reduction == "mean"), reduction)


def _endpoint_error(flow: Array, target: Array, valid: np.ndarray, reduction: str) -> Array:
    distances = [
        math.hypot(*(flow[n, :, *p] - target[n, :, *p])) for n, _, *p in np.ndindex(valid.shape) if valid[n, 0, *p]
    ]
    total = math.fsum(distances)
    return np.array(total / len(distances) if reduction == "mean" else total)


def multiscale_endpoint_error(
    flows: Sequence[Array],
    target: Array,
    *,
    alpha: Sequence[float],
    mask: np.ndarray | None = None,
    rescale: bool = True,
    reduction: str = "sum",
) -> Array:
    """`sum_r alpha_r EPE_r`: the end-point error of the outputs at several resolutions, weighted.

    Equation: AF18 (3), for any number of resolutions (the paper has four).
    Shapes: flows[r] (N, 2, H / k, W / l) with whole k, l of its own, target (N, 2, H, W), mask (N, 1, H, W) of bool,
        alpha one number above 0 per resolution (the paper does not give them) -> ().
    Units: each EPE in pixels of its own grid. The target of a coarse pixel is the mean over the valid pixels that it
        covers, u divided by l and v by k; a coarse pixel that covers none is left out. `rescale=False` does not divide.
        `reduction="mean"`: each EPE is the mean over the valid pixels of its grid.
    Border: none: only whole ratios, so a pixel belongs to one coarse pixel.
    Kinks: as `endpoint_error`, at distance 0 of a coarse flow and its target.
    Deviations: the paper does not say how the targets are made. FlowNet, which it follows, averages and does not
        divide: its published weights need `rescale=False`
        (test_losses.py::test_multiscale_endpoint_error_rescale_false_is_flownet_s).
    Raises: TypeError or ValueError for dtypes, shapes, `alpha`, `reduction`, values at valid pixels that are not
        finite, and for a mean over no pixel, as `endpoint_error`.
    """
    operator = "losses.multiscale_endpoint_error"
    choice(operator, "reduction", reduction, ("sum", "mean"))
    levels(operator, "flows", flows, alpha)
    found = _checked(operator, _listed("flows", flows, target), mask, reduction == "mean")
    return _multiscale(operator, "flows", found, alpha, rescale, reduction)


def _multiscale(
    operator: str, name: str, found: dict[str, np.ndarray], alpha: Sequence[float], rescale: bool, reduction: str
) -> Array:
    flows = [found[f"{name}[{r}]"] for r in range(len(alpha))]
    whole_ratios(operator, name, flows, found["target"])
    errors = []
    for r, o in enumerate(flows):
        coarse, valid = _area_average(found["target"], found["mask"], o.shape[2:], rescale)
        _finite(operator, f"{name}[{r}]", o, valid)
        errors.append(alpha[r] * float(_endpoint_error(o, coarse, valid, reduction)))
    return np.array(math.fsum(errors))


def _area_average(target: Array, mask: np.ndarray, sides: tuple[int, ...], rescale: bool) -> tuple[Array, np.ndarray]:
    """The target on a grid of h x w pixels, and which of these cover a valid pixel."""
    (h, w), (N, _, H, W) = sides, target.shape
    ky, kx = H // h, W // w
    coarse, valid = np.zeros((N, 2, h, w)), np.zeros((N, 1, h, w), bool)
    for n, j, i in np.ndindex(N, h, w):
        covered = np.s_[j * ky : (j + 1) * ky, i * kx : (i + 1) * kx]
        inside = mask[n, 0][covered]
        if inside.any():
            u, v = (component[covered][inside].mean() for component in target[n])
            coarse[n, :, j, i] = (u / kx, v / ky) if rescale else (u, v)
            valid[n, 0, j, i] = True
    return coarse, valid


def multitask(
    scores: Array,
    label: np.ndarray,
    flow: Array | Sequence[Array],
    target: Array,
    *,
    lam: float,
    alpha: Sequence[float] | None = None,
    mask: np.ndarray | None = None,
    rescale: bool = True,
    reduction: str = "sum",
) -> Array:
    """`-log p(y) + lambda EPE`: recognise the action and estimate the flow.

    Equation: AF18 (2); with `alpha`, and as `flow` the list of outputs at several resolutions, AF18 (4).
    Shapes: scores (N, K), label (N,) of integers in 0 .. K-1; flow, target, mask as `endpoint_error` or, with `alpha`,
        as `multiscale_endpoint_error` -> ().
    Units: nats and pixels; lambda > 0 makes them comparable (the paper does not give it). `reduction` is that of both.
    Border, Kinks: as the two losses.
    Deviations: the paper prints -1(y = y^) log p(y^), y^ being the prediction. Literally, a wrong answer costs nothing
        and teaches nothing; cross entropy is meant
        (test_losses.py::test_multitask_literal_indicator_costs_wrong_answers_nothing).
    Raises: as the two losses, and ValueError for `lam`.
    """
    operator = "losses.multitask"
    positive(operator, "lam", lam)
    choice(operator, "reduction", reduction, ("sum", "mean"))
    if alpha is not None:
        levels(operator, "flow", flow, alpha)
    arguments = {"scores": (scores, "N K"), "label": (label, "N")}
    arguments |= _pair(flow, target) if alpha is None else _listed("flow", flow, target)
    found = _checked(operator, arguments, mask, reduction == "mean")
    _known(operator, found["scores"].shape[1], found["label"])
    recognition = _cross_entropy(operator, found["scores"], found["label"], reduction)
    if alpha is None:
        estimation = _endpoint_error(found["flow"], found["target"], found["mask"], reduction)
    else:
        estimation = _multiscale(operator, "flow", found, alpha, rescale, reduction)
    return np.array(recognition + lam * estimation)


def labelled(operator: str, scores: Any, axes: str, label: Any) -> tuple[Array, np.ndarray]:
    """Check scores, their last axis being the K classes, and the true class (N,) of each sample."""
    scores, label = arrays(operator, integer=("label",), scores=(scores, axes), label=(label, "N"))
    _known(operator, scores.shape[-1], label)
    return scores, label


def _known(operator: str, K: int, label: np.ndarray) -> None:
    for n, y in enumerate(label):
        if not 0 <= y < K:
            raise ValueError(message(operator, "label", f"a class in 0 .. {K - 1}", f"{y} at ({n},)"))


def consensus(scores: Array) -> Array:
    """`G_l = mean_t G_(t,l)`: a video's score, the mean of its segments' scores before the softmax.

    Equation: OFF18 (8), for OFF over the T-1 scores of the pairs, for the backbone over those of the T segments; also
        RF19 §3.3 (its predictions per time step) and AF18 §4.2 (its crops).
    Shapes: scores (N, T, K) -> (N, K), T = 1 included.
    Units: those of the scores.
    Border: none.
    Kinks: none, it is linear.
    Deviations: RF19 averages "to produce a probability"; the mean of softmaxes is another function
        (test_losses.py::test_consensus_is_taken_before_the_softmax).
    Raises: TypeError or ValueError for dtypes, shapes, or values that are not finite.
    """
    (scores,) = arrays("losses.consensus", scores=(scores, "N T K"))
    N, T, K = scores.shape
    G = np.zeros((N, K))
    for t in range(T):
        G += scores[:, t]
    return G / T


def cross_entropy(scores: Array, label: np.ndarray, *, reduction: str = "sum") -> Array:
    """`L(y, G) = -sum_c y_c (G_c - log sum_j exp G_j)`: negative log-softmax of the true class.

    Equation: OFF18 (9); RF19 (11) with p the softmax of the scores.
    Shapes: scores (N, K), label (N,) of integers in 0 .. K-1 -> ().
    Units: nats. The papers state one video's loss: `reduction="sum"` adds those of the batch, `"mean"` divides by N.
    Border: none.
    Kinks: none. Stable: exp never overflows, and a true class of probability 0 in float has a finite loss.
    Deviations: RF19 (11) read literally takes the logarithm of a probability that underflows to 0
        (test_losses.py::test_cross_entropy_is_stable). AF18's indicator is another loss, see `multitask`.
    Raises: TypeError or ValueError for dtypes, shapes, `reduction`, values that are not finite, labels outside
        0 .. K-1, or a mean over N = 0. The operator does not look at values: there a label outside gives NaN
        (test_losses.py::test_label_outside_the_classes).
    """
    choice("losses.cross_entropy", "reduction", reduction, ("sum", "mean"))
    scores, label = labelled("losses.cross_entropy", scores, "N K", label)
    return _cross_entropy("losses.cross_entropy", scores, label, reduction)


def _cross_entropy(operator: str, scores: Array, label: np.ndarray, reduction: str) -> Array:
    losses = []
    for G, y in zip(scores, label, strict=True):
        top = max(G)
        losses.append(math.log(math.fsum(math.exp(g - top) for g in G)) + (top - G[y]))
    if reduction == "mean":
        some(operator, "scores", len(scores))
        return np.array(math.fsum(losses) / len(losses))
    return np.array(math.fsum(losses))


def intermediate_supervision(scores: Array, label: np.ndarray, *, reduction: str = "sum") -> Array:
    """`sum_l L_l`: each level of the OFF sub-network has a cross entropy of its own, and they are added.

    Equation: OFF18 §4.2 "intermediate supervision", with (9) for each level.
    Shapes: scores (N, L, K), the consensus of each of L levels, label (N,) of integers in 0 .. K-1 -> ().
    Units, Border, Kinks, Raises: as `cross_entropy`; `reduction="mean"` divides by N, never by L.
    Deviations: the PyTorch port of the released code feeds one level's scores to all losses, so that the others learn
        nothing (test_losses.py::test_intermediate_supervision_reaches_every_level).
    """
    choice("losses.intermediate_supervision", "reduction", reduction, ("sum", "mean"))
    scores, label = labelled("losses.intermediate_supervision", scores, "N L K", label)
    levels = [
        _cross_entropy("losses.intermediate_supervision", scores[:, l], label, reduction)
        for l in range(scores.shape[1])  # noqa: E741  the paper's index
    ]
    return np.array(math.fsum(levels))
