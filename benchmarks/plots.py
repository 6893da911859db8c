"""Time, and the fraction of the floor, over size: a figure for each operator of a result file, `make bench-plots`."""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import NullLocator
from report import along, sweeps

HERE = Path(__file__).resolve().parent
# Okabe and Ito's blue and orange; the lines differ in style as well.
STYLES = {"forward": ("#0072B2", "o-"), "both": ("#D55E00", "s--")}
LABELS = {"forward": "forward", "both": "forward + backward"}


def draw(operator: str, axes: dict[str, dict[str, list[dict[str, Any]]]], where: str) -> plt.Figure:
    """Above time and floor, below floor / time, for each axis that the sweeps run along."""
    figure, grid = plt.subplots(
        2, len(axes), figsize=(3.2 * len(axes) + 1, 6), squeeze=False, sharex="col", sharey="row", layout="constrained"
    )
    for column, (axis, directions) in enumerate(axes.items()):
        above, below = grid[:, column]
        for direction, rows in directions.items():
            colour, style = STYLES[direction]
            sizes = [along(row) for row in rows]
            spent = [1e3 * row["seconds"]["median"] for row in rows]
            error = [[1e3 * abs(row["seconds"][k] - row["seconds"]["median"]) for row in rows] for k in ("low", "high")]
            floor = [1e3 * row["floor"] for row in rows]
            above.errorbar(sizes, spent, error, fmt=style, color=colour, label=LABELS[direction], capsize=2)
            above.plot(sizes, floor, ":", color=colour, label=f"floor, {LABELS[direction]}")
            below.plot(sizes, [f / s for f, s in zip(floor, spent, strict=True)], style, color=colour)
        above.set(xscale="log", yscale="log")
        below.set(xscale="log", xlabel={"HW": "pixels of a map"}.get(axis, axis))
        below.set_ylim(bottom=0)
        ticks = [along(row) for row in directions["forward"]]
        below.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        below.xaxis.set_minor_locator(NullLocator())
        for panel in (above, below):
            panel.grid(alpha=0.3)
    grid[0, 0].set_ylabel("ms")
    grid[1, 0].set_ylabel("floor / time")
    grid[0, 0].legend(fontsize="small")
    figure.suptitle(f"{operator}, float32\n{where}", fontsize="medium")
    return figure


def main() -> None:
    """Beside each result file a folder of its name."""
    for path in sorted((HERE / "results").glob("*/*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        operators: dict[str, dict[str, dict[str, list[dict[str, Any]]]]] = {}
        for (operator, axis, direction), rows in sweeps(found["rows"]).items():
            operators.setdefault(operator, {}).setdefault(axis, {})[direction] = rows
        here = found["environment"]
        where = f"{here['machine']}, {here['device']}, {here['threads']} threads, {here['commit'].rstrip('+')[:12]}"
        for operator, axes in operators.items():
            figure = draw(operator, axes, where)
            target = path.with_suffix("") / f"{operator}.png"
            target.parent.mkdir(exist_ok=True)
            figure.savefig(target, dpi=80, metadata={"Software": None})
            plt.close(figure)
            print(target.relative_to(HERE))


if __name__ == "__main__":
    main()
