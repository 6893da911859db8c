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
