"""Pairs of frames and their flow, turned, moved and zoomed together: what networks learn flow from (AF18 §4.2)."""

import numpy as np
import torch
from torch import Tensor

from motionspec.checks import count, message
from motionspec.data import augment
from motionspec.data.augment import Affine
from motionspec.data.clips import Samples, normalised, same_size
from motionspec.data.source import FlowSource
from motionspec.data.video import VideoError
from motionspec.models.table import TORCHVISION, Frames

__all__ = ["Pairs"]


class Pairs(Samples):
    """Two neighbouring frames of each clip of a source that has flow, and the flow from the first to the second.

    An item is a dict of "clip" float32 (3, 2, H, W) as `frames` says, "flow" float32 (2, 1, H, W) in pixels, "known"
    bool (1, H, W) and "index" int64. In test these are the middle two frames of the clip, whole. In training they are
    any, and both are seen through a window of `size` (height, width), at a random place, zoomed and turned, so that the
    flow is too: AF18 §4.2, which follows FlowNet, whose amounts are the defaults. What lies outside the picture is
    black and its flow unknown. With `turn=0` it is what AF18 does to UCF101, to keep the distribution of the flow.

    zoom: smallest and largest, uniform; 1 is the picture's own size. turn: degrees to either side. move: the window's
    centre is off the picture's by up to so much of its sides. flip: half of them are mirrored. jitter: brightness,
    contrast, saturation as in `View`.
    Raises as `Samples`, TypeError or ValueError for the numbers and a source without flow, VideoError for a clip of one
    frame.
    """

    def __init__(
        self,
        source: FlowSource,
        size: tuple[int, int],
        *,
        train: bool,
        zoom: tuple[float, float] = (0.9, 2.0),
        turn: float = 17.0,
        move: float = 0.2,
        flip: bool = True,
        jitter: tuple[float, float, float] = (0, 0, 0),
        frames: Frames = TORCHVISION,
        seed: int = 0,
        broken: str = "raise",
    ) -> None:
        super().__init__(source, train=train, seed=seed, broken=broken)
        if not isinstance(source, FlowSource):
            raise TypeError(
                message("Pairs", "source", "one with flow(), such as flow_cache.TVL1", type(source).__name__)
            )
        for side in size:
            count("Pairs", "size", side)
        if not 0 < zoom[0] <= zoom[1]:
            raise ValueError(message("Pairs", "zoom", "smallest and largest, above 0", zoom))
        self.pairs, self.size, self.zoom, self.turn, self.move = source, size, zoom, turn, move
        self.flip, self.jitter, self.frames = flip, jitter, frames

    def _sample(self, i: int, rng: np.random.Generator) -> dict[str, Tensor]:
        length = self.source.length(i)
        if length < 2:
            raise VideoError(f"{self.source.names[i]}: one frame, and a pair has two; leave the clip out")
        t = int(rng.integers(length - 1)) if self.train else (length - 2) // 2
        flow, known = self.pairs.flow(i, [t])
        frames = self.source.read(i, [t, t + 1])
        same_size(self.source.names[i], frames, flow)
        if self.train:
            affine = self._affine(frames.shape[1], frames.shape[2], rng)
            frames = affine.frames(frames, self.size)
            flow, known = affine.flow(flow, known, self.size)
            if any(self.jitter):
                frames = augment.jitter(frames, *self.jitter, rng)
        field = torch.from_numpy(np.where(known[:, None], flow, np.float32(0))).transpose(0, 1)
        clip = normalised(np.ascontiguousarray(frames), self.frames)
        return {"clip": clip, "flow": field, "known": torch.from_numpy(known), "index": torch.tensor(i)}

    def _affine(self, height: int, width: int, rng: np.random.Generator) -> Affine:
        zoom, angle = rng.uniform(*self.zoom), np.deg2rad(rng.uniform(-self.turn, self.turn))
        centre = (np.array([width, height]) - 1) / 2 + rng.uniform(-self.move, self.move, 2) * [width, height]
        mirror = [-1 if self.flip and rng.integers(2) else 1, 1]
        cosine, sine = np.cos(angle), np.sin(angle)
        linear = np.array([[cosine, -sine], [sine, cosine]]) / zoom * mirror
        return Affine(np.column_stack([linear, centre - linear @ ((np.array(self.size[::-1]) - 1) / 2)]))
