"""Building candidates ahead of their measurement: a batch at a time, for compilers would disturb the stopwatch."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence

from gridstone.ir.errors import BuildError, GridstoneError, LaunchError, ScheduleError
from gridstone.ir.spec import Spec
from gridstone.kernel_cache import make
from gridstone.kernel_cache.artefact import unpack
from gridstone.kernel_cache.host import usable_cores
from gridstone.kernel_cache.store import Store
from gridstone.proof.cubin import read_drawback
from gridstone.tuner.candidate import Candidate


def build_batch(
    candidates: Sequence[Candidate], spec: Spec, store: Store, proceed: Callable[[], bool]
) -> dict[int, GridstoneError | None]:
    """Build candidates into the store, as many at once as there are cores.

    Each build waits for a compiler of its own, so threads suffice. An interrupt leaves no build waiting.

    Args:
        candidates: To build.
        spec: Static.
        store: Where artefacts are kept.
        proceed: Asked before each build: whether to begin it.

    Returns:
        By index, what went wrong, or None; those that were not begun are left out.
    """

    def task(candidate: Candidate) -> tuple[bool, GridstoneError | None]:
        return (True, build(candidate, spec, store)) if proceed() else (False, None)

    pool = concurrent.futures.ThreadPoolExecutor(usable_cores(), thread_name_prefix="gridstone-build")
    try:
        tasks = [pool.submit(task, candidate) for candidate in candidates]
        results = [future.result() for future in tasks]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return {at: error for at, (begun, error) in enumerate(results) if begun}


def build(candidate: Candidate, spec: Spec, store: Store) -> GridstoneError | None:
    """Emit and build one candidate; a recipe without a template has nothing to build.

    Returns:
        What went wrong, or why the kernel is not worth measuring, or None.
    """
    if not candidate.recipe.template:
        return None
    try:
        source = make.emit(candidate.recipe, spec, candidate.schedule, candidate.target)
        path = make.build(source, candidate.target, store)
        drawback = read_drawback(unpack(path.read_bytes()), candidate.target) if candidate.target.sms else ""
    except (ScheduleError, BuildError, LaunchError) as error:
        return error
    return BuildError(f"{candidate.text} {drawback}", "choose smaller tiles") if drawback else None
