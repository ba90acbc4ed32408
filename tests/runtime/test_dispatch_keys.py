"""What tells calls apart: operands, dtypes, targets, policies. Two calls that differ in one are never served as one."""

from __future__ import annotations

import itertools

import pytest
import torch

import gridstone
from gridstone.kernel_cache.host import host_target
from gridstone.runtime.dispatch import DISPATCHER, run_linear
from gridstone.runtime.linear_key import LinearKey, parse_key
from tests.runtime.reference import assert_linear
from tests.runtime.test_dispatch import keep, record

N, K = 48, 64


@pytest.fixture(scope="module")
def w():
    return gridstone.quantize(torch.randn(N, K, generator=torch.Generator().manual_seed(0)), "int4", group_size=32)


def test_calls_that_differ_in_one_thing_are_each_right(w, dispatcher):
    """Every pair of dtypes of x and of what is added, with and without, one after the other in one process.

    Through the library, which needs no build: what is told apart is decided before.
    """
    weight = parse_key(w.call_key("", "exact")).weight
    floats = (torch.float32, torch.bfloat16)
    for x_of, bias_of, residual_of, activation in itertools.product(
        floats, (None, *floats), (None, *floats), ("", "relu")
    ):
        x = torch.randn(3, K).to(x_of)
        bias = None if bias_of is None else torch.randn(N).to(bias_of)
        residual = None if residual_of is None else torch.randn(3, N).to(residual_of)
        key = LinearKey(weight, activation, target="library:torch")
        assert_linear(run_linear(x, w.packed, bias, residual, str(key)), x, w, bias, residual, activation)
    assert len(DISPATCHER.chosen()) == 36


def test_what_is_added_is_part_of_the_problem(w, dispatcher):
    """A kernel that was bound without a bias or a residual is not given one, nor one of another dtype."""
    x, bias, residual = torch.randn(3, K), torch.randn(N), torch.randn(3, N)
    half = bias.bfloat16(), residual.bfloat16()
    for given in ((None, None), (bias, None), (None, residual), (None, half[1]), (half[0], residual)):
        before = [None if operand is None else operand.clone() for operand in given]
        y = gridstone.linear(x, w, given[0], residual=given[1])
        assert all(a is b is None or torch.equal(a, b) for a, b in zip(given, before, strict=True))
        assert_linear(y, x, w, *given)


def test_results_of_two_calls_are_two_tensors(w, dispatcher):
    """Breaks when an output is given once more, or overwritten by the next call."""
    first, second = torch.randn(4, K), torch.randn(4, K)
    one = gridstone.linear(first, w)
    kept = one.clone()
    two = gridstone.linear(second, w)
    assert torch.equal(one, kept)
    assert_linear(two, second, w)


def test_target_and_policy_of_a_call_are_part_of_the_problem(w, empty_cache):
    """A tuned record decides for the policy that reads records, and for the target that it was made for."""
    keep(record(w))
    weight, x = parse_key(w.call_key("", "exact")).weight, torch.randn(1, K)
    chosen = {}
    for tune, target in (("cached", "auto"), ("off", "auto"), ("cached", "cpp:generic"), ("cached", "library:torch")):
        assert_linear(run_linear(x, w.packed, None, None, str(LinearKey(weight, tune=tune, target=target))), x, w)
        chosen[tune, target] = DISPATCHER.chosen()[-1]
    host = str(host_target())
    assert [(made.target, made.why) for made in chosen.values()] == [
        (host, "tuned record"), (host, "default schedule"), ("cpp:generic", "default schedule"),
        ("library:torch", "default schedule"),
    ]  # fmt: skip


def test_a_record_of_another_dtype_serves_no_call_for_this_one(w, empty_cache):
    keep(record(w))
    for dtype, why in ((torch.bfloat16, "default schedule"), (torch.float32, "tuned record")):
        x = torch.randn(1, K).to(dtype)
        assert_linear(gridstone.linear(x, w), x, w)
        assert DISPATCHER.chosen()[-1].why == why
