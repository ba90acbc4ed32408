"""The contract of a toolchain: from source text to bytes to something callable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from gridstone.ir.spec import Spec
from gridstone.kernel_cache.signature import Signature
from gridstone.lower.target import Language, Target
from gridstone.templates.source import Source

if TYPE_CHECKING:
    from gridstone.kernel_cache.key import Key

Call = Callable[..., torch.Tensor]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A source and its callable.

    A kernel reads and writes memory by address, so calling it checks every tensor first. `call` does not: it is for
    the dispatcher and the tuner, which have checked what they pass.

    Args:
        source: What was emitted.
        call: `call(*tensors, out=None) -> Tensor`; tensors in the order of the spec's inputs and then its epilogues'
            operands, matrices two-dimensional, a quantised weight as its packed buffer. Unchecked.
        signature: What these tensors must be.
    """

    source: Source
    call: Call
    signature: Signature

    def __call__(self, *tensors: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Run the kernel, into `out` when it is given.

        Args:
            tensors: As of `call`; of any strides, on the CPU.
            out: Of the output's shape and dtype, rows contiguous and apart from each other and from every operand.

        Raises:
            SpecError: A tensor is missing, or has another shape, dtype or device than the spec says.
            LaunchError: The memory of a tensor is not what a kernel can read or write.
        """
        self.signature.check(tensors, out)
        return self.call(*tensors, out=out)


class Toolchain(Protocol):
    """Builds and loads the sources of one language."""

    language: Language
    suffix: str

    def missing(self) -> str | None:
        """Return why nothing can be built here and what to install, or None."""
        ...

    def identity(self, target: Target) -> tuple[tuple[str, str], ...]:
        """Return named facts that an artefact depends on besides its text: versions, flags, headers."""
        ...

    def build(self, source: Source, target: Target) -> bytes:
        """Compile; BuildError with the compiler's own words when it refuses."""
        ...

    def examine(self, key: Key, blob: bytes) -> str:
        """Return why an artefact of this key cannot be loaded, as far as its bytes show; empty for nothing."""
        ...

    def load(self, path: Path, source: Source, spec: Spec) -> Call:
        """Make an artefact callable; LaunchError when it cannot be loaded."""
        ...
