"""`python -m bench.gpu` as far as it goes without a GPU: what it builds, judges, and does not import."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import gpu
from bench.gpu_jobs import BENCH_ROWS, CHAINS, SHAPES, bench_jobs, build_all, check_jobs, targets_for
from bench.gpu_measure import Ceilings
from gridstone.ir.errors import BuildError
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache.toolchain_cuda import CudaToolchain
from gridstone.lower.target import Language, parse_target
from gridstone.proof.check import judge
from gridstone.proof.emulate import emulated
from gridstone.proof.on_gpu import on_gpu
from gridstone.proof.operands import draw_operands

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
from bench.gpu import main
main()
"""


def run(*arguments):
    return subprocess.run([sys.executable, "-c", WITHOUT, *arguments], capture_output=True, text=True, cwd=ROOT)


def test_a_dry_run_builds_and_needs_neither_a_gpu_nor_the_tuners_packages(tmp_path):
    ran = run("--check", "--bench", "--dry-run", "--target", "cuda:sm_80", "--recipe", "cuda.mma", "--samples", "0",
              "--spec", SPEC, "--shape", "512x512", "--m", "16", "--out", str(tmp_path / "out"))  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    files = {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").iterdir()}
    assert set(files) == {"machine.json", "check.json", "bench.json"}
    assert files["check.json"]["built"] == len(files["check.json"]["would_run"]) > 2
    assert files["bench.json"]["would_run"][0].startswith("cuda:sm_80 gemm.cuda.mma mma(")
    assert f"would check {files['check.json']['built']} kernels; 0 were refused" in ran.stdout
    assert ran.stdout.splitlines()[-1].startswith("would time cuda:sm_80 gemm.cuda.mma mma(")


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is refused without a GPU")
def test_without_a_gpu_it_says_so():
    ran = run("--check", "--target", "cuda:sm_80")
    assert ran.returncode == 1
    assert "cuda:sm_80 does not run here: torch sees no NVIDIA GPU" in ran.stderr
    assert "give --check, --bench or --table" in run().stderr


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


def on_this_cpu(one):
    assert one.source is not None
    return emulated(one.source, one.job.spec)


@pytest.fixture
def emulation(monkeypatch):
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    monkeypatch.setattr(gpu, "_call", on_this_cpu)


def small_jobs():
    """The default kernel for 5 rows of one problem."""
    jobs = check_jobs((parse_target("cuda:sm_80"),), 0, 0, "cuda.mma", [SPEC])
    return [job for job in jobs if job.spec.input("x").shape[0] == 5]


def test_a_check_judges_what_was_built(emulation):
    jobs = small_jobs()
    found = gpu.check(jobs, 100.0, dry=False)
    assert (len(found["right"]), found["wrong"], found["late"]) == (1, [], 0)
    assert found["by_recipe"] == {"gemm.cuda.mma": 1}
    assert gpu.check_lines(found)[-1].startswith("1 right (worst 0.")


def test_a_check_finds_a_wrong_kernel_and_one_that_ends_the_context(emulation, monkeypatch):
    monkeypatch.setattr(gpu, "_call", lambda one: lambda *tensors, out: out.zero_())
    found = gpu.check(small_jobs(), 100.0, dry=False)
    assert len(found["wrong"]) == 1
    assert gpu.check_lines(found)[0].startswith("WRONG cuda:sm_80 gemm.cuda.mma mma(")

    def die(*tensors, out):
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(gpu, "_call", lambda one: die)
    found = gpu.check(small_jobs() * 2, 100.0, dry=False)
    assert "it ended the GPU's context" in found["wrong"][0]["error"]
    assert found["late"] == 1, "nothing more is launched there"


def test_time_bounds_a_check(emulation):
    found = gpu.check(small_jobs(), 0.0, dry=False)
    assert found["wrong"][0]["error"] == "not built: the time is up"


def test_a_build_that_fails_is_told_and_the_others_are_built(monkeypatch):
    chain, real = CHAINS[Language.CUDA], CudaToolchain.build

    def build(source, target):
        if "block_m=8" in source.origin.schedule:
            raise BuildError("too small for this compiler")
        return real(chain, source, target)

    monkeypatch.setattr(chain, "build", build, raising=False)
    (job,) = small_jobs()
    deeper = dataclasses.replace(job.schedule, block_m=16)
    small, other = build_all([job, dataclasses.replace(job, spec=SIXTEEN, schedule=deeper)], lambda: True)
    assert (small.artefact, small.error) == (None, "build: too small for this compiler")
    assert (other.error, other.artefact.entry) == ("", "gs_gemm")


def test_figures_are_shown_beside_cublas_and_their_floor():
    ceilings = Ceilings(4e12, 8e14)
    assert ceilings.floor(4_000_000, 1) == pytest.approx(1e-6)
    assert ceilings.floor(1, 8_000_000_000) == pytest.approx(1e-5)
    problem = {"n": 4096, "k": 4096, "m": 16, "floor": 1e-6}
    one = {"bandwidth": 4e12, "bf16_flops": 8e14}
    found = {
        "figures": [
            {"name": "cublas", "median": 8e-6, **problem},
            {"name": "gemm.cuda.mma", "median": 4e-6, **problem},
        ],
        "ceilings": [one, one],
        "late": 0,
    }
    lines = gpu.bench_lines(found)
    assert lines[2].split() == ["4096", "4096", "16", "gemm.cuda.mma", "4.0", "25%", "2.00"]
    assert lines[-1] == "measured after: copy 4.00 TB/s, bf16 product 800 TFLOP/s"


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
