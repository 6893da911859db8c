"""Layers of the papers' networks, from torch.nn.functional. Definitions and sources: `motionspec.refimpl.layers`.

On CUDA torch rounds the inputs of float32 convolutions to TF32, unless `torch.backends.cudnn.allow_tf32 = False`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from motionspec.checks import along, convolved, patterns, per_axis, pooled, positive, space, transposed
from motionspec.ops.autocast import promoted
from motionspec.ops.checks import tensors
from motionspec.ops.support import transforming

Sides = tuple[int, ...]

_CONVOLUTION: tuple[Any, ...] = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED: tuple[Any, ...] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_MAXIMUM: tuple[Any, ...] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_MEAN: tuple[Any, ...] = (F.avg_pool1d, F.avg_pool2d)


@promoted
def convolution(
    x: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    stride: int | Sides = 1,
    padding: int | Sides = 0,
    dilation: int | Sides = 1,
    groups: int = 1,
    impl: str = "auto",
) -> Tensor:
    """Weighted sum over channels and a window: a cross-correlation, zeros outside (OFF18 §4.1, RF19 §4, AF18 §3.1).

    Shapes: x (N, C, *space) with 1 to 3 space axes, weight (O, C/groups, *kernel), bias (O,) -> (N, O, *space'), on
    each space' = 1 + floor((space + 2 padding - dilation (kernel - 1) - 1) / stride). Options: one for all axes, or a
    tuple.
    Raises TypeError or ValueError for dtypes, devices, shapes, options, `impl`, or a kernel larger than the padded x.
    """
    name = "layers.convolution"
    axes = space(x, stride, padding, dilation)
    given = tensors(name, impl, **patterns(axes, x=(x, "N C *"), weight=(weight, "O I K*"), bias=(bias, "O?")))
    step = per_axis(name, "stride", stride, len(axes), 1)
    pad = per_axis(name, "padding", padding, len(axes))
    gap = per_axis(name, "dilation", dilation, len(axes), 1)
    convolved(name, x, weight, groups, pad, gap)
    y = _CONVOLUTION[len(axes) - 1](*given, stride=step, padding=pad, dilation=gap, groups=groups)
    return y.to(x.dtype)


@promoted
def transposed_convolution(
    x: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    stride: int | Sides = 1,
    padding: int | Sides = 0,
    output_padding: int | Sides = 0,
    groups: int = 1,
    impl: str = "auto",
) -> Tensor:
    """The adjoint of `convolution` with the same weight, stride, padding and groups, plus a bias (AF18 §3.1).

    Shapes: x (N, C, *space), weight (C, O/groups, *kernel), bias (O,) -> (N, O, *space'), space' = (space - 1) stride +
    kernel - 2 padding + output_padding. output_padding, less than the stride, chooses among the sides of which
    `convolution` makes the same.
    Raises TypeError or ValueError for dtypes, devices, shapes, options, `impl`, or no side left.
    """
    name = "layers.transposed_convolution"
    axes = space(x, stride, padding, output_padding)
    given = tensors(name, impl, **patterns(axes, x=(x, "N C *"), weight=(weight, "C O K*"), bias=(bias, "B?")))
    step = per_axis(name, "stride", stride, len(axes), 1)
    pad = per_axis(name, "padding", padding, len(axes))
    more = per_axis(name, "output_padding", output_padding, len(axes))
    transposed(name, x, weight, bias, groups, step, pad, more)
    y = _TRANSPOSED[len(axes) - 1](*given, stride=step, padding=pad, output_padding=more, groups=groups)
    return y.to(x.dtype)


@promoted
def batch_norm(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    impl: str = "auto",
) -> Tensor:
    """Batch normalisation by given statistics: weight (x - mean) / sqrt(var + eps) + bias for each channel (OFF18 §4).

    Shapes: x (N, C, *space), the others (C,) -> the shape of x. All have derivatives, the statistics too.
    Raises TypeError or ValueError for dtypes, devices, shapes, eps or `impl`.
    """
    name = "layers.batch_norm"
    wanted = patterns(
        space(x), x=(x, "N C *"), mean=(mean, "C"), var=(var, "C"), weight=(weight, "C?"), bias=(bias, "C?")
    )
    given = dict(zip(wanted, tensors(name, impl, **wanted), strict=True))
    positive(name, "eps", eps)
    a = given.pop("x")
    mean, var = given["mean"], given["var"]
    # torch's own has no derivative by the statistics, forward or backward.
    if not (transforming() or (torch.is_grad_enabled() and (mean.requires_grad or var.requires_grad))):
        return F.batch_norm(a, mean, var, given.get("weight"), given.get("bias"), eps=eps).to(x.dtype)
    scale = torch.rsqrt(var + eps) * given.get("weight", 1.0)
    shift = given.get("bias", 0.0) - mean * scale
    per_channel = (-1, *[1] * (a.ndim - 2))
    return torch.addcmul(shift.reshape(per_channel), a, scale.reshape(per_channel)).to(x.dtype)  # once over x


@promoted
def max_pool(
    x: Tensor,
    size: int | Sides,
    *,
    stride: int | Sides | None = None,
    padding: int | Sides = 0,
    ceil_mode: bool = False,
    impl: str = "auto",
) -> Tensor:
    """The maximum over a window; what lies outside x never wins (OFF18 §4.1, RF19 §4).

    Shapes: x (N, C, *space) with 1 to 3 space axes -> (N, C, *space'), space' = 1 + floor((space + 2 padding - size) /
    stride); `ceil_mode=True`: rounded up, but no window begins behind x. `stride=None`: the size. padding is at most
    half of the size. Of equal maxima the first, in the order of rows, has the derivative. NaN stays.
    Raises TypeError or ValueError for dtypes, shapes, options, `impl`, or no window that fits.
    """
    (a,) = tensors("layers.max_pool", impl, **patterns(space(x, size, stride, padding), x=(x, "N C *")))
    size, step, pad = pooled("layers.max_pool", x, size, stride, padding, ceil_mode)
    return _MAXIMUM[len(size) - 1](a, size, step, pad, ceil_mode=ceil_mode).to(x.dtype)


@promoted
def average_pool(
    x: Tensor,
    size: int | Sides,
    *,
    stride: int | Sides | None = None,
    padding: int | Sides = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    impl: str = "auto",
) -> Tensor:
    """The mean over a window; zeros outside x count within `padding`, unless `count_include_pad=False` (OFF18 §4.1).

    Shapes: as `max_pool`. Where `ceil_mode` lets a window end beyond the padding, what is there never counts.
    Raises TypeError or ValueError for dtypes, shapes, options, `impl`, or no window that fits.
    """
    (a,) = tensors("layers.average_pool", impl, **patterns(space(x, size, stride, padding), x=(x, "N C *")))
    size, step, pad = pooled("layers.average_pool", x, size, stride, padding, ceil_mode)
    if len(size) < 3:
        return _MEAN[len(size) - 1](a, size, step, pad, ceil_mode, count_include_pad).to(x.dtype)
    # avg_pool3d refuses a side below the size. A mean over a box is one of means, also at the border.
    a = F.avg_pool2d(a.flatten(1, 2), size[1:], step[1:], pad[1:], ceil_mode, count_include_pad)
    a, sides = a.unflatten(1, x.shape[1:3]).flatten(3), a.shape[2:]
    a = F.avg_pool2d(a, (size[0], 1), (step[0], 1), (pad[0], 0), ceil_mode, count_include_pad)
    return a.unflatten(3, sides).to(x.dtype)


@promoted
def linear(x: Tensor, weight: Tensor, *, bias: Tensor | None = None, impl: str = "auto") -> Tensor:
    """A fully connected layer (OFF18 §4.1): x (N, I), weight (O, I), bias (O,) -> (N, O).

    Raises TypeError or ValueError for dtypes, devices, shapes or `impl`.
    """
    wanted = patterns((), x=(x, "N I"), weight=(weight, "O I"), bias=(bias, "O?"))
    return F.linear(*tensors("layers.linear", impl, **wanted)).to(x.dtype)


@promoted
def softmax(x: Tensor, *, axis: int = 1, impl: str = "auto") -> Tensor:
    """Positive numbers that sum to 1 along any axis but the first, in the ratios of the exponentials (OFF18 §4.2).

    Shapes: x (N, ...), two axes or more -> the same.
    Raises TypeError or ValueError for dtypes, shapes, an axis that x does not have, or `impl`.
    """
    (a,) = tensors("layers.softmax", impl, x=(x, along("layers.softmax", x, axis)))
    return a.softmax(axis).to(x.dtype)
