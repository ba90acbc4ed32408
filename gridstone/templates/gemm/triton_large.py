"""gemm.triton.large: many rows of x, for sm_80 and later: tiles that fill the tensor cores, walked for the cache."""

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
    Raster,
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

_TEMPLATE = (Extents, Types, Codes, Finish, WeightChunks, ProgramTile, Dot, Stages, Raster)


@dataclass(frozen=True, slots=True)
class Large:
    """Choices of the kernel for many rows.

    Args:
        block_m: Rows of x of a program.
        block_n: Rows of the weight of a program.
        block_k: k of one step.
        warps: Warps of a program.
        stages: Stages of the pipeline.
        group_m: Rows of blocks that are walked side by side.
    """

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int
    group_m: int

    decisions: ClassVar[tuple[type[Decision], ...]] = (*_TEMPLATE, SplitK, Grid)

    @property
    def warps_n(self) -> int:
        """Warps along n."""
        return min(self.warps, self.block_n // MMA_ROWS)

    @property
    def warps_k(self) -> int:
        """The other warps, which share the same rows."""
        return self.warps // self.warps_n

    @property
    def tiles_n(self) -> int:
        """Tiles of 16 rows of a warp."""
        return self.block_n // (MMA_ROWS * self.warps_n)

    @property
    def k_splits(self) -> int:
        """Programs never share K."""
        return 1

    @property
    def ordered(self) -> bool:
        """One program adds up a tile, in order."""
        return True

    def shared_bytes(self, spec: Spec) -> int:
        """Return an estimate of a program's shared memory."""
        return triton.shared_bytes(self, spec)

    def registers(self, spec: Spec) -> int:
        """Return an estimate of a thread's registers."""
        return triton.registers(self, spec)


def _group_used(schedule: Large, spec: Spec, target: Target) -> bool:
    rows = spec.input("x").shape[0]
    return isinstance(rows, Dim) or schedule.group_m == 1 or schedule.group_m < 2 * -(-rows // schedule.block_m)


def _default(spec: Spec, target: Target) -> Large:
    rows = spec.input("x").shape[0]
    place, wide = stored_weight(spec), triton.operand_bytes(spec) == 2
    later = wide and triton.arch_number(target) >= triton.WGMMA_ARCH
    long = later and triton.one_long_group(spec)
    block_k = triton.default_block_k(spec, triton.LONG_STEP if long else triton.LONG_STEP // 2)
    # mma.sync takes both operands from registers, which leaves less of them to sums than later instructions do; and
    # sums of each of a step's groups take room of their own.
    most = 128 if later and block_k * place.groups <= 2 * place.columns else 64
    block_m = most if isinstance(rows, Dim) else next((m for m in (32, 64) if rows <= m), most)
    block_n = 128 if wide and place.rows > 64 else 64
    # Programs that share rows of the weight run side by side, so that these come from memory once.
    blocks_m = 8 if isinstance(rows, Dim) else -(-rows // block_m)
    group_m = next((g for g in (1, 2, 4) if blocks_m <= g), 8)
    start = Large(block_m, block_n, block_k, 8 if block_n == 128 else 4, 2, group_m)
    return replace(start, stages=triton.deepest(start, spec, target, (3,)))


RECIPE = Recipe(
    "gemm.triton.large",
    "gemm",
    Language.TRITON,
    Large,
    SearchSpace(
        (
            Choice("block_m", (32, 64, 128, 256)),
            Choice("block_n", (64, 128, 256)),
            Choice("block_k", (32, 64, 128)),
            Choice("warps", (4, 8)),
            Choice("stages", (2, 3, 4)),
            Choice("group_m", (1, 2, 4, 8, 16)),
        ),
        (
            *triton.tile_fits(32, 64),
            Constraint("a group is not twice as high as the grid", ("block_m", "group_m"), _group_used),
        ),
        _default,
    ),
    _TEMPLATE,
    "gemm/large.py.j2",
    PARAMS,
    LAUNCH,
    triton.refuses,
    lambda spec, target: True,
    triton.PROMISES,
)
