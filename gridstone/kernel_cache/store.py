"""The store: artefacts by the hash of everything they depend on, safe against crashes, races and damage.

blobs/ab/<sha256 of the blob><suffix>   the artefact's bytes
entries/ab/<key digest>.json            the whole key, and the hash, size and suffix of its blob (sealed JSON)
quarantine/                             what failed verification, for people to look at
locks/                                  one lock per key, only so that a key is not built twice at once

A write is blob, then entry: each to a temporary file beside its place, fsync, rename, fsync of the folder. So a crash
leaves the old entry or the new one. A read takes no lock, verifies both hashes, and treats whatever is wrong as a miss.
Modification times decide only what to prune first.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from gridstone.ir.errors import CacheError
from gridstone.kernel_cache.files import (
    TEMPORARY,
    age,
    exclusive,
    free,
    listed,
    private_folder,
    read_regular,
    remedy,
    remove,
    set_aside,
    status,
    touch,
    warn_unwritable,
    write_atomically,
    write_over,
)
from gridstone.kernel_cache.key import (
    Entry,
    Key,
    check_suffix,
    first_difference,
    nearest_key,
    seal_entry,
    sha256,
    unseal_entry,
)

LOCK_SECONDS = 600.0  # a build may take minutes; past this the holder is taken for hung, and the key is built twice
YOUNG_SECONDS = 60.0  # whoever wrote an entry may not have loaded it yet: pruning leaves it alone this long
STALE_SECONDS = 3600.0  # a temporary file, or a blob without an entry, is a crash's leftover once it is this old
QUARANTINED = 32  # files kept in quarantine

_LOG = logging.getLogger("gridstone")
_ENTRY = re.compile(r"([0-9a-f]{64})\.json")
_BLOB = re.compile(r"([0-9a-f]{64})(\.[a-z0-9]{1,12}){0,2}")


@dataclass(frozen=True, slots=True)
class Built:
    """What `get_or_build` gives.

    Args:
        path: The artefact. When it is not persisted, it is gone when this process exits.
        hit: Whether it was there already.
        persisted: Whether a later process will find it.
    """

    path: Path
    hit: bool
    persisted: bool


@dataclass(frozen=True, slots=True)
class Counters:
    """What one `Store` object has seen since it was made."""

    hits: int = 0
    misses: int = 0
    builds: int = 0
    quarantined: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What the folder holds; `size` is in bytes and includes the quarantine."""

    entries: int
    blobs: int
    quarantined: int
    size: int


@dataclass(frozen=True, slots=True)
class _Kept:
    entry: Entry
    path: Path
    blob: bytes


class Store:
    """A content-addressed cache of build artefacts in one folder, shared by any number of threads and processes.

    Args:
        root: Its folder; made, with mode 0700, on the first write.
        limit_bytes: Size that pruning keeps to, except for entries written within the last `YOUNG_SECONDS`.
        lock_seconds: How long to wait for another process that is building the same key.
    """

    def __init__(self, root: Path, limit_bytes: int, lock_seconds: float = LOCK_SECONDS) -> None:
        self.root = root.absolute()
        self.limit_bytes = limit_bytes
        self._lock_seconds = lock_seconds
        self._guard = Lock()
        self._counters = Counters()
        self._room = 0  # bytes that may be written before the folder is measured again
        self._private: dict[str, tuple[Path, str]] = {}  # key digest -> temporary file and its hash
        self._rejected: set[Path] = set()  # blobs of no use that may still be there: the folder may be read-only

    def get(self, key: Key) -> Path | None:
        """Return the path of a verified artefact, or None; never raises on what it finds in the folder."""
        found = self._find(key.digest)
        self._count(hits=int(found is not None), misses=int(found is None))
        return found.path if found else None

    def put(self, key: Key, blob: bytes, suffix: str = "") -> Path:
        """Keep an artefact and return its path; replaces what was kept under the key.

        Args:
            key: Its identity.
            blob: Its bytes.
            suffix: Ending of the file's name, such as ".so".

        Raises:
            CacheError: The folder cannot be written, or the suffix is malformed.
        """
        check_suffix(suffix)
        try:
            return self._persist(key, blob, suffix)
        except OSError as error:
            raise CacheError(f"{self.root} cannot be written: {error.strerror}", remedy(error)) from error

    def get_or_build(self, key: Key, build: Callable[[], bytes], suffix: str = "") -> Built:
        """Return the artefact of a key, building it if need be, once among all processes that ask at the same time.

        A folder that cannot be written costs one warning and never the artefact.

        Args:
            key: Its identity.
            build: Makes its bytes; its exceptions pass through and leave no trace in the cache.
            suffix: Ending of the file's name, such as ".so".

        Raises:
            CacheError: Neither the cache nor any temporary folder can be written, or the suffix is malformed.
        """
        check_suffix(suffix)
        digest = key.digest
        found = self._find(digest)
        if found is None:
            with exclusive(self.root / "locks" / f"{digest}.lock", self._lock_seconds):
                found = self._find(digest)
                if found is None:
                    self._count(misses=1, builds=1)
                    return self._keep(key, build(), suffix)
        self._count(hits=1)
        return found

    def reject(self, key: Key, why: str) -> None:
        """Set an artefact aside whose bytes are those that were kept, but of no use: it is a miss from now on."""
        digest = key.digest
        path = self._entry_path(digest)
        private = self._private.pop(digest, None)
        if private:
            remove(private[0])
        places = [path]
        with contextlib.suppress(CacheError, OSError):
            if (data := read_regular(path)) is not None:
                # Other entries of these bytes find them missing, so they are built anew too.
                places.append(self._blob_path(unseal_entry(data, digest)))
        self._rejected.update(places[1:])
        self._count(quarantined=sum([set_aside(place, self.root, why) for place in places if status(place)]))

    def entries(self) -> tuple[Entry, ...]:
        """Return the readable entries, most recently used first; blobs are not read."""
        return tuple(entry for _, _, entry in reversed(self._by_use()) if entry)

    def usage(self) -> Usage:
        """Measure the folder without reading any file."""
        rooms = (self._files("entries"), self._files("blobs"), self._quarantine())
        sizes = [[found.st_size for path in room if (found := status(path))] for room in rooms]
        return Usage(len(sizes[0]), len(sizes[1]), len(sizes[2]), sum(map(sum, sizes)))

    def clear(self) -> int:
        """Remove all artefacts, the quarantine and the locks, nothing else; return the number of entries removed."""
        gone = sum(remove(path) for path in self._files("entries"))
        for path in (*self._files("blobs"), *self._quarantine(), *self._locks(), *self._leftovers()):
            remove(path)
        self._private.clear()
        return gone

    def prune(self) -> int:
        """Remove leftovers, then the least recently used entries until the limit is kept; return the bytes freed."""
        return self._prune(just_written="")

    def verify(self, examine: Callable[[Entry, bytes], str] = lambda entry, blob: "") -> list[str]:
        """Check every entry and blob and return what is wrong, one line each; changes nothing.

        Args:
            examine: Says what is wrong with the bytes of an artefact that are those that were kept; empty for nothing.
        """
        problems: list[str] = []
        for path in (*self._files("entries"), *self._files("blobs")):
            try:
                if path.suffix == ".json" and path.parent.parent.name == "entries":
                    kept = self._open(path)
                    if kept is not None and (why := examine(kept.entry, kept.blob)):
                        problems.append(f"{path.relative_to(self.root)}: its blob {kept.path.name} {why}")
                elif (data := read_regular(path)) is not None and sha256(data) != path.name[:64]:
                    problems.append(f"{path.relative_to(self.root)}: its bytes are not those that its name says")
            except CacheError as error:
                problems.append(f"{path.relative_to(self.root)}: {error.problem}")
            except OSError as error:
                problems.append(f"{path.relative_to(self.root)}: unreadable: {error.strerror}")
        return problems

    def explain_miss(self, key: Key) -> str:
        """Say why a key is not found, naming the first field that differs from the nearest kept entry's."""
        digest = key.digest
        if self._find(digest):
            return f"{key.kind} {digest[:12]} is not a miss: it is kept"
        head = f"{key.kind} {digest[:12]} is a miss"
        if any(path.name.startswith(digest) for path in self._quarantine()):
            return f"{head}: its entry was damaged or could not be loaded, and is in the folder quarantine"
        kept = [entry.key for entry in self.entries()]
        nearest = nearest_key(key, kept)
        if nearest is None:
            return f"{head}: none of the {len(kept)} kept entries is of this kind"
        equal = len(set(key.fields) & set(nearest.fields))
        place = f"the nearest kept entry {nearest.digest[:12]} ({equal} of {len(key.fields)} fields equal)"
        return f"{head}: {place} differs first in {first_difference(key, nearest)}"

    def counters(self) -> Counters:
        """Return a snapshot."""
        return self._counters

    def _count(self, hits: int = 0, misses: int = 0, builds: int = 0, quarantined: int = 0) -> None:
        with self._guard:
            now = self._counters
            self._counters = Counters(
                now.hits + hits, now.misses + misses, now.builds + builds, now.quarantined + quarantined
            )

    def _entry_path(self, digest: str) -> Path:
        return self.root / "entries" / digest[:2] / f"{digest}.json"

    def _blob_path(self, entry: Entry) -> Path:
        return self.root / "blobs" / entry.blob[:2] / f"{entry.blob}{entry.suffix}"

    def _find(self, digest: str) -> Built | None:
        path = self._entry_path(digest)
        found = None
        try:
            found = self._open(path)
        except CacheError as error:
            self._count(quarantined=int(set_aside(path, self.root, error.problem)))
        except OSError as error:  # not damage, perhaps not lasting: permissions, too many open files, a network folder
            _LOG.info("%s cannot be read: %s", path, error.strerror)
        if found is not None and found.path not in self._rejected:
            touch(path)
            return Built(found.path, hit=True, persisted=True)
        private = self._private.get(digest)
        with contextlib.suppress(CacheError, OSError):
            if private and (data := read_regular(private[0])) is not None and sha256(data) == private[1]:
                return Built(private[0], hit=True, persisted=False)
        return None

    def _open(self, path: Path) -> _Kept | None:
        """Return what an entry's file keeps, verified; None when there is no entry; CacheError when it is damaged."""
        data = read_regular(path)
        if data is None:
            return None
        entry = unseal_entry(data, path.name.removesuffix(".json"))
        place = self._blob_path(entry)
        blob = read_regular(place)
        if blob is None:
            raise CacheError(f"its blob {place.name} is missing")
        if len(blob) != entry.size or sha256(blob) != entry.blob:
            raise CacheError(f"its blob {place.name} is damaged")
        return _Kept(entry, place, blob)

    def _persist(self, key: Key, blob: bytes, suffix: str) -> Path:
        entry = Entry(key.kind, key.fields, sha256(blob), len(blob), suffix)
        digest, place, text = key.digest, self._blob_path(entry), seal_entry(entry)
        # The blob is written even where it exists: that mends a damaged one, and keeps it young for a pruner elsewhere.
        for path, data in ((place, blob), (self._entry_path(digest), text)):
            write_over(path, data, self.root)
        self._rejected.discard(place)
        with self._guard:
            self._room -= len(blob) + len(text)
            due = self._room < 0
        if due:
            self._prune(digest)
        return place

    def _keep(self, key: Key, blob: bytes, suffix: str) -> Built:
        try:
            return Built(self._persist(key, blob, suffix), hit=False, persisted=True)
        except OSError as error:
            warn_unwritable(self.root, error)
        name = sha256(blob)
        refusals: list[OSError] = []
        for base in (None, "/dev/shm"):  # a disk that is full often holds the temporary folder too
            try:
                path = private_folder(base) / f"{name}{suffix}"
                write_atomically(path, blob)
            except OSError as error:
                refusals.append(error)
                continue
            self._private[key.digest] = (path, name)
            return Built(path, hit=False, persisted=False)
        problem = f"neither {self.root} nor a temporary folder can be written: {refusals[0].strerror}"
        raise CacheError(problem, remedy(refusals[0])) from refusals[0]

    def _prune(self, just_written: str) -> int:
        before, now = self.usage().size, time.time()
        locks = [path for path in self._locks() if age(path, now) > 24 * STALE_SECONDS]
        bad = sorted(self._quarantine(), key=lambda path: age(path, now))[QUARANTINED:]
        for path in (*self._leftovers(), *locks, *bad):
            remove(path)
        size = self.usage().size
        if size > self.limit_bytes:
            size = self._evict(size, just_written, now)
        with self._guard:  # what other processes write is not seen until the next measurement, so it is never far away
            self._room = min(self.limit_bytes - size, self.limit_bytes // 16)
        return before - size

    def _evict(self, size: int, just_written: str, now: float) -> int:
        kept = self._by_use()
        uses = Counter(self._blob_path(entry) for _, _, entry in kept if entry)
        for path in self._files("blobs"):
            if path not in uses and age(path, now) > STALE_SECONDS:
                size -= free(path)
        for _, path, entry in kept:
            if size <= self.limit_bytes * 9 // 10:  # some slack, or the next write would prune again
                break
            if path.stem == just_written or 0 <= age(path, now) < YOUNG_SECONDS:
                continue
            size -= free(path)
            if entry is None:
                continue
            blob = self._blob_path(entry)
            uses[blob] -= 1
            if not uses[blob] and not 0 <= age(blob, now) < YOUNG_SECONDS:
                size -= free(blob)
        return size

    def _by_use(self) -> list[tuple[float, Path, Entry | None]]:
        """Return (time of use, file, entry or None if unreadable), least recently used first."""
        rows: list[tuple[float, Path, Entry | None]] = []
        for path in self._files("entries"):
            found, entry = status(path), None
            with contextlib.suppress(CacheError, OSError):
                if (data := read_regular(path)) is not None:
                    entry = unseal_entry(data, path.name.removesuffix(".json"))
            if found:
                rows.append((found.st_mtime, path, entry))
        return sorted(rows, key=lambda row: row[:2])

    def _files(self, room: str) -> Iterator[Path]:
        name = _ENTRY if room == "entries" else _BLOB
        return (path for path in self._shards(room) if name.fullmatch(path.name))

    def _leftovers(self) -> Iterator[Path]:
        """Yield the temporary files of writers that died."""
        now = time.time()
        records = (path for version in listed(self.root / "records") for path in listed(version))
        for path in (*self._shards("entries"), *self._shards("blobs"), *records):
            if path.name.startswith(TEMPORARY) and age(path, now) > STALE_SECONDS:
                yield path

    def _shards(self, room: str) -> Iterator[Path]:
        for shard in listed(self.root / room):
            if re.fullmatch("[0-9a-f]{2}", shard.name):
                yield from listed(shard)

    def _quarantine(self) -> Iterator[Path]:
        return (path for path in listed(self.root / "quarantine") if path.suffix == ".bad")

    def _locks(self) -> Iterator[Path]:
        return (path for path in listed(self.root / "locks") if path.suffix == ".lock")
