"""The table: one row per equation. Tests, the judge, the demo and the benchmarks are generated from it."""

from motionspec.refimpl import rows_brightness, rows_losses, rows_metrics, rows_off, rows_warp
from motionspec.refimpl.row import Args, Equation, Fill

__all__ = ["EQUATIONS", "ONE_VOICE", "Args", "Equation", "Fill"]

STEMS = (rows_brightness, rows_losses, rows_metrics, rows_off, rows_warp)
EQUATIONS: dict[str, Equation] = {row.id: row for stem in STEMS for row in stem.ROWS}

# Written once, in `refimpl`, with hand-written facts: nothing in them is worth a second implementation.
ONE_VOICE = ("metrics.mean_average_precision",)
