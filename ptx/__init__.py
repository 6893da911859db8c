"""Executes Triton kernels as compiled, on a CPU: values, bounds, alignment, races, without a GPU.

Triton's interpreter runs the Python of a kernel. What the compiler makes of it can differ: a variable of a loop that it
takes for a constant, a barrier that is not there, a mask that was forgotten where memory happens to follow. This
package runs the compiler's own result, the PTX for sm_80:

    from motionspec import ptx

    with ptx.executing(seed=0):
        kernel[grid](x, y, n)  # CPU tensors

raises `Fault` where the kernel touches memory out of bounds or misaligned, or where two warps or programs touch the
same bytes without a barrier between them and one of them writes. Warps and programs come in an order drawn from the
seed, new tensors and registers begin as noise; `noise` moves approximate instructions within their documented error.

It says nothing about speed, and does not know what only later GPUs have (wgmma, TMA), asynchronous copies or functions
that are not inlined: `NotModelled` names the instruction. It needs triton, torch and a C compiler.
"""

from motionspec.ptx.decode import NotModelled
from motionspec.ptx.machine import Conditions, Executed, Fault, Memory, Program, launch

__all__ = ["Conditions", "Executed", "Fault", "Memory", "NotModelled", "Program", "executing", "launch"]


def __getattr__(name: str) -> object:
    # Without triton and torch what is below still decodes and runs PTX.
    if name == "executing":
        from motionspec.ptx.backend import executing

        return executing
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
