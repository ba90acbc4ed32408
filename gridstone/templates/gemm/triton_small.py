"""gemm.triton.small: few rows of x, for sm_80 and later: the weight is the first operand, and programs may share K."""

from __future__ import annotations

from dataclasses import dataclass, replace
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

HIGH_N = 8192  # rows of a weight that has enough of the highest tiles
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
    rows, place, halves = spec.input("x").shape[0], stored_weight(spec), triton.operand_bytes(spec) == 2
    block_m = 16 if isinstance(rows, Dim) else next((m for m in (8, 16, 32) if rows <= m), 64)
    # Every program reads all of its rows of x: a high tile of the weight asks the second cache for less of them, and
    # has more to decode for each step's barriers and addresses. Many rows need the highest, and its eight warps.
    high = block_m == 64 and place.rows >= HIGH_N and triton.one_long_group(spec)
    if high and halves and triton.arch_number(target) >= triton.WGMMA_ARCH:
        block_n, warps, programs = 256, 8, 1
    else:
        # Sums of a step's second group take registers of their own.
        crowded = block_m == 64 and place.columns // place.groups < triton.LONG_STEP // 2
        block_n = next((n for n in (32, 64) if place.rows <= n), 128 if halves and not crowded else 64)
        warps, programs = 4, 2 if block_m >= 32 else 4
    # A long step costs registers for what it decodes, where sums leave them.
    long = halves and place.format.bits <= 4 and (block_m <= 32 or block_n == 256)
    block_k = triton.default_block_k(spec, triton.LONG_STEP if long else triton.LONG_STEP // 2)
    blocks = -(-place.rows // block_n) * (1 if isinstance(rows, Dim) else max(1, -(-rows // block_m)))
    splits, count = 1, triton.steps(spec, block_k)
    # As many programs as multiprocessors hold at once, and none with fewer than four steps.
    while splits < 16 and 2 * blocks * splits <= programs * target.sms and 8 * splits <= count:
        splits *= 2
    start = Small(block_m, block_n, block_k, warps, 2, splits, True)
    return replace(start, stages=triton.deepest(start, spec, target, (4, 3)))


RECIPE = Recipe(
    "gemm.triton.small",
    "gemm",
    Language.TRITON,
    Small,
    SearchSpace(
        (
            Choice("block_m", (8, 16, 32, 64)),
            Choice("block_n", (32, 64, 128, 256)),
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
