"""Losses of the classifiers and of the flow. Definitions, conventions and sources: `motionspec.refimpl.losses`."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from motionspec.checks import choice, levels, positive, some, whole_ratios
from motionspec.ops.autocast import in_float32
from motionspec.ops.checks import given, tensors, widened
from motionspec.ops.support import by_eager, eager_gradients, no_second_derivative, select


def flow_pair(
    operator: str, impl: str, flow: Any, target: Any, mask: Any, *, mean: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Check a flow (N, 2, H, W) or (N, 2, T, H, W), its target and mask, and select out what the mask excludes.

    There both become 0, so that neither value nor gradient sees the NaN or 1e10 that stands for unknown.
    """
    found = _checked(operator, impl, _pair(flow, target), mask, mean)
    return found["flow"], found["target"], found.get("mask")


def _pair(flow: Any, target: Any) -> dict[str, tuple[Any, str]]:
    axes = "N 2 T H W" if getattr(flow, "ndim", 0) == 5 else "N 2 H W"
    return {"flow": (flow, axes), "target": (target, axes)}


def _listed(name: str, flows: Any, target: Any) -> dict[str, tuple[Any, str]]:
    listed = {f"{name}[{r}]": (flow, f"N 2 H{r} W{r}") for r, flow in enumerate(flows)}
    return listed | {"target": (target, "N 2 H W")}


def _checked(
    operator: str, impl: str, arguments: dict[str, tuple[Any, str]], mask: Any, mean: bool
) -> dict[str, Tensor]:
    """Check as `_given` does, and select out. In the type to compute in."""
    return _selected(_given(operator, impl, arguments, mask, mean))


def _selected(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """In the type to compute in; flow and target become 0 outside the mask."""
    found = {name: widened(tensor) for name, tensor in given.items()}
    if "mask" in found:
        for name in ("flow", "target"):  # a list of flows has a coarse mask each, see `_multiscale`
            if name in found:
                found[name] = torch.where(found["mask"], found[name], 0.0)
    return found


def _given(operator: str, impl: str, arguments: dict[str, tuple[Any, str]], mask: Any, mean: bool) -> dict[str, Tensor]:
    """Check scores and label if given, flows, target and mask if given, and return them as they are."""
    first, axes = next(iter(arguments)), arguments["target"][1]
    if mask is not None:
        arguments = arguments | {"mask": (mask, axes.replace("2", "1"))}
    checked = given(operator, impl, boolean=("mask",), integer=("label",), **arguments)
    found = dict(zip(arguments, checked, strict=True))
    if mean:
        some(operator, first, found["target"].shape[0])
    return found


def distance(difference: Tensor) -> Tensor:
    """Length of the vectors (N, 2, ...) -> (N, ...); at 0 its derivatives of every order are 0.

    Divided by the larger component, a constant to autograd, before it is squared: no square under- or overflows. The
    length does not depend on the divisor, so leaving it out of the graph is exact, to every order.
    """
    largest = difference.detach().abs().amax(1)
    zero = largest == 0
    u, v = (difference / torch.where(zero, 1.0, largest)[:, None]).unbind(1)
    return torch.where(zero, 0.0, largest * torch.sqrt(torch.where(zero, 1.0, u * u + v * v)))


def average(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of values (N, ...) that are 0 where the mask (N, 1, ...) is False, over where it is True; NaN if nowhere."""
    return values.mean() if mask is None else values.sum() / mask.sum()


@in_float32
def endpoint_error(
    flow: Tensor, target: Tensor, *, mask: Tensor | None = None, reduction: str = "sum", impl: str = "auto"
) -> Tensor:
    """L2 distance of two flows, summed over frames, pixels and the batch, or the mean over valid pixels (AF18 (1)).

    Shapes: flow, target (N, 2, H, W) or (N, 2, T, H, W), mask (N, 1, H, W) or (N, 1, T, H, W) of bool -> ().
    Neither value nor gradient depends on what stands outside the mask; at distance 0 the gradient is 0. An empty mask
    gives the mean NaN and the gradient 0: values are never looked at.
    Raises TypeError or ValueError for dtypes, devices, shapes, `reduction`, `impl`, or a mean over N = 0 samples.
    """
    choice("losses.endpoint_error", "reduction", reduction, ("sum", "mean"))
    return total_error("losses.endpoint_error", impl, flow, target, mask, reduction)


def total_error(operator: str, impl: str, flow: Any, target: Any, mask: Any, reduction: str) -> Tensor:
    """`endpoint_error`, in the name of `operator`."""
    mean = reduction == "mean"
    _given(operator, impl, _pair(flow, target), mask, mean)
    found = select(operator, impl, flow)
    if found == "triton":
        from motionspec.ops import losses_triton

        return losses_triton.endpoint_error(flow, target, mask, mean, impl != "auto")[0]
    if found == "numba":
        from motionspec.ops import losses_numba

        return losses_numba.endpoint_error(flow, target, mask, mean, impl != "auto")[0]
    return _total_error(flow, target, mask, reduction)


def _total_error(flow: Tensor, target: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    """By the eager operator, of tensors that are checked."""
    found = _selected({"flow": flow, "target": target} | ({} if mask is None else {"mask": mask}))
    return _endpoint_error(found["flow"], found["target"], mask, reduction).to(flow.dtype)


def _endpoint_error(flow: Tensor, target: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    distances = distance(flow - target)
    return distances.sum() if reduction == "sum" else average(distances, mask)


def register(endpoint_error: Any, backward: Any, impl: str) -> None:
    """What the operators of an implementation return, and the derivative of the first.

    `endpoint_error`: the sum or the mean, and the number of pixels that it was divided by. `backward`: the gradient for
    the flow, and its negative, that for the target, if both are asked for, else an empty tensor.
    """

    def value(flow: Tensor, target: Tensor, mask: Tensor | None, mean: bool, named: bool) -> tuple[Tensor, Tensor]:
        return flow.new_empty(()), flow.new_empty((), dtype=torch.float64)

    def gradients(
        flow: Tensor, target: Tensor, mask: Tensor | None, grad: Tensor, number: Tensor, both: bool
    ) -> tuple[Tensor, Tensor]:
        return flow.new_empty(flow.shape), flow.new_empty(flow.shape if both else 0)

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        flow, target, mask, ctx.mean, ctx.named = inputs
        ctx.save_for_backward(flow, target, mask, output[1])

    def derivative(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        flow, target, mask, number = ctx.saved_tensors
        both = ctx.needs_input_grad[1]
        if by_eager("losses.endpoint_error", impl, ctx.named, grad):
            reduction = "mean" if ctx.mean else "sum"
            found = eager_gradients(lambda a, b: _total_error(a, b, mask, reduction), (flow, target), grad)
        else:
            found = backward(flow, target, mask, grad, number, both)
        return found[0], found[1] if both else None, None, None, None

    endpoint_error.register_fake(value)
    backward.register_fake(gradients)
    endpoint_error.register_autograd(derivative, setup_context=save)
    backward.register_autograd(no_second_derivative("losses.endpoint_error", impl))


@in_float32
def multiscale_endpoint_error(
    flows: Sequence[Tensor],
    target: Tensor,
    *,
    alpha: Sequence[float],
    mask: Tensor | None = None,
    rescale: bool = True,
    reduction: str = "sum",
    impl: str = "auto",
) -> Tensor:
    """End-point errors of the outputs at several resolutions, weighted and added (AF18 (3)).

    Shapes: flows[r] (N, 2, H / k, W / l) with whole k, l of its own, target (N, 2, H, W), mask (N, 1, H, W) of bool,
    alpha one number above 0 per resolution -> (). A coarse pixel's target is the mean over the valid pixels it covers,
    u divided by l and v by k unless `rescale=False` (FlowNet's habit); one that covers none is left out.
    Gradients, empty masks and errors: as `endpoint_error`.
    """
    operator = "losses.multiscale_endpoint_error"
    choice(operator, "reduction", reduction, ("sum", "mean"))
    levels(operator, "flows", flows, alpha)
    found = _checked(operator, impl, _listed("flows", flows, target), mask, reduction == "mean")
    return _multiscale(operator, "flows", found, alpha, rescale, reduction).to(target.dtype)


def _multiscale(
    operator: str, name: str, found: dict[str, Tensor], alpha: Sequence[float], rescale: bool, reduction: str
) -> Tensor:
    flows = [found[f"{name}[{r}]"] for r in range(len(alpha))]
    whole_ratios(operator, name, flows, found["target"])
    errors = []
    for o, weight in zip(flows, alpha, strict=True):
        coarse, valid = _area_average(found["target"], found.get("mask"), o.shape[2], o.shape[3], rescale)
        if valid is not None:
            o = torch.where(valid, o, 0.0)
        errors.append(weight * _endpoint_error(o, coarse, valid, reduction))
    return torch.stack(errors).sum()


def _area_average(target: Tensor, mask: Tensor | None, h: int, w: int, rescale: bool) -> tuple[Tensor, Tensor | None]:
    """The target, 0 outside the mask, on a grid of h x w pixels, and which of these cover a valid pixel."""
    N, _, H, W = target.shape
    ky, kx = H // h, W // w
    blocks = target.reshape(N, 2, h, ky, w, kx)
    valid = None
    if mask is None:
        coarse = blocks.mean((3, 5))
    else:
        count = mask.reshape(N, 1, h, ky, w, kx).sum((3, 5))
        coarse, valid = blocks.sum((3, 5)) / count.clamp(min=1), count > 0
    if rescale:
        coarse = torch.stack([coarse[:, 0] / kx, coarse[:, 1] / ky], 1)
    return coarse, valid


@in_float32
def multitask(
    scores: Tensor,
    label: Tensor,
    flow: Tensor | Sequence[Tensor],
    target: Tensor,
    *,
    lam: float,
    alpha: Sequence[float] | None = None,
    mask: Tensor | None = None,
    rescale: bool = True,
    reduction: str = "sum",
    impl: str = "auto",
) -> Tensor:
    """Cross entropy + lambda * end-point error (AF18 (2); with `alpha` and a list of flows, (4)).

    Shapes: scores (N, K), label (N,) of integers in 0 .. K-1; flow, target, mask as `endpoint_error` or, with `alpha`,
    as `multiscale_endpoint_error` -> (). `reduction` is that of both losses; lam is a number above 0.
    Gradients and errors: as the two losses.
    """
    operator = "losses.multitask"
    positive(operator, "lam", lam)
    choice(operator, "reduction", reduction, ("sum", "mean"))
    if alpha is not None:
        levels(operator, "flow", flow, alpha)
    arguments = {"scores": (scores, "N K"), "label": (label, "N")}
    arguments |= _pair(flow, target) if alpha is None else _listed("flow", flow, target)
    found = _checked(operator, impl, arguments, mask, reduction == "mean")
    recognition = _reduced(operator, _cross_entropy(found["scores"], found["label"]), found["scores"], reduction)
    if alpha is None:
        estimation = _endpoint_error(found["flow"], found["target"], found.get("mask"), reduction)
    else:
        estimation = _multiscale(operator, "flow", found, alpha, rescale, reduction)
    return (recognition + lam * estimation).to(scores.dtype)


@in_float32
def consensus(scores: Tensor, *, impl: str = "auto") -> Tensor:
    """A video's score: the mean of its segments' scores before the softmax (OFF18 (8)).

    Shapes: scores (N, T, K) -> (N, K).
    Raises TypeError or ValueError for dtypes, shapes or `impl`.
    """
    (a,) = tensors("losses.consensus", impl, scores=(scores, "N T K"))
    return a.mean(1).to(scores.dtype)


@in_float32
def cross_entropy(scores: Tensor, label: Tensor, *, reduction: str = "sum", impl: str = "auto") -> Tensor:
    """Negative log-softmax of the true class, summed over the batch or its mean (OFF18 (9), RF19 (11)).

    Shapes: scores (N, K), label (N,) of integers in 0 .. K-1 -> (). A label outside gives NaN.
    Raises TypeError or ValueError for dtypes, devices, shapes, `reduction`, `impl`, or a mean over N = 0 samples.
    """
    choice("losses.cross_entropy", "reduction", reduction, ("sum", "mean"))
    arguments = {"scores": (scores, "N K"), "label": (label, "N")}
    a, y = tensors("losses.cross_entropy", impl, integer=("label",), **arguments)
    return _reduced("losses.cross_entropy", _cross_entropy(a, y), a, reduction).to(scores.dtype)


def _cross_entropy(scores: Tensor, label: Tensor) -> Tensor:
    """The sum over all samples."""
    return surprise(scores, label).sum()


def surprise(scores: Tensor, label: Tensor) -> Tensor:
    """Of each sample: scores (N, K), label (N,) -> (N,). A label outside, which torch refuses or ignores, gives NaN."""
    known = label.long()
    inside = known.clamp(0, scores.shape[1] - 1)
    each = F.cross_entropy(scores, inside, reduction="none")
    return each.masked_fill(inside != known, torch.nan)


def _reduced(operator: str, total: Tensor, scores: Tensor, reduction: str) -> Tensor:
    """The sum over the samples, or the mean of them."""
    if reduction == "sum":
        return total
    some(operator, "scores", scores.shape[0])
    return total / scores.shape[0]


@in_float32
def intermediate_supervision(scores: Tensor, label: Tensor, *, reduction: str = "sum", impl: str = "auto") -> Tensor:
    """The cross entropies of all levels, added (OFF18 §4.2).

    Shapes: scores (N, L, K), the consensus of each of L levels, label (N,) of integers in 0 .. K-1 -> ().
    `reduction="mean"` divides by N, never by L. Errors: as `cross_entropy`.
    """
    choice("losses.intermediate_supervision", "reduction", reduction, ("sum", "mean"))
    arguments = {"scores": (scores, "N L K"), "label": (label, "N")}
    a, y = tensors("losses.intermediate_supervision", impl, integer=("label",), **arguments)
    total = _cross_entropy(a.flatten(0, 1), y[:, None].expand(a.shape[:2]).flatten())
    return _reduced("losses.intermediate_supervision", total, a, reduction).to(scores.dtype)
