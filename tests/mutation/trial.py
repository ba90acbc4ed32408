"""A trial: one tree, edited or not, put through tests and then through fuzzing until the first check objects."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.mutation.plant import PACKAGE, Planted
from tests.mutation.witness import link_cache

COPIED = (PACKAGE, "tests", "bench", "examples", "pyproject.toml")
IGNORED = shutil.ignore_patterns(".hypothesis", "golden", "results", "*.tmp")
CAP_S = 20.0  # seconds of all checks of one bug
FUZZ_START_S = 4.0  # before the first case runs
SHORTEST_FUZZ_S = 6.0  # less would end before the first case
# What a check raises when what it checks is wrong. Anything else says that the edit makes no program.
OBJECTIONS = {"AssertionError", "Failed", "GridstoneError"}
NO_PROGRAM = {"BuildError", "TemplateError"}
_NO_PROGRAM = re.compile(
    r"\b(?:Name|Syntax|Indentation|Attribute|Type|Import|ModuleNotFound|Compilation|Undefined)Error\b"
)
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGABRT, signal.SIGILL)
_PYTEST = (
    "-m", "pytest", "-q", "--no-header", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist",
    "-p", "tests.mutation.witness",
)  # fmt: skip


class Result(Enum):
    """What became of a bug."""

    CAUGHT = "caught"
    SURVIVED = "survived"
    BROKEN = "broken"  # the edit makes no program: the gate's own fault


@dataclass(frozen=True, slots=True)
class Seen:
    """What the checks of a tree saw.

    Args:
        result: Of them.
        by: The check that objected, or that could not be run: a test's id, or `fuzz:` and a case.
        why: What it said, or why nothing objected.
        passed: Tests that did not object.
    """

    result: Result
    by: str = ""
    why: str = ""
    passed: int = 0


class Running:
    """The processes that are under way, so that an interrupt ends them: they have sessions of their own."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._children: set[subprocess.Popen[str]] = set()
        self.stopped = False

    def run(self, command: Sequence[str], tree: Path, seconds: float, **environment: str) -> tuple[int | None, str]:
        """Return (exit status or None when the time was up, what was printed)."""
        with self._guard:
            if self.stopped:
                return None, "interrupted"
            child = subprocess.Popen(
                command, cwd=tree, env=_environment(tree) | environment, text=True, errors="replace",
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            self._children.add(child)
        try:
            said, _ = child.communicate(timeout=max(0.1, seconds))
            return child.returncode, said
        except subprocess.TimeoutExpired:
            _kill(child)
            return None, child.communicate()[0]
        finally:
            _kill(child)  # what it started and left behind
            with self._guard:
                self._children.discard(child)

    def stop(self) -> None:
        """End everything; whatever is run from now on ends at once."""
        with self._guard:
            self.stopped = True
            for child in self._children:
                _kill(child)


def _kill(child: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _environment(tree: Path) -> dict[str, str]:
    """Return the environment of a child: this tree's modules first, and nothing of a pytest that runs this one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "GRIDSTONE_CACHE"))}
    return kept | {"PYTHONPATH": str(tree), "COLUMNS": "120"}


def copy_tree(source: Path, to: Path) -> Path:
    """Copy what is needed to run tests, times of change included, so that compiled modules stay valid."""
    to.mkdir(parents=True)
    for name in COPIED:
        if (source / name).is_dir():
            shutil.copytree(source / name, to / name, ignore=IGNORED)
        elif (source / name).exists():
            shutil.copy2(source / name, to / name)
    return to


def run_tests(
    tree: Path, tests: Iterable[str], scratch: Path, warm: Path | None, running: Running, seconds: float, *, whole: bool
) -> Seen:
    """Run tests in a tree; `whole`: also those behind the first that objects."""
    report, asked = scratch / "witness", list(tests)
    report.unlink(missing_ok=True)
    options = [f"--basetemp={scratch / 'pytest'}", "--witness", str(report), *([] if whole else ["-x"])]
    options += ["--warm", str(warm)] if warm else []
    options += ["--hypothesis-seed=1"] if _draws(tree, asked) else ["-p", "no:hypothesispytest"]
    status, said = running.run([sys.executable, *_PYTEST, *options, *asked], tree, seconds)
    lines = report.read_text().splitlines() if report.exists() else []
    return _judged(status, said, [json.loads(line) for line in lines])


def _draws(tree: Path, tests: Iterable[str]) -> bool:
    """Whether tests draw their cases by Hypothesis, whose plugin takes a second to load."""
    files = {tree / test.partition("::")[0] for test in tests}
    return any("hypothesis" in file.read_text() for file in files if file.is_file())


def _judged(status: int | None, said: str, events: list[dict[str, object]]) -> Seen:
    failed = [event for event in events if event["event"] == "failed"]
    started = [str(event["test"]) for event in events if event["event"] == "start"]
    passed = sum(int(str(event["passed"])) for event in events if event["event"] == "done")
    if failed:
        first = failed[0]
        by, text = str(first["test"]), " ".join(str(first["text"]).split())
        classes = first["classes"]
        assert isinstance(classes, list)
        why = f"{classes[0]}: {text}"
        fit = OBJECTIONS.intersection(classes) and not NO_PROGRAM.intersection(classes) and first["phase"] != "collect"
        wrong = not fit or _NO_PROGRAM.search(text)
        return Seen(Result.BROKEN if wrong else Result.CAUGHT, by, why, passed)
    if status == 0 and passed:
        return Seen(Result.SURVIVED, "", f"{passed} tests passed", passed)
    if status is None:
        return Seen(Result.SURVIVED, "", f"the time was up{', in ' + started[-1] if started else ''}", passed)
    if started and -status in _CRASHES:
        return Seen(Result.CAUGHT, started[-1], f"the process died of {signal.Signals(-status).name}", passed)
    return Seen(Result.BROKEN, "", f"pytest ended with {status}: {' '.join(said[-400:].split())}", passed)


def fuzz_words(planted: Planted) -> list[str]:
    """Return what of `gridstone fuzz` looks where a bug is."""
    if planted.language != "python":
        return ["--target", planted.language]
    for part, subject in (
        ("ir/text", "text"), ("ir/storage", "packing"), ("ir/format", "packing"), ("ir/dtype", "packing"),
        ("ir/layout", "layout"), ("ir/composition", "layout"), ("ir/tiling", "layout"), ("ir/swizzle", "layout"),
        ("runtime/dispatch", "entries"), ("kernel_cache/launch", "entries"), ("runtime/", "programs"),
    ):  # fmt: skip
        if planted.file.startswith(part):
            return ["--subject", subject]
    return ["--target", "cpp"]


def can_fuzz(tree: Path, running: Running) -> bool:
    """Whether the tree has the command."""
    return running.run([sys.executable, "-m", PACKAGE, "fuzz", "--help"], tree, 60.0)[0] == 0


def run_fuzz(
    tree: Path, words: Sequence[str], scratch: Path, warm: Path | None, running: Running, seconds: float
) -> Seen:
    """Fuzz a tree for some seconds, with a fixed seed."""
    cache = scratch / "fuzz-cache"
    if warm:
        link_cache(warm, cache)
    length = ("--minutes", f"{max(1.0, seconds - FUZZ_START_S) / 60:.3f}")
    options = ("--seed", "1", *length, "--jobs", "1", "--save", str(scratch), *words)
    command = [sys.executable, "-m", PACKAGE, "fuzz", *options]
    status, said = running.run(command, tree, seconds + 15.0, GRIDSTONE_CACHE_DIR=str(cache))
    name = f"fuzz {' '.join(words)}"
    text = " ".join(said[-600:].split())
    if status == 1:
        return Seen(Result.BROKEN if _NO_PROGRAM.search(said) or "BuildError" in said else Result.CAUGHT, name, text)
    if status in (0, None):
        return Seen(Result.SURVIVED, "", f"{name}: nothing found in {seconds:.0f} s")
    return Seen(Result.BROKEN, name, f"it ended with {status}: {text}")


def try_bug(
    planted: Planted, control: Path, folder: Path, warm: Path | None, running: Running, *, cap: float, fuzz: bool
) -> tuple[Seen, float]:
    """Plant a bug in a copy of the control tree, and return what its checks saw and after how many seconds.

    Args:
        planted: The bug.
        control: The tree without it.
        folder: Of this trial's own; removed.
        warm: Kernel cache of the control tree.
        running: Where its processes are entered.
        cap: Seconds of all checks.
        fuzz: Whether fuzzing follows the tests.
    """
    try:
        tree = copy_tree(control, folder / "tree")
        planted.plant(tree)
        lent = None if planted.wants_empty_cache else warm
        start = time.monotonic()
        seen = Seen(Result.SURVIVED, "", "it names no tests")
        if planted.tests:
            seen = run_tests(tree, planted.tests, folder, lent, running, cap, whole=False)
        left = cap - (time.monotonic() - start)
        if fuzz and seen.result is Result.SURVIVED and left > SHORTEST_FUZZ_S:
            seen = run_fuzz(tree, fuzz_words(planted), folder, lent, running, left)
        return seen, time.monotonic() - start
    finally:
        shutil.rmtree(folder, ignore_errors=True)
