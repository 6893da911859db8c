"""The table: one row per equation. Tests, the judge, the demo and the benchmarks are generated from it."""

from motionspec.refimpl import rows_brightness, rows_off, rows_tvl1, rows_warp
from motionspec.refimpl.row import Args, Equation, Fill

__all__ = ["EQUATIONS", "Args", "Equation", "Fill"]

EQUATIONS: dict[str, Equation] = {
    row.id: row for stem in (rows_brightness, rows_off, rows_warp, rows_tvl1) for row in stem.ROWS
}
