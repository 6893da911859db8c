"""BN-Inception and the temporal segment network (OFF18 §4.1; layers as in its released code)."""

from collections.abc import Mapping

import numpy as np

from motionspec.refimpl import layers, losses
from motionspec.refimpl.checks import Array

# How the pool of each block pools; the third halves the map, and has no branch of 1x1.
_POOLS = {
    "inception_3a": "average",
    "inception_3b": "average",
    "inception_3c": "halving",
    "inception_4a": "average",
    "inception_4b": "average",
    "inception_4c": "average",
    "inception_4d": "average",
    "inception_4e": "halving",
    "inception_5a": "average",
    "inception_5b": "max",
}
STAGES = ("pool1", "conv2", "pool2", *_POOLS)  # behind conv1


def _convolution(weights: Mapping[str, Array], name: str, x: Array, stride: int = 1) -> Array:
    """Convolution that keeps the side (at stride 1), batch norm, ReLU."""
    weight, bias = weights[f"{name}.conv.weight"], weights[f"{name}.conv.bias"]
    x = layers.convolution(x, weight, bias=bias, stride=stride, padding=weight.shape[-1] // 2)
    mean, var, gamma, beta = (weights[f"{name}.bn.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    return np.maximum(layers.batch_norm(x, mean, var, weight=gamma, bias=beta), 0)


def _block(weights: Mapping[str, Array], name: str, x: Array) -> Array:
    pool = _POOLS[name]
    stride = 2 if pool == "halving" else 1

    def chain(x: Array, *layers: str, stride: int = 1) -> Array:
        for layer in layers[:-1]:
            x = _convolution(weights, f"{name}.{layer}", x)
        return _convolution(weights, f"{name}.{layers[-1]}", x, stride)

    three = chain(x, "3x3_reduce", "3x3", stride=stride)
    double = chain(x, "double_3x3_reduce", "double_3x3_1", "double_3x3_2", stride=stride)
    if pool == "halving":
        odd = [(0, 0), (0, 0), (0, x.shape[2] % 2), (0, x.shape[3] % 2)]  # as many windows as the convolutions have
        return np.concatenate([three, double, layers.max_pool(np.pad(x, odd, "edge"), 3, stride=2, ceil_mode=True)], 1)
    pooled = (layers.max_pool if pool == "max" else layers.average_pool)(x, 3, stride=1, padding=1)
    return np.concatenate([chain(x, "1x1"), three, double, chain(pooled, "pool_proj")], 1)


def bn_inception(weights: Mapping[str, Array], frames: Array, *, stride: int = 2) -> dict[str, Array]:
    """The maps of all stages by name: frames (N, C, H, W) -> conv1, pool1, conv2, pool2, inception_3a ... inception_5b.

    weights: by the names of `motionspec.models.bn_inception.BNInception`. stride: that of conv1.
    """
    x = conv1(weights, frames, stride=stride)
    maps = {"conv1": x}
    for name in STAGES:
        x = maps[name] = stage(weights, name, x)
    return maps


def conv1(weights: Mapping[str, Array], frames: Array, *, stride: int = 2) -> Array:
    """The first stage, of frames."""
    return _convolution(weights, "conv1.7x7_s2", frames, stride)


def stage(weights: Mapping[str, Array], name: str, x: Array) -> Array:
    """The stage of that name, one of STAGES, of the map of the stage before it."""
    if name in _POOLS:
        return _block(weights, name, x)
    if name == "conv2":
        return _convolution(weights, "conv2.3x3", _convolution(weights, "conv2.3x3_reduce", x))
    return layers.max_pool(x, 3, stride=2, ceil_mode=True)


def taps(weights: Mapping[str, Array], clip: Array) -> dict[str, Array]:
    """The maps of all stages by name, as clips, of a clip (N, C, T, H, W) of T segments; weights: those of `TSN`."""
    backbone = {name.removeprefix("backbone."): array for name, array in weights.items()}
    frames = [bn_inception(backbone, clip[:, :, t]) for t in range(clip.shape[2])]
    return {name: np.stack([maps[name] for maps in frames], 2) for name in frames[0]}


def head(weights: Mapping[str, Array], features: Array) -> dict[str, Array]:
    """Of the last of these: "segments", the scores of each segment (N, T, classes), "scores", their mean."""
    N, C, T = features.shape[:3]
    each = features.mean((3, 4)).transpose(0, 2, 1).reshape(N * T, C)
    segments = layers.linear(each, weights["fc.weight"], bias=weights["fc.bias"]).reshape(N, T, -1)
    return {"segments": segments, "scores": losses.consensus(segments)}


def tsn(weights: Mapping[str, Array], clip: Array) -> dict[str, Array]:
    """Scores of a clip (N, C, T, H, W) of T segments: their mean (N, classes), and of each segment (N, T, classes)."""
    return head(weights, taps(weights, clip)["inception_5b"])
