"""Kernels of `motionspec.ops.tvl1` for the CPU, compiled by numba. Imported on first use.

Layout. A map is computed alone, with its state in the cache: an array of 28 x 28 takes 3 KB in float32, a state six of
them. A map lies in lines of W + 1 cells, the last a pad, with one line above and one below, so that a loop runs over
the whole map at once: lines of 28 would leave half of each vector empty. The pads hold what makes the border rule come
out (the last flow again, so that its difference is 0; a dual field of 0). They are written, never multiplied by 0, so
that NaN stays where it is. No loop has more than 8 pairs of arrays that might overlap: LLVM would not vectorise it.

Arithmetic. Compiled without fast-math, but for "reassoc" in `_sum`, which sums eight at a time, always the same ones.
The three cases of (3) are u - h clamp(rho / L, +-lambda theta L) with L = |g|, h = g / L; in the scheme "released" with
L = sqrt(|g|^2 + 1e-12). Parameters and their gradients are float64 between maps.

Backward computes a map again, from every k-th iterate, and keeps k states: all of them where they fit into the second
cache, else k = sqrt(n). It holds memory for one map per thread, whatever the batch.

A map is computed whole by one thread and sums over maps are made afterwards: the number of threads does not show.
"""

import math
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from motionspec.ops.compiled import kernel, part, share
from motionspec.ops.support import no_second_derivative

_STATES = 1 << 19  # bytes of states that backward keeps before it thins them out: half of a common second cache
_SMALL = 1 << 16  # cells x iterations that take less time than to wake a thread


# -- loops over the cells of a map -------------------------------------------------------------------------------------


@part
def _difference(out, ahead, behind, factor):
    for i in range(out.size):
        out[i] = (ahead[i] - behind[i]) * factor


@part
def _smooth(out, before, a, after):
    eighth = a.dtype.type(0.125)
    for i in range(out.size):
        out[i] = (before[i] + after[i] + (a[i] + a[i])) * eighth


@part
def _subtract_from(out, a):
    for i in range(out.size):
        out[i] = a[i] - out[i]


@part
def _add(out, a):
    for i in range(out.size):
        out[i] += a[i]


@part
def _add_product(out, a, b, sign):
    for i in range(out.size):
        out[i] += sign * a[i] * b[i]


@numba.njit(nogil=True, error_model="numpy", fastmath={"reassoc"})
def _sum(a, b):
    total = a.dtype.type(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@part
def _clip(c, limit, rho, hx, hy, ux, uy):
    for i in range(c.size):
        a = rho[i] + hx[i] * ux[i] + hy[i] * uy[i]
        a = limit[i] if a > limit[i] else a  # NaN stays
        c[i] = -limit[i] if a < -limit[i] else a


@part
def _primal(u, before, c, h, px, px_left, py, py_above, w):
    ax, bx, ay, by, theta = w[0], w[1], w[2], w[3], w[4]
    ax, bx, ay, by = theta * ax, theta * bx, theta * ay, theta * by
    for i in range(u.size):
        u[i] = before[i] - c[i] * h[i] + (ax * px_left[i] + ay * py_above[i] + bx * px[i] + by * py[i])


@part
def _dual(px, py, u, right, below, r, epsilon):
    one = u.dtype.type(1)
    for i in range(u.size):
        # A square underflows only where 1 + r |d| is 1; flows whose differences overflow squared are out of reach.
        dx, dy = right[i] - u[i], below[i] - u[i]
        scale = one / (one + r * np.sqrt(dx * dx + dy * dy + epsilon))
        px[i] = (px[i] + r * dx) * scale
        py[i] = (py[i] + r * dy) * scale


@part
def _lengths(scale, length, u, right, below, r, epsilon):
    """What the backward of a dual step needs: |d| and 1 / (1 + r |d|)."""
    one = u.dtype.type(1)
    for i in range(u.size):
        dx, dy = right[i] - u[i], below[i] - u[i]
        length[i] = np.sqrt(dx * dx + dy * dy + epsilon)
        scale[i] = one / (one + r * length[i])


@part
def _move(p, before, ahead, u, scale, r):
    for i in range(p.size):
        p[i] = (before[i] + r * (ahead[i] - u[i])) * scale[i]


@part
def _through_scale(out, px, py, x, y, scale):
    for i in range(out.size):
        out[i] = -(px[i] * x[i] + py[i] * y[i]) * scale[i]


@part
def _add_to_r(out, x, y, scale, u, right, below, s, length):
    for i in range(out.size):
        out[i] += (x[i] * (right[i] - u[i]) + y[i] * (below[i] - u[i])) * scale[i] + s[i] * length[i]


@part
def _per_length(per, length, s, r):
    zero = s.dtype.type(0)
    for i in range(s.size):
        per[i] = zero if length[i] == zero else s[i] * r / length[i]  # at d = 0 the derivative of |d| is 0


@part
def _through_difference(out, bar, scale, per, ahead, u, r):
    for i in range(out.size):
        out[i] = r * bar[i] * scale[i] + per[i] * (ahead[i] - u[i])


@part
def _add_adjoint_of_gradient(bar, dx, dx_left, dy, dy_above):
    for i in range(bar.size):
        bar[i] += (dx_left[i] - dx[i]) + (dy_above[i] - dy[i])


@part
def _add_adjoint_of_divergence(out, bar, after, theta, at, before):
    for i in range(out.size):
        out[i] += theta * (at * bar[i] + before * after[i])


@part
def _residual(a, rho, hx, hy, ux, uy):
    for i in range(a.size):
        a[i] = rho[i] + hx[i] * ux[i] + hy[i] * uy[i]


@part
def _cases(a, sign, limit):
    """a where it is not clipped, else 0; its sign where it is, else 0."""
    zero, one = a.dtype.type(0), a.dtype.type(1)
    for i in range(a.size):
        above = one if a[i] > limit[i] else zero
        below = one if a[i] < -limit[i] else zero
        sign[i] = above - below
        a[i] = a[i] if sign[i] == zero else zero


@part
def _through_residual(z, sign, inverse, hx, x, hy, y):
    zero = z.dtype.type(0)
    for i in range(z.size):
        along = -(hx[i] * x[i] + hy[i] * y[i])
        along = along if sign[i] == zero else zero
        z[i] = zero if inverse[i] == zero else along


@part
def _add_to_direction(out, z, u, a, bar):
    for i in range(out.size):
        out[i] += z[i] * u[i] - a[i] * bar[i]


@part
def _length(length, gx, gy, epsilon):
    """Of the vectors g. The larger part is taken out, for its square may underflow."""
    zero, one = gx.dtype.type(0), gx.dtype.type(1)
    for i in range(length.size):
        x, y = abs(gx[i]), abs(gy[i])
        large, small = x if x > y else y, y if x > y else x
        ratio = small / large
        length[i] = zero if large + small == zero else large * np.sqrt(one + ratio * ratio)
    if epsilon > zero:
        for i in range(length.size):
            length[i] = np.sqrt(gx[i] * gx[i] + gy[i] * gy[i] + epsilon)


@part
def _constants(limit, inverse, length, lt):
    zero, one = length.dtype.type(0), length.dtype.type(1)
    for i in range(limit.size):
        limit[i] = lt * length[i]
        inverse[i] = zero if limit[i] * length[i] == zero else one / length[i]


@part
def _divide(out, a, length, otherwise):
    zero = a.dtype.type(0)
    for i in range(out.size):
        out[i] = a[i] * otherwise if length[i] == zero else a[i] / length[i]


@part
def _along(out, x, hx, y, hy, z, rho):
    for i in range(out.size):
        out[i] = x[i] * hx[i] + y[i] * hy[i] + z[i] * rho[i]


@part
def _scale(a, scale):
    for i in range(a.size):
        a[i] *= scale[i]


@part
def _to_gradient(out, bar, h, along, inverse, lt):
    """By g from that by h = g / L, by rho / L and, where clipped, by g itself; in place of the last."""
    zero = h.dtype.type(0)
    for i in range(out.size):
        smooth = zero if inverse[i] == zero else (bar[i] - along[i] * h[i]) * inverse[i]
        out[i] = smooth + lt * out[i]


# -- one map -----------------------------------------------------------------------------------------------------------


@part
def _load(to, f):
    """A map into its cells, the lines above and below repeated."""
    H, W = f.shape
    S = W + 1
    for y in range(H):
        line, cells = f[y], to[(y + 1) * S : (y + 2) * S]
        for x in range(W):
            cells[x] = line[x]
        cells[W] = 0
    to[:S], to[(H + 1) * S :] = to[S : 2 * S], to[H * S : (H + 1) * S]


@part
def _store(f, a):
    """A map from its cells."""
    H, W = f.shape
    S = W + 1
    for y in range(H):
        line, cells = f[y], a[(y + 1) * S : (y + 2) * S]
        for x in range(W):
            line[x] = cells[x]


@part
def _in(a, S, shift):
    """All cells but the outer lines, moved by `shift` cells."""
    return a[S + shift : a.size - S + shift]


@part
def _pad(a, S, value):
    for i in range(2 * S - 1, a.size - S, S):
        a[i] = value


@part
def _smooth_down(out, a, S):
    """By [1, 2, 1] / 8 along y, the border repeated: its own adjoint."""
    a[:S], a[a.size - S :] = a[S : 2 * S], a[a.size - 2 * S : a.size - S]
    _smooth(_in(out, S, 0), _in(a, S, -S), _in(a, S, 0), _in(a, S, S))


@part
def _smooth_across(out, a, S):
    _smooth(_in(out, S, 0), _in(a, S, -1), _in(a, S, 0), _in(a, S, 1))
    eighth = a.dtype.type(0.125)
    for first in range(S, a.size - S, S):
        last = first + S - 2
        before, after = a[max(last - 1, first)], a[min(first + 1, last)]
        edge = (a[first] + after + (a[first] + a[first])) * eighth
        out[last] = (a[last] + before + (a[last] + a[last])) * eighth
        out[first] = edge


@part
def _gradient(gx, gy, f, spare, f1, S, released):
    """The image gradient of the map in the cells f; of f1 in the border lines if `released`."""
    H, W = f1.shape
    one, half = f.dtype.type(1), f.dtype.type(0.5)
    if released:
        _difference(_in(gx, S, 0), _in(f, S, 1), _in(f, S, -1), half)
        _difference(_in(gy, S, 0), _in(f, S, S), _in(f, S, -S), half)
        for y in range(H):
            gx[(y + 1) * S] = (f1[y, min(1, W - 1)] - f1[y, 0]) * half
            gx[(y + 1) * S + W - 1] = (f1[y, W - 1] - f1[y, max(W - 2, 0)]) * half
        for x in range(W):
            gy[S + x] = (f1[min(1, H - 1), x] - f1[0, x]) * half
            gy[H * S + x] = (f1[H - 1, x] - f1[max(H - 2, 0), x]) * half
        return
    # Differences first: what is equal leaves exactly 0.
    _difference(_in(spare, S, 0), _in(f, S, 1), _in(f, S, -1), one)
    for first in range(S, f.size - S, S):
        last = first + W - 1
        spare[first] = f[min(first + 1, last)] - f[first]
        spare[last] = f[last] - f[max(last - 1, first)]
    _smooth_down(gx, spare, S)
    _difference(_in(spare, S, 0), _in(f, S, S), _in(f, S, -S), one)
    _smooth_across(gy, spare, S)


@part
def _gradient_backward(bar2, bar1, gx, gy, spare, S, released):
    """Add the adjoint of `_gradient` to the cells bar2 and, if `released`, to the map bar1. Destroys gx and gy."""
    H, W = bar1.shape
    zero, half, one = gx.dtype.type(0), gx.dtype.type(0.5), gx.dtype.type(1)
    if released:
        for y in range(H):
            i, j = (y + 1) * S, (y + 1) * S + W - 1
            if W > 1:
                bar1[y, 1] += gx[i] * half
                bar1[y, 0] -= gx[i] * half
                bar1[y, W - 1] += gx[j] * half
                bar1[y, W - 2] -= gx[j] * half
            gx[i], gx[j] = zero, zero
        for x in range(W):
            i, j = S + x, H * S + x
            if H > 1:
                bar1[1, x] += gy[i] * half
                bar1[0, x] -= gy[i] * half
                bar1[H - 1, x] += gy[j] * half
                bar1[H - 2, x] -= gy[j] * half
            gy[i], gy[j] = zero, zero
        _pad(gx, S, 0)
        gy[:S], gy[gy.size - S :] = zero, zero
        _difference(_in(spare, S, 0), _in(gx, S, -1), _in(gx, S, 1), half)
        _add(_in(bar2, S, 0), _in(spare, S, 0))
        _difference(_in(spare, S, 0), _in(gy, S, -S), _in(gy, S, S), half)
        _add(_in(bar2, S, 0), _in(spare, S, 0))
        return
    _smooth_down(spare, gx, S)
    _difference(_in(gx, S, 0), _in(spare, S, -1), _in(spare, S, 1), one)
    for first in range(S, gx.size - S, S):
        last = first + W - 1
        gx[first] = -spare[first] - spare[first + 1]
        gx[last] = spare[last - 1] + spare[last]
        if W == 1:
            gx[first] = 0
    _add(_in(bar2, S, 0), _in(gx, S, 0))
    _smooth_across(spare, gy, S)
    end = spare.size - S
    for i in range(S):
        spare[i] = -spare[S + i]
        spare[end + i] = -spare[end - S + i]
    _difference(_in(gy, S, 0), _in(spare, S, -S), _in(spare, S, S), one)
    _add(_in(bar2, S, 0), _in(gy, S, 0))


@part
def _prepare(map1, map2, cells, w, released):
    """rho / L, h, lambda theta L, and for backward g, L, 1 / L: rows 0, 1-2, 3, 4-5, 6, 7 of cells (9, cells)."""
    S, one, zero = map1.shape[1] + 1, w.dtype.type(1), w.dtype.type(0)
    rho, f, spare = cells[0], cells[1], cells[8]
    _load(f, map2)
    _gradient(cells[4], cells[5], f, spare, map1, S, released)
    _load(spare, map1)
    _subtract_from(spare, f)
    _length(cells[6], cells[4], cells[5], w[7])
    _constants(cells[3], cells[7], cells[6], w[6])
    _divide(rho, spare, cells[6], one)
    _divide(cells[1], cells[4], cells[6], zero)
    _divide(cells[2], cells[5], cells[6], zero)


@part
def _flow(after, before, p, cells, c, S, w):
    """The flow (2, cells) from the one before and its dual fields p (4, cells)."""
    _clip(c, cells[3], cells[0], cells[1], cells[2], before[0], before[1])
    for k in range(2):
        u, px, py = after[k], p[2 * k], p[2 * k + 1]
        _primal(
            _in(u, S, 0),
            _in(before[k], S, 0),
            _in(c, S, 0),
            _in(cells[1 + k], S, 0),
            _in(px, S, 0),
            _in(px, S, -1),
            _in(py, S, 0),
            _in(py, S, -S),
            w,
        )
        for i in range(2 * S - 1, u.size - S, S):
            u[i] = u[i - 1]
        u[u.size - S :] = u[u.size - 2 * S : u.size - S]


@part
def _next(after, before, cells, c, S, w):
    """An iterate from the one before: flow (0-1), dual fields (2-5), and of their step `_lengths` (6-7, 8-9)."""
    _flow(after[:2], before[:2], before[2:6], cells, c, S, w)
    for k in range(2):
        u, right, below = _in(after[k], S, 0), _in(after[k], S, 1), _in(after[k], S, S)
        scale = _in(after[6 + k], S, 0)
        _lengths(scale, _in(after[8 + k], S, 0), u, right, below, w[5], w[7])
        _move(_in(after[2 + 2 * k], S, 0), _in(before[2 + 2 * k], S, 0), right, u, scale, w[5])
        _move(_in(after[3 + 2 * k], S, 0), _in(before[3 + 2 * k], S, 0), below, u, scale, w[5])
        _pad(after[2 + 2 * k], S, 0)
        _pad(after[3 + 2 * k], S, 0)


@kernel
def _forward(f1, f2, flow, w, n, released, low, high):
    """Maps low to high of f1 and f2 (M, H, W) into flow (N, 2, C, H, W)."""
    C, H, W = flow.shape[2:]
    S, size = W + 1, (H + 2) * (W + 1)
    u, p = np.empty((2, 2, size), w.dtype), np.empty((4, size), w.dtype)
    cells, c = np.zeros((9, size), w.dtype), np.zeros(size, w.dtype)
    for m in range(low, high):
        _prepare(f1[m], f2[m], cells, w, released)
        u[0], p[:] = 0, 0
        for t in range(n):
            now = u[(t + 1) % 2]
            _flow(now, u[t % 2], p, cells, c, S, w)
            for k in range(2 if t < n - 1 else 0):
                px, py = _in(p[2 * k], S, 0), _in(p[2 * k + 1], S, 0)
                _dual(px, py, _in(now[k], S, 0), _in(now[k], S, 1), _in(now[k], S, S), w[5], w[7])
                _pad(p[2 * k], S, 0)  # the other's pad has no neighbour that counts
        for k in range(2):
            _store(flow[m // C, k, m % C], u[n % 2, k])


@part
def _dual_backward(bar, d, state, more, S, w, numbers):
    """From the derivatives by the dual fields (bar 2-5) after a dual step, which led to `state`, to those before it
    and, added, those by u (bar 0-1)."""
    per, s, by_r = _in(more[0], S, 0), _in(more[1], S, 0), _in(more[3], S, 0)
    for k in range(2):
        u, px, py = _in(state[k], S, 0), _in(state[2 + 2 * k], S, 0), _in(state[3 + 2 * k], S, 0)
        right, below = _in(state[k], S, 1), _in(state[k], S, S)
        scale, length = _in(state[6 + k], S, 0), _in(state[8 + k], S, 0)
        x, y = _in(bar[2 + 2 * k], S, 0), _in(bar[3 + 2 * k], S, 0)
        _through_scale(s, x, y, px, py, scale)
        if numbers:
            _add_to_r(by_r, x, y, scale, u, right, below, s, length)
        _per_length(per, length, s, w[5])
        _through_difference(_in(d[0], S, 0), x, scale, per, right, u, w[5])
        _through_difference(_in(d[1], S, 0), y, scale, per, below, u, w[5])
        _scale(x, scale)
        _scale(y, scale)
        _last(d[0], d[1], S)
        _add_adjoint_of_gradient(
            _in(bar[k], S, 0), _in(d[0], S, 0), _in(d[0], S, -1), _in(d[1], S, 0), _in(d[1], S, -S)
        )
        _pad(bar[k], S, 0)


@part
def _last(x, y, S):
    """0 into x in the last column and its pad, into y in the last line."""
    for i in range(2 * S - 1, x.size - S, S):
        x[i - 1 : i + 1] = 0
    y[y.size - 2 * S : y.size - S] = 0


@kernel
def _backward(f1, f2, by_flow, bar1, bar2, sums, w, n, k, released, numbers, low, high):
    """Derivatives by f1, f2 into bar1, bar2; if `numbers`, by (ax, bx, ay, by) / theta, r, lambda theta into sums."""
    C, H, W = by_flow.shape[2:]
    S, size, one = W + 1, (H + 2) * (W + 1), w.dtype.type(1)
    cells, c = np.zeros((9, size), w.dtype), np.zeros(size, w.dtype)
    marked = np.zeros(((n + k - 1) // k, 10, size), w.dtype)  # every k-th iterate
    kept = np.zeros((min(k, n) + 1, 10, size), w.dtype)  # those from one that is marked to the next
    bar = np.zeros((6, size), w.dtype)
    d, more, grow = np.zeros((2, size), w.dtype), np.zeros((5, size), w.dtype), np.zeros((6, size), w.dtype)
    ones, minus = np.ones(size, w.dtype), np.full(size, -one)
    a, z, sign = more[0], more[1], more[2]  # after the use of more in _dual_backward
    by_h, by_rho, clipped = grow[:2], grow[2], grow[3:5]
    for m in range(low, high):
        _prepare(f1[m], f2[m], cells, w, released)
        rho, h, limit, inverse = cells[0], cells[1:3], cells[3], cells[7]
        for t in range(1, len(marked)):
            kept[0] = marked[t - 1]
            for i in range(1, k + 1):
                _next(kept[i], kept[i - 1], cells, c, S, w)
            marked[t] = kept[k]
        bar[:], grow[:], more[3] = 0, 0, 0
        for j in range(2):
            _load(bar[j], by_flow[m // C, j, m % C])
            bar[j, :S], bar[j, size - S :] = 0, 0
        for t in range(n - 1, -1, -1):
            if t == n - 1 or t % k == k - 1:  # those of this stretch
                kept[0] = marked[t // k]
                for i in range(1, t % k + 1):
                    _next(kept[i], kept[i - 1], cells, c, S, w)
                if t < n - 1:
                    kept[k] = marked[t // k + 1]
            if t < n - 1:
                _dual_backward(bar, d, kept[t % k + 1], more, S, w, numbers)
            now = kept[t % k]
            for j in range(2 if t > 0 else 0):  # the first dual fields are 0
                inner = _in(bar[j], S, 0)
                px, py = now[2 + 2 * j], now[3 + 2 * j]
                if numbers:
                    sums[m, 0] += _sum(inner, _in(px, S, -1))
                    sums[m, 1] += _sum(inner, _in(px, S, 0))
                    sums[m, 2] += _sum(inner, _in(py, S, -S))
                    sums[m, 3] += _sum(inner, _in(py, S, 0))
                _add_adjoint_of_divergence(_in(bar[2 + 2 * j], S, 0), inner, _in(bar[j], S, 1), w[4], w[1], w[0])
                _add_adjoint_of_divergence(_in(bar[3 + 2 * j], S, 0), inner, _in(bar[j], S, S), w[4], w[3], w[2])
                _last(bar[2 + 2 * j], bar[3 + 2 * j], S)
            _residual(a, rho, h[0], h[1], now[0], now[1])
            _cases(a, sign, limit)
            _through_residual(z, sign, inverse, h[0], bar[0], h[1], bar[1])
            _add(by_rho, z)
            for j in range(2):
                _add_to_direction(by_h[j], z, now[j], a, bar[j])
                _add_product(clipped[j], sign, bar[j], -one)
                _add_product(bar[j], h[j], z, one)
        sums[m, 4] = _sum(more[3], ones)
        sums[m, 5] = _sum(clipped[0], cells[4]) + _sum(clipped[1], cells[5])
        _along(z, by_h[0], h[0], by_h[1], h[1], by_rho, rho)
        for j in range(2):
            _to_gradient(clipped[j], by_h[j], h[j], z, inverse, w[6])
        _scale(by_rho, inverse)
        d[0] = by_rho
        _scale(by_rho, minus)
        _store(bar1[m], by_rho)
        _gradient_backward(d[0], bar1[m], clipped[0], clipped[1], z, S, released)
        _store(bar2[m], d[0])


# -- many maps ---------------------------------------------------------------------------------------------------------


def _numbers(like: Tensor, tau: Tensor, lam: Tensor, theta: Tensor, wx: Tensor, wy: Tensor, released: bool) -> Any:
    """[ax, bx, ay, by, theta, tau / theta, lambda theta, epsilon] for the kernels."""
    t, la, th = tau.item(), lam.item(), theta.item()
    r = t / th if th else math.nan
    return np.array([*wx.tolist(), *wy.tolist(), th, r, la * th, 1e-12 * released], like.numpy().dtype)


def _maps(f: Tensor) -> Any:
    return f.contiguous().flatten(0, 1).numpy()


@torch.library.custom_op("motionspec::representation_flow_numba", mutates_args=())
def representation_flow(
    f1: Tensor,
    f2: Tensor,
    tau: Tensor,
    lam: Tensor,
    theta: Tensor,
    wx: Tensor,
    wy: Tensor,
    n_iter: int,
    released: bool,
) -> Tensor:
    """`ops.tvl1.representation_flow` in float32 or float64, scheme "released" or "classic"."""
    N, C, H, W = f1.shape
    flow = torch.empty(N, 2, C, H, W, dtype=f1.dtype)
    w = _numbers(f1, tau, lam, theta, wx, wy, released)
    share(_forward, N * C, f1.numel() * n_iter // _SMALL, _maps(f1), _maps(f2), flow.numpy(), w, n_iter, released)
    return flow.flatten(1, 2)


@torch.library.custom_op("motionspec::representation_flow_numba_backward", mutates_args=())
def _representation_flow_backward(
    by_flow: Tensor,
    f1: Tensor,
    f2: Tensor,
    tau: Tensor,
    lam: Tensor,
    theta: Tensor,
    wx: Tensor,
    wy: Tensor,
    n_iter: int,
    released: bool,
    numbers: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The derivatives by the seven tensors; 0 by the last five, unless `numbers` asks for them."""
    N, C, H, W = f1.shape
    bar1, bar2 = (torch.empty(N, C, H, W, dtype=f1.dtype) for _ in range(2))
    w = _numbers(f1, tau, lam, theta, wx, wy, released)
    sums = np.zeros((N * C, 6))
    k = n_iter if 10 * n_iter * (H + 2) * (W + 1) * w.itemsize <= _STATES else math.isqrt(n_iter - 1) + 1
    given = by_flow.contiguous().view(N, 2, C, H, W).numpy()
    out = bar1.flatten(0, 1).numpy(), bar2.flatten(0, 1).numpy(), sums
    maps = _maps(f1), _maps(f2), given, *out
    share(_backward, N * C, f1.numel() * n_iter // _SMALL, *maps, w, n_iter, max(k, 1), released, numbers)
    ax, bx, ay, by, by_r, by_lt = sums.sum(0).tolist()
    t, la, th = tau.item(), lam.item(), theta.item()
    by_theta = np.dot((ax, bx, ay, by), [*wx.tolist(), *wy.tolist()]) - by_r * t / th**2 + by_lt * la
    found = by_r / th, by_lt * th, by_theta, (ax * th, bx * th), (ay * th, by * th)
    by_tau, by_lam, by_theta, by_wx, by_wy = (torch.tensor(x, dtype=f1.dtype) for x in found)
    return bar1, bar2, by_tau, by_lam, by_theta, by_wx, by_wy


@representation_flow.register_fake
def _(f1, f2, tau, lam, theta, wx, wy, n_iter, released):
    N, C, H, W = f1.shape
    return f1.new_empty(N, 2 * C, H, W)


@_representation_flow_backward.register_fake
def _(by_flow, f1, f2, tau, lam, theta, wx, wy, n_iter, released, numbers):
    maps = (f1.new_empty(f1.shape) for _ in range(2))
    return *maps, *(t.new_empty(t.shape) for t in (tau, lam, theta, wx, wy))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *saved, ctx.n_iter, ctx.released = inputs
    ctx.save_for_backward(*saved)


def _differentiate(ctx: Any, by_flow: Tensor) -> tuple[Any, ...]:
    rest = ctx.n_iter, ctx.released, any(ctx.needs_input_grad[2:])
    return *_representation_flow_backward(by_flow, *ctx.saved_tensors, *rest), None, None


representation_flow.register_autograd(_differentiate, setup_context=_keep)
_representation_flow_backward.register_autograd(no_second_derivative("tvl1.representation_flow", "numba"))
