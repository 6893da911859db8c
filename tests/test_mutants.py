"""The tool behind `make mutants`, which runs these tests first: it reports mutants that live, and can be stopped."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("cosmic_ray")
TOOLS = Path(__file__).resolve().parents[1] / "tools"
USELESS = "from motionspec.refimpl import sampling\ndef test_nothing(): pass"
COUNTED = "open({path!r}, 'a').write('.')\n" + USELESS
START = f"""
import os, sys
sys.path.insert(0, {str(TOOLS)!r})
import json, mutants, motionspec.checks
from pathlib import Path
os.chdir(Path(motionspec.__file__).parents[1])
for name in [name for name in sys.modules if name.startswith("motionspec")]:
    del sys.modules[name]  # every fork imports it anew
mutants.prepare()
folder, test = Path(sys.argv[1]), sys.argv[1] + "/test_it.py"
"""
SESSION = START + "print(json.dumps(mutants.run('sampling', folder, [test], sys.argv[2], 6, 0)))"


def command(folder, tests, code, *arguments):
    (folder / "test_it.py").write_text(tests)
    return [sys.executable, "-W", "ignore", "-c", code, str(folder), *arguments]


def session(folder, tests, commit="c1"):
    """Six mutants of `sampling`: how many were run, and the result."""
    words = command(folder, tests, SESSION, commit)
    *_, last = lines = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
    return len(lines) - 2, json.loads(last)


def real_tests():
    return (Path(__file__).parent / "test_sampling.py").read_text()


def test_useless_tests_let_all_mutants_live_and_the_real_ones_kill_them_later(tmp_path):
    ran, lived = session(tmp_path, USELESS)
    assert ran == 6 and [m["by"] for m in lived["mutants"]] == [""] * 6
    assert all(m["old"] != m["new"] for m in lived["mutants"])
    ran, again = session(tmp_path, real_tests())
    assert ran == 0 and again == lived  # the same commit: nothing to learn
    ran, killed = session(tmp_path, real_tests(), "c2")
    assert ran == 6
    assert all("test_it.py::test_" in m["by"] and (m["first"], m["commit"]) == ("c1", "c2") for m in killed["mutants"])
    ran, kept = session(tmp_path, USELESS, "c3")
    assert ran == 0 and kept["mutants"] == killed["mutants"]  # what is dead stays dead


def test_tests_that_fail_on_the_unchanged_source_are_an_error(tmp_path):
    done = subprocess.run(command(tmp_path, "def test_it(): assert 0", SESSION, "c1"), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("sampling: ")
    assert "test_it.py::test_it fails on the unchanged source, see " in done.stderr


def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path):
    counted = COUNTED.format(path=str(tmp_path / "runs"))
    first = subprocess.Popen(command(tmp_path, counted, SESSION, "c1"), stdout=subprocess.PIPE, text=True)
    for _ in range(3):  # the head line and two mutants
        first.stdout.readline()
    first.kill()
    first.communicate()
    ran, result = session(tmp_path, counted)
    assert ran == 4 and len(result["mutants"]) == 6
    assert (tmp_path / "runs").read_text() in ("." * 8, "." * 9)  # twice the unchanged source; one was under way


@pytest.mark.parametrize(
    "source, killer",
    [
        ("", "test_sum"),
        ("x = 2", ""),
        ("x = 3", "test_sum"),
        ("1 / 0", "import"),
        ("import os; os.kill(os.getpid(), 11)", "import"),
        ("while True: pass", "time"),
        ("x = [0] * 10**12", "import"),
    ],
)
def test_what_kills_a_mutant_is_told(tmp_path, source, killer):
    code = START + (
        "import collections; path = Path('refimpl/sampling.py');"
        "source = path.read_text() + sys.argv[2];"
        "print(mutants.trial('sampling', path, source, [test], folder / 'log', collections.Counter(), 12))"
    )
    tests = "def test_sum():\n    from motionspec.refimpl import sampling\n    assert sampling.x + 2 == 4"
    done = subprocess.run(command(tmp_path, tests, code, source), check=True, capture_output=True, text=True)
    assert done.stdout.strip().rpartition("::")[2] == killer


STALE = (
    START
    + """
import collections; path = Path("ops/warp_numba.py")
def killer(source):
    return mutants.trial("warp_numba", path, source, [test], folder / "log", collections.Counter(), 300)
assert not killer(path.read_text()), (folder / "log").read_text()
print(killer(path.read_text().replace("real(W - x)", "real(W - 3 - x)")))
"""
)
WARPS = """
import torch
from motionspec.ops import warp
def test_blend():
    x, flow = torch.rand(1, 1, 4, 5), torch.full((1, 2, 4, 5), 0.3)
    got, want = (warp.bilinear(x, flow, outside="blend", impl=impl) for impl in ("numba", "torch"))
    torch.testing.assert_close(got, want)
"""


def test_a_mutated_kernel_is_compiled_though_its_original_was_cached(tmp_path):
    done = subprocess.run(command(tmp_path, WARPS, STALE), capture_output=True, text=True)
    assert done.stdout.strip().endswith("::test_blend"), done.stderr


def test_every_stem_and_every_file_of_kernels_is_known():
    sys.path.insert(0, str(TOOLS))
    import mutants

    known = set(mutants.STEMS) | set(mutants.KERNELS)
    root = TOOLS.parent
    assert {path.stem.removeprefix("rows_") for path in root.glob("refimpl/rows_*.py")} < known
    assert {path.stem for kind in ("numba", "triton") for path in root.glob(f"ops/*_{kind}.py")} < known


def test_the_page_tells_survivors_equivalents_and_stale_entries(capsys):
    sys.path.insert(0, str(TOOLS))
    import mutants

    alive = {"file": "ops/a.py", "line": 3, "by": "", "first": "c1", "old": "x + 0", "new": "x - 0"}
    dead = {"file": "ops/a.py", "line": 4, "by": "t", "first": "", "old": "", "new": ""}
    late = {"file": "ops/a.py", "line": 5, "by": "time", "first": "c1", "old": "", "new": ""}
    result = {"mutants": [alive, dead, late], "commit": "c2", "date": "d"}
    assert "| ops/a.py | 3 | 2 | 1 | 1 | 0 | 1 | 66.7% | c2 | d |" in mutants.report([result], [])
    listed = [{"file": "ops/a.py", "reason": "0 is 0", "mutants": [["x + 0", "x - 0"], ["y", "z"]]}]
    listed.append({"file": "ops/not_run.py", "reason": "", "mutants": [["y", "z"]]})
    page = mutants.report([result], listed)
    assert "| ops/a.py | 3 | 2 | 1 | 1 | 1 | 0 | 100.0% | c2 | d |" in page
    assert "- ops/a.py:3 `x + 0` -> `x - 0`: 0 is 0" in page
    assert capsys.readouterr().out == "tools/equivalent.toml lists what is no survivor: ops/a.py y -> z\n"
