"""Layers of the papers' networks: convolution, normalisation, pooling, classifier (OFF18 §4.1, RF19 §4, AF18 §3.1).

Arrays are (N, C, *space) with one to three space axes: (W), (H, W) or (T, H, W). An option such as `stride` is one
number for all of them, or a tuple.
"""

import math

import numpy as np

from motionspec.checks import along, convolved, message, patterns, per_axis, pooled, positive, space, transposed
from motionspec.refimpl.checks import Array, arrays

Sides = tuple[int, ...]


def convolution(
    x: Array,
    weight: Array,
    *,
    bias: Array | None = None,
    stride: int | Sides = 1,
    padding: int | Sides = 0,
    dilation: int | Sides = 1,
    groups: int = 1,
) -> Array:
    """Weighted sum over channels and a window: a cross-correlation, which the field and torch call convolution.

    Equation: y[n, o, p] = bias[o] + sum over i, k of weight[o, i, k] x[n, i, stride p + dilation k - padding]; the
        papers take it as known. With `groups`, the channels of x and y are cut into that many equal blocks, and a block
        of y sees its block of x alone.
    Shapes: x (N, C, *space), weight (O, C/groups, *kernel), bias (O,) -> (N, O, *space'), on each axis space' =
        1 + floor((space + 2 padding - dilation (kernel - 1) - 1) / stride).
    Units: those of x times those of weight, and of bias.
    Border: zeros outside x; the first window begins `padding` before it, the last ends at most as far behind it.
    Kinks: none, it is linear in each argument.
    Deviations: none known.
    Raises: TypeError or ValueError for dtypes, shapes, options, a kernel larger than the padded x, or values that are
        not finite.
    """
    name = "layers.convolution"
    axes = space(x, stride, padding, dilation)
    given = arrays(name, **patterns(axes, x=(x, "N C *"), weight=(weight, "O I K*"), bias=(bias, "O?")))
    x, weight = given[:2]
    step = per_axis(name, "stride", stride, len(axes), 1)
    pad = per_axis(name, "padding", padding, len(axes))
    gap = per_axis(name, "dilation", dilation, len(axes), 1)
    convolved(name, x, weight, groups, pad, gap)
    (O, I), kernel = weight.shape[:2], weight.shape[2:]  # noqa: E741
    x = _padded(x, pad, pad, 0.0)
    out = tuple(1 + (side - d * (k - 1) - 1) // s for side, k, s, d in zip(x.shape[2:], kernel, step, gap, strict=True))
    y = np.zeros((len(x), groups, O // groups, math.prod(out)))
    for k in np.ndindex(kernel):
        w = weight[:, :, *k].reshape(groups, O // groups, I)
        y += w @ _window(x, k, out, step, gap).reshape(len(x), groups, I, math.prod(out))
    return _plus(y.reshape(len(x), O, *out), given[2:])


def transposed_convolution(
    x: Array,
    weight: Array,
    *,
    bias: Array | None = None,
    stride: int | Sides = 1,
    padding: int | Sides = 0,
    output_padding: int | Sides = 0,
    groups: int = 1,
) -> Array:
    """The adjoint of `convolution` with the same weight, stride, padding and groups, plus a bias: "deconvolution".

    Equation: y[n, o, stride p + k - padding] = bias[o] + the sum over i, p, k that meet there of weight[i, o, k]
        x[n, i, p]; AF18 §3.1 takes it as known. `groups` as in `convolution`.
    Shapes: x (N, C, *space), weight (C, O/groups, *kernel), bias (O,) -> (N, O, *space'), on each axis space' =
        (space - 1) stride + kernel - 2 padding + output_padding, at least 1.
    Units: those of x times those of weight, and of bias.
    Border: `padding` pixels are cut off before, padding - output_padding behind; where that is below 0, pixels that no
        window reaches are added. output_padding, less than the stride, chooses among the sides of which `convolution`
        makes the same.
    Kinks: none, it is linear in each argument.
    Deviations: none known.
    Raises: TypeError or ValueError for dtypes, shapes, options, no side left, or values that are not finite.
    """
    name = "layers.transposed_convolution"
    axes = space(x, stride, padding, output_padding)
    given = arrays(name, **patterns(axes, x=(x, "N C *"), weight=(weight, "C O K*"), bias=(bias, "B?")))
    x, weight = given[:2]
    step = per_axis(name, "stride", stride, len(axes), 1)
    pad = per_axis(name, "padding", padding, len(axes))
    more = per_axis(name, "output_padding", output_padding, len(axes))
    out = transposed(name, x, weight, bias, groups, step, pad, more)
    (N, C), sides, O, kernel = x.shape[:2], x.shape[2:], weight.shape[1], weight.shape[2:]  # noqa: E741
    y = np.zeros((N, groups * O, *(side + 2 * p for side, p in zip(out, pad, strict=True))))
    for k in np.ndindex(kernel):
        w = weight[:, :, *k].reshape(groups, C // groups, O).swapaxes(1, 2)
        each = w @ x.reshape(N, groups, C // groups, math.prod(sides))
        _window(y, k, sides, step)[...] += each.reshape(N, groups * O, *sides)
    inside = tuple(slice(p, p + side) for p, side in zip(pad, out, strict=True))
    return _plus(y[:, :, *inside], given[2:])


def batch_norm(
    x: Array, mean: Array, var: Array, *, weight: Array | None = None, bias: Array | None = None, eps: float = 1e-5
) -> Array:
    """Batch normalisation by given statistics, as in inference and where it is frozen.

    Equation: y = weight (x - mean) / sqrt(var + eps) + bias, for each channel.
    Shapes: x (N, C, *space), the others (C,) -> the shape of x. Without weight it is 1, without bias 0.
    Units: those of weight, and of bias; var has those of x squared, and so has eps.
    Border: none.
    Kinks: none.
    Deviations: none known. The variance that torch stores is the unbiased one of its batches.
    Raises: TypeError or ValueError for dtypes, shapes, eps, a var below 0, or values that are not finite.
    """
    name = "layers.batch_norm"
    wanted = patterns(
        space(x), x=(x, "N C *"), mean=(mean, "C"), var=(var, "C"), weight=(weight, "C?"), bias=(bias, "C?")
    )
    given = dict(zip(wanted, arrays(name, **wanted), strict=True))
    positive(name, "eps", eps)
    if given["var"].min() < 0:
        raise ValueError(message(name, "var", "values of at least 0", given["var"].min()))
    x = given.pop("x")
    c = {word: array.reshape(-1, *[1] * (x.ndim - 2)) for word, array in given.items()}
    return c.get("weight", np.ones(1)) * (x - c["mean"]) / np.sqrt(c["var"] + eps) + c.get("bias", np.zeros(1))


def max_pool(
    x: Array,
    size: int | Sides,
    *,
    stride: int | Sides | None = None,
    padding: int | Sides = 0,
    ceil_mode: bool = False,
) -> Array:
    """The maximum over a window.

    Equation: y[p] = max over 0 <= k < size of x[stride p + k - padding].
    Shapes: x (N, C, *space) -> (N, C, *space'), on each axis space' = 1 + floor((space + 2 padding - size) / stride);
        `ceil_mode=True`: rounded up, but a window that would begin behind x (and its padding before it) is left out.
        `stride=None`: the size. padding is at most half of the size.
    Units: those of x.
    Border: what lies outside x never wins.
    Kinks: of equal maxima the first, in the order of rows, has the derivative 1, the others 0.
    Deviations: Caffe, in which OFF18's networks were written, always rounds up; torch does not unless told.
    Raises: TypeError or ValueError for dtypes, shapes, options, no window that fits, or values that are not finite.
    """
    name = "layers.max_pool"
    (x,) = arrays(name, **patterns(space(x, size, stride, padding), x=(x, "N C *")))
    size, step, pad = pooled(name, x, size, stride, padding, ceil_mode)
    out, behind = _pooling(x, size, step, pad, ceil_mode)
    x = _padded(x, pad, behind, -np.inf)
    return np.max([_window(x, k, out, step) for k in np.ndindex(size)], axis=0)


def average_pool(
    x: Array,
    size: int | Sides,
    *,
    stride: int | Sides | None = None,
    padding: int | Sides = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """The mean over a window.

    Equation: y[p] = sum over 0 <= k < size of x[stride p + k - padding], over how many count.
    Shapes: as `max_pool`.
    Units: those of x.
    Border: zeros outside x. Those within `padding` of it count unless `count_include_pad=False`; those still farther
        out, where `ceil_mode` lets a window end, never do.
    Kinks: none, it is linear.
    Deviations: none known: Caffe and torch count alike by default.
    Raises: TypeError or ValueError for dtypes, shapes, options, no window that fits, or values that are not finite.
    """
    name = "layers.average_pool"
    (x,) = arrays(name, **patterns(space(x, size, stride, padding), x=(x, "N C *")))
    size, step, pad = pooled(name, x, size, stride, padding, ceil_mode)
    out, behind = _pooling(x, size, step, pad, ceil_mode)
    counts = _padded(np.ones((1, 1, *x.shape[2:])), pad, pad, float(count_include_pad))
    counts = _padded(counts, (0,) * len(pad), tuple(b - p for b, p in zip(behind, pad, strict=True)), 0.0)
    x = _padded(x, pad, behind, 0.0)
    total, count = (np.sum([_window(a, k, out, step) for k in np.ndindex(size)], axis=0) for a in (x, counts))
    return total / count


def linear(x: Array, weight: Array, *, bias: Array | None = None) -> Array:
    """A fully connected layer.

    Equation: y[n, o] = bias[o] + sum over i of weight[o, i] x[n, i].
    Shapes: x (N, I), weight (O, I), bias (O,) -> (N, O).
    Units: those of x times those of weight, and of bias.
    Border: none.
    Kinks: none, it is linear in each argument.
    Deviations: none known.
    Raises: TypeError or ValueError for dtypes, shapes, or values that are not finite.
    """
    x, weight, *given = arrays("layers.linear", **patterns((), x=(x, "N I"), weight=(weight, "O I"), bias=(bias, "O?")))
    return _plus(x @ weight.T, given)


def softmax(x: Array, *, axis: int = 1) -> Array:
    """Positive numbers that sum to 1 along an axis, in the ratios of the exponentials.

    Equation: y[i] = exp(x[i]) / sum over j of exp(x[j]).
    Shapes: x (N, ...), two axes or more -> the same. axis: any but the first, counted as NumPy does.
    Units: none.
    Border: none.
    Kinks: none.
    Deviations: none known.
    Raises: TypeError or ValueError for dtypes, shapes, an axis that x does not have, or values that are not finite.
    """
    (x,) = arrays("layers.softmax", x=(x, along("layers.softmax", x, axis)))
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


# -- windows -----------------------------------------------------------------------------------------------------------


def _padded(x: Array, before: Sides, behind: Sides, value: float) -> Array:
    """x (N, C, *space) with so much of `value` around it."""
    return np.pad(x, ((0, 0), (0, 0), *zip(before, behind, strict=True)), constant_values=value)


def _window(x: Array, k: Sides, out: Sides, step: Sides, gap: Sides | None = None) -> Array:
    """What the `out` windows of x (N, C, *space) see at offset k of each: x[step p + gap k], a view."""
    gap = gap or (1,) * len(k)
    seen = (slice(d * i, d * i + s * (n - 1) + 1, s) for i, n, s, d in zip(k, out, step, gap, strict=True))
    return x[:, :, *seen]


def _pooling(x: Array, size: Sides, step: Sides, pad: Sides, ceil_mode: bool) -> tuple[Sides, Sides]:
    """How many windows, and what is to be padded behind x for the last of them, `pad` at least."""
    out, behind = [], []
    for side, k, s, p in zip(x.shape[2:], size, step, pad, strict=True):
        steps = side + 2 * p - k
        n = 1 + (-(-steps // s) if ceil_mode else steps // s)
        if (n - 1) * s >= p + side:
            n -= 1  # it would begin behind x
        out.append(n)
        behind.append(max(p, (n - 1) * s + k - p - side))
    return tuple(out), tuple(behind)


def _plus(y: Array, bias: list[Array]) -> Array:
    """y (N, O, ...) plus a bias (O,), if there is one."""
    return y + bias[0].reshape(-1, *[1] * (y.ndim - 2)) if bias else y
