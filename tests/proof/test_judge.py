"""judge and check: every way in which a candidate may misbehave is planted once, beside one that does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gridstone.ir.dtype import f32, round_to
from gridstone.ir.errors import MismatchError
from gridstone.ir.format import Quantized, dequantize
from gridstone.ir.storage import pack, storage
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache.host import host_target
from gridstone.kernel_cache.make import make_kernel
from gridstone.kernel_cache.toolchain_library import library_call
from gridstone.lower.target import parse_target
from gridstone.proof.draws import KINDS
from gridstone.proof.judge import check, judge
from gridstone.proof.operands import Operands, draw_operands, to_tensor
from gridstone.templates.registry import recipes_for

SPEC = parse_spec("gemm[x: bf16(9,128), w: int4:g32(40,128)] + bias + residual").with_storage("lane16")
right = library_call(SPEC)


def after(spoil):
    """A candidate that computes rightly and then does something else."""

    def candidate(*tensors, out):
        right(*tensors, out=out)
        spoil(tensors, out)
        return out

    return candidate


def beside(out, at):
    return torch.as_strided(out, (1,), (1,), out.storage_offset() + at)


def stale(*tensors, out):
    """Right for what it was first called with, whatever it is called with now."""
    if not hasattr(stale, "kept"):
        stale.kept = right(*tensors)
    return out.copy_(stale.kept)


def test_a_right_candidate_is_right():
    verdict = judge(right, SPEC, draw_operands(SPEC, 1))
    assert verdict.right, verdict.problem
    checked = check(right, SPEC, range(4))
    assert checked.cases == 4
    assert 0 < checked.worst_element <= 1
    assert 0 < checked.worst_rms <= 1


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        (after(lambda t, y: beside(y, -1).fill_(0.0)), "1 elements before and 0 after the output were overwritten"),
        (after(lambda t, y: beside(y, -1).fill_(float("nan"))), "1 elements before and 0 after"),
        (after(lambda t, y: beside(y, 9 * 40).fill_(0.0)), "0 elements before and 1 after the output were overwritten"),
        (after(lambda t, y: beside(y, 9 * 40 + 40).fill_(0.0)), "0 elements before and 1 after"),
        (after(lambda t, y: t[0][4, 5].add_(1.0)), "operand x was changed"),
        (after(lambda t, y: t[0][4, 5].neg_()), "operand x was changed"),
        (after(lambda t, y: t[1][77:78].bitwise_xor_(1)), "operand w was changed"),
        (after(lambda t, y: t[2][-1:].mul_(2.0)), "operand bias was changed"),
        (after(lambda t, y: t[3][0].fill_(float("nan"))), "operand residual was changed"),
        (after(lambda t, y: y[8, 39:].fill_(float("nan"))), "1 elements differ in being NaN, first at \\(8, 39\\)"),
        (lambda *tensors, out: out, "360 elements differ in being NaN"),
        (lambda *tensors, out: right(*tensors), "360 elements differ in being NaN"),
        (after(lambda t, y: y.zero_()), "times its bound"),
        (after(lambda t, y: y.copy_(y.roll(1, 0))), "times its bound"),
        (after(lambda t, y: y.copy_(y.roll(1, 1))), "times its bound"),
        (after(lambda t, y: y.mul_(1.05)), "times its bound"),
        (after(lambda t, y: y.sub_(t[3])), "times its bound"),
        (after(lambda t, y: y[:, 32:].zero_()), "times its bound"),
        (after(lambda t, y: y[2, 2].fill_(float("inf"))), "1 infinities differ, first at \\(2, 2\\)"),
    ],
)
def test_a_misbehaving_candidate_is_caught(candidate, message):
    with pytest.raises(MismatchError, match=message):
        check(candidate, SPEC, (11, 12))


def test_a_stale_output_is_caught():
    """Every seed has operands of its own: what was right once is not right again."""
    assert judge(stale, SPEC, draw_operands(SPEC, 21)).right
    with pytest.raises(MismatchError, match="with seed 22"):
        check(stale, SPEC, (21, 22, 23))


def test_sums_that_climb_and_come_back_are_judged_too():
    """Operands of every kind that `draws` makes: the right one passes, and one without a bias does not."""
    for kind in KINDS:
        assert check(right, SPEC, (31,), kind).worst_element <= 1.0
        with pytest.raises(MismatchError, match="times its bound"):
            check(after(lambda t, y: y.sub_(t[2])), SPEC, (31,), kind)


def test_the_message_says_what_to_repeat():
    with pytest.raises(
        MismatchError, match=r"gemm\[x: bf16\(9,128\), w: int4:g32@lane16\(40,128\)\].* with seed 5: element"
    ):
        check(after(lambda t, y: y.zero_()), SPEC, (5,))


def constant(spec, x_value):
    """Operands whose every sum is as large as it can be: constant activations, the largest code, scale 2^-20."""
    weight = spec.input("w")
    n, k = weight.shape
    top = np.full((n, k), (1 << weight.format.bits) - 1, np.uint8)
    parts = Quantized(top, np.full((n, weight.format.groups(k)), 2.0**-20), None)
    packed = torch.from_numpy(pack(storage(weight.storage, weight.format, n, k), parts))
    x = round_to(f32, np.full((spec.input("x").shape[0], k), x_value))
    return Operands((to_tensor(f32, x), packed), {"x": x, "w": dequantize(weight.format, parts)})


class TestRange:
    """What docs/tolerance.md says about sums of codes times activations."""

    spec = parse_spec("gemm[x: f32(2,64), w: uint8:g32:f32(64,64)]").with_storage("lane16")
    limit = f32.largest / (255 * 32)

    @pytest.mark.parametrize("target", ["cpp:generic", str(host_target())])
    def test_kernels_are_right_up_to_the_bound(self, target):
        on = parse_target(target)
        for recipe in recipes_for(self.spec, on):
            if recipe.language is on.language:
                kernel = make_kernel(recipe, self.spec, recipe.space.default(self.spec, on), on)
                verdict = judge(kernel, self.spec, constant(self.spec, 0.999 * self.limit))
                assert verdict.right, f"{recipe.name}: {verdict.problem}"

    def test_an_overflow_beyond_it_is_reported_though_the_result_would_fit(self):
        def codes_first(x, w, out):
            return out.copy_(x @ torch.full((64, 64), 255.0) * 2.0**-20)

        verdict = judge(codes_first, self.spec, constant(self.spec, 1.1 * self.limit))
        assert verdict.problem.startswith("128 infinities differ, first at (0, 0): inf instead of 7.1")
        assert judge(codes_first, self.spec, constant(self.spec, 0.4 * self.limit)).right


def test_nothing_to_compute_is_right():
    spec = parse_spec("gemm[x: bf16(0,128), w: int4:g32(40,128)]").with_storage("lane16")
    assert judge(library_call(spec), spec, draw_operands(spec, 1)).right
