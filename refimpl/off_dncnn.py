"""DnCNN with OFF, for compression artifacts in video frames (OFF20 §7.2, Fig. 6)."""

from collections.abc import Mapping

import numpy as np

from motionspec.refimpl import layers, off
from motionspec.refimpl.checks import Array


def _convolutions(weights: Mapping[str, Array], name: str, x: Array, *, last_relu: bool = True) -> Array:
    """Those of a name, as many as have weights, ReLU behind each."""
    number = sum(key.startswith(f"{name}.") and key.endswith(".weight") for key in weights)
    for k in range(1, number + 1):
        weight, bias = weights[f"{name}.conv{k}.weight"], weights[f"{name}.conv{k}.bias"]
        x = layers.convolution(x, weight, bias=bias, padding=1)
        if k < number or last_relu:
            x = np.maximum(x, 0)
    return x


def dncnn(weights: Mapping[str, Array], clip: Array) -> dict[str, Array]:
    """What is seen in a clip (N, 3, T, H, W), and its frame t without noise: (t), (t, t+1) or (t-1, t, t+1).

    weights: by the names of `motionspec.models.off_dncnn.DnCNN`, and so are the results; they say how many layers.
    """
    T = clip.shape[2]
    t = 1 if T == 3 else 0
    features = [_convolutions(weights, "features", clip[:, :, k]) for k in range(T)]
    x, parts = features[t], {}
    if T > 1:
        weight, bias = weights["off.reduce.weight"][:, :, 0], weights["off.reduce.bias"]
        reduced = [layers.convolution(feature, weight, bias=bias) for feature in features]
        seen = [off.features(reduced[k], reduced[k + 1]) for k in range(T - 1)]
        motion = [_convolutions(weights, "motion", pair) for pair in seen]
        parts = {"off": np.stack(seen, 2), "motion": np.stack(motion, 2)}
        for pair in motion:
            x = x + pair
    noise = _convolutions(weights, "rest", x, last_relu=False)
    return parts | {"noise": noise, "scores": clip[:, :, t] - noise}
