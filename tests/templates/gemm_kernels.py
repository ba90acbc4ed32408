"""Kernels under test, each built once a process, and the cases that every recipe is put through."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from gridstone.ir.spec import Spec, Tolerance
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache.host import host_target, runs_here
from gridstone.kernel_cache.make import make_kernel
from gridstone.kernel_cache.toolchain import Kernel
from gridstone.lower.schedule import Schedule, parse_schedule, print_schedule
from gridstone.lower.target import TARGETS, Language, Target, parse_target
from gridstone.proof.compare import compare
from gridstone.proof.judge import judge
from gridstone.proof.operands import draw_operands, to_values
from gridstone.proof.poison import poisoned
from gridstone.templates.recipe import Recipe
from gridstone.templates.registry import RECIPES, recipe_named

CPP = tuple(recipe for recipe in RECIPES if recipe.language is Language.CPP)
CPP_NAMES = tuple(recipe.name for recipe in CPP)
CPP_TARGETS = tuple(target for target in TARGETS.values() if target.language is Language.CPP)
HERE = tuple(str(target) for target in CPP_TARGETS if runs_here(target))

CODES = ("int4", "uint4", "int8", "uint8")
GROUPS = ("g16", "g32", "g64", "g128", "g256", "channel")
SCALES = ("f16", "bf16", "f32")
FLOATS = ("f32", "bf16", "f16")
# N is last for the text of a cast.
EPILOGUES = (
    "",
    " + bias",
    " + bias:f32 + gelu",
    " + silu",
    " + bias + residual",
    " + bias + gelu_tanh + residual:f32",
    " + scale(0.37) + relu",
    " + residual + relu + bias -> f32(M,{n})",
)


@dataclass(frozen=True)
class Case:
    """A kernel to build; an empty schedule is the default, an empty target this CPU's."""

    spec: str
    recipe: str = "gemm.cpp.direct"
    schedule: str = ""
    target: str = ""

    def __str__(self) -> str:
        return " | ".join(part for part in (self.recipe, self.schedule, self.target, self.spec) if part)

    @property
    def on(self) -> Target:
        return parse_target(self.target) if self.target else host_target()


def resolved(text: str) -> Spec:
    return parse_spec(text).with_storage("lane16")


def schedule_of(case: Case, recipe: Recipe[Schedule]) -> Schedule:
    default = recipe.space.default(resolved(case.spec), case.on)
    return parse_schedule(case.schedule, recipe.schedule, default) if case.schedule else default


@functools.cache
def kernel(case: Case) -> Kernel:
    """The built kernel of a case; it takes any number of rows."""
    recipe = recipe_named(case.recipe)
    return make_kernel(recipe, resolved(case.spec), schedule_of(case, recipe), case.on)


def assert_right(case: Case, rows: Iterable[int], seed: int, kind: str = "normal") -> None:
    """Fail unless the kernel is right on fresh operands for every row count."""
    for m in rows:
        spec = resolved(case.spec).bind(M=m)
        verdict = judge(kernel(case), spec, draw_operands(spec, seed + m, kind))
        assert verdict.right, f"{case} with M={m}: {verdict.problem}"


def assert_every_row_count_right(case: Case, most: int, seed: int) -> None:
    """Like `assert_right` for M = 1 .. most, with one reference: a call takes the last M rows of x."""
    spec = resolved(case.spec).bind(M=most)
    operands = draw_operands(spec, seed)
    want = spec.op.reference(spec, operands.values)
    tolerance = spec.op.tolerance(spec, operands.values)
    names = list(operands.values)
    for m in range(1, most + 1):
        rows = slice(most - m, most)
        tensors = [t[rows] if name in ("x", "residual") else t for name, t in zip(names, operands.tensors, strict=True)]
        poison = poisoned((m, want.shape[1]), getattr(torch, spec.output.dtype.torch))
        kernel(case)(*tensors, out=poison.output)
        assert not poison.damage(), f"{case} with M={m}: {poison.damage()}"
        # An element's bound is its own; the norm's is stated for the whole output, so it is not asked of a part.
        part = Tolerance(tolerance.element[rows], np.inf)
        verdict = compare(to_values(poison.output), want[rows], part, spec.output.dtype)
        assert verdict.right, f"{case} with M={m}: {verdict.problem}"


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def k_for(group: str, factor: int = 3) -> int:
    """A K that the group divides and no slab, panel or tile does."""
    return 77 * factor if group == "channel" else factor * int(group[1:])


def spec_text(
    x: str, code: str, group: str, scale: str, zero: bool, epilogue: str, numerics: str, n: int, factor: int
) -> str:
    k = k_for(group, factor)
    weight = f"{code}:{group}:{scale}{':zero' if zero else ''}({n},{k})"
    return f"gemm[x: {x}(M,{k}), w: {weight}]{epilogue.format(n=n)}; {numerics}"


def draw_cases(rng: random.Random, recipe: str, bits: int, zero: bool, dot: str) -> Case:
    """A random case of one decoder: everything else is drawn."""
    x = rng.choice(FLOATS)
    numerics = "exact" if x == "bf16" or dot == "f32" else "bf16"
    code, group, scale = rng.choice([f"int{bits}", f"uint{bits}"]), rng.choice(GROUPS), rng.choice(SCALES)
    text = spec_text(
        x, code, group, scale, zero, rng.choice(EPILOGUES), numerics, rng.choice((33, 70, 130, 200)), rng.randint(1, 5)
    )
    return Case(text, recipe, f"{recipe.split('.')[-1]}(dot={dot})")


def decoder_cases(seed: int, rounds: int) -> Iterator[Case]:
    """Every recipe with every decoder, `rounds` times, the rest of the case drawn afresh."""
    rng = random.Random(seed)
    dots = ("bf16", "f32") if host_target().bf16_flops else ("f32",)
    for _ in range(rounds):
        for recipe, bits, zero, dot in itertools.product(CPP_NAMES, (4, 8), (False, True), dots):
            yield draw_cases(rng, recipe, bits, zero, dot)


def covering_schedules(recipe: Recipe[Schedule], spec: Spec, target: Target) -> list[str]:
    """A few feasible schedules in which every feasible value of every field occurs."""
    space = list(recipe.space.feasible(spec, target))
    random.Random(3).shuffle(space)
    wanted = {(f.field, getattr(s, f.field)) for s in space for f in recipe.space.fields}
    chosen: list[str] = []
    while wanted:
        best = max(
            space[:4000], key=lambda s: sum((f.field, getattr(s, f.field)) in wanted for f in recipe.space.fields)
        )
        gained = {(f.field, getattr(best, f.field)) for f in recipe.space.fields} & wanted
        if not gained:  # a rare value beyond the first 4000
            best = next(s for s in space if any((f.field, getattr(s, f.field)) in wanted for f in recipe.space.fields))
            gained = {(f.field, getattr(best, f.field)) for f in recipe.space.fields} & wanted
        wanted -= gained
        chosen.append(print_schedule(best))
    return chosen
