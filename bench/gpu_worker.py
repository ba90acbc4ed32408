"""A process of its own for what may break: a kernel that hangs, or takes the GPU's context or the process with it.

The parent asks one thing at a time and waits so long and no longer. A worker that dies, is late, or says that it
cannot go on is replaced by a new one for the next request. Imports nothing heavy: what the answers need is imported by
the process that gives them.
"""

from __future__ import annotations

import importlib
import multiprocessing
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

START_S = 180.0  # for a new process to import what it needs and make a context on a GPU
END_S = 10.0  # for a process that was killed
_READY, _ANSWER, _ERROR = "ready", "answer", "error"


class WorkerError(Exception):
    """A request that got no answer: the reason, for a report."""


class Died(WorkerError):
    """One that ended the process."""


class Stopped(Exception):
    """Raised by an answering function whose process must not go on; its text is the reason."""


class Worker:
    """Answers requests in a process of its own, started at the first.

    Args:
        place: `module:name` of what is called once, with no arguments, and returns the function from request to
            answer; both are pickled.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._process: Any = None
        self._connection: Any = None  # of one of two classes, by the system

    def ask(self, request: object, seconds: float) -> Any:
        """Return the answer to a request.

        Args:
            request: What can be pickled.
            seconds: Within which it must come, once the process is there.

        Raises:
            WorkerError: It raised; Died where it hung or ended its process, which the next request replaces.
        """
        if self._connection is None:
            self._start()
        connection = self._connection
        assert connection is not None
        try:
            connection.send(request)
        except OSError:
            raise self._death() from None
        kind, value, usable = self._receive(seconds)
        if not usable:
            self.close()
            raise Died(value)
        if kind == _ERROR:
            raise WorkerError(value)
        return value

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._connection is not None:
            self._connection.close()
            self._process.kill()
            self._process.join(END_S)  # one that the driver holds may take long, and nobody waits for it
            self._connection = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit a broken context, and OpenMP's locks
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, self._place), daemon=True)
        self._process.start()
        theirs.close()
        kind, value, _ = self._receive(START_S)
        if kind != _READY:
            self.close()
            raise Died(value)

    def _receive(self, seconds: float) -> tuple[str, Any, bool]:
        connection = self._connection
        assert connection is not None
        try:
            if not connection.poll(seconds):
                self.close()
                raise Died(f"no answer within {seconds:.0f} s: it hangs, or is far too slow")
            return connection.recv()
        except (EOFError, OSError):
            raise self._death() from None

    def _death(self) -> Died:
        self._process.join(END_S)
        code = self._process.exitcode
        self.close()
        if code is None:
            return Died("its process closed its pipe and runs on")
        return Died(f"its process was killed by {_signal(-code)}" if code < 0 else f"its process ended with {code}")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def serve(connection: Connection, place: str) -> None:
    """Answer requests until there are no more; the main function of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's, who ends this process
    module, _, name = place.partition(":")
    try:
        answer: Callable[[Any], object] = getattr(importlib.import_module(module), name)()
    except Exception as error:
        connection.send((_ERROR, _said(error), False))
        return
    connection.send((_READY, None, True))
    while True:
        try:
            request = connection.recv()
        except (EOFError, OSError):
            return
        try:
            reply = _ANSWER, answer(request), True
        except Stopped as error:
            reply = _ERROR, str(error), False
        except Exception as error:
            traceback.print_exception(error)
            reply = _ERROR, _said(error), True
        connection.send(reply)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
