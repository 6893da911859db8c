"""Golden vectors: the judge's cases as files that a program in any language can read; docs/vectors.md says how."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

import motionspec
from motionspec.cli.cases import DEFAULT_CASES, DTYPES, exact_case, is_asked, is_large, is_smooth, rounded, scale, sizes
from motionspec.cli.check import Judge, Verdict
from motionspec.cli.compare import as_outputs, compare, cotangents, forward_tolerance, gradient_tolerance
from motionspec.cli.inventory import find
from motionspec.cli.runner import CannotRun, Request, Runner
from motionspec.progress import Progress
from motionspec.refimpl.equations import EQUATIONS, SINGLE, Equation

SCHEMA = 2  # of manifest.json: vectors.schema.json
MANIFEST = "manifest.json"
AGAIN = "write the vectors again with `motionspec vectors`"
# What the oracle takes for a large case at most, as in `cases.BOUND`: all vectors together are to stay below 100 MB.
BOUND = 2**12
ABSENT = "no row in the table: held by facts in its tests alone"

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Case:
    """Case number `k` of variant number `v`."""

    row: Equation
    v: int
    k: int

    @property
    def file(self) -> str:
        """Its place in the folder, with slashes."""
        return f"{self.row.id}/v{self.v}-{self.k:02}.npz"

    @property
    def variant(self) -> dict[str, Any]:
        """The keyword arguments."""
        return dict(self.row.variants[self.v])

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The types that hold the inputs exactly. Only in these is the comparison with the oracle fair.

        The cases that `motionspec check` asks by default come in all types, so that each type sees each size. A few
        more have all the digits of float32, which most authors use, or of float64.
        """
        if not is_asked(self.row, self.k, "float32"):
            return DTYPES[:1]
        return DTYPES if self.k < DEFAULT_CASES else DTYPES[: 2 if self.k % 3 else 1]

    @property
    def gradient_dtypes(self) -> tuple[str, ...]:
        """Those of them whose gradient is compared: none at kinks."""
        return self.dtypes if self.row.differentiable and is_smooth(self.k) else ()

    @property
    def scale(self) -> float:
        """The magnitude of the values."""
        return scale(self.k, self.dtypes[-1])

    def sizes(self, seed: int) -> dict[str, int]:
        """The array sizes."""
        return sizes(self.row, self.k, seed, BOUND)

    def inputs(self, seed: int) -> Arrays:
        """Inputs by name, the same bytes everywhere."""
        arrays = exact_case(self.row.id, self.k, seed=seed, dtype=self.dtypes[-1], bound=BOUND)
        return {name: self._exact(array) for name, array in arrays.items()}

    def _exact(self, array: np.ndarray) -> np.ndarray:
        return reduce(rounded, self.dtypes, array) if array.dtype == np.float64 else array

    def known(self, seed: int) -> Arrays:
        """All arrays of the file but the gradients, by their names there: what needs no more than the oracle."""
        inputs = self.inputs(seed)
        wants = as_outputs(self.row.reference(**inputs, **self.variant))
        found = {f"input.{name}": array for name, array in inputs.items()}
        found |= {f"output.{name}": want for name, want in zip(self.row.outputs, wants, strict=True)}
        if self.gradient_dtypes:
            weights = cotangents(self.row, wants, (seed, self.k), self.dtypes[-1])
            for name, weight in zip(self.row.outputs, weights, strict=True):
                if weight is not None:
                    found[f"cotangent.{name}"] = self._exact(weight)
        return found

    def gradients(self, known: Arrays) -> Arrays:
        """The operator's gradients in float64, by their names in the file. Raises CannotRun without torch."""
        if not self.gradient_dtypes:
            return {}
        request = Request(
            part_of(known, "input"),
            self.variant,
            keyword=self.row.keyword,
            expected=tuple(known[f"output.{name}"].shape for name in self.row.outputs),
            framework="torch",
            cotangents=tuple(known.get(f"cotangent.{name}") for name in self.row.outputs),
            differentiable=self.row.differentiable,
        )
        outcome = Runner(None).perform(_operator(self.row), request)
        missing = [name for name in self.row.differentiable if outcome.gradients.get(name) is None]
        if missing:
            problem = outcome.problem or f"no gradient of {', '.join(missing)}"
            raise CannotRun(f"{self.row.id}: {problem}; see `motionspec check {self.row.id} --grad`")
        return {f"gradient.{name}": np.asarray(outcome.gradients[name]) for name in self.row.differentiable}

    def tolerance(self, array: str, dtype: str) -> tuple[float, float]:
        """(relative, absolute): the judge's, for an output or gradient by its name in the file."""
        part, _, name = array.partition(".")
        if part == "gradient":
            return gradient_tolerance(self.row, name, dtype, self.scale)
        degree = self.row.degree[self.row.outputs.index(name)]
        return forward_tolerance(self.row, dtype, self.scale**degree)

    def entry(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """What the manifest says of the file with these arrays, but for its digest."""
        parts: dict[str, list[dict[str, Any]]] = {"input": [], "output": [], "cotangent": [], "gradient": []}
        judged = {"output": self.dtypes, "gradient": self.gradient_dtypes}
        for key, array in arrays.items():
            part, _, name = key.partition(".")
            about: dict[str, Any] = {"name": name, "array": key, "dtype": _little(array).dtype.str}
            about["shape"] = list(array.shape)
            if part in judged:
                bounds = {dtype: self.tolerance(key, dtype) for dtype in judged[part]}
                about["tolerances"] = {d: {"relative": r, "absolute": a} for d, (r, a) in bounds.items()}
            parts[part].append(about)
        return {
            "file": self.file,
            "id": self.row.id,
            "source": self.row.source,
            "summary": self.row.summary,
            "number": self.k,
            "parameters": self.variant,
            "exact_in": list(self.dtypes),
            "differentiable": list(self.row.differentiable),
            "kinks": not is_smooth(self.k),
        } | {f"{part}s": found for part, found in parts.items()}


def cases_of(row: Equation) -> list[Case]:
    """The cases of an equation, by variant: those that `motionspec check` asks by default and some more.

    Large cases on the lattice are left out, because they would double the size of the folder.
    """
    numbers = [k for k in range(DEFAULT_CASES + 12) if is_smooth(k) or not is_large(k)]
    return [Case(row, v, k) for v in range(len(row.variants)) for k in numbers]


def part_of(arrays: Mapping[str, np.ndarray], part: str) -> Arrays:
    """The arrays named `part.NAME`, by NAME."""
    return {key.removeprefix(f"{part}."): array for key, array in arrays.items() if key.startswith(f"{part}.")}


def _operator(row: Equation) -> str:
    stem, name = row.id.split(".")
    return f"motionspec.ops.{stem}:{name}"


# -- writing -----------------------------------------------------------------------------------------------------------


def write(names: Sequence[str], folder: Path, seed: int, progress: Progress) -> str:
    """Write the vectors of equations and stems, all if none is named; one line on what was written."""
    rows = _selected(names)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise CannotRun(f"-o {folder}: the folder is not empty; name a new one")
        cases = [case for row in rows for case in cases_of(row)]
        entries = []
        for done, case in enumerate(cases, 1):
            entries.append(_write_case(case, folder, seed))
            progress(case.row.id, done, len(cases))
        # Last: a folder without it is not whole.
        (folder / MANIFEST).write_text(_manifest_text(seed, entries), encoding="utf-8", newline="\n")
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except OSError as error:
        raise CannotRun(f"-o {folder}: {error.strerror or error}") from error
    return f"{len(cases)} cases of {len(rows)} equations, seed {seed}, {size / 1e6:.1f} MB in {folder}"


def _selected(names: Sequence[str]) -> list[Equation]:
    chosen: dict[str, Equation] = {}
    for name in names or EQUATIONS:
        stem = {id: row for id, row in EQUATIONS.items() if id.startswith(f"{name}.")}
        chosen |= stem or {name: find(name)}
    return list(chosen.values())


def _write_case(case: Case, folder: Path, seed: int) -> dict[str, Any]:
    """Write one file; its entry in the manifest."""
    known = case.known(seed)
    gradients = case.gradients(known)
    if gradients:  # an equation without any needs no operator
        _hold_gradients(case, known, part_of(gradients, "gradient"), seed)
    entry = case.entry(known | gradients)
    told = np.frombuffer(json.dumps({"schema": SCHEMA} | entry).encode(), np.uint8)
    data = _npz(known | gradients | {"case": told})
    path = folder / case.file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return entry | {"sha256": hashlib.sha256(data).hexdigest()}


def _hold_gradients(case: Case, known: Arrays, gradients: Arrays, seed: int) -> None:
    """Raise CannotRun unless the operator's gradients agree with the oracle's central differences along directions."""
    judge = Judge(
        Runner(None), _operator(case.row), case.row.id, case.variant,
        dtype="float64", framework="torch", device="cpu", seed=seed,
    )  # fmt: skip
    weights = [known.get(f"cotangent.{name}") for name in case.row.outputs]
    for name, gradient in gradients.items():
        verdict = Verdict(case.row.id, case.variant, "float64", f"gradient of {name}")
        inputs = part_of(known, "input")
        judge.compare_gradient(verdict, case.k, name, inputs, weights, gradient, limit=0, magnitude=case.scale)
        if not verdict.ok:
            says = f"the operator's {verdict.kind} from the oracle's" if verdict.kind == "differs" else verdict.kind
            raise CannotRun(f"{case.row.id}: {verdict.checked}: {says}; see `motionspec check {case.row.id} --grad`")


def _little(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, array.dtype.newbyteorder("<"), order="C")


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The same bytes for the same arrays; stored, without zip64 or extra fields, so that simple readers do."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, _little(array), version=(1, 0), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, member.getvalue())
    return file.getvalue()


def _manifest_text(seed: int, entries: Sequence[Mapping[str, Any]]) -> str:
    """JSON with a case per line."""
    head = {
        "schema": SCHEMA,
        "motionspec": motionspec.__version__,
        "seed": seed,
        "absent": dict.fromkeys(SINGLE, ABSENT),
    }
    lines = ",\n".join(map(json.dumps, entries))
    return f'{json.dumps(head, indent=1)[:-2]},\n "cases": [\n{lines}\n]\n}}\n'


# -- reading -----------------------------------------------------------------------------------------------------------


def read_npz(path: Path, data: bytes, advice: str) -> Arrays:
    """The arrays of an .npz. Raises CannotRun with one line that names the file; a pickle is never opened."""
    try:
        archive = np.load(io.BytesIO(data), allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise CannotRun(f"{path}: is one array, no zip of them: {advice}")
        with archive:
            found = dict(archive)
    except CannotRun:
        raise
    except Exception as error:  # zip, zlib and NumPy have a dozen kinds of it for a damaged file
        text = " ".join(str(error).split())
        if "pickle" in text:
            raise CannotRun(f"{path}: holds a pickle, which is never opened, or is no .npz: {advice}") from error
        raise CannotRun(f"{path}: cannot be read ({type(error).__name__}: {text[:150]}): {advice}") from error
    for name, array in found.items():
        if not isinstance(array, np.ndarray):
            raise CannotRun(f"{path}: {name} is no array: {advice}")
    if not found:
        raise CannotRun(f"{path}: has no arrays: {advice}")
    return found


class Vectors:
    """A folder that `motionspec vectors` wrote; nothing in it is believed without a look at seed and oracle."""

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / MANIFEST
        try:
            manifest = json.loads(self.path.read_bytes())
        except OSError as error:
            raise CannotRun(f"{self.path}: {error.strerror}; name a folder written by `motionspec vectors`") from error
        except ValueError as error:
            raise CannotRun(f"{self.path}: is no JSON ({error}): {AGAIN}") from error
        schema = manifest.get("schema") if isinstance(manifest, dict) else None
        if schema is not None and (schema != SCHEMA or type(schema) is not int):
            raise CannotRun(f"{self.path}: is of schema {schema!r}, and this motionspec reads {SCHEMA}: {AGAIN}")
        try:
            self.seed, self.version = manifest["seed"], manifest["motionspec"]
            self.digests = {case["file"]: case["sha256"] for case in manifest["cases"]}
            whole = type(self.seed) is int and self.seed >= 0
        except (KeyError, TypeError):
            whole = False
        if not whole:
            raise CannotRun(f"{self.path}: is no manifest of `motionspec vectors`: {AGAIN}")

    def arrays(self, case: Case) -> Arrays:
        """The arrays of a case. Raises CannotRun unless they are what the seed and this version's oracle say."""
        path = self.folder / case.file
        if case.file not in self.digests:
            raise CannotRun(f"{self.path}: lists no {case.file}: {AGAIN}")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CannotRun(f"{path}: {error.strerror}: {AGAIN}") from error
        if hashlib.sha256(data).hexdigest() != self.digests[case.file]:
            raise CannotRun(f"{path}: is not the file that {MANIFEST} lists, its sha256 differs: {AGAIN}")
        arrays = read_npz(path, data, AGAIN)
        known = case.known(self.seed)
        for name in (*known, *(f"gradient.{name}" for name in case.row.differentiable if case.gradient_dtypes)):
            if name not in arrays or (name in known and not _same(case, name, arrays[name], known[name])):
                what = f"written by motionspec {self.version}, this is {motionspec.__version__}"
                raise CannotRun(f"{path}: {name} is not what seed {self.seed} gives here ({what}): {AGAIN}")
        return arrays


def _same(case: Case, name: str, array: np.ndarray, want: np.ndarray) -> bool:
    """Inputs and cotangents to the bit, outputs to the tolerance of float64."""
    if array.shape != want.shape or array.dtype != want.dtype:
        return False
    bounds = case.tolerance(name, "float64") if name.startswith("output.") else (0.0, 0.0)
    return compare(array, want, *bounds).ok
