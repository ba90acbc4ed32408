"""Register tiles of the C++ gemm recipes for more than a few rows."""

from __future__ import annotations

from typing import Protocol

from gridstone.ir.spec import Spec
from gridstone.ir.storage import BLOCK_N
from gridstone.ir.tensor import Dim
from gridstone.lower.schedule import Choice, Constraint
from gridstone.lower.target import Target
from gridstone.templates.gemm.cpp import lanes

M_R = Choice("m_r", (4, 6, 8, 12, 14))
N_R = Choice("n_r", (1, 2, 4))
CHUNKS = (48, 96, 192, 384)
M_CHUNK = Choice("m_chunk", CHUNKS)


class HasTile(Protocol):
    """A schedule with a register tile."""

    @property
    def dot(self) -> str:
        """Product of the inner loop."""
        ...

    @property
    def m_r(self) -> int:
        """Rows."""
        ...

    @property
    def n_r(self) -> int:
        """Vectors."""
        ...

    @property
    def m_chunk(self) -> int:
        """Rows kept in cache."""
        ...


def _fits_registers(schedule: HasTile, spec: Spec, target: Target) -> bool:
    return schedule.m_r * schedule.n_r + schedule.n_r + 1 <= target.registers


def _enough_sums(schedule: HasTile, spec: Spec, target: Target) -> bool:
    return schedule.m_r * schedule.n_r >= 8


def _divides(schedule: HasTile, spec: Spec, target: Target) -> bool:
    return BLOCK_N // lanes(target, schedule.dot) % schedule.n_r == 0


def _chunk_used(schedule: HasTile, spec: Spec, target: Target) -> bool:
    rows = spec.input("x").shape[0]
    smaller = [value for value in CHUNKS if value < schedule.m_chunk]
    return isinstance(rows, Dim) or not smaller or smaller[-1] < rows


def default_chunk(spec: Spec) -> int:
    """Return how many rows of results to keep in cache: 96 rows of a block of 64 are half of an L1 cache."""
    rows = spec.input("x").shape[0]
    return CHUNKS[1] if isinstance(rows, Dim) or rows > CHUNKS[0] else CHUNKS[0]


TILE_FITS: tuple[Constraint[HasTile], ...] = (
    Constraint("accumulators and operands fit the vector registers", ("m_r", "n_r"), _fits_registers),
    Constraint("enough independent sums hide the product's latency", ("m_r", "n_r"), _enough_sums),
    Constraint("a block of n is a whole number of tiles", ("dot", "n_r"), _divides),
    Constraint("no more rows are kept in cache than there are", ("m_chunk",), _chunk_used),
)


def default_tile(spec: Spec, target: Target, dot: str) -> tuple[int, int]:
    """Return rows and vectors of the register tile, as measured on Zen 5.

    Few rows want a wide tile (5 rows of 4 vectors keep 20 sums busy, of 2 only 10); many rows of bf16 a tall one, which
    decodes or reads fewer weights for each product. Without 32 registers there is one shape that does not spill.
    """
    if target.registers < 32:
        return (6, 2) if target.vector_bits >= 256 else (4, 2)
    rows = spec.input("x").shape[0]
    tall = dot == "bf16" and (isinstance(rows, Dim) or rows > 32)
    return (12, 2) if tall else (6, 4)


def panel_pays(spec: Spec, target: Target, dot: str) -> bool:
    """Return whether decoding into a panel beats decoding in registers, as measured on Zen 5."""
    rows = spec.input("x").shape[0]
    if dot == "bf16":
        return isinstance(rows, Dim) or rows >= 128
    return target.registers < 32 or isinstance(rows, Dim) or rows >= 32
