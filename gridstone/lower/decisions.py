"""Decisions: what the passes decide, one frozen value each. Their fields are the variables of the templates."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Decision:
    """Base of all decisions."""


@dataclass(frozen=True, slots=True)
class Extents(Decision):
    """Static extents of the problem, in elements."""

    n: int
    k: int


@dataclass(frozen=True, slots=True)
class Types(Decision):
    """Element types in the target's language. Absent operands get the output's type and are never read."""

    x_type: str
    y_type: str
    bias_type: str
    residual_type: str
    scale_type: str


@dataclass(frozen=True, slots=True)
class Codes(Decision):
    """How a stored code is decoded: (u - zero) * scale, zero being `code_bias` where none is stored."""

    code_bits: int
    code_bias: int
    stored_zeros: bool


@dataclass(frozen=True, slots=True)
class WeightLayout(Decision):
    """Byte strides of the stored weight, read off the storage's layouts.

    Args:
        block_n: Rows of one block; blocks follow each other at `block_bytes`.
        word_k: k of one 32-bit code word.
        word_bytes: From one code word of a block to the next along k.
        group_k: k of one scale group; a whole padded row for per-channel scales.
        group_bytes: From one group of a block to the next.
        scales_at, zeros_at: Where a group's scales and zero points begin within it.
        padded_k: K as stored.
    """

    block_n: int
    block_bytes: int
    word_k: int
    word_bytes: int
    group_k: int
    group_bytes: int
    scales_at: int
    zeros_at: int
    padded_k: int


@dataclass(frozen=True, slots=True)
class Vector(Decision):
    """The vocabulary of vector operations that the kernel is written in: how wide, and which dot product."""

    vocabulary: str


@dataclass(frozen=True, slots=True)
class RegisterTile(Decision):
    """Accumulators kept in registers: rows of x times vectors of n."""

    m_r: int
    n_r: int


@dataclass(frozen=True, slots=True)
class StreamTile(Decision):
    """The tiles of a kernel that streams the weights once, for one row, two rows, and so on.

    Args:
        stream_vectors: Vectors of n at a time.
        stream_sums: Independent sums of each, taken in turn, so that the product's latency is hidden.
    """

    stream_vectors: tuple[int, ...]
    stream_sums: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Slabs(Decision):
    """The walk along K: `slab_k` elements between two updates of the float32 result; one scale group at most."""

    slab_k: int


@dataclass(frozen=True, slots=True)
class Buffers(Decision):
    """Per-thread scratch: rows of the float32 result that are kept while all of K passes by."""

    m_chunk: int


@dataclass(frozen=True, slots=True)
class Panel(Decision):
    """What a decoded panel holds: exact codes, or codes times scale rounded to the operand type."""

    fold_scale: bool


@dataclass(frozen=True, slots=True)
class Pipeline(Decision):
    """Bytes of weights that are asked for ahead of their use."""

    prefetch_bytes: int


@dataclass(frozen=True, slots=True)
class Split(Decision):
    """Parts into which K is split, summed in order afterwards."""

    k_splits: int


@dataclass(frozen=True, slots=True)
class Finish(Decision):
    """The epilogue as expressions in `a` (the element), `bias` and `residual`, applied in order."""

    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Budget(Decision):
    """What the kernel will use, checked against the target and reported; no template reads it.

    Args:
        registers: Vector registers of the innermost loop.
        l1_bytes: Bytes that the innermost loops touch again and again, per thread.
        l2_bytes: Bytes touched once per block of n, per thread.
    """

    registers: int
    l1_bytes: int
    l2_bytes: int


# ---- of GPU kernels --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WeightChunks(Decision):
    """Where the parts of a weight in fragment order lie, read off the storage's layouts.

    Args:
        padded_n, padded_k: Extents as stored.
        chunk_k: k of one chunk: 16 rows of it are 16 bytes for each lane of a warp.
        group_k: k of one scale group; all of `padded_k` for per-channel scales.
        groups: Groups of a row as stored.
        scales_at, zeros_at: Bytes before the scales and the zero points.
    """

    padded_n: int
    padded_k: int
    chunk_k: int
    group_k: int
    groups: int
    scales_at: int
    zeros_at: int


@dataclass(frozen=True, slots=True)
class BlockTile(Decision):
    """What a block computes and how its warps share it.

    Args:
        block_m: Rows of x.
        block_k: k of one stage.
        warps_n, warps_k: Warps side by side along n, and sharing a stage's k.
        tiles_n: 16 rows of the weight each, per warp.
    """

    block_m: int
    block_k: int
    warps_n: int
    warps_k: int
    tiles_n: int


@dataclass(frozen=True, slots=True)
class TensorCore(Decision):
    """The element type of both operands of the tensor cores."""

    operand_type: str


@dataclass(frozen=True, slots=True)
class SharedX(Decision):
    """Permutation of the 16-byte pieces of a row of x in shared memory: piece XOR (row AND mask)."""

    swizzle_mask: int


@dataclass(frozen=True, slots=True)
class Stages(Decision):
    """Depth of the pipeline of asynchronous copies."""

    stages: int


@dataclass(frozen=True, slots=True)
class SplitK(Decision):
    """Blocks that share K, and whether their sums are added in order."""

    k_splits: int
    ordered: bool


@dataclass(frozen=True, slots=True)
class Grid(Decision):
    """How the kernel is launched, for any number of rows; no template reads it.

    Args:
        threads: Of a block.
        shared_bytes: Dynamic shared memory of a block.
        block_m: Rows of x of a block; the grid has as many blocks along y as cover all rows.
        blocks_n: Blocks along x.
        k_splits: Blocks along z.
        part_floats: float32 sums of scratch for each tile of the grid's x and y; 0 when K is not split.
        registers: Estimate of the registers of a thread.
    """

    threads: int
    shared_bytes: int
    block_m: int
    blocks_n: int
    k_splits: int
    part_floats: int
    registers: int


# ---- of Triton kernels -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProgramTile(Decision):
    """What a Triton program computes.

    Args:
        block_m: Rows of x, which lie along the second side of the product.
        block_n: Rows of the weight, which lie along the first.
        block_k: k of one step of the loop.
        warps: Warps of the program.
    """

    block_m: int
    block_n: int
    block_k: int
    warps: int


@dataclass(frozen=True, slots=True)
class Dot(Decision):
    """How Triton multiplies.

    Args:
        dot_type: Type of both operands.
        precision: What float32 ones may lose; nothing when `ieee`.
        dot_k: k of one product.
    """

    dot_type: str
    precision: str
    dot_k: int


@dataclass(frozen=True, slots=True)
class Raster(Decision):
    """Rows of blocks that are walked together, so that the weights they share are still in the cache."""

    group_m: int
