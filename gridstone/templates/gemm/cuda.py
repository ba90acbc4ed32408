"""What the CUDA gemm recipes share: their parameters, and what they refuse."""

from __future__ import annotations

from gridstone.ir.dtype import bf16, f16, f32
from gridstone.ir.spec import NumericsClass, Spec
from gridstone.ir.storage import MMA_ROWS, chunk_k
from gridstone.ir.tensor import Dim
from gridstone.lower.passes_gpu import GpuGemm, stored_weight
from gridstone.lower.schedule import Constraint
from gridstone.lower.target import Language, Target
from gridstone.templates.source import Launch, Param, ParamKind

BITS = (4, 8)
FLOATS = (f32, bf16, f16)
PARAMS = (
    Param(ParamKind.POINTER, "x"),
    Param(ParamKind.STRIDE, "x"),
    Param(ParamKind.POINTER, "w"),
    Param(ParamKind.POINTER, "bias"),
    Param(ParamKind.POINTER, "residual"),
    Param(ParamKind.STRIDE, "residual"),
    Param(ParamKind.POINTER, "y"),
    Param(ParamKind.STRIDE, "y"),
    Param(ParamKind.ROWS, "x"),
    Param(ParamKind.PARTS),
    Param(ParamKind.TICKETS),
)
LAUNCH = Launch("", deterministic=True)
REGISTER_FILE = 65536  # 32-bit registers of a multiprocessor
DECLARED = 1024  # bytes of shared memory before the dynamic part, which begins at a multiple of as many
MOST_THREADS = 512  # of a block: more leaves too few registers to each


def refuses(spec: Spec, target: Target) -> str | None:
    """Return why no CUDA gemm recipe computes a spec, or None."""
    w = spec.input("w")
    if target.language is not Language.CUDA:
        return f"{target} is not a CUDA target"
    for operand in (*spec.inputs, *spec.extra_operands):
        if operand.type.dtype not in FLOATS:
            return f"{operand.name} is {operand.type.dtype}; the CUDA recipes read {', '.join(map(str, FLOATS))}"
    if w.format is None:
        return f"the weight is a plain {w.dtype} matrix; the CUDA recipes multiply with quantised weights"
    if w.format.bits not in BITS:
        return f"codes of {w.format.bits} bits; the CUDA recipes decode {' and '.join(map(str, BITS))} bits"
    if w.storage not in ("", target.storage):
        return f"the weight is stored as {w.storage}; the CUDA recipes read {target.storage}"
    if spec.numerics.kind not in (NumericsClass.EXACT, NumericsClass.BF16, NumericsClass.TF32):
        return f"numerics {spec.numerics.kind.value} are not implemented in CUDA"
    if spec.output.dtype not in (spec.input("x").dtype, f32):
        return f"an output of {spec.output.dtype} for activations of {spec.input('x').dtype}"
    return None


def refuses_tensor_core(spec: Spec, target: Target) -> str | None:
    """Return why the tensor cores cannot compute a spec, or None: they multiply operands of 16 bits."""
    x = spec.input("x").dtype
    if x == f32 and spec.numerics.kind is not NumericsClass.BF16:
        return "float32 activations lose bits in the tensor cores; ask for numerics bf16 if that is meant"
    return refuses(spec, target)


# ---- named constraints that several recipes state -----------------------------------------------------------------


def code_chunk(spec: Spec) -> int:
    """Return the k of one chunk of the weight."""
    return chunk_k(stored_weight(spec).codes[0].width)


def block_n(schedule: GpuGemm) -> int:
    """Return the rows of the weight of a block."""
    return schedule.warps_n * schedule.tiles_n * MMA_ROWS


def steps(schedule: GpuGemm, spec: Spec) -> int:
    """Return the stages that all of K takes."""
    return -(-stored_weight(spec).columns // schedule.block_k)


def _fits_m(schedule: GpuGemm, spec: Spec, target: Target) -> bool:
    rows = spec.input("x").shape[0]
    return isinstance(rows, Dim) or schedule.block_m <= 8 or schedule.block_m < 2 * rows


def _fits_n(schedule: GpuGemm, spec: Spec, target: Target) -> bool:
    smallest = 4 * MMA_ROWS if target.arch == "sm_90a" else MMA_ROWS
    return block_n(schedule) <= smallest or block_n(schedule) < 2 * stored_weight(spec).rows


def _splits_have_work(schedule: GpuGemm, spec: Spec, target: Target) -> bool:
    return schedule.k_splits == 1 or 2 * schedule.k_splits <= steps(schedule, spec)


def _order_matters(schedule: GpuGemm, spec: Spec, target: Target) -> bool:
    return schedule.ordered or (schedule.k_splits > 1 and not spec.numerics.ordered)


def declared_shared(schedule: GpuGemm) -> int:
    """Return the bytes of shared memory that a kernel declares, filled up to where its dynamic part may begin."""
    return DECLARED if schedule.k_splits > 1 or schedule.instruction == "wgmma" else 0  # a ticket, mbarriers


def _shared_fits(schedule: GpuGemm, spec: Spec, target: Target) -> bool:
    return declared_shared(schedule) + schedule.shared_bytes(spec) <= target.l1_bytes


def _registers_fit(schedule: GpuGemm, spec: Spec, target: Target) -> bool:
    threads, each = 32 * schedule.warps_n * schedule.warps_k, schedule.registers(spec)
    return threads <= MOST_THREADS and each <= target.registers and each * threads <= REGISTER_FILE


FITS_M: Constraint[GpuGemm] = Constraint("a tile is not twice as high as x", ("block_m",), _fits_m)
FITS_N: Constraint[GpuGemm] = Constraint("a tile is not twice as wide as N", ("warps_n", "tiles_n"), _fits_n)
SPLITS_HAVE_WORK: Constraint[GpuGemm] = Constraint(
    "every block that shares K has two steps", ("block_k", "k_splits"), _splits_have_work
)
ORDER_MATTERS: Constraint[GpuGemm] = Constraint(
    "sums are in order where that is asked for or costs nothing", ("k_splits", "ordered"), _order_matters
)


def registers_fit(*reads: str) -> Constraint[GpuGemm]:
    """Return the constraint, for a recipe whose registers depend on these fields."""
    return Constraint("registers suffice", reads, _registers_fit)


def shared_fits(*reads: str) -> Constraint[GpuGemm]:
    """Return the constraint, for a recipe whose shared memory depends on these fields."""
    return Constraint("shared memory suffices", (*reads, "k_splits"), _shared_fits)


def default_splits(spec: Spec, target: Target, blocks: int, count: int) -> int:
    """Return how many blocks share K so that every multiprocessor has two, and no block fewer than four steps."""
    splits = 1
    while splits < 16 and blocks * splits < 2 * target.sms and 8 * splits <= count:
        splits *= 2
    return splits
