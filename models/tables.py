"""Every row of every ablation table of the papers, and the networks that it takes to repeat it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ABLATIONS", "Ablation", "ablation"]


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """A row of a paper's table: its label as printed and the networks whose scores the row sums, mostly one.

    networks: (name in `motionspec.models.table.networks()`, arguments put on that network's full-size ones), each.
    timed: arguments that differ where the time was taken, because a paper may time another network than it judges.
    """

    paper: str
    table: str
    label: str
    networks: tuple[tuple[str, Mapping[str, Any]], ...]
    timed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def as_timed(self) -> tuple[tuple[str, Mapping[str, Any]], ...]:
        """`networks` as they were when the paper took their time."""
        return tuple((name, {**arguments, **self.timed}) for name, arguments in self.networks)


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


def _rf19(name: str = "repflow", **arguments: Any) -> tuple[str, Mapping[str, Any]]:
    """RF19 §4: ResNet-34 and the 150 classes of Tiny-Kinetics, where a row says nothing else."""
    return name, {"classes": 150, "depth": 34} | ({"n_iter": 10} if name == "repflow" else {}) | arguments


def _rf19_streams(**arguments: Any) -> tuple[tuple[str, Mapping[str, Any]], tuple[str, Mapping[str, Any]]]:
    """RGB and flow, of which a frame has two channels; their sum is the two-stream network.

    The paper says nothing of the channels. The released 3D baseline has two, the 2D one 20: ten flow maps at once.
    """
    return _rf19("resnet", **arguments), _rf19("resnet", in_channels=2, **arguments)


_FIXED: dict[str, Any] = {"learn_numbers": False, "learn_divergence": False}
_INPUT: dict[str, Any] = {"place": 0, "channels": None}
_FCF: dict[str, Any] = {"motion": "flow-conv-flow"}
_FACTORED: dict[str, Any] = {"depth": 34, "kind": "(2+1)D", "stem_time": 7, "classes": 400, "n_iter": 20}
_FUSIONS = ("None", "Late", "Add", "Multiply", "Layer + Multiply", "Concat")
# Table, label, networks. Without the rows that are other works' networks; in Tables 6 and 7 also OFF on other networks
# than its own paper's. (2+1)D of Table 9 has no depth: 34, since 50 has bottlenecks.
_RF19_ROWS: tuple[tuple[Any, ...], ...] = (
    (1, "RGB CNN", _rf19("resnet")),
    (1, "Flow CNN", _rf19("resnet", in_channels=2)),
    (1, "Two-Stream CNN", *_rf19_streams()),
    (1, "Flow Layer on RGB Input", _rf19(**_FIXED, **_INPUT, n_iter=100)),
    *((1, f"After Block {block}", _rf19(**_FIXED, place=block, n_iter=100)) for block in range(1, 6)),
    (2, "None (all fixed)", _rf19(**_FIXED, n_iter=100)),
    (2, "Sobel kernels", _rf19(**_FIXED, learn_image_kernel=True, n_iter=100)),
    (2, "Divergence (wx, wy)", _rf19(learn_numbers=False, n_iter=100)),
    (2, "tau, lambda, theta", _rf19(learn_divergence=False, n_iter=100)),
    (2, "All", _rf19(learn_image_kernel=True, learn_flow_kernel=True, n_iter=100)),
    (2, "Divergence + tau, lambda, theta", _rf19(n_iter=100)),
    *((3, f"{n} iterations, not learned", _rf19(**_FIXED, n_iter=n)) for n in (1, 5, 10, 20, 50, 100)),
    *((3, f"{n} iterations, learned", _rf19(n_iter=n)) for n in (1, 5, 10, 20, 50, 100)),
    *((4, f"{label}, RGB", _rf19(**_INPUT, fusion=label.replace(" ", "").lower())) for label in _FUSIONS),
    *((4, f"{label}, 1 Block", _rf19(place=1, fusion=label.replace(" ", "").lower())) for label in _FUSIONS),
    *((4, f"{label}, 3 Blocks", _rf19(fusion=label.replace(" ", "").lower())) for label in _FUSIONS),
    (5, "TVL-1 twice", _rf19(**_FIXED, **_INPUT, in_channels=2)),
    (5, "Single Flow Layer", _rf19()),
    (5, "Flow-of-Flow", _rf19(motion="flow-flow")),
    (5, "Flow-Conv-Flow (FcF)", _rf19(**_FCF)),
    (5, "Flow-Conv-Flow-Conv-Flow", _rf19(motion="flow-conv-flow-conv-flow")),
    *(
        row
        for table, kind in ((6, "3D"), (7, "(2+1)D"))
        for row in (
            (table, f"RGB {kind} ResNet-18", _rf19("resnet", depth=18, kind=kind, stem_time=7)),
            (table, f"TVL-1 {kind} ResNet-18", _rf19("resnet", depth=18, kind=kind, stem_time=7, in_channels=2)),
            (table, f"Two-Stream {kind} ResNet", *_rf19_streams(depth=18, kind=kind, stem_time=7)),
            (table, "Input (RGB)", _rf19(depth=18, kind=kind, stem_time=7, **_INPUT)),
            (table, "After Block 1", _rf19(depth=18, kind=kind, stem_time=7, place=1)),
            (table, "After Block 3", _rf19(depth=18, kind=kind, stem_time=7)),
        )
    ),
    (8, "ActionFlownet", ("actionflownet", {"classes": 150})),
    (8, "RGB-OFF", ("off-tsn", {"classes": 150})),
    (8, "Ours", _rf19()),
    (9, "RGB", ("resnet", {"classes": 400, "depth": 50})),
    (9, "Flow", ("resnet", {"classes": 400, "depth": 50, "in_channels": 2})),
    (9, "Two-stream", *_rf19_streams(classes=400, depth=50)),
    (9, "OFF (RGB Only)", _OFF_RGB),
    (9, "OFF (RGB + Flow + RGB Diff)", _OFF_RGB, _OFF_FLOW, _OFF_DIFF_ALONE),
    (9, "Ours (2D CNN + Rep. Flow)", ("repflow", {})),
    (9, "Ours (2D CNN + FcF)", ("repflow", _FCF)),
    (9, "Ours ((2+1)D CNN + Rep. Flow)", ("repflow", _FACTORED)),
    (9, "Ours ((2+1)D CNN + FcF)", ("repflow", _FACTORED | _FCF)),
    (9, "Ours ((2+1)D CNN + FcF) + Non-local", ("repflow", _FACTORED | _FCF | {"non_local": True})),
)
# "All CNNs were based on the ResNet-34 architecture" (RF19 §4) is said of the times in Table 9; the accuracies beside
# them are of ResNet-50.
_RF19 = tuple(
    Ablation(
        paper="RF19",
        table=f"Table {table}",
        label=label,
        networks=tuple(networks),
        timed={"depth": 34} if table == 9 and networks[0][0] in ("resnet", "repflow") else {},
    )
    for table, label, *networks in _RF19_ROWS
)
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

ABLATIONS = (*_OFF18_AND_OFF20, *_OFF20, *_RF19, *_DC18, *_AF18)


def ablation(paper: str, table: str, label: str) -> Ablation:
    """The row with that label. Raises KeyError for one that is not there."""
    return _ROWS[paper, table, label]


_ROWS = {(row.paper, row.table, row.label): row for row in ABLATIONS}
