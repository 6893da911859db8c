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
from motionspec.ops.compiled import apart, kernel, operator, part, share
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


@part
def _rows(f, g, at, end, above, below, nothing, middle, down, across):
    """Of the elements from `at` to `end` the sums down the columns of `f`, and the differences down those of `g`.

    Of the rows above and below them, False is outside the map, where all is 0.
    """
    row, low, high = nothing.size, at if above else at + nothing.size, end if below else end - nothing.size
    if low < high:
        i, k = low - at, high - at
        _sums(down[i:k], f[low - row : high - row], f[low:high], f[low + row : high + row], middle)
        _differences(across[i:k], g[low + row : high + row], g[low - row : high - row])
    if not above:
        only = end == at + row and not below
        _sums(down[:row], nothing, f[at : at + row], nothing if only else f[at + row : at + 2 * row], middle)
        _differences(across[:row], nothing if only else g[at + row : at + 2 * row], nothing)
    if not below and (above or end > at + row):
        i, k = end - at - row, end - at
        _sums(down[i:k], f[end - 2 * row : end - row], f[end - row : end], nothing, middle)
        _differences(across[i:k], nothing, g[end - 2 * row : end - row])


@part
def _along(x, y, down, across, row, step, middle):
    """Differences along the rows of `down`, which begins a step after its buffer, into x; sums of `across` into y."""
    n, zero = x.size, x.dtype.type(0)
    _differences(x, down[:n], down[2 * step :])
    _sums(y, across[:n], across[step:], across[2 * step :], middle)
    for k in range(0, n, row):  # what was taken from the rows' neighbours
        for left in range(k, k + step):
            right, wide = left + row - step, row > step
            x[left] = down[left + 2 * step] if wide else zero
            x[right] = -down[right] if wide else zero
            y[left] = middle * across[left + step] + (across[left + 2 * step] if wide else zero)
            y[right] = middle * across[right + step] + (across[right] if wide else zero)


@kernel
def _spatial(f, Fx, Fy, H, rows, row, step, middle, low, high):
    """Of planes that lie one after the other, as those of `f` do."""
    down, across = np.zeros(rows * row + 2 * step, f.dtype), np.zeros(rows * row + 2 * step, f.dtype)
    nothing, bands = np.zeros(row, f.dtype), (H + rows - 1) // rows
    for piece in range(low, high):
        plane, first = piece // bands, piece % bands * rows
        last = min(first + rows, H)
        at, end = (plane * H + first) * row, (plane * H + last) * row
        _rows(f, f, at, end, first > 0, last < H, nothing, middle, down[step:], across[step:])
        _along(Fx[at:end], Fy[at:end], down, across, row, step, middle)


@kernel
def _spatial_adjoint(Fx, Fy, out, H, rows, row, step, middle, low, high):
    """The kernels are odd, so the adjoint of each is itself with the other sign."""
    down, across = np.zeros(rows * row + 2 * step, out.dtype), np.zeros(rows * row + 2 * step, out.dtype)
    nothing, bands, y = np.zeros(row, out.dtype), (H + rows - 1) // rows, np.zeros(rows * row, out.dtype)
    for piece in range(low, high):
        plane, first = piece // bands, piece % bands * rows
        last = min(first + rows, H)
        at, end = (plane * H + first) * row, (plane * H + last) * row
        _rows(Fx, Fy, at, end, first > 0, last < H, nothing, middle, down[step:], across[step:])
        x = out[at:end]
        _along(x, y[: end - at], down, across, row, step, middle)
        for j in range(x.size):
            x[j] = -(x[j] + y[j])


@kernel
def _forward(f, g, out, planes, frames, pairs, H, rows, groups, length, last, middle, low, high):
    """The frames of `f` are the earlier ones, those of `g` the later; `frames` to a plane."""
    row, step = groups * length, length if last else 1
    few = 1 if last else max(_CHUNK // row, 1)  # rows that are walked as one
    down, across = np.zeros(few * row + 2 * step, f.dtype), np.zeros(few * row + 2 * step, f.dtype)
    nothing = np.zeros(row, f.dtype)
    for piece in range(low, high):
        plane, first, end, begin, wide, block = _place(piece, planes, pairs, H, rows, row, length, last)
        for t in range(pairs):
            for y in range(first, end, few):
                below = min(y + few, end)
                at = ((plane * frames + t) * H + y) * row
                to, place = at + (below - y) * row, begin + (t * H + y) * wide
                _rows(f, f, at, to, y > 0, below < H, nothing, middle, down[step:], across[step:])
                if not last:
                    n = to - at
                    dx, dy = out[place : place + n], out[place + block : place + block + n]
                    _along(dx, dy, down, across, row, step, middle)
                    _differences(out[place + 2 * block : place + 2 * block + n], f[at:to], g[at:to])
                for i in range(0, row if last else 0, length):  # pixel by pixel
                    k = place + 3 * i
                    _differences(out[k : k + length], down[i : i + length], down[i + 2 * step :])
                    dy, left = out[k + block : k + block + length], across[i:]
                    _sums(dy, left, left[step:], left[2 * step :], middle)
                    _differences(out[k + 2 * block : k + 2 * block + length], f[at + i :], g[at + i :])


@kernel
def _adjoint(grad, out, planes, pairs, H, rows, groups, length, last, middle, low, high):
    """Of each frame. The printed kernels are odd, so the adjoint of each is itself with the other sign."""
    row, step = groups * length, length if last else 1
    nothing = np.zeros(length, out.dtype)
    down, across = np.zeros(row + 2 * step, out.dtype), np.zeros(row + 2 * step, out.dtype)
    for piece in range(low, high):
        plane, first, end, begin, wide, block = _place(piece, planes, pairs, H, rows, row, length, last)
        for t in range(pairs + 1):
            if t == pairs:  # no pair has it as the earlier frame
                down[:], across[:] = out.dtype.type(0), out.dtype.type(0)
            for y in range(first, end):
                at = ((plane * (pairs + 1) + t) * H + y) * row
                for q in range(groups):
                    place = begin + (t * H + y) * wide + q * 3 * length
                    if t < pairs:
                        here = grad[place:]
                        above = grad[place - wide :] if y > 0 else nothing
                        below = grad[place + wide :] if y < H - 1 else nothing
                        total = down[step + q * length :]
                        for e in range(length):
                            total[e] = above[e] + middle * here[e] + below[e]
                        above = grad[place + block - wide :] if y > 0 else nothing
                        below = grad[place + block + wide :] if y < H - 1 else nothing
                        total = across[step + q * length :]
                        for e in range(length):
                            total[e] = above[e] - below[e]
                    now = grad[place + 2 * block :] if t < pairs else nothing
                    before = grad[place + 2 * block - H * wide :] if t > 0 else nothing
                    d = out[at + q * length : at + (q + 1) * length]
                    for e in range(length):
                        d[e] = before[e] - now[e]
                d = out[at : at + row]
                for j in range(row):
                    d[j] -= down[j + 2 * step] - down[j]
                for j in range(row):
                    d[j] -= across[j] + middle * across[j + step] + across[j + 2 * step]


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
