"""What R-FCN learns by, on boxes that are generated: a trial that its parts learn together (OFF20 §6).

The paper gives rates and lengths, and nothing of the losses, their weights and sampling: all of that is our choice. It
is Faster R-CNN's and R-FCN's, but for anchors, which all count, objects half of it, where those draw 256: anchors above
an overlap of 0.7, and the best of each object, are objects, those below 0.3 are not; regions above 0.5 have the class
and the box of the object they overlap most; the 128 regions of the highest loss count.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from motionspec.ops import detection, losses
from motionspec.ops.detection import _overlap, _sized
from motionspec.refimpl import metrics
from motionspec.train.objectives import Batch, Records

__all__ = ["Squares", "average_precision", "proposals_and_classes", "records"]

CHOSEN = 128  # regions that count, of the highest loss (R-FCN's online hard example mining)


def proposals_and_classes(network: Any, batch: Batch) -> Tensor:
    """The losses of both networks and their boxes, added; the mean over the samples.

    batch: "clip" (N, 3, 2, H, W), "boxes" (N, M, 4) of the first frame, inclusive, "classes" (N, M), -1: no box; each
    sample has one at least.
    """
    maps, (H, W) = network(batch["clip"]).float(), batch["clip"].shape[-2:]
    anchors = detection.anchors(*maps.shape[-2:], dtype=maps.dtype, device=maps.device)
    total = maps.new_zeros(())
    for frame, boxes, classes in zip(maps[:, :, 0], batch["boxes"], batch["classes"], strict=True):
        part = network.split(frame[None])
        truths, classes = boxes[classes >= 0].to(maps.dtype), classes[classes >= 0]
        scores = part["rpn_scores"].unflatten(1, (2, -1))[0].permute(2, 3, 1, 0).flatten(0, 2)
        deltas = part["rpn_boxes"].unflatten(1, (-1, 4))[0].permute(2, 3, 0, 1).flatten(0, 2)
        overlap = _overlaps(anchors, truths)
        best, which = overlap.max(1)
        thing = (best >= 0.7) | ((overlap == overlap.amax(0)) & (overlap > 0)).any(1)
        nothing = ~thing & (best < 0.3)
        for chosen in (thing, nothing):  # as many of both: by their means
            total = total + losses.cross_entropy(scores[chosen], thing[chosen].long()) / (2 * max(1, int(chosen.sum())))
        total = total + _distance(deltas[thing], truths[which[thing]], anchors[thing])

        objects = scores.detach().softmax(1)[:, 1]
        found, _, valid = detection.propose(deltas.detach(), objects, anchors, height=H, width=W)
        regions = torch.cat([truths, found[valid]])
        best, which = _overlaps(regions, truths).max(1)
        rois, thing = F.pad(regions, (1, 0)), best >= 0.5
        label = torch.where(thing, classes[which] + 1, 0)
        votes = detection.ps_roi_pool(part["class_maps"], rois, network.k).mean((2, 3))
        moved = detection.ps_roi_pool(part["box_maps"], rois, network.k).mean((2, 3))
        hard = F.cross_entropy(votes, label, reduction="none").topk(min(CHOSEN, len(label))).values
        total = total + hard.mean() + _distance(moved[thing], truths[which[thing]], regions[thing])
    return total / len(maps)


def _overlaps(boxes: Tensor, truths: Tensor) -> Tensor:
    """Intersection over union, (R, M)."""
    return torch.stack([_overlap(_sized(truth[None]), _sized(boxes)) for truth in truths], 1)


def _distance(deltas: Tensor, boxes: Tensor, start: Tensor) -> Tensor:
    """Smooth L1 of the four numbers that make boxes of where they start, the mean over them."""
    each = F.smooth_l1_loss(deltas, detection.encode_boxes(boxes, start), reduction="none").sum(1)
    return each.sum() / max(1, len(each))


def records(network: Any, batch: Batch) -> Records:
    """What is found in the first frame of each clip, and what is there."""
    lines = network.detect(batch["clip"]).double()
    frames = batch["clip"].shape[2] - 1
    return [
        {"found": lines[lines[:, 0] == n * frames, 1:].tolist(), "boxes": boxes.tolist(), "classes": classes.tolist()}
        for n, (boxes, classes) in enumerate(zip(batch["boxes"], batch["classes"], strict=True))
    ]


def average_precision(of: Records) -> dict[str, float]:
    """Mean average precision at an overlap of 0.5 (OFF20 §6.3)."""
    found = [[n, *line] for n, record in enumerate(of) for line in record["found"]]
    truths = [
        [n, label, *box]
        for n, record in enumerate(of)
        for label, box in zip(record["classes"], record["boxes"], strict=True)
        if label >= 0
    ]
    table = np.array(found, np.float64).reshape(-1, 7)
    return {"mAP": float(metrics.mean_average_precision(table, np.array(truths, np.float64)))}


class Squares(Dataset[dict[str, Tensor]]):
    """Pairs of frames with one to three squares that move on noise; a class is a colour. Item `(epoch, index)`.

    A dict of "clip" float32 (3, 2, side, side), of values as torchvision's, "boxes" float32 (3, 4), "classes" int64
    (3,), -1 where there is no box. `train` and `seed` choose the samples.
    """

    classes = ("red", "green", "blue")

    def __init__(self, samples: int = 64, side: int = 96, *, train: bool = True, seed: int = 0):
        self.samples, self.side, self.train, self.seed = samples, side, train, seed

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Tensor]:
        index = key[1] if isinstance(key, tuple) else key
        rng = np.random.default_rng((self.seed, self.train, index))
        clip = rng.normal(0, 0.3, (3, 2, self.side, self.side))
        boxes, classes = np.zeros((3, 4)), np.full(3, -1)
        for k in range(rng.integers(1, 4)):
            size = int(rng.integers(self.side // 5, self.side // 2))
            y, x = rng.integers(0, self.side - size, 2)
            boxes[k], classes[k] = (x, y, x + size - 1, y + size - 1), rng.integers(3)
            for t, shift in enumerate([np.zeros(2, int), rng.integers(-4, 5, 2)]):
                rows, columns = (slice(max(0, at), at + size) for at in np.array([y, x]) + shift)
                clip[:, t, rows, columns] = -1
                clip[classes[k], t, rows, columns] = 2
        parts = {"clip": clip.astype(np.float32), "boxes": boxes.astype(np.float32), "classes": classes}
        return {name: torch.from_numpy(value) for name, value in parts.items()} | {"index": torch.tensor(index)}
