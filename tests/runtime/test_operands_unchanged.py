"""Operands are read, never written: what a program holds is after a call what it was before, bit for bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import gridstone

N, K = 48, 64
FORMATS = ("int4:g32", "uint4:g32:zero", "int8:channel:f32", "uint3:g16:bf16:zero")


def draw(*shape, dtype=torch.float32):
    """With values far out, which a program that clips or rounds in place would change."""
    return (3 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))).to(dtype)


def assert_unchanged(call, *tensors):
    before = [tensor.clone() for tensor in tensors]
    call(*tensors)
    for now, then in zip(tensors, before, strict=True):
        assert torch.equal(now.view(torch.uint8), then.view(torch.uint8))


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantising_leaves_the_weight(fmt, dtype):
    assert_unchanged(lambda w: gridstone.quantize(w, fmt), draw(N, K, dtype=dtype))


@pytest.mark.parametrize("call", ["linear", "F.linear", "compiled", "dequantize"])
def test_products_leave_their_operands(call):
    w = gridstone.quantize(draw(N, K), "int4:g32:f32")
    operands = draw(5, K), w.packed, draw(N), draw(5, N)
    calls = {
        "linear": lambda x, packed, bias, r: gridstone.linear(x, w, bias, activation="relu", residual=r),
        "F.linear": lambda x, packed, bias, r: F.linear(x, w, bias),
        "compiled": gridstone.compile(lambda x, packed, bias, r: F.relu(F.linear(x, w, bias)) + r, rest="eager"),
        "dequantize": lambda x, packed, bias, r: w.dequantize().mul_(2),
    }
    assert_unchanged(calls[call], *operands)
