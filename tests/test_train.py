"""Training: what a stopped run comes to, what a batch in parts is equal to, what is refused."""

import csv
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import time
from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file  # noqa: E402
from torch import nn  # noqa: E402
from training import FEATURES, Frozen, Points, Told, network, recipe, run, share, stage  # noqa: E402

from motionspec.models.off_tsn import OFFNetwork  # noqa: E402
from motionspec.train import objectives, runs  # noqa: E402
from motionspec.train.loop import Diverged, Interrupted, fit  # noqa: E402
from motionspec.train.recipes import Cosine, Drops, Plateau  # noqa: E402
from motionspec.train.runs import Run, RunError, plain  # noqa: E402


@pytest.fixture(scope="module")
def children():
    """Processes that have torch, and what it imports late, but no threads of OpenMP, with which a fork would hang."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["motionspec.train.loop", "torch._dynamo", "matplotlib.figure"])
    return context


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nobody stops."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    net, result = run(folder)
    assert result.steps == 36
    return folder, net


def equal(a, b):
    """Whether two state dicts are the same, bit for bit."""
    assert a.keys() == b.keys()
    return all(torch.equal(a[key], b[key]) for key in a)


def log(folder):
    with (folder / "log.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def fitted(folder, of=None, net=None, train=None, test=None, **options):
    net = Frozen() if net is None else net
    result = fit(of or recipe(ema=None), net, train or Points(), test, run=folder, device="cpu", **options)
    return net, result


# -- stopped and resumed -----------------------------------------------------------------------------------------------


def test_killed_three_times_and_resumed_it_ends_with_the_same_bits(tmp_path, whole, children):
    folder, seed = tmp_path / "run", random.randrange(2**32)
    moments = random.Random(seed)
    for _ in range(3):
        options = {"resume": (folder / "config.json").exists(), "seconds": 0.1}
        child = children.Process(target=run, args=(folder,), kwargs=options)
        child.start()
        begun = time.monotonic()
        while not (folder / "resume.pt").exists() and time.monotonic() < begun + 60:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.8))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL, seed  # it had not ended yet
    net, _ = run(folder, resume=True)
    expected, unstopped = whole
    assert equal(net.state_dict(), unstopped.state_dict()), seed
    for name in ("last", "best"):
        assert equal(load_file(folder / f"{name}.safetensors"), load_file(expected / f"{name}.safetensors")), (
            name,
            seed,
        )
    assert log(folder) == log(expected), seed
    assert len(json.loads((folder / "environment.json").read_text())) >= 2


@pytest.mark.parametrize(
    ("number", "epoch", "place"),
    [(signal.SIGINT, 2, "step 13 of 24 of stage one"), (signal.SIGTERM, 5, "step 7 of 12 of stage two")],
)
def test_told_to_stop_it_leaves_a_run_that_goes_on(tmp_path, whole, number, epoch, place):
    class Impatient(Points):
        told = False

        def __getitem__(self, key):
            if key[0] == epoch and not self.told:
                self.told = True
                os.kill(os.getpid(), number)
            return super().__getitem__(key)

    both = recipe(stage("one", length=4), stage("two", length=12, unit="steps", optimizer="adam", lr=0.01))
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"^stopped at {place}$"):
        fit(both, network(), Impatient(), Points(), run=tmp_path / "run", device="cpu", save_every=1000)
    assert signal.getsignal(number) is before
    net, _ = run(tmp_path / "run", resume=True)
    assert equal(net.state_dict(), whole[1].state_dict())
    for name in ("last", "best"):  # the mean of the weights
        assert equal(*(load_file(folder / f"{name}.safetensors") for folder in (tmp_path / "run", whole[0])))


def test_told_to_stop_with_its_readers_it_leaves_a_run_that_goes_on(tmp_path, whole):
    both = recipe(stage("one", length=4), stage("two", length=12, unit="steps", optimizer="adam", lr=0.01))
    with pytest.raises(Interrupted):
        fit(both, network(), Told(), Points(), run=tmp_path / "run", device="cpu", save_every=1000, workers=1)
    net, _ = run(tmp_path / "run", resume=True)
    assert equal(net.state_dict(), whole[1].state_dict())


def test_a_kill_right_after_going_on_costs_no_line_of_the_log(tmp_path, whole):
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    config = json.loads((folder / "config.json").read_text())
    going_on = Run(folder, config, resume=True)
    going_on.log(step=37)
    assert log(folder) == log(whole[0])  # what a kill would leave
    going_on.close()
    assert len(log(folder)) == 37


def test_a_run_that_is_complete_is_left_as_it_is(whole):
    folder, net = whole
    lines = log(folder)
    again, result = run(folder, resume=True)
    assert equal(again.state_dict(), net.state_dict()) and log(folder) == lines
    assert result.steps == 36 and result.best is not None and set(result.measured) == {"accuracy", "loss"}


# -- equal to --------------------------------------------------------------------------------------------------------


def test_a_batch_in_parts_equals_the_whole(tmp_path):
    one, _ = fitted(tmp_path / "whole")
    parts, _ = fitted(tmp_path / "parts", accumulate=2)
    before = Frozen().state_dict()
    for key, value in one.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[key], value, rtol=1e-12, atol=1e-12)
    assert not equal(before, one.state_dict())


def test_two_processes_equal_one_with_their_batches_together(tmp_path, children):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pair = [children.Process(target=share, args=(tmp_path / "two", rank, 2, port, 2)) for rank in range(2)]
    for process in pair:
        process.start()
    for process in pair:
        process.join(120)
        assert process.exitcode == 0
    one, _ = fitted(tmp_path / "one", test=Points())
    for name, value in load_file(tmp_path / "two" / "last.safetensors").items():
        torch.testing.assert_close(value, one.state_dict()[name], rtol=1e-10, atol=1e-12)
    for two, alone in zip(log(tmp_path / "two"), log(tmp_path / "one"), strict=True):
        for column in ("loss", "gradient", *(("score", "test_loss") if alone["score"] else ())):
            assert float(two[column]) == pytest.approx(float(alone[column]), rel=1e-6, abs=1e-9), (column, alone)


@pytest.mark.parametrize(
    ("decay", "decays"),
    [(0.999, [2 / 11, 3 / 12, 4 / 13, 5 / 14]), (0.3, [2 / 11, 3 / 12, *[0.3] * 5])],  # short: near the weights
)
def test_the_weights_that_are_kept_are_the_mean_over_time(tmp_path, decay, decays):
    seen = []

    def loss(net, batch):
        seen.append(net.body[3].weight.detach().clone())
        return objectives.classification(net, batch)

    net, _ = fitted(
        tmp_path / "run", recipe(stage(loss=loss, length=len(decays) + 1, unit="steps"), ema=decay), test=Points()
    )
    _, mean, *others = [*seen, net.body[3].weight.detach()]
    for d, weight in zip(decays, others, strict=True):
        mean = d * mean + (1 - d) * weight
    kept = load_file(tmp_path / "run" / "last.safetensors")["body.3.weight"]
    torch.testing.assert_close(kept, mean, rtol=1e-12, atol=1e-12)
    assert (kept - net.body[3].weight).abs().max() > 1e-3


def test_the_gradient_is_clipped(tmp_path):
    steps = []

    class Watched(Frozen):
        def forward(self, clip):
            steps.append([p.detach().clone() for p in self.parameters()])
            return super().forward(clip)

    of = recipe(stage(length=5, unit="steps", clip=0.01, momentum=0.0), ema=None)
    net, _ = fitted(tmp_path / "run", of, Watched())
    steps.append([p.detach() for p in net.parameters()])
    for before, after in pairwise(steps):
        moved = math.sqrt(sum(float((b - a).square().sum()) for a, b in zip(before, after, strict=True)))
        assert moved == pytest.approx(0.1 * 0.01, rel=1e-3)


# -- stages ------------------------------------------------------------------------------------------------------------


def test_the_backbone_learns_first_and_then_stays_with_its_statistics(tmp_path):
    class Videos(Points):
        def __len__(self):
            return 2

        def __getitem__(self, key):
            return super().__getitem__(key) | {
                "clip": torch.rand(3, 2, 40, 40, generator=torch.Generator().manual_seed(sum(key)))
            }

    states = []

    def watched(loss):
        def observed(net, batch):
            states.append({k: v.clone() for k, v in net.state_dict().items()})
            return loss(net, batch)

        return observed

    net = OFFNetwork(2, width=1 / 16)
    begin = {k: v.clone() for k, v in net.state_dict().items()}
    tsn = stage("tsn", of="backbone", length=2, loss=watched(objectives.classification))
    off = stage("off", length=2, lr=0.02, loss=watched(objectives.intermediate))
    fitted(tmp_path / "run", recipe(tsn, off, batch=2, ema=None), net, Videos())
    end, (_, _, middle, _) = net.state_dict(), states
    moved = {k for k in end if not torch.equal(begin[k], middle[k])}
    assert {k.split(".")[0] for k in moved} == {"backbone"} and "backbone.fc.weight" in moved
    assert "backbone.backbone.conv1.7x7_s2.bn.running_mean" in moved
    later = {k for k in end if not torch.equal(middle[k], end[k])}
    assert {k.split(".")[0] for k in later} == {"off"}
    assert {k for k, p in net.named_parameters() if k.startswith("off.")} == later


def test_only_a_part_learns_and_the_rest_keeps_its_statistics(tmp_path):
    net = network()
    begin = {k: v.clone() for k, v in net.state_dict().items()}
    fitted(tmp_path / "run", recipe(stage(only=("3",)), ema=None), net)
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, begin[k])}
    assert changed == {"3.weight", "3.bias"}
    assert all(p.requires_grad for p in net.parameters())


def test_what_a_network_freezes_stays_frozen(tmp_path):
    net = Frozen()
    net.body[0].requires_grad_(False)
    begin = {k: v.clone() for k, v in net.state_dict().items()}
    fitted(tmp_path / "run", net=net)
    kept = {k for k, v in net.state_dict().items() if torch.equal(v, begin[k])}
    assert {"body.0.weight", "body.0.bias"} <= kept and "body.3.weight" not in kept
    assert [p.requires_grad for p in net.body[0].parameters()] == [False, False]


def test_schedules():
    drops = Drops(at=(10, 15), stop=18)
    assert [drops(t, 20) for t in (0, 9, 10, 14, 15, 17, 18)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0])
    assert [Cosine()(t, 20) for t in (0, 5, 10, 15)] == pytest.approx(
        [1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)]
    )
    assert [Cosine(cycles=4)(t, 20) for t in (0, 2.5, 5, 7.5)] == pytest.approx([1, 0.5, 1, 0.5])


def test_rates_are_those_of_the_schedule_in_steps_and_in_epochs(tmp_path):
    in_steps = stage(length=8, unit="steps", schedule=Drops(at=(3,)))
    in_epochs = stage("two", length=3, schedule=Drops(at=(1, 2), factor=0.5))
    fitted(tmp_path / "run", recipe(in_steps, in_epochs, ema=None))
    rates = [float(row["lr"]) for row in log(tmp_path / "run")]
    assert rates == pytest.approx([0.1] * 3 + [0.01] * 5 + [0.1] * 6 + [0.05] * 6 + [0.025] * 6)


def test_groups_have_rates_and_schedules_of_their_own(tmp_path):
    class Grouped(Frozen):
        def groups(self, lr):
            return [
                {"name": "first", "params": self.body[0].parameters(), "lr": 0.1 * lr},
                {"name": "rest", "params": [*self.body[1].parameters(), *self.body[3].parameters()], "lr": lr},
            ]

    seen = []

    def loss(net, batch):
        seen.append(net.body[0].weight.detach().clone())
        return objectives.classification(net, batch)

    of = recipe(stage(loss=loss, length=6, unit="steps", own={"first": Drops(stop=3)}), ema=None)
    fitted(tmp_path / "run", of, Grouped())
    assert [not torch.equal(a, b) for a, b in pairwise(seen)] == [True, True, True, False, False]


def test_the_rate_drops_where_the_test_loss_stays(tmp_path):
    def stuck(net, batch):
        return [{"accuracy": 0.5, "loss": 1.0}]

    of = recipe(stage(length=8, schedule=Plateau(patience=2), measure=stuck), ema=None)
    fitted(tmp_path / "run", of, test=Points())
    rates = [float(row["lr"]) for row in log(tmp_path / "run")][::6]
    assert rates == pytest.approx([0.1] * 4 + [0.01] * 3 + [0.001])
    fitted(tmp_path / "seldom", of, test=Points(), measure_every=2)
    rates = [float(row["lr"]) for row in log(tmp_path / "seldom")][::6]
    assert rates == pytest.approx([0.1] * 6 + [0.01] * 2)  # epoch 4 is 2 after the best, not more than patience
    with pytest.raises(RunError, match=r"^stage one: its schedule needs test data that give a loss$"):
        fitted(tmp_path / "other", of)


def test_of_equal_scores_that_with_the_lower_loss_is_best(tmp_path):
    states = []

    def equal_scores(net, batch):
        epoch = len(states) // 12  # six batches of the test data, six of the training
        states.append({name: value.clone() for name, value in net.state_dict().items()})
        return [{"accuracy": 0.5, "loss": (3.0, 1.0, 2.0)[epoch]}]

    _, result = fitted(tmp_path / "run", recipe(stage(measure=equal_scores), ema=None), test=Points())
    assert result.best == 0.5 and equal(load_file(tmp_path / "run" / "best.safetensors"), states[12])


# -- refused -----------------------------------------------------------------------------------------------------------


def test_a_folder_is_not_overwritten(tmp_path, whole):
    folder, _ = whole
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(RunError, match=r"run exists: go on with its run by --resume, or name another folder$"):
        run(folder)
    assert before == {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(RunError, match=r"none has no run to go on with: leave --resume out, or name its folder$"):
        run(tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_what_fails_before_its_first_step_is_not_in_the_way(tmp_path):
    class Unplugged(Points):
        def __init__(self, reads):
            super().__init__()
            self.reads = reads

        def __getitem__(self, key):
            self.reads -= 1
            if self.reads < 0:
                raise OSError("unplugged")
            return super().__getitem__(key)

    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        with pytest.raises(OSError, match="unplugged"):
            fitted(tmp_path / name, train=Unplugged(0), tensorboard=True)
        assert [*tmp_path.iterdir()] == [tmp_path / "empty"] and not [*(tmp_path / "empty").iterdir()]
    folder = tmp_path / "run"
    for reads in (30, 0):  # after a step all stays, also if the next start has none
        with pytest.raises(OSError, match="unplugged"):
            fitted(folder, train=Unplugged(reads), resume=folder.exists())
    assert len(log(folder)) == 6
    fitted(folder, resume=True)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: data[: len(data) // 2], r"resume.pt is damaged \(\w+\): begin again in another folder"),
        (lambda data: b"", r"resume.pt is damaged \(\w+\): begin again"),
        (lambda data: b"not ours" * 100, r"resume.pt is damaged \(\w+\): begin again"),
    ],
)
def test_a_damaged_resume_file_is_named(tmp_path, whole, damage, says):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.json", "resume.pt"):
        (folder / name).write_bytes((whole[0] / name).read_bytes())
    file = folder / "resume.pt"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(RunError, match=says):
        run(folder, resume=True)


def test_a_foreign_resume_file_is_named(tmp_path, whole):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_bytes((whole[0] / "config.json").read_bytes())
    torch.save({"epoch": 3, "state_dict": {}}, folder / "resume.pt")
    with pytest.raises(RunError, match=r"resume.pt was not written by this version of motionspec train: begin again"):
        run(folder, resume=True)
    (folder / "resume.pt").write_bytes((whole[0] / "resume.pt").read_bytes())
    with pytest.raises(
        RunError, match=r"run is of a run with other settings \(recipe.batch: 4 there, 6 here\): repeat"
    ):
        run(
            folder,
            resume=True,
            of=recipe(
                stage("one", length=4), stage("two", length=12, unit="steps", optimizer="adam", lr=0.01), batch=6
            ),
        )
    other, _ = tmp_path / "other", run(tmp_path / "other", of=recipe())
    (folder / "resume.pt").write_bytes((other / "resume.pt").read_bytes())
    with pytest.raises(RunError, match=r"resume.pt is of a run with other settings \(recipe.stages: "):
        run(folder, resume=True)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_not_a_number_stops_with_the_last_good_state(tmp_path, where):
    def loss(net, batch):
        value = objectives.classification(net, batch)
        if len(log_of.seen) == 7:
            value = value * math.nan if where == "loss" else value + (net.body[0].weight[0, 0] * 0).sqrt()
        log_of.seen.append(0)
        return value

    class log_of:
        seen: list = []  # noqa: RUF012

    of = recipe(stage(loss=loss), ema=None)
    with pytest.raises(
        Diverged, match=r"at step 8 \(stage one, lr 0.1\): not finite; begin again with a lower lr or a clip$"
    ):
        fitted(tmp_path / "run", of, save_every=2)
    state = torch.load(tmp_path / "run" / "resume.pt", weights_only=True)
    assert state["step"] == 6 and all(v.isfinite().all() for v in state["network"].values())


@pytest.mark.parametrize(
    ("changes", "options", "says"),
    [
        ({"batch": 5}, {"accumulate": 2}, r"^batch 5: expected a multiple of 1 processes x 2 parts$"),
        ({"batch": 25}, {}, r"^24 training samples do not make a batch of 25: take a smaller one$"),
        ({}, {"precision": "float16"}, r"^fit: precision: expected one of 'float32', 'bfloat16', got 'float16'$"),
        ({}, {"save_every": 0}, r"^fit: save_every: expected at least 1, got 0$"),
    ],
)
def test_settings_that_cannot_be(tmp_path, changes, options, says):
    with pytest.raises(ValueError, match=says):
        fitted(tmp_path / "run", recipe(ema=None, **changes), **options)
    assert not (tmp_path / "run").exists()


# -- the folder --------------------------------------------------------------------------------------------------------


def test_the_folder_says_what_was_done(whole):
    folder, _ = whole
    names = {"config.json", "environment.json", "log.csv", "curves.png", "best.safetensors", "last.safetensors"}
    assert {file.name for file in folder.iterdir()} == names | {"resume.pt"}
    config = json.loads((folder / "config.json").read_text())
    assert config["seed"] == 0 and config["samples"] == 24 and config["recipe"]["batch"] == 4
    assert config["recipe"]["stages"][0]["loss"] == "motionspec.train.objectives.classification"
    (start, *_) = json.loads((folder / "environment.json").read_text())
    assert {"torch", "commit", "threads", "device", "python", "motionspec"} <= start.keys()
    rows = log(folder)
    assert [int(row["step"]) for row in rows] == [*range(1, 37)]
    assert [row["stage"] for row in rows] == ["one"] * 24 + ["two"] * 12
    scores = [row["score"] for row in rows]
    assert [k + 1 for k, score in enumerate(scores) if score] == [6, 12, 18, 24, 30, 36]
    for row in rows:
        assert bool(row["train_score"]) == bool(row["train_loss"]) == bool(row["score"])
    assert (folder / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert all(file.stat().st_mode & 0o777 == (folder / "log.csv").stat().st_mode & 0o777 for file in folder.iterdir())


def test_curves_set_beside_each_other_what_may_be_compared(tmp_path):
    """Accuracy of training and test with chance, the same loss of both; the sum that is minimised has its own axis."""
    figure = pytest.importorskip("matplotlib.figure").Figure()
    of = recipe(stage(loss=objectives.branches))
    fitted(tmp_path / "run", recipe(ema=None), test=Points(), about={"classes": ["a", "b"]})
    config = json.loads((tmp_path / "run" / "config.json").read_text()) | {"recipe": plain(of)}
    rows = log(tmp_path / "run")
    runs.curves(figure, rows, config)
    accuracy, loss, objective = figure.axes
    (train, test, chance), (train_loss, test_loss) = accuracy.lines, loss.lines
    assert [line.get_label() for line in accuracy.lines][:2] == ["training samples", "test samples"]
    measured = [row for row in rows if row["score"]]
    for line, column in {train: "train_score", test: "score", train_loss: "train_loss", test_loss: "test_loss"}.items():
        assert [*line.get_xdata()] == [int(row["step"]) for row in measured]
        assert [*line.get_ydata()] == [float(row[column]) for row in measured]
    assert set(chance.get_ydata()) == {0.5} and chance.get_label() == "chance, 1 of 2 classes"
    assert len(objective.lines) == 1 and len(objective.lines[0].get_xdata()) == len(rows)
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "accuracy (share of samples)",
        "cross entropy of the prediction (nats)",
        "objective (branches)",
    ]
    assert figure.get_suptitle() and objective.get_xlabel() == "step (a batch of 4 samples)"


def test_training_samples_are_measured_as_the_test_data_are(tmp_path):
    """With the same data in both parts both have the same numbers, whatever the objective was."""
    fitted(tmp_path / "run", recipe(ema=None), test=Points())
    for row in log(tmp_path / "run"):
        assert (row["train_score"], row["train_loss"]) == (row["score"], row["test_loss"])


def test_tensorboard_shows_what_the_log_says(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    class Failing(Points):
        read = 0

        def __getitem__(self, key):
            self.read += 1
            if self.read > 4 * 7 + 24:  # in step 8; the last save is of step 6, where all 24 are measured too
                raise OSError("unplugged")
            return super().__getitem__(key)

    folder, of = tmp_path / "run", recipe(stage(length=2))
    with pytest.raises(OSError, match="unplugged"):
        fitted(folder, of, train=Failing(), test=Points(), tensorboard=True)
    fitted(folder, of, test=Points(), resume=True, tensorboard=True)
    shown = accumulators.EventAccumulator(str(folder / "tensorboard"))
    shown.Reload()
    rows = log(folder)
    for name in ("loss", "gradient", "lr"):
        points = [(event.step, event.value) for event in shown.Scalars(name)]
        assert points == [(int(row["step"]), pytest.approx(float(row[name]), rel=1e-6)) for row in rows], name
    columns = {"test/accuracy": "score", "test/loss": "test_loss"}
    columns |= {"train/accuracy": "train_score", "train/loss": "train_loss"}
    for name, column in columns.items():
        points = [(event.step, event.value) for event in shown.Scalars(name)]
        assert points == [(6, pytest.approx(float(rows[5][column]))), (12, pytest.approx(float(rows[11][column])))]


def test_without_tensorboard_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(RunError, match=r"^--tensorboard: pip install 'motionspec\[tensorboard\]'$"):
        fitted(tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()


def test_every_sample_once_an_epoch_and_each_epoch_in_another_order(tmp_path):
    class Noting(Points):
        seen: list = []  # noqa: RUF012

        def __getitem__(self, key):
            self.seen.append(key)
            return super().__getitem__(key)

    fitted(
        tmp_path / "run", recipe(stage("one", length=8, unit="steps"), stage("two", length=1), ema=None), train=Noting()
    )
    epochs = [Noting.seen[:24], Noting.seen[24:32], Noting.seen[32:]]
    assert [sorted(index for _, index in epoch) for epoch in (epochs[0], epochs[2])] == [[*range(24)]] * 2
    assert [{e for e, _ in epoch} for epoch in epochs] == [{0}, {1}, {2}]  # the second stage begins an epoch of its own
    assert [i for _, i in epochs[0]] != [i for _, i in epochs[2]]


def test_bfloat16_is_of_the_computation_not_of_the_weights(tmp_path):
    seen = []

    class Half(nn.Linear):
        def forward(self, clip):
            seen.append(super().forward(clip))
            return seen[-1].float()

    net = Half(FEATURES, 2)
    fitted(tmp_path / "run", net=net, precision="bfloat16")
    assert {value.dtype for value in seen} == {torch.bfloat16} and net.weight.dtype == torch.float32
