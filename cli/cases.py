"""The inputs an implementation is judged on: reproducible byte for byte from (equation, number, seed)."""

import functools
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from motionspec.refimpl.equations import EQUATIONS, Equation

DTYPES = ("float64", "float32", "bfloat16", "float16")
HALF = ("bfloat16", "float16")

# The sizes of small cases: sides of 1, even and odd ones in each combination, more down than across and the reverse, a
# square. N, C, H and W are 1 or above it in all sixteen combinations. S stands beside C where an equation has two
# channel counts, K is a number of classes, P and Q are the radii of a window down and across, R is a number of boxes.
# The first case tells most, because some users ask for one only.
TABLES = (
    (
        {"N": 2, "S": 2, "C": 3, "T": 4, "H": 5, "W": 6, "K": 3, "P": 1, "Q": 2, "R": 8},
        {"N": 1, "S": 1, "C": 1, "T": 2, "H": 1, "W": 3, "K": 2, "P": 0, "Q": 1, "R": 2},
        {"N": 1, "S": 2, "C": 1, "T": 3, "H": 4, "W": 1, "K": 1, "P": 1, "Q": 0, "R": 3},
        {"N": 2, "S": 1, "C": 1, "T": 2, "H": 2, "W": 3, "K": 2, "P": 1, "Q": 2, "R": 1},
        {"N": 1, "S": 1, "C": 2, "T": 3, "H": 3, "W": 3, "K": 5, "P": 1, "Q": 1, "R": 4},
        {"N": 1, "S": 1, "C": 1, "T": 2, "H": 5, "W": 7, "K": 3, "P": 1, "Q": 1, "R": 6},
        {"N": 1, "S": 3, "C": 2, "T": 2, "H": 6, "W": 5, "K": 4, "P": 2, "Q": 1, "R": 5},
        {"N": 2, "S": 1, "C": 2, "T": 2, "H": 7, "W": 4, "K": 6, "P": 1, "Q": 2, "R": 2},
        {"N": 1, "S": 1, "C": 1, "T": 2, "H": 1, "W": 1, "K": 1, "P": 1, "Q": 1, "R": 1},
        {"N": 1, "S": 2, "C": 3, "T": 3, "H": 9, "W": 11, "K": 7, "P": 2, "Q": 1, "R": 7},
    ),
    (
        {"N": 2, "S": 1, "C": 1, "T": 3, "H": 8, "W": 6, "K": 6, "P": 1, "Q": 1, "R": 5},
        {"N": 1, "S": 2, "C": 2, "T": 4, "H": 1, "W": 1, "K": 3, "P": 0, "Q": 0, "R": 4},
        {"N": 1, "S": 3, "C": 3, "T": 2, "H": 1, "W": 8, "K": 1, "P": 0, "Q": 2, "R": 3},
        {"N": 1, "S": 1, "C": 2, "T": 3, "H": 7, "W": 1, "K": 4, "P": 2, "Q": 0, "R": 1},
        {"N": 2, "S": 2, "C": 1, "T": 3, "H": 1, "W": 1, "K": 2, "P": 1, "Q": 1, "R": 6},
        {"N": 2, "S": 1, "C": 1, "T": 4, "H": 1, "W": 5, "K": 5, "P": 0, "Q": 1, "R": 2},
        {"N": 2, "S": 3, "C": 1, "T": 2, "H": 6, "W": 1, "K": 7, "P": 2, "Q": 0, "R": 7},
        {"N": 2, "S": 1, "C": 3, "T": 2, "H": 1, "W": 1, "K": 1, "P": 0, "Q": 1, "R": 1},
        {"N": 2, "S": 2, "C": 2, "T": 3, "H": 1, "W": 10, "K": 3, "P": 1, "Q": 2, "R": 8},
        {"N": 2, "S": 3, "C": 3, "T": 4, "H": 9, "W": 1, "K": 2, "P": 2, "Q": 1, "R": 4},
    ),
)
# The sizes of large cases, from and to; the seed draws them. Kernels tile, so one kind has long rows, one has many rows
# and channels, one has both sides long, and one has a little of everything.
LARGE = (
    {"N": (1, 3), "S": (1, 3), "C": (1, 3), "T": (2, 4), "H": (1, 3), "W": (257, 300), "K": (101, 140)},
    {"N": (1, 2), "S": (65, 99), "C": (65, 99), "T": (5, 9), "H": (33, 70), "W": (1, 3), "K": (5, 9)},
    {"N": (1, 2), "S": (1, 3), "C": (1, 2), "T": (2, 3), "H": (33, 41), "W": (129, 141), "K": (2, 4)},
    {"N": (3, 5), "S": (4, 9), "C": (4, 9), "T": (5, 9), "H": (10, 17), "W": (12, 33), "K": (8, 12)},
)
LEADING = ("WKR", "SCR", "HWR", "")  # the sizes that each kind is for
LARGE_WINDOWS = (
    {"P": (0, 1), "Q": (3, 5), "R": (33, 70)},
    {"P": (3, 5), "Q": (0, 1), "R": (129, 160)},
    {"P": (0, 1), "Q": (1, 2), "R": (1, 3)},
    {"P": (3, 4), "Q": (3, 4), "R": (9, 20)},
)
# Elements of all inputs of a large case at most, where an element is cheap: the oracle loops over pixels in Python, and
# takes 0.1 s.
BOUND = 2**14
SCALES = (1.0, 2.0**-10, 2.0**10)
DEFAULT_CASES = 48  # each small size and each kind of large size off the lattice and on it
MOST_CASES = 100_000  # numbers from 0 to below it

# Every sixth case is large. Let s be the place in a table, t the table and r how often all tables came before.
# They count independently. Smoothness and scale follow from s + t + r modulo 2 and 3. So each size comes smooth and on
# the lattice in two rounds, and in six rounds so with every scale. Large cases count in the same way.
_PERIOD = 6


def is_large(k: int) -> bool:
    """Whether case number k is one of the large ones."""
    return k % _PERIOD == _PERIOD - 1


def is_asked(row: Equation, k: int, dtype: str) -> bool:
    """Whether case number k is judged in this type: of long sums the large ones are in float64 only."""
    return dtype == "float64" or not (row.long_sums and is_large(k))


def _turn(k: int) -> int:
    """The counter that smoothness and scale follow from."""
    if is_large(k):
        pass_, kind = divmod(k // _PERIOD, len(LARGE))
        return 4 * kind + pass_
    round_, place = divmod(k - k // _PERIOD, 10 * len(TABLES))
    return place // 10 + place % 10 + round_


def is_smooth(k: int) -> bool:
    """Whether case number k stays 1e-3 away from every kink; the others lie on a coarse lattice that contains them."""
    return _turn(k) % 2 == 0


def scale(k: int, dtype: str = "float64") -> float:
    """The magnitude of the values in case number k.

    In half precision it is 1 in smooth cases: of values far from 1 the gradients would leave the range.
    """
    return 1.0 if dtype in HALF and is_smooth(k) else SCALES[_turn(k) % len(SCALES)]


def sizes(row: Equation, k: int, seed: int, bound: int = BOUND) -> dict[str, int]:
    """The array sizes of case number k of an equation, in the order of its dims."""
    if is_large(k):
        return dict(_large_sizes(row.id, k, seed, bound))
    place = (k - k // _PERIOD) % (10 * len(TABLES))
    entry = TABLES[place // 10][place % 10]
    return {dim: entry[dim] for dim in row.dims}


@functools.lru_cache(4096)
def _large_sizes(equation: str, k: int, seed: int, bound: int) -> tuple[tuple[str, int], ...]:
    """Drawn from the seed, then made smaller until the inputs keep to the bound."""
    row, kind = EQUATIONS[equation], k // _PERIOD % len(LARGE)
    ranges = LARGE[kind] | LARGE_WINDOWS[kind]
    if "H" not in row.dims:  # samples take the place of pixels
        ranges = ranges | {"N": ranges["W"]}
    draw = np.random.PCG64((seed, zlib.crc32(equation.encode()), k, 2))
    found = {}
    for dim in row.dims:
        low, high = ranges[dim]
        found[dim] = low + int(draw.random_raw()) % (high - low + 1)
    for dim, side in (("P", "H"), ("Q", "W")):  # a window is no wider than its map
        if dim in found and side in found:
            found[dim] = min(found[dim], max(found[side] // 2, 1))
    for dim in row.dims:
        if _cost(row, found) > bound:
            found[dim] = min(found[dim], ranges[dim][0])
    for dims in (set(row.dims) - set(LEADING[kind]), set(row.dims)):
        found = _halved(row, found, dims, bound)
    return tuple(found.items())


def _halved(row: Equation, sizes: dict[str, int], dims: Iterable[str], bound: int) -> dict[str, int]:
    """Sizes whose inputs keep to the bound if these dims allow it: the largest is halved again and again.

    None is made as small as in small cases.
    """
    least = {dim: 1 + max(entry[dim] for table in TABLES for entry in table) for dim in row.dims}
    while _cost(row, sizes) > bound:
        halves = {dim: max(sizes[dim] // 2, least[dim]) for dim in sorted(dims) if sizes[dim] > least[dim]}
        if not halves:
            break
        dim = max(halves, key=lambda dim: sizes[dim] / least[dim])
        sizes = sizes | {dim: halves[dim]}
    return sizes


def _cost(row: Equation, sizes: dict[str, int]) -> int:
    """What the oracle takes for inputs of these sizes, in elements that are cheap."""
    arrays = row.inputs(lambda name, shape, kind: np.zeros(shape), **sizes)
    return round(row.cost * sum(array.size for array in arrays.values()))


def tells(wants: Iterable[np.ndarray]) -> bool:
    """Whether the expected values tell a right implementation from one that returns zeros."""
    return any(np.any(want != 0) for want in wants)


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """The nearest values that `dtype` can hold, as float64."""
    if dtype == "bfloat16":  # NumPy has none: round float32's upper half, ties to even
        bits = np.array(array, np.float32, order="C").view(np.uint32)
        bits = bits + 0x7FFF + ((bits >> 16) & 1)
        return np.asarray((bits & 0xFFFF0000).astype(np.uint32).view(np.float32), np.float64)
    with np.errstate(over="ignore"):
        return np.asarray(array.astype(dtype), np.float64)


def in_range(want: np.ndarray, dtype: str) -> np.ndarray:
    """What is expected in `dtype`: infinity where float16, the one type of a narrow range, rounds to it."""
    if dtype != "float16" or want.dtype != np.float64:
        return want
    return np.where(np.abs(want) >= 65520, np.copysign(np.inf, want), want)


def spread(values: np.ndarray) -> np.ndarray:
    """Values in [-1, 1], of each sample only one at -1 and one at 1, the others 1/4 away from them."""
    flat = 0.75 * values.reshape(len(values), -1)
    for sample in flat:
        sample[np.argmin(sample)], sample[np.argmax(sample)] = -1, 1
    return flat.reshape(values.shape)


def apart(values: np.ndarray, axes: int) -> np.ndarray:
    """Values in the order of `values` in [-1, 1]; the K along the last `axes` axes lie at least 2/K from each other."""
    K = int(np.prod(values.shape[-axes:]))
    flat = values.reshape(*values.shape[:-axes], K)
    rank = np.argsort(np.argsort(flat, kind="stable"), kind="stable")
    return ((2 * rank + 1 + flat / 2) / K - 1).reshape(values.shape)


def _one_stays(flow: np.ndarray) -> np.ndarray:
    """The flow; the first pixel of each sample stays where it is, for on a map of one pixel all others leave it."""
    flow[(slice(None), slice(None)) + (0,) * (flow.ndim - 2)] = 0
    return flow


# Two elements within these distances are never alike in `apart_nearby`: a clip's frames, and windows up to 4 x 4.
_NEARBY = (9, 4, 4)


def apart_nearby(values: np.ndarray) -> np.ndarray:
    """As `apart` on the last three axes, but only elements that a window can hold are told apart.

    The numbers of half precision do not suffice for all of a large clip.
    """
    tile = tuple(min(size, near) for size, near in zip(values.shape[-3:], _NEARBY, strict=True))
    K = int(np.prod(tile))
    first = values[..., : tile[0], : tile[1], : tile[2]].reshape(*values.shape[:-3], K)
    rank = np.argsort(np.argsort(first, kind="stable"), kind="stable").reshape(*values.shape[:-3], *tile)
    place = np.ix_(*(np.arange(size) % near for size, near in zip(values.shape[-3:], tile, strict=True)))
    return np.asarray((2 * rank[..., *place] + 1 + values / 2) / K - 1)


def boxes(values: np.ndarray, smooth: bool) -> np.ndarray:
    """Boxes, or regions with the number of their sample in front, from values in [0, 1); not smooth: on halves."""
    number, corner, extent = np.split(values, (values.shape[-1] - 4, values.shape[-1] - 2), axis=-1)
    corner, extent = 12 * corner - 3, 1 / 4 + 23 / 4 * extent
    if not smooth:
        corner, extent = np.round(2 * corner) / 2, np.round(2 * extent - 1 / 2) / 2
    return np.concatenate([number, corner, corner + extent], axis=-1)


class SeededFill:
    """A `fill` for `Equation.inputs` from raw PCG64 output: NumPy keeps that stream for good, not its distributions."""

    def __init__(self, key: tuple[int, ...], scale: float, smooth: bool, dtype: str):
        self.bits, self.scale, self.smooth, self.dtype = np.random.PCG64(key), scale, smooth, dtype

    def _uniform(self, shape: tuple[int, ...]) -> np.ndarray:
        """Uniform in [0, 1)."""
        raw = np.asarray(self.bits.random_raw(int(np.prod(shape))), np.uint64)
        return ((raw >> np.uint64(11)) * 2.0**-53).reshape(shape)

    def _flow(self, shape: tuple[int, ...]) -> np.ndarray:
        """Displacements of up to about half the map, so that some leave it and most do not."""
        reach = np.array([shape[-1], shape[-2]]).reshape((1, 2) + (1,) * (len(shape) - 2)) // 2 + 1
        if self.smooth and self.dtype in HALF:
            reach = np.minimum(reach, 8)
        whole = np.floor(self._uniform(shape) * 2 * reach) - reach
        fraction = self._uniform(shape)
        if not self.smooth:
            return _one_stays(whole + np.floor(2 * fraction) / 2)
        if self.dtype in HALF:  # 1/16 to 15/16: exact in 8 bits next to a whole part below 8
            return whole + (1 + np.floor(15 * fraction)) / 16
        if max(shape[-2:]) > 16:  # in steps of 2^-10: p + flow is exact in float32, whoever computes it
            return whole + (2 + np.floor(1021 * fraction)) / 1024
        return whole + 1e-3 + (1 - 2e-3) * fraction

    def __call__(self, name: str, shape: tuple[int, ...], kind: str) -> np.ndarray:
        if kind == "flow":
            return rounded(self._flow(shape), self.dtype)
        if kind == "mask":
            mask = self._uniform(shape) < 0.75
            mask.flat[0] |= not mask.any()
            return mask
        if kind.startswith("label:"):
            return np.floor(self._uniform(shape) * int(kind[6:])).astype(np.int64)
        if kind == "boxes" or kind.startswith("rois:"):
            values = self._uniform(shape)
            values[..., :-4] = np.floor(values[..., :-4] * int(kind[5:] or 0))
            return rounded(boxes(values, self.smooth), self.dtype)
        if kind == "grey":
            value = 255 * self._uniform(shape)
            return rounded(value if self.smooth else np.round(value), self.dtype)
        if kind == "parameter":
            return rounded(0.1 + 0.5 * self._uniform(shape), self.dtype)
        value = 2 * self._uniform(shape) - 1
        if kind == "score" and self.smooth:
            return rounded(apart(value, 2), self.dtype)
        if kind == "score":  # ties; and, where half precision would see one more, some that are none by 2**-12
            lattice = np.round(4 * value) / 4
            return lattice if self.dtype in HALF else lattice + 2.0**-12 * (value > lattice)
        if kind == "unit":
            return rounded(value if self.smooth else np.round(4 * value) / 4, self.dtype)
        if not self.smooth:
            value = np.round(4 * value) / 4
        elif kind == "spread":
            value = spread(value)
        elif kind == "distinct":
            few = self.dtype not in HALF or np.prod(shape[-3:]) <= 128
            value = apart(value, 3) if few else apart_nearby(value)
        elif kind == "nonzero":
            margin = 1 / 16 if self.dtype in HALF else 1e-3  # 1/g^2 at g = 1e-3 would leave float16's range
            value = np.copysign(margin + (1 - margin) * np.abs(value), value)
        return rounded((8 if kind == "logit" else self.scale) * value, self.dtype)


def exact_case(
    equation: str, k: int, *, seed: int = 0, dtype: str = "float64", bound: int = BOUND
) -> dict[str, np.ndarray]:
    """Inputs number k as float64 arrays that hold values of `dtype`: what the oracle gets."""
    row = EQUATIONS[equation]
    fill = SeededFill((seed, zlib.crc32(equation.encode()), k), scale(k, dtype), is_smooth(k), dtype)
    return row.inputs(fill, **sizes(row, k, seed, bound))


def case(
    equation: str, k: int, *, seed: int = 0, dtype: str = "float64", framework: str = "numpy", device: str = "cpu"
) -> dict[str, Any]:
    """Inputs number k of an equation, by argument name, as `motionspec check` hands them to an implementation.

    `list(case("warp.bilinear", 3).values())` are the positional arguments. `motionspec.case` checks its arguments.
    """
    return convert(exact_case(equation, k, seed=seed, dtype=dtype), dtype=dtype, framework=framework, device=device)


def convert(arrays: dict[str, np.ndarray], *, dtype: str, framework: str, device: str) -> dict[str, Any]:
    """Fresh, contiguous NumPy arrays or torch tensors of `dtype` from float64 arrays; masks and labels keep theirs."""
    if framework == "numpy":
        return {
            name: np.array(array, dtype if np.issubdtype(array.dtype, np.floating) else array.dtype, order="C")
            for name, array in arrays.items()
        }
    import torch

    floating = getattr(torch, dtype)
    return {
        name: torch.tensor(array, dtype=floating if np.issubdtype(array.dtype, np.floating) else None, device=device)
        for name, array in arrays.items()
    }
