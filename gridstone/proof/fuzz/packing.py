"""Subject `packing`: stored weights hold what was put into them, bit for bit, in every format, storage and shape."""

from __future__ import annotations

import contextlib
import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gridstone.ir.dtype import decode
from gridstone.ir.errors import FormatError, SpecError
from gridstone.ir.format import CHANNEL, Quantized, dequantize
from gridstone.ir.storage import STORAGES, WORD, Field, Storage, moves, pack, unpack
from gridstone.kernel_cache.decode import decode_storage
from gridstone.proof.fuzz.hypothesis_law import Law, LawSubject
from gridstone.proof.fuzz.layout_case import leaves
from gridstone.proof.fuzz.matrix_case import (
    BUFFERS,
    Bits,
    Damaged,
    Matrix,
    differs,
    draw_damaged,
    draw_matrix,
    equal,
    noise,
    parts_of,
)

Places = npt.NDArray[np.int64]


# Laws -----------------------------------------------------------------------------------------------------------------


def _round_fault(case: Matrix) -> str:
    """unpack(pack(parts)) == parts in every storage, and what torch decodes is the definition of the format."""
    parts = parts_of(case)
    with np.errstate(invalid="ignore", over="ignore"):
        values = dequantize(case.fmt, parts)
    for name in STORAGES:
        place = case.stored(name)
        buffer = pack(place, parts)
        if buffer.dtype != np.uint8 or buffer.shape != (place.bytes,):
            return f"{name}: packed as {buffer.dtype} of {buffer.shape}, not {place.bytes} bytes"
        fault = differs(parts, unpack(place, buffer))
        decoded = decode_storage(place, torch.from_numpy(buffer), torch.float64).numpy()
        if fault or not equal(values, decoded):
            return f"{name}: {fault or 'what torch decodes is not what the parts mean'}"
    return ""


def _repack_fault(case: Matrix) -> str:
    """From one storage to another and back is the identity on buffers."""
    for one, other in itertools.permutations(STORAGES, 2):
        here, there = case.stored(one), case.stored(other)
        buffer = pack(here, _finite(parts_of(case)))
        back = pack(here, unpack(there, pack(there, unpack(here, buffer))))
        if not np.array_equal(buffer, back):
            return f"{one} to {other} and back changes byte {int(np.argmax(buffer != back))}"
    return ""


def _finite(parts: Quantized) -> Quantized:
    """Return the parts without NaNs, whose payload may change on the way."""
    return Quantized(parts.codes, np.nan_to_num(parts.scales, nan=1.5, posinf=np.inf, neginf=-np.inf), parts.zeros)


def _padding_fault(case: Matrix) -> str:
    """What lies beyond (N, K) decodes to zero, as its fields say."""
    fmt = case.fmt
    for name in STORAGES:
        place = case.stored(name)
        bits = np.unpackbits(pack(place, _finite(parts_of(case))), bitorder="little")
        codes = sum(_values(bits, field, place.rows, place.columns) for field in place.codes)
        raw = _values(bits, place.scales, place.rows, place.groups)
        scales = decode(fmt.scale, raw.astype(f"uint{fmt.scale.bits}").view(fmt.scale.numpy))
        zeros = np.full(scales.shape, fmt.code.bias)
        if place.zeros is not None:
            zeros = _values(bits, place.zeros, place.rows, place.groups)
        spread = place.columns if fmt.group == CHANNEL else fmt.group
        of_group = np.minimum(np.arange(place.columns) // spread, place.groups - 1)
        with np.errstate(invalid="ignore"):
            values = (codes - zeros[:, of_group]) * scales[:, of_group]
        inside = np.zeros(values.shape, bool)
        inside[: case.n, : case.k] = True
        beside = ~inside & np.isfinite(scales)[:, of_group]
        if values[beside].any():
            row, column = (int(axis) for axis in np.argwhere(beside & (values != 0))[0])
            return f"{name}: the padding at ({row}, {column}) is worth {values[row, column]}"
    return ""


def _values(bits: Bits, field: Field, rows: int, columns: int) -> Places:
    at = addresses(field, rows, columns)
    return sum(
        (bits[at + bit].astype(np.int64) << (field.shift + bit) for bit in range(field.width)),
        start=np.zeros((rows, columns), np.int64),
    )


def addresses(field: Field, rows: int, columns: int) -> Places:
    """Return the first bit of a field at every (row, column), from its layout's definition."""
    table = np.zeros(1, np.int64)
    for extent, step in zip(leaves(field.layout.shape), leaves(field.layout.stride), strict=True):
        table = np.add.outer(np.arange(extent, dtype=np.int64) * step, table).ravel()
    return field.base + table.reshape(columns, rows).T


def _moves_fault(case: Matrix) -> str:
    """Moves bring each bit of each element where its layout says, once; no two share a bit, none lies outside."""
    for name in STORAGES:
        place = case.stored(name)
        taken = np.zeros(place.bits, np.int64)
        grids = [(field, place.columns) for field in place.codes]
        grids += [(field, place.groups) for field in (place.scales, place.zeros) if field is not None]
        for field, columns in grids:
            fault = _field_fault(field, place.rows, columns, taken)
            if fault:
                return f"{name}: {fault}"
        if taken.max() > 1:
            return f"{name}: two fields share bit {int(np.argmax(taken))}"
        end = int(np.flatnonzero(taken)[-1]) + 1
        if place.bits % 512 or not 0 <= place.bits - end < 512:
            return f"{name}: it has {place.bits} bits, and the last one used is {end - 1}"
    return ""


def _field_fault(field: Field, rows: int, columns: int, taken: Places) -> str:
    wanted = addresses(field, rows, columns)
    if wanted.min() < 0 or wanted.max() + field.width > taken.size:
        return f"a field reaches beyond the {taken.size} bits"
    for bit in range(field.width):
        np.add.at(taken, (wanted + bit).ravel(), 1)
    found = np.full((rows * columns, field.width), -1, np.int64)
    for move in moves(field, columns):
        axes = np.indices(move.extents).reshape(len(move.extents), math.prod(move.extents))
        words = move.word + np.array(move.word_strides, np.int64) @ axes
        elements = move.element + np.array(move.element_strides, np.int64) @ axes
        for bit in range(move.width):
            of_element = move.element_shift + bit - field.shift
            if (found[elements, of_element] != -1).any():
                return "a bit of an element is moved twice"
            found[elements, of_element] = words * WORD + move.word_shift + bit
    due = wanted.ravel()[:, None] + np.arange(field.width)
    return "" if np.array_equal(found, due) else "a move does not go where the layout says"


def _content_fault(case: Matrix) -> str:
    """Any bytes are parts; packing those keeps every bit that means something."""
    fmt = case.fmt
    for name in STORAGES:
        place = case.stored(name)
        buffer = noise(case.seed, "content", place.bytes)
        parts = unpack(place, buffer)
        with np.errstate(invalid="ignore", over="ignore"):
            values = dequantize(fmt, parts)
        decoded = decode_storage(place, torch.from_numpy(buffer.copy()), torch.float64).numpy()
        if not equal(values, decoded):
            return f"{name}: torch and NumPy read other values"
        if parts.zeros is not None and int(parts.zeros.max()) >> fmt.bits:
            if _packs(place, parts):
                return f"{name}: a zero point of {int(parts.zeros.max())} is taken for {fmt}"
            parts = Quantized(parts.codes, parts.scales, parts.zeros & np.uint8((1 << fmt.bits) - 1))
        fault = differs(parts, unpack(place, pack(place, parts)))
        if fault:
            return f"{name}: {fault}"
    return ""


def _packs(place: Storage, parts: Quantized) -> bool:
    try:
        pack(place, parts)
    except SpecError:
        return False
    return True


def _refusal_fault(case: Damaged) -> str:
    """Parts and buffers of another matrix are refused with an error of ours."""
    place, parts = case.matrix.stored(case.storage), parts_of(case.matrix)
    if case.wrong not in BUFFERS:
        return f"parts with a wrong {case.wrong} are packed" if _packs(place, _wrong(case.wrong, place, parts)) else ""
    buffer = {
        "byte": noise(1, "", place.bytes - 1).copy(),
        "words": np.zeros(place.words, np.int32),
        "matrix": np.zeros((1, place.bytes), np.uint8),
    }[case.wrong]
    given = f"{buffer.dtype} of {buffer.shape}"
    with contextlib.suppress(SpecError):
        unpack(place, buffer)  # pyright: ignore[reportArgumentType]
        return f"{given} is unpacked as {place.bytes} bytes"
    if case.wrong == "matrix":
        return ""  # torch takes as many bytes of any shape
    with contextlib.suppress(FormatError):
        decode_storage(place, torch.from_numpy(buffer), torch.float32)
        return f"torch decodes {given} as {place.bytes} bytes"
    return ""


def _wrong(what: str, place: Storage, parts: Quantized) -> Quantized:
    codes, scales, zeros = parts.codes, parts.scales, parts.zeros
    match what:
        case "row":
            codes = np.concatenate([codes, codes[:1]])
        case "column":
            codes = codes[:, 1:]
        case "group":
            scales = scales[:, 1:]
        case "zeros":
            zeros = np.zeros(scales.shape, np.uint8) if zeros is None else None
        case "code":
            codes = np.full_like(codes, 1 << place.format.bits)
        case _:
            codes = codes.astype(np.float32 if what == "float" else np.int16)
    return Quantized(codes, scales, zeros)  # pyright: ignore[reportArgumentType]


LAWS: tuple[Law[Any], ...] = (
    Law("round", Matrix, draw_matrix, _round_fault, examples=20),
    Law("repack", Matrix, draw_matrix, _repack_fault, examples=12),
    Law("padding", Matrix, draw_matrix, _padding_fault, examples=30),
    Law("moves", Matrix, draw_matrix, _moves_fault, examples=25),
    Law("content", Matrix, draw_matrix, _content_fault, examples=20),
    Law("refusal", Damaged, draw_damaged, _refusal_fault),
)
SUBJECT = LawSubject("packing", LAWS)
