"""`motionspec train`: a network by a recipe of the papers, on a data set or on the motion benchmark."""

import argparse
import ast
import difflib
import hashlib
import importlib.util
import inspect
import json
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from motionspec.checks import printable
from motionspec.cli.demo import usable
from motionspec.cli.networks import readable
from motionspec.cli.runner import CannotRun
from motionspec.cli.text import some, table
from motionspec.data.clips import Clips, View
from motionspec.data.degrade import rate_for
from motionspec.data.flow_cache import TVL1
from motionspec.data.flow_pairs import PATTERNS, pair_parts
from motionspec.data.frames import septuplets
from motionspec.data.layouts import (
    CLASS_FOLDERS,
    READERS,
    SEPTUPLETS,
    Found,
    class_counts,
    locate,
    loose_videos,
    too_few_classes,
    unjudged,
    unlearned,
)
from motionspec.data.lists import ListError, first_part
from motionspec.data.motion import SIZES, Motion
from motionspec.data.restoration import Windows
from motionspec.data.source import FlowSource, Source
from motionspec.data.video import Videos
from motionspec.models.actionflownet import Stacked
from motionspec.models.bn_inception import BNInception
from motionspec.models.disentangled import BRANCHES, Disentangled
from motionspec.models.table import Network, networks
from motionspec.models.weights import Report, load_parts, read
from motionspec.progress import Progress
from motionspec.train.detection import Squares
from motionspec.train.loop import Interrupted, fit
from motionspec.train.recipes import RECIPES, Recipe, Stage, changed
from motionspec.train.runs import plain


def run_train(arguments: argparse.Namespace, progress: Progress) -> list[str]:
    """`motionspec train`: what it prints. Raises CannotRun, or ValueError, TypeError, OSError with one line."""
    if arguments.list:
        return [listing() if arguments.recipe is None else details(find(arguments.recipe))]
    for name in ("recipe", "data", "output"):
        if getattr(arguments, name) is None:
            raise CannotRun(
                "name a recipe, --data and --out, as in `motionspec train motion-off --data motion:tiny --out run`; "
                "--list shows the recipes"
            )
    recipe = find(arguments.recipe)
    for text in arguments.set:
        recipe = changed(recipe, *_setting(text))
    device = arguments.device
    if device in (None, "cuda") and torch.cuda.is_available():  # one try on cuda:0 would leave a context there
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    device = usable(device)
    train, test, about, said = samples(recipe, arguments.data, arguments)
    row = networks()[recipe.network]
    if "classes" in inspect.signature(row.build).parameters and recipe.arguments.get("classes", 0) is not None:
        recipe = replace(recipe, arguments={**recipe.arguments, "classes": _classes(recipe, arguments.data, about)})
    options = {**row.arguments, **recipe.arguments}
    torch.manual_seed(arguments.seed)
    network = row.build(**options)
    first = not int(os.environ.get("RANK", 0))  # of several processes the first speaks
    if arguments.weights is not None:
        with readable(arguments.weights):
            report = begin(network, arguments.weights, head(row, options))
            digest = hashlib.sha256(Path(arguments.weights).read_bytes()).hexdigest()
        about["weights"] = {"file": Path(arguments.weights).name, "sha256": digest}
        if not arguments.resume:
            random = "; what is kept is random" if report.kept else ""
            said.append(f"begins with {Path(arguments.weights).name}: {report}{random}")
    try:
        result = fit(
            recipe,
            network,
            train,
            test,
            run=arguments.output,
            seed=arguments.seed,
            device=device,
            precision=arguments.precision,
            accumulate=arguments.accumulate,
            workers=arguments.workers,
            save_every=arguments.save_every,
            measure_every=arguments.measure_every,
            resume=arguments.resume,
            tensorboard=arguments.tensorboard,
            about=about,
            # Said before the first step, as the training may take days: what is learned is seen to be what was meant.
            begins=lambda: print(*said, sep="\n", flush=True) if said else None,
            progress=progress,
        )
    except Interrupted as stop:
        raise KeyboardInterrupt(f"{stop}; the same command with --resume goes on") from stop
    if not first:
        return []
    measured = ", ".join(f"{name} {value:.4g}" for name, value in result.measured.items()) or "nothing to measure"
    best = "" if result.best is None else f"; best {next(iter(result.measured))} {result.best:.4g}"
    run = Path(arguments.output).resolve()
    files = ("config.json", "log.csv", "curves.png", "tensorboard", "best.safetensors", "last.safetensors")
    there = ", ".join(name for name in files if (run / name).exists())
    lines = [f"{result.steps} steps: {measured}{best}", f"{run}: {there}"]
    if importlib.util.find_spec("matplotlib") is None:
        lines.append("no curves.png without matplotlib: pip install 'motionspec[figures]'")
    return lines


def _classes(recipe: Recipe, data: str, about: Mapping[str, Any]) -> int:
    """How many classes there are to learn. Raises CannotRun where there are not two, or others are asked for."""
    names = about["classes"]
    if wrong := too_few_classes(data, names):
        raise CannotRun(f"--data {wrong}")
    if (asked := recipe.arguments.get("classes", len(names))) != len(names):
        raise CannotRun(f"--set network.classes={asked}: the data have {len(names)} classes; leave it out")
    return len(names)


def begin(network: torch.nn.Module, file: str | os.PathLike[str], head: Sequence[str]) -> Report:
    """`load_parts`; all branches of DC18's network begin with a BN-Inception, AF18's stacked one with a FlowNet."""
    if isinstance(network, Disentangled) and not any(name.split(".")[0] in BRANCHES for name in read(file)):
        backbone = BNInception(width=network.width)
        report = load_parts(backbone, file)
        network.start_from(backbone)
        return report
    if isinstance(network, Stacked) and not any(name.startswith("flownet.") for name in read(file)):
        return load_parts(network.flownet, file)
    return load_parts(network, file, head=head)


def head(row: Network, options: Mapping[str, Any]) -> list[str]:
    """The layers whose shapes the number of classes decides."""
    if not isinstance(options.get("classes"), int):
        return []
    with torch.device("meta"):
        one, other = (row.build(**{**options, "classes": K}).state_dict() for K in (2, 3))
    return sorted({name.rpartition(".")[0] for name in one if one[name].shape != other[name].shape})


def find(name: str) -> Recipe:
    """The recipe of that name. Raises CannotRun with one line where there is none."""
    if name in RECIPES:
        return RECIPES[name]
    near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise CannotRun(f"no recipe {name!r}.{hint} `motionspec train --list` shows all")


_OF_PAIRS = "actionflownet-2f-flow"
_DEGRADED = 20  # frames that the rate of JPEG 2000 is found on
MANY_CLASSES = 30  # of more, the clips of each are not printed
Samples = Dataset[dict[str, torch.Tensor]]
Chosen = tuple[Samples, Samples | None, dict[str, Any], list[str]]


def samples(recipe: Recipe, data: str, arguments: argparse.Namespace) -> Chosen:
    """What a recipe trains on, what it is measured on, if there is any, what config.json says of it, and what to print.

    Raises CannotRun or ListError.
    """
    options: dict[str, Any] = {"seed": arguments.seed, "broken": arguments.broken}
    meet(recipe.name, recipe.data, data)
    if recipe.data == "squares":
        shape: dict[str, Any] = {"side": recipe.view.size, "seed": arguments.seed}
        return Squares(**shape), Squares(32, train=False, **shape), {"classes": [*Squares.classes]}, []
    if recipe.data == "septuplets":
        return _restored(recipe, data, options)
    found, parts = parts_of(data)
    if found.name in PATTERNS:
        if recipe.arguments.get("classes", 0) is not None:
            raise CannotRun(f"--data {data}: {found.name} has flow and no classes: {_OF_PAIRS} learns from it")
        if (recipe.view.flow, recipe.view.length) != ("inside", 2):
            raise CannotRun(f"--data {data}: {found.name} has pairs of frames: {_OF_PAIRS} learns from them")
    part = first_part(data, parts, ["train"], arguments.split)
    of = with_flow(parts[part], recipe.view)
    clips = Clips(of, recipe.view, train=True, **options)
    try:
        judged = first_part(data, parts, ["val", "test"], arguments.split)
        seen = Clips(with_flow(parts[judged], recipe.view), recipe.view, train=False, **options)
    except ListError:
        seen = None
    split = {} if part == "train" else {"split": arguments.split}  # where there are several
    # A run does not go on with other videos; where they lie may change.
    names = hashlib.blake2b(json.dumps([of.names, of.labels]).encode(), digest_size=8).hexdigest()
    about = {"classes": [*of.classes], "clips": f"names {names}"} | split
    return clips, seen, about, announced(found, parts)


def _restored(recipe: Recipe, data: str, options: dict[str, Any]) -> Chosen:
    """Septuplets and their degraded frames."""
    found = locate(data, [SEPTUPLETS])
    parts = septuplets(found.root)
    if "train" not in parts:
        raise CannotRun(f"--data {data}: no sep_trainlist.txt, so nothing to train on")
    clean = parts["train"]
    shown = sorted({k * len(clean) // _DEGRADED for k in range(_DEGRADED)})
    rate, psnr = rate_for(recipe.degraded, [clean.read(k, [clean.length(k) // 2])[0] for k in shown])
    options |= {"frames": recipe.arguments.get("frames", 3), "rate": rate}
    # Whole frames, as the paper's, unless a size is asked for.
    size = 0 if recipe.view == RECIPES[recipe.name].view else recipe.view.size
    train = Windows(clean, train=True, size=size, **options)
    test = Windows(parts["test"], train=False, **options) if "test" in parts else None
    about = {"rate": rate, "psnr": psnr, "classes": []}  # of the degraded frames
    return train, test, about, announced(found, parts)


def announced(found: Found, parts: Mapping[str, Source]) -> list[str]:
    """What the data are: parts, classes and how many clips each has, as `motionspec data check` counts them."""
    name = f"{found.name} in {found.root}"
    clips = ", ".join(f"{part} {len(source)}" for part, source in parts.items())
    counts = class_counts(parts)
    if not counts:
        return [printable(f"{name}: {clips}")]
    if len(counts) > MANY_CLASSES:
        each = f"{min(counts.values())} to {max(counts.values())} clips of one"
    else:
        each = ", ".join(f"{label} {n}" for label, n in counts.items())
    lines = [f"{name}: {clips}; {len(counts)} classes: {each}"]
    if missing := unlearned(parts):
        lines.append(f"no training clip, so these cannot be learned: {some(missing)}")
    lines += [f"{part} has no clip of {some(lacks)}" for part, lacks in unjudged(parts).items()]
    loose = loose_videos({found.root, *(part.root for part in parts.values() if isinstance(part, Videos))})
    if found.name == CLASS_FOLDERS and loose:
        lines.append(f"left out, as they lie in no class folder: {len(loose)}, such as {loose[0]}")
    return [*map(printable, lines)]


def meet(recipe: str, kind: str, data: str) -> None:
    """Raise CannotRun where a recipe that learns from squares gets other data, or another gets squares."""
    if (kind == "squares") != (data == "squares"):
        expected = "learns from --data squares" if kind == "squares" else "takes no squares: name a data set"
        raise CannotRun(f"--data {data}: {recipe} {expected}")


def source(data: str, view: View, wanted: Sequence[str], split: int) -> tuple[str, Source]:
    """The first of the wanted parts that the data have: its name, and what its clips are read from.

    TV-L1 flow is added where the view needs flow and the data have none. Raises CannotRun or ListError.
    """
    _, parts = parts_of(data)
    part = first_part(data, parts, wanted, split)
    return part, with_flow(parts[part], view)


def parts_of(data: str) -> tuple[Found, Mapping[str, Source]]:
    """Which data set --data names, and its parts. Raises CannotRun or ListError."""
    if not data.startswith("motion:"):
        found = locate(data, [*READERS, *PATTERNS])
        return found, pair_parts(found.root) if found.name in PATTERNS else READERS[found.name](found.root)
    size = data.removeprefix("motion:")
    if size not in SIZES:
        raise CannotRun(f"--data {data}: expected motion:{', motion:'.join(SIZES)}, or the folder of a data set")
    return Found("motion benchmark", Path(data)), {part: Motion(size, part) for part in ("train", "test")}


def with_flow(of: Source, view: View) -> Source:
    """The source, with TV-L1 flow if the view needs flow and the source has none."""
    needed = view.flow or view.modality == "flow"
    return TVL1(of) if needed and not isinstance(of, FlowSource) else of


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise CannotRun(f"--set {text}: expected NAME=VALUE, as in lr=0.01 or network.width=0.25")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, {"true": True, "false": False, "none": None}.get(value.lower(), value)  # else a word


# -- --list ------------------------------------------------------------------------------------------------------------


def listing() -> str:
    """All recipes: where from, which network, how long."""
    rows = [
        [recipe.name, recipe.source, recipe.network, str(recipe.batch), ", then ".join(map(_stage, recipe.stages))]
        for recipe in RECIPES.values()
    ]
    head = table(("recipe", "source", "network", "batch", "stages"), rows, right=("batch",))
    return f"{head}\n\n`motionspec train RECIPE --list` says where each number is from."


def _stage(stage: Stage) -> str:
    return f"{stage.name}: {stage.length} {stage.unit}, {stage.optimizer} {stage.lr:g}"


def details(recipe: Recipe) -> str:
    """One recipe: its settings, and where they are from."""
    settings: dict[str, Any] = {"batch": recipe.batch, "ema": recipe.ema}
    settings |= {"degraded": recipe.degraded} if recipe.data == "septuplets" else {}
    settings |= {f"network.{name}": value for name, value in recipe.arguments.items()}
    settings |= {f"view.{name}": value for name, value in plain(recipe.view).items()}
    for stage in recipe.stages:
        settings |= {f"{stage.name}.{name}": value for name, value in plain(stage).items() if name != "name"}
    rows = [
        [name, str(value), _said(recipe.sources, name)]
        for name, value in settings.items()
        if value not in (None, {}, [], "")
    ]
    body = table(("setting", "value", "source"), [[n, textwrap.shorten(v, 60), s] for n, v, s in rows])
    return f"{recipe.name}   [{recipe.source}]\nnetwork: {recipe.network}\n\n{body}"


def _said(sources: Any, name: str) -> str:
    """The source of a setting, or of that setting of all stages or of the network."""
    return sources.get(name) or sources.get(name.partition(".")[2], "")
