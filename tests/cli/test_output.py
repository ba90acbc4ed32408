"""Where results go: one JSON document and nothing else, and what happens when nobody takes them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest

from gridstone.cli.console import parse_rows, put_json
from gridstone.ir.errors import GridstoneError

SPEC = "gemm[x: f32(3,64), w: int4:g32(64,64)]"
GRIDSTONE = [sys.executable, "-m", "gridstone"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("arguments", [("emit", SPEC), ("emit", SPEC, "--json"), ("--help",), ("--version",)])
def test_a_full_disk_is_one_line(arguments):
    with open("/dev/full", "w") as full:
        ran = subprocess.run([*GRIDSTONE, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.startswith("writing failed: No space left on device")
    assert ran.stderr.count("\n") == 1, ran.stderr


def test_a_reader_that_goes_away_ends_the_command_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ran = subprocess.run([*GRIDSTONE, "emit", SPEC], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writer)
    assert ran.returncode == 141
    assert ran.stderr == ""


@pytest.mark.parametrize(("closing", "status"), [(">&-", 2), ("2>&-", 0)])
def test_a_stream_may_be_closed(closing, status):
    ran = subprocess.run(
        ["sh", "-c", f'exec "$@" {closing}', "sh", *GRIDSTONE, "emit", SPEC, "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == status
    if status:
        assert ran.stderr.startswith("writing failed: stdout is closed")
    else:
        assert json.loads(ran.stdout)["recipe"], "remarks do not go to stdout instead"


def test_a_warning_does_not_touch_the_json_on_stdout():
    ran = subprocess.run(
        [*GRIDSTONE, "cache", "info", "--json"],
        env={**os.environ, "GRIDSTONE_CACHE_LIMIT": "enormous"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["limit_bytes"] > 0
    assert "GRIDSTONE_CACHE_LIMIT='enormous' is not a size" in ran.stderr


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    "arguments", [(), ("info",), ("list",), ("verify",), ("prune",), ("clear",), ("explain-miss", SPEC)]
)
def test_every_command_of_the_cache_takes_json_on_either_side(run, empty_cache, arguments, before):
    ran = run("cache", *(("--json", *arguments) if before else (*arguments, "--json")))
    assert ran.status == 0, ran.err
    assert ran.json
    assert ran.err == ""


def test_numbers_that_json_does_not_know_are_null(capsys):
    put_json({"a": math.nan, "b": [math.inf, 1.5, ("x", -math.inf)], "c": True})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "a": None,
        "b": [None, 1.5, ["x", None]],
        "c": True,
    }


def test_names_that_stdout_cannot_encode_are_escaped(tmp_path):
    ran = subprocess.run(
        [*GRIDSTONE, "cache"],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "GRIDSTONE_CACHE_DIR": str(tmp_path / "b\xfcro")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "b\\xfcro" in ran.stdout


@pytest.mark.parametrize("text", ["0", "-1", "1,,2", "1;2", "1e3", "\uff14", "9" * 5000, "1,two"])
def test_rows_that_are_no_numbers_are_refused(text):
    with pytest.raises(GridstoneError, match=r"is not a list of positive numbers.*write for example --m 1,4,16"):
        parse_rows(text)


def test_rows():
    assert parse_rows(" 1, 4,16 ") == [1, 4, 16]
    assert parse_rows("") == []
