"""The crew: worker processes that are asked, watched, and replaced when they die or hang."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import gridstone
from gridstone.ir.errors import LaunchError

HANGS_S = 120.0  # without a word; building the CUDA executor's machine takes 20 s on a busy machine
LAST_WORDS = 1500  # bytes of a dead worker's stderr that are quoted

Answer = dict[str, Any]  # a line of JSON


@dataclass(slots=True)
class Worker:
    """A process and what is known of it.

    Args:
        process: Serves `worker.serve`.
        said: Its stderr.
        doing: The request that it works on, None when idle.
        trying: The case that it ran last.
        heard: When it last said something, in seconds of `time.monotonic`.
        rest: What has been read of an unfinished line.
    """

    process: subprocess.Popen[bytes]
    said: IO[bytes]
    doing: Answer | None = None
    trying: str = ""
    heard: float = 0.0
    rest: bytes = b""


@dataclass(frozen=True, slots=True)
class Died:
    """A worker is gone.

    Args:
        request: What it was doing.
        case: The case that it ran last; empty before the first.
        how: Its signal or status, or that it hung, and its last words.
    """

    request: Answer
    case: str
    how: str


class Crew:
    """Some workers.

    Args:
        command: Starts one, below the interpreter: `("-m", "module")`.
        count: How many.
        hangs_s: Seconds of silence after which one is killed.
    """

    def __init__(self, command: Sequence[str], count: int, hangs_s: float = HANGS_S) -> None:
        self.command, self.hangs_s = tuple(command), hangs_s
        self._selector = selectors.DefaultSelector()
        self.workers = [self._start() for _ in range(count)]

    def _start(self) -> Worker:
        path = [str(Path(gridstone.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        said = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the worker
        # Threads of OpenMP and OpenBLAS that spin while they wait would only take the cores from the other workers.
        calm = {"OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        process = subprocess.Popen(
            [sys.executable, "-P", *self.command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, bufsize=0,
            env={**calm, **os.environ, "PYTHONPATH": os.pathsep.join(path)}, start_new_session=True,
        )  # fmt: skip
        worker = Worker(process, said)
        assert process.stdout is not None
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)
        return worker

    def wait(self) -> None:
        """Wait until every worker has imported what it runs, which takes seconds.

        Raises:
            LaunchError: One cannot be started.
        """
        for worker in self.workers:
            self.ask(worker, {"ready": True})
        while self.busy():
            for _, answer in self.answers(1.0):
                if isinstance(answer, Died):
                    raise LaunchError(f"a worker cannot be started: {answer.how}")

    def idle(self) -> Iterator[Worker]:
        """Yield workers without work."""
        yield from (worker for worker in self.workers if worker.doing is None)

    def busy(self) -> bool:
        """Whether any worker works."""
        return any(worker.doing is not None for worker in self.workers)

    def ask(self, worker: Worker, request: Answer) -> None:
        """Give an idle worker something to do."""
        assert worker.doing is None
        assert worker.process.stdin is not None
        worker.doing, worker.trying, worker.heard = request, "", time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # it is dead, and `answers` will say so
            worker.process.stdin.write(json.dumps(request).encode() + b"\n")

    def answers(self, patience: float) -> Iterator[tuple[Worker, Answer | Died]]:
        """Yield what workers have said, waiting up to `patience` seconds for the first; the dead are replaced."""
        for key, _ in self._selector.select(patience):
            worker = key.data
            content = os.read(key.fd, 1 << 16)
            if not content:
                yield worker, self._replace(worker, "")
                continue
            worker.heard = time.monotonic()
            *lines, worker.rest = (worker.rest + content).split(b"\n")
            for line in lines:
                answer = json.loads(line)
                worker.trying = answer.get("trying", worker.trying)
                if not {"trying", "ran", "failed"} & answer.keys():
                    worker.doing = None
                yield worker, answer
        for worker in tuple(self.workers):
            if worker.doing is not None and time.monotonic() - worker.heard > self.hangs_s:
                yield worker, self._replace(worker, f"said nothing for {self.hangs_s:g} s")

    def _replace(self, worker: Worker, hung: str) -> Died:
        how, request = self._end(worker), worker.doing or {}
        self.workers[self.workers.index(worker)] = self._start()
        return Died(request, worker.trying, hung or how)

    def _end(self, worker: Worker) -> str:
        """End a worker; return how it ended and what it said last."""
        process = worker.process
        assert process.stdout is not None
        assert process.stdin is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
        self._selector.unregister(process.stdout)
        process.stdout.close()
        with contextlib.suppress(OSError):
            process.stdin.close()
        with worker.said as said:
            said.seek(max(0, said.seek(0, os.SEEK_END) - LAST_WORDS))
            words = said.read().decode(errors="replace").strip()
        name = signal.Signals(-status).name if status < 0 else f"status {status}"
        return f"the process died: {name}" + (f"\n{words}" if words else "")

    def close(self) -> None:
        """End all workers."""
        for worker in self.workers:
            self._end(worker)
        self._selector.close()
