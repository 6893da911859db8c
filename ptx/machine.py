"""Programs and memory of the machine, and what goes wrong in them, from Python."""

import ctypes
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from motionspec.ptx import native
from motionspec.ptx.decode import Begin, Decoder, Statement, contracted, read

# The least common ancestor of what Triton assumes of pointers: it knows them divisible by 16, or not.
_ALIGNED = 256
_APART = 40  # buffers lie 2**40 bytes apart, so that an address out of bounds is in no other one


class Fault(Exception):
    """A kernel touched memory that it must not, or raced, or waited at a barrier without all of its warp."""


@dataclass(frozen=True)
class Program:
    """A compiled kernel, ready to be launched. `threads` of a program are `32 * warps`."""

    statements: tuple[Statement, ...]
    parameters: tuple[tuple[str, str], ...]  # type and name
    warps: int
    shared_size: int  # bytes of shared memory
    code: Any = field(repr=False)
    begins: tuple[Begin, ...] = field(repr=False)

    @classmethod
    def from_ptx(cls, ptx: str, *, warps: int, shared: int, contract: bool = False) -> "Program":
        """Decode the text of one kernel; `contract` fuses products and sums as ptxas may.

        Raises NotModelled if the machine lacks one of its instructions, RuntimeError without a C compiler.
        """
        text = contracted(read(ptx)) if contract else read(ptx)
        decoder = Decoder(text, warps)
        made = decoder.instructions()
        code = (native.Instruction * len(made))(*made)
        return cls(text.statements, text.parameters, warps, max(shared, 16), code, tuple(decoder.begins))


class Memory:
    """Global memory: buffers that stay where they are, each known to kernels by an address far from all others."""

    def __init__(self) -> None:
        self._buffers: list[tuple[int, int, int, str]] = []  # address for kernels, bytes, pointer, name
        self._known: dict[int, int] = {}

    def add(self, pointer: int, size: int, name: str) -> int:
        """Let kernels see `size` bytes from `pointer` on: the address by which they know it. A name is for messages."""
        if size == 0:
            return 0
        if pointer not in self._known:
            address = (len(self._buffers) + 1 << _APART) + pointer % _ALIGNED
            self._known[pointer] = address
            self._buffers.append((address, size, pointer, name))
        return self._known[pointer]

    def name(self, number: int) -> str:
        """Of a buffer."""
        return self._buffers[number][3]

    def size(self, number: int) -> int:
        """Of a buffer, in bytes."""
        return self._buffers[number][1]

    def described(self, races: bool) -> tuple[Any, list[np.ndarray]]:
        """The buffers as the machine takes them, and the arrays that remember who touched each byte."""
        marks = [np.zeros(size if races else 0, np.uint64) for _, size, _, _ in self._buffers for _ in range(2)]
        described = (native.Buffer * max(1, len(self._buffers)))()
        for k, (address, size, pointer, _) in enumerate(self._buffers):
            writers, readers = (native.pointer(mark) for mark in marks[2 * k : 2 * k + 2])
            described[k] = native.Buffer(address, size, pointer, writers, readers)
        return described, marks


@dataclass(frozen=True)
class Conditions:
    """Under which of the circumstances that a GPU may bring about a kernel runs.

    seed: of the order of warps and programs, of what is not initialised, of `noise`.
    races: look for them (it takes twice the time).
    noise: move each result of an approximate instruction by up to so many times its documented error.
    contract: fuse products and sums, as ptxas may.
    """

    seed: int = 0
    races: bool = True
    noise: float = 0.0
    contract: bool = False


@dataclass
class Executed:
    """What a launch did: how many warps executed each opcode, and how many of their lanes were active."""

    warps: Counter[str] = field(default_factory=Counter)
    lanes: Counter[str] = field(default_factory=Counter)


def launch(
    program: Program,
    grid: Sequence[int],
    arguments: Sequence[int | float],
    memory: Memory,
    conditions: Conditions = Conditions(),
) -> Executed:
    """Run all programs of a grid; arguments are numbers and addresses from `memory`.

    Raises Fault, which says what happened, where in memory, in which program and warp, and at which line of the kernel.
    """
    grid = (*grid, 1, 1)[:3]
    if len(arguments) > len(program.parameters):
        raise ValueError(f"the kernel takes {len(program.parameters)} arguments, not {len(arguments)}")
    known = _parameters(program, arguments) | {f"%nctaid.{axis}": size for axis, size in zip("xyz", grid, strict=True)}
    registers = (native.Register * len(program.begins))(*(_register(begin, known) for begin in program.begins))
    buffers, marks = memory.described(conditions.races)
    executed, active = (np.zeros(len(program.code), np.uint64) for _ in range(2))
    job = native.Launch(
        code=ctypes.addressof(program.code),
        registers=ctypes.addressof(registers),
        buffers=ctypes.addressof(buffers),
        executed=native.pointer(executed),
        active=native.pointer(active),
        instructions=len(program.code),
        register_count=len(program.begins),
        buffer_count=len(memory._buffers),
        warps=program.warps,
        shared_size=program.shared_size,
        races=conditions.races,
        seed=conditions.seed,
        noise=conditions.noise,
        grid=grid,
    )
    result = native.library().run(ctypes.byref(job))
    del marks  # until here the machine writes to them
    if result == -2:
        raise MemoryError("no memory for the registers of a program")
    if result:
        raise Fault(_said(job.fault, program, memory))
    return _counted(program, executed, active)


def _parameters(program: Program, arguments: Sequence[int | float]) -> dict[str, int]:
    """The bits of each parameter; those that Triton adds of its own and nobody passes are 0."""
    given = [*arguments, *[0] * (len(program.parameters) - len(arguments))]
    return {name: _bits(kind, value) for (kind, name), value in zip(program.parameters, given, strict=True)}


def _bits(kind: str, value: int | float) -> int:
    size = int(kind[1:])
    if isinstance(value, float):
        return int.from_bytes(struct.pack("<f" if size == 32 else "<d", value), "little")
    return int(value) & ((1 << size) - 1)


def _register(begin: Begin, known: Mapping[str, int]) -> native.Register:
    value = known[begin.of] if begin.of else begin.value
    if begin.signed and value >> (begin.signed - 1) & 1:
        value -= 1 << begin.signed
    return native.Register(kind=native.KINDS[begin.kind], value=value & (2**64 - 1))


def _counted(program: Program, executed: np.ndarray, active: np.ndarray) -> Executed:
    total = Executed()
    for statement, warps, lanes in zip(program.statements, executed.tolist(), active.tolist(), strict=True):
        total.warps[statement.opcode] += warps
        total.lanes[statement.opcode] += lanes
    return total


# ---- Words

_RACES = (
    "two of them write, another value each",
    "one writes what another has read",
    "one reads what another has written",
)


def _said(fault: native.Fault, program: Program, memory: Memory) -> str:
    statement = program.statements[fault.instruction]
    where = f"in program {tuple(fault.program)}, warp {fault.warp}"
    what = _what(fault, memory)
    return f"{what} {where}, at {statement.line or 'an unknown line'}: {statement}"


def _what(fault: native.Fault, memory: Memory) -> str:
    place, size = "shared memory", ""
    if fault.buffer >= 0:
        place, size = memory.name(fault.buffer), f" of {memory.size(fault.buffer)}"
    access = f"{fault.size} bytes from byte {fault.at}{size} of {place}"
    said = {
        1: f"out of bounds: lane {fault.lane} touches {access}",
        2: f"no allocation: lane {fault.lane} touches {fault.size} bytes at address {fault.at:#x}",
        3: f"misaligned: lane {fault.lane} touches {access}",
        4: f"race on {access}: of two warps or programs without a barrier between them {_RACES[fault.detail]};",
        5: "diverged: not all lanes of a warp are at an instruction that they must execute together,",
    }
    return said[fault.kind]
