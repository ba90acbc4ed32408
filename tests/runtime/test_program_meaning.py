"""Programs whose meaning a second trace, a fused epilogue or a direct kernel call could change."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import gridstone
from gridstone.ir.errors import FormatError, GridstoneError


@pytest.fixture
def w():
    return gridstone.quantize(torch.randn(64, 128) * 0.1, "int4", group_size=32)


def compiled(function):
    return gridstone.compile(function, rest="eager")


class Tenfold(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 10


def test_a_custom_backward_survives():
    x = torch.ones(3, requires_grad=True)
    (grad,) = torch.autograd.grad(compiled(lambda x: Tenfold.apply(x) + x)(x).sum(), x)
    assert grad.tolist() == [11.0] * 3


def test_no_grad_inside_a_function_is_kept(w):
    def function(x):
        with torch.no_grad():
            y = F.linear(x, w)
        return F.relu(y)

    assert not compiled(function)(torch.randn(4, 128, requires_grad=True)).requires_grad


def test_autocast_inside_a_function_is_kept(w):
    def function(x):
        with torch.autocast("cpu", torch.bfloat16):
            y = F.linear(x, w)
        return y * 2

    assert compiled(function)(torch.randn(4, 128)).dtype == torch.bfloat16


def test_a_change_through_out_is_not_crossed(w):
    def function(x):
        y = F.linear(x, w)
        torch.mul(x, 2, out=x)
        return torch.relu(y)

    x = torch.randn(4, 128)
    torch.testing.assert_close(compiled(function)(x.clone()), function(x.clone()))


def test_vmap_gives_real_tensors():
    y = compiled(lambda x: torch.func.vmap(lambda z: z * 2)(x))(torch.ones(3, 2))
    assert type(y) is torch.Tensor
    assert y.tolist() == [[2.0, 2.0]] * 3


def test_views_of_a_weight_work_in_inference_mode(w):
    x = torch.randn(4, 128)
    want = F.linear(x, w.dequantize())
    with torch.inference_mode():
        for y in (x @ w.t(), x @ w.transpose(0, 1), F.linear(x, w.detach()), x @ w.T):
            torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-4)


def test_a_negative_view_is_resolved(w):
    x = torch.randn(4, 128)
    torch.testing.assert_close(gridstone.linear(torch._neg_view(x), w), gridstone.linear(-x, w))


def test_a_quantised_residual_is_not_dropped(w):
    residual = gridstone.quantize(torch.randn(4, 64), "int4", group_size=32)
    with pytest.raises((GridstoneError, NotImplementedError)):
        gridstone.linear(torch.randn(4, 128), w, residual=residual)


def test_activations_without_memory_are_refused(w):
    x = torch.randn(4, 128)
    x.untyped_storage().resize_(0)
    with pytest.raises(GridstoneError, match="no memory"):
        gridstone.linear(x, w)


def test_a_copy_of_a_transpose_is_refused():
    a, b = (gridstone.quantize(torch.randn(64, 64), "int4", group_size=32) for _ in range(2))
    with pytest.raises(FormatError):
        a.copy_(b.t())


def test_a_slice_of_a_packed_buffer_is_refused(w):
    half = w.replace(w.packed[: w.packed.numel() // 2])
    with pytest.raises(FormatError, match="contiguous bytes"):
        half.dequantize()


def test_scales_that_underflow_are_refused():
    with pytest.raises(FormatError, match="underflows f16"):
        gridstone.quantize((torch.randn(3, 128) * 1e-7).half(), "int8")


def test_positive_weights_are_refused_by_int1():
    with pytest.raises(FormatError, match="no positive weights"):
        gridstone.quantize(torch.rand(3, 128) + 0.1, "int1")


@pytest.mark.parametrize("code", ["int4", "int4:zero", "uint6:zero"])
def test_bf16_scales_keep_half_a_step(code):
    weight = torch.randn(32, 128)
    w = gridstone.quantize(weight, code.split(":")[0] + ":g32:bf16" + (":zero" if "zero" in code else ""))
    step = torch.from_numpy(w.parts().scales).repeat_interleave(32, 1)
    assert bool(((w.dequantize(torch.float64) - weight).abs() <= step * (0.5 + 1e-6)).all())
