"""`motionspec eval` and `motionspec predict`: what a trained network says of a data set, and of one video."""

import argparse
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import motionspec
from motionspec.checks import printable
from motionspec.cli.demo import Picture, said_environment, usable, write_report
from motionspec.cli.demo_model import Ran, map_pictures
from motionspec.cli.runner import CannotRun
from motionspec.cli.text import table
from motionspec.cli.train import meet, source, with_flow
from motionspec.data.clips import Clips, View
from motionspec.data.frames import septuplets
from motionspec.data.layouts import SEPTUPLETS, locate
from motionspec.data.lists import first_part
from motionspec.data.restoration import Windows
from motionspec.data.source import NO_LABEL
from motionspec.data.video import Videos
from motionspec.files import write_text
from motionspec.progress import Progress
from motionspec.train import evaluate
from motionspec.train.detection import Squares
from motionspec.train.evaluate import Scores, Trained, trained
from motionspec.train.runs import different, environment

SHOWN = 20  # classes, and clips that were skipped, in the terminal


# -- eval --------------------------------------------------------------------------------------------------------------


def run_eval(arguments: argparse.Namespace, progress: Progress) -> list[str]:
    """`motionspec eval`: what to print. Raises CannotRun, ValueError, TypeError or OSError with one line."""
    device = usable(arguments.device)
    named = [(arguments.run_folder, 1.0), *map(_weighted, arguments.fuse)]
    runs = [(trained(folder, arguments.checkpoint), weight) for folder, weight in named]
    first = runs[0][0]
    if not all(run.classifies for run, _ in runs) and (arguments.fuse or arguments.protocol):
        raise CannotRun("--fuse and --protocol are for classifiers; this run's recipe is measured by other numbers")
    evaluate.fusable([(run.classes, weight) for run, weight in runs])
    options = {"workers": arguments.workers, "broken": arguments.broken, "device": device, "progress": progress}
    # What was trained on in one split is judged on in others.
    arguments.split = arguments.split or first.about["config"].get("split", 1)
    about = {name: getattr(arguments, name) for name in ("data", "split", "protocol", "broken", "seed", "batch")}
    if first.data != "squares" and not arguments.data.startswith("motion:"):
        about["data"] = str(Path(arguments.data).resolve())
    about |= {"workers": arguments.workers, "environment": environment()}
    folder = Path(arguments.output or Path(arguments.run_folder) / "eval")

    data = [_data(run, arguments) for run, _ in runs]
    about["part"] = part = data[0][0]
    about["runs"] = [
        {**run.about, "weight": weight, "view": asdict(evaluate.protocol(run.view, arguments.protocol))}
        for run, weight in runs
    ]
    _replaceable(folder / "result.json", about)
    folder.mkdir(parents=True, exist_ok=True)  # an error now, not after an hour
    if not first.classifies:
        _, clips, names = data[0]
        records, broken = evaluate.measured(first.network, clips, first.measure, **options)
        metrics = first.summary([*records.values()])
        evaluate.write_measured(folder, names, records, broken, metrics, about)
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        lines = [f"part {part}, {len(records)} clips: {numbers}"]
        if broken:
            lines += [f"skipped {len(broken)} of {len(names)} clips:", *_first(broken)]
        return [*lines, f"{folder.resolve()}: result.json, clips.csv"]
    found = [
        evaluate.score(run.network, clips, classes=run.classes, batch=arguments.batch, **options)
        for (run, _), (_, clips, _) in zip(runs, data, strict=True)
    ]
    of = evaluate.fuse([(scores, weight) for scores, (_, weight) in zip(found, runs, strict=True)])
    undrawn = evaluate.write(folder, of, about)
    return said(of, part, folder, undrawn)


def _replaceable(file: Path, about: dict[str, Any]) -> None:
    """Raise CannotRun where a result is that this evaluation would not repeat."""
    if not file.is_file():
        return
    try:
        found = _settings(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CannotRun(f"{file}: not of `motionspec eval`; name another folder by -o") from error
    if differ := different(found, _settings(about)):
        raise CannotRun(f"{file}: of other settings ({differ}); name another folder by -o")


def _settings(about: dict[str, Any]) -> dict[str, Any]:
    """What of a result.json its numbers depend on, but for the weights, which a run that goes on replaces."""
    runs = [f"{run['weight']:g} x {run['run']}, {run['checkpoint']}" for run in about["runs"]]
    return {name: about[name] for name in ("data", "split", "part", "protocol", "broken", "seed")} | {"runs": runs}


def _data(run: Trained, arguments: argparse.Namespace) -> tuple[str, Any, tuple[str, ...]]:
    """What a run is judged on: the name of the part, its clips, their names."""
    wanted = [arguments.part] if arguments.part else ["test", "val"]  # val has chosen the weights
    meet(run.about["config"]["recipe"]["name"], run.data, arguments.data)
    if run.data == "squares":
        part = first_part(arguments.data, ("train", "test"), wanted)
        squares = Squares(32, run.view.size, train=part == "train", seed=arguments.seed)
        return part, squares, tuple(map(str, range(len(squares))))
    if run.data == "septuplets":
        root = locate(arguments.data, [SEPTUPLETS]).root
        parts, config = septuplets(root), run.about["config"]
        part = first_part(arguments.data, parts, wanted)
        frames = config["recipe"]["arguments"].get("frames", 3)
        windows = Windows(parts[part], train=False, frames=frames, rate=config["rate"], seed=arguments.seed)
        return part, windows, windows.source.names
    view = evaluate.protocol(run.view, arguments.protocol)
    part, of = source(arguments.data, view, wanted, arguments.split)
    return part, Clips(of, view, train=False, seed=arguments.seed, targets=not run.classifies), of.names


def _weighted(text: str) -> tuple[str, float]:
    folder, _, weight = text.rpartition("=")
    try:
        return folder, float(weight)
    except ValueError as error:
        raise CannotRun(f"--fuse {text}: expected RUN=WEIGHT, as in flow-run=0.5") from error


def said(of: Scores, part: str, folder: Path, undrawn: str) -> list[str]:
    """What the terminal shows of a result: the worst classes, the measures, what was skipped and what is not drawn."""
    result = evaluate.classification(of)
    rows = [[*map(str, row)] for row in evaluate.class_rows(of) if row[1]]
    worst = sorted(rows, key=lambda row: float(row[3]))
    header = ("class", "clips", "right", "accuracy", "most often taken for")
    lines = [table(header, rows if len(rows) <= SHOWN else worst[:SHOWN], right=header[1:4])]
    if len(rows) > SHOWN:
        lines.append(f"the worst {SHOWN} of {len(rows)} classes; all: classes.csv")
    judged = len(of.names) - len(of.broken)
    names = {"top_1": "top 1", "top_5": "top 5", "mean_class_accuracy": "mean over classes"}
    shares = ", ".join(f"{says} {100 * result[name]:.2f} %" for name, says in names.items() if name in result)
    lines += ["", f"part {part}, {judged} clips: {shares}; chance {100 / len(of.classes):.2f} %"]
    if of.broken:
        bound = 100 * result["top_1_skipped_as_wrong"]
        lines.append(f"skipped {len(of.broken)} of {len(of.names)} clips; with them as wrong, top 1 is {bound:.2f} %:")
        lines += _first(of.broken)
    files = ["result.json", "classes.csv", "confusion.csv", "confusion.png", "scores.csv"]
    there = [name for name in files if (folder / name).is_file()]
    lines.append(f"{folder.resolve()}: {', '.join(there)}")
    return [*lines, undrawn] if undrawn else lines


def _first(broken: Mapping[int, str]) -> list[str]:
    """What is wrong with the first clips that were skipped, a line each."""
    lines = [f"  {printable(why)}" for why in [*broken.values()][:SHOWN]]
    return [*lines, f"  ... and {len(broken) - SHOWN} more; all: result.json"] if len(broken) > SHOWN else lines


# -- predict -----------------------------------------------------------------------------------------------------------


def run_predict(arguments: argparse.Namespace, progress: Progress) -> list[str]:
    """`motionspec predict`: what to print. Raises CannotRun, ValueError, TypeError or OSError with one line."""
    device = usable(arguments.device)
    if importlib.util.find_spec("jinja2") is None:
        raise CannotRun("predict needs jinja2: pip install 'motionspec[demo]'")
    run = trained(arguments.run_folder, arguments.checkpoint)
    if not run.classifies:
        raise CannotRun(
            f"{arguments.run_folder}: predict is for classifiers; this run's recipe is measured by other numbers"
        )
    video = Path(arguments.video)
    view = replace(evaluate.protocol(run.view, arguments.protocol), flow=None)  # no targets are needed
    videos = with_flow(Videos(video.parent, (video.name,), (NO_LABEL,), run.classes), view)
    progress(f"decoding {video.name}", 0, None)
    if (length := videos.length(0)) == 1:
        raise CannotRun(f"{video}: only one frame decodes and motion needs two; give a longer clip")
    clip = Clips(videos, view, train=False, seed=arguments.seed)[0]["clip"]
    views = clip if clip.ndim == 5 else clip[None]
    progress("predicting", 0, None)
    scores = evaluate.forward(run.network.to(device), [views], arguments.batch, device)
    evaluate.check(scores, run.classes, [video.name])
    shares = scores[0].softmax(0)
    top = [(run.classes[k], float(shares[k])) for k in shares.argsort(descending=True)[: arguments.top]]
    with torch.no_grad():
        network: Any = run.network
        parts = {key: part.cpu() for key, part in network.parts(views[:1].to(device)).items()}
    of = "1 view" if len(views) == 1 else f"the mean of {len(views)} views"
    text = [
        f"{video.name}, {length} frames: {of} of {views.shape[2]} frames of {view.size} x {view.size} pixels; network "
        f"{run.about['config']['recipe']['network']} of {arguments.run_folder}.",
        "Maps of the first view." if len(views) > 1 else "Maps of what the network sees.",
    ]
    folder = Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [*frame_pictures(views[0], view), *map_pictures(parts)]
    ran = Ran(run.about["config"]["recipe"]["network"], text, pictures, top)
    report = write_report(folder, f"{video.name}: {top[0][0]}", said_environment(device), network=ran)
    if arguments.json is not None:
        result = {
            "motionspec": motionspec.__version__,
            "video": str(video),
            "frames": length,
            "views": len(views),
            "view": asdict(view),
            "seed": arguments.seed,
            "run": run.about,
            "scores": dict(zip(run.classes, scores[0].tolist(), strict=True)),
            "shares": dict(zip(run.classes, shares.tolist(), strict=True)),
        }
        write_text(Path(arguments.json), json.dumps(result, indent=2, allow_nan=False) + "\n")
    return [printable(text[0]), "", bars(top), "", f"report: {report.resolve()}"]


def bars(shares: Sequence[tuple[str, float]]) -> str:
    """A line for each class: its name, its share in per cent, a bar."""
    shares = [(printable(name), share) for name, share in shares]
    width = max(len(name) for name, _ in shares)
    return "\n".join(
        f"{name.ljust(width)}  {100 * share:6.2f} %  {'#' * round(40 * share)}".rstrip() for name, share in shares
    )


def frame_pictures(clip: Tensor, view: View) -> list[Picture]:
    """The frames of a clip (C, T, H, W) of RGB as they were, at up to three times; none of another modality."""
    if view.modality != "rgb":
        return []
    known, T = view.frames, clip.shape[1]
    mean, scale = (torch.tensor(values).view(3, 1, 1, 1) for values in (known.mean, known.scale))
    colours = torch.empty_like(clip)
    colours[list(known.order)] = clip * scale + mean
    frames = colours.round().clamp(0, 255).byte().permute(1, 2, 3, 0).numpy()
    return [Picture(f"frame {t + 1} of {T} of the clip", frames[t]) for t in sorted({0, T // 2, T - 1})]
