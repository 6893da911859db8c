"""R-FCN's detection head, worked out by hand: bins, anchors, inclusive boxes, suppression, proposals."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from voices import both

from motionspec.refimpl import detection as spec

detection = both("detection")

Y, X = np.mgrid[:6, :8].astype(float)


def roi(*corners, n=0):
    """One region of sample n."""
    return np.array([[n, *corners]], float)


def per_bin(f, k):
    """Every score map shows the same f."""
    return np.broadcast_to(f, (1, k * k, *f.shape)).copy()


# -- position-sensitive RoI pooling ------------------------------------------------------------------------------------


def test_ps_roi_pool_reads_bin_i_j_from_map_c_k_plus_i_k_plus_j(detection):
    """Map m is constant m: 2 classes, k = 3."""
    x = np.arange(18.0).reshape(1, 18, 1, 1) + np.zeros((1, 18, 6, 8))
    got = detection.ps_roi_pool(x, roi(0, 0, 5, 5), k=3, spatial_scale=1.0)
    np.testing.assert_array_equal(got, np.arange(18.0).reshape(1, 2, 3, 3))


def test_ps_roi_pool_worked_out_by_hand(detection):
    """x + 10 y over columns 1 to 4, rows 0 to 2: two columns a bin; rows 0 to 1.5 and 1.5 to 3 both touch row 1."""
    got = detection.ps_roi_pool(per_bin(X + 10 * Y, 2), roi(1, 0, 4, 2), k=2, spatial_scale=1.0)
    np.testing.assert_array_equal(got[0, 0], [[1.5 + 5, 3.5 + 5], [1.5 + 15, 3.5 + 15]])


def test_ps_roi_pool_stride_of_16(detection):
    """Pixels 16 to 79 are cells 1 to 4, pixels 0 to 31 are cells 0 and 1. One pixel more touches the next cell."""
    got = detection.ps_roi_pool(per_bin(X + 10 * Y, 2), roi(16, 0, 79, 31), k=2)
    np.testing.assert_array_equal(got[0, 0], [[1.5, 3.5], [11.5, 13.5]])
    got = detection.ps_roi_pool(per_bin(X + 10 * Y, 1), roi(16, 0, 80, 31), k=1)
    np.testing.assert_array_equal(got[0, 0], [[(1 + 5) / 2 + 5]])


def test_ps_roi_pool_defaults_are_r_fcn_s(detection):
    """k = 7 and a stride of 16: 112 pixels are 7 cells, one each."""
    f = np.arange(7.0) + 10 * np.arange(7.0)[:, None]
    np.testing.assert_array_equal(detection.ps_roi_pool(per_bin(f, 7), roi(0, 0, 111, 111))[0, 0], f)


def test_ps_roi_pool_rounds_corners_half_away_from_zero(detection):
    row = X[:1]
    for first, last, want in ((0.5, 2.5, (1 + 3) / 2), (0.49, 2.49, (0 + 2) / 2), (1.5, 1.5, 2), (2.5, 2.5, 3)):
        got = detection.ps_roi_pool(per_bin(row, 1), roi(first, 0, last, 0), k=1, spatial_scale=1.0)
        assert got[0, 0, 0, 0] == want
    # -0.5 is -1: three columns of which one is outside. Not 0, which would leave columns 0 and 1 as well, but one bin:
    got = detection.ps_roi_pool(per_bin(row, 3), roi(-0.5, 0, 1, 0), k=3, spatial_scale=1.0)
    np.testing.assert_array_equal(got[0, 0, 0], [0, 0, 1])
    below = np.nextafter(0.5, 0)  # adding 0.5 to it gives 1
    assert detection.ps_roi_pool(per_bin(row, 1), roi(below, 0, below, 0), k=1, spatial_scale=1.0)[0, 0, 0, 0] == 0


def test_ps_roi_pool_reaches_the_last_row_and_column(detection):
    """A map of ones with last row 100: torchvision returns 1 everywhere."""
    f = np.ones((6, 8))
    f[-1] = 100
    got = detection.ps_roi_pool(per_bin(f, 2), roi(0, 0, 7, 5), k=2, spatial_scale=1.0)
    np.testing.assert_array_equal(got[0, 0], [[1, 1], [34, 34]])  # rows 3, 4, 5
    got = detection.ps_roi_pool(per_bin(f.T.copy(), 2), roi(0, 0, 5, 7), k=2, spatial_scale=1.0)
    np.testing.assert_array_equal(got[0, 0], [[1, 34], [1, 34]])
    # the last pixel alone
    assert detection.ps_roi_pool(per_bin(X + 10 * Y, 1), roi(7, 5, 7, 5), k=1, spatial_scale=1.0)[0, 0, 0, 0] == 57


def test_ps_roi_pool_outside_the_map_is_an_empty_bin(detection):
    """Columns 6 to 9 of 8: the left bin is 6 and 7, the right one empty. What is partly outside averages the rest."""
    got = detection.ps_roi_pool(per_bin(X, 2), roi(6, 0, 9, 5), k=2, spatial_scale=1.0)
    np.testing.assert_array_equal(got[0, 0], [[6.5, 0], [6.5, 0]])
    got = detection.ps_roi_pool(per_bin(X, 2), roi(5, 0, 10, 5), k=2, spatial_scale=1.0)
    np.testing.assert_array_equal(got[0, 0], [[6, 0], [6, 0]])
    got = detection.ps_roi_pool(per_bin(X, 2), roi(-1000, -1000, -500, 1e9), k=2, spatial_scale=1.0)
    np.testing.assert_array_equal(got, 0)


def test_ps_roi_pool_tiny_and_inverted_regions(detection):
    """At stride 16 a pixel is 1/16 of a cell, taken as 0.1; so is a region that ends before it begins."""
    f = per_bin(X, 1)
    assert detection.ps_roi_pool(f, roi(32, 0, 32, 0), k=1)[0, 0, 0, 0] == 2
    # 47/16 = 2.9375: 1/16 would end at 3, 0.1 ends at 3.0375 and touches the next cell
    assert detection.ps_roi_pool(f, roi(47, 0, 47, 0), k=1)[0, 0, 0, 0] == 2.5
    assert detection.ps_roi_pool(f, roi(48, 0, 17, 0), k=1)[0, 0, 0, 0] == 3
    # bins of less than a pixel share it
    got = detection.ps_roi_pool(per_bin(X, 3), roi(4, 0, 4, 0), k=3, spatial_scale=1.0)
    np.testing.assert_array_equal(got[0, 0], 4)


def test_ps_roi_pool_edges_are_exact(detection):
    """Bins of 1/7 of 21 cells: 3 cells each, none of the edges 3, 6, ... may round up into the next cell."""
    f = np.arange(63.0)[None]
    for start in range(0, 400, 16):
        got = detection.ps_roi_pool(per_bin(f, 7), roi(start, 0, start + 21 * 16 - 1, 0))
        want = start // 16 + 1 + 3 * np.arange(7)
        np.testing.assert_allclose(got[0, 0], np.broadcast_to(want, (7, 7)), rtol=1e-14)


def test_ps_roi_pool_takes_the_region_s_sample_and_no_other(detection):
    rng = np.random.default_rng(0)
    x, rois = (
        rng.normal(size=(3, 8, 5, 6)),
        np.array([[2, 0, 0, 5, 4], [0, 1, 1, 3, 3], [2, 2, 0, 4, 4], [1, 0, 0, 5, 4.0]]),
    )
    whole = detection.ps_roi_pool(x, rois, k=2, spatial_scale=1.0)
    for r, (n, *corners) in enumerate(rois):
        alone = detection.ps_roi_pool(x[int(n) :][:1], roi(*corners), k=2, spatial_scale=1.0)
        np.testing.assert_array_equal(whole[r : r + 1], alone)
    assert detection.ps_roi_pool(x, rois[:0], k=2, spatial_scale=1.0).shape == (0, 2, 2, 2)


def test_ps_roi_pool_of_a_constant_is_the_constant_inside_and_shifts_with_the_map(detection):
    rng = np.random.default_rng(0)
    rois = np.array([[0, 1, 1, 5, 4], [0, 2, 0, 2, 5.0]])
    np.testing.assert_array_equal(detection.ps_roi_pool(np.full((1, 9, 6, 8), 3.0), rois, k=3, spatial_scale=1.0), 3)
    x = rng.normal(size=(1, 9, 6, 8))
    moved = np.pad(x, ((0, 0), (0, 0), (2, 0), (1, 0)))
    np.testing.assert_array_equal(
        detection.ps_roi_pool(x, rois, k=3, spatial_scale=1.0),
        detection.ps_roi_pool(moved, rois + np.array([0, 1, 2, 1, 2]), k=3, spatial_scale=1.0),
    )


def test_ps_roi_pool_refuses_a_sample_that_there_is_not():
    """The operator does not look at values: NaN."""
    x = np.ones((2, 1, 3, 3))
    for N, n in ((4, -1.0), (4, 4.0), (4, 0.5), (1, 1.0)):
        with pytest.raises(
            ValueError, match=f"^detection.ps_roi_pool: rois: expected numbers of samples 0 to {N - 1}, got {n}$"
        ):
            spec.ps_roi_pool(np.ones((N, 1, 3, 3)), roi(0, 0, 2, 2, n=n), k=1, spatial_scale=1.0)
    torch = pytest.importorskip("torch")
    from motionspec.ops import detection as op

    rois = np.array([[n, 0, 0, 2, 2] for n in (0, -1, 2, 0.5, 1)] + [[0, 0, math.nan, 2, 2], [0, 0, 0, math.inf, 2]])
    got = op.ps_roi_pool(torch.tensor(x), torch.tensor(rois), k=1, spatial_scale=1.0).flatten()
    np.testing.assert_array_equal(got, [1, math.nan, math.nan, math.nan, 1, math.nan, math.nan])


def test_ps_roi_pool_nan_and_infinity_stay_where_they_are():
    torch = pytest.importorskip("torch")
    from motionspec.ops import detection as op

    x = torch.zeros(1, 4, 4, 4)
    x[..., 0, 0], x[..., 3, 3] = math.nan, math.inf
    x.requires_grad_(True)
    got = op.ps_roi_pool(x, torch.tensor(roi(0, 0, 3, 3)).float(), k=2, spatial_scale=1.0)
    np.testing.assert_array_equal(got[0, 0].detach(), [[math.nan, 0], [0, math.inf]])
    (gradient,) = torch.autograd.grad(got.sum(), x)
    want = np.kron(np.eye(4).reshape(4, 2, 2), np.ones((2, 2))) / 4  # of map (i, j): bin (i, j) of four pixels
    np.testing.assert_array_equal(gradient[0], want)


def test_ps_roi_pool_has_no_derivative_in_the_corners():
    """Zero wherever it exists. Autograd says None: it does not depend on them."""
    torch = pytest.importorskip("torch")
    from motionspec.ops import detection as op

    rois = torch.tensor(roi(0, 0, 3, 3)).requires_grad_(True)
    x = torch.ones(1, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.grad(op.ps_roi_pool(x, rois, 2, 1.0).sum(), rois, allow_unused=True) == (None,)


@settings(max_examples=60)
@given(data=st.data())
def test_ps_roi_pool_any_k_scale_and_region(data):
    """Elementwise, at the strides and regions that the row's cases do not have."""
    torch = pytest.importorskip("torch")
    from motionspec.ops import detection as op

    k, s = data.draw(st.integers(1, 4)), data.draw(st.sampled_from([1.0, 0.5, 1 / 16, 1 / 3, 0.1]))
    H, W, R = (data.draw(st.integers(1, 9)) for _ in range(3))
    x = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=(2, 2 * k * k, H, W))
    corner = st.integers(-8, 40).map(lambda n: n / 2 / s)
    rois = np.array([[r % 2, *(data.draw(corner) for _ in range(4))] for r in range(R)], float)
    got = op.ps_roi_pool(torch.tensor(x), torch.tensor(rois), k, s)
    np.testing.assert_allclose(got, spec.ps_roi_pool(x, rois, k, s), rtol=1e-12, atol=1e-12)


# -- anchors -----------------------------------------------------------------------------------------------------------

# as Faster R-CNN's generate_anchors.py prints them
NINE = [
    [-84, -40, 99, 55],
    [-176, -88, 191, 103],
    [-360, -184, 375, 199],
    [-56, -56, 71, 71],
    [-120, -120, 135, 135],
    [-248, -248, 263, 263],
    [-36, -80, 51, 95],
    [-80, -168, 95, 183],
    [-168, -344, 183, 359],
]


def test_anchors_of_faster_r_cnn(detection):
    np.testing.assert_array_equal(detection.anchors(height=1, width=1), NINE)


def test_anchors_follow_the_map_row_by_row(detection):
    got = detection.anchors(height=2, width=3, stride=16)
    assert got.shape == (2 * 3 * 9, 4)
    for y in range(2):
        for x in range(3):
            cell = got[(y * 3 + x) * 9 : (y * 3 + x + 1) * 9]
            np.testing.assert_array_equal(cell, np.array(NINE) + 16 * np.array([x, y, x, y]))


def test_anchors_of_another_stride_are_about_the_first_cell(detection):
    """Stride 8: 8 x 8 about 3.5; ratio 2: round(8 / sqrt 2) = 6 wide, 12 high, scaled by 2."""
    np.testing.assert_array_equal(
        detection.anchors(height=1, width=1, stride=8, scales=(1, 2), ratios=(1, 2)),
        [[0, 0, 7, 7], [-4, -4, 11, 11], [1, -2, 6, 9], [-2, -8, 9, 15]],
    )


@pytest.mark.parametrize(
    "change, says",
    [
        ({"height": 0}, "height: expected at least 1, got 0"),
        ({"stride": 1.5}, "stride: expected an integer, got float"),
        ({"scales": (8, -1)}, "scales: expected a finite number above 0, got -1"),
        ({"ratios": (0,)}, "ratios: expected a finite number above 0, got 0"),
        ({"ratios": ("1",)}, "ratios: expected a number, got str"),
    ],
)
def test_anchors_errors(detection, change, says):
    with pytest.raises((TypeError, ValueError)) as error:
        detection.anchors(**{"height": 1, "width": 1} | change)
    assert str(error.value) == f"detection.anchors: {says}"


# -- boxes -------------------------------------------------------------------------------------------------------------


def test_encode_boxes_worked_out_by_hand(detection):
    """Anchor 0..9 x 0..19 is 10 x 20 about (4.5, 9.5); box 10..19 x 0..9 is 10 x 10 about (14.5, 4.5)."""
    got = detection.encode_boxes(np.array([[10.0, 0, 19, 9]]), np.array([[0.0, 0, 9, 19]]))
    np.testing.assert_allclose(got, [[1, -0.25, 0, -math.log(2)]], rtol=0, atol=1e-15)


def test_encode_boxes_does_not_feel_py_faster_rcnn_s_half_pixel(detection):
    """Its centres are x1 + w / 2, for box and anchor alike; FGFA's 1e-14 more of width is below rounding."""
    boxes, anchors = np.array([[12.0, 3, 40, 30]]), np.array([[10.0, 0, 29, 39]])
    size, base = boxes[:, 2:] - boxes[:, :2] + 1, anchors[:, 2:] - anchors[:, :2] + 1
    theirs = (boxes[:, :2] + size / 2 - anchors[:, :2] - base / 2) / (base + 1e-14)
    np.testing.assert_allclose(detection.encode_boxes(boxes, anchors)[:, :2], theirs, rtol=1e-14)


def test_decode_boxes_worked_out_by_hand(detection):
    got = detection.decode_boxes(np.array([[1, -0.25, 0, -math.log(2)]]), np.array([[0.0, 0, 9, 19]]))
    np.testing.assert_allclose(got, [[10, 0, 19, 9]], rtol=0, atol=1e-14)


def test_decode_boxes_of_nothing_is_the_anchor(detection):
    """py-faster-rcnn: centre x1 + w / 2, corners centre -+ w / 2, so that x2 comes out as x2 + 1."""
    anchors = np.array(NINE, float)
    np.testing.assert_array_equal(detection.decode_boxes(0 * anchors, anchors), anchors)
    w = anchors[:, 2] - anchors[:, 0] + 1
    np.testing.assert_array_equal(anchors[:, 0] + w / 2 + w / 2, anchors[:, 2] + 1)


def test_decode_boxes_is_the_inverse(detection):
    rng = np.random.default_rng(0)
    boxes, anchors = (np.sort(rng.uniform(-50, 50, (40, 2, 2)), 1).reshape(40, 4) for _ in range(2))
    deltas = detection.encode_boxes(boxes, anchors)
    np.testing.assert_allclose(detection.decode_boxes(deltas, anchors), boxes, rtol=0, atol=1e-12)
    # neither depends on where the pair stands
    np.testing.assert_allclose(detection.encode_boxes(boxes + 7, anchors + 7), deltas, rtol=0, atol=1e-12)


def test_a_box_of_one_pixel_is_one_wide(detection):
    one, two = np.array([[3.0, 3, 3, 3]]), np.array([[3.0, 3, 4, 4]])
    np.testing.assert_allclose(detection.encode_boxes(two, one), [[0.5, 0.5, math.log(2), math.log(2)]], atol=1e-15)


def test_decode_boxes_does_not_clip_the_growth(detection):
    got = detection.decode_boxes(np.array([[0, 0, math.log(5000), 0]]), np.array([[0.0, 0, 0, 0]]))
    np.testing.assert_allclose(got, [[-2499.5, 0, 2499.5, 0]], rtol=1e-12)
    got = detection.decode_boxes(np.array([[0, 0, 1000.0, 0]]), np.array([[0.0, 0, 0, 0]]))
    np.testing.assert_array_equal(got, [[-math.inf, 0, math.inf, 0]])


def test_boxes_inside_out_are_refused():
    good, bad = np.array([[0.0, 0, 1, 1]]), np.array([[2.0, 0, 1, 1]])
    says = r"expected boxes x1, y1, x2, y2 with x1 <= x2 and y1 <= y2, got \[2. 0. 1. 1.\]$"
    for call in (
        lambda: spec.encode_boxes(bad, good),
        lambda: spec.nms(bad, np.ones(1), 0.5),
        lambda: spec.encode_boxes(good, bad),
        lambda: spec.decode_boxes(good, bad),
        lambda: spec.propose(good, np.ones(1), bad, height=4, width=4),
    ):
        with pytest.raises(ValueError, match=rf"^detection.\w+: (boxes|anchors): {says}"):
            call()


# -- suppression -------------------------------------------------------------------------------------------------------


def test_nms_worked_out_by_hand(detection):
    """Rows of ten pixels: 0..9 and 2..11 share 8 of 12, 0..9 and 5..14 share 5 of 15, 2..11 and 5..14 7 of 13."""
    boxes = np.array([[0.0, 0, 9, 0], [2, 0, 11, 0], [5, 0, 14, 0]])
    scores = np.array([0.7, 0.9, 0.8])
    np.testing.assert_array_equal(detection.nms(boxes, scores, threshold=0.5), [False, True, False])
    np.testing.assert_array_equal(detection.nms(boxes, scores, threshold=0.6), [False, True, True])
    np.testing.assert_array_equal(detection.nms(boxes, scores, threshold=0.7), [True, True, True])


def test_nms_a_removed_box_removes_nothing(detection):
    """The middle one is removed by the first and would have removed the last."""
    boxes = np.array([[0.0, 0, 9, 0], [2, 0, 11, 0], [5, 0, 14, 0]])
    np.testing.assert_array_equal(detection.nms(boxes, np.array([3.0, 2, 1]), threshold=0.5), [True, False, True])


def test_nms_ties(detection):
    """Of equal scores the first is kept; an overlap of exactly the threshold, here 5 of 15 and 1 of 2, is kept too."""
    same = np.array([[0.0, 0, 3, 3]] * 3)
    np.testing.assert_array_equal(detection.nms(same, np.array([1.0, 2, 2]), threshold=0.5), [False, True, False])
    np.testing.assert_array_equal(detection.nms(same, np.array([2.0, 2, 2]), threshold=0.5), [True, False, False])
    np.testing.assert_array_equal(detection.nms(same, np.zeros(3), threshold=1.0), [True, True, True])
    halves = np.array([[0.0, 0, 1, 0], [1, 0, 1, 0]])
    np.testing.assert_array_equal(detection.nms(halves, np.ones(2), threshold=0.5), [True, True])
    np.testing.assert_array_equal(detection.nms(halves, np.ones(2), threshold=0.499), [True, False])
    thirds = np.array([[0.0, 0, 9, 0], [5, 0, 14, 0]])
    np.testing.assert_array_equal(detection.nms(thirds, np.ones(2), threshold=1 / 3), [True, True])


def test_nms_boxes_are_inclusive(detection):
    """0..1 and 1..2 share pixel 1 of 3. Boxes without their last pixel would only touch."""
    boxes = np.array([[0.0, 0, 1, 0], [1, 0, 2, 0]])
    np.testing.assert_array_equal(detection.nms(boxes, np.ones(2), threshold=0.3), [True, False])
    apart = np.array([[0.0, 0, 1, 0], [2, 0, 3, 0], [3.5, 0, 3.75, 0]])  # the last is 1.25 wide and covers a quarter
    np.testing.assert_array_equal(detection.nms(apart, np.ones(3), threshold=1e-9), [True, True, False])


def test_nms_does_not_depend_on_the_order_of_the_input(detection):
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 20, (60, 2))
    boxes = np.concatenate([corner, corner + rng.integers(3, 12, (60, 2))], 1).astype(float)
    scores, order = rng.permutation(60).astype(float), rng.permutation(60)
    keep = detection.nms(boxes, scores, threshold=0.4)
    assert 5 < keep.sum() < 50
    np.testing.assert_array_equal(detection.nms(boxes[order], scores[order], threshold=0.4), keep[order])
    assert detection.nms(boxes[:0], scores[:0], threshold=0.4).shape == (0,)


@settings(max_examples=100)
@given(data=st.data())
def test_nms_and_propose_equal_the_reference(data):
    """On a lattice that is full of equal scores, equal boxes and overlaps of 1/2 and 1/3."""
    torch = pytest.importorskip("torch")
    from motionspec.ops import detection as op

    R = data.draw(st.integers(0, 12))
    draw = np.random.default_rng(data.draw(st.integers(0, 999))).integers
    corner, scores = draw(0, 6, (R, 2)), draw(0, 5, R) / 4
    boxes = np.concatenate([corner, corner + draw(0, 6, (R, 2))], 1).astype(float)
    threshold = data.draw(st.sampled_from([0.3, 1 / 3, 0.5, 0.7]))
    deltas = draw(-2, 3, (R, 4)) / 4
    options = {"min_size": data.draw(st.sampled_from([1.0, 3.0])), "threshold": threshold}
    options |= {"height": 7, "width": 9} | {k: data.draw(st.integers(1, 14)) for k in ("pre_nms", "post_nms")}
    for dtype in (torch.float64, torch.float32, torch.bfloat16):  # these values are exact in all three
        tensors = [torch.tensor(a, dtype=dtype) for a in (boxes, scores, deltas)]
        keep = op.nms(*tensors[:2], threshold=threshold)
        np.testing.assert_array_equal(keep, spec.nms(boxes, scores, threshold))
        got = op.propose(tensors[2], tensors[1], tensors[0], **options)
        want = spec.propose(deltas, scores, boxes, **options)
        for g, w in zip(got, want, strict=True):
            rounding = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 2**-8}[dtype]
            np.testing.assert_allclose(g.double(), w.astype(float), rtol=rounding, atol=rounding)
        assert [g.dtype for g in got] == [dtype, dtype, torch.bool]


# -- proposals ---------------------------------------------------------------------------------------------------------


def test_propose_worked_out_by_hand(detection):
    """Five anchors that stay as they are, in an image of 40 x 60, at most four to suppression and three out of it."""
    anchors = np.array([[0.0, 0, 19, 19], [2, 0, 21, 19], [30, 10, 69, 49], [5, 5, 19, 30], [20, 20, 39, 39]])
    scores = np.array([0.9, 0.95, 0.3, 0.99, 0.2])
    got = detection.propose(0 * anchors, scores, anchors, height=40, width=60, pre_nms=4, post_nms=3)
    # 3 is 15 wide and goes before the four are counted; 0 overlaps 1 by 18 of 22 and goes; 2 is clipped
    np.testing.assert_array_equal(got[0], [[2, 0, 21, 19], [30, 10, 59, 39], [20, 20, 39, 39]])
    np.testing.assert_array_equal(got[1], [0.95, 0.3, 0.2])
    np.testing.assert_array_equal(got[2], [True, True, True])


def test_propose_counts_before_and_after_suppression(detection):
    anchors = np.array([[0.0, 0, 19, 19], [2, 0, 21, 19], [30, 10, 69, 49], [5, 5, 19, 30], [20, 20, 39, 39]])
    scores = np.array([0.9, 0.95, 0.3, 0.99, 0.2])
    options = {"height": 40, "width": 60, "min_size": 16.0}
    named = {"deltas": 0 * anchors, "scores": scores, "anchors": anchors}
    boxes, found, valid = detection.propose(**named, pre_nms=3, post_nms=4, **options)
    np.testing.assert_array_equal(found, [0.95, 0.3, 0, 0])
    np.testing.assert_array_equal(valid, [True, True, False, False])
    np.testing.assert_array_equal(boxes[2:], 0)
    _, found, valid = detection.propose(0 * anchors, scores, anchors, post_nms=1, **options)
    np.testing.assert_array_equal(found, [0.95])
    np.testing.assert_array_equal(valid, [True])
    _, _, valid = detection.propose(anchors[:0], scores[:0], anchors[:0], post_nms=2, **options)
    np.testing.assert_array_equal(valid, [False, False])


def test_propose_small_is_below_the_smallest_size(detection):
    """15..30 is 16 wide; and a box outside of the image is a line."""
    anchors = np.array([[15.0, 0, 30, 15], [16, 0, 30, 15], [-40, 0, -20, 15]])
    for size, want in ((16.0, [True, False, False]), (15.0, [True, True, False]), (1.0, [True, True, True])):
        _, _, valid = detection.propose(
            0 * anchors, np.array([3.0, 2, 1]), anchors, height=40, width=60, min_size=size, post_nms=3, threshold=0.99
        )
        np.testing.assert_array_equal(valid, want)


def test_propose_is_its_parts(detection):
    rng = np.random.default_rng(0)
    anchors = detection.anchors(height=4, width=6, scales=(1, 2)).astype(float)
    deltas, scores = rng.normal(0, 0.3, (len(anchors), 4)), rng.permutation(len(anchors)) / len(anchors)
    got, found, valid = detection.propose(deltas, scores, anchors, height=64, width=96, threshold=0.5)
    boxes = np.clip(detection.decode_boxes(deltas, anchors), 0, [95, 63, 95, 63])
    large = np.flatnonzero((boxes[:, 2:] - boxes[:, :2] + 1 >= 16).all(1))
    kept = large[detection.nms(boxes[large], scores[large], threshold=0.5)]
    kept = kept[np.argsort(-scores[kept])]
    assert 20 < len(kept) < len(large) < len(anchors) and valid.sum() == len(kept)
    np.testing.assert_allclose(got[valid], boxes[kept], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found[valid], scores[kept])


@pytest.mark.parametrize(
    "change, says",
    [
        ({"height": 0}, "height: expected at least 1, got 0"),
        ({"post_nms": 2.0}, "post_nms: expected an integer, got float"),
        ({"min_size": 0}, "min_size: expected a finite number above 0, got 0"),
        ({"threshold": math.nan}, "threshold: expected a finite number above 0, got nan"),
        ({"scores": np.ones(3)}, "scores: expected shape (R) with R=2, got (3,)"),
        ({"anchors": np.ones((2, 5))}, "anchors: expected shape (R, 4) with R=2, got (2, 5)"),
    ],
)
def test_propose_errors(detection, change, says):
    arrays = {"deltas": np.ones((2, 4)), "scores": np.ones(2), "anchors": np.ones((2, 4))}
    options = {"height": 4, "width": 4} | {k: v for k, v in change.items() if k not in arrays}
    with pytest.raises((TypeError, ValueError)) as error:
        detection.propose(*(change.get(k, v) for k, v in arrays.items()), **options)
    assert str(error.value) == f"detection.propose: {says}"


def test_nms_errors(detection):
    for threshold, says in ((0, "a finite number above 0, got 0"), ("0.5", "a number, got str")):
        with pytest.raises((TypeError, ValueError)) as error:
            detection.nms(np.ones((1, 4)), np.ones(1), threshold=threshold)
        assert str(error.value) == f"detection.nms: threshold: expected {says}"
    with pytest.raises(ValueError) as error:
        detection.nms(np.ones((2, 4)), np.ones(1), threshold=0.5)
    assert str(error.value) == "detection.nms: scores: expected shape (R) with R=2, got (1,)"


# -- without values ----------------------------------------------------------------------------------------------------


def test_nms_and_propose_compile_and_do_not_look_at_values():
    torch = pytest.importorskip("torch")
    from motionspec.ops import detection as op

    boxes, scores = torch.tensor([[0.0, 0, 9, 9], [1, 0, 9, 9], [20, 20, 29, 29]]), torch.tensor([0.5, 0.9, 0.1])
    for function in (
        lambda boxes, scores: op.nms(boxes, scores, 0.5),
        lambda boxes, scores: op.propose(0 * boxes, scores, boxes, height=40, width=40, min_size=2, post_nms=2),
    ):
        torch.compiler.reset()
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(boxes, scores), function(boxes, scores))
        torch.compiler.reset()
        function(boxes.to("meta"), scores.to("meta"))  # there are no values to look at


def test_nms_of_nan(detection):
    """A box with NaN overlaps nothing; a NaN score counts as the highest."""
    torch = pytest.importorskip("torch")
    from motionspec.ops import detection as op

    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, math.nan], [0, 0, 9, 9]])
    assert op.nms(boxes, torch.tensor([1.0, 3, 2]), 0.5).tolist() == [False, True, True]
    assert op.nms(boxes, torch.tensor([math.nan, 3, 2]), 0.5).tolist() == [True, True, False]


# -- torchvision, where it works ---------------------------------------------------------------------------------------


@pytest.fixture
def torchvision_ops():
    """Importable is not enough: a wheel for another torch imports, or fails with RuntimeError, and has no operators."""
    torch = pytest.importorskip("torch")
    try:
        from torchvision import ops

        ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
        ops.ps_roi_pool(torch.zeros(1, 1, 2, 2), torch.zeros(1, 5), 1)
    except (ImportError, RuntimeError, NotImplementedError, AttributeError) as error:
        pytest.skip(f"no working torchvision: {type(error).__name__}")
    return ops


def test_torchvision_agrees_inside_and_differs_at_the_border(torchvision_ops):
    import torch

    rng = np.random.default_rng(0)
    x, rois = rng.normal(size=(2, 8, 12, 14)), np.array([[0, 1, 2, 9, 8], [1, 0, 0, 12, 10], [1, 3.2, 4.7, 6.1, 7]])
    last = np.array([0, 0, 0, 1, 1])  # theirs exclude it
    theirs = torchvision_ops.ps_roi_pool(torch.tensor(x), torch.tensor(rois + last), 2, 1.0)
    np.testing.assert_allclose(theirs, spec.ps_roi_pool(x, rois, 2, 1.0), rtol=1e-12, atol=1e-12)
    f, whole = np.ones((6, 8)), roi(0, 0, 7, 5)
    f[-1] = 100
    theirs = torchvision_ops.ps_roi_pool(torch.tensor(per_bin(f, 2)), torch.tensor(whole + last), 2, 1.0)
    assert (theirs == 1).all() and spec.ps_roi_pool(per_bin(f, 2), whole, 2, 1.0).max() == 34


def test_torchvision_nms_of_boxes_without_their_last_pixel(torchvision_ops):
    import torch

    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 20, (80, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(2, 12, (80, 2))], 1)
    scores = rng.permutation(80).astype(float)
    theirs = torchvision_ops.nms(torch.tensor(boxes + np.array([0, 0, 1, 1])), torch.tensor(scores), 0.4)
    keep = np.flatnonzero(spec.nms(boxes, scores, 0.4))
    np.testing.assert_array_equal(theirs, keep[np.argsort(-scores[keep])])
