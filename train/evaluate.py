"""Evaluation of a trained network: scores of a dataset's clips, fusion, metrics, confusion matrix, files.

Every mean is taken before the softmax: over the views of a video (OFF18 (8) over segments, AF18 §4.2 over crops; RF19
§3.3 says probability, see `refimpl.losses.consensus`), and over networks ("a simple summing operation", OFF18 §4.3; the
weights that its released code searched are for scores before the softmax too). That code takes the maximum of the ten
crops; the papers do not say so.
"""

import csv
import hashlib
import importlib
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from motionspec.checks import choice, count, message
from motionspec.data.clips import Clips, Epochs, View, loader
from motionspec.data.source import NO_LABEL
from motionspec.data.video import VideoError
from motionspec.files import write_text
from motionspec.models.table import Frames, networks
from motionspec.models.weights import load
from motionspec.ops import losses, metrics
from motionspec.progress import Progress
from motionspec.train import objectives
from motionspec.train.pictures import LITERAL, drawn, shortened, width

__all__ = [
    "PROTOCOLS",
    "Scores",
    "Trained",
    "classification",
    "confusion",
    "fuse",
    "protocol",
    "score",
    "trained",
    "write",
]


PROTOCOLS: dict[str, tuple[str, dict[str, Any]]] = {
    "25-segments": ("OFF18 §4.3, DC18 §4.2", {"places": 25}),
    "10-crop": ("TSN, which OFF18 §4.3 follows", {"crops": 10}),
    "64-random": ("AF18 §4.2", {"crops": "random", "places": 64}),
}
"""What of a view is another in a test: source, values. A network of several segments has 25 of them, not 25 places."""


def protocol(view: View, names: Sequence[str]) -> View:
    """The view that a recipe trains with as these PROTOCOLS see a video in a test; none of them: as the recipe does.

    Raises ValueError `protocol: names: expected ..., got ...`.
    """
    for name in names:
        choice("protocol", "names", name, tuple(PROTOCOLS))
        if name == "25-segments" and view.segments > 1:
            view = replace(view, test_segments=25)
        else:
            view = replace(view, **PROTOCOLS[name][1])
    if len(set(names)) < len(names) or ("64-random" in names and len(names) > 1):
        raise ValueError(message("protocol", "names", "each once, and 64-random alone", ", ".join(names)))
    return view


@dataclass(frozen=True, eq=False)
class Scores:
    """What is judged: of each clip a score for each class, before the softmax.

    names: N clips. classes: K. scores: (N, K), float64, NaN for a clip that could not be read. label: (N,), int64.
    broken: the number of each clip that could not be read -> what is wrong with it.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    scores: Tensor
    label: Tensor
    broken: Mapping[int, str]

    def judged(self) -> tuple[Tensor, Tensor]:
        """Scores and labels of the clips that could be read."""
        good = [k not in self.broken for k in range(len(self.names))]
        return self.scores[good], self.label[good]


@dataclass(frozen=True, eq=False)
class Trained:
    """A network out of the folder of a run, in evaluation mode on the CPU.

    view: how its clips are made. data: what they are, as its recipe says. measure, summary: functions of
    `train.objectives` that its last stage is measured by. about: what result.json says of it.
    """

    network: nn.Module
    view: View
    data: str
    classes: tuple[str, ...]
    measure: Callable[[Any, objectives.Batch], objectives.Records]
    summary: Callable[[objectives.Records], dict[str, float]]
    about: dict[str, Any]

    @property
    def classifies(self) -> bool:
        """Whether it gives scores of clips, and not flow, boxes or frames."""
        return self.measure is objectives.accuracy


def trained(folder: str | os.PathLike[str], checkpoint: str = "best") -> Trained:
    """The network of a run folder with the weights CHECKPOINT.safetensors, "best" or "last".

    Raises ValueError with one line that names the file where one is missing or damaged, or does not fit the others.
    """
    choice("trained", "checkpoint", checkpoint, ("best", "last"))
    where, file = Path(folder) / "config.json", Path(folder) / f"{checkpoint}.safetensors"
    if not where.is_file():
        raise ValueError(f"{folder}: no run in it (config.json is missing); name a folder that `motionspec train` made")
    if not file.is_file():
        last = checkpoint == "best" and (Path(folder) / "last.safetensors").is_file()
        more = " or had nothing to be measured on; --checkpoint last takes last.safetensors" if last else ""
        raise ValueError(f"{file} is missing: the run has not got there yet{more}")
    try:
        config = json.loads(where.read_text(encoding="utf-8"))
        recipe, classes = config["recipe"], tuple(config["classes"])
        data, view = recipe["data"], _tuples(recipe["view"])
        view = View(**view | {"frames": Frames(**view["frames"])})
        measure, summary = (_function(recipe["stages"][-1][name]) for name in ("measure", "summary"))
        row = networks()[recipe["network"]]
        network = row.build(**row.arguments | _tuples(recipe["arguments"])).eval()
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ImportError, RecursionError) as error:
        raise ValueError(f"{where} is damaged, or of another version ({error!r}); train again") from error
    try:
        load(network, file)
    except ValueError as error:
        raise ValueError(f"{file} does not fit config.json, or is damaged: {error}") from error
    about = {
        "run": str(Path(folder).resolve()),
        "checkpoint": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "config": config,
    }
    return Trained(network, view, data, classes, measure, summary, about)


def _function(name: str) -> Any:
    """A function of the package by its full name."""
    module, _, function = name.rpartition(".")
    if not module.startswith("motionspec."):
        raise ValueError(f"{name} is not of motionspec")
    return getattr(importlib.import_module(module), function)


def _tuples(value: Any) -> Any:
    """JSON knows lists only; arguments of networks and views are tuples."""
    if isinstance(value, dict):
        return {key: _tuples(part) for key, part in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


class _Told(Dataset[dict[str, Tensor] | str]):
    """The clips, with what is wrong in the place of one that cannot be used: an error would end the worker."""

    def __init__(self, clips: Clips):
        self.clips = clips

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor] | str:
        try:
            return self.clips[key]
        except VideoError as error:
            return str(error)
        except ValueError as error:  # too short or too small for the view
            return f"{self.clips.source.names[key[1]]}: {error}"


def score(
    network: nn.Module,
    clips: Clips,
    *,
    classes: Sequence[str] | None = None,
    batch: int = 8,
    workers: int = 0,
    device: torch.device | str = "cpu",
    broken: str = "raise",
    progress: Progress | None = None,
) -> Scores:
    """The network's scores of every clip of a dataset, `data.clips.Clips(..., train=False)`, the mean over its views.

    classes: those that the network knows, in its order; default: the data's. The data may have fewer of them.
    batch: how many clips a forward takes; the views of a video are spread over several if they are more. Neither it nor
    `workers` changes a score beyond the rounding of float32. The network is judged in evaluation mode on `device`, and
    left in the mode it was in.
    Broken videos: "raise" stops at the first; "skip" goes on without, and the result names each. None is replaced.
    Raises VideoError; TypeError or ValueError `score: argument: expected ..., got ...` for options, clips without
    labels, classes that the network does not know, no clip that can be read, or scores that are not finite.
    """
    choice("score", "broken", broken, ("raise", "skip"))
    count("score", "batch", batch)
    count("score", "workers", workers, 0)
    source = clips.source
    known = tuple(source.classes if classes is None else classes)
    strange = [name for name in source.classes if name not in known]
    if strange:
        raise ValueError(message("score", "clips", f"classes that the network knows, {_some(known)}", _some(strange)))
    if NO_LABEL in source.labels:
        raise ValueError(message("score", "clips", "a class for each clip", "clips without"))
    wrong: dict[int, str] = {}
    read: list[int] = []
    found: list[Tensor] = []
    waiting: list[Tensor] = []  # (V, C, T, H, W) of the clips that the next forward takes
    with _judged(network, device):
        for k, sample in _samples(clips, workers, broken, wrong, progress):
            read.append(k)
            waiting.append(sample["clip"] if sample["clip"].ndim == 5 else sample["clip"][None])
            if sum(map(len, waiting)) >= batch:
                found.append(forward(network, waiting, batch, device))
                waiting.clear()
        if waiting:
            found.append(forward(network, waiting, batch, device))
    if not found:
        raise ValueError(message("score", "clips", "at least one that can be read", _none(wrong)))
    judged = torch.cat(found)
    check(judged, known, [source.names[k] for k in read])
    scores = judged.new_full((len(clips), len(known)), torch.nan)
    scores[read] = judged
    label = torch.tensor([known.index(source.classes[y]) for y in source.labels])
    return Scores(tuple(source.names), known, scores, label, wrong)


@torch.no_grad()
def forward(network: nn.Module, clips: Sequence[Tensor], batch: int, device: torch.device | str) -> Tensor:
    """N clips (V, C, T, H, W), at most `batch` views at a time -> scores (N, K), float64, on the CPU."""
    each = [network(part.to(device)).double().cpu() for part in torch.cat([*clips]).split(batch)]
    return losses.consensus(torch.cat(each).unflatten(0, (len(clips), -1)))


def check(scores: Tensor, classes: Sequence[str], names: Sequence[str]) -> None:
    """Raise ValueError unless scores (N, K) are finite, and as many as there are classes."""
    if scores.shape[1] != len(classes):
        raise ValueError(message("score", "network", f"scores of {len(classes)} classes", scores.shape[1]))
    unusable = [name for name, row in zip(names, scores, strict=True) if not row.isfinite().all()]
    if unusable:
        raise ValueError(message("score", "network", "finite scores", f"NaN or infinity for {_some(unusable)}"))


@contextmanager
def _judged(network: nn.Module, device: torch.device | str) -> Iterator[None]:
    """Evaluation mode while this lasts."""
    training = network.training
    network.eval().to(device)
    try:
        yield
    finally:
        network.train(training)


def _samples(
    clips: Clips, workers: int, broken: str, wrong: dict[int, str], progress: Progress | None
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The number and sample of each clip in turn; what is wrong with those left out goes into `wrong`."""
    # spawn: torch hangs in forked children of a process that has used OpenMP.
    options = {"multiprocessing_context": "spawn"} if workers else {}
    one_by_one = Epochs(len(clips), 1, train=False)
    told: Any = _Told(clips)
    for k, (sample,) in enumerate(loader(told, one_by_one, workers=workers, collate_fn=list, **options)):
        if not isinstance(sample, str):
            yield k, sample
        elif broken == "raise":
            raise VideoError(sample)
        else:
            wrong[k] = sample
        if progress:
            progress("evaluating", k + 1, len(clips))


def measured(
    network: nn.Module,
    clips: Any,
    measure: Callable[[Any, objectives.Batch], objectives.Records],
    *,
    workers: int = 0,
    device: torch.device | str = "cpu",
    broken: str = "raise",
    progress: Progress | None = None,
) -> tuple[dict[int, dict[str, Any]], dict[int, str]]:
    """What else a recipe is measured by, such as end-point error or PSNR: a record of each clip that could be read.

    measure: of `train.objectives`, called with one clip at a time. The second result and all else: as `score`.
    """
    choice("measured", "broken", broken, ("raise", "skip"))
    count("measured", "workers", workers, 0)
    wrong: dict[int, str] = {}
    found: dict[int, dict[str, Any]] = {}
    with torch.no_grad(), _judged(network, device):
        for k, sample in _samples(clips, workers, broken, wrong, progress):
            (found[k],) = measure(network, {name: value[None].to(device) for name, value in sample.items()})
    if not found:
        raise ValueError(message("measured", "clips", "at least one that can be read", _none(wrong)))
    return found, wrong


def fuse(runs: Sequence[tuple[Scores, float]]) -> Scores:
    """The weighted sum of the scores of several networks on the same clips (OFF18 §4.3).

    A clip that one of the networks could not read is broken in the result. Raises ValueError
    `fuse: argument: expected ..., got ...` where clips, labels or classes differ, or for a weight of 0 or not finite.
    """
    first = runs[0][0]
    fusable([(of.classes, weight) for of, weight in runs])
    for n, (other, _) in enumerate(runs):
        if other.names != first.names or not other.label.equal(first.label):
            raise ValueError(message("fuse", f"scores[{n}]", "the same clips with the same labels", "others"))
    total = torch.stack([weight * other.scores for other, weight in runs]).sum(0)
    broken = {k: what for other, _ in runs for k, what in other.broken.items()}
    return Scores(first.names, first.classes, total, first.label, dict(sorted(broken.items())))


def fusable(runs: Sequence[tuple[Sequence[str], float]]) -> None:
    """What of `fuse` can be known before there are scores: raise its errors for these classes and weights."""
    first, _ = runs[0]
    for n, (classes, weight) in enumerate(runs):
        if not math.isfinite(weight) or weight == 0:
            raise ValueError(message("fuse", f"weight[{n}]", "a finite number other than 0", weight))
        if classes != first:
            raise ValueError(message("fuse", f"scores[{n}]", f"the classes {_some(first)}", _some(classes)))


def classification(of: Scores) -> dict[str, Any]:
    """Shares of the clips that were read: top 1, top 5 of more than 5 classes, the mean over classes, each class.

    Ties count against (`refimpl.metrics.top_k`). None for a class without clips. If clips were skipped, also the top 1
    that counts them as wrong, below which the share of all clips cannot be.
    """
    scores, label = of.judged()
    top_1 = float(metrics.top_k(scores, label))
    found: dict[str, Any] = {"top_1": top_1}
    if of.broken:
        found["top_1_skipped_as_wrong"] = top_1 * len(label) / (len(label) + len(of.broken))
    if len(of.classes) > 5:
        found["top_5"] = float(metrics.top_k(scores, label, k=5))
    each = metrics.per_class_accuracy(scores, label).tolist()
    counts = label.bincount(minlength=len(of.classes)).tolist()
    return found | {
        "mean_class_accuracy": float(metrics.mean_class_accuracy(scores, label)),
        "per_class_accuracy": {name: a if n else None for name, a, n in zip(of.classes, each, counts, strict=True)},
        "per_class_count": dict(zip(of.classes, counts, strict=True)),
    }


def predicted(of: Scores) -> Tensor:
    """The class of each clip that was read: the highest score; where the true one is tied with others, one of those."""
    scores, label = of.judged()
    rival, other = scores.scatter(1, label[:, None], -math.inf).max(1)
    return torch.where(rival >= scores.gather(1, label[:, None])[:, 0], other, label)


def confusion(of: Scores) -> Tensor:
    """How many clips of each class (row) were taken for each class (column): (K, K), int64."""
    K = len(of.classes)
    _, label = of.judged()
    return (label * K + predicted(of)).bincount(minlength=K * K).reshape(K, K)


# -- files -------------------------------------------------------------------------------------------------------------


def write(folder: str | os.PathLike[str], of: Scores, about: Mapping[str, Any]) -> str:
    """Write result.json, classes.csv, confusion.csv, scores.csv and confusion.png into a folder, made if missing.

    about: what result.json says besides the metrics and what was skipped. The picture comes last and costs none of the
    others: returns "", or in one line why it is not there.
    """
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    matrix = confusion(of)
    (out / "confusion.png").unlink(missing_ok=True)  # of an earlier result: it would be taken for this one's
    _result(out, about, of.names, of.broken, classification(of))
    _csv(
        out / "confusion.csv",
        ["true \\ predicted", *of.classes],
        ([name, *row] for name, row in zip(of.classes, matrix.tolist(), strict=True)),
    )
    _csv(
        out / "classes.csv",
        ["class", "clips", "right", "accuracy", "most often taken for"],
        class_rows(of),
    )
    names = [name for k, name in enumerate(of.names) if k not in of.broken]
    rows = zip(names, *of.judged(), predicted(of), strict=True)
    _csv(
        out / "scores.csv",
        ["clip", "true", "predicted", *of.classes],
        ([name, of.classes[y], of.classes[p], *row.tolist()] for name, row, y, p in rows),
    )
    return drawn(out / "confusion.png", lambda file: draw(file, of.classes, matrix))


def write_measured(
    folder: str | os.PathLike[str],
    names: Sequence[str],
    found: Mapping[int, Mapping[str, Any]],
    broken: Mapping[int, str],
    metrics: Mapping[str, float],
    about: Mapping[str, Any],
) -> None:
    """Write result.json and clips.csv of what `measured` gives, and of the metrics that a recipe makes of it."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    columns = [*dict.fromkeys(name for record in found.values() for name in record)]
    rows = ([names[k], *(record.get(name, "") for name in columns)] for k, record in found.items())
    _csv(out / "clips.csv", ["clip", *columns], rows)
    _result(out, about, names, broken, metrics)


def _result(
    out: Path, about: Mapping[str, Any], names: Sequence[str], broken: Mapping[int, str], metrics: Mapping[str, Any]
) -> None:
    result = {
        **about,
        "clips": len(names),
        "judged": len(names) - len(broken),
        "skipped": [{"clip": names[k], "why": why} for k, why in broken.items()],
        "metrics": metrics,
    }
    text = json.dumps(result, indent=2, allow_nan=False)
    write_text(out / "result.json", text + "\n")


def class_rows(of: Scores) -> Iterator[tuple[str, int, int, str, str]]:
    """Of each class its name, clips, how many of them are right, that share, and what it is most often taken for."""
    for k, (name, row) in enumerate(zip(of.classes, confusion(of).tolist(), strict=True)):
        right, total = row[k], sum(row)
        row[k] = 0
        most = max(row)
        taken = f"{of.classes[row.index(most)]} ({most})" if most else ""
        yield name, total, right, f"{right / total:.4f}" if total else "", taken


def _csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *rows])
    write_text(path, text.getvalue())


def draw(path: Path, classes: Sequence[str], matrix: Tensor) -> None:
    """The confusion matrix as a picture: shares of each row as shades, counts as numbers where they can be read.

    Names of classes are drawn as they are, those of many letters shortened. Raises ModuleNotFoundError without
    matplotlib.
    """
    from matplotlib.figure import Figure

    K, names = len(classes), [*map(shortened, classes)]
    longest = max(map(width, names))
    side = min(max(4.0, 1.5 + 0.45 * K) + 0.1 * max(0, longest - 12), 24.0)  # inches
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    share = matrix / matrix.sum(1, keepdim=True).clamp(min=1)
    axes.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
    small: dict[str, Any] = {"fontsize": min(10.0, 900 / (K + 60))}
    axes.set_xticks(range(K), names, rotation=90, **small, **LITERAL)
    axes.set_yticks(range(K), names, **small, **LITERAL)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if K <= 40:
        for i, j in matrix.nonzero().tolist():
            axes.text(
                j, i, str(int(matrix[i, j])), ha="center", va="center", color="w" if share[i, j] > 0.5 else "k", **small
            )
    right, total = int(matrix.trace()), int(matrix.sum())
    axes.set_title(f"{right} of {total} right ({100 * right / total:.1f} %)")
    figure.savefig(path, dpi=100, format="png")


def _none(wrong: Mapping[int, str]) -> str:
    """How many are broken, and why the first is."""
    return f"{len(wrong)} broken" + "".join(f": {why}" for why in [*wrong.values()][:1])


def _some(names: Sequence[str]) -> str:
    """The first few."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
