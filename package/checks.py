"""One message form for bad input, the same from `refimpl` and `ops`: `operator: argument: expected ..., got ...`."""

import math
import unicodedata
from numbers import Integral, Real
from typing import Any


def message(operator: str, argument: str, expected: str, got: object) -> str:
    """The one form of a bad-input message."""
    return f"{operator}: {argument}: expected {expected}, got {got}"


_UNSEEN = {"Cc", "Cs", "Zl", "Zp"}  # control characters, bytes that are no text, ends of lines and paragraphs
_TURNING = {
    *"\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
}  # these reorder what stands beside them


def printable(text: str) -> str:
    """A name in one line: what would break the line, or tell a terminal what to do, as its escape sequence."""
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _UNSEEN or c in _TURNING else c for c in text
    )


def shapes(operator: str, **arguments: tuple[Any, str]) -> dict[str, int]:
    """Check array shapes against patterns and return the size that each letter stands for.

    A pattern such as `"N 2 H W"` has one word per axis: a number is that size, a letter any size >= 1 (N and R, samples
    and boxes, may be 0), the same wherever the letter stands. `shapes("warp.bilinear", x=(x, "N C H W"), flow=(flow,
    "N 2 H W"))` therefore says all there is to say. Raises ValueError for the first argument that does not fit.
    """
    sizes: dict[str, int] = {}
    for name, (array, pattern) in arguments.items():
        words, shape, before = pattern.split(), tuple(array.shape), len(sizes)
        fits = len(shape) == len(words)
        for w, size in zip(words, shape, strict=False):
            known = int(w) if w.isdigit() else sizes.setdefault(w, size)
            fits = fits and size == known and (size >= 1 or w in ("N", "R"))
        if not fits:
            earlier = list(sizes)[:before]
            bound = ", ".join(f"{w}={sizes[w]}" for w in words if w in earlier)
            expected = f"shape ({', '.join(words)})" + (f" with {bound}" if bound else " with sides of at least 1")
            raise ValueError(message(operator, name, expected, shape))
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


def share(operator: str, argument: str, value: object) -> float:
    """Raise TypeError or ValueError unless `value` is a number from 0 to 1; return it."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(message(operator, argument, "a number", type(value).__name__))
    if not 0 <= float(value) <= 1:
        raise ValueError(message(operator, argument, "a number from 0 to 1", value))
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


# -- layers ------------------------------------------------------------------------------------------------------------

_SPACE = (("W",), ("H", "W"), ("T", "H", "W"))


def space(x: Any, *options: Any) -> tuple[str, ...]:
    """The names of the 1 to 3 space axes: as many as an option that is a tuple has, or else x (N, C, *space)."""
    given = [len(option) for option in options if isinstance(option, tuple)]
    axes = given[0] if given else getattr(x, "ndim", 0) - 2
    return _SPACE[min(max(axes, 1), 3) - 1]


def patterns(axes: tuple[str, ...], **arguments: tuple[Any, str]) -> dict[str, tuple[Any, str]]:
    """Patterns for `shapes`: `*` stands for the space axes, `K*` for the kernel's; one with a `?` may be None."""
    spelled = {"*": " ".join(axes), "K*": " ".join(f"K_{axis}" for axis in axes)}
    return {
        name: (array, " ".join(spelled.get(word, word) for word in pattern.rstrip("?").split()))
        for name, (array, pattern) in arguments.items()
        if array is not None or not pattern.endswith("?")
    }


def per_axis(operator: str, argument: str, value: Any, axes: int, least: int = 0) -> tuple[int, ...]:
    """A whole number for each axis, from one for all or a tuple. Raises ValueError for anything else."""
    values = value if isinstance(value, tuple) else (value,) * axes
    whole = all(isinstance(v, Integral) and not isinstance(v, bool) and int(v) >= least for v in values)
    if len(values) != axes or not whole:
        raise ValueError(message(operator, argument, f"an int >= {least} or a tuple of {axes} of them", repr(value)))
    return tuple(int(v) for v in values)


def multiple(operator: str, argument: str, axis: str, size: int, groups: int) -> None:
    """Raise ValueError unless the channels can be cut into `groups` equal blocks."""
    if size % groups:
        raise ValueError(message(operator, argument, f"{axis} a multiple of groups={groups}", f"{axis}={size}"))


def reached(operator: str, padded: tuple[int, ...], extent: tuple[int, ...]) -> None:
    """Raise ValueError unless a map of sides `padded` has at least the sides `extent`."""
    if any(side < least for side, least in zip(padded, extent, strict=True)):
        raise ValueError(message(operator, "x", f"sides, with padding, of at least {extent}", padded))


def convolved(operator: str, x: Any, weight: Any, groups: Any, pad: tuple[int, ...], gap: tuple[int, ...]) -> None:
    """Raise TypeError or ValueError unless weight (O, I, *kernel) fits x (N, C, *space), both checked by themselves."""
    C, (O, I), kernel = x.shape[1], weight.shape[:2], weight.shape[2:]  # noqa: E741
    count(operator, "groups", groups)
    multiple(operator, "x", "C", C, groups)
    multiple(operator, "weight", "O", O, groups)
    if I * groups != C:
        raise ValueError(message(operator, "weight", f"I=C/groups={C // groups} input channels", f"I={I}"))
    padded = tuple(side + 2 * p for side, p in zip(x.shape[2:], pad, strict=True))
    reached(operator, padded, tuple(d * (k - 1) + 1 for k, d in zip(kernel, gap, strict=True)))


def transposed(
    operator: str,
    x: Any,
    weight: Any,
    bias: Any,
    groups: Any,
    step: tuple[int, ...],
    pad: tuple[int, ...],
    more: tuple[int, ...],
) -> tuple[int, ...]:
    """The sides that x (N, C, *space) and weight (C, O/groups, *kernel), both checked by themselves, give.

    Raises TypeError or ValueError unless they, the bias and the options fit.
    """
    count(operator, "groups", groups)
    multiple(operator, "x", "C", x.shape[1], groups)
    if bias is not None and len(bias) != groups * weight.shape[1]:
        raise ValueError(message(operator, "bias", f"shape ({groups * weight.shape[1]},)", tuple(bias.shape)))
    if any(m >= s for m, s in zip(more, step, strict=True)):
        raise ValueError(message(operator, "output_padding", f"less than stride={step}", more))
    grown = zip(x.shape[2:], weight.shape[2:], step, pad, more, strict=True)
    sides = tuple((side - 1) * s + k - 2 * p + m for side, k, s, p, m in grown)
    if min(sides) < 1:
        raise ValueError(message(operator, "padding", "so little that a side of at least 1 is left", f"sides {sides}"))
    return sides


def pooled(
    operator: str, x: Any, size: Any, stride: Any, padding: Any, ceil_mode: bool
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Size, stride and padding for each space axis of x (N, C, *space), checked by itself, without a stride the size.

    Raises ValueError unless they fit: each window holds a pixel, and there is at least one.
    """
    axes = x.ndim - 2
    size = per_axis(operator, "size", size, axes, 1)
    step = size if stride is None else per_axis(operator, "stride", stride, axes, 1)
    pad = per_axis(operator, "padding", padding, axes)
    if any(2 * p > k for p, k in zip(pad, size, strict=True)):
        raise ValueError(message(operator, "padding", f"at most half of size={size}", pad))
    padded = tuple(side + 2 * p for side, p in zip(x.shape[2:], pad, strict=True))
    reached(operator, padded, tuple(k - (s - 1 if ceil_mode else 0) for k, s in zip(size, step, strict=True)))
    return size, step, pad


def along(operator: str, x: Any, axis: Any) -> str:
    """The pattern for `shapes` of x (N, ...). Raises ValueError unless it has the axis, and it is not the first."""
    axes = getattr(x, "ndim", 2)
    if type(axis) is not int or axis % max(axes, 1) == 0 or not -axes <= axis < axes:
        raise ValueError(message(operator, "axis", f"an axis of x, which has {axes}, but the first", repr(axis)))
    return " ".join(["N", *(f"A{i}" for i in range(1, axes))])
