"""Cost: what a GPU gemm schedule should take, from bytes, operations and how many blocks run at once.

A prediction, not a measurement: it ranks schedules, and says how far from the floor a schedule must be.

The kernel is taken for the slowest of its engines (memory, tensor cores, the threads' arithmetic), none of which
overlaps perfectly with what fills and drains the device. Constants are nominal and stated once, below; records refit
them.

    floor    = max(bytes that must move / bandwidth, operations that must be done / peak)
    memory   = bytes that the schedule moves / (bandwidth * what its copies under way can draw)
    tensor   = operations on whole tiles / (peak * share of the instruction)
    decode   = instructions of all lanes / what the multiprocessors issue
    time     = launch + waves' tail * max(memory, tensor, decode) + sums over blocks

Little's law gives the memory's share: bytes under way = bandwidth * latency (Little, 1961).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gridstone.ir.dtype import f32
from gridstone.ir.spec import Spec
from gridstone.ir.storage import MMA_ROWS
from gridstone.lower.passes_gpu import GpuGemm, stage_bytes, stored_weight
from gridstone.lower.target import Target

MEMORY_LATENCY = 800e-9  # seconds from a copy's start to its data, under load
MOST_OF_BANDWIDTH = 0.93  # of the nominal rate, that a plain copy reaches
LAUNCH = 2.0e-6  # seconds that a kernel takes when it does nothing, within a graph
SUM_BLOCKS = 1.5e-6  # seconds of a ticket, and of reading the parts again
LANES = 128  # instructions that a multiprocessor issues per cycle, one for each lane
REGISTERS = 65536  # of a multiprocessor
THREADS = 2048  # that it can hold
BLOCKS = 32
RESERVED = 1024  # bytes of shared memory that every block costs besides its own
MMA_SYNC_SHARE = 0.62  # of Hopper's peak, that mma.sync reaches; wgmma is what the peak is stated for
DECODE = {4: 12.0, 8: 20.0}  # instructions of a lane for the eight codes that it holds of a 16x16 tile


@dataclass(frozen=True, slots=True)
class Cost:
    """A prediction for one schedule.

    Args:
        bytes: That move between memory and the device.
        floor_bytes: Weight, x and output once each.
        flops: Multiply-adds on whole tiles, times two.
        blocks: Of the grid.
        resident: Blocks that one multiprocessor holds at once.
        waves: Rounds of blocks, a fraction for the last.
        seconds: Predicted time.
        floor_seconds: The time that no kernel can beat on the target's nominal rates.
        bound: `memory`, `tensor` or `decode`.
    """

    bytes: int
    floor_bytes: int
    flops: float
    blocks: int
    resident: int
    waves: float
    seconds: float
    floor_seconds: float
    bound: str

    def __str__(self) -> str:
        return (
            f"predicted {self.seconds * 1e6:.1f} us ({self.bound}), floor {self.floor_seconds * 1e6:.1f} us; "
            f"{self.bytes / 1e6:.1f} MB, {self.bytes / self.floor_bytes - 1:.1%} over the floor's; "
            f"{self.blocks} blocks, {self.resident} a multiprocessor, {self.waves:.2f} waves"
        )


def floor(spec: Spec, target: Target) -> tuple[int, float]:
    """Return the bytes that must move, and the seconds that no kernel can beat on a target's nominal rates.

    Args:
        spec: A gemm with static rows and a quantised weight, storage resolved.
        target: Of a GPU.
    """
    m, (n, k) = spec.input("x").static(0), (spec.input("w").static(0), spec.input("w").static(1))
    extra = sum(math.prod(int(e) for e in o.type.shape) * o.type.dtype.bytes for o in spec.extra_operands)  # pyright: ignore[reportArgumentType]
    moved = stored_weight(spec).bytes + m * k * spec.input("x").dtype.bytes + m * n * spec.output.dtype.bytes + extra
    peak = target.f32_flops if spec.input("x").dtype == f32 else target.bf16_flops
    return moved, max(moved / target.bandwidth, 2.0 * m * n * k / peak)


def predict(spec: Spec, schedule: GpuGemm, target: Target) -> Cost:
    """Predict what a schedule takes.

    Args:
        spec: A gemm with static rows and a quantised weight, storage resolved.
        schedule: Of a CUDA recipe.
        target: Of a GPU.
    """
    place = stored_weight(spec)
    m, n = spec.input("x").static(0), place.n
    block_n = schedule.warps_n * schedule.tiles_n * MMA_ROWS
    rows, columns = -(-m // schedule.block_m), -(-n // block_n)
    blocks = rows * columns * schedule.k_splits
    threads = 32 * schedule.warps_n * schedule.warps_k
    resident = _resident(schedule, spec, target, threads)
    waves = blocks / (resident * target.sms)
    floor_bytes, floor_seconds = floor(spec, target)

    # Blocks of one wave that share rows of the weight find them in the second cache; later waves read them again.
    again = max(0, min(rows, math.ceil(waves)) - 1) if place.bytes > target.l2_bytes // 2 else 0
    parts = 0
    if schedule.k_splits > 1:
        parts = 2 * rows * columns * schedule.block_m * block_n * 4 * (schedule.k_splits if schedule.ordered else 1)
    moved = floor_bytes + again * place.bytes + (parts if parts > target.l2_bytes // 2 else 0)

    stages = getattr(schedule, "stages", 0)
    in_flight = (stages - 1) * stage_bytes(schedule, spec) if stages else threads * 16 * schedule.tiles_n
    drawn = min(1.0, resident * min(1.0, waves) * target.sms * in_flight / (target.bandwidth * MEMORY_LATENCY))
    memory = moved / (target.bandwidth * MOST_OF_BANDWIDTH * drawn)

    tiles = rows * columns * block_n * place.columns  # of codes, once for every row of blocks
    flops = 2.0 * tiles * schedule.block_m
    clock = target.f32_flops / (2 * LANES * target.sms)
    issued = target.sms * LANES * clock * min(1.0, blocks / target.sms)
    decode = tiles / 8 * DECODE.get(place.format.bits, 16.0)
    if schedule.instruction == "fma":
        tensor, decode = 0.0, decode + tiles * (1 + schedule.block_m)  # outside the tensor cores: widen, multiply
    else:
        share = 1.0 if schedule.instruction == "wgmma" else MMA_SYNC_SHARE
        tensor = flops / (target.bf16_flops * share * min(1.0, blocks / target.sms))
    engines = {"memory": memory, "tensor": tensor, "decode": decode / issued}
    bound = max(engines, key=lambda name: engines[name])
    tail = math.ceil(waves) / waves if waves > 1 else 1.0
    # The tail costs what the last wave leaves idle; memory-bound blocks of a last wave run faster than of a full one.
    seconds = engines[bound] * (tail if bound != "memory" else 1 + (tail - 1) / 2)
    seconds += LAUNCH + (SUM_BLOCKS if schedule.k_splits > 1 else 0.0)
    return Cost(moved, floor_bytes, flops, blocks, resident, waves, seconds, floor_seconds, bound)


def _resident(schedule: GpuGemm, spec: Spec, target: Target, threads: int) -> int:
    """Return how many blocks a multiprocessor holds at once, as registers, threads and shared memory allow."""
    shared = target.l1_bytes + RESERVED  # of a multiprocessor: what one block can have, and its own reserve
    by_shared = shared // (schedule.shared_bytes(spec) + RESERVED)
    registers = -(-schedule.registers(spec) // 8) * 8
    return max(1, min(by_shared, REGISTERS // (registers * threads), THREADS // threads, BLOCKS))
