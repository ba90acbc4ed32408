"""Running commands: in this process where that suffices, for importing torch anew takes seconds."""

from __future__ import annotations

import contextlib
import functools
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gridstone.cli import main

LAYER = "gemm[x: f32(M,64), w: int4:g32(64,64)] + relu"


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The whole of stdout, parsed."""
        return json.loads(self.out)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a command in this process."""

    def command(*arguments: str) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        captured = capsys.readouterr()
        return Ran(int(stopped.value.code or 0), captured.out, captured.err)

    return command


def call(*arguments: str) -> Ran:
    """Run a command in this process, outside of any test."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stopped:
        main(arguments)
    return Ran(int(stopped.value.code or 0), out.getvalue(), err.getvalue())


def search_little(patch: pytest.MonkeyPatch) -> None:
    """End every search behind the library call and the default, and not by the clock."""
    from gridstone.runtime import tune

    patch.setattr(tune, "run_job", functools.partial(tune.run_job, max_evaluations=2))


@pytest.fixture
def little_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what is around a search."""
    search_little(monkeypatch)


@dataclass(frozen=True)
class TunedCache:
    """A cache in which LAYER was tuned for 1 and 5 rows, and how the command ended."""

    folder: Path
    ran: Ran


@pytest.fixture(scope="session")
def tuned_once(tmp_path_factory: pytest.TempPathFactory) -> TunedCache:
    """One tuning for every test that only needs records to be there."""
    folder = tmp_path_factory.mktemp("tuned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRIDSTONE_CACHE_DIR", str(folder))
        search_little(patch)
        ran = call("tune", LAYER, "--m", "1,5", "--budget", "20s", "--json")
    assert ran.status == 0, ran.err
    return TunedCache(folder, ran)


@pytest.fixture
def tuned(tuned_once: TunedCache, monkeypatch: pytest.MonkeyPatch, dispatcher: object) -> TunedCache:
    """That cache as this test's own; records may be read from it and are not added."""
    monkeypatch.setenv("GRIDSTONE_CACHE_DIR", str(tuned_once.folder))
    return tuned_once
