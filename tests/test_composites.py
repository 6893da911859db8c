"""Equations made of others equal them, in reference and operator, where the tests of the one stem do not say so.

Elsewhere: tvl1.representation_flow in three schemes, primal_step, energy (test_tvl1.py); costvol.soft_displacement,
displacement_map (test_costvol.py); warp.motion, difference (test_warp.py); off.clip_features (test_off.py);
losses.multitask, intermediate_supervision (test_losses.py); pool3d.late (test_pool3d.py); detection.propose
(test_detection.py).
"""

import numpy as np
import pytest
from voices import Voice


@pytest.fixture(params=["refimpl", "ops"])
def stem(request):
    """A function that gives a stem of the voice."""
    return lambda name: Voice(request.param, name)


def maps(*shape, n=1, seed=0):
    return np.random.default_rng(seed).normal(size=(n, *shape))


FRAMES, FLOW = maps(2, 3, 6, 7, n=3), 2 * maps(2, 2, 6, 7, seed=1)[0]


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-13)


def test_constancy_residual_is_the_warped_later_frame_less_the_earlier(stem):
    f0, f1, _ = FRAMES
    residual, mask = stem("brightness").constancy_residual(f0, f1, FLOW)
    warped = stem("warp").bilinear(f1, FLOW)
    assert mask.any() and not mask.all()
    close(residual, np.where(mask, warped - f0, 0))
    assert (warped[~np.broadcast_to(mask, warped.shape)] == 0).all()  # the warp says the same of what leaves the map


def test_orthogonality_is_the_linearised_residual(stem):
    dot, cosine = stem("brightness").orthogonality(*FRAMES, FLOW)
    close(dot, stem("brightness").linearised_residual(*FRAMES, FLOW))
    u, v = FLOW[:, :1], FLOW[:, 1:]
    close(cosine, dot / np.sqrt((FRAMES**2).sum(0) * (u**2 + v**2 + 1)))


@pytest.mark.parametrize("kernel", ["paper", "sobel"])
def test_features_are_both_gradients_and_the_difference(stem, kernel):
    off, (a, b, _) = stem("off"), FRAMES
    parts = [*off.spatial_gradient(a, kernel=kernel), off.temporal_difference(a, b)]
    np.testing.assert_array_equal(off.features(a, b, kernel=kernel), np.concatenate(parts, 1))


def test_released_features_are_the_cross_gradient_and_the_difference(stem):
    off, (a, b, s) = stem("off"), FRAMES
    s = s[:, :2].copy()
    parts = [off.cross_gradient(s), off.temporal_difference(a, b)]
    np.testing.assert_array_equal(off.released_features(s, a, b), np.concatenate(parts, 1))


@pytest.mark.parametrize("noise", ["carried", "standing"])
def test_residual_rate_is_the_linearised_residual(stem, noise):
    """Of g; for noise that stands still less grad N . v, N = g - D."""
    off, brightness, (a, b, d) = stem("off"), stem("brightness"), FRAMES
    rate, n_next = off.residual_rate(a, b, d, FLOW, noise=noise)
    want = brightness.linearised_residual(*brightness.gradient(a), off.temporal_difference(a, b), FLOW)
    if noise == "standing":
        want = want - brightness.linearised_residual(*brightness.gradient(a - d), 0 * a, FLOW)
    close(rate, want)
    close(n_next, a - d + rate)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_multiscale_endpoint_error_is_the_weighted_sum_over_its_levels(stem, reduction):
    """Targets averaged over 2 x 3 pixels: u divided by 3, v by 2."""
    losses = stem("losses")
    fine, target = maps(2, 2, 6, 9, n=2)
    coarse = maps(2, 2, 3, 3, seed=1)[0]
    means = target.reshape(2, 2, 3, 2, 3, 3).mean((3, 5)) / np.array([3, 2]).reshape(2, 1, 1)
    parts = [losses.endpoint_error(*pair, reduction=reduction) for pair in ((coarse, means), (fine, target))]
    got = losses.multiscale_endpoint_error([coarse, fine], target, alpha=(0.3, 2.0), reduction=reduction)
    assert got == pytest.approx(0.3 * float(parts[0]) + 2 * float(parts[1]), rel=1e-14)


def test_mean_class_accuracy_is_the_mean_of_the_classes_present(stem):
    rng = np.random.default_rng(0)
    scores, label = rng.normal(size=(40, 5)), rng.choice([0, 1, 3], 40)
    each = stem("metrics").per_class_accuracy(scores, label)
    assert np.isnan(each).tolist() == [False, False, True, False, True]
    assert stem("metrics").mean_class_accuracy(scores, label) == pytest.approx(np.nanmean(each), rel=1e-15)


def test_consensus_then_cross_entropy_is_the_video_s_loss(stem):
    """OFF18 (8), (9): one softmax, of the mean score."""
    losses, rng = stem("losses"), np.random.default_rng(0)
    scores, label = rng.normal(size=(4, 6, 5)), np.array([0, 4, 2, 2])
    mean = scores.mean(1)
    want = -(mean - np.log(np.exp(mean).sum(1, keepdims=True)))[np.arange(4), label].mean()
    got = losses.cross_entropy(losses.consensus(scores), label, reduction="mean")
    assert got == pytest.approx(want, rel=1e-14)
