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
# Without the rows that are other works' networks. Table 5 has its rows with and without TSN: the same network, of clips
# of several snippets and of one. In Tables 3 and 4 a branch is alone, as §4.2 says of the ablations.
_DC18_ROWS: tuple[tuple[int, str, Mapping[str, Any]], ...] = (
    (1, "2DConv+2DPool", {"branches": ("static",), "frames": 1}),
    (1, "2DConv+3DPool (late pool)", {"branches": ("static",), "pooling": "late"}),
    (1, "2DConv+3DPool (gradual pool)", {"branches": ("static",)}),
    *((2, f"# of frames {frames}", {"branches": ("static",), "frames": frames}) for frames in (1, 2, 4, 8, 16)),
    (3, "TV-L1", {"branches": ("motion",), "flow": "tvl1"}),
    (3, "Cost volume + WTA", {"branches": ("motion",), "flow": "wta"}),
    (3, "Disp. Map (112x112)", {"branches": ("motion",), "stride": 2}),
    (3, "Disp. Map (224x224)", {"branches": ("motion",)}),
    (4, "No warping, RGB", {"branches": ("change",), "warping": False, "difference": "rgb"}),
    (4, "No warping, Feature", {"branches": ("change",), "warping": False}),
    (4, "TV-L1 warping, RGB", {"branches": ("change",), "flow": "tvl1", "difference": "rgb"}),
    (4, "Disp. Map warping, RGB", {"branches": ("change",), "difference": "rgb"}),
    (5, "Static Appearance", {"branches": ("static",)}),
    (5, "Displacement Map", {"branches": ("motion",)}),
    (5, "Full model", {}),
    (6, "Static App., TV-L1", {"branches": ("static", "motion"), "flow": "tvl1"}),
    (6, "Static App., TV-L1, RGB-Diff", {"flow": "tvl1", "warping": False, "difference": "rgb"}),
    (6, "Static App., TV-L1, Warped-Diff", {"flow": "tvl1"}),
    (6, "Static App., Disp. Map", {"branches": ("static", "motion")}),
    (6, "Static App., Disp. Map, RGB-Diff", {"warping": False, "difference": "rgb"}),
    (6, "Static App., Disp. Map, Warped-Diff", {}),
    (7, "Ours", {}),
    (8, "Ours", {"classes": 400, "partial_bn": False}),
    (9, "Static App.", {"branches": ("static",)}),
    (9, "Motion", {"branches": ("motion",)}),
    (9, "App. Change", {"branches": ("change",)}),
    (9, "Overall", {}),
)
_DC18 = tuple(
    Ablation(paper="DC18", table=f"Table {table}", label=label, networks=(("disentangled", arguments),))
    for table, label, arguments in _DC18_ROWS
)
_AF18: tuple[Ablation, ...] = ()

ABLATIONS = (*_OFF18, *_OFF20, *_RF19, *_DC18, *_AF18)
