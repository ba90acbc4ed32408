"""What a watched call changes beside memory: each thing is named and put back."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from gridstone import proof
from gridstone.ir.ops import OPS
from gridstone.proof import compare
from gridstone.proof.surroundings import surroundings
from tests.proof import foreign_kernels as kernels
from tests.proof.foreign_kernels import PLAIN


def pass_all(got, want, tolerance, dtype):
    return None


CHANGES = {
    "torch's default dtype: torch.float32 became torch.float64": lambda: torch.set_default_dtype(torch.float64),
    "torch's default device: cpu became meta": lambda: torch.set_default_device("meta"),
    "torch's number of threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "grad mode: True became False": lambda: torch.set_grad_enabled(False),
    "torch's deterministic algorithms": lambda: torch.use_deterministic_algorithms(True),
    "torch's float32 matmul precision: highest became medium": lambda: torch.set_float32_matmul_precision("medium"),
    "autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "flushing of subnormal numbers": lambda: torch.set_flush_denormal(True),
    "NumPy's handling of errors": lambda: np.seterr(all="ignore"),
    "the stack of torch function modes": lambda: kernels.Agreed().__enter__(),
    "the trace function": lambda: sys.settrace(lambda *_: None),
    "torch.equal was replaced": lambda: setattr(torch, "equal", lambda *_: True),
    "torch.isnan was replaced": lambda: setattr(torch, "isnan", torch.zeros_like),
    "Tensor.isnan was replaced": lambda: setattr(torch.Tensor, "isnan", torch.zeros_like),
    "numpy.isnan was replaced": lambda: setattr(np, "isnan", np.zeros_like),
    "ctypes.string_at was replaced": lambda: setattr(sys.modules["ctypes"], "string_at", bytes),
    "gridstone.proof.compare.compare was replaced": lambda: setattr(compare, "compare", max),
    "gridstone.proof.compare.abs hides a builtin": lambda: setattr(compare, "abs", min),
    "Gemm.reference was replaced": lambda: setattr(OPS["gemm"], "reference", max),
    "proof.compare.compare was replaced": lambda: setattr(compare.compare, "__code__", pass_all.__code__),
    "Verdict.right was replaced": lambda: setattr(compare.Verdict, "right", True),
}


@pytest.mark.parametrize("message", CHANGES)
def test_what_a_call_changes_beside_memory_is_named_and_put_back(message):
    before = surroundings()

    def candidate(x, w):
        y = kernels.right(x, w)
        CHANGES[message]()
        return y

    problem = proof.check(candidate, PLAIN, seed=1).problem
    changed = before.restore()
    assert message in problem
    assert changed == ()
