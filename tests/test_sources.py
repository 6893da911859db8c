"""The inventory is complete and well formed. The counts below were taken from the papers, not from the inventory."""

import importlib
import re
from collections.abc import Collection

import pytest

from motionspec.cli import inventory
from motionspec.cli.main import planned
from motionspec.refimpl import sources
from motionspec.refimpl.equations import EQUATIONS, SINGLE
from motionspec.refimpl.sources import SOURCES, Source

# paper: numbered equations, algorithms, figures, tables
COUNTS = {
    "OFF18": (9, 0, 4, 4),
    "OFF20": (14, 0, 6, 9),
    "RF19": (11, 1, 7, 9),
    "DC18": (2, 0, 5, 9),
    "AF18": (4, 0, 7, 3),
}
STEMS = "brightness|off|tvl1|costvol|warp|losses|metrics|sampling|pool3d|detection"
NETWORKS = "bn_inception|off_tsn|off_tsm|off_rfcn|off_dncnn|repflow|disentangled|actionflownet|resnet"
NUMBERED = re.compile(r"\(\d+\)|(Alg\.|Fig\.|Table) \d+")
UNNUMBERED = re.compile(r"(§\d(\.\d){0,2}|Fig\. \d) \S.*")  # a section, or a part of a figure, and a few words
FATE = re.compile(
    rf"(({STEMS})\.[a-z][a-z0-9_]*(, (?!$)|$))+"
    rf"|network: ({NETWORKS})"
    r"|(definition only|claim|out of scope): \S.*"
)

# What the papers say without a number and the project relies on: paper, start of the label, words of `says`, fate.
CRITICAL = [
    ("OFF18", "§3 orthogonality", "[vx, vy, 1]", "brightness.orthogonality"),
    ("OFF18", "§4.1 concatenation", "concatenated", "off.features, off.clip_features"),
    ("OFF18", "§4.1 OFF unit", "128", "network: off_tsn"),
    ("OFF18", "§4.2 intermediate supervision", "a loss of its own", "losses.intermediate_supervision"),
    ("OFF18", "§4.2 training frames", "{p, p + floor(L/beta), ", "sampling.off_train"),
    ("OFF18", "§4.2 test frames", "same interval", "sampling.off_test"),
    ("OFF18", "§4.3 score fusion", "summed", "network: off_tsn"),
    ("OFF20", "§3 orthogonality", "[vx, vy, 1]", "brightness.orthogonality"),
    ("OFF20", "§4.2.3 training frames", "L <= beta is a misprint", "sampling.off_train"),
    ("OFF20", "§5.2 temporal shift", "TSM", "pool3d.temporal_shift"),
    ("OFF20", "§6.1 score maps", "k = 7", "detection.ps_roi_pool"),
    ("OFF20", "§6.3 mAP", "mean average precision", "metrics.mean_average_precision"),
    ("OFF20", "§7.1 OFF of g", "dN = 0", "off.residual_rate"),
    ("OFF20", "§7.2 OFF in DnCNN", "3 + 18 is not 20", "network: off_dncnn"),
    ("OFF20", "§7.3 PSNR", "signal-to-noise", "metrics.psnr"),
    ("RF19", "§3.1 brightness consistency", "I1(x, y) = I2(x + dx, y + dy)", "brightness.constancy_residual"),
    ("RF19", "§3.1 Taylor line", "sign misprint", "brightness.linearised_residual"),
    ("RF19", "§3.1 coarse to fine", "warped", "tvl1.pyramid_flow"),
    ("RF19", "§3.2 start", "rho_c = F2 - F1", "tvl1.data_constant, tvl1.representation_flow"),
    ("RF19", "§3.2 divergence kernels", "[-1 1]", "tvl1.divergence"),
    ("RF19", "§3.2 divergence border", "first column", "tvl1.divergence"),
    ("RF19", "§3.2 normalisation", "[0, 255]", "tvl1.normalise"),
    ("RF19", "§4 flow-conv-flow", "convolution between", "network: repflow"),
    ("DC18", "§3.2 gradual pooling", "temporal 1D", "pool3d.gradual"),
    ("DC18", "§3.3 cost volume", "(2dH+1) x (2dW+1)", "costvol.cosine"),
    ("DC18", "§3.3 cosine", "cosine similarity", "costvol.cosine"),
    ("DC18", "§3.3 winner takes all", "highest similarity", "costvol.hard_displacement"),
    ("DC18", "§3.3 limit", "tau -> 0", "costvol.soft_displacement, costvol.hard_displacement"),
    ("DC18", "§3.3 softmax remark", "not the marginals of the joint", "costvol.marginals"),
    ("DC18", "§3.4 warping", "W(F_t, V_t)", "warp.motion"),
    ("DC18", "§3.4 sampling", "zero where the source point lies outside", "warp.bilinear"),
    ("DC18", "§3.4 warped difference", "F_(t+1) - F'_(t+1)", "warp.difference"),
    ("AF18", "§3.1 future prediction", "T flows", "network: actionflownet"),
    ("AF18", "§4.2 evaluation", "64 random crops", "sampling.multi_crop"),
    ("AF18", "§4.3.1 occlusion", "black square", "network: actionflownet"),
]

# What a numbered source is, and the misprints that the project departs from: paper, label, words of `says`, fate.
NUMBERED_FATES = [
    ("OFF18", "(1)", "I(x, y, t)", "brightness.constancy_residual"),
    ("OFF18", "(5)", "Prewitt", "off.spatial_gradient"),
    ("OFF18", "(7)", "later minus", "off.temporal_difference"),
    ("OFF18", "(8)", "average", "losses.consensus"),
    ("OFF18", "(9)", "cross entropy", "losses.cross_entropy"),
    ("OFF18", "Fig. 4", "Sobel and subtraction", "off.spatial_gradient, off.temporal_difference, off.features"),
    ("OFF20", "(13)", "only where g(I) = I", "off.residual_rate"),
    ("RF19", "(1)", "rho_c", "tvl1.data_constant"),
    ("RF19", "(2)", "rho = rho_c", "tvl1.data_residual"),
    ("RF19", "(3)", "misprint for |grad I2|^2", "tvl1.threshold_step"),
    ("RF19", "(4)", "theta divergence(p)", "tvl1.primal_step"),
    ("RF19", "(5)", "tau/theta", "tvl1.dual_step"),
    ("RF19", "(6)", "px[i-1,j]", "tvl1.divergence"),
    ("RF19", "(7)", "does not match (1)-(3)", "tvl1.energy"),
    ("RF19", "(8)", "F2", "tvl1.image_gradient"),
    ("RF19", "(9)", "wx", "tvl1.divergence"),
    ("RF19", "(10)", "both derivatives of each component", "tvl1.flow_gradient"),
    ("RF19", "(11)", "log p_i", "losses.cross_entropy"),
    ("RF19", "Alg. 1", "n times (2)-(5)", "tvl1.representation_flow"),
    ("DC18", "(1)", "expected displacement", "costvol.soft_displacement"),
    ("DC18", "(2)", "joint softmax", "costvol.marginals"),
    ("AF18", "(1)", "EPE", "losses.endpoint_error"),
    ("AF18", "(2)", "indicator", "losses.multitask"),
    ("AF18", "(3)", "alpha is not given", "losses.multiscale_endpoint_error"),
    ("AF18", "(4)", "indicator", "losses.multitask"),
]


@pytest.mark.parametrize("paper", COUNTS)
def test_every_number_is_listed_once(paper: str) -> None:
    equations, algorithms, figures, tables = COUNTS[paper]
    expected = [f"({n})" for n in range(1, equations + 1)]
    expected += [f"Alg. {n}" for n in range(1, algorithms + 1)]
    expected += [f"Fig. {n}" for n in range(1, figures + 1)]
    expected += [f"Table {n}" for n in range(1, tables + 1)]
    labels = [s.label for s in SOURCES if s.paper == paper]
    assert sorted(label for label in labels if NUMBERED.fullmatch(label)) == sorted(expected)
    assert len(set(labels)) == len(labels)


def test_papers() -> None:
    assert set(sources.PAPERS) == set(COUNTS) == {s.paper for s in SOURCES}


@pytest.mark.parametrize(("paper", "label", "words", "fate"), CRITICAL + NUMBERED_FATES)
def test_what_the_project_relies_on(paper: str, label: str, words: str, fate: str) -> None:
    (source,) = (s for s in SOURCES if (s.paper, s.label) == (paper, label))
    assert words in source.says
    assert source.fate == fate


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: f"{s.paper} {s.label}")
def test_form(source: Source) -> None:
    assert NUMBERED.fullmatch(source.label) or UNNUMBERED.fullmatch(source.label)
    assert source.says.isprintable()  # one line
    assert source.says == source.says.strip() != ""
    assert len(source.says) <= 110
    assert FATE.fullmatch(source.fate)


def test_every_table_is_a_claim() -> None:
    assert {sources.state(s, ()) for s in SOURCES if s.label.startswith("Table ")} == {"claim"}


def test_equations_are_not_waved_away() -> None:
    """Every numbered equation of the papers is stated by equations of the project."""
    assert all(sources.ids(s) for s in SOURCES if re.fullmatch(r"\(\d+\)|Alg\. 1", s.label))


@pytest.mark.parametrize(
    "fate",
    [
        *("", "planned", "off", "warps.bilinear", "warp.bilinear, ", "warp.bilinear,warp.motion", "network: tsn"),
        *("network: off_tsn, repflow", "off.features, network: off_tsn", "claim: ", "out of scope", "later: x"),
    ],
)
def test_wrong_forms_are_seen(fate: str) -> None:
    assert not FATE.fullmatch(fate)


def test_ids() -> None:
    assert sources.ids(Source("RF19", "(2)", "", "tvl1.data_residual")) == ("tvl1.data_residual",)
    assert sources.ids(Source("DC18", "§3.3 limit", "", "costvol.a, costvol.b")) == ("costvol.a", "costvol.b")
    for fate in ("network: repflow", "claim: see off.features, and more", "definition only: names", "out of scope: x"):
        assert sources.ids(Source("RF19", "Fig. 3", "", fate)) == ()


@pytest.mark.parametrize(
    ("fate", "known", "expected"),
    [
        ("warp.motion", {"warp.motion"}, "done"),
        ("warp.motion", {"warp.bilinear"}, "planned"),
        ("warp.motion", (), "planned"),
        ("warp.motion, warp.bilinear", {"warp.motion"}, "planned"),
        ("warp.motion, warp.bilinear", {"warp.bilinear", "warp.motion", "off.features"}, "done"),
        ("network: repflow", {"network: repflow"}, "done"),
        ("network: repflow", {"network: resnet", "repflow", "tvl1.energy"}, "planned"),
        ("definition only: names", {"warp.motion"}, "definition"),
        ("claim: 206 frames/s; a floor for benchmarks", (), "claim"),
        ("out of scope: why", (), "out of scope"),
    ],
)
def test_state(fate: str, known: Collection[str], expected: str) -> None:
    assert sources.state(Source("OFF18", "(1)", "", fate), known) == expected


def test_unknown_form_is_refused() -> None:
    with pytest.raises(KeyError):
        sources.state(Source("OFF18", "(1)", "", "later: perhaps"), ())


# -- against the table -------------------------------------------------------------------------------------------------

# What nobody has written yet. These numbers only ever fall; at the end of the project both are 0.
PLANNED_EQUATIONS, PLANNED_NETWORKS = 0, 0


def test_planned_entries_are_counted():
    names = planned()
    networks = [name for name in names if name.startswith("network: ")]
    assert len(networks) == PLANNED_NETWORKS
    assert len(names) - len(networks) == PLANNED_EQUATIONS


def test_what_is_planned_says_so(monkeypatch):
    monkeypatch.setattr(inventory, "NETWORKS", frozenset())
    with pytest.raises(
        inventory.CannotRun, match=r"^network: off_tsn is planned \(OFF18 §4\.1 OFF unit\) and not written"
    ):
        inventory.find("off_tsn")


@pytest.mark.parametrize("name", SINGLE)
def test_what_is_written_once_exists(name):
    stem, function = name.split(".")
    assert callable(getattr(importlib.import_module(f"motionspec.refimpl.{stem}"), function))
    assert name not in EQUATIONS


def test_every_row_is_named_by_a_source_or_says_that_none_does():
    named = {name for source in sources.SOURCES for name in sources.ids(source)}
    elsewhere = ("released code", "not in the papers: ")
    assert {row.id for row in EQUATIONS.values() if not row.source.startswith(elsewhere)} <= named


def test_a_source_that_a_row_cites_is_in_the_inventory():
    """ "OFF18 (1), (2)" needs rows OFF18 (1) and OFF18 (2)."""
    known = {(source.paper, source.label) for source in sources.SOURCES}
    cited = [
        (paper, number)
        for row in EQUATIONS.values()
        for paper, rest in re.findall(
            r"(OFF18|OFF20|RF19|DC18|AF18)((?:[^;](?!OFF18|OFF20|RF19|DC18|AF18))*)", row.source
        )
        for number in re.findall(r"\(\d+\)|Fig\. \d|Alg\. \d", rest)
    ]
    assert len(cited) >= 8
    assert set(cited) <= known
