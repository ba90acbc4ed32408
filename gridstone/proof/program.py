"""A CUDA kernel as a program of this CPU: compiled against stand-in headers, with its lines and its shared variables.

The access hooks are those of `-fsanitize=thread`, defined by the machine of `cuda_on_cpu/` instead of the sanitizer's
runtime. What is compiled is kept in the kernel cache, under everything that it depends on.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gridstone.ir.errors import BuildError
from gridstone.kernel_cache.files import private_folder
from gridstone.kernel_cache.key import Key
from gridstone.kernel_cache.make import default_store
from gridstone.kernel_cache.toolchain_cpp import MACHINE, CppToolchain

HOME = Path(__file__).parent / "cuda_on_cpu"
TIMEOUT_S = 300.0
GAP = 256  # bytes between two variables in shared memory, so that an access beyond one does not meet the next

# DWARF 4: addr2line of some binutils names the wrong file for a line of DWARF 5.
# -fno-gnu-unique: so that a library that is closed is gone.
_FLAGS = (
    "-std=c++17",
    "-fPIC",
    "-fno-gnu-unique",
    "-gdwarf-4",
    "-ffp-contract=off",
    "-Wall",
    "-Wno-unknown-pragmas",
    "-Wno-unused",
)
# -fno-tree-fre: it takes a variable that is set on one path only for one that is set.
_KERNEL = ("-O1", "-fno-tree-fre", "-ftrivial-auto-var-init=pattern", "-fno-extern-tls-init")
_WATCH = (
    "-fsanitize=thread", "--param=tsan-distinguish-volatile=1", "--param=tsan-instrument-func-entry-exit=0",
    "-fsanitize=alignment,bounds",
)  # fmt: skip
_SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
_DYNAMIC = re.compile(r"extern\s+__shared__[^;\[]*?(\w+)\s*\[\s*\]")
_SYMBOL = re.compile(r"\s*\d+:\s+([0-9a-f]+)\s+(\d+|0x[0-9a-f]+)\s+TLS\s+\S+\s+\S+\s+\d+\s+(\S+)")
_NO_DYNAMIC = "gs_no_dynamic_shared"


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable in the shared memory that a kernel declares.

    Args:
        name: As in the text.
        offset: Bytes from the start of that memory.
        size: In bytes.
    """

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Program:
    """A kernel that can be executed.

    Args:
        text: The emitted source.
        library: Shared object, or the program of a sanitised run.
        sanitized: Which of the two.
        variables: In shared memory, the dynamic part excepted.
    """

    text: str
    library: Path
    sanitized: bool
    variables: tuple[Variable, ...]

    def line(self, offset: int) -> str:
        """Return the line of the text that an offset in the library belongs to, and the lines that called it."""
        if not offset:
            return ""
        # The offset is a return address: the byte before it is still inside the call.
        places = _tool("addr2line", "-i", "-e", str(self.library), hex(offset - 1)).splitlines()
        found = [int(place[1]) for place in (re.search(r"kernel\.cu:(\d+)", line) for line in places) if place]
        return " <- ".join(self.quote(number) for number in found)

    def quote(self, number: int) -> str:
        """Return a line with its number."""
        return f"kernel.cu:{number}: {self.text.splitlines()[number - 1].strip()}"


def program(text: str, entry: str, *, sanitized: bool = False) -> Program:
    """Compile emitted CUDA for execution on this CPU.

    Args:
        text: The source, as a CUDA compiler would be given it.
        entry: Name of the `extern "C" __global__` function.
        sanitized: Whether to build a program of its own under AddressSanitizer and UBSan.

    Raises:
        BuildError: No C++ compiler that can do it, or it refuses the text.
    """
    flags = _SANITIZE if sanitized else _WATCH
    names = dict.fromkeys(_DYNAMIC.findall(text))
    if len(names) > 1:
        raise BuildError(f"dynamic shared memory has {len(names)} names: {', '.join(names)}", "give it one")
    dynamic = next(iter(names), _NO_DYNAMIC)
    built = _kept(
        (("text", text), ("entry", entry), ("flags", " ".join((*_FLAGS, *_KERNEL, *flags))), ("gap", str(GAP))),
        lambda folder: _link(folder, text, entry, dynamic, flags),
        "" if sanitized else ".so",
    )
    if sanitized:  # the cache keeps data, not programs
        copy = Path(tempfile.mkdtemp(dir=private_folder(None)), "kernel")
        copy.write_bytes(built.read_bytes())
        copy.chmod(0o700)
        built = copy
    return Program(text, built, sanitized, tuple(_variables(built, dynamic)))


def _link(folder: Path, text: str, entry: str, dynamic: str, flags: Sequence[str]) -> Path:
    """Compile the kernel, put gaps between its shared variables, link it with the machine; return what came out."""
    sanitized = flags == _SANITIZE
    (folder / "kernel.cu").write_text(text)
    # A fixed name and map keep the folder out of what is kept.
    place = (f"-I{HOME}", f"-I{folder}", f"-ffile-prefix-map={folder}=.", f"-ffile-prefix-map={HOME}=cuda_on_cpu")
    defined = ('-DGS_KERNEL="kernel.cu"', f"-DGS_ENTRY={entry}")
    assembly = folder / "kernel.s"
    _compile([*_KERNEL, *flags, *place, *defined, "-S", str(HOME / "invoke.cpp"), "-o", str(assembly)])
    assembly.write_text("\n".join(_with_gaps(assembly.read_text().split("\n"))))
    _compile(["-O1", f"-DGS_DYNAMIC={dynamic}", "-c", str(HOME / "shared.cpp"), "-o", str(folder / "shared.o")])
    # shared.o comes last: the machine takes the memory before it for what the kernel declares.
    objects = [str(assembly), str(_machine(sanitized)), str(folder / "shared.o")]
    _compile([*(flags if sanitized else ("-shared",)), "-o", str(folder / "kernel"), *objects])
    return folder / "kernel"


def _with_gaps(lines: list[str]) -> Iterator[str]:
    """Add a gap behind every variable of the assembly's thread-local memory, which stands for shared memory."""
    shared = False
    for line in lines:
        yield line
        if re.match(r"\s*\.(section|text|data|bss)\b", line):
            shared = ".tbss" in line or ".tdata" in line
        elif shared and re.match(r"\s*\.zero\s", line):
            yield f"\t.zero\t{GAP}"


def _variables(library: Path, dynamic: str) -> Iterator[Variable]:
    """Read the shared variables off the symbol table."""
    for line in _tool("readelf", "-sW", str(library)).splitlines():
        found = _SYMBOL.match(line)
        if found and found[3] != dynamic:
            plain = _tool("c++filt", found[3]).strip() if found[3].startswith("_Z") else found[3]
            yield Variable(plain.rsplit("::", 1)[-1], int(found[1], 16), int(found[2], 0))


def _machine(sanitized: bool) -> Path:
    """Return the machine as one object. It is not sanitised itself, but must tell the sanitizer of its stacks."""
    flags = ("-O2", "-DGS_SANITIZED") if sanitized else ("-O2",)

    def build(folder: Path) -> Path:
        place = f"-ffile-prefix-map={HOME}=cuda_on_cpu"
        _compile([*flags, place, "-c", str(HOME / "machine.cpp"), "-o", str(folder / "machine.o")])
        return folder / "machine.o"

    return _kept((("entry", "machine"), ("flags", " ".join((*_FLAGS, *flags)))), build, ".o")


# ---- compiler and cache -------------------------------------------------------------------------------------------


@functools.cache
def _sources() -> str:
    """Return the texts of the machine and of the stand-in headers."""
    return "\n".join(f"{path.name}\n{path.read_text()}" for path in sorted(HOME.iterdir()) if path.is_file())


@functools.cache
def _compiler() -> tuple[str, str]:
    """Return the compiler's command, and its name and version."""
    compiler = CppToolchain().compiler()
    if compiler is None:
        raise BuildError("CUDA cannot be executed here: no C++ compiler", "install g++, or set GRIDSTONE_CXX")
    version = _tool(*shlex.split(compiler), "--version").partition("\n")[0]
    if "clang" in version:
        remedy = "set GRIDSTONE_CXX to g++ 12 or later"
        raise BuildError(f"CUDA is executed through hooks that only GCC places: the compiler is {version}", remedy)
    return compiler, version


def _kept(fields: tuple[tuple[str, str], ...], build: Callable[[Path], Path], suffix: str) -> Path:
    """Return the path of what `build` makes in a folder, from the cache where it is there."""
    facts = (("compiler", _compiler()[1]), ("machine", MACHINE), ("sources", _sources()))
    key = Key("cuda_on_cpu", (*facts, *fields))

    def make() -> bytes:
        with tempfile.TemporaryDirectory(prefix="gridstone-execute-") as folder:
            return build(Path(folder)).read_bytes()

    return default_store().get_or_build(key, make, suffix).path


def _compile(arguments: Sequence[str]) -> None:
    run = subprocess.run(
        [*shlex.split(_compiler()[0]), *_FLAGS, *arguments],
        capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    if run.returncode:
        raise BuildError(f"the emitted CUDA does not compile as C++:\n{run.stderr[:4000]}")


def _tool(*command: str) -> str:
    """Run a tool that comes with the compiler; return what it wrote."""
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run: {error}", "install binutils") from error
    return run.stdout
