"""Verdicts as text for a terminal."""

import shlex
from collections.abc import Sequence

import numpy as np

from motionspec.checks import printable
from motionspec.cli.verdict import Failure, Finding, Verdict
from motionspec.refimpl.equations import EQUATIONS


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
    """How much of its tolerance an error uses at most; beyond it as a factor."""
    if not verdict.tolerance:
        return "-"
    return f"{100 * verdict.used:.0f} %" if verdict.used <= 1 else f"x {verdict.used:.1e}"


def counted(verdict: Verdict) -> str:
    """The number of cases, and how many of them count where zeros would pass the others too."""
    agreed = verdict.ok and verdict.telling < verdict.cases
    return f"{verdict.telling} of {verdict.cases}" if agreed else str(verdict.cases)


def settings(variant: dict[str, object]) -> str:
    """A variant's keyword arguments."""
    return " ".join(f"{k}={v}" for k, v in variant.items())


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """One line per verdict."""
    header = ("equation", "variant", "dtype", "checked", "cases", "worst error", "of tolerance", "verdict")
    rows = []
    for v in verdicts:
        errors = [number(v.error), used(v)] if v.tolerance else ["-", "-"]
        verdict = ", ".join(v.kinds) + (f" ({v.note})" if v.ok and v.note else "")
        rows.append([v.id, settings(v.variant) or "-", v.dtype, v.checked, counted(v), *errors, verdict])
    return table(header, rows, right=("cases", "worst error", "of tolerance"))


def failure_text(verdict: Verdict) -> str:
    """All there is to say about one verdict that is not "agrees": each finding, and how to see it."""
    name = " ".join(filter(None, [verdict.id, settings(verdict.variant), verdict.dtype]))
    lines = [f"{name}: {verdict.checked} {', '.join(verdict.kinds)}   [{EQUATIONS[verdict.id].source}]"]
    if verdict.note.startswith("what differs: ") or not verdict.findings:
        lines.append(verdict.note)
    lines += _conditions(verdict)
    if not verdict.findings and verdict.failure:
        lines += _failure_lines(verdict.failure)
    for finding in verdict.findings:
        lines.append(_finding_line(finding, verdict.cases))
        if finding.failure:
            lines += _failure_lines(finding.failure)
    return "\n  ".join(filter(None, lines))


def _conditions(verdict: Verdict) -> list[str]:
    """Under which the verdict holds."""
    lines = []
    if verdict.untold:
        given = ", ".join(f"{name}={verdict.variant[name]}" for name in verdict.untold)
        lines.append(f"held against {given}: the callable does not take {' and '.join(verdict.untold)}")
    if verdict.tolerance:
        error, tolerance = number(verdict.error), number(verdict.tolerance)
        lines.append(f"worst error {error} where {tolerance} is tolerated")
    if verdict.unasked:
        lines.append(f"{verdict.unasked} cases not judged: calls that did not come back had taken too long")
    return lines


def _finding_line(finding: Finding, cases: int) -> str:
    where = f", {finding.where}" if finding.where else ""
    says = "" if finding.kind in ("differs", "returns NaN") else f": {finding.says}"
    return f"{finding.kind} on {len(finding.numbers)} of {cases} cases{where}{says}"


def _failure_lines(failure: Failure) -> list[str]:
    """The smallest failing case, and how to see it again."""
    sizes = ", ".join(f"{k}={v}" for k, v in failure.sizes.items())
    lines = [f"smallest failing case: number {failure.case}, {sizes}"]
    for argument, array in failure.arrays.items():
        lines.append(f"  {argument} = {' '.join(np.array2string(array, precision=6, separator=',').split())}")
    if failure.place:
        lines += [f"first wrong: {failure.place}", f"expected {failure.expected!r}", f"got      {failure.got!r}"]
    if failure.reproduce and failure.alone:
        lines.append(f"reproduce (prints got, expected):\n    python -c {_quoted(failure.reproduce)}")
    elif failure.reproduce:
        why = "no other process can import this callable: put the line where it is at hand, in place of your_function"
        lines.append(f"reproduce (prints got, expected; {why}):\n    {failure.reproduce}")
    return lines


def _quoted(code: str) -> str:
    """Code as one argument for a shell; in double quotes, which read better, where that is safe."""
    return shlex.quote(code) if set(code) & set('"$`\\!') else f'"{code}"'


PRECISION = {
    "per unit": "worst |got - equation|, divided by the values' scale (greys, flows, scores and boxes as they are)",
    "relative": "worst |got - equation| / |equation|; where the equation gives 0 nothing if it agrees, else infinity",
    "ulp": "the same in units in the last place of the equation's value; 0.5 is the last rounding, more cancels",
    "ulp of unit": "in those of 1, or of the value where it is larger: digits that cancel do not count",
}


def precision_table(verdicts: Sequence[Verdict]) -> str:
    """What a type costs: one line per equation and type, the worst over the variants; then what the columns mean."""
    worst: dict[tuple[str, str], list[list[float]]] = {}
    for v in verdicts:
        found = worst.setdefault((v.id, v.dtype), [])
        if v.precision:
            found.append([getattr(v.precision, name.replace(" ", "_")) for name in PRECISION])
    rows = []
    for key, found in worst.items():
        per_unit, relative, *ulps = (max(column) for column in zip(*found, strict=True)) if found else [None] * 4
        numbers = ["-" if value is None else f"{value:.1e}" for value in (per_unit, relative)]
        rows.append([*key, *numbers, *("-" if u is None else f"{u:.2f}" if u < 1e4 else f"{u:.1e}" for u in ulps)])
    legend = "\n".join(f"{name}: {says}" for name, says in PRECISION.items())
    return f"{table(('equation', 'dtype', *PRECISION), rows, right=tuple(PRECISION))}\n\n{legend}"


def report(verdicts: Sequence[Verdict]) -> str:
    """Table, what types other than float64 cost, failures, and one closing line."""
    bad = [v for v in verdicts if not v.ok]
    count = f"{len(verdicts) - len(bad)} of {len(verdicts)} agree"
    measured = any(v.precision for v in verdicts)
    cost = [precision_table(verdicts)] if measured and any(v.dtype != "float64" for v in verdicts) else []
    left_out = ["\n".join(lines)] if (lines := [line for v in verdicts for line in v.not_judged]) else []
    return "\n\n".join([verdict_table(verdicts), *cost, *map(failure_text, bad), *left_out, count])
