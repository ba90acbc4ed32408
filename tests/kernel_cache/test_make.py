"""make_kernel: what is built once, what makes it be built again, and what happens when nothing can be."""

from __future__ import annotations

import errno
import logging
import os

import pytest

from gridstone.ir.errors import BuildError, LaunchError, ScheduleError
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache import files, make, toolchain_cpp
from gridstone.kernel_cache.host import host_target
from gridstone.kernel_cache.make import TOOLCHAINS, artefact_key, default_store, make_kernel, verify_cache
from gridstone.kernel_cache.store import Store
from gridstone.lower.schedule import parse_schedule
from gridstone.lower.target import Language, parse_target
from gridstone.proof.judge import check
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


def key_of_one():
    return artefact_key(emit(RECIPE, SPEC, RECIPE.space.default(SPEC, TARGET), TARGET), TARGET)


def cut(blob):
    return blob[: len(blob) // 3]  # a loader that maps it dies of a bus error


def without_the_function(blob):
    return blob.replace(b"gs_gemm\0", b"gs_gone\0")


def for_another_machine(blob):
    return blob[:18] + b"\xf3\0" + blob[20:]  # RISC-V


@pytest.mark.parametrize(
    "spoil",
    [lambda blob: b"", lambda blob: b"garbage", lambda blob: blob[:-1], cut, without_the_function, for_another_machine],
)
def test_an_artefact_that_cannot_be_loaded_is_found_set_aside_and_built_once_more(spoil, builds, empty_cache):
    """Its hash is right, for these are the bytes that were kept: breaks when every later run fails on them."""
    key = key_of_one()
    bad = default_store().put(key, spoil(TOOLCHAINS[Language.CPP].build(builds_of(key), TARGET)), ".so")
    (problem,) = verify_cache()
    assert key.digest in problem
    builds.clear()
    assert_right(make_one())
    assert len(builds) == 1
    assert verify_cache() == []
    assert not bad.exists()
    assert len(list((empty_cache / "quarantine").iterdir())) == 2  # the entry and its blob
    make_one(store=Store(empty_cache, 1 << 30))
    assert len(builds) == 1


def builds_of(key):
    source = emit(RECIPE, SPEC, RECIPE.space.default(SPEC, TARGET), TARGET)
    assert artefact_key(source, TARGET) == key
    return source


def refuse_to_load(monkeypatch, message="libomp.so: cannot open shared object file"):
    def fail(path):
        raise OSError(message)

    monkeypatch.setattr(toolchain_cpp.ctypes, "CDLL", fail)


def test_what_the_loader_refuses_again_is_a_build_error_and_not_kept(builds, empty_cache, monkeypatch):
    """Set aside, built once more, and then said: which compiler, in the loader's words, and how to change it."""
    make_one()
    refuse_to_load(monkeypatch)
    with pytest.raises(BuildError, match=r"makes cannot be loaded: .*libomp.so: cannot open") as failure:
        make_one()
    assert dict(key_of_one().fields)["compiler"] in str(failure.value)
    assert "point GRIDSTONE_CXX at another C++17 compiler" in str(failure.value)
    assert len(builds) == 2
    assert (blobs(empty_cache), default_store().entries()) == ([], ())
    with pytest.raises(BuildError):
        make_one()
    assert len(builds) == 3  # of what was just built there is nothing to build again
    assert "could not be loaded, and is in the folder quarantine" in default_store().explain_miss(key_of_one())


def test_a_read_only_cache_with_a_bad_artefact_costs_only_keeping(builds, empty_cache, monkeypatch):
    """The bad one cannot be moved away: breaks when it is found again in place of the one that was built."""
    key = key_of_one()
    default_store().put(key, b"garbage", ".so")

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("rename", "unlink", "mkdir", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            files.os, name, lambda path, *rest, real=real, **more: (refuse if str(empty_cache) in str(path) else real)(path, *rest, **more),  # noqa: E501
        )  # fmt: skip
    assert_right(make_one())
    assert_right(make_one())
    assert len(builds) == 1


def test_a_cache_that_nothing_may_be_loaded_from_is_named_and_left_as_it_is(builds, empty_cache, monkeypatch):
    make_one()
    refuse_to_load(monkeypatch, "failed to map segment from shared object")
    monkeypatch.setattr(files.os, "statvfs", lambda path: os.statvfs_result((0,) * 8 + (os.ST_NOEXEC, 255)))
    with pytest.raises(
        LaunchError, match="set GRIDSTONE_CACHE_DIR to a folder whose file system is not mounted noexec"
    ):
        make_one()
    assert len(builds) == 1
    assert len(blobs(empty_cache)) == 1


def test_a_folder_shared_by_two_machines_serves_neither_the_other_s_artefacts(monkeypatch, empty_cache):
    """cpp:generic has the same flags everywhere, and two compilers of one release call themselves the same."""
    key = key_of_one()
    assert dict(key.fields)["machine"] == toolchain_cpp.MACHINE
    monkeypatch.setattr(toolchain_cpp, "MACHINE", "linux-riscv64")
    assert key_of_one().digest != key.digest
    default_store().put(key_of_one(), b"an object of that machine", ".so")
    monkeypatch.undo()
    monkeypatch.setenv("GRIDSTONE_CACHE_DIR", str(empty_cache))
    assert verify_cache() == []  # it is of use there


def test_a_bad_limit_is_warned_of_once_and_kernels_are_kept(monkeypatch, empty_cache, builds, caplog):
    monkeypatch.setenv("GRIDSTONE_CACHE_LIMIT", "two gigabytes")
    with caplog.at_level(logging.WARNING, "gridstone"):
        assert_right(make_one())
        assert_right(make_one())
    (warning,) = (record.getMessage() for record in caplog.records if record.name == "gridstone")
    assert "GRIDSTONE_CACHE_LIMIT='two gigabytes' is not a size, so the limit is 2 GiB (write" in warning
    assert len(builds) == 1


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
