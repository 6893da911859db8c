"""Kernels of `warp.bilinear`, `warp.motion` and `warp.difference` for the CPU, forward and backward; on first use.

A gather from a plane fetches one number; from channels that lie side by side it fetches a vector. So eight planes at a
time are turned into a map of vectors that the cache holds, with a border of zeros, and what is interpolated there is
turned back. Where a pixel's source lies is computed once for all channels that a thread has of a sample.

The backward pass is the adjoint of each step. A thread scatters into planes of its own and sums its channels' part of
the flow's gradient; the parts, split by the shape alone, are then added in their order: nothing depends on threads.
"""

import functools
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import extending, types
from torch import Tensor

from motionspec.ops.checks import widened
from motionspec.ops.compiled import copy, kernel, operator, part, share
from motionspec.ops.warp import register

# Channels of a vector, where there are so many; few channels have a smaller map of vectors, and kernels of their own.
_LANES = (1, 4, 8)
_TILE = 128  # pixels that are interpolated before they are turned back
_PARTS = 16  # at least so many pieces of work in the backward pass, where there are channels enough


# Vectors in LLVM's own terms, for any processor. An index counts elements of a flat array. The last argument is a tuple
# of as many numbers as a vector has lanes: its length is a type, so each has kernels of its own.

_intrinsic: Any = extending.intrinsic  # its type lacks that a kernel calls without the first argument


def _vectors(context, builder, signature, args):
    """A function that gives the pointer to the vector at an index of an array, the vector type, an element's bytes."""
    element = context.get_data_type(signature.args[0].dtype)
    vector = ir.VectorType(element, signature.args[-1].count)

    def at(k, index):
        array = context.make_array(signature.args[k])(context, builder, args[k])
        return builder.bitcast(builder.gep(array.data, [index]), vector.as_pointer())

    return at, vector, signature.args[0].dtype.bitwidth // 8


def _load(builder, pointer, bytes):
    loaded = builder.load(pointer)
    loaded.align = bytes
    return loaded


def _store(builder, value, pointer, bytes):
    builder.store(value, pointer).align = bytes


def _all(builder, vector, scalar):
    """A vector of that scalar."""
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, one, _lanes([0] * vector.count))


def _lanes(numbers):
    return ir.Constant(ir.VectorType(ir.IntType(32), len(numbers)), numbers)


def _halves(lanes):
    return [half for half in (4, 2, 1) if half < len(lanes)]


def _taps(at, builder, lanes, first, below):
    """Pointers to four neighbours in the first array."""
    right = builder.add(first, ir.Constant(first.type, lanes))
    return [at(0, i) for i in (first, right, builder.add(first, below), builder.add(right, below))]


def _plus(builder, total, scalar, vector):
    """total + scalar * vector; a processor that has it may round once."""
    term = builder.fmul(_all(builder, vector.type, scalar), vector, flags=("contract",))
    return builder.fadd(total, term, flags=("contract",))


def _weighted(builder, at, vector, args, size):
    """a, b, c, d times the four neighbours, added up."""
    total = ir.Constant(vector, [-0.0] * vector.count)
    for pointer, scalar in zip(_taps(at, builder, vector.count, *args[1:3]), args[3:7], strict=True):
        total = _plus(builder, total, scalar, _load(builder, pointer, size))
    return total


@_intrinsic
def _mix(typing, planes, first, below, a, b, c, d, tile, i, lanes):
    """tile[i] = a, b, c, d times the four neighbours."""
    weight, index = planes.dtype, types.intp
    signature = types.void(planes, index, index, weight, weight, weight, weight, tile, index, lanes)

    def code(context, builder, signature, args):
        at, vector, size = _vectors(context, builder, signature, args)
        _store(builder, _weighted(builder, at, vector, args, size), at(7, args[8]), size)
        return context.get_dummy_value()

    return signature, code


@_intrinsic
def _spread(typing, planes, first, below, a, b, c, d, tile, i, lanes):
    """The adjoint of `_mix`: to the four neighbours add a, b, c, d times tile[i]."""
    weight, index = planes.dtype, types.intp
    signature = types.void(planes, index, index, weight, weight, weight, weight, tile, index, lanes)

    def code(context, builder, signature, args):
        at, vector, size = _vectors(context, builder, signature, args)
        value = _load(builder, at(7, args[8]), size)
        for pointer, scalar in zip(_taps(at, builder, vector.count, *args[1:3]), args[3:7], strict=True):
            _store(builder, _plus(builder, _load(builder, pointer, size), scalar, value), pointer, size)
        return context.get_dummy_value()

    return signature, code


@_intrinsic
def _dot(typing, planes, first, below, a, b, c, d, tile, i, lanes):
    """The sum over channels of tile[i] times (a, b, c, d times the four neighbours)."""
    weight, index = planes.dtype, types.intp
    signature = weight(planes, index, index, weight, weight, weight, weight, tile, index, lanes)

    def code(context, builder, signature, args):
        at, vector, size = _vectors(context, builder, signature, args)
        total = _weighted(builder, at, vector, args, size)
        total = builder.fmul(total, _load(builder, at(7, args[8]), size))
        for half in _halves(range(vector.count)):
            first, second = _lanes([*range(half)]), _lanes([*range(half, 2 * half)])
            total = builder.fadd(*(builder.shuffle_vector(total, total, mask) for mask in (first, second)))
        return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

    return signature, code


@_intrinsic
def _turn(typing, source, i, source_step, target, j, target_step, lanes):
    """target[j + k target_step + m] = source[i + m source_step + k] for all lanes k, m."""
    index = types.intp
    signature = types.void(source, index, index, target, index, index, lanes)

    def code(context, builder, signature, args):
        at, _, size = _vectors(context, builder, signature, args)
        lanes = range(signature.args[-1].count)

        def place(array, start, step, k):
            return at(array, builder.add(start, builder.mul(step, ir.Constant(step.type, k))))

        rows = [_load(builder, place(0, args[1], args[2], k), size) for k in lanes]
        for half in _halves(lanes):  # blocks of that size beside the diagonal change places
            upper = _lanes([len(lanes) + m - half if m & half else m for m in lanes])
            lower = _lanes([len(lanes) + m if m & half else m + half for m in lanes])
            for k in (k for k in lanes if not k & half):
                a, b = rows[k], rows[k + half]
                rows[k], rows[k + half] = (builder.shuffle_vector(a, b, mask) for mask in (upper, lower))
        for k in lanes:
            _store(builder, rows[k], place(3, args[4], args[5], k), size)
        return context.get_dummy_value()

    return signature, code


@part
def _sources(flow, n, sign, blend, at, du, dv, lanes):
    """First tap of each pixel in the map of vectors, and weights of the second ones.

    Outside, the taps are four zeros; for NaN too, with the weight NaN.
    """
    _, _, H, W = flow.shape
    real, nan = flow.dtype.type, flow.dtype.type(np.nan)
    zero = real(0)
    for y in range(H):
        us, vs, row = flow[n, 0, y], flow[n, 1, y], slice(y * W, (y + 1) * W)
        ats, dus, dvs = at[row], du[row], dv[row]
        for x in range(W):  # without branches: in vectors
            u, v, px, py = sign * us[x], sign * vs[x], real(x), real(y)
            if blend:  # elsewhere all four taps are outside; at -1 exactly the derivative from above reaches x[0]
                there = (u >= real(-1 - x)) & (u < real(W - x)) & (v >= real(-1 - y)) & (v < real(H - y))
            else:  # decided on the flow itself: the sum p + flow is rounded
                there = (u >= -px) & (u <= real(W - 1 - x)) & (v >= -py) & (v <= real(H - 1 - y))
            number = (u == u) & (v == v)
            u, v = u if there else zero, v if there else zero
            left, up = np.floor(u), np.floor(v)
            if not blend:  # on the last column the taps are W-2 and W-1: the derivative from below
                left -= real(px + left == real(W - 1))
                up -= real(py + up == real(H - 1))
            first = (y + np.int32(up) + 1) * (W + 2) + x + np.int32(left) + 1
            other = zero if number else nan
            ats[x] = (first if there else (H + 1) * (W + 2)) * len(lanes)
            dus[x], dvs[x] = u - left if there else other, v - up if there else other


@part
def _interleave(x, plane, count, pixels, start, number, planes, to, lanes):
    """Turn a run of pixels of some planes into vectors; lanes of no plane are 0."""
    base, L = plane * pixels + start, len(lanes)
    if count == L and number >= L:
        for k in range(0, number, L):
            k = min(k, number - L)  # the last ones overlap
            _turn(x, base + k, pixels, planes, to + k * L, L, lanes)
        return
    for c in range(L):
        for k in range(number):
            planes[to + k * L + c] = x[base + c * pixels + k] if c < count else 0


@part
def _deinterleave(planes, frm, x, plane, count, pixels, start, number, lanes):
    """The reverse of `_interleave`."""
    base, L = plane * pixels + start, len(lanes)
    if count == L and number >= L:
        for k in range(0, number, L):
            k = min(k, number - L)
            _turn(planes, frm + k * L, L, x, base + k, pixels, lanes)
        return
    for c in range(count):
        for k in range(number):
            x[base + c * pixels + k] = planes[frm + k * L + c]


@part
def _fill(x, plane, count, H, W, blend, planes, lanes):
    """The map of vectors: rows -1 to H+1, columns -1 to W; what is outside the map stays 0."""
    L, S = len(lanes), (W + 2) * len(lanes)
    for y in range(H):
        _interleave(x, plane, count, H * W, y * W, W, planes, (y + 1) * S + L, lanes)
    if not blend and W == 1:  # a tap outside has the weight 0, and no derivative sees a difference
        for y in range(1, H + 1):
            copy(planes[y * S : y * S + L], planes[y * S + L : y * S + 2 * L])
    if not blend and H == 1:
        copy(planes[:S], planes[S : 2 * S])


@kernel
def _forward(x, flow, later, out, sign, blend, minus, lanes, low, high):
    """Pieces are the groups of channels, as many as lanes, of each sample."""
    N, _, H, W = flow.shape
    pixels, C = H * W, x.size // (N * H * W)
    L, one = len(lanes), x.dtype.type(1)
    groups = (C + L - 1) // L
    at, du, dv = np.empty(pixels, np.int64), np.empty(pixels, x.dtype), np.empty(pixels, x.dtype)
    planes, tile = np.zeros((H + 3) * (W + 2) * L, x.dtype), np.empty(_TILE * L, x.dtype)
    for piece in range(low, high):
        n, first = piece // groups, piece % groups * L
        count, plane = min(L, C - first), n * C + first
        if piece == low or first == 0:
            _sources(flow, n, sign, blend, at, du, dv, lanes)
        _fill(x, plane, count, H, W, blend, planes, lanes)
        for start in range(0, pixels, _TILE):
            number = min(_TILE, pixels - start)
            for i in range(number):
                p = start + i
                a, b = (one - dv[p]) * (one - du[p]), (one - dv[p]) * du[p]
                c, d = dv[p] * (one - du[p]), dv[p] * du[p]
                _mix(planes, at[p], (W + 2) * L, a, b, c, d, tile, i * L, lanes)
            _deinterleave(tile, 0, out, plane, count, pixels, start, number, lanes)
            if minus:
                for c in range(count):
                    base = (plane + c) * pixels + start
                    for i in range(base, base + number):
                        out[i] = later[i] - out[i]


@kernel
def _backward(x, flow, grad, for_x, for_flow, sign, blend, minus, to_x, to_flow, lanes, low, high):
    """Pieces are the parts of the channels of each sample; `for_flow` (N, parts, 2, pixels)."""
    N, _, H, W = flow.shape
    parts = for_flow.shape[1]
    pixels, C = H * W, grad.size // (N * H * W)
    L, one = len(lanes), x.dtype.type(1)
    groups = (C + L - 1) // L
    at, du, dv = np.empty(pixels, np.int64), np.empty(pixels, x.dtype), np.empty(pixels, x.dtype)
    planes, sums = np.zeros((H + 3) * (W + 2) * L, x.dtype), np.zeros((H + 3) * (W + 2) * L, x.dtype)
    tile, below = np.empty(_TILE * L, x.dtype), (W + 2) * L
    factor = -one if minus else one
    for piece in range(low, high):
        n, k = piece // parts, piece % parts
        if piece == low or k == 0:
            _sources(flow, n, sign, blend, at, du, dv, lanes)
        if to_flow:
            for_flow[n, k] = 0
        for group in range(groups * k // parts, groups * (k + 1) // parts):
            first = group * L
            count, plane = min(L, C - first), n * C + first
            if to_flow:
                _fill(x, plane, count, H, W, blend, planes, lanes)
            if to_x:
                sums[:] = 0
            for start in range(0, pixels, _TILE):
                number = min(_TILE, pixels - start)
                _interleave(grad, plane, count, pixels, start, number, tile, 0, lanes)
                for i in range(number):
                    p, j = start + i, i * L
                    a, b, top, bottom = one - du[p], du[p], factor * (one - dv[p]), factor * dv[p]
                    if to_flow:
                        for_flow[n, k, 0, p] += _dot(planes, at[p], below, -top, top, -bottom, bottom, tile, j, lanes)
                        for_flow[n, k, 1, p] += _dot(
                            planes, at[p], below, -factor * a, -factor * b, factor * a, factor * b, tile, j, lanes
                        )
                    if to_x:
                        _spread(sums, at[p], below, top * a, top * b, bottom * a, bottom * b, tile, j, lanes)
            if to_x:
                for y in range(H):
                    _deinterleave(sums, (y + 1) * below + L, for_x, plane, count, pixels, y * W, W, lanes)
        if to_flow:
            for p in range(pixels):
                nowhere = at[p] == (H + 1) * below
                for_flow[n, k, 0, p] = 0 if nowhere else sign * for_flow[n, k, 0, p]
                for_flow[n, k, 1, p] = 0 if nowhere else sign * for_flow[n, k, 1, p]


def _flat(tensor: Tensor) -> Any:
    """What lies otherwise than in the order of its indices is copied."""
    return widened(tensor.detach()).contiguous().numpy()


@operator("motionspec::warp_numba")
def warp(x: Tensor, flow: Tensor, later: Tensor | None, operator: str, blend: bool, named: bool) -> Tensor:
    """`warp.bilinear`, `warp.motion` or, with the later frame, `warp.difference`."""
    N, C = x.shape[:2]
    out = widened(x.new_empty(x.shape))
    a, b = _flat(x).reshape(-1), _flat(flow)
    c = a if later is None else _flat(later).reshape(-1)
    lanes = _lanes_of(C)
    pieces = N * -(-C // len(lanes))
    share(
        _forward, pieces, pieces, a, b, c, out.numpy().reshape(-1), _sign(operator, b), blend, later is not None, lanes
    )
    return out.to(x.dtype)


def _lanes_of(C: int) -> tuple[int, ...]:
    return (0,) * next((lanes for lanes in _LANES if lanes >= C), _LANES[-1])


def _sign(operator: str, flow: Any) -> Any:
    """In the type of the flow, for numba multiplies float32 by an integer in float64."""
    return flow.dtype.type(1 if operator == "warp.bilinear" else -1)


@operator("motionspec::warp_numba_backward")
def backward(
    x: Tensor, flow: Tensor, grad: Tensor, operator: str, blend: bool, to_x: bool, to_flow: bool
) -> tuple[Tensor, Tensor]:
    """The gradients for the map and for the flow; what is not asked for is empty."""
    N, C, H, W = x.shape
    lanes = _lanes_of(C)
    parts = min(-(-C // len(lanes)), -(-_PARTS // max(N, 1)))
    for_x = widened(x.new_empty(x.shape if to_x else 0))
    for_flow = widened(x.new_empty((N, parts, 2, H * W) if to_flow else (0, parts, 2, 0)))
    maps = (_flat(x).reshape(-1), _flat(flow), _flat(grad).reshape(-1), for_x.numpy().reshape(-1), for_flow.numpy())
    minus = operator == "warp.difference"
    share(_backward, N * parts, N * parts, *maps, _sign(operator, maps[1]), blend, minus, to_x, to_flow, lanes)
    total = functools.reduce(torch.add, for_flow.unbind(1))
    return for_x.to(x.dtype), total.reshape(flow.shape if to_flow else (0,)).to(x.dtype)


register(warp, backward, "numba")
