"""Losses: printed answers, masks that select instead of multiplying, the literal indicator against cross entropy."""

import importlib

import numpy as np
import pytest
from voices import both

from motionspec.flow import read_flow

losses = both("losses")

each_reduction = pytest.mark.parametrize("reduction", ["sum", "mean"])


def gradients(name, *arrays, **options):
    """d loss / d each floating-point argument, by autograd of the operator."""
    torch = pytest.importorskip("torch")
    args = [torch.tensor(a) for a in arrays]
    leaves = [a.requires_grad_(True) for a in args if a.is_floating_point()]
    options = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    out = getattr(importlib.import_module("motionspec.ops.losses"), name)(*args, **options)
    return [g.numpy() for g in torch.autograd.grad(out, leaves)]


def pixels(*vectors, dtype=float):
    """(1, 2, 1, W), one vector per pixel."""
    return np.array(vectors, dtype).T[None, :, None, :]


def flows(*shape):
    rng = np.random.default_rng(0)
    return rng.normal(size=shape), rng.normal(size=shape)


# endpoint_error


def test_endpoint_error_printed_answer(losses):
    """Distances 5, 13, 0 and 2: (3, 4), (-5, 12), none, (0, -2)."""
    flow = pixels((1, 1), (0, 0), (7, 7), (2, 1))
    target = pixels((4, 5), (-5, 12), (7, 7), (2, -1))
    assert losses.endpoint_error(flow, target) == 20
    assert losses.endpoint_error(flow, target, reduction="mean") == 5
    mask = np.array([True, False, True, True])[None, None, None]
    assert losses.endpoint_error(flow, target, mask=mask) == 7
    assert losses.endpoint_error(flow, target, mask=mask, reduction="mean") == 7 / 3  # by the valid pixels only


@each_reduction
def test_endpoint_error_is_symmetric_and_knows_no_direction(losses, reduction):
    flow, target = flows(2, 2, 3, 4)
    want = losses.endpoint_error(flow, target, reduction=reduction)
    for other in ((target, flow), (-flow, -target), (flow[:, ::-1].copy(), target[:, ::-1].copy())):
        assert losses.endpoint_error(*other, reduction=reduction) == pytest.approx(want, rel=1e-14)
    assert losses.endpoint_error(3 * flow, 3 * target, reduction=reduction) == pytest.approx(3 * want, rel=1e-14)
    assert losses.endpoint_error(flow, flow, reduction=reduction) == 0


@each_reduction
def test_endpoint_error_of_a_clip_is_that_of_its_frames(losses, reduction):
    """AF18 (1) sums over t like over p; a flow without a time axis is a clip of one frame."""
    flow, target = flows(2, 2, 3, 4, 5)
    mask = np.random.default_rng(1).random((2, 1, 3, 4, 5)) < 0.5
    want = losses.endpoint_error(flow, target, mask=mask)
    frames = [losses.endpoint_error(flow[:, :, t], target[:, :, t], mask=mask[:, :, t]) for t in range(3)]
    assert sum(frames) == pytest.approx(want, rel=1e-14)
    np.testing.assert_array_equal(
        losses.endpoint_error(flow[:, :, 0], target[:, :, 0], mask=mask[:, :, 0], reduction=reduction),
        losses.endpoint_error(flow[:, :, :1], target[:, :, :1], mask=mask[:, :, :1], reduction=reduction),
    )


def test_endpoint_error_mean_is_over_the_pixels_of_the_batch(losses):
    """One valid pixel of distance 4 in one sample, three of distance 0 in the other: 1, not (4 + 0)/2."""
    flow, mask = np.zeros((2, 2, 1, 3)), np.array([[True, False, False], [True, True, True]])[:, None, None]
    target = flow.copy()
    target[0, 0, 0, 0] = 4
    assert losses.endpoint_error(flow, target, mask=mask, reduction="mean") == 1


@each_reduction
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e10, 1.666666752e9])
def test_endpoint_error_masked_pixels_are_selected_out(losses, value, reduction):
    """Multiplied by 0 they would leave NaN. One component is enough to spoil a pixel."""
    flow, target = flows(1, 2, 2, 3)
    mask = np.ones((1, 1, 2, 3), bool)
    mask[0, 0, 1, 1] = False
    want = losses.endpoint_error(flow, target, mask=mask, reduction=reduction)
    for k in (0, 1):
        bad_flow, bad_target = flow.copy(), target.copy()
        bad_flow[0, k, 1, 1], bad_target[0, 1 - k, 1, 1] = value, value
        for arrays in ((bad_flow, target), (flow, bad_target), (bad_flow, bad_target)):
            assert losses.endpoint_error(*arrays, mask=mask, reduction=reduction) == want
            if losses.torch:
                got = gradients("endpoint_error", *arrays, mask=mask, reduction=reduction)
                assert (np.stack(got)[..., 1, 1] == 0).all()
                clean = gradients("endpoint_error", flow, target, mask=mask, reduction=reduction)
                np.testing.assert_array_equal(got, clean)


def test_endpoint_error_derivative_is_the_unit_vector_and_0_at_distance_0():
    """kornia's aepe has NaN there."""
    flow, target = pixels((1, 1), (7, 7), (0, 0)), pixels((4, 5), (7, 7), (0, 2.0))
    by_flow, by_target = gradients("endpoint_error", flow, target)
    np.testing.assert_allclose(by_flow, pixels((-0.6, -0.8), (0, 0), (0, -1)), rtol=1e-15)
    np.testing.assert_array_equal(by_target, -by_flow)
    np.testing.assert_array_equal(gradients("endpoint_error", flow, flow), np.zeros((2, *flow.shape)))


def test_endpoint_error_second_derivative_at_distance_0_is_0():
    torch = pytest.importorskip("torch")
    ops = importlib.import_module("motionspec.ops.losses")
    flow = torch.tensor(pixels((3, 4), (7, 7)), requires_grad=True)
    target = torch.tensor(pixels((0, 0), (7, 7)))
    (slope,) = torch.autograd.grad(ops.endpoint_error(flow, target), flow, create_graph=True)
    (second,) = torch.autograd.grad(slope[0, 0].sum(), flow)
    # (I - n n^T)/r with n = (0.6, 0.8), r = 5
    np.testing.assert_allclose(second.numpy(), pixels((0.64 / 5, -0.48 / 5), (0, 0)), rtol=1e-14)


@pytest.mark.parametrize("dtype, size", [(np.float32, 1e-30), (np.float32, 1e30), (np.float64, 1e-200)])
def test_endpoint_error_squares_neither_under_nor_overflow(losses, dtype, size):
    flow = pixels((3 * size, 4 * size), dtype=dtype)
    assert losses.endpoint_error(flow, 0 * flow) == pytest.approx(5 * size, rel=1e-6)
    if losses.torch:
        got, _ = gradients("endpoint_error", flow, 0 * flow)
        np.testing.assert_allclose(got, pixels((0.6, 0.8)), rtol=1e-6)


def test_endpoint_error_mean_over_no_pixel():
    """The oracle refuses it. The operator must not look: NaN, and a gradient of 0. The sum over no pixel is 0."""
    reference = importlib.import_module("motionspec.refimpl.losses")
    flow, target = flows(1, 2, 2, 3)
    mask = np.zeros((1, 1, 2, 3), bool)
    assert reference.endpoint_error(flow, target, mask=mask) == 0
    with pytest.raises(ValueError, match=r"^losses.endpoint_error: mask: expected at least one .* got none$"):
        reference.endpoint_error(flow, target, mask=mask, reduction="mean")
    torch = pytest.importorskip("torch")
    ops = importlib.import_module("motionspec.ops.losses")
    args = [torch.tensor(a) for a in (flow, target)]
    assert ops.endpoint_error(*args, mask=torch.tensor(mask)) == 0
    assert ops.endpoint_error(*args, mask=torch.tensor(mask), reduction="mean").isnan()
    for g in gradients("endpoint_error", flow, target, mask=mask, reduction="mean"):
        assert (g == 0).all()


def test_endpoint_error_nan_at_a_valid_pixel():
    """The oracle names it, the operator lets it through."""
    reference = importlib.import_module("motionspec.refimpl.losses")
    flow, target = flows(1, 2, 2, 3)
    mask = np.ones((1, 1, 2, 3), bool)
    mask[..., 0, 0] = False
    flow[..., 0, 0] = target[0, 1, 1, 2] = np.nan
    message = r"^losses.endpoint_error: target: expected finite values at valid pixels, got nan at \(0, 1, 1, 2\)$"
    with pytest.raises(ValueError, match=message):
        reference.endpoint_error(flow, target, mask=mask)
    with pytest.raises(ValueError, match=r"losses.endpoint_error: flow: .* got nan at \(0, 0, 0, 0\)"):
        reference.endpoint_error(flow, target)
    torch = pytest.importorskip("torch")
    ops = importlib.import_module("motionspec.ops.losses")
    args = [torch.tensor(a) for a in (flow, target)]
    assert ops.endpoint_error(*args, mask=torch.tensor(mask)).isnan()


def test_endpoint_error_of_no_flow_on_real_ground_truth(losses, realdata):
    """Middlebury RubberWhale: its known vectors are 1.256 px long on the mean; unknown ones stay NaN, as read."""
    flow, known = read_flow(realdata / "flow" / "middlebury" / "other-gt-flow" / "RubberWhale" / "flow10.flo")
    assert not known.all()
    target = flow[None].astype(float)
    got = losses.endpoint_error(np.zeros_like(target), target, mask=known[None, None], reduction="mean")
    assert got == pytest.approx(1.256, abs=5e-4)


# consensus, cross_entropy, intermediate_supervision


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_consensus_printed_answer(losses):
    """Three segments of a video, two classes; a second video of its own."""
    scores = np.array([[[1.0, 4], [2, 0], [6, -1]], [[0, 0], [0, 3], [0, 0]]])
    np.testing.assert_array_equal(losses.consensus(scores), [[3, 1], [0, 1]])


def test_consensus_ignores_the_order_of_the_segments_and_keeps_a_single_one(losses):
    scores = np.random.default_rng(0).normal(size=(2, 4, 3))
    np.testing.assert_allclose(losses.consensus(scores[:, ::-1].copy()), losses.consensus(scores), rtol=1e-14)
    np.testing.assert_array_equal(losses.consensus(scores[:, :1].copy()), scores[:, 0])


def test_consensus_is_taken_before_the_softmax(losses):
    """One sure segment outweighs two that lean the other way; as probabilities it would be outvoted."""
    scores = np.array([[[9.0, 0], [0, 2], [0, 2]]])
    assert losses.consensus(scores).argmax() == 0
    assert softmax(scores).mean(1).argmax() == 1


def test_cross_entropy_printed_answer(losses):
    """Odds 1 : 2 : 5 are probabilities 1/8, 1/4, 5/8; equal scores have 1/K."""
    scores = np.log([[1.0, 2, 5], [3, 3, 3]])
    got = losses.cross_entropy(scores, np.array([1, 2]))
    assert got == pytest.approx(np.log(4) + np.log(3), rel=1e-14)
    assert losses.cross_entropy(scores, np.array([1, 2]), reduction="mean") == pytest.approx(got / 2, rel=1e-14)
    assert losses.cross_entropy(np.array([[7.0]]), np.array([0])) == 0  # one class: nothing to get wrong


def test_cross_entropy_is_torch_s():
    torch = pytest.importorskip("torch")
    reference = importlib.import_module("motionspec.refimpl.losses")
    rng = np.random.default_rng(0)
    scores, label = 5 * rng.normal(size=(6, 4)), rng.integers(0, 4, 6)
    for reduction in ("sum", "mean"):
        want = torch.nn.functional.cross_entropy(torch.tensor(scores), torch.tensor(label), reduction=reduction)
        assert reference.cross_entropy(scores, label, reduction=reduction) == pytest.approx(want.item(), rel=1e-13)


def test_cross_entropy_knows_only_differences_of_scores(losses):
    scores, label = np.random.default_rng(0).normal(size=(2, 5)), np.array([3, 0])
    want = losses.cross_entropy(scores, label)
    assert losses.cross_entropy(scores + 64, label) == pytest.approx(want, rel=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_is_stable(losses, dtype):
    """exp(1e4) overflows and exp(-1e4) is 0 in either type; log of that 0 would be infinite."""
    scores = np.array([[1e4, 0, 0], [1e4, 0, 0], [-1e4, 1e4, 1e4]], dtype)
    assert losses.cross_entropy(scores[:1], np.array([0])) == 0
    assert losses.cross_entropy(scores[1:2], np.array([2])) == 1e4
    assert losses.cross_entropy(scores[2:], np.array([1])) == pytest.approx(np.log(2), rel=1e-6)
    assert softmax(scores)[1, 2] == 0
    if losses.torch:
        (got,) = gradients("cross_entropy", scores, np.array([0, 2, 1]))
        np.testing.assert_array_equal(got, [[0, 0, 0], [1, 0, -1], [0, -0.5, 0.5]])


def test_cross_entropy_gradient_is_the_softmax_less_the_truth():
    scores, label = np.random.default_rng(0).normal(size=(3, 4)), np.array([3, 0, 1])
    (got,) = gradients("cross_entropy", scores, label, reduction="mean")
    np.testing.assert_allclose(got, (softmax(scores) - np.eye(4)[label]) / 3, rtol=0, atol=1e-16)


@pytest.mark.parametrize("name", ["cross_entropy", "intermediate_supervision"])
@pytest.mark.parametrize("wrong", [-1, 3, -100, 2**40])
def test_label_outside_the_classes(name, wrong):
    """The oracle names it. The operator must not look: NaN, never the loss of some other class."""
    shape = (2, 3) if name == "cross_entropy" else (2, 2, 3)
    scores, label = np.random.default_rng(0).normal(size=shape), np.array([1, wrong])
    reference = importlib.import_module("motionspec.refimpl.losses")
    with pytest.raises(ValueError) as error:
        getattr(reference, name)(scores, label)
    assert str(error.value) == f"losses.{name}: label: expected a class in 0 .. 2, got {wrong} at (1,)"
    torch = pytest.importorskip("torch")
    op = getattr(importlib.import_module("motionspec.ops.losses"), name)
    assert op(torch.tensor(scores), torch.tensor(label)).isnan()


def test_labels_of_any_integer_type(losses):
    scores = np.random.default_rng(0).normal(size=(2, 3))
    want = losses.cross_entropy(scores, np.array([2, 1]))
    for kind in (np.int32, np.uint8):
        assert losses.cross_entropy(scores, np.array([2, 1], kind)) == want


@each_reduction
def test_intermediate_supervision_adds_the_losses_of_the_levels(losses, reduction):
    scores, label = np.random.default_rng(0).normal(size=(4, 3, 5)), np.array([3, 0, 1, 4])
    levels = [losses.cross_entropy(scores[:, level].copy(), label, reduction=reduction) for level in range(3)]
    got = losses.intermediate_supervision(scores, label, reduction=reduction)
    assert got == pytest.approx(sum(levels), rel=1e-14)


def test_intermediate_supervision_reaches_every_level():
    """Each level learns from its own scores as if it were alone."""
    scores, label = np.random.default_rng(0).normal(size=(4, 3, 5)), np.array([3, 0, 1, 4])
    (got,) = gradients("intermediate_supervision", scores, label)
    for level in range(3):
        (alone,) = gradients("cross_entropy", scores[:, level], label)
        np.testing.assert_allclose(got[:, level], alone, rtol=0, atol=1e-15)
        assert np.abs(alone).max() > 0.1
