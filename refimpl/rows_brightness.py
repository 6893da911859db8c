"""Rows of stem `brightness`: the fields are explained in `row.py`."""

import numpy as np

from motionspec.refimpl import brightness, off, warp
from motionspec.refimpl.row import BAD_FLOW, BAD_MAP, Args, Equation, Fill, inner, maps, maps_and_flow, source_inside


def _orthogonality_inputs(fill: Fill, N: int, C: int, H: int, W: int) -> Args:
    shape = (N, C, H, W)
    ft = fill("ft", shape, "nonzero")  # keeps the vector away from 0
    return {
        "fx": fill("fx", shape, "value"),
        "fy": fill("fy", shape, "value"),
        "ft": ft,
        "flow": fill("flow", (N, 2, H, W), "flow"),
    }


def _normal_flow_inputs(fill: Fill, N: int, C: int, H: int, W: int) -> Args:
    shape = (N, C, H, W)
    return {
        "fx": fill("fx", shape, "nonzero"),
        "fy": fill("fy", shape, "nonzero"),
        "ft": fill("ft", shape, "value"),
    }


_WARP_BENCH = ({"N": 8, "C": 64, "H": 112, "W": 112},)
_OFF_BENCH = ({"N": 96, "C": 128, "H": 28, "W": 28}, {"N": 8, "C": 128, "H": 56, "W": 56})


# Mutants that do not fit on a line.


def _interleaved(fx: np.ndarray, fy: np.ndarray, ft: np.ndarray) -> np.ndarray:
    N, C, H, W = fx.shape
    flow = brightness.normal_flow(fx, fy, ft)
    return flow.reshape(N, 2, C, H, W).swapaxes(1, 2).reshape(N, 2 * C, H, W)


def _cosine_without_one(fx: np.ndarray, fy: np.ndarray, ft: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, ...]:
    dot, cosine = brightness.orthogonality(fx, fy, ft, flow)
    speed = np.hypot(flow[:, :1], flow[:, 1:])
    return dot, cosine * np.hypot(speed, 1) / np.maximum(speed, 1e-9)


ROWS = (
    Equation(
        id="brightness.constancy_residual",
        source="OFF18 (1), (2); RF19 §3.1",
        summary="F1(p + flow) - F0(p), and the mask of points that stay on the map",
        reference=brightness.constancy_residual,
        dims="NCHW",
        inputs=maps_and_flow("f0", "f1"),
        outputs=("residual", "mask"),
        degree=(1, 0),
        differentiable=("f0", "f1", "flow"),
        nonfinite=("flow",),
        interior=source_inside(+1),
        bench=_WARP_BENCH,
        bad=(BAD_FLOW,),
        mutants=(
            ("flow points backwards", lambda f0, f1, flow: brightness.constancy_residual(f0, f1, -flow)),
            ("frames swapped", lambda f0, f1, flow: brightness.constancy_residual(f1, f0, flow)),
            ("u and v swapped", lambda f0, f1, flow: brightness.constancy_residual(f0, f1, flow[:, ::-1])),
            (
                "points outside not excluded",
                lambda f0, f1, flow: (warp.bilinear(f1, flow) - f0, brightness.constancy_residual(f0, f1, flow)[1]),
            ),
        ),
    ),
    Equation(
        id="brightness.gradient",
        source="OFF18 (3)",
        summary="spatial derivatives of unit gain, central, one-sided in the border line",
        reference=brightness.gradient,
        dims="NCHW",
        inputs=maps("f"),
        outputs=("fx", "fy"),
        degree=(1, 1),
        differentiable=("f",),
        interior=inner,
        bench=_OFF_BENCH,
        bad=(BAD_MAP,),
        mutants=(
            ("fx and fy swapped", lambda f: brightness.gradient(f)[::-1]),
            ("no 1/2", lambda f: tuple(2 * g for g in brightness.gradient(f))),
            ("y up", lambda f: (brightness.gradient(f)[0], -brightness.gradient(f)[1])),
            (
                "Sobel / 8, zero padding",
                lambda f: tuple(k * g for k, g in zip((1 / 8, -1 / 8), off.spatial_gradient(f, "sobel"), strict=True)),
            ),
        ),
    ),
    Equation(
        id="brightness.linearised_residual",
        source="OFF18 (3), (4)",
        summary="Fx u + Fy v + Ft",
        reference=brightness.linearised_residual,
        dims="NCHW",
        inputs=maps_and_flow("fx", "fy", "ft"),
        outputs=("residual",),
        degree=(1,),
        differentiable=("fx", "fy", "ft", "flow"),
        bench=_WARP_BENCH,
        bad=(BAD_FLOW,),
        mutants=(
            ("sign of Ft", lambda fx, fy, ft, flow: brightness.linearised_residual(fx, fy, -ft, flow)),
            ("u and v swapped", lambda fx, fy, ft, flow: brightness.linearised_residual(fx, fy, ft, flow[:, ::-1])),
            ("v up", lambda fx, fy, ft, flow: brightness.linearised_residual(fx, -fy, ft, flow)),
        ),
    ),
    Equation(
        id="brightness.normal_flow",
        source="from OFF18 (4)",
        summary="-Ft g / |g|^2, the flow along the gradient; 0 where g = 0",
        reference=brightness.normal_flow,
        dims="NCHW",
        inputs=_normal_flow_inputs,
        outputs=("flow",),
        degree=(0,),
        differentiable=("fx", "fy", "ft"),
        blocks=("u", "v"),
        bench=_WARP_BENCH,
        bad=(),
        mutants=(
            ("sign", lambda fx, fy, ft: -brightness.normal_flow(fx, fy, ft)),
            (
                "|g| for |g|^2",
                lambda fx, fy, ft: brightness.normal_flow(fx, fy, ft) * np.tile(np.hypot(fx, fy), (1, 2, 1, 1)),
            ),
            ("u and v interleaved by channel", _interleaved),
        ),
    ),
    Equation(
        id="brightness.orthogonality",
        source="OFF18 §3",
        summary="[Fx, Fy, Ft] . [u, v, 1] and the cosine of the angle",
        reference=brightness.orthogonality,
        dims="NCHW",
        inputs=_orthogonality_inputs,
        outputs=("dot", "cosine"),
        degree=(1, 0),
        differentiable=("fx", "fy", "ft", "flow"),
        bench=_WARP_BENCH,
        bad=(BAD_FLOW,),
        mutants=(
            ("cosine without the 1 of [u, v, 1]", _cosine_without_one),
            ("sign of Ft", lambda fx, fy, ft, flow: brightness.orthogonality(fx, fy, -ft, flow)),
        ),
    ),
)
