"""Tuning records: strict, portable, merged under a lock, and never a crash whatever lies in the folder."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import gridstone
from gridstone.ir.errors import CacheError
from gridstone.kernel_cache import records as records_module
from gridstone.kernel_cache.key import seal, sha256
from gridstone.kernel_cache.records import Environment, Proof, Record, RecordBook, Status

REPO = Path(gridstone.__file__).parents[1]
SPEC, DEVICE, THREADS = "gemm[x: f16(M,64), w: f16(64,64)] -> f16(M,64)", "A CPU @ 2.0 GHz", 4
ENVIRONMENT = Environment("0.1.0", "2.10.0", "g++ 13.2", DEVICE, "ab12", THREADS, "2026-09-01T12:00:00+00:00")
PROOF = Proof(12, 0.5, 0.25)


def record(
    schedule: str, status: Status = "loser", samples: tuple[float, ...] = (2e-5, 1e-5, 3e-5), **other: str
) -> Record:
    proof = PROOF if status != "failed" else None
    names = {"spec": SPEC, "target": "cpp:avx2", "recipe": "direct", "recipe_hash": "h1", "reason": "", **other}
    return Record(**names, schedule=schedule, samples=samples, status=status, environment=ENVIRONMENT, proof=proof)


WINNER, LOSER, FAILED = record("a(m=1)", "winner"), record("a(m=2)"), record("a(m=3)", "failed", (), reason="crashed")


@pytest.fixture
def book(tmp_path: Path) -> RecordBook:
    return RecordBook(tmp_path / "cache")


def kept(book: RecordBook) -> tuple[Record, ...]:
    return book.get(SPEC, DEVICE, THREADS)


def put(book: RecordBook, *records: Record) -> None:
    book.put(SPEC, DEVICE, THREADS, records)


def file_of(book: RecordBook, schema: int = records_module.SCHEMA) -> Path:
    name = sha256(json.dumps([SPEC, DEVICE, THREADS]).encode())
    return book.root / "records" / f"v{schema}" / f"{name}.json"


def test_round_trip_with_the_winner_first(book: RecordBook) -> None:
    assert kept(book) == ()
    assert list(book.all()) == []
    fast = record("a(m=4)", samples=(1e-6,))
    put(book, FAILED, LOSER, fast, WINNER)
    assert kept(book) == kept(RecordBook(book.root)) == (WINNER, fast, LOSER, FAILED)
    assert list(book.all()) == [WINNER, fast, LOSER, FAILED]
    assert WINNER.median == 2e-5
    assert FAILED.median == math.inf
    assert file_of(book).stat().st_mode & 0o777 == 0o600
    assert str(book.root) not in file_of(book).read_text()


def test_problems_do_not_mix(book: RecordBook) -> None:
    put(book, WINNER)
    assert book.get(SPEC, DEVICE, THREADS + 1) == ()
    assert book.get(SPEC, "another", THREADS) == ()
    for spec, device, threads in (("other", DEVICE, THREADS), (SPEC, "other", THREADS), (SPEC, DEVICE, 1)):
        with pytest.raises(CacheError, match="another problem"):
            book.put(spec, device, threads, (WINNER,))
    assert list(book.all()) == [WINNER]


def test_the_newer_record_of_a_schedule_replaces_the_older(book: RecordBook) -> None:
    put(book, LOSER, FAILED)
    newer = record("a(m=2)", samples=(9e-5,))
    stale = record("a(m=2)", samples=(9e-5,), recipe_hash="h2")
    put(book, newer, stale)
    assert set(kept(book)) == {newer, stale, FAILED}


def test_the_winner_given_becomes_the_winner_of_the_file(book: RecordBook) -> None:
    put(book, WINNER, LOSER)
    put(book, LOSER)
    assert kept(book)[0] == WINNER
    slower = record("a(m=9)", "winner", (1.0,))  # an older machine state, a fixed kernel: the last race decides
    put(book, slower)
    first, *others = kept(book)
    assert first == slower
    assert all(other.status == "loser" for other in others)
    assert [other.samples for other in others if other.schedule == WINNER.schedule] == [WINNER.samples]
    put(book, record("a(m=9)", "failed", ()))
    assert not any(other.status == "winner" for other in kept(book))
    with pytest.raises(CacheError, match="more than one winner"):
        put(book, WINNER, slower)


def test_a_book_is_bounded_and_keeps_its_winner(book: RecordBook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records_module, "BOOK_LIMIT", 3)
    put(book, FAILED, *(record(f"b(n={n})", samples=(n * 1e-6,)) for n in range(1, 6)), WINNER)
    assert [r.schedule for r in kept(book)] == ["a(m=1)", "b(n=1)", "b(n=2)"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": ()}, "without samples"),
        ({"samples": (0.0,)}, "positive"),
        ({"samples": (-1.0,)}, "positive"),
        ({"samples": (math.nan,)}, "positive"),
        ({"samples": (1e-3, math.inf)}, "positive"),
        ({"samples": (1.0,) * 10_001}, "10000"),
        ({"proof": None}, "proven"),
        ({"proof": Proof(1, 1.01, 0.1)}, "proven"),
        ({"proof": Proof(1, 0.1, 1.01)}, "proven"),
        ({"status": "best"}, "status='best'"),
        ({"reason": "x" * 8193}, "reason"),
        ({"recipe": "x" * 257}, "recipe"),
    ],
)
def test_records_that_may_not_be(change: dict[str, object], message: str) -> None:
    with pytest.raises(CacheError, match=message):
        msgspec.structs.replace(WINNER, **change)


@pytest.mark.parametrize("ratio", [math.nan, math.inf, -0.1])
def test_a_proof_is_finite(ratio: float) -> None:
    with pytest.raises(CacheError, match="finite"):
        Proof(1, ratio, 0.0)
    with pytest.raises(CacheError, match="finite"):
        Proof(1, 0.0, ratio)
    with pytest.raises(CacheError, match="nothing"):
        Proof(0, 0.0, 0.0)


@pytest.mark.parametrize("change", [{"created": "yesterday"}, {"threads": 0}, {"device": "x" * 257}])
def test_environments_that_may_not_be(change: dict[str, object]) -> None:
    with pytest.raises(CacheError, match=next(iter(change))):
        msgspec.structs.replace(ENVIRONMENT, **change)


@pytest.mark.parametrize("bad", [{"threads": "4"}, {"torch": 2.1}, {"gridstone": "\ud800"}, {"compiler": object()}])
def test_what_could_not_be_read_back_is_never_written(bad: dict[str, object], book: RecordBook) -> None:
    put(book, WINNER)
    with pytest.raises((CacheError, TypeError)):
        put(book, msgspec.structs.replace(LOSER, environment=msgspec.structs.replace(ENVIRONMENT, **bad)))
    assert kept(book) == (WINNER,)


# F1, F2: crashes and races.

CRASH = """
import os, signal, sys
from pathlib import Path
import msgspec
from gridstone.kernel_cache.records import Record, RecordBook
root, old = Path(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=Record)
new = msgspec.structs.replace(old, samples=(5e-6,))
problem = old.spec, old.environment.device, old.environment.threads

def dying(step):
    done = 0
    def tick():
        nonlocal done
        done += 1
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)
    def wrap(real):
        def run(*arguments, **options):
            tick()
            result = real(*arguments, **options)
            tick()
            return result
        return run
    for name in ("open", "write", "fsync", "replace", "mkdir"):
        setattr(os, name, wrap(getattr(os, name)))

seen, step = set(), 1
while True:
    book = RecordBook(root / str(step))
    book.put(*problem, (old,))
    child = os.fork()
    if child == 0:
        dying(step)
        RecordBook(book.root).put(*problem, (new,))
        os._exit(0)
    killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    found = RecordBook(book.root).get(*problem)
    assert found in ((old,), (new,)), (step, found)
    seen.add(found)
    RecordBook(book.root).put(*problem, (new,))  # the dead writer's lock does not block
    assert RecordBook(book.root).get(*problem) == (new,)
    if not killed:
        break
    step += 1
assert found == (new,) and len(seen) == 2 and step > 8, (seen, step)
print("done")
"""

RACE = """
import sys
from pathlib import Path
import msgspec
from gridstone.kernel_cache.records import Record, RecordBook
root, one, me = Path(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=Record), int(sys.argv[3])
book = RecordBook(root)
print("ready", flush=True)
sys.stdin.readline()
for turn in range(20):
    schedule = f"a(m={me},n={turn})"
    status = "winner" if turn % 5 == 0 else "loser"
    given = msgspec.structs.replace(one, schedule=schedule, status=status)
    book.put(one.spec, one.environment.device, one.environment.threads, (given,))
    found = book.get(one.spec, one.environment.device, one.environment.threads)
    assert found[0].status == "winner" and schedule in [record.schedule for record in found]
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    pipe = subprocess.PIPE
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=REPO, env=environment)


def as_text(one: Record) -> str:
    return msgspec.json.encode(one).decode()


def test_killed_at_every_step_of_a_write(tmp_path: Path) -> None:
    child = start(CRASH, tmp_path, as_text(WINNER))
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (0, "done\n"), err


def test_eight_writers_lose_nothing(book: RecordBook) -> None:
    children = [start(RACE, book.root, as_text(WINNER), me) for me in range(8)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        _, err = child.communicate(timeout=60)
        assert child.returncode == 0, err
    found = kept(book)
    assert {r.schedule for r in found} == {f"a(m={me},n={turn})" for me in range(8) for turn in range(20)}
    assert [r.status for r in found] == ["winner"] + ["loser"] * 159
    assert [path.name for path in file_of(book).parent.iterdir()] == [file_of(book).name]


# F3: damage.


def refused(book: RecordBook, data: bytes) -> None:
    file_of(book).write_bytes(data)
    assert kept(book) == (), data
    assert not file_of(book).exists()


def test_truncated_anywhere_or_any_bit_flipped(book: RecordBook) -> None:
    put(book, WINNER)
    good = file_of(book).read_bytes()
    for at in range(len(good)):
        refused(book, good[:at])
        refused(book, good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :])
    assert list((book.root / "quarantine").iterdir()) != []
    put(book, WINNER)
    assert file_of(book).read_bytes() == good
    assert kept(book) == (WINNER,)


def forged(body: object, schema: int = records_module.SCHEMA, kind: str = "records") -> bytes:
    """Seal anything with a correct hash."""
    text = msgspec.json.encode(body).decode()
    found = sha256(f"{kind} {schema}\n{text}".encode())
    return f'{{"kind":"{kind}","schema":{schema},"sha256":"{found}","body":{text}}}'.encode()


def test_well_formed_but_wrong(book: RecordBook) -> None:
    put(book, WINNER, LOSER)
    good = file_of(book).read_bytes()
    body = json.loads(good)["body"]
    assert forged(body) == good  # the forger is able
    winner, loser = body["records"]
    wrong = [
        b"",
        bytes(len(good)),
        forged(body, schema=records_module.SCHEMA + 1),
        forged(body, schema=-1),
        forged(body, kind="entry"),
        forged([]),
        forged({**body, "extra": 1}),
        forged({**body, "spec": "other"}),
        forged({**body, "records": [loser, winner]}),
        forged({**body, "records": [winner, winner]}),
        forged({**body, "records": [{**winner, "samples": ["1"]}]}),
        forged({**body, "records": [{**winner, "samples": [0.0]}]}),
        forged({**body, "records": [{**winner, "proof": None}]}),
        forged({**body, "records": [{**winner, "status": "champion"}]}),
        forged({**body, "records": [{**winner, "path": "/etc"}]}),
        forged({**body, "records": [{**winner, "environment": {**winner["environment"], "threads": True}}]}),
        forged({**body, "records": [{**winner, "environment": {**winner["environment"], "device": "other"}}]}),
    ]
    for data in wrong:
        refused(book, data)
    file_of(book).write_bytes(good)
    assert kept(book) == (WINNER, LOSER)


def test_links_and_folders_in_the_way(book: RecordBook, tmp_path: Path) -> None:
    put(book, WINNER)
    file_of(book).rename(tmp_path / "real")
    file_of(book).symlink_to(tmp_path / "real")
    assert kept(book) == ()
    assert list(book.all()) == []
    (file_of(book) / "inner").mkdir(parents=True)
    put(book, LOSER)
    assert kept(book) == (LOSER,)


def test_a_bad_file_hides_no_other(book: RecordBook) -> None:
    other = msgspec.structs.replace(WINNER, spec="other")
    put(book, WINNER)
    book.put("other", DEVICE, THREADS, (other,))
    file_of(book).write_bytes(b"bad")
    assert list(book.all()) == [other]


def test_an_older_schema_is_migrated_and_left_in_place(book: RecordBook, monkeypatch: pytest.MonkeyPatch) -> None:
    def rename_time(old: object) -> object:
        assert isinstance(old, dict)
        rows = [{("samples" if k == "times" else k): v for k, v in row.items()} for row in old["records"]]
        return {**old, "records": rows}

    put(book, WINNER)
    body = json.loads(file_of(book).read_bytes())["body"]
    file_of(book).unlink()
    body["records"][0]["times"] = body["records"][0].pop("samples")
    file_of(book, 0).parent.mkdir()
    file_of(book, 0).write_bytes(forged(body, schema=0))
    assert kept(book) == ()  # schema 0 is not known
    monkeypatch.setitem(records_module.MIGRATIONS, 0, rename_time)
    assert kept(book) == (WINNER,)
    assert list(book.all()) == [WINNER]
    put(book, LOSER)
    assert kept(book) == (WINNER, LOSER)
    assert file_of(book, 0).exists()  # an older Gridstone that shares the folder still reads it
    file_of(book).unlink()
    file_of(book, 0).write_bytes(forged({"nothing": "that a migration knows"}, schema=0))
    assert kept(book) == ()
    assert not file_of(book, 0).exists()


def test_records_without_budgets_are_still_read(book: RecordBook) -> None:
    """Schema 1 knew none."""
    put(book, WINNER)
    body = json.loads(file_of(book).read_bytes())["body"]
    for one in body["records"]:
        del one["budget"]
    file_of(book, 1).parent.mkdir()
    file_of(book, 1).write_bytes(forged(body, schema=1))
    file_of(book).unlink()
    assert kept(book) == tuple(book.all()) == (WINNER,)
    assert WINNER.budget is None


@pytest.mark.parametrize("budget", [-1.0, math.nan, math.inf])
def test_a_budget_is_a_number_of_seconds(budget: float) -> None:
    with pytest.raises(CacheError, match=rf"budget={budget} of a record is no number of seconds.*give None"):
        msgspec.structs.replace(WINNER, budget=budget)


def test_a_newer_gridstone_with_another_schema_is_left_alone(book: RecordBook) -> None:
    newer = file_of(book, records_module.SCHEMA + 1)
    newer.parent.mkdir(parents=True)
    newer.write_bytes(seal("records", records_module.SCHEMA + 1, WINNER))
    put(book, LOSER)
    assert kept(book) == (LOSER,)
    assert newer.exists()


# F4: a folder that cannot be written.


def test_an_unwritable_folder_keeps_records_in_memory_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    book = RecordBook(tmp_path / "file" / "cache")
    with caplog.at_level(logging.WARNING, "gridstone"):
        put(book, WINNER)
        put(book, LOSER)
    assert kept(book) == (WINNER, LOSER)
    assert list(book.all()) == [WINNER, LOSER]
    (warning,) = caplog.messages
    assert str(book.root) in warning
    assert "GRIDSTONE_CACHE_DIR" in warning


def test_a_full_disk_leaves_the_old_file_and_what_memory_held_is_written_later(
    book: RecordBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(book, WINNER)
    real = os.write

    def fill_up(file: int, data: memoryview) -> int:
        real(file, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fill_up)
        put(book, LOSER)
    assert kept(book) == (WINNER, LOSER)
    assert kept(RecordBook(book.root)) == (WINNER,)
    assert [path.name for path in file_of(book).parent.iterdir()] == [file_of(book).name]
    put(book, FAILED)
    assert kept(RecordBook(book.root)) == (WINNER, LOSER, FAILED)
    put(RecordBook(book.root), record("a(m=7)"))  # of another process, seen again now that nothing is in memory
    assert len(kept(book)) == 4
