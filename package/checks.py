"""One message form for bad input, the same from `refimpl` and `ops`: `operator: argument: expected ..., got ...`."""

import math
from typing import Any


def message(operator: str, argument: str, expected: str, got: object) -> str:
    """The one form of a bad-input message."""
    return f"{operator}: {argument}: expected {expected}, got {got}"


def shapes(operator: str, **arguments: tuple[Any, str]) -> dict[str, int]:
    """Check array shapes against patterns and return the size that each letter stands for.

    A pattern such as `"N 2 H W"` has one word per axis: a number is that size, a letter any size >= 1 (N may be 0), the
    same wherever the letter stands. `shapes("warp.bilinear", x=(x, "N C H W"), flow=(flow, "N 2 H W"))` therefore says
    all there is to say. Raises ValueError for the first argument that does not fit.
    """
    sizes: dict[str, int] = {}
    for name, (array, pattern) in arguments.items():
        words, shape = pattern.split(), tuple(array.shape)
        known = {w: int(w) if w.isdigit() else sizes.get(w) for w in words}
        fits = len(shape) == len(words) and all(
            (size >= (w != "N")) if known[w] is None else size == known[w] for w, size in zip(words, shape, strict=True)
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


def positive(operator: str, argument: str, value: object) -> None:
    """Raise ValueError unless `value` is a finite Python number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(message(operator, argument, "a finite number above 0", repr(value)))


def count(operator: str, argument: str, value: object) -> None:
    """Raise ValueError unless `value` is a Python integer of at least 0."""
    if type(value) is not int or value < 0:
        raise ValueError(message(operator, argument, "an integer of at least 0", repr(value)))


def single(operator: str, argument: str, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless an array of that shape has exactly one element."""
    if math.prod(shape) != 1:
        raise ValueError(message(operator, argument, "one element", shape))
