"""What the generated tests share: rows with their variants, and Hypothesis as a fill."""

import importlib
from collections.abc import Callable
from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest

from motionspec.cli.cases import HALF, apart, boxes, is_large, is_smooth, rounded, scale, sizes, spread
from motionspec.refimpl.equations import EQUATIONS, Equation
from motionspec.refimpl.row import by_element

DIMS = {
    "N": st.integers(1, 2),
    "C": st.integers(1, 3),
    "S": st.integers(1, 2),
    "T": st.integers(2, 4),
    "H": st.integers(1, 6),
    "W": st.integers(1, 7),
    "K": st.integers(1, 6),
    "P": st.integers(0, 1),
    "Q": st.integers(0, 2),
    "R": st.integers(1, 5),
}

# Sizes beyond what Hypothesis draws, where a kernel's blocks, bands and threads begin to count. Each is ragged: no side
# is a multiple of 4, so every block, vector and tile has a rest. What each is the only one to reach is said with it.
LARGE: dict[str, dict[str, int]] = {
    # A row longer than any block of columns: 2048 elements of `off`, 256 of a median, 128 of `warp` and of Triton.
    "wide": {"N": 1, "C": 2, "T": 2, "H": 5, "W": 2063},
    # More rows than one program or thread takes, and a width below every vector's.
    "tall": {"N": 1, "C": 2, "T": 2, "H": 1031, "W": 3},
    # More channels than 16 parts of 8 lanes have, and than any block of channels holds.
    "deep": {"N": 1, "C": 523, "T": 2, "H": 3, "W": 7},
    # A plane of more than 2^16 pixels: three bands of `off`, seventeen blocks of end-point errors.
    "plane": {"N": 1, "C": 1, "T": 2, "H": 397, "W": 173},
    # Samples, channels and frames together, in 27 maps that are too large to go eight at a time.
    "clips": {"N": 3, "C": 9, "T": 5, "H": 41, "W": 67},
    # More samples and frames than threads, so that a thread's share begins within one sample and ends in another; small
    # maps go eight at a time, and of 37 five are left over.
    "many": {"N": 37, "C": 1, "T": 17, "H": 7, "W": 13},
    # Small maps that are long: eight at a time beyond 512 columns, and beyond 512 rows.
    "strips": {"N": 3, "C": 3, "T": 3, "H": 3, "W": 613},
    "columns": {"N": 3, "C": 3, "T": 3, "H": 613, "W": 3},
    # All sides at once beyond a tile and 128 channels: what goes wrong only where two of them are large.
    "box": {"N": 2, "C": 131, "T": 3, "H": 11, "W": 101},
}


def each_row() -> pytest.MarkDecorator:
    """Once per row."""
    return pytest.mark.parametrize("row", EQUATIONS.values(), ids=EQUATIONS.keys())


def each_variant(
    *, differentiable: bool = False, batched: bool = False, stems: tuple[str, ...] = ()
) -> pytest.MarkDecorator:
    """Once per row and variant; only rows that have a gradient, or a batch, or of these stems, if so asked."""
    pairs = [
        (row, {name: as_read(value) for name, value in variant.items()})
        for row in EQUATIONS.values()
        for variant in row.variants
        if (row.differentiable or not differentiable) and ("N" in row.dims or not batched)
        if not stems or row.id.split(".")[0] in stems
    ]
    names = ["-".join([row.id, *map(str, variant.values())]) for row, variant in pairs]
    return pytest.mark.parametrize("row, variant", pairs, ids=names)


def as_read(value: Any) -> Any:
    """A word as a new object, as it comes out of a file: an implementation that compares with `is` does not know it."""
    return "".join(list(value)) if isinstance(value, str) else value


def batched(row: Equation) -> list[str]:
    """The arguments whose first axis is the batch."""
    return [name for name, axes in dims_of(row).items() if axes and "N" in axes[0]]


def dims_of(row: Equation) -> dict[str, list[str]]:
    """Per argument and axis, the dims that this size of it depends on."""

    def shapes(**change: int) -> dict[str, tuple[int, ...]]:
        sizes = dict.fromkeys(row.dims, 5) | change
        return {
            name: array.shape for name, array in row.inputs(lambda name, shape, kind: np.zeros(shape), **sizes).items()
        }

    other = {dim: shapes(**{dim: 6}) for dim in row.dims}
    return {
        name: ["".join(dim for dim in row.dims if other[dim][name][axis] != size) for axis, size in enumerate(shape)]
        for name, shape in shapes().items()
    }


def smooth_case(H: int, W: int) -> int:
    """The number of the first case of maps of that size that lies away from kinks and has values of magnitude 1."""
    row = EQUATIONS["warp.bilinear"]
    numbers = (k for k in range(1000) if is_smooth(k) and scale(k) == 1 and not is_large(k))
    return next(k for k in numbers if (sizes(row, k, 0)["H"], sizes(row, k, 0)["W"]) == (H, W))


def operator(row: Equation) -> Callable[..., Any]:
    """The torch operator of a row, found by its name."""
    stem, name = row.id.split(".")
    return by_element(getattr(importlib.import_module(f"motionspec.ops.{stem}"), name))


def drawn_fill(draw: Callable[..., Any], scale: float, smooth: bool, dtype: str) -> Callable[..., np.ndarray]:
    """A fill that Hypothesis draws and shrinks."""

    def fill(name: str, shape: tuple[int, ...], kind: str) -> np.ndarray:
        def array(elements: st.SearchStrategy) -> np.ndarray:
            few = np.prod(shape) <= 1100  # of more than Hypothesis can draw, most elements are equal
            return draw(hnp.arrays(np.float64, shape, elements=elements, fill=st.nothing() if few else elements))

        if kind == "flow":
            whole = array(st.integers(-5, 5).map(float))
            if not smooth:
                return whole + array(st.sampled_from([0.0, 0.5]))
            if dtype in HALF:
                return whole + array(st.integers(1, 15).map(lambda k: k / 16))
            return whole + array(st.floats(1e-3, 1 - 1e-3))
        if kind == "mask":
            mask = draw(hnp.arrays(bool, shape))
            mask.flat[0] |= not mask.any()
            return mask
        if kind.startswith("label:"):
            return draw(hnp.arrays(np.int64, shape, elements=st.integers(0, int(kind[6:]) - 1)))
        if kind == "boxes" or kind.startswith("rois:"):
            values = array(st.floats(0.0, 1.0, exclude_max=True))
            values[..., :-4] = np.floor(values[..., :-4] * int(kind[5:] or 0))
            return rounded(boxes(values, smooth), dtype)
        if kind == "unit":
            # Differences are 0 or well away from it: |x| has a kink there.
            unit = st.integers(-64, 64).map(lambda k: k / 64) if smooth else st.integers(-4, 4).map(lambda k: k / 4)
            return rounded(array(unit), dtype)
        if kind == "grey":
            grey = st.integers(0, 255 * 16).map(lambda k: k / 16) if smooth else st.integers(0, 255).map(float)
            return rounded(array(grey), dtype)
        if kind == "parameter":
            return rounded(array(st.floats(0.1, 0.6)), dtype)
        if kind == "score":
            value = apart(array(st.floats(-1.0, 1.0)), 2) if smooth else array(st.integers(-4, 4).map(lambda k: k / 4))
            return rounded(value, dtype)
        if not smooth:
            value = array(st.integers(-4, 4).map(lambda k: k / 4))
        elif kind == "distinct":
            value = apart(array(st.floats(-1.0, 1.0)), 3)
        elif kind == "nonzero":
            value = array(st.floats(1e-3, 1.0) | st.floats(-1.0, -1e-3))
        else:
            value = array(st.floats(-1.0, 1.0, allow_subnormal=False))
            value = spread(value) if kind == "spread" else value
        return rounded((8 if kind == "logit" else scale) * value, dtype)

    return fill


@st.composite
def inputs(draw: Any, row: Equation, dtype: str, smooth: bool | None = None) -> tuple[dict[str, np.ndarray], float]:
    """Valid inputs of a row as float64 arrays that hold values of `dtype`, and their scale: large, 1 or tiny."""
    scale = 2.0 ** draw(st.sampled_from([0, -3, 3] if dtype in HALF else [0, -20, 20]))
    smooth = draw(st.booleans()) if smooth is None else smooth
    sizes = {dim: draw(DIMS[dim]) for dim in row.dims}
    return row.inputs(drawn_fill(draw, scale, smooth, dtype), **sizes), scale
