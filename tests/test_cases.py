"""The judge's choice of cases: what mistakes of size, in values and in gradients, it is able to see."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from generated import each_row, operator

import motionspec
from motionspec.cli import cases
from motionspec.cli.check import Judge, judge, variants_to_judge
from motionspec.cli.main import main
from motionspec.cli.runner import CannotRun, Runner
from motionspec.cli.vectors import Case, _hold_gradients, part_of
from motionspec.refimpl import costvol, warp
from motionspec.refimpl.equations import EQUATIONS
from motionspec.refimpl.row import arguments

DEFAULT = range(48)  # the numbers that `motionspec check` asks without --cases


def sizes_of(row, numbers, wanted=lambda k: True, seed=0):
    """The sizes of the cases that are wanted, as tuples in the order of the row's dims."""
    return {tuple(cases.sizes(row, k, seed).values()) for k in numbers if wanted(k)}


# -- the plan ----------------------------------------------------------------------------------------------------------


@each_row()
def test_every_small_size_comes_off_the_lattice_and_on_it(row):
    small = [k for k in DEFAULT if not cases.is_large(k)]
    every = sizes_of(row, small)
    assert sizes_of(row, small, cases.is_smooth) == every
    assert sizes_of(row, small, lambda k: not cases.is_smooth(k)) == every


@each_row()
def test_every_kind_of_large_size_comes_off_the_lattice_and_on_it(row):
    large = [k for k in DEFAULT if cases.is_large(k)]
    for smooth in (True, False):
        found = [cases.sizes(row, k, 0) for k in large if cases.is_smooth(k) == smooth]
        for dim in row.dims:
            most = max(size for table in cases.TABLES for size in [entry[dim] for entry in table])
            assert max(sizes[dim] for sizes in found) > most, (dim, found)


@pytest.mark.parametrize("start", [0, 1, 77, 1000])
def test_any_run_of_cases_has_each_combination_of_size_smoothness_and_scale(start):
    row = EQUATIONS["warp.bilinear"]
    run = [k for k in range(start, start + 144) if not cases.is_large(k)]
    found = {(*cases.sizes(row, k, 0).values(), cases.is_smooth(k), cases.scale(k)) for k in run}
    assert len(found) == len(sizes_of(row, run)) * 2 * len(cases.SCALES)
    assert len(sizes_of(row, run)) == 20


def test_half_types_get_gradients_of_every_size():
    """In half precision values far from 1 leave the range of a gradient, so smooth cases are of magnitude 1 there."""
    for dtype, k in itertools.product(cases.HALF, DEFAULT):
        assert cases.scale(k, dtype) == 1 or not cases.is_smooth(k)
    assert {cases.scale(k, "float16") for k in DEFAULT} == set(cases.SCALES)


def test_one_of_each_combination_of_sides_of_one_is_small():
    """Mistakes of code that squeezes: N, C, H and W of 1 and above 1, all sixteen combinations."""
    row = EQUATIONS["warp.bilinear"]
    found = {
        tuple(size > 1 for size in sizes) for sizes in sizes_of(row, [k for k in DEFAULT if not cases.is_large(k)])
    }
    assert len(found) == 16


@each_row()
def test_large_sizes_are_drawn_from_the_seed_within_a_bound(row):
    large = [k for k in range(240) if cases.is_large(k)]
    for seed in (0, 1, 2**80):
        for k in large:
            arrays = cases.exact_case(row.id, k, seed=seed)
            # The channels of `pool3d.temporal_shift` come in eights.
            most = cases.BOUND / row.cost * (4 if row.id == "pool3d.temporal_shift" else 1)
            assert sum(array.size for array in arrays.values()) <= most, cases.sizes(row, k, seed)
            row.reference(**arguments(arrays), **row.variants[-1])
    if "W" in row.dims or "N" in row.dims:
        assert sizes_of(row, large, seed=0) != sizes_of(row, large, seed=1)


@each_row()
def test_the_first_case_tells_something(row):
    """Whoever asks for one case gets several samples, channels and pixels, and values other than 0."""
    assert cases.is_smooth(0) and cases.scale(0) == 1
    for variant in row.variants:
        wants = row.reference(**arguments(cases.exact_case(row.id, 0)), **variant)
        assert cases.tells(wants if isinstance(wants, tuple) else [wants])


# -- planted mistakes of size ------------------------------------------------------------------------------------------


def doubled(row, where):
    """The row's operator, its gradients doubled for inputs of the sizes where `where` holds."""
    right = operator(row)

    def wrong(*args, **options):
        if where(args):
            args = [a + (a - a.detach()) if getattr(a, "requires_grad", False) else a for a in args]
        return right(*args, **options)

    return wrong


def zeroed(row, where):
    """The row's operator; zeros for inputs of the sizes where `where` holds."""
    right = operator(row)

    def wrong(*args, **options):
        found = right(*args, **options)
        if not where(args):
            return found
        return tuple(f * 0 for f in found) if isinstance(found, tuple) else found * 0

    return wrong


def shape(args):
    return tuple(args[0].shape)


MAPS = {
    "W > 6": lambda N, C, H, W: W > 6,
    "H > 6": lambda N, C, H, W: H > 6,
    "1 x W": lambda N, C, H, W: H == 1 and W > 1,
    "H x 1": lambda N, C, H, W: W == 1 and H > 1,
    "1 x 1": lambda N, C, H, W: H == W == 1,
    "N = 2 and C < 3": lambda N, C, H, W: N == 2 and C < 3,
    "N = 2 and C = 1 and W odd": lambda N, C, H, W: N == 2 and C == 1 and W % 2,
    "H = 1 and N > 1": lambda N, C, H, W: H == 1 and N > 1,
    "H = 1 and C > 1": lambda N, C, H, W: H == 1 and C > 1,
    "W = 1 and N > 1": lambda N, C, H, W: W == 1 and N > 1,
    "N = 1 and C = 3": lambda N, C, H, W: N == 1 and C == 3,
    "C = 2": lambda N, C, H, W: C == 2,
    "H even, W even": lambda N, C, H, W: H % 2 == W % 2 == 0,
    "H odd, W even": lambda N, C, H, W: H % 2 and W % 2 == 0,
    "H > W": lambda N, C, H, W: H > W > 1,
    "beyond 9 x 11": lambda N, C, H, W: H > 9 and W > 11,
    "C > 3": lambda N, C, H, W: C > 3,
    "N > 2": lambda N, C, H, W: N > 2,
    "all beyond": lambda N, C, H, W: N > 2 and C > 3 and H > 9 and W > 11,
    "C > 64": lambda N, C, H, W: C > 64,
    "H > 32": lambda N, C, H, W: H > 32,
    "W > 128": lambda N, C, H, W: W > 128,
    "W > 256": lambda N, C, H, W: W > 256,
    "H > 32 and W > 128": lambda N, C, H, W: H > 32 and W > 128,
}
each_size = pytest.mark.parametrize("where", MAPS.values(), ids=MAPS)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@each_size
def test_a_gradient_that_is_wrong_for_some_sizes_differs(where, dtype):
    pytest.importorskip("torch")
    wrong = doubled(EQUATIONS["warp.bilinear"], lambda args: where(*shape(args)))
    blend = {"outside": "blend"}  # a single pixel has a gradient too
    found = verdicts(wrong, "warp.bilinear", framework="torch", grad=True, dtypes=[dtype], variant=blend)
    assert [v.kind for v in found] == ["agrees", "differs", "differs"]


# Of a single pixel with zeros around it the derivative is 0: zeros are no mistake there.
NO_MISTAKE = [("off.spatial_gradient", "1 x 1")]


@pytest.mark.parametrize("equation", ["warp.bilinear", "costvol.cosine", "tvl1.divergence", "off.spatial_gradient"])
@pytest.mark.parametrize("size", MAPS)
def test_a_value_that_is_wrong_for_some_sizes_differs(size, equation):
    row, where = EQUATIONS[equation], MAPS[size]

    def wrong(*args):
        found = row.reference(*args, **row.variants[0])
        factor = 1 - bool(where(*args[0].shape))
        return tuple(f * factor for f in found) if isinstance(found, tuple) else found * factor

    (verdict,) = verdicts(wrong, equation)
    assert verdict.kind == ("agrees" if (equation, size) in NO_MISTAKE else "differs")


OTHERS = {
    "a fifth frame": ("off.clip_features", lambda clip: clip.shape[2] > 4),
    "a fifth frame of a pool": ("pool3d.late", lambda clip: clip.shape[2] > 4),
    "many samples": ("metrics.mean_class_accuracy", lambda scores, label: len(scores) > 64),
    "many classes": ("metrics.top_k", lambda scores, label: scores.shape[1] > 100),
    "many classes of a loss": ("losses.cross_entropy", lambda scores, label: scores.shape[1] > 100),
    "many samples of a loss": ("losses.cross_entropy", lambda scores, label: len(scores) > 128),
    "many boxes": ("detection.encode_boxes", lambda boxes, anchors: len(boxes) > 128),
    "many regions": ("detection.ps_roi_pool", lambda x, rois: len(rois) > 128),
    "regions far from the corner": ("detection.ps_roi_pool", lambda x, rois: (rois[:, 1:] > 64).any()),
    "a large window": ("costvol.marginals", lambda c: c.shape[-1] > 7),
    "many input channels": ("layers.convolution", lambda x, weight: x.shape[1] > 64),
    "many features": ("layers.linear", lambda x, weight: x.shape[1] > 64),
}


@pytest.mark.parametrize("equation, where", OTHERS.values(), ids=OTHERS)
def test_other_large_sizes_are_seen(equation, where):
    pytest.importorskip("torch")
    row = EQUATIONS[equation]
    variant = row.variants[0]
    (verdict,) = verdicts(
        lambda *args: zeroed(row, lambda args: where(*args))(*args, **variant),
        equation,
        framework="torch",
        variant=variant,
    )
    assert verdict.kind == "differs"
    if row.differentiable:
        wrong = doubled(row, lambda args: where(*args))
        found = verdicts(lambda *args: wrong(*args, **variant), equation, framework="torch", variant=variant, grad=True)
        judged = [name for name in row.differentiable if name not in row.keyword]
        assert [v.kind for v in found] == ["agrees", *["differs"] * len(judged)]


def test_channels_beyond_64_and_a_seam_at_64_pixels_are_seen():
    torch = pytest.importorskip("torch")

    def drops(x, flow):
        kept = torch.arange(x.shape[1]).lt(64)[:, None, None]
        return operator(EQUATIONS["warp.bilinear"])(x, flow) * kept

    def seam(x, flow):
        kept = torch.arange(x.shape[-1]).ne(64)
        return operator(EQUATIONS["warp.bilinear"])(x, flow) * kept

    for wrong in (drops, seam):
        found = verdicts(wrong, "warp.bilinear", framework="torch", grad=True)
        assert [v.kind for v in found] == ["differs"] * 3


def verdicts(function, equation, **options):
    """As the command asks with its defaults, but in this process."""
    return judge(function, equation, Runner(None), **options)


# -- cases that tell nothing -------------------------------------------------------------------------------------------


@each_row()
@pytest.mark.parametrize("number", [1, 2, 3])
def test_zeros_never_agree(row, number):
    """However few cases are asked for."""
    for variant in row.variants:
        kinds = {v.kind for v in verdicts(_zeros(row, variant), row.id, variant=variant, cases=number)}
        assert "agrees" not in kinds


def _zeros(row, variant):
    def zeros(*args):
        found = row.reference(*args, **variant)
        return tuple(np.zeros_like(f) for f in found) if isinstance(found, tuple) else np.zeros_like(found)

    return zeros


@pytest.fixture
def only_silent(monkeypatch):
    """Every input is zero, so that everything expected of `off.cross_gradient` is."""
    right = cases.exact_case
    for module in (cases, sys.modules["motionspec.cli.check"]):
        monkeypatch.setattr(
            module, "exact_case", lambda *a, **k: {name: array * 0 for name, array in right(*a, **k).items()}
        )


@pytest.mark.usefixtures("only_silent")
def test_where_all_that_is_expected_is_zero_nothing_is_told(tmp_path, capsys, monkeypatch):
    (tmp_path / "mine.py").write_text("from motionspec.refimpl.off import cross_gradient as right\n")
    (verdict,) = verdicts(lambda f: f * 0, "off.cross_gradient", cases=7)
    assert (verdict.kind, verdict.ok, verdict.telling) == ("cannot tell", False, 0)
    assert "all that is expected of the 7 cases is 0" in verdict.note
    target = f"{tmp_path / 'mine.py'}:right"
    assert main(["check", "off.cross_gradient", "--impl", target, "--cases", "3"]) == 2
    assert "cannot tell" in capsys.readouterr().out


def test_a_gradient_of_zeros_agrees_only_where_the_equation_says_so():
    torch = pytest.importorskip("torch")

    class Flat(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, flow):
            return operator(EQUATIONS["warp.bilinear"])(x, flow)

        @staticmethod
        def backward(ctx, cotangent):
            return torch.zeros_like(cotangent), cotangent.new_zeros(len(cotangent), 2, *cotangent.shape[2:])

    for number in (1, 2, 3, 8):
        options = {"framework": "torch", "grad": True, "cases": number}
        found = verdicts(Flat.apply, "warp.bilinear", **options)
        assert "agrees" not in {v.kind for v in found[1:]}
        found = verdicts(operator(EQUATIONS["costvol.hard_displacement"]), "costvol.hard_displacement", **options)
        assert [v.kind for v in found] == ["agrees", "agrees"]


# -- variants that a callable can take ---------------------------------------------------------------------------------


def cosine(f0, f1, radius=1):
    """The radius is hard-wired."""
    return costvol.cosine(f0, f1, radius=1)


def test_all_variants_that_a_callable_takes_are_judged_and_the_others_named(capsys, tmp_path):
    found = verdicts(cosine, "costvol.cosine")
    assert [(v.variant["radius"], v.kind) for v in found] == [
        (1, "agrees"),
        ((1, 2), "wrong shape"),
        ((2, 1), "wrong shape"),
    ]
    assert {v.variant["border"] for v in found} == {"zero"}
    left_out = ["not judged: costvol.cosine border='exclude' (the callable does not take border)"]
    assert [line for v in found for line in v.not_judged] == left_out
    file = tmp_path / "mine.py"
    file.write_text(
        "from motionspec.refimpl import costvol\ndef cosine(f0, f1): return costvol.cosine(f0, f1, radius=1)\n"
    )
    assert main(["check", "costvol.cosine", "--impl", f"{file}:cosine", "--json", str(tmp_path / "out.json")]) == 0
    out = capsys.readouterr().out
    for name, value in (("radius", "(1, 2)"), ("radius", "(2, 1)"), ("border", "'exclude'")):
        assert f"not judged: costvol.cosine {name}={value} (the callable does not take {name})" in out
    assert (
        "not judged: costvol.cosine radius=(1, 2) (the callable does not take radius)"
        in (tmp_path / "out.json").read_text()
    )


def test_what_is_asked_for_by_name_is_not_named_again():
    (verdict,) = verdicts(
        lambda x, flow: warp.bilinear(x, flow, outside="blend"), "warp.bilinear", variant={"outside": "blend"}
    )
    assert verdict.ok and not verdict.not_judged


@each_row()
def test_every_mixture_of_variants_that_may_be_judged_can_be_computed(row):
    names = tuple(row.variants[0])
    for count in range(len(names) + 1):
        for taken in itertools.combinations(names, count):
            for variant in variants_to_judge(
                row.id, {}, lambda free, taken=taken: tuple(n for n in free if n in taken)
            ):
                assert all(variant[name] == row.variants[0][name] for name in names if name not in taken)
                for k in DEFAULT:
                    row.reference(**arguments(cases.exact_case(row.id, k)), **variant)


# -- numbers and seeds at their ends -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, -1, 10**6, 10**30])
def test_a_senseless_number_of_cases_is_one_line(number, capsys):
    with pytest.raises(CannotRun, match=r"cases: expected 1 to 100000, got"):
        verdicts(warp.bilinear, "warp.bilinear", cases=number)
    try:
        status = main(["check", "warp.bilinear", "--cases", str(number)])
    except SystemExit as end:
        status = end.code
    assert status == 2 and "cases" in capsys.readouterr().err


@pytest.mark.parametrize("seed", [0, 2**31, 2**64, 10**40])
def test_any_seed_from_zero_up_is_taken(seed):
    assert all(v.ok for v in verdicts(warp.bilinear, "warp.bilinear", cases=6, seed=seed))
    with pytest.raises(CannotRun, match="seed: expected"):
        verdicts(warp.bilinear, "warp.bilinear", cases=6, seed=-1 - seed)


@each_row()
def test_one_case_sees_a_mistake(row):
    for variant in row.variants:
        (verdict,) = verdicts(_shifted(row, variant), row.id, variant=variant, cases=1)
        assert verdict.kind == "differs" and verdict.cases == 1


def _shifted(row, variant):
    def shifted(*args):
        found = row.reference(*args, **variant)
        found = found if isinstance(found, tuple) else (found,)
        found = tuple(~f if f.dtype == bool else f + 0.125 * np.sign(f) for f in found)
        return found if len(found) > 1 else found[0]

    return shifted


# -- the arguments of the two calls ------------------------------------------------------------------------------------

BAD_CHECKS = {
    "swapped": (("warp.bilinear", warp.bilinear), {}, TypeError, "equation: expected the id of an equation"),
    "no callable": ((3, "warp.bilinear"), {}, TypeError, "fn: expected a callable"),
    "an id as callable": (("warp.bilinear", "warp.bilinear"), {}, ValueError, "fn: expected a callable"),
    "no id": ((warp.bilinear, 3), {}, TypeError, "equation: expected the id of an equation"),
    "unknown id": ((warp.bilinear, "warp.bilnear"), {}, ValueError, "Did you mean warp.bilinear?"),
    "framework": ((warp.bilinear, "warp.bilinear"), {"framework": "jax"}, ValueError, "framework: expected"),
    "framework type": ((warp.bilinear, "warp.bilinear"), {"framework": np}, TypeError, "framework: expected"),
    "dtype": ((warp.bilinear, "warp.bilinear"), {"dtype": "float8"}, ValueError, "dtype: expected"),
    "dtype type": ((warp.bilinear, "warp.bilinear"), {"dtype": np.float32}, TypeError, "dtype: expected"),
    "dtypes": ((warp.bilinear, "warp.bilinear"), {"dtype": ["float32", 3]}, TypeError, "dtype: expected"),
    "no dtypes": ((warp.bilinear, "warp.bilinear"), {"dtype": []}, ValueError, "dtype: expected"),
    "variant": (
        (warp.bilinear, "warp.bilinear"),
        {"variant": {"outside": "x"}},
        ValueError,
        "variant: expected one of",
    ),
    "variant type": ((warp.bilinear, "warp.bilinear"), {"variant": "blend"}, TypeError, "variant: expected a mapping"),
    "cases": ((warp.bilinear, "warp.bilinear"), {"cases": 0}, ValueError, "cases: expected"),
    "cases type": ((warp.bilinear, "warp.bilinear"), {"cases": 2.5}, TypeError, "cases: expected"),
    "cases bool": ((warp.bilinear, "warp.bilinear"), {"cases": True}, TypeError, "cases: expected"),
    "seed": ((warp.bilinear, "warp.bilinear"), {"seed": -1}, ValueError, "seed: expected"),
    "seed type": ((warp.bilinear, "warp.bilinear"), {"seed": "0"}, TypeError, "seed: expected"),
    "grad": ((warp.bilinear, "warp.bilinear"), {"grad": "yes"}, TypeError, "grad: expected"),
    "device": ((warp.bilinear, "warp.bilinear"), {"device": 0}, TypeError, "device: expected"),
    "timeout": ((warp.bilinear, "warp.bilinear"), {"timeout": -1}, ValueError, "timeout: expected"),
    "timeout type": ((warp.bilinear, "warp.bilinear"), {"timeout": "60"}, TypeError, "timeout: expected"),
}


@pytest.mark.parametrize("args, options, error, says", BAD_CHECKS.values(), ids=BAD_CHECKS)
def test_check_refuses_senseless_arguments_in_one_line(args, options, error, says):
    with pytest.raises(error) as caught:
        motionspec.check(*args, **options)
    assert str(caught.value).startswith("check: ") and says in str(caught.value)
    assert "\n" not in str(caught.value)


BAD_CASES = {
    "swapped": ((3, "warp.bilinear"), {}, TypeError, "equation: expected the id of an equation"),
    "unknown id": (("warp.bilnear", 3), {}, ValueError, "Did you mean warp.bilinear?"),
    "number type": (("warp.bilinear", 3.0), {}, TypeError, "k: expected"),
    "number bool": (("warp.bilinear", True), {}, TypeError, "k: expected"),
    "number": (("warp.bilinear", -1), {}, ValueError, "k: expected"),
    "huge number": (("warp.bilinear", 10**30), {}, ValueError, "k: expected"),
    "seed": (("warp.bilinear", 3), {"seed": -1}, ValueError, "seed: expected"),
    "seed type": (("warp.bilinear", 3), {"seed": None}, TypeError, "seed: expected"),
    "framework": (("warp.bilinear", 3), {"framework": "jax"}, ValueError, "framework: expected 'numpy' or 'torch'"),
    "dtype": (("warp.bilinear", 3), {"dtype": "float8"}, ValueError, "dtype: expected"),
    "dtype type": (("warp.bilinear", 3), {"dtype": np.float32}, TypeError, "dtype: expected"),
    "bfloat16": (("warp.bilinear", 3), {"dtype": "bfloat16"}, ValueError, "dtype: expected"),
    "device of NumPy": (("warp.bilinear", 3), {"device": "cuda"}, ValueError, "device: expected"),
    "device": (("warp.bilinear", 3), {"device": "abacus", "framework": "torch"}, ValueError, "device: expected"),
}


@pytest.mark.parametrize("args, options, error, says", BAD_CASES.values(), ids=BAD_CASES)
def test_case_refuses_senseless_arguments_in_one_line(args, options, error, says):
    with pytest.raises(error) as caught:
        motionspec.case(*args, **options)
    assert str(caught.value).startswith("case: ") and says in str(caught.value)
    assert "\n" not in str(caught.value)


# -- a stranger that crashes -------------------------------------------------------------------------------------------


def test_a_crash_leaves_no_trace_in_the_users_pytest(tmp_path):
    """pytest enables faulthandler, whose file the child inherits."""
    (tmp_path / "test_mine.py").write_text(
        "import ctypes, motionspec, pytest\n"
        "def crashes(f): ctypes.string_at(0)\n"
        "def test_mine():\n"
        "    with pytest.raises(AssertionError, match='SIGSEGV'):\n"
        "        motionspec.check(crashes, 'off.cross_gradient')\n"
    )
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "Fatal Python error" not in done.stderr + done.stdout and not done.stderr


def test_replaying_a_large_case_says_what_the_judge_said():
    from motionspec.cli.check import replay

    row = EQUATIONS["warp.bilinear"]
    k = next(k for k in DEFAULT if cases.is_large(k))
    want = Judge(Runner(None), warp.bilinear, row.id, {}, dtype="float64", framework="numpy", device="cpu", seed=3)
    got = replay(warp.bilinear, row.id, k, seed=3, index=(0, 0, 0, 0))
    assert got[0] == got[1] == want.wants(want.arrays(k))[0][0, 0, 0, 0]


# -- long sums in float32 ----------------------------------------------------------------------------------------------


def test_long_sums_are_judged_large_in_float64_only_and_that_is_said():
    pytest.importorskip("torch")
    from motionspec.ops import layers

    found = verdicts(layers.linear, "layers.linear", framework="torch", dtypes=["float64", "float32"], grad=True)
    large = sum(map(cases.is_large, DEFAULT))
    counts = {v.dtype: v.cases for v in found if v.checked == "value"}
    assert counts == {"float64": len(DEFAULT), "float32": len(DEFAULT) - large}
    lines = [line for v in found for line in v.not_judged]
    says = f"{large} large cases of layers.linear in float32 (their sums are too long for its tolerance)"
    assert lines == [f"not judged: {says}"]
    assert Case(EQUATIONS["layers.linear"], 0, 5).dtypes == ("float64",)


def test_vectors_are_held_against_differences_of_the_step_that_fits_their_values():
    """Case 11 has values of 1e-3 in float64, but of 1 in half types, so in the file: a step for 1e-3 lost digits."""
    pytest.importorskip("torch")
    case = Case(EQUATIONS["off.residual_rate"], 1, 11)
    assert case.scale == 1 and cases.scale(11) < 1
    known = case.known(0)
    _hold_gradients(case, known, part_of(case.gradients(known), "gradient"), 0)
