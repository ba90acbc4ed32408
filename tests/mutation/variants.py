"""Correct variants: the same products in other orders. Checks that call one of them wrong would object to anything.

    python -m tests.mutation.variants [--part 0/2]

Of every recipe some schedules are drawn, which tile, split and order the sums differently; each is called with several
numbers of rows, operands, threads, and orders of blocks. A line of JSON for each says what was objected to.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from gridstone.ir.errors import GridstoneError
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache.host import host_target
from gridstone.kernel_cache.toolchain_triton import TritonToolchain
from gridstone.lower.schedule import print_schedule
from gridstone.lower.target import Language, Target, parse_target
from gridstone.proof.emulate import emulated
from gridstone.proof.interpret import interpreted
from gridstone.proof.judge import Verdict, judge
from gridstone.proof.operands import draw_operands
from gridstone.templates.registry import recipe_named
from tests.templates import cuda_kernels, gemm_kernels, triton_kernels

SEED = 5


@dataclass(frozen=True, slots=True)
class Family:
    """A recipe, a product for it, and how many variants are drawn.

    Args:
        recipe, spec: Texts.
        target: Text; empty for this CPU.
        schedules: How many of the space.
        calls: Of each.
        most_rows: Rows of x, drawn from 1 on.
    """

    recipe: str
    spec: str
    target: str
    schedules: int
    calls: int
    most_rows: int

    @property
    def on(self) -> Target:
        """The target."""
        return parse_target(self.target) if self.target else host_target()


BF16_RAGGED = "gemm[x: bf16(M,1056), w: int4:g32:zero(203,1056)] + bias + gelu"
F32_RAGGED = "gemm[x: f32(M,704), w: uint8:g64:f32(75,704)] + silu + residual"
GPU_RAGGED = "gemm[x: f16(M,832), w: uint4:g64:zero(70,832)] + bias + residual"
FAMILIES = (
    *(Family(recipe, text, "", 4, 4, 40) for recipe in gemm_kernels.CPP_NAMES for text in (BF16_RAGGED, F32_RAGGED)),
    Family("gemm.cuda.gemv", GPU_RAGGED, "cuda:sm_80", 7, 4, 4),
    Family("gemm.cuda.mma", GPU_RAGGED, "cuda:sm_80", 7, 4, 33),
    Family("gemm.cuda.wgmma", GPU_RAGGED, "cuda:sm_90a", 7, 4, 33),
    Family("gemm.triton.small", GPU_RAGGED, "triton:sm_90", 8, 3, 20),
    Family("gemm.triton.large", GPU_RAGGED, "triton:sm_90", 6, 3, 70),
)


@dataclass(frozen=True, slots=True)
class Variant:
    """One call of one kernel.

    Args:
        family: Of it.
        schedule: Text.
        rows: Of x.
        seed: Of the operands, and of the order of blocks or programs.
        threads: Of a C++ kernel.
    """

    family: Family
    schedule: str
    rows: int
    seed: int
    threads: int

    def __str__(self) -> str:
        what = f"{self.family.recipe} | {self.schedule} | {self.family.spec}"
        return f"{what} | M={self.rows} seed={self.seed} threads={self.threads}"


def draw_variants(families: tuple[Family, ...] = FAMILIES, seed: int = SEED) -> Iterator[Variant]:
    """Yield the variants of some families; the same seed draws the same."""
    for family in families:
        rng = random.Random(f"{seed} {family.recipe} {family.spec}")
        recipe = recipe_named(family.recipe)
        spec = parse_spec(family.spec).with_storage(family.on.storage)
        space = [print_schedule(schedule) for schedule in recipe.space.feasible(spec, family.on)]
        for schedule in rng.sample(space, min(family.schedules, len(space))):
            for call in range(family.calls):
                yield Variant(family, schedule, rng.randint(1, family.most_rows), rng.randint(1, 999), 1 + call % 3)


def judged(variant: Variant) -> Verdict:
    """Put a variant through the check that every kernel passes."""
    family = variant.family
    spec = parse_spec(family.spec).with_storage(family.on.storage).bind(M=variant.rows)
    operands = draw_operands(spec, variant.seed)
    match family.on.language:
        case Language.CPP:
            before = torch.get_num_threads()
            torch.set_num_threads(variant.threads)
            try:
                call = gemm_kernels.kernel(gemm_kernels.Case(family.spec, family.recipe, variant.schedule))
                return judge(call, spec, operands)
            finally:
                torch.set_num_threads(before)
        case Language.CUDA:
            case = cuda_kernels.Case(family.spec, variant.schedule, family.recipe, family.target)
            source, built = cuda_kernels.source_of(case), cuda_kernels.built(case)
            return judge(emulated(source, spec, seed=variant.seed, built=built), spec, operands)
        case _:
            case = triton_kernels.Case(family.spec, variant.rows, family.recipe, variant.schedule)
            asm = variant.seed % 2 == 1
            call = interpreted(triton_kernels.source_of(case), spec, seed=variant.seed, asm=asm)
            return judge(call, spec, operands)


def problem_of(variant: Variant) -> str:
    """Return what the checks object to in a variant; empty for nothing."""
    try:
        return judged(variant).problem
    except GridstoneError as error:
        return str(error)


def runs_here(variant: Variant) -> bool:
    """Whether this machine has what the variant needs."""
    return variant.family.on.language is not Language.TRITON or TritonToolchain().missing() is None


def main() -> None:
    """Judge a part of the variants."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation.variants", description=__doc__)
    parser.add_argument("--part", default="0/1", help="which of how many parts")
    at, count = map(int, parser.parse_args().part.split("/"))
    mine = [one for one in draw_variants() if runs_here(one)]
    schedules = list(dict.fromkeys((one.family, one.schedule) for one in mine))  # each is built once
    for one in mine:
        if schedules.index((one.family, one.schedule)) % count == at:
            print(json.dumps({"variant": str(one), "problem": problem_of(one)}), flush=True)


if __name__ == "__main__":
    main()
