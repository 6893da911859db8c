"""The table: one row per equation. Tests, the judge, the demo and the benchmarks are generated from it."""

from collections.abc import Callable
from typing import Any

from motionspec.refimpl import (
    detection,
    metrics,
    rows_brightness,
    rows_costvol,
    rows_detection,
    rows_layers,
    rows_losses,
    rows_metrics,
    rows_off,
    rows_pool3d,
    rows_tvl1,
    rows_warp,
    sampling,
)
from motionspec.refimpl.row import Args, Equation, Fill

__all__ = ["EQUATIONS", "SINGLE", "Args", "Equation", "Fill"]

EQUATIONS: dict[str, Equation] = {
    row.id: row
    for stem in (
        rows_brightness,
        rows_off,
        rows_tvl1,
        rows_costvol,
        rows_warp,
        rows_losses,
        rows_metrics,
        rows_pool3d,
        rows_detection,
        rows_layers,
    )
    for row in stem.ROWS
}

# What chooses frames, crops and boxes is held by facts alone and has no row: id, source, function. Sampling has one
# implementation, in NumPy.
SINGLE: dict[str, tuple[str, Callable[..., Any]]] = {
    "sampling.off_train": ("OFF18 §4.2", sampling.off_train),
    "sampling.off_test": ("OFF18 §4.2", sampling.off_test),
    "sampling.tsn_train": ("OFF20 §5.1; DC18 §4.2", sampling.tsn_train),
    "sampling.tsn_test": ("OFF18 §4.3; DC18 §4.2", sampling.tsn_test),
    "sampling.multi_crop": ("AF18 §4.2; OFF18 §4.3", sampling.multi_crop),
    "detection.anchors": ("OFF20 §6.1", detection.anchors),
    "detection.nms": ("OFF20 §6.1", detection.nms),
    "detection.propose": ("OFF20 §6.1", detection.propose),
    "metrics.mean_average_precision": ("OFF20 §6.3", metrics.mean_average_precision),
}
