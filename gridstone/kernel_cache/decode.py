"""Decoding stored weights with torch: what the library recipe, `dequantize` and fallbacks read a storage with."""

from __future__ import annotations

import functools

import torch

from gridstone.ir.errors import FormatError
from gridstone.ir.format import CHANNEL
from gridstone.ir.storage import Field, Move, Storage, moves

SCALE_VIEWS = {16: torch.int16, 32: torch.int32}


@functools.lru_cache(maxsize=256)
def _moves(field: Field, columns: int) -> tuple[Move, ...]:
    return tuple(moves(field, columns))


def _gather(field: Field, words: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Return an int32 (rows, columns) matrix of a field's bits."""
    elements = torch.zeros((rows, columns), dtype=torch.int32, device=words.device)
    for move in _moves(field, columns):
        source = words.as_strided(move.extents, move.word_strides, words.storage_offset() + move.word)
        target = elements.as_strided(move.extents, move.element_strides, move.element)
        part = source if move.word_shift == 0 else source >> move.word_shift
        part = part & ((1 << move.width) - 1) if move.width < 32 else part
        if move.element_shift:
            part = part << move.element_shift
        target.bitwise_or_(part)
    return elements


def decode_storage(place: Storage, buffer: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the (n, k) values of a packed buffer.

    Args:
        place: The buffer's storage.
        buffer: uint8, `place.bytes` long, contiguous.
        dtype: Of the result. The product (code - zero) * scale is taken in float32 (float64 if asked for) and
            rounded once.
    """
    if buffer.numel() != place.bytes or buffer.dtype != torch.uint8 or not buffer.is_contiguous():
        held = f"{buffer.numel()} elements of {buffer.dtype}"
        raise FormatError(f"{held} are not the {place.bytes} contiguous bytes of this weight", "re-pack it")
    if buffer.storage_offset() % 4:  # a slice of a larger buffer; torch views bytes as words only at whole words
        buffer = buffer.clone()
    words = buffer.view(torch.int32)
    groups = place.groups
    codes = _gather(place.codes[0], words, place.rows, place.columns)
    for field in place.codes[1:]:
        codes |= _gather(field, words, place.rows, place.columns)
    raw = _gather(place.scales, words, place.rows, groups)
    scale_dtype = getattr(torch, place.format.scale.torch)
    scales = raw.view(torch.float32) if place.format.scale.bits == 32 else raw.to(torch.int16).view(scale_dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    if place.format.group != CHANNEL:
        codes = codes[:, : groups * place.format.group]  # dense pads rows beyond the last group
    grouped = codes.reshape(place.rows, groups, -1)  # in place from here on: 8 bytes an element at most
    if place.zeros is not None:
        grouped.sub_(_gather(place.zeros, words, place.rows, groups).unsqueeze(-1))
    else:
        grouped.sub_(place.format.code.bias)
    values = grouped.to(wide)
    del codes, grouped
    values.mul_(scales.to(wide).unsqueeze(-1))
    return values.view(place.rows, -1)[: place.n, : place.k].to(dtype)
