"""Building candidates ahead of their measurement: a batch at a time, for compilers would disturb the stopwatch."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Sequence

from gridstone.ir.errors import BuildError, GridstoneError, ScheduleError
from gridstone.ir.spec import Spec
from gridstone.kernel_cache import make
from gridstone.kernel_cache.host import usable_cores
from gridstone.kernel_cache.store import Store
from gridstone.tuner.candidate import Candidate


def build_batch(candidates: Sequence[Candidate], spec: Spec, store: Store) -> tuple[GridstoneError | None, ...]:
    """Build candidates into the store, as many at once as there are cores; return what went wrong with each.

    Each build waits for a compiler of its own, so threads suffice. An interrupt leaves no build waiting.
    """
    pool = concurrent.futures.ThreadPoolExecutor(usable_cores(), thread_name_prefix="gridstone-build")
    try:
        builds = [pool.submit(build, candidate, spec, store) for candidate in candidates]
        return tuple(future.result() for future in builds)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def build(candidate: Candidate, spec: Spec, store: Store) -> GridstoneError | None:
    """Emit and build one candidate; a recipe without a template has nothing to build."""
    if not candidate.recipe.template:
        return None
    try:
        source = make.emit(candidate.recipe, spec, candidate.schedule, candidate.target)
        make.build(source, candidate.target, store)
    except (ScheduleError, BuildError) as error:
        return error
    return None
