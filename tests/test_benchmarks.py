"""The parts of benchmarks/ that need no quiet machine: counts, targets, comparisons, files, plain forms."""

import copy
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

jsonschema = pytest.importorskip("jsonschema")
pytest.importorskip("torch")

torch = pytest.importorskip("torch")

import plain  # noqa: E402
import test_bench  # noqa: E402
from compare import compared, install, text  # noqa: E402
from measure import Others, peak, ratio, slug, spread, times  # noqa: E402
from networks import CASES, Case, built  # noqa: E402
from networks import outcome as network_outcome  # noqa: E402
from networks import run as run_networks  # noqa: E402
from peers import Peer, judged, peers, taken  # noqa: E402
from progress import left, missed  # noqa: E402
from report import beside, outcome, report, slope, slopes, slower, targets  # noqa: E402
from results import SCHEMA, key, save  # noqa: E402
from workloads import (  # noqa: E402
    LINEAR,
    OPERATIONS,
    SCALE,
    SWEEPS,
    TARGETS,
    Target,
    Workload,
    moved,
    operations,
    variant,
    workloads,
)

from motionspec import ops  # noqa: E402
from motionspec.cli.cases import SeededFill, convert  # noqa: E402
from motionspec.models.table import networks  # noqa: E402
from motionspec.models.tables import ABLATIONS  # noqa: E402
from motionspec.refimpl.equations import EQUATIONS  # noqa: E402

FILES = sorted(SCHEMA.with_name("results").glob("*/*.json"))
ALL = list(workloads(judged()))


SMALL = {"N": 2, "C": 3, "H": 6, "W": 7}


def inputs(operator):
    """Leaves in float64."""
    row = EQUATIONS[operator]
    sizes = {k: (SMALL | {"T": 3, "S": 2, "K": 5})[k] for k in row.dims}
    arrays = row.inputs(SeededFill((1,), SCALE.get(operator, 1.0), True, "float64"), **sizes)
    given = convert(arrays, dtype="float64", framework="torch", device="cpu")
    return [t.requires_grad_(n in row.differentiable) for n, t in given.items() if n not in row.keyword]


def called(operator, given, function=None, **options):
    """Outputs of a function, or of the operator, as a tuple."""
    stem, name = operator.split(".")
    outs = (function or getattr(getattr(ops, stem), name))(*given, **options)
    return outs if isinstance(outs, tuple) else (outs,)


def a_row(**changes):
    """A row as the benchmarks write it."""
    row = {
        "operator": "off.features",
        "sizes": {"N": 96, "C": 128, "H": 28, "W": 28},
        "options": {"kernel": "paper"},
        "used": "a test",
        "sweep": "",
        "dtype": "float32",
        "direction": "forward",
        "impl": "torch",
        "seconds": {"median": 2.0, "low": 1.9, "high": 2.2, "rounds": 9},
        "bytes": 10,
        "operations": None,
        "bandwidth": 10.0,
        "rate": 100.0,
        "floor": 1.0,
        "bound": "bytes",
        "held": 4,
        "made": 6,
        "others": 0.25,
        "peak": 8,
        "peers": [
            {"name": "absent", "status": "not installed"},
            {
                "name": "eager",
                "status": "timed",
                "seconds": {"median": 8.0, "low": 7.0, "high": 9.0, "rounds": 5},
                "ratio": {"median": 4.0, "low": 3.5, "high": 4.5, "rounds": 5},
                "peak": 20,
            },
        ],
    }
    return row | changes


def a_file(*rows):
    versions = {"motionspec": "0.1.0", "python": "3.11", "torch": "2.13"}
    environment = {"machine": "A, 2 cores", "device": "cpu", "cache": 1, "threads": 2, "heap": "default", "system": "x"}
    return {
        "schema": 1,
        "date": "2026-01-01",
        "environment": environment | {"versions": versions, "commit": "abcdef0"},
        "rows": list(rows),
    }


# -- counts ------------------------------------------------------------------------------------------------------------


def test_bytes_are_those_counted_by_hand():
    one = 4 * 16 * 128 * 28 * 28  # a frame of the clip; 7 frames in, 6 times 3 maps out
    assert moved("off.clip_features", 7 * one, 18 * one, 7 * one, 18 * one) == (25 * one, 25 * one)
    flow = 4 * 2 * 8 * 56 * 56  # flow and target in, one number out; backward reads them again, writes both gradients
    assert moved("losses.endpoint_error", 2 * flow, 4, 2 * flow, 4) == (2 * flow + 4, 4 * flow + 4)


def test_operations_are_those_counted_by_hand():
    counted = {(w.operator, tuple(w.sizes.values())): operations(w) for w in ALL}
    assert counted["off.features", (96, 128, 28, 28)] == (8 * 96 * 128 * 784, 10 * 96 * 128 * 784)
    assert counted["off.clip_features", (16, 128, 7, 28, 28)] == (8 * 16 * 128 * 6 * 784, 10 * 16 * 128 * 6 * 784)
    # 121 offsets, 64 products and sums each, of 4 x 112 x 112 pixels.
    assert counted["costvol.displacement_map", (4, 64, 112, 112)][0] == 2 * 64 * 121 * 4 * 112 * 112 == 777_125_888
    assert counted["tvl1.representation_flow", (480, 32, 28, 28)][0] == 60 * 20 * 480 * 32 * 784
    assert counted["tvl1.pyramid_flow", (1, 480, 640)][0] == 60 * 128 * 10**6
    assert counted["losses.endpoint_error", (8, 16, 56, 56)] == (10 * 8 * 16 * 56 * 56, 12 * 8 * 16 * 56 * 56)
    assert counted["metrics.psnr", (8, 3, 256, 448)] is None


def test_every_row_is_a_workload_at_each_of_its_sizes():
    timed = {(w.operator, tuple(w.sizes.items())) for w in ALL}
    assert {(row.id, tuple(sizes.items())) for row in EQUATIONS.values() for sizes in row.bench} <= timed
    assert {*LINEAR, *OPERATIONS, *SWEEPS} <= set(EQUATIONS)
    assert len({w.name for w in ALL}) == len(ALL)


def test_each_workload_is_judged_in_a_variant_of_its_row():
    for w in ALL:
        fitting = [v for v in EQUATIONS[w.operator].variants if variant(w).items() <= v.items()]
        assert fitting and all(str(w.options[k]) == str(v) for k, v in variant(w).items())
    flow = next(w for w in ALL if w.operator == "tvl1.representation_flow")
    assert variant(flow) == {"scheme": "released"}  # the row's 3 iterations are not 10


def test_a_sweep_changes_one_axis():
    swept = [w for w in ALL if w.sweep == "radius"]
    assert [w.options["radius"] for w in swept] == [1, 2, 4, 8]
    assert len({tuple(w.sizes.items()) for w in swept}) == 1
    square = [w for w in ALL if (w.operator, w.sweep) == ("off.features", "HW")]
    assert [tuple(w.sizes.values()) for w in square] == [(8, 64, side, side) for side in (14, 28, 56, 112)]


@pytest.mark.parametrize("operator", sorted(LINEAR))
def test_linear_operators_have_the_same_gradient_everywhere(operator):
    found = []
    for factor in (1, 3):
        leaves = [(factor * t.detach()).requires_grad_() for t in inputs(operator)]
        outs = called(operator, leaves, **EQUATIONS[operator].variants[0])
        weights = [torch.arange(float(out.numel()), dtype=out.dtype).reshape(out.shape) for out in outs]
        found.append(torch.autograd.grad(outs, leaves, weights))
    for one, three in zip(*found, strict=True):
        torch.testing.assert_close(one, three)


# -- targets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_target_is_about_what_is_timed(target):
    workload = [
        w
        for w in ALL
        if (w.operator, dict(w.sizes), w.sweep) == (target.operator, dict(target.sizes), "")
        and w.device in ("", target.device)
        and target.options.items() <= w.options.items()
    ]
    assert len(workload) == 1
    of = target.over.removeprefix("memory of ")
    assert of in {"floor", "tensors", *(peer.name for peer in peers(workload[0], target.device))}
    assert target.direction == "forward" or EQUATIONS[target.operator].differentiable


@pytest.mark.parametrize(
    "over, bound, met",
    [
        ("floor", 1.95, True),  # 2.0, at its lower quartile 1.9
        ("floor", 1.85, False),
        ("eager", 4.4, True),  # 4.0, at its upper quartile 4.5
        ("eager", 4.6, False),
        ("memory of eager", 0.5, True),  # 4 held, 8 against 20 more
        ("memory of eager", 0.49, False),
        ("memory of tensors", 1.2, True),  # 12 against 10
        ("memory of tensors", 1.19, False),
    ],
)
def test_a_target_is_met_within_the_spread(over, bound, met):
    target = Target("off.features", {"N": 96, "C": 128, "H": 28, "W": 28}, "cuda", "forward", over, bound)
    found, said = outcome(target, [a_row(sweep="N"), a_row(direction="both"), a_row()])
    assert found is met and ("missed by" in said) is not met


def test_a_missed_target_says_by_how_much():
    of = ("off.features", {"N": 96, "C": 128, "H": 28, "W": 28}, "cuda", "forward")
    assert outcome(Target(*of, "floor", 1.0), [a_row()])[1] == "2.00 x floor, missed by 90 %"
    assert outcome(Target(*of, "eager", 5.0), [a_row()])[1] == "eager takes 4 times our time, missed by 10 %"


def test_what_is_not_measured_is_skipped_and_says_why():
    target = Target("off.features", {"N": 96, "C": 128, "H": 28, "W": 28}, "cuda", "forward", "absent", 2)
    assert outcome(target, []) == (None, "not measured in this run")
    assert outcome(target, [a_row()]) == (None, "absent: not installed")
    assert outcome(target, [a_row(dtype="bfloat16")])[0] is None
    shown = targets({"cpu": [a_row()]}).split("\n")[2:]
    assert len(shown) == len(TARGETS)
    assert all("  not measured here  " in line for line in shown if line.startswith("cuda"))
    assert all(line.endswith("skipped") for line in shown)


def test_targets_of_a_gpu_are_skipped_without_one():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    command = [sys.executable, "-m", "pytest", "benchmarks", "-q", "-rs", "-p", "no:cacheprovider", "-k", "floor"]
    done = subprocess.run(command, cwd=SCHEMA.parents[1], capture_output=True, text=True)
    count = sum(target.over == "floor" for target in TARGETS)
    assert f"SKIPPED [{count}]" in done.stdout and "not measured here: no CUDA device" in done.stdout
    assert re.search(rf"^{count} skipped, \d+ deselected", done.stdout, re.M), done.stdout


def test_a_faster_peer_is_named_beyond_the_spread_alone():
    def beside(low, median, high, name="p", impl="torch"):
        timed = {"name": name, "status": "timed", "ratio": {"low": low, "median": median, "high": high}}
        return a_row(impl=impl, peers=[timed, {"name": "q", "status": "not installed"}])

    assert [peer["name"] for _, peer in slower([beside(0.7, 0.8, 0.9)])] == ["p"]
    assert [peer["name"] for _, peer in slower([beside(0.7, 0.8, 0.9, "eager", "numba")])] == ["eager"]
    assert slower([beside(0.7, 0.8, 0.9, "eager", "torch")]) == []  # itself
    assert slower([beside(0.9, 0.97, 1.02), a_row(), a_row(peers=[])]) == []


# -- progress ----------------------------------------------------------------------------------------------------------


def test_time_left_is_that_of_last_time_or_the_mean():
    assert left({"a": 10.0, "b": 50.0}, [2.0, 4.0], ["b", "c"]) == 50 + 3
    assert left({}, [2.0], []) == 0


def test_what_failed_is_said_in_words():
    crash = SimpleNamespace(reprcrash=SimpleNamespace(message="AssertionError: cpu x: missed by 3 %\nassert False"))
    reports = [SimpleNamespace(longrepr=crash), SimpleNamespace(longrepr="the fixture broke\nat its end")]
    assert missed(reports) == ["cpu x: missed by 3 %", "the fixture broke"]


# -- report and comparison ---------------------------------------------------------------------------------------------


def test_the_report_leaves_nobody_out():
    shown = report([a_row()])
    assert "absent: not installed" in shown
    assert "eager x 4 (3.5-4.5)" in shown
    assert "2 s" in shown and "bytes" in shown and "others took 25% of the cores" in shown
    once = a_row()["peers"][1] | {"seconds": spread([8.0])}
    assert once["seconds"]["rounds"] == 1 and beside(once) == "eager x 4 (3.5-4.5, one call)"


def test_slopes_are_exponents():
    assert slope([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    spent = {n: {"median": 1e-3 * n, "low": 1e-3 * n, "high": 1e-3 * n, "rounds": 5} for n in (2, 4, 8)}
    rows = [a_row(sweep="N", sizes={"N": n, "C": 1}, seconds=spent[n], peak=10**7 * n**2) for n in (2, 8, 4)]
    assert slopes(rows) == [("off.features", "N", "2 to 8", "forward", "1.00", "2.00")]


def run(*medians, name="off.features"):
    """Runs whose quartiles lie 5 % around the median."""
    seconds = [{"median": m, "low": 0.95 * m, "high": 1.05 * m, "rounds": 9} for m in medians]
    return [{name: a_row(seconds=one)} for one in seconds]


@pytest.mark.parametrize(
    "base, head, verdict",
    [
        (run(1, 1, 1), run(1.5, 1.5, 1.5), "slower"),
        (run(1, 1, 1), run(1.04, 1.04, 1.04), "same"),
        (run(1, 1.6, 1.5), run(1.5, 1.5, 1.6), "same"),  # base's own runs differ as much
        (run(1.5, 1.5, 1.5), run(1, 1, 1), "faster"),
        (run(1, name="another"), run(1, 1), "new"),
    ],
)
def test_slower_is_beyond_both_spreads(base, head, verdict):
    found = compared(base, head)
    assert [line[3] for line in found] == [verdict]
    assert text(found).endswith(verdict)


def test_a_copy_of_the_package_is_imported_in_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr("compare.BUILD", tmp_path)
    path = install(SCHEMA.parents[1], "head")
    command = [sys.executable, "-c", "import motionspec.ops, motionspec.cli; print(motionspec.ops.__file__)"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(path)}, capture_output=True, text=True)
    assert Path(done.stdout.strip()) == tmp_path / "head" / "motionspec" / "ops" / "__init__.py", done.stderr


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_file_is_as_the_schema_says():
    jsonschema.Draft202012Validator.check_schema(json.loads(SCHEMA.read_text()))
    schema, good = json.loads(SCHEMA.read_text()), a_file(a_row())
    jsonschema.validate(good, schema)
    for spoil in (
        lambda f: f["rows"][0].pop("floor"),
        lambda f: f["rows"][0]["peers"][1].pop("seconds"),
        lambda f: f["rows"][0]["peers"][0].update(seconds=spread([1.0])),
        lambda f: f["rows"][0]["seconds"].update(median=0),
        lambda f: f["rows"].clear(),
        lambda f: f["environment"].pop("threads"),
        lambda f: f["environment"].update(host="its name"),
    ):
        bad = copy.deepcopy(good)
        spoil(bad)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_committed_results_are_valid(path: Path):
    found = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.validate(found, json.loads(SCHEMA.read_text()))
    here = found["environment"]
    assert path.stem == f"{slug(here['machine'])}--{slug(here['device'])}"
    assert path.parent.name == here["versions"]["motionspec"]
    assert len({key(row) for row in found["rows"]}) == len(found["rows"])


def test_saving_keeps_other_rows_of_the_same_commit_only(tmp_path, monkeypatch):
    environment = a_file()["environment"]
    monkeypatch.setattr("results.environment", lambda device: dict(environment))
    save(tmp_path, "cpu", [a_row()])
    path = save(tmp_path, "cpu", [a_row(direction="both"), a_row(peak=9)])
    found = json.loads(path.read_text())
    jsonschema.validate(found, json.loads(SCHEMA.read_text()))
    assert [(row["direction"], row["peak"]) for row in found["rows"]] == [("both", 8), ("forward", 9)]
    environment["commit"] = "1234567"
    assert len(json.loads(save(tmp_path, "cpu", [a_row()]).read_text())["rows"]) == 1


# -- measuring ---------------------------------------------------------------------------------------------------------


def test_calls_take_turns_and_each_gets_inputs_of_its_own():
    seen = []
    calls = {name: lambda k, name=name: seen.append((name, k)) for name in "ab"}
    found = times(calls, "cpu", seconds=0)
    assert {name: len(spent) for name, spent in found.items()} == {"a": 5, "b": 5}
    assert [name for name, _ in seen] == list("abbaabbaab")
    assert [k for _, k in seen] == list(range(10))


def test_ratios_are_of_the_same_turn():
    assert ratio([2.0, 6.0], [1.0, 2.0, 99.0]) == {"median": 2.5, "low": 2.25, "high": 2.75, "rounds": 2}


def test_others_are_what_is_neither_idle_nor_ours(monkeypatch):
    stat = iter(["cpu 100 0 100 700 0 0 0 0", "cpu 300 0 200 900 0 50 0 50"])  # 4 s more, of all cores, in hundredths
    ours = iter([(1.0, 0.5, 0.0), (2.0, 1.5, 0.0)])  # 2 s of them
    clock = iter([0.0, 2.0])
    monkeypatch.setattr(Path, "read_text", lambda path: next(stat))
    monkeypatch.setattr("os.times", lambda: next(ours))
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    with Others() as others:
        pass
    assert others.share == 0.25  # 2 s of 4 cores' 8


def test_memory_counts_what_a_call_takes_and_gives_back():
    side, before = 2**25, peak(lambda: None, "cpu")
    if before is None:
        pytest.skip("not measured here: no /proc/self/clear_refs")
    assert before < 4e6
    for allocate in (torch.ones, lambda n: torch.ones(n).numpy().copy()[:1]):  # numpy's counts as torch's does
        found = peak(lambda allocate=allocate: allocate(side).sum(), "cpu")
        copies = 1 if allocate is torch.ones else 2
        assert found == pytest.approx(4 * side * copies, rel=0.05)


# -- peers -------------------------------------------------------------------------------------------------------------


class ACase:
    """As much of a case as meeting a peer needs."""

    device, dtype = "cpu", "float32"
    workload = Workload("off.features", SMALL, {"kernel": "paper"}, "a test")

    def call(self, function, options, framework):
        return lambda k: (function(),)


@pytest.mark.parametrize("compiled, slow", [(False, True), (False, False), (True, True)])
def test_a_slow_peer_is_called_once(compiled, slow, monkeypatch):
    monkeypatch.setattr("test_bench.LONGEST", 0.0 if slow else 1.0)
    asked, calls = [], {}
    peer = Peer("p", lambda: asked.append(1) or torch.ones(3), compiled=compiled)
    said = test_bench.meet(ACase(), peer, (torch.ones(3),), calls)
    assert said["status"] == "timed"
    once = slow and not compiled  # the first call of what is compiled says nothing of its time
    assert (len(asked), list(calls), "once" in said) == ((1, [], True) if once else (2, ["p"], False))


def test_a_peer_that_differs_is_not_timed():
    calls = {}
    said = test_bench.meet(ACase(), Peer("p", lambda: torch.zeros(3)), (torch.ones(3),), calls)
    assert said == {"name": "p", "status": "differs by 1.0e+00"} and not calls


PLAIN = [
    ("off.features", plain.depthwise_features, {"kernel": "paper"}),
    ("off.features", plain.depthwise_features, {"kernel": "sobel"}),
    ("off.spatial_gradient", plain.depthwise_gradient, {"kernel": "sobel"}),
    ("off.clip_features", plain.depthwise_clip_features, {"kernel": "paper"}),
    ("warp.bilinear", plain.grid_sample, {"outside": "zero"}),
    ("warp.bilinear", plain.grid_sample, {"outside": "blend"}),
    ("warp.motion", plain.grid_sample_motion, {"outside": "zero"}),
    ("warp.difference", plain.grid_sample_difference, {"outside": "zero"}),
    ("losses.endpoint_error", plain.norm_of_difference, {"reduction": "mean"}),
    ("costvol.displacement_map", plain.displacement_loop, {"radius": 2, "tau": 0.1}),
    ("tvl1.representation_flow", plain.released_layer, {"n_iter": 4}),
    ("tvl1.representation_flow", plain.representation_flow, {"n_iter": 4}),
]


@pytest.mark.parametrize("operator, function, options", PLAIN)
def test_plain_forms_are_the_operators(operator, function, options):
    found = []
    for one in (function, None):
        given = inputs(operator)
        scheme = {"scheme": "released"} if operator == "tvl1.representation_flow" and one is None else {}
        outs = called(operator, given, one, **options, **scheme)
        found.append([*outs, *torch.autograd.grad([out.square().sum() for out in outs], given)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore")  # it warns that it is not compiled
@pytest.mark.parametrize("border", ["zero", "exclude"])
def test_flex_attention_is_the_displacement_map(border):
    from torch.nn.attention.flex_attention import flex_attention

    f0, f1 = (torch.randn(2, 16, 6, 7, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    options = {"radius": 2, "tau": 0.1, "border": border}
    found = plain.flex_displacement_map(f0, f1, **options, compiled=flex_attention)
    torch.testing.assert_close(found, ops.costvol.displacement_map(f0, f1, **options), rtol=1e-4, atol=1e-4)


def names(workload, device="cpu"):
    return [peer.name for peer in peers(workload, device)]


def test_peers_are_those_that_agree_in_the_workload_s_variant():
    def warp(outside):
        return Workload("warp.bilinear", SMALL, {"outside": outside}, "a test")

    assert "cv2.remap" in names(warp("blend")) and "cv2.remap" not in names(warp("zero"))
    assert "scipy.ndimage.map_coordinates" in names(warp("zero"))
    assert "scipy.ndimage.map_coordinates" not in names(warp("zero"), "cuda")
    assert "F.grid_sample" not in names(warp("blend"))  # a known departure
    maps = Workload("costvol.displacement_map", SMALL, {"radius": 5, "tau": 0.2, "border": "zero"}, "a test")
    assert "F.cosine_similarity, kornia's spatial_soft_argmax2d" in names(maps)
    assert "FlexAttention" in names(maps, "cuda") and "FlexAttention" not in names(maps)
    of = {k: Workload("metrics.top_k", {"N": 4, "K": 3}, {"k": k}, "a test") for k in (1, 2)}
    # torch.topk breaks ties by position, argmax takes the first: neither is the metric, where ties count against.
    assert names(of[1]) == names(of[2]) == []
    assert not Peer("x", print, "a_package_that_is_not_there").installed


def test_a_peer_gets_the_options_that_it_takes():
    assert taken(lambda a, radius: a, {"radius": 5, "tau": 1}) == {"radius": 5}
    assert taken(lambda a, **options: a, {"radius": 5, "tau": 1}) == {"radius": 5, "tau": 1}


def test_the_networks_that_are_timed_can_be_built_and_are_held_to_their_targets():
    with torch.device("meta"):
        for name, arguments in {repr(pair): pair for case in CASES for pair in case.networks}.values():
            built(name, arguments)
    row = {"plain": {"high": 5.0}}
    speed, time = (Case("x", (), (1, 1, 1), per=per, target=10) for per in ("frames/s", "ms"))
    for value, of_speed, of_time in ((11, "met", "MISSED"), (9, "MISSED", "met")):
        assert network_outcome(speed, {"value": value, "rows": [row]}, "cuda") == of_speed
        assert network_outcome(time, {"value": value, "rows": [row]}, "cuda") == of_time
    slow = {"value": 11, "rows": [row, {"plain": {"high": 3.0}}]}
    assert network_outcome(speed, slow, "cuda") == "MISSED: not 4 x plain float32"
    assert network_outcome(speed, slow, "cpu") == network_outcome(speed, None, "cuda") == "not measured here"


def test_a_network_that_fails_does_not_end_the_run_and_what_was_measured_is_kept(tmp_path, monkeypatch, capsys):
    def measured(name, arguments, clip, batch, device, beside):
        if name == "breaks":
            raise RuntimeError("no memory\nand much more")
        spent = {"median": 0.1, "low": 0.1, "high": 0.2, "rounds": 5}
        row = {"seconds": spent, "clip": [1, 3, *clip], "dtype": "float32", "operations": 10**9, "others": None}
        return row | {key: spread([3.0]) for key in beside} | {"peak": {"fast": None}}

    monkeypatch.setattr("networks.measured", measured)
    monkeypatch.setattr("networks.rate", lambda device, dtype: 1e11)
    monkeypatch.setattr("results.environment", lambda device: a_file()["environment"])
    cases = [Case(name, ((name, {}),), (2, 8, 8), cpu=cpu) for name, cpu in (("a", ("plain",)), ("breaks", ()))]
    cases.append(Case("b", (("b", {}), ("a", {})), (2, 8, 8)))
    kept, lines, failed = run_networks(cases, "cpu", tmp_path)
    assert failed == ["breaks: RuntimeError: no memory"] and [line[0] for line in lines] == [*kept] == ["a", "b"]
    assert [line[5:7] for line in lines] == [["x 3.00", "-"], ["x 3.00", "x 3.00"]]
    assert len(capsys.readouterr().err.splitlines()) == 3
    (path,) = tmp_path.rglob("*.json")
    assert path.parts[-3] == "networks"
    assert [row["case"] for row in json.loads(path.read_text())["rows"]] == ["a", "b"]


def whole(name, arguments):
    """The network and all of its arguments, those that it has by default too."""
    row = networks()[name]
    default = {key: p.default for key, p in inspect.signature(row.build).parameters.items()}
    return name, default | dict(row.arguments) | dict(arguments)


# The times of RF19 Table 9 are of ResNet-34, says its §4; the accuracies beside them are of ResNet-50.
TIMED = {
    "TSN RGB": ("OFF18", "Table 1", "TSN(RGB)", {}, 680),
    "RGB + OFF(RGB)": ("OFF18", "Table 2", "RGB + OFF(RGB)", {}, 450),
    "RGB, RGB-diff and OFF of both": ("OFF18", "Table 2", "RGB + OFF(RGB) + RGB Diff + OFF(RGB Diff)", {}, 206),
    "motion branch 112": ("DC18", "Table 3", "Disp. Map (112x112)", {}, 190),
    "motion branch 224": ("DC18", "Table 9", "Motion", {}, 53),
    "disentangled": ("DC18", "Table 9", "Overall", {}, 41),
    "disentangled: static": ("DC18", "Table 9", "Static App.", {}, 840),
    "disentangled: change": ("DC18", "Table 9", "App. Change", {}, 51),
    "representation flow 2D": ("RF19", "Table 9", "Ours (2D CNN + Rep. Flow)", {"depth": 34}, 524),
    "flow-conv-flow": ("RF19", "Table 9", "Ours (2D CNN + FcF)", {"depth": 34}, 576),
    "representation flow (2+1)D": ("RF19", "Table 9", "Ours ((2+1)D CNN + Rep. Flow)", {}, 622),
    "R-FCN + OFF": ("OFF20", "Table 7", "RFCN+OFF(MS)", {}, 137.7),
}


def test_every_speed_beside_a_papers_is_of_the_row_that_the_paper_timed():
    rows = {(row.paper, row.table, row.label): row for row in ABLATIONS}
    assert len(rows) == len(ABLATIONS)
    of_rows = {case.name: case for case in CASES if case.networks[0][0] != "map"}
    assert set(TIMED) <= set(of_rows) and {name for name, case in of_rows.items() if case.paper} == set(TIMED)
    for name, (paper, table, label, timed, printed) in TIMED.items():
        case = of_rows[name]
        want = [whole(network, arguments | timed) for network, arguments in rows[paper, table, label].networks]
        assert [whole(*pair) for pair in case.networks] == want, name
        assert case.paper == printed, name
