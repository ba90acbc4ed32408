"""What the machine reads and multiplies at most: every way of reading, on huge pages and on small ones.

    python -m bench.limits                   # one and two threads, about 20 seconds
    python -m bench.limits --threads 1 --rounds 50

The ways take turns on 256 MB, in a process of its own for each number of threads, which are pinned. The largest figure
of a way is what it can do; the middle one tells how quiet the machine was. The largest of the table is the limit.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.machine import describe
from gridstone.tuner.limits import WAYS, arena, fastest_ways, peak_flops, read_figures

PEAKS = {"f32 multiply-adds": False, "bf16 dot": True}
PAGES = {"huge": True, "small": False}


@dataclass(frozen=True)
class Figures:
    """The figures of one number of threads, by round: bytes/s by pages and way, flops/s by instruction."""

    threads: int
    read: dict[str, dict[str, list[float]]]
    peak: dict[str, list[float]]
    chosen: list[str]


def measure(threads: int, rounds: int) -> Figures:
    """Measure one number of threads in this process."""
    reads = {name: read_figures(arena(huge=huge), threads, rounds) for name, huge in PAGES.items()}
    return Figures(
        threads,
        {name: {str(way): row for way, row in figures.items()} for name, figures in reads.items()},
        {name: [peak_flops(threads, bf16=bf16) for _ in range(rounds)] for name, bf16 in PEAKS.items()},
        [str(way) for way in fastest_ways(threads)],
    )


def show(row: Figures) -> str:
    """Return the table of one number of threads."""
    lines = [f"{row.threads} threads, read in GB/s{'':<22}" + "".join(f"{name + ' pages':>24}" for name in PAGES)]
    for way in map(str, WAYS):
        cells = [
            f"{max(row.read[name][way]) / 1e9:12.1f} ({statistics.median(row.read[name][way]) / 1e9:6.1f} )"
            for name in PAGES
        ]
        lines.append(f"  {way:<44}" + "".join(f"{cell:>24}" for cell in cells))
    limit = max(max(figures) for pages in row.read.values() for figures in pages.values())
    lines.append(f"  limit: {limit / 1e9:.1f} GB/s; used beside kernels: {'; '.join(row.chosen)}")
    lines += [f"  {name}: {max(row.peak[name]) / 1e9:.1f} Gflop/s" for name in PEAKS]
    return "\n".join(lines)


def main() -> None:
    """Measure each number of threads in a process of its own and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", default="", help="file of results; none by default")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inner:
        print(json.dumps(asdict(measure(int(arguments.threads), arguments.rounds))))
        return
    rows: list[Figures] = []
    print("largest figure of each way, and (median)")
    for threads in arguments.threads.split(","):
        cpus = " ".join(str(cpu) for cpu in range(int(threads)))
        pinned = {"OMP_NUM_THREADS": threads, "GOMP_CPU_AFFINITY": cpus, "OMP_WAIT_POLICY": "active"}
        command = [sys.executable, "-m", "bench.limits", "--inner", "--threads", threads]
        command += ["--rounds", str(arguments.rounds)]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | pinned, check=True)
        rows.append(Figures(**json.loads(run.stdout)))
        print(show(rows[-1]), flush=True)
    if arguments.out:
        Path(arguments.out).write_text(
            json.dumps({"machine": describe(), "rows": [asdict(row) for row in rows]}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
