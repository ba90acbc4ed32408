"""Peak memory of an int4 layer at work: packed weights, activations, and at most 64 MiB.

    python -m bench.memory

Each case runs in a process of its own, on every way that the layer can be computed: the kernel that the dispatcher
binds, and the library call that it falls back to. The peak is the resident set's high-water mark of the call.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

import gridstone
from bench.machine import describe
from gridstone.ir.format import parse_format
from gridstone.ir.storage import storage
from gridstone.runtime.dispatch import DISPATCHER
from gridstone.runtime.tensors import QuantTensor

CASES = ((14336, 4096, 1), (14336, 4096, 256), (4096, 14336, 256))
LINE_BYTES = 64 << 20
STATUS = Path("/proc/self/status")


def resident(field: str) -> int:
    """Return a figure of this process in bytes: `VmRSS` now, `VmHWM` at most so far."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) << 10


def extra_bytes(n: int, k: int, m: int, target: str) -> int:
    """Return the bytes that a call adds to weights and activations at its peak, the kernel's code included."""
    place = storage("lane16", parse_format("int4:g128:bf16"), n, k)
    w = QuantTensor(torch.zeros(place.bytes, dtype=torch.uint8), "int4:g128:bf16", "lane16", n, k, torch.bfloat16)
    x, small = torch.ones(m, k, dtype=torch.bfloat16), gridstone.quantize(torch.ones(64, 128).bfloat16(), "int4")
    key = f"||exact|off|{target}"
    DISPATCHER.linear(torch.ones(1, 128).bfloat16(), small.packed, None, None, small.key + key)  # imports, OpenMP
    w.packed.random_(0, 2)  # resident before the call
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    y = DISPATCHER.linear(x, w.packed, None, None, w.key + key)
    return resident("VmHWM") - before - y.numel() * y.element_size()


def main() -> None:
    """Print one row a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="", help=argparse.SUPPRESS)
    parser.add_argument("--out", default="")
    arguments = parser.parse_args()
    if arguments.case:
        n, k, m, target = arguments.case.split(",")
        torch.set_grad_enabled(False)
        print(extra_bytes(int(n), int(k), int(m), target))
        return
    rows: list[dict[str, object]] = []
    for n, k, m in CASES:
        for target in ("auto", "library:torch"):
            command = [sys.executable, "-m", "bench.memory", "--case", f"{n},{k},{m},{target}"]
            extra = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            rows.append({"n": n, "k": k, "m": m, "target": target, "extra_bytes": extra})
            mark = "ok " if extra <= LINE_BYTES else "OVER"
            print(f"{n:>6} x {k:<6} M={m:<4} {target:<14} {extra / 2**20:6.1f} MiB beside its tensors {mark}")
    if arguments.out:
        Path(arguments.out).write_text(json.dumps({"machine": describe(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
