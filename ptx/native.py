"""`machine.c`, compiled on first use, and its structures as ctypes knows them."""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

LANES = 32
OPERANDS = 20
_FLAGS = ("-O2", "-ftree-vectorize", "-fno-strict-aliasing", "-fwrapv", "-ffp-contract=off", "-march=native")


class Instruction(ctypes.Structure):
    """One instruction, as `machine.h` explains it."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("code", "guard", "negated", "flush", "option", "combine")),
        *((name, ctypes.c_int32) for name in ("length", "size", "shared", "target")),
        ("offset", ctypes.c_int64),
        ("operand", ctypes.c_int32 * OPERANDS),
    )


class Register(ctypes.Structure):
    """How a register begins: one of the kinds of `KINDS`."""

    _fields_ = (("kind", ctypes.c_int32), ("unused", ctypes.c_int32), ("value", ctypes.c_uint64))


class Buffer(ctypes.Structure):
    """A piece of global memory."""

    _fields_ = (
        ("base", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
        *((name, ctypes.c_void_p) for name in ("data", "writers", "readers")),
    )


class Fault(ctypes.Structure):
    """What stopped a launch."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        ("buffer", ctypes.c_int32),
        ("at", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("detail", ctypes.c_int32),
        ("instruction", ctypes.c_int32),
        ("program", ctypes.c_int32 * 3),
        *((name, ctypes.c_int32) for name in ("warp", "lane", "unused")),
    )


class Launch(ctypes.Structure):
    """All that `run` needs."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("code", "registers", "buffers", "executed", "active")),
        *((name, ctypes.c_int32) for name in ("instructions", "register_count", "buffer_count", "warps")),
        *((name, ctypes.c_int32) for name in ("shared_size", "races")),
        ("seed", ctypes.c_uint64),
        ("noise", ctypes.c_double),
        ("grid", ctypes.c_int32 * 3),
        ("unused", ctypes.c_int32),
        ("fault", Fault),
    )


KINDS = {name: number for number, name in enumerate(("noise", "constant", "thread", "lane", "x", "y", "z"))}
"""Registers begin as noise, as a constant, or as a number of the thread, lane or program."""


def compiler() -> str | None:
    """The C compiler: `$CC`, or the first of cc, gcc, clang that is installed; None without one."""
    names = [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc", "clang"]
    return next(filter(None, map(shutil.which, names)), None)


@functools.cache
def library() -> Any:
    """The compiled machine. Raises RuntimeError where there is no C compiler, or it fails."""
    command = compiler()
    if command is None:
        raise RuntimeError("executing compiled kernels needs a C compiler: install gcc or clang, or set CC")
    path = _folder() / f"machine-{_fingerprint(command)}.so"
    if not path.exists():
        _build(command, path)
    found = ctypes.CDLL(str(path))
    found.names.argtypes = [ctypes.POINTER(ctypes.POINTER(ctypes.c_char_p))]
    found.run.argtypes = [ctypes.POINTER(Launch)]
    return found


def _build(command: str, path: Path) -> None:
    """Several processes may build at once: each writes a file of its own, and the last one stays."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        source = Path(__file__).with_name("machine.c")
        said = subprocess.run(
            [command, *_FLAGS, "-shared", "-fPIC", "-o", str(made), str(source), "-lm"], capture_output=True, text=True
        )
        if said.returncode:
            raise RuntimeError(f"{command} could not compile {source}:\n{said.stderr}")
        os.replace(made, path)


def _folder() -> Path:
    """The user's cache folder, or a temporary one where that cannot be written."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    try:
        folder = Path(home) / "motionspec"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):
        pass
    return _temporary()


@functools.cache
def _temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix="motionspec-"))


def _fingerprint(command: str) -> str:
    """Of all that the compiled file depends on. `-march=native` makes one for this kind of processor only."""
    sources = (Path(__file__).with_name(name).read_bytes() for name in ("machine.c", "machine.h", "instructions.h"))
    return hashlib.sha256(b"\0".join([*sources, " ".join([command, *_FLAGS]).encode(), _processor()])).hexdigest()[:16]


def _processor() -> bytes:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor().encode()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})).encode()


@functools.cache
def codes() -> dict[str, int]:
    """The instructions that the machine knows, by name, and their rows in its table."""
    table = ctypes.POINTER(ctypes.c_char_p)()
    count = library().names(ctypes.byref(table))
    return {table[k].decode(): k for k in range(count)}


def pointer(array: np.ndarray) -> int:
    """Where an array begins."""
    return array.ctypes.data
