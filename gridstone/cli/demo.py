"""gridstone demo: quantise a real transformer, tune it on this CPU, and print what that gained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gridstone.cli.console import put, put_json, say, tuning_progress
from gridstone.cli.options import Budget, Json
from gridstone.cli.sentences import read_sentences

if TYPE_CHECKING:
    from gridstone.cli.showcase import Showcase


def demo(
    budget: Budget = "60s",
    sentences: Annotated[Path | None, typer.Option("--sentences", help="File of sentences, one a line.")] = None,
    baseline: Annotated[
        bool, typer.Option("--compile-baseline/--no-compile-baseline", help="Let torch.compile take part.")
    ] = True,
    language_model: Annotated[
        bool, typer.Option("--language-model/--no-language-model", help="Measure a large layer too.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Quantise, tune and run all-MiniLM-L6-v2 on this CPU, and print what that gained."""
    texts = read_sentences(sentences)
    from gridstone.cli import showcase, showcase_tables  # torch
    from gridstone.runtime.tune import parse_budget

    seconds = parse_budget(budget)
    with tuning_progress() as progress:
        shown: Showcase = showcase.run_showcase(
            texts, budget=seconds, say=say, progress=progress, compile_baseline=baseline, language_model=language_model
        )
    if as_json:
        put_json(showcase_tables.as_json(shown))
    else:
        showcase_tables.put_tables(shown)
        put(showcase_tables.summary(shown))
    if not shown.holds:
        raise typer.Exit(1)
