from __future__ import annotations

import pytest

from gridstone.kernel_cache.make import default_book

SPEC = "gemm[x: f32(M,64), w: int4:g32(64,64)] + relu"


def test_a_second_run_reuses_what_the_first_recorded(run, empty_cache):
    first = run("tune", SPEC, "--m", "1,5", "--budget", "3s", "--json")
    assert first.status == 0, first.err
    assert [one["reused"] for one in first.json] == [False, False]
    assert [one["spec"].split(",")[0] for one in first.json] == ["gemm[x: f32(1", "gemm[x: f32(8"]  # the bucket of 5
    assert all(one["status"] == "winner" for one in first.json)
    winners = [record for record in default_book().all() if record.status == "winner"]
    assert {record.schedule for record in winners} == {one["schedule"] for one in first.json}
    second = run("tune", SPEC, "--m", "1,5", "--budget", "3s", "--json")
    assert [one["reused"] for one in second.json] == [True, True]
    assert [one["schedule"] for one in second.json] == [one["schedule"] for one in first.json]
    table = run("tune", SPEC, "--m", "5")
    assert "record reused" in table.out


def test_an_interrupt_keeps_what_was_found(run, empty_cache, monkeypatch):
    from gridstone.runtime import tune as tuning

    real = tuning.run_tunings

    def interrupted(problems, *arguments, **options):
        yield from real(problems[:1], *arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "run_tunings", interrupted)
    ran = run("tune", SPEC, "--m", "1,16", "--budget", "2s", "--json")
    assert ran.status == 130
    assert "1 of 2 problems" in ran.err
    assert len(ran.json) == 1
    assert any(record.status == "winner" for record in default_book().all())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((SPEC,), "M is symbolic"),
        ((SPEC, "--m", "0"), "not a list of positive numbers"),
        ((SPEC.replace("M", "4"), "--m", "4"), "which has its own"),
        ((SPEC, "--m", "1", "--budget", "soon"), "'soon' is not a duration"),
        ((SPEC, "--m", "1", "--budget", "0s"), "not positive"),
        ((SPEC, "--m", "1", "--target", "cpp:avx9"), "did you mean cpp:avx2"),
        ((SPEC, "--m", "1", "--sampler", "tpr"), "did you mean tpe"),
        ((SPEC.replace("M", "T"), "--m", "1"), "only M may be symbolic"),
    ],
)
def test_what_cannot_be_tuned_is_refused_with_a_way_out(run, arguments, message):
    ran = run("tune", *arguments)
    assert ran.status == 2
    assert message in ran.err
    assert "Traceback" not in ran.err


def test_bench_times_default_tuned_and_library_side_by_side(run, empty_cache):
    assert run("tune", SPEC, "--m", "2", "--budget", "1s", "--json").status == 0
    ran = run("bench", SPEC, "--m", "2,3", "--seconds", "0.3", "--json")
    assert ran.status == 0, ran.err
    two, three = ran.json
    assert (two["m"], three["m"]) == (2, 3)
    assert set(two["seconds"]) == {"library f32", "library bf16", "default", "tuned"}
    assert set(three["seconds"]) == {"library f32", "library bf16", "default"}, "no record serves the bucket of 3"
    assert len({len(samples) for samples in two["samples"].values()}) == 1, "every round times every contestant"
    assert two["roofline_share"] > 0
    assert two["rotated_bytes"] >= 8 << 20, "a tiny layer is limited by the number of copies, not by their bytes"
