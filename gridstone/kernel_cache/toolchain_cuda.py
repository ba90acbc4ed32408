"""The CUDA toolchain: NVRTC from PyPI's wheels, cubins for any architecture without a GPU; launched through CuPy."""

from __future__ import annotations

import functools
import importlib.resources
from pathlib import Path
from typing import TYPE_CHECKING

from gridstone.ir.errors import BuildError
from gridstone.ir.spec import Spec
from gridstone.kernel_cache.artefact import SUFFIX, Artefact, examine, fault
from gridstone.kernel_cache.gpu import cupy_remedy
from gridstone.kernel_cache.launch_cuda import load
from gridstone.kernel_cache.nvrtc import find_nvrtc
from gridstone.kernel_cache.toolchain import Call
from gridstone.lower.target import Language, Target
from gridstone.templates.source import Source

if TYPE_CHECKING:
    from gridstone.kernel_cache.key import Key

HEADERS = ("ptx.cuh",)  # that an emitted text may include; whatever else a template includes is in the text
SEEDED = (13, 0)  # the first version that gives the same bytes for the same text
_MOST_LOG = 4000  # characters of the compiler's words in a message


@functools.cache
def header(name: str) -> str:
    """Return the text of a header of `templates/lib/cuda`."""
    place = importlib.resources.files("gridstone").joinpath("templates", "lib", "cuda", name)
    return place.read_text(encoding="utf-8")


def options(target: Target, version: tuple[int, int]) -> tuple[str, ...]:
    """Return the options of a version of NVRTC: the real architecture, so that machine code comes out and no PTX.

    Names of anonymous namespaces hold the time and the process, unless NVRTC (from 13.0 on) is given a seed for them.
    """
    seed = ("--frandom-seed=gridstone",) if version >= SEEDED else ()
    return (f"--gpu-architecture={target.arch}", "--std=c++17", *seed)


class CudaToolchain:
    """Compiles with NVRTC, in this process; several threads may build at once."""

    language = Language.CUDA
    suffix = SUFFIX

    def missing(self) -> str | None:
        """Say what to install where NVRTC is not there."""
        if find_nvrtc():
            return None
        return f"NVRTC, which compiles CUDA, is not installed; {cupy_remedy()}"

    def identity(self, target: Target) -> tuple[tuple[str, str], ...]:
        """Compiler, options and headers: the same on every machine."""
        nvrtc = find_nvrtc()
        version = nvrtc.version if nvrtc else (0, 0)
        return (
            ("compiler", f"NVRTC {version[0]}.{version[1]}" if nvrtc else "none"),
            ("options", " ".join(options(target, version))),
            *((name, header(name)) for name in HEADERS),
        )

    def build(self, source: Source, target: Target) -> bytes:
        """Compile to a cubin and return it packed with how it is launched."""
        nvrtc, grid = find_nvrtc(), source.launch.grid
        if nvrtc is None:
            raise BuildError(self.missing() or "NVRTC is not there")
        assert grid is not None, "a CUDA recipe decides a grid"
        made = nvrtc.compile(source.text, {name: header(name) for name in HEADERS}, options(target, nvrtc.version))
        if not made.cubin:
            failure = BuildError(f"NVRTC refused {source.origin.recipe} for {target}:\n{made.log[:_MOST_LOG]}")
            failure.add_note(f"spec      {source.origin.spec}\nschedule  {source.origin.schedule}")
            raise failure
        wrong = fault(made.cubin, source.entry)
        if wrong:
            raise BuildError(f"NVRTC refuses nothing, but what it made {wrong}", "reinstall nvidia-cuda-nvrtc")
        return Artefact(made.cubin, source.entry, grid.threads, grid.shared_bytes).pack()

    def examine(self, key: Key, blob: bytes) -> str:
        """Return why an artefact cannot be launched, as far as its bytes show; empty for nothing."""
        return examine(blob, dict(key.fields)["entry"])

    def load(self, path: Path, source: Source, spec: Spec) -> Call:
        """Load a cubin on torch's current GPU, and on others when they are used."""
        return load(path, source, spec)
