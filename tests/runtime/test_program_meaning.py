"""Programs whose meaning a second trace, a fused epilogue or a direct kernel call could change."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import gridstone
from gridstone.ir.errors import FormatError, GridstoneError
from gridstone.runtime.tensors import QuantTensor


@pytest.fixture
def w():
    return gridstone.quantize(torch.randn(64, 128) * 0.1, "int4", group_size=32)


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(function, rest="eager"):
    return gridstone.compile(function, rest=rest)


def leaves_of(function, *inputs):
    """What a function gives, and the gradients of its inputs."""
    inputs = [x.detach().clone().requires_grad_(x.requires_grad) for x in inputs]
    torch.manual_seed(0)
    given = torch.utils._pytree.tree_leaves(function(*inputs))
    sums = [t.double().sum() for t in given if not isinstance(t, QuantTensor) and t.requires_grad]
    if sums:
        sum(sums).backward()
    return [*given, *(x.grad for x in inputs)]


def assert_means_the_same(function, *inputs, rests=("eager", "aot_eager")):
    want = leaves_of(function, *inputs)
    for rest in rests:
        torch._dynamo.reset()
        for a, b in zip(leaves_of(compiled(function, rest), *inputs), want, strict=True):
            assert type(a) is type(b)
            if isinstance(a, QuantTensor):
                assert (a.key, a.axes, a.dtype) == (b.key, b.axes, b.dtype)
                assert torch.equal(a.packed, b.packed)
            elif a is not None:
                assert (a.dtype, a.requires_grad) == (b.dtype, b.requires_grad)
                torch.testing.assert_close(a, b)


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
        gridstone.quantize((torch.randn(3, 128) * 1e-7).half(), "int8:f16")


def test_positive_weights_are_refused_by_int1():
    with pytest.raises(FormatError, match="no positive weights"):
        gridstone.quantize(torch.rand(3, 128) + 0.1, "int1")


@pytest.mark.parametrize("code", ["int4", "int4:zero", "uint6:zero"])
def test_bf16_scales_keep_half_a_step(code):
    weight = torch.randn(32, 128)
    w = gridstone.quantize(weight, code.split(":")[0] + ":g32:bf16" + (":zero" if "zero" in code else ""))
    step = torch.from_numpy(w.parts().scales).repeat_interleave(32, 1)
    assert bool(((w.dequantize(torch.float64) - weight).abs() <= step * (0.5 + 1e-6)).all())


@pytest.mark.parametrize("matched", [True, False])
def test_a_weight_that_is_returned_stays_quantised(w, matched):
    parameter = torch.nn.Parameter(w, requires_grad=False)

    def function(x):
        first = F.relu(F.linear(x, w)) if matched else x
        return first, w.t(), (w.detach(), w), {"half": w.to(torch.bfloat16), "parameter": parameter.t()}

    assert_means_the_same(function, torch.randn(4, 128))


def test_inductor_compiles_what_reads_a_weight_and_is_not_matched(w):
    def function(x):
        with torch.no_grad():
            y = F.relu(F.linear(x, w)) @ w
        return F.linear(x, w).relu(), y, w.t()

    assert_means_the_same(function, torch.randn(4, 128, requires_grad=True), rests=("inductor",))


def test_float64_activations(w):
    wide = w.to(torch.float64)
    assert_means_the_same(lambda x: F.relu(F.linear(x.double(), wide)), torch.randn(4, 128))


def test_casts_of_a_weight_change_what_it_stands_for_and_not_its_codes(w):
    def function(x):
        return x @ w.half().float().t()

    x = torch.randn(4, 128)
    assert torch.equal(compiled(function)(x), function(x))
    assert torch.equal(function(x), F.linear(x, w))
    assert len(gridstone.explain(function, x).matched) == 1


def test_what_follows_a_change_of_a_weight_reads_the_new_codes(w):
    other = gridstone.quantize(torch.randn(64, 128), "int4:g32:f32")

    def function(x, w):
        before, copy = F.linear(x, w), w.clone()
        w.copy_(other)
        return before, F.linear(x, w), F.linear(x, copy)

    x = torch.randn(4, 128)
    want = function(x, w.clone())
    for rest in ("eager", "aot_eager"):
        torch._dynamo.reset()
        given = w.clone()
        for a, b in zip(compiled(function, rest)(x, given), want, strict=True):
            torch.testing.assert_close(a, b)
        assert torch.equal(given.packed, other.packed)


def test_layers_between_switches_of_modes_are_matched(w):
    """Each of them is fused with what follows it up to the next switch, and nothing across one."""

    def function(x):
        with torch.no_grad():
            a = F.relu(F.linear(x, w))
        with torch.autocast("cpu", torch.bfloat16):
            b = F.linear(x, w)
            with torch.autocast("cpu", enabled=False):
                c = F.gelu(F.linear(x, w))
        return a, F.relu(b), c

    x = torch.randn(4, 128, requires_grad=True)
    assert_means_the_same(function, x)
    found = gridstone.explain(function, x)
    assert [part.key.activation for part, _ in found.matched] == ["relu", "", "gelu"]
    assert found.fallbacks == ()


@pytest.mark.parametrize("reentrant", [True, False])
def test_layers_inside_a_checkpoint_are_matched(w, reentrant):
    bias = torch.randn(64)

    def function(x):
        return checkpoint(lambda x, w: F.silu(F.linear(x, w, bias)), x, w, use_reentrant=reentrant) + 1

    x = torch.randn(4, 128, requires_grad=True)
    assert_means_the_same(function, x)
    assert [part.key.activation for part, _ in gridstone.explain(function, x).matched] == ["silu"]


def test_layers_inside_a_branch_are_matched(w):
    def function(x):
        return torch.cond(x.sum() > 0, lambda x: F.relu(F.linear(x, w)), lambda x: -F.linear(x, w), (x,))

    x = torch.ones(4, 128)
    for at in (x, -x):
        want = F.linear(at, w)
        torch.testing.assert_close(compiled(function)(at), want.relu() if at is x else -want)
    assert len(gridstone.explain(function, x).matched) == 2


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.w = w
        return F.relu(F.linear(x, w))

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad @ ctx.w, None


def test_a_custom_backward_that_reads_a_weight(w):
    assert_means_the_same(lambda x: Doubled.apply(x, w) + 1, torch.randn(4, 128, requires_grad=True))


def test_a_transform_of_torch_func_runs_as_in_eager_mode(w):
    def function(x):
        return torch.vmap(lambda row: F.linear(row, w))(x), F.relu(F.linear(x, w))

    x = torch.randn(4, 128)
    assert_means_the_same(function, x)
    found = gridstone.explain(function, x)
    assert len(found.matched) == 1
    assert "a transform of torch.func is applied to it" in str(found)


@pytest.mark.parametrize("change", [lambda y: y.add_(1), lambda y: F.relu(y, inplace=True), lambda y: y[0].mul_(2)])
def test_a_result_of_three_dimensions_may_be_changed_in_place(w, change):
    """Breaks when the op gives a view: autograd then forbids the change."""

    def function(x):
        y = F.linear(x, w)
        change(y)
        return y

    assert_means_the_same(function, torch.randn(2, 3, 128, requires_grad=True))


@pytest.mark.parametrize("change", ["x", "x behind autograd's back", "bias"])
def test_operands_may_change_before_the_backward_pass(w, change):
    """An unfused activation keeps the product for its gradient, a fused one computes it again from x and bias."""

    def function(x):
        x, bias = x * 1, torch.ones(64)
        y = F.silu(F.linear(x, w, bias))
        {"x": x, "bias": bias}.get(change, x.data).mul_(3)
        return y, F.linear(x, w, bias)

    assert_means_the_same(function, torch.randn(4, 128, requires_grad=True))
    assert_means_the_same(function, torch.randn(4, 128))
    first, _ = gridstone.explain(function, torch.randn(4, 128)).matched
    assert first[0].key.activation == "silu"  # without gradients nothing reads them again


@pytest.mark.parametrize("batch_first", [True, False])
def test_layers_hidden_in_attention_are_matched(batch_first):
    """Dynamo sees one call; its dropout must draw the same random numbers."""
    layers = [torch.nn.MultiheadAttention(64, 4, dropout=0.2, batch_first=batch_first) for _ in range(2)]
    first, second = (gridstone.quantize_model(layer, "int8", group_size=32) for layer in layers)

    def function(x):
        y, _ = first(x, x, x)
        return second(y, y, y)

    x = torch.randn(2, 5, 64, requires_grad=True)
    assert_means_the_same(function, x)
    assert len(gridstone.explain(function, x).matched) == 2


def test_dropout_that_does_nothing_leaves_no_second_product(w):
    def function(x):
        residual = F.dropout(torch.ones(4, 64), 0.3, training=True)
        return F.dropout(F.linear(x, w), 0.3, training=False) + residual

    assert_means_the_same(function, torch.randn(4, 128, requires_grad=True))
    assert "+ residual" in str(gridstone.explain(function, torch.randn(4, 128)))
