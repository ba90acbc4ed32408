"""A measurer that knows the answers, and moves the clock that a job reads."""

import numpy as np

from gridstone.tuner.measurer import Fault
from gridstone.tuner.protocol import Evidence, Raced, Screened
from gridstone.tuner.spawned import Late

PROOF = Evidence(3, 0.5, 0.5)
LIBRARY = 10.0  # milliseconds


def smooth(candidate):
    """Milliseconds: the best is tile=8, stages=2; the default is worse, the library worst."""
    if candidate.is_library:
        return LIBRARY
    s = candidate.schedule
    return 1.0 + abs(np.log2(s.tile) - 3) + 0.5 * abs(s.stages - 2)


class Table:
    """Answers, and what they cost.

    Args:
        answer: Milliseconds of a candidate, or what its measurement raises.
        noise: Relative, of each sample.
        cost: Seconds of a screening, or a function of the candidate; one that outlasts its deadline is late.
        prepare: Seconds that a new worker takes.
    """

    def __init__(self, answer=smooth, noise=0.0, cost=0.1, seed=0, prepare=0.0):
        self.answer, self.noise, self.prepare = answer, noise, prepare
        self.cost = cost if callable(cost) else lambda candidate: cost
        self.rng = np.random.default_rng(seed)
        self.now, self.alive = 0.0, False
        self.screened, self.raced, self.started, self.asked, self.limits = [], [], [], [], []

    def clock(self):
        return self.now

    def open(self, problem):
        self.problem = problem

    def settle(self):
        self.now += 0.0 if self.alive else self.prepare
        self.alive = True

    def close(self):
        raise AssertionError("a measurer that was passed in is left alone")

    def sample(self, candidate, pace=1.0):
        found = self.answer(candidate)
        if isinstance(found, BaseException):
            self.alive = False
            raise found
        return float(1e-3 * found * pace * (1 + self.noise * self.rng.uniform(-1, 1)))

    def screen(self, candidate, samples, deadline, enough):
        self.asked.append((candidate.text, deadline, enough))
        self.screened.append(candidate.text)
        self.started.append(self.now)
        self.spend(self.cost(candidate), deadline)
        taken = tuple(self.sample(candidate) for _ in range(samples))
        return Screened(taken, 1 if self.noise else 0, 0.0, PROOF)

    def race(self, candidates, limits):
        self.raced.append([candidate.text for candidate in candidates])
        self.limits.append(limits)
        self.settle()
        try:
            self.spend(min(limits.seconds, sum(map(self.cost, candidates))), limits.deadline)
        except Late as error:
            return Fault(0, error)
        rows = [[] for _ in candidates]
        for _ in range(limits.rounds):
            pace = self.rng.uniform(1, 3)
            for at, candidate in enumerate(candidates):
                rows[at].append(self.sample(candidate, pace))
        return Raced(tuple(map(tuple, rows)), tuple(PROOF for _ in candidates))

    def spend(self, seconds, deadline):
        self.now += min(seconds, deadline)
        if seconds > deadline:
            self.alive = False
            raise Late(f"no answer within {deadline:.3g} s")


class Untouchable(Table):
    """Nothing may be asked of it."""

    def screen(self, *args):
        raise AssertionError("measured")

    open = race = settle = screen
