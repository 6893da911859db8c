"""TV-L1 from coarse to fine (`tvl1.pyramid_flow`): answers on known motion, symmetries, and real pairs beside peers."""

import re
from pathlib import Path

import numpy as np
import pytest
from voices import both

from motionspec.flow import read_flow
from motionspec.synthetic import Layer, Scene, rotation, translation, waves, zoom

tvl1 = both("tvl1")

QUICK = {"n_scales": 3, "n_warps": 2, "n_iter": 5, "median": 3}


def moved(motion, size=(40, 52), seed=0):
    """Two grey images (1, 1, H, W), the flow from one to the other and where it is visible."""
    clip = Scene([Layer(waves(size, seed=seed), motion)], size).clip()
    return clip.frames[None, :, 0], clip.frames[None, :, 1], clip.flow[:, 0], clip.valid[0]


def error(flow, clip_flow, valid, border=4):
    """Mean end-point error on visible pixels away from the border."""
    inner = np.zeros_like(valid)
    inner[border:-border, border:-border] = True
    return np.hypot(*(flow[0] - clip_flow))[valid & inner].mean()


@pytest.mark.parametrize(
    "motion",
    [
        translation([0, 1.3], [0, -0.7]),
        translation([0, 9.0], [0, 0]),
        translation([0, 0], [0, -8.5]),
        rotation([0, 5]) @ zoom([1, 1.05]),
    ],
    ids=["subpixel", "right by 9", "up by 8.5", "turn and zoom"],
)
def test_known_motion_is_found(motion):
    """Far beyond one pixel; F0(p) = F1(p + flow(p)): texture that moves right has u > 0, that moves down v > 0."""
    pytest.importorskip("torch")
    import torch

    from motionspec.ops.tvl1 import pyramid_flow

    f0, f1, flow, valid = moved(motion, size=(64, 88))
    assert error(pyramid_flow(torch.tensor(f0), torch.tensor(f1)).numpy(), flow, valid, 10) < 0.1


def test_one_scale_does_not_find_a_large_motion_and_the_pyramid_does(tvl1):
    f0, f1, flow, valid = moved(translation([0, 7.0], [0, 0]), size=(48, 64))
    options = {"n_warps": 3, "n_iter": 10, "median": 3}
    assert error(tvl1.pyramid_flow(f0, f1, n_scales=1, **options), flow, valid) > 3
    assert error(tvl1.pyramid_flow(f0, f1, **options), flow, valid) < 0.5


def test_images_that_are_equal_or_without_texture_do_not_move(tvl1):
    f0, f1, _, _ = moved(translation([0, 1], [0, 0]))
    assert not tvl1.pyramid_flow(f0, f0, **QUICK).any()
    assert not tvl1.pyramid_flow(np.zeros_like(f0), np.full_like(f0, 200.0), **QUICK).any()


def test_transposed_images_have_the_transposed_flow(tvl1):
    """x and y are treated alike, at sides whose ratios to the next scale differ."""
    f0, f1, _, _ = moved(translation([0, 1.5], [0, -1]), size=(33, 50))
    flow = tvl1.pyramid_flow(f0, f1, **QUICK)
    turned = tvl1.pyramid_flow(f0.swapaxes(2, 3).copy(), f1.swapaxes(2, 3).copy(), **QUICK)
    np.testing.assert_allclose(turned[:, ::-1].swapaxes(2, 3), flow, rtol=0, atol=1e-9)


def test_an_offset_of_both_images_does_not_matter(tvl1):
    f0, f1, _, _ = moved(translation([0, 1.5], [0, -1]))
    np.testing.assert_allclose(
        tvl1.pyramid_flow(f0 + 50, f1 + 50, **QUICK), tvl1.pyramid_flow(f0, f1, **QUICK), rtol=0, atol=1e-9
    )


def test_default_parameters_expect_grey_levels(tvl1):
    f0, f1, flow, valid = moved(translation([0, 1], [0, 0]))
    options = {"n_scales": 2, "n_warps": 2, "n_iter": 20}
    assert error(tvl1.pyramid_flow(f0, f1, **options), flow, valid) < 0.2
    assert np.abs(tvl1.pyramid_flow(f0 / 255, f1 / 255, **options)).mean() < 0.05


def test_median_removes_a_lone_vector(tvl1):
    """A spot of noise that moves for itself: with the filter the flow around it stays that of the texture."""
    f0, f1, flow, valid = moved(translation([0, 1], [0, 0]))
    f1[0, 0, 20, 25] += 200
    options = {"n_scales": 1, "n_warps": 6, "n_iter": 4}
    raw, filtered = (tvl1.pyramid_flow(f0, f1, median=m, **options) for m in (1, 5))
    spot = np.s_[:, 18:23, 23:28]
    worst = [np.hypot(*(f[0] - flow)[spot]).max() for f in (raw, filtered)]
    assert worst[1] < worst[0] / 2


def test_tolerance_stops_a_sample_for_itself(tvl1):
    """A tolerance above all changes leaves one iteration of each warp; one sample's end is not another's."""
    f0, f1, _, _ = moved(translation([0, 1.5], [0, -1]))
    once = tvl1.pyramid_flow(f0, f1, **QUICK | {"n_iter": 1})
    np.testing.assert_allclose(tvl1.pyramid_flow(f0, f1, **QUICK, tolerance=100.0), once, rtol=0, atol=1e-12)
    still = np.concatenate([f0, f0])  # the second sample is done at once
    options = QUICK | {"n_iter": 30, "tolerance": 0.05}
    both_samples = tvl1.pyramid_flow(still, np.concatenate([f1, f0]), **options)
    np.testing.assert_allclose(both_samples[:1], tvl1.pyramid_flow(f0, f1, **options), rtol=0, atol=1e-12)
    assert not both_samples[1].any()
    all_iterations = tvl1.pyramid_flow(f0, f1, **QUICK | {"n_iter": 30})
    assert 1e-4 < np.abs(all_iterations - both_samples[:1]).max() < 1


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (2, 30), (8, 8), (9, 17)])
def test_small_images(tvl1, size):
    f0, f1, _, _ = moved(translation([0, 1], [0, 0]), size=size)
    flow = tvl1.pyramid_flow(f0, f1, n_warps=2, n_iter=3)
    assert flow.shape == (1, 2, *size) and np.isfinite(flow).all()


def test_operator_says_that_it_has_no_gradient():
    torch = pytest.importorskip("torch")
    from motionspec.ops.tvl1 import pyramid_flow

    f = torch.zeros(1, 1, 9, 9)
    with pytest.raises(ValueError, match=r"^tvl1.pyramid_flow: image1: expected a tensor without gradient .*detach"):
        pyramid_flow(f, f.clone().requires_grad_())
    with torch.no_grad():
        assert pyramid_flow(f, f.clone().requires_grad_()).requires_grad is False


# -- real pairs --------------------------------------------------------------------------------------------------------

PAGE = Path(__file__).resolve().parents[1] / "docs" / "pyramid_flow.md"
PAIRS = ("RubberWhale", "Grove2", "Venus", "alley_1")


def pair(realdata, name):
    """Two grey images as uint8, flow (2, H, W), valid (H, W)."""
    cv2 = pytest.importorskip("cv2")
    if name == "alley_1":
        root = realdata / "flow" / "sintel" / "training"
        images = [root / "clean" / name / f"frame_{k:04}.png" for k in (2, 3)]
        truth, invalid = root / "flow" / name / "frame_0002.flo", root / "invalid" / name / "frame_0002.png"
    else:
        root = realdata / "flow" / "middlebury"
        images = [root / "other-data" / name / f"frame{k}.png" for k in (10, 11)]
        truth, invalid = root / "other-gt-flow" / name / "flow10.flo", None
    flow, valid = read_flow(truth)
    if invalid is not None:
        valid = valid & (cv2.imread(str(invalid), cv2.IMREAD_GRAYSCALE) == 0)
    return *(cv2.imread(str(image), cv2.IMREAD_GRAYSCALE) for image in images), flow, valid


def end_point_error(flow, truth, valid):
    return float(np.hypot(*(flow - truth))[valid].mean())


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_real_pairs_are_not_worse_than_the_better_peer(realdata, name):
    """Ours with its defaults on all pairs; the peers with theirs, on the same grey images and pixels."""
    cv2, torch = pytest.importorskip("cv2"), pytest.importorskip("torch")
    registration = pytest.importorskip("skimage.registration")
    if not hasattr(cv2, "optflow"):
        pytest.skip("OpenCV without contrib has no DualTVL1")
    from motionspec.ops.tvl1 import pyramid_flow

    first, second, truth, valid = pair(realdata, name)
    ours = pyramid_flow(*(torch.tensor(f, dtype=torch.float32)[None, None] for f in (first, second)))[0].numpy()
    opencv = cv2.optflow.DualTVL1OpticalFlow_create().calc(first, second, None).transpose(2, 0, 1)
    v, u = registration.optical_flow_tvl1(*(f.astype(np.float32) / 255 for f in (first, second)))
    measured = [end_point_error(f, truth, valid) for f in (ours, opencv, np.stack([u, v]))]
    print(name, valid.mean(), measured)
    assert measured[0] <= min(measured[1:])
    line = re.search(rf"^\| {name} \|.*$", PAGE.read_text(), re.MULTILINE)
    assert line, f"docs/pyramid_flow.md has no line for {name}"
    printed = [float(cell) for cell in re.findall(r"\| (\d\.\d{3}) ", line.group())]
    assert measured == pytest.approx(printed, abs=0.002), "docs/pyramid_flow.md prints other numbers"
