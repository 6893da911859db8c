"""CPU kernels of `losses.endpoint_error` by numba, forward and backward; imported on first use.

Bound by bytes: both read each element once, backward writes its gradient. What is worked on at a time stays in the
cache. Distances are added in float64, block by block and then the blocks: the number of threads does not show.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from motionspec.ops.checks import widened
from motionspec.ops.compiled import kernel, part, share
from motionspec.ops.losses import register

_BLOCK = 2048  # pixels of a sample that are worked on at a time; a power of 2
_PIXELS = 1e4  # that a thread has, at least


@part
def _difference(f, g, mask, u, v, pixels, blocks, piece):
    """Of one block of a sample, into `u` and `v`: 0 where it is not valid. Where it begins, and how many pixels it has.

    `f` and `g` are samples of two planes; without elements, `mask` masks nothing.
    """
    first = piece % blocks * _BLOCK
    count, at = min(_BLOCK, pixels - first), piece // blocks * 2 * pixels + first
    for out, place in ((u, at), (v, at + pixels)):
        a, b = f[place:], g[place:]
        for j in range(count):
            out[j] = a[j] - b[j]
        if mask.size:
            valid = mask[piece // blocks * pixels + first :]
            for j in range(count):
                out[j] = out[j] if valid[j] else f.dtype.type(0)
    return at, count


@part
def _unit(u, v, one):
    """The larger component and the length divided by it, the difference so divided.

    Divided before it is squared: no square under- or overflows. Where the difference is 0: 1, 0, 0, 0.
    """
    largest = abs(u) if abs(u) > abs(v) else abs(v)
    largest = one if largest == 0 else largest
    u, v = u / largest, v / largest
    return largest, np.sqrt(u * u + v * v), u, v


@kernel
def _sums(f, g, mask, sums, pixels, blocks, low, high):
    """Of the distances of each block."""
    one = f.dtype.type(1)
    u, v, distances = np.empty(_BLOCK, f.dtype), np.empty(_BLOCK, f.dtype), np.empty(_BLOCK, np.float64)
    for piece in range(low, high):
        _, count = _difference(f, g, mask, u, v, pixels, blocks, piece)
        for j in range(count):
            largest, root, _, _ = _unit(u[j], v[j], one)
            distances[j] = largest * root
        distances[count:] = 0
        half = _BLOCK // 2
        while half:
            for j in range(half):
                distances[j] += distances[half + j]
            half //= 2
        sums[piece] = distances[0]


@kernel
def _backward(f, g, mask, out, scale, pixels, blocks, low, high):
    """The unit vector of each difference times `scale`; 0 at distance 0 and outside the mask."""
    one = f.dtype.type(1)
    u, v = np.empty(_BLOCK, f.dtype), np.empty(_BLOCK, f.dtype)
    for piece in range(low, high):
        at, count = _difference(f, g, mask, u, v, pixels, blocks, piece)
        x, y = out[at:], out[at + pixels :]
        for j in range(count):
            _, root, a, b = _unit(u[j], v[j], one)
            root = one if root == 0 else root
            x[j], y[j] = scale * (a / root), scale * (b / root)


def _flat(tensor: Tensor) -> np.ndarray:
    """In the type to compute in and the order to walk in."""
    return widened(tensor).contiguous().view(-1).numpy()


def _run(run: Any, flow: Tensor, target: Tensor, mask: Tensor | None, out: np.ndarray, *constants: Any) -> None:
    """Share out the blocks of all samples."""
    pixels, blocks = _shares(flow)
    valid = np.empty(0, bool) if mask is None else mask.contiguous().view(-1).numpy()
    threads = 1 + int(len(flow) * pixels / _PIXELS)
    share(run, len(flow) * blocks, threads, _flat(flow), _flat(target), valid, out, *constants, pixels, blocks)


def _shares(flow: Tensor) -> tuple[int, int]:
    """Pixels of a sample, and its blocks."""
    pixels = math.prod(flow.shape[2:])
    return pixels, -(-pixels // _BLOCK)


@torch.library.custom_op("motionspec::endpoint_error_numba", mutates_args=())
def endpoint_error(flow: Tensor, target: Tensor, mask: Tensor | None, mean: bool) -> tuple[Tensor, Tensor]:
    """The sum or the mean of the distances, and the number of pixels that it was divided by."""
    pixels, blocks = _shares(flow)
    sums = np.empty(len(flow) * blocks)
    _run(_sums, flow, target, mask, sums)
    number = 1 if not mean else len(flow) * pixels if mask is None else int(mask.sum())
    value = sums.sum() / number if number else math.nan
    return flow.new_full((), value), flow.new_full((), number, dtype=torch.float64)


@torch.library.custom_op("motionspec::endpoint_error_backward_numba", mutates_args=())
def backward(flow: Tensor, target: Tensor, mask: Tensor | None, grad: Tensor, number: Tensor) -> Tensor:
    """The gradient for the flow; that for the target is its negative."""
    out = widened(flow).new_empty(flow.shape)
    scale = grad.double() / number.clamp(min=1)
    _run(_backward, flow, target, mask, _flat(out), scale.to(out.dtype).numpy()[()])
    return out.to(flow.dtype)


register(endpoint_error, backward, "numba")
