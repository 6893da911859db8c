"""Whether the errors of a callable look like rounding in a narrower type, or like something that it does wrong.

A tolerance alone cannot tell: a temperature that is 0.1 % too high agrees to the tolerance of bfloat16. Two tests can.

1. *Stored*: every value that came is a number of the narrower type, and the expected values are not. Of numbers with 53
   bits that happens to none by chance.
2. *Nudged*: the callable is asked again with inputs that differ by some 8 roundings of the narrower type. What is done
   wrong is a smooth function of the inputs: the errors stay what they were. Rounding errors are drawn anew.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from motionspec.cli.cases import rounded
from motionspec.refimpl.equations import Equation

Arrays = dict[str, np.ndarray]
Ask = Callable[[Arrays], list[np.ndarray] | None]  # the callable's outputs; None if it gives none

# Half a unit in the last place of 1: the largest relative error of one rounding.
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}

# The thresholds of the second test.
# By how many roundings inputs are nudged; by more if that is too little to move the results, and still little.
_REACH = (8, 64)
_FARTHEST = 0.05
_REPEATS = 4  # how often, the inputs as they are included
# Of the errors' power, what must be drawn anew if all inputs are nudged: bits cut off keep three quarters, as cutting
# makes all values smaller; mistakes keep 99 % ...
_LEAST_NEW = 0.15
_MOST_KEPT = 0.97  # ... and the correlation that may be kept if one of them is
_LEAST_STEP = 2  # in roundings, by how much of themselves errors change if they depend on the input at all
_LEAST_FREE = 0.1  # of the errors' power, what must be no common factor of the values
_MOST_EXACT = 0.1  # of the cases, those that may have no error at all
_MOST_MOVED = 0.05  # of the value and its unit, by how much a nudge may change the result
_LEAST_VALUES = 40  # that the test speaks of
_ENOUGH_VALUES = 600


@dataclass(frozen=True)
class Part:
    """One component of one case: what came, the same corrected by the hypothesis, what is expected, and its unit."""

    came: np.ndarray
    got: np.ndarray
    want: np.ndarray
    unit: float


@dataclass(frozen=True)
class Nudge:
    """One case asked again with other inputs; `argument` is the input that changed, or empty for all."""

    number: int
    argument: str
    arrays: Arrays
    came: list[np.ndarray]


def stored(parts: Sequence[Part], dtype: str) -> bool:
    """Whether every value that came is one of the type, where the expected one is not."""
    count = 0
    for part in parts:
        near = rounded(part.want, dtype)
        size = np.maximum(np.abs(part.want), part.unit)
        tells = np.isfinite(part.want) & (part.got != 0) & (np.abs(near - part.want) > 1e-12 * size)
        came, got = part.came[tells], part.got[tells]
        if not ((rounded(came, dtype) == came) | (rounded(got, dtype) == got)).all():
            return False
        count += int(tells.sum())
    return count >= 8


def reaches(dtype: str) -> list[float]:
    """How far inputs are nudged, relative to themselves: the first that moves the results enough decides."""
    return [steps * ROUNDING[dtype] for steps in _REACH if steps == _REACH[0] or steps * ROUNDING[dtype] < _FARTHEST]


def nudges(row: Equation, cases: Sequence[tuple[int, Mapping[str, np.ndarray]]], reach: float, ask: Ask) -> list[Nudge]:
    """The callable asked about each of the cases again, by number and inputs: all inputs changed, then one by one."""
    found = []
    kinds = _kinds(row)
    for number, arrays in cases:
        rng = np.random.default_rng((number, 17))
        names = [name for name, array in arrays.items() if array.dtype == np.float64]
        turns = [("", names)] * (_REPEATS - 1)
        if len(names) > 1:
            turns += [(name, [name]) for name in names if arrays[name].size > 1]
        for argument, changed in turns:
            new = dict(arrays) | {name: _nudged(arrays[name], kinds[name], reach, rng) for name in changed}
            came = ask(new)
            if came is not None:
                found.append(Nudge(number, argument, new, came))
    return found


def _kinds(row: Equation) -> dict[str, str]:
    kinds: dict[str, str] = {}

    def record(name: str, shape: tuple[int, ...], kind: str) -> np.ndarray:
        kinds[name] = kind
        return np.zeros(shape)

    names = row.inputs(record, **dict.fromkeys(row.dims, 2))
    return {name: kinds.get(name, "value") for name in names}


def _nudged(array: np.ndarray, kind: str, reach: float, rng: np.random.Generator) -> np.ndarray:
    """The array with each value moved a little: signs, the order of box corners and numbers stay."""
    if kind == "boxes" or kind.startswith("rois"):
        moved = array.copy()
        moved[..., -4:] *= 1 + reach * rng.uniform(0.5, 1)
        return moved
    size = np.minimum(np.abs(array), 1.0) * np.sign(array) if kind == "flow" else array
    return np.asarray(array + size * reach * rng.choice([-1.0, 1.0], array.shape) * rng.uniform(0.5, 1, array.shape))


def chosen(cases: Sequence[tuple[int, Mapping[str, np.ndarray]]], sizes: Sequence[int]) -> list[int]:
    """Positions of cases of all sizes, from the whole range, with values enough for the test."""
    order = sorted(range(len(cases)), key=lambda i: (i * 7) % max(len(cases), 1) if len(cases) % 7 else i)
    found: list[int] = []
    for i in order:
        if sum(sizes[j] for j in found) < _ENOUGH_VALUES or len(found) < 6:
            found.append(i)
    return found


def drawn_anew(
    base: Mapping[int, Part], again: Sequence[tuple[int, str, Part]], dtype: str, least: float = _LEAST_NEW
) -> bool | None:
    """Whether one component's errors are new ones where inputs were nudged; None if too few values moved to tell.

    base: by case, as it was; again: case, nudged argument, as it is then.
    """
    groups = {k: [part, *(p for number, name, p in again if number == k and not name)] for k, part in base.items()}
    errors = {k: np.stack([_error(part, parts[0]) for part in parts]) for k, parts in groups.items() if len(parts) > 1}
    values = {k: np.stack([_value(part, groups[k][0]) for part in groups[k]]) for k in errors}
    tells = {k: _moved(groups[k][0], groups[k][1:], dtype) for k in errors}
    errors = {k: error[:, tells[k]] for k, error in errors.items()}
    values = {k: value[:, tells[k]] for k, value in values.items()}
    kept = {k for k in errors if errors[k].size}
    if not kept or sum(errors[k].size for k in kept) < _LEAST_VALUES:
        return None
    whole = [k for k in kept if errors[k].shape[1] >= 8]
    if sum(np.abs(errors[k]).max() < 1e-3 * ROUNDING[dtype] for k in whole) > _MOST_EXACT * len(whole):
        return False
    factor = _factor([errors[k] for k in kept], [values[k] for k in kept])
    free = {k: errors[k] - factor * values[k] for k in kept}
    power = sum(float((free[k] ** 2).sum()) for k in kept)
    if power < _LEAST_FREE * sum(float((errors[k] ** 2).sum()) for k in kept):
        return False
    new = total = 0.0
    for k in kept:
        mean_square = float((free[k] ** 2).mean())
        if mean_square > 0:
            new += free[k].shape[1] * float(free[k].var(axis=0, ddof=1).mean()) / mean_square
            total += free[k].shape[1]
    return total > 0 and new / total >= least and not _kept_by_one(base, again, dtype, factor)


def _kept_by_one(base: Mapping[int, Part], again: Sequence[tuple[int, str, Part]], dtype: str, factor: float) -> bool:
    """Whether the errors stay if this one input or that is nudged: then they come from elsewhere than rounding it."""
    for argument in {name for _, name, _ in again if name}:
        pairs = [(base[k], part) for k, name, part in again if name == argument and k in base]
        before, after = [], []
        for old, new in pairs:
            tells = _moved(old, [new], dtype)
            errors = [_error(part, old)[tells] for part in (old, new)]
            values = [_value(part, old)[tells] for part in (old, new)]
            free = [error - factor * value for error, value in zip(errors, values, strict=True)]
            size = float(np.sqrt((free[0] ** 2).mean())) if free[0].size else 0.0
            # A summand that nothing rounds leaves the errors exactly what they were: it tells nothing.
            step = float(np.sqrt(((errors[1] - errors[0]) ** 2).mean())) if free[0].size else 0.0
            same = step < _LEAST_STEP * ROUNDING[dtype] * size
            if size > 0 and not same:
                before.append(free[0] / size)
                after.append(free[1] / size)
        if sum(part.size for part in before) >= _LEAST_VALUES:
            a, b = np.concatenate(before), np.concatenate(after)
            if a @ b > _MOST_KEPT * np.sqrt((a @ a) * (b @ b)):
                return True
    return False


def typical(parts: Sequence[Part]) -> float:
    """The root of the mean square of the errors that are none of 0, each relative to its value and unit."""
    errors = np.concatenate([_error(part, part) for part in parts])
    errors = errors[np.isfinite(errors) & (errors != 0)]
    return float(np.sqrt((errors**2).mean())) if errors.size else 0.0


def _size(part: Part) -> np.ndarray:
    return np.abs(np.where(np.isfinite(part.want), part.want, 0)) + part.unit


def _error(part: Part, base: Part) -> np.ndarray:
    """Relative to the value and its unit as they were, as a row."""
    error = np.subtract(part.got, part.want, out=np.zeros_like(part.want), where=part.got != part.want)
    return np.asarray((error / _size(base)).ravel())


def _value(part: Part, base: Part) -> np.ndarray:
    return np.asarray((np.where(np.isfinite(part.want), part.want, 0) / _size(base)).ravel())


def _moved(old: Part, others: Sequence[Part], dtype: str) -> np.ndarray:
    """Where every nudge moved the expected value far enough for another rounding, and all are numbers."""
    found = np.ones(old.want.size, bool)
    for new in others:
        step = np.abs(new.want - old.want).ravel()
        finite = np.isfinite(old.got) & np.isfinite(new.got) & np.isfinite(old.want) & np.isfinite(new.want)
        far = (step > 4 * ROUNDING[dtype] * np.abs(old.want).ravel()) & (step > 0)
        found &= finite.ravel() & far & (step < _MOST_MOVED * _size(old).ravel())
    return found


def _factor(errors: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> float:
    """That of errors which are a multiple of the values, as where bits are cut off."""
    match = sum(float((e * v).sum()) for e, v in zip(errors, values, strict=True))
    power = sum(float((v * v).sum()) for v in values)
    return match / power if power else 0.0
