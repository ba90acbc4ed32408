"""Shared objects: whether bytes look like one that this process can load, without loading them.

Whoever compiles thousands of candidates must not map them all to find that a compiler writes rubbish. What only the
loader can know (a library that is missing) shows when an artefact is loaded; see `make.make_kernel`.
The layout is that of the ELF header: https://refspecs.linuxfoundation.org/elf/gabi4+/ch4.eheader.html
"""

from __future__ import annotations

import functools
import struct
from pathlib import Path

MAGIC = b"\x7fELF"
SHARED = 3  # e_type ET_DYN
LEAST = {1: 52, 2: 64}  # bytes of the header by its class: 32 and 64 bits
_SELF = Path("/proc/self/exe")


def fault(blob: bytes, entry: str) -> str:
    """Return what is wrong with the bytes of a shared object, as the end of a sentence; empty when nothing shows.

    Args:
        blob: What a compiler wrote.
        entry: A function that it must define.

    >>> fault(b"", "gs_gemm")
    'is empty'
    """
    if not blob:
        return "is empty"
    host = _host_header()
    if host[:4] != MAGIC:
        return ""  # a system whose objects this file does not know
    least = LEAST.get(int.from_bytes(blob[4:5], "little"))
    if blob[:4] != MAGIC or least is None or len(blob) < least:
        return f"is no shared object, but {len(blob)} bytes that begin with {blob[:8]!r}"
    if (blob[4:6], _half(blob, 18)) != (host[4:6], _half(host, 18)):  # class, byte order, machine
        return f"is for another machine: ELF machine {_half(blob, 18)}, and this one is {_half(host, 18)}"
    if _half(blob, 16) != SHARED:
        return f"is no shared object, but an ELF file of type {_half(blob, 16)}"
    if _end(blob) > len(blob):
        return f"is cut off: {len(blob)} of {_end(blob)} bytes"
    return "" if entry.encode() + b"\0" in blob else f"has no function {entry}"


def _end(blob: bytes) -> int:
    """Return where the table of sections ends, which compilers write last."""
    order, wide = "<" if blob[5] == 1 else ">", blob[4] == 2
    (start,) = struct.unpack_from(f"{order}Q" if wide else f"{order}I", blob, 40 if wide else 32)
    return start + _half(blob, 58 if wide else 46) * _half(blob, 60 if wide else 48)


def _half(blob: bytes, at: int) -> int:
    return struct.unpack_from("<H" if blob[5] == 1 else ">H", blob, at)[0]


@functools.cache
def _host_header() -> bytes:
    """Return the header of the program that runs; empty where the system does not show it."""
    try:
        with _SELF.open("rb") as file:
            return file.read(64)
    except OSError:
        return b""
