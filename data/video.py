"""Decoding of videos and images by OpenCV: the frames that really decode, and one clear line for what does not.

Every error that a file can cause is a VideoError whose message is one line; decoders' own chatter is kept off stderr.
"""

import json
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motionspec.checks import message
from motionspec.data.containers import codec, counted
from motionspec.data.source import Images, cache_folder
from motionspec.flow import opencv

# FFmpeg's log level, read by OpenCV when it opens its first video: -8 is AV_LOG_QUIET. Unset, errors go to stderr.
# A user's own setting stays.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

Image = NDArray[np.uint8]
"""RGB, uint8, (H, W, 3)."""
Progress = Callable[[int, int | None], None]
"""Called with the number of frames decoded and the number to decode, None where it is not known."""

# How many of the frames that a container counts may fail to decode. Good clips lack a frame: every HMDB-51 clip
# does (packed B frames). AVI files cut at 90 % of their bytes lack 8 .. 14 % of their frames, and no fewer than 6.
_SLACK_FRAMES, _SLACK_SHARE = 2, 0.05
_REPORT_EVERY = 32  # frames between two calls of `progress`


class VideoError(ValueError):
    """A file that cannot be used; the message is one line for the user: which file, what is wrong, what to do."""


@dataclass(frozen=True)
class Info:
    """What a video holds.

    frames: those that decode. declared: those that its container counts and shows, 0 where it does not count them.
    estimated: what duration and rate come to, where it does not; sound longer than the picture adds to it, and so does
    a rate that varies. height, width: of its frames.
    """

    frames: int
    declared: int
    height: int
    width: int
    estimated: int = 0

    @property
    def may_be_truncated(self) -> bool:
        """Whether far fewer frames decode than are estimated: a reason to look, and no more."""
        return _too_few(self.frames, self.estimated)


def _too_few(frames: int, expected: int) -> bool:
    return expected - frames > max(_SLACK_FRAMES, _SLACK_SHARE * expected)


def examine(path: str | os.PathLike[str], progress: Progress | None = None) -> Info:
    """Decode a whole video and say what it holds. `progress(done, None)` is called now and then and at the end.

    Raises VideoError where the file is missing, unreadable, empty or no video, where no frame decodes, and where more
    than max(2, 5 %) of the frames that the container counts are missing: the file is truncated. An estimate of a
    container that does not count them is held against no file.
    """
    check_file(path)
    declared = counted(path) or 0
    with _opened(path) as capture:
        estimated = int(capture.get(_opencv().CAP_PROP_FRAME_COUNT))  # 0 or negative: unknown (a still image: -2^63)
        first, n = None, 0
        while capture.grab():
            if first is None:
                first = _frame(path, capture, 0)
            n += 1
            if progress and n % _REPORT_EVERY == 0:
                progress(n, None)
        if first is None:
            raise VideoError(_without_frames(path, capture))
    if _too_few(n, declared):
        raise VideoError(f"{path}: truncated: only {n} of the {declared} declared frames decode; fetch it again")
    if progress:
        progress(n, None)
    height, width = first.shape[:2]
    return Info(n, declared, height, width, 0 if declared else max(0, estimated))


# The codecs that every build of OpenCV decodes: what does not decode is damaged, and not foreign to it.
_USUAL = {
    *("avc1", "avc3", "h264", "x264", "mp4v", "fmp4", "xvid", "divx", "dx50", "div3", "mpg1", "mpg2", "mpeg", "mp4s"),
    *("mjpg", "vp80", "vp90", "vp08", "vp09", "gif", "v_mpeg4/iso/avc", "v_mpeg4/iso/asp", "v_mjpeg", "v_vp8", "v_vp9"),
}
_CODECS = {
    "AV1": ("av01", "v_av1"),
    "HEVC": ("hvc1", "hev1", "hevc", "h265", "x265", "v_mpegh/iso/hevc"),
    "VVC": ("vvc1", "vvi1", "v_mpegi/iso/vvc"),
    "Dolby Vision": ("dvh1", "dvhe", "dvav"),
    "ProRes": ("apch", "apcn", "apcs", "apco", "ap4h", "v_prores"),
}
"""Codecs that some builds lack, by their names in containers."""


def _without_frames(path: str | os.PathLike[str], capture: Any) -> str:
    """Why no frame of a video that opens decodes, in one line."""
    said = codec(path) or _fourcc(capture)
    if said and said.lower() not in _USUAL:
        return _foreign(path, said)
    of = f" (codec {said})" if said else ""
    if (declared := counted(path)) == 0:
        source, target = _converted(path)
        return f"{path}: its edit list shows no frame; write it anew: ffmpeg -ignore_editlist 1 -i {source} {target}"
    if declared:
        return f"{path}: no frame of the {declared} that it counts decodes{of}: truncated or damaged; fetch it again"
    return f"{path}: opens as a video but no frame decodes{of}: damaged or without pictures; fetch it again"


def _foreign(path: str | os.PathLike[str], said: str) -> str:
    """What to do with a codec that this OpenCV does not decode, in one line."""
    known = next((name for name, codes in _CODECS.items() if said.lower() in codes), None)
    name = f"{known} ({said})" if known else said
    source, target = _converted(path)
    return (
        f"{path}: this OpenCV decodes no frame of its codec {name}; "
        f"convert it to H.264: ffmpeg -i {source} -c:v libx264 {target}"
    )


def _converted(path: str | os.PathLike[str]) -> tuple[str, str]:
    """The names of a video and of what it is converted to, for a shell."""
    file = Path(path)
    return shlex.quote(file.name), shlex.quote(f"{file.stem}-h264.mp4")


def _fourcc(capture: Any) -> str:
    """The codec as OpenCV calls it; "" where it does not know."""
    code = int(capture.get(_opencv().CAP_PROP_FOURCC)) & 0xFFFFFFFF
    text = code.to_bytes(4, "little").decode("latin-1")
    return text.strip() if text.isascii() and text.isprintable() else ""


class Index:
    """What `examine` found, kept in a file, so that each video is decoded once only to be counted.

    A video that has another size or time of change is examined anew; an error is not kept. The file has one JSON list
    a line, and is only ever appended to, in one write: processes may share it, and a line that a kill cut off is
    ignored. Where it cannot be written, everything works, and is counted anew.
    """

    def __init__(self, file: str | os.PathLike[str] | None = None) -> None:
        self.file = cache_folder() / "videos.jsonl" if file is None else Path(file)
        self._known: dict[tuple[str, int, int], Info] = {}
        self._read = 0  # bytes of the file

    def __call__(self, path: str | os.PathLike[str], progress: Progress | None = None) -> Info:
        """As `examine`."""
        check_file(path)
        stat = os.stat(path)
        key = os.path.abspath(path), stat.st_size, stat.st_mtime_ns
        if key not in self._known:
            self._update()
        if key not in self._known:
            info = self._known[key] = examine(path, progress)
            # A line break before and after: a line that was cut off spoils itself only.
            line = f"\n{json.dumps([*key, *astuple(info)])}\n".encode()
            with suppress(OSError):
                self.file.parent.mkdir(parents=True, exist_ok=True)
                with self.file.open("ab", buffering=0) as file:
                    file.write(line)
        return self._known[key]

    def _update(self) -> None:
        """Take in what was appended since the last time."""
        with suppress(OSError), self.file.open("rb") as file:
            file.seek(self._read)
            new = file.read()
            self._read += len(new)
            for line in new.splitlines():
                with suppress(ValueError, TypeError):  # cut off, or not ours
                    path, size, time, *info = json.loads(line)
                    if len(info) == len(fields(Info)):  # else of an earlier version, whose numbers said other things
                        self._known[path, size, time] = Info(*info)


@dataclass(frozen=True)
class Videos:
    """A Source of video files; `names` are their paths below `root`.

    `read` decodes from the start of the file to the last frame that is wanted. Seeking by number, which OpenCV does
    by time, was exact in all real clips of a constant rate, but off by up to 12 frames in MPEG-TS, and by some at a
    varying rate, as phones record. Nothing but these lists is read before the first clip is.
    """

    root: Path
    names: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    index: Index = field(default_factory=Index, compare=False)

    def __len__(self) -> int:
        return len(self.names)

    def length(self, i: int) -> int:
        """The number of frames of video i that decode. Raises VideoError as `examine`."""
        return self.index(self.root / self.names[i]).frames

    def read(self, i: int, frames: Sequence[int] | NDArray[np.integer]) -> Images:
        """As `read_frames`."""
        return read_frames(self.root / self.names[i], frames)


def read_frames(path: str | os.PathLike[str], frames: Sequence[int] | NDArray[np.integer]) -> Images:
    """Frames of a video by number from 0, in any order, repeats allowed: uint8 (n, H, W, 3), RGB.

    Raises VideoError as `examine`, and where a frame does not decode; ValueError for no frames and numbers below 0.
    """
    numbers = [int(t) for t in frames]
    if not numbers or min(numbers) < 0:
        raise ValueError(message("read_frames", "frames", "at least one number, from 0 up", numbers))
    check_file(path)
    return _stacked(decode(path, numbers), numbers, path)


def decode(
    path: str | os.PathLike[str], wanted: Iterable[int], progress: Progress | None = None, before: int = 0
) -> dict[int, Image]:
    """The frames of these numbers. Raises VideoError; a file that cannot be opened is `check_file`'s to find.

    `progress` is called as by `examine`, with the total; both numbers count `before` frames of an earlier pass too.
    """
    wanted, frames = set(wanted), {}
    with _opened(path) as capture:
        for i in range(last := max(wanted) + 1):
            if not capture.grab():
                if i == 0:
                    raise VideoError(_without_frames(path, capture))
                raise VideoError(f"{path}: only {i} frames decode and frame {last - 1} is wanted; is it complete?")
            if i in wanted:
                frames[i] = _frame(path, capture, i)
            if progress and ((before + i + 1) % _REPORT_EVERY == 0 or i + 1 == last):
                progress(before + i + 1, before + last)
    return frames


def read_image(path: str | os.PathLike[str]) -> Image:
    """Read an image as uint8 (H, W, 3), RGB.

    Grey is repeated in all three channels, of 16 bits the upper 8 are kept, transparency is dropped (the colours
    stay as stored), an EXIF orientation is applied, an animation gives its first picture. Raises VideoError.
    """
    cv2 = _opencv()
    check_file(path)
    data = np.frombuffer(Path(path).read_bytes(), np.uint8)
    image = None
    with _quiet(), suppress(cv2.error):  # the error: more pixels than OpenCV allows, for one
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)  # None for a truncated file; imread may fill up with grey
    if image is None:
        raise VideoError(f"{path}: not an image OpenCV can decode, or damaged; convert it to PNG or fetch it again")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_images(paths: Sequence[Path], frames: Sequence[int] | NDArray[np.integer], clip: str) -> Images:
    """Of the images of a clip, which has this name, those of these numbers from 0: uint8 (n, H, W, 3), RGB.

    Raises VideoError for an image that cannot be read, for frames that differ in size or that there are not.
    """
    numbers = [int(t) for t in frames]
    if not numbers or not 0 <= min(numbers) <= max(numbers) < len(paths):
        expected = f"at least one number from 0 to {len(paths) - 1}, the frames of {clip}"
        raise VideoError(message("read", "frames", expected, numbers))
    images = {t: read_image(paths[t]) for t in sorted({*numbers})}
    return _stacked(images, numbers, clip)


def _stacked(images: dict[int, Image], numbers: Sequence[int], clip: str | os.PathLike[str]) -> Images:
    if len(sizes := {image.shape for image in images.values()}) > 1:
        listed = " and ".join(sorted(f"{w} x {h}" for h, w, _ in sizes))
        raise VideoError(f"{clip}: its frames differ in size: {listed}; bring them to one")
    return np.stack([images[t] for t in numbers])


def is_pipe(path: str | os.PathLike[str]) -> bool:
    """Whether it is there and neither file nor folder: opening a pipe would wait for ever."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def check_file(path: str | os.PathLike[str]) -> None:
    """VideoError unless `path` is a file that can be read and has at least one byte."""
    if is_pipe(path):
        raise VideoError(f"{path}: a pipe or device; give the path of a file that can be read")
    try:
        with open(path, "rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise VideoError(f"{path}: {error.strerror}; give the path of a file that can be read") from error
    if empty:
        raise VideoError(f"{path}: the file is empty; fetch it again")


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """The opened capture, released at the end. FFmpeg only: what it refuses, OpenCV's other readers would guess at."""
    cv2 = _opencv()
    full = os.path.abspath(path)  # `concat:x` is no protocol then
    try:
        full.encode()
    except UnicodeEncodeError as error:  # here OpenCV would crash the process
        raise VideoError(f"{full!a}: OpenCV needs a path in UTF-8; rename the file or folder") from error
    with _quiet():
        capture = cv2.VideoCapture(full, cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            if (said := codec(path)) and said.lower() not in _USUAL:
                raise VideoError(_foreign(path, said))
            raise VideoError(
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
        raise VideoError(f"{path}: frame {i} cannot be converted to RGB; convert the video to another format")
    cv2 = _opencv()
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _opencv() -> Any:
    try:
        return opencv()
    except ImportError as error:
        raise VideoError(str(error)) from error


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
