"""What a network sees of a video: which frames, which part of them, as which numbers.

    clips = Clips(source, View(size=224, length=16, scales=augment.SCALES, flip=True), train=True, seed=0)
    batches = Epochs(len(clips), batch=8, train=True, seed=0)
    for epoch in range(10):
        batches.epoch = epoch
        for sample in loader(clips, batches, workers=2): ...

A sample depends on (seed, epoch, index) and on nothing else: not on workers, order or restarts.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import torch
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "motionspec.data.clips needs PyTorch: pip install 'motionspec[torch]'", name="torch"
    ) from error
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from motionspec.checks import choice, count, message, printable
from motionspec.data import augment
from motionspec.data.augment import Crop
from motionspec.data.source import FlowSource, Images, Source
from motionspec.data.video import VideoError
from motionspec.flow import opencv
from motionspec.models.table import TORCHVISION, Frames
from motionspec.refimpl import sampling

__all__ = ["Clips", "Epochs", "View", "loader"]

BOUND = 20.0  # pixels: flow beyond it is cut in the modality "flow" (TSN, OFF18's released settings)


@dataclass(frozen=True, kw_only=True)
class View:
    """How frames, crops and values of a clip are chosen.

    Time. A clip has T = segments * length places, a place is a frame, or `stack` differences or flow maps (TSN: 5). In
    each segment they follow one another `stride` frames apart. rule: "tsn" draws a snippet out of each of equal
    segments, "off" takes them at OFF's interval. test_segments: as many in test (OFF: 25, the beta of its interval);
    0: as in training. pad: what a short video goes on with, "edge" or "wrap", or "error".

    Space. size: side of the square that the network sees. In training with `scales` TSN's corner crop; else a square of
    `size` at a random place of the frame whose short side is resized to `short` (0: as it is). In test the one in the
    centre. flip: half of the clips in training are mirrored. jitter: amounts of brightness, contrast, saturation.

    Views in test. places: the clip is taken from so many places in time (DC18: 25). crops: 1 the centre; 10 TSN's;
    "random" a random crop and random places in time for each of `places` (AF18: 64). If there is more than one view in
    all the sample has an axis V for them, time by time.

    Values. modality: "rgb" has C = 3 channels in the order, less the mean and over the scale of `frames`;
    "rgb_difference" 3 stack: differences of such, the channels of each together; "flow" 2 stack: x and y of each map in
    turn, cut at 20 pixels of the crop, as 127.5/20 grey levels a pixel, over the first scale of `frames`.

    flow: what flow the sample has as a target, of neighbours of the clip: "inside" T - 1 maps, "future" T, the last to
    a frame that the clip does not have (AF18); None: none. Needs one segment, stride 1 and RGB.
    """

    size: int
    frames: Frames = TORCHVISION
    modality: str = "rgb"
    stack: int = 1
    rule: str = "tsn"
    segments: int = 1
    test_segments: int = 0
    length: int = 1
    stride: int = 1
    pad: str = "edge"
    short: int = 0
    scales: tuple[float, ...] = ()
    flip: bool = False
    jitter: tuple[float, float, float] = (0, 0, 0)
    places: int = 1
    crops: int | str = 1
    flow: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("size", 1), ("stack", 1), ("segments", 1), ("test_segments", 0), ("length", 1)):
            count("View", name, getattr(self, name), least)
        for name, least in (("stride", 1), ("short", 0), ("places", 1)):
            count("View", name, getattr(self, name), least)
        choice("View", "modality", self.modality, ("rgb", "rgb_difference", "flow"))
        choice("View", "rule", self.rule, ("tsn", "off"))
        choice("View", "pad", self.pad, ("edge", "wrap", "error"))
        if self.crops not in (1, 10, "random"):
            raise ValueError(message("View", "crops", "1, 10 or 'random'", repr(self.crops)))
        if self.flow not in (None, "inside", "future"):
            raise ValueError(message("View", "flow", "None, 'inside' or 'future'", repr(self.flow)))
        if 0 < self.short < self.size:
            raise ValueError(message("View", "short", f"0 or at least size={self.size}", self.short))
        if self.stack > 1 and self.modality == "rgb":
            raise ValueError(message("View", "stack", "1 for the modality 'rgb'", self.stack))
        if type(self.flip) is not bool:  # a word such as "no" is true
            raise TypeError(message("View", "flip", "True or False", repr(self.flip)))
        if not isinstance(self.frames, Frames):
            raise TypeError(message("View", "frames", "a Frames, such as models.table.CAFFE", repr(self.frames)))
        if not _numbers(self.scales) or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(message("View", "scales", "numbers above 0, at most 1", self.scales))
        if not _numbers(self.jitter) or len(self.jitter) != 3 or not all(0 <= amount <= 1 for amount in self.jitter):
            raise ValueError(message("View", "jitter", "three numbers from 0 to 1", self.jitter))
        if self.rule == "off" and 0 < self.test_segments < self.segments:
            raise ValueError(message("View", "test_segments", f"0 or at least segments={self.segments}", self.rule))
        if self.rule == "off" and self.places > 1:
            raise ValueError(message("View", "places", "1 for the rule 'off', whose test has one place", self.places))
        if self.flow and (self.segments, self.stride, self.modality) != (1, 1, "rgb"):
            got = f"{self.segments}, {self.stride}, {self.modality!r}"
            raise ValueError(message("View", "flow", "one segment, stride 1 and modality 'rgb'", got))

    def shape(self, *, train: bool) -> tuple[int, int, int, int]:
        """(C, T, H, W) of one view of a clip."""
        channels = {"rgb": 3, "rgb_difference": 3 * self.stack, "flow": 2 * self.stack}[self.modality]
        return channels, self._segments(train) * self.length, self.size, self.size

    def _segments(self, train: bool) -> int:
        return self.segments if train else self.test_segments or self.segments

    def times(self, length: int, *, train: bool, rng: np.random.Generator) -> NDArray[np.int64]:
        """Frames of a video of so many: (views in time, segments * length, 1 + stack, or 1 for RGB).

        The last axis is a place's frame and those after it that its differences or flow are made of; a sample with
        "future" flow has one more place than its clip.
        """
        more = 0 if self.modality == "rgb" else self.stack
        shown = self.length + (self.flow == "future")
        snippet = (shown - 1) * self.stride + 1 + more
        segments, pad = self._segments(train), self.pad
        if self.rule == "off" and train:
            beta = max(self.test_segments, segments)
            views = [sampling.off_train(length, alpha=segments, beta=beta, snippet=snippet, rng=rng, pad=pad)]
        elif self.rule == "off":
            views = [sampling.off_test(length, beta=segments, snippet=snippet, pad=pad)] * self.places
        elif train:
            views = [sampling.tsn_train(length, segments=segments, snippet=snippet, rng=rng, pad=pad)]
        elif self.crops == "random":
            views = [
                sampling.tsn_train(length, segments=segments, snippet=snippet, rng=rng, pad=pad)
                for _ in range(self.places)
            ]
        else:
            # places * segments centres; a view takes every places-th, so that each spans the video.
            centres = sampling.tsn_test(length, segments=self.places * segments, snippet=snippet, pad=pad)
            views = [centres[k :: self.places] for k in range(self.places)]
        at = np.arange(shown)[:, None] * self.stride + np.arange(1 + more)
        return np.stack(views)[:, :, at].reshape(len(views), segments * shown, 1 + more)

    def windows(self, height: int, width: int, *, train: bool, rng: np.random.Generator) -> list[Crop]:
        """The crops of frames of this size: one in training, in test those of one place in time."""
        short = min(height, width)
        if train and self.scales:
            crop = augment.corner_crop(height, width, self.scales, rng)
            return [crop._replace(mirrored=self.flip and bool(rng.integers(2)))]
        side = round(self.size * short / self.short) if self.short else self.size
        if side > short:
            expected = f"at most the short side {short} of the frames, unless `short` or `scales` resizes them"
            raise ValueError(message("View", "size", expected, side))
        if train or self.crops == "random":
            (top, left, _), *_ = sampling.multi_crop(height, width, size=side, count=1, rng=rng).tolist()
            return [Crop(top, left, side, side, train and self.flip and bool(rng.integers(2)))]
        ten = sampling.multi_crop(height, width, size=side).tolist()
        crops = [Crop(top, left, side, side, bool(mirrored)) for top, left, mirrored in ten]
        return crops if self.crops == 10 else [crops[4]]


def _numbers(value: object) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(number, Real) for number in value)


class Samples(Dataset[dict[str, Tensor]]):
    """Samples made of a source's clips, one of each; item `(epoch, index)`, or `index` for epoch 0.

    Whatever is random in one comes from `default_rng((seed, epoch, index))`. broken: what happens where a clip cannot
    be decoded, "raise" a VideoError, or "skip": it is named once by the logger "motionspec", and the next good clip,
    whose "index" the item has, stands in for it. `unusable` counts them.
    Raises TypeError or ValueError for seed and broken, IndexError for an item.
    """

    def __init__(self, source: Source, *, train: bool, seed: int = 0, broken: str = "raise") -> None:
        name = type(self).__name__
        choice(name, "broken", broken, ("raise", "skip"))
        count(name, "seed", seed, least=0)
        self.source, self.train, self.seed, self.broken = source, train, seed, broken
        # In shared memory, so that a clip that two workers meet is named once.
        self._unusable = torch.zeros(len(source), dtype=torch.bool).share_memory_()

    @property
    def unusable(self) -> int:
        """How many clips could not be decoded until now."""
        return int(self._unusable.sum())

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Tensor]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(message(type(self).__name__, "index", f"0 .. {len(self) - 1}", index))
        for shown in (*range(index, len(self)), *range(index)):
            try:
                return self._sample(shown, np.random.default_rng((self.seed, epoch, index)))
            except VideoError as error:
                if self.broken == "raise":
                    raise
                if not self._unusable[shown]:
                    self._unusable[shown] = True
                    logging.getLogger("motionspec").warning("skipped: %s", printable(str(error)))
        raise VideoError(f"none of the {len(self)} clips can be decoded; see the warnings above")

    def _sample(self, i: int, rng: np.random.Generator) -> dict[str, Tensor]:
        raise NotImplementedError


class Clips(Samples):
    """The clips of a source as a view shows them.

    An item is a dict of "clip" float32 (C, T, H, W), or (V, C, T, H, W) where a test has more than one view; "label"
    and "index" int64; with `view.flow` "flow" float32 (2, T, H, W) or (2, T - 1, H, W) in pixels of the crop and
    "known" bool (T, H, W) or (T - 1, H, W), unless `targets` is False: the frames are the same then.
    Raises as `Samples`; TypeError where flow is needed and the source has none.
    """

    def __init__(
        self,
        source: Source,
        view: View,
        *,
        train: bool,
        seed: int = 0,
        broken: str = "raise",
        targets: bool = True,
    ) -> None:
        super().__init__(source, train=train, seed=seed, broken=broken)
        if (view.flow or view.modality == "flow") and not isinstance(source, FlowSource):
            expected = "a source with flow(); flow_cache.TVL1(source, folder) adds it"
            raise TypeError(message("Clips", "source", expected, type(source).__name__))
        self.view, self.targets = view, targets

    def _sample(self, i: int, rng: np.random.Generator) -> dict[str, Tensor]:
        view = self.view
        times = view.times(self.source.length(i), train=self.train, rng=rng)
        shown = times[:, :-1] if view.flow == "future" else times
        motion, pictures = None, None
        if view.modality == "flow":
            motion = self._motion(i, times[..., :-1], times[..., 1:])
        elif view.flow and self.targets:
            motion = self._motion(i, times[:, :-1], times[:, 1:])
        if motion is not None:
            height, width = motion[0].shape[-2:]
        if view.modality != "flow":
            numbers, at = np.unique(shown, return_inverse=True)
            pictures, at = self.source.read(i, numbers), at.reshape(shown.shape)
            if motion is not None:
                same_size(self.source.names[i], pictures, motion[0])
            height, width = pictures.shape[1:3]
        views = []
        for v in range(len(times)):
            for crop in view.windows(height, width, train=self.train, rng=rng):
                part: dict[str, Tensor] = {}
                if motion is not None:
                    field, known = (x[v].reshape(-1, *x.shape[3:]) for x in motion)
                    field, known = crop.flow(field, known, (view.size, view.size))
                    part = {"flow": torch.from_numpy(field), "known": torch.from_numpy(known)}
                if pictures is None:
                    part = {"clip": self._grey_levels(part["flow"])}
                else:
                    if motion is not None:
                        part["flow"] = part["flow"].transpose(0, 1).contiguous()
                    part["clip"] = self._colours(crop.frames(pictures[at[v].ravel()], (view.size, view.size)), rng)
                views.append(part)
        label = {"label": torch.tensor(self.source.labels[i]), "index": torch.tensor(i)}
        if len(views) == 1:
            return views[0] | label
        return {name: torch.stack([part[name] for part in views]) for name in views[0]} | label

    def _motion(
        self, i: int, first: NDArray[np.int64], second: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Flow from each frame to the one shown after it: (*first.shape, 2, H, W), and where it is known.

        Of a frame that a short video repeats it is 0; from its last frame to its first it is unknown.
        """
        step = second == first + 1
        numbers, at = np.unique(first[step], return_inverse=True)
        if not len(numbers):
            H, W = self.source.read(i, [0]).shape[1:3]
            flow, known = np.zeros((0, 2, H, W), np.float32), np.zeros((0, H, W), bool)
        else:
            flow, known = self.source.flow(i, numbers)  # type: ignore[attr-defined]  # seen in __init__
        all_flow = np.zeros((*first.shape, *flow.shape[1:]), np.float32)
        all_known = np.broadcast_to((first == second)[..., None, None], (*first.shape, *known.shape[1:])).copy()
        all_flow[step], all_known[step] = flow[at], known[at]
        return all_flow, all_known

    def _colours(self, frames: Images, rng: np.random.Generator) -> Tensor:
        """Frames (places * k, H, W, 3) as the network takes them: (C, places, H, W)."""
        if self.train and any(self.view.jitter):
            frames = augment.jitter(frames, *self.view.jitter, rng)
        if self.view.modality == "rgb":
            return normalised(frames, self.view.frames)
        stack, known = self.view.stack, self.view.frames
        levels = frames.reshape(-1, 1 + stack, *frames.shape[1:])
        out = np.empty((stack, 3, len(levels), *frames.shape[1:3]), np.float32)
        planes = [plane.reshape(levels.shape[:-1]) for plane in _planes(frames)]
        for c, (k, scale) in enumerate(zip(known.order, known.scale, strict=True)):  # the means cancel
            differences = out[:, c].swapaxes(0, 1)
            np.subtract(planes[k][:, 1:], planes[k][:, :-1], out=differences, dtype=np.float32)
            differences /= np.float32(scale)
        return torch.from_numpy(out).flatten(0, 1)

    def _grey_levels(self, flow: Tensor) -> Tensor:
        """Flow (places * stack, 2, H, W) as the network takes it: (2 stack, places, H, W)."""
        values = flow.clamp(-BOUND, BOUND) * (127.5 / BOUND / self.view.frames.scale[0])
        return values.unflatten(0, (-1, self.view.stack)).permute(1, 2, 0, 3, 4).flatten(0, 1).contiguous()


def same_size(name: str, frames: Images, flow: NDArray[np.float32]) -> None:
    """Raise VideoError unless frames (n, H, W, 3) and flow (..., H, W) of a clip are of one size."""
    (H, W), (h, w) = frames.shape[1:3], flow.shape[-2:]
    if (h, w) != (H, W):
        raise VideoError(f"{name}: frames of {W} x {H} and flow of {w} x {h}; do they belong together?")


def normalised(frames: Images, known: Frames) -> Tensor:
    """Frames (n, H, W, 3) as a network that knows such takes them: float32 (3, n, H, W)."""
    levels, planes = np.arange(256, dtype=np.float32), _planes(frames)
    values = np.empty((3, *planes[0].shape), np.float32)
    for plane, k, mean, scale in zip(values, known.order, known.mean, known.scale, strict=True):
        plane[...] = opencv().LUT(planes[k], (levels - np.float32(mean)) / np.float32(scale))
    return torch.from_numpy(values).unflatten(1, (len(frames), -1))


def _planes(frames: Images) -> Sequence[Images]:
    """The three channels of frames (n, H, W, 3): (n H, W) each."""
    return opencv().split(frames.reshape(-1, *frames.shape[2:]))


class Epochs(Sampler[list[tuple[int, int]]]):
    """The batches of one process in one epoch: lists of (epoch, index), for `loader` or a DataLoader's batch_sampler.

    All `world` processes together take `batch * world` clips at a time out of one order, which depends on (seed, epoch)
    alone: two processes with batches of 4 see what one with 8 does. In training the order is random and what is left
    at its end is dropped; else it is that of the source, and the last clips are spread over the processes.

    epoch: set it before iterating. start: the batches of this process to leave out, for an epoch that goes on.
    Raises TypeError or ValueError for the numbers, and where there is not one batch to train on.
    """

    def __init__(
        self,
        clips: int,
        batch: int,
        *,
        train: bool,
        seed: int = 0,
        epoch: int = 0,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        least = {"clips": 0, "batch": 1, "seed": 0, "epoch": 0, "start": 0, "rank": 0, "world": 1}
        given = (clips, batch, seed, epoch, start, rank, world)
        for (name, bound), value in zip(least.items(), given, strict=True):
            count("Epochs", name, value, bound)
        if rank >= world:
            raise ValueError(message("Epochs", "rank", f"less than world={world}", rank))
        if train and clips < batch * world:
            raise ValueError(message("Epochs", "batch", f"batch * world at most the {clips} clips", batch * world))
        self.clips, self.batch, self.train, self.seed = clips, batch, train, seed
        self.epoch, self.start, self.rank, self.world = epoch, start, rank, world

    def __len__(self) -> int:
        """Batches of the epoch that are left for this process."""
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.arange(self.clips)
        if self.train:
            # The same entropy as a sample's, but for an index that none has.
            order = np.random.default_rng((self.seed, self.epoch, self.clips)).permutation(self.clips)
            order = order[: self.clips - self.clips % (self.batch * self.world)]
        together = [order[k : k + self.batch * self.world] for k in range(0, len(order), self.batch * self.world)]
        for all_ranks in together[self.start :]:
            mine = np.array_split(all_ranks, self.world)[self.rank].tolist()
            if mine:
                yield [(self.epoch, index) for index in mine]


def loader(
    dataset: Dataset[dict[str, Tensor]], batches: Iterable[list[tuple[int, int]]], *, workers: int = 0, **options: Any
) -> DataLoader[dict[str, Tensor]]:
    """A DataLoader of these batches; options: more of DataLoader's.

    Its workers compute in one thread each. Ctrl-C, and a signal to the group of the process that they read for, are not
    for them.
    """
    return DataLoader(dataset, batch_sampler=batches, num_workers=workers, worker_init_fn=_alone, **options)


def _alone(worker: int) -> None:
    """A worker process uses one thread: torch sees to its own, OpenCV and its FFmpeg take all cores.

    It leaves the group of the process that it reads for, to all of which a terminal or `timeout` sends a signal. That
    process may need it for the rest of a step, and ends it by SIGTERM afterwards, which it therefore heeds.
    """
    os.setpgid(0, 0)
    with suppress(ImportError):  # not all data need OpenCV
        opencv().setNumThreads(0)
    os.environ.setdefault("OPENCV_FFMPEG_THREADS", "1")
