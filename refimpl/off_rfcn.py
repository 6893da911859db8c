"""R-FCN with OFF, for objects in video frames (OFF20 §6.1, Fig. 5)."""

from collections.abc import Mapping

import numpy as np

from motionspec.refimpl import detection, layers, off, resnet
from motionspec.refimpl.checks import Array


def _convolution(weights: Mapping[str, Array], name: str, x: Array, stride: int = 1, dilation: int = 1) -> Array:
    """At stride 1 the sides stay."""
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    padding = dilation * (weight.shape[-1] // 2)
    return layers.convolution(x, weight, bias=bias, stride=stride, padding=padding, dilation=dilation)


def _off(weights: Mapping[str, Array], name: str, map0: Array, map1: Array) -> Array:
    """[Fx | Fy | Ft] of two frames' maps, reduced."""
    weight, bias = weights[f"{name}.reduce.weight"][:, :, 0], weights[f"{name}.reduce.bias"]
    return off.features(layers.convolution(map0, weight, bias=bias), layers.convolution(map1, weight, bias=bias))


def _refined(weights: Mapping[str, Array], name: str, x: Array, stride: int = 1) -> Array:
    """Residual blocks, as many as have weights; the first has the stride."""
    k = 0
    while f"{name}.{k}.conv1.weight" in weights:
        block = f"{name}.{k}"
        y = np.maximum(_convolution(weights, f"{block}.conv1", x), 0)
        y = np.maximum(_convolution(weights, f"{block}.conv2", y, stride), 0)
        y = _convolution(weights, f"{block}.conv3", y)
        if f"{block}.squeeze.up.weight" in weights:
            down, up = (
                {"weight": weights[f"{block}.squeeze.{way}.weight"], "bias": weights[f"{block}.squeeze.{way}.bias"]}
                for way in ("down", "up")
            )
            z = layers.linear(np.maximum(layers.linear(y.mean((2, 3)), **down), 0), **up)
            y = y / (1 + np.exp(-z))[:, :, None, None]
        if f"{block}.branch.weight" in weights:
            x = _convolution(weights, f"{block}.branch", x, stride)
        x = np.maximum(x + y, 0)
        k, stride = k + 1, 1
    return x


def rfcn(weights: Mapping[str, Array], clip: Array, *, scales: str = "multi") -> dict[str, Array]:
    """The maps of the detector for each frame of a clip (N, 3, T, H, W) but the last, or with "none" for each.

    weights: by the names of `motionspec.models.off_rfcn.RFCN`, and so are the results.
    """
    backbone = {name.removeprefix("backbone."): a for name, a in weights.items() if name.startswith("backbone.")}
    x, maps = clip, {}
    for k in range(1, 6):
        x = maps[k] = resnet.block(backbone, k, x, output_stride=16)
    T = clip.shape[2]
    whole = [np.maximum(_convolution(weights, "reduce", x[:, :, t], dilation=6), 0) for t in range(T)]
    found: dict[str, list[Array]] = {}
    for t in range(T if scales == "none" else T - 1):
        frame, parts = whole[t], {}
        if scales != "none":
            sides = [whole[t], _off(weights, "off1024", whole[t], whole[t + 1])]
            if scales == "multi":
                parts["off512"] = _off(weights, "off512", maps[3][:, :, t], maps[3][:, :, t + 1])
                sides.append(_refined(weights, "refine512", parts["off512"], stride=2))
            parts["off1024"] = sides[1]
            frame = _refined(weights, "refine1024", np.concatenate(sides, 1))
        first, last = np.split(frame, 2, 1)
        proposing = np.maximum(_convolution(weights, "rpn", first), 0)
        parts["rpn_scores"] = _convolution(weights, "rpn_scores", proposing)
        parts["rpn_boxes"] = _convolution(weights, "rpn_boxes", proposing)
        parts["class_maps"] = _convolution(weights, "class_maps", last)
        parts["box_maps"] = _convolution(weights, "box_maps", last)
        parts["scores"] = np.concatenate([*parts.values()][-4:], 1)
        for name, part in parts.items():
            found.setdefault(name, []).append(part)
    return {name: np.stack(part, 2) for name, part in found.items()}


def detections(
    maps: Array,
    height: int,
    width: int,
    *,
    classes: int,
    k: int = 7,
    proposals: int = 300,
    overlap: float = 0.3,
    threshold: float = 0.001,
) -> Array:
    """The objects in frames of height x width, from "scores" (N, C, T, h, w) of `rfcn`: proposals, votes, suppression.

    Gives (D, 7), a line each: image n T + t, class (0 is the first that is not the background), score, x1, y1, x2, y2;
    image by image, by falling score, of equal ones the lower class and the earlier proposal first.
    """
    N, _, T, h, w = maps.shape
    anchors = detection.anchors(h, w)
    A = len(anchors) // (h * w)
    found = []
    for image, (n, t) in enumerate(np.ndindex(N, T)):
        scores, boxes, class_maps, box_maps = np.split(
            maps[n : n + 1, :, t], np.cumsum([2 * A, 4 * A, (classes + 1) * k**2]), 1
        )
        is_object = layers.softmax(scores.reshape(1, 2, A, h, w))[0, 1]
        deltas = boxes.reshape(A, 4, h, w)
        cells = list(np.ndindex(h, w, A))  # the order of anchors
        regions, _, valid = detection.propose(
            np.array([deltas[a, :, y, x] for y, x, a in cells]),
            np.array([is_object[a, y, x] for y, x, a in cells]),
            anchors,
            height=height,
            width=width,
            post_nms=proposals,
        )
        regions = regions[valid]
        rois = np.concatenate([np.zeros((len(regions), 1)), regions], 1)
        votes = layers.softmax(detection.ps_roi_pool(class_maps, rois, k).mean((2, 3)))
        moves = detection.ps_roi_pool(box_maps, rois, k).mean((2, 3))
        moved = np.clip(detection.decode_boxes(moves, regions), 0, np.array([width, height] * 2) - 1)
        lines = []
        for label in range(classes):
            score = votes[:, label + 1]
            likely = np.flatnonzero(score > threshold)
            kept = likely[detection.nms(moved[likely], score[likely], overlap)]
            lines += [[image, label, score[r], *moved[r]] for r in kept]
        found += sorted(lines, key=lambda line: -line[2])
    return np.array(found).reshape(-1, 7)
