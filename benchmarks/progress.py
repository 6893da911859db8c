"""How far a run is, and what failed in it, in words."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

KEY = "motionspec/seconds"


def left(known: Mapping[str, float], waiting: Sequence[str]) -> float | None:
    """Seconds for those that wait: what each took last, else the mean of all that are known; None if none is."""
    if waiting and not known:
        return None
    mean = sum(known.values()) / max(len(known), 1)
    return sum(known.get(one, mean) for one in waiting)


class Progress:
    """A plugin: behind each row how long it took and about how long what is left will take."""

    def __init__(self, config: pytest.Config):
        self.cache = getattr(config, "cache", None)  # there is none under -p no:cacheprovider
        self.known: dict[str, float] = self.cache.get(KEY, {}) if self.cache else {}
        self.waiting: list[str] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        # Targets are judged by what the rows measured, in no time.
        self.waiting = [item.nodeid for item in session.items if item.originalname == "test_time"]

    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, str] | None:
        if report.when != "call" or report.nodeid not in self.waiting:
            return None
        self.known[report.nodeid] = report.duration
        self.waiting.remove(report.nodeid)
        said = f"{report.outcome.upper()} {report.duration:.0f} s, {left(self.known, self.waiting) / 60:.0f} min left"
        return report.outcome, report.outcome[0], said

    def pytest_sessionfinish(self) -> None:
        if self.cache:
            self.cache.set(KEY, self.known)


def missed(reports: Iterable[Any]) -> list[str]:
    """Of each failed test the first line of what it says."""
    said = []
    for report in reports:
        crash = getattr(report.longrepr, "reprcrash", None)
        text = crash.message if crash else str(report.longrepr)
        said.append(text.removeprefix("AssertionError: ").split("\n")[0])
    return said
