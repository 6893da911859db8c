"""TV-L1 and representation flow: answers by hand, the kinks, what paper, released code and we do differently (RF19)."""

import importlib
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from voices import both

from motionspec import refimpl
from motionspec.flow import read_flow
from motionspec.synthetic import Layer, Scene, rotation, translation, waves, zoom

tvl1 = both("tvl1")

SOBEL_X = np.array([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
SOBEL = np.stack([SOBEL_X, SOBEL_X.T])  # (8) and (10)
FORWARD = np.array([[[0.0, 0, 0], [1, -1, 0], [0, 0, 0]], [[0, 1, 0], [0, -1, 0], [0, 0, 0]]])
CENTRAL = np.array([[[0, 0, 0], [0.5, 0, -0.5], [0, 0, 0]], [[0, 0.5, 0], [0, 0, 0], [0, -0.5, 0]]])
SCHEMES = ("classic", "paper", "released")
SIZES = ((1, 1), (1, 4), (3, 1), (2, 2), (5, 6))
each_scheme = pytest.mark.parametrize("scheme", SCHEMES)


def op(name):
    pytest.importorskip("torch")
    return getattr(importlib.import_module("motionspec.ops.tvl1"), name)


def gradients(name, *arrays, output=None, **options):
    """d sum(output) / d each array, positional or by keyword, by autograd of the operator."""
    function = op(name)
    import torch

    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    named = {k: torch.tensor(a, requires_grad=True) if isinstance(a, np.ndarray) else a for k, a in options.items()}
    out = function(*leaves, **named)
    out = out if output is None else output(out)
    leaves += [a for a in named.values() if isinstance(a, torch.Tensor)]
    return [g.numpy() for g in torch.autograd.grad(out.sum(), leaves, materialize_grads=True)]


def pixel(*channels, dtype=float):
    """(1, C, 1, 1)."""
    return np.array(channels, dtype).reshape(1, -1, 1, 1)


def noise(*shape, seed=0, scale=1.0):
    return scale * np.random.default_rng(seed).normal(size=shape)


def frames(*shape, seed=0):
    """Two independent frames in [0, 255]."""
    return np.random.default_rng(seed).uniform(0, 255, (2, *shape))


def texture(H=32, W=36):
    """A texture that spans [0, 255], of wavelengths above 13 px, and the same moved by one pixel to the right."""
    layer = Layer(waves((H, W), seed=0, wavelengths=(13, 40)), translation([0, 1], 0))
    return Scene([layer], (H, W)).clip().frames.swapaxes(0, 1)[:, None]


def inside(flow):
    """u and v without the 4 px at the border."""
    u, v = np.split(flow[..., 4:-4, 4:-4], 2, axis=1)
    return u, v


# image_gradient and released_gradient


def test_image_gradient_of_an_impulse_is_the_printed_kernel(tvl1):
    """True convolution: the kernel appears as it is printed, not turned by half a turn."""
    impulse = np.zeros((1, 1, 5, 5))
    impulse[0, 0, 2, 2] = 1
    for kernel, want in (("paper", SOBEL), ("sobel_unit", SOBEL / 8), ("central", CENTRAL)):
        for got, printed in zip(tvl1.image_gradient(impulse, kernel), want, strict=True):
            np.testing.assert_array_equal(got[0, 0, 1:4, 1:4], printed)
            assert np.abs(got).sum() == np.abs(printed).sum()


def test_image_gradient_gain_sign_and_border(tvl1):
    y, x = np.mgrid[:5, :6].astype(float)
    ramp = (3 * x + 5 * y)[None, None]
    for kernel, gain in (("paper", 8), ("sobel_unit", 1), ("central", 1)):
        gx, gy = tvl1.image_gradient(ramp, kernel)
        np.testing.assert_allclose(gx[0, 0, 1:-1, 1:-1], gain * 3, rtol=1e-15)
        np.testing.assert_allclose(gy[0, 0, 1:-1, 1:-1], gain * 5, rtol=1e-15)
    for kernel in ("sobel_unit", "central"):  # half the gain in the border line
        gx, gy = tvl1.image_gradient(ramp, kernel)
        np.testing.assert_allclose(gx[0, 0, 1:-1][:, [0, -1]], 1.5, rtol=1e-15)
        np.testing.assert_allclose(gy[0, 0, [0, -1]][:, 1:-1], 2.5, rtol=1e-15)
    gx, gy = tvl1.image_gradient(np.ones((1, 1, 4, 4)), "paper")  # zeros outside: a bright border is an edge
    assert gx[0, 0, :, 0].tolist() == [3, 4, 4, 3] == (-gx[0, 0, :, 3]).tolist()
    assert gy[0, 0, 0].tolist() == [3, 4, 4, 3] == (-gy[0, 0, 3]).tolist()


@pytest.mark.parametrize("kernel", ["paper", "sobel_unit", "central"])
def test_image_gradient_of_a_flat_map_is_exactly_zero(kernel):
    """And not what rounding leaves of a sum of nine terms: 1 / |g| would magnify it in the threshold step."""
    torch = pytest.importorskip("torch")
    for dtype in (torch.float64, torch.float32):
        for value in (0.1, 1 / 3, 254.9):
            for g in op("image_gradient")(torch.full((1, 1, 5, 5), value, dtype=dtype), kernel):
                assert (g[..., 1:-1, 1:-1] == 0).all()
                assert kernel == "paper" or (g == 0).all()


DEFAULTS = [
    ("image_gradient", "paper", SOBEL),
    ("image_gradient", "sobel_unit", SOBEL / 8),
    ("image_gradient", "central", CENTRAL),
    ("flow_gradient", "paper", SOBEL),
    ("flow_gradient", "forward", FORWARD),
    ("released_gradient", None, CENTRAL),
]


@pytest.mark.parametrize("name, kernel, printed", DEFAULTS)
def test_default_weights_are_these(tvl1, name, kernel, printed):
    for H, W in SIZES:
        f = [noise(2, 3, H, W, seed=k) for k in range(2 if name == "released_gradient" else 1)]
        options = {} if kernel is None else {"kernel": kernel}
        default = getattr(tvl1, name)(*f, **options)
        explicit = getattr(tvl1, name)(*f, **options, weights=printed)
        np.testing.assert_allclose(default, explicit, rtol=0, atol=1e-14)
        if tvl1.torch and H * W > 1:
            pair = (gradients(name, *f, **options, weights=printed, output=lambda o: o[0] + 2 * o[1]),)
            pair += (gradients(name, *f, **options, output=lambda o: o[0] + 2 * o[1]),)
            for a, b in zip(*pair, strict=False):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)


def test_weights_are_turned_like_the_printed_kernels(tvl1):
    """One tap in the upper left corner takes the pixel to the lower right."""
    weights = np.zeros((2, 3, 3))
    weights[0, 0, 0], weights[1, 1, 2] = 1, 10
    f = np.arange(1.0, 10).reshape(1, 1, 3, 3)
    gx, gy = tvl1.image_gradient(f, "paper", weights=weights)
    assert gx[0, 0].tolist() == [[5, 6, 0], [8, 9, 0], [0, 0, 0]]
    assert gy[0, 0].tolist() == [[0, 10, 20], [0, 40, 50], [0, 70, 80]]
    gx, gy = tvl1.image_gradient(f, "central", weights=weights)  # the border repeated
    assert gx[0, 0].tolist() == [[5, 6, 6], [8, 9, 9], [8, 9, 9]]
    assert gy[0, 0].tolist() == [[10, 10, 20], [40, 40, 50], [70, 70, 80]]
    dx, dy = tvl1.flow_gradient(f, "forward", weights=weights)  # and 0 on the last column of dx, the last row of dy
    assert dx[0, 0].tolist() == [[5, 6, 0], [8, 9, 0], [8, 9, 0]]
    assert dy[0, 0].tolist() == [[10, 10, 20], [40, 40, 50], [0, 0, 0]]


def test_released_gradient_takes_its_border_from_the_earlier_frame(tvl1):
    f1 = np.array([[0.0, 2, 6, 8], [0, 0, 0, 0], [4, 4, 4, 10]])[None, None]
    f2 = np.array([[1.0, 3, 9, 9], [5, 5, 7, 1], [3, 9, 9, 7]])[None, None]
    gx, gy = tvl1.released_gradient(f1, f2)
    assert gx[0, 0].tolist() == [[1, 4, 3, 1], [0, 1, -2, 0], [0, 3, -1, 3]]
    assert gy[0, 0].tolist() == [[0, -1, -3, -4], [1, 3, 0, -1], [2, 2, 2, 5]]
    inner = [g[..., 1:-1, 1:-1] for g in tvl1.image_gradient(f2, "central")]
    np.testing.assert_array_equal([g[..., 1:-1, 1:-1] for g in (gx, gy)], inner)


def test_released_gradient_of_short_sides(tvl1):
    f1, f2 = noise(2, 1, 1, 1, 2)
    for turn in (lambda a: a, lambda a: a.swapaxes(2, 3).copy()):
        gx, gy = tvl1.released_gradient(turn(f1), turn(f2))
        along, across = (gx, gy) if gx.shape[3] == 2 else (gy, gx)
        np.testing.assert_allclose(along.ravel(), [np.diff(f1)[0, 0, 0, 0] / 2] * 2, rtol=1e-15)
        assert (across == 0).all()


# data_constant and data_residual


def test_residual_by_hand_and_of_two_channels(tvl1):
    """10 - 3*2 - 4*0.5 - 1 = 1, and back at u = u0: 1 + 8 = 9 = F2 - F1."""
    f1, f2, gx, gy, ux, uy = pixel(1, 0), pixel(10, 1), pixel(3, 2), pixel(4, 0), pixel(2, -1), pixel(0.5, 9)
    rho_c = tvl1.data_constant(f1, f2, gx, gy, ux, uy)
    assert rho_c.ravel().tolist() == [1, 3]
    assert tvl1.data_residual(rho_c, gx, gy, ux, uy).ravel().tolist() == [9, 1]


def test_residual_of_a_ramp_vanishes_at_the_true_flow(tvl1):
    """F1(p) = F2(p + u): 3x + 5y moved by (2, 1) falls by 11. From any start."""
    y, x = np.mgrid[:5, :6].astype(float)
    f1 = (3 * x + 5 * y)[None, None]
    three, five, zero = np.full_like(f1, 3), np.full_like(f1, 5), np.zeros_like(f1)
    u, v = zero + 2, zero + 1
    rho_c = tvl1.data_constant(f1, f1 - 11, three, five, zero, zero)
    assert (rho_c == -11).all() and (tvl1.data_residual(rho_c, three, five, u, v) == 0).all()
    # In a pyramid F2 is warped by u0 first: there it equals F1, and the residual is linear around u0.
    rho_c = tvl1.data_constant(f1, f1, three, five, u, v)
    assert (tvl1.data_residual(rho_c, three, five, u, v) == 0).all()
    assert (tvl1.data_residual(rho_c, three, five, u + 1, v) == 3).all()


# threshold_step


def closed(ux, uy, rho, gx, gy, lam, theta):
    """The closed form: c is rho / |g|^2, clipped."""
    square = gx**2 + gy**2
    c = np.clip(rho / np.where(square > 0, square, np.inf), -lam * theta, lam * theta)
    c = np.where(square > 0, c, np.sign(rho) * lam * theta)
    return ux - c * gx, uy - c * gy


def printed(ux, uy, rho, gx, gy, lam, theta):
    """The three cases, pixel by pixel, and how many of them hold."""
    vx, vy, holds = np.full_like(ux, np.nan), np.full_like(uy, np.nan), np.zeros(ux.shape, int)
    for i in np.ndindex(ux.shape):
        g, u = np.array([gx[i], gy[i]]), np.array([ux[i], uy[i]])
        limit = lam * theta * (g @ g)
        found = []
        if rho[i] < -limit:
            found.append(u + lam * theta * g)
        if rho[i] > limit:
            found.append(u - lam * theta * g)
        if -limit <= rho[i] <= limit:
            found.append(u - rho[i] * g / (g @ g) if g @ g > 0 else u)
        vx[i], vy[i], holds[i] = *found[0], len(found)
    return vx, vy, holds


def test_threshold_step_equals_the_three_printed_cases_and_the_closed_form(tvl1):
    """With lambda theta = 1/8 and small integers the limit is hit exactly, often; exactly one case holds everywhere."""
    lam, theta = 0.25, 0.5
    values = np.arange(-2.0, 3)
    gx, gy, rho, ux = (a.reshape(1, 1, 25, 25) for a in np.meshgrid(values, values, values / 8, values))
    uy = -ux[..., ::-1].copy()
    square = gx**2 + gy**2
    assert (np.abs(rho) == square / 8).sum() == 85 and ((square == 0) & (rho != 0)).sum() == 20
    vx, vy, holds = printed(ux, uy, rho, gx, gy, lam, theta)
    assert (holds == 1).all()
    for want in ((vx, vy), closed(ux, uy, rho, gx, gy, lam, theta)):
        np.testing.assert_allclose(
            tvl1.threshold_step(ux, uy, rho, gx, gy, lam=lam, theta=theta), want, rtol=0, atol=1e-15
        )


def test_threshold_step_by_hand(tvl1):
    """g = (3, 4), lambda theta = 0.1: the limit is 2.5. At rho = -5, 5, 1 the step is 0.1 g, -0.1 g, -g/25."""
    g, rho, zero = (pixel(3, 3, 3), pixel(4, 4, 4)), pixel(-5, 5, 1), pixel(0, 0, 0)
    vx, vy = tvl1.threshold_step(zero + 1, zero + 2, rho, *g, lam=0.2, theta=0.5)
    np.testing.assert_allclose(vx.ravel(), [1.3, 0.7, 0.88], rtol=1e-15)
    np.testing.assert_allclose(vy.ravel(), [2.4, 1.6, 1.84], rtol=1e-15)


def test_threshold_step_third_case_annuls_the_residual(tvl1):
    """rho(v) = 0 wherever |rho| <= lambda theta |g|^2. With the printed |I2|^2, an intensity, it would not be."""
    gx, gy, ux, uy = noise(4, 1, 2, 6, 7, seed=1)
    rho = 0.9 * 0.15 * 0.3 * (gx**2 + gy**2) * np.sin(np.arange(84)).reshape(gx.shape)
    vx, vy = tvl1.threshold_step(ux, uy, rho, gx, gy)
    np.testing.assert_allclose(rho + gx * (vx - ux) + gy * (vy - uy), 0, atol=1e-15)
    intensity = 1 + noise(*gx.shape) ** 2
    wrong = rho - rho / intensity * (gx**2 + gy**2)
    assert np.abs(wrong).max() > 0.01


def test_threshold_step_minimises_the_relaxed_energy(tvl1):
    """|u - v|^2 / (2 theta) + lambda |rho(v)| does not fall when v is moved."""
    lam, theta = 0.3, 0.4
    ux, uy, rho, gx, gy = noise(5, 1, 3, 8, 9, seed=2)
    vx, vy = tvl1.threshold_step(ux, uy, rho, gx, gy, lam=lam, theta=theta)

    def cost(vx, vy):
        residual = rho + gx * (vx - ux) + gy * (vy - uy)
        return ((ux - vx) ** 2 + (uy - vy) ** 2) / (2 * theta) + lam * np.abs(residual)

    for seed in range(20):
        dx, dy = noise(2, *ux.shape, seed=seed, scale=0.1)
        assert (cost(vx + dx, vy + dy) >= cost(vx, vy)).all()


def test_threshold_step_derivative_at_the_limit_is_the_middle_one_s():
    """g = (2, 0), lambda theta = 1/8, rho = +-1/2: v = u - rho g / |g|^2, so dv/drho = -1/2 and dv/dlambda = 0."""
    for rho in (0.5, -0.5):
        args = [pixel(k) for k in (0, 0, rho, 2, 0)]
        d = gradients("threshold_step", *args, lam=np.array(0.25), theta=np.array(0.5), output=lambda out: out[0])
        assert [a.item() for a in d] == [1, 0, -0.5, rho / 4, 0, 0, 0]  # d/dgx = rho / gx^2
    beyond = [pixel(k) for k in (0, 0, 0.5 + 1e-9, 2, 0)]
    d = gradients("threshold_step", *beyond, lam=np.array(0.25), theta=np.array(0.5), output=lambda out: out[0])
    assert [a.item() for a in d] == [1, 0, 0, -0.125, 0, -1, -0.5]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("rho", [2.0, -2.0, 0.0])
def test_threshold_step_where_the_gradient_vanishes(tvl1, rho, dtype):
    """v = u; dv/dg = -sign(rho) lambda theta I, dv/drho = 0."""
    args = [pixel(k, dtype=dtype) for k in (3, 4, rho, 0, 0)]
    vx, vy = tvl1.threshold_step(*args, lam=0.25, theta=0.5)
    assert (vx.item(), vy.item()) == (3, 4)
    if tvl1.torch:
        for k in (0, 1):
            d = gradients("threshold_step", *args, lam=0.25, theta=0.5, output=lambda out, k=k: out[k])
            want = [float(k == 0), float(k == 1), 0, -np.sign(rho) / 8 * (k == 0), -np.sign(rho) / 8 * (k == 1)]
            assert [a.item() for a in d] == want


@pytest.mark.parametrize("size", [1e-18, 1e-23, 1e-30, 1e-40, 1e18, 1e25])
@pytest.mark.parametrize("rho", [2.0, -1e-20, 0.0])
def test_threshold_step_where_the_square_under_or_overflows_in_float32(size, rho):
    torch = pytest.importorskip("torch")
    arrays = [pixel(k).astype(np.float32) for k in (3, 4, rho, 0.6 * size, 0.8 * size)]
    want = refimpl.tvl1.threshold_step(*arrays, lam=0.25, theta=0.5)
    got = op("threshold_step")(*map(torch.tensor, arrays), lam=0.25, theta=0.5)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g.numpy(), w, rtol=1e-6)
    for d in gradients("threshold_step", *arrays, lam=np.float32([0.25]), theta=0.5, output=lambda out: out[0]):
        assert np.isfinite(d).all()


def test_nan_goes_where_it_touches_and_nowhere_else():
    torch = pytest.importorskip("torch")
    for g in (0.0, 1.0):
        for spoilt in range(5):
            args = [torch.tensor(noise(1, 1, 1, 3, seed=k)) for k in range(3)] + [torch.full((1, 1, 1, 3), g)] * 2
            args = [a.double().clone() for a in args]
            args[spoilt][..., 1] = torch.nan
            vx, vy = op("threshold_step")(*args)
            touched = {0: (vx,), 1: (vy,)}.get(spoilt, (vx, vy))
            for v in (vx, vy):
                assert v[..., 1].isnan().all() == any(v is t for t in touched) and not v[..., ::2].isnan().any()
    f1, f2 = (torch.tensor(f) for f in frames(2, 2, 5, 6))
    f2[0, 1, 2, 3] = torch.nan
    flow = op("representation_flow")(f1, f2, n_iter=2)
    assert flow[0, [1, 3], 2, 3].isnan().all() and not flow[0, [0, 2]].isnan().any() and not flow[1].isnan().any()


# divergence, primal_step, flow_gradient, dual_step


def test_divergence_printed_answer(tvl1):
    px = np.array([[1.0, 4, 2], [0, 5, 5]])[None, None]
    py = np.array([[10.0, 0, 20], [40, 50, 0]])[None, None]
    x, y = [[1, 3, -2], [0, 5, 0]], [[10, 0, 20], [30, 50, -20]]
    np.testing.assert_array_equal(tvl1.divergence(px, py, "paper")[0, 0], np.add(x, y))
    x, y = [[1, 3, -4], [0, 5, -5]], [[10, 0, 20], [-10, 0, -20]]
    np.testing.assert_array_equal(tvl1.divergence(px, py, "adjoint")[0, 0], np.add(x, y))


def test_divergence_weights_in_the_order_of_the_pixels(tvl1):
    """d[i] = 2 p[i-1] + 3 p[i] along x, 5 p[j-1] + 7 p[j] along y."""
    px, py = np.array([[1.0, 10], [0, 0]])[None, None], np.array([[1.0, 0], [10, 0]])[None, None]
    w = {"wx": np.array([2.0, 3]), "wy": np.array([5.0, 7])}
    assert tvl1.divergence(px, px * 0, "paper", **w)[0, 0].tolist() == [[3, 32], [0, 0]]
    assert tvl1.divergence(px, px * 0, "adjoint", **w)[0, 0].tolist() == [[3, 2], [0, 0]]
    assert tvl1.divergence(py * 0, py, "paper", **w)[0, 0].tolist() == [[7, 0], [75, 0]]
    assert tvl1.divergence(py * 0, py, "adjoint", **w)[0, 0].tolist() == [[7, 0], [5, 0]]


@pytest.mark.parametrize("border", ["paper", "adjoint"])
def test_default_divergence_weights_are_minus_one_and_one(tvl1, border):
    w = {"wx": np.array([-1.0, 1]), "wy": np.array([-1.0, 1])}
    for H, W in SIZES:
        v, px, py = noise(3, 2, 3, H, W)
        np.testing.assert_array_equal(tvl1.divergence(px, py, border), tvl1.divergence(px, py, border, **w))
        np.testing.assert_allclose(
            tvl1.primal_step(v, px, py, border), v + 0.3 * tvl1.divergence(px, py, border, **w), rtol=0, atol=1e-15
        )


def test_adjointness(tvl1):
    """<D+ u, p> = -<u, div p> for every u and p; with the border of (9) it holds only if p ends with 0."""
    for H, W in SIZES:
        u, px, py = noise(3, 2, 3, H, W)
        dx, dy = tvl1.flow_gradient(u, "forward")
        left = (dx * px + dy * py).sum()
        assert left == pytest.approx(-(u * tvl1.divergence(px, py, "adjoint")).sum(), abs=1e-12)
        assert abs(left + (u * tvl1.divergence(px, py, "paper")).sum()) > 1e-3
        px[..., -1], py[..., -1, :] = 0, 0
        np.testing.assert_array_equal(tvl1.divergence(px, py, "paper"), tvl1.divergence(px, py, "adjoint"))


def test_paper_gradient_is_not_the_adjoint_of_the_divergence(tvl1):
    """Not even with its gain taken out, in the interior: the Sobel kernel reaches to both sides."""
    u, px, py = np.zeros((3, 1, 1, 9, 9))
    u[..., 3:6, 3:6], px[..., 3:6, 3:6] = noise(2, 1, 1, 3, 3)
    dx, dy = tvl1.flow_gradient(u, "paper")
    right = -(u * tvl1.divergence(px, py, "paper")).sum()
    assert abs((dx * px + dy * py).sum() / 8 - right) > 0.1 * abs(right)


def test_divergence_of_a_side_of_length_one(tvl1):
    """(9) as it stands: what comes before is 0. The adjoint of a derivative that is 0 is 0."""
    px, py = pixel(2.0), pixel(3.0)
    assert tvl1.divergence(px, py, "paper").item() == 5
    assert tvl1.divergence(px, py, "adjoint").item() == 0


def test_flow_gradient_by_hand(tvl1):
    u = np.array([[1.0, 4, 2], [0, 5, 5]])[None, None]
    dx, dy = tvl1.flow_gradient(u, "forward")
    assert dx[0, 0].tolist() == [[3, -2, 0], [5, 0, 0]]
    assert dy[0, 0].tolist() == [[-1, 1, 3], [0, 0, 0]]
    dx, dy = tvl1.flow_gradient(u, "paper")  # zeros outside; the middle row weighs 2, the other 1
    assert dx[0, 0].tolist() == [[2 * 4 + 5, 2 * 1 + 5, -2 * 4 - 5], [2 * 5 + 4, 2 * 5 + 1, -2 * 5 - 4]]
    assert dy[0, 0].tolist() == [[2 * 0 + 5, 0 + 2 * 5 + 5, 5 + 2 * 5], [-2 * 1 - 4, -1 - 2 * 4 - 2, -4 - 2 * 2]]


def test_flow_gradient_takes_both_derivatives_of_a_component(tvl1):
    """The printed (10) has one derivative of each: a shear u = y would have no gradient at all."""
    y, _ = np.mgrid[:5, :6].astype(float)
    for kernel, gain in (("paper", 8), ("forward", 1)):
        dx, dy = tvl1.flow_gradient(y[None, None], kernel)
        assert (dx[..., 1:-1, 1:-1] == 0).all() and (dy[..., 1:-1, 1:-1] == gain).all()


def test_flow_gradient_as_cross_correlation_makes_the_iteration_diverge(tvl1):
    """(10) as conv2d would read it: the divergence then roughens the flow instead of smoothing it."""
    f1, f2 = texture()
    flows = [tvl1.representation_flow(f1, f2, flow_kernel=-SOBEL, n_iter=n) for n in (10, 40, 160)]
    deviations = [inside(flow)[0].std() for flow in flows]
    assert deviations[0] > 0.3 and (np.divide(deviations[1:], deviations[:-1]) > 3).all()


def test_dual_step_by_hand(tvl1):
    """d = (3, 4), tau/theta = 2: p = (1 + 6, 0 + 8) / (1 + 10). At d = 0 p stays."""
    px, py = tvl1.dual_step(pixel(1, 0.5), pixel(0, -1), pixel(3, 0), pixel(4, 0), tau=0.5, theta=0.25)
    np.testing.assert_allclose(px.ravel(), [7 / 11, 0.5], rtol=1e-15)
    np.testing.assert_allclose(py.ravel(), [8 / 11, -1], rtol=1e-15)


def test_dual_step_stays_in_the_unit_disc_and_tends_to_the_direction_of_the_gradient(tvl1):
    dx, dy = noise(2, 1, 2, 5, 6, scale=10)
    px = py = np.zeros_like(dx)
    for _ in range(60):
        px, py = tvl1.dual_step(px, py, dx, dy)
        assert (np.hypot(px, py) <= 1 + 1e-15).all()
    np.testing.assert_allclose([px, py], [dx, dy] / np.hypot(dx, dy), atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_dual_step_at_zero_gradient_has_the_derivative_of_a_norm_without_slope(dtype):
    """dp/dd = tau/theta I, dp/dp = I."""
    args = [pixel(k, dtype=dtype) for k in (0.5, -1, 0, 0)]
    got = gradients("dual_step", *args, tau=0.5, theta=0.25, output=lambda out: out[0])
    assert [g.item() for g in got] == [1, 0, 2, 0]


# energy


def test_energy_by_hand(tvl1):
    """One row: forward differences of u (1, 0, 3), of v (-1, 0, -1). central and sobel_unit agree along a side of 1."""
    u = np.array([[0.0, 1, 1, 4], [2, 1, 1, 0]]).reshape(1, 2, 1, 4)
    f1 = np.zeros((1, 1, 1, 4))
    f2 = np.array([0.0, 2, 4, 6]).reshape(1, 1, 1, 4)  # gradient 1, 2, 2, 1
    rho = [0 + 0, 2 + 2, 4 + 2, 6 + 4]
    assert tvl1.energy(u, f1, f2, 0.5).tolist() == [[4 + 2 + 0.5 * sum(rho)]]


@each_scheme
def test_energy_is_the_sum_of_its_parts_for_each_channel(tvl1, scheme):
    f1, f2 = frames(2, 3, 5, 6)
    u = noise(2, 6, 5, 6)
    got = tvl1.energy(u, f1, f2, 0.2, scheme)
    assert got.shape == (2, 3)
    image = {"classic": "sobel_unit", "paper": "paper"}
    gx, gy = tvl1.released_gradient(f1, f2) if scheme == "released" else tvl1.image_gradient(f2, image[scheme])
    ux, uy = u[:, :3], u[:, 3:]
    total = 0.2 * np.abs(tvl1.data_residual(f2 - f1, gx, gy, ux, uy))
    for component in (ux, uy):
        total += np.hypot(*tvl1.flow_gradient(component, "paper" if scheme == "paper" else "forward"))
    np.testing.assert_allclose(got, total.sum((2, 3)), rtol=1e-14)


def test_energy_as_printed_misses_the_true_flow(tvl1):
    """A ramp in motion: ours vanishes inside at the true flow, |grad I1 . u + I1 - I2| is twice the change."""
    y, x = np.mgrid[:5, :6].astype(float)
    f1 = (3 * x + 5 * y)[None, None]
    f2, u = f1 - 11, np.broadcast_to(np.array([2.0, 1]).reshape(1, 2, 1, 1), (1, 2, 5, 6)).copy()
    gx, gy = tvl1.image_gradient(f1, "sobel_unit")
    printed = np.abs(gx * 2 + gy * 1 + f1 - f2)
    assert (printed[..., 1:-1, 1:-1] == 22).all()
    gx, gy = tvl1.image_gradient(f2, "sobel_unit")
    border = np.abs(f2 - f1 + gx * 2 + gy * 1)
    assert (border[..., 1:-1, 1:-1] == 0).all()
    assert tvl1.energy(u, f1, f2, 1.0).item() == pytest.approx(border.sum())


def test_energy_has_no_slope_at_its_kinks():
    """A uniform flow that explains everything: |grad u| = 0 and rho = 0."""
    f = np.full((1, 1, 3, 4), 7.0)
    du, d1, d2, dlam = gradients("energy", np.ones((1, 2, 3, 4)), f, f, np.array(0.5))
    for d in (du, d1, d2, dlam):
        assert (d == 0).all()


def test_relaxed_energy_settles_in_the_classic_scheme():
    """sum |grad u| + |u - v|^2 / (2 theta) + lambda |rho(v)|: at n = 1000 within 1 % of its minimum so far."""
    t = refimpl.tvl1
    f1, f2 = texture(20, 24)
    gx, gy = t.image_gradient(f2, "sobel_unit")
    zero = np.zeros_like(f1)
    u, p, energies = [zero, zero], [(zero, zero), (zero, zero)], []
    for _ in range(1000):
        v = t.threshold_step(*u, t.data_residual(f2 - f1, gx, gy, *u), gx, gy)
        u = [t.primal_step(v[k], *p[k], "adjoint") for k in (0, 1)]
        d = [t.flow_gradient(c, "forward") for c in u]
        p = [t.dual_step(*p[k], *d[k]) for k in (0, 1)]
        smooth = sum(np.hypot(*g).sum() for g in d)
        apart = sum(((a - b) ** 2).sum() for a, b in zip(u, v, strict=True)) / (2 * 0.3)
        energies.append(smooth + apart + 0.15 * np.abs(t.data_residual(f2 - f1, gx, gy, *v)).sum())
    assert energies[-1] <= 1.01 * min(energies)
    assert energies[-1] < 0.5 * energies[0]
    np.testing.assert_array_equal(np.concatenate(u, 1), t.representation_flow(f1, f2, n_iter=1000))


# normalise


def test_normalise_by_hand(tvl1):
    clip = np.array([[-1.0, 0], [1, 4]]).reshape(1, 1, 2, 1, 2)
    assert tvl1.normalise(clip).ravel().tolist() == [0, 51, 102, 255]


def test_normalise_does_not_see_the_rest_of_the_batch(tvl1):
    clips = noise(3, 2, 4, 3, 5) * np.array([1, 100, 1e-3]).reshape(3, 1, 1, 1, 1) + 7
    together = tvl1.normalise(clips)
    np.testing.assert_array_equal(together, np.concatenate([tvl1.normalise(c[None]) for c in clips]))
    for out in together:
        assert out.min() == 0 and out.max() == 255
    released = 255 * (clips - clips.min()) / (clips.min() - clips.max())  # over the batch, and upside down
    assert released.min() == -255 and released.max() == 0
    assert np.abs(released[2]).max() - np.abs(released[2]).min() < 1


def test_normalise_does_not_see_offset_and_gain(tvl1):
    """Upside down under a negative gain, which the flow does not see either."""
    clip = noise(2, 2, 3, 4, 5)
    got = tvl1.normalise(clip)
    np.testing.assert_allclose(tvl1.normalise(3 * clip + 7), got, rtol=0, atol=1e-11)
    np.testing.assert_allclose(tvl1.normalise(-clip), 255 - got, rtol=0, atol=1e-11)


def test_normalise_of_a_constant_clip_is_zero_with_derivative_zero(tvl1):
    clips = noise(2, 1, 2, 2, 3)
    clips[0] = 0.1
    assert (tvl1.normalise(clips)[0] == 0).all()
    if tvl1.torch:
        (d,) = gradients("normalise", clips, output=lambda out: out.square())
        assert (d[0] == 0).all() and np.isfinite(d[1]).all() and (d[1] != 0).any()


def test_normalise_shares_the_derivative_of_ties():
    """(0, 0, 1, 2): of y2 = 255 (x2 - low) / (high - low) the slope in low, -255/4, is shared by the two zeros."""
    clip = np.array([0.0, 0, 1, 2]).reshape(1, 1, 4, 1, 1)
    (d,) = gradients("normalise", clip, output=lambda out: out[:, :, 2])
    np.testing.assert_allclose(d.ravel(), [-255 / 8, -255 / 8, 255 / 2, -255 / 4], rtol=1e-15)


# representation_flow


def by_steps(voice, f1, f2, scheme, n_iter, tau=0.25, lam=0.15, theta=0.3):
    """Algorithm 1 from the steps."""
    image, flow, border = {
        "classic": ("sobel_unit", "forward", "adjoint"),
        "paper": ("paper", "paper", "paper"),
        "released": (None, "forward", "adjoint"),
    }[scheme]
    gx, gy = voice.image_gradient(f2, image) if image else voice.released_gradient(f1, f2)
    zero = np.zeros_like(f1)
    u, p = [zero, zero], [(zero, zero), (zero, zero)]
    rho_c = voice.data_constant(f1, f2, gx, gy, zero, zero)
    for _ in range(n_iter):
        rho = voice.data_residual(rho_c, gx, gy, *u)
        v = voice.threshold_step(*u, rho, gx, gy, lam=lam, theta=theta)
        u = [voice.primal_step(v[k], *p[k], border, theta=theta) for k in (0, 1)]
        p = [voice.dual_step(*p[k], *voice.flow_gradient(u[k], flow), tau=tau, theta=theta) for k in (0, 1)]
    return np.concatenate(u, axis=1)


@each_scheme
def test_representation_flow_is_its_steps(tvl1, scheme):
    """`released` differs from the steps only by its epsilons."""
    f1, f2 = frames(2, 2, 6, 7)
    for n_iter in (1, 2, 7):
        got = tvl1.representation_flow(f1, f2, scheme=scheme, n_iter=n_iter)
        tolerance = 1e-7 if scheme == "released" else 1e-12
        np.testing.assert_allclose(got, by_steps(tvl1, f1, f2, scheme, n_iter), rtol=0, atol=tolerance)


@each_scheme
def test_default_kernels_of_representation_flow_are_these(tvl1, scheme):
    """In value and gradient: the operator has a shorter way for them."""
    image = {"classic": SOBEL / 8, "paper": SOBEL, "released": CENTRAL}[scheme]
    w = np.array([-1.0, 1])
    kernels = {"wx": w, "wy": w, "image_kernel": image, "flow_kernel": SOBEL if scheme == "paper" else FORWARD}
    numbers = {"tau": np.array(0.25), "lam": np.array(0.15), "theta": np.array(0.3)}
    for H, W in SIZES:
        f1, f2 = frames(2, 3, H, W)
        default = tvl1.representation_flow(f1, f2, scheme=scheme)
        explicit = tvl1.representation_flow(f1, f2, scheme=scheme, **kernels)
        np.testing.assert_allclose(default, explicit, rtol=0, atol=1e-12)
        if tvl1.torch:
            a = gradients("representation_flow", f1, f2, scheme=scheme, **numbers)
            b = gradients("representation_flow", f1, f2, scheme=scheme, **numbers, **kernels)
            for x, y in zip(a, b, strict=False):
                np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9)


def test_both_borders_of_the_divergence_give_one_flow(tvl1):
    """With forward differences p is 0 on the last column and row, so that (9) drops nothing there."""
    f1, f2 = frames(1, 2, 6, 7)
    gx, gy = tvl1.image_gradient(f2, "sobel_unit")
    zero = np.zeros_like(f1)
    u, p = [zero, zero], [(zero, zero), (zero, zero)]
    for _ in range(6):
        v = tvl1.threshold_step(*u, tvl1.data_residual(f2 - f1, gx, gy, *u), gx, gy)
        u = [tvl1.primal_step(v[k], *p[k], "paper") for k in (0, 1)]
        p = [tvl1.dual_step(*p[k], *tvl1.flow_gradient(u[k], "forward")) for k in (0, 1)]
    np.testing.assert_allclose(np.concatenate(u, 1), tvl1.representation_flow(f1, f2, n_iter=6), rtol=0, atol=1e-12)


def released_code(f1, f2, n_iter, tau=0.25, lam=0.15, theta=0.3):
    """The released layer's arithmetic in a closed form of one's own: differences by slices, borders overwritten."""
    gx, gy = np.zeros_like(f1), np.zeros_like(f1)
    gx[..., 1:-1], gy[..., 1:-1, :] = (f2[..., 2:] - f2[..., :-2]) / 2, (f2[..., 2:, :] - f2[..., :-2, :]) / 2
    gx[..., 0], gx[..., -1] = (f1[..., 1] - f1[..., 0]) / 2, (f1[..., -1] - f1[..., -2]) / 2
    gy[..., 0, :], gy[..., -1, :] = (f1[..., 1, :] - f1[..., 0, :]) / 2, (f1[..., -1, :] - f1[..., -2, :]) / 2
    g, u, px, py = np.stack([gx, gy]), *np.zeros((3, 2, *f1.shape))
    for _ in range(n_iter):
        c = np.clip((f2 - f1 + (g * u).sum(0)) / ((g**2).sum(0) + 1e-12), -lam * theta, lam * theta)
        qx, qy = px[..., :-1], py[..., :-1, :]
        zx, zy = np.zeros_like(px[..., :1]), np.zeros_like(py[..., :1, :])
        div = np.diff(np.concatenate([zx, qx, zx], -1)) + np.diff(np.concatenate([zy, qy, zy], -2), axis=-2)
        u = u - c * g + theta * div
        dx, dy = np.zeros_like(u), np.zeros_like(u)
        dx[..., :-1], dy[..., :-1, :] = np.diff(u), np.diff(u, axis=-2)
        scale = 1 + tau / theta * np.sqrt(dx**2 + dy**2 + 1e-12)
        px, py = (px + tau / theta * dx) / scale, (py + tau / theta * dy) / scale
    return np.concatenate([u[0], u[1]], axis=1)


@pytest.mark.parametrize("n_iter", [1, 5, 20])
def test_released_scheme_is_the_released_code(tvl1, n_iter):
    """Also where the map is flat, and where the epsilons are felt: |g|^2 of about 1e-12, rho of about 1e-15."""
    f1, f2 = frames(2, 3, 8, 9)
    f2[0, 0, 2:6, 2:6] = 40
    tiny = 1e-8 * f1
    for a, b in ((f1, f2), (tiny, tiny * (1 + 1e-9))):
        got = tvl1.representation_flow(a, b, scheme="released", n_iter=n_iter)
        np.testing.assert_allclose(got, released_code(a, b, n_iter), rtol=1e-9, atol=1e-12 * np.abs(got).max())
    without = by_steps(tvl1, a, b, "released", n_iter)
    assert np.abs(got - without).max() > 0.01 * np.abs(without).max()


def test_released_epsilon_in_the_residual_changes_nothing_to_be_seen(tvl1):
    """The released code adds 1e-12 to rho, `released` does not: the same as if the later frame were brighter by it."""
    f1, f2 = frames(2, 3, 8, 9)
    flows = [tvl1.representation_flow(f1, f, scheme="released", n_iter=20) for f in (f2, f2 + 1e-12)]
    np.testing.assert_allclose(*flows, rtol=0, atol=1e-9)


def test_later_release_is_blind_to_horizontal_motion(tvl1):
    """Its kernels for x hold the vertical derivative too: upright stripes that move to the right stand still."""
    f1, f2 = (np.broadcast_to(127 + 127 * np.sin(0.4 * (np.arange(36) - s)), (1, 1, 32, 36)).copy() for s in (0, 1))
    u, _ = inside(tvl1.representation_flow(f1, f2, n_iter=100))
    assert abs(u.mean() - 1) < 0.05
    vertical = np.stack([SOBEL_X.T, SOBEL_X.T]) / 8
    assert np.abs(tvl1.representation_flow(f1, f2, n_iter=100, image_kernel=vertical)).max() < 1e-12


def test_masks_of_the_released_code_are_integers_today():
    """`mask ^ 1` was its "not": an int64 now, so that v[mask] picks elements 0 and 1 again and again."""
    torch = pytest.importorskip("torch")
    mask = torch.tensor([True, False, True])
    assert (mask ^ 1).dtype == torch.int64
    assert torch.tensor([10, 20, 30])[mask ^ 1].tolist() == [10, 20, 10]
    assert torch.tensor([10, 20, 30])[~mask].tolist() == [20]


def test_classic_scheme_finds_a_shift_by_one_pixel(tvl1):
    """Mean within 5 %, deviation below 0.1, 4 px from the border, after 100 iterations; the same upwards and back.

    And in `released`, whose gradient has unit gain too.
    """
    f1, f2 = texture()
    for scheme in ("classic", "released"):
        u, v = inside(tvl1.representation_flow(f1, f2, n_iter=100, scheme=scheme))
        assert abs(u.mean() - 1) < 0.05 and u.std() < 0.1
        assert abs(v.mean()) < 0.05 and v.std() < 0.1
    u, _ = inside(tvl1.representation_flow(f2, f1, n_iter=100))
    assert abs(u.mean() + 1) < 0.05 and u.std() < 0.1
    _, v = inside(tvl1.representation_flow(*(f.swapaxes(2, 3).copy() for f in (f1, f2)), n_iter=100))
    assert abs(v.mean() - 1) < 0.05 and v.std() < 0.1


def test_paper_scheme_finds_an_eighth_and_does_not_settle(tvl1):
    """The gain 8 of (8) divides the flow by 8; with (10) the deviation stays, where `classic` has a few hundredths."""
    f1, f2 = texture()
    deviations = []
    for n_iter in (20, 100, 400):
        u, _ = inside(tvl1.representation_flow(f1, f2, scheme="paper", n_iter=n_iter))
        assert 0.09 < u.mean() < 0.17
        deviations.append(u.std())
    assert min(deviations) > 0.35
    u, _ = inside(tvl1.representation_flow(f1, f2, n_iter=400))
    assert u.std() < 0.03


def test_default_parameters_expect_grey_levels(tvl1):
    """The same texture in [0, 1] hardly moves: lambda theta |g| pixels in an iteration at most."""
    f1, f2 = texture()
    for n_iter, low, high in ((10, 0.0, 0.04), (100, 0.1, 0.2)):
        u, _ = inside(tvl1.representation_flow(f1 / 255, f2 / 255, n_iter=n_iter))
        assert low < u.mean() < high
    clip = tvl1.normalise(np.stack([f1, f2], 2) / 255)
    u, _ = inside(tvl1.representation_flow(clip[:, :, 0], clip[:, :, 1], n_iter=100))
    assert abs(u.mean() - 1) < 0.05


@each_scheme
def test_negated_frames_have_the_same_flow(tvl1, scheme):
    f1, f2 = frames(2, 2, 6, 7)
    got = tvl1.representation_flow(f1, f2, scheme=scheme)
    np.testing.assert_allclose(tvl1.representation_flow(-f1, -f2, scheme=scheme), got, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scheme", ["classic", "released"])
def test_a_constant_offset_changes_nothing(tvl1, scheme):
    """In `paper` it does, at the border: outside is 0."""
    f1, f2 = frames(2, 2, 6, 7)
    got = tvl1.representation_flow(f1, f2, scheme=scheme)
    np.testing.assert_allclose(tvl1.representation_flow(f1 + 64, f2 + 64, scheme=scheme), got, rtol=0, atol=1e-9)
    paper = [tvl1.representation_flow(f1 + k, f2 + k, scheme="paper") for k in (0, 64)]
    assert np.abs(paper[0] - paper[1]).max() > 0.01


@each_scheme
def test_negated_image_kernels_negate_the_flow(tvl1, scheme):
    """What reading (8) as cross-correlation does, but for the border lines that `released` takes from elsewhere."""
    f1, f2 = frames(1, 2, 6, 7)
    if scheme == "released":
        for f in (f1, f2):  # no derivative in the border lines
            f[..., 1], f[..., -2], f[..., 1, :], f[..., -2, :] = f[..., 0], f[..., -1], f[..., 0, :], f[..., -1, :]
            f[:] = 100 if f is f1 else f
    kernel = {"classic": SOBEL / 8, "paper": SOBEL, "released": CENTRAL}[scheme]
    flows = [tvl1.representation_flow(f1, f2, scheme=scheme, image_kernel=sign * kernel) for sign in (1, -1)]
    assert np.abs(flows[0]).max() > 0.1
    np.testing.assert_allclose(flows[0], -flows[1], rtol=0, atol=1e-12)


@each_scheme
def test_transposed_frames_have_the_transposed_flow(tvl1, scheme):
    f1, f2 = frames(1, 2, 5, 6)
    u, v = np.split(tvl1.representation_flow(f1, f2, scheme=scheme), 2, axis=1)
    turned = tvl1.representation_flow(*(f.swapaxes(2, 3).copy() for f in (f1, f2)), scheme=scheme)
    np.testing.assert_allclose(turned, np.concatenate([v, u], 1).swapaxes(2, 3), rtol=0, atol=1e-11)


@each_scheme
def test_channels_and_samples_do_not_see_one_another(tvl1, scheme):
    f1, f2 = frames(2, 3, 5, 6)
    together = tvl1.representation_flow(f1, f2, scheme=scheme)
    for n in range(2):
        for c in range(3):
            alone = tvl1.representation_flow(f1[n : n + 1, c : c + 1], f2[n : n + 1, c : c + 1], scheme=scheme)
            np.testing.assert_allclose(together[n, [c, 3 + c]], alone[0], rtol=0, atol=1e-12)


@each_scheme
def test_no_iteration_and_no_motion_give_zero(tvl1, scheme):
    f1, f2 = frames(2, 3, 5, 6)
    flow = tvl1.representation_flow(f1, f2, scheme=scheme, n_iter=0)
    assert flow.shape == (2, 6, 5, 6) and (flow == 0).all()
    assert (tvl1.representation_flow(f1, f1.copy(), scheme=scheme) == 0).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@each_scheme
def test_constant_frames_have_finite_gradients(tvl1, scheme, dtype):
    """Equal or different constants: flat everywhere (in `paper` but for the border, where zeros begin)."""
    for second in (100, 101.5):
        f1, f2 = np.full((1, 2, 5, 6), 100, dtype), np.full((1, 2, 5, 6), second, dtype)
        flow = tvl1.representation_flow(f1, f2, scheme=scheme)
        assert np.isfinite(flow).all() and (scheme == "paper" or (flow == 0).all())
        if tvl1.torch:
            numbers = {name: np.array(0.25, dtype) for name in ("tau", "lam", "theta")}
            kernels = {name: np.array([-1, 1], dtype) for name in ("wx", "wy")}
            kernels |= {"image_kernel": (SOBEL / 8).astype(dtype), "flow_kernel": FORWARD.astype(dtype)}
            for options in (numbers, numbers | kernels):
                for d in gradients("representation_flow", f1, f2, scheme=scheme, **options):
                    assert np.isfinite(d).all()


def test_numbers_may_be_floats_or_arrays_of_one_element(tvl1):
    f1, f2 = frames(1, 2, 5, 6)
    numbers = {"tau": 0.125, "lam": 0.25, "theta": 0.5}
    want = tvl1.representation_flow(f1, f2, **numbers)
    for shape in ((), (1,), (1, 1, 1, 1)):
        arrays = {name: np.full(shape, value) for name, value in numbers.items()}
        np.testing.assert_array_equal(tvl1.representation_flow(f1, f2, **arrays), want)
    assert (tvl1.representation_flow(f1, f2, theta=1) == tvl1.representation_flow(f1, f2, theta=1.0)).all()


@pytest.mark.parametrize("value", [0.0, -0.3, np.inf])
def test_the_oracle_also_refuses_arrays_that_are_not_positive(value):
    f1, f2 = frames(1, 2, 5, 6)
    with pytest.raises(ValueError, match=r"tvl1.representation_flow: theta: expected .* (values|above 0), got"):
        refimpl.tvl1.representation_flow(f1, f2, theta=np.array([value]))


# memory="sqrt"


def test_recomputing_changes_no_value_and_no_gradient():
    """Also where the iterations do not divide evenly, with one, and with none; and through torch.compile."""
    torch = pytest.importorskip("torch")
    f1, f2 = frames(1, 2, 5, 6)
    numbers = {name: np.array(0.25) for name in ("tau", "lam", "theta")}
    kernels = {"wx": np.array([-1.0, 1]), "flow_kernel": FORWARD}
    for scheme, n_iter in (("classic", 0), ("classic", 1), ("paper", 7), ("released", 9), ("classic", 12)):
        options = numbers | kernels | {"scheme": scheme, "n_iter": n_iter}
        if n_iter:
            pair = [gradients("representation_flow", f1, f2, memory=m, **options) for m in ("all", "sqrt")]
            for a, b in zip(*pair, strict=True):
                np.testing.assert_array_equal(a, b)
        flows = [
            op("representation_flow")(*map(torch.tensor, (f1, f2)), n_iter=n_iter, memory=m) for m in ("all", "sqrt")
        ]
        assert (flows[0] == flows[1]).all()
    a, b = (torch.tensor(f, requires_grad=True) for f in (f1, f2))
    torch.compiler.reset()
    compiled = torch.compile(op("representation_flow"), fullgraph=True, backend="aot_eager")
    pair = [
        torch.autograd.grad(f(a, b, n_iter=4, memory="sqrt").sum(), (a, b))
        for f in (compiled, op("representation_flow"))
    ]
    for x, y in zip(*pair, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradgradcheck(lambda a, b: op("representation_flow")(a, b, n_iter=3, memory="sqrt"), (a, b))


def test_recomputing_keeps_few_iterations():
    """Peak bytes of forward and backward, counted as the tensors come and go: linear in n, and like sqrt(n)."""
    torch = pytest.importorskip("torch")
    import weakref

    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Peak(TorchDispatchMode):
        live, peak, seen = 0, 0, frozenset()

        def forget(self, key, size):
            self.seen -= {key}
            self.live -= size

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in tree_leaves(out):
                storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
                if storage is not None and storage._cdata not in self.seen:
                    self.seen |= {storage._cdata}
                    weakref.finalize(storage, self.forget, storage._cdata, storage.nbytes())
                    self.live += storage.nbytes()
                    self.peak = max(self.peak, self.live)
            return out

    def peak(n_iter, memory):
        f1, f2 = (torch.tensor(f, requires_grad=True) for f in frames(1, 1, 16, 16))
        with Peak() as counter:
            op("representation_flow")(f1, f2, n_iter=n_iter, memory=memory).sum().backward()
        return counter.peak

    linear, root = ([peak(n, memory) for n in (9, 36, 144)] for memory in ("all", "sqrt"))
    assert all(b > 3.5 * a for a, b in itertools.pairwise(linear))
    assert all(b < 2.2 * a for a, b in itertools.pairwise(root))


def test_float32_gradient_of_the_image_kernel_errs_no_more_than_its_inputs():
    """The worst case of `check --grad --dtype float32` is one of conditioning: rounding the inputs moves it as much.

    Greys up to 255 times kernels up to 1/8, summed over the map: some elements are of the order of 300, others cancel.
    """
    torch = pytest.importorskip("torch")
    from generated import smooth_case

    from motionspec.cli.cases import exact_case
    from motionspec.ops import tvl1 as op

    arrays = exact_case("tvl1.representation_flow", smooth_case(6, 5), dtype="float32")
    rng = np.random.default_rng(0)
    N, C, H, W = arrays["f1"].shape
    weights = rng.uniform(-1, 1, (N, 2 * C, H, W)).astype(np.float32)

    def gradient(arrays, dtype):
        given = {name: torch.tensor(a, dtype=dtype) for name, a in arrays.items()}
        kernel = given["image_kernel"].requires_grad_(True)
        flow = op.representation_flow(**given, n_iter=3)
        return torch.autograd.grad(flow, kernel, torch.tensor(weights, dtype=dtype))[0].double().numpy()

    exact = gradient(arrays, torch.float64)
    moved = np.zeros_like(exact)
    for _ in range(50):  # each input anywhere within half a unit in the last place of float32
        near = {n: a + rng.uniform(-0.5, 0.5, a.shape) * np.spacing(a.astype(np.float32)) for n, a in arrays.items()}
        moved = np.maximum(moved, np.abs(gradient(near, torch.float64) - exact))
    error = np.abs(gradient(arrays, torch.float32) - exact)
    assert np.abs(exact).max() > 100
    assert error.max() <= 2 * moved.max()


# -- coarse to fine ----------------------------------------------------------------------------------------------------

QUICK = {"n_scales": 3, "n_warps": 2, "n_iter": 5, "median": 3}


def moved(motion, size=(40, 52), seed=0):
    """Two grey images (1, 1, H, W), the flow from one to the other and where it is visible."""
    clip = Scene([Layer(waves(size, seed=seed), motion)], size).clip()
    return clip.frames[None, :, 0], clip.frames[None, :, 1], clip.flow[:, 0], clip.valid[0]


def error(flow, clip_flow, valid, border=4):
    """Mean end-point error on visible pixels away from the border."""
    inner = np.zeros_like(valid)
    inner[border:-border, border:-border] = True
    return np.hypot(*(flow[0] - clip_flow))[valid & inner].mean()


@pytest.mark.parametrize(
    "motion",
    [
        translation([0, 1.3], [0, -0.7]),
        translation([0, 9.0], [0, 0]),
        translation([0, 0], [0, -8.5]),
        rotation([0, 5]) @ zoom([1, 1.05]),
    ],
    ids=["subpixel", "right by 9", "up by 8.5", "turn and zoom"],
)
def test_pyramid_flow_finds_known_motion(motion):
    """Far beyond one pixel; F0(p) = F1(p + flow(p)): texture that moves right has u > 0, that moves down v > 0."""
    function = op("pyramid_flow")
    import torch

    f0, f1, flow, valid = moved(motion, size=(64, 88))
    assert error(function(torch.tensor(f0), torch.tensor(f1)).numpy(), flow, valid, 10) < 0.1


def test_pyramid_flow_of_one_scale_does_not_find_a_large_motion_and_the_pyramid_does(tvl1):
    f0, f1, flow, valid = moved(translation([0, 7.0], [0, 0]), size=(48, 64))
    options = {"n_warps": 3, "n_iter": 10, "median": 3}
    assert error(tvl1.pyramid_flow(f0, f1, n_scales=1, **options), flow, valid) > 3
    assert error(tvl1.pyramid_flow(f0, f1, **options), flow, valid) < 0.5


def test_pyramid_flow_of_equal_or_flat_images_is_0(tvl1):
    f0, _, _, _ = moved(translation([0, 1], [0, 0]))
    assert not tvl1.pyramid_flow(f0, f0, **QUICK).any()
    flat = tvl1.pyramid_flow(np.zeros_like(f0), np.full_like(f0, 200.0), **QUICK)
    np.testing.assert_allclose(flat, 0, rtol=0, atol=1e-12)


def test_pyramid_flow_of_transposed_images_is_the_transposed_flow(tvl1):
    """x and y are treated alike, at sides whose ratios to the next scale differ."""
    f0, f1, _, _ = moved(translation([0, 1.5], [0, -1]), size=(33, 50))
    flow = tvl1.pyramid_flow(f0, f1, **QUICK)
    turned = tvl1.pyramid_flow(f0.swapaxes(2, 3).copy(), f1.swapaxes(2, 3).copy(), **QUICK)
    np.testing.assert_allclose(turned[:, ::-1].swapaxes(2, 3), flow, rtol=0, atol=1e-9)


def test_pyramid_flow_does_not_see_an_offset(tvl1):
    f0, f1, _, _ = moved(translation([0, 1.5], [0, -1]))
    np.testing.assert_allclose(
        tvl1.pyramid_flow(f0 + 50, f1 + 50, **QUICK), tvl1.pyramid_flow(f0, f1, **QUICK), rtol=0, atol=1e-9
    )


def test_pyramid_flow_expects_grey_levels(tvl1):
    f0, f1, flow, valid = moved(translation([0, 1], [0, 0]))
    options = {"n_scales": 2, "n_warps": 2, "n_iter": 20}
    assert error(tvl1.pyramid_flow(f0, f1, **options), flow, valid) < 0.2
    assert tvl1.pyramid_flow(f0 / 255, f1 / 255, **options)[0, 0].mean() < 0.5


def test_pyramid_flow_tolerance_stops_a_sample_for_itself(tvl1):
    """A tolerance above all changes leaves one iteration of each warp; one sample's end is not another's."""
    f0, f1, _, _ = moved(translation([0, 1.5], [0, -1]))
    once = tvl1.pyramid_flow(f0, f1, **QUICK | {"n_iter": 1})
    np.testing.assert_allclose(tvl1.pyramid_flow(f0, f1, **QUICK, tolerance=100.0), once, rtol=0, atol=1e-12)
    still = np.concatenate([f0, f0])  # the second sample is done at once
    options = QUICK | {"n_iter": 30, "tolerance": 0.05}
    both_samples = tvl1.pyramid_flow(still, np.concatenate([f1, f0]), **options)
    np.testing.assert_allclose(both_samples[:1], tvl1.pyramid_flow(f0, f1, **options), rtol=0, atol=1e-12)
    assert not both_samples[1].any()
    all_iterations = tvl1.pyramid_flow(f0, f1, **QUICK | {"n_iter": 30})
    assert 1e-4 < np.abs(all_iterations - both_samples[:1]).max() < 1


@pytest.mark.parametrize(
    "options",
    [{}, {"median": 1}, {"tolerance": 0.05}, {"n_scales": 3, "scale": 0.5}, {"tau": 0.1, "theta": 0.2}],
    ids=str,
)
def test_pyramid_flow_s_options_mean_the_same_to_reference_and_operator(options):
    """What the row does not vary, on two samples that stop after different numbers of iterations."""
    function = op("pyramid_flow")
    import torch

    f0, f1, _, _ = moved(translation([0, 1.5], [0, -1]), size=(21, 26))
    f0, f1 = np.concatenate([f0, f0]), np.concatenate([f1, f0 + 0.5 * (f1 - f0)])
    options = QUICK | {"n_iter": 8} | options
    want = refimpl.tvl1.pyramid_flow(f0, f1, **options)
    np.testing.assert_allclose(function(*map(torch.tensor, (f0, f1)), **options).numpy(), want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (2, 30), (8, 8), (9, 17)])
def test_pyramid_flow_of_small_images(tvl1, size):
    f0, f1, _, _ = moved(translation([0, 1], [0, 0]), size=size)
    flow = tvl1.pyramid_flow(f0, f1, n_warps=2, n_iter=3)
    assert flow.shape == (1, 2, *size) and np.isfinite(flow).all()


def test_pyramid_flow_says_that_it_has_no_gradient():
    function = op("pyramid_flow")
    import torch

    f = torch.zeros(1, 1, 9, 9)
    with pytest.raises(ValueError, match=r"^tvl1.pyramid_flow: image1: expected a tensor without gradient, .*detach"):
        function(f, f.clone().requires_grad_())
    with torch.no_grad():
        assert not function(f, f.clone().requires_grad_()).requires_grad


PAGE = Path(__file__).resolve().parents[1] / "docs" / "pyramid_flow.md"
PAIRS = ("RubberWhale", "Grove2", "Venus", "alley_1")


def pair(realdata, name):
    """Two grey images as uint8, flow (2, H, W), valid (H, W)."""
    cv2 = pytest.importorskip("cv2")
    if name == "alley_1":
        root = realdata / "flow" / "sintel" / "training"
        images = [root / "clean" / name / f"frame_{k:04}.png" for k in (2, 3)]
        truth, invalid = root / "flow" / name / "frame_0002.flo", root / "invalid" / name / "frame_0002.png"
    else:
        root = realdata / "flow" / "middlebury"
        images = [root / "other-data" / name / f"frame{k}.png" for k in (10, 11)]
        truth, invalid = root / "other-gt-flow" / name / "flow10.flo", None
    flow, valid = read_flow(truth)
    if invalid is not None:
        valid = valid & (cv2.imread(str(invalid), cv2.IMREAD_GRAYSCALE) == 0)
    return *(cv2.imread(str(image), cv2.IMREAD_GRAYSCALE) for image in images), flow, valid


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_an_exported_length_is_that_of_hypot(monkeypatch, scale):
    """ONNX has no hypot; squares of float32 would under- or overflow at 1e-30 and 1e30. At 0 the derivative is 0."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    x, y = torch.tensor([[3.0, -4, 0, 5, 0], [4, 3, 2, 0, 0]])
    x, y = (x * scale).requires_grad_(), (y * scale).requires_grad_()
    length = importlib.import_module("motionspec.ops.tvl1")._norm(x, y)
    torch.testing.assert_close(length / scale, torch.tensor([5.0, 5, 2, 5, 0]), rtol=1e-6, atol=0)
    length.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([0.6, -0.8, 0, 1, 0]), rtol=1e-6, atol=0)
    torch.testing.assert_close(y.grad, torch.tensor([0.8, 0.6, 1, 0, 0]), rtol=1e-6, atol=0)


def end_point_error(flow, truth, valid):
    return float(np.hypot(*(flow - truth))[valid].mean())


@pytest.mark.parametrize("name", PAIRS)
def test_pyramid_flow_of_real_pairs_is_not_worse_than_the_better_peer(realdata, name):
    """Ours with its defaults on all pairs; the peers with theirs, on the same grey images and pixels."""
    cv2, torch = pytest.importorskip("cv2"), pytest.importorskip("torch")
    registration = pytest.importorskip("skimage.registration")
    if not hasattr(cv2, "optflow"):
        pytest.skip("OpenCV without contrib has no DualTVL1")
    function = op("pyramid_flow")
    first, second, truth, valid = pair(realdata, name)
    ours = function(*(torch.tensor(f, dtype=torch.float32)[None, None] for f in (first, second)))[0].numpy()
    opencv = cv2.optflow.DualTVL1OpticalFlow_create().calc(first, second, None).transpose(2, 0, 1)
    v, u = registration.optical_flow_tvl1(*(f.astype(np.float32) / 255 for f in (first, second)))
    measured = [end_point_error(f, truth, valid) for f in (ours, opencv, np.stack([u, v]))]
    print(name, valid.mean(), measured)
    assert measured[0] <= min(measured[1:])
    line = re.search(rf"^\| {name} \|.*$", PAGE.read_text(), re.MULTILINE)
    assert line, f"docs/pyramid_flow.md has no line for {name}"
    printed = [float(cell) for cell in re.findall(r"\| (\d\.\d{3}) ", line.group())]
    assert measured == pytest.approx(printed, abs=0.002), "docs/pyramid_flow.md prints other numbers"
