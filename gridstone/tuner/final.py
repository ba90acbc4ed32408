"""The final: the incumbents and the best few of the screening, side by side."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gridstone.ir.errors import GridstoneError
from gridstone.tuner.candidate import Candidate
from gridstone.tuner.measure import FEWEST_ROUNDS
from gridstone.tuner.measurer import Fault, Measurer, RaceLimits
from gridstone.tuner.protocol import Evidence
from gridstone.tuner.spawned import Late
from gridstone.tuner.verdict import winner

FINALISTS = 4  # challengers
ROUNDS = 21
PATIENCE = 3.0  # times as long as expected, and a race ends with the rounds that it has
RACE_SHARE = 1.5  # seconds that an entrant's part of a race lasts at most, in screenings of it


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a candidate that was tried.

    Args:
        point: Its number.
        candidate: Itself.
        samples: Seconds of one call each; by round after a race.
        evidence: Of its checks; None when it failed.
        error: Why it failed, or None.
        wall: Seconds that its screening took.
    """

    point: int
    candidate: Candidate
    samples: tuple[float, ...]
    evidence: Evidence | None
    error: GridstoneError | None
    wall: float

    @property
    def seconds(self) -> float:
        """Median time of one call."""
        return statistics.median(self.samples)


@dataclass(frozen=True, slots=True)
class Final:
    """The entrants with their last samples.

    Args:
        entrants: All valid.
        raced: Whether their samples are paired by round.
    """

    entrants: tuple[Standing, ...]
    raced: bool

    def winner(self, baselines: Sequence[int]) -> Standing | None:
        """Return who wins over the baselines, given by their points; None when nobody is valid."""
        if not self.entrants:
            return None
        places = [at for at, standing in enumerate(self.entrants) if standing.point in baselines]
        return self.entrants[winner([standing.samples for standing in self.entrants], places, self.raced)]


def race_seconds(entrants: Sequence[Standing]) -> float:
    """Return how long a race of these is expected to last."""
    return RACE_SHARE * sum(standing.wall for standing in entrants)


def finalists(standings: Sequence[Standing], baselines: Sequence[int]) -> tuple[Standing, ...]:
    """Return the valid baselines in their order, then the fastest of the others."""
    valid = [standing for standing in standings if standing.error is None]
    incumbents = [standing for point in baselines for standing in valid if standing.point == point]
    others = sorted((s for s in valid if s.point not in baselines), key=lambda s: s.seconds)
    return (*incumbents, *others[:FINALISTS])


def affordable(entrants: Sequence[Standing], baselines: Sequence[int], seconds: float) -> tuple[Standing, ...]:
    """Return who races when there are so many seconds: the slowest challengers stay out first, a baseline never.

    Empty when there is nobody to race, or no time even for the best challenger beside the baselines.
    """
    fewest = sum(standing.point in baselines for standing in entrants) + 1
    for count in range(len(entrants), 1, -1):
        if race_seconds(entrants[:count]) <= seconds:
            return tuple(entrants[:count])
        if count <= fewest:
            break
    return ()


def run_final(
    measurer: Measurer, entrants: Sequence[Standing], left: float, until_limit: float, hang_seconds: float
) -> Final | Fault | None:
    """Race the entrants.

    Args:
        measurer: Times them.
        entrants: Two or more.
        left: Seconds of the budget: more rounds than a sign test needs are run within it.
        until_limit: Seconds until the race ends in any case.
        hang_seconds: That an entrant may take beyond what is expected.

    Returns:
        Who failed, or None when the limit came before there were enough rounds to decide anything.
    """
    expected = race_seconds(entrants)
    hung = PATIENCE * expected + 2 * hang_seconds
    limits = RaceLimits(
        ROUNDS, max(0.0, min(left, PATIENCE * expected)), until_limit, min(hung, until_limit + expected)
    )
    raced = measurer.race([standing.candidate for standing in entrants], limits)
    if isinstance(raced, Fault):
        cut_short = isinstance(raced.error, Late) and limits.deadline < hung
        return None if cut_short else raced
    if max(map(len, raced.samples)) < FEWEST_ROUNDS:
        return None
    rows = zip(entrants, raced.samples, raced.evidence, strict=True)
    return Final(tuple(replace(s, samples=row, evidence=_joined(s.evidence, proof)) for s, row, proof in rows), True)


def _joined(earlier: Evidence | None, later: Evidence | None) -> Evidence | None:
    if earlier is None or later is None:
        return earlier or later
    element, rms = max(earlier.worst_element, later.worst_element), max(earlier.worst_rms, later.worst_rms)
    return Evidence(earlier.cases + later.cases, element, rms)
