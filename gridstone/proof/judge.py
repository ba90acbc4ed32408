"""The check that every kernel passes before it may win: fresh operands, poisoned output, float64 reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from gridstone.ir.errors import MismatchError
from gridstone.ir.spec import Spec
from gridstone.ir.text import print_spec
from gridstone.proof.compare import Verdict, compare
from gridstone.proof.draws import Draw
from gridstone.proof.operands import Operands, to_values
from gridstone.proof.poison import poisoned

Candidate = Callable[..., torch.Tensor]


@dataclass(frozen=True, slots=True)
class Checked:
    """Evidence that a candidate was right.

    Args:
        cases: Number of calls compared.
        worst_element, worst_rms: Largest ratios of error to bound over all of them.
    """

    cases: int
    worst_element: float
    worst_rms: float


def judge(candidate: Candidate, spec: Spec, operands: Operands) -> Verdict:
    """Call a candidate once on operands and compare.

    Args:
        candidate: Called as `candidate(*tensors, out=tensor)`.
        spec: Static, storages resolved.
        operands: From `draw_operands(spec, ...)`.
    """
    shape = tuple(spec.output.static(axis) for axis in range(len(spec.output.shape)))
    poison = poisoned(shape, getattr(torch, spec.output.dtype.torch))
    before = [tensor.clone() for tensor in operands.tensors]
    candidate(*operands.tensors, out=poison.output)
    damage = poison.damage()
    if damage:
        return Verdict(damage, float("inf"), float("inf"))
    for name, old, new in zip(operands.values, before, operands.tensors, strict=True):
        if not torch.equal(_bits(old), _bits(new)):
            return Verdict(f"operand {name} was changed", float("inf"), float("inf"))
    want = spec.op.reference(spec, operands.values)
    tolerance = spec.op.tolerance(spec, operands.values)
    return compare(to_values(poison.output), want, tolerance, spec.output.dtype)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8) if tensor.numel() else tensor


def check(candidate: Candidate, spec: Spec, seeds: Iterable[int], kind: str = "normal") -> Checked:
    """Judge a candidate on fresh operands for every seed.

    Args:
        candidate, spec: As for `judge`.
        seeds: Of the operands, one call each.
        kind: One of `draws.KINDS`.

    Raises:
        MismatchError: An output is not the reference's within tolerance; names the seed.
    """
    cases, element, rms = 0, 0.0, 0.0
    for seed in seeds:
        verdict = judge(candidate, spec, Draw(spec, seed, kind).operands())
        if not verdict.right:
            raise MismatchError(f"{print_spec(spec)} with seed {seed}: {verdict.problem}")
        cases, element, rms = cases + 1, max(element, verdict.worst_element), max(rms, verdict.worst_rms)
    return Checked(cases, element, rms)
