import pytest
import torch

from gridstone.ir.errors import MismatchError
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache.toolchain_library import library_call
from gridstone.proof.judge import check
from gridstone.tuner.exam import prepare, ragged, sit

SPEC = parse_spec("gemm[x: bf16(16,128), w: int4:g32(64,128)] + bias").with_storage("lane16")


@pytest.mark.parametrize("rows", [2, 3, 5, 16, 33, 64, 1024])
def test_ragged_rows_are_fewer_and_odd(rows):
    assert 1 <= ragged(rows) < rows
    assert ragged(rows) % 2


def test_cases_have_the_spec_s_rows_and_fewer():
    rows = [case.operands.tensors[0].shape[0] for case in prepare(SPEC, (1, 2))]
    assert rows == [16, ragged(16)]


def test_cases_share_the_weight_and_nothing_else():
    """Breaks when packing and decoding a large weight is done once a case."""
    first, second = (case.operands.tensors for case in prepare(SPEC, (1, 2)))
    assert [ours is theirs for ours, theirs in zip(first, second, strict=True)] == [False, True, False]
    assert not torch.equal(first[0][: ragged(16)], second[0])
    assert not torch.equal(first[2], second[2])


def test_it_says_what_the_full_check_says():
    call = library_call(SPEC)
    mine, full = sit(call, prepare(SPEC, (7,))), check(call, SPEC, (7,))
    assert mine == full


@pytest.mark.parametrize(
    "spoil",
    [
        lambda y: y.zero_(),
        lambda y: y.copy_(y.roll(1, 0)),
        lambda y: y.mul_(1.05),
        lambda y: y[-1].fill_(float("nan")),
        lambda y: y[:, -1].fill_(0.0),
    ],
)
def test_wrong_outputs_fail(spoil):
    right = library_call(SPEC)

    def wrong(*tensors, out):
        right(*tensors, out=out)
        spoil(out)
        return out

    with pytest.raises(MismatchError, match=r"gemm\[x: bf16\(16,128\).*with seed 1"):
        sit(wrong, prepare(SPEC, (1, 2)))


def test_a_kernel_for_its_own_rows_only_fails():
    right = library_call(SPEC)

    def stubborn(*tensors, out):
        if tensors[0].shape[0] == 16:
            return right(*tensors, out=out)
        return out

    with pytest.raises(MismatchError, match="with seed 2"):
        sit(stubborn, prepare(SPEC, (1, 2)))


def test_answers_are_remembered_not_the_large_operands():
    case = prepare(SPEC, (1,))[0]
    assert all(values.size == 0 for values in case.operands.values.values())
    assert all(isinstance(tensor, torch.Tensor) for tensor in case.operands.tensors)
