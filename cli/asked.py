"""Checks of what a caller of `motionspec.check` and `motionspec.case` asks: each mistake is one line of one form."""

import difflib
import importlib.util
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from motionspec.checks import message
from motionspec.cli.cases import DTYPES
from motionspec.cli.runner import CannotRun, WrongType
from motionspec.refimpl.equations import EQUATIONS, SINGLE

FRAMEWORKS = ("numpy", "torch")
_ID = "the id of an equation such as 'warp.bilinear'"


def the_equation(call: str, equation: object) -> None:
    """Raise unless it is an id; whether there is a row for it, `inventory.find` says."""
    if not isinstance(equation, str):
        hint = "; the callable comes first" if callable(equation) else ""
        raise WrongType(message(call, "equation", _ID, type(equation).__name__ + hint))
    if equation not in EQUATIONS:
        from motionspec.cli.inventory import find

        try:
            find(equation)
        except CannotRun as error:
            raise CannotRun(f"{call}: equation: {error}") from error


def the_callable(fn: object) -> None:
    """Raise unless it is a callable or names one."""
    expected = "a callable, 'package.module:function' or 'FILE.py:function'"
    if not callable(fn) and not isinstance(fn, str):
        raise WrongType(message("check", "fn", expected, _shown(fn)))
    if isinstance(fn, str) and ":" not in fn:
        hint = "; the equation comes second" if fn in EQUATIONS or fn in SINGLE else ""
        raise CannotRun(message("check", "fn", expected, repr(fn) + hint))


def word(call: str, name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise unless it is one of these words."""
    expected = " or ".join(map(repr, allowed)) if len(allowed) == 2 else f"one of {', '.join(map(repr, allowed))}"
    if not isinstance(value, str):
        raise WrongType(message(call, name, expected, _shown(value)))
    if value not in allowed:
        near = difflib.get_close_matches(value, allowed, n=1)
        raise CannotRun(message(call, name, expected, repr(value)) + (f". Did you mean {near[0]}?" if near else ""))


def dtype(call: str, value: object, framework: str) -> None:
    """Raise unless it is a type that the framework has."""
    word(call, "dtype", value, DTYPES)
    if value == "bfloat16" and framework == "numpy":
        raise CannotRun(message(call, "dtype", "a type that NumPy has", "'bfloat16': use framework='torch'"))


def dtypes(call: str, value: object, framework: str) -> list[str]:
    """The one or several types. Raises unless there is one and the framework has them."""
    several = [value] if isinstance(value, str) or not isinstance(value, Sequence) else list(value)
    if not several:
        raise CannotRun(message(call, "dtype", "one type at least", repr(value)))
    for one in several:
        dtype(call, one, framework)
    return [str(one) for one in several]


def whole(call: str, name: str, value: object, least: int, most: int | None = None) -> None:
    """Raise unless it is a whole number within these limits."""
    expected = f"a whole number from {least} up" if most is None else f"a whole number from {least} to {most}"
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise WrongType(message(call, name, expected, _shown(value)))
    if int(value) < least or (most is not None and int(value) > most):
        raise CannotRun(message(call, name, expected, value))


def device(call: str, value: object, framework: str) -> None:
    """Raise unless it names a device that the framework knows."""
    if not isinstance(value, str):
        raise WrongType(message(call, "device", "the name of a device such as 'cpu'", _shown(value)))
    if framework == "numpy" and value != "cpu":
        raise CannotRun(message(call, "device", "'cpu' for NumPy arrays", f"{value!r}: use framework='torch'"))
    if framework == "torch" and importlib.util.find_spec("torch"):
        import torch

        try:
            torch.device(value)
        except RuntimeError as error:
            raise CannotRun(message(call, "device", "a device that torch knows", repr(value))) from error


def variant(value: object, equation: str) -> None:
    """Raise unless it is a mapping that some variant of the equation has."""
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise WrongType(message("check", "variant", "a mapping such as {'outside': 'blend'}", _shown(value)))
    variants = EQUATIONS[equation].variants
    if not any(all(k in v and str(v[k]) == str(value[k]) for k in value) for v in variants):
        known = ", ".join(str(dict(v)) for v in variants if v) or "none: this equation has no variants"
        raise CannotRun(message("check", "variant", f"one of {known}", dict(value)))


def flag(name: str, value: object) -> None:
    """Raise unless it is a bool."""
    if not isinstance(value, bool):
        raise WrongType(message("check", name, "True or False", _shown(value)))


def timeout(value: object) -> None:
    """Raise unless it is a number of seconds, or None."""
    expected = "seconds above 0, or None"
    if value is not None and (not isinstance(value, Real) or isinstance(value, bool)):
        raise WrongType(message("check", "timeout", expected, _shown(value)))
    if isinstance(value, Real) and not 0 < float(value) < float("inf"):
        raise CannotRun(message("check", "timeout", expected, value))


def _shown(value: Any) -> str:
    """The value where it is short and plain, else its type."""
    return repr(value) if isinstance(value, str | int | float | None) else type(value).__name__
