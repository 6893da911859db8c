"""Optical flow guided feature (OFF18 §4.1), and the rate of the noise that it sees in a noisy video (OFF20 §7.1)."""

from typing import Any

import numpy as np

from motionspec.checks import choice, message
from motionspec.refimpl import brightness
from motionspec.refimpl.checks import Array, arrays

# As printed in (5) and (6), rows from the top. The text says Sobel; the printed pair is Prewitt's.
KERNELS = {
    "paper": (
        np.array([[-1.0, 0, 1], [-1, 0, 1], [-1, 0, 1]]),
        np.array([[1.0, 1, 1], [0, 0, 0], [-1, -1, -1]]),
    ),
    "sobel": (
        np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]),
        np.array([[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]]),
    ),
}
# right - left + up - down, one map (released code)
CROSS = np.array([[0.0, 1, 0], [-1, 0, 1], [0, -1, 0]])


def _correlate(f: Array, kernel: Array) -> Array:
    """Cross-correlation of every channel with a 3 x 3 kernel, zero padding, output of the input's size."""
    H, W = f.shape[-2:]
    padded = np.zeros((*f.shape[:-2], H + 2, W + 2))
    padded[..., 1:-1, 1:-1] = f
    out = np.zeros(f.shape)
    for j in range(3):
        for i in range(3):
            out += kernel[j, i] * padded[..., j : j + H, i : i + W]
    return out


def spatial_gradient(f: Array, kernel: str = "paper") -> tuple[Array, Array]:
    """Spatial part of the feature: two 3 x 3 kernels applied to every channel.

    Equation: OFF18 (5) and (6); `*` read as cross-correlation.
    Shapes: f (N, C, H, W) -> Fx, Fy (N, C, H, W).
    Units: Fx = +6 df/dx, Fy = -6 df/dy with y down (`sobel`: gain 8): the printed Fy has its positive row on top.
    Border: zero padding.
    Kinks: none, it is linear.
    Deviations: the text says Sobel, the printed kernels are Prewitt's; `kernel="sobel"` has weights 1 2 1
        (test_off.py::test_spatial_gradient_gain_and_sign). The released code uses neither, see `cross_gradient`.
    Raises: TypeError or ValueError for dtypes, shapes, `kernel`, or values that are not finite.
    """
    choice("off.spatial_gradient", "kernel", kernel, tuple(KERNELS))
    (f,) = arrays("off.spatial_gradient", f=(f, "N C H W"))
    kx, ky = KERNELS[kernel]
    return _correlate(f, kx), _correlate(f, ky)


def cross_gradient(f: Array) -> Array:
    """The released code's single spatial map: right - left + up - down.

    Equation: none; the released Caffe model's fixed "sobel" filler, a variant of OFF18 (5), (6).
    Shapes: f (N, C, H, W) -> (N, C, H, W).
    Units: +2 df/dx - 2 df/dy with y down.
    Border: zero padding.
    Kinks: none, it is linear.
    Deviations: the sum loses the separation of the two directions: an anti-diagonal edge vanishes
        (test_off.py::test_cross_gradient_is_blind_to_one_diagonal).
    Raises: TypeError or ValueError for dtypes, shapes, or values that are not finite.
    """
    (f,) = arrays("off.cross_gradient", f=(f, "N C H W"))
    return _correlate(f, CROSS)


def temporal_difference(f_prev: Array, f_next: Array) -> Array:
    """`f_t - f_(t-dt)`: later minus earlier.

    Equation: OFF18 (7).
    Shapes: f_prev, f_next (N, C, H, W) -> (N, C, H, W).
    Units: those of f per frame step.
    Border, Kinks: none, it is linear and pointwise.
    Deviations: a third-party port has the opposite sign.
    Raises: TypeError or ValueError for dtypes, shapes, or values that are not finite.
    """
    f_prev, f_next = arrays("off.temporal_difference", f_prev=(f_prev, "N C H W"), f_next=(f_next, "N C H W"))
    return f_next - f_prev


def features(f_prev: Array, f_next: Array, kernel: str = "paper") -> Array:
    """The optical flow guided feature of one pair, `[Fx | Fy | Ft]` on channels.

    Equation: OFF18 §4.1 and Fig. 4, from (5), (6), (7); the spatial part at the earlier frame, where (3) expands.
    Shapes: f_prev, f_next (N, C, H, W) -> (N, 3C, H, W).
    Units, Border, Kinks: as `spatial_gradient` and `temporal_difference`.
    Deviations: the released code concatenates other maps, see `released_features`.
    Raises: as `spatial_gradient`.
    """
    choice("off.features", "kernel", kernel, tuple(KERNELS))
    f_prev, f_next = arrays("off.features", f_prev=(f_prev, "N C H W"), f_next=(f_next, "N C H W"))
    Fx, Fy = spatial_gradient(f_prev, kernel)
    Ft = temporal_difference(f_prev, f_next)
    return np.concatenate([Fx, Fy, Ft], axis=1)


def clip_features(clip: Array, kernel: str = "paper") -> Array:
    """`features` of every pair of neighbouring frames within a clip, never across clips of a batch.

    Equation: OFF18 §4.1, Fig. 4, for the T-1 pairs of a video.
    Shapes: clip (N, C, T, H, W), T >= 2 -> (N, 3C, T-1, H, W).
    Units, Border, Kinks: as `features`.
    Deviations: the released training code misaligns the frames of spatial and temporal part for batch > 1, because it
        slices the flattened batch (test_off.py::test_clip_features_pairs_stay_within_their_clip).
    Raises: as `features`; ValueError for T < 2.
    """
    choice("off.clip_features", "kernel", kernel, tuple(KERNELS))
    (clip,) = arrays("off.clip_features", clip=(clip, "N C T H W"))
    T = clip.shape[2]
    if T < 2:
        raise ValueError(message("off.clip_features", "clip", "at least T=2 frames", f"T={T}"))
    return np.stack([features(clip[:, :, t], clip[:, :, t + 1], kernel) for t in range(T - 1)], axis=2)


def released_features(s_prev: Array, f_prev: Array, f_next: Array) -> Array:
    """What the released code concatenates: `[cross gradient of s | Ft of f]`, from two separate reductions s and f.

    Equation: none; the released Caffe model, a variant of OFF18 Fig. 4.
    Shapes: s_prev (N, S, H, W), f_prev, f_next (N, C, H, W) -> (N, S+C, H, W); there S = 32, C = 128.
    Units, Border, Kinks: as `cross_gradient` and `temporal_difference`.
    Deviations: the paper takes both parts from one reduction and has two spatial maps per channel
        (test_off.py::test_released_features_differ_from_the_paper).
    Raises: TypeError or ValueError for dtypes, shapes, or values that are not finite.
    """
    maps: dict[str, Any] = {"s_prev": (s_prev, "N S H W"), "f_prev": (f_prev, "N C H W"), "f_next": (f_next, "N C H W")}
    s_prev, f_prev, f_next = arrays("off.released_features", **maps)
    return np.concatenate([cross_gradient(s_prev), temporal_difference(f_prev, f_next)], axis=1)


def residual_rate(
    g_prev: Array, g_next: Array, d_prev: Array, flow: Array, noise: str = "carried"
) -> tuple[Array, Array]:
    """Rate `dN/dt` of the residual N = g(I) - D of a noisy video of clean frames D, and N itself one frame step later.

    Equation: OFF20 (14), `dN/dt = gx vx + gy vy + gt`, and (13), `N_(t+dt) = N_t + dt dN/dt`, from (10)-(12), dt being
        the frame step. `noise` says where N is looked up at t+dt: `"carried"` with the scene, at the displaced point
        p + flow(p), as printed; `"standing"`, at p itself: from either result grad N . v is subtracted.
        The rate vanishes, to first order in the flow, where the noise does what the name says: for `carried` it is
        then the constraint (4). Noise that stands still has the `carried` rate grad N . v.
    Shapes: g_prev, g_next, d_prev (N, C, H, W), flow (N, 2, H, W) -> rate, n_next (N, C, H, W).
    Units: those of g per frame step, and those of g; flow of the clean scene, in pixels.
    Border: the gradients are `brightness.gradient`: unit gain, one-sided in the border line.
    Kinks: none, it is linear in the maps and in the flow.
    Deviations: (10) and (13) print I - D where (12) has g(I) - D: they agree only where g(I) = I
        (test_off.py::test_residual_rate_13_as_printed_needs_g_to_be_the_identity).
    Raises: TypeError or ValueError for dtypes, shapes, `noise`, or values that are not finite.
    """
    choice("off.residual_rate", "noise", noise, ("carried", "standing"))
    maps: dict[str, Any] = {
        "g_prev": (g_prev, "N C H W"),
        "g_next": (g_next, "N C H W"),
        "d_prev": (d_prev, "N C H W"),
        "flow": (flow, "N 2 H W"),
    }
    g_prev, g_next, d_prev, flow = arrays("off.residual_rate", **maps)
    vx, vy = flow[:, 0:1], flow[:, 1:2]
    N_t = g_prev - d_prev
    gx, gy = brightness.gradient(g_prev)
    rate = gx * vx + gy * vy + temporal_difference(g_prev, g_next)
    if noise == "standing":
        Nx, Ny = brightness.gradient(N_t)
        rate = rate - (Nx * vx + Ny * vy)
    return rate, N_t + rate
