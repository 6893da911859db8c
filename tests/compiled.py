"""Triton's kernels on tensors of the CPU, executed as compiled for sm_80: what tests of them share."""

import contextlib
import importlib
import sys
import types
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from generated import operator
from test_equations import as_list, channels_last, strided, tensors

from motionspec import ops, ptx
from motionspec.cli.cases import SeededFill
from motionspec.cli.compare import compare, forward_tolerance, gradient_tolerance
from motionspec.refimpl.row import Equation


@contextlib.contextmanager
def executing(**conditions: Any) -> Iterator[Any]:
    """`ptx.executing`, and `impl="triton"` takes tensors of the CPU."""
    with mock.patch("motionspec.ops.support._INTERPRETED", True), ptx.executing(**conditions) as log:
        yield log


@contextlib.contextmanager
def deterministic(asked: bool) -> Iterator[None]:
    """Whether torch is asked for it."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(asked)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def unaligned(t: torch.Tensor) -> torch.Tensor:
    """The same values, from the second element of a larger buffer on: no vector of them is aligned."""
    view = t.new_empty(t.numel() + 1)[1:].view(t.shape)
    return view.copy_(t)


def expanded(t: torch.Tensor) -> torch.Tensor:
    """The first sample for all of the batch, which takes no memory."""
    return t[:1].expand(t.shape) if t.ndim > 1 else t


LAYOUTS = {"plain": lambda t: t, "unaligned": unaligned, "strided": strided, "channels_last": channels_last}
LAYOUTS["expanded"] = expanded


@dataclass(frozen=True)
class Case:
    """One call, forward and backward, and how it differs from the plainest."""

    row: Equation
    variant: Mapping[str, Any]
    dtype: str
    sizes: Mapping[str, int]
    layout: str = "plain"
    patches: Mapping[str, Any] = field(default_factory=dict)  # "tvl1_triton._PROGRAMS": 2
    deterministic: bool = False
    conditions: Mapping[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    without: tuple[str, ...] = ()  # optional arguments that the kernel leaves to eager

    def __str__(self) -> str:
        size = "x".join(str(self.sizes[dim]) for dim in self.row.dims)
        words = [self.row.id, *map(str, self.variant.values()), self.dtype, size]
        words += [self.layout] * (self.layout != "plain") + ["deterministic"] * self.deterministic
        words += [
            f"{name.split('.')[1]}={value}"
            for name, value in {**self.patches, **self.conditions}.items()
            if "." in name
        ]
        return "-".join(words + [f"{name}={value}" for name, value in self.conditions.items()])

    def arrays(self) -> dict[str, np.ndarray]:
        """Inputs that the type holds, the same in each run."""
        fill = SeededFill((0, zlib.crc32(str(self).encode())), self.scale, True, self.dtype)
        made = self.row.inputs(fill, **{dim: self.sizes[dim] for dim in self.row.dims})
        return {name: array for name, array in made.items() if name not in self.without}


def values_and_gradients(
    function: Any, case: Case, arrays: Mapping[str, np.ndarray], dtype: str
) -> dict[str, torch.Tensor]:
    """Results, and gradients under cotangents that every type holds."""
    args = {name: LAYOUTS[case.layout](t) for name, t in tensors(dict(arrays), dtype).items()}
    wanted = {name: args[name].detach().requires_grad_() for name in case.row.differentiable if name in args}
    results = as_list(function(**args | wanted, **case.variant))
    found = dict(zip(case.row.outputs, results, strict=True))
    if wanted:
        random = torch.Generator().manual_seed(1)
        weights = [torch.randint(-8, 9, r.shape, generator=random).to(r.dtype) / 8 for r in results]
        gradients: Any = [torch.zeros_like(t) for t in wanted.values()]  # of a result that depends on nothing
        if results[0].requires_grad:
            gradients = torch.autograd.grad(results, list(wanted.values()), weights)
        found |= {f"gradient of {name}": g for name, g in zip(wanted, gradients, strict=True)}
    return {name: tensor.detach() for name, tensor in found.items()}


def tolerance(case: Case, name: str) -> tuple[float, float]:
    """The judge's; of gradients in float64 a closer one, as these are held against no central difference."""
    if name.startswith("gradient of ") and case.dtype == "float64":
        return 1e-9, 1e-9
    if name.startswith("gradient of "):
        return gradient_tolerance(case.row, name.removeprefix("gradient of "), case.dtype, case.scale)
    return forward_tolerance(case.row, case.dtype, case.scale ** case.row.degree[case.row.outputs.index(name)])


def differences(case: Case) -> list[str]:
    """Run the kernels as compiled, and say where they are not the eager operator in float64."""
    arrays = case.arrays()
    with contextlib.ExitStack() as stack:
        for name, value in case.patches.items():
            stem, attribute = name.split(".")
            importlib.import_module(f"motionspec.ops.{stem}")
            # As an attribute of the package, which is what `replaced` replaces.
            stack.enter_context(mock.patch.object(getattr(ops, stem), attribute, value))
        stack.enter_context(deterministic(case.deterministic))
        options = {"seed": zlib.crc32(str(case).encode()), **case.conditions}
        log = stack.enter_context(executing(**options))
        found = values_and_gradients(partial(operator(case.row), impl="triton"), case, arrays, case.dtype)
    assert log.launches, "no kernel ran"
    wants = values_and_gradients(partial(operator(case.row), impl="torch"), case, arrays, "float64")
    said = []
    for name, got in found.items():
        result = compare(got.double().numpy(), wants[name].numpy(), *tolerance(case, name))
        if not result.ok:
            said.append(f"{name}{result.first}: error {result.error} > {result.tolerance}, {result.wrong} wrong")
    return said


@contextlib.contextmanager
def replaced(stem: str, old: str, new: str, folder: Path) -> Iterator[None]:
    """Kernels of `ops/<stem>.py` with a mistake planted in their source.

    The copy's operators have names of their own, as torch registers each name once.
    """
    module = importlib.import_module(f"motionspec.ops.{stem}")
    source = Path(module.__file__).read_text(encoding="utf-8")
    assert source.count(old) >= 1, f"{old!r} is not in {stem}"
    space = f"planted_{zlib.crc32((old + new).encode()):x}"
    path = folder / f"{stem}_{space}.py"
    path.write_text(source.replace(old, new).replace('"motionspec::', f'"{space}::'), encoding="utf-8")
    made = types.ModuleType(path.stem)
    made.__file__ = str(path)
    made.__package__ = "motionspec.ops"
    sys.modules[made.__name__] = made  # Triton looks its kernels' source up there
    exec(compile(path.read_text(encoding="utf-8"), path, "exec"), made.__dict__)
    with mock.patch.object(ops, stem, made):
        yield
    del sys.modules[made.__name__]
