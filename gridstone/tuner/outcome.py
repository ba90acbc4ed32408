"""What a job tells: while it runs, and at its end."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from gridstone.kernel_cache.records import Record


class Phase(Enum):
    """What a job is doing."""

    PREPARE = "prepare"
    BUILD = "build"
    SCREEN = "screen"
    RACE = "race"
    DONE = "done"


class Stop(Enum):
    """Why a job ended its search."""

    REUSED = "reused"  # a record already holds the answer
    EXHAUSTED = "exhausted"  # every candidate was tried
    EVALUATIONS = "evaluations"
    BUDGET = "budget"
    PLATEAU = "plateau"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a job is.

    Args:
        phase: What it does now.
        done: Candidates tried, failures included.
        total: Estimate of `done` at the end.
        best_seconds, library_seconds: Of one call, by screening; None before there are any.
    """

    phase: Phase
    done: int
    total: int
    best_seconds: float | None
    library_seconds: float | None


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a job found.

    Args:
        winner: What to use. Its status is "failed" when no candidate is valid: then it names the library call.
        records: All that this job made, the winner's first; none when a record was reused.
        measured: Candidates tried, failures included.
        reused: Whether an earlier record answered.
        stop: Why the search ended.
        seconds: That the job took.
        voided: Blocks of samples thrown away because the clock drifted.
        feasible: Size of the feasible set.
        raced: Whether a race decided; otherwise there was no rival, or no time.
        library_seconds: Median of one library call, beside the winner's if they raced; None when there is no valid one.
    """

    winner: Record
    records: tuple[Record, ...]
    measured: int
    reused: bool
    stop: Stop
    seconds: float
    voided: int
    feasible: int
    raced: bool
    library_seconds: float | None
