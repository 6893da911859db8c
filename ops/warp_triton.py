"""Triton kernels of `warp.bilinear`, `warp.motion` and `warp.difference`, forward and backward; imported on first use.

Bound by bytes: per pixel and channel the forward pass reads the map once (its four taps are neighbours, and of a smooth
flow those of the next pixel, so they are in the cache), the later frame of `difference`, and writes one element. Where
a pixel's source lies is computed once for a tile of channels, from the flow alone; nothing is stored for the backward
pass, which computes it again.

The gradient of the flow is summed by the program that owns the pixel. That of the map is scattered by atomic additions:
their order, and so the last bits, differ from run to run. Under `torch.use_deterministic_algorithms(True)` it is
gathered instead: pixels are sorted by where their source lies, once for all channels, and each pixel of the map adds up
in that order those that read it. Their weights are kept meanwhile, two numbers a pixel: to compute them again from the
flow takes more registers than a thread has to spare, and in Triton 3.6 it spilled.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from motionspec.ops.checks import widened
from motionspec.ops.warp import register

# A program holds one element for each of its threads: the lanes of a warp are neighbouring pixels of one channel, the
# warps other channels. At most so many channels at a time; so many times in a program of the forward pass.
_THREADS, _CHANNELS, _STEPS = 256, 8, 4


@triton.jit
def _pixels(pixels, blocks, PIXELS: tl.constexpr):
    """Sample and pixels of this program, and which of these exist; 64 bits, as all offsets from here."""
    program = tl.program_id(0).to(tl.int64)
    pixel = program % blocks * PIXELS + tl.arange(0, PIXELS)
    return program // blocks, pixel, pixel < pixels


@triton.jit
def _source(
    flow, n, pixel, inside, pixels, H, W, SIGN: tl.constexpr, BLEND: tl.constexpr, WIDE: tl.constexpr
):  # fmt: skip
    """First column and row of the taps, weights of the second; whether the source is on the map, or NaN."""
    at = flow + n * 2 * pixels + pixel
    u = SIGN * tl.load(at, mask=inside, other=0).to(WIDE)
    v = SIGN * tl.load(at + pixels, mask=inside, other=0).to(WIDE)
    x, y = pixel % W, pixel // W
    px, py = x.to(WIDE), y.to(WIDE)
    nan = (u != u) | (v != v)
    if BLEND:  # all four taps are outside; at -1 exactly the derivative from above still reaches x[0]
        gone = (u < -1 - px) | (u >= W - px) | (v < -1 - py) | (v >= H - py)
    else:  # decided on the flow itself: the sum p + flow is rounded
        gone = (u < -px) | (u > W - 1 - px) | (v < -py) | (v > H - 1 - py)
    there = inside & ~(gone | nan)
    u, v = tl.where(there, u, 0.0), tl.where(there, v, 0.0)
    left, up = tl.floor(u), tl.floor(v)
    if not BLEND:  # on the last column the taps are W-2 and W-1: the derivative from below
        left = tl.where(px + left == W - 1, left - 1, left)
        up = tl.where(py + up == H - 1, up - 1, up)
    return x + left.to(tl.int64), y + up.to(tl.int64), u - left, v - up, there, nan


@triton.jit
def _place(x, y, there, H, W, BLEND: tl.constexpr):
    """Where a tap lies in a plane, and whether it does."""
    if BLEND:
        there = there & (x >= 0) & (x < W) & (y >= 0) & (y < H)
    # In `zero` only a side of length 1 has a tap outside: both are then the same.
    return (tl.maximum(y, 0) * W + tl.maximum(x, 0))[None, :], there[None, :]


@triton.jit
def _channels(first, n, C, pixels, CHANNELS: tl.constexpr):
    """Offset of each channel's plane in a map, and which channels exist."""
    c = first + tl.arange(0, CHANNELS)
    return ((n * C + c) * pixels)[:, None], (c < C)[:, None]


@triton.jit
def _forward(
    x, flow, later, out, C, H, W, pixels, blocks, SIGN: tl.constexpr, BLEND: tl.constexpr, LATER: tl.constexpr,
    WIDE: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    n, pixel, inside = _pixels(pixels, blocks, PIXELS)
    qx, qy, du, dv, there, nan = _source(flow, n, pixel, inside, pixels, H, W, SIGN, BLEND, WIDE)
    at_a, in_a = _place(qx, qy, there, H, W, BLEND)
    at_b, in_b = _place(qx + 1, qy, there, H, W, BLEND)
    at_c, in_c = _place(qx, qy + 1, there, H, W, BLEND)
    at_d, in_d = _place(qx + 1, qy + 1, there, H, W, BLEND)
    du, dv = du[None, :], dv[None, :]
    start = tl.program_id(1) * STEPS * CHANNELS
    for first in range(start, min(start + STEPS * CHANNELS, C), CHANNELS):
        plane, some = _channels(first, n, C, pixels, CHANNELS)
        a = tl.load(x + plane + at_a, mask=some & in_a, other=0).to(WIDE)
        b = tl.load(x + plane + at_b, mask=some & in_b, other=0).to(WIDE)
        c = tl.load(x + plane + at_c, mask=some & in_c, other=0).to(WIDE)
        d = tl.load(x + plane + at_d, mask=some & in_d, other=0).to(WIDE)
        value = (1 - dv) * ((1 - du) * a + du * b) + dv * ((1 - du) * c + du * d)
        value = tl.where(nan[None, :], float("nan"), value)
        own, mine = plane + pixel[None, :], some & inside[None, :]
        if LATER:
            value = tl.load(later + own, mask=mine).to(WIDE) - value
        tl.store(out + own, value, mask=mine)


@triton.jit
def _backward(
    x, flow, grad, to_x, to_flow, C, H, W, pixels, blocks, SIGN: tl.constexpr, BLEND: tl.constexpr,
    MINUS: tl.constexpr, TO_X: tl.constexpr, TO_FLOW: tl.constexpr,
    WIDE: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Scatter to the map, sum over the channels for the flow. A pixel whose source is NaN or outside has no part."""
    n, pixel, inside = _pixels(pixels, blocks, PIXELS)
    qx, qy, du, dv, there, _ = _source(flow, n, pixel, inside, pixels, H, W, SIGN, BLEND, WIDE)
    at_a, in_a = _place(qx, qy, there, H, W, BLEND)
    at_b, in_b = _place(qx + 1, qy, there, H, W, BLEND)
    at_c, in_c = _place(qx, qy + 1, there, H, W, BLEND)
    at_d, in_d = _place(qx + 1, qy + 1, there, H, W, BLEND)
    du, dv = du[None, :], dv[None, :]
    to_u = tl.zeros((CHANNELS, PIXELS), WIDE)
    to_v = tl.zeros((CHANNELS, PIXELS), WIDE)
    for first in range(0, C, CHANNELS):
        plane, some = _channels(first, n, C, pixels, CHANNELS)
        g = tl.load(grad + plane + pixel[None, :], mask=some & there[None, :], other=0).to(WIDE)
        if MINUS:
            g = -g
        top, bottom = g * (1 - dv), g * dv
        if TO_X:
            tl.atomic_add(to_x + plane + at_a, top * (1 - du), mask=some & in_a, sem="relaxed")
            tl.atomic_add(to_x + plane + at_b, top * du, mask=some & in_b, sem="relaxed")
            tl.atomic_add(to_x + plane + at_c, bottom * (1 - du), mask=some & in_c, sem="relaxed")
            tl.atomic_add(to_x + plane + at_d, bottom * du, mask=some & in_d, sem="relaxed")
        if TO_FLOW:
            a = tl.load(x + plane + at_a, mask=some & in_a, other=0).to(WIDE)
            b = tl.load(x + plane + at_b, mask=some & in_b, other=0).to(WIDE)
            c = tl.load(x + plane + at_c, mask=some & in_c, other=0).to(WIDE)
            d = tl.load(x + plane + at_d, mask=some & in_d, other=0).to(WIDE)
            to_u += top * (b - a) + bottom * (d - c)
            to_v += g * (((1 - du) * c + du * d) - ((1 - du) * a + du * b))
    if TO_FLOW:
        own = to_flow + n * 2 * pixels + pixel
        tl.store(own, tl.where(there, SIGN * tl.sum(to_u, 0), 0.0), mask=inside)
        tl.store(own + pixels, tl.where(there, SIGN * tl.sum(to_v, 0), 0.0), mask=inside)


@triton.jit
def _cells(
    flow, cells, weights, C, H, W, pixels, blocks, SIGN: tl.constexpr, BLEND: tl.constexpr,
    WIDE: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The cell, four neighbours, that each pixel reads: H+1 rows of W+1 in a sample, the first ones begin outside.

    And the weights of its second column and row.
    """
    n, pixel, inside = _pixels(pixels, blocks, PIXELS)
    qx, qy, du, dv, there, _ = _source(flow, n, pixel, inside, pixels, H, W, SIGN, BLEND, WIDE)
    cell = (n * (H + 1) + qy + 1) * (W + 1) + qx + 1
    tl.store(cells + n * pixels + pixel, tl.where(there, cell, 2**62), mask=inside)
    own = weights + n * 2 * pixels + pixel
    tl.store(own, du, mask=inside)
    tl.store(own + pixels, dv, mask=inside)


@triton.jit(do_not_specialize=["W"])  # as a constant, where it is 1, Triton 3.6 and 3.7 fail to compile
def _gather(
    weights, grad, readers, starts, to_x, C, H, W, pixels, blocks,
    MINUS: tl.constexpr, WIDE: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Add up, for each pixel of the map, those that read it, cell by cell in the order of `readers`."""
    n, pixel, inside = _pixels(pixels, blocks, PIXELS)
    plane, some = _channels(tl.program_id(1) * CHANNELS, n, C, pixels, CHANNELS)
    total = tl.zeros((CHANNELS, PIXELS), WIDE)
    for corner in tl.static_range(4):
        cell = (n * (H + 1) + pixel // W + 1 - corner // 2) * (W + 1) + pixel % W + 1 - corner % 2
        start = tl.load(starts + cell, mask=inside, other=0)
        count = tl.load(starts + cell + 1, mask=inside, other=0) - start
        for k in range(tl.max(count, 0)):
            reads = k < count
            reader = tl.load(readers + start + k, mask=reads, other=0) - n * pixels
            of_reader = weights + n * 2 * pixels + reader
            du = tl.load(of_reader, mask=reads, other=0)
            dv = tl.load(of_reader + pixels, mask=reads, other=0)
            weight = (dv if corner // 2 else 1 - dv) * (du if corner % 2 else 1 - du)
            g = tl.load(grad + plane + reader[None, :], mask=some & reads[None, :], other=0).to(WIDE)
            total += weight[None, :] * g
    if MINUS:
        total = -total
    tl.store(to_x + plane + pixel[None, :], total, mask=some & inside[None, :])


def _sign(operator: str) -> int:
    """Of the flow, where a pixel's source is looked for."""
    return 1 if operator == "warp.bilinear" else -1


def _launch(kernel: Any, flow: Tensor, C: int, tiles: int, arguments: tuple[Any, ...], **constants: Any) -> None:
    """One program for some pixels of a sample, and so many tiles of its channels: all of them, if that is 0."""
    N, _, H, W = flow.shape
    channels = min(_CHANNELS, triton.next_power_of_2(C))
    blocks = triton.cdiv(H * W, _THREADS // channels)
    constants |= {"CHANNELS": channels, "WIDE": tl.float64 if flow.dtype == torch.float64 else tl.float32}
    constants |= {"PIXELS": _THREADS // channels, "num_warps": _THREADS // 32}
    grid = (N * blocks, triton.cdiv(C, tiles * channels) if tiles else 1)
    with torch.cuda.device_of(flow):  # triton launches on the current device
        kernel[grid](*arguments, C, H, W, H * W, blocks, **constants)


def _gathered(flow: Tensor, grad: Tensor, operator: str, blend: bool) -> Tensor:
    """The gradient of the map, the same bits each time."""
    N, C, H, W = grad.shape
    cells = flow.new_empty(N * H * W, dtype=torch.int64)
    weights = flow.new_empty(flow.shape, dtype=widened(flow[:0]).dtype)
    _launch(_cells, flow, 1, 0, (flow, cells, weights), SIGN=_sign(operator), BLEND=blend)
    cells, readers = torch.sort(cells, stable=True)
    starts = torch.searchsorted(cells, torch.arange(N * (H + 1) * (W + 1) + 1, device=flow.device))
    out = grad.new_empty(grad.shape)
    _launch(_gather, flow, C, 1, (weights, grad, readers, starts, out), MINUS=operator == "warp.difference")
    return out


# Memory is walked along W, then H: a tensor that does not lie so, channels-last for instance, is copied first.


@torch.library.custom_op("motionspec::warp", mutates_args=())
def warp(x: Tensor, flow: Tensor, later: Tensor | None, operator: str, blend: bool, named: bool) -> Tensor:
    """`warp.bilinear`, `warp.motion` or, with the later frame, `warp.difference`."""
    out = x.new_empty(x.shape)
    f = flow.contiguous()
    arguments = (x.contiguous(), f, None if later is None else later.contiguous(), out)
    constants = {"SIGN": _sign(operator), "BLEND": blend, "LATER": later is not None, "STEPS": _STEPS}
    _launch(_forward, f, x.shape[1], _STEPS, arguments, **constants)
    return out


@torch.library.custom_op("motionspec::warp_backward", mutates_args=())
def backward(
    x: Tensor, flow: Tensor, grad: Tensor, operator: str, blend: bool, to_x: bool, to_flow: bool
) -> tuple[Tensor, Tensor]:
    """The gradients for the map and for the flow; what is not asked for is empty."""
    f, g = flow.contiguous(), grad.contiguous()
    for_x, for_flow = x.new_empty(x.shape if to_x else 0), flow.new_empty(flow.shape if to_flow else 0)
    scatter = to_x and not torch.are_deterministic_algorithms_enabled()
    if scatter:
        for_x = torch.zeros_like(for_x, dtype=widened(for_x[:0]).dtype)
    elif to_x:
        for_x = _gathered(f, g, operator, blend)
    if scatter or to_flow:
        arguments = (x.contiguous(), f, g, for_x, for_flow)
        constants = {"MINUS": operator == "warp.difference", "TO_X": scatter, "TO_FLOW": to_flow}
        _launch(_backward, f, x.shape[1], 0, arguments, SIGN=_sign(operator), BLEND=blend, **constants)
    return for_x.to(x.dtype), for_flow


register(warp, backward, "triton")
