"""What a trained network looks at, and what each of its branches says: functions for any network of the papers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from motionspec.checks import count, message
from motionspec.ops import losses
from motionspec.ops.checks import given, widened

__all__ = ["branch_predictions", "occlusion_sensitivity"]


@torch.no_grad()
def occlusion_sensitivity(
    network: nn.Module,
    clip: Tensor,
    label: Tensor,
    *,
    size: int,
    stride: int,
    fill: float | Sequence[float],
    batch: int = 32,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """How much a class loses when a square hides a place in all frames (AF18 §4.3.1, Fig. 4).

    network: of clips (N, C, T, H, W) to scores (N, K) before the softmax, in eval mode. clip (N, C, T, H, W), label
    (N,) of integers in 0 .. K-1 -> map (N, ceil(H / stride), ceil(W / stride)) of 1 - p / p0, p0 being the label's
    confidence (softmax) for the clip, p that with the square: 1 where all is lost, 0 where nothing counts, below 0
    where the class gains. Entry (i, j) is of the cell of stride x stride pixels from (stride i, stride j) on; its
    square, of size x size, has the same centre, or the pixel before: it begins (stride - size) // 2 from there.
    fill: what black is once the clip is normalised, a number or one per channel. batch: how many hidden clips the
    network sees at a time; progress(done, total) is told of hidden clips after each. A label outside gives NaN.
    Raises `occlusion_sensitivity: argument: expected ..., got ...`, TypeError or ValueError.
    """
    name = "occlusion_sensitivity"
    given(name, "auto", integer=("label",), clip=(clip, "N C T H W"), label=(label, "N"))
    count(name, "size", size)
    count(name, "stride", stride)
    count(name, "batch", batch)
    _ready(name, network)
    (N, C, _, H, W), device = clip.shape, clip.device
    colour = torch.as_tensor(fill, dtype=clip.dtype, device=device).reshape(-1, 1, 1, 1)
    if len(colour) not in (1, C):
        raise ValueError(
            message(name, "fill", f"a number, or one for each of C={C} channels", f"{len(colour)} numbers")
        )

    def confidence(clip: Tensor, label: Tensor) -> Tensor:
        """Its logarithm."""
        scores = network(clip)
        if scores.ndim != 2 or len(scores) != len(clip):
            raise ValueError(message(name, "network", "one that gives scores (N, classes)", tuple(scores.shape)))
        return -losses.surprise(widened(scores), label)

    def hidden(side: int) -> Tensor:
        """Which pixels of an axis (columns) the square of each cell (rows) hides."""
        start = torch.arange(0, side, stride, device=device)[:, None] + (stride - size) // 2
        pixel = torch.arange(side, device=device)
        return (start <= pixel) & (pixel < start + size)

    rows, columns = hidden(H), hidden(W)
    before = torch.cat([confidence(*pair) for pair in zip(clip.split(batch), label.split(batch), strict=True)])
    places, after = len(rows) * len(columns), []
    for index in torch.arange(N * places, device=device).split(batch):
        sample, place = index // places, index % places
        square = rows[place // len(columns), :, None] & columns[place % len(columns), None, :]
        after.append(confidence(torch.where(square[:, None, None], colour, clip[sample]), label[sample]))
        progress(min(len(after) * batch, N * places), N * places)
    ratio = torch.cat(after).reshape(N, len(rows), len(columns)) - before[:, None, None]
    return -torch.expm1(ratio)


@torch.no_grad()
def branch_predictions(network: Any, clip: Tensor) -> dict[str, Tensor]:
    """What each branch, level or frame predicts on its own (DC18 §4): the parts that are scores, after the softmax.

    network: with `parts`, "scores" (N, K) among them, in eval mode; clip: as it takes it -> the parts (N, K) and (N, S,
    K) by name, each positive and of sum 1 along the last axis.
    Raises `branch_predictions: network: expected ..., got ...`, ValueError; of the clip, what the network raises.
    """
    _ready("branch_predictions", network)
    parts = network.parts(clip)
    if "scores" not in parts or parts["scores"].ndim != 2:
        got = ", ".join(f"{key} {tuple(part.shape)}" for key, part in parts.items())
        raise ValueError(message("branch_predictions", "network", "one with scores (N, classes)", got))
    N, K = parts["scores"].shape
    scores = {key: part for key, part in parts.items() if part.ndim in (2, 3) and (len(part), part.shape[-1]) == (N, K)}
    return {key: widened(part).softmax(-1) for key, part in scores.items()}


def _ready(operator: str, network: nn.Module) -> None:
    if network.training:
        expected = "one in eval mode (network.eval())"
        raise ValueError(message(operator, "network", expected, "one in training mode"))
