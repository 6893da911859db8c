"""ActionFlowNet and the network stacked on its flow (AF18 §3)."""

from collections.abc import Mapping

import numpy as np

from motionspec.refimpl import layers, resnet, tvl1
from motionspec.refimpl.checks import Array


def actionflownet(weights: Mapping[str, Array], clip: Array, *, frames: str = "clip") -> dict[str, Array]:
    """Flows and scores of a clip (N, 3, T, H, W), those that there are weights for.

    frames="pairs": each frame and the next as 6 channels, in a network whose kernels see one such pair.
    """
    encoder = _of(weights, "backbone")
    if frames == "pairs":
        clip = np.concatenate([clip[:, :, :-1], clip[:, :, 1:]], axis=1)
    maps = []
    for k in range(1, 6):
        clip = resnet.block(encoder, k, clip, temporal_stride=2 if frames == "clip" else 1)
        maps.append(clip)
    parts = {}
    if "decoder.flow.4.weight" in weights:
        parts = _decoder(_of(weights, "decoder"), *maps[1:])
    if "fc.weight" in weights:
        parts["scores"] = layers.linear(maps[-1].mean((2, 3, 4)), weights["fc.weight"], bias=weights["fc.bias"])
    return parts


def stacked(weights: Mapping[str, Array], clip: Array, *, upsample: bool = False) -> dict[str, Array]:
    """Flows of all pairs of a clip (N, 3, T, H, W), scores "steps" of each pair from its finest flow, their mean.

    upsample: from that flow on the grid of the frames, in their pixels.
    """
    parts = actionflownet(_of(weights, "flownet"), clip, frames="pairs")
    flow = parts["flow4"]
    if upsample:
        (H, W), (h, w) = clip.shape[3:], flow.shape[3:]
        each = [tvl1._resize(flow[:, :, t], H, W) for t in range(flow.shape[2])]
        flow = np.stack(each, axis=2) * np.array([W / w, H / h]).reshape(2, 1, 1, 1)
    return parts | resnet.resnet(_of(weights, "network"), flow)


def _of(weights: Mapping[str, Array], part: str) -> dict[str, Array]:
    """The weights of one part of a network."""
    return {name.removeprefix(f"{part}."): w for name, w in weights.items() if name.startswith(f"{part}.")}


def _decoder(weights: Mapping[str, Array], layer1: Array, layer2: Array, layer3: Array, layer4: Array) -> dict:
    """Flow of four scales or, without weights for the coarse ones, of the finest."""
    flows, x = {}, layer4
    for scale, skip in ((16, layer3), (8, layer2), (4, layer1)):
        y = _doubled(x, weights[f"deconvolution.{scale}.weight"], skip)
        joined = [skip, np.where(y > 0, y, 0.1 * y)]
        if f"flow.{2 * scale}.weight" in weights:
            flow = flows[f"flow{2 * scale}"] = _predicted(x, weights[f"flow.{2 * scale}.weight"])
            joined.append(_doubled(flow, weights[f"upsampled.{scale}.weight"], skip))
        x = np.concatenate(joined, axis=1)
    flows["flow4"] = _predicted(x, weights["flow.4.weight"])
    return flows


def _doubled(x: Array, weight: Array, like: Array) -> Array:
    """Deconvolution 4 x 4 at stride 2, over time 3 at stride 2 (of pairs: each on its own), cut to the sides of `like`.

    Over time: what undoes the shapes of the encoder's convolution of 3 frames at stride 2, which made ceil(T / 2).
    """
    if weight.ndim == 4:
        y = layers.transposed_convolution(x, weight[:, :, None], stride=(1, 2, 2), padding=(0, 1, 1))
    else:
        y = layers.transposed_convolution(x, weight, stride=2, padding=1, output_padding=(1, 0, 0))
    T, H, W = like.shape[2:]
    return y[:, :, :T, :H, :W]


def _predicted(x: Array, weight: Array) -> Array:
    """A 3 x 3 (x 3) convolution to u and v."""
    time = 0 if weight.ndim == 4 else 1
    weight = weight if time else weight[:, :, None]
    return layers.convolution(x, weight, padding=(time, 1, 1))
