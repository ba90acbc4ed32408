"""The exam that a candidate sits before and after it is timed: fixed operands with their answers, computed once.

`proof.judge.judge` decides what is right. Reference and error bound of a large problem take seconds, and a worker
judges hundreds of candidates, so here the op that it asks for them already knows the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch

from gridstone.ir.dtype import Values
from gridstone.ir.errors import MismatchError
from gridstone.ir.spec import Op, Spec, Tolerance
from gridstone.ir.text import print_spec
from gridstone.lower.bucket import ROWS, generalize
from gridstone.proof.judge import Checked, judge
from gridstone.proof.operands import Operands, draw_operands, draw_values, to_tensor


@dataclass(frozen=True, slots=True)
class _Answered:
    """Stands in for a spec's op towards `judge`: the answers for one set of operands."""

    want: Values
    bound: Tolerance

    def reference(self, spec: Spec, operands: Mapping[str, Values]) -> Values:
        return self.want

    def tolerance(self, spec: Spec, operands: Mapping[str, Values]) -> Tolerance:
        return self.bound


@dataclass(frozen=True, slots=True)
class Case:
    """Operands, and the answers to them.

    Args:
        title: Spec and seed, for messages.
        spec: As `judge` takes it.
        operands: Its tensors; the decoded values are dropped, for they are large.
    """

    title: str
    spec: Spec
    operands: Operands


def prepare(spec: Spec, seeds: Sequence[int]) -> tuple[Case, ...]:
    """Draw the cases of a static spec: the first seed at its own rows, the others at fewer, ragged ones.

    They share quantised weights, whose packing and decoding take most of the time and memory.
    """
    fewer = generalize(spec).bind(**{ROWS: ragged(spec.inputs[0].type.static(0))})
    first = draw_operands(spec, seeds[0])
    others = [_case(fewer, seed, _redrawn(fewer, seed, first)) for seed in seeds[1:]]
    return (_case(spec, seeds[0], first), *others)


def ragged(rows: int) -> int:
    """Return an odd number of rows below this one, about three quarters of it; 1 has none below.

    >>> [ragged(m) for m in (1, 2, 3, 4, 16, 64)]
    [1, 1, 1, 3, 13, 49]
    """
    return max(1, min(rows * 3 // 4 | 1, (rows - 2) | 1))


def sit(candidate: Callable[..., torch.Tensor], cases: Sequence[Case]) -> Checked:
    """Judge a candidate on every case.

    Raises:
        MismatchError: An output is wrong, or something beside it was written.
    """
    element, rms = 0.0, 0.0
    for case in cases:
        verdict = judge(candidate, case.spec, case.operands)
        if not verdict.right:
            raise MismatchError(f"{case.title}: {verdict.problem}")
        element, rms = max(element, verdict.worst_element), max(rms, verdict.worst_rms)
    return Checked(len(cases), element, rms)


def _redrawn(spec: Spec, seed: int, first: Operands) -> Operands:
    """Return operands with the quantised ones of others, and the plain ones drawn anew for another number of rows."""
    rng = np.random.default_rng(seed)
    tensors: list[torch.Tensor] = []
    values: dict[str, Values] = {}
    for operand, kept in zip((*spec.inputs, *spec.extra_operands), first.tensors, strict=True):
        kind = operand.type
        if kind.format is not None:
            tensors.append(kept)
            values[operand.name] = first.values[operand.name]
        else:
            shape = tuple(kind.static(axis) for axis in range(len(kind.shape)))
            values[operand.name] = draw_values(rng, kind.dtype, shape, "normal")
            tensors.append(to_tensor(kind.dtype, values[operand.name]))
    return Operands(tuple(tensors), values)


def _case(spec: Spec, seed: int, operands: Operands) -> Case:
    answers = _Answered(spec.op.reference(spec, operands.values), spec.op.tolerance(spec, operands.values))
    names = {name: np.empty(0) for name in operands.values}
    answered = replace(spec, op=cast(Op, answers))
    return Case(f"{print_spec(spec)} with seed {seed}", answered, Operands(operands.tensors, names))
