"""Triton kernels of `costvol.displacement_map`, forward and backward; imported on first use.

As flash attention, with a window: a program holds a tile of pixels of one map and walks over the rows of the other map
that their windows reach. Of each row it takes the scores as one matrix product, and keeps running sums: the cost volume
is never written. The backward kernel, with the same loop for either map, computes the scores again; there are no
atomics. Per pixel eight numbers are kept for it, planes of `state`: see `_NORM`, `_SOFTMAX`.

Features are not divided by their norms: products of half types are exact as they are. Only those whose squares could
leave the range of float32 are scaled first, by a power of two.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from motionspec.ops.costvol import eager_derivative
from motionspec.ops.support import no_second_derivative

# Columns of a program; channels at a time, of scores and, where there are more than these, of gradients: what registers
# allow (`benchmarks/resources.txt`).
_COLUMNS = 16
_CHANNELS = {torch.bfloat16: (64, 32), torch.float16: (64, 64), torch.float32: (16, 16), torch.float64: (16, 16)}
_PIXELS = 128  # of a program that computes norms
# Planes of the state, by the first: 1 / norm and scale of f0, of f1; largest exponent and sum of the softmax, u, v.
_NORM, _SOFTMAX, _PLANES = (0, 2), 4, 8


@triton.jit(do_not_specialize=["plane"])  # for f0 and f1 the same kernel
def _norms(
    f, state, plane, H, W, stride_n, stride_c, stride_h, stride_w,
    C: tl.constexpr, CHANNELS: tl.constexpr, PLANES: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """1 / |scale f|, and the scale: 1, or what brings squares and products of two into the range of the type.

    0 for a vector of 0, NaN for one that is not finite.
    """
    blocks = tl.cdiv(H * W, BLOCK)
    program = tl.program_id(0).to(tl.int64)
    n, pixel = program // blocks, program % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < H * W
    at = f + n * stride_n + pixel // W * stride_h + pixel % W * stride_w
    largest = tl.zeros((CHANNELS, BLOCK), WIDE)
    for start in range(0, C, CHANNELS):
        c = start + tl.arange(0, CHANNELS).to(tl.int64)[:, None]
        largest = tl.maximum(largest, tl.abs(tl.load(at + c * stride_c, mask=inside & (c < C), other=0).to(WIDE)))
    top = tl.max(largest, 0)
    edge: tl.constexpr = 2.0**40 if f.dtype.element_ty != tl.float64 else 2.0**300
    power: tl.constexpr = 2.0**88 if f.dtype.element_ty != tl.float64 else 2.0**700
    scale = tl.where(top > edge, 1 / power, tl.where(top < 1 / edge, power, 1.0)).to(WIDE)
    squares = tl.zeros((CHANNELS, BLOCK), WIDE)
    for start in range(0, C, CHANNELS):
        c = start + tl.arange(0, CHANNELS).to(tl.int64)[:, None]
        x = tl.load(at + c * stride_c, mask=inside & (c < C), other=0).to(WIDE) * scale
        squares += x * x
    square = tl.sum(squares, 0)
    divisor = tl.where(square == 0, 1.0, square)
    if (
        f.dtype.element_ty != tl.float64
    ):  # not by the approximations, whose error would be many exponents at a low temperature
        inverse = tl.div_rn(1.0, tl.sqrt_rn(divisor))
    else:
        inverse = 1 / tl.sqrt(divisor)
    inverse = tl.where(square < float("inf"), tl.where(square == 0, 0.0, inverse), float("nan"))
    state += (n * PLANES + plane) * H * W + pixel
    tl.store(state, inverse, mask=inside)
    tl.store(state + H * W, scale, mask=inside)


@triton.jit
def _place(H, W, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Sample, first row and first column of this program, in 64 bits, as all offsets to them; its pixels from there."""
    down, across = tl.cdiv(H, ROWS), tl.cdiv(W, COLUMNS)
    program = tl.program_id(0).to(tl.int64)
    pixel = tl.arange(0, ROWS * COLUMNS)
    top, left = program // across % down * ROWS, program % across * COLUMNS
    return program // (down * across), top, left, pixel // COLUMNS, pixel % COLUMNS


@triton.jit
def _reached(top, H, R_h, ROWS: tl.constexpr):
    """The first of the rows from top - R_h on that is in the map, and the end of these."""
    return tl.maximum(R_h - top, 0).to(tl.int32), tl.minimum(ROWS + 2 * R_h, H + R_h - top).to(tl.int32)


@triton.jit
def _load(f, start, pixel, inside, scale, stride_c, C: tl.constexpr, CHANNELS: tl.constexpr, WIDE: tl.constexpr):
    """(CHANNELS, pixels) from channel `start` on, scaled; 0 where no pixel or channel is."""
    c = start + tl.arange(0, CHANNELS).to(tl.int64)[:, None]
    values = tl.load(f + c * stride_c + pixel[None, :], mask=(c < C) & inside[None, :], other=0)
    if values.dtype != tl.float16:  # whose squares do not leave the range of float32
        values = (values.to(WIDE) * scale[None, :]).to(values.dtype)
    return values


@triton.jit
def _thirds(x):
    """A float32 as a sum of three bfloat16, exact but for its last bits at worst."""
    high = x.to(tl.bfloat16)
    x -= high.to(tl.float32)
    middle = x.to(tl.bfloat16)
    return high, middle, (x - middle.to(tl.float32)).to(tl.bfloat16)


@triton.jit
def _product(a, b, total):
    """total + a b on the tensor cores, as exact as float32: there a factor that is no half type is three bfloat16."""
    if a.dtype == b.dtype and a.dtype != tl.float32:
        total = tl.dot(a, b, total, out_dtype=total.dtype)
    else:
        a1, a2, a3 = _thirds(a)
        if b.dtype == tl.bfloat16:
            b1 = b
        else:  # what is left out is below 2**-24 of the product
            b1, b2, b3 = _thirds(b.to(tl.float32))
            total = tl.dot(a2, b2, tl.dot(a1, b3, total))
            total = tl.dot(a1, b2, total)
        total = tl.dot(a1, b1, tl.dot(a2, b1, tl.dot(a3, b1, total)))
    return total


@triton.jit
def _forward(
    f0, f1, state, out, H, W, rate,
    stride_n0, stride_c0, stride_h0, stride_w0, stride_n1, stride_c1, stride_h1, stride_w1,
    C: tl.constexpr, R_h: tl.constexpr, R_w: tl.constexpr, EXCLUDE: tl.constexpr, REACH: tl.constexpr,
    CHANNELS: tl.constexpr, PLANES: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    n, top, left, i, j = _place(H, W, ROWS, COLUMNS)
    mine = (top + i < H) & (left + j < W)
    here = n * PLANES * H * W + top * W + left + i * W + j
    inverse0 = tl.load(state + here, mask=mine, other=0)
    scale0 = tl.load(state + H * W + here, mask=mine, other=0)
    pixel0 = i.to(tl.int64) * stride_h0 + j.to(tl.int64) * stride_w0
    f0 += n * stride_n0 + top * stride_h0 + left * stride_w0
    # Rows outside the map count only where their scores do.
    low, high = 0, ROWS + 2 * R_h
    if EXCLUDE:
        low, high = _reached(top, H, R_h, ROWS)
    f1 += n * stride_n1 + (top - R_h + low) * stride_h1 + (left - R_w) * stride_w1
    q = _load(f0, 0, pixel0, mine, scale0, stride_c0, C, CHANNELS, WIDE)

    column = tl.arange(0, REACH)
    pixel1 = column.to(tl.int64) * stride_w1
    at = n * PLANES * H * W + (top - R_h + low) * W + left - R_w
    du = (column[None, :] - R_w) - j[:, None]
    near = tl.abs(du) <= R_w
    there = (left - R_w + column >= 0) & (left - R_w + column < W)
    most = tl.zeros((ROWS * COLUMNS,), WIDE) - 2 * rate  # below all exponents
    total = tl.zeros((ROWS * COLUMNS, REACH), WIDE)
    total_v = tl.zeros((ROWS * COLUMNS, REACH), WIDE)
    for k in range(low, high):
        inside = there & (top - R_h + k >= 0) & (top - R_h + k < H)
        inverse1 = tl.load(state + 2 * H * W + at + column, mask=inside, other=0)
        scale1 = tl.load(state + 3 * H * W + at + column, mask=inside, other=0)
        score = tl.zeros((ROWS * COLUMNS, REACH), WIDE)  # 0 outside the map
        for start in range(0, C, CHANNELS):
            if C > CHANNELS:
                q = _load(f0, start, pixel0, mine, scale0, stride_c0, C, CHANNELS, WIDE)
            values = _load(f1, start, pixel1, inside, scale1, stride_c1, C, CHANNELS, WIDE)
            score = _product(tl.trans(q), values, score)
        dv = k - R_h - i
        counts = near & (tl.abs(dv) <= R_h)[:, None]
        if EXCLUDE:
            counts = counts & inside[None, :]
        exponent = tl.where(counts, score * (inverse0[:, None] * inverse1[None, :]) * rate, float("-inf"))
        before = most
        most = tl.maximum(before, tl.max(exponent, 1))
        weight = tl.exp2(exponent - most[:, None])
        shrink = tl.exp2(before - most)[:, None]
        total = total * shrink + weight
        total_v = total_v * shrink + weight * dv[:, None].to(WIDE)
        f1 += stride_h1
        at += W

    whole = tl.where(mine, tl.sum(total, 1), 1.0)
    u, v = tl.sum(total * du.to(WIDE), 1) / whole, tl.sum(total_v, 1) / whole
    state += 4 * H * W + here
    tl.store(state, most, mask=mine)
    tl.store(state + H * W, whole, mask=mine)
    tl.store(state + 2 * H * W, u, mask=mine)
    tl.store(state + 3 * H * W, v, mask=mine)
    out += n * 2 * H * W + top * W + left + i * W + j
    tl.store(out, u, mask=mine)
    tl.store(out + H * W, v, mask=mine)


@triton.jit
def _softmax(state, grad, at, inside, rate, H, W, WIDE: tl.constexpr):
    """Of pixels of f0: largest exponent, u, v, and the gradients for these over tau and the sum of the weights."""
    state += 4 * H * W
    most = tl.load(state + at, mask=inside, other=0)
    factor = 0.6931471805599453 * rate / tl.load(state + H * W + at, mask=inside, other=1)
    u = tl.load(state + 2 * H * W + at, mask=inside, other=0)
    v = tl.load(state + 3 * H * W + at, mask=inside, other=0)
    grad_u = tl.load(grad + at, mask=inside, other=0).to(WIDE) * factor
    grad_v = tl.load(grad + H * W + at, mask=inside, other=0).to(WIDE) * factor
    return most, u, v, grad_u, grad_v


@triton.jit
def _backward(
    own, other, state, grad, out, H, W, rate,
    stride_n0, stride_c0, stride_h0, stride_w0, stride_n1, stride_c1, stride_h1, stride_w1,
    stride_n, stride_c, stride_h, stride_w,
    LATER: tl.constexpr, C: tl.constexpr, R_h: tl.constexpr, R_w: tl.constexpr, REACH: tl.constexpr,
    CHANNELS: tl.constexpr, OWN: tl.constexpr, PLANES: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The gradient for f0 or, if LATER, for f1, of the channels that are this program's: f0 and f1 change roles."""
    n, top, left, i, j = _place(H, W, ROWS, COLUMNS)
    first = tl.program_id(1).to(tl.int64) * OWN
    mine = (top + i < H) & (left + j < W)
    state += n * PLANES * H * W + top * W + left
    grad += n * 2 * H * W + top * W + left
    here = i * W + j
    norm, other_norm = state, state + 2 * H * W
    if LATER:
        norm, other_norm = state + 2 * H * W, state
    else:
        most, u, v, grad_u, grad_v = _softmax(state, grad, here, mine, rate, H, W, WIDE)
        most, u, v, grad_u, grad_v = most[:, None], u[:, None], v[:, None], grad_u[:, None], grad_v[:, None]
    inverse = tl.load(norm + here, mask=mine, other=0)
    scale = tl.load(norm + H * W + here, mask=mine, other=0)
    pixel0 = i.to(tl.int64) * stride_h0 + j.to(tl.int64) * stride_w0
    own += n * stride_n0 + top * stride_h0 + left * stride_w0
    low, high = _reached(top, H, R_h, ROWS)  # outside the map there is no gradient
    other += n * stride_n1 + (top - R_h + low) * stride_h1 + (left - R_w) * stride_w1
    q = _load(own, 0, pixel0, mine, scale, stride_c0, C, CHANNELS, WIDE)

    column = tl.arange(0, REACH)
    pixel1 = column.to(tl.int64) * stride_w1
    du = (column[None, :] - R_w) - j[:, None]
    near = tl.abs(du) <= R_w
    inside = (left - R_w + column >= 0) & (left - R_w + column < W)
    if LATER:
        du = -du
    total = tl.zeros((ROWS * COLUMNS, OWN), WIDE)
    along = tl.zeros((ROWS * COLUMNS,), WIDE)
    for k in range(low, high):
        at = (k - R_h) * W - R_w + column
        other_inverse = tl.load(other_norm + at, mask=inside, other=0)
        other_scale = tl.load(other_norm + H * W + at, mask=inside, other=0)
        finite = inside & (
            other_inverse == other_inverse
        )  # NaN comes by the softmax; 0 * NaN would reach other windows
        other_inverse = tl.where(finite, other_inverse, 0.0)
        score = tl.zeros((ROWS * COLUMNS, REACH), WIDE)
        values = tl.zeros((CHANNELS, REACH), q.dtype)
        for start in range(0, C, CHANNELS):
            if C > CHANNELS:
                q = _load(own, start, pixel0, mine, scale, stride_c0, C, CHANNELS, WIDE)
            values = _load(other, start, pixel1, finite, other_scale, stride_c1, C, CHANNELS, WIDE)
            score = _product(tl.trans(q), values, score)
        theirs = values
        if C > CHANNELS:
            theirs = _load(other, first, pixel1, finite, other_scale, stride_c1, C, OWN, WIDE)
        dv = k - R_h - i
        counts = near & (tl.abs(dv) <= R_h)[:, None] & inside[None, :]
        if LATER:
            dv = -dv
            most, u, v, grad_u, grad_v = _softmax(state, grad, at, inside, rate, H, W, WIDE)
            most, u, v, grad_u, grad_v = most[None, :], u[None, :], v[None, :], grad_u[None, :], grad_v[None, :]
        score *= inverse[:, None] * other_inverse[None, :]
        # At a low temperature the rounding of a score, which may differ from the forward kernel's, is many exponents.
        weight = tl.exp2(tl.minimum(score * rate - most, 0.0))
        weight *= grad_u * (du.to(WIDE) - u) + grad_v * (dv[:, None].to(WIDE) - v)
        weight = tl.where(counts, weight, 0.0)  # of other windows, NaN too
        along += tl.sum(weight * score, 1)
        weight *= other_inverse[None, :]
        total = _product(weight, tl.trans(theirs), total)
        other += stride_h1

    vectors = q
    if C > CHANNELS:
        vectors = _load(own, first, pixel0, mine, scale, stride_c0, C, OWN, WIDE)
    # What lengthens the vector changes no cosine. In one channel there is nothing else, but NaN.
    total = total * 0 if C == 1 else total - tl.trans(vectors).to(WIDE) * (inverse * along)[:, None]
    total = tl.where(inverse[:, None] == 0, 0.0, total * (scale * inverse)[:, None])
    out += n * stride_n + first * stride_c + top * stride_h + left * stride_w
    c = tl.arange(0, OWN)[None, :]
    at = (i.to(tl.int64) * stride_h + j.to(tl.int64) * stride_w)[:, None] + c.to(tl.int64) * stride_c
    tl.store(out + at, total, mask=mine[:, None] & (c < C - first))


def _channels(f: Tensor, gradients: bool) -> int:
    """At a time; a matrix product takes 16 at least."""
    scores, fewer = _CHANNELS[f.dtype]
    most = fewer if gradients and f.shape[1] > scores else scores
    return max(16, min(triton.next_power_of_2(f.shape[1]), most))


def _constants(f: Tensor) -> dict[str, Any]:
    wide = tl.float64 if f.dtype == torch.float64 else tl.float32
    return {"C": f.shape[1], "CHANNELS": _channels(f, False), "PLANES": _PLANES, "WIDE": wide}


def _window(f: Tensor, R_h: int, R_w: int) -> dict[str, Any]:
    """Constants of a program: a tile is as large as its registers allow."""
    reach = triton.next_power_of_2(_COLUMNS + 2 * R_w)
    roomy = f.dtype in (torch.bfloat16, torch.float16) and reach <= 32
    warps = 4 if roomy and f.shape[1] <= 64 else 8
    tile = {"ROWS": 4 if roomy else 2, "COLUMNS": _COLUMNS, "REACH": reach, "num_warps": warps}
    return _constants(f) | {"R_h": R_h, "R_w": R_w, "num_stages": 1} | tile


def _tiles(f: Tensor, rows: int) -> int:
    N, _, H, W = f.shape
    return N * triton.cdiv(H, rows) * triton.cdiv(W, _COLUMNS)


def _rate(tau: float) -> float:
    """Exponents of two per score. Bounded, so that products with a norm's inverse stay finite: a hard maximum."""
    return min(1 / (tau * math.log(2)), 2.0**60)


@torch.library.custom_op("motionspec::displacement_map", mutates_args=())
def displacement_map(
    f0: Tensor, f1: Tensor, R_h: int, R_w: int, tau: float, exclude: bool, named: bool
) -> tuple[Tensor, Tensor]:
    """The map, and what the backward kernel needs of each pixel."""
    N, _, H, W = f0.shape
    out, state = _empty(f0)
    with torch.cuda.device_of(f0):  # triton launches on the current device
        for f, plane in zip((f0, f1), _NORM, strict=True):
            grid = (N * triton.cdiv(H * W, _PIXELS),)
            _norms[grid](
                f, state, plane, H, W, *f.stride(), **_constants(f) | {"CHANNELS": 16}, BLOCK=_PIXELS, num_warps=4
            )
        constants = _window(f0, R_h, R_w) | {"EXCLUDE": exclude}
        _forward[(_tiles(f0, constants["ROWS"]),)](
            f0, f1, state, out, H, W, _rate(tau), *f0.stride(), *f1.stride(), **constants
        )
    return out, state


@torch.library.custom_op("motionspec::displacement_map_backward", mutates_args=())
def backward(
    f0: Tensor, f1: Tensor, grad: Tensor, state: Tensor, R_h: int, R_w: int, tau: float, wanted: list[bool]
) -> tuple[Tensor, Tensor]:
    """The gradients for f0 and f1; one that is not wanted is empty."""
    found = _gradients(f0, f1, wanted)
    constants = _window(f0, R_h, R_w) | {"ROWS": 2, "num_warps": 8}  # the gradient takes registers too
    _, C, H, W = f0.shape
    channels = _channels(f0, True)
    grid = (_tiles(f0, constants["ROWS"]), triton.cdiv(C, channels))
    g = grad.contiguous()
    with torch.cuda.device_of(f0):
        for later, (own, other, out) in enumerate(((f0, f1, found[0]), (f1, f0, found[1]))):
            if wanted[later]:
                strides = (*own.stride(), *other.stride(), *out.stride())
                options = constants | {"LATER": bool(later), "OWN": channels}
                _backward[grid](own, other, state, g, out, H, W, _rate(tau), *strides, **options)
    return found


def _empty(f: Tensor) -> tuple[Tensor, Tensor]:
    N, _, H, W = f.shape
    wide = torch.float64 if f.dtype == torch.float64 else torch.float32
    return f.new_empty((N, 2, H, W)), f.new_empty((N, _PLANES, H, W), dtype=wide)


def _gradients(f0: Tensor, f1: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor]:
    g0, g1 = (torch.empty_like(f) if want else f.new_empty(0) for f, want in zip((f0, f1), wanted, strict=True))
    return g0, g1


@displacement_map.register_fake
def _(f0: Tensor, f1: Tensor, R_h: int, R_w: int, tau: float, exclude: bool, named: bool) -> tuple[Tensor, Tensor]:
    return _empty(f0)


@backward.register_fake
def _(
    f0: Tensor, f1: Tensor, grad: Tensor, state: Tensor, R_h: int, R_w: int, tau: float, wanted: list[bool]
) -> tuple[Tensor, Tensor]:
    return _gradients(f0, f1, wanted)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    f0, f1, *ctx.options = inputs
    ctx.save_for_backward(f0, f1, output[1])


def _derivative(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    f0, f1, state = ctx.saved_tensors
    found = eager_derivative(ctx, "triton", grad)
    if found is None:
        found = backward(f0, f1, grad, state, *ctx.options[:3], list(ctx.needs_input_grad[:2]))
    return (*found, *[None] * 5)


displacement_map.register_autograd(_derivative, setup_context=_save)
backward.register_autograd(no_second_derivative("costvol.displacement_map", "triton"))
