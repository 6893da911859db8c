"""Shared by all tests: where real data lies, and how hard Hypothesis searches."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# One test process per core: threads of their own would only wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# `make test` repeats the same examples each time; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("repeatable", derandomize=True, max_examples=25, deadline=None, database=None)
settings.register_profile(
    "explore", max_examples=400, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck)
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest in one piece comes first: as the last, it would leave the other processes idle."""
    items.sort(key=lambda item: item.path.name != "test_resources.py")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A network that a test builds begins with the same weights each time: of others, some diverged in training."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real clips and flow pairs ($MOTIONSPEC_REALDATA); the test is skipped where there is none."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("MOTIONSPEC_REALDATA", root.parent / "shared" / "realdata"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set MOTIONSPEC_REALDATA")
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What motionspec keeps for later is kept among the tests' files, and not among the user's."""
    os.environ["MOTIONSPEC_CACHE"] = str(tmp_path_factory.mktemp("cache"))
