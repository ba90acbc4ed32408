"""`python -m tests.mutation.generated`: change the emitted texts in every way a program can think of, one at a time.

One mutant of every kernel and operator comes first, so that a short run meets them all; the others follow as they are
drawn. Each outcome is a line of the state file, and a run goes on where the last one stopped. The exit status is 0 when
at least 95 of 100 mutants that are programs of their own were killed, enough of them were tried, and every survivor is
known to be equivalent.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import itertools
import json
import queue
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gridstone.kernel_cache.settings import read_settings
from gridstone.proof.mutate import Mutant, mutants
from tests.mutation.examiners import Examiner, ExaminerDied
from tests.mutation.kernels import Subject, runnable
from tests.mutation.machine_code import used_lines
from tests.mutation.outcomes import Outcome, read_outcomes, report

LEAST_KILLED = 0.95
LEAST_TRIED = 300  # mutants that are programs of their own


@dataclass(frozen=True, slots=True)
class Trial:
    """A mutant that is to be examined, or the original when there is none."""

    subject: Subject
    source: str
    mutant: Mutant | None

    @property
    def text(self) -> str:
        """The text to judge."""
        return self.mutant.text if self.mutant else self.subject.source.text

    def outcome(self, answer: dict[str, object]) -> Outcome:
        """Return the line that is kept."""
        m = self.mutant
        place = (m.id, m.operator, m.line, m.line_text, m.before, m.after) if m else ("original", "", 0, "", "", "")
        return Outcome(
            self.subject.name, self.source, *place, str(answer["result"]), str(answer["by"]), str(answer["why"]),
            round(float(str(answer["seconds"])), 2),
        )  # fmt: skip


def mark(text: str) -> str:
    """Return the hash by which outcomes know the text that they are of."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def trials(subjects: Sequence[Subject], seed: int) -> Iterator[Trial]:
    """Yield the mutants of kernels: first one of each kernel and operator, then all the others as they are drawn."""
    rng = random.Random(seed)
    first: list[Trial] = []
    others: list[Trial] = []
    for subject in subjects:
        source = subject.source
        found: dict[str, list[Trial]] = {}
        for mutant in mutants(source, used_lines(source, subject.kernel.target)):
            found.setdefault(mutant.operator, []).append(Trial(subject, mark(source.text), mutant))
        for group in found.values():
            rng.shuffle(group)
            first.append(group[0])
            others += group[1:]
    for part in (first, others):
        rng.shuffle(part)
        yield from part


class FalseAlarm(Exception):
    """A check objects to a kernel as it is emitted."""


class Run:
    """Examiners that work through trials until the time is up.

    Args:
        state: File of outcomes, appended to.
        folder: For what is built.
        jobs: Examiners at once.
    """

    def __init__(self, state: Path, folder: Path, jobs: int) -> None:
        self._state, self._folder, self._jobs = state, folder, jobs
        self._lock = threading.Lock()
        self._problems: list[BaseException] = []
        self.done = 0

    def work(self, wanted: Iterable[Trial], until: float) -> None:
        """Examine until there is nothing left, or the clock (of `time.monotonic`) says so.

        Raises:
            FalseAlarm: An original does not pass.
            ExaminerDied: A mutant cannot be examined.
        """
        waiting: queue.SimpleQueue[Trial | None] = queue.SimpleQueue()
        for trial in wanted:
            waiting.put(trial)
        start = time.monotonic()

        def serve() -> None:
            examiner = Examiner(self._folder)
            try:
                while time.monotonic() < until and not self._problems:
                    try:
                        trial = waiting.get_nowait()
                    except queue.Empty:
                        return
                    assert trial is not None
                    answer = examiner.ask(trial.subject.name, trial.text, always=trial.mutant is None)
                    self._keep(trial.outcome(answer), time.monotonic() - start)
            except BaseException as error:
                self._problems.append(error)
            finally:
                examiner.close()

        crew = [threading.Thread(target=serve, daemon=True) for _ in range(self._jobs)]
        for one in crew:
            one.start()
        for one in crew:
            one.join()
        if self._problems:
            raise self._problems[0]

    def _keep(self, outcome: Outcome, seconds: float) -> None:
        with self._lock:
            with self._state.open("a") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")
            self.done += 1
            print(f"[{self.done:4}  {seconds / 60:6.1f} min] {outcome}", file=sys.stderr, flush=True)
            if outcome.id == "original" and outcome.result != "survived":
                self._problems.append(FalseAlarm(f"{outcome.kernel}: {outcome.by} {outcome.why}"))


def main() -> int:
    """Run; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation.generated", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="after which no more mutants are begun")
    parser.add_argument("--seed", type=int, default=1, help="of the order in which mutants are taken")
    parser.add_argument("--kernels", action="append", default=[], metavar="NAME", help="a kernel's name, or a pattern")
    parser.add_argument("--jobs", type=int, default=2, help="mutants examined at once")
    parser.add_argument("--state", type=Path, help="file of outcomes; by default in the cache folder")
    parser.add_argument("--most", type=int, default=sys.maxsize, help="mutants to try at most")
    parser.add_argument("--least", type=int, default=LEAST_TRIED, help="mutants that must have been tried")
    asked = parser.parse_args()
    chosen = [s for s in runnable() if not asked.kernels or any(fnmatch.fnmatchcase(s.name, p) for p in asked.kernels)]
    if not chosen:
        print(f"no kernel has such a name; there are {', '.join(s.name for s in runnable())}", file=sys.stderr)
        return 2
    state = asked.state or read_settings().cache_dir / "mutation" / "generated.jsonl"
    state.parent.mkdir(parents=True, exist_ok=True)
    marks = {subject.name: mark(subject.source.text) for subject in chosen}
    known = [outcome for outcome in read_outcomes(state) if marks.get(outcome.kernel) == outcome.source]
    done = {(outcome.kernel, outcome.id) for outcome in known}
    until = time.monotonic() + 60 * asked.minutes
    originals = [Trial(s, marks[s.name], None) for s in chosen if (s.name, "original") not in done]
    print(f"{len(known)} outcomes of {state} still hold; {len(chosen)} kernels", file=sys.stderr, flush=True)
    everything = trials(chosen, asked.seed)
    left = (t for t in everything if t.mutant and (t.subject.name, t.mutant.id) not in done)
    with tempfile.TemporaryDirectory(prefix="gridstone-generated-") as folder:
        try:
            run = Run(state, Path(folder), asked.jobs)
            run.work(originals, until)
            run.work(itertools.islice(left, asked.most), until)
        except FalseAlarm as alarm:
            print(f"false alarm: {alarm}", file=sys.stderr)
            return 1
        except ExaminerDied as error:
            print(f"cannot go on: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("interrupted; the next run goes on from here", file=sys.stderr)
    outcomes = [o for o in read_outcomes(state) if marks.get(o.kernel) == o.source and o.id != "original"]
    print(report(outcomes))
    return 0 if passed(outcomes, asked.least) else 1


def passed(outcomes: Sequence[Outcome], least: int = LEAST_TRIED) -> bool:
    """Whether enough mutants were tried, enough of them killed, and every survivor is known to be equivalent."""
    killed = [o for o in outcomes if o.result == "killed"]
    survived = [o for o in outcomes if o.result == "survived"]
    tried = len(killed) + len(survived)
    known = all(outcome.reason for outcome in survived)
    return tried >= least and len(killed) >= LEAST_KILLED * tried and known


if __name__ == "__main__":
    sys.exit(main())
