"""The kernels whose texts are mutated, and the calls that judge them.

Every recipe is there, with ragged N and K, groups and one scale a row, zero points stored and not, epilogues, K shared
in order and not. The calls are ragged in M, cover every distribution of values and scales, NaN and infinities, views
with gaps and offsets, several threads and several orders.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from gridstone.kernel_cache.host import runs_here
from gridstone.lower.target import Language
from gridstone.proof.fuzz.case import SEPARATOR, Call, KernelCase, parse_case
from gridstone.proof.fuzz.draw import draw_calls
from gridstone.proof.fuzz.inputs import SCALES, VALUES
from gridstone.templates.emit import emit
from gridstone.templates.source import Source

SEED = 8  # of values; neighbours share a weight


@dataclass(frozen=True, slots=True)
class Subject:
    """A kernel whose text is mutated.

    Args:
        name: In tables.
        text: As `KernelCase` prints: spec, recipe, schedule, target.
    """

    name: str
    text: str

    @property
    def kernel(self) -> KernelCase:
        """The kernel."""
        return parse_case(f"{self.text}{SEPARATOR}M=1").kernel

    @property
    def source(self) -> Source:
        """Its text as it is emitted."""
        kernel = self.kernel
        return emit(kernel.recipe, kernel.spec, kernel.schedule, kernel.target)


def _subject(name: str, spec: str, recipe: str, schedule: str, target: str) -> Subject:
    return Subject(name, SEPARATOR.join((f"gemm[{spec}", recipe, schedule, target)))


SUBJECTS = (
    _subject("cpp.gemv", "x: f32(M,1103), w: uint8:channel:f32:zero(205,1103)]", "gemm.cpp.gemv", "gemv(n_r=2)",
             "cpp:avx2"),
    _subject("cpp.gemv split", "x: bf16(M,1088), w: int4:g64(93,1088)] + bias + residual", "gemm.cpp.gemv",
             "gemv(k_splits=2)", "cpp:avx512_bf16"),
    _subject("cpp.direct", "x: f16(M,1103), w: uint4:channel:f32:zero(205,1103)] + bias + gelu", "gemm.cpp.direct",
             "direct(m_r=4,m_chunk=48)", "cpp:avx2"),
    _subject("cpp.direct generic", "x: f16(M,1101), w: int8:channel(205,1101)] + residual", "gemm.cpp.direct",
             "direct()", "cpp:generic"),
    _subject("cpp.blocked", "x: bf16(M,601), w: int4:channel:bf16(93,601)] + bias", "gemm.cpp.blocked",
             "blocked(m_chunk=48)", "cpp:avx512_bf16"),
    _subject("cpp.blocked folded", "x: f32(M,416), w: int8:g32:f32(141,416)] + silu + residual", "gemm.cpp.blocked",
             "blocked(fold_scale=true,panel_k=128)", "cpp:avx2"),
    _subject("cuda.mma", "x: bf16(M,172), w: int4:channel(70,172)]", "gemm.cuda.mma",
             "mma(block_m=32,block_k=64,warps_n=2,warps_k=1,tiles_n=2,stages=3,k_splits=1,ordered=true)", "cuda:sm_80"),
    _subject("cuda.mma split", "x: f16(M,464), w: uint8:g16:f16:zero(72,464)] + bias", "gemm.cuda.mma",
             "mma(block_m=16,block_k=64,warps_n=2,warps_k=2,tiles_n=2,stages=3,k_splits=2,ordered=true)", "cuda:sm_80"),
    _subject("cuda.mma unordered", "x: f16(M,736), w: int4:g32:f32(72,736)] + residual", "gemm.cuda.mma",
             "mma(block_m=8,block_k=128,warps_n=2,warps_k=2,tiles_n=2,stages=2,k_splits=2,ordered=false)",
             "cuda:sm_80"),
    _subject("cuda.gemv", "x: f32(M,272), w: uint4:g16:bf16:zero(40,272)] + gelu_tanh", "gemm.cuda.gemv",
             "gemv(block_m=4,block_k=128,warps_n=1,warps_k=2,tiles_n=2,k_splits=1,ordered=true)", "cuda:sm_80"),
    _subject("cuda.gemv split", "x: f16(M,464), w: uint8:g16:f16:zero(40,464)] + bias", "gemm.cuda.gemv",
             "gemv(block_m=4,block_k=128,warps_n=1,warps_k=1,tiles_n=2,k_splits=2,ordered=true)", "cuda:sm_80"),
    _subject("cuda.wgmma", "x: bf16(M,940), w: int8:channel(150,940)]", "gemm.cuda.wgmma",
             "wgmma(block_m=32,block_k=128,warps_n=8,tiles_n=2,stages=3,k_splits=1,ordered=true)", "cuda:sm_90a"),
    _subject("cuda.wgmma split", "x: f16(M,832), w: uint4:g64:f16:zero(184,832)] + bias", "gemm.cuda.wgmma",
             "wgmma(block_m=32,block_k=128,warps_n=8,tiles_n=1,stages=3,k_splits=2,ordered=true)", "cuda:sm_90a"),
    _subject("triton.small", "x: f16(M,224), w: uint8:g32:zero(40,224)] + bias + residual", "gemm.triton.small",
             "small(block_m=16,block_n=32,block_k=64,warps=4,stages=2,k_splits=2,ordered=true)", "triton:sm_90"),
    _subject("triton.small unordered", "x: f32(M,221), w: int4:channel:f32:zero(70,221)] + gelu", "gemm.triton.small",
             "small(block_m=16,block_n=64,block_k=64,warps=4,stages=2,k_splits=2,ordered=false)", "triton:sm_90"),
    _subject("triton.large", "x: bf16(M,160), w: uint4:g32:zero(70,160)] + bias + silu", "gemm.triton.large",
             "large(block_m=32,block_n=64,block_k=64,warps=4,stages=2,group_m=2)", "triton:sm_90"),
    _subject("triton.large channel", "x: f16(M,109), w: int8:channel:f32(97,109)] + residual", "gemm.triton.large",
             "large(block_m=32,block_n=64,block_k=32,warps=4,stages=2,group_m=1)", "triton:sm_80"),
)  # fmt: skip


def runnable() -> tuple[Subject, ...]:
    """Return the kernels that this machine can judge: those of a CPU that it is not are left out."""
    return tuple(s for s in SUBJECTS if s.kernel.target.sms or runs_here(s.kernel.target))


def calls(kernel: KernelCase) -> tuple[Call, ...]:
    """Return the fixed calls of a kernel, the most telling first."""
    match kernel.target.language:
        case Language.CPP:
            rows, more = (17, 1, 2, 3, 4, 5, 8, 9, 13, 25, 33), 97
        case Language.CUDA:
            height = int(getattr(kernel.schedule, "block_m", 16))
            rows, more = (height + 1, 1, height, 2 * height + 3), 2 * height - 1
        case _:
            height = int(getattr(kernel.schedule, "block_m", 16))
            rows, more = (5, 1, height + 1), height
    plain = [Call(M=m, seed=SEED, threads=1 + at % 3, order=at) for at, m in enumerate(rows)]
    return tuple(_fitted(kernel, call) for call in (*plain, *_varied(kernel, rows[0], more)))


def _varied(kernel: KernelCase, rows: int, more: int) -> Iterator[Call]:
    """Yield calls with everything that is no matter of shape."""
    few = kernel.target.language is Language.TRITON
    aligned = -kernel.spec.inputs[0].type.static(1) % 16 + 16  # rows of x begin at multiples of 16 elements
    yield Call(M=rows, seed=SEED, x_gap=aligned, threads=2, order=5)
    yield Call(M=rows, seed=SEED, x_gap=8, residual_gap=3, out_gap=5, threads=2, order=7)
    yield Call(M=rows, seed=SEED, nan=2, inf=2, x_gap=3, x_offset=1, bias_offset=1, out_offset=3, threads=3, asm=True)
    yield Call(M=more, seed=SEED, values="integers", scales="powers", threads=3, order=11, w_offset=16)
    for at, values in enumerate(VALUES):
        scales = SCALES[at % len(SCALES)]
        if not few or values in ("vast", "denormal", "powers"):
            asm = at % 2 == 1
            yield Call(rows, values, scales, seed=SEED + 1, threads=1 + at % 3, order=at, asm=asm)
    if not few:
        yield Call(M=2, seed=SEED, nan=1, transposed=not kernel.target.sms, residual_offset=2, threads=4)
        yield Call(M=more, seed=SEED + 2, x_gap=1, out_gap=1, threads=2, order=3)


def drawn(kernel: KernelCase, count: int) -> tuple[Call, ...]:
    """Return random calls of a kernel, the same in every run."""
    found = draw_calls(random.Random(SEED), kernel, count)
    return tuple(replace(call, seed=SEED + call.seed % 8) for call in found if call.M)


def _fitted(kernel: KernelCase, call: Call) -> Call:
    """Leave out of a call what the kernel has no use for."""
    names = {operand.name for operand in kernel.spec.extra_operands}
    gone: dict[str, int | bool] = {}
    if "bias" not in names:
        gone["bias_offset"] = 0
    if "residual" not in names:
        gone.update(residual_gap=0, residual_offset=0)
    if kernel.target.language is not Language.TRITON:
        gone["asm"] = False
    if kernel.target.sms:
        gone["threads"] = 1
    else:
        gone["order"] = 0
    return replace(call, **gone)  # type: ignore[arg-type]
