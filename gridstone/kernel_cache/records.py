"""Tuning records: what was measured, on what, how well proven. Portable: no paths, no binaries, strict JSON.

A problem is (spec, device, threads). Its records lie in one sealed file, the winner first:
`records/v<schema>/<hash of the problem>.json`. Versions of Gridstone with different schemas share a folder without
touching each other's files.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Literal, get_args

import msgspec

from gridstone.ir.errors import CacheError
from gridstone.kernel_cache.files import exclusive, listed, read_regular, set_aside, warn_unwritable, write_over
from gridstone.kernel_cache.key import seal, sha256, unseal

SCHEMA = 2


def _without_budgets(book: object) -> object:
    """Books of schema 1 hold no budgets, which may be left out: nobody knows them any more."""
    return book


# schema n -> what turns a decoded book of n into one of n + 1
MIGRATIONS: dict[int, Callable[[object], object]] = {1: _without_budgets}
# Reasons of winners that a later search may better; an empty reason is that of a search that came to its own end.
INTERRUPTED = "interrupted"
UNRACED = "not raced: short of time"
PARTIAL = "searched in part: short of time"
TEXT_LIMIT = 8192  # characters of a spec, a schedule or a reason
NAME_LIMIT = 256  # characters of any other text
SAMPLE_LIMIT = 10_000
BOOK_LIMIT = 2000  # records of one problem; failures, then the slowest, go first
LOCK_SECONDS = 60.0

Status = Literal["winner", "loser", "failed"]


class Environment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where and with what a record was measured.

    Args:
        gridstone: Version.
        torch: Version.
        compiler: Name and version of the compiler that built the kernel; empty for a library call.
        device: Name of the CPU or GPU, precise enough that records of another one do not apply.
        cpu_flags_digest: Hash of the instruction sets that the CPU reports; empty on a GPU.
        threads: Threads that the kernel ran with; 1 on a GPU.
        created: ISO 8601 date and time.
    """

    gridstone: str
    torch: str
    compiler: str
    device: str
    cpu_flags_digest: str
    threads: int
    created: str

    def __post_init__(self) -> None:
        for field in ("gridstone", "torch", "compiler", "device", "cpu_flags_digest", "created"):
            _bounded(field, getattr(self, field), NAME_LIMIT)
        if self.threads < 1:
            raise CacheError(f"threads={self.threads} of an environment is not positive")
        try:
            datetime.fromisoformat(self.created)
        except ValueError:
            raise CacheError(f"created={self.created!r} is not an ISO 8601 date") from None


class Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a kernel compared with the float64 reference.

    Args:
        cases: Inputs that were compared.
        worst_element: Largest ratio of an element's error to its tolerance; at most 1 for a winner.
        worst_rms: Largest ratio of a root-mean-square error to its tolerance; at most 1 for a winner.
    """

    cases: int
    worst_element: float
    worst_rms: float

    def __post_init__(self) -> None:
        if self.cases < 1:
            raise CacheError(f"a proof of {self.cases} cases proves nothing")
        for field in ("worst_element", "worst_rms"):
            ratio = getattr(self, field)
            if not (math.isfinite(ratio) and ratio >= 0):
                raise CacheError(f"{field}={ratio} of a proof is not finite", "a kernel that gave NaN has no proof")


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One measured (or failed) way to compute a spec.

    Args:
        spec: Text of the spec.
        target: Text of the target, such as "cpp:avx2".
        recipe: Name of the recipe.
        recipe_hash: Hash of the recipe and its templates; a record with another hash is stale.
        schedule: Text of the schedule.
        samples: Raw times in seconds; may be empty for a failure only.
        status: "winner" (at most one per problem), "loser" or "failed".
        reason: Why it failed or lost, or what a winner's search left undone, for people; may be empty.
        environment: Where it was measured.
        proof: Required, and within tolerance, for a winner; None when nothing finite was compared.
        budget: Seconds of the search that made it; None when they are not known.

    Raises:
        CacheError: Names the field that is not as above.
    """

    spec: str
    target: str
    recipe: str
    recipe_hash: str
    schedule: str
    samples: tuple[float, ...]
    status: Status
    reason: str
    environment: Environment
    proof: Proof | None = None
    budget: float | None = None

    def __post_init__(self) -> None:
        for field in ("spec", "schedule", "reason"):
            _bounded(field, getattr(self, field), TEXT_LIMIT)
        for field in ("target", "recipe", "recipe_hash"):
            _bounded(field, getattr(self, field), NAME_LIMIT)
        if self.status not in get_args(Status):
            raise CacheError(f"status={self.status!r} of a record", f"one of {', '.join(get_args(Status))}")
        if len(self.samples) > SAMPLE_LIMIT or not all(math.isfinite(s) and s > 0 for s in self.samples):
            raise CacheError(f"samples of {self.schedule} are not at most {SAMPLE_LIMIT} positive numbers of seconds")
        if not self.samples and self.status != "failed":
            raise CacheError(f"a {self.status} without samples: {self.schedule}", "measure it first")
        if self.status == "winner" and (self.proof is None or max(self.proof.worst_element, self.proof.worst_rms) > 1):
            raise CacheError(f"{self.schedule} may not win: its proof is {self.proof}", "only proven kernels win")
        if self.budget is not None and not (math.isfinite(self.budget) and self.budget >= 0):
            raise CacheError(
                f"budget={self.budget} of a record is no number of seconds", "give None if it is not known"
            )

    @property
    def median(self) -> float:
        """Median time in seconds; infinite without samples."""
        return statistics.median(self.samples) if self.samples else math.inf

    @property
    def doubt(self) -> str:
        """Why nobody knows that this winner is faster than what it was to be raced against; empty when it raced."""
        return self.reason if self.status == "winner" and self.reason in (INTERRUPTED, UNRACED) else ""

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """What a later record of the same problem replaces it by: target, recipe, recipe hash, schedule."""
        return self.target, self.recipe, self.recipe_hash, self.schedule


class _Book(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of one file."""

    spec: str
    device: str
    threads: int
    records: tuple[Record, ...]

    def __post_init__(self) -> None:
        problem = (self.spec, self.device, self.threads)
        for record in self.records:
            if (record.spec, record.environment.device, record.environment.threads) != problem:
                raise CacheError(f"a record of another problem than {problem}: {record.schedule}")
        if len({record.identity for record in self.records}) < len(self.records):
            raise CacheError("two records of one schedule")
        if any(record.status == "winner" for record in self.records[1:]):
            raise CacheError("a winner that is not the first record")


class RecordBook:
    """All tuning records of one cache folder, shared by any number of threads and processes.

    Args:
        root: The cache's folder; records lie in `records` below it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._guard = Lock()
        self._memory: dict[str, tuple[Record, ...]] = {}  # what could not be written, by hash of the problem

    def get(self, spec: str, device: str, threads: int) -> tuple[Record, ...]:
        """Return the records of a problem, the winner first; never raises on what it finds in the folder."""
        name = _name(spec, device, threads)
        kept = self._memory.get(name)
        return self._read(name) if kept is None else kept

    def put(self, spec: str, device: str, threads: int, records: tuple[Record, ...]) -> None:
        """Merge records into those of a problem.

        A record replaces the one with its target, recipe, recipe hash and schedule. A winner among them becomes the
        winner of the file, and the one before it a loser; without one, the winner stays.

        Raises:
            CacheError: A record of another problem, or more than one winner. Never for an unwritable folder: then the
                records are kept in memory, with one warning.
        """
        if sum(record.status == "winner" for record in records) > 1:
            raise CacheError(f"more than one winner for {spec}", "give the fastest proven record as the winner")
        name = _name(spec, device, threads)
        with self._guard, exclusive(self.root / "locks" / f"records-{name}.lock", LOCK_SECONDS):
            book = _Book(spec, device, threads, _merge(self.get(spec, device, threads), records))
            text = _encode(book)
            try:
                write_over(self._path(name, SCHEMA), text, self.root)
            except OSError as error:
                warn_unwritable(self.root, error)
                self._memory[name] = book.records
            else:
                self._memory.pop(name, None)

    def all(self) -> Iterator[Record]:
        """Yield every record, problem by problem; unreadable files are set aside and skipped."""
        names = set(self._memory)
        for schema in _schemas():
            files = listed(self.root / "records" / f"v{schema}")
            names.update(path.stem for path in files if path.suffix == ".json")
        for name in sorted(names):
            kept = self._memory.get(name)
            yield from self._read(name) if kept is None else kept

    def _path(self, name: str, schema: int) -> Path:
        return self.root / "records" / f"v{schema}" / f"{name}.json"

    def _read(self, name: str) -> tuple[Record, ...]:
        for schema in _schemas():
            path = self._path(name, schema)
            try:
                data = read_regular(path)
                if data is not None:
                    return _decode(data, schema, name).records
            except CacheError as error:
                set_aside(path, self.root, error.problem)
            except OSError:
                continue
        return ()


def _schemas() -> list[int]:
    """Return the schemas that can be read, newest first."""
    return sorted({SCHEMA, *MIGRATIONS}, reverse=True)


def _name(spec: str, device: str, threads: int) -> str:
    return sha256(json.dumps([spec, device, threads]).encode())


def _encode(book: _Book) -> bytes:
    """Return the bytes of a file; CacheError when they could not be read back, so they are never written."""
    try:
        text = seal("records", SCHEMA, book)
    except (TypeError, ValueError) as error:  # such as a NumPy number
        raise CacheError(f"a record cannot be kept as JSON: {error}", "give plain int, float and str") from None
    _decode(text, SCHEMA, _name(book.spec, book.device, book.threads))
    return text


def _decode(data: bytes, schema: int, name: str) -> _Book:
    """Return the book in a file; CacheError when it is damaged or belongs elsewhere."""
    found, body = unseal("records", data)
    if found != schema:
        raise CacheError(f"of schema {found}, not {schema}")
    try:
        plain = msgspec.json.decode(body)
        for version in range(schema, SCHEMA):
            plain = MIGRATIONS[version](plain)
        book = msgspec.convert(plain, type=_Book)
    except CacheError:
        raise
    except Exception as error:  # of a migration that met what it did not expect
        raise CacheError(f"not records: {error!r}") from None
    if _name(book.spec, book.device, book.threads) != name:
        raise CacheError("records of another problem than the file's name says")
    return book


def _merge(kept: tuple[Record, ...], given: tuple[Record, ...]) -> tuple[Record, ...]:
    merged = {record.identity: record for record in (*kept, *given)}
    if any(record.status == "winner" for record in given):
        for record in kept:
            if record.status == "winner" and merged[record.identity] is record:
                demoted = msgspec.structs.replace(record, status="loser", reason="a later winner took its place")
                merged[record.identity] = demoted
    rank = get_args(Status).index
    ordered = sorted(merged.values(), key=lambda record: (rank(record.status), record.median, record.identity))
    return tuple(ordered[:BOOK_LIMIT])


def _bounded(field: str, text: str, limit: int) -> None:
    if len(text) > limit:
        raise CacheError(f"{field} of a record has {len(text)} characters, more than {limit}", "shorten it")
