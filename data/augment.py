"""Crop, size, mirror and colours of the frames of a clip, the same for all of them, and of the flow that goes with it.

Frames are uint8 (n, H, W, 3), flow is float32 (n, 2, H, W) in pixels with bool (n, H, W) where it is known. A `Crop` is
in whole pixels of the frames as decoded, so that frames are resized once; no frame is read outside itself.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from motionspec.data.source import Flow, Images
from motionspec.flow import opencv

SCALES = (1.0, 0.875, 0.75, 0.66)  # TSN's, of OFF18's released settings; without 0.66 for flow
GREY = np.array([0.299, 0.587, 0.114])  # of R, G, B (ITU-R BT.601)


class Crop(NamedTuple):
    """The window [top, top + height) x [left, left + width) of a frame; mirrored: then left and right change places."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool = False

    def frames(self, frames: Images, size: tuple[int, int]) -> Images:
        """The window of each frame (n, H, W, 3) at `size` (height, width): -> (n, *size, 3).

        Pixels are resized as areas where the picture shrinks, else bilinearly (OpenCV; both by the half-pixel rule).
        """
        return self._mirror(_resized(self._window(frames, 1), size), 2)

    def flow(self, flow: NDArray[np.float32], known: NDArray[np.bool_], size: tuple[int, int]) -> Flow:
        """The same of a flow (n, 2, H, W): its vectors grow with the picture, u of a mirrored one changes sign.

        A value is known where all pixels it is made of are; elsewhere the flow is 0. Whether a vector leaves the window
        does not matter.
        """
        flow, known = self._window(flow, 2), self._window(known, 1)
        vectors = np.moveaxis(np.where(known[:, None], flow, np.float32(0)), 1, -1)
        field = _resized(vectors, size)
        # Weights are not negative, so that this sum is exactly 0 where no unknown pixel has one.
        seen = _resized((~known).astype(np.float32), size) == 0
        field = self._mirror(field * np.array([size[1] / self.width, size[0] / self.height], np.float32), 2)
        seen = self._mirror(seen, 2)
        if self.mirrored:
            field[..., 0] *= -1
        field = np.where(seen[..., None], field, np.float32(0))
        return np.ascontiguousarray(np.moveaxis(field, -1, 1)), np.ascontiguousarray(seen)

    def _window(self, x: NDArray[Any], axis: int) -> NDArray[Any]:
        rows, columns = slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)
        return x[(slice(None),) * axis + (rows, columns)]

    def _mirror(self, x: NDArray[Any], axis: int) -> NDArray[Any]:
        return np.flip(x, axis) if self.mirrored else x


class Affine(NamedTuple):
    """Where the pixels (x, y) of a new picture lie in the old one: at matrix (2, 3) times (x, y, 1).

    Values are bilinear; what is outside the old picture counts as black, or as unknown flow.
    """

    matrix: NDArray[np.float64]

    def frames(self, frames: Images, size: tuple[int, int]) -> Images:
        """The new picture (height, width) of each frame (n, H, W, 3): -> (n, *size, 3)."""
        return np.stack([self._fetched(frame, size, 0) for frame in frames])

    def flow(self, flow: NDArray[np.float32], known: NDArray[np.bool_], size: tuple[int, int]) -> Flow:
        """The flow (n, 2, H, W) between two pictures that are both made new, and where it is known; 0 elsewhere."""
        vectors = np.moveaxis(np.where(known[:, None], flow, np.float32(0)), 1, -1)
        field = np.stack([self._fetched(one, size, 0) for one in vectors])
        seen = np.stack([self._fetched((~one).astype(np.float32), size, 1) for one in known]) == 0
        field = field @ np.linalg.inv(self.matrix[:, :2]).T.astype(np.float32)
        field = np.where(seen[..., None], field, np.float32(0))
        return np.ascontiguousarray(np.moveaxis(field, -1, 1)), seen

    def _fetched(self, x: NDArray[Any], size: tuple[int, int], outside: float) -> NDArray[Any]:
        cv2 = opencv()
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(np.ascontiguousarray(x), self.matrix, size[::-1], flags=how, borderValue=outside)


def _resized(x: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Maps (n, H, W) or (n, H, W, c) at `size`."""
    if x.shape[1:3] == size:
        return x
    cv2 = opencv()
    smaller = size[0] < x.shape[1] and size[1] < x.shape[2]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    out = np.empty((len(x), *size, *x.shape[3:]), x.dtype)
    for one, resized in zip(x, out, strict=True):
        resized[...] = cv2.resize(one, size[::-1], interpolation=how)
    return out


def corner_crop(height: int, width: int, scales: tuple[float, ...], rng: np.random.Generator) -> Crop:
    """TSN's multi-scale corner crop, before it is resized (OFF18's released settings).

    Height and width of the crop are two of `scales`, neighbours or the same, times the short side; it lies in one of 13
    places: the corners, the centre, the middles of the sides, and halfway between the centre and each corner.
    """
    sides = [max(1, round(scale * min(height, width))) for scale in scales]
    pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    h, w = pairs[rng.integers(len(pairs))]
    places = [(y, x) for y in (0, 2, 4) for x in (0, 2, 4)] + [(y, x) for y in (1, 3) for x in (1, 3)]
    y, x = places[rng.integers(len(places))]
    return Crop(y * (height - h) // 4, x * (width - w) // 4, h, w)


def jitter(frames: Images, brightness: float, contrast: float, saturation: float, rng: np.random.Generator) -> Images:
    """Brightness, contrast and saturation of a clip (n, H, W, 3) times factors uniform in 1 - amount .. 1 + amount.

    Contrast is about the mean grey level of the clip, saturation about each pixel's own; all three at once, so that
    what is beyond black and white is lost only at the end. Values are off by less than 0.9 of a grey level.
    """
    b, c, s = (rng.uniform(1 - a, 1 + a) for a in (brightness, contrast, saturation))
    n, H, W, _ = frames.shape
    rows = frames.reshape(n * H, W, 3)
    mean = np.array(opencv().mean(rows)[:3]) @ GREY
    colours = s * np.eye(3) + (1 - s) * GREY
    # (b x - b mean) c + b mean, then colours; a grey is the same for `colours`.
    affine = np.column_stack([b * c * colours, np.full(3, b * mean * (1 - c))])
    return opencv().transform(rows, affine).reshape(frames.shape)
