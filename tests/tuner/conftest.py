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


@pytest.fixture
def place(cache):
    """A job in a cache of its own."""
    import tuner_plants as planted

    from gridstone.ir.text import print_spec
    from gridstone.kernel_cache.host import device_name, host_target
    from gridstone.kernel_cache.records import RecordBook
    from gridstone.kernel_cache.store import Store
    from gridstone.tuner.job import tune

    store, book = Store(cache, 1 << 30), RecordBook(cache)

    def run(table, spec=planted.SPEC, target=None, **options):
        options = {
            "recipes": planted.KNOBS_AND_LIBRARY, "budget_seconds": 1e3, "threads": 2, "worker": table,
            "store": store, "book": book, **options,
        }  # fmt: skip
        return tune(spec, [target or host_target()], clock=table.clock, **options)

    run.book = book
    run.kept = lambda spec=planted.SPEC, target=None: book.get(print_spec(spec), device_name(target), 2)
    return run
