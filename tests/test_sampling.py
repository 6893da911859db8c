"""Frames and crops, worked out by hand from OFF18 §4.2 and §4.3, DC18 and AF18 §4.2."""

import itertools

import numpy as np
import pytest

from motionspec.refimpl import sampling
from motionspec.refimpl.equations import SINGLE


def rng():
    return np.random.default_rng(0)


def many(function, *args, draws=4000, **options):
    """That many draws of a random rule, (draws, segments, snippet)."""
    generator = rng()
    return np.array([function(*args, rng=generator, **options) for _ in range(draws)])


# -- OFF ---------------------------------------------------------------------------------------------------------------


def test_off_train_worked_out_by_hand():
    """L = 61, beta = 25: interval 2. alpha = 7: p in 0 .. 61 - 1 - 6*2 = 48, and the last frame is p + 12 <= 60."""
    draws = many(sampling.off_train, 61, alpha=7, beta=25)
    assert draws.shape == (4000, 7, 1) and draws.dtype == np.int64
    assert set(draws[:, 0, 0]) == set(range(49))
    np.testing.assert_array_equal(draws[:, :, 0] - draws[:, :1, 0], [[0, 2, 4, 6, 8, 10, 12]] * 4000)
    assert draws.max() == 60


def test_off_train_seed_is_uniform():
    """Each of the 49 seeds: 4000/49 = 82 draws expected, deviation 9."""
    counts = np.bincount(many(sampling.off_train, 61, alpha=7, beta=25)[:, 0, 0])
    assert len(counts) == 49 and abs(counts - 4000 / 49).max() < 36
    assert ((counts - 4000 / 49) ** 2).sum() / (4000 / 49) < 80  # chi-squared with 48 degrees of freedom: 48 +- 10


def test_off_train_snippets_lie_within_the_video():
    """Five flow maps: L' = 57, p in 0 .. 57 - 1 - 12 = 44, and the last frame is 44 + 12 + 4 = 60."""
    draws = many(sampling.off_train, 61, alpha=7, beta=25, snippet=5)
    assert draws.shape == (4000, 7, 5)
    assert set(draws[:, 0, 0]) == set(range(45))
    assert draws.max() == 60
    np.testing.assert_array_equal(draws - draws[:, :, :1], np.broadcast_to(np.arange(5), draws.shape))


@pytest.mark.parametrize("length", [25, 49, 60, 61, 74, 99, 300, 1000])
def test_off_train_interval_is_constant(length):
    """The point of the rule: dt is the same within a sample, for all samples, and in the test."""
    interval = length // 25
    assert (np.diff(sampling.off_test(length, beta=25)[:, 0]) == interval).all()
    assert (np.diff(many(sampling.off_train, length, alpha=7, beta=25, draws=50)[..., 0]) == interval).all()


def test_off_train_interval_of_the_released_code_is_not():
    """It adds a random number below (L - 1) // 24 to each of its starts: for 99 frames 0 .. 3 to multiples of 4."""
    average = (99 - 1) // (25 - 1)
    theirs = (np.arange(7) + 11) * average + rng().integers(0, average, 7)
    assert average == 4 and len(set(np.diff(theirs))) > 1


def test_off_test_starts_at_the_first_frame():
    np.testing.assert_array_equal(sampling.off_test(61, beta=25)[:, 0], range(0, 50, 2))
    np.testing.assert_array_equal(sampling.off_test(9, beta=3, snippet=2), [[0, 1], [3, 4], [6, 7]])


def test_off_alpha_equal_to_beta_and_one_of_each():
    """alpha = beta = L: one choice only, the whole video. alpha = 1: any frame."""
    np.testing.assert_array_equal(sampling.off_train(25, alpha=25, beta=25, rng=rng())[:, 0], range(25))
    assert set(many(sampling.off_train, 6, alpha=1, beta=1)[:, 0, 0]) == set(range(6))
    np.testing.assert_array_equal(sampling.off_test(6, beta=1), [[0]])


def test_off_is_for_videos_of_at_least_beta_frames():
    """OFF18 prints L >= beta, OFF20 L <= beta: under that the interval is 0, and every frame of a sample the same."""
    assert 24 // 25 == 0
    expected = "length: expected at least 25 frames for {} snippets of 1 at interval 1, or a pad, got 24"
    with pytest.raises(ValueError) as error:
        sampling.off_test(24, beta=25)
    assert str(error.value) == "sampling.off_test: " + expected.format(25)
    with pytest.raises(ValueError) as error:
        sampling.off_train(24, alpha=7, beta=25, rng=rng())
    assert str(error.value) == "sampling.off_train: " + expected.format(7)
    assert len(sampling.off_test(25, beta=25)) == 25
    for pad in ("edge", "wrap"):  # the interval of the shortest video that is long enough, in training too
        np.testing.assert_array_equal(
            np.diff(sampling.off_train(24, alpha=7, beta=25, rng=rng(), pad=pad)[:, 0]) % 24, 1
        )


def test_off_a_longer_video_may_be_too_short():
    """Of 49 frames the test takes 0, 1, ..., 24 and needs 29, of 50 it takes 0, 2, ..., 48 and needs 53."""
    assert sampling.off_test(49, beta=25, snippet=5).max() == 28
    with pytest.raises(ValueError, match="at least 53 frames for 25 snippets of 5 at interval 2, or a pad, got 50"):
        sampling.off_test(50, beta=25, snippet=5)
    assert sampling.off_test(53, beta=25, snippet=5).max() == 52
    np.testing.assert_array_equal(sampling.off_test(50, beta=25, snippet=5, pad="edge")[-1], [48, 49, 49, 49, 49])


def test_off_pads_what_is_too_short():
    """4 frames for beta = 3 snippets of 3: interval 1, frames 0 .. 4, of which frame 4 is not there."""
    np.testing.assert_array_equal(
        sampling.off_test(4, beta=3, snippet=3, pad="edge"), [[0, 1, 2], [1, 2, 3], [2, 3, 3]]
    )
    np.testing.assert_array_equal(
        sampling.off_test(4, beta=3, snippet=3, pad="wrap"), [[0, 1, 2], [1, 2, 3], [2, 3, 0]]
    )
    np.testing.assert_array_equal(sampling.off_test(2, beta=5, pad="edge")[:, 0], [0, 1, 1, 1, 1])
    np.testing.assert_array_equal(sampling.off_test(2, beta=5, pad="wrap")[:, 0], [0, 1, 0, 1, 0])
    # Where there is no choice of a seed it is 0. alpha = 2 snippets of 2 fit into 3 frames: two seeds for 4.
    np.testing.assert_array_equal(
        sampling.off_train(2, alpha=2, beta=3, snippet=2, rng=rng(), pad="edge"), [[0, 1], [1, 1]]
    )
    assert set(many(sampling.off_train, 4, alpha=2, beta=3, snippet=2, pad="edge")[:, 0, 0]) == {0, 1}


@pytest.mark.parametrize("pad", ["edge", "wrap"])
def test_pad_changes_nothing_where_the_video_is_long_enough(pad):
    np.testing.assert_array_equal(sampling.off_test(61, beta=25, pad=pad), sampling.off_test(61, beta=25))
    np.testing.assert_array_equal(sampling.tsn_test(61, segments=7, pad=pad), sampling.tsn_test(61, segments=7))
    for rule, options in ((sampling.off_train, {"alpha": 7, "beta": 25}), (sampling.tsn_train, {"segments": 7})):
        np.testing.assert_array_equal(
            rule(61, snippet=5, rng=rng(), pad=pad, **options), rule(61, snippet=5, rng=rng(), **options)
        )


# -- TSN ---------------------------------------------------------------------------------------------------------------


def test_tsn_train_worked_out_by_hand():
    """11 frames in 3 segments: 0-2, 3-6, 7-10."""
    draws = many(sampling.tsn_train, 11, segments=3)
    assert draws.shape == (4000, 3, 1)
    assert [sorted(set(draws[:, i, 0])) for i in range(3)] == [[0, 1, 2], [3, 4, 5, 6], [7, 8, 9, 10]]
    counts = [np.bincount(draws[:, i, 0])[-n:] for i, n in enumerate((3, 4, 4))]
    assert all(abs(part - 4000 / len(part)).max() < 150 for part in counts)


@pytest.mark.parametrize("length, segments, snippet", [(11, 3, 1), (13, 7, 1), (30, 7, 5), (7, 7, 1), (11, 7, 5)])
def test_tsn_train_draws_every_start(length, segments, snippet):
    """TSN's code: i * avg + random number below avg = floor(L'/K). Of 13 starts in 7 segments it draws the first 7."""
    draws = many(sampling.tsn_train, length, segments=segments, snippet=snippet)
    assert set(draws[..., 0].ravel()) == set(range(length - snippet + 1))
    assert draws.max() == length - 1
    assert (np.diff(draws[..., 0]) > 0).all()  # in order, and no start belongs to two segments
    theirs = {i * (13 // 7) + r for i in range(7) for r in range(13 // 7)}
    assert theirs == set(range(7))


def test_tsn_train_with_one_segment_is_random_consecutive_frames():
    """AF18: 16 frames, and the one to which the last flow points."""
    draws = many(sampling.tsn_train, 40, segments=1, snippet=17)
    assert draws.shape == (4000, 1, 17)
    assert set(draws[:, 0, 0]) == set(range(24))
    assert (np.diff(draws[:, 0]) == 1).all()


def test_tsn_test_is_the_centre():
    """floor((i + 1/2) L'/K), which TSN's code takes in floating point: int(tick / 2 + tick * i)."""
    np.testing.assert_array_equal(sampling.tsn_test(11, segments=3)[:, 0], [1, 5, 9])  # 11/6, 33/6, 55/6
    np.testing.assert_array_equal(sampling.tsn_test(15, segments=3, snippet=5)[:, 0], [1, 5, 9])
    np.testing.assert_array_equal(sampling.tsn_test(25, segments=25)[:, 0], range(25))
    theirs = {n: [int(n / 7 / 2 + n / 7 * i) for i in range(7)] for n in range(7, 100)}
    ours = {n: sampling.tsn_test(n, segments=7)[:, 0].tolist() for n in theirs}
    differ = [n for n in theirs if theirs[n] != ours[n]]
    assert differ[0] == 12 and len(differ) < 10
    assert (theirs[12], ours[12]) == ([0, 2, 4, 5, 7, 9, 11], [0, 2, 4, 6, 7, 9, 11])  # (3 + 1/2) 12/7 is 6


def test_tsn_test_centre_is_a_start_of_its_segment():
    """From two starts a segment on. With fewer it may be the next one's: 1.2 each, segment 3 is {3}, its centre 4.2."""
    for n, K in itertools.product(range(1, 120), (1, 2, 3, 7, 25)):
        if n >= 2 * K:
            centre, edges = sampling.tsn_test(n, segments=K)[:, 0], np.arange(K + 1) * n // K
            assert (edges[:-1] <= centre).all() and (centre < edges[1:]).all()
    assert sampling.tsn_test(6, segments=5)[3, 0] == 4
    assert set(many(sampling.tsn_train, 6, segments=5)[:, 3, 0]) == {3}


def test_tsn_pads_what_is_too_short():
    """A start for each segment is needed. 4 frames, 3 segments, snippets of 3: starts 0, 1, 2 as if of 5 frames."""
    for rule, options in ((sampling.tsn_test, {}), (sampling.tsn_train, {"rng": rng()})):
        with pytest.raises(ValueError) as error:
            rule(4, segments=3, snippet=3, **options)
        expected = "length: expected at least 5 frames for 3 segments with snippets of 3, or a pad, got 4"
        assert str(error.value) == f"sampling.{rule.__name__}: {expected}"
        for pad, last in (("edge", 3), ("wrap", 0)):
            got = rule(4, segments=3, snippet=3, pad=pad, **options)
            np.testing.assert_array_equal(got, [[0, 1, 2], [1, 2, 3], [2, 3, last]])


# -- crops -------------------------------------------------------------------------------------------------------------


def test_multi_crop_ten():
    """Squares of 224 in 256 x 340: corners, centre, and the same mirrored."""
    got = sampling.multi_crop(256, 340, size=224)
    five = [[0, 0], [0, 116], [32, 0], [32, 116], [16, 58]]
    np.testing.assert_array_equal(got[:, :2], five + five)
    np.testing.assert_array_equal(got[:, 2], [0] * 5 + [1] * 5)
    np.testing.assert_array_equal(sampling.multi_crop(5, 4, size=3)[4], [1, 0, 0])  # half a pixel: down
    np.testing.assert_array_equal(sampling.multi_crop(8, 8, size=8)[:, :2], 0)


def test_multi_crop_ten_reaches_the_border():
    """TSN's code takes four steps of (W - size) // 4: of 341 columns the last one is in no crop."""
    assert 224 + 4 * ((341 - 224) // 4) == 340
    assert 224 + sampling.multi_crop(256, 341, size=224)[:, 1].max() == 341


def test_multi_crop_random():
    """AF18's 64: every place is drawn, none reaches out of the frame, none is mirrored."""
    got = sampling.multi_crop(256, 340, size=224, count=64, rng=rng())
    assert got.shape == (64, 3) and got.dtype == np.int64
    assert len(np.unique(got, axis=0)) > 60
    got = sampling.multi_crop(6, 7, size=4, count=4000, rng=rng())
    counts = np.histogram2d(got[:, 0], got[:, 1], bins=[3, 4])[0]
    assert (got.min(0) == 0).all() and (got.max(0) == [2, 3, 0]).all()
    assert abs(counts - 4000 / 12).max() < 80


def test_multi_crop_errors():
    with pytest.raises(ValueError, match=r"^sampling.multi_crop: size: expected at most 256, got 257$"):
        sampling.multi_crop(256, 340, size=257)
    with pytest.raises(ValueError, match=r"^sampling.multi_crop: count: expected 10, or a generator rng .*, got 64$"):
        sampling.multi_crop(256, 340, size=224, count=64)
    with pytest.raises(TypeError, match=r"^sampling.multi_crop: rng: expected a numpy.random.Generator, got int$"):
        sampling.multi_crop(256, 340, size=224, rng=0)


# -- all ---------------------------------------------------------------------------------------------------------------

CALLS = {
    "off_train": {"length": 61, "alpha": 7, "beta": 25, "snippet": 5, "rng": rng()},
    "off_test": {"length": 61, "beta": 25, "snippet": 5, "pad": "edge"},
    "tsn_train": {"length": 61, "segments": 7, "snippet": 5, "rng": rng()},
    "tsn_test": {"length": 61, "segments": 7, "snippet": 5},
    "multi_crop": {"height": 256, "width": 340, "size": 224, "count": 64, "rng": rng()},
}


def call(name, **change):
    arguments = CALLS[name] | ({"rng": rng()} if "rng" in CALLS[name] else {}) | change
    return getattr(sampling, name)(
        *[arguments.pop(k) for k in ("length", "height", "width") if k in arguments], **arguments
    )


def test_calls_cover_the_stem():
    assert {f"sampling.{name}" for name in CALLS} == {id for id in SINGLE if id.startswith("sampling.")}


@pytest.mark.parametrize("name", CALLS)
def test_randomness_comes_from_the_generator_alone(name):
    if "rng" in CALLS[name]:
        first, again, other = (call(name, rng=np.random.default_rng(seed)) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    call(name)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize("name", CALLS)
def test_bad_arguments_give_the_one_message(name):
    for argument in CALLS[name].keys() - {"rng", "pad"}:
        with pytest.raises(ValueError, match=rf"^sampling.{name}: {argument}: expected at least 1, got 0$"):
            call(name, **{argument: 0})
        with pytest.raises(TypeError, match=rf"^sampling.{name}: {argument}: expected an integer, got float$"):
            call(name, **{argument: 4.0})
        np.testing.assert_array_equal(call(name, **{argument: np.int32(CALLS[name][argument])}), call(name))
    if "rng" in CALLS[name]:
        with pytest.raises(TypeError, match=rf"^sampling.{name}: rng: expected a numpy.random.Generator, got module$"):
            call(name, rng=np.random)
    if name != "multi_crop":
        with pytest.raises(
            ValueError, match=rf"^sampling.{name}: pad: expected one of 'error', 'edge', 'wrap', got 'no'"
        ):
            call(name, pad="no")


def test_off_train_alpha_is_at_most_beta():
    with pytest.raises(ValueError, match=r"^sampling.off_train: alpha: expected at most beta=25, got 26$"):
        sampling.off_train(100, alpha=26, beta=25, rng=rng())
