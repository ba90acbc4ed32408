"""explain says what compile would do, and leaves a program's state as it was."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F

import gridstone

N, K = 48, 64
W = gridstone.quantize(torch.randn(N, K, generator=torch.Generator().manual_seed(0)), "int4", group_size=32)
X = torch.randn(6, K, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Noisy(torch.nn.Module):
    """State in running statistics, in a buffer that a graph break separates from them, and in random generators."""

    def __init__(self):
        super().__init__()
        self.linear = gridstone.quantize_model(torch.nn.Linear(K, N), "int4", group_size=32)
        self.norm = torch.nn.BatchNorm1d(N)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        y = F.dropout(self.norm(self.linear(x)), 0.5)
        torch._dynamo.graph_break()
        self.seen += 1
        return y * random.random()


def test_explain_restores_buffers_and_random_generators():
    model = Noisy().train()
    state = {name: t.clone() for name, t in model.named_buffers()}
    versions = {name: t._version for name, t in model.named_buffers()}
    torch.manual_seed(3)
    random.seed(3)
    want = torch.rand(2), random.random()
    torch.manual_seed(3)
    random.seed(3)
    found = gridstone.explain(model, X)
    assert len(found.matched) == 1
    assert found.graphs > 1
    assert torch.equal(torch.rand(2), want[0])
    assert random.random() == want[1]
    assert all(torch.equal(t, state[name]) for name, t in model.named_buffers())
    assert all(t._version == versions[name] for name, t in model.named_buffers())


def test_explain_restores_what_a_function_changes_in_place():
    x, cache = X.clone(), torch.zeros(6, N)
    parameter, w = torch.nn.Parameter(torch.ones(N)), W.clone()
    other = gridstone.quantize(torch.randn(N, K), "int4", group_size=32)

    def function(x):
        y = F.linear(x.add_(1), w, parameter)
        cache.copy_(y)
        parameter.data.mul_(2)
        w.copy_(other)
        return y

    gridstone.explain(function, x)
    assert torch.equal(x, X)
    assert torch.equal(cache, torch.zeros(6, N))
    assert torch.equal(parameter, torch.ones(N))
    assert torch.equal(w.packed, W.packed)


def test_explain_restores_when_the_function_raises():
    x = X.clone()

    def function(x):
        x.zero_()
        torch._dynamo.graph_break()
        raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"):
        gridstone.explain(function, x)
    assert torch.equal(x, X)


def test_what_was_compiled_is_explained_with_its_options():
    model = gridstone.quantize_model(torch.nn.Sequential(torch.nn.Linear(K, N)), "int4", group_size=32)
    for fn in (lambda x: F.linear(x, W), model):
        compiled = gridstone.compile(fn, numerics="bf16", tune="off", rest="eager")
        ((part, _),) = gridstone.explain(compiled, X).matched
        assert (str(part.spec.numerics), part.key.tune) == ("bf16", "off")
        ((part, _),) = gridstone.explain(fn, X).matched
        assert (str(part.spec.numerics), part.key.tune) == ("exact", "cached")


BATCH = torch.randn(2, 6, K, generator=torch.Generator().manual_seed(2))
UNMATCHED = {
    "einsum": ("aten.einsum", lambda x: torch.einsum("bk,nk->bn", x, W), "of what reads a quantised weight"),
    "bmm": ("aten.bmm", lambda x: torch.bmm(BATCH, W.t().expand(2, K, N)), "of what reads a quantised weight"),
    "baddbmm": (
        "aten.baddbmm", lambda x: torch.baddbmm(BATCH[:, :, :N], BATCH, W.t().expand(2, K, N)),
        "of what reads a quantised weight"),
    "mv": ("aten.mv", lambda x: torch.mv(W, x[0]), "of what reads a quantised weight"),
    "addmm with a factor": (
        "aten.addmm", lambda x: torch.addmm(X[:, :N], x, W.t(), alpha=2), "of what reads a quantised weight"),
    "left": ("aten.matmul", lambda x: W @ x.t(), "the quantised weight is the left operand"),
    "decoded": ("aten.linear", lambda x: F.linear(x, W.dequantize()), "the program decodes the weight itself"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNMATCHED)
def test_products_that_are_not_matched_say_why(case):
    op, function, reason = UNMATCHED[case]
    found = gridstone.explain(function, X)
    assert found.matched == ()
    ((part),) = found.fallbacks
    assert part.op == op
    assert reason in part.reason
    torch.testing.assert_close(gridstone.compile(function, rest="aot_eager")(X), function(X))


def test_a_convolution_over_one_position_is_refused_as_in_eager_mode():
    for call in (lambda f, x: f(x), gridstone.explain):
        with pytest.raises(Exception, match=r"convolution\.default is not defined on a quantised weight"):
            call(lambda x: F.conv1d(x.t().unsqueeze(0), W.unsqueeze(-1)), X)
