"""Patterns: every spelling is matched and computed right, and what only looks alike is left to PyTorch."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import gridstone
from gridstone.runtime.patterns.linear import BASES, EPILOGUES

N, K = 48, 64


def weight(seed=0):
    return gridstone.quantize(torch.randn(N, K, generator=torch.Generator().manual_seed(seed)), "int4", group_size=32)


W, WT = weight(), weight(7)
BIAS = torch.randn(N, generator=torch.Generator().manual_seed(2))
R = torch.randn(2, 3, N, generator=torch.Generator().manual_seed(3))
X = torch.randn(2, 3, K, generator=torch.Generator().manual_seed(4))
FLAT = X.reshape(6, K)


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def explained(fn, *args):
    return gridstone.explain(fn, *args)


def assert_same(fn, x, decoded):
    """The compiled function gives what the original gives on decoded weights."""
    got = gridstone.compile(fn, rest="eager")(x)
    torch.testing.assert_close(got, decoded)


def steps_of(found):
    """What was fused, as the spec spells it."""
    from gridstone.ir.text import print_spec

    texts = [print_spec(part.spec).split("]")[1].split("->")[0].split("+")[1:] for part, _ in found.matched]
    return [[step.split(":")[0].strip() for step in steps] for steps in texts]


LINEAR = {
    "F.linear": (lambda x: F.linear(x, W), lambda x, w: F.linear(x, w), X, False),
    "F.linear bias": (lambda x: F.linear(x, W, BIAS), lambda x, w: F.linear(x, w, BIAS), X, True),
    "@ t()": (lambda x: x @ W.t(), lambda x, w: x @ w.t(), X, False),
    "@ T": (lambda x: x @ W.T, lambda x, w: x @ w.t(), X, False),
    "@ mT": (lambda x: x @ W.mT, lambda x, w: x @ w.t(), X, False),
    "@ transpose": (lambda x: x @ W.transpose(0, 1), lambda x, w: x @ w.t(), X, False),
    "@ permute": (lambda x: x @ W.permute(1, 0), lambda x, w: x @ w.t(), X, False),
    "matmul": (lambda x: torch.matmul(x, W.transpose(-2, -1)), lambda x, w: x @ w.t(), X, False),
    "mm": (lambda x: torch.mm(x, W.t()), lambda x, w: x @ w.t(), FLAT, False),
    "addmm": (lambda x: torch.addmm(BIAS, x, W.t()), lambda x, w: torch.addmm(BIAS, x, w.t()), FLAT, True),
    "@ then + bias": (lambda x: x @ W.t() + BIAS, lambda x, w: x @ w.t() + BIAS, X, True),
    "bias + @": (lambda x: BIAS + x @ W.t(), lambda x, w: x @ w.t() + BIAS, X, True),
    "gridstone.linear": (lambda x: gridstone.linear(x, W, BIAS), lambda x, w: F.linear(x, w, BIAS), X, True),
}


@pytest.mark.parametrize("spelling", LINEAR)
def test_spellings_of_a_linear_layer(spelling):
    fn, plain, x, has_bias = LINEAR[spelling]
    found = explained(fn, x)
    assert steps_of(found) == [["bias"] if has_bias else []]
    assert found.fallbacks == ()
    assert_same(fn, x, plain(x, W.dequantize()))


def tanh_by_hand(y):
    return 0.5 * y * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (y + 0.044715 * torch.pow(y, 3.0))))


ACTIVATIONS = {
    "F.relu": ("relu", F.relu),
    "torch.relu": ("relu", torch.relu),
    "relu method": ("relu", lambda y: y.relu()),
    "clamp": ("relu", lambda y: y.clamp(min=0)),
    "clamp float": ("relu", lambda y: y.clamp(min=0.0)),
    "nn.ReLU": ("relu", torch.nn.ReLU()),
    "F.silu": ("silu", F.silu),
    "x sigmoid": ("silu", lambda y: y * torch.sigmoid(y)),
    "sigmoid x": ("silu", lambda y: y.sigmoid() * y),
    "F.gelu": ("gelu", F.gelu),
    "gelu by erf": ("gelu", lambda y: y * 0.5 * (1.0 + torch.erf(y / math.sqrt(2.0)))),
    "gelu tanh": ("gelu_tanh", lambda y: F.gelu(y, approximate="tanh")),
    "gelu tanh by hand": ("gelu_tanh", tanh_by_hand),
}


@pytest.mark.parametrize("spelling", ACTIVATIONS)
def test_spellings_of_an_activation(spelling):
    name, act = ACTIVATIONS[spelling]
    found = explained(lambda x: act(F.linear(x, W, BIAS)), X)
    assert steps_of(found) == [["bias", name]]
    assert_same(lambda x: act(F.linear(x, W, BIAS)), X, act(F.linear(X, W.dequantize(), BIAS)))


@pytest.mark.parametrize(
    "spell", [lambda y, r: y + r, lambda y, r: r + y, lambda y, r: torch.add(y, r), lambda y, r: y.add(r)]
)
@pytest.mark.parametrize("act", ["F.silu", "gelu by erf"])
def test_a_residual_is_fused_from_either_side(spell, act):
    fn = lambda x: spell(ACTIVATIONS[act][1](F.linear(x, W, BIAS)), R)  # noqa: E731
    found = explained(fn, X)
    assert steps_of(found) == [["bias", ACTIVATIONS[act][0], "residual"]]
    assert_same(fn, X, spell(ACTIVATIONS[act][1](F.linear(X, W.dequantize(), BIAS)), R))


def test_every_pattern_has_a_spelling_here():
    """A new pattern brings its test: the roles above are all there are."""
    assert {p.role for p in EPILOGUES} == {"bias", "residual", *(name for name, _ in ACTIVATIONS.values())}
    assert {p.role for p in BASES} == {"linear", "transposed"}
    assert len(EPILOGUES) == 10
    assert len(BASES) == 8


def test_dropout_outside_training_is_the_identity():
    fn = lambda x: F.dropout(F.relu(F.linear(x, W)), 0.5, training=False)  # noqa: E731
    assert steps_of(explained(fn, X)) == [["relu"]]
    assert_same(fn, X, F.relu(F.linear(X, W.dequantize())))


D, DT = W.dequantize(), WT.dequantize()
NEAR = {
    "activation's input used elsewhere": (
        lambda x: (y := F.linear(x, W)).relu() + y.sum(), lambda x: (y := F.linear(x, D)).relu() + y.sum(), []),
    "product used elsewhere": (
        lambda x: (y := x @ W.t()) + BIAS - y, lambda x: (y := x @ D.t()) + BIAS - y, []),
    "residual that is broadcast": (
        lambda x: F.relu(F.linear(x, W)) + R[:1], lambda x: F.relu(F.linear(x, D)) + R[:1], ["relu"]),
    "residual of rows": (lambda x: F.linear(x, W) + R[..., :1], lambda x: F.linear(x, D) + R[..., :1], []),
    "residual with a factor": (
        lambda x: torch.add(F.linear(x, W), R, alpha=2), lambda x: torch.add(F.linear(x, D), R, alpha=2), []),
    "residual that is the product": (lambda x: (y := F.linear(x, W)) + y, lambda x: (y := F.linear(x, D)) + y, []),
    "clamp at another bound": (lambda x: F.linear(x, W).clamp(min=0.1), lambda x: F.linear(x, D).clamp(min=0.1), []),
    "clamp from both sides": (
        lambda x: F.linear(x, W).clamp(min=0, max=6), lambda x: F.linear(x, D).clamp(min=0, max=6), []),
    "gelu with another constant": (
        lambda x: (y := F.linear(x, W)) * 0.5 * (1.0 + torch.erf(y / 1.5)),
        lambda x: (y := F.linear(x, D)) * 0.5 * (1.0 + torch.erf(y / 1.5)), []),
    "gelu with another factor": (
        lambda x: (y := F.linear(x, W)) * 0.6 * (1.0 + torch.erf(y / math.sqrt(2.0))),
        lambda x: (y := F.linear(x, D)) * 0.6 * (1.0 + torch.erf(y / math.sqrt(2.0))), []),
    "sigmoid of something else": (
        lambda x: F.linear(x, W) * torch.sigmoid(R), lambda x: F.linear(x, D) * torch.sigmoid(R), []),
    "swiglu": (
        lambda x: F.silu(F.linear(x, W)) * F.linear(x, WT), lambda x: F.silu(F.linear(x, D)) * F.linear(x, DT), ["silu", []]),  # noqa: E501
    "two activations": (lambda x: F.relu(F.silu(F.linear(x, W))), lambda x: F.relu(F.silu(F.linear(x, D))), ["silu"]),
    "bias after the activation": (
        lambda x: F.relu(F.linear(x, W)) + BIAS, lambda x: F.relu(F.linear(x, D)) + BIAS, ["relu"]),
    "a bias that is a row of the batch": (
        lambda x: x @ W.t() + R[0, 0].reshape(1, 1, N), lambda x: x @ D.t() + R[0, 0].reshape(1, 1, N), []),
    "a second bias": (lambda x: F.linear(x, W, BIAS) + BIAS, lambda x: F.linear(x, D, BIAS) + BIAS, ["bias"]),
    "dropout in training": (
        lambda x: F.dropout(F.linear(x, W), 0.0, training=True), lambda x: F.dropout(F.linear(x, D), 0.0, training=True), []),  # noqa: E501
    "a residual that depends on the result": (
        lambda x: (y := F.linear(x, W)) + y.mean(), lambda x: (y := F.linear(x, D)) + y.mean(), []),
    "leaky": (lambda x: F.leaky_relu(F.linear(x, W)), lambda x: F.leaky_relu(F.linear(x, D)), []),
    "the residual of another product": (
        lambda x: F.linear(x, W) + F.linear(x, WT), lambda x: F.linear(x, D) + F.linear(x, DT), ["residual", []]),
    "a bias of one element": (lambda x: F.linear(x, W) + BIAS[:1], lambda x: F.linear(x, D) + BIAS[:1], []),
    "x changed before the activation": (
        lambda x: ((x := x * 1), (y := F.linear(x, W)), x.add_(1), F.relu(y))[3],
        lambda x: ((x := x * 1), (y := F.linear(x, D)), x.add_(1), F.relu(y))[3], []),
    "the residual changed before it is added": (
        lambda x: ((r := R * 1), (y := F.linear(x, W).relu()), r.mul_(2), y + r)[3],
        lambda x: ((r := R * 1), (y := F.linear(x, D).relu()), r.mul_(2), y + r)[3], ["relu"]),
    "the result changed in place": (
        lambda x: F.linear(x, W).relu_().add_(1), lambda x: F.linear(x, D).relu_().add_(1), []),
    "result that is also returned": (
        lambda x: ((y := F.linear(x, W)), F.relu(y)), lambda x: ((y := F.linear(x, D)), F.relu(y)), []),
}  # fmt: skip


@pytest.mark.parametrize("case", NEAR)
def test_near_misses_are_computed_as_written(case):
    """The product is ours, what does not fit is PyTorch's.

    Breaks when a match covers a value that is used elsewhere.
    """
    fn, plain, fused = NEAR[case]
    found = explained(fn, X)
    assert steps_of(found) == ([[step] if isinstance(step, str) else step for step in fused] or [[]])
    assert_same(fn, X, plain(X))


W64 = W.to(torch.float64)


def test_a_bias_that_widens_the_result_is_added_by_pytorch():
    """A fused bias would store bfloat16 where the program has float32."""
    fn = lambda x: F.linear(x.bfloat16(), W.bfloat16()) + BIAS  # noqa: E731
    got = gridstone.compile(fn, rest="eager")(X)
    assert got.dtype == torch.float32
    assert torch.equal(got, fn(X))
    assert steps_of(explained(fn, X)) == [[]]


FALLBACKS = {
    "a plain weight": (
        lambda x: F.linear(x, BIAS.expand(N, N)[:, :1].expand(N, K)),
        "the weight is a plain float32 tensor",
    ),
    "along N": (lambda x: F.linear(x, W) @ W, "the product runs along N of the stored weight"),
    "two activations": (lambda x: x @ x.transpose(-1, -2), "not a product of activations with a quantised weight"),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x, x), "no recipe for attention yet"),
    "fft": (lambda x: torch.fft.rfft(x).real, "no recipe for fft_conv yet"),
    "float64": (lambda x: F.linear(x.double(), W64), "activations of float64"),
}


@pytest.mark.parametrize("case", FALLBACKS)
def test_what_stays_with_pytorch_says_why(case):
    fn, reason = FALLBACKS[case]
    found = explained(fn, X)
    assert any(reason in part.reason for part in found.fallbacks), found
    assert reason in str(found)
    torch.testing.assert_close(gridstone.compile(fn, rest="eager")(X), fn(X))


def test_a_program_without_any_of_our_families_has_no_fallbacks():
    found = explained(lambda x: torch.softmax(x, -1) + 1, X)
    assert (found.matched, found.fallbacks) == ((), ())


def test_explain_names_node_spec_choice_and_source():
    layer = gridstone.quantize_model(torch.nn.Linear(K, N), "int4", group_size=32)
    found = explained(lambda x: F.gelu(layer(x)), FLAT)
    text = str(found)
    assert text.startswith("1 matched, 0 left to PyTorch, 1 graph(s)")
    for part in (
        "gemm[x: f32(M,64), w: int4:g32:f32@lane16(48,64)] + bias",
        "gelu",
        "M=6: gemm.cpp.",
        "default schedule",
    ):
        assert part in text
    (source,) = found.sources
    assert "gemm[x: f32(M,64)" in source.text
    assert found.breaks == ()


def test_explain_counts_graphs_and_says_why_they_break():
    def broken(x):
        y = F.linear(x, W)
        torch._dynamo.graph_break()
        return F.linear(x, WT) + y

    found = explained(broken, X)
    assert found.graphs == 2
    assert len(found.matched) == 2
    assert len(found.breaks) >= 1
    assert "graph break" in str(found)


def test_explain_reads_what_was_compiled_already():
    model = gridstone.quantize_model(torch.nn.Linear(K, N), "int4", group_size=32)
    compiled = gridstone.compile(model, rest="eager")
    compiled(X)
    assert len(explained(compiled, X).matched) == 1
    decorated = gridstone.compile(lambda x: F.linear(x, W), rest="eager")
    assert len(explained(decorated, X).matched) == 1


def test_explain_can_be_asked_again_and_again():
    """Breaks when asking counts as recompiling, and Dynamo gives up after its limit."""
    fn = lambda x: F.relu(F.linear(x, W))  # noqa: E731
    first = str(explained(fn, X))
    for _ in range(20):
        assert str(explained(fn, X)) == first


def test_explain_leaves_inputs_and_gradients_alone():
    x = X.clone().requires_grad_()
    explained(lambda x: F.linear(x, W).sum(), x)
    assert x.grad is None
    assert torch.equal(x, X)
