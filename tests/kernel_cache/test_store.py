"""The store survives crashes, races, damage and full disks: what it returns is right, or it is a miss."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import gridstone
from gridstone.ir.errors import BuildError, CacheError
from gridstone.kernel_cache import store as store_module
from gridstone.kernel_cache.key import SCHEMA, Entry, Key, seal, seal_entry, sha256
from gridstone.kernel_cache.store import Store

LIMIT = 1 << 30
BLOB = bytes(range(256)) * 16
KEY = Key("cpp", (("arch", "avx2"), ("flags", "-O3"), ("source", "int a;\nint b;\n")))
REPO = Path(gridstone.__file__).parents[1]

PRELUDE = """
import os, signal, sys
from pathlib import Path
from gridstone.kernel_cache.key import Key
from gridstone.kernel_cache.store import Store
root, key = Path(sys.argv[1]), Key("cpp", (("flags", "-O3"),))
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PRELUDE + script, *map(str, arguments)]
    pipe = subprocess.PIPE
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=REPO, env=environment)


def finish(child: subprocess.Popen[str], go: str = "") -> str:
    out, err = child.communicate(go, timeout=60)
    assert child.returncode == 0, err
    return out


def entry_file(store: Store, key: Key = KEY) -> Path:
    return store.root / "entries" / key.digest[:2] / f"{key.digest}.json"


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if not path.is_dir())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache", LIMIT)


def test_round_trip(store: Store) -> None:
    assert store.get(KEY) is None
    path = store.put(KEY, BLOB, ".so")
    assert path.read_bytes() == BLOB
    assert path.relative_to(store.root) == Path("blobs", sha256(BLOB)[:2], f"{sha256(BLOB)}.so")
    assert Store(store.root, LIMIT).get(KEY) == path
    assert store.get(KEY) == path
    assert (store.counters().hits, store.counters().misses) == (1, 1)
    assert [entry.key for entry in store.entries()] == [KEY]
    assert store.verify() == []
    assert str(store.root) not in entry_file(store).read_text()  # the folder can be moved
    moved = store.root.rename(store.root.with_name("moved"))
    found = Store(moved, LIMIT).get(KEY)
    assert found is not None
    assert found.read_bytes() == BLOB


def test_only_the_owner_may_read_or_write(store: Store) -> None:
    store.put(KEY, BLOB)
    for path in [store.root, *store.root.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_the_newer_blob_replaces_and_an_empty_blob_is_a_blob(store: Store) -> None:
    store.put(KEY, BLOB)
    path = store.put(KEY, b"")
    assert store.get(KEY) == path
    assert path.read_bytes() == b""


def test_get_or_build_builds_once_and_failures_pass_through(store: Store) -> None:
    def refuse() -> bytes:
        raise BuildError("no")

    with pytest.raises(BuildError):
        store.get_or_build(KEY, refuse)
    assert store.entries() == ()
    first = store.get_or_build(KEY, lambda: BLOB, ".so")
    second = store.get_or_build(KEY, refuse, ".so")
    assert (first.hit, first.persisted, second.hit, second.persisted) == (False, True, True, True)
    assert first.path == second.path
    assert (store.counters().hits, store.counters().misses, store.counters().builds) == (1, 2, 2)


def test_a_bad_suffix_is_refused_before_anything_is_built(store: Store) -> None:
    with pytest.raises(CacheError, match="suffix"):
        store.get_or_build(KEY, lambda: pytest.fail("built"), "/../x")
    with pytest.raises(CacheError, match="suffix"):
        store.put(KEY, BLOB, "so")


# F1: killed at any step of a write, the next process reads the old entry or the new one.

CRASH = """
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
            if real is write:
                write(arguments[0], arguments[1][: len(arguments[1]) // 2])
                tick()
                os.lseek(arguments[0], 0, 0)
            result = real(*arguments, **options)
            tick()
            return result
        return run
    write = os.write
    for name in ("open", "write", "fsync", "close", "replace", "mkdir"):
        setattr(os, name, wrap(getattr(os, name)))

def crash(step, work):
    child = os.fork()
    if child == 0:
        dying(step)
        work()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])
"""

CRASH_STORE = """
old, new = b"old" * 1000, b"new" * 1000
for existing in (None, old):
    seen, step = set(), 1
    while True:
        folder = root / f"{existing is None}-{step}"
        if existing:
            Store(folder, 1 << 30).put(key, old)
        killed = crash(step, lambda: Store(folder, 1 << 30).put(key, new))
        store = Store(folder, 1 << 30)
        path = store.get(key)
        found = path and path.read_bytes()
        assert found in (existing, new), (step, found)
        assert store.counters().quarantined == 0 and store.verify() == [], step
        assert store.get_or_build(key, lambda: new).path.read_bytes() in (existing, new)
        seen.add(found)
        if not killed:
            break
        step += 1
    assert found == new and seen == {existing, new} and step > 20, (seen, step)
print("done")
"""


def test_killed_at_every_step_of_a_write(tmp_path: Path) -> None:
    assert finish(start(CRASH + CRASH_STORE, tmp_path)) == "done\n"


# F2: many at once.

RACE = """
import time
store = Store(root / "cache", 1 << 30)
def build():
    with open(root / "builds", "a") as log:
        log.write("built\\n")
    time.sleep(0.05)
    return b"artefact" * 1000
print("ready", flush=True)
sys.stdin.readline()
built = store.get_or_build(key, build, ".so")
assert built.persisted and built.path.read_bytes() == b"artefact" * 1000
print(built.hit, built.path.name)
"""


def test_eight_processes_build_a_key_once(tmp_path: Path) -> None:
    children = [start(RACE, tmp_path) for _ in range(8)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    results = [finish(child).split() for child in children]
    assert (tmp_path / "builds").read_text() == "built\n"
    assert sorted(hit for hit, _ in results) == ["False"] + ["True"] * 7
    assert len({name for _, name in results}) == 1


def test_eight_threads_build_a_key_once(store: Store) -> None:
    builds: list[int] = []
    gate = threading.Barrier(8)

    def build() -> bytes:
        builds.append(1)
        time.sleep(0.02)
        return BLOB

    def ask() -> None:
        gate.wait()
        assert store.get_or_build(KEY, build).path.read_bytes() == BLOB

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1
    assert (store.counters().hits, store.counters().misses, store.counters().builds) == (7, 1, 1)


HANG = """
def build():
    print("building", flush=True)
    sys.stdin.read()
    return b"late"
Store(root, 1 << 30).get_or_build(key, build)
"""


def test_neither_a_hung_nor_a_dead_builder_blocks_for_ever(tmp_path: Path) -> None:
    key = Key("cpp", (("flags", "-O3"),))
    child = start(HANG, tmp_path)
    assert child.stdout is not None
    assert child.stdout.readline() == "building\n"
    hung = Store(tmp_path, LIMIT, lock_seconds=0.05).get_or_build(key, lambda: BLOB)
    assert (hung.hit, hung.persisted) == (False, True)
    Store(tmp_path, LIMIT).clear()
    child.kill()
    child.communicate()
    assert Store(tmp_path, LIMIT).get_or_build(key, lambda: BLOB).path.read_bytes() == BLOB


# F3: damage is a miss and goes to quarantine, then the key is built again.


def refused(store: Store, data: bytes) -> None:
    """Put `data` in place of the entry's file, and demand that it is a miss and set aside."""
    path = entry_file(store)
    path.write_bytes(data)
    before = store.counters().quarantined
    assert store.get(KEY) is None, data
    assert store.counters().quarantined == before + 1
    assert not path.exists()


def test_an_entry_truncated_anywhere(store: Store) -> None:
    store.put(KEY, BLOB)
    good = entry_file(store).read_bytes()
    for length in range(len(good)):
        refused(store, good[:length])
    assert store.get_or_build(KEY, lambda: BLOB).hit is False
    assert entry_file(store).read_bytes() == good
    assert store.get(KEY) is not None


def test_an_entry_with_any_bit_flipped(store: Store) -> None:
    store.put(KEY, BLOB)
    good = entry_file(store).read_bytes()
    for at in range(len(good)):
        for bit in range(8):
            refused(store, good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :])
    entry_file(store).write_bytes(good)
    assert store.get(KEY) is not None  # the loop refused the damage, not the place


def test_entries_that_are_well_formed_but_wrong(store: Store) -> None:
    store.put(KEY, BLOB)
    good = entry_file(store).read_bytes()
    entry = store.entries()[0]
    other = Key("cpp", (("flags", "-O0"),))
    body = json.loads(good)
    wrong = {
        "empty": b"",
        "zeros": bytes(len(good)),
        "appended": good + b"\n",
        "spaced": json.dumps(body).encode(),
        "not an object": b"[]",
        "deep": b"[" * 100_000,
        "schema": seal("entry", SCHEMA + 1, entry),
        "kind": seal("records", SCHEMA, entry),
        "key": seal_entry(Entry(other.kind, other.fields, entry.blob, entry.size, entry.suffix)),
        "key kind": seal_entry(Entry("cuda", KEY.fields, entry.blob, entry.size, entry.suffix)),
        "size": seal_entry(Entry(KEY.kind, KEY.fields, entry.blob, entry.size - 1, entry.suffix)),
        "blob": seal_entry(Entry(KEY.kind, KEY.fields, "0" * 64, entry.size, entry.suffix)),
        "extra": json.dumps({**body, "extra": 1}, separators=(",", ":")).encode(),
    }
    for data in wrong.values():
        refused(store, data)
    assert store.get_or_build(KEY, lambda: BLOB).path.read_bytes() == BLOB


def forged(text: str) -> bytes:
    """Seal a body with a correct hash, as someone who can write to the folder would."""
    found = sha256(f"entry {SCHEMA}\n{text}".encode())
    return f'{{"kind":"entry","schema":{SCHEMA},"sha256":"{found}","body":{text}}}'.encode()


def test_a_forged_entry_cannot_leave_the_folder(store: Store, tmp_path: Path) -> None:
    store.put(KEY, BLOB)
    outside = tmp_path / "outside.so"
    outside.write_bytes(BLOB)
    body = json.loads(entry_file(store).read_bytes())["body"]
    assert forged(json.dumps(body, separators=(",", ":"))) == entry_file(store).read_bytes()  # the forger is able
    for change in ({"suffix": "/../../../../outside.so"}, {"blob": "../../outside"}, {"size": -1}, {"size": "4096"}):
        refused(store, forged(json.dumps({**body, **change}, separators=(",", ":"))))
    assert outside.read_bytes() == BLOB


@pytest.mark.parametrize("at", [*range(0, len(BLOB), 97), len(BLOB) - 1])
def test_a_blob_with_a_bit_flipped(at: int, store: Store) -> None:
    path = store.put(KEY, BLOB, ".so")
    path.write_bytes(BLOB[:at] + bytes([BLOB[at] ^ 1]) + BLOB[at + 1 :])
    assert store.verify() != []
    assert store.get(KEY) is None
    assert store.counters().quarantined == 1
    assert store.get_or_build(KEY, lambda: BLOB, ".so").path.read_bytes() == BLOB
    assert store.verify() == []


def test_without_verification_the_damage_would_be_returned(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.put(KEY, BLOB)
    path.write_bytes(b"x" + BLOB[1:])
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "sha256", lambda _: sha256(BLOB))
        found = store.get(KEY)
        assert found is not None
        assert found.read_bytes() != BLOB
    assert store.get(KEY) is None


def as_empty(path: Path) -> None:
    path.write_bytes(b"")


def as_zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def as_longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def as_folder(path: Path) -> None:
    path.unlink()
    (path / "inner").mkdir(parents=True)


def as_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_socket(path: Path) -> None:
    path.unlink()
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket may not be long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(here)


def as_link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")


def as_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


WAYS = [as_empty, as_zeros, as_longer, as_folder, as_fifo, as_socket, as_link, as_dangling_link]


@pytest.mark.parametrize("damage", [*WAYS, Path.unlink])
def test_a_blob_that_is_not_what_it_was(damage: Callable[[Path], None], store: Store) -> None:
    damage(store.put(KEY, BLOB, ".so"))
    assert store.verify() != []
    assert store.get(KEY) is None
    assert store.counters().quarantined == 1
    built = store.get_or_build(KEY, lambda: BLOB, ".so")
    assert (built.hit, built.persisted) == (False, True)
    assert store.get(KEY) == built.path
    assert not built.path.is_symlink()


@pytest.mark.parametrize("damage", WAYS)
def test_an_entry_that_is_not_what_it_was(damage: Callable[[Path], None], store: Store) -> None:
    store.put(KEY, BLOB, ".so")
    damage(entry_file(store))
    assert store.verify() != []
    assert store.get(KEY) is None
    assert store.counters().quarantined == 1
    assert store.usage().quarantined == 1
    assert "quarantine" in store.explain_miss(KEY)
    assert store.get_or_build(KEY, lambda: BLOB, ".so").persisted
    assert store.get(KEY) is not None


def test_a_put_replaces_a_folder_that_stands_in_its_way(store: Store) -> None:
    as_folder(store.put(KEY, BLOB))
    assert store.put(KEY, BLOB).read_bytes() == BLOB


def test_a_passing_failure_to_read_is_a_miss_and_not_damage(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(KEY, BLOB)

    def deny(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", deny)
        assert store.get(KEY) is None
    assert store.counters().quarantined == 0
    assert store.get(KEY) is not None


# F4: a folder that cannot be written costs a warning, never the artefact.


def deny_writes(monkeypatch: pytest.MonkeyPatch, root: Path, name: str, number: int) -> None:
    """Make os.`name` fail below `root`; a write fails halfway, as on a disk that fills up."""
    real = getattr(os, name)

    def fail(first: int | str | Path, *rest: object, **options: object) -> object:
        place = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else str(first)
        if not place.startswith(str(root)):
            return real(first, *rest, **options)
        if name == "write":
            (data,) = rest
            assert isinstance(data, memoryview)
            real(first, data[: len(data) // 2])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, name, fail)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("write", errno.ENOSPC),
        ("fsync", errno.EIO),
        ("replace", errno.EACCES),
        ("mkdir", errno.EROFS),
        ("open", errno.EACCES),
        ("write", errno.EDQUOT),
    ],
)
def test_an_unwritable_folder_costs_one_warning(
    name: str, number: int, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    deny_writes(monkeypatch, store.root, name, number)
    with caplog.at_level(logging.WARNING, "gridstone"):
        first = store.get_or_build(KEY, lambda: BLOB, ".so")
        second = store.get_or_build(KEY, lambda: pytest.fail("built twice"), ".so")
        Store(store.root, LIMIT).get_or_build(KEY, lambda: BLOB, ".so")
    assert (first.hit, first.persisted, second.hit, second.persisted) == (False, False, True, False)
    assert first.path == second.path == store.get(KEY)
    assert first.path.read_bytes() == BLOB
    assert not first.path.is_relative_to(store.root)
    assert first.path.parent.stat().st_mode & 0o777 == 0o700
    assert [path for path in files(store.root) if path.suffix != ".lock"] == []
    (warning,) = caplog.messages
    assert str(store.root) in warning
    assert os.strerror(number) in warning
    assert "GRIDSTONE_CACHE_DIR" in warning
    with pytest.raises(CacheError, match="GRIDSTONE_CACHE_DIR"):
        store.put(KEY, BLOB)


def test_a_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "cache", LIMIT)
    assert store.get(KEY) is None
    built = store.get_or_build(KEY, lambda: BLOB)
    assert built.path.read_bytes() == BLOB
    assert not built.persisted
    assert (store.entries(), store.verify(), store.usage().size, store.clear(), store.prune()) == ((), [], 0, 0, 0)
    assert "none of the 0 kept entries" in Store(store.root, LIMIT).explain_miss(KEY)


def test_a_full_disk_keeps_the_old_entry(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.put(KEY, BLOB)
    with monkeypatch.context() as patch:
        deny_writes(patch, store.root / "entries", "write", errno.ENOSPC)
        with pytest.raises(CacheError, match="free space"):
            store.put(KEY, b"new")
    assert store.get(KEY) == path
    assert not [path for path in files(store.root) if path.name.startswith(".tmp-")]


def test_a_read_only_folder_still_serves_and_sets_nothing_aside(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(KEY, BLOB)
    other = Key("cpp", (("flags", "-O1"),))
    place = entry_file(store, other)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"damaged")
    for name in ("rename", "unlink", "utime", "mkdir", "replace"):
        deny_writes(monkeypatch, store.root, name, errno.EROFS)
    assert store.get(KEY) is not None
    assert store.get(other) is None
    assert store.counters().quarantined == 0


def test_when_nothing_can_be_written_the_error_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    deny_writes(monkeypatch, Path("/"), "replace", errno.ENOSPC)
    with pytest.raises(CacheError, match="free space") as caught:
        store.get_or_build(KEY, lambda: BLOB)
    assert str(store.root) in str(caught.value)


AT_EXIT = """
root.write_text("a file")
built = Store(root / "cache", 1 << 30).get_or_build(key, lambda: b"artefact", ".so")
assert built.path.read_bytes() == b"artefact"
print(built.path)
"""


def test_the_temporary_folder_goes_when_the_process_exits(tmp_path: Path) -> None:
    path = Path(finish(start(AT_EXIT, tmp_path / "file")).strip())
    assert path.name.endswith(".so")
    assert not path.parent.exists()


# Pruning, measuring, explaining.


def numbered(number: int) -> Key:
    return Key("cpp", (("number", str(number)),))


def age(store: Store, seconds: float) -> None:
    """Make everything older, as if time had passed."""
    for path in files(store.root):
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then), follow_symlinks=False)


def fill(store: Store, count: int) -> None:
    for number in range(count):
        age(store, 1000)
        store.put(numbered(number), bytes([number]) * 4096)


def test_pruning_keeps_the_limit_and_the_newest(tmp_path: Path) -> None:
    store = Store(tmp_path, 20_000)
    fill(store, 12)
    assert store.usage().size <= store.limit_bytes
    kept = [int(dict(entry.key.fields)["number"]) for entry in store.entries()]
    assert kept == list(range(11, 11 - len(kept), -1))
    assert 2 <= len(kept) <= 4
    assert store.usage().blobs == len(kept)
    assert store.verify() == []


def test_a_hit_makes_an_entry_newer_at_most_once_an_hour(tmp_path: Path) -> None:
    store = Store(tmp_path, LIMIT)
    fill(store, 4)
    assert store.get(numbered(0)) is not None  # untouched: last use within the hour
    assert dict(store.entries()[0].key.fields)["number"] == "3"
    age(store, 4000)
    assert store.get(numbered(0)) is not None
    assert dict(store.entries()[0].key.fields)["number"] == "0"
    age(store, 100)
    small = Store(tmp_path, 10_000)
    assert small.prune() > 0
    assert small.get(numbered(0)) is not None
    assert small.get(numbered(1)) is None


def test_a_clock_that_jumped_changes_no_identity(store: Store) -> None:
    path = store.put(KEY, BLOB)
    for then in (0, 2**33):
        os.utime(entry_file(store), (then, then))
        os.utime(path, (then, then))
        assert store.get(KEY) == path


def test_what_was_just_written_is_never_pruned(tmp_path: Path) -> None:
    store = Store(tmp_path, 100)
    path = store.put(KEY, BLOB)
    assert store.get(KEY) == path
    Store(tmp_path, 100).prune()  # of another process: it may not have been loaded yet
    assert store.get(KEY) == path
    age(store, 1000)
    assert store.prune() > 0
    assert store.get(KEY) is None


def test_a_shared_blob_stays_while_it_is_used(tmp_path: Path) -> None:
    store = Store(tmp_path, LIMIT)
    old, new = (Key("cpp", (("source", name * 4000),)) for name in "ab")  # entries about as large as the blob
    store.put(old, BLOB)
    age(store, 1000)
    store.put(new, BLOB)
    age(store, 1000)
    Store(tmp_path, 10_000).prune()
    assert store.get(old) is None
    assert store.get(new) is not None
    Store(tmp_path, 100).prune()
    assert files(tmp_path) == []


def test_leftovers_of_crashes_are_removed_once_old(store: Store) -> None:
    store.put(KEY, BLOB)
    orphan = store.put(numbered(1), b"orphan")
    entry_file(store, numbered(1)).unlink()
    temporary = orphan.with_name(".tmp-1-ab")
    temporary.write_bytes(b"half")
    store.prune()
    assert temporary.exists()
    age(store, 5000)
    Store(store.root, 4096).prune()
    assert not temporary.exists()
    assert not orphan.exists()


def test_the_quarantine_is_bounded(store: Store) -> None:
    store.put(KEY, BLOB)
    for _ in range(store_module.QUARANTINED + 8):
        refused(store, b"bad")
    store.prune()
    assert store.usage().quarantined == store_module.QUARANTINED


def test_clear_removes_artefacts_and_nothing_else(store: Store) -> None:
    store.put(KEY, BLOB)
    store.put(numbered(1), b"")
    refused(store, b"bad")
    kept = [store.root / "records" / "v1" / "a.json", store.root / "entries" / "mine.txt", store.root / "blobs" / "x"]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a person's")
    assert store.clear() == 1
    assert files(store.root) == sorted(kept)
    assert store.usage().size == 0


def test_usage_counts_what_is_there(store: Store) -> None:
    store.put(KEY, BLOB)
    usage = store.usage()
    size = sum(path.stat().st_size for path in files(store.root))
    assert (usage.entries, usage.blobs, usage.quarantined, usage.size) == (1, 1, 0, size)


def test_explain_miss_names_the_first_differing_field_of_the_nearest(store: Store) -> None:
    store.put(Key("cpp", (("arch", "avx512"), ("flags", "-O2"), ("source", "far"))), BLOB)
    store.put(Key("cpp", (("arch", "avx2"), ("flags", "-O3"), ("source", "int a;\nint c;\n"))), BLOB)
    store.put(Key("cuda", KEY.fields), BLOB)
    text = store.explain_miss(KEY)
    assert "2 of 3 fields equal" in text
    assert "differs first in source" in text
    assert "line 2 'int b;'" in text
    assert "line 2 'int c;'" in text
    assert "none of the 3 kept entries is of this kind" in store.explain_miss(Key("triton", KEY.fields))
    store.put(KEY, BLOB)
    assert "not a miss" in store.explain_miss(KEY)
