"""What `bench.gpu` runs: problems, recipes and schedules for one GPU, and their builds ahead of time."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import itertools
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from gridstone.ir.errors import GridstoneError
from gridstone.ir.ops.gemm import Gemm
from gridstone.ir.spec import Spec
from gridstone.ir.text import parse_spec, print_spec
from gridstone.kernel_cache.artefact import Artefact, unpack
from gridstone.kernel_cache.gpu import fits
from gridstone.kernel_cache.toolchain import Toolchain
from gridstone.kernel_cache.toolchain_cuda import CudaToolchain
from gridstone.kernel_cache.toolchain_triton import TritonToolchain
from gridstone.lower.cost import Cost, GemmSchedule, predict
from gridstone.lower.schedule import Schedule, print_schedule
from gridstone.lower.target import TARGETS, Language, Target
from gridstone.templates.emit import emit
from gridstone.templates.recipe import Recipe
from gridstone.templates.registry import recipes_for
from gridstone.templates.render import recipe_hash
from gridstone.templates.source import Source

CHAINS: dict[Language, Toolchain] = {chain.language: chain for chain in (CudaToolchain(), TritonToolchain())}
CHECK_ROWS = (1, 5, 16, 33, 130)
LARGE = (
    "gemm[x: bf16(M,4096), w: int4:g128(4096,4096)] + bias + silu",
    "gemm[x: f16(M,4096), w: uint4:g64:zero(1030,4096)] + residual",
    "gemm[x: bf16(M,11008), w: int8:g128(520,11008)]",
    "gemm[x: f16(M,2048), w: int8:channel(2056,2048)] + bias + gelu_tanh",
)
SHAPES = ((4096, 4096), (8192, 8192), (28672, 8192), (8192, 28672), (57344, 8192))  # N x K of the benchmark
BENCH_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
WEIGHT = "int4:g128"  # of the benchmark
LATE = "not built: the time is up"
_TRIES = 4000  # at most to draw a feasible schedule
_AHEAD = 4  # builds under way, or done and not yet used, for each core


@dataclass(frozen=True)
class Job:
    """A kernel to build.

    Args:
        spec: Static, storages resolved; the schedule was chosen for its rows.
        recipe, schedule, target: Of the kernel.
    """

    spec: Spec
    recipe: Recipe[Schedule]
    schedule: Schedule
    target: Target

    def __str__(self) -> str:
        return f"{self.target} {self.recipe.name} {print_schedule(self.schedule)} {print_spec(self.spec)}"

    @property
    def key(self) -> str:
        """What its result is kept under: another template makes another kernel."""
        return f"{self} {recipe_hash(self.recipe)}"

    def predicted(self) -> Cost:
        """Return what the cost model says of it."""
        return predict(self.spec, cast("GemmSchedule", self.schedule), self.target)


@dataclass(frozen=True)
class Ready:
    """What became of a job: a source and its artefact, or the error."""

    job: Job
    source: Source | None = None
    artefact: Artefact | None = None
    error: str = ""


def targets_for(capability: tuple[int, int]) -> tuple[Target, ...]:
    """Return one target of each GPU language: the one that has most of a GPU of this compute capability.

    >>> [str(target) for target in targets_for((9, 0))]
    ['triton:sm_90', 'cuda:sm_90a']
    """
    best: dict[Language, Target] = {}
    for target in TARGETS.values():
        if target.sms and fits(target, capability):
            before = best.get(target.language)
            if before is None or (len(target.arch), target.arch) >= (len(before.arch), before.arch):
                best[target.language] = target
    return tuple(best.values())


def able(spec: Spec, target: Target) -> Iterator[tuple[Recipe[Schedule], Schedule]]:
    """Yield the recipes that compute a spec on a target, each with its default where that is feasible."""
    for recipe in recipes_for(spec, target):
        start = recipe.space.default(spec, target)
        if recipe.space.violated(start, spec, target) is None:
            yield recipe, start


def check_jobs(
    targets: Sequence[Target], samples: int, seed: int, only: str = "", texts: Sequence[str] = ()
) -> list[Job]:
    """Return every recipe on ragged shapes of every kind: its defaults, and some schedules drawn from its space.

    Args:
        targets: One per language.
        samples: Schedules to draw for each recipe and problem.
        seed: Of the draw.
        only: Part of a recipe's name, or empty for all.
        texts: Specs with M rows, instead of the op's samples and some large ones.
    """
    rng, jobs = random.Random(seed), dict[str, Job]()
    for text, target in itertools.product(texts or (*Gemm().samples(), *LARGE), targets):
        whole = parse_spec(text).with_storage(target.storage)
        for rows in CHECK_ROWS:
            spec = whole.bind(M=rows)
            for recipe, start in able(spec, target):
                if only in recipe.name:
                    # Samples are spread over the rows, so that a problem has that many and not that many for each.
                    share = samples // len(CHECK_ROWS) + (rng.random() < samples % len(CHECK_ROWS) / len(CHECK_ROWS))
                    for schedule in (start, *_draw(recipe, spec, target, share, rng)):
                        job = Job(spec, recipe, schedule, target)
                        jobs[str(job)] = job
    return list(jobs.values())


def _draw(recipe: Recipe[Schedule], spec: Spec, target: Target, count: int, rng: random.Random) -> Iterator[Schedule]:
    """Yield feasible schedules, each choice drawn alone: to enumerate a space takes seconds."""
    start, space = recipe.space.default(spec, target), recipe.space
    for _ in range(_TRIES):
        if count < 1:
            return
        drawn = {choice.field: rng.choice(choice.values) for choice in space.fields}
        schedule = dataclasses.replace(start, **drawn)
        if space.violated(schedule, spec, target) is None:
            count -= 1
            yield schedule


def bench_spec(n: int, k: int, m: int, dtype: str, target: Target) -> Spec:
    """Return a problem of the benchmark."""
    return parse_spec(f"gemm[x: {dtype}({m},{k}), w: {WEIGHT}({n},{k})]").with_storage(target.storage)


def bench_jobs(
    targets: Sequence[Target], shapes: Sequence[tuple[int, int]], rows: Sequence[int], dtype: str, only: str = ""
) -> list[Job]:
    """Return every recipe's default for int4 layers of these (N, K) and rows."""
    jobs: list[Job] = []
    for (n, k), m, target in itertools.product(shapes, rows, targets):
        spec = bench_spec(n, k, m, dtype, target)
        jobs += [Job(spec, recipe, start, target) for recipe, start in able(spec, target) if only in recipe.name]
    return jobs


def build_each(jobs: Iterable[Job], proceed: Callable[[], bool]) -> Iterator[Ready]:
    """Yield jobs as they are built, in their order, some ahead; kernels of one text are built once.

    Args:
        jobs: To build.
        proceed: Asked before each build; jobs behind the first refusal come back with that as their error.
    """
    cores = os.cpu_count() or 1
    pool = concurrent.futures.ThreadPoolExecutor(cores)
    made: dict[tuple[str, str], concurrent.futures.Future[Artefact | str]] = {}
    waiting: collections.deque[tuple[Job, Source | str]] = collections.deque()

    def first() -> Ready:
        job, source = waiting.popleft()
        if isinstance(source, str):
            return Ready(job, error=source)
        artefact = made[source.text, str(job.target)].result()
        return Ready(job, source, error=artefact) if isinstance(artefact, str) else Ready(job, source, artefact)

    try:
        for job in jobs:
            source = _emit(job)
            waiting.append((job, source))
            if isinstance(source, Source) and (source.text, str(job.target)) not in made:
                made[source.text, str(job.target)] = pool.submit(_build, job, source, proceed)
            if len(waiting) > _AHEAD * cores:
                yield first()
        while waiting:
            yield first()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _emit(job: Job) -> Source | str:
    try:
        return emit(job.recipe, job.spec, job.schedule, job.target)
    except GridstoneError as error:
        return str(error)


def _build(job: Job, source: Source, proceed: Callable[[], bool]) -> Artefact | str:
    chain = CHAINS[job.target.language]
    missing = chain.missing()
    if missing or not proceed():
        return missing or LATE
    try:
        return unpack(chain.build(source, job.target))
    except GridstoneError as error:
        return str(error)


def until(seconds: float) -> Callable[[], bool]:
    """Return a function that says whether this much time is left from now on."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end
