"""A watched candidate in a process of its own: it can spoil what is watched there, and not what its output is held to.

Both ends speak through a pipe: a JSON object, then the bytes of tensors, each as one message. Nothing is unpickled. The
module is also the program of the other process.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch

from gridstone.ir.errors import SpecError
from gridstone.ir.spec import Spec
from gridstone.ir.text import parse_spec, print_spec
from gridstone.proof.place import bits
from gridstone.proof.watch import Seen, Watch, Way

TIMEOUT_S = 300.0  # for one call, a compilation in it included
ENDING_S = 5.0  # in which a process ends that has closed its end


class Isolated:
    """Calls a candidate in another process, as `Watch` calls it in this one.

    Args:
        candidate: `module:function`, which is imported there.
        way: How it wants to be called; a function of weights is given as text too.
        timeout_s: Seconds after which a call counts as hanging.
    """

    def __init__(self, candidate: str, way: Way, timeout_s: float = TIMEOUT_S) -> None:
        if callable(way.weights):
            raise SpecError("a function cannot travel to another process", "give weights as text, 'module:function'")
        _named(candidate)
        self._timeout_s = timeout_s
        self._pipe, theirs = multiprocessing.Pipe()
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "gridstone.proof.isolated", str(theirs.fileno())],
            stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        theirs.close()
        self._died = self._send(
            {"candidate": candidate, "out": way.out, "weights": way.weights, "device": str(way.device)}
        )

    def __enter__(self) -> Isolated:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()
        self._pipe.close()

    def call(self, spec: Spec, tensors: tuple[torch.Tensor, ...]) -> Seen:
        """Call the candidate once; arguments as `Watch.call` takes them."""
        seen = self._answer({"spec": print_spec(spec)}, tensors)
        if not seen.problem and len(seen.output) != spec.output.plain_bytes():
            return Seen(f"its process sent {len(seen.output)} bytes of an output of {spec.output.plain_bytes()}")
        return seen

    def close(self) -> str:
        """Look once more, a little later; return what has changed."""
        return self._answer({"spec": ""}).problem

    def _send(self, request: dict[str, object], tensors: tuple[torch.Tensor, ...] = ()) -> str:
        """Send a request; return why it could not be sent."""
        try:
            self._pipe.send_bytes(json.dumps(request).encode())
            for tensor in tensors:
                self._pipe.send_bytes(bits(tensor))
        except OSError:
            return self._end()
        return ""

    def _answer(self, request: dict[str, object], tensors: tuple[torch.Tensor, ...] = ()) -> Seen:
        self._died = self._died or self._send(request, tensors)
        if self._died:
            return Seen(self._died)
        try:
            if not self._pipe.poll(self._timeout_s):
                return Seen(f"its process did not answer within {self._timeout_s:g} s")
            return Seen(str(json.loads(self._pipe.recv_bytes())["problem"]), self._pipe.recv_bytes())
        except (EOFError, OSError):
            return Seen(self._end())
        except (ValueError, KeyError, TypeError):
            return Seen("its process sent an answer that cannot be read")

    def _end(self) -> str:
        try:
            code = self._child.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            return "its process closed its end of the pipe"
        return f"its process ended with {signal.Signals(-code).name if code < 0 else code}"


def found(text: str) -> Callable[..., object]:
    """Import a function by its name, `module:function`.

    Raises:
        SpecError: The text names none.
    """
    module, name = _named(text)
    return getattr(importlib.import_module(module), name)


def _named(text: str) -> tuple[str, str]:
    module, colon, name = text.partition(":")
    if not colon:
        raise SpecError(f"{text!r} names no function", "write module:function")
    return module, name


def serve(pipe: Connection) -> None:
    """Call the candidate whenever it is asked for, until the pipe closes."""
    request = json.loads(pipe.recv_bytes())
    named: str = request["weights"]
    watch: Watch | None = None
    while True:
        text = json.loads(pipe.recv_bytes())["spec"]
        spec = parse_spec(text) if text else None
        tensors = _received(pipe, spec) if spec else ()
        if watch is None:
            try:
                weights = found(named) if ":" in named else named
                way = Way(request["out"], weights, torch.device(request["device"]))
                watch = Watch(found(request["candidate"]), way)
            except Exception as error:
                _reply(pipe, Seen(f"it cannot be imported: {type(error).__name__}: {error}"))
                continue
        _reply(pipe, watch.call(spec, tensors) if spec else Seen(watch.close()))


def _received(pipe: Connection, spec: Spec) -> tuple[torch.Tensor, ...]:
    tensors: list[torch.Tensor] = []
    for operand in (*spec.inputs, *spec.extra_operands):
        flat = torch.frombuffer(bytearray(pipe.recv_bytes()) or bytearray(1), dtype=torch.uint8)
        if operand.type.format is not None:
            tensors.append(flat)
            continue
        shape = tuple(operand.type.static(axis) for axis in range(len(operand.type.shape)))
        dtype = getattr(torch, operand.type.dtype.torch)
        tensors.append(flat.view(dtype).view(shape) if 0 not in shape else torch.empty(shape, dtype=dtype))
    return tuple(tensors)


def _reply(pipe: Connection, seen: Seen) -> None:
    pipe.send_bytes(json.dumps({"problem": seen.problem}).encode())
    pipe.send_bytes(seen.output)


if __name__ == "__main__":
    try:
        serve(Connection(int(sys.argv[1])))
    except (EOFError, OSError):  # the other end is gone
        sys.exit(0)
