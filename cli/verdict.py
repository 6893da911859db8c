"""What the judge found out: a verdict for each question, and in it every finding."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from motionspec.cli.compare import Precision
from motionspec.refimpl.equations import EQUATIONS

# The kinds of findings, the gravest first: what is wrong in silence, then what has the wrong form, then what stops.
GRAVITY = (
    *("returns NaN", "differs", "changes its input"),
    *("wrong dtype", "wrong shape", "wrong type", "no gradient"),
    *("raises", "crashes", "never returns", "missing"),
)


def _gravity(kind: str) -> int:
    return GRAVITY.index(kind)


@dataclass
class Failure:
    """The smallest failing case."""

    case: int
    sizes: dict[str, int]
    place: str
    expected: float | None = None
    got: float | None = None
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    reproduce: str = ""  # Python that prints got and expected
    alone: bool = True  # whether a fresh process can run it; else the callable must be at hand


@dataclass
class Finding:
    """One thing that is wrong, in as many cases as it is."""

    kind: str  # differs, returns NaN, wrong shape, wrong dtype, changes its input, raises, crashes, never returns, ...
    says: str  # in words, of the smallest case
    numbers: list[int]  # of the cases
    failure: Failure | None = None
    where: str = ""  # which cases these are, if that can be said

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "kind": self.kind,
            "says": self.says,
            "cases": len(self.numbers),
            "numbers": self.numbers,
            "where": self.where,
            "failure": _plain(self.failure),
        }


def _plain(failure: Failure | None) -> dict[str, Any] | None:
    """Arrays are left out: `reproduce` makes them."""
    return None if failure is None else {k: v for k, v in asdict(failure).items() if k != "arrays"}


@dataclass
class Verdict:
    """One line of the table: one equation, variant, dtype, and its value or one of its gradients."""

    id: str
    variant: dict[str, Any]
    dtype: str
    checked: str  # "value" or "gradient of NAME"
    kind: str = "agrees"  # or that of the gravest finding
    cases: int = 0
    telling: int = 0  # those of them that zeros would fail
    error: float = 0.0  # the worst |got - expected| of all cases
    tolerance: float = 0.0  # the tolerance there
    used: float = 0.0  # the largest |got - expected| / tolerance, which may be elsewhere
    note: str = ""  # what differs in the equation's terms, or the gravest finding in words, or a remark
    failure: Failure | None = None
    precision: Precision | None = None  # of values that are numbers and could be compared
    findings: list[Finding] = field(default_factory=list)
    not_judged: list[str] = field(default_factory=list)  # lines on variants that the callable cannot be asked
    untold: tuple[str, ...] = ()  # parameters of the variant that the callable does not take
    unasked: int = 0  # cases that were not judged, because calls that did not come back had taken too long

    @property
    def ok(self) -> bool:
        """Whether it agrees."""
        return self.kind == "agrees"

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of all findings, the gravest first: their order does not depend on that of the cases."""
        return tuple(dict.fromkeys(finding.kind for finding in self.findings)) or (self.kind,)

    def fold(self, error: float, tolerance: float, used: float | None = None) -> None:
        """Keep the worst error, and the largest share of its tolerance that any error uses."""
        used = error / tolerance if used is None else used
        if not self.tolerance or error > self.error:
            self.error, self.tolerance = error, tolerance
        self.used = max(self.used, used)

    def add(self, kind: str, says: str, number: int, failure: Callable[[], Failure]) -> None:
        """One more case in which something is wrong: part of a finding of its kind, or a new one that it stands for."""
        for finding in self.findings:
            if finding.kind == kind and _group(finding.says, kind) == _group(says, kind):
                finding.numbers.append(number)
                return
        self.findings.append(Finding(kind, says, [number], failure()))
        self.findings.sort(key=lambda finding: _gravity(finding.kind))
        if self.kind != (gravest := self.findings[0]).kind:
            self.kind, self.note, self.failure = gravest.kind, gravest.says, gravest.failure

    def numbers(self, *kinds: str) -> set[int]:
        """The cases with a finding of one of these kinds; of any kind if none is named."""
        return {n for finding in self.findings if not kinds or finding.kind in kinds for n in finding.numbers}

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        data = {key: value for key, value in vars(self).items() if key not in ("failure", "findings", "precision")}
        return data | {
            "untold": list(self.untold),
            "kinds": list(self.kinds),
            "failure": _plain(self.failure),
            "precision": None if self.precision is None else asdict(self.precision),
            "findings": [finding.as_json() for finding in self.findings],
            "source": EQUATIONS[self.id].source,
        }


def _group(says: str, kind: str) -> str:
    """Exceptions are the same finding if type and place are, whatever numbers the message holds; others by kind."""
    if kind != "raises":
        return ""
    name, _, rest = says.partition(":")
    return name + rest.rpartition(" (")[2]
