"""gridstone replay: searches of recorded tables, as a table for people and as JSON."""

from __future__ import annotations

import json
import re

import pytest

FAILING = 3  # a value of `a` that does not run


def entry(a, b):
    """One configuration; the two recorded runs are a tenth beside the time."""
    seconds = 1.0 + abs(a - 2) + b
    return {
        "configuration": {"a": a, "b": b},
        "times": {"runtimes": [0.9 * seconds, 1.1 * seconds]},
        "invalidity": "compile" if a == FAILING else "correct",
        "measurements": [{"name": "time", "value": seconds, "unit": ""}],
        "objectives": ["time"],
    }


@pytest.fixture
def recorded(tmp_path):
    """A table of 16 configurations with its optimum 1 at a=2, b=0."""
    path = tmp_path / "kernel_T4.json"
    results = [entry(a, b) for a in range(1, 5) for b in range(4)]
    path.write_text(json.dumps({"metadata": {"timeunit": "ms"}, "results": results}))
    return path


@pytest.fixture
def sibling(tmp_path):
    """A cache of another device, of some of the same configurations, with its optimum at a=1, b=1."""
    path = tmp_path / "sibling.json"
    cache = {f"{a},{b}": {"a": a, "b": b, "time": 1.0 + abs(a - 1) + abs(b - 1)} for a in range(1, 4) for b in range(3)}
    path.write_text(json.dumps({"tune_params_keys": ["a", "b"], "cache": cache}))
    return path


def test_json(run, recorded):
    ran = run(
        "replay", str(recorded), "--sampler", "random", "--sampler", "grid", "--evals", "12", "--seeds", "3", "--json"
    )
    assert ran.status == 0, ran.err
    assert [(one["file"], one["sampler"]) for one in ran.json] == [(str(recorded), "random"), (str(recorded), "grid")]
    for one in ran.json:
        assert (one["optimum"], one["unit"], one["configs"]) == (1.0, "ms", 16)
        assert [done["seed"] for done in one["runs"]] == [0, 1, 2]
        for done in one["runs"]:
            values = done["values"]
            assert len(values) == 12
            assert None in values  # an invalid one, which is an evaluation too
            known = [value for value in values if value is not None]
            assert set(known) <= {1.0 + a + b for a in range(3) for b in range(4)}
            assert done["winner_true"] == min(known)
            assert 1.0 + abs(done["winner"]["a"] - 2) + done["winner"]["b"] == min(known)


def test_equal_runs_print_the_same(run, recorded):
    arguments = ("replay", str(recorded), "--evals", "12", "--seeds", "2", "--noise", "--json")
    assert run(*arguments).json == run(*arguments).json


def test_nothing_valid_is_no_winner(run, tmp_path):
    path = tmp_path / "mostly.json"
    results = [entry(FAILING, b) for b in range(40)]
    results[13]["invalidity"] = "correct"
    path.write_text(json.dumps({"results": results}))
    done = run("replay", str(path), "--sampler", "grid", "--evals", "2", "--seeds", "1", "--json").json[0]["runs"][0]
    assert done == {"seed": 0, "values": [None, None], "winner": None, "winner_true": None}
    table = run("replay", str(path), "--sampler", "grid", "--evals", "2", "--seeds", "1")
    assert table.status == 0
    assert re.search(r"mostly\.json +grid +1 +0\.000 +0% ", table.out)


def test_table(run, recorded):
    ran = run("replay", str(recorded), "--sampler", "random", "--evals", "16", "--seeds", "5")
    assert ran.status == 0, ran.err
    header, row = (line for line in ran.out.splitlines() if line.startswith(("file ", "kernel_T4.json ")))
    assert header.split() == ["file", "sampler", "runs", "@10", "at", "95", "%", "P", "regret"]
    name, sampler, runs, share, close, _, lost = row.split()
    assert (name, sampler, runs, close, lost) == ("kernel_T4.json", "random", "5", "100%", "0.00%")
    assert 0 < float(share) <= 1
    assert "P: 0 as good as random search" in ran.out
    assert "kernel_T4.json random: 5 of 5 runs" in ran.err


def test_short_runs_show_their_end(run, recorded):
    ran = run("replay", str(recorded), "--sampler", "grid", "--evals", "3", "--seeds", "1")
    assert "@3" in ran.out


def test_noise_draws_the_recorded_runs(run, recorded):
    arguments = ("replay", str(recorded), "--sampler", "random", "--evals", "16", "--seeds", "2", "--json")
    plain, noisy = run(*arguments).json[0]["runs"], run(*arguments, "--noise").json[0]["runs"]
    exact = {1.0 + a + b for a in range(3) for b in range(4)}
    assert {value for done in plain for value in done["values"]} <= {*exact, None}
    drawn = {value for done in noisy for value in done["values"]} - {None}
    assert drawn - exact
    assert all(
        any(0.9 * one <= value * (1 + 1e-12) and value <= 1.1 * one * (1 + 1e-12) for one in exact) for value in drawn
    )
    assert all(done["winner_true"] in exact for done in noisy)


def test_a_warm_start_begins_where_the_sibling_was_best(run, recorded, sibling):
    arguments = ("replay", str(recorded), "--evals", "12", "--seeds", "2", "--json")
    warm = run(*arguments, "--warm-start", str(sibling)).json[0]["runs"]
    assert [done["values"][0] for done in warm] == [3.0, 3.0]  # of a=1, b=1
    itself = run(*arguments, "--warm-start", str(recorded)).json[0]["runs"]
    assert [done["values"][0] for done in itself] == [1.0, 1.0]


def test_an_unrelated_warm_start_is_refused(run, recorded, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"tune_params_keys": ["c"], "cache": {"1": {"c": 1, "time": 1.0}}}))
    ran = run("replay", str(recorded), "--warm-start", str(other))
    assert ran.status == 2
    assert ran.out == ""
    assert f"{other} and {recorded} have no configuration in common" in ran.err
    assert "warm-start from the same kernel's table" in ran.err


def test_an_unknown_sampler_names_the_nearest(run, recorded):
    ran = run("replay", str(recorded), "--sampler", "ranom")
    assert (ran.status, ran.out) == (2, "")
    assert "unknown sampler 'ranom' (did you mean random?)" in ran.err


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "there is no file"), ("", "is not JSON"), ("{}", "is no recorded table"), ("{'a': 1}", "is not JSON")],
)
def test_a_bad_file_is_named(run, recorded, tmp_path, content, problem):
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content)
    for arguments in ((str(path),), (str(recorded), str(path)), (str(recorded), "--warm-start", str(path))):
        ran = run("replay", *arguments)
        assert (ran.status, ran.out) == (2, "")
        assert problem in ran.err
        assert str(path) in ran.err
        assert "Traceback" not in ran.err


@pytest.mark.parametrize("option", ["--evals", "--seeds"])
def test_numbers_below_one_are_refused(run, recorded, option):
    assert run("replay", str(recorded), option, "0").status == 2


def test_an_interrupt_keeps_the_runs_that_were_done(run, recorded, monkeypatch):
    from gridstone.tuner import replay

    real = replay.runs

    def interrupted(table, evaluations, seeds, **options):
        yield from real(table, evaluations, list(seeds)[:2], **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(replay, "runs", interrupted)
    ran = run("replay", str(recorded), "--sampler", "random", "--evals", "4", "--seeds", "9", "--json")
    assert ran.status == 130
    assert [done["seed"] for done in ran.json[0]["runs"]] == [0, 1]
    assert "interrupted" in ran.err
