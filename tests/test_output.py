"""What the commands print: on terminals that know ASCII only, and of names that would break lines or give orders."""

import io
import sys

import pytest

from motionspec.checks import printable
from motionspec.cli.main import main

LOUD = "loud\x1b[2Jname\nnext \u202eline"


def on_ascii(*words):
    """Status and text of a command where PYTHONIOENCODING=ascii, as under cron and in some containers."""
    stream = io.TextIOWrapper(io.BytesIO(), "ascii", errors="strict", newline="\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        try:
            status = main([*map(str, words)])
        except SystemExit as end:  # of --help
            status = end.code
        stream.flush()
    return status, stream.buffer.getvalue().decode("ascii")


@pytest.mark.parametrize("words", [
    ["list"], ["list", "--markdown"], ["show", "warp.bilinear"], ["--help"], ["eval", "--help"], ["predict", "--help"],
    ["train", "--list"], ["train", "off-rgb", "--list"], ["models"], ["models", "off-tsn"], ["models", "--json"],
])  # fmt: skip
def test_what_ascii_cannot_say_is_escaped(words):
    if words[0] in ("train", "models"):
        pytest.importorskip("torch")
    status, said = on_ascii(*words)
    assert not status and len(said) > 100
    if "--help" in words[1:]:
        assert "\\xa7" in said or "--top" in said  # the section sign of a paper


@pytest.fixture
def folders(tmp_path):
    """Class folders, one of another alphabet, one of a name that gives orders."""
    pytest.importorskip("cv2")
    from clips import video

    for name in ("走路", LOUD):
        (tmp_path / name).mkdir()
        for k in range(2):
            video(tmp_path / name / f"{k}.avi", 5)
    (tmp_path / LOUD / "empty\x1b.avi").touch()
    return tmp_path


def test_data_check_of_any_name(folders):
    status, said = on_ascii("data", "check", folders)
    assert status == 1 and "\\u8d70\\u8def 2" in said and "\x1b" not in said
    assert "loud\\x1b[2Jname\\nnext \\u202eline" in said
    assert "empty\\x1b.avi: the file is empty; fetch it again" in said


def test_an_error_is_one_line_whatever_the_name(folders, capsys):
    pytest.importorskip("torch")
    (folders / LOUD / "person\n").mkdir()
    (folders / "走路").rename(folders / "train")
    for words in (["data", "check"], ["train", "own-videos", "-o", str(folders / "run"), "--data"]):
        assert main([*words, str(folders / LOUD / "none\x1b\n")]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and "\x1b" not in err and "none\\x1b\\n: not a folder" in err


def test_printable():
    assert printable("walk 走路 $x$ é 👩‍👧") == "walk 走路 $x$ é 👩‍👧"
    assert printable("a\nb\tc\x1b\x85\u2028\udcff\u202e") == r"a\nb\tc\x1b\x85\u2028\udcff\u202e"
