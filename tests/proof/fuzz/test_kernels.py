"""The kernel subjects: every fault of a kernel is a problem, and no right kernel is one."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from gridstone.ir.errors import BuildError
from gridstone.kernel_cache.toolchain_library import library_call
from gridstone.proof.fuzz import kernels
from gridstone.proof.fuzz.case import parse_case
from gridstone.proof.fuzz.inputs import SCALES, VALUES, draw_inputs
from gridstone.proof.fuzz.kernels import SUBJECTS, build, problem
from gridstone.proof.fuzz.subject import Failed, Ran, Trying, Wanted

DIRECT = (
    "gemm[x: f32(M,96), w: int4:g32@lane16(33,96)] + bias + residual | gemm.cpp.direct | direct() | cpp:generic | "
    "M=9 seed=3 x_gap=5 x_offset=3 out_gap=7 out_offset=1 residual_gap=2 bias_offset=1"
)
CASE = parse_case(DIRECT)


def right(*tensors, out):
    return library_call(CASE.static)(*tensors, out=out)


def after(change):
    """A candidate that computes what is right and then does this to its operands or its output."""

    def candidate(*tensors, out):
        right(*tensors, out=out)
        change(tensors, out)
        return out

    return candidate


def around(tensor):
    return torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())


def gap_of(tensor, at):
    """The element of the memory behind a view that many elements behind its first."""
    return around(tensor)[tensor.storage_offset() + at :][:1]


def test_a_right_kernel_is_right():
    assert problem(CASE, right, right) == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, y: y.zero_(), "times its bound"),
        (lambda t, y: y.copy_(torch.roll(y, 1, 1)), "times its bound"),
        (lambda t, y: y.copy_(torch.roll(y, 1, 0)), "times its bound"),
        (lambda t, y: y.mul_(0.99), "bound"),
        (lambda t, y: y[3, 4].fill_(float("nan")), "1 elements differ in being NaN, first at \\(3, 4\\)"),
        (lambda t, y: y[3, 4].fill_(float("inf")), "1 infinities differ"),
        (lambda t, y: gap_of(y, 33).fill_(0.0), "1 elements beside the output were overwritten, first 33"),
        (lambda t, y: gap_of(y, -1).fill_(0.0), "1 elements beside the output were overwritten, first -1"),
        (lambda t, y: t[0][0, 0].fill_(1.0), "operand x was changed"),
        (lambda t, y: gap_of(t[0], 96).fill_(1.0), "operand x was changed"),
        (lambda t, y: t[1][5].add_(1), "operand w was changed"),
        (lambda t, y: t[3][0, 0].neg_(), "operand residual was changed"),
    ],
)
def test_what_a_kernel_does_wrong_is_seen(change, message):
    found = problem(CASE, after(change))
    assert re.search(message, found), found


def test_a_dropped_scale_is_seen():
    def unscaled(x, w, bias, residual, out):
        inputs = draw_inputs(CASE)
        scales = np.abs(inputs.operands.values["w"]).max()
        out.copy_(x @ torch.from_numpy(inputs.operands.values["w"] / scales).float().T + bias + residual)

    assert "bound" in problem(CASE, unscaled)


def test_a_second_call_must_give_the_same_bits():
    def other(*tensors, out):
        right(*tensors, out=out)
        out[2, 2] = torch.nextafter(out[2, 2], torch.tensor(torch.inf))

    assert problem(CASE, right, other) == "a second call gives other bits"
    assert problem(CASE, right, None) == ""


def test_float16_accumulation_is_seen():
    """At the K of a large model's layer, as kernels that sum in the operands' dtype do."""
    case = parse_case(
        "gemm[x: f16(M,14336), w: int4:g128@lane16(16,14336)] | gemm.library.torch | torch() | library:torch | M=2"
    )

    def halves(x, w, out):
        weight = torch.from_numpy(draw_inputs(case).operands.values["w"]).half()
        total = torch.zeros(2, 16, dtype=torch.float16)
        for k in range(0, 14336, 16):  # a tile's products summed exactly, tiles in float16
            total += (x[:, k : k + 16].float() @ weight[:, k : k + 16].float().T).half()
        out.copy_(total)

    assert "bound" in problem(case, halves)
    assert problem(case, build(case.kernel).candidate(case)) == ""


def test_what_lies_between_the_elements_is_nan():
    inputs = draw_inputs(CASE)
    x = inputs.operands.tensors[0]
    assert x.stride() == (101, 1)
    assert torch.isnan(gap_of(x, 96))
    assert torch.isnan(gap_of(x, -1))
    assert torch.isfinite(x).all()
    assert inputs.output.stride() == (40, 1)
    assert not inputs.damage()


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("scales", SCALES)
def test_every_kind_of_values_is_exact_and_the_reference_knows_it(dtype, scales):
    """A value that is not exact in its dtype would be another one for the kernel than for the reference."""
    text = DIRECT.replace("x: f32", f"x: {dtype}").replace("M=9", f"M=9 scales={scales}")
    for kind in VALUES:
        case = parse_case(text.replace("M=9", f"M=9 values={kind}"))
        inputs = draw_inputs(case)
        for tensor, exact in zip(inputs.operands.tensors, inputs.operands.values.values(), strict=True):
            if tensor.dtype != torch.uint8:
                assert torch.equal(tensor.double(), torch.from_numpy(exact)), kind
        assert np.isfinite(inputs.operands.values["w"]).all()
        assert problem(case, library_call(case.static)) == "", (kind, scales)


def test_a_plain_weight_is_drawn_too():
    text = "gemm[x: f32(M,7), w: f32(5,7)] | gemm.library.torch | torch() | library:torch | M=3 w_offset=16"
    case = parse_case(text)
    assert problem(case, build(case.kernel).candidate(case)) == ""


def test_nan_and_infinities_are_where_they_are_asked_for():
    inputs = draw_inputs(parse_case(DIRECT.replace("M=9", "M=9 nan=2 inf=1")))
    x = inputs.operands.values["x"]
    assert np.isnan(x).sum() in (1, 2)
    assert np.isinf(x).sum() in (0, 1)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_a_batch_of_every_language_is_right(subject):
    if subject.missing():
        pytest.skip(subject.missing())
    seen = []
    for event in subject.explore(11, Wanted()):
        seen.append(event)
        if sum(isinstance(one, Ran) for one in seen) == 4:
            break
    assert not [one for one in seen if isinstance(one, Failed)]
    ran = [one for one in seen if isinstance(one, Ran)]
    assert len(ran) == 4
    assert {one.row for one in ran} == {ran[0].row}
    tried = [one.case for one in seen if isinstance(one, Trying)]
    assert subject.problem(tried[-1]) == ""


def test_a_wrong_kernel_is_reported_with_its_case(monkeypatch):
    """The case that comes back is wrong again, as long as the kernel is."""
    honest = kernels.build

    def forgetful(kernel, source=None):
        built = honest(kernel, source)

        def candidate(case):
            def call(*tensors, out):
                built.candidate(case)(*tensors, out=out)
                out[3:] = 0.0

            return call

        return replace(built, candidate=candidate)

    monkeypatch.setattr(kernels, "build", forgetful)
    cpp = SUBJECTS[0]
    found = [event for event in cpp.explore(3, Wanted()) if isinstance(event, Failed)]
    assert len(found) == 1
    assert parse_case(found[0].case).call.M > 3
    assert "bound" in cpp.problem(found[0].case)
    monkeypatch.undo()
    assert cpp.problem(found[0].case) == ""


def test_a_kernel_that_cannot_be_built_is_reported(monkeypatch):
    def refuse(kernel, source=None):
        raise BuildError("no")

    monkeypatch.setattr(kernels, "build", refuse)
    (*_, last) = SUBJECTS[0].explore(3, Wanted())
    assert isinstance(last, Failed)
    assert last.problem == "BuildError: build: no"
