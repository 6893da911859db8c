"""Whether this checkout is slower than another commit: `make bench-compare BASE=<commit>`.

The packages of both are copied beside each other and timed in turns by the benchmarks of this checkout, each time in a
new process. Slower means beyond both spreads: of all runs together, head's lower quartile above base's upper one.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from report import seconds, what
from results import key

from motionspec.cli.text import table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = ROOT / "build" / "compare"
Runs = list[dict[str, dict[str, Any]]]  # of each run, the rows


def quartiles(runs: Runs, row: str) -> tuple[float, float, float]:
    """Of the quartiles and medians of all runs: how runs differ counts as well as how rounds do."""
    values = [run[row]["seconds"][part] for run in runs for part in ("low", "median", "high") if row in run]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def compared(base: Runs, head: Runs) -> list[tuple[dict[str, Any], float, float, str]]:
    """Rows of head with both medians and the verdict: slower, faster, same, or new."""
    found = []
    for name, row in {k: row for run in head for k, row in run.items()}.items():
        low, median, high = quartiles(head, name)
        if not any(name in run for run in base):
            found.append((row, float("nan"), median, "new"))
            continue
        before = quartiles(base, name)
        verdict = "slower" if low > before[2] else "faster" if high < before[0] else "same"
        found.append((row, before[1], median, verdict))
    return found


def install(source: Path, name: str) -> Path:
    """A copy of a checkout's package on a path of its own, laid out as its pyproject.toml says."""
    tables = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))
    for package, folder in sorted(tables["tool"]["setuptools"]["package-dir"].items()):
        target = BUILD / name / package.replace(".", "/")
        shutil.copytree(source / folder, target, ignore=shutil.ignore_patterns("__pycache__"))
    return BUILD / name


def run(package: Path, folder: Path, only: str) -> dict[str, dict[str, Any]]:
    """One process's rows. Its exit status does not matter: what failed has no row."""
    command = [sys.executable, "-m", "pytest", str(HERE), "-q", "--ours", "--results", str(folder), "-k", only]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(package)}, capture_output=True, text=True
    )
    rows = {}
    for path in folder.glob("*/*.json"):
        device = path.stem.rpartition("--")[2]
        rows |= {f"{device} {key(row)}": row for row in json.loads(path.read_text(encoding="utf-8"))["rows"]}
    if not rows:
        sys.exit(f"nothing was measured:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return rows


def text(found: Sequence[tuple[dict[str, Any], float, float, str]]) -> str:
    """A line for each row, the slowest changes first."""
    lines = [
        (*what(row), "-" if verdict == "new" else seconds(base), seconds(head), f"{head / base:.2f}", verdict)
        for row, base, head, verdict in sorted(found, key=lambda line: -line[2] / line[1] if line[3] != "new" else 0)
    ]
    right = ("base", "head", "head / base")
    return table(("operator", "size", "", *right, ""), lines, right)


def main() -> None:
    """Exit status 1 if a row is slower."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", help="commit, branch or tag")
    parser.add_argument("--only", default="cpu or cuda", help="as pytest's -k")
    parser.add_argument("--runs", type=int, default=3, help="of each side")
    asked = parser.parse_args()
    tree = BUILD / "tree"
    shutil.rmtree(BUILD, ignore_errors=True)
    subprocess.run(["git", "worktree", "prune"], cwd=ROOT, check=True)
    subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(tree), asked.base], cwd=ROOT, check=True)
    try:
        sides = {"base": install(tree, "base"), "head": install(ROOT, "head")}
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)
    runs: dict[str, Runs] = {"base": [], "head": []}
    for k in range(asked.runs):
        for side in ("base", "head") if k % 2 == 0 else ("head", "base"):
            print(f"run {k + 1} of {asked.runs}: {side}", flush=True)
            runs[side].append(run(sides[side], BUILD / f"{side}-{k}", asked.only))
    found = compared(runs["base"], runs["head"])
    print(text(found))
    behind = sum(verdict == "slower" for *_, verdict in found)
    print(f"{behind} of {len(found)} slower than {asked.base} beyond both spreads")
    sys.exit(behind > 0)


if __name__ == "__main__":
    main()
