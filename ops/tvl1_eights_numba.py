"""The CPU kernels of `tvl1.representation_flow` for eight small maps at a time; imported with `tvl1_numba`.

Layout. The maps go side by side, a lane each: whatever is done to a cell is done to eight numbers that lie together, a
vector of AVX2 in float32, whose neighbours are whole vectors too. What an iteration changes is mixed, the six numbers
of a cell next to each other, so that a row of it needs one pointer; what it only reads lies in planes
(`tvl1_planes_numba`, which also keeps them in the range of the type). A row has a cell more on both sides, for the
border rule: the last flow again, and a dual field of 0.

Order. An iteration goes down the rows: the flow of one, and in the same loop the dual fields of the row two above it,
for which nothing has to be waited. The next iteration's first rows go with the last dual fields of the one before.
Backward goes down the rows too: through the dual fields of one, and through the flow of the row above it.
"""

import numpy as np

from motionspec.ops.compiled import apart, copy, kernel, part
from motionspec.ops.tvl1_planes_numba import gradient_backward, prepare, store, to_gradient

STATES = 1 << 23  # bytes of states that backward keeps before it thins them out
LANES = 8  # maps side by side
_U = np.uintp  # an index that cannot be negative needs no check


@apart
def _row(upper0, upper, below, above0, here0, here, rho, hx, hy, limit, w):
    """(5) of the row `upper`, whose next is `below`, and (2)-(4) of the row `here`, whose last is `above`.

    Those with a 0 are of the state before, and may be the same rows: what is written is not read in the same call.
    """
    ax, bx, ay, by, r, epsilon, one = w[0], w[1], w[2], w[3], w[4], w[6], w.dtype.type(1)
    V = _U(LANES)
    for x in range(_U(rho.size) // V):
        for lane in range(V):
            left = x * _U(6) * V + lane
            k, right, i = left + _U(6) * V, left + _U(12) * V, x * V + lane
            u, v = upper[k], upper[k + V]
            ux, uy = upper[right] - u, below[k] - u
            vx, vy = upper[right + V] - v, below[k + V] - v
            # A square underflows only where 1 + r |d| is 1; flows whose differences overflow squared are out of reach.
            scale_u = one + r * np.sqrt(ux * ux + uy * uy + epsilon)
            scale_v = one + r * np.sqrt(vx * vx + vy * vy + epsilon)
            by_both = one / (scale_u * scale_v)
            by_u, by_v = by_both * scale_v, by_both * scale_u
            upper[k + _U(2) * V] = (upper0[k + _U(2) * V] + r * ux) * by_u
            upper[k + _U(3) * V] = (upper0[k + _U(3) * V] + r * uy) * by_u
            upper[k + _U(4) * V] = (upper0[k + _U(4) * V] + r * vx) * by_v
            upper[k + _U(5) * V] = (upper0[k + _U(5) * V] + r * vy) * by_v
            u, v = here0[k], here0[k + V]
            c = rho[i] + hx[i] * u + hy[i] * v
            c = limit[i] if c > limit[i] else c  # NaN stays
            c = -limit[i] if c < -limit[i] else c
            across = ax * here0[left + _U(2) * V] + bx * here0[k + _U(2) * V]
            here[k] = u + ((across + ay * above0[k + _U(3) * V] + by * here0[k + _U(3) * V]) - c * hx[i])
            across = ax * here0[left + _U(4) * V] + bx * here0[k + _U(4) * V]
            here[k + V] = v + ((across + ay * above0[k + _U(5) * V] + by * here0[k + _U(5) * V]) - c * hy[i])
    last = _U(6) * _U(rho.size)
    for lane in range(_U(2) * V):
        here[last + _U(6) * V + lane] = here[last + lane]


@part
def _iterate(s0, s, planes, S, n, dual, w):
    """n iterations from the state s0 to s, without the dual step of the last unless `dual`; s0 is s, or n is 1."""
    H = len(s) - 3
    spare, period = H + 2, max(H, 3)  # a row's dual step is two rows behind
    for q in range(n * period + 2 * dual):
        y, before = q % period, q - 2
        flow = q < n * period and y < H
        fields = q >= 2 and before % period < H and (dual or before < (n - 1) * period)
        if flow or fields:
            k = before % period + 1 if fields else spare
            below, above, here, i = min(k + 1, H), spare, spare, S
            if flow:
                above, here, i = y, y + 1, (y + 1) * S
            if not fields:
                below = spare
            end = i + S - LANES
            constants = planes[0, i:end], planes[1, i:end], planes[2, i:end], planes[3, i:end]
            _row(s0[k], s[k], s[below], s0[above], s0[here], s[here], *constants, w)


@apart
def _row_backward(s, below, bar, bar_below, d, s0, bar0, d0, d_above, grow, by_r, rho, hx, hy, limit, inverse, w):
    """Of one row back through the divergence and the dual step that led to s, to d: by the differences of u and v.

    And of the row above it (s0, bar0, d0) back through (2)-(4): the derivatives by the flow after become those by the
    flow before. `grow`, by rho / L, by h and, where clipped, by lambda theta g itself, and by_r grow.
    """
    ax, bx, ay, by, r, epsilon = w[0], w[1], w[2], w[3], w[4], w[6]
    zero, one, V = w.dtype.type(0), w.dtype.type(1), _U(LANES)
    for x in range(_U(rho.size) // V):
        for lane in range(V):
            k, i, g = (x + _U(1)) * _U(6) * V + lane, x * V + lane, x * _U(5) * V + lane
            e_left = x * _U(4) * V + lane
            e = e_left + _U(4) * V
            total = by_r[i]
            for j in range(2):
                own, p, q = k + _U(j) * V, k + _U(2 * j + 2) * V, e + _U(2 * j) * V
                dx, dy = s[own + _U(6) * V] - s[own], below[own] - s[own]
                length = np.sqrt(dx * dx + dy * dy + epsilon)
                still = length == zero  # there the derivative of |d| is 0
                both = one / (length * (one + r * length))  # one division for two
                scale = one if still else length * both
                sx = (bar[p] + (bx * bar[own] + ax * bar[own + _U(6) * V])) * scale
                sy = (bar[p + V] + (by * bar[own] + ay * bar_below[own])) * scale
                through = -(s[p] * sx + s[p + V] * sy)
                per = zero if still else r * through * (one + r * length) * both
                d[q], d[q + V] = r * sx + per * dx, r * sy + per * dy
                total += sx * dx + sy * dy + through * length
                bar[p], bar[p + V] = sx, sy
            by_r[i] = total
            ux, uy, bar_x, bar_y = s0[k], s0[k + V], bar0[k], bar0[k + V]
            a = rho[i] + hx[i] * ux + hy[i] * uy
            # No branch holds a load or a store: each would be made apart, under a mask.
            sign = (one if a > limit[i] else zero) - (one if a < -limit[i] else zero)
            clamped = a != a and epsilon != zero  # as the derivative of torch.clamp takes NaN
            a = a if sign == zero else zero
            z = -(hx[i] * bar_x + hy[i] * bar_y)
            z = zero if sign != zero or clamped else z
            z = zero if inverse[i] == zero else z
            grow[g] += z
            grow[g + V] += z * ux - a * bar_x
            grow[g + _U(2) * V] += z * uy - a * bar_y
            grow[g + _U(3) * V] -= sign * bar_x
            grow[g + _U(4) * V] -= sign * bar_y
            across, down = d0[e_left] - d0[e], d_above[e + V] - d0[e + V]
            bar0[k] = bar_x + hx[i] * z + (across + down)
            across, down = d0[e_left + _U(2) * V] - d0[e + _U(2) * V], d_above[e + _U(3) * V] - d0[e + _U(3) * V]
            bar0[k + V] = bar_y + hy[i] * z + (across + down)
    last = _U(4) * _U(rho.size)
    for lane in range(V):  # a difference across the border is 0 whatever the flow
        d[last + lane], d[last + _U(2) * V + lane] = zero, zero


@part
def _iterate_backward(s, bar, d, grow, by_r, planes, S, first, w):
    """From the derivatives after an iteration to those before it, s its state; if `first`, none by s is asked for."""
    H = len(s) - 3
    spare, zero = H + 2, w.dtype.type(0)
    for y in range(H + 1):
        k = y + 1 if y < H and not first else spare
        below = min(k + 1, H) if k < spare else spare
        k0, g, i = (y, y - 1, y * S) if y > 0 else (spare, H, S)
        end = i + S - LANES
        constants = planes[0, i:end], planes[1, i:end], planes[2, i:end], planes[3, i:end], planes[4, i:end]
        above = d[(y + 1) % 3] if y > 1 else d[3]
        after = s[k], s[below], bar[k], bar[min(k, H) + 1], d[y % 3]
        _row_backward(*after, s[k0], bar[k0], d[(y + 2) % 3], above, grow[g], by_r[int(k == spare)], *constants, w)
        if k == H:
            for e in range(0, d.shape[1], 2 * LANES):
                for i in range(e + LANES, e + 2 * LANES):
                    d[y % 3, i] = zero


@apart
def _weights(sums, s, s_above, bar):
    """Add the derivatives by theta (ax, bx, ay, by) in one row, for each lane, to sums (4, LANES)."""
    V = _U(LANES)
    for x in range(_U(s.size) // (_U(6) * V) - _U(2)):
        for lane in range(V):
            left = x * _U(6) * V + lane
            k = left + _U(6) * V
            bar_x, bar_y = bar[k], bar[k + V]
            sums[0, lane] += bar_x * s[left + _U(2) * V] + bar_y * s[left + _U(4) * V]
            sums[1, lane] += bar_x * s[k + _U(2) * V] + bar_y * s[k + _U(4) * V]
            sums[2, lane] += bar_x * s_above[k + _U(3) * V] + bar_y * s_above[k + _U(5) * V]
            sums[3, lane] += bar_x * s[k + _U(3) * V] + bar_y * s[k + _U(5) * V]


@apart
def _plane(to, mixed, S, number):
    """A plane from one number of the five of every cell."""
    for y in range(to.size // S - 2):
        for x in range(S // LANES - 1):
            for lane in range(LANES):
                to[(y + 1) * S + x * LANES + lane] = mixed[y, (x * 5 + number) * LANES + lane]


@apart
def _add_products(sums, a, b):
    """Add what a and b give in each lane."""
    for i in range(0, a.size, LANES):
        for lane in range(LANES):
            sums[lane] += a[i + lane] * b[i + lane]


@part
def _mixed(H, W, dtype):
    """Rows of cells of six numbers, with one above, one below, and one for what is computed for nothing."""
    return np.zeros((H + 3, (W + 2) * 6 * LANES), dtype)


@kernel
def forward(maps1, maps2, flow, w, n, low, high):
    """Eights low to high of maps1 and maps2 (M, H, W) into flow (N, 2, C, H, W)."""
    C, H, W = flow.shape[2:]
    S = (W + 1) * LANES
    planes, f, s = np.zeros((7, (H + 2) * S), w.dtype), np.zeros((2, (H + 2) * S), w.dtype), _mixed(H, W, w.dtype)
    for eight in range(low, high):
        first = eight * LANES
        prepare(maps1, maps2, first, LANES, planes, f[0], f[1], w)
        s[:] = 0
        _iterate(s, s, planes, S, n, False, w)
        for y in range(H):
            for m in range(first, min(first + LANES, len(maps1))):
                for k in range(2):
                    line, cells = flow[m // C, k, m % C, y], s[y + 1, (6 + k) * LANES + m - first :: 6 * LANES]
                    for x in range(W):
                        line[x] = cells[x]


@kernel
def backward(maps1, maps2, by_flow, bar1, bar2, sums, w, n, k, numbers, low, high):
    """Derivatives by the maps into bar1, bar2; if `numbers`, by theta (ax, bx, ay, by), r, lambda theta into sums."""
    C, H, W = by_flow.shape[2:]
    S = (W + 1) * LANES
    planes, f = np.zeros((7, (H + 2) * S), w.dtype), np.zeros((7, (H + 2) * S), w.dtype)
    bar, d = _mixed(H, W, w.dtype), np.zeros((4, (W + 2) * 4 * LANES), w.dtype)
    marked = np.zeros(((n + k - 1) // k, *bar.shape), w.dtype)  # every k-th state
    kept = np.zeros((max(min(k, n) - 1, 0), *bar.shape), w.dtype)  # those between one that is marked and the next
    grow, by_r, ones = (
        np.zeros((H + 1, W * 5 * LANES), w.dtype),
        np.zeros((2, W * LANES), w.dtype),
        np.ones(W * LANES, w.dtype),
    )
    of_row, found = np.zeros((4, LANES), w.dtype), np.zeros((6, LANES))
    for eight in range(low, high):
        first, count = eight * LANES, min(LANES, len(maps1) - eight * LANES)
        prepare(maps1, maps2, first, LANES, planes, f[0], f[1], w)
        for j in range(1, len(marked)):
            _iterate(marked[j - 1], marked[j], planes, S, 1, True, w)
            _iterate(marked[j], marked[j], planes, S, k - 1, True, w)
        bar[:], grow[:], by_r[:], found[:] = 0, 0, 0, 0
        for y in range(H):
            for m in range(first, first + count):
                for j in range(2):
                    line, cells = by_flow[m // C, j, m % C, y], bar[y + 1, (6 + j) * LANES + m - first :: 6 * LANES]
                    for x in range(W):
                        cells[x] = line[x]
        for t in range(n - 1, -1, -1):
            if t == n - 1 or t % k == k - 1:  # those of this stretch
                for i in range(1, t % k + 1):
                    _iterate(kept[i - 2] if i > 1 else marked[t // k], kept[i - 1], planes, S, 1, True, w)
            s = kept[t % k - 1] if t % k else marked[t // k]
            if numbers and t > 0:  # the first dual fields are 0
                for y in range(H):
                    of_row[:] = 0
                    _weights(of_row, s[y + 1], s[y], bar[y + 1])
                    found[:4] += of_row
            _iterate_backward(s, bar, d, grow, by_r, planes, S, t == 0, w)
        f[:] = 0
        for j in range(5):
            _plane(f[j], grow, S, j)
        by_rho, by_hx, by_hy, by_gx, by_gy = f[0], f[1], f[2], f[3], f[4]
        if numbers:
            _add_products(found[4], by_r[0], ones)
            _add_products(found[5], by_gx, planes[5])
            _add_products(found[5], by_gy, planes[6])
            sums[first : first + count] = found[:, :count].T
        to_gradient(by_gx, by_gy, by_rho, by_hx, by_hy, planes[0], planes[1], planes[2], planes[4], w[5])
        copy(f[5], by_rho)
        for i in range(by_rho.size):
            by_rho[i] = -by_rho[i]
        gradient_backward(f[5], by_rho, by_gx, by_gy, f[6], S, LANES, w[6] > 0)
        store(bar1, first, by_rho, LANES)
        store(bar2, first, f[5], LANES)
