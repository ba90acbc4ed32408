"""The measurer: a job's side of its worker. It starts it, sets deadlines, kills it and starts another."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gridstone.ir.errors import GridstoneError, LaunchError, MismatchError
from gridstone.ir.spec import Spec
from gridstone.ir.text import print_spec
from gridstone.kernel_cache.store import Store
from gridstone.lower.schedule import print_schedule
from gridstone.tuner.candidate import Candidate
from gridstone.tuner.protocol import (
    Entrant,
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
)
from gridstone.tuner.spawned import Spawned

OPEN_SECONDS = 600.0  # deadline for drawing operands and computing references


@dataclass(frozen=True, slots=True)
class Problem:
    """What is tuned.

    Args:
        spec: Static.
        storages: Those that the candidates' targets read.
        threads: Of the kernels.
        seeds: Of the operands on which every candidate is checked.
        store: Where the built artefacts are.
    """

    spec: Spec
    storages: tuple[str, ...]
    threads: int
    seeds: tuple[int, ...]
    store: Store


@dataclass(frozen=True, slots=True)
class Fault:
    """An entrant of a race failed."""

    at: int
    error: GridstoneError


@dataclass(frozen=True, slots=True)
class RaceLimits:
    """How long a race may last.

    Args:
        rounds: At most.
        seconds: After this long it ends with the rounds that it has, if a sign test can use them.
        latest: After this long it ends in any case.
        deadline: Whose turn it is after this long, hangs.
    """

    rounds: int
    seconds: float
    latest: float
    deadline: float


class Measurer(Protocol):
    """What a job measures with: a subprocess, or a table in tests and replays."""

    def open(self, problem: Problem) -> None:
        """Turn to a problem. May return before it is prepared."""
        ...

    def settle(self) -> None:
        """Wait until the problem is prepared, anew if the worker died since.

        Raises:
            GridstoneError: It cannot be prepared here. Not one that is held against a candidate.
        """
        ...

    def screen(self, candidate: Candidate, samples: int, deadline: float, enough: float | None) -> Screened:
        """Check and time a candidate, by one call only if that takes longer than `enough` seconds.

        Raises:
            ScheduleError, BuildError, LaunchError, MismatchError: It failed; within about `deadline` seconds. Late, a
                LaunchError, when it did not end by then.
        """
        ...

    def race(self, candidates: Sequence[Candidate], limits: RaceLimits) -> Raced | Fault:
        """Time candidates in turn; a fault names the one that failed."""
        ...

    def close(self) -> None:
        """Free what is held; the next request starts anew."""
        ...


class SubprocessMeasurer:
    """Measures in a spawned worker, which is kept until it dies, hangs or is closed.

    Args:
        plants: For tests: "module:function" that the worker imports to replace recipes (`worker.Plants`).
    """

    def __init__(self, plants: str = "") -> None:
        self._plants = plants
        self._problem: Problem | None = None
        self._worker: Spawned | None = None
        self._pending = False  # an Open that was not answered yet

    @property
    def pid(self) -> int | None:
        """The worker's process, if one runs."""
        return self._worker.pid if self._worker else None

    def open(self, problem: Problem) -> None:
        """Start preparing a problem, if it is another one than before."""
        if self._worker is not None and problem == self._problem:
            return
        self._problem = problem
        try:
            self._wait()  # a worker answers one request at a time
            self._begin()
        except LaunchError:
            self.close()  # the next request starts afresh, and reports what is wrong if that fails too
        except BaseException:
            self.close()
            raise

    def settle(self) -> None:
        """Wait for the worker."""
        try:
            self._prepared()
        except BaseException:
            self.close()
            raise

    def screen(self, candidate: Candidate, samples: int, deadline: float, enough: float | None = None) -> Screened:
        """Check and time one candidate."""
        reply = self._ask(Screen(_entrant(candidate), samples, enough), deadline, [0])
        if isinstance(reply, Refused):
            raise self._refusal(reply)
        assert isinstance(reply, Screened)
        return reply

    def race(self, candidates: Sequence[Candidate], limits: RaceLimits) -> Raced | Fault:
        """Time candidates in turn."""
        turn = [0]
        request = Race(tuple(map(_entrant, candidates)), limits.rounds, limits.seconds, limits.latest)
        try:
            reply = self._ask(request, limits.deadline, turn)
        except LaunchError as error:
            return Fault(turn[0], error)
        if isinstance(reply, Refused):
            return Fault(reply.at, self._refusal(reply))
        assert isinstance(reply, Raced)
        return reply

    def _refusal(self, reply: Refused) -> GridstoneError:
        """Return the error. A candidate that ran and failed may have written anywhere: its worker is not trusted again.

        Otherwise operands that one candidate has changed would fail the next.
        """
        error = reply.error()
        if isinstance(error, LaunchError | MismatchError):
            self.close()
        return error

    def close(self) -> None:
        """Kill the worker."""
        if self._worker is not None:
            self._worker.kill()
        self._worker, self._pending = None, False

    def _ask(self, request: Request, deadline: float, turn: list[int]) -> Reply:
        """Send a request and return its answer; `turn` tells whose turn it was last."""
        try:
            worker = self._prepared()
            worker.send(request)
            return self._reply(worker, deadline, turn)
        except BaseException:  # also a KeyboardInterrupt: an answer may still come, so this worker is of no more use
            self.close()
            raise

    def _prepared(self) -> Spawned:
        """Return a live worker that has prepared the problem. What goes wrong here is no candidate's fault."""
        for last in (False, True):
            try:
                if self._worker is None or not self._worker.alive:
                    self.close()
                    self._begin()
                self._wait()
                assert self._worker is not None
                return self._worker
            except LaunchError as error:
                self.close()
                if last:
                    assert self._problem is not None
                    problem = f"{print_spec(self._problem.spec)} cannot be measured: {error.problem}"
                    raise GridstoneError(problem, "see what the measuring process printed") from error
        raise AssertionError("unreachable")

    def _begin(self) -> None:
        """Send `Open` to the worker, starting it if there is none."""
        problem = self._problem
        assert problem is not None, "open a problem first"
        if self._worker is None:
            self._worker = Spawned(self._plants)
        text, root, limit = print_spec(problem.spec), str(problem.store.root), problem.store.limit_bytes
        self._worker.send(Open(text, problem.storages, problem.threads, problem.seeds, root, limit))
        self._pending = True

    def _wait(self) -> None:
        """Wait for the answer to `Open`."""
        if self._pending and self._worker is not None:
            reply = self._reply(self._worker, OPEN_SECONDS, [0])
            assert isinstance(reply, Ready)
            self._pending = False

    def _reply(self, worker: Spawned, deadline: float, turn: list[int]) -> Reply:
        end = time.monotonic() + deadline
        while True:
            reply = worker.receive(end, deadline)
            if not isinstance(reply, Turn):
                return reply
            turn[0] = reply.at


def _entrant(candidate: Candidate) -> Entrant:
    return Entrant(candidate.recipe.name, print_schedule(candidate.schedule), str(candidate.target))
