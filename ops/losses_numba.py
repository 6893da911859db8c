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
from motionspec.ops.compiled import apart, kernel, part, share
from motionspec.ops.losses import register

_BLOCK = 4096  # pixels of a sample that are worked on at a time
_PIXELS = 1e4  # that a thread has, at least


@part
def _place(mask, pixels, blocks, piece):
    """Of a block: where it begins and ends in the first plane of its sample, and its part of the mask, if any."""
    sample, first = piece // blocks, piece % blocks * _BLOCK
    last = min(first + _BLOCK, pixels)
    at = 2 * sample * pixels
    return at + first, at + last, mask[sample * pixels + first : sample * pixels + last] if mask.size else mask


@part
def _unit(u, v):
    """The larger component and the length divided by it, the difference so divided.

    Divided before it is squared: no square under- or overflows. Where the difference is 0: 1, 0, 0, 0.
    """
    largest = abs(u) if abs(u) > abs(v) else abs(v)
    largest = type(u)(1) if largest == 0 else largest
    u, v = u / largest, v / largest
    return largest, np.sqrt(u * u + v * v), u, v


@part
def _odd(length):
    """1 where a square in it may have under- or overflown; a length of 0 is none of these only where it is truly 0."""
    low, high = type(length)(2.0**-60), type(length)(2.0**60)
    return np.int32(0) if length > low and length < high else np.int32(1)


# Of one block each, f0 and f1 its part of the two planes. All four maps in one loop: one pair after the other has half
# of the memory's bandwidth. False where a difference is odd: then `_careful_...` of the block.


@apart
def _lengths(f0, f1, g0, g1, lengths):
    odd = np.int32(0)
    for j in range(lengths.size):
        u, v = f0[j] - g0[j], f1[j] - g1[j]
        lengths[j] = np.sqrt(u * u + v * v)
        odd += _odd(lengths[j])
    return odd == 0


@apart
def _careful_lengths(f0, f1, g0, g1, lengths):
    for j in range(lengths.size):
        largest, root, _, _ = _unit(f0[j] - g0[j], f1[j] - g1[j])
        lengths[j] = largest * root


@apart
def _directions(f0, f1, g0, g1, scale, x, y):
    odd = np.int32(0)
    for j in range(x.size):
        u, v = f0[j] - g0[j], f1[j] - g1[j]
        root = np.sqrt(u * u + v * v)
        inverse = 1 / root
        x[j], y[j] = scale * (u * inverse), scale * (v * inverse)
        odd += _odd(root)
    return odd == 0


@apart
def _careful_directions(f0, f1, g0, g1, scale, x, y):
    for j in range(x.size):
        _, root, u, v = _unit(f0[j] - g0[j], f1[j] - g1[j])
        root = type(u)(1) if root == 0 else root
        x[j], y[j] = scale * (u / root), scale * (v / root)


@apart
def _masked(values, mask):
    for j in range(mask.size):
        values[j] = values[j] if mask[j] else type(values[j])(0)


@apart
def _add(sums, values):
    """To one sum each, in turn."""
    for k in range(values.size // sums.size):
        for j in range(sums.size):
            sums[j] += values[k * sums.size + j]
    for j in range(values.size % sums.size):
        sums[j] += values[values.size // sums.size * sums.size + j]


@kernel
def _sums(f, g, mask, sums, pixels, blocks, low, high):
    """Of the distances of each block."""
    lengths, lanes = np.empty(_BLOCK, f.dtype), np.empty(64)
    for piece in range(low, high):
        at, end, valid = _place(mask, pixels, blocks, piece)
        here = lengths[: end - at]
        maps = f[at:end], f[at + pixels : end + pixels], g[at:end], g[at + pixels : end + pixels]
        if not _lengths(*maps, here):
            _careful_lengths(*maps, here)
        _masked(here, valid)
        lanes[:] = 0
        _add(lanes, here)
        sums[piece] = lanes.sum()


@kernel
def _backward(f, g, mask, out, scale, pixels, blocks, low, high):
    """The unit vector of each difference times `scale`; 0 at distance 0 and outside the mask."""
    for piece in range(low, high):
        at, end, valid = _place(mask, pixels, blocks, piece)
        maps = f[at:end], f[at + pixels : end + pixels], g[at:end], g[at + pixels : end + pixels]
        x, y = out[at:end], out[at + pixels : end + pixels]
        if not _directions(*maps, scale, x, y):
            _careful_directions(*maps, scale, x, y)
        _masked(x, valid)
        _masked(y, valid)


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
