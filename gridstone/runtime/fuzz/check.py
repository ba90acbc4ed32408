"""The check of one program: by PyTorch on decoded weights, in eager mode and compiled, against what it means."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch._dynamo

from gridstone.runtime.fuzz.agree import (
    complaint,
    disagreement,
    memory,
    refused,
    strays,
    trespass,
    unequal,
)
from gridstone.runtime.fuzz.operands import decoded, make_tensors, make_weights
from gridstone.runtime.fuzz.ops import DECODED
from gridstone.runtime.fuzz.program import Net, Packed, Program
from gridstone.runtime.fuzz.run import (
    Function,
    Outcome,
    Reference,
    compiled_function,
    eager_function,
    reference,
    run,
    stock_function,
)
from gridstone.runtime.tensors import QuantTensor

COMPILED = "compiled: "


class _Compiled:
    """A compiled program, made by its first call and used by all of them."""

    def __init__(self, make: Callable[[], Function]) -> None:
        self._make = make
        self._made: Function | None = None

    def __call__(self) -> Function:
        if self._made is None:
            self._made = self._make()
        return self._made


def problem_of(program: Program) -> str:
    """Run a program in eager mode and compiled; return what is wrong, empty when nothing is.

    What PyTorch's own compiler does just as wrongly with decoded weights is not our problem.
    """
    weights = make_weights(program)
    plain = decoded(weights)
    before = _codes(weights)
    torch._dynamo.reset()
    ours = _Compiled(lambda: compiled_function(program, weights))
    for call in range(len(program.call.M)):
        problem, blames_compiler = _problem_of_call(program, weights, plain, ours, call)
        if problem and blames_compiler and _kind(problem) in map(_kind, _stock_problems(program, plain)):
            return ""
        if problem:
            return f"call {call}: {problem}" if len(program.call.M) > 1 else problem
    after = _codes(weights)
    changed = [name for name, codes in before.items() if not torch.equal(codes, after[name])]
    return f"changes {', '.join(changed)}" if changed else ""


def _problem_of_call(
    program: Program, weights: Mapping[str, Any], plain: Mapping[str, Any], compiled: _Compiled, call: int
) -> tuple[str, bool]:
    """Return what is wrong with one call, and whether a compiler is to blame."""
    before = memory(make_tensors(program, call))
    steps: list[Any] = []
    theirs = run(lambda: eager_function(program, plain, steps, DECODED), program, plain, call, steps)
    eager = run(lambda: eager_function(program, weights), program, weights, call, [])
    if eager.raised and not theirs.raised and not refused(eager):
        return f"eager mode raises {eager.raised}, where PyTorch on decoded weights does not", False
    try:
        meant = None if eager.raised else reference(program, weights, call, eager)
    except Exception as error:  # the reference lacks something: as good as wrong
        return f"the reference raises {type(error).__name__}: {error}", False
    if meant is not None:
        problem = "" if theirs.raised else _unlike(theirs, eager, meant, before)
        problem = problem or prefixed("eager mode: ", strays(eager, meant))
        if problem:
            return problem, False
    got = run(compiled, program, weights, call, [])
    problem = complaint(got.said) or _compared(got, eager, meant, before)
    if not problem and meant is not None and _must_be_equal(program):
        problem = unequal(got, eager)
    return prefixed(COMPILED, problem), True


def _compared(got: Outcome, eager: Outcome, meant: Reference | None, before: Mapping[str, torch.Tensor]) -> str:
    """Return in what a compiled program is not what it is in eager mode; `meant` is None where that raises."""
    problem = disagreement(got, eager)
    if problem or meant is None:
        return problem
    return trespass(got, eager, before) or strays(got, meant)


def prefixed(by: str, problem: str) -> str:
    """Return a problem behind some words; nothing when it is nothing."""
    return problem and by + problem


def _unlike(theirs: Outcome, eager: Outcome, meant: Reference, before: Mapping[str, torch.Tensor]) -> str:
    """Return in what eager mode on quantised weights is not what PyTorch makes of decoded ones."""
    if theirs.steps != meant.steps:
        at = next(i for i, (a, b) in enumerate(zip(theirs.steps, meant.steps, strict=True)) if a != b)
        return f"the reference is wrong: step {at} is {theirs.steps[at]}, not {meant.steps[at]}"
    problem = prefixed("PyTorch on decoded weights: ", strays(theirs, meant))
    beside = disagreement(eager, theirs, decoded=True) or trespass(eager, theirs, before)
    return problem or prefixed("eager mode, beside PyTorch on decoded weights: ", beside)


def _must_be_equal(program: Program) -> bool:
    """Whether nothing of a program is ours, or may be computed otherwise than as it is written."""
    ours = any(isinstance(one, (Packed, Net)) for one in program.given)
    return not ours and program.call.rest == "eager" and program.call.by != "export"


def _stock_problems(program: Program, plain: Mapping[str, Any]) -> Iterator[str]:
    """Yield in what PyTorch's own compiler, on decoded weights, disagrees with eager mode."""
    torch._dynamo.reset()
    stock = _Compiled(lambda: stock_function(program, plain))
    for call in range(len(program.call.M)):
        before = memory(make_tensors(program, call))
        eager = run(lambda: eager_function(program, plain, table=DECODED), program, plain, call, [])
        got = run(stock, program, plain, call, [])
        yield _compared(got, eager, None if eager.raised else reference(program, plain, call, eager), before)


def _kind(problem: str) -> list[str]:
    """Return what kind of problem it is: its first words, without numbers and without what was raised."""
    words = [word for word in problem.removeprefix(COMPILED).split() if word.isalpha()]
    return words[:1] if words[:1] == ["raises"] else words[:4]


def _codes(weights: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return copies of what weights and modules hold."""
    found: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        parts = dict(weight.state_dict()) if isinstance(weight, torch.nn.Module) else {"": weight}
        for path, part in parts.items():
            found[f"{name}.{path}".rstrip(".")] = (part.packed if isinstance(part, QuantTensor) else part).clone()
    return found
