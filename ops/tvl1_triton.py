"""Triton kernels of `tvl1.representation_flow`, forward and backward; imported on first use.

Bound by arithmetic and by the exchange between neighbours, so a map is read once, iterated in registers and written
once. A program holds a window of 1024 cells, 32 x 32 or the like, in one dimension: Triton would lay out cells of two
anew for each direction in which neighbours are gathered. A window is several small maps, a whole one, or a part of a
larger one. An iteration lets a cell feel its neighbours, so a window that is iterated k times is right up to k cells
from those of its sides that are not the map's: windows overlap, and pass their state on through global memory.

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
from motionspec.ops.tvl1 import eager_derivative

_CELLS, _WARPS = 1024, 16  # of a window. What they cost in registers: `benchmarks/resources.txt`.
_FIELDS = tl.constexpr(6)  # of a state: ux, uy, and the dual fields of ux, then of uy, x and y
# Of maps larger than a window: iterations of a pass; of a pass back, whose windows overlap by 2 k - 1 cells each.
_PASS, _PASS_BACK = 4, 2
_PROGRAMS = 1024  # at most so many go back, each with scratch of its own


@triton.jit
def _window(item, maps, H, W, across, down, stack, halo, COLUMNS: tl.constexpr, CELLS: tl.constexpr):
    """Where it begins in maps (N, C, H, W), in 64 bits, and where its cells lie from there; which exist; which belong
    to this window alone; and its edges: which have a cell to the right, below, to the left and above, and where in the
    window that is (at its ends another, of which the edge of the map or another window takes care).
    """
    i = tl.arange(0, CELLS)
    row, column = i // COLUMNS, i % COLUMNS
    rows: tl.constexpr = CELLS // COLUMNS
    left = item % across * (COLUMNS - 2 * halo)
    top = item // across % down * (rows - 2 * halo)
    first = tl.cast(item // across // down, tl.int64) * stack
    x, y = left + column, top + row % H
    inside = (row // H < tl.minimum(stack, maps - first)) & (y < H) & (x < W)
    owned = ((column >= halo) | (left == 0)) & ((column + halo < COLUMNS) | (left + COLUMNS >= W))
    owned = owned & ((row >= halo) | (top == 0)) & ((row + halo < rows) | (top + rows >= H))
    beside, below = tl.minimum(i + 1, CELLS - 1), tl.minimum(i + COLUMNS, CELLS - 1)
    before, above = tl.maximum(i - 1, 0), tl.maximum(i - COLUMNS, 0)
    edges = (x < W - 1, y < H - 1, x > 0, y > 0, beside, below, before, above)
    return (first * H + top) * W + left, row * W + column, inside, inside & owned, edges


@triton.jit
def _in_flow(item, base, at, C, H, W, across, down, stack, COLUMNS: tl.constexpr, CELLS: tl.constexpr):
    """Where the x components of the cells of a window lie in flows (N, 2, C, H, W), and how far on the y components."""
    first, plane = tl.cast(item // across // down, tl.int64) * stack, tl.cast(C, tl.int64) * H * W
    sample = first // C + (first % C + tl.arange(0, CELLS) // COLUMNS // H) // C
    return base + at + sample * plane, plane


@triton.jit
def _read(pointer, plane, at, mask, COUNT: tl.constexpr = _FIELDS):
    """The fields of a state, or the first of them."""
    state = ()
    for i in tl.static_range(COUNT):
        state = state + (tl.load(pointer + i * plane + at, mask=mask, other=0),)  # type: ignore[assignment]
    return state


@triton.jit
def _write(pointer, plane, at, mask, state):
    for i in tl.static_range(_FIELDS):
        tl.store(pointer + i * plane + at, state[i], mask=mask)


@triton.jit
def _image_gradient(f1, f2, at, here, W, edges, WIDE: tl.constexpr, RELEASED: tl.constexpr):
    """Differences first: what is equal leaves exactly 0."""
    right, down, left, up, _, _, _, _ = edges
    e, w, s, n = at + right, at - left, at + down * W, at - up * W
    if RELEASED:
        inner_x, inner_y = right & left & here, down & up & here
        outer_x, outer_y = here & (inner_x == 0), here & (inner_y == 0)
        # Halves first, as in eager PyTorch: of a difference that leaves the range of the type the half does not.
        gx = 0.5 * tl.load(f2 + e, mask=inner_x, other=0).to(WIDE) - 0.5 * tl.load(f2 + w, mask=inner_x, other=0).to(
            WIDE
        )
        gy = 0.5 * tl.load(f2 + s, mask=inner_y, other=0).to(WIDE) - 0.5 * tl.load(f2 + n, mask=inner_y, other=0).to(
            WIDE
        )
        x = tl.load(f1 + e, mask=outer_x, other=0).to(WIDE) - tl.load(f1 + w, mask=outer_x, other=0).to(WIDE)
        y = tl.load(f1 + s, mask=outer_y, other=0).to(WIDE) - tl.load(f1 + n, mask=outer_y, other=0).to(WIDE)
        gx, gy = gx + 0.5 * x, gy + 0.5 * y
    else:
        nw = tl.load(f2 + (n - left), mask=here, other=0).to(WIDE)
        ne = tl.load(f2 + (n + right), mask=here, other=0).to(WIDE)
        sw = tl.load(f2 + (s - left), mask=here, other=0).to(WIDE)
        se = tl.load(f2 + (s + right), mask=here, other=0).to(WIDE)
        x = tl.load(f2 + e, mask=here, other=0).to(WIDE) - tl.load(f2 + w, mask=here, other=0).to(WIDE)
        y = tl.load(f2 + s, mask=here, other=0).to(WIDE) - tl.load(f2 + n, mask=here, other=0).to(WIDE)
        # Eighths before sums, which do not leave the range of the type then.
        gx = 0.125 * (ne - nw) + 0.125 * (se - sw) + 0.25 * x
        gy = 0.125 * (sw - nw) + 0.125 * (se - ne) + 0.25 * y
    return gx, gy


@triton.jit
def _direction(gx, gy, lt, RELEASED: tl.constexpr):
    """L = |g|, and what to divide by: L, or 1 where lambda theta L is 0."""
    if RELEASED:
        length = tl.sqrt(gx * gx + gy * gy + 1e-12)
    else:  # the larger part is taken out, for its square may underflow
        x, y = tl.abs(gx), tl.abs(gy)
        large, small = tl.where(x > y, x, y), tl.where(x > y, y, x)
        ratio = small / tl.where(large == 0, 1.0, large)
        length = large * tl.sqrt(1 + ratio * ratio)
    return length, tl.where(lt * length == 0, 1.0, length)


@triton.jit
def _constants(f1, f2, at, here, W, edges, lt, WIDE: tl.constexpr, RELEASED: tl.constexpr):
    """rho / L, h, lambda theta L.

    The squares of the scheme "released" may leave the range of the type: then L is infinite, as in eager PyTorch, and
    nothing of the data is left.
    """
    gx, gy = _image_gradient(f1, f2, at, here, W, edges, WIDE, RELEASED)
    length, divisor = _direction(gx, gy, lt, RELEASED)
    rho = tl.load(f2 + at, mask=here, other=0).to(WIDE) - tl.load(f1 + at, mask=here, other=0).to(WIDE)
    limit = lt * length
    if RELEASED:  # torch.clamp hands on a limit of NaN, and no derivative; a comparison with it clips nothing
        rho = tl.where(lt != lt, float("nan"), rho)
    else:
        limit = tl.where(lt != lt, float("inf"), limit)
    inverse = 1 / divisor
    return rho * inverse, gx * inverse, gy * inverse, limit


@triton.jit
def _dual(px, py, u, edges, w, RELEASED: tl.constexpr):
    """The dual fields after (5); d = grad u, |d| and 1 / (1 + tau / theta |d|).

    A square underflows only where the last is 1; flows whose differences overflow squared are out of reach.
    """
    right, down, _, _, beside, below, _, _ = edges
    dx = tl.where(right, tl.gather(u, beside, 0) - u, 0.0)
    dy = tl.where(down, tl.gather(u, below, 0) - u, 0.0)
    length = tl.sqrt(dx * dx + dy * dy + (1e-12 if RELEASED else 0.0))
    scale = 1 / (1 + w[4] * length)
    qx, qy = tl.where(right, (px + w[4] * dx) * scale, 0.0), tl.where(down, (py + w[4] * dy) * scale, 0.0)
    return qx, qy, dx, dy, length, scale


@triton.jit
def _divergence(px, py, edges, w):
    """theta times that of (6)."""
    _, _, left, up, _, _, before, above = edges
    x, y = tl.where(left, tl.gather(px, before, 0), 0.0), tl.where(up, tl.gather(py, above, 0), 0.0)
    return (w[0] * x + w[2] * y) + (w[1] * px + w[3] * py)


@triton.jit
def _iterate(state, constants, edges, w, RELEASED: tl.constexpr):
    """(5) of the iteration before, which leaves the start as it is, then (2)-(4)."""
    ux, uy, px, py, qx, qy = state
    rho, hx, hy, limit = constants
    px, py, _dx, _dy, _length, _scale = _dual(px, py, ux, edges, w, RELEASED)
    qx, qy, _dx, _dy, _length, _scale = _dual(qx, qy, uy, edges, w, RELEASED)
    c = rho + hx * ux + hy * uy
    c = tl.minimum(c, limit, propagate_nan=tl.PropagateNan.ALL)
    c = tl.maximum(c, -limit, propagate_nan=tl.PropagateNan.ALL)
    ux, uy = ux - c * hx + _divergence(px, py, edges, w), uy - c * hy + _divergence(qx, qy, edges, w)
    return ux, uy, px, py, qx, qy


@triton.jit
def _numbers(w):
    return tl.load(w), tl.load(w + 1), tl.load(w + 2), tl.load(w + 3), tl.load(w + 4), tl.load(w + 5)


# Not for each of these numbers a kernel of its own: no iteration needs them.
@triton.jit(do_not_specialize=["halo", "first", "last", "n", "every", "slots"])
def _forward(
    f1, f2, numbers, states, flow, maps, C, H, W, across, down, stack, halo, first, last, n, every, slots,
    WIDE: tl.constexpr, RELEASED: tl.constexpr, COLUMNS: tl.constexpr, CELLS: tl.constexpr,
):  # fmt: skip
    """Iterations first to last of one window. Every so many its state goes to one of the slots; after all the flow."""
    item, w = tl.program_id(0), _numbers(numbers)
    base, at, inside, owned, edges = _window(item, maps, H, W, across, down, stack, halo, COLUMNS, CELLS)
    constants = _constants(f1 + base, f2 + base, at, inside, W, edges, w[5], WIDE, RELEASED)
    plane = tl.cast(maps, tl.int64) * H * W
    states += base
    start = states + (first // every + slots - 1) % slots * _FIELDS * plane
    state = _read(start, plane, at, inside & (first > 0))
    for segment in range(first // every, tl.cdiv(last, every)):
        for _i in range(segment * every, tl.minimum(segment * every + every, last)):
            state = _iterate(state, constants, edges, w, RELEASED)
        if segment * every + every < n:
            _write(states + segment % slots * _FIELDS * plane, plane, at, owned, state)
    if last == n:
        spot, beside = _in_flow(item, base, at, C, H, W, across, down, stack, COLUMNS, CELLS)
        tl.store(flow + spot, state[0], mask=owned)
        tl.store(flow + (spot + beside), state[1], mask=owned)


@triton.jit
def _dual_back(bx, by, bu, px, py, u, edges, w, sums, mine, RELEASED: tl.constexpr):
    """From the derivatives by the dual fields and by u after an iteration those by the dual fields before it, and what
    (5) adds to those by u; to the sums those by theta (wx, wy) and tau / theta."""
    right, down, left, up, beside, below, before, above = edges
    qx, qy, dx, dy, length, scale = _dual(px, py, u, edges, w, RELEASED)
    next_x, next_y = tl.where(right, tl.gather(bu, beside, 0), 0.0), tl.where(down, tl.gather(bu, below, 0), 0.0)
    bx = tl.where(right, bx + w[1] * bu + w[0] * next_x, 0.0)
    by = tl.where(down, by + w[3] * bu + w[2] * next_y, 0.0)
    by_scale = -(bx * qx + by * qy) * scale
    s0, s1, s2, s3, s4 = sums
    s0, s1, s2, s3 = s0 + mine * next_x * qx, s1 + mine * bu * qx, s2 + mine * next_y * qy, s3 + mine * bu * qy
    s4 += mine * ((bx * dx + by * dy) * scale + by_scale * length)
    zero = length == 0  # there the derivative of |d| is 0
    per = tl.where(zero, 0.0, by_scale * w[4] / tl.where(zero, 1.0, length))
    bx, by = bx * scale, by * scale
    to_x, to_y = tl.where(right, w[4] * bx + per * dx, 0.0), tl.where(down, w[4] * by + per * dy, 0.0)
    last_x, last_y = tl.where(left, tl.gather(to_x, before, 0), 0.0), tl.where(up, tl.gather(to_y, above, 0), 0.0)
    return bx, by, (last_x - to_x) + (last_y - to_y), (s0, s1, s2, s3, s4)


@triton.jit
def _threshold_back(bx, by, ux, uy, constants, sums, RELEASED: tl.constexpr):
    """What (3) adds to the derivatives by u; to the sums those by rho / L, by h (where lambda theta L is 0, instead
    those by g / (lambda theta)) and by lambda theta L."""
    rho, hx, hy, limit = constants
    c, along = rho + hx * ux + hy * uy, -(hx * bx + hy * by)
    sign = tl.where(c > limit, 1.0, tl.where(c < -limit, -1.0, 0.0)).to(c.dtype)
    middle = (c >= -limit) & (c <= limit) if RELEASED else sign == 0  # they differ where c is NaN
    c = tl.where(sign == 0, c, sign * tl.where(limit == 0, 1.0, limit))
    z = tl.where(middle, along, 0.0)
    by_rho, by_hx, by_hy, by_limit = sums
    by_hx, by_hy = by_hx + (z * ux - c * bx), by_hy + (z * uy - c * by)
    return hx * z, hy * z, (by_rho + z, by_hx, by_hy, by_limit + tl.where(sign == 0, 0.0, sign * along))


@triton.jit
def _add(target, added, mask, later, WHOLE: tl.constexpr):
    """To what is there, if something is."""
    if not WHOLE:
        added += tl.load(target, mask=mask & later, other=0)
    tl.store(target, added, mask=mask)


@triton.jit(do_not_specialize=["halo", "high", "segments", "n", "every"])
def _backward(
    f1, f2, numbers, states, scratch, by_flow, bars_in, bars_out, by_frames, sums,
    items, maps, C, H, W, across, down, stack, halo, high, segments, n, every,
    WHOLE: tl.constexpr, WIDE: tl.constexpr, RELEASED: tl.constexpr, COLUMNS: tl.constexpr, CELLS: tl.constexpr,
):  # fmt: skip
    """Back from the end of segment `high` - 1, of `every` iterations, through it or, if maps are whole, through all.

    Whole maps make the states that segments start with themselves and keep them in the scratch buffer; of parts of maps
    they are given, and so are the derivatives by the state at the end; those by the state at the start go out.
    Added to by_frames: the derivatives by gx, gy and rho / L; to sums: those by the numbers, of each window.
    """
    plane, w, spot = tl.cast(maps, tl.int64) * H * W, _numbers(numbers), tl.arange(0, CELLS)
    every_spot = spot >= 0
    size: tl.constexpr = CELLS * _FIELDS
    kept = scratch + tl.program_id(0).to(tl.int64) * (every + segments) * size
    starts = kept + every * size
    zero = tl.zeros((CELLS,), WIDE)
    # Not hoisted: what is the same for all windows would take registers in the loops within.
    for item in tl.range(tl.program_id(0), items, tl.num_programs(0), disable_licm=True):
        base, at, inside, owned, edges = _window(item, maps, H, W, across, down, stack, halo, COLUMNS, CELLS)
        constants = _constants(f1 + base, f2 + base, at, inside, W, edges, w[5], WIDE, RELEASED)
        if WHOLE:
            given, beside = _in_flow(item, base, at, C, H, W, across, down, stack, COLUMNS, CELLS)
            bx = tl.load(by_flow + given, mask=inside, other=0).to(WIDE)
            by = tl.load(by_flow + (given + beside), mask=inside, other=0).to(WIDE)
            bars = (bx, by, zero, zero, zero, zero)
            state = (zero, zero, zero, zero, zero, zero)
            # Another name than below, where it may have 64 bits: a variable keeps its type in a loop.
            for begun in range(segments):
                _write(starts + begun * size, CELLS, spot, every_spot, state)
                for _i in range(tl.where(begun < segments - 1, every, 0)):
                    state = _iterate(state, constants, edges, w, RELEASED)
        else:
            bars = _read(bars_in + base, plane, at, inside)
        mine = 1.0 if WHOLE else tl.where(owned, 1.0, 0.0)  # of no map is 0 anyway; takes fewer registers than masks
        totals, by_constants = (zero, zero, zero, zero, zero), (zero, zero, zero, zero)
        for k in range(segments if WHOLE else 1):
            segment = high - 1 - k
            tl.debug_barrier()
            if WHOLE:
                state = _read(starts + segment * size, CELLS, spot, every_spot)
            else:
                start = states + base + tl.maximum(segment - 1, 0) * _FIELDS * plane
                state = _read(start, plane, at, inside & (segment > 0))
            times = tl.minimum(every, n - segment * every)
            _write(kept, CELLS, spot, every_spot, state)
            for i in range(1, times):
                state = _iterate(state, constants, edges, w, RELEASED)
                _write(kept + i * size, CELLS, spot, every_spot, state)
            tl.debug_barrier()
            for i in range(times):
                now = kept + (times - 1 - i) * size
                (ux,) = _read(now, CELLS, spot, every_spot, 1)
                px, py = _read(now + 2 * CELLS, CELLS, spot, every_spot, 2)
                bx, by, bpx, bpy, bqx, bqy = bars
                bpx, bpy, dual_x, totals = _dual_back(bpx, bpy, bx, px, py, ux, edges, w, totals, mine, RELEASED)
                (uy,) = _read(now + CELLS, CELLS, spot, every_spot, 1)
                qx, qy = _read(now + 4 * CELLS, CELLS, spot, every_spot, 2)
                bqx, bqy, dual_y, totals = _dual_back(bqx, bqy, by, qx, qy, uy, edges, w, totals, mine, RELEASED)
                data_x, data_y, by_constants = _threshold_back(bx, by, ux, uy, constants, by_constants, RELEASED)
                bars = (bx + (dual_x + data_x), by + (dual_y + data_y), bpx, bpy, bqx, bqy)
        if not WHOLE:
            _write(bars_out + base, plane, at, owned, bars)
        by_rho, by_hx, by_hy, by_limit = by_constants
        rho, hx, hy, limit = constants
        flat = limit == 0
        inverse = w[5] / tl.where(flat, 1.0, limit)  # 1 / L, without f2 once more
        if not RELEASED:  # nothing that is 0 meets a factor that is infinite or NaN
            rho = tl.where(by_rho == 0, 0.0, rho)
        along = (by_hx * hx + by_hy * hy + by_rho * rho) * inverse - w[5] * by_limit
        to_gx = tl.where(flat, w[5] * by_hx, by_hx * inverse - along * hx)
        to_gy = tl.where(flat, w[5] * by_hy, by_hy * inverse - along * hy)
        _add(by_frames + base + at, to_gx, owned, high < segments, WHOLE)
        _add(by_frames + (base + plane) + at, to_gy, owned, high < segments, WHOLE)
        _add(by_frames + (base + 2 * plane) + at, by_rho, owned, high < segments, WHOLE)
        # A length may be infinite where nothing was clipped.
        found = totals + (tl.where(owned & (by_limit != 0), by_limit * (limit / w[5]), 0.0),)
        for i in tl.static_range(6):
            tl.store(sums + tl.cast(item, tl.int64) * 6 + i, tl.sum(found[i]).to(tl.float64))


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
    f1, f2, numbers, by_frames, bar1, bar2, cells, H, W,
    WIDE: tl.constexpr, RELEASED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The derivatives by f1 and f2, from those by gx, gy and rho / L."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < cells
    x, y = at % W, at // W % H
    gx, gy = by_frames, by_frames + cells
    edges = (x < W - 1, y < H - 1, x > 0, y > 0, 0, 0, 0, 0)
    x_f2, y_f2 = _image_gradient(f1, f2, at, mask, W, edges, WIDE, RELEASED)
    lt = tl.load(numbers + 5)
    length, divisor = _direction(x_f2, y_f2, lt, RELEASED)
    to2 = tl.load(gy + cells + at, mask=mask, other=0) / divisor
    to2 = tl.where(lt * length * length == 0, 0.0, to2)  # what is not clipped there has no rho, and no derivative
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
            line = at + tl.where((y + k >= 0) & (y + k < H), k * W, 0)
            a, b, _a, _b = _difference_back(gx, line, x, W, 1, mask)
            line = at + tl.where((x + k >= 0) & (x + k < W), k, 0)
            c, d, _c, _d = _difference_back(gy, line, y, H, W, mask)
            to2 += (0.25 if k == 0 else 0.125) * ((a - b) + (c - d))
    tl.store(bar1 + at, to1, mask=mask)
    tl.store(bar2 + at, to2, mask=mask)


def _windows(f: Tensor, halo: int) -> tuple[tuple[int, int, int, int], dict[str, Any]]:
    """Windows across and down a map, maps of a window, cells around a window that others compute; its size."""
    H, W = f.shape[2:]
    columns = min(triton.next_power_of_2(W), max(32, _CELLS // triton.next_power_of_2(H)))
    rows = _CELLS // columns
    across = 1 if columns >= W else triton.cdiv(W - 2 * halo, columns - 2 * halo)
    down = 1 if rows >= H else triton.cdiv(H - 2 * halo, rows - 2 * halo)
    return (across, down, max(1, rows // H), halo), {"COLUMNS": columns, "CELLS": _CELLS, "num_warps": _WARPS}


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
def representation_flow(f1: Tensor, f2: Tensor, numbers: Tensor, n_iter: int, released: bool, named: bool) -> Tensor:
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
    scratch = numbers.new_empty((programs, every + segments, _FIELDS.value, _CELLS))
    by_frames = numbers.new_empty((3, *f1.shape))
    passes = [segments] if whole else range(segments, 0, -1)
    sums = numbers.new_empty((len(passes), items, 6), dtype=torch.float64)
    types = _types(numbers, released)
    with torch.cuda.device_of(f1):
        for part, high in zip(sums, passes, strict=True):
            _backward[(programs,)](
                a, b, numbers, states, scratch, c, *bars, by_frames, part,
                items, N * C, C, H, W, *tiling, high, segments, n_iter, every, WHOLE=whole, **size, **types,
            )  # fmt: skip
            bars.reverse()
        grid = (triton.cdiv(f1.numel(), _CELLS),)
        _to_frames[grid](a, b, numbers, by_frames, bar1, bar2, f1.numel(), H, W, BLOCK=_CELLS, num_warps=8, **types)
    return bar1, bar2, sums.sum((0, 1)).to(numbers.dtype)


@representation_flow.register_fake
def _(f1: Tensor, f2: Tensor, numbers: Tensor, n_iter: int, released: bool, named: bool) -> Tensor:
    N, C, H, W = f1.shape
    return f1.new_empty((N, 2 * C, H, W))


@backward.register_fake
def _(
    by_flow: Tensor, f1: Tensor, f2: Tensor, numbers: Tensor, n_iter: int, released: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return f1.new_empty(f1.shape), f1.new_empty(f1.shape), numbers.new_empty(numbers.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *saved, ctx.n_iter, ctx.released, ctx.named = inputs
    ctx.save_for_backward(*saved)


def _derivative(ctx: Any, by_flow: Tensor) -> tuple[Tensor | None, ...]:
    found = eager_derivative(ctx, "triton", by_flow)
    if found is None:
        found = backward(by_flow, *ctx.saved_tensors, ctx.n_iter, ctx.released)
    return (*found, None, None, None)


representation_flow.register_autograd(_derivative, setup_context=_save)
backward.register_autograd(no_second_derivative("tvl1.representation_flow", "triton"))
