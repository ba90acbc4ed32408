"""The conclusion of a job: what was tried, as records with a winner.

Whoever is to take an earlier winner's place has to beat it in a race: a job that was interrupted, had no time to race,
or lacks the compiler to build it leaves it where it is. A winner of a job that was short of time says so in its reason,
with the job's budget: one with a larger budget goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from gridstone.kernel_cache.records import INTERRUPTED, PARTIAL, UNRACED, Record
from gridstone.tuner.candidate import Candidate
from gridstone.tuner.final import Final, Standing
from gridstone.tuner.ledger import INCOMPLETE, Ledger

_LOG = logging.getLogger("gridstone")


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What a job ends with.

    Args:
        winner: What to use.
        records: What is to be kept, the winner's first unless it is an earlier job's and nothing new is known of it.
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
    partial: bool,
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
        partial: Whether the budget ended the search.
    """
    standings = {**tried, **{standing.point: standing for standing in final.entrants}}
    point, kept = ledger.incumbent(complete) or (None, None)
    reason = _reason(final, interrupted, complete, partial)
    known = standings.get(point) if point is not None else None
    if kept is not None and known is not None and known.error is not None:
        kept = None
    if kept is not None and (point is None or not final.raced):
        losses = [_loss(ledger, s, kept.median) for s in standings.values() if s.point != point]
        if interrupted or point is None or not kept.reason or not ledger.is_winner(kept):
            return Conclusion(kept, tuple(losses), standings)
        winner = _doubted(ledger, kept, kept, PARTIAL if (kept.reason, reason) == (PARTIAL, UNRACED) else reason)
        return Conclusion(winner, (winner, *losses), standings)
    best = final.winner(baselines)
    losses = [_loss(ledger, s, best.seconds if best else None) for s in standings.values() if s is not best]
    if best is None:
        failed = next((s for s in standings.values() if s.candidate == fallback), None)
        reason = str(failed.error) if failed else "not measured"
        if losses:
            _LOG.warning("all %d candidates failed; %s is used as it is: %s", len(losses), fallback.text, reason)
        return Conclusion(ledger.record(fallback, "failed", (), None, reason), tuple(losses), standings)
    winner = ledger.record(best.candidate, "winner", best.samples, best.evidence, reason)
    winner = winner if kept is None else _doubted(ledger, winner, kept, reason)
    return Conclusion(winner, (winner, *losses), standings)


def _reason(final: Final, interrupted: bool, complete: bool, partial: bool) -> str:
    """Return why a later job shall try to better this one's winner; empty when it shall not."""
    if interrupted:
        return INTERRUPTED
    if not complete:
        return INCOMPLETE
    if not final.raced and len(final.entrants) > 1:
        return UNRACED
    return PARTIAL if partial else ""


def _doubted(ledger: Ledger, winner: Record, earlier: Record, reason: str) -> Record:
    """Return this job's winner after an earlier one, with its reason and the largest budget that was too short.

    Whatever stays or wins against the winner of a search that came to its own end is not worse, and settles as much.
    """
    reason = reason if earlier.reason else ""
    still_short = reason in (UNRACED, PARTIAL) and earlier.reason in (UNRACED, PARTIAL)
    budget = max(ledger.budget or 0.0, earlier.budget or 0.0) if still_short else ledger.budget
    return msgspec.structs.replace(winner, reason=reason, budget=budget)


def _loss(ledger: Ledger, standing: Standing, best_seconds: float | None) -> Record:
    if standing.error is not None:
        return ledger.record(standing.candidate, "failed", (), None, str(standing.error))
    reason = f"{standing.seconds / best_seconds:.3g} times the winner's time" if best_seconds else ""
    return ledger.record(standing.candidate, "loser", standing.samples, standing.evidence, reason)
