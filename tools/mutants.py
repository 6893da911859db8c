"""Mutation testing of `ops/` and `refimpl/`: plants small mistakes and counts those that the tests of the stem miss.

A stem is a family of operators, or one file of its kernels, which takes longer: each mutant is compiled.

`make mutants` runs it, on the last commit and in an environment of its own, and writes docs/mutants.md. cosmic-ray
proposes the mutants and keeps the results in build/mutants/*.sqlite: a run that was stopped goes on where it was,
survivors are tried again when there is a new commit, a stem begins anew when its sources have changed. torch and pytest
are imported once; each mutant is a fork of this process that reads the mutated source in place of the file.
"""

import argparse
import ast
import collections
import datetime
import difflib
import fcntl
import gc
import hashlib
import importlib
import itertools
import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from cosmic_ray.commands.init import init
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkResult

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "mutants"
STEMS = (
    "brightness",
    "off",
    "tvl1",
    "warp",
    "costvol",
    "losses",
    "metrics",
    "sampling",
    "pool3d",
    "detection",
    "layers",
)
# Files of kernels: the stem whose operators they compute.
KERNELS = {
    path.stem: {"pyramid": "tvl1"}.get(family := path.stem.partition("_")[0], family)
    for kind in ("numba", "triton")
    for path in sorted((ROOT / "ops").glob(f"*_{kind}.py"))
}
SAMPLE = dict.fromkeys(STEMS, 150) | dict.fromkeys(KERNELS, 10)
PRELOAD = ("torch", "scipy.ndimage", "scipy.special", "hypothesis.extra.numpy")
PYTEST = ["-qx", "-pno:cacheprovider", "-pno:xdist", "-otimeout=0", "-Wignore::pytest.PytestAssertRewriteWarning"]
HEAD = """# Mutants

Small mistakes that [cosmic-ray](https://cosmic-ray.readthedocs.io) planted in operators, their kernels and the oracle,
and what the tests made of them: a seeded sample of 150 per stem, `ops/` and `refimpl/` together, and of 10 per file of
kernels. `make mutants` makes this page (`tools/mutants.py`; `mutants/STEM.json` lists each mutant with what killed it),
of kernels only where asked: `make mutants STEMS=off_numba`.

A mutant is tried by the tests of its own stem: `tests/test_STEM.py` and the generated ones, {examples} examples each,
without those that compile or need real data; one of a kernel by `tests/test_kernels.py` too, of numba's also by
`tests/test_large.py`. *Since*: it survived until a test was written. *Late*: it ran out of time, which counts as
killed. *Equivalent*: it computes the same, and the score leaves it out. Annotations are not mutated, as nothing reads
them at run time; messages of errors are code like any other.

| file | mutants | killed | since | late | equivalent | survived | score | commit | date |
|---|---|---|---|---|---|---|---|---|---|
{rows}

## Survived

{survived}

## Equivalent

{equivalent}
"""
EXAMPLES = 8  # that Hypothesis tries, to be quick
MEMORY = 12 << 30  # bytes of address space: a mutant may ask for any amount
FORK = multiprocessing.get_context("fork")


class Watch:
    """A pytest plugin: tests that have killed go first; the first that fails is told."""

    def __init__(self, kills: collections.Counter[str], killer: Any):
        self.kills, self.killer = kills, killer

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: -self.kills[item.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.killer.send(report.nodeid)


def child(stem: str, path: Path, source: str, tests: list[str], log: Path, watch: Watch, cache: str) -> None:
    """Run tests with `source` in place of a module; exit status 0: all pass."""
    os.setsid()
    if stem in KERNELS:
        os.environ["TRITON_INTERPRET"] = str(int(stem.endswith("_triton")))
        # numba's own cache does not see that a constant, or a function that a kernel calls, has changed.
        os.environ["NUMBA_CACHE_DIR"] = cache
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    get_code = SourceFileLoader.get_code

    def mutated(loader: Any, name: str) -> Any:
        return compile(source, loader.path, "exec") if Path(loader.path) == path.absolute() else get_code(loader, name)

    SourceFileLoader.get_code = mutated  # type: ignore[assignment, method-assign]
    status = 1
    try:
        from motionspec.fused import FUSED
        from motionspec.refimpl.equations import EQUATIONS

        family = KERNELS.get(stem, stem)
        for table in [EQUATIONS, FUSED] if stem in KERNELS else [EQUATIONS]:
            for other in [name for name in table if not name.startswith(f"{family}.")]:
                del table[other]  # to collect the tests of all rows takes seconds
        status = int(pytest.main([*PYTEST, *tests], plugins=[watch]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def trial(
    stem: str, path: Path, source: str, tests: list[str], log: Path, kills: collections.Counter[str], limit: float
) -> str:
    """What killed the mutant: a test, `import`, or `time` (more than `limit` seconds); nothing if it survived."""
    ours, theirs = FORK.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as cache:
        process = FORK.Process(target=child, args=(stem, path, source, tests, log, Watch(kills, theirs), cache))
        process.start()
        theirs.close()
        process.join(limit)
        if process.exitcode is None:
            assert process.pid
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
            return "time"
    try:
        return "" if process.exitcode == 0 else ours.recv()
    except EOFError:
        return "import"


def changed(m: Any) -> tuple[str, str, str]:
    """The source with a mutation, the changed line before, and after."""
    source = m.module_path.read_text()
    mutant = mutate_code(source, get_operator(m.operator_name)(**m.operator_args), m.occurrence)
    diff = list(difflib.unified_diff(source.splitlines(), mutant.splitlines(), n=0, lineterm=""))[2:]
    old, new = ("\n".join(line[1:].strip() for line in diff if line[0] == sign) for sign in "-+")
    return mutant, old, new


def is_python(m: Any) -> bool:
    """cosmic-ray takes the bare `*` of a signature for a product, and what it puts there is not Python."""
    try:
        compile(changed(m)[0], m.module_path, "exec", ast.PyCF_ONLY_AST)
    except SyntaxError:
        return False
    return True


def propose(stem: str, db: WorkDB, sample: int, seed: int) -> None:
    """Fill an empty database: all mutants of the stem, those that will not be run marked as skipped."""
    paths = sorted(Path().glob(f"ops/{stem}.py")) + sorted(Path().glob(f"refimpl/{stem}.py"))
    init(paths, db, {})
    # Annotations: nothing reads them when the program runs.
    spans = {
        path: [
            ((a.lineno, a.col_offset), (a.end_lineno, a.end_col_offset))
            for node in ast.walk(ast.parse(path.read_text()))
            for a in (getattr(node, "annotation", None), getattr(node, "returns", None))
            if a
        ]
        for path in paths
    }
    items = {item.job_id: item.mutations[0] for item in db.work_items}
    jobs = sorted(items, key=lambda j: (str(items[j].module_path), items[j].operator_name, items[j].occurrence))
    code = [j for j in jobs if not any(a <= items[j].start_pos < b for a, b in spans[items[j].module_path])]
    draw = random.Random(f"{seed} {stem}")
    order = draw.sample(code, min(sample, len(code)))
    rest = [j for j in code if j not in order]
    draw.shuffle(rest)
    chosen = list(itertools.islice((j for j in order + rest if is_python(items[j])), sample))
    for reason, skipped in (("annotation", set(jobs) - set(code)), ("not in the sample", set(code) - set(chosen))):
        db.set_multiple_results(skipped, WorkResult(WorkerOutcome.SKIPPED, reason))


def run(stem: str, folder: Path, tests: list[str], commit: str, sample: int, seed: int = 0) -> dict[str, Any]:
    """Try the mutants of a stem of the current folder, the database in `folder`; return what the result file says."""
    key = b"".join(path.read_bytes() for path in sorted(Path().glob(f"*/{stem}.py"))) + f"{sample} {seed}".encode()
    log, kills = folder / f"{stem}.log", collections.Counter[str]()
    with use_db(str(folder / f"{stem}-{hashlib.sha256(key).hexdigest()[:12]}.sqlite")) as db:
        if db.num_results == 0:
            propose(stem, db, sample, seed)
        items = {item.job_id: item.mutations[0] for item in db.work_items}
        skipped = collections.Counter(r.output for _, r in db.results if r.worker_outcome == WorkerOutcome.SKIPPED)
        done = {job: json.loads(r.output) for job, r in db.results if r.worker_outcome == WorkerOutcome.NORMAL}
        finished = {job for job, _ in db.results} - {
            j for j, f in done.items() if not f["by"] and f["commit"] != commit
        }
        todo = sorted(set(items) - finished, key=lambda job: (str(items[job].module_path), items[job].start_pos))
        kills.update(found["by"] for found in done.values())
        total = len(items) - skipped.total()
        print(f"{stem}: {total} mutants, {len(todo)} to run; the tests must pass on the unchanged source", flush=True)
        limit = 1800.0
        for n, job in enumerate([None, *todo] if todo else []):
            started = time.monotonic()
            m = items[job or todo[0]]
            source, old, new = changed(m) if job else (m.module_path.read_text(), "", "")
            by = trial(stem, m.module_path, source, tests, log, kills, limit)
            seconds = time.monotonic() - started
            if job is None:
                if by:
                    raise SystemExit(f"{stem}: {by} fails on the unchanged source, see {log}")
                limit = 60 + 4 * seconds
                continue
            kills[by] += 1
            first = done.get(job, {}).get("first") or ("" if by else commit)
            done[job] = {"commit": commit, "by": by, "first": first, "old": old, "new": new}
            outcome = TestOutcome.KILLED if by else TestOutcome.SURVIVED
            db.set_result(job, WorkResult(WorkerOutcome.NORMAL, json.dumps(done[job]), outcome))
            what = f"killed by {by}" if by else f"SURVIVED: {old} -> {new}"
            print(f"{stem} {n}/{len(todo)} {seconds:.1f} s {m.module_path}:{m.start_pos[0]} {what}", flush=True)
    mutants = [
        {"file": str(m.module_path), "line": m.start_pos[0], "operator": m.operator_name, "occurrence": m.occurrence}
        | {name: value for name, value in found.items() if name not in ("old", "new") or not found["by"]}
        for m, found in ((items[job], found) for job, found in done.items())
    ]
    mutants.sort(key=lambda m: (m["file"], m["line"], m["operator"], m["occurrence"]))
    head = {"commit": commit, "date": datetime.date.today().isoformat(), "seed": seed, "proposed": len(items)}
    return head | {"in annotations": skipped["annotation"], "mutants": mutants}


def report(results: list[dict[str, Any]], listed: list[dict[str, Any]]) -> str:
    """docs/mutants.md; `listed` are the entries of equivalent.toml."""
    reasons = {(e["file"], old, new): e["reason"] for e in listed for old, new in e["mutants"]}
    used, rows = set(), []
    lists: dict[str, list[str]] = {"survived": [], "equivalent": []}
    for result in results:
        for file in sorted({m["file"] for m in result["mutants"]}):
            mutants = [m for m in result["mutants"] if m["file"] == file]
            alive = [m for m in mutants if not m["by"]]
            for m in alive:
                key = m["file"], m["old"], m["new"]
                used.add(key)
                line = f"- {file}:{m['line']} `{m['old']}` -> `{m['new']}`"
                if key in reasons:
                    lists["equivalent"].append(f"{line}: {reasons[key]}")
                else:
                    lists["survived"].append(line)
            equivalent = sum((m["file"], m["old"], m["new"]) in reasons for m in alive)
            tried, killed = len(mutants) - equivalent, len(mutants) - len(alive)
            since, late = sum(bool(m["by"] and m["first"]) for m in mutants), sum(m["by"] == "time" for m in mutants)
            counts = len(mutants), killed, since, late, equivalent, tried - killed
            score = f"{killed / max(tried, 1):.1%}"
            rows.append(
                f"| {file} | {' | '.join(map(str, counts))} | {score} | {result['commit']} | {result['date']} |"
            )
    files = {m["file"] for result in results for m in result["mutants"]}
    for file, old, new in sorted(reasons.keys() - used):
        if file in files:
            print(f"tools/equivalent.toml lists what is no survivor: {file} {old} -> {new}")
    found = {name: "\n".join(lines or ["None."]) for name, lines in lists.items()}
    return HEAD.format(rows="\n".join(rows), examples=EXAMPLES, **found)


def checkout() -> str:
    """Bring the clone to the checkout's commit and work there. A lock of this process alone, not of its forks."""
    lock = os.open(FOLDER / "lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SystemExit("mutants: another run is under way; wait for it or stop it") from None
    os.chdir(FOLDER / "clone")
    subprocess.run(["git", "fetch", "--quiet", ROOT, "HEAD"], check=True)
    subprocess.run(["git", "checkout", "--quiet", "--force", "--detach", "FETCH_HEAD"], check=True)
    return subprocess.check_output(["git", "rev-parse", "--short=10", "HEAD"], text=True).strip()


def prepare() -> None:
    """Import, once for all forks, what takes long to import."""
    for module in PRELOAD:
        importlib.import_module(module)
    hypothesis.settings.register_profile(
        "mutants", derandomize=True, max_examples=EXAMPLES, deadline=None, database=None
    )
    os.environ["HYPOTHESIS_PROFILE"] = "mutants"
    gc.freeze()  # pytest collects garbage, which would visit, and so copy, all of torch in every fork


def tests_of(stem: str) -> list[str]:
    """What pytest runs for mutants of a stem."""
    if stem not in KERNELS:
        return [f"tests/test_{stem}.py", "tests/test_equations.py", "-k", f"{stem}. and not compile"]
    family = KERNELS[stem]
    names = ["kernels"] if stem.endswith("_triton") else ["kernels", "large", "numba", family, f"{family}_numba", stem]
    files = [file for name in dict.fromkeys(names) if Path(file := f"tests/test_{name}.py").exists()]
    from motionspec.fused import FUSED

    operators = [name.partition(".")[2] for name in FUSED if name.startswith(f"{family}.")]
    return [*files, "-k", f"({' or '.join([f'{family}.', f'{family}_numba', stem, *operators])}) and not compile"]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    known = ", ".join([*STEMS, "or of kernels", *KERNELS])
    parser.add_argument("stems", nargs="*", metavar="STEM", help=f"of {known} (default: all but kernels)")
    parser.add_argument("--sample", type=int, help="mutants per stem (default: 150, of kernels 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of mutants (default: 0)")
    args = parser.parse_args()
    if unknown := set(args.stems) - SAMPLE.keys():
        parser.error(f"no such stem: {', '.join(sorted(unknown))}; choose from {known}")
    commit = checkout()
    prepare()
    docs = ROOT / "docs" / "mutants"
    docs.mkdir(parents=True, exist_ok=True)
    for stem in args.stems or STEMS:
        result = run(stem, FOLDER, tests_of(stem), commit, args.sample or SAMPLE[stem], args.seed)
        lines = ",\n".join(map(json.dumps, result.pop("mutants")))  # one line each
        (docs / f"{stem}.json").write_text(json.dumps(result)[:-1] + f', "mutants": [\n{lines}\n]}}\n')
    results = [json.loads((docs / f"{s}.json").read_text()) for s in SAMPLE if (docs / f"{s}.json").exists()]
    listed = tomllib.loads((ROOT / "tools" / "equivalent.toml").read_text())["equivalent"]
    (ROOT / "docs" / "mutants.md").write_text(report(results, listed))


if __name__ == "__main__":
    main()
