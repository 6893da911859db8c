"""Kernels of `motionspec.ops.tvl1` for the CPU, compiled by numba. Imported on first use.

Layout. A map is computed alone, with its state in the cache: an array of 28 x 28 takes 3 KB in float32, a state six of
them. A map lies in lines of W + 1 cells, the last a pad, with one line above and one below, so that a loop runs over
the whole map at once: lines of 28 would leave half of each vector empty. The pads hold what makes the border rule come
out (the last flow again, so that its difference is 0; a dual field of 0). They are written, never multiplied by 0, so
that NaN stays where it is.

Arithmetic. The three cases of (3) are u - h clamp(rho / L, +-lambda theta L) with L = |g|, h = g / L; in the scheme
"released" with L = sqrt(|g|^2 + 1e-12). Parameters and their gradients are float64 between maps.

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

from motionspec.ops.compiled import apart, copy, kernel, part, share
from motionspec.ops.support import no_second_derivative

_STATES = 1 << 19  # bytes of states that backward keeps before it thins them out: half of a common second cache
_SMALL = 1 << 16  # cells x iterations that take less time than to wake a thread


@apart
def _in(a, S, shift):
    """All cells but the outer lines, moved by `shift` cells."""
    return a[S + shift : a.size - S + shift]


@apart
def _pad(a, S, value):
    for i in range(2 * S - 1, a.size - S, S):
        a[i] = value


@apart
def _load(to, f):
    """A map into its cells, the lines above and below repeated."""
    H, W = f.shape
    S = W + 1
    for y in range(H):
        line, cells = f[y], to[(y + 1) * S : (y + 2) * S]
        for x in range(W):
            cells[x] = line[x]
        cells[W] = 0
    copy(to[:S], to[S : 2 * S])
    copy(to[(H + 1) * S :], to[H * S : (H + 1) * S])


@apart
def _store(f, a):
    """A map from its cells."""
    H, W = f.shape
    S = W + 1
    for y in range(H):
        line, cells = f[y], a[(y + 1) * S : (y + 2) * S]
        for x in range(W):
            line[x] = cells[x]


@apart
def _difference(out, ahead, behind, factor):
    for i in range(out.size):
        out[i] = (ahead[i] - behind[i]) * factor


@apart
def _smooth(out, before, a, after):
    eighth = a.dtype.type(0.125)
    for i in range(out.size):
        out[i] = (before[i] + after[i] + (a[i] + a[i])) * eighth


@apart
def _add(out, a):
    for i in range(out.size):
        out[i] += a[i]


@apart
def _smooth_down(out, a, S):
    """By [1, 2, 1] / 8 along y, the border repeated: its own adjoint."""
    copy(a[:S], a[S : 2 * S])
    copy(a[a.size - S :], a[a.size - 2 * S : a.size - S])
    _smooth(_in(out, S, 0), _in(a, S, -S), _in(a, S, 0), _in(a, S, S))


@apart
def _smooth_across(out, a, S):
    _smooth(_in(out, S, 0), _in(a, S, -1), _in(a, S, 0), _in(a, S, 1))
    eighth = a.dtype.type(0.125)
    for first in range(S, a.size - S, S):
        last = first + S - 2
        before, after = a[max(last - 1, first)], a[min(first + 1, last)]
        edge = (a[first] + after + (a[first] + a[first])) * eighth
        out[last] = (a[last] + before + (a[last] + a[last])) * eighth
        out[first] = edge


@apart
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


@apart
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


# -- the iteration -----------------------------------------------------------------------------------------------------


@apart
def _constants(rho, hx, hy, limit, inverse, gx, gy, f1, f2, lt, epsilon):
    """rho / L, h = g / L, lambda theta L and 1 / L; for L = 0: rho, 0, 0 and 0.

    1 / L is 0 too where lambda theta L^2 underflows: the derivative by rho / L is 0 there.
    """
    zero, one = rho.dtype.type(0), rho.dtype.type(1)
    for i in range(rho.size):
        x, y = abs(gx[i]), abs(gy[i])
        # The larger part is taken out, for its square may underflow.
        large, small = x if x > y else y, y if x > y else x
        ratio = small / large
        length = zero if large + small == zero else large * np.sqrt(one + ratio * ratio)
        length = length if epsilon == zero else np.sqrt(x * x + y * y + epsilon)
        divisor = one if length == zero else length
        rho[i] = (f2[i] - f1[i]) / divisor
        hx[i] = gx[i] / divisor
        hy[i] = gy[i] / divisor
        limit[i] = lt * length
        inverse[i] = zero if limit[i] * length == zero else one / divisor


@apart
def _primal(ux, uy, pxx, pxy, pyx, pyy, rho, hx, hy, limit, S, w):
    """(2)-(4)."""
    ax, bx, ay, by = w[0], w[1], w[2], w[3]
    x, xx, xx_left, xy, xy_above = _in(ux, S, 0), _in(pxx, S, 0), _in(pxx, S, -1), _in(pxy, S, 0), _in(pxy, S, -S)
    y, yx, yx_left, yy, yy_above = _in(uy, S, 0), _in(pyx, S, 0), _in(pyx, S, -1), _in(pyy, S, 0), _in(pyy, S, -S)
    rho, hx, hy, limit = _in(rho, S, 0), _in(hx, S, 0), _in(hy, S, 0), _in(limit, S, 0)
    for i in range(x.size):
        c = rho[i] + hx[i] * x[i] + hy[i] * y[i]
        c = limit[i] if c > limit[i] else c  # NaN stays
        c = -limit[i] if c < -limit[i] else c
        x[i] += (ax * xx_left[i] + ay * xy_above[i] + bx * xx[i] + by * xy[i]) - c * hx[i]
        y[i] += (ax * yx_left[i] + ay * yy_above[i] + bx * yx[i] + by * yy[i]) - c * hy[i]
    for u in (ux, uy):
        for i in range(2 * S - 1, u.size - S, S):
            u[i] = u[i - 1]
        copy(u[u.size - S :], u[u.size - 2 * S : u.size - S])


@apart
def _dual(px, py, u, S, w):
    """(5) of one component."""
    r, epsilon, one = w[4], w[6], w.dtype.type(1)
    x, y, here, right, below = _in(px, S, 0), _in(py, S, 0), _in(u, S, 0), _in(u, S, 1), _in(u, S, S)
    for i in range(x.size):
        # A square underflows only where 1 + r |d| is 1; flows whose differences overflow squared are out of reach.
        dx, dy = right[i] - here[i], below[i] - here[i]
        scale = one / (one + r * np.sqrt(dx * dx + dy * dy + epsilon))
        x[i] = (x[i] + r * dx) * scale
        y[i] = (y[i] + r * dy) * scale
    _pad(px, S, 0)  # the pad of py has no neighbour that counts


@apart
def _dual_backward(bar_px, bar_py, to_dx, to_dy, by_r, bar, px, py, u, S, w):
    """Of one component, back through the divergence (bar is by the flow after it) and the dual step that led to p.

    The derivatives by p become those by the dual field before that step; to_dx, to_dy: by the differences of u; by_r
    grows.
    """
    r, epsilon, zero, one = w[4], w[6], w.dtype.type(0), w.dtype.type(1)
    ax, bx, ay, by = w[0], w[1], w[2], w[3]
    x, y, out_x, out_y = _in(bar_px, S, 0), _in(bar_py, S, 0), _in(to_dx, S, 0), _in(to_dy, S, 0)
    b, b_right, b_below = _in(bar, S, 0), _in(bar, S, 1), _in(bar, S, S)
    px, py, grow = _in(px, S, 0), _in(py, S, 0), _in(by_r, S, 0)
    here, right, below = _in(u, S, 0), _in(u, S, 1), _in(u, S, S)
    for i in range(x.size):
        dx, dy = right[i] - here[i], below[i] - here[i]
        length = np.sqrt(dx * dx + dy * dy + epsilon)
        still = length == zero  # there the derivative of |d| is 0
        both = one / (length * (one + r * length))  # one division for two
        scale = one if still else length * both
        sx = (x[i] + (bx * b[i] + ax * b_right[i])) * scale
        sy = (y[i] + (by * b[i] + ay * b_below[i])) * scale
        through = -(px[i] * sx + py[i] * sy)
        per = zero if still else r * through * (one + r * length) * both
        out_x[i] = r * sx + per * dx
        out_y[i] = r * sy + per * dy
        grow[i] += sx * dx + sy * dy + through * length
        x[i] = sx
        y[i] = sy
    for i in range(2 * S - 1, u.size - S, S):
        to_dx[i - 1 : i + 1] = 0
    to_dy[u.size - 2 * S : u.size - S] = 0


@apart
def _primal_backward(bx, by, by_rho, by_hx, by_hy, by_gx, by_gy, ux, uy, rho, hx, hy, limit, inverse, d, S):
    """bx, by: by the flow after it, become those by the flow before, d (4, cells) from `_dual_backward` included.

    What the others grow by is the derivative by rho / L, by h and, where clipped, by lambda theta g itself.
    """
    zero, one = rho.dtype.type(0), rho.dtype.type(1)
    bar_x, bar_y, rho, hx, hy = _in(bx, S, 0), _in(by, S, 0), _in(rho, S, 0), _in(hx, S, 0), _in(hy, S, 0)
    ux, uy, limit, inverse = _in(ux, S, 0), _in(uy, S, 0), _in(limit, S, 0), _in(inverse, S, 0)
    by_rho, by_hx, by_hy, by_gx, by_gy = (
        _in(by_rho, S, 0),
        _in(by_hx, S, 0),
        _in(by_hy, S, 0),
        _in(by_gx, S, 0),
        _in(by_gy, S, 0),
    )
    xx, xx_left, xy, xy_above = _in(d[0], S, 0), _in(d[0], S, -1), _in(d[1], S, 0), _in(d[1], S, -S)
    yx, yx_left, yy, yy_above = _in(d[2], S, 0), _in(d[2], S, -1), _in(d[3], S, 0), _in(d[3], S, -S)
    for i in range(rho.size):
        x, y = bar_x[i], bar_y[i]
        a = rho[i] + hx[i] * ux[i] + hy[i] * uy[i]
        # No branch holds a load or a store: each would be made apart, under a mask.
        sign = (one if a > limit[i] else zero) - (one if a < -limit[i] else zero)
        a = a if sign == zero else zero
        z = -(hx[i] * x + hy[i] * y)
        z = z if sign == zero else zero
        one_over = inverse[i]
        z = zero if one_over == zero else z
        by_gx[i] -= sign * x
        by_gy[i] -= sign * y
        by_rho[i] += z
        by_hx[i] += z * ux[i] - a * x
        by_hy[i] += z * uy[i] - a * y
        bar_x[i] = x + hx[i] * z + ((xx_left[i] - xx[i]) + (xy_above[i] - xy[i]))
        bar_y[i] = y + hy[i] * z + ((yx_left[i] - yx[i]) + (yy_above[i] - yy[i]))
    _pad(bx, S, 0)
    _pad(by, S, 0)


@apart
def _to_gradient(by_gx, by_gy, by_rho, by_hx, by_hy, rho, hx, hy, inverse, lt):
    """By g from that by h = g / L, by rho / L and, where clipped, by lambda theta g; by rho from that by rho / L."""
    zero = rho.dtype.type(0)
    for i in range(rho.size):
        along = by_hx[i] * hx[i] + by_hy[i] * hy[i] + by_rho[i] * rho[i]
        none = inverse[i] == zero
        by_gx[i] = lt * by_gx[i] + (zero if none else (by_hx[i] - along * hx[i]) * inverse[i])
        by_gy[i] = lt * by_gy[i] + (zero if none else (by_hy[i] - along * hy[i]) * inverse[i])
        by_rho[i] *= inverse[i]


@numba.njit(nogil=True, error_model="numpy", fastmath={"contract", "reassoc"})
def _sum(a, b):
    """Several at a time, always the same ones."""
    total = a.dtype.type(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


# -- one map -----------------------------------------------------------------------------------------------------------


@part
def _prepare(map1, map2, cells, f1, f2, w):
    """`_constants` into rows 0-4 of cells, the image gradient into rows 5-6; f1 and f2 are to work in."""
    S = map1.shape[1] + 1
    _load(f2, map2)
    _gradient(cells[5], cells[6], f2, f1, map1, S, w[6] > 0)
    _load(f1, map1)
    _constants(cells[0], cells[1], cells[2], cells[3], cells[4], cells[5], cells[6], f1, f2, w[5], w[6])


@part
def _step(s, cells, S, w, dual):
    """A state, of the flow (0-1) and, if `dual`, the dual fields (2-5), becomes the next."""
    _primal(s[0], s[1], s[2], s[3], s[4], s[5], cells[0], cells[1], cells[2], cells[3], S, w)
    if dual:
        _dual(s[2], s[3], s[0], S, w)
        _dual(s[4], s[5], s[1], S, w)


@kernel
def _forward(f1, f2, flow, w, n, low, high):
    """Maps low to high of f1 and f2 (M, H, W) into flow (N, 2, C, H, W)."""
    C, H, W = flow.shape[2:]
    S, size = W + 1, (H + 2) * (W + 1)
    cells, s = np.zeros((7, size), w.dtype), np.zeros((6, size), w.dtype)
    for m in range(low, high):
        _prepare(f1[m], f2[m], cells, s[0], s[1], w)
        s[:] = 0
        for t in range(n):
            _step(s, cells, S, w, t < n - 1)
        for k in range(2):
            _store(flow[m // C, k, m % C], s[k])


@kernel
def _backward(f1, f2, by_flow, bar1, bar2, sums, w, n, k, numbers, low, high):
    """Derivatives by f1, f2 into bar1, bar2; if `numbers`, by theta (ax, bx, ay, by), r, lambda theta into sums."""
    C, H, W = by_flow.shape[2:]
    S, size = W + 1, (H + 2) * (W + 1)
    cells = np.zeros((7, size), w.dtype)
    marked = np.zeros(((n + k - 1) // k, 6, size), w.dtype)  # every k-th state
    kept = np.zeros((min(k, n), 6, size), w.dtype)  # those from one that is marked to before the next
    bar, d, grow = np.zeros((6, size), w.dtype), np.zeros((4, size), w.dtype), np.zeros((6, size), w.dtype)
    spare, ones = np.zeros((2, size), w.dtype), np.ones(size, w.dtype)
    by_rho, by_hx, by_hy, by_gx, by_gy, by_r = grow[0], grow[1], grow[2], grow[3], grow[4], grow[5]
    for m in range(low, high):
        _prepare(f1[m], f2[m], cells, spare[0], spare[1], w)
        for j in range(1, len(marked)):
            for i in range(6):
                copy(marked[j, i], marked[j - 1, i])
            for _ in range(k):
                _step(marked[j], cells, S, w, True)
        bar[:], grow[:] = 0, 0
        for j in range(2):
            _load(bar[j], by_flow[m // C, j, m % C])
            bar[j, :S], bar[j, size - S :] = 0, 0
        for t in range(n - 1, -1, -1):
            if t == n - 1 or t % k == k - 1:  # those of this stretch
                for i in range(6):
                    copy(kept[0, i], marked[t // k, i])
                for i in range(1, t % k + 1):
                    for j in range(6):
                        copy(kept[i, j], kept[i - 1, j])
                    _step(kept[i], cells, S, w, True)
            s = kept[t % k]
            for j in range(2 if t > 0 else 0):  # the first dual fields are 0
                px, py, b = s[2 + 2 * j], s[3 + 2 * j], bar[j]
                if numbers:
                    inner = _in(b, S, 0)
                    sums[m, 0] += _sum(inner, _in(px, S, -1))
                    sums[m, 1] += _sum(inner, _in(px, S, 0))
                    sums[m, 2] += _sum(inner, _in(py, S, -S))
                    sums[m, 3] += _sum(inner, _in(py, S, 0))
                _dual_backward(bar[2 + 2 * j], bar[3 + 2 * j], d[2 * j], d[2 * j + 1], by_r, b, px, py, s[j], S, w)
            _primal_backward(
                bar[0],
                bar[1],
                by_rho,
                by_hx,
                by_hy,
                by_gx,
                by_gy,
                s[0],
                s[1],
                cells[0],
                cells[1],
                cells[2],
                cells[3],
                cells[4],
                d,
                S,
            )
        _pad(by_r, S, 0)
        sums[m, 4] = _sum(by_r, ones)
        sums[m, 5] = _sum(by_gx, cells[5]) + _sum(by_gy, cells[6])
        _to_gradient(by_gx, by_gy, by_rho, by_hx, by_hy, cells[0], cells[1], cells[2], cells[4], w[5])
        copy(bar[0], by_rho)
        for i in range(size):
            by_rho[i] = -by_rho[i]
        _store(bar1[m], by_rho)
        _gradient_backward(bar[0], bar1[m], by_gx, by_gy, spare[0], S, w[6] > 0)
        _store(bar2[m], bar[0])


# -- many maps ---------------------------------------------------------------------------------------------------------


def _numbers(like: Tensor, tau: Tensor, lam: Tensor, theta: Tensor, wx: Tensor, wy: Tensor, released: bool) -> Any:
    """[theta ax, theta bx, theta ay, theta by, tau / theta, lambda theta, epsilon] for the kernels."""
    t, la, th = (np.float64(x.item()) for x in (tau, lam, theta))
    weights = (th * x for x in (*wx.tolist(), *wy.tolist()))
    with np.errstate(divide="ignore", invalid="ignore"):  # theta = 0
        return np.array([*weights, t / th, la * th, 1e-12 * released], like.numpy().dtype)


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
    share(_forward, N * C, f1.numel() * n_iter // _SMALL, _maps(f1), _maps(f2), flow.numpy(), w, n_iter)
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
    k = n_iter if 6 * n_iter * (H + 2) * (W + 1) * w.itemsize <= _STATES else math.isqrt(n_iter - 1) + 1
    given = by_flow.contiguous().view(N, 2, C, H, W).numpy()
    out = bar1.flatten(0, 1).numpy(), bar2.flatten(0, 1).numpy(), sums
    maps = _maps(f1), _maps(f2), given, *out
    share(_backward, N * C, f1.numel() * n_iter // _SMALL, *maps, w, n_iter, max(k, 1), numbers)
    ax, bx, ay, by, by_r, by_lt = sums.sum(0).tolist()
    t, la, th = (np.float64(x.item()) for x in (tau, lam, theta))
    with np.errstate(divide="ignore", invalid="ignore"):  # theta = 0
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
