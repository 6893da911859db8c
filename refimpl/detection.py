"""Detection head of R-FCN, with which OFF20 §6 detects objects in videos: anchors, boxes, proposals, pooling.

A box is `x1, y1, x2, y2` in pixels, both corners inclusive: it is `x2 - x1 + 1` wide. OFF20 cites the head without
spelling it out: what is stated here is R-FCN's, in the form of FGFA's code, on which OFF20 builds.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from motionspec.checks import count, message, positive
from motionspec.refimpl.checks import Array, arrays

Keep = np.ndarray[Any, np.dtype[np.bool_]]


def _boxes(operator: str, name: str, boxes: Array) -> None:
    """Raise ValueError for a box that ends before it begins."""
    for r, (x1, y1, x2, y2) in enumerate(boxes):
        if x2 < x1 or y2 < y1:
            raise ValueError(message(operator, name, "boxes x1, y1, x2, y2 with x1 <= x2 and y1 <= y2", f"{boxes[r]}"))


def _round(v: float) -> int:
    """C's round: half away from zero."""
    whole = math.trunc(v)
    return whole + int(math.copysign(abs(v - whole) >= 0.5, v))


def ps_roi_pool(x: Array, rois: Array, k: int = 7, spatial_scale: float = 0.0625) -> Array:
    """Position-sensitive RoI pooling: bin (i, j) of a region is the mean of that bin in a score map of its own.

    Equation: R-FCN (5) as its code computes it; OFF20 §6.1 (k = 7). A region covers [round(x1), round(x2) + 1) times
        `spatial_scale` on the map, at least 0.1 wide, and so in y. Of its k x k equal parts, part (i, j) takes the
        whole pixels that it touches: from the floor of its start to the ceiling of its end.
    Shapes: x (N, C, H, W) with C = C' k^2: map (c k + i) k + j serves row i, column j of class c; rois (R, 5): number
        of the sample, x1, y1, x2, y2 -> (R, C', k, k).
    Units: rois in pixels of the image; `spatial_scale` is 1 / stride.
    Border: the bins are clipped to the map, its last row and column included; an empty bin is 0.
    Kinks: piecewise constant in rois, whose derivative is 0; linear in x. Corners are rounded half away from zero. The
        edges of the bins are computed in float64, exactly where the stride is a power of two.
    Deviations: torchvision clips to H - 1 and W - 1 in its forward: it never pools the last row and column
        (test_detection.py::test_ps_roi_pool_reaches_the_last_row_and_column); it also rounds after scaling and leaves
        x2 and y2 themselves out. A region with x2 < x1 is 0.1 wide, as in R-FCN, and not refused.
    Raises: TypeError or ValueError for dtypes, shapes, `k`, `spatial_scale`, C that k^2 does not divide, a sample that
        there is not, or values that are not finite.
    """
    k, s = count("detection.ps_roi_pool", "k", k), positive("detection.ps_roi_pool", "spatial_scale", spatial_scale)
    x, rois = arrays("detection.ps_roi_pool", x=(x, "N C H W"), rois=(rois, "R 5"))
    N, C, H, W = x.shape
    if C % k**2:
        raise ValueError(message("detection.ps_roi_pool", "x", f"C a multiple of k^2={k**2}", f"C={C}"))
    for n in rois[:, 0]:
        if n not in range(N):
            raise ValueError(message("detection.ps_roi_pool", "rois", f"numbers of samples 0 to {N - 1}", n))

    def edges(first: float, last: float, size: int) -> list[tuple[int, int]]:
        """Start and end of the k bins along one side of the map."""
        start, length = _round(first), _round(last) + 1 - _round(first)
        cut = [(k * start + j * length) * s / k if length * s >= 0.1 else start * s + j * 0.1 / k for j in range(k + 1)]
        return [(min(max(math.floor(a), 0), size), min(max(math.ceil(b), 0), size)) for a, b in pairwise(cut)]

    out = np.full((len(rois), C // k**2, k, k), np.nan)
    for r, (n, x1, y1, x2, y2) in enumerate(rois):
        rows, columns = edges(y1, y2, H), edges(x1, x2, W)
        for c, i, j in np.ndindex(*out.shape[1:]):
            (top, bottom), (left, right) = rows[i], columns[j]
            part = x[int(n), (c * k + i) * k + j, top:bottom, left:right]
            out[r, c, i, j] = part.mean() if part.size else 0.0
    return out


def anchors(
    height: int,
    width: int,
    stride: int = 16,
    scales: Sequence[float] = (8, 16, 32),
    ratios: Sequence[float] = (0.5, 1, 2),
) -> Array:
    """The boxes that the region proposal network starts from: each scale and ratio, around each cell of the map.

    Equation: Faster R-CNN's anchors, which R-FCN and OFF20 §6.1 take. For a ratio height/width = q the base is
        w = round(sqrt(stride^2 / q)) wide and round(w q) high, half to even; it is scaled about the centre of the
        first cell, (stride - 1) / 2, and moved by whole strides.
    Shapes: -> (height * width * A, 4), A = len(ratios) * len(scales): rows of the map, in them its columns, at each
        place the ratios, for each of them the scales.
    Units: pixels of the image; `scales` in strides.
    Border: anchors reach out of the image.
    Deviations: R-FCN has the base 16 whatever the stride.
    Raises: TypeError or ValueError for numbers.
    """
    for name, number in (("height", height), ("width", width), ("stride", stride)):
        count("detection.anchors", name, number)
    for name, numbers in (("scales", scales), ("ratios", ratios)):
        for factor in numbers:
            positive("detection.anchors", name, factor)
    centre = (stride - 1) / 2
    out = []
    for y in range(height):
        for x in range(width):
            for q in ratios:
                w = round(math.sqrt(stride**2 / q))
                h = round(w * q)
                for scale in scales:
                    dx, dy = (w * scale - 1) / 2, (h * scale - 1) / 2
                    cx, cy = x * stride + centre, y * stride + centre
                    out.append([cx - dx, cy - dy, cx + dx, cy + dy])
    return np.array(out)


def encode_boxes(boxes: Array, anchors: Array) -> Array:
    """What the network is to predict for an anchor so that it becomes the box: shift and logarithm of the growth.

    Equation: R-CNN's, which R-FCN and OFF20 §6.1 take: dx = (bx - ax) / aw, dy, dw = log(bw / aw), dh, with centres
        x1 + (w - 1) / 2 and inclusive widths w = x2 - x1 + 1.
    Shapes: boxes, anchors (R, 4) -> (R, 4): dx, dy, dw, dh.
    Units: dx, dy in sizes of the anchor; dw, dh natural logarithms.
    Border, Kinks: none; a box inside out is refused, in `ops` its logarithm is NaN.
    Deviations: FGFA's code adds 1e-14 to aw; py-faster-rcnn puts the centre at x1 + w / 2, half a pixel further, which
        cancels here, but not in its decoding.
    Raises: TypeError or ValueError for dtypes, shapes, a box inside out, or values that are not finite.
    """
    boxes, anchors = arrays("detection.encode_boxes", boxes=(boxes, "R 4"), anchors=(anchors, "R 4"))
    _boxes("detection.encode_boxes", "boxes", boxes)
    _boxes("detection.encode_boxes", "anchors", anchors)
    out = np.full(boxes.shape, np.nan)
    for r, (b, a) in enumerate(zip(boxes, anchors, strict=True)):
        for axis in (0, 1):
            bw, aw = b[axis + 2] - b[axis] + 1, a[axis + 2] - a[axis] + 1
            out[r, axis] = (b[axis] + (bw - 1) / 2 - (a[axis] + (aw - 1) / 2)) / aw
            out[r, axis + 2] = math.log(bw / aw)
    return out


def decode_boxes(deltas: Array, anchors: Array) -> Array:
    """The boxes that a prediction makes of its anchors: the inverse of `encode_boxes`.

    Equation: as there; OFF20 §6.1.
    Shapes: deltas, anchors (R, 4) -> (R, 4): x1, y1, x2, y2.
    Units: pixels of the image.
    Border: boxes are not clipped to the image, nor dw and dh to a range (torchvision: at most log(1000 / 16)).
    Kinks: none; an anchor inside out is refused, in `ops` it decodes to a box inside out.
    Deviations: py-faster-rcnn's decoding of deltas 0 is one pixel wider and higher than the anchor; FGFA's is right
        (test_detection.py::test_decode_boxes_of_nothing_is_the_anchor).
    Raises: TypeError or ValueError for dtypes, shapes, an anchor inside out, or values that are not finite.
    """
    deltas, anchors = arrays("detection.decode_boxes", deltas=(deltas, "R 4"), anchors=(anchors, "R 4"))
    _boxes("detection.decode_boxes", "anchors", anchors)
    out = np.full(deltas.shape, np.nan)
    for r, (d, a) in enumerate(zip(deltas, anchors, strict=True)):
        for axis in (0, 1):
            aw = a[axis + 2] - a[axis] + 1
            centre = a[axis] + (aw - 1) / 2 + d[axis] * aw
            with np.errstate(over="ignore"):
                w = np.exp(d[axis + 2]) * aw
            out[r, axis], out[r, axis + 2] = centre - (w - 1) / 2, centre + (w - 1) / 2
    return out


def _overlap(a: Array, b: Array) -> float:
    """Intersection over union of two boxes."""
    w = min(a[2], b[2]) - max(a[0], b[0]) + 1
    h = min(a[3], b[3]) - max(a[1], b[1]) + 1
    inside = max(w, 0.0) * max(h, 0.0)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return float(inside / (areas[0] + areas[1] - inside))


def nms(boxes: Array, scores: Array, threshold: float) -> Keep:
    """Greedy non-maximum suppression: from the highest score on, a box removes those that overlap it too much.

    Equation: R-FCN's, which OFF20 §6.1 takes (proposals: threshold 0.7, detections: 0.3).
    Shapes: boxes (R, 4), scores (R,) -> bool (R,): True where the box is kept, in the order of the input.
    Units: `threshold` of the intersection over union of inclusive boxes; boxes that overlap by more are removed.
    Border: none.
    Kinks: an overlap of exactly `threshold` is kept; of equal scores the first in the input comes first.
    Deviations: torchvision's boxes exclude their last row and column
        (test_detection.py::test_nms_boxes_are_inclusive), and it returns numbers of boxes by score.
    Raises: TypeError or ValueError for dtypes, shapes, `threshold`, a box inside out, or values that are not finite.
    """
    threshold = positive("detection.nms", "threshold", threshold)
    boxes, scores = arrays("detection.nms", boxes=(boxes, "R 4"), scores=(scores, "R"))
    _boxes("detection.nms", "boxes", boxes)
    keep = np.zeros(len(boxes), bool)
    for r in np.argsort(-scores, kind="stable"):
        keep[r] = all(_overlap(boxes[r], boxes[other]) <= threshold for other in np.flatnonzero(keep))
    return keep


def propose(
    deltas: Array,
    scores: Array,
    anchors: Array,
    *,
    height: int,
    width: int,
    min_size: float = 16.0,
    pre_nms: int = 6000,
    post_nms: int = 300,
    threshold: float = 0.7,
) -> tuple[Array, Array, Keep]:
    """The regions of one image that the region proposal network hands on, by falling score.

    Equation: R-FCN's proposal layer, which OFF20 §6.1 takes: `decode_boxes`; clip to the image; drop what is narrower
        or lower than `min_size`; the `pre_nms` highest scores; `nms` at `threshold`; the first `post_nms` of what is
        left. Of equal scores the first in the input comes first.
    Shapes: deltas (R, 4), scores (R,), anchors (R, 4) -> boxes (post_nms, 4), scores (post_nms,), valid (post_nms,) of
        bool. Where fewer are left the rest is 0 and not valid.
    Units: pixels; the image is `height` x `width`: the clip is to [0, width - 1] x [0, height - 1].
    Border: a box outside the image is clipped to a line, one pixel wide.
    Kinks: a side of exactly `min_size` (inclusive: x2 - x1 + 1) stays. No derivative: R-FCN's proposals are constants.
    Deviations: FGFA's code fills up with proposals drawn at random.
    Raises: TypeError or ValueError for dtypes, shapes, numbers, an anchor inside out, or values that are not finite.
    """
    for name, number in (("height", height), ("width", width), ("pre_nms", pre_nms), ("post_nms", post_nms)):
        count("detection.propose", name, number)
    for name, value in (("min_size", min_size), ("threshold", threshold)):
        positive("detection.propose", name, value)
    maps: dict[str, Any] = {"deltas": (deltas, "R 4"), "scores": (scores, "R"), "anchors": (anchors, "R 4")}
    deltas, scores, anchors = arrays("detection.propose", **maps)
    _boxes("detection.propose", "anchors", anchors)
    boxes = np.clip(decode_boxes(deltas, anchors), 0, np.array([width, height, width, height]) - 1)
    large = [r for r, b in enumerate(boxes) if min(b[2] - b[0], b[3] - b[1]) + 1 >= min_size]
    first = sorted(large, key=lambda r: -scores[r])[:pre_nms]  # sorted is stable
    kept = np.array(first, int)[nms(boxes[first], scores[first], threshold)][:post_nms]
    left = post_nms - len(kept)
    return (
        np.concatenate([boxes[kept], np.zeros((left, 4))]),
        np.concatenate([scores[kept], np.zeros(left)]),
        np.arange(post_nms) < len(kept),
    )
