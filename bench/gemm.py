"""int4 linear layers on the CPU: Gridstone beside torch's bf16 and int4 paths, and beside the machine's limits.

    python -m bench.gemm                     # all shapes, both thread counts, about 20 minutes
    python -m bench.gemm --threads 1 --m 1   # a part of it
    python -m bench.gemm --tune 60           # tune every problem for 60 s first, and bench the winner too

Weights rotate over at least 256 MB, so that each call reads them from memory. One round times every contestant once,
between two measurements of the limits; a share is formed within its round, and the median over the rounds is shown.
No kernel can be faster than its floor: the longer of reading the weights and doing the products at the machine's rates.
A round in which the peak fell by 8 % (somebody else had the cores) does not count. Threads are pinned.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F

from bench.machine import describe
from gridstone.ir.format import parse_format
from gridstone.ir.pages import zeroed
from gridstone.ir.storage import storage
from gridstone.ir.text import parse_spec, print_spec
from gridstone.kernel_cache.host import LIBRARY, host_target
from gridstone.kernel_cache.make import make_kernel
from gridstone.lower.bucket import problem
from gridstone.lower.schedule import parse_schedule
from gridstone.proof.operands import random_packed
from gridstone.templates.registry import default_recipe, recipe_named
from gridstone.tuner.job import tune
from gridstone.tuner.limits import arena, peak_flops, read_bandwidth

T = TypeVar("T")
SHAPES = ((4096, 4096), (14336, 4096), (4096, 14336))
ROWS = (1, 4, 16, 64, 256)
ROTATE = 272 << 20  # bytes of weights that each contestant walks through
GROUP = 128
LINES = {1: ("read", 0.85), 4: ("read", 0.70), 16: ("dot", 0.70), 64: ("dot", 0.80), 256: ("dot", 0.80)}


@dataclass
class Contestant:
    """One way to compute the layer: a call on the next set of weights, and its samples."""

    name: str
    call: Callable[[], object]
    seconds: list[float] = field(default_factory=list)
    read: list[float] = field(default_factory=list)
    dot: list[float] = field(default_factory=list)


def rotating(call: Callable[[T], object], weights: list[T], start: int) -> Callable[[], object]:
    """Return a call that takes the next weight each time."""
    at = start

    def run() -> object:
        nonlocal at
        at = (at + 1) % len(weights)
        return call(weights[at])

    return run


def on_huge_pages(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy in memory such as packed weights have."""
    held = torch.from_numpy(zeroed(tensor.numel() * tensor.element_size()))
    return held.view(tensor.dtype).view(tensor.shape).copy_(tensor)


def contestants(n: int, k: int, m: int, threads: int, tune_seconds: float) -> tuple[list[Contestant], int]:
    """Return the contestants of a problem, and the bytes of one packed weight."""
    bf16 = torch.bfloat16
    x = torch.randn(m, k).to(bf16)
    y = torch.empty(m, n, dtype=bf16)
    place = storage("lane16", parse_format(f"int4:g{GROUP}:bf16"), n, k)
    copies = -(-ROTATE // place.bytes)
    packed = [random_packed(place) for _ in range(copies)]
    found: list[Contestant] = []
    for numerics in ("exact", "bf16"):
        spec = parse_spec(f"gemm[x: bf16({m},{k}), w: int4:g{GROUP}:bf16@lane16({n},{k})]; {numerics}")
        recipe = default_recipe(spec, host_target())
        assert recipe is not None
        kernel = make_kernel(recipe, spec, recipe.space.default(spec, host_target()), host_target())
        call = kernel.call
        found.append(Contestant(f"{numerics} default", rotating(lambda w, f=call: f(x, w, out=y), packed, 0)))
        if tune_seconds:
            winner = tune(
                problem(spec, m), (host_target(), LIBRARY), budget_seconds=tune_seconds, threads=threads
            ).winner
            if winner.target != str(LIBRARY):
                best = recipe_named(winner.recipe)
                schedule = parse_schedule(winner.schedule, best.schedule, best.space.default(spec, host_target()))
                call = make_kernel(best, spec, schedule, host_target()).call
                found.append(Contestant(f"{numerics} tuned", rotating(lambda w, f=call: f(x, w, out=y), packed, 3)))
            print(f"  {print_spec(problem(spec, m))}: {winner.recipe} {winner.schedule}", file=sys.stderr)
    plain = [on_huge_pages(torch.randn(n, k).to(bf16)) for _ in range(max(2, -(-ROTATE // (n * k * 2))))]
    found.append(Contestant("torch bf16", rotating(lambda w: F.linear(x, w), plain, 0)))
    first = torch.ops.aten._convert_weight_to_int4pack_for_cpu(torch.randint(0, 16, (n, k), dtype=torch.int32), 1)
    int4 = [on_huge_pages(first) for _ in range(-(-ROTATE // (n * k // 2)))]
    scales = torch.full((k // GROUP, n, 2), 0.01, dtype=bf16)
    if m <= 64:  # at 256 rows it takes half a second a call and is 2.5 times slower than torch bf16
        op = torch.ops.aten._weight_int4pack_mm_for_cpu
        found.append(Contestant("torch int4", rotating(lambda w: op(x, w, GROUP, scales), int4, 0)))
    return found, place.bytes


def in_a_row(call: Callable[[], object]) -> int:
    """Return how many calls to time at once: two, or 4 ms, since the first finds the interpreter outside the caches."""
    call()
    start = time.perf_counter()
    call()
    return max(2, min(16, round(0.004 / (time.perf_counter() - start))))


def measure(
    n: int, k: int, m: int, threads: int, rounds: int, seconds: float, tune_seconds: float
) -> dict[str, object]:
    """Measure one problem and return its row."""
    entrants, weight_bytes = contestants(n, k, m, threads, tune_seconds)
    parts = arena(ROTATE).split(ROTATE // 4)
    flops = 2 * m * n * k
    best = max(peak_flops(threads, bf16=True) for _ in range(10))
    calls = {entrant.name: in_a_row(entrant.call) for entrant in entrants}
    end, tries, turn = time.perf_counter() + seconds, 0, 0
    while min(len(e.seconds) for e in entrants) < rounds and time.perf_counter() < end:
        for entrant in entrants:
            tries += 1
            entrant.call()
            turn += 1
            bandwidth = read_bandwidth(parts[turn % 4], threads)
            before = peak_flops(threads, bf16=True)
            start = time.perf_counter()
            for _ in range(calls[entrant.name]):
                entrant.call()
            took = (time.perf_counter() - start) / calls[entrant.name]
            after = peak_flops(threads, bf16=True)
            best = max(best, before, after)
            if min(before, after) < 0.92 * best:
                continue
            entrant.seconds.append(took)
            entrant.read.append(weight_bytes / took / bandwidth)
            entrant.dot.append(flops / took / ((before + after) / 2))
    row: dict[str, object] = {
        "n": n,
        "k": k,
        "m": m,
        "threads": threads,
        "kept": sum(len(e.seconds) for e in entrants),
        "tries": tries,
    }
    for entrant in entrants:
        if len(entrant.seconds) < 3:
            row[entrant.name] = None
            continue
        row[entrant.name] = {
            "ms": round(statistics.median(entrant.seconds) * 1e3, 4),
            "read": round(statistics.median(entrant.read), 3),
            "dot": round(statistics.median(entrant.dot), 3),
            "floor": round(statistics.median(map(max, entrant.read, entrant.dot)), 3),
            "samples_ms": [round(s * 1e3, 4) for s in entrant.seconds],
        }
    return row


def show(row: dict[str, object]) -> str:
    """Return one row of the table."""
    what, line = LINES[int(str(row["m"]))]
    peers = [row.get("torch bf16"), row.get("torch int4")]
    fastest = min((p["ms"] for p in peers if isinstance(p, dict)), default=float("nan"))
    cells = [f"{row['n']:>6} {row['k']:>6} {row['threads']}T M={row['m']:<4}"]
    for name in ("exact default", "bf16 default", "exact tuned", "bf16 tuned"):
        entry = row.get(name)
        if isinstance(entry, dict):
            mark = "ok " if entry[what] >= line else "LOW"
            share = f"{entry[what] * 100:5.1f}% {mark} ({entry['floor'] * 100:5.1f}%)"
            cells.append(f"{name} {entry['ms']:8.3f} ms {share} x{fastest / entry['ms']:.2f}")
    for name in ("torch bf16", "torch int4"):
        entry = row.get(name)
        if isinstance(entry, dict):
            cells.append(f"{name} {entry['ms']:8.3f} ms")
    return " | ".join([*cells, f"kept {row['kept']}/{row['tries']}"])


def inner(arguments: argparse.Namespace) -> None:
    """Measure one thread count in this process, whose threads are pinned; rows go to stdout as JSON lines."""
    threads = int(arguments.threads)
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    for n, k in SHAPES:
        if arguments.shape and f"{n}x{k}" not in arguments.shape.split(","):
            continue
        for m in map(int, arguments.m.split(",")):
            row = measure(n, k, m, threads, arguments.rounds, arguments.seconds, arguments.tune)
            print(json.dumps(row), flush=True)


def main() -> None:
    """Run every thread count in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--m", default=",".join(map(str, ROWS)))
    parser.add_argument("--shape", default="", help="for example 4096x4096,14336x4096")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=40.0, help="at most, for one problem")
    parser.add_argument("--tune", type=float, default=0.0, help="seconds of tuning for each problem; 0 for none")
    parser.add_argument("--out", default="", help="file of results; none by default")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inner:
        inner(arguments)
        return
    rows: list[dict[str, object]] = []
    print(
        "share of the read bandwidth (M up to 4) or of the bf16 dot's peak (above), in brackets of the floor, which is"
    )
    print("the longer of reading the weights and the products; and how many times as fast as torch's faster path")
    for threads in arguments.threads.split(","):
        cpus = " ".join(str(cpu) for cpu in range(int(threads)))
        pinned = {"OMP_NUM_THREADS": threads, "GOMP_CPU_AFFINITY": cpus, "OMP_WAIT_POLICY": "active"}
        command = [sys.executable, "-m", "bench.gemm", "--inner", "--threads", threads, "--m", arguments.m]
        command += [
            "--rounds",
            str(arguments.rounds),
            "--seconds",
            str(arguments.seconds),
            "--tune",
            str(arguments.tune),
        ]
        command += ["--shape", arguments.shape]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | pinned) as process:
            assert process.stdout is not None
            for line in process.stdout:
                rows.append(json.loads(line))
                print(show(rows[-1]), flush=True)
        if process.returncode:
            sys.exit(process.returncode)
    if arguments.out:
        Path(arguments.out).write_text(json.dumps({"machine": describe(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
