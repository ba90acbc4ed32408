"""What a hot call costs beside the bare kernel: `gridstone.linear` against the C entry point with ready arguments.

    python -m bench.dispatch

One thread, a problem small enough that the rest of the call shows. Rounds alternate; the median of the differences.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import gridstone
from bench.machine import describe
from gridstone.kernel_cache.make import build
from gridstone.lower.target import parse_target
from gridstone.runtime.dispatch import DISPATCHER

CALLS = 2000
LINE_US = 8.0


def per_call(run: Callable[[], object]) -> float:
    """Return microseconds per call."""
    start = time.perf_counter()
    for _ in range(CALLS):
        run()
    return (time.perf_counter() - start) / CALLS * 1e6


def bare(x: torch.Tensor, packed: torch.Tensor, y: torch.Tensor) -> Callable[[], object]:
    """Return a call of the C entry point of the kernel bound last, its arguments made beforehand."""
    chosen = DISPATCHER.chosen()[-1]
    source = chosen.kernel.source
    library = ctypes.CDLL(str(build(source, parse_target(chosen.target))))
    entry, size = getattr(library, source.entry), getattr(library, source.launch.scratch_entry)
    size.argtypes, size.restype = [ctypes.c_int64, ctypes.c_int64], ctypes.c_int64
    scratch = torch.empty(max(1, size(x.shape[0], 1)), dtype=torch.uint8)
    integer, pointer = ctypes.c_int64, ctypes.c_void_p
    arguments = (
        pointer(x.data_ptr()), integer(x.stride(0)), pointer(packed.data_ptr()), pointer(None), pointer(None),
        integer(0),
        pointer(y.data_ptr()), integer(y.stride(0)), integer(x.shape[0]), integer(1), pointer(scratch.data_ptr()),
    )  # fmt: skip
    entry.restype = None

    def run(scratch: torch.Tensor = scratch) -> object:
        return entry(*arguments)

    return run


def main() -> None:
    """Print the cost of a call, and of the same through the dispatcher op."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--out", default="")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    w = gridstone.quantize(torch.randn(64, 128).to(torch.bfloat16), "int4")
    x = torch.randn(1, 128).to(torch.bfloat16)
    y = gridstone.linear(x, w)
    kernel = bare(x, w.packed, y)
    op, key = torch.ops.gridstone.linear, f"{w.key}||exact"
    contestants: dict[str, Callable[[], object]] = {
        "gridstone.linear": lambda: gridstone.linear(x, w),
        "torch.ops.gridstone.linear": lambda: op(x, w.packed, None, None, key),
        "F.linear on a QuantTensor": lambda: torch.nn.functional.linear(x, w),
    }
    over: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(arguments.rounds):
        for name, call in contestants.items():
            base = per_call(kernel)
            over[name].append(per_call(call) - base)
    print(f"over the bare kernel, microseconds a call (line: {LINE_US} for gridstone.linear)")
    for name, samples in over.items():
        print(f"  {name:<28} {statistics.median(samples):6.2f}   least {min(samples):6.2f}")
    if arguments.out:
        rows = {name: [round(s, 3) for s in samples] for name, samples in over.items()}
        Path(arguments.out).write_text(json.dumps({"machine": describe(), "over_us": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
