"""C++ kernels beside memory that nobody may touch: an access behind an operand ends the process."""

from __future__ import annotations

import ctypes
import itertools
import mmap

import pytest
import torch

from gridstone.proof.operands import draw_operands
from tests.quick import one_in
from tests.templates.gemm_kernels import CPP_NAMES, Case, kernel, resolved, same_bits

TEXTS = {
    "bf16": "gemm[x: bf16(M,352), w: int4:g32(203,352)] + bias + gelu + residual",
    "f32": "gemm[x: f32(M,257), w: uint8:channel:f32:zero(75,257)] + bias + silu + residual",
}
PAGE = mmap.PAGESIZE


def guarded(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy whose last byte is the last before a page that can be neither read nor written."""
    size = tensor.numel() * tensor.element_size()
    whole = -(-size // PAGE) * PAGE
    memory = mmap.mmap(-1, whole + PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(start + whole), PAGE, 0) == 0
    place = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=whole - size)
    return place.view(tensor.shape).copy_(tensor)


@pytest.mark.parametrize(("recipe", "text"), one_in(3, itertools.product(CPP_NAMES, TEXTS)))
def test_nothing_behind_an_operand_is_touched(recipe, text):
    """Vectors, words and slabs that are only partly there are read and written as far as they are."""
    case = Case(TEXTS[text], recipe)
    for rows in (1, 3, 17):
        tensors = draw_operands(resolved(case.spec).bind(M=rows), rows).tensors
        want = kernel(case)(*tensors)
        out = guarded(torch.empty_like(want))
        kernel(case)(*map(guarded, tensors), out=out)
        assert same_bits(out, want)
