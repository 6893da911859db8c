"""Triton kernels of `tvl1.representation_flow`, forward and backward; imported on first use.

Bound by arithmetic and by the exchange between neighbours, so a map is read once, iterated in registers and written
once. A program holds a window of 1024 cells, 32 x 32 or the like: several small maps, a whole one, or a part of a
larger one. An iteration lets a cell feel its neighbours, so a window that is iterated k times is right up to k cells
from those of its sides that are not the map's: windows overlap, and pass their state on through global memory.

A window is a tuple of `_PHASES` tensors: row r is line r // _PHASES of tensor r % _PHASES. The row below is then the
next tensor, in the same thread; only for the last it is in another, and a shift goes through shared memory.

The three cases of (3) are u - h clamp(rho / L, +-lambda theta L) with L = |g|, h = g / L; in the scheme "released" with
L = sqrt(|g|^2 + 1e-12). Backward computes iterates again from every k-th one, and k of them, kept in a scratch buffer
that a program uses again for its next window. There are no atomics: each window has its own sums.
"""

# ruff: noqa: RUF005  (Triton knows no star)

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from motionspec.ops.support import no_second_derivative

_CELLS, _WARPS = 1024, 8  # of a window. What they cost in registers: `benchmarks/resources.txt`.
_PHASES = tl.constexpr(4)
_FIELDS = tl.constexpr(6)  # ux, uy, and the dual fields of ux, then of uy: x and y
# Of maps larger than a window: iterations of a pass; of a pass back, which needs windows right 2 k - 1 cells around.
_PASS, _PASS_BACK = 4, 2
_PROGRAMS = 1024  # at most so many go back, each with scratch of its own


@triton.jit
def _shift(a, AXIS: tl.constexpr, BY: tl.constexpr):
    """a[i + BY], at the border itself."""
    i = tl.minimum(tl.maximum(tl.arange(0, a.shape[AXIS]) + BY, 0), a.shape[AXIS] - 1)
    i = i[None, :] if AXIS == 1 else i[:, None]
    return tl.gather(a, tl.broadcast_to(i, a.shape), AXIS)


@triton.jit
def _across(a, BY: tl.constexpr):
    out = ()
    for j in tl.static_range(_PHASES):
        out = out + (_shift(a[j], 1, BY),)
    return out


@triton.jit
def _below(a):
    return a[1:] + (_shift(a[0], 0, 1),)


@triton.jit
def _above(a):
    return (_shift(a[_PHASES - 1], 0, -1),) + a[: _PHASES - 1]


@triton.jit
def _window(
    item, maps, C, H, W, across, down, stack, halo, LINES: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """Of each row: where its cells lie in maps (N, C, H, W) and in flows (N, 2, C, H, W), which exist, which belong to
    this window alone, which have a cell below and above; of each column, which have one to the right and to the left.
    In 64 bits.
    """
    left = item % across * (COLUMNS - 2 * halo)
    rows: tl.constexpr = LINES * _PHASES
    top = item // across % down * (rows - 2 * halo)
    first = tl.cast(item // across // down, tl.int64) * stack
    x = left + tl.arange(0, COLUMNS)[None, :]
    own = ((x >= left + halo) | (left == 0)) & ((x < left + COLUMNS - halo) | (left + COLUMNS >= W))
    at, flow_at, inside, owned, more, less = (), (), (), (), (), ()
    for j in tl.static_range(_PHASES):
        row = tl.arange(0, LINES)[:, None] * _PHASES + j
        y, m = top + row % H, first + row // H
        exists = (row // H < stack) & (m < maps) & (y < H) & (x < W)
        mine = ((row >= halo) | (top == 0)) & ((row + halo < rows) | (top + rows >= H))
        at = at + ((m * H + y) * W + x,)
        flow_at = flow_at + (((m // C * 2 * C + m % C) * H + y) * W + x,)
        inside, owned = inside + (exists,), owned + (exists & mine & own,)
        more, less = more + (y < H - 1,), less + (y > 0,)
    return at, flow_at, inside, owned, (x < W - 1, more, x > 0, less)


@triton.jit
def _read(pointer, plane, at, mask):
    """The fields of a state."""
    state = ()
    for i in tl.static_range(_FIELDS):
        field = ()
        for j in tl.static_range(_PHASES):
            field = field + (tl.load(pointer + i * plane + at[j], mask=mask[j], other=0),)
        state = state + (field,)
    return state


@triton.jit
def _write(pointer, plane, at, mask, state):
    for i in tl.static_range(_FIELDS):
        for j in tl.static_range(_PHASES):
            tl.store(pointer + i * plane + at[j], state[i][j], mask=mask[j])


@triton.jit
def _zero(LINES: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr):
    field = ()
    for _ in tl.static_range(_PHASES):
        field = field + (tl.zeros((LINES, COLUMNS), WIDE),)
    return field


@triton.jit
def _image_gradient(f1, f2, at, here, W, right, down, left, up, WIDE: tl.constexpr, RELEASED: tl.constexpr):
    """Differences first: what is equal leaves exactly 0."""
    e, w, s, n = right.to(tl.int32), -left.to(tl.int32), down.to(tl.int64) * W, -up.to(tl.int64) * W
    if RELEASED:
        inner_x, inner_y = right & left & here, down & up & here
        outer_x, outer_y = here & ~inner_x, here & ~inner_y
        x = tl.load(f2 + (at + e), mask=inner_x, other=0).to(WIDE) - tl.load(f2 + (at + w), mask=inner_x, other=0)
        y = tl.load(f2 + (at + s), mask=inner_y, other=0).to(WIDE) - tl.load(f2 + (at + n), mask=inner_y, other=0)
        x1 = tl.load(f1 + (at + e), mask=outer_x, other=0).to(WIDE) - tl.load(f1 + (at + w), mask=outer_x, other=0)
        y1 = tl.load(f1 + (at + s), mask=outer_y, other=0).to(WIDE) - tl.load(f1 + (at + n), mask=outer_y, other=0)
        gx, gy = (x + x1) * 0.5, (y + y1) * 0.5
    else:
        nw = tl.load(f2 + (at + n + w), mask=here, other=0).to(WIDE)
        ne = tl.load(f2 + (at + n + e), mask=here, other=0).to(WIDE)
        sw = tl.load(f2 + (at + s + w), mask=here, other=0).to(WIDE)
        se = tl.load(f2 + (at + s + e), mask=here, other=0).to(WIDE)
        x = tl.load(f2 + (at + e), mask=here, other=0).to(WIDE) - tl.load(f2 + (at + w), mask=here, other=0).to(WIDE)
        y = tl.load(f2 + (at + s), mask=here, other=0).to(WIDE) - tl.load(f2 + (at + n), mask=here, other=0).to(WIDE)
        gx, gy = ((ne - nw) + (se - sw) + 2 * x) * 0.125, ((sw - nw) + (se - ne) + 2 * y) * 0.125
    return gx, gy


@triton.jit
def _length(gx, gy, lt, RELEASED: tl.constexpr):
    """L = |g|, and 1 / L, which is 0 where lambda theta L^2 is."""
    if RELEASED:
        length = tl.sqrt(gx * gx + gy * gy + 1e-12)
    else:  # the larger part is taken out, for its square may underflow
        x, y = tl.abs(gx), tl.abs(gy)
        large, small = tl.where(x > y, x, y), tl.where(x > y, y, x)
        ratio = small / tl.where(large == 0, 1.0, large)
        length = large * tl.sqrt(1 + ratio * ratio)
    tiny = lt * length * length == 0
    return length, tl.where(tiny, 0.0, 1 / tl.where(tiny, 1.0, length))


@triton.jit
def _constants(f1, f2, at, inside, edges, W, lt, WIDE: tl.constexpr, RELEASED: tl.constexpr):
    """rho / L, h, lambda theta L."""
    right, down, left, up = edges
    rho, hx, hy, limit = (), (), (), ()
    for j in tl.static_range(_PHASES):
        gx, gy = _image_gradient(f1, f2, at[j], inside[j], W, right, down[j], left, up[j], WIDE, RELEASED)
        length, inverse = _length(gx, gy, lt, RELEASED)
        change = tl.load(f2 + at[j], mask=inside[j], other=0).to(WIDE) - tl.load(f1 + at[j], mask=inside[j], other=0)
        most = tl.where(inverse == 0, length * 0, lt * length)
        if RELEASED:  # torch.clamp hands on a limit of NaN, and no derivative; a comparison with it clips nothing
            change = tl.where(lt != lt, float("nan"), change)
        else:
            most = tl.where(lt != lt, float("inf"), most)
        rho = rho + (tl.where(inverse == 0, change, change * inverse),)
        hx, hy, limit = hx + (gx * inverse,), hy + (gy * inverse,), limit + (most,)
    return rho, hx, hy, limit


@triton.jit
def _dual(px, py, u, edges, r, RELEASED: tl.constexpr):
    """The dual fields after (5); d = grad u, |d| and 1 / (1 + r |d|).

    A square underflows only where 1 + r |d| is 1; flows whose differences overflow squared are out of reach.
    """
    right, down, _, _ = edges
    beside, below = _across(u, 1), _below(u)
    qx, qy, dx, dy, length, scale = (), (), (), (), (), ()
    for j in tl.static_range(_PHASES):
        x, y = tl.where(right, beside[j] - u[j], 0.0), tl.where(down[j], below[j] - u[j], 0.0)
        norm = tl.sqrt(x * x + y * y + (1e-12 if RELEASED else 0.0))
        factor = 1 / (1 + r * norm)
        qx = qx + (tl.where(right, (px[j] + r * x) * factor, 0.0),)
        qy = qy + (tl.where(down[j], (py[j] + r * y) * factor, 0.0),)
        dx, dy, length, scale = dx + (x,), dy + (y,), length + (norm,), scale + (factor,)
    return qx, qy, dx, dy, length, scale


@triton.jit
def _divergence(px, py, edges, w):
    """theta times that of (6)."""
    _, _, left, up = edges
    beside, above = _across(px, -1), _above(py)
    out = ()
    for j in tl.static_range(_PHASES):
        before = w[0] * tl.where(left, beside[j], 0.0) + w[2] * tl.where(up[j], above[j], 0.0)
        out = out + (before + w[1] * px[j] + w[3] * py[j],)
    return out


@triton.jit
def _iterate(state, constants, edges, w, RELEASED: tl.constexpr):
    """(5) of the iteration before, which leaves the start as it is, then (2)-(4)."""
    ux, uy, px, py, qx, qy = state
    rho, hx, hy, limit = constants
    px, py, _dx, _dy, _length, _scale = _dual(px, py, ux, edges, w[4], RELEASED)
    qx, qy, _dx, _dy, _length, _scale = _dual(qx, qy, uy, edges, w[4], RELEASED)
    smooth_x, smooth_y = _divergence(px, py, edges, w), _divergence(qx, qy, edges, w)
    vx, vy = (), ()
    for j in tl.static_range(_PHASES):
        c = rho[j] + hx[j] * ux[j] + hy[j] * uy[j]
        c = tl.minimum(c, limit[j], propagate_nan=tl.PropagateNan.ALL)
        c = tl.maximum(c, -limit[j], propagate_nan=tl.PropagateNan.ALL)
        vx, vy = vx + (ux[j] - c * hx[j] + smooth_x[j],), vy + (uy[j] - c * hy[j] + smooth_y[j],)
    return vx, vy, px, py, qx, qy


@triton.jit
def _load_numbers(w):
    return tl.load(w), tl.load(w + 1), tl.load(w + 2), tl.load(w + 3), tl.load(w + 4), tl.load(w + 5)


@triton.jit
def _forward(
    f1, f2, w, states, flow, maps, C, H, W, across, down, stack, halo, first, last, n, every, slots,
    WIDE: tl.constexpr, RELEASED: tl.constexpr, LINES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Iterations first to last of one window. Every so many its state goes to one of the slots; after all the flow."""
    at, flow_at, inside, owned, edges = _window(
        tl.program_id(0), maps, C, H, W, across, down, stack, halo, LINES, COLUMNS
    )
    numbers = _load_numbers(w)
    constants = _constants(f1, f2, at, inside, edges, W, numbers[5], WIDE, RELEASED)
    plane = tl.cast(maps, tl.int64) * H * W
    started = ()
    for j in tl.static_range(_PHASES):
        started = started + (inside[j] & (first > 0),)
    state = _read(states + (first // every + slots - 1) % slots * _FIELDS * plane, plane, at, started)
    for segment in range(first // every, tl.cdiv(last, every)):
        for _i in range(segment * every, tl.minimum(segment * every + every, last)):
            state = _iterate(state, constants, edges, numbers, RELEASED)
        if segment * every + every < n:
            _write(states + segment % slots * _FIELDS * plane, plane, at, owned, state)
    if last == n:
        beside = flow + tl.cast(C, tl.int64) * H * W
        for j in tl.static_range(_PHASES):
            tl.store(flow + flow_at[j], state[0][j], mask=owned[j])
            tl.store(beside + flow_at[j], state[1][j], mask=owned[j])


@triton.jit
def _dual_back(bx, by, bu, px, py, u, edges, w, sums, owned, RELEASED: tl.constexpr):
    """The derivatives by the dual fields and by u before a step (5), from those by u and by the fields after it.

    That step led from px, py to the fields q that (4) uses, so the derivative by u goes on to q first.
    """
    right, down, left, up = edges
    qx, qy, dx, dy, length, scale = _dual(px, py, u, edges, w[4], RELEASED)
    beside, below = _across(bu, 1), _below(bu)
    s0, s1, s2, s3, s4 = sums
    new_x, new_y, to_x, to_y = (), (), (), ()
    for j in tl.static_range(_PHASES):
        nx, ny = tl.where(right, beside[j], 0.0), tl.where(down[j], below[j], 0.0)
        s0 += tl.where(owned[j], nx * qx[j], 0.0)
        s1 += tl.where(owned[j], bu[j] * qx[j], 0.0)
        s2 += tl.where(owned[j], ny * qy[j], 0.0)
        s3 += tl.where(owned[j], bu[j] * qy[j], 0.0)
        x = tl.where(right, bx[j] + w[1] * bu[j] + w[0] * nx, 0.0)
        y = tl.where(down[j], by[j] + w[3] * bu[j] + w[2] * ny, 0.0)
        by_scale = -(x * qx[j] + y * qy[j]) * scale[j]
        s4 += tl.where(owned[j], (x * dx[j] + y * dy[j]) * scale[j] + by_scale * length[j], 0.0)
        zero = length[j] == 0  # there the derivative of |d| is 0
        per = tl.where(zero, 0.0, by_scale * w[4] / tl.where(zero, 1.0, length[j]))
        x, y = x * scale[j], y * scale[j]
        new_x, new_y = new_x + (x,), new_y + (y,)
        to_x = to_x + (tl.where(right, w[4] * x + per * dx[j], 0.0),)
        to_y = to_y + (tl.where(down[j], w[4] * y + per * dy[j], 0.0),)
    beside, above = _across(to_x, -1), _above(to_y)
    added = ()
    for j in tl.static_range(_PHASES):
        before = tl.where(left, beside[j], 0.0) + tl.where(up[j], above[j], 0.0)
        added = added + (before - to_x[j] - to_y[j],)
    return new_x, new_y, added, (s0, s1, s2, s3, s4)


@triton.jit
def _threshold_back(bx, by, ux, uy, constants, by_constants, RELEASED: tl.constexpr):
    """What (3) adds to the derivatives by u, and to those by rho / L, by h, and, where it is clipped, by g / (lambda
    theta)."""
    rho, hx, hy, limit = constants
    add_x, add_y, by_rho, by_hx, by_hy, by_gx, by_gy = (), (), (), (), (), (), ()
    for j in tl.static_range(_PHASES):
        c = rho[j] + hx[j] * ux[j] + hy[j] * uy[j]
        sign = tl.where(c > limit[j], 1.0, tl.where(c < -limit[j], -1.0, 0.0)).to(c.dtype)
        middle = (c >= -limit[j]) & (c <= limit[j]) if RELEASED else sign == 0
        z = tl.where(middle, -(hx[j] * bx[j] + hy[j] * by[j]), 0.0)
        c = tl.where(sign == 0, c, 0.0)
        by_rho = by_rho + (by_constants[0][j] + z,)
        by_hx = by_hx + (by_constants[1][j] + z * ux[j] - c * bx[j],)
        by_hy = by_hy + (by_constants[2][j] + z * uy[j] - c * by[j],)
        by_gx = by_gx + (by_constants[3][j] - sign * bx[j],)
        by_gy = by_gy + (by_constants[4][j] - sign * by[j],)
        add_x, add_y = add_x + (hx[j] * z,), add_y + (hy[j] * z,)
    return add_x, add_y, (by_rho, by_hx, by_hy, by_gx, by_gy)


@triton.jit
def _plus(a, b, c):
    out = ()
    for j in tl.static_range(_PHASES):
        out = out + (a[j] + b[j] + c[j],)
    return out


@triton.jit
def _backward(
    f1, f2, w, states, scratch, by_flow, bars_in, bars_out, by_frames, sums,
    items, maps, C, H, W, across, down, stack, halo, low, high, segments, n, every,
    WHOLE: tl.constexpr, WIDE: tl.constexpr, RELEASED: tl.constexpr, LINES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Back from the end of segment `high` of `every` iterations to the start of segment `low`, window after window.

    Whole maps make the states that segments start with themselves and keep them in the scratch buffer; of parts of maps
    they are given, and so are the derivatives by the state at the end; those by the state at the start go out.
    Added to by_frames: the derivatives by gx, gy and f2 - f1; to sums: those by the numbers, of each window.
    """
    CELLS: tl.constexpr = _PHASES * LINES * COLUMNS
    plane = tl.cast(maps, tl.int64) * H * W
    numbers = _load_numbers(w)
    spots, always = (), ()
    for j in tl.static_range(_PHASES):
        line = j * LINES + tl.arange(0, LINES)[:, None]
        spots = spots + (line * COLUMNS + tl.arange(0, COLUMNS)[None, :],)
        always = always + (line >= 0,)
    slots = every + segments if WHOLE else every
    kept = scratch + tl.program_id(0).to(tl.int64) * slots * _FIELDS * CELLS
    zero = _zero(LINES, COLUMNS, WIDE)
    for item in range(tl.program_id(0), items, tl.num_programs(0)):
        at, flow_at, inside, owned, edges = _window(item, maps, C, H, W, across, down, stack, halo, LINES, COLUMNS)
        constants = _constants(f1, f2, at, inside, edges, W, numbers[5], WIDE, RELEASED)
        state = (zero, zero, zero, zero, zero, zero)
        bars = (zero, zero, zero, zero, zero, zero)
        if WHOLE:
            bx, by = (), ()
            beside = by_flow + tl.cast(C, tl.int64) * H * W
            for j in tl.static_range(_PHASES):
                bx = bx + (tl.load(by_flow + flow_at[j], mask=inside[j], other=0).to(WIDE),)
                by = by + (tl.load(beside + flow_at[j], mask=inside[j], other=0).to(WIDE),)
            bars = (bx, by, zero, zero, zero, zero)
            tl.debug_barrier()
            for segment in range(segments - 1):
                _write(kept + (every + segment) * _FIELDS * CELLS, CELLS, spots, always, state)
                for _i in range(every):
                    state = _iterate(state, constants, edges, numbers, RELEASED)
            _write(kept + (every + segments - 1) * _FIELDS * CELLS, CELLS, spots, always, state)
        else:
            bars = _read(bars_in, plane, at, inside)
        by_constants = (zero, zero, zero, zero, zero)
        totals = (zero[0], zero[0], zero[0], zero[0], zero[0])
        for k in range(high - low):
            segment = high - 1 - k
            tl.debug_barrier()
            if WHOLE:
                state = _read(kept + (every + segment) * _FIELDS * CELLS, CELLS, spots, always)
            else:
                started = ()
                for j in tl.static_range(_PHASES):
                    started = started + (inside[j] & (segment > 0),)
                state = _read(states + tl.maximum(segment - 1, 0) * _FIELDS * plane, plane, at, started)
            times = tl.minimum(every, n - segment * every)
            for i in range(times - 1):
                _write(kept + i * _FIELDS * CELLS, CELLS, spots, always, state)
                state = _iterate(state, constants, edges, numbers, RELEASED)
            _write(kept + (times - 1) * _FIELDS * CELLS, CELLS, spots, always, state)
            tl.debug_barrier()
            for i in range(times):
                ux, uy, px, py, qx, qy = _read(kept + (times - 1 - i) * _FIELDS * CELLS, CELLS, spots, always)
                bx, by, bpx, bpy, bqx, bqy = bars
                bpx, bpy, dual_x, totals = _dual_back(bpx, bpy, bx, px, py, ux, edges, numbers, totals, owned, RELEASED)
                bqx, bqy, dual_y, totals = _dual_back(bqx, bqy, by, qx, qy, uy, edges, numbers, totals, owned, RELEASED)
                data_x, data_y, by_constants = _threshold_back(bx, by, ux, uy, constants, by_constants, RELEASED)
                bars = (_plus(bx, dual_x, data_x), _plus(by, dual_y, data_y), bpx, bpy, bqx, bqy)
        if not WHOLE:
            _write(bars_out, plane, at, owned, bars)
        right, rows_below, left, rows_above = edges
        by_limit = zero[0]
        for j in tl.static_range(_PHASES):
            gx, gy = _image_gradient(
                f1, f2, at[j], inside[j], W, right, rows_below[j], left, rows_above[j], WIDE, RELEASED
            )
            _norm, inverse = _length(gx, gy, numbers[5], RELEASED)
            hx, hy = gx * inverse, gy * inverse
            b_rho, b_hx, b_hy, b_gx, b_gy = (
                by_constants[0][j],
                by_constants[1][j],
                by_constants[2][j],
                by_constants[3][j],
                by_constants[4][j],
            )
            along = b_hx * hx + b_hy * hy + b_rho * constants[0][j]
            flat = inverse == 0
            to_gx = tl.where(flat, 0.0, (b_hx - along * hx) * inverse) + numbers[5] * b_gx
            to_gy = tl.where(flat, 0.0, (b_hy - along * hy) * inverse) + numbers[5] * b_gy
            by_limit += tl.where(owned[j], b_gx * gx + b_gy * gy, 0.0)
            before = owned[j] & (high < segments)
            target = by_frames + at[j]
            tl.store(target, tl.load(target, mask=before, other=0) + to_gx, mask=owned[j])
            target += plane
            tl.store(target, tl.load(target, mask=before, other=0) + to_gy, mask=owned[j])
            target += plane
            tl.store(target, tl.load(target, mask=before, other=0) + b_rho * inverse, mask=owned[j])
        totals = (totals[0], totals[1], totals[2], totals[3], totals[4], by_limit)
        for i in tl.static_range(6):
            tl.store(sums + tl.cast(item, tl.int64) * 6 + i, tl.sum(totals[i].to(tl.float64)))


@triton.jit
def _difference_back(g, at, i, n, stride, mask):
    """Both parts of the adjoint of a[min(i + 1, n - 1)] - a[max(i - 1, 0)], from the cells before and after; whether
    these lie in the first or last line."""
    first, last = i == 0, i == n - 1
    before = tl.load(g + at - tl.where(first, 0, stride), mask=mask, other=0)
    after = tl.load(g + at + tl.where(last, 0, stride), mask=mask, other=0)
    return tl.where(first, -before, before), tl.where(last, -after, after), i < 2, i >= n - 2


@triton.jit
def _to_frames(
    by_frames, bar1, bar2, cells, H, W, WIDE: tl.constexpr, RELEASED: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """The derivatives by f1 and f2, from those by gx, gy and f2 - f1."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < cells
    x, y = at % W, at // W % H
    gx, gy = by_frames, by_frames + cells
    to2 = tl.load(gy + cells + at, mask=mask, other=0)
    to1 = -to2
    if RELEASED:
        a, b, outer_a, outer_b = _difference_back(gx, at, x, W, 1, mask)
        c, d, outer_c, outer_d = _difference_back(gy, at, y, H, W, mask)
        to1 += 0.5 * (tl.where(outer_a, a, 0.0) - tl.where(outer_b, b, 0.0))
        to1 += 0.5 * (tl.where(outer_c, c, 0.0) - tl.where(outer_d, d, 0.0))
        to2 += 0.5 * (tl.where(outer_a, 0.0, a) - tl.where(outer_b, 0.0, b))
        to2 += 0.5 * (tl.where(outer_c, 0.0, c) - tl.where(outer_d, 0.0, d))
    else:
        for k in tl.static_range(-1, 2):
            weight: tl.constexpr = 0.25 if k == 0 else 0.125
            line = at + tl.where((y + k >= 0) & (y + k < H), k * W, 0)
            a, b, _a, _b = _difference_back(gx, line, x, W, 1, mask)
            line = at + tl.where((x + k >= 0) & (x + k < W), k, 0)
            c, d, _c, _d = _difference_back(gy, line, y, H, W, mask)
            to2 += weight * ((a - b) + (c - d))
    tl.store(bar1 + at, to1, mask=mask)
    tl.store(bar2 + at, to2, mask=mask)


def _windows(f: Tensor, halo: int) -> tuple[tuple[int, int, int, int], dict[str, Any]]:
    """Windows across and down a map, maps of a window, cells around a window that others compute; its size."""
    H, W = f.shape[2:]
    columns = min(triton.next_power_of_2(W), max(32, _CELLS // max(triton.next_power_of_2(H), _PHASES.value)))
    rows = _CELLS // columns
    across = 1 if columns >= W else triton.cdiv(W - 2 * halo, columns - 2 * halo)
    down = 1 if rows >= H else triton.cdiv(H - 2 * halo, rows - 2 * halo)
    size = {"LINES": rows // _PHASES.value, "COLUMNS": columns, "num_warps": _WARPS}
    return (across, down, max(1, rows // H), halo), size


def _is_whole(f: Tensor) -> bool:
    """Whether a window holds a map."""
    return _windows(f, 0)[0][:2] == (1, 1)


def _pass(f1: Tensor, f2: Tensor, w: Tensor, states: Tensor, flow: Tensor, released: bool, *steps: int) -> None:
    """Iterations `first` to `last` of `n`, the states after every `every`-th into one of `slots`."""
    N, C, H, W = f1.shape
    tiling, size = _windows(f1, steps[1] - steps[0])
    with torch.cuda.device_of(f1):  # triton launches on the current device
        _forward[(_items(f1, tiling),)](
            f1, f2, w, states, flow, N * C, C, H, W, *tiling, *steps, **size, **_types(w, released)
        )  # fmt: skip


def _items(f: Tensor, tiling: tuple[int, int, int, int]) -> int:
    across, down, stack, _ = tiling
    return triton.cdiv(f.shape[0] * f.shape[1], stack) * across * down


def _types(w: Tensor, released: bool) -> dict[str, Any]:
    return {"WIDE": tl.float64 if w.dtype == torch.float64 else tl.float32, "RELEASED": released}


# Memory is walked along W, then H: a map that does not lie so, channels-last for instance, is copied first.


@torch.library.custom_op("motionspec::representation_flow", mutates_args=())
def representation_flow(f1: Tensor, f2: Tensor, numbers: Tensor, n_iter: int, released: bool) -> Tensor:
    """The flow in the scheme "released" or "classic".

    numbers (6,), in the type to compute in: theta (wx[0], wx[1], wy[0], wy[1]), tau / theta, lambda theta.
    """
    N, C, H, W = f1.shape
    a, b = f1.contiguous(), f2.contiguous()
    flow = f1.new_empty((N, 2 * C, H, W))
    if _is_whole(f1):
        _pass(a, b, numbers, numbers, flow, released, 0, n_iter, n_iter, max(n_iter, 1), 1)  # reads and writes no state
        return flow
    states = numbers.new_empty((2, _FIELDS.value, *f1.shape))
    for first in range(0, max(n_iter, 1), _PASS):
        _pass(a, b, numbers, states, flow, released, first, min(first + _PASS, n_iter), n_iter, _PASS, 2)
    return flow


@torch.library.custom_op("motionspec::representation_flow_backward", mutates_args=())
def backward(
    by_flow: Tensor, f1: Tensor, f2: Tensor, numbers: Tensor, n_iter: int, released: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The derivatives by f1, f2 and the numbers."""
    N, C, H, W = f1.shape
    bar1, bar2 = f1.new_zeros(f1.shape), f1.new_zeros(f1.shape)
    if n_iter == 0:
        return bar1, bar2, numbers.new_zeros(numbers.shape)
    whole = _is_whole(f1)
    every = math.isqrt(n_iter - 1) + 1 if whole else _PASS_BACK
    segments = triton.cdiv(n_iter, every)
    a, b, c = f1.contiguous(), f2.contiguous(), by_flow.contiguous()
    states, bars = numbers, [numbers, numbers]
    if not whole:
        states = numbers.new_empty((max(segments - 1, 1), _FIELDS.value, *f1.shape))
        end = (segments - 1) * every
        for first in range(0, end, _PASS):
            _pass(a, b, numbers, states, c, released, first, min(first + _PASS, end), n_iter, every, segments - 1)
        bars = [numbers.new_zeros((_FIELDS.value, *f1.shape)) for _ in range(2)]
        bars[0][:2] = c.view(N, 2, C, H, W).transpose(0, 1)
    tiling, size = _windows(f1, 2 * every - 1)
    items = _items(f1, tiling)
    programs = min(items, _PROGRAMS)
    scratch = numbers.new_empty((programs, every + segments if whole else every, _FIELDS.value, _CELLS))
    by_frames = numbers.new_empty((3, *f1.shape))
    passes = [(0, segments)] if whole else [(segment, segment + 1) for segment in reversed(range(segments))]
    sums = numbers.new_empty((len(passes), items, 6), dtype=torch.float64)
    types = _types(numbers, released)
    with torch.cuda.device_of(f1):
        for part, (low, high) in zip(sums, passes, strict=True):
            _backward[(programs,)](
                a, b, numbers, states, scratch, c, *bars, by_frames, part,
                items, N * C, C, H, W, *tiling, low, high, segments, n_iter, every, WHOLE=whole, **size, **types,
            )  # fmt: skip
            bars.reverse()
        grid = (triton.cdiv(f1.numel(), _CELLS),)
        _to_frames[grid](by_frames, bar1, bar2, f1.numel(), H, W, BLOCK=_CELLS, num_warps=_WARPS, **types)
    return bar1, bar2, sums.sum((0, 1)).to(numbers.dtype)


@representation_flow.register_fake
def _(f1: Tensor, f2: Tensor, numbers: Tensor, n_iter: int, released: bool) -> Tensor:
    N, C, H, W = f1.shape
    return f1.new_empty((N, 2 * C, H, W))


@backward.register_fake
def _(
    by_flow: Tensor, f1: Tensor, f2: Tensor, numbers: Tensor, n_iter: int, released: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return f1.new_empty(f1.shape), f1.new_empty(f1.shape), numbers.new_empty(numbers.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *saved, ctx.n_iter, ctx.released = inputs
    ctx.save_for_backward(*saved)


def _derivative(ctx: Any, by_flow: Tensor) -> tuple[Tensor | None, ...]:
    return *backward(by_flow, *ctx.saved_tensors, ctx.n_iter, ctx.released), None, None


representation_flow.register_autograd(_derivative, setup_context=_save)
backward.register_autograd(no_second_derivative("tvl1.representation_flow", "triton"))
