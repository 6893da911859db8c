"""What a network sees of a video (data/clips.py): shapes, one sample whatever the workers, each clip once an epoch."""

from dataclasses import dataclass

import numpy as np
import pytest

from motionspec.data.augment import SCALES
from motionspec.data.clips import Clips, Epochs, View, loader
from motionspec.models.table import CAFFE


@dataclass(frozen=True)
class Noise:
    """Videos of noise that moves one pixel to the right and two down each frame, over the border to the other side."""

    lengths: tuple[int, ...] = (30, 30, 30, 30, 30)
    height: int = 60
    width: int = 80
    classes = ("even", "odd")

    @property
    def names(self):
        return tuple(map(str, range(len(self))))

    @property
    def labels(self):
        return tuple(i % 2 for i in range(len(self)))

    def __len__(self):
        return len(self.lengths)

    def length(self, i):
        return self.lengths[i]

    def read(self, i, frames):
        first = np.random.default_rng(i).integers(0, 256, (self.height, self.width, 3), np.uint8)
        return np.stack([np.roll(first, (2 * t, t), (0, 1)) for t in frames])

    def flow(self, i, frames):
        assert max(frames) < self.lengths[i] - 1
        flow = np.float32([1, 2])[:, None, None] + np.zeros((self.height, self.width), np.float32)
        known = np.ones((self.height, self.width), bool)
        known[:, -1] = known[-2:] = False  # these leave the picture
        flow = np.where(known, flow, np.nan)
        return np.stack([flow] * len(frames)), np.stack([known] * len(frames))


VIEWS = {
    # name: view, shape of "clip" in training, in test
    "clip": (View(size=48, length=8), (3, 8, 48, 48), (3, 8, 48, 48)),
    "strided": (View(size=48, length=4, stride=3, short=50), (3, 4, 48, 48), (3, 4, 48, 48)),
    "off": (
        View(size=48, rule="off", segments=7, test_segments=25, crops=10, frames=CAFFE),
        (3, 7, 48, 48),
        (10, 3, 25, 48, 48),
    ),
    "rgb-difference": (
        View(size=48, modality="rgb_difference", stack=5, segments=3, test_segments=5, scales=SCALES, flip=True),
        (15, 3, 48, 48),
        (15, 5, 48, 48),
    ),
    "flow": (View(size=48, modality="flow", stack=5, segments=3, flip=True), (10, 3, 48, 48), (10, 3, 48, 48)),
    "dc18": (View(size=48, length=8, places=5), (3, 8, 48, 48), (5, 3, 8, 48, 48)),
    "af18": (
        View(size=48, length=16, flow="future", places=4, crops="random", flip=True, jitter=(0.4, 0.4, 0.4)),
        (3, 16, 48, 48),
        (4, 3, 16, 48, 48),
    ),
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("train", [True, False])
def test_shapes(name, train):
    view, *shapes = VIEWS[name]
    clips = Clips(Noise(), view, train=train)
    assert view.shape(train=train) == shapes[not train][-4:]
    for sample in loader(clips, Epochs(len(clips), 2, train=train)):
        n = len(sample["label"])
        assert sample["clip"].shape == (n, *shapes[not train])
        assert (sample["label"] == sample["index"] % 2).all()
        if view.flow:
            assert sample["flow"].shape == (*sample["clip"].shape[:-4], 2, 16, 48, 48)
            assert sample["known"].shape == (*sample["clip"].shape[:-4], 16, 48, 48)
