"""Warping: what is read where, what happens at the border and beyond it, the derivative at each kink (DC18 §3.4)."""

import importlib

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from voices import both

from motionspec.flow import read_flow

warp = both("warp")


def slopes(voice, name, x, flow, axis, side=1, **options):
    """d value / d flow[axis] at every pixel: autograd, or a difference of the reference on that side.

    The step is 2**-20, so on small whole numbers and halves the difference is exact.
    """
    if voice.torch is None:
        step = np.zeros_like(flow)
        step[:, axis] = side * 2.0**-20
        call = getattr(voice, name)
        return ((call(x, flow + step, **options) - call(x, flow, **options)) / (side * 2.0**-20)).sum(axis=1)
    leaf = voice.torch.tensor(flow, requires_grad=True)
    getattr(voice.module, name)(voice.torch.tensor(x), leaf, **options).sum().backward()
    return leaf.grad[:, axis].numpy()


def gradients(name, x, flow, weights=None, **options):
    """d sum(weights * value) / d x and d flow, by autograd of the operator."""
    torch = pytest.importorskip("torch")
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, flow)]
    out = getattr(importlib.import_module("motionspec.ops.warp"), name)(*leaves, **options)
    weights = torch.ones_like(out) if weights is None else torch.tensor(weights)
    return [g.numpy() for g in torch.autograd.grad(out, leaves, weights)]


each_outside = pytest.mark.parametrize("outside", ["zero", "blend"])
each_axis = pytest.mark.parametrize("axis", [0, 1], ids=["x", "y"])
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])

IMAGE = np.array(
    [
        [0.0, 2, 4, 8, 8],
        [1, 3, 9, 7, 5],
        [6, 6, 2, 2, 0],
        [0, 4, 8, 2, 4],
        [2, 2, 0, 6, 9],
    ]
)
X = IMAGE[None, None]


def uniform(u, v, H=5, W=5):
    """(1, 2, H, W), the same flow everywhere."""
    return np.array([u, v], float).reshape(1, 2, 1, 1) + np.zeros((1, 2, H, W))


def line(axis, values, flow, dtype=float):
    """A map that is one row (axis 0) or one column (axis 1), and a flow along it."""
    x = np.array(values, dtype).reshape(1, 1, 1, -1)
    d = np.zeros((1, 2, 1, x.shape[-1]), dtype)
    d[0, axis, 0] = flow
    return (x, d) if axis == 0 else (x.swapaxes(2, 3), d.swapaxes(2, 3))


def read_at(axis, values, coordinates):
    """As `line`, with the flow that sends pixel k to the k-th coordinate."""
    return line(axis, values, np.array(coordinates) - np.arange(len(values)))


# Values


@each_outside
@each_dtype
def test_no_flow_returns_the_map_exactly(warp, dtype, outside):
    """Coordinates scaled to [-1, 1] and back would not: at width 4999 float32 is off by some 1e-4 pixels."""
    x = np.random.default_rng(0).normal(size=(1, 2, 1, 4999)).astype(dtype)
    np.testing.assert_array_equal(warp.bilinear(x, np.zeros((1, 2, 1, 4999), dtype), outside=outside), x)


@each_outside
@each_dtype
def test_integer_flow_copies_pixels_exactly(warp, dtype, outside):
    """Channel 0 of the flow goes right, channel 1 goes down; each sample and pixel has its own."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 2, 5, 7)).astype(dtype)
    flow = rng.integers(-4, 5, size=(2, 2, 5, 7)).astype(dtype)
    want = np.zeros_like(x)
    for n, j, i in np.ndindex(2, 5, 7):
        qx, qy = i + int(flow[n, 0, j, i]), j + int(flow[n, 1, j, i])
        if 0 <= qx < 7 and 0 <= qy < 5:
            want[n, :, j, i] = x[n, :, qy, qx]
    np.testing.assert_array_equal(warp.bilinear(x, flow, outside=outside), want)


def test_printed_answer_half_a_pixel_right_and_up(warp):
    # Each value is the mean of a pixel, its right, its upper and its upper right neighbour: (1 + 3 + 0 + 2)/4 = 1.5.
    # The top row and the last column read half a pixel outside: `zero` gives 0, `blend` counts two zeros, (0 + 2)/4.
    zero = [
        [0, 0, 0, 0, 0],
        [1.5, 4.5, 7, 7, 0],
        [4, 5, 5, 3.5, 0],
        [4, 5, 3.5, 2, 0],
        [2, 3.5, 4, 5.25, 0],
    ]
    blend = [
        [0.5, 1.5, 3, 4, 2],
        [1.5, 4.5, 7, 7, 3.25],
        [4, 5, 5, 3.5, 1.25],
        [4, 5, 3.5, 2, 1],
        [2, 3.5, 4, 5.25, 3.25],
    ]
    np.testing.assert_array_equal(warp.bilinear(X, uniform(0.5, -0.5))[0, 0], zero)
    np.testing.assert_array_equal(warp.bilinear(X, uniform(0.5, -0.5), outside="blend")[0, 0], blend)


@each_outside
def test_linear_images_are_reproduced_exactly_inside(warp, outside):
    j, i = np.mgrid[:6, :9].astype(float)
    rng = np.random.default_rng(0)
    qx, qy = rng.integers(0, 8 * 8 + 1, i.shape) / 8, rng.integers(0, 5 * 8 + 1, i.shape) / 8  # border included
    x = (3 * i - 5 * j + 7)[None, None]
    got = warp.bilinear(x, np.stack([qx - i, qy - j])[None], outside=outside)
    np.testing.assert_array_equal(got[0, 0], 3 * qx - 5 * qy + 7)


@each_axis
def test_bilinear_blend_fades_where_zero_cuts(warp, axis):
    """The paper sets samples from outside to zero; `grid_sample` blends them with zero over one pixel."""
    values = [4.0, 8, 16, 32, 64]
    for coordinates, zero, blend in (
        ([-1, -0.75, -0.25, 0, 0.25], [0, 0, 0, 4, 5], [0, 1, 3, 4, 5]),
        ([3.75, 4, 4.25, 4.75, 5], [56, 64, 0, 0, 0], [56, 64, 48, 16, 0]),
    ):
        x, flow = read_at(axis, values, coordinates)
        np.testing.assert_array_equal(warp.bilinear(x, flow).ravel(), zero)
        np.testing.assert_array_equal(warp.bilinear(x, flow, outside="blend").ravel(), blend)


def test_all_four_corners_belong_to_the_map_and_a_quarter_pixel_beyond_does_not(warp):
    x = np.array([[1.0, 2], [4, 8]])[None, None]
    corners = np.array([[[0.0, 1], [0, 1]], [[0, 0], [1, 1]]])  # pixel p reads corner p, so the flow is 0
    away = np.where(corners == 0, -0.25, 0.25)[None]
    np.testing.assert_array_equal(warp.bilinear(x, 0 * away), x)
    np.testing.assert_array_equal(warp.bilinear(x, away), 0 * x)
    np.testing.assert_array_equal(warp.bilinear(x, away, outside="blend"), 0.75**2 * x)
    for axis in (0, 1):  # beyond one border only
        beyond = away.copy()
        beyond[:, 1 - axis] = 0
        np.testing.assert_array_equal(warp.bilinear(x, beyond), 0 * x)
        np.testing.assert_array_equal(warp.bilinear(x, beyond, outside="blend"), 0.75 * x)


# What decides: the flow itself, not the rounded sum p + flow


@each_axis
@each_dtype
def test_inside_is_decided_on_the_flow_not_on_the_rounded_sum(warp, axis, dtype):
    W = 1921
    p = np.arange(W, dtype=dtype)
    last = W - 1 - p  # to the centre of the last pixel, exactly
    before, beyond = np.nextafter(-p, dtype(-np.inf)), np.nextafter(last, dtype(np.inf))
    assert p[-2] + beyond[-2] == W - 1  # the sum lies: 1919 + (1 + eps) rounds to 1920
    values = np.linspace(1, 2, W).astype(dtype)
    for flow, value in ((-p, values[0]), (before, 0), (last, values[-1]), (beyond, 0)):
        np.testing.assert_array_equal(warp.bilinear(*line(axis, values, flow, dtype)).ravel(), value)


@each_axis
@each_dtype
def test_a_tiny_negative_flow_at_the_first_pixel_is_outside(warp, axis, dtype):
    x, flow = line(axis, [3, 5, 9], -np.finfo(dtype).tiny, dtype)
    np.testing.assert_array_equal(warp.bilinear(x, flow).ravel(), [0, 5, 9])
    np.testing.assert_array_equal(warp.bilinear(x, flow, outside="blend").ravel(), [3, 5, 9])  # fades by 1e-38 of it


@each_outside
@each_axis
@each_dtype
def test_fraction_is_taken_of_the_flow_itself(warp, axis, dtype, outside):
    """A step from 0 to 1 shows the fraction. 4000.3 - 4000 would be 0.30005 in float32."""
    p = 4000
    flow = np.zeros(p + 2, dtype)
    flow[p] = 0.3
    values = (np.arange(p + 2) > p).astype(dtype)
    assert warp.bilinear(*line(axis, values, flow, dtype), outside=outside).ravel()[p] == flow[p]


# Independent samplers


def random_case():
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, 3, 6, 7)), rng.normal(scale=4, size=(2, 2, 6, 7))


def test_blend_is_grid_sample_with_zero_padding_and_aligned_corners(warp):
    torch = pytest.importorskip("torch")
    x, flow = random_case()
    j, i = np.mgrid[:6, :7]
    grid = np.stack([2 * (i + flow[:, 0]) / 6 - 1, 2 * (j + flow[:, 1]) / 5 - 1], axis=-1)
    want = torch.nn.functional.grid_sample(
        torch.tensor(x), torch.tensor(grid), mode="bilinear", padding_mode="zeros", align_corners=True
    )
    np.testing.assert_allclose(warp.bilinear(x, flow, outside="blend"), want.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("outside, mode", [("zero", "constant"), ("blend", "grid-constant")])
def test_scipy_map_coordinates_agrees(warp, outside, mode):
    x, flow = random_case()
    j, i = np.mgrid[:6, :7]
    got = warp.bilinear(x, flow, outside=outside)
    for n, c in np.ndindex(2, 3):
        want = map_coordinates(x[n, c], [j + flow[n, 1], i + flow[n, 0]], order=1, mode=mode, cval=0)
        np.testing.assert_allclose(got[n, c], want, rtol=0, atol=1e-12)


# NaN, infinity, huge


@each_outside
@each_dtype
def test_nan_flow_gives_nan_at_that_pixel_only(warp, dtype, outside):
    x = X.astype(dtype).repeat(2, axis=1)
    want = x.copy()
    flow = np.zeros((1, 2, 5, 5), dtype)
    for j, i, uv in ((0, 0, (np.nan, 0)), (2, 3, (0, np.nan)), (4, 4, (np.nan, np.nan)), (1, 1, (np.nan, np.inf))):
        flow[0, :, j, i] = uv
        want[0, :, j, i] = np.nan
    np.testing.assert_array_equal(warp.bilinear(x, flow, outside=outside), want)
    np.testing.assert_array_equal(warp.motion(x, flow, outside=outside), want)


@each_outside
@each_dtype
@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e30, -1e30, 2.0**31, 2.0**32, -(2.0**32)])
def test_infinite_and_huge_flow_is_outside(warp, dtype, outside, value):
    x = X.astype(dtype)
    for k in (0, 1):
        flow = np.zeros((1, 2, 5, 5), dtype)
        flow[0, k, 2, 3] = value
        want = x.copy()
        want[0, 0, 2, 3] = 0
        np.testing.assert_array_equal(warp.bilinear(x, flow, outside=outside), want)


@each_outside
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_pixels_without_a_source_have_no_derivative_and_disturb_no_other(outside, value):
    rng = np.random.default_rng(0)
    x, flow = rng.normal(size=(1, 2, 5, 5)), rng.uniform(-0.9, 0.9, size=(1, 2, 5, 5))
    without = np.ones_like(x)
    without[..., 2, 3] = 0
    want_x, want_flow = gradients("bilinear", x, flow, without, outside=outside)
    for k in (0, 1, slice(None)):
        bad = flow.copy()
        bad[0, k, 2, 3] = value
        got_x, got_flow = gradients("bilinear", x, bad, outside=outside)
        assert (got_flow[..., 2, 3] == 0).all()
        np.testing.assert_array_equal(got_flow, want_flow)
        np.testing.assert_allclose(got_x, want_x, rtol=0, atol=1e-14)


# Derivatives at the kinks


@each_axis
@pytest.mark.parametrize("side", [4, 5])
def test_zero_flow_derivative_is_from_above_and_in_the_last_line_from_below(warp, axis, side):
    """`zero`: the difference to the next pixel, in the last column or row the one to the pixel before."""
    x, still = X[..., :side, :side], uniform(0, 0, side, side)
    ahead = np.diff(x[0, 0], axis=1 - axis)
    last = ahead[:, -1:] if axis == 0 else ahead[-1:]
    above = slopes(warp, "bilinear", x, still, axis, +1)[0]
    below = slopes(warp, "bilinear", x, still, axis, -1)[0]
    got = np.concatenate([above[:, :-1], below[:, -1:]] if axis == 0 else [above[:-1], below[-1:]], axis=1 - axis)
    np.testing.assert_array_equal(got, np.concatenate([ahead, last], axis=1 - axis))


@each_axis
def test_blend_derivative_in_the_last_line_is_the_fall_to_zero(warp, axis):
    got = slopes(warp, "bilinear", X, uniform(0, 0), axis, outside="blend")[0]
    beyond = np.zeros((5, 1)) if axis == 0 else np.zeros((1, 5))
    np.testing.assert_array_equal(got, np.diff(IMAGE, axis=1 - axis, append=beyond))  # last: 0 - x[W-1]


@each_axis
def test_derivative_at_each_integer_coordinate_of_a_line(warp, axis):
    def line_slopes(coordinates, side, outside):
        x, flow = read_at(axis, [4.0, 8, 16, 32, 64], coordinates)
        return slopes(warp, "bilinear", x, flow, axis, side, outside=outside).ravel().tolist()

    # Inside and at the first pixel, from above: the differences 4 8 16 32.
    assert line_slopes([3, 2, 1, 0, 0], +1, "zero") == [32, 16, 8, 4, 4]
    assert line_slopes([3, 2, 1, 0, 0], +1, "blend") == [32, 16, 8, 4, 4]
    # The last pixel, wherever it is read from.
    assert line_slopes([4] * 5, -1, "zero") == [32] * 5
    assert line_slopes([4] * 5, +1, "blend") == [-64] * 5
    # Outside `zero` is flat.
    assert line_slopes([-2, -1, -0.5, 4.5, 5], +1, "zero") == [0] * 5


@each_axis
def test_blend_rises_from_minus_one_and_is_flat_from_w_on(warp, axis):
    """The two kinks outside the map, and the slopes between: from above at -1 is x[0] - 0, at W it is 0."""
    x, flow = read_at(axis, [4.0, 8, 16, 32, 64], [-2, -1, -0.5, 4.5, 5])
    got = slopes(warp, "bilinear", x, flow, axis, outside="blend").ravel()
    np.testing.assert_array_equal(got, [0, 4, 4, -64, 0])


@each_axis
def test_derivative_at_the_last_line_takes_its_cell_across(warp, axis):
    """On the last column, half-way between rows 1 and 2: the mean of their last differences, (-2 - 2)/2."""
    x = X if axis == 0 else X.swapaxes(2, 3)
    flow = uniform(0, 0.5) if axis == 0 else uniform(0.5, 0)
    got = slopes(warp, "bilinear", x, flow, axis, -1)[0]
    assert (got if axis == 0 else got.T)[1, 4] == -2


@each_axis
@each_outside
@each_dtype
def test_just_below_an_integer_coordinate_the_cell_is_the_one_below(axis, outside, dtype):
    """2 - 1e-30 rounds to 2, but the floor of -1e-30 is -1: the derivative is x[2] - x[1]."""
    x, flow = line(axis, [4, 8, 16, 32, 64], -1e-30, dtype)
    got = gradients("bilinear", x, flow, outside=outside)[1][:, axis].ravel()
    np.testing.assert_array_equal(got, [0 if outside == "zero" else 4, 4, 8, 16, 32])


@each_axis
def test_a_side_of_one_pixel(warp, axis):
    """`zero`: the value is there at 0 alone and the derivative is 0. `blend`: a tent, from above 0 - x."""
    x, flow = line(axis, [7.0], 0)
    for d, zero, blend in ((0, 7, 7), (0.25, 0, 5.25), (-0.25, 0, 5.25), (1, 0, 0), (-1, 0, 0)):
        assert warp.bilinear(*line(axis, [7.0], d)) == zero
        assert warp.bilinear(*line(axis, [7.0], d), outside="blend") == blend
    assert slopes(warp, "bilinear", x, flow, axis, outside="blend") == -7
    if warp.torch:  # no side has a difference: the value jumps on both
        assert slopes(warp, "bilinear", x, flow, axis) == 0


@each_axis
def test_motion_derivative_above_in_the_coordinate_is_below_in_the_flow(warp, axis):
    """d/dV of F(p - V) = -F' from above: inside -(x[i+1] - x[i]), in the last line of `zero` -(x[W-1] - x[W-2])."""
    x, flow = line(axis, [4.0, 8, 16, 32, 64], 0)
    np.testing.assert_array_equal(slopes(warp, "motion", x, flow, axis, -1).ravel()[:-1], [-4, -8, -16, -32])
    assert slopes(warp, "motion", x, flow, axis, +1).ravel()[-1] == -32
    got = slopes(warp, "motion", x, flow, axis, -1, outside="blend").ravel()
    np.testing.assert_array_equal(got, [-4, -8, -16, -32, 64])


# Linear in the map


@each_outside
def test_warp_is_linear_in_the_map_and_its_gradient_is_the_adjoint(warp, outside):
    """Column k of the matrix is the answer to a unit impulse at pixel k."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 1, 1, 4, 5))
    flow = rng.normal(scale=1.5, size=(1, 2, 4, 5))
    impulses = np.eye(20).reshape(20, 1, 4, 5)
    matrix = warp.bilinear(impulses, flow.repeat(20, axis=0), outside=outside).reshape(20, 20).T
    sums = matrix.sum(axis=1)  # the weights of a value: 1 inside, 0 outside, between them where `blend` fades
    assert (np.abs(sums * (sums - 1)) < 1e-14).all() == (outside == "zero")
    assert (matrix >= 0).all() and sums.max() < 1 + 1e-14 and sums.min() == 0
    np.testing.assert_allclose(warp.bilinear(x, flow, outside=outside).ravel(), matrix @ x.ravel(), atol=1e-14)
    if warp.torch:
        got, _ = gradients("bilinear", x, flow, y, outside=outside)
        np.testing.assert_allclose(got.ravel(), matrix.T @ y.ravel(), atol=1e-14)


# Motion and difference


@each_outside
def test_motion_is_bilinear_with_the_opposite_flow(warp, outside):
    x, flow = random_case()
    np.testing.assert_array_equal(
        warp.motion(x, flow, outside=outside), warp.bilinear(x, -flow, outside=outside), strict=True
    )


@each_outside
@each_dtype
def test_a_constant_integer_shift_leaves_no_difference_inside(warp, dtype, outside):
    """The scene goes 2 to the right and 1 up. What came in at the left and the bottom is new: there F_(t+1) stays."""
    scene = np.random.default_rng(0).normal(size=(1, 2, 9, 10)).astype(dtype)
    f0, f1 = scene[..., 1:7, 2:9], scene[..., 2:8, 0:7]
    got = warp.difference(f0, f1, uniform(2, -1, 6, 7).astype(dtype), outside=outside)
    want = f1.copy()
    want[..., :-1, 2:] = 0
    np.testing.assert_array_equal(got, want)
    assert warp.difference(f0, f1, -uniform(2, -1, 6, 7).astype(dtype), outside=outside)[..., 1:-1, 2:-2].all()


@each_outside
def test_difference_is_the_later_frame_minus_the_moved_earlier_one(warp, outside):
    f0, flow = random_case()
    f1 = f0[::-1].copy()
    np.testing.assert_array_equal(
        warp.difference(f0, f1, flow, outside=outside), f1 - warp.motion(f0, flow, outside=outside)
    )


def test_difference_sends_its_gradient_into_the_flow():
    torch = pytest.importorskip("torch")
    ops = importlib.import_module("motionspec.ops.warp")
    f0, flow = random_case()
    leaf = torch.tensor(flow, requires_grad=True)
    ops.difference(torch.tensor(f0), torch.zeros(f0.shape, dtype=torch.float64), leaf).sum().backward()
    np.testing.assert_allclose(leaf.grad, -gradients("motion", f0, flow)[1], rtol=0, atol=1e-14)
    assert leaf.grad.abs().max() > 1


# Real images


@pytest.mark.parametrize("sign, apart", [(1, 1.28), (-1, 8.41)])
def test_true_flow_warps_the_second_frame_back_to_the_first(warp, realdata, sign, apart):
    """Middlebury RubberWhale, 5.58 grey levels apart on the mean; minus the flow takes it further away.

    Counted where the flow is known and both it and minus it stay on the image.
    """
    cv2 = pytest.importorskip("cv2")
    folder = realdata / "flow" / "middlebury"
    f0, f1 = (
        cv2.imread(str(folder / "other-data" / "RubberWhale" / f"frame{k}.png"), cv2.IMREAD_GRAYSCALE).astype(float)
        for k in (10, 11)
    )
    flow, known = read_flow(folder / "other-gt-flow" / "RubberWhale" / "flow10.flo")
    flow = np.where(known, flow, 0).astype(float)
    j, i = np.indices(f0.shape)
    for qx, qy in ((i + flow[0], j + flow[1]), (i - flow[0], j - flow[1])):
        known &= (qx >= 0) & (qx <= f0.shape[1] - 1) & (qy >= 0) & (qy <= f0.shape[0] - 1)
    back = warp.bilinear(f1[None, None], sign * flow[None])[0, 0]
    assert np.abs(f1 - f0)[known].mean() == pytest.approx(5.58, abs=0.005)
    assert np.abs(back - f0)[known].mean() == pytest.approx(apart, abs=0.005)
