"""Limits of the machine at hand, measured: what a kernel's time is reported as a share of.

They are measured in the same round as the kernel, since a shared machine changes its speed between rounds.
"""

from __future__ import annotations

import ctypes
import functools
import time
from dataclasses import dataclass

import torch

from gridstone.ir.errors import BuildError
from gridstone.kernel_cache.host import host_target
from gridstone.kernel_cache.key import Key
from gridstone.kernel_cache.make import TOOLCHAINS, default_store
from gridstone.lower.target import Language
from gridstone.templates.render import environment
from gridstone.templates.source import Launch, Origin, Source

CHAINS = 20  # independent multiply-adds of one round
# Ways of reading, as (streams a thread, bytes asked for ahead). None is the fastest everywhere: the best counts.
WAYS = ((1, 8192), (1, 16384), (2, 0))
ROUNDS = 100_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What the machine did at most, just now, with a number of threads.

    Args:
        bandwidth: Bytes per second read from memory.
        f32_flops, bf16_flops: Multiply-add flops per second from registers; 0 where there is no such instruction.
    """

    bandwidth: float
    f32_flops: float
    bf16_flops: float


@functools.cache
def _library() -> ctypes.CDLL:
    target, chain = host_target(), TOOLCHAINS[Language.CPP]
    missing = chain.missing()
    if missing:
        raise BuildError(f"the machine's limits cannot be measured: {missing}", "run `gridstone doctor`")
    width = max(16, target.vector_bits // 8)
    text = environment(Language.CPP).get_template("limits/limits.cpp.j2").render(vec_bytes=width)
    origin = Origin("limits", "", "limits", "", str(target))
    source = Source(text, Language.CPP, "gs_read", (), Launch("", deterministic=True), origin)
    key = Key("cpp", (*chain.identity(target), ("target", str(target)), ("entry", "gs_read"), ("text", text)))
    path = default_store().get_or_build(key, lambda: chain.build(source, target), chain.suffix).path
    library = ctypes.CDLL(str(path))
    library.gs_read.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 4]
    library.gs_read.restype = ctypes.c_uint64
    for name in ("gs_f32_peak", "gs_bf16_peak"):
        entry = getattr(library, name)
        entry.argtypes, entry.restype = [ctypes.c_int64, ctypes.c_int64], ctypes.c_float
    return library


def read_bandwidth(buffer: torch.Tensor, threads: int) -> float:
    """Return bytes per second of reading a buffer, a part of it in each of a few ways, the best one counting.

    Args:
        buffer: uint8, much larger than the caches, and not read since it was last evicted.
        threads: Threads that read.
    """
    library, part = _library(), buffer.numel() // len(WAYS)
    best = 0.0
    for at, (streams, ahead) in enumerate(WAYS):
        start = time.perf_counter()
        library.gs_read(buffer.data_ptr() + at * part, part, threads, streams, ahead)
        best = max(best, part / (time.perf_counter() - start))
    return best


def peak_flops(threads: int, *, bf16: bool) -> float:
    """Return flops per second of multiply-adds on registers."""
    library, target = _library(), host_target()
    if bf16 and not target.bf16_flops:
        return 0.0
    lanes = max(16, target.vector_bits // 8) // 4
    flops = ROUNDS * CHAINS * lanes * (4 if bf16 else 2) * threads
    entry = library.gs_bf16_peak if bf16 else library.gs_f32_peak
    start = time.perf_counter()
    entry(ROUNDS, threads)
    return flops / (time.perf_counter() - start)


def measure_limits(buffer: torch.Tensor, threads: int) -> Limits:
    """Measure all limits once."""
    return Limits(read_bandwidth(buffer, threads), peak_flops(threads, bf16=False), peak_flops(threads, bf16=True))
