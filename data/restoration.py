"""Degraded windows of a video and the clean frame in them: what DnCNN with OFF learns from (OFF20 §7.3)."""

import numpy as np
import torch
from torch import Tensor

from motionspec.checks import count, message
from motionspec.data.clips import Samples, normalised
from motionspec.data.degrade import jpeg2000
from motionspec.data.source import Source
from motionspec.data.video import VideoError
from motionspec.models.table import UNIT

__all__ = ["Windows"]


class Windows(Samples):
    """Windows of 1, 2 or 3 frames of a source's clips, degraded by JPEG 2000, and frame t of each as it was.

    An item is a dict of "clip" float32 (3, frames, H, W) and "target" float32 (3, H, W), RGB in [0, 1], and "index"
    int64. The window is (t), (t, t + 1) or (t - 1, t, t + 1), as `off_dncnn.DnCNN` has it. In test t is the middle
    frame of the clip, of a septuplet the 4th, and the frames are whole (OFF20); in training t is random, and so is,
    with `size`, the place of a square of that side (the paper: whole frames). Frames are degraded before that, whole.
    rate: see `degrade`.
    Raises as `Samples`, TypeError or ValueError for the numbers, VideoError for a clip or frames that are too small.
    """

    def __init__(
        self,
        source: Source,
        *,
        frames: int,
        rate: int,
        train: bool,
        size: int = 0,
        seed: int = 0,
        broken: str = "raise",
    ) -> None:
        super().__init__(source, train=train, seed=seed, broken=broken)
        if count("Windows", "frames", frames) > 3:
            raise ValueError(message("Windows", "frames", "1, 2 or 3", frames))
        self.frames, self.rate = frames, count("Windows", "rate", rate)
        self.size = count("Windows", "size", size, least=0)

    def _sample(self, i: int, rng: np.random.Generator) -> dict[str, Tensor]:
        before, after = (self.frames - 1) // 2, self.frames // 2
        length, name = self.source.length(i), self.source.names[i]
        if length < self.frames:
            raise VideoError(f"{name}: {length} frames, and a window has {self.frames}; leave the clip out")
        t = int(rng.integers(before, length - after)) if self.train else (length - 1) // 2
        clean = self.source.read(i, range(t - before, t + after + 1))
        noisy = jpeg2000(clean, self.rate)
        if self.train and self.size:
            height, width = clean.shape[1:3]
            if self.size > min(height, width):
                raise VideoError(f"{name}: {width} x {height}, and the square has a side of {self.size}; leave it out")
            top, left = rng.integers(0, [height - self.size, width - self.size], endpoint=True)
            square = np.s_[:, top : top + self.size, left : left + self.size]
            clean, noisy = clean[square], noisy[square]
        clip, target = (np.ascontiguousarray(x) for x in (noisy, clean[before : before + 1]))
        return {"clip": normalised(clip, UNIT), "target": normalised(target, UNIT)[:, 0], "index": torch.tensor(i)}
