"""Keys: everything an artefact depends on, field by field, and the sealed JSON in which an entry keeps its key.

A key holds the texts themselves (emitted source, headers, flags), not only their hashes, so that a miss can be
explained down to the first differing line.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from gridstone.ir.errors import CacheError

SCHEMA = 1  # part of every digest, so versions of Gridstone that share a folder never touch each other's entries

_KIND = re.compile(r"[a-z][a-z0-9_]{0,63}")
_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_.:/+-]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SUFFIX = re.compile(r"(\.[a-z0-9]{1,12}){0,2}")
_LONG = 100  # characters; a longer value is shown as its hash and its first differing line
_ABSENT = "(absent)"


def sha256(data: bytes) -> str:
    """Return the SHA-256 as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class Key:
    """The identity of an artefact.

    Args:
        kind: What sort of artefact, such as "cpp"; misses are explained among keys of one kind.
        fields: (name, value) pairs, most telling first, since the first that differs explains a miss. Their order is
            not part of the identity. No value may hold an absolute path or a time.

    Raises:
        CacheError: A malformed or repeated name, or a value that is not Unicode text.
    """

    kind: str
    fields: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        if not _KIND.fullmatch(self.kind):
            raise CacheError(f"malformed kind of key {self.kind!r}", f"match {_KIND.pattern}")
        names = [name for name, _ in self.fields]
        for name, value in self.fields:
            if not _FIELD.fullmatch(name) or names.count(name) > 1:
                raise CacheError(
                    f"malformed or repeated field {name!r} of a {self.kind} key", f"match {_FIELD.pattern}"
                )
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise CacheError(f"field {name!r} of a {self.kind} key is not Unicode: {error}") from None

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON: sorted names, no spaces, ASCII."""
        content = {"schema": SCHEMA, "kind": self.kind, "fields": dict(self.fields)}
        return sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


@dataclass(frozen=True, slots=True)
class Difference:
    """The first field in which two keys differ, with both values as people can read them."""

    field: str
    wanted: str
    kept: str

    def __str__(self) -> str:
        return f"{self.field}: wanted {self.wanted}, kept {self.kept}"


def first_difference(wanted: Key, kept: Key) -> Difference | None:
    """Return the first difference in the order of the wanted key's fields, or None when the keys are the same.

    >>> print(first_difference(Key("cpp", (("flags", "-O3"),)), Key("cpp", (("flags", "-O2"),))))
    flags: wanted '-O3', kept '-O2'
    """
    if wanted.kind != kept.kind:
        return Difference("kind", repr(wanted.kind), repr(kept.kind))
    ours, theirs = dict(wanted.fields), dict(kept.fields)
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        if ours.get(name) != theirs.get(name):
            return Difference(name, _show(ours.get(name), theirs.get(name)), _show(theirs.get(name), ours.get(name)))
    return None


def nearest_key(wanted: Key, kept: Iterable[Key]) -> Key | None:
    """Return the key of the same kind with the most equal fields, the first of them on a tie."""
    fields = set(wanted.fields)
    same_kind = (key for key in kept if key.kind == wanted.kind)
    return max(same_kind, key=lambda key: len(fields.intersection(key.fields)), default=None)


def _show(text: str | None, other: str | None) -> str:
    if text is None:
        return _ABSENT
    if len(text) <= _LONG and "\n" not in text:
        return repr(text)
    name = f"sha256 {sha256(text.encode())[:12]}"
    if other is None:
        return name
    lines, others = text.split("\n"), other.split("\n")
    equal = next(
        (i for i, (a, b) in enumerate(zip(lines, others, strict=False)) if a != b), min(len(lines), len(others))
    )
    if equal >= len(lines):
        return f"{name}, which ends before line {equal + 1}"
    line, beside = lines[equal], others[equal] if equal < len(others) else ""
    column = next(
        (i for i, (a, b) in enumerate(zip(line, beside, strict=False)) if a != b), min(len(line), len(beside))
    )
    start = max(0, column - _LONG // 2) if len(line) > _LONG else 0
    shown = ("..." if start else "") + line[start : start + _LONG] + ("..." if start + _LONG < len(line) else "")
    return f"{name}, line {equal + 1} {shown!r}"


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the store keeps about an artefact: its whole key, and the hash, size in bytes and name suffix of its blob.

    Raises:
        CacheError: A hash, size or suffix outside its grammar; the blob's path is made of them.
    """

    kind: str
    fields: tuple[tuple[str, str], ...]
    blob: str
    size: int
    suffix: str

    def __post_init__(self) -> None:
        check_suffix(self.suffix)
        if not _DIGEST.fullmatch(self.blob) or self.size < 0:
            raise CacheError(f"malformed blob {self.blob!r} of {self.size} bytes")

    @property
    def key(self) -> Key:
        """The key under which the blob is kept."""
        return Key(self.kind, self.fields)


def check_suffix(suffix: str) -> None:
    """Raise CacheError unless this is the ending of a file's name: nothing, ".so", ".cubin.json"."""
    if not _SUFFIX.fullmatch(suffix):
        raise CacheError(f"malformed suffix {suffix!r}", f"match {_SUFFIX.pattern}")


class _Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: str
    schema: int
    sha256: str
    body: msgspec.Raw


def seal(kind: str, schema: int, body: msgspec.Struct) -> bytes:
    """Return canonical JSON that carries its kind, its schema version and the hash of all three."""
    text = msgspec.json.encode(body)
    return msgspec.json.encode(_Sealed(kind, schema, _seal_hash(kind, schema, text), msgspec.Raw(text)))


def unseal(kind: str, data: bytes) -> tuple[int, bytes]:
    """Return the schema version and the JSON of the body.

    Raises:
        CacheError: Not the exact bytes that `seal` gave for this kind, of any schema version.
    """
    try:
        sealed = msgspec.json.decode(data, type=_Sealed)
    except (ValueError, RecursionError) as error:
        raise CacheError(f"not a sealed file: {error}") from None
    body = bytes(sealed.body)
    if sealed.kind != kind:
        raise CacheError(f"of kind {sealed.kind!r}, not {kind!r}")
    if sealed.sha256 != _seal_hash(kind, sealed.schema, body) or msgspec.json.encode(sealed) != data:
        raise CacheError("changed since it was written: its hash does not fit")
    return sealed.schema, body


def _seal_hash(kind: str, schema: int, body: bytes) -> str:
    return sha256(f"{kind} {schema}\n".encode() + body)


def seal_entry(entry: Entry) -> bytes:
    """Return the file of an entry."""
    return seal("entry", SCHEMA, entry)


def unseal_entry(data: bytes, digest: str) -> Entry:
    """Return the entry that must be kept under this digest.

    Raises:
        CacheError: The file is damaged, of another schema version, or belongs under another digest.
    """
    schema, body = unseal("entry", data)
    if schema != SCHEMA:
        raise CacheError(f"of schema {schema}, not {SCHEMA}")
    try:
        entry = msgspec.json.decode(body, type=Entry)
    except (ValueError, RecursionError) as error:
        raise CacheError(f"not an entry: {error}") from None
    if entry.key.digest != digest:
        raise CacheError("of another key than its name says")
    return entry
