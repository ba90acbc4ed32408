"""Cost: what a GPU gemm schedule should take, from bytes, operations and how many blocks run at once.

A prediction, not a measurement: it ranks schedules, and says how far from the floor a schedule must be. A kernel keeps
four engines busy at once, which get in each other's way where they take equally long:

    memory        blocks run in rounds of as many as the GPU holds; a round takes the longest of the bytes that it
                  brings from memory, the bytes that it asks the second cache for, and the latency of its copies:
                  bytes under way = rate * latency (Little, 1961)
    shared        bytes into and out of shared memory
    tensor        operations on whole tiles, padded rows too
    instructions  decoding, feeding the tensor cores, asking for copies (`lower/issue.py`)

    time = launch + first data + (memory^4 + shared^4 + tensor^4 + instructions^4)^(1/4) + sums over blocks

All but memory belong to a multiprocessor: the busiest, with the most blocks, sets the time. `floor` is what no kernel
beats: bytes that must move over the bandwidth, or operations that must be done over the peak. Constants are nominal and
stated once, here and in `lower/issue.py`; `docs/gpu.md` says what is left out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, cast

from gridstone.ir.dtype import f32
from gridstone.ir.spec import NumericsClass, Spec
from gridstone.ir.storage import MMA_ROWS, Storage
from gridstone.lower.issue import Tiles, Work, instruction_of
from gridstone.lower.occupancy import arch_number, occupancy
from gridstone.lower.passes_gpu import GpuGemm, stage_bytes, stored_weight
from gridstone.lower.target import Target

MEMORY_LATENCY = 800e-9  # seconds from a copy's start to its data, under load
MOST_OF_BANDWIDTH = 0.93  # of the nominal rate, that a plain copy reaches
CACHE_PER_CYCLE = 28  # bytes that a multiprocessor draws from the second cache; its port is 64 wide
SHARED_PER_CYCLE = 128  # bytes
LAUNCH = 2.0e-6  # seconds that a kernel takes when it does nothing, within a graph
TICKET = 1.0e-6  # seconds until the last block of a tile knows that it is the last
PART_LATENCY = 0.3e-6  # seconds of reading sums of other blocks, as many at once as a thread has under way: PARTS
PARTS = 8
OVERLAP = 4.0  # the power in which engines add up; infinity would be perfect overlap, 1 none
# Of the peak, that mma.sync reaches where the peak is of another instruction. Hopper: 62 % of 989 TFLOP/s (W. Luo et
# al., "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture", 2024), of 790. Later: as fast as on Hopper.
MMA_SYNC_SHARE = {90: 0.78, 100: 0.28}
LEAST_TOKENS = 32  # tokens that wgmma takes as long for as for fewer: its other operand comes from registers


class GemmSchedule(Tiles, Protocol):
    """What a prediction reads of a GPU gemm schedule, of whatever language."""

    @property
    def ordered(self) -> bool:
        """Whether sums over blocks are added in order."""
        ...

    def shared_bytes(self, spec: Spec) -> int:
        """Return the shared memory of a block, or an estimate."""
        ...

    def registers(self, spec: Spec) -> int:
        """Return an estimate of a thread's registers."""
        ...


@dataclass(frozen=True, slots=True)
class Cost:
    """A prediction for one schedule.

    Args:
        bytes: That move between memory and the device.
        floor_bytes: Weight, x, the epilogue's operands and output once each.
        flops: Multiply-adds on whole tiles, times two.
        blocks: Of the grid.
        resident: Blocks that one multiprocessor holds at once.
        waves: Rounds of blocks, a fraction for the last.
        seconds: Predicted time.
        floor_seconds: The time that no kernel can beat on the target's nominal rates.
        engines: (name, seconds) of each engine if it were alone.
    """

    bytes: int
    floor_bytes: int
    flops: float
    blocks: int
    resident: int
    waves: float
    seconds: float
    floor_seconds: float
    engines: tuple[tuple[str, float], ...]

    @property
    def bound(self) -> str:
        """The engine that takes longest: `memory`, `shared`, `tensor` or `instructions`."""
        return max(self.engines, key=lambda engine: engine[1])[0]

    @property
    def share(self) -> float:
        """The floor's time over the predicted one."""
        return self.floor_seconds / self.seconds

    @property
    def bytes_ratio(self) -> float:
        """Predicted bytes over the floor's."""
        return self.bytes / self.floor_bytes

    def __str__(self) -> str:
        return (
            f"predicted {self.seconds * 1e6:.1f} us, bound by {self.bound}; floor {self.floor_seconds * 1e6:.1f} us, "
            f"{self.share:.0%} of it; {self.bytes / 1e6:.1f} MB, {self.bytes_ratio - 1:.1%} over the floor's; "
            f"{self.blocks} blocks, {self.resident} a multiprocessor, {self.waves:.2f} waves"
        )


def rates(target: Target) -> str:
    """Return whose rates a prediction for a GPU's target uses.

    >>> from gridstone.lower.target import parse_target
    >>> rates(parse_target("cuda:sm_90a"))
    'H200 (4.8 TB/s, 790 TFLOP/s bf16)'
    """
    return f"{target.card} ({target.bandwidth / 1e12:.3g} TB/s, {target.bf16_flops / 1e12:.0f} TFLOP/s bf16)"


@dataclass(frozen=True, slots=True)
class _Problem:
    """What does not depend on the schedule."""

    place: Storage
    m: int
    k: int
    x_bytes: int  # of an element
    floor_bytes: int
    floor_seconds: float
    peak: float  # flops per second of the tensor cores on its operands; of float32 where they may not be used
    exact_f32: bool


def floor(spec: Spec, target: Target) -> tuple[int, float]:
    """Return the bytes that must move, and the seconds that no kernel can beat on a target's nominal rates.

    Args:
        spec: A gemm with static rows and a quantised weight, storage resolved.
        target: Of a GPU.
    """
    problem = _problem(spec, target)
    return problem.floor_bytes, problem.floor_seconds


@functools.lru_cache(maxsize=64)
def _problem(spec: Spec, target: Target) -> _Problem:
    place, x = stored_weight(spec), spec.input("x")
    (m, k), n = (x.static(0), x.static(1)), place.n
    extra = 0
    for operand in spec.extra_operands:
        shape = [operand.type.static(axis) for axis in range(len(operand.type.shape))]
        extra += math.prod(shape) * operand.type.dtype.bytes
    moved = place.bytes + m * k * x.dtype.bytes + m * n * spec.output.dtype.bytes + extra
    exact = x.dtype == f32 and spec.numerics.kind not in (NumericsClass.BF16, NumericsClass.TF32)
    peak = target.f32_flops if exact else target.bf16_flops
    if x.dtype == f32 and spec.numerics.kind is NumericsClass.TF32:
        peak /= 2
    least = max(moved / target.bandwidth, 2.0 * m * n * k / peak)
    return _Problem(place, m, k, x.dtype.bytes, moved, least, peak, exact)


def predict(spec: Spec, schedule: GemmSchedule, target: Target) -> Cost:
    """Predict what a schedule takes.

    Args:
        spec: A gemm with static rows, one at least, and a quantised weight, storage resolved.
        schedule: Of a GPU's recipe.
        target: Of a GPU.
    """
    of = _problem(spec, target)
    place, splits = of.place, schedule.k_splits
    block_n = schedule.warps_n * schedule.tiles_n * MMA_ROWS
    rows, columns = max(1, -(-of.m // schedule.block_m)), -(-place.n // block_n)
    blocks, threads = rows * columns * splits, 32 * schedule.warps_n * schedule.warps_k
    held = occupancy(target, threads, schedule.registers(spec), schedule.shared_bytes(spec)).blocks
    resident = max(1, held)
    busiest = -(-blocks // target.sms)  # blocks of the multiprocessor that has most
    clock = _clock(target)
    kind = "fma" if of.exact_f32 else instruction_of(schedule, target)

    # Bytes. What blocks of one tile hand to each other is written to memory in the end, and read where it still lies.
    weights = place.bytes / (columns * splits)  # that a block asks for; one of the last column may ask for less
    whole = place.bytes / splits * min(1.0, block_n / place.rows)
    parts = rows * columns * schedule.block_m * block_n * 4 if splits > 1 else 0
    written = parts * (splits if schedule.ordered else 1)
    other = of.floor_bytes - place.bytes + written * (2 if written > target.l2_bytes // 2 else 1)
    asked = whole + min(of.m, schedule.block_m) * of.k / splits * of.x_bytes
    latency = MEMORY_LATENCY * max(1.0, asked / _under_way(schedule, spec, target, threads, block_n))
    if splits > 1:
        asked += 2 * schedule.block_m * block_n * 4  # its part, written and read
    bandwidth = target.bandwidth * MOST_OF_BANDWIDTH
    from_cache = CACHE_PER_CYCLE * clock  # of one multiprocessor
    brought, memory = 0.0, other / bandwidth
    per_round = resident * target.sms
    together = min(rows, getattr(schedule, "group_m", 1))  # rows of blocks that are walked side by side
    for count, running, fresh in _rounds(blocks, per_round, rows, columns, splits, together, _stays(place, target)):
        brought += count * fresh * weights
        ports = min(running, target.sms) * from_cache
        memory += count * max(fresh * weights / bandwidth, running * asked / ports, latency)
    # A block that ends leaves its place idle until the next one's first data has come; the others go on meanwhile.
    memory += max(0, -(-blocks // per_round) - 1) * MEMORY_LATENCY / resident

    # Engines of a multiprocessor, in cycles of a block.
    work = Work(place, schedule, kind, target, spec.input("x").dtype)
    flops = work.flops
    if kind == "fma":
        tensor = 0.0
    else:
        share = MMA_SYNC_SHARE.get(arch_number(target), 1.0) if kind == "mma" else 1.0
        tokens = max(schedule.block_m, LEAST_TOKENS) / schedule.block_m if kind == "wgmma" else 1.0
        tensor = flops * tokens / (of.peak * share / target.sms)
    alone = {
        "memory": memory,
        "shared": busiest * work.shared_bytes / (SHARED_PER_CYCLE * clock),
        "tensor": busiest * tensor,
        "instructions": busiest * work.cycles(min(resident, busiest)) / clock,
    }
    seconds = LAUNCH + MEMORY_LATENCY + sum(part**OVERLAP for part in alone.values()) ** (1 / OVERLAP)
    if splits > 1:
        mine = schedule.block_m * block_n / threads  # sums of a thread, of each block
        seconds += TICKET + PART_LATENCY * math.ceil(mine * (splits if schedule.ordered else 1) / PARTS)
    return Cost(
        round(other + max(brought, place.bytes)),
        of.floor_bytes,
        flops * blocks,
        blocks,
        resident,
        blocks / per_round,
        seconds,
        of.floor_seconds,
        tuple(alone.items()),
    )


def _clock(target: Target) -> float:
    """Return the cycles per second that a target's nominal float32 rate means."""
    lanes = 64 if arch_number(target) == 80 else 128  # of float32 of a multiprocessor
    return target.f32_flops / (2 * lanes * target.sms)


def _stays(place: Storage, target: Target) -> bool:
    """Return whether a weight is still in the second cache when it is needed again."""
    return place.bytes <= target.l2_bytes // 2


def _under_way(schedule: GemmSchedule, spec: Spec, target: Target, threads: int, block_n: int) -> float:
    """Return the bytes that a block has asked for and not received, as long as its pipeline is full."""
    stages: int = getattr(schedule, "stages", 0)
    if stages:
        ahead: int = getattr(schedule, "ahead", stages - 1)
        return max(ahead, 1) * stage_bytes(cast("GpuGemm", schedule), spec)
    bits = stored_weight(spec).format.bits
    return schedule.warps_k * block_n * schedule.block_k * bits / 8  # straight into registers, for each warp along k


def _rounds(
    blocks: int, per_round: int, rows: int, columns: int, splits: int, together: int, stays: bool
) -> Iterator[tuple[int, int, float]]:
    """Yield (how many rounds, blocks of one, parts of the weight that one brings from memory).

    Blocks start along n, then along m, `together` rows of them side by side, then along K. Blocks of one round that
    share a part of the weight bring it once; a later round brings it again, unless the weight `stays` in the cache.
    """
    full, rest = divmod(blocks, per_round)
    left = columns * splits if stays else math.inf
    for count, running in ((full, per_round), (1, rest)):
        if not count or not running:
            continue
        fresh = max(min(running / together, columns), running / rows)
        whole = min(count, int(left / fresh)) if stays else count
        if whole:
            yield whole, running, fresh
            left -= whole * fresh
        if whole < count:
            yield 1, running, left
            left = 0
            if whole + 1 < count:
                yield count - whole - 1, running, 0.0
