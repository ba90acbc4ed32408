"""What the Triton gemm recipes share: what they refuse, and the constraints on their tiles."""

from __future__ import annotations

from typing import Protocol

from gridstone.ir.dtype import bf16, f16, f32
from gridstone.ir.spec import NumericsClass, Spec
from gridstone.ir.storage import chunk_k
from gridstone.ir.tensor import Dim
from gridstone.lower.passes_gpu import stored_weight
from gridstone.lower.schedule import Constraint
from gridstone.lower.target import Language, Target
from gridstone.templates.requirement import ASYNC_COPIES, NO_SPILLS

BITS = (4, 8)
FLOATS = (f32, bf16, f16)
REGISTER_FILE = 65536  # 32-bit registers of a multiprocessor
BLACKWELL = 100  # from this number on sums and decoded weights lie in tensor memory
TENSOR_COLUMNS, TENSOR_LANES, COLUMN_BYTES = 512, 128, 4  # of a multiprocessor, and of one column in each lane
WGMMA_ARCH = 90  # from this number on an operand of the tensor cores stays in shared memory
SPARE_REGISTERS = 40  # of a thread, for addresses, masks and scales
F32_BYTES = 4
LONG_STEP = 128  # k
PROMISES = (NO_SPILLS, ASYNC_COPIES)


class Tile(Protocol):
    """A schedule with a tile and warps."""

    @property
    def block_m(self) -> int:
        """Rows of x."""
        ...

    @property
    def block_n(self) -> int:
        """Rows of the weight."""
        ...

    @property
    def block_k(self) -> int:
        """k of a step."""
        ...

    @property
    def warps(self) -> int:
        """Warps of the program."""
        ...

    @property
    def stages(self) -> int:
        """Depth of the pipeline."""
        ...


def refuses(spec: Spec, target: Target) -> str | None:
    """Return why no Triton gemm recipe computes a spec, or None."""
    w = spec.input("w")
    if target.language is not Language.TRITON:
        return f"{target} is not a Triton target"
    for operand in (*spec.inputs, *spec.extra_operands):
        if operand.type.dtype not in FLOATS:
            return f"{operand.name} is {operand.type.dtype}; the Triton recipes read {', '.join(map(str, FLOATS))}"
    if w.format is None:
        return f"the weight is a plain {w.dtype} matrix; the Triton recipes multiply with quantised weights"
    if w.format.bits not in BITS:
        return f"codes of {w.format.bits} bits; the Triton recipes decode {' and '.join(map(str, BITS))} bits"
    if w.storage not in ("", target.storage):
        return f"the weight is stored as {w.storage}; the Triton recipes read {target.storage}"
    if spec.numerics.kind not in (NumericsClass.EXACT, NumericsClass.BF16, NumericsClass.TF32):
        return f"numerics {spec.numerics.kind.value} are not implemented in Triton"
    if spec.output.dtype not in (spec.input("x").dtype, f32):
        return f"an output of {spec.output.dtype} for activations of {spec.input('x').dtype}"
    return None


def operand_bytes(spec: Spec) -> int:
    """Return the bytes of an element of both operands of a product."""
    return 4 if spec.input("x").dtype == f32 and spec.numerics.kind is not NumericsClass.BF16 else 2


def code_chunk(spec: Spec) -> int:
    """Return the k of one chunk of the weight."""
    return chunk_k(stored_weight(spec).codes[0].width)


def steps(spec: Spec, block_k: int) -> int:
    """Return the steps that all of K takes."""
    return -(-stored_weight(spec).columns // block_k)


def shared_bytes(schedule: Tile, spec: Spec, stages: int = 0) -> int:
    """Return an estimate of a program's shared memory; Triton decides, and says in the artefact.

    A stage holds codes and x; float32 ones pass through two more on their way to other types and layouts. The sums
    pass through it on theirs to y.

    Args:
        schedule: With a tile.
        spec: With a stored weight.
        stages: Depth of the pipeline; the schedule's when 0.
    """
    bits, x = stored_weight(spec).format.bits, spec.input("x").dtype
    stage = schedule.block_k * (schedule.block_n * bits // 8 + schedule.block_m * x.bytes)
    depth = (stages or schedule.stages) + (2 if x == f32 else 0)
    return max(depth * stage, schedule.block_m * schedule.block_n * F32_BYTES)


def registers(schedule: Tile, spec: Spec) -> int:
    """Return an estimate of a thread's registers: sums, those of a group where scales cut K, a decoded tile."""
    threads = 32 * schedule.warps
    sums = schedule.block_m * schedule.block_n // threads * (2 if stored_weight(spec).groups > 1 else 1)
    decoded = schedule.block_n * schedule.block_k * operand_bytes(spec) // (4 * threads)
    return sums + decoded + SPARE_REGISTERS


def _whole_chunks(schedule: Tile, spec: Spec, target: Target) -> bool:
    return schedule.block_k % code_chunk(spec) == 0


def _shared_fits(schedule: Tile, spec: Spec, target: Target) -> bool:
    return shared_bytes(schedule, spec) <= target.l1_bytes


def tensor_columns(schedule: Tile, spec: Spec) -> int:
    """Return an estimate of the columns of Blackwell's tensor memory: sums and decoded weights of a step's products."""
    place, operand = stored_weight(spec), operand_bytes(spec)
    dot_k = min(place.columns // place.groups, schedule.block_k)
    each = schedule.block_m + dot_k * operand // COLUMN_BYTES
    return -(-schedule.block_n // TENSOR_LANES) * (schedule.block_k // dot_k) * each


def arch_number(target: Target) -> int:
    """Return the number of a GPU's architecture."""
    return int(target.arch.removeprefix("sm_"))


def _tensor_memory_fits(schedule: Tile, spec: Spec, target: Target) -> bool:
    return arch_number(target) < BLACKWELL or tensor_columns(schedule, spec) <= TENSOR_COLUMNS


def _registers_fit(schedule: Tile, spec: Spec, target: Target) -> bool:
    each = registers(schedule, spec)
    return each <= target.registers and each * 32 * schedule.warps <= REGISTER_FILE


def tile_fits(least_m: int, least_n: int) -> tuple[Constraint[Tile], ...]:
    """Return the constraints on a tile, given the smallest one of a recipe, which may be larger than the problem."""

    def fits_n(schedule: Tile, spec: Spec, target: Target) -> bool:
        return schedule.block_n <= least_n or schedule.block_n < 2 * stored_weight(spec).rows

    def fits_m(schedule: Tile, spec: Spec, target: Target) -> bool:
        rows = spec.input("x").shape[0]
        return isinstance(rows, Dim) or schedule.block_m <= least_m or schedule.block_m < 2 * rows

    return (
        Constraint("a step is whole chunks of the weight", ("block_k",), _whole_chunks),
        Constraint("a tile is not twice as wide as N", ("block_n",), fits_n),
        Constraint("a tile is not twice as high as x", ("block_m",), fits_m),
        Constraint("shared memory suffices", ("block_m", "block_n", "block_k", "stages"), _shared_fits),
        Constraint("tensor memory suffices", ("block_m", "block_n", "block_k"), _tensor_memory_fits),
        Constraint("registers suffice", ("block_m", "block_n", "block_k", "warps"), _registers_fit),
    )


def one_long_group(spec: Spec) -> bool:
    """Return whether a step of LONG_STEP columns has codes of 4 bits and one scale a row: what registers allow."""
    place = stored_weight(spec)
    return place.format.bits <= 4 and place.columns // place.groups >= LONG_STEP


def default_block_k(spec: Spec, most: int) -> int:
    """Return a step of `most` columns, or of a smaller K."""
    return max(code_chunk(spec), min(most, 1 << (stored_weight(spec).columns - 1).bit_length()))


def deepest(schedule: Tile, spec: Spec, target: Target, depths: tuple[int, ...]) -> int:
    """Return the first of these depths of the pipeline for which shared memory suffices, or else the schedule's own."""
    return next((n for n in depths if shared_bytes(schedule, spec, n) <= target.l1_bytes), schedule.stages)
