"""What operators do under `torch.autocast`. Outside it the types of their arguments must agree.

Under it tensors of different floating-point types meet: features in bfloat16 out of a convolution, a flow in float32.
They are converted to the widest of their types, as torch does for `grid_sample`; for a loss to float32 at least, as
torch does for its own. The operator then runs with autocast off, because a product of matrices within it would else be
computed in bfloat16.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
_FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def promoted(function: Callable[P, R]) -> Callable[P, R]:
    """The operator, which under autocast takes its tensors in the widest of their types."""
    return _converting(function, ())


def in_float32(function: Callable[P, R]) -> Callable[P, R]:
    """The loss, which under autocast takes its tensors in the widest of their types, float32 at least."""
    return _converting(function, (torch.float32,))


def _converting(function: Callable[P, R], least: tuple[torch.dtype, ...]) -> Callable[P, R]:
    @functools.wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> R:
        device = _device(args) or _device(options.values())
        if device is None or not torch.is_autocast_enabled(device):
            return function(*args, **options)
        types = {tensor.dtype for tensor in _tensors([*args, *options.values()]) if tensor.dtype in _FLOATING}
        widest = functools.reduce(torch.promote_types, [*least, *types]) if types else torch.float32
        given: Any = [_to(value, widest) for value in args]
        named: Any = {name: _to(value, widest) for name, value in options.items()}
        with torch.autocast(device, enabled=False):
            return function(*given, **named)

    return call


def _device(values: Any) -> str | None:
    """The type of the device that the first tensor is on; None without a tensor, or where there is no autocast."""
    for value in values:
        if isinstance(value, Tensor):
            return None if value.device.type == "meta" else value.device.type
    return None


def _tensors(values: list[Any]) -> Iterator[Tensor]:
    """The tensors among some arguments, in lists and dictionaries too."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(list(value))
        elif isinstance(value, Mapping):
            yield from _tensors(list(value.values()))


def _to(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.dtype in _FLOATING else value
    if isinstance(value, list | tuple):
        return type(value)([_to(element, dtype) for element in value])
    if isinstance(value, Mapping):
        return {key: _to(element, dtype) for key, element in value.items()}
    return value
