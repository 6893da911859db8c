"""A motion benchmark that needs no download: clips in which the class is carried by motion alone, with their flow.

Every clip is a `motionspec.synthetic.Scene`, a textured ground and two textured discs, and has every motion of the
benchmark: it slides along both axes, turns, zooms, shears, swings, its discs pass each other. Each motion has a clock.
In a clip of a class the clock of that class's motion runs from frame to frame; all others stand still at a frame drawn
at random for each. The light goes up and down, by the same amount in all, but quickly in "flicker" and slowly else. So
a frame drawn at random from a clip of one class is distributed exactly as one from a clip of any other: pose,
resampling, objects and brightness say nothing, only their change does. In all, the camera shakes.

That is exact for a frame whose place in the clip is not known. To one who knows the place, turn, zoom, shear and
crossing tell a little: the last frame of a clip that zooms in is larger, on average, than that of one that zooms out.

A class is a direction, so mirrored or rotated clips are of other classes: train without flips.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, uniform_filter

from motionspec.checks import choice, count, message
from motionspec.data.source import Flow, Images
from motionspec.synthetic import Layer, Scene, disc, rotation, shear, translation, zoom

__all__ = ["CLASSES", "PHOTOGRAPHS", "SIZES", "Motion", "Size"]

Array = NDArray[np.float64]

# Class -> the motion whose clock runs, and its sign; 0: drawn. Up and left are negative, as y points down.
_CLOCKS: dict[str, tuple[str, int]] = {
    "right": ("x", 1),
    "left": ("x", -1),
    "down": ("y", 1),
    "up": ("y", -1),
    "clockwise": ("turn", 1),
    "counterclockwise": ("turn", -1),
    "zoom in": ("zoom", 1),
    "zoom out": ("zoom", -1),
    "shear": ("shear", 0),
    "oscillation": ("swing", 0),
    "crossing": ("cross", 0),
    "flicker": ("light", 0),
    "stillness": ("none", 0),
}
CLASSES = tuple(_CLOCKS)
PHOTOGRAPHS = {
    "train": ("astronaut", "brick", "camera", "coffee", "coins", "grass", "immunohistochemistry", "moon", "rocket"),
    "test": ("cat", "gravel", "hubble_deep_field", "page", "retina"),
}
"""Those that scikit-image's wheel brings; the textures of the test clips are never seen in training."""


@dataclass(frozen=True)
class Size:
    """Frames of side x side pixels in a clip, and clips of each class in training and test."""

    side: int
    frames: int
    train: int
    test: int


SIZES = {  # from two minutes of training on two cores to an hour on a GPU
    "tiny": Size(32, 8, train=200, test=40),
    "small": Size(32, 8, train=600, test=60),
    "medium": Size(64, 8, train=800, test=100),
    "large": Size(112, 16, train=2000, test=200),
}


class Motion:
    """The benchmark as a source of clips: clip i is of class i modulo 13, and the same for the same arguments.

    size: a name in SIZES or a Size. split: "train" or "test". texture: "photographs", those of scikit-image, or
    "noise", which needs NumPy and SciPy alone. A clip is made when it is read, from (seed, split, i) and nothing else.
    keep: it then stays in memory, 12 bytes a pixel if its flow is read too; None: where all take less than 1 GiB.
    Raises `Motion: argument: expected ..., got ...`, TypeError or ValueError; ModuleNotFoundError without scikit-image.
    """

    classes = CLASSES

    def __init__(
        self,
        size: str | Size = "tiny",
        split: str = "train",
        *,
        seed: int = 0,
        texture: str = "photographs",
        keep: bool | None = None,
    ):
        if not isinstance(size, Size):
            choice("Motion", "size", size, tuple(SIZES))
            size = SIZES[size]
        choice("Motion", "split", split, tuple(PHOTOGRAPHS))
        choice("Motion", "texture", texture, ("photographs", "noise"))
        for name, least in (("side", 8), ("frames", 2), (split, 1)):
            count("Motion", name, getattr(size, name), least=least)
        self.size, self.split, self.texture = size, split, texture
        self.seed = count("Motion", "seed", seed, least=0)
        self.labels = tuple(range(len(CLASSES))) * getattr(size, split)
        self.names = tuple(f"{split}/{CLASSES[label]}/{i:06}" for i, label in enumerate(self.labels))
        self.keep = 12 * len(self) * size.frames * size.side**2 < 2**30 if keep is None else keep
        self._clips: dict[int, Images] = {}
        self._flows: dict[int, Flow] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def length(self, i: int) -> int:
        """Frames of clip i."""
        return self.size.frames

    def read(self, i: int, frames: Sequence[int] | NDArray[np.integer]) -> Images:
        """Frames of clip i, in any order, repeats allowed: RGB (n, H, W, 3)."""
        numbers = self._numbers(i, frames, self.size.frames)
        if not self.keep:
            return self._read(i, numbers)
        if i not in self._clips:
            self._clips[i] = self._read(i, range(self.size.frames))
        return self._clips[i][numbers]

    def flow(self, i: int, frames: Sequence[int] | NDArray[np.integer]) -> Flow:
        """Flow (n, 2, H, W) from each of these frames to the next, in pixels; not of the last. Known: (n, H, W).

        Known is where the next frame shows the same point. Where that has left the frame, or is hidden, the flow is
        true as well.
        """
        numbers = self._numbers(i, frames, self.size.frames - 1)
        if not self.keep:
            return self._flow(i, numbers)
        if i not in self._flows:
            self._flows[i] = self._flow(i, range(self.size.frames - 1))
        flow, known = self._flows[i]
        return flow[numbers], known[numbers]

    def _read(self, i: int, numbers: Sequence[int]) -> Images:
        scene, (y, x) = self.scene(i), np.mgrid[: self.size.side, : self.size.side].astype(np.float64)
        return np.stack([scene.at(t, x, y).round().astype(np.uint8) for t in numbers]).transpose(0, 2, 3, 1)

    def _flow(self, i: int, numbers: Sequence[int]) -> Flow:
        scene = self.scene(i)
        flow, known = zip(*(scene.flow(t) for t in numbers), strict=True)
        return np.stack(flow).astype(np.float32), np.stack(known)

    def _numbers(self, i: int, frames: Sequence[int] | NDArray[np.integer], end: int) -> list[int]:
        numbers = [int(t) for t in frames]
        for t in numbers:
            if not 0 <= t < end:
                raise ValueError(message("Motion", "frames", f"0 to {end - 1} of {self.names[i]}", t))
        return numbers

    def scene(self, i: int) -> Scene:
        """Clip i between its pixels too."""
        side, T = self.size.side, self.size.frames
        rng = np.random.default_rng((self.seed, list(PHOTOGRAPHS).index(self.split), i))
        running, sign = _CLOCKS[CLASSES[self.labels[i]]]

        def clock(motion: str) -> Array:
            """The frame that each frame shows of this motion: itself, or one for all."""
            still = np.full(T, rng.integers(T))
            return (np.arange(T) if motion == running else still).astype(np.float64)

        def path(motion: str, length: float) -> Array:
            """From -length / 2 to length / 2 within the clip, or back."""
            way = (sign if motion == running and sign else rng.choice((-1, 1))) * rng.uniform(0.7, 1.3)
            return way * length * (clock(motion) / (T - 1) - 0.5)

        x, y, turn, zoomed, slope = (
            path(motion, length)
            for motion, length in (("x", 0.35 * side), ("y", 0.35 * side), ("turn", 45), ("zoom", 0.5), ("shear", 0.9))
        )
        swing = rng.uniform(0.05, 0.09) * side * np.sin(2 * np.pi * (clock("swing") / 4 + rng.uniform()))
        angle = rng.uniform(0, 2 * np.pi)
        world = translation(x + swing * np.cos(angle), y + swing * np.sin(angle)) @ rotation(turn) @ shear(slope)
        world = world @ zoom(np.exp(zoomed + rng.uniform(-0.2, 0.2))) @ rotation(rng.uniform(0, 360))

        cross, angle = path("cross", side / 2), rng.uniform(0, 2 * np.pi)
        layers = [Layer(self._texture(rng), world)]
        for way in (-1, 1):
            aside = way * (cross * np.cos(angle)), way * (cross * np.sin(angle))
            layers.append(Layer(self._texture(rng), world @ translation(*aside), disc(rng.uniform(0.2, 0.26) * side)))

        shaking = translation(*rng.normal(scale=side / 128, size=(2, T)))
        period = rng.uniform(2.2, 3.2) if running == "light" else rng.uniform(2, 4) * T
        light = 1 + rng.uniform(0.1, 0.2) * np.sin(2 * np.pi * (np.arange(T) / period + rng.uniform()))
        return Scene(layers, (side, side), camera=shaking, gain=light)

    def _texture(self, rng: np.random.Generator) -> "_Torus":
        """One of the split's textures, anywhere on it."""
        values = _textures(self.split, self.texture)
        chosen = values[rng.integers(len(values))]
        return _Torus(chosen, *rng.uniform(0, len(chosen) - 1, 2))


# -- textures: (S + 1, S + 1, 3), float32, that go on at the other side: the last line is the first --------------------


@dataclass(frozen=True, eq=False)
class _Torus:
    """A texture moved by (dx, dy): bilinear between its pixels, so that this is its value, not an estimate."""

    values: NDArray[np.float32]
    dx: float
    dy: float

    def __call__(self, x: Array, y: Array) -> Array:
        x, y = x + self.dx, y + self.dy
        left, top = np.floor(x), np.floor(y)
        u, v, line = (x - left)[..., None], (y - top)[..., None], len(self.values)
        flat = self.values.reshape(-1, 3)
        first = (top % (line - 1) * line + left % (line - 1)).astype(np.intp)
        upper, lower = ((1 - u) * flat[k] + u * flat[k + 1] for k in (first, first + line))
        return np.moveaxis((1 - v) * upper + v * lower, -1, 0)


@cache
def _textures(split: str, kind: str) -> list[NDArray[np.float32]]:
    return [_level(image) for image in (_photographs(split) if kind == "photographs" else _noise(split))]


def _photographs(split: str) -> list[Any]:
    """The middle square of each, its side halved until it is below 512, and its mirror images beside and below it."""
    try:
        from skimage import data
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Motion: texture 'photographs' needs scikit-image: pip install scikit-image, or take texture='noise'",
            name="skimage",
        ) from error
    images = []
    for name in PHOTOGRAPHS[split]:
        image: Any = np.asarray(getattr(data, name)(), np.float32)
        image = image if image.ndim == 3 else np.stack([image] * 3, -1)
        side = min(image.shape[:2])
        top, left = ((n - side) // 2 for n in image.shape[:2])
        image = image[top : top + side, left : left + side]
        while len(image) >= 512:
            image = image[: len(image) // 2 * 2, : len(image) // 2 * 2]
            image = (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4
        image = np.concatenate([image, image[::-1]])
        images.append(np.concatenate([image, image[:, ::-1]], 1))
    return images


def _noise(split: str) -> list[Any]:
    """Noise whose amplitudes fall as the frequency grows, as those of photographs do."""
    rng = np.random.default_rng(list(PHOTOGRAPHS).index(split))
    size = 512
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    amplitude = 1 / np.maximum(frequency, 1 / size)
    white = rng.normal(size=(8, size, size, 3)) + rng.normal(size=(8, size, size, 1))  # a part common to all colours
    spectrum = np.fft.rfft2(white, axes=(1, 2)) * amplitude[..., None]
    return list(np.fft.irfft2(spectrum, s=(size, size), axes=(1, 2)))


def _level(image: Any) -> NDArray[np.float32]:
    """Softened to what pixels resolve, and of the same brightness and contrast everywhere, within [37, 202].

    So motion shows everywhere, and the brightest light does not reach 255.
    """
    soft = gaussian_filter(np.asarray(image, np.float32), (1, 1, 0), mode="wrap")
    rest = soft - uniform_filter(soft, (21, 21, 1), mode="wrap")
    power = uniform_filter((rest**2).mean(-1, keepdims=True), (31, 31, 1), mode="wrap")
    contrast = np.sqrt(np.maximum(power, 0))  # its running sums end a little below 0 where the image is flat
    scaled = rest / (contrast + 0.1 * contrast.mean())
    values = (119.5 + 82.5 * np.tanh(scaled / 2)).astype(np.float32)
    return np.pad(values, ((0, 1), (0, 1), (0, 0)), mode="wrap")
