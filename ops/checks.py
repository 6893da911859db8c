"""What every operator checks before it computes: shapes, dtypes, devices and Python scalars, never tensor values."""

from typing import Any

import torch
from torch import Tensor

from motionspec.checks import choice, message, shapes

_HALF = (torch.bfloat16, torch.float16)


def tensors(operator: str, impl: str, /, **arguments: tuple[Any, str]) -> list[Tensor]:
    """Check tensors against shape patterns (see `motionspec.checks.shapes`) and return them in the type to compute in.

    That is their own dtype, but float32 for the half types: compute there, then `.to(dtype)` rounds once.
    Raises TypeError unless all are floating-point tensors of one dtype, ValueError for shapes, devices and `impl`.
    """
    choice(operator, "impl", impl, ("auto", "torch"))
    first: Tensor | None = None
    for name, (tensor, _) in arguments.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            got = f"a tensor of {tensor.dtype}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(message(operator, name, "a floating-point torch tensor", got))
        first = tensor if first is None else first
        if tensor.dtype != first.dtype:
            raise TypeError(message(operator, name, f"{first.dtype} like the first argument", tensor.dtype))
        if tensor.device != first.device:
            raise ValueError(message(operator, name, f"device {first.device} like the first argument", tensor.device))
    shapes(operator, **arguments)
    return [tensor.float() if tensor.dtype in _HALF else tensor for tensor, _ in arguments.values()]
