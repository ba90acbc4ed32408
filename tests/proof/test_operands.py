"""Operands for checks: drawn afresh for every seed and every operand, over all that a format can hold."""

from __future__ import annotations

import itertools

import pytest
import torch

from gridstone.ir.storage import storage, unpack
from gridstone.ir.text import parse_spec
from gridstone.proof.operands import draw_operands

SPEC = parse_spec("gemm[x: f32(48,64), w: uint4:g16:zero@lane16(64,64)] + bias + residual")


def test_every_seed_draws_operands_of_its_own():
    """Breaks when a stale output, right for the operands before, is right for those after."""
    first, second, again = (draw_operands(SPEC, seed) for seed in (1, 2, 1))
    for one, other, same in zip(first.tensors, second.tensors, again.tensors, strict=True):
        assert not torch.equal(one, other)
        assert torch.equal(one, same)


def test_no_operand_has_the_values_of_another():
    """Breaks when a kernel may take one operand for another and be right."""
    values = {name: set(drawn.ravel().tolist()) for name, drawn in draw_operands(SPEC, 3).values.items() if name != "w"}
    for one, other in itertools.combinations(values, 2):
        assert not values[one] & values[other], (one, other)


@pytest.mark.parametrize("code", ["int4", "uint8"])
def test_codes_and_zero_points_take_every_value(code):
    spec = parse_spec(f"gemm[x: f32(1,256), w: {code}:g16:zero@lane16(128,256)]")
    weight = spec.input("w")
    parts = unpack(storage("lane16", weight.format, 128, 256), draw_operands(spec, 4).tensors[1].numpy())
    every = set(range(1 << weight.format.bits))
    assert set(parts.codes.ravel().tolist()) == every
    assert parts.zeros is not None
    assert set(parts.zeros.ravel().tolist()) == every
    assert len(set(parts.scales.ravel().tolist())) > 100
