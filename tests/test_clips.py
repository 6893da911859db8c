"""What a network sees of a video (data/clips.py): shapes, one sample whatever the workers, each clip once an epoch."""

import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")
torch = pytest.importorskip("torch")

from motionspec.data.augment import SCALES  # noqa: E402
from motionspec.data.clips import Clips, Epochs, View, loader  # noqa: E402
from motionspec.data.video import VideoError  # noqa: E402
from motionspec.models.table import CAFFE, Frames  # noqa: E402
from motionspec.refimpl import warp  # noqa: E402


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


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].equal(other[name]), name


AUGMENTED = View(size=24, length=3, scales=SCALES, flip=True, jitter=(0.4, 0.4, 0.4), flow="future")


def test_a_sample_depends_on_seed_epoch_and_index_alone():
    clips = Clips(Noise(), AUGMENTED, train=True, seed=4)
    sample = clips[2, 3]
    clips[2, 1]
    np.random.default_rng().random()
    same(clips[2, 3], sample)
    same(Clips(Noise(), AUGMENTED, train=True, seed=4)[2, 3], sample)
    same(clips[3], clips[0, 3])
    others = [clips[3, 3], clips[2, 4], Clips(Noise(), AUGMENTED, train=True, seed=5)[2, 3]]
    assert not any(sample["clip"].equal(other["clip"]) for other in others)


FORKS = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12: this process has threads


@FORKS
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_do_not_show(start):
    clips = Clips(Noise(), AUGMENTED, train=True)
    batches = Epochs(len(clips), 2, train=True)
    alone = list(loader(clips, batches))
    shared = list(loader(clips, batches, workers=2, multiprocessing_context=start))
    assert len(alone) == len(shared) == 2
    for one, other in zip(alone, shared, strict=True):
        same(one, other)


class Threads(torch.utils.data.Dataset):
    def __init__(self, video):
        self.video = str(video)

    def __getitem__(self, key):
        capture = cv2.VideoCapture(self.video, cv2.CAP_FFMPEG)
        assert capture.isOpened()
        decoding = int(capture.get(cv2.CAP_PROP_N_THREADS))
        return {"torch": torch.get_num_threads(), "opencv": cv2.getNumThreads(), "decoding": decoding}


@FORKS
def test_a_worker_uses_one_thread(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENCV_FFMPEG_THREADS", raising=False)
    video = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"XVID"), 25, (64, 48))
    video.write(np.zeros((48, 64, 3), np.uint8))
    video.release()
    dataset = Threads(tmp_path / "a.avi")
    assert dataset[0]["decoding"] > 1 or torch.multiprocessing.cpu_count() == 1
    threads = next(iter(loader(dataset, Epochs(1, 1, train=False), workers=1, multiprocessing_context="fork")))
    assert threads == {"torch": 1, "opencv": 1, "decoding": 1}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("clips", "batch", "world"), [(23, 3, 2), (24, 4, 3), (12, 6, 2), (5, 1, 1), (7, 2, 3)])
def test_every_clip_once_an_epoch(train, clips, batch, world):
    ranks = [Epochs(clips, batch, train=train, seed=1, epoch=3, rank=r, world=world) for r in range(world)]
    batches = [list(rank) for rank in ranks]
    assert [len(rank) for rank in ranks] == [len(b) for b in batches]
    seen = [index for b in batches for one in b for _, index in one]
    assert {epoch for b in batches for one in b for epoch, _ in one} == {3}
    assert len(seen) == len(set(seen)) == (clips - clips % (batch * world) if train else clips)
    if train:
        assert all(len(one) == batch for b in batches for one in b)
        assert seen != sorted(seen) or clips < 6
    # together the processes see what one with a batch of all does, and a start goes on where it says
    whole = [sorted(one) for one in Epochs(clips, batch * world, train=train, seed=1, epoch=3)]
    for k, one in enumerate(whole):
        assert sorted(item for b in batches for item in (b[k] if k < len(b) else [])) == one
    rest = Epochs(clips, batch, train=train, seed=1, epoch=3, start=1, world=world)
    assert list(rest) == batches[0][1:]


def test_epochs_differ_and_seeds_too():
    orders = [list(Epochs(50, 5, train=True, seed=s, epoch=e)) for s, e in ((0, 0), (0, 1), (1, 0))]
    orders = [[index for batch in order for _, index in batch] for order in orders]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    with pytest.raises(ValueError, match="Epochs: batch: expected batch \\* world at most the 5 clips, got 6"):
        Epochs(5, 3, train=True, world=2)


def test_a_mirrored_clip_has_the_mirrored_flow():
    """Of many samples, some mirrored, the flow fetches each frame from the next exactly; u tells which were."""
    view = View(size=40, length=3, flip=True, flow="inside", frames=Frames())
    clips = Clips(Noise(), view, train=True)
    signs = set()
    for epoch in range(8):
        clip, flow, known = (clips[epoch, 0][name].double().numpy() for name in ("clip", "flow", "known"))
        inside = known[:, :-2, 1:-1] > 0  # of what stays in the crop in either case
        for t in range(2):
            back = warp.bilinear(clip[None, :, t + 1], flow[None, :, t])[0]
            assert inside[t].mean() > 0.9
            np.testing.assert_array_equal((back == clip[:, t])[:, :-2, 1:-1] | ~inside[t], True)
        assert (np.abs(flow[:, known > 0]) == [[1], [2]]).all()
        signs |= set(flow[0, known > 0])
    assert signs == {1, -1}


def test_values_of_each_modality():
    """By hand: order, mean and scale; differences frame by frame; flow in grey levels, x and y in turn."""
    source = Noise(lengths=(12,))
    frames = source.read(0, range(12))[:, 6:54, 16:64].astype(float)  # the centre

    def clip(**options):
        return Clips(source, View(size=48, frames=CAFFE, **options), train=False)[0]["clip"].numpy()

    bgr = np.moveaxis(frames[..., ::-1] - [104, 117, 123], -1, 0)
    np.testing.assert_allclose(clip(length=12), bgr, rtol=1e-6)
    difference = clip(modality="rgb_difference", stack=5, segments=2)  # L' = 7 starts: those at 1 and 5
    for segment, start in enumerate((1, 5)):
        for k in range(5):
            expected = bgr[:, start + k + 1] - bgr[:, start + k]
            np.testing.assert_allclose(difference[3 * k : 3 * k + 3, segment], expected, atol=1e-4)
    flow = clip(modality="flow", stack=2)
    np.testing.assert_allclose(flow[[0, 2]], 127.5 / 20, rtol=1e-6)
    np.testing.assert_allclose(flow[[1, 3]], 2 * 127.5 / 20, rtol=1e-6)


def test_short_videos():
    """One frame, and fewer than the clip: the last frame stays and does not move, or the video starts over."""
    for length in (1, 3):
        for pad in ("edge", "wrap"):
            view = View(size=48, length=5, flow="future", pad=pad, frames=Frames())
            sample = Clips(Noise(lengths=(length,)), view, train=True)[0]
            numbers = [min(t, length - 1) if pad == "edge" else t % length for t in range(6)]
            for t, (a, b) in enumerate(pairwise(numbers)):
                assert sample["clip"][:, t].equal(sample["clip"][:, numbers.index(a)])
                expected = {1: (1, 2), 0: (0, 0)}.get(b - a)
                known = sample["known"][t]
                assert known.any() == (expected is not None)
                for component, value in enumerate(expected or (0, 0)):
                    assert (sample["flow"][component, t][known] == value).all()
    with pytest.raises(ValueError, match="length: expected at least 5 frames"):
        Clips(Noise(lengths=(3,)), View(size=48, length=5, pad="error"), train=True)[0]


class Broken(Noise):
    def length(self, i):
        if i in (1, 2, 4):
            raise VideoError(f"{i}.avi: the file is empty; fetch it again")
        return super().length(i)


@FORKS
def test_broken_videos(caplog):
    view = View(size=8)
    with pytest.raises(VideoError, match=r"1\.avi: the file is empty"):
        Clips(Broken(), view, train=True)[1]
    clips = Clips(Broken(), view, train=True, broken="skip")
    for epoch in range(2):
        assert [clips[epoch, i]["index"].item() for i in range(5)] == [0, 3, 3, 3, 0]
    assert clips.unusable == 3
    assert [record.message[9:14] for record in caplog.records] == ["1.avi", "2.avi", "4.avi"]
    clips = Clips(Broken(), view, train=True, broken="skip")
    loaded = list(loader(clips, Epochs(5, 1, train=False), workers=2, multiprocessing_context="fork"))
    assert len(loaded) == 5 and clips.unusable == 3


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"size": 0}, "View: size: expected at least 1, got 0"),
        ({"size": 8, "short": 7}, "View: short: expected 0 or at least size=8, got 7"),
        ({"size": 8, "modality": "depth"}, "View: modality: expected one of 'rgb', 'rgb_difference', 'flow'"),
        ({"size": 8, "stack": 5}, "View: stack: expected 1 for the modality 'rgb', got 5"),
        ({"size": 8, "crops": 5}, "View: crops: expected 1, 10 or 'random', got 5"),
        ({"size": 8, "flow": "past"}, "View: flow: expected None, 'inside' or 'future'"),
        ({"size": 8, "flow": "inside", "segments": 3}, "View: flow: expected one segment, stride 1"),
        ({"size": 8, "rule": "off", "segments": 7, "test_segments": 3}, "View: test_segments: expected 0 or at least"),
        ({"size": 8, "scales": (1.0, 1.2)}, "View: scales: expected numbers above 0, at most 1, got (1.0, 1.2)"),
        ({"size": 8, "jitter": (0.4, 1.5, 0)}, "View: jitter: expected three numbers from 0 to 1, got (0.4, 1.5, 0)"),
        ({"size": 8, "rule": "off", "places": 2}, "View: places: expected 1 for the rule 'off'"),
        ({"size": 8, "scales": 0.5}, "View: scales: expected numbers above 0, at most 1, got 0.5"),
        ({"size": 8, "scales": ("a",)}, "View: scales: expected numbers above 0, at most 1, got ('a',)"),
        ({"size": 8, "jitter": 0.4}, "View: jitter: expected three numbers from 0 to 1, got 0.4"),
        ({"size": 8, "jitter": "abc"}, "View: jitter: expected three numbers from 0 to 1, got abc"),
        ({"size": 8, "flip": "no"}, "View: flip: expected True or False, got 'no'"),
        ({"size": 8, "frames": "caffe"}, "View: frames: expected a Frames, such as models.table.CAFFE, got 'caffe'"),
    ],
)
def test_bad_views(options, text):
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape(text)}"):
        View(**options)


def test_flow_of_another_size():
    class Other(Noise):
        def flow(self, i, frames):
            return tuple(x[..., 1:] for x in super().flow(i, frames))

    view = View(size=8, length=2, flow="inside")
    with pytest.raises(VideoError, match=r"^0: frames of 80 x 60 and flow of 79 x 60"):
        Clips(Other(), view, train=True)[0]


@pytest.mark.parametrize("side", [1, 2, 3, 7])
def test_tiny_frames(side):
    source = Noise(lengths=(2,), height=side, width=side + 1)
    sample = Clips(source, View(size=9, length=2, scales=(*SCALES, 0.01), flow="inside", flip=True), train=True)[0]
    assert sample["clip"].shape == (3, 2, 9, 9) and sample["flow"].shape == (2, 1, 9, 9)


def test_bad_clips():
    class NoFlow:
        classes, labels, names = ("a",), (0,), ("a",)

        def __len__(self):
            return 1

        def length(self, i):
            return 9

        def read(self, i, frames):
            return np.zeros((len(frames), 30, 40, 3), np.uint8)

    with pytest.raises(TypeError, match=r"Clips: source: expected a source with flow\(\); flow_cache.TVL1"):
        Clips(NoFlow(), View(size=8, modality="flow"), train=True)
    with pytest.raises(ValueError, match="View: size: expected at most the short side 30 of the frames, unless"):
        Clips(NoFlow(), View(size=32), train=True)[0]
    with pytest.raises(IndexError, match=r"Clips: index: expected 0 \.\. 0, got 1"):
        Clips(NoFlow(), View(size=8), train=True)[1]
