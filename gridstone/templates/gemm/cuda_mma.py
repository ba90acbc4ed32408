"""gemm.cuda.mma: weights in fragment order through asynchronous copies into mma.sync, for sm_80 and later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gridstone.ir.spec import Spec
from gridstone.ir.storage import MMA_ROWS, chunk_k
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
from gridstone.lower.passes_gpu import registers, shared_bytes, stored_weight
from gridstone.lower.schedule import Choice, Constraint, SearchSpace
from gridstone.lower.target import Language, Target
from gridstone.templates.gemm.cuda import LAUNCH, PARAMS, refuses_tensor_core
from gridstone.templates.recipe import Recipe

REGISTER_FILE = 65536  # 32-bit registers of a multiprocessor
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


def _whole_chunks(schedule: Mma, spec: Spec, target: Target) -> bool:
    return schedule.block_k % (schedule.warps_k * chunk_k(stored_weight(spec).codes[0].width)) == 0


def _whole_groups(schedule: Mma, spec: Spec, target: Target) -> bool:
    place = stored_weight(spec)
    group, warp = place.columns // place.groups, schedule.block_k // schedule.warps_k
    return place.groups == 1 or group % warp == 0 or warp % group == 0


def _fits_n(schedule: Mma, spec: Spec, target: Target) -> bool:
    block_n = schedule.warps_n * schedule.tiles_n * MMA_ROWS
    return block_n == MMA_ROWS or block_n < 2 * stored_weight(spec).rows


def _fits_m(schedule: Mma, spec: Spec, target: Target) -> bool:
    rows = spec.input("x").shape[0]
    return isinstance(rows, Dim) or schedule.block_m == 8 or schedule.block_m < 2 * rows


def _steps(spec: Spec, block_k: int) -> int:
    return -(-stored_weight(spec).columns // block_k)


def _splits_have_work(schedule: Mma, spec: Spec, target: Target) -> bool:
    return schedule.k_splits == 1 or 2 * schedule.k_splits <= _steps(spec, schedule.block_k)


def _order_matters(schedule: Mma, spec: Spec, target: Target) -> bool:
    return schedule.ordered or (schedule.k_splits > 1 and not spec.numerics.ordered)


def _shared_fits(schedule: Mma, spec: Spec, target: Target) -> bool:
    return shared_bytes(schedule, spec) <= target.l1_bytes


def _registers_fit(schedule: Mma, spec: Spec, target: Target) -> bool:
    threads, each = 32 * schedule.warps_n * schedule.warps_k, registers(schedule, spec)
    return threads <= 512 and each <= target.registers and each * threads <= REGISTER_FILE


def default_splits(spec: Spec, target: Target, blocks: int, steps: int) -> int:
    """Return how many blocks share K so that every multiprocessor has two, and no block fewer than four steps."""
    splits = 1
    while splits < 16 and blocks * splits < 2 * target.sms and 8 * splits <= steps:
        splits *= 2
    return splits


def _default(spec: Spec, target: Target) -> Mma:
    rows, place = spec.input("x").shape[0], stored_weight(spec)
    block_m = 16
    if not isinstance(rows, Dim):
        block_m = next((m for m in (8, 16, 32) if rows <= m), 64)
    chunk = chunk_k(place.codes[0].width)
    tiles_n = 2 if place.rows > MMA_ROWS * 4 else 1
    warps_n = next((w for w in (4, 2) if w * tiles_n * MMA_ROWS < 2 * place.rows), 1)
    blocks = -(-place.rows // (warps_n * tiles_n * MMA_ROWS)) * (
        1 if isinstance(rows, Dim) else max(1, -(-rows // block_m))
    )
    splits = default_splits(spec, target, blocks, _steps(spec, 2 * chunk))
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
            Constraint("a tile is not twice as high as x", ("block_m",), _fits_m),
            Constraint("warps multiply whole chunks of a stage", ("block_k", "warps_k"), _whole_chunks),
            Constraint("a warp's k is whole groups, or a group whole warps' k", ("block_k", "warps_k"), _whole_groups),
            Constraint("a tile is not twice as wide as N", ("warps_n", "tiles_n"), _fits_n),
            Constraint("registers suffice", ("block_m", "warps_n", "warps_k", "tiles_n"), _registers_fit),
            Constraint(
                "shared memory suffices",
                ("block_m", "block_k", "warps_n", "warps_k", "tiles_n", "stages"),
                _shared_fits,
            ),
            Constraint("every block that shares K has two steps", ("block_k", "k_splits"), _splits_have_work),
            Constraint(
                "sums are in order where that is asked for or costs nothing", ("k_splits", "ordered"), _order_matters
            ),
        ),
        _default,
    ),
    _TEMPLATE,
    "gemm/mma.cu.j2",
    PARAMS,
    LAUNCH,
    refuses_tensor_core,
    lambda spec, target: True,
)
