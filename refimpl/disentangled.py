"""Disentangled dynamics: static appearance, apparent motion, appearance change (DC18 §3)."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from motionspec.refimpl import bn_inception, costvol, layers, pool3d, tvl1, warp
from motionspec.refimpl.checks import Array


def disentangled(
    weights: Mapping[str, Array],
    clip: Array,
    *,
    frames: int = 8,
    stride: int = 1,
    branches: Sequence[str] = ("static", "motion", "change"),
    flow: str = "map",
    radius: int | tuple[int, int] | None = None,
    tau: float = 0.03,
    difference: str = "feature",
    warping: bool = True,
    pooling: str = "gradual",
) -> dict[str, Array]:
    """Scores (N, classes), those of each branch, and the maps that it looks at: clip (N, 3, T, H, W).

    Arguments, weights and results as `motionspec.models.disentangled.Disentangled` and its `parts` say.
    """
    by_snippet = []
    for start in range(0, clip.shape[2], frames):
        rgb = [clip[:, :, t] for t in range(start, start + frames)]
        low = (
            [bn_inception.conv1(weights, x, stride=stride) for x in rgb]
            if "conv1.7x7_s2.conv.weight" in weights
            else []
        )
        found, features = {}, {}
        if "static" in branches:
            features["static"] = _static(_of(weights, "static"), low, stride, pooling)
        if "motion" in branches or ("change" in branches and warping):
            if flow == "tvl1":
                flows = [_tvl1(a, b)[:, :, ::stride, ::stride] / stride for a, b in pairwise(rgb)]
            else:
                r = 10 // stride if radius is None else radius
                flows = [_displacement(a, b, flow, r, tau) for a, b in pairwise(low)]
            found["displacement"] = np.stack(flows, 2)
        if "motion" in branches:
            features["motion"] = _high(_of(weights, "motion"), flows, stride)
        if "change" in branches:
            of = low if difference == "feature" else [x[:, :, ::stride, ::stride] for x in rgb]
            if warping:
                changes = [warp.difference(a, b, v) for (a, b), v in zip(pairwise(of), flows, strict=True)]
            else:
                changes = [b - a for a, b in pairwise(of)]
            found["warped difference" if warping else "difference"] = np.stack(changes, 2)
            features["change"] = _high(_of(weights, "change"), changes, stride)
        for branch, x in features.items():
            fc = _of(weights, f"fc.{branch}")
            found[branch] = layers.linear(x.mean((2, 3)), fc["weight"], bias=fc["bias"])
        found["scores"] = np.mean([found[branch] for branch in features], axis=0)
        by_snippet.append(found)
    together = {}
    for key in by_snippet[0]:
        values = [found[key] for found in by_snippet]
        together[key] = np.mean(values, axis=0) if values[0].ndim == 2 else np.concatenate(values, axis=2)
    return together


def _of(weights: Mapping[str, Array], module: str) -> dict[str, Array]:
    """The weights of a module."""
    return {name.removeprefix(f"{module}."): array for name, array in weights.items() if name.startswith(f"{module}.")}


def _static(weights: Mapping[str, Array], low: list[Array], stride: int, pooling: str) -> Array:
    """From the shared maps of the frames to one map of 1024 channels (DC18 §3.2)."""
    step = 2 // stride  # every second pixel of conv1 at stride 1 is conv1 at stride 2
    maps = [x[:, :, ::step, ::step] for x in low]
    for name in bn_inception.STAGES:
        maps = [bn_inception.stage(weights, name, x) for x in maps]
        if pooling == "gradual" and name in ("pool2", "inception_3c", "inception_4e"):
            pooled = pool3d.gradual(np.stack(maps, 2), spatial="none")
            maps = [pooled[:, :, t] for t in range(pooled.shape[2])]
    return pool3d.late(np.stack(maps, 2))


def _displacement(a: Array, b: Array, flow: str, radius: int | tuple[int, int], tau: float) -> Array:
    """What moves from a shared map to the next (DC18 §3.3)."""
    if flow == "wta":
        return costvol.hard_displacement(costvol.cosine(a, b, radius=radius))
    return costvol.displacement_map(a, b, radius=radius, tau=tau)


def _tvl1(a: Array, b: Array) -> Array:
    """The flow of a frame to the next, of the mean over their colours."""
    return tvl1.pyramid_flow(a.mean(1, keepdims=True), b.mean(1, keepdims=True))


def _high(weights: Mapping[str, Array], maps: list[Array], stride: int) -> Array:
    """From maps on the grid of the shared one to 1024 channels: BN-Inception, whose conv1 gives 112 x 112."""
    return bn_inception.bn_inception(weights, np.concatenate(maps, 1), stride=2 // stride)["inception_5b"]
