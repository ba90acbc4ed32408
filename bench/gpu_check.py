"""`bench.gpu --check`: every recipe on real hardware against float64, one kernel after the other in a worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.gpu_jobs import LATE, Job, Ready, build_each
from bench.gpu_log import Log
from bench.gpu_requests import Built, Judge
from bench.gpu_worker import Died, Worker, WorkerError
from gridstone.ir.text import print_spec

KERNEL_S = 60.0  # for one kernel: operands, float64 reference, two calls
MOST_DEATHS = 5  # processes that a recipe may end before the rest of its kernels is left out
SHOWN = 12  # failures that are printed
SAY_EVERY = 50  # kernels


@dataclass
class Tally:
    """What a check has found so far.

    Args:
        jobs: In the order in which they are run.
        log: Where results are, of this call and of earlier ones.
        dry: Whether kernels are only built.
    """

    jobs: Sequence[Job]
    log: Log
    dry: bool

    @property
    def wrong(self) -> list[Job]:
        """Jobs with an error."""
        return [job for job in self.jobs if job.key in self.log and "error" in self.log[job.key]]

    @property
    def fine(self) -> list[Job]:
        """Jobs that were right, or were built where that is all."""
        return [job for job in self.jobs if job.key in self.log and "error" not in self.log[job.key]]

    @property
    def missing(self) -> list[Job]:
        """Jobs without a result."""
        return [job for job in self.jobs if job.key not in self.log]

    def lines(self) -> list[str]:
        """Return what was found, in a few lines."""
        wrong, fine, missing = self.wrong, self.fine, self.missing
        lines = [f"WRONG {job}\n      {self.log[job.key]['error'][:600]}" for job in wrong[:SHOWN]]
        if len(wrong) > SHOWN:
            lines.append(f"and {len(wrong) - SHOWN} more")
        done = "built" if self.dry else "right"
        counts = Counter(job.recipe.name for job in fine)
        asked = Counter(job.recipe.name for job in self.jobs)
        lines += [f"{name:<20} {counts[name]} of {asked[name]} kernels {done}" for name in sorted(asked)]
        worst = max((self.log[job.key].get("element", 0.0) for job in fine), default=0.0)
        of = "" if self.dry else f" (worst {worst:.2f} of the bound)"
        left = ": the same command goes on with them" if missing else ""
        return [*lines, f"{len(fine)} {done}{of}, {len(wrong)} wrong, {len(missing)} not reached{left}"]


def check(
    jobs: Sequence[Job], log: Log, proceed: Callable[[], bool], dry: bool, place: str = "bench.gpu_run:runner"
) -> Tally:
    """Build jobs and judge each kernel on operands of its own rows and of fewer, ragged ones.

    Args:
        jobs: To check; those that have a result are left out.
        log: Of results.
        proceed: Whether there is time for one more.
        dry: Build only.
        place: Of the worker's function.
    """
    ordered = sorted(jobs, key=lambda job: print_spec(job.spec))  # operands and answers are made once a problem
    deaths: Counter[str] = Counter()
    todo = (job for job in ordered if job.key not in log and deaths[job.recipe.name] < MOST_DEATHS)
    with Worker(place) as worker:
        for at, one in enumerate(build_each(todo, proceed)):
            if one.error == LATE or not proceed():
                break
            if deaths[one.job.recipe.name] < MOST_DEATHS:  # built ahead
                deaths[one.job.recipe.name] += _check_one(one, log, None if dry else worker)
            if at % SAY_EVERY == SAY_EVERY - 1:
                print(f"{at + 1} kernels", flush=True)
    return Tally(ordered, log, dry)


def _check_one(one: Ready, log: Log, worker: Worker | None) -> bool:
    """Put down a job's result; return whether it ended the worker."""
    if one.error:
        log.put(one.job.key, error=one.error)
        return False
    if worker is None:
        log.put(one.job.key, built=True)
        return False
    try:
        element, rms = worker.ask(Judge(built(one)), KERNEL_S)
    except WorkerError as error:
        log.put(one.job.key, error=str(error))
        return isinstance(error, Died)
    log.put(one.job.key, element=element, rms=rms)
    return False


def built(one: Ready) -> Built:
    """Return what travels to the worker."""
    assert one.source is not None
    assert one.artefact is not None
    return Built(print_spec(one.job.spec), one.source, one.artefact)
