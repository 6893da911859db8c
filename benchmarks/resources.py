"""What every Triton kernel takes of a GPU, compiled without one: `make resources` writes resources.txt beside this.

The operators are called as networks call them, on small tensors; each launch is recorded instead of run, and compiled
with the types, constants and warps that it had. Triton's own cuobjdump reads the result.
"""

import itertools
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from motionspec import ops
from motionspec.cli.text import table

PAGE = Path(__file__).with_name("resources.txt")
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
# Compute capability: A100; RTX 4090; H100 and H200; B200. Bytes of shared memory that a program may have there.
SHARED = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024}
REGISTERS = 255
HEADER = ("kernel", "sm", "types", "constants", "warps", "registers", "local", "shared", "to bf16", "tensor cores")
TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64"}
TYPES |= {torch.int64: "i64", torch.int32: "i32", torch.bool: "i1"}


def workloads(dtype: torch.dtype) -> None:
    """Every fused operator, forward and backward, in every variant that has a kernel of its own."""
    clip = torch.zeros((2, 8, 3, 28, 28), dtype=dtype, requires_grad=True)
    flow = torch.zeros((2, 2, 56, 56), dtype=dtype, requires_grad=True)
    for kernel in ("paper", "sobel"):
        ops.off.clip_features(clip, kernel, impl="triton").sum().backward()
        ops.off.features(clip[:, :, 0], clip[:, :, 1], kernel, impl="triton").sum().backward()
    pair = torch.zeros((2, 2, 32, 28, 28), dtype=dtype, requires_grad=True)
    for outside in ("zero", "blend"):
        for deterministic in (False, True):
            with mock.patch("torch.are_deterministic_algorithms_enabled", return_value=deterministic):
                options = {"outside": outside, "impl": "triton"}
                ops.warp.bilinear(pair[0], flow[..., :28, :28], **options).sum().backward()
                ops.warp.motion(pair[0], flow[..., :28, :28], **options).sum().backward()
                ops.warp.difference(*pair, flow[..., :28, :28], **options).sum().backward()
    for size, scheme in itertools.product((28, 56), ("classic", "released")):  # a map is one window, or four
        if dtype == torch.float32 or scheme == "classic":  # a type changes no more than loads and stores
            maps = torch.zeros((2, 8, size, size), dtype=dtype, requires_grad=True)
            ops.tvl1.representation_flow(maps, maps.detach(), n_iter=20, scheme=scheme, impl="triton").sum().backward()
    for blocks in (1, 2**14):  # few, as for flows of many pixels: several to a program
        with mock.patch("motionspec.ops.losses_triton._BLOCKS", blocks):
            for mask in (None, torch.ones((2, 1, 56, 56), dtype=torch.bool)):
                for reduction in ("sum", "mean"):
                    options = {"mask": mask, "reduction": reduction, "impl": "triton"}
                    target = flow.detach().requires_grad_(reduction == "sum" and dtype == torch.float32)
                    ops.losses.endpoint_error(flow, target, **options).backward()
    for border, radius, channels in (("zero", 5, 64), ("exclude", 12, 100)):
        f = torch.zeros((2, 2, channels, 28, 28), dtype=dtype, requires_grad=True)
        ops.costvol.displacement_map(f[0], f[1], radius=radius, tau=0.1, border=border, impl="triton").sum().backward()


def launches() -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """Kernel, arguments and constants of each launch."""
    found: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def record(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **constants: Any) -> None:
        found.append((kernel, arguments, constants))

    # As if there were a GPU: `select` would refuse tensors of the CPU.
    with mock.patch.object(triton.JITFunction, "run", record), mock.patch("motionspec.ops.support._INTERPRETED", True):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            workloads(dtype)
    return found


def source(kernel: Any, arguments: tuple[Any, ...], constants: dict[str, Any]) -> ASTSource:
    """The kernel as Triton specialises it: pointers and integers divisible by 16 are known to be, 1 is a constant."""
    signature: dict[str, str] = {}
    fixed: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    for i, parameter in enumerate(kernel.params):
        value = arguments[i] if i < len(arguments) else constants[parameter.name]
        special = not parameter.do_not_specialize
        is_one = special and isinstance(value, int) and value == 1
        if parameter.is_constexpr or value is None or is_one:
            signature[parameter.name], fixed[(i,)] = "constexpr", value
            continue
        tensor = isinstance(value, torch.Tensor)
        number = "fp32" if isinstance(value, float) else "i32" if tensor or value < 2**31 else "i64"
        signature[parameter.name] = f"*{TYPES[value.dtype]}" if tensor else number
        if special and number != "fp32" and (value.data_ptr() if tensor else value) % 16 == 0:
            attributes[(i,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, fixed, attributes)


def usage(cubin: bytes) -> tuple[int, int, int]:
    """Registers of a thread, its bytes of local memory (spills, stack), bytes of static shared memory of a program."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    got = {key: int(value) for key, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", said)}
    return got["REG"], got["STACK"] + got["LOCAL"], got["SHARED"]


def rows(capabilities: Iterable[int] = SHARED) -> Iterator[tuple[str, ...]]:
    """A line for each kernel that differs, and architecture."""
    seen = set()
    for kernel, arguments, constants in launches():
        made = source(kernel, arguments, constants)
        options = {key: constants[key] for key in ("num_warps", "num_stages", "maxnreg") if key in constants}
        name = f"{kernel.__module__.removeprefix('motionspec.ops.')}.{kernel.__name__.lstrip('_')}"
        types = " ".join(dict.fromkeys(t for t in made.signature.values() if t.startswith("*")))
        said = {kernel.params[i].name: value for (i,), value in made.constants.items()}
        shown = " ".join(f"{key}={value}" for key, value in said.items() if key != "WIDE")
        for capability in capabilities:
            if (key := (name, types, shown, capability)) in seen:
                continue
            seen.add(key)
            compiled = triton.compile(made, target=GPUTarget("cuda", capability, 32), options=options)
            registers, local, static = usage(compiled.asm["cubin"])
            shared = max(static, compiled.metadata.shared)
            rounding = "-".join(sorted(set(re.findall(r"cvt\.(\w+)\.bf16(?:x2)?\.f32", compiled.asm["ptx"])))) or "-"
            units = (
                "-".join(sorted(set(re.findall(r"\b(wgmma|tcgen05|mma)\.(?:mma|sync)", compiled.asm["ptx"])))) or "-"
            )
            sizes = map(str, (options["num_warps"], registers, local, shared))
            yield name, str(capability), types, shown, *sizes, rounding, units


def page(found: Sequence[tuple[str, ...]]) -> str:
    """The table, under the version that made it."""
    says = "local: bytes spilled by a thread; shared: bytes of a program; to bf16: how a float32 is rounded"
    right = ("sm", "warps", "registers", "local", "shared")
    return f"triton {triton.__version__}; {says}\n\n{table(HEADER, sorted(found), right)}\n"


def main() -> None:
    """Write the table and show it."""
    found = []
    for row in rows():
        found.append(row)
        if sys.stderr.isatty():
            print(f"\r\x1b[K{len(found)} compiled: {row[0]} sm_{row[1]}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    PAGE.write_text(page(found), encoding="utf-8")
    print(page(found), end="")


if __name__ == "__main__":
    main()
