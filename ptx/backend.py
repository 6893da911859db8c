"""The machine as a device of Triton's: inside `executing()` every launch compiles for sm_80 and runs here.

Triton finds compilers by the target of its active driver. This driver's target is one of our own, whose compiler is
Triton's for NVIDIA without the last step: PTX is what the machine executes. So kernels are specialised, compiled and
cached by Triton itself, as for a GPU.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from triton.backends import Backend, backends
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.backends.nvidia.compiler import CUDABackend
from triton.runtime import driver as drivers

from motionspec.ptx.machine import Conditions, Executed, Memory, Program, launch

_NAME = "motionspec-ptx"
CAPABILITY = 80
"""Of sm_90 and later kernels use instructions (wgmma, asynchronous copies) that the machine does not have."""
_SHARED = 163 * 1024  # bytes that a program of sm_80 may have


class Compiler(CUDABackend):
    """Triton's compiler for NVIDIA, up to PTX."""

    @staticmethod
    def supports_target(target: GPUTarget) -> bool:
        """Of our own name only, so that Triton keeps finding one compiler for each target."""
        return bool(target.backend == _NAME)

    def __init__(self, target: GPUTarget) -> None:
        super().__init__(target)
        self.binary_ext = "ptx"

    def add_stages(self, stages: dict[str, Any], options: Any, language: Any) -> None:
        """Without ptxas, which takes a third of the time and whose result nobody here executes."""
        super().add_stages(stages, options, language)
        del stages["cubin"]


@dataclass
class Launched:
    """One launch: the kernel's name, its grid, and what it executed."""

    kernel: str
    grid: tuple[int, int, int]
    executed: Executed


@dataclass
class Log:
    """What ran inside `executing()`."""

    launches: list[Launched] = field(default_factory=list)


class _Utilities:
    """What Triton asks a driver about the device, and for loading a kernel."""

    def get_device_properties(self, device: Any) -> dict[str, int]:
        return {"max_shared_mem": _SHARED, "multiprocessor_count": 108, "warpSize": 32}

    def load_binary(self, name: str, ptx: bytes, shared: int, device: Any) -> tuple[Any, Any, int, int, int]:
        """Module, function, registers, spills, most threads of a program: the function is the text of the kernel."""
        return object(), ptx.decode(), 0, 0, 1024


class Driver(DriverBase):
    """The device that Triton sees."""

    def __init__(self, conditions: Conditions, log: Log) -> None:
        self.conditions, self.log = conditions, log
        self.utils = _Utilities()

    def launcher_cls(self, source: Any, metadata: Any) -> "_Launcher":
        """Made once for each compiled kernel."""
        return _Launcher(source, metadata)

    @classmethod
    def is_active(cls) -> bool:
        """Never by itself: only where `executing()` makes it so."""
        return False

    def get_current_target(self) -> GPUTarget:
        """What Triton compiles for."""
        return GPUTarget(_NAME, CAPABILITY, 32)

    def get_current_device(self) -> str:
        """The key under which Triton keeps compiled kernels in this process, apart from those of a GPU."""
        return _NAME

    def get_current_stream(self, device: Any) -> int:
        """There is one."""
        return 0

    def get_active_torch_device(self) -> torch.device:
        """Tensors stay where they are."""
        return torch.device("cpu")

    def map_python_to_cpp_type(self, ty: str) -> str:
        """For launchers in C++, of which there is none."""
        raise NotImplementedError(ty)

    def get_benchmarker(self) -> Any:
        """The machine says nothing about time."""
        raise NotImplementedError("the machine executes kernels, it does not time them")


class _Launcher:
    """Calls the machine with a kernel's arguments, as Triton passes them."""

    def __init__(self, source: Any, metadata: Any) -> None:
        self._names, self._types = list(source.fn.arg_names), list(source.signature.values())
        self._name = metadata.name
        self._warps, self._shared = metadata.num_warps, metadata.shared
        self._scratch = metadata.global_scratch_size
        self._programs: dict[bool, Program] = {}

    def __call__(self, x: int, y: int, z: int, stream: int, ptx: str, *rest: Any) -> None:
        arguments = rest[4:]  # after packed metadata, launch metadata and two hooks
        active = drivers.active
        memory = Memory()
        passed = zip(self._names, self._types, arguments, strict=True)
        values = [_value(memory, name, argument) for name, kind, argument in passed if kind != "constexpr"]
        if self._scratch:
            scratch = torch.empty(x * y * z * self._scratch, dtype=torch.uint8)
            values.append(_value(memory, "scratch of Triton's own", scratch))
        program = self._program(ptx, active.conditions.contract)
        executed = launch(program, (x, y, z), values, memory, active.conditions)
        active.log.launches.append(Launched(self._name, (x, y, z), executed))

    def _program(self, ptx: str, contract: bool) -> Program:
        if contract not in self._programs:
            made = Program.from_ptx(ptx, warps=self._warps, shared=self._shared, contract=contract)
            self._programs[contract] = made
        return self._programs[contract]


def _value(memory: Memory, name: str, argument: Any) -> int | float:
    """An argument as a number. Of a tensor kernels may touch its whole storage, as a GPU would let them."""
    if not isinstance(argument, torch.Tensor):
        return float(argument) if isinstance(argument, float) else int(argument)
    if argument.device.type != "cpu":
        raise ValueError(f"{name}: expected a tensor on the CPU, got one on {argument.device}")
    storage = argument.untyped_storage()
    address = memory.add(storage.data_ptr(), storage.nbytes(), f"argument {name}")
    return address + argument.data_ptr() - storage.data_ptr() if storage.nbytes() else 0


@contextlib.contextmanager
def executing(
    *, seed: int = 0, races: bool = True, noise: float = 0.0, contract: bool = False, poison: bool = True
) -> Iterator[Log]:
    """Within this context Triton's kernels take CPU tensors, and are executed as compiled for sm_80, without a GPU.

    seed, races, noise, contract: see `Conditions`.
    poison: fill what `torch.empty` and its like return with NaN (integers: the largest), so that an element that
        nobody writes shows.

    Yields a log of the launches. Raises Fault from a launch that touches memory out of bounds or misaligned, or races;
    NotModelled for an instruction that the machine lacks; RuntimeError without a C compiler, or where Triton was told
    to interpret kernels (TRITON_INTERPRET=1), which it decides for good when it is imported.

    >>> import torch, triton, triton.language as tl
    >>> from motionspec import ptx
    >>> with ptx.executing(seed=1) as log:  # doctest: +SKIP
    ...     my_kernel[(4,)](x, y, x.numel())  # CPU tensors
    """
    import triton

    if triton.knobs.runtime.interpret:
        raise RuntimeError("TRITON_INTERPRET is set: kernels that Triton interprets are never compiled")
    log = Log()
    before = drivers._active
    backends.setdefault(_NAME, Backend(Compiler, Driver))
    drivers.set_active(Driver(Conditions(seed, races, noise, contract), log))
    try:
        with _poisoned() if poison else contextlib.nullcontext():
            yield log
    finally:
        drivers._active = before


@contextlib.contextmanager
def _poisoned() -> Iterator[None]:
    """New tensors full of NaN: torch has it as a part of its deterministic mode.

    Whether that mode is on is what `torch.are_deterministic_algorithms_enabled` says; operators are told what it was.
    """
    asked = torch.are_deterministic_algorithms_enabled
    was, warned = asked(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    filled = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=not was or warned)
    settings.fill_uninitialized_memory = True
    torch.are_deterministic_algorithms_enabled = lambda: was
    try:
        yield
    finally:
        torch.are_deterministic_algorithms_enabled = asked
        settings.fill_uninitialized_memory = filled
        torch.use_deterministic_algorithms(was, warn_only=warned)
