"""Clips with exact known flow, for tests, demos, benchmarks and training.

A texture is a function of the plane, known between the pixels too. A motion says where the points of a texture are in
each frame: affine maps about the frame's centre, composed with `@`, the one on the right first. A scene has layers, the
background first; each hides those before it within its shape. A frame is the scene's values at the pixels.

    >>> t = np.arange(8)
    >>> turning = rotation(3 * t) @ zoom(1.02**t)
    >>> swinging = translation(4 * np.sin(2 * np.pi * t / 8), 0)
    >>> shaking = translation(*np.random.default_rng(2).normal(size=(2, 8)))
    >>> layers = [Layer(waves((64, 80), seed=0), turning), Layer(waves((64, 80), seed=1), swinging, disc(12))]
    >>> clip = Scene(layers, (64, 80), camera=shaking, gain=1 + 0.1 * np.sin(t)).clip()
    >>> clip.frames.shape, clip.flow.shape, clip.valid.shape
    ((1, 8, 64, 80), (2, 7, 64, 80), (7, 64, 80))

Coordinates are pixels from the centre of the frame, x to the right, y down. Importing this needs NumPy and SciPy only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import map_coordinates, spline_filter

from motionspec.checks import count, message, positive, shapes

__all__ = ["Clip", "Layer", "Scene", "disc", "picture", "rotation", "shear", "translation", "waves", "zoom"]

Array = NDArray[np.float64]
Texture = Callable[[Array, Array], Array]
"""Values (C, ...) at the points x, y (...)."""
Shape = Callable[[Array, Array], NDArray[np.bool_]]
"""Whether the points x, y belong to it."""

_WAVES = 16  # in a channel


@dataclass(frozen=True, eq=False)
class Layer:
    """A texture, where its points (x, y, 1) are in each frame, (T, 3, 3), and which part of it there is; None: all."""

    texture: Texture
    motion: Array
    shape: Shape | None = None


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames (C, T, H, W); flow (2, T-1, H, W) of each frame but the last; valid (T-1, H, W).

    Flow is in pixels, u to the right, v down, and lives on the earlier frame: F0(p) = F1(p + flow(p)) wherever `valid`
    holds: p + flow(p) is on the later frame, and nothing hides it there. The flow of other pixels is true as well.
    """

    frames: Array
    flow: Array
    valid: NDArray[np.bool_]


# -- textures ----------------------------------------------------------------------------------------------------------


def waves(
    size: tuple[int, int], *, seed: int, channels: int = 1, wavelengths: tuple[float, float] = (8.0, 32.0)
) -> Texture:
    """Sums of 16 sine waves, of wavelengths between the two given, in pixels, in all directions.

    Each channel spans exactly [0, 255] on the pixels of a frame of `size` (H, W) that has not moved; beyond and between
    them it may leave that range. Raises TypeError or ValueError for anything else than `wavelengths` above 2.
    """
    _size("waves", size)
    count("waves", "channels", channels)
    count("waves", "seed", seed, least=0)
    shortest, longest = wavelengths if isinstance(wavelengths, tuple) and len(wavelengths) == 2 else (0, 0)
    if not 2 < shortest <= longest < np.inf:
        raise ValueError(
            message("waves", "wavelengths", "(shortest, longest) in pixels, 2 < shortest <= longest", wavelengths)
        )
    rng = np.random.default_rng(seed)
    number = 2 * np.pi / np.exp(rng.uniform(np.log(shortest), np.log(longest), (_WAVES, channels)))
    angle, phase = rng.uniform(0, 2 * np.pi, (2, _WAVES, channels))
    amplitude = rng.uniform(0.5, 1, (_WAVES, channels))

    def total(x: Array, y: Array) -> Array:
        out = np.zeros((channels, *x.shape))
        for a, n, d, f in zip(amplitude, number, angle, phase, strict=True):
            out += np.moveaxis(a * np.sin(n * (np.cos(d) * x[..., None] + np.sin(d) * y[..., None]) + f), -1, 0)
        return out

    values = total(*_centred(size, *_pixels(size))).reshape(channels, -1)
    low, span = values.min(1), np.ptp(values, 1)
    span[span == 0] = 1  # one pixel

    def texture(x: Array, y: Array) -> Array:
        each = (channels, *(1,) * x.ndim)
        return (total(x, y) - low.reshape(each)) / span.reshape(each) * 255

    return texture


def picture(image: ArrayLike) -> Texture:
    """An image (C, H, W), centred: itself at its pixels, cubic splines between them, its mirror image beyond.

    Between the pixels a spline may leave the range of the image. Raises TypeError or ValueError for another shape, and
    for values that are not finite real numbers.
    """
    array = _real("picture", "image", image)
    H, W = (shapes("picture", image=(array, "C H W"))[side] for side in "HW")
    splines = [spline_filter(channel, order=3, mode="mirror") if min(H, W) > 1 else channel for channel in array]

    def texture(x: Array, y: Array) -> Array:
        points = np.stack([y + (H - 1) / 2, x + (W - 1) / 2])
        return np.stack([map_coordinates(c, points, order=3, mode="mirror", prefilter=False) for c in splines])

    return texture


def disc(radius: float) -> Shape:
    """The points at most `radius` pixels from the origin."""
    positive("disc", "radius", radius)
    return lambda x, y: x * x + y * y <= radius * radius


# -- motions: (T, 3, 3), of one number per frame, or one for all -------------------------------------------------------


def translation(u: ArrayLike, v: ArrayLike) -> Array:
    """To the right by u and down by v, in pixels from where the texture is at rest."""
    dx, dy = _series("translation", u=u, v=v)
    return _affine([[1, 0, dx], [0, 1, dy]])


def rotation(degrees: ArrayLike) -> Array:
    """About the centre, clockwise as seen: right turns to down."""
    angle = np.deg2rad(_series("rotation", degrees=degrees)[0])
    return _affine([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0]])


def zoom(factor: ArrayLike) -> Array:
    """Away from the centre; below 1 towards it."""
    (k,) = _series("zoom", factor=factor)
    return _affine([[k, 0, 0], [0, k, 0]])


def shear(slope: ArrayLike) -> Array:
    """To the right by `slope` times the distance below the centre."""
    (k,) = _series("shear", slope=slope)
    return _affine([[1, k, 0], [0, 1, 0]])


# -- scenes ------------------------------------------------------------------------------------------------------------


class Scene:
    """Layers, the background first, in a frame of `size` (H, W), seen by a camera in a changing light.

    `camera` (T, 3, 3) moves all that the frames show, as a motion does. `gain` (T,) multiplies the values of each
    frame: with it, F0(p) / gain0 = F1(p + flow(p)) / gain1. Raises TypeError or ValueError for what does not fit.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        size: tuple[int, int],
        *,
        camera: ArrayLike | None = None,
        gain: ArrayLike | None = None,
    ):
        self.layers, self.size = list(layers), _size("Scene", size)
        if not self.layers:
            raise ValueError(message("Scene", "layers", "at least one", 0))
        for k, layer in enumerate(self.layers):
            if not isinstance(layer, Layer):
                raise TypeError(message("Scene", f"layers[{k}]", "a Layer", type(layer).__name__))
        if self.layers[0].shape is not None:
            raise ValueError(message("Scene", "layers[0]", "no shape: it is the background", "one"))
        given: dict[str, Any] = {f"layers[{k}].motion": layer.motion for k, layer in enumerate(self.layers)}
        given |= {} if camera is None else {"camera": camera}
        motions = {name: _real("Scene", name, motion) for name, motion in given.items()}
        light = {} if gain is None else {"gain": (_real("Scene", "gain", gain), "T")}
        T = shapes("Scene", **{name: (motion, "T 3 3") for name, motion in motions.items()}, **light)["T"]
        for name, motion in motions.items():
            wrong = (motion[:, 2] != (0, 0, 1)).any(1) | (np.linalg.det(motion) == 0)
            if wrong.any():
                expected = "affine maps that can be inverted, last row 0 0 1"
                raise ValueError(message("Scene", name, expected, f"frame {wrong.argmax()}"))
        eye = motions.pop("camera", np.eye(3))
        self._there = [eye @ motion for motion in motions.values()]
        self._back = [np.linalg.inv(motion) for motion in self._there]
        self._gain = light["gain"][0] if light else np.ones(T)
        channels = [len(layer.texture(np.zeros(1), np.zeros(1))) for layer in self.layers]
        self.channels = channels[0]
        for k, other in enumerate(channels):
            if other != self.channels:
                expected = f"{self.channels} channels like the first"
                raise ValueError(message("Scene", f"layers[{k}].texture", expected, other))

    def at(self, t: int, x: Array, y: Array) -> Array:
        """The values (C, ...) of frame t at the points x, y (...), in pixels from the centre of the top left one."""
        x, y = _centred(self.size, x, y)
        front, values = self._front(t, x, y), np.zeros((self.channels, *x.shape))
        for k, layer in enumerate(self.layers):
            seen = front == k
            values[:, seen] = layer.texture(*_move(self._back[k][t], x[seen], y[seen]))
        return values * self._gain[t]

    def clip(self) -> Clip:
        """All frames, and the flow from each to the next."""
        x, y = _pixels(self.size)
        T = len(self._gain)
        frames = np.stack([self.at(t, x, y) for t in range(T)], 1)
        flow, valid = np.zeros((2, T - 1, *self.size)), np.zeros((T - 1, *self.size), bool)
        for t in range(T - 1):
            flow[:, t], valid[t] = self.flow(t)
        return Clip(frames, flow, valid)

    def flow(self, t: int) -> tuple[Array, NDArray[np.bool_]]:
        """From frame t to the next, (2, H, W), and where it is valid, (H, W): see `Clip`."""
        (H, W), (x, y) = self.size, _pixels(self.size)
        here = _centred(self.size, x, y)
        front, (u, v) = self._front(t, *here), (flow := np.zeros((2, H, W)))
        for k in range(len(self.layers)):
            seen = front == k
            step = self._there[k][t + 1] @ self._back[k][t] - np.eye(3)  # exactly 0 where nothing moves
            u[seen], v[seen] = _move(step, here[0][seen], here[1][seen])
        inside = (-x <= u) & (u <= W - 1 - x) & (-y <= v) & (v <= H - 1 - y)
        return flow, inside & (front == self._front(t + 1, *_centred(self.size, x + u, y + v)))

    def _front(self, t: int, x: Array, y: Array) -> NDArray[np.intp]:
        """The number of the layer that frame t shows at the points x, y from the centre."""
        front = np.zeros(x.shape, np.intp)
        for k, layer in enumerate(self.layers):
            there = True if layer.shape is None else layer.shape(*_move(self._back[k][t], x, y))
            front = np.where(there, k, front)
        return front


def _pixels(size: tuple[int, int]) -> tuple[Array, Array]:
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    return x, y


def _centred(size: tuple[int, int], x: Array, y: Array) -> tuple[Array, Array]:
    return x - (size[1] - 1) / 2, y - (size[0] - 1) / 2


def _move(matrix: Array, x: Array, y: Array) -> tuple[Array, Array]:
    (a, b, u), (c, d, v) = matrix[:2]
    return a * x + b * y + u, c * x + d * y + v


def _affine(rows: Sequence[Sequence[Any]]) -> Array:
    """(T, 3, 3) of two rows of numbers and arrays (T,)."""
    entries = np.broadcast_arrays(*rows[0], *rows[1], 0, 0, 1)
    return np.stack(entries, -1).astype(np.float64).reshape(-1, 3, 3)


def _series(operator: str, **values: ArrayLike) -> list[Array]:
    """Numbers, one per frame or one for all."""
    arrays = {name: np.atleast_1d(_real(operator, name, value)) for name, value in values.items()}
    T = max(len(array) for array in arrays.values())
    for name, array in arrays.items():
        if array.shape not in ((1,), (T,)):
            raise ValueError(message(operator, name, f"one number, or one per frame: ({T},)", array.shape))
    return list(arrays.values())


def _real(operator: str, name: str, value: ArrayLike) -> Array:
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise TypeError(message(operator, name, "real numbers", array.dtype))
    if not np.isfinite(array).all():
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(message(operator, name, "finite values", f"{array[first]} at {first}"))
    return array.astype(np.float64)


def _size(operator: str, size: tuple[int, int]) -> tuple[int, int]:
    if not isinstance(size, tuple) or len(size) != 2:
        raise ValueError(message(operator, "size", "a pair (H, W)", size))
    return count(operator, "size", size[0]), count(operator, "size", size[1])
