"""Evaluation of a trained network: scores of a dataset's clips, fusion, metrics, confusion matrix, files.

Every mean is taken before the softmax: over the views of a video (OFF18 (8) over segments, AF18 §4.2 over crops; RF19
§3.3 says probability, see `refimpl.losses.consensus`), and over networks ("a simple summing operation", OFF18 §4.3; the
weights that its released code searched are for scores before the softmax too). That code takes the maximum of the ten
crops; the papers do not say so.
"""

import csv
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from motionspec.checks import choice, count, message
from motionspec.data.source import NO_LABEL
from motionspec.data.video import VideoError
from motionspec.ops import losses, metrics

__all__ = ["Scores", "classification", "confusion", "fuse", "score", "write"]

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, eq=False)
class Scores:
    """What is judged: a score for each class of each clip that could be read, before the softmax.

    names: N of them. classes: K. scores: (N, K), float64. label: (N,), int64. broken: name -> what is wrong with it, of
    the clips that could not be read, which have no scores.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    scores: Tensor
    label: Tensor
    broken: Mapping[str, str]


class _Told(Dataset):
    """The clips, with what is wrong in the place of one that cannot be read: an error would end the worker."""

    def __init__(self, clips: Any):
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Tensor] | str:
        try:
            return self.clips[index]
        except VideoError as error:
            return str(error)


@torch.no_grad()
def score(
    network: nn.Module,
    clips: Any,
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
    names, number = source.names, [known.index(name) for name in source.classes]
    read: list[int] = []
    labels: list[int] = []
    wrong: dict[str, str] = {}
    found: list[Tensor] = []
    waiting: list[Tensor] = []  # (V, C, T, H, W) of the videos that the next forward takes
    training = network.training
    network.eval().to(device)
    try:
        for k, sample in enumerate(DataLoader(_Told(clips), batch_size=None, num_workers=workers)):
            if isinstance(sample, str):
                if broken == "raise":
                    raise VideoError(sample)
                wrong[names[k]] = sample
            else:
                read.append(k)
                labels.append(number[sample["label"]])
                waiting.append(sample["clip"] if sample["clip"].ndim == 5 else sample["clip"][None])
            if waiting and (sum(map(len, waiting)) >= batch or k + 1 == len(names)):
                found.append(_forward(network, torch.stack(waiting), batch, device))
                waiting.clear()
            if progress:
                progress("evaluating", k + 1, len(names))
    finally:
        network.train(training)
    if not found:
        raise ValueError(message("score", "clips", "at least one that can be read", f"{len(wrong)} broken"))
    scores = torch.cat(found)
    if scores.shape[1] != len(known):
        raise ValueError(message("score", "network", f"scores of {len(known)} classes", scores.shape[1]))
    unusable = [names[k] for k, row in zip(read, scores, strict=True) if not row.isfinite().all()]
    if unusable:
        raise ValueError(message("score", "network", "finite scores", f"NaN or infinity for {_some(unusable)}"))
    return Scores(tuple(names[k] for k in read), known, scores, torch.tensor(labels), wrong)


def _forward(network: nn.Module, clips: Tensor, batch: int, device: torch.device | str) -> Tensor:
    """Clips (N, V, C, T, H, W), at most `batch` at a time -> scores (N, K), float64, on the CPU."""
    each = [network(part.to(device)).double().cpu() for part in clips.flatten(0, 1).split(batch)]
    return losses.consensus(torch.cat(each).unflatten(0, clips.shape[:2]))


def fuse(runs: Sequence[tuple[Scores, float]]) -> Scores:
    """The weighted sum of the scores of several networks on the same clips, in the order of the first (OFF18 §4.3).

    Clips that one of the networks could not read are broken in the result. Raises ValueError
    `fuse: argument: expected ..., got ...` where clips, labels or classes differ, or for a weight of 0 or not finite.
    """
    first = runs[0][0]
    broken = {name: what for other, _ in runs for name, what in other.broken.items()}
    kept = [k for k, name in enumerate(first.names) if name not in broken]
    names = tuple(first.names[k] for k in kept)
    label = first.label[kept]
    total = torch.zeros_like(first.scores[kept])
    for n, (other, weight) in enumerate(runs):
        where = f"scores[{n}]"
        if not math.isfinite(weight) or weight == 0:
            raise ValueError(message("fuse", f"weight[{n}]", "a finite number other than 0", weight))
        if other.classes != first.classes:
            raise ValueError(message("fuse", where, f"classes {_some(first.classes)}", _some(other.classes)))
        strange = {*first.names, *first.broken} ^ {*other.names, *other.broken}
        if strange:
            raise ValueError(message("fuse", where, "the same clips", f"others: {_some(sorted(strange))}"))
        place = {name: k for k, name in enumerate(other.names)}
        order = [place[name] for name in names]
        unlike = (other.label[order] != label).nonzero()
        if len(unlike):
            raise ValueError(message("fuse", where, "the same labels", f"another for {names[unlike[0]]}"))
        total += weight * other.scores[order]
    return Scores(names, first.classes, total, label, broken)


def classification(of: Scores) -> dict[str, Any]:
    """Shares of the clips that were read: top 1, top 5 of more than 5 classes, the mean over classes, each class.

    Ties count against (`refimpl.metrics.top_k`). None for a class without clips. If clips were skipped, also the top 1
    that counts them as wrong, below which the share of all clips cannot be.
    """
    scores, label = of.scores, of.label
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
    """The class of each clip (N,): the highest score; where the true class is tied with others, one of those."""
    true = of.label[:, None]
    rival, other = of.scores.scatter(1, true, -math.inf).max(1)
    return torch.where(rival >= of.scores.gather(1, true)[:, 0], other, of.label)


def confusion(of: Scores) -> Tensor:
    """How many clips of each class (row) were taken for each class (column): (K, K), int64."""
    K = len(of.classes)
    return (of.label * K + predicted(of)).bincount(minlength=K * K).reshape(K, K)


# -- files -------------------------------------------------------------------------------------------------------------


def write(folder: str | os.PathLike[str], of: Scores, about: Mapping[str, Any]) -> None:
    """Write result.json, classes.csv, confusion.csv, confusion.png and scores.csv into a folder, made if missing.

    about: what result.json says besides the metrics and what was skipped.
    """
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    matrix = confusion(of)
    _csv(
        out / "confusion.csv",
        ["true \\ predicted", *of.classes],
        ([name, *row] for name, row in zip(of.classes, matrix.tolist(), strict=True)),
    )
    _csv(
        out / "classes.csv",
        ["class", "clips", "right", "accuracy", "most often taken for"],
        _class_rows(of.classes, matrix),
    )
    _csv(
        out / "scores.csv",
        ["clip", "true", "predicted", *of.classes],
        (
            [name, of.classes[y], of.classes[p], *row]
            for name, y, p, row in zip(of.names, of.label, predicted(of), of.scores.tolist(), strict=True)
        ),
    )
    draw(out / "confusion.png", of.classes, matrix)
    result = {
        **about,
        "clips": len(of.names) + len(of.broken),
        "judged": len(of.names),
        "skipped": dict(of.broken),
        "metrics": classification(of),
    }
    (out / "result.json").write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _class_rows(classes: Sequence[str], matrix: Tensor) -> Iterator[list[object]]:
    for k, (name, row) in enumerate(zip(classes, matrix.tolist(), strict=True)):
        right, total = row[k], sum(row)
        row[k] = 0
        most = max(row)
        yield [
            name,
            total,
            right,
            f"{right / total:.4f}" if total else "",
            f"{classes[row.index(most)]} ({most})" if most else "",
        ]


def _csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def draw(path: Path, classes: Sequence[str], matrix: Tensor) -> None:
    """The confusion matrix as a picture: shares of each row as shades, counts as numbers where they can be read."""
    from matplotlib.figure import Figure

    K = len(classes)
    side = min(max(4.0, 1.5 + 0.45 * K), 24.0)  # inches
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    share = matrix / matrix.sum(1, keepdim=True).clamp(min=1)
    axes.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
    small: dict[str, Any] = {"fontsize": min(10.0, 900 / (K + 60))}
    axes.set_xticks(range(K), classes, rotation=90, **small)
    axes.set_yticks(range(K), classes, **small)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if K <= 40:
        for i, j in matrix.nonzero().tolist():
            axes.text(
                j, i, str(int(matrix[i, j])), ha="center", va="center", color="w" if share[i, j] > 0.5 else "k", **small
            )
    right, total = int(matrix.trace()), int(matrix.sum())
    axes.set_title(f"{right} of {total} right ({100 * right / total:.1f} %)")
    figure.savefig(path, dpi=100)


def _some(names: Sequence[str]) -> str:
    """The first few."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
