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


def default_tile(target: Target, dot: str, *, decodes: bool) -> tuple[int, int]:
    """Return rows and vectors of the tile: tall and narrow when each tile decodes its own weights."""
    if target.registers < 32:
        return 6, 2
    return (12, 2) if decodes or dot == "bf16" else (6, 4)
