"""Says what differs between a callable and an equation, in terms of the conventions that people choose differently."""

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from motionspec.cli import rounding
from motionspec.cli.cases import is_large, is_smooth, rounded
from motionspec.cli.compare import TOLERANCE, as_outputs, compare, forward_tolerance, ulp
from motionspec.cli.rounding import ROUNDING, Ask, Nudge, Part
from motionspec.cli.where import KINKS, SIDES, Circumstances, Measures, circumstances, describe, having, sides
from motionspec.refimpl.equations import Equation
from motionspec.refimpl.row import arguments


@dataclass(frozen=True)
class Record:
    """One case with what came back: its number, inputs, magnitude of each output, and outputs."""

    number: int
    arrays: dict[str, np.ndarray]
    units: list[float]
    got: list[np.ndarray]

    @property
    def smooth(self) -> bool:
        """Whether it keeps off ties and kinks."""
        return is_smooth(self.number)


# What a hypothesis costs: the cheapest combination that agrees is named. A known mistake is assumed only where two
# changed conventions will not do, then a border rule, then another rule for ties, a lack of precision last of all.
_ONE, _SIDES, _MISTAKE, _BORDER, _KINKS, _PRECISION = 2, 3, 5, 6, 7, 20

_Inputs = dict[str, np.ndarray]
_Part = tuple[Record, np.ndarray, np.ndarray, float]  # case, got, expected and the unit of both
_Region = Callable[[Record], np.ndarray]  # where a hypothesis must hold: a mask that broadcasts to the output


# Of a hypothesis that allows for a few roundings, how many: as many again as the root of the number of terms.
_FEW = 4


@dataclass(frozen=True)
class _Hypothesis:
    """One combination: each part with what it says."""

    precision: tuple[str, str, bool]  # words, type, and whether a few roundings are allowed for
    meaning: tuple[str, Callable[[_Inputs], Any]]
    order: tuple[str, tuple[int, ...]]
    scaled: bool
    region: tuple[str, _Region]


def explain(
    row: Equation,
    variant: Mapping[str, Any],
    records: Sequence[Record],
    dtype: str,
    measures: Measures,
    ask: Ask | None = None,
    untold: Sequence[str] = (),
) -> str:
    """One line that names the cheapest combination of changed conventions under which the outputs agree.

    Tried are other variants, the flow's sign and order, the row's known mistakes, the order, signs and gains of the
    components, sides of length 1, the interior alone, the cases away from ties and kinks, inputs rounded to a narrower
    type, coarser precisions, and which sizes or values the differing cases have in common. If nothing agrees, it says
    which variant is closest. `ask` calls the callable again: rounding errors can be told from others that way. `untold`
    are parameters of the variant that the callable does not take.
    """
    with np.errstate(all="ignore"):  # an overflow here is an error like any other
        return "what differs: " + _Explanation(row, variant, records, dtype, measures, ask).text(untold)


class _Explanation:
    """The search for one explanation; what the oracle and the callable said is remembered."""

    def __init__(
        self,
        row: Equation,
        variant: Mapping[str, Any],
        records: Sequence[Record],
        dtype: str,
        measures: Measures,
        ask: Ask | None,
    ):
        self.row, self.variant, self.records, self.dtype, self.ask = row, dict(variant), records, dtype, ask
        self.names = list(row.blocks or row.outputs)
        self.got = [_components(row, r.got) for r in records]
        self.cases = circumstances(row, [(r.number, r.arrays) for r in records], measures)
        self.wants: dict[str, list[list[np.ndarray]]] = {}
        self.nudges: dict[float, list[Nudge]] = {}
        self.said: dict[tuple[float, str], list[list[np.ndarray]]] = {}

    def text(self, untold: Sequence[str]) -> str:
        """What differs."""
        if says := self._noise():
            return says
        straight = [*_meanings(self.row, self.variant, self.records[0].arrays)]
        exact = [(0, "", self.dtype, False)]
        found = self._search(exact, straight, self._regions())
        rarer = [
            *_defaults(self.row, self.variant, untold),
            *_narrow_inputs(self.row, self.variant, self.records[0].arrays, self.dtype),
        ]
        found = found or self._search(exact, [*filter(self._may_be, rarer if not found else ())], self._regions()[:1])
        found = found or self._search(self._precisions(), straight, self._regions())
        found = found or self._which_cases(straight)
        if found:
            return found
        if sum(component.size for parts in self.got for component in parts) < 40:
            return "too few values to tell; judge more cases"
        return ". ".join(filter(None, ["nothing tried explains it", self._closest()]))

    def _noise(self) -> str:
        """Whether the callable gives something else when asked the same again."""
        for record in self.records[:: max(len(self.records) // 5, 1)] if self.ask else ():
            assert self.ask
            again = self.ask(record.arrays)
            for got, new, unit in zip(record.got, again or (), record.units, strict=bool(again)):
                if not compare(new, got, *forward_tolerance(self.row, self.dtype, unit)).ok:
                    return "the same inputs give other values when called again"
        return ""

    def _may_be(self, meaning: tuple[int, str, Callable[[_Inputs], Any]]) -> bool:
        """Whether it explains one case of middling size: a look that spares the oracle all the others."""
        smooth = [n for n, record in enumerate(self.records) if record.smooth] or [0]
        record, got = self.records[smooth[len(smooth) // 2]], self.got[smooth[len(smooth) // 2]]
        wants = self._oracle(meaning[2], record.arrays)
        return bool(wants) and all(
            g.shape == w.shape and compare(g, w, *self._tolerance(record, self.dtype, False, self._unit(record, i))).ok
            for i, (g, w) in enumerate(zip(got, wants, strict=True))
        )

    def _precisions(self) -> list[tuple[int, str, str, bool]]:
        """Types that errors could be of: as one rounding of the result, then as a few roundings on the way."""
        own = ROUNDING.get(self.dtype, 0.0)
        found = []
        for n, (name, size) in enumerate(sorted(ROUNDING.items(), key=lambda item: item[1]), 1):
            if size > own:
                found.append((n * _PRECISION, f"the precision (agrees to {name}'s)", name, False))
            if size >= own and (size > own or self.dtype != "float32"):
                found.append(((n + 3) * _PRECISION, f"the precision ({name} on the way: ", name, True))
        return found

    def _regions(self) -> list[tuple[int, str, _Region]]:
        """Where a hypothesis must hold: everywhere, or off what people do otherwise."""
        regions: list[tuple[int, str, _Region]] = [(0, "", lambda record: np.array(True))]
        if any(1 in case.sides for case in self.cases):
            regions.append((_SIDES, SIDES, lambda record: np.array(1 not in sides(self.row, record.arrays))))
        regions.append((_KINKS, KINKS, lambda record: np.array(record.smooth)))
        if interior := self.row.interior:
            says = "the border rule (the interior agrees)"
            regions.append((_BORDER, says, lambda record: interior(**record.arrays)))
        return regions

    def _orders(self) -> list[tuple[int, str, tuple[int, ...]]]:
        straight = tuple(range(len(self.names)))
        orders = [(0, "", straight)]
        if any(component.dtype != np.float64 for component in self.got[0]) or len(self.got[0]) != len(self.names):
            return orders
        for order in itertools.permutations(straight):
            if order != straight:
                says = ", ".join(self.names[i] for i in order)
                orders.append((_ONE, f"the order of the components: this is ({says})", order))
        return orders

    def _search(
        self,
        precisions: Sequence[tuple[int, str, str, bool]],
        meanings: Sequence[tuple[int, str, Callable[[_Inputs], Any]]],
        regions: Sequence[tuple[int, str, _Region]],
    ) -> str:
        """The cheapest combination that agrees, in words; empty if none does."""
        gains = [(0, "", False), (_ONE, "", True)]
        hypotheses = itertools.product(precisions, meanings, self._orders(), gains, regions)
        for precision, meaning, order, gain, region in sorted(hypotheses, key=lambda h: sum(part[0] for part in h)):
            hypothesis = _Hypothesis(precision[1:], meaning[1:], order[1:], gain[2], region[1:])
            found = self._agreement(hypothesis)
            if found is not None and (precision[0] == 0 or self._is_rounding(hypothesis, found)):
                return self._says(hypothesis, found)
        return ""

    def _says(self, hypothesis: _Hypothesis, gains: Sequence[float]) -> str:
        precision, dtype, few = hypothesis.precision
        if few:
            precision = precision.replace(dtype, self._types_like(hypothesis, gains))
            precision += f"errors of up to {self._units(hypothesis, gains):.2g} units in {dtype}'s last place)"
        changed = [precision, hypothesis.meaning[0], hypothesis.order[0]]
        names = [self.names[i] for i in hypothesis.order[1]]
        changed += [_gain(name, value) for name, value in zip(names, gains, strict=True) if value != 1.0]
        region = hypothesis.region[0]
        if region in (SIDES, KINKS):
            region = self._better(region, hypothesis, gains, dtype)
        return "; ".join(filter(None, [*changed, region]))

    def _better(self, region: str, hypothesis: _Hypothesis, gains: Sequence[float], dtype: str) -> str:
        """The region, or what fits the differing cases better: all of them are no reason to name one that does not."""
        failing = self._differing(hypothesis, gains, dtype)
        cases = self._telling(self._want(hypothesis.meaning), failing)
        mine, best = having(cases, region, failing), describe(cases, failing)
        if best is not None and (mine is None or best.share > mine.share):
            return best.differs
        return "ties and kinks (the cases without any agree)" if region == KINKS else f"{region} (all else agrees)"

    def _differing(self, hypothesis: _Hypothesis, gains: Sequence[float], dtype: str) -> set[int]:
        """Numbers of the cases in which some component differs."""
        found = set()
        for n, record in enumerate(self.records):
            for part in self._case_parts(hypothesis, gains, self.got[n], self._want(hypothesis.meaning)[n], record):
                bounds = self._tolerance(record, dtype, hypothesis.precision[2], part.unit)
                if part.got.shape != part.want.shape or not compare(part.got, part.want, *bounds).ok:
                    found.add(record.number)
        return found

    def _want(self, meaning: tuple[str, Callable[[_Inputs], Any]]) -> list[list[np.ndarray]]:
        """What the oracle says under a meaning, by case."""
        says, function = meaning
        if says not in self.wants:
            self.wants[says] = [_components(self.row, as_outputs(function(r.arrays))) for r in self.records]
        return self.wants[says]

    def _tolerance(self, record: Record, dtype: str, few: bool, unit: float) -> tuple[float, float]:
        """(relative, absolute) of a type: one rounding, or a few."""
        if not few:
            return forward_tolerance(self.row, dtype, unit)
        terms = sum(array.size for array in record.arrays.values())
        allowed = float((_FEW + np.sqrt(terms)) * ROUNDING[dtype])
        return allowed, allowed * unit

    def _agreement(self, hypothesis: _Hypothesis) -> list[float] | None:
        """The gain of each component (1 unless `scaled`) if all agree in the region, else None."""
        (_, dtype, few), (_, order) = hypothesis.precision, hypothesis.order
        wants = self._want(hypothesis.meaning)
        gains = []
        for i in range(len(self.got[0])):
            pairs = [(got[i], want[order[i]]) for got, want in zip(self.got, wants, strict=True)]
            if any(g.shape != w.shape for g, w in pairs):  # another variant's
                return None
            parts: Iterable[_Part] = self._in_region(pairs, i, hypothesis.region[1])  # lazy: the first may settle it
            gain, left = 1.0, 0
            if hypothesis.scaled and pairs[0][1].dtype == np.float64:
                parts = list(parts)
                gain = _fitted_gain([part[1:] for part in parts], self._least_gain(dtype, few))
                if gain == 0:
                    return None
            for record, g, w, unit in parts:
                if not compare(g / gain, w, *self._tolerance(record, dtype, few, unit)).ok:
                    return None
                left += w.size
            if left < 8:
                return None  # too little to say anything
            gains.append(gain)
        return gains

    def _least_gain(self, dtype: str, few: bool) -> float:
        """How far a gain must be from 1: less is a lack of precision."""
        return 16 * ROUNDING[dtype] if few else TOLERANCE[dtype][0]

    def _in_region(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]], i: int, region: _Region) -> Iterator[_Part]:
        """Of one component in each case, the values in the region."""
        for record, (g, w) in zip(self.records, pairs, strict=True):
            mask = np.broadcast_to(region(record), w.shape)
            yield record, g[mask], w[mask], self._unit(record, i)

    @staticmethod
    def _unit(record: Record, i: int) -> float:
        return record.units[i if len(record.units) > 1 else 0]

    def _case_parts(
        self,
        hypothesis: _Hypothesis,
        gains: Sequence[float],
        got: Sequence[np.ndarray],
        want: Sequence[np.ndarray],
        record: Record,
    ) -> list[Part]:
        """The components of one case as a hypothesis has them."""
        order = hypothesis.order[1]
        return [
            Part(g, g / gain if gain != 1 else g, want[order[i]], self._unit(record, i))
            for i, (g, gain) in enumerate(zip(got, gains, strict=True))
        ]

    # -- is it rounding ---------------------------------------------------------------------------------------------

    def _is_rounding(self, hypothesis: _Hypothesis, gains: Sequence[float]) -> bool:
        """Whether the errors left over look like rounding, in each component that has any."""
        dtype, region = hypothesis.precision[1], hypothesis.region[1]
        wants = self._want(hypothesis.meaning)
        by_case = [
            (record, self._case_parts(hypothesis, gains, got, want, record))
            for record, got, want in zip(self.records, self.got, wants, strict=True)
        ]
        for i, unit in enumerate(by_case[0][1]):
            if unit.want.dtype != np.float64:
                continue
            parts = [_where(parts[i], region(record)) for record, parts in by_case]
            if self._exact(parts):
                continue
            if not self._is_spread(parts) or (hypothesis.precision[2] and not self._is_narrowest(parts, dtype)):
                return False
            if not rounding.stored(parts, dtype) and not self._drawn_anew(hypothesis, gains, i):
                return False
        return True

    def _types_like(self, hypothesis: _Hypothesis, gains: Sequence[float]) -> str:
        """The types that the errors could be of: those of float16 and of TF32 are as large, bfloat16's eight times."""
        dtype = hypothesis.precision[1]
        wants = self._want(hypothesis.meaning)
        by_case = [
            self._case_parts(hypothesis, gains, got, want, record)
            for record, got, want in zip(self.records, self.got, wants, strict=True)
        ]
        wrong = [column for column in zip(*by_case, strict=True) if not self._exact(column)]
        if dtype != "float16" or all(rounding.stored(column, dtype) for column in wrong):
            return dtype
        size = max(rounding.typical(column) for column in wrong)
        return "float16 or TF32" if size <= ROUNDING[dtype] / 2 else "float16, TF32 or bfloat16"

    def _is_narrowest(self, parts: Sequence[Part], dtype: str) -> bool:
        """Whether no narrower type explains the errors better: they are stored in it, or too large for this one."""
        narrower = [name for name, size in ROUNDING.items() if size > ROUNDING[dtype]]
        if any(rounding.stored(parts, name) for name in narrower):
            return False
        return not narrower or rounding.stored(parts, dtype) or rounding.typical(parts) <= 2 * ROUNDING[dtype]

    def _exact(self, parts: Sequence[Part]) -> bool:
        return all(compare(p.got, p.want, *forward_tolerance(self.row, self.dtype, p.unit)).ok for p in parts)

    def _is_spread(self, parts: Sequence[Part]) -> bool:
        """Whether most smooth cases have errors and most values in them: rounding spares no place."""
        shares = [
            float((part.got != part.want).mean())
            for part, record in zip(parts, self.records, strict=True)
            if record.smooth and part.want.size and np.any(part.want != 0)
        ]
        return not shares or float(np.median(shares)) > 0.2

    def _drawn_anew(self, hypothesis: _Hypothesis, gains: Sequence[float], i: int) -> bool:
        """Whether the errors of component i change wholly if the inputs change a little."""
        if self.ask is None:
            return False
        dtype, meaning = hypothesis.precision[1], hypothesis.meaning
        records = {record.number: record for record in self.records}
        for reach in rounding.reaches(dtype):
            again = []
            for nudge, want in self._nudges(reach, meaning):
                got = _components(self.row, nudge.came)
                if want and [g.shape for g in got] == [w.shape for w in want]:
                    parts = self._case_parts(hypothesis, gains, got, want, records[nudge.number])
                    again.append((nudge.number, nudge.argument, parts[i]))
            asked = {number for number, _, _ in again}
            base = {
                record.number: self._case_parts(hypothesis, gains, got, want, record)[i]
                for record, got, want in zip(self.records, self.got, self._want(meaning), strict=True)
                if record.number in asked
            }
            found = rounding.drawn_anew(base, again, dtype)
            if found is not None:
                return found
        return False

    def _nudges(
        self, reach: float, meaning: tuple[str, Callable[[_Inputs], Any]]
    ) -> list[tuple[Nudge, list[np.ndarray]]]:
        """The callable's answers to nudged inputs, with what the oracle says under a meaning."""
        assert self.ask
        if reach not in self.nudges:
            # A large case would outweigh all others, and its flow lies on a raster: some errors are 0 only there.
            smooth = [(n, r) for n, r in enumerate(self.records) if r.smooth and not is_large(r.number)]
            cases = [(r.number, r.arrays) for _, r in smooth]
            sizes = [min(got.size for got in self.got[n]) for n, _ in smooth]
            picked = [cases[j] for j in rounding.chosen(cases, sizes)]
            self.nudges[reach] = rounding.nudges(self.row, picked, reach, self.ask)
        key = (reach, meaning[0])
        if key not in self.said:
            self.said[key] = [self._oracle(meaning[1], nudge.arrays) for nudge in self.nudges[reach]]
        return list(zip(self.nudges[reach], self.said[key], strict=True))

    def _oracle(self, function: Callable[[_Inputs], Any], arrays: _Inputs) -> list[np.ndarray]:
        """Nothing where the inputs are none that the equation takes."""
        try:
            return _components(self.row, as_outputs(function(arrays)))
        except ValueError:
            return []

    def _units(self, hypothesis: _Hypothesis, gains: Sequence[float]) -> float:
        """The largest error, in units in the last place of the type at the value or its unit, whichever is larger."""
        worst = 0.0
        for record, got, want in zip(self.records, self.got, self._want(hypothesis.meaning), strict=True):
            for part in self._case_parts(hypothesis, gains, got, want, record):
                if part.want.dtype != np.float64:
                    continue  # a mask has no units
                part = _where(part, hypothesis.region[1](record))
                finite = np.isfinite(part.want) & np.isfinite(part.got)
                error, size = np.abs(part.got - part.want)[finite], np.abs(part.want)[finite]
                last = ulp(np.maximum(size, part.unit), hypothesis.precision[1])
                worst = max(worst, float((error / last).max(initial=0.0)))
        return worst

    # -- what is left ------------------------------------------------------------------------------------------------

    def _which_cases(self, meanings: Sequence[tuple[int, str, Callable[[_Inputs], Any]]]) -> str:
        """A meaning under which some cases agree, and what those that differ have in common."""
        straight = tuple(range(len(self.names)))
        straight_failing = {record.number for record in self.records}
        for _, says, function in sorted(meanings, key=lambda meaning: meaning[0]):
            wants = self._want((says, function))
            if any(g.shape != w.shape for got, want in zip(self.got, wants, strict=True) for g, w in zip(got, want)):  # noqa: B905
                continue
            hypothesis = _Hypothesis(
                ("", self.dtype, False), (says, function), ("", straight), False, ("", lambda _: np.array(True))
            )
            failing = self._differing(hypothesis, [1.0] * len(self.got[0]), self.dtype)
            agreeing = [n for n, record in enumerate(self.records) if record.number not in failing]
            if sum(bool(np.any(w != 0)) for n in agreeing for w in wants[n]) < 2:
                continue  # zeros agree with zeros
            if says and not failing < straight_failing:
                continue  # it makes nothing clearer, or something worse
            straight_failing = straight_failing if says else failing
            if best := describe(self._telling(wants, failing), failing):
                return "; ".join(filter(None, [says, best.differs]))
        return ""

    def _telling(self, wants: Sequence[Sequence[np.ndarray]], failing: set[int]) -> list[Circumstances]:
        """The cases that fail, and those that could: where 0 is expected, a multiple of what is right agrees."""
        return [
            case
            for case, want in zip(self.cases, wants, strict=True)
            if case.number in failing or any(np.any(w != 0) for w in want)
        ]

    def _closest(self) -> str:
        """The variant with which most values agree, if they are many."""
        found = []
        for variant in self.row.variants:
            name = ", ".join(f"{k}={v!r}" for k, v in variant.items()) or "the equation"
            found.append((*self._shares(variant), name))
        exact, near, _, name = max(found, key=lambda share: (round(share[0], 2), share[1:3]))
        if exact >= 0.1:
            return f"Closest is {name}: {int(100 * exact)} % of the values agree"
        exact, near, _, name = max(found, key=lambda share: share[1:3])
        if near >= 0.9:
            return f"Closest is {name}: {int(100 * near)} % of the values are off by less than 1 % of their scale"
        return ""

    def _shares(self, variant: Mapping[str, Any]) -> tuple[float, float, float]:
        """Of the finite values that are not 0, those that agree, those off by less than 1 %, minus the mean error."""
        exact = near = count = 0
        mean = 0.0
        for record in self.records:
            wants = as_outputs(self.row.reference(**record.arrays, **variant))
            for got, want, unit in zip(record.got, wants, record.units, strict=True):
                if got.shape != want.shape:
                    return 0.0, 0.0, -1.0
                tells = np.isfinite(want) & (np.abs(want) > 1e-12 * unit)
                error, size = np.abs(got.astype(float) - want)[tells], np.abs(want.astype(float))[tells]
                relative, absolute = forward_tolerance(self.row, self.dtype, unit)
                exact += int((error <= absolute + relative * size).sum())
                near += int((error <= 0.01 * np.maximum(size, unit)).sum())
                mean -= float(np.minimum(np.nan_to_num(error / np.maximum(size, unit), nan=1.0), 1.0).sum())
                count += int(tells.sum())
        return (exact / count, near / count, mean / count) if count else (0.0, 0.0, -1.0)


def _where(part: Part, region: np.ndarray) -> Part:
    """The values in the region."""
    mask = np.broadcast_to(region, part.want.shape)
    return Part(part.came[mask], part.got[mask], part.want[mask], part.unit)


def _meanings(
    row: Equation, variant: Mapping[str, Any], arrays: _Inputs
) -> Iterator[tuple[int, str, Callable[[_Inputs], Any]]]:
    """What the callable may compute: every variant under every convention, and the row's known mistakes."""
    variants = [(0, "", dict(variant))]
    for other in row.variants:
        if dict(other) != dict(variant):
            variants.append((_ONE, _variant(other), dict(other)))
    for (cost, says, keywords), (more, also, change) in itertools.product(variants, _conventions(row)):
        yield cost + more, "; ".join(filter(None, [says, also])), partial(_call, row, row.reference, keywords, change)
    given = set(row.keyword) & set(arguments(arrays))
    for label, mistake in row.mutants:
        parameters = inspect.signature(mistake).parameters.values()
        everything = any(p.kind is p.VAR_KEYWORD for p in parameters)
        taken = {name for name in (*variant, *given) if everything or name in {p.name for p in parameters}}
        # One that does not take the variant is a mistake in the default one.
        if taken >= given and (taken >= set(variant) or dict(variant) == dict(row.variants[0])):
            keywords = {name: value for name, value in variant.items() if name in taken}
            yield _MISTAKE, f"a known departure: {label}", partial(_call, row, mistake, keywords, _as_it_is)


def _variant(variant: Mapping[str, Any]) -> str:
    return "the variant: this is " + ", ".join(f"{k}={v!r}" for k, v in variant.items())


def _defaults(
    row: Equation, variant: Mapping[str, Any], untold: Sequence[str]
) -> Iterator[tuple[int, str, Callable[[_Inputs], Any]]]:
    """The equation's own defaults in place of parameters that the callable is not told: it may have them built in."""
    parameters = inspect.signature(row.reference).parameters
    defaults = {name: parameters[name].default for name in untold if name in parameters}
    changed = {k: v for k, v in defaults.items() if v is not inspect.Parameter.empty and v != variant[k]}
    for chosen in [[name] for name in changed] + ([list(changed)] if len(changed) > 1 else []):
        other = {**variant, **{name: changed[name] for name in chosen}}
        if other not in [dict(known) for known in row.variants]:
            yield _ONE, _variant(other), partial(_call, row, row.reference, other, _as_it_is)


def _call(
    row: Equation,
    function: Callable[..., Any],
    keywords: _Inputs,
    change: Callable[[_Inputs], _Inputs],
    arrays: _Inputs,
) -> Any:
    """The arrays by position, as the judge hands them over: a mistake has names of its own for them."""
    given = arguments(change(arrays))
    named = {name: value for name, value in given.items() if name in row.keyword}
    return function(*(value for name, value in given.items() if name not in named), **named, **keywords)


def _as_it_is(arrays: _Inputs) -> _Inputs:
    return arrays


def _conventions(row: Equation) -> list[tuple[int, str, Callable[[_Inputs], _Inputs]]]:
    """What other people mean by the same flow."""
    found: list[tuple[int, str, Callable[[_Inputs], _Inputs]]] = [(0, "", _as_it_is)]
    if "flow" in row.differentiable:
        found += [
            (_ONE, "the flow has the opposite sign", lambda a: a | {"flow": -a["flow"]}),
            (_ONE, "u and v of the flow are swapped", lambda a: a | {"flow": a["flow"][:, ::-1]}),
            (2 * _ONE, "u and v of the flow are swapped, opposite sign", lambda a: a | {"flow": -a["flow"][:, ::-1]}),
        ]
    return found


def _components(row: Equation, outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs, or the blocks of channels that the one output consists of."""
    return np.split(outputs[0], len(row.blocks), axis=1) if row.blocks else list(outputs)


def _narrow_inputs(
    row: Equation, variant: Mapping[str, Any], arrays: _Inputs, dtype: str
) -> Iterator[tuple[int, str, Callable[[_Inputs], Any]]]:
    """All inputs, or one, rounded to a narrower type, and all else right."""
    names = [name for name, array in arrays.items() if array.dtype == np.float64]
    exact = partial(_call, row, row.reference, dict(variant), _as_it_is)
    outputs = as_outputs(exact(arrays))
    masks = [name for name, output in zip(row.outputs, outputs, strict=True) if output.dtype != np.float64]
    masks = masks if len(masks) < len(outputs) else []
    for narrow, size in ROUNDING.items():
        if size <= ROUNDING.get(dtype, 0.0):
            continue
        for chosen in [names, *([name] for name in names if len(names) > 1)]:
            says = "the inputs are" if chosen == names else f"{chosen[0]} is"
            change = partial(_rounded, chosen, narrow)
            meaning = partial(_call, row, row.reference, dict(variant), change)
            yield _MISTAKE, f"{says} rounded to {narrow}", meaning
            if masks:
                but = f"{says} rounded to {narrow}, but for {' and '.join(masks)}"
                yield _MISTAKE, but, partial(_with_exact_masks, meaning, exact)


def _with_exact_masks(
    meaning: Callable[[_Inputs], Any], exact: Callable[[_Inputs], Any], arrays: _Inputs
) -> tuple[np.ndarray, ...]:
    """The numbers as one meaning has them, the masks as another has."""
    pairs = zip(as_outputs(meaning(arrays)), as_outputs(exact(arrays)), strict=True)
    return tuple(number if number.dtype == np.float64 else mask for number, mask in pairs)


def _rounded(names: Sequence[str], dtype: str, arrays: _Inputs) -> _Inputs:
    return arrays | {name: rounded(arrays[name], dtype) for name in names}


def _gain(name: str, gain: float) -> str:
    if gain == -1:
        return f"the sign of {name}"
    factor = f"{gain:.6g}" if f"{gain:.6g}" != "1" else f"(1 {'+' if gain > 1 else '-'} {abs(gain - 1):.2g})"
    return f"the gain of {name}: {factor} times the expected" + (", opposite sign" if gain < 0 else "")


def _fitted_gain(parts: Sequence[tuple[np.ndarray, np.ndarray, float]], least: float) -> float:
    """The factor k of got = k want in the least squares sense, further from 1 than `least`; 0 where there is none."""
    g, w = (np.concatenate([part[k] / part[2] for part in parts]) for k in (0, 1))
    # An infinity has no factor; whether it is in its place, the comparison says.
    finite = np.isfinite(g) & np.isfinite(w)
    match, power = float(g[finite] @ w[finite]), float(w[finite] @ w[finite])
    if not np.isfinite(match) or abs(match) <= 1e-6 * power:
        return 0.0
    gain = match / power
    if abs(gain - 1) <= least:
        return 1.0  # 1 and a little is no gain
    short = round(gain, 6)  # a constant that somebody wrote down, if it fits
    return short if short != 1 and abs(short - gain) <= least * abs(gain) else gain
