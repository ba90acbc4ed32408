from __future__ import annotations

from pathlib import Path

from gridstone.cli.emit import emitted_for
from gridstone.kernel_cache.make import build

SPEC = "gemm[x: f32(2,64), w: int4:g32(64,64)]"


def keep(spec: str) -> Path:
    emitted = emitted_for(spec, "auto")
    return build(emitted.source, emitted.target)


def test_info_list_and_clear(run, empty_cache):
    assert run("cache", "info", "--json").json["entries"] == 0
    keep(SPEC)
    told = run("cache", "info", "--json").json
    assert (told["entries"], told["folder"]) == (1, str(empty_cache))
    (artefact,) = run("cache", "list", "--json").json["artefacts"]
    assert artefact["spec"].startswith("gemm[x: f32(M,64), w: int4:g32@lane16(64,64)]")
    assert artefact["schedule"].startswith("gemv(")
    assert str(empty_cache) in run("cache").out.replace("\n", "")
    assert run("cache", "clear", "--json").json["removed"] == 1
    assert run("cache", "info", "--json").json["entries"] == 0


def test_verify_finds_a_damaged_artefact(run, empty_cache):
    path = keep(SPEC)
    assert run("cache", "verify").status == 0
    path.chmod(0o600)
    path.write_bytes(b"damaged")
    ran = run("cache", "verify", "--json")
    assert ran.status == 1
    assert len(ran.json["problems"]) >= 1


def test_explain_miss_names_the_first_differing_field(run, empty_cache):
    keep(SPEC)
    assert "is not a miss" in run("cache", "explain-miss", SPEC, "--json").json["explanation"]
    missed = run("cache", "explain-miss", SPEC.replace("g32", "g64"), "--json").json["explanation"]
    assert "differs first in text" in missed
    assert "int4:g64" in missed


def test_prune_says_how_much_it_freed(run, empty_cache):
    assert run("cache", "prune", "--json").json["freed_bytes"] == 0


def test_an_unknown_command_is_refused(run):
    assert run("cache", "lsit").status == 2
