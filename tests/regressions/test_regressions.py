"""Every case that was once wrong, run for ever: `gridstone fuzz` writes one file for each thing that it finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from gridstone.cli.fuzz_worker import FUZZED
from gridstone.proof.fuzz.saved import read_case, saved
from gridstone.proof.fuzz.subject import split_case, subject_named

FILES = tuple(saved(Path(__file__).parent))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_was_wrong_once_is_right(path):
    name, case = split_case(read_case(path))
    subject = subject_named(name, FUZZED)
    missing = subject.missing()
    if missing:
        pytest.skip(missing)
    assert not subject.problem(case)


def test_there_is_something_to_run():
    assert FILES
