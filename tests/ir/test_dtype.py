"""Dtypes: rounding and bits against torch and NumPy, exhaustively where there are 16 bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gridstone.ir.dtype import DTYPES, Kind, bf16, decode, dtype, encode, f16, f32, f64, i8, i32, i64, round_to, u8
from gridstone.ir.errors import SpecError

HALVES = pytest.mark.parametrize("kind", [f16, bf16], ids=str)
ALL_BITS = np.arange(1 << 16, dtype=np.uint16)


def tensor_of(name: str, bits: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(bits.view(np.int16).copy()).view(getattr(torch, name))


@HALVES
class TestEveryPattern:
    def test_decoding_is_torchs(self, kind) -> None:
        carried = ALL_BITS.view(kind.numpy)
        np.testing.assert_array_equal(decode(kind, carried), tensor_of(kind.torch, ALL_BITS).double().numpy())

    def test_encoding_gives_the_bits_back(self, kind) -> None:
        values = decode(kind, ALL_BITS.view(kind.numpy))
        back = encode(kind, values).view(np.uint16)
        nan = np.isnan(values)
        np.testing.assert_array_equal(back[~nan], ALL_BITS[~nan])
        assert np.isnan(decode(kind, back[nan].view(kind.numpy))).all()
        np.testing.assert_array_equal(round_to(kind, values), values)

    def test_ties_go_to_even_and_the_rest_to_the_nearest(self, kind) -> None:
        values = decode(kind, ALL_BITS[: 1 << 15].view(kind.numpy))
        finite = values[np.isfinite(values)]
        below, above = finite[:-1], finite[1:]
        assert (above > below).all()
        middle = (below + above) / 2  # exact in float64
        even = np.where(np.arange(len(below)) % 2 == 0, below, above)
        for sign in (1.0, -1.0):
            np.testing.assert_array_equal(round_to(kind, sign * middle), sign * even)
            np.testing.assert_array_equal(round_to(kind, sign * np.nextafter(middle, 0)), sign * below)
            np.testing.assert_array_equal(round_to(kind, sign * np.nextafter(middle, np.inf)), sign * above)

    def test_overflow_starts_half_a_step_above_the_largest(self, kind) -> None:
        step = kind.largest - decode(kind, encode(kind, [kind.largest]).view(np.uint16).__sub__(1).view(kind.numpy))[0]
        edge = kind.largest + step / 2
        assert round_to(kind, [np.nextafter(edge, 0), edge]).tolist() == [kind.largest, np.inf]
        assert round_to(kind, [-np.inf, -edge]).tolist() == [-np.inf, -np.inf]

    def test_limits_are_torchs(self, kind) -> None:
        known = torch.finfo(getattr(torch, kind.torch))
        assert kind.largest == known.max
        assert 2.0**kind.min_exponent == known.tiny
        assert kind.unit_roundoff == known.eps / 2
        assert kind.smallest_subnormal == decode(kind, np.array([1], np.uint16).view(kind.numpy))[0]


FLOATS = st.floats(width=32)


@given(st.lists(FLOATS, min_size=1, max_size=50))
def test_rounding_of_any_float32_is_torchs(values: list[float]) -> None:
    single = torch.tensor(values, dtype=torch.float32)
    for kind in (f16, bf16):
        want = single.to(getattr(torch, kind.torch)).double().numpy()
        np.testing.assert_array_equal(round_to(kind, single.double().numpy()), want)
        signs = np.signbit(round_to(kind, single.double().numpy())) == np.signbit(want)
        assert (signs | np.isnan(want)).all()


@given(st.lists(st.floats(), min_size=1, max_size=50))
def test_rounding_of_any_float64_to_float32_is_numpys(values: list[float]) -> None:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        want = np.array(values).astype(np.float32).astype(np.float64)
    np.testing.assert_array_equal(round_to(f32, values), want)
    np.testing.assert_array_equal(decode(f32, encode(f32, values)), want)
    np.testing.assert_array_equal(round_to(f64, values), values)


def test_rounding_happens_once() -> None:
    # Half a step of bf16 above 1, and a little that float32 would drop, making a tie of it.
    assert round_to(bf16, [1 + 2**-8 + 2**-40]).tolist() == [1 + 2**-7]
    assert round_to(f16, [1 + 2**-11 + 2**-40]).tolist() == [1 + 2**-10]


@pytest.mark.parametrize("kind", [k for k in DTYPES.values() if k.kind in (Kind.INT, Kind.UINT)], ids=str)
def test_integers_saturate_and_round_to_even(kind) -> None:
    limits = np.iinfo(kind.numpy)
    bits = encode(kind, [-np.inf, np.inf, 0.5, 1.5, 2.5, 3.0])
    assert bits.dtype == np.dtype(kind.numpy)
    assert int(bits[0]) == limits.min
    assert int(bits[1]) == (limits.max if kind.bits < 64 else (1 << 63) - 1024)  # the largest that float64 has
    assert bits[2:].tolist() == [0, 2, 2, 3]
    assert decode(kind, bits)[2:].tolist() == [0, 2, 2, 3]


def test_names_of_torch_are_known() -> None:
    for row in DTYPES.values():
        assert dtype(row.name) is dtype(row.torch) is dtype(f"torch.{row.torch}") is row
        assert isinstance(getattr(torch, row.torch), torch.dtype)
        assert np.dtype(row.numpy).itemsize == row.bytes
    assert (dtype("int8"), dtype("int32"), dtype("int64"), dtype("uint8")) == (i8, i32, i64, u8)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(SpecError, match="did you mean"):
        dtype("bfloat61")
    with pytest.raises(SpecError, match="not real"):
        round_to(dtype("c64"), [0.5])
