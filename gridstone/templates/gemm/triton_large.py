"""gemm.triton.large: many rows of x, for sm_80 and later: tiles that fill the tensor cores, walked for the cache."""

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

WGMMA_ARCH = 90  # from here on an operand of the tensor cores stays in shared memory
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
    n, wide = stored_weight(spec).rows, triton.operand_bytes(spec) == 2
    # mma.sync takes both operands from registers, which leaves less of them to sums than later instructions do.
    most = 128 if wide and int(target.arch.removeprefix("sm_")) >= WGMMA_ARCH else 64
    block_m = most if isinstance(rows, Dim) else next((m for m in (32, 64) if rows <= m), most)
    block_n = 128 if wide and n > 64 else 64
    block_k = triton.default_block_k(spec, 64)
    stages = 3 if target.l1_bytes > 1 << 17 else 2
    group_m = 1 if not isinstance(rows, Dim) and rows <= 4 * block_m else 8
    return Large(block_m, block_n, block_k, 8 if block_n == 128 else 4, stages, group_m)


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
            Choice("group_m", (1, 4, 8, 16)),
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
