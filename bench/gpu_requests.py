"""What the worker of `bench.gpu` is asked. Light to import: a worker that only has to break need not load torch."""

from __future__ import annotations

from dataclasses import dataclass

from gridstone.kernel_cache.artefact import Artefact
from gridstone.templates.source import Source


@dataclass(frozen=True)
class Built:
    """A kernel as it travels to the worker.

    Args:
        spec: Text of its static spec, storages resolved.
        source, artefact: What was emitted and compiled.
    """

    spec: str
    source: Source
    artefact: Artefact


@dataclass(frozen=True)
class Judge:
    """Compare a kernel with float64. Answered by (largest error of an element, of all) as shares of their bounds."""

    kernel: Built


@dataclass(frozen=True)
class Time:
    """Time a kernel. Answered by the seconds of a call, one sample for each replay of a graph."""

    kernel: Built


@dataclass(frozen=True)
class Library:
    """Time cuBLAS on a plain weight, likewise.

    Args:
        n, k, m: Of the problem.
        dtype: `bf16` or `f16`.
    """

    n: int
    k: int
    m: int
    dtype: str


@dataclass(frozen=True)
class Measure:
    """Measure the card. Answered by its `Ceilings`."""


@dataclass(frozen=True)
class Ceilings:
    """What the card was measured to do: bytes/s of a large copy, read and written, and flop/s of a bf16 product."""

    bandwidth: float
    bf16_flops: float

    def floor(self, size: int, flops: int) -> float:
        """Return the seconds below which nothing that moves and computes this much can be."""
        return max(size / self.bandwidth, flops / self.bf16_flops)


Request = Judge | Time | Library | Measure
