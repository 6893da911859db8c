"""Optical flow guided feature (OFF18 §4.1, OFF20 §7.1). Definitions and conventions: `motionspec.refimpl.off`."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from motionspec.checks import choice, message
from motionspec.ops import brightness
from motionspec.ops.autocast import promoted
from motionspec.ops.checks import given, tensors, widened
from motionspec.ops.support import by_eager, select

# Weight of the middle line across the derivative; the outer lines weigh 1.
_MIDDLE = {"paper": 1.0, "sobel": 2.0}


@promoted
def spatial_gradient(f: Tensor, kernel: str = "paper", *, impl: str = "auto") -> tuple[Tensor, Tensor]:
    """The two printed 3 x 3 kernels on every channel, zero padding (OFF18 (5), (6)).

    Shapes: f (N, C, H, W) -> Fx, Fy (N, C, H, W); Fx = +6 df/dx, Fy = -6 df/dy with y down (`kernel="sobel"`: 8).
    Raises TypeError or ValueError for dtypes, shapes, `kernel` or `impl`.
    """
    choice("off.spatial_gradient", "kernel", kernel, tuple(_MIDDLE))
    (a,) = tensors("off.spatial_gradient", impl, f=(f, "N C H W"))
    if select("off.spatial_gradient", impl, f) == "numba":
        from motionspec.ops import off_numba

        Fx, Fy = off_numba.spatial_gradient(f, _MIDDLE[kernel], impl != "auto")
        return Fx, Fy
    Fx, Fy = _spatial(a, _MIDDLE[kernel])
    return Fx.to(f.dtype), Fy.to(f.dtype)


@promoted
def cross_gradient(f: Tensor, *, impl: str = "auto") -> Tensor:
    """The released code's single map: right - left + up - down, zero padding.

    Shapes: f (N, C, H, W) -> (N, C, H, W), +2 df/dx - 2 df/dy with y down.
    Raises TypeError or ValueError for dtypes, shapes or `impl`.
    """
    (a,) = tensors("off.cross_gradient", impl, f=(f, "N C H W"))
    return _cross(a).to(f.dtype)


@promoted
def temporal_difference(f_prev: Tensor, f_next: Tensor, *, impl: str = "auto") -> Tensor:
    """`f_t - f_(t-dt)`, later minus earlier (OFF18 (7)).

    Shapes: f_prev, f_next (N, C, H, W) -> (N, C, H, W).
    Raises TypeError or ValueError for dtypes, devices, shapes or `impl`.
    """
    a, b = tensors("off.temporal_difference", impl, f_prev=(f_prev, "N C H W"), f_next=(f_next, "N C H W"))
    return (b - a).to(f_next.dtype)


@promoted
def features(f_prev: Tensor, f_next: Tensor, kernel: str = "paper", *, impl: str = "auto") -> Tensor:
    """The feature of a pair, `[Fx | Fy | Ft]`, spatial part at the earlier frame (OFF18 §4.1, Fig. 4).

    Shapes: f_prev, f_next (N, C, H, W) -> (N, 3C, H, W).
    Raises TypeError or ValueError for dtypes, devices, shapes, `kernel` or `impl`.
    """
    choice("off.features", "kernel", kernel, tuple(_MIDDLE))
    given("off.features", impl, f_prev=(f_prev, "N C H W"), f_next=(f_next, "N C H W"))
    found = select("off.features", impl, f_prev)
    if found == "triton":
        from motionspec.ops import off_triton

        return off_triton.features(f_prev, f_next, _MIDDLE[kernel], impl != "auto")
    if found == "numba":
        from motionspec.ops import off_numba

        return off_numba.features(f_prev, f_next, _MIDDLE[kernel], impl != "auto")
    a, b = widened(f_prev), widened(f_next)
    return torch.cat([*_spatial(a, _MIDDLE[kernel]), b - a], 1).to(f_prev.dtype)


@promoted
def clip_features(clip: Tensor, kernel: str = "paper", *, impl: str = "auto") -> Tensor:
    """`features` of every pair of neighbouring frames within a clip (OFF18 §4.1, Fig. 4).

    Shapes: clip (N, C, T, H, W), T >= 2 -> (N, 3C, T-1, H, W).
    Raises TypeError or ValueError for dtypes, shapes, T < 2, `kernel` or `impl`.
    """
    choice("off.clip_features", "kernel", kernel, tuple(_MIDDLE))
    given("off.clip_features", impl, clip=(clip, "N C T H W"))
    if clip.shape[2] < 2:
        raise ValueError(message("off.clip_features", "clip", "at least T=2 frames", f"T={clip.shape[2]}"))
    found = select("off.clip_features", impl, clip)
    if found == "triton":
        from motionspec.ops import off_triton

        return off_triton.clip_features(clip, _MIDDLE[kernel], impl != "auto")
    if found == "numba":
        from motionspec.ops import off_numba

        return off_numba.clip_features(clip, _MIDDLE[kernel], impl != "auto")
    return _clip_features(clip, _MIDDLE[kernel])


def _clip_features(clip: Tensor, middle: float) -> Tensor:
    """By the eager operator."""
    a = widened(clip)
    earlier, later = a[:, :, :-1], a[:, :, 1:]
    return torch.cat([*_spatial(earlier, middle), later - earlier], 1).to(clip.dtype)


def _clip_adjoint(grad: Tensor, middle: float) -> Tensor:
    """The gradient of `_clip_features`: (N, 3C, T-1, H, W) -> (N, C, T, H, W)."""
    Fx, Fy, Ft = widened(grad).chunk(3, 1)
    earlier = F.pad(_spatial_adjoint(Fx, Fy, middle) - Ft, (0, 0, 0, 0, 0, 1))
    return (earlier + F.pad(Ft, (0, 0, 0, 0, 1, 0))).to(grad.dtype)


def register_spatial(forward: Any, adjoint: Any, impl: str, empty: Callable[[Tensor, tuple[int, ...]], Tensor]) -> None:
    """As `register`, of `spatial_gradient`: each is the derivative of the other."""

    def gradients(f: Tensor, middle: float, named: bool) -> tuple[Tensor, Tensor]:
        return empty(f, tuple(f.shape)), empty(f, tuple(f.shape))

    def eager_forward(f: Tensor, middle: float) -> tuple[Tensor, Tensor]:
        Fx, Fy = _spatial(widened(f), middle)
        return Fx.to(f.dtype), Fy.to(f.dtype)

    def eager_adjoint(Fx: Tensor, Fy: Tensor, middle: float) -> Tensor:
        return _spatial_adjoint(widened(Fx), widened(Fy), middle).to(Fx.dtype)

    forward.register_fake(gradients)
    adjoint.register_fake(lambda Fx, Fy, middle, named: empty(Fx, tuple(Fx.shape)))
    _each_other("off.spatial_gradient", impl, forward, adjoint, eager_adjoint)
    _each_other("off.spatial_gradient", impl, adjoint, forward, eager_forward)


def register(
    features: Any, clip_features: Any, adjoint: Any, impl: str, empty: Callable[[Tensor, tuple[int, ...]], Tensor]
) -> None:
    """What the operators of an implementation return, as `empty` lays it out, and their derivatives.

    They are linear: each one's derivative is the other, and so is the derivative of that.
    """

    def of_pair(f_prev: Tensor, f_next: Tensor, middle: float, named: bool) -> Tensor:
        N, C, H, W = f_prev.shape
        return empty(f_prev, (N, 3 * C, H, W))

    def of_clip(clip: Tensor, middle: float, named: bool) -> Tensor:
        N, C, T, H, W = clip.shape
        return empty(clip, (N, 3 * C, T - 1, H, W))

    def gradient(grad: Tensor, middle: float, named: bool) -> Tensor:
        N, C3, pairs, H, W = grad.shape
        return empty(grad, (N, C3 // 3, pairs + 1, H, W))

    def pair_adjoint(grad: Tensor, middle: float, named: bool) -> tuple[Tensor, ...]:
        return adjoint(grad.unsqueeze(2), middle, named).unbind(2)

    def eager_pair_adjoint(grad: Tensor, middle: float) -> tuple[Tensor, ...]:
        return _clip_adjoint(grad.unsqueeze(2), middle).unbind(2)

    features.register_fake(of_pair)
    clip_features.register_fake(of_clip)
    adjoint.register_fake(gradient)
    _each_other("off.features", impl, features, pair_adjoint, eager_pair_adjoint)
    _each_other("off.clip_features", impl, clip_features, adjoint, _clip_adjoint)
    _each_other("off.clip_features", impl, adjoint, clip_features, _clip_features)


def _each_other(operator: str, impl: str, forward: Any, derivative: Any, eager: Any) -> None:
    """Register the derivative of a linear operator: another operator, or by eager torch where that must be."""

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *_, ctx.middle, ctx.named = inputs

    def differentiate(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if by_eager(operator, impl, ctx.named, *grads, linear=True):
            found = eager(*grads, ctx.middle)
        else:
            found = derivative(*grads, ctx.middle, ctx.named)
        return (*([found] if isinstance(found, Tensor) else found), None, None)

    forward.register_autograd(differentiate, setup_context=keep)


@promoted
def released_features(s_prev: Tensor, f_prev: Tensor, f_next: Tensor, *, impl: str = "auto") -> Tensor:
    """What the released code concatenates: `[cross gradient of s | Ft of f]`, two separate reductions.

    Shapes: s_prev (N, S, H, W), f_prev, f_next (N, C, H, W) -> (N, S+C, H, W).
    Raises TypeError or ValueError for dtypes, devices, shapes or `impl`.
    """
    maps = {"s_prev": (s_prev, "N S H W"), "f_prev": (f_prev, "N C H W"), "f_next": (f_next, "N C H W")}
    s, a, b = tensors("off.released_features", impl, **maps)
    return torch.cat([_cross(s), b - a], 1).to(f_prev.dtype)


@promoted
def residual_rate(
    g_prev: Tensor, g_next: Tensor, d_prev: Tensor, flow: Tensor, noise: str = "carried", *, impl: str = "auto"
) -> tuple[Tensor, Tensor]:
    """`dN/dt = gx vx + gy vy + gt` of the noise N = g(I) - D, and N one frame step later (OFF20 (10)-(14)).

    Shapes: g_prev, g_next, d_prev (N, C, H, W), flow (N, 2, H, W) of the clean scene -> rate, n_next (N, C, H, W).
    N_(t+dt) is taken at the displaced point; `noise="standing"`: at the same pixel, grad N . v less in both.
    Raises TypeError or ValueError for dtypes, devices, shapes, `noise` or `impl`.
    """
    choice("off.residual_rate", "noise", noise, ("carried", "standing"))
    maps = {"g_prev": (g_prev, "N C H W"), "g_next": (g_next, "N C H W"), "d_prev": (d_prev, "N C H W")}
    a, b, d, v = tensors("off.residual_rate", impl, **maps, flow=(flow, "N 2 H W"))
    moving = a if noise == "carried" else d  # the gradient of g less that of N is that of D
    gx, gy = brightness.gradient(moving)
    rate = gx * v[:, 0:1] + gy * v[:, 1:2] + (b - a)
    return rate.to(g_prev.dtype), (a - d + rate).to(g_prev.dtype)


# Shifted slices, not a convolution, which may run in TF32; and they work for (..., H, W) of any rank.


def _spatial(a: Tensor, middle: float) -> tuple[Tensor, Tensor]:
    """Both kernels are separable: a difference one way, a weighted sum the other."""
    padded = F.pad(a, (1, 1, 1, 1))
    columns = padded[..., 2:] - padded[..., :-2]
    rows = padded[..., :-2, :] - padded[..., 2:, :]
    Fx = columns[..., :-2, :] + middle * columns[..., 1:-1, :] + columns[..., 2:, :]
    Fy = rows[..., :-2] + middle * rows[..., 1:-1] + rows[..., 2:]
    return Fx, Fy


def _spatial_adjoint(Fx: Tensor, Fy: Tensor, middle: float) -> Tensor:
    """The gradient of `_spatial`: both kernels are odd, so that each one's adjoint is itself with the other sign."""
    along_x, _ = _spatial(Fx, middle)
    _, along_y = _spatial(Fy, middle)
    return -(along_x + along_y)


def _cross(a: Tensor) -> Tensor:
    padded = F.pad(a, (1, 1, 1, 1))
    across, along = padded[..., 1:-1, :], padded[..., 1:-1]
    return across[..., 2:] - across[..., :-2] + along[..., :-2, :] - along[..., 2:, :]
