"""Detection head of R-FCN (OFF20 §6). Definitions, conventions and sources: `motionspec.refimpl.detection`."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from motionspec.checks import choice, count, message, positive
from motionspec.ops.autocast import promoted
from motionspec.ops.checks import tensors


@promoted
def ps_roi_pool(x: Tensor, rois: Tensor, k: int = 7, spatial_scale: float = 0.0625, *, impl: str = "auto") -> Tensor:
    """Position-sensitive RoI pooling: bin (i, j) is the mean of that bin in map (c k + i) k + j (OFF20 §6.1, R-FCN).

    Shapes: x (N, C, H, W) with C = C' k^2, rois (R, 5): number of the sample, x1, y1, x2, y2 -> (R, C', k, k).
    Differentiable in x. A region of a sample that there is not, or with NaN or infinity in it, gives NaN.
    Raises TypeError or ValueError for dtypes, devices, shapes, `k`, `spatial_scale` or `impl`.
    """
    k, s = count("detection.ps_roi_pool", "k", k), positive("detection.ps_roi_pool", "spatial_scale", spatial_scale)
    a, regions = tensors("detection.ps_roi_pool", impl, x=(x, "N C H W"), rois=(rois, "R 5"))
    N, C, H, W = a.shape
    R, classes = regions.shape[0], C // k**2
    if C % k**2:
        raise ValueError(message("detection.ps_roi_pool", "x", f"C a multiple of k^2={k**2}", f"C={C}"))
    regions = regions.detach().double()  # the edges of the bins, as the reference has them
    number = regions[:, 0]
    unknown = ~(regions.isfinite().all(1) & (number == number.floor()) & (number >= 0) & (number < N))
    regions = torch.where(unknown[:, None], 0.0, regions)
    i, y, tall = _bins(regions[:, 2], regions[:, 4], H, k, s)
    j, x_, wide = _bins(regions[:, 1], regions[:, 3], W, k, s)
    # Every pixel of every bin of a region: (R, H + k - 1, W + k - 1), flattened. Only the pixels are read, so that NaN
    # and infinity elsewhere are not touched; neither summed tables nor masks by multiplication could say that.
    bin_ = i[:, :, None] * k + j[:, None, :]
    inside = ((y >= 0)[:, :, None] & (x_ >= 0)[:, None, :]).flatten(1)
    place = ((regions[:, :1, None].long() * k**2 + bin_) * H + y[:, :, None].clamp(0)) * W + x_[:, None, :].clamp(0)
    maps = a.reshape(N, classes, k**2 * H * W).transpose(0, 1).reshape(classes, N * k**2 * H * W)
    pixels = maps.gather(1, place.reshape(1, -1).expand(classes, -1)).reshape(classes, *inside.shape)
    pixels = torch.where(inside, pixels, 0.0)
    sums = torch.zeros(classes, R, k**2, dtype=a.dtype, device=a.device)
    sums = sums.scatter_add(2, bin_.flatten(1).expand(classes, -1, -1), pixels)
    area = (tall[:, :, None] * wide[:, None, :]).clamp(min=1).reshape(R, k**2)
    out = torch.where(unknown[:, None], torch.nan, sums / area)
    return out.transpose(0, 1).reshape(R, classes, k, k).to(x.dtype)


def _bins(first: Tensor, last: Tensor, size: int, k: int, s: float) -> tuple[Tensor, Tensor, Tensor]:
    """The pixels of the k bins along one side, one bin after the other: (R, size + k - 1) bin, pixel; (R, k) counts.

    Neighbouring bins share at most one pixel, so that the list is long enough; where it is not full the pixel is -1.
    """
    start = _round(first)[:, None]
    length = _round(last)[:, None] + 1 - start
    n = torch.arange(k + 1, dtype=first.dtype, device=first.device)
    cut = torch.where(length * s >= 0.1, (k * start + n * length) * s / k, start * s + n * 0.1 / k)
    begin = cut[:, :-1].floor().clamp(0, size).long()
    end = cut[:, 1:].ceil().clamp(0, size).long()
    counts = end - begin
    total = counts.cumsum(1)
    entry = torch.arange(size + k - 1, device=first.device)
    bin_ = (entry[None, :, None] >= total[:, None, :]).sum(2)
    full = bin_ < k
    bin_ = bin_.clamp(max=k - 1)
    pixel = begin.gather(1, bin_) + entry - (total - counts).gather(1, bin_)
    return bin_, torch.where(full, pixel, -1), counts


def _round(v: Tensor) -> Tensor:
    """C's round, half away from zero; adding 0.5 would round the number just below 0.5 up."""
    whole = v.trunc()
    return whole + torch.where((v - whole).abs() >= 0.5, v.sign(), 0.0)


def anchors(
    height: int,
    width: int,
    stride: int = 16,
    scales: Sequence[float] = (8, 16, 32),
    ratios: Sequence[float] = (0.5, 1, 2),
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    impl: str = "auto",
) -> Tensor:
    """The boxes that the region proposal network starts from (OFF20 §6.1, Faster R-CNN).

    Shapes: -> (height * width * A, 4), A = len(ratios) * len(scales): place by place, at each the ratios, for each of
    them the scales; in pixels of the image.
    Raises TypeError or ValueError for numbers or `impl`.
    """
    for name, number in (("height", height), ("width", width), ("stride", stride)):
        count("detection.anchors", name, number)
    for name, numbers in (("scales", scales), ("ratios", ratios)):
        for factor in numbers:
            positive("detection.anchors", name, factor)
    choice("detection.anchors", "impl", impl, ("auto", "torch"))
    widths = [round(math.sqrt(stride**2 / ratio)) for ratio in ratios]
    sides = [(w * scale, round(w * q) * scale) for w, q in zip(widths, ratios, strict=True) for scale in scales]
    half = torch.tensor(sides, dtype=torch.float64, device=device).sub(1).div(2)
    base = (stride - 1) / 2 + torch.cat([-half, half], 1)  # (A, 4)
    y = stride * torch.arange(height, device=device)[:, None].expand(height, width)
    x = stride * torch.arange(width, device=device).expand(height, width)
    return (torch.stack([x, y, x, y], -1)[:, :, None] + base).reshape(-1, 4).to(dtype)


@promoted
def encode_boxes(boxes: Tensor, anchors: Tensor, *, impl: str = "auto") -> Tensor:
    """dx, dy in sizes of the anchor and dw, dh, logarithms, that make the box of its anchor (OFF20 §6.1, R-CNN).

    Shapes: boxes, anchors (R, 4), inclusive -> (R, 4). A box inside out gives NaN.
    Raises TypeError or ValueError for dtypes, devices, shapes or `impl`.
    """
    b, a = tensors("detection.encode_boxes", impl, boxes=(boxes, "R 4"), anchors=(anchors, "R 4"))
    (centre, size), (origin, unit) = _centres(b), _centres(a)
    return torch.cat([(centre - origin) / unit, torch.log(size / unit)], 1).to(boxes.dtype)


@promoted
def decode_boxes(deltas: Tensor, anchors: Tensor, *, impl: str = "auto") -> Tensor:
    """The boxes that dx, dy, dw, dh make of their anchors: the inverse of `encode_boxes` (OFF20 §6.1, R-CNN).

    Shapes: deltas, anchors (R, 4) -> (R, 4), inclusive, not clipped.
    Raises TypeError or ValueError for dtypes, devices, shapes or `impl`.
    """
    d, a = tensors("detection.decode_boxes", impl, deltas=(deltas, "R 4"), anchors=(anchors, "R 4"))
    return _decode(d, a).to(deltas.dtype)


def _centres(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centres and sizes, (R, 2) each."""
    size = boxes[:, 2:] - boxes[:, :2] + 1
    return boxes[:, :2] + (size - 1) / 2, size


def _decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    origin, unit = _centres(anchors)
    centre, half = origin + deltas[:, :2] * unit, (torch.exp(deltas[:, 2:]) * unit - 1) / 2
    return torch.cat([centre - half, centre + half], 1)


@promoted
def nms(boxes: Tensor, scores: Tensor, threshold: float, *, impl: str = "auto") -> Tensor:
    """Greedy non-maximum suppression: True for the boxes that are kept, in the order of the input (OFF20 §6.1, R-FCN).

    Shapes: boxes (R, 4), inclusive, scores (R,) -> bool (R,). An overlap above `threshold` removes the lower score; of
    equal scores the first is kept. A box with NaN overlaps nothing, a NaN score is the highest. No derivative.
    Raises TypeError or ValueError for dtypes, devices, shapes, `threshold` or `impl`.
    """
    threshold = positive("detection.nms", "threshold", threshold)
    b, s = tensors("detection.nms", impl, boxes=(boxes, "R 4"), scores=(scores, "R"))
    order = torch.argsort(s.detach(), descending=True, stable=True)
    boxes = _sized(b.detach().double()[order])
    keep = torch.ones_like(order, dtype=torch.bool)
    # One step a box: each needs the decision on all before it, and only the device knows that.
    for r in range(boxes.shape[0] - 1):
        removed = keep[r] & (_overlap(boxes[r : r + 1], boxes[r + 1 :]) > threshold)
        keep = torch.cat([keep[: r + 1], keep[r + 1 :] & ~removed])
    return torch.zeros_like(keep).scatter(0, order, keep)


def _sized(boxes: Tensor) -> Tensor:
    """Boxes and, as a fifth number, their area. In float64 a half-precision box near a threshold decides as it must."""
    return torch.cat([boxes, (boxes[:, 2:] - boxes[:, :2] + 1).prod(1, keepdim=True)], 1)


def _overlap(box: Tensor, boxes: Tensor) -> Tensor:
    """Intersection over union of one box (1, 5) and each of others (R, 5), as `_sized` gives them."""
    sides = torch.minimum(box[:, 2:4], boxes[:, 2:4]) - torch.maximum(box[:, :2], boxes[:, :2]) + 1
    inside = sides.clamp(min=0).prod(1)
    return inside / (box[:, 4] + boxes[:, 4] - inside)


@promoted
def propose(
    deltas: Tensor,
    scores: Tensor,
    anchors: Tensor,
    *,
    height: int,
    width: int,
    min_size: float = 16.0,
    pre_nms: int = 6000,
    post_nms: int = 300,
    threshold: float = 0.7,
    impl: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """The regions of one image that the region proposal network hands on, by falling score (OFF20 §6.1, R-FCN).

    Shapes: deltas (R, 4), scores (R,), anchors (R, 4) -> boxes (post_nms, 4), scores (post_nms,), valid (post_nms,) of
    bool, 0 where not valid: as many whatever the values, so that nothing waits for them. No derivative.
    Raises TypeError or ValueError for dtypes, devices, shapes, numbers or `impl`.
    """
    for name, number in (("height", height), ("width", width), ("pre_nms", pre_nms), ("post_nms", post_nms)):
        count("detection.propose", name, number)
    for name, value in (("min_size", min_size), ("threshold", threshold)):
        positive("detection.propose", name, value)
    maps = {"deltas": (deltas, "R 4"), "scores": (scores, "R"), "anchors": (anchors, "R 4")}
    # In float64: what is near a threshold decides as in the reference.
    d, s, a = (t.detach().double() for t in tensors("detection.propose", impl, **maps))
    boxes = _decode(d, a)
    boxes = torch.stack([c.clamp(0, side - 1) for c, side in zip(boxes.unbind(1), (width, height) * 2, strict=True)], 1)
    large = ((boxes[:, 2:] - boxes[:, :2] + 1) >= min_size).all(1)
    order = torch.argsort(torch.where(large, s, -torch.inf), descending=True, stable=True)[:pre_nms]
    boxes, s = boxes[order], s[order]
    # As `nms`, but with a step for each box that is kept, of which few are asked for: it is the first of those left.
    alive, sized, places = large[order], _sized(boxes), torch.arange(order.shape[0], device=s.device)
    found, valids = [places[:0]], [alive[:0]]
    for _ in range(min(post_nms, order.shape[0])):
        r = alive.byte().argmax(0, keepdim=True)  # has an axis: as an index without any its value would be looked at
        found.append(r)
        valids.append(alive[r])
        alive = alive & (places != r) & ~(_overlap(sized[r], sized) > threshold)
    first, valid = torch.cat(found), torch.cat(valids)
    left = post_nms - first.shape[0]
    boxes, s = torch.where(valid[:, None], boxes[first], 0.0), torch.where(valid, s[first], 0.0)
    return (
        F.pad(boxes, (0, 0, 0, left)).to(deltas.dtype),
        F.pad(s, (0, left)).to(deltas.dtype),
        F.pad(valid, (0, left)),
    )
