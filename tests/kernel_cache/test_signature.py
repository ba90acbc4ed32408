"""Calling a kernel: what would be read or written beside a tensor is refused before, and the value is named."""

from __future__ import annotations

import pytest
import torch

import gridstone
from gridstone.ir.errors import LaunchError, SpecError
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache.host import host_target
from gridstone.kernel_cache.make import make_kernel
from gridstone.lower.target import parse_target
from gridstone.proof.operands import draw_operands
from gridstone.templates.registry import default_recipe

SPEC = parse_spec("gemm[x: f32(M,64), w: int4:g32@lane16(48,64)] + bias + residual")
X, W, BIAS, RESIDUAL = draw_operands(SPEC.bind(M=3), 1).tensors


@pytest.fixture(scope="module", params=[str(host_target()), "library:torch"])
def kernel(request):
    target = parse_target(request.param)
    recipe = default_recipe(SPEC, target)
    return make_kernel(recipe, SPEC, recipe.space.default(SPEC, target), target)


def empty(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype)


def given(**changes):
    operands = {"x": X, "w": W, "bias": BIAS, "residual": RESIDUAL, **changes}
    return [tensor for tensor in operands.values() if tensor is not None]


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (lambda: empty(3, 40), SpecError, r"out has shape \(3, 40\), not f32\(M,48\) with M=3"),
        (lambda: empty(2, 48), SpecError, r"out has shape \(2, 48\), not f32\(M,48\) with M=3"),
        (lambda: empty(144), SpecError, r"out has shape \(144,\)"),
        (lambda: empty(3, 48, dtype=torch.bfloat16), SpecError, r"out is bfloat16\(3, 48\), not f32\(M,48\) .convert it to float32"),  # noqa: E501
        (lambda: torch.empty(3, 48, device="meta"), SpecError, "out is on meta, and the kernel runs on the CPU"),
        (lambda: empty(48, 3).t(), LaunchError, r"strides \(1, 3\): its rows are not contiguous.*give a contiguous"),
        (lambda: empty(1, 48).expand(3, 48), LaunchError, r"strides \(0, 1\)"),
        (lambda: empty(200).as_strided((3, 48), (40, 1)), LaunchError, r"strides \(40, 1\)"),
        (lambda: torch._neg_view(empty(3, 48)), LaunchError, "out is lazily negated: its memory is not its values"),
        (lambda: empty(3, 48).to_sparse(), LaunchError, "out is torch.sparse_coo: its memory is not its values"),
        (lambda: RESIDUAL, LaunchError, "out shares memory with residual, which is read while out is written"),
        (lambda: W.view(torch.float32)[:144].view(3, 48), LaunchError, "out shares memory with w"),
    ],
)  # fmt: skip
def test_an_output_that_does_not_fit_is_refused(kernel, out, error, message):
    """Breaks where a kernel would write beside it, or over what it still reads."""
    with pytest.raises(error, match=message):
        kernel(*given(), out=out())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": empty(3, 32)}, SpecError, r"x has shape \(3, 32\), not f32\(M,64\)"),
        ({"x": empty(64)}, SpecError, r"x has shape \(64,\), not f32\(M,64\)"),
        ({"x": X.bfloat16()}, SpecError, r"x is bfloat16\(3, 64\), not f32\(M,64\) .convert it to float32"),
        ({"x": X.to("meta")}, SpecError, "x is on meta, and the kernel runs on the CPU .move it there first"),
        ({"w": W[:-1]}, SpecError, r"w is \d+ bytes .* not the \d+ contiguous bytes of int4:g32@lane16\(48,64\) .re-pack"),  # noqa: E501
        ({"w": torch.stack([W, W], -1)[:, 0]}, SpecError, r"w is \d+ bytes with strides \(2,\)"),
        ({"w": W.float()}, SpecError, r"w is float32\(\d+\), not the \d+ contiguous bytes"),
        ({"bias": empty(47)}, SpecError, r"bias has shape \(47,\), not f32\(48\)"),
        ({"residual": RESIDUAL[:2]}, SpecError, r"residual has shape \(2, 48\), not .* with M=3"),
        ({"residual": None}, SpecError, r"3 operands were given, not 4 .give x: f32\(M,64\), w: the .*, in order"),
        ({"bias": None, "x": 1.0, "w": 2.0}, SpecError, "3 operands were given, not 4"),
        ({"x": 1.0}, SpecError, "x is a float, not a plain tensor"),
    ],
)  # fmt: skip
def test_an_operand_that_does_not_fit_is_refused(kernel, changes, error, message):
    """Breaks where a kernel would read beside it."""
    with pytest.raises(error, match=message):
        kernel(*given(**changes))


def test_a_quantised_tensor_is_told_from_its_buffer(kernel):
    w = gridstone.quantize(torch.randn(48, 64), "int4:g32:f16")
    with pytest.raises(SpecError, match=r"w is a QuantTensor, not a plain tensor .give its packed buffer, `.packed`"):
        kernel(*given(w=w))
    assert kernel(*given(w=w.packed)).shape == (3, 48)


def test_outputs_that_fit_are_written(kernel):
    """Rows apart in a wider matrix, beside the operand in one matrix, no rows, another number of rows."""
    wide = torch.zeros(3, 200)
    wide[:, :64] = X
    want = kernel(*given(x=wide[:, :64]))
    out = wide[:, 64:112]
    assert kernel(*given(x=wide[:, :64]), out=out) is out
    assert torch.equal(out, want)
    assert not wide[:, 112:].any()
    with pytest.raises(LaunchError, match="out shares memory with x"):
        kernel(*given(x=wide[:, :64]), out=wide[:, 60:108])
    for rows in (0, 1):
        some = given(x=X[:rows], residual=RESIDUAL[:rows])
        assert torch.equal(kernel(*some, out=empty(rows, 48)), kernel(*some))
    assert kernel(*given(x=X.t().contiguous().t())).shape == (3, 48)


def test_another_default_device_is_not_the_kernel_s(kernel):
    """Breaks when scratch or output are taken from where a program makes its tensors by default."""
    want, out = kernel(*given()), empty(3, 48)
    with torch.device("meta"):
        assert torch.equal(kernel(*given()), want)
        kernel(*given(), out=out)
    assert torch.equal(out, want)
