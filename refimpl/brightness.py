"""Brightness constancy and what follows from it (OFF18 §3)."""

import math
from typing import Any

import numpy as np

from motionspec.refimpl import warp
from motionspec.refimpl.checks import Array, arrays


def constancy_residual(f0: Array, f1: Array, flow: Array) -> tuple[Array, np.ndarray]:
    """`F1(p + flow(p)) - F0(p)`, for an image or any feature map, and the mask of points that stay on the map.

    Equation: OFF18 (1) for images, (2) for features; RF19 §3.1.
    Shapes: f0, f1 (N, C, H, W), flow (N, 2, H, W) -> residual (N, C, H, W), mask (N, 1, H, W) of bool.
    Units: those of f; flow in pixels.
    Border: where p + flow(p) leaves [0, W-1] x [0, H-1] the mask is False, residual and derivative are 0.
    Kinks: as `warp.bilinear` with `outside="zero"`; NaN flow: residual NaN, mask False.
    Deviations: none: it is a definition.
    Raises: TypeError or ValueError for dtypes, shapes, or values of f0, f1 that are not finite.
    """
    maps: dict[str, Any] = {"f0": (f0, "N C H W"), "f1": (f1, "N C H W"), "flow": (flow, "N 2 H W")}
    f0, f1, flow = arrays("brightness.constancy_residual", nonfinite=("flow",), **maps)
    N, _, H, W = f0.shape
    residual = warp.bilinear(f1, flow, outside="zero") - f0
    mask = np.zeros((N, 1, H, W), bool)
    for n, py, px in np.ndindex(N, H, W):
        u, v = flow[n, :, py, px]
        mask[n, 0, py, px] = -px <= u <= W - 1 - px and -py <= v <= H - 1 - py
        if not mask[n, 0, py, px] and not (math.isnan(u) or math.isnan(v)):
            residual[n, :, py, px] = 0.0
    return residual, mask


def gradient(f: Array) -> tuple[Array, Array]:
    """Spatial derivatives of unit gain: central difference, one-sided in the border line.

    Equation: the derivatives of OFF18 (3); the discretisation is ours.
    Shapes: f (N, C, H, W) -> fx, fy (N, C, H, W).
    Units: those of f per pixel; fy points down.
    Border: f[1] - f[0] and f[-1] - f[-2]; along a side of length 1 the derivative is 0.
    Kinks: none, it is linear.
    Deviations: OFF18's own layer uses `off.spatial_gradient` (gain 6, y up), see there.
    Raises: TypeError or ValueError for dtypes, shapes, or values that are not finite.
    """
    (f,) = arrays("brightness.gradient", f=(f, "N C H W"))
    H, W = f.shape[2:]
    fx, fy = np.full(f.shape, np.nan), np.full(f.shape, np.nan)
    for x in range(W):
        left, right = max(x - 1, 0), min(x + 1, W - 1)
        fx[..., x] = (f[..., right] - f[..., left]) / max(right - left, 1)
    for y in range(H):
        up, down = max(y - 1, 0), min(y + 1, H - 1)
        fy[..., y, :] = (f[..., down, :] - f[..., up, :]) / max(down - up, 1)
    return fx, fy


def linearised_residual(fx: Array, fy: Array, ft: Array, flow: Array) -> Array:
    """`Fx u + Fy v + Ft`: first order of `constancy_residual` in the displacement.

    Equation: OFF18 (3) (Ft a difference, flow a displacement) and (4) (both divided by the time step).
    Shapes: fx, fy, ft (N, C, H, W), flow (N, 2, H, W) -> (N, C, H, W).
    Units: fx, fy in units of f per pixel with unit gain, y down; flow in pixels per frame step; ft per frame step.
    Border: none, it is pointwise.
    Kinks: none, it is linear in the gradients and in the flow.
    Deviations: RF19's unnumbered Taylor line has the opposite sign of grad I . u under its own definition of u
        (test_brightness.py::test_rf19_taylor_line_has_the_wrong_sign).
    Raises: TypeError or ValueError for dtypes, shapes, or values that are not finite.
    """
    maps: dict[str, Any] = {
        "fx": (fx, "N C H W"),
        "fy": (fy, "N C H W"),
        "ft": (ft, "N C H W"),
        "flow": (flow, "N 2 H W"),
    }
    fx, fy, ft, flow = arrays("brightness.linearised_residual", **maps)
    u, v = flow[:, 0:1], flow[:, 1:2]
    return fx * u + fy * v + ft


def orthogonality(fx: Array, fy: Array, ft: Array, flow: Array) -> tuple[Array, Array]:
    """`[Fx, Fy, Ft] . [u, v, 1]` and the cosine of the angle between the two vectors.

    Equation: OFF18 §3, "F is orthogonal to the vector [vx, vy, 1]", a consequence of (4).
    Shapes: fx, fy, ft (N, C, H, W), flow (N, 2, H, W) -> dot, cosine (N, C, H, W).
    Units: as `linearised_residual`, which `dot` equals; the cosine has none.
    Border: none, it is pointwise.
    Kinks: where [Fx, Fy, Ft] = 0 the cosine and its derivative are 0.
    Deviations: the raw `off.features` are not orthogonal to [u, v, 1]: they carry the kernel's gain and y up, so that
        (Fx/6) u - (Fy/6) v + Ft is what vanishes (test_off.py::test_features_raw_are_not_orthogonal_to_the_flow).
    Raises: TypeError or ValueError for dtypes, shapes, or values that are not finite.
    """
    maps: dict[str, Any] = {
        "fx": (fx, "N C H W"),
        "fy": (fy, "N C H W"),
        "ft": (ft, "N C H W"),
        "flow": (flow, "N 2 H W"),
    }
    fx, fy, ft, flow = arrays("brightness.orthogonality", **maps)
    dot, cosine = np.full(fx.shape, np.nan), np.full(fx.shape, np.nan)
    for n, c, y, x in np.ndindex(fx.shape):
        F = (fx[n, c, y, x], fy[n, c, y, x], ft[n, c, y, x])
        w = (flow[n, 0, y, x], flow[n, 1, y, x], 1.0)
        dot[n, c, y, x] = sum(a * b for a, b in zip(F, w, strict=True))
        length = math.hypot(*F)  # hypot: no underflow of the squares
        cosine[n, c, y, x] = sum(a / length * b for a, b in zip(F, w, strict=True)) / math.hypot(*w) if length else 0.0
    return dot, cosine


def normal_flow(fx: Array, fy: Array, ft: Array) -> Array:
    """The component of the flow along the gradient, all that (4) determines: `-Ft g / |g|^2`, g = (Fx, Fy).

    Equation: from OFF18 (4).
    Shapes: fx, fy, ft (N, C, H, W) -> (N, 2C, H, W): all u channels, then all v channels; each channel its own flow.
    Units: pixels per frame step, for gradients of unit gain, y down.
    Border: none, it is pointwise.
    Kinks: value and derivative are 0 where g = 0.
    Deviations: none; the papers do not use it.
    Raises: TypeError or ValueError for dtypes, shapes, or values that are not finite.
    """
    fx, fy, ft = arrays("brightness.normal_flow", fx=(fx, "N C H W"), fy=(fy, "N C H W"), ft=(ft, "N C H W"))
    N, C, H, W = fx.shape
    out = np.full((N, 2 * C, H, W), np.nan)
    for n, c, y, x in np.ndindex(N, C, H, W):
        g = (fx[n, c, y, x], fy[n, c, y, x])
        length = math.hypot(*g)  # hypot: no underflow of the squares
        for k in (0, 1):
            out[n, k * C + c, y, x] = -ft[n, c, y, x] / length * (g[k] / length) if length else 0.0
    return out
