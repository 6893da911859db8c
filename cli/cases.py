"""The inputs an implementation is judged on: reproducible byte for byte from (equation, number, seed)."""

import zlib
from typing import Any

import numpy as np

from motionspec.refimpl.equations import EQUATIONS

DTYPES = ("float64", "float32", "bfloat16", "float16")
HALF = ("bfloat16", "float16")

# From the smallest up; 1, odd and non-square sides. S stands beside C where an equation has two channel counts, K is a
# number of classes, P and Q are the radii of a window down and across, R is a number of boxes.
SIZES = (
    {"N": 1, "S": 1, "C": 1, "T": 2, "H": 1, "W": 1, "K": 1, "P": 1, "Q": 1, "R": 1},
    {"N": 1, "S": 1, "C": 1, "T": 2, "H": 1, "W": 3, "K": 2, "P": 0, "Q": 1, "R": 2},
    {"N": 1, "S": 2, "C": 1, "T": 3, "H": 4, "W": 1, "K": 1, "P": 1, "Q": 0, "R": 3},
    {"N": 2, "S": 1, "C": 1, "T": 2, "H": 2, "W": 3, "K": 2, "P": 1, "Q": 2, "R": 1},
    {"N": 1, "S": 1, "C": 2, "T": 3, "H": 3, "W": 2, "K": 5, "P": 1, "Q": 1, "R": 4},
    {"N": 1, "S": 1, "C": 1, "T": 2, "H": 5, "W": 7, "K": 3, "P": 1, "Q": 1, "R": 6},
    {"N": 1, "S": 3, "C": 2, "T": 2, "H": 6, "W": 5, "K": 4, "P": 2, "Q": 1, "R": 5},
    {"N": 2, "S": 1, "C": 2, "T": 2, "H": 7, "W": 4, "K": 6, "P": 1, "Q": 2, "R": 2},
    {"N": 2, "S": 2, "C": 3, "T": 4, "H": 5, "W": 6, "K": 3, "P": 1, "Q": 2, "R": 8},
    {"N": 1, "S": 2, "C": 3, "T": 3, "H": 9, "W": 11, "K": 7, "P": 2, "Q": 1, "R": 7},
)
SCALES = (1.0, 2.0**-10, 2.0**10)


def scale(k: int) -> float:
    """The magnitude of the values in case number k."""
    return SCALES[k // 2 % len(SCALES)]


def is_smooth(k: int) -> bool:
    """Whether case number k stays 1e-3 away from every kink; the others lie on a coarse lattice that contains them."""
    return k % 2 == 0


def sizes(k: int) -> dict[str, int]:
    """The array sizes of case number k."""
    return SIZES[k % len(SIZES)]


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """The nearest values that `dtype` can hold, as float64."""
    if dtype == "bfloat16":  # NumPy has none: round float32's upper half, ties to even
        bits = np.array(array, np.float32, order="C").view(np.uint32)
        bits = bits + 0x7FFF + ((bits >> 16) & 1)
        return np.asarray((bits & 0xFFFF0000).astype(np.uint32).view(np.float32), np.float64)
    with np.errstate(over="ignore"):
        return np.asarray(array.astype(dtype), np.float64)


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
        whole = np.floor(self._uniform(shape) * 2 * reach) - reach
        fraction = self._uniform(shape)
        if not self.smooth:
            return whole + np.floor(2 * fraction) / 2
        if self.dtype in HALF:  # 1/16 to 15/16: exact in 8 bits next to a whole part below 8
            return whole + (1 + np.floor(15 * fraction)) / 16
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
            value = apart(value, 3)
        elif kind == "nonzero":
            margin = 1 / 16 if self.dtype in HALF else 1e-3  # 1/g^2 at g = 1e-3 would leave float16's range
            value = np.copysign(margin + (1 - margin) * np.abs(value), value)
        return rounded((8 if kind == "logit" else self.scale) * value, self.dtype)


def exact_case(equation: str, k: int, *, seed: int = 0, dtype: str = "float64") -> dict[str, np.ndarray]:
    """Inputs number k as float64 arrays that hold values of `dtype`: what the oracle gets."""
    row = EQUATIONS[equation]
    fill = SeededFill((seed, zlib.crc32(equation.encode()), k), scale(k), is_smooth(k), dtype)
    return row.inputs(fill, **{dim: sizes(k)[dim] for dim in row.dims})


def case(
    equation: str, k: int, *, seed: int = 0, dtype: str = "float64", framework: str = "numpy", device: str = "cpu"
) -> dict[str, Any]:
    """Inputs number k of an equation, by argument name, as `motionspec check` hands them to an implementation.

    `list(case("warp.bilinear", 3).values())` are the positional arguments. Raises KeyError for an unknown equation.
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
