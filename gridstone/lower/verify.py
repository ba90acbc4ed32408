"""Invariants of a plan, checked after every pass: what a broken one would emit is never rendered."""

from __future__ import annotations

from gridstone.ir.errors import ScheduleError
from gridstone.lower.decisions import (
    Budget,
    Codes,
    Decision,
    Grid,
    RegisterTile,
    Slabs,
    Split,
    StreamTile,
    WeightChunks,
    WeightLayout,
)
from gridstone.lower.plan import Plan
from gridstone.lower.schedule import print_schedule


def verify(plan: Plan) -> None:
    """Check the newest decision against the ones before it.

    Raises:
        ScheduleError: Names the invariant.
    """
    problem = _problem(plan, plan.decisions[-1])
    if problem:
        raise ScheduleError(f"{print_schedule(plan.schedule)} on {plan.target}: {problem}")


def _problem(plan: Plan, decision: Decision) -> str:
    match decision:
        case Codes(bits, _, _) if 32 % bits:
            return f"codes of {bits} bits do not fill a 32-bit word"
        case WeightLayout() if decision.group_k % decision.word_k or decision.padded_k % decision.group_k:
            return "a group is not a whole number of code words, or K not a whole number of groups"
        case WeightLayout() if decision.group_bytes % 64 or decision.block_bytes % 64:
            return "groups and blocks of weights do not start on cache lines"
        case RegisterTile(m_r, n_r) if m_r < 1 or n_r < 1:
            return "an empty register tile"
        case StreamTile(vectors, sums) if min(*vectors, *sums) < 1:
            return "an empty stream tile"
        case Slabs(slab_k) if slab_k % plan.the(WeightLayout).word_k:
            return f"a slab of {slab_k} k is not a whole number of code words"
        case Slabs(slab_k) if slab_k % min(plan.the(WeightLayout).group_k, slab_k):
            return f"a slab of {slab_k} k is not a whole number of groups"
        case Split(k_splits) if k_splits < 1:
            return "K is split into no parts"
        case Budget(registers, _, _) if registers > plan.target.registers:
            return f"the innermost loop needs {registers} vector registers of {plan.target.registers}"
        case WeightChunks() if decision.padded_k % decision.chunk_k or decision.padded_k % decision.groups:
            return "K as stored is not a whole number of chunks and groups"
        case Grid() if decision.shared_bytes > plan.target.l1_bytes:
            return f"a block needs {decision.shared_bytes} bytes of shared memory of {plan.target.l1_bytes}"
        case Grid() if decision.registers > plan.target.registers or decision.threads > 1024:
            return f"{decision.threads} threads of about {decision.registers} registers"
        case _:
            return ""
