"""What a recipe learns by and what it is measured by: functions of a network and a batch of `data.clips.Clips`."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from motionspec.models.actionflownet import flow_loss, multitask_loss
from motionspec.ops import losses, metrics

__all__ = [
    "Batch",
    "Multitask",
    "Records",
    "accuracy",
    "branches",
    "classification",
    "endpoint_error",
    "flow",
    "intermediate",
    "mean",
    "psnr",
    "restoration",
]

Batch = dict[str, Tensor]
Records = list[dict[str, Any]]
ALPHA = (0.08, 0.02, 0.01, 0.005)  # FlowNet's weights of the four scales, coarsest first; AF18 gives none


# -- losses: the mean over the samples, so that parts of a batch add up to the whole -----------------------------------


def classification(network: Any, batch: Batch) -> Tensor:
    """Cross entropy of the network's scores (RF19 (11))."""
    return losses.cross_entropy(network(batch["clip"]), batch["label"], reduction="mean")


def intermediate(network: Any, batch: Batch) -> Tensor:
    """Cross entropies of the three levels of an OFF network, added (OFF18 §4.2); the backbone's where it learns too."""
    parts = network.parts(batch["clip"])
    names = [*(["backbone"] if not network.freeze else []), "scores28", "scores14", "scores7"]
    scores = torch.stack([parts[name] for name in names], 1)
    return losses.intermediate_supervision(scores, batch["label"], reduction="mean")


def branches(network: Any, batch: Batch) -> Tensor:
    """Cross entropies of the branches of a `Disentangled`, added: each makes its prediction (DC18 §3.1)."""
    parts = network.parts(batch["clip"])
    scores = torch.stack([parts[name] for name in network.branches], 1)
    return losses.intermediate_supervision(scores, batch["label"], reduction="mean")


def flow(network: Any, batch: Batch) -> Tensor:
    """End-point error per pixel of the finest flow (AF18 (1), (3)); unknown pixels count as 0."""
    parts = network.parts(batch["clip"])
    target, mask, alpha, pixels = _flow_target(parts, batch)
    return flow_loss(parts, target, mask=mask, alpha=alpha) / pixels / len(target)


@dataclass(frozen=True)
class Multitask:
    """Cross entropy + lam * `flow` (AF18 (2), (4)); the paper gives no lambda, this one is for a mean pixel."""

    lam: float = 1.0

    def __call__(self, network: Any, batch: Batch) -> Tensor:
        parts = network.parts(batch["clip"])
        target, mask, alpha, pixels = _flow_target(parts, batch)
        lam = self.lam / pixels
        return multitask_loss(parts, batch["label"], target, mask=mask, alpha=alpha, lam=lam) / len(target)


def restoration(network: Any, batch: Batch) -> Tensor:
    """Half the sum of the squared errors of the restored frame: DnCNN's, as OFF20 §7 prints none."""
    return 0.5 * (network(batch["clip"]) - batch["target"]).square().sum() / len(batch["target"])


def _flow_target(parts: Batch, batch: Batch) -> tuple[Tensor, Tensor, Sequence[float], int]:
    """Target, mask (N, 1, S, H, W), a weight for each flow, and how many pixels the finest has in one sample."""
    flows = [value for key, value in parts.items() if key.startswith("flow")]
    alpha = (1.0,) if len(flows) == 1 else ALPHA
    return batch["flow"], batch["known"][:, None], alpha, flows[-1][0, 0].numel()


# -- measures: numbers of each sample; `mean` of all of them is the result ---------------------------------------------


def accuracy(network: Any, batch: Batch) -> Records:
    """Whether the class is right, and the cross entropy; of several views (N, V, ...) the scores are averaged."""
    clip, label = batch["clip"], batch["label"]
    views = clip.shape[1] if clip.ndim == 6 else 1
    scores = network(clip.flatten(0, 1) if clip.ndim == 6 else clip).float().unflatten(0, (-1, views)).mean(1)
    loss = [losses.cross_entropy(s[None], y[None], reduction="mean") for s, y in zip(scores, label, strict=True)]
    return _records(accuracy=scores.argmax(1) == label, loss=torch.stack(loss))


def endpoint_error(network: Any, batch: Batch) -> Records:
    """Mean end-point error and share of outliers of the known pixels, in pixels of the frames; none if none is known.

    Of the finest flow, resized to the frames.
    """
    found = network.parts(batch["clip"])["flow4"].float()
    target, known = batch["flow"], batch["known"][:, None]
    ratio = target.shape[-1] / found.shape[-1], target.shape[-2] / found.shape[-2]
    fine = torch.nn.functional.interpolate(found, target.shape[2:], mode="trilinear", align_corners=False)
    fine = fine * fine.new_tensor(ratio).reshape(2, 1, 1, 1)
    each = [*zip(fine.split(1), target.split(1), known.split(1), strict=True)]
    records = _records(
        epe=torch.stack([metrics.endpoint_error(f, t, mask=k) for f, t, k in each]),
        outliers=torch.stack([metrics.outlier_rate(f, t, mask=k) for f, t, k in each]),
    )
    return [record if k.any() else {} for record, k in zip(records, known, strict=True)]


def psnr(network: Any, batch: Batch) -> Records:
    """PSNR of the restored frame in decibel, of values in [0, 1] (OFF20 §7.3)."""
    restored = network(batch["clip"]).float().clamp(0, 1)
    each = zip(restored.split(1), batch["target"].split(1), strict=True)
    return _records(psnr=torch.stack([metrics.psnr(r, t, peak=1.0) for r, t in each]))


def mean(records: Records) -> dict[str, float]:
    """Means by name, over the samples that have a value. Raises ValueError where none has."""
    names = dict.fromkeys(name for record in records for name in record)
    if not names:
        raise ValueError("no sample can be measured: none has known flow at the size of the view; change view.size")
    return {name: statistics.fmean(record[name] for record in records if name in record) for name in names}


def _records(**columns: Tensor) -> Records:
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, map(float, row), strict=True)) for row in rows]
