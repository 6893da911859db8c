"""Which implementation an operator runs: decided by what is asked and installed, never by an exception."""

import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad

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
    "auto" takes the eager operator under a transform, for which kernels have no rule.
    Raises ValueError for an `impl` that the operator does not have, and for one by name that cannot do what is asked.
    """
    choice(operator, "impl", impl, ("auto", "torch", *FUSED.get(operator, ())))
    if impl == "auto" and (torch.compiler.is_exporting() or transforming()):
        return "torch"  # a saved program, or ONNX, knows nothing of our kernels
    if impl == "auto":
        able = (name for name in FUSED.get(operator, ()) if not (unsupported.get(name) or _lacks(name, first, True)))
        return next(able, "torch")
    if impl != "torch":
        reason = unsupported.get(impl) or _lacks(impl, first, False) or (_TRANSFORMS if transforming() else "")
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


# -- transforms --------------------------------------------------------------------------------------------------------

_TRANSFORMS = "a rule for torch.func's transforms and forward-mode derivatives"


def transforming() -> bool:
    """Whether a transform of torch.func or a level of forward-mode AD is active.

    A registered operator without a rule for them silently loses its tangent. torch has no public question for this and
    for `_batched`: the names are private, here alone, and `tests/test_support.py` says which versions have them.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _batched(grad: Tensor) -> bool:
    """Whether a gradient is one of many at once, by `is_grads_batched=True`."""
    return torch._C._functorch.is_legacy_batchedtensor(grad)


def by_eager(operator: str, impl: str, named: bool, *grads: Tensor, linear: bool = False) -> bool:
    """Whether a derivative that is computed now must be the eager operator's, because the kernel's has no derivative.

    So it is where it will be differentiated again (grad mode is on within a backward for `create_graph=True` alone),
    unless the kernel is `linear` and has all derivatives; and of gradients under a transform, or many at once.
    `named`: the kernel was asked for by name, and refuses. Raises NotImplementedError if so under a transform; the
    second derivative is refused where it is asked for, by `no_second_derivative`.
    """
    transformed = transforming() or any(map(_batched, grads))
    if not named:
        return transformed or (torch.is_grad_enabled() and not linear)
    if transformed:
        raise NotImplementedError(message(operator, "impl", "'torch' for batched gradients and transforms", repr(impl)))
    return False


def eager_gradients(
    function: Callable[..., Tensor | Sequence[Tensor]], inputs: Sequence[Tensor], grads: Tensor | Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """The gradients of an eager function of some tensors, None for those that need none, to be differentiated again."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, because a tensor that is given twice has a gradient for each of its places.
        places = [tensor.view_as(tensor) for tensor in inputs]
        outputs = function(*places)
        wanted = [place for place in places if place.requires_grad]
        found = iter(torch.autograd.grad(outputs, wanted, grads, create_graph=again, materialize_grads=True))
    return tuple(next(found) if place.requires_grad else None for place in places)


def no_second_derivative(operator: str, impl: str) -> Callable[..., NoReturn]:
    """The derivative of a backward kernel that has none: only one asked for by name is ever asked for its own."""

    def refuse(ctx: Any, *grads: Any) -> NoReturn:
        raise NotImplementedError(message(operator, "impl", "'torch' for a second derivative", repr(impl)))

    return refuse
