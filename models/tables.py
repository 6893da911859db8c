"""Every row of every ablation table of the papers, and the networks that it takes to repeat it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ABLATIONS", "Ablation"]


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """A row of a paper's table: its label as printed and the networks whose scores the row sums, mostly one.

    networks: (name in `motionspec.models.table.networks()`, arguments put on that network's full-size ones), each.
    """

    paper: str
    table: str
    label: str
    networks: tuple[tuple[str, Mapping[str, Any]], ...]


_RGB, _DIFF, _FLOW = (("tsn", {"modality": modality}) for modality in ("rgb", "rgb-diff", "flow"))

_OFF18 = (
    Ablation(paper="OFF18", table="Table 1", label="TSN(RGB)", networks=(_RGB,)),
    Ablation(paper="OFF18", table="Table 1", label="TSN(RGB+RGB Diff)", networks=(_RGB, _DIFF)),
    Ablation(paper="OFF18", table="Table 1", label="TSN(Flow)", networks=(_FLOW,)),
    Ablation(paper="OFF18", table="Table 1", label="TSN(RGB+Flow)", networks=(_RGB, _FLOW)),
    Ablation(paper="OFF18", table="Table 2", label="RGB", networks=(_RGB,)),
    Ablation(paper="OFF18", table="Table 2", label="RGB + RGB Diff", networks=(_RGB, _DIFF)),
    Ablation(paper="OFF18", table="Table 2", label="RGB + Flow", networks=(_RGB, _FLOW)),
)
_OFF20: tuple[Ablation, ...] = ()
_RF19: tuple[Ablation, ...] = ()
_DC18: tuple[Ablation, ...] = ()

# "Scratch" and "fine-tune" are one network with other first weights, and so are those pretrained on other data. C3D,
# AlexNet and other people's networks of Tables 1 and 2 are not of these papers.
_FULL: dict[str, Any] = {}
_ACTION, _PAIRS, _STACKED = ((f"actionflownet{kind}", _FULL) for kind in ("", "-2f", "-stacked"))
_ACTION_ALONE, _PAIRS_ALONE = ((name, {"flow": False}) for name, _ in (_ACTION, _PAIRS))
_FRAMES, _FLOWS = (("resnet", {"classes": 101, "depth": 18, "in_channels": channels}) for channels in (3, 2))
_AF18 = (
    Ablation(paper="AF18", table="Table 1", label="Scratch", networks=(_PAIRS_ALONE,)),
    Ablation(paper="AF18", table="Table 1", label="Fine-tune", networks=(_PAIRS_ALONE,)),
    Ablation(paper="AF18", table="Table 1", label="Stacked", networks=(_STACKED,)),
    Ablation(paper="AF18", table="Table 1", label="ActionFlowNet-2F (UCF101)", networks=(_PAIRS,)),
    Ablation(paper="AF18", table="Table 1", label="ActionFlowNet-2F (FlCh+UCF101)", networks=(_PAIRS,)),
    Ablation(paper="AF18", table="Table 1", label="ImageNet pretrained ResNet-18", networks=(_FRAMES,)),
    Ablation(paper="AF18", table="Table 1", label="Multi-frame FlowNet fine-tune", networks=(_ACTION_ALONE,)),
    Ablation(paper="AF18", table="Table 1", label="ActionFlowNet (UCF101)", networks=(_ACTION,)),
    Ablation(paper="AF18", table="Table 2", label="ResNet-18 Scratch", networks=(_PAIRS_ALONE,)),
    Ablation(paper="AF18", table="Table 2", label="FlowNet fine-tuned (ours)", networks=(_PAIRS_ALONE,)),
    Ablation(paper="AF18", table="Table 2", label="ActionFlowNet-2F (ours)", networks=(_PAIRS,)),
    Ablation(paper="AF18", table="Table 2", label="ActionFlowNet (ours)", networks=(_ACTION,)),
    Ablation(paper="AF18", table="Table 3", label="Stacked on FlyingChairs", networks=(_STACKED,)),
    Ablation(paper="AF18", table="Table 3", label="Stacked on UCF101", networks=(_STACKED,)),
    Ablation(paper="AF18", table="Table 3", label="ResNet on EpicFlow", networks=(_FLOWS,)),
)

ABLATIONS = (*_OFF18, *_OFF20, *_RF19, *_DC18, *_AF18)
