"""CUDA gemm kernels under test, executed on a CPU: each built once a process."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from gridstone.ir.spec import Spec
from gridstone.ir.text import parse_spec
from gridstone.lower.schedule import parse_schedule
from gridstone.lower.target import parse_target
from gridstone.proof.emulate import emulated
from gridstone.proof.judge import judge
from gridstone.proof.operands import Operands, draw_operands
from gridstone.proof.program import Program, program
from gridstone.templates.emit import emit
from gridstone.templates.registry import recipe_named
from gridstone.templates.source import Source


@dataclass(frozen=True)
class Case:
    """A kernel; an empty schedule is the default for `rows` rows."""

    spec: str
    schedule: str = ""
    recipe: str = "gemm.cuda.mma"
    target: str = "cuda:sm_80"
    rows: int = 17

    def __str__(self) -> str:
        return " | ".join(part for part in (self.recipe, self.schedule, self.spec) if part)

    @property
    def resolved(self) -> Spec:
        return parse_spec(self.spec).with_storage(parse_target(self.target).storage)


@functools.cache
def source_of(case: Case) -> Source:
    recipe, on = recipe_named(case.recipe), parse_target(case.target)
    default = recipe.space.default(case.resolved.bind(M=case.rows), on)
    schedule = parse_schedule(case.schedule, recipe.schedule, default) if case.schedule else default
    return emit(recipe, case.resolved, schedule, on)


@functools.lru_cache(maxsize=64)
def built(case: Case, sanitized: bool = False) -> Program:
    source = source_of(case)
    return program(source.text, source.entry, sanitized=sanitized)


def assert_right(
    case: Case, rows: int, seed: int, *, kind: str = "normal", operands: Operands | None = None, sanitized: bool = False
) -> None:
    """Fail unless an execution shows no fault and the result is right."""
    spec = case.resolved.bind(M=rows)
    call = emulated(source_of(case), spec, seed=seed, built=built(case, sanitized))
    verdict = judge(call, spec, operands or draw_operands(spec, seed + rows, kind))
    assert verdict.right, f"{case} with M={rows}, seed {seed}: {verdict.problem}"
