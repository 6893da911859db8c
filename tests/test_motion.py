"""The motion benchmark: a source like others, its flow is true, and one frame says nothing about the class."""

import pickle

import numpy as np
import pytest
from scipy.stats import binom

from motionspec.data import motion
from motionspec.data.motion import CLASSES, PHOTOGRAPHS, SIZES, Motion, Size
from motionspec.data.source import FlowSource
from motionspec.refimpl import warp
from motionspec.synthetic import Layer, Scene

SMALL = Size(24, 5, train=2, test=1)


def test_a_source_of_balanced_clips():
    source = Motion(SMALL, texture="noise")
    assert isinstance(source, FlowSource)
    assert len(source) == len(source.labels) == len(source.names) == len(set(source.names)) == 26
    assert np.bincount(source.labels).tolist() == [2] * len(source.classes) == [2] * 13
    assert source.names[14] == "train/left/000014" and source.classes[source.labels[14]] == "left"
    assert len(Motion(SMALL, "test", texture="noise")) == 13 and source.length(0) == 5
    clip = source.read(3, [4, 0, 4])
    assert clip.shape == (3, 24, 24, 3) and clip.dtype == np.uint8
    flow, known = source.flow(3, [3, 0, 3])
    assert flow.shape == (3, 2, 24, 24) and flow.dtype == np.float32
    assert known.shape == (3, 24, 24) and known.dtype == bool
    for array in (clip, flow):
        np.testing.assert_array_equal(array[0], array[2])
        assert (array[0] != array[1]).any()
    np.testing.assert_array_equal(known[0], known[2])


def test_a_clip_depends_on_seed_split_and_index_alone():
    source = Motion(SMALL, seed=3, texture="noise")
    clip = source.read(5, range(5))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source)).read(5, [2, 1]), clip[[2, 1]])
    same_length_of_test = Size(24, 5, train=9, test=9)
    np.testing.assert_array_equal(Motion(same_length_of_test, seed=3, texture="noise").read(5, range(5)), clip)
    for other in (Motion(SMALL, seed=4, texture="noise"), Motion(SMALL, "test", seed=3, texture="noise")):
        assert np.mean(other.read(5, range(5)) != clip) > 0.9
    assert np.mean(source.read(18, range(5)) != clip) > 0.9  # the next of its class


def test_photographs_are_those_of_the_wheel_and_those_of_the_test_are_new(monkeypatch):
    fetchers = pytest.importorskip("skimage.data._fetchers")
    monkeypatch.setattr(fetchers, "_image_fetcher", None)  # what downloads
    for split in PHOTOGRAPHS:
        sides = [image.shape for image in motion._photographs(split)]
        assert len(sides) == len(PHOTOGRAPHS[split])
        assert all(h == w and 382 <= h < 1024 and c == 3 for h, w, c in sides)
    assert not {*PHOTOGRAPHS["train"]} & {*PHOTOGRAPHS["test"]}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("texture", ["photographs", "noise"])
def test_flow_leads_to_the_same_point_in_every_class(size, texture):
    """At known pixels frame t+1 there is frame t here, times one number: exactly, as the scene is a function."""
    if texture == "photographs":
        pytest.importorskip("skimage")
    source = Motion(size, "test", texture=texture)
    y, x = np.mgrid[: size.side, : size.side].astype(float)
    for i in range(len(CLASSES)) if size.side == 32 else (10,):
        scene, t = source.scene(i), size.frames - 2
        flow, known = source.flow(i, [t])
        u, v = flow[0]
        ratio = scene.at(t + 1, x + u, y + v) / scene.at(t, x, y)
        assert known.mean() > 0.6
        np.testing.assert_allclose(ratio[:, known[0]], np.median(ratio), rtol=2e-4)  # flow is rounded to float32
        assert np.percentile(np.abs(ratio - np.median(ratio)), 99.9) < 0.5 or not known.all()


def test_each_class_moves_as_its_name_says():
    """By the mean flow of a clip, and what it does about the centre: its divergence, curl and strain."""
    source = Motion(Size(32, 8, 3, 1), texture="noise")
    y, x = np.mgrid[:32, :32] - 15.5
    over = 1 / (x**2).sum()
    found = {name: [] for name in CLASSES}
    for i, label in enumerate(source.labels):
        flow = source.flow(i, range(7))[0].astype(float)
        a, b, c, d = ((flow[:, k] * z).sum((1, 2)) * over for k in (0, 1) for z in (x, y))
        light = source.read(i, range(8)).mean((1, 2, 3))
        found[CLASSES[label]].append(
            {
                "u": flow[:, 0].mean(),
                "v": flow[:, 1].mean(),
                "zoom": (a + d).mean(),
                "turn": (c - b).mean(),
                "strain": np.hypot(a - d, b + c).mean(),
                "swing": np.linalg.norm(np.diff(flow.mean((2, 3)), axis=0), axis=1).mean(),
                "cross": np.abs(flow - flow.mean((2, 3), keepdims=True)).mean(),
                "light": np.abs(np.diff(light)).mean(),
            }
        )
    still = found["stillness"]
    says = {"right": "u", "down": "v", "clockwise": "turn", "zoom in": "zoom", "shear": "strain"}
    says |= {"oscillation": "swing", "crossing": "cross", "flicker": "light"}
    for name, number in says.items():
        least = 2 * max(abs(clip[number]) for clip in still)
        assert all(clip[number] > least for clip in found[name]), (name, least, found[name])
    for name, number in {"left": "u", "up": "v", "counterclockwise": "turn", "zoom out": "zoom"}.items():
        assert all(clip[number] < -2 * max(abs(c[number]) for c in still) for clip in found[name])
    for clip in found["flicker"]:
        assert max(abs(clip[number]) for number in ("u", "v", "zoom", "turn", "cross")) < 0.3


def test_warping_by_the_flow_gives_the_frame_back():
    """By the oracle's bilinear warp, which sees pixels only, and of frames rounded to whole numbers."""
    pytest.importorskip("skimage")
    source = Motion("tiny", "test")
    for i, name in enumerate(CLASSES):
        first, second = source.read(i, [3, 4]).transpose(0, 3, 1, 2).astype(float)
        flow, known = source.flow(i, [3])
        back = warp.bilinear(second[None], flow.astype(float))[0]
        back *= np.median(first[:, known[0]] / back[:, known[0]])  # the light
        error = np.abs(back - first)[:, known[0]].mean()
        still = np.abs(second * np.median(first / second) - first)[:, known[0]].mean()
        assert error < 3, (name, error)
        if np.abs(flow).mean() > 0.5:
            assert error < still / 2, (name, error, still)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"size": "huge"}, "size: expected one of 'tiny', 'small'"),
        ({"split": "val"}, "split: expected one of 'train', 'test', got 'val'"),
        ({"texture": "cats"}, "texture: expected one of 'photographs', 'noise'"),
        ({"seed": -1}, "seed: expected at least 0"),
        ({"size": Size(32, 1, 1, 1)}, "frames: expected at least 2, got 1"),
        ({"size": Size(32, 8, 0, 1)}, "train: expected at least 1, got 0"),
    ],
)
def test_bad_arguments_get_one_line(arguments, words):
    with pytest.raises(ValueError, match=f"^Motion: {words}"):
        Motion(**arguments)


@pytest.mark.parametrize("t", [-1, 5])
def test_frames_that_there_are_not(t):
    source = Motion(SMALL, texture="noise")
    with pytest.raises(ValueError, match=f"^Motion: frames: expected 0 to 4 of train/right/000000, got {t}$"):
        source.read(0, [0, t])
    with pytest.raises(ValueError, match=r"^Motion: frames: expected 0 to 3 of train/right/000000, got 4$"):
        source.flow(0, [4])


def test_clips_that_are_kept_are_the_same():
    kept, made = (Motion(SMALL, texture="noise", keep=keep) for keep in (True, False))
    for _ in range(2):
        np.testing.assert_array_equal(kept.read(1, [3, 1]), made.read(1, [3, 1]))
        for a, b in zip(kept.flow(1, [3, 1]), made.flow(1, [3, 1]), strict=True):
            np.testing.assert_array_equal(a, b)
    kept.read(1, [2])[:] = 0
    assert kept.read(1, [2]).any()
    assert [Motion(size, texture="noise").keep for size in SIZES] == [True, True, False, False]


# -- one frame says nothing --------------------------------------------------------------------------------------------

FRAMES = Size(32, 8, train=90, test=50)


def features(frames):
    """What 96 random filters, their means and deviations, and brightness say of frames (N, 32, 32, 3)."""
    rng = np.random.default_rng(0)
    filters = rng.normal(size=(75, 96))
    filters[:, ::2] -= filters[:, ::2].mean(0)
    found = []
    for frame in frames / 255.0 - 0.45:
        patches = np.lib.stride_tricks.sliding_window_view(frame, (5, 5), (0, 1)).reshape(-1, 75)
        answers = np.maximum(patches @ filters, 0)
        tiny = frame.mean(-1).reshape(8, 4, 8, 4).mean((1, 3)).ravel()
        edges = [np.log(np.abs(np.diff(frame, n, axis)).mean()) for n in range(1, 5) for axis in (0, 1)]
        found.append([*answers.mean(0), *answers.std(0), *tiny, *edges, frame.max(), frame.min(), frame.std()])
    return np.array(found)


def suspicion(x):
    """How likely by chance what a ridge regression of the features x gets right is: for each class, and in all.

    It scores the test frames for each class; of the 50 that it scores highest for a class, one in 13 is of that class
    if frames say nothing.
    """
    mean, deviation = x["train"].mean(0), x["train"].std(0) + 1e-9
    a, b = ((x[split] - mean) / deviation for split in ("train", "test"))
    one_hot, chance = np.eye(len(CLASSES))[LABELS["train"]], 1 / len(CLASSES)
    scores = b @ np.linalg.solve(a.T @ a + 30 * np.eye(a.shape[1]), a.T @ (one_hot - one_hot.mean(0)))
    best = LABELS["test"][np.argsort(-scores, 0)[: FRAMES.test]]
    hits, right = (best == np.arange(len(CLASSES))).sum(0), (scores.argmax(1) == LABELS["test"]).sum()
    return binom.sf(hits - 1, FRAMES.test, chance), binom.sf(right - 1, len(b), chance)


SOURCES = {split: Motion(FRAMES, split, texture="noise") for split in ("train", "test")}
LABELS = {split: np.array(source.labels) for split, source in SOURCES.items()}
STILL = CLASSES.index("stillness")


@pytest.fixture(scope="module")
def of_frames():
    """The features of one frame of each clip, at a random place in it."""
    rng = np.random.default_rng(1)
    return {
        split: features(np.concatenate([source.read(i, [rng.integers(8)]) for i in range(len(source))]))
        for split, source in SOURCES.items()
    }


def test_one_frame_says_nothing_about_the_class(of_frames):
    of_class, of_all = suspicion(of_frames)
    assert of_all > 1e-3 and of_class.min() > 1e-3 / len(CLASSES)


def not_resampled(scene):
    """The texture as it is, pixel by pixel."""
    still = np.stack([np.eye(3)] * 8)

    def pixel_by_pixel(texture):
        return lambda x, y: texture(np.floor(x) - texture.dx % 1, np.floor(y) - texture.dy % 1)

    layers = [Layer(pixel_by_pixel(layer.texture), still, layer.shape) for layer in scene.layers]
    return Scene(layers, scene.size)


def one_object_less(scene):
    return Scene(scene.layers[:-1], scene.size)


def brighter(scene):
    return Scene(scene.layers, scene.size, gain=np.full(8, 1.2))


@pytest.mark.parametrize("leak", [not_resampled, one_object_less, brighter])
def test_a_leak_is_found(of_frames, leak):
    """Stillness, one class of thirteen, made otherwise than the rest."""
    y, x = np.mgrid[:32, :32].astype(float)
    leaky = {split: found.copy() for split, found in of_frames.items()}
    for split, found in leaky.items():
        still = np.flatnonzero(LABELS[split] == STILL)
        frames = [leak(SOURCES[split].scene(i)).at(0, x, y).round().clip(0, 255) for i in still]
        found[still] = features(np.stack(frames).transpose(0, 2, 3, 1))
    assert suspicion(leaky)[0][STILL] < 1e-6
