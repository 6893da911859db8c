"""Frames of videos and images: which frames are taken, and one clear line for every file that cannot be used."""

import os
from pathlib import Path

import numpy as np
import pytest
from clips import cut, number, video

from motionspec.cli.media import choose_pairs, read_clip, read_pairs
from motionspec.data.video import VideoError, examine, read_image

cv2 = pytest.importorskip("cv2")


def refuses(read, path, words):
    """One line that begins with the path."""
    with pytest.raises(VideoError, match=words) as caught:
        read(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


# Pairs of frames


def test_which_pairs():
    assert choose_pairs(2, 3) == [0]
    assert choose_pairs(4, 3) == [0, 1, 2]
    assert choose_pairs(10, 1) == [4]  # the middle one of the pairs 0 .. 8
    assert choose_pairs(31, 3) == [5, 15, 25]  # the middles of 0-9, 10-19, 20-29
    for n in range(2, 40):
        for count in range(1, 45):
            first = choose_pairs(n, count)
            assert first == sorted(set(first)) and len(first) == min(count, n - 1)
            assert first[0] >= 0 and first[-1] <= n - 2
            assert abs((n - 2 - first[-1]) - first[0]) <= 1  # as far from the end as from the start


@pytest.mark.parametrize("name", ["x.avi", "x.mp4", "x.mkv"])
def test_pairs_of_a_clip(tmp_path, name):
    path = video(tmp_path / name, 30, "mp4v" if name == "x.mp4" else "MJPG")
    pairs = read_pairs(path)
    assert [p.index for p in pairs] == [4, 14, 24]
    for p in pairs:
        assert p.first.shape == (48, 64, 3) and p.first.dtype == np.uint8 and p.first.flags.c_contiguous
        assert (number(p.first), number(p.second)) == (p.index, p.index + 1)
        assert p.first[..., 0].mean() > 4 * p.first[..., 2].mean()  # red, and not blue: RGB
    everything = read_pairs(str(path), count=100)
    assert [(number(p.first), number(p.second)) for p in everything] == [(i, i + 1) for i in range(29)]


def test_a_clip_is_from_the_middle(tmp_path):
    path = video(tmp_path / "x.avi", 30)
    for length, first in ((1, 14), (7, 11), (30, 0)):
        assert [number(frame) for frame in read_clip(path, length)] == list(range(first, first + length))
    refuses(lambda path: read_clip(path, 31), path, "only 30 frames decode and 31 are needed; give a longer clip")


def test_two_frames_are_one_pair(tmp_path):
    (pair,) = read_pairs(video(tmp_path / "two.avi", 2))
    assert (pair.index, number(pair.first), number(pair.second)) == (0, 0, 1)


def test_progress(tmp_path):
    calls = []
    read_pairs(video(tmp_path / "x.avi", 30), progress=lambda done, total: calls.append((done, total)))
    # The second pass ends with frame 25, the last that is wanted: 30 + 26.
    assert calls == [(30, None), (32, 56), (56, 56)]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.avi", b"", "the file is empty"),
        ("text.avi", b"Dear video,\n" * 50, "not a video that OpenCV"),
        ("noise.mp4", np.random.default_rng(0).bytes(5000), "not a video that OpenCV"),
    ],
)
def test_no_video(tmp_path, capfd, name, content, words):
    (path := tmp_path / name).write_bytes(content)
    refuses(read_pairs, path, words)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("read", [read_pairs, read_image])
def test_missing_file_folder_and_forbidden_file(tmp_path, read):
    refuses(read, tmp_path / "missing.avi", "No such file")
    refuses(read, tmp_path, "Is a directory")
    (path := tmp_path / "forbidden.avi").write_bytes(b"x")
    path.chmod(0)
    if not os.access(path, os.R_OK):  # root may read everything
        refuses(read, path, "Permission denied")


def test_too_few_frames(tmp_path):
    refuses(read_pairs, video(tmp_path / "zero.avi", 0), "no frame decodes")
    refuses(read_pairs, video(tmp_path / "one.avi", 1), "only one frame decodes and motion needs two")
    # A picture is a film of one frame for FFmpeg; its neighbours by number are not taken for the next frames.
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"img{i}.png"), np.zeros((8, 8, 3), np.uint8))
    refuses(read_pairs, tmp_path / "img0.png", "only one frame")
    with pytest.raises(VideoError, match="must be at least 1; got 0"):
        read_pairs(video(tmp_path / "x.avi", 2), count=0)


@pytest.mark.parametrize(("codec", "name"), [("MJPG", "x.avi"), ("mp4v", "x.mp4")])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_truncated(tmp_path, capfd, codec, name, share):
    path = cut(video(tmp_path / name, 30, codec), share)
    capfd.readouterr()
    refuses(read_pairs, path, "truncated")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_what_does_not_count_its_frames_may_be_truncated(tmp_path, capfd, share):
    """A duration is no count: what is there is used."""
    path = cut(video(tmp_path / "x.mkv", 30, "MJPG"), share)
    info = examine(path)
    assert info.frames < 30 and info.may_be_truncated
    assert len(read_pairs(path)) == 3
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("decoded", "declared", "good"), [
    (2, 4, True), (2, 5, False), (95, 100, True), (94, 100, False), (10, 0, True), (10, -(2.0**63), True),
    (10, 9, True), (1, 90, False),
])  # fmt: skip
def test_missing_frames_up_to_2_or_5_percent_are_no_truncation(tmp_path, monkeypatch, decoded, declared, good):
    class Capture:
        def __init__(self, *_):
            self.left = decoded

        def isOpened(self):
            return True

        def get(self, _):
            return declared

        def grab(self):
            self.left -= 1
            return self.left >= 0

        def retrieve(self):
            return True, np.zeros((1, 1, 3), np.uint8)

        def release(self):
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    monkeypatch.setattr("motionspec.data.video.counted", lambda _: declared if declared > 0 else None)
    (path := tmp_path / "x.avi").write_bytes(b"x")
    if good:
        assert len(read_pairs(path, count=1)) == 1
    else:
        refuses(read_pairs, path, f"truncated: only {decoded} of the {declared} declared frames decode")


def test_any_name_of_a_video(tmp_path, monkeypatch):
    content = video(tmp_path / "x.avi", 2).read_bytes()
    monkeypatch.chdir(tmp_path)
    for name in ("größe !(+).avi", "x%02d.avi", "concat:x.avi", "-x.avi"):
        Path(name).write_bytes(content)
        assert len(read_pairs(name)) == 1
    try:
        Path("\udcff.avi").write_bytes(content)  # not UTF-8: OpenCV itself crashes the process
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    with pytest.raises(VideoError, match=r"udcff.avi': OpenCV needs a path in UTF-8"):
        read_pairs("\udcff.avi")


# Names are relative to the root of the real data; frames decoded, and frames declared by the container.
CLIPS = [
    ("ucf101/UCF-101/Archery/v_Archery_g03_c03.avi", 125, 125),
    ("hmdb51/hmdb51_org/wave/TrumanShow_wave_f_nm_np1_fr_med_26.avi", 48, 49),
    ("hmdb51/hmdb51_org/golf/Golf_Tips_-_Hit_The_Driver_300+_Yards!!!_golf_f_nm_np1_fr_med_0.avi", 89, 90),
    ("hmdb51/hmdb51_org/cartwheel/Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi", 83, 84),
    ("kinetics400/abseiling/abseiling_k400.mp4", 250, 250),
]


@pytest.mark.parametrize(("name", "decoded", "declared"), CLIPS, ids=lambda v: Path(str(v)).stem[:20])
def test_real_clip(tmp_path, capfd, realdata, name, decoded, declared):
    path = realdata / name
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == declared
    frames = [capture.read()[1][..., ::-1] for _ in range(decoded)]
    assert not capture.read()[0]
    capfd.readouterr()
    pairs = read_pairs(path)
    assert [p.index for p in pairs] == choose_pairs(decoded, 3)
    for p in pairs:
        np.testing.assert_array_equal(p.first, frames[p.index])
        np.testing.assert_array_equal(p.second, frames[p.index + 1])
    for share in (0.5, 0.9):
        short = tmp_path / f"cut{path.suffix}"
        short.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        refuses(read_pairs, short, "truncated")
    assert capfd.readouterr() == ("", "")


# Images


def image(path, array):
    assert cv2.imwrite(str(path), array)
    return path


def test_color_image_is_rgb(tmp_path):
    bgr = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    for name in ("x.png", "x.ppm", "x.bmp", "x.tiff"):
        read = read_image(image(tmp_path / name, bgr))
        np.testing.assert_array_equal(read, bgr[..., ::-1])
        assert read.dtype == np.uint8 and read.flags.c_contiguous


def test_grey_16_bit_and_transparent_images(tmp_path):
    grey = np.uint8([[0, 100, 255]])
    np.testing.assert_array_equal(read_image(image(tmp_path / "g.png", grey)), np.dstack([grey] * 3))
    deep = np.uint16([[0x00FF, 0x0100, 0x7FFF, 0xFFFF]])  # the upper 8 bits
    np.testing.assert_array_equal(read_image(image(tmp_path / "d.png", deep))[..., 1], [[0, 1, 127, 255]])
    bgra = np.uint8([[[10, 20, 30, 0], [40, 50, 60, 255]]])  # the first pixel is invisible
    np.testing.assert_array_equal(read_image(image(tmp_path / "a.png", bgra)), [[[30, 20, 10], [60, 50, 40]]])


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.ppm", "x.bmp"])
def test_truncated_image(tmp_path, capfd, name):
    noise = np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8)
    path = image(tmp_path / name, noise)
    for share in (0.1, 0.5, 0.95):
        refuses(read_image, cut(path, share), "not an image OpenCV can decode, or damaged")
    assert capfd.readouterr() == ("", "")
    os.write(2, b"back")
    assert capfd.readouterr().err == "back"


def test_no_image(tmp_path):
    (path := tmp_path / "x.png").touch()
    refuses(read_image, path, "the file is empty")
    path.write_text("Dear picture,")
    refuses(read_image, path, "not an image OpenCV can decode")


def test_without_opencv_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    for read in (read_image, read_pairs):
        (path := tmp_path / "x.png").write_bytes(b"x")
        with pytest.raises(VideoError, match=r"pip install 'motionspec\[video\]'"):
            read(path)
