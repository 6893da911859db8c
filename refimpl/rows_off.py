"""Rows of stem `off`: the fields are explained in `row.py`."""

import numpy as np

from motionspec.refimpl import off
from motionspec.refimpl.row import BAD_FLOW, BAD_MAP, Args, Equation, Fill, change, inner, maps, maps_and_flow


def _clip_inputs(fill: Fill, N: int, C: int, T: int, H: int, W: int) -> Args:
    return {"clip": fill("clip", (N, C, T, H, W), "value")}


def _released_inputs(fill: Fill, N: int, S: int, C: int, H: int, W: int) -> Args:
    return {
        "s_prev": fill("s_prev", (N, S, H, W), "value"),
        "f_prev": fill("f_prev", (N, C, H, W), "value"),
        "f_next": fill("f_next", (N, C, H, W), "value"),
    }


_BAD_KERNEL = (change(kernel="scharr"), "kernel: expected one of 'paper', 'sobel', got 'scharr'")
_KERNEL = ({"kernel": "paper"}, {"kernel": "sobel"})
_OFF_BENCH = ({"N": 96, "C": 128, "H": 28, "W": 28}, {"N": 8, "C": 128, "H": 56, "W": 56})


# Mutants that do not fit on a line.


def _replicated(f: np.ndarray, kernel: str = "paper") -> tuple[np.ndarray, ...]:
    padded = np.pad(f, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    return tuple(g[..., 1:-1, 1:-1] for g in off.spatial_gradient(padded, kernel))


def _at_later_frame(f_prev: np.ndarray, f_next: np.ndarray, kernel: str = "paper") -> np.ndarray:
    return np.concatenate([*off.spatial_gradient(f_next, kernel), f_next - f_prev], axis=1)


def _against_first(clip: np.ndarray, kernel: str = "paper") -> np.ndarray:
    T = clip.shape[2]
    return np.stack([off.features(clip[:, :, 0], clip[:, :, t], kernel) for t in range(1, T)], axis=2)


def _gained(
    g_prev: np.ndarray, g_next: np.ndarray, d_prev: np.ndarray, flow: np.ndarray, noise: str = "carried"
) -> tuple[np.ndarray, ...]:
    gx, gy = off.spatial_gradient(g_prev)
    rate = gx * flow[:, :1] + gy * flow[:, 1:] + g_next - g_prev
    return rate, g_prev - d_prev + rate


ROWS = (
    Equation(
        id="off.spatial_gradient",
        source="OFF18 (5), (6)",
        summary="the printed 3 x 3 kernels: Fx = +6 df/dx, Fy = -6 df/dy (sobel: 8), zero padding",
        reference=off.spatial_gradient,
        dims="NCHW",
        inputs=maps("f"),
        variants=_KERNEL,
        outputs=("Fx", "Fy"),
        degree=(1, 1),
        differentiable=("f",),
        interior=inner,
        bench=_OFF_BENCH,
        bad=(BAD_MAP, _BAD_KERNEL),
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
        inputs=maps("f"),
        outputs=("F",),
        degree=(1,),
        differentiable=("f",),
        interior=inner,
        bench=_OFF_BENCH,
        bad=(BAD_MAP,),
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
        inputs=maps("f_prev", "f_next"),
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
        inputs=maps("f_prev", "f_next"),
        variants=_KERNEL,
        outputs=("features",),
        degree=(1,),
        differentiable=("f_prev", "f_next"),
        blocks=("Fx", "Fy", "Ft"),
        interior=inner,
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
        interior=inner,
        bench=({"N": 16, "C": 128, "T": 7, "H": 28, "W": 28},),
        bad=(_BAD_KERNEL, (change(clip=lambda clip: clip[:, :, :1]), "clip: expected at least T=2 frames, got T=1")),
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
        interior=inner,
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
        id="off.residual_rate",
        source="OFF20 (10)-(14)",
        summary="dN/dt = gx vx + gy vy + gt of the noise N = g(I) - D, and N_(t+dt); noise carried or standing",
        reference=off.residual_rate,
        dims="NCHW",
        inputs=maps_and_flow("g_prev", "g_next", "d_prev"),
        variants=({"noise": "carried"}, {"noise": "standing"}),
        outputs=("rate", "n_next"),
        degree=(1, 1),
        differentiable=("g_prev", "g_next", "d_prev", "flow"),
        interior=inner,
        bench=({"N": 1, "C": 64, "H": 256, "W": 448},),
        bad=(BAD_FLOW, (change(noise="white"), "noise: expected one of 'carried', 'standing', got 'white'")),
        mutants=(
            ("flow points backwards", lambda g, h, d, flow, **noise: off.residual_rate(g, h, d, -flow, **noise)),
            ("u and v swapped", lambda g, h, d, flow, **noise: off.residual_rate(g, h, d, flow[:, ::-1], **noise)),
            ("earlier minus later", lambda g, h, d, flow, **noise: off.residual_rate(g, 2 * g - h, d, flow, **noise)),
            ("gain of the printed kernels", _gained),
            ("N_t forgotten in (13)", lambda *maps, **noise: off.residual_rate(*maps, **noise)[:1] * 2),
            ("N_t added to (14)", lambda *maps, **noise: off.residual_rate(*maps, **noise)[1:] * 2),
        ),
    ),
)
