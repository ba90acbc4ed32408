"""Issue: the instructions and the shared memory of a GPU gemm's blocks, counted from what its templates do.

The unit is a tile of 16 by 16 codes, eight of a lane. A multiprocessor starts four warps' instructions per cycle, and
half of that where they shift, mask, permute or add integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gridstone.ir.dtype import DType, f16
from gridstone.ir.storage import MMA_ROWS, Storage, chunk_k
from gridstone.lower.occupancy import arch_number
from gridstone.lower.target import Language, Target

WARPS_PER_CYCLE = 4.0  # whose instructions a multiprocessor starts
INTEGER_PER_CYCLE = 2.0  # of them: shifts, masks, permutations, integer sums, conversions
ONE_WARP = 0.35  # of a scheduler's cycles, that one warp alone fills: it waits for its own results
MOST_ISSUED = 0.85  # of a scheduler's cycles, that any number of warps fills
SCHEDULERS = 4
WGMMA_ROWS = 64
LEAST_ROWS = 8  # of x that an instruction of the tensor cores multiplies
WAVEFRONT = 128  # bytes of shared memory that a warp's access takes at least


@dataclass(frozen=True, slots=True)
class Count:
    """Instructions of a warp: those of the integer unit, and the others."""

    integer: float
    other: float

    def __add__(self, more: Count) -> Count:
        return Count(self.integer + more.integer, self.other + more.other)

    def times(self, factor: float) -> Count:
        """Return that many of them."""
        return Count(self.integer * factor, self.other * factor)

    @property
    def cycles(self) -> float:
        """Cycles in which a multiprocessor could start them, if it had no other reason to wait."""
        return max(self.integer / INTEGER_PER_CYCLE, (self.integer + self.other) / WARPS_PER_CYCLE)


# For the eight codes of a lane, by bits: to operands of the tensor cores (`templates/lib/cuda/decode.cuh`; shifts and
# lop3 or prmt, then subtractions), and to float32 (`exact.cuh`).
_TO_F16 = {4: Count(5, 4), 8: Count(4, 4)}
_TO_BF16 = {4: Count(7, 4), 8: Count(12, 8)}
_TO_F32 = {4: Count(15, 4), 8: Count(8, 8)}
# The rest as counted in the machine code of default schedules for sm_90(a), NVRTC 13.5 and Triton 3.9:
_CUDA_COPY, _TRITON_COPY = Count(24, 16), Count(4, 2)  # an asynchronous copy of 16 bytes: its address and its mask
_CUDA_STEP, _TRITON_STEP = Count(10, 30), Count(15, 25)  # a stage: barriers, waits, counters
_TRITON_TILE = Count(1, 0.5)  # from decoded values to an operand
_WGMMA = Count(0.5, 1.5)  # its fence, descriptor and wait
_GROUP = Count(2, 4)  # the scales of two rows of a tile


class Tiles(Protocol):
    """What is read of a schedule."""

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


def instruction_of(schedule: Tiles, target: Target) -> str:
    """Return what multiplies 16-bit operands: `mma` or `wgmma` (and its successors), or `fma` of float32.

    Triton takes the instruction of four warps together where they have 64 rows of the first operand each.
    """
    named: str = getattr(schedule, "instruction", "")
    if named or target.language is not Language.TRITON:
        return named or "mma"
    whole = schedule.warps_n * schedule.warps_k % 4 == 0 and _block_n(schedule) >= WGMMA_ROWS
    return "wgmma" if whole and arch_number(target) >= 90 else "mma"


@dataclass(frozen=True, slots=True)
class Work:
    """The work of one block.

    Args:
        place: Where the weight lies.
        schedule: Of the kernel.
        kind: As `instruction_of` says.
        target: Of the kernel.
        x: dtype of the activations.
    """

    place: Storage
    schedule: Tiles
    kind: str
    target: Target
    x: DType

    @property
    def tiles(self) -> float:
        """Tiles of 16 by 16 codes."""
        return _block_n(self.schedule) / 16 * self._columns / 16

    @property
    def _rows(self) -> int:
        return self.schedule.block_m if self.kind == "fma" else max(self.schedule.block_m, LEAST_ROWS)

    @property
    def flops(self) -> float:
        """Multiply-adds, times two, of rows that are multiplied and not there too."""
        return 2.0 * _block_n(self.schedule) * self._rows * self._columns

    @property
    def _columns(self) -> float:
        return self.place.columns / self.schedule.k_splits

    @property
    def shared_bytes(self) -> float:
        """Bytes into and out of shared memory: each stage once in, codes once out, x as often as it is multiplied."""
        schedule, rows = self.schedule, _block_n(self.schedule)
        codes = rows * self._columns * self.place.format.bits / 8
        x = self._rows * self._columns * 2
        if self.kind == "fma":
            return 2 * codes + self.tiles * schedule.block_m * WAVEFRONT
        readers = rows / WGMMA_ROWS if self.kind == "wgmma" else schedule.warps_n
        return 2 * codes + x * (1 + readers)

    def cycles(self, resident: int) -> float:
        """Return the cycles of a multiprocessor that one block takes.

        Args:
            resident: Blocks that it runs side by side.
        """
        schedule = self.schedule
        warps = schedule.warps_n * schedule.warps_k
        issued = min(MOST_ISSUED, ONE_WARP * resident * warps / SCHEDULERS)
        # Warps share a stage's k; without stages they take turns.
        steps = self._columns / schedule.block_k * (warps if self._staged else schedule.warps_n)
        step = _TRITON_STEP if self._triton else _CUDA_STEP
        return (self._tile().times(self.tiles) + step.times(steps)).cycles / issued

    @property
    def _triton(self) -> bool:
        return self.target.language is Language.TRITON

    @property
    def _staged(self) -> bool:
        return bool(getattr(self.schedule, "stages", 0))

    def _tile(self) -> Count:
        """Return the instructions of one tile."""
        schedule, place, bits = self.schedule, self.place, self.place.format.bits
        m, chunks = self._rows, 16 / chunk_k(place.codes[0].width)  # 16 bytes of a lane, of a tile
        if self.kind == "fma":
            of = _TO_F32[bits] + Count(0, m * (8 + 1))
        else:
            of = (_TO_F16 if self.x == f16 else _TO_BF16)[bits]
        if self.kind == "mma":
            of += Count(0, m / LEAST_ROWS * (1 + 0.5 / schedule.tiles_n))  # and ldmatrix, for the tiles of a warp
        bulk = self.kind == "wgmma" and not self._triton
        if self._triton:
            of += _TRITON_TILE
        elif bulk:
            of += _WGMMA
        if self._staged:
            copies = schedule.block_m / _block_n(schedule) + (0.0 if bulk else chunks)
            of += (_TRITON_COPY if self._triton else _CUDA_COPY).times(copies)
        of += Count(0, chunks)  # to take them from where they came to
        if place.groups > 1:
            of_warp = schedule.block_k / (schedule.warps_k if self._staged else 1)
            flush = min(place.columns / place.groups, of_warp) / 16  # tiles of k
            sums = m / 2 if self.kind != "fma" else m / 4  # of a lane, and as many zeroed by mma's
            of += (_GROUP + Count(0, sums * (1.5 if self.kind == "mma" else 1.0))).times(1 / flush)
        return of


def _block_n(schedule: Tiles) -> int:
    return schedule.warps_n * schedule.tiles_n * MMA_ROWS
