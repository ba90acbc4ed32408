"""Machine code of a text: whether two texts are one program, and which lines of a text a kernel uses at all."""

from __future__ import annotations

import hashlib
import re
import shlex
import struct
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gridstone.ir.errors import BuildError
from gridstone.kernel_cache.artefact import unpack
from gridstone.kernel_cache.make import TOOLCHAINS
from gridstone.kernel_cache.toolchain_cpp import FLAGS, PRELUDE, CppToolchain
from gridstone.lower.target import Language, Target
from gridstone.proof.disassembler import as_file, run, tools_for
from gridstone.proof.program import HOME
from gridstone.templates.source import Source

# Names, lines and where functions end bear on no instruction.
_BESIDE = re.compile(r"\.(comment|note|symtab|strtab|shstrtab|debug|nv_debug|eh_frame|gnu_debug|rel\.debug|nv\.compat)")
_CONSTANTS = re.compile(r"\.nv\.global|\.nv\.constant4|\.rel\.nv\.constant4")
_LINE = re.compile(r"^(kernel\.(?:cpp|cu))\s+(\d+)\s+0x", re.MULTILINE)


def sections(image: bytes) -> dict[str, bytes]:
    """Return the sections of a 64-bit ELF image by name; one without bytes stands with its size."""
    start = int.from_bytes(image[40:48], "little")
    size, count, names = struct.unpack_from("<HHH", image, 58)
    headers = [struct.unpack_from("<IIQQQQ", image, start + at * size) for at in range(count)]
    text = headers[names][4]
    found: dict[str, bytes] = {}
    for name, kind, _, _, offset, length in headers:
        label = image[text + name : image.index(b"\0", text + name)].decode()
        found[label] = struct.pack("<Q", length) if kind == 8 else image[offset : offset + length]
    return found


@dataclass(frozen=True, slots=True)
class Code:
    """What an image executes, as hashes.

    Args:
        text: Of its instructions and all else, but for the next.
        constants: Of a GPU's global constants. NVRTC keeps each `constexpr` number there, and folds it wherever it is
            used; instructions reach them only by the constant bank that holds their addresses.
        reached: Whether any instruction reads that bank.
    """

    text: str
    constants: str = ""
    reached: bool = False

    def same(self, other: Code) -> bool:
        """Whether both execute the same."""
        return self.text == other.text and (self.constants == other.constants or not (self.reached or other.reached))


def code_of(image: bytes) -> Code:
    """Return what an image, of a CPU or a GPU, executes."""
    on_gpu = image[18:20] == b"\xbe\x00"
    kept = [part for part in sorted(sections(image).items()) if not _BESIDE.match(part[0])]
    constants = [(name, content) for name, content in kept if on_gpu and _CONSTANTS.match(name)]
    rest = [(name, content) for name, content in kept if (name, content) not in constants]
    return Code(_hash(rest), _hash(constants), bool(constants) and _reads_addresses(image))


def _hash(parts: Iterable[tuple[str, bytes]]) -> str:
    whole = hashlib.sha256()
    for name, content in parts:
        whole.update(f"{name}\0{len(content)}\0".encode() + content)
    return whole.hexdigest()


def _reads_addresses(cubin: bytes) -> bool:
    """Whether an instruction reads bank 4, where addresses of global variables are."""
    with as_file(cubin) as path:
        return "c[0x4]" in run([str(tools_for(cubin).nvdisasm), "--print-code", "--no-dataflow", path])


def build(source: Source, target: Target) -> tuple[bytes, Code]:
    """Return the artefact of a text, as its toolchain makes it, and what it executes.

    Raises:
        BuildError: The compiler refuses the text.
    """
    blob = TOOLCHAINS[source.language].build(source, target)
    return blob, code_of(blob if source.language is Language.CPP else unpack(blob).cubin)


def used_lines(source: Source, target: Target) -> frozenset[int] | None:
    """Return the numbers of the lines that an unoptimised build has machine code of; None for Triton."""
    if source.language is Language.TRITON:
        return None
    compiler = CppToolchain().compiler()
    if compiler is None:
        raise BuildError("no C++ compiler", "install g++")
    with tempfile.TemporaryDirectory(prefix="gridstone-lines-") as folder:
        made = Path(folder, "kernel.o")
        if source.language is Language.CPP:
            text = Path(folder, "kernel.cpp")
            Path(folder, "prelude.h").write_text(PRELUDE)
            more = [*FLAGS, *target.flags, "-include", str(Path(folder, "prelude.h"))]
        else:
            text = Path(folder, "kernel.cu")
            more = ["-std=c++17", f"-I{HOME}", f"-I{folder}", '-DGS_KERNEL="kernel.cu"', f"-DGS_ENTRY={source.entry}"]
        text.write_text(source.text)
        unit = text if source.language is Language.CPP else HOME / "invoke.cpp"
        _run([*shlex.split(compiler), *more, "-O0", "-w", "-gdwarf-4", "-c", str(unit), "-o", str(made)])
        listed = _run(["objdump", "--dwarf=decodedline", str(made)])
    return frozenset(int(number) for _, number in _LINE.findall(listed))


def _run(command: list[str]) -> str:
    run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300, check=False)
    if run.returncode:
        raise BuildError(f"{command[0]} ended with {run.returncode}:\n{run.stderr[:2000]}")
    return run.stdout
