"""Scalar dtypes. One row of `DTYPES` is the only place where a dtype is spelled, for every language.

A value of any dtype is carried through NumPy as float64 (exact for all of them); `encode` and `decode` turn values
into the bits that a tensor holds and back. bf16 has no NumPy type: its bits travel as uint16.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from gridstone.ir.errors import SpecError, nearest

Values = npt.NDArray[np.float64]


class Kind(Enum):
    """What the bits of a dtype mean."""

    FLOAT = "float"
    INT = "int"
    UINT = "uint"
    BOOL = "bool"
    COMPLEX = "complex"


@dataclass(frozen=True, slots=True)
class DType:
    """A scalar type and its name in every language that we emit.

    Args:
        name: Ours, as printed in specs (`bf16`).
        bits: Width in memory.
        kind: What the bits mean.
        mantissa: Explicit significand bits of a float (0 for integers).
        exponent: Exponent bits of a float (0 for integers).
        numpy: NumPy's name of the array that carries the bits.
        torch: The attribute of the torch module.
        cpp: The type in emitted C++ (16-bit types are defined by the emitted library).
        triton: The name under `triton.language`.
        cuda: The type in emitted CUDA (16-bit types are defined by the emitted library).
    """

    name: str
    bits: int
    kind: Kind
    mantissa: int
    exponent: int
    numpy: str
    torch: str
    cpp: str
    triton: str
    cuda: str

    def __str__(self) -> str:
        return self.name

    @property
    def bytes(self) -> int:
        """Size of one element in bytes (whole bytes only)."""
        return self.bits // 8

    @property
    def is_float(self) -> bool:
        """Whether values are real floating-point numbers."""
        return self.kind is Kind.FLOAT

    @property
    def unit_roundoff(self) -> float:
        """Largest relative error of rounding a normal value to nearest: 2^-(mantissa+1)."""
        return 2.0 ** -(self.mantissa + 1)

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal number."""
        return 2 - (1 << (self.exponent - 1))

    @property
    def smallest_subnormal(self) -> float:
        """Spacing of the numbers around zero."""
        return 2.0 ** (self.min_exponent - self.mantissa)

    @property
    def largest(self) -> float:
        """The largest finite value."""
        if self.kind in (Kind.INT, Kind.UINT):
            limit = (1 << (self.bits - (self.kind is Kind.INT))) - 1
            return float(limit - (limit >> 53))  # 64 bits do not fit a float64
        if self.kind is Kind.BOOL:
            return 1.0
        return (2.0 - 2.0**-self.mantissa) * 2.0 ** ((1 << (self.exponent - 1)) - 1)


_F, _I, _U = Kind.FLOAT, Kind.INT, Kind.UINT
_ROWS = (
    #     name   bits kind man exp numpy      torch       C++         triton      CUDA
    DType("f64", 64, _F, 52, 11, "float64", "float64", "double", "float64", "double"),
    DType("f32", 32, _F, 23, 8, "float32", "float32", "float", "float32", "float"),
    DType("bf16", 16, _F, 7, 8, "uint16", "bfloat16", "bf16", "bfloat16", "bf16"),
    DType("f16", 16, _F, 10, 5, "float16", "float16", "f16", "float16", "f16"),
    DType("i8", 8, _I, 0, 0, "int8", "int8", "int8_t", "int8", "int8_t"),
    DType("i16", 16, _I, 0, 0, "int16", "int16", "int16_t", "int16", "int16_t"),
    DType("i32", 32, _I, 0, 0, "int32", "int32", "int32_t", "int32", "int32_t"),
    DType("i64", 64, _I, 0, 0, "int64", "int64", "int64_t", "int64", "int64_t"),
    DType("u8", 8, _U, 0, 0, "uint8", "uint8", "uint8_t", "uint8", "uint8_t"),
    DType("u32", 32, _U, 0, 0, "uint32", "uint32", "uint32_t", "uint32", "uint32_t"),
    DType("bool", 8, Kind.BOOL, 0, 0, "bool", "bool", "bool", "int1", "bool"),
    DType("c64", 64, Kind.COMPLEX, 23, 8, "complex64", "complex64", "c64", "complex64", "float2"),
)
DTYPES = {row.name: row for row in _ROWS}
BY_TORCH = {row.torch: row for row in _ROWS}

f64, f32, bf16, f16 = (DTYPES[name] for name in ("f64", "f32", "bf16", "f16"))
i8, i32, i64, u8, u32 = (DTYPES[name] for name in ("i8", "i32", "i64", "u8", "u32"))


def dtype(name: str) -> DType:
    """Look a dtype up by our name, torch's (`bfloat16`) or torch's printed form (`torch.bfloat16`).

    Raises:
        SpecError: No such dtype; the nearest names are suggested.
    """
    short = name.removeprefix("torch.")
    found = DTYPES.get(short) or BY_TORCH.get(short)
    if found is None:
        raise SpecError(f"unknown dtype {name!r}", nearest(short, DTYPES))
    return found


def round_to(to: DType, values: npt.ArrayLike) -> Values:
    """Round float64 values to the nearest value of a dtype, ties to even, subnormals kept, overflow to infinity.

    Integers saturate. The rounding is done once, from float64 (through float32 it would round twice).

    Raises:
        SpecError: The dtype is complex.

    >>> round_to(bf16, [1.0, 1.00390625, 3.4e38]).tolist()
    [1.0, 1.0, inf]
    """
    if to.kind is Kind.COMPLEX:
        raise SpecError(f"{to} values are not real", "round their real and imaginary parts")
    exact = np.asarray(values, dtype=np.float64)
    if to.kind is not Kind.FLOAT:
        low = -(2.0 ** (to.bits - 1)) if to.kind is Kind.INT else 0.0
        return np.clip(np.rint(exact), low, to.largest)
    if to.bits == 64:
        return exact
    _, exponent = np.frexp(exact)
    # frexp's significand lies in [0.5, 1): the leading bit is worth 2^(exponent - 1).
    step = np.maximum(exponent - 1, to.min_exponent) - to.mantissa
    with np.errstate(invalid="ignore", over="ignore"):
        rounded = np.ldexp(np.rint(np.ldexp(exact, -step)), step)
        rounded = np.where(np.isfinite(exact), rounded, exact)
        return np.where(np.abs(rounded) > to.largest, np.copysign(np.inf, exact), rounded)


def encode(to: DType, values: npt.ArrayLike) -> npt.NDArray[np.generic]:
    """Round values to a dtype and return the array of bits that a tensor of it holds."""
    rounded = round_to(to, values)
    if to.name == "bf16":
        return (rounded.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return rounded.astype(to.numpy)


def decode(of: DType, bits: npt.NDArray[np.generic]) -> Values:
    """Return the float64 values of an array as `encode` makes it."""
    if of.name == "bf16":
        with np.errstate(invalid="ignore"):  # signalling NaNs become quiet
            return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return bits.astype(np.float64)
