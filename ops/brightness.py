"""Brightness constancy and what follows from it (OFF18 §3). Definitions: `motionspec.refimpl.brightness`."""

import torch
from torch import Tensor

from motionspec.ops import warp
from motionspec.ops.autocast import promoted
from motionspec.ops.checks import tensors


@promoted
def constancy_residual(f0: Tensor, f1: Tensor, flow: Tensor, *, impl: str = "auto") -> tuple[Tensor, Tensor]:
    """`F1(p + flow(p)) - F0(p)` and the mask of points that stay on the map (OFF18 (1), (2)).

    Shapes: f0, f1 (N, C, H, W), flow (N, 2, H, W) in pixels -> residual (N, C, H, W), mask (N, 1, H, W) of bool.
    Outside the mask residual and derivative are 0; NaN flow: residual NaN, mask False.
    Raises TypeError or ValueError for dtypes, devices, shapes or `impl`.
    """
    maps = {"f0": (f0, "N C H W"), "f1": (f1, "N C H W"), "flow": (flow, "N 2 H W")}
    a, b, d = tensors("brightness.constancy_residual", impl, **maps)
    unknown = d.isnan().any(1, keepdim=True)
    gone = warp.leaves_map(d) & ~unknown
    residual = torch.where(gone, 0.0, warp.bilinear(b, d, impl=impl) - a)
    return residual.to(f0.dtype), ~(gone | unknown)


@promoted
def gradient(f: Tensor, *, impl: str = "auto") -> tuple[Tensor, Tensor]:
    """Spatial derivatives of unit gain: central difference, one-sided in the border line (OFF18 (3)).

    Shapes: f (N, C, H, W) -> fx, fy (N, C, H, W), in units of f per pixel, fy down; 0 along a side of length 1.
    Raises TypeError or ValueError for dtypes, shapes or `impl`.
    """
    (a,) = tensors("brightness.gradient", impl, f=(f, "N C H W"))
    return _central(a, 3).to(f.dtype), _central(a, 2).to(f.dtype)


def _central(a: Tensor, dim: int) -> Tensor:
    n = a.shape[dim]
    if n == 1:
        return a - a  # 0, and a gradient of 0 rather than none
    # In the border line the neighbour outside is the line itself. The derivative of a split is one copy, that of a
    # slice a map of zeros each.
    first, others = a.split([1, n - 1], dim)
    most, last = a.split([n - 1, 1], dim)
    # Not written into: `torch.func.linearize` would keep the weights from before.
    place = torch.arange(n, device=a.device)
    weights = torch.where((place == 0) | (place == n - 1), 1.0, 0.5).to(a.dtype)
    step = torch.cat([others, last], dim).sub_(torch.cat([first, most], dim))
    return step.mul_(weights.view([n if k == dim else 1 for k in range(a.ndim)]))


@promoted
def linearised_residual(fx: Tensor, fy: Tensor, ft: Tensor, flow: Tensor, *, impl: str = "auto") -> Tensor:
    """`Fx u + Fy v + Ft`, first order of `constancy_residual` in the displacement (OFF18 (3), (4)).

    Shapes: fx, fy, ft (N, C, H, W) of unit gain, y down, flow (N, 2, H, W) in pixels -> (N, C, H, W).
    Raises TypeError or ValueError for dtypes, devices, shapes or `impl`.
    """
    maps = {"fx": (fx, "N C H W"), "fy": (fy, "N C H W"), "ft": (ft, "N C H W"), "flow": (flow, "N 2 H W")}
    a, b, c, d = tensors("brightness.linearised_residual", impl, **maps)
    return _dot(a, b, c, d).to(ft.dtype)


def _dot(fx: Tensor, fy: Tensor, ft: Tensor, flow: Tensor) -> Tensor:
    return fx * flow[:, 0:1] + fy * flow[:, 1:2] + ft


@promoted
def orthogonality(fx: Tensor, fy: Tensor, ft: Tensor, flow: Tensor, *, impl: str = "auto") -> tuple[Tensor, Tensor]:
    """`[Fx, Fy, Ft] . [u, v, 1]` and the cosine of the angle between the two (OFF18 §3).

    Shapes: fx, fy, ft (N, C, H, W) of unit gain, y down, flow (N, 2, H, W) -> dot, cosine (N, C, H, W).
    At [Fx, Fy, Ft] = 0 the cosine and its derivative are 0.
    Raises TypeError or ValueError for dtypes, devices, shapes or `impl`.
    """
    maps = {"fx": (fx, "N C H W"), "fy": (fy, "N C H W"), "ft": (ft, "N C H W"), "flow": (flow, "N 2 H W")}
    a, b, c, d = tensors("brightness.orthogonality", impl, **maps)
    dot = _dot(a, b, c, d)
    scale, zero = _magnitude(a, b, c)
    a, b, c = a / scale, b / scale, c / scale
    speed, _ = _magnitude(d[:, 0:1], d[:, 1:2], torch.ones_like(d[:, 0:1]))
    u, v, one = d[:, 0:1] / speed, d[:, 1:2] / speed, 1 / speed
    norms = torch.sqrt(torch.where(zero, 1.0, a * a + b * b + c * c)) * torch.sqrt(u * u + v * v + one * one)
    cosine = torch.where(zero, 0.0, (a * u + b * v + c * one) / norms)
    return dot.to(fx.dtype), cosine.to(fx.dtype)


@promoted
def normal_flow(fx: Tensor, fy: Tensor, ft: Tensor, *, impl: str = "auto") -> Tensor:
    """The flow along the gradient, `-Ft g / |g|^2` with g = (Fx, Fy) (from OFF18 (4)).

    Shapes: fx, fy, ft (N, C, H, W) of unit gain, y down -> (N, 2C, H, W) in pixels per frame step: all u channels, then
    all v channels. Value and derivative are 0 where g = 0.
    Raises TypeError or ValueError for dtypes, devices, shapes or `impl`.
    """
    a, b, c = tensors("brightness.normal_flow", impl, fx=(fx, "N C H W"), fy=(fy, "N C H W"), ft=(ft, "N C H W"))
    scale, zero = _magnitude(a, b)
    a, b, c = a / scale, b / scale, c / scale
    along = torch.where(zero, 0.0, -c / torch.where(zero, 1.0, a * a + b * b))
    return torch.cat([along * a, along * b], 1).to(fx.dtype)


def _magnitude(*components: Tensor) -> tuple[Tensor, Tensor]:
    """The largest |component| as a constant to divide by (1 where all are 0), and where all are 0.

    Dividing first keeps the squares from under- and overflowing. The results do not depend on the divisor, so leaving
    it out of the graph is exact, to every order.
    """
    largest = torch.stack([c.detach().abs() for c in components]).amax(0)
    zero = largest == 0
    return torch.where(zero, 1.0, largest), zero
