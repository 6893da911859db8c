"""Triton kernels of `losses.endpoint_error`, forward and backward; imported on first use.

Bound by bytes: per pixel the forward pass reads four elements and a byte of the mask, the backward pass reads the same
and writes two, or four where both flows want a gradient. Sums do not depend on the device or on the order in which
programs run: each program adds up its own pixels, and one program adds up the programs' sums. There are no atomics.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from motionspec.ops.losses import register

# Pixels that a program holds at a time; warps. What they cost in registers: `benchmarks/resources.txt`.
_BLOCK, _WARPS = 1024, 8
# A program takes several blocks when there are more than this many, so that adding up the sums stays short.
_BLOCKS = 2**14


@triton.jit
def _pixels(pixels, blocks, per_sample, i, BLOCK: tl.constexpr):
    """Sample and pixels of block i of this program, and which of these exist; 64 bits, as all offsets from here."""
    program = tl.program_id(0).to(tl.int64)
    pixel = (program % per_sample * blocks + i) * BLOCK + tl.arange(0, BLOCK)
    return program // per_sample, pixel, pixel < pixels


@triton.jit
def _unit(flow, target, mask, n, pixel, inside, pixels, WIDE: tl.constexpr, MASKED: tl.constexpr):
    """The larger component of the difference and the length divided by it, the difference so divided; what is valid.

    Divided before it is squared: no square under- or overflows. What is not valid is not read, and is 0.
    """
    valid = inside
    if MASKED:
        valid = inside & (tl.load(mask + n * pixels + pixel, mask=inside, other=0) != 0)
    at = n * 2 * pixels + pixel
    u = tl.load(flow + at, mask=valid, other=0).to(WIDE) - tl.load(target + at, mask=valid, other=0).to(WIDE)
    at += pixels
    v = tl.load(flow + at, mask=valid, other=0).to(WIDE) - tl.load(target + at, mask=valid, other=0).to(WIDE)
    zero = (u == 0) & (v == 0)
    largest = tl.where(zero, 1.0, tl.maximum(tl.abs(u), tl.abs(v)))
    u, v = u / largest, v / largest
    return largest, tl.sqrt(tl.where(zero, 1.0, u * u + v * v)), u, v, zero, valid


@triton.jit
def _sums(
    flow, target, mask, sums, counts, pixels, blocks, per_sample,
    WIDE: tl.constexpr, MASKED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of the distances of one program's pixels, added in float64, and how many are valid."""
    total = tl.zeros((BLOCK,), tl.float64)
    count = tl.zeros((BLOCK,), tl.int32)
    for i in range(blocks):
        n, pixel, inside = _pixels(pixels, blocks, per_sample, i, BLOCK)
        largest, root, _u, _v, zero, valid = _unit(flow, target, mask, n, pixel, inside, pixels, WIDE, MASKED)
        total += tl.where(zero, 0.0, largest * root).to(tl.float64)
        count += valid.to(tl.int32)
    tl.store(sums + tl.program_id(0), tl.sum(total, 0))
    tl.store(counts + tl.program_id(0), tl.sum(count, 0))


@triton.jit
def _finish(sums, counts, value, number, programs, MEAN: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """Add up the programs; the sum or the mean, and the number of pixels that it is divided by."""
    total = tl.zeros((BLOCK,), tl.float64)
    count = tl.zeros((BLOCK,), tl.int64)
    for start in range(0, programs, BLOCK):
        i = start + tl.arange(0, BLOCK)
        total += tl.load(sums + i, mask=i < programs, other=0)
        count += tl.load(counts + i, mask=i < programs, other=0).to(tl.int64)
    divisor = tl.sum(count, 0).to(tl.float64) if MEAN else tl.full((), 1, tl.float64)
    result = tl.where(divisor == 0, float("nan"), tl.sum(total, 0) / tl.maximum(divisor, 1))
    tl.store(value, result.to(WIDE))
    tl.store(number, divisor)


@triton.jit
def _backward(
    flow, target, mask, grad, number, out, negative, pixels, blocks, per_sample,
    BOTH: tl.constexpr, WIDE: tl.constexpr, MASKED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The unit vector of each difference, times the gradient of a distance; 0 at distance 0 and outside the mask.

    BOTH: and its negative.
    """
    scale = (tl.load(grad).to(tl.float64) / tl.maximum(tl.load(number), 1)).to(WIDE)
    for i in range(blocks):
        n, pixel, inside = _pixels(pixels, blocks, per_sample, i, BLOCK)
        _, root, u, v, zero, _valid = _unit(flow, target, mask, n, pixel, inside, pixels, WIDE, MASKED)
        u, v = tl.where(zero, 0.0, scale * (u / root)), tl.where(zero, 0.0, scale * (v / root))
        at = n * 2 * pixels + pixel
        tl.store(out + at, u, mask=inside)
        tl.store(out + at + pixels, v, mask=inside)
        if BOTH:
            tl.store(negative + at, -u, mask=inside)
            tl.store(negative + at + pixels, -v, mask=inside)


def _launch(kernel: Any, flow: Tensor, target: Tensor, mask: Tensor | None, *others: Tensor, **constants: Any) -> None:
    """One program for some blocks of pixels of a sample. Memory is walked in order: what lies otherwise is copied."""
    pixels, blocks, per_sample = _shares(flow)
    constants |= {"WIDE": _wide(flow), "MASKED": mask is not None, "BLOCK": _BLOCK, "num_warps": _WARPS}
    f, g = flow.contiguous(), target.contiguous()
    m = f if mask is None else mask.contiguous()  # without a mask none is read
    with torch.cuda.device_of(flow):  # triton launches on the current device
        kernel[(len(flow) * per_sample,)](f, g, m, *others, pixels, blocks, per_sample, **constants)


def _wide(flow: Tensor) -> tl.dtype:
    return tl.float64 if flow.dtype == torch.float64 else tl.float32


def _shares(flow: Tensor) -> tuple[int, int, int]:
    """Pixels of a sample, blocks of a program, programs of a sample: by the shape alone."""
    pixels = math.prod(flow.shape[2:])
    blocks = triton.cdiv(len(flow) * triton.cdiv(pixels, _BLOCK), _BLOCKS) or 1
    return pixels, blocks, triton.cdiv(pixels, blocks * _BLOCK)


@torch.library.custom_op("motionspec::endpoint_error", mutates_args=())
def endpoint_error(flow: Tensor, target: Tensor, mask: Tensor | None, mean: bool, named: bool) -> tuple[Tensor, Tensor]:
    """The sum or the mean of the distances, and the number of pixels that it was divided by."""
    programs = len(flow) * _shares(flow)[2]
    sums = flow.new_empty(programs, dtype=torch.float64)
    counts = flow.new_empty(programs, dtype=torch.int32)
    _launch(_sums, flow, target, mask, sums, counts)
    value, number = flow.new_empty(()), flow.new_empty((), dtype=torch.float64)
    with torch.cuda.device_of(flow):
        constants = {"MEAN": mean, "WIDE": _wide(flow), "BLOCK": _BLOCK, "num_warps": _WARPS}
        _finish[(1,)](sums, counts, value, number, programs, **constants)
    return value, number


@torch.library.custom_op("motionspec::endpoint_error_backward", mutates_args=())
def backward(
    flow: Tensor, target: Tensor, mask: Tensor | None, grad: Tensor, number: Tensor, both: bool
) -> tuple[Tensor, Tensor]:
    """The gradient for the flow; that for the target, its negative, or an empty tensor."""
    out, negative = flow.new_empty(flow.shape), flow.new_empty(flow.shape if both else 0)
    _launch(_backward, flow, target, mask, grad, number, out, negative, BOTH=both)
    return out, negative


register(endpoint_error, backward, "triton")
