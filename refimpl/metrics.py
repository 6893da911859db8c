"""Scores of classifiers, flows and restored images, as the papers' tables report them (DC18 §4.1, AF18 §4, OFF20 §7).

They measure: no gradient is defined. To train, use `losses`.
"""

import math

import numpy as np

from motionspec.checks import count, message, positive, some
from motionspec.refimpl.checks import Array, arrays
from motionspec.refimpl.losses import endpoint_error as _endpoint_error
from motionspec.refimpl.losses import flow_pair, labelled


def _rank(G: Array, y: int) -> int:
    """How many other classes score at least as high as the true one: ties count against."""
    return sum(1 for c in range(len(G)) if c != y and G[c] >= G[y])


def top_k(scores: Array, label: np.ndarray, *, k: int = 1) -> Array:
    """Share of samples whose true class is among the k highest scores.

    Equation: the accuracies of the papers' tables; DC18 §4.1 (top-1, top-5).
    Shapes: scores (N, K), label (N,) of integers in 0 .. K-1, k >= 1 -> ().
    Units: a share in [0, 1], not per cent.
    Border: none.
    Kinks: ties count against: right is a class that fewer than k others equal or beat, so constant scores are wrong.
        k >= K counts everything as right.
    Deviations: argmax and topk break ties by position, which rewards a constant output for the first class
        (test_metrics.py::test_top_k_ties_count_against).
    Raises: TypeError or ValueError for dtypes, shapes, `k`, N = 0, values that are not finite, or labels outside. The
        operator does not look at values: NaN scores and labels outside give NaN
        (test_metrics.py::test_unusable_samples_give_nan).
    """
    count("metrics.top_k", "k", k)
    scores, label = labelled("metrics.top_k", scores, "N K", label)
    some("metrics.top_k", "scores", len(scores))
    return np.array(sum(_rank(G, y) < k for G, y in zip(scores, label, strict=True)) / len(scores))


def per_class_accuracy(scores: Array, label: np.ndarray) -> Array:
    """Top-1 accuracy of each class by itself.

    Equation: AF18 §4.3.3, Fig. 6.
    Shapes: scores (N, K), label (N,) of integers in 0 .. K-1 -> (K,).
    Units: shares in [0, 1]; NaN for a class that no sample has.
    Border: none.
    Kinks: ties count against, as in `top_k`.
    Deviations: none known.
    Raises: as `top_k`; N = 0 gives NaN for every class.
    """
    scores, label = labelled("metrics.per_class_accuracy", scores, "N K", label)
    K = scores.shape[1]
    right, count = np.zeros(K), np.zeros(K)
    for G, y in zip(scores, label, strict=True):
        right[y] += _rank(G, y) < 1
        count[y] += 1
    return np.array([right[c] / count[c] if count[c] else math.nan for c in range(K)])


def mean_class_accuracy(scores: Array, label: np.ndarray) -> Array:
    """Mean of the accuracies of the classes that are present: each class counts once, however many samples it has.

    Equation: what OFF18's released code prints as accuracy; equals `top_k` where all classes have as many samples.
    Shapes: scores (N, K), label (N,) of integers in 0 .. K-1 -> ().
    Units: a share in [0, 1].
    Border: none.
    Kinks: ties count against, as in `top_k`.
    Deviations: the released code (OFF18, pyActionRecog/utils/metrics.py) divides the diagonal of a confusion matrix by
        its row sums, also for a class that is predicted but absent: 0 / 0, and so the mean is NaN
        (test_metrics.py::test_mean_class_accuracy_of_the_released_code_is_nan_for_an_absent_class).
    Raises: as `top_k`.
    """
    scores, label = labelled("metrics.mean_class_accuracy", scores, "N K", label)
    some("metrics.mean_class_accuracy", "scores", len(scores))
    each = [a for a in per_class_accuracy(scores, label) if not math.isnan(a)]
    return np.array(math.fsum(each) / len(each))


def endpoint_error(flow: Array, target: Array, *, mask: np.ndarray | None = None) -> Array:
    """Mean end-point error over the valid pixels of the batch: `losses.endpoint_error` with `reduction="mean"`.

    Equation: AF18 §4.4, Table 3.
    Shapes: flow, target (N, 2, H, W) or (N, 2, T, H, W), mask (N, 1, H, W) or (N, 1, T, H, W) of bool -> ().
    Units: pixels.
    Border: none, it is pointwise.
    Kinks: outside the mask anything may stand.
    Deviations: RAFT's figure for KITTI is the mean of the images' means
        (test_metrics.py::test_endpoint_error_is_over_pixels_not_over_images).
    Raises: as `losses.endpoint_error`.
    """
    pair = flow_pair("metrics.endpoint_error", flow, target, mask, mean=True)
    return _endpoint_error(pair[0], pair[1], mask=pair[2], reduction="mean")


def outlier_rate(
    flow: Array, target: Array, *, mask: np.ndarray | None = None, pixels: float = 3.0, share: float = 0.05
) -> Array:
    """Share of valid pixels whose end-point error is above `pixels` and above `share` of the true length.

    Equation: KITTI's Fl, which goes with AF18 Table 3: > 3 px and > 5 % of |target|.
    Shapes: flow, target (N, 2, H, W) or (N, 2, T, H, W), mask (N, 1, H, W) or (N, 1, T, H, W) of bool -> ().
    Units: a share in [0, 1], not per cent.
    Border: none, it is pointwise.
    Kinks: an error that equals a threshold is not above it. The length multiplies: a target of 0 has no special case.
    Deviations: none known.
    Raises: as `losses.endpoint_error` for a mean, ValueError for `pixels` or `share` not above 0.
    """
    positive("metrics.outlier_rate", "pixels", pixels)
    positive("metrics.outlier_rate", "share", share)
    flow, target, valid = flow_pair("metrics.outlier_rate", flow, target, mask, mean=True)
    wrong = 0
    for n, _, *p in np.ndindex(valid.shape):
        if valid[n, 0, *p]:
            true = target[n, :, *p]
            error = math.hypot(*(flow[n, :, *p] - true))
            wrong += error > pixels and error > share * math.hypot(*true)
    return np.array(wrong / valid.sum())


def angular_error(flow: Array, target: Array, *, mask: np.ndarray | None = None) -> Array:
    """Mean angle between (u, v, 1) of the flow and of its target, over the valid pixels of the batch.

    Equation: the field's second measure beside the end-point error of AF18 Table 3 (Barron et al.).
    Shapes: flow, target (N, 2, H, W) or (N, 2, T, H, W), mask (N, 1, H, W) or (N, 1, T, H, W) of bool -> ().
    Units: degrees.
    Border: none, it is pointwise.
    Kinks: 0 for equal vectors, exactly: atan2(|a x b|, a . b). The arc cosine of a clamped cosine is the same angle,
        but reads 1e-6 degrees for equal vectors in float64 and 0.03 in float32
        (test_metrics.py::test_angular_error_of_equal_flows_is_exactly_0).
    Deviations: none known.
    Raises: as `losses.endpoint_error` for a mean.
    """
    flow, target, valid = flow_pair("metrics.angular_error", flow, target, mask, mean=True)
    angles = []
    for n, _, *p in np.ndindex(valid.shape):
        if valid[n, 0, *p]:
            (u, v), (a, b) = flow[n, :, *p], target[n, :, *p]
            cross = (v - b, a - u, u * (b - v) - v * (a - u))  # the last is u b - v a
            angles.append(math.degrees(math.atan2(math.hypot(*cross), u * a + v * b + 1)))
    return np.array(math.fsum(angles) / len(angles))


def psnr(image: Array, target: Array, *, peak: float) -> Array:
    """Peak signal-to-noise ratio, `10 log10(peak^2 / MSE)` of each image, averaged over the images.

    Equation: OFF20 §7.3, Table 9.
    Shapes: image, target (N, C, H, W) -> ().
    Units: decibel; `peak` in the units of the images (the paper does not give it: 255 for 8 bits).
    Border: none: all pixels and channels of an image make one MSE.
    Kinks: MSE 0 gives infinity, and then the mean is infinite.
    Deviations: the PSNR of the MSE of all images together is another, lower figure
        (test_metrics.py::test_psnr_is_averaged_over_images).
    Raises: TypeError or ValueError for dtypes, shapes, `peak`, N = 0, or values that are not finite.
    """
    positive("metrics.psnr", "peak", peak)
    image, target = arrays("metrics.psnr", image=(image, "N C H W"), target=(target, "N C H W"))
    some("metrics.psnr", "image", len(image))
    ratios = []
    for x, y in zip(image, target, strict=True):
        mse = math.fsum(((x - y) ** 2).ravel()) / x.size
        ratios.append(10 * math.log10(peak**2 / mse) if mse else math.inf)
    return np.array(sum(ratios) / len(ratios))


def mean_average_precision(detections: Array, truths: Array, *, iou: float = 0.5, tolerance: float = 0.0) -> Array:
    """Mean over the classes of the area under precision over recall, as ImageNet VID counts detections.

    Equation: OFF20 §6.3, Tables 7 and 8. One implementation, no operator: it runs once, on a table.
    Shapes: detections (D, 7), a line each: image, class, score, x1, y1, x2, y2; truths (M, 6): image, class, x1, y1,
        x2, y2, with M >= 1 -> (). Boxes include both corner pixels, so their widths are x2 - x1 + 1.
    Units: a share in [0, 1].
    Rules: the detections of an image, highest score first (equal ones in their order), each take the truth of their
        class, not yet taken, that they overlap most, if the intersection over union is at least `iou`; else they are
        false. Precision at a recall is the best at that recall or above (all points, no 11-point grid). A class without
        a truth does not count.
    Deviations: the paper says neither threshold nor interpolation. PASCAL VOC compares a detection with truths that are
        taken too (test_metrics.py::test_map_a_taken_truth_leaves_the_next_one). ImageNet's development kit asks less of
        small objects, min(iou, w h / ((w + 10)(h + 10))): that is `tolerance=10`.
    Raises: TypeError or ValueError for dtypes, shapes, `iou`, values that are not finite, a negative `tolerance`, or a
        truth that ends before it begins (a detection that does overlaps nothing).
    """
    operator = "metrics.mean_average_precision"
    positive(operator, "iou", iou)
    if not 0 <= tolerance < math.inf:
        raise ValueError(message(operator, "tolerance", "a finite number of at least 0", repr(tolerance)))
    # N, unlike other letters, may be 0: nothing was detected.
    (detections,) = arrays(operator, detections=(detections, "N 7"))
    (truths,) = arrays(operator, truths=(truths, "M 6"))
    inside_out = (truths[:, 4:] < truths[:, 2:4]).any(axis=1)
    if inside_out.any():
        expected = "boxes x1, y1, x2, y2 with x1 <= x2 and y1 <= y2"
        raise ValueError(message(operator, "truths", expected, truths[inside_out][0, 2:]))
    detections = detections[np.argsort(-detections[:, 2], kind="stable")]
    taken: set[int] = set()
    right = []
    for image, name, _, *box in detections:
        best, found = 0.0, -1
        for m, (its_image, its_name, *true) in enumerate(truths):
            if (its_image, its_name) != (image, name) or m in taken:
                continue
            w, h = true[2] - true[0] + 1, true[3] - true[1] + 1
            overlap = _intersection_over_union(box, true)
            if overlap >= min(iou, w * h / ((w + tolerance) * (h + tolerance))) and overlap > best:
                best, found = overlap, m
        right.append(found >= 0)
        taken.add(found)
    precisions = []
    for name in sorted(set(truths[:, 1])):
        hits = [hit for hit, line in zip(right, detections, strict=True) if line[1] == name]
        count = int((truths[:, 1] == name).sum())
        precision = [sum(hits[: n + 1]) / (n + 1) for n in range(len(hits))]
        # Recall grows by 1/count at each hit.
        precisions.append(math.fsum(max(precision[n:]) for n, hit in enumerate(hits) if hit) / count)
    return np.array(math.fsum(precisions) / len(precisions))


def _intersection_over_union(a: list[float], b: list[float]) -> float:
    """Of two boxes that include both corner pixels."""
    w, h = min(a[2], b[2]) - max(a[0], b[0]) + 1, min(a[3], b[3]) - max(a[1], b[1]) + 1
    if w <= 0 or h <= 0:
        return 0.0
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return float(w * h / (sum(areas) - w * h))
