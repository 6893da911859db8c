"""The ResNet with representation-flow layers (RF19 §3.2-4)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from motionspec.refimpl import layers, resnet, tvl1
from motionspec.refimpl.checks import Array

TAU, LAM, THETA = 0.25, 0.15, 0.3  # at the start
SPAN = np.log(1000)


def _below(weights: Mapping[str, Array], name: str) -> dict[str, Array]:
    """The weights of a part, by their names within it."""
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}


def _norm(weights: Mapping[str, Array], x: Array) -> Array:
    mean, var, weight, bias = (weights[key] for key in ("running_mean", "running_var", "weight", "bias"))
    return layers.batch_norm(x, mean, var, weight=weight, bias=bias)


def _convolution(weight: Array, x: Array) -> Array:
    """k x k of every frame of a clip, the side stays."""
    k = weight.shape[-1] // 2
    return layers.convolution(x, weight[:, :, None], padding=(0, k, k))


def flow_layer(
    weights: Mapping[str, Array], clip: Array, *, n_iter: int, scheme: str, value_range: tuple[float, float] | None
) -> Array:
    """The flow of each channel of a clip (N, C, T, H, W) from each frame to the next: (N, 2C, T-1, H, W)."""
    if value_range is None:
        clip = tvl1.normalise(clip)
    else:
        low, high = value_range
        clip = 255 * (clip - low) / (high - low)

    def number(name: str, start: float) -> float:
        return start * float(np.exp(SPAN * np.tanh(weights.get(f"log_{name}", 0.0) / SPAN)))

    pairs = [
        tvl1.representation_flow(
            clip[:, :, t],
            clip[:, :, t + 1],
            n_iter=n_iter,
            scheme=scheme,
            tau=number("tau", TAU),
            lam=number("lam", LAM),
            theta=number("theta", THETA),
            **{key: weights.get(key) for key in ("wx", "wy", "image_kernel", "flow_kernel")},
        )
        for t in range(clip.shape[2] - 1)
    ]
    return np.stack(pairs, 2)


def _motion(
    weights: Mapping[str, Array],
    clip: Array,
    motion: str,
    fusion: str,
    n_iter: int,
    scheme: str,
    value_range: tuple[float, float] | None,
) -> tuple[dict[str, Array], Array]:
    """The flows, and what they become beside the features that they are of; before the ReLU."""
    flows: dict[str, Array] = {}
    x = _convolution(weights["reduce.weight"], clip) if "reduce.weight" in weights else clip
    convolutions = 0
    for step in motion.split("-"):
        if step == "conv":
            x = _convolution(weights[f"between.{convolutions}.weight"], x)
            convolutions += 1
        else:
            layer = _below(weights, f"flows.{len(flows)}")
            x = flow_layer(layer, x, n_iter=n_iter, scheme=scheme, value_range=value_range)
            flows["flow" if not flows else f"flow{len(flows) + 1}"] = x
    y = _norm(_below(weights, "norm"), _convolution(weights["widen.weight"], x))
    n, steps = len(flows), y.shape[2]
    first = clip[:, :, :steps]
    if fusion == "add":
        y = first + y
    elif fusion == "multiply":
        y = first * y
    elif fusion == "layer+multiply":
        more = _convolution(weights["fuse.conv.weight"], np.maximum(y, 0))
        y = first * _norm(_below(weights, "fuse.norm"), more)
    elif fusion == "concat":
        both = _convolution(weights["fuse.conv.weight"], np.concatenate([first, y], 1))
        y = _norm(_below(weights, "fuse.norm"), both)
    elif fusion == "released":
        y = y + sum(clip[:, :, k : k + steps] for k in range(n + 1)) / (n + 1)
    return flows, y


def non_local(weights: Mapping[str, Array], x: Array) -> Array:
    """Each place of a clip (N, C, T, H, W) and what all places hold, weighed by likeness (Wang et al. 2018)."""
    theta, phi, g = (layers.convolution(x, weights[f"{key}.weight"]) for key in ("theta", "phi", "g"))
    N, D = theta.shape[:2]
    theta, phi, g = (a.reshape(N, D, -1) for a in (theta, phi, g))
    likeness = layers.softmax(theta.swapaxes(1, 2) @ phi, axis=2)  # of place i to place j, (N, i, j)
    seen = (g @ likeness.swapaxes(1, 2)).reshape(N, D, *x.shape[2:])
    return x + _norm(_below(weights, "norm"), layers.convolution(seen, weights["out.weight"]))


def repflow(
    weights: Mapping[str, Array],
    clip: Array,
    *,
    place: int = 3,
    motion: str = "flow",
    fusion: str = "none",
    n_iter: int = 20,
    scheme: str = "classic",
    value_range: tuple[float, float] | None = None,
    temporal_stride: int = 1,
    shift: bool = False,
    output_stride: int = 32,
) -> dict[str, Array]:
    """Scores and flows of a clip (N, C, T, H, W); the weights say depth, kind, channels, and what was learned."""
    options: dict[str, Any] = {"temporal_stride": temporal_stride, "shift": shift, "output_stride": output_stride}
    x, flows = clip, dict[str, Array]()
    for k in range(6):
        if k > 0:
            x = resnet.block(weights, k, x, **options)
        if k == place:
            flows, x = _motion(_below(weights, "motion"), x, motion, fusion, n_iter, scheme, value_range)
            x = np.maximum(x, 0) if place > 0 else x
        if k == 4 and "non_local.theta.weight" in weights:
            x = non_local(_below(weights, "non_local"), x)
    parts = flows | resnet.head(weights, x)
    if fusion == "late":
        rgb = resnet.resnet(_below(weights, "rgb"), clip, **options)["scores"]
        parts |= {"motion": parts["scores"], "rgb": rgb, "scores": (parts["scores"] + rgb) / 2}
    return parts
