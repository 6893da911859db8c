"""`motionspec data check`: what it recognises, what it counts, and one line for each thing that is wrong."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from clips import cut, video

from motionspec.cli import data
from motionspec.cli.main import main
from motionspec.data.video import Info
from motionspec.flow import write_flo

cv2 = pytest.importorskip("cv2")


@pytest.fixture
def check(capsys, tmp_path):
    """Runs the command: (status, text, what --json wrote)."""

    def run(path):
        file = tmp_path / "found.json"
        status = main(["data", "check", str(path), "--json", str(file)])
        out, err = capsys.readouterr()
        assert err == ""
        return status, out, json.loads(file.read_text())

    return run


@pytest.fixture
def good(tmp_path_factory):
    """A good video of 30 frames, to be copied."""
    return video(tmp_path_factory.mktemp("good") / "x.avi", 30)


@pytest.fixture
def folders(tmp_path, good):
    """Two classes, three videos."""
    root = tmp_path / "mine"
    for name in ("run/1.avi", "run/2.avi", "sit/1.avi"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(good, root / name)
    return root


def problems(found):
    (report,) = found
    return report["problems"]


def test_videos_that_lack_more_frames_than_the_others_are_listed_with_both_numbers():
    def said(*missing):
        return data._about_videos({Path(f"{k}.avi"): Info(99 - n, 99, 48, 64) for k, n in enumerate(missing)})

    assert "declared" not in said(0, 0, 0)
    whole = said(1, 1, 1)  # as HMDB-51's
    assert "3 of 3 videos decode to a frame fewer" in whole and "0.avi" not in whole
    assert said(0, 2, 0, 1).endswith("more than is usual here, as damage does:\n  1.avi: 97 of 99\n  3.avi: 98 of 99")
    assert said(1, 3, 1).endswith("as damage does:\n  1.avi: 96 of 99")
    many = said(*[0] * 12, *[1] * 11)
    assert many.endswith("\n  21.avi: 98 of 99\n  and 1 more; --json FILE has them all")


def test_a_broken_video_is_named_by_its_whole_path_in_the_folder(check, folders, tmp_path, monkeypatch):
    (folders / "run").rename(folders / "runs")
    (folders / "runs" / "1.avi").write_bytes(b"")
    monkeypatch.chdir(folders.rename(tmp_path / "s").parent)
    status, text, _ = check("s")
    assert status == 1 and "\n  runs/1.avi: the file is empty" in text


def test_a_link_to_a_folder_above_adds_no_video(check, folders):
    (folders / "run" / "more").symlink_to(folders / "sit")  # two classes share it
    (folders / "sit" / "up").symlink_to(folders)
    (folders / "sit" / "here").symlink_to(".")
    for name, other in (("one", "two"), ("two", "one")):  # each the other's way up
        (folders / "run" / name).mkdir()
        (folders / "run" / name / "across").symlink_to(folders / "run" / other)
    (folders / "run" / "one" / "1.avi").symlink_to(folders / "run" / "1.avi")
    status, text, _ = check(folders)
    assert status == 0 and "run 5, sit 1" in text


def test_good_class_folders(check, folders):
    status, text, found = check(folders)
    assert status == 0 and problems(found) == {} and text.startswith(f"class folders in {folders}\n")
    assert text.endswith("all good\n")
    lines = [line.split() for line in text.splitlines()]
    assert ["train", "2", "2", "2"] in lines and ["test", "1", "1", "1"] in lines
    assert "frames of a video: 30; 90 in all" in text and "resolutions: 64 x 48 (3)" in text
    assert "classes: 2; usable clips of one: 1 to 2, median 1.5\n  run 2, sit 1" in text
    assert found[0]["found"]["usable clips of each class"] == {"run": 2, "sit": 1}
    assert found[0]["found"]["videos"][str(folders / "sit" / "1.avi")] == {
        "frames": 30, "declared": 30, "height": 48, "width": 64, "estimated": 0,
    }  # fmt: skip


def test_each_broken_video_is_one_line(check, folders, good, tmp_path):
    run = folders / "run"
    (run / "empty.avi").touch()
    cut(good, 0.6).replace(run / "short.avi")
    (run / "text.mp4").write_text("Dear video,\n" * 50)
    shutil.copy(good, run / "renamed.dat")
    video(run / "one.avi", 1)
    (folders / "nothing").mkdir()
    (run / "gone.avi").symlink_to(tmp_path / "nowhere.avi")
    status, text, found = check(folders)
    assert status == 1 and text.endswith("7 problems\n")
    wrong = problems(found)
    empty, short, text_file = wrong["damaged"]
    assert empty == f"{run}/empty.avi: the file is empty; fetch it again"
    assert re.fullmatch(
        rf"{run}/short.avi: truncated: only \d+ of the 30 declared frames decode; fetch it again", short
    )
    assert text_file.startswith(f"{run}/text.mp4: not a video that OpenCV (FFmpeg) can open, or truncated")
    assert wrong["missing"] == [f"{run}/gone.avi: no such file, named in train"]
    assert wrong["one frame only"] == [f"{run}/one.avi: a picture, or cut short"]
    assert wrong["not called like a video"] == [
        f"{run}/renamed.dat: read only if it ends in .avi, .mp4, ...; rename it or take it away"
    ]
    assert wrong["folder without videos"] == [f"{folders}/nothing: no class"]
    for lines in wrong.values():
        for line in lines:
            assert text.count(line.replace(f"{folders}/", "")) == 1 and "\n" not in line


def test_lists(check, tmp_path, good):
    """Of UCF-101: an entry without file, one of another name, one in training and test, one twice, and a spare file."""
    root = tmp_path / "ucf"
    for name in ("Swim/a.avi", "Swim/b.mp4", "Golf/c.avi", "Golf/spare.avi"):
        (root / "UCF-101" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(good, root / "UCF-101" / name)
    (lists := root / "lists").mkdir()
    (lists / "classInd.txt").write_text("1 Swim\n2 Golf\n")
    (lists / "trainlist01.txt").write_text("Swim/a.avi 1\nSwim/b.avi 1\nGolf/c.avi 2\nGolf/c.avi 2\n")
    (lists / "testlist01.txt").write_text("Golf/c.avi\nGolf/gone.avi\n")
    status, text, found = check(root)
    assert status == 1 and text.startswith("UCF-101 in ")
    videos = root / "UCF-101"
    assert problems(found) == {
        "twice in a list": ["Golf/c.avi: in train1"],
        "in training and test": [f"{videos}/Golf/c.avi: in train1 and test1"],
        "missing": [
            f"{videos}/Swim/b.avi: no such file, named in train1; there is b.mp4: rename it",
            f"{videos}/Golf/gone.avi: no such file, named in test1",
        ],
    }
    lines = [line.split() for line in text.splitlines()]
    assert ["train1", "4", "3", "2"] in lines and ["test1", "2", "1", "1"] in lines
    assert "videos in no list: 2, such as UCF-101/Golf/spare.avi" in text
    (lists / "testlist01.txt").write_text("Chess/c.avi\n")
    status, text, found = check(root)
    assert status == 1 and [*problems(found)] == ["not read"] and "testlist01.txt:1: no class number" in text


def test_many_problems_are_not_all_printed(check, folders):
    for k in range(15):
        (folders / "run" / f"e{k:02}.avi").touch()
    status, text, found = check(folders)
    assert (status, len(problems(found)["damaged"])) == (1, 15)
    assert text.count("the file is empty") == data.SHOWN
    assert "... and 5 more; --json FILE has them all" in text and "15 problems" in text


def test_flow_pairs(check, tmp_path):
    root = tmp_path / "chairs"
    root.mkdir()
    for n in range(5):
        for k in (1, 2):
            cv2.imwrite(str(root / f"{n:05}_img{k}.ppm"), np.full((6, 8, 3), n, np.uint8))
        flow = np.full((2, 6, 8), [[[3.0]], [[4.0]]])
        flow[:, 0] = np.nan
        write_flo(root / f"{n:05}_flow.flo", flow)
    status, text, found = check(root)
    assert status == 0 and "pairs with flow: 5 of 5 usable\n  resolutions: 8 x 6 (5)" in text
    assert "known flow: 83.3% of the pixels, up to 5.0 px" in text
    (root / "00000_flow.flo").write_bytes((root / "00001_flow.flo").read_bytes()[:-5])
    (root / "00001_img2.ppm").unlink()
    (root / "00002_img1.ppm").write_bytes(b"")
    cv2.imwrite(str(root / "00003_img1.ppm"), np.zeros((6, 9, 3), np.uint8))
    status, text, found = check(root)
    assert status == 1 and "pairs with flow: 1 of 5 usable" in text
    assert problems(found)["damaged or missing"] == [
        f"{root}/00000_flow.flo: truncated: 8 x 6 pixels take 396 bytes and the file has 391; fetch or write it again",
        f"{root}/00001_img2.ppm: No such file or directory; give the path of a file that can be read",
        f"{root}/00002_img1.ppm: the file is empty; fetch it again",
        f"{root}/00003_flow.flo: not of one size: 00003_img1.ppm 9 x 6, 00003_img2.ppm 8 x 6, 00003_flow.flo 8 x 6",
    ]


def test_septuplets(check, tmp_path):
    root = tmp_path / "vimeo"
    for name in ("00001/0001", "00001/0002"):
        for k in range(1, 8):
            (path := root / "sequences" / name / f"im{k}.png").parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.random.default_rng(k).integers(0, 256, (6, 8, 3), np.uint8))
    (root / "sep_testlist.txt").write_text("00001/0001\n00001/0002\n")
    status, text, _ = check(root)
    assert status == 0 and "only the list of test is here" in text
    assert "test: 2 of 2 frame folders usable; frames that decode: 14\n  resolutions: 8 x 6 (14)" in text
    (root / "sep_testlist.txt").write_text("00001/0001\n00001/0002\n00009/0001\n")
    broken = root / "sequences" / "00001" / "0002"
    (broken / "im1.png").unlink()
    (broken / "im2.png").write_bytes((broken / "im2.png").read_bytes()[:60])
    cv2.imwrite(str(broken / "im3.png"), np.zeros((6, 9, 3), np.uint8))
    status, text, found = check(root)
    assert status == 1 and "test: 1 of 3 frame folders usable; frames that decode: 12" in text
    assert problems(found) == {
        "missing": [f"{root}/sequences/00009/0001: no such folder, named in test"],
        "damaged or missing": [
            f"{broken}/im1.png: No such file or directory; give the path of a file that can be read",
            f"{broken}/im2.png: not an image OpenCV can decode, or damaged; convert it to PNG or fetch it again",
        ],
        "not of one size": [f"{broken}: 8 x 6 (1), 9 x 6 (1)"],
    }


def test_imagenet_vid(check, tmp_path):
    root = tmp_path / "ILSVRC2015"
    xml = "<annotation><size><width>8</width><height>6</height></size>{}</annotation>"
    sheep = (
        "<object><trackid>0</trackid><name>n02411705</name><bndbox><xmax>5</xmax><xmin>1</xmin><ymax>4</ymax>"
        "<ymin>1</ymin></bndbox><occluded>0</occluded><generated>0</generated></object>"
    )
    for kind, snippet, suffix in (("Data", "a", "JPEG"), ("Annotations", "a", "xml"), ("Annotations", "b", "xml")):
        (folder := root / kind / "VID" / "val" / snippet).mkdir(parents=True)
        for t in range(3):
            if suffix == "xml":
                (folder / f"{t:06}.xml").write_text(xml.format(sheep * t))
            else:
                cv2.imwrite(str(folder / f"{t:06}.JPEG"), np.zeros((6, 8, 3), np.uint8))
    shutil.rmtree(root / "Annotations" / "VID" / "val" / "b")
    shutil.copytree(root / "Data" / "VID" / "val" / "a", root / "Data" / "VID" / "test" / "c")  # without boxes
    (sets := root / "ImageSets" / "VID").mkdir(parents=True)
    (sets / "val.txt").write_text("a/000000 1\na/000001 2\na/000002 3\n")
    (sets / "train_1.txt").write_text("ILSVRC2015_VID_train_0000/x 1\n")
    (root / "ImageSets" / "VID_val_videos.txt").write_text("val/a 1 0 3\n")
    status, text, found = check(root)
    assert (status, problems(found)) == (0, {})
    assert "val: boxes by class: sheep 3" in text and "val.txt: frames of 1 of 1 snippets are there" in text
    assert "train_1.txt: frames of 0 of 1 snippets are there" in text
    boxes = root / "Annotations" / "VID" / "val"
    (boxes / "a" / "000000.xml").unlink()
    (boxes / "a" / "000001.xml").write_text("<annotation>")
    (boxes / "b").mkdir()
    (boxes / "b" / "000000.xml").write_text(xml.format(""))
    (root / "ImageSets" / "VID_val_videos.txt").write_text("val/a 1 0 4\nval/c 5 0 4\n")
    status, text, found = check(root)
    assert status == 1
    wrong = problems(found)
    assert wrong.pop("damaged or missing")[0].startswith(f"{boxes}/a/000001.xml: not an annotation of ImageNet VID")
    assert wrong == {
        "frames without boxes": [f"{boxes}/a: 1 XML files"],
        "boxes without frames": [f"{boxes}/b: 1 XML files"],
        "missing": ["val/c: no frames, named in VID_val_videos.txt"],
        "fewer or more frames than listed": ["val/a: 3 frames, and VID_val_videos.txt says 4"],
    }


def test_it_cannot_run(tmp_path, capsys, folders):
    for arguments, words in {
        (str(tmp_path / "none"),): "none: not a folder",
        (str(folders / "run" / "1.avi"),): "1.avi: not a folder",
        (str(folders / "run"),): "run: 2 videos lie in the folder itself, such as 1.avi: put each into a folder named",
        (str(folders), "--json", str(tmp_path)): "expected the name of a file in a folder that exists",
        (str(folders), "--json", str(tmp_path / "no" / "x")): "expected the name of a file in a folder that exists",
    }.items():
        assert main(["data", "check", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("motionspec: ") and words in err and err.count("\n") == 1


def test_kinetics(check, tmp_path, good):
    root = tmp_path / "kinetics"
    (root / "clips").mkdir(parents=True)
    shutil.copy(good, root / "clips" / "aaaaaaaaaaa_000003_000013.avi")
    rows = "label,youtube_id,time_start,time_end,split\nabseiling,aaaaaaaaaaa,3,13,x\n"
    (root / "val.csv").write_text(rows)
    (root / "train.csv").write_text(rows + "arm wrestling,bbbbbbbbbbb,1,11,train\n")
    status, text, found = check(root)
    assert status == 1 and "usable clips of one: 0 to 1, median 0.5; classes without: 1\n" in text
    assert problems(found) == {
        "in training and test": [f"{root}/clips/aaaaaaaaaaa_000003_000013.avi: in train and val"],
        "missing": [f"{root}/train/arm wrestling/bbbbbbbbbbb_000001_000011.mp4: no such file, named in train"],
    }


def test_without_opencv(folders, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    assert main(["data", "check", str(folders)]) == 2
    assert "pip install 'motionspec[video]'" in capsys.readouterr().err


def test_a_name_that_is_not_utf8(check, folders):
    try:
        (folders / "run" / "\udcff.avi").write_bytes(b"x")
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    status, text, _ = check(folders)
    assert status == 1 and "OpenCV needs a path in UTF-8" in text


def test_many_files_in_several_processes():
    items = ["a" * n for n in range(1, data.POOL + 1)]
    calls = []
    assert [*data.scan(len, items, "x", lambda *call: calls.append(call))] == [*range(1, data.POOL + 1)]
    assert calls == [("x", n, data.POOL) for n in range(data.POOL + 1)]
    with pytest.raises(data.CannotRun, match="decoding crashed at 0 or soon after; take that file away"):
        list(data.scan(os._exit, [0] * data.POOL, "x", lambda *_: None))


@pytest.mark.parametrize(("folder", "name", "usable", "kinds"), [
    ("hmdb51", "HMDB-51", "test3 1530 2 51", {"missing"}),
    ("flow/kitti2015", "KITTI", "pairs with flow_occ: 1 of 1 usable", set()),
    ("flow/middlebury", "Middlebury", "pairs with flow: 3 of 3 usable", set()),
    ("flow/flyingchairs", "FlyingChairs", "pairs with flow: 1 of 1 usable", set()),
    ("vimeo90k", "Vimeo-90K septuplets", "test: 1 of 7824 frame folders usable", {"missing"}),
])  # fmt: skip
def test_real_data(check, realdata, folder, name, usable, kinds):
    status, text, found = check(realdata / folder)
    assert (status, {*problems(found)}) == (int(bool(kinds)), kinds)
    assert found[0]["name"] == name and usable in " ".join(text.split())
    if name == "HMDB-51":
        assert "5 of 5 videos decode to a frame fewer than declared" in text


def test_all_data_sets_in_a_folder(check, folders, tmp_path):
    shutil.copytree(folders, tmp_path / "other" / "deeper")  # not looked into: there is a data set above
    shutil.copytree(folders, tmp_path / "1" / "2" / "3" / "too deep")
    (tmp_path / "other" / "sep_testlist.txt").touch()
    shutil.copytree(folders, tmp_path / "last" / "train")
    _, _, found = check(tmp_path)
    assert [(r["name"], r["path"]) for r in found] == [
        ("class folders", str(tmp_path / "last")),
        ("class folders", str(folders)),
        ("Vimeo-90K septuplets", str(tmp_path / "other")),
    ]
