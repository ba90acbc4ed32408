"""make_kernel: what is built once, what makes it be built again, and what happens when nothing can be."""

from __future__ import annotations

import errno
import logging
import os

import pytest

from gridstone.ir.errors import BuildError, LaunchError, ScheduleError
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache import files, make
from gridstone.kernel_cache.host import host_target
from gridstone.kernel_cache.make import TOOLCHAINS, artefact_key, default_store, make_kernel
from gridstone.kernel_cache.store import Store
from gridstone.lower.schedule import parse_schedule
from gridstone.lower.target import Language, parse_target
from gridstone.proof.check import check
from gridstone.templates.emit import emit
from gridstone.templates.registry import recipe_named

RECIPE = recipe_named("gemm.cpp.gemv")
TEXT = "gemm[x: bf16({m},64), w: int4:g32(48,64)]"
SPEC = parse_spec(TEXT.format(m="M")).with_storage("lane16")
TARGET = host_target()


@pytest.fixture
def builds(monkeypatch):
    """How often the C++ compiler was asked for a kernel."""
    chain, asked = TOOLCHAINS[Language.CPP], []
    real = chain.build
    monkeypatch.setattr(
        chain, "build", lambda source, target: asked.append(source) or real(source, target), raising=False
    )
    return asked


def make_one(spec=SPEC, store=None):
    return make_kernel(RECIPE, spec, RECIPE.space.default(spec, TARGET), TARGET, store)


def assert_right(kernel):
    check(kernel, SPEC.bind(M=3), (1,))


def test_a_kernel_is_built_once(builds, empty_cache):
    """Breaks when a second process, or a second M, compiles again."""
    for m in ("M", 1, 3, 4):
        spec = parse_spec(TEXT.format(m=m)).with_storage("lane16")
        make_kernel(RECIPE, spec, RECIPE.space.default(SPEC, TARGET), TARGET)
    assert len(builds) == 1
    assert_right(make_one(store=Store(empty_cache, 1 << 30)))
    assert len(builds) == 1


def test_a_native_storage_is_the_target_s(builds, empty_cache):
    make_one(parse_spec(TEXT.format(m="M")))
    make_one()
    assert len(builds) == 1


def test_the_key_holds_all_that_an_artefact_depends_on():
    """Breaks when a change of text, flags, compiler, header or target finds the old artefact."""
    source = emit(RECIPE, SPEC, RECIPE.space.default(SPEC, TARGET), TARGET)
    key = artefact_key(source, TARGET)
    fields = dict(key.fields)
    assert fields["text"] == source.text
    assert fields["target"] == str(TARGET)
    assert all(flag in fields["flags"] for flag in TARGET.flags)
    assert "omp.h" in fields["prelude"]
    assert fields["compiler"] not in ("", "none")
    assert len({key.digest, artefact_key(source, parse_target("cpp:generic")).digest}) == 2
    assert not any(os.sep + "tmp" in value or str(os.getpid()) in value for name, value in key.fields if name != "text")


def test_another_compiler_is_another_key(monkeypatch, tmp_path):
    source = emit(RECIPE, SPEC, RECIPE.space.default(SPEC, TARGET), TARGET)
    before = artefact_key(source, TARGET).digest
    script = tmp_path / "cc"
    script.write_text("#!/bin/sh\necho 'c++ 99.1'\n")
    script.chmod(0o755)
    monkeypatch.setenv("GRIDSTONE_CXX", str(script))
    assert artefact_key(source, TARGET).digest != before


def blobs(cache):
    return sorted(path for path in (cache / "blobs").rglob("*") if path.is_file())


def spoil_truncate(path):
    os.truncate(path, 100)


def spoil_edit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("spoil", [spoil_truncate, spoil_edit, lambda path: path.write_bytes(b""), os.unlink])
def test_a_damaged_artefact_is_set_aside_and_built_again(spoil, builds, empty_cache):
    make_one()
    (blob,) = blobs(empty_cache)
    fresh = blob.read_bytes()
    os.rename(blob, blob.with_suffix(".old"))  # what this process has mapped stays as it is
    blob.write_bytes(fresh)
    os.unlink(blob.with_suffix(".old"))
    spoil(blob)
    assert_right(make_one(store=Store(empty_cache, 1 << 30)))
    assert len(builds) == 2
    assert blobs(empty_cache) == [blob]
    assert len(list((empty_cache / "quarantine").glob("*"))) >= (0 if spoil is os.unlink else 1)


@pytest.mark.parametrize("text", ["", "{", '{"kind":"entry"}'])
def test_a_damaged_entry_is_set_aside_and_built_again(text, builds, empty_cache):
    make_one()
    (entry,) = (path for path in (empty_cache / "entries").rglob("*.json"))
    entry.write_text(text)
    assert_right(make_one(store=Store(empty_cache, 1 << 30)))
    assert len(builds) == 2
    assert len(list((empty_cache / "quarantine").glob("*"))) == 1


def test_a_folder_that_cannot_be_written_costs_only_keeping(monkeypatch, tmp_path, dispatcher, caplog):
    """The kernel is built into a private place, with one warning that says why and what to do."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GRIDSTONE_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING, "gridstone"):
        assert_right(make_one())
        assert_right(make_one())
    warnings = [record.getMessage() for record in caplog.records if record.name == "gridstone"]
    assert len(warnings) == 1
    assert "cannot be written" in warnings[0]
    assert "GRIDSTONE_CACHE_DIR" in warnings[0]


def test_a_full_folder_costs_only_keeping(monkeypatch, tmp_path, dispatcher, caplog):
    cache = tmp_path / "full"
    monkeypatch.setenv("GRIDSTONE_CACHE_DIR", str(cache))
    real = os.write

    def write(file, data):
        if str(cache) in os.readlink(f"/proc/self/fd/{file}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, data)

    monkeypatch.setattr(files.os, "write", write)
    with caplog.at_level(logging.WARNING, "gridstone"):
        assert_right(make_one())
    monkeypatch.undo()
    warnings = [record.getMessage() for record in caplog.records if record.name == "gridstone"]
    assert len(warnings) == 1
    assert "free space there" in warnings[0]


def test_an_infeasible_schedule_is_refused_by_its_constraint_s_name():
    wrong = parse_schedule("gemv(k_splits=4)", RECIPE.schedule, RECIPE.space.default(SPEC, TARGET))
    with pytest.raises(ScheduleError, match="K is split only where"):
        make_kernel(RECIPE, SPEC, wrong, TARGET)


def test_a_target_of_another_machine_is_refused(monkeypatch):
    monkeypatch.setattr(make, "runs_here", lambda target: False)
    with pytest.raises(LaunchError, match=f"{TARGET} does not run on this machine .*gridstone doctor"):
        make_one()


def test_without_a_compiler_nothing_is_built(monkeypatch):
    monkeypatch.setenv("GRIDSTONE_CXX", "/nonexistent")
    with pytest.raises(
        BuildError, match=r"nothing can be built for cpp:.*'/nonexistent' does not run; unset GRIDSTONE_CXX"
    ):
        make_one()


def test_the_library_needs_no_compiler(monkeypatch):
    monkeypatch.setenv("GRIDSTONE_CXX", "/nonexistent")
    library, on = recipe_named("gemm.library.torch"), parse_target("library:torch")
    assert_right(make_kernel(library, SPEC, library.space.default(SPEC, on), on))


def test_an_artefact_of_a_broken_build_is_not_kept(monkeypatch, empty_cache):
    """Breaks when a failure is remembered: a repaired machine would go on failing."""
    chain = TOOLCHAINS[Language.CPP]

    def fail(source, target):
        raise BuildError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(chain, "build", fail, raising=False)
        with pytest.raises(BuildError, match="planted"):
            make_one()
    assert blobs(empty_cache) == []
    assert_right(make_one())


def test_the_store_is_the_environment_s(monkeypatch, tmp_path):
    monkeypatch.setenv("GRIDSTONE_CACHE_DIR", str(tmp_path / "a"))
    first = default_store()
    assert first.root == tmp_path / "a"
    assert default_store() is first
    monkeypatch.setenv("GRIDSTONE_CACHE_DIR", str(tmp_path / "b"))
    assert default_store().root == tmp_path / "b"
