"""Gradients of activations, bias and residual, fused and compiled, against torch's own on the decoded weight."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import gridstone
from tests.runtime.reference import assert_product

N, K = 48, 64
ACTIVATIONS = {
    None: lambda y: y,
    "relu": F.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda y: F.gelu(y, approximate="tanh"),
}


def operands(dtype=torch.float64, shape=(3, 4), seed=1):
    generator = torch.Generator().manual_seed(seed)

    def draw(*extents):
        return torch.randn(*extents, generator=generator).to(torch.float32).to(dtype)

    return draw(*shape, K), draw(N), draw(*shape, N), draw(*shape, N)


def weight(dtype=torch.float32):
    return gridstone.quantize(
        torch.randn(N, K, generator=torch.Generator().manual_seed(0)).to(dtype), "int4", group_size=32
    )


def gradients(layer, x, bias, residual, grad):
    """The output and the gradients of all that is there."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, bias, residual) if t is not None]
    given = iter(leaves)
    y = layer(*(None if t is None else next(given) for t in (x, bias, residual)))
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("given", ["x", "x bias", "x residual", "x bias residual"])
def test_gradients_are_torch_s_on_the_decoded_weight(activation, given):
    """float32, against float64: the activation's derivative is taken at x @ w.T + bias, before the residual."""
    w = weight()
    decoded = w.dequantize(torch.float64)
    x, bias, residual, grad = operands()
    bias, residual = bias if "bias" in given else None, residual if "residual" in given else None

    def ours(x, bias, residual):
        return gridstone.linear(x, w, bias, activation=activation, residual=residual)

    def theirs(x, bias, residual):
        y = ACTIVATIONS[activation](F.linear(x, decoded, bias))
        return y if residual is None else y + residual

    single = [None if t is None else t.float() for t in (x, bias, residual, grad)]
    got, want = gradients(ours, *single), gradients(theirs, x, bias, residual, grad)
    for mine, right in zip(got, want, strict=True):
        torch.testing.assert_close(mine, right.float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_gradient_of_x_is_within_a_product_s_tolerance(dtype):
    w = weight(dtype)
    x, _, _, grad = operands(dtype, (7,))
    for layer in (lambda x, *_: F.linear(x, w), lambda x, *_: x @ w.t(), lambda x, *_: gridstone.linear(x, w)):
        _, gx = gradients(layer, x, None, None, grad)
        assert gx.dtype == dtype
        assert_product(gx, grad, w.dequantize().t().contiguous())


def test_only_what_wants_a_gradient_gets_one():
    w = weight()
    x, bias, residual, grad = operands(torch.float32)
    for at in range(3):
        leaves = [t.clone() for t in (x, bias, residual)]
        leaves[at].requires_grad_()
        gridstone.linear(leaves[0], w, leaves[1], activation="gelu", residual=leaves[2]).backward(grad)
        assert [t.grad is not None for t in leaves] == [i == at for i in range(3)]
    assert gridstone.linear(x, w, bias).requires_grad is False
    with torch.no_grad():
        assert gridstone.linear(x.clone().requires_grad_(), w).requires_grad is False


def test_a_zero_batch_has_gradients():
    w = weight()
    x, bias = torch.randn(0, K).requires_grad_(), torch.randn(N).requires_grad_()
    gridstone.linear(x, w, bias, activation="silu").sum().backward()
    assert x.grad.shape == (0, K)
    assert torch.equal(bias.grad, torch.zeros(N))


def test_bias_and_norm_can_be_trained_around_a_quantised_layer():
    """Fine-tuning what is left in float: the loss falls, the packed weight stays as it is."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(K, K), torch.nn.GELU(), torch.nn.LayerNorm(K), torch.nn.Linear(K, N))
    gridstone.quantize_model(model, "int4", group_size=32)
    before = [layer.weight.packed.clone() for layer in (model[0], model[3])]
    x, target = torch.randn(16, K), torch.randn(16, N)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(trained) == 4
    optimizer = torch.optim.SGD(trained, lr=0.1)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert all(torch.equal(layer.weight.packed, old) for layer, old in zip((model[0], model[3]), before, strict=True))


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down, self.norm = torch.nn.Linear(K, 2 * K), torch.nn.Linear(2 * K, K), torch.nn.LayerNorm(K)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


@pytest.mark.parametrize("rest", ["aot_eager", "inductor"])
def test_training_through_compile(rest):
    """Breaks when a compiled graph loses an op's autograd rule."""
    torch.manual_seed(1)
    model = gridstone.quantize_model(Block(), "int4", group_size=32)
    x = torch.randn(5, K)

    def step(layer):
        model.zero_grad()
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        y.square().mean().backward()
        return [y.detach(), leaf.grad, *(p.grad for p in model.parameters() if p.requires_grad)]

    eager = step(model)
    for mine, right in zip(step(gridstone.compile(model, rest=rest)), eager, strict=True):
        torch.testing.assert_close(mine, right)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layer", ["fused", "operator", "operator of graphs"])
def test_double_backward(layer, activation):
    """Breaks when a second derivative is refused, zero or wrong; the operators are what traced programs hold."""
    w = weight()
    _, bias, _, _ = operands(torch.float32)
    calls = {
        "fused": lambda x: gridstone.linear(x, w, bias, activation=activation),
        "operator": lambda x: torch.ops.gridstone.qlinear(x, w, bias, None, activation or "", "exact"),
        "operator of graphs": lambda x: torch.ops.gridstone.linear(
            x, w.packed, bias, None, w.call_key(activation or "", "exact")
        ),
    }

    def second(f, x):
        x = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(f(x).pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(first.pow(2).sum(), x)[0]

    x = operands(torch.float64, (3,))[0]
    exact = w.dequantize(torch.float64)
    want = second(lambda x: ACTIVATIONS[activation](F.linear(x, exact, bias.double())), x)
    got = second(calls[layer], x.float())
    torch.testing.assert_close(got, want.float(), rtol=1e-4, atol=float(want.abs().max()) * 1e-5)
