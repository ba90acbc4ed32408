"""The library "toolchain": the torch call that an op replaces. Nothing is emitted; it is always a candidate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from gridstone.ir.errors import BuildError
from gridstone.ir.spec import Spec
from gridstone.kernel_cache.key import Key
from gridstone.kernel_cache.library_gemm import gemm_call
from gridstone.kernel_cache.toolchain import Call
from gridstone.lower.target import Language, Target
from gridstone.templates.source import Source

LIBRARY_CALLS: dict[str, Callable[[Spec], Call]] = {"gemm": gemm_call}


class LibraryToolchain:
    """Binds torch's own kernels."""

    language = Language.LIBRARY
    suffix = ""

    def missing(self) -> None:
        """torch is always there."""

    def identity(self, target: Target) -> tuple[tuple[str, str], ...]:
        """The version of torch."""
        return (("torch", str(torch.__version__)),)

    def build(self, source: Source, target: Target) -> bytes:
        """Nothing is built."""
        raise BuildError(f"{source.origin.recipe} is a library call and has no artefact")

    def examine(self, key: Key, blob: bytes) -> str:
        """Nothing is kept."""
        return ""

    def load(self, path: Path, source: Source, spec: Spec) -> Call:
        """Return the library's call; `path` is not read."""
        return library_call(spec)


def library_call(spec: Spec) -> Call:
    """Return `call(*tensors, out=None)` that computes a spec with torch, as a program without Gridstone would.

    Raises:
        BuildError: The spec's op has no library call.
    """
    if spec.op.name not in LIBRARY_CALLS:
        problem = f"no library call for {spec.op.name}"
        raise BuildError(problem, "add it to LIBRARY_CALLS in kernel_cache/toolchain_library.py")
    return LIBRARY_CALLS[spec.op.name](spec)
