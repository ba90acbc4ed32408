from __future__ import annotations

from types import SimpleNamespace

import pytest

from gridstone.cli import layers
from gridstone.cli.showcase_tables import schedules_text
from gridstone.cli.tune import served_by
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache.host import host_target
from gridstone.kernel_cache.make import default_book
from gridstone.kernel_cache.records import UNRACED
from gridstone.lower.schedule import print_schedule
from gridstone.lower.target import parse_target
from gridstone.templates.registry import default_recipe
from gridstone.tuner import job
from gridstone.tuner.final import Final
from gridstone.tuner.limits import Limits

SPEC = "gemm[x: f32(M,64), w: int4:g32(64,64)] + relu"


def test_a_second_run_reuses_what_the_first_recorded(run, tuned):
    first = tuned.ran.json
    assert [one["reused"] for one in first] == [False, False]
    assert [one["spec"].split(",")[0] for one in first] == ["gemm[x: f32(1", "gemm[x: f32(8"]  # the bucket of 5
    assert all(one["status"] == "winner" for one in first)
    winners = [record for record in default_book().all() if record.status == "winner"]
    assert {record.schedule for record in winners} == {one["schedule"] for one in first}
    second = run("tune", SPEC, "--m", "1,5", "--budget", "3s", "--json")
    assert [one["reused"] for one in second.json] == [True, True]
    assert [one["schedule"] for one in second.json] == [one["schedule"] for one in first]
    table = run("tune", SPEC, "--m", "5")
    assert "record reused" in table.out


def test_it_says_which_bucket_serves_other_numbers_of_rows(tuned):
    assert "M=5 is served by what is tuned for M=8\n" in tuned.ran.err
    assert "M=1 " not in tuned.ran.err
    specs = [parse_spec(SPEC).bind(M=rows) for rows in (1, 3, 1024, 1025, 5000, 3)]
    assert served_by(specs) == [
        "M=3 is served by what is tuned for M=4",
        "M=1025 is served by what is tuned for M=1024, the largest there is",
        "M=5000 is served by what is tuned for M=1024, the largest there is",
    ]


def test_an_interrupt_keeps_what_was_found(run, empty_cache, monkeypatch, little_search):
    from gridstone.runtime import tune as tuning

    real = tuning.run_tunings

    def interrupted(problems, *arguments, **options):
        yield from real(problems[:1], *arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "run_tunings", interrupted)
    ran = run("tune", SPEC, "--m", "1,16", "--budget", "5s", "--json")
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


def test_bench_times_default_tuned_and_library_side_by_side(run, tuned, monkeypatch):
    monkeypatch.setattr(layers, "measure_limits", lambda part, threads: Limits(1e9, 1e12, 1e12))
    monkeypatch.setattr(layers, "ARENA", 64)
    ran = run("bench", SPEC, "--m", "1,2", "--seconds", "0.1", "--json")
    assert ran.status == 0, ran.err
    one, two = ran.json
    assert (one["m"], two["m"]) == (1, 2)
    assert set(one["seconds"]) == {"library f32", "library bf16", "default", "tuned"}
    assert set(two["seconds"]) == {"library f32", "library bf16", "default"}, "no record serves the bucket of 2"
    assert len({len(samples) for samples in one["samples"].values()}) == 1, "every round times every contestant"
    bits = 64 * 64 * (4 + 16 / 32)  # of the weight; x and y are 64 floats each
    assert one["floor_seconds"] == pytest.approx((bits / 8 + 2 * 64 * 4) / 1e9)
    assert one["roofline_share"] == pytest.approx(one["floor_seconds"] / one["seconds"]["tuned"])
    assert one["rotated_bytes"] >= 8 << 20, "a tiny layer is limited by the number of copies, not by their bytes"


def test_bench_runs_what_was_tuned_for_the_bucket():
    """A schedule for 64 rows may keep more of them in cache than the 33 at hand."""
    target = parse_target("cpp:generic")
    spec = parse_spec("gemm[x: f32(33,64), w: int4:g32@lane16(64,64)]")
    record = SimpleNamespace(recipe="gemm.cpp.direct", target=str(target), schedule="direct(m_chunk=96)")
    entrants, _ = layers.entrants_of(spec, target, record, 1, 0)
    assert [one.names for one in entrants] == [("library f32",), ("library bf16",), ("default",), ("tuned",)]
    for one in entrants[2:]:
        assert one.call(*layers.random_operands(spec)).shape == (33, 64)


def test_bench_times_a_default_that_was_chosen_once(monkeypatch):
    """Breaks when noise makes one kernel two contestants with different speeds."""
    monkeypatch.setattr(layers, "measure_limits", lambda part, threads: Limits(1e9, 1e12, 1e12))
    monkeypatch.setattr(layers, "ARENA", 64)
    target = parse_target("cpp:generic")
    spec = parse_spec("gemm[x: f32(4,64), w: int4:g32@lane16(64,64)]")
    recipe = default_recipe(spec, target)
    record = SimpleNamespace(
        recipe=recipe.name, target=str(target), schedule=print_schedule(recipe.space.default(spec, target))
    )
    monkeypatch.setattr(layers, "tuned_record", lambda *problem: record)
    times = layers.measure_layer(spec, target=target, threads=1, seconds=0.1)
    default, tuned = times.contestants[2:]
    assert (default.name, tuned.name) == ("default", "tuned")
    assert default.samples == tuned.samples
    assert schedules_text([times]) == f"64 x 64, M=4, tuned = default: {record.schedule}"


def test_bench_shows_the_record_of_the_target_that_it_is_given(run, empty_cache, little_search, monkeypatch):
    monkeypatch.setattr(layers, "measure_limits", lambda part, threads: Limits(1e9, 1e12, 1e12))
    monkeypatch.setattr(layers, "ARENA", 64)
    assert host_target() != parse_target("cpp:generic")
    assert run("tune", SPEC, "--m", "1", "--target", "cpp:generic", "--budget", "20s").status == 0
    (other,) = run("bench", SPEC, "--m", "1", "--seconds", "0.1", "--json").json
    assert "tuned" not in other["seconds"], "a winner of another target"
    (one,) = run("bench", SPEC, "--m", "1", "--seconds", "0.1", "--target", "cpp:generic", "--json").json
    assert one["seconds"]["tuned"] > 0


def test_what_was_not_raced_says_so_until_a_larger_budget_does(run, empty_cache, little_search, monkeypatch):
    """The record is that of a search which ended before there was time to race."""
    with monkeypatch.context() as patch:
        patch.setattr(job._Job, "_race", lambda self: Final(self._finalists(), False))
        assert "(not raced: short of time)" in run("tune", SPEC, "--m", "1", "--budget", "20s").out
    assert run("tune", SPEC, "--m", "1", "--budget", "20s", "--json").json[0]["reused"]
    said = " ".join(run("tune", SPEC, "--m", "1", "--budget", "20s").out.split())
    assert "(not raced: short of time; a --budget above 20s for it searches on)" in said
    assert run("cache", "list", "--json").json["winners"][0]["reason"] == UNRACED
    assert "not raced" in run("cache", "list").out
    assert not run("tune", SPEC, "--m", "1", "--budget", "40s", "--json").json[0]["reused"]


def test_bench_says_when_operands_do_not_fit_in_memory(run):
    ran = run("bench", SPEC, "--m", "999999999999")
    assert ran.status == 2
    assert "no memory for the operands of gemm[x: f32(999999999999,64)" in ran.err
    assert "take fewer rows" in ran.err
