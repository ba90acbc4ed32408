"""gemm.cuda.mma: weights in fragment order through asynchronous copies into mma.sync, for sm_80 and later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gridstone.ir.spec import Spec
from gridstone.ir.storage import MMA_ROWS
from gridstone.ir.tensor import Dim
from gridstone.lower.decisions import (
    BlockTile,
    Codes,
    Decision,
    Extents,
    Finish,
    Grid,
    SharedX,
    SplitK,
    Stages,
    TensorCore,
    Types,
    WeightChunks,
)
from gridstone.lower.passes_gpu import stage_bytes, stored_weight, sums_bytes, tile_registers
from gridstone.lower.schedule import Choice, Constraint, SearchSpace
from gridstone.lower.target import Language, Target
from gridstone.templates.gemm.cuda import (
    FITS_M,
    FITS_N,
    LAUNCH,
    ORDER_MATTERS,
    PARAMS,
    SPLITS_HAVE_WORK,
    code_chunk,
    default_splits,
    refuses_tensor_core,
    registers_fit,
    shared_fits,
)
from gridstone.templates.recipe import Recipe
from gridstone.templates.requirement import (
    ASYNC_COPIES,
    LDMATRIX,
    MMA_SYNC,
    NO_HALF_CODES,
    NO_NARROW_COPIES,
    NO_SPILLS,
    WIDE_CODES,
)

_TEMPLATE = (Extents, Types, Codes, Finish, WeightChunks, BlockTile, TensorCore, SharedX, Stages, SplitK)


@dataclass(frozen=True, slots=True)
class Mma:
    """Choices of the tensor-core kernel.

    Args:
        block_m: Rows of x of a block, a multiple of the 8 tokens of an mma.
        block_k: k of one stage.
        warps_n, warps_k: Warps side by side along n, and sharing a stage's k.
        tiles_n: Tiles of 16 rows of the weight per warp.
        stages: Stages of the pipeline.
        k_splits: Blocks that share K.
        ordered: Whether their sums are added in order.
    """

    block_m: int
    block_k: int
    warps_n: int
    warps_k: int
    tiles_n: int
    stages: int
    k_splits: int
    ordered: bool

    decisions: ClassVar[tuple[type[Decision], ...]] = (*_TEMPLATE, Grid)
    instruction: ClassVar[str] = "mma"

    def shared_bytes(self, spec: Spec) -> int:
        """Return the shared memory of a block: the pipeline, whose place the sums take at the end."""
        return max(self.stages * stage_bytes(self, spec), sums_bytes(self))

    def registers(self, spec: Spec) -> int:
        """Return an estimate: sums, codes, operands, addresses."""
        return tile_registers(self, spec) + 8 * self.tiles_n + self.block_m // 4 + 40


def _whole_chunks(schedule: Mma, spec: Spec, target: Target) -> bool:
    return schedule.block_k % (schedule.warps_k * code_chunk(spec)) == 0


def _whole_groups(schedule: Mma, spec: Spec, target: Target) -> bool:
    place = stored_weight(spec)
    group, warp = place.columns // place.groups, schedule.block_k // schedule.warps_k
    return place.groups == 1 or group % warp == 0 or warp % group == 0


def _default(spec: Spec, target: Target) -> Mma:
    rows, place = spec.input("x").shape[0], stored_weight(spec)
    block_m = 16
    if not isinstance(rows, Dim):
        block_m = next((m for m in (8, 16, 32) if rows <= m), 64)
    chunk = code_chunk(spec)
    tiles_n = 2 if place.rows > MMA_ROWS * 4 else 1
    warps_n = next((w for w in (4, 2) if w * tiles_n * MMA_ROWS < 2 * place.rows), 1)
    blocks = -(-place.rows // (warps_n * tiles_n * MMA_ROWS)) * (
        1 if isinstance(rows, Dim) else max(1, -(-rows // block_m))
    )
    splits = default_splits(spec, target, blocks, -(-place.columns // (2 * chunk)))
    return Mma(block_m, 2 * chunk, warps_n, 2, tiles_n, 4 if target.l1_bytes > 1 << 17 else 3, splits, True)


RECIPE = Recipe(
    "gemm.cuda.mma",
    "gemm",
    Language.CUDA,
    Mma,
    SearchSpace(
        (
            Choice("block_m", (8, 16, 32, 64)),
            Choice("block_k", (32, 64, 128, 256)),
            Choice("warps_n", (1, 2, 4, 8)),
            Choice("warps_k", (1, 2, 4)),
            Choice("tiles_n", (1, 2, 4)),
            Choice("stages", (2, 3, 4, 6)),
            Choice("k_splits", (1, 2, 4, 8, 16)),
            Choice("ordered", (False, True)),
        ),
        (
            FITS_M,
            Constraint("warps multiply whole chunks of a stage", ("block_k", "warps_k"), _whole_chunks),
            Constraint("a warp's k is whole groups, or a group whole warps' k", ("block_k", "warps_k"), _whole_groups),
            FITS_N,
            registers_fit("block_m", "warps_n", "warps_k", "tiles_n"),
            shared_fits("block_m", "block_k", "warps_n", "warps_k", "tiles_n", "stages"),
            SPLITS_HAVE_WORK,
            ORDER_MATTERS,
        ),
        _default,
    ),
    _TEMPLATE,
    "gemm/mma.cu.j2",
    PARAMS,
    LAUNCH,
    refuses_tensor_core,
    lambda spec, target: True,
    (NO_SPILLS, MMA_SYNC, ASYNC_COPIES, NO_NARROW_COPIES, WIDE_CODES, NO_HALF_CODES, LDMATRIX),
)
