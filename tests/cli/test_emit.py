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


GPU = "gemm[x: bf16({rows},8192), w: int4:g128(28672,8192)]"


@pytest.mark.parametrize(
    ("target", "mark", "card"),
    [
        ("cuda:sm_90a", "//", "H200 (4.8 TB/s, 790 TFLOP/s bf16)"),
        ("triton:sm_80", "#", "A100 (2 TB/s, 312 TFLOP/s bf16)"),
    ],
)
def test_a_gpus_kernel_comes_with_a_predicted_time_that_says_so_and_of_which_card(target, mark, card):
    """Without torch, a compiler or a GPU."""
    ran = without_torch("emit", GPU.format(rows=16), "--target", target)
    assert ran.returncode == 0, ran.stderr
    *source, title, time, size, blocks = ran.stdout.splitlines()
    assert title == f"{mark} predicted, not measured: of one {card}, for 16 rows"
    assert re.fullmatch(mark + r"   time +\d+\.\d us, bound by \w+; the floor's \d+\.\d us are \d\d% of it", time)
    assert re.fullmatch(mark + r"   bytes +\d+\.\d MB, 1\.0\d\d times the floor's 122\.3 MB", size)
    assert re.fullmatch(mark + r"   blocks +\d+, \d+ a multiprocessor, \d+\.\d\d waves", blocks)
    assert not any("predicted" in line for line in source)


def test_json_has_the_prediction_and_the_rates_that_it_is_of(run):
    told = run("emit", GPU.format(rows=33), "--target", "cuda:sm_89", "--json").json["predicted"]
    assert (told["card"], told["bandwidth"], told["bf16_flops"]) == ("L40S", 0.86e12, 362e12)
    assert told["bytes_ratio"] == told["bytes"] / told["floor_bytes"] >= 1.0
    assert told["seconds"] > told["floor_seconds"] >= told["floor_bytes"] / 0.86e12
    assert told["engines"][told["bound"]] == max(told["engines"].values())


def test_without_a_number_of_rows_nothing_is_predicted(run):
    symbolic = run("emit", GPU.format(rows="M"), "--target", "triton:sm_90").out
    assert symbolic.splitlines()[-1] == "# nothing is predicted without a number of rows: write one for M"
    assert run("emit", GPU.format(rows="M"), "--target", "triton:sm_90", "--json").json["predicted"] is None
    assert "predicted" not in run("emit", SPEC, "--target", "cpp:avx2", "--json").json


@pytest.mark.parametrize("target", ["triton:sm_90", "cuda:sm_80"])
def test_what_is_printed_around_a_gpus_source_is_comments(run, target):
    shown = run("emit", GPU.format(rows=4), "--target", target, "--passes").out
    text = run("emit", GPU.format(rows=4), "--target", target, "--json").json["text"]
    before, source, after = shown.partition(text)
    assert source == text
    mark = "#" if target.startswith("triton") else "//"
    assert all(line.startswith(mark) for line in [*before.splitlines(), *after.splitlines()])
    assert f"{mark} pass extents" in before
    assert f"{mark} predicted, not measured" in after


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
