"""How far a run is, and what failed in it, in words."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

KEY = "motionspec/seconds"


def left(before: Mapping[str, float], done: Sequence[float], waiting: Iterable[str]) -> float:
    """Seconds for those that wait: what each took before, else the mean of those done in this run."""
    return sum(before.get(one, statistics.mean(done)) for one in waiting)


class Progress:
    """A plugin: behind each row how long it took and about how long what is left will take."""

    def __init__(self, config: pytest.Config):
        self.cache = getattr(config, "cache", None)  # there is none under -p no:cacheprovider
        self.before: dict[str, float] = self.cache.get(KEY, {}) if self.cache else {}
        self.done: dict[str, float] = {}
        self.waiting: list[str] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        # Targets are judged by what the rows measured, in no time.
        self.waiting = [item.nodeid for item in session.items if item.originalname == "test_time"]

    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, str] | None:
        if report.when != "call" or report.nodeid not in self.waiting:
            return None
        self.done[report.nodeid] = report.duration
        self.waiting.remove(report.nodeid)
        minutes = left(self.before, [*self.done.values()], self.waiting) / 60
        said = f"{report.outcome.upper()} {report.duration:.0f} s, {minutes:.0f} min left"
        return report.outcome, report.outcome[0], said

    def pytest_sessionfinish(self) -> None:
        if self.cache:
            self.cache.set(KEY, self.before | self.done)


def missed(reports: Iterable[Any]) -> list[str]:
    """Of each failed test the first line of what it says."""
    said = []
    for report in reports:
        crash = getattr(report.longrepr, "reprcrash", None)
        text = crash.message if crash else str(report.longrepr)
        said.append(text.removeprefix("AssertionError: ").split("\n")[0])
    return said
