"""gridstone bench: time a layer's default, tuned and library kernels side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from gridstone.cli.console import parse_rows, put, put_json, say
from gridstone.cli.options import Json, Rows, SpecText, TargetName, Threads


def bench(
    spec: SpecText,
    m: Rows = "",
    target: TargetName = "auto",
    threads: Threads = 0,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Of measuring, for each M.")] = 3.0,
    as_json: Json = False,
) -> None:
    """Time default, tuned and library kernels in turn, on weights that rotate beyond the caches."""
    from gridstone.cli import layers  # torch
    from gridstone.cli.showcase_tables import layer_notes, put_layers, schedules_text
    from gridstone.runtime.tune import bound, targets_named

    on = targets_named(target)[0]
    found: list[layers.LayerTimes] = []
    for problem in bound([spec], parse_rows(m), on):
        say(f"measuring {problem.input('x')} for {seconds:g} s")
        found.append(layers.measure_layer(problem, target=on, threads=threads or None, seconds=seconds))
    if as_json:
        put_json([layers.as_plain(one) for one in found])
        return
    put_layers("Medians of calls taken in turn", found)
    put(schedules_text(found))
    put(layer_notes(found))
