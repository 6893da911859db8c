"""The CPU kernels of `tvl1.pyramid_flow`, compiled by numba; imported on first use.

Per pixel and iteration there are two square roots and a division, the floor: all else is made to hide behind them. So
that nothing waits for memory either, `_iterate` goes down the rows once for many iterations, each one row behind the
one before, while those rows are in the cache; a band of rows has them for itself, with as many rows around it as there
are iterations, computed by its neighbours too. The arithmetic of a pixel is the same whoever does it.
"""

import numpy as np
import torch
from torch import Tensor

from motionspec.ops import tvl1
from motionspec.ops.compiled import kernel, operator, part, share

_CACHE = 2**19  # bytes of the rows that are iterated together
_ALONE = 2**11  # pixels below which a second thread costs more than it does
_PAD = 16  # elements before a row: what is left of it is 0, and it begins where a cache line does
_EDGE = 3  # more would not show: 4 x 4 pixels beyond a border are all the same
_COLUMNS = 256  # that a median is taken of together
# A row of the state: u, v, then the dual fields of u and of v. One of the constants: the unit gradient, the residual
# over the gradient's length, and the most that a step may be.
_STATE, _CONSTANTS = 6, 4


@part
def _step(above, here, constants, width, theta, ratio):
    """A flow row's next iterate, in place, and that of the dual row above it, whose flow row is new already."""
    one = above.dtype.type(1)
    a, b = _PAD, _PAD + width
    u, v = here[0, a:b], here[1, a:b]
    ux, uy, vx, vy = here[2, a:b], here[3, a:b], here[4, a:b], here[5, a:b]
    left_ux, left_vx = here[2, a - 1 : b - 1], here[4, a - 1 : b - 1]
    above_u, right_u, above_v, right_v = above[0, a:b], above[0, a + 1 : b + 1], above[1, a:b], above[1, a + 1 : b + 1]
    above_ux, above_uy, above_vx, above_vy = above[2, a:b], above[3, a:b], above[4, a:b], above[5, a:b]
    gx, gy, residual, limit = constants[0], constants[1], constants[2], constants[3]
    for x in range(width):
        c = residual[x] + gx[x] * u[x] + gy[x] * v[x]
        c = limit[x] if c > limit[x] else c  # c, where it is NaN
        c = -limit[x] if c < -limit[x] else c
        new_u = u[x] - c * gx[x] + theta * ((ux[x] - left_ux[x]) + (uy[x] - above_uy[x]))
        new_v = v[x] - c * gy[x] + theta * ((vx[x] - left_vx[x]) + (vy[x] - above_vy[x]))
        u[x], v[x] = new_u, new_v
        ux_step, uy_step = ratio * (right_u[x] - above_u[x]), ratio * (new_u - above_u[x])
        vx_step, vy_step = ratio * (right_v[x] - above_v[x]), ratio * (new_v - above_v[x])
        scale_u = one + np.sqrt(ux_step * ux_step + uy_step * uy_step)
        scale_v = one + np.sqrt(vx_step * vx_step + vy_step * vy_step)
        inverse = one / (scale_u * scale_v)
        inverse_u, inverse_v = inverse * scale_v, inverse * scale_u
        above_ux[x] = (above_ux[x] + ux_step) * inverse_u
        above_uy[x] = (above_uy[x] + uy_step) * inverse_u
        above_vx[x] = (above_vx[x] + vx_step) * inverse_v
        above_vy[x] = (above_vy[x] + vy_step) * inverse_v
    here[0, b], here[1, b] = here[0, b - 1], here[1, b - 1]  # no derivative across the last column


@kernel
def _iterate(flow, dual, constants, to_flow, to_dual, changes, times, theta, ratio, low, high):
    """`times[n]` iterations of sample n, none for it where that is -1, of rows low .. high - 1 of all samples' rows.

    `changes` (N, times, H): the sum of the squares of a row's change, if there is room.
    """
    height = flow.shape[1]
    for n in range(low // height, (high - 1) // height + 1):
        if times[n] >= 0:
            top, bottom = max(low - n * height, 0), min(high - n * height, height)
            maps = flow[n], dual[n], constants[n], to_flow[n], to_dual[n], changes[n]
            _band(*maps, times[n], theta, ratio, top, bottom)


@part
def _band(flow, dual, constants, to_flow, to_dual, changes, times, theta, ratio, low, high):
    """Iteration t needs a row more on each side than iteration t + 1, and goes down one row behind iteration t - 1."""
    height, _, width = flow.shape
    slots = times + 2
    state = np.zeros((slots, _STATE, (width + 2 * _PAD) // _PAD * _PAD), flow.dtype)
    before = np.empty((2, width), flow.dtype)
    zero = ratio - ratio
    first, last = max(low - times, 0), min(high + times, height)
    a, b = _PAD, _PAD + width
    for front in range(first, last + max(times, 1)):
        if front < last:
            state[front % slots, :2, a:b] = flow[front]
            state[front % slots, 2:, a:b] = dual[front]
        for t in range(times):
            y, more = front - t, times - 1 - t
            if y < max(low - more, 0) or y > min(high + more, height):
                continue
            above, here = state[(y - 1) % slots], state[y % slots]
            if y == height:  # below the image: as the last row, so that no derivative is across
                here[:2] = above[:2]
                here[2:] = zero
            watched = len(changes) and low <= y < high
            if watched:
                before[:] = here[:2, a:b]
            _step(above, here, constants[y], width, theta, ratio if y else zero)
            if watched:
                changes[t, y] = _squares(before, here[:2, a:b])
        y = front - times  # one above the last iteration's row
        if low <= y < high:
            to_flow[y] = state[y % slots, :2, a:b]
            to_dual[y] = state[y % slots, 2:, a:b]


@part
def _squares(before, after):
    total = 0.0
    for k in range(2):
        for x in range(before.shape[1]):
            change = after[k, x] - before[k, x]
            total += change * change
    return total


@kernel
def _warp(flow, images, looks, size, limit, to_flow, constants, low, high):
    """The median of the flow, and the constants of the iterations around it; the first images are `images` [: N]."""
    height, _, width = flow.shape[1:]
    radius = size // 2
    window = np.empty((2, size, width + 2 * radius), flow.dtype)
    poor = np.empty((2, size), np.bool_)  # rows of the window that have a NaN
    some = np.empty((size * size // 2 + 2, max(_COLUMNS, window.shape[2])), flow.dtype)
    start, weights = np.empty((2, width), np.int32), np.empty((2, 4, width), flow.dtype)
    mixed, columns = np.empty(16, flow.dtype), np.arange(width).astype(flow.dtype)
    for n in range(low // height, (high - 1) // height + 1):
        top, bottom = max(low - n * height, 0), min(high - n * height, height)
        for y in range(top - radius, top + radius):
            _load(flow[n], y, window, poor)
        for y in range(top, bottom):
            _load(flow[n], y + radius, window, poor)
            for k in range(2):
                if size == 1:
                    to_flow[n, y, k] = flow[n, y, k]
                elif size == 5:
                    _median_of_5(window[k], some, to_flow[n, y, k])
                else:
                    _median(window[k], some, to_flow[n, y, k])
                if poor[k].any():
                    _spread_nan(window[k], to_flow[n, y, k])
            _places(to_flow[n, y], start, weights)
            _gather(looks[n], y, start, weights, mixed, constants[n, y])
            _finish(images[n, y, 0], y, height, to_flow[n, y], columns, limit, constants[n, y])


@part
def _load(flow, y, window, poor):
    """Row y of the flow into its place among the rows of the window, the border repeated."""
    height, _, width = flow.shape
    row, radius = flow[min(max(y, 0), height - 1)], window.shape[1] // 2
    for k in range(2):
        padded = window[k, y % window.shape[1]]
        padded[:radius] = row[k, 0]
        padded[radius : radius + width] = row[k]
        padded[radius + width :] = row[k, width - 1]
        count = 0
        for x in range(width):
            count += row[k, x] != row[k, x]
        poor[k, y % window.shape[1]] = count > 0


@part
def _median(window, some, out):
    """Of the pixels of `window` (size, W + size - 1), by forgetful selection; see `tvl1._median`."""
    size, width = len(window), len(out)
    for start in range(0, width, _COLUMNS):
        stop = min(start + _COLUMNS, width)
        kept = len(some)
        for k in range(kept):
            some[k, : stop - start] = window[k // size, start + k % size : stop + k % size]
        for k in range(kept, size * size + 1):
            for i in range(1, kept):
                _exchange(some[0], some[i], stop - start)
            for i in range(1, kept - 1):
                _exchange(some[i], some[kept - 1], stop - start)
            kept -= 1
            if k < size * size:
                some[0, : stop - start] = window[k // size, start + k % size : stop + k % size]
        out[start:stop] = some[1, : stop - start]


@part
def _median_of_5(window, ranks, out):
    """Sort all columns once, then the rows of each 5 x 5, which leaves its columns sorted.

    Of the numbers on its long diagonal then, and of those on each side of it, one can be the median: the median of the
    diagonal, the largest of the numbers before it, the smallest after it. What is not asked for is not sorted.
    """
    a, b, c, d, e = ranks[0], ranks[1], ranks[2], ranks[3], ranks[4]
    for x in range(len(out) + 4):
        a[x], b[x], c[x], d[x], e[x] = _sorted_5(window[0, x], window[1, x], window[2, x], window[3, x], window[4, x])
    for x in range(len(out)):
        _, _, _, a3, a4 = _sorted_5(a[x], a[x + 1], a[x + 2], a[x + 3], a[x + 4])
        _, _, b2, b3, b4 = _sorted_5(b[x], b[x + 1], b[x + 2], b[x + 3], b[x + 4])
        _, c1, c2, c3, _ = _sorted_5(c[x], c[x + 1], c[x + 2], c[x + 3], c[x + 4])
        d0, d1, d2, _, _ = _sorted_5(d[x], d[x + 1], d[x + 2], d[x + 3], d[x + 4])
        e0, e1, _, _, _ = _sorted_5(e[x], e[x + 1], e[x + 2], e[x + 3], e[x + 4])
        _, _, middle, _, _ = _sorted_5(a4, b3, c2, d1, e0)
        before = _sorted(_sorted(a3, b2)[1], _sorted(c1, d0)[1])[1]
        after = _sorted(_sorted(b4, c3)[0], _sorted(d2, e1)[0])[0]
        low, high = _sorted(before, after)
        out[x] = _sorted(low, _sorted(middle, high)[0])[1]


@part
def _sorted(a, b):
    return (a, b) if a < b else (b, a)


@part
def _sorted_5(a, b, c, d, e):
    a, b = _sorted(a, b)
    d, e = _sorted(d, e)
    c, e = _sorted(c, e)
    c, d = _sorted(c, d)
    b, e = _sorted(b, e)
    a, d = _sorted(a, d)
    a, c = _sorted(a, c)
    b, d = _sorted(b, d)
    b, c = _sorted(b, c)
    return a, b, c, d, e


@part
def _spread_nan(window, out):
    """As the eager median, which is NaN where a pixel is."""
    size, width = len(window), len(out)
    for j in range(size):
        for x in range(width + size - 1):
            if window[j, x] != window[j, x]:
                out[max(x - size + 1, 0) : min(x + 1, width)] = np.nan


@part
def _exchange(low, high, width):
    for x in range(width):
        low[x], high[x] = _sorted(low[x], high[x])


@part
def _places(flow, start, weights):
    """Of each pixel's 4 x 4: the first column and row from its own, and the weights, as `tvl1._keys`."""
    number = flow.dtype.type
    a, one, two, most = number(tvl1._BICUBIC), number(1), number(2), number(2**30)
    for k in range(2):
        u, first = flow[k], start[k]
        wa, wb, wc, wd = weights[k, 0], weights[k, 1], weights[k, 2], weights[k, 3]
        for x in range(len(u)):
            whole = np.floor(u[x])
            t = u[x] - whole  # apart from x + u: their sum would lose the digits of the fraction
            near = most if whole > most else whole if whole > -most else -most  # of NaN any
            first[x] = np.int32(near) - np.int32(1)
            wa[x], wb[x], wc[x], wd[x] = (
                _far(t + one, a, number),
                _near(t, a, number),
                _near(one - t, a, number),
                _far(two - t, a, number),
            )


@part
def _near(t, a, number):
    return ((a + number(2)) * t - (a + number(3))) * t * t + number(1)


@part
def _far(t, a, number):
    return a * (((t - number(5)) * t + number(8)) * t - number(4))


@part
def _gather(looks, y, start, weights, mixed, constants):
    """The second image and its derivatives at p + u(p), of `looks` (H, 4 (W + 2 _EDGE)); `mixed` has room for 16."""
    height, width = len(looks), start.shape[1]
    for x in range(width):
        column = 4 * (min(max(x + start[0, x], -_EDGE), width - 1) + _EDGE)
        row, last = y + start[1, x], height - 1
        a, b = looks[min(max(row, 0), last)], looks[min(max(row + 1, 0), last)]
        c, d = looks[min(max(row + 2, 0), last)], looks[min(max(row + 3, 0), last)]
        wa, wb, wc, wd = weights[1, 0, x], weights[1, 1, x], weights[1, 2, x], weights[1, 3, x]
        for k in range(16):
            i = column + k
            mixed[k] = wa * a[i] + wb * b[i] + wc * c[i] + wd * d[i]
        wa, wb, wc, wd = weights[0, 0, x], weights[0, 1, x], weights[0, 2, x], weights[0, 3, x]
        constants[2, x] = wa * mixed[0] + wb * mixed[4] + wc * mixed[8] + wd * mixed[12]
        constants[0, x] = wa * mixed[1] + wb * mixed[5] + wc * mixed[9] + wd * mixed[13]
        constants[1, x] = wa * mixed[2] + wb * mixed[6] + wc * mixed[10] + wd * mixed[14]


@part
def _finish(image, y, height, flow, columns, limit, constants):
    """From what was gathered for a row to its constants: see `tvl1.pyramid_flow` and `tvl1._solve`."""
    number, width = flow.dtype.type, len(image)
    one, zero, right, top, bottom = number(1), number(0), number(width), number(y + 1), number(height - y)
    u, v = flow[0], flow[1]
    gx, gy, residual, most = constants[0], constants[1], constants[2], constants[3]
    for x in range(width):
        inside = _covered(u[x] + (columns[x] + one), (right - columns[x]) - u[x], zero, one)
        inside = inside * _covered(v[x] + top, bottom - v[x], zero, one)
        fx, fy = gx[x] * inside, gy[x] * inside
        rest = residual[x] * inside - image[x] * inside - (fx * u[x] + fy * v[x])
        a, b = abs(fx), abs(fy)
        larger = a if a > b else b
        unit = larger if larger > zero else one
        length = larger * np.sqrt((a / unit) * (a / unit) + (b / unit) * (b / unit))
        divisor = one if length == zero else length
        gx[x], gy[x], residual[x], most[x] = fx / divisor, fy / divisor, rest / divisor, limit * length


@part
def _covered(before, after, zero, one):
    """1 where p + u(p) is in the image, 0 from one pixel outside, NaN where it is; see `tvl1._inside`."""
    near = before if before < after else after
    return zero if near < zero else one if near > one else near


@kernel
def _look(images, out, low, high):
    """The second images, `images` [N:], and their derivatives by `tvl1._derivative`: (N, H, 4 (W + 2 _EDGE)).

    A pixel's three numbers and a zero are side by side, the first and the last pixel of a row _EDGE times more.
    """
    height, width = images.shape[1], images.shape[3]
    eight, twelve = images.dtype.type(8), images.dtype.type(12)
    line = np.empty(width + 4, images.dtype)
    for piece in range(low, high):
        n, y = piece // height, piece % height
        image, look = images[len(out) + n, :, 0], out[n, y]
        line[:2], line[2 : width + 2], line[width + 2 :] = image[y, 0], image[y], image[y, width - 1]
        a, b = image[max(y - 2, 0)], image[max(y - 1, 0)]
        c, d = image[min(y + 1, height - 1)], image[min(y + 2, height - 1)]
        for x in range(-_EDGE, width + _EDGE):
            i, k = min(max(x, 0), width - 1), 4 * (x + _EDGE)
            look[k] = image[y, i]
            look[k + 1] = (eight * (line[i + 3] - line[i + 1]) - (line[i + 4] - line[i])) / twelve
            look[k + 2] = (eight * (c[i] - b[i]) - (d[i] - a[i])) / twelve


@kernel
def _resample(f, rows, row_weights, columns, column_weights, out, low, high):
    """f (N, H, K, W) to the size of `out` with the weights of `_table`; those of the rows (K, H, taps)."""
    height, _, width = out.shape[1:]
    taps, lines = column_weights.shape[1], row_weights.shape[2]
    padded = np.empty(f.shape[3] + 2 * taps, f.dtype)
    line = padded[taps : taps + f.shape[3]]
    for piece in range(low, high):
        n, y = piece // height, piece % height
        for k in range(f.shape[2]):
            for j in range(lines):
                source, weight = f[n, min(max(rows[y] + j, 0), f.shape[1] - 1), k], row_weights[k, y, j]
                for x in range(len(line)):
                    line[x] = weight * source[x] + (line[x] if j else line.dtype.type(0))
            padded[:taps], padded[taps + len(line) :] = line[0], line[len(line) - 1]
            for x in range(width):
                total = line.dtype.type(0)
                for i in range(taps):
                    total += column_weights[x, i] * padded[taps + columns[x] + i]
                out[n, y, k, x] = total


def _table(size, new, blur, dtype):
    """For each of `new` pixels the first of those of `size` that it is made of, and their weights: blur, then resize.

    The rule of half pixels, as `tvl1._resize`; `blur`: weights that add up to 1.
    """
    place = np.maximum((np.arange(new) + 0.5) * (size / new) - 0.5, 0)
    start = place.astype(np.int64)
    fraction = np.where(start < size - 1, place - start, 0)[:, None]
    weights = np.append(blur, 0) * (1 - fraction) + np.append(0, blur) * fraction
    return start - len(blur) // 2, weights.astype(dtype)


def _resized(f, h, w, blurred):
    """Images (N, H, 1, W), blurred for their new size, or a flow (N, H, 2, W), in the pixels of its new size."""
    N, H, K, W = f.shape
    blurs = (tvl1._blur(H, h), tvl1._blur(W, w)) if blurred else ([1.0], [1.0])
    rows, row_weights = _table(H, h, blurs[0], f.dtype)
    gain = np.array([1.0] if blurred else [w / W, h / H], f.dtype)
    out = np.empty((N, h, K, w), f.dtype)
    columns = _table(W, w, blurs[1], f.dtype)
    share(_resample, N * h, _threads(N * h * w), f, rows, gain[:, None, None] * row_weights, *columns, out)
    return out


def _threads(pixels):
    return torch.get_num_threads() if pixels >= _ALONE else 1


@operator("motionspec::pyramid_flow")
def flow(
    image0: Tensor,
    image1: Tensor,
    tau: float,
    lam: float,
    theta: float,
    n_scales: int,
    scale: float,
    n_warps: int,
    n_iter: int,
    tolerance: float | None,
    median: int,
) -> Tensor:
    """`tvl1.pyramid_flow` of float32 or float64."""
    N, _, H, W = image0.shape
    sizes = tvl1._sizes(H, W, n_scales, scale)
    pyramid = [np.concatenate([image0.detach().numpy(), image1.detach().numpy()]).reshape(2 * N, H, 1, W)]
    for h, w in sizes[1:]:
        pyramid.append(_resized(pyramid[-1], h, w, True))
    h, w = sizes[-1]
    u = np.zeros((N, h, 2, w), pyramid[0].dtype)
    for images, (h, w) in zip(reversed(pyramid), reversed(sizes), strict=True):
        u = _resized(u, h, w, False)
        u = _level(images, u, tau, lam, theta, n_warps, n_iter, tolerance, median)
    return torch.from_numpy(np.ascontiguousarray(u.swapaxes(1, 2)))


@flow.register_fake
def _(image0: Tensor, image1: Tensor, *options: object) -> Tensor:
    N, _, H, W = image0.shape
    return image0.new_empty((N, 2, H, W))


def _level(images, flow, tau, lam, theta, n_warps, n_iter, tolerance, median):
    """The flow (N, H, 2, W) on one scale."""
    N, H, _, W = flow.shape
    number, rows, threads = flow.dtype.type, N * H, _threads(N * H * W)
    looks = np.zeros((N, H, 4 * (W + 2 * _EDGE)), number)
    share(_look, rows, threads, images, looks)
    dual = np.zeros((N, H, 4, W), number)
    to_flow, to_dual = np.empty_like(flow), np.empty_like(dual)
    line = -(-W // _PAD) * _PAD
    constants = np.zeros((N, H + 1, _CONSTANTS, line), number)
    cached = _CACHE // ((_STATE + _CONSTANTS) * line * flow.itemsize) - 1
    most = max(1, min(n_iter, cached, max(8, rows // (4 * threads))))
    most = -(-n_iter // -(-n_iter // most))  # as even as can be
    changes = np.zeros((N, 0 if tolerance is None else most, H))

    def iterate(times):
        scalars = times, number(theta), number(tau / theta)
        share(_iterate, rows, threads, flow, dual, constants, to_flow, to_dual, changes, *scalars)

    for _ in range(n_warps):
        share(_warp, rows, threads, flow, images, looks, median, number(lam * theta), to_flow, constants)
        flow, to_flow = to_flow, flow
        active = np.ones(N, bool)
        for done in range(0, n_iter, most):
            times = np.where(active, min(most, n_iter - done), 0)
            iterate(times)
            if tolerance is not None:
                still = changes.sum(2) / (H * W) < tolerance**2
                still[:, times.max() :] = False
                end = np.where(still.any(1), still.argmax(1) + 1, times)
                if (again := active & (end < times)).any():
                    iterate(np.where(again, end, -1))
                active &= ~still.any(1)
            flow, to_flow, dual, to_dual = to_flow, flow, to_dual, dual
            if not active.any():
                break
    return flow
