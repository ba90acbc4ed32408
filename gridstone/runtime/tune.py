"""tune: find the fastest right kernel for every distinct problem of some specs, or of a program."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from gridstone.ir.errors import BuildError, GridstoneError, LaunchError, SpecError
from gridstone.ir.spec import Spec
from gridstone.ir.text import parse_spec, print_spec
from gridstone.kernel_cache.host import host_target, runs_here
from gridstone.kernel_cache.make import TOOLCHAINS
from gridstone.lower.bucket import ROWS, looked_up
from gridstone.lower.target import Target, parse_target
from gridstone.runtime.dispatch import DISPATCHER
from gridstone.runtime.explain import explain
from gridstone.tuner.job import tune as run_job
from gridstone.tuner.measurer import SubprocessMeasurer
from gridstone.tuner.outcome import Progress, Tuned

Sampling = Literal["gp", "lfbo", "tpe", "evolution", "random", "grid"]

_UNITS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Step:
    """Where a tuning of several problems is.

    Args:
        spec: The problem at hand.
        at, count: Its number, from 0, and how many there are.
        progress: Where its job is.
    """

    spec: Spec
    at: int
    count: int
    progress: Progress


Listener = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was found for one problem."""

    spec: Spec
    tuned: Tuned

    def __str__(self) -> str:
        found = self.tuned
        took = f"{found.winner.median * 1e6:.1f} us" if found.winner.samples else "not measured"
        how = (
            "reused a record"
            if found.reused
            else f"{found.measured} tried in {found.seconds:.1f} s, {found.stop.value}"
        )
        beside = f", library {found.library_seconds * 1e6:.1f} us" if found.library_seconds else ""
        return f"{print_spec(self.spec)}\n    {found.winner.recipe} {found.winner.schedule}: {took}{beside} ({how})"


class Tunings(tuple[Tuning, ...]):
    """The results in the order of the problems; `str()` is for people."""

    __slots__ = ()

    def __str__(self) -> str:
        reused = sum(one.tuned.reused for one in self)
        head = f"{len(self)} problems, {reused} of them answered by records"
        return "\n".join([head, *map(str, self)])


def parse_budget(budget: str | float) -> float:
    """Return seconds.

    Raises:
        GridstoneError: Not a positive duration.

    >>> parse_budget("60s"), parse_budget("1.5m"), parse_budget(20)
    (60.0, 90.0, 20.0)
    """
    remedy = "write for example 60s, 2m, 1h or a number of seconds"
    if isinstance(budget, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", budget, re.ASCII)
        if found is None or found[2] not in _UNITS:
            raise GridstoneError(f"budget {budget!r} is not a duration", remedy)
        budget = float(found[1]) * _UNITS[found[2]]
    if not 0 < budget < 1e7:
        raise GridstoneError(f"a budget of {budget} s is not positive, or longer than a hundred days", remedy)
    return float(budget)


def targets_named(name: str) -> tuple[Target, ...]:
    """Return the targets to tune for; `auto` is the widest that this machine runs.

    Raises:
        SpecError: Unknown target.
        LaunchError: It does not run here.
        BuildError: Nothing can be built for it.
    """
    target = host_target() if name == "auto" else parse_target(name)
    if not runs_here(target):
        raise LaunchError(f"{target} does not run on this machine", "run `gridstone doctor` for the targets that do")
    missing = TOOLCHAINS[target.language].missing()
    if missing:
        raise BuildError(f"nothing can be tuned for {target}: {missing}", "run `gridstone doctor`")
    return (target,)


def bound(specs: Iterable[str | Spec], rows: Sequence[int], target: Target) -> tuple[Spec, ...]:
    """Return static specs with storages resolved: each spec whose M is symbolic, at each number of rows.

    Args:
        specs: Texts or specs.
        rows: Values of M.
        target: Gives the storage of quantised weights.

    Raises:
        SpecError: M is symbolic and no rows are given, or rows are given and it is static everywhere.
    """
    found: list[Spec] = []
    symbolic = False
    for given in specs:
        spec = (parse_spec(given) if isinstance(given, str) else given).with_storage(target.storage)
        names = [dim.name for dim in spec.dims]
        if any(name != ROWS for name in names):
            raise SpecError(f"only {ROWS} may be symbolic in {print_spec(spec)}", f"write {ROWS}, or numbers")
        if names and not rows:
            raise SpecError(f"{ROWS} is symbolic in {print_spec(spec)}", "say for which rows, such as 1,16,256")
        symbolic = symbolic or bool(names)
        found.extend([spec.bind(**{ROWS: count}) for count in rows] if names else [spec])
    if rows and found and not symbolic:
        raise SpecError(f"rows {list(rows)} for {print_spec(found[0])}, which has its own", f"write {ROWS} there")
    return tuple(found)


def problems_of(specs: Iterable[str | Spec], rows: Sequence[int], target: Target) -> tuple[Spec, ...]:
    """Return the distinct problems of specs as calls look them up: M is its bucket's value. Arguments as of `bound`."""
    found: dict[str, Spec] = {}
    for spec in bound(specs, rows, target):
        one = looked_up(spec)
        found[print_spec(one)] = one
    return tuple(found.values())


def run_tunings(
    problems: Sequence[Spec],
    targets: Sequence[Target],
    *,
    seconds: float,
    stated: float | None = None,
    threads: int | None = None,
    sampler: Sampling = "gp",
    again: bool = False,
    progress: Listener | None = None,
) -> Iterator[Tuning]:
    """Tune problems one after the other, yielding each result as it comes.

    They share the time equally; what one leaves of its share, the others get. Once it is used up, only the records are
    asked: what is left keeps its earlier winner or the default, and says that nothing was measured.

    Args:
        problems: Static.
        targets: Those that may be used, the library's aside.
        seconds: For all of them.
        stated: What was asked for them, where `seconds` differs from run to run: a winner whose search was short of
            time is searched on when an equal share of this is more than that search had.
        threads: Of the kernels; torch's own number when omitted.
        sampler: Who proposes.
        again: Search although the records know the answer.
        progress: Called whenever something was done.
    """
    end = time.monotonic() + seconds
    worker = SubprocessMeasurer()
    try:
        for at, spec in enumerate(problems):

            def listen(now: Progress, spec: Spec = spec, at: int = at) -> None:
                if progress is not None:
                    progress(Step(spec, at, len(problems), now))

            share = max(0.0, end - time.monotonic()) / (len(problems) - at)
            tuned = run_job(
                spec, targets, budget_seconds=share, stated_seconds=(stated or seconds) / len(problems),
                threads=threads, sampler=sampler, progress=listen, worker=worker, again=again,
            )  # fmt: skip
            yield Tuning(spec, tuned)
    finally:
        worker.close()
        DISPATCHER.clear()  # so that calls from now on find the new records


def tune(
    fn_or_specs: Callable[..., Any] | str | Spec | Iterable[str | Spec],
    *args: Any,
    target: str = "auto",
    budget: str | float = "60s",
    threads: int | None = None,
    rows: int | Iterable[int] = (),
    sampler: Sampling = "gp",
    again: bool = False,
    progress: Listener | None = None,
    **kwargs: Any,
) -> Tunings:
    """Tune every distinct problem of a program, or of some specs, and record the winners for every later call.

    Args:
        fn_or_specs: A function or module, which is captured on `args` and `kwargs`; or specs, one or several.
        args, kwargs: Example inputs of the function.
        target: `auto`, or the target to tune for.
        budget: Time for all of it: seconds, or text such as `60s` or `2m`. It ends within a tenth more, a second at
            least, and what a running compiler takes; the first problem is measured whatever the budget. A record whose
            search was short of time is searched on when the budget of each problem is larger than it was.
        threads: Of the kernels; torch's own number when omitted.
        rows: Values of M to tune for; by default those that the function was captured with.
        sampler: Who proposes; docs/tuning.md compares them.
        again: Search although the records know the answer.
        progress: Called whenever something was done.

    Returns:
        One result for each problem; records that already hold an answer are reused and say so.

    Raises:
        SpecError: A spec is malformed, or its M is symbolic and `rows` is not given.
        BuildError: There is no compiler.
        GridstoneError: The budget is not a duration.

    >>> import gridstone
    >>> spec = "gemm[x: f32(M,64), w: int4:g32(64,64)] + relu"
    >>> found = gridstone.tune(spec, rows=4, budget="2s")
    >>> found[0].tuned.winner.status
    'winner'
    """
    seconds = parse_budget(budget)
    targets = targets_named(target)
    wanted = [rows] if isinstance(rows, int) else list(rows)
    if any(count < 1 for count in wanted):
        raise SpecError(f"rows={wanted} are not all positive", "give the numbers of rows that calls will have")
    if isinstance(fn_or_specs, (str, Spec)):
        problems = problems_of([fn_or_specs], wanted, targets[0])
    elif callable(fn_or_specs):
        problems = captured_problems(fn_or_specs, args, kwargs, wanted, targets[0])
    else:
        problems = problems_of(fn_or_specs, wanted, targets[0])
    number = threads or torch.get_num_threads()
    return Tunings(
        run_tunings(problems, targets, seconds=seconds, threads=number, sampler=sampler, again=again, progress=progress)
    )


def captured_problems(
    fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], rows: Sequence[int], target: Target
) -> tuple[Spec, ...]:
    """Return the distinct problems that a function poses on example inputs, at its own rows unless others are given.

    Raises:
        SpecError: Nothing in it is a problem of Gridstone's; the message holds the reasons.
    """
    explanation = explain(fn, *args, **kwargs)
    if not explanation.matched:
        raise SpecError(f"nothing to tune: {explanation}", "quantise its linear layers with gridstone.quantize_model")
    found: dict[str, Spec] = {}
    for part, _ in explanation.matched:
        for spec in problems_of([part.spec], rows or [part.rows or 1], target):
            found[print_spec(spec)] = spec
    return tuple(found.values())
