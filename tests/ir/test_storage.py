"""Storages: against a writer that follows the module's words bit by bit, for every format."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridstone.ir.dtype import encode, round_to
from gridstone.ir.errors import FormatError, SpecError
from gridstone.ir.format import CHANNEL, CODES, GROUPS, SCALES, Format, Quantized, dequantize, parse_format
from gridstone.ir.layout import IntTuple
from gridstone.ir.storage import STORAGES, Field, Storage, pack, plane_widths, storage, unpack

Bits = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]

PARTS = [f"{code}:{group}" for code in CODES for group in ("channel", *(f"g{group}" for group in GROUPS))]


def draw(fmt: Format, n: int, k: int, seed: int) -> Quantized:
    rng = np.random.default_rng(seed)
    groups = (n, fmt.groups(k))
    return Quantized(
        rng.integers(0, 1 << fmt.bits, (n, k)).astype(np.uint8),
        round_to(fmt.scale, rng.standard_normal(groups)),
        rng.integers(0, 1 << fmt.bits, groups).astype(np.uint8) if fmt.zero else None,
    )


def grid(rows: int, columns: int) -> tuple[Places, Places]:
    return np.arange(rows)[:, None], np.arange(columns)[None, :]


def put(buffer: Bits, at: Places, values: npt.NDArray[np.integer], low: int, width: int) -> None:
    """Write bits [low, low + width) of each value at a bit address, which must be free and in range."""
    values = values.astype(np.int64)
    for bit in range(width):
        places = (at + bit).ravel()
        assert places.min() >= 0
        assert places.max() < buffer.size
        assert (buffer[places] == 2).all()
        assert len(set(places.tolist())) == places.size
        buffer[places] = ((values >> (low + bit)) & 1).ravel()


def padded_codes(fmt: Format, parts: Quantized, rows: int, columns: int) -> npt.NDArray[np.int64]:
    whole = padded(parts.codes, rows, columns, fmt.code.bias)
    if parts.zeros is not None:
        whole[: len(parts.zeros), parts.codes.shape[1] :] = parts.zeros[:, -1:]
    return whole


def padded(values: npt.NDArray[np.integer], rows: int, columns: int, fill: int) -> npt.NDArray[np.int64]:
    whole = np.full((rows, columns), fill, dtype=np.int64)
    whole[: values.shape[0], : values.shape[1]] = values
    return whole


def bits_of_scales(fmt: Format, scales: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    return encode(fmt.scale, scales).view(np.uint32 if fmt.scale.bits == 32 else np.uint16).astype(np.int64)


def up(value: int, multiple: int) -> int:
    return (value + multiple - 1) // multiple * multiple


def write_dense(fmt: Format, parts: Quantized) -> Bits:
    """Rows of LSB-first codes padded to 32 codes, then the scales, then the zero points; each part from 64 bytes on."""
    n, k = parts.codes.shape
    columns, groups = up(k, 32), fmt.groups(k)
    scales_at = up(n * columns * fmt.bits, 512)
    zeros_at = scales_at + up(n * groups * fmt.scale.bits, 512)
    size = zeros_at + (up(n * groups * 8, 512) if fmt.zero else 0)
    buffer = np.full(size, 2, np.uint8)
    row, column = grid(n, columns)
    put(buffer, (row * columns + column) * fmt.bits, padded_codes(fmt, parts, n, columns), 0, fmt.bits)
    row, column = grid(n, groups)
    put(
        buffer,
        scales_at + (row * groups + column) * fmt.scale.bits,
        bits_of_scales(fmt, parts.scales),
        0,
        fmt.scale.bits,
    )
    if parts.zeros is not None:
        put(buffer, zeros_at + (row * groups + column) * 8, parts.zeros, 0, 8)
    return np.packbits(np.where(buffer == 2, 0, buffer), bitorder="little")


def write_lane16(fmt: Format, parts: Quantized) -> Bits:
    """Blocks of 64 rows; in a block group after group, each [planes of codes][64 scales][64 zero points].

    A plane is a run of words per row, 64 rows of the first word, then 64 of the second. In a word even k fill the low
    half and odd k the high half, each pair at the same distance from its half's start.
    """
    n, k = parts.codes.shape
    rows, columns = up(n, 64), up(k, 32) if fmt.group == CHANNEL else k
    groups = fmt.groups(k)
    group = columns // groups
    codes = padded_codes(fmt, parts, rows, columns)
    planes = [width for width in (8, 4, 2, 1) if fmt.bits & width]  # their widths add up to the code's
    words = [-(-group * width // 32) for width in planes]
    group_bits = sum(words) * 64 * 32 + 64 * fmt.scale.bits + (64 * 8 if fmt.zero else 0)
    buffer = np.full(rows // 64 * groups * group_bits, 2, np.uint8)
    row, column = grid(rows, columns)
    start = (row // 64 * groups + column // group) * group_bits
    inside, low = column % group, 0
    for width, count in zip(planes, words, strict=True):
        per_word = min(32 // width, group)
        word, place = inside // per_word, inside % per_word
        bit = place // 2 * width + np.where(place % 2 == 0, 0, 16)
        put(buffer, start + (word * 64 + row % 64) * 32 + bit, codes, low, width)
        start, low = start + count * 64 * 32, low + width
    row, column = grid(rows, groups)
    start = (row // 64 * groups + column) * group_bits + sum(words) * 64 * 32
    scales = padded(bits_of_scales(fmt, parts.scales), rows, groups, 0)
    put(buffer, start + row % 64 * fmt.scale.bits, scales, 0, fmt.scale.bits)
    if parts.zeros is not None:
        put(buffer, start + 64 * fmt.scale.bits + row % 64 * 8, padded(parts.zeros, rows, groups, 0), 0, 8)
    return np.packbits(np.where(buffer == 2, 0, buffer), bitorder="little")


def write_mma16(fmt: Format, parts: Quantized) -> Bits:
    """Chunks of 16 rows, 512 bytes, one after the other along n, then along k; then [scales][zero points], n fastest.

    Lane l of a warp has 16 bytes of a chunk. They hold tiles of 16 k; of a tile, lane l has rows l // 4 and 8 more,
    and k 2 (l % 4), the next, and both 8 further on.
    """
    n, k = parts.codes.shape
    planes = [width for width in (8, 4, 2, 1) if fmt.bits & width]
    rows, columns = up(n, 16), up(k, 256 // min(planes))
    columns = columns if fmt.group == CHANNEL else up(columns, fmt.group)
    groups = 1 if fmt.group == CHANNEL else columns // fmt.group
    scales_at = rows * columns * fmt.bits
    zeros_at = scales_at + up(rows * groups * fmt.scale.bits, 512)
    buffer = np.full(zeros_at + (up(rows * groups * 8, 512) if fmt.zero else 0), 2, np.uint8)
    codes = padded_codes(fmt, parts, rows, columns)
    row, column = grid(rows, columns)
    lane = row % 8 * 4 + column % 8 // 2
    start = low = 0
    for width in planes:
        length = 256 // width  # k of a chunk
        chunk = column // length * (rows // 16) + row // 16
        tile = column % length // 16
        second, upper, far = column % 2, row % 16 // 8, column % 16 // 8
        if width == 8:
            bit = tile * 64 + far * 32 + upper * 16 + second * 8
        else:
            word, place = tile * width // 4, tile % (4 // width)
            bit = word * 32 + second * 16 + (upper + 2 * far + 4 * place) * width
        put(buffer, start + chunk * 4096 + lane * 128 + bit, codes, low, width)
        start, low = start + rows * columns * width, low + width
    row, column = grid(rows, groups)
    scales = padded(bits_of_scales(fmt, parts.scales), rows, groups, 0)
    put(buffer, scales_at + (column * rows + row) * fmt.scale.bits, scales, 0, fmt.scale.bits)
    if parts.zeros is not None:
        put(buffer, zeros_at + (column * rows + row) * 8, padded(parts.zeros, rows, groups, 0), 0, 8)
    return np.packbits(np.where(buffer == 2, 0, buffer), bitorder="little")


WRITERS = {"dense": write_dense, "lane16": write_lane16, "mma16": write_mma16}


def shape_for(fmt: Format, turn: int) -> tuple[int, int]:
    """Ragged everywhere a shape may be."""
    n = (5, 64, 70)[turn % 3]
    return (n, (45, 64, 7)[turn % 3]) if fmt.group == CHANNEL else (n, fmt.group * (1, 2, 3)[turn % 3])


@pytest.mark.parametrize("name", STORAGES)
@pytest.mark.parametrize("text", PARTS)
def test_every_format_packs_as_the_words_say_and_unpacks_to_itself(name: str, text: str) -> None:
    for turn, (scale, zero) in enumerate(itertools.product(SCALES, (False, True))):
        fmt = parse_format(f"{text}:{scale}" + (":zero" if zero else ""))
        n, k = shape_for(fmt, turn)
        parts, place = draw(fmt, n, k, turn), storage(name, fmt, n, k)
        buffer = pack(place, parts)
        assert buffer.dtype == np.uint8
        assert buffer.size == place.bytes
        np.testing.assert_array_equal(buffer, WRITERS[name](fmt, parts))
        back = unpack(place, buffer)
        np.testing.assert_array_equal(back.codes, parts.codes)
        np.testing.assert_array_equal(back.scales, parts.scales)
        if parts.zeros is None:
            assert back.zeros is None
        else:
            np.testing.assert_array_equal(back.zeros, parts.zeros)


def address(shape: IntTuple, stride: IntTuple, at: Places) -> Places:
    """Evaluate one mode of a layout, fastest digit first."""
    if isinstance(shape, int):
        assert isinstance(stride, int)
        return at * stride
    assert isinstance(stride, tuple)
    total = np.zeros_like(at)
    for inner, step in zip(shape, stride, strict=True):
        size = int(np.prod(np.array(flat(inner))))
        total, at = total + address(inner, step, at % size), at // size
    return total


def flat(shape: IntTuple) -> list[int]:
    return [shape] if isinstance(shape, int) else [extent for part in shape for extent in flat(part)]


def addresses(field: Field, rows: int, columns: int) -> Places:
    """Return the first bit of the field at every (row, column)."""
    (down, across), (step, along) = field.layout.shape, field.layout.stride
    return field.base + address(down, step, np.arange(rows))[:, None] + address(across, along, np.arange(columns))


def fields(place: Storage) -> list[tuple[Field, Places]]:
    groups = place.format.groups(place.k)
    small = [place.scales] if place.zeros is None else [place.scales, place.zeros]
    found = [(field, addresses(field, place.rows, place.columns)) for field in place.codes]
    return found + [(field, addresses(field, place.rows, groups)) for field in small]


@pytest.mark.parametrize("name", STORAGES)
@pytest.mark.parametrize("text", PARTS)
def test_fields_do_not_overlap_and_lie_inside(name: str, text: str) -> None:
    for turn, tail in enumerate(("", ":zero", ":f32:zero")):
        fmt = parse_format(text + tail)
        place = storage(name, fmt, *shape_for(fmt, turn))
        assert place.bits % 512 == 0
        used = np.zeros(place.bits, np.int64)
        for field, at in fields(place):
            assert at.min() >= 0
            assert at.max() + field.width <= place.bits
            for bit in range(field.width):
                np.add.at(used, at.ravel() + bit, 1)
        assert used.max() == 1
        assert sum(field.width for field in place.codes) == fmt.bits
        assert [field.shift for field in place.codes] == list(
            itertools.accumulate((field.width for field in place.codes[:-1]), initial=0)
        )


@pytest.mark.parametrize("name", STORAGES)
@pytest.mark.parametrize(
    "text", ["int4:g32", "uint3:g16:f32:zero", "int7:channel", "uint8:channel:zero", "int1:channel"]
)
def test_padding_decodes_to_zero(name: str, text: str) -> None:
    """A kernel reads whole blocks: what lies beyond (N, K) must add nothing."""
    fmt = parse_format(text)
    n, k = (70, 45) if fmt.group == CHANNEL else (70, 96)
    parts, place = draw(fmt, n, k, 1), storage(name, fmt, n, k)
    bits = np.unpackbits(pack(place, parts), bitorder="little")
    groups = place.groups

    def read(field: Field, columns: int) -> npt.NDArray[np.int64]:
        at = addresses(field, place.rows, columns)
        return sum((bits[at + bit].astype(np.int64) << (field.shift + bit) for bit in range(field.width)), np.int64(0))

    codes = sum((read(field, place.columns) for field in place.codes), np.int64(0))
    raw = read(place.scales, groups).astype(np.uint32 if fmt.scale.bits == 32 else np.uint16).view(fmt.scale.numpy)
    spread = place.columns // groups
    zeros = np.full((place.rows, place.columns), fmt.code.bias)
    if place.zeros is not None:
        zeros = np.repeat(read(place.zeros, groups), spread, axis=1)
    values = (codes - zeros) * np.repeat(raw.astype(np.float64), spread, axis=1)
    np.testing.assert_array_equal(values[:n, :k], dequantize(fmt, parts))
    assert not values[n:].any()
    assert not values[:, k:].any()


def test_planes_add_up_to_the_code() -> None:
    for bits in range(1, 9):
        assert sum(plane_widths(bits)) == bits
        assert all(32 % width == 0 for width in plane_widths(bits))


@settings(max_examples=60)
@given(
    name=st.sampled_from(list(STORAGES)),
    text=st.sampled_from(PARTS),
    tail=st.sampled_from(["", ":zero", ":bf16", ":f32:zero"]),
    n=st.integers(1, 140),
    groups=st.integers(1, 5),
    odd=st.integers(1, 131),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape_round_trips(name: str, text: str, tail: str, n: int, groups: int, odd: int, seed: int) -> None:
    fmt = parse_format(text + tail)
    k = odd if fmt.group == CHANNEL else fmt.group * groups
    parts, place = draw(fmt, n, k, seed), storage(name, fmt, n, k)
    buffer = pack(place, parts)
    np.testing.assert_array_equal(dequantize(fmt, unpack(place, buffer)), dequantize(fmt, parts))
    np.testing.assert_array_equal(buffer, WRITERS[name](fmt, parts))


def test_what_cannot_be_stored_is_refused() -> None:
    fmt = parse_format("int4:g128")
    with pytest.raises(SpecError, match=r"unknown storage 'lane61' .*did you mean lane16"):
        storage("lane61", fmt, 64, 128)
    for name in STORAGES:
        with pytest.raises(FormatError, match=r"K=100 is not a multiple of the group size 128"):
            storage(name, fmt, 64, 100)
        with pytest.raises(FormatError, match="has no elements"):
            storage(name, fmt, 0, 128)


@pytest.mark.parametrize("name", STORAGES)
def test_a_buffer_of_another_size_is_refused(name: str) -> None:
    fmt = parse_format("int4:g128")
    place = storage(name, fmt, 64, 128)
    buffer = pack(place, draw(fmt, 64, 128, 0))
    for wrong in (buffer[:-1], buffer[:-64], np.zeros(place.bytes + 3, np.uint8), buffer.view(np.uint32), buffer[None]):
        with pytest.raises(SpecError, match=rf"takes {place.bytes} bytes, not"):
            unpack(place, wrong)


def test_parts_of_another_matrix_are_refused() -> None:
    fmt = parse_format("uint4:g32:zero")
    place, parts = storage("lane16", fmt, 6, 64), draw(fmt, 6, 64, 0)
    for wrong in (
        Quantized(parts.codes, parts.scales, None),
        Quantized(parts.codes[:5], parts.scales, parts.zeros),
        Quantized(parts.codes, parts.scales[:, :1], parts.zeros),
    ):
        with pytest.raises(SpecError, match="has codes, scales and zero points of"):
            pack(place, wrong)
    with pytest.raises(SpecError, match="a code of 19 does not fit uint4:g32:zero"):
        pack(place, Quantized(np.full_like(parts.codes, 19), parts.scales, parts.zeros))
    for wrong in (
        Quantized(parts.codes + np.float32(0.5), parts.scales, parts.zeros),  # pyright: ignore[reportArgumentType]
        Quantized(parts.codes.astype(np.int64), parts.scales, parts.zeros),  # pyright: ignore[reportArgumentType]
        Quantized(parts.codes, parts.scales.astype(np.complex128), parts.zeros),  # pyright: ignore[reportArgumentType]
        Quantized(parts.codes, parts.scales, parts.codes[:, :2].astype(np.float64)),  # pyright: ignore[reportArgumentType]
    ):
        with pytest.raises(SpecError, match="not uint8, floating-point and uint8"):
            pack(place, wrong)
    plain = parse_format("uint4:g32")
    with pytest.raises(SpecError, match="has codes, scales and zero points of"):
        pack(storage("dense", plain, 6, 64), parts)
