"""Crops, mirroring and colours of a clip and of its flow (data/augment.py)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motionspec.data.augment import SCALES, Affine, Crop, corner_crop, jitter
from motionspec.refimpl import warp

WHOLE = Crop(0, 0, 24, 32)


def picture(height=24, width=32, shift=(0.0, 0.0)):
    """A smooth picture (1, height, width, 3), seen from a place `shift` = (u, v) pixels further left and up."""
    y, x = np.mgrid[:height, :width].astype(float)
    waves = [np.sin(0.3 * (x - shift[0]) + k) + np.cos(0.25 * (y - shift[1]) - k) for k in range(3)]
    return np.rint(127.5 + 60 * np.stack(waves, -1)).astype(np.uint8)[None]


def residual(first, second, flow, known):
    """Mean grey difference of the first picture and the second fetched by the flow, where known and inside."""
    H, W = first.shape[1:3]
    y, x = np.mgrid[:H, :W]
    inside = (
        known & (x + flow[:, 0] >= 0) & (x + flow[:, 0] <= W - 1) & (y + flow[:, 1] >= 0) & (y + flow[:, 1] <= H - 1)
    )
    back = warp.bilinear(np.moveaxis(second, -1, 1).astype(float), flow.astype(float))
    assert inside.mean() > 0.4
    return np.abs(back - np.moveaxis(first, -1, 1))[np.broadcast_to(inside[:, None], back.shape)].mean()


def constant(u, v, height=24, width=32):
    return np.float32([[u, v]])[:, :, None, None] + np.zeros((height, width), np.float32)


def test_mirrored_twice_is_what_it_was():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 24, 32, 3), np.uint8)
    flow, known = rng.normal(size=(2, 2, 24, 32)).astype(np.float32), rng.random((2, 24, 32)) < 0.8
    flow[~np.broadcast_to(known[:, None], flow.shape)] = 0
    mirror = WHOLE._replace(mirrored=True)
    assert not np.array_equal(mirror.frames(frames, (24, 32)), frames)
    np.testing.assert_array_equal(mirror.frames(mirror.frames(frames, (24, 32)), (24, 32)), frames)
    again, seen = mirror.flow(*mirror.flow(flow, known, (24, 32)), (24, 32))
    np.testing.assert_array_equal(again, flow)
    np.testing.assert_array_equal(seen, known)


@settings(max_examples=25, deadline=None)
@given(
    u=st.integers(-3, 3),
    v=st.integers(-3, 3),
    box=st.tuples(st.integers(0, 6), st.integers(0, 8), st.integers(16, 18), st.integers(16, 24)),
    mirrored=st.booleans(),
    size=st.sampled_from([(16, 16), (24, 24), (12, 20), (33, 31)]),
)
def test_the_flow_of_cropped_frames_is_the_cropped_flow(u, v, box, mirrored, size):
    """Both by `Crop`, then the second frame, fetched by the flow, is the first."""
    first, second = picture(), picture(shift=(u, v))
    crop = Crop(*box, mirrored)
    a, b = crop.frames(first, size), crop.frames(second, size)
    flow, known = crop.flow(constant(u, v), np.ones((1, 24, 32), bool), size)
    assert known.all()
    # 8 bits, and bilinear interpolation of pictures that were resized to other places of the pixel grid
    assert residual(a, b, flow, known) < 2.5
    if u:
        wrong = flow * np.float32([-1, 1])[:, None, None]
        assert residual(a, b, wrong, known) > 2 * residual(a, b, flow, known)


@pytest.mark.parametrize("size", [(12, 20), (24, 32), (33, 40), (20, 40)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_what_unknown_pixels_touch_is_unknown(size, mirrored):
    """Another value, finite or NaN, at an unknown pixel changes nothing; one at a known pixel only what is known."""
    rng = np.random.default_rng(1)
    flow, known = rng.normal(size=(1, 2, 24, 32)).astype(np.float32), rng.random((1, 24, 32)) < 0.9
    crop = Crop(0, 0, 24, 32, mirrored)
    field, seen = crop.flow(flow, known, size)
    unknown = np.broadcast_to(~known[:, None], flow.shape)
    assert 0 < seen.mean() < 1
    assert (field[np.broadcast_to(~seen[:, None], field.shape)] == 0).all()
    for value in (np.nan, 1e30):
        other, seen_other = crop.flow(np.where(unknown, np.float32(value), flow), known, size)
        np.testing.assert_array_equal(other, field)
        np.testing.assert_array_equal(seen_other, seen)
    # exact: a place is unknown only if some unknown pixel has a weight there
    touched, _ = crop.flow(unknown.astype(np.float32), np.ones_like(known), size)
    np.testing.assert_array_equal(seen, touched[:, 1] == 0)


def test_vectors_grow_with_the_picture():
    flow, _ = Crop(2, 3, 10, 20).flow(constant(2, -3), np.ones((1, 24, 32), bool), (40, 30))
    np.testing.assert_allclose(flow, constant(2 * 30 / 20, -3 * 40 / 10, 40, 30), rtol=1e-6)


def test_corner_crop_is_tsns():
    """All sides and places that TSN's code draws from (GroupMultiScaleCrop, more_fix_crop), and no others."""
    rng = np.random.default_rng(0)
    crops = [corner_crop(256, 340, SCALES, rng) for _ in range(4000)]
    sides = {(c.height, c.width) for c in crops}
    sizes = [256, 224, 192, 169]
    assert sides == {(a, b) for i, a in enumerate(sizes) for j, b in enumerate(sizes) if abs(i - j) <= 1}
    places = {(c.top, c.left) for c in crops if (c.height, c.width) == (192, 192)}
    assert len(places) == 13
    assert {(0, 0), (0, 148), (64, 0), (64, 148), (32, 74), (16, 37), (48, 111), (0, 74)} <= places
    assert all(c.top + c.height <= 256 and c.left + c.width <= 340 for c in crops)


def test_jitter_by_hand():
    """Each of the three alone, as its definition says, but for the rounding of OpenCV's fixed-point weights."""
    frames = np.random.default_rng(0).integers(60, 180, (2, 5, 4, 3), np.uint8)
    grey = frames @ [0.299, 0.587, 0.114]

    def factor(amount):
        return np.random.default_rng(3).uniform([1 - a for a in amount], [1 + a for a in amount])

    def jittered(*amount):
        return jitter(frames, *amount, np.random.default_rng(3))

    np.testing.assert_allclose(jittered(0.3, 0, 0), frames * factor((0.3, 0, 0))[0], atol=0.9)
    c = factor((0, 0.3, 0))[1]
    np.testing.assert_allclose(jittered(0, 0.3, 0), c * frames + (1 - c) * grey.mean(), atol=0.9)
    s = factor((0, 0, 0.3))[2]
    np.testing.assert_allclose(jittered(0, 0, 0.3), s * frames + (1 - s) * grey[..., None], atol=0.9)
    assert np.abs(jittered(0.3, 0.3, 0.3).astype(int) - frames).max() > 20
    np.testing.assert_array_equal(jittered(0, 0, 0), frames)


@settings(max_examples=25, deadline=None)
@given(
    flow=st.tuples(st.integers(-2, 2), st.integers(-2, 2)),
    degrees=st.floats(-40, 40),
    zoom=st.floats(0.9, 1.6),
    mirrored=st.booleans(),
)
def test_the_flow_of_turned_frames_is_the_turned_flow(flow, degrees, zoom, mirrored):
    turn = np.deg2rad(degrees)
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) / zoom
    linear[:, 0] *= -1 if mirrored else 1
    affine = Affine(np.column_stack([linear, [15.5, 11.5] - linear @ [9.5, 8.5]]))
    first, second = affine.frames(picture(), (18, 20)), affine.frames(picture(shift=flow), (18, 20))
    field, known = affine.flow(constant(*flow), np.ones((1, 24, 32), bool), (18, 20))
    np.testing.assert_allclose(field[0, :, 9, 10], np.linalg.solve(linear, flow), atol=1e-5)
    np.testing.assert_allclose(np.moveaxis(field, 1, -1)[known], [field[0, :, 9, 10]] * known.sum(), atol=1e-5)
    # known is also what the picture shows: where the flow leads must be that, too, and not partly black
    landed = warp.bilinear(known[:, None].astype(float), field.astype(float))[:, 0] == 1
    assert residual(first, second, field, known & landed) < 2.5


def test_affine_of_a_window_is_its_crop():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 24, 32, 3), np.uint8)
    flow, known = rng.normal(size=(2, 2, 24, 32)).astype(np.float32), rng.random((2, 24, 32)) < 0.8
    for mirrored in (False, True):
        crop = Crop(3, 5, 12, 20, mirrored)
        affine = Affine(np.array([[-1.0 if mirrored else 1.0, 0, 5 + 19 * mirrored], [0, 1, 3]]))
        np.testing.assert_array_equal(affine.frames(frames, (12, 20)), crop.frames(frames, (12, 20)))
        for one, other in zip(affine.flow(flow, known, (12, 20)), crop.flow(flow, known, (12, 20)), strict=True):
            np.testing.assert_array_equal(one, other)


def test_outside_the_picture_nothing_is_known():
    affine = Affine(np.array([[1.0, 0, -3], [0, 1, 0]]))
    flow, known = affine.flow(constant(1, 1), np.ones((1, 24, 32), bool), (24, 32))
    assert not known[..., :3].any() and known[..., 3:].all() and (flow[..., :3] == 0).all()
    assert (affine.frames(picture(), (24, 32))[:, :, :3] == 0).all()
