"""Rows of stem `losses`: the fields are explained in `row.py`."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from motionspec.refimpl import losses
from motionspec.refimpl.row import Args, Equation, Fill, by_element, change

_REDUCTION = ({"reduction": "sum"}, {"reduction": "mean"})
_BAD_REDUCTION = (change(reduction="none"), "reduction: expected one of 'sum', 'mean', got 'none'")


def flows(fill: Fill, *shape: int) -> Args:
    """A flow, its target and a mask. Smooth cases: u of the target is whole, of the flow not, so no distance is 0."""
    N, *rest = shape
    target = fill("target", (N, 2, *rest), "flow")
    target[:, 0] = np.floor(target[:, 0])
    return {
        "flow": fill("flow", (N, 2, *rest), "flow"),
        "target": target,
        "mask": fill("mask", (N, 1, *rest), "mask"),
    }


def clip_flows(fill: Fill, N: int, T: int, H: int, W: int) -> Args:
    return flows(fill, N, T, H, W)


def _multiscale_inputs(fill: Fill, N: int, H: int, W: int) -> Args:
    """Ratios 2 x 4 and 1 x 2. u is negative in the flows and positive in the target: no distance 0 in smooth cases."""
    sizes = {"flows[0]": (H, W), "flows[1]": (2 * H, 2 * W), "target": (2 * H, 4 * W)}
    inputs = {name: fill(name, (N, 2, *sides), "flow") for name, sides in sizes.items()}
    for name, flow in inputs.items():
        flow[:, 0] = abs(flow[:, 0]) if name == "target" else -abs(flow[:, 0])
    return inputs | {"mask": fill("mask", (N, 1, 2 * H, 4 * W), "mask")}


def _multitask_inputs(fill: Fill, N: int, T: int, K: int, H: int, W: int) -> Args:
    return scores_and_label("N", "K")(fill, N=N, K=K) | flows(fill, N, T, H, W)


def scores_and_label(*axes: str) -> Callable[..., Args]:
    """Scores of these axes, then the true class of each sample."""

    def inputs(fill: Fill, **sizes: int) -> Args:
        shape = tuple(sizes[axis] for axis in axes)
        return {"scores": fill("scores", shape, "logit"), "label": fill("label", shape[:1], f"label:{shape[-1]}")}

    return inputs


# Mutants that do not fit on a line.


def _reduced(distances: np.ndarray, mask: np.ndarray | None, reduction: str) -> np.ndarray:
    valid = np.ones(distances.shape, bool) if mask is None else mask[:, 0]
    return distances[valid].sum() if reduction == "sum" else distances[valid].mean()


def _l1(flow: np.ndarray, target: np.ndarray, mask: np.ndarray | None = None, reduction: str = "sum") -> np.ndarray:
    return _reduced(np.abs(flow - target).sum(1), mask, reduction)


def _squared(
    flow: np.ndarray, target: np.ndarray, mask: np.ndarray | None = None, reduction: str = "sum"
) -> np.ndarray:
    return _reduced(((flow - target) ** 2).sum(1), mask, reduction)


def _per_sample(
    flow: np.ndarray, target: np.ndarray, mask: np.ndarray | None = None, reduction: str = "sum"
) -> np.ndarray:
    masks = [None if mask is None else m[None] for m in (flow if mask is None else mask)]
    samples = zip(flow, target, masks, strict=True)
    each = [losses.endpoint_error(f[None], t[None], mask=m, reduction="sum") for f, t, m in samples]
    counts = [1 if reduction == "sum" else flow[0, 0].size if m is None else max(m.sum(), 1) for m in masks]
    return np.array(np.mean([e / c for e, c in zip(each, counts, strict=True)]))


def _softmax(scores: np.ndarray) -> np.ndarray:
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _literal_indicator(scores: np.ndarray, label: np.ndarray, reduction: str = "sum") -> np.ndarray:
    """AF18 (2) as printed: a wrong prediction costs nothing."""
    right = scores.argmax(1) == label
    return losses.cross_entropy(scores[right], label[right]) / (len(label) if reduction == "mean" else 1)


def _first_level(scores: np.ndarray, label: np.ndarray, reduction: str = "sum") -> np.ndarray:
    L = scores.shape[1]
    return losses.cross_entropy(scores[:, 0], label, reduction=reduction) * L


def _nearest(
    flows: Sequence[np.ndarray],
    target: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    alpha: Sequence[float],
    rescale: bool,
    reduction: str,
) -> np.ndarray:
    total = np.zeros(())
    for o, weight in zip(flows, alpha, strict=True):
        k, l = (a // b for a, b in zip(target.shape[2:], o.shape[2:], strict=True))  # noqa: E741
        point = target[..., ::k, ::l].repeat(k, axis=2).repeat(l, axis=3)
        total += losses.multiscale_endpoint_error(
            [o], point, alpha=(weight,), mask=mask, rescale=rescale, reduction=reduction
        )
    return total


def _unknown_as_zero(
    flows: Sequence[np.ndarray], target: np.ndarray, mask: np.ndarray | None = None, **options: Any
) -> np.ndarray:
    known = target if mask is None else np.where(mask, target, 0)
    return losses.multiscale_endpoint_error(flows, known, **options)


def _literal_multitask(
    scores: np.ndarray,
    label: np.ndarray,
    flow: np.ndarray,
    target: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    lam: float,
    reduction: str,
) -> np.ndarray:
    estimation = losses.endpoint_error(flow, target, mask=mask, reduction=reduction)
    return _literal_indicator(scores, label, reduction) + lam * estimation


ROWS = (
    Equation(
        id="losses.consensus",
        source="OFF18 (8)",
        summary="mean over time of the scores before the softmax",
        reference=losses.consensus,
        dims="NTK",
        inputs=lambda fill, N, T, K: {"scores": fill("scores", (N, T, K), "value")},
        outputs=("scores",),
        degree=(1,),
        differentiable=("scores",),
        bench=({"N": 32, "T": 25, "K": 101}, {"N": 32, "T": 30, "K": 400}),
        bad=(
            (change(scores=lambda s: s[:, 0]), "scores: expected shape (N, T, K) with sides of at least 1, got (2, 3)"),
        ),
        mutants=(
            ("sum", lambda scores: scores.sum(1)),
            ("maximum", lambda scores: scores.max(1)),
            ("softmax first", lambda scores: _softmax(scores).mean(1)),
            ("mean over the last axis", lambda scores: scores.swapaxes(1, 2).reshape(scores.shape).mean(1)),
        ),
    ),
    Equation(
        id="losses.cross_entropy",
        source="OFF18 (9); RF19 (11)",
        summary="negative log-softmax of the true class",
        reference=losses.cross_entropy,
        dims="NK",
        inputs=scores_and_label("N", "K"),
        variants=_REDUCTION,
        outputs=("loss",),
        degree=(0,),
        differentiable=("scores",),
        bench=({"N": 128, "K": 101}, {"N": 128, "K": 400}),
        bad=(_BAD_REDUCTION,),
        mutants=(
            ("AF18's indicator taken literally", _literal_indicator),
            (
                "softmax twice",
                lambda scores, label, reduction="sum": losses.cross_entropy(
                    _softmax(scores), label, reduction=reduction
                ),
            ),
            (
                "log softmax without the minus",
                lambda scores, label, reduction="sum": -losses.cross_entropy(scores, label, reduction=reduction),
            ),
            (
                "mean over the classes",
                lambda scores, label, reduction="sum": (
                    losses.cross_entropy(scores, label, reduction=reduction) / scores.shape[1]
                ),
            ),
            (
                "next class",
                lambda scores, label, reduction="sum": losses.cross_entropy(
                    scores, (label + 1) % scores.shape[1], reduction=reduction
                ),
            ),
        ),
    ),
    Equation(
        id="losses.intermediate_supervision",
        source="OFF18 §4.2",
        summary="cross entropy of each level's scores, summed over the levels",
        reference=losses.intermediate_supervision,
        dims="NSK",
        inputs=scores_and_label("N", "S", "K"),
        variants=_REDUCTION,
        outputs=("loss",),
        degree=(0,),
        differentiable=("scores",),
        bench=({"N": 128, "S": 3, "K": 101},),
        bad=(_BAD_REDUCTION,),
        mutants=(
            ("one level's scores for all levels", _first_level),
            (
                "loss of the mean of the levels",
                lambda scores, label, reduction="sum": losses.cross_entropy(scores.mean(1), label, reduction=reduction),
            ),
            (
                "mean over the levels",
                lambda scores, label, reduction="sum": (
                    losses.intermediate_supervision(scores, label, reduction=reduction) / scores.shape[1]
                ),
            ),
        ),
    ),
    Equation(
        id="losses.endpoint_error",
        source="AF18 (1)",
        summary="sum (or mean over valid pixels) of the L2 distance of two flows",
        reference=losses.endpoint_error,
        dims="NTHW",
        inputs=clip_flows,
        variants=_REDUCTION,
        outputs=("loss",),
        degree=(0,),
        differentiable=("flow", "target"),
        nonfinite=("flow", "target"),
        step=1e-6,
        bench=({"N": 8, "T": 16, "H": 56, "W": 56}, {"N": 4, "T": 1, "H": 436, "W": 1024}),
        bad=(
            _BAD_REDUCTION,
            (
                change(mask=lambda mask: mask[:, :, 0]),
                "mask: expected shape (N, 1, T, H, W) with N=2, T=4, H=5, W=6, got (2, 1, 5, 6)",
            ),
        ),
        mutants=(
            ("sum of |du| and |dv|", _l1),
            ("squared distance", _squared),
            (
                "1e-6 added to the difference",
                lambda flow, target, mask=None, reduction="sum": losses.endpoint_error(
                    flow + 1e-6, target, mask=mask, reduction=reduction
                ),
            ),
            ("mean over the samples of each sample's sum or mean", _per_sample),
            (
                "mask ignored",
                lambda flow, target, mask=None, reduction="sum": losses.endpoint_error(
                    flow, target, reduction=reduction
                ),
            ),
        ),
    ),
    Equation(
        id="losses.multiscale_endpoint_error",
        source="AF18 (3)",
        summary="weighted sum of the end-point errors at several resolutions",
        reference=by_element(losses.multiscale_endpoint_error),
        dims="NHW",
        inputs=_multiscale_inputs,
        variants=(
            {"alpha": (0.5, 0.125), "rescale": True, "reduction": "sum"},
            {"alpha": (0.5, 0.125), "rescale": True, "reduction": "mean"},
            {"alpha": (0.5, 0.125), "rescale": False, "reduction": "sum"},
        ),
        outputs=("loss",),
        degree=(0,),
        differentiable=("flows[0]", "flows[1]", "target"),
        nonfinite=("flows[0]", "flows[1]", "target"),
        step=1e-6,
        bench=({"N": 8, "H": 28, "W": 14},),
        bad=(
            _BAD_REDUCTION,
            (change(alpha=(0.5,)), "alpha: expected a number for each of the 2 in flows, at least one, got 1"),
            (change(alpha=(0.5, 0.0)), "alpha[1]: expected a finite number above 0, got 0.0"),
        ),
        mutants=(
            ("one pixel in place of the average", _nearest),
            ("unknown flow counts as 0", _unknown_as_zero),
            (
                "weights from fine to coarse",
                lambda flows, target, mask=None, *, alpha, **options: losses.multiscale_endpoint_error(
                    flows, target, mask=mask, alpha=alpha[::-1], **options
                ),
            ),
            (
                "the other scaling of the target",
                lambda flows, target, mask=None, *, rescale, **options: losses.multiscale_endpoint_error(
                    flows, target, mask=mask, rescale=not rescale, **options
                ),
            ),
        ),
    ),
    Equation(
        id="losses.multitask",
        source="AF18 (2), (4)",
        summary="cross entropy + lambda * end-point error",
        reference=losses.multitask,
        dims="NTKHW",
        inputs=_multitask_inputs,
        variants=({"lam": 0.25, "reduction": "sum"}, {"lam": 0.25, "reduction": "mean"}),
        outputs=("loss",),
        degree=(0,),
        differentiable=("scores", "flow", "target"),
        nonfinite=("flow", "target"),
        step=1e-6,
        bench=({"N": 8, "T": 16, "K": 101, "H": 56, "W": 56},),
        bad=(
            _BAD_REDUCTION,
            (change(lam=0.0), "lam: expected a finite number above 0, got 0.0"),
            (change(lam=float("nan")), "lam: expected a finite number above 0, got nan"),
        ),
        mutants=(
            ("the indicator taken literally", _literal_multitask),
            (
                "no lambda",
                lambda scores, label, flow, target, mask=None, *, lam, reduction: losses.multitask(
                    scores, label, flow, target, mask=mask, lam=1.0, reduction=reduction
                ),
            ),
            (
                "a mean of both",
                lambda scores, label, flow, target, mask=None, *, lam, reduction: (
                    losses.multitask(scores, label, flow, target, mask=mask, lam=lam, reduction=reduction) / (1 + lam)
                ),
            ),
        ),
    ),
)
