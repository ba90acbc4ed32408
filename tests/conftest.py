"""One kernel cache for the whole session, so that no kernel is built twice; goldens; a clean dispatcher."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

# The references' products are small: on a busy machine OpenBLAS's threads wait for each other longer than they compute.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Nothing is timed in tests: OpenMP's threads that spin while they wait would only take the cores from each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew instead of comparing")


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache that this session's tests share, also between the workers of pytest-xdist; never the user's own."""
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "gridstone-cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRIDSTONE_CACHE_DIR", str(place))
        yield place


@pytest.fixture
def dispatcher(session_cache: Path) -> Iterator[object]:
    """The process's dispatcher with nothing bound, and nothing left bound behind the test."""
    from gridstone.runtime.dispatch import DISPATCHER

    DISPATCHER.clear()
    yield DISPATCHER
    DISPATCHER.clear()


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dispatcher: object) -> Path:
    """A cache of this test's own, with a dispatcher that has not looked into it yet."""
    place = tmp_path / "cache"
    monkeypatch.setenv("GRIDSTONE_CACHE_DIR", str(place))
    return place


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """torch.set_num_threads, undone behind the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with the file of that name under tests/golden, or write it under --update-golden."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"{path} does not exist: run pytest with --update-golden, then read what it wrote"
        assert text == path.read_text(), f"{name} has changed: if it was meant, run pytest with --update-golden"

    return check
