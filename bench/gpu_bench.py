"""`bench.gpu --bench`: recipes' defaults beside cuBLAS, the card's measured limits, and the prediction."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from bench.gpu_check import built
from bench.gpu_jobs import LATE, Job, Ready, build_each
from bench.gpu_log import Entry, Log
from bench.gpu_requests import Ceilings, Library, Measure, Time
from bench.gpu_worker import Worker, WorkerError
from gridstone.lower.schedule import print_schedule

KERNEL_S = 60.0  # for all samples of one contestant
CEILINGS_S = 120.0
CUBLAS, CEILINGS = "cublas", "ceilings"  # keys of what is no kernel of ours
Shape = tuple[int, int, int]


@dataclass
class Figures:
    """What a bench has found so far.

    Args:
        jobs: Kernels, shape by shape.
        log: Where results are, of this call and of earlier ones.
        dtype: Of the activations.
        dry: Whether kernels are only built.
    """

    jobs: Sequence[Job]
    log: Log
    dtype: str
    dry: bool

    @property
    def wrong(self) -> list[str]:
        """Keys of contestants with an error."""
        return [key for key in self._keys() if key in self.log and "error" in self.log[key]]

    @property
    def missing(self) -> list[str]:
        """Keys of contestants without a result."""
        return [key for key in self._keys() if key not in self.log]

    def _keys(self) -> list[str]:
        shapes = () if self.dry else dict.fromkeys(map(shape_of, self.jobs))
        return [*(library_key(shape, self.dtype) for shape in shapes), *(job.key for job in self.jobs)]

    def lines(self) -> list[str]:
        """Return a table with a line for each contestant: times, and the share of the floor."""
        wrong, missing = self.wrong, self.missing
        lines = [f"WRONG {key}\n      {self.log[key]['error'][:600]}" for key in wrong]
        if self.dry:
            fine = [job for job in self.jobs if job.key in self.log and "error" not in self.log[job.key]]
            return [*lines, *(f"would time {job}" for job in fine), self._end(len(wrong), len(missing))]
        if CEILINGS not in self.log:
            return [*lines, self._end(len(wrong), len(missing))]
        measured = [Ceilings(**one) for one in self.log[CEILINGS]["measured"]]
        names = ("N", "K", "M", "recipe", "us", "predicted", "of floor", "x cublas")
        lines.append("{:>6}{:>7}{:>5}  {:<20}{:>9}{:>11}{:>10}{:>10}".format(*names))
        for shape in dict.fromkeys(map(shape_of, self.jobs)):
            library = self._entry(library_key(shape, self.dtype))
            if library:
                lines.append(_row(shape, CUBLAS, library, library, measured[0]))
            for job in self.jobs:
                entry = self._entry(job.key)
                if shape_of(job) == shape and entry:
                    lines.append(_row(shape, job.recipe.name, entry, library, measured[0]))
        for when, one in zip(("before", "after"), measured, strict=False):
            copy, product = one.bandwidth / 1e12, one.bf16_flops / 1e12
            lines.append(f"measured {when}: copy {copy:.2f} TB/s, bf16 product {product:.0f} TFLOP/s")
        return [*lines, self._end(len(wrong), len(missing))]

    def _entry(self, key: str) -> Entry | None:
        return self.log[key] if key in self.log and "seconds" in self.log[key] else None

    def _end(self, wrong: int, missing: int) -> str:
        left = ": the same command goes on with them" if missing else ""
        return f"{len(self._keys()) - wrong - missing} done, {wrong} wrong, {missing} not reached{left}"


def _row(shape: Shape, name: str, entry: Entry, library: Entry | None, ceilings: Ceilings) -> str:
    (n, k, m), median = shape, statistics.median(entry["seconds"])
    share = ceilings.floor(entry["bytes"], entry["flops"]) / median
    times = f"{statistics.median(library['seconds']) / median:.2f}" if library else "-"
    said = f"{entry['predicted'] * 1e6:.1f}" if "predicted" in entry else "-"
    return f"{n:>6}{k:>7}{m:>5}  {name:<20}{median * 1e6:>9.1f}{said:>11}{share:>10.0%}{times:>10}"


def bench(
    jobs: Sequence[Job],
    log: Log,
    dtype: str,
    proceed: Callable[[], bool],
    dry: bool,
    place: str = "bench.gpu_run:runner",
) -> Figures:
    """Build jobs and time each, and the library once a shape.

    Args:
        jobs: To time, shape by shape; those that have a result are left out.
        log: Of results.
        dtype: Of the activations, for the library's plain weight.
        proceed: Whether there is time for one more.
        dry: Build only.
        place: Of the worker's function.
    """
    todo = [job for job in jobs if job.key not in log]
    with Worker(place) as worker:
        measured = [worker.ask(Measure(), CEILINGS_S)] if todo and not dry and proceed() else []
        _keep(measured, log)
        for one in build_each(todo, proceed):
            if one.error == LATE or not proceed():
                break
            key = library_key(shape_of(one.job), dtype)
            if not dry and key not in log:
                _time_library(shape_of(one.job), dtype, log, worker)
            _bench_one(one, log, None if dry else worker)
        if measured and proceed():
            _keep([*measured, worker.ask(Measure(), CEILINGS_S)], log)
    return Figures(jobs, log, dtype, dry)


def _keep(measured: Sequence[Ceilings], log: Log) -> None:
    """Put down what the card was measured to do in this call: before, and then after too."""
    if measured:
        log.put(CEILINGS, measured=[asdict(one) for one in measured])


def shape_of(job: Job) -> Shape:
    """Return N, K and M."""
    x, w = job.spec.input("x"), job.spec.input("w")
    return w.static(0), w.static(1), x.static(0)


def library_key(shape: Shape, dtype: str) -> str:
    """Return what the library's result is kept under."""
    return " ".join([CUBLAS, dtype, *map(str, shape)])


def _bench_one(one: Ready, log: Log, worker: Worker | None) -> None:
    job = one.job
    if one.error:
        log.put(job.key, error=one.error)
    elif worker is None:
        log.put(job.key, built=True)
    else:
        cost = job.spec.op.cost(job.spec)
        facts = {"recipe": job.recipe.name, "target": str(job.target), "schedule": print_schedule(job.schedule),
                 "bytes": cost.bytes, "flops": cost.flops, "predicted": job.predicted().seconds}  # fmt: skip
        _time(job.key, lambda: worker.ask(Time(built(one)), KERNEL_S), facts, log)


def _time_library(shape: Shape, dtype: str, log: Log, worker: Worker) -> None:
    n, k, m = shape
    facts: dict[str, object] = {"bytes": 2 * (n * k + m * k + m * n), "flops": 2 * m * n * k}
    _time(library_key(shape, dtype), lambda: worker.ask(Library(n, k, m, dtype), KERNEL_S), facts, log)


def _time(key: str, ask: Callable[[], tuple[float, ...]], facts: dict[str, object], log: Log) -> None:
    try:
        log.put(key, seconds=list(ask()), **facts)
    except WorkerError as error:
        log.put(key, error=str(error))
