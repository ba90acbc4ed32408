"""The disassembler of GPU machine code: `nvdisasm` and `cuobjdump` of Triton's wheel, or of a CUDA toolkit."""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gridstone.ir.errors import BuildError

TIMEOUT_S = 120.0
REMEDY = "pip install 'triton>=3.9', whose wheel has nvdisasm and cuobjdump, or put those of a CUDA toolkit on the PATH"
_MADE_BY = re.compile(rb"Cuda compilation tools, release (\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class Disassembler:
    """The two tools, of one release."""

    nvdisasm: Path
    cuobjdump: Path
    release: tuple[int, int]


@functools.cache
def find_disassembler() -> Disassembler | None:
    """Return the newest pair of tools of Triton's wheel and the PATH, or None. Does not import Triton."""
    found = [tools for tools in map(_disassembler, _folders()) if tools]
    return max(found, key=lambda tools: tools.release, default=None)


def _folders() -> Iterator[Path]:
    triton = importlib.util.find_spec("triton")
    for place in triton.submodule_search_locations or () if triton else ():
        yield Path(place, "backends", "nvidia", "bin")
    on_path = shutil.which("nvdisasm")
    if on_path:
        yield Path(on_path).parent


def _disassembler(folder: Path) -> Disassembler | None:
    tools = folder / "nvdisasm", folder / "cuobjdump"
    try:
        said = run([str(tools[0]), "--version"]) if all(tool.exists() for tool in tools) else ""
    except BuildError:
        return None
    release = re.search(r"release (\d+)\.(\d+)", said)
    return Disassembler(*tools, (int(release[1]), int(release[2]))) if release else None


def run(command: list[str]) -> str:
    """Return what a tool prints.

    Raises:
        BuildError: It does not run, or ends badly; with its own words.
    """
    try:
        ran = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{Path(command[0]).name} did not run: {error}", REMEDY) from error
    if ran.returncode:
        said = (ran.stderr or ran.stdout).strip()[:1000]
        raise BuildError(f"{Path(command[0]).name} ended with {ran.returncode}: {said}", REMEDY)
    return ran.stdout


def tools_for(cubin: bytes) -> Disassembler:
    """Return tools that read a cubin.

    Raises:
        BuildError: None are here, or they are older than the compiler that made it: such tools leave instructions out.
    """
    tools = find_disassembler()
    if tools is None:
        raise BuildError("machine code cannot be read here: there is no nvdisasm", REMEDY)
    made = _MADE_BY.search(cubin)
    if made and tools.release[0] < int(made[1]):
        found, wanted = ".".join(map(str, tools.release)), f"{int(made[1])}.{int(made[2])}"
        problem = f"{tools.nvdisasm} is of CUDA {found} and does not read all that CUDA {wanted} makes"
        raise BuildError(problem, REMEDY)
    return tools


@contextmanager
def as_file(cubin: bytes) -> Iterator[str]:
    """Yield the path of a file with these bytes."""
    with tempfile.TemporaryDirectory(prefix="gridstone-cubin-") as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        yield str(path)
