"""Which implementation an operator runs: decided by what is asked and installed, never by an exception."""

import importlib.util
import os
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from motionspec.checks import choice, message
from motionspec.fused import FUSED

# Package, its extra, device, types that `auto` gives to it. Types beyond these (float64) are for whoever asks by name.
_NEEDS = {
    "numba": ("numba", "cpu", (torch.float32, torch.bfloat16, torch.float16)),
    "triton": ("triton", "cuda", (torch.float32, torch.bfloat16, torch.float16)),
}
_INSTALLED = {package: importlib.util.find_spec(package) is not None for package, _, _ in _NEEDS.values()}
# Triton's interpreter runs kernels on the CPU, in float64 too: for tests. It is chosen when triton is imported.
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def select(operator: str, impl: str, first: Tensor, **unsupported: str | None) -> str:
    """The implementation that `impl` asks for: "torch", or a name from `FUSED`.

    `unsupported` says of a fused implementation what of the arguments it cannot do: `triton="scheme='paper'"`.
    Raises ValueError for an `impl` that the operator does not have, and for one by name that cannot do what is asked.
    """
    choice(operator, "impl", impl, ("auto", "torch", *FUSED.get(operator, ())))
    if impl == "auto" and torch.compiler.is_exporting():
        return "torch"  # a saved program, or ONNX, knows nothing of our kernels
    if impl == "auto":
        able = (name for name in FUSED.get(operator, ()) if not (unsupported.get(name) or _lacks(name, first, True)))
        return next(able, "torch")
    if impl != "torch":
        reason = unsupported.get(impl) or _lacks(impl, first, False)
        if reason:
            raise ValueError(message(operator, "impl", f"'auto' or 'torch', because {impl} lacks {reason}", repr(impl)))
    return impl


def _lacks(name: str, first: Tensor, auto: bool) -> str:
    """What stands in the way of an implementation, empty if nothing does."""
    package, device, types = _NEEDS[name]
    interpreted = name == "triton" and _INTERPRETED
    if not _INSTALLED[package]:
        return f"its package: pip install {package}"
    if first.device.type != device and not interpreted:
        return f"tensors on {first.device.type}"
    if first.dtype not in types and (auto or (name == "triton" and not interpreted)):
        return str(first.dtype)
    return ""


def no_second_derivative(operator: str, impl: str) -> Callable[..., NoReturn]:
    """The derivative of a backward kernel that has none."""

    def refuse(ctx: Any, *grads: Any) -> NoReturn:
        raise NotImplementedError(message(operator, "impl", "'torch' for a second derivative", repr(impl)))

    return refuse
