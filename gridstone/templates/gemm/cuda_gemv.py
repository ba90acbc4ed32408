"""gemm.cuda.gemv: for up to four rows the weights are the traffic; exact float32 products outside the tensor cores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gridstone.ir.spec import Spec
from gridstone.ir.tensor import Dim
from gridstone.lower.decisions import (
    BlockTile,
    Codes,
    Decision,
    Extents,
    Finish,
    Grid,
    SplitK,
    Types,
    WeightChunks,
)
from gridstone.lower.passes_gpu import stored_weight, sums_bytes
from gridstone.lower.schedule import Choice, Constraint, SearchSpace
from gridstone.lower.target import Language, Target
from gridstone.templates.gemm.cuda import (
    FITS_M,
    FITS_N,
    LAUNCH,
    ORDER_MATTERS,
    PARAMS,
    code_chunk,
    refuses,
    registers_fit,
    shared_fits,
)
from gridstone.templates.recipe import Recipe

MAX_ROWS = 4
_TEMPLATE = (Extents, Types, Codes, Finish, WeightChunks, BlockTile, SplitK)


@dataclass(frozen=True, slots=True)
class Gemv:
    """Choices of the streaming kernel.

    Args:
        block_m: Rows of x of a block.
        block_k: k that a warp has under way at once: 16 bytes of each lane for a chunk.
        warps_n, warps_k: Warps side by side along n, and sharing the block's k.
        tiles_n: Tiles of 16 rows of the weight per warp.
        k_splits: Blocks that share K.
        ordered: Whether their sums are added in order.
    """

    block_m: int
    block_k: int
    warps_n: int
    warps_k: int
    tiles_n: int
    k_splits: int
    ordered: bool

    decisions: ClassVar[tuple[type[Decision], ...]] = (*_TEMPLATE, Grid)
    instruction: ClassVar[str] = "fma"

    def shared_bytes(self, spec: Spec) -> int:
        """Return the shared memory of a block: its part of x, whose place the sums take at the end."""
        place, chunk = stored_weight(spec), code_chunk(spec)
        columns = -(-(place.columns // chunk) // self.k_splits) * chunk
        return max(self.block_m * columns * spec.input("x").dtype.bytes, sums_bytes(self))

    def registers(self, spec: Spec) -> int:
        """Return an estimate: codes now and next, sums, a tile's numbers."""
        loads = self.block_k // code_chunk(spec)
        return 8 * loads * self.tiles_n + 2 * self.block_m * (self.tiles_n + 1) + 48


def _whole_chunks(schedule: Gemv, spec: Spec, target: Target) -> bool:
    return schedule.block_k % code_chunk(spec) == 0 and schedule.block_k <= 8 * code_chunk(spec)


def _warps_have_work(schedule: Gemv, spec: Spec, target: Target) -> bool:
    chunks, shares = stored_weight(spec).columns // code_chunk(spec), schedule.warps_k * schedule.k_splits
    return shares == 1 or shares * 2 <= chunks


def _default(spec: Spec, target: Target) -> Gemv:
    rows, chunk = spec.input("x").shape[0], code_chunk(spec)
    block_m = MAX_ROWS if isinstance(rows, Dim) else next((m for m in (1, 2) if rows <= m), MAX_ROWS)
    chunks = stored_weight(spec).columns // chunk
    warps_k = next((w for w in (8, 4, 2) if 2 * w <= chunks), 1)
    splits = 1
    while splits < 16 and Gemv(block_m, chunk, 1, warps_k, 1, splits, True).shared_bytes(spec) > target.l1_bytes:
        splits *= 2
    return Gemv(block_m, 2 * chunk, 1, warps_k, 1, splits, True)


def _refuses(spec: Spec, target: Target) -> str | None:
    rows, reason = spec.input("x").shape[0], refuses(spec, target)
    if reason is None and not isinstance(rows, Dim) and rows > MAX_ROWS:
        return f"M={rows}; gemv is for M up to {MAX_ROWS}"
    return reason


RECIPE = Recipe(
    "gemm.cuda.gemv",
    "gemm",
    Language.CUDA,
    Gemv,
    SearchSpace(
        (
            Choice("block_m", (1, 2, 4)),
            Choice("block_k", (32, 64, 128, 256)),
            Choice("warps_n", (1, 2, 4)),
            Choice("warps_k", (1, 2, 4, 8)),
            Choice("tiles_n", (1, 2)),
            Choice("k_splits", (1, 2, 4, 8, 16)),
            Choice("ordered", (False, True)),
        ),
        (
            FITS_M,
            Constraint("a warp loads whole chunks, eight at most", ("block_k",), _whole_chunks),
            FITS_N,
            Constraint("every warp that shares K has two chunks", ("warps_k", "k_splits"), _warps_have_work),
            registers_fit("block_m", "block_k", "warps_n", "warps_k", "tiles_n"),
            shared_fits("block_m", "warps_n", "warps_k", "tiles_n", "k_splits"),
            ORDER_MATTERS,
        ),
        _default,
    ),
    _TEMPLATE,
    "gemm/gemv.cu.j2",
    PARAMS,
    LAUNCH,
    _refuses,
    lambda spec, target: not isinstance(spec.input("x").shape[0], Dim),
)
