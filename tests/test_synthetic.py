"""Clips with exact known flow: printed answers, F0(p) = F1(p + flow(p)), compositions, who hides whom."""

import doctest

import numpy as np
import pytest

from motionspec import refimpl, synthetic
from motionspec.synthetic import Layer, Scene, disc, picture, rotation, shear, translation, waves, zoom

T = np.arange(4)
SIZE = (20, 24)
MOTIONS = {
    "translation": translation(1.3 * T, -0.4 * T),
    "rotation": rotation(5 * T),
    "zoom": zoom(1.1**T),
    "shear": shear(0.1 * T),
    "oscillation": translation(3 * np.sin(2 * np.pi * T / 5), 0),
    "jitter": translation(*np.random.default_rng(0).normal(size=(2, 4))),
    "all": translation(T, 0) @ rotation(-3 * T) @ zoom(0.9**T),
}
each_motion = pytest.mark.parametrize("motion", MOTIONS.values(), ids=MOTIONS.keys())


def one(motion, size=SIZE, **options):
    """A scene of one layer of waves."""
    return Scene([Layer(waves(size, seed=0), motion)], size, **options)


def crossing(**options):
    """Two discs that cross before a background, each 2 px per frame; the second is in front."""
    t = np.arange(7)
    still, right, left = translation(0 * t, 0), translation(2 * t - 6, 1), translation(6 - 2 * t, -1)
    shape = disc(5)
    layers = [
        Layer(waves(SIZE, seed=0), still),
        Layer(waves(SIZE, seed=1), right, shape),
        Layer(waves(SIZE, seed=2), left, shape),
    ]
    return Scene(layers, SIZE, **options)


def constancy(scene):
    """|F0(p) - F1(p + flow(p))| of every pair, from the scene's own values between the pixels: (C, T-1, H, W)."""
    clip = scene.clip()
    y, x = np.mgrid[: scene.size[0], : scene.size[1]].astype(float)
    later = [scene.at(t + 1, x + u, y + v) for t, (u, v) in enumerate(clip.flow.swapaxes(0, 1))]
    return np.abs(clip.frames[:, :-1] - np.stack(later, 1)), clip


def test_a_picture_moved_by_one_pixel():
    image = np.array([[10.0, 20, 30], [40, 50, 60]])[None]
    clip = Scene([Layer(picture(image), translation([0, 1], 0))], (2, 3)).clip()
    assert clip.frames.shape == (1, 2, 2, 3) and clip.flow.shape == (2, 1, 2, 3) and clip.valid.shape == (1, 2, 3)
    np.testing.assert_allclose(clip.frames[0, 0], image[0], atol=1e-12)
    # The column that comes in is the picture's mirror image: beyond 10 comes 20.
    np.testing.assert_allclose(clip.frames[0, 1], [[20, 10, 20], [50, 40, 50]], atol=1e-12)
    assert (clip.flow[0] == 1).all() and (clip.flow[1] == 0).all()
    assert clip.valid[0].tolist() == [[True, True, False]] * 2


def test_motions_turn_and_point_as_they_say():
    """About the centre of a 3 x 3 picture: right becomes down; twice as far; the lower line to the right."""

    def flow(motion):
        return one(motion, (3, 3)).clip().flow[:, 0]

    side = np.array([[-1.0, 0, 1]] * 3)  # x; its transpose is y
    np.testing.assert_allclose(flow(rotation([0, 90])), [-side.T - side, side - side.T], atol=1e-15)
    np.testing.assert_array_equal(flow(zoom([1, 2])), [side, side.T])
    np.testing.assert_array_equal(flow(shear([0, 0.5])), [side.T / 2, 0 * side])
    np.testing.assert_array_equal(flow(translation([0, 2], [0, -1])), [0 * side + 2, 0 * side - 1])
    image = np.arange(9.0).reshape(1, 3, 3)
    clip = Scene([Layer(picture(image), rotation([0, 90]))], (3, 3)).clip()
    np.testing.assert_allclose(clip.frames[0, 1], [[6, 3, 0], [7, 4, 1], [8, 5, 2]], atol=1e-12)  # clockwise


@each_motion
@pytest.mark.parametrize("kind", ["waves", "picture"])
def test_the_later_frame_at_p_plus_flow_is_the_earlier_at_p(motion, kind):
    texture = waves(SIZE, seed=3, channels=2)
    if kind == "picture":
        texture = picture(np.random.default_rng(0).uniform(0, 255, (2, *SIZE)))
    error, clip = constancy(Scene([Layer(texture, motion)], SIZE))
    assert error.max() < 1e-9  # also where p + flow(p) is no longer on the frame
    assert np.abs(clip.frames[:, 1:] - clip.frames[:, :-1]).max() > 1
    assert 0.5 < clip.valid.mean() < 1


def test_a_whole_shift_moves_pixels_to_pixels():
    clip = one(translation(2 * T, -T)).clip()
    for t in range(3):
        before, after = clip.frames[:, t], clip.frames[:, t + 1]
        np.testing.assert_allclose(after[:, :-1, 2:], before[:, 1:, :-2], rtol=0, atol=1e-11)
        assert clip.valid[t, 1:, :-2].all() and clip.valid[t].sum() == 19 * 22


def test_our_warp_brings_the_later_frame_back():
    """Bilinear: of order two in the wavelength; the oracle's mask of what leaves the frame is `valid` of one layer."""
    worst = []
    for factor in (1, 2):
        scene = Scene([Layer(waves(SIZE, seed=0, wavelengths=(12 * factor, 40 * factor)), MOTIONS["all"])], SIZE)
        clip = scene.clip()
        before, after, flow = (a.swapaxes(0, 1) for a in (clip.frames[:, :-1], clip.frames[:, 1:], clip.flow))
        residual, mask = refimpl.brightness.constancy_residual(before, after, flow)
        np.testing.assert_array_equal(mask[:, 0], clip.valid)
        worst.append(np.abs(residual)[mask].max())
    assert worst[0] < 12 and worst[1] < worst[0] / 2


@each_motion
def test_flows_compose_and_invert(motion):
    """Affine flows, which our bilinear warp reproduces between the pixels."""

    def flow(*times):
        return one(motion[list(times)]).clip().flow[:, 0][None]

    def inside(first, then):
        there = refimpl.warp.bilinear(then, first)
        near = one(motion[[0, 1]]).clip().valid[0]
        return there[..., near], first[..., near]

    there, first = inside(flow(0, 1), flow(1, 2))
    np.testing.assert_allclose(first + there, flow(0, 2)[..., one(motion[[0, 1]]).clip().valid[0]], atol=1e-12)
    back, first = inside(flow(0, 1), flow(1, 0))
    np.testing.assert_allclose(first + back, 0 * first, atol=1e-12)


def test_who_is_in_front_hides_and_is_never_hidden():
    error, clip = constancy(crossing())
    y, x = np.mgrid[:20, :24]

    def behind(t, x=x):  # the centre of the frame is (11.5, 9.5)
        return (x - 5.5 - 2 * t) ** 2 + (y - 10.5) ** 2 < 25

    def before(t, x=x):
        return (x - 17.5 + 2 * t) ** 2 + (y - 8.5) ** 2 < 25

    for t in range(6):
        u = np.where(before(t), -2, np.where(behind(t), 2, 0))
        np.testing.assert_array_equal(clip.flow[0, t], u)
        hidden = (u == 2) & before(t + 1, x + 2) | (u == 0) & (before(t + 1) | behind(t + 1))
        np.testing.assert_array_equal(clip.valid[t], ~hidden)
        assert hidden.any() and error[:, t, hidden].max() > 10
    assert error[:, clip.valid].max() < 1e-9


def test_the_camera_moves_everything():
    shake = translation(*np.random.default_rng(1).normal(size=(2, 7)))
    still, moved = crossing().clip(), crossing(camera=shake).clip()
    by = np.diff(shake[:, :2, 2], axis=0).T[:, :, None, None]
    y, x = np.mgrid[:20, :24]
    deep = (np.abs(y - 9.5) > 8) | (np.abs(x - 11.5) > 20)  # background in both
    np.testing.assert_allclose(moved.flow[..., deep], (still.flow + by)[..., deep], atol=1e-12)
    error, clip = constancy(crossing(camera=shake))
    assert error[:, clip.valid].max() < 1e-9


def test_brightness_scales_frames_and_leaves_the_flow():
    gain = np.array([1, 0.5, 2, 0])
    plain, bright = one(MOTIONS["all"]).clip(), one(MOTIONS["all"], gain=gain).clip()
    np.testing.assert_array_equal(bright.frames, plain.frames * gain[:, None, None])
    np.testing.assert_array_equal(bright.flow, plain.flow)
    np.testing.assert_array_equal(bright.valid, plain.valid)


def test_waves_are_seeded_span_0_to_255_and_keep_their_wavelengths():
    y, x = np.mgrid[:20, :24].astype(float)
    x, y = x - 11.5, y - 9.5
    a = waves(SIZE, seed=0, channels=3)(x, y)
    np.testing.assert_array_equal(a, waves(SIZE, seed=0, channels=3)(x, y))
    assert np.abs(a - waves(SIZE, seed=1, channels=3)(x, y)).max() > 10
    assert np.abs(a[0] - a[1]).max() > 10
    for channel in a:
        assert channel.min() == 0 and channel.max() == 255
    # The spectrum over 16 times the longest wavelength: nothing outside the band (a Hann window smears a bin or two).
    grid = np.mgrid[:256, :256].astype(float)
    f = waves(SIZE, seed=0, wavelengths=(4, 16))(grid[1], grid[0])[0]
    window = np.hanning(256)
    power = np.abs(np.fft.fft2((f - f.mean()) * window[:, None] * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256))
    band = (frequency > 1 / 16 - 3 / 256) & (frequency < 1 / 4 + 3 / 256)
    assert power[~band].sum() < 1e-3 * power.sum()


def test_a_picture_is_itself_at_its_pixels_and_a_cubic_between():
    y, x = np.mgrid[:12, :15].astype(float)
    image = np.stack([x**2 - 3 * y, x * y])
    texture = picture(image)
    np.testing.assert_allclose(texture(x - 7, y - 5.5), image, atol=1e-10)
    # Far from the border, where it is mirrored, a polynomial of degree three or less comes back between the pixels.
    big = np.mgrid[:41, :41][1].astype(float) ** 2
    np.testing.assert_allclose(picture(big[None])(np.array([0.25]), np.array([0.5])), [[20.25**2]], atol=1e-6)


def test_a_scene_of_one_pixel_and_of_one_frame():
    clip = one(translation([0, 0.5], 0), (1, 1)).clip()
    assert clip.frames.shape == (1, 2, 1, 1) and not clip.valid.any()
    clip = one(translation([0], 0)).clip()
    assert clip.frames.shape == (1, 1, *SIZE) and clip.flow.shape == (2, 0, *SIZE) and clip.valid.shape == (0, *SIZE)


def test_the_example_runs():
    assert doctest.testmod(synthetic) == (0, 7)


WAVES, STILL = waves(SIZE, seed=0), translation(0 * T, 0)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: waves((0, 4), seed=0), "waves: size: expected at least 1, got 0"),
        (lambda: waves(5, seed=0), "waves: size: expected a pair (H, W), got 5"),
        (lambda: waves(SIZE, seed=-1), "waves: seed: expected at least 0, got -1"),
        (lambda: waves(SIZE, seed=None), "waves: seed: expected an integer, got NoneType"),
        (lambda: waves(SIZE, seed=0, channels=0), "waves: channels: expected at least 1, got 0"),
        (
            lambda: waves(SIZE, seed=0, wavelengths=(2, 9)),
            "waves: wavelengths: expected (shortest, longest) in pixels, 2 < shortest <= longest, got (2, 9)",
        ),
        (
            lambda: waves(SIZE, seed=0, wavelengths=5),
            "waves: wavelengths: expected (shortest, longest) in pixels, 2 < shortest <= longest, got 5",
        ),
        (lambda: Scene([WAVES], SIZE), "Scene: layers[0]: expected a Layer, got function"),
        (
            lambda: picture(np.zeros((4, 5))),
            "picture: image: expected shape (C, H, W) with sides of at least 1, got (4, 5)",
        ),
        (lambda: picture(np.full((1, 4, 5), np.nan)), "picture: image: expected finite values, got nan at (0, 0, 0)"),
        (lambda: picture(np.array([[["a"]]])), "picture: image: expected real numbers, got <U1"),
        (lambda: translation([0, np.inf], 0), "translation: u: expected finite values, got inf at (1,)"),
        (
            lambda: translation([0, 1], [0, 1, 2]),
            "translation: u: expected one number, or one per frame: (3,), got (2,)",
        ),
        (lambda: rotation([[0, 1]]), "rotation: degrees: expected one number, or one per frame: (1,), got (1, 2)"),
        (lambda: disc(-1), "disc: radius: expected a finite number above 0, got -1"),
        (lambda: Scene([], SIZE), "Scene: layers: expected at least one, got 0"),
        (
            lambda: Scene([Layer(WAVES, STILL, disc(3))], SIZE),
            "Scene: layers[0]: expected no shape: it is the background, got one",
        ),
        (
            lambda: Scene([Layer(WAVES, STILL)], (4, 0)),
            "Scene: size: expected at least 1, got 0",
        ),
        (
            lambda: Scene([Layer(WAVES, STILL), Layer(WAVES, STILL[:3])], SIZE),
            "Scene: layers[1].motion: expected shape (T, 3, 3) with T=4, got (3, 3, 3)",
        ),
        (
            lambda: Scene([Layer(WAVES, STILL)], SIZE, camera=np.eye(3)),
            "Scene: camera: expected shape (T, 3, 3) with T=4, got (3, 3)",
        ),
        (
            lambda: Scene([Layer(WAVES, zoom([1, 2, 0, 1]))], SIZE),
            "Scene: layers[0].motion: expected affine maps that can be inverted, last row 0 0 1, got frame 2",
        ),
        (lambda: Scene([Layer(WAVES, STILL)], SIZE, gain=[1]), "Scene: gain: expected shape (T) with T=4, got (1,)"),
        (
            lambda: Scene([Layer(WAVES, STILL), Layer(waves(SIZE, seed=0, channels=2), STILL)], SIZE),
            "Scene: layers[1].texture: expected 1 channels like the first, got 2",
        ),
    ],
)
def test_bad_input_is_one_line_that_names_it(make, words):
    with pytest.raises((TypeError, ValueError)) as error:
        make()
    assert str(error.value) == words
