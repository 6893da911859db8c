"""TV-L1 flow kept on disk (data/flow_cache.py): the right values, for the right key, whoever is killed meanwhile."""

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from motionspec.data.flow_cache import TVL1  # noqa: E402
from motionspec.ops import tvl1  # noqa: E402

FEW = {"n_scales": 2, "n_warps": 2, "n_iter": 5}  # fast


@dataclass
class Moving:
    """A video of smooth noise that moves a pixel to the right each frame."""

    seed: int = 0
    classes = ("one",)
    labels = (0,)
    names = ("video",)

    def __len__(self):
        return 1

    def length(self, i):
        return 6

    def read(self, i, frames):
        y, x = np.mgrid[:20, :24]
        waves = [np.sin(0.5 * (x - t) + self.seed) + np.cos(0.4 * y) for t in map(int, frames)]
        return np.rint(127 + 60 * np.stack([waves] * 3, -1)).astype(np.uint8)


def entries(folder):
    return sorted(folder.rglob("*.npy"))


def test_flow_is_that_of_pyramid_flow(tmp_path):
    source = TVL1(Moving(), tmp_path, **FEW)
    flow, known = source.flow(0, [3, 0, 3])
    assert flow.shape == (3, 2, 20, 24) and flow.dtype == np.float32 and known.shape == (3, 20, 24) and known.all()
    np.testing.assert_array_equal(flow[0], flow[2])
    frames = torch.from_numpy(Moving().read(0, [3, 4])[:, None, ..., 0]).float()  # grey
    expected = tvl1.pyramid_flow(frames[:1], frames[1:], **FEW).numpy()
    np.testing.assert_allclose(flow[:1], expected, rtol=2**-11, atol=1e-4)
    assert np.median(flow[:, 0]) == pytest.approx(1, abs=0.3)
    np.testing.assert_array_equal(source.read(0, [1, 3]), Moving().read(0, [1, 3]))


def test_an_entry_is_computed_once_and_for_one_key(tmp_path, monkeypatch):
    computed = []
    compute = tvl1.pyramid_flow
    monkeypatch.setattr(tvl1, "pyramid_flow", lambda *a, **k: computed.append(1) or compute(*a, **k))
    first, _ = TVL1(Moving(), tmp_path, **FEW).flow(0, [0, 1])
    again, _ = TVL1(Moving(), tmp_path, **FEW).flow(0, [1, 0])
    np.testing.assert_array_equal(first, again[::-1])
    assert len(computed) == len(entries(tmp_path)) == 2
    TVL1(Moving(), tmp_path, **FEW | {"n_iter": 6}).flow(0, [0])
    TVL1(Moving(seed=1), tmp_path, **FEW).flow(0, [0])
    assert len(computed) == len(entries(tmp_path)) == 4
    with pytest.raises(TypeError, match="TVL1: options: expected of tau, lam"):
        TVL1(Moving(), tmp_path, iterations=3)


@pytest.mark.parametrize("left", [0, 50, 500])
def test_a_damaged_entry_is_computed_anew(tmp_path, left):
    expected, _ = TVL1(Moving(), tmp_path, **FEW).flow(0, [0])
    (entry,) = entries(tmp_path)
    whole = entry.read_bytes()
    entry.write_bytes(whole[:left])
    np.testing.assert_array_equal(TVL1(Moving(), tmp_path, **FEW).flow(0, [0])[0], expected)
    assert entry.read_bytes() == whole


def _stopped(folder, halfway):
    """Compute all flows; of the first, half is on the disk when this stops, to be killed."""
    save = np.save

    def half(file, flow):
        save(file, flow)
        file.flush()
        os.ftruncate(file.fileno(), 700)
        halfway.set()
        time.sleep(300)

    np.save = half
    TVL1(Moving(), folder, **FEW).flow(0, range(5))


def _other(folder, halfway, results):
    source = TVL1(Moving(), folder, **FEW)
    halfway.wait()
    results.put(source.flow(0, range(5))[0])


def test_two_processes_share_a_cache_and_one_is_killed(tmp_path):
    context = multiprocessing.get_context("spawn")
    halfway, results = context.Event(), context.Queue()
    stopped = context.Process(target=_stopped, args=(tmp_path, halfway))
    other = context.Process(target=_other, args=(tmp_path, halfway, results))
    for process in (stopped, other):
        process.start()
    flow = results.get(timeout=120)
    stopped.kill()
    for process in (stopped, other):
        process.join()
    assert (stopped.exitcode, other.exitcode) == (-signal.SIGKILL, 0)
    assert len(entries(tmp_path)) == 5 and len(list(tmp_path.rglob("*.part"))) == 1
    expected, _ = TVL1(Moving(), tmp_path / "alone", **FEW).flow(0, range(5))
    np.testing.assert_array_equal(flow, expected)
    np.testing.assert_array_equal(TVL1(Moving(), tmp_path, **FEW).flow(0, range(5))[0], expected)
