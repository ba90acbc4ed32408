"""NVRTC: cubins without a GPU, errors with the compiler's words, and what an artefact's bytes show."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gridstone.ir.errors import BuildError, LaunchError
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache import gpu, host, nvrtc, toolchain_cuda
from gridstone.kernel_cache.artefact import Artefact, elf_bytes, examine, fault, unpack
from gridstone.kernel_cache.key import Key
from gridstone.kernel_cache.make import TOOLCHAINS, artefact_key, build, make_kernel
from gridstone.kernel_cache.nvrtc import Compiled, find_nvrtc
from gridstone.kernel_cache.toolchain_cuda import SEEDED, CudaToolchain, header, options
from gridstone.lower.target import Language, parse_target
from gridstone.templates.emit import emit
from gridstone.templates.registry import recipe_named

RECIPE = recipe_named("gemm.cuda.mma")
SPEC = parse_spec("gemm[x: bf16(M,256), w: int4:g128@mma16(128,256)] + bias")
ROOT = Path(__file__).parent.parent.parent
ARCHS = ("sm_80", "sm_89", "sm_90", "sm_90a")


def source_for(arch):
    target = parse_target(f"cuda:{arch}")
    return emit(RECIPE, SPEC, RECIPE.space.default(SPEC, target), target), target


def digest_of(arch):
    return hashlib.sha256(CudaToolchain().build(*source_for(arch))).hexdigest()


@pytest.fixture(scope="module")
def blob():
    return CudaToolchain().build(*source_for("sm_80"))


@pytest.fixture
def without_nvrtc(monkeypatch):
    monkeypatch.setattr(toolchain_cuda, "find_nvrtc", lambda: None)


@pytest.mark.parametrize("arch", ARCHS)
def test_it_builds_for_every_architecture_without_a_gpu(arch):
    source, target = source_for(arch)
    made = unpack(CudaToolchain().build(source, target))
    assert (made.entry, made.threads) == ("gs_gemm", source.launch.grid.threads)
    assert (made.shared_bytes, made.scratch_pointers) == (source.launch.grid.shared_bytes, 0)
    assert elf_bytes(made.cubin) == len(made.cubin)
    assert CudaToolchain().missing() is None


@pytest.mark.skipif(find_nvrtc().version < SEEDED, reason="earlier versions put the time into names")
def test_two_builds_give_the_same_bytes():
    """The cache's key is the text: what it stands for must not vary with the time or the process."""
    code = "import sys; from tests.kernel_cache.test_toolchain_cuda import *; print(digest_of(sys.argv[1]))"
    there = subprocess.run([sys.executable, "-c", code, "sm_80"], capture_output=True, text=True, cwd=ROOT)
    assert there.stdout.strip() == digest_of("sm_80"), there.stderr


def test_the_identity_holds_compiler_options_and_headers():
    """An artefact that another header or architecture made is never found."""
    chain, target = TOOLCHAINS[Language.CUDA], parse_target("cuda:sm_90a")
    facts = dict(chain.identity(target))
    assert facts["compiler"] == "NVRTC {}.{}".format(*find_nvrtc().version)
    assert facts["options"].startswith("--gpu-architecture=sm_90a --std=c++17")
    assert options(target, (12, 9)) == ("--gpu-architecture=sm_90a", "--std=c++17")
    assert "mma.sync.aligned" in facts["ptx.cuh"]
    source, sm_80 = source_for("sm_80")
    other = dataclasses.replace(source, text=source.text + " ")
    digests = {artefact_key(*given).digest for given in ((source, sm_80), (other, sm_80), (source, target))}
    assert len(digests) == 3


def test_what_nvrtc_refuses_is_told_in_its_own_words():
    source, target = source_for("sm_80")
    broken = dataclasses.replace(source, text=source.text.replace("gs_gemm(", "gs_gemm(Nonsense n, "))
    with pytest.raises(BuildError, match=r"(?s)NVRTC refused gemm\.cuda\.mma for cuda:sm_80.*Nonsense") as failed:
        CudaToolchain().build(broken, target)
    assert "schedule  mma(" in failed.value.__notes__[0]


def test_a_cubin_without_the_entry_is_refused(monkeypatch, blob):
    """A compiler that says it succeeded is not believed."""
    source, target = source_for("sm_80")
    with pytest.raises(BuildError, match="has no kernel 'gs_gemn'"):
        CudaToolchain().build(dataclasses.replace(source, entry="gs_gemn"), target)
    half = Compiled(unpack(blob).cubin[:5000], "")
    monkeypatch.setattr(toolchain_cuda, "find_nvrtc", lambda: SimpleNamespace(version=(13, 0), compile=lambda *_: half))
    with pytest.raises(BuildError, match=r"is cut off: 5000 of \d+ bytes"):
        CudaToolchain().build(source, target)


def test_without_nvrtc_it_says_what_to_install(without_nvrtc):
    chain = CudaToolchain()
    assert chain.missing() == "NVRTC, which compiles CUDA, is not installed; pip install 'gridstone[cuda13]'"
    assert dict(chain.identity(parse_target("cuda:sm_80")))["compiler"] == "none"
    with pytest.raises(BuildError, match=r"pip install 'gridstone\[cuda13\]'"):
        chain.build(*source_for("sm_80"))


def test_the_second_way_to_nvrtc_gives_the_same_cubin(monkeypatch, blob):
    """CuPy's bindings cut the last byte of a cubin off, as if it ended a string."""
    whole, seen = unpack(blob).cubin, []

    class Refused(Exception):
        pass

    def compile_program(program, flags):
        seen.append((program, flags))
        if "bad" in program[0]:
            raise Refused

    fake = SimpleNamespace(
        getVersion=lambda: (13, 0),
        createProgram=lambda text, name, headers, names: (text, name, headers, names),
        compileProgram=compile_program,
        getCUBIN=lambda program: whole[:-1],
        getProgramLog=lambda program: "its words\n",
        destroyProgram=lambda program: None,
        NVRTCError=Refused,
    )
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs.nvrtc", fake)
    way = nvrtc._CuPy()
    flags = options(parse_target("cuda:sm_80"), (13, 0))
    assert way.version == (13, 0)
    assert way.compile("good", {"ptx.cuh": header("ptx.cuh")}, flags) == Compiled(whole, "its words")
    assert seen == [(("good", "kernel.cu", [header("ptx.cuh").encode()], [b"ptx.cuh"]), list(flags))]
    assert way.compile("bad", {}, flags) == Compiled(b"", "its words")


def test_the_first_way_that_works_is_taken(monkeypatch):
    class Absent:
        def __init__(self):
            raise ImportError

    find_nvrtc.cache_clear()
    monkeypatch.setattr(nvrtc, "WAYS", (Absent, dict))
    assert find_nvrtc() == {}
    find_nvrtc.cache_clear()
    monkeypatch.setattr(nvrtc, "WAYS", (Absent,))
    assert find_nvrtc() is None
    find_nvrtc.cache_clear()


def test_an_artefact_reads_as_it_was_packed(blob):
    artefact = Artefact(unpack(blob).cubin, "gs_gemm", 128, 4096, 2)
    assert unpack(artefact.pack()) == artefact
    assert artefact.pack().startswith(b"\x7fELF")  # disassemblers read the file as it is


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda blob: blob[: len(blob) // 2], "does not end with how it is launched"),
        (lambda blob: b"", "does not end with how it is launched"),
        (lambda blob: blob + b"\n" + b"[" * 100_000, "does not end with how it is launched"),
        (lambda blob: blob.replace(b'"gs_gemm"', b"null"), "does not end with how it is launched"),
        (lambda blob: blob.replace(b'"schema": 1', b'"schema": 1e999'), "does not end with how it is launched"),
        (lambda blob: blob[1000:], r"with \d+ bytes of code, not 1 with"),
        (lambda blob: blob.replace(b'"schema": 1', b'"schema": 9'), "an artefact of schema 9"),
        (lambda blob: blob.replace(b".text.gs_gemm\0", b".text.gs_gemn\0"), "code has no kernel 'gs_gemm'"),
        (lambda blob: blob[:18] + b"\x3e" + blob[19:], "is for machine 62 and not for CUDA"),
        (lambda blob: b"text" + blob[4:], "is no ELF image"),
    ],
)
def test_a_damaged_artefact_is_found_before_it_is_loaded(blob, spoil, said):
    with pytest.raises(LaunchError, match=said):
        unpack(spoil(blob))
    assert examine(spoil(blob), "gs_gemm")
    assert not examine(blob, "gs_gemm")


def test_an_artefact_of_another_entry_is_found(blob):
    key = Key("cuda", (("entry", "gs_attention"),))
    assert CudaToolchain().examine(key, blob) == "its kernel is 'gs_gemm' and not 'gs_attention'"
    assert fault(unpack(blob).cubin, "gs_gemm") == ""


def test_the_cache_keeps_it(empty_cache):
    source, target = source_for("sm_89")
    path = build(source, target)
    assert path.suffix == ".cubin"
    assert json.loads(path.read_bytes().rpartition(b"\n")[2])["entry"] == "gs_gemm"
    assert build(source, target) == path


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is refused without a GPU")
def test_without_a_gpu_nothing_is_loaded_and_every_way_says_so(blob, tmp_path):
    source, target = source_for("sm_80")
    path = tmp_path / "kernel.cubin"
    path.write_bytes(blob)
    with pytest.raises(LaunchError, match=r"torch sees no NVIDIA GPU \(run it where there is one.*emit --build"):
        CudaToolchain().load(path, source, SPEC)
    assert not host.runs_here(target)
    assert gpu.why_not_here(target) == "torch sees no NVIDIA GPU"
    with pytest.raises(LaunchError, match="cuda:sm_80 does not run on this machine"):
        make_kernel(RECIPE, SPEC, RECIPE.space.default(SPEC, target), target)


@pytest.fixture
def an_h200(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")


def test_a_target_runs_on_its_own_kind_of_gpu(an_h200, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(__spec__=SimpleNamespace()))
    here = [str(target) for target in map(parse_target, ("cuda:sm_80", "cuda:sm_90", "cuda:sm_90a", "triton:sm_90"))]
    assert [name for name in here if host.runs_here(parse_target(name))] == here[1:]
    assert gpu.why_not_here(parse_target("cuda:sm_89")) == "NVIDIA H200 is of compute capability 9.0"


def test_records_name_the_gpu_that_they_were_measured_on(an_h200, monkeypatch):
    """A GPU's time under the name of the CPU beside it would win on every machine with that CPU."""
    names = [host.device_name(parse_target(name)) for name in ("cuda:sm_90a", "triton:sm_90", "cpp:avx2")]
    assert names[:2] == ["NVIDIA H200 [sm_90a]", "NVIDIA H200 [sm_90]"]
    assert names[2] == f"{host.cpu_facts()[0]} [avx2]"
    assert host.device_name(parse_target("library:torch")) == host.device_name()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert host.device_name(parse_target("cuda:sm_90a")) == "no GPU [sm_90a]"


def test_another_makers_gpu_runs_none_of_these(an_h200, monkeypatch):
    """Torch for AMD's GPUs says cuda too, and one of them has a capability of 9.0."""
    monkeypatch.setattr(torch.version, "hip", "6.4", raising=False)
    assert gpu.why_not_here(parse_target("cuda:sm_90")) == "this torch is built for AMD's GPUs"


def test_without_cupy_no_kernel_runs_on_the_gpu(an_h200, monkeypatch):
    """A machine whose torch sees a GPU dispatches as before; it is told what to install."""
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)
    assert not host.runs_here(parse_target("cuda:sm_90a"))
    assert "pip install 'gridstone[cuda13]'" in gpu.why_not_here(parse_target("cuda:sm_90a"))
