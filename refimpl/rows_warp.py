"""Rows of stem `warp`: the fields are explained in `row.py`."""

import numpy as np

from motionspec.refimpl import warp
from motionspec.refimpl.row import BAD_FLOW, Equation, change, maps_and_flow, source_inside

_BAD_OUTSIDE = (change(outside="edge"), "outside: expected one of 'zero', 'blend', got 'edge'")
_OUTSIDE = ({"outside": "zero"}, {"outside": "blend"})
_WARP_BENCH = ({"N": 8, "C": 64, "H": 112, "W": 112},)


def _clamped(x: np.ndarray, flow: np.ndarray, outside: str = "zero") -> np.ndarray:
    H, W = flow.shape[-2:]
    y, px = np.mgrid[:H, :W]
    inside = np.stack([np.clip(px + flow[:, 0], 0, W - 1) - px, np.clip(y + flow[:, 1], 0, H - 1) - y], axis=1)
    return warp.bilinear(x, inside)


def _other_corners(x: np.ndarray, flow: np.ndarray, outside: str = "zero") -> np.ndarray:
    """grid_sample(align_corners=False) on the grid 2p/(W-1) - 1, which means p only with True."""
    H, W = flow.shape[-2:]
    y, px = np.mgrid[:H, :W]
    moved = [((p + d) * n / max(n - 1, 1) - 1 / 2 - p) for p, d, n in ((px, flow[:, 0], W), (y, flow[:, 1], H))]
    return warp.bilinear(x, np.stack(moved, axis=1), outside=outside)


ROWS = (
    Equation(
        id="warp.bilinear",
        source="DC18 §3.4",
        summary="x at p + flow(p), bilinear; outside the map: zero, or blend",
        reference=warp.bilinear,
        dims="NCHW",
        inputs=maps_and_flow("x"),
        variants=_OUTSIDE,
        outputs=("warped",),
        degree=(1,),
        differentiable=("x", "flow"),
        nonfinite=("flow",),
        interior=source_inside(+1),
        bench=_WARP_BENCH,
        bad=(BAD_FLOW, _BAD_OUTSIDE),
        mutants=(
            ("flow points backwards", lambda x, flow, outside="zero": warp.bilinear(x, -flow, outside=outside)),
            ("u and v swapped", lambda x, flow, outside="zero": warp.bilinear(x, flow[:, ::-1], outside=outside)),
            ("border repeated", _clamped),
            ("the grid of align_corners=True read with False", _other_corners),
            ("half-pixel slip", lambda x, flow, outside="zero": warp.bilinear(x, flow + 0.5, outside=outside)),
            (
                "nearest neighbour",
                lambda x, flow, outside="zero": warp.bilinear(x, np.rint(flow), outside=outside),
            ),
        ),
    ),
    Equation(
        id="warp.motion",
        source="DC18 §3.4",
        summary="W(F, V)(p) = F(p - V(p))",
        reference=warp.motion,
        dims="NCHW",
        inputs=maps_and_flow("x"),
        variants=_OUTSIDE,
        outputs=("warped",),
        degree=(1,),
        differentiable=("x", "flow"),
        nonfinite=("flow",),
        interior=source_inside(-1),
        bench=_WARP_BENCH,
        bad=(BAD_FLOW, _BAD_OUTSIDE),
        mutants=(
            ("sampled forwards", warp.bilinear),
            ("u and v swapped", lambda x, flow, outside="zero": warp.motion(x, flow[:, ::-1], outside=outside)),
        ),
    ),
    Equation(
        id="warp.difference",
        source="DC18 §3.4",
        summary="F_(t+1) - W(F_t, V_t)",
        reference=warp.difference,
        dims="NCHW",
        inputs=maps_and_flow("f0", "f1"),
        variants=_OUTSIDE,
        outputs=("difference",),
        degree=(1,),
        differentiable=("f0", "f1", "flow"),
        nonfinite=("flow",),
        interior=source_inside(-1),
        bench=_WARP_BENCH,
        bad=(BAD_FLOW, _BAD_OUTSIDE),
        mutants=(
            ("sign", lambda f0, f1, flow, outside="zero": -warp.difference(f0, f1, flow, outside=outside)),
            (
                "the later frame warped back",
                lambda f0, f1, flow, outside="zero": warp.bilinear(f1, flow, outside=outside) - f0,
            ),
        ),
    ),
)
