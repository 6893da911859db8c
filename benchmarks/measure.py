"""How time, memory and the floor are measured, and on what."""

import ctypes
import gc
import importlib.metadata
import itertools
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
PACKAGES = ("motionspec", "torch", "triton", "numba", "numpy", "scipy", "kornia", "scikit-image", "torchmetrics")
PACKAGES += ("opencv-contrib-python-headless", "spatial-correlation-sampler")
ROUNDS = (5, 100)  # of a call at least and at most
LONGEST = 4.0  # seconds after which a slow call gets no other round; a peer that takes them at once is called once

Call = Callable[[int], Any]  # of the number of the copy of the inputs


def times(calls: Mapping[str, Call], device: str, seconds: float = 0.3) -> dict[str, list[float]]:
    """Seconds of each call: in turns, so that what else the machine does falls on all of them.

    Each is given `seconds` for all its rounds together.
    """
    return {"cpu": _cpu_times, "cuda": _cuda_times}[device](calls, seconds)


def _cpu_times(calls: Mapping[str, Call], seconds: float) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in calls}

    def goes_on(spent: Sequence[float]) -> bool:
        total = sum(spent)
        return len(spent) < ROUNDS[1] and total < LONGEST and (len(spent) < ROUNDS[0] or total < seconds)

    copy = itertools.count()  # the next one, so that no call finds its inputs in the cache because another had them
    tidy()
    gc.disable()
    try:
        for turn in range(ROUNDS[1]):
            for name in sorted(calls, reverse=turn % 2 == 1):
                if goes_on(found[name]):
                    k = next(copy)
                    start = time.perf_counter()
                    calls[name](k)
                    found[name].append(time.perf_counter() - start)
    finally:
        gc.enable()
    return found


def _cuda_times(calls: Mapping[str, Call], seconds: float) -> dict[str, list[float]]:
    """CUDA events around each call, after the L2 cache was overwritten, by Triton's `do_bench`; in five turns."""
    from triton.testing import do_bench

    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(5):
        for name, call in calls.items():
            each = do_bench(lambda call=call, turn=turn: call(turn), warmup=10, rep=200 * seconds, return_mode="all")
            found[name] += [1e-3 * t for t in each]
    return found


class Others:
    """While it is entered: what share of the machine's cores others took, the hypervisor too; None where unknown."""

    share: float | None = None

    def __enter__(self) -> "Others":
        self.before = self._taken(), time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        taken, (before, start) = self._taken(), self.before
        if taken is not None and before is not None:
            cores = (os.cpu_count() or 1) * (time.perf_counter() - start)
            self.share = round(min(max((taken - before) / cores, 0.0), 1.0), 2)

    def _taken(self) -> float | None:
        """Seconds in which a core was neither idle nor ours."""
        try:
            user, nice, system, _, _, irq, soft, steal, *_ = map(int, Path("/proc/stat").read_text().split()[1:11])
        except (OSError, ValueError):
            return None
        return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK") - sum(os.times()[:2])


def tidy() -> None:
    """Collect garbage among what is new: what torch's compiler keeps takes half a second to look through each time."""
    gc.collect()
    gc.freeze()


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles."""
    low, median, high = statistics.quantiles([*values] * (1 + (len(values) == 1)), n=4, method="inclusive")
    return {"median": median, "low": low, "high": high, "rounds": len(values)}


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, Any]:
    """Of their time to ours in the same turn."""
    return spread([t / o for t, o in zip(theirs, ours, strict=False)])


# -- memory ------------------------------------------------------------------------------------------------------------


def peak(call: Callable[[], Any], device: str) -> int | None:
    """Bytes that a call takes at most beyond what was taken before it: its outputs and all that it needs meanwhile.

    On CUDA as torch's allocator counts them. On the CPU pages that the process touched, whoever allocated them, good to
    about a megabyte: Linux counts, free memory of the heap is handed back first. None where that cannot be counted.
    """
    tidy()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts anew from what is resident now
    except (OSError, AttributeError):
        return None
    before = _resident("VmRSS")
    call()
    return max(_resident("VmHWM") - before, 0)


def _resident(field: str) -> int:
    found = re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


# -- floor -------------------------------------------------------------------------------------------------------------


def cache(device: str) -> int:
    """Bytes of the last cache before memory."""
    if device == "cuda":
        return torch.cuda.get_device_properties(0).L2_cache_size
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    return max([1024 * int(size.read_text().strip().removesuffix("K")) for size in sizes], default=2**25)


def bandwidth(device: str) -> float:
    """Bytes that a copy reads and writes in a second, of arrays far larger than the cache."""
    a = torch.rand(max(2**24, cache(device)), device=device)  # four times the cache, in bytes
    b = torch.empty_like(a)
    spent = times({"copy": lambda turn: b.copy_(a)}, device)["copy"]
    return 2 * a.nbytes / statistics.median(spent)


def rate(device: str, dtype: torch.dtype) -> float:
    """Operations of a matrix product in a second."""
    side = 8192 if device == "cuda" else 2048
    a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    spent = times({"product": lambda turn: a @ b}, device)["product"]
    return 2 * side**3 / statistics.median(spent)


# -- where and when ----------------------------------------------------------------------------------------------------


def processor() -> str:
    """The name of the CPU, never that of the host."""
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def commit() -> str:
    """Of the checkout, with a + where files differ from it, results aside."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=HERE.parent, capture_output=True, text=True, check=True).stdout

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    return git("rev-parse", "--short=12", "HEAD").strip() + "+" * bool(changed)


def environment(device: str) -> dict[str, Any]:
    """What a result depends on beside the code."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    heap = {k: v for k, v in os.environ.items() if k.startswith("MALLOC_") or k == "LD_PRELOAD"}
    return {
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "cache": cache(device),
        "threads": torch.get_num_threads(),
        "heap": " ".join(f"{k}={v}" for k, v in sorted(heap.items())) or "default",
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
        "commit": commit(),
    }


def slug(text: str) -> str:
    """For a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
