"""Pooling and shifting over time (DC18 §3.2, OFF20 §5.2). Definitions and sources: `motionspec.refimpl.pool3d`."""

import torch
import torch.nn.functional as F
from torch import Tensor

from motionspec.checks import choice, message
from motionspec.ops.autocast import promoted
from motionspec.ops.checks import tensors


@promoted
def gradual(clip: Tensor, *, spatial: str = "3x3", impl: str = "auto") -> Tensor:
    """Maximum over 3 x 3 pixels with stride 2 (`spatial="none"`: no such), then over two frames (DC18 §3.2).

    Shapes: clip (N, C, T, H, W) -> (N, C, ceil(T/2), H', W'); the last window is cut at the end, nothing is dropped.
    Of equal maxima the first (frame, row, column) has the derivative. NaN stays.
    Raises TypeError or ValueError for dtypes, shapes, `spatial` or `impl`.
    """
    choice("pool3d.gradual", "spatial", spatial, ("3x3", "none"))
    (a,) = tensors("pool3d.gradual", impl, clip=(clip, "N C T H W"))
    pooled = _in_one(a, spatial) if a.device.type == "cpu" else _space_then_time(a, spatial)
    return pooled.to(clip.dtype)


def _in_one(a: Tensor, spatial: str) -> Tensor:
    sides = (2, 3, 3) if spatial == "3x3" else (2, 1, 1)
    return F.max_pool3d(_filled(a, sides), sides, tuple(min(k, 2) for k in sides), ceil_mode=True)


def _space_then_time(a: Tensor, spatial: str) -> Tensor:
    """The same without max_pool3d, whose backward is not deterministic on CUDA."""
    if spatial == "3x3":
        a = F.max_pool2d(_filled(a, (1, 3, 3)).flatten(1, 2), 3, 2, ceil_mode=True).unflatten(1, a.shape[1:3])
    a = F.pad(a, (0, 0, 0, 0, 0, a.shape[2] % 2), value=-torch.inf)
    first, second = a[:, :, ::2], a[:, :, 1::2]
    # torch.maximum would halve the derivative at a tie.
    return torch.where((first >= second) | first.isnan(), first, second)


def _filled(a: Tensor, sides: tuple[int, ...]) -> Tensor:
    """At least of these sides: torch's pooling knows no window larger than the map."""
    short = [max(k - length, 0) for k, length in zip(sides, a.shape[2:], strict=True)]
    return F.pad(a, (0, short[2], 0, short[1], 0, short[0]), value=-torch.inf) if any(short) else a


@promoted
def late(clip: Tensor, *, impl: str = "auto") -> Tensor:
    """Maximum over all frames (DC18 §4.2): clip (N, C, T, H, W) -> (N, C, H, W).

    Of equal maxima the first frame has the derivative. NaN stays.
    Raises TypeError or ValueError for dtypes, shapes or `impl`.
    """
    (a,) = tensors("pool3d.late", impl, clip=(clip, "N C T H W"))
    return a.max(2).values.to(clip.dtype)


@promoted
def temporal_shift(clip: Tensor, *, impl: str = "auto") -> Tensor:
    """The first C//8 channels from t+1, the next C//8 from t-1, zeros at the ends (OFF20 §5.2, TSM).

    Shapes: clip (N, C, T, H, W), C >= 8 -> the same.
    Raises TypeError or ValueError for dtypes, shapes, C < 8 or `impl`.
    """
    (a,) = tensors("pool3d.temporal_shift", impl, clip=(clip, "N C T H W"))
    if a.shape[1] < 8:
        raise ValueError(message("pool3d.temporal_shift", "clip", "at least C=8 channels", f"C={a.shape[1]}"))
    fold = a.shape[1] // 8
    ahead, behind, rest = a[:, :fold, 1:], a[:, fold : 2 * fold, :-1], a[:, 2 * fold :]
    shifted = [F.pad(ahead, (0, 0, 0, 0, 0, 1)), F.pad(behind, (0, 0, 0, 0, 1, 0)), rest]
    return torch.cat(shifted, 1).to(clip.dtype)
