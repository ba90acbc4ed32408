from __future__ import annotations

from pathlib import Path

import torch

from gridstone.cli.emit import emitted_for
from gridstone.ir.text import parse_spec, print_spec
from gridstone.kernel_cache.host import device_name
from gridstone.kernel_cache.make import artefact_key, build, default_book, default_store
from gridstone.kernel_cache.records import Environment, Proof, Record

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


def test_verify_finds_an_artefact_that_cannot_be_loaded(run, empty_cache):
    """Its bytes are those that were kept, so no hash tells."""
    emitted = emitted_for(SPEC, "auto")
    default_store().put(artefact_key(emitted.source, emitted.target), b"rubbish", ".so")
    ran = run("cache", "verify", "--json")
    assert ran.status == 1
    (problem,) = ran.json["problems"]
    assert "is no shared object, but 7 bytes that begin with b'rubbish'" in problem


def test_explain_miss_says_that_a_tuning_record_is_stale(run, empty_cache):
    emitted = emitted_for(SPEC, "auto")
    origin, on = emitted.source.origin, device_name(emitted.target)
    spec, threads = print_spec(parse_spec(SPEC).with_storage(emitted.target.storage)), torch.get_num_threads()
    then = Environment("0.1.0", "2.10.0", "c++ (GCC) 4.9.2", on, "", threads, "2026-01-01T00:00:00")
    texts = (spec, origin.target, origin.recipe, origin.recipe_hash, origin.schedule)
    default_book().put(spec, on, threads, (Record(*texts, (1e-6,), "winner", "", then, Proof(2, 0.5, 0.5)),))
    told = run("cache", "explain-miss", SPEC, "--json").json["explanation"]
    assert "the tuned record is stale: it was measured with gcc 4, and this is " in told
    assert "stale" not in run("cache", "explain-miss", SPEC.replace("(2,", "(M,"), "--json").json["explanation"]


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
