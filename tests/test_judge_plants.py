"""Mistakes planted into right code: the judge must find each, say all that it found, and explain none falsely.

Each plant is what a stranger could have written. What the judge must say of it stands beside it; of those that it
cannot explain it must say no more than that.
"""

import os
import re
import time
from functools import partial
from itertools import count

import numpy as np
import pytest

import motionspec
from motionspec.cli.cases import DEFAULT_CASES, rounded
from motionspec.refimpl import brightness, costvol, losses, metrics, off, warp
from motionspec.refimpl.equations import EQUATIONS


def report_of(fn, equation, **options):
    """The report of a check that fails, in this process unless it says otherwise."""
    with pytest.raises(AssertionError) as caught:
        motionspec.check(fn, equation, **({"timeout": None} | options))
    return str(caught.value)


def explanation(report):
    """What differs, a line per verdict that has one."""
    return re.findall(r"^  what differs: (.*)$", report, re.MULTILINE)


# -- every finding is said ---------------------------------------------------------------------------------------------


def wrong_sign(f):
    fx, fy = off.spatial_gradient(f)
    return fx, -fy


def raises_for_a_batch(f):
    if len(f) > 1:
        raise ValueError("batch of 2")
    return wrong_sign(f)


def first_of_a_batch(f):
    fx, fy = wrong_sign(f)
    return fx[:1], fy


def single_for_a_batch(f):
    fx, fy = wrong_sign(f)
    return fx.astype(np.float32 if len(f) > 1 else np.float64), fy


def clears_a_batch(f):
    found = wrong_sign(f)
    if len(f) > 1:
        f[...] = 0
    return found


def never_for_a_batch(f):
    while len(f) > 1:
        time.sleep(1)
    return wrong_sign(f)


def dies_for_a_batch(f):
    if len(f) > 1:
        os._exit(3)
    return wrong_sign(f)


def none_for_a_batch(f):
    return wrong_sign(f) if len(f) == 1 else None


def nan_for_a_batch(f):
    fx, fy = wrong_sign(f)
    return fx, fy * (np.nan if len(f) > 1 else 1)


SECOND = {
    raises_for_a_batch: ("raises", r"where N > 1.*: ValueError: batch of 2 \(test_judge_plants\.py:\d+\)"),
    first_of_a_batch: ("wrong shape", r"where N > 1.*: Fx has shape \(1, .*\), expected \(2, .*\)"),
    single_for_a_batch: ("wrong dtype", "where N > 1.*: Fx has dtype float32, expected float64"),
    clears_a_batch: ("changes its input", "where N > 1.*: changed f in place"),
    never_for_a_batch: ("never returns", r"did not return within 0\.5 s and was killed"),
    dies_for_a_batch: ("crashes", "where N > 1.*: ended the process with status 3"),
    none_for_a_batch: ("wrong type", "where N > 1.*: returned NoneType where NumPy arrays are expected"),
}


@pytest.mark.parametrize("fn", SECOND, ids=lambda fn: fn.__name__)
def test_what_comes_after_the_first_difference_is_said_too(fn):
    kind, says = SECOND[fn]
    timeout = {never_for_a_batch: 0.5, dies_for_a_batch: 60}.get(fn)
    report = report_of(fn, "off.spatial_gradient", variant={"kernel": "paper"}, timeout=timeout)
    assert explanation(report) == ["the sign of Fy"], report
    assert re.search(rf"^  {kind} on \d+ of \d+ cases.*{says}", report, re.MULTILINE), report
    assert re.search(r"^  differs on \d+ of \d+ cases", report, re.MULTILINE), report
    assert f"differs, {kind}" in report.splitlines()[3]


def test_all_findings_are_in_the_verdict():
    from motionspec.cli.check import judge
    from motionspec.cli.runner import Runner

    def several(f):
        if f.shape[-1] == 3:
            raise ValueError("three")
        if f.shape[-1] == 5:
            raise KeyError("five")
        if f.shape[-1] == 7:
            return right(f)[0]
        return wrong_sign(f)

    right = off.spatial_gradient
    (verdict,) = judge(several, "off.spatial_gradient", Runner(None), variant={"kernel": "paper"})
    found = verdict.as_json()["findings"]
    assert [(f["kind"], f["says"].partition(":")[0]) for f in found if f["kind"] != "differs"] == [
        ("raises", "ValueError"),
        ("wrong shape", "returned 1 arrays of shape (1, 1, 5, 7), expected 2"),
        ("raises", "KeyError"),
    ] or len(found) == 4
    assert sum(f["cases"] for f in found) <= verdict.cases == DEFAULT_CASES
    assert all(f["failure"]["reproduce"] for f in found)


@pytest.mark.parametrize("turned", [False, True])
def test_the_gravest_finding_stands_for_all_whatever_case_comes_first(turned):
    from motionspec.cli.verdict import GRAVITY, Failure, Verdict

    verdict = Verdict("off.cross_gradient", {}, "float64", "value")
    for kind in GRAVITY[:: -1 if turned else 1]:
        for number in (3, 4):
            verdict.add(kind, f"{kind}: in {number} (a.py:1)", number, lambda n=number: Failure(n, {}, ""))
    assert verdict.kinds == GRAVITY == tuple(finding.kind for finding in verdict.findings)
    assert (verdict.kind, verdict.note) == ("returns NaN", "returns NaN: in 3 (a.py:1)")
    assert verdict.failure is verdict.findings[0].failure and verdict.failure.case == 3
    assert all(finding.numbers == [3, 4] for finding in verdict.findings)


def test_one_raise_at_one_pixel_does_not_end_the_judging():
    def needs_two(f):
        f[..., 1, :], f[..., 1]  # IndexError where a side is 1
        return off.cross_gradient(f)

    report = report_of(needs_two, "off.cross_gradient")
    assert re.search(
        rf"raises on \d+ of {DEFAULT_CASES} cases, those with sides of length 1 \(all else agrees\): IndexError", report
    ), report
    assert "returns" not in report.splitlines()[3] and "differs" not in report.splitlines()[3]


# -- precision ---------------------------------------------------------------------------------------------------------


def softmax_tau(factor, c, tau=0.1):
    return costvol.marginals(c, tau=tau * factor)


def soft_tau(factor, c, tau=0.1):
    return costvol.soft_displacement(c, tau=tau * factor)


def one_channel(factor, f):
    found = off.cross_gradient(f).copy()
    found[:, -1] *= 1 + factor
    return found


def charbonnier(eps, flow, target, *, mask=None, reduction="sum"):
    distance = np.sqrt(((flow - target) ** 2).sum(1, keepdims=True) + eps)
    valid = np.ones(distance.shape, bool) if mask is None else mask
    return np.asarray(distance[valid].sum() if reduction == "sum" else distance[valid].mean())


def mean_of_means(flow, target, *, mask=None):
    distance = np.sqrt(((flow - target) ** 2).sum(1, keepdims=True))
    valid = np.ones(distance.shape, bool) if mask is None else mask
    means = [d[v].mean() for d, v in zip(distance, valid, strict=True) if v.any()]
    return np.asarray(np.mean(means))


def eps_outside_the_norm(eps, f0, f1, radius=1, border="zero"):
    def unit(f):
        return f / (np.sqrt((f**2).sum(1, keepdims=True)) + eps)

    P = radius if isinstance(radius, tuple) else (radius, radius)
    a, b = unit(f0), np.pad(unit(f1), ((0, 0), (0, 0), (P[0],) * 2, (P[1],) * 2))
    N, _, H, W = f0.shape
    found = np.zeros((N, H, W, 2 * P[0] + 1, 2 * P[1] + 1))
    inside = np.pad(np.ones((H, W), bool), ((P[0],) * 2, (P[1],) * 2))
    for i, j in np.ndindex(2 * P[0] + 1, 2 * P[1] + 1):
        found[..., i, j] = (a * b[:, :, i : i + H, j : j + W]).sum(1)
        if border == "exclude":
            found[..., i, j][:, ~inside[i : i + H, j : j + W]] = -np.inf
    return found


def longer_flow(factor, x, flow, outside="zero"):
    return warp.bilinear(x, flow * (1 + factor), outside=outside)


def on_a_raster(parts, x, flow, outside="zero"):
    return warp.bilinear(x, np.round(flow * parts) / parts, outside=outside)


def smoothed(factor, f):
    found = off.cross_gradient(f)
    return found + factor * np.roll(found, 1, axis=-1)


def offset(value, f):
    return off.cross_gradient(f) + value


def per_sample(factor, f):
    return off.cross_gradient(f) * (1 + factor * np.arange(len(f)))[:, None, None, None]


SIZES_OF_ERROR = [1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7]
SYSTEMATIC = [
    *(("costvol.marginals", partial(softmax_tau, 1 + e), f"tau * {1 + e}") for e in SIZES_OF_ERROR),
    *(("costvol.soft_displacement", partial(soft_tau, 1 + e), f"tau * {1 + e}") for e in SIZES_OF_ERROR),
    *(("off.cross_gradient", partial(one_channel, e), f"a channel * {1 + e}") for e in SIZES_OF_ERROR),
    *(("losses.endpoint_error", partial(charbonnier, e), f"eps {e}") for e in [*SIZES_OF_ERROR, 1e-8, 1e-9]),
    *(("costvol.cosine", partial(eps_outside_the_norm, e), f"eps {e}") for e in [*SIZES_OF_ERROR, 1e-8, 1e-9]),
    *(("warp.bilinear", partial(longer_flow, e), f"flow * {1 + e}") for e in SIZES_OF_ERROR),
    *(("warp.bilinear", partial(on_a_raster, n), f"flow on 1/{n}") for n in (32, 256, 4096, 2**17)),
    *(("off.cross_gradient", partial(smoothed, e), f"smoothed by {e}") for e in SIZES_OF_ERROR),
    *(("off.cross_gradient", partial(offset, e), f"offset {e}") for e in SIZES_OF_ERROR),
    *(("off.cross_gradient", partial(per_sample, e), f"samples * {1 + e}") for e in SIZES_OF_ERROR),
    ("metrics.endpoint_error", mean_of_means, "mean of means"),
]
FALSE_OF_THEM = ("precision", "ties and kinks", "sides of length 1", "float16", "float32", "rounded")


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("equation, fn, name", SYSTEMATIC, ids=[f"{e}-{name}" for e, _, name in SYSTEMATIC])
def test_a_systematic_error_is_no_lack_of_precision(equation, fn, name, seed):
    (says,) = explanation(report_of(fn, equation, seed=seed, variant=dict(EQUATIONS[equation].variants[0])))
    assert not any(word in says for word in FALSE_OF_THEM), says


def cast(array, dtype):
    return rounded(array, dtype) if array.dtype == np.float64 else array


def tf32(array):
    """Ten bits behind the leading one, the rest cut off, as tensor cores take their factors."""
    bits = np.array(array, np.float32).view(np.uint32) & np.uint32(0xFFFFE000)
    return bits.view(np.float32).astype(np.float64)


def inside(dtype, f):
    """Every intermediate result rounded."""
    wide = np.pad(f, ((0, 0), (0, 0), (1, 1), (1, 1)))
    H, W = f.shape[-2:]
    found = np.zeros(f.shape)
    for i, j, weight in CROSS_WEIGHTS:
        found = cast(found + cast(weight * cast(wide[..., i : i + H, j : j + W], dtype), dtype), dtype)
    return found


def cross_weights():
    """The kernel of off.cross_gradient, read off its answer to one bright pixel."""
    f = np.zeros((1, 1, 5, 5))
    f[0, 0, 2, 2] = 1
    found = off.cross_gradient(f)[0, 0, 1:4, 1:4]
    return [(2 - i, 2 - j, found[i, j]) for i, j in np.ndindex(3, 3) if found[i, j]]


CROSS_WEIGHTS = cross_weights()


def products(factor, x, weight, *, bias=None, stride=1, padding=0, dilation=1, groups=1):
    from motionspec.refimpl import layers

    rest = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return single(layers.convolution(factor(x), factor(weight), bias=bias, **rest))


def single(a):
    return a.astype(np.float32).astype(np.float64)


def norms(dtype, f0, f1, radius=1, border="zero"):
    """Unit vectors in a narrow type, products in float64: what comes out is no number of that type."""
    unit = partial(cast, dtype=dtype)
    f0, f1 = (unit(np.divide(f, n, out=np.zeros_like(f), where=n > 0)) for f, n in ((f, norm(f)) for f in (f0, f1)))
    P = radius if isinstance(radius, tuple) else (radius, radius)
    N, _, H, W = f0.shape
    b = np.pad(f1, ((0, 0), (0, 0), (P[0],) * 2, (P[1],) * 2))
    inside = np.pad(np.ones((H, W), bool), ((P[0],) * 2, (P[1],) * 2))
    found = np.zeros((N, H, W, 2 * P[0] + 1, 2 * P[1] + 1))
    for i, j in np.ndindex(2 * P[0] + 1, 2 * P[1] + 1):
        found[..., i, j] = (f0 * b[:, :, i : i + H, j : j + W]).sum(1)
        if border == "exclude":
            found[..., i, j][:, ~inside[i : i + H, j : j + W]] = -np.inf
    return found


def norm(f):
    return np.sqrt((f**2).sum(1, keepdims=True)) * np.ones_like(f)


def half_sum(scores):
    """Consensus by a running sum in float16, divided in float64."""
    total = np.zeros_like(scores[:, 0])
    for t in range(scores.shape[1]):
        total = cast(total + cast(scores[:, t], "float16"), "float16")
    return total / scores.shape[1]


def stored(dtype, fn, *arrays, **keywords):
    found = fn(*arrays, **keywords)
    return tuple(cast(f, dtype) for f in found) if isinstance(found, tuple) else cast(found, dtype)


def narrow_inputs(dtype, fn, *arrays, **keywords):
    return fn(*(cast(a, dtype) for a in arrays), **keywords)


def numpy_single(fn, *arrays, **keywords):
    """float32 in and out of a function that computes in what it gets."""
    found = fn(*(a.astype(np.float32) if a.dtype == np.float64 else a for a in arrays), **keywords)
    return np.asarray(found, np.float64)


def plain_distance(flow, target, *, mask=None, reduction="sum"):
    d = np.sqrt(((flow - target) ** 2).sum(1, keepdims=True))
    valid = d[np.ones(d.shape, bool) if mask is None else mask]
    return valid.sum(dtype=flow.dtype) if reduction == "sum" else valid.mean(dtype=flow.dtype)


TYPES = ("float32", "float16", "bfloat16")
NARROW = [
    *(("off.cross_gradient", partial(stored, t, off.cross_gradient), t, f"stored as {t}") for t in TYPES),
    *(("off.spatial_gradient", partial(stored, t, off.spatial_gradient), t, f"stored as {t}") for t in TYPES),
    *(("warp.bilinear", partial(stored, t, warp.bilinear), t, f"stored as {t}") for t in TYPES),
    *(("losses.consensus", partial(stored, t, losses.consensus), t, f"stored as {t}") for t in TYPES),
    *(("metrics.psnr", partial(stored, t, partial(metrics.psnr)), t, f"stored as {t}") for t in ("float32",)),
    *(("off.cross_gradient", partial(inside, t), t, f"all in {t}") for t in TYPES),
    *(("off.cross_gradient", partial(narrow_inputs, t, off.cross_gradient), t, f"inputs in {t}") for t in TYPES),
    *(("warp.bilinear", partial(narrow_inputs, t, warp.bilinear), t, f"inputs in {t}") for t in TYPES),
    *(("costvol.cosine", partial(norms, t), t, f"norms in {t}") for t in TYPES),
    ("layers.convolution", partial(products, tf32), "TF32", "TF32 products"),
    ("layers.convolution", partial(products, partial(cast, dtype="bfloat16")), "bfloat16", "bfloat16 products"),
    ("losses.consensus", half_sum, "float16", "half sums"),
    ("losses.endpoint_error", partial(numpy_single, plain_distance), "float32", "float32 throughout"),
    ("brightness.gradient", partial(stored, "float32", brightness.gradient), "float32", "stored as float32"),
]


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("equation, fn, dtype, name", NARROW, ids=[f"{e}-{name}" for e, _, _, name in NARROW])
def test_a_lack_of_precision_is_named(equation, fn, dtype, name, seed):
    (says,) = explanation(report_of(fn, equation, seed=seed, variant=dict(EQUATIONS[equation].variants[0])))
    assert dtype in says and ("precision" in says or "rounded" in says), says


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("masks", [False, True], ids=["a mask of exact inputs", "a mask of narrow inputs"])
def test_narrow_inputs_are_named_beside_a_mask_too(dtype, masks):
    exact = EQUATIONS["brightness.constancy_residual"].reference

    def narrow(f0, f1, flow):
        residual, mask = exact(*(cast(array, dtype) for array in (f0, f1, flow)))
        return residual, mask if masks else exact(f0, f1, flow)[1]

    (says,) = explanation(report_of(narrow, "brightness.constancy_residual"))
    assert re.fullmatch(f"the inputs are rounded to {dtype}(, but for mask)?", says), says


def test_noise_is_called_noise():
    rng = np.random.default_rng(0)
    (says,) = explanation(
        report_of(lambda f: off.cross_gradient(f) + 1e-6 * rng.normal(size=f.shape), "off.cross_gradient")
    )
    assert says.startswith("the same inputs give other values when called again")


# -- which cases agree -------------------------------------------------------------------------------------------------


def where(equation, condition, change=lambda g: g + 1):
    row = EQUATIONS[equation]

    def wrong(*arrays, **keywords):
        given = keywords | dict(zip((n for n in names if n not in row.keyword), arrays, strict=True))
        found = row.reference(*arrays, **keywords)
        if not condition(given):
            return found
        return tuple(map(change, found)) if isinstance(found, tuple) else change(found)

    names = list(row.inputs(lambda name, shape, kind: np.zeros(shape), **dict.fromkeys(row.dims, 2)))
    return wrong


def only_first(f):
    found = off.cross_gradient(f)
    found[1:] = 0
    return found


def cached(cache):
    def fn(f):
        return cache.setdefault(f.shape, off.cross_gradient(f))

    return fn


WHERE = {
    "N > 1": ("off.cross_gradient", where("off.cross_gradient", lambda a: len(a["f"]) > 1), "where N > 1"),
    "C > 1": ("off.cross_gradient", where("off.cross_gradient", lambda a: a["f"].shape[1] > 1), "where C > 1"),
    "N = 1": ("off.cross_gradient", where("off.cross_gradient", lambda a: len(a["f"]) == 1), "where N = 1"),
    "W > 5": ("off.cross_gradient", where("off.cross_gradient", lambda a: a["f"].shape[-1] > 5), "where W > [567]"),
    "H > 5": ("off.cross_gradient", where("off.cross_gradient", lambda a: a["f"].shape[-2] > 5), "where H > [567]"),
    "classes": (
        "losses.cross_entropy",
        where("losses.cross_entropy", lambda a: a["scores"].shape[1] > 4),
        "where K > 4",
    ),
    "one class": (
        "losses.cross_entropy",
        where("losses.cross_entropy", lambda a: a["scores"].shape[1] == 1),
        r"where K = 1 \(one class\)",
    ),
    "one sample": (
        "losses.cross_entropy",
        where("losses.cross_entropy", lambda a: len(a["scores"]) == 1),
        r"where N = 1 \(batches of one\)",
    ),
    "one pixel": (
        "off.cross_gradient",
        where("off.cross_gradient", lambda a: 1 in a["f"].shape[-2:]),
        r"sides of length 1 \(all else agrees\)",
    ),
    "large values": (
        "off.cross_gradient",
        where("off.cross_gradient", lambda a: abs(a["f"]).max() > 30),
        "where the magnitude of the values > 1",
    ),
    "the first of a batch": ("off.cross_gradient", only_first, "where N > 1"),
    "cache by shape": ("off.cross_gradient", cached({}), "where the shapes have come before"),
}


@pytest.mark.parametrize("name", WHERE)
def test_which_cases_agree_is_said(name):
    equation, fn, says = WHERE[name]
    for found in explanation(report := report_of(fn, equation)):
        assert re.search(says, found), report
    assert explanation(report)


def test_scores_have_no_sides():
    def guarded(scores, label, reduction="sum"):
        total = losses.cross_entropy(scores, label, reduction="sum")
        return total if reduction == "sum" else total / (len(scores) + 1e-3)

    report = report_of(guarded, "losses.cross_entropy")
    assert "sides" not in report


@pytest.mark.parametrize(
    "equation", ["losses.cross_entropy", "costvol.marginals", "layers.linear", "detection.encode_boxes"]
)
def test_only_what_has_sides_is_said_to_have_some(equation):
    fn = where(equation, lambda given: 1 in next(iter(given.values())).shape[-2:])
    for says in explanation(report_of(fn, equation)):
        assert "sides" not in says


def test_a_departure_that_agrees_in_fewer_cases_is_no_explanation():
    """Shares in float32: wrong in those cases only in which the number of samples is no power of 2."""

    def in_single(scores, label, k=1):
        return np.asarray(np.float32(metrics.top_k(scores, label, k=k)), np.float64)

    for k in (1, 2):
        (says,) = explanation(report_of(in_single, "metrics.top_k", variant={"k": k}))
        assert not any(word in says for word in ("departure", "variant", "gain", "kinks")), says


# -- the closest -------------------------------------------------------------------------------------------------------


def test_the_closest_is_the_one_with_most_elements_in_common():
    def half_right(f):
        fx, fy = off.spatial_gradient(f, kernel="sobel")
        fy[..., ::2] = 7
        return fx, fy

    (says,) = explanation(report_of(half_right, "off.spatial_gradient", variant={"kernel": "paper"}))
    assert re.search(r"Closest is kernel='sobel': \d+ % of the values agree", says), says


def test_nothing_is_called_close_if_nothing_is():
    rng = np.random.default_rng(0)
    cache = {}

    def noise(f0, f1):
        shape = (len(f0), *f0.shape[2:], 3, 3)
        return cache.setdefault(f0.tobytes() + f1.tobytes(), rng.normal(size=shape))

    (says,) = explanation(report_of(noise, "costvol.cosine", variant={"radius": 1, "border": "zero"}))
    assert "Closest" not in says and "inf" not in says


# -- gradients ---------------------------------------------------------------------------------------------------------


def test_gradients_have_their_explanation_too():
    torch = pytest.importorskip("torch")
    from motionspec.ops.warp import bilinear

    def with_gradient(factor_x, factor_flow):
        def fn(x, flow):
            x = x * factor_x(x) + x.detach() * (1 - factor_x(x))
            flow = flow * factor_flow(x) + flow.detach() * (1 - factor_flow(x))
            return bilinear(x, flow)

        return fn

    options = {"framework": "torch", "grad": True, "variant": {"outside": "zero"}}
    halved = report_of(with_gradient(lambda x: 1, lambda x: 0.5), "warp.bilinear", **options)
    assert explanation(halved) == ["the gain of the gradient: 0.5 times the expected"], halved
    wide = report_of(with_gradient(lambda x: 2 if x.shape[-1] > 5 else 1, lambda x: 1), "warp.bilinear", **options)
    (says,) = explanation(wide)
    assert re.search(r"where W > [567]", says), wide
    batch = report_of(with_gradient(lambda x: 2 if len(x) > 1 else 1, lambda x: 1), "warp.bilinear", **options)
    (says,) = explanation(batch)
    assert "where N > 1" in says, batch
    assert torch.is_grad_enabled()


# -- all the same, caught ----------------------------------------------------------------------------------------------

calls = count()
UNEXPLAINED = {
    "softmax over one axis": (
        "costvol.soft_displacement",
        lambda c, tau=0.1: costvol.soft_displacement(c - c.max(axis=3, keepdims=True), tau=tau),
    ),
    "window transposed": ("costvol.hard_displacement", lambda c: costvol.hard_displacement(c)[:, ::-1]),
    "batch mixed": ("off.cross_gradient", lambda f: off.cross_gradient(f[::-1])),
    "one call in ten": ("off.cross_gradient", lambda f: off.cross_gradient(f) + (next(calls) % 10 == 9)),
}


@pytest.mark.parametrize("name", UNEXPLAINED)
def test_the_others_are_caught(name):
    equation, fn = UNEXPLAINED[name]
    for says in explanation(report_of(fn, equation)):
        assert not any(word in says for word in ("precision", "sides of length 1")), says


# -- figures -----------------------------------------------------------------------------------------------------------


def test_the_worst_error_is_the_worst_in_table_detail_and_json():
    """Large values have large errors and large tolerances: the tightest case is not the one with the worst error."""
    from motionspec.cli.cases import exact_case
    from motionspec.cli.check import judge
    from motionspec.cli.runner import Runner
    from motionspec.cli.text import report

    def wrong(f):
        return off.cross_gradient(f) * (1 + 1e-9) + 1e-7

    (verdict,) = judge(wrong, "off.cross_gradient", Runner(None), cases=40)
    errors, shares = [], []
    for k in range(40):
        f = exact_case("off.cross_gradient", k)["f"]
        error = abs(wrong(f) - off.cross_gradient(f))
        errors.append(error.max())
        unit = [1, 2.0**-10, 2.0**10][k // 2 % 3] if verdict.cases == 40 else 1
        shares.append((error / (1e-12 * unit + 1e-12 * abs(off.cross_gradient(f)))).max())
    assert verdict.error == max(errors) == verdict.as_json()["error"]
    text = report([verdict])
    assert f"worst error {max(errors):.1e} where {verdict.tolerance:.1e} is tolerated" in text
    assert f"{max(errors):.1e}" in text.splitlines()[2]
    assert verdict.as_json()["used"] == verdict.used >= verdict.error / verdict.tolerance
    assert np.argmax(errors) != np.argmax(shares)


def test_a_wrong_value_where_0_is_expected_is_no_small_relative_error():
    from motionspec.cli.check import judge
    from motionspec.cli.runner import Runner

    (verdict,) = judge(
        lambda f: np.where(off.cross_gradient(f) == 0, 0.81, off.cross_gradient(f)), "off.cross_gradient", Runner(None)
    )
    precision = verdict.as_json()["precision"]
    assert precision["relative"] == np.inf
    assert 0 < precision["zeros"] < precision["values"]


def test_what_a_callable_is_not_told_is_said():
    def fixed(f1, f2):
        return EQUATIONS["tvl1.representation_flow"].reference(f1, f2, n_iter=10, scheme="classic")

    report = report_of(fixed, "tvl1.representation_flow", variant={"scheme": "classic", "n_iter": 3})
    assert "held against scheme=classic, n_iter=3: the callable does not take scheme and n_iter" in report
    assert explanation(report) == ["the variant: this is scheme='classic', n_iter=10"]


def test_what_never_comes_back_is_asked_twice_and_what_is_left_out_is_said():
    report = report_of(never_for_a_batch, "off.spatial_gradient", variant={"kernel": "paper"}, timeout=0.5)
    assert re.search(r"\d+ cases not judged: calls that did not come back had taken too long", report)
    assert "never returns on 2 of " in report
