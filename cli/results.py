"""Judges what another program made of the golden vectors: the verdicts of `motionspec check`, from result files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from motionspec.cli.cases import in_range, tells
from motionspec.cli.check import MEASURED, Failure, Verdict, silent, variants_to_judge
from motionspec.cli.compare import Precision, compare
from motionspec.cli.explain import Record, explain
from motionspec.cli.inventory import find
from motionspec.cli.runner import CannotRun
from motionspec.cli.vectors import Arrays, Case, Vectors, cases_of, part_of, read_npz
from motionspec.cli.where import circumstances, describe
from motionspec.progress import Progress
from motionspec.refimpl.equations import Equation

ADVICE = "write it again, plain arrays of numbers as numpy.savez does"
FLOATS = ("float64", "float32", "float16")  # those that a file can hold


@dataclass(frozen=True)
class Result:
    """One case with what came, nothing if its file is missing, and what should have come."""

    case: Case
    got: Arrays
    want: Arrays
    path: Path  # of the file with `got`
    reference: Path | None  # of the one with `want`
    seed: int

    @property
    def inputs(self) -> Arrays:
        """By the names of the arguments."""
        return part_of(self.want, "input")

    @property
    def size(self) -> int:
        """Elements of all inputs."""
        return sum(array.size for array in self.inputs.values())


def judge_results(
    equation: str,
    folder: Path,
    vectors: Vectors | None,
    *,
    variant: Mapping[str, Any],
    dtype: str | None,
    seed: int,
    grad: bool,
    progress: Progress,
) -> list[Verdict]:
    """All verdicts on the results of one equation in `folder`.

    They are held against `vectors`, or against what `seed` gives; in the precision `dtype`, or that of the arrays.
    Raises CannotRun for a file that cannot be judged.
    """
    row = find(equation)
    chosen = variants_to_judge(equation, variant, lambda names: names)
    cases = cases_of(row)
    came = _read(row, cases, folder)
    precision = dtype or _precision(came)
    allowed = FLOATS if dtype else (precision,)
    asked = [case for case in cases if case.variant in chosen and precision in case.dtypes]
    results = []
    for done, case in enumerate(asked, 1):
        results.append(_result(case, came.get(case, {}), folder / case.file, vectors, seed))
        progress(f"{equation} {precision}", done, len(asked))
    results.sort(key=lambda result: result.size)
    verdicts = []
    for one in chosen:
        mine = [result for result in results if result.case.variant == one]
        unasked = sum(case.variant == one and case not in asked for case in came)
        verdicts += _verdicts(row, one, precision, allowed, mine, unasked, grad, seed)
    return verdicts


def _read(row: Equation, cases: Sequence[Case], folder: Path) -> dict[Case, Arrays]:
    """The results that are there."""
    if not folder.is_dir():
        raise CannotRun(f"--vectors-result {folder}: there is no such folder")
    found = sorted((folder / row.id).glob("*.npz"))
    if not found:
        raise CannotRun(f"{folder / row.id}: no results; expected a file per case, such as {cases[0].file}")
    known = {folder / case.file: case for case in cases}
    came = {}
    for path in found:
        if path not in known:
            raise CannotRun(f"{path}: is no case of {row.id}: name it as the vectors' file, or remove it")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CannotRun(f"{path}: {error.strerror}: {ADVICE}") from error
        came[known[path]] = read_npz(path, data, ADVICE)
        _check_names(known[path], path, came[known[path]])
    return came


def _check_names(case: Case, path: Path, arrays: Arrays) -> None:
    """Raise CannotRun unless every output is there and nothing but outputs and gradients."""
    outputs = [f"output.{name}" for name in case.row.outputs]
    gradients = [f"gradient.{name}" for name in case.row.differentiable if case.gradient_dtypes]
    for name in outputs:
        if name not in arrays:
            raise CannotRun(f"{path}: has no {name}, only {', '.join(arrays)}: {ADVICE}")
    for name in arrays:
        if name not in (*outputs, *gradients):
            raise CannotRun(f"{path}: has {name}, which is none of {', '.join([*outputs, *gradients])}: leave it out")


def _precision(came: Mapping[Case, Arrays]) -> str:
    """That of the first floating-point output; float64, which is then expected, where there is none."""
    arrays = (array for result in came.values() for array in part_of(result, "output").values())
    return next((array.dtype.name for array in arrays if array.dtype.name in FLOATS), "float64")


def _result(case: Case, got: Arrays, path: Path, vectors: Vectors | None, seed: int) -> Result:
    if vectors is not None:
        want, reference = vectors.arrays(case), vectors.folder / case.file
    else:
        want, reference = case.known(seed), None
        if any(name.startswith("gradient.") for name in got):
            want |= case.gradients(want)
    # One element in any number of axes is a number: not every writer of .npy knows the shape ().
    got = {n: a.reshape(()) if a.size == 1 and n in want and want[n].shape == () else a for n, a in got.items()}
    return Result(case, got, want, path, reference, seed if vectors is None else vectors.seed)


def _verdicts(
    row: Equation,
    variant: dict[str, Any],
    dtype: str,
    allowed: Sequence[str],
    results: Sequence[Result],
    unasked: int,
    grad: bool,
    seed: int,
) -> list[Verdict]:
    """Of one variant: the value; the gradients that any result holds, or all with `grad`."""
    known = {result.case.k: (result.case.sizes(result.seed), result.case.scale) for result in results}
    measures = known.__getitem__

    def judged(checked: str, results: Sequence[Result], names: Sequence[str]) -> Verdict:
        verdict = Verdict(row.id, variant, dtype, checked)
        _judge(verdict, results, names, allowed, seed)
        missing = [result for result in results if any(name not in result.got for name in names)]
        for result in missing:
            says = f"{result.path} has no {names[0]}" if result.got else f"there is no {result.path}"
            count = f"{len(missing)} of {len(results)} results {'is' if len(missing) == 1 else 'are'} missing"
            verdict.add("missing", f"{says}; {count}", result.case.k, partial(_failure, result))
        cases = circumstances(row, [(result.case.k, result.inputs) for result in results], measures)
        for finding in verdict.findings:
            best = describe(cases, set(finding.numbers))
            finding.where = best.cases if best else ""
        return silent(verdict, f"all that is expected of the {len(results)} cases is 0")

    value = judged("value", results, [f"output.{name}" for name in row.outputs])
    if value.numbers(*MEASURED):
        value.note = explain(row, variant, [_record(result) for result in results if _fits(result)], dtype, measures)
    elif value.ok and unasked:
        value.note = f"{unasked} more not judged: their inputs are not exact in {dtype}"
    smooth = [result for result in results if dtype in result.case.gradient_dtypes]
    names = [name for name in row.differentiable if grad or any(f"gradient.{name}" in r.got for r in smooth)]
    return [value, *(judged(f"gradient of {name}", smooth, [f"gradient.{name}"]) for name in names)]


def _may_be_zero(row: Equation, names: Sequence[str]) -> bool:
    """Whether zeros are right everywhere."""
    return all(name.removeprefix("gradient.") in row.flat for name in names)


def _fits(result: Result) -> bool:
    """Whether all outputs came and have the shapes of the expected ones, and numbers in them."""
    names = [f"output.{name}" for name in result.case.row.outputs]
    return all(
        name in result.got
        and result.got[name].shape == result.want[name].shape
        and (result.got[name].dtype == bool) == (result.want[name].dtype == bool)
        and result.got[name].dtype.kind in "fiub"
        for name in names
    )


def _judge(
    verdict: Verdict, results: Sequence[Result], names: Sequence[str], allowed: Sequence[str], seed: int
) -> None:
    """Fold the arrays of these names into the verdict, the results that have them in turn."""
    for result in results:
        if any(name not in result.got for name in names):
            continue
        verdict.cases += 1
        verdict.telling += tells(result.want[name] for name in names) or _may_be_zero(result.case.row, names)
        differs = False
        for name in names:
            if problem := _problem(name, result.got[name], result.want[name], allowed):
                verdict.add(problem[0], f"{result.case.file}: {problem[1]}", result.case.k, partial(_failure, result))
            else:
                differs = _compare(verdict, result, name, seed, said=differs)


def _problem(name: str, got: np.ndarray, want: np.ndarray, allowed: Sequence[str]) -> tuple[str, str] | None:
    """(kind, problem) of an array that cannot be compared."""
    expected = allowed if want.dtype == np.float64 else (want.dtype.name,)
    if got.dtype.name not in expected:
        return "wrong dtype", f"{name} has dtype {got.dtype.name}, expected {' or '.join(expected)}"
    if got.shape != want.shape:
        return "wrong shape", f"{name} has shape {got.shape}, expected {want.shape}"
    return None


def _compare(verdict: Verdict, result: Result, name: str, seed: int, said: bool) -> bool:
    """Fold one array into the verdict; whether this case differs, `said` if an array before this one did."""
    got, want, file = result.got[name], in_range(result.want[name], verdict.dtype), result.case.file
    bounds = result.case.tolerance(name, verdict.dtype)
    found = compare(got, want, *bounds)
    verdict.fold(found.error, found.tolerance, found.used)
    if name.startswith("output.") and want.dtype == np.float64:
        unit = _units(result)[result.case.row.outputs.index(name.removeprefix("output."))]
        verdict.precision = verdict.precision or Precision()
        verdict.precision.fold(got.astype(np.float64), want, verdict.dtype, unit, bounds[1])
    if found.ok or said:
        return said
    i = found.first
    kind = "returns NaN" if np.isnan(got[i]) and not np.isnan(want[i]) else "differs"
    failure = _failure(result)
    failure.place = f"{file}: {name}[{', '.join(map(str, i))}] ({found.wrong} of {got.size} elements wrong)"
    failure.expected, failure.got = float(want[i]), float(got[i])
    failure.reproduce = _reproduce(result, name, i, seed)
    verdict.add(kind, failure.place, result.case.k, lambda: failure)
    return True


def _reproduce(result: Result, name: str, i: tuple[int, ...], seed: int) -> str:
    """One line of Python that prints both numbers."""
    got = (
        f"np.load({str(result.path)!r})[{name!r}].item()" if not i else f"np.load({str(result.path)!r})[{name!r}][{i}]"
    )
    if result.reference is not None:
        return f"import numpy as np; print({got}, np.load({str(result.reference)!r})[{name!r}][{i}])"
    case = result.case
    want = f"expected({case.row.id!r}, {case.v}, {case.k}, {seed}, {name!r})[{i}]"
    return f"import numpy as np; from motionspec.cli.results import expected; print({got}, {want})"


def expected(equation: str, v: int, k: int, seed: int, name: str) -> np.ndarray:
    """The array of that name in case `k` of variant `v`: what a failure's line of Python prints beside the result."""
    case = Case(find(equation), v, k)
    known = case.known(seed)
    return known[name] if name in known else case.gradients(known)[name]


def _failure(result: Result) -> Failure:
    small = result.inputs if result.size <= 24 else {}
    return Failure(result.case.k, result.case.sizes(result.seed), "", arrays=small)


def _units(result: Result) -> list[float]:
    return [result.case.scale**degree for degree in result.case.row.degree]


def _record(result: Result) -> Record:
    got = [result.got[f"output.{name}"] for name in result.case.row.outputs]
    plain = [array if array.dtype == bool else array.astype(np.float64) for array in got]
    return Record(result.case.k, result.inputs, _units(result), plain)
