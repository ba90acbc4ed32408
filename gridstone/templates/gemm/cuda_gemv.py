"""gemm.cuda.gemv: for up to four rows the weights are the traffic; they stream from memory into registers, once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gridstone.ir.dtype import f32
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
    block_n,
    code_chunk,
    refuses,
    registers_fit,
    shared_fits,
    steps,
)
from gridstone.templates.recipe import Recipe
from gridstone.templates.requirement import (
    ASYNC_COPIES,
    NO_CONVERSIONS,
    NO_NARROW_COPIES,
    NO_NARROW_STREAM,
    NO_SPILLS,
    WIDE_STREAM,
)

MAX_ROWS = 4
_TEMPLATE = (Extents, Types, Codes, Finish, WeightChunks, BlockTile, SplitK)


@dataclass(frozen=True, slots=True)
class Gemv:
    """Choices of the streaming kernel.

    Args:
        block_m: Rows of x of a block.
        block_k: k of a step; a warp has 16 bytes of each lane under way for each of its chunks.
        warps_n, warps_k: Warps side by side along n, and taking turns along k.
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
    instruction: ClassVar[str] = "mma"  # of 16-bit activations; fma of float32 ones

    def shared_bytes(self, spec: Spec) -> int:
        """Return the shared memory of a block: x, zeros, scales, zero points; the sums take their place at the end."""
        place, x = stored_weight(spec), spec.input("x").dtype
        most = -(-steps(self, spec) // self.k_splits)
        rows = self.block_m * (most * self.block_k * x.bytes + 16) + (0 if x == f32 else self.block_k * x.bytes)
        group = place.columns // place.groups
        group_steps, step_groups = max(1, group // self.block_k), max(1, self.block_k // group)
        groups = min(place.groups, ((most + group_steps - 2) // group_steps + 1) * step_groups)
        scale = place.format.scale.bytes if place.groups > 1 else 0
        return max(rows + groups * block_n(self) * (scale + (place.zeros is not None)), sums_bytes(self))

    def registers(self, spec: Spec) -> int:
        """Return an estimate: codes under way, sums, x of two tiles, one tile's numbers, addresses."""
        wide = spec.input("x").dtype == f32
        codes = 4 * self.block_k // code_chunk(spec) * self.tiles_n
        sums = (4 * self.block_m if wide else 8) * self.tiles_n
        return codes + sums + (4 * self.block_m + 4 if wide else 8) + 2 * self.tiles_n + 20


def _whole_chunks(schedule: Gemv, spec: Spec, target: Target) -> bool:
    return schedule.block_k % code_chunk(spec) == 0 and schedule.block_k <= 8 * code_chunk(spec)


def _warps_have_work(schedule: Gemv, spec: Spec, target: Target) -> bool:
    shares = schedule.warps_k * schedule.k_splits
    return shares == 1 or shares <= steps(schedule, spec)


def _default(spec: Spec, target: Target) -> Gemv:
    rows, chunk, place = spec.input("x").shape[0], code_chunk(spec), stored_weight(spec)
    block_m = MAX_ROWS if isinstance(rows, Dim) else next((m for m in (1, 2) if rows <= m), MAX_ROWS)
    # Two tiles of a warp share what it reads of x, unless that leaves multiprocessors short of blocks.
    tiles_n = 2 if place.rows >= 3 * MMA_ROWS * target.sms else 1
    count = -(-place.columns // (2 * chunk))

    def split(ways: int) -> Gemv:
        warps_k = next((w for w in (8, 4, 2) if w * ways <= count), 1)
        return Gemv(block_m, 2 * chunk, 1, warps_k, tiles_n, ways, True)

    # Two blocks at least on a multiprocessor: one streams while the other begins or ends.
    fits = (ways for ways in (1, 2, 4, 8, 16) if split(ways).shared_bytes(spec) <= target.l1_bytes // 2)
    return split(next(fits, 16))


def _refuses(spec: Spec, target: Target) -> str | None:
    rows, reason = spec.input("x").shape[0], refuses(spec, target)
    if reason is None and not isinstance(rows, Dim) and rows > MAX_ROWS:
        return f"M={rows}; gemv is for M up to {MAX_ROWS}"
    if reason is None:
        placed = spec.with_storage(target.storage)
        needed = _default(placed, target).shared_bytes(placed)
        if needed > target.l1_bytes:
            k = spec.input("w").static(1)
            return f"K={k}: a sixteenth of x takes {needed} bytes of shared memory, and {target} has {target.l1_bytes}"
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
            Constraint("a step is whole chunks, eight at most", ("block_k",), _whole_chunks),
            FITS_N,
            Constraint("every warp that shares K has a step", ("block_k", "warps_k", "k_splits"), _warps_have_work),
            registers_fit("block_m", "block_k", "warps_n", "warps_k", "tiles_n"),
            shared_fits("block_m", "block_k", "warps_n", "warps_k", "tiles_n", "k_splits"),
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
    (NO_SPILLS, WIDE_STREAM, NO_NARROW_STREAM, ASYNC_COPIES, NO_NARROW_COPIES, NO_CONVERSIONS),
)
