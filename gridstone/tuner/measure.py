"""Measuring: samples of a callable on rotated operands, by a clock that is passed in.

Every call finds its operands out of the caches, because it takes the next of many copies. A sample is the mean over
enough calls to last a millisecond. Times compare only within a block in which the processor's clock stood still, which
a sentinel tells, or between samples of one round of a race.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

MIB = 1 << 20
SAMPLE_SECONDS = 1e-3  # a sample lasts at least this
TURN_SECONDS = 50e-3  # a sample goes through all copies where that lasts no longer
BLOCK_SECONDS = 1.0  # a screening that lasts longer takes fewer samples
SLOW_SECONDS = 0.25  # a call this long needs no warm-up beyond one call
DRIFT = 0.05  # relative change of the sentinel that voids a block
REPEATS = 2  # times that a voided block is measured again
FEWEST_ROUNDS = 5  # all of them lost: one-sided sign test p = 1/32
HOPELESS = 1.2  # slower than the best by this factor in each of the fewest rounds: leaves the race
FAR = 5.0  # slower by this factor, and slow, in the warm-up and in one round: leaves at once

Clock = Callable[[], float]
Call = Callable[..., torch.Tensor]
Tensors = tuple[torch.Tensor, ...]


class Rotation:
    """Copies of a set of operands, handed out in turn.

    Args:
        tensors: The set.
        copies: How many.
    """

    def __init__(self, tensors: Tensors, copies: int) -> None:
        self.copies = copies
        self._endless = itertools.cycle([tuple(tensor.clone() for tensor in tensors) for _ in range(copies)])

    def take(self, count: int) -> list[Tensors]:
        """Return the next `count` sets."""
        return list(itertools.islice(self._endless, count))


def copies_needed(set_bytes: int, cache_bytes: int, threads: int) -> int:
    """Return how many copies of a set outgrow the caches: 64 MiB or twice the last level, at most 512 MiB.

    A virtual machine may hide that each thread has a last-level cache of its own, so it counts once per thread.
    """
    wanted = min(max(64 * MIB, 2 * cache_bytes * threads), 512 * MIB)
    return max(1, min(-(-wanted // max(set_bytes, 1)), 512 * MIB // max(set_bytes, 1), 4096))


def last_level_cache(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Return the size in bytes of the largest cache that Linux reports; 0 where it reports none."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    sizes = [0]
    for path in root.glob("index*/size"):
        try:
            text = path.read_text().strip()
            sizes.append(int(text[:-1]) * units[text[-1]] if text[-1:] in units else int(text))
        except (OSError, ValueError):
            continue
    return max(sizes)


def make_sentinel(clock: Clock) -> Callable[[], float]:
    """Return a function that times a fixed computation: one thread, in the nearest cache, so only the clock counts."""
    x = torch.linspace(-1.0, 1.0, 4096)
    y = torch.exp(x)

    def sentinel() -> float:
        best = float("inf")
        for _ in range(7):
            start = clock()
            for _ in range(64):
                torch.exp(x, out=y)
            best = min(best, clock() - start)
        return best

    return sentinel


@dataclass(frozen=True, slots=True)
class Block:
    """Samples of one callable.

    Args:
        samples: Seconds of one call each.
        voided: Blocks thrown away before this one.
        drift: Relative change of the sentinel from start to end.
    """

    samples: tuple[float, ...]
    voided: int
    drift: float


def time_sample(call: Call, rotation: Rotation, calls: int, clock: Clock) -> float:
    """Return the mean seconds of consecutive calls, each on the next operands."""
    batch = rotation.take(calls)
    start = clock()
    for tensors in batch:
        call(*tensors)
    return (clock() - start) / calls


def calls_per_sample(call: Call, rotation: Rotation, clock: Clock) -> tuple[int, float]:
    """Warm up; return how many calls make a sample, and roughly the seconds of one call."""
    seconds = time_sample(call, rotation, 1, clock)
    calls = 1
    while seconds * calls < SAMPLE_SECONDS:
        calls = min(max(2 * calls, 2), 1 << 16)
        seconds = time_sample(call, rotation, calls, clock)
        if calls == 1 << 16:
            break
    if calls == 1 and seconds < SLOW_SECONDS:  # the first call is the slowest
        seconds = time_sample(call, rotation, 1, clock)
    if rotation.copies * seconds <= TURN_SECONDS:
        calls = max(calls, rotation.copies)
    return calls, seconds


def screen(call: Call, rotation: Rotation, samples: int, clock: Clock, sentinel: Callable[[], float]) -> Block:
    """Take a few samples of a callable; a block in which the sentinel drifted is measured again.

    After the repeats, the last block counts as it is: its drift says how far to trust it. Of a call that alone lasts
    half a block, one sample is taken.
    """
    calls, seconds = calls_per_sample(call, rotation, clock)
    if seconds >= BLOCK_SECONDS / 2:
        return Block((seconds,), 0, 0.0)
    kept = max(1, min(samples, int(BLOCK_SECONDS / (seconds * calls)))) if seconds > 0 else samples
    for voided in itertools.count():
        before = sentinel()
        if seconds < SLOW_SECONDS:
            time_sample(call, rotation, calls, clock)  # dropped: the first sample is 3 to 6 % slow
        taken = tuple(time_sample(call, rotation, calls, clock) for _ in range(kept))
        drift = sentinel() / before - 1.0
        if abs(drift) <= DRIFT or voided == REPEATS or sum(taken) * calls > BLOCK_SECONDS:
            return Block(taken, voided, drift)
    raise AssertionError("unreachable")


def race(
    entrants: Sequence[tuple[Call, Rotation]],
    rounds: int,
    seconds: float,
    clock: Clock,
    turn: Callable[[int], None],
    latest: float = math.inf,
) -> tuple[tuple[float, ...], ...]:
    """Time callables in turn, A B C A B C ..., and return the seconds of one call by entrant and round.

    A call of a second that is five times as slow as the best is known to lose after one round. Nobody else leaves
    before the fewest rounds that a sign test can use.

    Args:
        entrants: Callables and their operands; entrants that share a rotation never meet each other's warm copies.
        rounds: At most.
        seconds: Stop after this long, though not before those fewest rounds.
        clock: In seconds.
        turn: Told which entrant is next.
        latest: Stop after this long in any case. Fewer rounds than the fewest decide nothing.
    """
    start = clock()
    stop, end = start + seconds, start + latest
    plans: list[tuple[int, float]] = []
    for at, (call, rotation) in enumerate(entrants):
        turn(at)
        plans.append(calls_per_sample(call, rotation, clock))
    taken: list[list[float]] = [[] for _ in entrants]
    running = list(range(len(entrants)))
    for number in range(-1, rounds):  # round -1 is dropped
        for at in running:
            call, rotation = entrants[at]
            if number < 0 and plans[at][1] >= SLOW_SECONDS:
                continue
            turn(at)
            sample = time_sample(call, rotation, plans[at][0], clock)
            if number >= 0:
                taken[at].append(sample)
        if clock() >= end:
            break
        if number == 0:
            running = list(_near(running, [plan[1] for plan in plans], taken))
        elif number + 1 >= FEWEST_ROUNDS:
            if clock() >= stop:
                break
            running = list(_hopeful(running, taken))
    return tuple(map(tuple, taken))


def _near(running: list[int], warm: Sequence[float], taken: list[list[float]]) -> Iterator[int]:
    """Yield those that are not far behind: what takes long is not done five times to show what one call shows."""
    best = min(running, key=lambda at: taken[at][0])
    bound = max(SLOW_SECONDS, FAR * max(warm[best], taken[best][0]))
    for at in running:
        if min(warm[at], taken[at][0]) < bound:
            yield at


def _hopeful(running: list[int], taken: list[list[float]]) -> Iterator[int]:
    best = min(running, key=lambda at: statistics.median(taken[at]))
    for at in running:
        if any(own < HOPELESS * other for own, other in zip(taken[at], taken[best], strict=True)):
            yield at
