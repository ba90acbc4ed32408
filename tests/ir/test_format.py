"""Formats: their text, what their codes mean, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridstone.ir.dtype import bf16, f16, f32, f64
from gridstone.ir.errors import FormatError
from gridstone.ir.format import (
    CHANNEL,
    CODES,
    GROUPS,
    SCALES,
    Format,
    Quantized,
    complete_format,
    dequantize,
    parse_format,
)

FORMATS = [
    Format(code, group, scale, zero)
    for code in CODES.values()
    for group in (CHANNEL, *GROUPS)
    for scale in SCALES.values()
    for zero in (False, True)
]


def test_every_format_reads_back_its_own_text() -> None:
    assert len(FORMATS) == 16 * 6 * 3 * 2
    assert [parse_format(str(fmt)) for fmt in FORMATS] == FORMATS
    assert len({str(fmt) for fmt in FORMATS}) == len(FORMATS)


@pytest.mark.parametrize("code", CODES.values(), ids=lambda code: code.name)
def test_every_code_means_its_integer(code) -> None:
    """Signed ones are two's complement, so that int1 is {-1, 0}; unsigned ones start at 0."""
    stored = np.arange(1 << code.bits, dtype=np.uint8)[None]
    values = dequantize(Format(code, CHANNEL), Quantized(stored, np.ones((1, 1)), None))[0]
    half = 1 << (code.bits - 1)
    want = range(-half, half) if code.name.startswith("int") else range(1 << code.bits)
    assert values.tolist() == list(want)
    assert (code.low, code.high) == (want[0], want[-1])


def test_a_value_is_code_less_zero_point_times_the_scale_of_its_group() -> None:
    rng = np.random.default_rng(0)
    codes, zeros = rng.integers(0, 16, (5, 96)).astype(np.uint8), rng.integers(0, 16, (5, 3)).astype(np.uint8)
    scales = rng.uniform(0.5, 2.0, (5, 3))
    values = dequantize(parse_format("uint4:g32:f32:zero"), Quantized(codes, scales, zeros))
    plain = dequantize(parse_format("int4:g32:f32"), Quantized(codes, scales, None))
    for n, k in np.ndindex(5, 96):
        group = k // 32
        assert values[n, k] == (int(codes[n, k]) - int(zeros[n, group])) * scales[n, group]
        assert plain[n, k] == (int(codes[n, k]) - 8) * scales[n, group]


def test_stored_bits_per_weight() -> None:
    assert parse_format("int4:g128").bits_per_weight() == 4 + 16 / 128
    assert parse_format("uint3:g32:f32:zero").bits_per_weight() == 3 + 40 / 32
    assert parse_format("int8:channel").bits_per_weight() == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int44:g128", "did you mean int4"),
        ("int4", "does not state its group (write int4:g128 or int4:channel)"),
        ("int4:zero:f32", "does not state its group (write int4:g128:f32:zero or int4:channel:f32:zero)"),
        ("int4:g17", "group size 17 is not supported"),
        ("int4:g0", "group size 0 is not supported"),
        ("int4:g128:f8", "unknown part 'f8'"),
        ("int4:g128:g64", "states its group twice: 'g128' and 'g64' (leave one of them out)"),
        ("int4:channel:g64", "states its group twice: 'channel' and 'g64'"),
        ("int4:g64:f32:f32", "states its scale dtype twice: 'f32' and 'f32'"),
        ("int4:g64:zero:zero", "states its zero points twice"),
        ("int4:g032", "unknown part 'g032'"),
        ("int\uff14:g128", "unknown format"),
        ("int4:g128\xa0", "unknown part"),
        ("int4:g128:zeros", "did you mean zero"),
        ("int4:g\u00b2", "unknown part"),
        ("int4:g" + "9" * 5000, "unknown part"),
        ("", "unknown format ''"),
    ],
)
def test_a_bad_text_is_refused_with_its_reason(text: str, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_format(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "completed"),
    [
        ("int4", "int4:g64:f32"),
        ("int4:zero", "int4:g64:f32:zero"),
        ("int4:f16", "int4:g64"),
        ("int4:zero:bf16", "int4:g64:bf16:zero"),
        ("int4:g32", "int4:g32"),
        ("int4:channel:zero", "int4:channel:zero"),
    ],
)
def test_what_a_text_leaves_out_may_be_given_beside_it(text: str, completed: str) -> None:
    """A text with a group is a whole format: it means the same here and in `parse_format`."""
    assert str(complete_format(text, 64, f32)) == completed
    with pytest.raises(FormatError, match="group size 17 is not supported"):
        complete_format("int4:zero", 17, f32)


def test_a_bad_shape_is_refused_with_a_remedy() -> None:
    fmt = parse_format("int4:g128")
    with pytest.raises(FormatError, match=r"K=192 is not a multiple of the group size 128 .* 16 or 32 or 64"):
        fmt.check(8, 192)
    with pytest.raises(FormatError, match=r"one per row"):
        fmt.check(8, 7)
    for shape in ((0, 128), (8, 0)):
        with pytest.raises(FormatError, match="has no elements"):
            fmt.check(*shape)
    with pytest.raises(FormatError, match="scales of dtype f64"):
        Format(CODES["int4"], 128, f64)
    parse_format("int4:channel").check(1, 7)
    assert (parse_format("int4:g64").groups(256), parse_format("int4:channel").groups(256)) == (4, 1)
    assert (f16, bf16, f32) == tuple(SCALES.values())


@given(st.text(max_size=30))
def test_no_text_raises_anything_else(text: str) -> None:
    try:
        parse_format(text)
    except FormatError:
        return
