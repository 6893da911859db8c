"""How a result is compared with the oracle: elementwise, with one tolerance table, gradients by central differences."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from motionspec.cli.cases import SeededFill
from motionspec.refimpl.equations import Equation

# dtype: (relative, absolute per unit of the result). float32: some ten roundings of terms a few times the scale.
# The half types compute in float32 and round once, so they add half a unit in the last place and nothing else.
TOLERANCE = {
    "float64": (1e-12, 1e-12),
    "float32": (2e-6, 4e-6),
    "bfloat16": (2**-8 + 4e-6, 4e-6),
    "float16": (2**-11 + 2e-6, 4e-6),
}
# The same for a gradient against central differences, which are themselves good to about 1e-8.
GRADIENT_TOLERANCE = {
    "float64": (1e-6, 1e-6),
    "float32": (1e-5, 1e-5),
    "bfloat16": (2**-8 + 1e-5, 1e-5),
    "float16": (2**-11 + 1e-5, 1e-5),
}
_HALF_SUBNORMAL = {"float16": 2.0**-25, "bfloat16": 2.0**-134}
# Bits of the significand, and the exponent of the smallest number above 0.
_FORMAT = {"float64": (53, -1074), "float32": (24, -149), "bfloat16": (8, -133), "float16": (11, -24)}


def step(row: Equation, name: str, scale: float) -> float:
    """Of the central difference for argument `name` when values are of magnitude `scale`."""
    return row.step * row.unit(name, scale)


@dataclass(frozen=True)
class Comparison:
    """Elementwise: `error` is the largest, `index` its element; `first` is the first element that is wrong.

    `used` is the largest error in units of its tolerance, which may be that of another element.
    """

    ok: bool
    error: float
    tolerance: float
    used: float
    index: tuple[int, ...]
    first: tuple[int, ...]
    wrong: int


def compare(got: np.ndarray, want: np.ndarray, relative: float, absolute: float) -> Comparison:
    """`|got - want| <= absolute + relative |want|` for every element; NaN and infinities must agree exactly.

    Raises ValueError when the shapes differ: nothing is broadcast.
    """
    if got.shape != want.shape:
        raise ValueError(f"shapes differ: got {got.shape}, want {want.shape}")
    got, want = got.astype(np.float64), want.astype(np.float64)
    if got.size == 0:
        return Comparison(True, 0.0, absolute, 0.0, (), (), 0)
    with np.errstate(all="ignore"):  # an overflow here is an error like any other
        return _compare(got, want, relative, absolute)


def _compare(got: np.ndarray, want: np.ndarray, relative: float, absolute: float) -> Comparison:
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    finite = np.isfinite(got) & np.isfinite(want)
    error = np.where(same, 0.0, np.inf)
    np.abs(np.subtract(got, want, out=error, where=finite), out=error)
    tolerance = absolute + relative * np.abs(np.where(finite, want, 0.0))
    excess = error / np.maximum(tolerance, np.finfo(float).tiny)
    bad = error > tolerance
    # Where no error is larger than another, the one that uses most of its tolerance.
    largest = error == error.max()
    worst = tuple(int(i) for i in np.unravel_index(np.argmax(np.where(largest, excess, -1.0)), excess.shape))
    first = tuple(int(i) for i in np.argwhere(bad)[0]) if bad.any() else ()
    return Comparison(
        not bad.any(),
        float(error[worst]),
        float(tolerance[worst]),
        float(excess.max()),
        worst,
        first,
        int(bad.sum()),
    )


def ulp(values: np.ndarray, dtype: str) -> np.ndarray:
    """The unit in the last place of each value in `dtype`: how far apart its numbers lie there."""
    bits, smallest = _FORMAT[dtype]
    return np.ldexp(1.0, np.where(values == 0, smallest, np.maximum(np.frexp(values)[1] - bits, smallest)))


@dataclass
class Precision:
    """The worst error of results in one type, each figure at the element where it is worst.

    The oracle has computed on the very values that the implementation got: rounding the inputs is no part of it, the
    final rounding is. Values of the oracle below 1e-12 units, to which it is good itself, are taken for 0: they have no
    relative error and no unit in the last place. They are counted, and one that is wrong beyond the tolerance makes
    both figures infinite.
    """

    per_unit: float = 0.0  # the absolute error, per unit of the result
    relative: float = 0.0
    ulp: float = 0.0  # in units in the last place of the oracle's value
    ulp_of_unit: float = 0.0  # the same in those of the unit of the result, or of the value where that is larger
    values: int = 0
    zeros: int = 0  # of these, how many are 0 in the oracle, so that they have no relative error and no ulp

    def fold(self, got: np.ndarray, want: np.ndarray, dtype: str, unit: float, allowed: float = np.inf) -> None:
        """Keep the worst; NaN and infinities that agree have no error, others an infinite one.

        allowed: the tolerance of a value that should be 0.
        """
        with np.errstate(all="ignore"):
            got, want = np.atleast_1d(got, want)
            error = np.abs(got - want)
            error[(got == want) | (np.isnan(got) & np.isnan(want))] = 0
            error[~np.isfinite(error)] = np.inf
            size = np.where(np.isfinite(want), np.abs(want), 0.0)
            at_zero = size <= TOLERANCE["float64"][1] * unit
            of_zero = np.where(error > allowed, np.inf, 0.0)
            self.values, self.zeros = self.values + want.size, self.zeros + int((at_zero & np.isfinite(want)).sum())
            found = {
                "per_unit": error / unit,
                "relative": np.where(at_zero, of_zero, error / size),
                "ulp": np.where(at_zero, of_zero, error / ulp(size, dtype)),
                "ulp_of_unit": error / ulp(np.maximum(size, unit), dtype),
            }
        for name, values in found.items():
            setattr(self, name, max(getattr(self, name), float(values.max(initial=0.0))))


def forward_tolerance(row: Equation, dtype: str, unit: float) -> tuple[float, float]:
    """(relative, absolute) for results of magnitude `unit` in `dtype`."""
    relative, absolute = row.tolerance.get(dtype, TOLERANCE[dtype])
    return relative, absolute * unit + _HALF_SUBNORMAL.get(dtype, 0.0)


def gradient_tolerance(row: Equation, name: str, dtype: str, scale: float) -> tuple[float, float]:
    """(relative, absolute) for the gradient with respect to argument `name`, values being of magnitude `scale`."""
    relative, absolute = GRADIENT_TOLERANCE[dtype]
    unit = max(scale**degree for degree in row.degree) / row.unit(name, scale)
    return relative, absolute * unit + _HALF_SUBNORMAL.get(dtype, 0.0)


def as_outputs(result: Any) -> list[Any]:
    """A reference's result as a list: one array, or several."""
    return list(result) if isinstance(result, tuple) else [result]


def cotangents(row: Equation, wants: Sequence[np.ndarray], key: tuple[int, ...], dtype: str) -> list[np.ndarray | None]:
    """Output cotangents that `dtype` can hold, reproducible from `key`; None for an output without derivative."""
    fill = SeededFill((*key, 1), 1.0, True, dtype)
    return [
        None if w.dtype != np.float64 else fill(n, w.shape, "value") for n, w in zip(row.outputs, wants, strict=True)
    ]


def directional(
    row: Equation,
    variant: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    name: str,
    direction: np.ndarray,
    weights: Sequence[np.ndarray | None],
    step: float,
) -> float:
    """Central difference of the reference: d/d`name` of sum(cotangent * output) along `direction`."""
    ahead, behind = (
        as_outputs(row.reference(**{**arrays, name: arrays[name] + sign * step * direction}, **variant))
        for sign in (+1, -1)
    )
    # Differences before sums: an output that the argument does not reach contributes an exact 0, infinity too.
    return sum(
        float(np.sum(w * np.subtract(a, b, out=np.zeros_like(a), where=a != b))) / (2 * step)
        for w, a, b in zip(weights, ahead, behind, strict=True)
        if w is not None
    )


def directions(
    shape: tuple[int, ...], seed: int, limit: int = 64
) -> Iterator[tuple[tuple[int, ...] | None, np.ndarray]]:
    """Every unit vector (with its index) of a small array; three random directions (with None) of a larger one.

    One direction for thousands of elements: each takes two calls of the oracle, and it has them all in it.
    """
    if np.prod(shape) <= limit:
        for index in np.ndindex(shape):
            unit = np.zeros(shape)
            unit[index] = 1.0
            yield index, unit
    else:
        rng = np.random.default_rng(seed)
        for _ in range(3 if np.prod(shape) <= 1024 else 1):
            yield None, rng.choice([-1.0, 1.0], shape) * rng.uniform(0.5, 1.0, shape)
