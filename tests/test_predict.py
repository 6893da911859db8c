"""`motionspec eval` and `motionspec predict`: what they print and write; one line for errors."""

import dataclasses
import hashlib
import json
import re
import shutil
import sys

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")
torch = pytest.importorskip("torch")
pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
ExceptionWrapper = pytest.importorskip("torch._utils").ExceptionWrapper
safetensors = pytest.importorskip("safetensors.torch")

from motionspec.cli.main import main  # noqa: E402
from motionspec.data.clips import Clips, View  # noqa: E402
from motionspec.data.layouts import open_videos  # noqa: E402
from motionspec.data.motion import Motion, Size  # noqa: E402
from motionspec.data.video import VideoError  # noqa: E402
from motionspec.models.bn_inception import BNInception  # noqa: E402
from motionspec.models.disentangled import Disentangled  # noqa: E402
from motionspec.models.table import TORCHVISION, networks  # noqa: E402
from motionspec.train import objectives  # noqa: E402
from motionspec.train.loop import fit  # noqa: E402
from motionspec.train.recipes import Recipe, Stage  # noqa: E402
from motionspec.train.runs import plain  # noqa: E402

CLASSES = ("dark", "grey", "light", "other")
SMALL = {"width": 0.125, "classes": 4}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MOTIONSPEC_CACHE", str(tmp_path / "cache"))


def write_video(path, level, frames=9):
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (48, 40))
    for t in range(frames):
        image = np.full((40, 48, 3), level, np.uint8)
        image[10:20, 5 + 3 * t : 15 + 3 * t] = 255 - level
        writer.write(image)
    writer.release()
    return path


STAGE = Stage(name="all", loss=objectives.classification, measure=objectives.accuracy, length=1, lr=0.1)
RECIPE = Recipe(
    name="own",
    source="test",
    network="actionflownet",
    arguments=SMALL,
    view=View(size=32, length=4),
    batch=2,
    stages=(STAGE,),
)


def make_run(folder, bias=(0.0, 1.0, 2.0, -1.0), recipe=RECIPE):
    """A run whose network says the same of every video, if it has classes."""
    network = networks()[recipe.network].build(**recipe.arguments)
    if bias:
        torch.nn.init.zeros_(network.fc.weight)
        network.fc.bias.data = torch.tensor(bias)
    folder.mkdir()
    config = {"recipe": plain(recipe), "seed": 0, "classes": CLASSES}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    safetensors.save_file(network.state_dict(), folder / "best.safetensors")
    return folder


@pytest.fixture
def run_folder(tmp_path):
    return make_run(tmp_path / "run")


@pytest.fixture
def data(tmp_path):
    for name, level in (("dark", 20), ("light", 200)):
        for k in range(2):
            write_video(tmp_path / "data" / "test" / name / f"{name}{k}.avi", level)
            write_video(tmp_path / "data" / "train" / name / f"{name}{k}.avi", level)
    return tmp_path / "data"


def command(capsys, *words):
    status = main([*map(str, words)])
    return status, *capsys.readouterr()


# -- predict -----------------------------------------------------------------------------------------------------------


def test_predict_shows_bars_and_a_report_with_maps(run_folder, tmp_path, capsys):
    video = write_video(tmp_path / "clip.avi", 40)
    out = tmp_path / "out"
    words = ["predict", video, "--run", run_folder, "-o", out, "--top", "3", "--json", tmp_path / "clip.json"]
    status, said, err = command(capsys, *words)
    assert (status, err) == (0, "")
    share = np.exp([2, 1, 0]) / np.exp([0, 1, 2, -1]).sum()
    assert re.findall(r"^(\w+) +([\d.]+) %  (#+)$", said, re.MULTILINE) == [
        (name, f"{100 * p:.2f}", "#" * round(40 * p)) for name, p in zip(("light", "grey", "dark"), share, strict=True)
    ]
    html = (out / "report.html").read_text(encoding="utf-8")
    assert "motionspec: clip.avi: light" in html and "flow4, 1 of 4; full colour at" in html
    assert html.count("<img") == 3 + 3 + 1 and "every operator" not in html and f"{100 * share[0]:.2f} %" in html
    result = json.loads((tmp_path / "clip.json").read_text(encoding="utf-8"))
    assert result["scores"] == pytest.approx({"dark": 0, "grey": 1, "light": 2, "other": -1})
    assert sum(result["shares"].values()) == pytest.approx(1) and (result["frames"], result["views"]) == (9, 1)
    assert result["run"]["sha256"] == hashlib.sha256((run_folder / "best.safetensors").read_bytes()).hexdigest()


def test_frames_of_the_report_are_those_of_the_video():
    from motionspec.cli.evaluate import frame_pictures

    frames = np.random.default_rng(0).integers(0, 256, (3, 5, 6, 3))
    for known in (TORCHVISION, dataclasses.replace(TORCHVISION, order=(2, 0, 1))):
        values = (frames[..., known.order] - np.array(known.mean)) / np.array(known.scale)
        clip = torch.tensor(values.transpose(3, 0, 1, 2), dtype=torch.float32)
        pictures = frame_pictures(clip, View(size=8, frames=known))
        assert np.array_equal(np.stack([p.rgb for p in pictures]), frames)


def test_predict_of_a_video_of_one_frame(run_folder, tmp_path, capsys):
    video = write_video(tmp_path / "still.avi", 40, frames=1)
    status, said, err = command(capsys, "predict", video, "--run", run_folder, "-o", tmp_path / "out")
    assert (status, said) == (2, "") and not (tmp_path / "out").exists()
    assert err == f"motionspec: {video}: only one frame decodes and motion needs two; give a longer clip\n"


# -- eval --------------------------------------------------------------------------------------------------------------


def test_eval_prints_and_writes_all_that_repeats_it(run_folder, data, capsys):
    status, said, err = command(capsys, "eval", run_folder, "--data", data, "--protocol", "10-crop", "--seed", "3")
    assert (status, err) == (0, "")
    assert "4 clips: top 1 50.00 %, mean over classes 50.00 %; chance 25.00 %" in said
    assert re.search(r"^dark +2 +0 +0\.0000 +light \(2\)$", said, re.MULTILINE)
    result = json.loads((run_folder / "eval" / "result.json").read_text(encoding="utf-8"))
    (run,) = result["runs"]
    assert run["sha256"] == hashlib.sha256((run_folder / "best.safetensors").read_bytes()).hexdigest()
    assert run["config"] == json.loads((run_folder / "config.json").read_text(encoding="utf-8"))
    assert (run["view"]["crops"], run["weight"], result["seed"], result["protocol"]) == (10, 1.0, 3, ["10-crop"])
    assert (result["data"], result["part"]) == (str(data.resolve()), "test")
    assert result["metrics"]["top_1"] == 0.5 and result["environment"]["torch"] == torch.__version__


def test_eval_says_which_part_it_judged_by_default_the_test(run_folder, data, capsys):
    write_video(data / "val" / "dark" / "dark0.avi", 20)
    for words, part, clips in ((["--part", "val"], "val", 1), (["--part", "train"], "train", 4), ([], "test", 4)):
        out = run_folder / "eval" / part
        status, said, _ = command(capsys, "eval", run_folder, "--data", data, "-o", out, *words)
        assert status == 0 and f"\npart {part}, {clips} clips: top 1" in said
        result = json.loads((out / "result.json").read_text(encoding="utf-8"))
        assert (result["part"], result["clips"]) == (part, clips)
    shutil.rmtree(data / "test")
    _, said, _ = command(capsys, "eval", run_folder, "--data", data)
    assert "\npart val, 1 clips: top 1" in said
    status, said, err = command(capsys, "eval", run_folder, "--data", data, "--part", "test")
    assert (status, said, err) == (2, "", f"motionspec: {data}: has train, val and no test\n")


def test_eval_replaces_a_result_only_by_one_of_the_same_settings(run_folder, data, capsys, monkeypatch):
    monkeypatch.chdir(run_folder.parent)
    words = ["eval", run_folder, "--data", data]
    for again in (words, ["eval", "run", "--data", "data", "--batch", "2"]):  # what does not change a result
        assert command(capsys, *again)[0] == 0
    file = run_folder / "eval" / "result.json"
    before = file.read_bytes()
    for other, says in (
        (["--protocol", "10-crop"], r"protocol: \[\] there, \['10-crop'\] here"),
        (["--part", "train"], "part: 'test' there, 'train' here"),
        (["--fuse", "run=2"], r"runs: .* there, .* here"),
    ):
        status, said, err = command(capsys, *words, *other)
        assert (status, said) == (2, "") and file.read_bytes() == before
        assert re.fullmatch(f"motionspec: {file}: of other settings \\({says}\\); name another folder by -o\n", err), (
            err
        )
    file.write_text("{")
    status, _, err = command(capsys, *words)
    assert (status, err) == (2, f"motionspec: {file}: not of `motionspec eval`; name another folder by -o\n")


def test_eval_measures_what_the_trainer_measured(data, tmp_path, capsys):
    recipe = dataclasses.replace(RECIPE, arguments={"width": 0.125, "classes": 2})
    network = networks()["actionflownet"].build(**recipe.arguments)
    train, test = (Clips(open_videos(data, train=part), recipe.view, train=part) for part in (True, False))
    result = fit(recipe, network, train, test, run=tmp_path / "own", about={"classes": train.source.classes})
    assert command(capsys, "eval", tmp_path / "own", "--data", data)[0] == 0
    found = json.loads((tmp_path / "own" / "eval" / "result.json").read_text(encoding="utf-8"))
    assert found["metrics"]["top_1"] == result.best and found["metrics"]["per_class_count"] == {"dark": 2, "light": 2}


def test_a_clip_that_cannot_be_read_is_not_measured_and_no_other_in_its_place(data, tmp_path, capsys):
    (data / "test" / "light" / "light1.avi").write_bytes(b"")
    recipe = dataclasses.replace(RECIPE, arguments={"width": 0.125, "classes": 2})
    network = networks()["actionflownet"].build(**recipe.arguments)
    train, test = (
        Clips(open_videos(data, train=part), recipe.view, train=part, broken="skip") for part in (True, False)
    )
    result = fit(recipe, network, train, test, run=tmp_path / "own", about={"classes": train.source.classes})
    assert command(capsys, "eval", tmp_path / "own", "--data", data, "--broken", "skip")[0] == 0
    found = json.loads((tmp_path / "own" / "eval" / "result.json").read_text(encoding="utf-8"))
    assert found["judged"] == 3 and result.best == found["metrics"]["top_1"]


def test_eval_of_a_run_that_learned_flow(tmp_path, capsys, monkeypatch):
    size = Size(32, 6, train=1, test=1)
    monkeypatch.setattr("motionspec.cli.train.Motion", lambda _, part: Motion(size, part, texture="noise"))
    stage = dataclasses.replace(STAGE, loss=objectives.flow, measure=objectives.endpoint_error, higher=False)
    view = dataclasses.replace(RECIPE.view, flow="future")
    recipe = dataclasses.replace(RECIPE, stages=(stage,), view=view, arguments={"width": 0.125, "classes": None})
    make_run(tmp_path / "run", bias=None, recipe=recipe)
    status, said, _ = command(capsys, "eval", tmp_path / "run", "--data", "motion:small")
    assert status == 0 and re.search(r"^part test, 13 clips: epe [\d.]+, outliers [\d.]+$", said, re.MULTILINE)
    found = json.loads((tmp_path / "run" / "eval" / "result.json").read_text(encoding="utf-8"))
    rows = (tmp_path / "run" / "eval" / "clips.csv").read_text(encoding="utf-8").splitlines()
    assert found["metrics"]["epe"] == pytest.approx(np.mean([float(row.split(",")[1]) for row in rows[1:]]))
    assert rows[0] == "clip,epe,outliers" and len(rows) == 14
    status, _, err = command(capsys, "eval", tmp_path / "run", "--data", "motion:small", "--protocol", "10-crop")
    assert status == 2 and "--fuse and --protocol are for classifiers" in err


def test_eval_of_a_class_needs_no_flow(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("motionspec.data.flow_cache.TVL1.flow", lambda *_: pytest.fail("TV-L1 is slow"))
    make_run(tmp_path / "run", recipe=dataclasses.replace(RECIPE, view=dataclasses.replace(RECIPE.view, flow="future")))
    assert command(capsys, "eval", tmp_path / "run", "--data", data)[0] == 0


def test_eval_judges_on_the_split_that_was_trained_on(tmp_path, capsys):
    data = tmp_path / "data"
    for name, level in (("dark", 20), ("light", 200)):
        for k in (1, 2):
            write_video(data / name / f"{name}{k}.avi", level)
        for split in (1, 2):
            lines = "".join(f"{name}{k}.avi {2 if k == split else 1}\n" for k in (1, 2))
            (data / f"{name}_test_split{split}.txt").write_text(lines)
    words = ["train", "motion-rgb", "--data", data, "-o", tmp_path / "run", "--split", 2, "--device", "cpu"]
    words += ["--set", "length=1", "--set", "batch=2", "--set", "network.width=0.0625"]
    assert command(capsys, *words)[0] == 0
    for more, videos in (([], ["dark2", "light2"]), (["--split", 1, "-o", tmp_path / "1"], ["dark1", "light1"])):
        assert command(capsys, "eval", tmp_path / "run", "--data", data, *more)[0] == 0
        found = ((more or [tmp_path / "run" / "eval"])[-1] / "scores.csv").read_text(encoding="utf-8").splitlines()
        assert [row.split(",")[0].rpartition("/")[2] for row in found[1:]] == [f"{name}.avi" for name in videos]
    status, _, err = command(capsys, *words, "--split", 1, "--resume")
    assert status == 2 and "other settings (clips: '" in err and "split: 2 there, 1 here)" in err


def test_eval_without_matplotlib_says_what_is_not_there(run_folder, data, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, said, _ = command(capsys, "eval", run_folder, "--data", data)
    assert status == 0 and said.endswith("no confusion.png without matplotlib: pip install 'motionspec[figures]'\n")
    assert "result.json, classes.csv, confusion.csv, scores.csv" in said


def test_eval_fuses_runs_with_weights(run_folder, data, tmp_path, capsys):
    make_run(tmp_path / "other", bias=(3.0, 0.0, 0.0, 0.0))
    for weight, right in (("0.5", "light"), ("1", "dark"), ("-1", "light")):
        words = [
            "eval",
            run_folder,
            "--data",
            data,
            "--fuse",
            f"{tmp_path / 'other'}={weight}",
            "-o",
            tmp_path / weight,
        ]
        status, said, _ = command(capsys, *words)
        assert status == 0 and re.search(rf"^{right} +2 +2 +1\.0000$", said, re.MULTILINE)
    result = json.loads((tmp_path / "-1" / "result.json").read_text(encoding="utf-8"))
    assert [run["weight"] for run in result["runs"]] == [1.0, -1.0]


def test_what_cannot_be_fused_is_said_before_a_clip_is_read(run_folder, data, tmp_path, capsys):
    (data / "test" / "dark" / "dark0.avi").write_bytes(b"")
    other = make_run(tmp_path / "other")
    config = other / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace('"other"', '"wave"'), encoding="utf-8")
    flow = make_run(
        tmp_path / "flow",
        bias=None,
        recipe=dataclasses.replace(RECIPE, stages=(dataclasses.replace(STAGE, measure=objectives.endpoint_error),)),
    )
    for word, says in (
        (f"{run_folder}=0", "fuse: weight[1]: expected a finite number other than 0, got 0.0"),
        (f"{other}=1", "fuse: scores[1]: expected the classes dark, grey, light and 1 more, got dark, grey, light and"),
        (f"{flow}=1", "--fuse and --protocol are for classifiers"),
    ):
        status, _, err = command(capsys, "eval", run_folder, "--data", data, "--fuse", word)
        assert status == 2 and err.startswith(f"motionspec: {says}"), err
    assert not (run_folder / "eval").exists()


def test_eval_refuses_broken_videos_or_names_them(run_folder, data, capsys):
    broken = data / "test" / "light" / "light1.avi"
    broken.write_bytes(b"")
    status, said, err = command(capsys, "eval", run_folder, "--data", data)
    assert (status, said) == (2, "")
    assert err == f"motionspec: {broken}: the file is empty; fetch it again\n"
    status, said, _ = command(capsys, "eval", run_folder, "--data", data, "--broken", "skip")
    assert status == 0 and "3 clips: top 1 33.33 %" in said
    assert "skipped 1 of 4 clips; with them as wrong, top 1 is 25.00 %:" in said and str(broken) in said
    result = json.loads((run_folder / "eval" / "result.json").read_text(encoding="utf-8"))
    assert (result["clips"], result["judged"], result["skipped"][0]["clip"]) == (4, 3, "light/light1.avi")


def test_of_many_broken_videos_the_first_are_named(run_folder, data, capsys):
    for k in range(22):
        (data / "test" / "dark" / f"empty{k:02}.avi").touch()
    status, said, _ = command(capsys, "eval", run_folder, "--data", data, "--broken", "skip")
    assert status == 0 and said.count("the file is empty") == 20
    assert "skipped 22 of 26 clips" in said and "\n  ... and 2 more; all: result.json\n" in said
    result = json.loads((run_folder / "eval" / "result.json").read_text(encoding="utf-8"))
    assert len(result["skipped"]) == 22


# -- train --weights ---------------------------------------------------------------------------------------------------


def test_a_run_begins_with_the_weights_of_another(run_folder, data, tmp_path, capsys):
    words = ["train", "actionflownet-scratch", "--data", data, "--out", tmp_path / "new", "--device", "cpu"]
    settings = ("network.width=0.125", "view.size=32", "view.length=4", "batch=2", "length=1", "lr=1e-12")
    words += [word for setting in settings for word in ("--set", setting)]
    file = run_folder / "best.safetensors"
    status, said, err = command(capsys, *words, "--weights", file)
    assert (status, err) == (0, "")
    assert re.match(
        r"class folders in .*: train 4, test 4; 2 classes: dark 4, light 4\n"
        r"begins with best\.safetensors: (\d+) of \d+ loaded; kept as they were: fc\.weight, fc\.bias; not used: "
        r"decoder\.\S+, .*, fc\.weight, fc\.bias; what is kept is random\n1 steps: ",
        said,
    ), said
    old, new = (safetensors.load_file(folder / "best.safetensors") for folder in (run_folder, tmp_path / "new"))
    for key in new:
        same = new[key].shape == old[key].shape and torch.allclose(new[key].double(), old[key].double(), atol=1e-9)
        assert same == (not key.startswith("fc.")) or "running" in key or "num_batches" in key, key
    config = json.loads((tmp_path / "new" / "config.json").read_text(encoding="utf-8"))
    assert config["weights"] == {"file": "best.safetensors", "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    status, _, err = command(capsys, *words, "--resume")
    assert status == 2 and "weights: {'file': 'best.safetensors'," in err and "there, None here" in err


def test_a_run_of_disentangled_begins_with_bn_inception_in_all_branches(tmp_path):
    from motionspec.cli.train import begin

    backbone, network = BNInception(width=1 / 16), Disentangled(4, width=1 / 16)
    torch.save(backbone.state_dict() | {"last_linear.weight": torch.zeros(10, 64)}, tmp_path / "imagenet.pth")
    begin(network, tmp_path / "imagenet.pth", ())
    whole = Disentangled(4, width=1 / 16)
    whole.start_from(backbone)
    state = whole.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items() if key[:3] != "fc.")
    torch.save(network.state_dict(), tmp_path / "own.pth")
    assert begin(whole, tmp_path / "own.pth", ()).kept == ()
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


# -- what cannot be done -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda run: (run / "config.json").unlink(), r"run: no run in it \(config.json is missing\); name a folder"),
        (lambda run: (run / "config.json").write_text("{"), r"config\.json is damaged, or of another version"),
        (lambda run: (run / "config.json").write_text("[]"), r"config\.json is damaged, or of another version"),
        (lambda run: (run / "config.json").write_text("[" * 99_999), r"config\.json is damaged, or of another version"),
        (
            lambda run: (run / "config.json").write_text((run / "config.json").read_text().replace('"data"', '"date"')),
            r"config\.json is damaged, or of another version",
        ),
        (lambda run: (run / "best.safetensors").unlink(), r"best\.safetensors is missing"),
        (lambda run: (run / "best.safetensors").write_bytes(b"x" * 9), r"best\.safetensors does not fit config.json"),
        (lambda run: (run / "best.safetensors").write_bytes(b""), r"best\.safetensors does not fit config.json"),
        (
            lambda run: (run / "config.json").write_text(
                (run / "config.json").read_text().replace('"classes": 4', '"classes": 5')
            ),
            r"best\.safetensors does not fit config.json.*fc.bias is \(4,\), not \(5,\)",
        ),
        (
            lambda run: (run / "config.json").write_text((run / "config.json").read_text().replace(', "other"', "")),
            r"expected scores of 3 classes, got 4",
        ),
    ],
)
def test_damaged_runs_in_one_line(harm, says, run_folder, data, tmp_path, capsys):
    harm(run_folder)
    video = data / "test" / "dark" / "dark0.avi"
    for words in (["eval", run_folder, "--data", data], ["predict", video, "--run", run_folder, "-o", tmp_path / "o"]):
        status, said, err = command(capsys, *words)
        assert (status, said) == (2, "") and err.count("\n") == 1 and re.search(says, err), err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["eval", "RUN", "--data", "EMPTY"], "no folders with videos"),
        (["eval", "RUN", "--data", "none"], "none: not a folder"),
        (["eval", "RUN", "--data", "STRANGE"], "expected classes that the network knows, dark, grey, light and 1 more"),
        (["eval", "RUN", "--data", "DATA", "--protocol", "5-crop"], "expected one of '25-segments', '10-crop'"),
        (["eval", "RUN", "--data", "DATA", "--fuse", "RUN"], "expected RUN=WEIGHT, as in"),
        (["eval", "RUN", "--data", "DATA", "--fuse", "none=1"], "none: no run in it"),
        (["eval", "RUN", "--data", "DATA", "--fuse", "RUN=nan"], "expected a finite number other than 0, got nan"),
        (["eval", "RUN", "--data", "DATA", "--device", "none"], "--device none: "),
        (["eval", "RUN", "--data", "DATA", "-o", "VIDEO"], "dark0.avi: File exists"),
        (
            ["train", "own-videos", "--data", "DATA", "-o", "new", "--weights", "x.safetensors"],
            "--weights x.safeten",
        ),
        (
            ["train", "own-videos", "--data", "DATA", "-o", "new", "--weights", "VIDEO"],
            "dark0.avi: expected a state_dict, names and tensors, got a file of another kind",
        ),
        (["train", "own-videos", "--data", "STRANGE", "-o", "new"], "--data strange: one class only, jump: expected"),
        (
            ["train", "own-videos", "--data", "DATA", "-o", "new", "--set", "network.classes=3"],
            "--set network.classes=3: the data have 2 classes; leave it out",
        ),
        (
            ["train", "own-videos", "--data", "DATA", "-o", "new", "--weights", "BEST"],
            "weights of this BNInception",
        ),
        (["predict", "none.avi", "--run", "RUN"], "none.avi: No such file or directory"),
        (["predict", "EMPTY", "--run", "RUN"], "empty: Is a directory"),
        (["predict", "VIDEO", "--run", "EMPTY"], "empty: no run in it"),
        (["predict", "VIDEO", "--run", "RUN", "--json", "none/x.json"], "none/x.json: No such file or directory"),
    ],
)
def test_mistakes_in_one_line(words, says, run_folder, data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for k in range(2):
        write_video(tmp_path / "strange" / "jump" / f"{k}.avi", 9)
    stand = {"RUN": "run", "DATA": "data", "EMPTY": "empty", "STRANGE": "strange"}
    stand |= {"VIDEO": "data/test/dark/dark0.avi", "BEST": "run/best.safetensors"}
    words = [re.sub("^[A-Z]+", lambda m: stand[m.group()], word) for word in words]
    status, said, err = command(capsys, *words)
    assert (status, said) == (2, "") and err.count("\n") == 1 and says in err, err


def test_without_safetensors_eval_says_what_to_install(run_folder, data, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    status, said, err = command(capsys, "eval", run_folder, "--data", data)
    assert (status, said) == (2, "")
    assert err == "motionspec: load needs safetensors for such a file: pip install 'motionspec[weights]'\n"


@pytest.mark.parametrize("error", [VideoError("a.mp4: the file is empty"), PermissionError("a.mp4: Permission denied")])
def test_what_a_reading_process_says_is_one_line(error, run_folder, data, capsys, monkeypatch):
    def read_elsewhere(*_, **__):
        try:
            raise error
        except type(error):
            wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
        wrapped.reraise()

    monkeypatch.setattr("motionspec.cli.evaluate.evaluate.score", read_elsewhere)
    status, said, err = command(capsys, "eval", run_folder, "--data", data)
    assert (status, said, err) == (2, "", f"motionspec: {error}\n")
