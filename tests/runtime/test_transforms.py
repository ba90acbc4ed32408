"""Derivatives of every kind (torch.func, forward mode, backward twice) are torch's own on the decoded weight."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

import gridstone
from gridstone.ir.errors import SpecError

N, K = 32, 32
W = gridstone.quantize(torch.randn(N, K, generator=torch.Generator().manual_seed(0)), "int4", group_size=32)
WIDE = W.double()
BIAS = torch.randn(N, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
FUSED = {
    f"gridstone.linear {name}": (
        lambda x, name=name: gridstone.linear(x, W, BIAS, activation=name),
        lambda x, act=act: act(F.linear(x, WIDE.dequantize(), BIAS)),
    )
    for name, act in {
        None: lambda y: y, "relu": F.relu, "silu": F.silu, "gelu": F.gelu,
        "gelu_tanh": lambda y: F.gelu(y, approximate="tanh"),
    }.items()
}  # fmt: skip
LAYERS = FUSED | {
    "F.linear": (lambda x: F.linear(x, WIDE, BIAS), lambda x: F.linear(x, WIDE.dequantize(), BIAS)),
    "@": (lambda x: x @ WIDE.t(), lambda x: x @ WIDE.dequantize().t()),
    "@ the other way": (lambda x: x @ WIDE, lambda x: x @ WIDE.dequantize()),
    "einsum": (
        lambda x: torch.einsum("...k,nk->...n", x, WIDE),
        lambda x: torch.einsum("...k,nk->...n", x, WIDE.dequantize()),
    ),
}


def rows(*shape, seed=2):
    return torch.randn(*shape, K, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def forward_dual(f, x, along):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x, along))).tangent


def backward_twice(f, x):
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(f(x).pow(3).sum(), x, create_graph=True)
    return torch.autograd.grad(first.pow(2).sum(), x)[0]


DERIVATIVES = {
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (rows(3, seed=3),))[1],
    "dual numbers": lambda f, x: forward_dual(f, x, rows(3, seed=3)),
    "grad": lambda f, x: torch.func.grad(lambda x: f(x).pow(3).sum())(x),
    "vmap": lambda f, x: torch.vmap(f)(x),
    "vmap of grad": lambda f, x: torch.vmap(torch.func.grad(lambda x: f(x).pow(3).sum()))(x),
    "jacrev": lambda f, x: torch.func.jacrev(f)(x[0]),
    "jacfwd": lambda f, x: torch.func.jacfwd(f)(x[0]),
    "hessian": lambda f, x: torch.func.hessian(lambda x: f(x).pow(3).sum())(x[0]),
    "backward twice": backward_twice,
}


@pytest.mark.parametrize("derivative", DERIVATIVES)
@pytest.mark.parametrize("layer", LAYERS)
def test_derivatives_are_torch_s_on_the_decoded_weight(layer, derivative):
    """float64. Breaks when a tangent is dropped, or a second derivative lacks a term: both would pass in silence."""
    ours, theirs = LAYERS[layer]
    got, want = (DERIVATIVES[derivative](f, rows(3)) for f in (ours, theirs))
    assert got is not None
    assert want.abs().max() > 0.1  # a dropped derivative is no small error
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh"])
def test_second_derivatives_along_every_operand(activation):
    """Numerical, so independent of the rules that both sides above share."""
    x, residual = rows(2).requires_grad_(), rows(2, seed=4).requires_grad_()
    bias = BIAS.clone().requires_grad_()

    def f(x, bias, residual):
        return gridstone.linear(x, W, bias, activation=activation, residual=residual)[:, :3]

    assert torch.autograd.gradcheck(f, (x, bias, residual), fast_mode=True)
    assert torch.autograd.gradgradcheck(f, (x, bias, residual), fast_mode=True)


def test_vmap_along_another_dimension_and_with_a_residual():
    x, residual = rows(5, 2), rows(2, 5, seed=5)
    got = torch.vmap(lambda x, r: gridstone.linear(x, W, BIAS, residual=r), in_dims=(1, 0))(x, residual)
    torch.testing.assert_close(got, F.linear(x.transpose(0, 1), WIDE.dequantize(), BIAS) + residual)


def test_shapes_and_names_are_checked_under_a_transform_too():
    """Its steps would broadcast what a kernel refuses."""
    for call, message in (
        (lambda x: gridstone.linear(x, W, BIAS[:1]), r"bias of shape \(1,\) is not \(32,\) .expand or move it first"),
        (lambda x: gridstone.linear(x, W, residual=BIAS[:1]), r"residual of shape \(1,\) is not \(32,\)"),
        (lambda x: gridstone.linear(x, W, numerics="exakt"), "unknown numerics class 'exakt'"),
    ):
        with pytest.raises(SpecError, match=message):
            torch.vmap(call)(rows(3))


def test_gradients_of_a_model_s_float_parameters():
    """functional_call, as in per-sample gradients: the packed weight is a constant."""
    model = gridstone.quantize_model(torch.nn.Linear(K, N), "int4", group_size=32).double()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    x = rows(3)

    def loss(parameters, x):
        return torch.func.functional_call(model, parameters, (x,)).square().sum()

    got = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(trained, x)
    assert list(got) == ["bias"]
    torch.testing.assert_close(got["bias"], 2 * model(x).detach())


COMPILED = {
    "grad inside": lambda f, make: make(lambda x: torch.func.grad(lambda x: f(x).sum())(x)),
    "jvp inside": lambda f, make: make(lambda x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1]),
    "vmap inside": lambda f, make: make(torch.vmap(f)),
    "dual numbers outside": lambda f, make: lambda x: forward_dual(make(f), x, torch.ones_like(x)),
    "backward twice": lambda f, make: lambda x: backward_twice(make(f), x),
}


@pytest.mark.parametrize("how", COMPILED)
@pytest.mark.parametrize("fused", [True, False])
def test_derivatives_of_compiled_functions(how, fused):
    """Breaks when an operator in a compiled graph has a backward rule only: torch then drops its tangent."""
    torch._dynamo.reset()
    bias = BIAS.float()

    def ours(x):
        return gridstone.linear(x, W, bias, activation="silu") if fused else F.silu(F.linear(x, W, bias))

    def theirs(x):
        return F.silu(F.linear(x, W.dequantize(torch.float64), BIAS))

    got = COMPILED[how](ours, lambda f: gridstone.compile(f, rest="eager"))(rows(3).float())
    want = COMPILED[how](theirs, lambda f: f)(rows(3).float().double())
    torch.testing.assert_close(got, want.float(), rtol=1e-5, atol=float(want.abs().max()) * 1e-5)
