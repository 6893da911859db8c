"""CPU kernels of `costvol.displacement_map` by numba, forward and backward; imported on first use.

Bound by multiplications: per pixel (2 R_h + 1)(2 R_w + 1) C of them forward, three times that backward, which computes
the scores again. A thread walks down the rows and holds, as unit vectors, the row of f0 and the 2 R_h + 1 rows of f1
that it sees; of the cost volume there is one row. The gradient of f1 is gathered by key rows, in the order of the query
rows, by the thread that has the key row: the same bits for every number of threads.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload
from torch import Tensor

from motionspec.ops.checks import widened
from motionspec.ops.compiled import kernel, operator, part, share
from motionspec.ops.costvol import eager_derivative
from motionspec.ops.support import no_second_derivative

# What `_multiply_add` holds in registers: so many rows times columns of so many bytes each.
_ROWS, _COLUMNS, _BYTES = 2, 4, 32


def _block(typing, out, out_row, out_column, a, a_row, a_step, b, b_column, b_step, steps):
    """out[r out_row + k out_column + x] += sum over m of a[r a_row + m a_step + x] b[k b_column + m b_step + x].

    For the rows r, the columns k and the x of _BYTES bytes; m < steps. Strides count elements from the first of each
    array. In LLVM's terms, because numba would not keep the sums in registers.
    """

    def generate(context, builder, signature, arguments):
        element = signature.args[0].dtype
        vector = ir.VectorType(context.get_value_type(element), _BYTES // (element.bitwidth // 8))

        def pointer(argument):
            return context.make_array(signature.args[argument])(context, builder, arguments[argument]).data

        def address(base, *terms):
            for number, stride in terms:
                number = ir.Constant(stride.type, number) if isinstance(number, int) else number
                base = builder.gep(base, [builder.mul(number, stride)])
            return builder.bitcast(base, vector.as_pointer())

        def load(place):
            return builder.load(place, align=element.bitwidth // 8)

        out, a, b = map(pointer, (0, 3, 6))
        _, out_row, out_column, _, a_row, a_step, _, b_column, b_step, steps = arguments
        block = [(r, k) for r in range(_ROWS) for k in range(_COLUMNS)]
        places = [address(out, (r, out_row), (k, out_column)) for r, k in block]
        sums = [cgutils.alloca_once_value(builder, load(place)) for place in places]
        with cgutils.for_range(builder, steps) as loop:
            rows = [load(address(a, (r, a_row), (loop.index, a_step))) for r in range(_ROWS)]
            columns = [load(address(b, (k, b_column), (loop.index, b_step))) for k in range(_COLUMNS)]
            for (r, k), total in zip(block, sums, strict=True):
                product = builder.fmul(rows[r], columns[k], flags=("contract",))
                builder.store(builder.fadd(builder.load(total), product, flags=("contract",)), total)
        for place, total in zip(places, sums, strict=True):
            builder.store(builder.load(total), place, align=element.bitwidth // 8)
        return context.get_dummy_value()

    n = types.intp
    return types.void(out, n, n, a, n, n, b, n, n, n), generate


_multiply_add: Any = intrinsic(_block)

# exp(x) for x <= 0 of a float32 = 2^n 2^r, |r| <= 1/2: n comes out of adding _ROUND, in the last bits of the sum.
_ROUND, _LOG2_E, _LOWEST = np.float32(1.5 * 2**23), np.float32(math.log2(math.e)), np.float32(-87)
_LN_2_HIGH, _LN_2_LOW = np.float32(0.693359375), np.float32(math.log(2) - 0.693359375)
_ONE = np.float32(1)
_TAYLOR = tuple(np.float32(1 / math.factorial(k)) for k in range(2, 8))


def _exp(x: Any) -> Any:
    """Of x <= 0; below e^-87 a float32 has 0. NaN stays."""


@overload(_exp)
def _(x):
    if x is types.float64:
        return lambda x: math.exp(x)

    def vectorised(x):
        shifted = x * _LOG2_E + _ROUND
        n = shifted - _ROUND
        r = (x - n * _LN_2_HIGH) - n * _LN_2_LOW
        c2, c3, c4, c5, c6, c7 = _TAYLOR
        power = _ONE + r * (_ONE + r * (c2 + r * (c3 + r * (c4 + r * (c5 + r * (c6 + r * c7))))))
        scale = np.int32((np.float32(shifted).view(np.int32) + 127) << 23).view(np.float32)
        return np.float32(0) if x < _LOWEST else power * scale

    return vectorised


@part
def _room(f, R_h, R_w):
    """Left margin and stride of a row; zeros for two rows of f0 and 2 R_h + 2 of f1, for their lengths, for scores."""
    _, C, _, W = f.shape
    margin = (R_w + 7) // 8 * 8
    offsets = (2 * R_w + _COLUMNS) // _COLUMNS * _COLUMNS
    stride = (margin + (W + 7) // 8 * 8 + offsets + 7) // 8 | 1  # odd: channels do not meet in one set of the cache
    channels, keys, stride = (C + _COLUMNS - 1) // _COLUMNS * _COLUMNS, 2 * R_h + 2, stride * 8
    e0, e1 = np.zeros((3, channels, stride), f.dtype), np.zeros((keys + 1, channels, stride), f.dtype)
    scores = np.zeros((2, keys, offsets, stride), f.dtype)
    return margin, e0, e1, np.ones((2, 2, W), f.dtype), np.ones((keys, 2, W), f.dtype), scores


@part
def _unit(f, n, y, e, margin, lengths):
    """Row y as unit vectors, and what they were divided by: the largest component, then the length, as its inverse.

    The inverse is 0 for a zero vector. Divided by the largest component first, squares neither under- nor overflow.
    """
    _, C, H, W = f.shape
    zero, one = f.dtype.type(0), f.dtype.type(1)
    largest, inverse = lengths[0], lengths[1]
    largest[:], inverse[:] = zero, zero
    if not 0 <= y < H:
        e[:] = zero
        return
    for c in range(C):
        row, unit = f[n, c, y], e[c, margin:]
        for x in range(W):
            unit[x] = row[x]
            largest[x] = abs(row[x]) if abs(row[x]) > largest[x] else largest[x]
    for x in range(W):
        largest[x] = largest[x] if largest[x] > zero else one
    for c in range(C):
        unit = e[c, margin:]
        for x in range(W):
            unit[x] /= largest[x]
            inverse[x] += unit[x] * unit[x]
    for x in range(W):
        inverse[x] = zero if inverse[x] == zero else one / math.sqrt(inverse[x])
    for c in range(C):
        unit = e[c, margin:]
        for x in range(W):
            unit[x] *= inverse[x]


@part
def _project(d, e, margin, lengths, out, n, y):
    """From the gradient of a row of unit vectors to that of the row itself."""
    _, C, _, W = out.shape
    largest, inverse = lengths[0], lengths[1]
    zero = d.dtype.type(0)
    along = np.zeros(W, d.dtype)
    for c in range(C):
        unit, slope = e[c, margin:], d[c, margin:]
        for x in range(W):
            along[x] += unit[x] * slope[x]
    for c in range(C):
        unit, slope, row = e[c, margin:], d[c, margin:], out[n, c, y]
        for x in range(W):
            across = (slope[x] - unit[x] * along[x]) * inverse[x] / largest[x]
            row[x] = zero if inverse[x] == zero else across


@part
def _see(f0, f1, n, y, R_h, R_w, fresh, margin, e0, e1, lengths0, lengths1, scores):
    """Rows y and y + 1 of f0, the rows of f1 that they see, and their products: [row, row of f1, dj, x]."""
    _, C, _, W = f0.shape
    keys, offsets, stride = scores.shape[1:]
    for k in range(y - R_h if fresh else y + R_h, y + 2 + R_h):
        _unit(f1, n, k, e1[k % keys], margin, lengths1[k % keys])
    for p in range(2):
        _unit(f0, n, y + p, e0[p], margin, lengths0[p])
    scores[:] = f0.dtype.type(0)
    for x in range(margin, margin + W, _BYTES // f0.itemsize):
        for k in range(keys):
            for j in range(0, 2 * R_w + 1, _COLUMNS):
                _multiply_add(
                    scores[0, k, j, x:], keys * offsets * stride, stride,
                    e0[0, 0, x:], e0.shape[1] * stride, stride,
                    e1[(y - R_h + k) % keys, 0, x - R_w + j :], 1, stride, C,
                )  # fmt: skip


@part
def _softmax(scores, y, H, W, R_h, R_w, tau, exclude, margin):
    """Scores of a row [di, dj, x] become weights; their sums: all, times dj, times di."""
    number = scores.dtype.type
    if exclude:
        for i in range(2 * R_h + 1):
            for j in range(2 * R_w + 1):
                score = scores[i, j, margin : margin + W]
                if 0 <= y + i - R_h < H:
                    score[: max(R_w - j, 0)] = score[max(W - max(j - R_w, 0), 0) :] = number(-np.inf)
                else:
                    score[:] = number(-np.inf)
    top = np.full(W, number(-np.inf))
    for i in range(2 * R_h + 1):
        for j in range(2 * R_w + 1):
            score = scores[i, j, margin:]
            for x in range(W):
                top[x] = score[x] if score[x] > top[x] else top[x]
    sums = np.zeros((4, W), scores.dtype)
    total, right, down, line = sums[0], sums[1], sums[2], sums[3]
    for i in range(2 * R_h + 1):
        line[:] = number(0)
        for j in range(2 * R_w + 1):
            score, dj = scores[i, j, margin:], number(j - R_w)
            for x in range(W):
                score[x] = _exp((score[x] - top[x]) / tau)
            for x in range(W):
                line[x] += score[x]
                right[x] += score[x] * dj
        di = number(i - R_h)
        for x in range(W):
            total[x] += line[x]
            down[x] += line[x] * di
    return total, right, down


@kernel
def _forward(f0, f1, out, R_h, R_w, tau, exclude, low, high):
    """Pairs of rows, of all samples."""
    _, _, H, W = f0.shape
    pairs = (H + 1) // 2
    margin, e0, e1, lengths0, lengths1, scores = _room(f0, R_h, R_w)
    for piece in range(low, high):
        n, y = piece // pairs, piece % pairs * 2
        fresh = piece == low or y == 0
        _see(f0, f1, n, y, R_h, R_w, fresh, margin, e0, e1, lengths0, lengths1, scores)
        for p in range(min(2, H - y)):
            total, right, down = _softmax(scores[p, p:], y + p, H, W, R_h, R_w, tau, exclude, margin)
            for x in range(W):
                out[n, 0, y + p, x] = right[x] / total[x]
                out[n, 1, y + p, x] = down[x] / total[x]


@part
def _slope(scores, grad, n, y, R_h, R_w, tau, exclude, margin):
    """Scores of a row become the gradient for them."""
    _, _, H, W = grad.shape
    total, right, down = _softmax(scores, y, H, W, R_h, R_w, tau, exclude, margin)
    number = scores.dtype.type
    middle = np.empty_like(total)
    for x in range(W):
        u, v, scale = right[x] / total[x], down[x] / total[x], total[x] * tau
        right[x], down[x] = grad[n, 0, y, x] / scale, grad[n, 1, y, x] / scale
        middle[x] = right[x] * u + down[x] * v
    for i in range(2 * R_h + 1):
        di = number(i - R_h)
        for j in range(2 * R_w + 1):
            score, dj = scores[i, j, margin:], number(j - R_w)
            for x in range(W):
                score[x] *= right[x] * dj + down[x] * di - middle[x]
            score[W : W + 7] = number(0)  # beyond the row stand products with what is beyond it


@kernel
def _backward(f0, f1, grad, g0, g1, R_h, R_w, tau, exclude, low, high):
    """The gradients of pairs of rows, of all samples: of f1, gathered from all rows of f0 that see them."""
    _, C, H, W = f0.shape
    pairs, lanes = (H + 1) // 2, _BYTES // f0.itemsize
    margin, e0, e1, lengths0, lengths1, scores = _room(f0, R_h, R_w)
    d0, d1 = np.zeros_like(e0), np.zeros_like(e1)  # the last row of each takes what is of no use
    keys, offsets, stride = scores.shape[1:]
    row = e0.shape[1] * stride
    for n in range(low // pairs, (high + pairs - 1) // pairs):
        first, last = max(low - n * pairs, 0) * 2, min((high - n * pairs) * 2, H)
        start = max(first - R_h, 0) // 2 * 2
        for y in range(start, min(last + R_h, H), 2):
            for k in range(y - R_h if y == start else y + R_h, y + 2 + R_h):
                d1[k % keys] = f0.dtype.type(0)
            _see(f0, f1, n, y, R_h, R_w, y == start, margin, e0, e1, lengths0, lengths1, scores)
            for p in range(2):
                if y + p < H:
                    _slope(scores[p, p:], grad, n, y + p, R_h, R_w, tau, exclude, margin)
                else:
                    scores[p] = f0.dtype.type(0)
            if first <= y < last:
                d0[:] = f0.dtype.type(0)
                for x in range(margin, margin + W, lanes):
                    for k in range(keys):
                        p = int(k == keys - 1)  # the last row of f1 is seen by y + 1 alone, the first by y alone
                        there = row if 0 < k < keys - 1 else (2 - p) * row
                        for c in range(0, C, _COLUMNS):
                            _multiply_add(
                                d0[p, c, x:], there, stride,
                                scores[p, k, 0, x:], (1 - p) * keys * offsets * stride, stride,
                                e1[(y - R_h + k) % keys, c, x - R_w :], stride, 1, 2 * R_w + 1,
                            )  # fmt: skip
                for p in range(min(2, H - y)):
                    _project(d0[p], e0[p], margin, lengths0[p], g0, n, y + p)
            for p in range(min(2, H - y)):
                for i in range(0, 2 * R_h + 1, 2):
                    here = (y + p - R_h + i) % keys
                    there = ((here + 1) % keys if i < 2 * R_h else keys) - here
                    for x in range(margin, margin + W, lanes):
                        for c in range(0, C, _COLUMNS):
                            _multiply_add(
                                d1[here, c, x:], there * row, stride,
                                scores[p, p + i, 0, x + R_w :], offsets * stride * int(i < 2 * R_h), stride - 1,
                                e0[p, c, x + R_w :], stride, -1, 2 * R_w + 1,
                            )  # fmt: skip
            for k in range(max(y - R_h, first), min(H if y + 2 >= H else y + 2 - R_h, last)):
                _project(d1[k % keys], e1[k % keys], margin, lengths1[k % keys], g1, n, k)


_OPERATIONS = 4e4  # of a thread at least


def _share(run: Any, f0: Tensor, f1: Tensor, R_h: int, R_w: int, tau: float, exclude: bool, *others: Tensor) -> None:
    N, C, H, W = f0.shape
    a, b = (widened(f).contiguous().numpy() for f in (f0, f1))
    pairs = N * ((H + 1) // 2)
    threads = 1 + int(N * C * H * W * (2 * R_h + 1) * (2 * R_w + 1) / _OPERATIONS)
    kind = np.finfo(a.dtype)  # beyond its range the softmax is that at its ends: the maximum alone, the mean
    tau = a.dtype.type(min(max(tau, float(kind.tiny)), float(kind.max)))
    share(run, pairs, threads, a, b, *[t.numpy() for t in others], R_h, R_w, tau, exclude)


@operator("motionspec::displacement_map_numba")
def displacement_map(f0: Tensor, f1: Tensor, R_h: int, R_w: int, tau: float, exclude: bool, named: bool) -> Tensor:
    """The expected offset (N, 2, H, W); in the half types computed in float32 and rounded once."""
    N, _, H, W = f0.shape
    out = widened(f0.new_empty((N, 2, H, W)))
    if out.numel():
        _share(_forward, f0, f1, R_h, R_w, tau, exclude, out)
    return out.to(f0.dtype)


@operator("motionspec::displacement_map_numba_backward")
def backward(
    f0: Tensor, f1: Tensor, grad: Tensor, R_h: int, R_w: int, tau: float, exclude: bool
) -> tuple[Tensor, Tensor]:
    """The gradients for f0 and f1."""
    g0, g1 = (widened(f0.new_empty(f0.shape)) for _ in range(2))
    if g0.numel():
        _share(_backward, f0, f1, R_h, R_w, tau, exclude, widened(grad).contiguous(), g0, g1)
    return g0.to(f0.dtype), g1.to(f0.dtype)


@displacement_map.register_fake
def _(f0: Tensor, f1: Tensor, R_h: int, R_w: int, tau: float, exclude: bool, named: bool) -> Tensor:
    N, _, H, W = f0.shape
    return f0.new_empty((N, 2, H, W))


@backward.register_fake
def _(f0: Tensor, f1: Tensor, grad: Tensor, R_h: int, R_w: int, tau: float, exclude: bool) -> tuple[Tensor, Tensor]:
    return f0.new_empty(f0.shape), f0.new_empty(f0.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.options = inputs[2:]


def _derivative(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    found = eager_derivative(ctx, "numba", grad)
    if found is None:
        found = backward(*ctx.saved_tensors, grad, *ctx.options[:-1])
    return (*found, *[None] * 5)


displacement_map.register_autograd(_derivative, setup_context=_save)
backward.register_autograd(no_second_derivative("costvol.displacement_map", "numba"))
