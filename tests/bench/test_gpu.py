"""`python -m bench.gpu` as far as it goes without a GPU: what it builds, judges, survives, and does not import."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import gpu_check, gpu_table
from bench.gpu_bench import bench
from bench.gpu_check import check
from bench.gpu_jobs import (
    BENCH_ROWS,
    CHAINS,
    LATE,
    SHAPES,
    Job,
    bench_jobs,
    build_each,
    check_jobs,
    targets_for,
    until,
)
from bench.gpu_log import LONGEST, Log
from bench.gpu_predict import lines, predicted_rows, promised
from bench.gpu_requests import Built, Ceilings, Judge
from bench.gpu_run import Runner
from bench.gpu_worker import Died, Stopped, Worker
from gridstone.ir.errors import BuildError, MismatchError
from gridstone.ir.text import parse_spec, print_spec
from gridstone.kernel_cache.toolchain_cuda import CudaToolchain
from gridstone.lower.schedule import parse_schedule
from gridstone.lower.target import TARGETS, Language, parse_target
from gridstone.proof.emulate import emulated
from gridstone.proof.judge import judge
from gridstone.proof.on_gpu import on_gpu
from gridstone.proof.operands import draw_operands
from gridstone.templates.registry import RECIPES, recipe_named

ROOT = Path(__file__).parent.parent.parent
TARGET = parse_target("cuda:sm_90a")
CPU = torch.device("cpu")
SPEC = "gemm[x: bf16(M,96), w: uint4:g32:zero(100,96)]"
SIXTEEN = parse_spec(SPEC).with_storage("mma16").bind(M=16)
# A GPU's machine may have torch, NumPy, Jinja and CuPy alone: neither the tuner's packages nor the cache's.
WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("optuna", "msgspec", "platformdirs", "sklearn", "typer", "rich", "filelock"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import bench.gpu_run  # what the worker imports
from bench.gpu import main
main()
"""


def run(*arguments):
    return subprocess.run([sys.executable, "-c", WITHOUT, *arguments], capture_output=True, text=True, cwd=ROOT)


def test_a_dry_run_builds_and_needs_neither_a_gpu_nor_the_tuners_packages(tmp_path):
    ran = run("--check", "--bench", "--dry-run", "--target", "cuda:sm_80", "--recipe", "cuda.mma", "--samples", "0",
              "--spec", SPEC, "--shape", "512x512", "--m", "16", "--out", str(tmp_path / "out"))  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    files = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert set(files) == {"machine.json", "check.dry.jsonl", "bench.dry.jsonl"}
    assert json.loads(files["machine.json"])["dry_run"] is True
    built = [json.loads(line) for line in files["check.dry.jsonl"].splitlines()]
    assert len(built) > 2
    assert all(entry["built"] for entry in built)
    told = ran.stdout.splitlines()
    assert f"{len(built)} built, 0 wrong, 0 not reached" in told
    assert told[-2].startswith("would time cuda:sm_80 gemm.cuda.mma mma(")


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is refused without a GPU")
def test_without_a_gpu_it_says_so():
    ran = run("--check", "--target", "cuda:sm_80")
    assert ran.returncode == 1
    assert "cuda:sm_80 does not run here: torch sees no NVIDIA GPU" in ran.stderr


def test_every_recipe_is_checked_with_its_default_and_with_drawn_schedules():
    targets = targets_for((9, 0))
    assert {str(target) for target in targets} == {"cuda:sm_90a", "triton:sm_90"}
    assert {str(target) for target in targets_for((8, 6))} == {"cuda:sm_80", "triton:sm_80"}
    jobs = check_jobs(targets, 3, 0)
    names = {job.recipe.name for job in jobs}
    assert {"gemm.cuda.mma", "gemm.triton.small"} <= names
    drawn = [job for job in jobs if job.schedule != job.recipe.space.default(job.spec, job.target)]
    assert {job.recipe.name for job in drawn} == names
    for job in jobs:
        job.recipe.space.check(job.schedule, job.spec, job.target)
    assert list(map(str, check_jobs(targets, 3, 0))) == list(map(str, jobs)), "the draw is the seed's"


def test_the_bench_covers_shapes_and_rows():
    jobs = bench_jobs((TARGET,), SHAPES, BENCH_ROWS, "bf16", "cuda.mma")
    assert len(jobs) == len(SHAPES) * len(BENCH_ROWS)
    assert {(28672, 8192), (57344, 8192)} < set(SHAPES)


def small_jobs(*rows):
    """The default kernels for these rows of one problem."""
    jobs = check_jobs((parse_target("cuda:sm_80"),), 0, 0, "cuda.mma", [SPEC])
    return [job for job in jobs if job.spec.input("x").shape[0] in rows]


# ---- what breaks in the worker --------------------------------------------------------------------------------------


@pytest.fixture
def plants(monkeypatch):
    """Workers find their plants, and nobody waits long for one that hangs."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(gpu_check, "KERNEL_S", 3.0)


def test_what_one_kernel_breaks_costs_no_other_its_result(plants, tmp_path):
    """A crash, a hang and a lost context each end a process; the others' results are there, and not sought again."""
    jobs, path = small_jobs(1, 5, 16, 33, 130), tmp_path / "check.jsonl"
    tally = check(jobs, Log(path), until(600), dry=False, place="gpu_plants:troubled")
    said = {job.spec.input("x").static(0): tally.log[job.key]["error"] for job in tally.wrong}
    assert said[1] == "its process ended with 3"
    assert said[5] == "no answer within 3 s: it hangs, or is far too slow"
    assert said[16] == "it ended the GPU's context: an illegal memory access was encountered"
    assert said[33] == "ValueError: 33 is odd"
    assert [job.spec.input("x").static(0) for job in tally.fine] == [130]
    assert tally.lines()[-1] == "1 right (worst 0.25 of the bound), 4 wrong, 0 not reached"
    assert any(line.startswith("WRONG cuda:sm_80 gemm.cuda.mma mma(") for line in tally.lines())
    path.write_text(path.read_text() + '{"key": "cut o')
    again = check(jobs, Log(path), until(600), dry=False, place="gpu_plants:never")
    assert again.lines() == tally.lines()
    assert len(path.read_text().splitlines()) == len(jobs)


def test_a_recipe_that_keeps_ending_processes_is_left_out(plants, monkeypatch):
    monkeypatch.setattr(gpu_check, "MOST_DEATHS", 1)
    tally = check(small_jobs(1, 130), Log(None), until(600), dry=False, place="gpu_plants:troubled")
    assert tally.lines()[-1].endswith("1 wrong, 1 not reached: the same command goes on with them")


def test_a_worker_that_cannot_start_says_why(plants):
    with Worker("gpu_plants:unable") as worker, pytest.raises(Died, match="ImportError: no CuPy here"):
        worker.ask(None, 1.0)


def test_a_bench_has_the_library_and_the_prediction_beside_each_kernel(plants):
    jobs = bench_jobs((parse_target("cuda:sm_80"),), [(512, 512)], [64], "bf16", "cuda.mma")
    log = Log(None)
    told = bench(jobs, log, "bf16", until(600), dry=False, place="gpu_plants:troubled").lines()
    assert told[0].split() == ["N", "K", "M", "recipe", "us", "predicted", "of", "floor", "x", "cublas"]
    assert told[1].split()[:5] == ["512", "512", "64", "cublas", "8.0"]
    row = told[2].split()
    assert row[:5] == ["512", "512", "64", "gemm.cuda.mma", "4.0"]
    assert float(row[5]) == pytest.approx(jobs[0].predicted().seconds * 1e6, abs=0.06)
    assert row[-1] == "2.00"
    assert told[-2] == "measured after: copy 4.00 TB/s, bf16 product 800 TFLOP/s"
    assert told[-1] == "2 done, 0 wrong, 0 not reached"
    assert log[jobs[0].key]["seconds"] == [4e-6, 4e-6, 5e-6]


def test_time_bounds_a_check():
    tally = check(small_jobs(5), Log(None), until(0.0), dry=False, place="gpu_plants:never")
    assert tally.lines()[-1].endswith("0 wrong, 1 not reached: the same command goes on with them")


def test_entries_are_short_and_survive(tmp_path):
    log = Log(tmp_path / "deep" / "a.jsonl")
    log.put("one", error="x" * 10_000)
    assert len(log["one"]["error"]) == LONGEST
    after = Log(tmp_path / "b.jsonl", before=tmp_path / "deep" / "a.jsonl")
    assert after["one"] == log["one"]
    assert "two" not in after


# ---- what the worker does -------------------------------------------------------------------------------------------


def on_this_cpu(kernel, spec):
    return emulated(kernel.source, spec)


def built_here():
    (one,) = build_each(small_jobs(5), lambda: True)
    return Judge(Built(print_spec(one.job.spec), one.source, one.artefact))


def test_a_kernel_is_judged_on_its_rows_and_on_fewer():
    element, rms = Runner("cpu", on_this_cpu)(built_here())
    assert 0.0 < rms <= element < 1.0


def test_a_wrong_kernel_and_one_that_ends_the_context_are_told_apart():
    request = built_here()
    with pytest.raises(MismatchError, match=r"x: bf16\(5,96\).* with seed 1"):
        Runner("cpu", lambda kernel, spec: lambda *tensors, out: out.zero_(), lambda: True)(request)

    def die(*tensors, out):
        raise RuntimeError("an illegal memory access was encountered")

    with pytest.raises(Stopped, match="it ended the GPU's context: RuntimeError: an illegal memory access"):
        Runner("cpu", lambda kernel, spec: die, lambda: False)(request)


def test_a_build_that_fails_is_told_and_the_others_are_built(monkeypatch):
    chain, real = CHAINS[Language.CUDA], CudaToolchain.build

    def build(source, target):
        if "block_m=8" in source.origin.schedule:
            raise BuildError("too small for this compiler")
        return real(chain, source, target)

    monkeypatch.setattr(chain, "build", build, raising=False)
    (job,) = small_jobs(5)
    deeper = dataclasses.replace(job.schedule, block_m=16)
    small, other = build_each([job, dataclasses.replace(job, spec=SIXTEEN, schedule=deeper)], lambda: True)
    assert (small.artefact, small.error) == (None, "build: too small for this compiler")
    assert (other.error, other.artefact.entry) == ("", "gs_gemm")
    (late,) = build_each([job], lambda: False)
    assert late.error == LATE


def test_a_step_of_twice_all_of_k_is_built():
    """With one scale a row such a step has one group, however often K fits into it; one that had two did not build."""
    spec = parse_spec("gemm[x: f32(5,77), w: int8:channel(33,77)]").with_storage("mma16")
    recipe, target = recipe_named("gemm.triton.small"), parse_target("triton:sm_90")
    long = "small(block_m=16,block_n=32,block_k=256,warps=2,stages=6,k_splits=1,ordered=true)"
    schedule = parse_schedule(long, recipe.schedule, recipe.space.default(spec, target))
    recipe.space.check(schedule, spec, target)
    (one,) = build_each([Job(spec, recipe, schedule, target)], lambda: True)
    assert not one.error


@pytest.mark.parametrize("where", ["beside", "operand", "nowhere"])
def test_what_a_kernel_damages_on_another_device_is_seen(where):
    """Guard bands and operands travel there and back."""
    spec = parse_spec("gemm[x: f32(3,64), w: f32(48,64)]")

    def call(x, w, out):
        torch.mm(x, w.t(), out=out)
        if where == "beside":
            torch.as_strided(out, (1,), (1,), out.storage_offset() - 1).zero_()
        if where == "operand":
            x[0, 0] += 1.0
        return out

    operands = draw_operands(spec, 1)
    verdict = judge(on_gpu(call, CPU), spec, operands)
    said = {"beside": "1 elements before", "operand": "operand x was changed", "nowhere": ""}[where]
    assert verdict.problem.startswith(said)
    assert verdict.right == (where == "nowhere")


# ---- what is predicted, and what stands in the page -----------------------------------------------------------------


def test_predictions_are_labelled_and_their_promise_is_shown():
    found = list(predicted_rows(targets_for((9, 0)), [(28672, 8192)], [16], "bf16", 40))
    assert {row.recipe for row in found} >= {"gemm.cuda.mma", "gemm.cuda.wgmma", "gemm.triton.small"}
    told = lines(found, targets_for((9, 0)))
    assert told[0].startswith("predicted, not measured: of one H200 (4.8 TB/s, 790 TFLOP/s bf16); the best of ")
    assert told[-1].endswith("times the floor's bytes, at most 1.05: kept")
    broken = [dataclasses.replace(row, cost=dataclasses.replace(row.cost, bytes=2 * row.cost.bytes)) for row in found]
    assert promised(broken)[0].endswith("BROKEN")


def test_floors_are_those_of_the_measured_card():
    ceilings = Ceilings(4e12, 8e14)
    assert ceilings.floor(4_000_000, 1) == pytest.approx(1e-6)
    assert ceilings.floor(1, 8_000_000_000) == pytest.approx(1e-5)


def test_the_page_holds_a_row_for_every_recipe_architecture_and_number_of_rows():
    """The table is printed by one command, which replaces it in the page; here it is only seen to be complete."""
    page = (ROOT / "docs" / "gpu.md").read_text()
    held = page.partition(gpu_table.START)[2].partition(gpu_table.END)[0]
    cells = [[cell.strip() for cell in line.split("|")[1:4]] for line in held.splitlines() if line.startswith("| gemm")]
    named = {(name, target, int(m.removesuffix("*"))) for name, target, m in cells}
    assert named == {(job.recipe.name, str(job.target), job.spec.input("x").static(0)) for job in gpu_table.jobs_of("")}
    assert {name for name, _, _ in named} == {recipe.name for recipe in RECIPES if recipe.language in CHAINS}
    assert {target for _, target, _ in named} == {name for name, target in TARGETS.items() if target.sms}
    assert gpu_table.replaced(page, ["new"]).count("| gemm") == 0
    with pytest.raises(ValueError, match="the page has no table between <!-- python"):
        gpu_table.replaced("", [])
