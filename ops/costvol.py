"""Cost volume and displacement map (DC18 §3.3). Definitions, conventions and sources: `motionspec.refimpl.costvol`."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from motionspec.checks import choice, odd_window, positive, radii
from motionspec.ops.autocast import promoted
from motionspec.ops.checks import given, tensors, widened
from motionspec.ops.support import by_eager, eager_gradients, select


@promoted
def cosine(
    f0: Tensor, f1: Tensor, *, radius: int | tuple[int, int], border: str = "zero", impl: str = "auto"
) -> Tensor:
    """Cost volume: the cosine of `f0(i, j)` and `f1(i + di, j + dj)` over a window (DC18 §3.3).

    Shapes: f0, f1 (N, C, H, W) -> (N, H, W, 2 R_h + 1, 2 R_w + 1), radius an int or (R_h, R_w).
    Outside the map: 0 (`border="zero"`) or -inf (`"exclude"`). A zero vector has similarity 0 and derivative 0.
    Raises TypeError or ValueError for dtypes, devices, shapes, `radius`, `border` or `impl`.
    """
    R_h, R_w = radii("costvol.cosine", radius)
    choice("costvol.cosine", "border", border, ("zero", "exclude"))
    a, b = tensors("costvol.cosine", impl, f0=(f0, "N C H W"), f1=(f1, "N C H W"))
    return _cosine(a, b, R_h, R_w, border).to(f0.dtype)


@promoted
def marginals(c: Tensor, *, tau: float, impl: str = "auto") -> tuple[Tensor, Tensor]:
    """Marginals of the joint softmax of `c / tau` over the window (DC18 (2)).

    Shapes: c (N, H, W, 2 R_h + 1, 2 R_w + 1) -> rho_y (N, H, W, 2 R_h + 1), rho_x (N, H, W, 2 R_w + 1).
    A score of -inf has weight 0; a window that holds NaN or +inf, or -inf only, gives NaN.
    Raises TypeError or ValueError for dtypes, shapes, even sides, `tau` or `impl`.
    """
    positive("costvol.marginals", "tau", tau)
    (a,) = _volume("costvol.marginals", impl, c)
    rho = _logits(a, tau).softmax(3).unflatten(3, a.shape[3:])
    return rho.sum(4).to(c.dtype), rho.sum(3).to(c.dtype)


@promoted
def soft_displacement(c: Tensor, *, tau: float, impl: str = "auto") -> Tensor:
    """Expected offset under `marginals` (DC18 (1)).

    Shapes: c (N, H, W, 2 R_h + 1, 2 R_w + 1) -> (N, 2, H, W): u (right), v (down), in pixels. Values as `marginals`.
    Raises TypeError or ValueError for dtypes, shapes, even sides, `tau` or `impl`.
    """
    positive("costvol.soft_displacement", "tau", tau)
    (a,) = _volume("costvol.soft_displacement", impl, c)
    return _expected(a, tau).to(c.dtype)


@promoted
def hard_displacement(c: Tensor, *, impl: str = "auto") -> Tensor:
    """Offset of the highest score, winner takes all (DC18 §3.3); the derivative is 0.

    Shapes: c (N, H, W, 2 R_h + 1, 2 R_w + 1) -> (N, 2, H, W): u (right), v (down), in pixels. Values as `marginals`.
    Scores within 1e-6 (float64: 1e-12) of the maximum are tied: the nearest wins, then the first in row-major order.
    Raises TypeError or ValueError for dtypes, shapes, even sides or `impl`.
    """
    (a,) = _volume("costvol.hard_displacement", impl, c)
    P, Q = a.shape[3:]
    highest = a.detach().amax((3, 4), keepdim=True)
    tied = a.detach() >= highest - (1e-12 if a.dtype == torch.float64 else 1e-6)
    di, dj = _offsets(P, torch.int64, a)[:, None], _offsets(Q, torch.int64, a)
    place = (di + P // 2) * Q + dj + Q // 2
    rank = (di * di + dj * dj) * (P * Q) + place  # unique, so argmin has no tie of its own
    chosen = torch.where(tied, rank, (P * P + Q * Q) * P * Q).flatten(3).argmin(3)
    offset = torch.stack([chosen % Q - Q // 2, chosen // Q - P // 2], 1).to(a.dtype)
    none = a.masked_fill(torch.ones_like(tied), 0.0).sum((3, 4))[:, None]  # 0, and a gradient of 0 rather than none
    return torch.where(highest[..., 0, 0].isfinite()[:, None], offset + none, torch.nan).to(c.dtype)


@promoted
def displacement_map(
    f0: Tensor, f1: Tensor, *, radius: int | tuple[int, int], tau: float, border: str = "zero", impl: str = "auto"
) -> Tensor:
    """The apparent motion from one feature map to the next: `soft_displacement` of `cosine` (DC18 §3.3).

    Shapes: f0, f1 (N, C, H, W) -> (N, 2, H, W): u (right), v (down), in pixels, from f0 to f1.
    radius, border as `cosine`, tau as `marginals`.
    Raises TypeError or ValueError for dtypes, devices, shapes, `radius`, `tau`, `border` or `impl`.
    """
    R_h, R_w = radii("costvol.displacement_map", radius)
    positive("costvol.displacement_map", "tau", tau)
    choice("costvol.displacement_map", "border", border, ("zero", "exclude"))
    given("costvol.displacement_map", impl, f0=(f0, "N C H W"), f1=(f1, "N C H W"))
    large = f"radius={radius!r}, above 12" if max(R_h, R_w) > 12 else None
    chosen = select("costvol.displacement_map", impl, f0, triton=large)
    if chosen == "triton":
        from motionspec.ops import costvol_triton

        return costvol_triton.displacement_map(f0, f1, R_h, R_w, tau, border == "exclude", impl != "auto")[0]
    if chosen == "numba":
        from motionspec.ops import costvol_numba

        return costvol_numba.displacement_map(f0, f1, R_h, R_w, float(tau), border == "exclude", impl != "auto")
    return _displacement_map(f0, f1, R_h, R_w, tau, border)


def _displacement_map(f0: Tensor, f1: Tensor, R_h: int, R_w: int, tau: float, border: str) -> Tensor:
    """By the eager operator."""
    return _expected(_cosine(widened(f0), widened(f1), R_h, R_w, border), tau).to(f0.dtype)


def eager_derivative(ctx: Any, impl: str, grad: Tensor) -> tuple[Tensor | None, ...] | None:
    """The gradients of a kernel's `displacement_map` where the eager operator must give them, else None.

    `ctx` has saved the two maps first, and holds all other arguments as `options`.
    """
    R_h, R_w, tau, exclude, named = ctx.options
    if not by_eager("costvol.displacement_map", impl, named, grad):
        return None
    border = "exclude" if exclude else "zero"
    maps = ctx.saved_tensors[:2]
    return eager_gradients(lambda f0, f1: _displacement_map(f0, f1, R_h, R_w, tau, border), maps, grad)


def _volume(operator: str, impl: str, c: Tensor) -> list[Tensor]:
    """The cost volume, checked."""
    found = tensors(operator, impl, c=(c, "N H W Kh Kw"))
    odd_window(operator, "c", c.shape)
    return found


def _offsets(side: int, dtype: torch.dtype, like: Tensor) -> Tensor:
    """-R .. R for a side of 2R + 1."""
    return torch.arange(-(side // 2), side // 2 + 1, dtype=dtype, device=like.device)


def _unit(f: Tensor) -> Tensor:
    """f / |f| along the channels; value and derivative 0 where f = 0.

    Divided by its largest component first: the squares neither under- nor overflow. The result does not depend on that
    divisor, so leaving it out of the graph is exact, to every order.
    """
    largest = f.detach().abs().amax(1, keepdim=True)
    zero = largest == 0
    f = f / torch.where(zero, 1.0, largest)
    return torch.where(zero, 0.0, f / torch.where(zero, 1.0, f.square().sum(1, keepdim=True)).sqrt())


def _cosine(f0: Tensor, f1: Tensor, R_h: int, R_w: int, border: str) -> Tensor:
    """Pad and slice, one offset at a time: nothing larger than a map beside the volume."""
    H, W = f0.shape[2:]
    e0, e1 = _unit(f0), F.pad(_unit(f1), (R_w, R_w, R_h, R_h))
    scores = [(e0 * e1[:, :, i : i + H, j : j + W]).sum(1) for i in range(2 * R_h + 1) for j in range(2 * R_w + 1)]
    c = torch.stack(scores, 3).unflatten(3, (2 * R_h + 1, 2 * R_w + 1))
    if border == "zero":
        return c
    i = torch.arange(H, device=c.device)[:, None] + _offsets(2 * R_h + 1, torch.int64, c)
    j = torch.arange(W, device=c.device)[:, None] + _offsets(2 * R_w + 1, torch.int64, c)
    rows, columns = (i >= 0) & (i < H), (j >= 0) & (j < W)  # (H, 2 R_h + 1), (W, 2 R_w + 1)
    return torch.where(rows[:, None, :, None] & columns[:, None, :], c, -torch.inf)


def _logits(c: Tensor, tau: float) -> Tensor:
    """Of the softmax over a window as one axis, the last.

    The maximum is taken off before the division, which would round it; the result does not depend on it.
    """
    c = c.flatten(3)
    return (c - c.detach().amax(3, keepdim=True)).div_(tau)


def _expected(c: Tensor, tau: float) -> Tensor:
    """Divided last, so that equal scores, whose offsets add up to 0, give 0 and not what rounding leaves of it."""
    v, u = torch.meshgrid(*(_offsets(side, c.dtype, c) for side in c.shape[3:]), indexing="ij")
    weight = _logits(c, tau).exp()
    return (weight @ torch.stack([u.flatten(), v.flatten()], 1) / weight.sum(3, keepdim=True)).movedim(3, 1)
