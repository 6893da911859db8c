"""The folder of a run: what it was made by, what it has come to, and what it needs to go on."""

import csv
import dataclasses
import importlib.util
import io
import json
import logging
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

import motionspec
from motionspec.files import replaced
from motionspec.train.pictures import drawn

__all__ = ["Run", "RunError", "different", "plain"]


COLUMNS = (
    *("step", "epoch", "stage", "lr", "loss", "gradient", "seconds"),
    *("measure", "score", "test_loss", "train_score", "train_loss"),
)
_RESUME = "motionspec resume 1"  # first entry of every resume.pt


class RunError(ValueError):
    """A run that cannot begin or go on; one line that says what to do."""


def plain(value: Any) -> Any:
    """What a recipe consists of as JSON knows it: functions by name, schedules as they are written."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if callable(value):
            return repr(value)
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    return f"{value.__module__}.{value.__qualname__}" if callable(value) else value


class Run:
    """A run folder, new or gone on with.

    config: what the run is made by, for JSON; one with another does not go on. resume: whether it may exist.
    tensorboard: whether to write the log for TensorBoard too.
    state: what `save` last wrote, or None. Raises RunError for a folder that is in use, of another run or damaged.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], *, resume: bool, tensorboard: bool = False):
        if importlib.util.find_spec("safetensors") is None:
            raise RunError("weights are kept as safetensors: pip install 'motionspec[weights]'")
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise RunError("--tensorboard: pip install 'motionspec[tensorboard]'") from error
        self.folder, self.config = folder, json.loads(json.dumps(config))
        self.state: dict[str, Any] | None = None
        if resume:
            self._continue()
        elif folder.exists() and (
            not folder.is_dir() or any(not file.name.startswith(".") for file in folder.iterdir())
        ):
            raise RunError(f"{folder} exists: go on with its run by --resume, or name another folder")
        self._made, self._begun = not folder.exists(), self.state is not None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            starts = self._read("environment.json", [])
            for name, value in {"config": self.config, "environment": [*starts, environment()]}.items():
                with replaced(folder / f"{name}.json") as file:
                    file.write((json.dumps(value, indent=2) + "\n").encode())
        except OSError as error:
            raise RunError(f"{folder}: {error.strerror}; name a folder that can be written") from error
        self._log = self._opened_log()
        self._drawn = -math.inf
        self._undrawn = ""
        self._board: Any = None
        if tensorboard:  # hides what an earlier start wrote after the last save
            first = self.state["done"] + 1 if self.state else 1
            self._board = SummaryWriter(folder / "tensorboard", purge_step=first)

    def _continue(self) -> None:
        file = self.folder / "resume.pt"
        found = self._read("config.json", None)
        if found is None:
            raise RunError(f"{self.folder} has no run to go on with: leave --resume out, or name its folder")
        _same(self.folder, found, self.config)
        if not file.exists():  # stopped before its first step
            return
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            kind = next(iter(state)) if isinstance(state, dict) else None
        except Exception as error:  # whatever a damaged pickle or archive leads to
            raise RunError(
                f"{file} is damaged ({type(error).__name__}): begin again in another folder; the weights in "
                "last.safetensors may be whole"
            ) from error
        if kind != _RESUME:
            raise RunError(f"{file} was not written by this version of motionspec train: begin again in another folder")
        _same(file, state[_RESUME], self.config)
        self.state = state

    def _read(self, name: str, missing: Any) -> Any:
        file = self.folder / name
        try:
            return json.loads(file.read_text()) if file.exists() else missing
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{file} is damaged: begin again in another folder") from error

    def _opened_log(self) -> Any:
        """log.csv without what came after the last save, which is done again."""
        file, rows = self.folder / "log.csv", []
        last = self.state["done"] if self.state else 0
        if file.exists():
            with file.open(newline="") as log:
                rows = [row for row in csv.reader(log) if row and row[0].isdigit() and int(row[0]) <= last]
        with replaced(file) as kept:
            text = io.StringIO(newline="")
            csv.writer(text).writerows([COLUMNS, *rows])
            kept.write(text.getvalue().encode())
        log = file.open("a", newline="")
        self._writer = csv.writer(log)
        return log

    def log(self, **row: Any) -> None:
        """A line of log.csv, where what has no value stays empty, and the same for TensorBoard."""
        self._begun = True
        self._writer.writerow([row.get(column, "") for column in COLUMNS])
        if self._board:
            shown = {name: row[name] for name in ("loss", "gradient", "lr")}
            if "score" in row:
                shown |= {f"test/{row['measure']}": row["score"], "test/loss": row["test_loss"]}
                trained = {f"train/{row['measure']}": row.get("train_score", "")}
                shown |= trained | {"train/loss": row.get("train_loss", "")}
            for name, value in shown.items():
                if value != "":
                    self._board.add_scalar(name, value, row["step"])

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace resume.pt, at once or not at all."""
        self._log.flush()
        if self._board:
            self._board.flush()
        whole = {_RESUME: self.config, **state}
        file = self.folder / "resume.pt"
        with replaced(file) as opened:
            try:
                torch.save(whole, opened)
            except RuntimeError as error:  # what torch makes of an OSError while it closes its archive
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from error
                raise

    def weights(self, name: str, network: nn.Module) -> None:
        """Replace NAME.safetensors."""
        from safetensors.torch import save

        state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
        with replaced(self.folder / f"{name}.safetensors") as file:
            file.write(save(state))

    def draw(self, now: bool) -> None:
        """curves.png of log.csv, where matplotlib is installed; twice a minute will do if not `now`."""
        if not now and time.monotonic() < self._drawn + 30:
            return
        self._drawn = time.monotonic()
        file = self.folder / "curves.png"
        why = drawn(file, self._draw) if importlib.util.find_spec("matplotlib") else ""
        if why and why != self._undrawn:
            logging.getLogger("motionspec").warning(why)
            self._undrawn = why  # said once

    def _draw(self, picture: Path) -> None:
        from matplotlib.figure import Figure

        self._log.flush()
        with (self.folder / "log.csv").open(newline="") as log:
            rows = list(csv.DictReader(log))
        figure = Figure(figsize=(8, 9), layout="constrained")
        curves(figure, rows, self.config)
        figure.savefig(picture, dpi=100, format="png")

    def close(self) -> None:
        """Of a run that ended before its first step nothing is left, so that the same command begins again."""
        self._log.close()
        if self._board:
            self._board.close()
        if not self._begun:
            for name in ("config.json", "environment.json", "log.csv", "resume.pt"):
                (self.folder / name).unlink(missing_ok=True)
            shutil.rmtree(self.folder / "tensorboard", ignore_errors=True)
            if self._made:
                with suppress(OSError):  # of other files in it: the error that ends the run is not to be hidden
                    self.folder.rmdir()


# What a measure is of, with its unit.
_UNITS = {
    "accuracy": "accuracy (share of samples)",
    "mAP": "mean average precision",
    "epe": "end-point error (pixels)",
    "psnr": "PSNR (dB)",
}
_TRAIN, _TEST = "#b2182b", "#2166ac"


def curves(figure: Any, rows: Sequence[Mapping[str, str]], config: Mapping[str, Any]) -> None:
    """The measure and its loss, of training and test samples alike, and below them what the optimizer lowers.

    That, the objective, has an axis of its own because it may be a sum of several losses, of networks in training mode.
    """
    measures = [*dict.fromkeys(row["measure"] for row in rows if row["measure"])]
    panels: list[tuple[str, dict[str, list[tuple[int, float]]]]] = [
        (_UNITS.get(name, name), _pair([row for row in rows if row["measure"] == name], "train_score", "score"))
        for name in measures
    ]
    losses = _pair([row for row in rows if row["measure"]], "train_loss", "test_loss")
    if any(losses.values()):
        panels.append(("cross entropy of the prediction (nats)" if "accuracy" in measures else "loss", losses))
    panels.append((f"objective ({_objectives(config)})", {"each step of the training": _points(rows, "loss")}))
    figure.set_size_inches(8, 1 + 2.6 * len(panels))
    figure.suptitle(f"{config.get('recipe', {}).get('name', 'training')}: training and test samples, measured alike")
    every = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axes, (label, lines) in zip(every, panels, strict=True):
        _draw(axes, label, lines)
    classes = config.get("classes") or ()
    for axes, (label, _) in zip(every, panels, strict=True):
        if label == _UNITS["accuracy"]:
            axes.set_ylim(-0.02, 1.02)
            if classes:
                said = f"chance, 1 of {len(classes)} classes"
                axes.axhline(1 / len(classes), color="#555555", linestyle=":", linewidth=1, label=said)
                axes.legend()
    batch = config.get("recipe", {}).get("batch")
    every[-1].set_xlabel(f"step (a batch of {batch} samples)" if batch else "step")


def _pair(rows: Sequence[Mapping[str, str]], train: str, test: str) -> dict[str, list[tuple[int, float]]]:
    return {"training samples": _points(rows, train), "test samples": _points(rows, test)}


def _points(rows: Sequence[Mapping[str, str]], column: str) -> list[tuple[int, float]]:
    """Step and value of the rows that have one; the log of an older version lacks some columns."""
    return [(int(row["step"]), float(row[column])) for row in rows if row.get(column)]


def _objectives(config: Mapping[str, Any]) -> str:
    """The losses of the stages by name."""
    stages = config.get("recipe", {}).get("stages", ())
    names = dict.fromkeys(str(stage["loss"]).rpartition(".")[2].partition("(")[0] for stage in stages)
    return ", then ".join(names) or "loss"


def _draw(axes: Any, label: str, lines: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    colours = {"training samples": _TRAIN, "test samples": _TEST}
    for name, points in lines.items():
        if points:
            marker = "." if len(points) < 50 else ""
            axes.plot(*zip(*points, strict=True), label=name, color=colours.get(name), linewidth=1, marker=marker)
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    axes.legend()


def environment() -> dict[str, Any]:
    """What a run depends on besides its settings."""
    try:
        root = Path(__file__).resolve().parents[1]
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
        commit = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = ""
    cuda = torch.cuda.is_available()
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "motionspec": motionspec.__version__,
        "commit": commit or None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", 1)),
    }


def _same(where: Path, found: Any, wanted: Any) -> None:
    """Raise RunError unless the run there was made by what is wanted now."""
    if differ := different(found, wanted):
        raise RunError(
            f"{where} is of a run with other settings ({differ}): repeat its settings, or begin in another folder"
        )


def different(found: Any, wanted: Any) -> str:
    """What differs between two values of JSON, the first two places; "" where nothing does."""
    each = [f"{name}: {a!r} there, {b!r} here" for name, a, b in _differences(found, wanted)]
    return "; ".join(each[:2]) + (f" and {len(each) - 2} more" if len(each) > 2 else "")


def _differences(a: Any, b: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = dict.fromkeys([*a, *b])
        return [d for key in keys for d in _differences(a.get(key), b.get(key), f"{name}.{key}" if name else key)]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [d for k, pair in enumerate(zip(a, b, strict=True)) for d in _differences(*pair, f"{name}[{k}]")]
    return [] if a == b else [(name, a, b)]
