"""Frames for the `demo` command: single images, and pairs of neighbouring frames of a video.

Every error a user can cause is a MediaError whose message is one line; decoders' own chatter is kept off stderr.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motionspec.flow import _opencv as _import_opencv

# FFmpeg's log level, read by OpenCV when it opens its first video: -8 is AV_LOG_QUIET. Unset, errors go to stderr.
# A user's own setting stays.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

Image = NDArray[np.uint8]
"""RGB, uint8, (H, W, 3)."""
Progress = Callable[[int, int | None], None]

# How many of the declared frames may fail to decode. Good clips fall short by a frame: every HMDB-51 clip does
# (packed B frames). Counts of mkv, webm and ts are OpenCV's estimate from the duration, sound track included, hence
# not tighter. AVI files cut at 90 % of their bytes lack 8 .. 14 % of their frames, and no fewer than 6.
_SLACK_FRAMES, _SLACK_SHARE = 2, 0.05
_REPORT_EVERY = 32  # frames between two calls of `progress`


class MediaError(ValueError):
    """A file that cannot be used; the message is one line for the user: which file, what is wrong, what to do."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Two neighbouring frames, each uint8 (H, W, 3) RGB; `index` counts from 0 and is that of `first`."""

    index: int
    first: Image
    second: Image


def read_image(path: str | os.PathLike[str]) -> Image:
    """Read an image as uint8 (H, W, 3), RGB.

    Grey is repeated in all three channels, of 16 bits the upper 8 are kept, transparency is dropped (the colours
    stay as stored), an EXIF orientation is applied, an animation gives its first picture. Raises MediaError.
    """
    cv2 = _opencv()
    _check_file(path)
    data = np.frombuffer(Path(path).read_bytes(), np.uint8)
    image = None
    with _quiet(), suppress(cv2.error):  # the error: more pixels than OpenCV allows, for one
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)  # None for a truncated file; imread may fill up with grey
    if image is None:
        raise MediaError(f"{path}: not an image OpenCV can decode, or damaged; convert it to PNG or fetch it again")
    return np.ascontiguousarray(image[..., ::-1])


def read_pairs(video_path: str | os.PathLike[str], count: int = 3, progress: Progress | None = None) -> list[Pair]:
    """Up to `count` pairs of neighbouring frames, spread evenly over a video.

    The n frames that really decode form n - 1 pairs. They are cut into min(count, n - 1) equal stretches, and the
    middle pair of each is taken: pair floor((2 j + 1) (n - 1) / (2 k)) for j = 0 .. k - 1. Two passes over the
    file, the first to count; no more than the pairs is kept. Neighbouring pairs may share an array.

    `progress(done, total)` is called now and then and at the end of each pass; `done` counts decoded frames over both
    passes, `total` is None in the first: a container's own count is not to be relied upon.

    Raises MediaError where the file is missing, unreadable, empty or no video, where fewer than two frames decode,
    and where more than max(2, 5 %) of the frames that the container declares are missing: the file is truncated.
    """
    if count < 1:
        raise MediaError(f"the number of frame pairs must be at least 1; got {count}")
    _check_file(video_path)
    wanted = choose_pairs(n := _count_frames(video_path, progress), count)
    frames = _decode(video_path, {i for first in wanted for i in (first, first + 1)}, n, progress)
    return [Pair(i, frames[i], frames[i + 1]) for i in wanted]


def read_clip(video_path: str | os.PathLike[str], length: int, progress: Progress | None = None) -> list[Image]:
    """`length` frames in a row from the middle of a video, frame (n - length) // 2 of n the first; as `read_pairs`.

    Raises MediaError as that does, and where the video is shorter.
    """
    _check_file(video_path)
    n = _count_frames(video_path, progress)
    if n < length:
        raise MediaError(f"{video_path}: only {n} frames decode and {length} are needed; give a longer clip")
    first = (n - length) // 2
    return [*_decode(video_path, set(range(first, first + length)), n, progress).values()]


def _decode(path: str | os.PathLike[str], wanted: set[int], n: int, progress: Progress | None) -> dict[int, Image]:
    """The frames of these numbers; the second pass over a file of n frames."""
    frames: dict[int, Image] = {}
    with _opened(path) as capture:
        for i in range(last := max(wanted) + 1):
            if not capture.grab():
                raise MediaError(f"{path}: frame {i} decodes once but not twice; is the file being written?")
            if i in wanted:
                frames[i] = _frame(path, capture, i)
            if progress and ((n + i + 1) % _REPORT_EVERY == 0 or i + 1 == last):
                progress(n + i + 1, n + last)
    return frames


def choose_pairs(n: int, count: int) -> list[int]:
    """First frames of the pairs that `read_pairs` takes of a clip of n >= 2 frames, ascending, all different."""
    k = min(count, n - 1)
    return [(2 * j + 1) * (n - 1) // (2 * k) for j in range(k)]


def _count_frames(path: str | os.PathLike[str], progress: Progress | None) -> int:
    """The number of frames that decode, at least 2; MediaError for fewer, and for too few of the declared ones."""
    with _opened(path) as capture:
        declared = int(capture.get(_opencv().CAP_PROP_FRAME_COUNT))  # 0 or negative: unknown (a still image: -2^63)
        n = 0
        while capture.grab():
            n += 1
            if progress and n % _REPORT_EVERY == 0:
                progress(n, None)
    if n == 0:
        raise MediaError(f"{path}: opens as a video but no frame decodes: damaged or without pictures; fetch it again")
    if declared - n > max(_SLACK_FRAMES, _SLACK_SHARE * declared):
        raise MediaError(f"{path}: truncated: only {n} of the {declared} declared frames decode; fetch it again")
    if n == 1:
        raise MediaError(f"{path}: only one frame decodes and motion needs two; give a longer clip")
    if progress:
        progress(n, None)
    return n


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """The opened capture, released at the end. FFmpeg only: what it refuses, OpenCV's other readers would guess at."""
    cv2 = _opencv()
    full = os.path.abspath(path)  # `concat:x` is no protocol then
    try:
        full.encode()
    except UnicodeEncodeError as error:  # here OpenCV would crash the process
        raise MediaError(f"{full!a}: OpenCV needs a path in UTF-8; rename the file or folder") from error
    with _quiet():
        capture = cv2.VideoCapture(full, cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise MediaError(
                f"{path}: not a video that OpenCV (FFmpeg) can open, or truncated (an .mp4 cut short has "
                "lost its index); fetch it again or convert it"
            )
        yield capture
    finally:
        capture.release()


def _frame(path: str | os.PathLike[str], capture: Any, i: int) -> Image:
    """The frame last grabbed."""
    done, bgr = capture.retrieve()
    if not done:
        raise MediaError(f"{path}: frame {i} cannot be converted to RGB; convert the video to another format")
    return np.ascontiguousarray(bgr[..., ::-1])


def _check_file(path: str | os.PathLike[str]) -> None:
    """MediaError unless `path` is a file that can be read and has at least one byte."""
    try:
        with open(path, "rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise MediaError(f"{path}: {error.strerror}; give the path of a file that can be read") from error
    if empty:
        raise MediaError(f"{path}: the file is empty; fetch it again")


def _opencv() -> Any:
    try:
        return _import_opencv()
    except ImportError as error:
        raise MediaError(str(error)) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps OpenCV's log, libpng and libjpeg off stderr; the latter two heed no setting, so their descriptor moves.

    Only ever around one call into OpenCV: the whole process is without stderr meanwhile.
    """
    try:
        stderr = os.dup(2)
    except OSError:  # closed: nothing to keep clean
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
