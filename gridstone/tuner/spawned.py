"""A spawned worker as its parent sees it: two pipes, a deadline for every answer, and a hard end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import gridstone
from gridstone.ir.errors import LaunchError
from gridstone.tuner.protocol import Reply, Request, frame, read_reply

LAST_WORDS = 2000  # bytes of a dead worker's output that its error quotes


class Late(LaunchError):
    """No answer came in time."""


class Spawned:
    """One worker: its pipes, and the end of what it prints."""

    def __init__(self, plants: str) -> None:
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        command = [sys.executable, "-P", "-m", "gridstone.tuner.worker"]
        command += ["--requests", str(requests), "--replies", str(replies), "--parent", str(os.getpid())]
        command += ["--plants", plants] if plants else []
        # The package as it is loaded here, also when it is not installed.
        path = [str(Path(gridstone.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        try:
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                pass_fds=(requests, replies), start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            )  # fmt: skip
        except BaseException as error:  # an interrupt too: nobody would end a worker that nobody knows
            for end in (self._requests, self._replies):
                os.close(end)  # the worker ends with its requests
            if not isinstance(error, OSError):
                raise
            raise LaunchError(f"the measuring process could not be started: {error}") from error
        finally:
            os.close(requests)
            os.close(replies)
        self._printed = b""
        self._reader = threading.Thread(target=self._drain, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process, which leads a session and a group of its own."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._child.poll() is None

    def send(self, request: Request) -> None:
        """Send a request; LaunchError when nobody reads it."""
        try:
            rest = memoryview(frame(request))
            while rest:
                rest = rest[os.write(self._requests, rest) :]
        except OSError:
            raise self._death() from None

    def receive(self, end: float, deadline: float) -> Reply:
        """Return the next reply; Late when it does not come, LaunchError when the worker dies or talks nonsense."""
        replies = select.poll()
        replies.register(self._replies, select.POLLIN)

        def read(count: int) -> bytes:
            data = b""
            while len(data) < count:
                if not replies.poll(1e3 * max(0.0, end - time.monotonic())):
                    raise Late(f"no answer within {deadline:.3g} s: it hangs, or is far too slow")
                part = os.read(self._replies, count - len(data))
                if not part:
                    raise self._death()
                data += part
            return data

        try:
            return read_reply(read)
        except ValueError as error:  # of msgspec too
            raise LaunchError(f"the measuring process answered garbage: {error}") from None

    def kill(self) -> None:
        """End the worker and all that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        for end in (self._requests, self._replies):
            os.close(end)
        self._reader.join(1.0)

    def _death(self) -> LaunchError:
        try:
            code = self._child.wait(5.0)
        except subprocess.TimeoutExpired:
            return LaunchError("the measuring process closed its pipe")
        self._reader.join(1.0)
        how = f"was killed by {_signal(-code)}" if code < 0 else f"ended with status {code}"
        words = self._printed.decode(errors="replace").strip()
        return LaunchError(f"the measuring process {how}" + (f"; it printed: {words}" if words else ""))

    def _drain(self) -> None:
        """Read what the worker prints, for ever, and keep its end."""
        assert self._child.stdout is not None
        with self._child.stdout as stream:
            while part := os.read(stream.fileno(), 1 << 16):
                self._printed = (self._printed + part)[-LAST_WORDS:]


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
