"""Frames for the `demo` command: pairs of neighbouring frames of a video, or frames in a row."""

import os
from dataclasses import dataclass

from motionspec.data.video import Image, Progress, VideoError, decode, examine


@dataclass(frozen=True, eq=False)
class Pair:
    """Two neighbouring frames, each uint8 (H, W, 3) RGB; `index` counts from 0 and is that of `first`."""

    index: int
    first: Image
    second: Image


def read_pairs(video_path: str | os.PathLike[str], count: int = 3, progress: Progress | None = None) -> list[Pair]:
    """Up to `count` pairs of neighbouring frames, spread evenly over a video.

    The n frames that really decode form n - 1 pairs. They are cut into min(count, n - 1) equal stretches, and the
    middle pair of each is taken: pair floor((2 j + 1) (n - 1) / (2 k)) for j = 0 .. k - 1. Two passes over the
    file, the first to count; no more than the pairs is kept. Neighbouring pairs may share an array.

    `progress(done, total)` is called now and then and at the end of each pass; `done` counts decoded frames over both
    passes, `total` is None in the first: a container's own count is not to be relied upon.

    Raises VideoError where `examine` does, and where only one frame decodes.
    """
    if count < 1:
        raise VideoError(f"the number of frame pairs must be at least 1; got {count}")
    wanted = choose_pairs(n := _count_frames(video_path, progress), count)
    frames = decode(video_path, {i for first in wanted for i in (first, first + 1)}, progress, before=n)
    return [Pair(i, frames[i], frames[i + 1]) for i in wanted]


def read_clip(video_path: str | os.PathLike[str], length: int, progress: Progress | None = None) -> list[Image]:
    """`length` frames in a row from the middle of a video, frame (n - length) // 2 of n the first; as `read_pairs`.

    Raises VideoError as that does, and where the video is shorter.
    """
    n = _count_frames(video_path, progress)
    if n < length:
        raise VideoError(f"{video_path}: only {n} frames decode and {length} are needed; give a longer clip")
    first = (n - length) // 2
    return [*decode(video_path, range(first, first + length), progress, before=n).values()]


def choose_pairs(n: int, count: int) -> list[int]:
    """First frames of the pairs that `read_pairs` takes of a clip of n >= 2 frames, ascending, all different."""
    k = min(count, n - 1)
    return [(2 * j + 1) * (n - 1) // (2 * k) for j in range(k)]


def _count_frames(path: str | os.PathLike[str], progress: Progress | None) -> int:
    """The number of frames that decode, at least 2."""
    if (n := examine(path, progress).frames) == 1:
        raise VideoError(f"{path}: only one frame decodes and motion needs two; give a longer clip")
    return n
