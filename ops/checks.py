"""What every operator checks before it computes: shapes, dtypes, devices and Python scalars, never tensor values."""

from typing import Any

import torch
from torch import Tensor

from motionspec.checks import choice, message, positive, shapes, single
from motionspec.fused import FUSED

_HALF = (torch.bfloat16, torch.float16)
_FLOATING = (torch.float64, torch.float32, *_HALF)


def tensors(operator: str, impl: str, /, **arguments: Any) -> list[Tensor]:
    """Check tensors as `given` does, and return them in the type to compute in."""
    return [widened(tensor) for tensor in given(operator, impl, **arguments)]


def widened(tensor: Tensor) -> Tensor:
    """In the type to compute in: its own, but float32 for the half types; `.to(dtype)` then rounds once."""
    return tensor.float() if tensor.dtype in _HALF else tensor


def given(
    operator: str,
    impl: str,
    /,
    *,
    boolean: tuple[Any, ...] = (),
    integer: tuple[Any, ...] = (),
    **arguments: tuple[Any, str],
) -> list[Tensor]:
    """Check tensors against shape patterns (see `motionspec.checks.shapes`) and return them as they are.

    Arguments named in `boolean` or `integer`, not the first, must be of such a type.
    Raises TypeError unless the others are floating-point tensors of one dtype, ValueError for shapes, devices, `impl`.
    """
    choice(operator, "impl", impl, ("auto", "torch", *FUSED.get(operator, ())))
    first: Tensor | None = None
    for name, (tensor, _) in arguments.items():
        says = "a bool" if name in boolean else "an integer" if name in integer else "a floating-point"
        if not isinstance(tensor, Tensor) or _kind(tensor) != says:
            raise TypeError(message(operator, name, f"{says} torch tensor", _described(tensor)))
        first = tensor if first is None else first
        _like(operator, name, tensor, first)
    shapes(operator, **arguments)
    return [tensor for tensor, _ in arguments.values()]


def _like(operator: str, name: str, tensor: Tensor, first: Tensor) -> None:
    """Raise unless a tensor is on the device of the first argument and, if it is floating-point, of its dtype."""
    if tensor.is_floating_point() and tensor.dtype != first.dtype:
        raise TypeError(message(operator, name, f"{first.dtype} like the first argument", tensor.dtype))
    if tensor.device != first.device:
        raise ValueError(message(operator, name, f"device {first.device} like the first argument", tensor.device))


def _kind(tensor: Tensor) -> str:
    if not _is_dense(tensor):
        return "a sparse, quantised or nested"
    if tensor.dtype in _FLOATING:
        return "a floating-point"
    if tensor.is_complex() or tensor.is_floating_point():  # the types of eight bits and fewer, which compute nothing
        return "another"
    return "a bool" if tensor.dtype == torch.bool else "an integer"


def _is_dense(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_quantized


def _described(value: Any) -> str:
    """What came in place of a tensor that was expected."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    kind = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
    return f"a tensor of {value.dtype}" + ("" if kind == "strided" else f", {kind}")


def number(operator: str, argument: str, value: Any, first: Tensor) -> Any:
    """Check a number above 0, and return it in the type to compute in: a Python number, or a 0-d tensor.

    Of a tensor only type, device and size are checked, against `first`, the first argument. Raises TypeError for
    another type, ValueError for more or fewer elements, another device, or a Python number that is not finite or <= 0.
    """
    if isinstance(value, Tensor) and _kind(value) == "a floating-point":
        single(operator, argument, tuple(value.shape))
        _like(operator, argument, value, first)
        return widened(value).reshape(())
    if not isinstance(value, int | float):
        raise TypeError(message(operator, argument, "a number or a floating-point torch tensor", _described(value)))
    positive(operator, argument, value)
    return value
