"""Rows of stem `metrics`: the fields are explained in `row.py`."""

import numpy as np

from motionspec.refimpl import losses, metrics
from motionspec.refimpl.row import Args, Equation, Fill, change
from motionspec.refimpl.rows_losses import clip_flows, scores_and_label


def _classified(fill: Fill, N: int, K: int) -> Args:
    """Scores and labels; of several samples the first is classified rightly, so that not even one case expects 0."""
    inputs = scores_and_label("N", "K")(fill, N=N, K=K)
    if N > 1:
        inputs["label"][0] = np.argmax(inputs["scores"][0])
    return inputs


def _images(fill: Fill, N: int, C: int, H: int, W: int) -> Args:
    return {name: fill(name, (N, C, H, W), "grey") for name in ("image", "target")}


_FLOW_BENCH = ({"N": 4, "T": 1, "H": 436, "W": 1024},)
_CLASS_BENCH = ({"N": 4096, "K": 101}, {"N": 20000, "K": 400})


# Mutants that do not fit on a line.


def _ties_count_for(scores: np.ndarray, label: np.ndarray, k: int = 1) -> np.ndarray:
    true = np.take_along_axis(scores, label[:, None], 1)
    return np.mean((scores > true).sum(1) < k)


def _first_of_equals(scores: np.ndarray, label: np.ndarray) -> np.ndarray:
    right = scores.argmax(1) == label
    return np.array([right[label == c].mean() if (label == c).any() else np.nan for c in range(scores.shape[1])])


def _predicted_too(scores: np.ndarray, label: np.ndarray) -> np.ndarray:
    return np.nansum(_first_of_equals(scores, label)) / len({*label, *scores.argmax(1)})


def _of_all_samples(scores: np.ndarray, label: np.ndarray) -> np.ndarray:
    return metrics.per_class_accuracy(scores, label) * np.bincount(label, minlength=scores.shape[1]) / len(label)


def _without_time(flow: np.ndarray, target: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """The angle between (u, v) and (u, v)."""
    turn = np.arctan2(flow[:, 1], flow[:, 0]) - np.arctan2(target[:, 1], target[:, 0])
    angles = np.degrees(np.abs((turn + np.pi) % (2 * np.pi) - np.pi))
    return angles.mean() if mask is None else angles[mask[:, 0]].mean()


def _either(
    flow: np.ndarray, target: np.ndarray, mask: np.ndarray | None = None, pixels: float = 3.0, share: float = 0.05
) -> np.ndarray:
    error, length = np.hypot(*(flow - target).swapaxes(0, 1)), np.hypot(*target.swapaxes(0, 1))
    wrong = (error > pixels) | (error > share * length)
    return wrong.mean() if mask is None else wrong[mask[:, 0]].mean()


def _released_mean(scores: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The mean of diagonal / row sum of the confusion matrix, whose classes are those present and those predicted."""
    predicted = scores.argmax(1)
    with np.errstate(invalid="ignore"):
        each = [
            np.divide(np.sum((label == c) & (predicted == c)), np.sum(label == c)) for c in np.union1d(label, predicted)
        ]
    return np.array(np.mean(each))


ROWS = (
    Equation(
        id="metrics.top_k",
        source="DC18 §4.1",
        summary="share of samples whose true class is among the k highest scores; ties count against",
        reference=metrics.top_k,
        dims="NK",
        inputs=_classified,
        variants=({"k": 1}, {"k": 2}),
        outputs=("accuracy",),
        degree=(0,),
        differentiable=(),
        bench=_CLASS_BENCH,
        bad=(
            (change(k=0), "k: expected at least 1, got 0"),
            (change(k=1.0), "k: expected an integer, got float"),
        ),
        mutants=(
            ("k one too small", lambda scores, label, k=1: _ties_count_for(scores, label, k - 1)),
            ("the lowest scores", lambda scores, label, k=1: metrics.top_k(-scores, label, k=k)),
            ("share of the errors", lambda scores, label, k=1: 1 - metrics.top_k(scores, label, k=k)),
            ("per cent", lambda scores, label, k=1: 100 * metrics.top_k(scores, label, k=k)),
            ("ties count for", _ties_count_for),
        ),
    ),
    Equation(
        id="metrics.mean_class_accuracy",
        source="released code of OFF18",
        summary="mean of the accuracies of the classes that are present",
        reference=metrics.mean_class_accuracy,
        dims="NK",
        inputs=_classified,
        outputs=("accuracy",),
        degree=(0,),
        differentiable=(),
        bench=_CLASS_BENCH,
        bad=(),
        mutants=(
            (
                "an absent class counts as 0",
                lambda scores, label: np.nansum(_first_of_equals(scores, label)) / scores.shape[1],
            ),
            ("ties go to the first class", lambda scores, label: np.nanmean(_first_of_equals(scores, label))),
            ("an absent class that is predicted counts as 0", _predicted_too),
            ("NaN as soon as an absent class is predicted (OFF18's released code)", _released_mean),
        ),
    ),
    Equation(
        id="metrics.per_class_accuracy",
        source="AF18 §4.3.3",
        summary="accuracy of each class by itself; NaN for an absent one",
        reference=metrics.per_class_accuracy,
        dims="NK",
        inputs=_classified,
        outputs=("accuracy",),
        degree=(0,),
        differentiable=(),
        bench=_CLASS_BENCH,
        bad=(),
        mutants=(
            ("an absent class has 0", lambda scores, label: np.nan_to_num(metrics.per_class_accuracy(scores, label))),
            ("share of all samples", _of_all_samples),
            ("ties go to the first class", _first_of_equals),
        ),
    ),
    Equation(
        id="metrics.endpoint_error",
        source="AF18 §4.4",
        summary="mean end-point error over the valid pixels",
        reference=metrics.endpoint_error,
        dims="NTHW",
        inputs=clip_flows,
        outputs=("error",),
        degree=(0,),
        differentiable=(),
        nonfinite=("flow", "target"),
        bench=_FLOW_BENCH,
        bad=(),
        mutants=(
            ("sum", lambda flow, target, mask=None: losses.endpoint_error(flow, target, mask=mask)),
            ("mask ignored", lambda flow, target, mask=None: metrics.endpoint_error(flow, target)),
        ),
    ),
    Equation(
        id="metrics.outlier_rate",
        source="not in the papers: KITTI 2015",
        summary="share of valid pixels off by more than 3 px and 5 % of the true length",
        reference=metrics.outlier_rate,
        dims="NTHW",
        inputs=clip_flows,
        # The second so that the share decides too; 0.371: no length on the grid of the inputs is a tie.
        variants=({"pixels": 3.0, "share": 0.05}, {"pixels": 1.0, "share": 0.371}),
        outputs=("rate",),
        degree=(0,),
        differentiable=(),
        nonfinite=("flow", "target"),
        bench=_FLOW_BENCH,
        bad=((change(pixels=0.0), "pixels: expected a finite number above 0, got 0.0"),),
        mutants=(
            (
                "mask ignored",
                lambda flow, target, mask=None, pixels=3.0, share=0.05: metrics.outlier_rate(
                    flow, target, pixels=pixels, share=share
                ),
            ),
            (
                "a tenth of the threshold",
                lambda flow, target, mask=None, pixels=3.0, share=0.05: metrics.outlier_rate(
                    flow, target, mask=mask, pixels=pixels / 10, share=share
                ),
            ),
            ("either threshold", _either),
        ),
    ),
    Equation(
        id="metrics.angular_error",
        source="not in the papers: Barron et al. 1994",
        summary="mean angle between (u, v, 1) of flow and target, in degrees",
        reference=metrics.angular_error,
        dims="NTHW",
        inputs=clip_flows,
        outputs=("angle",),
        degree=(0,),
        differentiable=(),
        nonfinite=("flow", "target"),
        bench=_FLOW_BENCH,
        bad=(),
        mutants=(
            ("without the 1 of (u, v, 1)", _without_time),
            (
                "radians",
                lambda flow, target, mask=None: np.radians(metrics.angular_error(flow, target, mask=mask)),
            ),
        ),
    ),
    Equation(
        id="metrics.psnr",
        source="OFF20 §7.3",
        summary="10 log10(peak^2 / MSE) of each image, averaged",
        reference=metrics.psnr,
        dims="NCHW",
        inputs=_images,
        variants=({"peak": 255.0}, {"peak": 1.0}),
        outputs=("psnr",),
        degree=(0,),
        differentiable=(),
        bench=({"N": 8, "C": 3, "H": 256, "W": 448},),
        bad=((change(peak=0), "peak: expected a finite number above 0, got 0"),),
        mutants=(
            (
                "of the MSE of all images",
                lambda image, target, *, peak: 10 * np.log10(peak**2 / np.mean((image - target) ** 2)),
            ),
            ("natural logarithm", lambda image, target, *, peak: metrics.psnr(image, target, peak=peak) * np.log(10)),
            ("peak not squared", lambda image, target, *, peak: 10 * np.log10(peak / np.mean((image - target) ** 2))),
        ),
    ),
)
