"""The verdict of a race: who wins, by ratios of times of the same round.

A ratio within a round cancels what the machine did to both. A challenger wins when the median ratio is below one and a
sign test over the rounds would be that lopsided by chance in fewer than one race of twenty.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

CHANCE = 0.05


def ratios(challenger: Sequence[float], incumbent: Sequence[float]) -> list[float]:
    """Return the ratio of times in each round that both ran."""
    return [ours / theirs for ours, theirs in zip(challenger, incumbent, strict=False)]


def sign_test(wins: int, rounds: int) -> float:
    """Return the chance of at least so many wins in fair rounds (one-sided; ties count as lost).

    >>> sign_test(5, 5), sign_test(0, 5)
    (0.03125, 1.0)
    """
    return sum(math.comb(rounds, count) for count in range(wins, rounds + 1)) / 2**rounds


def beats(challenger: Sequence[float], incumbent: Sequence[float]) -> bool:
    """Return whether a challenger beats an incumbent in a paired race."""
    paired = ratios(challenger, incumbent)
    if not paired or statistics.median(paired) >= 1.0:
        return False
    return sign_test(sum(ratio < 1.0 for ratio in paired), len(paired)) < CHANCE


def clearly_below(challenger: Sequence[float], incumbent: Sequence[float]) -> bool:
    """Return whether every sample is below every one of an incumbent's: for samples that are not paired."""
    return bool(challenger) and bool(incumbent) and max(challenger) < min(incumbent)


def stayed(samples: Sequence[Sequence[float]]) -> list[int]:
    """Return who did not leave a race early; a round that was cut short is not leaving.

    >>> stayed([[9.0] * 5, [1.0] * 21, [1.1] * 20])
    [1, 2]
    """
    longest = max(map(len, samples), default=0)
    return [at for at, row in enumerate(samples) if len(row) >= longest - 1]


def winner(samples: Sequence[Sequence[float]], baselines: Sequence[int], paired: bool) -> int:
    """Return who wins among entrants that are all right.

    The baselines (the library call, the default) are the incumbents: a later one takes the place of an earlier one
    only by beating it. Then the fastest challenger that beats every baseline wins; if there is none, the incumbent.
    Who left a race early, because it lost each of its first rounds by far, neither wins nor has to be beaten again.

    Args:
        samples: Seconds by entrant, and by round if they are paired.
        baselines: Indices of incumbents; where there are none, the first entrant is one.
        paired: Whether samples of equal index were taken in one round.
    """
    wins = beats if paired else clearly_below
    running = stayed(samples) if paired else list(range(len(samples)))
    first = min(running, key=lambda at: statistics.median(samples[at]) if samples[at] else math.inf)
    known = [at for at in baselines if at in running] or ([first] if baselines else [0])
    incumbent = known[0]
    for baseline in known[1:]:
        if wins(samples[baseline], samples[incumbent]):
            incumbent = baseline

    def slowness(at: int) -> float:
        paired_ratios = ratios(samples[at], samples[incumbent])
        if paired and paired_ratios:
            return statistics.median(paired_ratios)
        return statistics.median(samples[at])

    challengers = sorted((at for at in running if at not in known and samples[at]), key=slowness)
    for at in challengers:
        if all(wins(samples[at], samples[baseline]) for baseline in known):
            return at
    return incumbent
