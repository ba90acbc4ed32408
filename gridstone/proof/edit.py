"""Edit: one replacement in a text, and the class of fault that it stands for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Edit:
    """A replacement in a text.

    Args:
        operator: Name of the class of fault, such as "barrier".
        start, end: Characters that are replaced.
        after: What stands there instead.
    """

    operator: str
    start: int
    end: int
    after: str
