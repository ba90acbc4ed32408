"""Damage: files that were written and then edited, and JSON that is sealed as it should be and holds something else."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from gridstone.ir.errors import SpecError
from gridstone.kernel_cache.key import seal
from gridstone.proof.fuzz.hypothesis_law import Choose
from gridstone.proof.fuzz.subject import Wanted

_MEMORY = "/dev/shm"  # temporary folders there need no disk
_JUNK = (None, True, 0, -1, 1, 2, 10**30, 0.5, 1e999, "", "winner", "x" * 300, [], {}, [[]], "2026-01-01", "\ud800")
_PUT = ("", "{", '"', "0", "\n", "\xff", "9" * 20, "[" * 2000, "9" * 5000)

Sealing = Callable[[str, int, Any], bytes]


class Edit(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """From a place on, as many bytes are replaced by some others, each of them a character up to U+00FF."""

    at: int
    gone: int
    put: str


class Bytes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that was written and then edited. An edit at a negative place counts from the end."""

    edits: tuple[Edit, ...]

    def __post_init__(self) -> None:
        edited(b"", self.edits)


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file sealed as it should be, of any schema and with any JSON inside."""

    schema: int
    body: str

    def __post_init__(self) -> None:
        self.body.encode()
        if not -(1 << 63) <= self.schema < 1 << 63:
            raise SpecError("a schema is a number of 64 bits")


def edited(content: bytes, edits: Sequence[Edit]) -> bytes:
    """Return bytes after some edits, one after the other.

    Raises:
        SpecError: One is no edit.
    """
    for edit in edits:
        try:
            put = edit.put.encode("latin-1")
        except UnicodeEncodeError:
            raise SpecError(f"{edit.put!r} holds characters that are no bytes") from None
        if edit.gone < 0:
            raise SpecError(f"an edit cannot take {edit.gone} bytes away")
        at = edit.at % (len(content) + 1)
        content = content[:at] + put + content[at + edit.gone :]
    return content


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Make a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(
        prefix="gridstone-fuzz-", dir=_MEMORY if os.path.isdir(_MEMORY) else None
    ) as place:
        yield Path(place)


def sealed(kind: str, case: Body) -> bytes:
    """Return the file of a case, as the cache seals its own."""
    return cast("Sealing", seal)(kind, case.schema, msgspec.Raw(case.body.encode()))


def draw_bytes(choose: Choose, wanted: Wanted) -> Bytes:
    """Choose up to three edits."""
    return Bytes(draw_edits(choose, 0, 3))


def draw_edits(choose: Choose, least: int, most: int) -> tuple[Edit, ...]:
    """Choose from `least` to `most` edits."""

    def edit() -> Edit:
        put = choose.one(_PUT) if choose.flag() else choose.content(6).decode("latin-1")
        return Edit(choose.integer(-200, 200), choose.one([0, 1, 1, 2, 20, 1 << 20]), put)

    return tuple(choose.some(least, most, edit))


def twisted(choose: Choose, value: Any) -> Any:
    """Return JSON with one to three places changed: replaced, removed, renamed or repeated."""
    value = copy.deepcopy(value)
    for _ in range(choose.integer(1, 3)):
        places = list(_places(value))
        if not places:
            return copy.deepcopy(choose.one(_JUNK))
        holder, at = choose.one(places)
        match choose.integer(0, 3):
            case 0:
                holder[at] = copy.deepcopy(choose.one(_JUNK))  # of its own: it may be changed in turn
            case 1:
                del holder[at]
            case 2 if isinstance(holder, dict):
                holder[choose.one(["", "kind", "budget", "x"])] = holder.pop(at)
            case 2 | 3 if isinstance(holder, list):
                holder.insert(at, copy.deepcopy(holder[at]))
            case _:
                holder[at] = [holder[at]]
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for at in keys:
        yield value, at
        yield from _places(value[at])


def draw_body(choose: Choose, value: Any, schemas: Sequence[int]) -> Body:
    """Seal what was written, changed, or something else altogether."""
    kind = choose.integer(0, 9)
    body = json.dumps(twisted(choose, value) if kind else value)
    if kind == 9:
        body = choose.one(["", "null", "[]", "1e999", "[" * 5000, '{"a":' * 2000, choose.text(9), "9" * 5000])
    return Body(choose.one([*schemas, *schemas, *schemas, 0, 3, -1, 10**18]), body)
