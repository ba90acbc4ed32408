"""Quantised matrices to store: what a case holds, the values that its seed stands for, and how two of them differ.

Values are bits of a hash of the seed, so that a case is the same matrix everywhere and for ever.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from gridstone.ir.dtype import decode
from gridstone.ir.errors import FormatError, SpecError
from gridstone.ir.format import CHANNEL, Format, Quantized, parse_format
from gridstone.ir.storage import STORAGES, Storage, storage
from gridstone.proof.fuzz.hypothesis_law import Choose
from gridstone.proof.fuzz.spec_case import draw_format
from gridstone.proof.fuzz.subject import Wanted

MOST = 1 << 17  # elements of a matrix
ROWS = (1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 70, 127, 129)
COLUMNS = (1, 2, 7, 16, 31, 32, 33, 45, 63, 64, 65, 77, 127, 128, 130, 255, 257, 513)
PARTS = ("row", "column", "group", "zeros", "code", "float", "int16")  # what is wrong with parts
BUFFERS = ("byte", "words", "matrix")  # and with a buffer

Bits = npt.NDArray[np.uint8]


class Matrix(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A quantised matrix, with values drawn from a seed.

    Raises:
        SpecError: The format cannot hold it, or it is too large.
    """

    format: str
    n: int
    k: int
    seed: int

    def __post_init__(self) -> None:
        try:
            parse_format(self.format).check(self.n, self.k)
        except FormatError as error:
            raise SpecError(error.problem, error.remedy) from None
        if self.n * self.k > MOST or self.seed < 0:
            raise SpecError(f"({self.n}, {self.k}) has more than {MOST} elements, or the seed is negative")

    @property
    def fmt(self) -> Format:
        """What its values mean."""
        return parse_format(self.format)

    def stored(self, name: str) -> Storage:
        """Return a storage of it."""
        return storage(name, self.fmt, self.n, self.k)


class Damaged(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A matrix whose parts, or whose buffer, are not those of such a matrix."""

    matrix: Matrix
    storage: str
    wrong: str

    def __post_init__(self) -> None:
        if self.wrong not in (*PARTS, *BUFFERS) or self.storage not in STORAGES:
            raise SpecError(f"no damage {self.wrong!r} or no storage {self.storage!r}")
        if self.wrong == "code" and self.matrix.fmt.bits == 8:
            raise SpecError("no code is too large for 8 bits")


def noise(seed: int, what: str, count: int) -> Bits:
    """Return `count` bytes drawn from a seed, for one use of it."""
    return np.frombuffer(hashlib.shake_256(f"{seed} {what}".encode()).digest(count), np.uint8)


def parts_of(case: Matrix) -> Quantized:
    """Return the parts of a case's matrix: all codes and zero points, scales of any bits."""
    fmt, groups = case.fmt, case.fmt.groups(case.k)
    codes = noise(case.seed, "codes", case.n * case.k) & np.uint8((1 << fmt.bits) - 1)
    raw = noise(case.seed, "scales", case.n * groups * fmt.scale.bytes).view(fmt.scale.numpy)
    zeros = noise(case.seed, "zeros", case.n * groups) & np.uint8((1 << fmt.bits) - 1)
    return Quantized(
        codes.reshape(case.n, case.k),
        decode(fmt.scale, raw).reshape(case.n, groups),
        zeros.reshape(case.n, groups) if fmt.zero else None,
    )


def differs(wanted: Quantized, found: Quantized) -> str:
    """Return in which part two matrices differ, and where first; empty when they are equal. NaNs are alike."""
    for name in ("codes", "scales", "zeros"):
        one, two = getattr(wanted, name), getattr(found, name)
        if one is None or two is None:
            if one is not two:
                return f"its {name} are lost, or come from nowhere"
        elif one.shape != two.shape or one.dtype != two.dtype:
            return f"its {name} are {two.dtype} of {two.shape}, not {one.dtype} of {one.shape}"
        elif not equal(one, two):
            at = tuple(int(axis) for axis in np.argwhere(~_alike(one, two))[0])
            return f"its {name} at {at} are {two[at]}, not {one[at]}"
    return ""


def equal(one: npt.NDArray[Any], two: npt.NDArray[Any]) -> bool:
    """Return whether two arrays are equal, NaNs alike."""
    return bool(_alike(one, two).all())


def _alike(one: npt.NDArray[Any], two: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return (one == two) | ((one != one) & (two != two))


def draw_matrix(choose: Choose, wanted: Wanted) -> Matrix:
    """Choose a wanted format, a shape on or beside the edges of blocks, and a seed."""
    fmt = draw_format(choose, wanted)
    n = choose.one(ROWS) if choose.flag() else choose.integer(1, 140)
    if fmt.group == CHANNEL:
        k = choose.one(COLUMNS) if choose.flag() else choose.integer(1, 600)
    else:
        k = fmt.group * choose.integer(1, 4)
    return Matrix(str(fmt), n, k, choose.integer(0, 99))


def draw_damaged(choose: Choose, wanted: Wanted) -> Damaged:
    """Choose a matrix, a storage, and what is wrong with it."""
    return Damaged(draw_matrix(choose, wanted), choose.one(list(STORAGES)), choose.one([*PARTS, *BUFFERS]))
