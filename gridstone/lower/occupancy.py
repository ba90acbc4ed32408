"""Occupancy: how many blocks of a kernel a GPU's multiprocessor holds at once, and what bounds them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gridstone.lower.target import Target

RESERVED = 1024  # bytes of shared memory that the system takes for each block, from sm_80 on
REGISTER_FILE = 65536  # 32-bit registers of a multiprocessor
_WARP = 32
_REGISTERS_AT_ONCE = 256  # of a warp
_SHARED_AT_ONCE = 128  # bytes
_PARTS = 4  # of a multiprocessor, each with its own part of the register file
# Warps and blocks that a multiprocessor holds at most, by number of the architecture: table "Technical Specifications
# per Compute Capability" of https://docs.nvidia.com/cuda/cuda-c-programming-guide/
_MOST = {80: (64, 32), 89: (48, 24), 90: (64, 32), 100: (64, 32)}


@dataclass(frozen=True, slots=True)
class Occupancy:
    """What a multiprocessor holds of a kernel.

    Args:
        blocks: At once; 0 for a kernel that cannot be launched.
        share: Of the warps that it could hold.
        bound_by: `registers`, `shared memory`, `warps` or `blocks`.
    """

    blocks: int
    share: float
    bound_by: str


def occupancy(target: Target, threads: int, registers: int, shared_bytes: int) -> Occupancy:
    """Return what a multiprocessor of a GPU's target holds.

    Args:
        target: Of a GPU.
        threads: Of a block.
        registers: Of a thread.
        shared_bytes: Of a block, static and dynamic, without what the system reserves.

    >>> from gridstone.lower.target import parse_target
    >>> occupancy(parse_target("cuda:sm_90a"), 256, 80, 50 << 10)
    Occupancy(blocks=3, share=0.375, bound_by='registers')
    """
    most_warps, most_blocks = _MOST[arch_number(target)]
    warps = -(-threads // _WARP)
    a_warp = _up(max(registers, 1) * _WARP, _REGISTERS_AT_ONCE)
    in_registers = REGISTER_FILE // _PARTS // a_warp * _PARTS
    a_block = _up(shared_bytes + RESERVED, _SHARED_AT_ONCE)
    bounds = {
        "registers": in_registers // warps,
        "shared memory": (target.l1_bytes + RESERVED) // a_block,
        "warps": most_warps // warps,
        "blocks": most_blocks,
    }
    bound_by = min(bounds, key=lambda name: bounds[name])
    return Occupancy(bounds[bound_by], bounds[bound_by] * warps / most_warps, bound_by)


def arch_number(target: Target) -> int:
    """Return the number of a GPU's architecture.

    >>> from gridstone.lower.target import parse_target
    >>> arch_number(parse_target("cuda:sm_90a"))
    90
    """
    return int("".join(re.findall(r"\d", target.arch)))


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
