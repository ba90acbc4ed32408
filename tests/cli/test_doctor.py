from __future__ import annotations


def findings(ran):
    return {finding["name"]: finding for finding in ran.json["findings"]}


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


def test_a_cache_that_cannot_be_used_is_found(run, monkeypatch):
    monkeypatch.setenv("GRIDSTONE_CACHE_LIMIT", "enormous")
    ran = run("doctor", "--json")
    assert not findings(ran)["cache"]["fine"]
    assert "2GiB" in findings(ran)["cache"]["remedy"]


def test_the_table_is_for_people(run):
    ran = run("doctor")
    assert "Kernels can be built and run here." in ran.out
