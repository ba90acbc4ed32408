"""What commands print: results to stdout, as a table or as JSON; progress and remarks to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gridstone.ir.errors import GridstoneError

if TYPE_CHECKING:
    from gridstone.ir.spec import Spec
    from gridstone.runtime.tune import Listener, Step

WIDE = 200  # columns of a table that nobody's terminal bounds
Json = None | bool | int | float | str | Sequence["Json"] | dict[str, "Json"]


def say(text: str) -> None:
    """Print a remark on stderr."""
    print(text, file=sys.stderr, flush=True)


def put(text: str) -> None:
    """Print a result on stdout as it is: no wrapping, no markup."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()


def put_json(value: Json) -> None:
    """Print a result on stdout as JSON."""
    put(json.dumps(value, indent=2))


def put_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> None:
    """Print a table on stdout; a column whose name starts with `>` is aligned to the right."""
    from rich.console import Console  # 150 ms that `--help` and `emit` do without
    from rich.table import Table
    from rich.text import Text

    console = Console() if sys.stdout.isatty() else Console(width=WIDE)
    table = Table()
    for name in columns:
        side = "right" if name.startswith(">") else "left"
        table.add_column(Text(name.removeprefix(">")), justify=side, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    put(title)
    console.print(table)
    if note:
        put(note)


@contextmanager
def tuning_progress() -> Iterator[Listener]:
    """Show a bar on stderr while tuning; yields what `gridstone.tune` takes as its `progress`."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.fields[phase]:<7}", markup=False),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[best]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=False) as bar:
        tasks: dict[str, TaskID] = {}

        def listen(step: Step) -> None:
            now, name = step.progress, problem_name(step.spec)
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=None, phase="", best="")
            best = f"best {microseconds(now.best_seconds)}" if now.best_seconds else ""
            bar.update(tasks[name], completed=now.done, total=now.total, phase=now.phase.value, best=best)

        yield listen


def problem_name(spec: Spec) -> str:
    """Return a few characters that tell the problems of a run apart."""
    shapes = {operand.name: "x".join(map(str, operand.type.shape)) for operand in spec.inputs}
    extras = [operand.name for operand in spec.extra_operands]
    return " ".join([spec.op.name, *(f"{name}:{shape}" for name, shape in shapes.items()), *(f"+{e}" for e in extras)])


def brief(spec: str) -> str:
    """Return a spec's text without its op's brackets and its output, for narrow places.

    >>> brief("gemm[x: f32(16,64), w: int4:g32@lane16(64,64)] + bias -> f32(16,64)")
    'x: f32(16,64), w: int4:g32(64,64) + bias'
    """
    text = spec.split(" -> ")[0].replace("@lane16", "")
    return text.removeprefix("gemm[").replace("]", "", 1)


def microseconds(seconds: float | None) -> str:
    """Return a time as people read it; a dash for none.

    >>> microseconds(0.00001234), microseconds(0.0123), microseconds(None)
    ('12.3 us', '12.3 ms', '-')
    """
    if seconds is None:
        return "-"
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"


def parse_rows(text: str) -> list[int]:
    """Return the numbers of `--m 1,4,16`; GridstoneError when they are not positive numbers."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise GridstoneError(f"--m {text!r} is not a list of positive numbers", "write for example --m 1,4,16")
    return [int(part) for part in parts]
