"""compile as a backend: equal to eager, few recompiles, exportable, and harmless where it cannot help."""

from __future__ import annotations

import logging
import threading

import pytest
import torch
import torch.nn.functional as F

import gridstone
from gridstone.ir.errors import CaptureError, SpecError
from gridstone.runtime import compile as compiling
from gridstone.runtime.compile import Backend
from gridstone.runtime.tensors import QuantTensor
from tests.runtime.reference import assert_linear

K, HIDDEN = 64, 96


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.LayerNorm(K)
        self.up, self.down = torch.nn.Linear(K, HIDDEN), torch.nn.Linear(HIDDEN, K)
        self.q = torch.nn.Linear(K, K, bias=False)

    def forward(self, x):
        h = self.norm(x)
        q = self.q(h)
        x = x + F.scaled_dot_product_attention(q, h, h)
        return x + self.down(F.gelu(self.up(self.norm(x))))


def model_of(seed=0, quantised=True):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(Layer(), Layer()).eval()
    return gridstone.quantize_model(model, "int8", group_size=32) if quantised else model


def decoded(model):
    """The same model with every weight decoded: what PyTorch alone computes."""
    plain = model_of(quantised=False)
    plain.load_state_dict(
        {name: t.dequantize() if isinstance(t, QuantTensor) else t for name, t in model.state_dict().items()}
    )
    return plain


def x_of(*shape, seed=3):
    return torch.randn(*shape, K, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def invocations(monkeypatch):
    """How often Dynamo called the backend."""
    called = []
    real = Backend.__call__
    monkeypatch.setattr(
        Backend, "__call__", lambda self, module, inputs: called.append(module) or real(self, module, inputs)
    )
    return called


@pytest.mark.parametrize("rest", ["eager", "aot_eager", "inductor"])
def test_a_model_gives_what_it_gave(rest):
    """compile, torch.compile by name and eager: the same model within float32's rounding of one another."""
    model, x = model_of(), x_of(2, 5)
    with torch.no_grad():
        want = decoded(model)(x)
        torch.testing.assert_close(model(x), want)
        ours = gridstone.compile(model, rest=rest)(x)
        torch._dynamo.reset()
        by_name = torch.compile(model, backend="gridstone", options={"rest": rest})(x)
    torch.testing.assert_close(ours, want)
    assert torch.equal(ours, by_name)


def test_the_backend_by_name_without_options():
    model, x = model_of(), x_of(5)
    with torch.no_grad():
        got = torch.compile(model[0].up, backend="gridstone")(x)
    assert_linear(got, x, model[0].up.weight, model[0].up.bias.detach())


def test_as_a_decorator_with_and_without_arguments():
    w = gridstone.quantize(torch.randn(48, K), "int4", group_size=32)

    @gridstone.compile
    def bare(x):
        return F.relu(F.linear(x, w))

    @gridstone.compile(rest="eager", dynamic=True)
    def given(x):
        return F.relu(F.linear(x, w))

    for fn in (bare, given):
        assert_linear(fn(x_of(4)), x_of(4), w, activation="relu")


def test_few_compilations_while_batch_and_length_change(invocations):
    """Breaks when a length is baked in: one compilation for each of them."""
    model = model_of()
    compiled = gridstone.compile(model, rest="eager")
    reference = decoded(model)
    with torch.no_grad():
        for batch, length in [
            (2, 5),
            (2, 7),
            (3, 7),
            (3, 9),
            *((b, 2 * n + 1) for b in range(2, 8) for n in range(2, 8)),
        ]:
            x = x_of(batch, length, seed=batch * length)
            torch.testing.assert_close(compiled(x), reference(x))
    assert len(invocations) <= 4, len(invocations)  # static, one extent symbolic, both, and one to spare


def test_dynamic_is_compiled_once(invocations):
    w = gridstone.quantize(torch.randn(48, K), "int4", group_size=32)
    layer = gridstone.compile(lambda x: F.silu(x @ w.t()), dynamic=True, rest="eager")
    for rows in (2, 3, 4, 5, 17, 64, 300):
        assert_linear(layer(x_of(rows)), x_of(rows), w, activation="silu")
    assert len(invocations) == 1


def test_another_weight_of_the_same_type_is_not_baked_in():
    """Breaks when a weight becomes a constant of the graph."""
    fn = gridstone.compile(lambda x, w: F.linear(x, w), rest="eager")
    for seed in range(3):
        torch.manual_seed(seed)
        w = gridstone.quantize(torch.randn(48, K), "int4", group_size=32)
        assert_linear(fn(x_of(4), w), x_of(4), w)
    other = gridstone.quantize(torch.randn(48, K), "uint8:zero", group_size=64)
    assert_linear(fn(x_of(4), other), x_of(4), other)


def test_a_loaded_state_is_seen_by_the_compiled_model():
    model, other = model_of(0), model_of(9)
    compiled = gridstone.compile(model, rest="eager")
    with torch.no_grad():
        compiled(x_of(4, 3))
        model.load_state_dict(other.state_dict())
        torch.testing.assert_close(compiled(x_of(4, 3)), decoded(other)(x_of(4, 3)))


def test_numerics_and_residual_of_an_explicit_call_are_kept():
    w = gridstone.quantize(torch.randn(48, K), "int4", group_size=32)
    r = torch.randn(5, 48)
    fn = lambda x: gridstone.linear(x, w, activation="gelu", residual=r, numerics="bf16")  # noqa: E731
    got = gridstone.compile(fn, rest="eager")(x_of(5))
    assert torch.equal(got, fn(x_of(5)))
    assert_linear(got, x_of(5), w, None, r, "gelu", "bf16")
    (part, _), *_ = gridstone.explain(fn, x_of(5)).matched
    assert str(part.spec.numerics) == "bf16"


def test_autocast_and_inference_mode_through_compile():
    w = gridstone.quantize(torch.randn(48, K), "int4", group_size=32)
    bias = torch.randn(48)
    layer = gridstone.compile(lambda x: F.linear(x, w), rest="eager")
    programs = {
        "relu": lambda x: F.relu(F.linear(x, w, bias)),
        "": lambda x: gridstone.linear(x, w, bias),
        "silu": lambda x: gridstone.linear(x, w, bias, activation="silu"),
    }
    with torch.autocast("cpu", torch.bfloat16):
        assert_linear(layer(x_of(4)), x_of(4).bfloat16(), w)
        for activation, fn in programs.items():
            for rest in ("eager", "aot_eager"):
                y = gridstone.compile(fn, rest=rest)(x_of(4))
                assert y.dtype == fn(x_of(4)).dtype == torch.bfloat16
                assert_linear(y, x_of(4).bfloat16(), w, bias.bfloat16(), activation=activation)
            wants = fn(x_of(4).requires_grad_())
            assert wants.dtype == torch.bfloat16
    assert_linear(layer(x_of(4)), x_of(4), w)
    with torch.inference_mode():
        assert_linear(layer(x_of(4)), x_of(4), w)


@pytest.mark.parametrize(
    ("failure", "said"),
    [(CaptureError("planted failure"), "capture: planted failure"), (KeyError("planted"), "KeyError: 'planted'")],
)
def test_a_graph_that_cannot_be_planned_runs_as_pytorch_with_one_warning(failure, said, monkeypatch, caplog):
    """Whatever fails is ours: the program is right without it."""

    def fail(*args, **kwargs):
        raise failure

    monkeypatch.setattr(compiling, "plan", fail)
    w = gridstone.quantize(torch.randn(48, K), "int4", group_size=32)
    layer = gridstone.compile(lambda x: F.relu(F.linear(x, w)), rest="aot_eager")
    with caplog.at_level(logging.WARNING, "gridstone"):
        for _ in range(3):
            assert_linear(layer(x_of(4)), x_of(4), w, activation="relu")
    texts = [r.getMessage() for r in caplog.records if r.name == "gridstone"]
    assert texts == [f"a graph runs as PyTorch would have run it: {said}"]


@pytest.fixture
def handed(monkeypatch):
    """Each graph and its inputs that went on to the backend for the rest."""
    graphs = []

    def run(module, inputs):
        graphs.append((module, inputs))
        return module

    monkeypatch.setattr(compiling, "lookup_backend", lambda name: run)
    return graphs


def test_a_graph_without_quantised_weights_goes_on_untouched(handed, invocations):
    layer = gridstone.compile(lambda x: torch.softmax(F.linear(x, x), -1), rest="aot_eager")
    layer(x_of(4))
    assert [module for module, _ in handed] == invocations
    assert "softmax" in invocations[0].code


@pytest.mark.parametrize("fused", [True, False])
def test_the_backend_for_the_rest_meets_no_quantised_input(handed, fused):
    w = gridstone.quantize(torch.randn(K, K), "int4", group_size=32)
    program = lambda x: (F.relu(F.linear(x, w)) if fused else x) @ w  # noqa: E731
    got = gridstone.compile(program, rest="aot_eager")(x_of(4))
    torch.testing.assert_close(got, program(x_of(4)))
    (_, inputs), *others = handed
    assert others == []
    assert sorted(str(t.dtype) for t in inputs) == ["torch.float32", "torch.uint8"]
    assert not any(isinstance(t, QuantTensor) for t in inputs)


def test_what_the_other_backend_cannot_compile_runs_eagerly_with_the_reason(monkeypatch, caplog):
    def fail(module, inputs):
        raise NotImplementedError("planted limit")

    monkeypatch.setattr(compiling, "lookup_backend", lambda name: fail)
    w = gridstone.quantize(torch.randn(48, K), "int4", group_size=32)
    layer = gridstone.compile(lambda x: F.relu(F.linear(x, w)), rest="aot_eager")
    assert_linear(layer(x_of(4)), x_of(4), w, activation="relu")
    assert "what is left runs eagerly: aot_eager raised NotImplementedError: planted limit" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tune": 3}, "tune=3 is no name, but int (give tune as a string)"),
        ({"numerics": "bf61"}, "unknown numerics class 'bf61' (did you mean bf16?)"),
        ({"numerics": "int8_act"}, "no recipe computes numerics int8_act yet (use one of exact, tf32, bf16)"),
        ({"rest": "inducto"}, "unknown backend 'inducto' for the rest (did you mean inductor?)"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(SpecError) as raised:
        gridstone.compile(**options)
    assert message in str(raised.value)
    with pytest.raises(Exception, match="SpecError") as raised:
        torch.compile(lambda x: x + 1, backend="gridstone", options=options)(x_of(1))
    assert message in str(raised.value)


def test_an_unknown_option_by_name():
    with pytest.raises(Exception, match=r"unknown option 'nmerics' \(did you mean numerics\?\)"):
        torch.compile(lambda x: x + 1, backend="gridstone", options={"nmerics": "bf16"})(x_of(1))


@pytest.mark.parametrize("by_name", [True, False])
def test_numerics_are_those_of_products_that_name_none(by_name):
    """`F.linear` gets the class that the program was compiled with; a call of ours keeps its own."""
    w = gridstone.quantize(torch.randn(48, K), "int4", group_size=32)
    keys = []

    def keep(module, inputs):
        keys.extend(str(n.args[4]) for n in module.graph.nodes if "gridstone.linear" in str(n.target))
        return module

    fn = lambda x: (F.relu(F.linear(x, w)), x @ w.t(), gridstone.linear(x, w, numerics="exact"))  # noqa: E731
    options = {"numerics": "bf16", "rest": "aot_eager"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiling, "lookup_backend", lambda name: keep)
        if by_name:
            compiled = torch.compile(fn, backend="gridstone", options=options)
        else:
            compiled = gridstone.compile(fn, **options)
        first, second, third = compiled(x_of(5))
    assert [key.split("|")[1:3] for key in keys] == [["relu", "bf16"], ["", "bf16"], ["", "exact"]]
    assert_linear(first, x_of(5), w, activation="relu", numerics="bf16")
    assert_linear(second, x_of(5), w, numerics="bf16")
    assert_linear(third, x_of(5), w)


def test_without_a_compiler_what_is_left_runs_eagerly(monkeypatch, empty_cache, caplog):
    monkeypatch.setenv("GRIDSTONE_CXX", "/nonexistent")
    model, x = model_of(), x_of(2, 3)
    with caplog.at_level(logging.WARNING, "gridstone"), torch.no_grad():
        torch.testing.assert_close(gridstone.compile(model)(x), decoded(model)(x))
    texts = [r.getMessage() for r in caplog.records if r.name == "gridstone"]
    assert sum("what is left runs eagerly" in text for text in texts) == 1
    assert sum("runs through the library" in text for text in texts) == 1
    assert len(texts) == 2


def test_two_python_threads_through_one_compiled_model():
    model = model_of()
    compiled, reference = gridstone.compile(model, rest="eager"), decoded(model)
    with torch.no_grad():
        compiled(x_of(2, 5))
        compiled(x_of(3, 7))
    barrier, wrong = threading.Barrier(2), []

    def work(who):
        try:
            barrier.wait()
            with torch.no_grad():
                for at in range(25):
                    x = x_of(2 + at % 3, 5, seed=100 * who + at)
                    torch.testing.assert_close(compiled(x), reference(x))
        except BaseException as error:
            wrong.append(error)

    both = [threading.Thread(target=work, args=(who,)) for who in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert wrong == []


def gridstone_ops(program):
    return [str(n.target) for n in program.graph_module.graph.nodes if str(n.target).startswith("gridstone.")]


class Explicit(torch.nn.Module):
    def __init__(self, w):
        super().__init__()
        self.w = torch.nn.Parameter(w, requires_grad=False)
        self.bias = torch.nn.Parameter(torch.randn(w.n))

    def forward(self, x):
        return gridstone.linear(x, self.w, self.bias, activation="silu")


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("kind", ["explicit", "a layer"])
def test_export_holds_gridstone_ops_and_runs(kind, strict):
    """An exported program is a graph of ops on plain buffers.

    Breaks when a weight decodes or becomes a constant float.
    """
    w = gridstone.quantize(torch.randn(48, K), "int4", group_size=32)
    if kind == "explicit":
        module = Explicit(w)
        bias, activation = module.bias.detach(), "silu"
    else:
        module = gridstone.quantize_model(torch.nn.Sequential(torch.nn.Linear(K, 48)), "int4", group_size=32)
        w, bias, activation = module[0].weight, module[0].bias.detach(), ""
    rows = torch.export.Dim("rows", min=2, max=512)
    program = torch.export.export(module, (x_of(4),), dynamic_shapes=({0: rows},), strict=strict)
    for m in (4, 7, 300):
        assert_linear(program.module()(x_of(m)).detach(), x_of(m), w, bias, activation=activation)
    lowered = program.run_decompositions()
    assert gridstone_ops(program) + gridstone_ops(lowered) != []
    assert gridstone_ops(lowered) == ["gridstone.linear.default"]
    assert_linear(lowered.module()(x_of(9)).detach(), x_of(9), w, bias, activation=activation)
