"""NVRTC, NVIDIA's compiler as a library: through the bindings of PyPI, or else through those inside CuPy."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gridstone.kernel_cache.artefact import elf_bytes

NAME = b"kernel.cu"  # of the text, in the compiler's messages


@dataclass(frozen=True, slots=True)
class Compiled:
    """What the compiler made.

    Args:
        cubin: Empty when it refused.
        log: Its own words.
    """

    cubin: bytes
    log: str


class Nvrtc(Protocol):
    """One way to the compiler."""

    version: tuple[int, int]

    def compile(self, text: str, headers: Mapping[str, str], options: Sequence[str]) -> Compiled:
        """Compile a text that may include these headers by name."""
        ...


class _Bindings:
    """Through `cuda.bindings.nvrtc`; its functions return an error code first."""

    def __init__(self) -> None:
        self._nvrtc: Any = importlib.import_module("cuda.bindings.nvrtc")
        self.version: tuple[int, int] = tuple(self._ask("nvrtcVersion"))  # the library is looked for only now

    def _ask(self, function: str, *arguments: object) -> Any:
        code, *values = getattr(self._nvrtc, function)(*arguments)
        if int(code):
            raise RuntimeError(f"{function} failed with {code.name}")
        return values[0] if len(values) == 1 else values

    def _text(self, size: str, get: str, program: object) -> bytes:
        text = b" " * self._ask(size, program)
        self._ask(get, program, text)
        return text

    def compile(self, text: str, headers: Mapping[str, str], options: Sequence[str]) -> Compiled:
        names, texts = [name.encode() for name in headers], [header.encode() for header in headers.values()]
        program = self._ask("nvrtcCreateProgram", text.encode(), NAME, len(names), texts, names)
        try:
            flags = [option.encode() for option in options]
            (code,) = self._nvrtc.nvrtcCompileProgram(program, len(flags), flags)
            log = self._text("nvrtcGetProgramLogSize", "nvrtcGetProgramLog", program)
            cubin = b"" if int(code) else self._text("nvrtcGetCUBINSize", "nvrtcGetCUBIN", program)
        finally:
            self._ask("nvrtcDestroyProgram", program)
        return Compiled(cubin, log.decode(errors="replace").strip("\0 \n"))


class _CuPy:
    """Through the bindings that CuPy has for itself, where PyPI's are not installed."""

    def __init__(self) -> None:
        self._nvrtc: Any = importlib.import_module("cupy_backends.cuda.libs.nvrtc")
        self.version: tuple[int, int] = self._nvrtc.getVersion()

    def compile(self, text: str, headers: Mapping[str, str], options: Sequence[str]) -> Compiled:
        names, texts = [name.encode() for name in headers], [header.encode() for header in headers.values()]
        program = self._nvrtc.createProgram(text, NAME.decode(), texts, names)
        try:
            self._nvrtc.compileProgram(program, list(options))
            cubin, log = self._nvrtc.getCUBIN(program), self._nvrtc.getProgramLog(program)
        except self._nvrtc.NVRTCError:
            cubin, log = b"", self._nvrtc.getProgramLog(program)
        finally:
            self._nvrtc.destroyProgram(program)
        if cubin:  # CuPy takes the last byte, a zero, for the end of a string
            cubin = cubin.ljust(elf_bytes(cubin), b"\0")
        return Compiled(cubin, log.strip("\0 \n"))


WAYS: tuple[type[_Bindings] | type[_CuPy], ...] = (_Bindings, _CuPy)


@functools.cache
def find_nvrtc() -> Nvrtc | None:
    """Return the first way to the compiler that works here, or None. Needs no GPU."""
    for way in WAYS:
        try:
            return way()
        except Exception:  # each way fails in its own manner: no module, no library, a driver that is too old
            continue
    return None
