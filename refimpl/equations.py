"""The table: one row per equation. Tests, the judge, the demo and the benchmarks are generated from these rows.

`inputs(fill, **sizes)` describes valid inputs once; whoever needs some passes its own `fill(name, shape, kind)`:

    kind "value"    any real number of the case's scale
    kind "nonzero"  the same, at least 1e-3 scales away from 0, because there is a kink
    kind "flow"     pixels, at least 1e-3 away from an integer, because there is a kink

A fill that means to hit the kinks (on exactly representable values) ignores the two distances.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from motionspec.refimpl import brightness, off, warp

Fill = Callable[[str, tuple[int, ...], str], Any]
Args = dict[str, Any]


@dataclass(frozen=True)
class Equation:
    """One row."""

    id: str  # stem.function, the same in refimpl, ops, tests and benchmarks
    source: str
    summary: str
    reference: Callable[..., Any]
    dims: str  # the sizes that `inputs` takes, a letter each
    inputs: Callable[..., Args]  # inputs(fill, **sizes) -> arrays by name, in the order of the signature
    outputs: tuple[str, ...]
    degree: tuple[int, ...]  # per output: multiply all values (not the flow) by s, and it grows by s ** degree
    differentiable: tuple[str, ...]
    bench: tuple[Mapping[str, int], ...]  # sizes that the papers' networks use
    bad: tuple[tuple[Callable[[Args], Args], str], ...]  # (makes valid arguments bad, the message after `id: `)
    mutants: tuple[tuple[str, Callable[..., Any]], ...]  # plausible mistakes; the judge must reject each
    variants: tuple[Mapping[str, Any], ...] = ({},)  # keyword arguments; the first is the default
    blocks: tuple[str, ...] = ()  # names of the equal blocks of channels that the one output consists of
    interior: Callable[..., np.ndarray] | None = None  # interior(**arrays) -> mask (..., H, W); None: no border rule


def _inner(**arrays: np.ndarray) -> np.ndarray:
    """Pixels whose 3 x 3 neighbourhood is inside the map."""
    mask = np.zeros(next(iter(arrays.values())).shape[-2:], bool)
    mask[1:-1, 1:-1] = True
    return mask


def _source_inside(sign: int) -> Callable[..., np.ndarray]:
    """Pixels whose source point p + sign * flow(p) lies inside the map, so that no border rule speaks."""

    def mask(*, flow: np.ndarray, **_: np.ndarray) -> np.ndarray:
        H, W = flow.shape[-2:]
        y, x = np.mgrid[:H, :W]
        qx, qy = x + sign * flow[:, 0], y + sign * flow[:, 1]
        return ((qx >= 0) & (qx <= W - 1) & (qy >= 0) & (qy <= H - 1))[:, None]

    return mask


def _maps(*names: str) -> Callable[..., Args]:
    """Inputs that are all maps (N, C, H, W)."""

    def inputs(fill: Fill, N: int, C: int, H: int, W: int) -> Args:
        return {name: fill(name, (N, C, H, W), "value") for name in names}

    return inputs


def _maps_and_flow(*names: str) -> Callable[..., Args]:
    """Inputs that are maps (N, C, H, W), then one flow (N, 2, H, W)."""

    def inputs(fill: Fill, N: int, C: int, H: int, W: int) -> Args:
        return _maps(*names)(fill, N, C, H, W) | {"flow": fill("flow", (N, 2, H, W), "flow")}

    return inputs


def _orthogonality_inputs(fill: Fill, N: int, C: int, H: int, W: int) -> Args:
    shape = (N, C, H, W)
    ft = fill("ft", shape, "nonzero")  # keeps the vector away from 0
    return {
        "fx": fill("fx", shape, "value"),
        "fy": fill("fy", shape, "value"),
        "ft": ft,
        "flow": fill("flow", (N, 2, H, W), "flow"),
    }


def _normal_flow_inputs(fill: Fill, N: int, C: int, H: int, W: int) -> Args:
    shape = (N, C, H, W)
    return {
        "fx": fill("fx", shape, "nonzero"),
        "fy": fill("fy", shape, "nonzero"),
        "ft": fill("ft", shape, "value"),
    }


def _clip_inputs(fill: Fill, N: int, C: int, T: int, H: int, W: int) -> Args:
    return {"clip": fill("clip", (N, C, T, H, W), "value")}


def _released_inputs(fill: Fill, N: int, S: int, C: int, H: int, W: int) -> Args:
    return {
        "s_prev": fill("s_prev", (N, S, H, W), "value"),
        "f_prev": fill("f_prev", (N, C, H, W), "value"),
        "f_next": fill("f_next", (N, C, H, W), "value"),
    }


def _with(**change: Any) -> Callable[[Args], Args]:
    """Replace arguments; a callable value is applied to the valid argument."""
    return lambda args: args | {k: v(args[k]) if callable(v) else v for k, v in change.items()}


_BAD_FLOW = (
    _with(flow=lambda flow: flow[:, :1]),
    "flow: expected shape (N, 2, H, W) with N={N}, H={H}, W={W}, got ({N}, 1, {H}, {W})",
)
_BAD_OUTSIDE = (_with(outside="edge"), "outside: expected one of 'zero', 'blend', got 'edge'")
_BAD_KERNEL = (_with(kernel="scharr"), "kernel: expected one of 'paper', 'sobel', got 'scharr'")
_BAD_MAP = (
    lambda args: args | {"f": args["f"][0]},
    "f: expected shape (N, C, H, W) with sides of at least 1, got ({C}, {H}, {W})",
)

_OUTSIDE = ({"outside": "zero"}, {"outside": "blend"})
_KERNEL = ({"kernel": "paper"}, {"kernel": "sobel"})
_OFF_BENCH = ({"N": 96, "C": 128, "H": 28, "W": 28}, {"N": 8, "C": 128, "H": 56, "W": 56})
_WARP_BENCH = ({"N": 8, "C": 64, "H": 112, "W": 112},)

# Mutants that do not fit on a line.


def _clamped(x: np.ndarray, flow: np.ndarray, outside: str = "zero") -> np.ndarray:
    H, W = flow.shape[-2:]
    y, px = np.mgrid[:H, :W]
    inside = np.stack([np.clip(px + flow[:, 0], 0, W - 1) - px, np.clip(y + flow[:, 1], 0, H - 1) - y], axis=1)
    return warp.bilinear(x, inside)


def _replicated(f: np.ndarray, kernel: str = "paper") -> tuple[np.ndarray, ...]:
    padded = np.pad(f, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    return tuple(g[..., 1:-1, 1:-1] for g in off.spatial_gradient(padded, kernel))


def _interleaved(fx: np.ndarray, fy: np.ndarray, ft: np.ndarray) -> np.ndarray:
    N, C, H, W = fx.shape
    flow = brightness.normal_flow(fx, fy, ft)
    return flow.reshape(N, 2, C, H, W).swapaxes(1, 2).reshape(N, 2 * C, H, W)


def _cosine_without_one(fx: np.ndarray, fy: np.ndarray, ft: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, ...]:
    dot, cosine = brightness.orthogonality(fx, fy, ft, flow)
    speed = np.hypot(flow[:, :1], flow[:, 1:])
    return dot, cosine * np.hypot(speed, 1) / np.maximum(speed, 1e-9)


def _at_later_frame(f_prev: np.ndarray, f_next: np.ndarray, kernel: str = "paper") -> np.ndarray:
    return np.concatenate([*off.spatial_gradient(f_next, kernel), f_next - f_prev], axis=1)


def _against_first(clip: np.ndarray, kernel: str = "paper") -> np.ndarray:
    T = clip.shape[2]
    return np.stack([off.features(clip[:, :, 0], clip[:, :, t], kernel) for t in range(1, T)], axis=2)


EQUATIONS: dict[str, Equation] = {
    row.id: row
    for row in (
        Equation(
            id="brightness.constancy_residual",
            source="OFF18 (1), (2); RF19 §3.1",
            summary="F1(p + flow) - F0(p), and the mask of points that stay on the map",
            reference=brightness.constancy_residual,
            dims="NCHW",
            inputs=_maps_and_flow("f0", "f1"),
            outputs=("residual", "mask"),
            degree=(1, 0),
            differentiable=("f0", "f1", "flow"),
            interior=_source_inside(+1),
            bench=_WARP_BENCH,
            bad=(_BAD_FLOW,),
            mutants=(
                ("flow points backwards", lambda f0, f1, flow: brightness.constancy_residual(f0, f1, -flow)),
                ("frames swapped", lambda f0, f1, flow: brightness.constancy_residual(f1, f0, flow)),
                ("u and v swapped", lambda f0, f1, flow: brightness.constancy_residual(f0, f1, flow[:, ::-1])),
                (
                    "points outside not excluded",
                    lambda f0, f1, flow: (warp.bilinear(f1, flow) - f0, brightness.constancy_residual(f0, f1, flow)[1]),
                ),
            ),
        ),
        Equation(
            id="brightness.gradient",
            source="OFF18 (3)",
            summary="spatial derivatives of unit gain, central, one-sided in the border line",
            reference=brightness.gradient,
            dims="NCHW",
            inputs=_maps("f"),
            outputs=("fx", "fy"),
            degree=(1, 1),
            differentiable=("f",),
            interior=_inner,
            bench=_OFF_BENCH,
            bad=(_BAD_MAP,),
            mutants=(
                ("fx and fy swapped", lambda f: brightness.gradient(f)[::-1]),
                ("no 1/2", lambda f: tuple(2 * g for g in brightness.gradient(f))),
                ("y up", lambda f: (brightness.gradient(f)[0], -brightness.gradient(f)[1])),
                (
                    "zero padding",
                    lambda f: tuple(
                        k * g for k, g in zip((1 / 8, -1 / 8), off.spatial_gradient(f, "sobel"), strict=True)
                    ),
                ),
            ),
        ),
        Equation(
            id="brightness.linearised_residual",
            source="OFF18 (3), (4)",
            summary="Fx u + Fy v + Ft",
            reference=brightness.linearised_residual,
            dims="NCHW",
            inputs=_maps_and_flow("fx", "fy", "ft"),
            outputs=("residual",),
            degree=(1,),
            differentiable=("fx", "fy", "ft", "flow"),
            bench=_WARP_BENCH,
            bad=(_BAD_FLOW,),
            mutants=(
                ("sign of Ft", lambda fx, fy, ft, flow: brightness.linearised_residual(fx, fy, -ft, flow)),
                ("u and v swapped", lambda fx, fy, ft, flow: brightness.linearised_residual(fx, fy, ft, flow[:, ::-1])),
                ("v up", lambda fx, fy, ft, flow: brightness.linearised_residual(fx, -fy, ft, flow)),
            ),
        ),
        Equation(
            id="brightness.normal_flow",
            source="from OFF18 (4)",
            summary="-Ft g / |g|^2, the flow along the gradient; 0 where g = 0",
            reference=brightness.normal_flow,
            dims="NCHW",
            inputs=_normal_flow_inputs,
            outputs=("flow",),
            degree=(0,),
            differentiable=("fx", "fy", "ft"),
            blocks=("u", "v"),
            bench=_WARP_BENCH,
            bad=(),
            mutants=(
                ("sign", lambda fx, fy, ft: -brightness.normal_flow(fx, fy, ft)),
                (
                    "|g| for |g|^2",
                    lambda fx, fy, ft: brightness.normal_flow(fx, fy, ft) * np.tile(np.hypot(fx, fy), (1, 2, 1, 1)),
                ),
                ("u and v interleaved by channel", _interleaved),
            ),
        ),
        Equation(
            id="brightness.orthogonality",
            source="OFF18 §3",
            summary="[Fx, Fy, Ft] . [u, v, 1] and the cosine of the angle",
            reference=brightness.orthogonality,
            dims="NCHW",
            inputs=_orthogonality_inputs,
            outputs=("dot", "cosine"),
            degree=(1, 0),
            differentiable=("fx", "fy", "ft", "flow"),
            bench=_WARP_BENCH,
            bad=(_BAD_FLOW,),
            mutants=(
                ("cosine without the 1 of [u, v, 1]", _cosine_without_one),
                ("sign of Ft", lambda fx, fy, ft, flow: brightness.orthogonality(fx, fy, -ft, flow)),
            ),
        ),
        Equation(
            id="off.spatial_gradient",
            source="OFF18 (5), (6)",
            summary="the printed 3 x 3 kernels: Fx = +6 df/dx, Fy = -6 df/dy (sobel: 8), zero padding",
            reference=off.spatial_gradient,
            dims="NCHW",
            inputs=_maps("f"),
            variants=_KERNEL,
            outputs=("Fx", "Fy"),
            degree=(1, 1),
            differentiable=("f",),
            interior=_inner,
            bench=_OFF_BENCH,
            bad=(_BAD_MAP, _BAD_KERNEL),
            mutants=(
                ("true convolution", lambda f, kernel="paper": tuple(-g for g in off.spatial_gradient(f, kernel))),
                (
                    "y down",
                    lambda f, kernel="paper": (off.spatial_gradient(f, kernel)[0], -off.spatial_gradient(f, kernel)[1]),
                ),
                ("border repeated", _replicated),
                (
                    "the other kernel",
                    lambda f, kernel="paper": off.spatial_gradient(f, "sobel" if kernel == "paper" else "paper"),
                ),
            ),
        ),
        Equation(
            id="off.cross_gradient",
            source="released code of OFF18",
            summary="one map: right - left + up - down, zero padding",
            reference=off.cross_gradient,
            dims="NCHW",
            inputs=_maps("f"),
            outputs=("F",),
            degree=(1,),
            differentiable=("f",),
            interior=_inner,
            bench=_OFF_BENCH,
            bad=(_BAD_MAP,),
            mutants=(
                ("true convolution", lambda f: -off.cross_gradient(f)),
                ("down - up", lambda f: off.cross_gradient(f[..., ::-1, :])[..., ::-1, :]),
            ),
        ),
        Equation(
            id="off.temporal_difference",
            source="OFF18 (7)",
            summary="f_t - f_(t-dt), later minus earlier",
            reference=off.temporal_difference,
            dims="NCHW",
            inputs=_maps("f_prev", "f_next"),
            outputs=("Ft",),
            degree=(1,),
            differentiable=("f_prev", "f_next"),
            bench=_OFF_BENCH,
            bad=(),
            mutants=(("earlier minus later", lambda f_prev, f_next: off.temporal_difference(f_next, f_prev)),),
        ),
        Equation(
            id="off.features",
            source="OFF18 §4.1, Fig. 4",
            summary="[Fx | Fy | Ft] on channels, spatial part at the earlier frame",
            reference=off.features,
            dims="NCHW",
            inputs=_maps("f_prev", "f_next"),
            variants=_KERNEL,
            outputs=("features",),
            degree=(1,),
            differentiable=("f_prev", "f_next"),
            blocks=("Fx", "Fy", "Ft"),
            interior=_inner,
            bench=_OFF_BENCH,
            bad=(_BAD_KERNEL,),
            mutants=(
                ("spatial part at the later frame", _at_later_frame),
                (
                    "Ft first",
                    lambda f_prev, f_next, kernel="paper": np.roll(
                        off.features(f_prev, f_next, kernel), f_prev.shape[1], axis=1
                    ),
                ),
            ),
        ),
        Equation(
            id="off.clip_features",
            source="OFF18 §4.1, Fig. 4",
            summary="off.features of the T-1 pairs within each clip",
            reference=off.clip_features,
            dims="NCTHW",
            inputs=_clip_inputs,
            variants=_KERNEL,
            outputs=("features",),
            degree=(1,),
            differentiable=("clip",),
            blocks=("Fx", "Fy", "Ft"),
            interior=_inner,
            bench=({"N": 16, "C": 128, "T": 7, "H": 28, "W": 28},),
            bad=(_BAD_KERNEL, (_with(clip=lambda clip: clip[:, :, :1]), "clip: expected at least T=2 frames, got T=1")),
            mutants=(
                ("time reversed", lambda clip, kernel="paper": off.clip_features(clip[:, :, ::-1], kernel)),
                ("pairs against the first frame", _against_first),
            ),
        ),
        Equation(
            id="off.released_features",
            source="released code of OFF18",
            summary="[cross gradient of s | Ft of f], from two separate reductions",
            reference=off.released_features,
            dims="NSCHW",
            inputs=_released_inputs,
            outputs=("features",),
            degree=(1,),
            differentiable=("s_prev", "f_prev", "f_next"),
            interior=_inner,
            bench=({"N": 96, "S": 32, "C": 128, "H": 28, "W": 28},),
            bad=(),
            mutants=(
                (
                    "temporal part first",
                    lambda s_prev, f_prev, f_next: np.roll(
                        off.released_features(s_prev, f_prev, f_next), f_prev.shape[1], axis=1
                    ),
                ),
            ),
        ),
        Equation(
            id="warp.bilinear",
            source="DC18 §3.4",
            summary="x at p + flow(p), bilinear; outside the map: zero, or blend",
            reference=warp.bilinear,
            dims="NCHW",
            inputs=_maps_and_flow("x"),
            variants=_OUTSIDE,
            outputs=("warped",),
            degree=(1,),
            differentiable=("x", "flow"),
            interior=_source_inside(+1),
            bench=_WARP_BENCH,
            bad=(_BAD_FLOW, _BAD_OUTSIDE),
            mutants=(
                ("flow points backwards", lambda x, flow, outside="zero": warp.bilinear(x, -flow, outside=outside)),
                ("u and v swapped", lambda x, flow, outside="zero": warp.bilinear(x, flow[:, ::-1], outside=outside)),
                ("border repeated", _clamped),
                ("half-pixel slip", lambda x, flow, outside="zero": warp.bilinear(x, flow + 0.5, outside=outside)),
                (
                    "nearest neighbour",
                    lambda x, flow, outside="zero": warp.bilinear(x, np.rint(flow), outside=outside),
                ),
            ),
        ),
        Equation(
            id="warp.motion",
            source="DC18 §3.4",
            summary="W(F, V)(p) = F(p - V(p))",
            reference=warp.motion,
            dims="NCHW",
            inputs=_maps_and_flow("x"),
            variants=_OUTSIDE,
            outputs=("warped",),
            degree=(1,),
            differentiable=("x", "flow"),
            interior=_source_inside(-1),
            bench=_WARP_BENCH,
            bad=(_BAD_FLOW, _BAD_OUTSIDE),
            mutants=(
                ("sampled forwards", warp.bilinear),
                ("u and v swapped", lambda x, flow, outside="zero": warp.motion(x, flow[:, ::-1], outside=outside)),
            ),
        ),
        Equation(
            id="warp.difference",
            source="DC18 §3.4",
            summary="F_(t+1) - W(F_t, V_t)",
            reference=warp.difference,
            dims="NCHW",
            inputs=_maps_and_flow("f0", "f1"),
            variants=_OUTSIDE,
            outputs=("difference",),
            degree=(1,),
            differentiable=("f0", "f1", "flow"),
            interior=_source_inside(-1),
            bench=_WARP_BENCH,
            bad=(_BAD_FLOW, _BAD_OUTSIDE),
            mutants=(
                ("sign", lambda f0, f1, flow, outside="zero": -warp.difference(f0, f1, flow, outside=outside)),
                (
                    "the later frame warped back",
                    lambda f0, f1, flow, outside="zero": warp.bilinear(f1, flow, outside=outside) - f0,
                ),
            ),
        ),
    )
}
