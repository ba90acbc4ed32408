"""`gridstone emit --build` for GPUs, on a machine without one: the source, and what the compiler made of it."""

from __future__ import annotations

import pytest

from gridstone.ir.errors import BuildError
from gridstone.proof import cubin

SPEC = "gemm[x: bf16(16,512), w: int4:g128(256,512)] + bias"
MMA = "gemm.cuda.mma"


@pytest.mark.parametrize("target", ["cuda:sm_80", "cuda:sm_90a"])
def test_the_report_follows_the_source_as_comments(run, target):
    plain = run("emit", SPEC, "--target", target, "--recipe", MMA).out
    built = run("emit", SPEC, "--target", target, "--recipe", MMA, "--build")
    assert built.status == 0, built.err
    assert built.out.startswith(plain)
    report = built.out.removeprefix(plain).splitlines()
    assert report[0].startswith(f"// gs_gemm for {target}, ")
    assert all(line.startswith("//") for line in report), "the text on stdout compiles as it is"
    told = "\n".join(report)
    for said in ("none spilled", "HMMA 16", "LDGSTS", "of the warps, bound by"):
        assert said in told, said
    assert "BROKEN" not in told
    assert "built: " in built.err


def test_json_has_the_whole_report(run):
    ran = run("emit", SPEC, "--target", "cuda:sm_89", "--recipe", MMA, "--build", "--json").json
    report = ran["build"]["report"]
    assert (report["target"], report["entry"], report["spills"]) == ("cuda:sm_89", "gs_gemm", 0)
    assert report["tensor_cores"] == sum(n for name, n in report["instructions"].items() if name.startswith("HMMA"))
    assert ran["build"]["broken_promises"] == []
    assert ran["build"]["bytes"] > 1000


def test_triton_is_built_and_reported_too(run):
    ran = run("emit", SPEC, "--target", "triton:sm_90", "--build")
    assert ran.status == 0, ran.err
    assert "\n# gs_gemm for triton:sm_90, " in ran.out
    compile(ran.out, "kernel.py", "exec")


def test_a_broken_promise_is_shown(run, monkeypatch):
    monkeypatch.setattr(cubin, "broken_promises", lambda report, promises: ("no register is spilled: 2 of LDL",))
    told = run("emit", SPEC, "--target", "cuda:sm_80", "--build").out
    assert told.splitlines()[-1] == "//   BROKEN PROMISE      no register is spilled: 2 of LDL"


def test_without_a_disassembler_it_is_built_and_says_what_to_install(run, monkeypatch):
    def refuse(*given):
        raise BuildError("machine code cannot be read here: there is no nvdisasm", "pip install 'triton>=3.9'")

    monkeypatch.setattr(cubin, "read_report", refuse)
    ran = run("emit", SPEC, "--target", "cuda:sm_80", "--build")
    assert ran.status == 0
    assert "there is no nvdisasm (pip install 'triton>=3.9')" in ran.err
    plain = run("emit", SPEC, "--target", "cuda:sm_80", "--build", "--json").json["build"]
    assert plain["report"] is None
    assert "pip install" in plain["unread"]


def test_without_nvrtc_it_says_what_to_install(run, monkeypatch):
    from gridstone.kernel_cache import toolchain_cuda

    monkeypatch.setattr(toolchain_cuda, "find_nvrtc", lambda: None)
    ran = run("emit", SPEC, "--target", "cuda:sm_80", "--build")
    assert ran.status == 2
    assert "NVRTC, which compiles CUDA, is not installed; pip install 'gridstone[cuda13]'" in ran.err
