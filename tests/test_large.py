"""Fused operators at sizes beyond their blocks, bands and threads' shares, against eager PyTorch in float64.

The generated tests draw sides of up to 7, and a kernel that is wrong for W > 70 passes all of them. Here every variant
meets every size of `generated.LARGE`, in both layouts, in both types that kernels compute in, in three threads' shares.
Triton's kernels do too, in its interpreter, where the process asks for it: `TRITON_INTERPRET=1 pytest
tests/test_large.py`, for a long while.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import prod
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from generated import LARGE, operator  # noqa: E402
from test_equations import as_list, channels_last, tensors  # noqa: E402
from test_kernels import IMPL, ROWS, kernel, without_eager  # noqa: E402

from motionspec.cli.cases import SeededFill  # noqa: E402
from motionspec.refimpl.equations import Equation  # noqa: E402


@dataclass(frozen=True)
class Case:
    """A variant of a row, with the sizes and types that it is tried in."""

    row: Equation
    variant: dict[str, Any]
    sizes: Iterable[str] = tuple(LARGE)
    dtypes: Iterable[str] = ("float64", "float32")

    def __str__(self) -> str:
        return "-".join([self.row.id, *map(str, self.variant.values())])


# Options that have sizes of their own: windows wider than a vector, more iterations than backward keeps states of,
# medians of each kind. Windows of the largest maps are left out because eager PyTorch would keep gigabytes for them.
# Many iterations are left to float64: they carry a pixel that lies at a kink to the other side of it in float32.
FEW = ("wide", "tall", "deep", "many", "strips")
PYRAMID = {"n_scales": 3, "scale": 0.6, "n_warps": 2}
MORE = {
    "tvl1.representation_flow": [
        {"variant": {"scheme": scheme, "n_iter": 23}, "sizes": (*FEW, "plane"), "dtypes": ["float64"]}
        for scheme in ("classic", "released")
    ],
    "tvl1.pyramid_flow": [
        {"variant": PYRAMID | {"n_iter": 31, "median": 5}},
        {"variant": PYRAMID | {"n_iter": 3, "median": 7}},
        {"variant": PYRAMID | {"n_iter": 31, "median": 1, "tolerance": 0.1}},
    ],
    "costvol.displacement_map": [
        {"variant": {"radius": (12, 4), "tau": 0.2, "border": "zero"}, "sizes": FEW},
        {"variant": {"radius": (3, 12), "tau": 0.1, "border": "exclude"}, "sizes": FEW},
    ],
}
CASES = [
    Case(row, **options)
    for row in ROWS
    for options in [*({"variant": dict(variant)} for variant in row.variants), *MORE.get(row.id, [])]
]


@pytest.fixture
def shares(monkeypatch):
    """The numbers of threads that kernels by numba shared their work among: three, where there is enough of it.

    One thread computes the shares in turn, because teams wait for each other where others use the cores too;
    tests/test_numba.py has real teams.
    """
    used = set()
    if IMPL == "numba":
        from motionspec.ops import compiled

        def in_turn(one, threads):
            used.add(threads)
            for k in range(threads):
                one(k)

        monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
        monkeypatch.setattr(compiled, "_in_team", in_turn)
    return used


def inputs(row, size):
    """Arguments of that size that float32 holds; those with a mask also without it."""
    fill = SeededFill((0,), 1.0, True, "float32")
    arrays = without_eager(row, row.inputs(fill, **{dim: size[dim] for dim in row.dims}))
    yield arrays
    if "mask" in arrays:
        yield {name: array for name, array in arrays.items() if name != "mask"}


def values_and_gradients(function, row, arguments):
    """Under random cotangents that are the same for every type, and lie as the values do."""
    wanted = [arguments[name].requires_grad_() for name in row.differentiable]
    values = as_list(function(**arguments))
    if not wanted:
        return values
    random = torch.Generator().manual_seed(0)
    weights = [torch.empty_like(v).copy_(torch.randn(v.shape, generator=random, dtype=torch.float64)) for v in values]
    return [*values, *torch.autograd.grad(values, wanted, weights)]


def names_of(row):
    return [*row.outputs, *(f"gradient of {name}" for name in row.differentiable)]


def tolerance(row, dtype, name):
    """Beside the largest element. A wrong tail or block is off by far more, in float32 too."""
    if dtype == "float64":
        return 1e-10
    if row.id == "tvl1.pyramid_flow":  # it warps by what it found
        return 1e-4
    if row.id == "tvl1.representation_flow" and name.startswith("gradient"):
        # Of so many pixels one lies so close to a kink that float32 takes the derivative on its other side.
        return 1e-2
    return 1e-5


def offsets(case, name):
    """The largest offset whose weighted mean a displacement is: rounding is of its size, also where they cancel."""
    return float(np.max(case.variant["radius"])) if name in case.row.outputs and "radius" in case.variant else 0.0


def worst(got, want, tolerance, least=0.0):
    """What the element that is furthest off is off by; nothing where all are close enough beside the largest one.

    least: the least that the largest one counts as.
    """
    error = (got.detach().double() - want.detach()).abs()
    limit = tolerance * max(float(want.detach().abs().max()), least)
    if error.max() <= limit:  # not where it is NaN
        return None
    place = tuple(map(int, np.unravel_index(int(error.argmax()), error.shape)))
    return f"error {error.max():.2g} > {limit:.2g} at {place}, {int((error > limit).sum())} such elements"


def differences(case, arrays):
    """What differs from eager float64, of values and gradients in each type and layout."""
    row, variant = case.row, case.variant
    want = values_and_gradients(partial(operator(row), impl="torch", **variant), row, tensors(arrays))
    for dtype, layout in product(case.dtypes, (torch.clone, channels_last)):
        arguments = {name: layout(value) for name, value in tensors(arrays, dtype).items()}
        got = values_and_gradients(partial(kernel(row), **variant), row, arguments)
        for name, a, b in zip(names_of(row), got, want, strict=True):
            found = worst(a, b, tolerance(row, dtype, name), offsets(case, name))
            if found:
                yield f"{dtype}, {layout.__name__}: {name}: {found}"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_eager_float64(case, shares):
    found = [
        f"{size}, {difference}"
        for size in case.sizes
        for arrays in inputs(case.row, LARGE[size])
        for difference in differences(case, arrays)
    ]
    assert not found, "\n".join(found)
    assert IMPL != "numba" or max(shares) == 3


def test_sizes_are_ragged_and_each_dimension_goes_beyond_a_block():
    for name, size in LARGE.items():
        assert size["H"] % 2 and size["W"] % 2, name
        assert all(side == 1 or side % 4 for side in size.values()), name
    most = {dim: max(size[dim] for size in LARGE.values()) for dim in "NCTHW"}
    assert most["W"] > 2048 and most["H"] > 1024 and most["C"] > 512 and most["N"] > 32 and most["T"] > 16
    assert any(size["N"] > 1 and size["T"] > 2 for size in LARGE.values())
    assert max(size["H"] * size["W"] for size in LARGE.values()) > 2**16
    assert max(prod(size.values()) for size in LARGE.values()) < 2**20  # a test suite's time
