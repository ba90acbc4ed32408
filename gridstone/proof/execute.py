"""CUDA on a CPU: the emitted `.cu`, unchanged, compiled by the C++ compiler against stand-in headers and executed.

Threads of a block are fibers; `cuda_on_cpu/machine.h` says what is checked on the way: bounds, initialisation, the
order of accesses, copies that were not waited for, barriers that never open. Thread and block order are drawn from a
seed. A report names the lines of the emitted text. `docs/proof.md` says what is not modelled.
"""

from __future__ import annotations

import _ctypes
import ctypes
import os
import re
import struct
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from gridstone.ir.errors import LaunchError
from gridstone.proof.program import TIMEOUT_S, Program

MOST_SHARED = 232448  # bytes of shared memory that a block of sm_90 can have
_REPORTED = (0, 10)  # exit codes of a program that came to its end, without and with faults
_LAUNCHING = Lock()  # a library holds one machine

Array = npt.NDArray[Any]


class Probe(Enum):
    """Inputs whose values say where they belong, so that a wrong fragment is reported where it is multiplied."""

    NONE = 0
    X_ROW = 1  # x[m][k] = 1 + m % 8
    X_K = 2  # x[m][k] = 1 + k % 16
    W_ROW = 3  # code[n][k] = n % 16
    W_K = 4  # code[n][k] = k % 16


@dataclass(frozen=True, slots=True)
class Buffer:
    """A tensor in global memory.

    Args:
        name: For reports.
        array: Contiguous; the kernel may touch its bytes and no others.
        writable: Whether the kernel may write to it; a store to one that is not is a fault.
        held: Whether its values may be read before anybody has written them.
    """

    name: str
    array: Array
    writable: bool = False
    held: bool = True


Argument = Buffer | int | None
"""What a parameter of the entry point is given: a buffer's address, a 64-bit integer, or null."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How a kernel is launched.

    Args:
        grid, block: Extents in x, y, z.
        shared_bytes: Dynamic shared memory of a block.
    """

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that a GPU would have done wrong in silence.

    Args:
        kind: `bounds`, `race`, `uninitialised`, `cp.async`, `alignment`, `barrier`, `divergence`, `deadlock`,
            `fragment`, `proxy`, `wgmma`, `trap`, `scratch` or `sanitizer`.
        text: What happened, and which threads did it.
        line: Line of the emitted text, with its number and the lines that called it; empty when unknown.
        other: The line that it collided with; empty for none.
    """

    kind: str
    text: str
    line: str
    other: str

    def __str__(self) -> str:
        lines = [f"{self.kind}: {self.text}", *(f"    at {line}" for line in (self.line, self.other) if line)]
        return "\n".join(lines)


Traffic = Mapping[str, tuple[int, int]]
"""By buffer: how often a kernel reads or writes there, a vector at once being one access, and the bytes of these."""


class _Allocation(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("bytes", ctypes.c_size_t),
        ("writable", ctypes.c_int),
        ("held", ctypes.c_int),
    )


class _Extent(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("offset", ctypes.c_size_t), ("bytes", ctypes.c_size_t))


class _Launch(ctypes.Structure):  # as in cuda_on_cpu/launch.h
    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("dynamic_shared", ctypes.c_uint),
        ("seed", ctypes.c_ulonglong),
        ("probe", ctypes.c_int),
        ("probe_offset", ctypes.c_int),
        ("allocations", ctypes.POINTER(_Allocation)),
        ("count", ctypes.c_uint),
        ("extents", ctypes.POINTER(_Extent)),
        ("extent_count", ctypes.c_uint),
        ("arguments", ctypes.POINTER(ctypes.c_void_p)),
        ("traffic", ctypes.POINTER(ctypes.c_ulonglong)),
    )


def execute(
    kernel: Program,
    shape: Shape,
    arguments: Sequence[Argument],
    seed: int = 0,
    probe: tuple[Probe, int] = (Probe.NONE, 0),
    count: Callable[[Traffic], None] | None = None,
) -> tuple[Fault, ...]:
    """Launch a kernel and return everything that was wrong with it, in the order in which it was found.

    Args:
        kernel: From `program`.
        shape: Grid, block and dynamic shared memory.
        arguments: One per parameter, in order. Writable buffers are changed in place.
        seed: Draws the order of blocks and of threads between barriers.
        probe: What the inputs are filled with, and what a code of zero decodes to in that case.
        count: Told the traffic, unless the program is a sanitised one.

    Raises:
        LaunchError: The shape is none that a GPU could launch, or a buffer is not contiguous.
    """
    _check(shape)
    buffers = list({id(a.array): a for a in arguments if isinstance(a, Buffer)}.values())
    for buffer in buffers:
        if not buffer.array.flags.c_contiguous:
            raise LaunchError(f"{buffer.name} is not contiguous", "pass the bytes from its first to its last element")
    if kernel.sanitized:
        return _in_a_program(kernel, shape, arguments, buffers, seed)
    allocations = (_Allocation * len(buffers))(
        *(_Allocation(b.name.encode(), b.array.ctypes.data, b.array.nbytes, b.writable, b.held) for b in buffers)
    )
    extents = (_Extent * len(kernel.variables))(*(_Extent(v.name.encode(), v.offset, v.size) for v in kernel.variables))
    values = [ctypes.c_int64(_value(argument)) for argument in arguments]
    pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
    triple, traffic = ctypes.c_uint * 3, (ctypes.c_ulonglong * (2 * len(buffers)))()
    launch = _Launch(
        triple(*shape.grid), triple(*shape.block), shape.shared_bytes, seed, probe[0].value, probe[1],
        allocations, len(buffers), extents, len(extents), pointers, traffic if count else None,
    )  # fmt: skip
    with _LAUNCHING:
        library = ctypes.CDLL(str(kernel.library))
        library.gs_report.restype = ctypes.c_char_p
        try:
            library.gs_launch(ctypes.byref(launch))
            report: bytes = library.gs_report()
        finally:
            _ctypes.dlclose(library._handle)  # nothing else frees what it holds, a block's shared memory among it
    if count:
        count({b.name: (traffic[2 * at], traffic[2 * at + 1]) for at, b in enumerate(buffers)})
    return _faults(kernel, report.decode())


def _check(shape: Shape) -> None:
    threads = shape.block[0] * shape.block[1] * shape.block[2]
    if not 0 < threads <= 1024 or min(*shape.grid, *shape.block) < 1 or max(shape.grid[1:]) > 65535:
        raise LaunchError(f"no GPU launches blocks of {shape.block} in a grid of {shape.grid}")
    if not 0 <= shape.shared_bytes <= MOST_SHARED:
        raise LaunchError(f"{shape.shared_bytes} bytes of shared memory; a block has {MOST_SHARED} at most")


def _value(argument: Argument) -> int:
    if isinstance(argument, Buffer):
        return argument.array.ctypes.data
    return 0 if argument is None else argument


def _faults(kernel: Program, report: str) -> tuple[Fault, ...]:
    found: list[Fault] = []
    for entry in report.splitlines():
        kind, offset, other, text = entry.split("\t", 3)
        line, beside = kernel.line(int(offset)), kernel.line(int(other))
        if kind == "place":  # two places that should be one: the compiler may have made two out of one line
            if line == beside:
                continue
            kind = "divergence"
        found.append(Fault(kind, text, line, beside))
    return tuple(dict.fromkeys(found))


# ---- the sanitised program ----------------------------------------------------------------------------------------


def _number(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}q", *values)


def _name(text: str) -> bytes:
    return _number(len(text.encode())) + text.encode()


def _problem(kernel: Program, shape: Shape, arguments: Sequence[Argument], buffers: list[Buffer], seed: int) -> bytes:
    """Return the file that `cuda_on_cpu/sanitized.cpp` reads."""
    places = {id(buffer.array): at for at, buffer in enumerate(buffers)}
    parts = [
        _number(*shape.grid, *shape.block, shape.shared_bytes, seed),
        _number(len(buffers), len(arguments), len(kernel.variables)),
    ]
    for buffer in buffers:
        array = buffer.array
        parts += [_name(buffer.name), _number(array.nbytes, array.ctypes.data % 256, buffer.writable, buffer.held)]
        parts.append(array.tobytes())
    for argument in arguments:
        is_buffer = isinstance(argument, Buffer)
        parts.append(_number(places[id(argument.array)], 0) if is_buffer else _number(-1, _value(argument)))
    parts += [_name(variable.name) + _number(variable.offset, variable.size) for variable in kernel.variables]
    return b"".join(parts)


def _in_a_program(
    kernel: Program, shape: Shape, arguments: Sequence[Argument], buffers: list[Buffer], seed: int
) -> tuple[Fault, ...]:
    """Execute as a program under the sanitizers, which cannot be loaded into this one."""
    with tempfile.TemporaryDirectory(prefix="gridstone-execute-") as folder:
        given, back = Path(folder, "problem"), Path(folder, "outputs")
        given.write_bytes(_problem(kernel, shape, arguments, buffers, seed))
        run = subprocess.run(
            [str(kernel.library), str(given), str(back)],
            capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False,
            env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0"},
        )  # fmt: skip
        if back.exists():
            at, content = 0, back.read_bytes()
            for buffer in (b for b in buffers if b.writable):
                flat = buffer.array.reshape(-1).view(np.uint8)
                flat[:] = np.frombuffer(content, np.uint8, flat.size, at)
                at += flat.size
    if run.returncode in _REPORTED:
        return _faults(kernel, run.stdout)
    said = [line for line in run.stderr.splitlines() if "ERROR:" in line or "runtime error" in line]
    where = re.search(r"kernel\.cu:(\d+)", run.stderr)
    line = kernel.quote(int(where[1])) if where else ""
    return (Fault("sanitizer", said[0] if said else f"ended with {run.returncode}: {run.stderr[-400:]}", line, ""),)
