"""The oracle judges implementations that nobody here wrote.

`python tests/test_peers.py > docs/peers.md` writes the table as a page. A peer whose package is not installed, or
older than the verdict, is skipped: `pip install 'motionspec[peers]'` brings them all.
"""

from pathlib import Path

import numpy as np
import pytest

from motionspec.cli.cases import DEFAULT_CASES, is_smooth
from motionspec.cli.check import judge
from motionspec.cli.runner import Runner
from motionspec.refimpl import detection, metrics

ADAPTERS = Path(__file__).with_name("adapters.py")
PAGE = Path(__file__).resolve().parents[1] / "docs" / "peers.md"

# fmt: off
# Equation, peer, adapter and what it is judged as: a variant, a dtype, "grad" where the gradients are judged too; then
# what differs in value, in the judge's words (empty: it agrees). The adapter's name begins with the package's.
PEERS = [
    ("brightness.constancy_residual", "scipy.ndimage.map_coordinates(cval=nan)", "scipy_constancy_residual", ""),
    ("brightness.gradient", "numpy.gradient", "numpy_gradient", ""),
    ("brightness.gradient", "torch.gradient", "torch_gradient grad", ""),
    ("brightness.gradient", "kornia.filters.spatial_gradient('diff')", "kornia_diff",
     "the border rule (the interior agrees)"),
    ("brightness.gradient", "kornia.filters.spatial_gradient", "kornia_spatial_gradient",
     "a known departure: Sobel / 8, zero padding; the border rule (the interior agrees)"),
    ("brightness.orthogonality", "torch.linalg.vecdot, F.cosine_similarity", "torch_orthogonality grad", ""),
    ("off.spatial_gradient", "F.conv2d with the printed kernels", "torch_conv2d grad", ""),
    ("off.spatial_gradient", "scipy.ndimage.prewitt", "scipy_prewitt",
     "a known departure: border repeated; the sign of Fy"),
    ("off.spatial_gradient", "skimage.filters.prewitt_v, prewitt_h", "skimage_prewitt",
     "a known departure: border repeated; the gain of Fx: 0.333333 times the expected; the gain of Fy: -0.333333 times "
     "the expected, opposite sign"),
    ("off.spatial_gradient", "scipy.ndimage.sobel(mode='constant')", "scipy_sobel kernel=sobel", "the sign of Fy"),
    ("off.spatial_gradient", "cv2.Sobel(borderType=BORDER_CONSTANT)", "opencv_sobel_zeros kernel=sobel",
     "the sign of Fy"),
    ("off.spatial_gradient", "cv2.Sobel", "opencv_sobel kernel=sobel",
     "the sign of Fy; the border rule (the interior agrees)"),
    ("off.spatial_gradient", "skimage.filters.sobel(axis=)", "skimage_sobel kernel=sobel",
     "a known departure: border repeated; the gain of Fx: 0.25 times the expected; the gain of Fy: -0.25 times the "
     "expected, opposite sign"),
    ("off.spatial_gradient", "kornia.filters.spatial_gradient", "kornia_spatial_gradient kernel=sobel",
     "a known departure: border repeated; the gain of Fx: 0.125 times the expected; the gain of Fy: -0.125 times the "
     "expected, opposite sign"),
    ("off.spatial_gradient", "kornia.filters.spatial_gradient", "kornia_spatial_gradient kernel=paper",
     "the variant: this is kernel='sobel'; the gain of Fx: 0.125 times the expected; the gain of Fy: -0.125 times "
     "the expected, opposite sign; the border rule (the interior agrees)"),
    ("off.cross_gradient", "scipy.ndimage.correlate(mode='constant')", "scipy_correlate", ""),
    ("off.temporal_difference", "numpy.diff", "numpy_diff", ""),
    ("tvl1.image_gradient", "scipy.ndimage.sobel(mode='constant')", "scipy_sobel kernel=paper", ""),
    ("tvl1.image_gradient", "scipy.ndimage.sobel(mode='nearest')", "scipy_sobel_nearest kernel=sobel_unit",
     "the gain of gx: 8 times the expected; the gain of gy: 8 times the expected"),
    ("tvl1.image_gradient", "cv2.Sobel(borderType=BORDER_REPLICATE, scale=1/8)",
     "opencv_sobel_unit kernel=sobel_unit", ""),
    ("tvl1.image_gradient", "kornia.filters.spatial_gradient", "kornia_spatial_gradient kernel=sobel_unit grad", ""),
    ("tvl1.image_gradient", "kornia.filters.spatial_gradient('diff')", "kornia_diff kernel=central grad", ""),
    ("tvl1.image_gradient", "numpy.gradient", "numpy_gradient kernel=central",
     "the border rule (the interior agrees)"),
    ("tvl1.flow_gradient", "scipy.ndimage.sobel(mode='constant')", "scipy_sobel kernel=paper", ""),
    ("tvl1.flow_gradient", "numpy.diff(append=the last)", "numpy_forward kernel=forward", ""),
    ("tvl1.divergence", "numpy.diff(prepend=0)", "numpy_backward border=paper", ""),
    ("tvl1.normalise", "skimage.exposure.rescale_intensity, each clip", "skimage_rescale_intensity", ""),
    ("tvl1.normalise", "cv2.normalize(NORM_MINMAX), each clip", "opencv_normalize", ""),
    ("tvl1.normalise", "kornia.enhance.normalize_min_max, each clip", "kornia_normalize_min_max",
     "a known departure: 1e-6 added to the range"),
    ("costvol.cosine", "F.cosine_similarity on Tensor.unfold", "torch_cosine_similarity border=zero grad", ""),
    ("costvol.marginals", "scipy.special.softmax", "scipy_softmax", ""),
    ("costvol.soft_displacement", "kornia.geometry.subpix.spatial_soft_argmax2d", "kornia_soft_argmax grad", ""),
    ("costvol.hard_displacement", "torch.argmax", "torch_argmax", "a known departure: ties to the first"),
    ("costvol.hard_displacement", "cv2.minMaxLoc", "opencv_min_max_loc", "a known departure: ties to the first"),
    ("costvol.displacement_map", "F.cosine_similarity, kornia's spatial_soft_argmax2d",
     "kornia_displacement_map grad", ""),
    ("warp.bilinear", "scipy.ndimage.map_coordinates", "scipy_map_coordinates", ""),
    ("warp.bilinear", "skimage.transform.warp", "skimage_warp outside=blend",
     "only where the longest side = 1 (4 of 8 such cases; all else agrees)"),
    ("warp.bilinear", "cv2.remap", "opencv_remap float32", "the variant: this is outside='blend'"),
    ("warp.bilinear", "cv2.remap", "opencv_remap float32 outside=blend", ""),
    ("warp.bilinear", "F.grid_sample(align_corners=True), padded by a line", "torch_grid_sample",
     "the variant: this is outside='blend'"),
    ("warp.bilinear", "F.grid_sample(align_corners=True), padded by a line", "torch_grid_sample outside=blend grad",
     ""),
    ("warp.bilinear", "F.grid_sample(align_corners=True)", "torch_grid_sample_unpadded outside=blend",
     "sides of length 1 (all else agrees)"),
    ("warp.bilinear", "F.grid_sample", "torch_grid_sample_default outside=blend",
     "a known departure: the grid of align_corners=True read with False"),
    ("warp.bilinear", "kornia.geometry.transform.remap(align_corners=True)", "kornia_remap outside=blend",
     "sides of length 1 (all else agrees)"),
    ("warp.bilinear", "kornia.geometry.transform.remap", "kornia_remap_default outside=blend",
     "a known departure: the grid of align_corners=True read with False; sides of length 1 (all else agrees)"),
    ("warp.motion", "scipy.ndimage.map_coordinates", "scipy_motion", ""),
    ("warp.difference", "scipy.ndimage.map_coordinates", "scipy_difference", ""),
    ("losses.consensus", "F.adaptive_avg_pool1d", "torch_avg_pool grad", ""),
    ("losses.cross_entropy", "F.cross_entropy", "torch_cross_entropy grad", ""),
    ("losses.cross_entropy", "scipy.special.log_softmax", "scipy_log_softmax", ""),
    ("losses.cross_entropy", "kornia.losses.focal_loss(gamma=0)", "kornia_focal_loss reduction=sum grad", ""),
    ("losses.cross_entropy", "kornia.losses.focal_loss(gamma=0)", "kornia_focal_loss reduction=mean",
     "a known departure: mean over the classes"),
    ("losses.intermediate_supervision", "F.cross_entropy of (N, K, L)",
     "torch_cross_entropy_of_levels reduction=sum grad", ""),
    ("losses.intermediate_supervision", "F.cross_entropy of (N, K, L)",
     "torch_cross_entropy_of_levels reduction=mean", "a known departure: mean over the levels"),
    ("losses.endpoint_error", "torch.linalg.vector_norm", "torch_vector_norm grad", ""),
    ("losses.endpoint_error", "kornia.metrics.aepe", "kornia_aepe grad", ""),
    ("losses.endpoint_error", "F.pairwise_distance", "torch_pairwise_distance reduction=mean",
     "a known departure: 1e-6 added to the difference"),
    ("metrics.top_k", "torchmetrics multiclass_accuracy(average='micro')", "torchmetrics_accuracy k=1 float32",
     "ties and kinks (the cases without any agree)"),
    ("metrics.top_k", "torchmetrics multiclass_accuracy(average='micro')", "torchmetrics_accuracy k=2 float32",
     "ties and kinks (the cases without any agree)"),
    ("metrics.top_k", "kornia.metrics.accuracy", "kornia_accuracy k=1 float32",
     "the gain of accuracy: 100 times the expected; ties and kinks (the cases without any agree)"),
    ("metrics.top_k", "kornia.metrics.accuracy", "kornia_accuracy k=2 float32",
     "the gain of accuracy: 100 times the expected; ties and kinks (the cases without any agree)"),
    ("metrics.mean_class_accuracy", "torchmetrics multiclass_accuracy(average='macro')", "torchmetrics_macro float32",
     "a known departure: an absent class that is predicted counts as 0"),
    ("metrics.per_class_accuracy", "torchmetrics multiclass_accuracy(average='none')",
     "torchmetrics_each_class float32",
     "a known departure: an absent class has 0; ties and kinks (the cases without any agree)"),
    ("metrics.per_class_accuracy", "kornia.metrics.confusion_matrix of the argmax", "kornia_confusion_matrix",
     "a known departure: ties go to the first class"),
    ("metrics.endpoint_error", "kornia.metrics.aepe", "kornia_mean_aepe", ""),
    ("metrics.angular_error", "torchmetrics spectral_angle_mapper of (u, v, 1)", "torchmetrics_spectral_angle",
     "the gain of angle: 0.0174533 times the expected; ties and kinks (the cases without any agree)"),
    ("metrics.psnr", "skimage.metrics.peak_signal_noise_ratio, each image", "skimage_psnr", ""),
    ("metrics.psnr", "cv2.PSNR, each image", "opencv_psnr", ""),
    ("metrics.psnr", "kornia.metrics.psnr", "kornia_psnr", "a known departure: of the MSE of all images"),
    ("metrics.psnr", "torchmetrics peak_signal_noise_ratio", "torchmetrics_psnr float32",
     "a known departure: of the MSE of all images"),
    ("metrics.psnr", "torchmetrics peak_signal_noise_ratio(dim=(1, 2, 3))", "torchmetrics_psnr_of_each float32", ""),
    ("metrics.psnr", "torchmetrics peak_signal_noise_ratio(dim=(1, 2, 3))", "torchmetrics_psnr_of_each peak=255.0",
     "nothing tried explains it. Closest is peak=255.0: 100 % of the values are off by less than 1 % of their "
     "scale"),
    ("pool3d.gradual", "F.max_pool3d(ceil_mode=True)", "torch_max_pool3d grad", ""),
    ("pool3d.late", "F.adaptive_max_pool3d", "torch_adaptive_max_pool3d grad", ""),
    ("pool3d.temporal_shift", "scipy.ndimage.shift", "scipy_shift", ""),
    ("pool3d.temporal_shift", "torch.roll", "torch_roll", "a known departure: ends wrap around"),
    ("layers.convolution", "scipy.signal.correlate('valid'), padded by a line", "scipy_correlate_channels", ""),
    ("layers.batch_norm", "F.batch_norm", "torch_batch_norm", ""),
    ("layers.max_pool", "scipy.ndimage.maximum_filter(cval=-inf), every second", "scipy_maximum_filter", ""),
    ("layers.max_pool", "scipy.ndimage.maximum_filter(mode='constant'), every second", "scipy_maximum_filter_zeros",
     "a known departure: padding counts as 0"),
    ("layers.average_pool", "scipy.ndimage.uniform_filter(mode='constant')", "scipy_uniform_filter", ""),
    ("layers.softmax", "scipy.special.softmax", "scipy_softmax_along", ""),
]
# fmt: on

# What has no row to be judged by: the test shows what the words say.
FACTS = [
    (
        "metrics.mean_average_precision",
        "kornia.metrics.mean_average_precision",
        "boxes without their last pixel; the mean of 11 recalls in place of the area",
    ),
    (
        "detection.nms",
        "kornia.geometry.bbox.nms",
        "boxes without their last pixel; numbers of boxes by score in place of a mask",
    ),
]


def asked(words):
    """Adapter, and the options of the judge."""
    adapter, *options = words.split()
    variant = dict(option.split("=") for option in options if "=" in option)
    return adapter, variant, "float32" if "float32" in options else "float64", "grad" in options


def page():
    lines = [
        "# Verdicts on implementations that nobody here wrote",
        "",
        "Written by `python tests/test_peers.py > docs/peers.md` from the table that `tests/test_peers.py` holds to.",
        "A line is `motionspec check EQUATION --impl tests/adapters.py:ADAPTER` with the variant and type named, and",
        "`--framework torch` for torch, kornia and torchmetrics. What differs is said in the judge's words. A peer",
        "that differs is not wrong: it is another function, and one must know that before one replaces the other.",
        "`F` is torch.nn.functional. torchvision's `ps_roi_pool` and `nms` are judged in `tests/test_detection.py`.",
        "",
        "| equation | peer | adapter | judged as | what differs |",
        "|---|---|---|---|---|",
    ]
    for equation, peer, words, differs in PEERS:
        adapter, variant, dtype, grad = asked(words)
        judged = [*(f"{k}={v}" for k, v in variant.items()), dtype, *["and gradients"] * grad]
        verdict = differs or "nothing: it agrees"
        lines.append(f"| `{equation}` | `{peer}` | `{adapter}` | {' '.join(judged)} | {verdict} |")
    lines += [f"| `{equation}` | `{peer}` | | by facts | {differs} |" for equation, peer, differs in FACTS]
    return "\n".join(lines) + "\n"


def package(name):
    """The module that an adapter needs, or a skip."""
    name = name.partition("_")[0].replace("opencv", "cv2")
    # OpenCV 4 rounds positions to 1/32 pixel; kornia 0.8 multiplies by the temperature.
    return pytest.importorskip(name, {"cv2": "5", "kornia": "0.9"}.get(name))


@pytest.mark.filterwarnings("default")  # theirs are not ours to mend
@pytest.mark.parametrize(
    "equation, peer, words, differs", PEERS, ids=[f"{e}-{'-'.join(words.split())}" for e, _, words, _ in PEERS]
)
def test_other_people_s_implementations(equation, peer, words, differs):
    adapter, variant, dtype, grad = asked(words)
    package(adapter)
    verdicts = judge(
        f"{ADAPTERS}:{adapter}",
        equation,
        Runner(None),
        variant=variant,
        dtypes=[dtype],
        framework="torch" if adapter.startswith(("torch", "kornia")) else "numpy",
        grad=grad,
    )
    assert not (grad and differs)
    smooth = sum(map(is_smooth, range(DEFAULT_CASES)))
    assert any(v.checked != "value" for v in verdicts) == grad
    for verdict in verdicts:
        assert verdict.note == (f"what differs: {differs}" if differs else "")
        assert verdict.ok == (not differs)
        assert verdict.cases == (DEFAULT_CASES if verdict.checked == "value" else smooth)


def test_the_page_is_the_table_s():
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python tests/test_peers.py > docs/peers.md`"


def test_every_adapter_is_in_the_table():
    names = {words.split()[0] for _, _, words, _ in PEERS}
    prefixes = ("numpy_", "scipy_", "skimage_", "opencv_", "kornia_", "torch_", "torchmetrics_")
    source = ADAPTERS.read_text(encoding="utf-8")
    written = {line[4:].partition("(")[0] for line in source.splitlines() if line.startswith("def ")}
    helpers = {"torch_positions", "torchmetrics_psnr"}
    assert {name for name in written if name.startswith(prefixes)} - helpers == names - helpers


def apart(rng, count):
    """Boxes that do not touch each other, both corner pixels included."""
    corner = 40.0 * np.stack(np.divmod(np.arange(count), 8), 1) + rng.integers(0, 5, (count, 2))
    return np.concatenate([corner, corner + rng.integers(10, 20, (count, 2))], 1)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("seed", range(5))
def test_kornia_s_mean_average_precision_is_that_of_eleven_recalls(seed):
    """With ten truths a class, recalls are tenths: 11 of theirs are 10 of ours and the best precision once more."""
    package("kornia")
    import torch
    from kornia.metrics import mean_average_precision

    rng = np.random.default_rng(seed)
    boxes, name = apart(rng, 20), np.repeat([1, 2], 10)
    found = rng.permutation(np.flatnonzero(rng.random(20) < 0.8))
    false = apart(rng, 6) + 1000
    guessed = np.concatenate([boxes[found] + rng.integers(-1, 2, (len(found), 1)), false])
    of = np.concatenate([name[found], rng.integers(1, 3, 6)])
    scores = rng.permutation(len(of)).astype(float)
    for c in (1, 2):  # the best precision of each class is 1: its first detection is right
        scores[np.flatnonzero(of == c)[0]] += 100
    ours = metrics.mean_average_precision(
        np.c_[np.zeros(len(of)), of, scores, guessed], np.c_[np.zeros(20), name, boxes]
    )
    last = np.array([0, 0, 1, 1])  # theirs exclude it
    lists = [[torch.tensor(a)] for a in (guessed + last, of, scores, boxes + last, name)]
    theirs, _ = mean_average_precision(*lists, n_classes=3)
    assert 0 < ours < 1
    assert (11 * float(theirs) - 1) / 10 == pytest.approx(float(ours), abs=1e-9)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_kornia_s_nms_is_that_of_boxes_without_their_last_pixel(threshold):
    package("kornia")
    import torch
    from kornia.geometry.bbox import nms

    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 20, (80, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(2, 12, (80, 2))], 1)
    scores = rng.permutation(80).astype(float)
    kept = {
        last: nms(torch.tensor(boxes + np.array([0, 0, last, last])), torch.tensor(scores), threshold).numpy()
        for last in (0, 1)
    }
    keep = np.flatnonzero(detection.nms(boxes, scores, threshold))
    np.testing.assert_array_equal(kept[1], keep[np.argsort(-scores[keep])])
    assert len(kept[0]) != len(kept[1])


if __name__ == "__main__":
    print(page(), end="")
