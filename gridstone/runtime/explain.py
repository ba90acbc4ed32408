"""explain: what Gridstone would do with a function, what it would leave to PyTorch, and why."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch._dynamo
import torch.fx

from gridstone.ir.text import print_spec
from gridstone.runtime.aten import name_of
from gridstone.runtime.compile import OPTIONS, Backend
from gridstone.runtime.dispatch import DISPATCHER, Chosen
from gridstone.runtime.refusal import Fallback
from gridstone.runtime.restore import restored
from gridstone.runtime.rewrite import Matched, apply, plan
from gridstone.templates.source import Source


@dataclass(frozen=True, slots=True)
class Explanation:
    """What became of each part of a program.

    Args:
        matched: Parts that Gridstone computes, with what was chosen for each at the rows it was captured with.
        fallbacks: Parts of our families that run as PyTorch would have run them, each with the reason.
        sources: Emitted source of every distinct kernel; none for library calls.
        graphs: Number of graphs that Dynamo captured.
        breaks: Why there is more than one.
    """

    matched: tuple[tuple[Matched, Chosen], ...]
    fallbacks: tuple[Fallback, ...]
    sources: tuple[Source, ...]
    graphs: int
    breaks: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{len(self.matched)} matched, {len(self.fallbacks)} left to PyTorch, {self.graphs} graph(s)"]
        for part, chosen in self.matched:
            rows = "any" if part.rows is None else str(part.rows)
            lines.append(f"  {part.node}: {print_spec(part.spec)}")
            lines.append(f"      M={rows}: {chosen.recipe} on {chosen.target}, {chosen.schedule} ({chosen.why})")
        lines.extend(f"  {part.node}: {part.op} runs as in PyTorch: {part.reason}" for part in self.fallbacks)
        lines.extend(f"  graph break: {reason}" for reason in self.breaks)
        return "\n".join(lines)


def explain(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
    """Run a function once and say what Gridstone makes of it.

    Args:
        fn: A function or a module. One that `gridstone.compile` returned is explained with the target, policy and
            numerics that it was compiled with, any other with the defaults.
        args, kwargs: Inputs; the function runs on them once, without gradients. Inputs, buffers and random generators
            are as before afterwards; what the function changes in other places stays changed.

    >>> w = gridstone.quantize(torch.randn(64, 128), "int4", group_size=32)
    >>> print(gridstone.explain(lambda x: torch.relu(x @ w.t()), torch.randn(2, 128)))  # doctest: +ELLIPSIS
    1 matched, 0 left to PyTorch, 1 graph(s)
    ...
    """
    matched: list[Matched] = []
    fallbacks: list[Fallback] = []
    failures: list[str] = []
    graphs = 0

    def record(module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        nonlocal graphs
        graphs += 1
        program = None
        try:
            program = plan(module, options.policy)
        except Exception as error:  # as the backend does, which then leaves the graph to PyTorch
            failures.append(f"a graph runs as PyTorch would have run it: {error}")
        else:
            matched.extend(program.matched)
            fallbacks.extend(program.fallbacks)

        parameters = _changes_in_place(module)
        taken_apart = program if program is not None and program.callers else None
        if taken_apart is not None:  # a higher-order op may refuse a quantised weight
            apply(taken_apart)

        def run(*given: Any) -> Any:
            kept.keep(given, parameters)
            return module(*(given if taken_apart is None else taken_apart.packed(given)))

        return run

    options = vars(fn).get(OPTIONS, Backend()) if hasattr(fn, "__dict__") else Backend()
    original = getattr(fn, "_orig_mod", getattr(fn, "_torchdynamo_orig_callable", fn))
    before = dict(torch._dynamo.utils.counters["graph_break"])
    with torch.no_grad(), restored(original) as kept:
        torch.compile(_once(original), backend=record, dynamic=False)(*args, **kwargs)
    after = torch._dynamo.utils.counters["graph_break"]
    breaks = [reason.splitlines()[0] for reason, count in after.items() if count > before.get(reason, 0)]
    chosen = [(part, DISPATCHER.choose(part.spec, part.rows or 1, part.key)) for part in matched]
    sources = {c.kernel.source.text: c.kernel.source for _, c in chosen if c.kernel.source.text}
    return Explanation(tuple(chosen), tuple(fallbacks), tuple(sources.values()), graphs, (*breaks, *failures))


def _changes_in_place(module: torch.fx.GraphModule) -> bool:
    names = [name_of(node.target) for node in module.graph.nodes if node.op.startswith("call_")]
    return any(name.endswith("_") or name == "setitem" for name in names)


def _once(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return a copy with a code object of its own: Dynamo counts recompiles by code; asking must use up none."""

    def run(*given: Any, **named: Any) -> Any:
        return fn(*given, **named)

    of = fn if isinstance(fn, types.FunctionType) else run
    copy = types.FunctionType(of.__code__.replace(), of.__globals__, of.__name__, of.__defaults__, of.__closure__)
    copy.__kwdefaults__ = of.__kwdefaults__
    return copy
