"""Flow files and the colour wheel.

A flow is one array of shape (2, H, W): channel 0 = u = x, to the right, channel 1 = v = y, downwards, in pixels per
frame step. An unknown pixel is NaN in both channels and False in `valid`, a bool array of shape (H, W).

Importing this needs NumPy only; KITTI files need OpenCV (`pip install 'motionspec[video]'`).
"""

import struct
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from motionspec.checks import message

__all__ = ["flow_to_color", "read_flow", "write_flo", "write_kitti"]

# Middlebury (flowIO.h): unknown is any |component| > 1e9 and is written as 1.666666752e9; sides are 1 .. 99999.
_MAGIC, _LIMIT, _UNKNOWN, _MAX_SIDE = 202021.25, 1e9, np.float32(1.666666752e9), 99_999
# KITTI development kit: 16-bit code = 64 * component + 2^15, so components span [-512, 512 - 1/64].
_STEPS, _ZERO, _LAST = 64, 2**15, 2**16 - 1


def read_flow(path: str | PathLike[str]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Read one flow file; its suffix, in any case, says what it is.

    `.flo`  Middlebury / Sintel / FlyingChairs: the float 202021.25, int32 width and height, then (u, v) pixel by
            pixel in float32, little-endian; the file must be exactly that long.
    `.png`  KITTI: 16 bits, red = 64 u + 2^15, green = 64 v + 2^15, blue = 0 where unknown.
    `.npy`  a floating-point array (2, H, W), or (H, W, 2) if its first side is not 2: (2, H, 2) is channels first.

    Returns flow, float32 (2, H, W), and valid, bool (H, W). Unknown is a pixel with a component that is not finite
    or beyond 1e9 in magnitude, and one that KITTI marks so.

    Raises ValueError, one line that begins with the path, for anything that is not such a file; OSError where the
    file cannot be opened; ImportError for a KITTI file without OpenCV.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path], NDArray[Any]]] = {".flo": _read_flo, ".png": _read_kitti, ".npy": _read_npy}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: a flow file ends in .flo, .png (KITTI) or .npy; rename or convert it")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty; fetch or write it again")
    raw = readers[path.suffix.lower()](path)
    valid = _known(raw)
    # Selected before the cast: a float64 beyond float32 is unknown anyway and must not warn.
    return np.where(valid, raw, np.nan).astype(np.float32), valid


def write_flo(path: str | PathLike[str], flow: ArrayLike) -> None:
    """Write flow (2, H, W), in pixels, as a Middlebury `.flo` file; a pixel with a NaN becomes 1.666666752e9 twice.

    float32 values are kept exactly. Raises ValueError for another shape, no pixels, a side above 99999, a suffix
    other than .flo, and for values that are infinite or beyond 1e9, which would read back as unknown.
    """
    array, unknown = _checked("write_flo", path, ".flo", flow)
    if not (np.abs(array[:, ~unknown]) <= _LIMIT).all():
        raise ValueError(f"write_flo: {path}: flow has values infinite or beyond 1e9; set unknown pixels to NaN")
    height, width = unknown.shape
    if max(height, width) > _MAX_SIDE:
        raise ValueError(f"write_flo: {path}: a .flo file has sides up to {_MAX_SIDE}; got {width} x {height}: crop it")
    body = np.where(unknown, _UNKNOWN, array).astype("<f4").transpose(1, 2, 0)
    Path(path).write_bytes(struct.pack("<fii", _MAGIC, width, height) + body.tobytes())


def write_kitti(path: str | PathLike[str], flow: ArrayLike) -> None:
    """Write flow (2, H, W), in pixels, as a KITTI 16-bit `.png`; a pixel with a NaN becomes 0, 0, 0 (not valid).

    Components are rounded to the nearest 1/64 px (half to even); multiples of 1/64 are kept exactly. Raises
    ValueError for another shape, no pixels, a suffix other than .png, and components outside [-512, 512 - 1/64],
    which 16 bits would wrap; ImportError without OpenCV.
    """
    array, unknown = _checked("write_kitti", path, ".png", flow)
    known = array[:, ~unknown]
    low, high = -_ZERO / _STEPS, (_LAST - _ZERO) / _STEPS
    if not ((known >= low) & (known <= high)).all():
        raise ValueError(
            f"write_kitti: {path}: KITTI holds components in [{low:g}, {high}] px; got values from "
            f"{known.min():g} to {known.max():g}; set those pixels to NaN or write a .flo file"
        )
    codes = np.rint(np.where(unknown, 0.0, array) * _STEPS) + _ZERO
    bgr = np.stack([np.ones(unknown.shape), codes[1], codes[0]], axis=-1) * ~unknown[..., None]
    data = encoded(".png", bgr.astype(np.uint16))
    if data is None:
        raise ValueError(f"write_kitti: {path}: OpenCV could not encode {unknown.shape} pixels as PNG; crop the flow")
    Path(path).write_bytes(data.tobytes())


def flow_to_color(flow: ArrayLike, max_magnitude: float | None = None) -> NDArray[np.uint8]:
    """Flow (2, H, W), in pixels, in the Middlebury colour code: uint8 (H, W, 3), RGB.

    The hue is the direction (red to the right, yellow down, cyan-blue left, violet up), white is no motion, full
    colour is a magnitude of `max_magnitude` pixels, 3/4 of full brightness is beyond it. `max_magnitude=None` takes
    the largest magnitude of this flow. Unknown pixels (not finite, or beyond 1e9) are black and set no scale.

    Source: Baker et al., A Database and Evaluation Methodology for Optical Flow, 2007/2011, and its colorcode.cpp.
    As there, the wheel's 55 hues lie on 54 steps of the half-turn -pi .. pi, which leaves a small seam just above
    "right". Unlike there, nothing is added to the maximum, and v = -0.0 is v = 0.

    Raises ValueError for another shape and for a `max_magnitude` that is not positive and finite.
    """
    array = _real("flow_to_color", flow)
    if max_magnitude is not None and not 0 < max_magnitude < np.inf:
        raise ValueError(message("flow_to_color", "max_magnitude", "a positive number of pixels", max_magnitude))
    known = _known(array)
    u, v = np.where(known, array, 0).astype(np.float64) + 0.0  # + 0.0 turns -0.0 into 0.0
    magnitude = np.hypot(u, v)
    limit = (magnitude.max() or 1.0) if max_magnitude is None else max_magnitude
    with np.errstate(over="ignore"):  # a tiny limit: infinitely far beyond it is just beyond it
        radius = (magnitude / limit)[..., None]
    step = (np.arctan2(-v, -u) / np.pi + 1) / 2 * (len(_WHEEL) - 1)
    low = step.astype(np.intp)
    part = (step - low)[..., None]
    hue = (1 - part) * _WHEEL[low] + part * _WHEEL[(low + 1) % len(_WHEEL)]
    shade = np.where(radius <= 1, 1 - np.minimum(radius, 1) * (1 - hue), 0.75 * hue)
    return (255 * shade * known[..., None]).astype(np.uint8)


def _color_wheel() -> NDArray[np.float64]:
    """The 55 hues, (55, 3) RGB in [0, 1]: the six edges of the RGB cube from red to red, each cut into its steps."""
    # red, yellow, green, cyan, blue, magenta and red again; RY 15, YG 6, GC 4, CB 11, BM 13, MR 6 steps
    corners = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]])
    # The changing channel is floor(255 i / n) on the way up and 255 minus that on the way down.
    levels = [
        255 * a + (b - a) * (255 * np.arange(n) // n)[:, None]
        for a, b, n in zip(corners[:-1], corners[1:], (15, 6, 4, 11, 13, 6), strict=True)
    ]
    return np.concatenate(levels) / 255


_WHEEL = _color_wheel()


def _known(flow: NDArray[Any]) -> NDArray[np.bool_]:
    return (np.abs(flow) <= _LIMIT).all(axis=0)  # False for NaN and infinity too


def _real(operator: str, flow: ArrayLike) -> NDArray[Any]:
    """`flow` as an array, once it is known to be real numbers of shape (2, H, W)."""
    array = np.asarray(flow)
    if array.ndim != 3 or array.shape[0] != 2 or array.size == 0 or array.dtype.kind not in "fiu":
        hint = "; np.moveaxis(flow, -1, 0) gives it" if array.shape[2:] == (2,) else ""
        got = f"{array.dtype} {array.shape}{hint}"
        raise ValueError(message(operator, "flow", "real numbers of shape (2, H, W)", got))
    return _wide(array)


def _wide(array: NDArray[Any]) -> NDArray[Any]:
    """At least float32: in float16 and in integers 1e9 and |value| can overflow."""
    return array.astype(np.result_type(array.dtype, np.float32), copy=False)


def _checked(
    operator: str, path: str | PathLike[str], suffix: str, flow: ArrayLike
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """What both writers ask for: the right suffix (read_flow goes by it) and shape; with it the unknown pixels."""
    if Path(path).suffix.lower() != suffix:
        raise ValueError(f"{operator}: {path}: the name must end in {suffix}, read_flow goes by it; rename it")
    array = _real(operator, flow)
    return array, np.isnan(array).any(axis=0)


def _read_flo(path: Path) -> NDArray[np.float32]:
    with path.open("rb") as file:
        header, length = file.read(12), path.stat().st_size
        if len(header) < 12:
            raise ValueError(f"{path}: {length} bytes cannot hold the 12-byte .flo header: truncated; fetch it again")
        magic, width, height = struct.unpack("<fii", header)
        if magic != _MAGIC:
            raise ValueError(f"{path}: not a .flo file: it starts with {magic:g}, not 202021.25 (little-endian)")
        # Sizes are checked against the file before anything is allocated.
        if not (1 <= width <= _MAX_SIDE and 1 <= height <= _MAX_SIDE):
            raise ValueError(f"{path}: the header says {width} x {height} pixels; sides are 1 .. {_MAX_SIDE}: damaged")
        if length != (expected := 12 + 8 * width * height):
            state = "truncated" if length < expected else "too long"
            raise ValueError(
                f"{path}: {state}: {width} x {height} pixels take {expected} bytes and the file has "
                f"{length}; fetch or write it again"
            )
        return np.frombuffer(file.read(), "<f4").reshape(height, width, 2).transpose(2, 0, 1)


def _read_kitti(path: Path) -> NDArray[np.float64]:
    cv2 = opencv()
    # imdecode and not imread: it gives None for a truncated file.
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError(f"{path}: not a PNG image that OpenCV can decode: damaged or truncated; fetch it again")
    if image.dtype != np.uint16 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"{path}: KITTI flow is a 16-bit PNG with 3 channels; this one is {image.dtype} "
            f"{image.shape}: a picture, or flow saved by something else"
        )
    valid, v, u = image.transpose(2, 0, 1).astype(np.float64)  # OpenCV's order is BGR
    return np.where(valid > 0, (np.stack([u, v]) - _ZERO) / _STEPS, np.nan)


def _read_npy(path: Path) -> NDArray[Any]:
    try:
        # Mapped, so that a damaged header cannot make us allocate; it refuses Python objects.
        array = np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # a damaged header raises nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: no .npy file of numbers, or truncated ({reason}); save it with np.save") from error
    if array.ndim == 3 and array.shape[0] != 2 and array.shape[2] == 2:
        array = array.transpose(2, 0, 1)
    if array.ndim != 3 or array.shape[0] != 2 or array.size == 0 or array.dtype.kind != "f":
        raise ValueError(
            f"{path}: expected floating-point numbers of shape (2, H, W) or (H, W, 2); "
            f"got {array.dtype} {array.shape}; save the flow that way"
        )
    return _wide(array)


def encoded(suffix: str, image: NDArray[Any], options: Sequence[int] = ()) -> NDArray[np.uint8] | None:
    """An image, in OpenCV's order of channels, as a file with that suffix; None where OpenCV cannot encode it."""
    cv2 = opencv()
    try:
        done, data = cv2.imencode(suffix, image, [*options])
    except cv2.error:
        return None
    return data if done else None


def opencv() -> Any:
    """The module cv2. Raises ImportError that says what to install."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError(f"this needs OpenCV ({error}); pip install 'motionspec[video]'") from error
    return cv2
