"""The planted bugs, and the classes of mistakes that they stand for."""

from __future__ import annotations

import functools

from tests.mutation import (
    planted_calls,
    planted_cpp,
    planted_cuda,
    planted_cuda_sums,
    planted_formats,
    planted_programs,
    planted_triton,
)
from tests.mutation.plant import Planted

PLANTED: tuple[Planted, ...] = (
    *planted_cpp.BUGS,
    *planted_cuda.BUGS,
    *planted_cuda_sums.BUGS,
    *planted_triton.BUGS,
    *planted_formats.BUGS,
    *planted_calls.BUGS,
    *planted_programs.BUGS,
)


ALL = ("cpp", "triton", "cuda", "python")
KERNELS = ("cpp", "triton", "cuda")
# Kind of mistake -> where it is planted. What is left out is not there to be got wrong, or not seen without a GPU: C++
# has no pipeline of stages and no scratch that outlives a call; barriers and waits of Triton are its compiler's, and
# its interpreter runs programs one after the other.
PROMISED: dict[str, tuple[str, ...]] = {
    "32-bit offset": KERNELS,
    "NaN and infinity": ALL,
    "activation of another variant": ALL,
    "aliasing": ("python",),
    "alignment taken for granted": ALL,
    "blind check": ("python",),
    "broadcast of the bias": ALL,
    "cache-key collision": ("python",),
    "capture of what does not fit": ("python",),
    "compiled model drops an operand": ("python",),
    "constant folded scalar": ALL,
    "dropped scale": KERNELS,
    "dropped upper bits": ("python",),
    "dropped zero point": ALL,
    "float16 accumulation": KERNELS,
    "hard-coded shape": ALL,
    "input mutation": ALL,
    "missing barrier": ("cpp", "cuda"),
    "missing wait": ("cuda",),
    "nibble order": ALL,
    "off-by-one bound": ALL,
    "one seed for all": ("python",),
    "order of the epilogues": ALL,
    "order of the sums": ("triton", "cuda"),
    "quantiser off by one": ("python",),
    "scale applied twice": ("cpp",),
    "scratch shared by two threads": ("cpp", "python"),
    "shift of a plane": ("python",),
    "split-K added twice": KERNELS,
    "stale output": ("python",),
    "stale record": ("python",),
    "strided taken for contiguous": ("python",),
    "tail mask of K": KERNELS,
    "tail mask of M": ALL,
    "tail mask of N": KERNELS,
    "text drops a field": ("python",),
    "too few pipeline stages": ("triton", "cuda"),
    "transposed operand": ALL,
    "uninitialised accumulator": KERNELS,
    "workspace not left zero": ("triton", "cuda", "python"),
    "wrong extents": ("python",),
    "wrong group at a boundary": ALL,
    "wrong identity of a sum": KERNELS,
    "wrong padding value": ("python",),
    "wrong rounding": ALL,
    "wrong stride": ALL,
    "zero extents": ("python",),
    "zero point off by one": ALL,
}


@functools.cache
def _runs_here(target: str) -> bool:
    from gridstone.kernel_cache.host import runs_here
    from gridstone.lower.target import parse_target

    return runs_here(parse_target(target))


@functools.cache
def _has_triton() -> bool:
    from gridstone.kernel_cache.toolchain_triton import TritonToolchain

    return TritonToolchain().missing() is None


def fits_here(bug: Planted) -> bool:
    """Whether this machine runs what a bug is in."""
    return (not bug.needs or _runs_here(bug.needs)) and (bug.language != "triton" or _has_triton())
