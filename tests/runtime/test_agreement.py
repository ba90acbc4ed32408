"""What compiled programs and eager mode, or packed and plain weights, once disagreed in."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import gridstone
from gridstone.ir.errors import SpecError
from tests.runtime.reference import assert_linear


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def weight(n=32, k=32, dtype=torch.float32):
    return gridstone.quantize(torch.randn(n, k, dtype=dtype), "int4:channel")


@pytest.mark.parametrize("rest", ["eager", "aot_eager"])
@pytest.mark.parametrize("look", [lambda w: w, lambda w: w.t()], ids=["as stored", "transposed"])
def test_a_decoded_weight_has_the_same_strides_compiled(look, rest):
    """K=33 is padded in memory. Breaks when a `view` of what `dequantize` gives works in one mode only."""
    w = weight(5, 33)
    decode = lambda x: (look(w).dequantize(), x + 1)  # noqa: E731
    eager, compiled = decode(torch.zeros(1))[0], gridstone.compile(decode, rest=rest)(torch.zeros(1))[0]
    assert eager.stride() == compiled.stride() == look(torch.empty(5, 33)).stride()
    assert torch.equal(eager, compiled)


@pytest.mark.parametrize("residual", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_plain_weight_gives_the_dtype_that_a_packed_one_gives(autocast, residual):
    """A residual that is wider than the result does not widen it, and autocast casts it as the other operands."""
    w = weight(dtype=torch.bfloat16)
    x, r = torch.randn(3, 32).bfloat16(), torch.randn(3, 32).to(residual)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        packed = gridstone.linear(x, w, residual=r, activation="relu")
        plain = gridstone.linear(x, w.dequantize(), residual=r, activation="relu")
    for y in (packed, plain):
        assert_linear(y, x, w, residual=r, activation="relu")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, w: gridstone.linear(x, w, residual=x[:1]), "residual of shape"),
        (lambda x, w: gridstone.linear(x, w, x[0, :3]), "bias of shape"),
        (lambda x, w: gridstone.linear(x[:, :3], w), "does not fit a weight with K=32"),
    ],
)
@pytest.mark.parametrize("rest", ["eager", "aot_eager"])
def test_a_call_that_is_wrong_raises_compiled_even_if_nobody_reads_its_result(call, message, rest):
    """A compiler drops such a call."""
    w = weight()

    def function(x):
        call(x, w)
        return x + 1

    x = torch.randn(3, 32)
    with pytest.raises(SpecError):
        function(x)
    with pytest.raises(Exception, match=message):
        gridstone.compile(function, rest=rest)(x)


@pytest.mark.parametrize("rest", ["eager", "aot_eager"])
def test_a_sum_lies_in_memory_as_the_residual_does(rest):
    """As in eager mode, where the first operand decides. Breaks when a view of the sum works in one mode only."""
    w = weight()
    x, residual = torch.randn(3, 32), torch.randn(32, 3).t()

    def function(x, residual):
        y = residual + F.linear(x, w)
        return y, y.t().view(-1)

    eager, compiled = function(x, residual), gridstone.compile(function, rest=rest)(x, residual)
    assert [y.stride() for y in compiled] == [y.stride() for y in eager] == [(1, 3), (1,)]
    torch.testing.assert_close(compiled, eager)


def test_an_encoder_layer_s_result_lies_in_memory_as_torch_s_does():
    """In evaluation, where torch adds in place. Its input has its last two axes turned."""
    layer = torch.nn.TransformerEncoderLayer(32, 2, 32, batch_first=True, norm_first=True).eval().requires_grad_(False)
    x = torch.randn(2, 32, 3).mT
    want = layer(x).stride()
    assert gridstone.quantize_model(layer, "int4:channel")(x).stride() == want == (96, 32, 1)


@pytest.mark.parametrize("act", [F.relu, lambda y: y.clamp(min=0), lambda y: torch.clamp(y, 0)])
def test_the_gradient_at_zero_is_the_activation_s_own(act):
    """clamp passes a gradient on at its limit, relu does not. Rows of zeros, as padding has, are there exactly."""
    w = weight()

    def gradient(f):
        x = torch.zeros(2, 32, requires_grad=True)
        f(x).sum().backward()
        return x.grad

    function = lambda x: act(F.linear(x, w))  # noqa: E731
    torch.testing.assert_close(gradient(gridstone.compile(function, rest="eager")), gradient(function))


def test_clamp_is_fused_where_no_gradient_is_asked_for():
    w = weight()
    found = gridstone.explain(lambda x: F.linear(x, w).clamp(min=0), torch.randn(3, 32))
    assert [part.key.activation for part, _ in found.matched] == ["relu"]
