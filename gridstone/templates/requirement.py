"""What a recipe promises of the machine code of its kernels, as data: how often instructions may occur in it.

A compiler keeps the meaning of a text and not its speed. A spilled register, or a copy that fell apart into narrow
ones, shows in the machine code of a GPU, which needs no GPU to be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Requirement:
    """A named bound on the number of some instructions of a kernel.

    Args:
        name: What must hold, in words that an error message can quote.
        instructions: Those that are counted, each an opcode as SASS spells it and the modifiers that it must have.
        least: Fewest that there must be.
        most: Most that there may be; None for any number.
        without: Modifiers of instructions that are not counted.

    >>> wide = Requirement("copies are 16 bytes wide", ("LDGSTS",), most=0, without=("128",))
    >>> wide.holds({"LDGSTS.E.BYPASS.128.ZFILL": 2}), wide.holds({"LDGSTS.E.BYPASS.128": 28, "LDGSTS.E.64": 1})
    (True, False)
    """

    name: str
    instructions: tuple[str, ...]
    least: int = 0
    most: int | None = None
    without: tuple[str, ...] = ()

    def count(self, instructions: Mapping[str, int]) -> int:
        """Return how many of a kernel's instructions (by full opcode) are meant."""
        return sum(
            times
            for opcode, times in instructions.items()
            if any(matches(opcode, pattern) for pattern in self.instructions)
            and not set(opcode.split(".")).intersection(self.without)
        )

    def holds(self, instructions: Mapping[str, int]) -> bool:
        """Return whether the bound holds for a kernel's instructions (by full opcode)."""
        found = self.count(instructions)
        return self.least <= found and (self.most is None or found <= self.most)


def matches(opcode: str, pattern: str) -> bool:
    """Return whether a full opcode is the pattern's and has all of its modifiers.

    >>> matches("LDG.E.128.CONSTANT", "LDG.128"), matches("LDG.E.64", "LDG.128"), matches("LDGSTS.E.128", "LDG.128")
    (True, False, False)
    """
    name, *modifiers = pattern.split(".")
    first, *rest = opcode.split(".")
    return name == first and set(modifiers) <= set(rest)


NO_SPILLS = Requirement("no register is spilled to local memory", ("LDL", "STL"), most=0)
MMA_SYNC = Requirement("warps multiply with the tensor cores", ("HMMA.16816",), least=1)
ASYNC_COPIES = Requirement("asynchronous copies of 16 bytes bring the stages", ("LDGSTS.128",), least=1)
NO_NARROW_COPIES = Requirement("no asynchronous copy is narrower than 16 bytes", ("LDGSTS",), most=0, without=("128",))
WIDE_CODES = Requirement("a lane takes its codes 16 bytes at once", ("LDS.128",), least=1)
WGMMA = Requirement("warpgroups multiply with the tensor cores", ("HGMMA",), least=1)
BULK_COPIES = Requirement("bulk copies bring the weights", ("UBLKCP",), least=1)
NO_HALF_CODES = Requirement("a lane takes no codes 8 bytes at once", ("LDS.64",), most=0)
LDMATRIX = Requirement("activations come by ldmatrix", ("LDSM",), least=1)
# Loads that the first cache does not keep are the codes': nothing else of a kernel is read once by design.
WIDE_STREAM = Requirement("codes stream from memory 16 bytes at once", ("LDG.NA.128",), least=1)
NO_NARROW_STREAM = Requirement("no codes stream in narrower loads", ("LDG.NA",), most=0, without=("128",))
NO_CONVERSIONS = Requirement("codes become floats without conversions", ("I2F", "I2FP"), most=0)
