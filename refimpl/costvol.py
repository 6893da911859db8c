"""Cost volume and displacement map (DC18 §3.3)."""

import math

import numpy as np

from motionspec.checks import choice, message, odd_window, positive, radii
from motionspec.refimpl.checks import Array, arrays

# Scores this close to the maximum count as tied. In float32, and so in the half types, the operator takes 1e-6.
TIE = 1e-12


def _unit(f: Array) -> Array:
    """f / |f|, and 0 for f = 0; scaled first, so that the squares neither under- nor overflow."""
    largest = np.abs(f).max()
    if largest == 0:
        return np.zeros(f.shape)
    f = f / largest
    return f / math.sqrt(sum(x * x for x in f))


def cosine(f0: Array, f1: Array, *, radius: int | tuple[int, int], border: str = "zero") -> Array:
    """Cost volume: `C(i, j, di, dj)`, the cosine of `f_t(i, j)` and `f_(t+1)(i + di, j + dj)`.

    Equation: DC18 §3.3, Fig. 4.
    Shapes: f0, f1 (N, C, H, W) -> (N, H, W, 2 R_h + 1, 2 R_w + 1); radius is R_h = R_w, or the pair (R_h, R_w).
        [n, i, j, R_h + di, R_w + dj]: di goes down, dj to the right, 0 in the middle.
    Units: none, in [-1, 1].
    Border: where (i + di, j + dj) lies outside the map, `border="zero"`: similarity 0 (in the softmax its weight is
        exp(0)); `border="exclude"`: -inf (weight 0). The derivative there is 0.
    Kinks: a vector of norm exactly 0 has similarity 0 and derivative 0, also that of its partner.
    Deviations: the paper says nothing about the border; FlowNet's correlation is the dot product, not the cosine
        (test_costvol.py::test_cosine_does_not_see_the_length_of_a_vector). No code of the paper's authors is public.
    Raises: TypeError or ValueError for dtypes, shapes, `radius`, `border`, or values that are not finite.
    """
    R_h, R_w = radii("costvol.cosine", radius)
    choice("costvol.cosine", "border", border, ("zero", "exclude"))
    f0, f1 = arrays("costvol.cosine", f0=(f0, "N C H W"), f1=(f1, "N C H W"))
    N, _, H, W = f0.shape
    e0, e1 = np.full(f0.shape, np.nan), np.full(f1.shape, np.nan)
    for n, i, j in np.ndindex(N, H, W):
        e0[n, :, i, j], e1[n, :, i, j] = _unit(f0[n, :, i, j]), _unit(f1[n, :, i, j])
    out = np.full((N, H, W, 2 * R_h + 1, 2 * R_w + 1), 0.0 if border == "zero" else -np.inf)
    for n, i, j in np.ndindex(N, H, W):
        for di in range(-R_h, R_h + 1):
            for dj in range(-R_w, R_w + 1):
                if 0 <= i + di < H and 0 <= j + dj < W:
                    out[n, i, j, R_h + di, R_w + dj] = e0[n, :, i, j] @ e1[n, :, i + di, j + dj]
    return out


def _scores(operator: str, c: Array) -> Array:
    """The cost volume, checked: NaN and +inf mean nothing, -inf excludes an offset, but not all of a window."""
    (c,) = arrays(operator, nonfinite=("c",), c=(c, "N H W Kh Kw"))
    odd_window(operator, "c", c.shape)
    wrong = np.isnan(c) | (c == np.inf)
    if wrong.any():
        first = tuple(int(k) for k in np.argwhere(wrong)[0])
        raise ValueError(message(operator, "c", "finite values", f"{c[first]} at {first}"))
    empty = (c == -np.inf).all(axis=(3, 4))
    if empty.any():
        first = tuple(int(k) for k in np.argwhere(empty)[0])
        raise ValueError(message(operator, "c", "an offset that is not excluded", f"-inf throughout {first}"))
    return c


def marginals(c: Array, *, tau: float) -> tuple[Array, Array]:
    """Marginals `rho^y(di)`, `rho^x(dj)` of the joint softmax of `c / tau` over the window.

    Equation: DC18 (2).
    Shapes: c (N, H, W, 2 R_h + 1, 2 R_w + 1) -> rho_y (N, H, W, 2 R_h + 1), rho_x (N, H, W, 2 R_w + 1).
    Units: probabilities; tau > 0 in units of c.
    Border: an offset of score -inf has weight 0 and derivative 0.
    Kinks: none, it is smooth.
    Deviations: the paper's remark that they are softmaxes along the two dimensions is not (2)
        (test_costvol.py::test_marginals_two_separable_softmaxes_are_not_the_joint_one). No code is public.
    Raises: TypeError or ValueError for dtypes, shapes, even sides, `tau`, NaN or +inf in c, or a window of -inf only.
    """
    positive("costvol.marginals", "tau", tau)
    c = _scores("costvol.marginals", c)
    rho_y, rho_x = np.full(c.shape[:4], np.nan), np.full((*c.shape[:3], c.shape[4]), np.nan)
    for n, i, j in np.ndindex(c.shape[:3]):
        weight = np.exp((c[n, i, j] - c[n, i, j].max()) / tau)  # the common factor cancels
        rho_y[n, i, j] = weight.sum(axis=1) / weight.sum()
        rho_x[n, i, j] = weight.sum(axis=0) / weight.sum()
    return rho_y, rho_x


def soft_displacement(c: Array, *, tau: float) -> Array:
    """Expected offset under `marginals`: soft assignment.

    Equation: DC18 (1): v^y = sum_di rho^y(di) di, v^x = sum_dj rho^x(dj) dj.
    Shapes: c (N, H, W, 2 R_h + 1, 2 R_w + 1) -> (N, 2, H, W), channel 0 = u = v^x, 1 = v = v^y (the paper: y first).
    Units: pixels, from the earlier frame to the later.
    Border: as `marginals`.
    Kinks: none, it is smooth. For tau -> 0 it tends to `hard_displacement` where the maximum is unique, to the mean of
        the tied offsets at a tie (test_costvol.py::test_soft_displacement_tends_to_hard_or_to_the_mean_of_ties).
    Deviations: none known; the authors' code is not public.
    Raises: as `marginals`.
    """
    positive("costvol.soft_displacement", "tau", tau)
    c = _scores("costvol.soft_displacement", c)
    rho_y, rho_x = marginals(c, tau=tau)
    R_h, R_w = c.shape[3] // 2, c.shape[4] // 2
    # An offset with its opposite: equal scores give 0, and not what rounding leaves of it.
    v_y = sum(((rho_y[..., R_h + di] - rho_y[..., R_h - di]) * di for di in range(1, R_h + 1)), np.zeros(c.shape[:3]))
    v_x = sum(((rho_x[..., R_w + dj] - rho_x[..., R_w - dj]) * dj for dj in range(1, R_w + 1)), np.zeros(c.shape[:3]))
    return np.stack([v_x, v_y], axis=1)


def hard_displacement(c: Array) -> Array:
    """Offset of the highest score: winner takes all.

    Equation: DC18 §3.3 (WTA).
    Shapes: c (N, H, W, 2 R_h + 1, 2 R_w + 1) -> (N, 2, H, W), channel 0 = u, 1 = v.
    Units: pixels, from the earlier frame to the later.
    Border: an offset of score -inf is never chosen.
    Kinks: scores within 1e-12 of the maximum count as tied (the operator in float32 and the half types: 1e-6); the tie
        goes to the smallest di^2 + dj^2, then to the first in row-major order. The derivative is 0.
    Deviations: the paper says nothing about ties; the authors' code is not public.
    Raises: as `marginals`.
    """
    c = _scores("costvol.hard_displacement", c)
    N, H, W, P, Q = c.shape
    out = np.full((N, 2, H, W), np.nan)
    for n, i, j in np.ndindex(N, H, W):
        highest = c[n, i, j].max()
        tied = [
            (di * di + dj * dj, di, dj)  # the smallest of these is the winner
            for di in range(-(P // 2), P // 2 + 1)
            for dj in range(-(Q // 2), Q // 2 + 1)
            if c[n, i, j, P // 2 + di, Q // 2 + dj] >= highest - TIE
        ]
        _, v_y, v_x = min(tied)
        out[n, :, i, j] = v_x, v_y
    return out


def displacement_map(f0: Array, f1: Array, *, radius: int | tuple[int, int], tau: float, border: str = "zero") -> Array:
    """The apparent motion from one feature map to the next: `soft_displacement` of `cosine`.

    Equation: DC18 §3.3 with (1) and (2).
    Shapes: f0, f1 (N, C, H, W) -> (N, 2, H, W), channel 0 = u, 1 = v.
    Units: pixels, from f0 to f1: flow in the sense F0(p) = F1(p + flow(p)). radius as `cosine`, tau as `marginals`.
    Border: as `cosine`.
    Kinks: a vector of norm 0 in f0 sees equal scores, so the displacement is 0 (`border="exclude"`: the mean of the
        offsets that stay on the map); a zero vector has derivative 0, in f0 and in f1.
    Deviations: radius, tau and border are the paper's blanks; its authors' code is not public.
    Raises: as `cosine` and `marginals`.
    """
    radii("costvol.displacement_map", radius)
    positive("costvol.displacement_map", "tau", tau)
    choice("costvol.displacement_map", "border", border, ("zero", "exclude"))
    f0, f1 = arrays("costvol.displacement_map", f0=(f0, "N C H W"), f1=(f1, "N C H W"))
    return soft_displacement(cosine(f0, f1, radius=radius, border=border), tau=tau)
