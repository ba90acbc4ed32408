"""gemm.cuda.wgmma: weights in fragment order through bulk copies into wgmma, for sm_90a."""

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
from gridstone.templates.requirement import BULK_COPIES, NO_NARROW_COPIES, NO_SPILLS, WGMMA, WIDE_CODES

ALIGNMENT = 1024  # bytes: wgmma's permuted tiles begin at multiples
WARPS = 4  # that multiply together
F32_BITS = 32
WIDE_N = 8192  # rows of the weight from which there are blocks enough, also when they are twice as wide
_TEMPLATE = (Extents, Types, Codes, Finish, WeightChunks, BlockTile, TensorCore, Stages, SplitK)


@dataclass(frozen=True, slots=True)
class Wgmma:
    """Choices of the tensor-core kernel for sm_90a.

    Args:
        block_m: Rows of x of a block: the tokens of one wgmma.
        block_k: k of one stage, in tiles of 64.
        warps_n: Warps, in fours side by side along n.
        tiles_n: Tiles of 64 rows of the weight per four warps.
        stages: Stages of the pipeline: one is decoded, one may still be multiplied, the rest are under way.
        k_splits: Blocks that share K.
        ordered: Whether their sums are added in order.
    """

    block_m: int
    block_k: int
    warps_n: int
    tiles_n: int
    stages: int
    k_splits: int
    ordered: bool

    decisions: ClassVar[tuple[type[Decision], ...]] = (*_TEMPLATE, Grid)
    instruction: ClassVar[str] = "wgmma"

    @property
    def warps_k(self) -> int:
        """Four warps multiply all of a stage's k."""
        return 1

    @property
    def ahead(self) -> int:
        """Stages that are under way."""
        return self.stages - 2

    def shared_bytes(self, spec: Spec) -> int:
        """Return the shared memory of a block: the pipeline, whose place the sums take at the end."""
        stage = -(-stage_bytes(self, spec) // ALIGNMENT) * ALIGNMENT
        return max(self.stages * stage, sums_bytes(self))

    def registers(self, spec: Spec) -> int:
        """Return an estimate: sums, two chunks of operands, addresses."""
        return tile_registers(self, spec) + 2 * self.tiles_n * code_chunk(spec) // 4 + 40


def _whole_chunks(schedule: Wgmma, spec: Spec, target: Target) -> bool:
    return schedule.block_k % code_chunk(spec) == 0


def _fits_groups(schedule: Wgmma, spec: Spec, target: Target) -> bool:
    place = stored_weight(spec)
    group = place.columns // place.groups
    return place.groups == 1 or group % schedule.block_k == 0 or schedule.block_k % group == 0


def _groups_are_chunks(schedule: Wgmma, spec: Spec, target: Target) -> bool:
    return _short_group(spec) is None


def _short_group(spec: Spec) -> int | None:
    """Return the k of a group in which no chunk fits, or None: a chunk is multiplied before a scale is applied."""
    place = stored_weight(spec)
    group = place.columns // place.groups
    return group if place.groups > 1 and group < code_chunk(spec) else None


def _default(spec: Spec, target: Target) -> Wgmma:
    rows, place = spec.input("x").shape[0], stored_weight(spec)
    block_m = 16
    if not isinstance(rows, Dim):
        block_m = next((m for m in (8, 16, 32) if rows <= m), 64)
    tiles_n = 2 if place.rows > WARPS * MMA_ROWS else 1
    # Each block reads all of its rows of x: where these are many, blocks twice as wide halve what L2 gives.
    warps_n = 2 * WARPS if block_m >= 16 and place.rows >= WIDE_N else WARPS
    blocks = -(-place.rows // (warps_n * tiles_n * MMA_ROWS)) * (warps_n // WARPS)
    if not isinstance(rows, Dim):
        blocks *= max(1, -(-rows // block_m))
    splits = default_splits(spec, target, blocks, -(-place.columns // 128))
    row_bits = place.columns * place.format.bits
    while splits > 1 and 2 * splits * F32_BITS * (block_m if isinstance(rows, Dim) else rows) > row_bits:
        splits //= 2  # the sums that blocks hand to each other, written and read, are not to outweigh the weight
    return Wgmma(block_m, 128, warps_n, tiles_n, 4, splits, True)


def _refuses(spec: Spec, target: Target) -> str | None:
    reason = refuses_tensor_core(spec, target)
    if reason is None and target.arch != "sm_90a":
        return f"{target} has no wgmma; it is of cuda:sm_90a"
    if reason is not None:
        return reason
    resolved = spec.with_storage(target.storage)
    group = _short_group(resolved)
    if group is None:
        return None
    return f"groups of {group} are shorter than the {code_chunk(resolved)} k that a lane loads at once"


RECIPE = Recipe(
    "gemm.cuda.wgmma",
    "gemm",
    Language.CUDA,
    Wgmma,
    SearchSpace(
        (
            Choice("block_m", (8, 16, 32, 64, 128)),
            Choice("block_k", (64, 128, 256)),
            Choice("warps_n", (4, 8)),
            Choice("tiles_n", (1, 2)),
            Choice("stages", (3, 4, 6)),
            Choice("k_splits", (1, 2, 4, 8, 16)),
            Choice("ordered", (False, True)),
        ),
        (
            FITS_M,
            Constraint("a group is whole chunks", ("block_k",), _groups_are_chunks),
            Constraint("a stage is whole chunks", ("block_k",), _whole_chunks),
            Constraint("a stage is whole groups, or a group whole stages", ("block_k",), _fits_groups),
            FITS_N,
            registers_fit("block_m", "warps_n", "tiles_n"),
            shared_fits("block_m", "block_k", "warps_n", "tiles_n", "stages"),
            SPLITS_HAVE_WORK,
            ORDER_MATTERS,
        ),
        _default,
    ),
    _TEMPLATE,
    "gemm/wgmma.cu.j2",
    PARAMS,
    LAUNCH,
    _refuses,
    lambda spec, target: True,
    (NO_SPILLS, WGMMA, BULK_COPIES, NO_NARROW_COPIES, WIDE_CODES),
)
