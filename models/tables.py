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
_OFF20 = (
    Ablation(paper="OFF20", table="Table 7", label="RFCN", networks=(("off-rfcn", {"scales": "none"}),)),
    Ablation(
        paper="OFF20",
        table="Table 7",
        label="RFCN+OFF(SS) w/o SE",
        networks=(("off-rfcn", {"scales": "single", "se": False}),),
    ),
    Ablation(paper="OFF20", table="Table 7", label="RFCN+OFF(SS)", networks=(("off-rfcn", {"scales": "single"}),)),
    Ablation(paper="OFF20", table="Table 7", label="RFCN+OFF(MS)", networks=(("off-rfcn", {}),)),
    Ablation(paper="OFF20", table="Table 8", label="Ours", networks=(("off-rfcn", {}),)),
    Ablation(paper="OFF20", table="Table 9", label="DnCNN", networks=(("off-dncnn", {"frames": 1}),)),
    Ablation(paper="OFF20", table="Table 9", label="DnCNN_OFF(2)", networks=(("off-dncnn", {"frames": 2}),)),
    Ablation(paper="OFF20", table="Table 9", label="DnCNN_OFF(3)", networks=(("off-dncnn", {}),)),
)
_RF19: tuple[Ablation, ...] = ()
_DC18: tuple[Ablation, ...] = ()
_AF18: tuple[Ablation, ...] = ()

ABLATIONS = (*_OFF18, *_OFF20, *_RF19, *_DC18, *_AF18)
