"""CUDA on a CPU: the emitted `.cu`, unchanged, compiled by the C++ compiler against stand-in headers and executed.

Threads of a block are fibers; `cuda_on_cpu/machine.h` says what is checked on the way: bounds, initialisation, the
order of accesses, copies that were not waited for, barriers that never open. Thread and block order are drawn from a
seed. A report names the lines of the emitted text.

The access hooks are those of `-fsanitize=thread`, defined here instead of by the sanitizer's runtime.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import shlex
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gridstone.ir.errors import BuildError, LaunchError
from gridstone.kernel_cache.toolchain_cpp import CppToolchain

HOME = Path(__file__).parent / "cuda_on_cpu"
_MOST_SHARED = 232448  # bytes of shared memory that a block of sm_90 can have
_COMMON = ("-std=c++17", "-fPIC", "-g", "-ffp-contract=off", "-Wall", "-Wno-unknown-pragmas", "-Wno-unused-function")
_KERNEL = ("-O1", "-ftrivial-auto-var-init=pattern", "-fno-extern-tls-init", f"-I{HOME}")
_SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-O1")
_DYNAMIC = re.compile(r"extern\s+__shared__[^;\[]*?(\w+)\s*\[\s*\]")
_REPORTED = (0, 10)  # exit codes of a program that came to its end, without and with faults
TIMEOUT_S = 300.0

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
        offset: Bytes from its start to what the kernel is given: of a view.
    """

    name: str
    array: Array
    writable: bool = False
    held: bool = True
    offset: int = 0


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
            `fragment`, `trap` or `sanitizer`.
        text: What happened, and which threads did it.
        line: Line of the emitted text, with its number; empty when unknown.
        other: The line that it collided with; empty for none.
    """

    kind: str
    text: str
    line: str
    other: str

    def __str__(self) -> str:
        lines = [f"{self.kind}: {self.text}", *(f"    at {line}" for line in (self.line, self.other) if line)]
        return "\n".join(lines)


class _Allocation(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("bytes", ctypes.c_size_t),
        ("writable", ctypes.c_int),
        ("held", ctypes.c_int),
    )


class _Launch(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("dynamic_shared", ctypes.c_uint),
        ("seed", ctypes.c_ulonglong),
        ("probe", ctypes.c_int),
        ("probe_offset", ctypes.c_int),
        ("allocations", ctypes.POINTER(_Allocation)),
        ("count", ctypes.c_uint),
        ("arguments", ctypes.POINTER(ctypes.c_void_p)),
    )


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """Return the folder of this process's programs, removed when it ends."""
    return tempfile.TemporaryDirectory(prefix="gridstone-execute-")


def _compile(arguments: Sequence[str]) -> str:
    """Run the C++ compiler; return what it said."""
    compiler = CppToolchain().compiler()
    if compiler is None:
        raise BuildError("CUDA cannot be executed here: no C++ compiler", "install g++, or set GRIDSTONE_CXX")
    run = subprocess.run(
        [*shlex.split(compiler), *_COMMON, *arguments],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    if run.returncode:
        raise BuildError(f"the emitted CUDA does not compile as C++:\n{run.stderr[:4000]}")
    return run.stderr


@functools.cache
def _machine(flags: tuple[str, ...]) -> tuple[str, ...]:
    """Return the machine's objects, compiled once a process."""
    folder = Path(_scratch().name)
    tag = "sanitized" if flags else "plain"
    objects: list[str] = []
    for name in ("machine", "collectives", *(("sanitized",) if flags else ())):
        target = folder / f"{name}.{tag}.o"
        _compile([*(flags or ("-O2",)), "-c", str(HOME / f"{name}.cpp"), "-o", str(target)])
        objects.append(str(target))
    return tuple(objects)


@dataclass(frozen=True, slots=True)
class Program:
    """A kernel that can be executed.

    Args:
        text: The emitted source.
        library: Shared object, or the program of a sanitised run.
        sanitized: Which of the two.
        warnings: What the compiler said about the text.
    """

    text: str
    library: Path
    sanitized: bool
    warnings: str

    def line(self, offset: int) -> str:
        """Return the line of the text that an offset in the library belongs to."""
        if not offset:
            return ""
        # The offset is a return address: the byte before it is still inside the call.
        run = subprocess.run(
            ["addr2line", "-i", "-e", str(self.library), hex(offset - 1)], capture_output=True, text=True, check=False
        )
        for place in run.stdout.splitlines():
            found = re.search(r"kernel\.cu:(\d+)", place)
            if found:
                number = int(found[1])
                return f"kernel.cu:{number}: {self.text.splitlines()[number - 1].strip()}"
        return ""


def program(text: str, entry: str, *, sanitized: bool = False) -> Program:
    """Compile emitted CUDA for execution on this CPU.

    Args:
        text: The source, as a CUDA compiler would be given it.
        entry: Name of the `extern "C" __global__` function.
        sanitized: Whether to build a program of its own under AddressSanitizer and UBSan.

    Raises:
        BuildError: No C++ compiler, or it refuses the text.
    """
    folder = Path(tempfile.mkdtemp(dir=_scratch().name))
    kernel = folder / "kernel.cu"
    kernel.write_text(text)
    dynamic = _DYNAMIC.search(text)
    flags = _SANITIZE if sanitized else ()
    hooks = _SANITIZE if sanitized else ("-fsanitize=thread",)
    defined = (f'-DGS_KERNEL="{kernel}"', f"-DGS_ENTRY={entry}")
    warnings = _compile([*_KERNEL, *hooks, *defined, "-c", str(HOME / "invoke.cpp"), "-o", str(folder / "kernel.o")])
    name = dynamic[1] if dynamic else "gs_no_dynamic_shared"
    _compile(["-O1", f"-DGS_DYNAMIC={name}", "-c", str(HOME / "shared.cpp"), "-o", str(folder / "shared.o")])
    library = folder / ("kernel" if sanitized else "kernel.so")
    # shared.o comes last: the machine takes the memory before it for what the kernel declares.
    objects = [str(folder / "kernel.o"), *_machine(flags), str(folder / "shared.o")]
    _compile([*flags, *(() if sanitized else ("-shared",)), "-o", str(library), *objects])
    return Program(text, library, sanitized, warnings)


def execute(
    kernel: Program,
    shape: Shape,
    arguments: Sequence[Argument],
    seed: int = 0,
    probe: tuple[Probe, int] = (Probe.NONE, 0),
) -> tuple[Fault, ...]:
    """Launch a kernel and return everything that was wrong with it, most direct first.

    Args:
        kernel: From `program`.
        shape: Grid, block and dynamic shared memory.
        arguments: One per parameter, in order. Writable buffers are changed in place.
        seed: Draws the order of blocks and of threads between barriers.
        probe: What the inputs are filled with, and what a code of zero decodes to in that case.

    Raises:
        LaunchError: The shape is none that a GPU could launch.
    """
    _check(shape)
    buffers = list({id(a.array): a for a in arguments if isinstance(a, Buffer)}.values())
    for buffer in buffers:
        if not buffer.array.flags.c_contiguous:
            raise LaunchError(f"{buffer.name} is not contiguous", "pass the whole memory that its view lies in")
    if kernel.sanitized:
        return _in_a_program(kernel, shape, arguments, buffers, seed)
    library = ctypes.CDLL(str(kernel.library))
    library.gs_report.restype = ctypes.c_char_p
    allocations = (_Allocation * max(len(buffers), 1))(
        *(_Allocation(b.name.encode(), b.array.ctypes.data, b.array.nbytes, b.writable, b.held) for b in buffers)
    )
    values = [ctypes.c_int64(_value(argument)) for argument in arguments]
    pointers = (ctypes.c_void_p * max(len(values), 1))(*(ctypes.addressof(value) for value in values))
    triple = ctypes.c_uint * 3
    launch = _Launch(
        triple(*shape.grid), triple(*shape.block), shape.shared_bytes, seed,
        probe[0].value, probe[1], allocations, len(buffers), pointers,
    )  # fmt: skip
    if not library.gs_launch(ctypes.byref(launch)):
        return ()
    return _faults(kernel, library.gs_report().decode())


def _check(shape: Shape) -> None:
    threads = shape.block[0] * shape.block[1] * shape.block[2]
    if not 0 < threads <= 1024 or min(*shape.grid, *shape.block) < 1 or max(shape.grid[1:]) > 65535:
        raise LaunchError(f"no GPU launches blocks of {shape.block} in a grid of {shape.grid}")
    if not 0 <= shape.shared_bytes <= _MOST_SHARED:
        raise LaunchError(f"{shape.shared_bytes} bytes of shared memory; a block has {_MOST_SHARED} at most")


def _value(argument: Argument) -> int:
    if isinstance(argument, Buffer):
        return argument.array.ctypes.data + argument.offset
    return 0 if argument is None else argument


def _faults(kernel: Program, report: str) -> tuple[Fault, ...]:
    found: list[Fault] = []
    for entry in report.splitlines():
        kind, offset, other, text = entry.split("\t", 3)
        found.append(Fault(kind, text, kernel.line(int(offset)), kernel.line(int(other))))
    return tuple(dict.fromkeys(found))


def _in_a_program(
    kernel: Program, shape: Shape, arguments: Sequence[Argument], buffers: list[Buffer], seed: int
) -> tuple[Fault, ...]:
    """Execute as a program under the sanitizers, which cannot be loaded into this one."""
    places = {id(buffer.array): at for at, buffer in enumerate(buffers)}
    numbers = [*shape.grid, *shape.block, shape.shared_bytes, seed, len(buffers), len(arguments)]
    problem = b"".join(struct.pack("<q", number) for number in numbers)
    for buffer in buffers:
        problem += struct.pack("<qqq", buffer.array.nbytes, buffer.writable, buffer.held) + buffer.array.tobytes()
    for argument in arguments:
        place = places[id(argument.array)] if isinstance(argument, Buffer) else -1
        problem += struct.pack("<qq", place, argument.offset if isinstance(argument, Buffer) else _value(argument))
    with tempfile.TemporaryDirectory(dir=_scratch().name) as folder:
        given, back = Path(folder, "problem"), Path(folder, "outputs")
        given.write_bytes(problem)
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
    line = f"kernel.cu:{where[1]}: {kernel.text.splitlines()[int(where[1]) - 1].strip()}" if where else ""
    return (Fault("sanitizer", said[0] if said else f"ended with {run.returncode}: {run.stderr[-400:]}", line, ""),)
