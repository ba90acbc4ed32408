"""Source: emitted text with all that a toolchain and a launcher need to know about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from gridstone.lower.decisions import Grid
from gridstone.lower.target import Language


class ParamKind(Enum):
    """What a parameter of an emitted entry point is filled with at launch."""

    POINTER = "pointer"  # address of an operand's first element; null for an absent operand
    STRIDE = "stride"  # elements between rows of an operand
    ROWS = "rows"  # number of rows of the activations
    THREADS = "threads"  # threads that the kernel may use
    SCRATCH = "scratch"  # address of the scratch of this call
    TICKETS = "tickets"  # address of one zeroed 32-bit counter per tile of a GPU's grid, left zero
    PARTS = "parts"  # address of the float32 sums that a GPU's blocks share, zeroed where their order is free


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter of the entry point.

    Args:
        kind: What fills it.
        operand: The operand it speaks of; empty for THREADS and SCRATCH.
    """

    kind: ParamKind
    operand: str = ""


@dataclass(frozen=True, slots=True)
class Launch:
    """How the entry point is started.

    Args:
        scratch_entry: Name of the function (rows, threads) -> bytes of scratch of one call; empty for none.
        deterministic: Whether two calls on equal inputs give equal bits.
        grid: Of a GPU kernel.
    """

    scratch_entry: str
    deterministic: bool
    grid: Grid | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the text came from."""

    recipe: str
    recipe_hash: str
    spec: str
    schedule: str
    target: str


@dataclass(frozen=True, slots=True)
class Source:
    """Emitted text. Its hash, with the toolchain's identity, is the key of the artefact built from it."""

    text: str
    language: Language
    entry: str
    params: tuple[Param, ...]
    launch: Launch
    origin: Origin
