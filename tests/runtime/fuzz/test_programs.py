"""The fuzz subject of programs: its language, its check (with planted faults), its shrinking, and programs that run."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from gridstone.ir.errors import GridstoneError, SpecError
from gridstone.kernel_cache.host import LIBRARY
from gridstone.proof.fuzz.subject import Failed, Ran, Trying, Wanted
from gridstone.runtime import compile as compiling
from gridstone.runtime import dispatch, match, registration, rewrite
from gridstone.runtime.dispatch import DISPATCHER
from gridstone.runtime.fuzz import programs
from gridstone.runtime.fuzz.bounded_ops import BOUNDED
from gridstone.runtime.fuzz.check import problem_of
from gridstone.runtime.fuzz.draw import draw_program
from gridstone.runtime.fuzz.ops import DECODED, IN_PLACE, OPS
from gridstone.runtime.fuzz.parse import parse_program
from gridstone.runtime.fuzz.programs import PROGRAMS
from gridstone.runtime.fuzz.simpler import simpler_programs

W = "w: int4:g32:f32(32,32) f32"
RIGHT = (
    f"x: f32(M,32); {W}; b: f32(32); r: f32(M,32) gap | a = linear x w b; c = gelu a; d = plus r c | d a | M=3,5",
    f"x: f32(M,32) grad; {W}; b: f32(32) grad | a = linear x w b; c = silu_written a; d = layer_norm c | d | "
    "M=3 rest=aot_eager backward=true",
    f"x: f32(2,M,32) turned; {W} | a = t w; c = matmul x a; d, e = chunk c 2 -1; f = iadd d e; g = softmax c -1 | g f "
    "| M=4,1 dynamic=true by=torch target=library:torch",
    f"x: f32(M,32); y: = x; {W} | a = fused x w - y 'relu' 'exact' @autocast; c = relu_ y; d = type_as a c | d c | M=3",
    "x: bf16(M,32) nan; m: residual(32,32) int4:g32:f32 bf16 gelu | a = call m x; c = dropout a 0.5 | c x | "
    "M=3 held=true target=library:torch",
    f"x: f32(M,32) repeated; {W} | a = linear x w; c = set_columns x 0 4 a | c | M=3",
    f"x: f32(M,32); {W}; b: f32(32) | a = linear x w b; c = view a [M,2,-1]; d = detach c | d a | M=3 by=export",
    "x: f32(M,32) step; z: f32(M,1) | a = times x z; c = gelu_tanh a; d = mean c 0 | d c | M=3 mode=inference",
)


@pytest.fixture(autouse=True)
def no_kernels(request, monkeypatch, dispatcher):
    """Products run through the library, but in slow tests: kernels have checks of their own, and take time to build."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(dispatch, "host_target", lambda: LIBRARY)


def test_the_two_tables_of_calls_are_of_the_same_calls():
    assert set(OPS) == set(BOUNDED) == set(DECODED)
    assert set(IN_PLACE) < set(OPS)


def drawn(count, seed):
    return [draw_program(np.random.default_rng([seed, at]), Wanted()) for at in range(count)]


def test_programs_are_parsed_from_what_they_print():
    programs = [*drawn(40, seed=0), *map(parse_program, RIGHT)]
    assert all(parse_program(str(program)) == program for program in programs)
    assert len({str(program) for program in programs}) == len(programs)


def test_the_same_seed_draws_the_same_program():
    """A case is text, but a campaign that is run again must come by the same ones."""
    assert list(map(str, drawn(5, seed=1))) == list(map(str, drawn(5, seed=1)))


def test_a_run_may_be_restricted_to_formats():
    only = Wanted(formats=("uint3",))
    programs = [str(draw_program(np.random.default_rng(at), only)) for at in range(12)]
    assert any("uint3:" in text for text in programs)
    assert not any("int4" in text or "int8" in text for text in programs)
    assert list(PROGRAMS.explore(0, Wanted(ops=("spmm",)))) == []
    assert list(PROGRAMS.explore(0, Wanted(targets=("cuda",)))) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x: f32(3) | a = relu x | a", "3 parts"),
        ("x: f32(3) | a = relu x | a | M=3 rest=eagre", "eager"),
        ("x: f32(3) | a = relu x | a | M=3 speed=2", "unknown part"),
        ("x: f32(3) | a = relu y | a | M=3", "reads y"),
        ("x: f32(3) | a = rellu x | a | M=3", "relu"),
        ("x: f32(3) | a = relu x 1 | a | M=3", "too many positional"),
        ("x: f32(3) | a = __import__ x | a | M=3", "unknown op"),
        ("x: f32(3) | a = reshape x [os] | a | M=3", "no argument"),
        ("x: f32(3) | a = reshape x [M] | a | M=3", "no tensor has"),
        ("x: f32(999999) | a = relu x | a | M=3", "999999 elements"),
        ("x: f32(3) bent | a = relu x | a | M=3", "unknown word 'bent'"),
        ("x: f32(3); x: f32(3) | a = relu x | a | M=3", "given twice"),
        ("y: = x; x: f32(3) | a = relu x | a | M=3", "names no tensor"),
        ("w: int44:g32(3,32) f32 | a = t w | a | M=3", "int4"),
        ("w: int4:g32(3,33) f32 | a = t w | a | M=3", "multiple"),
        ("m: mlp(3) int4:g32 f32 | a = relu m | a | M=3", "3 positive sizes"),
        ("m: twice(32) int4:channel f32 | a = relu m | m | M=3", "no value"),
    ],
)
def test_what_is_no_program_is_refused(text, message):
    with pytest.raises(GridstoneError, match=message):
        PROGRAMS.problem(text)


@pytest.mark.parametrize("text", RIGHT)
def test_programs_that_are_right(text):
    assert PROGRAMS.problem(text) == ""


def test_drawn_programs_are_right(monkeypatch):
    monkeypatch.setattr(programs, "CASES", 5)
    events = list(PROGRAMS.explore(3, Wanted()))
    assert [event for event in events if isinstance(event, Failed)] == []
    assert sum(event.cases for event in events if isinstance(event, Ran)) == sum(isinstance(e, Trying) for e in events)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_more_drawn_programs_are_right(seed):
    assert [event for event in PROGRAMS.explore(1000 + seed, Wanted()) if isinstance(event, Failed)] == []


# Faults, each planted where it could be made. A program finds it, and is right without it.


def drop_the_residual(monkeypatch):
    real = rewrite._replacement

    def planted(*arguments):
        one = real(*arguments)
        return dataclasses.replace(one, operands=(*one.operands[:3], None))

    monkeypatch.setattr(rewrite, "_replacement", planted)


def take_gelu_for_gelu_tanh(monkeypatch):
    swapped = tuple(dataclasses.replace(p, role="gelu") if p.role == "gelu_tanh" else p for p in match.EPILOGUES)
    monkeypatch.setattr(match, "EPILOGUES", swapped)


def forget_the_bias(monkeypatch):
    """The dispatcher's key no longer tells a call with a bias from one without."""

    class Table(dict):
        def get(self, slot):
            return super().get((*slot[:3], None, *slot[4:]))

        def __setitem__(self, slot, bound):
            super().__setitem__((*slot[:3], None, *slot[4:]), bound)

    monkeypatch.setattr(DISPATCHER, "_table", Table())


def change_the_input(monkeypatch):
    real = compiling.apply

    def planted(plan):
        real(plan)
        for node in plan.module.graph.find_nodes(op="call_function", target=rewrite.LINEAR):
            with node.graph.inserting_after(node):
                node.graph.call_method("mul_", (node.args[0], 2.0))
        plan.module.recompile()

    monkeypatch.setattr(compiling, "apply", planted)


def cross_a_change(monkeypatch):
    monkeypatch.setattr(match, "_mutates_between", lambda *_: False)


def halve_the_gradient(monkeypatch):
    real = registration._bias_grad
    monkeypatch.setattr(registration, "_bias_grad", lambda grad: real(grad) / 2)


def lose_the_dtype(monkeypatch):
    real = rewrite._replacement
    monkeypatch.setattr(rewrite, "_replacement", lambda *a: dataclasses.replace(real(*a), kind=""))


LONG = (
    "x: f32(M,16); w: int4:channel(16,16) f32; r: f32(M,16) | a = linear x w; c = gelu a; d = plus c r; "
    "e = softmax d -1 | e a | M=2"
)
FAULTS = {
    drop_the_residual: f"x: f32(M,32); {W}; r: f32(M,32) | a = linear x w; c = plus a r | c | M=3",
    take_gelu_for_gelu_tanh: f"x: f32(M,32); {W} | a = linear x w; c = gelu_tanh_written a | c | M=3",
    forget_the_bias: f"x: f32(M,32); {W}; b: f32(32) | a = linear x w; c = linear x w b | a c | M=3",
    change_the_input: f"x: f32(M,32); {W} | a = linear x w | a | M=3",
    cross_a_change: f"x: f32(M,32); {W} | a = linear x w; c = mul_ x 2.0; d = relu a | d | M=3",
    halve_the_gradient: f"x: f32(M,32); {W}; b: f32(32) grad | a = linear x w b | a | M=3 backward=true",
    lose_the_dtype: f"x: f32(M,32); {W} | a = linear x w @autocast | a | M=3",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_planted_faults_are_found(fault, monkeypatch, dispatcher):
    assert PROGRAMS.problem(FAULTS[fault]) == ""
    with monkeypatch.context() as patch:
        dispatcher.clear()
        fault(patch)
        assert PROGRAMS.problem(FAULTS[fault]) != ""


def shrunk(case):
    """What a greedy search for simpler programs that are wrong ends at."""
    while True:
        found = next((other for other in PROGRAMS.simpler(case) if PROGRAMS.problem(other)), None)
        if found is None:
            return case
        case = found


def test_a_program_that_is_wrong_is_shrunk(monkeypatch):
    assert PROGRAMS.problem(LONG) == ""
    drop_the_residual(monkeypatch)
    program = parse_program(shrunk(LONG))
    assert [instruction.op for instruction in program.body] == ["linear", "plus"]
    assert program.call.M == (1,)
    assert len(program.given) == 3


def test_simpler_programs_are_programs_and_end():
    """Each is another one, and following the first of them comes to an end."""
    for text in (*RIGHT, LONG, *map(str, drawn(6, seed=2))):
        case, steps = parse_program(text), 0
        while (found := next(simpler_programs(case), None)) is not None:
            assert found != case
            assert parse_program(str(found)) == found
            case, steps = found, steps + 1
            assert steps < 200


def test_a_program_that_raises_must_raise_compiled():
    wrong = f"x: f32(M,31); {W} | a = linear x w | a | M=3"
    assert PROGRAMS.problem(wrong) == ""


def test_what_pytorch_alone_gets_wrong_is_not_ours(monkeypatch):
    """A problem counts only where PyTorch's own compiler, on decoded weights, does not have it."""
    program = parse_program(FAULTS[cross_a_change])
    cross_a_change(monkeypatch)
    assert problem_of(program) != ""
    real = torch.compile

    def wrong(function, **options):
        compiled = real(function, **options)
        return lambda *given: tuple(y + 1 for y in compiled(*given))

    monkeypatch.setattr(torch, "compile", wrong)
    assert problem_of(program) == ""


def test_unknown_cases_are_no_programs():
    with pytest.raises(SpecError):
        PROGRAMS.problem("nothing")
