"""Options of `pytest benchmarks`, and what is said and kept at its end."""

from pathlib import Path

import pytest
from progress import Progress, missed
from report import report, targets
from results import save

RESULTS = pytest.StashKey[dict]()


def pytest_addoption(parser):
    group = parser.getgroup("motionspec")
    group.addoption("--results", metavar="FOLDER", type=Path, help="keep what was measured there")
    group.addoption("--ours", action="store_true", help="only our own times: no peers, no scaling")


def pytest_configure(config):
    config.stash[RESULTS] = {}
    config.pluginmanager.register(Progress(config))


@pytest.fixture
def results(request):
    """What was measured, by device and row."""
    return request.config.stash[RESULTS]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter, config):
    yield  # what pytest says comes first: the last lines are ours
    found = config.stash[RESULTS]
    rows = {device: [row for (where, *_), row in found.items() if where == device] for device in ("cpu", "cuda")}
    for device in rows:
        if rows[device]:
            terminalreporter.section(f"benchmarks on {device}")
            terminalreporter.write_line(report(rows[device]))
    if found and not config.getoption("--ours"):
        terminalreporter.section("targets")
        terminalreporter.write_line(targets(rows))
    if config.getoption("--results"):
        for device in rows:
            if rows[device]:
                terminalreporter.write_line(f"written: {save(config.getoption('--results'), device, rows[device])}")
    failed = [report for kind in ("failed", "error") for report in terminalreporter.stats.get(kind, [])]
    if failed:
        terminalreporter.section("what failed")
        terminalreporter.write_line("\n".join(missed(failed)))
