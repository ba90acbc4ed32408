"""A campaign: subjects explored side by side for some minutes, failures shrunk, everything counted.

Time is shared out by weight: the next batch goes to the subject that has had least of its share. A batch's seed comes
from the campaign's and from how many batches its subject has had, so that the same seed explores the same cases in the
same order, however far the time reaches.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gridstone.proof.fuzz.crew import Answer, Crew, Died, Worker
from gridstone.proof.fuzz.subject import Finding, Wanted

BATCH_S = 15.0  # of exploring, after which a worker is free for another subject
SHRINK_S = 90.0  # of looking for simpler cases of one failure
MOST_FINDINGS = 8  # a campaign that has found so many ends
_WAIT_S = 0.25


@dataclass(slots=True)
class Tally:
    """What was done for one subject.

    Args:
        cases: That ran and were right.
        seconds: Of a worker.
        rows: Cases by what they cover.
        kernels: Hashes of the kernels that were built.
        batches: That were started.
    """

    cases: int = 0
    seconds: float = 0.0
    rows: dict[str, int] = field(default_factory=dict)
    kernels: set[str] = field(default_factory=set)
    batches: int = 0


@dataclass(slots=True)
class Campaign:
    """A run of the fuzzer.

    Args:
        weights: Subjects by name, with the share of the time that each is to have.
        seed: Of everything drawn.
        wanted: What it is restricted to.
        tallies: What was done.
        findings: What was wrong.
        seconds: That it took.
    """

    weights: Mapping[str, float]
    seed: int
    wanted: Wanted
    tallies: dict[str, Tally] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0
    _running: dict[int, tuple[str, float]] = field(default_factory=dict)
    _later: deque[tuple[Worker, Answer | Died]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        for name in self.weights:
            self.tallies.setdefault(name, Tally())

    def run(
        self,
        crew: Crew,
        seconds: float,
        progress: Callable[[Campaign], None] = lambda _: None,
        found: Callable[[Finding], None] = lambda _: None,
    ) -> None:
        """Explore until the time is over or too much is wrong; a failure in hand is shrunk first.

        Args:
            crew: Runs the cases.
            seconds: From now.
            progress: Called a few times a second.
            found: Called with each finding, once it is shrunk.

        An interrupt ends it at once, with everything found so far in `findings`.
        """
        start = time.monotonic()
        try:
            while True:
                left = start + seconds - time.monotonic()
                over = left <= 0 or len(self.findings) >= MOST_FINDINGS
                if not over:
                    for worker in crew.idle():
                        crew.ask(worker, self._batch(worker, min(left, BATCH_S)))
                elif not crew.busy():
                    break
                self._later += crew.answers(_WAIT_S)
                known = len(self.findings)
                while self._later:
                    self._take(*self._later.popleft(), crew)
                for finding in self.findings[known:]:
                    found(finding)
                self.seconds = time.monotonic() - start
                progress(self)
        finally:
            self.seconds = time.monotonic() - start

    def _batch(self, worker: Worker, seconds: float) -> Answer:
        """Return the request for the subject that is furthest behind its share."""
        now = time.monotonic()
        spent = {name: tally.seconds for name, tally in self.tallies.items()}
        for name, since in self._running.values():
            spent[name] += now - since + seconds / 2
        name = min(self.weights, key=lambda n: spent[n] / self.weights[n])
        tally = self.tallies[name]
        digest = hashlib.sha256(f"{self.seed} {name} {tally.batches}".encode()).digest()
        tally.batches += 1
        self._running[id(worker)] = name, now
        wanted = {"ops": self.wanted.ops, "targets": self.wanted.targets, "formats": self.wanted.formats}
        return {"explore": name, "seed": int.from_bytes(digest[:6], "little"), "seconds": seconds, "wanted": wanted}

    def _take(self, worker: Worker, answer: Answer | Died, crew: Crew) -> None:
        name, since = self._running.get(id(worker), ("", 0.0))
        if isinstance(answer, Died):
            self._running.pop(id(worker), None)
            if name:
                self.tallies[name].seconds += time.monotonic() - since
                self._found(name, answer.case, answer.how, crew)
            return
        if "ran" in answer:
            tally = self.tallies[name]
            tally.cases += answer["ran"]
            tally.rows[answer["row"]] = tally.rows.get(answer["row"], 0) + answer["ran"]
            tally.kernels |= {answer["kernel"]} - {""}
        elif "failed" in answer:
            self._found(name, answer["failed"], answer["problem"], crew)
        elif "done" in answer or "error" in answer:
            del self._running[id(worker)]
            self.tallies[name].seconds += time.monotonic() - since
            if "error" in answer:
                raise AssertionError(f"{name} cannot be explored: {answer['error']}")

    def _found(self, name: str, case: str, problem: str, crew: Crew) -> None:
        known = {(finding.subject, finding.first) for finding in self.findings}
        if len(self.findings) >= MOST_FINDINGS or (name, case) in known:
            return
        at = len(self.findings)
        self.findings.append(Finding(name, case, problem, case))  # kept, should the shrinking be interrupted
        shrunk = shrink(Finding(name, case, problem, case), lambda request: self._asked(request, crew))
        others = {(finding.subject, finding.case) for i, finding in enumerate(self.findings) if i != at}
        self.findings[at] = shrunk
        if (shrunk.subject, shrunk.case) in others:
            del self.findings[at]

    def _asked(self, request: Answer, crew: Crew) -> Answer | Died:
        """Ask one thing and wait for the answer; what others say meanwhile is taken afterwards."""
        worker = next(crew.idle(), None)
        while worker is None:
            self._later += crew.answers(_WAIT_S)
            worker = next(crew.idle(), None)
        crew.ask(worker, request)
        while True:
            for said, answer in crew.answers(_WAIT_S):
                if said is worker:
                    return answer
                self._later.append((said, answer))


def shrink(finding: Finding, ask: Callable[[Answer], Answer | Died], seconds: float = SHRINK_S) -> Finding:
    """Return a finding with the simplest case that is still wrong, going from case to simpler case while there is one.

    Args:
        finding: As it was found.
        ask: Runs a request on a worker.
        seconds: After which the simplest so far has to do.
    """
    end, case, problem, steps = time.monotonic() + seconds, finding.case, finding.problem, 0
    tried = {case}
    while True:
        listed = ask({"simpler": finding.subject, "case": case}) if case else {}
        candidates = listed.get("simpler", []) if not isinstance(listed, Died) else []
        for candidate in candidates:
            if candidate in tried:
                continue
            if time.monotonic() > end:
                break
            tried.add(candidate)
            steps += 1
            answer = ask({"problem": finding.subject, "case": candidate})
            wrong = answer.how if isinstance(answer, Died) else answer.get("problem", "")
            if wrong:
                case, problem = candidate, wrong
                break
        else:
            return Finding(finding.subject, case, problem, finding.first, steps)
        if time.monotonic() > end:
            return Finding(finding.subject, case, problem, finding.first, steps)
