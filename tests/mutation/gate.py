"""The gate: every planted bug must be caught, and nothing that is right may be called wrong."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.plant import Planted
from tests.mutation.trial import (
    Result,
    Running,
    Seen,
    can_fuzz,
    copy_tree,
    fuzz_words,
    run_fuzz,
    run_tests,
    try_bug,
)
from tests.mutation.witness import link_cache

ROOT = Path(__file__).parents[2]
CONTROL_S = 1200.0  # of all tests that bugs name, once
Say = Callable[[str], None]


class FalseAlarm(Exception):
    """A check objects to the tree without any bug."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A bug and what its checks saw, after how many seconds."""

    planted: Planted
    seen: Seen
    seconds: float


@dataclass(frozen=True, slots=True)
class Variants:
    """What became of correct variants.

    Args:
        right: How many were judged right.
        wrong: The others, each with what was said of it.
    """

    right: int
    wrong: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Options:
    """How the gate is run.

    Args:
        jobs: Bugs tried at once.
        cap: Seconds of all checks of one bug.
        fuzz: Whether fuzzing follows the tests, where the tree can.
        variants: Whether correct variants are judged too.
    """

    jobs: int = 2
    cap: float = 20.0
    fuzz: bool = True
    variants: bool = True


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome.

    Args:
        trials: Of each bug that was tried, in the order of the list.
        asked: How many bugs there are to try.
        variants: None where they were not asked for.
        seconds: All of it took.
    """

    trials: tuple[Trial, ...]
    asked: int
    variants: Variants | None
    seconds: float

    def count(self, result: Result) -> int:
        """Return how many bugs ended so."""
        return sum(trial.seen.result is result for trial in self.trials)

    @property
    def passed(self) -> bool:
        """Whether every bug was tried and caught, without a false alarm."""
        quiet = self.variants is None or (self.variants.right > 0 and not self.variants.wrong)
        return quiet and self.count(Result.CAUGHT) == self.asked

    def __str__(self) -> str:
        n, caught, survived, broken = self.asked, *(self.count(result) for result in Result)
        text = f"{n} planted, {caught} caught, {survived} survived, {broken} broken"
        if len(self.trials) < n:
            text += f", {n - len(self.trials)} not tried"
        if self.variants is not None:
            text += f"; {self.variants.right} correct variants, {len(self.variants.wrong)} false alarms"
        return f"{text}; {clock(self.seconds)}"


def clock(seconds: float) -> str:
    """Return minutes and seconds.

    >>> clock(754.6)
    '12:35'
    """
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02}"


def run_gate(bugs: Sequence[Planted], folder: Path, options: Options, say: Say, root: Path = ROOT) -> Report:
    """Try bugs, each in a copy of a tree of its own.

    Args:
        bugs: To plant.
        folder: Empty, on a file system with hard links; holds trees and kernel caches meanwhile.
        options: How.
        say: Called with each line of progress.
        root: The tree to copy.

    Raises:
        FalseAlarm: The tree without bugs does not pass its own checks.
    """
    start, running = time.monotonic(), Running()
    trials: dict[str, Trial] = {}
    variants = None
    try:
        control, warm = copy_tree(root, folder / "control"), folder / "warm"
        variants = _control(bugs, control, warm, folder, options, running, say)
        say(f"control: nothing objects to the tree as it is; {clock(time.monotonic() - start)}")
        fuzz, begun = options.fuzz and can_fuzz(control, running), time.monotonic()
        for trial in _trials(bugs, control, warm, folder, options, running, fuzz):
            trials[trial.planted.name] = trial
            say(_line(trial, len(trials), len(bugs), time.monotonic() - begun))
        _confirm_fuzz(trials, control, warm, folder, options, running)
    except KeyboardInterrupt:
        running.stop()
        say("interrupted")
    in_order = tuple(trials[bug.name] for bug in bugs if bug.name in trials)
    return Report(in_order, len(bugs), variants, time.monotonic() - start)


def _line(trial: Trial, done: int, count: int, seconds: float) -> str:
    left = seconds / done * (count - done)
    bug, seen = trial.planted, trial.seen
    what = seen.by if seen.result is Result.CAUGHT else f"{seen.by} {seen.why}".strip()
    head = f"[{done:3}/{count}, {clock(left)} left] {seen.result.value:8} {bug.language:6}"
    return f"{head} {bug.name}: {' '.join(what.split())} ({trial.seconds:.1f} s)"


def _trials(
    bugs: Sequence[Planted], control: Path, warm: Path, folder: Path, options: Options, running: Running, fuzz: bool
) -> Iterator[Trial]:
    def one(at: int, bug: Planted) -> Trial:
        place = folder / f"bug-{at}"
        return Trial(bug, *try_bug(bug, control, place, warm, running, cap=options.cap, fuzz=fuzz))

    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            pending = [pool.submit(one, at, bug) for at, bug in enumerate(bugs)]
            for done in as_completed(pending):
                yield done.result()
        except BaseException:  # an interrupt: what is under way ends, what is not does not start
            running.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


# ---- the tree without bugs -----------------------------------------------------------------------------------------


def _control(
    bugs: Sequence[Planted], control: Path, warm: Path, folder: Path, options: Options, running: Running, say: Say
) -> Variants | None:
    """Run everything that could object on the tree as it is, which also fills the kernel cache."""
    shares = _shares(dict.fromkeys(test for bug in bugs for test in bug.tests), max(1, options.jobs))
    say(f"control: {sum(map(len, shares))} tests{' and correct variants' if options.variants else ''}")

    def tests(at: int) -> Seen:
        place = folder / f"control-{at}"
        place.mkdir()
        return run_tests(control, shares[at], place, warm if warm.exists() else None, running, CONTROL_S, whole=True)

    def judged(at: int) -> list[dict[str, object]]:
        words = [sys.executable, "-m", "tests.mutation.variants", "--part", f"{at}/{options.jobs}"]
        place = folder / f"variants-{at}"
        status, said = running.run(words, control, CONTROL_S, GRIDSTONE_CACHE_DIR=str(place))
        if status != 0:
            raise FalseAlarm(f"correct variants cannot be judged: ended with {status}\n{said[-2000:]}")
        return [json.loads(line) for line in said.splitlines() if line.startswith("{")]

    with ThreadPoolExecutor(options.jobs) as pool:
        checks = [pool.submit(tests, at) for at in range(len(shares))]
        drawn = [pool.submit(judged, at) for at in range(options.jobs)] if options.variants else []
        try:
            seen = [check.result() for check in checks]
            lines = [line for part in drawn for line in part.result()]
        except BaseException:
            running.stop()
            raise
    for one in seen:
        if one.result is not Result.SURVIVED or not one.passed:
            raise FalseAlarm(f"the tree without bugs: {one.by} {one.why}")
    for at in range(len(shares)):
        link_cache(folder / f"control-{at}" / "pytest" / "gridstone-cache", warm)
        shutil.rmtree(folder / f"control-{at}")
    if not options.variants:
        return None
    return Variants(
        sum(not line["problem"] for line in lines),
        tuple(f"{line['variant']}: {line['problem']}" for line in lines if line["problem"]),
    )


def _shares(tests: dict[str, None], count: int) -> list[list[str]]:
    """Part tests so that those of a file stay together, and each part has about as many."""
    files: dict[str, list[str]] = {}
    for test in tests:
        files.setdefault(test.partition("::")[0], []).append(test)
    shares: list[list[str]] = [[] for _ in range(count)]
    for group in sorted(files.values(), key=len, reverse=True):
        min(shares, key=len).extend(group)
    return [share for share in shares if share]


def _confirm_fuzz(
    trials: dict[str, Trial], control: Path, warm: Path, folder: Path, options: Options, running: Running
) -> None:
    """Fuzz the tree without bugs as it was fuzzed with those that this found: it must find nothing there.

    Raises:
        FalseAlarm: It does.
    """
    by_fuzz = [trial.planted for trial in trials.values() if trial.seen.by.startswith("fuzz")]
    for words in sorted({tuple(fuzz_words(bug)) for bug in by_fuzz}):
        place = folder / "fuzz"
        place.mkdir()
        seen = run_fuzz(control, words, place, warm, running, options.cap)
        shutil.rmtree(place)
        if seen.result is not Result.SURVIVED:
            raise FalseAlarm(f"the tree without bugs: {seen.by} {seen.why}")


# ---- the table -----------------------------------------------------------------------------------------------------


def table(report: Report) -> str:
    """Return a line for each bug: class, language, what caught it, and after how many seconds."""
    rows = [("bug", "class", "language", "seconds", "caught by")]
    for trial in report.trials:
        bug, seen = trial.planted, trial.seen
        by = seen.by if seen.result is Result.CAUGHT else f"{seen.result.value.upper()}: {seen.by} {seen.why}"
        rows.append((bug.name, bug.klass, bug.language, f"{trial.seconds:.1f}", by))
    wide = [max(len(row[at]) for row in rows) for at in range(4)]
    lines = ["  ".join((*(part.ljust(wide[at]) for at, part in enumerate(row[:4])), row[4])) for row in rows]
    alarms = [f"false alarm: {text}" for text in report.variants.wrong] if report.variants else []
    return "\n".join([*lines, *alarms, "", str(report)])


def as_json(report: Report) -> str:
    """Return all of it as JSON."""
    rows = [
        {
            "bug": trial.planted.name, "class": trial.planted.klass, "language": trial.planted.language,
            "file": trial.planted.file, "result": trial.seen.result.value, "by": trial.seen.by,
            "why": trial.seen.why, "seconds": round(trial.seconds, 2),
        }
        for trial in report.trials
    ]  # fmt: skip
    found = report.variants
    drawn = None if found is None else {"right": found.right, "false_alarms": list(found.wrong)}
    whole = {"passed": report.passed, "asked": report.asked, "seconds": round(report.seconds, 1), "variants": drawn}
    return json.dumps({**whole, "bugs": rows}, indent=2)
