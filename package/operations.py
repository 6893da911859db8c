"""Floating-point operations of the operators: what `motionspec models` and the benchmarks count. No torch."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from motionspec.checks import radii

__all__ = ["OPERATIONS"]


def _pixels(s: Mapping[str, int]) -> int:
    """Elements of a map of these sizes."""
    return math.prod(s[k] for k in "NCTHW" if k in s)


def _window(s: Mapping[str, Any]) -> int:
    """Offsets."""
    R_h, R_w = radii("operations", s["radius"])
    return (2 * R_h + 1) * (2 * R_w + 1)


def _multiplied(s: Mapping[str, int], kernel: int, places: int) -> tuple[int, int]:
    forward = 2 * s["N"] * s["S"] * s["C"] * kernel * places
    return forward, 2 * forward


# Forward and backward, from the sizes and options together: an addition, multiplication, comparison, division or root
# counts as one. Those that are not here take a few operations an element, and bytes bind them on any machine.
OPERATIONS: dict[str, Callable[[dict[str, Any]], tuple[int, int]]] = {
    # Differences one way, sums the other, for two gradients, and a difference in time; the adjoint adds what meets.
    "off.features": lambda s: (8 * _pixels(s), 10 * _pixels(s)),
    "off.clip_features": lambda s: (8 * _pixels(s | {"T": s["T"] - 1}), 10 * _pixels(s | {"T": s["T"] - 1})),
    # Largest component, division by it, squares, root, sum: two components.
    "losses.endpoint_error": lambda s: (10 * _pixels(s), 12 * _pixels(s)),
    # 3 linear interpolations of 3; backward: 4 taps of 2, and 12 for the flow. Weights are shared by the channels.
    "warp.bilinear": lambda s: (9 * _pixels(s), 20 * _pixels(s)),
    "warp.motion": lambda s: (9 * _pixels(s), 20 * _pixels(s)),
    "warp.difference": lambda s: (10 * _pixels(s), 20 * _pixels(s)),
    # A product and a sum for each channel and offset; backward computes the scores again, then a product for each map.
    "costvol.cosine": lambda s: (2 * _pixels(s) * _window(s), 4 * _pixels(s) * _window(s)),
    "costvol.displacement_map": lambda s: (2 * _pixels(s) * _window(s), 6 * _pixels(s) * _window(s)),
    # Of an iteration: 7 for rho and its threshold, 26 for each component; backward repeats it and has twice as many.
    "tvl1.representation_flow": lambda s: (60 * s["n_iter"] * _pixels(s), 180 * s["n_iter"] * _pixels(s)),
    # A product and a sum for each weight and place; backward for the map and again for the weight.
    "layers.convolution": lambda s: _multiplied(
        s, (s["P"] + 1) * (s["Q"] + 1), (s["H"] + 4 - s["P"]) * (s["W"] + 4 - s["Q"])
    ),
    "layers.transposed_convolution": lambda s: _multiplied(s, (s["P"] + 3) * (s["Q"] + 3), s["H"] * s["W"]),
    "layers.linear": lambda s: (2 * s["N"] * s["C"] * s["K"], 4 * s["N"] * s["C"] * s["K"]),
    # By default 5 warps of 30 such iterations on each scale, which has 0.8 of the one before's side.
    "tvl1.pyramid_flow": lambda s: (round(60 * 5 * 30 * _pixels(s) / (1 - 0.8**2)), 0),
}
