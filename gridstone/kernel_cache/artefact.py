"""Artefact: a GPU's machine code with what a launcher must know about it, whichever toolchain made it.

On disk it is the cubin itself with one line of JSON behind it, so that `nvdisasm` reads the file as it is.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

from gridstone.ir.errors import LaunchError

SUFFIX = ".cubin"
SCHEMA = 1  # of the line of JSON
_ELF, _CUDA = b"\x7fELF", 190  # magic number, and the machine of a cubin's ELF header


@dataclass(frozen=True, slots=True)
class Artefact:
    """A kernel for one GPU architecture.

    Args:
        cubin: ELF image.
        entry: Name of the kernel in it.
        threads: Of a block.
        shared_bytes: Dynamic shared memory of a block.
        scratch_pointers: Null pointers that the entry takes behind the source's parameters.
    """

    cubin: bytes
    entry: str
    threads: int
    shared_bytes: int
    scratch_pointers: int = 0

    def pack(self) -> bytes:
        """Return what is kept on disk; `unpack` reads it."""
        facts = {name: value for name, value in asdict(self).items() if name != "cubin"}
        line = json.dumps({"schema": SCHEMA, "bytes": len(self.cubin)} | facts, sort_keys=True)
        return self.cubin + b"\n" + line.encode()


# Of the line of JSON behind the code. Checked by hand: a GPU machine that checks kernels needs no msgspec.
_KINDS: Final = {"schema": int, "bytes": int, "entry": str, "threads": int, "shared_bytes": int}


def unpack(blob: bytes) -> Artefact:
    """Return what `Artefact.pack` wrote.

    Raises:
        LaunchError: Cut off, of another schema, or no cubin with the entry; says which.
    """
    cubin, _, line = blob.rpartition(b"\n")
    try:
        facts = json.loads(line.decode("ascii"))
        kinds = {name: type(value) for name, value in facts.items()}
    except (ValueError, AttributeError, RecursionError):
        facts, kinds = {}, {}
    if kinds != _KINDS and kinds != _KINDS | {"scratch_pointers": int}:
        raise LaunchError(f"an artefact of {len(blob)} bytes does not end with how it is launched")
    schema, size = facts.pop("schema"), facts.pop("bytes")
    if schema != SCHEMA or size != len(cubin):
        raise LaunchError(f"an artefact of schema {schema} with {len(cubin)} bytes of code, not {SCHEMA} with {size}")
    artefact = Artefact(cubin, **facts)
    wrong = fault(cubin, artefact.entry)
    if wrong:
        raise LaunchError(f"an artefact's code {wrong}")
    return artefact


def examine(blob: bytes, entry: str) -> str:
    """Return why an artefact with this entry cannot be launched, as far as its bytes show; empty for nothing."""
    try:
        artefact = unpack(blob)
    except LaunchError as error:
        return error.problem
    return "" if artefact.entry == entry else f"its kernel is {artefact.entry!r} and not {entry!r}"


def fault(cubin: bytes, entry: str) -> str:
    """Return why bytes are no cubin with this entry, as the end of a sentence; empty when they are one.

    >>> fault(b"text", "gs_gemm")
    'is no ELF image'
    """
    if not cubin.startswith(_ELF) or len(cubin) < 64:
        return "is no ELF image"
    machine = int.from_bytes(cubin[18:20], "little")
    if machine != _CUDA:
        return f"is for machine {machine} and not for CUDA"
    if elf_bytes(cubin) > len(cubin):
        return f"is cut off: {len(cubin)} of {elf_bytes(cubin)} bytes"
    # A name that is not ASCII, half a surrogate pair among them, is no function's: CUDA has no other names.
    if not entry.isascii() or b".text." + entry.encode() + b"\0" not in cubin:
        return f"has no kernel {entry!r}"
    return ""


def elf_bytes(image: bytes) -> int:
    """Return the length of a 64-bit ELF image by its header: where its two tables of headers end."""

    def number(at: int, size: int) -> int:
        return int.from_bytes(image[at : at + size], "little")

    programs = number(32, 8) + number(54, 2) * number(56, 2)
    sections = number(40, 8) + number(58, 2) * number(60, 2)
    return max(programs, sections)
