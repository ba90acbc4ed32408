"""The conclusion of a job: what was tried, as records with a winner.

Whoever is to take an earlier winner's place has to beat it in a race: a job that was interrupted, had no time to race,
or lacks the compiler to build it leaves it where it is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gridstone.kernel_cache.records import Record
from gridstone.tuner.candidate import Candidate
from gridstone.tuner.final import Final, Standing
from gridstone.tuner.ledger import INCOMPLETE, INTERRUPTED, Ledger

UNRACED = "not raced: short of time"

_LOG = logging.getLogger("gridstone")


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What a job ends with.

    Args:
        winner: What to use.
        records: What is to be kept, the winner's first unless it is an earlier job's.
        standings: By point, with the samples of the race for those that raced.
    """

    winner: Record
    records: tuple[Record, ...]
    standings: Mapping[int, Standing]


def conclude(
    ledger: Ledger,
    final: Final,
    tried: Mapping[int, Standing],
    baselines: Sequence[int],
    fallback: Candidate,
    *,
    interrupted: bool,
    complete: bool,
) -> Conclusion:
    """Return what a job ends with; nothing is written.

    Args:
        ledger: Makes the records.
        final: The entrants of the race, or those that would have raced.
        tried: Every candidate that was tried, by point.
        baselines: Points of the incumbents.
        fallback: What is used although nothing is valid.
        interrupted: Whether the job did not come to its end.
        complete: Whether every toolchain is there.
    """
    standings = {**tried, **{standing.point: standing for standing in final.entrants}}
    earlier = ledger.incumbent(complete)
    if earlier is not None:
        point, kept = earlier
        known = standings.get(point) if point is not None else None
        if (known is None or known.error is None) and (point is None or not final.raced):
            losses = [_loss(ledger, s, kept.median) for s in standings.values() if s.point != point]
            return Conclusion(kept, tuple(losses), standings)
    best = final.winner(baselines)
    losses = [_loss(ledger, s, best.seconds if best else None) for s in standings.values() if s is not best]
    if best is None:
        failed = next((s for s in standings.values() if s.candidate == fallback), None)
        reason = str(failed.error) if failed else "not measured"
        if losses:
            _LOG.warning("all %d candidates failed; %s is used as it is: %s", len(losses), fallback.text, reason)
        return Conclusion(ledger.record(fallback, "failed", (), None, reason), tuple(losses), standings)
    reason = "" if final.raced or len(final.entrants) == 1 else UNRACED
    reason = reason if complete else INCOMPLETE
    reason = INTERRUPTED if interrupted else reason
    winner = ledger.record(best.candidate, "winner", best.samples, best.evidence, reason)
    return Conclusion(winner, (winner, *losses), standings)


def _loss(ledger: Ledger, standing: Standing, best_seconds: float | None) -> Record:
    if standing.error is not None:
        return ledger.record(standing.candidate, "failed", (), None, str(standing.error))
    reason = f"{standing.seconds / best_seconds:.3g} times the winner's time" if best_seconds else ""
    return ledger.record(standing.candidate, "loser", standing.samples, standing.evidence, reason)
