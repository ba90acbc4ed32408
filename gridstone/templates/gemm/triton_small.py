"""gemm.triton.small: few rows of x, for sm_80 and later: the weight is the first operand, and programs may share K."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gridstone.ir.spec import Spec
from gridstone.ir.storage import MMA_ROWS
from gridstone.ir.tensor import Dim
from gridstone.lower.decisions import (
    Codes,
    Decision,
    Dot,
    Extents,
    Finish,
    Grid,
    ProgramTile,
    SplitK,
    Stages,
    Types,
    WeightChunks,
)
from gridstone.lower.passes_gpu import stored_weight
from gridstone.lower.schedule import Choice, Constraint, SearchSpace
from gridstone.lower.target import Language, Target
from gridstone.templates.gemm import triton
from gridstone.templates.gemm.cuda import LAUNCH, PARAMS
from gridstone.templates.recipe import Recipe

MOST_ROWS = 64  # of x for which this recipe is the default
_TEMPLATE = (Extents, Types, Codes, Finish, WeightChunks, ProgramTile, Dot, Stages, SplitK)


@dataclass(frozen=True, slots=True)
class Small:
    """Choices of the kernel for few rows.

    Args:
        block_m: Rows of x of a program, the narrow side of its products.
        block_n: Rows of the weight of a program.
        block_k: k of one step.
        warps: Warps of a program.
        stages: Stages of the pipeline.
        k_splits: Programs that share K.
        ordered: Whether their sums are added in order.
    """

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int
    k_splits: int
    ordered: bool

    decisions: ClassVar[tuple[type[Decision], ...]] = (*_TEMPLATE, Grid)

    @property
    def warps_n(self) -> int:
        """Warps along n: each multiplies 16 rows of the weight at least."""
        return min(self.warps, self.block_n // MMA_ROWS)

    @property
    def warps_k(self) -> int:
        """The other warps, which share those rows."""
        return self.warps // self.warps_n

    @property
    def tiles_n(self) -> int:
        """Tiles of 16 rows of a warp."""
        return self.block_n // (MMA_ROWS * self.warps_n)

    def shared_bytes(self, spec: Spec) -> int:
        """Return an estimate of a program's shared memory."""
        return triton.shared_bytes(self, spec)

    def registers(self, spec: Spec) -> int:
        """Return an estimate of a thread's registers."""
        return triton.registers(self, spec)


def _splits_have_work(schedule: Small, spec: Spec, target: Target) -> bool:
    return schedule.k_splits == 1 or 2 * schedule.k_splits <= triton.steps(spec, schedule.block_k)


def _order_matters(schedule: Small, spec: Spec, target: Target) -> bool:
    return schedule.ordered or (schedule.k_splits > 1 and not spec.numerics.ordered)


def _default(spec: Spec, target: Target) -> Small:
    rows, place = spec.input("x").shape[0], stored_weight(spec)
    block_m = 16 if isinstance(rows, Dim) else next((m for m in (16, 32) if rows <= m), 64)
    block_n = 64 if place.rows > 2 * MMA_ROWS else 32
    block_k = triton.default_block_k(spec, 256 // triton.operand_bytes(spec))
    blocks = -(-place.rows // block_n) * (1 if isinstance(rows, Dim) else max(1, -(-rows // block_m)))
    splits, count = 1, triton.steps(spec, block_k)
    # Every multiprocessor gets two programs, and no program fewer than four steps.
    while splits < 16 and blocks * splits < 2 * target.sms and 8 * splits <= count:
        splits *= 2
    return Small(block_m, block_n, block_k, 4, 4 if target.l1_bytes > 1 << 17 else 3, splits, True)


RECIPE = Recipe(
    "gemm.triton.small",
    "gemm",
    Language.TRITON,
    Small,
    SearchSpace(
        (
            Choice("block_m", (8, 16, 32, 64)),
            Choice("block_n", (32, 64, 128)),
            Choice("block_k", (32, 64, 128, 256)),
            Choice("warps", (2, 4, 8)),
            Choice("stages", (2, 3, 4, 6)),
            Choice("k_splits", (1, 2, 4, 8, 16)),
            Choice("ordered", (False, True)),
        ),
        (
            *triton.tile_fits(16, 32),
            Constraint("every program that shares K has two steps", ("block_k", "k_splits"), _splits_have_work),
            Constraint(
                "sums are in order where that is asked for or costs nothing", ("k_splits", "ordered"), _order_matters
            ),
        ),
        _default,
    ),
    _TEMPLATE,
    "gemm/small.py.j2",
    PARAMS,
    LAUNCH,
    triton.refuses,
    lambda spec, target: not isinstance(spec.input("x").shape[0], Dim) and spec.input("x").static(0) <= MOST_ROWS,
    triton.PROMISES,
)
