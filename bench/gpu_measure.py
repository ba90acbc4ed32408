"""Measuring on a GPU: what the card can do at most, and calls timed by replaying CUDA graphs over rotating weights."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from bench.gpu_jobs import Ready
from gridstone.ir.storage import storage
from gridstone.kernel_cache.driver_cuda import live_driver
from gridstone.kernel_cache.launch_cuda import bind
from gridstone.proof.operands import random_packed

ROTATE = 256 << 20  # bytes of weights that each contestant walks through: several times the largest cache
COPY, SIDE = 4 << 30, 8192  # bytes of the copy, and side of the matrix product, that ceilings are measured with
ROUNDS = 15


@dataclass(frozen=True)
class Ceilings:
    """What the card was measured to do: bytes/s of a large copy, read and written, and flop/s of a bf16 product."""

    bandwidth: float
    bf16_flops: float

    def floor(self, size: int, flops: int) -> float:
        """Return the seconds below which nothing that moves and computes this much can be."""
        return max(size / self.bandwidth, flops / self.bf16_flops)


@dataclass(frozen=True)
class Figure:
    """One contestant on one problem.

    Args:
        name: Recipe, or `cublas`.
        target, schedule: Empty for the library.
        n, k, m: Of the problem.
        seconds: Of a call, one sample for each replay of the graph.
        floor: Seconds, by its own compulsory bytes and flops.
        error: Why there is none.
    """

    name: str
    target: str
    schedule: str
    n: int
    k: int
    m: int
    seconds: tuple[float, ...]
    floor: float
    error: str = ""

    @property
    def median(self) -> float:
        """Seconds of a call."""
        return statistics.median(self.seconds)


def _elapsed(run: Callable[[], object], rounds: int) -> list[float]:
    """Return the seconds of each run, by events of the device."""
    for _ in range(3):
        run()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(rounds)]
    for start, end in events:
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in events]


def measure_ceilings() -> Ceilings:
    """Measure the card; it takes a second and 8 GiB."""
    return Ceilings(2 * COPY / statistics.median(_copies()), 2 * SIDE**3 / statistics.median(_products()))


def _copies() -> list[float]:
    read = torch.randint(0, 256, (COPY,), dtype=torch.uint8, device="cuda")
    written = torch.empty_like(read)
    return _elapsed(lambda: written.copy_(read), ROUNDS)


def _products() -> list[float]:
    a, b = (torch.randn(SIDE, SIDE, device="cuda").bfloat16() for _ in range(2))
    c = torch.empty_like(a)
    return _elapsed(lambda: torch.matmul(a, b, out=c), ROUNDS)


def time_graph(calls: Sequence[Callable[[], object]], rounds: int = ROUNDS) -> tuple[float, ...]:
    """Return the seconds of one of these calls, once for each replay of a graph that makes all of them.

    Args:
        calls: Each on weights of its own.
        rounds: Replays that are timed.
    """
    for call in calls[:3]:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return tuple(seconds / len(calls) for seconds in _elapsed(graph.replay, rounds))


def time_kernel(ready: Ready, ceilings: Ceilings) -> Figure:
    """Time a built kernel over copies of its weight."""
    job = ready.job
    spec, w = job.spec, job.spec.input("w")
    (m, k), n = (job.spec.input("x").static(0), job.spec.input("x").static(1)), w.static(0)
    assert w.format is not None
    assert ready.source is not None
    assert ready.artefact is not None
    place = storage(w.storage, w.format, n, k)
    call = bind(ready.artefact, ready.source, spec, live_driver())
    x = torch.randn(m, k, device="cuda").to(getattr(torch, spec.input("x").dtype.torch))
    y = torch.empty(m, n, dtype=getattr(torch, spec.output.dtype.torch), device="cuda")
    packed = random_packed(place).cuda()
    weights = [packed.clone() for _ in range(max(2, -(-ROTATE // place.bytes)))]
    cost = spec.op.cost(spec)
    seconds = time_graph([lambda w=weight: call(x, w, out=y) for weight in weights])
    schedule = ready.source.origin.schedule
    return Figure(job.recipe.name, str(job.target), schedule, n, k, m, seconds, ceilings.floor(cost.bytes, cost.flops))


def time_library(n: int, k: int, m: int, dtype: torch.dtype, ceilings: Ceilings) -> Figure:
    """Time torch's product (cuBLAS) with a plain weight of the activations' dtype."""
    x = torch.randn(m, k, device="cuda").to(dtype)
    plain = torch.randn(n, k, device="cuda").to(dtype)
    weights = [plain.clone() for _ in range(max(2, -(-ROTATE // (n * k * 2))))]
    seconds = time_graph([lambda w=weight: F.linear(x, w) for weight in weights])
    return Figure("cublas", "", "", n, k, m, seconds, ceilings.floor(2 * (n * k + m * k + m * n), 2 * m * n * k))
