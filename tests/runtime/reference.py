"""What a linear call must give: the op's float64 reference on the decoded weight, within its own tolerance."""

from __future__ import annotations

import torch

from gridstone.lower.bucket import ROWS
from gridstone.proof.compare import compare
from gridstone.proof.operands import to_values
from gridstone.runtime.linear_key import our_dtype, parse_key, spec_of
from gridstone.runtime.tensors import QuantTensor


def assert_linear(
    y: torch.Tensor,
    x: torch.Tensor,
    w: QuantTensor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    activation: str = "",
    numerics: str = "exact",
) -> None:
    """Fail unless y is activation(x @ w.T + bias) + residual within the tolerance of exactly these operands."""
    assert not isinstance(y, QuantTensor)
    assert y.shape == (*x.shape[:-1], w.n)
    assert y.dtype == x.dtype
    flat = x.reshape(-1, x.shape[-1])
    spec = spec_of(parse_key(f"{w.key}|{activation}|{numerics}"), our_dtype(x), our_dtype(bias), our_dtype(residual))
    spec = spec.bind(**{ROWS: flat.shape[0]})
    stored = w.t() if w.transposed else w
    values = {"x": to_values(flat), "w": to_values(stored.dequantize(torch.float64))}
    if bias is not None:
        values["bias"] = to_values(bias)
    if residual is not None:
        values["residual"] = to_values(residual.reshape(-1, w.n))
    got = to_values(y.reshape(-1, w.n))
    verdict = compare(got, spec.op.reference(spec, values), spec.op.tolerance(spec, values), spec.output.dtype)
    assert verdict.right, verdict.problem


def assert_product(y: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """Fail unless y is a @ b.T within the tolerance of a plain gemm, for plain a and b."""
    from gridstone.ir.text import parse_spec

    kind = our_dtype(a)
    m, k, n = a.shape[0], a.shape[1], b.shape[0]
    spec = parse_spec(f"gemm[x: {kind}({m},{k}), w: {kind}({n},{k})]")
    values = {"x": to_values(a), "w": to_values(b)}
    verdict = compare(to_values(y), spec.op.reference(spec, values), spec.op.tolerance(spec, values), spec.output.dtype)
    assert verdict.right, verdict.problem
