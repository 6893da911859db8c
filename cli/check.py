"""The one judge: holds a callable against an equation. Behind `motionspec check`, `motionspec.check` and the demo."""

import importlib.util
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from motionspec.cli.cases import (
    DEFAULT_CASES,
    DTYPES,
    MOST_CASES,
    exact_case,
    in_range,
    is_asked,
    is_smooth,
    scale,
    sizes,
    tells,
)
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
from motionspec.cli.reproduce import python
from motionspec.cli.runner import CannotRun, Outcome, Request, Runner, Target
from motionspec.cli.verdict import Failure, Finding, Verdict
from motionspec.cli.where import circumstances, describe
from motionspec.refimpl.equations import EQUATIONS, Equation
from motionspec.refimpl.row import arguments

__all__ = ["Failure", "Finding", "Judge", "Verdict", "judge", "replay", "variants_to_judge"]

MEASURED = ("differs", "returns NaN")  # the findings about values


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


@dataclass(frozen=True)
class Slope:
    """One directional derivative of one case."""

    number: int
    got: float
    want: float
    tolerance: float

    def agrees(self, gain: float = 1.0) -> bool:
        """Whether it is `gain` times the expected."""
        return bool(abs(self.got / gain - self.want) <= self.tolerance)


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

    def _numbers(self, cases: int) -> list[int]:
        """The cases that are judged in this type."""
        return [k for k in range(cases) if is_asked(self.row, k, self.dtype)]

    def wants(self, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        """What the oracle says."""
        return as_outputs(self.row.reference(**arrays, **self.variant))

    def perform(
        self,
        arrays: dict[str, np.ndarray],
        wants: list[np.ndarray],
        weights: Sequence[np.ndarray | None] = (),
        framework: str = "",
    ) -> Outcome:
        """What the callable says, and its gradients if there are output cotangents."""
        request = Request(
            arrays,
            self.params,
            keyword=self.row.keyword,
            expected=tuple(want.shape for want in wants),
            dtype=self.dtype,
            framework=framework or self.framework,
            device=self.device,
            cotangents=tuple(weights),
            differentiable=self.differentiable if weights else (),
        )
        return self.runner.perform(self.target, request)

    def _verdict(self, checked: str) -> Verdict:
        untold = tuple(name for name in self.variant if name not in self.params)
        return Verdict(self.row.id, self.variant, self.dtype, checked, untold=untold)

    def _failure(
        self, k: int, place: str = "", expected: float | None = None, got: float | None = None, **where: Any
    ) -> Failure:
        arrays = self.arrays(k)
        small = arrays if sum(a.size for a in arrays.values()) <= 24 else {}
        used = sizes(self.row, k, self.seed)
        return Failure(k, used, place, expected, got, small, *self._reproduce(k, **where))

    def _reproduce(self, k: int, **where: Any) -> tuple[str, bool]:
        """One line of Python that prints got and expected, and whether it runs in a process of its own."""
        defaults: dict[str, Any] = {"variant": {}, "output": 0, "index": (), "gradient": "", "problem": False}
        defaults |= {"dtype": "float64", "framework": "numpy", "device": "cpu", "seed": 0}
        values = defaults | {"variant": self.variant} | where
        values |= {key: getattr(self, key) for key in ("dtype", "framework", "device", "seed")}
        options = "".join(f", {key}={value!r}" for key, value in values.items() if value != defaults[key])
        return python(self.target, f"{self.row.id!r}, {k}{options}")

    def _by_size(self, numbers: Iterable[int]) -> list[int]:
        """Case numbers, the smallest inputs first."""
        return sorted(numbers, key=lambda k: (sum(a.size for a in self.arrays(k).values()), k))

    def _calls(self, numbers: Iterable[int], verdicts: Sequence[Verdict]) -> Iterator[int]:
        """Case numbers, the smallest inputs first, as long as the callable comes back.

        After a call that does not come back, those are next that are least like it, the largest of them first: what
        happens on small inputs only, or on batches, must not hide the others. When such calls have taken two timeouts,
        the rest is not judged, and the verdicts say so.
        """
        waiting, lost = self._by_size(numbers), 0.0
        while waiting:
            if self.runner.timeout is not None and lost >= 2 * self.runner.timeout:
                break
            before, start = self.runner.lost, time.monotonic()
            k = waiting.pop(0)
            yield k
            if self.runner.lost > before:
                lost += time.monotonic() - start
                waiting = self._by_size(waiting)[::-1]
                waiting.sort(key=partial(self._likeness, k))
        for verdict in verdicts:
            verdict.unasked = len(waiting)

    def _likeness(self, k: int, other: int) -> int:
        """How many sizes of two cases are 1 in both, or in neither."""
        mine, its = sizes(self.row, k, self.seed), sizes(self.row, other, self.seed)
        return sum((mine[dim] == 1) == (its[dim] == 1) for dim in mine)

    def value(self, cases: int, progress: Callable[[int, int], None]) -> Verdict:
        """Compare the value on `cases` inputs, the smallest first; every case in which it can be compared counts."""
        verdict, records, outcomes = self._verdict("value"), [], []
        asked = []
        numbers = self._numbers(cases)
        if len(numbers) < cases:
            left_out = f"{cases - len(numbers)} large cases of {self.row.id} in {self.dtype}"
            verdict.not_judged.append(f"not judged: {left_out} (their sums are too long for its tolerance)")
        for k in self._calls(numbers, [verdict]):
            arrays = self.arrays(k)
            wants = self.wants(arrays)
            outcome = self.perform(arrays, wants)
            verdict.cases += 1
            verdict.telling += tells(wants)
            progress(verdict.cases, len(numbers))
            asked.append((k, arrays))
            outcomes.append(outcome)
            for kind, says in _problems(self.row, outcome, wants, self.dtype):
                verdict.add(kind, says, k, partial(self._failure, k, problem=True))
            if len(outcome.outputs) == len(wants) and not _shape_problem(self.row, outcome, wants, self.dtype):
                units = [scale(k, self.dtype) ** degree for degree in self.row.degree]
                records.append(Record(k, arrays, units, outcome.outputs))
                self._compare(verdict, k, wants, outcome.outputs, units)
        self._must_run(outcomes, asked)
        self._say_where(verdict, asked)
        if verdict.numbers(*MEASURED):
            lost = self.runner.lost

            def ask(inputs: dict[str, np.ndarray]) -> list[np.ndarray] | None:
                return self._ask_again(inputs) if self.runner.lost == lost else None  # one that hangs is not asked on

            verdict.note = explain(self.row, self.variant, records, self.dtype, self._measures, ask, verdict.untold)
        elif verdict.ok:
            verdict.note = next((_prints(outcome) for outcome in outcomes if outcome.printed), "")
        return silent(verdict, f"all that is expected of the {cases} cases is 0")

    def _ask_again(self, arrays: dict[str, np.ndarray]) -> list[np.ndarray] | None:
        """The outputs for other inputs of a case; None if there are none, for the callable or for the oracle."""
        try:
            wants = self.wants(arrays)
        except ValueError:
            return None
        outcome = self.perform(arrays, wants)
        problem = outcome.problem or _shape_problem(self.row, outcome, wants, self.dtype)
        return None if problem else outcome.outputs

    def _must_run(self, outcomes: Sequence[Outcome], asked: Sequence[tuple[int, dict[str, np.ndarray]]]) -> None:
        """Raise CannotRun for a callable that is called wrongly in every case, so that nothing is known of it."""
        first, name = outcomes[0], _name(self.target)
        if all(outcome.refused for outcome in outcomes):
            passed = ", ".join(arguments(asked[0][1]))
            raise CannotRun(f"{name}: cannot be called with {passed}: {first.problem}")
        if any(outcome.kind not in ("raises", "wrong type") for outcome in outcomes):
            return
        if all(outcome.foreign for outcome in outcomes):
            raise CannotRun(f"{name}: {first.problem}. {self._hint(first.foreign)}")
        if all(outcome.kind == "raises" for outcome in outcomes) and self._takes_the_other(asked[:3]):
            other = "torch" if self.framework == "numpy" else "numpy"
            raise CannotRun(f"{name}: {first.problem}. {self._hint(other)}")

    def _takes_the_other(self, asked: Sequence[tuple[int, dict[str, np.ndarray]]]) -> bool:
        """Whether the callable works on the other framework's arrays."""
        other = "torch" if self.framework == "numpy" else "numpy"
        if other == "torch" and importlib.util.find_spec("torch") is None:
            return False
        if other == "numpy" and self.dtype == "bfloat16":
            return False
        return any(not self.perform(arrays, self.wants(arrays), framework=other).problem for _, arrays in asked)

    def _hint(self, other: str) -> str:
        if other == self.framework or other not in ("numpy", "torch"):
            return f"Return {'NumPy arrays' if self.framework == 'numpy' else 'torch tensors'} from it"
        what = "torch tensors" if other == "torch" else "NumPy arrays"
        return f"If it takes {what}: --framework {other} (in Python framework={other!r})"

    def _compare(
        self, verdict: Verdict, k: int, wants: list[np.ndarray], gots: list[np.ndarray], units: list[float]
    ) -> None:
        """Fold one case into the verdict."""
        differs = False
        for n, (name, got, want, unit) in enumerate(zip(self.row.outputs, gots, wants, units, strict=True)):
            want = in_range(want, self.dtype)
            bounds = forward_tolerance(self.row, self.dtype, unit)
            result = compare(got, want, *bounds)
            verdict.fold(result.error, result.tolerance, result.used)
            if want.dtype == np.float64:
                verdict.precision = verdict.precision or Precision()
                verdict.precision.fold(got, want, self.dtype, unit, bounds[1])
            if not result.ok and not differs:
                differs, i = True, result.first
                kind = "returns NaN" if np.isnan(got[i]) and not np.isnan(want[i]) else "differs"
                place = f"{name}[{', '.join(map(str, i))}] ({result.wrong} of {got.size} elements wrong)"
                failure = partial(self._failure, k, place, float(want[i]), float(got[i]), index=i, output=n)
                verdict.add(kind, place, k, failure)

    def gradients(self, cases: int, progress: Callable[[int, int], None]) -> list[Verdict]:
        """Compare every gradient with central differences of the reference, away from kinks."""
        verdicts = {name: self._verdict(f"gradient of {name}") for name in self.differentiable}
        smooth = list(filter(is_smooth, self._numbers(cases)))
        slopes: dict[str, list[Slope]] = {name: [] for name in verdicts}
        asked = []
        for done, k in enumerate(self._calls(smooth, list(verdicts.values())), 1):
            arrays, weights, outcome = self.backward(k)
            asked.append((k, arrays))
            progress(done, len(smooth))
            for name, verdict in verdicts.items():
                verdict.cases += 1
                if outcome.problem:
                    verdict.add(outcome.kind, outcome.problem, k, partial(self._failure, k, gradient=name))
                else:
                    found = outcome.gradients.get(name)
                    came = self.compare_gradient(verdict, k, name, arrays, weights, found)
                    slopes[name] += came
                    verdict.telling += any(slope.want != 0 for slope in came) or name in self.row.flat
        for name, verdict in verdicts.items():
            self._say_where(verdict, asked)
            if verdict.numbers(*MEASURED):
                verdict.note = self._explain_slopes(asked, slopes[name]) or verdict.note
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
        magnitude: float | None = None,
    ) -> list[Slope]:
        """Fold one gradient into its verdict, element by element up to `limit` elements.

        magnitude: of the values, if the arrays are not those of case k in the judge's type.
        """
        if gradient is None:
            says = f"the output does not depend on {name} for autograd"
            verdict.add("no gradient", says, k, partial(self._failure, k, gradient=name))
            return []
        magnitude = scale(k, self.dtype) if magnitude is None else magnitude
        relative, absolute = gradient_tolerance(self.row, name, self.dtype, magnitude)
        slopes, differs = [], False
        for index, direction in directions(gradient.shape, k, limit):
            difference = step(self.row, name, magnitude)
            want = directional(self.row, self.variant, arrays, name, direction, weights, difference)
            along = gradient[index] if index is not None else gradient * direction
            got = float(np.sum(along))
            tolerance = absolute + relative * abs(want)
            if index is None:  # the roundings of many elements add up like a random walk: four standard deviations
                walk = absolute * np.linalg.norm(direction) + relative * np.linalg.norm(along)
                tolerance += 4 / 3**0.5 * float(walk)  # of a rounding that is uniform within its bound
            slopes.append(Slope(k, got, want, tolerance))
            error = abs(got - want) if np.isfinite(got) else np.inf
            verdict.fold(error, tolerance)
            if not error <= tolerance and not differs:
                differs = True
                where = f"[{', '.join(map(str, index))}]" if index is not None else " along a random direction"
                kind, place = "returns NaN" if np.isnan(got) else "differs", f"d/d{name}{where}"
                failure = partial(self._failure, k, place, want, got, gradient=name, index=index or ())
                verdict.add(kind, place, k, failure)
        return slopes

    def _measures(self, k: int) -> tuple[dict[str, int], float]:
        """Sizes of a case and magnitude of its values."""
        return sizes(self.row, k, self.seed), scale(k, self.dtype)

    def _explain_slopes(self, asked: Sequence[tuple[int, dict[str, np.ndarray]]], slopes: Sequence[Slope]) -> str:
        """What differs in a gradient: a factor, or the cases that have it wrong; empty if it is neither."""
        match, power = sum(s.got * s.want for s in slopes), sum(s.want**2 for s in slopes)
        gain = round(match / power, 6) if power and np.isfinite(match) else 0.0
        if gain not in (0, 1) and all(slope.agrees(gain) for slope in slopes):
            amount = f"the gain of the gradient: {gain:.6g} times the expected"
            return f"what differs: {'the sign of the gradient' if gain == -1 else amount}"
        wrong = {slope.number for slope in slopes if not slope.agrees()}
        telling = wrong | {slope.number for slope in slopes if abs(slope.want) > slope.tolerance}
        # Where 0 is expected, a gradient that is a multiple of the right one is right: such cases tell nothing.
        cases = [case for case in circumstances(self.row, asked, self._measures) if case.number in telling]
        best = describe(cases, wrong)
        return f"what differs: {best.differs}" if best else ""

    def _say_where(self, verdict: Verdict, asked: Sequence[tuple[int, dict[str, np.ndarray]]]) -> None:
        """Say of each finding which cases it is about, if they have something in common that others have not."""
        cases = circumstances(self.row, asked, self._measures)
        wrong = verdict.numbers()
        for finding in verdict.findings:
            best = describe(cases, set(finding.numbers))
            if best is not None:
                alone = wrong == set(finding.numbers) and not verdict.unasked
                finding.where = best.cases + (" (all else agrees)" if alone else "")


def _problems(row: Equation, outcome: Outcome, wants: Sequence[np.ndarray], dtype: str) -> list[tuple[str, str]]:
    """(kind, problem) for everything that is wrong with what came of a call, but for the values."""
    found = [(outcome.kind, outcome.problem)] if outcome.problem else []
    if not found and (problem := _shape_problem(row, outcome, wants, dtype)):
        found.append(problem)
    if outcome.mutated:
        found.append(("changes its input", f"changed {', '.join(outcome.mutated)} in place"))
    return found


def _prints(outcome: Outcome) -> str:
    return f"prints to stdout: {outcome.printed.strip()[:60]!r}"


def _name(target: Target) -> str:
    """As the user named it."""
    return f"--impl {target}" if isinstance(target, str) else getattr(target, "__qualname__", type(target).__name__)


def replay(
    target: Target,
    equation: str,
    k: int,
    *,
    variant: Mapping[str, Any] = MappingProxyType({}),
    output: int = 0,
    index: tuple[int, ...] = (),
    gradient: str = "",
    problem: bool = False,
    dtype: str = "float64",
    framework: str = "numpy",
    device: str = "cpu",
    seed: int = 0,
) -> tuple[Any, Any]:
    """What a callable gives in case `k`, and what the equation says: what a failure's line of Python prints.

    The element `index` of output number `output`; or, with `gradient="flow"` for instance, the derivative with respect
    to that element of that argument, for the case's random output cotangents (index `()`: along a random direction).
    With `problem`, or where no number comes, what is wrong in words. The call is made in this process, without
    protection.
    """
    one = Judge(Runner(None), target, equation, variant, dtype=dtype, framework=framework, device=device, seed=seed)
    if not gradient:
        arrays = one.arrays(k)
        wants = one.wants(arrays)
        outcome = one.perform(arrays, wants)
        problems = [says for _, says in _problems(one.row, outcome, wants, dtype)]
        if problems and (problem or not outcome.outputs):
            return "; ".join(problems), "a result"
        return float(outcome.outputs[output][index]), float(wants[output][index])
    arrays, weights, outcome = one.backward(k)
    found = outcome.gradients.get(gradient)
    if found is None:
        return outcome.problem or f"the output does not depend on {gradient} for autograd", "a gradient"
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
    verdicts[0].not_judged[:0] = left_out
    return verdicts
