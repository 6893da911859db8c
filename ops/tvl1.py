"""TV-L1 flow and the representation flow layer (RF19 §3). Definitions and sources: `motionspec.refimpl.tvl1`.

Every channel has its own flow. The steps take its two components apart, `ux` and `uy`, as maps (N, C, H, W); a dual
field belongs to one component and has two parts, `px` and `py`.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from motionspec.checks import choice, count, message, odd, positive
from motionspec.ops.autocast import promoted
from motionspec.ops.checks import given, number, tensors, widened
from motionspec.ops.support import by_eager, eager_gradients, select, transforming

Number = float | Tensor
Kernel = Tensor | tuple[tuple[float, ...], ...]  # 3 x 3, for true convolution
Kernels = Tensor | tuple[Kernel, Kernel]  # for x and y


def _pair(kernel: tuple[tuple[float, ...], ...]) -> tuple[Kernel, Kernel]:
    """A kernel for x and its transpose for y."""
    return kernel, tuple(zip(*kernel, strict=True))


_SOBEL = _pair(((1, 0, -1), (2, 0, -2), (1, 0, -1)))
_SOBEL_UNIT = _pair(((0.125, 0, -0.125), (0.25, 0, -0.25), (0.125, 0, -0.125)))
_CENTRAL = _pair(((0, 0, 0), (0.5, 0, -0.5), (0, 0, 0)))
_IMAGE = {"paper": _SOBEL, "sobel_unit": _SOBEL_UNIT, "central": _CENTRAL}
_BACKWARD = (-1.0, 1.0)
# scheme: image gradient, flow gradient, border of the divergence
_SCHEMES = {
    "classic": ("sobel_unit", "forward", "adjoint"),
    "paper": ("paper", "paper", "paper"),
    "released": ("released", "forward", "adjoint"),
}
_EPSILON = 1e-12  # of the released code
# Of the pyramid: the smallest side, sigma of the blur where the sides shrink by sqrt(2), and the constant of the
# bicubic kernel, which is OpenCV's and torch's.
_SMALLEST = 8
_BLUR = 0.6
_BICUBIC = -0.75


@promoted
def image_gradient(
    f: Tensor, kernel: str = "paper", *, weights: Tensor | None = None, impl: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Derivatives of the later frame (RF19 (8)): as printed with gain 8, or `sobel_unit`, `central` with gain 1.

    Shapes: f (N, C, H, W) -> gx, gy (N, C, H, W), y down. `weights` (2, 3, 3) replace the two kernels; they are for
    true convolution, like (8). Outside the map: zeros for `paper`, else the border repeated.
    Raises TypeError or ValueError for dtypes, devices, shapes, `kernel` or `impl`.
    """
    choice("tvl1.image_gradient", "kernel", kernel, tuple(_IMAGE))
    [a], w = _checked("tvl1.image_gradient", impl, {"f": f}, weights=(weights, "2 3 3"))
    gx, gy = _image_gradient(a, a, kernel, w["weights"])
    return gx.to(f.dtype), gy.to(f.dtype)


@promoted
def released_gradient(
    f1: Tensor, f2: Tensor, *, weights: Tensor | None = None, impl: str = "auto"
) -> tuple[Tensor, Tensor]:
    """The released layer's derivatives: central differences of f2 inside, of f1 in the border lines.

    Shapes: f1, f2 (N, C, H, W) -> gx, gy (N, C, H, W), y down. `weights` as in `image_gradient`, for the inside.
    Raises TypeError or ValueError for dtypes, devices, shapes or `impl`.
    """
    [a, b], w = _checked("tvl1.released_gradient", impl, {"f1": f1, "f2": f2}, weights=(weights, "2 3 3"))
    gx, gy = _image_gradient(a, b, "released", w["weights"])
    return gx.to(f1.dtype), gy.to(f1.dtype)


@promoted
def data_constant(
    f1: Tensor, f2: Tensor, gx: Tensor, gy: Tensor, ux: Tensor, uy: Tensor, *, impl: str = "auto"
) -> Tensor:
    """`rho_c = F2 - grad F2 . u0 - F1`, the part of the residual that the iteration does not change (RF19 (1)).

    Shapes: f1, f2, gx, gy and the start ux, uy (N, C, H, W) -> (N, C, H, W).
    Raises TypeError or ValueError for dtypes, devices, shapes or `impl`.
    """
    maps = {"f1": f1, "f2": f2, "gx": gx, "gy": gy, "ux": ux, "uy": uy}
    [a, b, c, d, e, f], _ = _checked("tvl1.data_constant", impl, maps)
    return (b - c * e - d * f - a).to(f1.dtype)


@promoted
def data_residual(rho_c: Tensor, gx: Tensor, gy: Tensor, ux: Tensor, uy: Tensor, *, impl: str = "auto") -> Tensor:
    """`rho = rho_c + grad F2 . u`, what the flow leaves unexplained, to first order (RF19 (2)).

    Shapes: rho_c, gx, gy, ux, uy (N, C, H, W) -> (N, C, H, W).
    Raises TypeError or ValueError for dtypes, devices, shapes or `impl`.
    """
    maps = {"rho_c": rho_c, "gx": gx, "gy": gy, "ux": ux, "uy": uy}
    [a, b, c, d, e], _ = _checked("tvl1.data_residual", impl, maps)
    return (a + b * d + c * e).to(rho_c.dtype)


@promoted
def threshold_step(
    ux: Tensor,
    uy: Tensor,
    rho: Tensor,
    gx: Tensor,
    gy: Tensor,
    *,
    lam: Number = 0.15,
    theta: Number = 0.3,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The flow that lowers `|u - v|^2 / (2 theta) + lambda |rho(v)|` (RF19 (3)).

    Closed form of the three cases: v = u - c g, c = rho / |g|^2 clipped to +-lambda theta; c = 0 where g = rho = 0.
    The derivatives there: dv/dg = -c I, dv/drho = 0; where lambda theta |g|^2 underflows too.
    Shapes: ux, uy, rho, gx, gy (N, C, H, W) -> vx, vy (N, C, H, W). lam, theta: a number or a tensor of one, above 0.
    Raises TypeError or ValueError for dtypes, devices, shapes, Python numbers or `impl`.
    """
    maps = {"ux": ux, "uy": uy, "rho": rho, "gx": gx, "gy": gy}
    [a, b, r, c, d], _ = _checked("tvl1.threshold_step", impl, maps)
    lt = number("tvl1.threshold_step", "lam", lam, ux) * number("tvl1.threshold_step", "theta", theta, ux)
    k, length = _threshold(r, _norm(c, d), lt)
    return (a - k * (c / length)).to(ux.dtype), (b - k * (d / length)).to(ux.dtype)


@promoted
def divergence(
    px: Tensor,
    py: Tensor,
    border: str = "paper",
    *,
    wx: Tensor | None = None,
    wy: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """`d[i] = w[0] p[i-1] + w[1] p[i]`, along x plus along y; p before the first line is 0 (RF19 (6), (9)).

    Shapes: px, py (N, C, H, W), wx, wy (2,), initially [-1, 1] -> (N, C, H, W). With `border="adjoint"` px on the last
    column and py on the last row count as 0 too.
    Raises TypeError or ValueError for dtypes, devices, shapes, `border` or `impl`.
    """
    choice("tvl1.divergence", "border", border, ("paper", "adjoint"))
    [a, b], w = _checked("tvl1.divergence", impl, {"px": px, "py": py}, wx=(wx, "2"), wy=(wy, "2"))
    return _divergence(a, b, border, **w).to(px.dtype)


@promoted
def primal_step(
    v: Tensor,
    px: Tensor,
    py: Tensor,
    border: str = "paper",
    *,
    theta: Number = 0.3,
    wx: Tensor | None = None,
    wy: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """`u = v + theta div p`, for one component of the flow (RF19 (4)).

    Shapes: v, px, py (N, C, H, W) -> (N, C, H, W). theta: a number or a tensor of one, above 0. wx, wy, `border`: as
    `divergence`.
    Raises TypeError or ValueError for dtypes, devices, shapes, Python numbers, `border` or `impl`.
    """
    choice("tvl1.primal_step", "border", border, ("paper", "adjoint"))
    maps = {"v": v, "px": px, "py": py}
    [a, b, c], w = _checked("tvl1.primal_step", impl, maps, wx=(wx, "2"), wy=(wy, "2"))
    return (a + number("tvl1.primal_step", "theta", theta, v) * _divergence(b, c, border, **w)).to(v.dtype)


@promoted
def flow_gradient(
    u: Tensor, kernel: str = "paper", *, weights: Tensor | None = None, impl: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Both derivatives of one component of the flow (RF19 (10)): as printed with gain 8, or the forward difference.

    Shapes: u (N, C, H, W) -> dx, dy (N, C, H, W). `weights` (2, 3, 3) as in `image_gradient`. `forward`: dx on the last
    column and dy on the last row are 0.
    Raises TypeError or ValueError for dtypes, devices, shapes, `kernel` or `impl`.
    """
    choice("tvl1.flow_gradient", "kernel", kernel, ("paper", "forward"))
    [a], w = _checked("tvl1.flow_gradient", impl, {"u": u}, weights=(weights, "2 3 3"))
    dx, dy = _flow_gradient(a, kernel, w["weights"])
    return dx.to(u.dtype), dy.to(u.dtype)


@promoted
def dual_step(
    px: Tensor,
    py: Tensor,
    dx: Tensor,
    dy: Tensor,
    *,
    tau: Number = 0.25,
    theta: Number = 0.3,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """`p = (p + tau/theta d) / (1 + tau/theta |d|)`, d = grad u, for one component of the flow (RF19 (5)).

    Shapes: px, py, dx, dy (N, C, H, W) -> px, py (N, C, H, W). tau, theta: a number or a tensor of one, above 0.
    At d = 0 the derivative of |d| is 0.
    Raises TypeError or ValueError for dtypes, devices, shapes, Python numbers or `impl`.
    """
    [a, b, c, d], _ = _checked("tvl1.dual_step", impl, {"px": px, "py": py, "dx": dx, "dy": dy})
    r = number("tvl1.dual_step", "tau", tau, px) / number("tvl1.dual_step", "theta", theta, px)
    qx, qy = _dual(a, b, c, d, _norm(c, d), r)
    return qx.to(px.dtype), qy.to(px.dtype)


@promoted
def energy(
    u: Tensor, f1: Tensor, f2: Tensor, lam: Number = 0.15, scheme: str = "classic", *, impl: str = "auto"
) -> Tensor:
    """`sum |grad ux| + |grad uy| + lambda |rho(u)|` of each channel's flow (RF19 (7)).

    Shapes: u (N, 2C, H, W), f1, f2 (N, C, H, W) -> (N, C). lam: a number or a tensor of one, above 0. `scheme` chooses
    the gradients, as in `representation_flow`. Where grad u = 0 or rho = 0 the derivative of the norm is 0.
    Raises TypeError or ValueError for dtypes, devices, shapes, Python numbers, `scheme` or `impl`.
    """
    choice("tvl1.energy", "scheme", scheme, tuple(_SCHEMES))
    maps = {"u": (u, "N D H W"), "f1": (f1, "N C H W"), "f2": (f2, "N C H W")}
    flow, a, b = tensors("tvl1.energy", impl, **maps)
    C = f1.shape[1]
    if u.shape[1] != 2 * C:
        raise ValueError(message("tvl1.energy", "u", f"2C={2 * C} channels for C={C} of f1", u.shape[1]))
    weight = number("tvl1.energy", "lam", lam, u)
    image, gradient, _ = _SCHEMES[scheme]
    gx, gy = _image_gradient(a, b, image)
    ux, uy = flow.split(C, 1)
    smooth = _norm(*_flow_gradient(flow, gradient)).sum((2, 3))
    return (smooth[:, :C] + smooth[:, C:] + weight * (b - a + gx * ux + gy * uy).abs().sum((2, 3))).to(u.dtype)


@promoted
def normalise(x: Tensor, *, impl: str = "auto") -> Tensor:
    """Each clip stretched to [0, 255] by its smallest and largest value (RF19 §3.2); 0 where it is constant.

    Shapes: x (N, C, T, H, W) -> (N, C, T, H, W). A pair of frames is a clip of T = 2. The rest of the batch does not
    matter. Ties share the derivative evenly.
    Raises TypeError or ValueError for dtypes, shapes or `impl`.
    """
    (a,) = tensors("tvl1.normalise", impl, x=(x, "N C T H W"))
    low, high = a.amin((1, 2, 3, 4), keepdim=True), a.amax((1, 2, 3, 4), keepdim=True)
    constant = high == low
    stretched = (a - low).div_(torch.where(constant, 1.0, high - low))
    return stretched.mul_(torch.where(constant, 0.0, 255.0).to(a.dtype)).to(x.dtype)


@promoted
def representation_flow(
    f1: Tensor,
    f2: Tensor,
    *,
    n_iter: int = 10,
    tau: Number = 0.25,
    lam: Number = 0.15,
    theta: Number = 0.3,
    scheme: str = "classic",
    wx: Tensor | None = None,
    wy: Tensor | None = None,
    image_kernel: Tensor | None = None,
    flow_kernel: Tensor | None = None,
    memory: str = "all",
    impl: str = "auto",
) -> Tensor:
    """The flow of every channel from f1 to f2, by `n_iter` iterations of TV-L1 on one scale (RF19 Alg. 1).

    The default tau, lam and theta expect values in [0, 255] (see `normalise`): on [0, 1] the flow is near 0.

    Shapes: f1, f2 (N, C, H, W) -> (N, 2C, H, W): all x, then all y components, in pixels, F1(p) = F2(p + flow(p)).
    tau, lam, theta: a number or a tensor of one, above 0. wx, wy (2,) as in `divergence`; image_kernel, flow_kernel
    (2, 3, 3) as `weights` of `image_gradient` and `flow_gradient`. n_iter = 0 gives zeros.
    `scheme="classic"`: unit gain, forward differences and their adjoint; `"paper"`: (8)-(10) as printed, which divides
    the flow by 8 and oscillates; `"released"`: the released code, with its border lines and epsilons.
    `memory="all"` keeps all iterations for backward; `"sqrt"` keeps about sqrt(n_iter) and computes the others again.
    Fused kernels keep no iteration, whatever `memory` says; they do not take `scheme="paper"`, `image_kernel` and
    `flow_kernel`. On the CPU (extra `numba`) the first call for a dtype compiles for some ten seconds, the first
    backward too, once per machine.
    Raises TypeError or ValueError for dtypes, devices, shapes, Python numbers, `scheme`, `memory` or `impl`.
    """
    name = "tvl1.representation_flow"
    choice(name, "scheme", scheme, tuple(_SCHEMES))
    choice(name, "memory", memory, ("all", "sqrt"))
    count(name, "n_iter", n_iter, least=0)
    optional = {"wx": (wx, "2"), "wy": (wy, "2")}
    optional |= {"image_kernel": (image_kernel, "2 3 3"), "flow_kernel": (flow_kernel, "2 3 3")}
    arrays = {k: pair for k, pair in optional.items() if pair[0] is not None}
    given(name, impl, f1=(f1, "N C H W"), f2=(f2, "N C H W"), **arrays)
    w = {k: None if array is None else widened(array) for k, (array, _) in optional.items()}
    t, la, th = number(name, "tau", tau, f1), number(name, "lam", lam, f1), number(name, "theta", theta, f1)
    r, lt = t / th, la * th
    released = scheme == "released"
    eager = ["scheme='paper'"] * (scheme == "paper") + [k for k in ("image_kernel", "flow_kernel") if k in arrays]
    chosen = select(name, impl, f1, **dict.fromkeys(("triton", "numba"), ", ".join(eager)))
    if chosen == "numba":
        from motionspec.ops import tvl1_numba

        a, b = widened(f1), widened(f2)
        scalars = (torch.as_tensor(x, dtype=a.dtype) for x in (t, la, th))
        # Not a.new_tensor, which torch refuses of a view with its negative bit set.
        pairs = (torch.tensor(_BACKWARD, dtype=a.dtype) if w[k] is None else w[k] for k in ("wx", "wy"))
        flow = tvl1_numba.representation_flow(a, b, *scalars, *pairs, n_iter, released, impl != "auto")
        return flow.to(f1.dtype)
    if chosen == "triton":
        from motionspec.ops import tvl1_triton

        kind = torch.promote_types(f1.dtype, torch.float32)
        weights = [th * x for k in (w["wx"], w["wy"]) for x in (_BACKWARD if k is None else k.unbind())]
        numbers = [
            x if isinstance(x, Tensor) else torch.full((), x, dtype=kind, device=f1.device) for x in (*weights, r, lt)
        ]
        return tvl1_triton.representation_flow(f1, f2, torch.stack(numbers), n_iter, released, impl != "auto")
    return _representation_flow(f1, f2, r, lt, th, w, n_iter, scheme, memory)


def eager_derivative(ctx: Any, impl: str, by_flow: Tensor) -> tuple[Tensor | None, ...] | None:
    """The gradients of a kernel's `representation_flow` where the eager operator must give them, else None.

    `ctx` has saved its tensors: f1, f2, and tau, lam, theta, wx, wy or, of Triton's, the numbers that they make.
    """
    if not by_eager("tvl1.representation_flow", impl, ctx.named, by_flow):
        return None
    scheme = "released" if ctx.released else "classic"

    def by_parameters(f1: Tensor, f2: Tensor, t: Tensor, la: Tensor, th: Tensor, wx: Tensor, wy: Tensor) -> Tensor:
        w = {"wx": wx, "wy": wy, "image_kernel": None, "flow_kernel": None}
        return _representation_flow(f1, f2, t / th, la * th, th, w, ctx.n_iter, scheme, "all")

    def by_numbers(f1: Tensor, f2: Tensor, numbers: Tensor) -> Tensor:
        w = {"wx": numbers[:2], "wy": numbers[2:4], "image_kernel": None, "flow_kernel": None}
        return _representation_flow(f1, f2, numbers[4], numbers[5], 1.0, w, ctx.n_iter, scheme, "all")

    return eager_gradients(by_numbers if impl == "triton" else by_parameters, ctx.saved_tensors, by_flow)


def _representation_flow(
    f1: Tensor,
    f2: Tensor,
    r: Any,
    lt: Any,
    th: Any,
    w: dict[str, Tensor | None],
    n_iter: int,
    scheme: str,
    memory: str,
) -> Tensor:
    """By the eager operator: r = tau / theta, lt = lambda theta, th = theta, w the weights by name."""
    released = scheme == "released"
    a, b = widened(f1), widened(f2)
    image, gradient, border = _SCHEMES[scheme]
    gx, gy = _image_gradient(a, b, image, w["image_kernel"])
    g, rho_c = torch.stack([gx, gy], 1), b - a  # flow and gradient (N, 2, C, H, W): component, channel
    length = _norm(gx, gy)
    u = torch.zeros_like(g)

    def iterate(times: int, u: Tensor, px: Tensor, py: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        for _ in range(times):
            # (5) of the iteration before; at the start u = p = 0 and it leaves p = 0.
            dx, dy = _flow_gradient(u, gradient, w["flow_kernel"])
            norm = torch.sqrt(dx * dx + dy * dy + _EPSILON) if released else _norm(dx, dy)
            px, py = _dual(px, py, dx, dy, norm, r)
            rho = rho_c + gx * u[:, 0] + gy * u[:, 1]
            if released:
                step = torch.clamp(rho / (gx * gx + gy * gy + _EPSILON), -lt, lt)[:, None] * g
            else:
                c, divisor = _threshold(rho, length, lt)
                step = c[:, None] * (g / divisor[:, None])
            u = u - step + th * _divergence(px, py, border, w["wx"], w["wy"])
        return u, px, py

    if memory == "all" or transforming():  # torch.func's transforms know no hooks on saved tensors
        u, _, _ = iterate(n_iter, u, u, u)
    else:
        state, stride = (u, u, u), math.isqrt(max(n_iter - 1, 0)) + 1
        for done in range(0, n_iter, stride):
            # Nothing here is random; to save the state of the generator would synchronise with the device.
            times = min(stride, n_iter - done)
            state = checkpoint(iterate, times, *state, use_reentrant=False, preserve_rng_state=False)
        u = state[0]
    return u.flatten(1, 2).to(f1.dtype)


@promoted
def pyramid_flow(
    image0: Tensor,
    image1: Tensor,
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
    impl: str = "auto",
) -> Tensor:
    """The flow of one grey image to another by TV-L1, from coarse to fine with warping (RF19 §3.1).

    The default lam expects grey levels in [0, 255]; on [0, 1] the flow is far too small. There is no gradient: it is
    meant for inputs and targets; `representation_flow` is the layer.

    Shapes: image0, image1 (N, 1, H, W) -> (N, 2, H, W), in pixels, u right, v down, image0(p) = image1(p + flow(p)).
    At most `n_scales` images, each `scale` times the size of the one before, no side below 8; on each `n_warps` times a
    median filter of the flow (`median` x `median` pixels, 1: none), a warp and `n_iter` iterations, fewer for a sample
    whose flow changes by less than `tolerance` pixels (root mean square; to see that waits for the device each time).
    tau, lam, theta: Python numbers above 0.
    Raises TypeError or ValueError for dtypes, devices, shapes, any of the numbers, `impl`, or an image that requires a
    gradient.
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
    given(name, impl, image0=(image0, "N 1 H W"), image1=(image1, "N 1 H W"))
    for argument, image in (("image0", image0), ("image1", image1)):
        if image.requires_grad and torch.is_grad_enabled():
            expected = "a tensor without gradient, which this has none for: detach it, or use torch.no_grad()"
            raise ValueError(message(name, argument, expected, "one that requires it"))
    if image0.shape[0] == 0:
        return torch.empty_like(image0).expand(-1, 2, -1, -1)
    with torch.no_grad():
        f1, f2 = widened(image0), widened(image1)
        if select(name, impl, image0) == "numba":
            from motionspec.ops import pyramid_numba

            options = tau, lam, theta, n_scales, scale, n_warps, n_iter, tolerance, median
            return pyramid_numba.flow(f1, f2, *options).to(image0.dtype)
        pyramid = [(f1, f2)]
        for h, w in _sizes(f1.shape[2], f1.shape[3], n_scales, scale)[1:]:
            pyramid.append((_smaller(pyramid[-1][0], h, w), _smaller(pyramid[-1][1], h, w)))
        u = f1.new_zeros(f1.shape[0], 2, *pyramid[-1][0].shape[2:])
        for f1, f2 in reversed(pyramid):
            (h, w), (h0, w0) = f1.shape[2:], u.shape[2:]
            u = torch.cat([_resize(u[:, :1], h, w) * (w / w0), _resize(u[:, 1:], h, w) * (h / h0)], 1)
            px, py = torch.zeros_like(u), torch.zeros_like(u)
            looks = torch.cat([f2, _derivative(f2, 3), _derivative(f2, 2)], 1)
            for _ in range(n_warps):
                u = _median(u, median)
                warped = _bicubic(looks, u) * _inside(u)
                rho_c = warped[:, :1] - f1 * _inside(u) - (warped[:, 1:] * u).sum(1, keepdim=True)
                u, px, py = _solve(u, px, py, warped[:, 1:], rho_c, tau, lam, theta, n_iter, tolerance)
    return u.to(image0.dtype)


def _sizes(H: int, W: int, n_scales: int, scale: float) -> list[tuple[int, int]]:
    """Of the images, from fine to coarse."""
    sizes = [(H, W)]
    for s in range(1, n_scales):  # torch.compile of 2.11 cannot trace itertools.takewhile
        size = int(H * scale**s + 0.5), int(W * scale**s + 0.5)
        if min(size) < _SMALLEST:
            break
        sizes.append(size)
    return sizes


def _solve(
    u: Tensor,
    px: Tensor,
    py: Tensor,
    g: Tensor,
    rho_c: Tensor,
    tau: float,
    lam: float,
    theta: float,
    n_iter: int,
    tolerance: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The iterations after a warp; u, p and g (N, 2, H, W), rho_c (N, 1, H, W)."""
    length = torch.hypot(g[:, :1], g[:, 1:])
    # With unit gradients the three cases are u - g clamp(rho / |g|, +-lambda theta |g|).
    divisor = torch.where(length == 0, 1.0, length)
    g, rho_c, limit = g / divisor, rho_c / divisor, lam * theta * length
    active = torch.ones_like(u[:, :1, :1, :1], dtype=torch.bool)
    for _ in range(n_iter):
        rho = rho_c + g[:, :1] * u[:, :1] + g[:, 1:] * u[:, 1:]
        c = torch.minimum(torch.maximum(rho, -limit), limit)
        new = u - c * g + theta * _divergence(px, py, "adjoint", None, None)
        dx, dy = _flow_gradient(new, "forward")
        qx, qy = _dual(px, py, dx, dy, torch.hypot(dx, dy), tau / theta)
        if tolerance is None:
            u, px, py = new, qx, qy
            continue
        change = (new - u).square().sum(1, keepdim=True).mean((2, 3), keepdim=True)
        u, px, py = (torch.where(active, a, b) for a, b in ((new, u), (qx, px), (qy, py)))
        active = active & ~(change < tolerance**2)
        # Compiled or mapped nobody looks, and the rest changes nothing.
        if not (torch.compiler.is_compiling() or transforming()) and not active.any():
            break
    return u, px, py


def _smaller(f: Tensor, h: int, w: int) -> Tensor:
    """Blurred by a Gaussian for the ratio of the sides, and resized."""
    for dim, size in ((2, h), (3, w)):
        weights = _blur(f.shape[dim], size)
        if len(weights) > 1:
            # Shifted slices: a convolution may run in TF32.
            taps = [weight * tap for weight, tap in zip(weights, _taps(f, len(weights) // 2, dim), strict=True)]
            f = sum(taps[1:], taps[0])
    return _resize(f, h, w)


def _blur(size: int, new: int) -> list[float]:
    """The weights of the Gaussian for one side."""
    sigma = _BLUR * math.sqrt((size / new) ** 2 - 1)
    radius = int(4 * sigma + 0.5)
    weights = [math.exp(-0.5 * (i / sigma) ** 2) if i else 1.0 for i in range(-radius, radius + 1)]
    return [weight / sum(weights) for weight in weights]


def _resize(f: Tensor, h: int, w: int) -> Tensor:
    return F.interpolate(f, (h, w), mode="bilinear", align_corners=False)


def _taps(f: Tensor, radius: int, dim: int) -> list[Tensor]:
    """f moved by -radius .. radius along one axis, the border repeated."""
    padded = F.pad(f, (radius, radius, 0, 0) if dim == 3 else (0, 0, radius, radius), mode="replicate")
    return [padded.narrow(dim, i, f.shape[dim]) for i in range(2 * radius + 1)]


def _derivative(f: Tensor, dim: int) -> Tensor:
    """By [1, -8, 0, 8, -1] / 12, exactly 0 where f is flat."""
    a, b, _, c, d = _taps(f, 2, dim)
    return (8 * (c - b) - (d - a)) / 12


def _median(u: Tensor, size: int) -> Tensor:
    """The median of size x size pixels, the border repeated."""
    (H, W), radius = u.shape[2:], size // 2
    padded = F.pad(u, (radius,) * 4, mode="replicate")
    rest = [padded[..., j : j + H, i : i + W] for j in range(size) for i in range(size)]
    # Forgetful selection: neither the smallest nor the largest of more than half of the values is the median.
    half = size**2 // 2 + 2
    some, rest = rest[:half], rest[half:]
    while len(some) > 1:
        for i in range(1, len(some)):
            some[0], some[i] = torch.minimum(some[0], some[i]), torch.maximum(some[0], some[i])
        for i in range(1, len(some) - 1):
            some[i], some[-1] = torch.minimum(some[i], some[-1]), torch.maximum(some[i], some[-1])
        some, rest = some[1:-1] + rest[:1], rest[1:]
    return some[0]


def _inside(u: Tensor) -> Tensor:
    """1 where p + u(p) is in the image, 0 from one pixel outside, linear between: (N, 1, H, W)."""
    W, H = u.shape[3], u.shape[2]
    x, y = torch.arange(W, dtype=u.dtype, device=u.device), torch.arange(H, dtype=u.dtype, device=u.device)[:, None]
    across = torch.minimum(u[:, :1] + (x + 1), (W - x) - u[:, :1])
    down = torch.minimum(u[:, 1:] + (y + 1), (H - y) - u[:, 1:])
    return across.clamp(0, 1) * down.clamp(0, 1)


def _bicubic(f: Tensor, u: Tensor) -> Tensor:
    """f (N, C, H, W) at p + u(p) from 4 x 4 pixels (Keys 1981), the border repeated."""
    N, C, H, W = f.shape
    whole = u.floor()  # apart from p + u: their sum would lose the digits of the fraction
    (tx, ty), (ix, iy) = (u - whole).split(1, 1), whole.nan_to_num().clamp(-H - W, H + W).long().split(1, 1)
    ix = ix + torch.arange(W, device=u.device)
    iy = iy + torch.arange(H, device=u.device)[:, None]
    flat, out = f.flatten(2), torch.zeros_like(f)
    for j in range(-1, 3):
        row = W * (iy + j).clamp(0, H - 1)
        for i in range(-1, 3):
            index = (row + (ix + i).clamp(0, W - 1)).flatten(2).expand(N, C, H * W)
            out = out + _keys(ty - j) * _keys(tx - i) * flat.gather(2, index).view_as(f)
    return out


def _keys(t: Tensor) -> Tensor:
    a, t = _BICUBIC, t.abs()
    return torch.where(t <= 1, ((a + 2) * t - (a + 3)) * t * t + 1, a * (((t - 5) * t + 8) * t - 4))


def _checked(
    operator: str, impl: str, maps: dict[str, Tensor], **optional: tuple[Tensor | None, str]
) -> tuple[list[Tensor], dict[str, Tensor | None]]:
    """Maps (N, C, H, W), and optional arrays by name, in the type to compute in."""
    given = {name: pair for name, pair in optional.items() if pair[0] is not None}
    found = tensors(operator, impl, **{name: (a, "N C H W") for name, a in maps.items()}, **given)
    return found[: len(maps)], dict.fromkeys(optional) | dict(zip(given, found[len(maps) :], strict=True))


# All of these work along the last two axes, whatever stands before them.

# Opposite taps are neighbours: where the map is flat an odd kernel gives exactly 0, of which much depends.
_TAPS = ((0, 0), (2, 2), (0, 1), (2, 1), (0, 2), (2, 0), (1, 0), (1, 2), (1, 1))


def _convolve(padded: Tensor, kernels: Kernels) -> tuple[Tensor, Tensor]:
    """True convolution with two kernels of a map that is padded by 1. Shifted slices: a convolution may run in TF32."""
    H, W = padded.shape[-2] - 2, padded.shape[-1] - 2

    def one(kernel: Kernel) -> Tensor:
        taps = [
            kernel[j][i] * padded[..., 2 - j : 2 - j + H, 2 - i : 2 - i + W]
            for j, i in _TAPS
            if isinstance(kernel, Tensor) or kernel[j][i] != 0
        ]
        return sum(taps[1:], taps[0])

    return one(kernels[0]), one(kernels[1])


def _sobel(padded: Tensor, gain: float) -> tuple[Tensor, Tensor]:
    """As `_convolve` with `gain` times `_SOBEL`: a difference one way, a weighted sum the other."""
    columns, rows = padded[..., 2:] - padded[..., :-2], padded[..., 2:, :] - padded[..., :-2, :]
    if gain != 1:
        columns, rows = gain * columns, gain * rows
    gx = torch.add(columns[..., :-2, :], columns[..., 1:-1, :], alpha=2) + columns[..., 2:, :]
    gy = torch.add(rows[..., :-2], rows[..., 1:-1], alpha=2) + rows[..., 2:]
    return gx, gy


def _zeros_around(a: Tensor) -> Tensor:
    return F.pad(a, (1, 1, 1, 1))


def _border_repeated(a: Tensor) -> Tensor:
    """Not F.pad(mode="replicate"), whose backward is not deterministic on CUDA."""
    a = torch.cat([a[..., :1], a, a[..., -1:]], -1)
    return torch.cat([a[..., :1, :], a, a[..., -1:, :]], -2)


def _image_gradient(f1: Tensor, f2: Tensor, kernel: str, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    padded = _border_repeated(f2) if kernel in ("sobel_unit", "central") else _zeros_around(f2)
    if weights is None and kernel in ("paper", "sobel_unit"):
        return _sobel(padded, 1 if kernel == "paper" else 0.125)
    gx, gy = _convolve(padded, _CENTRAL if weights is None else weights)
    if kernel != "released":
        return gx, gy
    return _border_from(f1, gx, -1), _border_from(f1, gy, -2)


def _border_from(f: Tensor, g: Tensor, dim: int) -> Tensor:
    """The derivative g along `dim`, in the first and last line replaced by half the one-sided difference of f."""
    n = f.shape[dim]
    first = (f.narrow(dim, min(1, n - 1), 1) - f.narrow(dim, 0, 1)) / 2
    last = (f.narrow(dim, n - 1, 1) - f.narrow(dim, max(n - 2, 0), 1)) / 2
    return torch.cat([first, g.narrow(dim, 1, max(n - 2, 0)), last][: 3 if n > 1 else 2], dim)


def _flow_gradient(u: Tensor, kernel: str, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    if kernel == "paper":
        return _sobel(_zeros_around(u), 1) if weights is None else _convolve(_zeros_around(u), weights)
    if weights is None:
        dx, dy = u[..., 1:] - u[..., :-1], u[..., 1:, :] - u[..., :-1, :]
    else:
        dx, dy = _convolve(_border_repeated(u), weights)
        dx, dy = dx[..., :-1], dy[..., :-1, :]
    return F.pad(dx, (0, 1)), F.pad(dy, (0, 0, 0, 1))


def _divergence(px: Tensor, py: Tensor, border: str, wx: Tensor | None, wy: Tensor | None) -> Tensor:
    ax, bx = _BACKWARD if wx is None else wx.unbind()
    ay, by = _BACKWARD if wy is None else wy.unbind()
    qx, qy = px[..., :-1], py[..., :-1, :]
    before = F.pad(ax * qx, (1, 0)) + F.pad(ay * qy, (0, 0, 1, 0))
    if border == "adjoint":
        return before + F.pad(bx * qx, (0, 1)) + F.pad(by * qy, (0, 0, 0, 1))
    return before + bx * px + by * py


def _norm(x: Tensor, y: Tensor) -> Tensor:
    """sqrt(x^2 + y^2) without under- or overflow of the squares; at 0 the derivative is 0."""
    zero = (x == 0) & (y == 0)
    x = torch.where(zero, 1.0, x)
    if torch.compiler.is_exporting():  # ONNX has no hypot
        longer = torch.maximum(x.abs(), y.abs())
        length = longer * torch.sqrt((x / longer) ** 2 + (y / longer) ** 2)
    else:
        length = torch.hypot(x, y)
    return torch.where(zero, 0.0, length)


def _threshold(rho: Tensor, length: Tensor, lt: Any) -> tuple[Tensor, Tensor]:
    """c and a divisor such that the threshold step is v = u - c g / divisor, for |g| = length, lt = lambda theta.

    Where |rho| > lt |g|^2: sign(rho) lt and 1. Otherwise rho / |g| and |g|: dividing twice keeps the square, which may
    underflow, out of values and derivatives. Where it does underflow and rho = 0: 0 and 1.
    """
    limit = lt * length * length
    clipped = rho.abs() > limit
    divisor = torch.where(clipped | (limit == 0), 1.0, length)
    return torch.where(clipped, rho.sign() * lt, rho / divisor), divisor


def _dual(px: Tensor, py: Tensor, dx: Tensor, dy: Tensor, norm: Tensor, r: Any) -> tuple[Tensor, Tensor]:
    """The dual step with r = tau / theta."""
    scale = 1 + r * norm
    return (px + r * dx) / scale, (py + r * dy) / scale
