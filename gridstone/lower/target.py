"""Targets: facts about what a kernel is emitted for. Data only; what acts on them are the toolchains.

A target is written `language:arch`. Rates are nominal, per core of a CPU and for the whole of a GPU: they rank
schedules and give floors where nothing was measured. Anything reported as a share of a limit uses limits measured on
the machine at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from gridstone.ir.errors import SpecError, nearest


class Language(Enum):
    """What the emitted text is written in."""

    CPP = "cpp"
    TRITON = "triton"
    CUDA = "cuda"
    LIBRARY = "library"


@dataclass(frozen=True, slots=True)
class Target:
    """Facts of one architecture in one language.

    Args:
        language: Language of the emitted source.
        arch: Instruction set or GPU architecture.
        storage: Name of the storage that the recipes for quantised weights read.
        vector_bits: Width of a vector register, or of the widest access of a GPU's thread.
        registers: Number of vector registers, or 32-bit registers that a GPU's thread can have.
        l1_bytes: Data cache of one core, or shared memory that a GPU's block can have.
        l2_bytes: Second cache of one core, or the cache that all of a GPU shares.
        line_bytes: Cache line.
        bandwidth: Bytes per second that one core, or a GPU, reads from memory.
        f32_flops: float32 multiply-add flops per second.
        bf16_flops: bf16 dot product flops per second; 0 where there is no such instruction.
        cpu_flags: Features that the CPU must have, as Linux names them.
        flags: Compiler flags that switch exactly these features on.
        sms: Multiprocessors of a GPU; 0 for a CPU.
        card: The GPU that has these rates; others of its architecture have others.
    """

    language: Language
    arch: str
    storage: str
    vector_bits: int
    registers: int
    l1_bytes: int
    l2_bytes: int
    line_bytes: int
    bandwidth: float
    f32_flops: float
    bf16_flops: float
    cpu_flags: frozenset[str]
    flags: tuple[str, ...]
    sms: int = 0
    card: str = ""

    def __str__(self) -> str:
        return f"{self.language.value}:{self.arch}"


_AVX2 = frozenset({"avx2", "fma", "f16c"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
_FLAGS_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_FLAGS_AVX512 = (*_FLAGS_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512")

_CPU_CACHES = (48 << 10, 1 << 20, 64)
_CPP, _LIB, _TRITON, _CUDA = Language.CPP, Language.LIBRARY, Language.TRITON, Language.CUDA
_NONE: frozenset[str] = frozenset()
_ROWS = (
    #      lang  arch           storage  bits regs caches         B/s    f32      bf16     features and flags
    Target(_CPP, "avx512_bf16", "lane16", 512, 32, *_CPU_CACHES, 42e9, 284e9, 572e9,
           _AVX512 | {"avx512_bf16"}, (*_FLAGS_AVX512, "-mavx512bf16")),
    Target(_CPP, "avx512", "lane16", 512, 32, *_CPU_CACHES, 42e9, 284e9, 0.0, _AVX512, _FLAGS_AVX512),
    Target(_CPP, "avx2", "lane16", 256, 16, *_CPU_CACHES, 42e9, 142e9, 0.0, _AVX2, _FLAGS_AVX2),
    Target(_CPP, "generic", "lane16", 128, 16, *_CPU_CACHES, 30e9, 30e9, 0.0, frozenset(), ()),
    Target(_TRITON, "sm_80", "mma16", 128, 255, 166912, 40 << 20, 128, 2.0e12, 19.5e12, 312e12, _NONE, (), 108, "A100"),
    Target(_TRITON, "sm_89", "mma16", 128, 255, 101376, 96 << 20, 128, 0.86e12, 91e12, 362e12, _NONE, (), 142, "L40S"),
    Target(_TRITON, "sm_90", "mma16", 128, 255, 232448, 50 << 20, 128, 4.8e12, 67e12, 790e12, _NONE, (), 132, "H200"),
    Target(_TRITON, "sm_100", "mma16", 128, 255, 232448, 126 << 20, 128, 8e12, 80e12, 2250e12, _NONE, (), 148, "B200"),
    Target(_CUDA, "sm_80", "mma16", 128, 255, 166912, 40 << 20, 128, 2.0e12, 19.5e12, 312e12, _NONE, (), 108, "A100"),
    Target(_CUDA, "sm_89", "mma16", 128, 255, 101376, 96 << 20, 128, 0.86e12, 91e12, 362e12, _NONE, (), 142, "L40S"),
    Target(_CUDA, "sm_90", "mma16", 128, 255, 232448, 50 << 20, 128, 4.8e12, 67e12, 790e12, _NONE, (), 132, "H200"),
    Target(_CUDA, "sm_90a", "mma16", 128, 255, 232448, 50 << 20, 128, 4.8e12, 67e12, 790e12, _NONE, (), 132, "H200"),
    Target(_LIB, "torch", "lane16", 512, 32, *_CPU_CACHES, 42e9, 284e9, 572e9, frozenset(), ()),
)  # fmt: skip
TARGETS = {str(row): row for row in _ROWS}


def parse_target(text: str) -> Target:
    """Return the target of this name.

    Raises:
        SpecError: No such target; the nearest names are suggested.
    """
    if text not in TARGETS:
        raise SpecError(f"unknown target {text!r}", nearest(text, TARGETS))
    return TARGETS[text]


def cpp_target(cpu_flags: frozenset[str]) -> Target:
    """Return the widest C++ target that a CPU with these features runs."""
    return next(row for row in _ROWS if row.language is _CPP and row.cpu_flags <= cpu_flags)
