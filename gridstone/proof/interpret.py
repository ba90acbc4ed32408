"""Triton on a CPU: emitted source under Triton's interpreter, as a candidate of the usual check.

The interpreter runs in a process of its own, because Triton decides on import whether it interprets. It is started
once, serves many cases, and is started afresh when it died or did not answer; `triton_on_cpu.py` is its program and
says what is checked and mended there.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import torch

import gridstone
from gridstone.ir.errors import BuildError, GridstoneError, LaunchError, MismatchError
from gridstone.ir.spec import Spec
from gridstone.proof.execute import Traffic
from gridstone.templates.source import ParamKind, Source

OUTPUT = "y"
TIMEOUT_S = 120.0
LAST_WORDS = 2000  # bytes of a dead interpreter's output that its error quotes
PIECE = 16  # bytes, to a multiple of which GPUs and the interpreter's buffers align
_SLICE_S = 1.0  # seconds of waiting that are charged at once, so that a machine that sleeps is no kernel that hangs
_LOOK_S = 0.3  # seconds in which a hanging interpreter writes where it is
_LENGTH = struct.Struct("<q")


def bytes_of(tensor: torch.Tensor) -> bytearray:
    """Return a copy of the memory that a tensor lies in, from its first element to the end of its storage."""
    size = tensor.element_size()
    whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())  # pyright: ignore[reportArgumentType]
    return bytearray(whole[int(tensor.storage_offset()) * size :].numpy().tobytes())


def _span(tensor: torch.Tensor) -> int:
    """Return the elements from a tensor's first to its last."""
    if not tensor.numel():
        return 0
    return 1 + sum((extent - 1) * stride for extent, stride in zip(tensor.shape, tensor.stride(), strict=True))


class _Hangs(Exception):
    """The interpreter did not answer in time."""


class Interpreter:
    """A process that interprets Triton, started with the first case; it takes one case at a time.

    Args:
        timeout_s: Seconds after which a case counts as hanging.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self.timeout_s = timeout_s
        self._turn = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None

    def run(
        self, request: dict[str, object], memory: list[bytearray], count: Callable[[Traffic], None] | None = None
    ) -> tuple[str, list[bytes]]:
        """Run a case.

        Args:
            request: Its description, as `triton_on_cpu.serve` reads it.
            memory: The buffers.
            count: Told the traffic, each element being an access of its own.

        Returns:
            What was wrong, empty for nothing, and the buffers as the kernel left them.

        Raises:
            LaunchError: The interpreter died, or did not answer in time; the next case gets another one.
        """
        text = json.dumps({**request, "bytes": [len(buffer) for buffer in memory]}).encode()
        with self._turn:
            child = self._started()
            try:
                patience = _Patience(self.timeout_s)
                _write(child, b"".join([_LENGTH.pack(len(text)), text, *memory]), patience)
                (length,) = _LENGTH.unpack(_read(child, _LENGTH.size, patience))
                answer = json.loads(_read(child, length, patience))
                if count:
                    count({name: (times, size) for name, (times, size) in answer["traffic"].items()})
                return answer["problem"], [_read(child, len(buffer), patience) for buffer in memory]
            except _Hangs:
                child.send_signal(signal.SIGUSR1)
                time.sleep(_LOOK_S)
                late = f"Triton's interpreter did not answer within {self.timeout_s:g} s"
                raise LaunchError(f"{late}; it was at\n{self._end()}") from None
            except (OSError, EOFError) as error:
                words = self._end()
                raise LaunchError(f"Triton's interpreter died with {child.returncode}:\n{words}") from error
            except BaseException:  # an interrupt too: half an answer is no use to the next case
                self._end()
                raise

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is None:
            return self._child
        if importlib.util.find_spec("triton") is None:
            raise BuildError("Triton source cannot be interpreted here: no triton", "install gridstone[triton]")
        self._end()
        path = [str(Path(gridstone.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the child
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "gridstone.proof.triton_on_cpu", str(os.getpid())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, bufsize=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "TRITON_INTERPRET": "1"},
        )  # fmt: skip
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        return self._child

    def close(self) -> None:
        """End the process; the next case starts another."""
        self._end()

    def _end(self) -> str:
        """End the process and return what it said last."""
        child, said, self._child, self._said = self._child, self._said, None, None
        if child is None or said is None:
            return ""
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # what it had not read yet
                    continue
        with said:
            said.seek(max(0, said.seek(0, os.SEEK_END) - LAST_WORDS))
            return said.read().decode(errors="replace")


class _Patience:
    """Seconds that are left to wait for a process."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    def wait(self, read: list[int], write: list[int]) -> None:
        """Wait until one of these can be read or written, or raise _Hangs."""
        while self.left > 0:
            start, most = time.monotonic(), min(_SLICE_S, self.left)
            ready = select.select(read, write, [], most)
            self.left -= min(time.monotonic() - start, most)
            if ready[0] or ready[1]:
                return
        raise _Hangs


def _write(child: subprocess.Popen[bytes], message: bytes, patience: _Patience) -> None:
    assert child.stdin is not None
    descriptor, rest = child.stdin.fileno(), memoryview(message)
    while rest:
        patience.wait([], [descriptor])
        rest = rest[os.write(descriptor, rest) :]


def _read(child: subprocess.Popen[bytes], count: int, patience: _Patience) -> bytes:
    assert child.stdout is not None
    descriptor, found = child.stdout.fileno(), bytearray()
    while len(found) < count:
        patience.wait([descriptor], [])
        piece = os.read(descriptor, count - len(found))
        if not piece:
            raise EOFError
        found += piece
    return bytes(found)


@functools.cache
def interpreter() -> Interpreter:
    """Return the interpreter that this process's cases share."""
    return Interpreter()


def interpreted(
    source: Source,
    spec: Spec,
    *,
    seed: int = 0,
    asm: bool = False,
    by: Interpreter | None = None,
    count: Callable[[Traffic], None] | None = None,
) -> Callable[..., torch.Tensor]:
    """Return `call(*tensors, out)` that interprets a Triton kernel on this CPU.

    Args:
        source: Emitted Triton with a grid.
        spec: What it computes; storages resolved.
        seed: Of the order of the programs.
        asm: Whether to run the kernel's inline PTX (in NumPy) instead of its plain twin.
        by: The interpreter; the shared one when omitted.
        count: Told each call's traffic.

    Raises:
        LaunchError: From the call, when the interpreter dies or hangs.
        MismatchError: From the call, when the kernel fails, touches memory that is not an operand's, or leaves tickets
            or unordered sums behind.
    """
    grid = source.launch.grid
    assert grid is not None
    names = [operand.name for operand in (*spec.inputs, *spec.extra_operands)]

    def call(*tensors: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        given = dict(zip(names, tensors, strict=True)) | {OUTPUT: out}
        rows = given["x"].shape[0]
        if rows == 0:
            return out
        # What a spec lacks is given as NaN and must not matter; a GPU gets null, and its code has no load of it.
        absent = torch.full((1, out.shape[1]), float("nan"), dtype=out.dtype)
        tiles = -(-rows // grid.block_m) * grid.blocks_n
        ordered = source.launch.deterministic
        parts = torch.full((tiles * grid.part_floats,), float("nan") if ordered else 0.0)
        tickets = torch.zeros(tiles, dtype=torch.int32)
        memory: list[bytearray] = []
        arguments: list[dict[str, object]] = []

        def pass_tensor(name: str, tensor: torch.Tensor, writable: bool) -> None:
            lead = tensor.data_ptr() % PIECE  # kernels choose by it
            arguments.append({
                "name": name, "dtype": str(tensor.dtype).removeprefix("torch."), "buffer": len(memory),
                "first": lead // tensor.element_size(), "count": _span(tensor), "writable": writable,
            })  # fmt: skip
            memory.append(bytearray(lead) + (bytes_of(tensor) or bytearray(tensor.element_size())))

        for param in source.params:
            match param.kind:
                case ParamKind.PARTS:
                    pass_tensor("parts", parts, True)
                case ParamKind.TICKETS:
                    pass_tensor("tickets", tickets, True)
                case ParamKind.ROWS:
                    arguments.append({"value": rows})
                case ParamKind.POINTER:
                    pass_tensor(param.operand, given.get(param.operand, absent), param.operand == OUTPUT)
                case ParamKind.STRIDE:
                    arguments.append({"value": given[param.operand].stride(0) if param.operand in given else 0})
                case _:
                    raise AssertionError(f"a Triton kernel takes no {param.kind.value}")
        request = {
            "text": source.text, "entry": source.entry, "arguments": arguments, "seed": seed, "asm": asm,
            "grid": [grid.blocks_n, tiles // grid.blocks_n, grid.k_splits],
        }  # fmt: skip
        try:
            problem, left = (by or interpreter()).run(request, memory, count)
            if problem:
                raise MismatchError(f"interpreting {source.origin.schedule} fails: {problem}")
            after = {str(a["name"]): left[int(str(a["buffer"]))] for a in arguments if "buffer" in a}
            if any(after["tickets"]) or (not ordered and any(after["parts"])):
                raise MismatchError("tickets or sums are not left zero for the next launch")
        except GridstoneError as error:
            error.add_note(f"spec      {source.origin.spec}, {rows} rows\nschedule  {source.origin.schedule}")
            raise
        size, lead = out.element_size(), out.data_ptr() % PIECE
        written = torch.frombuffer(bytearray(after[OUTPUT][lead : lead + _span(out) * size]), dtype=out.dtype)
        out.copy_(written.as_strided(out.shape, out.stride()))
        return out

    return call
