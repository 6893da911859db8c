"""What the kernels that numba compiles for the CPU share (`ops/*_numba.py`): how to compile and how to share out work.

Threads are those of torch's own OpenMP team, as many as `torch.get_num_threads()`; Python's where torch has another
runtime, or in a forked process, in which OpenMP hangs. So do torch's own operators there, and with them the half types,
which torch converts: such a process first calls `torch.set_num_threads(1)`, as a DataLoader's workers do. A kernel
holds no lock while it runs. Not `prange`: of numba's threading layers "workqueue" ends the process where two threads of
the caller meet, and "omp" where a forked process, as a DataLoader's, comes to it after its parent did.

The first call of a kernel for each dtype compiles it, which the logger "motionspec" announces; the result is cached
beside its file or in the user's cache folder. Where neither can be written, each process compiles again.
"""

import ctypes
import functools
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import torch
from numba.core import event
from numba.core.compiler import Compiler

# Without fast-math: NaN stays where it is. A division by 0 gives infinity or NaN, as in torch.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}

part = numba.njit(**_OPTIONS)
"""Compiled as part of the kernels that call it."""


class _Apart(Compiler):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.state.flags.noalias = True


apart = numba.njit(pipeline_class=_Apart, fastmath={"contract"}, **_OPTIONS)
"""As `part`, of arrays no two of which share an element that it writes: so that LLVM makes vectors of a loop over many.

What is multiplied and added is rounded once where the machine can.
"""


added = numba.njit(pipeline_class=_Apart, fastmath={"contract", "reassoc"}, **_OPTIONS)
"""As `apart`, and sums are added in an order that makes vectors of them: the same one in each call."""


def _copy(to: Any, a: Any) -> None:
    for i in range(to.size):
        to[i] = a[i]


copy = apart(_copy)
"""`to[:] = a` of one axis, which numba takes seconds to compile: with it, the words about shapes that differ."""


class Operator:
    """An operator of torch for the CPU, of a function whose annotations say all and that changes none of its arguments.

    As `torch.library.custom_op` makes them, without its checks at each call, which take longer than a small map does.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        schema = torch.library.infer_schema(function, mutates_args=())
        torch.library.define(name, schema, tags=torch.Tag.pt2_compliant_tag)
        torch.library.impl(name, "CPU", function)
        space, _, own = name.partition("::")
        self._name, self._call = name, getattr(getattr(torch.ops, space), own).default

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def register_fake(self, function: Callable[..., Any]) -> Any:
        return torch.library.register_fake(self._name, function)

    def register_autograd(self, backward: Callable[..., Any], *, setup_context: Any = None) -> None:
        torch.library.register_autograd(self._name, backward, setup_context=setup_context)


def operator(name: str) -> Callable[[Callable[..., Any]], Operator]:
    """A decorator: `Operator` of that name."""
    return functools.partial(Operator, name)


_KERNELS: list[Any] = []


def kernel(function: Callable[..., None]) -> Any:
    """Compiled with all that it calls, and cached. Its last two arguments are the range of its share of the work."""
    try:
        compiled = numba.njit(function, cache=True, **_OPTIONS)
    except RuntimeError:  # no folder to write to
        compiled = numba.njit(function, **_OPTIONS)
    _KERNELS.append(compiled)
    return compiled


class _Announce(event.Listener):
    """Says why a call takes seconds. A warning to the logger, for that is what is shown where nothing is set up."""

    def on_start(self, event: Any) -> None:
        if event.data["dispatcher"] in _KERNELS:  # not a part of one, nor anybody else's
            name = event.data["dispatcher"].py_func
            dtype = event.data["args"][0].dtype
            logging.getLogger("motionspec").warning(
                "compiling %s.%s for %s: some seconds, once on this machine", name.__module__, name.__name__, dtype
            )

    def on_end(self, event: Any) -> None:
        pass


event.register("numba:compile", _Announce())


def share(run: Callable[..., None], pieces: int, threads: int, *arguments: Any) -> None:
    """Call `run(*arguments, low, high)` for all pieces, in at most `threads` threads, and no more than torch uses.

    A piece is computed whole by one thread: where pieces write to places of their own, the number of threads does not
    show in the result.
    """
    threads = max(1, min(torch.get_num_threads(), pieces, threads))

    def one(k: int) -> None:
        run(*arguments, pieces * k // threads, pieces * (k + 1) // threads)

    if threads == 1:
        one(0)
    elif _OPENMP is not None and os.getpid() == _PROCESS:
        _in_team(one, threads)
    else:
        list(_pool(os.getpid(), threads).map(one, range(threads)))


def _openmp() -> Any:
    """The OpenMP runtime that torch was linked with, found among what its library depends on; None where it has another
    interface than GNU's.
    """
    try:
        library = ctypes.CDLL(str(next(Path(torch.__file__).parent.glob("lib/libtorch_cpu.*"))))
        library.GOMP_parallel.restype = None
    except (StopIteration, OSError, AttributeError):
        return None
    return library


_OPENMP = _openmp()
_PROCESS = os.getpid()
_MEMBER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def _in_team(one: Callable[[int], None], threads: int) -> None:
    """one(k) for each k below threads, in torch's own team: its members wait in a loop for the next call, about a
    millisecond long, and would take the cores from threads of ours.
    """
    failed: list[BaseException] = []

    def member(_: None) -> None:
        try:
            # The runtime may give fewer members than it was asked for.
            for k in range(_OPENMP.omp_get_thread_num(), threads, _OPENMP.omp_get_num_threads()):
                one(k)
        except BaseException as error:  # nothing may leave a member; KeyboardInterrupt too is raised again below
            failed.append(error)

    # Of torch's number, for a team of another size would have members ended, and started again by torch.
    _OPENMP.GOMP_parallel(_MEMBER(member), None, torch.get_num_threads(), 0)
    if failed:
        raise failed[0]


@functools.cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Of this process: the threads of a parent are not in a forked child."""
    return ThreadPoolExecutor(threads)
