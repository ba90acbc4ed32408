"""Tensor types: dtype, shape, and for low-bit weights the format and the storage."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gridstone.ir.dtype import DType
from gridstone.ir.errors import SpecError
from gridstone.ir.format import Format

NATIVE = ""  # the storage that the target's recipes read


@dataclass(frozen=True, slots=True)
class Dim:
    """An extent that is not known before run time.

    Args:
        name: One symbol, the same symbol meaning the same extent throughout a spec.
        multiple_of: What every run-time value is divisible by.
    """

    name: str
    multiple_of: int = 1

    def __post_init__(self) -> None:
        if self.multiple_of < 1:
            raise SpecError(f"{self.name} cannot be a multiple of {self.multiple_of}", "give a multiple of at least 1")

    def __str__(self) -> str:
        return self.name if self.multiple_of == 1 else f"{self.name}%{self.multiple_of}"


Extent = int | Dim
Shape = tuple[Extent, ...]


@dataclass(frozen=True, slots=True)
class TensorType:
    """The type of one operand.

    Args:
        dtype: Element dtype of a plain tensor; for a quantised one, the dtype of its scales.
        shape: Extents; an int is static, a `Dim` symbolic.
        format: What the values mean when they are quantised.
        storage: Name of the storage of a quantised tensor; `NATIVE` until a target has been chosen.
    """

    dtype: DType
    shape: Shape
    format: Format | None = None
    storage: str = NATIVE

    def __str__(self) -> str:
        extents = ",".join(map(str, self.shape))
        if self.format is None:
            return f"{self.dtype}({extents})"
        place = f"@{self.storage}" if self.storage else ""
        return f"{self.format}{place}({extents})"

    def static(self, axis: int) -> int:
        """Return a static extent.

        Raises:
            SpecError: The extent is symbolic.
        """
        extent = self.shape[axis]
        if isinstance(extent, Dim):
            raise SpecError(f"extent {axis} of {self} is symbolic", "bind it to a number first")
        return extent

    def elements(self) -> int:
        """Return the number of elements of a static tensor."""
        return math.prod(self.static(axis) for axis in range(len(self.shape)))

    def plain_bytes(self) -> int:
        """Return the size of a static tensor in bytes, stored plainly in its dtype."""
        return self.elements() * self.dtype.bytes


def quantized(fmt: Format, shape: Shape, storage: str = NATIVE) -> TensorType:
    """Return the type of a quantised matrix."""
    return TensorType(fmt.scale, shape, fmt, storage)
