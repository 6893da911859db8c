"""Every Triton kernel compiles whatever its integers are; for sm_90, no GPU needed.

Triton compiles a kernel anew for an integer that is 1, which it makes a constant, for one that 16 divides, and for one
that takes 64 bits. Each is a program of its own, and a pass of the compiler may fail on one alone. The launches are
those that `benchmarks/resources.py` records, with the integers of each replaced.
"""

import os
import re
import runpy
from functools import cache
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton", reason="no triton here: pip install 'motionspec[triton]'")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402

RESOURCES = Path(__file__).resolve().parents[1] / "benchmarks" / "resources.py"
INTEGERS = {"1": 1, "divided by 16": 48, "odd": 17, "beyond 32 bits": 2**31 + 1}
KERNELS = [
    "off_triton._forward",
    "off_triton._adjoint",
    "warp_triton._forward",
    "warp_triton._backward",
    "warp_triton._cells",
    "warp_triton._gather",
    "losses_triton._sums",
    "losses_triton._finish",
    "losses_triton._backward",
    "costvol_triton._norms",
    "costvol_triton._forward",
    "costvol_triton._backward",
    "tvl1_triton._forward",
    "tvl1_triton._backward",
    "tvl1_triton._to_frames",
]
each_kernel = pytest.mark.parametrize("name", KERNELS)
each_integer = pytest.mark.parametrize("value", INTEGERS.values(), ids=INTEGERS)


@cache
def made():
    return runpy.run_path(str(RESOURCES))


@cache
def launches():
    """By kernel, those that differ in types or constants."""
    found = {}
    for kernel, arguments, constants in made()["launches"]():
        types = tuple(getattr(value, "dtype", type(value)) for value in arguments)
        of_kernel = found.setdefault(f"{kernel.__module__.rpartition('.')[2]}.{kernel.__name__}", {})
        of_kernel.setdefault((types, *map(repr, constants.items())), (kernel, arguments, constants))
    return {name: list(of_kernel.values()) for name, of_kernel in found.items()}


def integers(kernel, arguments):
    """The places of those that are no constants of the kernel itself."""
    pairs = enumerate(zip(arguments, kernel.params, strict=False))
    return [i for i, (value, parameter) in pairs if isinstance(value, int) and not parameter.is_constexpr]


def with_integers(launch, places, value):
    kernel, arguments, constants = launch
    return kernel, [value if i in places else a for i, a in enumerate(arguments)], constants


def unaligned(launch):
    """Tensors that begin an element later."""
    kernel, arguments, constants = launch
    moved = [torch.zeros(8, dtype=a.dtype)[1:] if isinstance(a, torch.Tensor) else a for a in arguments]
    return kernel, moved, constants


def compiled(launch, capability=90):
    kernel, arguments, constants = launch
    options = {key: constants[key] for key in ("num_warps", "num_stages") if key in constants}
    return triton.compile(made()["source"](kernel, arguments, constants), GPUTarget("cuda", capability, 32), options)


def test_every_kernel_is_launched():
    assert set(launches()) == set(KERNELS)
    assert all(integers(*launch[:2]) for of_kernel in launches().values() for launch in of_kernel)


@each_integer
@each_kernel
def test_all_integers_at_once(name, value):
    launch = launches()[name][0]
    assert compiled(with_integers(launch, integers(*launch[:2]), value)).asm["cubin"]


@each_kernel
def test_tensors_that_are_not_aligned(name):
    assert compiled(unaligned(launches()[name][0])).asm["cubin"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_deterministic_warp_of_one_column(dtype):
    for launch in launches()["warp_triton._gather"]:
        kernel, arguments, _ = launch
        if arguments[0].dtype == dtype:
            names = [parameter.name for parameter in kernel.params]
            assert compiled(with_integers(launch, [names.index("W")], 1)).asm["cubin"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_norms_of_the_cost_volume_are_correctly_rounded(dtype):
    """Not by approximations: at a low temperature their error, up to 2 units in the last place, is many exponents."""
    launch = next(one for one in launches()["costvol_triton._norms"] if one[1][0].dtype == dtype)
    found = re.findall(r"\b(?:sqrt|div|rcp|rsqrt)(?:\.\w+)*\.f32", compiled(launch).asm["ptx"])
    assert set(found) == {"sqrt.rn.f32", "div.rn.f32"}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@each_integer
@each_kernel
def test_each_integer_by_itself(name, value):
    """In float32, in every variant."""
    for launch in launches()[name]:
        if not any(getattr(a, "dtype", None) in (torch.bfloat16, torch.float16) for a in launch[1]):
            for place in integers(*launch[:2]):
                assert compiled(with_integers(launch, [place], value)).asm["cubin"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@each_integer
@each_kernel
def test_all_integers_at_once_in_every_variant(name, value):
    for launch in launches()[name]:
        assert compiled(with_integers(launch, integers(*launch[:2]), value)).asm["cubin"]
