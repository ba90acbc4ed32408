"""The pace of a job: what its steps have cost, and whether the budget allows another.

A job plans to end within its budget. A step that lasts longer than it should is cut short at the budget's limit, which
is a tenth of the budget, or a second, later. What is not cut short are the first steps, without which there is no
answer (preparing operands, building the default, trying it and the library call), and a compiler that is running.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

from gridstone.kernel_cache.host import usable_cores
from gridstone.tuner.measure import FAR, SLOW_SECONDS

Clock = Callable[[], float]

SLACK_SHARE, SLACK_SECONDS = 0.1, 1.0  # of the budget, and at least
LIBRARY_PATIENCE = 10.0  # the library call may take this many times as long as others before it counts as hung
SLOWER = 4.0  # times the slowest good screening that any other may take, though it be longer than a hang
PLATEAU_FEWEST, PLATEAU_SHARE, PLATEAU_GAIN = 8, 0.25, 0.01


class Pace:
    """Counts seconds and evaluations.

    Args:
        clock: In seconds.
        budget_seconds: Of the whole job, from now.
        evaluations: At most; None for any number.
        hang_seconds: That any screening may take.
        startup: Evaluations before a plateau can begin: until then nobody has searched.
    """

    def __init__(
        self, clock: Clock, budget_seconds: float, evaluations: int | None, hang_seconds: float, startup: int
    ) -> None:
        self.clock, self.start = clock, clock()
        self._deadline = self.start + budget_seconds
        self._slack = max(SLACK_SECONDS, SLACK_SHARE * budget_seconds)
        self._evaluations, self._hang_seconds, self._startup = evaluations, hang_seconds, startup
        self._screenings: list[float] = []
        self._slowest_good = 0.0
        self._builds: list[float] = []
        self._preparing, self._owed = 0.0, 0.0
        self._best: float | None = None
        self._bettered_at = 0
        self.done = 0

    def left(self) -> float:
        """Return the seconds that are left, less what preparing a new worker takes; negative when overdrawn."""
        return self._deadline - self.clock() - self._owed

    def until_limit(self) -> float:
        """Return the seconds until even a step that is under way has to end."""
        return max(0.0, self.left() + self._slack)

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return self.clock() - self.start

    def prepared(self, wall: float) -> None:
        """Note that the worker is ready, and what that took."""
        self._preparing, self._owed = max(self._preparing, wall), 0.0

    def lost_worker(self) -> None:
        """Note that the next step needs a new worker, which has to prepare the problem anew."""
        self._owed = self._preparing

    def built(self, wall: float, count: int) -> None:
        """Note what building a batch took."""
        self._builds.append(wall / max(count, 1))

    def tried(self, wall: float | None, seconds: float | None, library: bool) -> None:
        """Note an evaluation: what it took (None when it was not screened), what it gave (None for a failure)."""
        self.done += 1
        if wall is not None and not library:  # the library may be slower by orders of magnitude, and comes once
            self._screenings.append(wall)
        if seconds is None:
            return
        if not library:
            self._slowest_good = max(self._slowest_good, wall or 0.0)
        if self._best is None or seconds < self._best * (1.0 - PLATEAU_GAIN):
            self._best, self._bettered_at = seconds, self.done

    def patience(self, library: bool) -> float:
        """Return how long the next screening may take before it counts as hung."""
        if library:
            return max(self._hang_seconds, min(LIBRARY_PATIENCE * self._hang_seconds, self.until_limit()))
        return max(self._hang_seconds, SLOWER * self._slowest_good)

    def enough(self, library: bool) -> float | None:
        """Return the seconds of a call beyond which the library has lost for sure; None when that cannot be said."""
        return max(SLOW_SECONDS, FAR * self._best) if library and self._best is not None else None

    def allows(self, reserve: float) -> bool:
        """Return whether another screening, as long as earlier ones, leaves the reserve untouched."""
        return self.left() - reserve >= self._screening()

    def room(self, reserve: float) -> int:
        """Return how many candidates to build and screen next; 0 when there is no time or no evaluation left."""
        count = 2 * usable_cores()
        if self._evaluations is not None:
            count = min(count, self._evaluations - self.done)
        left, each = self.left() - reserve, self._each()
        if left <= 0:
            return 0
        return max(0, min(count, int(left / each) if each > 0 else count))

    def out_of_evaluations(self) -> bool:
        """Return whether the number of evaluations is used up."""
        return self._evaluations is not None and self.done >= self._evaluations

    def is_plateau(self) -> bool:
        """Return whether the last evaluations brought no improvement worth the name."""
        idle = self.done - max(self._bettered_at, self._startup)
        return idle >= max(PLATEAU_FEWEST, PLATEAU_SHARE * self.done)

    def total(self, reserve: float, points: int) -> int:
        """Return an estimate of the evaluations at the end."""
        each = self._each()
        more = points if each <= 0 else int(max(0.0, self.left() - reserve) / each)
        return min(points, self.done + more, self._evaluations if self._evaluations is not None else points)

    def _each(self) -> float:
        return self._screening() + (statistics.median(self._builds) if self._builds else 0.0)

    def _screening(self) -> float:
        return statistics.median(self._screenings) if self._screenings else 0.0
