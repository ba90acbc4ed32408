"""`bench.gpu --predict`: what the cost model says of every schedule of the benchmark's problems. Needs no GPU."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from bench.gpu_jobs import bench_spec
from gridstone.ir.spec import Spec
from gridstone.lower.cost import Cost, GemmSchedule, predict, rates
from gridstone.lower.schedule import Schedule, print_schedule
from gridstone.lower.target import Target
from gridstone.templates.recipe import Recipe
from gridstone.templates.registry import recipes_for

# What must hold of the best schedule: for up to this many rows of this shape, its bytes over the floor's.
PROMISED_ROWS, PROMISED_SHAPE, PROMISED_RATIO = 16, (28672, 8192), 1.05


@dataclass(frozen=True)
class Row:
    """The best schedule of a recipe for a problem, as the model sees it.

    Args:
        n, k, m: Of the problem.
        target, recipe, schedule: Their texts.
        considered, feasible: Schedules that were predicted, and how many there are.
        cost: Of the best.
    """

    n: int
    k: int
    m: int
    target: str
    recipe: str
    schedule: str
    considered: int
    feasible: int
    cost: Cost


def predictions(
    spec: Spec, recipe: Recipe[Schedule], target: Target, most: int, seed: int = 0
) -> tuple[list[tuple[Cost, Schedule]], int]:
    """Return (cost, schedule) of all feasible schedules, or of `most` drawn evenly if not 0; and how many there are."""
    schedules = list(recipe.space.feasible(spec, target))
    drawn = random.Random(seed).sample(schedules, most) if 0 < most < len(schedules) else schedules
    return [(predict(spec, cast("GemmSchedule", one), target), one) for one in drawn], len(schedules)


def predicted_rows(
    targets: Sequence[Target], shapes: Sequence[tuple[int, int]], rows: Sequence[int], dtype: str, most: int,
    only: str = "",
) -> Iterator[Row]:  # fmt: skip
    """Yield the best schedule of each recipe for each problem.

    Args:
        targets: One per language.
        shapes, rows, dtype: Of the problems.
        most: Schedules of a recipe and problem that are predicted, drawn evenly; 0 for all.
        only: Part of a recipe's name, or empty for all.
    """
    for (n, k), m, target in itertools.product(shapes, rows, targets):
        spec = bench_spec(n, k, m, dtype, target)
        for recipe in recipes_for(spec, target):
            if only not in recipe.name:
                continue
            found, feasible = predictions(spec, recipe, target, most)
            if found:
                cost, schedule = min(found, key=lambda entry: entry[0].seconds)
                text = print_schedule(schedule)
                yield Row(n, k, m, str(target), recipe.name, text, len(found), feasible, cost)


def lines(found: Sequence[Row], targets: Sequence[Target]) -> list[str]:
    """Return the table, and whether what is promised of the best schedules holds."""
    cards = ", ".join(dict.fromkeys(map(rates, targets)))
    names = ("N", "K", "M", "recipe", "us", "floor/us", "bytes x", "bound by", "schedule")
    layout = "{:>6}{:>7}{:>5}  {:<20}{:>9}{:>12}{:>9}  {:<13}{}"
    table = [
        f"predicted, not measured: of one {cards}; the best of {sum(row.considered for row in found)} schedules",
        layout.format(*names),
    ]
    for row in found:
        cost = row.cost
        table.append(layout.format(row.n, row.k, row.m, row.recipe, f"{cost.seconds * 1e6:.1f}", f"{cost.share:.0%}",
                                   f"{cost.bytes_ratio:.3f}", cost.bound, row.schedule))  # fmt: skip
    return [*table, *promised(found)]


def promised(found: Sequence[Row]) -> list[str]:
    """Return a line for each number of rows of which a ratio of bytes is promised: that of the fastest schedule."""
    said: list[str] = []
    for m in sorted({row.m for row in found if row.m <= PROMISED_ROWS}):
        of = [row for row in found if row.m == m and (row.n, row.k) == PROMISED_SHAPE]
        if of:
            best = min(of, key=lambda row: row.cost.seconds)
            kept = "kept" if best.cost.bytes_ratio <= PROMISED_RATIO else "BROKEN"
            ratio = f"{best.cost.bytes_ratio:.4f} times the floor's bytes, at most {PROMISED_RATIO}: {kept}"
            said.append(f"{best.n} x {best.k}, M={m}: the best, {best.recipe}, moves {ratio}")
    return said


def plain(row: Row) -> dict[str, object]:
    """Return a row as plain JSON values."""
    cost = row.cost
    return {
        "n": row.n, "k": row.k, "m": row.m, "target": row.target, "recipe": row.recipe, "schedule": row.schedule,
        "considered": row.considered, "feasible": row.feasible, "seconds": cost.seconds,
        "floor_seconds": cost.floor_seconds, "bytes": cost.bytes, "floor_bytes": cost.floor_bytes, "bound": cost.bound,
        "blocks": cost.blocks, "resident": cost.resident, "waves": cost.waves, "engines": dict(cost.engines),
    }  # fmt: skip
