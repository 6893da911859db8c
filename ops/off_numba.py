"""CPU kernels of `off.spatial_gradient`, `off.features` and `off.clip_features` by numba; imported on first use.

Forward and adjoint are bound by bytes: each row comes from memory once, and from the cache for its neighbours; sums and
differences down the columns stay there too. Memory is walked as it lies, W innermost or C (channels-last), and the
result lies as the input does. What lies otherwise is copied first.
"""

import math
from typing import Any

import numpy as np
from torch import Tensor

from motionspec.ops.checks import widened
from motionspec.ops.compiled import apart, copy, kernel, operator, part, share
from motionspec.ops.off import register, register_spatial

# Elements of the rows that a piece of work takes of a frame: they stay in the cache until the next frame needs them.
_BAND = 2**15
_CHUNK = 2**11  # elements of the rows that the gradient of one map takes at a time
_ELEMENTS = 1.5e4  # that a thread writes, at least

# How memory lies: `planes` to a sample, taken by so many `rows` of `groups` times `length` elements. With W innermost a
# plane is a channel, a row one group, a step to the right one element. With C innermost, `last`, there is one plane, a
# group is a pixel and a step to the right; the three blocks of a pixel stand together in `out` and in its gradient.


@part
def _place(piece, planes, pairs, H, rows, row, length, last):
    """Plane, first row and the one after the last; where the plane begins in `out`, from row to row and block there."""
    bands = (H + rows - 1) // rows
    plane, first = piece // bands, piece % bands * rows
    begin = (plane // planes * 3 * planes + plane % planes) * pairs * H * row
    wide, block = (3 * row, length) if last else (row, planes * pairs * H * row)
    return plane, first, min(first + rows, H), begin, wide, block


# Rows of one plane are walked as one: a loop over a short row leaves much of it to single elements.


@apart
def _sums(out, before, here, after, middle):
    for j in range(out.size):
        out[j] = before[j] + middle * here[j] + after[j]


@apart
def _differences(out, before, after):
    for j in range(out.size):
        out[j] = after[j] - before[j]


# Values: differences first, as in eager PyTorch, for a sum of three may leave the range of the type. Gradients: added
# in the order of its backward pass. So both are finite where those of eager PyTorch are.


@part
def _drops(out, f, at, end, above, below, nothing):
    """Differences down the columns, of the rows from `at` to `end`.

    Of the rows above and below them, False is outside the map, where all is 0.
    """
    row = nothing.size
    low, high = at if above else at + row, end if below else end - row
    if low < high:
        _differences(out[low - at : high - at], f[low + row : high + row], f[low - row : high - row])
    if not above:
        only = end == at + row and not below
        _differences(out[:row], nothing if only else f[at + row : at + 2 * row], nothing)
    if not below and (above or end > at + row):
        _differences(out[end - at - row : end - at], nothing, f[end - 2 * row : end - row])


@part
def _totals(out, f, at, end, above, below, nothing, middle):
    """Sums down the columns, otherwise as `_drops`."""
    row = nothing.size
    low, high = at if above else at + row, end if below else end - row
    if low < high:
        _sums(out[low - at : high - at], f[low - row : high - row], f[low:high], f[low + row : high + row], middle)
    if not above:
        only = end == at + row and not below
        _sums(out[:row], nothing, f[at : at + row], nothing if only else f[at + row : at + 2 * row], middle)
    if not below and (above or end > at + row):
        _sums(out[end - at - row : end - at], f[end - 2 * row : end - row], f[end - row : end], nothing, middle)


@part
def _steps_along(x, a, row, step):
    """Differences along the rows of `a`."""
    n, two, zero = x.size, 2 * step, x.dtype.type(0)
    if n > two:
        _differences(x[step : n - step], a[: n - two], a[two:n])
    for k in range(0, n, row):  # what was taken from the rows' neighbours
        for left in range(k, k + step):
            right, wide = left + row - step, row > step
            x[left] = a[left + step] if wide else zero
            x[right] = -a[right - step] if wide else zero


@part
def _sums_along(y, a, row, step, middle):
    """Sums along the rows of `a`."""
    n, two, zero = y.size, 2 * step, y.dtype.type(0)
    if n > two:
        _sums(y[step : n - step], a[: n - two], a[step : n - step], a[two:n], middle)
    for k in range(0, n, row):  # what was taken from the rows' neighbours
        for left in range(k, k + step):
            right, wide = left + row - step, row > step
            y[left] = middle * a[left] + (a[left + step] if wide else zero)
            if wide:
                y[right] = a[right - step] + middle * a[right]


@part
def _with_neighbours(buffer, n, row, above, below):
    """From where to where n elements and the rows above and below them are within the map; 0 what is not."""
    if not above:
        buffer[:row] = buffer.dtype.type(0)
    if not below:
        buffer[row + n : 2 * row + n] = buffer.dtype.type(0)
    return 0 if above else row, n + (2 * row if below else row)


@part
def _gradient(x, y, f, at, above, below, nothing, step, middle, steps, across):
    """Both derivatives of the rows of `f` from `at`; steps, across: to work in, `steps` with two rows more."""
    n, row = x.size, nothing.size
    begin, stop = _with_neighbours(steps, n, row, above, below)
    _steps_along(steps[begin:stop], f[at - row + begin : at - row + stop], row, step)
    _sums(x, steps, steps[row:], steps[2 * row :], middle)
    _drops(across, f, at, at + n, above, below, nothing)
    _sums_along(y, across[:n], row, step, middle)


@kernel
def _spatial(f, Fx, Fy, H, rows, row, step, middle, low, high):
    """Of planes that lie one after the other, as those of `f` do."""
    steps, across = np.zeros((rows + 2) * row, f.dtype), np.zeros(rows * row, f.dtype)
    nothing, bands = np.zeros(row, f.dtype), (H + rows - 1) // rows
    for piece in range(low, high):
        plane, first = piece // bands, piece % bands * rows
        last = min(first + rows, H)
        at, end = (plane * H + first) * row, (plane * H + last) * row
        _gradient(Fx[at:end], Fy[at:end], f, at, first > 0, last < H, nothing, step, middle, steps, across)


@apart
def _less(out, above, below, left, right):
    for j in range(out.size):
        out[j] = ((below[j] - above[j]) - right[j]) + left[j]


@part
def _back(out, Fx, at, Fy, over, above, below, nothing, step, middle, sums, down):
    """The adjoint of `_gradient`, of the rows of Fx from `at` and of Fy from `over`.

    The kernels are odd, so the adjoint of each is itself with the other sign.
    """
    n, row = out.size, nothing.size
    begin, stop = _with_neighbours(sums, n, row, above, below)
    _sums_along(sums[begin:stop], Fy[over - row + begin : over - row + stop], row, step, middle)
    _totals(down, Fx, at, at + n, above, below, nothing, middle)
    if n > 2 * step:
        _less(out[step : n - step], sums[step:], sums[2 * row + step :], down, down[2 * step :])
    for k in range(0, n, row):  # what was taken from the rows' neighbours
        for left in range(k, k + step):
            right, wide = left + row - step, row > step
            out[left] = sums[2 * row + left] - sums[left]
            if wide:
                out[left] -= down[left + step]
                out[right] = (sums[2 * row + right] - sums[right]) + down[right - step]


@kernel
def _spatial_adjoint(Fx, Fy, out, H, rows, row, step, middle, low, high):
    sums, down = np.zeros((rows + 2) * row, out.dtype), np.zeros(rows * row, out.dtype)
    nothing, bands = np.zeros(row, out.dtype), (H + rows - 1) // rows
    for piece in range(low, high):
        plane, first = piece // bands, piece % bands * rows
        last = min(first + rows, H)
        at, end = (plane * H + first) * row, (plane * H + last) * row
        _back(out[at:end], Fx, at, Fy, at, first > 0, last < H, nothing, step, middle, sums, down)


# Where C is innermost the blocks of a pixel stand together: rows are walked one by one, and what is between their
# pixels left out. What a row's neighbours need of it is kept, three rows of it.


@part
def _pixels(out, f, g, at, y, H, length, begun, nothing, middle, steps, buffer):
    """All of row y, which begins at `at`; `begun` if the row above was the last one."""
    row = nothing.size
    for k in range(1 if begun else -1, 2):
        if y + k >= 0 and y + k < H:
            _steps_along(steps[(y + k) % 3], f[at + k * row : at + (k + 1) * row], row, length)
        else:
            steps[(y + k) % 3] = f.dtype.type(0)
    above, here, below = steps[(y + 2) % 3], steps[y % 3], steps[(y + 1) % 3]
    _drops(buffer[length:], f, at, at + row, y > 0, y < H - 1, nothing)
    for i in range(0, row, length):
        pixel, left = out[3 * i : 3 * i + 3 * length], buffer[i:]
        _sums(pixel[:length], above[i:], here[i:], below[i:], middle)
        _sums(pixel[length : 2 * length], left, left[length:], left[2 * length :], middle)
        _differences(pixel[2 * length :], f[at + i :], g[at + i :])


@kernel
def _forward(f, g, out, planes, frames, pairs, H, rows, groups, length, last, middle, low, high):
    """The frames of `f` are the earlier ones, those of `g` the later; `frames` to a plane."""
    row, step = groups * length, length if last else 1
    few = 1 if last else max(_CHUNK // row, 1)  # rows that are walked as one
    steps, across = np.zeros((few + 2) * row, f.dtype), np.zeros(few * row + 2 * step, f.dtype)
    three, nothing = steps[: 3 * row].reshape((3, row)), np.zeros(row, f.dtype)
    for piece in range(low, high):
        plane, first, end, begin, wide, block = _place(piece, planes, pairs, H, rows, row, length, last)
        for t in range(pairs):
            for y in range(first, end, few):
                below = min(y + few, end)
                at = ((plane * frames + t) * H + y) * row
                n, place = (below - y) * row, begin + (t * H + y) * wide
                if last:
                    pixels = out[place : place + wide]
                    _pixels(pixels, f, g, at, y, H, length, y > first, nothing, middle, three, across)
                else:
                    dx, dy = out[place : place + n], out[place + block : place + block + n]
                    _gradient(dx, dy, f, at, y > 0, below < H, nothing, step, middle, steps, across)
                    _differences(out[place + 2 * block : place + 2 * block + n], f[at : at + n], g[at : at + n])


@part
def _line(to, Fy, groups, length, middle, buffer):
    """Sums along x of one row of the gradient of Fy, or 0."""
    for q in range(groups):
        copy(buffer[(q + 1) * length : (q + 2) * length], Fy[q * 3 * length :])
    _sums(to, buffer, buffer[length:], buffer[2 * length :], middle)


@part
def _pixels_back(out, grad, place, y, H, wide, length, begun, nothing, middle, sums, down, buffer):
    """`_back` of row y, whose gradient begins at `place`; `begun` if the row above was the last one."""
    groups = out.size // length
    for k in range(1 if begun else -1, 2):
        if y + k >= 0 and y + k < H:
            _line(sums[(y + k) % 3], grad[place + k * wide + length :], groups, length, middle, buffer)
        else:
            sums[(y + k) % 3] = grad.dtype.type(0)
    for q in range(groups):
        here = grad[place + q * 3 * length :]
        above = grad[place + q * 3 * length - wide :] if y > 0 else nothing
        below = grad[place + q * 3 * length + wide :] if y < H - 1 else nothing
        _sums(down[(q + 1) * length : (q + 2) * length], above, here, below, middle)
    _less(out, sums[(y + 2) % 3], sums[(y + 1) % 3], down, down[2 * length :])


@apart
def _between(out, before, now):
    """The gradient of Ft, of the pair whose later frame it is and of that whose earlier one."""
    for e in range(out.size):
        out[e] = (out[e] - now[e]) + before[e]


@kernel
def _adjoint(grad, out, planes, pairs, H, rows, groups, length, last, middle, low, high):
    """Of each frame."""
    row, step = groups * length, length if last else 1
    few = 1 if last else max(_CHUNK // row, 1)  # rows that are walked as one
    sums, down = np.zeros((few + 2) * row, out.dtype), np.zeros(few * row + 2 * step, out.dtype)
    three, buffer = sums[: 3 * row].reshape((3, row)), np.zeros(row + 2 * step, out.dtype)
    nothing = np.zeros(few * row, out.dtype)
    for piece in range(low, high):
        plane, first, end, begin, wide, block = _place(piece, planes, pairs, H, rows, row, length, last)
        for t in range(pairs + 1):
            for y in range(first, end, few):
                below = min(y + few, end)
                at, place = ((plane * (pairs + 1) + t) * H + y) * row, begin + (t * H + y) * wide
                d, none = out[at : at + (below - y) * row], nothing[:row]
                if t == pairs:  # no pair has it as the earlier frame
                    d[:] = out.dtype.type(0)
                elif last:
                    _pixels_back(d, grad, place, y, H, wide, length, y > first, none, middle, three, down, buffer)
                else:
                    _back(d, grad, place, grad, place + block, y > 0, below < H, none, step, middle, sums, down)
                size = length if last else d.size  # that stand together
                for i in range(0, d.size, size):
                    k = place + 2 * block + 3 * i
                    now = grad[k:] if t < pairs else nothing
                    before = grad[k - H * wide :] if t > 0 else nothing
                    _between(d[i : i + size], before, now)


def _last(tensor: Tensor) -> bool:
    """Whether C is innermost, and W not as well."""
    return tensor.movedim(1, -1).is_contiguous() and not tensor.is_contiguous()


def _flat(tensor: Tensor, last: bool) -> np.ndarray:
    """In the type to compute in and the order to walk in."""
    return (widened(tensor).movedim(1, -1) if last else widened(tensor)).contiguous().view(-1).numpy()


def _empty(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Of that shape, lying as `like` does. Of the input: what that is widened to may lie otherwise."""
    N, C, *others = shape
    return like.new_empty((N, *others, C)).movedim(-1, 1) if _last(like) else like.new_empty(shape)


def _run(run: Any, arrays: tuple[np.ndarray, ...], out: Tensor, C: int, sizes: tuple[int, ...], middle: float) -> None:
    """Share out the planes of N samples of C channels, by bands of rows; `sizes`: what the kernel takes before H."""
    N, *_, H, W = out.shape
    last = _last(out)
    planes, groups, length = (1, W, C) if last else (C, 1, W)
    if out.numel():
        rows = max(_BAND // (groups * length), 1)
        threads = 1 + int(out.numel() / _ELEMENTS)
        constants = (H, rows, groups, length, last, arrays[0].dtype.type(middle))
        share(run, N * planes * math.ceil(H / rows), threads, *arrays, planes, *sizes, *constants)


def _run_spatial(run: Any, *tensors: Tensor, middle: float) -> None:
    """Share out the planes, by bands of rows; all tensors lie alike."""
    (N, C, H, W), last = tensors[0].shape, _last(tensors[0])
    planes, row, step = (N, W * C, C) if last else (N * C, W, 1)
    if planes:
        arrays = [_flat(tensor, last) for tensor in tensors]
        rows, threads = min(max(_CHUNK // row, 1), H), 1 + int(planes * H * row / _ELEMENTS)
        constants = (H, rows, row, step, arrays[0].dtype.type(middle))
        share(run, planes * math.ceil(H / rows), threads, *arrays, *constants)


@operator("motionspec::off_spatial_numba")
def spatial_gradient(f: Tensor, middle: float, named: bool) -> tuple[Tensor, Tensor]:
    """Fx, Fy; `middle` is the weight of the middle line across a derivative."""
    Fx, Fy = (widened(_empty(f, tuple(f.shape))) for _ in range(2))
    _run_spatial(_spatial, f, Fx, Fy, middle=middle)
    return Fx.to(f.dtype), Fy.to(f.dtype)


@operator("motionspec::off_spatial_adjoint_numba")
def spatial_adjoint(Fx: Tensor, Fy: Tensor, middle: float, named: bool) -> Tensor:
    """The gradient of `spatial_gradient`."""
    out = widened(_empty(Fx, tuple(Fx.shape)))
    _run_spatial(_spatial_adjoint, Fx, Fy, out, middle=middle)
    return out.to(Fx.dtype)


@operator("motionspec::off_features_numba")
def features(f_prev: Tensor, f_next: Tensor, middle: float, named: bool) -> Tensor:
    """[Fx | Fy | Ft] of a pair; `middle` is the weight of the middle line across a derivative."""
    N, C, H, W = f_prev.shape
    last = _last(f_prev)
    out = widened(_empty(f_prev, (N, 3 * C, H, W)))
    _run(_forward, (_flat(f_prev, last), _flat(f_next, last), _flat(out, last)), out, C, (1, 1), middle)
    return out.to(f_prev.dtype)


@operator("motionspec::off_clip_features_numba")
def clip_features(clip: Tensor, middle: float, named: bool) -> Tensor:
    """`features` of the T-1 pairs of a clip."""
    N, C, T, H, W = clip.shape
    last = _last(clip)
    f, out = _flat(clip, last), widened(_empty(clip, (N, 3 * C, T - 1, H, W)))
    _run(_forward, (f, f[H * W * (C if last else 1) :], _flat(out, last)), out, C, (T, T - 1), middle)
    return out.to(clip.dtype)


@operator("motionspec::off_adjoint_numba")
def adjoint(grad: Tensor, middle: float, named: bool) -> Tensor:
    """The gradient of `clip_features`: (N, 3C, T-1, H, W) -> (N, C, T, H, W)."""
    N, C3, pairs, H, W = grad.shape
    out = widened(_empty(grad, (N, C3 // 3, pairs + 1, H, W)))
    _run(_adjoint, (_flat(grad, _last(grad)), _flat(out, _last(grad))), out, C3 // 3, (pairs,), middle)
    return out.to(grad.dtype)


register_spatial(spatial_gradient, spatial_adjoint, "numba", _empty)
register(features, clip_features, adjoint, "numba", _empty)
