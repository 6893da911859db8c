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
# The scores of the OFF network are those of its backbone and its OFF, summed: "RGB" and "OFF(RGB)" are one network.
_OFF_RGB, _OFF_DIFF, _OFF_FLOW = (("off-tsn", {"modality": modality}) for modality in ("rgb", "rgb-diff", "flow"))
_OFF_DIFF_ALONE = ("off-tsn", {"modality": "rgb-diff", "fusion": (0, 0, 0, 1)})
_HYPERCOLUMN = ("off-tsn", {"gradients": "none"})


def _off(table: str, label: str, *networks: tuple[str, Mapping[str, Any]]) -> tuple[Ablation, Ablation]:
    """A row that OFF18 and OFF20 share; table: its number in each."""
    old, new = table.split()
    return (
        Ablation(paper="OFF18", table=f"Table {old}", label=label, networks=networks),
        Ablation(paper="OFF20", table=f"Table {new}", label=label, networks=networks),
    )


_OFF18_AND_OFF20 = (
    *_off("1 1", "TSN(RGB)", _RGB),
    *_off("1 1", "TSN(RGB+RGB Diff)", _RGB, _DIFF),
    *_off("1 1", "TSN(Flow)", _FLOW),
    *_off("1 1", "TSN(RGB+Flow)", _RGB, _FLOW),
    *_off("1 1", "RGB+OFF(RGB)+RGB Diff+OFF(RGB Diff)", _OFF_RGB, _OFF_DIFF),
    *_off("2 2", "RGB", _RGB),
    *_off("2 2", "RGB + OFF(RGB)", _OFF_RGB),
    *_off("2 2", "RGB + RGB Diff", _RGB, _DIFF),
    *_off("2 2", "RGB + OFF(RGB) + RGB Diff", _OFF_RGB, _DIFF),
    *_off("2 2", "RGB + OFF(RGB) + RGB Diff + OFF(RGB Diff)", _OFF_RGB, _OFF_DIFF),
    *_off("2 2", "RGB + Flow", _RGB, _FLOW),
    *_off("2 2", "RGB + OFF(RGB) + Flow", _OFF_RGB, _FLOW),
    *_off("2 2", "RGB + OFF(RGB) + Flow + OFF(Flow)", _OFF_RGB, _OFF_FLOW),
    *_off("3 4", "RGB", _RGB),
    *_off("3 4", "Hyp-Net + RGB", _HYPERCOLUMN),
    *_off("3 4", "OFF(RGB) + RGB", _OFF_RGB),
    *_off("4 6", "Ours", _OFF_RGB, _OFF_FLOW, _OFF_DIFF_ALONE),
)
_OFF20 = (
    Ablation(paper="OFF20", table="Table 3", label="RGB", networks=(_RGB,)),
    Ablation(paper="OFF20", table="Table 3", label="RGB + OFF_T", networks=(("off-tsn", {"gradients": "temporal"}),)),
    Ablation(paper="OFF20", table="Table 3", label="RGB + OFF_T + OFF_S", networks=(_OFF_RGB,)),
    Ablation(paper="OFF20", table="Table 5", label="TSM", networks=(("resnet", {"shift": True, "dropout": 0.5}),)),
    Ablation(paper="OFF20", table="Table 5", label="Our method", networks=(("off-tsm", {}),)),
)
_RF19: tuple[Ablation, ...] = ()
_DC18: tuple[Ablation, ...] = ()
_AF18: tuple[Ablation, ...] = ()

ABLATIONS = (*_OFF18_AND_OFF20, *_OFF20, *_RF19, *_DC18, *_AF18)
