"""gridstone tune: find and record the fastest right kernel for specs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gridstone.cli.console import Json as JsonValue
from gridstone.cli.console import microseconds, parse_rows, put_json, put_table, say, tuning_progress
from gridstone.cli.options import Budget, Json, Rows, TargetName, Threads
from gridstone.ir.errors import GridstoneError, nearest

if TYPE_CHECKING:
    from gridstone.runtime.tune import Tuning

SAMPLERS = ("tpe", "random")
INTERRUPTED = 130


def tune(
    specs: Annotated[list[str], typer.Argument(metavar="SPEC...", help="One or more specs.")],
    m: Rows = "",
    target: TargetName = "auto",
    budget: Budget = "60s",
    threads: Threads = 0,
    sampler: Annotated[str, typer.Option("--sampler", help="tpe or random.")] = "tpe",
    again: Annotated[bool, typer.Option("--again", help="Search although a record knows the answer.")] = False,
    as_json: Json = False,
) -> None:
    """Tune specs on this machine; Ctrl-C keeps what was learned."""
    from gridstone.runtime import tune as tuning  # torch

    if sampler not in SAMPLERS:
        raise GridstoneError(f"unknown sampler {sampler!r}", nearest(sampler, SAMPLERS))
    seconds, targets = tuning.parse_budget(budget), tuning.targets_named(target)
    problems = tuning.problems_of(specs, parse_rows(m), targets[0])
    found: list[Tuning] = []
    interrupted = False
    with tuning_progress() as progress:
        jobs = tuning.run_tunings(
            problems, targets, seconds=seconds, threads=threads or None,
            sampler="tpe" if sampler == "tpe" else "random", again=again, progress=progress,
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


def put_tunings(title: str, found: list[Tuning]) -> None:
    """Print a table of results."""
    from gridstone.cli.console import brief
    from gridstone.ir.text import print_spec

    columns = ("problem", "winner", ">median", ">library", ">tried", ">feasible", ">took", "ended")
    rows: list[tuple[str, ...]] = []
    for one in found:
        tuned = one.tuned
        rows.append(
            (
                brief(print_spec(one.spec)),
                tuned.winner.schedule if tuned.winner.status == "winner" else f"{tuned.winner.schedule} (not measured)",
                microseconds(tuned.winner.median if tuned.winner.samples else None),
                microseconds(tuned.library_seconds),
                str(tuned.measured),
                str(tuned.feasible),
                microseconds(tuned.seconds) if not tuned.reused else "-",
                "record reused" if tuned.reused else tuned.stop.value,
            )
        )
    put_table(title, columns, rows)


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
        "median_seconds": winner.median if winner.samples else None,
        "library_seconds": tuned.library_seconds,
        "tried": tuned.measured,
        "feasible": tuned.feasible,
        "reused": tuned.reused,
        "stop": tuned.stop.value,
        "seconds": tuned.seconds,
    }
