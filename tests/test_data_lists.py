"""List files and class folders: parts, labels and names of the official files, and of miniature ones of each form."""

import os
import pickle

import pytest
from clips import number, video

from motionspec.data.frames import septuplets
from motionspec.data.layouts import class_folders, open_data, open_part, open_videos
from motionspec.data.lists import ListError, hmdb51, kinetics, ucf101
from motionspec.data.source import Source


def write(path, content=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode())
    return path


def touch(root, *names):
    for name in names:
        write(root / name)
    return root


def clips(videos):
    """name: class of each clip, and no name twice."""
    found = {name: videos.classes[label] for name, label in zip(videos.names, videos.labels, strict=True)}
    assert len(found) == len(videos)
    return found


# UCF-101


@pytest.fixture
def ucf(tmp_path):
    """Classes in another order than by name, CRLF, a byte order mark, a test list without classes, one split."""
    write(tmp_path / "lists" / "classInd.txt", "1 Swim\r\n2 Archery\r\n")
    write(tmp_path / "lists" / "trainlist01.txt", "\ufeffSwim/v_a.avi 1\r\nArchery/v b.avi 2\r\n")
    write(tmp_path / "lists" / "testlist01.txt", "Archery/v_c.avi\r\n\r\n")
    return touch(tmp_path, "UCF/Swim/v_a.avi", "UCF/Archery/v b.avi")


def test_ucf101(ucf):
    parts = ucf101(ucf)
    assert [*parts] == ["train1", "test1"]
    assert parts["train1"].classes == ("Swim", "Archery") == parts["test1"].classes
    assert clips(parts["train1"]) == {"Swim/v_a.avi": "Swim", "Archery/v b.avi": "Archery"}
    assert clips(parts["test1"]) == {"Archery/v_c.avi": "Archery"}  # though there is no such file
    assert {p.root for p in parts.values()} == {ucf / "UCF"}
    assert open_data(ucf).name == "UCF-101" and open_videos(ucf, train=False).names == parts["test1"].names
    with pytest.raises(ListError, match="has train1, test1 and no train in split 2"):
        open_videos(ucf, split=2)


def test_ucf101_lists_and_classes_in_one_folder(ucf):
    for path in (*(ucf / "lists").iterdir(), *(ucf / "UCF").iterdir()):
        path.rename(ucf / path.name)
    parts = ucf101(ucf)
    assert parts["train1"].root == ucf and clips(parts["train1"])["Swim/v_a.avi"] == "Swim"


@pytest.mark.parametrize(("file", "content", "words"), [
    ("classInd.txt", "1 Swim\n1 Archery", "classInd.txt:2: expected a number of its own and the name of a class"),
    ("classInd.txt", "Swim\nArchery", "classInd.txt:1: expected a number of its own"),
    ("classInd.txt", "0 Swim\n1 Archery", "classInd.txt: the classes should have the numbers 1 to 2"),
    ("trainlist01.txt", "Swim/a.avi 1\nSwim/b.avi 3", "trainlist01.txt:2: class 3 of 1 to 2"),
    ("trainlist01.txt", "Swim/a.avi 0", "trainlist01.txt:1: class 0 of 1 to 2"),
    ("trainlist01.txt", "Swim/a.avi 2", "trainlist01.txt:1: class 2 is Archery, and the folder is Swim"),
    ("testlist01.txt", "Golf/a.avi", "testlist01.txt:1: no class number, and no class .* called 'Golf'"),
    ("testlist01.txt", "\n", "testlist01.txt: no clip in it"),
])  # fmt: skip
def test_ucf101_lists_that_are_wrong(ucf, file, content, words):
    write(ucf / "lists" / file, content)
    with pytest.raises(ListError, match=words):
        ucf101(ucf)


def test_a_list_that_is_no_text(ucf):
    (ucf / "lists" / "testlist01.txt").write_bytes(b"Swim/\xff.avi")
    with pytest.raises(ListError, match=r"testlist01.txt:1: not text in UTF-8"):
        ucf101(ucf)
    for file in ("trainlist01.txt", "testlist01.txt"):
        (ucf / "lists" / file).unlink()
    with pytest.raises(ListError, match=r"classInd.txt is here, but no trainlist01.txt or testlist01.txt"):
        ucf101(ucf)


def test_official_lists_of_ucf101(realdata):
    parts = ucf101(realdata / "ucf101")
    assert {part: len(videos) for part, videos in parts.items()} == {
        "train1": 9537, "test1": 3783, "train2": 9586, "test2": 3734, "train3": 9624, "test3": 3696,
    }  # fmt: skip
    everything = clips(parts["train1"]) | clips(parts["test1"])
    assert len(everything) == 13320 and len(parts["train1"].classes) == 101
    for split in "123":
        train, test = clips(parts[f"train{split}"]), clips(parts[f"test{split}"])
        assert train | test == everything and not {*train} & {*test}
        assert {*train.values()} == {*test.values()} == {*parts["train1"].classes}
    assert all(name.startswith(f"{label}/v_") for name, label in everything.items() if label != "HandstandPushups")
    clip = "SoccerJuggling/v_SoccerJuggling_g23_c01.avi"
    assert parts["train1"].classes[0] == "ApplyEyeMakeup" and clip in clips(parts["train1"])
    assert parts["train1"].length(parts["train1"].names.index(clip)) == 240


# HMDB-51


@pytest.fixture
def hmdb(tmp_path):
    for split, uses in (("1", "102"), ("2", "210")):
        lines = (f"{name} {use} \n" for name, use in zip(("a (1).avi", "b!.avi", "c+.avi"), uses, strict=True))
        write(tmp_path / "splits" / f"wave_test_split{split}.txt", "".join(lines))
        write(tmp_path / "splits" / f"climb_stairs_test_split{split}.txt", f"d.avi {uses[0]} \n")
    return touch(tmp_path, "clips/wave/a (1).avi", "clips/climb_stairs/d.avi")


def test_hmdb51(hmdb):
    parts = hmdb51(hmdb)
    assert {part: clips(videos) for part, videos in parts.items()} == {
        "train1": {"climb_stairs/d.avi": "climb_stairs", "wave/a (1).avi": "wave"},
        "test1": {"wave/c+.avi": "wave"},
        "train2": {"wave/b!.avi": "wave"},
        "test2": {"climb_stairs/d.avi": "climb_stairs", "wave/a (1).avi": "wave"},
    }
    assert {videos.root for videos in parts.values()} == {hmdb / "clips"} and open_data(hmdb).name == "HMDB-51"


@pytest.mark.parametrize("line", ["a.avi 3 ", "a.avi", "1"])
def test_hmdb51_lines_that_are_wrong(hmdb, line):
    write(hmdb / "splits" / "wave_test_split1.txt", f"b.avi 1 \n{line}\n")
    with pytest.raises(ListError, match=r"wave_test_split1.txt:2: expected a file and 0 \(unused\), 1 \(train\) or 2"):
        hmdb51(hmdb)


def test_official_lists_of_hmdb51(realdata):
    parts = hmdb51(realdata / "hmdb51")
    assert {part: len(videos) for part, videos in parts.items()} == {
        f"{part}{split}": n for split in "123" for part, n in (("train", 3570), ("test", 1530))
    }
    for part, videos in parts.items():
        assert len(videos.classes) == 51
        assert {videos.labels.count(k) for k in range(51)} == {70 if part.startswith("train") else 30}
    for name, use in {
        "cartwheel/Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi": ["train1", "train2", "test3"],
        "wave/SchoolRulesHowTheyHelpUs_wave_f_nm_np1_ba_med_0.avi": ["train3"],
        "golf/Golf_Tips_-_Hit_The_Driver_300+_Yards!!!_golf_f_nm_np1_fr_med_0.avi": ["train1", "train2", "test3"],
    }.items():
        assert [part for part, videos in parts.items() if name in videos.names] == use
        assert (parts["train3"].root / name).is_file()


# Kinetics


@pytest.fixture
def k400(tmp_path):
    header = "label,youtube_id,time_start,time_end,split,is_cc\n"
    write(
        tmp_path / "annotations" / "train.csv",
        header + 'abseiling,-3B32lodo2M,59,69,train,0\n"baking, cookies",aaaaaaaaaaa,3,13,train,0\n',
    )
    write(tmp_path / "annotations" / "validate.csv", "\ufeff" + header + "abseiling,bbbbbbbbbbb,100,110,val,0\n")
    write(tmp_path / "annotations" / "test.csv", "youtube_id,time_start,time_end,split\nccccccccccc,1,11,test\n")
    return touch(tmp_path, "train/abseiling/-3B32lodo2M_000059_000069.mp4", "val/bbbbbbbbbbb.webm")


def test_kinetics(k400):
    parts = kinetics(k400)
    assert {part: clips(videos) for part, videos in parts.items()} == {
        "train": {
            "train/abseiling/-3B32lodo2M_000059_000069.mp4": "abseiling",
            "train/baking, cookies/aaaaaaaaaaa_000003_000013.mp4": "baking, cookies",  # where it should be
        },
        "val": {"val/bbbbbbbbbbb.webm": "abseiling"},
    }
    assert open_data(k400).name == "Kinetics" and open_videos(k400, train=False).names == parts["val"].names


def test_kinetics_rows_that_are_wrong(k400):
    path = k400 / "annotations" / "train.csv"
    write(path, path.read_text() + "abseiling,ddddddddddd,x,10,train,0\n")
    with pytest.raises(ListError, match=r"train.csv:4: expected youtube_id, and whole seconds time_start, time_end"):
        kinetics(k400)
    path.unlink()
    (k400 / "annotations" / "validate.csv").unlink()
    with pytest.raises(ListError, match="have no column label"):
        kinetics(k400)


# Class folders


def test_class_folders(tmp_path):
    touch(
        tmp_path, "run/1.avi", "run/2.MP4", "run/deep/3.mkv", "run/notes.txt", "run/.hidden.avi", "README", ".git/x.avi"
    )
    touch(tmp_path, *(f"walk/{n:02}.avi" for n in range(12)), "sit/1.avi", "empty/none.txt")
    parts = class_folders(tmp_path)
    assert {*parts["train"].classes} == {"run", "sit", "walk"}
    assert clips(parts["train"]) == {
        "run/1.avi": "run", "run/2.MP4": "run", "sit/1.avi": "sit", **{f"walk/{n:02}.avi": "walk" for n in range(10)},
    }  # fmt: skip
    assert clips(parts["test"]) == {"run/deep/3.mkv": "run", "walk/10.avi": "walk", "walk/11.avi": "walk"}
    assert open_data(tmp_path).name == "class folders"


def test_class_folders_in_parts(tmp_path):
    touch(tmp_path, "training/run/1.avi", "training/sit/2.avi", "validation/sit/3.avi", "validation/wave/4.avi")
    parts = open_data(tmp_path).parts
    assert {part: clips(videos) for part, videos in parts.items()} == {
        "train": {"run/1.avi": "run", "sit/2.avi": "sit"},
        "val": {"sit/3.avi": "sit", "wave/4.avi": "wave"},
    }
    assert parts["train"].classes == parts["val"].classes == ("run", "sit", "wave")
    touch(tmp_path, "test/run/5.avi")
    assert open_videos(tmp_path, train=False).root == tmp_path / "validation"
    assert [open_part(tmp_path, wanted)[0] for wanted in (["test", "val"], ["dev", "val"])] == ["test", "val"]


def test_a_class_called_train(tmp_path):
    parts = class_folders(touch(tmp_path, "train/1.avi", "train/2.avi", "car/1.avi"))
    assert parts["train"].classes == ("car", "train") and clips(parts["test"]) == {"train/2.avi": "train"}


@pytest.mark.parametrize("folder", ["test", "validation"])
def test_class_folders_of_what_is_judged_alone(tmp_path, folder):
    touch(tmp_path, f"{folder}/run/1.avi", f"{folder}/sit/2.avi", "lists/notes.txt")
    (parts,) = open_data(tmp_path).parts.items()
    assert parts[0] == folder[: 4 if folder == "test" else 3] and parts[1].classes == ("run", "sit")
    touch(tmp_path, "walk/3.avi")  # then it may be a class like others, or walk a part of another name
    with pytest.raises(ListError, match=f"{folder} is a part and walk, which holds videos beside it, is none"):
        class_folders(tmp_path)


def test_one_clip_a_class_is_nothing_to_test_on(tmp_path):
    touch(tmp_path, "run/1.avi", "sit/1.avi")
    assert len(open_videos(tmp_path)) == 2
    with pytest.raises(ListError, match=r"has train and no val or test$"):
        open_videos(tmp_path, train=False)


def test_no_data_set(tmp_path):
    for path, words in ((tmp_path, "no lists of UCF-101, HMDB-51 or Kinetics"), (tmp_path / "none", "not a folder")):
        with pytest.raises(ListError, match=words):
            open_videos(path)
    with pytest.raises(ListError, match=r"1 video lies in the folder itself, such as flat.avi: put each into a folder"):
        open_videos(touch(tmp_path, "flat.avi"))


def test_frames_of_class_folders(tmp_path):
    pytest.importorskip("cv2")
    for name in ("run", "sit"):
        (tmp_path / name).mkdir()
        video(tmp_path / name / "1.avi", 5)
    source = pickle.loads(pickle.dumps(open_videos(tmp_path)))
    assert isinstance(source, Source) and source.length(1) == 5
    assert [number(frame) for frame in source.read(1, [4, 0])] == [4, 0]


# What lists of other hands have in them


@pytest.mark.parametrize("between", ["\t", ", ", ",", "   ", " \t ", ";", " "])
def test_a_label_may_stand_behind_any_separator(ucf, hmdb, between):
    """The fixtures share a folder: the lists of both are written anew."""
    lists = ucf / "lists"
    write(lists / "classInd.txt", f"1{between}Swim\r\n2{between}Archery Range\r\n")
    write(lists / "trainlist01.txt", f"Swim/v_a.avi{between}1\r\nSwim/v b, c.avi{between}1 \t\r\n")
    write(lists / "testlist01.txt", f"Archery Range/v_c.avi\r\nx/v_d.avi{between}2\r\n")
    parts = ucf101(ucf)
    assert clips(parts["train1"]) == {"Swim/v_a.avi": "Swim", "Swim/v b, c.avi": "Swim"}
    assert clips(parts["test1"]) == {"Archery Range/v_c.avi": "Archery Range", "x/v_d.avi": "Archery Range"}
    write(hmdb / "splits" / "wave_test_split1.txt", f"a (1).avi{between}1\r\nb, c.avi{between}2{between}\r\n")
    parts = hmdb51(hmdb)
    assert [name for name in parts["train1"].names if "wave" in name] == ["wave/a (1).avi"]
    assert parts["test1"].names == ("wave/b, c.avi",)


@pytest.mark.parametrize("line", ["Swim/v_a.avi\tSwim", "Swim/v_a.avi,x", "Swim/v_a.avi 1.5", "Swim/v_a.avi -1"])
def test_what_stands_behind_a_file_and_is_no_label(ucf, line):
    write(ucf / "lists" / "trainlist01.txt", line)
    with pytest.raises(ListError, match=r"trainlist01.txt:1: expected a file and the number of its class, got"):
        ucf101(ucf)


@pytest.mark.parametrize("name", ["../x.avi", "Swim/../../x.avi", "/etc/x.avi", "Swim\\..\\..\\x.avi", "C:\\x.avi"])
def test_no_list_leaves_the_data_set(ucf, hmdb, k400, vimeo, name):
    words = "leaves the data set: expected a path below it"
    write(ucf / "lists" / "trainlist01.txt", f"{name} 1\n")
    with pytest.raises(ListError, match=f"trainlist01.txt:1: .*{words}"):
        ucf101(ucf)
    write(hmdb / "splits" / "wave_test_split1.txt", f"{name} 1\n")
    with pytest.raises(ListError, match=f"wave_test_split1.txt:1: .*{words}"):
        hmdb51(hmdb)
    write(k400 / "annotations" / "validate.csv", f"label,youtube_id,time_start,time_end\nrun,{name},1,2\n")
    with pytest.raises(ListError, match=f"validate.csv:2: .*{words}"):
        kinetics(k400)
    write(vimeo / "sep_trainlist.txt", f"{name}\n")
    with pytest.raises(ListError, match=f"sep_trainlist.txt:1: .*{words}"):
        septuplets(vimeo)


@pytest.fixture
def vimeo(tmp_path):
    write(tmp_path / "sep_trainlist.txt", "00001/0001\n")
    return tmp_path


@pytest.mark.parametrize("label", ["", "  ", '""', None])
def test_an_empty_label_is_no_class(k400, label):
    row = "ddddddddddd" if label is None else f"ddddddddddd,1,2,{label}"
    write(k400 / "annotations" / "train.csv", f"youtube_id,time_start,time_end,label\neeeeeeeeeee,1,2,run\n{row}\n")
    with pytest.raises(ListError, match=r"train.csv:3: expected"):
        kinetics(k400)


def test_an_empty_name_is_no_class(ucf, hmdb):
    for content in ("1 Swim\n2\n", "1 Swim\n2 \t\n"):
        write(ucf / "lists" / "classInd.txt", content)
        with pytest.raises(ListError, match=r"classInd.txt:2: expected a number of its own and the name of a class"):
            ucf101(ucf)
    write(hmdb / "splits" / "_test_split1.txt", "a.avi 1\n")
    with pytest.raises(ListError, match=r"_test_split1.txt: expected CLASS_test_split1.txt"):
        hmdb51(hmdb)


def test_a_class_has_one_number(ucf):
    write(ucf / "lists" / "classInd.txt", "1 Swim\n2 Swim\n")
    with pytest.raises(ListError, match=r"classInd.txt:2: Swim is class 1 already"):
        ucf101(ucf)
    write(ucf / "lists" / "classInd.txt", f"{'1' * 5000} Swim\n")
    with pytest.raises(ListError, match=r"classInd.txt:1: expected a number of its own") as found:
        ucf101(ucf)
    assert len(str(found.value)) < 300


def test_a_line_ends_at_a_line_feed_only(ucf):
    names = ("Swim/a\u2028b.avi", "Swim/c\x0cd.avi", "Swim/e\x85f.avi", "Swim/g\x1ch.avi")
    write(ucf / "lists" / "trainlist01.txt", "".join(f"{name} 1\r\n" for name in names))
    assert ucf101(ucf)["train1"].names == names
    write(ucf / "lists" / "trainlist01.txt", "Swim/a.avi 1\rSwim/b.avi 1\r")
    with pytest.raises(ListError, match=r"trainlist01.txt:1: a carriage return .* save it with line feeds"):
        ucf101(ucf)
    write(ucf / "lists" / "trainlist01.txt", "Swim/a\0.avi 1")
    with pytest.raises(ListError, match=r"trainlist01.txt:1: a zero byte"):
        ucf101(ucf)


def test_the_line_that_is_not_utf8_is_named(ucf, hmdb, k400):
    (ucf / "lists" / "trainlist01.txt").write_bytes(b"Swim/a.avi 1\nSwim/caf\xe9.avi 1\n")
    with pytest.raises(ListError, match=r"trainlist01.txt:2: not text in UTF-8"):
        ucf101(ucf)
    (hmdb / "splits" / "wave_test_split1.txt").write_bytes(b"caf\xe9.avi 1\n")
    with pytest.raises(ListError, match=r"wave_test_split1.txt:1: not text in UTF-8"):
        hmdb51(hmdb)
    path = k400 / "annotations" / "train.csv"
    path.write_bytes(path.read_bytes() + b"caf\xe9,ddddddddddd,1,2,train,0\n")
    with pytest.raises(ListError, match=r"train.csv:4: not text in UTF-8"):
        kinetics(k400)
    path.write_text("label,youtube_id,time_start,time_end\nrun,ddddddddddd,1,2\n", encoding="utf-16")
    with pytest.raises(ListError, match=r"train.csv:1: not text in UTF-8"):
        kinetics(k400)


@pytest.mark.parametrize("between", [";", "\t", ",", ", "])
def test_a_csv_may_have_other_separators(k400, between):
    rows = [["label", "youtube_id", "time_start", "time_end"], ["run, fast", "aaaaaaaaaaa", "1", "2"]]
    quoted = "\r\n".join(between.join(f'"{cell}"' if "," in cell else cell for cell in row) for row in rows)
    for file in ("train", "validate"):
        write(k400 / "annotations" / f"{file}.csv", f"\ufeff{quoted}\r\n")
    assert clips(kinetics(k400)["train"]) == {"train/run, fast/aaaaaaaaaaa_000001_000002.mp4": "run, fast"}


def test_a_csv_that_is_none(k400):
    path = k400 / "annotations" / "train.csv"
    write(path, path.read_text() + f"{'x' * 200_000},ddddddddddd,1,2,train,0\n")
    with pytest.raises(ListError, match=r"train.csv:4: field larger than field limit"):
        kinetics(k400)
    write(path, "youtube_id,time_start,time_end,label\n,1,2,run\n")
    with pytest.raises(ListError, match=r"train.csv:2: expected youtube_id"):
        kinetics(k400)


def test_lists_that_lie_in_two_folders(ucf, hmdb, k400):
    write(ucf / "old" / "classInd.txt", "1 Swim\n")
    with pytest.raises(ListError, match=r"classInd.txt lies in lists and in old: expected it once"):
        ucf101(ucf)
    write(hmdb / "old" / "wave_test_split1.txt", "a.avi 1\n")
    with pytest.raises(ListError, match=r"wave_test_split1.txt lies in old and in splits: expected it once"):
        hmdb51(hmdb)
    write(k400 / "old" / "train.csv", "label,youtube_id,time_start,time_end\n")
    with pytest.raises(ListError, match=r"train.csv lies in annotations and in old: expected it once"):
        kinetics(k400)


def test_hidden_lists_are_none(ucf, hmdb):
    """What macOS leaves beside each file, and copies that editors and tools hide."""
    write(ucf / ".old" / "classInd.txt", "1 Swim\n")
    assert ucf101(ucf)["train1"].classes == ("Swim", "Archery")
    (hmdb / "splits" / "._wave_test_split1.txt").write_bytes(b"\0\5\26\7\xff")
    assert hmdb51(hmdb)["train1"].classes == ("climb_stairs", "wave")


def test_a_pipe_is_no_list(ucf):
    (path := ucf / "lists" / "testlist01.txt").unlink()
    os.mkfifo(path)
    path.with_name("testlist02.txt").symlink_to(path)
    path.with_name("classInd.txt").unlink()
    os.mkfifo(path.with_name("classInd.txt"))
    with pytest.raises(ListError, match=r"classInd.txt: a pipe or device, no file"):
        ucf101(ucf)


def test_a_line_longer_than_a_name_may_be(ucf):
    write(ucf / "lists" / "trainlist01.txt", f"Swim/{'x' * 50_000}.avi 1\n")
    with pytest.raises(ListError, match=r"trainlist01.txt:1: .* is longer than the name of a file may be") as found:
        ucf101(ucf)
    assert len(str(found.value)) < 400
