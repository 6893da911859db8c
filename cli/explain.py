"""Says what differs between a callable and an equation, in terms of the conventions that people choose differently."""

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from motionspec.cli.compare import TOLERANCE, as_outputs, compare, forward_tolerance
from motionspec.refimpl.equations import Equation
from motionspec.refimpl.row import arguments


@dataclass(frozen=True)
class Record:
    """One case with what came back: inputs, magnitude of each output, outputs, and whether it keeps off the kinks."""

    arrays: dict[str, np.ndarray]
    units: list[float]
    got: list[np.ndarray]
    smooth: bool


# What a hypothesis costs: the cheapest combination that agrees is named. A known mistake is assumed only where two
# changed conventions will not do, then a border rule, then another rule for ties, a lack of precision last of all.
_ONE, _SIDES, _MISTAKE, _BORDER, _KINKS, _PRECISION = 2, 3, 5, 6, 7, 20

_Inputs = dict[str, np.ndarray]
_Part = tuple[np.ndarray, np.ndarray, float]  # got, expected and the unit of both
_Region = Callable[[Record], np.ndarray]  # where a hypothesis must hold: a mask that broadcasts to the output


def explain(row: Equation, variant: Mapping[str, Any], records: Sequence[Record], dtype: str) -> str:
    """One line that names the cheapest combination of changed conventions under which the outputs agree.

    Tried are other variants, the flow's sign and order, the row's known mistakes, the order, signs and gains of the
    components, sides of length 1, the interior alone, the cases away from ties and kinks, and coarser precisions. If
    nothing agrees, it says which variant is closest.
    """
    with np.errstate(all="ignore"):  # an overflow here is an error like any other
        return _explain(row, variant, records, dtype)


def _explain(row: Equation, variant: Mapping[str, Any], records: Sequence[Record], dtype: str) -> str:
    names = list(row.blocks or row.outputs)
    got = [_components(row, r.got) for r in records]
    straight = tuple(range(len(names)))
    permuted = [p for p in itertools.permutations(straight) if p != straight]
    if any(component.dtype != np.float64 for component in got[0]) or len(got[0]) != len(names):
        permuted = []
    precisions = [(0, "", dtype)]
    coarse = sorted((relative, name) for name, (relative, _) in TOLERANCE.items() if relative > TOLERANCE[dtype][0])
    for n, (_, coarser) in enumerate(coarse, 1):
        precisions.append((n * _PRECISION, f"the precision (agrees to {coarser}'s)", coarser))
    meanings = list(_meanings(row, variant, records[0].arrays))
    orders = [(0, "", straight)]
    for order in permuted:
        says = ", ".join(names[i] for i in order)
        orders.append((_ONE, f"the order of the components: this is ({says})", order))
    gains = [(0, "", False), (_ONE, "", True)]
    regions: list[tuple[int, str, _Region]] = [
        (0, "", lambda record: np.array(True)),
        (_SIDES, "sides of length 1 (all else agrees)", _sides_above_one),
        (_KINKS, "ties and kinks (the cases without any agree)", lambda record: np.array(record.smooth)),
    ]
    if interior := row.interior:
        regions.append((_BORDER, "the border rule (the interior agrees)", lambda record: interior(**record.arrays)))

    wants: dict[str, list[list[np.ndarray]]] = {}
    hypotheses = itertools.product(precisions, meanings, orders, gains, regions)
    for precision, meaning, order, gain, region in sorted(hypotheses, key=lambda h: sum(part[0] for part in h)):
        if meaning[1] not in wants:
            wants[meaning[1]] = [_components(row, as_outputs(meaning[2](r.arrays))) for r in records]
        ordered = [[want[i] for i in order[2]] for want in wants[meaning[1]]]
        found = _agreement(row, records, got, ordered, precision[2], gain[2], region[2])
        if found is not None:
            changed = [part[1] for part in (precision, meaning, order)]
            changed += [_gain(names[order[2][i]], value) for i, value in enumerate(found) if value != 1.0]
            return "what differs: " + "; ".join(filter(None, [*changed, region[1]]))
    if sum(component.size for parts in got for component in parts) < 40:
        return "what differs: too few values to tell; judge more cases"
    return "what differs: nothing tried explains it. " + _closest(row, records)


def _meanings(
    row: Equation, variant: Mapping[str, Any], arrays: _Inputs
) -> Iterator[tuple[int, str, Callable[[_Inputs], Any]]]:
    """What the callable may compute: every variant under every convention, and the row's known mistakes."""
    variants = [(0, "", dict(variant))]
    for other in row.variants:
        if dict(other) != dict(variant):
            says = ", ".join(f"{k}={v!r}" for k, v in other.items())
            variants.append((_ONE, f"the variant: this is {says}", dict(other)))
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


def _sides_above_one(record: Record) -> np.ndarray:
    return np.array(1 not in next(iter(record.arrays.values())).shape[-2:])


def _components(row: Equation, outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs, or the blocks of channels that the one output consists of."""
    return np.split(outputs[0], len(row.blocks), axis=1) if row.blocks else list(outputs)


def _gain(name: str, gain: float) -> str:
    if gain == -1:
        return f"the sign of {name}"
    return f"the gain of {name}: {gain:.6g} times the expected" + (", opposite sign" if gain < 0 else "")


def _agreement(
    row: Equation,
    records: Sequence[Record],
    got: Sequence[Sequence[np.ndarray]],
    want: Sequence[Sequence[np.ndarray]],
    dtype: str,
    scaled: bool,
    region: _Region,
) -> list[float] | None:
    """The gain of each component (1 unless `scaled`) if all agree in the region, else None."""
    gains = []
    for i in range(len(got[0])):
        if any(g[i].shape != w[i].shape for g, w in zip(got, want, strict=True)):  # another variant's
            return None
        parts: Iterable[_Part] = _parts(i, records, got, want, region)  # one at a time: the first may settle it
        gain, left = 1.0, 0
        if scaled and want[0][i].dtype == np.float64:
            parts = list(parts)
            gain = _fitted_gain(parts, TOLERANCE[dtype][0])
            if gain == 0:
                return None
        for g, w, unit in parts:
            if not compare(g / gain, w, *forward_tolerance(row, dtype, unit)).ok:
                return None
            left += w.size
        if left < 8:
            return None  # too little to say anything
        gains.append(gain)
    return gains


def _parts(
    i: int,
    records: Sequence[Record],
    got: Sequence[Sequence[np.ndarray]],
    want: Sequence[Sequence[np.ndarray]],
    region: _Region,
) -> Iterator[_Part]:
    """Of component i in each case, the values in the region."""
    for record, g, w in zip(records, got, want, strict=True):
        mask = np.broadcast_to(region(record), w[i].shape)
        yield g[i][mask], w[i][mask], record.units[i if len(record.units) > 1 else 0]


def _fitted_gain(parts: Sequence[_Part], relative: float) -> float:
    """The factor k of got = k want in the least squares sense; 0 where there is none."""
    g, w = (np.concatenate([part[k] / part[2] for part in parts]) for k in (0, 1))
    # An infinity has no factor; whether it is in its place, the comparison says.
    finite = np.isfinite(g) & np.isfinite(w)
    match, power = float(g[finite] @ w[finite]), float(w[finite] @ w[finite])
    if not np.isfinite(match) or abs(match) <= 1e-6 * power:
        return 0.0
    gain = match / power
    short = round(gain, 6)  # a constant that somebody wrote down, if it fits
    if short == 1:
        return float(abs(gain - 1) <= relative)  # 1 and a little is no gain but a lack of precision
    return short if abs(short - gain) <= relative * abs(gain) else gain


def _closest(row: Equation, records: Sequence[Record]) -> str:
    """The variant with the smallest worst error, in units of the values' magnitude."""
    errors = []
    for variant in row.variants:
        worst = 0.0
        for record in records:
            wants = as_outputs(row.reference(**record.arrays, **variant))
            for g, w, unit in zip(record.got, wants, record.units, strict=True):
                distance = compare(g, w, 0.0, unit).error / unit if g.shape == w.shape else np.inf
                worst = max(worst, distance)
        errors.append((worst, ", ".join(f"{k}={v!r}" for k, v in variant.items()) or "the equation"))
    worst, name = min(errors)
    return f"Closest is {name}, off by up to {worst:.2g} times the values' scale"
