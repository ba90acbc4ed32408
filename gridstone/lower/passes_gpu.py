"""The passes of GPU kernels: chunks of weights, tiles, shared memory, splits, the grid."""

from __future__ import annotations

from typing import ClassVar, Protocol

from gridstone.ir.access import bank_conflicts
from gridstone.ir.dtype import bf16, f32
from gridstone.ir.layout import Layout
from gridstone.ir.spec import Spec
from gridstone.ir.storage import MMA_ROWS, Storage, chunk_k, storage
from gridstone.ir.swizzle import Swizzle, Swizzled
from gridstone.lower.decisions import (
    BlockTile,
    Decision,
    Grid,
    SharedX,
    SplitK,
    Stages,
    TensorCore,
    WeightChunks,
)
from gridstone.lower.plan import Plan

PIECE = 16  # bytes of one asynchronous copy
F32_BYTES = 4


class GpuGemm(Protocol):
    """What the passes read of a GPU gemm schedule.

    Attributes:
        decisions: As of every schedule.
        instruction: What multiplies: `fma`, `mma` or `wgmma`.
    """

    decisions: ClassVar[tuple[type[Decision], ...]]
    instruction: ClassVar[str]

    @property
    def block_m(self) -> int:
        """Rows of x of a block."""
        ...

    @property
    def block_k(self) -> int:
        """k of a stage."""
        ...

    @property
    def warps_n(self) -> int:
        """Warps along n."""
        ...

    @property
    def warps_k(self) -> int:
        """Warps that share a stage's k."""
        ...

    @property
    def tiles_n(self) -> int:
        """Tiles of 16 rows of the weight of a warp."""
        ...

    @property
    def k_splits(self) -> int:
        """Blocks that share K."""
        ...

    @property
    def ordered(self) -> bool:
        """Whether sums over blocks are added in order."""
        ...

    def shared_bytes(self, spec: Spec) -> int:
        """Return the dynamic shared memory of a block; 0 where the toolchain decides."""
        ...

    def registers(self, spec: Spec) -> int:
        """Return an estimate of a thread's registers; 0 for none."""
        ...


class PipelinedGemm(GpuGemm, Protocol):
    """A GPU gemm schedule whose operands come through a pipeline of asynchronous copies."""

    @property
    def stages(self) -> int:
        """Depth of the pipeline."""
        ...


def stored_weight(spec: Spec) -> Storage:
    """Return the storage of a gemm spec's quantised weight."""
    w = spec.input("w")
    assert w.format is not None
    return storage(w.storage, w.format, w.static(0), w.static(1))


def weight_chunks(plan: Plan, schedule: GpuGemm) -> WeightChunks:
    """Extents and places of the stored parts."""
    place = stored_weight(plan.spec)
    return WeightChunks(
        padded_n=place.rows,
        padded_k=place.columns,
        chunk_k=chunk_k(place.codes[0].width),
        group_k=place.columns // place.groups,
        groups=place.groups,
        scales_at=place.scales.base // 8,
        zeros_at=place.zeros.base // 8 if place.zeros is not None else 0,
    )


def block_tile(plan: Plan, schedule: GpuGemm) -> BlockTile:
    """As the schedule says."""
    return BlockTile(schedule.block_m, schedule.block_k, schedule.warps_n, schedule.warps_k, schedule.tiles_n)


def tensor_core(plan: Plan, schedule: GpuGemm) -> TensorCore:
    """The activations' own type; float32 ones are rounded to bfloat16, which the recipe allows only where asked for."""
    x = plan.spec.input("x").dtype
    return TensorCore((bf16 if x == f32 else x).cuda)


def shared_x(plan: Plan, schedule: GpuGemm) -> SharedX:
    """The smallest permutation with which eight rows of x, read at once, meet no bank twice."""
    pieces = schedule.block_k * 2 // PIECE
    rows = Layout(8, pieces * PIECE)  # the addresses of one 8x8 matrix's rows

    def wavefronts(bits: int) -> int:
        base = PIECE.bit_length() - 1
        return bank_conflicts(Swizzled(Swizzle(bits, base, pieces.bit_length() - 1), rows), access_bytes=PIECE)

    most = min(3, pieces.bit_length() - 1)
    best = min(range(most + 1), key=lambda bits: (wavefronts(bits), bits))
    return SharedX((1 << best) - 1)


def stages(plan: Plan, schedule: PipelinedGemm) -> Stages:
    """As the schedule says."""
    return Stages(schedule.stages)


def split_k(plan: Plan, schedule: GpuGemm) -> SplitK:
    """As the schedule says."""
    return SplitK(schedule.k_splits, schedule.ordered)


def stage_bytes(schedule: GpuGemm, spec: Spec) -> int:
    """Return the shared memory of one stage: codes, x, scales, zero points."""
    place = stored_weight(spec)
    block_n = schedule.warps_n * schedule.tiles_n * MMA_ROWS
    group = place.columns // place.groups
    groups = schedule.block_k // group if group < schedule.block_k else 1
    scales = groups * block_n * place.format.scale.bytes if place.groups > 1 else 0
    zeros = groups * block_n if place.zeros is not None else 0
    codes = block_n * schedule.block_k * place.format.bits // 8
    return codes + schedule.block_m * schedule.block_k * 2 + scales + zeros


def sums_bytes(schedule: GpuGemm) -> int:
    """Return the shared memory of a block's sums, which take the place of everything else at the end."""
    return schedule.warps_k * schedule.block_m * schedule.warps_n * schedule.tiles_n * MMA_ROWS * F32_BYTES


def tile_registers(schedule: GpuGemm, spec: Spec) -> int:
    """Return the registers of a thread's sums, and of a group's where scales cut K."""
    values = schedule.tiles_n * schedule.block_m // 2
    return values * (2 if stored_weight(spec).groups > 1 else 1)


def grid(plan: Plan, schedule: GpuGemm) -> Grid:
    """Threads, shared memory, and blocks along n and K."""
    block_n = schedule.warps_n * schedule.tiles_n * MMA_ROWS
    n = plan.spec.input("w").static(0)
    tile = schedule.block_m * block_n
    parts = tile * (schedule.k_splits if schedule.ordered else 1) if schedule.k_splits > 1 else 0
    return Grid(
        threads=32 * schedule.warps_n * schedule.warps_k,
        shared_bytes=schedule.shared_bytes(plan.spec),
        block_m=schedule.block_m,
        blocks_n=-(-n // block_n),
        k_splits=schedule.k_splits,
        part_floats=parts,
        registers=schedule.registers(plan.spec),
    )
