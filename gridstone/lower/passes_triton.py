"""The passes of Triton kernels: tiles, products, the order of programs. Chunks, splits and the grid are every GPU's."""

from __future__ import annotations

from typing import Protocol

from gridstone.ir.dtype import bf16, f32
from gridstone.ir.spec import NumericsClass
from gridstone.lower.decisions import Dot, ProgramTile, Raster, WeightChunks
from gridstone.lower.plan import Plan

FMA_K = 16  # k of a product without tensor cores, whose operands lie in registers


class TritonGemm(Protocol):
    """What the passes read of a Triton gemm schedule."""

    @property
    def block_m(self) -> int:
        """Rows of x of a program."""
        ...

    @property
    def block_n(self) -> int:
        """Rows of the weight of a program."""
        ...

    @property
    def block_k(self) -> int:
        """k of a step."""
        ...

    @property
    def warps(self) -> int:
        """Warps of a program."""
        ...

    @property
    def group_m(self) -> int:
        """Rows of programs walked together."""
        ...


def program_tile(plan: Plan, schedule: TritonGemm) -> ProgramTile:
    """As the schedule says."""
    return ProgramTile(schedule.block_m, schedule.block_n, schedule.block_k, schedule.warps)


def dot(plan: Plan, schedule: TritonGemm) -> Dot:
    """The activations' own type; float32 ones lose only what the numerics class allows. A product is of one group."""
    x, kind = plan.spec.input("x").dtype, plan.spec.numerics.kind
    chunks = plan.the(WeightChunks)
    dot_k = min(chunks.group_k, schedule.block_k) if chunks.groups > 1 else schedule.block_k
    if x != f32:
        return Dot(x.triton, "ieee", dot_k)
    match kind:
        case NumericsClass.BF16:
            return Dot(bf16.triton, "ieee", dot_k)
        case NumericsClass.TF32:
            return Dot(f32.triton, "tf32", dot_k)
        case _:
            return Dot(f32.triton, "ieee", min(dot_k, FMA_K))


def raster(plan: Plan, schedule: TritonGemm) -> Raster:
    """As the schedule says."""
    return Raster(schedule.group_m)
