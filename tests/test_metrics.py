"""Metrics: printed answers, ties, absent classes, thresholds that are met but not passed, infinite PSNR."""

import importlib

import numpy as np
import pytest
from voices import both

from motionspec.flow import read_flow

metrics = both("metrics")


def pixels(*vectors, dtype=float):
    """(1, 2, 1, W), one vector per pixel."""
    return np.array(vectors, dtype).T[None, :, None, :]


def row_mask(*valid):
    """(1, 1, 1, W)."""
    return np.array(valid, bool)[None, None, None]


# Four samples of classes 0, 0, 1, 3: right, second, third with a tie, right. Class 2 is absent.
SCORES = np.array([[9.0, 1, 2, 3], [4, 5, 0, 0], [3, 2, 5, 2], [0, 0, 0, 1]])
LABEL = np.array([0, 0, 1, 3])


# top_k, per_class_accuracy, mean_class_accuracy


def test_top_k_printed_answer(metrics):
    """The third sample's class shares 2 with another and has 5 and 3 above it: fourth."""
    found = [float(metrics.top_k(SCORES, LABEL, k=k)) for k in (1, 2, 3, 4, 5)]
    assert found == [0.5, 0.75, 0.75, 1, 1]
    assert metrics.top_k(SCORES, LABEL) == 0.5


def test_top_k_ties_count_against(metrics):
    """A network that gives all classes one score knows nothing; the first of equals would be right in 1 of 4."""
    scores = np.zeros((4, 4))
    label = np.arange(4)
    assert (scores.argmax(1) == label).mean() == 0.25
    assert [float(metrics.top_k(scores, label, k=k)) for k in (1, 3, 4)] == [0, 0, 1]
    assert metrics.mean_class_accuracy(scores, label) == 0
    np.testing.assert_array_equal(metrics.per_class_accuracy(scores, label), np.zeros(4))


def test_top_k_does_not_depend_on_the_order_of_classes_or_samples(metrics):
    rng = np.random.default_rng(0)
    scores, label = np.round(rng.normal(size=(20, 6)), 1), rng.integers(0, 6, 20)
    classes, samples = rng.permutation(6), rng.permutation(20)
    for k in (1, 2, 5):
        want = metrics.top_k(scores, label, k=k)
        assert metrics.top_k(scores[:, classes], classes.argsort()[label], k=k) == want
        assert metrics.top_k(scores[samples], label[samples], k=k) == want


def test_per_class_accuracy_printed_answer(metrics):
    np.testing.assert_array_equal(metrics.per_class_accuracy(SCORES, LABEL), [0.5, 0, np.nan, 1])


def test_mean_class_accuracy_is_over_the_classes_present(metrics):
    """(1/2 + 0 + 1)/3. Of the samples half are right; with a 0 for the absent class it would be 3/8."""
    assert metrics.mean_class_accuracy(SCORES, LABEL) == 0.5
    more = np.concatenate([SCORES, SCORES[:1].repeat(6, axis=0)]), np.concatenate([LABEL, np.zeros(6, int)])
    assert metrics.mean_class_accuracy(*more) == pytest.approx((7 / 8 + 0 + 1) / 3, rel=1e-15)
    assert metrics.top_k(*more) == 0.8


def test_mean_class_accuracy_of_the_released_code_is_nan_for_an_absent_class(metrics):
    """Its arithmetic: the diagonal of the confusion matrix over its row sums, of the classes present or predicted."""
    scores, label = np.eye(3)[[0, 1, 2, 2]], np.array([0, 0, 1, 1])
    matrix = np.zeros((3, 3))
    np.add.at(matrix, (label, scores.argmax(1)), 1)
    with np.errstate(invalid="ignore"):
        released = np.mean(np.diag(matrix) / matrix.sum(1))
    assert np.isnan(released)
    assert metrics.mean_class_accuracy(scores, label) == 0.25


def test_mean_class_accuracy_of_balanced_classes_is_the_accuracy(metrics):
    rng = np.random.default_rng(0)
    scores, label = rng.normal(size=(30, 3)), np.arange(30) % 3
    want = float(metrics.top_k(scores, label))
    assert metrics.mean_class_accuracy(scores, label) == pytest.approx(want, rel=1e-15)


def test_a_single_class_is_always_right(metrics):
    assert metrics.top_k(np.zeros((2, 1)), np.zeros(2, int)) == 1
    assert metrics.mean_class_accuracy(np.zeros((2, 1)), np.zeros(2, int)) == 1


@pytest.mark.parametrize("name", ["top_k", "mean_class_accuracy", "per_class_accuracy"])
def test_unusable_samples_give_nan(name):
    """The oracle refuses NaN scores and labels outside the classes. The operator must not look and must not count."""
    reference = getattr(importlib.import_module("motionspec.refimpl.metrics"), name)
    torch = pytest.importorskip("torch")
    op = getattr(importlib.import_module("motionspec.ops.metrics"), name)
    spoiled = SCORES.copy()
    spoiled[1, 3] = np.nan
    for scores, label, place in (
        (spoiled, LABEL, "scores"),
        (SCORES, LABEL - 1, "label"),
        (SCORES, LABEL + 1, "label"),
    ):
        with pytest.raises(ValueError, match=f"metrics.{name}: {place}: expected"):
            reference(scores, label)
        assert op(torch.tensor(scores), torch.tensor(label)).isnan().any()
    if name == "per_class_accuracy":  # NaN stays in the class it touches
        np.testing.assert_array_equal(op(torch.tensor(spoiled), torch.tensor(LABEL)), [np.nan, 0, np.nan, 1])


# endpoint_error, outlier_rate, angular_error


def test_endpoint_error_printed_answer(metrics):
    flow, target = pixels((1, 1), (0, 0), (9, 9)), pixels((4, 5), (-5, 12), (np.nan, np.nan))
    assert metrics.endpoint_error(flow, target, mask=row_mask(1, 1, 0)) == 9


def test_endpoint_error_is_over_pixels_not_over_images(metrics):
    """An image with one valid pixel, 4 px off, beside one with three, 0 px off: 1, where RAFT's KITTI figure is 2."""
    flow, mask = np.zeros((2, 2, 1, 3)), np.array([[True, False, False], [True, True, True]])[:, None, None]
    target = flow.copy()
    target[0, 0] = 4
    assert metrics.endpoint_error(flow, target, mask=mask) == 1
    images = [metrics.endpoint_error(flow[n : n + 1], target[n : n + 1], mask=mask[n : n + 1]) for n in (0, 1)]
    assert np.mean(images) == 2


def test_outlier_rate_both_thresholds_must_be_passed(metrics):
    """(error, length): (5, 5) and (6, 100) are outliers; (2, 2) is below 3 px, (4, 100) below 5 %."""
    target = pixels((3, 4), (100, 0), (2, 0), (100, 0))
    flow = pixels((0, 0), (106, 0), (0, 0), (100, 4))
    assert metrics.outlier_rate(flow, target) == 0.5
    assert metrics.outlier_rate(flow, target, mask=row_mask(0, 1, 1, 1)) == pytest.approx(1 / 3, rel=1e-15)
    assert metrics.outlier_rate(flow, target, pixels=1.5) == 0.75
    assert metrics.outlier_rate(flow, target, share=0.03) == 0.75


@pytest.mark.parametrize(
    "flow, target, rate",
    [
        ((3, 0), (0, 0), 0),
        ((3.001, 0), (0, 0), 1),
        ((0, 96), (0, 100), 0),
        ((0, 94), (0, 100), 1),
        ((0, 5), (0, 80), 1),
    ],
)
def test_outlier_rate_a_threshold_itself_is_no_outlier(metrics, flow, target, rate):
    """Also where nothing moves: no division by the length."""
    assert metrics.outlier_rate(pixels(flow), pixels(target)) == rate


def test_outlier_rate_at_five_per_cent_exactly(metrics):
    """8 px of 160 are 5 %, in float64 too: 0.05 * 160 == 8."""
    assert metrics.outlier_rate(pixels((168.0, 0)), pixels((160.0, 0))) == 0
    assert metrics.outlier_rate(pixels((168.5, 0)), pixels((160.0, 0))) == 1


def test_angular_error_printed_answers(metrics):
    """(1, 0, 1) and (0, 0, 1): 45 degrees. (1, 0, 1) and (-1, 0, 1): 90. (1, 1, 1) and (-1, -1, 1): cos = -1/3."""
    flow, target = pixels((1, 0), (1, 0), (1, 1)), pixels((0, 0), (-1, 0), (-1, -1))
    assert metrics.angular_error(flow, target, mask=row_mask(1, 0, 0)) == pytest.approx(45, rel=1e-14)
    assert metrics.angular_error(flow, target, mask=row_mask(0, 1, 0)) == pytest.approx(90, rel=1e-14)
    want = np.degrees(np.arccos(-1 / 3))
    assert metrics.angular_error(flow, target, mask=row_mask(0, 0, 1)) == pytest.approx(want, rel=1e-14)
    assert metrics.angular_error(flow, target) == pytest.approx((135 + want) / 3, rel=1e-14)


def test_angular_error_is_the_arc_cosine_where_that_is_accurate(metrics):
    rng = np.random.default_rng(0)
    flow, target = rng.normal(size=(2, 2, 3, 4)), rng.normal(size=(2, 2, 3, 4))
    dot = (flow * target).sum(1) + 1
    cosine = dot / np.sqrt(((flow**2).sum(1) + 1) * ((target**2).sum(1) + 1))
    want = np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean()
    assert metrics.angular_error(flow, target) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("dtype, worst", [(np.float32, 0.02), (np.float64, 1e-6)])
def test_angular_error_of_equal_flows_is_exactly_0(metrics, dtype, worst):
    """The clamped arc cosine reads up to 0.03 degrees in float32, 1e-6 in float64."""
    flow = np.random.default_rng(0).normal(size=(1, 2, 20, 20)).astype(dtype)
    assert metrics.angular_error(flow, flow) == 0
    length = np.sqrt((flow**2).sum(1) + dtype(1))
    cosine = ((flow / length) ** 2).sum(1) + (1 / length) ** 2
    assert np.degrees(np.arccos(np.clip(cosine, -1, 1))).max() > worst


@pytest.mark.parametrize("name", ["endpoint_error", "outlier_rate", "angular_error"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e10])
def test_flow_metrics_select_masked_pixels_out(metrics, name, value):
    call = getattr(metrics, name)
    flow, target = pixels((1, 1), (0, 9), (7, 7)), pixels((4, 5), (-5, 12), (7, 8))
    mask = row_mask(1, 0, 1)
    want = call(flow, target, mask=mask)
    assert call(np.where(mask, flow, value), np.where(mask, target, value), mask=mask) == want


@pytest.mark.parametrize("name", ["endpoint_error", "outlier_rate", "angular_error"])
def test_flow_metrics_of_no_pixel_and_of_nan(name):
    """The oracle refuses both, the operator gives NaN: a NaN flow is no inlier."""
    flow, none = pixels((1, 1), (0, 9)), row_mask(0, 0)
    spoiled = flow.copy()
    spoiled[0, 0, 0, 1] = np.nan
    reference = getattr(importlib.import_module("motionspec.refimpl.metrics"), name)
    torch = pytest.importorskip("torch")
    op = getattr(importlib.import_module("motionspec.ops.metrics"), name)
    with pytest.raises(ValueError, match=f"^metrics.{name}: mask: expected at least one valid pixel"):
        reference(flow, flow, mask=none)
    with pytest.raises(ValueError, match=f"^metrics.{name}: flow: expected finite values at valid pixels"):
        reference(spoiled, flow)
    tensors = [torch.tensor(a) for a in (flow, spoiled)]
    assert op(tensors[0], tensors[0], mask=torch.tensor(none)).isnan()
    assert op(tensors[1], tensors[0]).isnan()
    assert op(tensors[0], tensors[1]).isnan()


@pytest.mark.parametrize("name", ["top_k", "endpoint_error", "outlier_rate", "angular_error", "psnr"])
def test_metrics_have_no_gradient(name):
    torch = pytest.importorskip("torch")
    op = getattr(importlib.import_module("motionspec.ops.metrics"), name)
    flow = torch.ones(1, 2, 1, 1, requires_grad=True)
    arguments = (torch.ones(1, 3, requires_grad=True), torch.tensor([0])) if name == "top_k" else (flow, 2 * flow)
    assert not op(*arguments, **({"peak": 1.0} if name == "psnr" else {})).requires_grad


def test_flow_metrics_on_real_ground_truth(metrics, realdata):
    """Middlebury RubberWhale against no motion: the error is the length, the angle its arc tangent."""
    flow, known = read_flow(realdata / "flow" / "middlebury" / "other-gt-flow" / "RubberWhale" / "flow10.flo")
    target, mask = flow[None].astype(float), known[None, None]
    still = np.zeros_like(target)
    length = np.hypot(*flow.astype(float))[known]
    assert metrics.endpoint_error(still, target, mask=mask) == pytest.approx(1.256, abs=5e-4)
    assert metrics.outlier_rate(still, target, mask=mask) == pytest.approx((length > 3).mean(), rel=1e-12)
    assert metrics.angular_error(still, target, mask=mask) == pytest.approx(
        np.degrees(np.arctan(length)).mean(), rel=1e-12
    )


# psnr


def test_psnr_printed_answer(metrics):
    """Off by 25.5 everywhere: MSE = 255^2/100, 20 dB. A peak ten times as high adds 20 dB."""
    image = np.zeros((1, 1, 2, 3))
    assert metrics.psnr(image, image + 25.5, peak=255) == pytest.approx(20, rel=1e-14)
    assert metrics.psnr(image, image + 25.5, peak=2550) == pytest.approx(40, rel=1e-14)
    assert metrics.psnr(image / 255, (image + 25.5) / 255, peak=1.0) == pytest.approx(20, rel=1e-14)


def test_psnr_is_averaged_over_images(metrics):
    """20 dB and 40 dB are 30 dB; the MSE of both together would give 22.97."""
    image = np.zeros((2, 3, 2, 2))
    target = image + np.array([0.1, 0.01]).reshape(2, 1, 1, 1)
    assert metrics.psnr(image, target, peak=1.0) == pytest.approx(30, rel=1e-12)
    assert 10 * np.log10(1 / ((image - target) ** 2).mean()) == pytest.approx(22.967, abs=1e-3)


def test_psnr_of_equal_images_is_infinite(metrics):
    image = np.random.default_rng(0).uniform(0, 255, (2, 1, 3, 3))
    assert metrics.psnr(image, image, peak=255) == np.inf
    half = image.copy()
    half[1] += 1
    assert metrics.psnr(image, half, peak=255) == np.inf  # one infinite image is enough


def test_psnr_needs_a_peak(metrics):
    with pytest.raises(TypeError, match="peak"):
        metrics.psnr(np.zeros((1, 1, 2, 2)), np.ones((1, 1, 2, 2)))


# mean_average_precision: one implementation


def mean_average_precision(detections, truths, **options):
    reference = importlib.import_module("motionspec.refimpl.metrics")
    detections = np.array(detections, float).reshape(-1, 7)
    return float(reference.mean_average_precision(detections, np.array(truths, float), **options))


BOX, FAR, FARTHER = (0, 0, 9, 9), (100, 100, 109, 109), (200, 200, 209, 209)


def test_map_printed_answer():
    """Class 1: right, wrong, right of three truths: (1 + 2/3 + 0)/3 = 5/9. Class 2: found. Mean 7/9."""
    truths = [(0, 1, *BOX), (0, 1, *FAR), (1, 1, *BOX), (1, 2, *BOX)]
    detections = [(0, 1, 0.9, *BOX), (0, 1, 0.8, *FARTHER), (0, 1, 0.7, *FAR), (1, 2, 0.1, *BOX)]
    assert mean_average_precision(detections, truths) == pytest.approx((5 / 9 + 1) / 2, rel=1e-15)
    assert mean_average_precision(detections[::-1], truths) == pytest.approx((5 / 9 + 1) / 2, rel=1e-15)


def test_map_precision_is_the_best_at_that_recall_or_above():
    """Wrong, right, right: precisions 0, 1/2, 2/3; both hits count 2/3."""
    truths = [(0, 1, *BOX), (0, 1, *FAR)]
    detections = [(0, 1, 0.9, *FARTHER), (0, 1, 0.8, *BOX), (0, 1, 0.7, *FAR)]
    assert mean_average_precision(detections, truths) == pytest.approx(2 / 3, rel=1e-15)


def test_map_class_and_image_must_match():
    assert mean_average_precision([(0, 2, 0.9, *BOX)], [(0, 1, *BOX)]) == 0
    assert mean_average_precision([(1, 1, 0.9, *BOX)], [(0, 1, *BOX)]) == 0
    # A detection of a class that has no truth anywhere costs nothing.
    assert mean_average_precision([(0, 1, 0.1, *BOX), (0, 2, 0.9, *BOX)], [(0, 1, *BOX)]) == 1
    assert mean_average_precision([], [(0, 1, *BOX)]) == 0


def test_map_of_a_class_missed_and_one_found():
    assert mean_average_precision([(0, 1, 0.9, *BOX)], [(0, 1, *BOX), (0, 7, *FAR)]) == 0.5


@pytest.mark.parametrize("width, hit", [(20, 1), (21, 0)])
def test_map_an_overlap_of_half_counts(width, hit):
    """100 pixels within 10 * width: boxes include both corners."""
    assert mean_average_precision([(0, 1, 0.9, 0, 0, width - 1, 9)], [(0, 1, *BOX)]) == hit


def test_map_a_second_detection_of_one_object_is_false():
    detections = [(0, 1, 0.9, *BOX), (0, 1, 0.8, *BOX), (0, 1, 0.7, *FAR)]
    assert mean_average_precision(detections, [(0, 1, *BOX), (0, 1, *FAR)]) == pytest.approx((1 + 2 / 3) / 2, rel=1e-15)


def test_map_a_taken_truth_leaves_the_next_one():
    """Two objects side by side, both detections nearer to the first: VOC would call the second false."""
    truths = [(0, 1, 0, 0, 9, 9), (0, 1, 3, 0, 12, 9)]
    detections = [(0, 1, 0.9, 0, 0, 9, 9), (0, 1, 0.8, 1, 0, 10, 9)]
    assert mean_average_precision(detections, truths) == 1


@pytest.mark.parametrize("order", [1, -1])
def test_map_a_detection_takes_the_truth_that_it_overlaps_most(order):
    """The first is 1 of the one object and 7/13 of the other; the second is 9/11 of the other, 6/14 of the one."""
    truths = [(0, 1, 0, 0, 9, 9), (0, 1, 3, 0, 12, 9)][::order]
    assert mean_average_precision([(0, 1, 0.9, 0, 0, 9, 9), (0, 1, 0.8, 4, 0, 13, 9)], truths) == 1


def test_map_tolerance_asks_less_of_small_objects():
    """A 10 x 10 object: 100/400 = 1/4 is enough with ImageNet's 10 px."""
    detection = [(0, 1, 0.9, 0, 0, 39, 9)]
    assert mean_average_precision(detection, [(0, 1, *BOX)]) == 0
    assert mean_average_precision(detection, [(0, 1, *BOX)], tolerance=10) == 1
    assert mean_average_precision([(0, 1, 0.9, 0, 0, 40, 9)], [(0, 1, *BOX)], tolerance=10) == 0


@pytest.mark.parametrize("step, hit", [(0, 1), (1, 0)])
@pytest.mark.parametrize("x, y", [(0, 0), (50, 0), (0, 50)])
@pytest.mark.parametrize("turned", [False, True])
def test_map_tolerance_goes_by_the_object_s_own_sides(x, y, turned, step, hit):
    """A 10 x 30 object, wherever it is: (10 * 30)/(20 * 40) = 300/800 is enough, 300/810 is not."""
    w, h, longer = (30, 10, (80 + step, 10)) if turned else (10, 30, (10, 80 + step))
    box, detected = (x, y, x + w - 1, y + h - 1), (x, y, x + longer[0] - 1, y + longer[1] - 1)
    assert mean_average_precision([(0, 1, 0.9, *detected)], [(0, 1, *box)], tolerance=10) == hit


def test_map_equal_scores_count_in_their_order():
    lines = [(0, 1, 0.5, *BOX), (0, 1, 0.5, *FAR)]
    assert mean_average_precision(lines, [(0, 1, *BOX)]) == 1
    assert mean_average_precision(lines[::-1], [(0, 1, *BOX)]) == 0.5


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"iou": 0}, "iou: expected a finite number above 0, got 0"),
        ({"tolerance": -1}, "tolerance: expected a finite number of at least 0, got -1"),
        ({"tolerance": float("inf")}, "tolerance: expected a finite number of at least 0, got inf"),
        (
            {"truths": np.array([(0, 1, *BOX), (0, 1, 50, 50, 10, 90)], float)},
            "truths: expected boxes x1, y1, x2, y2 with x1 <= x2 and y1 <= y2, got [50. 50. 10. 90.]",
        ),
        ({"truths": np.zeros((0, 6))}, "truths: expected shape (M, 6) with sides of at least 1, got (0, 6)"),
        ({"detections": np.zeros((1, 6))}, "detections: expected shape (N, 7) with sides of at least 1, got (1, 6)"),
    ],
)
def test_map_bad_input(options, expected):
    reference = importlib.import_module("motionspec.refimpl.metrics")
    with pytest.raises(ValueError) as error:
        reference.mean_average_precision(**{"detections": np.zeros((1, 7)), "truths": np.zeros((1, 6))} | options)
    assert str(error.value) == f"metrics.mean_average_precision: {expected}"
