"""Losses of the classifiers and of the flow (OFF18 §4.2, RF19 §3.3, AF18 §3)."""

import math
from typing import Any

import numpy as np

from motionspec.checks import choice, message, some
from motionspec.refimpl.checks import Array, arrays


def flow_pair(operator: str, flow: Any, target: Any, mask: Any, *, mean: bool) -> tuple[Array, Array, np.ndarray]:
    """Check a flow (N, 2, H, W) or (N, 2, T, H, W), its target and mask: what every comparison of flows begins with.

    Without a mask all pixels are valid. Where it is False anything may stand, NaN and infinity included.
    """
    axes = "N 2 T H W" if getattr(flow, "ndim", 0) == 5 else "N 2 H W"
    arguments = {"flow": (flow, axes), "target": (target, axes)}
    if mask is not None:
        arguments["mask"] = (mask, axes.replace("2", "1"))
    flow, target, *given = arrays(operator, nonfinite=("flow", "target"), boolean=("mask",), **arguments)
    valid = given[0] if given else np.ones((len(flow), 1, *flow.shape[2:]), bool)
    for name, array in (("flow", flow), ("target", target)):
        wrong = valid & ~np.isfinite(array)
        if wrong.any():
            first = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise ValueError(message(operator, name, "finite values at valid pixels", f"{array[first]} at {first}"))
    if mean:
        some(operator, "flow", len(flow))
        if not valid.any():
            raise ValueError(message(operator, "mask", "at least one valid pixel to take the mean of", "none"))
    return flow, target, valid


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
    flow, target, valid = flow_pair("losses.endpoint_error", flow, target, mask, mean=reduction == "mean")
    distances = [
        math.hypot(*(flow[n, :, *p] - target[n, :, *p])) for n, _, *p in np.ndindex(valid.shape) if valid[n, 0, *p]
    ]
    total = math.fsum(distances)
    return np.array(total / len(distances) if reduction == "mean" else total)


def labelled(operator: str, scores: Any, axes: str, label: Any) -> tuple[Array, np.ndarray]:
    """Check scores, their last axis being the K classes, and the true class (N,) of each sample."""
    scores, label = arrays(operator, integer=("label",), scores=(scores, axes), label=(label, "N"))
    K = scores.shape[-1]
    for n, y in enumerate(label):
        if not 0 <= y < K:
            raise ValueError(message(operator, "label", f"a class in 0 .. {K - 1}", f"{y} at ({n},)"))
    return scores, label


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
