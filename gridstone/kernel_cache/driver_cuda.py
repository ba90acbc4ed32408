"""The driver of a GPU as a launcher sees it: through CuPy's bindings, in the contexts and on the streams of torch."""

from __future__ import annotations

import ctypes
import functools
import importlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from gridstone.ir.errors import LaunchError
from gridstone.kernel_cache.artefact import Artefact
from gridstone.kernel_cache.gpu import cupy_remedy

WORD = 4  # bytes of a ticket and of a sum
_FEWEST_WORDS = 4096  # of a buffer of zeroed ones
_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES

Grid3 = tuple[int, int, int]


class Driver(Protocol):
    """What a launcher asks of the driver."""

    def function(self, artefact: Artefact, device: int) -> int:
        """Load an artefact on a device; LaunchError when it cannot be loaded."""
        ...

    def stream(self, device: int) -> int:
        """Return torch's current stream of a device."""
        ...

    def capturing(self, device: int) -> bool:
        """Return whether torch's current stream of a device is being captured in a graph."""
        ...

    def zeroed(self, device: int, stream: int, count: int) -> int:
        """Return the address of words that every kernel of a stream finds zero and leaves zero."""
        ...

    def launch(
        self,
        function: int,
        device: int,
        grid: Grid3,
        threads: int,
        shared_bytes: int,
        stream: int,
        arguments: Sequence[int],
    ) -> None:
        """Start a kernel; an argument is an address or a number of up to 64 bits. LaunchError when it is refused."""
        ...


class Zeroed:
    """Words that every kernel finds zero and leaves zero: one buffer for each device and stream.

    Kernels of one stream follow each other, so they share it. It is never freed, since a kernel may be using it, and
    doubles when it grows. It must not be torch's: memory that is kept over calls would lie in a pool that CUDA graph
    trees roll back.

    Args:
        allocate: (device, stream, words) -> the address of zeroed 32-bit words, for as long as the process runs.
    """

    def __init__(self, allocate: Callable[[int, int, int], int]) -> None:
        self._allocate = allocate
        self._kept: dict[tuple[int, int], tuple[int, int]] = {}
        self._lock = threading.Lock()

    def words(self, device: int, stream: int, count: int) -> int:
        """Return the address of at least `count` words, for a kernel on a device's stream."""
        address, size = self._kept.get((device, stream), (0, 0))
        if size >= count:
            return address
        with self._lock:
            address, size = self._kept.get((device, stream), (0, 0))
            if size >= count:
                return address
            size = 1 << max(count - 1, _FEWEST_WORDS - 1).bit_length()
            address = self._allocate(device, stream, size)
            self._kept[device, stream] = address, size
        return address


class CuPyDriver:
    """This machine's driver."""

    def __init__(self) -> None:
        self._driver: Any = importlib.import_module("cupy_backends.cuda.api.driver")
        self._runtime: Any = importlib.import_module("cupy_backends.cuda.api.runtime")
        self._current_stream: Callable[[int], int] = torch._C._cuda_getCurrentRawStream  # pyright: ignore
        self._thread = threading.local()
        self.zeroed = Zeroed(self._zeroes).words

    def function(self, artefact: Artefact, device: int) -> int:
        """Load a module on a device, where it stays as long as the process, and allow its shared memory.

        It is never unloaded: a graph that was captured may launch it again.
        """
        if device < 0:  # torch takes it for the current one, whose kernel would read addresses of the CPU
            raise LaunchError("operands on the CPU were given to a kernel of a GPU", "move them there first")
        try:
            with torch.cuda.device(device):
                self._enter(device)
                function = self._driver.moduleGetFunction(self._driver.moduleLoadData(artefact.cubin), artefact.entry)
                self._driver.funcSetAttribute(function, _MAX_DYNAMIC_SHARED, artefact.shared_bytes)
        except RuntimeError as error:
            name, need = torch.cuda.get_device_name(device), f"{artefact.shared_bytes} bytes of shared memory"
            problem = f"{artefact.entry} with {artefact.threads} threads and {need} cannot be loaded on {name}: {error}"
            remedy = "choose a target and a schedule that fit this GPU, and a compiler no newer than its driver"
            raise LaunchError(problem, remedy) from error
        return function

    def _enter(self, device: int) -> None:
        """Make a device's context current to this thread, of which torch alone may not have had the need yet."""
        ready: set[int] = self._thread.__dict__.setdefault("ready", set())
        if device not in ready:
            self._runtime.setDevice(device)
            ready.add(device)

    def _zeroes(self, device: int, stream: int, count: int) -> int:
        try:
            with torch.cuda.device(device):
                self._enter(device)
                address: int = self._runtime.malloc(count * WORD)
                self._runtime.memsetAsync(address, 0, count * WORD, stream)
        except RuntimeError as error:
            problem = f"no {count * WORD} bytes of scratch on GPU {device}: {error}"
            raise LaunchError(problem, "free memory there, or choose a schedule that does not split K") from error
        return address

    def stream(self, device: int) -> int:
        """Return torch's current stream of a device."""
        return self._current_stream(device)

    def capturing(self, device: int) -> bool:
        """Return whether torch's current stream of a device is being captured in a graph."""
        if torch.cuda.current_device() == device:
            return torch.cuda.is_current_stream_capturing()
        with torch.cuda.device(device):
            return torch.cuda.is_current_stream_capturing()

    def launch(
        self,
        function: int,
        device: int,
        grid: Grid3,
        threads: int,
        shared_bytes: int,
        stream: int,
        arguments: Sequence[int],
    ) -> None:
        """Start a kernel. Every argument has eight bytes, of which the driver reads as many as the parameter has."""
        if torch.cuda.current_device() != device:
            with torch.cuda.device(device):
                self.launch(function, device, grid, threads, shared_bytes, stream, arguments)
            return
        self._enter(device)
        values = (ctypes.c_int64 * len(arguments))(*arguments)
        base = ctypes.addressof(values)
        places = (ctypes.c_void_p * len(arguments))(*range(base, base + 8 * len(arguments), 8))
        try:
            self._driver.launchKernel(function, *grid, threads, 1, 1, shared_bytes, stream, ctypes.addressof(places), 0)
        except RuntimeError as error:
            need = f"{threads} threads and {shared_bytes} bytes of shared memory"
            # What an earlier kernel did to the context is reported by the next call that the driver gets.
            remedy = "choose another schedule; an error of memory is an earlier kernel's, whose process cannot go on"
            raise LaunchError(f"a grid of {grid} with {need} was refused: {error}", remedy) from error


@functools.cache
def live_driver() -> Driver:
    """Return the driver of this machine.

    Raises:
        LaunchError: There is no GPU, or no CuPy.
    """
    if not torch.cuda.is_available():
        remedy = "run it where there is one; `gridstone emit --build` shows here what the compiler made of it"
        raise LaunchError("a GPU kernel cannot be loaded: torch sees no NVIDIA GPU", remedy)
    try:
        return CuPyDriver()
    except ImportError as error:
        raise LaunchError(f"a GPU kernel cannot be launched without CuPy: {error}", cupy_remedy()) from error
