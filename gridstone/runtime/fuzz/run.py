"""Runs of a program: by PyTorch on decoded weights, in eager mode, compiled, and on values with error bounds."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor

from gridstone.runtime.compile import compile
from gridstone.runtime.fuzz.bounded import Bounded, exact
from gridstone.runtime.fuzz.bounded_ops import BOUNDED
from gridstone.runtime.fuzz.gradient import gradients
from gridstone.runtime.fuzz.machine import MODES, Code, assemble, make_function
from gridstone.runtime.fuzz.operands import bounded_tensors, bounded_weights, make_tensors
from gridstone.runtime.fuzz.ops import DECODED, IN_PLACE, OPS
from gridstone.runtime.fuzz.program import Plain, Program
from gridstone.runtime.tensors import QuantTensor

Function = Callable[..., tuple[Any, ...]]
BACKWARD_SEED = 1 << 20  # apart from the operands'


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run gave.

    Args:
        raised: What was raised, empty when nothing was; with `in the backward pass`, if there.
        error: The exception itself.
        results: As returned.
        tensors: The plain tensors that were given, as they are afterwards.
        gradients: Of those that require one, by name.
        steps: Dtype and shape of every intermediate result, where they were watched.
        said: Warnings of Gridstone's.
    """

    raised: str
    error: Exception | None
    results: tuple[Any, ...]
    tensors: Mapping[str, torch.Tensor]
    gradients: Mapping[str, torch.Tensor | None]
    steps: tuple[tuple[torch.dtype, tuple[int, ...]], ...] = ()
    said: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reference:
    """What a program means, with bounds.

    Args:
        results: In order; a quantised weight that is returned is one, too.
        tensors: What was given, afterwards.
        gradients: Of what requires one; None where there is none.
        known: Whether the gradients are: not where a view or its base was changed in place behind the other's back.
        steps: As an `Outcome`'s.
    """

    results: tuple[Bounded, ...]
    tensors: Mapping[str, Bounded]
    gradients: Mapping[str, Bounded | None]
    known: bool
    steps: tuple[tuple[torch.dtype, tuple[int, ...]], ...]


def takes(program: Program, weights: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of what a program takes as arguments."""
    held = weights if program.call.held or program.call.by == "export" else ()
    return tuple(one.name for one in program.given if one.name not in held)


def eager_function(
    program: Program, weights: Mapping[str, Any], steps: list[Any] | None = None, table: Mapping[str, Any] = OPS
) -> Function:
    """Return a program as torch runs it; `steps` takes dtype and shape of each intermediate result."""
    names = takes(program, weights)
    held = {name: weight for name, weight in weights.items() if name not in names}

    def watch(result: Any, values: dict[str, Any]) -> None:
        assert steps is not None
        steps.extend((one.dtype, tuple(one.shape)) for one in (result if isinstance(result, tuple) else (result,)))

    return make_function(assemble(program, table, names), held, None if steps is None else watch)


class Holder(torch.nn.Module):
    """A program as a module that holds its weights, for export."""

    def __init__(self, code: Code, held: Mapping[str, Any]) -> None:
        super().__init__()
        self.code, self.names = code, tuple(held)
        for name, value in held.items():
            is_net = isinstance(value, torch.nn.Module)
            setattr(self, name, value if is_net else torch.nn.Parameter(value, requires_grad=False))

    def forward(self, *given: torch.Tensor) -> tuple[Any, ...]:
        """Run it."""
        return make_function(self.code, {name: getattr(self, name) for name in self.names})(*given)


def compiled_function(program: Program, weights: Mapping[str, Any]) -> Function:
    """Return a program compiled as its call says."""
    call = program.call
    if call.by == "export":
        return _exported(program, weights, OPS)
    function = eager_function(program, weights)
    dynamic = {"none": None, "true": True, "false": False}[call.dynamic]
    target, numerics = call.target, call.numerics
    if call.by == "torch":
        options: dict[str, Any] = {"target": target, "tune": "off", "rest": call.rest, "numerics": numerics}
        return torch.compile(function, backend="gridstone", dynamic=dynamic, options=options)
    return compile(function, dynamic=dynamic, target=target, tune="off", rest=call.rest, numerics=numerics)


def _exported(program: Program, weights: Mapping[str, Any], table: Mapping[str, Any]) -> Function:
    holder = Holder(assemble(program, table, takes(program, weights)), weights)
    axes: list[Any] = [
        {at: torch.export.Dim.DYNAMIC for at, extent in enumerate(one.shape) if isinstance(extent, str)}
        for one in program.given
        if isinstance(one, Plain)
    ]
    given = tuple(make_tensors(program, 0).values())
    with MODES[program.call.mode]():
        several = len(set(program.call.M)) > 1
        return torch.export.export(holder, given, dynamic_shapes=(tuple(axes),) if several else None).module()


def stock_function(program: Program, weights: Mapping[str, Any]) -> Function:
    """Return a program compiled likewise, but by PyTorch alone; weights decoded."""
    call = program.call
    if call.by == "export":
        return _exported(program, weights, DECODED)
    dynamic = {"none": None, "true": True, "false": False}[call.dynamic]
    return torch.compile(eager_function(program, weights, table=DECODED), backend=call.rest, dynamic=dynamic)


def run(
    make: Callable[[], Function], program: Program, weights: Mapping[str, Any], call: int, steps: list[Any]
) -> Outcome:
    """Run one call of a program on fresh tensors.

    Args:
        make: Returns the function; what it raises counts as the call's.
        program: For what to draw, and whether gradients are wanted.
        weights: Quantised or decoded.
        call: Which of its calls.
        steps: What the function was watched by.
    """
    tensors = make_tensors(program, call)
    everything = {**weights, **tensors}
    results: tuple[Any, ...] = ()
    said = _Said()
    stage = ""
    try:
        with said, MODES[program.call.mode]():
            results = tuple(make()(*(everything[name] for name in takes(program, weights))))
        if program.call.backward:
            stage = " in the backward pass"
            pairs = [(r, s) for r, s in zip(results, _seeds(program, results, call), strict=True) if s is not None]
            if pairs:
                torch.autograd.backward([r for r, _ in pairs], [s for _, s in pairs])
    except Exception as error:  # whatever a program raises is its outcome
        what = f"{type(error).__name__}{stage}: {error}"
        return Outcome(what, error, results, tensors, {}, tuple(steps), said.lines())
    found = {one.name: tensors[one.name].grad for one in program.given if isinstance(one, Plain) and one.grad}
    return Outcome("", None, results, tensors, found, tuple(steps), said.lines())


def reference(program: Program, weights: Mapping[str, Any], call: int, seeded: Outcome) -> Reference:
    """Return what a call of a program means.

    Args:
        program: It must not raise.
        weights: Quantised.
        call: Which of its calls.
        seeded: A run of it: which of its results have gradients.
    """
    given = bounded_tensors(program, make_tensors(program, call))
    held = bounded_weights(program, weights)
    ops = iter([i.op for i in program.body])
    steps: list[tuple[torch.dtype, tuple[int, ...]]] = []
    known = True

    def watch(result: Any, values: dict[str, Any]) -> None:
        nonlocal known
        many = result if isinstance(result, tuple) else (result,)
        steps.extend((one.dtype, tuple(one.shape)) for one in many)
        if next(ops) in IN_PLACE:
            memory = many[0].value.untyped_storage().data_ptr()
            others = [v for v in values.values() if isinstance(v, Bounded) and v is not many[0]]
            known &= all(v.value.untyped_storage().data_ptr() != memory for v in others)

    function = make_function(assemble(program, BOUNDED, tuple(given)), held, watch)
    with _one_thread(), MODES[program.call.mode]():
        results = function(*given.values())
    leaves = {one.name: given[one.name] for one in program.given if isinstance(one, Plain) and one.grad}
    wanted: dict[str, Bounded | None] = {}
    if program.call.backward:
        seeds = _seeds(program, seeded.results, call)
        pairs = [(r, exact(s.double(), r.dtype)) for r, s in zip(results, seeds, strict=True) if s is not None]
        with _one_thread():
            wanted = dict(zip(leaves, gradients(pairs, list(leaves.values())), strict=True))
    return Reference(results, given, wanted, known, tuple(steps))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Small products: on a busy machine threads wait for each other longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _seeds(program: Program, results: tuple[Any, ...], call: int) -> list[torch.Tensor | None]:
    """Return what each result is multiplied with before the gradient is taken: powers of two of either sign."""
    seeds: list[torch.Tensor | None] = []
    for at, result in enumerate(results):
        if not isinstance(result, torch.Tensor) or isinstance(result, QuantTensor) or not result.requires_grad:
            seeds.append(None)
            continue
        rng = np.random.default_rng([program.call.seed, BACKWARD_SEED + at, call])
        drawn = rng.choice([-1.0, -0.5, 0.5, 1.0, 2.0], tuple(result.shape))
        seeds.append(torch.from_numpy(np.asarray(drawn)).to(result.dtype))
    return seeds


class _Said(logging.Handler):
    """Keeps what Gridstone warns of while it is entered; torch says nothing of what it raises anyway."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: list[str] = []
        self._ours, self._theirs = logging.getLogger("gridstone"), logging.getLogger(FakeTensor.__module__)
        self._before = (self._ours.propagate, self._theirs.disabled)

    def __enter__(self) -> None:
        self._before = (self._ours.propagate, self._theirs.disabled)
        self._ours.addHandler(self)
        self._ours.propagate, self._theirs.disabled = False, True

    def __exit__(self, *raised: object) -> None:
        self._ours.removeHandler(self)
        self._ours.propagate, self._theirs.disabled = self._before

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self._lines.append(record.getMessage())

    def lines(self) -> tuple[str, ...]:
        """Return them."""
        return tuple(self._lines)
