"""Measuring on a GPU: what the card can do at most, and calls timed by replaying CUDA graphs over rotating weights."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from bench.gpu_requests import Ceilings
from gridstone.ir.spec import Spec
from gridstone.ir.storage import storage
from gridstone.kernel_cache.toolchain import Call
from gridstone.proof.operands import random_packed

ROTATE = 256 << 20  # bytes of weights that each contestant walks through: several times the largest cache
COPY, SIDE = 4 << 30, 8192  # bytes of the copy, and side of the matrix product, that ceilings are measured with
ROUNDS = 15


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


def time_kernel(call: Call, spec: Spec) -> tuple[float, ...]:
    """Time a kernel over copies of its weight.

    Args:
        call: Of tensors on the GPU.
        spec: Static, storages resolved, without an epilogue.
    """
    w = spec.input("w")
    (m, k), n = (spec.input("x").static(0), spec.input("x").static(1)), w.static(0)
    assert w.format is not None
    place = storage(w.storage, w.format, n, k)
    x = torch.randn(m, k, device="cuda").to(getattr(torch, spec.input("x").dtype.torch))
    y = torch.empty(m, n, dtype=getattr(torch, spec.output.dtype.torch), device="cuda")
    packed = random_packed(place).cuda()
    weights = [packed.clone() for _ in range(max(2, -(-ROTATE // place.bytes)))]
    return time_graph([lambda w=weight: call(x, w, out=y) for weight in weights])


def time_library(n: int, k: int, m: int, dtype: torch.dtype) -> tuple[float, ...]:
    """Time torch's product (cuBLAS) with a plain weight of the activations' dtype."""
    x = torch.randn(m, k, device="cuda").to(dtype)
    plain = torch.randn(n, k, device="cuda").to(dtype)
    weights = [plain.clone() for _ in range(max(2, -(-ROTATE // (n * k * 2))))]
    return time_graph([lambda w=weight: F.linear(x, w) for weight in weights])
