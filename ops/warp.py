"""Warping by a flow field (DC18 §3.4). Definitions, conventions and sources: `motionspec.refimpl.warp`."""

from typing import Any

import torch
from torch import Tensor

from motionspec.checks import choice
from motionspec.ops.autocast import promoted
from motionspec.ops.checks import given, widened
from motionspec.ops.support import by_eager, eager_gradients, no_second_derivative, select


@promoted
def bilinear(x: Tensor, flow: Tensor, *, outside: str = "zero", impl: str = "auto") -> Tensor:
    """Value of `x` at `p + flow(p)` by bilinear interpolation (DC18 §3.4).

    Shapes: x (N, C, H, W), flow (N, 2, H, W) -> (N, C, H, W). Flow in pixels, channel 0 = u (right), 1 = v (down).
    `outside="zero"` cuts to 0 where the source point leaves the map, `"blend"` counts the taps outside as 0.
    A NaN in the flow gives NaN at that pixel and no derivative; infinite or huge flow is outside.
    Raises TypeError or ValueError for dtypes, devices, shapes, `outside` or `impl`; never looks at values.
    """
    choice("warp.bilinear", "outside", outside, ("zero", "blend"))
    given("warp.bilinear", impl, x=(x, "N C H W"), flow=(flow, "N 2 H W"))
    return _warp("warp.bilinear", impl, x, flow, None, outside)


@promoted
def motion(x: Tensor, flow: Tensor, *, outside: str = "zero", impl: str = "auto") -> Tensor:
    """Move `x` along `flow`: `W(F_t, V_t)(p) = F_t(p - V_t(p))` (DC18 §3.4).

    Shapes: x (N, C, H, W), flow (N, 2, H, W) -> (N, C, H, W). Units, `outside`, errors: as `bilinear`.
    """
    choice("warp.motion", "outside", outside, ("zero", "blend"))
    given("warp.motion", impl, x=(x, "N C H W"), flow=(flow, "N 2 H W"))
    return _warp("warp.motion", impl, x, flow, None, outside)


@promoted
def difference(f0: Tensor, f1: Tensor, flow: Tensor, *, outside: str = "zero", impl: str = "auto") -> Tensor:
    """Warped difference `F_(t+1) - W(F_t, V_t)`: the change that motion does not explain (DC18 §3.4).

    Shapes: f0, f1 (N, C, H, W), flow (N, 2, H, W) -> (N, C, H, W). Units, `outside`, errors: as `bilinear`.
    """
    choice("warp.difference", "outside", outside, ("zero", "blend"))
    given("warp.difference", impl, f0=(f0, "N C H W"), f1=(f1, "N C H W"), flow=(flow, "N 2 H W"))
    return _warp("warp.difference", impl, f0, flow, f1, outside)


def _warp(operator: str, impl: str, x: Tensor, flow: Tensor, later: Tensor | None, outside: str) -> Tensor:
    """The operator of that name, of tensors that it has checked; `later` is the frame that `difference` starts from."""
    chosen = select(operator, impl, x)
    if chosen == "triton":
        from motionspec.ops import warp_triton

        return warp_triton.warp(x, flow, later, operator, outside == "blend", impl != "auto")
    if chosen == "numba":
        from motionspec.ops import warp_numba

        return warp_numba.warp(x, flow, later, operator, outside == "blend", impl != "auto")
    warped = _warped(x, flow, operator, outside)
    return (warped if later is None else widened(later) - warped).to(x.dtype)


def _warped(x: Tensor, flow: Tensor, operator: str, outside: str) -> Tensor:
    """By the eager operator, in the type to compute in; of `difference`, what is taken off."""
    d = widened(flow)
    return _bilinear(widened(x), d if operator == "warp.bilinear" else -d, outside)


def register(forward: Any, backward: Any, impl: str) -> None:
    """What the operators of an implementation return, and their derivatives: the second one has none."""

    def warped(x: Tensor, flow: Tensor, later: Tensor | None, operator: str, blend: bool, named: bool) -> Tensor:
        return x.new_empty(x.shape)

    def gradients(
        x: Tensor, flow: Tensor, grad: Tensor, operator: str, blend: bool, to_x: bool, to_flow: bool
    ) -> tuple[Tensor, Tensor]:
        return x.new_empty(x.shape if to_x else 0), flow.new_empty(flow.shape if to_flow else 0)

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, flow, _, ctx.operator, ctx.blend, ctx.named = inputs
        ctx.save_for_backward(x, flow)

    def derivative(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        to_x, to_flow, to_later, *_ = ctx.needs_input_grad
        if by_eager(ctx.operator, impl, ctx.named, grad):
            for_x, for_flow = again(ctx.saved_tensors, grad, ctx.operator, "blend" if ctx.blend else "zero")
        else:
            for_x, for_flow = backward(*ctx.saved_tensors, grad, ctx.operator, ctx.blend, to_x, to_flow)
        return (for_x if to_x else None, for_flow if to_flow else None, grad if to_later else None, *[None] * 3)

    def again(
        saved: tuple[Tensor, Tensor], grad: Tensor, operator: str, outside: str
    ) -> tuple[Tensor | None, Tensor | None]:
        def function(x: Tensor, flow: Tensor) -> Tensor:
            return _warped(x, flow, operator, outside).to(x.dtype)

        for_x, for_flow = eager_gradients(function, saved, -grad if operator == "warp.difference" else grad)
        return for_x, for_flow

    def keep_operator(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.operator = inputs[3]

    forward.register_fake(warped)
    backward.register_fake(gradients)
    forward.register_autograd(derivative, setup_context=save)
    backward.register_autograd(
        lambda ctx, *grads: no_second_derivative(ctx.operator, impl)(ctx), setup_context=keep_operator
    )


def leaves_map(flow: Tensor) -> Tensor:
    """Where p + flow(p) lies outside [0, W-1] x [0, H-1]: bool (N, 1, H, W), False for NaN.

    Decided by -p <= flow <= W-1-p on the flow itself: the sum p + flow is rounded and may land on the wrong side.
    """
    px, py = _positions(flow)
    (u, v), (H, W) = flow.unbind(1), flow.shape[-2:]
    return ((u < -px) | (u > W - 1 - px) | (v < -py) | (v > H - 1 - py))[:, None]


def _positions(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel coordinates x (W) and y (H, 1), in the flow's dtype."""
    H, W = flow.shape[-2:]
    px = torch.arange(W, dtype=flow.dtype, device=flow.device)
    py = torch.arange(H, dtype=flow.dtype, device=flow.device)
    return px, py[:, None]


def _bilinear(x: Tensor, flow: Tensor, outside: str) -> Tensor:
    """The warp in the dtype of its inputs. Four gathers: linear in x, so every order of derivative exists.

    Gather, not index_select: the compiled CPU backward of the latter corrupts memory in torch 2.13.
    """
    N, C, H, W = x.shape
    px, py = _positions(flow)
    u, v = flow.unbind(1)
    nan = torch.isnan(u) | torch.isnan(v)
    if outside == "zero":
        gone = leaves_map(flow)[:, 0]
    else:  # all four taps are outside; at -1 exactly the derivative from above still reaches x[0]
        gone = (u < -1 - px) | (u >= W - px) | (v < -1 - py) | (v >= H - py)
    # Replaced before anything is computed from it: neither value nor gradient sees infinity or NaN.
    still = gone | nan
    u, v = torch.where(still, 0.0, u), torch.where(still, 0.0, v)
    floor_u, floor_v = torch.floor(u.detach()), torch.floor(v.detach())
    if outside == "zero":  # on the last column the taps are W-2 and W-1: the derivative from below
        floor_u = torch.where(px + floor_u == W - 1, floor_u - 1, floor_u)
        floor_v = torch.where(py + floor_v == H - 1, floor_v - 1, floor_v)
    du, dv = (u - floor_u)[:, None], (v - floor_v)[:, None]
    qx, qy = (px + floor_u).long(), (py + floor_v).long()
    flat = x.reshape(N, C, H * W)

    def tap(dx: int, dy: int) -> Tensor:
        tx, ty = qx + dx, qy + dy
        index = (ty.clamp(0, H - 1) * W + tx.clamp(0, W - 1)).reshape(N, 1, H * W).expand(N, C, H * W)
        value = flat.gather(2, index).reshape(N, C, H, W)
        if outside == "zero":  # the clamp acts along a side of length 1 only: both taps equal, the derivative is 0
            return value
        return torch.where(((tx >= 0) & (tx < W) & (ty >= 0) & (ty < H))[:, None], value, 0.0)

    top = (1 - du) * tap(0, 0) + du * tap(1, 0)
    bottom = (1 - du) * tap(0, 1) + du * tap(1, 1)
    out = torch.where(gone[:, None], 0.0, (1 - dv) * top + dv * bottom)
    return torch.where(nan[:, None], torch.nan, out)
