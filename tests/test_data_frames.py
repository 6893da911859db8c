"""Frame folders: septuplets by their lists, and the boxes of ImageNet VID."""

import os
import pickle

import numpy as np
import pytest

from motionspec.data.frames import VID_CLASSES, FrameFolders, imagenet_vid, read_objects, septuplets
from motionspec.data.lists import ListError
from motionspec.data.source import NO_LABEL, FlowSource, Source
from motionspec.data.video import VideoError

cv2 = pytest.importorskip("cv2")


def picture(path, value, size=(6, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*size, 3), value, np.uint8))


def greys(source, i, frames):
    return [int(frame[0, 0, 0]) for frame in source.read(i, frames)]


# Vimeo-90K


@pytest.fixture
def vimeo(tmp_path):
    (tmp_path / "sep_trainlist.txt").write_text("00001/0002\n00001/0001\n")
    (tmp_path / "sep_testlist.txt").write_text("00002/0001\r\n\r\n")
    for name, value in (("00001/0001", 10), ("00001/0002", 20), ("00002/0001", 30)):
        for k in range(1, 8):
            picture(tmp_path / "sequences" / name / f"im{k}.png", value + k)
    return tmp_path


def test_septuplets(vimeo):
    parts = pickle.loads(pickle.dumps(septuplets(vimeo)))
    assert {part: source.names for part, source in parts.items()} == {
        "train": ("00001/0002", "00001/0001"),  # in the list's order
        "test": ("00002/0001",),
    }
    source = parts["train"]
    assert isinstance(source, Source) and not isinstance(source, FlowSource)
    assert (source.classes, source.labels) == ((), (NO_LABEL,) * 2) and source.length(0) == 7
    assert greys(source, 0, [6, 0, 0]) == [27, 21, 21] and greys(parts["test"], 0, [3]) == [34]
    assert source.read(0, [0, 1]).shape == (2, 6, 8, 3)


def test_septuplets_that_cannot_be_read(vimeo):
    source, folder = septuplets(vimeo)["train"], vimeo / "sequences" / "00001" / "0002"
    for frames in ([7], [-1], []):
        with pytest.raises(VideoError, match=r"from 0 to 6, the frames of .*00001/0002"):
            source.read(0, frames)
    picture(folder / "im2.png", 1, (6, 9))
    with pytest.raises(VideoError, match="00001/0002: its frames differ in size"):
        source.read(0, [0, 1])
    (folder / "im2.png").unlink()
    for use in (source.length, lambda i: source.read(i, [1])):
        with pytest.raises(VideoError, match=r"im2.png: [Nn]o such file"):
            use(0)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    with pytest.raises(VideoError, match="00001/0002: no such folder"):
        source.length(0)
    for part in ("train", "test"):
        (vimeo / f"sep_{part}list.txt").unlink()
    with pytest.raises(ListError, match=r"no sep_trainlist.txt and no sep_testlist.txt"):
        septuplets(vimeo)


def test_real_septuplet(realdata):
    (source,) = septuplets(realdata / "vimeo90k" / "vimeo_septuplet").values()
    assert len(source) == 7824
    i = source.names.index("00002/0004")
    frames = source.read(i, range(7)).astype(float)
    assert frames.shape == (7, 256, 448, 3)
    near = [np.abs(frames[k] - frames[k + 1]).mean() for k in range(6)]
    assert max(near) < np.abs(frames[0] - frames[6]).mean()  # the frames are in order


# ImageNet VID


def xml(*objects, size=(8, 6)):
    """objects: (name, track, (xmin, ymin, xmax, ymax), occluded, generated)."""
    text = "".join(
        f"<object><trackid>{track}</trackid><name>{name}</name><bndbox><xmax>{box[2]}</xmax><xmin>{box[0]}</xmin>"
        f"<ymax>{box[3]}</ymax><ymin>{box[1]}</ymin></bndbox><occluded>{occluded}</occluded>"
        f"<generated>{generated}</generated></object>"
        for name, track, box, occluded, generated in objects
    )
    return f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{text}</annotation>"


@pytest.fixture
def vid(tmp_path):
    for part, snippet in (("train", "ILSVRC2015_VID_train_0000/a"), ("val", "b"), ("val", "c")):
        for t in range(12):
            picture(tmp_path / "Data" / "VID" / part / snippet / f"{t:06}.JPEG", 10 * t)
    folder = tmp_path / "Annotations" / "VID" / "val" / "b"
    folder.mkdir(parents=True)
    (folder / "000000.xml").write_text(xml())
    sheep, zebra = ("n02411705", 3, (1, 2, 5, 4), 1, 0), ("n02391049", 0, (-1, 0, 8, 9), 0, 1)
    (folder / "000011.xml").write_text(xml(sheep, zebra))
    return tmp_path


def test_imagenet_vid(vid):
    parts = pickle.loads(pickle.dumps(imagenet_vid(vid)))
    assert {part: source.names for part, source in parts.items()} == {
        "train": ("ILSVRC2015_VID_train_0000/a",),
        "val": ("b", "c"),
    }
    source = parts["val"]
    assert source.length(0) == 12 and greys(source, 0, [11, 2]) == [110, 20]
    assert source.objects(0, 0).boxes.shape == (0, 4) and len(source.objects(0, 0).classes) == 0
    found = source.objects(0, 11)
    np.testing.assert_array_equal(found.boxes, [[1, 2, 5, 4], [0, 0, 7, 5]])  # the second is clipped to the image
    assert [source.classes[k] for k in found.classes] == ["sheep", "zebra"]
    assert (found.tracks.tolist(), found.occluded.tolist()) == ([3, 0], [True, False])
    assert found.generated.tolist() == [False, True]
    with pytest.raises(VideoError, match=r"c/000000.xml: No such file"):
        source.objects(1, 0)
    with pytest.raises(VideoError, match="t: expected a frame from 0 to 11 of b, got 12"):
        source.objects(0, 12)


@pytest.mark.parametrize(("text", "words"), [
    ("", "no element found"),
    (xml(("n02411705", 0, (1, 1, 2, 2), 0, 0))[:-40], "unclosed token|mismatched|no element"),
    ("<annotation/>", "no size/width in <annotation>"),
    (xml(("n00000001", 0, (1, 1, 2, 2), 0, 0)), "n00000001 is none of the 30 classes"),
    (xml(("n02411705", 0, (3, 1, 2, 2), 0, 0)), "box 3, 1, 2, 2 is inside out"),
    (xml(("n02411705", 0, (9, 1, 12, 2), 0, 0)), "outside the image"),
    (xml(("n02411705", "x", (1, 1, 2, 2), 0, 0)), "invalid literal"),
    (xml(("n02411705", 0, (1, 1, "nan", 2), 0, 0)), "not an annotation"),
])  # fmt: skip
def test_annotations_that_are_wrong(tmp_path, text, words):
    (path := tmp_path / "x.xml").write_text(text)
    with pytest.raises(VideoError, match=words) as caught:
        read_objects(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_nothing_there(tmp_path):
    with pytest.raises(ListError, match="no frames in Data/VID/train, val or test"):
        imagenet_vid(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(VideoError, match="a: no images in it"):
        FrameFolders(tmp_path, ("a",)).length(0)


def test_the_classes_are_30_by_name():
    assert len(VID_CLASSES) == 30 and [*VID_CLASSES.values()] == sorted(VID_CLASSES.values(), key=lambda n: n[:3])


def test_real_imagenet_vid(realdata):
    root = realdata / "imagenet_vid" / "ILSVRC2015"
    (source,) = imagenet_vid(root).values()
    assert source.names == ("ILSVRC2015_val_00007010",) and source.length(0) == 30
    assert source.read(0, [29, 0]).shape == (2, 720, 1280, 3)
    with pytest.raises(VideoError, match="No such file"):  # the boxes here are those of other snippets
        source.objects(0, 0)
    found = {path.parent.name: read_objects(path) for path in (root / "Annotations" / "VID").glob("**/*.xml")}
    assert {name: [source.classes[k] for k in objects.classes] for name, objects in found.items()} == {
        "ILSVRC2015_train_00060013": ["sheep", "sheep"],
        "ILSVRC2015_train_00005009": ["dog"],
        "ILSVRC2015_val_00030000": ["giant panda", "giant panda"],
    }
    np.testing.assert_array_equal(found["ILSVRC2015_train_00005009"].boxes, [[675, 115, 976, 451]])
    assert found["ILSVRC2015_val_00030000"].tracks.tolist() == [0, 1]
    assert found["ILSVRC2015_val_00030000"].occluded.all()


@pytest.mark.parametrize("content", [
    '<?xml version="1.0" encoding="foo"?><annotation/>',
    xml(("n02411705", "9" * 30, (1, 1, 2, 2), 0, 0)),
])  # fmt: skip
def test_whatever_a_parser_raises_is_a_video_error(tmp_path, content):
    (path := tmp_path / "a.xml").write_text(content)
    with pytest.raises(VideoError, match=r"a.xml: not an annotation of ImageNet VID, or damaged"):
        read_objects(path)


def test_a_pipe_is_no_annotation(tmp_path):
    os.mkfifo(tmp_path / "a.xml")
    with pytest.raises(VideoError, match=r"a.xml: a pipe or device"):
        read_objects(tmp_path / "a.xml")
