"""Which frames and crops of a video a network sees (OFF18 §4.2, §4.3; DC18 and AF18 §4.2). One implementation, for all.

A *snippet* is what one segment gives the network: consecutive frames. 1 for RGB, 5 for five flow maps, 6 for five RGB
differences, 8 for DC18, 16 + 1 for AF18, whose last target flow points to a frame that the network does not see.
Frame numbers start at 0. `L' = length - snippet + 1` is the number of places where a snippet can start.

`pad` says what happens to a video that is too short: `"error"`, or it goes on past its end: `"edge"` repeats its last
frame, `"wrap"` starts over (the words of `np.pad`).
"""

import numpy as np

from motionspec.checks import choice, count, message

Indices = np.ndarray[tuple[int, int], np.dtype[np.int64]]


def off_train(
    length: int, *, alpha: int, beta: int, snippet: int = 1, rng: np.random.Generator, pad: str = "error"
) -> Indices:
    """The frames to train OFF on: alpha snippets at the interval of the test, after a random seed.

    Equation: OFF18 §4.2: p, p + floor(L/beta), ..., p + (alpha-1) floor(L/beta), with p uniform in
        {0, ..., L' - 1 - (alpha-1) floor(L/beta)}; for snippet = 1 that is the printed range.
    Shapes: -> (alpha, snippet) of frame numbers; alpha snippets are used in training, beta in the test.
    Border: the snippets of a long enough video (L >= beta, and the seed's range is not empty) lie within it. Of a
        shorter one `pad="edge"` and `"wrap"` take floor(max(L, beta)/beta) for the interval, the same as in the test,
        and p = 0 where there is no choice. Long enough is not monotonous, because the interval grows with the video
        (test_sampling.py::test_off_a_longer_video_may_be_too_short).
    Deviations: OFF20 prints L <= beta for L >= beta (test_sampling.py::test_off_is_for_videos_of_at_least_beta_frames).
        The released code draws a jitter for each segment, so that the interval is not constant
        (test_sampling.py::test_off_train_interval_is_constant).
    Raises: TypeError or ValueError for numbers, `rng`, `pad`, alpha > beta; ValueError for a short video without `pad`.
    """
    length, alpha, beta, snippet = _counts("off_train", pad, length=length, alpha=alpha, beta=beta, snippet=snippet)
    _generator("off_train", rng)
    if alpha > beta:
        raise ValueError(message("sampling.off_train", "alpha", f"at most beta={beta}", alpha))
    interval = _interval("off_train", length, alpha, beta, snippet, pad)
    last = length - snippet - (alpha - 1) * interval  # L' - 1 - (alpha-1) floor(L/beta)
    p = int(rng.integers(0, max(last, 0), endpoint=True))
    return _frames(p + interval * np.arange(alpha), length, snippet, pad)


def off_test(length: int, *, beta: int, snippet: int = 1, pad: str = "error") -> Indices:
    """The frames to test OFF on: beta snippets at the interval of the training, from the start of the video.

    Equation: OFF18 §4.2: 0, floor(L/beta), ..., (beta-1) floor(L/beta).
    Shapes: -> (beta, snippet) of frame numbers.
    Border: as `off_train`; a video of L >= beta is long enough for snippets of one frame. What follows the last snippet
        is not seen.
    Deviations: the first frame is ours, the paper says the interval only. The released code starts at its second frame.
    Raises: as `off_train`.
    """
    length, beta, snippet = _counts("off_test", pad, length=length, beta=beta, snippet=snippet)
    interval = _interval("off_test", length, beta, beta, snippet, pad)
    return _frames(interval * np.arange(beta), length, snippet, pad)


def tsn_train(length: int, *, segments: int, snippet: int = 1, rng: np.random.Generator, pad: str = "error") -> Indices:
    """The frames to train TSN on: a random snippet out of each of equal segments.

    Equation: TSN, which OFF18 §4.3 and DC18 §4.2 follow: segment i of K holds the starts
        floor(i L'/K), ..., floor((i+1) L'/K) - 1, one of them is drawn. With `segments=1`: AF18's random consecutive
        frames.
    Shapes: -> (segments, snippet) of frame numbers.
    Border: every start belongs to one segment. L' < K: `pad="edge"` and `"wrap"` take K for L'.
    Deviations: TSN's code gives each segment floor(L'/K) starts and never draws the rest
        (test_sampling.py::test_tsn_train_draws_every_start).
    Raises: TypeError or ValueError for numbers, `rng`, `pad`; ValueError for L' < K without `pad`.
    """
    length, segments, snippet = _counts("tsn_train", pad, length=length, segments=segments, snippet=snippet)
    _generator("tsn_train", rng)
    starts = _starts("tsn_train", length, segments, snippet, pad)
    edges = np.arange(segments + 1) * starts // segments
    return _frames(rng.integers(edges[:-1], edges[1:]), length, snippet, pad)


def tsn_test(length: int, *, segments: int, snippet: int = 1, pad: str = "error") -> Indices:
    """The frames to test TSN on: the snippet at the centre of each of equal segments.

    Equation: TSN, which OFF18 §4.3 (25 segments) and DC18 §4.2 follow: starts floor((i + 1/2) L'/K).
    Shapes: -> (segments, snippet) of frame numbers.
    Border: as `tsn_train`. For L' >= 2K the centre is one of the starts that `tsn_train` draws from for that segment.
    Deviations: TSN's code counts frames from 1, and its floating-point steps round some centres down by one
        (test_sampling.py::test_tsn_test_is_the_centre).
    Raises: as `tsn_train`.
    """
    length, segments, snippet = _counts("tsn_test", pad, length=length, segments=segments, snippet=snippet)
    starts = _starts("tsn_test", length, segments, snippet, pad)
    return _frames((2 * np.arange(segments) + 1) * starts // (2 * segments), length, snippet, pad)


def multi_crop(
    height: int, width: int, *, size: int, count: int = 10, rng: np.random.Generator | None = None
) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """The crops whose scores are averaged for one prediction: the ten of TSN, or, with `rng`, random ones.

    Equation: AF18 §4.2: 64 random crops (of random consecutive frames: `tsn_train` with one segment for each). Without
        `rng`: TSN's ten crops, which OFF18 §4.3 follows: the four corners and the centre, then the same mirrored.
    Shapes: -> (count, 3), of squares of side `size`: top, left, and 1 where mirrored (0 for random crops).
    Units: pixels. A mirrored flow also has the sign of its u changed.
    Border: every crop lies within the frame; random corners are uniform in 0..H-size, 0..W-size; the centre is rounded
        down.
    Deviations: TSN's code rounds its corners down to multiples of four steps, so that they may miss the frame's border.
        OFF's released code takes the maximum over the ten crops.
    Raises: TypeError or ValueError for numbers, `rng`, a crop larger than the frame, a `count` other than 10 without
        `rng`.
    """
    H, W, size, count = _counts("multi_crop", "error", height=height, width=width, size=size, count=count)
    if size > min(H, W):
        raise ValueError(message("sampling.multi_crop", "size", f"at most {min(H, W)}", size))
    bottom, right = H - size, W - size
    if rng is not None:
        _generator("multi_crop", rng)
        return rng.integers(0, [bottom, right, 0], (count, 3), endpoint=True)
    if count != 10:
        raise ValueError(message("sampling.multi_crop", "count", "10, or a generator rng of random crops", count))
    five = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    return np.array([(top, left, mirrored) for mirrored in (0, 1) for top, left in five], np.int64)


# -- what the rules share ----------------------------------------------------------------------------------------------


def _counts(function: str, pad: str, **numbers: int) -> list[int]:
    """The numbers, all at least 1."""
    choice(f"sampling.{function}", "pad", pad, ("error", "edge", "wrap"))
    return [count(f"sampling.{function}", name, number) for name, number in numbers.items()]


def _generator(function: str, rng: object) -> None:
    if not isinstance(rng, np.random.Generator):
        raise TypeError(message(f"sampling.{function}", "rng", "a numpy.random.Generator", type(rng).__name__))


def _interval(function: str, length: int, used: int, beta: int, snippet: int, pad: str) -> int:
    """floor(L/beta); the `used` snippets at this interval fit into the video, or it is padded."""
    interval = max(length, beta) // beta
    needed = max(beta, (used - 1) * interval + snippet)
    if length < needed and pad == "error":
        expected = f"at least {needed} frames for {used} snippets of {snippet} at interval {interval}, or a pad"
        raise ValueError(message(f"sampling.{function}", "length", expected, length))
    return interval


def _starts(function: str, length: int, segments: int, snippet: int, pad: str) -> int:
    """L', at least one for each segment."""
    needed = segments + snippet - 1
    if length < needed and pad == "error":
        expected = f"at least {needed} frames for {segments} segments with snippets of {snippet}, or a pad"
        raise ValueError(message(f"sampling.{function}", "length", expected, length))
    return max(length, needed) - snippet + 1


def _frames(starts: np.ndarray, length: int, snippet: int, pad: str) -> Indices:
    """The frames of the snippets; those past the end of the video as `pad` says."""
    frames = starts[:, None].astype(np.int64) + np.arange(snippet)
    return frames % length if pad == "wrap" else np.minimum(frames, length - 1)
