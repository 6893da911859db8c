"""What every operator checks before it computes: shapes, dtypes, devices and Python scalars, never tensor values."""

from typing import Any

import torch
from torch import Tensor

from motionspec.checks import choice, message, positive, shapes, single

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


def number(operator: str, argument: str, value: Any, first: Tensor) -> Any:
    """Check a number above 0, and return it in the type to compute in: a Python number, or a 0-d tensor.

    Of a tensor only type, device and size are checked, against `first`, the first argument. Raises TypeError for
    another type, ValueError for more or fewer elements, another device, or a Python number that is not finite or <= 0.
    """
    if isinstance(value, Tensor) and value.is_floating_point():
        single(operator, argument, tuple(value.shape))
        if value.dtype != first.dtype:
            raise TypeError(message(operator, argument, f"{first.dtype} like the first argument", value.dtype))
        if value.device != first.device:
            raise ValueError(
                message(operator, argument, f"device {first.device} like the first argument", value.device)
            )
        return (value.float() if value.dtype in _HALF else value).reshape(())
    if not isinstance(value, int | float):
        got = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(message(operator, argument, "a number or a floating-point torch tensor", got))
    positive(operator, argument, value)
    return value
