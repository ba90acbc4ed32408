"""A C++ kernel between walls: every operand ends, or begins, beside a page that nobody may touch.

So a read or write of one byte too many kills the process instead of meeting whatever lies there. Inputs cannot be
written at all; scratch is filled with NaN.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gridstone.ir.spec import Spec
from gridstone.templates.source import ParamKind, Source

OUTPUT = "y"
PAGE = mmap.PAGESIZE
CACHE_LINE = 64  # where torch's allocations begin, and scratch with them
MOST_SCRATCH = 1 << 30  # bytes, far more than any call here needs
_NONE, _READ, _WRITE = 0, 1, 2
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Room:
    """Memory between two pages that nobody may touch.

    Args:
        bytes: All that may be touched, a number of whole pages.
        address: Of its first byte.
    """

    bytes: np.ndarray
    address: int

    def at(self, size: int, end: bool, align: int = 1) -> int:
        """Return the place in the room where so many bytes lie: at its end, or at its beginning."""
        return (len(self.bytes) - size) // align * align if end else 0

    def allow(self, write: bool) -> None:
        """Allow reading, and writing or not."""
        _protect(self.address, len(self.bytes), _READ | (_WRITE if write else 0))


def room(size: int) -> Room:
    """Return memory for so many bytes."""
    whole = (size + PAGE - 1) // PAGE * PAGE or PAGE
    memory = mmap.mmap(-1, whole + 2 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    every = np.frombuffer(memory, np.uint8)
    address = every.ctypes.data
    _protect(address, PAGE, _NONE)
    _protect(address + PAGE + whole, PAGE, _NONE)
    return Room(every[PAGE : PAGE + whole], address + PAGE)


def _protect(address: int, size: int, how: int) -> None:
    if _LIBC.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), how):
        raise OSError(ctypes.get_errno(), "mprotect")


class Scratch(Enum):
    """Stands for the address of a call's scratch among its arguments."""

    HERE = "scratch"


Argument = int | torch.Tensor | Scratch


def arguments(
    source: Source, spec: Spec, tensors: Sequence[torch.Tensor], out: torch.Tensor, threads: int
) -> list[Argument]:
    """Return what the entry point is given: numbers, tensors by address, null for what is absent.

    A matrix of other than contiguous rows is copied first, as a launcher does.
    """
    names = [operand.name for operand in (*spec.inputs, *spec.extra_operands)]
    given = dict(zip(names, tensors, strict=True)) | {OUTPUT: out}
    for name in (operand.name for operand in spec.inputs if operand.type.format is None):
        if given[name].shape[-1] > 1 and given[name].stride(-1) != 1:
            given[name] = given[name].contiguous()
    found: list[Argument] = []
    for param in source.params:
        tensor = given.get(param.operand)
        match param.kind:
            case ParamKind.THREADS:
                found.append(threads)
            case ParamKind.SCRATCH:
                found.append(Scratch.HERE)
            case ParamKind.ROWS:
                found.append(out.shape[0])
            case ParamKind.STRIDE:
                found.append(0 if tensor is None else tensor.stride(0))
            case _:
                found.append(0 if tensor is None else tensor)
    return found


class Walled:
    """A built kernel, called with its operands between walls.

    Args:
        library: Shared object.
        source: What it was built from.
        spec: What it computes; storages resolved.
    """

    def __init__(self, library: Path, source: Source, spec: Spec) -> None:
        self._library = ctypes.CDLL(str(library))
        self._source, self._spec = source, spec
        self._entry: Any = getattr(self._library, source.entry)
        numbers = (ParamKind.THREADS, ParamKind.ROWS, ParamKind.STRIDE)
        self._entry.argtypes = [ctypes.c_int64 if p.kind in numbers else ctypes.c_void_p for p in source.params]
        self._entry.restype = None
        self._rooms: dict[tuple[int, int], Room] = {}

    def candidate(self, threads: int, end: bool) -> Callable[..., torch.Tensor]:
        """Return `call(*tensors, out)`.

        Args:
            threads: That the kernel may use.
            end: Whether operands end beside a wall; else they begin beside one.
        """

        def call(*tensors: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
            if out.shape[0] == 0:
                return out
            given = arguments(self._source, self._spec, tensors, out, threads)
            addresses: list[int] = []
            for at, argument in enumerate(given):
                if isinstance(argument, torch.Tensor):
                    addresses.append(self._place(at, argument, end, write=argument is out))
                elif isinstance(argument, Scratch):
                    addresses.append(self._scratch(out.shape[0], threads))
                else:
                    addresses.append(argument)
            self._entry(*addresses)
            content = span(out)
            written = addresses[next(at for at, argument in enumerate(given) if argument is out)]
            content[:] = np.frombuffer((ctypes.c_uint8 * len(content)).from_address(written), np.uint8)
            return out

        return call

    def _room(self, which: int, size: int) -> Room:
        key = which, -(-size // PAGE)
        if key not in self._rooms:
            self._rooms[key] = room(size)
        return self._rooms[key]

    def _place(self, which: int, tensor: torch.Tensor, end: bool, *, write: bool) -> int:
        """Copy a tensor, gaps and all, beside a wall; return its address."""
        content = span(tensor)
        place = self._room(which, len(content))
        place.allow(write=True)
        at = place.at(len(content), end)
        place.bytes[at : at + len(content)] = content
        place.allow(write=write)
        return place.address + at

    def _scratch(self, rows: int, threads: int) -> int:
        if not self._source.launch.scratch_entry:
            return 0
        sized: Any = getattr(self._library, self._source.launch.scratch_entry)
        sized.argtypes, sized.restype = [ctypes.c_int64, ctypes.c_int64], ctypes.c_int64
        size = sized(rows, threads)
        if not 0 <= size <= MOST_SCRATCH:
            raise ValueError(f"{size} bytes of scratch")
        if size == 0:
            return 0
        place = self._room(-1, size)
        place.bytes[:] = 0xFF  # NaN, in every floating type
        return place.address + place.at(size, True, CACHE_LINE)


def span(tensor: torch.Tensor) -> np.ndarray:
    """Return the bytes from a tensor's first to its last element, gaps between its rows included; they are its own."""
    whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    last = sum((extent - 1) * stride for extent, stride in zip(tensor.shape, tensor.stride(), strict=True))
    first, size = int(tensor.storage_offset()), tensor.element_size()
    return whole.numpy()[first * size : (first + last + 1) * size]
