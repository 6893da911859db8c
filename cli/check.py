"""The one judge: holds a callable against an equation. Behind `motionspec check`, `motionspec.check` and the demo."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from motionspec.cli.cases import DTYPES, exact_case, is_smooth, rounded, scale, sizes
from motionspec.cli.runner import CannotRun, Outcome, Request, Runner, Target
from motionspec.refimpl.equations import EQUATIONS, Equation

# dtype: (relative, absolute per unit of the result). float32: some ten roundings of terms a few times the scale.
# The half types compute in float32 and round once, so they add half a unit in the last place and nothing else.
TOLERANCE = {
    "float64": (1e-12, 1e-12),
    "float32": (2e-6, 4e-6),
    "bfloat16": (2**-8 + 4e-6, 4e-6),
    "float16": (2**-11 + 2e-6, 4e-6),
}
# The same for a gradient against central differences, which are themselves good to about 1e-8.
GRADIENT_TOLERANCE = {
    "float64": (1e-6, 1e-6),
    "float32": (1e-5, 1e-5),
    "bfloat16": (2**-8 + 1e-5, 1e-5),
    "float16": (2**-11 + 1e-5, 1e-5),
}
_HALF_SUBNORMAL = {"float16": 2.0**-25, "bfloat16": 2.0**-134}
# Of central differences, per unit of the argument. Kinks are 1e-3 away; for f ~ 1/g at g = 1e-3 the error is 1e-8 of f'.
_STEP = 1e-7


@dataclass(frozen=True)
class Comparison:
    """Elementwise: `index` is the element with the largest error for its tolerance, `first` the first that is wrong."""

    ok: bool
    error: float
    tolerance: float
    index: tuple[int, ...]
    first: tuple[int, ...]
    wrong: int


def compare(got: np.ndarray, want: np.ndarray, relative: float, absolute: float) -> Comparison:
    """`|got - want| <= absolute + relative |want|` for every element; NaN and infinities must agree exactly.

    Raises ValueError when the shapes differ: nothing is broadcast.
    """
    if got.shape != want.shape:
        raise ValueError(f"shapes differ: got {got.shape}, want {want.shape}")
    got, want = got.astype(np.float64), want.astype(np.float64)
    if got.size == 0:
        return Comparison(True, 0.0, absolute, (), (), 0)
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    finite = np.isfinite(got) & np.isfinite(want)
    error = np.where(same, 0.0, np.inf)
    np.abs(np.subtract(got, want, out=error, where=finite), out=error)
    tolerance = absolute + relative * np.abs(np.where(finite, want, 0.0))
    excess = error / np.maximum(tolerance, np.finfo(float).tiny)
    bad = error > tolerance
    worst = tuple(int(i) for i in np.unravel_index(np.argmax(excess), excess.shape))
    first = tuple(int(i) for i in np.argwhere(bad)[0]) if bad.any() else ()
    return Comparison(not bad.any(), float(error[worst]), float(tolerance[worst]), worst, first, int(bad.sum()))


def forward_tolerance(dtype: str, unit: float) -> tuple[float, float]:
    """(relative, absolute) for results of magnitude `unit` in `dtype`."""
    relative, absolute = TOLERANCE[dtype]
    return relative, absolute * unit + _HALF_SUBNORMAL.get(dtype, 0.0)


def gradient_tolerance(row: Equation, name: str, dtype: str, scale: float) -> tuple[float, float]:
    """(relative, absolute) for the gradient with respect to argument `name`, values being of magnitude `scale`."""
    relative, absolute = GRADIENT_TOLERANCE[dtype]
    unit = max(scale ** (degree - (name != "flow")) for degree in row.degree)
    return relative, absolute * unit + _HALF_SUBNORMAL.get(dtype, 0.0)


def as_outputs(result: Any) -> list[np.ndarray]:
    """A reference's result as a list: one array, or several."""
    return list(result) if isinstance(result, tuple) else [result]


def cotangents(row: Equation, wants: Sequence[np.ndarray], seed: int, dtype: str) -> tuple[np.ndarray | None, ...]:
    """Random output cotangents that `dtype` can hold; None for an output that has no derivative (a mask)."""
    rng = np.random.default_rng(seed)
    return tuple(None if w.dtype == bool else rounded(rng.uniform(-1, 1, w.shape), dtype) for w in wants)


def directional(
    row: Equation,
    variant: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    name: str,
    direction: np.ndarray,
    weights: Sequence[np.ndarray | None],
    step: float,
) -> float:
    """Central difference of the reference: d/d`name` of sum(cotangent * output) along `direction`."""
    ahead, behind = (
        as_outputs(row.reference(**{**arrays, name: arrays[name] + sign * step * direction}, **variant))
        for sign in (+1, -1)
    )
    # Differences before sums: an output that the argument does not reach contributes an exact 0.
    return sum(
        float(np.sum(w * (a - b))) / (2 * step) for w, a, b in zip(weights, ahead, behind, strict=True) if w is not None
    )


def directions(
    shape: tuple[int, ...], seed: int, limit: int = 64
) -> Iterator[tuple[tuple[int, ...] | None, np.ndarray]]:
    """Every unit vector (with its index) of a small array; three random directions (with None) of a larger one."""
    if np.prod(shape) <= limit:
        for index in np.ndindex(shape):
            unit = np.zeros(shape)
            unit[index] = 1.0
            yield index, unit
    else:
        rng = np.random.default_rng(seed)
        for _ in range(3):
            yield None, rng.choice([-1.0, 1.0], shape) * rng.uniform(0.5, 1.0, shape)


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
    error: float = 0.0
    tolerance: float = 0.0
    note: str = ""
    failure: Failure | None = None

    @property
    def ok(self) -> bool:
        """Whether it agrees."""
        return self.kind == "agrees"

    def as_json(self) -> dict[str, Any]:
        """Plain data; arrays of the failing case are left out, `reproduce` makes them."""
        data = asdict(self)
        if self.failure:
            data["failure"].pop("arrays")
        return data | {"source": EQUATIONS[self.id].source}


def _shape_problem(row: Equation, outcome: Outcome, wants: Sequence[np.ndarray], dtype: str) -> tuple[str, str] | None:
    """(kind, problem) when number, shapes or dtypes of the outputs are not the equation's."""
    if len(outcome.outputs) != len(wants):
        names = ", ".join(row.outputs)
        shapes = ", ".join(str(got.shape) for got in outcome.outputs)
        return (
            "wrong shape",
            f"returned {len(outcome.outputs)} arrays of shape {shapes}, expected {len(wants)}: {names}",
        )
    for name, got, came, want in zip(row.outputs, outcome.outputs, outcome.dtypes, wants, strict=True):
        if got.shape != want.shape:
            return "wrong shape", f"{name} has shape {got.shape}, expected {want.shape}"
        expected = "bool" if want.dtype == bool else dtype
        if came != expected:
            return "wrong dtype", f"{name} has dtype {came}, expected {expected}"
    return None


@dataclass
class _Record:
    """One case with what came back, kept for the diagnosis."""

    arrays: dict[str, np.ndarray]
    units: list[float]
    got: list[np.ndarray]


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
        passed = runner.accepted(target, tuple(self.variant))
        self.params = {k: v for k, v in self.variant.items() if k in passed}

    def _arrays(self, k: int) -> dict[str, np.ndarray]:
        return exact_case(self.row.id, k, seed=self.seed, dtype=self.dtype)

    def _verdict(self, checked: str) -> Verdict:
        return Verdict(self.row.id, self.variant, self.dtype, checked)

    def _failure(
        self, k: int, place: str, index: str = "", expected: float | None = None, got: float | None = None
    ) -> Failure:
        arrays = self._arrays(k)
        small = arrays if sum(a.size for a in arrays.values()) <= 24 else {}
        used = {dim: sizes(k)[dim] for dim in self.row.dims}
        return Failure(k, used, place, expected, got, small, self._reproduce(k, index))

    def _reproduce(self, k: int, index: str) -> str:
        """One line of Python that shows got and expected."""
        options = {"seed": self.seed, "dtype": self.dtype, "framework": self.framework, "device": self.device}
        defaults = {"seed": 0, "dtype": "float64", "framework": "numpy", "device": "cpu"}
        extra = "".join(f", {k}={v!r}" for k, v in options.items() if v != defaults[k])
        if isinstance(self.target, str):
            load, call = f"from motionspec.cli.runner import load; f = load({self.target!r}); ", "f"
        else:
            load, call = "", getattr(self.target, "__qualname__", "f")
        params = "".join(f", {k}={v!r}" for k, v in self.params.items())
        stem, name = self.row.id.split(".")
        oracle = "".join(f", {k}={v!r}" for k, v in self.variant.items())
        return (
            f"import motionspec; from motionspec.refimpl import {stem}; {load}"
            f"a = motionspec.case({self.row.id!r}, {k}{extra}).values(); "
            f"b = motionspec.case({self.row.id!r}, {k}{extra.replace(repr(self.framework), repr('numpy'))}).values(); "
            f"print({call}(*a{params}){index}, {stem}.{name}(*b{oracle}){index})"
        )

    def value(self, cases: int, progress: Callable[[int], None]) -> Verdict:
        """Compare the value on `cases` inputs, the smallest first."""
        verdict, records = self._verdict("value"), []
        order = sorted(range(cases), key=lambda k: (sum(a.size for a in self._arrays(k).values()), k))
        for done, k in enumerate(order, 1):
            arrays = self._arrays(k)
            wants = as_outputs(self.row.reference(**arrays, **self.variant))
            outcome = self.runner.perform(
                self.target, Request(arrays, self.params, self.dtype, self.framework, self.device)
            )
            verdict.cases = done
            progress(done)
            problem = (outcome.kind, outcome.problem) if outcome.problem else None
            problem = problem or _shape_problem(self.row, outcome, wants, self.dtype)
            if outcome.mutated and not problem:
                problem = "changes its input", f"changed {', '.join(outcome.mutated)} in place"
            if problem:
                # What stops a case stops the judging: a value verdict on the rest would not mean much.
                if verdict.ok:
                    verdict.kind, verdict.note = problem
                    verdict.failure = self._failure(k, "")
                return verdict
            if outcome.printed and not verdict.note:
                verdict.note = f"prints to stdout: {outcome.printed.strip()[:60]!r}"
            units = [scale(k) ** degree for degree in self.row.degree]
            records.append(_Record(arrays, units, outcome.outputs))
            self._compare(verdict, k, wants, outcome.outputs, units)
        if not verdict.ok:
            verdict.note = explain(self.row, self.variant, records, self.dtype)
        return verdict

    def _compare(
        self, verdict: Verdict, k: int, wants: list[np.ndarray], gots: list[np.ndarray], units: list[float]
    ) -> None:
        """Fold one case into the verdict."""
        for n, (name, got, want, unit) in enumerate(zip(self.row.outputs, gots, wants, units, strict=True)):
            result = compare(got, want, *forward_tolerance(self.dtype, unit))
            if result.error * verdict.tolerance >= verdict.error * result.tolerance:  # worst in units of its tolerance
                verdict.error, verdict.tolerance = result.error, result.tolerance
            if not result.ok and verdict.ok:
                i = result.first
                output = f"[{n}]" if len(wants) > 1 else ""
                verdict.kind = "returns NaN" if np.isnan(got[i]) and not np.isnan(want[i]) else "differs"
                place = f"{name}[{', '.join(map(str, i))}] ({result.wrong} of {got.size} elements wrong)"
                index = f"{output}[{', '.join(map(str, i))}]"
                verdict.failure = self._failure(k, place, index, float(want[i]), float(got[i]))

    def gradients(self, cases: int, progress: Callable[[int], None]) -> list[Verdict]:
        """Compare every gradient with central differences of the reference, away from kinks."""
        verdicts = {name: self._verdict(f"gradient of {name}") for name in self.row.differentiable}
        smooth = [k for k in range(cases) if is_smooth(k)]
        for done, k in enumerate(sorted(smooth, key=lambda k: sum(a.size for a in self._arrays(k).values())), 1):
            arrays = self._arrays(k)
            weights = cotangents(
                self.row, as_outputs(self.row.reference(**arrays, **self.variant)), self.seed + k, self.dtype
            )
            request = Request(
                arrays, self.params, self.dtype, self.framework, self.device, weights, self.row.differentiable
            )
            outcome = self.runner.perform(self.target, request)
            progress(done)
            for name, verdict in verdicts.items():
                verdict.cases += 1
                if not verdict.ok:
                    continue
                if outcome.problem:
                    verdict.kind, verdict.note, verdict.failure = outcome.kind, outcome.problem, self._failure(k, "")
                else:
                    self._compare_gradient(verdict, k, name, arrays, weights, outcome.gradients[name])
            if outcome.problem:
                break
        return list(verdicts.values())

    def _compare_gradient(
        self,
        verdict: Verdict,
        k: int,
        name: str,
        arrays: dict[str, np.ndarray],
        weights: Sequence[np.ndarray | None],
        gradient: np.ndarray | None,
    ) -> None:
        """Fold one gradient into its verdict."""
        if gradient is None:
            verdict.kind, verdict.note = "no gradient", f"the output does not depend on {name} for autograd"
            verdict.failure = self._failure(k, "")
            return
        step = _STEP * (1.0 if name == "flow" else scale(k))
        relative, absolute = gradient_tolerance(self.row, name, self.dtype, scale(k))
        for index, direction in directions(gradient.shape, k):
            want = directional(self.row, self.variant, arrays, name, direction, weights, step)
            got = float(np.sum(gradient * direction))
            # Along a random direction the roundings of many elements add up like a random walk.
            count = float(np.abs(direction).sum()) ** 0.5
            size = float(np.abs(gradient * direction).max())
            tolerance = absolute * count + relative * max(abs(want), size * count if index is None else 0.0)
            error = abs(got - want) if np.isfinite(got) else np.inf
            if error * verdict.tolerance >= verdict.error * tolerance:
                verdict.error, verdict.tolerance = error, tolerance
            if not error <= tolerance and verdict.ok:
                where = f"[{', '.join(map(str, index))}]" if index is not None else " along a random direction"
                verdict.kind = "returns NaN" if np.isnan(got) else "differs"
                verdict.failure = self._failure(k, f"d/d{name}{where}", "", want, got)


def _components(row: Equation, outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs, or the blocks of channels that the one output consists of."""
    if row.blocks and outputs[0].shape[1] % len(row.blocks) == 0:
        return np.split(outputs[0], len(row.blocks), axis=1)
    return list(outputs)


def _changed_inputs(row: Equation) -> dict[str, Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]]:
    """What one may do to the inputs by another convention."""
    changes: dict[str, Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]] = {"": lambda a: a}
    if "flow" in row.differentiable:
        changes["the flow has the opposite sign"] = lambda a: a | {"flow": -a["flow"]}
        changes["u and v of the flow are swapped"] = lambda a: a | {"flow": a["flow"][:, ::-1]}
        changes["the flow has the opposite sign and u and v swapped"] = lambda a: a | {"flow": -a["flow"][:, ::-1]}
    return changes


def explain(row: Equation, variant: Mapping[str, Any], records: Sequence[_Record], dtype: str) -> str:
    """Say what differs: try other variants, conventions of the flow, orders, signs and gains of the components, the
    interior alone and a coarser precision, fewest changes first, and name the first combination that agrees."""
    names = list(row.blocks or row.outputs)
    got = [_components(row, r.got) for r in records]
    others = [("", dict(variant))] + [
        ("the variant: this is " + ", ".join(f"{k}={v!r}" for k, v in other.items()), dict(other))
        for other in row.variants
        if dict(other) != dict(variant)
    ]
    floats = [i for i in range(len(got[0])) if got[0][i].dtype != bool]
    orders = [tuple(range(len(got[0])))]
    if len(floats) == len(got[0]):
        orders += [p for p in itertools.permutations(orders[0]) if p != orders[0]]
    regions = ["", "the border rule (the interior agrees)"] if row.interior else [""]
    precisions = [("", dtype)] + [
        (f"the precision (agrees to {coarse}'s)", coarse) for coarse in DTYPES[DTYPES.index(dtype) + 1 :]
    ]
    combinations = sorted(
        itertools.product(precisions, others, _changed_inputs(row).items(), orders, (False, True), regions),
        key=lambda c: bool(c[0][0]) * 9 + bool(c[1][0]) + bool(c[2][0]) + (c[3] != orders[0]) + c[4] + bool(c[5]),
    )
    wanted: dict[tuple[str, str], list[list[np.ndarray]]] = {}
    for (coarser, to), (other, params), (change, apply), order, scaled, region in combinations:
        key = (other, change)
        if key not in wanted:
            wanted[key] = [
                _components(row, as_outputs(row.reference(**apply(dict(r.arrays)), **params))) for r in records
            ]
        gains = _agreement(row, records, got, [[w[i] for i in order] for w in wanted[key]], to, scaled, bool(region))
        if gains is not None:
            parts = [coarser, other, change]
            if order != orders[0]:
                parts.append(f"the order of the components: this is ({', '.join(names[i] for i in order)})")
            parts += [_gain(names[order[i]], gain) for i, gain in enumerate(gains) if gain != 1.0]
            return "what differs: " + "; ".join(part for part in [*parts, region] if part)
    return ""


def _gain(name: str, gain: float) -> str:
    if gain == -1:
        return f"the sign of {name}"
    return f"the gain of {name}: {gain:.6g} times the expected" + (", opposite sign" if gain < 0 else "")


def _agreement(
    row: Equation,
    records: Sequence[_Record],
    got: Sequence[Sequence[np.ndarray]],
    want: Sequence[Sequence[np.ndarray]],
    dtype: str,
    scaled: bool,
    inside: bool,
) -> list[float] | None:
    """The gain of each component if all agree (in the interior alone, up to a gain, if so asked), else None."""
    gains = []
    for i in range(len(got[0])):
        pairs = []
        for record, g, w in zip(records, got, want, strict=True):
            if g[i].shape != w[i].shape:
                return None
            mask = np.ones(g[i].shape, bool)
            if inside and row.interior:
                mask &= row.interior(**record.arrays)
            unit = record.units[i if len(record.units) > 1 else 0]
            pairs.append((g[i][mask], w[i][mask], unit))
        gain = 1.0
        if sum(w.size for _, w, _ in pairs) < 8:
            return None  # too little left to say anything
        if scaled and got[0][i].dtype != bool:
            power = sum(float(np.sum((w / unit) ** 2)) for _, w, unit in pairs)
            match = sum(float(np.sum(g / unit * (w / unit))) for g, w, unit in pairs)
            gain = match / power if power else 0.0
            if not np.isfinite(gain) or abs(gain) < 1e-6:
                return None
            if abs(gain - round(gain)) < 1e-9:
                gain = float(round(gain))
        for g, w, unit in pairs:
            if not compare(g / gain, w.astype(np.float64), *forward_tolerance(dtype, unit)).ok:
                return None
        gains.append(gain)
    return gains


def variants_to_judge(
    equation: str, chosen: Mapping[str, Any], passed: Callable[[tuple[str, ...]], tuple[str, ...]]
) -> list[dict[str, Any]]:
    """The variants a callable claims: those chosen; all that its keywords can ask for; else the default.

    Raises CannotRun for a variant that the equation does not have.
    """
    row = EQUATIONS[equation]
    fitting = [dict(v) for v in row.variants if all(k in v and v[k] == chosen[k] for k in chosen)]
    if not fitting:
        known = "; ".join(", ".join(f"{k}={v}" for k, v in variant.items()) for variant in row.variants)
        asked = ", ".join(f"{k}={v}" for k, v in chosen.items())
        raise CannotRun(f"{equation} has no variant {asked}; it has: {known or 'none'}")
    free = tuple(k for k in row.variants[0] if k not in chosen)
    return fitting if free and set(passed(free)) == set(free) else fitting[:1]


def judge(
    target: Target,
    equation: str,
    runner: Runner,
    *,
    variant: Mapping[str, Any] | None = None,
    dtypes: Sequence[str] = ("float64",),
    framework: str = "numpy",
    device: str = "cpu",
    cases: int = 40,
    seed: int = 0,
    grad: bool = False,
    progress: Callable[[str, int, int], None] = lambda text, done, total: None,
) -> list[Verdict]:
    """All verdicts on one callable for one equation. Raises CannotRun when the question cannot be asked."""
    if equation not in EQUATIONS:
        raise CannotRun(f"no equation {equation!r}; `motionspec list` shows all")
    verdicts = []
    chosen = variants_to_judge(equation, variant or {}, lambda names: runner.accepted(target, names))
    for dtype, one in itertools.product(dtypes, chosen):
        if framework == "numpy" and dtype == "bfloat16":
            raise CannotRun("NumPy has no bfloat16: use --framework torch")
        if framework == "numpy" and grad:
            raise CannotRun("gradients need --framework torch")
        label = " ".join([equation, *(f"{k}={v}" for k, v in one.items()), dtype])
        judge_one = Judge(runner, target, equation, one, dtype=dtype, framework=framework, device=device, seed=seed)
        verdicts.append(judge_one.value(cases, lambda done, text=label: progress(text, done, cases)))
        if grad:
            text = label + " gradient"
            total = sum(is_smooth(k) for k in range(cases))
            verdicts += judge_one.gradients(cases, lambda done, text=text, total=total: progress(text, done, total))
    return verdicts
