"""A pytest plugin: says which tree is tested, lends it a warm kernel cache, and writes down what failed and how.

    python -m pytest -p tests.mutation.witness --witness REPORT [--warm CACHE] ...

The report has one JSON object a line, so that it is there too when the process dies: `start` of each test, `failed`
with the classes of the exception, `done` with the number of tests that passed.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

LONGEST = 600  # characters of a message
LONG = ("slow", "gpu")
KEPT = ("entries", "blobs")  # of a kernel cache: artefacts; no tuning records, locks or quarantine


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("mutation")
    group.addoption("--witness", default="", help="file to write the outcome of each test to")
    group.addoption("--warm", default="", help="kernel cache to begin with")


def link_cache(source: Path, to: Path) -> None:
    """Make a kernel cache that holds the artefacts of another; they share files, which are replaced, never changed."""
    for room in KEPT:
        if (source / room).is_dir():
            shutil.copytree(source / room, to / room, copy_function=_link, dirs_exist_ok=True)
    if to.is_dir():
        to.chmod(0o700)


def _link(source: str, to: str) -> None:
    if not os.path.exists(to):
        os.link(source, to)


class Witness:
    """What is registered when a report is asked for."""

    def __init__(self, report: Path) -> None:
        self._report = report
        self._passed = 0

    def say(self, event: str, **facts: Any) -> None:
        """Add a line to the report."""
        with self._report.open("a") as file:
            file.write(json.dumps({"event": event, **facts}) + "\n")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.say("start", test=nodeid)

    def pytest_exception_interact(self, node: Any, call: Any, report: Any) -> None:
        error = call.excinfo.value
        classes = [kind.__name__ for kind in type(error).__mro__]
        text = str(error)[:LONGEST]
        self.say("failed", test=node.nodeid, phase=call.when, classes=classes, text=text)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._passed += report.when == "call" and report.passed

    def pytest_sessionfinish(self) -> None:
        self.say("done", passed=self._passed)


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to test any tree but the one that pytest runs in."""
    if not config.getoption("--witness"):
        return
    import gridstone

    home = Path(gridstone.__file__).resolve().parents[1]
    if home != config.rootpath.resolve():
        pytest.exit(f"gridstone is imported from {home}, not from {config.rootpath}", returncode=3)
    config.pluginmanager.register(Witness(Path(config.getoption("--witness"))), "mutation-witness")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out long tests, unless one is asked for by its whole id."""
    if config.getoption("--witness"):
        asked = set(config.args)
        items[:] = [item for item in items if item.nodeid in asked or not any(map(item.get_closest_marker, LONG))]


@pytest.fixture(scope="session", autouse=True)
def warm_cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Lend this session's kernel cache what is in the warm one."""
    warm = request.config.getoption("--warm")
    if warm:
        link_cache(Path(warm), tmp_path_factory.getbasetemp() / "gridstone-cache")
