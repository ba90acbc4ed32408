"""Values with error bounds: exact where torch in float64 is, wide enough, and no wider than they must be."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from gridstone.ir.spec import EXACT
from gridstone.runtime.fuzz.agree import disagreement, memory, stray, strays, trespass, unequal
from gridstone.runtime.fuzz.arithmetic import CURVES
from gridstone.runtime.fuzz.bounded import Bounded, Past, exact
from gridstone.runtime.fuzz.bounded_ops import BOUNDED
from gridstone.runtime.fuzz.gradient import gradients
from gridstone.runtime.fuzz.operands import LAYOUTS, VALUES, decoded, laid_out, make_tensors, make_weights
from gridstone.runtime.fuzz.ops import DECODED, OPS
from gridstone.runtime.fuzz.parse import parse_program
from gridstone.runtime.fuzz.run import eager_function, reference, run

CALLS = {
    "linear": ("x", "w", "b"), "matmul": ("x", "y"), "mv": ("w", "b"), "addmm": ("b", "x", "y", 0.5, 2.0),
    "einsum": ("x", "w"), "transpose": ("x", 0, 1), "permute": ("x", [1, 0]), "reshape": ("x", [-1]), "t": ("x",),
    "flatten": ("x", 0, -1), "unflatten": ("x", -1, [2, 3]), "narrow": ("x", -1, 1, 2), "rows": ("x", 1, 3),
    "columns": ("x", 1, 6, 2), "select": ("x", 0, 1), "unsqueeze": ("x", 1), "expand": ("b", [4, 6]),
    "cat": (0, "x", "x"), "stack": (-1, "x", "x"), "clone": ("x",), "add": ("x", "b", 0.3), "plus": ("x", "b"),
    "minus": (2.0, "x"), "times": ("x", "b"), "over": ("x", 3.0), "neg": ("x",), "relu": ("x",),
    "clamp": ("x", -0.5, 0.5),
    "silu": ("x",), "silu_written": ("x",), "gelu": ("x",), "gelu_written": ("x",), "gelu_tanh": ("x",),
    "gelu_tanh_written": ("x",), "tanh": ("x",), "sigmoid": ("x",), "by_rows": ("x", 2), "softmax": ("x", 0),
    "layer_norm": ("x", "b", "c"), "sum": ("x", 0), "mean": ("x", -1), "fused": ("x", "w", "b", "x", "silu", "exact"),
}  # fmt: skip


def tensors():
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (4, 6), "y": (6, 6), "w": (6, 6), "b": (6,), "c": (6,)}
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


@pytest.mark.parametrize("op", CALLS)
def test_values_and_gradients_are_torch_s(op):
    """In float64, and with a bound that float32 stays within: a wrong rule would hide, or invent, a fault."""
    known = tensors()
    arguments = CALLS[op]
    leaves = {name: value.clone().requires_grad_() for name, value in known.items()}
    y = OPS[op](*(leaves.get(a, a) if isinstance(a, str) else a for a in arguments))
    seed = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).float().double()
    y.backward(seed)

    narrow = {name: value.float().requires_grad_() for name, value in known.items()}
    bounded = {name: exact(value.detach().double(), torch.float32) for name, value in narrow.items()}
    for value in bounded.values():
        value.past = Past()
    z = BOUNDED[op](*(bounded.get(a, a) if isinstance(a, str) else a for a in arguments))
    got = OPS[op](*(narrow.get(a, a) if isinstance(a, str) else a for a in arguments))
    assert stray(got, z) == ""
    torch.testing.assert_close(z.value, y.detach(), rtol=1e-5, atol=1e-6)  # of operands rounded to float32
    got.backward(seed.float())
    found = gradients([(z, exact(seed, torch.float32))], list(bounded.values()))
    for (name, grad), leaf in zip(leaves.items(), found, strict=True):
        assert (grad.grad is None) == (leaf is None) == (narrow[name].grad is None)
        if leaf is not None:
            torch.testing.assert_close(leaf.value, grad.grad, rtol=1e-4, atol=1e-5)
            assert stray(narrow[name].grad, leaf) == ""
            assert float(leaf.bound.max()) < 1e-3 * float(leaf.value.abs().max())


@pytest.mark.parametrize("name", CURVES)
def test_the_constants_of_a_curve_bound_it(name):
    """By a scan in steps of 2^-12, between which a second derivative that is bounded changes little."""
    curve = CURVES[name]
    x = torch.arange(-12.0, 12.0, 2.0**-12, dtype=torch.float64).requires_grad_()
    curve.value(x).sum().backward()
    torch.testing.assert_close(curve.slope(x.detach()), x.grad, rtol=1e-9, atol=1e-12)
    assert float(x.grad.abs().max()) <= curve.steepest
    bend = (x.grad[1:] - x.grad[:-1]).abs() * 2.0**12
    assert 0.98 * curve.bend <= float(bend.max()) <= curve.bend


PROGRAM = parse_program(
    "x: f32(M,32) gap grad; w: int4:g32:f32(32,32) f32; b: f32(32) grad | a = linear x w b; c = gelu a; d = rows c 0 2 "
    "| c d | M=5 backward=true target=library:torch"
)


def outcome(program=PROGRAM):
    weights = make_weights(program)
    return run(lambda: eager_function(program, weights), program, weights, 0, [])


def reference_of(program=PROGRAM):
    return reference(program, make_weights(program), 0, outcome(program))


CONTROLS = {
    "zeros": lambda y: torch.zeros_like(y),
    "shifted by one": lambda y: y.roll(1, -1),
    "rows exchanged": lambda y: y.flip(0),
    "a scale dropped": lambda y: y * 2,
    "a millionth added": lambda y: y + 1e-4,
    "one element": lambda y: torch.cat([y.flatten()[:-1], y.flatten()[-1:] + 1e-3]).reshape(y.shape),
    "not a number": lambda y: torch.where(y == y.max(), torch.nan, y),
    "an infinity": lambda y: torch.where(y == y.max(), torch.inf, y),
    "another dtype": lambda y: y.double(),
    "another shape": lambda y: y[:1],
}


def test_a_right_outcome_agrees():
    got, want = outcome(), reference_of()
    assert strays(got, want) == disagreement(got, outcome()) == unequal(got, outcome()) == ""
    assert trespass(got, outcome(), memory(make_tensors(PROGRAM, 0))) == ""


@pytest.mark.parametrize("control", CONTROLS)
def test_wrong_results_and_gradients_are_seen(control):
    """The negative control of the comparison."""
    right, want = outcome(), reference_of()
    wrong = CONTROLS[control]
    first = dataclasses.replace(right, results=(wrong(right.results[0].detach()), *right.results[1:]))
    assert "result 0" in strays(first, want)
    graded = dataclasses.replace(right, gradients={**right.gradients, "x": wrong(right.gradients["x"])})
    assert "gradient of x" in strays(graded, want)
    changed = dataclasses.replace(right, tensors={**right.tensors, "b": wrong(right.tensors["b"].detach())})
    assert "b afterwards" in strays(changed, want)


FACTS = {
    "strides": lambda y: y.t().contiguous().t(),
    "requires_grad": lambda y: y.detach(),
    "dtype": lambda y: y.double(),
    "shape": lambda y: y[:1],
    "memory": lambda y: y.clone(),
}


@pytest.mark.parametrize("fact", FACTS)
def test_other_disagreements_are_seen(fact):
    right, other = outcome(), outcome()
    wrong = dataclasses.replace(other, results=(FACTS[fact](other.results[0]), other.results[1]))
    assert fact in disagreement(wrong, right)


def test_raising_counts_on_either_side():
    right = outcome()
    raising = dataclasses.replace(right, raised="ValueError: no", results=())
    assert "raises ValueError" in disagreement(raising, right)
    assert "eager mode raises ValueError" in disagreement(right, raising)
    assert disagreement(raising, raising) == ""
    assert "no gradient" in disagreement(dataclasses.replace(right, gradients={"x": None, "b": None}), right)


def test_memory_between_the_elements_of_an_input_counts():
    """The gap between its rows is nobody's to write to."""
    right, before = outcome(), memory(make_tensors(PROGRAM, 0))
    wrong = outcome()
    x = wrong.tensors["x"].detach()
    x.as_strided((1,), (1,), x.shape[-1])[0] = 5.0
    assert "changes x" in trespass(wrong, right, before)


def test_a_last_bit_counts_where_nothing_is_ours():
    right = outcome()
    y = right.results[0].detach().clone()
    y.view(torch.int32)[0, 0] += 1
    wrong = dataclasses.replace(right, results=(y, right.results[1]))
    assert "to the last bit" in unequal(wrong, right)
    assert strays(wrong, reference_of()) == ""


def test_bounds_tell_what_overflows_and_what_must_be_infinite():
    x = torch.tensor([1.0, 65000.0, torch.inf, torch.nan], dtype=torch.float64)
    y = BOUNDED["times"](exact(x, torch.float16), 2.0)
    assert torch.isinf(y.bound).tolist() == [False, True, False, False]
    assert y.bound[2:].tolist() == [0.0, 0.0]
    assert stray(torch.tensor([2.0, torch.inf, torch.inf, torch.nan], dtype=torch.float16), y) == ""
    assert stray(torch.tensor([2.0, torch.inf, 65504.0, torch.nan], dtype=torch.float16), y) != ""
    assert stray(torch.tensor([2.0, torch.inf, torch.inf, 0.0], dtype=torch.float16), y) != ""


def test_zero_is_exact_through_a_product():
    """So that the gradient of relu at 0 is known: rows of zeros are padding."""
    zero = exact(torch.zeros(2, 4, dtype=torch.float64), torch.float32)
    y = BOUNDED["linear"](zero, exact(torch.ones(3, 4, dtype=torch.float64), torch.float32, EXACT))
    assert float(y.bound.max()) == 0.0


def test_a_change_in_place_reaches_views():
    x = exact(torch.ones(2, 4, dtype=torch.float64), torch.bfloat16)
    half = BOUNDED["columns"](x, 0, 2)
    BOUNDED["mul_"](x, 0.3)
    assert half.value.unique().tolist() == [0.3]
    assert float(half.bound.min()) > 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_hold_the_values_and_nothing_else(layout):
    """Elements lie apart from each other, but for those that are repeated; between them lies a mark."""
    program = parse_program(f"x: f32(3,1,4) {layout} | a = clone x | a | M=1")
    x = make_tensors(program, 0)["x"]
    offset, strides = laid_out(layout, (3, 1, 4))
    assert (x.storage_offset(), x.stride()) == (offset, strides)
    places = {int((torch.tensor(strides) * at).sum()) for at in torch.cartesian_prod(*map(torch.arange, x.shape))}
    assert len(places) == (4 if layout == "repeated" else 12)
    assert not (x == 77).any()
    assert (memory({"x": x})["x"].view(torch.float32) == 77).sum() == x.untyped_storage().nbytes() // 4 - len(places)


@pytest.mark.parametrize("values", VALUES)
def test_values_are_drawn_as_they_are_called(values):
    x = make_tensors(parse_program(f"x: f32(8,8) {values} | a = clone x | a | M=1"), 0)["x"]
    assert int(x.isnan().sum()) == (values == "nan")
    assert int(x.isinf().sum()) == (values == "inf")
    assert bool((x == 0).any()) == (values in ("zeros", "blank"))


def test_decoded_weights_are_plain():
    program = parse_program("w: int4:g32:f32(32,32) f16; m: head(16,32) int8:g32:f32 f32 | a = t w | a | M=1")
    plain = decoded(make_weights(program))
    assert type(plain["w"]) is torch.Tensor
    assert all(type(p.data) is torch.Tensor for p in plain["m"].parameters())
    assert DECODED["dequantize"](plain["w"]).dtype == torch.float16


def test_a_value_without_a_past_has_no_gradient():
    assert gradients([], [Bounded(torch.zeros(1), (torch.zeros(1), torch.zeros(1)), torch.float32)]) == [None]
