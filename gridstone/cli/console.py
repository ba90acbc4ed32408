"""What commands print: results to stdout, as a table or as JSON; progress and remarks to stderr."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import typer

from gridstone.ir.errors import GridstoneError
from gridstone.ir.text import print_epilogue

if TYPE_CHECKING:
    from gridstone.ir.spec import Spec
    from gridstone.runtime.tune import Listener, Step

BROKEN_PIPE = 141  # what a shell shows of a process that SIGPIPE ended: 128 + 13
WIDE = 200  # columns of a table that nobody's terminal bounds
Json = None | bool | int | float | str | Sequence["Json"] | dict[str, "Json"]


def say(text: str) -> None:
    """Print a remark on stderr; where that is closed or full, work goes on without remarks."""
    if sys.stderr is not None:  # print(file=None) would print on stdout
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)


def put(text: str) -> None:
    """Print a result on stdout as it is: no wrapping, no markup.

    Raises:
        OSError: It cannot be written there.
        typer.Exit: Nobody reads it any more, as behind `| head`: the command ends quietly.
    """
    if sys.stdout is None:
        raise OSError(errno.EBADF, "stdout is closed")
    try:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        drop_stdout()
        raise typer.Exit(BROKEN_PIPE) from None


def drop_stdout() -> None:
    """Send what is buffered for stdout nowhere, so that the interpreter's last flush does not fail once more."""
    try:
        descriptor = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # none, or a stream of the caller's that is no file
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


def put_json(value: Json) -> None:
    """Print a result on stdout as JSON, in which a number that is not finite is null."""
    put(json.dumps(_finite(value), indent=2))


def _finite(value: Json) -> Json:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return value


def put_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> None:
    """Print a table on stdout; a column whose name starts with `>` is aligned to the right."""
    from rich import box
    from rich.console import Console  # 150 ms that `--help` and `emit` do without
    from rich.table import Table
    from rich.text import Text

    console = Console() if sys.stdout is not None and sys.stdout.isatty() else Console(width=WIDE)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in columns:
        side = "right" if name.startswith(">") else "left"
        table.add_column(Text(name.removeprefix(">")), justify=side, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    with console.capture() as drawn:
        console.print(table)
    lines = [line.rstrip() for line in drawn.get().splitlines()]
    put("\n".join([title, "", *lines, "", *filter(None, [note])]))


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
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.fields[phase]:<7}", markup=False),
        BarColumn(bar_width=8),
        MofNCompleteColumn(),
        TextColumn("{task.elapsed:.0f} s"),
        TimeRemainingColumn(compact=True),
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
    """Return a few characters that tell the problems of a run apart.

    >>> from gridstone.ir.text import parse_spec
    >>> problem_name(parse_spec("gemm[x: f32(16,64), w: int4:g32(96,64)] + bias + gelu"))
    'gemm 16x64 96x64 +bias+gelu'
    """
    shapes = ["x".join(map(str, operand.type.shape)) for operand in spec.inputs]
    steps = [print_epilogue(step, spec.output.dtype) for step in spec.epilogue]
    return " ".join([spec.op.name, *shapes, "".join(f"+{step}" for step in steps if step)]).strip()


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
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(re.fullmatch(r"0*[1-9][0-9]{0,17}", part) for part in parts):
        raise GridstoneError(f"--m {text!r} is not a list of positive numbers", "write for example --m 1,4,16")
    return [int(part) for part in parts]
