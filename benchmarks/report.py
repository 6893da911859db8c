"""What was measured, for a terminal."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from workloads import TARGETS, Target

from motionspec.cli.text import settings, table

Row = Mapping[str, Any]


def seconds(value: float) -> str:
    """Three digits and a unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-6:.3g} us"


def megabytes(value: int | None) -> str:
    return "-" if value is None else f"{value / 1e6:.1f}"


def what(row: Row) -> tuple[str, str, str]:
    """Operator, size and options, direction and type."""
    shown = "x".join(map(str, row["sizes"].values()))
    direction = "forward" if row["direction"] == "forward" else "with backward"
    return row["operator"], f"{shown} {settings(row['options'])}".strip(), f"{direction} {row['dtype']}"


def beside(peer: Mapping[str, Any]) -> str:
    """A peer's time in units of ours, or why it was not timed."""
    if peer["status"] != "timed":
        return f"{peer['name']}: {peer['status']}"
    found = peer["ratio"]
    once = ", one call" * (peer["seconds"]["rounds"] == 1)
    return f"{peer['name']} x {found['median']:.3g} ({found['low']:.3g}-{found['high']:.3g}{once})"


def times(rows: Iterable[Row]) -> str:
    """A line for each row, and under it its peers."""
    header = ("operator", "size", "", "by", "time", "quartiles", "floor", "x floor", "bound by", "peak MB")
    lines, under = [], []
    for row in rows:
        own = row["seconds"]
        shown = f"-{1 - own['low'] / own['median']:.0%} +{own['high'] / own['median'] - 1:.0%}"
        floor = (seconds(row["floor"]), f"{own['median'] / row['floor']:.3g}", row["bound"])
        lines.append((*what(row), row["impl"], seconds(own["median"]), shown, *floor, megabytes(row["peak"])))
        busy = [f"others took {row['others']:.0%} of the cores meanwhile"] if (row["others"] or 0) > 0.05 else []
        under.append(["      " + said for said in [*map(beside, row["peers"]), *busy]])
    head, rule, *said = table(header, lines, right=("time", "floor", "x floor", "peak MB")).split("\n")
    return "\n".join([head, rule, *itertools.chain(*([line, *p] for line, p in zip(said, under, strict=True)))])


def slower(rows: Iterable[Row]) -> list[tuple[Row, Mapping[str, Any]]]:
    """Rows with their fastest peer where that is faster, beyond the spread of the ratio."""
    found = []
    for row in rows:
        same = "eager" if row["impl"] == "torch" else ""  # beside itself
        timed = [peer for peer in row["peers"] if peer["status"] == "timed" and peer["name"] != same]
        best = min(timed, key=lambda peer: peer["ratio"]["median"], default=None)
        if best and best["ratio"]["high"] < 1:
            found.append((row, best))
    return found


def outcome(target: Target, rows: Iterable[Row]) -> tuple[bool | None, str]:
    """Whether a target is met, within the spread, and the measured number; None, and why, where there is none.

    Memory is all that is held while the call runs: inputs, outputs, gradients and what it needs for itself.
    """

    def fits(row: Row) -> bool:
        options = {k: str(v) for k, v in target.options.items()}
        return (
            (row["operator"], row["direction"], row["sweep"]) == (target.operator, target.direction, "")
            and (row["dtype"], dict(row["sizes"])) == ("float32", dict(target.sizes))
            and options.items() <= row["options"].items()
        )

    row = next(filter(fits, rows), None)
    if row is None:
        return None, "not measured in this run"
    own = row["seconds"]
    if target.over == "floor":
        return against(target, own["low"] / row["floor"], f"{own['median'] / row['floor']:.2f} x floor")
    of = target.over.removeprefix("memory of ")
    peer = next((peer for peer in row["peers"] if peer["name"] == of), None)
    if peer and peer["status"] != "timed":
        return None, f"{of}: {peer['status']}"
    if "memory" in target.over:
        if row["peak"] is None:
            return None, "not measured here: memory"
        share = (row["held"] + row["peak"]) / (row["held"] + (peer["peak"] if peer else row["made"]))
        return against(target, share, f"{share:.3g} x {target.over}")
    if peer is None:
        return None, f"not measured in this run: {of}"
    return against(target, peer["ratio"]["high"], f"{of} takes {peer['ratio']['median']:.3g} times our time")


def against(target: Target, found: float, said: str) -> tuple[bool, str]:
    """Whether a number meets a target, and by how much it does not."""
    met = found <= target.bound if target.at_most else found >= target.bound
    return met, said + ("" if met else f", missed by {100 * abs(found / target.bound - 1):.2g} %")


def targets(rows: Mapping[str, Sequence[Row]]) -> str:
    """A line for each, with its outcome; `rows` by device."""
    lines = []
    for target in TARGETS:
        met, said = outcome(target, rows[target.device]) if rows.get(target.device) else (None, "not measured here")
        lines.append((target.name, said, {True: "met", False: "MISSED", None: "skipped"}[met]))
    return table(("target", "measured", ""), lines)


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Of the line through the logarithms: 1 where the values grow as the sizes do."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def along(row: Row) -> float:
    """How large a row of a sweep is: "HW" counts pixels."""
    axis = row["sweep"]
    return float(np.prod([row["sizes"][k] for k in axis])) if axis in ("HW", "N", "C") else float(row["options"][axis])


def sweeps(rows: Iterable[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """Rows of each sweep, by operator, axis and direction, from small to large."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in sorted((row for row in rows if row["sweep"]), key=along):
        found.setdefault((row["operator"], row["sweep"], row["direction"]), []).append(row)
    return {k: v for k, v in sorted(found.items()) if len(v) > 1}


SLOPES = ("operator", "axis", "sizes", "", "time ~ size^", "peak ~ size^")


def slopes(rows: Iterable[Row]) -> list[tuple[str, ...]]:
    """How time and memory grow: a line for each sweep, under `SLOPES`."""
    lines = []
    for (operator, axis, direction), swept in sweeps(rows).items():
        sizes = [along(row) for row in swept]
        own = slope(sizes, [row["seconds"]["median"] for row in swept])
        peaks = [row["peak"] for row in swept]
        # Below a megabyte the count of pages says nothing.
        memory = f"{slope(sizes, peaks):.2f}" if all(peak and peak > 1e6 for peak in peaks) else "-"
        lines.append((operator, axis, f"{sizes[0]:g} to {sizes[-1]:g}", direction, f"{own:.2f}", memory))
    return lines


def report(rows: Sequence[Row]) -> str:
    """All of it."""
    first = rows[0]
    copied, multiplied = first["bandwidth"] / 1e9, first["rate"] / 1e9
    said = [f"floor, measured in this run: {copied:.3g} GB/s by a copy, {multiplied:.3g} Gop/s by a matrix product"]
    single = [row for row in rows if not row["sweep"]]
    if single:
        said += ["", times(single)]
    behind = [
        (*what(row), peer["name"], f"{peer['ratio']['median']:.2f}", f"{peer['ratio']['high']:.2f}")
        for row, peer in slower(rows)
    ]
    if behind:
        header = ("slower than", "size", "", "a peer", "its time / ours", "upper quartile")
        said += ["", table(header, behind)]
    if sweeps(rows):
        said += ["", table(SLOPES, slopes(rows), SLOPES[-2:])]
    return "\n".join(said)
