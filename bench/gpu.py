"""Everything that needs a GPU, in one command: is it right, is it fast, and what would run where there is none.

    python -m bench.gpu --check --out results     # every recipe against float64 on ragged shapes and drawn schedules
    python -m bench.gpu --bench --out results     # times beside cuBLAS and beside the card's measured limits
    python -m bench.gpu --check --bench --dry-run # builds all of it and launches nothing; needs no GPU
    python -m bench.gpu --table                   # what the compiler made of every recipe, as Markdown; needs no GPU

It needs torch, NumPy, Jinja, CuPy, and NVRTC or Triton for what it builds; neither a tuner nor a cache. Each of
`--check` and `--bench` ends within `--seconds`. Figures are medians over replays of a CUDA graph in which each call has
a weight of its own, 256 MB of them together. A share is the floor over the time, the floor being the larger of bytes
over measured bandwidth and flops over the measured bf16 rate.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import gridstone
from bench.gpu_jobs import BENCH_ROWS, SHAPES, Job, Ready, bench_jobs, build_all, check_jobs, targets_for, until
from bench.gpu_measure import Figure, measure_ceilings, time_kernel, time_library
from bench.gpu_table import table
from gridstone.ir.errors import GridstoneError
from gridstone.ir.text import print_spec
from gridstone.kernel_cache.driver_cuda import live_driver
from gridstone.kernel_cache.gpu import why_not_here
from gridstone.kernel_cache.launch_cuda import bind
from gridstone.kernel_cache.toolchain import Call
from gridstone.lower.target import Target, parse_target
from gridstone.proof.on_gpu import on_gpu
from gridstone.tuner.exam import Case, prepare, sit

DEVICE = "cuda"
DRY = "triton:sm_90,cuda:sm_90a"  # what a dry run builds for where it is not told
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16}
_SHOWN = 12  # failures that are printed


def describe(targets: Sequence[Target]) -> dict[str, object]:
    """Return the machine as plain JSON values."""
    live = torch.cuda.is_available()
    return {
        "gpu": torch.cuda.get_device_name() if live else "none",
        "capability": list(torch.cuda.get_device_capability()) if live else [],
        "multiprocessors": torch.cuda.get_device_properties(0).multi_processor_count if live else 0,
        "targets": [str(target) for target in targets],
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "gridstone": gridstone.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def check(jobs: Sequence[Job], seconds: float, dry: bool) -> dict[str, object]:
    """Build jobs and judge each kernel against float64 on operands of its own rows and of fewer, ragged ones."""
    proceed = until(seconds)
    ready = build_all(jobs, proceed)
    wrong = [{"job": str(one.job), "error": one.error} for one in ready if one.error]
    built = [one for one in ready if not one.error]
    print(f"check: {len(built)} of {len(jobs)} kernels built, {len(wrong)} refused", flush=True)
    if dry:
        return {"built": len(built), "wrong": wrong, "would_run": [str(one.job) for one in built]}
    right: list[dict[str, object]] = []
    late = 0
    for one, cases in _with_cases(built):
        if not proceed():
            late += 1
            continue
        try:
            found = sit(on_gpu(_call(one), torch.device(DEVICE)), cases)
            right.append({"job": str(one.job), "element": found.worst_element, "rms": found.worst_rms})
        except GridstoneError as error:
            wrong.append({"job": str(one.job), "error": str(error)})
        except RuntimeError as error:  # an address that is not the kernel's: the GPU's context is gone
            wrong.append({"job": str(one.job), "error": f"it ended the GPU's context: {error}"})
            proceed = until(0)
    by_recipe = {
        name: sum(name in str(entry["job"]).split() for entry in right)
        for name in sorted({one.job.recipe.name for one in ready})
    }
    return {"built": len(built), "right": right, "wrong": wrong, "late": late, "by_recipe": by_recipe}


def _with_cases(built: Sequence[Ready]) -> Iterator[tuple[Ready, tuple[Case, ...]]]:
    """Yield kernels with the cases of their problem; problems in turn, so that operands and answers are made once."""
    by_problem = sorted(built, key=lambda one: print_spec(one.job.spec))
    for _, group in itertools.groupby(by_problem, key=lambda one: print_spec(one.job.spec)):
        members = list(group)
        cases = prepare(members[0].job.spec, (1, 2))
        for one in members:
            yield one, cases


def _call(one: Ready) -> Call:
    assert one.source is not None
    assert one.artefact is not None
    return bind(one.artefact, one.source, one.job.spec, live_driver())


def bench(jobs: Sequence[Job], dtype: str, seconds: float, dry: bool) -> dict[str, object]:
    """Build jobs and time them beside cuBLAS."""
    proceed = until(seconds)
    ready = build_all(jobs, proceed)
    failed = [{"job": str(one.job), "error": one.error} for one in ready if one.error]
    built = [one for one in ready if not one.error]
    print(f"bench: {len(built)} of {len(jobs)} kernels built, {len(failed)} refused", flush=True)
    if dry:
        return {"built": len(built), "failed": failed, "would_run": [str(one.job) for one in built]}
    ceilings = measure_ceilings()
    figures: list[Figure] = []
    late = 0
    for (n, k, m), group in itertools.groupby(built, key=_shape):
        if not proceed():
            late += 1
            continue
        figures.append(time_library(n, k, m, DTYPES[dtype], ceilings))
        for one in group:
            try:
                figures.append(time_kernel(one, ceilings))
            except GridstoneError as error:
                failed.append({"job": str(one.job), "error": str(error)})
        torch.cuda.empty_cache()
    return {
        "built": len(built),
        "failed": failed,
        "late": late,
        "dtype": dtype,
        "ceilings": [asdict(ceilings), asdict(measure_ceilings())],
        "figures": [asdict(figure) | {"median": figure.median} for figure in figures],
    }


def _shape(one: Ready) -> tuple[int, int, int]:
    x, w = one.job.spec.input("x"), one.job.spec.input("w")
    return w.static(0), w.static(1), x.static(0)


def bench_lines(found: dict[str, Any]) -> list[str]:
    """Return the table of a bench: a line for each figure."""
    if "would_run" in found:
        return [f"would time {job}" for job in found["would_run"]]
    rows = found["figures"]
    library = {(row["n"], row["k"], row["m"]): row["median"] for row in rows if row["name"] == "cublas"}
    lines = [f"{'N':>6}{'K':>7}{'M':>5}  {'recipe':<20}{'us':>9}{'of floor':>10}{'x cublas':>10}"]
    for row in rows:
        share, times = row["floor"] / row["median"], library[row["n"], row["k"], row["m"]] / row["median"]
        cells = f"{row['n']:>6}{row['k']:>7}{row['m']:>5}  {row['name']:<20}"
        lines.append(f"{cells}{row['median'] * 1e6:>9.1f}{share:>10.0%}{times:>10.2f}")
    for when, one in zip(("before", "after"), found["ceilings"], strict=True):
        copy, product = one["bandwidth"] / 1e12, one["bf16_flops"] / 1e12
        lines.append(f"measured {when}: copy {copy:.2f} TB/s, bf16 product {product:.0f} TFLOP/s")
    return [*lines, f"{found['late']} problems not reached"] if found["late"] else lines


def check_lines(found: dict[str, Any]) -> list[str]:
    """Return what a check found, in a few lines."""
    wrong = found["wrong"]
    lines = [f"WRONG {entry['job']}\n      {entry['error'][:600]}" for entry in wrong[:_SHOWN]]
    if "would_run" in found:
        return [*lines, f"would check {len(found['would_run'])} kernels; {len(wrong)} were refused"]
    right, names = found["right"], found["by_recipe"]
    worst = max((entry["element"] for entry in right), default=0.0)
    lines += [f"{name:<20} {count} kernels right" for name, count in names.items()]
    total = f"{len(right)} right (worst {worst:.2f} of the bound), {len(wrong)} wrong, {found['late']} not reached"
    return [*lines, total]


def write(folder: Path, name: str, value: object) -> None:
    """Write a result as a JSON file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n")


def parse() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--bench", action="store_true")
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
    parser.add_argument("--seconds", type=float, default=540.0, help="of --check, and of --bench, at most")
    parser.add_argument("--out", type=Path, default=None, help="folder for JSON files")
    return parser.parse_args()


def main() -> None:
    """Run what was asked for; the short tables come last."""
    asked = parse()
    if asked.table:
        print("\n".join(table(asked.recipe)))
        return
    if not (asked.check or asked.bench):
        sys.exit("give --check, --bench or --table")
    live = torch.cuda.is_available()
    if asked.target or not live:
        targets = tuple(map(parse_target, (asked.target or DRY).split(",")))
    else:
        targets = targets_for(torch.cuda.get_device_capability())
    reasons = {str(target): why_not_here(target) for target in targets}
    if not asked.dry_run and any(reasons.values()):
        sys.exit("; ".join(f"{name} does not run here: {why}" for name, why in reasons.items() if why))
    results: dict[str, object] = {}

    def keep(name: str, value: object) -> None:  # at once: what comes next may end the process
        results[name] = value
        if asked.out:
            write(asked.out, name, value)

    keep("machine", describe(targets))
    lines: list[str] = []
    if asked.check:
        jobs = check_jobs(targets, asked.samples, asked.seed, asked.recipe, asked.spec)
        found = check(jobs, asked.seconds, asked.dry_run)
        keep("check", found)
        lines += check_lines(found)
    if asked.bench:
        shapes = [tuple(map(int, part.split("x"))) for part in asked.shape.split(",")] if asked.shape else SHAPES
        rows = list(map(int, asked.m.split(",")))
        jobs = bench_jobs(targets, [(n, k) for n, k in shapes], rows, asked.dtype, asked.recipe)
        found = bench(jobs, asked.dtype, asked.seconds, asked.dry_run)
        keep("bench", found)
        lines += bench_lines(found)
    print("\n".join(lines))
    if any(one.get("wrong") or one.get("failed") for one in results.values() if isinstance(one, dict)):
        sys.exit(1)


if __name__ == "__main__":
    main()
