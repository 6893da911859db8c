"""Folder layouts: one recogniser for all commands, and a refusal by name for what could be taken for something else."""

import json
import re

import pytest

from motionspec.cli.main import main
from motionspec.data.layouts import class_folders, open_data, recognise, unjudged, unlearned
from motionspec.data.lists import ListError


def touch(root, *names):
    for name in names:
        (path := root / name).parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def labelled(root):
    """part: the class and name of each clip."""
    return {
        part: [f"{videos.classes[label]}: {name}" for name, label in zip(videos.names, videos.labels, strict=True)]
        for part, videos in open_data(root).parts.items()
    }


def refusal(root):
    with pytest.raises(ListError) as found:
        open_data(root)
    text = str(found.value)
    assert text.startswith(f"{root}") and "\n" not in text
    return text.removeprefix(f"{root}")


# Parts


@pytest.mark.parametrize(("train", "test", "part"), [
    ("Train", "Test", "test"), ("TRAIN", "VAL", "val"), ("training", "Validation", "val"), ("Train", "TESTING", "test"),
])  # fmt: skip
def test_parts_in_any_case(tmp_path, train, test, part):
    touch(tmp_path, *(f"{folder}/{name}/1.mp4" for folder in (train, test) for name in ("wave", "jump")))
    both = ["jump: jump/1.mp4", "wave: wave/1.mp4"]
    assert labelled(tmp_path) == {"train": both, part: both}


@pytest.mark.parametrize(("files", "words"), [
    (["train/wave/1.mp4", "Train/wave/2.mp4"], ": Train and train are both the part train: expected one of them"),
    (["val/wave/1.mp4", "valid/wave/2.mp4"], ": val and valid are both the part val: expected one of them"),
    (["train/wave/1.mp4", "dev/wave/2.mp4"], ": train is a part and dev, which holds videos beside it, is none"),
    (["train/wave/1.mp4", "jump/2.mp4"], ": train is a part and jump, which holds videos beside it, is none"),
    (["Train/1.mp4", "Test/2.mp4"], ": Test and Train hold videos and no class folders"),
    (["train/1.mp4", "train/2.mp4"], ": train holds videos and no class folders"),
    (["train/wave/1.mp4", "train/2.mp4", "test/wave/3.mp4"], "/train: 2.mp4 lies beside its class folders"),
    (["train/wave/1.mp4", "test/2.mp4"], ": test holds videos and no class folders"),
    (["wave/train/1.mp4", "wave/test/2.mp4", "jump/train/1.mp4"], ": the part train lies in jump"),
    (["wave/0.mp4", "jump/0.mp4", "wave/Test/2.mp4"], ": the part Test lies in wave"),
    (["train/train/wave/1.mp4", "train/val/wave/1.mp4"], "/train: train and val"),
])  # fmt: skip
def test_parts_that_are_none(tmp_path, files, words):
    assert words in refusal(touch(tmp_path, *files))


def test_a_part_that_holds_no_video_is_none(tmp_path):
    touch(tmp_path, "Train/wave/1.mp4", "Train/jump/1.mp4", "train/notes.txt", "test/wave/notes.txt")
    assert [*labelled(tmp_path)] == ["train"]


def test_a_class_may_be_called_like_a_part(tmp_path):
    touch(tmp_path, "train/1.mp4", "car/1.mp4", "bus/1.mp4")
    assert open_data(tmp_path).parts["train"].classes == ("bus", "car", "train")


# Classes


@pytest.mark.parametrize("files", [
    ["person1/wave/1.mp4", "person1/jump/1.mp4", "person2/wave/1.mp4"],  # people above classes
    ["wave/session1/1.mp4", "jump/session1/1.mp4"],
    ["mine/wave/1.mp4", "mine/jump/1.mp4"],  # a folder too much, or one class
    ["train/person1/wave/1.mp4", "train/person2/jump/1.mp4", "test/person1/wave/1.mp4"],
    ["Training set/wave/1.mp4", "Test set/wave/1.mp4"],
])  # fmt: skip
def test_videos_two_folders_down_have_no_clear_class(tmp_path, files):
    text = refusal(touch(tmp_path, *files))
    top, inner = min(file.removeprefix("train/") for file in files if not file.startswith("test/")).split("/")[:2]
    assert f"{top}/{inner}" in text and f"which is the class, {top} or {inner}?" in text
    assert "expected CLASS/clip.mp4 or train/CLASS/clip.mp4" in text


def test_videos_at_two_depths(tmp_path):
    text = refusal(touch(tmp_path, "wave/1.mp4", "person1/jump/1.mp4"))
    assert "wave holds videos itself and person1/jump does" in text


def test_what_lies_below_a_class_belongs_to_it(tmp_path):
    touch(tmp_path, "wave/1.mp4", "wave/more/2.mp4", "jump/1.mp4")
    assert "wave: wave/more/2.mp4" in [clip for clips in labelled(tmp_path).values() for clip in clips]


@pytest.mark.parametrize("pair", [("Wave", "wave"), ("caf\u00e9", "cafe\u0301"), ("wave ", "wave")])
def test_classes_that_look_alike(tmp_path, pair):
    text = refusal(touch(tmp_path, f"train/{pair[0]}/1.mp4", "train/run/1.mp4", f"test/{pair[1]}/1.mp4"))
    assert "differ in case, blanks or accents only" in text


def test_names_of_any_alphabet_and_hidden_folders(tmp_path):
    touch(
        tmp_path,
        "走路/1.mp4",
        "прыжок/1.mp4",
        ".git/x.mp4",
        ".train/wave/x.mp4",
        "__MACOSX/走路/._1.mp4",
        "empty/a.txt",
    )
    assert open_data(tmp_path).parts["train"].classes == ("прыжок", "走路")


def test_links_are_followed(tmp_path):
    touch(tmp_path, "store/wave/1.mp4", "store/jump/2.mp4", "mine/notes.txt")
    (tmp_path / "mine" / "Train").symlink_to(tmp_path / "store")
    (tmp_path / "mine" / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "store" / "up").symlink_to(tmp_path / "mine")
    assert labelled(tmp_path / "mine") == {"train": ["jump: jump/2.mp4", "wave: wave/1.mp4"]}


@pytest.mark.parametrize(("files", "words"), [
    (["a.mp4", "b.mp4"], "2 videos lie in the folder itself, such as a.mp4: put each into a folder named after its"),
    (["wave/notes.txt"], "no data set recognised here or two folders below"),
    (["a/b/c/d/wave/1.mp4"], "no data set recognised here or two folders below"),
])  # fmt: skip
def test_nothing_to_recognise(tmp_path, files, words):
    assert words in refusal(touch(tmp_path, *files))


def test_several_data_sets_are_named(tmp_path):
    touch(tmp_path, "a/train/wave/1.mp4", "b/test/wave/1.mp4", "c/wave/1.mp4", "c/jump/1.mp4")
    assert [(found.name, found.root.name) for found in recognise(tmp_path)] == [
        ("class folders", "a"), ("class folders", "b"), ("class folders", "c"),
    ]  # fmt: skip
    assert "class folders in a, class folders in b and class folders in c: expected the folder of one" in refusal(
        tmp_path
    )
    (only,) = recognise(touch(tmp_path / "other", "deep/train/wave/1.mp4"))
    assert open_data(tmp_path / "other").root == only.root == tmp_path / "other" / "deep"


def test_two_kinds_of_lists_in_one_folder(tmp_path):
    (ucf := tmp_path / "ucf").mkdir()
    (ucf / "classInd.txt").write_text("1 Run\n2 Sit\n")
    (ucf / "trainlist01.txt").write_text("Run/a.avi 1\n")
    (hmdb := tmp_path / "hmdb").mkdir()
    (hmdb / "run_test_split1.txt").write_text("a.avi 1\n")
    assert "UCF-101 and HMDB-51 lie here: expected the folder of one" in refusal(tmp_path)
    (again := tmp_path / "ucf2").mkdir()
    (again / "classInd.txt").write_text("1 Run\n")
    (hmdb / "run_test_split1.txt").unlink()
    assert "classInd.txt lies in ucf and in ucf2: expected it once" in refusal(tmp_path)


# The commands


LAYOUTS = {
    "capitals": ["Train/wave/1.avi", "Train/jump/1.avi", "TEST/wave/1.avi", "TEST/jump/1.avi"],
    "classes": ["wave/1.avi", "wave/2.avi", "jump/1.avi"],
    "people": ["person1/wave/1.avi", "person1/jump/1.avi", "person2/wave/1.avi"],
    "one class": ["wave/1.avi", "wave/2.avi"],
    "one class in parts": ["train/wave/1.avi", "test/wave/2.avi"],
    "parts alone": ["train/1.avi", "test/1.avi"],
    "a folder too much": ["mine/wave/1.avi", "mine/jump/1.avi"],
    "divided below": ["mine/Train/wave/1.avi", "mine/Train/jump/1.avi"],
    "flat": ["1.avi", "2.avi"],
    "below and loose": ["wave/1.avi", "wave/more/2.avi", "jump/1.avi", "loose.avi"],
}


@pytest.mark.parametrize("files", LAYOUTS.values(), ids=LAYOUTS)
def test_data_check_and_train_agree(tmp_path, capsys, monkeypatch, files):
    """Both refuse in the same words, or both name the same parts, classes and counts."""
    pytest.importorskip("cv2")
    pytest.importorskip("torch")
    from clips import video

    from motionspec.cli import train

    monkeypatch.setattr(train, "fit", _stop)
    data = tmp_path / "data"
    for name in files:
        (path := data / name).parent.mkdir(parents=True, exist_ok=True)
        video(path, 20)
    found_file = tmp_path / "found.json"
    status = main(["data", "check", str(data), "--json", str(found_file)])
    checked = "".join(capsys.readouterr())
    options = ["--out", str(tmp_path / "run"), "--set", "view.size=32", "--set", "batch=1"]
    trained = main(["train", "own-videos", "--data", str(data), *options])
    out, err = capsys.readouterr()
    if "in no class folder" in checked:
        assert status == 1 and "such as " + str(data / "loose.avi") in out
    elif status:
        assert trained == 2 and out == "" and err.count("\n") == 1
        assert err.removeprefix("motionspec: ").removeprefix("--data ").strip() in checked
        return
    (report,) = json.loads(found_file.read_text())
    said = re.search(r"class folders in (.+): (.+); (\d+) classes: (.+)\n", out)
    assert said[1] == report["path"]
    parts = {part: facts["clips"] for part, facts in report["found"]["parts"].items()}
    assert said[2] == ", ".join(f"{part} {n}" for part, n in parts.items())
    assert said[4] == ", ".join(f"{k} {n}" for k, n in report["found"]["usable clips of each class"].items())


def _stop(*_, begins, **__):
    begins()
    raise ValueError("stop here")


def test_classes_with_nothing_to_learn_from_are_said(tmp_path):
    touch(tmp_path, "train/run/1.avi", "train/sit/1.avi", "test/run/2.avi", "test/wave/3.avi")
    assert unlearned(open_data(tmp_path).parts) == ["wave"]
    assert class_folders(tmp_path)["train"].classes == ("run", "sit", "wave")


def test_classes_with_nothing_to_judge_by_are_said(tmp_path):
    touch(tmp_path, "train/run/1.avi", "train/sit/1.avi", "test/run/2.avi", "val/sit/3.avi")
    assert unjudged(open_data(tmp_path).parts) == {"val": ["run"], "test": ["sit"]}
