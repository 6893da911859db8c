"""What kernels compiled by numba share: threads, and the word about compiling."""

import logging
import sys
import threading

import numpy as np
import pytest

pytest.importorskip("numba")
torch = pytest.importorskip("torch")

from motionspec.ops import compiled  # noqa: E402


@compiled.part
def _twice(x):
    return x + x


def double(a, out, low, high):
    for i in range(low, high):
        out[i] = _twice(a[i])


@pytest.fixture(params=["torch's team", "own threads"])
def threads(request, monkeypatch):
    if request.param == "own threads":
        monkeypatch.setattr(compiled, "_OPENMP", None)
    elif compiled._OPENMP is None:
        pytest.skip("torch has no OpenMP with GNU's interface here")
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_torch_s_wheels_for_linux_have_a_team_to_share():
    if sys.platform != "linux":
        pytest.skip("GNU's OpenMP is that of torch's wheels for Linux")
    assert compiled._OPENMP is not None


@pytest.mark.parametrize("pieces", [0, 1, 2, 7])
def test_every_piece_is_computed_once(threads, pieces):
    threads(3)
    shares = []
    compiled.share(lambda low, high: shares.append((low, high)), pieces, 9)
    assert sorted(k for low, high in shares for k in range(low, high)) == list(range(pieces))
    assert len(shares) == max(1, min(3, pieces))


def test_no_more_threads_than_are_asked_for(threads):
    threads(4)
    shares = []
    compiled.share(lambda low, high: shares.append((low, high)), 8, 2)
    assert sorted(shares) == [(0, 4), (4, 8)]


def test_threads_are_as_many_and_not_all_the_caller(threads):
    threads(3)
    meet = threading.Barrier(3, timeout=20)
    compiled.share(lambda low, high: meet.wait(), 3, 3)


@pytest.mark.parametrize("where", [0, 1])
def test_an_error_in_a_thread_is_raised(threads, where):
    """In that of the caller as in another; the next call works."""
    threads(2)

    def fails(low, high):
        if low == where:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        compiled.share(fails, 2, 2)
    test_no_more_threads_than_are_asked_for(threads)


def test_compiling_is_announced_once(caplog, threads, tmp_path, monkeypatch):
    """Not for the parts of a kernel, nor for a dtype that is there already."""
    threads(1)
    monkeypatch.setattr("numba.core.config.CACHE_DIR", str(tmp_path))
    run = compiled.kernel(double)
    a = np.arange(5.0)
    with caplog.at_level(logging.WARNING, logger="motionspec"):
        for dtype in (np.float64, np.float64, np.float32):
            out = np.zeros(5, dtype)
            compiled.share(run, 5, 1, a.astype(dtype), out)
            assert (out == 2 * a).all()
    said = [
        f"compiling test_compiled.double for {t}: some seconds, once on this machine" for t in ("float64", "float32")
    ]
    assert caplog.messages == said
    again = compiled.kernel(double)  # as in another process: from the cache
    compiled.share(again, 5, 1, a, np.zeros(5))
    assert caplog.messages == said
    assert again.stats.cache_hits


def test_without_a_folder_to_write_to_it_compiles_each_time(monkeypatch):
    njit = compiled.numba.njit
    monkeypatch.setattr(compiled.numba, "njit", lambda f, cache=False, **o: _no_folder() if cache else njit(f, **o))
    out = np.zeros(3)
    compiled.share(compiled.kernel(double), 3, 1, np.ones(3), out)
    assert (out == 2).all()


def _no_folder():
    raise RuntimeError("cannot cache function: no locator available")
