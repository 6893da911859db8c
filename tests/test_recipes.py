"""The recipes: each trains a narrow network of its kind, each number has a source; `motionspec train`."""

import inspect
import json
import re
import sys
from dataclasses import fields, replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file  # noqa: E402
from torch.utils.data import Dataset  # noqa: E402

from motionspec.cli.main import _one_line, main  # noqa: E402
from motionspec.cli.runner import CannotRun  # noqa: E402
from motionspec.cli.train import _setting, begin  # noqa: E402
from motionspec.data.clips import View  # noqa: E402
from motionspec.data.video import VideoError  # noqa: E402
from motionspec.flow import write_flo  # noqa: E402
from motionspec.models.table import networks  # noqa: E402
from motionspec.models.tables import ABLATIONS  # noqa: E402
from motionspec.train import detection  # noqa: E402
from motionspec.train.loop import fit  # noqa: E402
from motionspec.train.recipes import RECIPES, Drops, changed  # noqa: E402


class Made(Dataset):
    """Two samples of the shape of a narrow network's, with all that a loss may ask for."""

    def __init__(self, recipe):
        (_, T, H, W), view = networks()[recipe.network].small_input, recipe.view
        self.shape = (view.shape(train=True)[0], T, *((32, 64) if view.flow else (H, W)))
        self.maps = T - (view.flow == "inside")
        self.boxes = detection.Squares(2, 64) if recipe.data == "squares" else None

    def __len__(self):
        return 2

    def __getitem__(self, key):
        if self.boxes is not None:
            return self.boxes[key]
        _, _, H, W = self.shape
        g = torch.Generator().manual_seed(key[1])
        flow = torch.randn(2, self.maps, H, W, generator=g)
        flow[:, :, 0] = torch.nan
        return {
            "clip": torch.randn(self.shape, generator=g),
            "label": torch.tensor(key[1]),
            "flow": flow,
            "known": ~flow[0].isnan(),
            "target": torch.rand(3, H, W, generator=g),
        }


# One of each kind: network, modality, loss, what learns.
KINDS = {
    (recipe.network, recipe.view.modality, repr(one.loss), one.of, one.only, recipe.arguments.get("scheme")): (
        recipe,
        one,
    )
    for recipe in RECIPES.values()
    if not recipe.name.startswith("motion-")
    for one in recipe.stages
}


@pytest.mark.parametrize(("recipe", "one"), KINDS.values(), ids=lambda of: of.name)
def test_a_stage_trains_all_that_it_says(tmp_path, recipe, one):
    row = networks()[recipe.network]
    arguments = {**row.arguments, **row.small, **recipe.arguments, **({"depth": 18} if "depth" in row.small else {})}
    torch.manual_seed(0)
    network = row.build(**arguments | {"width": row.small["width"]})
    data = Made(recipe)
    short = replace(recipe, batch=2, stages=(replace(one, length=1, unit="steps"),))
    result = fit(short, network, data, data, run=tmp_path / "run", device="cpu")
    assert set(result.measured) >= {"flow": {"epe"}, "squares": {"mAP"}}.get(recipe.data, set())
    state = torch.load(tmp_path / "run" / "resume.pt", weights_only=True)["optimizer"]
    learning = sum(len(group["params"]) for group in state["param_groups"])
    reached = len(state["state"])  # what has no gradient has no state, and would stop DDP
    assert reached == learning > 0


def chosen(view):
    """The fields that say which frames and pixels are seen: those of another value than a bare view's, and the step
    from frame to frame, which is a choice where it is 1 too. What a pixel's values are, the network decides.
    """
    bare = View(size=view.size)
    names = {field.name for field in fields(View)} - {"frames", "modality"}
    changed = {name for name in names if getattr(view, name) != getattr(bare, name)}
    return {"size", *changed} | ({"stride"} if view.length > 1 else set())


@pytest.mark.parametrize(
    "recipe", [r for r in RECIPES.values() if not r.name.startswith("motion-")], ids=lambda r: r.name
)
def test_each_number_has_a_source(recipe):
    known = recipe.sources
    asked = {"batch"} | ({"ema"} if recipe.ema else set())
    for one in recipe.stages:
        names = {"length", "lr", "optimizer", "loss" if one.name not in ("tsn", "action") else "lr"}
        names |= {name for name in ("clip", "weight_decay") if getattr(one, name)}
        names |= {"schedule"} if one.schedule != Drops() else set()
        names |= {"momentum"} if one.optimizer == "sgd" else set()
        asked |= {f"{one.name}.{name}" for name in names}
    if recipe.data == "clips":
        asked |= {f"view.{name}" for name in chosen(recipe.view)}
    missing = {name for name in asked if name not in known and name.partition(".")[2] not in known}
    missing = {name for name in missing if not (name.endswith(".loss") and recipe.network in ("repflow", "tsn"))}
    assert not missing
    settings = {"batch", "ema", "degraded", "stages", "loss", "measure", "schedule", "own", "options", "flow"}
    settings |= {"length", "lr", "optimizer", "momentum", "weight_decay", "clip"}
    for name in known:
        first, _, rest = name.partition(".")
        known_name = (rest in settings and first in {s.name for s in recipe.stages}) or name in settings
        view = first == "view" and hasattr(recipe.view, rest)
        assert known_name or view or name in {**recipe.arguments, **networks()[recipe.network].arguments}, name


def test_rf19_takes_every_second_frame_and_mirrors_as_the_released_loaders_do():
    """Where the paper is silent released code is the source, and not a default."""
    for name in ("repflow", "repflow-112"):
        recipe = RECIPES[name]
        assert recipe.view.stride == 2 and recipe.view.flip
        assert all("released" in recipe.sources[f"view.{setting}"] for setting in ("stride", "flip"))


SCALED = {"classes", "dropout", "partial_bn"}  # of the data set, and of the training alone
RELEASED = {"off-released": {"scheme", "fusion"}}  # as its name says


@pytest.mark.parametrize(
    "recipe", [r for r in RECIPES.values() if not r.name.startswith(("motion-", "own-"))], ids=lambda r: r.name
)
def test_a_papers_recipe_trains_a_network_of_the_papers_tables(recipe):
    """Or it and the table, each with arguments of its own, have come apart."""

    def whole(arguments):
        row = networks()[recipe.network]
        default = {name: p.default for name, p in inspect.signature(row.build).parameters.items()}
        return default | dict(row.arguments) | dict(arguments)

    mine, free = whole(recipe.arguments), SCALED | RELEASED.get(recipe.name, set())
    rows = [whole(given) for row in ABLATIONS for name, given in row.networks if name == recipe.network]
    differ = [{key for key in mine.keys() | row.keys() if mine.get(key) != row.get(key)} for row in rows]
    assert any(keys <= free for keys in differ), min(differ, key=len)


def test_what_the_papers_print():
    (tsn, off), batch = RECIPES["off-rgb"].stages, RECIPES["off-rgb"].batch
    assert (batch, off.length, off.lr, off.schedule.at) == (128, 20_000, 0.02, (10_000, 15_000, 18_000))
    assert RECIPES["off-flow"].stages[1].lr == 0.05 and tsn.of == "backbone"
    (dc,) = RECIPES["disentangled-ucf101"].stages
    network = networks()["disentangled"].build(classes=4, width=1 / 8)
    rates = {group["name"]: group["lr"] for group in network.groups(lr=dc.lr)}
    assert rates["static"] == 0.001 and rates["motion"] == rates["change"] == pytest.approx(0.005)
    times = [0, 1500, 3000, 4499, 4500, 10_000, 16_000]
    assert [dc.own["static"](t, dc.length) for t in times] == pytest.approx([1, 0.1, 0.01, 0.01, 0, 0, 0])
    assert [dc.schedule(t, dc.length) for t in times] == pytest.approx([1, 1, 1, 1, 1, 0.1, 0.01])
    assert (RECIPES["repflow"].ema, RECIPES["repflow"].view.length) == (0.999, 32)
    assert all(not any(RECIPES[f"actionflownet{two}-flow"].view.jitter) for two in ("", "-2f"))  # AF18: for actions
    assert RECIPES["tsn-rgb-diff"].view.scales == RECIPES["tsn-flow"].view.scales == (1.0, 0.875, 0.75)
    assert RECIPES["actionflownet"].view.flow == "future" and RECIPES["actionflownet"].stages[0].lr == 3e-4


def test_a_shorter_stage_keeps_the_shape_of_its_schedule():
    short = changed(RECIPES["disentangled-ucf101"], "length", 180).stages[0]
    assert short.schedule.at == pytest.approx((100, 160))
    assert short.own["static"].at == pytest.approx((15, 30)) and short.own["static"].stop == pytest.approx(45)


def test_settings():
    recipe = RECIPES["off-rgb"]
    assert changed(recipe, "off.lr", 0.5).stages[0] == recipe.stages[0]
    assert changed(recipe, "off.lr", 0.5).stages[1].lr == 0.5
    assert [one.lr for one in changed(recipe, "lr", 0.5).stages] == [0.5, 0.5]
    assert changed(recipe, "view.size", 112).view.size == 112
    assert changed(recipe, "network.width", 0.5).arguments["width"] == 0.5
    assert changed(recipe, "batch", 8).batch == 8
    assert changed(recipe, "tsn.length", 0).stages == recipe.stages[1:]  # left out: a backbone that has learned
    for name in ("rate", "of.lr", "view.sizes", "off.batch", "network"):
        with pytest.raises(
            ValueError, match=r"^off-rgb: setting: expected one of batch, ema, degraded, .*off\.lr.*, got "
        ):
            changed(recipe, name, 1)
    assert changed(RECIPES["own-videos"], "network.partial_bn", True).arguments["partial_bn"] is True
    with pytest.raises(TypeError, match=r"^own-videos: network\.partial_bn: expected True or False, got 'no'"):
        changed(RECIPES["own-videos"], "network.partial_bn", "no")
    for name, value in (
        ("length", 0),
        ("lr", 0.0),
        ("lr", "fast"),
        ("batch", 0),
        ("ema", 1.5),
        ("optimizer", "lion"),
        ("momentum", "x"),
        ("momentum", 1.0),
        ("weight_decay", -1),
        ("weight_decay", "x"),
    ):
        with pytest.raises((ValueError, TypeError), match=rf": {name}: expected "):
            changed(recipe, name, value)


@pytest.mark.parametrize(
    ("recipe", "name"), [("off-rgb", "degraded"), ("dncnn", "view.flip"), ("off-rfcn", "view.length")]
)
def test_settings_that_would_change_nothing(recipe, name):
    with pytest.raises(ValueError, match=rf"^{recipe}: setting: expected one that its \w+ heed, got {name}$"):
        changed(RECIPES[recipe], name, 2)


def test_words_that_mean_a_python_value():
    assert [_setting(f"view.flip={word}") for word in ("False", "false", "True", "TRUE", "none", "0.5", "edge")] == [
        ("view.flip", value) for value in (False, False, True, True, None, 0.5, "edge")
    ]


# -- the command -------------------------------------------------------------------------------------------------------


def command(capsys, *words):
    status = main(["train", *map(str, words)])
    return status, *capsys.readouterr()


def test_the_recipes_are_listed_with_their_sources(capsys):
    status, out, err = command(capsys, "--list")
    assert (status, err) == (0, "")
    _, _, *lines = out.split("\n\n")[0].splitlines()
    assert [re.split(r" {2,}", line)[:2] for line in lines] == [[r.name, r.source] for r in RECIPES.values()]
    status, out, err = command(capsys, "off-rgb", "--list")
    assert (status, err) == (0, "") and re.search(r"^off\.lr +0\.02 +OFF18 §5\.1", out, re.M)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["off-rbg", "--data", "motion:tiny", "-o", "RUN"], r"no recipe 'off-rbg'. Did you mean off-rgb\? .*--list"),
        (["off-rgb", "-o", "RUN"], r"name a recipe, --data and --out, as in "),
        (["motion-off", "--data", "motion:huge", "-o", "RUN"], r"--data motion:huge: expected motion:tiny, "),
        (["motion-off", "--data", "nowhere", "-o", "RUN"], r"nowhere: not a folder"),
        (["motion-off", "--data", "motion:tiny", "-o", "RUN", "--set", "lr"], r"--set lr: expected NAME=VALUE"),
        (["motion-off", "--data", "motion:tiny", "-o", "RUN", "--set", "rate=3"], r"motion-off: setting: expected one"),
        (["motion-off", "--data", "motion:tiny", "-o", "RUN", "--set", "network.with=3"], r".*with"),
        (
            ["motion-off", "--data", "motion:tiny", "-o", "RUN", "--set", "view.frames=3"],
            r"View: frames: expected a Frames",
        ),
        (
            ["motion-off", "--data", "motion:tiny", "-o", "RUN", "--set", "view.jitter=1"],
            r"View: jitter: expected three",
        ),
        (
            ["motion-off", "--data", "motion:tiny", "-o", "RUN", "--set", "view.flip=no"],
            r"View: flip: expected True or ",
        ),
        (
            ["motion-off", "--data", "motion:tiny", "-o", "RUN", "--set", "network.classes=5"],
            r"--set network.classes=5: the data have 13 classes; leave it out",
        ),
        (
            ["motion-off", "--data", "motion:tiny", "-o", "RUN", "--set", "batch=7", "--accumulate", "2"],
            r"batch 7: exp",
        ),
        (["motion-off", "--data", "motion:tiny", "-o", "RUN", "--device", "gpu"], r"--device gpu: "),
        (["motion-off", "--data", "motion:tiny", "-o", "RUN", "--resume"], r".*RUN has no run to go on with"),
        (["motion-off", "--data", "squares", "-o", "RUN"], r"--data squares: motion-off takes no squares: name a"),
        (
            ["off-rfcn", "--data", "motion:tiny", "-o", "RUN"],
            r"--data motion:tiny: off-rfcn learns from --data squares",
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    status, out, err = command(capsys, *words)
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert re.match(rf"motionspec: {says}", err), err
    assert not (tmp_path / "RUN").exists()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (VideoError("a.avi: the file is empty; fetch it again"), "a.avi: the file is empty; fetch it again"),
        (FileNotFoundError(2, "No such file or directory", "a.avi"), "a.avi: No such file or directory"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
@pytest.mark.parametrize("reader", [False, True])
def test_what_is_wrong_with_a_file_is_one_line_also_of_a_reader(error, says, reader):
    with pytest.raises(CannotRun) as told, _one_line():
        try:
            raise error
        except (ValueError, OSError):
            if not reader:
                raise
            wrapper = torch._utils.ExceptionWrapper(where="in DataLoader worker process 0")  # as torch hands it on
        wrapper.reraise()
    text = str(told.value)
    assert all(part in text for part in says.split(": ")) and "\n" not in text and "None" not in text
    assert text == says or isinstance(error, OSError)


def test_of_several_processes_each_touches_its_own_gpu_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "77")
    status, _, err = command(capsys, "motion-rgb", "--data", "motion:tiny", "-o", tmp_path / "run")
    assert status == 2 and err.startswith("motionspec: --device cuda:77: ")


def test_a_run_by_the_command(tmp_path, capsys, monkeypatch):
    """Squares, the smallest data: trained, not overwritten, gone on with."""
    words = ["off-rfcn", "--data", "squares", "-o", tmp_path / "run", "--device", "cpu"]
    for setting in (
        "network.width=0.0625",
        "network.depth=18",
        "network.blocks=1",
        "network.k=2",
        "length=2",
        "batch=8",
    ):
        words += ["--set", setting]
    status, out, err = command(capsys, *words)
    assert (status, err) == (0, "")
    assert re.match(r"2 steps: mAP [\d.e-]+; best mAP [\d.e-]+\n.*/run: config.json, ", out)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["classes"] == ["red", "green", "blue"] and config["recipe"]["arguments"]["classes"] == 3
    status, out, err = command(capsys, *words)
    assert (status, out) == (2, "") and re.search(r"run exists: go on with its run by --resume, or name another", err)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, out, err = command(capsys, *words, "--resume")
    assert (status, err) == (0, "") and out.startswith("2 steps: mAP")
    assert out.endswith("no curves.png without matplotlib: pip install 'motionspec[figures]'\n")
    run = tmp_path / "run"
    assert main(["eval", str(run), "--data", "squares"]) == 0
    assert re.match(
        r"part test, 32 clips: mAP [\d.e-]+\n.*/run/eval: result.json, clips.csv\n", capsys.readouterr().out
    )
    assert json.loads((run / "eval" / "result.json").read_text())["data"] == "squares"
    for words, says in (
        (["eval", run, "--data", tmp_path], f"--data {tmp_path}: off-rfcn learns from --data squares"),
        (["predict", "clip.avi", "--run", run], f"{run}: predict is for classifiers; this run's recipe is measured by"),
    ):
        assert main([*map(str, words)]) == 2
        assert capsys.readouterr().err.startswith(f"motionspec: {says}")


def test_dncnn_by_the_command(tmp_path, capsys):
    cv2 = pytest.importorskip("cv2")
    for k in range(3):
        folder = tmp_path / "sequences" / "00001" / f"000{k}"
        folder.mkdir(parents=True)
        picture = cv2.resize(np.random.default_rng(k).integers(0, 256, (5, 7, 3), np.uint8), (48, 40))
        for t in range(7):
            cv2.imwrite(str(folder / f"im{t + 1}.png"), np.roll(picture, t, 1))
    (tmp_path / "sep_trainlist.txt").write_text("00001/0000\n00001/0001\n")
    (tmp_path / "sep_testlist.txt").write_text("00001/0002\n")
    words = ["dncnn", "--data", tmp_path, "-o", tmp_path / "run", "--device", "cpu", "--set", "length=1"]
    for setting in ("network.width=0.0625", "network.rest=1", "view.size=16", "batch=2"):
        words += ["--set", setting]
    status, out, err = command(capsys, *words)
    assert (status, err) == (0, "")
    assert re.match(r"Vimeo-90K septuplets in .*: train 2, test 1\n1 steps: psnr ([\d.]+); best psnr \1\n", out)
    assert main(["eval", str(tmp_path / "run"), "--data", str(tmp_path)]) == 0
    psnr = re.search(r"^1 steps: psnr ([\d.]+)", out, re.MULTILINE)[1]
    assert capsys.readouterr().out.startswith(f"part test, 1 clips: psnr {psnr}\n")
    words[4], seen = tmp_path / "large", json.loads((tmp_path / "run" / "config.json").read_text())
    assert seen["recipe"]["view"]["size"] == 16 and 33 < seen["psnr"] < 35
    status, _, err = command(capsys, *words, "--set", "view.size=99")  # the size is that of the squares
    assert status == 2 and "48 x 40, and the square has a side of 99" in err


def test_flow_of_pairs_and_a_classifier_on_it_by_the_command(tmp_path, capsys):
    cv2 = pytest.importorskip("cv2")
    chairs, run = tmp_path / "chairs", tmp_path / "run"
    chairs.mkdir()
    for k in range(3):
        picture = cv2.resize(np.random.default_rng(k).integers(0, 256, (10, 14, 3), np.uint8), (56, 40))
        for t in (0, 1):
            cv2.imwrite(str(chairs / f"0000{k}_img{t + 1}.ppm"), np.roll(picture, 2 * t, 1))
        write_flo(chairs / f"0000{k}_flow.flo", np.stack([np.full((40, 56), 2.0), np.zeros((40, 56))]))
    (chairs / "FlyingChairs_train_val.txt").write_text("1\n1\n2\n")
    settings = ["--device", "cpu", "--set", "network.width=0.0625", "--set", "view.size=32", "--set", "view.short=40"]
    settings += ["--set", "batch=2"]
    words = ["actionflownet-2f-flow", "--data", chairs, "-o", run, *settings, "--set", "length=1"]
    status, out, err = command(capsys, *words)
    assert (status, err) == (0, "")
    epe = re.match(r"FlyingChairs in .*: train 2, val 1\n1 steps: epe ([\d.]+), outliers ", out)[1]
    assert main(["eval", str(run), "--data", str(chairs)]) == 0
    assert capsys.readouterr().out.startswith(f"part val, 1 clips: epe {epe}, outliers ")
    for recipe, says in (
        ("actionflownet-2f", "FlyingChairs has flow and no classes: actionflownet-2f-flow learns from it"),
        ("actionflownet-flow", "FlyingChairs has pairs of frames: actionflownet-2f-flow learns from them"),
    ):
        status, out, err = command(capsys, recipe, "--data", chairs, "-o", tmp_path / "other")
        assert (status, out) == (2, "") and err == f"motionspec: --data {chairs}: {says}\n"
    stacked = networks()["actionflownet-stacked"].build(classes=3, width=0.0625)
    report = begin(stacked, run / "last.safetensors", ["network.fc"])
    flow = load_file(run / "last.safetensors")
    assert len(report.loaded) == len(flow) == len(stacked.flownet.state_dict())
    assert all(torch.equal(flow[name], value) for name, value in stacked.flownet.state_dict().items())
