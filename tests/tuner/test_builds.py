"""Builds ahead of measurement: what a GPU's machine code shows drops a candidate before it costs time on the device."""

from __future__ import annotations

import dataclasses

import pytest

from gridstone.ir.errors import BuildError
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache import make
from gridstone.kernel_cache.artefact import Artefact
from gridstone.kernel_cache.nvrtc import find_nvrtc
from gridstone.kernel_cache.store import Store
from gridstone.lower.schedule import print_schedule
from gridstone.lower.target import Language, parse_target
from gridstone.templates.registry import recipe_named
from gridstone.tuner.builds import build
from gridstone.tuner.candidate import Candidate

TARGET = parse_target("cuda:sm_80")
RECIPE = recipe_named("gemm.cuda.mma")
SPEC = parse_spec("gemm[x: f16(16,512), w: int4:g128(256,512)]")
SPILLING = """
extern "C" __global__ void __launch_bounds__(1024, 2) gs_gemm(const float* x, float* y) {
  float a[96];
  for (int i = 0; i < 96; ++i) a[i] = x[i * 1024 + threadIdx.x];
  for (int s = 0; s < 96; ++s)
    for (int i = 0; i < 96; ++i) a[i] += a[(i * 7 + s) % 96] * x[s];
  for (int i = 0; i < 96; ++i) y[i * 1024 + threadIdx.x] = a[i];
}"""


@pytest.fixture
def candidate():
    return Candidate(RECIPE, RECIPE.space.default(SPEC.with_storage(TARGET.storage), TARGET), TARGET)


def test_a_kernel_that_spills_is_dropped_before_it_is_measured(candidate, tmp_path, monkeypatch):
    spilling = find_nvrtc().compile(SPILLING, {}, ("--gpu-architecture=sm_80",)).cubin
    chain = make.TOOLCHAINS[Language.CUDA]
    artefact = Artefact(spilling, "gs_gemm", 1024, 0).pack()
    monkeypatch.setattr(chain, "build", lambda source, target: artefact, raising=False)
    error = build(candidate, SPEC, Store(tmp_path, 1 << 30))
    assert isinstance(error, BuildError)
    assert f"{print_schedule(candidate.schedule)} cuda:sm_80 spills registers: " in error.problem


def test_a_kernel_that_keeps_its_registers_is_measured(candidate, tmp_path):
    assert build(candidate, SPEC, Store(tmp_path, 1 << 30)) is None


def test_an_artefact_that_cannot_be_launched_is_dropped(candidate, tmp_path, monkeypatch):
    monkeypatch.setattr(make.TOOLCHAINS[Language.CUDA], "build", lambda source, target: b"text", raising=False)
    error = build(candidate, SPEC, Store(tmp_path, 1 << 30))
    assert "does not end with how it is launched" in str(error)


def test_an_infeasible_schedule_is_dropped(candidate, tmp_path):
    tall = dataclasses.replace(candidate, schedule=dataclasses.replace(candidate.schedule, block_m=64))
    assert "a tile is not twice as high as x" in str(build(tall, SPEC, Store(tmp_path, 1 << 30)))
