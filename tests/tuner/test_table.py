"""Recorded tables: what is read of both formats, and that every file that is no table says so."""

from __future__ import annotations

import gzip
import json
import math

import numpy as np
import pytest

from gridstone.ir.errors import GridstoneError
from gridstone.tuner import table as tables
from gridstone.tuner.table import read_table


def result(configuration, value, *, runs=(), invalidity="correct", correctness=1, objective="time"):
    return {
        "configuration": configuration,
        "times": {"compilation": 1.0, "runtimes": list(runs)},
        "invalidity": invalidity,
        "correctness": correctness,
        "measurements": [{"name": "power", "value": 9.0, "unit": "W"}, {"name": objective, "value": value, "unit": ""}],
        "objectives": [objective],
    }


T4 = {
    "metadata": {"timeunit": "milliseconds"},
    "results": [
        result({"bx": 16, "by": 0.5, "pad": True, "order": "ij"}, 2.0, runs=(1.9, 2.1)),
        result({"bx": 32, "by": 0.5, "pad": False, "order": "ji"}, 1.5, runs=(1.5,)),
        result({"bx": 2, "by": 1.0, "pad": True, "order": "ij"}, 4.0),
        result({"bx": 16, "by": 0.25, "pad": True, "order": "ij"}, "InvalidConfig", invalidity="constraints"),
        result({"bx": 16, "by": 2.0, "pad": True, "order": "ij"}, 1e-3, invalidity="runtime"),
        result({"bx": 16, "by": 4.0, "pad": True, "order": "ij"}, 1e-3, correctness=0),
    ],
}
CACHE = {
    "device_name": "Some GPU",
    "kernel_name": "convolve",
    "problem_size": [64, 64],
    "tune_params_keys": ["bx", "by", "order"],
    "tune_params": {"bx": [16, 32], "by": [0.5, 2.0], "order": ["ij", "ji"]},
    "objective": "time",
    "cache": {
        "16,0.5,ij": {"bx": 16, "by": 0.5, "order": "ij", "time": 2.0, "times": [1.9, 2.1], "GFLOP/s": 7.5},
        "32,0.5,ij": {"bx": 32, "by": 0.5, "order": "ij", "time": 1.25, "times": [1.25]},
        "16,2.0,ij": {"bx": 16, "by": 2.0, "order": "ij", "time": "InvalidConfig"},
        "32,2.0,ij": {"bx": 32, "by": 2.0, "order": "ij", "time": 1e20},
        "16,0.5,ji": {"bx": 16, "by": 0.5, "order": "ji", "time": 0.5, "__error__": "RuntimeFailedConfig"},
        "32,0.5,ji": {"bx": 32, "by": 0.5, "order": "ji", "__error__": "CompilationFailedConfig"},
    },
}


@pytest.fixture
def written(tmp_path):
    """Write something as a file and return its path."""

    def write(content, name="table.json", zipped=False):
        path = tmp_path / name
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        path.write_bytes(gzip.compress(raw) if zipped else raw)
        return path

    return write


def seconds_by_name(table):
    return {
        tuple(table.configuration(point).values()): float(table.seconds[point]) for point in range(table.points.size)
    }


@pytest.mark.parametrize("zipped", [False, True])
class TestGoodFiles:
    def test_t4(self, written, zipped):
        table = read_table(written(T4, zipped=zipped))
        axes = {axis.field: axis.values for axis in table.points.branches[0].axes}
        assert axes == {"bx": (2, 16, 32), "by": ("0.25", "0.5", 1, 2, 4), "pad": (False, True), "order": ("ij", "ji")}
        assert (table.name, table.unit, table.optimum, table.points.size) == ("table.json", "milliseconds", 1.5, 6)
        np.testing.assert_array_equal(table.seconds, [2.0, 1.5, 4.0, math.nan, math.nan, math.nan])
        assert [runs.tolist() for runs in table.samples[:3]] == [[1.9, 2.1], [1.5], []]
        assert table.configuration(1) == {"bx": 32, "by": "0.5", "pad": False, "order": "ji"}

    def test_cache(self, written, zipped):
        table = read_table(written(CACHE, zipped=zipped))
        assert {axis.field for axis in table.points.branches[0].axes} == {"bx", "by", "order"}
        assert (table.unit, table.optimum, table.points.size) == ("ms", 1.25, 6)
        np.testing.assert_array_equal(table.seconds, [2.0, 1.25, *[math.nan] * 4])
        assert [runs.tolist() for runs in table.samples[:2]] == [[1.9, 2.1], [1.25]]

    @pytest.mark.parametrize("end", ["", "}", "},", "},\n", "}}", "}\n}\n"])
    def test_a_cache_that_was_being_written(self, written, zipped, end):
        """Breaks when the table of a run that was stopped cannot be read."""
        text = json.dumps(CACHE, indent=1)
        whole = text.rstrip("}\n ")
        table = read_table(written((whole + "}" + end.removeprefix("}")).encode(), zipped=zipped))
        assert seconds_by_name(table).keys() == seconds_by_name(read_table(written(CACHE, "whole.json"))).keys()


def test_points_and_configurations_are_one_to_one(written):
    for content in (T4, CACHE):
        table = read_table(written(content))
        found = [table.find(table.configuration(point)) for point in range(table.points.size)]
        assert found == list(range(table.points.size))
        assert table.find({**table.configuration(0), "other": 3}) == 0
        assert table.find({**table.configuration(0), "bx": 5}) is None  # no value of it
        assert table.find({}) is None
    table = read_table(written(T4))
    assert table.find({"bx": 2, "by": "0.25", "pad": True, "order": "ij"}) is None  # not recorded


def test_a_configuration_that_was_measured_again_counts_as_the_last_time(written):
    first, again = result({"a": 1, "b": 2}, 3.0), result({"b": 2, "a": 1}, 5.0, runs=[5.0])
    table = read_table(written({"results": [first, result({"a": 2, "b": 2}, 4.0), again]}))
    assert table.points.size == 2
    assert table.seconds.tolist() == [5.0, 4.0]
    assert table.samples[0].tolist() == [5.0]


@pytest.mark.parametrize("value", ["TimeoutConfig", None, 1e20, -1.0, 0, True, math.nan, math.inf, [1.0], 10**400])
def test_what_is_no_time_is_a_failure(written, value):
    table = read_table(written({"results": [result({"a": 1}, value), result({"a": 2}, 7)]}))
    assert math.isnan(table.seconds[0])
    assert table.optimum == 7


def test_a_configuration_without_a_measurement_failed(written):
    bare = {"configuration": {"a": 2}, "invalidity": "compile"}
    table = read_table(written({"results": [result({"a": 1}, 1.0), bare]}))
    assert math.isnan(table.seconds[1])


@pytest.mark.parametrize(
    ("values", "ordered"),
    [
        ([4, 0.5, 1, "2"], ("0.5", 1, "2", 4)),
        (["b", "a", 3], (3, "a", "b")),
        (["1.0", 1, "1"], ("1", "1.0", 1)),  # equal as numbers: any order, but always the same
        (["x", 1, "1"], ("1", 1, "x")),
        ([10**400, 3], (3, 10**400)[::-1]),  # too large for a float: as text
        ([[2, 1], [1]], ("[1]", "[2, 1]")),
        ([{"b": 1, "a": 2}], ('{"a": 2, "b": 1}',)),
    ],
)
def test_values_have_one_order(written, values, ordered):
    table = read_table(written({"results": [result({"a": value}, 1.0) for value in values]}))
    assert table.points.branches[0].axes[0].values == ordered


PLAIN = json.dumps(T4).encode()
BAD = {
    "empty": (b"", "is not JSON", "fetch or record it again"),
    "garbage": (b"\x00\xff\xfe garbage", "cannot be read", "fetch or record it again"),
    "words": (b"not json at all", "is not JSON", "fetch or record it again"),
    "truncated T4": (PLAIN[: len(PLAIN) // 2], "is not JSON", "fetch or record it again"),
    "T4 cut behind an entry": (PLAIN[: PLAIN.index(b"}, {", 400) + 1], "is not JSON", "fetch or record it again"),
    "truncated gzip": (gzip.compress(PLAIN)[:-20], "cannot be read", "fetch or record it again"),
    "gzip of nothing": (b"\x1f\x8b", "cannot be read", "fetch or record it again"),
    "gzip with a wrong sum": (gzip.compress(PLAIN)[:-8] + b"12345678", "cannot be read", "fetch or record it again"),
    "a list": ([1, 2], "is no recorded table", "give a T4 file"),
    "a number": (3, "is no recorded table", "give a T4 file"),
    "another object": ({"specs": []}, "is no recorded table", "give a T4 file"),
    "results of another kind": ({"results": {"a": 1}}, "is no recorded table", "give a T4 file"),
    "results of numbers": ({"results": [1, 2]}, "is no valid table", "give a T4 file"),
    "no configuration in it": ({"results": [{"time": 1}]}, "is no valid table: it has no 'configuration'", "give a T4"),
    "a list as configuration": ({"results": [result([1], 2.0)]}, "is no valid table", "give a T4 file"),
    "measurements of numbers": ({"results": [{**T4["results"][0], "measurements": [1]}]}, "is no valid table", "give"),
    "no list of objectives": ({"results": [{**T4["results"][0], "objectives": {"a": 1}}]}, "is no valid table", "give"),
    "metadata of another kind": ({**T4, "metadata": [1]}, "is no valid table", "give a T4 file"),
    "a list as entry": ({"tune_params_keys": ["a"], "cache": {"1": ["a"]}}, "is no valid table", "give a T4 file"),
    "a number as keys": ({"tune_params_keys": 5, "cache": {"1": {"a": 1}}}, "is no valid table", "give a T4 file"),
    "an entry without a parameter": (
        {"tune_params_keys": ["a", "b"], "cache": {"1,2": {"a": 1, "time": 1.0}}}, "'1,2' has no 'b'", "give a T4 file",
    ),
    "no entries": ({"results": []}, "has no valid configuration among 0", "record it again"),
    "an empty cache": ({**CACHE, "cache": {}}, "has no valid configuration among 0", "record it again"),
    "all failed": ({"results": T4["results"][3:]}, "has no valid configuration among 3", "record it again"),
    "another objective": ({"results": [result({"a": 1}, 1.0, objective="energy")]}, "'energy'", "give a T4 file"),
    "different parameters": (
        {"results": [result({"a": 1}, 1.0), result({"b": 1}, 1.0)]}, "have different parameters", "record it again",
    ),
    "no parameters": ({"results": [result({}, 1.0)]}, "have no parameters", "give a T4 file"),
    "keys that are not told": ({"cache": {"1": {"a": 1, "time": 1.0}}}, "have no parameters", "give a T4 file"),
    "a cache cut in a number": (
        b'{"tune_params_keys": ["a"], "cache": {"1": {"a": 1, "time": 12', "is not JSON", "fetch or record it again",
    ),
    "a very deep one": (b"[" * 100_000, "is not JSON", "fetch or record it again"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_bad_file_is_named_with_what_to_do(written, kind, zipped):
    content, problem, remedy = BAD[kind]
    path = written(content, "bad.json", zipped)
    with pytest.raises(GridstoneError) as caught:
        read_table(path)
    if not (zipped and "gzip" in kind):  # which is then packed twice
        assert problem in caught.value.problem
        assert remedy in caught.value.remedy
    assert str(path) in caught.value.problem
    assert caught.value.remedy


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(GridstoneError, match=r"there is no file .*gone\.json"):
        read_table(tmp_path / "gone.json")
    with pytest.raises(GridstoneError, match="cannot be read"):
        read_table(tmp_path)


def test_too_large_a_file_is_refused_before_it_is_unpacked(written, monkeypatch):
    monkeypatch.setattr(tables, "_GREATEST", 1 << 20)
    with pytest.raises(GridstoneError, match="holds more than 1 MiB"):
        read_table(written(b" " * (1 << 22), zipped=True))


def test_too_many_values_of_a_parameter_are_refused(written, monkeypatch):
    """Breaks when an ordinal wraps around."""
    path = written({"results": [result({"a": value, "b": 1}, 1.0) for value in range(9)]})
    assert np.iinfo(read_table(path).points.branches[0].rows.dtype).max == tables._MOST_VALUES
    monkeypatch.setattr(tables, "_MOST_VALUES", 8)
    with pytest.raises(GridstoneError, match=r"'a' has 9 values in .*table\.json, more than 8"):
        read_table(path)


class TestFuzz:
    """Whatever a file holds, it is a table or a GridstoneError; what is read of a file that was cut is what it said."""

    @staticmethod
    def table_or_none(path):
        try:
            return read_table(path)
        except GridstoneError:
            return None

    @pytest.mark.parametrize("content", [T4, CACHE], ids=["t4", "cache"])
    @pytest.mark.parametrize("zipped", [False, True])
    def test_cut(self, written, content, zipped):
        raw = json.dumps(content, indent=1).encode()
        raw = gzip.compress(raw, mtime=0) if zipped else raw
        whole = seconds_by_name(read_table(written(raw)))
        tables = [self.table_or_none(written(raw[:end], "cut.json")) for end in range(0, len(raw), 7)]
        read = [seconds_by_name(table) for table in tables if table is not None]
        # Only a cache has entries one after the other that are complete in themselves.
        assert bool(read) == (content is CACHE and not zipped)
        for part in read:
            # A number that was cut would be another time.
            np.testing.assert_array_equal([part[key] for key in part], [whole[key] for key in part])

    @pytest.mark.parametrize("content", [T4, CACHE], ids=["t4", "cache"])
    @pytest.mark.parametrize("zipped", [False, True])
    def test_flipped(self, written, content, zipped):
        raw = json.dumps(content).encode()
        raw = gzip.compress(raw, mtime=0) if zipped else raw
        rng = np.random.default_rng(0)
        for _ in range(150):
            spoilt = bytearray(raw)
            for at in rng.integers(len(raw), size=rng.integers(1, 4)):
                spoilt[at] ^= 1 << int(rng.integers(8))
            table = self.table_or_none(written(bytes(spoilt), "flipped.json"))
            if table is not None:
                assert math.isfinite(table.optimum)
                assert table.optimum > 0
                assert len(table.seconds) == len(table.samples) == table.points.size

    def test_replaced(self, written):
        """Any value of the document may be any other."""
        others = (None, True, 0, -1, 1.5, "x", [], {}, [[]], {"a": {}}, "", 10**30)
        for content in (T4, CACHE):
            for path in _paths(content)[::2]:
                for other in others:
                    spoilt = json.loads(json.dumps(content))
                    at = spoilt
                    for key in path[:-1]:
                        at = at[key]
                    at[path[-1]] = other
                    self.table_or_none(written(spoilt, "replaced.json"))


def _paths(content, most=30):
    """Return paths to values of a document, not of all entries alike."""
    found = []
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        found.append((key,))
        found.extend((key, *rest) for rest in _paths(value, most)[:most])
    return found
