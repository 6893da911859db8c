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


def test_consensus_is_not_the_maximum(losses):
    """OFF's released code takes the maximum over the ten crops: one crop that is sure decides."""
    crops = np.array([[[3.0, 0], [0, 2], [0, 2]]])
    assert losses.consensus(crops).argmax() == 1
    assert crops.max(1).argmax() == 0


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


# multiscale_endpoint_error


def two_levels():
    """A 2 x 4 target, its 1 x 2 version with errors 0 and 5, and a full-size output that is 1 px off everywhere."""
    target = np.array([[[1.0, 3, 0, 0], [5, 7, 0, 0]], [[2, 2, 0, 0], [2, 2, 0, 0]]])[None]
    coarse = np.array([[[2.0, 3]], [[1, 4]]])[None]  # (4, 2)/2 is the left target, (0, 0) the right
    return [coarse, np.stack([target[:, 0], target[:, 1] + 1], axis=1)], target


def test_multiscale_endpoint_error_printed_answer(losses):
    flows, target = two_levels()
    assert losses.multiscale_endpoint_error(flows, target, alpha=(2.0, 0.5)) == 2 * 5 + 0.5 * 8
    assert losses.multiscale_endpoint_error(flows, target, alpha=(2.0, 0.5), reduction="mean") == 2 * 2.5 + 0.5
    # Not divided, the targets are (4, 2) and (0, 0).
    got = losses.multiscale_endpoint_error(flows, target, alpha=(2.0, 0.5), rescale=False)
    assert got == pytest.approx(2 * (5**0.5 + 5) + 4, rel=1e-15)
    # Without the 7 the left mean is (3, 2); without the right half only the left coarse pixel is left.
    mask = np.array([[True, True, False, False], [True, False, False, False]])[None, None]
    assert losses.multiscale_endpoint_error(flows, target, alpha=(2.0, 0.5), mask=mask) == 2 * 0.5 + 0.5 * 3
    assert losses.multiscale_endpoint_error(flows, target, alpha=(2.0, 0.5), mask=mask, reduction="mean") == 1.5


def test_multiscale_endpoint_error_divides_u_by_the_ratio_of_widths_and_v_by_that_of_heights(losses):
    target = np.full((1, 2, 2, 4), 8.0)
    assert losses.multiscale_endpoint_error([np.array([2.0, 4]).reshape(1, 2, 1, 1)], target, alpha=[1.0]) == 0


@pytest.mark.parametrize("ratio", [1, 2, 4])
def test_multiscale_endpoint_error_a_zoom_is_the_same_zoom_on_every_grid(losses, ratio):
    """Flow (0.25 x, -0.5 y) from the map's corner, x = column + 1/2, is that at any resolution."""

    def zoom(H, W):
        y, x = np.mgrid[:H, :W] + 0.5
        return np.stack([0.25 * x, -0.5 * y])[None]

    assert losses.multiscale_endpoint_error([zoom(8 // ratio, 4 // ratio)], zoom(8, 4), alpha=[1.0]) == 0


@each_reduction
def test_multiscale_endpoint_error_of_one_full_size_output_is_the_endpoint_error(losses, reduction):
    flow, target = flows(2, 2, 3, 4)
    mask = np.random.default_rng(1).random((2, 1, 3, 4)) < 0.5
    want = 0.25 * losses.endpoint_error(flow, target, mask=mask, reduction=reduction)
    got = losses.multiscale_endpoint_error([flow], target, alpha=[0.25], mask=mask, reduction=reduction)
    assert got == pytest.approx(float(want), rel=1e-15)


def test_multiscale_endpoint_error_rescale_false_is_flownet_s():
    """Targets by average pooling in pixels of the full grid, EPE summed and divided by the batch."""
    torch = pytest.importorskip("torch")
    ops = importlib.import_module("motionspec.ops.losses")
    rng = np.random.default_rng(0)
    target = torch.tensor(rng.normal(size=(2, 2, 8, 12)))
    outputs = [torch.tensor(rng.normal(size=(2, 2, 8 // k, 12 // k))) for k in (4, 2, 1)]
    alpha = (0.08, 0.02, 0.005)
    want = 0.0
    for output, weight in zip(outputs, alpha, strict=True):
        scaled = torch.nn.functional.adaptive_avg_pool2d(target, output.shape[2:])
        want += weight * (output - scaled).norm(2, 1).sum() / 2
    got = ops.multiscale_endpoint_error(outputs, target, alpha=alpha, rescale=False) / 2
    assert got.item() == pytest.approx(want.item(), rel=1e-14)


@each_reduction
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e10])
def test_multiscale_endpoint_error_masked_pixels_are_selected_out(losses, value, reduction):
    """Also in a coarse output, where no valid pixel is covered."""
    outputs, target = two_levels()
    mask = np.ones((1, 1, 2, 4), bool)
    mask[..., 2:] = mask[..., 1, 1] = False
    options = {"alpha": (2.0, 0.5), "mask": mask, "reduction": reduction}
    want = losses.multiscale_endpoint_error(outputs, target, **options)
    spoiled = [outputs[0].copy(), np.where(mask, outputs[1], value)]
    spoiled[0][..., 1] = value
    spoiled_target = np.where(mask, target, value)
    assert losses.multiscale_endpoint_error(spoiled, spoiled_target, **options) == want
    if losses.torch:
        found = []
        for arrays in ([*outputs, target], [*spoiled, spoiled_target]):
            leaves = [losses.torch.tensor(a, requires_grad=True) for a in arrays]
            tensors = options | {"mask": losses.torch.tensor(mask)}
            loss = losses.module.multiscale_endpoint_error(leaves[:2], leaves[2], **tensors)
            found.append(losses.torch.autograd.grad(loss, leaves))
        for clean, dirty in zip(*found, strict=True):
            np.testing.assert_array_equal(dirty, clean)
        assert (found[1][0][..., 1] == 0).all()
        assert (found[1][2].numpy()[~np.broadcast_to(mask, target.shape)] == 0).all()


def test_multiscale_endpoint_error_gradient_of_the_target_is_shared_by_the_pixels_of_the_mean():
    """Three valid pixels make the coarse target (3, 2)/2 = (1.5, 1): a third each, halved, along (-1, 0)."""
    torch = pytest.importorskip("torch")
    ops = importlib.import_module("motionspec.ops.losses")
    flows, target = two_levels()
    mask = np.array([[True, True, False, False], [True, False, False, False]])[None, None]
    leaf = torch.tensor(target, requires_grad=True)
    ops.multiscale_endpoint_error([torch.tensor(flows[0])], leaf, alpha=[1.0], mask=torch.tensor(mask)).backward()
    np.testing.assert_allclose(leaf.grad[0, 0], np.where(mask[0, 0], -1 / 6, 0), rtol=1e-15)
    assert (leaf.grad[0, 1] == 0).all()


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"flows": np.zeros((1, 2, 1, 2))}, "flows: expected a list or tuple, got {array}"),
        ({"alpha": 0.5}, "alpha: expected a list or tuple, got float"),
        ({"flows": [], "alpha": []}, "alpha: expected a number for each of the 0 in flows, at least one, got 0"),
        ({"alpha": (0.5, -1.0)}, "alpha[1]: expected a finite number above 0, got -1.0"),
        ({"alpha": (True, 1.0)}, "alpha[0]: expected a number, got bool"),
        (
            {"target": np.zeros((1, 2, 2, 5))},
            "target: expected sides that are multiples of 1 and 2, those of flows[0], got (1, 2, 2, 5)",
        ),
    ],
)
def test_multiscale_endpoint_error_bad_input(losses, change, expected):
    flows, target = two_levels()
    arguments = {"flows": flows, "target": target, "alpha": (2.0, 0.5)} | change
    with pytest.raises((TypeError, ValueError)) as error:
        losses.multiscale_endpoint_error(**arguments)
    array = "Tensor" if losses.torch else "ndarray"
    assert str(error.value) == "losses.multiscale_endpoint_error: " + expected.format(array=array)


def test_multiscale_endpoint_error_nan_at_a_valid_pixel_is_named():
    reference = importlib.import_module("motionspec.refimpl.losses")
    flows, target = two_levels()
    flows[0][0, 1, 0, 1] = np.nan
    with pytest.raises(
        ValueError, match=r"flows\[0\]: expected finite values at valid pixels, got nan at \(0, 1, 0, 1\)"
    ):
        reference.multiscale_endpoint_error(flows, target, alpha=(2.0, 0.5))


# multitask


def test_multitask_printed_answer(losses):
    """Probability 1/4 and end-point errors 5 + 13: log 4 + 0.5 * 18."""
    scores, label = np.log([[1.0, 2, 5]]), np.array([1])
    flow, target = pixels((1, 1), (0, 0)), pixels((4, 5), (-5, 12))
    assert losses.multitask(scores, label, flow, target, lam=0.5) == pytest.approx(np.log(4) + 9, rel=1e-15)
    got = losses.multitask(scores, label, flow, target, lam=0.5, reduction="mean")
    assert got == pytest.approx(np.log(4) + 4.5, rel=1e-15)


@each_reduction
def test_multitask_is_the_sum_of_its_parts(losses, reduction):
    """AF18 (2), and (4) with outputs at several resolutions."""
    rng = np.random.default_rng(0)
    scores, label = rng.normal(size=(2, 5)), np.array([4, 0])
    flow, target = flows(2, 2, 3, 4, 6)
    mask = rng.random((2, 1, 3, 4, 6)) < 0.7
    recognition = losses.cross_entropy(scores, label, reduction=reduction)
    options = {"mask": mask, "reduction": reduction}
    want = recognition + 0.3 * losses.endpoint_error(flow, target, **options)
    got = losses.multitask(scores, label, flow, target, lam=0.3, **options)
    assert got == pytest.approx(float(want), rel=1e-14)

    outputs, frame = [rng.normal(size=(2, 2, 2, 3)), flow[:, :, 0].copy()], target[:, :, 0].copy()
    options = {"mask": mask[:, :, 0].copy(), "reduction": reduction, "alpha": (0.5, 2.0)}
    for rescale in (True, False):
        estimation = losses.multiscale_endpoint_error(outputs, frame, rescale=rescale, **options)
        got = losses.multitask(scores, label, outputs, frame, lam=0.3, rescale=rescale, **options)
        assert got == pytest.approx(float(recognition + 0.3 * estimation), rel=1e-14)


def test_multitask_literal_indicator_costs_wrong_answers_nothing(losses):
    """-1(y = y^) log p(y^) is the cross entropy of a right answer; the worse a wrong one, the more it should cost."""

    def literal(scores, label):
        return -np.sum((scores.argmax(1) == label) * np.log(softmax(scores).max(1)))

    flow = np.zeros((1, 2, 1, 1))
    for gap in (0.5, 2.0, 8.0):
        scores = np.array([[gap, 0.0]])
        right, wrong = (losses.multitask(scores, np.array([y]), flow, flow, lam=1.0) for y in (0, 1))
        assert right == pytest.approx(literal(scores, np.array([0])), rel=1e-12)
        assert literal(scores, np.array([1])) == 0
        assert wrong == pytest.approx(right + gap, rel=1e-12)


def test_multitask_teaches_a_wrong_answer():
    """The gradient in the scores: -1 + p for the true class where the literal loss has 0."""
    flow = np.zeros((1, 2, 1, 1))
    scores = np.array([[2.0, 0]])
    got, _, _ = gradients("multitask", scores, np.array([1]), flow, flow, lam=1.0)
    np.testing.assert_allclose(got, softmax(scores) - [[0, 1]], rtol=1e-14)


@pytest.mark.parametrize("lam", [0, -1.0, np.inf, None, "1"])
def test_multitask_needs_lambda(losses, lam):
    flow = np.zeros((1, 2, 1, 1))
    with pytest.raises(TypeError, match="lam"):
        losses.multitask(np.zeros((1, 2)), np.array([1]), flow, flow)
    with pytest.raises((TypeError, ValueError)) as error:
        losses.multitask(np.zeros((1, 2)), np.array([1]), flow, flow, lam=lam)
    number = isinstance(lam, int | float)
    expected = f"a finite number above 0, got {lam}" if number else f"a number, got {type(lam).__name__}"
    assert str(error.value) == f"losses.multitask: lam: expected {expected}"
