"""The claims table: its arms train, its pieces are done once, its verdicts and its page follow from the results."""

import json
import re
import sys
import time
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

import claims  # noqa: E402
from claims import ARMS, CLAIMS, PAGE, RESULTS, SCALES, SEEDS, Claim  # noqa: E402
from scipy import stats  # noqa: E402

from motionspec.data.motion import Size  # noqa: E402
from motionspec.models.tables import ABLATIONS  # noqa: E402


@pytest.fixture
def tiny(monkeypatch):
    """One step of each stage, of a batch of one clip of each class."""
    narrow = {"batch": 13, "length": 1, "network.width": 1 / 16}
    settings = {name: {**SCALES["cpu"].settings.get(name, {}), **narrow} for name in claims.recipes()}
    settings["dncnn"]["view.size"] = 16
    size = Size(32, 8, train=1, test=1)
    scale = claims.Scale(clips=size, windows=replace(size, frames=7), settings=settings)
    monkeypatch.setitem(claims.SCALES, "cpu", scale)


# -- the table ---------------------------------------------------------------------------------------------------------


def test_what_was_printed_is_rows_of_the_papers_tables():
    rows = {(row.paper, row.table, row.label) for row in ABLATIONS}
    for claim in CLAIMS:
        assert {(*claim.table, label) for label, _ in claim.printed.values()} <= rows, claim.id
        assert set(claim.printed) <= set(claim.arms), claim.id


def test_every_arm_is_of_a_claim_and_trains_as_no_other():
    assert {arm for claim in CLAIMS for arm in claim.arms} == set(ARMS)
    for scale in SCALES:
        made = [json.dumps(claims.config((arm, 0), scale)) for arm in ARMS]
        assert len(set(made)) == len(made)


def test_arms_of_a_claim_differ_in_what_it_is_about_alone():
    for scale in SCALES:
        for claim in CLAIMS:
            each = [claims.recipe_of(arm, scale) for arm in claim.arms]
            assert len({(r.batch, r.view.size, r.view.length, r.arguments["width"]) for r in each}) == 1, claim.id
            last = {(r.stages[-1].length, r.stages[-1].unit, r.stages[-1].lr, r.stages[-1].optimizer) for r in each}
            assert len(last) == 1, claim.id


def test_claims_on_the_cpu_take_an_hour_on_two_cores():
    order = claims.missing("cpu", {})
    spent, ends = 0.0, {}
    for piece in order:
        spent += claims.minutes(piece[0], "cpu", {}) / 2
        ends[piece] = spent
    done = [claim for claim in CLAIMS if max(ends[arm, seed] for arm in claim.arms for seed in SEEDS) <= 60]
    assert len(done) >= 6
    assert all(arm.minutes["gpu"] < 9 for arm in ARMS.values())


# -- pieces ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ARMS)
def test_each_arm_trains_and_is_judged(tmp_path, tiny, arm):
    assert claims.do((arm, 0), "cpu", tmp_path / "results", tmp_path / "work", "cpu")
    (found,) = claims.load(tmp_path / "results", "cpu").values()
    assert 0 <= found["value"] <= 100 and found["steps"] == len(found["config"]["recipe"]["stages"])
    assert found["chance"] == pytest.approx(100 / 13, abs=1e-3) or arm.startswith("dncnn")
    assert found["seconds"] > 0 and found["environment"]["versions"]["torch"]
    assert not [*(tmp_path / "work").glob("cpu/*/")], "the run folder stayed"


def test_a_piece_is_done_once_and_again_when_its_settings_change(tmp_path, tiny, monkeypatch):
    piece, places = ("flow", 0), (tmp_path / "results", tmp_path / "work", "cpu")
    made = []
    monkeypatch.setattr(claims, "measured", lambda piece, scale, run, *rest: made.append(run) or result(piece, run))

    def result(piece, run):
        run.mkdir(parents=True)
        return {"config": claims.config(piece, "cpu"), "value": 1.0}

    with claims.locked(tmp_path / "work" / "cpu" / "flow-0.lock") as mine:
        assert mine and not claims.do(piece, "cpu", *places)  # another process is at it
    assert claims.do(piece, "cpu", *places) and not claims.do(piece, "cpu", *places)
    monkeypatch.setitem(claims.ARMS, "flow", replace(ARMS["flow"], settings={"network.n_iter": 7}))
    assert claims.load(tmp_path / "results", "cpu") == {}
    assert claims.do(piece, "cpu", *places) and len(set(made)) == 2


def test_pieces_that_claims_share_are_run_once_and_the_cheapest_claim_comes_first():
    left = claims.missing("cpu", {})
    assert len(left) == len(set(left)) == len(ARMS) * len(SEEDS)
    rgb = next(claim for claim in CLAIMS if claim.id == "off-rgb")
    done = {(arm, seed): {"seconds": 60.0} for arm in ("off", "rgb") for seed in SEEDS if (arm, seed) != ("rgb", 3)}
    assert claims.missing("cpu", done)[0] == ("rgb", 3)  # one piece decides that claim
    hyper = claims.missing("cpu", done, "hypercolumn")
    assert hyper == [("hypercolumn", seed) for seed in SEEDS]  # OFF's are there
    assert claims.missing("cpu", {}, "off-rgb")[:2] == [(arm, 0) for arm in rgb.arms]
    assert (
        claims.minutes("off", "cpu", done) == 1 and claims.minutes("off-t", "cpu", done) == ARMS["off-t"].minutes["cpu"]
    )


class Killed(BaseException):
    """Nothing catches it."""


def test_a_killed_piece_goes_on(tmp_path, tiny, monkeypatch):
    """Killed in the middle, and done in one go: the same scores."""
    monkeypatch.setitem(claims.SCALES["cpu"].settings["motion-repflow"], "length", 6)
    fit, steps = claims.fit, []
    monkeypatch.setattr(claims, "fit", lambda *given, **more: fit(*given, **(more | {"save_every": 1})))

    def kill(text, done, total):
        if "loss" in text:
            steps.append(done)
            if len(steps) == 4:
                raise Killed

    piece, killed, whole = ("flow", 0), tmp_path / "killed", tmp_path / "whole"
    with pytest.raises(Killed):
        claims.do(piece, "cpu", killed, killed, "cpu", kill)
    assert claims.load(killed, "cpu") == {}
    assert claims.do(piece, "cpu", killed, killed, "cpu", kill)
    assert steps == [1, 2, 3, 4, 4, 5, 6]  # it was killed before its fourth step was saved
    assert claims.do(piece, "cpu", whole, whole, "cpu")
    one, other = (claims.load(folder, "cpu")[piece] for folder in (killed, whole))
    assert one["value"] == other["value"] and one["steps"] == other["steps"] == 6


def test_the_budget_stops_it(tmp_path, tiny, monkeypatch, capsys):
    monkeypatch.setattr(claims, "do", lambda *rest: time.sleep(20))
    monkeypatch.setattr(claims, "PAGE", tmp_path / "claims.md")
    monkeypatch.setattr(sys, "argv", ["claims.py", "--budget", "0.001", "--device", "cpu", "--results", str(tmp_path)])
    began = time.monotonic()
    assert claims.main() == 0 and time.monotonic() - began < 10
    assert "the same command goes on" in capsys.readouterr().err


def test_what_fails_is_named_and_the_others_are_done(tmp_path, tiny, monkeypatch, capsys):
    done = []

    def do(piece, scale, folder, *rest):
        if piece == ("off", 1):
            raise ArithmeticError("loss nan at step 3")
        done.append(piece)
        file = claims.path(piece, scale, folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"config": claims.config(piece, scale), "seconds": 1.0}))
        return True

    monkeypatch.setattr(claims, "do", do)
    assert claims.work_off("cpu", "off-rgb", tmp_path, tmp_path, "cpu", claims.Progress()) == 1
    assert len(done) == len(set(done)) == 9
    assert "off, seed 1: FAILED: ArithmeticError: loss nan at step 3" in capsys.readouterr().out


# -- verdicts ----------------------------------------------------------------------------------------------------------


def made_up(**arms):
    environment = {"machine": "a machine", "device": "cpu", "commit": "abc"}
    return {
        (arm.replace("_", "-"), seed): {"value": float(v), "chance": 7.69, "seconds": 60.0, "environment": environment}
        for arm, values in arms.items()
        for seed, v in enumerate(values)
    }


def claim(*pairs):
    return Claim(id="x", says="", source="", table=("", ""), printed={}, data="", contrasts=claims._above(*pairs))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((90, 91, 89, 92, 90), (80, 83, 81, 80, 82), "reproduced"),
        ((80, 83, 81, 80, 82), (90, 91, 89, 92, 90), "not reproduced"),
        ((90, 70, 95, 60, 80), (80, 83, 81, 80, 82), "undecided at this scale"),
        ((50, 50, 50, 50, 50), (50, 50, 50, 50, 50), "undecided at this scale"),
        ((51, 52, 53, 54, 55), (50, 51, 52, 53, 54), "reproduced"),  # the same difference for all seeds
        ((90, 91, 89, 92), (80, 83, 81, 80, 82), "not finished: 9 of 10 pieces"),
        ((), (), "not run"),
    ],
)
def test_verdicts(a, b, expected):
    assert claims.verdict(claim(("off", "rgb")), made_up(off=a, rgb=b)) == expected


def test_a_claim_holds_as_a_whole():
    far, middle, near = (90, 91, 89, 92, 90), (80, 83, 81, 80, 82), (79, 84, 80, 81, 82)
    results = made_up(off=far, off_t=middle, off_s=near)
    assert claims.verdict(claim(("off", "off-t"), ("off", "off-s")), results) == "reproduced"
    assert claims.verdict(claim(("off", "off-t"), ("off-t", "off-s")), results) == "undecided at this scale"
    assert claims.verdict(claim(("off", "off-t"), ("off-s", "off")), results) == "not reproduced"


def test_the_interval_is_that_of_the_paired_t_test():
    a, b = [90.0, 91, 89, 92, 90], [88.0, 90, 86, 91, 89.5]
    found = claims.contrast({"off": 1, "rgb": -1}, made_up(off=a, rgb=b))
    want = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert found[1:] == pytest.approx((want.low, want.high))
    saturating = next(one for one in CLAIMS if one.id == "repflow-iterations").contrasts.values()
    values = made_up(flow=[60, 61, 60, 62, 60], flow_1_iteration=[50] * 5, flow_20_iterations=[61, 62, 61, 63, 61])
    assert [claims.contrast(weights, values)[0] for weights in saturating] == pytest.approx([10.6, 9.6])


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_is_what_the_results_give():
    results = {scale: claims.load(RESULTS, scale) for scale in SCALES}
    assert PAGE.read_text(encoding="utf-8") == claims.page(results), "run `python benchmarks/claims.py --page`"


def test_results_that_are_committed_are_of_the_table():
    for scale in SCALES:
        assert len([*RESULTS.glob(f"{scale}/*.json")]) == len(claims.load(RESULTS, scale)), "settings have changed"


def test_without_results_no_verdict():
    page = claims.page({scale: {} for scale in SCALES})
    rows = [row for row in page.splitlines() if row.startswith("| [")]
    assert len(rows) == len(CLAIMS) and all(row.endswith("| not run | not run |") for row in rows)
    assert not re.search(r"[+-]\d+\.\d+ \[", page)


def test_the_page_says_values_spread_chance_cost_and_verdict(tmp_path):
    results = made_up(off=(90, 91, 89, 92, 90), rgb=(7, 8, 9, 7, 8))
    page = claims.page({"cpu": results, "gpu": {}})
    assert "| [off-rgb](#off-rgb) | reproduced | not run |" in page
    assert "| off | OFF(RGB) + RGB: 90 | 90.40 ± 1.14, chance 7.69 | not run | cpu 1, gpu 1 expected |" in page
    assert "| off above rgb | +82.60 [+80.34, +84.86] | not run |" in page
    assert "abc" in page and "a machine / cpu" in page
    claims.draw("cpu", results).savefig(tmp_path / "cpu.png")
