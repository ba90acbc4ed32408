from __future__ import annotations

import sys

import pytest

from gridstone.cli import machine, trial
from gridstone.cli.trial import Trial

GARBAGE = """#!/bin/sh
if [ "$1" = --version ]; then echo "fake 1.0"; exit 0; fi
while [ $# -gt 0 ]; do if [ "$1" = -o ]; then echo garbage > "$2"; fi; shift; done
"""


def findings(ran):
    return {finding["name"]: finding for finding in ran.json["findings"]}


def script(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def works(monkeypatch):
    """What is not about the tiny kernel need not build it."""
    monkeypatch.setattr(machine, "attempt", lambda: Trial("built", "", ("libgomp.so.1",)))


def test_it_builds_runs_and_checks_a_kernel(run):
    ran = run("doctor", "--json")
    assert ran.status == 0, ran.err
    assert ran.json["works"] is True
    found = findings(ran)
    assert "results right" in found["a tiny kernel"]["value"]
    assert "shared with torch" in found["OpenMP"]["value"]
    for name in ("processor", "caches", "targets", "compiler", "torch", "numpy", "optuna", "triton", "CUDA", "cache"):
        assert found[name]["value"], name
    missing = [finding for finding in ran.json["findings"] if not finding["fine"]]
    assert all(finding["remedy"] for finding in missing)


def test_without_a_compiler_it_fails_and_says_what_to_do(run, monkeypatch):
    monkeypatch.setenv("GRIDSTONE_CXX", "no-such-compiler")
    ran = run("doctor", "--json")
    assert ran.status == 1
    compiler = findings(ran)["compiler"]
    assert not compiler["fine"]
    assert "no-such-compiler" in compiler["value"]
    assert "g++" in compiler["remedy"]


def test_a_compiler_that_writes_garbage_is_found(run, monkeypatch, tmp_path):
    """It answers --version and exits with 0: only loading what it wrote shows that it is broken."""
    monkeypatch.setenv("GRIDSTONE_CXX", script(tmp_path / "fake-c++", GARBAGE))
    ran = run("doctor", "--json")
    assert ran.status == 1
    assert findings(ran)["compiler"]["fine"]
    tiny = findings(ran)["a tiny kernel"]
    assert not tiny["fine"]
    assert "fake-c++" in tiny["value"]
    assert "garbage" in tiny["value"]
    assert "GRIDSTONE_CXX" in tiny["remedy"]


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("kill -SEGV $$", "it was built, and crashed the process that ran it (SIGSEGV)"),
        ("echo no json", "ended with status 0: nothing was said"),
        ("echo why >&2; exit 3", "ended with status 3: why"),
        ("sleep 100", "it did not end within 0 s"),
    ],
)
def test_a_kernel_that_crashes_or_hangs_does_not_take_the_doctor_with_it(monkeypatch, tmp_path, does, said):
    monkeypatch.setattr(sys, "executable", script(tmp_path / "python", f"#!/bin/sh\n{does}\n"))
    monkeypatch.setattr(trial, "LIMIT_S", 0.3 if "sleep" in does else 60.0)
    found = trial.attempt()
    assert said in found.said
    assert "GRIDSTONE_CXX" in found.remedy


def test_a_cache_that_cannot_be_used_is_found(run, monkeypatch, works):
    monkeypatch.setenv("GRIDSTONE_CACHE_LIMIT", "enormous")
    ran = run("doctor", "--json")
    assert ran.status == 0, "the default limit holds"
    cache = findings(ran)["cache"]
    assert not cache["fine"]
    assert "GRIDSTONE_CACHE_LIMIT='enormous' is not a size" in cache["value"]
    assert "2GiB" in cache["remedy"]


def test_the_table_is_for_people(run, works):
    ran = run("doctor")
    assert "Kernels can be built and run here." in ran.out


def test_a_gpu_that_cannot_be_used_says_why(run, works, monkeypatch):
    monkeypatch.setattr(machine, "_nvidia", lambda: "NVIDIA H200, 580.1")
    monkeypatch.setattr(machine, "why_not_here", lambda target: "" if target.arch == "sm_90a" else "of another kind")
    found = findings(run("doctor", "--json"))["CUDA"]
    assert (found["value"], found["fine"]) == ("NVIDIA H200, 580.1; targets cuda:sm_90a", True)
    monkeypatch.setattr(machine, "why_not_here", lambda target: "torch sees no NVIDIA GPU")
    found = findings(run("doctor", "--json"))["CUDA"]
    assert found["value"] == "NVIDIA H200, 580.1; targets none"
    assert (found["fine"], found["remedy"]) == (False, "torch sees no NVIDIA GPU")
