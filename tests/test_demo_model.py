"""`motionspec demo --model`: a network on a clip, its maps and scores in the report."""

import re

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")
torch = pytest.importorskip("torch")
pytest.importorskip("jinja2")
pytest.importorskip("skimage")

from motionspec.cli import demo  # noqa: E402
from motionspec.cli.demo_model import clip_of, map_pictures  # noqa: E402
from motionspec.cli.main import main  # noqa: E402
from motionspec.models.table import CAFFE, TORCHVISION, networks  # noqa: E402

SMALL = ["--set", "width=0.125", "--set", "classes=7"]


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (36, 34))
    for t in range(9):
        writer.write(np.roll(np.random.default_rng(0).integers(0, 256, (34, 36, 3), np.uint8), t, 1))
    writer.release()
    return path


@pytest.fixture
def no_operators(monkeypatch):
    """They have tests of their own, and take their time."""
    monkeypatch.setattr(demo, "shown_equations", list)


def run(capsys, *arguments):
    status = main(["demo", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_the_report_says_what_ran_and_shows_it(video, tmp_path, capsys, no_operators):
    status, out, err = run(capsys, "--model", "tsn", *SMALL, video, "-o", tmp_path / "out")
    assert (status, err) == (0, "")
    assert (
        "tsn [OFF18 §4.1] on 7 frames in a row from the middle of clip.avi: random weights, so its scores mean nothing"
        in out
    )
    found = re.findall(r"class (\d+): ([\d.]+) %", out)
    assert len({label for label, _ in found}) == 5 and all(0 < float(share) < 100 for _, share in found)
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "random weights" in html and f"class {found[0][0]}" in html


def test_weights_are_loaded_and_said(video, tmp_path, capsys, no_operators):
    network = networks()["tsn"].build(width=0.125, classes=7)
    torch.nn.init.zeros_(network.fc.weight)
    network.fc.bias.data = torch.tensor([0.0, 0, 3, 0, 2, 1, 0])
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    words = ["--model", "tsn", *SMALL, "--weights", tmp_path / "weights.pth", video, "-o", tmp_path / "out"]
    status, out, _ = run(capsys, *words)
    assert status == 0 and "random" not in out and re.search(r"weights\.pth: (\d+) of \1 loaded", out)
    assert [label for label, _ in re.findall(r"class (\d+): ([\d.]+) %", out)][:3] == ["2", "4", "5"]
    share = np.exp(3) / np.exp([0, 0, 3, 0, 2, 1, 0]).sum()
    assert f"class 2: {100 * share:.2f} %" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model", "tns"], "no network 'tns'. Did you mean tsn?"),
        (["--model", "tsn", "--set", "modality=flow"], "TSN: clip: expected shape (N, 10, T, H, W)"),
        (["--model", "tsn", "--set", "width=0"], "TSN: width: expected"),
        (["--model", "tsn", "--set", "size=3"], "'size'"),
        (["--model", "tsn", "--set", "size"], "--set size: expected KEY=VALUE"),
        (["--model", "tsn", *SMALL, "--weights", "none.pth"], "none.pth"),
        (["--weights", "x.pth"], "--weights and --set belong to a network: --model NAME"),
        (["VIDEO", "--model", "resnet"], "--model takes one video, got 2 files"),
    ],
)
def test_what_cannot_run_is_one_line(video, tmp_path, capsys, words, says):
    words = [video if word == "VIDEO" else word for word in words]
    status, out, err = run(capsys, video, *words, "-o", tmp_path / "out")
    assert (status, out) == (2, "") and re.fullmatch(r"motionspec: [^\n]+\n", err) and says in err


def test_frames_become_what_the_weights_expect():
    rgb = np.zeros((20, 40, 3), np.uint8)
    rgb[:, 10:30] = (255, 104, 0)  # the middle square, all that is kept
    rgb[:, :10] = 77
    clip = clip_of([rgb] * 3, CAFFE, 8, 8)
    assert clip.shape == (1, 3, 3, 8, 8)
    np.testing.assert_allclose(clip[0, :, 0, 4, 4], [0 - 104, 104 - 117, 255 - 123])
    assert (clip == clip[0, :, 0, 4, 4][None, :, None, None, None]).all()
    want = (np.array([1, 104 / 255, 0]) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(clip_of([rgb], TORCHVISION, 8, 8)[0, :, 0, 4, 4], want, atol=1e-4)


def test_flows_are_wheels_and_other_maps_magnitudes():
    right = torch.zeros(1, 4, 3, 5, 6)
    right[:, :2] = 3  # two flow maps to the right: both u, then both v
    ramp = torch.linspace(-1, 1, 6).expand(1, 8, 1, 5, 6)
    parts = {"flow": right, "displacement": right[:, 1:3], "off28": ramp, "segments": torch.ones(1, 3, 4)}
    pictures = map_pictures({**parts, "scores": torch.ones(1, 4)})
    by = {}
    for picture in pictures:
        by.setdefault(picture.title.split(",")[0], []).append(picture)
    wheel = "the wheel: colour is direction"  # once, after all flows: without it nobody can read them
    assert {key: len(found) for key, found in by.items()} == {"flow": 3, "displacement": 3, "off28": 1, wheel: 1}
    assert not any("wheel" in picture.title for picture in map_pictures({"off28": ramp}))
    for key in ("flow", "displacement"):
        red, green, blue = by[key][0].rgb[2, 2]  # to the right is red on the wheel
        assert red > 200 and green < 100 and blue < 100
    grey = by["off28"][0].rgb[2, :, 0]
    assert grey[0] == grey[-1] == 255 and grey[2] == grey[3] < 100


@pytest.mark.slow
@pytest.mark.parametrize("name", networks())
def test_each_network_on_a_real_clip(realdata, tmp_path, capsys, no_operators, name):
    if networks()[name].input[0] != 3:
        pytest.skip(f"{name} takes other than RGB frames")
    clip = realdata / "ucf101/UCF-101/Biking/v_Biking_g06_c03.avi"
    status, out, err = run(capsys, "--model", name, "--set", "width=0.125", clip, "-o", tmp_path)
    assert (status, err) == (0, "") and f"{name} [" in out
