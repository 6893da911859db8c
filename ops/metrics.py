"""Scores of classifiers, flows and restored images. Definitions, conventions and sources: `motionspec.refimpl.metrics`.

They measure: the results carry no gradient. To train, use `losses`.
"""

import math

import torch
from torch import Tensor

from motionspec.checks import count, positive, some
from motionspec.ops.autocast import promoted
from motionspec.ops.checks import tensors
from motionspec.ops.losses import average, distance, flow_pair, total_error


def _of_class(values: Tensor, label: Tensor) -> Tensor:
    """The value of the true class of values (N, K) -> (N,); NaN for a label outside."""
    true = label[:, None] == torch.arange(values.shape[1], device=values.device)
    return torch.where(true.any(1), torch.where(true, values, 0.0).sum(1), torch.nan)


def _right(scores: Tensor, label: Tensor, k: int) -> Tensor:
    """1 where fewer than k other classes score at least as high as the true one, else 0; NaN where that is unknown."""
    true = _of_class(scores, label)
    rank = (scores >= true[:, None]).sum(1) - 1  # all but the true class itself
    return torch.where(true.isnan() | scores.isnan().any(1), torch.nan, (rank < k).to(scores.dtype))


@promoted
@torch.no_grad()
def top_k(scores: Tensor, label: Tensor, *, k: int = 1, impl: str = "auto") -> Tensor:
    """Share of samples whose true class is among the k highest scores; ties count against.

    Shapes: scores (N, K), label (N,) of integers in 0 .. K-1, k >= 1 -> (). NaN scores and labels outside give NaN.
    Raises TypeError or ValueError for dtypes, devices, shapes, `k`, `impl`, or N = 0.
    """
    count("metrics.top_k", "k", k)
    arguments = {"scores": (scores, "N K"), "label": (label, "N")}
    a, y = tensors("metrics.top_k", impl, integer=("label",), **arguments)
    some("metrics.top_k", "scores", a.shape[0])
    return _right(a, y, k).mean().to(scores.dtype)


@promoted
@torch.no_grad()
def per_class_accuracy(scores: Tensor, label: Tensor, *, impl: str = "auto") -> Tensor:
    """Top-1 accuracy of each class by itself; NaN for a class that no sample has (AF18 §4.3.3).

    Shapes: scores (N, K), label (N,) of integers in 0 .. K-1 -> (K,). A label outside gives NaN for every class.
    Raises TypeError or ValueError for dtypes, devices, shapes or `impl`.
    """
    arguments = {"scores": (scores, "N K"), "label": (label, "N")}
    a, y = tensors("metrics.per_class_accuracy", impl, integer=("label",), **arguments)
    accuracy, _ = _per_class(a, y)
    return accuracy.to(scores.dtype)


def _per_class(scores: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Accuracy of each class, and how many samples it has."""
    classes = torch.arange(scores.shape[1], device=scores.device)
    member = label[:, None] == classes
    outside = ~member.any(1, keepdim=True)
    right = torch.where(member | outside, _right(scores, label, 1)[:, None], 0.0)
    count = member.sum(0)
    return right.sum(0) / count, count


@promoted
@torch.no_grad()
def mean_class_accuracy(scores: Tensor, label: Tensor, *, impl: str = "auto") -> Tensor:
    """Mean of the accuracies of the classes that are present.

    Shapes: scores (N, K), label (N,) of integers in 0 .. K-1 -> (). NaN scores and labels outside give NaN.
    Raises TypeError or ValueError for dtypes, devices, shapes, `impl`, or N = 0.
    """
    arguments = {"scores": (scores, "N K"), "label": (label, "N")}
    a, y = tensors("metrics.mean_class_accuracy", impl, integer=("label",), **arguments)
    some("metrics.mean_class_accuracy", "scores", a.shape[0])
    accuracy, count = _per_class(a, y)
    present = count > 0
    return (torch.where(present, accuracy, 0.0).sum() / present.sum()).to(scores.dtype)


@promoted
@torch.no_grad()
def endpoint_error(flow: Tensor, target: Tensor, *, mask: Tensor | None = None, impl: str = "auto") -> Tensor:
    """Mean end-point error over the valid pixels of the batch (AF18 §4.4).

    Shapes: flow, target (N, 2, H, W) or (N, 2, T, H, W), mask (N, 1, H, W) or (N, 1, T, H, W) of bool -> (), in pixels.
    Outside the mask anything may stand; an empty mask gives NaN.
    Raises TypeError or ValueError for dtypes, devices, shapes, `impl`, or N = 0.
    """
    return total_error("metrics.endpoint_error", impl, flow, target, mask, "mean")


@promoted
@torch.no_grad()
def outlier_rate(
    flow: Tensor,
    target: Tensor,
    *,
    mask: Tensor | None = None,
    pixels: float = 3.0,
    share: float = 0.05,
    impl: str = "auto",
) -> Tensor:
    """Share of valid pixels whose error is above `pixels` and above `share` of the true length (KITTI's Fl).

    Shapes, mask and errors: as `endpoint_error`, and ValueError for `pixels` or `share` not above 0. NaN gives NaN.
    """
    positive("metrics.outlier_rate", "pixels", pixels)
    positive("metrics.outlier_rate", "share", share)
    a, b, valid = flow_pair("metrics.outlier_rate", impl, flow, target, mask, mean=True)
    error = distance(a - b)
    wrong = (error > pixels) & (error > share * distance(b))
    return average(torch.where(error.isnan(), torch.nan, wrong.to(error.dtype)), valid).to(flow.dtype)


@promoted
@torch.no_grad()
def angular_error(flow: Tensor, target: Tensor, *, mask: Tensor | None = None, impl: str = "auto") -> Tensor:
    """Mean angle between (u, v, 1) of the flow and of its target, in degrees.

    By atan2, so that equal vectors make exactly 0. Shapes, mask and errors: as `endpoint_error`.
    """
    a, b, valid = flow_pair("metrics.angular_error", impl, flow, target, mask, mean=True)
    (u, v), (du, dv) = a.unbind(1), (b - a).unbind(1)
    turn = u * dv - v * du  # u b - v a, without the difference of two large products
    dot = (a * b).sum(1) + 1
    angle = torch.atan2(torch.sqrt(du * du + dv * dv + turn * turn), dot)
    return average(torch.rad2deg(angle), valid).to(flow.dtype)


@promoted
@torch.no_grad()
def psnr(image: Tensor, target: Tensor, *, peak: float, impl: str = "auto") -> Tensor:
    """Peak signal-to-noise ratio of each image, `10 log10(peak^2 / MSE)`, averaged over the images (OFF20 §7.3).

    Shapes: image, target (N, C, H, W) -> (), in decibel; infinite where an image equals its target.
    Raises TypeError or ValueError for dtypes, devices, shapes, `peak`, `impl`, or N = 0.
    """
    positive("metrics.psnr", "peak", peak)
    a, b = tensors("metrics.psnr", impl, image=(image, "N C H W"), target=(target, "N C H W"))
    some("metrics.psnr", "image", a.shape[0])
    pixels = math.prod(a.shape[1:])
    error = torch.linalg.vector_norm(a - b, dim=(1, 2, 3)) / (peak * pixels**0.5)  # two passes
    return (-20 * torch.log10(error)).mean().to(image.dtype)
