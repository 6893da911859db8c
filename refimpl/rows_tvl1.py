"""Rows of stem `tvl1`: the fields are explained in `row.py`."""

from typing import Any

import numpy as np

from motionspec.refimpl import tvl1
from motionspec.refimpl.row import BAD_MAP, Args, Equation, Fill, change, inner, maps

_REPFLOW_BENCH = ({"N": 30, "C": 32, "H": 28, "W": 28}, {"N": 32, "C": 1, "H": 112, "W": 112})
_BAD_BORDER = (change(border="zero"), "border: expected one of 'paper', 'adjoint', got 'zero'")
_BAD_SCHEME = (change(scheme="sobel"), "scheme: expected one of 'classic', 'paper', 'released', got 'sobel'")
_BORDER = ({"border": "paper"}, {"border": "adjoint"})
_SCHEME = ({"scheme": "classic"}, {"scheme": "paper"}, {"scheme": "released"})
_THREE_ITERATIONS = tuple(variant | {"n_iter": 3} for variant in _SCHEME)  # enough for every step to see the others


def _bad_number(name: str) -> tuple[Any, ...]:
    values = (0.0, -0.25, float("nan"), float("inf"))
    return (
        *((change(**{name: value}), f"{name}: expected a finite number above 0, got {value}") for value in values),
        (change(**{name: True}), f"{name}: expected a number, got bool"),
    )


def _gradient_inputs(name: str) -> Any:
    def inputs(fill: Fill, N: int, C: int, H: int, W: int) -> Args:
        return {name: fill(name, (N, C, H, W), "value"), "weights": fill("weights", (2, 3, 3), "unit")}

    return inputs


def _released_inputs(fill: Fill, N: int, C: int, H: int, W: int) -> Args:
    return maps("f1", "f2")(fill, N, C, H, W) | {"weights": fill("weights", (2, 3, 3), "unit")}


def _data_inputs(*names: str) -> Any:
    """Maps of the case's scale, and a flow in units of 1."""

    def inputs(fill: Fill, N: int, C: int, H: int, W: int) -> Args:
        flow = {name: fill(name, (N, C, H, W), "unit") for name in ("ux", "uy")}
        return maps(*names)(fill, N, C, H, W) | flow

    return inputs


def _threshold_inputs(fill: Fill, N: int, C: int, H: int, W: int) -> Args:
    shape = (N, C, H, W)
    ux, uy, rho = fill("ux", shape, "value"), fill("uy", shape, "value"), fill("rho", shape, "nonzero")
    gx, gy = fill("gx", shape, "value"), fill("gy", shape, "value")
    lam, theta = fill("lam", (), "parameter"), fill("theta", (), "parameter")
    limit = lam * theta * (gx * gx + gy * gy)
    near = abs(abs(rho) - limit) < limit / 64  # the kink between two cases: rho is doubled there
    return {"ux": ux, "uy": uy, "rho": rho * (1 + near), "gx": gx, "gy": gy, "lam": lam, "theta": theta}


def _divergence_inputs(fill: Fill, N: int, C: int, H: int, W: int) -> Args:
    kernels = {"wx": fill("wx", (2,), "unit"), "wy": fill("wy", (2,), "unit")}
    return maps("px", "py")(fill, N, C, H, W) | kernels


def _primal_inputs(fill: Fill, N: int, C: int, H: int, W: int) -> Args:
    kernels = {"wx": fill("wx", (2,), "unit"), "wy": fill("wy", (2,), "unit")}
    return maps("v", "px", "py")(fill, N, C, H, W) | {"theta": fill("theta", (), "parameter")} | kernels


def _dual_inputs(fill: Fill, N: int, C: int, H: int, W: int) -> Args:
    fields = {name: fill(name, (N, C, H, W), "unit") for name in ("px", "py", "dx", "dy")}
    return fields | {name: fill(name, (), "parameter") for name in ("tau", "theta")}


def _energy_inputs(fill: Fill, N: int, C: int, H: int, W: int) -> Args:
    """|grad u| and |rho| have kinks at 0: neighbours in u are equal or 2^-12 apart, rho is 0 or away from it.

    Large maps have a low contrast, so that sums over them stay in the range of half precision.
    """
    contrast = 1.0 if N * C * H * W <= 512 else 2.0 ** -np.ceil(np.log2(N * C * H * W / 128))
    u = np.round(4096 * fill("u", (N, 2 * C, H, W), "unit")) / 4096
    f1, f2 = (contrast * fill(name, (N, C, H, W), "grey") for name in ("f1", "f2"))
    for scheme in 3 * tuple(tvl1.SCHEMES):
        image = tvl1.SCHEMES[scheme][0]
        gx, gy = tvl1.released_gradient(f1, f2) if image == "released" else tvl1.image_gradient(f2, image)
        rho = np.abs(tvl1.data_residual(f2 - f1, gx, gy, u[:, :C], u[:, C:]))
        f1 = np.where((rho > 0) & (rho < contrast / 16), f1 / 2, f1)
    return {"u": u, "f1": f1, "f2": f2, "lam": fill("lam", (), "parameter")}


def _clip_inputs(fill: Fill, N: int, C: int, T: int, H: int, W: int) -> Args:
    return {"x": fill("x", (N, C, T, H, W), "spread")}


def _repflow_inputs(fill: Fill, N: int, C: int, H: int, W: int) -> Args:
    frames = {name: fill(name, (N, C, H, W), "grey") for name in ("f1", "f2")}
    numbers = {name: fill(name, (), "parameter") for name in ("tau", "lam", "theta")}
    kernels = {"wx": fill("wx", (2,), "unit"), "wy": fill("wy", (2,), "unit")}
    # Gradients of greys by weights up to 1/8: lambda theta |g|^2 and rho are of one size, so that all cases occur.
    kernels["image_kernel"] = fill("image_kernel", (2, 3, 3), "unit") / 8
    kernels["flow_kernel"] = fill("flow_kernel", (2, 3, 3), "unit")
    return frames | numbers | kernels


def _image_inputs(fill: Fill, N: int, H: int, W: int) -> Args:
    """Sides from 11, so that there is a scale above the smallest side of 8. In [-8, 8]: in noise of full contrast the
    steps are as large as its details, and each warp makes a rounding ten times as large."""
    return {name: 8 * fill(name, (N, 1, H + 10, W + 10), "unit") for name in ("image0", "image1")}


# Mutants that do not fit on a line.


def _correlated(f: np.ndarray, kernel: str = "paper", **weights: Any) -> tuple[np.ndarray, ...]:
    turned = {name: w[:, ::-1, ::-1] for name, w in weights.items()}
    if not turned:
        turned = {"weights": tvl1.IMAGE[kernel][0][:, ::-1, ::-1].copy()}
    return tvl1.image_gradient(f, kernel, **turned)


def _printed_intensity(
    ux: np.ndarray, uy: np.ndarray, rho: np.ndarray, gx: np.ndarray, gy: np.ndarray, lam: Any = 0.15, theta: Any = 0.3
) -> tuple[np.ndarray, ...]:
    """|g| in the place of |g|^2."""
    scale = np.sqrt(np.maximum(np.hypot(gx, gy), 1e-30))
    return tvl1.threshold_step(ux, uy, rho, gx / scale, gy / scale, lam=lam, theta=theta)


def _without_third_case(
    ux: np.ndarray, uy: np.ndarray, rho: np.ndarray, gx: np.ndarray, gy: np.ndarray, lam: Any = 0.15, theta: Any = 0.3
) -> tuple[np.ndarray, ...]:
    """What a fork of the released code does."""
    vx, vy = tvl1.threshold_step(ux, uy, rho, gx, gy, lam=lam, theta=theta)
    third = np.abs(rho) <= lam * theta * (gx**2 + gy**2)
    return np.where(third, ux, vx), np.where(third, uy, vy)


def _one_norm_for_all(
    px: np.ndarray, py: np.ndarray, dx: np.ndarray, dy: np.ndarray, tau: Any = 0.25, theta: Any = 0.3
) -> tuple[np.ndarray, ...]:
    """The sum of |dx| and |dy| in the place of the norm."""
    r = tau / theta
    return tuple((p + r * d) / (1 + r * (np.abs(dx) + np.abs(dy))) for p, d in ((px, dx), (py, dy)))


def _over_the_batch(x: np.ndarray) -> np.ndarray:
    low, high = x.min(), x.max()
    return (x - low) / max(high - low, 1e-300) * 255


def _range_never_0(x: np.ndarray) -> np.ndarray:
    low, high = (f(x, axis=(1, 2, 3, 4), keepdims=True) for f in (np.min, np.max))
    return (x - low) / (high - low + 1e-6) * 255


def _per_channel(x: np.ndarray) -> np.ndarray:
    return np.concatenate([tvl1.normalise(x[:, c : c + 1]) for c in range(x.shape[1])], axis=1)


def _interleaved(f1: np.ndarray, f2: np.ndarray, scheme: str = "classic", **options: Any) -> np.ndarray:
    N, C, H, W = f1.shape
    flow = tvl1.representation_flow(f1, f2, scheme=scheme, **options)
    return flow.reshape(N, 2, C, H, W).swapaxes(1, 2).reshape(N, 2 * C, H, W)


def _shared(f1: np.ndarray, f2: np.ndarray, scheme: str = "classic", **options: Any) -> np.ndarray:
    """One flow for all channels, as the released code of a later date computes."""
    flow = tvl1.representation_flow(f1, f2, scheme=scheme, **options)
    N, _, H, W = flow.shape
    u, v = flow.reshape(N, 2, -1, H, W).mean(2, keepdims=True).swapaxes(0, 1)
    return np.concatenate([np.broadcast_to(a, f1.shape) for a in (u, v)], axis=1)


def _gradient_of_the_earlier(f1: np.ndarray, f2: np.ndarray, scheme: str = "classic", **options: Any) -> np.ndarray:
    return -tvl1.representation_flow(f2, f1, scheme=scheme, **options)


ROWS = (
    Equation(
        id="tvl1.image_gradient",
        source="RF19 (8)",
        summary="gradient of F2 by true convolution: as printed (gain 8), or of unit gain",
        reference=tvl1.image_gradient,
        dims="NCHW",
        inputs=_gradient_inputs("f"),
        variants=({"kernel": "paper"}, {"kernel": "sobel_unit"}, {"kernel": "central"}),
        outputs=("gx", "gy"),
        degree=(1, 1),
        differentiable=("f", "weights"),
        interior=inner,
        bench=_REPFLOW_BENCH,
        bad=(
            BAD_MAP,
            (change(kernel="scharr"), "kernel: expected one of 'paper', 'sobel_unit', 'central', got 'scharr'"),
            (
                change(weights=lambda w: w[:1]),
                "weights: expected shape (2, 3, 3) with sides of at least 1, got (1, 3, 3)",
            ),
        ),
        mutants=(
            ("cross-correlation", _correlated),
            ("gx and gy swapped", lambda f, kernel="paper", **w: tvl1.image_gradient(f, kernel, **w)[::-1]),
            (
                "the other border",
                lambda f, kernel="paper", weights=None: tvl1.image_gradient(
                    f,
                    "sobel_unit" if kernel == "paper" else "paper",
                    weights=tvl1.IMAGE[kernel][0] if weights is None else weights,
                ),
            ),
        ),
    ),
    Equation(
        id="tvl1.released_gradient",
        source="released code of RF19",
        summary="central differences of F2 inside, of F1 in the border lines",
        reference=tvl1.released_gradient,
        dims="NCHW",
        inputs=_released_inputs,
        outputs=("gx", "gy"),
        degree=(1, 1),
        differentiable=("f1", "f2", "weights"),
        interior=inner,
        bench=_REPFLOW_BENCH,
        bad=(),
        mutants=(
            ("border lines of F2", lambda f1, f2, **w: tvl1.released_gradient(f2, f2, **w)),
            ("frames swapped", lambda f1, f2, **w: tvl1.released_gradient(f2, f1, **w)),
            ("border repeated", lambda f1, f2, **w: tvl1.image_gradient(f2, "central", **w)),
        ),
    ),
    Equation(
        id="tvl1.data_constant",
        source="RF19 (1), §3.2",
        summary="rho_c = F2 - grad F2 . u0 - F1",
        reference=tvl1.data_constant,
        dims="NCHW",
        inputs=_data_inputs("f1", "f2", "gx", "gy"),
        outputs=("rho_c",),
        degree=(1,),
        differentiable=("f1", "f2", "gx", "gy", "ux", "uy"),
        bench=_REPFLOW_BENCH,
        bad=(),
        mutants=(
            ("frames swapped", lambda f1, f2, gx, gy, ux, uy: tvl1.data_constant(f2, f1, gx, gy, ux, uy)),
            ("sign of the start", lambda f1, f2, gx, gy, ux, uy: tvl1.data_constant(f1, f2, gx, gy, -ux, -uy)),
            ("ux and uy swapped", lambda f1, f2, gx, gy, ux, uy: tvl1.data_constant(f1, f2, gx, gy, uy, ux)),
        ),
    ),
    Equation(
        id="tvl1.data_residual",
        source="RF19 (2)",
        summary="rho = rho_c + grad F2 . u",
        reference=tvl1.data_residual,
        dims="NCHW",
        inputs=_data_inputs("rho_c", "gx", "gy"),
        outputs=("rho",),
        degree=(1,),
        differentiable=("rho_c", "gx", "gy", "ux", "uy"),
        bench=_REPFLOW_BENCH,
        bad=(),
        mutants=(
            ("sign of the flow", lambda rho_c, gx, gy, ux, uy: tvl1.data_residual(rho_c, gx, gy, -ux, -uy)),
            ("ux and uy swapped", lambda rho_c, gx, gy, ux, uy: tvl1.data_residual(rho_c, gx, gy, uy, ux)),
        ),
    ),
    Equation(
        id="tvl1.threshold_step",
        source="RF19 (3)",
        summary="v from u in three cases at +-lambda theta |grad F2|^2",
        reference=tvl1.threshold_step,
        dims="NCHW",
        inputs=_threshold_inputs,
        outputs=("vx", "vy"),
        degree=(1, 1),
        differentiable=("ux", "uy", "rho", "gx", "gy", "lam", "theta"),
        bench=_REPFLOW_BENCH,
        bad=(*_bad_number("lam"), *_bad_number("theta")),
        mutants=(
            ("|g| for |g|^2", _printed_intensity),
            ("the third case never holds", _without_third_case),
            (
                "sign of rho",
                lambda ux, uy, rho, gx, gy, lam=0.15, theta=0.3: tvl1.threshold_step(
                    ux, uy, -rho, gx, gy, lam=lam, theta=theta
                ),
            ),
            (
                "theta forgotten",
                lambda ux, uy, rho, gx, gy, lam=0.15, theta=0.3: tvl1.threshold_step(
                    ux, uy, rho, gx, gy, lam=lam, theta=1.0
                ),
            ),
        ),
    ),
    Equation(
        id="tvl1.primal_step",
        source="RF19 (4)",
        summary="u = v + theta div p",
        reference=tvl1.primal_step,
        dims="NCHW",
        inputs=_primal_inputs,
        variants=_BORDER,
        outputs=("u",),
        degree=(1,),
        differentiable=("v", "px", "py", "theta", "wx", "wy"),
        interior=inner,
        bench=_REPFLOW_BENCH,
        bad=(_BAD_BORDER, *_bad_number("theta")),
        mutants=(
            (
                "sign of the divergence",
                lambda v, px, py, border="paper", **options: tvl1.primal_step(v, -px, -py, border, **options),
            ),
            (
                "theta forgotten",
                lambda v, px, py, border="paper", theta=0.3, **w: tvl1.primal_step(v, px, py, border, theta=1.0, **w),
            ),
        ),
    ),
    Equation(
        id="tvl1.dual_step",
        source="RF19 (5)",
        summary="p = (p + tau/theta grad u) / (1 + tau/theta |grad u|), one norm per component",
        reference=tvl1.dual_step,
        dims="NCHW",
        inputs=_dual_inputs,
        outputs=("px", "py"),
        degree=(0, 0),
        differentiable=("px", "py", "dx", "dy", "tau", "theta"),
        bench=_REPFLOW_BENCH,
        bad=(*_bad_number("tau"), *_bad_number("theta")),
        mutants=(
            ("|dx| + |dy| for the norm", _one_norm_for_all),
            (
                "tau for tau/theta",
                lambda px, py, dx, dy, tau=0.25, theta=0.3: tvl1.dual_step(px, py, dx, dy, tau=tau, theta=1.0),
            ),
            (
                "sign of the gradient",
                lambda px, py, dx, dy, tau=0.25, theta=0.3: tvl1.dual_step(px, py, -dx, -dy, tau=tau, theta=theta),
            ),
        ),
    ),
    Equation(
        id="tvl1.divergence",
        source="RF19 (6), (9)",
        summary="backward differences, d[i] = w[0] p[i-1] + w[1] p[i], p before the first line is 0",
        reference=tvl1.divergence,
        dims="NCHW",
        inputs=_divergence_inputs,
        variants=_BORDER,
        outputs=("divergence",),
        degree=(1,),
        differentiable=("px", "py", "wx", "wy"),
        interior=inner,
        bench=_REPFLOW_BENCH,
        bad=(
            _BAD_BORDER,
            (change(wx=lambda w: np.append(w, w)), "wx: expected shape (2) with sides of at least 1, got (4,)"),
        ),
        mutants=(
            (
                "the other border",
                lambda px, py, border="paper", **w: tvl1.divergence(
                    px, py, "adjoint" if border == "paper" else "paper", **w
                ),
            ),
            ("px and py swapped", lambda px, py, border="paper", **w: tvl1.divergence(py, px, border, **w)),
            (
                "true convolution",
                lambda px, py, border="paper", wx=tvl1.BACKWARD, wy=tvl1.BACKWARD: tvl1.divergence(
                    px, py, border, wx=wx[::-1].copy(), wy=wy[::-1].copy()
                ),
            ),
        ),
    ),
    Equation(
        id="tvl1.flow_gradient",
        source="RF19 (10)",
        summary="both derivatives of one component: as printed (gain 8), or the forward difference",
        reference=tvl1.flow_gradient,
        dims="NCHW",
        inputs=_gradient_inputs("u"),
        variants=({"kernel": "paper"}, {"kernel": "forward"}),
        outputs=("dx", "dy"),
        degree=(1, 1),
        differentiable=("u", "weights"),
        interior=inner,
        bench=_REPFLOW_BENCH,
        bad=((change(kernel="central"), "kernel: expected one of 'paper', 'forward', got 'central'"),),
        mutants=(
            ("dx and dy swapped", lambda u, kernel="paper", **w: tvl1.flow_gradient(u, kernel, **w)[::-1]),
            ("sign", lambda u, kernel="paper", **w: tvl1.flow_gradient(-u, kernel, **w)),
            (
                "unit gain",
                lambda u, kernel="paper", **w: tuple(g / 8 for g in tvl1.flow_gradient(u, kernel, **w)),
            ),
        ),
    ),
    Equation(
        id="tvl1.energy",
        source="RF19 (7)",
        summary="sum |grad u| + lambda |rho(u)| of each channel's flow, one norm per component",
        reference=tvl1.energy,
        dims="NCHW",
        inputs=_energy_inputs,
        variants=_SCHEME,
        outputs=("energy",),
        degree=(0,),
        differentiable=("u", "f1", "f2", "lam"),
        step=1e-5,  # sums of up to 1e4, which hold 12 digits behind the point
        bench=_REPFLOW_BENCH,
        bad=(
            _BAD_SCHEME,
            *_bad_number("lam"),
            (change(u=lambda u: np.append(u, u, axis=1)), "u: expected 2C=6 channels for C=3 of f1, got 12"),
        ),
        mutants=(
            ("frames swapped", lambda u, f1, f2, lam=0.15, scheme="classic": tvl1.energy(u, f2, f1, lam, scheme)),
            ("mean", lambda u, f1, f2, lam=0.15, scheme="classic": tvl1.energy(u, f1, f2, lam, scheme) / u[0, 0].size),
            ("lambda forgotten", lambda u, f1, f2, lam=0.15, scheme="classic": tvl1.energy(u, f1, f2, 1.0, scheme)),
        ),
    ),
    Equation(
        id="tvl1.normalise",
        source="RF19 §3.2",
        summary="to [0, 255] by minimum and maximum of each clip",
        reference=tvl1.normalise,
        dims="NCTHW",
        inputs=_clip_inputs,
        outputs=("normalised",),
        degree=(0,),
        differentiable=("x",),
        bench=({"N": 2, "C": 32, "T": 16, "H": 28, "W": 28},),
        bad=(),
        mutants=(
            ("over the whole batch", _over_the_batch),
            ("per channel", _per_channel),
            ("1e-6 added to the range", _range_never_0),
            ("to [0, 1]", lambda x: tvl1.normalise(x) / 255),
            ("to [-255, 0]", lambda x: -tvl1.normalise(x)),
        ),
    ),
    Equation(
        id="tvl1.representation_flow",
        source="RF19 Alg. 1, Fig. 2",
        summary="each channel's flow by n iterations of (2)-(5), one scale, no warping",
        reference=tvl1.representation_flow,
        dims="NCHW",
        inputs=_repflow_inputs,
        variants=_THREE_ITERATIONS,
        outputs=("flow",),
        degree=(0,),
        differentiable=("f1", "f2", "tau", "lam", "theta", "wx", "wy", "image_kernel", "flow_kernel"),
        blocks=("u", "v"),
        bench=_REPFLOW_BENCH,
        bad=(
            _BAD_SCHEME,
            (change(n_iter=-1), "n_iter: expected at least 0, got -1"),
            (change(n_iter=2.0), "n_iter: expected an integer, got float"),
            *_bad_number("tau"),
            *_bad_number("lam"),
            *_bad_number("theta"),
        ),
        mutants=(
            (
                "from f2 to f1",
                lambda f1, f2, scheme="classic", **o: tvl1.representation_flow(f2, f1, scheme=scheme, **o),
            ),
            ("gradient of the earlier frame", _gradient_of_the_earlier),
            ("u and v interleaved by channel", _interleaved),
            ("one flow for all channels", _shared),
            (
                "an iteration less",
                lambda f1, f2, n_iter=10, **o: tvl1.representation_flow(f1, f2, n_iter=n_iter - 1, **o),
            ),
            (
                "the scheme before",
                lambda f1, f2, scheme="classic", **o: tvl1.representation_flow(
                    f1, f2, scheme={"classic": "paper", "paper": "released", "released": "classic"}[scheme], **o
                ),
            ),
        ),
    ),
    Equation(
        id="tvl1.pyramid_flow",
        source="RF19 §3.1; OFF18 §5.1 flow input",
        summary="flow of grey images by TV-L1 from coarse to fine with warping: the Flow modality",
        reference=tvl1.pyramid_flow,
        dims="NHW",
        inputs=_image_inputs,
        variants=({"n_scales": 2, "scale": 0.7, "n_warps": 2, "n_iter": 2, "median": 3},),  # every step sees the others
        outputs=("flow",),
        degree=(0,),
        differentiable=(),
        blocks=("u", "v"),
        # Images of 8 units, and (3) divides the rounding of their difference by |grad F2|.
        tolerance={
            "float32": (2e-6, 4e-5),
            "bfloat16": (2**-8 + 4e-6, 4e-5),
            "float16": (2**-11 + 2e-6, 4e-5),
        },
        cost=6,
        bench=({"N": 1, "H": 246, "W": 310},),
        bad=(
            (
                change(image0=lambda a: np.append(a, a, axis=1)),
                "image0: expected shape (N, 1, H, W) with sides of at least 1, got ({N}, 2, {H}, {W})",
            ),
            *_bad_number("tau"),
            *_bad_number("lam"),
            *_bad_number("theta"),
            (change(n_scales=0), "n_scales: expected at least 1, got 0"),
            (change(scale=1.0), "scale: expected a number above 0 and below 1, got 1.0"),
            (change(n_warps=0), "n_warps: expected at least 1, got 0"),
            (change(n_iter=0), "n_iter: expected at least 1, got 0"),
            (change(tolerance=0.0), "tolerance: expected a finite number above 0, got 0.0"),
            (change(median=4), "median: expected an odd number, got 4"),
            (change(median=2.0), "median: expected an integer, got float"),
        ),
        mutants=(
            ("from image1 to image0", lambda image0, image1, **o: tvl1.pyramid_flow(image1, image0, **o)),
            ("u and v swapped", lambda image0, image1, **o: tvl1.pyramid_flow(image0, image1, **o)[:, ::-1].copy()),
            ("one scale", lambda image0, image1, n_scales, **o: tvl1.pyramid_flow(image0, image1, n_scales=1, **o)),
            ("one warp", lambda image0, image1, n_warps, **o: tvl1.pyramid_flow(image0, image1, n_warps=1, **o)),
            (
                "another median",
                lambda image0, image1, median, **o: tvl1.pyramid_flow(image0, image1, median=median + 2, **o),
            ),
        ),
    ),
)
