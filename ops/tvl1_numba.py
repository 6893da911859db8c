"""Kernels of `motionspec.ops.tvl1` for the CPU, compiled by numba. Imported on first use.

Layout. Small maps, of which a network has many, are computed eight at a time (`tvl1_eights_numba`). Here a map is
computed alone, with its state, six planes of `tvl1_planes_numba` with V = 1, in the cache. The pads hold what makes the
border rule come out: the last flow again, so that its difference is 0; a dual field of 0.

Arithmetic. The three cases of (3) are u - h clamp(rho / L, +-lambda theta L) with L = |g|, h = g / L; in the scheme
"released" with L = sqrt(|g|^2 + 1e-12), whose squares may leave the range of the type: then L is infinite, as in
eager PyTorch, and the data moves nothing. Parameters and their gradients are float64 between maps.

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

from motionspec.ops import tvl1_eights_numba as eights
from motionspec.ops.compiled import apart, copy, kernel, operator, part, share
from motionspec.ops.support import no_second_derivative
from motionspec.ops.tvl1 import eager_derivative
from motionspec.ops.tvl1_planes_numba import gradient_backward, inner, load, pad, prepare, store, to_gradient

_STATES = 1 << 19  # bytes of states that backward keeps before it thins them out: half of a common second cache
_SMALL = 1 << 16  # cells x iterations that take less time than to wake a thread


# -- the iteration -----------------------------------------------------------------------------------------------------


@apart
def _primal(ux, uy, pxx, pxy, pyx, pyy, rho, hx, hy, limit, S, w):
    """(2)-(4)."""
    ax, bx, ay, by = w[0], w[1], w[2], w[3]
    x, xx, xx_left, xy, xy_above = (
        inner(ux, S, 0),
        inner(pxx, S, 0),
        inner(pxx, S, -1),
        inner(pxy, S, 0),
        inner(pxy, S, -S),
    )
    y, yx, yx_left, yy, yy_above = (
        inner(uy, S, 0),
        inner(pyx, S, 0),
        inner(pyx, S, -1),
        inner(pyy, S, 0),
        inner(pyy, S, -S),
    )
    rho, hx, hy, limit = inner(rho, S, 0), inner(hx, S, 0), inner(hy, S, 0), inner(limit, S, 0)
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
    x, y, here, right, below = inner(px, S, 0), inner(py, S, 0), inner(u, S, 0), inner(u, S, 1), inner(u, S, S)
    for i in range(x.size):
        # A square underflows only where 1 + r |d| is 1; flows whose differences overflow squared are out of reach.
        dx, dy = right[i] - here[i], below[i] - here[i]
        scale = one / (one + r * np.sqrt(dx * dx + dy * dy + epsilon))
        x[i] = (x[i] + r * dx) * scale
        y[i] = (y[i] + r * dy) * scale
    pad(px, S, 1, 0)  # the pad of py has no neighbour that counts


@apart
def _dual_backward(bar_px, bar_py, to_dx, to_dy, by_r, bar, px, py, u, S, w):
    """Of one component, back through the divergence (bar is by the flow after it) and the dual step that led to p.

    The derivatives by p become those by the dual field before that step; to_dx, to_dy: by the differences of u; by_r
    grows.
    """
    r, epsilon, zero, one = w[4], w[6], w.dtype.type(0), w.dtype.type(1)
    ax, bx, ay, by = w[0], w[1], w[2], w[3]
    x, y, out_x, out_y = inner(bar_px, S, 0), inner(bar_py, S, 0), inner(to_dx, S, 0), inner(to_dy, S, 0)
    b, b_right, b_below = inner(bar, S, 0), inner(bar, S, 1), inner(bar, S, S)
    px, py, grow = inner(px, S, 0), inner(py, S, 0), inner(by_r, S, 0)
    here, right, below = inner(u, S, 0), inner(u, S, 1), inner(u, S, S)
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
def _primal_backward(bx, by, by_rho, by_hx, by_hy, by_gx, by_gy, ux, uy, rho, hx, hy, limit, inverse, d, epsilon, S):
    """bx, by: by the flow after it, become those by the flow before, d (4, cells) from `_dual_backward` included.

    What the others grow by is the derivative by rho / L, by h and, where clipped, by lambda theta g itself. The scheme
    "released" (epsilon > 0) takes NaN for clipped, as the derivative of torch.clamp does.
    """
    zero, one = rho.dtype.type(0), rho.dtype.type(1)
    bar_x, bar_y, rho, hx, hy = inner(bx, S, 0), inner(by, S, 0), inner(rho, S, 0), inner(hx, S, 0), inner(hy, S, 0)
    ux, uy, limit, inverse = inner(ux, S, 0), inner(uy, S, 0), inner(limit, S, 0), inner(inverse, S, 0)
    by_rho, by_hx, by_hy, by_gx, by_gy = (
        inner(by_rho, S, 0),
        inner(by_hx, S, 0),
        inner(by_hy, S, 0),
        inner(by_gx, S, 0),
        inner(by_gy, S, 0),
    )
    xx, xx_left, xy, xy_above = inner(d[0], S, 0), inner(d[0], S, -1), inner(d[1], S, 0), inner(d[1], S, -S)
    yx, yx_left, yy, yy_above = inner(d[2], S, 0), inner(d[2], S, -1), inner(d[3], S, 0), inner(d[3], S, -S)
    for i in range(rho.size):
        x, y = bar_x[i], bar_y[i]
        a = rho[i] + hx[i] * ux[i] + hy[i] * uy[i]
        # No branch holds a load or a store: each would be made apart, under a mask.
        sign = (one if a > limit[i] else zero) - (one if a < -limit[i] else zero)
        clamped = a != a and epsilon != zero
        a = a if sign == zero else zero
        z = -(hx[i] * x + hy[i] * y)
        z = zero if sign != zero or clamped else z
        one_over = inverse[i]
        z = zero if one_over == zero else z
        by_gx[i] -= sign * x
        by_gy[i] -= sign * y
        by_rho[i] += z
        by_hx[i] += z * ux[i] - a * x
        by_hy[i] += z * uy[i] - a * y
        bar_x[i] = x + hx[i] * z + ((xx_left[i] - xx[i]) + (xy_above[i] - xy[i]))
        bar_y[i] = y + hy[i] * z + ((yx_left[i] - yx[i]) + (yy_above[i] - yy[i]))
    pad(bx, S, 1, 0)
    pad(by, S, 1, 0)


@numba.njit(nogil=True, error_model="numpy", fastmath={"contract", "reassoc"})
def _sum(a, b):
    """Several at a time, always the same ones."""
    total = a.dtype.type(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


# -- one map -----------------------------------------------------------------------------------------------------------


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
        prepare(f1, f2, m, 1, cells, s[0], s[1], w)
        s[:] = 0
        for t in range(n):
            _step(s, cells, S, w, t < n - 1)
        for k in range(2):
            store(flow[m // C, k], m % C, s[k], 1)


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
        prepare(f1, f2, m, 1, cells, spare[0], spare[1], w)
        for j in range(1, len(marked)):
            for i in range(6):
                copy(marked[j, i], marked[j - 1, i])
            for _ in range(k):
                _step(marked[j], cells, S, w, True)
        bar[:], grow[:] = 0, 0
        for j in range(2):
            load(bar[j], by_flow[m // C, j], m % C, 1)
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
                    after = inner(b, S, 0)
                    sums[m, 0] += _sum(after, inner(px, S, -1))
                    sums[m, 1] += _sum(after, inner(px, S, 0))
                    sums[m, 2] += _sum(after, inner(py, S, -S))
                    sums[m, 3] += _sum(after, inner(py, S, 0))
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
                w[6],
                S,
            )
        pad(by_r, S, 1, 0)
        sums[m, 4] = _sum(by_r, ones)
        sums[m, 5] = _sum(by_gx, cells[5]) + _sum(by_gy, cells[6])
        to_gradient(by_gx, by_gy, by_rho, by_hx, by_hy, cells[0], cells[1], cells[2], cells[4], w[5])
        copy(bar[0], by_rho)
        for i in range(size):
            by_rho[i] = -by_rho[i]
        gradient_backward(bar[0], by_rho, by_gx, by_gy, spare[0], S, 1, w[6] > 0)
        store(bar1, m, by_rho, 1)
        store(bar2, m, bar[0], 1)


# -- many maps ---------------------------------------------------------------------------------------------------------


def _numbers(like: Tensor, tau: Tensor, lam: Tensor, theta: Tensor, wx: Tensor, wy: Tensor, released: bool) -> Any:
    """[theta ax, theta bx, theta ay, theta by, tau / theta, lambda theta, epsilon] for the kernels."""
    t, la, th = (np.float64(x.item()) for x in (tau, lam, theta))
    weights = (th * x for x in (*wx.tolist(), *wy.tolist()))
    with np.errstate(divide="ignore", invalid="ignore"):  # theta = 0
        return np.array([*weights, t / th, la * th, 1e-12 * released], like.numpy().dtype)


def _in_eights(f: Tensor) -> bool:
    """Whether there are eight maps whose states fit into the second cache together."""
    N, C, H, W = f.shape
    return N * C >= eights.LANES and H * W <= 2048


def _maps(f: Tensor) -> Any:
    return f.contiguous().flatten(0, 1).numpy()


@operator("motionspec::representation_flow_numba")
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
    named: bool,
) -> Tensor:
    """`ops.tvl1.representation_flow` in float32 or float64, scheme "released" or "classic"."""
    N, C, H, W = f1.shape
    flow = torch.empty(N, 2, C, H, W, dtype=f1.dtype)
    w = _numbers(f1, tau, lam, theta, wx, wy, released)
    run, pieces = (eights.forward, -(-N * C // eights.LANES)) if _in_eights(f1) else (_forward, N * C)
    share(run, pieces, f1.numel() * n_iter // _SMALL, _maps(f1), _maps(f2), flow.numpy(), w, n_iter)
    return flow.flatten(1, 2)


@operator("motionspec::representation_flow_numba_backward")
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
    run, pieces, size, most = _backward, N * C, (H + 2) * (W + 1), _STATES
    if _in_eights(f1):
        run, pieces, most = eights.backward, -(-N * C // eights.LANES), eights.STATES
        size = eights.LANES * (H + 3) * (W + 2)
    k = n_iter if 6 * n_iter * size * w.itemsize <= most else math.isqrt(n_iter - 1) + 1
    given = by_flow.contiguous().view(N, 2, C, H, W).numpy()
    out = bar1.flatten(0, 1).numpy(), bar2.flatten(0, 1).numpy(), sums
    maps = _maps(f1), _maps(f2), given, *out
    share(run, pieces, f1.numel() * n_iter // _SMALL, *maps, w, n_iter, max(k, 1), numbers)
    ax, bx, ay, by, by_r, by_lt = sums.sum(0).tolist()
    t, la, th = (np.float64(x.item()) for x in (tau, lam, theta))
    with np.errstate(divide="ignore", invalid="ignore"):  # theta = 0
        by_theta = np.dot((ax, bx, ay, by), [*wx.tolist(), *wy.tolist()]) - by_r * t / th**2 + by_lt * la
        found = by_r / th, by_lt * th, by_theta, (ax * th, bx * th), (ay * th, by * th)
    by_tau, by_lam, by_theta, by_wx, by_wy = (torch.tensor(x, dtype=f1.dtype) for x in found)
    return bar1, bar2, by_tau, by_lam, by_theta, by_wx, by_wy


@representation_flow.register_fake
def _(f1, f2, tau, lam, theta, wx, wy, n_iter, released, named):
    N, C, H, W = f1.shape
    return f1.new_empty(N, 2 * C, H, W)


@_representation_flow_backward.register_fake
def _(by_flow, f1, f2, tau, lam, theta, wx, wy, n_iter, released, numbers):
    maps = (f1.new_empty(f1.shape) for _ in range(2))
    return *maps, *(t.new_empty(t.shape) for t in (tau, lam, theta, wx, wy))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *saved, ctx.n_iter, ctx.released, ctx.named = inputs
    ctx.save_for_backward(*saved)


def _differentiate(ctx: Any, by_flow: Tensor) -> tuple[Any, ...]:
    found = eager_derivative(ctx, "numba", by_flow)
    if found is None:
        rest = ctx.n_iter, ctx.released, any(ctx.needs_input_grad[2:])
        found = _representation_flow_backward(by_flow, *ctx.saved_tensors, *rest)
    return (*found, None, None, None)


representation_flow.register_autograd(_differentiate, setup_context=_keep)
_representation_flow_backward.register_autograd(no_second_derivative("tvl1.representation_flow", "numba"))
