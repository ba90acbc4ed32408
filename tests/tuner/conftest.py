import sys
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
if HERE not in sys.path:  # for `tuner_plants`, which the worker imports too
    sys.path.insert(0, HERE)


@pytest.fixture(scope="session", autouse=True)
def _worker_finds_plants():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", HERE)
        yield


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Every test has a cache of its own."""
    monkeypatch.setenv("GRIDSTONE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"
