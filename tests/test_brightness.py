"""Brightness constancy: exact answers, the order of its linearisation, and the zero vectors (OFF18 §3, RF19 §3.1)."""

import importlib

import numpy as np
import pytest
from voices import both

brightness = both("brightness")


def gradients(name, *arrays, output=None):
    """d sum(output) / d each argument, by autograd of the operator; `output` may be a slice of the first result."""
    torch = pytest.importorskip("torch")
    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    out = getattr(importlib.import_module("motionspec.ops.brightness"), name)(*leaves)
    out = out if output is None else output(out)
    return [g.numpy() for g in torch.autograd.grad(out.sum(), leaves, materialize_grads=True)]


def pixel(*channels, dtype=float):
    """(1, C, 1, 1)."""
    return np.array(channels, dtype).reshape(1, -1, 1, 1)


def uniform(u, v, H, W):
    """(1, 2, H, W), the same flow everywhere."""
    return np.array([u, v], float).reshape(1, 2, 1, 1) + np.zeros((1, 2, H, W))


# An analytic scene: the point p = (x, y) of F0 goes to p + s * velocity(p), so F_s(p + s velocity(p)) = F0(p) exactly.


def image(x, y):
    return np.sin(0.31 * x + 0.17 * y) + 0.5 * np.cos(0.23 * x - 0.41 * y)


def image_gradient(x, y):
    a, b = np.cos(0.31 * x + 0.17 * y), -0.5 * np.sin(0.23 * x - 0.41 * y)
    return 0.31 * a + 0.23 * b, 0.17 * a - 0.41 * b


def velocity(x, y):
    return np.cos(0.11 * y + 0.3), 0.8 * np.sin(0.13 * x - 0.2)


def moved(x, y, s):
    """F_s: the image at the point that arrives at (x, y). Each round gains a digit: |s grad velocity| < 0.13."""
    px, py = x, y
    for _ in range(20):
        u, v = velocity(px, py)
        px, py = x - s * u, y - s * v
    return image(px, py)


def grid(h=1.0, side=16):
    return np.meshgrid(np.arange(0, side + h, h), np.arange(0, side + h, h))


def maps(*images):
    """(1, C, H, W)."""
    return np.stack(images)[None]


def orders(errors):
    """log2 of how much each halving gains."""
    errors = np.array(errors)
    assert (errors > 1e-10).all()  # far from rounding
    return np.log2(errors[:-1] / errors[1:])


# constancy_residual


def test_constancy_residual_of_an_integer_shift_is_exactly_zero(brightness):
    """F0(p) = F1(p + flow): the scene goes 2 right and 1 up. A flow of any other direction leaves something."""
    scene = np.random.default_rng(0).normal(size=(2, 3, 9, 10))
    f0, f1 = scene[..., 1:7, 2:9], scene[..., 2:8, 0:7]
    flow = uniform(2, -1, 6, 7).repeat(2, axis=0)
    stays = np.zeros((2, 1, 6, 7), bool)
    stays[..., 1:, :-2] = True  # what goes beyond the right or the upper border leaves
    residual, mask = brightness.constancy_residual(f0, f1, flow)
    np.testing.assert_array_equal(residual, np.zeros_like(f0))
    np.testing.assert_array_equal(mask, stays, strict=True)
    for other in (-flow, flow[:, [1, 0]], flow * [[[1]], [[-1]]]):
        residual, mask = brightness.constancy_residual(f0, f1, other)
        np.testing.assert_array_equal(residual != 0, mask.repeat(3, axis=1))  # outside the mask it is 0, never -F0


def test_constancy_residual_is_later_minus_earlier(brightness):
    # Half-way between 4 and 10 is 7; 7 - 5 = 2. The last pixel is read at 1 + 0: 10 - 6.
    f0, f1 = np.array([5.0, 6]).reshape(1, 1, 1, 2), np.array([4.0, 10]).reshape(1, 1, 1, 2)
    flow = np.array([[0.5, 0], [0, 0]]).reshape(1, 2, 1, 2)
    residual, mask = brightness.constancy_residual(f0, f1, flow)
    assert residual.ravel().tolist() == [2, 4] and mask.all()


def test_constancy_mask_includes_the_border_and_nothing_beyond(brightness):
    W = 5
    f = np.ones((1, 1, 1, W))
    p = np.arange(W)
    for k, (H, V) in enumerate(((1, W), (W, 1))):
        for target, inside in ((0, True), (W - 1, True), (-0.25, False), (W - 0.75, False)):
            flow = np.zeros((1, 2, 1, W))
            flow[0, k, 0] = target - p
            turn = (lambda a: a) if k == 0 else (lambda a: a.swapaxes(2, 3))
            residual, mask = brightness.constancy_residual(turn(f), turn(2 * f), turn(flow))
            assert residual.shape == (1, 1, H, V)
            assert (mask == inside).all() and (residual == inside).all()  # 2 - 1, or masked


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e30, -1e30])
def test_huge_flow_is_masked(brightness, value):
    f = np.random.default_rng(0).normal(size=(1, 2, 3, 4))
    for k in (0, 1):
        flow = np.zeros((1, 2, 3, 4))
        flow[0, k, 1, 2] = value
        residual, mask = brightness.constancy_residual(f, f + 1, flow)
        assert (residual[..., 1, 2] == 0).all() and not mask[..., 1, 2].any()
        assert mask.sum() == 11 and np.count_nonzero(residual) == 22


@pytest.mark.parametrize("uv", [(np.nan, 0), (0, np.nan), (np.nan, np.nan), (np.nan, 1e30), (-np.inf, np.nan)])
def test_nan_flow_gives_a_nan_residual_and_no_mask(brightness, uv):
    """Also where the other component leaves the map."""
    f = np.random.default_rng(0).normal(size=(1, 2, 3, 4))
    flow = np.zeros((1, 2, 3, 4))
    flow[0, :, 1, 2] = uv
    residual, mask = brightness.constancy_residual(f, f + 1, flow)
    np.testing.assert_array_equal(np.isnan(residual), ~mask.repeat(2, axis=1))
    assert not mask[0, 0, 1, 2] and mask.sum() == 11


def test_masked_points_have_no_derivative():
    """Neither in the flow nor in the frames: F0 is subtracted where the mask is True only. Even a NaN stays out."""
    f0 = np.array([3, np.nan, np.nan, 5]).reshape(1, 1, 1, 4)
    f1 = np.array([4.0, 8, 16, 32]).reshape(1, 1, 1, 4)
    flow = np.zeros((1, 2, 1, 4))
    flow[0, 0, 0] = [0, 5, np.inf, 0]

    def residual(out):
        assert out[0].flatten().tolist() == [1, 0, 0, 27]  # 4 - 3, 32 - 5
        return out[0]

    d0, d1, d_flow = gradients("constancy_residual", f0, f1, flow, output=residual)
    assert d0.ravel().tolist() == [-1, 0, 0, -1] and d1.ravel().tolist() == [1, 0, 0, 1]
    # From above 8 - 4; in the last column, where nothing above belongs to the map, from below 32 - 16.
    assert d_flow.ravel().tolist() == [4, 0, 0, 16, 0, 0, 0, 0]


def test_nan_flow_sends_no_derivative_to_the_flow_or_the_later_frame():
    f = np.random.default_rng(0).normal(size=(1, 1, 1, 3))
    flow = np.array([[0, np.nan, 0], [0, 0, 0]]).reshape(1, 2, 1, 3)
    _, d1, d_flow = gradients("constancy_residual", f, f + 1, flow, output=lambda out: out[0])
    assert d1.ravel().tolist() == [1, 0, 1]
    assert (d_flow[..., 1] == 0).all() and (d_flow[0, 0, 0, [0, 2]] != 0).all()


# gradient


def test_impl_torch_is_that_of_the_warp_too():
    """In float32, for which `auto` takes a fused warp where there is one, without a second derivative."""
    torch = pytest.importorskip("torch")
    brightness = importlib.import_module("motionspec.ops.brightness")
    f0, f1 = torch.randn((2, 1, 2, 4, 5), generator=torch.Generator().manual_seed(0))
    flow = torch.full((1, 2, 4, 5), 0.25, requires_grad=True)
    residual, _ = brightness.constancy_residual(f0, f1, flow, impl="torch")
    (first,) = torch.autograd.grad(residual.square().sum(), flow, create_graph=True)
    assert torch.autograd.grad(first.sum(), flow)[0].any()


def test_gradient_of_a_ramp_is_its_slope_up_to_the_border(brightness):
    y, x = np.mgrid[:5, :6].astype(float)
    fx, fy = brightness.gradient(maps(3 * x + 5 * y + 7, 2 * y))
    assert (fx[:, 0] == 3).all() and (fy[:, 0] == 5).all()  # y points down
    assert (fx[:, 1] == 0).all() and (fy[:, 1] == 2).all()


def test_gradient_printed_answer(brightness):
    f = [
        [0, 2, 4, 8, 8],
        [1, 3, 9, 7, 5],
        [6, 6, 2, 2, 0],
        [0, 4, 8, 2, 4],
        [2, 2, 0, 6, 9],
    ]
    want_x = [  # first row: 2 - 0, (4 - 0)/2, (8 - 2)/2, (8 - 4)/2, 8 - 8
        [2, 2, 3, 2, 0],
        [2, 4, 2, -2, -2],
        [0, -2, -2, -1, -2],
        [4, 4, -1, -2, 2],
        [0, -1, 2, 4.5, 3],
    ]
    want_y = [  # first column: 1 - 0, (6 - 0)/2, (0 - 1)/2, (2 - 6)/2, 2 - 0
        [1, 1, 5, -1, -3],
        [3, 2, -1, -3, -4],
        [-0.5, 0.5, -0.5, -2.5, -0.5],
        [-2, -2, -1, 2, 4.5],
        [2, -2, -8, 4, 5],
    ]
    fx, fy = brightness.gradient(np.array(f, float)[None, None])
    np.testing.assert_array_equal(fx[0, 0], want_x)
    np.testing.assert_array_equal(fy[0, 0], want_y)


def test_gradient_along_a_side_of_length_one_is_zero_and_of_length_two_one_sided(brightness):
    f = np.array([1.0, 4]).reshape(1, 1, 1, 2)
    for turned in (False, True):
        fx, fy = brightness.gradient(f.swapaxes(2, 3) if turned else f)
        along, across = (fy, fx) if turned else (fx, fy)
        assert along.ravel().tolist() == [3, 3] and across.ravel().tolist() == [0, 0]
    assert [g.item() for g in brightness.gradient(pixel(7))] == [0, 0]


def test_gradient_is_of_order_two_inside_and_one_in_the_border_line(brightness):
    inside, border = [], []
    for h in (1, 1 / 2, 1 / 4, 1 / 8):
        x, y = grid(h)
        got = np.concatenate(brightness.gradient(maps(image(x, y))), axis=1)[0] / h
        error = np.abs(got - np.stack(image_gradient(x, y)))
        inside.append(error[..., 1:-1, 1:-1].max())
        border.append(error[0, :, 0].max())  # fx in the first column
    np.testing.assert_allclose(orders(inside), 2, atol=0.1)
    np.testing.assert_allclose(orders(border), 1, atol=0.1)


# linearised_residual: the derivation of (3) and (4) as statements about order


def analytic(brightness, s, dt=1.0):
    """The largest |Fx u + Fy v + Ft| with analytic gradient and sampling; dt divides Ft and the displacement s w."""
    x, y = grid()
    ft = (moved(x, y, s) - image(x, y)) / dt
    fx, fy = image_gradient(x, y)
    return brightness.linearised_residual(maps(fx), maps(fy), maps(ft), s / dt * maps(*velocity(x, y)))


def test_linearised_residual_by_hand(brightness):
    """3x + 5y moves by (2, 1) and falls by 3*2 + 5*1. Each channel sees the one flow."""
    got = brightness.linearised_residual(pixel(3, 10), pixel(5, 100), pixel(-11, 1000), pixel(2, 1))
    assert got.ravel().tolist() == [0, 1120]  # 10*2 + 100*1 + 1000


def test_linearised_residual_is_of_order_two_in_the_displacement(brightness):
    errors = [np.abs(analytic(brightness, s)).max() for s in 0.5 ** np.arange(2, 9)]
    np.testing.assert_allclose(orders(errors), 2, atol=0.05)


def test_dividing_by_dt_costs_one_order(brightness):
    """(3) is O(dt^2), (4) = (3)/dt is O(dt). At powers of two the division is exact."""
    steps = 0.5 ** np.arange(2, 9)
    for dt in steps:
        np.testing.assert_array_equal(analytic(brightness, dt, dt), analytic(brightness, dt) / dt)
    np.testing.assert_allclose(orders([np.abs(analytic(brightness, dt, dt)).max() for dt in steps]), 1, atol=0.05)


def sampled(brightness, h, s):
    """At spacing h and displacement s, with central differences and bilinear sampling: the largest value of the
    linearised residual, of the residual that it approximates (truly 0), and of their difference."""
    x, y = grid(h)
    f0, f1, flow = maps(image(x, y)), maps(moved(x, y, s)), s / h * maps(*velocity(x, y))  # in pixels
    residual, mask = brightness.constancy_residual(f0, f1, flow)
    linear = brightness.linearised_residual(*brightness.gradient(f0), f1 - f0, flow)
    assert mask.mean() > 0.8
    return np.abs(linear).max(), np.abs(residual).max(), np.abs(linear - residual)[mask].max()


def test_sampled_residuals_are_of_order_two_in_the_grid_spacing_at_fixed_flow_in_pixels(brightness):
    errors = [sampled(brightness, h, h) for h in (1, 1 / 2, 1 / 4, 1 / 8)]
    for kind in zip(*errors, strict=True):
        np.testing.assert_allclose(orders(kind)[1:], 2, atol=0.1)


def test_sampled_residuals_are_only_of_order_one_in_the_displacement_on_a_fixed_grid(brightness):
    """The error of gradient and sampling is multiplied by the displacement, and stays when that is halved."""
    errors = [sampled(brightness, 1, s) for s in 0.5 ** np.arange(7, 12)]
    for kind in zip(*errors, strict=True):
        np.testing.assert_allclose(orders(kind), 1, atol=0.1)


def test_rf19_taylor_line_has_the_wrong_sign(brightness):
    """Printed: I2 = I1 + dI/dx dx + dI/dy dy, with I1(x, y) = I2(x + dx, y + dy). By that definition it is I1 - ...

    On the ramp 3x + 5y moved by (2, 1) the first order is exact: I2 = I1 - 11, and the printed line says I1 + 11.
    """
    y, x = np.mgrid[:5, :6].astype(float)
    i1 = maps(3 * x + 5 * y)
    i2 = i1 - 11  # I2(x + 2, y + 1) = 3(x + 2) + 5(y + 1) - 11 = I1(x, y)
    flow = uniform(2, 1, 5, 6)
    residual, mask = brightness.constancy_residual(i1, i2, flow)
    assert mask.sum() == 16 and (residual == 0).all()
    ix, iy = brightness.gradient(i1)
    assert (brightness.linearised_residual(ix, iy, i2 - i1, flow) == 0).all()
    assert (brightness.linearised_residual(-ix, -iy, i2 - i1, flow) == -22).all()  # I2 - (I1 + grad I . u)
    # On a curved image the right sign leaves the second order, the printed one the first.
    x, y = grid()
    gx, gy = image_gradient(x, y)
    for sign, order in ((1, 2), (-1, 1)):
        errors = []
        for s in 0.5 ** np.arange(3, 8):
            it, flow = maps(moved(x, y, s) - image(x, y)), s * maps(*velocity(x, y))
            errors.append(np.abs(brightness.linearised_residual(sign * maps(gx), sign * maps(gy), it, flow)).max())
        np.testing.assert_allclose(orders(errors), order, atol=0.1)


# orthogonality


def test_orthogonality_is_exact_for_a_linear_image_under_constant_flow(brightness):
    y, x = np.mgrid[:5, :6].astype(float)
    f0 = maps(3 * x + 5 * y)
    dot, cosine = brightness.orthogonality(*brightness.gradient(f0), np.full_like(f0, -11), uniform(2, 1, 5, 6))
    assert (dot == 0).all()
    np.testing.assert_allclose(cosine, 0, atol=1e-16)


def test_orthogonality_by_hand(brightness):
    """[2, 3, 6] has length 7, [2, 2, 1] has length 3, the product is 4 + 6 + 6."""
    dot, cosine = brightness.orthogonality(pixel(2, -2), pixel(3, -3), pixel(6, -6), pixel(2, 2))
    assert dot.ravel().tolist() == [16, -16]
    np.testing.assert_allclose(cosine.ravel(), [16 / 21, -16 / 21], rtol=1e-15)


def test_cosine_is_bounded_by_one_and_reaches_it_for_parallel_vectors(brightness):
    rng = np.random.default_rng(0)
    fx, fy, ft = rng.normal(size=(3, 1, 200, 3, 4))
    flow = rng.normal(size=(1, 2, 3, 4))
    _, cosine = brightness.orthogonality(fx, fy, ft, flow)
    assert 0.9 < np.abs(cosine).max() <= 1
    k = rng.normal(size=(1, 200, 3, 4))
    _, cosine = brightness.orthogonality(k * flow[:, :1], k * flow[:, 1:], k, flow)
    np.testing.assert_allclose(cosine, np.sign(k), rtol=1e-15)


def test_cosine_of_the_zero_vector_is_zero_with_derivative_zero(brightness):
    zero, flow = pixel(0), pixel(2, 1)
    dot, cosine = brightness.orthogonality(zero, zero, zero, flow)
    assert dot == 0 and cosine == 0
    if brightness.torch:
        for g in gradients("orthogonality", zero, zero, zero, flow, output=lambda out: out[1]):
            assert (g == 0).all()


# 2**100 is 1.3e30 and 2**660 is 5e198: the squares do not fit.
SCALES = [(np.float32, -100), (np.float32, 100), (np.float64, -660), (np.float64, 660)]
each_scale = pytest.mark.parametrize("dtype, power", SCALES)


@each_scale
def test_cosine_does_not_depend_on_the_scale(brightness, dtype, power):
    s = dtype(2) ** power
    flow = pixel(2, 2, dtype=dtype)
    fx, fy, ft = (pixel(k * s, dtype=dtype) for k in (2, 3, 6))
    _, cosine = brightness.orthogonality(fx, fy, ft, flow)
    eps = float(np.finfo(dtype).eps)
    assert cosine.item() == pytest.approx(16 / 21, rel=4 * eps)
    if brightness.torch:  # d cosine / d Fx = (2/3 - 16/21 * 2/7)/7 = 66/1029: one over the scale
        grad, *_ = gradients("orthogonality", fx, fy, ft, flow, output=lambda out: out[1])
        assert (grad * s).item() == pytest.approx(66 / 1029, rel=16 * eps)


@each_scale
def test_cosine_survives_a_huge_or_tiny_flow(brightness, dtype, power):
    """[1, 0, 0] and [u, 0, 1] with u = 2**power: the cosine is 1 where u is huge, u where u is tiny."""
    one, zero = pixel(1, dtype=dtype), pixel(0, dtype=dtype)
    u = dtype(2) ** power
    dot, cosine = brightness.orthogonality(one, zero, zero, pixel(u, 0, dtype=dtype))
    assert dot.item() == u
    assert cosine.item() == pytest.approx(min(u, 1), rel=4 * float(np.finfo(dtype).eps))


# normal_flow


def test_normal_flow_is_the_flow_where_that_lies_along_the_gradient(brightness):
    """g = (3, 4), flow = (3, 4): ft = -25."""
    got = brightness.normal_flow(pixel(3), pixel(4), pixel(-25))
    np.testing.assert_allclose(got.ravel(), [3, 4], rtol=1e-15)


def test_normal_flow_loses_what_is_orthogonal_to_the_gradient(brightness):
    """The ramp 3x + 4y moves by (3, 4) + k (-4, 3), which it does not show."""
    y, x = np.mgrid[:4, :5].astype(float)
    f0 = maps(3 * x + 4 * y)
    for k in (0, 2, -5):
        u, v = 3 - 4 * k, 4 + 3 * k
        f1 = maps(3 * (x - u) + 4 * (y - v))
        got = brightness.normal_flow(*brightness.gradient(f0), f1 - f0)
        np.testing.assert_allclose(got, uniform(3, 4, 4, 5), rtol=1e-15)


def test_normal_flow_satisfies_the_constraint_and_is_the_shortest_that_does(brightness):
    fx, fy, ft = np.random.default_rng(0).normal(size=(3, 2, 3, 4, 5))
    got = brightness.normal_flow(fx, fy, ft)
    u, v = got[:, :3], got[:, 3:]
    np.testing.assert_allclose(fx * u + fy * v + ft, 0, atol=1e-14)
    np.testing.assert_allclose(fx * v - fy * u, 0, atol=1e-14)  # along the gradient


def test_normal_flow_is_all_u_then_all_v(brightness):
    """Three channels with the flows (1, 0), (3, 0) and (0, 5)."""
    got = brightness.normal_flow(pixel(2, 2, 0), pixel(0, 0, 2), pixel(-2, -6, -10))
    assert got.ravel().tolist() == [1, 3, 0, 0, 0, 5]


@pytest.mark.parametrize("ft", [0.0, 5.0])
def test_normal_flow_at_zero_gradient_is_zero_with_derivative_zero(brightness, ft):
    fx, fy, t = pixel(0, 3), pixel(0, 4), pixel(ft, -25)
    got = brightness.normal_flow(fx, fy, t)
    assert got[0, 0] == 0 and got[0, 2] == 0
    np.testing.assert_allclose(got[0, [1, 3]].ravel(), [3, 4], rtol=1e-15)
    if brightness.torch:
        for g in gradients("normal_flow", fx, fy, t):
            assert g[0, 0] == 0 and g[0, 1] != 0


@each_scale
def test_normal_flow_of_gradients_whose_square_does_not_fit(brightness, dtype, power):
    """g = s (3, 4), ft = -25 s: the flow is (3, 4), its derivatives are those at s = 1 over s.

    du/dfx = -ft (fy^2 - fx^2)/|g|^4 = 25 * 7/625, du/dfy = 2 ft fx fy/|g|^4 = -25 * 24/625, du/dft = -fx/|g|^2 = -3/25;
    dv/dfx = -25 * 24/625, dv/dfy = -25 * 7/625, dv/dft = -4/25.
    """
    s, eps = dtype(2) ** power, float(np.finfo(dtype).eps)
    arguments = [pixel(k * s, dtype=dtype) for k in (3, 4, -25)]
    np.testing.assert_allclose(brightness.normal_flow(*arguments).ravel(), [3, 4], rtol=4 * eps)
    if brightness.torch:
        for k, want in ((0, [0.28, -0.96, -0.12]), (1, [-0.96, -0.28, -0.16])):
            got = gradients("normal_flow", *arguments, output=lambda out, k=k: out[:, k])
            np.testing.assert_allclose([g.item() * s for g in got], want, rtol=16 * eps)
