"""Residual networks over clips (RF19 §4, OFF20 §5.2, AF18 §3.1)."""

from collections.abc import Mapping

import numpy as np

from motionspec.refimpl import layers, losses, pool3d
from motionspec.refimpl.checks import Array


def _norm(weights: Mapping[str, Array], name: str, x: Array) -> Array:
    mean, var, weight, bias = (weights[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    return layers.batch_norm(x, mean, var, weight=weight, bias=bias)


def _convolution(
    weights: Mapping[str, Array], name: str, x: Array, stride: tuple[int, int, int] = (1, 1, 1), dilation: int = 1
) -> Array:
    """Of clips, with any of the three kinds of weights; at stride 1 all sides stay."""
    if f"{name}.spatial.weight" in weights:
        x = _convolution(weights, f"{name}.spatial", x, (1, *stride[1:]), dilation)
        return _convolution(
            weights, f"{name}.temporal", np.maximum(_norm(weights, f"{name}.bn", x), 0), (stride[0], 1, 1)
        )
    weight = weights[f"{name}.weight"]
    if weight.ndim == 4:
        weight = weight[:, :, None]
    t, k = weight.shape[2] // 2, dilation * (weight.shape[4] // 2)
    return layers.convolution(x, weight, stride=stride, padding=(t, k, k), dilation=(1, dilation, dilation))


def _unit(
    weights: Mapping[str, Array],
    name: str,
    x: Array,
    stride: tuple[int, int, int],
    dilation: tuple[int, int],
    shift: bool,
) -> Array:
    """relu(x + branch(x)): the stride is on the first 3 x 3; what comes before it has dilation[0], behind it [1]."""
    deep = f"{name}.conv3.weight" in weights
    y = pool3d.temporal_shift(x) if shift else x
    for k in (1, 2, 3) if deep else (1, 2):
        strided = k == (2 if deep else 1)
        y = _convolution(weights, f"{name}.conv{k}", y, stride if strided else (1, 1, 1), dilation[0 if strided else 1])
        y = _norm(weights, f"{name}.bn{k}", y)
        if k < (3 if deep else 2):
            y = np.maximum(y, 0)
    if f"{name}.downsample.0.weight" in weights:
        x = _norm(weights, f"{name}.downsample.1", _convolution(weights, f"{name}.downsample.0", x, stride))
    return np.maximum(x + y, 0)


def block(
    weights: Mapping[str, Array],
    k: int,
    clip: Array,
    *,
    temporal_stride: int = 1,
    output_stride: int = 32,
    shift: bool = False,
) -> Array:
    """Block k of RF19 Table 1, 1 to 5, of a clip: conv1 with its pool (if it has weights), layer1 to layer4."""
    if k == 1:
        if "conv1.weight" not in weights and "conv1.spatial.weight" not in weights:
            return clip
        x = np.maximum(_norm(weights, "bn1", _convolution(weights, "conv1", clip, (1, 2, 2))), 0)
        return layers.max_pool(x, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
    dilated = k == 5 and output_stride == 16
    side = 1 if k == 2 or dilated else 2
    first, unit = True, 0
    while any(key.startswith(f"layer{k - 1}.{unit}.") for key in weights):
        stride = (1 if k == 2 else temporal_stride, side, side) if first else (1, 1, 1)
        dilation = (1 if first or not dilated else 2, 2 if dilated else 1)
        moved = shift and (unit % 2 == 0 or "layer3.22.conv1.weight" not in weights)  # TSM spares half of ResNet-101
        clip = _unit(weights, f"layer{k - 1}.{unit}", clip, stride, dilation, moved)
        first, unit = False, unit + 1
    return clip


def head(weights: Mapping[str, Array], features: Array) -> dict[str, Array]:
    """Of the last block: "steps", the scores of each frame (N, T, classes), "scores", their mean."""
    N, C, T = features.shape[:3]
    each = features.mean((3, 4)).transpose(0, 2, 1).reshape(N * T, C)
    steps = layers.linear(each, weights["fc.weight"], bias=weights["fc.bias"]).reshape(N, T, -1)
    return {"steps": steps, "scores": losses.consensus(steps)}


def resnet(
    weights: Mapping[str, Array],
    clip: Array,
    *,
    temporal_stride: int = 1,
    output_stride: int = 32,
    shift: bool = False,
) -> dict[str, Array]:
    """Scores of a clip (N, C, T, H, W); the weights say depth, kind, channels, and whether there is a stem."""
    for k in range(1, 6):
        clip = block(weights, k, clip, temporal_stride=temporal_stride, output_stride=output_stride, shift=shift)
    return head(weights, clip)
