"""Triton kernels of `off.features` and `off.clip_features`, forward and adjoint; imported on first use.

Both are bound by bytes. Per pixel of a pair the forward kernel writes three elements, and reads one: of a clip every
frame once. The adjoint reads three and writes one. A program walks down a strip of columns, holding differences and
sums of the last three rows in registers; what it reads again (a neighbour, the next pair's frame) is in the cache.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from motionspec.ops.off import register

# Columns and rows of a program; warps. What they cost in registers: `benchmarks/resources.txt`.
_BLOCK, _ROWS, _WARPS = 128, 8, 4


@triton.jit
def _strip(planes, H, W, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """Plane, first row and column of each lane; which lanes have a pixel, one to the left of it, one to the right.

    The columns of all planes are one sequence, so narrow maps leave no lane idle. In 64 bits, as all offsets from here.
    """
    strips = tl.cdiv(H, ROWS)
    program = tl.program_id(0).to(tl.int64)
    sequence = program // strips * BLOCK + tl.arange(0, BLOCK)
    plane, column = sequence // W, sequence % W
    inside = plane < planes
    return plane, program % strips * ROWS, column, inside, inside & (column > 0), inside & (column < W - 1)


@triton.jit
def _forward(
    earlier, later, out, planes, C, pairs, H, W, plane_size, frame_size, block_size,
    MIDDLE: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    plane, row, column, inside, left, right = _strip(planes, H, W, BLOCK, ROWS)
    source = plane * plane_size + row * W + column
    f, g = earlier + source, later + source
    Fx = out + (plane // C * 3 * C + plane % C) * pairs * frame_size + row * W + column
    Fy = Fx + block_size
    Ft = Fy + block_size
    for _ in range(pairs):
        # Three values of each of the two rows above. Each begins as its own: see tools/carried.py.
        a0, b0, c0 = tl.zeros((BLOCK,), WIDE), tl.zeros((BLOCK,), WIDE), tl.zeros((BLOCK,), WIDE)
        a1, b1, c1 = tl.zeros((BLOCK,), WIDE), tl.zeros((BLOCK,), WIDE), tl.zeros((BLOCK,), WIDE)
        for k in range(-1, ROWS + 1):
            there = (row + k >= 0) & (row + k < H)
            a2 = tl.load(f + k * W - 1, mask=left & there, other=0).to(WIDE)
            b2 = tl.load(f + k * W, mask=inside & there, other=0).to(WIDE)
            c2 = tl.load(f + k * W + 1, mask=right & there, other=0).to(WIDE)
            here = inside & there & (k >= 0) & (k < ROWS)
            tl.store(Ft + k * W, tl.load(g + k * W, mask=here).to(WIDE) - b2, mask=here)
            above = inside & (k >= 1) & (row + k - 1 < H)
            # Differences first, as in eager PyTorch: a sum of three could leave the range of the type.
            tl.store(Fx + (k - 1) * W, (c0 - a0) + MIDDLE * (c1 - a1) + (c2 - a2), mask=above)
            tl.store(Fy + (k - 1) * W, (a0 - a2) + MIDDLE * (b0 - b2) + (c0 - c2), mask=above)
            a0, b0, c0, a1, b1, c1 = a1, b1, c1, a2, b2, c2
        f += frame_size
        g += frame_size
        Fx += frame_size
        Fy += frame_size
        Ft += frame_size


@triton.jit
def _adjoint(
    grad, out, planes, C, pairs, H, W, frame_size, block_size,
    MIDDLE: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Of each frame. The printed kernels are odd, so the adjoint of each is itself with the other sign."""
    plane, row, column, inside, left, right = _strip(planes, H, W, BLOCK, ROWS)
    x = grad + (plane // C * 3 * C + plane % C) * pairs * frame_size + row * W + column
    y = x + block_size
    t = y + block_size
    o = out + plane * (pairs + 1) * frame_size + row * W + column
    for frame in range(pairs + 1):
        # Of the two rows above: the gradients of Fx to the left and to the right, sums along x of those of Fy.
        l0, l1 = tl.zeros((BLOCK,), WIDE), tl.zeros((BLOCK,), WIDE)
        r0, r1 = tl.zeros((BLOCK,), WIDE), tl.zeros((BLOCK,), WIDE)
        s0, s1 = tl.zeros((BLOCK,), WIDE), tl.zeros((BLOCK,), WIDE)
        for k in range(-1, ROWS + 1):
            there = (row + k >= 0) & (row + k < H)
            first = there & (frame < pairs)  # the frame is the earlier one of a pair
            l2 = tl.load(x + k * W - 1, mask=left & first, other=0).to(WIDE)
            r2 = tl.load(x + k * W + 1, mask=right & first, other=0).to(WIDE)
            ay = tl.load(y + k * W - 1, mask=left & first, other=0).to(WIDE)
            by = tl.load(y + k * W, mask=inside & first, other=0).to(WIDE)
            cy = tl.load(y + k * W + 1, mask=right & first, other=0).to(WIDE)
            s2 = ay + MIDDLE * by + cy
            above = inside & (k >= 1) & (row + k - 1 < H)
            now = tl.load(t + (k - 1) * W, mask=above & (frame < pairs), other=0).to(WIDE)
            before = tl.load(t - frame_size + (k - 1) * W, mask=above & (frame > 0), other=0).to(WIDE)
            # Added in the order of eager PyTorch's backward pass: finite where that is.
            along = (s2 - s0) - (r0 + MIDDLE * r1 + r2) + (l0 + MIDDLE * l1 + l2)
            tl.store(o + (k - 1) * W, (along - now) + before, mask=above)
            l0, l1, r0, r1, s0, s1 = l1, l2, r1, r2, s1, s2
        x += frame_size
        y += frame_size
        t += frame_size
        o += frame_size


def _launch(
    kernel: Any, tensors: tuple[Tensor, ...], C: int, pairs: int, sizes: tuple[int, ...], middle: float
) -> None:
    """One program per strip of columns of the planes (n, c), which may be none."""
    *_, H, W = tensors[0].shape
    planes = tensors[0].shape[0] * C
    grid = (triton.cdiv(planes * W, _BLOCK) * triton.cdiv(H, _ROWS),)
    wide = tl.float64 if tensors[0].dtype == torch.float64 else tl.float32
    constants = {"MIDDLE": middle, "WIDE": wide, "BLOCK": _BLOCK, "ROWS": _ROWS, "num_warps": _WARPS}
    with torch.cuda.device_of(tensors[0]):  # triton launches on the current device
        kernel[grid](*tensors, planes, C, pairs, H, W, *sizes, H * W, C * pairs * H * W, **constants)


# Memory is walked along W, then H: a tensor that does not lie so, channels-last for instance, is copied first.


@torch.library.custom_op("motionspec::off_features", mutates_args=())
def features(f_prev: Tensor, f_next: Tensor, middle: float, named: bool) -> Tensor:
    """[Fx | Fy | Ft] of a pair; `middle` is the weight of the middle line across a derivative."""
    N, C, H, W = f_prev.shape
    out = f_prev.new_empty((N, 3 * C, H, W))
    _launch(_forward, (f_prev.contiguous(), f_next.contiguous(), out), C, 1, (H * W,), middle)
    return out


@torch.library.custom_op("motionspec::off_clip_features", mutates_args=())
def clip_features(clip: Tensor, middle: float, named: bool) -> Tensor:
    """`features` of the T-1 pairs of a clip."""
    N, C, T, H, W = clip.shape
    f = clip.contiguous()
    out = f.new_empty((N, 3 * C, T - 1, H, W))
    _launch(_forward, (f, f[:, :, 1:], out), C, T - 1, (T * H * W,), middle)
    return out


@torch.library.custom_op("motionspec::off_adjoint", mutates_args=())
def adjoint(grad: Tensor, middle: float, named: bool) -> Tensor:
    """The gradient of `clip_features`: (N, 3C, T-1, H, W) -> (N, C, T, H, W)."""
    N, C3, pairs, H, W = grad.shape
    out = grad.new_empty((N, C3 // 3, pairs + 1, H, W))
    _launch(_adjoint, (grad.contiguous(), out), C3 // 3, pairs, (), middle)
    return out


register(features, clip_features, adjoint, "triton", Tensor.new_empty)
