"""Everything that needs a GPU, in one command: is it right, is it fast, and what would run where there is none.

    python -m bench.gpu --check --out results       # every recipe against float64: ragged shapes, drawn schedules
    python -m bench.gpu --bench --out results       # times beside cuBLAS and beside the card's measured limits
    python -m bench.gpu --check --bench --dry-run   # builds all of it and launches nothing; needs no GPU
    python -m bench.gpu --predict                   # the cost model's best schedules for the benchmark; needs no GPU
    python -m bench.gpu --table --write docs/gpu.md # what the compiler made of every recipe; needs no GPU

It needs torch, NumPy, Jinja, CuPy, and NVRTC or Triton for what it builds; neither a tuner nor a cache. A call begins
nothing new after `--seconds`, and the same command goes on where it stopped: each result is written at once, as a line
of JSON, and not sought again. Kernels run one by one in a process of their own; one that hangs, or takes the GPU's
context with it, costs its own result and no other. Figures are samples over replays of a CUDA graph in which each call
has a weight of its own, 256 MB of them together. A share is the floor over the median, the floor being the larger of
bytes over measured bandwidth and flops over the measured bf16 rate.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import gridstone
from bench.gpu_bench import bench
from bench.gpu_check import check
from bench.gpu_jobs import BENCH_ROWS, SHAPES, bench_jobs, check_jobs, targets_for, until
from bench.gpu_log import Log
from bench.gpu_predict import lines as predicted_lines
from bench.gpu_predict import plain, predicted_rows
from bench.gpu_table import replaced, table
from bench.gpu_worker import WorkerError
from gridstone.kernel_cache.gpu import gpu_name, why_not_here
from gridstone.lower.target import Target, parse_target

DRY = "triton:sm_90,cuda:sm_90a"  # what is built or predicted for where no target is given and no GPU is there


def describe(targets: Sequence[Target], dry: bool) -> dict[str, object]:
    """Return the machine as plain JSON values."""
    live = torch.cuda.is_available()
    return {
        "gpu": gpu_name() or "none",
        "capability": list(torch.cuda.get_device_capability()) if live else [],
        "multiprocessors": torch.cuda.get_device_properties(0).multi_processor_count if live else 0,
        "targets": [str(target) for target in targets],
        "dry_run": dry,
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "gridstone": gridstone.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def parse() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--bench", action="store_true")
    parser.add_argument("--predict", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--dry-run", action="store_true", help="build everything, launch nothing")
    parser.add_argument("--target", default="", help="such as cuda:sm_90a; those of the GPU at hand when omitted")
    parser.add_argument("--recipe", default="", help="part of a recipe's name")
    parser.add_argument(
        "--spec", action="append", default=[], help="to check, with M rows; all of its samples if omitted"
    )
    parser.add_argument("--samples", type=int, default=3, help="schedules to draw for each recipe and problem")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--shape", default="", help="N x K, such as 4096x4096,14336x4096")
    parser.add_argument("--m", default=",".join(map(str, BENCH_ROWS)))
    parser.add_argument("--dtype", default="bf16", choices=("bf16", "f16"))
    parser.add_argument("--most", type=int, default=0, help="schedules to predict for each recipe and problem; 0: all")
    parser.add_argument("--seconds", type=float, default=480.0, help="after which nothing new is begun")
    parser.add_argument("--out", type=Path, default=None, help="folder for the results; what is there is not redone")
    parser.add_argument("--resume", type=Path, default=None, help="another folder with results of an earlier call")
    parser.add_argument("--write", type=Path, default=None, help="page whose table is replaced by that of --table")
    return parser.parse_args()


def main() -> None:
    """Run what was asked for; the short tables come last."""
    asked = parse()
    if asked.table:
        lines = table(asked.recipe)
        print("\n".join(lines))
        if asked.write:
            asked.write.write_text(replaced(asked.write.read_text(), lines))
        return
    if not (asked.check or asked.bench or asked.predict):
        sys.exit("give --check, --bench, --predict or --table")
    live = torch.cuda.is_available()
    if asked.target or not live:
        targets = tuple(map(parse_target, (asked.target or DRY).split(",")))
    else:
        targets = targets_for(torch.cuda.get_device_capability())
    shapes = [(int(n), int(k)) for n, k in (part.split("x") for part in asked.shape.split(",") if part)] or SHAPES
    rows = list(map(int, asked.m.split(",")))
    if asked.predict:
        found = list(predicted_rows(targets, shapes, rows, asked.dtype, asked.most, asked.recipe))
        _write(asked.out, "predict.json", [plain(row) for row in found])
        print("\n".join(predicted_lines(found, targets)))
        return
    reasons = {str(target): why_not_here(target) for target in targets}
    if not asked.dry_run and any(reasons.values()):
        sys.exit("; ".join(f"{name} does not run here: {why}" for name, why in reasons.items() if why))
    _write(asked.out, "machine.json", describe(targets, asked.dry_run))
    proceed = until(asked.seconds)
    lines: list[str] = []
    wrong = False
    if asked.check:
        jobs = check_jobs(targets, asked.samples, asked.seed, asked.recipe, asked.spec)
        tally = check(jobs, _log(asked, "check"), proceed, asked.dry_run)
        lines += tally.lines()
        wrong |= bool(tally.wrong)
    if asked.bench:
        jobs = bench_jobs(targets, shapes, rows, asked.dtype, asked.recipe)
        try:
            figures = bench(jobs, _log(asked, "bench"), asked.dtype, proceed, asked.dry_run)
            lines += figures.lines()
            wrong |= bool(figures.wrong)
        except WorkerError as error:
            lines.append(f"the card could not be measured: {error}")
            wrong = True
    print("\n".join(lines))
    if wrong:
        sys.exit(1)


def _log(asked: argparse.Namespace, name: str) -> Log:
    """Return the log of one kind; that of a dry run is none of results."""
    file = f"{name}.dry.jsonl" if asked.dry_run else f"{name}.jsonl"
    return Log(asked.out / file if asked.out else None, asked.resume / file if asked.resume else None)


def _write(folder: Path | None, name: str, value: object) -> None:
    """Write a result as a JSON file, where a folder is given."""
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
