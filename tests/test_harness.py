"""The harness rejects planted defects: what it cannot see, no test that uses it can."""

import functools
import pickle
from dataclasses import replace

import numpy as np
import pytest
from generated import each_row, each_variant

from motionspec.cli.cases import DEFAULT_CASES, DTYPES, apart, case, exact_case, is_large, is_smooth, rounded
from motionspec.cli.check import judge
from motionspec.cli.compare import TOLERANCE, Precision, as_outputs, compare, directional, ulp
from motionspec.cli.runner import Runner
from motionspec.refimpl import costvol, warp
from motionspec.refimpl.equations import EQUATIONS

HERE = Runner(timeout=None)


def verdicts(function, equation, **options):
    return judge(function, equation, HERE, **options)


# -- the comparison ----------------------------------------------------------------------------------------------------

WANT = np.linspace(-1, 1, 120).reshape(2, 3, 4, 5)


def test_compare_accepts_the_same_values_and_rounding():
    assert compare(WANT, WANT, 0, 0).ok
    assert compare(WANT * (1 + 1e-15), WANT, 1e-14, 0).ok


@pytest.mark.parametrize("value", [1e-9, np.nan, np.inf, -np.inf])
def test_compare_names_one_wrong_pixel(value):
    got = WANT.copy()
    got[1, 2, 0, 3] += value
    result = compare(got, WANT, 1e-12, 1e-12)
    assert not result.ok
    assert result.first == result.index == (1, 2, 0, 3)
    assert result.wrong == 1


def test_compare_tells_the_first_from_the_worst():
    got = WANT.copy()
    got[0, 0, 0, 1] += 1e-9
    got[1, 0, 0, 0] += 1e-3
    result = compare(got, WANT, 1e-12, 1e-12)
    assert (result.first, result.index, result.wrong) == ((0, 0, 0, 1), (1, 0, 0, 0), 2)
    assert result.error == pytest.approx(1e-3)


def test_compare_does_not_broadcast():
    with pytest.raises(ValueError, match="shapes differ"):
        compare(WANT[:1], WANT, 1, 1)
    with pytest.raises(ValueError, match="shapes differ"):
        compare(np.float64(0.0) * WANT[0], WANT, 1, 1)


def test_compare_takes_nan_and_infinity_only_where_they_belong():
    want = np.array([np.nan, np.inf, -np.inf, 1.0])
    assert compare(want, want, 0, 0).ok
    for i, wrong in enumerate([0.0, -np.inf, np.nan, np.nan]):
        got = want.copy()
        got[i] = wrong
        assert compare(got, want, 1, 1).first == (i,)


def test_tolerance_does_not_grow_with_the_array_or_its_largest_value():
    want = np.zeros(10**6)
    want[0] = 1e6
    got = want.copy()
    got[-1] = 1e-5
    assert not compare(got, want, *TOLERANCE["float32"]).ok


def test_tolerances_are_below_what_the_next_coarser_type_can_do():
    """Half precision inside a float32 operator must show: its rounding is larger than the tolerance."""
    unit = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
    assert TOLERANCE["float64"][0] < unit["float32"]
    assert TOLERANCE["float32"][0] < unit["float16"] / 100
    for half in ("float16", "bfloat16"):
        assert unit[half] < TOLERANCE[half][0] < 1.02 * unit[half]


def test_ulp_is_the_spacing_of_a_type():
    values = np.concatenate(
        [np.random.default_rng(0).normal(size=200) * 2.0 ** np.arange(-100, 100), 2.0 ** np.arange(9)]
    )
    for dtype in ("float64", "float32"):
        held = np.abs(values.astype(dtype))
        np.testing.assert_array_equal(ulp(held.astype(float), dtype), np.spacing(held).astype(float))
    small = np.float16([1e-7, 6e-5, 6.2e-5, 1, 1.5, 2, 1000, 65000])  # the first two are subnormal
    np.testing.assert_array_equal(ulp(small.astype(float), "float16"), np.spacing(small).astype(float))
    np.testing.assert_array_equal(
        ulp(np.array([-1.0, 1.99, 2.0, 2.0**-140]), "bfloat16"), 2.0 ** np.array([-7, -7, -6, -133])
    )
    assert ulp(np.zeros(()), "float32") == 2.0**-149


def test_precision_is_that_of_the_worst_element():
    want = np.array([4.0, 0.001, 0.0, np.inf, np.nan])
    exact = Precision()
    exact.fold(want, want, "float32", 1.0)
    assert exact == Precision(values=5, zeros=1)  # infinity and NaN are values as others are
    off = Precision()
    off.fold(want + np.array([2e-6, -1e-6, 3e-6, 0, 0]), want, "float32", 1.0)
    assert off.per_unit == pytest.approx(3e-6)  # at the 0, which has neither a relative error nor an ulp
    assert off.relative == pytest.approx(1e-3)
    wrong = Precision()
    wrong.fold(np.array([0.81]), np.array([0.0]), "float64", 1.0, 1e-12)
    assert wrong.relative == wrong.ulp == np.inf  # not 0, as if nothing were wrong there
    assert off.ulp == pytest.approx(1e-6 / 2.0**-33, rel=1e-6)
    assert off.ulp_of_unit == pytest.approx(3e-6 / 2.0**-23, rel=1e-6)
    tiny = Precision()
    tiny.fold(want * 2.0**-10 + np.array([2e-6, 0, 0, 0, 0]), want * 2.0**-10, "float32", 2.0**-10)
    assert tiny.per_unit == pytest.approx(2e-6 * 2**10)  # per unit
    assert tiny.ulp_of_unit == tiny.ulp == pytest.approx(2e-6 / 2.0**-31)
    noise = Precision()
    noise.fold(np.array([0.0, 1.0]), np.array([1e-17, 1.0]), "float32", 1.0)  # 0, but for the oracle's own rounding
    assert noise == Precision(per_unit=1e-17, ulp_of_unit=1e-17 * 2**23, values=2, zeros=1)
    lost = Precision()
    lost.fold(np.array([np.nan, 1.0]), np.array([1.0, np.inf]), "float32", 1.0)
    assert lost == Precision(np.inf, np.inf, np.inf, np.inf, values=2)


# -- inputs ------------------------------------------------------------------------------------------------------------


def test_cases_are_the_same_bytes_for_a_seed_and_others_for_another():
    first, again, other = (case("warp.bilinear", 6, seed=s) for s in (0, 0, 1))
    assert all(first[k].tobytes() == again[k].tobytes() for k in first)
    assert all(first[k].tobytes() != other[k].tobytes() for k in first)
    # Fixed for good: golden vectors rest on it.
    assert [v.hex() for v in case("off.cross_gradient", 0)["f"].ravel()[:1]] == ["0x1.58c42918f105ep-1"]


def test_apart_keeps_the_order_and_the_range():
    values = np.random.default_rng(0).uniform(-1, 1, size=(2, 3, 4, 5)).round(1)  # with equal ones
    got = apart(values, 3).reshape(2, 60)
    order = np.argsort(values.reshape(2, 60), kind="stable")
    steps = np.diff(np.take_along_axis(got, order, 1))
    assert (steps >= 2 / 60 - 1e-15).all() and np.abs(got).max() <= 1


@pytest.mark.parametrize("dtype", DTYPES)
@each_row()
def test_cases_hold_values_of_their_dtype_and_keep_away_from_kinks(row, dtype):
    for k in range(12):
        for name, array in exact_case(row.id, k, dtype=dtype).items():
            assert np.isfinite(array).all()
            np.testing.assert_array_equal(array, rounded(array, dtype))
            if name == "flow" and is_smooth(k):
                assert (np.abs(array - np.round(array)) > 0.9e-3).all()
            if name in ("boxes", "anchors", "rois"):
                sides = array[:, -2:] - array[:, -4:-2]
                assert (sides >= 0.2).all() or not is_smooth(k)
                assert (array == np.round(2 * array) / 2).all() or is_smooth(k)
                assert (sides >= 0).all() and (is_large(k) or ((array[:, -4:] >= -3).all() and (array <= 15).all()))
            if name == "flow" and not is_smooth(k) and array.size > 20:
                assert (array == np.round(array)).any()  # the lattice holds the kinks
            if name == "c":
                windows = np.sort(array.reshape(*array.shape[:-2], -1))
                assert (np.abs(array) <= 1).all()
                assert (np.diff(windows) > 1e-2).all() or not is_smooth(k)
                assert (np.diff(windows) == 0).any() or is_smooth(k) or array.size < 20  # the lattice holds ties


def test_rounding_to_bfloat16_is_torch_s():
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).normal(size=1000) * 2.0 ** np.arange(-100, 100).repeat(5)
    ties = 1 + np.arange(64) * 2.0**-8
    values = np.concatenate([values, ties, -ties, [0.0, -0.0]])
    want = torch.tensor(values).float().bfloat16().double().numpy()
    np.testing.assert_array_equal(rounded(values, "bfloat16"), want)
    assert rounded(np.array(1 / 3), "bfloat16").shape == ()


# -- planted defects, in each row --------------------------------------------------------------------------------------


@each_variant()
def test_the_reference_agrees_with_itself(row, variant):
    (verdict,) = verdicts(lambda *args: row.reference(*args, **variant), row.id, variant=variant)
    assert verdict.ok, verdict
    assert verdict.cases == DEFAULT_CASES
    assert verdict.error == 0


def once(function):
    """Computes each input once. What it returns cannot be written to."""

    @functools.lru_cache(512)
    def compute(pickled):
        args, options = pickle.loads(pickled)
        result = function(*args, **options)
        for array in as_outputs(result):
            np.asarray(array).flags.writeable = False
        return result

    return functools.wraps(function)(lambda *args, **options: compute(pickle.dumps((args, options))))


@pytest.fixture(scope="module")
def remembering():
    """The rows with an oracle and with mistakes that compute each input once, however many defects are judged on it."""
    return {
        name: replace(row, reference=once(row.reference), mutants=tuple((label, once(f)) for label, f in row.mutants))
        for name, row in EQUATIONS.items()
    }


@pytest.fixture
def oracle_once(monkeypatch, remembering):
    for name, row in remembering.items():
        monkeypatch.setitem(EQUATIONS, name, row)


def applies(row, variant, defect):
    """Rows and columns can be confused where there are some; a decision, unlike a loss, may survive coarser inputs."""
    if defect in ("transposed", "broadcast"):
        return as_outputs(row.reference(**exact_case(row.id, 0), **variant))[0].ndim > 1
    return defect != "half" or bool(row.differentiable)


def halved(argument):
    """Rounded to float16, in a list too; a mask or label as it is."""
    if isinstance(argument, list):
        return [halved(a) for a in argument]
    return argument.astype(np.float16).astype(np.float64) if argument.dtype == np.float64 else argument


DEFECTS = ("pixel", "nan", "transposed", "broadcast", "half", "shape", "count", "dtype")
PLANTED = [
    (row, dict(variant), defect)
    for row in EQUATIONS.values()
    for variant in row.variants
    for defect in DEFECTS  # one after the other of a row: what the oracle says of it is remembered
    if applies(row, variant, defect)
]


@pytest.mark.usefixtures("oracle_once")
@pytest.mark.parametrize(
    "row, variant, defect", PLANTED, ids=["-".join([r.id, *map(str, v.values()), d]) for r, v, d in PLANTED]
)
def test_planted_defects_are_rejected(row, variant, defect):
    row = EQUATIONS[row.id]

    def wrong(*args):
        result = row.reference(*args, **variant)
        first, *rest = as_outputs(result)
        if defect == "pixel":
            first = first.copy()
            first.flat[first.size // 2] += 1e-6
        elif defect == "nan":
            first = first.copy()
            first.flat[-1] = np.nan
        elif defect == "transposed" and first.shape[-1] == first.shape[-2]:
            first = first.swapaxes(-1, -2)
        elif defect == "transposed":  # of the right shape, in the wrong order
            first = first.swapaxes(-1, -2).reshape(first.shape)
        elif defect == "broadcast":  # one row for all
            first = np.broadcast_to(first[..., :1, :], first.shape).copy()
        elif defect == "half":
            halves = [halved(a) for a in args]
            first = as_outputs(row.reference(*halves, **variant))[0]
        elif defect == "shape":
            first = first[..., None]
        elif defect == "count":
            return (*as_outputs(result), first)
        elif defect == "dtype":
            first = first.astype(np.float32)
        return (first, *rest) if rest else first

    (verdict,) = verdicts(wrong, row.id, variant=variant)
    kind = {"nan": "returns NaN", "shape": "wrong shape", "count": "wrong shape", "dtype": "wrong dtype"}
    assert verdict.kind == kind.get(defect, "differs")
    assert verdict.failure is not None


MUTANTS = [(row, label, mutant) for row in EQUATIONS.values() for label, mutant in row.mutants]


@pytest.mark.usefixtures("oracle_once")
@pytest.mark.parametrize("row, label, mutant", MUTANTS, ids=[f"{row.id}: {label}" for row, label, _ in MUTANTS])
def test_plausible_mistakes_are_rejected(row, label, mutant):
    for verdict in verdicts(mutant, row.id):
        assert verdict.kind == ("returns NaN" if label.startswith("NaN") else "differs"), verdict
        assert verdict.cases == DEFAULT_CASES, "the mistake does not run on all cases"
        assert "nothing tried explains it" not in verdict.note


@pytest.mark.parametrize("radius", [(1, 2), "(1, 2)"], ids=["value", "text"])
def test_a_variant_is_found_by_its_value_or_its_text(radius):
    """Text is what the command line has."""
    (verdict,) = verdicts(
        lambda f0, f1: costvol.cosine(f0, f1, radius=(1, 2)), "costvol.cosine", variant={"radius": radius}
    )
    assert verdict.ok and verdict.variant == {"radius": (1, 2), "border": "zero"}


def test_explanation_passes_over_variants_of_another_shape_and_takes_infinities_in_their_place():
    def wrong(f0, f1):
        return costvol.cosine(f0, f1, radius=1, border="exclude")

    (verdict,) = verdicts(wrong, "costvol.cosine")
    assert verdict.note == "what differs: the variant: this is radius=1, border='exclude'"
    (verdict,) = verdicts(lambda f0, f1: 2 * wrong(f0, f1), "costvol.cosine", variant={"border": "exclude"})
    assert verdict.note == "what differs: the gain of C: 2 times the expected"
    (verdict,) = verdicts(lambda f0, f1: np.arcsin(costvol.cosine(f0, f1, radius=1).clip(-1, 1)), "costvol.cosine")
    assert "Closest is radius=" not in verdict.note or "radius=1, border=" in verdict.note  # never of another shape


def test_every_row_has_a_mutant():
    assert all(row.mutants for row in EQUATIONS.values())


# -- planted defects in gradients --------------------------------------------------------------------------------------

GRADIENT_DEFECTS = {
    "sound": lambda x, flow: (x, flow),
    "cut": lambda x, flow: (x, flow.detach()),
    "scaled": lambda x, flow: (x, 1.001 * flow - 0.001 * flow.detach()),
    "zero": lambda x, flow: (x, flow.detach() + 0.0 * flow),
    "flipped": lambda x, flow: (2 * x.detach() - x, flow),
}


@pytest.mark.parametrize("defect", GRADIENT_DEFECTS)
def test_wrong_gradients_are_rejected(defect):
    """The value stays right: only the comparison with the reference's central differences can see these."""
    torch = pytest.importorskip("torch")
    from motionspec.ops import warp as op

    def wrong(x, flow):
        return op.bilinear(*GRADIENT_DEFECTS[defect](x, flow))

    found = {v.checked: v for v in verdicts(wrong, "warp.bilinear", framework="torch", grad=True, cases=20)}
    assert found["value"].ok
    expected = {
        "sound": ("agrees", "agrees"),
        "cut": ("agrees", "no gradient"),
        "scaled": ("agrees", "differs"),
        "zero": ("agrees", "differs"),
        "flipped": ("differs", "agrees"),
    }[defect]
    assert (found["gradient of x"].kind, found["gradient of flow"].kind) == expected
    assert torch.is_grad_enabled()


def test_central_differences_take_infinity_for_a_constant():
    row = EQUATIONS["costvol.cosine"]
    arrays, variant = exact_case(row.id, 0), {"radius": 1, "border": "exclude"}
    want = row.reference(**arrays, **variant)
    assert np.isinf(want).any()
    slope = directional(row, variant, arrays, "f0", arrays["f1"], [np.ones_like(want)], 1e-7)
    inside = np.where(np.isinf(want), 0.0, 1.0)
    zero = directional(row, variant | {"border": "zero"}, arrays, "f0", arrays["f1"], [inside], 1e-7)
    assert slope == zero != 0


def test_central_differences_of_the_reference_see_a_flipped_sign():
    row = EQUATIONS["warp.bilinear"]
    arrays = exact_case(row.id, 0)
    direction = np.zeros_like(arrays["flow"])
    direction[0, 0, 3, 2] = 1.0
    weights = [np.ones_like(arrays["x"])]
    slope = directional(row, {}, arrays, "flow", direction, weights, 1e-7)
    ahead = warp.bilinear(arrays["x"], arrays["flow"] + 1e-4 * direction).sum()
    here = warp.bilinear(arrays["x"], arrays["flow"]).sum()
    assert slope != 0
    assert (ahead - here) / 1e-4 == pytest.approx(slope, rel=1e-6)
