"""What there is and what is planned."""

import difflib
from pathlib import Path

from motionspec import refimpl
from motionspec.cli.runner import CannotRun
from motionspec.refimpl.equations import EQUATIONS, SINGLE, Equation
from motionspec.refimpl.sources import SOURCES, ids, state

ROOT = Path(refimpl.__file__).resolve().parents[1]  # holds refimpl/, ops/ and, in a checkout, tests/
NETWORKS = frozenset(f"network: {path.stem}" for path in (ROOT / "models").glob("*.py") if path.stem != "__init__")


def planned() -> dict[str, str]:
    """What the inventory names and nobody has written yet: equation or network, and the first source that names it."""
    known = {*EQUATIONS, *SINGLE, *NETWORKS}
    found: dict[str, str] = {}
    for source in SOURCES:
        if state(source, known) == "planned":
            for name in ids(source) or (source.fate,):
                if name not in known:
                    found.setdefault(name, f"{source.paper} {source.label}")
    return found


def find(equation: str) -> Equation:
    """The row of an equation. Raises CannotRun with one line for one that is planned, a network, or does not exist."""
    if equation in EQUATIONS:
        return EQUATIONS[equation]
    if equation in SINGLE:
        raise CannotRun(f"{equation} has no row to be held against: one implementation, held by facts in its tests")
    for name in (equation, f"network: {equation}"):
        if name in planned():
            raise CannotRun(f"{name} is planned ({planned()[name]}) and not written yet")
    if f"network: {equation}" in {source.fate for source in SOURCES}:
        raise CannotRun(f"{equation} is a network, motionspec.models.{equation}, and no equation")
    near = difflib.get_close_matches(equation, EQUATIONS, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise CannotRun(f"no equation {equation!r}.{hint} `motionspec list` shows all")
