"""Warping by a flow field (DC18 §3.4)."""

import math

import numpy as np

from motionspec.checks import choice
from motionspec.refimpl.checks import Array, arrays


def bilinear(x: Array, flow: Array, *, outside: str = "zero") -> Array:
    """Value of `x` at `p + flow(p)` by bilinear interpolation.

    Equation: DC18 §3.4 ("bilinear interpolation ... source points outside the image domain are set to zeros").
    Shapes: x (N, C, H, W), flow (N, 2, H, W) -> (N, C, H, W).
    Units: flow in pixels, channel 0 = u (right), 1 = v (down).
    Border: `outside="zero"`: 0 where the source point lies outside [0, W-1] x [0, H-1] (the paper's sentence);
        `outside="blend"`: each of the four taps outside the map counts as 0, so the value fades out over one pixel.
        Inside is decided by `-p <= flow <= W-1-p`; floor and fraction are taken of `flow` itself, never of the rounded
        sum p + flow.
    Kinks: at an integer coordinate the derivative is the one from above; `zero` at the last column or row: from below
        (0 along a side of length 1); `blend` there: 0 - x[W-1]. A NaN in the flow gives NaN at that pixel and no
        derivative; infinite or huge flow is outside.
    Deviations: `blend` is `grid_sample(padding_mode="zeros", align_corners=True)`, which fades where the paper cuts
        (test_warp.py::test_bilinear_blend_fades_where_zero_cuts). No code of the paper's authors is public.
    Raises: TypeError or ValueError for dtypes, shapes, `outside`, or values of x that are not finite.
    """
    choice("warp.bilinear", "outside", outside, ("zero", "blend"))
    x, flow = arrays("warp.bilinear", nonfinite=("flow",), x=(x, "N C H W"), flow=(flow, "N 2 H W"))
    N, C, H, W = x.shape
    out = np.full((N, C, H, W), np.nan)
    for n, py, px in np.ndindex(N, H, W):
        u, v = flow[n, :, py, px]
        if math.isnan(u) or math.isnan(v):
            continue
        if outside == "zero" and not (-px <= u <= W - 1 - px and -py <= v <= H - 1 - py):
            out[n, :, py, px] = 0.0
            continue
        if abs(u) > W or abs(v) > H:  # no tap can be inside; also keeps floor() away from infinity
            out[n, :, py, px] = 0.0
            continue
        iu, iv = math.floor(u), math.floor(v)
        value = np.zeros(C)
        for dx, wx in ((0, 1 - (u - iu)), (1, u - iu)):
            for dy, wy in ((0, 1 - (v - iv)), (1, v - iv)):
                qx, qy = px + iu + dx, py + iv + dy
                if 0 <= qx < W and 0 <= qy < H:
                    value += wy * wx * x[n, :, qy, qx]
        out[n, :, py, px] = value
    return out


def motion(x: Array, flow: Array, *, outside: str = "zero") -> Array:
    """Move `x` along `flow`: `W(F_t, V_t)(p) = F_t(p - V_t(p))`.

    Equation: DC18 §3.4, F'_(t+1) = W(F_t, V_t), read so that a constant integer shift gives a zero `difference`.
    Shapes: x (N, C, H, W), flow (N, 2, H, W) -> (N, C, H, W).
    Units, Border, Raises: as `bilinear`, at the source point p - flow(p).
    Kinks: as `bilinear` in the source coordinate: from above there is from below in the flow.
    Deviations: none known; the authors' code is not public.
    """
    choice("warp.motion", "outside", outside, ("zero", "blend"))
    x, flow = arrays("warp.motion", nonfinite=("flow",), x=(x, "N C H W"), flow=(flow, "N 2 H W"))
    return bilinear(x, -flow, outside=outside)


def difference(f0: Array, f1: Array, flow: Array, *, outside: str = "zero") -> Array:
    """Warped difference `F_(t+1) - W(F_t, V_t)`: the change that motion does not explain.

    Equation: DC18 §3.4.
    Shapes: f0, f1 (N, C, H, W), flow (N, 2, H, W) -> (N, C, H, W).
    Units, Border, Kinks: as `motion`; where the source lies outside (`zero`) the difference is F_(t+1) itself.
    Deviations: none known; the authors' code is not public.
    Raises: as `bilinear`.
    """
    choice("warp.difference", "outside", outside, ("zero", "blend"))
    f0, f1, flow = arrays(
        "warp.difference", nonfinite=("flow",), f0=(f0, "N C H W"), f1=(f1, "N C H W"), flow=(flow, "N 2 H W")
    )
    return f1 - motion(f0, flow, outside=outside)
