"""What a callable that nobody vouches for is given: elements that change it, sums that show how they are made."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gridstone.ir.dtype import round_to
from gridstone.ir.format import dequantize
from gridstone.ir.storage import storage, unpack
from gridstone.ir.text import parse_spec
from gridstone.proof.compare import compare
from gridstone.proof.draws import HILL, Draw
from gridstone.proof.operands import to_tensor

PACKED = "gemm[x: bf16(M,128), w: uint4:g32:zero(40,128)] + bias + residual"


def test_one_changed_element_changes_the_answer_beyond_the_bound():
    """Breaks when what remembers by a sample is excused by a tolerance."""
    spec = parse_spec(PACKED).with_storage("dense").bind(M=9)
    for name in ("x", "w", "bias", "residual"):
        plain, nudged = (Draw(spec, 3, "normal", which).operands().values for which in ("", name))
        assert sum(int((plain[key] != nudged[key]).sum()) for key in plain) in ((1,) if name != "w" else range(1, 33))
        want, other = (spec.op.reference(spec, values) for values in (plain, nudged))
        bound = spec.op.tolerance(spec, plain)
        assert not compare(round_to(spec.output.dtype, other), want, bound, spec.output.dtype).right


@pytest.mark.parametrize("code", ["int1", "int4", "uint4", "int8", "uint8:zero", "int4:zero", "int2"])
def test_sums_of_a_hill_climb_and_come_back(code):
    """And its tensors hold what its values say."""
    code, _, zero = code.partition(":")
    spec = parse_spec(f"gemm[x: f16(6,256), w: {code}:g32{':zero' if zero else ''}(8,256)]").with_storage("dense")
    made = Draw(spec, 4, HILL).operands()
    x, w = made.values["x"], made.values["w"]
    assert (np.sign(w) >= 0).all() or (np.sign(w) <= 0).all()
    half = np.abs(x[:, :128] @ w[:, :128].T)
    assert half.min() > 2 * np.abs(x @ w.T).mean()
    assert torch.equal(made.tensors[0], to_tensor(spec.input("x").dtype, x))
    kind = spec.input("w")
    parts = unpack(storage("dense", kind.format, *kind.shape), made.tensors[1].numpy())
    assert np.array_equal(dequantize(kind.format, parts), w)
