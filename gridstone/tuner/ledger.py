"""The ledger: what a job takes from the record book, and what it writes into it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from datetime import UTC, datetime

import torch

import gridstone
from gridstone.ir.spec import Spec
from gridstone.ir.tensor import Dim
from gridstone.ir.text import print_spec
from gridstone.kernel_cache.host import cpu_facts, device_name
from gridstone.kernel_cache.make import TOOLCHAINS
from gridstone.kernel_cache.records import (
    INTERRUPTED,
    NAME_LIMIT,
    PARTIAL,
    TEXT_LIMIT,
    UNRACED,
    Environment,
    Proof,
    Record,
    RecordBook,
    Status,
)
from gridstone.kernel_cache.staleness import environment_change
from gridstone.lower.bucket import BUCKETS, ROWS, generalize
from gridstone.lower.schedule import Schedule, print_schedule
from gridstone.lower.target import Language, Target
from gridstone.templates.recipe import Recipe
from gridstone.templates.render import recipe_hash
from gridstone.tuner.candidate import Candidate, Candidates
from gridstone.tuner.protocol import Evidence

INCOMPLETE = "a toolchain was missing"  # of a winner that a job with all of them shall try to better


class Ledger:
    """The records of one problem.

    Args:
        book: Where they are kept.
        spec: Static.
        threads: Of the kernels.
        candidates: Those of the job.
        able: Every recipe that computes the spec, with its target, also where the toolchain is missing; the others'
            records, and those of recipes that have changed, are stale.
        budget: Seconds of the job, which its records tell; None when nobody counts them.
    """

    def __init__(
        self,
        book: RecordBook,
        spec: Spec,
        threads: int,
        candidates: Candidates,
        able: Sequence[tuple[Recipe[Schedule], Target]],
        budget: float | None = None,
    ) -> None:
        self._book, self._spec, self._text, self._threads = book, spec, print_spec(spec), threads
        self._candidates, self.budget = candidates, budget
        targets = [target for _, target in able if target.language is not Language.LIBRARY]
        self._device = device_name(targets[0] if targets else None)
        self._hashes = {(recipe.name, str(target)): recipe_hash(recipe) for recipe, target in able}
        self._kept = book.get(self._text, self._device, threads)

    def settled(self, complete: bool, budget: float) -> Record | None:
        """Return a winner that needs no further search: of a job that ended, not stale, feasible here.

        Args:
            complete: Whether every toolchain is there: then a winner that was found without one is none.
            budget: Seconds that a search would have; for more than its own, one that was short of time is none.
        """
        for record in self._kept:
            if record.status != "winner" or _is_open(record, complete, budget) or not self._is_current(record):
                continue
            if environment_change(record):
                continue
            if self._point(record) is not None:
                return record
        return None

    def incumbent(self, complete: bool) -> tuple[int | None, Record] | None:
        """Return the earlier winner with its point, if it is not stale: then calls use it.

        Args:
            complete: Whether every toolchain is there: if not, it may be none of the candidates, and has no point.
        """
        for record in _winners(self._kept):
            point = self._point(record)
            current = self._is_current(record) and not environment_change(record)
            if current and (point is not None or not complete):
                return point, record
        return None

    def is_winner(self, record: Record) -> bool:
        """Return whether a record is the winner still: another job may have found a better one meanwhile."""
        return record in _winners(self._book.get(self._text, self._device, self._threads))

    def seeds(self) -> tuple[int, ...]:
        """Return the points of earlier winners, stale ones too: this problem's, and that of the nearest other M."""
        found = (self._point(record) for record in (*_winners(self._kept), *self._neighbour()))
        return tuple(point for point in found if point is not None)

    def barred(self) -> tuple[int, ...]:
        """Return the points that failed before with the same recipe, compiler and torch; never the library call."""
        points: list[int] = []
        for record in self._kept:
            point = self._point(record) if record.status == "failed" and self._is_current(record) else None
            if point is None:
                continue
            candidate = self._candidates.candidate(point)
            now = self.environment(candidate)
            same = (record.environment.compiler, record.environment.torch) == (now.compiler, now.torch)
            if same and not candidate.is_library:
                points.append(point)
        return tuple(points)

    def environment(self, candidate: Candidate) -> Environment:
        """Return where and with what a candidate is measured."""
        facts = dict(TOOLCHAINS[candidate.recipe.language].identity(candidate.target))
        flags = hashlib.sha256(" ".join(sorted(cpu_facts()[1])).encode()).hexdigest()[:16]
        created = datetime.now(UTC).isoformat(timespec="seconds")
        compiler, version = facts.get("compiler", "")[:NAME_LIMIT], str(torch.__version__)
        return Environment(gridstone.__version__, version, compiler, self._device, flags, self._threads, created)

    def record(
        self, candidate: Candidate, status: Status, samples: Sequence[float], evidence: Evidence | None, reason: str
    ) -> Record:
        """Return the record of a candidate."""
        proof = None
        if evidence is not None and math.isfinite(evidence.worst_element) and math.isfinite(evidence.worst_rms):
            proof = Proof(evidence.cases, evidence.worst_element, evidence.worst_rms)
        return Record(
            self._text,
            str(candidate.target),
            candidate.recipe.name,
            recipe_hash(candidate.recipe),
            print_schedule(candidate.schedule),
            tuple(samples),
            status,
            reason[:TEXT_LIMIT],
            self.environment(candidate),
            proof,
            self.budget,
        )

    def put(self, records: Sequence[Record]) -> None:
        """Merge records into the book."""
        if records:
            self._book.put(self._text, self._device, self._threads, tuple(records))

    def _is_current(self, record: Record) -> bool:
        return self._hashes.get((record.recipe, record.target)) == record.recipe_hash

    def _point(self, record: Record) -> int | None:
        return self._candidates.point(record.recipe, record.target, record.schedule)

    def _neighbour(self) -> tuple[Record, ...]:
        """Return the winner of the nearest other bucket of M that has one."""
        rows = self._spec.inputs[0].type.shape[0]
        if isinstance(rows, Dim):
            return ()
        general = generalize(self._spec)
        for other in sorted(BUCKETS, key=lambda bucket: abs(math.log2(bucket / max(rows, 1)))):
            if other != rows:
                text = print_spec(general.bind(**{ROWS: other}))
                found = _winners(self._book.get(text, self._device, self._threads))
                if found:
                    return found
        return ()


def _is_open(record: Record, complete: bool, budget: float) -> bool:
    """Return whether a search with this budget may know better than the one that found this winner."""
    if record.reason in (UNRACED, PARTIAL):
        return budget > (record.budget or 0.0)
    return record.reason == INTERRUPTED or (complete and record.reason == INCOMPLETE)


def _winners(records: Sequence[Record]) -> tuple[Record, ...]:
    return tuple(record for record in records if record.status == "winner")
