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
from motionspec.ops.compiled import added, apart, kernel, operator, part, share
from motionspec.ops.losses import register

_BLOCK = 4096  # pixels of a sample that are worked on at a time
_PIXELS = 1e4  # that a thread has, at least


@part
def _place(mask, pixels, blocks, piece, everywhere):
    """Of a block: where it begins and ends in the first plane of its sample, and its part of the mask."""
    sample, first = piece // blocks, piece % blocks * _BLOCK
    last = min(first + _BLOCK, pixels)
    at = 2 * sample * pixels
    valid = mask[sample * pixels + first : sample * pixels + last] if mask.size else everywhere[: last - first]
    return at + first, at + last, valid


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


# Of one block each, f0 and f1 its part of the two planes. All maps in one loop: one pair after the other has half of
# the memory's bandwidth, and a loop of its own for the sum leaves memory idle. Where a valid difference is odd
# `_careful_...` follows.


@added
def _length(f0, f1, g0, g1, valid):
    """The sum, and how many are odd."""
    total, odd = 0.0, np.int32(0)
    for j in range(valid.size):
        u, v = f0[j] - g0[j], f1[j] - g1[j]
        length = np.sqrt(u * u + v * v)
        total += length if valid[j] else type(u)(0)
        odd += _odd(length if valid[j] else type(u)(1))
    return total, odd


@added
def _careful_length(f0, f1, g0, g1, valid):
    total = 0.0
    for j in range(valid.size):
        largest, root, _, _ = _unit(f0[j] - g0[j], f1[j] - g1[j])
        total += largest * root if valid[j] else type(root)(0)
    return total


@apart
def _directions(f0, f1, g0, g1, valid, scale, x, y):
    """How many are odd."""
    odd = np.int32(0)
    for j in range(valid.size):
        u, v = f0[j] - g0[j], f1[j] - g1[j]
        root = np.sqrt(u * u + v * v)
        inverse = scale / root
        x[j] = u * inverse if valid[j] else type(u)(0)
        y[j] = v * inverse if valid[j] else type(u)(0)
        odd += _odd(root if valid[j] else type(u)(1))
    return odd


@apart
def _careful_directions(f0, f1, g0, g1, valid, scale, x, y):
    for j in range(valid.size):
        _, root, u, v = _unit(f0[j] - g0[j], f1[j] - g1[j])
        root = type(u)(1) if root == 0 else root
        x[j] = scale * (u / root) if valid[j] else type(u)(0)
        y[j] = scale * (v / root) if valid[j] else type(u)(0)


@apart
def _negated(to, a):
    for j in range(to.size):
        to[j] = -a[j]


@kernel
def _sums(f, g, mask, sums, pixels, blocks, low, high):
    """Of the distances of each block."""
    everywhere = np.ones(_BLOCK, np.bool_)
    for piece in range(low, high):
        at, end, valid = _place(mask, pixels, blocks, piece, everywhere)
        maps = f[at:end], f[at + pixels : end + pixels], g[at:end], g[at + pixels : end + pixels]
        total, odd = _length(*maps, valid)
        sums[piece] = _careful_length(*maps, valid) if odd else total


@kernel
def _backward(f, g, mask, out, negative, scale, pixels, blocks, low, high):
    """The unit vector of each difference times `scale`; 0 at distance 0, outside the mask. If wanted its negative."""
    everywhere, odd = np.ones(_BLOCK, np.bool_), _odd(abs(scale))
    for piece in range(low, high):
        at, end, valid = _place(mask, pixels, blocks, piece, everywhere)
        maps = f[at:end], f[at + pixels : end + pixels], g[at:end], g[at + pixels : end + pixels]
        x, y = out[at:end], out[at + pixels : end + pixels]
        if odd or _directions(*maps, valid, scale, x, y):
            _careful_directions(*maps, valid, scale, x, y)
        if negative.size:
            _negated(negative[at:end], x)
            _negated(negative[at + pixels : end + pixels], y)


def _flat(tensor: Tensor) -> np.ndarray:
    """In the type to compute in and the order to walk in."""
    return widened(tensor).contiguous().view(-1).numpy()


def _run(run: Any, flow: Tensor, target: Tensor, mask: Tensor | None, *others: Any) -> None:
    """Share out the blocks of all samples."""
    pixels, blocks = _shares(flow)
    valid = np.empty(0, bool) if mask is None else mask.contiguous().view(-1).numpy()
    threads = 1 + int(len(flow) * pixels / _PIXELS)
    share(run, len(flow) * blocks, threads, _flat(flow), _flat(target), valid, *others, pixels, blocks)


def _shares(flow: Tensor) -> tuple[int, int]:
    """Pixels of a sample, and its blocks."""
    pixels = math.prod(flow.shape[2:])
    return pixels, -(-pixels // _BLOCK)


@operator("motionspec::endpoint_error_numba")
def endpoint_error(flow: Tensor, target: Tensor, mask: Tensor | None, mean: bool, named: bool) -> tuple[Tensor, Tensor]:
    """The sum or the mean of the distances, and the number of pixels that it was divided by."""
    pixels, blocks = _shares(flow)
    sums = np.empty(len(flow) * blocks)
    _run(_sums, flow, target, mask, sums)
    number = 1 if not mean else len(flow) * pixels if mask is None else int(mask.sum())
    value = sums.sum() / number if number else math.nan
    return flow.new_full((), value), flow.new_full((), number, dtype=torch.float64)


@operator("motionspec::endpoint_error_backward_numba")
def backward(
    flow: Tensor, target: Tensor, mask: Tensor | None, grad: Tensor, number: Tensor, both: bool
) -> tuple[Tensor, Tensor]:
    """The gradient for the flow; that for the target, its negative, or an empty tensor."""
    out = widened(flow).new_empty(flow.shape)
    negative = out.new_empty(flow.shape if both else 0)
    scale = grad.double() / number.clamp(min=1)
    _run(_backward, flow, target, mask, _flat(out), _flat(negative), scale.to(out.dtype).numpy()[()])
    return out.to(flow.dtype), negative.to(flow.dtype)


register(endpoint_error, backward, "numba")
