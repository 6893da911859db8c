"""Says which cases fail: by sizes, by values, by order of the calls."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from motionspec.cli.cases import is_smooth
from motionspec.refimpl.equations import EQUATIONS, Equation

KINKS = "ties and kinks"
SIDES = "sides of length 1"
_LEAST_SHARE = 0.5  # of the cases that a description names, those that fail
_NEAR = 0.1  # two descriptions whose shares differ by less fit equally well

_ONE = {
    "N": "batches of one",
    "C": "one channel",
    "S": "one channel",
    "T": "one frame",
    "H": "one row",
    "W": "one column",
    "K": "one class",
    "R": "one box",
}


@dataclass(frozen=True)
class Circumstances:
    """What distinguishes one case from others."""

    number: int
    sizes: Mapping[str, int]
    sides: tuple[int, ...]  # of all maps among the inputs
    smooth: bool
    scale: float
    repeats: bool  # an earlier call had arrays of the same shapes


@dataclass(frozen=True)
class Description:
    """A property that all failing cases have and none of the others is free of."""

    name: str
    numbers: frozenset[int]  # of the cases that have it
    failing: int  # of these, how many fail

    @property
    def share(self) -> float:
        """Of the cases with the property, those that fail."""
        return self.failing / len(self.numbers)

    @property
    def cases(self) -> str:
        """The cases in words, honest about those that have the property and do not fail."""
        link = "" if self.name.startswith("where") else "with "
        if self.share == 1:
            return f"those {link}{self.name}"
        return f"only {link}{self.name} ({len(self.numbers)} cases)"

    @property
    def differs(self) -> str:
        """The same as the end of a sentence on what differs."""
        if self.name == KINKS:
            return f"{KINKS} (the cases without any agree)"
        if self.name.startswith(SIDES) or self.share == 1:
            return f"{self.name} (all else agrees)"
        return f"only {self.name} ({self.failing} of {len(self.numbers)} such cases; all else agrees)"


Measures = Callable[[int], tuple[dict[str, int], float]]
"""The sizes of a case by its number, and the magnitude of its values."""


def circumstances(
    row: Equation, cases: Sequence[tuple[int, Mapping[str, np.ndarray]]], measures: Measures
) -> list[Circumstances]:
    """Of cases by number and inputs, in the order of the calls."""
    seen = set()
    found = []
    for k, arrays in cases:
        shapes = tuple(array.shape for array in arrays.values())
        used, scale = measures(k)
        found.append(Circumstances(k, used, sides(row, arrays), is_smooth(k), scale, shapes in seen))
        seen.add(shapes)
    return found


def sides(row: Equation, arrays: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    """The lengths of all axes of the inputs that run along a map: scores and boxes have none."""
    axes = _side_axes(row.id)
    return tuple(array.shape[axis] for name, array in arrays.items() for axis in axes.get(name, ()))


@functools.cache
def _side_axes(equation: str) -> dict[str, tuple[int, ...]]:
    """By name of the input, the axes whose length follows the height or width of the maps."""
    row = EQUATIONS[equation]

    def shapes(**changed: int) -> dict[str, tuple[int, ...]]:
        given = {dim: changed.get(dim, 2) for dim in row.dims}
        found = row.inputs(lambda name, shape, kind: np.zeros(shape), **given)
        return {name: array.shape for name, array in found.items()}

    small, large = shapes(), shapes(H=3, W=3)
    return {name: tuple(i for i, side in enumerate(small[name]) if side != large[name][i]) for name in small}


def describe(cases: Sequence[Circumstances], failing: set[int]) -> Description | None:
    """The property that fits the failing cases best: all of them have it, at least half of those with it fail.

    None if there is no such property, or nothing to tell apart.
    """
    if not failing or failing >= {case.number for case in cases}:
        return None
    fitting = [
        Description(name, numbers, len(failing))
        for name, numbers in _properties(cases)
        if failing <= numbers and len(numbers) < len(cases)
    ]
    best = max(fitting, key=lambda found: found.share, default=None)
    if best is None or best.share < _LEAST_SHARE:
        return None
    same = [found.name for found in fitting if found.numbers == best.numbers and found.name != best.name]
    if same:  # nobody can tell them apart
        best = Description(f"{best.name}, the same cases as {' and '.join(same[:3])}", best.numbers, best.failing)
    if best.share == 1:
        return best
    # Where none fits wholly, one that fits as well must not be kept quiet.
    rivals = [found for found in fitting if found.share > best.share - _NEAR and found.numbers != best.numbers]
    if len({found.numbers for found in rivals}) > 1:
        return None
    name = " or ".join([best.name, *(found.name for found in rivals[:1])])
    return Description(name, best.numbers.union(*(found.numbers for found in rivals[:1])), len(failing))


def having(cases: Sequence[Circumstances], name: str, failing: set[int]) -> Description | None:
    """The description by this property, if all failing cases have it."""
    for known, numbers in _properties(cases):
        if known == name and failing and failing <= numbers:
            return Description(name, numbers, len(failing))
    return None


def _properties(cases: Sequence[Circumstances]) -> Iterator[tuple[str, frozenset[int]]]:
    """Names of properties, those that say more first, with the cases that have each."""
    yield SIDES, frozenset(case.number for case in cases if 1 in case.sides)
    for dim in cases[0].sizes:
        yield from _thresholds(cases, dim, [case.sizes[dim] for case in cases])
    if all(case.sides for case in cases):
        yield from _thresholds(cases, "the longest side", [max(case.sides) for case in cases])
        yield from _squares(cases)
    yield from _thresholds(cases, "the magnitude of the values", [case.scale for case in cases])
    yield "where the shapes have come before", frozenset(case.number for case in cases if case.repeats)
    yield KINKS, frozenset(case.number for case in cases if not case.smooth)
    yield "where no value lies on a tie or kink", frozenset(case.number for case in cases if case.smooth)


def _thresholds(
    cases: Sequence[Circumstances], name: str, values: Sequence[float]
) -> Iterator[tuple[str, frozenset[int]]]:
    """Above and below each value that occurs."""
    steps = sorted(set(values))
    for below in steps[:-1]:
        small = frozenset(case.number for case, value in zip(cases, values, strict=True) if value <= below)
        equal = below == steps[0]
        gloss = f" ({_ONE[name]})" if equal and below == 1 and name in _ONE else ""
        yield f"where {name} {'=' if equal else '<='} {below:g}{gloss}", small
        yield f"where {name} > {below:g}", frozenset(case.number for case in cases) - small


def _squares(cases: Sequence[Circumstances]) -> Iterator[tuple[str, frozenset[int]]]:
    """Square maps and others, if there are square ones larger than a pixel."""
    square = frozenset(case.number for case in cases if _is_square(case))
    if any(max(case.sides) > 1 for case in cases if case.number in square):
        yield "where H = W", square
        yield "where H and W differ", frozenset(case.number for case in cases) - square


def _is_square(case: Circumstances) -> bool:
    return case.sizes.get("H") == case.sizes.get("W")
