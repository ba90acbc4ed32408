"""Buckets of M, and the spec that a kernel is emitted for."""

import pytest

from gridstone.ir.errors import SpecError
from gridstone.ir.text import parse_spec, print_spec
from gridstone.lower.bucket import BUCKETS, bucket, generalize, problem


def test_a_bucket_is_the_smallest_that_holds_the_rows():
    for rows in range(5000):
        holding = [b for b in BUCKETS if b >= rows]
        assert bucket(rows) == (holding[0] if holding else BUCKETS[-1])


def test_a_problem_binds_the_rows_to_their_bucket():
    spec = parse_spec("gemm[x: bf16(M,64), w: int4:g32(70,64)] + residual")
    assert print_spec(problem(spec, 17)) == print_spec(
        parse_spec("gemm[x: bf16(32,64), w: int4:g32(70,64)] + residual")
    )
    assert problem(problem(spec, 17), 3) == problem(spec, 17)


def test_only_m_may_be_symbolic_in_a_problem():
    with pytest.raises(SpecError, match=r"only M may be symbolic here, not B \(bind them first\)"):
        problem(parse_spec("gemm[x: bf16(B,64), w: int4:g32(70,64)]"), 4)


def test_specs_that_differ_in_rows_alone_are_emitted_as_one():
    texts = [f"gemm[x: f32({m},64), w: int4:g32(70,64)] + bias + residual" for m in (1, 64, "M")]
    assert len({generalize(parse_spec(text)) for text in texts}) == 1
    other = generalize(parse_spec("gemm[x: f32(1,64), w: int4:g32(71,64)] + bias + residual"))
    assert other != generalize(parse_spec(texts[0]))
