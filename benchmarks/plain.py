"""The plain forms that ratios are measured against: what one writes without thinking of speed, on any device. They are
timed only after they agreed with the operator, in the same process."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# -- off ---------------------------------------------------------------------------------------------------------------


def depthwise_gradient(f: Tensor, kernel: str = "paper") -> tuple[Tensor, Tensor]:
    """`off.spatial_gradient` by depthwise convolutions."""
    middle, C = {"paper": 1, "sobel": 2}[kernel], f.shape[1]
    fx = f.new_tensor([[-1, 0, 1], [-middle, 0, middle], [-1, 0, 1]])
    fx, fy = (weight.expand(C, 1, 3, 3) for weight in (fx, -fx.mT))
    return F.conv2d(f, fx, padding=1, groups=C), F.conv2d(f, fy, padding=1, groups=C)


def depthwise_features(f_prev: Tensor, f_next: Tensor, kernel: str = "paper") -> Tensor:
    """`off.features`."""
    return torch.cat([*depthwise_gradient(f_prev, kernel), f_next - f_prev], 1)


def depthwise_clip_features(clip: Tensor, kernel: str = "paper") -> Tensor:
    """`off.clip_features`: a pair at a time."""
    pairs = zip(clip.unbind(2)[:-1], clip.unbind(2)[1:], strict=True)
    return torch.stack([depthwise_features(a, b, kernel) for a, b in pairs], 2)


# -- warp --------------------------------------------------------------------------------------------------------------


def grid_sample(x: Tensor, flow: Tensor, outside: str = "zero") -> Tensor:
    """`warp.bilinear`, of maps with sides of at least 2."""
    H, W = x.shape[2:]
    row, column = torch.meshgrid(torch.arange(H, device=x.device), torch.arange(W, device=x.device), indexing="ij")
    px, py = column + flow[:, 0], row + flow[:, 1]
    out = F.grid_sample(x, torch.stack([2 * px / (W - 1) - 1, 2 * py / (H - 1) - 1], -1), align_corners=True)
    if outside == "zero":
        out = out * ((px >= 0) & (px <= W - 1) & (py >= 0) & (py <= H - 1))[:, None]
    return out


def grid_sample_motion(x: Tensor, flow: Tensor, outside: str = "zero") -> Tensor:
    """`warp.motion`."""
    return grid_sample(x, -flow, outside)


def grid_sample_difference(f0: Tensor, f1: Tensor, flow: Tensor, outside: str = "zero") -> Tensor:
    """`warp.difference`."""
    return f1 - grid_sample(f0, -flow, outside)


# -- losses ------------------------------------------------------------------------------------------------------------


def norm_of_difference(flow: Tensor, target: Tensor, reduction: str = "sum") -> Tensor:
    """`losses.endpoint_error`."""
    return getattr(torch.sqrt((flow - target).square().sum(1)), reduction)()


# -- tvl1 --------------------------------------------------------------------------------------------------------------

EPSILON = 1e-12  # of the released code


def released_layer(
    f1: Tensor, f2: Tensor, *, n_iter: int = 10, tau: float = 0.25, lam: float = 0.15, theta: float = 0.3
) -> Tensor:
    """The arithmetic of RF19's released layer (scheme "released"): depthwise convolutions and boolean masks."""
    C = f1.shape[1]

    def convolve(a: Tensor, *weights: float, down: bool = False) -> Tensor:
        kernel = a.new_tensor(weights).view(1, 1, -1, 1) if down else a.new_tensor(weights).view(1, 1, 1, -1)
        return F.conv2d(a, kernel.expand(C, -1, -1, -1), groups=C)

    gx, gy = convolve(F.pad(f2, (1, 1)), -0.5, 0, 0.5), convolve(F.pad(f2, (0, 0, 1, 1)), -0.5, 0, 0.5, down=True)
    gx[..., 0], gx[..., -1] = 0.5 * (f1[..., 1] - f1[..., 0]), 0.5 * (f1[..., -1] - f1[..., -2])
    gy[..., 0, :], gy[..., -1, :] = 0.5 * (f1[..., 1, :] - f1[..., 0, :]), 0.5 * (f1[..., -1, :] - f1[..., -2, :])
    square, rho_c = gx * gx + gy * gy + EPSILON, f2 - f1
    ux, uy, *p = (torch.zeros_like(f1) for _ in range(6))
    lt, r = lam * theta, tau / theta

    def divergence(px: Tensor, py: Tensor) -> Tensor:
        across = convolve(F.pad(px[..., :-1], (1, 1)), -1, 1)
        return across + convolve(F.pad(py[..., :-1, :], (0, 0, 1, 1)), -1, 1, down=True)

    def gradient(u: Tensor) -> tuple[Tensor, Tensor]:
        dx, dy = convolve(F.pad(u, (0, 1)), -1, 1), convolve(F.pad(u, (0, 0, 0, 1)), -1, 1, down=True)
        dx[..., -1], dy[..., -1, :] = 0, 0
        return dx, dy

    for _ in range(n_iter):
        rho = rho_c + gx * ux + gy * uy
        low, high = (rho < -lt * square).detach(), (rho > lt * square).detach()
        rest = ~low & ~high & (square > EPSILON)
        flow = []
        for u, g, (px, py) in ((ux, gx, p[:2]), (uy, gy, p[2:])):
            step = torch.zeros_like(u)
            step[low] = (lt * g)[low]
            step[high] = (-lt * g)[high]
            step[rest] = (-rho / square * g)[rest]
            flow.append(u + step + theta * divergence(px, py))
        ux, uy = flow
        dual = []
        for u, (px, py) in ((ux, p[:2]), (uy, p[2:])):
            dx, dy = gradient(u)
            scale = 1 + r * torch.sqrt(dx * dx + dy * dy + EPSILON)
            dual += [(px + r * dx) / scale, (py + r * dy) / scale]
        p = dual
    return torch.cat([ux, uy], 1)


def representation_flow(
    f1: Tensor,
    f2: Tensor,
    *,
    n_iter: int = 10,
    tau: float = 0.25,
    lam: float = 0.15,
    theta: float = 0.3,
    wrap: Callable[[Callable], Callable] = lambda step: step,
) -> Tensor:
    """Scheme "released" by slices and a clamp. `wrap` may compile the iteration: all ten at once make slower code."""
    gx, gy = (
        F.pad((f2[..., 2:] - f2[..., :-2]) / 2, (1, 1)),
        F.pad((f2[..., 2:, :] - f2[..., :-2, :]) / 2, (0, 0, 1, 1)),
    )
    gx[..., 0], gx[..., -1] = 0.5 * (f1[..., 1] - f1[..., 0]), 0.5 * (f1[..., -1] - f1[..., -2])
    gy[..., 0, :], gy[..., -1, :] = 0.5 * (f1[..., 1, :] - f1[..., 0, :]), 0.5 * (f1[..., -1, :] - f1[..., -2, :])
    square, rho_c = gx * gx + gy * gy + EPSILON, f2 - f1
    step = wrap(_step)
    state = (torch.zeros_like(f1),) * 6
    for _ in range(n_iter):
        state = step(*state, gx, gy, square, rho_c, lam * theta, tau / theta, theta)
    return torch.cat(state[:2], 1)


def _step(
    ux: Tensor,
    uy: Tensor,
    pxx: Tensor,
    pxy: Tensor,
    pyx: Tensor,
    pyy: Tensor,
    gx: Tensor,
    gy: Tensor,
    square: Tensor,
    rho_c: Tensor,
    lt: float,
    r: float,
    theta: float,
) -> tuple[Tensor, ...]:
    c = torch.clamp((rho_c + gx * ux + gy * uy) / square, -lt, lt)
    flow, dual = [], []
    for u, g, px, py in ((ux, gx, pxx, pxy), (uy, gy, pyx, pyy)):
        qx, qy = px[..., :-1], py[..., :-1, :]
        across = F.pad(qx, (0, 1)) - F.pad(qx, (1, 0))
        u = u - c * g + theta * (across + F.pad(qy, (0, 0, 0, 1)) - F.pad(qy, (0, 0, 1, 0)))
        dx, dy = F.pad(u[..., 1:] - u[..., :-1], (0, 1)), F.pad(u[..., 1:, :] - u[..., :-1, :], (0, 0, 0, 1))
        scale = 1 + r * torch.sqrt(dx * dx + dy * dy + EPSILON)
        flow.append(u)
        dual += [(px + r * dx) / scale, (py + r * dy) / scale]
    return *flow, *dual


# -- cost volume -------------------------------------------------------------------------------------------------------


def displacement_loop(f0: Tensor, f1: Tensor, radius: int, tau: float) -> Tensor:
    """`costvol.displacement_map`, border "zero", by a loop over displacements."""
    H, W = f0.shape[2:]
    side = 2 * radius + 1
    a, b = F.normalize(f0, dim=1), F.pad(F.normalize(f1, dim=1), (radius,) * 4)
    c = torch.stack([(a * b[:, :, i : i + H, j : j + W]).sum(1) for i in range(side) for j in range(side)], 1)
    rho = (c / tau).softmax(1).unflatten(1, (side, side))
    offset = torch.arange(-radius, radius + 1, dtype=f0.dtype, device=f0.device)[:, None, None]
    return torch.stack([(rho.sum(1) * offset).sum(1), (rho.sum(2) * offset).sum(1)], 1)


@functools.lru_cache(maxsize=1)
def _window(H: int, W: int, radius: int, border: str, device: torch.device) -> tuple[Any, Tensor, Tensor]:
    """FlexAttention's mask of the window, and where keys and queries lie, (y, x)."""
    from torch.nn.attention.flex_attention import create_block_mask

    pad = radius if border == "zero" else 0
    wide = W + 2 * pad

    def inside(b: Any, h: Any, q: Any, k: Any) -> Any:
        dy, dx = k // wide - pad - q // W, k % wide - pad - q % W
        return (dy.abs() <= radius) & (dx.abs() <= radius)

    def places(rows: int, columns: int, offset: int) -> Tensor:
        y, x = torch.meshgrid(*(torch.arange(side, device=device) for side in (rows, columns)), indexing="ij")
        return torch.stack([y, x], -1).reshape(-1, 2) - offset

    keys = places(H + 2 * pad, wide, pad)
    return create_block_mask(inside, None, None, H * W, len(keys), device=str(device)), keys, places(H, W, 0)


def flex_displacement_map(f0: Tensor, f1: Tensor, radius: int, tau: float, border: str, *, compiled: Any) -> Tensor:
    """`costvol.displacement_map` by FlexAttention: maps are queries and keys, a key's value is its place."""
    N, _, H, W = f0.shape
    mask, keys, queries = _window(H, W, radius, border, f0.device)
    pad = radius if border == "zero" else 0  # a key of zeros has cosine 0
    q = F.normalize(f0, dim=1).flatten(2).mT[:, None]
    k = F.pad(F.normalize(f1, dim=1), (pad,) * 4).flatten(2).mT[:, None]
    value = F.pad(keys.to(f0), (0, 14)).expand(N, 1, -1, -1)  # it wants 16 columns
    found = compiled(q, k, value, block_mask=mask, scale=1 / tau)[:, 0, :, :2] - queries
    return found.flip(-1).mT.reshape(N, 2, H, W)
