"""Replay: the search, on a recorded table instead of a device, as often as it takes to tell luck from skill.

`F(t)` is the best time after t evaluations, an invalid configuration being one too. `P` is the score of the
methodology of the autotuning community (F.-J. Willemsen et al., "A methodology for comparing optimization algorithms
for auto-tuning", FGCS 2024):

    P(t) = (R(t) - F(t)) / (R(t) - optimum)

with R(t) what random search is expected to have after t evaluations: 0 is as good as random search, 1 the optimum at
once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gridstone.tuner.samplers import DEFAULT, Sampler
from gridstone.tuner.search import Search
from gridstone.tuner.table import Table

BATCH = 4  # configurations that are proposed together, as a job on two cores does
CLOSE = 0.95  # of the optimum
SCREENED = 3  # runs that a noisy measurement draws
FINALISTS = 5  # that are measured again before a winner is declared
RACED = 15  # runs of each finalist

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One search.

    Args:
        seed: Of the search, and of the noise.
        points: Configurations in the order of evaluation.
        values: What was measured of each, NaN for an invalid one.
        winner: The configuration that is declared the best; None when all were invalid.
    """

    seed: int
    points: tuple[int, ...]
    values: Vector
    winner: int | None


def replay(
    table: Table,
    evaluations: int,
    seed: int,
    *,
    sampler: Sampler = DEFAULT,
    noise: bool = False,
    first: Sequence[int] = (),
    prior: Vector | None = None,
    batch: int = BATCH,
) -> Run:
    """Search a table.

    Args:
        table: What is searched.
        evaluations: How many, at most all configurations.
        seed: Equal seeds give equal runs.
        sampler: Who proposes.
        noise: Draw each measurement from the recorded runs; the finalists are measured again.
        first: Configurations to try first.
        prior: (size,) what is believed of each configuration beforehand, as `Search` takes it.
        batch: How many are proposed together.
    """
    search = Search(table.points, first, sampler=sampler, seed=seed, prior=prior)
    rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
    measure: Callable[[int], float] = (
        (lambda at: _drawn(table, at, SCREENED, rng)) if noise else table.seconds.__getitem__
    )
    points: list[int] = []
    values: list[float] = []
    while len(points) < evaluations:
        proposed = search.propose(min(batch, evaluations - len(points)))
        if not proposed:
            break
        for point in proposed:
            value = float(measure(point))
            search.tell(point, None if math.isnan(value) else value)
            points.append(point)
            values.append(value)
    found = np.array(values)
    return Run(seed, tuple(points), found, _winner(table, points, found, rng if noise else None))


def _winner(table: Table, points: Sequence[int], values: Vector, rng: np.random.Generator | None) -> int | None:
    valid = [at for at in np.argsort(values, kind="stable") if math.isfinite(values[at])]
    if not valid:
        return None
    if rng is None:
        return points[valid[0]]
    finalists = [points[at] for at in valid[:FINALISTS]]
    return min(finalists, key=lambda point: _drawn(table, point, RACED, rng))


def _drawn(table: Table, point: int, count: int, rng: np.random.Generator) -> float:
    """Return the mean of runs drawn from those that were recorded; the table's time where there are none."""
    runs = table.samples[point]
    if math.isnan(table.seconds[point]) or not runs.size:
        return float(table.seconds[point])
    return float(rng.choice(runs, count).mean())


def fractions(table: Table, run: Run) -> Vector:
    """Return the optimum over the best true time after each evaluation: 0 while nothing valid is known, at most 1."""
    true = table.seconds[list(run.points)]
    best = np.fmin.accumulate(np.where(np.isfinite(true), true, np.inf))
    return table.optimum / best


def regret(table: Table, run: Run) -> float:
    """Return by what share the declared winner is truly slower than the best that was evaluated."""
    true = table.seconds[list(run.points)]
    if run.winner is None:
        return 0.0
    return float(table.seconds[run.winner] / np.nanmin(true) - 1.0)


def random_best(table: Table, evaluations: int) -> Vector:
    """Return the time that random search without repetition is expected to have after 1, 2, ... evaluations.

    While all that it drew is invalid, it is counted as having the worst valid time.
    """
    times = np.sort(np.where(np.isfinite(table.seconds), table.seconds, np.nanmax(table.seconds)))
    size = len(times)
    expected = np.empty(min(evaluations, size))
    # The chance that the best of t lies behind the k best of all: C(size - k, t) / C(size, t), taken step by step in t.
    behind = np.ones(size)  # [k]: none of the k best is among those drawn so far
    for t in range(len(expected)):
        behind = behind * np.clip((size - np.arange(size) - t) / (size - t), 0.0, 1.0)
        chance = behind - np.append(behind[1:], 0.0)
        expected[t] = chance @ times
    return np.maximum(expected, times[0])  # rounding may have left it below the optimum, where P divides by nothing


def scores(table: Table, run: Run) -> Vector:
    """Return P after each evaluation."""
    random = random_best(table, len(run.points))
    best = table.optimum / np.maximum(fractions(table, run), 1e-300)
    best = np.minimum(best, np.nanmax(table.seconds))
    return (random - best) / np.maximum(random - table.optimum, 1e-300)


def runs(
    table: Table, evaluations: int, seeds: Sequence[int], *, sampler: Sampler = DEFAULT, noise: bool = False,
    source: Table | None = None, batch: int = BATCH,
) -> Iterator[Run]:  # fmt: skip
    """Search a table once for each seed; see `replay`.

    Args:
        source: A table of another device, of which is believed what `prior_of` says.
    """
    prior = None if source is None else prior_of(table, source)
    for seed in seeds:
        yield replay(table, evaluations, seed, sampler=sampler, noise=noise, prior=prior, batch=batch)


def prior_of(table: Table, source: Table) -> Vector:
    """Return what a table of another device lets believe of each configuration: its time there, NaN where unknown."""
    found = np.full(table.points.size, np.nan)
    for point in range(table.points.size):
        at = source.find(table.configuration(point))
        if at is not None:
            # What failed there may well run here, and is no place to begin.
            found[point] = source.seconds[at] if np.isfinite(source.seconds[at]) else np.nanmax(source.seconds)
    return found
