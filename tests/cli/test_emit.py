from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

SPEC = "gemm[x: bf16(16,256), w: int4:g128(192,256)] + bias + silu"
TARGETS = ("cpp:avx512_bf16", "cpp:avx512", "cpp:avx2", "cpp:generic")
# Whoever asks for torch is told that there is none; nothing can be built without a compiler on the PATH either.
WITHOUT_TORCH = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "optuna", "sklearn", "transformers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from gridstone.cli import main
main(sys.argv[1:])
"""


def without_torch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments],
        capture_output=True,
        text=True,
        env={"PATH": "", "HOME": "/tmp"},
    )


def repro(text: str) -> list[str]:
    found = re.search(r"^// repro +gridstone (.*)$", text, re.MULTILINE)
    assert found is not None, "the header has no repro line"
    return shlex.split(found[1])


@pytest.mark.parametrize("target", TARGETS)
def test_emitted_text_compiles_and_its_header_tells_where_it_came_from(run, target):
    ran = run("emit", SPEC.replace("(16,", "(4,"), "--target", target, "--build", "--json")  # gemv compiles fastest
    assert ran.status == 0, ran.err
    assert ran.json["build"]["bytes"] > 1000
    assert f"// target    {target}" in ran.json["text"]
    assert ran.json["recipe"] == "gemm.cpp.gemv"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("rows", ["1", "16", "300", "M"])
def test_the_repro_command_prints_the_same_text(run, target, rows):
    text = run("emit", SPEC.replace("(16,", f"({rows},"), "--target", target).out
    assert run(*repro(text)).out == text


def test_a_long_repro_line_is_not_wrapped(run):
    spec = "gemm[x: f32(M,3072), w: uint4:g32:f32:zero(14336,3072)] + bias + gelu_tanh + residual"
    text = run("emit", spec, "--target", "cpp:avx512").out
    assert max(map(len, text.splitlines())) > 200
    assert run(*repro(text)).out == text


def test_help_and_emit_need_neither_torch_nor_a_compiler():
    helped = without_torch("--help")
    assert helped.returncode == 0, helped.stderr
    assert "doctor" in helped.stdout
    for target in TARGETS[::3]:
        emitted = without_torch("emit", SPEC, "--target", target)
        assert emitted.returncode == 0, emitted.stderr
        assert "gs_gemm" in emitted.stdout


def test_a_command_that_needs_torch_says_so():
    ran = without_torch("tune", SPEC)
    assert ran.returncode == 2
    assert "pip install torch" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_doctor_without_torch_and_compiler_says_what_to_install():
    ran = without_torch("doctor")
    assert ran.returncode == 1, ran.stderr
    assert "pip install torch" in ran.stdout


def test_the_package_runs_as_a_module():
    ran = subprocess.run([sys.executable, "-m", "gridstone", "emit", SPEC, "--target", "cpp:avx2"], capture_output=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(b"// Emitted by gridstone")


def test_passes_are_shown_as_comments_so_that_the_output_still_compiles(run):
    plain = run("emit", SPEC, "--target", "cpp:avx2").out
    shown = run("emit", SPEC, "--target", "cpp:avx2", "--passes").out
    assert shown.endswith(plain)
    head = shown.removesuffix(plain).splitlines()
    assert all(line.startswith("//") for line in head)
    names = [line.removeprefix("// pass ") for line in head if line.startswith("// pass ")]
    assert names[0] == "extents"
    assert names[-1] == "budget"
    assert "weight_layout" in names


def test_a_schedule_chooses_its_recipe_and_omitted_fields_are_default(run):
    ran = run("emit", SPEC, "--target", "cpp:avx512", "--schedule", "blocked(m_r=4,n_r=4)", "--json").json
    assert ran["recipe"] == "gemm.cpp.blocked"
    assert "m_r=4,n_r=4,m_chunk=" in ran["schedule"]


def test_rows_between_two_buckets_get_what_a_call_with_them_runs(run):
    """Calls of 65 to 128 rows share a choice, so `emit` shows that one, and takes a schedule that was tuned for it."""
    at = {rows: SPEC.replace("(16,", f"({rows},") for rows in (33, 64, 65, 128)}
    for below, bucket in ((33, 64), (65, 128)):
        few, many = (run("emit", at[m], "--target", "cpp:avx512_bf16", "--json").json for m in (below, bucket))
        assert few["schedule"] == many["schedule"]
        assert few["text"] == many["text"]
    tuned = run("emit", at[33], "--target", "cpp:avx512_bf16", "--schedule", "direct(m_chunk=96)")
    assert tuned.status == 0, tuned.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((SPEC, "--target", "cpp:avx51"), "did you mean cpp:avx512"),
        ((SPEC.replace("int4", "int44"),), "did you mean int4"),
        ((SPEC.replace("silu", "sliu"),), "did you mean silu"),
        ((SPEC, "--schedule", "driect(m_r=4)"), "did you mean direct"),
        ((SPEC, "--schedule", "direct(mr=4)"), "did you mean m_r"),
        ((SPEC, "--target", "cpp:avx2", "--schedule", "direct(m_r=14,n_r=4)"), "fit the vector registers"),
        ((SPEC, "--recipe", "gemm.cpp.gemv"), "M=16; gemv is for M up to 4"),
        ((SPEC, "--recipe", "gemm.cpp.gem"), "did you mean gemm.cpp.gemv"),
        ((SPEC, "--target", "library:torch"), "there is no text to emit"),
        (("gemm[x: f32(4,64), w: f32(64,64)]",), "plain f32 matrix"),
    ],
)
def test_what_cannot_be_emitted_is_refused_with_a_way_out(run, arguments, message):
    ran = run("emit", *arguments)
    assert ran.status == 2
    assert message in ran.err
    assert ran.out == ""
    assert "Traceback" not in ran.err


def test_debug_shows_the_traceback():
    ran = subprocess.run(
        [sys.executable, "-m", "gridstone", "--debug", "emit", "gemm["], capture_output=True, text=True
    )
    assert "Traceback" in ran.stderr


def test_build_without_a_compiler_says_what_to_install(run, monkeypatch):
    monkeypatch.setenv("GRIDSTONE_CXX", "no-such-compiler")
    ran = run("emit", SPEC, "--build")
    assert ran.status == 2
    assert "no-such-compiler" in ran.err
