"""The passes: each maps a spec, a schedule, a target and the decisions so far to one new decision.

`PASSES` is the whole pipeline, in order. A schedule class names the decisions that its recipe needs; passes whose
decision is not among them do not run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from gridstone.ir.dtype import DType
from gridstone.ir.epilogue import Activation, Bias, Cast, Residual, Scale
from gridstone.ir.spec import Spec
from gridstone.ir.storage import BLOCK_N, WORD, Storage, storage
from gridstone.lower import passes_gpu, passes_triton
from gridstone.lower.decisions import (
    BlockTile,
    Budget,
    Buffers,
    Codes,
    Decision,
    Dot,
    Extents,
    Finish,
    Grid,
    Panel,
    Pipeline,
    ProgramTile,
    Raster,
    RegisterTile,
    SharedX,
    Slabs,
    Split,
    SplitK,
    Stages,
    StreamTile,
    TensorCore,
    Types,
    Vector,
    WeightChunks,
    WeightLayout,
)
from gridstone.lower.plan import Plan
from gridstone.lower.schedule import Schedule
from gridstone.lower.target import Language, Target
from gridstone.lower.verify import verify

CHANNEL_SLAB = 256  # k between two updates of the result where scales do not cut K
F32_BYTES = 4
STREAM_ROWS = 4  # rows that a streaming kernel holds at once
STREAM_SPARE = 3  # registers besides accumulators and operands: x, the decoding table, a scale


class CpuGemm(Schedule, Protocol):
    """What the passes read of a C++ gemm schedule; a field that a class lacks belongs to a decision that it omits."""

    decisions: ClassVar[tuple[type[Decision], ...]]

    @property
    def dot(self) -> str:
        """`bf16` or `f32`: the product that the inner loop is made of."""
        ...

    @property
    def m_r(self) -> int:
        """Rows of the register tile."""
        ...

    @property
    def n_r(self) -> int:
        """Vectors of the register tile."""
        ...

    @property
    def sums(self) -> int:
        """Independent sums that hide the dot product's latency."""
        ...

    @property
    def m_chunk(self) -> int:
        """Rows of the result kept in cache."""
        ...

    @property
    def panel_k(self) -> int:
        """k of a panel with folded scales."""
        ...

    @property
    def fold_scale(self) -> bool:
        """Whether the scale is multiplied into the panel."""
        ...

    @property
    def prefetch(self) -> int:
        """Bytes ahead."""
        ...

    @property
    def k_splits(self) -> int:
        """Parts of K."""
        ...


def weight_storage(spec: Spec) -> Storage:
    """Return the storage of a gemm spec's quantised weight."""
    w = spec.input("w")
    assert w.format is not None
    return storage(w.storage, w.format, w.static(0), w.static(1))


def extents(plan: Plan, schedule: CpuGemm) -> Extents:
    """Static N and K; M is a run-time argument."""
    w = plan.spec.input("w")
    return Extents(w.static(0), w.static(1))


def types(plan: Plan, schedule: CpuGemm) -> Types:
    """The spelling of every operand's dtype."""
    spec = plan.spec
    extra = {operand.name: operand.type.dtype for operand in spec.extra_operands}
    out = spec.output.dtype
    w = spec.input("w")

    language = plan.target.language

    def spelled(dtype: DType) -> str:
        return dtype.cuda if language is Language.CUDA else dtype.triton if language is Language.TRITON else dtype.cpp

    return Types(
        spelled(spec.input("x").dtype),
        spelled(out),
        spelled(extra.get("bias", out)),
        spelled(extra.get("residual", out)),
        spelled(w.dtype),
    )


def codes(plan: Plan, schedule: CpuGemm) -> Codes:
    """How the weight's codes are decoded."""
    fmt = weight_storage(plan.spec).format
    return Codes(fmt.bits, fmt.code.bias, fmt.zero)


def weight_layout(plan: Plan, schedule: CpuGemm) -> WeightLayout:
    """Strides in bytes, each one image of the storage's layouts."""
    place = weight_storage(plan.spec)
    field = place.codes[0]
    groups = place.format.groups(place.k)
    group_k = place.columns // groups
    word_k = WORD // place.format.bits
    group_bits = field.layout((0, group_k)) if groups > 1 else 0
    block_bits = field.layout((BLOCK_N, 0)) if place.rows > BLOCK_N else place.bits
    return WeightLayout(
        block_n=BLOCK_N,
        block_bytes=block_bits // 8,
        word_k=word_k,
        word_bytes=(field.layout((0, word_k)) if group_k > word_k else BLOCK_N * WORD) // 8,
        group_k=group_k,
        group_bytes=group_bits // 8,
        scales_at=place.scales.base // 8,
        zeros_at=place.zeros.base // 8 if place.zeros is not None else 0,
        padded_k=place.columns,
    )


def vector(plan: Plan, schedule: CpuGemm) -> Vector:
    """bf16 dot products have a vocabulary of their own; everything else is float32 in the target's width."""
    if schedule.dot == "bf16":
        return Vector("avx512_bf16")
    return Vector("avx512" if plan.target.arch == "avx512_bf16" else plan.target.arch)


def register_tile(plan: Plan, schedule: CpuGemm) -> RegisterTile:
    """As the schedule says."""
    return RegisterTile(schedule.m_r, schedule.n_r)


def stream_tile(plan: Plan, schedule: CpuGemm) -> StreamTile:
    """As many vectors and sums as the schedule wants and the registers hold, for each number of rows."""
    registers, word_k = plan.target.registers, plan.the(WeightLayout).word_k
    steps = word_k // 2 if schedule.dot == "bf16" else word_k
    vectors: list[int] = []
    sums: list[int] = []
    for rows in range(1, STREAM_ROWS + 1):
        n_r = schedule.n_r
        while n_r > 1 and rows * n_r + n_r + STREAM_SPARE > registers:
            n_r //= 2
        parts = 1
        while (
            parts < min(steps, 4)
            and parts * rows * n_r < schedule.sums
            and 2 * parts * rows * n_r + n_r + STREAM_SPARE <= registers
        ):
            parts *= 2
        vectors.append(n_r)
        sums.append(parts)
    return StreamTile(tuple(vectors), tuple(sums))


def slabs(plan: Plan, schedule: CpuGemm) -> Slabs:
    """One scale group, cut where there is none, or a panel whose scales are folded in."""
    layout = plan.the(WeightLayout)
    if getattr(schedule, "fold_scale", False):
        return Slabs(min(schedule.panel_k, layout.padded_k))
    return Slabs(layout.group_k if layout.group_bytes or layout.group_k <= CHANNEL_SLAB else CHANNEL_SLAB)


def buffers(plan: Plan, schedule: CpuGemm) -> Buffers:
    """As the schedule says."""
    return Buffers(schedule.m_chunk)


def panel(plan: Plan, schedule: CpuGemm) -> Panel:
    """As the schedule says."""
    return Panel(schedule.fold_scale)


def pipeline(plan: Plan, schedule: CpuGemm) -> Pipeline:
    """As the schedule says, in whole groups: otherwise the lines around a group's scales would never be asked for."""
    group = plan.the(WeightLayout).group_bytes
    whole = -(-schedule.prefetch // group) * group if 0 < group <= schedule.prefetch else schedule.prefetch
    return Pipeline(whole)


def split(plan: Plan, schedule: CpuGemm) -> Split:
    """As the schedule says."""
    return Split(schedule.k_splits)


def finish(plan: Plan, schedule: CpuGemm) -> Finish:
    """The epilogues as expressions; the cast is the store itself."""
    steps: list[str] = []
    for step in plan.spec.epilogue:
        match step:
            case Bias() | Residual():
                steps.append(f"a + {step.operand}")
            case Scale(factor):
                suffix = "" if plan.target.language is Language.TRITON else "f"  # 1e+20 is a double without it
                steps.append(f"a * {float(factor)!r}{suffix}")
            case Activation(name):
                steps.append(f"{name}(a)")
            case Cast():
                pass
    return Finish(tuple(steps))


def budget(plan: Plan, schedule: CpuGemm) -> Budget:
    """Registers and caches of the innermost loops."""
    layout, kinds = plan.the(WeightLayout), schedule.decisions
    if RegisterTile in kinds:
        rows, registers = schedule.m_r, schedule.m_r * schedule.n_r + schedule.n_r + 1
    else:
        tile, rows = plan.the(StreamTile), STREAM_ROWS
        registers = max(
            sums * (at + 1) * vectors + vectors + 1
            for at, (vectors, sums) in enumerate(zip(tile.stream_vectors, tile.stream_sums, strict=True))
        )
    slab = plan.the(Slabs).slab_k
    operand = 2 if schedule.dot == "bf16" else F32_BYTES
    tile_x = rows * slab * operand
    panel_bytes = layout.block_n * slab * operand if Panel in kinds else 0
    result = (schedule.m_chunk if Buffers in kinds else rows) * layout.block_n * F32_BYTES
    return Budget(registers, tile_x + panel_bytes + result, tile_x + panel_bytes + result + layout.block_bytes)


Pass = tuple[type[Decision], Callable[[Plan, Any], Decision]]  # each knows the schedules that ask for its decision

PASSES: tuple[Pass, ...] = (
    (Extents, extents),
    (Types, types),
    (Codes, codes),
    (WeightLayout, weight_layout),
    (Vector, vector),
    (RegisterTile, register_tile),
    (StreamTile, stream_tile),
    (Slabs, slabs),
    (Buffers, buffers),
    (Panel, panel),
    (Pipeline, pipeline),
    (Split, split),
    (Finish, finish),
    (Budget, budget),
    (WeightChunks, passes_gpu.weight_chunks),
    (BlockTile, passes_gpu.block_tile),
    (TensorCore, passes_gpu.tensor_core),
    (SharedX, passes_gpu.shared_x),
    (Stages, passes_gpu.stages),
    (SplitK, passes_gpu.split_k),
    (Grid, passes_gpu.grid),
    (ProgramTile, passes_triton.program_tile),
    (Dot, passes_triton.dot),
    (Raster, passes_triton.raster),
)


def lower(spec: Spec, schedule: Schedule, target: Target, watch: Callable[[str, Plan], None] | None = None) -> Plan:
    """Take every decision that the schedule's recipe needs.

    Args:
        spec: Storages resolved.
        schedule: Feasible.
        target: What the source will be emitted for.
        watch: Called with the pass's name and the plan so far, after each pass.

    Raises:
        ScheduleError: A decision breaks an invariant; `verify` names it.
    """
    plan = Plan(spec, schedule, target)
    needed: tuple[type[Decision], ...] = schedule.decisions
    wanted = (*needed, Budget) if needed and target.language is Language.CPP else needed
    for kind, run in PASSES:
        if kind not in wanted:
            continue
        plan = Plan(spec, schedule, target, (*plan.decisions, run(plan, schedule)))
        verify(plan)
        if watch is not None:
            watch(run.__name__, plan)
    return plan
