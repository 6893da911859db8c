"""Frame pairs for networks that learn flow (data/pairs.py)."""

from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("torch")

from motionspec.data.pairs import Pairs
from motionspec.data.video import VideoError
from motionspec.models.table import Frames
from motionspec.refimpl import warp


@dataclass(frozen=True)
class Waves:
    """Waves that move by (2, -1) pixels a frame; a corner of their flow is unknown."""

    length_: int = 5
    classes = ()
    labels = (-1,)
    names = ("waves",)

    def __len__(self):
        return 1

    def length(self, i):
        return self.length_

    def read(self, i, frames):
        y, x = np.mgrid[:40, :60]
        waves = [np.sin(0.3 * (x - 2 * t)) + np.cos(0.25 * (y + t)) for t in frames]
        return np.rint(127.5 + 60 * np.stack([waves] * 3, -1)).astype(np.uint8)

    def flow(self, i, frames):
        flow = np.float32([2, -1])[:, None, None] + np.zeros((40, 60), np.float32)
        known = np.ones((40, 60), bool)
        known[:9, :9] = False
        return np.stack([np.where(known, flow, np.nan)] * len(frames)), np.stack([known] * len(frames))


def test_pairs_are_turned_with_their_flow():
    """The second frame, fetched by the flow, is the first; the flow has another direction and length each time."""
    pairs, flows = Pairs(Waves(), (24, 32), train=True, frames=Frames()), []
    for epoch in range(20):
        sample = pairs[epoch, 0]
        assert sample["clip"].shape == (3, 2, 24, 32) and sample["index"] == 0
        clip, flow, known = (sample[name].double().numpy() for name in ("clip", "flow", "known"))
        assert np.isfinite(flow).all() and flow.shape == (2, 1, 24, 32) and known.shape == (1, 24, 32)
        field = flow.transpose(1, 0, 2, 3)
        back = warp.bilinear(clip[None, :, 1], field)
        # bright enough not to be partly outside the picture, which is black; the darkest wave has 7 grey levels
        landed = (warp.bilinear((clip[None, :1, 1] > 6).astype(float), field)[0, 0] == 1) & (known[0] > 0)
        if landed.any():
            assert np.abs(back[0] - clip[:, 0])[:, landed].mean() < 2.5
            flows.append(flow[:, 0, *np.argwhere(known[0] > 0)[0]])
    lengths = np.hypot(*np.transpose(flows)) / np.hypot(2, 1)
    assert len(flows) > 10 and lengths.min() < 1.1 < 1.7 < lengths.max() and 0.89 < lengths.min() < lengths.max() < 2.01
    assert {np.sign(u) for u, _ in flows} == {1, -1}


def test_in_test_the_middle_pair_is_whole():
    sample = Pairs(Waves(), (24, 32), train=False, frames=Frames())[0]
    np.testing.assert_array_equal(sample["clip"], np.moveaxis(Waves().read(0, [1, 2]), -1, 0))
    assert not sample["known"][0, :9, :9].any() and sample["known"].sum() == 40 * 60 - 81
    assert (sample["flow"][:, 0, 9:, 9:] == sample["flow"].new_tensor([2, -1]).view(2, 1, 1)).all()
    assert (sample["flow"][:, 0, :9, :9] == 0).all()


def test_a_pair_depends_on_seed_epoch_and_index_alone():
    options = {"train": True, "jitter": (0.4, 0.4, 0.4)}
    one, other = Pairs(Waves(), (24, 32), **options)[3, 0], Pairs(Waves(), (24, 32), **options)[3, 0]
    assert all(one[name].equal(other[name]) for name in one)
    assert not one["clip"].equal(Pairs(Waves(), (24, 32), **options, seed=1)[3, 0]["clip"])


def test_bad_pairs():
    with pytest.raises(ValueError, match=r"^Pairs: zoom: expected smallest and largest, above 0, got \(2, 1\)"):
        Pairs(Waves(), (24, 32), train=True, zoom=(2, 1))
    with pytest.raises(VideoError, match="waves: one frame, and a pair has two"):
        Pairs(Waves(length_=1), (24, 32), train=True)[0]
    with pytest.raises(TypeError, match=r"^Pairs: source: expected one with flow"):
        Pairs((), (24, 32), train=True)
