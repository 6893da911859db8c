"""Pooling and shifting over time: windows, ends, ties (DC18 §3.2, §4.2; OFF20 §5.2)."""

import importlib

import numpy as np
import pytest
from voices import both

pool3d = both("pool3d")


def clip(*frames):
    """(1, 1, T, H, W) from T images."""
    return np.array(frames, float)[None, None]


def gradient(name, x, **options):
    """d sum(value) / d x by autograd of the operator, and the value."""
    torch = pytest.importorskip("torch")
    leaf = torch.tensor(x, requires_grad=True)
    out = getattr(importlib.import_module("motionspec.ops.pool3d"), name)(leaf, **options)
    return torch.autograd.grad(out.sum(), leaf)[0].numpy(), out.detach().numpy()


def frames_of_one_pixel(*values):
    return np.array(values, float).reshape(1, 1, -1, 1, 1)


# Gradual


def test_gradual_printed_answer(pool3d):
    first = [[1, 2, 3, 4, 0], [0, 0, 9, 0, 1], [5, 6, 7, 8, 2], [0, 0, 0, 0, 0]]
    second = [[0, 0, 0, 0, 0], [0, 0, 0, 0, 10], [0, 0, 0, 0, 0], [11, 0, 0, 0, 12]]
    # Windows start at 0 and 2; that of rows 2.. is cut after row 3.
    np.testing.assert_array_equal(pool3d.gradual(clip(first, second))[0, 0], [[[9, 10], [11, 12]]])
    np.testing.assert_array_equal(pool3d.gradual(clip(first))[0, 0], [[[9, 9], [7, 8]]])
    np.testing.assert_array_equal(
        pool3d.gradual(clip(first, second), spatial="none")[0, 0, 0], np.maximum(first, second)
    )


@pytest.mark.parametrize("side, want", [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (112, 56), (7, 3)])
def test_gradual_sizes_are_bn_inception_s(pool3d, side, want):
    """pool2 rounds up: 112 becomes 56."""
    assert pool3d.gradual(np.zeros((1, 1, 1, side, 1))).shape == (1, 1, 1, want, 1)
    assert pool3d.gradual(np.zeros((1, 1, 1, 1, side))).shape == (1, 1, 1, 1, want)


@pytest.mark.parametrize("T, want", [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (8, 4)])
def test_gradual_halves_the_frames_and_drops_none(pool3d, T, want):
    got = pool3d.gradual(frames_of_one_pixel(*range(T)), spatial="none")
    assert got.shape == (1, 1, want, 1, 1)
    np.testing.assert_array_equal(got.ravel(), [*range(1, T, 2), *([T - 1] if T % 2 else [])])


def test_gradual_three_times_is_late_for_eight_frames(pool3d):
    """8 to 4 to 2 to 1. What the network puts between them makes the difference."""
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 4, 5))
    got = x
    for frames in (4, 2, 1):
        got = pool3d.gradual(got, spatial="none")
        assert got.shape == (2, 3, frames, 4, 5)
    np.testing.assert_array_equal(got[:, :, 0], pool3d.late(x))


def test_gradual_is_max_pool3d_where_the_window_fits():
    torch = pytest.importorskip("torch")
    ops = importlib.import_module("motionspec.ops.pool3d")
    x = torch.tensor(np.random.default_rng(0).normal(size=(2, 3, 4, 7, 8)))
    want = torch.nn.functional.max_pool3d(x, (2, 3, 3), 2, ceil_mode=True)
    assert torch.equal(ops.gradual(x), want)


@pytest.mark.parametrize("spatial", ["3x3", "none"])
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 2, 5), (3, 5, 4), (4, 6, 7)])
def test_gradual_is_the_same_on_devices_without_max_pool3d(size, spatial):
    """In value and gradient, at ties and NaN too."""
    torch = pytest.importorskip("torch")
    from motionspec.ops import pool3d

    found = []
    for run in (pool3d._in_one, pool3d._space_then_time):
        x = torch.tensor(np.random.default_rng(0).integers(0, 3, (2, 2, *size)).astype(float))
        x[0, 0, 0, 0, 0] = np.nan
        x.requires_grad_()
        y = run(x, spatial)
        found += [y.detach(), torch.autograd.grad((y * torch.arange(1.0, y.numel() + 1).view_as(y)).sum(), x)[0]]
    torch.testing.assert_close(found[0], found[2], rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(found[1], found[3], rtol=0, atol=0, equal_nan=True)


def test_gradual_tie_goes_to_the_first_frame_row_and_column():
    got, _ = gradient("gradual", np.zeros((1, 1, 2, 3, 3)))
    want = np.zeros((1, 1, 2, 3, 3))
    want[..., 0, 0, 0] = 1
    np.testing.assert_array_equal(got, want)
    x = clip([[0, 0, 0], [0, 0, 5], [5, 0, 0]], [[5, 5, 5]] * 3)
    want = np.zeros_like(x)
    want[..., 0, 1, 2] = 1  # row 1 before row 2, though column 0 is before column 2; frame 0 before frame 1
    np.testing.assert_array_equal(gradient("gradual", x)[0], want)


def test_gradual_windows_share_a_line_and_add_up_there():
    """Kernel 3, stride 2: column 2 belongs to both windows."""
    got, _ = gradient("gradual", clip([[0, 0, 7, 0, 0]]))
    np.testing.assert_array_equal(got.ravel(), [0, 0, 2, 0, 0])


# Late


def test_late_printed_answer(pool3d):
    got = pool3d.late(clip([[1, 5]], [[4, -2]], [[3, 0]]))
    assert got.shape == (1, 1, 1, 2)
    np.testing.assert_array_equal(got.ravel(), [4, 5])
    np.testing.assert_array_equal(pool3d.late(frames_of_one_pixel(-3)).ravel(), [-3])


def test_late_does_not_see_the_order_of_the_frames(pool3d):
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 2, 2))
    np.testing.assert_array_equal(pool3d.late(x[:, :, [3, 1, 4, 0, 2]]), pool3d.late(x))


def test_late_tie_goes_to_the_first_frame():
    got, _ = gradient("late", frames_of_one_pixel(1, 2, 2, 0, 2))
    np.testing.assert_array_equal(got.ravel(), [0, 1, 0, 0, 0])


@pytest.mark.parametrize("place", range(4))
def test_nan_and_infinity_stay(place):
    for value in (np.nan, np.inf, -np.inf):
        x = frames_of_one_pixel(0, 1, 2, 3)
        x[:, :, place] = value
        for name, options in (("late", {}), ("gradual", {}), ("gradual", {"spatial": "none"})):
            got, out = gradient(name, x, **options)
            want = [x.max()] if name == "late" else [x[:, :, :2].max(), x[:, :, 2:].max()]
            np.testing.assert_array_equal(out.ravel(), want)
            assert np.isfinite(got).all() and got.sum() == out.size


def test_a_window_of_minus_infinity_keeps_its_gradient():
    """What lies beyond the end counts as -inf too, but comes last."""
    got, out = gradient("gradual", np.full((1, 1, 1, 1, 2), -np.inf))
    assert out == -np.inf
    np.testing.assert_array_equal(got.ravel(), [1, 0])


# Temporal shift


def test_temporal_shift_printed_answer(pool3d):
    """17 channels: the eighth is 2. Channel c of frame t holds 100 t + c."""
    x = (100.0 * np.arange(1, 4) + np.arange(17)[:, None])[None, :, :, None, None]
    got = pool3d.temporal_shift(x)[0, :, :, 0, 0]
    np.testing.assert_array_equal(got[:2], [[200, 300, 0], [201, 301, 0]])  # from t+1
    np.testing.assert_array_equal(got[2:4], [[0, 102, 202], [0, 103, 203]])  # from t-1
    np.testing.assert_array_equal(got[4:], x[0, 4:, :, 0, 0])


def test_temporal_shift_of_a_long_clip(pool3d):
    """Ten seconds of video: frame t holds 1 + t."""
    frames = 1 + np.arange(300.0)
    got = pool3d.temporal_shift(np.tile(frames[:, None, None], (1, 8, 1, 1, 1)))[0, :, :, 0, 0]
    np.testing.assert_array_equal(got[:3], [[*frames[1:], 0], [0, *frames[:-1]], frames])


def test_temporal_shift_of_one_frame_leaves_zeros(pool3d):
    got = pool3d.temporal_shift(np.ones((1, 8, 1, 2, 2)))
    assert not got[:, :2].any() and (got[:, 2:] == 1).all()


def test_temporal_shift_stays_within_its_clip(pool3d):
    """The neighbour in time of a clip's last frame is not the next clip's first."""
    x = np.random.default_rng(0).normal(size=(2, 9, 3, 2, 2))
    np.testing.assert_array_equal(pool3d.temporal_shift(x)[1:], pool3d.temporal_shift(x[1:]))
    assert not pool3d.temporal_shift(x)[:, 0, -1].any() and not pool3d.temporal_shift(x)[:, 1, 0].any()


def test_temporal_shift_reversed_in_time_swaps_its_two_groups(pool3d):
    x = np.random.default_rng(0).normal(size=(1, 24, 4, 2, 2))
    swap = [3, 4, 5, 0, 1, 2, *range(6, 24)]
    got = pool3d.temporal_shift(x[:, swap, ::-1].copy())[:, :, ::-1]
    np.testing.assert_array_equal(got[:, swap], pool3d.temporal_shift(x))


def test_temporal_shift_drops_what_leaves_the_clip():
    """Each input goes to one place or to none: its derivative is 1 or 0."""
    got, _ = gradient("temporal_shift", np.zeros((1, 8, 3, 1, 1)))
    want = np.ones((8, 3))
    want[0, 0] = want[1, -1] = 0  # no frame takes them
    np.testing.assert_array_equal(got[0, :, :, 0, 0], want)
