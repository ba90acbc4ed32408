"""Formats: what the values of a quantised tensor mean. Where their bits lie is `storage`'s business.

A group-wise integer format holds, for a weight of shape (N, K), one stored code u of `bits` bits per element, one
scale per (row, group of K), and optionally one zero point per (row, group). The value is

    w[n, k] = (u[n, k] - z[n, k // group]) * scale[n, k // group]

with z the code's bias where the format has no zero points. Signed codes are stored offset-binary, u = q + 2^(bits-1),
so that decoding is the same expression for every row of the table; `int1` is two's complement, {-1, 0}.
A format prints as `int4:g128`, `uint4:g32:f32:zero`, `int8:channel:bf16` and is parsed from that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gridstone.ir.dtype import DType, Values, bf16, f16, f32
from gridstone.ir.errors import FormatError, nearest

GROUPS = (16, 32, 64, 128, 256)
SCALES = {"f16": f16, "bf16": bf16, "f32": f32}
CHANNEL = -1


@dataclass(frozen=True, slots=True)
class Code:
    """The integer code of one element: `bits` wide, stored as value + bias."""

    name: str
    bits: int
    bias: int

    @property
    def low(self) -> int:
        """Smallest logical value."""
        return -self.bias

    @property
    def high(self) -> int:
        """Largest logical value."""
        return (1 << self.bits) - 1 - self.bias


CODES = {
    code.name: code
    for bits in range(1, 9)
    for code in (Code(f"int{bits}", bits, 1 << (bits - 1)), Code(f"uint{bits}", bits, 0))
}


@dataclass(frozen=True, slots=True)
class Format:
    """A group-wise integer format.

    Args:
        code: Row of `CODES`.
        group: Elements along K that share a scale; `CHANNEL` (-1) for one scale per row.
        scale: Dtype of the scales.
        zero: Whether each group has a zero point (an integer of the code's own range).
    """

    code: Code
    group: int
    scale: DType = f16
    zero: bool = False

    def __post_init__(self) -> None:
        if self.group != CHANNEL and self.group not in GROUPS:
            raise FormatError(
                f"group size {self.group} is not supported",
                f"use one of {', '.join(map(str, GROUPS))}, or one scale per row: `channel`, or group_size=-1",
            )
        if self.scale.name not in SCALES:
            raise FormatError(f"scales of dtype {self.scale} are not supported", f"use one of {', '.join(SCALES)}")

    @property
    def name(self) -> str:
        """The text form, which `parse_format` reads."""
        parts = [self.code.name, "channel" if self.group == CHANNEL else f"g{self.group}"]
        if self.scale != f16:
            parts.append(self.scale.name)
        if self.zero:
            parts.append("zero")
        return ":".join(parts)

    def __str__(self) -> str:
        return self.name

    @property
    def bits(self) -> int:
        """Bits of one code."""
        return self.code.bits

    def groups(self, k: int) -> int:
        """Number of groups in a row of k elements."""
        return 1 if self.group == CHANNEL else k // self.group

    def check(self, n: int, k: int) -> None:
        """Refuse shapes that the format cannot hold.

        Raises:
            FormatError: N or K is zero, or K is not a multiple of the group.
        """
        if n < 1 or k < 1:
            raise FormatError(f"a weight of shape ({n}, {k}) has no elements", "give N and K of at least 1")
        if self.group != CHANNEL and k % self.group:
            fits = [g for g in GROUPS if k % g == 0]
            remedy = f"use a group of {' or '.join(map(str, fits))}, or -1" if fits else "use group -1 (one per row)"
            raise FormatError(f"K={k} is not a multiple of the group size {self.group} of {self.name}", remedy)

    def bits_per_weight(self) -> float:
        """Stored bits per element, scales and zero points (8 bits each) included; per-channel ones not counted."""
        extra = 0 if self.group == CHANNEL else (self.scale.bits + (8 if self.zero else 0)) / self.group
        return self.bits + extra


def parse_format(text: str) -> Format:
    """Parse the printed form of a format.

    Args:
        text: A code, then its group as `gN` or `channel`, then optionally a scale dtype (f16 when omitted) and `zero`;
            each part once. A format that stands alone states its group: nothing else could say what it is.

    Raises:
        FormatError: Unknown or repeated part, with the nearest names; no group, or one that is not supported.

    >>> print(parse_format("uint4:g32:f32:zero"))
    uint4:g32:f32:zero
    """
    stated = _parts(text)
    if stated.group is None:
        forms = [Format(stated.code, group, stated.scale or f16, stated.zero) for group in (128, CHANNEL)]
        raise FormatError(f"format {text!r} does not state its group", f"write {forms[0]} or {forms[1]}")
    return Format(stated.code, stated.group, stated.scale or f16, stated.zero)


def complete_format(text: str, group: int, scale: DType) -> Format:
    """Parse a format whose group may be given beside it.

    Args:
        text: As for `parse_format`; the group may be missing.
        group: Taken when the text states no group; `CHANNEL` for one scale per row.
        scale: Taken when the text states neither a group nor a scale dtype. A text with a group is a whole format,
            which means the same everywhere.

    Raises:
        FormatError: As `parse_format`, but for a missing group.

    >>> print(complete_format("int4:zero", 64, f32), complete_format("int4:f16", 64, f32))
    int4:g64:f32:zero int4:g64
    >>> print(complete_format("int4:g32", 64, f32))
    int4:g32
    """
    stated = _parts(text)
    if stated.group is not None:
        return parse_format(text)
    return Format(stated.code, group, stated.scale or scale, stated.zero)


@dataclass(frozen=True, slots=True)
class _Stated:
    """What the text of a format says; None for what it leaves out."""

    code: Code
    group: int | None
    scale: DType | None
    zero: bool


def _parts(text: str) -> _Stated:
    head, *rest = text.strip(" \t\r\n").split(":")
    if head not in CODES:
        raise FormatError(f"unknown format {text!r}", nearest(head, CODES))
    found: dict[str, str] = {}
    for part in rest:
        if part == "channel" or re.fullmatch(r"g(0|[1-9][0-9]{0,8})", part):
            kind = "group"
        elif part in SCALES:
            kind = "scale dtype"
        elif part == "zero":
            kind = "zero points"
        else:
            known = ["g128", "channel", "zero", *SCALES]
            raise FormatError(f"unknown part {part!r} of format {text!r}", nearest(part, known))
        if kind in found:
            problem = f"format {text!r} states its {kind} twice: {found[kind]!r} and {part!r}"
            raise FormatError(problem, "leave one of them out")
        found[kind] = part
    group = found.get("group")
    return _Stated(
        CODES[head],
        None if group is None else CHANNEL if group == "channel" else int(group[1:]),
        SCALES.get(found.get("scale dtype", "")),
        "zero points" in found,
    )


@dataclass(frozen=True, slots=True)
class Quantized:
    """The parts of a quantised (N, K) matrix, unpacked.

    Args:
        codes: uint8 (N, K), stored codes u.
        scales: float64 values (N, groups), each exactly representable in the format's scale dtype.
        zeros: uint8 (N, groups), stored zero points in the codes' own numbering, or None.
    """

    codes: npt.NDArray[np.uint8]
    scales: Values
    zeros: npt.NDArray[np.uint8] | None


def dequantize(fmt: Format, parts: Quantized) -> Values:
    """Return the float64 values (N, K) that the parts stand for: the definition of the format."""
    n, k = parts.codes.shape
    spread = k if fmt.group == CHANNEL else fmt.group
    zeros = np.full((n, 1), fmt.code.bias) if parts.zeros is None else np.repeat(parts.zeros, spread, axis=1)
    return (parts.codes.astype(np.float64) - zeros) * np.repeat(parts.scales, spread, axis=1)
