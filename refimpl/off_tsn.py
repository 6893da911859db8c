"""The OFF network on temporal segments: backbone, OFF sub-network, summed scores (OFF18 §4, OFF20 §4)."""

from collections.abc import Mapping

import numpy as np

from motionspec.refimpl import bn_inception, layers, losses, off
from motionspec.refimpl.checks import Array

# The maps of BN-Inception that a level takes (the released code).
_TAPS = {
    "28": ("inception_3a", "inception_3b"),
    "14": ("inception_3c", "inception_4a", "inception_4b", "inception_4c", "inception_4d"),
    "7": ("inception_5a", "inception_5b"),
}
_STRIDES = {"28": 2, "14": 2, "7": 1}


def under(weights: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    """Those weights whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in weights.items() if name.startswith(prefix)}


def _convolution(weights: Mapping[str, Array], name: str, x: Array, stride: int = 1) -> Array:
    """Of a map (N, C, H, W), or of a clip by a kernel of one frame; at stride 1 the side stays."""
    weight = weights[f"{name}.weight"]
    return layers.convolution(x, weight, bias=weights[f"{name}.bias"], stride=stride, padding=weight.shape[-1] // 2)


def _paper(weights: Mapping[str, Array], maps: list[Array], t: int, scheme: str, gradients: str) -> list[Array]:
    """[Fx | Fy | Ft] of frames t, t + 1 of all maps side by side (Fig. 4)."""
    weight = weights["off.reduce.weight"][:, :, 0]
    f0, f1 = (
        layers.convolution(np.concatenate([m[:, :, k] for m in maps], 1), weight, bias=weights["off.reduce.bias"])
        for k in (t, t + 1)
    )
    spatial = [] if gradients == "temporal" else [*off.spatial_gradient(f0, scheme)]
    return spatial + ([] if gradients == "spatial" else [off.temporal_difference(f0, f1)])


def _released(weights: Mapping[str, Array], maps: Mapping[str, Array], t: int, gradients: str) -> list[Array]:
    """[cross gradient | Ft] of each map in turn, of two reductions, the second after ReLU (the released code)."""
    found = []
    for tap, m in maps.items():
        if gradients != "temporal":
            found.append(off.cross_gradient(_convolution(weights, f"spatial.{tap}", m[:, :, t])))
        if gradients != "spatial":
            f0, f1 = (np.maximum(_convolution(weights, f"temporal.{tap}", m[:, :, k]), 0) for k in (t, t + 1))
            found.append(off.temporal_difference(f0, f1))
    return found


def _blocks(weights: Mapping[str, Array], x: Array, *, last_relu: bool) -> Array:
    """Residual blocks, as many as there are weights of."""
    number = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    for k in range(number):
        y = x
        for layer in ("conv1", "conv2", "conv3"):
            y = _convolution(weights, f"blocks.{k}.{layer}", y)
            y = np.maximum(y, 0) if layer != "conv3" else y
        x = y + (_convolution(weights, f"blocks.{k}.branch", x) if f"blocks.{k}.branch.weight" in weights else x)
        x = np.maximum(x, 0) if last_relu or k < number - 1 else x
    return x


def sub_network(
    weights: Mapping[str, Array],
    maps: Mapping[str, Array],
    taps: Mapping[str, tuple[str, ...]],
    *,
    scheme: str = "paper",
    gradients: str = "both",
) -> dict[str, Array]:
    """OFF and scores of each level, by the names of `OFFNetwork.parts`.

    weights: from "28.reduce.weight" on; maps: those of the backbone, as clips; taps: level -> which of them it takes.
    """
    parts = {}
    T = next(iter(maps.values())).shape[2]
    lower: list[list[Array]] = [[]] * T
    for level, names in taps.items():
        own, unit = under(weights, f"{level}."), under(weights, f"{level}.unit.")
        tapped = {name: maps[name] for name in names}
        features, refined, scores = [], [], []
        for t in range(T if gradients == "none" else T - 1):
            if gradients == "none":
                found = [m[:, :, t] for m in tapped.values()]
            elif scheme == "released":
                found = _released(unit, tapped, t, gradients)
            else:
                found = _paper(unit, [*tapped.values()], t, scheme, gradients)
            features.append(np.concatenate(found, 1))
            x = np.concatenate([features[t], *lower[t]], 1)
            x = np.maximum(_convolution(own, "reduce", x, _STRIDES[level]), 0)
            x = _blocks(own, x, last_relu=(scheme, level) != ("released", "7"))
            refined.append([x])
            if (scheme, level) == ("released", "28"):
                x = layers.max_pool(x, 3, stride=2, ceil_mode=True)
            scores.append(layers.linear(x.mean((2, 3)), own["fc.weight"], bias=own["fc.bias"]))
        lower = refined
        if gradients != "none":
            parts[f"off{level}"] = np.stack(features, 2)
        parts[f"pairs{level}"] = np.stack(scores, 1)
        parts[f"scores{level}"] = losses.consensus(parts[f"pairs{level}"])
    return parts


def assembly(
    weights: Mapping[str, Array],
    maps: Mapping[str, Array],
    taps: Mapping[str, tuple[str, ...]],
    backbone: Mapping[str, Array],
    *,
    scheme: str,
    gradients: str,
    fusion: tuple[float, float, float, float],
) -> dict[str, Array]:
    """What backbone and sub-network predict, and the weighted sum of the backbone and levels 28, 14, 7 (OFF18 §4.3)."""
    parts = dict(backbone) | sub_network(under(weights, "off."), maps, taps, scheme=scheme, gradients=gradients)
    a, b, c, d = fusion
    scores = a * parts["backbone"] + b * parts["scores28"] + c * parts["scores14"] + d * parts["scores7"]
    return parts | {"scores": scores}


def off_network(
    weights: Mapping[str, Array],
    clip: Array,
    *,
    scheme: str = "paper",
    gradients: str = "both",
    fusion: tuple[float, float, float, float] = (1, 0, 0, 1),
) -> dict[str, Array]:
    """All predictions of a clip (N, C, T, H, W) of T segments, and the OFF of each level; inference mode.

    weights: by the names of `motionspec.models.off_tsn.OFFNetwork`, as are the arguments and the results.
    """
    backbone = under(weights, "backbone.")
    maps = bn_inception.taps(backbone, clip)
    head = bn_inception.head(backbone, maps["inception_5b"])
    parts = {"segments": head["segments"], "backbone": head["scores"]}
    return assembly(weights, maps, _TAPS, parts, scheme=scheme, gradients=gradients, fusion=fusion)
