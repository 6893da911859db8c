"""The optical flow guided feature: its kernels, signs, gains and pairs, worked out by hand from OFF18 §4.1."""

import numpy as np
import pytest
from voices import both

off = both("off")


Y, X = np.mgrid[:6, :7].astype(float)
IMAGE = np.array(
    [
        [0.0, 2, 4, 8, 8],
        [1, 3, 9, 7, 5],
        [6, 6, 2, 2, 0],
        [0, 4, 8, 2, 4],
        [2, 2, 0, 6, 9],
    ]
)


def maps(*channels):
    """(1, C, H, W) from C images."""
    return np.stack(channels)[None]


def inner(f):
    """Without the border line, where the padding speaks."""
    return f[..., 1:-1, 1:-1]


def test_spatial_gradient_gain_and_sign(off):
    ramps = maps(X, Y)
    for kernel, gain in (("paper", 6), ("sobel", 8)):
        Fx, Fy = map(inner, off.spatial_gradient(ramps, kernel=kernel))
        assert (Fx[:, 0] == gain).all() and (Fx[:, 1] == 0).all()  # +gain df/dx
        assert (Fy[:, 0] == 0).all() and (Fy[:, 1] == -gain).all()  # -gain df/dy: y points down, the plus row is on top
    np.testing.assert_array_equal(off.spatial_gradient(ramps), off.spatial_gradient(ramps, kernel="paper"))


@pytest.mark.parametrize(
    "kernel, kx, ky",
    [
        ("paper", [[-1, 0, 1], [-1, 0, 1], [-1, 0, 1]], [[1, 1, 1], [0, 0, 0], [-1, -1, -1]]),  # as printed in (5), (6)
        ("sobel", [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], [[1, 2, 1], [0, 0, 0], [-1, -2, -1]]),
    ],
)
def test_unit_impulse_shows_the_printed_kernel_turned_by_a_half_turn(off, kernel, kx, ky):
    """`*` is cross-correlation. Under true convolution the impulse would show the kernels as printed."""
    impulse = np.zeros((1, 1, 5, 5))
    impulse[..., 2, 2] = 1
    for F, k in zip(off.spatial_gradient(impulse, kernel=kernel), (kx, ky), strict=True):
        np.testing.assert_array_equal(inner(F)[0, 0, ::-1, ::-1], k)
        assert np.abs(F).sum() == np.abs(k).sum()  # nothing elsewhere


def test_spatial_gradient_printed_answer_with_zeros_around(off):
    # Column sums over three rows, the first two lines: 1 5 13 15 13 / 7 11 15 17 13. Fx is right minus left of these:
    # 5 - 0, 13 - 1, ..., 0 - 15 / 11 - 0, ... Fy is up minus down of the row sums over three columns.
    Fx, Fy = off.spatial_gradient(maps(IMAGE))
    want_x = [
        [5, 12, 10, 0, -15],
        [11, 8, 6, -2, -17],
        [13, 12, -2, -10, -11],
        [12, 2, -2, 3, -10],
        [6, 6, 2, 5, -8],
    ]
    want_y = [
        [-4, -13, -19, -21, -12],
        [-10, -8, 4, 16, 14],
        [0, 1, 5, 7, 6],
        [8, 10, 2, -11, -13],
        [4, 12, 14, 14, 6],
    ]
    np.testing.assert_array_equal(Fx[0, 0], want_x)
    np.testing.assert_array_equal(Fy[0, 0], want_y)


def test_cross_gradient_printed_answer_with_zeros_around(off):
    # right - left + up - down; top left: 2 - 0 + 0 - 1
    want = [
        [1, 1, -3, -3, -13],
        [-3, 4, 6, 2, 1],
        [7, -5, -3, 3, -1],
        [8, 12, 0, -8, -11],
        [2, 2, 12, 11, -2],
    ]
    np.testing.assert_array_equal(off.cross_gradient(maps(IMAGE))[0, 0], want)


def test_cross_gradient_gain_and_sign(off):
    across, down = inner(off.cross_gradient(maps(X, Y)))[0]
    assert (across == 2).all() and (down == -2).all()  # +2 df/dx - 2 df/dy


def test_cross_gradient_is_blind_to_one_diagonal(off):
    """Blind to any g(x + y): its edges run from bottom left to top right. Edges of g(x - y) count twice."""
    rising, falling = (X + Y >= 6).astype(float), (X - Y >= 1).astype(float)
    blind, seen = inner(off.cross_gradient(maps(rising, falling)))[0]
    assert (blind == 0).all()  # g(s+1) - g(s-1) + g(s-1) - g(s+1)
    # g(d+1) - g(d-1) twice: 2 on both sides of the edge, where x - y is 0 or 1
    np.testing.assert_array_equal(seen, inner(np.where((X - Y == 0) | (X - Y == 1), 2.0, 0.0)))
    Fx, Fy = map(inner, off.spatial_gradient(maps(rising)))
    assert Fx.max() == 2 and Fy.min() == -2  # the paper's pair sees it in both parts: two of three rows cross the edge


def test_a_side_of_one_is_all_border(off):
    f = np.array([4.0, 6, 1]).reshape(1, 1, 1, 3)
    # Row: right - left, with zeros outside: 6 - 0, 1 - 4, 0 - 6. Above and below are zeros: Fy = 0.
    for kernel, weight in (("paper", 1), ("sobel", 2)):
        Fx, Fy = off.spatial_gradient(f, kernel=kernel)
        np.testing.assert_array_equal(Fx.ravel(), weight * np.array([6.0, -3, -6]))
        np.testing.assert_array_equal(Fy.ravel(), [0, 0, 0])
    np.testing.assert_array_equal(off.cross_gradient(f).ravel(), [6, -3, -6])
    Fx, Fy = off.spatial_gradient(f.swapaxes(2, 3))
    np.testing.assert_array_equal(Fx.ravel(), [0, 0, 0])
    np.testing.assert_array_equal(Fy.ravel(), [-6, 3, 6])  # up - down
    np.testing.assert_array_equal(off.cross_gradient(f.swapaxes(2, 3)).ravel(), [-6, 3, 6])


def test_temporal_difference_is_later_minus_earlier(off):
    np.testing.assert_array_equal(off.temporal_difference(np.full((1, 1, 1, 1), 4.0), np.full((1, 1, 1, 1), 7.0)), 3)


def test_features_are_all_fx_then_all_fy_then_all_ft(off):
    """Two channels, 2x + 3y and 5x + 7y, that brighten by 100 and 200."""
    f_prev = maps(2 * X + 3 * Y, 5 * X + 7 * Y)
    f_next = f_prev + np.array([100, 200]).reshape(1, 2, 1, 1)
    for kernel, gain in (("paper", 6), ("sobel", 8)):
        F = inner(off.features(f_prev, f_next, kernel=kernel))[0]
        want = [2 * gain, 5 * gain, -3 * gain, -7 * gain, 100, 200]
        np.testing.assert_array_equal(F, np.broadcast_to(np.array(want).reshape(6, 1, 1), F.shape))


def test_features_take_the_spatial_part_at_the_earlier_frame(off):
    """(3) expands around it. x turns into 10y: at the later frame it would be (0, -60), at the mean (3, -30)."""
    Fx, Fy, Ft = inner(off.features(maps(X), maps(10 * Y)))[0]
    assert (Fx == 6).all() and (Fy == 0).all()
    np.testing.assert_array_equal(Ft, inner(10 * Y - X))


def test_features_raw_are_not_orthogonal_to_the_flow(off):
    """3x + 5y moves by (2, 1): every value falls by 3*2 + 5*1 = 11, and [3, 5, -11] . [2, 1, 1] = 0."""
    f_prev = maps(3 * X + 5 * Y)
    f_next = f_prev - 11
    u, v = 2, 1
    for kernel, gain, raw in (("paper", 6, -5), ("sobel", 8, -3)):  # 18*2 - 30*1 - 11 and 24*2 - 40*1 - 11
        Fx, Fy, Ft = inner(off.features(f_prev, f_next, kernel=kernel))[0]
        assert (Fx * u + Fy * v + Ft == raw).all()
        assert (Fx / gain * u - Fy / gain * v + Ft == 0).all()


@pytest.mark.parametrize("kernel", ["paper", "sobel"])
def test_clip_features_are_the_features_of_neighbouring_frames(off, kernel):
    clip = np.random.default_rng(0).normal(size=(2, 3, 5, 6, 7))
    got = off.clip_features(clip, kernel=kernel)
    assert got.shape == (2, 9, 4, 6, 7)  # T frames give T - 1
    for t in range(4):
        np.testing.assert_array_equal(got[:, :, t], off.features(clip[:, :, t], clip[:, :, t + 1], kernel=kernel))


def ramps(N, T):
    """N clips of T frames; the slope of a frame is its number in the batch, so that Fx/6 tells which frame it is."""
    number = np.arange(N * T).reshape(N, 1, T, 1, 1)
    return number * np.arange(3.0) + np.zeros((N, 1, T, 3, 3))


def test_clip_features_pairs_stay_within_their_clip(off):
    """The released training code takes the spatial part from the first N(T-1) rows of the flattened frames."""
    N, T = 16, 7
    clip = ramps(N, T)
    batch = off.clip_features(clip)
    for n in range(N):
        np.testing.assert_array_equal(batch[n : n + 1], off.clip_features(clip[n : n + 1]))
    # Rows one video after the other; the features' spatial part belongs to the earlier frame of the row's pair.
    rows = batch[..., 1, 1].swapaxes(1, 2).reshape(N * (T - 1), 3)
    earlier = np.array([T * n + t for n in range(N) for t in range(T - 1)])
    np.testing.assert_array_equal(rows[:, 0] / 6, earlier)
    np.testing.assert_array_equal(rows[:, 2], 1)  # the next frame's slope is one more, at x = 1: never across clips
    # Released: row k has the gradient of frame k of 112 but the pair (k // 6, k % 6): right in the first video only.
    frames = clip.swapaxes(1, 2).reshape(N * T, 1, 3, 3)
    Fx, _ = off.spatial_gradient(frames[: N * (T - 1)])
    agree = Fx[:, 0, 1, 1] == rows[:, 0]
    assert len(agree) == 96 and agree.sum() == 6 and agree[:6].all()


def test_released_slice_is_aligned_for_one_clip(off):
    """At test time: one clip of 25 frames, the first 24 of 25 rows."""
    clip = ramps(1, 25)
    Fx, _ = off.spatial_gradient(clip.swapaxes(1, 2).reshape(25, 1, 3, 3)[:24])
    np.testing.assert_array_equal(off.clip_features(clip)[0, 0, :, 1, 1], Fx[:, 0, 1, 1])


def test_released_features_differ_from_the_paper(off):
    rng = np.random.default_rng(0)
    s_prev, f_prev, f_next = (rng.normal(size=(1, C, 4, 4)) for C in (32, 128, 128))
    assert off.released_features(s_prev, f_prev, f_next).shape[1] == 160  # 32 + 128
    assert off.features(f_prev, f_next).shape[1] == 384  # 3 * 128
    # s = 3x + 5y in one map, f of two channels that brighten by 100 and 200: [2*3 - 2*5 | 100, 200]
    f_prev = maps(X, Y)
    f_next = f_prev + np.array([100, 200]).reshape(1, 2, 1, 1)
    got = inner(off.released_features(maps(3 * X + 5 * Y), f_prev, f_next))[0]
    np.testing.assert_array_equal(got, np.broadcast_to(np.array([-4, 100, 200]).reshape(3, 1, 1), got.shape))
    # A map that varies along the main diagonal alone is told from a constant by the paper's feature only.
    slope, flat = maps(X + Y), maps(0 * X)
    zero = inner(off.released_features(slope, slope, slope))
    np.testing.assert_array_equal(zero, inner(off.released_features(flat, flat, flat)))
    paper = inner(off.features(slope, slope))[0, :, 0, 0]
    np.testing.assert_array_equal(paper, [6, -6, 0])


def test_numba_of_a_part_of_a_channels_last_map_in_a_half_type():
    """It lies as nothing that can be walked; widened to float32 it lies channels-last."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("numba")
    from motionspec.ops import off

    f = torch.arange(2 * 8 * 6 * 7.0).reshape(2, 8, 6, 7).bfloat16().to(memory_format=torch.channels_last)[..., :5]
    assert f.float().is_contiguous(memory_format=torch.channels_last)
    assert off.features(f, f, impl="numba").equal(off.features(f, f, impl="torch"))


def test_features_by_numba_lie_as_their_input_does_and_copy_no_channels_last(monkeypatch):
    """In bands of rows of several pieces, too. Values and gradients are those of eager torch."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("numba")
    from motionspec.ops import off as ops
    from motionspec.ops import off_numba

    monkeypatch.setattr(off_numba, "_BAND", 60)
    for frames, channels_last in (((), torch.channels_last), ((3,), torch.channels_last_3d)):
        for layout in (torch.contiguous_format, channels_last):
            pair = torch.randn(2, 2, 5, *frames, 9, 11, dtype=torch.float64)
            found = []
            for impl in ("numba", "torch"):
                leaves = [f.contiguous(memory_format=layout).requires_grad_(True) for f in pair]
                if frames:
                    out = torch.cat([ops.clip_features(f, "sobel", impl=impl) for f in leaves])
                else:
                    out = ops.features(*leaves, "sobel", impl=impl)
                assert out.is_contiguous(memory_format=layout)
                weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
                found.append([out, *torch.autograd.grad(out, leaves, weights.contiguous(memory_format=layout))])
            for got, want in zip(*found, strict=True):
                torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
                assert got.is_contiguous(memory_format=layout) or not frames  # of a pair: two frames of one tensor


# -- the rate of the noise, OFF20 (10)-(14) ----------------------------------------------------------------------------

U, V = 2.0, -1.0
FLOW = np.stack([np.full_like(X, U), np.full_like(X, V)])[None]


def scene(x, y):
    """The clean frame D at (x, y): central differences are exact on it, and its second derivatives are 3, 0, -1."""
    return 1.5 * x**2 - 0.5 * y**2 + 2 * x + 7 * y


def grain(x, y):
    """The noise N: second derivatives 0, 1, 2 (xx, xy, yy)."""
    return x * y + y**2 - 4 * x


BEND_D, BEND_N = (3 * U * U - V * V) / 2, (2 * U * V + 2 * V * V) / 2  # v.H.v / 2, all that is left beyond first order
ALONG_N = (Y - 4) * U + (X + 2 * Y) * V  # grad N . v


def rates(off, g_next, noise):
    """Rate and N_(t+dt) in the interior, for g(I) = D + N, moved by (U, V)."""
    D = maps(scene(X, Y))
    got = off.residual_rate(D + maps(grain(X, Y)), maps(g_next), D, FLOW, noise=noise)
    return [inner(part)[0, 0] for part in got]


def test_residual_rate_worked_out_by_hand(off):
    """3x + 5y by (2, -1): 3*2 - 5 + Ft = 1 + 6. Of it D = 2x, so N = x + 5y and grad N . v = 2 - 5."""
    g, d = maps(3 * X + 5 * Y), maps(2 * X)
    rate, n_next = off.residual_rate(g, g + 6, d, FLOW)
    assert (rate == 7).all()
    np.testing.assert_array_equal(n_next, g - d + 7)
    rate, n_next = off.residual_rate(g, g + 6, d, FLOW, noise="standing")
    assert (rate == 10).all()
    np.testing.assert_array_equal(n_next, g - d + 10)


def test_residual_rate_noise_carried_with_the_scene_gives_4_back(off):
    """g(p, t+dt) = g(p - v, t): the linear parts cancel, only the bend is left, which is of second order in v."""
    rate, n_next = rates(off, scene(X - U, Y - V) + grain(X - U, Y - V), "carried")
    np.testing.assert_allclose(rate, BEND_D + BEND_N, rtol=0, atol=1e-12)
    np.testing.assert_allclose(n_next, inner(grain(X, Y)) + BEND_D + BEND_N, rtol=0, atol=1e-12)
    # (4) is the linearised residual of g itself: D, and with it the noise, has no say in it.
    D, g = maps(scene(X, Y)), maps(scene(X, Y) + grain(X, Y))
    np.testing.assert_array_equal(off.residual_rate(g, 2 * g, D, FLOW)[0], off.residual_rate(g, 2 * g, g, FLOW)[0])


def test_residual_rate_noise_standing_still_gives_grad_n_times_v(off):
    g_next = scene(X - U, Y - V) + grain(X, Y)
    rate, n_next = rates(off, g_next, "carried")
    np.testing.assert_allclose(rate, inner(ALONG_N) + BEND_D, rtol=0, atol=1e-12)
    # at the displaced point N is grain(X + U, Y + V), up to second order
    np.testing.assert_allclose(n_next, inner(grain(X + U, Y + V)) - BEND_N + BEND_D, rtol=0, atol=1e-12)
    # looked up where it stands it does not change
    rate, n_next = rates(off, g_next, "standing")
    np.testing.assert_allclose(rate, BEND_D, rtol=0, atol=1e-12)
    np.testing.assert_allclose(n_next, inner(grain(X, Y)) + BEND_D, rtol=0, atol=1e-12)


def test_residual_rate_of_standing_noise_is_seen_by_the_clean_gradient(off):
    """Subtracting grad N . v leaves Dx vx + Dy vy + gt: OFF of the clean frame, but the noisy difference."""
    rng = np.random.default_rng(0)
    g_prev, g_next, d_prev = (rng.normal(size=(2, 3, 6, 7)) for _ in range(3))
    flow = rng.normal(size=(2, 2, 6, 7))
    rate, _ = off.residual_rate(g_prev, g_next, d_prev, flow, noise="standing")
    clean, _ = off.residual_rate(d_prev, d_prev + g_next - g_prev, d_prev, flow)
    np.testing.assert_allclose(rate, clean, rtol=0, atol=1e-12)


def test_residual_rate_13_as_printed_needs_g_to_be_the_identity(off):
    """Printed: N_(t+dt) = dt (gx vx + gy vy + gt) + I - D. By (12) it is g(I) at the displaced point, less D."""
    frame, D = 3 * X + 5 * Y, 2 * X + 5 * Y + 1
    moved = 3 * (X - U) + 5 * (Y - V)  # the frame one step later; at the displaced point it is `frame` again
    for g, holds in ((lambda image: image, True), (lambda image: 2 * image - 1, False)):
        by_12 = g(frame) - D
        rate, n_next = off.residual_rate(maps(g(frame)), maps(g(moved)), maps(D), FLOW)
        np.testing.assert_array_equal(n_next[0, 0], by_12)
        printed = rate[0, 0] + frame - D
        assert (printed == by_12).all() == holds
        np.testing.assert_array_equal(by_12 - printed, g(frame) - frame)


def test_residual_rate_on_a_side_of_one(off):
    """No derivative down: only gx vx is left, one-sided at the ends."""
    g = np.array([4.0, 6, 1]).reshape(1, 1, 1, 3)
    flow = np.array([1.0, 1, 1, 9, 9, 9]).reshape(1, 2, 1, 3)
    rate, n_next = off.residual_rate(g, g, 0 * g, flow)
    np.testing.assert_array_equal(rate.ravel(), [2, -1.5, -5])
    np.testing.assert_array_equal(n_next.ravel(), [6, 4.5, -4])
