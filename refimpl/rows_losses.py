"""Rows of stem `losses`: the fields are explained in `row.py`."""

import numpy as np

from motionspec.refimpl import losses
from motionspec.refimpl.row import Args, Equation, Fill, change

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


def _clip_flows(fill: Fill, N: int, T: int, H: int, W: int) -> Args:
    return flows(fill, N, T, H, W)


# Mutants that do not fit on a line.


def _reduced(distances: np.ndarray, mask: np.ndarray | None, reduction: str) -> np.ndarray:
    valid = np.ones(distances.shape, bool) if mask is None else mask[:, 0]
    return np.array(distances[valid].sum() if reduction == "sum" else distances[valid].mean())


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


ROWS = (
    Equation(
        id="losses.endpoint_error",
        source="AF18 (1)",
        summary="sum (or mean over valid pixels) of the L2 distance of two flows",
        reference=losses.endpoint_error,
        dims="NTHW",
        inputs=_clip_flows,
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
            ("mean over the samples of each sample's sum or mean", _per_sample),
            (
                "mask ignored",
                lambda flow, target, mask=None, reduction="sum": losses.endpoint_error(
                    flow, target, reduction=reduction
                ),
            ),
        ),
    ),
)
