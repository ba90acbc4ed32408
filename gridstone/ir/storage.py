"""Storage: where the bits of a quantised matrix lie. One map from (n, k) to a bit address serves every use of it.

A stored matrix is one buffer of 32-bit little-endian words. Its parts (planes of the codes, scales, zero points) are
`Field`s: a `Layout` from (n, k) to a bit address. Packing, unpacking, partial decoding and re-packing all read the
same layouts, broken down once into `Move`s: strided copies of one bit field, which NumPy and torch run alike.

Three storages exist:

- `dense`: row after row, codes as one LSB-first bit stream along K (rows padded to 32 codes), then all scales, then
  all zero points (one byte each), every part starting at a multiple of 64 bytes. The exchange form.
- `lane16`: what every C++ kernel reads, whatever M is. N is cut into blocks of 64 = 4 tiles x 16 lanes; a block holds
  its groups one after the other, each as [codes][64 scales][64 zero points], so that a kernel streams one contiguous
  run. A lane owns 32-bit words; word bits hold 32/width codes of one n, even k in the low half and odd k in the high
  half, so that shifting a vector of words by j * width leaves the pair (k=2j, k=2j+1) in the low bits of each 16-bit
  half: the operand order of the bf16 dot product, and one `vpermw` away from it. Widths that do not divide 32 are cut
  into planes of 4, 2 and 1 bits, low plane first.
- `mma16`: what every GPU kernel reads. The codes lie in the order in which the lanes of a warp hold the A operand of
  mma.m16n8k16 (`ir/fragment.py`), which is also how a warp holds its 16 rows of wgmma's: a chunk is 16 rows of n by as
  many k as make 16 bytes a lane, so that one load brings a lane what it multiplies, with no exchange between lanes. In
  a word the two k of a register lie 16 bits apart (8 for codes of 8 bits), so that a mask after a shift leaves a
  register's pair. Chunks follow each other along n, then k. Then come all scales, n fastest, then all zero points.
  Rows are padded to 16, columns to the longest chunk; padded groups have scales of zero.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gridstone.ir.dtype import decode, encode
from gridstone.ir.errors import SpecError, nearest
from gridstone.ir.format import CHANNEL, Format, Quantized
from gridstone.ir.layout import Layout
from gridstone.ir.pages import zeroed

WORD = 32
BLOCK_N = 64
LANES = 16
ZERO_BITS = 8
MMA_ROWS = 16
LANE_BITS = 128  # of a chunk of `mma16`: one load of a lane
CHUNK_BITS = 32 * LANE_BITS

Words = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Field:
    """A bit field of every element: bits [shift, shift + width) of the value at (n, k) start at base + layout(n, k)."""

    base: int
    shift: int
    width: int
    layout: Layout


@dataclass(frozen=True, slots=True)
class Move:
    """A strided copy of `width` bits between words and elements, for every index of `extents`.

    word, word_strides: First word and the step in words along each axis.
    element, element_strides: First element and the step along each axis in the row-major array of elements.
    word_shift, element_shift: Position of the bits in the word and in the element.
    """

    extents: tuple[int, ...]
    word: int
    word_strides: tuple[int, ...]
    word_shift: int
    element: int
    element_strides: tuple[int, ...]
    element_shift: int
    width: int


@dataclass(frozen=True, slots=True)
class Storage:
    """The stored form of one (n, k) matrix in one format.

    Args:
        name: `dense`, `lane16` or `mma16`.
        format: What the values mean.
        n, k: Logical shape.
        rows, columns: Padded shape of the codes.
        groups: Scale groups of a row as stored, padded ones included.
        codes: Planes of the code, low bits first.
        scales, zeros: Fields over (row, group).
        bits: Size of the buffer in bits, a multiple of 512.
    """

    name: str
    format: Format
    n: int
    k: int
    rows: int
    columns: int
    groups: int
    codes: tuple[Field, ...]
    scales: Field
    zeros: Field | None
    bits: int

    @property
    def words(self) -> int:
        """Size of the buffer in 32-bit words."""
        return self.bits // WORD

    @property
    def bytes(self) -> int:
        """Size of the buffer in bytes."""
        return self.bits // 8


def plane_widths(bits: int) -> tuple[int, ...]:
    """Widths of the planes of a code in lane16, low bits first.

    >>> [plane_widths(b) for b in (3, 4, 7, 8)]
    [(2, 1), (4,), (4, 2, 1), (8,)]
    """
    if bits == 8:
        return (8,)
    return tuple(width for width in (4, 2, 1) if bits & width)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _dense(fmt: Format, n: int, k: int) -> Storage:
    columns, groups = _round_up(k, WORD), fmt.groups(k)
    row_bits = columns * fmt.bits
    scales = _round_up(n * row_bits, 512)
    zeros = scales + _round_up(n * groups * fmt.scale.bits, 512)
    end = zeros + (_round_up(n * groups * ZERO_BITS, 512) if fmt.zero else 0)
    return Storage(
        "dense",
        fmt,
        n,
        k,
        n,
        columns,
        groups,
        (Field(0, 0, fmt.bits, Layout((n, (WORD, columns // WORD)), (row_bits, (fmt.bits, WORD * fmt.bits)))),),
        Field(scales, 0, fmt.scale.bits, Layout((n, groups), (groups * fmt.scale.bits, fmt.scale.bits))),
        Field(zeros, 0, ZERO_BITS, Layout((n, groups), (groups * ZERO_BITS, ZERO_BITS))) if fmt.zero else None,
        end,
    )


def _lane16(fmt: Format, n: int, k: int) -> Storage:
    rows, columns = _round_up(n, BLOCK_N), _round_up(k, WORD) if fmt.group == CHANNEL else k
    groups, blocks, tiles = fmt.groups(k), rows // BLOCK_N, BLOCK_N // LANES
    group = columns // groups
    planes: list[tuple[int, int, int, int, int]] = []  # base, shift, width, pairs of k per word, words per group
    base = shift = 0
    for width in plane_widths(fmt.bits):
        pairs = min(WORD // width, group) // 2
        words = group // (2 * pairs)
        planes.append((base, shift, width, pairs, words))
        base, shift = base + words * BLOCK_N * WORD, shift + width
    scales = base
    zeros = scales + BLOCK_N * fmt.scale.bits
    group_bits = zeros + (BLOCK_N * ZERO_BITS if fmt.zero else 0)
    block_bits = groups * group_bits

    def per_group(width: int) -> Layout:
        return Layout(((LANES, tiles, blocks), groups), ((width, LANES * width, block_bits), group_bits))

    return Storage(
        "lane16",
        fmt,
        n,
        k,
        rows,
        columns,
        groups,
        tuple(
            Field(
                start,
                low,
                width,
                Layout(
                    ((LANES, tiles, blocks), ((2, pairs), words, groups)),
                    ((WORD, LANES * WORD, block_bits), ((WORD // 2, width), BLOCK_N * WORD, group_bits)),
                ),
            )
            for start, low, width, pairs, words in planes
        ),
        Field(scales, 0, fmt.scale.bits, per_group(fmt.scale.bits)),
        Field(zeros, 0, ZERO_BITS, per_group(ZERO_BITS)) if fmt.zero else None,
        blocks * block_bits,
    )


def chunk_k(width: int) -> int:
    """Return the k of an `mma16` chunk of a plane: 16 rows of them are 16 bytes for each lane of a warp."""
    return CHUNK_BITS // (MMA_ROWS * width)


def _mma16(fmt: Format, n: int, k: int) -> Storage:
    widths = plane_widths(fmt.bits)
    rows, columns = _round_up(n, MMA_ROWS), _round_up(k, max(chunk_k(width) for width in widths))
    if fmt.group != CHANNEL:
        columns = _round_up(columns, fmt.group)
    groups, blocks = fmt.groups(columns), rows // MMA_ROWS
    planes: list[Field] = []
    base = shift = 0
    for width in widths:
        # Steps between the elements of a tile within a lane's bits: the pair of a register, rows 8 apart, k 8 apart.
        pair, rows8, k8 = (WORD // 2, width, 2 * width) if width < 8 else (width, 2 * width, WORD)
        per_word = max(1, 4 // width)
        tiles = chunk_k(width) // 16
        tile = (per_word, tiles // per_word), ((4 * width, WORD) if width < 8 else (8 * width, 2 * WORD))
        chunks = columns // chunk_k(width)
        planes.append(
            Field(
                base,
                shift,
                width,
                Layout(
                    ((8, 2, blocks), (2, 4, 2, tile[0], chunks)),
                    ((4 * LANE_BITS, rows8, CHUNK_BITS), (pair, LANE_BITS, k8, tile[1], blocks * CHUNK_BITS)),
                ),
            )
        )
        base, shift = base + blocks * chunks * CHUNK_BITS, shift + width
    zeros = base + _round_up(rows * groups * fmt.scale.bits, 512)
    end = zeros + (_round_up(rows * groups * ZERO_BITS, 512) if fmt.zero else 0)

    def per_group(width: int) -> Layout:
        return Layout((rows, groups), (width, rows * width))

    return Storage(
        "mma16",
        fmt,
        n,
        k,
        rows,
        columns,
        groups,
        tuple(planes),
        Field(base, 0, fmt.scale.bits, per_group(fmt.scale.bits)),
        Field(zeros, 0, ZERO_BITS, per_group(ZERO_BITS)) if fmt.zero else None,
        end,
    )


STORAGES = {"dense": _dense, "lane16": _lane16, "mma16": _mma16}


def storage(name: str, fmt: Format, n: int, k: int) -> Storage:
    """Lay out an (n, k) matrix.

    Args:
        name: One of `STORAGES`.
        fmt: The format of its values.
        n: Rows (output features).
        k: Columns (input features), a multiple of the format's group.

    Raises:
        FormatError: The format cannot hold this shape.
        SpecError: No such storage.
    """
    if name not in STORAGES:
        raise SpecError(f"unknown storage {name!r}", nearest(name, STORAGES))
    fmt.check(n, k)
    return _laid_out(name, fmt, n, k)


@functools.lru_cache(maxsize=256)
def _laid_out(name: str, fmt: Format, n: int, k: int) -> Storage:
    """Return the storage; searches ask for the same one for each of thousands of schedules."""
    return STORAGES[name](fmt, n, k)


def _modes(shape: object, stride: object, step: int) -> Iterator[tuple[int, int, int]]:
    """Yield (extent, step in the coordinate, stride in bits) of the flat modes, fastest first."""
    if isinstance(shape, int) and isinstance(stride, int):
        yield shape, step, stride
        return
    assert isinstance(shape, tuple)
    assert isinstance(stride, tuple)
    for inner_shape, inner_stride in zip(shape, stride, strict=True):  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        modes = list(_modes(inner_shape, inner_stride, step))  # pyright: ignore[reportUnknownArgumentType]
        yield from modes
        for extent, _, _ in modes:
            step *= extent


def moves(field: Field, columns: int) -> list[Move]:
    """Break a field down into strided copies.

    Args:
        field: A field over (row, column).
        columns: Columns of the row-major array of elements.

    Modes whose stride is a whole number of words become axes of the copy; the others are unrolled, since their
    position inside a word is fixed per coordinate. A field that straddles two words becomes two copies.
    """
    assert isinstance(field.layout.shape, tuple)
    assert isinstance(field.layout.stride, tuple)
    axes: list[tuple[int, int, int]] = []
    unrolled: list[list[tuple[int, int]]] = []
    for mode, unit in zip((0, 1), (columns, 1), strict=True):
        for extent, step, stride in _modes(field.layout.shape[mode], field.layout.stride[mode], 1):
            if extent == 1:
                continue
            if stride % WORD:
                unrolled.append([(i * step * unit, i * stride) for i in range(extent)])
            else:
                axes.append((extent, step * unit, stride // WORD))
    axes.sort(key=lambda axis: axis[2], reverse=True)  # walk the words in address order
    extents = tuple(axis[0] for axis in axes)
    element_strides, word_strides = tuple(axis[1] for axis in axes), tuple(axis[2] for axis in axes)
    copies: list[Move] = []
    for corner in itertools.product(*unrolled):
        element = sum(part[0] for part in corner)
        word, bit = divmod(field.base + sum(part[1] for part in corner), WORD)
        first = min(field.width, WORD - bit)
        copies.append(Move(extents, word, word_strides, bit, element, element_strides, field.shift, first))
        if first < field.width:
            rest = field.width - first
            copies.append(Move(extents, word + 1, word_strides, 0, element, element_strides, field.shift + first, rest))
    return copies


def _strided(array: Words, start: int, extents: tuple[int, ...], steps: tuple[int, ...]) -> Words:
    strides = [step * array.itemsize for step in steps]
    return np.lib.stride_tricks.as_strided(array.reshape(-1)[start:], extents, strides)


def _scatter(field: Field, elements: Words, words: Words) -> None:
    for move in moves(field, elements.shape[1]):
        source = _strided(elements, move.element, move.extents, move.element_strides)
        target = _strided(words, move.word, move.extents, move.word_strides)
        part = (source >> np.uint32(move.element_shift)) & np.uint32((1 << move.width) - 1)
        target |= part << np.uint32(move.word_shift)


def _gather(field: Field, words: Words, elements: Words) -> None:
    for move in moves(field, elements.shape[1]):
        target = _strided(elements, move.element, move.extents, move.element_strides)
        source = _strided(words, move.word, move.extents, move.word_strides)
        part = (source >> np.uint32(move.word_shift)) & np.uint32((1 << move.width) - 1)
        target |= part << np.uint32(move.element_shift)


def _padded(values: npt.NDArray[np.generic], rows: int, columns: int, fill: int) -> Words:
    whole = np.full((rows, columns), fill, dtype=np.uint32)
    whole[: values.shape[0], : values.shape[1]] = values
    return whole


def _check(place: Storage, parts: Quantized) -> None:
    codes, groups = (place.n, place.k), (place.n, place.format.groups(place.k))
    zeros = groups if place.zeros is not None else None
    found = (parts.codes.shape, parts.scales.shape, None if parts.zeros is None else parts.zeros.shape)
    if found != (codes, groups, zeros):
        raise SpecError(
            f"a {place.format} matrix of {codes} has codes, scales and zero points of {codes}, {groups}, {zeros}, "
            f"not {', '.join(map(str, found))}"
        )
    kinds = (parts.codes.dtype, parts.scales.dtype, np.dtype(np.uint8) if parts.zeros is None else parts.zeros.dtype)
    if kinds[::2] != (np.uint8, np.uint8) or kinds[1].kind != "f":
        raise SpecError(
            f"codes, scales and zero points are {', '.join(map(str, kinds))}, not uint8, floating-point and uint8",
            "quantise first: rounding to integers here would lose what is behind the point",
        )
    for name, part in (("code", parts.codes), ("zero point", parts.zeros)):
        if part is not None and int(part.max()) >> place.format.bits:
            raise SpecError(
                f"a {name} of {int(part.max())} does not fit {place.format}", f"codes have {place.format.bits} bits"
            )


def pack(place: Storage, parts: Quantized) -> npt.NDArray[np.uint8]:
    """Return the buffer (uint8, `place.bytes` long) that holds the parts.

    Padding decodes to zero: padded rows have a zero scale, padded columns their row's zero point or the code's bias.

    Raises:
        SpecError: The parts are not those of such a matrix.
    """
    _check(place, parts)
    words = zeroed(place.bytes).view(np.uint32)
    groups = place.groups
    codes = _padded(parts.codes, place.rows, place.columns, place.format.code.bias)
    if parts.zeros is not None:
        codes[: place.n, place.k :] = parts.zeros[:, -1:]
    for field in place.codes:
        _scatter(field, codes, words)
    scales = encode(place.format.scale, parts.scales)
    as_bits = scales.view(np.uint32 if place.format.scale.bits == WORD else np.uint16)
    _scatter(place.scales, _padded(as_bits, place.rows, groups, 0), words)
    if place.zeros is not None:
        assert parts.zeros is not None
        _scatter(place.zeros, _padded(parts.zeros, place.rows, groups, 0), words)
    return words.view(np.uint8)


def unpack(place: Storage, buffer: npt.NDArray[np.uint8]) -> Quantized:
    """Return the parts that a buffer made by `pack` holds, padding removed."""
    if buffer.dtype != np.uint8 or buffer.shape != (place.bytes,):
        raise SpecError(
            f"a {place.format} matrix of ({place.n}, {place.k}) stored as {place.name} takes {place.bytes} bytes, "
            f"not {buffer.dtype} of shape {buffer.shape}",
            "pass the whole flat uint8 buffer that pack returned",
        )
    words = np.ascontiguousarray(buffer).view(np.uint32)
    groups, real = place.groups, place.format.groups(place.k)
    codes = np.zeros((place.rows, place.columns), dtype=np.uint32)
    for field in place.codes:
        _gather(field, words, codes)
    raw = np.zeros((place.rows, groups), dtype=np.uint32)
    _gather(place.scales, words, raw)
    dtype = place.format.scale
    bits = raw if dtype.bits == WORD else raw.astype(np.uint16)
    zeros = None
    if place.zeros is not None:
        wide = np.zeros((place.rows, groups), dtype=np.uint32)
        _gather(place.zeros, words, wide)
        zeros = wide[: place.n, :real].astype(np.uint8)
    return Quantized(
        codes[: place.n, : place.k].astype(np.uint8), decode(dtype, bits.view(dtype.numpy))[: place.n, :real], zeros
    )
