"""Attributes of ops: what they may be is checked when an op is made, since texts and callers give anything."""

from __future__ import annotations

import sys

from gridstone.ir.errors import SpecError


def flag(name: str, value: object) -> bool:
    """Return a truth value.

    Raises:
        SpecError: It is something else.
    """
    if not isinstance(value, bool):
        raise SpecError(f"{name} is {value!r}, not true or false", f"write {name}=true, or omit it for the default")
    return value


def number(name: str, value: object) -> float:
    """Return a finite number as a float, since 1 and 1.0 are equal but print differently.

    Raises:
        SpecError: It is something else.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return float(value)
    raise SpecError(f"{name} is {value!r}, not a finite number", f"omit {name} for the default")


def is_count(value: object, least: int) -> bool:
    """Return whether a value is an integer of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_pair(value: object) -> bool:
    """Return whether a value is a tuple of two."""
    return isinstance(value, tuple) and len(value) == 2  # pyright: ignore[reportUnknownArgumentType]
