"""What containers say of a video: whole files are not called truncated, cut ones are, codecs are called by name."""

import re
import struct

import numpy as np
import pytest
from clips import cut, number, video

from motionspec.cli import data
from motionspec.cli.main import main
from motionspec.data.containers import codec, counted
from motionspec.data.video import Info, VideoError, examine, read_frames

cv2 = pytest.importorskip("cv2")


# Files, patched by their bytes


def box(content, *names):
    """Where the payload of the first box of each of these names begins, each looked for within the last."""
    at = 0
    for name in names:
        at = content.index(name.encode(), at) + 4
    return at


def put(path, at, layout, *values):
    content = bytearray(path.read_bytes())
    struct.pack_into(layout, content, at, *values)
    path.write_bytes(content)
    return path


def trimmed(path, first, last):
    """An MP4 whose edit list shows frames first .. last - 1."""
    content = path.read_bytes()
    (movie,) = struct.unpack_from(">I", content, box(content, "moov", "mvhd") + 12)
    (media,) = struct.unpack_from(">I", content, box(content, "moov", "mdhd") + 12)
    (delta,) = struct.unpack_from(">I", content, box(content, "moov", "stts") + 12)
    duration = round((last - first) * delta * movie / media)
    return put(path, box(content, "moov", "elst") + 8, ">Ii", duration, first * delta)


def faststart(path):
    """An MP4 with its index first, as those on the web, so that it opens when it is cut short."""
    content = path.read_bytes()
    at = content.index(b"moov") - 4
    (size,) = struct.unpack_from(">I", content, at)
    moov = bytearray(content[at : at + size])
    chunks = moov.index(b"stco") + 8
    (n,) = struct.unpack_from(">I", moov, chunks)
    for k in range(n):
        place = chunks + 4 + 4 * k
        (offset,) = struct.unpack_from(">I", moov, place)
        struct.pack_into(">I", moov, place, offset + size)
    (first,) = struct.unpack_from(">I", content)
    path.write_bytes(content[:first] + moov + content[first:at] + content[at + size :])
    return path


def longer(path, times):
    """A Matroska file that says it lasts so many times as long, as one with a longer sound track does."""
    content = path.read_bytes()
    at = re.search(rb"\x44\x89\x88", content).end()
    (duration,) = struct.unpack_from(">d", content, at)
    return put(path, at, ">d", duration * times)


def with_pauses(path, n):
    """An AVI with n empty pictures at its end, as a pause in a recording has."""
    content = path.read_bytes()
    length = content.index(b"vids") + 32
    (frames,) = struct.unpack_from("<I", content, length)
    index = content.rindex(b"idx1")
    (size,) = struct.unpack_from("<I", content, index + 4)
    entries = content[index + 8 : index + 8 + size]
    entries += n * struct.pack("<4sIII", b"00dc", 0, 4, 0)
    whole = bytearray(content[:index] + b"idx1" + struct.pack("<I", len(entries)) + entries)
    struct.pack_into("<I", whole, length, frames + n)
    struct.pack_into("<I", whole, 4, len(whole) - 8)
    path.write_bytes(whole)
    return path


# Whole


@pytest.mark.parametrize(("first", "last"), [(20, 31), (0, 11), (13, 18)])
def test_an_edit_list_hides_frames_and_the_file_is_whole(tmp_path, first, last):
    path = trimmed(video(tmp_path / "x.mp4", 31, "mp4v"), first, last)
    assert counted(path) == last - first
    assert examine(path) == Info(last - first, last - first, 48, 64)
    assert number(read_frames(path, [0])[0]) == first


def test_an_edit_list_that_shows_all(tmp_path):
    assert counted(video(tmp_path / "x.mp4", 31, "mp4v")) == 31


@pytest.mark.parametrize("first", [5, 31])
def test_an_edit_list_that_shows_nothing(tmp_path, first):
    path = trimmed(video(tmp_path / "x.mp4", 31, "mp4v"), first, first)
    assert counted(path) == 0
    with pytest.raises(VideoError, match="its edit list shows no frame; write it anew: ffmpeg -ignore_editlist 1 -i x"):
        examine(path)


@pytest.mark.parametrize("name", ["x.mkv", "x.webm"])
def test_a_duration_is_no_count(tmp_path, name):
    path = longer(video(tmp_path / name, 20, "VP80" if name == "x.webm" else "MJPG"), 5)
    assert counted(path) is None
    info = examine(path)
    assert (info.frames, info.declared) == (20, 0) and info.estimated >= 95


def test_an_avi_with_pauses(tmp_path):
    path = with_pauses(video(tmp_path / "x.avi", 20), 40)
    assert counted(path) == 20 and examine(path).frames == 20


# Cut short


@pytest.mark.parametrize("share", [0.5, 0.8])
@pytest.mark.parametrize("first", [0, 10])
def test_an_mp4_that_is_cut_short(tmp_path, share, first):
    path = cut(trimmed(faststart(video(tmp_path / "x.mp4", 31, "mp4v")), first, 31), share)
    assert counted(path) == 31 - first
    words = "no frame of the 21 that it counts decodes .*: truncated or damaged"
    with pytest.raises(VideoError, match=rf"truncated: only \d+ of the {31 - first} declared frames decode|{words}"):
        examine(path)


def test_an_avi_that_is_cut_short(tmp_path):
    for path in (video(tmp_path / "x.avi", 30), with_pauses(video(tmp_path / "y.avi", 30), 10)):
        with pytest.raises(VideoError, match=r"truncated: only \d+ of the [34]0 declared frames decode; fetch it"):
            examine(cut(path, 0.6))


def test_what_may_be_cut_short_is_noted_and_no_problem(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "sit").mkdir()
    for name in ("run/1.mkv", "run/2.mkv", "sit/1.mkv"):
        video(tmp_path / name, 30)
    path = tmp_path / "run" / "2.mkv"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.5)])
    assert main(["data", "check", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"may be truncated, or have sound longer than .*:\n  .*run/2.mkv: \d+ of about 30\n", said)
    assert "1.mkv:" not in said and said.endswith("all good\n")


def test_what_containers_do_not_count_is_not_held_against_the_others():
    infos = {"a.avi": Info(99, 99, 48, 64), "b.mkv": Info(310, 0, 48, 64, 311), "c.avi": Info(98, 99, 48, 64)}
    said = data._about_videos(infos)
    assert "1 of 3 videos decode to a frame fewer" in said and "b.mkv" not in said and "c.avi: 98 of 99" in said


# Damaged headers


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_container_is_never_a_traceback(tmp_path, seed):
    rng = np.random.default_rng(seed)
    path = video(tmp_path / ("x.mp4" if seed % 2 else "x.avi"), 5, "mp4v" if seed % 2 else "MJPG")
    content = np.frombuffer(path.read_bytes(), np.uint8).copy()
    tail = content[-2000:] if seed % 2 else content[:6000]  # where the index lies
    tail[rng.integers(len(tail), size=20)] = rng.integers(256, size=20)
    path.write_bytes(content.tobytes())
    assert counted(path) is None or counted(path) >= 0
    assert isinstance(codec(path), str)


def test_a_header_that_promises_too_much_takes_no_memory(tmp_path):
    path = video(tmp_path / "x.mp4", 5, "mp4v")
    content = path.read_bytes()
    put(path, box(content, "moov", "stts") + 8, ">I", 2**32 - 1)
    put(path, box(content, "moov", "stsz") + 8, ">I", 2**32 - 1)
    assert counted(path) is None


# Codecs


@pytest.mark.parametrize(("code", "name"), [("av01", "AV1"), ("hvc1", "HEVC"), ("vvc1", "VVC"), ("zzzz", "zzzz")])
def test_a_codec_that_nothing_decodes_is_named(tmp_path, capsys, code, name):
    path = video(tmp_path / "my clip.mp4", 5, "mp4v")
    content = path.read_bytes()
    at = content.index(b"stsd") + 16
    assert content[at : at + 4] == b"mp4v" and codec(path) == "mp4v"
    put(path, at, "4s", code.encode())
    path.write_bytes(path.read_bytes().replace(b"esds", b"free"))  # which says MPEG-4 too
    assert codec(path) == code
    for use in (examine, lambda path: read_frames(path, [0])):
        with pytest.raises(VideoError) as found:
            use(path)
        text = str(found.value)
        assert name in text and "\n" not in text and "fetch it again" not in text
        assert "convert it to H.264: ffmpeg -i 'my clip.mp4' -c:v libx264 'my clip-h264.mp4'" in text
    assert main(["demo", str(path), "-o", str(tmp_path / "out")]) == 2
    assert name in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "code", "told"),
    [("x.mp4", "mp4v", "mp4v"), ("x.avi", "MJPG", "MJPG"), ("x.mkv", "MJPG", "V_MJPEG"), ("x.ts", "MPG2", "")],
)
def test_codecs_by_name(tmp_path, name, code, told):
    assert codec(video(tmp_path / name, 3, code)) == told


def test_a_damaged_video_of_a_usual_codec_is_called_damaged(tmp_path):
    path = faststart(video(tmp_path / "x.mp4", 5, "mp4v"))
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"mdat") + 4] + bytes(len(content)))
    with pytest.raises(
        VideoError, match=r"no frame of the 5 that it counts decodes .*: truncated or damaged; fetch it again"
    ):
        examine(path)
