"""What the CPU kernels of `motionspec.ops.tvl1` do once for a map: image gradient, constants, and their adjoints.

A plane holds one number of every cell, and V maps, a lane each: the V numbers of a cell lie together. Its lines have W
cells and a pad, S = (W + 1) V numbers, so that a loop runs over the whole plane at once: lines of 28 would leave half
of each vector empty. There is a line above the map and one below. Pads and these lines hold what makes the border rule
come out; they are written, never multiplied by 0, so that NaN stays where it is.
"""

import numpy as np

from motionspec.ops.compiled import apart, copy, part


@apart
def inner(a, S, shift):
    """All cells but the outer lines, moved by `shift` numbers."""
    return a[S + shift : a.size - S + shift]


@apart
def pad(a, S, V, value):
    for first in range(2 * S - V, a.size - S, S):
        for i in range(first, first + V):
            a[i] = value


@apart
def load(to, maps, low, V):
    """Maps from number `low` into the lanes, the last one again where there are no more."""
    H, W = maps.shape[1:]
    S = (W + 1) * V
    for lane in range(V):
        f = maps[min(low + lane, len(maps) - 1)]
        for y in range(H):
            line, cells = f[y], to[(y + 1) * S + lane : (y + 2) * S : V]
            for x in range(W):
                cells[x] = line[x]
    pad(to, S, V, 0)


@apart
def store(maps, low, a, V):
    """Lanes into the maps from number `low`."""
    H, W = maps.shape[1:]
    S = (W + 1) * V
    for lane in range(min(V, len(maps) - low)):
        for y in range(H):
            line, cells = maps[low + lane, y], a[(y + 1) * S + lane : (y + 2) * S : V]
            for x in range(W):
                line[x] = cells[x]


@apart
def _repeat(a, S):
    """The lines above and below are the map's first and last."""
    copy(a[:S], a[S : 2 * S])
    copy(a[a.size - S :], a[a.size - 2 * S : a.size - S])


@apart
def _difference(out, ahead, behind, factor):
    for i in range(out.size):
        out[i] = (ahead[i] - behind[i]) * factor


@apart
def _halves(out, ahead, behind):
    """Half the difference, which may itself leave the range of the type."""
    half = out.dtype.type(0.5)
    for i in range(out.size):
        out[i] = ahead[i] * half - behind[i] * half


@apart
def _smooth(out, before, a, after, factor):
    for i in range(out.size):
        out[i] = (before[i] + after[i] + (a[i] + a[i])) * factor


@apart
def _add(out, a):
    for i in range(out.size):
        out[i] += a[i]


@apart
def _smooth_down(out, a, S, factor):
    """By [1, 2, 1] times factor along y, the border repeated: its own adjoint."""
    _repeat(a, S)
    _smooth(inner(out, S, 0), inner(a, S, -S), inner(a, S, 0), inner(a, S, S), factor)


@apart
def _smooth_across(out, a, S, V, factor):
    _smooth(inner(out, S, 0), inner(a, S, -V), inner(a, S, 0), inner(a, S, V), factor)
    for first in range(S, a.size - S, S):
        for i in range(first, first + V):
            last = i + S - 2 * V
            before, after = a[max(last - V, i)], a[min(i + V, last)]
            edge = (a[i] + after + (a[i] + a[i])) * factor
            out[last] = (a[last] + before + (a[last] + a[last])) * factor
            out[i] = edge


@apart
def _gradient(gx, gy, f2, spare, f1, S, V, released):
    """The image gradient of the second map; of the first in the border lines if `released`."""
    one, half, eighth = f2.dtype.type(1), f2.dtype.type(0.5), f2.dtype.type(0.125)
    _repeat(f2, S)
    if released:
        _halves(inner(gx, S, 0), inner(f2, S, V), inner(f2, S, -V))
        _halves(inner(gy, S, 0), inner(f2, S, S), inner(f2, S, -S))
        for first in range(S, f1.size - S, S):
            for i in range(first, first + V):
                last = i + S - 2 * V
                gx[i] = (f1[min(i + V, last)] - f1[i]) * half
                gx[last] = (f1[last] - f1[max(last - V, i)]) * half
        top, bottom = S, f1.size - 2 * S
        for i in range(S):
            gy[top + i] = (f1[min(top + S, bottom) + i] - f1[top + i]) * half
            gy[bottom + i] = (f1[bottom + i] - f1[max(bottom - S, top) + i]) * half
        return
    # Differences first: what is equal leaves exactly 0. Eighths of them, whose sums stay in the range of the type.
    _difference(inner(spare, S, 0), inner(f2, S, V), inner(f2, S, -V), eighth)
    for first in range(S, f2.size - S, S):
        for i in range(first, first + V):
            last = i + S - 2 * V
            spare[i] = (f2[min(i + V, last)] - f2[i]) * eighth
            spare[last] = (f2[last] - f2[max(last - V, i)]) * eighth
    _smooth_down(gx, spare, S, one)
    _difference(inner(spare, S, 0), inner(f2, S, S), inner(f2, S, -S), eighth)
    _smooth_across(gy, spare, S, V, one)


@apart
def gradient_backward(bar2, bar1, gx, gy, spare, S, V, released):
    """Add the adjoint of `_gradient` to bar2 and, if `released`, to bar1. Destroys gx and gy."""
    zero, half, one, eighth = gx.dtype.type(0), gx.dtype.type(0.5), gx.dtype.type(1), gx.dtype.type(0.125)
    wide, high, top, bottom = S > 2 * V, gx.size > 3 * S, S, gx.size - 2 * S
    if released:
        for first in range(S, gx.size - S, S):
            for i in range(first, first + V):
                last = i + S - 2 * V
                if wide:
                    bar1[i + V] += gx[i] * half
                    bar1[i] -= gx[i] * half
                    bar1[last] += gx[last] * half
                    bar1[last - V] -= gx[last] * half
                gx[i], gx[last] = zero, zero
        for i in range(S):
            if high:
                bar1[top + S + i] += gy[top + i] * half
                bar1[top + i] -= gy[top + i] * half
                bar1[bottom + i] += gy[bottom + i] * half
                bar1[bottom - S + i] -= gy[bottom + i] * half
            gy[top + i], gy[bottom + i] = zero, zero
        pad(gx, S, V, 0)
        gx[:S], gx[gx.size - S :] = zero, zero
        gy[:S], gy[gy.size - S :] = zero, zero
        _difference(inner(spare, S, 0), inner(gx, S, -V), inner(gx, S, V), half)
        _add(inner(bar2, S, 0), inner(spare, S, 0))
        _difference(inner(spare, S, 0), inner(gy, S, -S), inner(gy, S, S), half)
        _add(inner(bar2, S, 0), inner(spare, S, 0))
        return
    _smooth_down(spare, gx, S, eighth)
    _difference(inner(gx, S, 0), inner(spare, S, -V), inner(spare, S, V), one)
    for first in range(S, gx.size - S, S):
        for i in range(first, first + V):
            last = i + S - 2 * V
            gx[i] = -spare[i] - spare[i + V]
            gx[last] = spare[last - V] + spare[last]
            if not wide:
                gx[i] = 0
    _add(inner(bar2, S, 0), inner(gx, S, 0))
    _smooth_across(spare, gy, S, V, eighth)
    for i in range(S):
        spare[i] = -spare[top + i]
        spare[bottom + S + i] = -spare[bottom + i]
    _difference(inner(gy, S, 0), inner(spare, S, -S), inner(spare, S, S), one)
    _add(inner(bar2, S, 0), inner(gy, S, 0))


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
def to_gradient(by_gx, by_gy, by_rho, by_hx, by_hy, rho, hx, hy, inverse, lt):
    """By g from that by h = g / L, by rho / L and, where clipped, by lambda theta g; by rho from that by rho / L."""
    zero = rho.dtype.type(0)
    for i in range(rho.size):
        along = by_hx[i] * hx[i] + by_hy[i] * hy[i] + by_rho[i] * rho[i]
        none = inverse[i] == zero
        by_gx[i] = lt * by_gx[i] + (zero if none else (by_hx[i] - along * hx[i]) * inverse[i])
        by_gy[i] = lt * by_gy[i] + (zero if none else (by_hy[i] - along * hy[i]) * inverse[i])
        by_rho[i] *= inverse[i]


@part
def prepare(maps1, maps2, low, V, planes, f1, f2, w):
    """`_constants` into planes 0-4, the image gradient into planes 5-6; f1 and f2 are to work in."""
    S = (maps1.shape[2] + 1) * V
    load(f1, maps1, low, V)
    load(f2, maps2, low, V)
    _gradient(planes[5], planes[6], f2, planes[0], f1, S, V, w[6] > 0)
    _constants(planes[0], planes[1], planes[2], planes[3], planes[4], planes[5], planes[6], f1, f2, w[5], w[6])
