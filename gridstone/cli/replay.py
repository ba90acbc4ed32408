"""gridstone replay: run the search on recorded tables, and tell how good it is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gridstone.cli.console import Json as JsonValue
from gridstone.cli.console import put_json, put_table, say
from gridstone.cli.options import Json
from gridstone.ir.errors import GridstoneError, nearest

if TYPE_CHECKING:
    from gridstone.tuner.replay import Run
    from gridstone.tuner.table import Table

INTERRUPTED = 130
MARKS = (10, 20, 50, 100, 200)  # evaluations whose fraction of the optimum is shown
NOTE = (
    "Fractions of the optimum that the best configuration has after so many evaluations, in the mean over the runs; "
    "at 95 %: the share\nof runs that are within 5 % of the optimum at the end; P: 0 as good as random search, 1 the "
    "optimum at once; regret: by how much\nthe declared winner is truly slower than the best that was evaluated."
)


def replay(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="T4 or Kernel Tuner cache, plain or gzip.")],
    sampler: Annotated[
        list[str] | None, typer.Option("--sampler", help="gp, lfbo, tpe, evolution, random, grid; repeatable.")
    ] = None,
    evals: Annotated[int, typer.Option("--evals", min=1, help="Evaluations of each run, invalid ones included.")] = 100,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each file and sampler.")] = 20,
    noise: Annotated[bool, typer.Option("--noise", help="Draw each measurement from the recorded runs.")] = False,
    warm_start: Annotated[
        Path | None, typer.Option("--warm-start", metavar="FILE", help="Begin with what another device's table says.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Search recorded tables instead of a device, and show how fast the optimum is found; Ctrl-C keeps what is done."""
    from gridstone.tuner.replay import runs
    from gridstone.tuner.samplers import DEFAULT, Sampler
    from gridstone.tuner.table import read_table

    known = [one.value for one in Sampler]
    wanted = sampler or [DEFAULT.value]
    for name in wanted:
        if name not in known:
            raise GridstoneError(f"unknown sampler {name!r}", nearest(name, known))
    source = read_table(warm_start) if warm_start else None
    tables = [(path, read_table(path)) for path in files]
    if source is not None:
        for path, table in tables:
            if not any(source.find(table.configuration(point)) is not None for point in range(table.points.size)):
                raise GridstoneError(
                    f"{warm_start} and {path} have no configuration in common",
                    "warm-start from the same kernel's table",
                )
    found: list[tuple[Path, str, Table, list[Run]]] = []
    interrupted = False
    try:
        for path, table in tables:
            for name in wanted:
                done: list[Run] = []
                found.append((path, name, table, done))
                for run in runs(table, evals, range(seeds), sampler=Sampler(name), noise=noise, source=source):
                    done.append(run)
                    say(f"{path.name} {name}: {len(done)} of {seeds} runs") if len(done) % 5 == 0 else None
    except KeyboardInterrupt:
        interrupted = True
        say("interrupted; these runs were done")
    if as_json:
        put_json([_json(path, name, table, done) for path, name, table, done in found if done])
    else:
        marks = [mark for mark in MARKS if mark <= evals] or [evals]
        columns = ("file", "sampler", ">runs", *(f">@{mark}" for mark in marks), ">at 95 %", ">P", ">regret")
        put_table("Replayed", columns, [_row(*one, marks) for one in found if one[3]], NOTE)
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def _row(path: Path, name: str, table: Table, done: list[Run], marks: list[int]) -> list[str]:
    import numpy as np

    from gridstone.tuner.replay import CLOSE, fractions, regret, scores

    curves = [fractions(table, run) for run in done]
    at = [np.mean([curve[min(mark, len(curve)) - 1] for curve in curves]) for mark in marks]
    close = np.mean([curve[-1] >= CLOSE for curve in curves])
    score = np.mean([scores(table, run).mean() for run in done])
    lost = np.mean([regret(table, run) for run in done])
    shares = [f"{share:.3f}" for share in at]
    return [path.name, name, str(len(done)), *shares, f"{close:.0%}", f"{score:.3f}", f"{lost:.2%}"]


def _json(path: Path, name: str, table: Table, done: list[Run]) -> dict[str, JsonValue]:
    return {
        "file": str(path),
        "sampler": name,
        "optimum": table.optimum,
        "unit": table.unit,
        "configs": table.points.size,
        "runs": [_run_json(table, run) for run in done],
    }


def _run_json(table: Table, run: Run) -> dict[str, JsonValue]:
    values: list[float] = run.values.tolist()
    return {
        "seed": run.seed,
        "values": [None if math.isnan(value) else value for value in values],
        "winner": None if run.winner is None else {**table.configuration(run.winner)},
        "winner_true": None if run.winner is None else float(table.seconds[run.winner]),
    }
