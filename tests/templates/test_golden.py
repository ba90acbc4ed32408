"""Three texts per recipe, kept for people to read when they change, and each built."""

from __future__ import annotations

import pytest

from gridstone.ir.text import parse_spec
from gridstone.kernel_cache.artefact import unpack
from gridstone.kernel_cache.make import build
from gridstone.lower.target import parse_target
from gridstone.templates.emit import emit
from gridstone.templates.registry import recipe_named
from tests.templates.gemm_kernels import CPP_NAMES, CPP_TARGETS

SPECS = {
    "aligned": "gemm[x: bf16(M,512), w: int4:g128(256,512)]",
    "ragged": "gemm[x: f32(M,77), w: uint8:channel:f32:zero(33,77)]",
    "epilogue": "gemm[x: bf16(M,256), w: int4:g64:zero(200,256)] + bias + gelu + residual -> f32(M,200)",
}
# What the tensor cores multiply has 16 bits.
CUDA_SPECS = SPECS | {"ragged": SPECS["ragged"].replace("x: f32", "x: f16")}
CUDA = {"gemm.cuda.gemv": "cuda:sm_80", "gemm.cuda.mma": "cuda:sm_80", "gemm.cuda.wgmma": "cuda:sm_90a"}


def source_of(recipe: str, kind: str, target: str, specs: dict[str, str] = SPECS):
    found, on, spec = recipe_named(recipe), parse_target(target), parse_spec(specs[kind])
    return emit(found, spec, found.space.default(spec.with_storage(on.storage), on), on)


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("recipe", CPP_NAMES)
def test_goldens_are_emitted_and_built(recipe, kind, golden):
    """A changed golden is read by a person before it is accepted; a text that no compiler takes is none."""
    source = source_of(recipe, kind, "cpp:avx512_bf16")
    golden(f"{recipe}.{kind}.cpp", source.text)
    assert build(source, parse_target("cpp:avx512_bf16")).read_bytes()[:4] == b"\x7fELF"


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("recipe", CUDA)
def test_goldens_for_gpus_are_emitted_and_built(recipe, kind, golden):
    specs = SPECS if recipe == "gemm.cuda.gemv" else CUDA_SPECS  # its ragged one is what the tensor cores do not take
    source = source_of(recipe, kind, CUDA[recipe], specs)
    golden(f"{recipe}.{kind}.cu", source.text)
    assert unpack(build(source, parse_target(CUDA[recipe])).read_bytes()).cubin[:4] == b"\x7fELF"


@pytest.mark.parametrize("target", [str(target) for target in CPP_TARGETS if target.arch != "avx512_bf16"])
@pytest.mark.parametrize("recipe", CPP_NAMES)
def test_every_target_is_built_whether_it_runs_here_or_not(recipe, target):
    """A laptop without AVX-512 checks what it ships."""
    assert build(source_of(recipe, "epilogue", target), parse_target(target)).stat().st_size > 0
