"""A row of the table (`equations.py`), and what rows share.

`inputs(fill, **sizes)` describes valid inputs once; whoever needs some passes its own `fill(name, shape, kind)`:

    kind "value"    any real number of the case's scale
    kind "nonzero"  the same, at least 1e-3 scales away from 0, because there is a kink
    kind "distinct" as value, those of one clip (the last three axes) at least 1e-3 scales apart, for the same reason
    kind "flow"     pixels, at least 1e-3 away from an integer, because there is a kink
    kind "spread"   as "value", but the smallest and the largest of a sample stand alone, because there is a kink
    kind "grey"     a grey level in [0, 255], whatever the case's scale
    kind "parameter"  a positive number in [0.1, 0.6], whatever the case's scale
    kind "score"    in [-1, 1], whatever the case's scale; those of one window (the last two axes) at least 1e-2 apart,
                    because there is a kink
    kind "unit"     any number in [-1, 1], whatever the case's scale
    kind "boxes"    (..., 4): x1, y1, x2, y2 in pixels within [-3, 15], x2 - x1 and y2 - y1 at least 1/4, because a box
                    inside out is refused
    kind "rois:N"   (..., 5): the number of a sample, 0 .. N-1, then such a box
    kind "logit"    a score before the softmax, in [-8, 8], whatever the case's scale
    kind "mask"     bool, at least one True
    kind "label:K"  int64 in 0 .. K-1

A fill that means to hit the kinks (on exactly representable values) ignores the distances.

Inputs named `flows[0]`, `flows[1]`, ... are the elements of an argument `flows`, a list of arrays.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Fill = Callable[[str, tuple[int, ...], str], Any]
Args = dict[str, Any]


@dataclass(frozen=True)
class Equation:
    """One row."""

    id: str  # stem.function, the same in refimpl, ops, tests and benchmarks
    source: str
    summary: str
    reference: Callable[..., Any]
    dims: str  # the sizes that `inputs` takes, a letter each
    # inputs(fill, **sizes) -> arrays by name, in the order of the signature. Those that are keyword-only there are
    # optional: where an implementation does not take one, reference and implementation are both left to its default.
    inputs: Callable[..., Args]
    outputs: tuple[str, ...]
    degree: tuple[int, ...]  # per output: multiply all values (not the flow) by s, and it grows by s ** degree
    differentiable: tuple[str, ...]
    bench: tuple[Mapping[str, int], ...]  # sizes that the papers' networks use
    bad: tuple[tuple[Callable[[Args], Args], str], ...]  # (makes valid arguments bad, the message after `id: `)
    mutants: tuple[tuple[str, Callable[..., Any]], ...]  # plausible mistakes; the judge must reject each
    variants: tuple[Mapping[str, Any], ...] = ({},)  # keyword arguments; the first is the default
    blocks: tuple[str, ...] = ()  # names of the equal blocks of channels that the one output consists of
    interior: Callable[..., np.ndarray] | None = None  # interior(**arrays) -> mask (..., H, W); None: no border rule
    flat: tuple[str, ...] = ()  # differentiable arguments whose gradient is 0 everywhere: zeros are right there
    nonfinite: tuple[str, ...] = ()  # arguments whose NaN and infinity have a stated meaning
    # What an input's element takes the reference, in units of what it takes elsewhere: bounds the judge's large cases.
    cost: float = 1
    # dtype: (relative, absolute per unit) where the table of `cli/compare.py` does not fit; the reason stands beside it
    tolerance: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    # Whether elements are sums over all channels or pixels: in float32 and below the rounding of thousands of terms is
    # more than the tolerance, whoever adds them. Then large cases are judged in float64 only.
    long_sums: bool = False
    # Of central differences of the reference, per unit of the argument. Kinks are 1e-3 away; for f ~ 1/g at g = 1e-3 it
    # errs by 1e-8 of f'. A sum over many pixels is large, its rounding asks for more.
    step: float = 1e-7

    @functools.cached_property
    def keyword(self) -> tuple[str, ...]:
        """The keyword-only arguments of the reference."""
        parameters = inspect.signature(self.reference).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)

    def unit(self, name: str, scale: float) -> float:
        """The magnitude of argument `name` in a case of that scale."""
        kinds: dict[str, str] = {}

        def record(name: str, shape: tuple[int, ...], kind: str) -> np.ndarray:
            kinds[name] = kind
            return np.ones(shape)

        arrays = self.inputs(record, **dict.fromkeys(self.dims, 2))
        if kinds[name] == "unit":  # a row may make kernels of it that are smaller
            return float(np.abs(arrays[name]).max())
        return scale if kinds[name] in ("value", "nonzero", "distinct", "spread") else 1.0


def arguments(arrays: Mapping[str, Any]) -> Args:
    """Arguments by name from inputs by name: `flows[0]`, `flows[1]`, ... become the list `flows`."""
    found: Args = {}
    for name, array in arrays.items():
        stem, *element = name.split("[")
        found[stem] = [*found.get(stem, []), array] if element else array
    return found


def by_element(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with keywords `flows[0]`, `flows[1]`, ... in place of a list `flows`."""

    @functools.wraps(function)
    def call(*args: Any, **arrays: Any) -> Any:
        return function(*args, **arguments(arrays))

    return call


def inner(**arrays: np.ndarray) -> np.ndarray:
    """Pixels whose 3 x 3 neighbourhood is inside the map."""
    mask = np.zeros(next(iter(arrays.values())).shape[-2:], bool)
    mask[1:-1, 1:-1] = True
    return mask


def source_inside(sign: int) -> Callable[..., np.ndarray]:
    """Pixels whose source point p + sign * flow(p) lies inside the map, so that no border rule speaks."""

    def mask(*, flow: np.ndarray, **_: np.ndarray) -> np.ndarray:
        H, W = flow.shape[-2:]
        y, x = np.mgrid[:H, :W]
        qx, qy = x + sign * flow[:, 0], y + sign * flow[:, 1]
        return ((qx >= 0) & (qx <= W - 1) & (qy >= 0) & (qy <= H - 1))[:, None]

    return mask


def maps(*names: str) -> Callable[..., Args]:
    """Inputs that are all maps (N, C, H, W)."""

    def inputs(fill: Fill, N: int, C: int, H: int, W: int) -> Args:
        return {name: fill(name, (N, C, H, W), "value") for name in names}

    return inputs


def maps_and_flow(*names: str) -> Callable[..., Args]:
    """Inputs that are maps (N, C, H, W), then one flow (N, 2, H, W)."""

    def inputs(fill: Fill, N: int, C: int, H: int, W: int) -> Args:
        return maps(*names)(fill, N, C, H, W) | {"flow": fill("flow", (N, 2, H, W), "flow")}

    return inputs


def change(**change: Any) -> Callable[[Args], Args]:
    """Replace arguments; a callable value is applied to the valid argument."""
    return lambda args: args | {k: v(args[k]) if callable(v) else v for k, v in change.items()}


BAD_FLOW = (
    change(flow=lambda flow: flow[:, :1]),
    "flow: expected shape (N, 2, H, W) with N={N}, H={H}, W={W}, got ({N}, 1, {H}, {W})",
)
BAD_MAP = (
    lambda args: args | {"f": args["f"][0]},
    "f: expected shape (N, C, H, W) with sides of at least 1, got ({C}, {H}, {W})",
)
