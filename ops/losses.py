"""Losses of the classifiers and of the flow. Definitions, conventions and sources: `motionspec.refimpl.losses`."""

from typing import Any

import torch
from torch import Tensor

from motionspec.checks import choice, some
from motionspec.ops.checks import tensors


def flow_pair(
    operator: str, impl: str, flow: Any, target: Any, mask: Any, *, mean: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Check a flow (N, 2, H, W) or (N, 2, T, H, W), its target and mask, and select out what the mask excludes.

    There both become 0, so that neither value nor gradient sees the NaN or 1e10 that stands for unknown.
    """
    axes = "N 2 T H W" if getattr(flow, "ndim", 0) == 5 else "N 2 H W"
    arguments = {"flow": (flow, axes), "target": (target, axes)}
    if mask is not None:
        arguments["mask"] = (mask, axes.replace("2", "1"))
    a, b, *given = tensors(operator, impl, boolean=("mask",), **arguments)
    if mean:
        some(operator, "flow", len(a))
    if not given:
        return a, b, None
    return torch.where(given[0], a, 0.0), torch.where(given[0], b, 0.0), given[0]


def distance(difference: Tensor) -> Tensor:
    """Length of the vectors (N, 2, ...) -> (N, ...); at 0 its derivatives of every order are 0.

    Divided by the larger component, a constant to autograd, before it is squared: no square under- or overflows. The
    length does not depend on the divisor, so leaving it out of the graph is exact, to every order.
    """
    largest = difference.detach().abs().amax(1)
    zero = largest == 0
    u, v = (difference / torch.where(zero, 1.0, largest)[:, None]).unbind(1)
    return torch.where(zero, 0.0, largest * torch.sqrt(torch.where(zero, 1.0, u * u + v * v)))


def average(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of values (N, ...) that are 0 where the mask (N, 1, ...) is False, over where it is True; NaN if nowhere."""
    return values.mean() if mask is None else values.sum() / mask.sum()


def endpoint_error(
    flow: Tensor, target: Tensor, *, mask: Tensor | None = None, reduction: str = "sum", impl: str = "auto"
) -> Tensor:
    """L2 distance of two flows, summed over frames, pixels and the batch, or the mean over valid pixels (AF18 (1)).

    Shapes: flow, target (N, 2, H, W) or (N, 2, T, H, W), mask (N, 1, H, W) or (N, 1, T, H, W) of bool -> ().
    Neither value nor gradient depends on what stands outside the mask; at distance 0 the gradient is 0. An empty mask
    gives the mean NaN and the gradient 0: values are never looked at.
    Raises TypeError or ValueError for dtypes, devices, shapes, `reduction`, `impl`, or a mean over N = 0 samples.
    """
    choice("losses.endpoint_error", "reduction", reduction, ("sum", "mean"))
    a, b, valid = flow_pair("losses.endpoint_error", impl, flow, target, mask, mean=reduction == "mean")
    distances = distance(a - b)
    return (distances.sum() if reduction == "sum" else average(distances, valid)).to(flow.dtype)


def consensus(scores: Tensor, *, impl: str = "auto") -> Tensor:
    """A video's score: the mean of its segments' scores before the softmax (OFF18 (8)).

    Shapes: scores (N, T, K) -> (N, K).
    Raises TypeError or ValueError for dtypes, shapes or `impl`.
    """
    (a,) = tensors("losses.consensus", impl, scores=(scores, "N T K"))
    return a.mean(1).to(scores.dtype)


def cross_entropy(scores: Tensor, label: Tensor, *, reduction: str = "sum", impl: str = "auto") -> Tensor:
    """Negative log-softmax of the true class, summed over the batch or its mean (OFF18 (9), RF19 (11)).

    Shapes: scores (N, K), label (N,) of integers in 0 .. K-1 -> (). A label outside gives NaN.
    Raises TypeError or ValueError for dtypes, devices, shapes, `reduction`, `impl`, or a mean over N = 0 samples.
    """
    choice("losses.cross_entropy", "reduction", reduction, ("sum", "mean"))
    arguments = {"scores": (scores, "N K"), "label": (label, "N")}
    a, y = tensors("losses.cross_entropy", impl, integer=("label",), **arguments)
    return _cross_entropy("losses.cross_entropy", a, y, reduction).to(scores.dtype)


def of_class(values: Tensor, label: Tensor) -> Tensor:
    """The value of the true class along the last axis, of values (N, ..., K) -> (N, ...); NaN for a label outside."""
    true = label.reshape(-1, *[1] * (values.ndim - 1)) == torch.arange(values.shape[-1], device=values.device)
    return torch.where(true.any(-1), torch.where(true, values, 0.0).sum(-1), torch.nan)


def _cross_entropy(operator: str, scores: Tensor, label: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        some(operator, "scores", len(scores))
    total = -of_class(torch.log_softmax(scores, -1), label).sum()
    return total if reduction == "sum" else total / len(scores)


def intermediate_supervision(scores: Tensor, label: Tensor, *, reduction: str = "sum", impl: str = "auto") -> Tensor:
    """The cross entropies of all levels, added (OFF18 §4.2).

    Shapes: scores (N, L, K), the consensus of each of L levels, label (N,) of integers in 0 .. K-1 -> ().
    `reduction="mean"` divides by N, never by L. Errors: as `cross_entropy`.
    """
    choice("losses.intermediate_supervision", "reduction", reduction, ("sum", "mean"))
    arguments = {"scores": (scores, "N L K"), "label": (label, "N")}
    a, y = tensors("losses.intermediate_supervision", impl, integer=("label",), **arguments)
    return _cross_entropy("losses.intermediate_supervision", a, y, reduction).to(scores.dtype)
