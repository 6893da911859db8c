"""The plain forms that ratios are measured against: what one writes without thinking of speed, on any device. They are
timed only after they agreed with the operator, in the same process."""

import functools
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


# -- cost volume -------------------------------------------------------------------------------------------------------


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
