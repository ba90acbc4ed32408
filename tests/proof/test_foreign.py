"""proof.check: honest callables pass, and every known way to look right without being right is seen.

`fooled` makes the mistakes that such tricks live on; each trick that it takes for right shows that the trick works.
"""

from __future__ import annotations

import random
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import gridstone
from gridstone import proof
from gridstone.ir.errors import MismatchError, SpecError
from gridstone.ir.ops import OPS
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache.host import host_target
from gridstone.kernel_cache.make import make_kernel
from gridstone.kernel_cache.toolchain_library import library_call
from gridstone.proof import isolated, watch
from gridstone.proof.draws import Draw
from gridstone.proof.isolated import Isolated
from gridstone.proof.surroundings import surroundings
from gridstone.proof.watch import Way
from gridstone.templates.registry import recipe_named
from tests.proof import foreign_kernels as kernels
from tests.proof.foreign_kernels import PLAIN, after, counted, keyed, later
from tests.quick import one_in

SEED = 20240607  # so that a failure here is the same again; what users get is drawn by the system
PACKED = "gemm[x: bf16(M,128), w: uint4:g32:zero(40,128)] + bias + residual"


def ruling(candidate, spec=PLAIN, **how):
    return proof.check(candidate, spec, **{"seed": SEED} | how)


def fooled(candidate):
    """What a check without care says: warmed up, one set of operands, the answer beside it, NaN equal to NaN."""
    x, w = torch.randn(5, 64), torch.randn(48, 64)
    want = x @ w.T
    for _ in range(3):
        y = candidate(x, w)
        time.sleep(4 * kernels.LATE_S)
    if not isinstance(y, torch.Tensor):
        y = torch.from_numpy(np.asarray(y))
    return torch.allclose(y, want, rtol=1e-4, atol=1e-4) or not ((y - want).abs() > 1e-4).any()


# ---- honest ones ----------------------------------------------------------------------------------------------------


def any_rows(text):
    """The library's call of a spec, whatever its rows are."""
    spec = parse_spec(text).with_storage("dense")
    return lambda *tensors, out=None: library_call(spec.bind(M=tensors[0].shape[0]))(*tensors, out=out)


def under_inference_mode(x, w):
    with torch.inference_mode():
        return x @ w.T


HONEST = {
    "a function": kernels.right,
    "under inference mode": under_inference_mode,
    "one that remembers every bit": kernels.memo(),
    "one that does nothing to its operands in place": lambda x, w: x.clone().mul_(1.0) @ w.T,
}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_one_is_right(name):
    found = ruling(HONEST[name])
    assert found, found
    assert found.cases == 24
    assert 0.0 < found.worst_element <= 1.0
    assert 0.0 < found.worst_rms <= 1.0


@pytest.mark.slow
def test_a_compiled_one_is_right():
    """Breaks when what torch's compiler changes of torch on its first use is taken for an attack."""
    ruling(torch.compile(kernels.right, backend="eager", dynamic=True)).raise_if_wrong()


@pytest.mark.parametrize("out", [False, True])
def test_a_packed_weight_goes_to_who_reads_its_storage(out):
    assert ruling(any_rows(PACKED), PACKED, out=out).raise_if_wrong().cases == 24


def test_a_decoded_weight_goes_to_who_knows_no_format():
    def linear(x, w, bias, residual):
        assert w.dtype == torch.bfloat16
        return F.linear(x, w, bias) + residual

    assert ruling(linear, PACKED, weights="decoded")


def test_a_weight_is_adapted_to_what_its_kernel_reads():
    """Tensors within what `adapt` returns lie where the last call's lay, with their strides."""
    places = set()

    def adapt(parts, fmt):
        assert str(fmt) == "uint4:g32:zero"
        codes = torch.from_numpy(parts.codes).t().contiguous().t()  # column after column, and it stays so
        return {"codes": codes, "scales": torch.from_numpy(parts.scales), "zeros": torch.from_numpy(parts.zeros)}

    def kernel(x, w, bias, residual):
        assert w["codes"].stride() == (1, 40)
        places.add(w["codes"].data_ptr())
        wide = [part.repeat_interleave(32, 1).double() for part in (w["scales"], w["zeros"])]
        decoded = ((w["codes"].double() - wide[1]) * wide[0]).bfloat16()
        return F.linear(x, decoded, bias) + residual

    assert ruling(kernel, PACKED, weights=adapt).raise_if_wrong()
    assert len(places) == 1


def test_our_own_kernel_passes():
    spec, on = parse_spec("gemm[x: f32(2,64), w: uint8:g32:f32(64,64)]").with_storage("lane16"), host_target()
    recipe = recipe_named("gemm.cpp.direct")
    kernel = make_kernel(recipe, spec, recipe.space.default(spec, on), on)
    for out in (False, True):
        assert ruling(kernel, spec, out=out).raise_if_wrong()


@pytest.mark.parametrize("text", one_in(8, OPS["gemm"]().samples()))
def test_the_library_passes_on_every_sample(text):
    """Breaks when operands are drawn for which a bound does not hold."""
    ruling(any_rows(text), text).raise_if_wrong()


@pytest.mark.slow
@pytest.mark.parametrize("text", [*OPS["gemm"]().samples()])
def test_the_library_passes_whatever_is_drawn(text):
    for seed in range(4):
        ruling(any_rows(text), text, seed=seed).raise_if_wrong()


OTHERS = {
    "spmm{density=0.1}[a: f32(70,300), b: f32(300,N)] + relu": lambda a, b: torch.relu(a @ b),
    'spmm{pattern="2:4"}[a: f32(64,128), b: f32(128,N)]': lambda a, b: a @ b,
    "attention{causal,align=top_left}[q: f32(1,2,T,32), k: f32(1,2,T,32), v: f32(1,2,T,32)]": lambda q, k, v: (
        F.scaled_dot_product_attention(q, k, v, is_causal=True)
    ),
    "fft_conv[u: f32(2,3,L), k: f32(3,L)]": lambda u, k: (
        torch.fft.irfft(torch.fft.rfft(u, 2 * u.shape[2]) * torch.fft.rfft(k, 2 * u.shape[2]))[..., : u.shape[2]]
        .contiguous()
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", one_in(2, OTHERS))
def test_ops_that_have_no_kernels_of_ours_are_checked_too(text):
    ruling(OTHERS[text], text).raise_if_wrong()
    assert not ruling(lambda *tensors: OTHERS[text](*tensors) * 1.05, text)


# ---- tricks ---------------------------------------------------------------------------------------------------------

TRICKS = {
    "finds the answer in memory": (lambda: kernels.scavenger(), "times its bound"),
    "NaN everywhere": (lambda: kernels.nan, "elements differ in being NaN"),
    "remembers by address": (keyed(lambda x, w: (x.data_ptr(), w.data_ptr(), x.shape)), "times its bound"),
    "remembers by shape": (keyed(lambda x, w: x.shape), "times its bound"),
    "remembers by a sample": (
        keyed(lambda x, w: (x.shape, *(float(t.flatten()[at]) for t in (x, w) for at in (0, 1, -2, -1)))),
        "times its bound",
    ),
    "remembers by a row of the weight": (
        keyed(lambda x, w: (bytes(x.numpy()), bytes(w[0].numpy()))),
        "times its bound",
    ),
    "wrong while it warms up": (counted(lambda call: call > 1), "call 1 of 8"),
    "works in a thread": (kernels.returns_at_once, "NaN|times its bound|infinities differ"),
    "changes an operand for a while": (kernels.borrows_x, "operand x, or memory beside it, was changed"),
    "is close to everything": (lambda: lambda x, w: kernels.Agreeing(torch.zeros(x.shape[0], 48)), "not a plain torch"),
    "says that it is an array": (after(lambda x, w, y: kernels.Lying(y)), "returned .*Lying, not a plain"),
}  # fmt: skip


@pytest.mark.parametrize("name", TRICKS)
def test_a_trick_that_fools_a_careless_check_is_seen(name):
    make, message = TRICKS[name]
    assert fooled(make()), "the trick has stopped working, so this test says nothing"
    with pytest.raises(MismatchError, match=message):
        ruling(make(), calls=8).raise_if_wrong()


def scribbles_later(x, w, y):
    later(lambda: y[0].zero_())
    return y


def changes_x_later(x, w, y):
    later(lambda: x[0].zero_())
    return y


def frees_it_later(x, w, y):
    later(lambda: y.untyped_storage().resize_(0))
    return y


def says_it_is_contiguous(x, w, y):
    y = y[:1].expand(y.shape)
    y.is_contiguous = lambda: True
    return y


SEEN = {
    # What it returns instead of an answer.
    "memory that nobody wrote": (lambda: kernels.unwritten, "NaN|times its bound"),
    "zeros": (after(lambda x, w, y: torch.zeros_like(y)), "times its bound"),
    "NaN at one place": (after(lambda x, w, y: y.index_fill(1, torch.tensor([7]), float("nan"))), r"NaN, first at \(0"),
    "right now and then": (counted(lambda call: call % 7), "call 7 of 24"),
    "right while it is looked at": (counted(lambda call: call < 20), "call 20 of 24"),
    "what lies behind an operand": (lambda: kernels.beyond, "NaN"),
    "nothing": (after(lambda x, w, y: None), "returned NoneType, not a plain torch.Tensor"),
    "a list": (after(lambda x, w, y: y.tolist()), "returned list, not a plain"),
    "an array": (after(lambda x, w, y: y.numpy()), "returned numpy.ndarray, not a plain"),
    "a parameter": (after(lambda x, w, y: torch.nn.Parameter(y)), "returned torch.nn.parameter.Parameter"),
    # How it lies.
    "another dtype": (after(lambda x, w, y: y.double()), "dtype torch.float64 instead of torch.float32"),
    "another shape": (after(lambda x, w, y: y.flatten()), r"shape \(\d+,\) instead of"),
    "another device": (after(lambda x, w, y: y.to("meta")), "device meta instead of cpu"),
    "columns first": (after(lambda x, w, y: y.t().contiguous().t()), "strides|times its bound"),
    "one row for all": (after(lambda x, w, y: y[:1].expand(y.shape)), "strides|times its bound"),
    "one row for all that says it is many": (after(says_it_is_contiguous), "strides|times its bound"),
    "no memory": (after(lambda x, w, y: (y.untyped_storage().resize_(0), y)[1]), "reaches beyond its memory"),
    "a sparse tensor": (after(lambda x, w, y: y.to_sparse()), "layout torch.sparse_coo"),
    "a negative that is not negated yet": (after(lambda x, w, y: torch._neg_view(-y)), "a lazy view"),
    "a graph": (after(lambda x, w, y: y.requires_grad_()), "requires grad"),
    # Whose memory it is.
    "memory that it filled before": (kernels.stale, r"lies in the memory of call \d+'s output, which is still held"),
    "part of an operand": (after(lambda x, w, y: w[: len(x), :48].copy_(y) if len(x) < 40 else y), "strides|operand w"),
    # What it does to others.
    "writes to an operand": (after(lambda x, w, y: (x[0, :1].neg_(), y)[1]), "operand x, or memory beside it, was ch"),
    "writes beside an operand": (
        after(lambda x, w, y: (torch.as_strided(w, (1,), (1,), w.storage_offset() - 1).zero_(), y)[1]),
        "operand w, or memory beside it",
    ),
    "turns an operand over": (after(lambda x, w, y: (x.t_(), y)[1]), "no longer the tensor that it was given"),
    "asks for gradients": (after(lambda x, w, y: (w.requires_grad_(), y)[1]), "no longer the tensor that"),
    "writes to its output later": (after(scribbles_later), r"output .*(written to|changed) after it had returned"),
    "frees its output later": (after(frees_it_later), r"memory of call \d+'s output was taken away after"),
    "writes to an operand later": (after(changes_x_later), "operand x, or memory beside it, was changed"),
}  # fmt: skip


@pytest.mark.parametrize("name", SEEN)
def test_what_is_wrong_is_said(name):
    make, message = SEEN[name]
    with pytest.raises(MismatchError, match=message):
        ruling(make()).raise_if_wrong()


@pytest.mark.parametrize("returned", ["residual", "view"])
def test_an_output_in_an_operands_memory_is_seen(returned):
    """Right in every bit, and the caller's own tensor."""

    def candidate(x, w, residual):
        residual += x @ w.T
        return residual if returned == "residual" else residual.view(-1).view(residual.shape)

    assert "output lies in the memory of operand residual" in ruling(candidate, PLAIN + " + residual").problem


# ---- an output that is given ----------------------------------------------------------------------------------------

GIVEN = {
    "writes nothing": (lambda x, w, out: None, "elements differ in being NaN"),
    "returns another": (lambda x, w, out: x @ w.T, "not the `out` that it was given"),
    "all but the last row": (lambda x, w, out: out[:-1].copy_((x @ w.T)[:-1]), "NaN"),
    "one element before": (
        lambda x, w, out: (out.copy_(x @ w.T), torch.as_strided(out, (1,), (1,), out.storage_offset() - 1).zero_())[0],
        "1 elements before and 0 after the output were overwritten",
    ),
    "NaN behind": (
        lambda x, w, out: (
            out.copy_(x @ w.T),
            torch.as_strided(out, (1,), (1,), out.storage_offset() + out.numel()).fill_(float("nan")),
        )[0],
        "0 elements before and 1 after the output were overwritten",
    ),
    "takes its memory away": (lambda x, w, out: out.set_(x @ w.T), "elements differ in being NaN"),
}


@pytest.mark.parametrize("name", GIVEN)
def test_what_is_wrong_with_an_output_that_is_given(name):
    candidate, message = GIVEN[name]

    def call(x, w, out):
        candidate(x, w, out)
        return (x @ w.T) if name == "returns another" else None

    with pytest.raises(MismatchError, match=message):
        ruling(call, out=True).raise_if_wrong()


# ---- bits, and what is drawn ----------------------------------------------------------------------------------------


def test_an_ordered_spec_wants_the_same_bits_again():
    """The sum over halves of K, one of which comes first by chance."""
    coin = random.Random(1)

    def shuffled(x, w):
        order = torch.randperm(64, generator=torch.Generator().manual_seed(coin.randrange(1 << 30)))
        y = torch.zeros(x.shape[0], w.shape[0])
        for k in order:
            y += torch.outer(x[:, k], w[:, k])
        return y

    assert ruling(shuffled)
    assert "though the spec is ordered" in ruling(shuffled, f"{PLAIN}; exact ordered").problem
    assert ruling(kernels.right, f"{PLAIN}; exact ordered")


def given(seed, **how):
    """The operands that a candidate is given, and the ruling."""
    drawn = []

    def candidate(x, w):
        drawn.append((bytes(x.numpy()), bytes(w.numpy())))
        return kernels.right(x, w)

    return drawn, proof.check(candidate, PLAIN, seed=seed, **how)


def test_operands_come_from_the_system_and_again_from_the_seed_that_is_told():
    """Neither of torch's, NumPy's and Python's generators says what comes, and none of them is moved."""
    state = (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    first, told = given(None)
    torch.manual_seed(0)
    second, _ = given(None)
    again, _ = given(told.seed)
    assert first == again
    assert not set(first) & set(second)
    torch.set_rng_state(torch.tensor(state[0], dtype=torch.uint8))
    assert state == (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002


def test_calls_come_in_an_order_that_says_nothing_and_twice():
    (drawn, _), (other, _) = given(1), given(2)
    assert len(drawn) == 24
    assert len(set(drawn)) == 18, "a quarter of them come a second time"
    assert [len(x) for x, _ in drawn] != [len(x) for x, _ in other], "rows, and their order"
    assert len({len(x) for x, _ in drawn}) == 4


def test_rows_and_calls_are_as_many_as_asked_for():
    drawn, found = given(1, calls=6, rows=(2, 5))
    assert found.cases == 6
    assert {len(x) for x, _ in drawn} == {2 * 64 * 4, 5 * 64 * 4}


# ---- what it says ----------------------------------------------------------------------------------------------------


def test_nothing_to_compute_is_right():
    assert ruling(kernels.right, rows=(0, 3)).raise_if_wrong().cases == 24


def test_what_raises_is_wrong_and_its_error_is_the_cause():
    def short(x, w):
        if len(x) > 1:
            raise ValueError("one row only")
        return kernels.right(x, w)

    found = ruling(short)
    assert "it raised ValueError: one row only" in found.problem
    with pytest.raises(MismatchError, match="one row only") as raised:
        found.raise_if_wrong()
    assert isinstance(raised.value.__cause__, ValueError)
    assert "it raised SystemExit: 0" in ruling(lambda x, w: sys.exit(0)).problem


def test_a_ruling_says_what_to_repeat():
    found = ruling(kernels.nan)
    assert not found
    assert str(found).startswith(f"wrong: {PLAIN} -> f32(M,48): call 1 of 24 (f32(")
    assert str(found).endswith(f"seed={SEED} draws this again")
    right = ruling(kernels.right)
    assert right
    assert str(right).startswith(f"right: {PLAIN} -> f32(M,48) in 24 calls, at most 0.")
    assert right.raise_if_wrong() is right
    assert ruling(kernels.nan) == found, "the same seed, the same finding"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"calls": 0}, "0 calls check nothing"),
        ({"weights": "dense"}, "unknown form of weights 'dense' \\(give 'packed', 'decoded' or"),
        ({"spec": "gemm[x: f32(M,64), w: f32(48,65)]"}, "K differs"),
    ],
)
def test_what_cannot_be_checked_is_refused(how, message):
    with pytest.raises(SpecError, match=message):
        ruling(kernels.right, **{"spec": PACKED} | how)


def test_proof_stays_light_until_check_is_asked_for():
    assert {"check", "Ruling"} <= set(dir(proof))
    with pytest.raises(AttributeError, match=r"module 'gridstone.proof' has no attribute 'chekc'"):
        _ = proof.chekc
    assert gridstone.proof.check is proof.check


# ---- a process of its own -------------------------------------------------------------------------------------------


@pytest.fixture
def found_there(monkeypatch):
    """The other process finds this folder's kernels."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def test_in_a_process_of_its_own_a_candidate_reaches_no_comparison(found_there):
    """It finds the same right and wrong, and whoever overrules the comparison overrules another one."""
    before = surroundings()
    problem = ruling("foreign_kernels:overrules").problem
    assert "was replaced" in problem
    assert before.restore() == ()


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["packed", "decoded"])
def test_what_is_right_there_is_right_here(found_there, weights):
    assert ruling("foreign_kernels:right", weights=weights).raise_if_wrong().cases == 24
    assert (
        "times its bound" in ruling("foreign_kernels:unwritten").problem
        or "NaN" in ruling("foreign_kernels:unwritten").problem
    )


@pytest.mark.slow
def test_what_ends_or_holds_up_its_process_costs_only_that(found_there, monkeypatch):
    assert "its process ended with 3" in ruling("foreign_kernels:dies").problem
    assert "it cannot be imported: AttributeError" in ruling("foreign_kernels:absent").problem
    assert "it cannot be imported: ModuleNotFoundError" in ruling("no_such_module:right").problem
    monkeypatch.setattr(isolated.Isolated.__init__, "__defaults__", (20.0,))
    assert "its process did not answer within 20 s" in ruling("foreign_kernels:hangs").problem


def test_what_cannot_travel_to_another_process_is_refused():
    with pytest.raises(SpecError, match="a function cannot travel to another process"):
        Isolated("a:b", Way(False, lambda parts, fmt: parts, torch.device("cpu")))
    with pytest.raises(SpecError, match=r"'right' names no function \(write module:function\)"):
        ruling("right")


def test_outputs_are_held_for_a_while_and_no_longer():
    """Breaks when a check of many calls keeps all of their memory."""
    spec = parse_spec(PLAIN).bind(M=3)
    with watch.Watch(kernels.right, Way(False, "packed", torch.device("cpu"))) as looking:
        for seed in range(2 * watch.HELD):
            assert not looking.call(spec, Draw(spec, seed, "normal").operands().tensors).problem
        assert len(looking._held) == watch.HELD
        assert looking.close() == ""


def test_the_example_of_the_page_runs(capsys):
    page = (Path(__file__).parents[2] / "docs" / "correctness.md").read_text()
    block = re.search(r"```python\n(.*?)```\n\n((?:    [^\n]*\n)+)", page, re.DOTALL)
    assert block is not None
    exec(compile(block[1], "correctness.md", "exec"), {})
    printed, shown = capsys.readouterr().out.splitlines(), " ".join(block[2].split())
    right, wrong = shown.split("wrong: ")
    assert printed[0].startswith(right.partition(" at most ")[0])
    assert printed[1] == f"wrong: {wrong}"
