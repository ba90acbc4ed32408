"""gridstone tune: find and record the fastest right kernel for specs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, cast

import typer

from gridstone.cli.console import Json as JsonValue
from gridstone.cli.console import microseconds, parse_rows, put_json, put_table, say, tuning_progress
from gridstone.cli.options import Budget, Json, Rows, TargetName, Threads
from gridstone.ir.errors import GridstoneError, nearest
from gridstone.lower.bucket import BUCKETS, bucket

if TYPE_CHECKING:
    from gridstone.ir.spec import Spec
    from gridstone.runtime.tune import Sampling, Tuning
    from gridstone.tuner.outcome import Tuned

SAMPLERS = ("gp", "lfbo", "tpe", "evolution", "random", "grid")
INTERRUPTED = 130
NOT_MEASURED = (
    "Not measured: the budget was spent before this problem was reached. Calls run its default schedule, nothing is "
    "recorded,\nand the next run searches it; --budget gives more time."
)


def tune(
    specs: Annotated[list[str], typer.Argument(metavar="SPEC...", help="One or more specs.")],
    m: Rows = "",
    target: TargetName = "auto",
    budget: Budget = "60s",
    threads: Threads = 0,
    sampler: Annotated[str, typer.Option("--sampler", help="gp, lfbo, tpe, evolution, random, grid.")] = "gp",
    again: Annotated[bool, typer.Option("--again", help="Search although a record knows the answer.")] = False,
    as_json: Json = False,
) -> None:
    """Tune specs on this machine; Ctrl-C keeps what was learned."""
    from gridstone.runtime import tune as tuning  # torch

    if sampler not in SAMPLERS:
        raise GridstoneError(f"unknown sampler {sampler!r}", nearest(sampler, SAMPLERS))
    seconds, targets = tuning.parse_budget(budget), tuning.targets_named(target)
    rows = parse_rows(m)
    problems = tuning.problems_of(specs, rows, targets[0])
    for remark in served_by(tuning.bound(specs, rows, targets[0])):
        say(remark)
    found: list[Tuning] = []
    interrupted = False
    with tuning_progress() as progress:
        jobs = tuning.run_tunings(
            problems, targets, seconds=seconds, threads=threads or None,
            sampler=cast("Sampling", sampler), again=again, progress=progress,
        )  # fmt: skip
        try:
            found.extend(jobs)
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        say(f"interrupted after {len(found)} of {len(problems)} problems; what was measured is recorded")
    if as_json:
        put_json([tuning_json(one) for one in found])
    else:
        put_tunings("Tuned", found)
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def served_by(wanted: Iterable[Spec]) -> list[str]:
    """Return a remark for every number of rows that another number's record serves.

    >>> from gridstone.ir.text import parse_spec
    >>> served_by([parse_spec(f"gemm[x: f32({m},64), w: int4:g32(64,64)]") for m in (5, 8, 3000)])
    ['M=5 is served by what is tuned for M=8', 'M=3000 is served by what is tuned for M=1024, the largest there is']
    """
    found = [spec.inputs[0].type.static(0) for spec in wanted]
    remarks = [
        f"M={rows} is served by what is tuned for M={bucket(rows)}"
        + (", the largest there is" if rows > BUCKETS[-1] else "")
        for rows in found
        if bucket(rows) != rows
    ]
    return list(dict.fromkeys(remarks))


def put_tunings(title: str, found: list[Tuning]) -> None:
    """Print a table of results, and below it each problem with its winner in full."""
    from gridstone.cli.console import brief, problem_name
    from gridstone.ir.text import print_spec

    rows: list[tuple[str, ...]] = []
    lines: list[str] = []
    for at, one in enumerate(found, 1):
        tuned = one.tuned
        rows.append(
            (
                str(at),
                problem_name(one.spec),
                microseconds(tuned.winner.median if tuned.winner.samples else None),
                microseconds(tuned.library_seconds),
                f"{tuned.measured} of {tuned.feasible}",
                microseconds(tuned.seconds) if not tuned.reused else "-",
                "record reused" if tuned.reused else "no time left" if is_late(tuned) else tuned.stop.value,
            )
        )
        lines.append(f"{at:>3}  {brief(print_spec(one.spec))}")
        lines.append(f"     {choice_text(tuned.winner.recipe, tuned.winner.schedule)}{_doubt(tuned)}")
    late = any(is_late(one.tuned) for one in found)
    columns = (">", "problem", ">winner", ">library", ">tried", ">took", "ended")
    put_table(title, columns, rows, "\n".join([*lines, *[NOT_MEASURED] * late, ""]))


def is_late(tuned: Tuned) -> bool:
    """Return whether the budget was spent before anything was measured."""
    return tuned.winner.status != "winner" and not tuned.measured


def _doubt(tuned: Tuned) -> str:
    winner = tuned.winner
    if winner.status == "winner":
        more = f"; a --budget above {winner.budget:.3g}s for it searches on" if tuned.reused and winner.budget else ""
        return f" ({winner.reason}{more})" if winner.reason else ""
    return " (not measured)" if is_late(tuned) else " (no candidate was right)"


def choice_text(recipe: str, schedule: str) -> str:
    """Return a schedule as people read it: the library's says nothing by itself.

    >>> choice_text("gemm.library.torch", "torch()"), choice_text("gemm.cpp.gemv", "gemv(n_r=4)")
    ('the library call', 'gemv(n_r=4)')
    """
    return "the library call" if recipe.split(".")[1:2] == ["library"] else schedule


def tuning_json(one: Tuning) -> dict[str, JsonValue]:
    """Return a result as plain values; times in seconds."""
    from gridstone.ir.text import print_spec

    tuned, winner = one.tuned, one.tuned.winner
    return {
        "spec": print_spec(one.spec),
        "status": winner.status,
        "recipe": winner.recipe,
        "target": winner.target,
        "schedule": winner.schedule,
        "reason": winner.reason,
        "median_seconds": winner.median if winner.samples else None,
        "library_seconds": tuned.library_seconds,
        "tried": tuned.measured,
        "feasible": tuned.feasible,
        "reused": tuned.reused,
        "stop": tuned.stop.value,
        "seconds": tuned.seconds,
    }
