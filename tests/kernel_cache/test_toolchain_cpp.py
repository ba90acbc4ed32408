"""The C++ toolchain: which compiler, what is said when it fails, and artefacts without a trace of their place."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from gridstone.ir.errors import BuildError, LaunchError
from gridstone.ir.ops.attention import Attention
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache import toolchain_cpp
from gridstone.kernel_cache.host import host_target, runs_here
from gridstone.kernel_cache.shared_object import fault
from gridstone.kernel_cache.toolchain_cpp import CppToolchain
from gridstone.lower.target import TARGETS, Language
from gridstone.templates.emit import emit
from gridstone.templates.registry import recipe_named
from gridstone.templates.source import Launch, Origin, Source

CHAIN = CppToolchain()
TARGET = host_target()
SPEC = parse_spec("gemm[x: bf16(M,64), w: int4:g32(48,64)]").with_storage("lane16")
ORIGIN = Origin("tests.plain", "", "gemm[...]", "plain(a=1)", str(TARGET))


def source(text: str, entry: str = "gs_gemm", scratch: str = "") -> Source:
    recipe = recipe_named("gemm.cpp.gemv")
    return Source(text, Language.CPP, entry, recipe.params, Launch(scratch, True), ORIGIN)


PLAIN = 'extern "C" __attribute__((visibility("default"))) void gs_gemm() {}\n'


def script(folder: Path, body: str) -> str:
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_gridstone_cxx_comes_before_cxx(monkeypatch, tmp_path):
    mine = script(tmp_path, "echo 'mine 1.0'")
    monkeypatch.setenv("CXX", "c++")
    assert CHAIN.compiler() == "c++"
    monkeypatch.setenv("GRIDSTONE_CXX", f"{mine} --flag")
    assert CHAIN.compiler() == f"{mine} --flag"
    assert dict(CHAIN.identity(TARGET))["compiler"] == "mine 1.0"


def test_without_a_wish_the_first_that_runs_is_taken(monkeypatch, tmp_path):
    monkeypatch.delenv("GRIDSTONE_CXX", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    assert CHAIN.compiler() in ("c++", "g++", "clang++")
    assert CHAIN.missing() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert CHAIN.compiler() is None
    assert "no C++ compiler found; install g++ or clang++, or set GRIDSTONE_CXX" in str(CHAIN.missing())
    with pytest.raises(BuildError, match="no C\\+\\+ compiler found"):
        CHAIN.build(source(PLAIN), TARGET)


@pytest.mark.parametrize("body", ["exit 1", "exit 0", "kill -9 $$"])
def test_a_compiler_that_does_not_even_say_its_version_is_none(monkeypatch, tmp_path, body):
    monkeypatch.setenv("GRIDSTONE_CXX", script(tmp_path, body))
    assert CHAIN.compiler() is None
    assert "does not run; unset GRIDSTONE_CXX and CXX or point them at a C++17 compiler" in str(CHAIN.missing())


def test_a_compiler_that_refuses_is_quoted(monkeypatch, tmp_path):
    """Its own words, what was compiled, and no traceback of ours."""
    body = 'case "$1" in --version) echo fake 1;; *) echo "internal error: planted" >&2; exit 1;; esac'
    monkeypatch.setenv("GRIDSTONE_CXX", script(tmp_path, body))
    with pytest.raises(BuildError, match=r"the compiler refused tests.plain:\ninternal error: planted") as failure:
        CHAIN.build(source(PLAIN), TARGET)
    assert "plain(a=1)" in failure.value.__notes__[0]


def test_a_wrong_text_is_quoted_with_its_line():
    with pytest.raises(BuildError, match=r"refused tests.plain:\n.*kernel.cpp:2:.*error"):
        CHAIN.build(source("int a;\nint b = c;\n"), TARGET)


def test_a_compiler_that_hangs_is_given_up(monkeypatch, tmp_path):
    monkeypatch.setenv(
        "GRIDSTONE_CXX", script(tmp_path, 'case "$1" in --version) echo hanging 1;; *) exec sleep 60;; esac')
    )
    monkeypatch.setattr(toolchain_cpp, "TIMEOUT_S", 0.2)
    with pytest.raises(BuildError, match=r"took over 0 s .point GRIDSTONE_CXX at another"):
        CHAIN.build(source(PLAIN), TARGET)


WRITES = 'while [ "$1" != -o ]; do shift; done; '


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("exit 0", "exits with 0, but wrote no file"),
        (WRITES + ': > "$2"', "exits with 0, but what it wrote is empty"),
        (WRITES + 'echo garbage > "$2"', "what it wrote is no shared object, but 8 bytes that begin with b'garbage"),
        (f'{WRITES}head -c 4000 {sys.executable} > "$2"', "what it wrote is (cut off: 4000 of|no shared object)"),
        (f'{WRITES}echo "int other() {{ return 0; }}" | c++ -shared -fPIC -x c++ - -o "$2"', "has no function gs_gemm"),
    ],
    ids=["nothing", "empty", "garbage", "cut off", "without the function"],
)
def test_a_compiler_that_writes_no_kernel_is_named(monkeypatch, tmp_path, body, told):
    """Its status says that all is well, so what it wrote has to be looked at."""
    mine = script(tmp_path, f'case "$1" in --version) echo fake 1; exit;; esac\n{body}')
    monkeypatch.setenv("GRIDSTONE_CXX", mine)
    with pytest.raises(BuildError, match=rf"the compiler '{mine}' \(fake 1\) .*{told}") as failure:
        CHAIN.build(source(PLAIN), TARGET)
    assert "point GRIDSTONE_CXX at another C++17 compiler" in str(failure.value)
    assert "TMPDIR" not in str(failure.value)


def test_an_object_of_another_machine_is_found_by_its_bytes():
    """A cross compiler's output, or an artefact that another machine left in a shared folder under this one's key."""
    blob = bytearray(CHAIN.build(source(PLAIN), TARGET))
    assert fault(bytes(blob), "gs_gemm") == ""
    assert fault(bytes(blob[:-1]), "gs_gemm").startswith(f"is cut off: {len(blob) - 1} of ")
    assert fault(bytes(blob[:4]), "gs_gemm").startswith("is no shared object, but 4 bytes")
    blob[18] ^= 0x40  # e_machine
    assert fault(bytes(blob), "gs_gemm").startswith("is for another machine: ELF machine ")


@pytest.mark.parametrize(
    ("end", "told"), [("exit 3", "it said nothing and exited with 3"), ("kill -9 $$", "signal 9; .* out of memory")]
)
def test_a_compiler_that_ends_without_a_word_is_not_quoted_as_empty(monkeypatch, tmp_path, end, told):
    monkeypatch.setenv("GRIDSTONE_CXX", script(tmp_path, f'case "$1" in --version) echo fake 1;; *) {end};; esac'))
    with pytest.raises(BuildError, match=rf"the compiler refused tests.plain:\n.*{told}"):
        CHAIN.build(source(PLAIN), TARGET)


def test_words_of_a_compiler_in_another_encoding_are_kept_as_they_can_be(monkeypatch, tmp_path):
    body = "case \"$1\" in --version) printf 'f\\344ke 1\\n';; *) printf 'Gr\\374n' >&2; exit 1;; esac"
    monkeypatch.setenv("GRIDSTONE_CXX", script(tmp_path, body))
    with pytest.raises(BuildError, match=r"Gr.n"):
        CHAIN.build(source(PLAIN), TARGET)


def test_a_compiler_s_variable_that_is_no_command_is_a_missing_compiler(monkeypatch):
    monkeypatch.setenv("GRIDSTONE_CXX", "'unclosed")
    assert 'GRIDSTONE_CXX="\'unclosed" is not a command' in str(CHAIN.missing())
    with pytest.raises(BuildError, match="is not a command: No closing quotation"):
        CHAIN.build(source(PLAIN), TARGET)


def test_an_op_without_a_launcher_is_refused_by_name(tmp_path):
    path = tmp_path / "k.so"
    path.write_bytes(CHAIN.build(source(PLAIN), TARGET))
    with pytest.raises(LaunchError, match=r"no launcher for attention .add it to LAUNCHERS"):
        CHAIN.load(path, source(PLAIN), parse_spec(next(iter(Attention().samples()))))


def test_no_room_to_compile_is_a_build_error(monkeypatch, tmp_path):
    """Breaks when a full disk ends a program instead of a fall-back."""

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    with pytest.raises(BuildError, match=r"No space left on device.*TMPDIR"):
        CHAIN.build(source(PLAIN), TARGET)


def test_equal_sources_give_equal_bytes_wherever_they_are_built(monkeypatch, tmp_path):
    """Breaks when a temporary path or a time gets into an artefact: it could not be shipped or compared."""
    recipe = recipe_named("gemm.cpp.gemv")
    emitted = emit(recipe, SPEC, recipe.space.default(SPEC, TARGET), TARGET)
    first = CHAIN.build(emitted, TARGET)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    second = CHAIN.build(emitted, TARGET)
    assert first == second
    for trace in (str(tmp_path), "gridstone-build", "gridstone-pch"):
        assert trace.encode() not in second


def test_a_precompiled_header_of_another_user_is_not_read(monkeypatch, tmp_path):
    """Breaks when a folder that anybody could have made in /tmp decides what is compiled."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    CHAIN.build(source(PLAIN), TARGET)
    (mine,) = tmp_path.glob("gridstone-pch-*")
    (mine / "prelude.h").write_text("#error planted\n")
    real = os.getuid()
    monkeypatch.setattr(toolchain_cpp.os, "getuid", lambda: real + 1)
    planted = tmp_path / mine.name.replace(f"-{real}-", f"-{real + 1}-")
    planted.mkdir()
    (planted / "prelude.h").write_text("#error planted\n")
    CHAIN.build(source(PLAIN), TARGET)
    assert (planted / "prelude.h").read_text() == "#error planted\n"


def test_an_edited_prelude_is_written_anew(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    CHAIN.build(source(PLAIN), TARGET)
    (header,) = tmp_path.glob("gridstone-pch-*/prelude.h")
    header.write_text("#error planted\n")
    CHAIN.build(source(PLAIN), TARGET)
    assert header.read_text() == toolchain_cpp.PRELUDE


@pytest.mark.parametrize(
    ("text", "entry", "scratch"),
    [(PLAIN, "gs_other", ""), (PLAIN, "gs_gemm", "gs_gemm_scratch"), (None, "gs_gemm", "")],
)
def test_what_cannot_be_loaded_is_a_launch_error(tmp_path, text, entry, scratch):
    path = tmp_path / "k.so"
    path.write_bytes(CHAIN.build(source(PLAIN), TARGET) if text else b"not an object")
    with pytest.raises(LaunchError, match=r"k\.so cannot be loaded: .*point GRIDSTONE_CXX at another C\+\+17 compiler"):
        CHAIN.load(path, source(PLAIN, entry, scratch), SPEC)


def test_the_identity_names_no_place():
    for target in TARGETS.values():
        if target.language is Language.CPP:
            facts = dict(CHAIN.identity(target))
            assert set(facts) == {"compiler", "machine", "flags", "prelude"}
            assert str(Path.home()) not in str(facts)
            assert tempfile.gettempdir() not in str(facts)


def test_flags_relax_no_arithmetic():
    """Breaks when NaN, infinities or the order of sums are given away for speed."""
    banned = ("-ffast-math", "-Ofast", "-ffinite-math-only", "-fassociative-math", "-funsafe-math-optimizations",
              "-march=native", "-mtune=native")  # fmt: skip
    for target in TARGETS.values():
        assert not set(banned) & {*toolchain_cpp.FLAGS, *target.flags}


def test_a_kernel_loaded_first_shares_torch_s_openmp():
    """Breaks when a process holds two OpenMP runtimes: they would fight for cores, and set_num_threads rule one."""
    code = (
        "from gridstone.ir.text import parse_spec\n"
        "from gridstone.kernel_cache.make import make_kernel\n"
        "from gridstone.kernel_cache.host import host_target\n"
        "from gridstone.templates.registry import recipe_named\n"
        "from gridstone.proof.judge import check\n"
        "s = parse_spec('gemm[x: bf16(M,64), w: int4:g32(48,64)]').with_storage('lane16')\n"
        "r, t = recipe_named('gemm.cpp.gemv'), host_target()\n"
        "check(make_kernel(r, s, r.space.default(s, t), t), s.bind(M=2), (1,))\n"
        "maps = {line.split()[-1] for line in open('/proc/self/maps') if 'gomp' in line or 'libomp' in line}\n"
        "assert len(maps) == 1, maps\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert run.returncode == 0, run.stderr


def test_this_machine_runs_what_it_is_given():
    assert runs_here(TARGET)
