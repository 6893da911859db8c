"""Rows of stem `pool3d`: the fields are explained in `row.py`."""

import numpy as np

from motionspec.refimpl import pool3d
from motionspec.refimpl.row import Args, Equation, Fill, change


def _pooled_inputs(fill: Fill, N: int, C: int, T: int, H: int, W: int) -> Args:
    return {"clip": fill("clip", (N, C, T, H, W), "distinct")}  # a tie is a kink


def _shifted_inputs(fill: Fill, N: int, C: int, T: int, H: int, W: int) -> Args:
    return {"clip": fill("clip", (N, 7 * C + 1, T, H, W), "value")}  # 8, 15, 22, ...: the eighths are 1, 1, 2


_BAD_CLIP = (
    change(clip=lambda clip: clip[:, :, 0]),
    "clip: expected shape (N, C, T, H, W) with sides of at least 1, got (2, {C}, 5, 6)",
)


def _shift(clip: np.ndarray, fold: int, mode: str = "constant") -> np.ndarray:
    """`temporal_shift` of `fold` channels each, padded as np.pad does."""
    padded = np.pad(clip, ((0, 0), (0, 0), (1, 1), (0, 0), (0, 0)), mode=mode)  # type: ignore[call-overload]
    return np.concatenate([padded[:, :fold, 2:], padded[:, fold : 2 * fold, :-2], padded[:, 2 * fold :, 1:-1]], axis=1)


ROWS = (
    Equation(
        id="pool3d.gradual",
        source="DC18 §3.2, §4.2",
        summary="maximum over 3x3 pixels (or none), then over two frames; strides 2, rounded up",
        reference=pool3d.gradual,
        dims="NCTHW",
        inputs=_pooled_inputs,
        variants=({"spatial": "3x3"}, {"spatial": "none"}),
        outputs=("pooled",),
        degree=(1,),
        differentiable=("clip",),
        bench=({"N": 16, "C": 64, "T": 8, "H": 112, "W": 112},),
        bad=(_BAD_CLIP, (change(spatial="2x2"), "spatial: expected one of '3x3', 'none', got '2x2'")),
        mutants=(
            ("minimum", lambda clip, **k: -pool3d.gradual(-clip, **k)),
            ("largest magnitude", lambda clip, **k: pool3d.gradual(np.abs(clip), **k)),
            ("pairs from the second frame", lambda clip, **k: pool3d.gradual(np.roll(clip, -1, axis=2), **k)),
            ("rectified: zeros around", lambda clip, **k: np.maximum(pool3d.gradual(clip, **k), 0)),
        ),
    ),
    Equation(
        id="pool3d.late",
        source="DC18 §4.2",
        summary="maximum over all frames",
        reference=pool3d.late,
        dims="NCTHW",
        inputs=_pooled_inputs,
        outputs=("pooled",),
        degree=(1,),
        differentiable=("clip",),
        bench=({"N": 16, "C": 1024, "T": 8, "H": 7, "W": 7},),
        bad=(_BAD_CLIP,),
        mutants=(
            ("mean", lambda clip: clip.mean(axis=2)),
            ("last frame", lambda clip: clip[:, :, -1]),
            ("the first two frames", lambda clip: clip[:, :, :2].max(axis=2)),
        ),
    ),
    Equation(
        id="pool3d.temporal_shift",
        source="OFF20 §5.2 (TSM)",
        summary="first C//8 channels from t+1, next C//8 from t-1, zeros at the ends",
        reference=pool3d.temporal_shift,
        dims="NCTHW",
        inputs=_shifted_inputs,
        outputs=("shifted",),
        degree=(1,),
        differentiable=("clip",),
        bench=({"N": 8, "C": 9, "T": 8, "H": 56, "W": 56},),  # 64 channels
        bad=((change(clip=lambda clip: clip[:, :7]), "clip: expected at least C=8 channels, got C=7"),),
        mutants=(
            ("past first", lambda clip: pool3d.temporal_shift(clip[:, :, ::-1])[:, :, ::-1]),
            ("ends wrap around", lambda clip: _shift(clip, clip.shape[1] // 8, "wrap")),
            ("ends repeated", lambda clip: _shift(clip, clip.shape[1] // 8, "edge")),
            ("a quarter each", lambda clip: _shift(clip, clip.shape[1] // 4)),
            ("an eighth rounded up", lambda clip: _shift(clip, -(-clip.shape[1] // 8))),
        ),
    ),
)
