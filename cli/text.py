"""Verdicts as text for a terminal."""

import shlex
from collections.abc import Sequence

import numpy as np

from motionspec.cli.check import Verdict
from motionspec.refimpl.equations import EQUATIONS


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> str:
    """Columns as wide as their widest cell, two spaces apart; those named in `right` aligned to the right."""
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [c.rjust(w) if h in right else c.ljust(w) for c, w, h in zip(cells, widths, header, strict=True)]
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), line(["-" * w for w in widths]), *map(line, rows)])


def number(value: float) -> str:
    """An error or tolerance in the table."""
    return "0" if value == 0 else f"{value:.1e}"


def used(verdict: Verdict) -> str:
    """How much of the tolerance the worst error uses; beyond it as a factor."""
    if not verdict.tolerance:
        return "-"
    share = verdict.error / verdict.tolerance
    return f"{100 * share:.0f} %" if share <= 1 else f"x {share:.1e}"


def settings(variant: dict[str, object]) -> str:
    """A variant's keyword arguments."""
    return " ".join(f"{k}={v}" for k, v in variant.items())


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """One line per verdict."""
    header = ("equation", "variant", "dtype", "checked", "cases", "worst error", "tolerance", "used", "verdict")
    rows = []
    for v in verdicts:
        errors = ["-", "-", "-"]
        if v.kind in ("agrees", "differs", "returns NaN"):
            errors = [number(v.error), number(v.tolerance), used(v)]
        verdict = v.kind + (f" ({v.note})" if v.ok and v.note else "")
        rows.append([v.id, settings(v.variant) or "-", v.dtype, v.checked, str(v.cases), *errors, verdict])
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


def report(verdicts: Sequence[Verdict]) -> str:
    """Table, failures, and one closing line."""
    bad = [v for v in verdicts if not v.ok]
    count = f"{len(verdicts) - len(bad)} of {len(verdicts)} agree"
    return "\n\n".join([verdict_table(verdicts), *map(failure_text, bad), count])
