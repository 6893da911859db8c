"""The table: one row per equation. Tests, the judge, the demo and the benchmarks are generated from it."""

from collections.abc import Callable
from typing import Any

from motionspec.refimpl import rows_brightness, rows_off, rows_warp, sampling
from motionspec.refimpl.row import Args, Equation, Fill

__all__ = ["EQUATIONS", "SINGLE", "Args", "Equation", "Fill"]

EQUATIONS: dict[str, Equation] = {row.id: row for stem in (rows_brightness, rows_off, rows_warp) for row in stem.ROWS}

# What chooses frames and crops has one implementation, in NumPy, and facts instead of a row: id, source, function.
SINGLE: dict[str, tuple[str, Callable[..., Any]]] = {
    "sampling.off_train": ("OFF18 §4.2", sampling.off_train),
    "sampling.off_test": ("OFF18 §4.2", sampling.off_test),
    "sampling.tsn_train": ("OFF20 §5.1; DC18 §4.2", sampling.tsn_train),
    "sampling.tsn_test": ("OFF18 §4.3; DC18 §4.2", sampling.tsn_test),
    "sampling.multi_crop": ("AF18 §4.2; OFF18 §4.3", sampling.multi_crop),
}
