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
