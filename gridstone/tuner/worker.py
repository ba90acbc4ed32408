"""The worker: a process of its own that runs candidates, so that what they break is not the job.

`python -m gridstone.tuner.worker --requests FD --replies FD --parent PID [--plants module:function]`, started by
`measurer`. It ends when its parent does. `--plants` is for tests: the function returns replacements of recipes by name
(see `Plants`), and only who starts the worker can name it; no request can.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from gridstone.ir.errors import LaunchError
from gridstone.ir.spec import Spec
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache.make import make_kernel
from gridstone.kernel_cache.store import Store
from gridstone.lower.schedule import parse_schedule
from gridstone.lower.target import Target, parse_target
from gridstone.proof.judge import Checked
from gridstone.templates.registry import recipe_named
from gridstone.tuner.exam import Case, prepare, sit
from gridstone.tuner.measure import (
    Call,
    Rotation,
    copies_needed,
    last_level_cache,
    make_sentinel,
    race,
    screen,
    time_sample,
)
from gridstone.tuner.protocol import (
    CAUGHT,
    Entrant,
    Evidence,
    Open,
    Race,
    Raced,
    Ready,
    Refused,
    Reply,
    Request,
    Screen,
    Screened,
    Turn,
    frame,
    read_request,
)
from gridstone.tuner.verdict import stayed

Plants = Mapping[str, Callable[[Spec, str, Target], Call]]
"""Recipe name -> (spec, schedule text, target) -> what is called in place of the recipe's kernel."""

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Bench:
    """A prepared problem: per storage the cases to pass and the operands to be timed on."""

    spec: Spec
    cases: Mapping[str, tuple[Case, ...]]
    rotations: Mapping[str, Rotation]
    store: Store


class Worker:
    """Answers requests.

    Args:
        say: Sends a reply.
        plants: Replacements of recipes, for tests.
    """

    def __init__(self, say: Callable[[Reply], None], plants: Plants) -> None:
        self._say, self._plants = say, plants
        self._bench: Bench | None = None
        self._sentinel = make_sentinel(time.perf_counter)
        self._sentinel()

    def answer(self, request: Request) -> Reply:
        """Do what is asked."""
        if isinstance(request, Open):
            self._bench = None  # frees the earlier problem's operands first
            self._bench = _open(request)
            return Ready()
        assert self._bench is not None, "the first request opens a problem"
        if isinstance(request, Screen):
            return self._screen(self._bench, request)
        return self._race(self._bench, request)

    def _screen(self, bench: Bench, request: Screen) -> Reply:
        try:
            call, storage = self._load(bench, request.entrant)
            cases, rotation = bench.cases[storage], bench.rotations[storage]
            checks = [sit(call, cases[:1])]
            if request.enough is not None:
                seconds = time_sample(call, rotation, 1, time.perf_counter)
                if seconds > request.enough:
                    return Screened((seconds,), 0, 0.0, _evidence(checks))
            checks.append(sit(call, cases[1:]))
            block = screen(call, rotation, request.samples, time.perf_counter, self._sentinel)
            checks.append(sit(call, cases))  # all: one that it wrote over would be held against the next candidate
        except Exception as error:
            return _refused(error)
        return Screened(block.samples, block.voided, block.drift, _evidence(checks))

    def _race(self, bench: Bench, request: Race) -> Reply:
        turn = 0

        def say(at: int) -> None:
            nonlocal turn
            turn = at
            self._say(Turn(at))

        entrants: list[tuple[Call, Rotation]] = []
        evidence: list[Evidence | None] = []
        storages: list[str] = []
        try:
            for at, entrant in enumerate(request.entrants):
                say(at)
                call, storage = self._load(bench, entrant)
                entrants.append((call, bench.rotations[storage]))
                storages.append(storage)
            samples = race(entrants, request.rounds, request.seconds, time.perf_counter, say, request.latest)
            running = stayed(samples)
            for at, ((call, _), storage) in enumerate(zip(entrants, storages, strict=True)):
                say(at)
                evidence.append(_evidence([sit(call, bench.cases[storage][:1])]) if at in running else None)
        except Exception as error:
            return _refused(error, turn)
        return Raced(samples, tuple(evidence))

    def _load(self, bench: Bench, entrant: Entrant) -> tuple[Call, str]:
        """Return what computes the spec, and the storage that it reads."""
        target = parse_target(entrant.target)
        plant = self._plants.get(entrant.recipe)
        if plant is not None:
            return plant(bench.spec.with_storage(target.storage), entrant.schedule, target), target.storage
        recipe = recipe_named(entrant.recipe)
        start = recipe.space.default(bench.spec.with_storage(target.storage), target)
        schedule = parse_schedule(entrant.schedule, recipe.schedule, start)
        return make_kernel(recipe, bench.spec, schedule, target, bench.store).call, target.storage


def _open(request: Open) -> Bench:
    torch.set_num_threads(request.threads)
    spec = parse_spec(request.spec)
    cases = {name: prepare(spec.with_storage(name), request.seeds) for name in request.storages}
    cache = last_level_cache()
    rotations: dict[str, Rotation] = {}
    for name, drawn in cases.items():
        tensors = drawn[0].operands.tensors
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        rotations[name] = Rotation(tensors, copies_needed(size, cache, request.threads))
    return Bench(spec, cases, rotations, Store(Path(request.cache_root), request.cache_limit))


def _evidence(checks: Sequence[Checked]) -> Evidence:
    return Evidence(
        sum(check.cases for check in checks),
        max(check.worst_element for check in checks),
        max(check.worst_rms for check in checks),
    )


def _refused(error: Exception, at: int = 0) -> Refused:
    """Report an error. One that a stage did not foresee is a kernel that could not be launched."""
    if isinstance(error, CAUGHT):
        return Refused(error.stage, error.problem, error.remedy, at)
    traceback.print_exception(error)
    return Refused(LaunchError.stage, f"{type(error).__name__}: {error}", "", at)


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies; elsewhere the end of the request pipe has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the request
        os._exit(1)


def die_first() -> None:
    """Ask Linux to end this process, not the one that tunes, when memory runs out."""
    with contextlib.suppress(OSError):  # not Linux
        Path("/proc/self/oom_score_adj").write_text("1000")


def _plants(place: str) -> Plants:
    if not place:
        return {}
    module, _, function = place.partition(":")
    return getattr(importlib.import_module(module), function)()


def main() -> None:
    """Answer requests until there are no more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--replies", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--plants", default="")
    options = parser.parse_args()
    die_with_parent(options.parent)
    die_first()
    with open(options.requests, "rb") as requests, open(options.replies, "wb", buffering=0) as replies:

        def say(reply: Reply) -> None:
            rest = memoryview(frame(reply))
            while rest:
                rest = rest[replies.write(rest) :]

        def read(count: int) -> bytes:
            data = requests.read(count)
            if len(data) < count:
                raise EOFError
            return data

        worker = Worker(say, _plants(options.plants))
        while True:
            try:
                request = read_request(read)
            except EOFError:
                os._exit(0)  # the parent is gone or done; nothing of a candidate's may run on
            say(worker.answer(request))


if __name__ == "__main__":
    main()
