"""Laws of the folder that a cache lies in: its books of tuning records and its store of artefacts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from gridstone.ir.errors import SpecError
from gridstone.kernel_cache.key import Key, sha256
from gridstone.kernel_cache.records import MIGRATIONS, SCHEMA, Environment, Proof, Record, RecordBook
from gridstone.kernel_cache.store import Store
from gridstone.proof.fuzz.damage import Body, Bytes, Edit, draw_body, draw_bytes, draw_edits, edited, folder, sealed
from gridstone.proof.fuzz.hypothesis_law import Choose, Law
from gridstone.proof.fuzz.subject import Wanted

MOST = 1 << 16  # bytes of a blob in a case
_LIMIT = 1 << 30


class Blobs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Blobs that a store keeps, each under a key of its own, and edits of the files that hold them.

    Args:
        blobs: Sizes in bytes; blobs of one size are the same bytes.
        damage: (number of the file in the order of their paths, its edits); None removes it.
    """

    blobs: tuple[int, ...]
    damage: tuple[tuple[int, tuple[Edit, ...] | None], ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.blobs) <= 4 or not 0 <= min(self.blobs) <= max(self.blobs) <= MOST:
            raise SpecError(f"blobs of {self.blobs} bytes are none, or too large")
        for _, edits in self.damage:
            edited(b"", edits or ())


# Records --------------------------------------------------------------------------------------------------------------


def _record(**changed: Any) -> Record:
    made = Environment("0.1", "2.10.0", "g++ 13.2.0", "Some CPU", "ab", 2, "2026-01-02T03:04:05")
    plain = Record(
        "gemm[...]", "cpp:avx2", "r", "h", "s(a=1)", (0.5, 0.25), "winner", "", made, Proof(3, 0.5, 0.5), 1.0
    )
    return msgspec.structs.replace(plain, **changed)


def _book(root: Path) -> tuple[RecordBook, Record, Path]:
    """Return a book that keeps two records, the first of them, and the file that holds both."""
    winner = _record()
    book = RecordBook(root)
    book.put(
        *_problem(winner), (winner, _record(schedule="s(a=2)", status="failed", samples=(), proof=None, budget=None))
    )
    (path,) = (root / "records" / f"v{SCHEMA}").glob("*.json")
    return book, winner, path


def _problem(record: Record) -> tuple[str, str, int]:
    return record.spec, record.environment.device, record.environment.threads


def _records_fault(case: Bytes) -> str:
    """A book's file is read as it was written, or is set aside; then records are kept again."""
    with folder() as root:
        book, winner, path = _book(root)
        content = path.read_bytes()
        path.write_bytes(edited(content, case.edits))
        return _book_fault(root, book, winner, whole=path.read_bytes() == content)


def _sealed_records_fault(case: Body) -> str:
    """JSON that carries its own hash is a book of that very problem, or of an older schema, or is set aside."""
    with folder() as root:
        book, winner, path = _book(root)
        content = path.read_bytes()
        path.unlink()
        path = root / "records" / f"v{case.schema}" / path.name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(sealed("records", case))
        return _book_fault(root, book, winner, whole=None if path.read_bytes() != content else True)


def _book_fault(root: Path, book: RecordBook, winner: Record, whole: bool | None) -> str:
    """Check what a book reads from its folder. whole: whether its file is as it was; None where that is not known."""
    problem = _problem(winner)
    found = book.get(*problem)
    if whole is not None and (len(found) == 2 and found[0] == winner) != whole:
        return f"its {'whole' if whole else 'damaged'} file is read as {found}"
    if any(_problem(record) != problem for record in found):
        return f"records of another problem are given: {found}"
    if found != book.get(*problem) or list(found) != [record for record in book.all() if _problem(record) == problem]:
        return "it is read differently at the second look"
    if whole is False and not any((root / "quarantine").glob("*")):
        return "a damaged file is not set aside"
    again = _record(samples=(0.125,), reason="again")
    book.put(*problem, (again,))
    kept = RecordBook(root).get(*problem)
    return "" if kept and kept[0] == again else f"a record put afterwards is not the winner of {kept}"


def _draw_sealed_records(choose: Choose, wanted: Wanted) -> Body:
    other = _record(schedule="s(a=2)", status="loser", proof=None)
    records = [msgspec.to_builtins(record) for record in (_record(), other)]
    book = {"spec": "gemm[...]", "device": "Some CPU", "threads": 2, "records": records}
    return draw_body(choose, book, sorted({SCHEMA, *MIGRATIONS}))


# The store ------------------------------------------------------------------------------------------------------------


def _store_fault(case: Blobs) -> str:
    """A key gives the very bytes that were kept, or nothing, and a build mends it; other keys are not touched."""
    with folder() as root:
        store = Store(root, _LIMIT)
        kept = {Key("cpp", (("n", str(n)),)): bytes([size % 251]) * size for n, size in enumerate(case.blobs)}
        for key, blob in kept.items():
            store.put(key, blob, ".so")
        files = sorted(path for room in ("entries", "blobs") for path in (root / room).rglob("*") if path.is_file())
        was = {path: path.read_bytes() for path in files}
        for number, edits in case.damage:
            path = files[number % len(files)]
            if edits is None:
                path.unlink(missing_ok=True)
            elif path.exists():
                path.write_bytes(edited(path.read_bytes(), edits))
        now = {path: path.read_bytes() if path.exists() else None for path in files}
        bad = {path for path in files if now[path] != was[path]}
        if store.usage().blobs > len(kept) or len(store.entries()) > len(kept):
            return f"{len(kept)} blobs are counted as {store.usage()}"
        told = store.verify()
        if bool(told) != any(now[path] is not None or _entry_of(path, was, now) for path in bad):
            return f"verify says {told} about {len(bad)} damaged files"
        for key, blob in kept.items():
            entry, place = _files_of(root, key, blob)
            whole = not bad & {entry, place}
            fault = _get_fault(store, key, blob, whole, now[entry] is not None)
            if fault:
                return fault
        mended = [
            Path(store.get_or_build(key, lambda blob=blob: blob, ".so").path).read_bytes() == blob
            for key, blob in kept.items()
        ]
        store.prune()
        return "" if all(mended) and not store.verify() else f"a build does not mend it: {store.verify()}"


def _files_of(root: Path, key: Key, blob: bytes) -> tuple[Path, Path]:
    name = sha256(blob)
    return root / "entries" / key.digest[:2] / f"{key.digest}.json", root / "blobs" / name[:2] / f"{name}.so"


def _entry_of(path: Path, was: dict[Path, bytes], now: dict[Path, bytes | None]) -> bool:
    """Whether a blob that is gone is still named by an entry that is there and whole."""
    return any(
        found == was[place] and path.name[:64].encode() in found
        for place, found in now.items()
        if found is not None and place.suffix == ".json"
    )


def _get_fault(store: Store, key: Key, blob: bytes, whole: bool, there: bool) -> str:
    found = store.get(key)
    if (found is not None) != whole:
        return f"a {'whole' if whole else 'damaged'} entry is {'a miss' if found is None else 'a hit'}"
    if found is not None and found.read_bytes() != blob:
        return "another blob is given"
    said = store.explain_miss(key)
    if found is None and there and not any((store.root / "quarantine").glob(f"{key.digest}*")):
        return "a damaged entry is not set aside"
    return "" if ("it is kept" in said) == whole else f"a miss is explained by {said!r}"


def _draw_blobs(choose: Choose, wanted: Wanted) -> Blobs:
    blobs = choose.some(1, 3, lambda: choose.one([0, 1, 2, 100, 5000]))
    damage = choose.some(
        0, 2, lambda: (choose.integer(0, 5), draw_edits(choose, 1, 2) if choose.integer(0, 4) else None)
    )
    return Blobs(tuple(blobs), tuple(damage))


LAWS: tuple[Law[Any], ...] = (
    Law("records", Bytes, draw_bytes, _records_fault),
    Law("sealed_records", Body, _draw_sealed_records, _sealed_records_fault, examples=100),
    Law("store", Blobs, _draw_blobs, _store_fault),
)
