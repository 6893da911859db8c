"""What the container of a video says of its pictures: how many there are, where it counts them, and their codec.

MP4 counts its pictures one by one and says which of them its edit list shows; AVI has their number in its header. What
OpenCV makes of the others, duration times rate, is an estimate: the sound may be longer than the picture, and the rate
may vary. Only a count may be held against what decodes. No error comes out of here: a header that cannot be read counts
nothing.
"""

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["codec", "counted"]

_MOST = 10_000_000  # pictures, four days of them; a header that promises more is damaged
_LARGEST = 1 << 28  # bytes of an index that are read


def counted(path: str | os.PathLike[str]) -> int | None:
    """How many pictures the container counts and shows; None where it does not count them."""
    return _header(path).pictures


def codec(path: str | os.PathLike[str]) -> str:
    """The codec of the pictures as the container calls it, such as avc1 or V_AV1; "" where that cannot be found."""
    return _header(path).codec


class _Header(NamedTuple):
    codec: str = ""
    pictures: int | None = None


def _header(path: str | os.PathLike[str]) -> _Header:
    try:
        with Path(path).open("rb") as file:
            start = file.read(12)
            if start[:4] == b"RIFF" and start[8:] == b"AVI ":
                return _avi(file)
            if start[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"):
                return _mp4(file)
            if start[:4] == b"\x1aE\xdf\xa3":
                return _matroska(file)
    except (OSError, ValueError, IndexError, struct.error, OverflowError):  # damaged, or gone meanwhile
        pass
    return _Header()


# -- MP4 ---------------------------------------------------------------------------------------------------------------


def _mp4(file: BinaryIO) -> _Header:
    """Of the one video track of an MP4 or QuickTime file; fragments are not counted ahead."""
    moov = _moov(file)
    tracks = [track for kind, track in _boxes(moov) if kind == b"trak" and _is_video(track)]
    if len(tracks) != 1:
        return _Header()
    table = _inner(tracks[0], b"mdia", b"minf", b"stbl")
    description = _inner(table, b"stsd")
    name = _word(description[12:16])
    if any(kind == b"mvex" for kind, _ in _boxes(moov)):
        return _Header(name)
    return _Header(name, _shown(moov, tracks[0], table))


def _moov(file: BinaryIO) -> bytes:
    """The box that has the index of an MP4 file."""
    at, end = 0, file.seek(0, os.SEEK_END)
    while at + 8 <= end:
        file.seek(at)
        size, kind = struct.unpack(">I4s", file.read(8))
        head = 8
        if size == 1:
            (size,), head = struct.unpack(">Q", file.read(8)), 16
        size = size or end - at
        if size < head:
            break
        if kind == b"moov":
            return file.read(min(size - head, _LARGEST))
        at += size
    return b""


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The boxes in a box, with what is in them."""
    at = 0
    while at + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        head = 8
        if size == 1:
            (size,), head = struct.unpack_from(">Q", content, at + 8), 16
        size = size or len(content) - at
        if size < head:
            return
        yield kind, content[at + head : at + size]
        at += size


def _inner(content: bytes, *path: bytes) -> bytes:
    """What is in the box that this path of names leads to; b"" where there is none."""
    for name in path:
        content = next((inner for kind, inner in _boxes(content) if kind == name), b"")
    return content


def _is_video(track: bytes) -> bool:
    return _inner(track, b"mdia", b"hdlr")[8:12] == b"vide"


def _shown(moov: bytes, track: bytes, table: bytes) -> int | None:
    """How many of the samples the edit list shows, all where there is none."""
    samples = _number(_inner(table, b"stsz") or _inner(table, b"stz2"), 8)
    if not 0 < samples <= _MOST:
        return None
    edits = _inner(track, b"edts", b"elst")
    if not edits:
        return samples
    times = _expanded(_inner(table, b"stts"), ">u4", samples).cumsum()
    times = np.concatenate([[0], times])[:samples]  # of each picture, when it is decoded
    if offsets := _inner(table, b"ctts"):
        later = _expanded(offsets, ">i4", samples)
        times = times[: len(later)] + later  # when it is shown
    ticks = _timescale(_inner(track, b"mdia", b"mdhd")) / _timescale(_inner(moov, b"mvhd"))
    shown = 0
    for duration, begins, rate in _edits(edits):
        if begins == -1:  # an empty edit: the picture begins later than the sound
            continue
        if rate != 1:  # a picture that stands still, or a film that runs at another speed
            return None
        shown += int(((times >= begins) & (times < begins + duration * ticks)).sum())
    return shown


def _expanded(box: bytes, kind: str, most: int) -> NDArray[np.int64]:
    """A table of runs, number and value, as one value for each of at most so many samples."""
    runs = np.frombuffer(box, np.dtype([("number", ">u4"), ("value", kind)]), offset=8, count=_number(box, 4))
    numbers = runs["number"].astype(np.int64)
    if numbers.sum() > _MOST:
        raise ValueError("more samples than a file can have")
    return np.repeat(runs["value"].astype(np.int64), numbers)[:most]


def _edits(box: bytes) -> Iterator[tuple[int, int, int]]:
    """Of each edit its duration in ticks of the movie, where it begins in ticks of the track, and its speed."""
    layout = ">Qqhh" if box[0] == 1 else ">Iihh"
    for k in range(_number(box, 4)):
        duration, begins, rate, _ = struct.unpack_from(layout, box, 8 + k * struct.calcsize(layout))
        yield duration, begins, rate


def _timescale(box: bytes) -> int:
    """Ticks of a second."""
    if not (ticks := _number(box, 20 if box[0] == 1 else 12)):
        raise ValueError("no ticks")
    return ticks


def _number(box: bytes, at: int) -> int:
    return struct.unpack_from(">I", box, at)[0]


# -- AVI ---------------------------------------------------------------------------------------------------------------


def _avi(file: BinaryIO) -> _Header:
    """Of the one video stream of an AVI file. Its header also counts empty pictures, those of pauses."""
    streams: list[tuple[bytes, bytes]] = []
    index, more = b"", False
    for kind, size, at in _chunks(file):
        if kind == b"hdrl":
            file.seek(at)
            streams = _avi_streams(file.read(min(size, _LARGEST)))
        elif kind == b"idx1":
            file.seek(at)
            index = file.read(min(size, _LARGEST))
        more = more or kind == b"AVIX"
    videos = [k for k, (head, _) in enumerate(streams) if head[:4] == b"vids"]
    if len(videos) != 1:
        return _Header()
    head, form = streams[videos[0]]
    (length,) = struct.unpack_from("<I", head, 32)
    empty = _empty_pictures(index, videos[0])
    known = 0 < length <= _MOST and not (empty and more)  # of a long file, the index has the beginning only
    return _Header(_word(form[16:20]), max(0, length - empty) if known else None)


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """The chunks of an AVI file, lists by their own name: name, size, and where the content begins."""
    at, end = 12, file.seek(0, os.SEEK_END)
    while at + 12 <= end:
        file.seek(at)
        kind, size, name = struct.unpack("<4sI4s", file.read(12))
        if kind in (b"LIST", b"RIFF"):
            yield name, size - 4, at + 12
        else:
            yield kind, size, at + 8
        at += 12 if kind == b"RIFF" else 8 + size + size % 2


def _avi_streams(header: bytes) -> list[tuple[bytes, bytes]]:
    """The head and format of each stream."""
    return [
        (next((c for k, c in _riff(each) if k == b"strh"), b""), next((c for k, c in _riff(each) if k == b"strf"), b""))
        for kind, content in _riff(header)
        if kind == b"LIST" and (each := content[4:]) and content[:4] == b"strl"
    ]


def _riff(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, at)
        yield kind, content[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def _empty_pictures(index: bytes, stream: int) -> int:
    """How many entries of a stream have no bytes."""
    entries = np.frombuffer(index[: len(index) - len(index) % 16], np.dtype("S4, <u4, <u4, <u4"))
    names = np.char.startswith(entries["f0"], b"%02d" % stream)
    return int((names & (entries["f3"] == 0)).sum())


# -- Matroska ----------------------------------------------------------------------------------------------------------


def _matroska(file: BinaryIO) -> _Header:
    """The codec of the first video track; Matroska has a duration and no count."""
    file.seek(0)
    found = re.search(rb"\x86[\x81-\xff](V_[A-Z0-9/]+)", file.read(1 << 20))
    return _Header(found[1].decode() if found else "")


def _word(code: bytes) -> str:
    """Four characters; those that cannot be printed as their numbers."""
    return "".join(chr(byte) if 32 < byte < 127 else f"\\x{byte:02x}" for byte in code)
