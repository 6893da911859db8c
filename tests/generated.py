"""What the generated tests share: rows with their variants, and Hypothesis as a fill."""

import importlib
from collections.abc import Callable
from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest

from motionspec.cli.cases import HALF, rounded, spread
from motionspec.refimpl.equations import EQUATIONS, Equation

DIMS = {
    "N": st.integers(1, 2),
    "C": st.integers(1, 3),
    "S": st.integers(1, 2),
    "T": st.integers(2, 4),
    "H": st.integers(1, 6),
    "W": st.integers(1, 7),
    "K": st.integers(1, 6),
}


def each_row() -> pytest.MarkDecorator:
    """Once per row."""
    return pytest.mark.parametrize("row", EQUATIONS.values(), ids=EQUATIONS.keys())


def each_variant(*, differentiable: bool = False, batched: bool = False) -> pytest.MarkDecorator:
    """Once per row and variant; only rows that have a gradient, or a batch, if so asked."""
    pairs = [
        (row, dict(variant))
        for row in EQUATIONS.values()
        for variant in row.variants
        if (row.differentiable or not differentiable) and ("N" in row.dims or not batched)
    ]
    names = ["-".join([row.id, *map(str, variant.values())]) for row, variant in pairs]
    return pytest.mark.parametrize("row, variant", pairs, ids=names)


def batched(row: Equation) -> list[str]:
    """The arguments whose first axis is the batch."""

    def shapes(N: int) -> dict[str, tuple[int, ...]]:
        sizes = dict.fromkeys(row.dims, 2) | {"N": N}
        return {
            name: array.shape for name, array in row.inputs(lambda name, shape, kind: np.zeros(shape), **sizes).items()
        }

    return [name for name, shape in shapes(5).items() if shape != shapes(6)[name]]


def operator(row: Equation) -> Callable[..., Any]:
    """The torch operator of a row, found by its name."""
    stem, name = row.id.split(".")
    return getattr(importlib.import_module(f"motionspec.ops.{stem}"), name)


def drawn_fill(draw: Callable[..., Any], scale: float, smooth: bool, dtype: str) -> Callable[..., np.ndarray]:
    """A fill that Hypothesis draws and shrinks."""

    def fill(name: str, shape: tuple[int, ...], kind: str) -> np.ndarray:
        def array(elements: st.SearchStrategy) -> np.ndarray:
            return draw(hnp.arrays(np.float64, shape, elements=elements, fill=st.nothing()))

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
        if kind == "grey":
            # Differences, like the numbers of kind "unit", are 0 or well away from it: |x| has a kink there.
            grey = st.integers(0, 255 * 16).map(lambda k: k / 16) if smooth else st.integers(0, 255).map(float)
            return rounded(array(grey), dtype)
        if kind == "parameter":
            return rounded(array(st.floats(0.1, 0.6)), dtype)
        if not smooth:
            value = array(st.integers(-4, 4).map(lambda k: k / 4))
        elif kind == "unit":
            value = array(st.integers(-64, 64).map(lambda k: k / 64))
        elif kind == "nonzero":
            value = array(st.floats(1e-3, 1.0) | st.floats(-1.0, -1e-3))
        else:
            value = array(st.floats(-1.0, 1.0, allow_subnormal=False))
            value = spread(value) if kind == "spread" else value
        return rounded(value if kind == "unit" else scale * value, dtype)

    return fill


@st.composite
def inputs(draw: Any, row: Equation, dtype: str, smooth: bool | None = None) -> tuple[dict[str, np.ndarray], float]:
    """Valid inputs of a row as float64 arrays that hold values of `dtype`, and their scale: large, 1 or tiny."""
    scale = 2.0 ** draw(st.sampled_from([0, -3, 3] if dtype in HALF else [0, -20, 20]))
    smooth = draw(st.booleans()) if smooth is None else smooth
    sizes = {dim: draw(DIMS[dim]) for dim in row.dims}
    return row.inputs(drawn_fill(draw, scale, smooth, dtype), **sizes), scale
