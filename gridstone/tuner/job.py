"""A job: find the fastest right candidate for one problem within a budget, and record what was learned.

    enumerate -> (propose -> build -> screen) until the time, the set or the hope is used up -> race -> record

The library call, the default and an earlier job's winner are incumbents: whatever is to replace them has to beat them
all in the race. When time is short, fewer candidates are screened, then fewer challengers race, then nobody does; the
library call is always compared with whatever wins.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from gridstone.ir.errors import GridstoneError, LaunchError, MismatchError, SpecError
from gridstone.ir.spec import Spec
from gridstone.ir.text import print_spec
from gridstone.kernel_cache.host import LIBRARY, runs_here
from gridstone.kernel_cache.make import TOOLCHAINS, default_book, default_store
from gridstone.kernel_cache.records import RecordBook
from gridstone.kernel_cache.store import Store
from gridstone.lower.schedule import Schedule
from gridstone.lower.target import Target
from gridstone.templates.recipe import Recipe
from gridstone.templates.registry import RECIPES
from gridstone.tuner.builds import build_batch
from gridstone.tuner.candidate import Candidate, Candidates, pairs
from gridstone.tuner.conclusion import Conclusion, conclude
from gridstone.tuner.final import Final, Standing, affordable, finalists, race_seconds, run_final
from gridstone.tuner.ledger import Ledger
from gridstone.tuner.measurer import Measurer, Problem, SubprocessMeasurer
from gridstone.tuner.outcome import Phase, Progress, Stop, Tuned
from gridstone.tuner.pace import Clock, Pace
from gridstone.tuner.protocol import CAUGHT
from gridstone.tuner.samplers import DEFAULT, Sampler
from gridstone.tuner.search import STARTUP, Search
from gridstone.tuner.spawned import Late

SAMPLES = 7  # of a screening
SEEDS = (1, 2)  # of the operands that every candidate is checked on
HANG_SECONDS = 10.0  # a busy machine can take tenths of a second to what should last a millisecond
SAVE_SECONDS = 30.0  # what a job that is killed loses at most

_LOG = logging.getLogger("gridstone")
Listener = Callable[[Progress], None]


def tune(
    spec: Spec,
    targets: Sequence[Target],
    *,
    budget_seconds: float = 60.0,
    stated_seconds: float | None = None,
    max_evaluations: int | None = None,
    threads: int | None = None,
    sampler: Sampler | str = DEFAULT,
    seed: int = 0,
    store: Store | None = None,
    book: RecordBook | None = None,
    progress: Listener | None = None,
    worker: Measurer | None = None,
    again: bool = False,
    recipes: Sequence[Recipe[Schedule]] = RECIPES,
    hang_seconds: float = HANG_SECONDS,
    clock: Clock = time.monotonic,
) -> Tuned:
    """Return the fastest right candidate for a spec, from the records if they know it.

    Args:
        spec: Static; M is its bucket's value (`lower.bucket.problem`).
        targets: Those that may be used; the library's is added.
        budget_seconds: Of the whole job, which ends within a tenth more (a second at least) and what a running compiler
            takes. The library call and the default are screened whatever it is, unless it is 0: then only the records
            are asked.
        stated_seconds: Those to compare with an earlier job's: a winner whose search was short of time is searched on
            when there are more of both. `budget_seconds` when omitted.
        max_evaluations: Candidates to try at most.
        threads: Of the kernels; torch's own number when omitted.
        sampler: Who proposes.
        seed: Of the search.
        store: Of artefacts; the default store when omitted.
        book: Of records; the one beside the store when omitted.
        progress: Called whenever something was done.
        worker: Measures; a subprocess of this job's own when omitted. One that is given is left running.
        again: Search even if the records know the answer; the earlier winner is among the first tried.
        recipes: Those that may be used.
        hang_seconds: A candidate that takes longer to be checked and timed counts as hung, unless good ones nearly do.
        clock: Seconds that the budget is counted in.

    Raises:
        SpecError: The spec has symbolic extents, no recipe computes it, or there are fewer threads than one.
        LaunchError: A target does not run on this machine.
        GridstoneError: The problem cannot be measured here at all.
        KeyboardInterrupt: Passed on, after what was learned was recorded.
    """
    if spec.dims:
        raise SpecError(f"only static specs are tuned, not {print_spec(spec)}", "bind M with lower.bucket.problem")
    if threads is not None and threads < 1:
        raise SpecError(f"{print_spec(spec)} cannot be tuned for {threads} threads", "give 1 or more, or none")
    pace = Pace(clock, budget_seconds, max_evaluations, hang_seconds, STARTUP)
    for target in targets:
        if not runs_here(target):
            raise LaunchError(f"{target} does not run on this machine, so nothing can be measured", "tune for `auto`")
    able = [pair for target in dict.fromkeys((*targets, LIBRARY)) for pair in pairs(recipes, spec, target)]
    choices = [(recipe, target) for recipe, target in able if TOOLCHAINS[recipe.language].missing() is None]
    complete = len(choices) == len(able)
    candidates = Candidates(spec, choices)
    if not candidates.points.size:
        raise SpecError(f"no recipe computes {print_spec(spec)} on {', '.join(map(str, targets))}")
    kept = store or default_store()
    problem = Problem(
        spec, tuple({target.storage: None for _, target in choices}), threads or torch.get_num_threads(), SEEDS, kept
    )
    book = book or (default_book() if store is None else RecordBook(store.root))
    stated = budget_seconds if stated_seconds is None else stated_seconds
    ledger = Ledger(book, spec, problem.threads, candidates, able, max(stated, budget_seconds))
    settled = None if again else ledger.settled(complete, min(stated, budget_seconds))
    if settled is not None:
        return Tuned(settled, (), 0, True, Stop.REUSED, 0.0, 0, candidates.points.size, False, None)
    measurer = worker or SubprocessMeasurer()
    try:
        settings = _Settings(Sampler(sampler), seed, hang_seconds, complete)
        job = _Job(problem, candidates, ledger, measurer, pace, progress, settings)
        return job.run() if budget_seconds > 0 else job.skip()
    finally:
        if worker is None:
            measurer.close()


def _is_default(candidate: Candidate, spec: Spec) -> bool:
    """Return whether a candidate's recipe is the one that runs when nothing was tuned."""
    return candidate.recipe.claims(spec.with_storage(candidate.target.storage), candidate.target)


@dataclass(frozen=True, slots=True)
class _Settings:
    sampler: Sampler
    seed: int
    hang_seconds: float
    complete: bool  # every toolchain is there


class _Job:
    """A job's state: what is known of the candidates that were tried."""

    def __init__(
        self,
        problem: Problem,
        candidates: Candidates,
        ledger: Ledger,
        measurer: Measurer,
        pace: Pace,
        progress: Listener | None,
        settings: _Settings,
    ) -> None:
        self._problem, self._candidates, self._ledger = problem, candidates, ledger
        self._measurer, self._pace, self._progress, self._settings = measurer, pace, progress, settings
        defaults = candidates.defaults()
        library = [point for point in defaults if candidates.candidate(point).is_library][:1]
        own = [point for point in defaults if not candidates.candidate(point).is_library]
        own.sort(key=lambda point: not _is_default(candidates.candidate(point), problem.spec))
        earlier = ledger.incumbent(settings.complete)
        self._library = library[0] if library else None
        # In this order: a later one takes the place of an earlier one only by beating it.
        incumbents = [*library, *([earlier[0]] if earlier and earlier[0] is not None else []), *own[:1]]
        self._baselines: tuple[int, ...] = tuple(dict.fromkeys(incumbents))
        self._default = candidates.candidate((*own, *library, 0)[0])
        # The library comes after the default: one call may show that it has lost.
        seeds = (*own[:1], *library, *self._baselines, *ledger.seeds(), *own)
        self._search = Search(candidates.points, seeds, ledger.barred(), settings.sampler, settings.seed)
        self._standings: dict[int, Standing] = {}
        self._voided = 0
        self._opened: float | None = None
        self._saved = pace.clock()

    def run(self) -> Tuned:
        """Search, race, record."""
        self._report(Phase.PREPARE)
        try:
            self._opened = self._pace.clock()
            self._measurer.open(self._problem)
            stop = self._explore()
            self._report(Phase.RACE)
            final = self._race()
        except BaseException:  # an interrupt, a problem that cannot be measured any more, a bug: keep what was learned
            self._save()
            raise
        found = self._conclusion(final, partial=stop is Stop.BUDGET)
        self._ledger.put(found.records)
        self._report(Phase.DONE)
        return self._told(found, stop, final.raced)

    def skip(self) -> Tuned:
        """Return what is used where nothing was measured: an earlier winner, or else the default."""
        earlier = self._ledger.incumbent(self._settings.complete)
        unmeasured = self._ledger.record(self._default, "failed", (), None, "not measured: the budget was used up")
        return self._told(Conclusion(earlier[1] if earlier else unmeasured, (), {}), Stop.BUDGET, False)

    def _explore(self) -> Stop:
        """Build and screen batch after batch until something says stop."""
        while True:
            room = self._pace.room(self._reserve())
            if not self._standings:
                room = len(self._baselines)  # whatever the budget
            elif self._pace.out_of_evaluations():
                return Stop.EVALUATIONS
            elif room < 1:
                return Stop.BUDGET if self._search.left else Stop.EXHAUSTED
            elif self._pace.is_plateau():
                return Stop.PLATEAU
            batch = self._search.propose(room)
            if not batch:
                return Stop.EXHAUSTED
            for point in self._build(batch):
                if point not in self._baselines and not self._pace.allows(self._reserve()):
                    return Stop.BUDGET
                if not self._screen(point):
                    return Stop.BUDGET
            if self._pace.clock() - self._saved >= SAVE_SECONDS:
                self._save()

    def _build(self, batch: tuple[int, ...]) -> list[int]:
        """Build a batch; return the points that can be measured."""
        self._report(Phase.BUILD)
        start = self._pace.clock()
        chosen = [self._candidates.candidate(point) for point in batch]
        first = not self._standings
        errors = build_batch(
            chosen, self._problem.spec, self._problem.store, lambda: first or self._pace.until_limit() > 0
        )
        self._pace.built(self._pace.clock() - start, len(errors))
        for at, error in errors.items():
            if error is not None:
                self._fail(batch[at], error, None)
        return [batch[at] for at, error in errors.items() if error is None]

    def _screen(self, point: int) -> bool:
        """Screen a candidate; return False when the end of the budget cut that short, which is nobody's fault."""
        candidate, is_library = self._candidates.candidate(point), point == self._library
        begun, self._opened = self._opened or self._pace.clock(), None
        self._measurer.settle()  # not on this candidate's account
        start = self._pace.clock()
        self._pace.prepared(start - begun)
        patience = self._pace.patience(is_library)
        deadline = patience if point in self._baselines else min(patience, self._pace.until_limit())
        try:
            screened = self._measurer.screen(candidate, SAMPLES, deadline, self._pace.enough(is_library))
        except CAUGHT as error:
            if isinstance(error, LaunchError | MismatchError):
                self._pace.lost_worker()
            if isinstance(error, Late) and deadline < patience:
                return False
            self._fail(point, error, self._pace.clock() - start)
        else:
            wall = self._pace.clock() - start
            standing = Standing(point, candidate, screened.samples, screened.evidence, None, wall)
            self._standings[point] = standing
            self._voided += screened.voided
            self._pace.tried(wall, standing.seconds, is_library)
            self._search.tell(point, standing.seconds)
        self._report(Phase.SCREEN)
        return True

    def _fail(self, point: int, error: GridstoneError, wall: float | None) -> None:
        candidate = self._candidates.candidate(point)
        _LOG.info("%s (%s) failed: %s", candidate.text, candidate.hash, error)
        if point not in self._standings:  # and not a finalist that fails in the race
            self._pace.tried(wall, None, point == self._library)
            self._search.tell(point, None)
        self._standings[point] = Standing(point, candidate, (), None, error, wall or 0.0)

    def _race(self) -> Final:
        """Race the finalists; one that fails leaves, and the others race again."""
        while self._pace.left() > 0:
            limit = self._pace.until_limit()
            entrants = affordable(self._finalists(), self._baselines, limit)
            if not entrants:
                break
            outcome = run_final(self._measurer, entrants, self._pace.left(), limit, self._settings.hang_seconds)
            if isinstance(outcome, Final):
                return outcome
            if outcome is None:
                break
            self._pace.lost_worker()
            self._fail(entrants[outcome.at].point, outcome.error, None)
        return Final(self._finalists(), False)

    def _finalists(self) -> tuple[Standing, ...]:
        return finalists(tuple(self._standings.values()), self._baselines)

    def _reserve(self) -> float:
        """Return the seconds to keep for the race."""
        return race_seconds(self._finalists())

    def _conclusion(self, final: Final, *, interrupted: bool = False, partial: bool = False) -> Conclusion:
        return conclude(
            self._ledger, final, self._standings, self._baselines,
            self._candidates.candidate(self._baselines[0] if self._baselines else 0),
            interrupted=interrupted, complete=self._settings.complete, partial=partial,
        )  # fmt: skip

    def _save(self) -> None:
        """Write what is known so far, as of a job that was interrupted."""
        if self._standings:
            self._ledger.put(self._conclusion(Final(self._finalists(), False), interrupted=True).records)
        self._saved = self._pace.clock()

    def _told(self, found: Conclusion, stop: Stop, raced: bool) -> Tuned:
        library = found.standings.get(self._library) if self._library is not None else None
        seconds = library.seconds if library and library.error is None else None
        elapsed, size, done = self._pace.elapsed(), self._candidates.points.size, self._pace.done
        return Tuned(found.winner, found.records, done, False, stop, elapsed, self._voided, size, raced, seconds)

    def _report(self, phase: Phase) -> None:
        if self._progress is None:
            return
        times = {point: s.seconds for point, s in self._standings.items() if s.error is None}
        total = self._pace.done
        if phase is not Phase.DONE:
            total = self._pace.total(self._reserve(), self._candidates.points.size)
        library = times.get(self._library) if self._library is not None else None
        self._progress(Progress(phase, self._pace.done, total, min(times.values(), default=None), library))
