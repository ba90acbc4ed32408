"""Limits of the machine at hand, measured: what a kernel's time is reported as a share of.

They are measured in the same round as the kernel, since a shared machine changes its speed between rounds. No way of
reading is the fastest on every CPU, nor with every number of threads: all are tried once, and the best few each round.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from gridstone.ir.errors import BuildError
from gridstone.kernel_cache.host import host_target
from gridstone.kernel_cache.key import Key
from gridstone.kernel_cache.make import TOOLCHAINS, default_store
from gridstone.lower.target import Language
from gridstone.templates.render import environment
from gridstone.templates.source import Launch, Origin, Source

MIB = 1 << 20
HUGE_PAGE = 2 * MIB
ARENA = 256 * MIB  # far more than any last-level cache of the field holds
LINE = 64  # bytes that are read at a time
CHAINS = 20  # independent multiply-adds of one round
ROUNDS = 100_000
CALIBRATION = 3  # rounds that choose the ways
KEPT = 3  # ways that are measured each time, the best one counting


@dataclass(frozen=True, slots=True)
class Way:
    """A way of reading memory.

    Args:
        streams: Runs that a thread reads side by side: 1, 2, 4 or 8.
        ahead: Bytes that each run is asked for ahead; 0 leaves it to the CPU.
        past_caches: Whether what is asked for shall leave the caches again at once.
    """

    streams: int
    ahead: int
    past_caches: bool = False

    def __str__(self) -> str:
        hint = f"{self.ahead} bytes ahead{', past the caches' if self.past_caches else ''}"
        return f"{self.streams} streams, {hint if self.ahead else 'no prefetch'}"


WAYS = (
    *(Way(streams, 0) for streams in (1, 2, 4, 8)),
    *(Way(1, ahead) for ahead in (4096, 8192, 16384)),
    *(Way(2, ahead) for ahead in (2048, 8192)),
    *(Way(streams, ahead) for streams in (4, 8) for ahead in (1024, 4096)),
    *(Way(streams, 4096, past_caches=True) for streams in (1, 4)),
)


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
    library.gs_read.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 5]
    library.gs_read.restype = ctypes.c_uint64
    for name in ("gs_f32_peak", "gs_bf16_peak"):
        entry = getattr(library, name)
        entry.argtypes, entry.restype = [ctypes.c_int64, ctypes.c_int64], ctypes.c_float
    return library


def arena(size: int = ARENA, *, huge: bool = True) -> torch.Tensor:
    """Return resident memory of its own to read, uint8, on huge pages where Linux gives them: fewer of them miss.

    Args:
        size: Bytes.
        huge: Whether huge pages are asked for; otherwise they are declined.
    """
    # Private: pages that processes could share are huge on hardly any system.
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
    memory = mmap.mmap(-1, size + HUGE_PAGE, **private)
    advice = getattr(mmap, "MADV_HUGEPAGE" if huge else "MADV_NOHUGEPAGE", None)
    if advice is not None:
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(advice)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    start = -whole.data_ptr() % HUGE_PAGE
    return whole[start : start + size].fill_(1)


def read(buffer: torch.Tensor, threads: int, way: Way) -> int:
    """Read a buffer once; return the exclusive or of its 64-bit words.

    Args:
        buffer: Contiguous uint8; its last bytes beyond a multiple of 64 are not read.
        threads: Threads that read, a part of it each.
        way: How.
    """
    bytes_read = buffer.numel() // LINE * LINE
    return _library().gs_read(buffer.data_ptr(), bytes_read, threads, way.streams, way.ahead, way.past_caches)


def read_figures(
    buffer: torch.Tensor,
    threads: int,
    rounds: int,
    ways: tuple[Way, ...] = WAYS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Way, list[float]]:
    """Return bytes per second by way and round, each over the whole buffer; the ways take turns.

    Args:
        buffer: From `arena`: larger than the caches, or a way finds what the one before has left there.
        threads: Threads that read.
        rounds: How many; one before them warms up.
        ways: Those to measure.
        clock: In seconds.
    """
    figures: dict[Way, list[float]] = {way: [] for way in ways}
    for at in range(-1, rounds):
        for way in ways:
            start = clock()
            read(buffer, threads, way)
            took = clock() - start
            if at >= 0:
                figures[way].append(buffer.numel() / took)
    return figures


@functools.cache
def fastest_ways(threads: int) -> tuple[Way, ...]:
    """Return the best few ways of reading with a number of threads, found out once per process."""
    figures = read_figures(arena(), threads, CALIBRATION)
    return tuple(sorted(figures, key=lambda way: -max(figures[way]))[:KEPT])


def read_bandwidth(buffer: torch.Tensor, threads: int) -> float:
    """Return bytes per second of reading a buffer, a part of it in each of the best few ways, the best one counting.

    Args:
        buffer: uint8, a part of an `arena`, and not read since it was last evicted from the caches.
        threads: Threads that read.
    """
    ways = fastest_ways(threads)
    part, best = buffer.numel() // len(ways) // LINE * LINE, 0.0
    for at, way in enumerate(ways):
        piece = buffer[at * part : (at + 1) * part]
        start = time.perf_counter()
        read(piece, threads, way)
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
