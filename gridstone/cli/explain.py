"""gridstone explain: what Gridstone makes of a function, what it leaves to PyTorch, and why."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridstone.cli.console import put, put_json
from gridstone.cli.options import Json
from gridstone.ir.errors import GridstoneError, nearest

if TYPE_CHECKING:
    import torch

INPUTS = "example_inputs"


def explain(
    program: Annotated[str, typer.Argument(metavar="MODULE:NAME", help="module:function, or FILE.py:name.")],
    inputs: Annotated[
        str, typer.Option("--inputs", help="Name of a function beside it that returns its inputs.")
    ] = INPUTS,
    shape: Annotated[
        list[str] | None,
        typer.Option("--shape", help="Random input instead, such as 16x384 or 16x384:bf16; repeat for more."),
    ] = None,
    sources: Annotated[bool, typer.Option("--sources", help="Print the emitted sources too.")] = False,
    as_json: Json = False,
) -> None:
    """Explain a function or module: what is matched, what runs as in PyTorch and why."""
    from gridstone.ir.text import print_spec
    from gridstone.runtime.explain import explain as explain_program  # torch

    with contextlib.redirect_stdout(sys.stderr):  # what the program prints is no result of this command
        home, name = load(program)
        fn = found_in(home, name)
        if isinstance(fn, type):
            fn = fn()
        arguments = [random_input(text) for text in shape] if shape else _example_inputs(home, inputs)
        positional, named = ((), arguments) if isinstance(arguments, dict) else (arguments, {})
        explanation = explain_program(fn, *positional, **named)
    texts = [source.text for source in explanation.sources]
    if as_json:
        put_json(
            {
                "matched": [
                    {
                        "node": part.node, "spec": print_spec(part.spec), "rows": part.rows, "recipe": chosen.recipe,
                        "target": chosen.target, "schedule": chosen.schedule, "why": chosen.why,
                    }
                    for part, chosen in explanation.matched
                ],
                "fallbacks": [{"node": p.node, "op": p.op, "reason": p.reason} for p in explanation.fallbacks],
                "graphs": explanation.graphs,
                "breaks": list(explanation.breaks),
                "sources": texts if sources else [],
            }
        )  # fmt: skip
        return
    put(str(explanation))
    for text in texts if sources else ():
        put("\n" + text)


def load(program: str) -> tuple[ModuleType, str]:
    """Import the module of `module:name` or `FILE.py:name`; return it and the name.

    Raises:
        GridstoneError: Malformed, or the module cannot be imported.
    """
    place, colon, name = program.rpartition(":")
    if not colon or not name.isidentifier():
        raise GridstoneError(f"{program!r} names no function", "write module:function or FILE.py:function")
    try:
        if place.endswith(".py"):
            return _from_file(Path(place)), name
        sys.path.insert(0, "")  # as `python -m` does
        return importlib.import_module(place), name
    except (ImportError, OSError) as error:
        raise GridstoneError(f"{place} cannot be imported: {error}", "check the path, and what it imports") from error


def _from_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.resolve().parent))
    spec.loader.exec_module(module)
    return module


def found_in(module: ModuleType, name: str) -> Any:
    """Return what a module calls by this name; GridstoneError suggests the nearest."""
    if not hasattr(module, name):
        raise GridstoneError(
            f"{module.__name__} has no {name!r}", nearest(name, [n for n in vars(module) if n[0] != "_"])
        )
    return getattr(module, name)


def _example_inputs(module: ModuleType, name: str) -> Any:
    if not hasattr(module, name):
        remedy = "define it to return the arguments (a tuple, a dict or one tensor), or give --shape 16x384"
        raise GridstoneError(f"{module.__name__} has no {name}()", remedy)
    import torch

    given = getattr(module, name)()
    return given if isinstance(given, (tuple, list, dict)) and not isinstance(given, torch.Tensor) else (given,)


def random_input(text: str) -> torch.Tensor:
    """Return a random tensor of `16x384`, float32, or of `16x384:bf16`; GridstoneError when the text is neither."""
    import torch

    from gridstone.ir.dtype import dtype

    extents, _, kind = text.partition(":")
    if not re.fullmatch(r"[0-9]{1,18}([x,][0-9]{1,18})*", extents):
        raise GridstoneError(f"--shape {text!r} is not a shape", "write for example --shape 16x384 or 2x16x384:bf16")
    of = getattr(torch, dtype(kind).torch) if kind else torch.float32
    if not of.is_floating_point:
        raise GridstoneError(f"--shape {text!r}: random integers mean nothing to a program", "define example_inputs()")
    try:
        return torch.randn([int(extent) for extent in re.split("[x,]", extents)]).to(of)
    except RuntimeError as error:
        raise GridstoneError(
            f"--shape {text!r} cannot be allocated: {error}", "give fewer or smaller extents"
        ) from None
