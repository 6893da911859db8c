"""Cost volume and displacement: what is compared with what, the border, ties, zero vectors (DC18 §3.3)."""

import importlib
import math
import re

import numpy as np
import pytest
from voices import both

costvol = both("costvol")

each_border = pytest.mark.parametrize("border", ["zero", "exclude"])
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def ops():
    pytest.importorskip("torch")
    return importlib.import_module("motionspec.ops.costvol")


def gradients(name, *arrays, weights=None, **options):
    """d sum(weights * value) / d each array, by autograd of the operator; an infinite value is left out."""
    torch = pytest.importorskip("torch")
    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    out = getattr(ops(), name)(*leaves, **options)
    weights = torch.ones_like(out) if weights is None else torch.tensor(weights)
    finite = out.isfinite()
    return [g.numpy() for g in torch.autograd.grad(out[finite], leaves, weights[finite])]


def features(shape=(2, 4, 5, 6), seed=0):
    return np.random.default_rng(seed).normal(size=(2, *shape))


def window(*rows):
    """A cost volume of one pixel."""
    return np.array(rows, float)[None, None, None]


def shifted(u, v, C=16, H=9, W=10):
    """(f0, f1) of a scene that moves by whole pixels: F0(p) = F1(p + (u, v))."""
    scene = np.random.default_rng(1).normal(size=(1, C, H + 8, W + 8))
    return scene[..., 4 : 4 + H, 4 : 4 + W].copy(), scene[..., 4 - v : 4 - v + H, 4 - u : 4 - u + W].copy()


# Cosine


def test_cosine_printed_answer(costvol):
    # Three pixels in a row, two channels. f0 = (1, 0) (0, 2) (3, 4), f1 = (2, 0) (4, 3) (0, -1).
    f0 = np.array([[1.0, 0, 3], [0, 2, 4]]).reshape(1, 2, 1, 3)
    f1 = np.array([[2.0, 4, 0], [0, 3, -1]]).reshape(1, 2, 1, 3)
    want = [[0, 1, 0.8], [0, 0.6, -1], [0.96, -0.8, 0]]  # left, middle, right; (3, 4) . (4, 3) / 25 = 0.96
    got = costvol.cosine(f0, f1, radius=(0, 1))
    assert got.shape == (1, 1, 3, 1, 3)
    np.testing.assert_allclose(got[0, 0, :, 0], want, rtol=0, atol=1e-15)
    want[0][0] = want[2][2] = -np.inf
    np.testing.assert_allclose(costvol.cosine(f0, f1, radius=(0, 1), border="exclude")[0, 0, :, 0], want, atol=1e-15)


def test_cosine_window_goes_down_then_right(costvol):
    """One vector of f0 at (1, 1) finds its like in f1 one row up and two columns to the right."""
    f0, f1 = np.zeros((2, 1, 1, 3, 4))
    f0[..., 1, 1] = f1[..., 0, 3] = 5
    got = costvol.cosine(f0, f1, radius=2)
    assert got[0, 1, 1, 2 - 1, 2 + 2] == 1
    assert np.abs(got).sum() == 1


@each_border
def test_cosine_inside_the_map_is_the_same_for_both_border_rules(costvol, border):
    f0, f1 = features()
    zero, got = costvol.cosine(f0, f1, radius=1), costvol.cosine(f0, f1, radius=1, border=border)
    np.testing.assert_array_equal(got[:, 1:-1, 1:-1], zero[:, 1:-1, 1:-1])
    # The first row has no row above, the last column nothing to its right.
    outside = 0 if border == "zero" else -np.inf
    assert (got[:, 0, :, 0] == outside).all() and (got[:, :, -1, :, 2] == outside).all()
    assert (got[:, 0, 1:-1, 1:] != outside).all()


@each_border
def test_cosine_window_may_be_larger_than_the_map(costvol, border):
    got = costvol.cosine(np.ones((1, 1, 1, 1)), np.full((1, 1, 1, 1), 3.0), radius=(2, 3), border=border)
    want = np.full((1, 1, 1, 5, 7), 0 if border == "zero" else -np.inf)
    want[..., 2, 3] = 1
    np.testing.assert_array_equal(got, want)


def test_cosine_of_radius_0_compares_each_pixel_with_itself(costvol):
    f0, f1 = features()
    want = (f0 * f1).sum(1) / np.linalg.norm(f0, axis=1) / np.linalg.norm(f1, axis=1)
    np.testing.assert_allclose(costvol.cosine(f0, f1, radius=0)[..., 0, 0], want, atol=1e-15)
    np.testing.assert_allclose(costvol.cosine(f0, f1, radius=(1, 2))[..., 1, 2], want, atol=1e-15)


def test_cosine_seen_from_the_other_frame(costvol):
    """C_01(i, j, di, dj) = C_10(i + di, j + dj, -di, -dj)."""
    f0, f1 = features()
    there, back = costvol.cosine(f0, f1, radius=1), costvol.cosine(f1, f0, radius=1)
    np.testing.assert_allclose(there[:, :-1, :-1, 2, 2], back[:, 1:, 1:, 0, 0], atol=1e-15)
    np.testing.assert_allclose(there[:, 1:, :, 0, 1], back[:, :-1, :, 2, 1], atol=1e-15)


def test_cosine_does_not_see_the_length_of_a_vector(costvol):
    """FlowNet's correlation, a dot product, would."""
    f0, f1 = features()
    length = np.random.default_rng(2).uniform(0.1, 10, size=(2, 1, 5, 6))
    got = costvol.cosine(length * f0, f1 / length, radius=1)
    np.testing.assert_allclose(got, costvol.cosine(f0, f1, radius=1), atol=1e-15)
    np.testing.assert_allclose(costvol.cosine(-f0, f1, radius=1), -costvol.cosine(f0, f1, radius=1), atol=1e-15)
    np.testing.assert_allclose(costvol.cosine(f0, f0, radius=1)[..., 1, 1], 1, atol=1e-15)
    assert np.abs(got).max() <= 1 + 1e-15


@pytest.mark.parametrize("exponent", [-140, -100, 100, 120])
def test_cosine_of_vectors_whose_squares_leave_float32(exponent):
    """Down to subnormal vectors, which norms by plain squares would take for 0: the angle is what it was."""
    torch = pytest.importorskip("torch")
    f0, f1 = np.random.default_rng(0).integers(-4, 5, size=(2, 1, 3, 4, 5)).astype(np.float32)
    want = ops().cosine(torch.tensor(f0), torch.tensor(f1), radius=1)
    far = [torch.tensor(f * np.float32(2.0**exponent), requires_grad=True) for f in (f0, f1)]
    got = ops().cosine(*far, radius=1)
    assert torch.equal(got, want)
    assert not any(g.isnan().any() for g in torch.autograd.grad(got.square().sum(), far))


@each_border
@each_dtype
def test_cosine_of_a_zero_vector_is_0_and_so_is_its_derivative(costvol, dtype, border):
    """At (1, 2) of f0 and at (3, 3) of f1; its partner's derivative for that pair is 0 too."""
    f0, f1 = features()
    f0[..., 1, 2] = f1[..., 3, 3] = 0
    f0, f1 = f0.astype(dtype), f1.astype(dtype)
    got = costvol.cosine(f0, f1, radius=1, border=border)
    assert (got[:, 1, 2] == 0).all()
    assert (got[:, 2, 2, 2, 2] == 0).all() and (got[:, 3, 4, 1, 0] == 0).all()
    if costvol.torch:
        g0, g1 = gradients("cosine", f0, f1, radius=1, border=border)
        assert (g0[..., 1, 2] == 0).all() and (g1[..., 3, 3] == 0).all()
        assert np.isfinite(g0).all() and np.isfinite(g1).all() and g0.any() and g1.any()
        only = np.zeros_like(got)
        only[:, 1, 2] = only[:, 2, 2, 2, 2] = 1
        assert not any(g.any() for g in gradients("cosine", f0, f1, radius=1, border=border, weights=only))


@each_border
def test_nan_touches_the_windows_that_hold_it(border):
    torch = pytest.importorskip("torch")
    f0, f1 = map(torch.tensor, features())
    f0[0, 1, 0, 0] = f1[0, 2, 2, 3] = torch.nan
    nan = ops().cosine(f0, f1, radius=1, border=border).isnan()
    want = torch.zeros_like(nan)
    for i in range(1, 4):
        for j in range(2, 5):
            want[0, i, j, 1 + 2 - i, 1 + 3 - j] = True
    want[0, 0, 0] = True
    inside = ops().cosine(torch.ones_like(f0), torch.ones_like(f1), radius=1, border="exclude").isfinite()
    assert torch.equal(nan & inside, want & inside)
    flow = ops().displacement_map(f0, f1, radius=1, tau=0.1, border=border).isnan()
    assert torch.equal(flow, want.flatten(3).any(-1)[:, None].expand_as(flow))


# Marginals and soft displacement

# With tau = 1/ln 2 the weight of score c is 2^c.
LN2 = {"tau": 1 / math.log(2)}
SCORES = window([0, 1, 2], [3, 1, 0], [0, 2, 0])  # weights 1 2 4, 8 2 1, 1 4 1: in all 24


def test_printed_marginals_and_displacements(costvol):
    rho_y, rho_x = costvol.marginals(SCORES, **LN2)
    np.testing.assert_allclose(rho_y[0, 0, 0], [7 / 24, 11 / 24, 6 / 24], atol=1e-15)
    np.testing.assert_allclose(rho_x[0, 0, 0], [10 / 24, 8 / 24, 6 / 24], atol=1e-15)
    soft = costvol.soft_displacement(SCORES, **LN2)
    assert soft.shape == (1, 2, 1, 1)
    np.testing.assert_allclose(soft.ravel(), [-4 / 24, -1 / 24], atol=1e-15)  # u = (6 - 10)/24, v = (6 - 7)/24
    np.testing.assert_array_equal(costvol.hard_displacement(SCORES).ravel(), [-1, 0])


def test_marginals_two_separable_softmaxes_are_not_the_joint_one(costvol):
    """DC18: "can be accomplished by softmax transforms along the vertical and horizontal dimensions". In no reading."""

    def softmax(scores, axis):
        weight = 2.0**scores
        return weight / weight.sum(axis, keepdims=True)

    c = SCORES[0, 0, 0]
    rho_y, rho_x = (rho[0, 0, 0] for rho in costvol.marginals(SCORES, **LN2))
    for other, axis, rho in ((1, 0, rho_y), (0, 1, rho_x)):
        for reading in (
            softmax(c.sum(other), 0),  # of the summed scores
            softmax(c.mean(other), 0),  # of the mean scores
            softmax(c.max(other), 0),  # of the best score of each line
            softmax(c, axis).mean(other),  # along one dimension for each place in the other, then averaged
        ):
            assert reading.sum() == pytest.approx(1)
            assert np.abs(reading - rho).max() > 0.02
    # The one that does hold: a softmax of the log-sum-exp over the other dimension.
    np.testing.assert_allclose(softmax(np.log2((2.0**c).sum(1)), 0), rho_y, atol=1e-15)


def test_marginals_are_distributions(costvol):
    c = np.random.default_rng(0).uniform(-1, 1, size=(2, 3, 4, 3, 5))
    for rho, side in zip(costvol.marginals(c, tau=0.1), (3, 5), strict=True):
        assert rho.shape == (2, 3, 4, side) and (rho > 0).all()
        np.testing.assert_allclose(rho.sum(-1), 1, atol=1e-15)


def test_displacement_is_the_weighted_offset_of_the_marginals(costvol):
    c = np.random.default_rng(0).uniform(-1, 1, size=(2, 3, 4, 3, 5))
    rho_y, rho_x = costvol.marginals(c, tau=0.1)
    want = np.stack([rho_x @ [-2, -1, 0, 1, 2], rho_y @ [-1, 0, 1]], axis=1)
    np.testing.assert_allclose(costvol.soft_displacement(c, tau=0.1), want, atol=1e-15)


def test_a_constant_added_to_all_scores_changes_nothing(costvol):
    c = np.random.default_rng(0).uniform(-1, 1, size=(2, 3, 4, 3, 5))
    for name, options in (("soft_displacement", {"tau": 0.05}), ("hard_displacement", {})):
        call = getattr(costvol, name)
        np.testing.assert_allclose(call(c + 50, **options), call(c, **options), atol=1e-12)


@each_dtype
def test_soft_displacement_at_a_low_temperature_overflows_nothing(costvol, dtype):
    c = np.array([[0, 1, -1], [0.5, 0, 0.999], [-1, -1, -1]], dtype)[None, None, None]
    np.testing.assert_array_equal(costvol.soft_displacement(c, tau=1e-6).ravel(), [0, -1])
    np.testing.assert_allclose(costvol.soft_displacement(c, tau=1e9).ravel(), [0, 0], atol=1e-6)
    if costvol.torch:
        assert np.isfinite(gradients("soft_displacement", c, tau=1e-6)[0]).all()


def test_soft_displacement_tends_to_hard_or_to_the_mean_of_ties(costvol):
    unique = window([0.1, 0.2, 0.3], [0.2, 0.8, 0.1], [0.4, 0.9, 0.1])
    tied = window([0.1, 0.2, 0.9], [0.2, 0.8, 0.1], [0.9, 0.9, 0.1])  # at (u, v) = (1, -1), (-1, 1), (0, 1)
    for c, hard, limit in ((unique, [0, 1], [0, 1]), (tied, [0, 1], [0, 1 / 3])):
        np.testing.assert_array_equal(costvol.hard_displacement(c).ravel(), hard)
        errors = [np.abs(costvol.soft_displacement(c, tau=tau).ravel() - limit).max() for tau in (0.1, 0.03, 0.01)]
        assert errors[0] > 0.03 and errors[1] < errors[0] / 4 and errors[2] < 1e-4
        np.testing.assert_allclose(costvol.soft_displacement(c, tau=1e-3).ravel(), limit, atol=1e-15)


def test_soft_displacement_gives_an_excluded_offset_no_weight(costvol):
    c = SCORES.copy()
    c[..., 1, 0] = -np.inf  # weights 1 2 4, 0 2 1, 1 4 1: in all 16
    np.testing.assert_allclose(costvol.soft_displacement(c, **LN2).ravel(), [4 / 16, -1 / 16], atol=1e-15)
    np.testing.assert_array_equal(costvol.hard_displacement(c).ravel(), [0, 1])  # of two 2s the nearer
    if costvol.torch:
        (got,) = gradients("soft_displacement", c, **LN2)
        assert np.isfinite(got).all() and got[..., 1, 0] == 0 and got.any()


@pytest.mark.parametrize("name, options", [("marginals", LN2), ("soft_displacement", LN2), ("hard_displacement", {})])
@pytest.mark.parametrize(
    "bad, message",
    [
        ([np.nan, 0, 0], "expected finite values, got nan at (0, 1, 0, 0, 0)"),
        ([0, 0, np.inf], "expected finite values, got inf at (0, 1, 0, 0, 2)"),
        ([-np.inf] * 3, "expected an offset that is not excluded, got -inf throughout (0, 1, 0)"),
    ],
    ids=["nan", "inf", "excluded"],
)
def test_values_that_no_cost_volume_holds(costvol, name, options, bad, message):
    """The oracle refuses them; the operator, which never looks, gives NaN at that pixel alone."""
    c = np.array([[0.0, 0, 0], bad]).reshape(1, 2, 1, 1, 3)
    call = getattr(costvol, name)
    if costvol.torch is None:
        with pytest.raises(ValueError) as error:
            call(c, **options)
        assert str(error.value) == f"costvol.{name}: c: {message}"
    else:
        found = call(c, **options)
        for out in [np.moveaxis(rho, 1, 2) for rho in found] if name == "marginals" else [found]:
            assert np.isfinite(out[:, :, 0]).all() and np.isnan(out[:, :, 1]).all()


# Hard displacement


@pytest.mark.parametrize(
    "rows, want",
    [
        (([1, 1, 1], [1, 1, 1], [1, 1, 1]), (0, 0)),  # nothing moves where all is alike
        (([1, 1, 1], [1, 0, 1], [1, 1, 1]), (0, -1)),  # of the four nearest the first in row-major order: up
        (([1, 0, 1], [1, 0, 1], [1, 1, 1]), (-1, 0)),  # left before right and down
        (([1, 0, 1], [0, 0, 1], [1, 1, 1]), (1, 0)),
        (([1, 0, 1], [0, 0, 0], [1, 1, 1]), (0, 1)),  # nearer than the corners, though later
        (([1, 0, 1], [0, 0, 0], [1, 0, 1]), (-1, -1)),
        (([0, 0, 1], [0, 0, 0], [1, 0, 1]), (1, -1)),
        (([1, 0, 0, 0, 1],), (-2, 0)),
        (([1, 0, 0, 1, 1],), (1, 0)),
        (([0, 0, 0],) * 8 + ([1, 0, 1],), (-1, 4)),
    ],
)
def test_hard_displacement_ties_go_to_the_nearest_then_to_the_first(costvol, rows, want):
    np.testing.assert_array_equal(costvol.hard_displacement(window(*rows)).ravel(), want)


def assert_tie(call, array, tie):
    """Closer than that the nearer offset wins over the higher score."""
    for gap, want in ((0.8 * tie, 0), (1.3 * tie, 1)):
        assert call(array([0.25, 0.25, 0.25 + gap]).reshape(1, 1, 1, 1, 3))[0, 0, 0, 0] == want, gap


@pytest.mark.parametrize("sides", [(1, 1), (1, 7), (7, 1), (3, 5), (5, 5)])
def test_hard_displacement_finds_the_highest_wherever_it_is(costvol, sides):
    for i, j in np.ndindex(sides):
        c = np.zeros((1, 1, 1, *sides))
        c[..., i, j] = 1
        np.testing.assert_array_equal(costvol.hard_displacement(c).ravel(), [j - sides[1] // 2, i - sides[0] // 2])


def test_hard_displacement_ties_scores_within_1e_12(costvol):
    assert_tie(costvol.hard_displacement, np.array, 1e-12)


def test_hard_displacement_ties_scores_within_1e_6_in_float32():
    torch = pytest.importorskip("torch")
    assert_tie(ops().hard_displacement, torch.tensor, 1e-6)


def test_hard_displacement_in_the_half_types_takes_the_tie_of_float32():
    """One unit in the last place of bfloat16 is 2**-8, far more than a tie."""
    torch = pytest.importorskip("torch")
    for dtype in (torch.bfloat16, torch.float16):
        c = torch.tensor([0.5, 0.5, 0.5], dtype=dtype).reshape(1, 1, 1, 1, 3)
        c[..., 2] += torch.finfo(dtype).eps / 2
        got = ops().hard_displacement(c)
        assert got.dtype == dtype and got[0, 0] == 1


def test_hard_displacement_has_gradient_0_and_takes_part_in_the_graph():
    c = np.random.default_rng(0).integers(-2, 3, size=(2, 3, 4, 3, 5)) / 2
    c[0, 0, 0, 0] = -np.inf
    (got,) = gradients("hard_displacement", c)
    np.testing.assert_array_equal(got, np.zeros_like(c))


# Displacement map


@each_border
@pytest.mark.parametrize("radius", [1, (2, 1), (0, 3)])
def test_displacement_map_is_its_parts(costvol, radius, border):
    f0, f1 = features()
    c = costvol.cosine(f0, f1, radius=radius, border=border)
    got = costvol.displacement_map(f0, f1, radius=radius, tau=0.07, border=border)
    want = costvol.soft_displacement(c, tau=0.07)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-14)


def test_displacement_map_in_bfloat16_rounds_once():
    """The parts round the volume in between: at tau = 0.03 that is worth tenths of a pixel."""
    torch = pytest.importorskip("torch")
    f0, f1 = (torch.tensor(f).bfloat16() for f in features())
    want = ops().displacement_map(f0.double(), f1.double(), radius=2, tau=0.03)
    whole = ops().displacement_map(f0, f1, radius=2, tau=0.03)
    parts = ops().soft_displacement(ops().cosine(f0, f1, radius=2), tau=0.03)
    assert (whole.double() - want).abs().max() < 2**-8
    assert (parts.double() - want).abs().max() > 0.03


@each_border
@pytest.mark.parametrize("u, v", [(1, 0), (0, -2), (-2, 1), (2, 2), (0, 0)])
def test_displacement_map_finds_a_shift_by_whole_pixels_as_the_temperature_falls(costvol, u, v, border):
    f0, f1 = shifted(u, v)
    errors = []
    for tau in (0.3, 0.1, 0.03, 0.01):
        flow = costvol.displacement_map(f0, f1, radius=2, tau=tau, border=border)
        inside = flow[..., 2:-2, 2:-2]  # where the goal is on the map
        errors.append(np.abs(inside - np.array([u, v]).reshape(1, 2, 1, 1)).max())
    assert errors[1] < errors[0] and errors[2] < errors[1] / 3 and errors[3] < 1e-6
    hard = costvol.hard_displacement(costvol.cosine(f0, f1, radius=2, border=border))[..., 2:-2, 2:-2]
    np.testing.assert_array_equal(hard, np.broadcast_to(np.array([u, v]).reshape(1, 2, 1, 1), hard.shape))


def test_displacement_map_under_both_border_rules_where_nothing_moves(costvol):
    """A constant map: equal scores. Of the corner's window four offsets of nine stay on the map."""
    f = np.ones((1, 2, 4, 5))
    zero, exclude = (costvol.displacement_map(f, f, radius=1, border=b, **LN2) for b in ("zero", "exclude"))
    for flow in (zero, exclude):
        np.testing.assert_allclose(flow[..., 1:-1, 1:-1], 0, atol=1e-15)
    np.testing.assert_allclose(exclude[0, :, 0, 0], [1 / 2, 1 / 2], atol=1e-15)
    np.testing.assert_allclose(zero[0, :, 0, 0], [2 / 13, 2 / 13], atol=1e-15)  # weights 1 1 1, 1 2 2, 1 2 2
    np.testing.assert_allclose(exclude[0, :, 1, -1], [-1 / 2, 0], atol=1e-15)


def test_displacement_map_of_a_zero_vector_is_the_mean_of_its_offsets_and_has_derivative_0(costvol):
    f0, f1 = features()
    f0[..., 2, 3] = f0[..., 0, 0] = 0
    for border, corner in (("zero", 0), ("exclude", 1)):
        flow = costvol.displacement_map(f0, f1, radius=2, tau=0.1, border=border)
        np.testing.assert_allclose(flow[..., 2, 3], 0, atol=1e-15)
        np.testing.assert_allclose(flow[..., 0, 0], corner, atol=1e-15)
    if costvol.torch:
        g0, g1 = gradients("displacement_map", f0, f1, radius=2, tau=0.1)
        assert (g0[..., 2, 3] == 0).all() and np.isfinite(g0).all() and np.isfinite(g1).all() and g0.any()


@each_border
def test_displacement_map_of_mirrored_and_transposed_maps(costvol, border):
    f0, f1 = features()
    options = {"tau": 0.1, "border": border}
    flow = costvol.displacement_map(f0, f1, radius=(1, 2), **options)
    mirrored = costvol.displacement_map(f0[..., ::-1].copy(), f1[..., ::-1].copy(), radius=(1, 2), **options)
    np.testing.assert_allclose(mirrored[..., ::-1] * [[[-1]], [[1]]], flow, atol=1e-14)
    turned = costvol.displacement_map(f0.swapaxes(2, 3).copy(), f1.swapaxes(2, 3).copy(), radius=(2, 1), **options)
    np.testing.assert_allclose(turned.swapaxes(2, 3)[:, ::-1], flow, atol=1e-14)


def test_displacement_map_does_not_see_the_rest_of_the_batch(costvol):
    f0, f1 = features()
    whole = costvol.displacement_map(f0, f1, radius=1, tau=0.1)
    alone = costvol.displacement_map(f0[1:], f1[1:], radius=1, tau=0.1)
    np.testing.assert_array_equal(whole[1:], alone)


def waves(u, v, C=24, H=14, W=15):
    """(1, C, H, W): channels are smooth waves, moved by (u, v), which need not be whole."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:H, :W]
    channels = []
    for kx, ky, phase in zip(rng.uniform(-1.2, 1.2, C), rng.uniform(-1.2, 1.2, C), rng.uniform(0, 7, C), strict=True):
        channels.append(np.cos(kx * (x - u) + ky * (y - v) + phase))
    return np.stack(channels)[None]


def test_soft_displacement_finds_sub_pixel_shifts_better_than_winner_takes_all(costvol):
    """Why the paper's assignment is soft. Mean error in pixels over five shifts; tau = 1 pulls all towards 0."""
    figures = {0.01: 0.37, 0.03: 0.25, 0.1: 0.14, 1.0: 0.72}
    hard, soft = [], {tau: [] for tau in figures}
    for u, v in ((0.25, 0.0), (0.5, -0.25), (-0.4, 0.6), (1.3, 0.8), (-0.75, -1.5)):
        f0, f1 = waves(0, 0), waves(u, v)
        c = costvol.cosine(f0, f1, radius=3)[:, 3:-3, 3:-3]
        goal = np.array([u, v]).reshape(1, 2, 1, 1)
        hard.append(np.hypot(*np.moveaxis(costvol.hard_displacement(c) - goal, 1, 0)).mean())
        for tau, errors in soft.items():
            errors.append(np.hypot(*np.moveaxis(costvol.soft_displacement(c, tau=tau) - goal, 1, 0)).mean())
    assert np.mean(hard) == pytest.approx(0.47, abs=0.01)
    assert {tau: np.mean(errors) for tau, errors in soft.items()} == pytest.approx(figures, abs=0.01)


# Displacement map by numba: what the generated tests of every fused implementation do not reach


def compared(f0, f1, **options):
    """Value and gradients by numba, and by eager torch."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("numba")
    found = []
    for impl in ("numba", "torch"):
        leaves = [torch.tensor(f, requires_grad=True) for f in (f0, f1)]
        out = ops().displacement_map(*leaves, tau=0.1, impl=impl, **options)
        weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
        found.append([out, *torch.autograd.grad(out, leaves, weights)])
    return zip(*found, strict=True)


@each_border
@pytest.mark.parametrize("radius", [0, 5, (0, 7), (12, 3), (4, 12)])
@pytest.mark.parametrize("shape", [(2, 3, 5, 6), (1, 9, 16, 23), (1, 2, 1, 40), (1, 1, 31, 1)])
def test_displacement_map_by_numba_at_radii_beside_and_beyond_the_map(shape, radius, border):
    torch = pytest.importorskip("torch")
    for got, want in compared(*features(shape), radius=radius, border=border):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


@each_border
def test_displacement_map_by_numba_has_nan_where_eager_has_it(border):
    """The kernel takes rows by twos: a NaN must not come to a row that the other one of the two sees."""
    torch = pytest.importorskip("torch")
    for frame in (0, 1):
        for row in range(9):
            maps = features((1, 3, 9, 11))
            maps[frame][0, 1, row, 5] = np.nan
            maps[1 - frame][0, :, 2, 4] = 0  # a zero vector has derivative 0 whatever it meets
            for got, want in compared(*maps, radius=(2, 1), border=border):
                torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11, equal_nan=True)
                assert not got.isnan().all()


@pytest.mark.parametrize("exponent", [-140, -100, 100, 120])
def test_displacement_map_by_numba_of_vectors_whose_squares_leave_float32(exponent):
    torch = pytest.importorskip("torch")
    pytest.importorskip("numba")
    f0, f1 = torch.randint(-4, 5, (2, 1, 3, 4, 5), generator=torch.Generator().manual_seed(0)).float()
    want = ops().displacement_map(f0, f1, radius=1, tau=0.1, impl="numba")
    far = [(f * 2.0**exponent).requires_grad_(True) for f in (f0, f1)]
    got = ops().displacement_map(*far, radius=1, tau=0.1, impl="numba")
    assert torch.equal(got, want)
    assert not any(g.isnan().any() for g in torch.autograd.grad(got.square().sum(), far))


@pytest.mark.parametrize("tau", [1e-4, 0.01, 1.0, 100.0])
def test_displacement_map_by_numba_in_float32_at_temperatures_far_apart(tau):
    """Its exponential is our own. Where the maximum is unique, the softmax of a low temperature is winner takes all."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("numba")
    f0, f1 = (torch.tensor(f) for f in features((2, 8, 14, 15)))
    want = ops().displacement_map(f0, f1, radius=3, tau=tau)
    got = ops().displacement_map(f0.float(), f1.float(), radius=3, tau=tau, impl="numba")
    # Scores are right to some units in the last place of 1, weights to those over tau.
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-5 + 2e-6 / tau)


def test_displacement_map_of_a_radius_that_no_kernel_has():
    """`impl="auto"` is then eager."""
    torch = pytest.importorskip("torch")
    f0, f1 = map(torch.tensor, features())
    expected = "impl: expected 'auto' or 'torch', because triton lacks radius=(1, 13), above 12, got 'triton'"
    with pytest.raises(ValueError, match=re.escape(expected)):
        ops().displacement_map(f0, f1, radius=(1, 13), tau=0.1, impl="triton")
    assert ops().displacement_map(f0, f1, radius=(1, 13), tau=0.1).isfinite().all()


@each_dtype
def test_equal_scores_move_nothing_at_all(costvol, dtype):
    """Not by 1e-17: at a border that would be outside of the map, and `warp.motion` would give 0."""
    f0, f1 = np.zeros((1, 3, 6, 5), dtype), np.random.default_rng(0).normal(size=(1, 3, 6, 5)).astype(dtype)
    for tau in (0.03, 0.7):
        assert not np.asarray(costvol.displacement_map(f0, f1, radius=(3, 2), tau=tau)).any()
