"""Verdicts as text for a terminal."""

import shlex
from collections.abc import Sequence

import numpy as np

from motionspec.checks import printable
from motionspec.cli.check import Verdict
from motionspec.refimpl.equations import EQUATIONS

MEASURED = ("agrees", "differs", "returns NaN")  # the verdicts that have errors


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> str:
    """Columns as wide as their widest cell, two spaces apart; those named in `right` aligned to the right."""
    rows = [[*map(printable, row)] for row in rows]
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [c.rjust(w) if h in right else c.ljust(w) for c, w, h in zip(cells, widths, header, strict=True)]
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), line(["-" * w for w in widths]), *map(line, rows)])


def some(names: Sequence[str], most: int = 10) -> str:
    """The first of the names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def number(value: float) -> str:
    """An error or tolerance in the table."""
    return "0" if value == 0 else f"{value:.1e}"


def used(verdict: Verdict) -> str:
    """How much of the tolerance the worst error uses; beyond it as a factor."""
    if not verdict.tolerance:
        return "-"
    share = verdict.error / verdict.tolerance
    return f"{100 * share:.0f} %" if share <= 1 else f"x {share:.1e}"


def counted(verdict: Verdict) -> str:
    """The number of cases, and how many of them count where zeros would pass the others too."""
    agreed = verdict.ok and verdict.telling < verdict.cases
    return f"{verdict.telling} of {verdict.cases}" if agreed else str(verdict.cases)


def settings(variant: dict[str, object]) -> str:
    """A variant's keyword arguments."""
    return " ".join(f"{k}={v}" for k, v in variant.items())


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """One line per verdict."""
    header = ("equation", "variant", "dtype", "checked", "cases", "worst error", "tolerance", "used", "verdict")
    rows = []
    for v in verdicts:
        errors = ["-", "-", "-"]
        if v.kind in MEASURED:
            errors = [number(v.error), number(v.tolerance), used(v)]
        verdict = v.kind + (f" ({v.note})" if v.ok and v.note else "")
        rows.append([v.id, settings(v.variant) or "-", v.dtype, v.checked, counted(v), *errors, verdict])
    return table(header, rows, right=("cases", "worst error", "tolerance", "used"))


def failure_text(verdict: Verdict) -> str:
    """All there is to say about one verdict that is not "agrees"."""
    name = " ".join(filter(None, [verdict.id, settings(verdict.variant), verdict.dtype]))
    lines = [f"{name}: {verdict.checked} {verdict.kind}   [{EQUATIONS[verdict.id].source}]"]
    if verdict.note:
        lines.append(verdict.note)
    failure = verdict.failure
    if failure:
        sizes = ", ".join(f"{k}={v}" for k, v in failure.sizes.items())
        lines.append(f"smallest failing case: number {failure.case}, {sizes}")
        for argument, array in failure.arrays.items():
            lines.append(f"  {argument} = {' '.join(np.array2string(array, precision=6, separator=',').split())}")
        if failure.place:
            lines.append(f"first wrong: {failure.place}")
            lines.append(f"expected {failure.expected!r}")
            lines.append(f"got      {failure.got!r}")
        if failure.reproduce:
            lines.append(f"reproduce (prints got, expected):\n    python -c {_quoted(failure.reproduce)}")
    return "\n  ".join(lines)


def _quoted(code: str) -> str:
    """Code as one argument for a shell; in double quotes, which read better, where that is safe."""
    return shlex.quote(code) if set(code) & set('"$`\\!') else f'"{code}"'


PRECISION = {
    "absolute": "worst |got - equation|, for values scaled to 1 (greys, flows, scores and boxes as they are)",
    "relative": "worst |got - equation| / |equation|, where that is above 1e-12, the oracle's own accuracy",
    "ulp": "the same in units in the last place of the equation's value; 0.5 is the last rounding, more cancels",
    "ulp of unit": "in those of 1, or of the value where it is larger: digits that cancel do not count",
}


def precision_table(verdicts: Sequence[Verdict]) -> str:
    """What a type costs: one line per equation and type, the worst over the variants; then what the columns mean."""
    worst: dict[tuple[str, str], list[list[float]]] = {}
    for v in verdicts:
        found = worst.setdefault((v.id, v.dtype), [])
        if v.precision and v.kind in MEASURED:
            found.append([getattr(v.precision, name.replace(" ", "_")) for name in PRECISION])
    rows = []
    for key, found in worst.items():
        absolute, relative, *ulps = (max(column) for column in zip(*found, strict=True)) if found else [None] * 4
        numbers = ["-" if value is None else f"{value:.1e}" for value in (absolute, relative)]
        rows.append([*key, *numbers, *("-" if u is None else f"{u:.2f}" if u < 1e4 else f"{u:.1e}" for u in ulps)])
    legend = "\n".join(f"{name}: {says}" for name, says in PRECISION.items())
    return f"{table(('equation', 'dtype', *PRECISION), rows, right=tuple(PRECISION))}\n\n{legend}"


def report(verdicts: Sequence[Verdict]) -> str:
    """Table, what types other than float64 cost, failures, and one closing line."""
    bad = [v for v in verdicts if not v.ok]
    count = f"{len(verdicts) - len(bad)} of {len(verdicts)} agree"
    cost = [precision_table(verdicts)] if any(v.dtype != "float64" for v in verdicts) else []
    left_out = ["\n".join(lines)] if (lines := [line for v in verdicts for line in v.not_judged]) else []
    return "\n\n".join([verdict_table(verdicts), *cost, *map(failure_text, bad), *left_out, count])
