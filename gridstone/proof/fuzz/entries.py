"""Subject `entries`: whatever lies in the cache's folder, or in the environment, is used as it was meant or not at all.

A reader of the cache never raises and never gives other bytes than were kept: damage is a miss, and out of the way.
"""

from __future__ import annotations

import json
import os
from typing import Any

import msgspec

from gridstone.ir.errors import CacheError, LaunchError, SpecError
from gridstone.kernel_cache import shared_object
from gridstone.kernel_cache.artefact import Artefact, examine, unpack
from gridstone.kernel_cache.key import (
    SCHEMA,
    Entry,
    Key,
    first_difference,
    nearest_key,
    seal_entry,
    sha256,
    unseal_entry,
)
from gridstone.kernel_cache.settings import parse_size, read_settings
from gridstone.proof.fuzz import cached
from gridstone.proof.fuzz.damage import Body, Bytes, Edit, draw_body, draw_bytes, edited, sealed, twisted
from gridstone.proof.fuzz.hypothesis_law import Choose, Law, LawSubject
from gridstone.proof.fuzz.subject import Wanted

VARIABLES = ("GRIDSTONE_CACHE_DIR", "GRIDSTONE_CACHE_LIMIT", "GRIDSTONE_CXX", "CXX", "HOME")
_NAMES = ("a", "ab", "b", "abc", "c", "flags", "source", "a.b", "a:b", "a/b", "a+b", "a-", "schema", "kind", "fields")
_VALUES = ("", "a", "b", "ab", "bc", "abc", ",", ":", '"', "\\", "\n", "\x00", '","', '":"', "a,b", "é", "\u2028", "0")

Fields = tuple[tuple[str, str], ...]


class Keys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two keys."""

    kinds: tuple[str, str]
    one: Fields
    other: Fields


class Variables(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Variables of the environment; those that are left out are not set."""

    values: dict[str, str]

    def __post_init__(self) -> None:
        for name, value in self.values.items():
            if name not in VARIABLES or "\0" in value:
                raise SpecError(f"{name} is not read, or holds what no environment can")
            value.encode()


# Keys -----------------------------------------------------------------------------------------------------------------


def _key_fault(case: Keys) -> str:
    """Keys have one digest just when they have one kind and the same fields; each survives its file."""
    try:
        one, other = (Key(kind, fields) for kind, fields in zip(case.kinds, (case.one, case.other), strict=True))
    except CacheError:
        return ""
    same = one.kind == other.kind and dict(one.fields) == dict(other.fields)
    difference = first_difference(one, other)
    if (one.digest == other.digest) != same:
        return f"{one} and {other} have {'two digests' if same else 'one digest'}"
    if (difference is None) != same:
        return f"{one} and {other} differ in {difference}"
    if nearest_key(one, [other, one]) != (other if same else one) and nearest_key(one, [one]) != one:
        return f"the key nearest to {one} is not itself"
    entry = Entry(one.kind, one.fields, sha256(b""), 0, ".so")
    if unseal_entry(seal_entry(entry), one.digest) != entry:
        return f"{one} does not survive its file"
    return "" if same or not _unseals(seal_entry(entry), other.digest) else "an entry is taken for another key's"


def _unseals(content: bytes, digest: str) -> Entry | None:
    try:
        return unseal_entry(content, digest)
    except CacheError:
        return None


def _draw_keys(choose: Choose, wanted: Wanted) -> Keys:
    def fields() -> Fields:
        names = choose.shuffled(_NAMES)[: choose.integer(0, 4)]
        return tuple((name, choose.text(3) if choose.flag() else choose.one(_VALUES)) for name in names)

    one = fields()
    other = list(one) if choose.flag() else list(fields())
    if other and choose.flag():  # what a key that joins its parts cannot tell from the first
        at = choose.integer(0, len(other) - 1)
        name, value = other[at]
        after = other[at + 1] if at + 1 < len(other) else ("", "")
        moved = [
            [(name + value[:1], value[1:])],
            [(name[:-1], name[-1:] + value)],
            [(name, value + after[0]), ("", after[1])],
            [(name, value + after[0][:1]), (after[0][1:], after[1])],
            [(name, value + after[0] + after[1])],
            [after, (name, value)],
            [(name, after[1]), (after[0], value)],
        ]
        other[at : at + 2] = [pair for pair in choose.one(moved) if pair != ("", "")]
    kinds = choose.one([("cpp", "cpp"), ("cpp", "cuda"), ("a", "ab")])
    return Keys(kinds, one, tuple(other))


# Files ----------------------------------------------------------------------------------------------------------------


def _entry_fault(case: Bytes) -> str:
    """An entry's file is read only as it was written."""
    entry = Entry("cpp", (("flags", "-O3"), ("source", "int a;\n")), sha256(b"blob"), 4, ".so")
    content = seal_entry(entry)
    found = _unseals(edited(content, case.edits), entry.key.digest)
    whole = edited(content, case.edits) == content
    return "" if found == (entry if whole else None) else f"a file with {len(case.edits)} edits is read as {found}"


def _sealed_entry_fault(case: Body) -> str:
    """JSON that carries its own hash is an entry, or is refused."""
    content = sealed("entry", case)
    for digest in (Key("cpp", (("a", "b"),)).digest, sha256(content)):
        entry = _unseals(content, digest)
        if entry is not None and (case.schema != SCHEMA or entry.key.digest != digest):
            return f"{case.body!r} of schema {case.schema} is read as {entry}"
    return ""


def _draw_sealed_entry(choose: Choose, wanted: Wanted) -> Body:
    entry = Entry("cpp", (("a", "b"),), sha256(b""), 0, ".so")
    return draw_body(choose, msgspec.to_builtins(entry), (SCHEMA,))


def _artefact_fault(case: Bytes) -> str:
    """An artefact is what was packed, or is refused; whatever bytes are said to be, in words."""
    made = Artefact(_cubin(), "gs_gemm", 128, 4096, 1)
    content = edited(made.pack(), case.edits)
    shared_object.fault(edited(_object(), case.edits), "gs_gemm")
    said = examine(content, "gs_gemm")
    try:
        found = unpack(content)
    except LaunchError:
        return "" if said and content != made.pack() else f"an artefact is refused, and examined as {said!r}"
    if bool(said) != (found.entry != "gs_gemm"):
        return f"an artefact of {found.entry!r} is examined as {said!r}"
    numbers = (found.threads, found.shared_bytes, found.scratch_pointers)
    if not isinstance(found.entry, str) or not all(type(number) is int for number in numbers):
        return f"an artefact is launched as {found.entry!r} with {numbers}"
    return "" if content != made.pack() or found == made else "an artefact is read as another"


def _object() -> bytes:
    """Return the header of a shared object for x86-64, and the name of a function."""
    header = bytearray(64)
    header[:6], header[16:20] = b"\x7fELF\x02\x01", b"\x03\x00\x3e\x00"
    return bytes(header) + b"\0gs_gemm\0"


def _cubin() -> bytes:
    header = bytearray(64)
    header[:4], header[18:20] = b"\x7fELF", (190).to_bytes(2, "little")
    return bytes(header) + b"\0.text.gs_gemm\0code\n"


def _draw_artefact(choose: Choose, wanted: Wanted) -> Bytes:
    """Edit the line of JSON behind the code, as a whole, or anywhere."""
    if choose.flag():
        return draw_bytes(choose, wanted)
    line = Artefact(_cubin(), "gs_gemm", 128, 4096, 1).pack().rpartition(b"\n")[2]
    facts = twisted(choose, json.loads(line))
    return Bytes((Edit(-1 - len(line), len(line), json.dumps(facts)),))


# The environment ------------------------------------------------------------------------------------------------------


def _settings_fault(case: Variables) -> str:
    """The environment gives settings that can be used, or is refused with the variable's name; sizes are sizes."""
    before = {name: os.environ.pop(name, None) for name in VARIABLES}
    os.environ.update(case.values)
    try:
        settings = read_settings()
    except CacheError as error:
        return "" if any(name in error.problem for name in VARIABLES) else f"it is refused as {error.problem!r}"
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    if not settings.cache_dir.is_absolute() or settings.cache_limit < 1 or settings.compiler == "":
        return f"it is read as {settings}"
    try:
        size = parse_size(case.values.get("GRIDSTONE_CACHE_LIMIT", ""))
    except ValueError:
        size = None
    told = bool(settings.complaints)
    stated = bool(case.values.get("GRIDSTONE_CACHE_LIMIT"))
    if told != (stated and size is None) or (size is not None and size != settings.cache_limit):
        return f"a limit of {size} is read as {settings.cache_limit}, with {len(settings.complaints)} complaints"
    return ""


def _draw_variables(choose: Choose, wanted: Wanted) -> Variables:
    pieces = ["~", "~nobody", "/", ".", "a b", "'", '"', "\\", "2GiB", "0", "-1", "1.5", "kb", " ", "9" * 20, "é", "\n"]

    def value() -> str:
        joined = "".join(choose.some(0, 3, lambda: choose.one(pieces)))
        return (joined if choose.flag() else choose.text(6)).replace("\0", "")

    return Variables({name: value() for name in choose.shuffled(VARIABLES)[: choose.integer(0, len(VARIABLES))]})


LAWS: tuple[Law[Any], ...] = (
    Law("key", Keys, _draw_keys, _key_fault, examples=150),
    Law("entry", Bytes, draw_bytes, _entry_fault),
    Law("sealed_entry", Body, _draw_sealed_entry, _sealed_entry_fault),
    *cached.LAWS,
    Law("artefact", Bytes, _draw_artefact, _artefact_fault),
    Law("settings", Variables, _draw_variables, _settings_fault),
)
SUBJECT = LawSubject("entries", LAWS)
