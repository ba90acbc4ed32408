"""The Triton toolchain: what it builds without a GPU, what the artefact says, and how it refuses."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch

from gridstone.ir.errors import BuildError, LaunchError
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache import toolchain_triton
from gridstone.kernel_cache.artefact import unpack
from gridstone.kernel_cache.make import TOOLCHAINS, artefact_key
from gridstone.kernel_cache.toolchain_triton import TritonToolchain, build_with
from gridstone.kernel_cache.triton_program import frame_bytes
from gridstone.lower.schedule import parse_schedule
from gridstone.lower.target import Language, parse_target
from gridstone.proof.cubin import read_resources
from gridstone.templates.emit import emit
from gridstone.templates.registry import recipe_named
from tests.proof.test_cubin import PLAIN, SPILLING, compiled

needs_triton = pytest.mark.skipif(TritonToolchain().missing() is not None, reason="no Triton")
TEXT = "gemm[x: f16(M,256), w: int4:g128(64,256)]"
RECIPE = recipe_named("gemm.triton.small")
TARGET = parse_target("triton:sm_90")


def source(schedule="small(k_splits=1)", target=TARGET, text=TEXT):
    spec = parse_spec(text).with_storage(target.storage)
    return emit(RECIPE, spec, parse_schedule(schedule, RECIPE.schedule, RECIPE.space.default(spec, target)), target)


@needs_triton
def test_the_artefact_says_how_it_is_launched():
    """Breaks when the launcher is told other threads, memory or parameters than the cubin has."""
    artefact = unpack(TritonToolchain().build(source("small(warps=8,block_n=64,stages=3)"), TARGET))
    assert (artefact.entry, artefact.threads) == ("gs_gemm", 256)
    assert 0 < artefact.shared_bytes <= TARGET.l1_bytes
    assert artefact.scratch_pointers == 2  # that Triton adds behind the text's parameters


@needs_triton
def test_a_cubin_depends_on_its_text_alone(monkeypatch, tmp_path):
    """Not on the folder in which it is built, nor on variables of Triton's, which no key would name."""
    first = TritonToolchain().build(source(), TARGET)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setenv("TRITON_PTXAS_PATH", "/no/such/ptxas")
    assert TritonToolchain().build(source(), TARGET) == first
    assert not (tmp_path / "kept").exists()
    assert str(tmp_path).encode() not in first


@needs_triton
def test_identity_names_what_is_not_in_the_text():
    facts = dict(TritonToolchain().identity(TARGET))
    assert facts["compiler"].startswith("Triton 3.")
    assert "compiler." in facts["ptxas"]
    assert "enable_fp_fusion" in facts["options"]
    key = dict(artefact_key(source(), TARGET).fields)
    assert key["target"] == "triton:sm_90"
    assert "small(" in key["text"]
    assert (
        artefact_key(source("small(warps=8)"), TARGET).digest != artefact_key(source("small(warps=4)"), TARGET).digest
    )


@needs_triton
def test_a_text_that_triton_refuses_is_a_build_error_in_its_words():
    broken = source()
    broken = replace(broken, text=broken.text.replace("tl.dot(", "tl.dott("))
    with pytest.raises(BuildError, match=r"Triton refused gemm\.triton\.small for triton:sm_90") as raised:
        TritonToolchain().build(broken, TARGET)
    assert "dott" in str(raised.value)
    assert any("schedule  small(" in note for note in raised.value.__notes__)


@needs_triton
def test_a_kernel_that_needs_more_shared_memory_than_there_is_is_refused():
    tight = replace(TARGET, l1_bytes=4096)
    with pytest.raises(BuildError, match=r"bytes of shared memory of 4096 on triton:sm_90 \(choose smaller tiles"):
        TritonToolchain().build(source(), tight)


def test_a_kernel_that_only_traps_is_refused(monkeypatch):
    """What Triton makes of a kernel without room for its sums in tensor memory, which it says at the launch alone."""
    built = source("small(k_splits=1)")
    facts = {"threads": built.launch.grid.threads, "params": len(built.params), "scratch_bytes": 0, "shared_bytes": 0}
    monkeypatch.setattr(toolchain_triton, "_run", lambda *_: (facts | {"tensor_columns": 576}, b""))
    monkeypatch.setattr(toolchain_triton, "fault", lambda *_: "")
    with pytest.raises(
        BuildError, match=r"needs 576 columns of tensor memory of 512 on triton:sm_90 \(choose a smaller"
    ):
        build_with("python", built, TARGET)


def test_steps_that_need_too_much_tensor_memory_are_infeasible():
    large, target = recipe_named("gemm.triton.large"), parse_target("triton:sm_100")
    spec = parse_spec("gemm[x: bf16(M,4096), w: int4:g32(14336,4096)]").with_storage(target.storage)
    start = large.space.default(spec, target)
    for block_k, wrong in ((64, None), (128, "tensor memory suffices")):
        schedule = replace(start, block_m=128, block_n=128, block_k=block_k)
        assert large.space.violated(schedule, spec, target) == wrong
        assert large.space.violated(schedule, spec, TARGET) is None, "earlier GPUs have none"


def test_what_is_spilled_is_read_off_the_frame():
    """The negative control of compiling again with more registers."""
    spilling, plain = (compiled(text, "sm_80") for text in (SPILLING, PLAIN))
    assert frame_bytes(spilling.cubin) == read_resources(spilling, parse_target("cuda:sm_80")).stack > 0
    assert frame_bytes(plain.cubin) == 0


@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_loading_says_so(tmp_path):
    path = tmp_path / "kernel.cubin"
    path.write_bytes(TritonToolchain().build(source(), TARGET))
    spec = parse_spec(TEXT).with_storage("mma16")
    with pytest.raises(LaunchError, match=r"a GPU kernel cannot be loaded: torch sees no NVIDIA GPU \(run it where"):
        TritonToolchain().load(path, source(), spec)


def test_without_triton_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    chain = TritonToolchain()
    assert chain.missing() == "Triton is not installed; pip install 'gridstone[triton]'"
    assert chain.identity(TARGET) == (("compiler", "none"),)
    with pytest.raises(BuildError, match=r"Triton is not installed; pip install 'gridstone\[triton\]'"):
        chain.build(source(), TARGET)


@needs_triton
def test_a_build_that_takes_too_long_is_an_error(monkeypatch):
    monkeypatch.setattr(toolchain_triton, "TIMEOUT_S", 0.01)
    with pytest.raises(
        BuildError, match=r"compiling small\(.* for triton:sm_90 took over 0 s \(choose smaller tiles\)"
    ):
        TritonToolchain().build(source(), TARGET)


@needs_triton
def test_a_damaged_artefact_is_found_before_it_is_loaded():
    blob = TritonToolchain().build(source(), TARGET)
    key = artefact_key(source(), TARGET)
    assert TritonToolchain().examine(key, blob) == ""
    assert TritonToolchain().examine(key, blob[:100]) != ""


def test_it_is_the_toolchain_of_its_language():
    assert isinstance(TOOLCHAINS[Language.TRITON], TritonToolchain)
