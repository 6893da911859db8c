"""The oracle: every equation in float64 NumPy, loops where the paper loops, the paper's symbols. No torch anywhere.

Maps are `(N, C, H, W)`, clips `(N, C, T, H, W)`, flow `(N, 2, H, W)` with channel 0 = u = x (right), 1 = v = y (down),
in pixels per frame step; the origin is the centre of the top-left pixel; F0(p) = F1(p + flow(p)).
"""

if __name__ != "motionspec.refimpl":
    raise ImportError(f"import motionspec.refimpl, not {__name__}: the folder is a part of the package motionspec")

from motionspec.refimpl import (
    brightness,
    costvol,
    detection,
    layers,
    losses,
    metrics,
    off,
    pool3d,
    sampling,
    tvl1,
    warp,
)

__all__ = [
    "brightness",
    "costvol",
    "detection",
    "layers",
    "losses",
    "metrics",
    "off",
    "pool3d",
    "sampling",
    "tvl1",
    "warp",
]
