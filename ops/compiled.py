"""What the kernels that numba compiles for the CPU share (`ops/*_numba.py`): how to compile and how to share out work.

Threads are Python's, as many as `torch.get_num_threads()`: a kernel holds no lock while it runs. Not `prange`: of
numba's threading layers "workqueue" ends the process where two threads of the caller meet, and "omp" where a forked
process, as a DataLoader's, comes to it after its parent did.

The first call of a kernel for each dtype compiles it, which the logger "motionspec" announces; the result is cached
beside its file or in the user's cache folder. Where neither can be written, each process compiles again.
"""

import functools
import itertools
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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


def _copy(to: Any, a: Any) -> None:
    for i in range(to.size):
        to[i] = a[i]


copy = apart(_copy)
"""`to[:] = a` of one axis, which numba takes seconds to compile: with it, the words about shapes that differ."""


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
    bounds = [pieces * k // threads for k in range(threads + 1)]
    rest = [
        _pool(os.getpid(), threads - 1).submit(run, *arguments, low, high)
        for low, high in itertools.pairwise(bounds[1:])
    ]
    run(*arguments, 0, bounds[1])
    for piece in rest:
        piece.result()


@functools.cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Of this process: the threads of a parent are not in a forked child."""
    return ThreadPoolExecutor(threads)
