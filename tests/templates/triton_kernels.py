"""Triton kernels under test, run by Triton's interpreter, and the cases that every recipe is put through."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from gridstone.ir.spec import Spec
from gridstone.ir.text import parse_spec
from gridstone.lower.schedule import Schedule, parse_schedule, print_schedule
from gridstone.lower.target import TARGETS, Language, parse_target
from gridstone.proof.compare import Verdict
from gridstone.proof.interpret import interpreted
from gridstone.proof.judge import judge
from gridstone.proof.operands import draw_operands
from gridstone.templates.emit import emit
from gridstone.templates.recipe import Recipe
from gridstone.templates.registry import RECIPES, recipe_named
from gridstone.templates.source import Source
from tests.templates.gemm_kernels import CODES, EPILOGUES, FLOATS, GROUPS, SCALES, k_for

TRITON = tuple(recipe for recipe in RECIPES if recipe.language is Language.TRITON)
NAMES = tuple(recipe.name for recipe in TRITON)
TRITON_TARGETS = tuple(target for target in TARGETS.values() if target.language is Language.TRITON)
HOST = parse_target("triton:sm_90")
SMALL, LARGE = "gemm.triton.small", "gemm.triton.large"


@dataclass(frozen=True)
class Case:
    """A kernel and its rows: of the default schedule for them, or of one that is emitted for any number of rows.

    `asm`: its inline PTX runs, not its plain twin.
    """

    spec: str
    rows: int
    recipe: str = SMALL
    schedule: str = ""
    asm: bool = False

    def __str__(self) -> str:
        return f"{self.recipe} | {self.schedule} | {self.spec} | M={self.rows}{' | PTX' if self.asm else ''}"

    @property
    def any_rows(self) -> Spec:
        return parse_spec(self.spec).with_storage(HOST.storage)

    @property
    def static(self) -> Spec:
        return self.any_rows.bind(M=self.rows)


def source_of(case: Case) -> Source:
    recipe, spec = recipe_named(case.recipe), case.any_rows if case.schedule else case.static
    default = recipe.space.default(spec, HOST)
    schedule = parse_schedule(case.schedule, recipe.schedule, default) if case.schedule else default
    return emit(recipe, spec, schedule, HOST)


def verdict(case: Case, seed: int = 1, change: Callable[[str], str] | None = None) -> Verdict:
    """The judgement on a case, or on a changed text of it."""
    source = source_of(case)
    if change is not None:
        text = change(source.text)
        assert text != source.text, "the plant did not take"
        source = replace(source, text=text)
    return judge(
        interpreted(source, case.static, seed=seed, asm=case.asm), case.static, draw_operands(case.static, seed)
    )


def assert_right(case: Case, seed: int = 1) -> None:
    found = verdict(case, seed)
    assert found.right, f"{case}: {found.problem}"


def assert_order_does_not_matter(case: Case) -> None:
    """Where programs share K, two orders of them give the same bits, if the kernel says so."""
    launch = source_of(case).launch
    if launch.deterministic and launch.grid is not None and launch.grid.k_splits > 1:
        first, second = outputs(case, (2, 3))
        assert torch.equal(first, second), str(case)
        assert torch.isfinite(first).all()


def outputs(case: Case, seeds: tuple[int, ...]) -> list[torch.Tensor]:
    """What a case computes from the same operands, with its programs in the orders that the seeds draw."""
    source, spec, found = source_of(case), case.static, []
    for seed in seeds:
        out = torch.empty((case.rows, spec.output.static(1)), dtype=getattr(torch, spec.output.dtype.torch))
        found.append(interpreted(source, spec, seed=seed, asm=case.asm)(*draw_operands(spec, 9).tensors, out=out))
    return found


def schedules(recipe: Recipe[Schedule], text: str) -> list[str]:
    """Every schedule for any rows that gives a text of its own: the interpreter knows neither warps nor stages."""
    spec = parse_spec(text).with_storage(HOST.storage)
    found: dict[str, str] = {}
    for schedule in recipe.space.feasible(spec, HOST):
        parts = {
            name: getattr(schedule, name) for name in schedule.__dataclass_fields__ if name not in ("warps", "stages")
        }
        found.setdefault(str(parts), print_schedule(schedule))
    return list(found.values())


def drawn_cases(seed: int, count: int) -> Iterator[Case]:
    """Cases with everything drawn: recipe, format, shape, epilogue, numerics, schedule."""
    rng = random.Random(seed)
    while count:
        recipe, group = rng.choice(TRITON), rng.choice(GROUPS)
        n, k, rows = rng.choice((17, 33, 64, 70, 130)), k_for(group, rng.choice((1, 2, 3))), rng.randint(1, 80)
        weight = f"{rng.choice(CODES)}:{group}:{rng.choice(SCALES)}{rng.choice(('', ':zero'))}({n},{k})"
        numerics = rng.choice(("exact", "exact ordered", "bf16", "tf32"))
        text = f"gemm[x: {rng.choice(FLOATS)}(M,{k}), w: {weight}]{rng.choice(EPILOGUES).format(n=n)}; {numerics}"
        chosen = rng.choice(schedules(recipe, text))
        yield Case(text, rows, recipe.name, chosen, rng.random() < 0.5)
        count -= 1
