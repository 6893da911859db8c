"""Says what differs between a callable and an equation, in terms of the conventions that people choose differently."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from motionspec.cli.compare import TOLERANCE, as_outputs, compare, forward_tolerance
from motionspec.refimpl.equations import Equation


@dataclass(frozen=True)
class Record:
    """One case with what came back: inputs, magnitude of each output, outputs."""

    arrays: dict[str, np.ndarray]
    units: list[float]
    got: list[np.ndarray]


# What a hypothesis costs: the cheapest combination that agrees is named. A border rule is assumed only where no variant
# will do, a lack of precision last of all.
_ONE, _SIDES, _BORDER, _PRECISION = 2, 3, 6, 20

_Inputs = dict[str, np.ndarray]


def explain(row: Equation, variant: Mapping[str, Any], records: Sequence[Record], dtype: str) -> str:
    """One line that names the cheapest combination of changed conventions under which the outputs agree.

    Tried are other variants, the flow's sign and order, the order, signs and gains of the components, sides of length
    1, the interior alone, and coarser precisions. If nothing agrees, it says which variant is closest.
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
    variants = [(0, "", dict(variant))]
    for other in row.variants:
        if dict(other) != dict(variant):
            says = ", ".join(f"{k}={v!r}" for k, v in other.items())
            variants.append((_ONE, f"the variant: this is {says}", dict(other)))
    orders = [(0, "", straight)]
    for order in permuted:
        says = ", ".join(names[i] for i in order)
        orders.append((_ONE, f"the order of the components: this is ({says})", order))
    gains = [(0, "", False), (_ONE, "", True)]
    regions = [(0, "", _everywhere), (_SIDES, "sides of length 1 (all else agrees)", _sides_above_one)]
    if row.interior:
        regions.append((_BORDER, "the border rule (the interior agrees)", row.interior))

    wants: dict[tuple[str, str], list[list[np.ndarray]]] = {}
    hypotheses = itertools.product(precisions, variants, _conventions(row), orders, gains, regions)
    for precision, other, convention, order, gain, region in sorted(
        hypotheses, key=lambda h: sum(part[0] for part in h)
    ):
        key = (other[1], convention[1])
        if key not in wants:
            wants[key] = [
                _components(row, as_outputs(row.reference(**convention[2](r.arrays), **other[2]))) for r in records
            ]
        ordered = [[want[i] for i in order[2]] for want in wants[key]]
        found = _agreement(row, records, got, ordered, precision[2], gain[2], region[2])
        if found is not None:
            changed = [part[1] for part in (precision, other, convention, order)]
            changed += [_gain(names[order[2][i]], value) for i, value in enumerate(found) if value != 1.0]
            return "what differs: " + "; ".join(filter(None, [*changed, region[1]]))
    if sum(component.size for parts in got for component in parts) < 40:
        return "what differs: too few values to tell; judge more cases"
    return "what differs: nothing tried explains it. " + _closest(row, records)


def _conventions(row: Equation) -> list[tuple[int, str, Callable[[_Inputs], _Inputs]]]:
    """What other people mean by the same flow."""
    found: list[tuple[int, str, Callable[[_Inputs], _Inputs]]] = [(0, "", lambda a: a)]
    if "flow" in row.differentiable:
        found += [
            (_ONE, "the flow has the opposite sign", lambda a: a | {"flow": -a["flow"]}),
            (_ONE, "u and v of the flow are swapped", lambda a: a | {"flow": a["flow"][:, ::-1]}),
            (2 * _ONE, "u and v of the flow are swapped, opposite sign", lambda a: a | {"flow": -a["flow"][:, ::-1]}),
        ]
    return found


def _everywhere(**arrays: np.ndarray) -> np.ndarray:
    return np.array(True)


def _sides_above_one(**arrays: np.ndarray) -> np.ndarray:
    return np.array(1 not in next(iter(arrays.values())).shape[-2:])


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
    region: Callable[..., np.ndarray],
) -> list[float] | None:
    """The gain of each component (1 unless `scaled`) if all agree in the region, else None."""
    gains = []
    for i in range(len(got[0])):
        parts = []
        for record, g, w in zip(records, got, want, strict=True):
            if g[i].shape != w[i].shape:  # another variant's
                return None
            mask = np.broadcast_to(region(**record.arrays), w[i].shape)
            parts.append((g[i][mask], w[i][mask], record.units[i if len(record.units) > 1 else 0]))
        if sum(w.size for _, w, _ in parts) < 8:
            return None  # too little left to say anything
        gain = _fitted_gain(parts, TOLERANCE[dtype][0]) if scaled and want[0][i].dtype == np.float64 else 1.0
        if gain == 0:
            return None
        if not all(compare(g / gain, w, *forward_tolerance(row, dtype, unit)).ok for g, w, unit in parts):
            return None
        gains.append(gain)
    return gains


def _fitted_gain(parts: Sequence[tuple[np.ndarray, np.ndarray, float]], relative: float) -> float:
    """The factor k of got = k want in the least squares sense; 0 where there is none."""
    # An infinity has no factor; whether it is in its place, the comparison says.
    both = [(g, w, unit, np.isfinite(g) & np.isfinite(w)) for g, w, unit in parts]
    finite = [(g[mask], w[mask], unit) for g, w, unit, mask in both]
    match = sum(float(np.sum(g / unit * (w / unit))) for g, w, unit in finite)
    power = sum(float(np.sum((w / unit) ** 2)) for _, w, unit in finite)
    if not np.isfinite(match) or abs(match) <= 1e-6 * power:
        return 0.0
    gain = match / power
    short = round(gain, 6)  # a constant that somebody wrote down, if it fits
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
