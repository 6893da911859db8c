"""Time, and the fraction of the floor, over size: `make bench-plots` draws a figure for each operator of a result file
and writes docs/scaling.md around them."""

import json
import os
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FormatStrFormatter, NullLocator
from report import SLOPES, along, slopes, sweeps

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "scaling.md"
HEAD = """# How time and memory grow

`make bench-plots` writes this page from the result files (docs/benchmarks.md). The exponent e of time ~ size^e is the
slope of the line through the logarithms: at 1 time grows as the axis does, below 1 there is a fixed cost. HW counts
pixels. Memory is what a call takes beyond its inputs; "-" where some row takes less than a megabyte, which cannot be
counted. Bars are quartiles; in the upper figures lower is better, in the lower ones higher: at 1 is the floor.
"""
# Okabe and Ito's blue and orange; the lines differ in style as well.
STYLES = {"forward": ("#0072B2", "o-"), "both": ("#D55E00", "s--")}
LABELS = {"forward": "forward", "both": "forward + backward"}
AXES = {"HW": "pixels of a map", "C": "channels", "N": "batch", "n_iter": "iterations"}


def draw(operator: str, axes: dict[str, dict[str, list[dict[str, Any]]]], where: str) -> plt.Figure:
    """Above time and floor, below floor / time, for each axis that the sweeps run along."""
    figure, grid = plt.subplots(
        2,
        len(axes),
        figsize=(2.7 * len(axes) + 1, 5.5),
        squeeze=False,
        sharex="col",
        sharey="row",
        layout="constrained",
    )
    grid[0, 0].set_yscale("log")
    grid[0, 0].yaxis.set_major_formatter(FormatStrFormatter("%g"))
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
        below.axhline(1, color="black", linewidth=0.8)
        below.set(xscale="log", xlabel=AXES.get(axis, axis))
        ticks = [along(row) for row in directions["forward"]]
        below.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        below.xaxis.set_minor_locator(NullLocator())
        for panel in (above, below):
            panel.grid(alpha=0.3)
    grid[0, 0].set_ylabel("ms")
    grid[1, 0].set(ylabel="floor / time", ylim=(0, None))  # shared: after all is drawn, or it holds what comes later
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    figure.suptitle(f"{operator}, float32\n{where}", fontsize="medium")
    return figure


def main() -> None:
    """Beside each result file a folder of its name."""
    page = [HEAD]
    for path in sorted((HERE / "results").glob("*/*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        operators: dict[str, dict[str, dict[str, list[dict[str, Any]]]]] = {}
        for (operator, axis, direction), rows in sweeps(found["rows"]).items():
            operators.setdefault(operator, {}).setdefault(axis, {})[direction] = rows
        here = found["environment"]
        where = f"{here['machine']}, {here['device']}, {here['threads']} threads, {here['commit'].rstrip('+')[:12]}"
        if operators:
            lines = [SLOPES, ["---"] * 4 + ["---:"] * 2, *slopes(found["rows"])]
            page += [f"## {where}\n", *("| " + " | ".join(line) + " |" for line in lines), ""]
        for operator, axes in operators.items():
            figure = draw(operator, axes, where)
            target = path.with_suffix("") / f"{operator}.png"
            target.parent.mkdir(exist_ok=True)
            figure.savefig(target, dpi=80, metadata={"Software": None})
            plt.close(figure)
            page.append(
                f"![{operator}: time and fraction of the floor over size]({os.path.relpath(target, PAGE.parent)})"
            )
    PAGE.write_text("\n".join(page) + "\n", encoding="utf-8")
    print(PAGE.relative_to(HERE.parent))


if __name__ == "__main__":
    main()
