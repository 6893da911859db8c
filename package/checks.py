"""One message form for bad input, the same from `refimpl` and `ops`: `operator: argument: expected ..., got ...`."""

import math
from numbers import Integral, Real
from typing import Any


def message(operator: str, argument: str, expected: str, got: object) -> str:
    """The one form of a bad-input message."""
    return f"{operator}: {argument}: expected {expected}, got {got}"


def shapes(operator: str, **arguments: tuple[Any, str]) -> dict[str, int]:
    """Check array shapes against patterns and return the size that each letter stands for.

    A pattern such as `"N 2 H W"` has one word per axis: a number is that size, a letter any size >= 1 (N and R, samples
    and boxes, may be 0), the same wherever the letter stands. `shapes("warp.bilinear", x=(x, "N C H W"), flow=(flow,
    "N 2 H W"))` therefore says all there is to say. Raises ValueError for the first argument that does not fit.
    """
    sizes: dict[str, int] = {}
    for name, (array, pattern) in arguments.items():
        words, shape = pattern.split(), tuple(array.shape)
        known = {w: int(w) if w.isdigit() else sizes.get(w) for w in words}
        fits = len(shape) == len(words) and all(
            (size >= int(w not in ("N", "R"))) if known[w] is None else size == known[w]
            for w, size in zip(words, shape, strict=True)
        )
        if not fits:
            bound = ", ".join(f"{w}={sizes[w]}" for w in words if w in sizes)
            expected = f"shape ({', '.join(words)})" + (f" with {bound}" if bound else " with sides of at least 1")
            raise ValueError(message(operator, name, expected, shape))
        sizes.update((w, size) for w, size in zip(words, shape, strict=True) if not w.isdigit())
    return sizes


def choice(operator: str, argument: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of the words `allowed`."""
    if value not in allowed:
        raise ValueError(message(operator, argument, "one of " + ", ".join(map(repr, allowed)), repr(value)))


def radii(operator: str, radius: object) -> tuple[int, int]:
    """(R_h, R_w) from `radius`, which is one int for both or the pair. Raises ValueError for anything else."""
    pair = radius if isinstance(radius, tuple) else (radius, radius)
    if len(pair) != 2 or not all(type(r) is int and r >= 0 for r in pair):
        raise ValueError(message(operator, "radius", "an int >= 0 or a pair (R_h, R_w) of them", repr(radius)))
    return pair


def odd_window(operator: str, argument: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """(R_h, R_w) of the window that the last two axes are. Raises ValueError unless both sides 2R + 1 are odd."""
    P, Q = shape[-2:]
    if P % 2 == 0 or Q % 2 == 0:
        raise ValueError(message(operator, argument, "a window of odd sides", f"{P} x {Q}"))
    return P // 2, Q // 2


def count(operator: str, argument: str, value: object, least: int = 1) -> int:
    """Raise TypeError or ValueError unless `value` is a whole number of at least `least`; return it."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(message(operator, argument, "an integer", type(value).__name__))
    if int(value) < least:
        raise ValueError(message(operator, argument, f"at least {least}", value))
    return int(value)


def odd(operator: str, argument: str, value: object) -> int:
    """Raise TypeError or ValueError unless `value` is an odd whole number above 0; return it."""
    number = count(operator, argument, value)
    if number % 2 == 0:
        raise ValueError(message(operator, argument, "an odd number", value))
    return number


def positive(operator: str, argument: str, value: object, below: float = math.inf) -> float:
    """Raise TypeError or ValueError unless `value` is a finite number above 0, and below `below`; return it."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(message(operator, argument, "a number", type(value).__name__))
    if not 0 < float(value) < below:
        expected = "a finite number above 0" if below == math.inf else f"a number above 0 and below {below}"
        raise ValueError(message(operator, argument, expected, value))
    return float(value)


def some(operator: str, argument: str, N: int) -> None:
    """Raise ValueError if a mean over the N samples of `argument` is asked for and there is none."""
    if N == 0:
        raise ValueError(message(operator, argument, "at least N=1 sample to take the mean of", "N=0"))


def levels(operator: str, argument: str, flows: Any, alpha: Any) -> None:
    """Raise TypeError or ValueError unless `flows` is a list and `alpha` has a number above 0 for each of them."""
    for name, values in ((argument, flows), ("alpha", alpha)):
        if not isinstance(values, list | tuple):
            raise TypeError(message(operator, name, "a list or tuple", type(values).__name__))
    if len(alpha) != len(flows) or not flows:
        expected = f"a number for each of the {len(flows)} in {argument}, at least one"
        raise ValueError(message(operator, "alpha", expected, len(alpha)))
    for r, weight in enumerate(alpha):
        positive(operator, f"alpha[{r}]", weight)


def whole_ratios(operator: str, argument: str, flows: Any, target: Any) -> None:
    """Raise ValueError unless the sides of `target` are multiples of those of every flow."""
    H, W = target.shape[-2:]
    for r, flow in enumerate(flows):
        h, w = flow.shape[-2:]
        if H % h or W % w:
            expected = f"sides that are multiples of {h} and {w}, those of {argument}[{r}]"
            raise ValueError(message(operator, "target", expected, tuple(target.shape)))


def single(operator: str, argument: str, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless an array of that shape has exactly one element."""
    if math.prod(shape) != 1:
        raise ValueError(message(operator, argument, "one element", shape))
