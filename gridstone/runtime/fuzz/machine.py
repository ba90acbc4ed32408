"""The interpreter of programs. Dynamo traces through it and captures what the user's own straight-line code would give.

It interprets over any table of calls: torch's, or those on values that carry a bound on their error. Arguments stay
text until they are used, because Dynamo takes every text for a constant, as literals in a user's code are, and would
make a symbol of a number that lies in a tuple.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from gridstone.runtime.fuzz.program import ROWS, Program

Step = tuple[tuple[str, ...], Callable[..., Any], tuple[str, ...], tuple[str, ...]]
Watch = Callable[[Any, dict[str, Any]], None]

MODES: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "plain": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}
FORMS = {
    "rows": re.compile(ROWS),
    "name": re.compile(r"[a-z][a-z0-9]*"),
    "integer": re.compile(r"-?(0|[1-9][0-9]{0,6})"),
    "number": re.compile(r"-?[0-9]{1,6}\.[0-9]{1,9}(e-?[0-9]{1,2})?"),
    "list": re.compile(r"\[((-?[0-9]{1,7}|M)(,(-?[0-9]{1,7}|M))*)?\]"),
    "word": re.compile(r"'[a-z][a-z0-9_]*'"),
    "none": re.compile(r"-"),
}


@dataclass(frozen=True, slots=True)
class Code:
    """A program, ready to run.

    Args:
        takes: Names of its arguments.
        groups: Per mode that calls run in: names of results, function, forms of its arguments, their texts.
        returns: Names of its results.
        rows: Which extent of which value `M` is.
    """

    takes: tuple[str, ...]
    groups: tuple[tuple[str, tuple[Step, ...]], ...]
    returns: tuple[str, ...]
    rows: tuple[str, int] | None


def form(argument: str) -> str:
    """Return which of `FORMS` an argument has; empty for none of them."""
    return next((name for name, pattern in FORMS.items() if pattern.fullmatch(argument)), "")


def assemble(program: Program, table: Mapping[str, Callable[..., Any]], takes: tuple[str, ...]) -> Code:
    """Return a program over a table of calls; `takes` names its arguments, in order."""
    groups = tuple(
        (mode or "plain", tuple((i.names, table[i.op], tuple(map(form, i.arguments)), i.arguments) for i in run))
        for mode, run in itertools.groupby(program.body, lambda i: i.mode)
    )
    return Code(takes, groups, program.returns, program.rows())


def make_function(code: Code, held: Mapping[str, Any], watch: Watch | None = None) -> Callable[..., tuple[Any, ...]]:
    """Return the program as a function of what it takes.

    Args:
        code: The program.
        held: What it does not take: free variables of the function.
        watch: Called with the result of each step, and all values so far by name; not under Dynamo.
    """
    takes, groups, returns, rows = code.takes, code.groups, code.returns, code.rows

    def program(*given: Any) -> tuple[Any, ...]:
        values = {**held, **dict(zip(takes, given))}  # noqa: B905  Dynamo does not trace `strict`
        extent = values[rows[0]].shape[rows[1]] if rows else 0
        for mode, steps in groups:
            with MODES[mode]():
                for names, function, forms, texts in steps:
                    arguments = [argument(kind, text, values, extent) for kind, text in zip(forms, texts)]  # noqa: B905
                    result = function(*arguments)
                    if len(names) == 1:
                        values[names[0]] = result
                    else:
                        for at, name in enumerate(names):
                            values[name] = result[at]
                    if watch is not None:
                        watch(result, values)
        return tuple([values[name] for name in returns])

    return program


def argument(kind: str, text: str, values: Mapping[str, Any], extent: Any) -> Any:
    """Return what an argument of one of `FORMS` stands for."""
    if kind == "name":
        return values[text]
    if kind == "rows":
        return extent
    if kind == "integer":
        return int(text)
    if kind == "number":
        return float(text)
    if kind == "word":
        return text[1:-1]
    if kind == "list":
        return [extent if part == ROWS else int(part) for part in text[1:-1].split(",") if part]
    return None
