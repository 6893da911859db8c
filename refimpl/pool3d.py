"""Pooling and shifting over time (DC18 §3.2, OFF20 §5.2)."""

import numpy as np

from motionspec.checks import choice, message
from motionspec.refimpl.checks import Array, arrays

# Kernel and stride in space. "3x3" is BN-Inception's pool2; after its blocks 3c and 4e, which reduce the map
# themselves, the pooling is over time alone.
SPATIAL = {"3x3": (3, 2), "none": (1, 1)}


def _count(side: int, kernel: int, stride: int) -> int:
    """How many windows cover a side: 1, and as many more as it takes to reach the end."""
    return 1 + max(0, -((kernel - side) // stride))


def gradual(clip: Array, *, spatial: str = "3x3") -> Array:
    """One step of gradual pooling: the maximum over a spatial window, then over two frames.

    Equation: DC18 §3.2, §4.2 ("gradual": after pool2, inception 3c and 4e; 8 frames become 4, 2, 1).
    Shapes: clip (N, C, T, H, W) -> (N, C, ceil(T/2), H', W'): temporal kernel 2, stride 2. `spatial="3x3"`: kernel 3,
        stride 2, H' = 1 + ceil(max(H - 3, 0) / 2), likewise W'; `spatial="none"`: H' = H, W' = W.
    Units: those of the clip.
    Border: a last window that reaches beyond the end is cut there (BN-Inception rounds up); nothing is dropped.
    Kinks: of equal maxima the first (frame, then row, then column) has the derivative 1, the others 0.
    Deviations: kernel and stride are the paper's blanks; its authors' code is not public.
    Raises: TypeError or ValueError for dtypes, shapes, `spatial`, or values that are not finite.
    """
    choice("pool3d.gradual", "spatial", spatial, tuple(SPATIAL))
    (clip,) = arrays("pool3d.gradual", clip=(clip, "N C T H W"))
    N, C, T, H, W = clip.shape
    kernel, stride = SPATIAL[spatial]
    out = np.full((N, C, _count(T, 2, 2), _count(H, kernel, stride), _count(W, kernel, stride)), np.nan)
    for t, y, x in np.ndindex(out.shape[2:]):
        rows, columns = np.s_[stride * y : stride * y + kernel], np.s_[stride * x : stride * x + kernel]
        out[:, :, t, y, x] = clip[:, :, 2 * t : 2 * t + 2, rows, columns].max(axis=(2, 3, 4))
    return out


def late(clip: Array) -> Array:
    """Late pooling: the maximum over all frames.

    Equation: DC18 §4.2 ("late": one global temporal pooling after the final features).
    Shapes: clip (N, C, T, H, W) -> (N, C, H, W).
    Units: those of the clip.
    Border: none.
    Kinks: of equal maxima the first frame has the derivative 1, the others 0.
    Deviations: that it is the maximum is read from §3.2, "selecting the highest responses across neighboring frames".
    Raises: TypeError or ValueError for dtypes, shapes, or values that are not finite.
    """
    (clip,) = arrays("pool3d.late", clip=(clip, "N C T H W"))
    return clip.max(axis=2)


def temporal_shift(clip: Array) -> Array:
    """Shift an eighth of the channels one frame back in time and an eighth one frame ahead.

    Equation: OFF20 §5.2, which cites TSM: the first C//8 channels come from t+1, the next C//8 from t-1.
    Shapes: clip (N, C, T, H, W), C >= 8 -> the same.
    Units: those of the clip.
    Border: zeros where t+1 or t-1 is not in the clip.
    Kinks: none, it is linear.
    Deviations: none from TSM's released code, which is the source of the eighth and of the order; OFF20 spells out
        neither.
    Raises: TypeError or ValueError for dtypes, shapes, C < 8, or values that are not finite.
    """
    (clip,) = arrays("pool3d.temporal_shift", clip=(clip, "N C T H W"))
    C, T = clip.shape[1:3]
    if C < 8:
        raise ValueError(message("pool3d.temporal_shift", "clip", "at least C=8 channels", f"C={C}"))
    out = clip.copy()
    for t in range(T):
        out[:, : C // 8, t] = clip[:, : C // 8, t + 1] if t + 1 < T else 0.0
        out[:, C // 8 : 2 * (C // 8), t] = clip[:, C // 8 : 2 * (C // 8), t - 1] if t > 0 else 0.0
    return out
