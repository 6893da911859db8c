"""JPEG 2000 at a given PSNR (data/degrade.py), and windows of clean and degraded frames (data/restoration.py)."""

import re
from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("torch")

from motionspec.data.degrade import jpeg2000, rate_for
from motionspec.data.restoration import Windows
from motionspec.data.video import VideoError
from motionspec.refimpl import metrics

cv2 = pytest.importorskip("cv2")


@dataclass(frozen=True)
class Septuplets:
    """Pictures whose colours tell x, y and t."""

    length_: int = 7
    classes = ()
    labels = (-1, -1)
    names = ("one", "two")

    def __len__(self):
        return 2

    def length(self, i):
        return self.length_

    def read(self, i, frames):
        y, x = np.mgrid[:48, :64]
        return np.stack([np.stack([3 * x, 4 * y, 0 * x + 30 * t + i], -1) for t in frames]).astype(np.uint8)


def psnr(frames, degraded):
    return metrics.psnr(*(np.moveaxis(x, -1, 1).astype(float) for x in (degraded, frames)), peak=255).item()


def test_rate_is_that_of_the_psnr():
    frames = Septuplets().read(0, range(3)) // 2 + np.random.default_rng(0).integers(0, 30, (3, 48, 64, 3), np.uint8)
    for target in (28.0, 34.0):
        rate, reached = rate_for(target, frames)
        assert reached == pytest.approx(psnr(frames, jpeg2000(frames, rate)), abs=1e-9)
        around = [psnr(frames, jpeg2000(frames, r)) for r in (rate - 1, rate + 1)]
        assert around[0] < reached < around[1] and around[0] < target < around[1]
        assert abs(reached - target) <= min(abs(other - target) for other in around)
    with pytest.raises(ValueError, match=r"degrade.rate_for: psnr: expected at least \d+\.\d\d, that of rate 1, got 2"):
        rate_for(2, frames)
    with pytest.raises(ValueError, match=r"degrade.rate_for: frames: expected at least one, got 0"):
        rate_for(30, frames[:0])
    with pytest.raises(ValueError, match=r"degrade.jpeg2000: rate: expected at most 1000, got 1001"):
        jpeg2000(frames, 1001)


def test_jpeg2000_is_the_same_for_each_frame_and_keeps_colours():
    frames = Septuplets().read(0, range(2))
    degraded = jpeg2000(frames, 60)
    np.testing.assert_array_equal(degraded[1:], jpeg2000(frames[1:], 60))
    np.testing.assert_array_equal(jpeg2000(frames, 1000), frames)
    red = np.zeros((1, 48, 64, 3), np.uint8) + np.uint8([200, 20, 10])
    assert np.abs(jpeg2000(red, 60).astype(int) - red).max() <= 3


@pytest.mark.parametrize(("frames", "window"), [(1, [3]), (2, [3, 4]), (3, [2, 3, 4])])
def test_windows(frames, window):
    source = Septuplets()
    sample = Windows(source, frames=frames, rate=60, train=False)[1]
    clean = source.read(1, window)
    expected = np.moveaxis(jpeg2000(clean, 60), -1, 0) / np.float32(255)
    np.testing.assert_array_equal(sample["clip"], expected)
    np.testing.assert_array_equal(sample["target"], np.moveaxis(source.read(1, [3])[0], -1, 0) / np.float32(255))
    assert sample["index"] == 1
    # In training all windows of the clip are drawn; noisy and clean are the same place of the same frame.
    windows = Windows(source, frames=frames, rate=1000, train=True, size=20)
    samples = [windows[epoch, 0] for epoch in range(60)]
    for sample in samples:
        assert sample["clip"].shape == (3, frames, 20, 20) and sample["target"].shape == (3, 20, 20)
        assert sample["clip"][:, (frames - 1) // 2].equal(sample["target"])
    x, y, t = np.rint([255 * sample["target"][:, 0, 0].numpy() for sample in samples]).T // [[3], [4], [30]]
    assert {*t} == {*range((frames - 1) // 2, 7 - frames // 2)}
    assert {*x} <= {*range(45)} and len({*x}) > 20 and {*y} <= {*range(29)} and len({*y}) > 15


def test_bad_windows():
    with pytest.raises(ValueError, match=r"^Windows: frames: expected 1, 2 or 3, got 4"):
        Windows(Septuplets(), frames=4, rate=9, train=True)
    with pytest.raises(VideoError, match=re.escape("one: 2 frames, and a window has 3; leave the clip out")):
        Windows(Septuplets(length_=2), frames=3, rate=9, train=True)[0]
    with pytest.raises(VideoError, match="one: 64 x 48, and the square has a side of 49; leave it out"):
        Windows(Septuplets(), frames=3, rate=9, train=True, size=49)[0]


@pytest.mark.parametrize("size", [(31, 31), (24, 24), (31, 64), (64, 5), (1, 1), (33, 32)])
def test_small_frames_are_coded_with_a_border(capfd, size):
    """The encoder halves a picture five times, so that one of less than 32 pixels has nothing left of it."""
    frames = Septuplets().read(0, range(2))[:, : size[0], : size[1]]
    degraded = jpeg2000(frames, 200)
    assert degraded.shape == frames.shape and np.abs(degraded.astype(int) - frames).mean() < 8
    np.testing.assert_array_equal(jpeg2000(frames, 1000), frames)
    assert capfd.readouterr() == ("", "")


def test_an_encoder_that_fails_is_told(monkeypatch):
    monkeypatch.setattr(cv2, "imencode", lambda *_: (False, np.zeros(0, np.uint8)))
    with pytest.raises(VideoError, match=r"degrade.jpeg2000: OpenCV could not code a frame of 64 x 48 pixels"):
        jpeg2000(Septuplets().read(0, [0]), 60)
    monkeypatch.setattr(cv2, "haveImageWriter", lambda _: False)
    with pytest.raises(VideoError, match="this OpenCV has no JPEG 2000: pip install opencv-contrib-python-headless"):
        jpeg2000(Septuplets().read(0, [0]), 60)
