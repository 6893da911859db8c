"""TV-L1 flow and the representation flow layer (RF19 §3).

Every channel has its own flow. The steps take its two components apart, `ux` and `uy`, as maps (N, C, H, W); a dual
field belongs to one component and has two parts, `px` and `py`.
"""

from typing import Any

import numpy as np
from scipy import ndimage

from motionspec.checks import choice, count, message, odd, positive
from motionspec.refimpl.checks import Array, arrays, number

# Pairs (x, y) of kernels for true convolution. As printed in (8) and (10):
SOBEL = np.array([[[1.0, 0, -1], [2, 0, -2], [1, 0, -1]], [[1, 2, 1], [0, 0, 0], [-1, -2, -1]]])
CENTRAL = np.array([[[0, 0, 0], [0.5, 0, -0.5], [0, 0, 0]], [[0, 0.5, 0], [0, 0, 0], [0, -0.5, 0]]])
FORWARD = np.array([[[0.0, 0, 0], [1, -1, 0], [0, 0, 0]], [[0, 1, 0], [0, -1, 0], [0, 0, 0]]])
IMAGE = {"paper": (SOBEL, "constant"), "sobel_unit": (SOBEL / 8, "edge"), "central": (CENTRAL, "edge")}
FLOW = {"paper": (SOBEL, "constant"), "forward": (FORWARD, "edge")}
BACKWARD = np.array([-1.0, 1.0])  # initial wx, wy of (9), in the order of the pixels that they weigh

# scheme: image gradient, flow gradient, border of the divergence
SCHEMES = {
    "classic": ("sobel_unit", "forward", "adjoint"),
    "paper": ("paper", "paper", "paper"),
    "released": ("released", "forward", "adjoint"),
}
EPSILON = 1e-12  # of the released code


def _convolve(f: Array, kernels: Array, border: str) -> tuple[Array, Array]:
    """True convolution of every channel with two 3 x 3 kernels; zeros ("constant") or the border ("edge") outside."""
    H, W = f.shape[-2:]
    padded = np.pad(f, ((0, 0), (0, 0), (1, 1), (1, 1)), mode=border)  # type: ignore[call-overload]
    gx, gy = np.zeros(f.shape), np.zeros(f.shape)
    for g, kernel in ((gx, kernels[0]), (gy, kernels[1])):
        for j in range(3):
            for i in range(3):
                g += kernel[j, i] * padded[..., 2 - j : 2 - j + H, 2 - i : 2 - i + W]
    return gx, gy


def _maps(operator: str, /, **maps: Array) -> list[Array]:
    """Check maps of one shape (N, C, H, W)."""
    patterns: dict[str, Any] = {name: (a, "N C H W") for name, a in maps.items()}
    return arrays(operator, **patterns)


def _given(operator: str, default: Array, /, **argument: tuple[Any, str]) -> Array:
    """An optional array: the default where it is None."""
    ((array, _),) = argument.values()
    return default if array is None else arrays(operator, **argument)[0]


def image_gradient(f: Array, kernel: str = "paper", *, weights: Array | None = None) -> tuple[Array, Array]:
    """Derivatives of the later frame.

    Equation: RF19 (8), "convolving ... with the Sobel filter": true convolution, so that both derivatives are positive.
    Shapes: f (N, C, H, W) -> gx, gy (N, C, H, W). `weights` (2, 3, 3) take the place of the two kernels and keep their
        border rule; they are written like (8), for true convolution.
    Units: those of f per pixel, y down; `paper` has the gain 8, `sobel_unit` and `central` have 1.
    Border: `paper`: zeros outside, which makes a bright border an edge; `sobel_unit`, `central`: the border repeated,
        so half the gain in the border line.
    Kinks: none, it is linear.
    Deviations: the default tau, lambda and theta are made for unit gain: with (8) as printed a shift by one pixel gives
        a flow of about 1/8 (test_tvl1.py::test_paper_scheme_finds_an_eighth_and_does_not_settle). Read as
        cross-correlation, both derivatives and hence the flow change sign
        (test_tvl1.py::test_negated_image_kernels_negate_the_flow). The released code: see `released_gradient`.
    Raises: TypeError or ValueError for dtypes, shapes, `kernel`, or values that are not finite.
    """
    choice("tvl1.image_gradient", "kernel", kernel, tuple(IMAGE))
    (f,) = arrays("tvl1.image_gradient", f=(f, "N C H W"))
    kernels, border = IMAGE[kernel]
    return _convolve(f, _given("tvl1.image_gradient", kernels, weights=(weights, "2 3 3")), border)


def released_gradient(f1: Array, f2: Array, *, weights: Array | None = None) -> tuple[Array, Array]:
    """The released layer's derivatives: of the later frame inside, of the earlier in the border lines.

    Equation: none; the released code in the place of RF19 (8).
    Shapes: f1, f2 (N, C, H, W) -> gx, gy (N, C, H, W). `weights` as in `image_gradient`, for the inside.
    Units: those of f per pixel, y down, gain 1.
    Border: gx in the first and last column is half the difference to the neighbour in f1, gy in the first and last row
        likewise; along a side of length 1 the derivative is 0. (`weights` see zeros outside the map.)
    Kinks: none, it is linear.
    Deviations: (8) prints Sobel kernels and frame 2 throughout; that the border lines come from frame 1 looks like a
        slip (test_tvl1.py::test_released_gradient_takes_its_border_from_the_earlier_frame). For sides of length 1 the
        released code raises IndexError.
    Raises: TypeError or ValueError for dtypes, shapes, or values that are not finite.
    """
    f1, f2 = arrays("tvl1.released_gradient", f1=(f1, "N C H W"), f2=(f2, "N C H W"))
    gx, gy = _convolve(f2, _given("tvl1.released_gradient", CENTRAL, weights=(weights, "2 3 3")), "constant")
    H, W = f1.shape[2:]
    for x in (0, W - 1):
        right, left = max(x, min(1, W - 1)), min(x, max(W - 2, 0))
        gx[..., x] = 0.5 * (f1[..., right] - f1[..., left])
    for y in (0, H - 1):
        down, up = max(y, min(1, H - 1)), min(y, max(H - 2, 0))
        gy[..., y, :] = 0.5 * (f1[..., down, :] - f1[..., up, :])
    return gx, gy


def data_constant(f1: Array, f2: Array, gx: Array, gy: Array, ux: Array, uy: Array) -> Array:
    """The part of the residual that the iteration does not change: `rho_c = F2 - grad F2 . u0 - F1`.

    Equation: RF19 (1); in the layer u0 = 0 and rho_c = F2 - F1 (§3.2). In a pyramid f2, gx, gy are warped by u0.
    Shapes: f1, f2, gx, gy and the start ux, uy (N, C, H, W) -> (N, C, H, W).
    Units: those of f; gx, gy per pixel, y down; ux, uy in pixels.
    Border, Kinks: none, it is pointwise and a polynomial.
    Deviations: none.
    Raises: TypeError or ValueError for dtypes, shapes, or values that are not finite.
    """
    f1, f2, gx, gy, ux, uy = _maps("tvl1.data_constant", f1=f1, f2=f2, gx=gx, gy=gy, ux=ux, uy=uy)
    return f2 - gx * ux - gy * uy - f1


def data_residual(rho_c: Array, gx: Array, gy: Array, ux: Array, uy: Array) -> Array:
    """What the flow leaves unexplained, to first order: `rho = rho_c + grad F2 . u`.

    Equation: RF19 (2).
    Shapes: rho_c, gx, gy, ux, uy (N, C, H, W) -> (N, C, H, W).
    Units: as `data_constant`.
    Border, Kinks: none, it is pointwise and a polynomial.
    Deviations: the released code adds 1e-12, which changes nothing that float32 can hold beside a feature.
    Raises: TypeError or ValueError for dtypes, shapes, or values that are not finite.
    """
    rho_c, gx, gy, ux, uy = _maps("tvl1.data_residual", rho_c=rho_c, gx=gx, gy=gy, ux=ux, uy=uy)
    return rho_c + gx * ux + gy * uy


def threshold_step(
    ux: Array, uy: Array, rho: Array, gx: Array, gy: Array, *, lam: Any = 0.15, theta: Any = 0.3
) -> tuple[Array, Array]:
    """The flow that lowers `|u - v|^2 / (2 theta) + lambda |rho(v)|`, in three cases.

    Equation: RF19 (3): v = u + lambda theta g where rho < -lambda theta |g|^2, u - lambda theta g where
        rho > lambda theta |g|^2, otherwise u - rho g / |g|^2, with g = grad F2.
    Shapes: ux, uy, rho, gx, gy (N, C, H, W) -> vx, vy (N, C, H, W). lam, theta: a number or an array of one, above 0.
    Units: u, v in pixels; g in units of rho per pixel.
    Border: none, it is pointwise.
    Kinks: the inequalities are strict, so at |rho| = lambda theta |g|^2 > 0 the derivative is that of the third case.
        At g = 0, rho != 0: v = u, dv/dg = -sign(rho) lambda theta I. At g = 0, rho = 0: v = u, dv/dg = dv/drho = 0.
    Deviations: the printed |I2|^2 is a misprint for |grad I2|^2: with it v leaves the line rho(v) = 0 that the third
        case projects on (test_tvl1.py::test_threshold_step_third_case_annuls_the_residual). The released code divides
        by |g|^2 + 1e-12 and leaves v = u where |g|^2 is below that: see `representation_flow`.
    Raises: TypeError or ValueError for dtypes, shapes, `lam`, `theta`, or values that are not finite.
    """
    ux, uy, rho, gx, gy = _maps("tvl1.threshold_step", ux=ux, uy=uy, rho=rho, gx=gx, gy=gy)
    lt = number("tvl1.threshold_step", "lam", lam) * number("tvl1.threshold_step", "theta", theta)
    length = np.hypot(gx, gy)  # hypot: no underflow of the squares
    limit = lt * length * length
    below, above, otherwise = rho < -limit, rho > limit, (np.abs(rho) <= limit) & (length > 0)
    vx, vy = ux.copy(), uy.copy()  # as it stays where g = 0 and rho = 0
    for v, u, g in ((vx, ux, gx), (vy, uy, gy)):
        v[below] = u[below] + lt * g[below]
        v[above] = u[above] - lt * g[above]
        v[otherwise] = u[otherwise] - rho[otherwise] / length[otherwise] * (g[otherwise] / length[otherwise])
    return vx, vy


def divergence(
    px: Array, py: Array, border: str = "paper", *, wx: Array | None = None, wy: Array | None = None
) -> Array:
    """Divergence of a dual field by backward differences: `d[i] = w[0] p[i-1] + w[1] p[i]`, along x plus along y.

    Equation: RF19 (6), and (9) with the learnable wx, wy, initially [-1, 1], read as cross-correlation.
    Shapes: px, py (N, C, H, W), wx, wy (2,) -> (N, C, H, W).
    Units: those of p per pixel.
    Border: p before the first column or row is 0. `border="adjoint"`: on the last column px, on the last row py counts
        as 0 too, which makes it the negative adjoint of the forward difference (test_tvl1.py::test_adjointness).
        `border="paper"` is (6) as it stands, also for a side of length 1.
    Kinks: none, it is linear in p and in w.
    Deviations: (6) and (9) keep p on the last column and row, the released code drops it. Inside the iteration with
        `forward` gradients p is 0 there and both agree
        (test_tvl1.py::test_both_borders_of_the_divergence_give_one_flow). As true convolution, like (8), (9) would have
        the opposite sign of (6).
    Raises: TypeError or ValueError for dtypes, shapes, `border`, or values that are not finite.
    """
    choice("tvl1.divergence", "border", border, ("paper", "adjoint"))
    px, py = arrays("tvl1.divergence", px=(px, "N C H W"), py=(py, "N C H W"))
    wx = _given("tvl1.divergence", BACKWARD, wx=(wx, "2"))
    wy = _given("tvl1.divergence", BACKWARD, wy=(wy, "2"))
    H, W = px.shape[2:]
    if border == "adjoint":
        px[..., W - 1] = 0.0
        py[..., H - 1, :] = 0.0
    d = wx[1] * px + wy[1] * py
    d[..., 1:] += wx[0] * px[..., :-1]
    d[..., 1:, :] += wy[0] * py[..., :-1, :]
    return d


def primal_step(
    v: Array,
    px: Array,
    py: Array,
    border: str = "paper",
    *,
    theta: Any = 0.3,
    wx: Array | None = None,
    wy: Array | None = None,
) -> Array:
    """One component of the flow from its auxiliary v and its dual field: `u = v + theta div p`.

    Equation: RF19 (4).
    Shapes: v, px, py (N, C, H, W), wx, wy (2,) -> (N, C, H, W). theta: a number or an array of one, above 0.
    Units: pixels; p has none.
    Border, Kinks: as `divergence`.
    Deviations: none but those of `divergence`.
    Raises: TypeError or ValueError for dtypes, shapes, `border`, `theta`, or values that are not finite.
    """
    choice("tvl1.primal_step", "border", border, ("paper", "adjoint"))
    v, px, py = arrays("tvl1.primal_step", v=(v, "N C H W"), px=(px, "N C H W"), py=(py, "N C H W"))
    wx = _given("tvl1.primal_step", BACKWARD, wx=(wx, "2"))
    wy = _given("tvl1.primal_step", BACKWARD, wy=(wy, "2"))
    return v + number("tvl1.primal_step", "theta", theta) * divergence(px, py, border, wx=wx, wy=wy)


def flow_gradient(u: Array, kernel: str = "paper", *, weights: Array | None = None) -> tuple[Array, Array]:
    """Both derivatives of one component of the flow.

    Equation: RF19 (10), read as both derivatives of each component, by true convolution like (8).
    Shapes: u (N, C, H, W), ux or uy -> dx, dy (N, C, H, W). `weights` (2, 3, 3) as in `image_gradient`.
    Units: pixels per pixel, y down; `paper` has the gain 8, `forward` has 1.
    Border: `paper`: zeros outside. `forward`: dx on the last column and dy on the last row are 0 (other taps of
        `weights` see the border repeated).
    Kinks: none, it is linear.
    Deviations: the printed subscripts, d/dx of ux and d/dy of uy alone, are misprints: p would have two parts for both
        components together. The released code has the forward difference: Sobel kernels are not the adjoint of (6), and
        the iteration does not settle (test_tvl1.py::test_paper_scheme_finds_an_eighth_and_does_not_settle).
    Raises: TypeError or ValueError for dtypes, shapes, `kernel`, or values that are not finite.
    """
    choice("tvl1.flow_gradient", "kernel", kernel, tuple(FLOW))
    (u,) = arrays("tvl1.flow_gradient", u=(u, "N C H W"))
    kernels, border = FLOW[kernel]
    dx, dy = _convolve(u, _given("tvl1.flow_gradient", kernels, weights=(weights, "2 3 3")), border)
    if kernel == "forward":
        dx[..., -1] = 0.0
        dy[..., -1, :] = 0.0
    return dx, dy


def dual_step(px: Array, py: Array, dx: Array, dy: Array, *, tau: Any = 0.25, theta: Any = 0.3) -> tuple[Array, Array]:
    """The dual field of one component: `p = (p + tau/theta d) / (1 + tau/theta |d|)`, d = grad u.

    Equation: RF19 (5), one norm per component of the flow.
    Shapes: px, py, dx, dy (N, C, H, W) -> px, py (N, C, H, W). tau, theta: a number or an array of one, above 0.
    Units: p has none; it stays in the unit disc if it starts there.
    Border: none, it is pointwise.
    Kinks: at d = 0 the derivative of |d| is 0.
    Deviations: the released code has sqrt(|d|^2 + 1e-12): see `representation_flow`.
    Raises: TypeError or ValueError for dtypes, shapes, `tau`, `theta`, or values that are not finite.
    """
    px, py, dx, dy = _maps("tvl1.dual_step", px=px, py=py, dx=dx, dy=dy)
    r = number("tvl1.dual_step", "tau", tau) / number("tvl1.dual_step", "theta", theta)
    return (px + r * dx) / (1 + r * np.hypot(dx, dy)), (py + r * dy) / (1 + r * np.hypot(dx, dy))


def energy(u: Array, f1: Array, f2: Array, lam: Any = 0.15, scheme: str = "classic") -> Array:
    """`sum |grad ux| + |grad uy| + lambda |rho(u)|`, for each channel's flow, with rho = F2 - F1 + grad F2 . u.

    Equation: RF19 (7), the sum over the pixels of one map.
    Shapes: u (N, 2C, H, W): all x, then all y components; f1, f2 (N, C, H, W) -> (N, C). lam: a number or an array of
        one, above 0. `scheme` chooses the gradients, as in `representation_flow`.
    Units: |grad u| has none, lambda those of 1 / f.
    Border: that of the scheme's gradients.
    Kinks: where grad u = 0 or rho = 0 the derivative of the norm is 0.
    Deviations: the printed `grad I1 * u + I1 - I2` does not match (1)-(3), which use grad I2 and I2 - I1: on a ramp in
        motion it is not 0 at the true flow (test_tvl1.py::test_energy_as_printed_misses_the_true_flow).
    Raises: TypeError or ValueError for dtypes, shapes, `lam`, `scheme`, or values that are not finite.
    """
    choice("tvl1.energy", "scheme", scheme, tuple(SCHEMES))
    u, f1, f2 = arrays("tvl1.energy", u=(u, "N D H W"), f1=(f1, "N C H W"), f2=(f2, "N C H W"))
    C = f1.shape[1]
    if u.shape[1] != 2 * C:
        raise ValueError(message("tvl1.energy", "u", f"2C={2 * C} channels for C={C} of f1", u.shape[1]))
    lam = number("tvl1.energy", "lam", lam)
    image, flow, _ = SCHEMES[scheme]
    gx, gy = released_gradient(f1, f2) if image == "released" else image_gradient(f2, image)
    total = lam * np.abs(data_residual(f2 - f1, gx, gy, u[:, :C], u[:, C:]))
    for component in (u[:, :C], u[:, C:]):
        total += np.hypot(*flow_gradient(component, flow))
    return total.sum((2, 3))


def normalise(x: Array) -> Array:
    """A clip x stretched to [0, 255] by its smallest and largest value.

    Equation: RF19 §3.2, "we normalize this feature map to be in [0, 255]"; over C, T, H, W of each sample.
    Shapes: x (N, C, T, H, W) -> (N, C, T, H, W). A pair of frames is a clip of T = 2.
    Units: grey levels, which the default tau, lambda and theta of `representation_flow` expect.
    Border: none.
    Kinks: a tie of the smallest or largest value shares the derivative evenly; a sample that is exactly constant has
        value 0 and derivative 0.
    Deviations: the released code takes both over the whole batch, so that a result depends on its neighbours
        (test_tvl1.py::test_normalise_does_not_see_the_rest_of_the_batch), and divides by min - max: its range is
        [-255, 0], which gives the same flow (test_tvl1.py::test_negated_frames_have_the_same_flow). A constant batch is
        0/0 there.
    Raises: TypeError or ValueError for dtypes, shapes, or values that are not finite.
    """
    (x,) = arrays("tvl1.normalise", x=(x, "N C T H W"))
    out = np.zeros(x.shape)
    for n in range(len(x)):
        low, high = x[n].min(), x[n].max()
        if high > low:
            out[n] = (x[n] - low) / (high - low) * 255
    return out


def representation_flow(
    f1: Array,
    f2: Array,
    *,
    n_iter: int = 10,
    tau: Any = 0.25,
    lam: Any = 0.15,
    theta: Any = 0.3,
    scheme: str = "classic",
    wx: Array | None = None,
    wy: Array | None = None,
    image_kernel: Array | None = None,
    flow_kernel: Array | None = None,
) -> Array:
    """The flow of every channel from f1 to f2, by `n_iter` iterations of TV-L1 on one scale without warping.

    The default tau, lambda and theta expect values in [0, 255] (see `normalise`): on [0, 1] the flow is near 0
    (test_tvl1.py::test_default_parameters_expect_grey_levels).

    Equation: RF19 Alg. 1: u = 0, p = 0, rho_c = F2 - F1, then n times (2)-(5).
        `scheme="classic"`: image_gradient "sobel_unit", flow_gradient "forward", divergence "adjoint".
        `scheme="paper"`: (8), (10) and (9) as printed.
        `scheme="released"`: released_gradient, "forward", "adjoint", and the epsilons of the released code:
        v = u - c g with c = rho / (|g|^2 + 1e-12) clipped to +-lambda theta, and sqrt(|grad u|^2 + 1e-12) in (5).
    Shapes: f1, f2 (N, C, H, W) -> (N, 2C, H, W): all x, then all y components. tau, lam, theta: a number or an array of
        one, above 0. wx, wy (2,) as in `divergence`; image_kernel, flow_kernel (2, 3, 3) as `weights` of
        `image_gradient` and `flow_gradient`. n_iter = 0 gives zeros.
    Units: pixels per frame step, y down, F1(p) = F2(p + flow(p)).
    Border, Kinks: those of the steps.
    Deviations: `paper` is unusable: the gain 8 of (8) divides the flow by 8, and with (10) the iteration oscillates
        (test_tvl1.py::test_paper_scheme_finds_an_eighth_and_does_not_settle); hence `classic`. Printed |F2|^2: see
        `threshold_step`. The released code of a later date convolves all channels with one another and takes vertical
        derivatives twice; `released` is the version before.
    Raises: TypeError or ValueError for dtypes, shapes, `n_iter`, `tau`, `lam`, `theta`, `scheme`, or values that are
        not finite.
    """
    name = "tvl1.representation_flow"
    choice(name, "scheme", scheme, tuple(SCHEMES))
    count(name, "n_iter", n_iter, least=0)
    f1, f2 = arrays(name, f1=(f1, "N C H W"), f2=(f2, "N C H W"))
    tau, lam, theta = number(name, "tau", tau), number(name, "lam", lam), number(name, "theta", theta)
    w = {
        "wx": _given(name, BACKWARD, wx=(wx, "2")),
        "wy": _given(name, BACKWARD, wy=(wy, "2")),
    }
    image, flow, border = SCHEMES[scheme]
    kernels = _given(name, CENTRAL if image == "released" else IMAGE[image][0], image_kernel=(image_kernel, "2 3 3"))
    weights = _given(name, FLOW[flow][0], flow_kernel=(flow_kernel, "2 3 3"))
    if image == "released":
        gx, gy = released_gradient(f1, f2, weights=kernels)
    else:
        gx, gy = image_gradient(f2, image, weights=kernels)

    zero = np.zeros(f1.shape)
    u, p = [zero, zero], [(zero, zero), (zero, zero)]  # a dual field for each component
    rho_c = data_constant(f1, f2, gx, gy, *u)
    for _ in range(n_iter):
        rho = data_residual(rho_c, gx, gy, *u)
        if scheme == "released":
            c = np.clip(rho / (gx**2 + gy**2 + EPSILON), -lam * theta, lam * theta)
            v = [u[0] - c * gx, u[1] - c * gy]
        else:
            v = list(threshold_step(u[0], u[1], rho, gx, gy, lam=lam, theta=theta))
        for k in (0, 1):
            u[k] = primal_step(v[k], *p[k], border, theta=theta, **w)
            dx, dy = flow_gradient(u[k], flow, weights=weights)
            if scheme == "released":
                norm = np.sqrt(dx**2 + dy**2 + EPSILON)
                px, py = p[k]
                r = tau / theta
                p[k] = ((px + r * dx) / (1 + r * norm), (py + r * dy) / (1 + r * norm))
            else:
                p[k] = dual_step(*p[k], dx, dy, tau=tau, theta=theta)
    return np.concatenate(u, axis=1)


# Of the pyramid: weights of the derivative along a line, the smallest side, sigma of the blur where the sides shrink by
# sqrt(2), and the constant of the bicubic kernel, which is OpenCV's and torch's.
FIVE_TAPS = np.array([1.0, -8, 0, 8, -1]) / 12
SMALLEST = 8
BLUR = 0.6
BICUBIC = -0.75


def pyramid_flow(
    image0: Array,
    image1: Array,
    *,
    tau: float = 0.25,
    lam: float = 0.25,
    theta: float = 0.3,
    n_scales: int = 20,
    scale: float = 0.8,
    n_warps: int = 5,
    n_iter: int = 30,
    tolerance: float | None = None,
    median: int = 5,
) -> Array:
    """The flow of one grey image to another by TV-L1, from coarse to fine: the `Flow` modality of all five papers.

    The default lambda expects grey levels in [0, 255]; on [0, 1] the flow is far too small
    (test_tvl1.py::test_pyramid_flow_expects_grey_levels).

    Equation: RF19 §3.1 names the method (Zach et al. 2007); printed are (1)-(6). Scale s has the sides H scale^s and
        W scale^s, rounded; at most `n_scales`, those with a side below 8 are left out. A scale is the one before,
        blurred by a Gaussian (sigma 0.6 sqrt(ratio^2 - 1) per axis, ratio of the sides) and resized.
        From the smallest scale, u = 0, to the largest: p = 0, then `n_warps` times
          u0 = median of u over median x median pixels (1: none),
          F2, grad F2 at p + u0(p) by bicubic interpolation (a = -0.75), grad F2 by [1, -8, 0, 8, -1] / 12,
          rho_c = F2 - grad F2 . u0 - F1; outside the image rho_c and grad F2 fall to 0 within one pixel,
          `n_iter` times (2)-(5), fewer for a sample whose flow changes by less than `tolerance` (root mean square).
        Then u is resized, ux times the ratio of the widths, uy times that of the heights.
    Shapes: image0, image1 (N, 1, H, W) -> (N, 2, H, W).
    Units: pixels per frame step, y down, image0(p) = image1(p + flow(p)). tolerance: pixels.
    Border: repeated in blur, resize, median, derivative and bicubic taps. Resize: bilinear between pixel centres
        (half-pixel rule).
    Kinks: not differentiated; the result is continuous in both images.
    Deviations: none of the papers says how; the choices above are the field's, lambda serves four real pairs
        (test_tvl1.py::test_pyramid_flow_of_real_pairs_is_not_worse_than_the_better_peer, docs/pyramid_flow.md).
    Raises: TypeError or ValueError for dtypes, shapes, every number, or values that are not finite.
    """
    name = "tvl1.pyramid_flow"
    for argument, number_above_0 in (("tau", tau), ("lam", lam), ("theta", theta)):
        positive(name, argument, number_above_0)
    count(name, "n_scales", n_scales)
    positive(name, "scale", scale, below=1)
    count(name, "n_warps", n_warps)
    count(name, "n_iter", n_iter)
    if tolerance is not None:
        positive(name, "tolerance", tolerance)
    odd(name, "median", median)
    f1, f2 = arrays(name, image0=(image0, "N 1 H W"), image1=(image1, "N 1 H W"))
    H, W = f1.shape[2:]
    pyramid = [(f1, f2)]
    for s in range(1, n_scales):
        h, w = int(H * scale**s + 0.5), int(W * scale**s + 0.5)
        if min(h, w) < SMALLEST:
            break
        pyramid.append((_smaller(pyramid[-1][0], h, w), _smaller(pyramid[-1][1], h, w)))

    u = np.zeros((len(f1), 2, *pyramid[-1][0].shape[2:]))
    for f1, f2 in reversed(pyramid):
        (h0, w0), (h, w) = u.shape[2:], f1.shape[2:]
        u = _resize(u, h, w) * np.array([w / w0, h / h0]).reshape(2, 1, 1)
        p = np.zeros((2, 2, *f1.shape))  # component of the flow, part
        gx, gy = (ndimage.correlate1d(f2, FIVE_TAPS, axis=axis, mode="nearest") for axis in (3, 2))
        for _ in range(n_warps):
            u = ndimage.median_filter(u, size=(1, 1, median, median), mode="nearest")
            weight = _inside(u)
            warped, wx, wy = (_bicubic(f, u) for f in (f2, gx, gy))
            rho_c = weight * data_constant(f1, warped, wx, wy, u[:, :1], u[:, 1:])
            wx, wy = weight * wx, weight * wy
            for n in range(len(u)):
                one = np.s_[n : n + 1]
                for _ in range(n_iter):
                    before = u[one].copy()
                    ux, uy = u[one, :1], u[one, 1:]
                    rho = data_residual(rho_c[one], wx[one], wy[one], ux, uy)
                    v = threshold_step(ux, uy, rho, wx[one], wy[one], lam=lam, theta=theta)
                    for k in (0, 1):
                        px, py = p[k, :, one]
                        u[one, k : k + 1] = primal_step(v[k], px, py, "adjoint", theta=theta)
                        dx, dy = flow_gradient(u[one, k : k + 1], "forward")
                        p[k, :, one] = dual_step(px, py, dx, dy, tau=tau, theta=theta)
                    if tolerance is not None and ((u[one] - before) ** 2).sum(1).mean() < tolerance**2:
                        break
    return u


def _smaller(f: Array, h: int, w: int) -> Array:
    ratio = np.array(f.shape[2:]) / (h, w)
    sigma = BLUR * np.sqrt(ratio**2 - 1)
    return _resize(ndimage.gaussian_filter(f, (0, 0, *sigma), mode="nearest", truncate=4.0), h, w)


def _resize(f: Array, h: int, w: int) -> Array:
    """Bilinear between pixel centres: pixel i of n lies at (i + 1/2) / n of the side; the border is repeated."""

    def matrix(n: int, size: int) -> Array:
        at = (np.arange(size) + 0.5) * n / size - 0.5
        return np.stack([np.interp(at, np.arange(n), unit) for unit in np.eye(n)], axis=1)

    return matrix(f.shape[2], h) @ f @ matrix(f.shape[3], w).T


def _inside(u: Array) -> Array:
    """1 where p + u(p) is in the image, 0 from one pixel outside, linear between; (N, 1, H, W)."""
    H, W = u.shape[2:]
    y, x = np.mgrid[:H, :W]
    x, y = x + u[:, :1], y + u[:, 1:]
    across, down = np.minimum(x + 1, W - x), np.minimum(y + 1, H - y)
    return np.clip(across, 0, 1) * np.clip(down, 0, 1)


def _bicubic(f: Array, u: Array) -> Array:
    """f (N, 1, H, W) at p + u(p) from 4 x 4 pixels (Keys 1981, a = -0.75), the border repeated."""
    N, _, H, W = f.shape
    n, y, x = np.mgrid[:N, :H, :W]
    y, x = y + u[:, 1], x + u[:, 0]
    out = np.zeros(f.shape)
    for j in range(-1, 3):
        for i in range(-1, 3):
            row, column = np.floor(y) + j, np.floor(x) + i
            tap = f[n, 0, np.clip(row, 0, H - 1).astype(int), np.clip(column, 0, W - 1).astype(int)]
            out[:, 0] += _keys(y - row) * _keys(x - column) * tap
    return out


def _keys(t: Array) -> Array:
    a, t = BICUBIC, np.abs(t)
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    return np.where(t <= 1, near, a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a)
