"""`tvl1.pyramid_flow` by numba beside the eager operator: sizes, options, batches, NaN, threads."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

from motionspec import refimpl  # noqa: E402
from motionspec.ops import pyramid_numba  # noqa: E402
from motionspec.ops.tvl1 import pyramid_flow  # noqa: E402
from motionspec.synthetic import Layer, Scene, rotation, waves, zoom  # noqa: E402

QUICK = {"n_scales": 3, "n_warps": 2, "n_iter": 5, "median": 3}


def moved(size=(37, 45), dtype=torch.float64, samples=1):
    """Two images, of each sample another texture."""
    motion = rotation([0, 2]) @ zoom([1, 1.03])
    clips = [Scene([Layer(waves(size, seed=seed), motion)], size).clip() for seed in range(samples)]
    return tuple(torch.tensor(np.stack([clip.frames[:, t] for clip in clips]), dtype=dtype) for t in (0, 1))


def assert_equals_eager(f0, f1, atol=1e-10, **options):
    got = pyramid_flow(f0, f1, **options, impl="numba")
    want = pyramid_flow(f0, f1, **options, impl="torch")
    torch.testing.assert_close(got, want, rtol=0, atol=atol, equal_nan=True)
    return got


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (2, 2), (2, 30), (9, 17), (40, 33), (11, 300)])
def test_sizes(size):
    assert_equals_eager(*moved(size), **QUICK)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"median": 1},
        {"median": 3},
        {"median": 7},
        {"n_scales": 1},
        {"n_warps": 1, "n_iter": 1},
        {"n_iter": 31},
        {"scale": 0.5},
        {"tau": 0.1, "theta": 0.2, "lam": 1.0},
        {"tolerance": 0.02},
        {"tolerance": 100.0},
    ],
    ids=str,
)
def test_options(options):
    assert_equals_eager(*moved(), **{"n_scales": 3, "n_warps": 2, "n_iter": 12} | options)


def test_the_default_equals_the_oracle():
    f0, f1 = moved((19, 24))
    got = pyramid_flow(f0, f1, impl="numba").numpy()
    np.testing.assert_allclose(got, refimpl.tvl1.pyramid_flow(f0.numpy(), f1.numpy()), rtol=0, atol=1e-9)


@pytest.mark.parametrize("most", [1, 2, 4])
@pytest.mark.parametrize("tolerance", [None, 0.02])
def test_threads_and_sweeps_do_not_show(threads, monkeypatch, most, tolerance):
    """However many rows are a thread's, and however many iterations it does on its way down."""
    monkeypatch.setattr(pyramid_numba, "_ALONE", 0)
    f0, f1 = moved((50, 61), torch.float32, samples=2)
    options = QUICK | {"n_iter": 13, "tolerance": tolerance}
    threads(1)
    want = pyramid_flow(f0, f1, **options)
    threads(3)
    line = 64 * f0.itemsize
    monkeypatch.setattr(pyramid_numba, "_CACHE", (most + 1) * (pyramid_numba._STATE + pyramid_numba._CONSTANTS) * line)
    assert torch.equal(pyramid_flow(f0, f1, **options), want)


def test_a_sample_stops_for_itself():
    """One at once, one later, one never."""
    f0, f1 = moved(samples=3)
    f1[0], f1[1] = f0[0], f0[1] + 0.3 * (f1[1] - f0[1])
    options = QUICK | {"n_iter": 30, "tolerance": 0.03}
    together = assert_equals_eager(f0, f1, **options)
    for n in range(3):
        assert torch.equal(together[n : n + 1], pyramid_flow(f0[n : n + 1], f1[n : n + 1], **options, impl="numba"))


def test_views_and_no_samples():
    f0, f1 = moved(samples=2)
    want = pyramid_flow(f0, f1, **QUICK, impl="numba")
    big = torch.full((2, 1, 74, 90), torch.nan, dtype=f0.dtype)
    big[..., ::2, ::2] = f0
    views = big[..., ::2, ::2], f1.mT.contiguous().mT
    assert torch.equal(pyramid_flow(*views, **QUICK, impl="numba"), want)
    assert pyramid_flow(f0[:0], f1[:0], impl="numba").shape == (0, 2, 37, 45)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("median", [1, 3, 5])
def test_nan_and_infinity_touch_what_they_touch_in_the_eager_operator(value, median):
    f0, f1 = moved((40, 52))
    f1[0, 0, 3, 5] = value
    options = {"n_scales": 1, "n_warps": 2, "n_iter": 3, "median": median}
    flow = assert_equals_eager(f0, f1, **options)
    assert flow.isnan().any() and not flow.isnan().all()


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_values_whose_squares_are_0_or_infinite(scale):
    f0, f1 = moved(dtype=torch.float32)
    flow = assert_equals_eager(f0 * scale, f1 * scale, atol=1e-2, **QUICK)
    assert flow.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_auto_is_numba(dtype):
    f0, f1 = moved(dtype=dtype)
    flow = pyramid_flow(f0, f1, **QUICK)
    assert flow.dtype == dtype
    assert torch.equal(flow, pyramid_flow(f0, f1, **QUICK, impl="numba"))
    want = pyramid_flow(f0.float(), f1.float(), **QUICK, impl="numba").to(dtype)
    assert torch.equal(flow, want)


def test_compiles_without_graph_breaks():
    f0, f1 = moved(dtype=torch.float32)
    compiled = torch.compile(lambda a, b: pyramid_flow(a, b, **QUICK) + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(f0, f1), pyramid_flow(f0, f1, **QUICK) + 1)
