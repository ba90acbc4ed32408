"""Machine code of GPU kernels: what a report says, and that every recipe keeps what it promises of its own."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import pytest

from gridstone.ir.errors import BuildError
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache.artefact import Artefact, unpack
from gridstone.kernel_cache.make import TOOLCHAINS
from gridstone.kernel_cache.nvrtc import find_nvrtc
from gridstone.kernel_cache.toolchain_cuda import header
from gridstone.lower.occupancy import occupancy
from gridstone.lower.target import TARGETS, Language, parse_target
from gridstone.proof import cubin, disassembler
from gridstone.proof.cubin import broken_promises, read_drawback, read_report, read_resources
from gridstone.proof.disassembler import Disassembler, find_disassembler
from gridstone.templates.emit import emit
from gridstone.templates.registry import RECIPES, default_recipe, recipe_named, recipes_for
from gridstone.templates.requirement import NO_NARROW_STREAM, NO_SPILLS, WIDE_STREAM, Requirement

GPUS = tuple(name for name, target in TARGETS.items() if target.sms)
FALLBACK = recipe_named("gemm.cuda.mma")
ROWS = (1, 16, 64, 256)
ARCHS = ("sm_80", "sm_89", "sm_90", "sm_90a")
WEIGHTS = ("int4:g128", "uint4:g128:zero", "int8:g128", "uint8:g128:zero")
WHOLE = tuple(itertools.product(ARCHS, ROWS, ("f16", "bf16"), WEIGHTS))
# Every arch with every M, every dtype and every kind of weight; `slow` has all of them with each other.
FEW = tuple((arch, m, ("f16", "bf16")[(i + j // 2) % 2], WEIGHTS[(i + j) % 4])
            for i, arch in enumerate(ARCHS) for j, m in enumerate(ROWS))  # fmt: skip
# Few rows, of any type, which the streaming kernel takes.
STREAMED = tuple(itertools.product(ARCHS, (1, 2, 4), ("f16", "bf16", "f32"), WEIGHTS))
FEW_STREAMED = (
    ("sm_80", 2, "f16", WEIGHTS[0]),
    ("sm_89", 4, "f32", WEIGHTS[1]),
    ("sm_90", 1, "f32", WEIGHTS[2]),
    ("sm_90a", 4, "bf16", WEIGHTS[3]),
)

SPILLING = """
extern "C" __global__ void __launch_bounds__(1024, 2) gs_gemm(const float* x, float* y) {
  float a[96];
  for (int i = 0; i < 96; ++i) a[i] = x[i * 1024 + threadIdx.x];
  for (int s = 0; s < 96; ++s)
    for (int i = 0; i < 96; ++i) a[i] += a[(i * 7 + s) % 96] * x[s];
  for (int i = 0; i < 96; ++i) y[i * 1024 + threadIdx.x] = a[i];
}"""
PLAIN = """
__shared__ float s[512];
extern "C" __global__ void gs_gemm(const float4* x, const short* z, float* y) {
  s[threadIdx.x] = x[threadIdx.x].x + x[threadIdx.x].w + x[threadIdx.x].y + x[threadIdx.x].z;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x ^ 1] + z[threadIdx.x];
}"""
# What every promise about widths and conversions forbids.
NARROW = """
__shared__ double s[512];
extern "C" __global__ void gs_gemm(const int* x, float* y, const int* n) {
  unsigned at = (unsigned)__cvta_generic_to_shared(s + threadIdx.x);
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(at), "l"(x + 2 * threadIdx.x) : "memory");
  asm volatile("cp.async.wait_all;" ::: "memory");
  int once;
  asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(once) : "l"(x + threadIdx.x));
  __syncthreads();
  y[threadIdx.x] = (float)once + (float)s[threadIdx.x ^ 1];
}"""

WIDE_LOAD = "PTX uint4 ld_global_once(const void* at) {"
HALF_LOADS = """PTX uint4 ld_global_once(const void* at) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(at));
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2 + 8];" : "=r"(v.z), "=r"(v.w) : "l"(at));
  return v;
}
"""


def compiled(text, arch, threads=256, shared=0):
    made = find_nvrtc().compile(text, {}, (f"--gpu-architecture={arch}", "--std=c++17"))
    assert made.cubin, made.log
    return Artefact(made.cubin, "gs_gemm", threads, shared)


def promising(cases, languages=(Language.CUDA, Language.TRITON)):
    """Return each case with the recipe that is its default, and with the one that every arch can fall back to."""
    found = []
    for (arch, m, x, w), language in itertools.product(cases, languages):
        target = TARGETS.get(f"{language.value}:{arch}")
        if target is None:
            continue
        spec = parse_spec(f"gemm[x: {x}({m},4096), w: {w}(14336,4096)]").with_storage(target.storage)
        wanted = {default_recipe(spec, target)} | ({FALLBACK} if m in ROWS else set())
        recipes = wanted & set(recipes_for(spec, target))
        found += [
            pytest.param(recipe, target, spec, id=f"{recipe.name}-{target}-{m}-{x}-{w}")
            for recipe in sorted(recipes, key=lambda recipe: recipe.name)
            if recipe.promises
        ]
    return found


def assert_promises_kept(recipe, target, spec):
    source = emit(recipe, spec, recipe.space.default(spec, target), target)
    artefact = unpack(TOOLCHAINS[recipe.language].build(source, target))
    report = read_report(artefact, target)
    assert not broken_promises(report, recipe.promises), f"{source.origin.schedule}\n{report}"
    assert report.occupancy.blocks > 0
    assert not read_drawback(artefact, target)


@pytest.mark.parametrize(("recipe", "target", "spec"), promising(FEW))
def test_default_schedules_keep_what_their_recipe_promises(recipe, target, spec):
    """Breaks when a change of a template makes the compiler spill, or a wide copy falls apart."""
    assert_promises_kept(recipe, target, spec)


@pytest.mark.parametrize(("recipe", "target", "spec"), promising(FEW_STREAMED, (Language.CUDA,)))
def test_the_streaming_kernel_keeps_what_it_promises(recipe, target, spec):
    assert recipe.name == "gemm.cuda.gemv"
    assert_promises_kept(recipe, target, spec)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "target", "spec"),
    promising(sorted(set(WHOLE) - set(FEW))) + promising(sorted(set(STREAMED) - set(FEW_STREAMED)), (Language.CUDA,)),
)
def test_all_default_schedules_keep_what_their_recipe_promises(recipe, target, spec):
    assert_promises_kept(recipe, target, spec)


@pytest.mark.parametrize(
    ("recipe", "names"),
    [
        ("gemm.cuda.mma", {"warps multiply with the tensor cores", "a lane takes its codes 16 bytes at once"}),
        ("gemm.cuda.gemv", {"codes stream from memory 16 bytes at once", "no codes stream in narrower loads"}),
    ],
)
def test_the_recipes_promise_something(recipe, names):
    """An empty promise is always kept."""
    assert {"no register is spilled to local memory", *names} <= {p.name for p in recipe_named(recipe).promises}


def test_every_promise_can_be_broken():
    """Each by one of three texts: the negative controls of all that recipes promise."""
    target = parse_target("cuda:sm_80")
    reports = [read_report(compiled(text, "sm_80"), target) for text in (SPILLING, PLAIN, NARROW)]
    promises = {promise for recipe in RECIPES for promise in recipe.promises}
    assert len(promises) >= 9
    for promise in promises:
        assert any(broken_promises(report, (promise,)) for report in reports), promise.name


@pytest.mark.parametrize("x", ["bf16", "f32"])
def test_a_narrower_stream_of_codes_breaks_the_promise(x):
    """The control in place: the text of the recipe, its 16-byte loads taken apart."""
    recipe, target = recipe_named("gemm.cuda.gemv"), parse_target("cuda:sm_80")
    spec = parse_spec(f"gemm[x: {x}(1,512), w: int4:g128(64,512)]").with_storage(target.storage)
    source = emit(recipe, spec, recipe.space.default(spec, target), target)
    headers = {"ptx.cuh": header("ptx.cuh").replace(WIDE_LOAD, HALF_LOADS + WIDE_LOAD.replace("once", "whole"))}
    made = find_nvrtc().compile(source.text, headers, ("--gpu-architecture=sm_80", "--std=c++17"))
    assert made.cubin, made.log
    grid = source.launch.grid
    report = read_report(Artefact(made.cubin, source.entry, grid.threads, grid.shared_bytes), target)
    broken = {text.split(":")[0] for text in broken_promises(report, recipe.promises)}
    assert broken == {WIDE_STREAM.name, NO_NARROW_STREAM.name}


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_a_report_says_what_is_there(arch):
    target = parse_target(f"cuda:{arch}")
    report = read_report(compiled(PLAIN, arch, threads=512, shared=1000), target)
    assert report.static_shared == 2048, "what the system reserves is not the kernel's"
    assert (report.dynamic_shared, report.stack, report.spills, report.tensor_cores) == (1000, 0, 0, 0)
    assert report.widths("LDG") == {16: 1, 2: 1}
    assert report.widths("STG") == {4: 1}
    assert report.count("BAR") == 1
    assert report.count("LDG.128") == 1
    text = str(report)
    assert "none spilled, a stack of 0 bytes" in text
    assert "1000 bytes dynamic, 2048 static" in text
    assert "LDG 1 of 16 bytes, 1 of 2 bytes" in text
    assert "4 blocks of 512 threads: 100% of the warps, bound by warps" in text
    plain = json.loads(json.dumps(report.json()))
    assert plain["instructions"] == dict(report.instructions)
    assert (plain["registers"], plain["blocks_per_multiprocessor"]) == (report.registers, 4)


def test_spills_are_counted_and_break_the_promise():
    """The negative control of everything that is said about spills."""
    target = parse_target("cuda:sm_80")
    artefact = compiled(SPILLING, "sm_80", threads=1024)
    report = read_report(artefact, target)
    assert report.spills > 0
    assert report.stack > 0
    assert "accesses to local memory" in str(report)
    assert broken_promises(report, (NO_SPILLS,)) == (f"{NO_SPILLS.name}: {report.spills} of LDL, STL",)
    assert read_drawback(artefact, target) == f"spills registers: {report.spills} accesses to local memory"


def test_other_promises_can_be_broken_too():
    report = read_report(compiled(PLAIN, "sm_80"), parse_target("cuda:sm_80"))
    for promise in FALLBACK.promises:
        assert bool(broken_promises(report, (promise,))) == (promise.least > 0), promise.name
    narrow = Requirement("wide", ("LDG",), most=0, without=("128",))
    assert broken_promises(report, (narrow,)) == ("wide: 1 of LDG",)


def test_a_block_that_fits_nowhere_is_a_drawback():
    target = parse_target("cuda:sm_80")
    artefact = compiled(PLAIN, "sm_80", shared=target.l1_bytes)
    assert read_drawback(artefact, target).startswith("fits no multiprocessor: ")
    assert not read_drawback(dataclasses.replace(artefact, shared_bytes=target.l1_bytes - 2048), target)


@pytest.mark.parametrize("name", GPUS)
def test_every_gpu_has_an_occupancy(name):
    target = parse_target(name)
    held = occupancy(target, 128, 32, 0)
    assert held.blocks == 12 if target.arch == "sm_89" else 16
    assert (held.share, held.bound_by) == (1.0, "registers" if held.blocks == 16 else "warps")


@pytest.mark.parametrize(
    ("threads", "registers", "shared", "held"),
    [
        (256, 255, 0, (1, "registers")),
        (256, 128, 0, (2, "registers")),
        (256, 129, 0, (1, "registers")),
        (256, 32, 100_000, (2, "shared memory")),
        (128, 16, 232448, (1, "shared memory")),
        (128, 16, 232449, (0, "shared memory")),
        (1024, 32, 0, (2, "registers")),
        (32, 16, 0, (32, "blocks")),
    ],
)
def test_occupancy_of_sm_90(threads, registers, shared, held):
    """By hand: 65536 registers in 4 parts, 256 at once; 228 KiB of shared memory, 1 KiB reserved for each block."""
    found = occupancy(parse_target("cuda:sm_90"), threads, registers, shared)
    assert (found.blocks, found.bound_by) == held


def test_without_a_disassembler_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(disassembler, "_folders", lambda: iter(()))
    find_disassembler.cache_clear()
    artefact, target = compiled(PLAIN, "sm_80"), parse_target("cuda:sm_80")
    with pytest.raises(BuildError, match=r"there is no nvdisasm \(pip install 'triton>=3.9'"):
        read_report(artefact, target)
    assert read_drawback(artefact, target) == "", "its time will show what it is worth"
    find_disassembler.cache_clear()


def test_a_disassembler_that_is_too_old_is_not_believed(monkeypatch):
    """Those of an earlier CUDA warn on stderr, end well, and leave instructions out."""
    old = Disassembler(Path("old", "nvdisasm"), Path("old", "cuobjdump"), (12, 8))
    monkeypatch.setattr(disassembler, "find_disassembler", lambda: old)
    with pytest.raises(
        BuildError, match=r"nvdisasm is of CUDA 12\.8 and does not read all that CUDA 1[3-9]\.\d+ makes"
    ):
        read_resources(compiled(PLAIN, "sm_80"), parse_target("cuda:sm_80"))


def test_a_disassembler_that_finds_nothing_is_not_believed(monkeypatch):
    real = cubin.run
    monkeypatch.setattr(cubin, "run", lambda command: "" if "--print-code" in command else real(command))
    with pytest.raises(BuildError, match="found no instructions in gs_gemm"):
        read_report(compiled(PLAIN, "sm_80"), parse_target("cuda:sm_80"))


def test_the_newest_disassembler_is_taken(monkeypatch, tmp_path):
    for name, release in (("a", "12.8"), ("b", "13.1"), ("c", "nonsense")):
        (tmp_path / name).mkdir()
        for tool in ("nvdisasm", "cuobjdump"):
            script = tmp_path / name / tool
            script.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V1'\n")
            script.chmod(0o755)
    monkeypatch.setattr(disassembler, "_folders", lambda: (tmp_path / name for name in ("a", "b", "c", "none")))
    find_disassembler.cache_clear()
    found = find_disassembler()
    find_disassembler.cache_clear()
    assert (found.release, found.nvdisasm) == ((13, 1), tmp_path / "b" / "nvdisasm")
