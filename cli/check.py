"""The one judge: holds a callable against an equation. Behind `motionspec check`, `motionspec.check` and the demo."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from motionspec.cli.cases import DEFAULT_CASES, DTYPES, MOST_CASES, exact_case, in_range, is_smooth, scale, sizes, tells
from motionspec.cli.compare import (
    Precision,
    as_outputs,
    compare,
    cotangents,
    directional,
    directions,
    forward_tolerance,
    gradient_tolerance,
    step,
)
from motionspec.cli.explain import Record, explain
from motionspec.cli.inventory import find
from motionspec.cli.runner import CannotRun, Outcome, Request, Runner, Target
from motionspec.refimpl.equations import EQUATIONS, Equation
from motionspec.refimpl.row import arguments


@dataclass
class Failure:
    """The smallest failing case."""

    case: int
    sizes: dict[str, int]
    place: str
    expected: float | None = None
    got: float | None = None
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    reproduce: str = ""


@dataclass
class Verdict:
    """One line of the table: one equation, variant, dtype, and its value or one of its gradients."""

    id: str
    variant: dict[str, Any]
    dtype: str
    checked: str  # "value" or "gradient of NAME"
    kind: str = "agrees"  # or: differs, returns NaN, wrong shape, wrong dtype, changes its input, raises, ...
    cases: int = 0
    telling: int = 0  # those of them that zeros would fail
    error: float = 0.0
    tolerance: float = 0.0
    note: str = ""
    not_judged: list[str] = field(default_factory=list)  # lines on variants that the callable cannot be asked
    failure: Failure | None = None
    precision: Precision | None = None  # of values that are numbers and could be compared

    @property
    def ok(self) -> bool:
        """Whether it agrees."""
        return self.kind == "agrees"

    def fold(self, error: float, tolerance: float) -> None:
        """Keep the worst error, in units of its tolerance."""
        if not self.tolerance or error / tolerance > self.error / self.tolerance:
            self.error, self.tolerance = error, tolerance

    def as_json(self) -> dict[str, Any]:
        """Plain data; arrays of the failing case are left out, `reproduce` makes them."""
        data = asdict(self)
        if self.failure:
            data["failure"].pop("arrays")
        return data | {"source": EQUATIONS[self.id].source}


def _shape_problem(row: Equation, outcome: Outcome, wants: Sequence[np.ndarray], dtype: str) -> tuple[str, str] | None:
    """(kind, problem) when number, shapes or dtypes of the outputs are not the equation's."""
    if len(outcome.shapes) != len(wants):
        shapes, names = ", ".join(map(str, outcome.shapes)), ", ".join(row.outputs)
        return "wrong shape", f"returned {len(outcome.shapes)} arrays of shape {shapes}, expected {len(wants)}: {names}"
    for name, shape, came, want in zip(row.outputs, outcome.shapes, outcome.dtypes, wants, strict=True):
        if shape != want.shape:
            return "wrong shape", f"{name} has shape {shape}, expected {want.shape}"
        expected = dtype if want.dtype == np.float64 else str(want.dtype)
        if came != expected:
            return "wrong dtype", f"{name} has dtype {came}, expected {expected}"
    return None


class Judge:
    """Judges one callable against one equation in one variant and dtype."""

    def __init__(
        self,
        runner: Runner,
        target: Target,
        equation: str,
        variant: Mapping[str, Any],
        *,
        dtype: str,
        framework: str,
        device: str,
        seed: int,
    ):
        self.runner, self.target, self.row, self.variant = runner, target, EQUATIONS[equation], dict(variant)
        self.dtype, self.framework, self.device, self.seed = dtype, framework, device, seed
        passed = runner.accepted(target, tuple(dict.fromkeys([*self.variant, *self.row.keyword])))
        self.params = {k: v for k, v in self.variant.items() if k in passed}
        # Optional arrays that the callable does not take: the reference is left to its default too.
        self.left_out = set(self.row.keyword) - set(passed)
        self.differentiable = tuple(name for name in self.row.differentiable if name not in self.left_out)

    def arrays(self, k: int) -> dict[str, np.ndarray]:
        """Inputs number k, as the oracle gets them."""
        arrays = exact_case(self.row.id, k, seed=self.seed, dtype=self.dtype)
        return {name: array for name, array in arrays.items() if name not in self.left_out}

    def wants(self, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        """What the oracle says."""
        return as_outputs(self.row.reference(**arrays, **self.variant))

    def perform(
        self, arrays: dict[str, np.ndarray], wants: list[np.ndarray], weights: Sequence[np.ndarray | None] = ()
    ) -> Outcome:
        """What the callable says, and its gradients if there are output cotangents."""
        request = Request(
            arrays,
            self.params,
            keyword=self.row.keyword,
            expected=tuple(want.shape for want in wants),
            dtype=self.dtype,
            framework=self.framework,
            device=self.device,
            cotangents=tuple(weights),
            differentiable=self.differentiable if weights else (),
        )
        outcome = self.runner.perform(self.target, request)
        if outcome.problem and self.framework == "numpy" and "ensor" in outcome.problem:
            outcome.problem += ". If it takes torch tensors: framework torch"
        return outcome

    def _verdict(self, checked: str) -> Verdict:
        return Verdict(self.row.id, self.variant, self.dtype, checked)

    def _failure(
        self, k: int, place: str = "", expected: float | None = None, got: float | None = None, **where: Any
    ) -> Failure:
        arrays = self.arrays(k)
        small = arrays if sum(a.size for a in arrays.values()) <= 24 else {}
        return Failure(k, sizes(self.row, k, self.seed), place, expected, got, small, self._reproduce(k, **where))

    def _reproduce(self, k: int, gradient: str = "", index: tuple[int, ...] = (), output: int = 0) -> str:
        """One line of Python that prints got and expected."""
        target = repr(self.target) if isinstance(self.target, str) else getattr(self.target, "__qualname__", "")
        if not isinstance(self.target, str) and not all(part.isidentifier() for part in target.split(".")):
            target = "your_function"
        defaults: dict[str, Any] = {"variant": {}, "output": 0, "index": (), "gradient": ""}
        defaults |= {"dtype": "float64", "framework": "numpy", "device": "cpu", "seed": 0}
        values: dict[str, Any] = {"variant": self.variant, "output": output, "index": index, "gradient": gradient}
        values |= {key: getattr(self, key) for key in ("dtype", "framework", "device", "seed")}
        options = "".join(f", {key}={value!r}" for key, value in values.items() if value != defaults[key])
        return f"from motionspec.cli.check import replay; print(*replay({target}, {self.row.id!r}, {k}{options}))"

    def _by_size(self, numbers: Iterable[int]) -> list[int]:
        """Case numbers, the smallest inputs first."""
        return sorted(numbers, key=lambda k: (sum(a.size for a in self.arrays(k).values()), k))

    def value(self, cases: int, progress: Callable[[int, int], None]) -> Verdict:
        """Compare the value on `cases` inputs, the smallest first."""
        verdict, records = self._verdict("value"), []
        for done, k in enumerate(self._by_size(range(cases)), 1):
            arrays = self.arrays(k)
            wants = self.wants(arrays)
            outcome = self.perform(arrays, wants)
            verdict.cases = done
            verdict.telling += tells(wants)
            progress(done, cases)
            problem = (outcome.kind, outcome.problem) if outcome.problem else None
            problem = problem or _shape_problem(self.row, outcome, wants, self.dtype)
            if outcome.mutated and not problem:
                problem = "changes its input", f"changed {', '.join(outcome.mutated)} in place"
            if problem:
                # What stops a case stops the judging: a value verdict on the rest would not mean much.
                if verdict.ok:
                    verdict.kind, verdict.note = problem
                    verdict.failure = self._failure(k)
                return verdict
            if outcome.printed and not verdict.note:
                verdict.note = f"prints to stdout: {outcome.printed.strip()[:60]!r}"
            units = [scale(k, self.dtype) ** degree for degree in self.row.degree]
            records.append(Record(arrays, units, outcome.outputs, is_smooth(k)))
            self._compare(verdict, k, wants, outcome.outputs, units)
        if not verdict.ok:
            verdict.note = explain(self.row, self.variant, records, self.dtype)
        return silent(verdict, f"all that is expected of the {cases} cases is 0")

    def _compare(
        self, verdict: Verdict, k: int, wants: list[np.ndarray], gots: list[np.ndarray], units: list[float]
    ) -> None:
        """Fold one case into the verdict."""
        for n, (name, got, want, unit) in enumerate(zip(self.row.outputs, gots, wants, units, strict=True)):
            want = in_range(want, self.dtype)
            result = compare(got, want, *forward_tolerance(self.row, self.dtype, unit))
            verdict.fold(result.error, result.tolerance)
            if want.dtype == np.float64:
                verdict.precision = verdict.precision or Precision()
                verdict.precision.fold(got, want, self.dtype, unit)
            if not result.ok and verdict.ok:
                i = result.first
                verdict.kind = "returns NaN" if np.isnan(got[i]) and not np.isnan(want[i]) else "differs"
                place = f"{name}[{', '.join(map(str, i))}] ({result.wrong} of {got.size} elements wrong)"
                verdict.failure = self._failure(k, place, float(want[i]), float(got[i]), index=i, output=n)

    def gradients(self, cases: int, progress: Callable[[int, int], None]) -> list[Verdict]:
        """Compare every gradient with central differences of the reference, away from kinks."""
        verdicts = {name: self._verdict(f"gradient of {name}") for name in self.differentiable}
        smooth = list(filter(is_smooth, range(cases)))
        for done, k in enumerate(self._by_size(smooth), 1):
            arrays, weights, outcome = self.backward(k)
            progress(done, len(smooth))
            for name, verdict in verdicts.items():
                verdict.cases += 1
                if not verdict.ok:
                    continue
                if outcome.problem:
                    verdict.kind, verdict.note, verdict.failure = outcome.kind, outcome.problem, self._failure(k)
                else:
                    told = self.compare_gradient(verdict, k, name, arrays, weights, outcome.gradients[name])
                    verdict.telling += told or name in self.row.flat
            if outcome.problem:
                break
        says = f"every derivative expected of the {len(smooth)} cases is 0"
        return [silent(verdict, says) for verdict in verdicts.values()]

    def backward(self, k: int) -> tuple[dict[str, np.ndarray], Sequence[np.ndarray | None], Outcome]:
        """Inputs and output cotangents of case k, and what the callable's backward made of them."""
        arrays = self.arrays(k)
        wants = self.wants(arrays)
        weights = cotangents(self.row, wants, (self.seed, k), self.dtype)
        return arrays, weights, self.perform(arrays, wants, weights)

    def compare_gradient(
        self,
        verdict: Verdict,
        k: int,
        name: str,
        arrays: dict[str, np.ndarray],
        weights: Sequence[np.ndarray | None],
        gradient: np.ndarray | None,
        limit: int = 64,
    ) -> bool:
        """Fold one gradient into its verdict, element by element up to `limit` elements.

        Returns whether any derivative that is expected is not 0.
        """
        if gradient is None:
            verdict.kind, verdict.note = "no gradient", f"the output does not depend on {name} for autograd"
            verdict.failure = self._failure(k)
            return True
        relative, absolute = gradient_tolerance(self.row, name, self.dtype, scale(k, self.dtype))
        tells_something = False
        for index, direction in directions(gradient.shape, k, limit):
            difference = step(self.row, name, scale(k, self.dtype))
            want = directional(self.row, self.variant, arrays, name, direction, weights, difference)
            tells_something = tells_something or want != 0
            along = gradient[index] if index is not None else gradient * direction
            got = float(np.sum(along))
            tolerance = absolute + relative * abs(want)
            if index is None:  # the roundings of many elements add up like a random walk: four standard deviations
                walk = absolute * np.linalg.norm(direction) + relative * np.linalg.norm(along)
                tolerance += 4 / 3**0.5 * float(walk)  # of a rounding that is uniform within its bound
            error = abs(got - want) if np.isfinite(got) else np.inf
            verdict.fold(error, tolerance)
            if not error <= tolerance and verdict.ok:
                where = f"[{', '.join(map(str, index))}]" if index is not None else " along a random direction"
                verdict.kind = "returns NaN" if np.isnan(got) else "differs"
                place = f"d/d{name}{where}"
                verdict.failure = self._failure(k, place, want, got, gradient=name, index=index or ())
        return tells_something


def replay(
    target: Target,
    equation: str,
    k: int,
    *,
    variant: Mapping[str, Any] = MappingProxyType({}),
    output: int = 0,
    index: tuple[int, ...] = (),
    gradient: str = "",
    dtype: str = "float64",
    framework: str = "numpy",
    device: str = "cpu",
    seed: int = 0,
) -> tuple[Any, Any]:
    """What a callable gives in case `k`, and what the equation says: what a failure's line of Python prints.

    The element `index` of output number `output`; or, with `gradient="flow"` for instance, the derivative with respect
    to that element of that argument, for the case's random output cotangents (index `()`: along a random direction).
    The call is made in this process, without protection.
    """
    one = Judge(Runner(None), target, equation, variant, dtype=dtype, framework=framework, device=device, seed=seed)
    if not gradient:
        arrays = one.arrays(k)
        wants = one.wants(arrays)
        outcome = one.perform(arrays, wants)
        problem = outcome.problem or (_shape_problem(one.row, outcome, wants, dtype) or ("", ""))[1]
        if problem:
            return problem, "a result"
        return float(outcome.outputs[output][index]), float(wants[output][index])
    arrays, weights, outcome = one.backward(k)
    found = outcome.gradients.get(gradient)
    if found is None:
        return outcome.problem or "no gradient", "a gradient"
    for unit, direction in directions(found.shape, k):
        if (unit or ()) == index:
            difference = step(one.row, gradient, scale(k, dtype))
            want = directional(one.row, variant, arrays, gradient, direction, weights, difference)
            return (float(found[unit]) if unit else float(np.sum(found * direction))), want
    raise IndexError(index)


def silent(verdict: Verdict, says: str) -> Verdict:
    """The verdict; it is "cannot tell" where no case tells a right implementation from zeros."""
    if verdict.ok and not verdict.telling:
        verdict.kind, verdict.note = "cannot tell", f"{says}: judge more cases"
    return verdict


def variants_to_judge(
    equation: str, chosen: Mapping[str, Any], passed: Callable[[tuple[str, ...]], tuple[str, ...]]
) -> list[dict[str, Any]]:
    """The variants a callable claims: those chosen, in all that its keywords can ask for.

    A keyword that the callable does not take keeps its value in the first of the variants that fit `chosen`, where the
    equation has a value for such a mixture. Raises CannotRun for a variant that the equation does not have.
    """
    fitting = _fitting(equation, chosen)
    free = tuple(name for name in fitting[0] if name not in chosen)
    taken = set(passed(free)) if free else set()
    fixed = {name: fitting[0][name] for name in free if name not in taken}
    found: list[dict[str, Any]] = []
    for variant in fitting:
        mixed = variant | fixed
        if mixed not in found and (mixed in fitting or _computable(EQUATIONS[equation], mixed)):
            found.append(mixed)
    return found


def _computable(row: Equation, variant: Mapping[str, Any]) -> bool:
    """Whether the reference takes the variant at every small size."""
    try:
        for k in range(24):
            row.reference(**arguments(exact_case(row.id, k)), **variant)
    except ValueError:
        return False
    return True


def not_judged(equation: str, chosen: Mapping[str, Any], judged: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each value of a keyword that no judged variant has, because the callable does not take the keyword."""
    lines = []
    for variant in _fitting(equation, chosen):
        for name, value in variant.items():
            line = f"{equation} {name}={value!r} (the callable does not take {name})"
            if all(one[name] != value for one in judged) and line not in lines:
                lines.append(line)
    return [f"not judged: {line}" for line in lines]


def _fitting(equation: str, chosen: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The equation's variants that have all that is chosen. Raises CannotRun where there is none."""
    row = EQUATIONS[equation]
    # As text: the command line knows no other type.
    fitting = [dict(v) for v in row.variants if all(k in v and str(v[k]) == str(chosen[k]) for k in chosen)]
    if not fitting:
        known = "; ".join(", ".join(f"{k}={v}" for k, v in variant.items()) for variant in row.variants)
        asked = ", ".join(f"{k}={v}" for k, v in chosen.items())
        raise CannotRun(f"{equation} has no variant {asked}; it has: {known or 'none'}")
    return fitting


def _askable(
    target: Target, dtypes: Sequence[str], framework: str, device: str, cases: int, seed: int, grad: bool
) -> None:
    """Raise CannotRun for options that make no sense."""
    if not isinstance(target, str) and not callable(target):
        raise CannotRun(f"expected a callable, package.module:function or FILE.py:function, got {target!r}")
    if framework not in ("numpy", "torch"):
        raise CannotRun(f"framework {framework}: expected numpy or torch")
    if not dtypes or not set(dtypes) <= set(DTYPES):
        raise CannotRun(f"dtype {','.join(dtypes)}: expected one or more of {','.join(DTYPES)}")
    if framework == "numpy":
        if "bfloat16" in dtypes:
            raise CannotRun("NumPy has no bfloat16: use --framework torch")
        if grad:
            raise CannotRun("gradients need --framework torch")
        if device != "cpu":
            raise CannotRun(f"device {device}: NumPy has none: use --framework torch")
    if not 1 <= cases <= MOST_CASES:
        raise CannotRun(f"cases: expected 1 to {MOST_CASES}, got {cases}")
    if seed < 0:
        raise CannotRun(f"seed: expected a whole number from 0 up, got {seed}")


def judge(
    target: Target,
    equation: str,
    runner: Runner,
    *,
    variant: Mapping[str, Any] | None = None,
    dtypes: Sequence[str] = ("float64",),
    framework: str = "numpy",
    device: str = "cpu",
    cases: int = DEFAULT_CASES,
    seed: int = 0,
    grad: bool = False,
    progress: Callable[[str, int, int], None] = lambda text, done, total: None,
) -> list[Verdict]:
    """All verdicts on one callable for one equation. Raises CannotRun when the question cannot be asked."""
    find(equation)
    _askable(target, dtypes, framework, device, cases, seed, grad)
    verdicts: list[Verdict] = []
    chosen = variants_to_judge(equation, variant or {}, lambda names: runner.accepted(target, names))
    left_out = not_judged(equation, variant or {}, chosen)
    for dtype, one in itertools.product(dtypes, chosen):
        label = " ".join([equation, *(f"{k}={v}" for k, v in one.items()), dtype])
        judge_one = Judge(runner, target, equation, one, dtype=dtype, framework=framework, device=device, seed=seed)
        verdicts.append(judge_one.value(cases, partial(progress, label)))
        if grad:
            verdicts += judge_one.gradients(cases, partial(progress, label + " gradient"))
    verdicts[0].not_judged = left_out
    return verdicts
