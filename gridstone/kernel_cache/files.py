"""Files that survive crashes, races and damage: atomic writes, verified kinds, locks, the quarantine.

Nothing here knows what the files hold: `store` keeps artefacts with it, `records` tuning records.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

from gridstone.ir.errors import CacheError

TEMPORARY = ".tmp-"  # how the name of a file begins that is being written
TOUCH_SECONDS = 3600.0  # a use is noted at most this often

_LOG = logging.getLogger("gridstone")
_WARNED: dict[Path, OSError] = {}  # a warning per folder and process is a fact about the process, not about a store


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash at any moment, finds the old bytes or the new; mode 0600.

    Raises:
        OSError: It cannot be written; nothing is left behind.
    """
    _make_folder(path.parent)
    temporary = path.parent / f"{TEMPORARY}{os.getpid()}-{os.urandom(8).hex()}"
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


def write_over(path: Path, data: bytes, root: Path) -> None:
    """Write a file atomically, whatever is in its place; a folder there goes to the quarantine of the cache."""
    try:
        write_atomically(path, data)
    except IsADirectoryError:
        set_aside(path, root, "a folder where a file belongs")
        write_atomically(path, data)


def read_regular(path: Path) -> bytes | None:
    """Return a file's bytes, or None when there is none.

    Raises:
        CacheError: Something other than a regular file is there; a symbolic link is not followed.
        OSError: It cannot be read.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise CacheError("a symbolic link or a socket, not a file") from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise CacheError("not a regular file")
        with os.fdopen(file, "rb", closefd=False) as stream:
            return stream.read()
    finally:
        os.close(file)


def set_aside(path: Path, root: Path, why: str) -> bool:
    """Move what failed verification to the quarantine, or remove it; return whether it is out of the way."""
    _LOG.info("%s is set aside: %s", path, why)
    place = root / "quarantine" / f"{path.name}.{time.time_ns()}-{os.getpid()}.bad"
    try:
        _make_folder(place.parent)
        os.rename(path, place)
    except OSError:
        return remove(path)
    return True


@contextlib.contextmanager
def exclusive(path: Path, seconds: float) -> Iterator[None]:
    """Hold a lock file, or go on without it when it cannot be had: it saves work, it does not guard correctness.

    The operating system frees the lock of a process that died.
    """
    lock = None
    try:
        _make_folder(path.parent)
        lock = filelock.FileLock(path, timeout=seconds, mode=0o600, poll_interval=0.01)
        lock.acquire()
    except (OSError, NotImplementedError) as error:  # filelock.Timeout is an OSError
        _LOG.info("%s cannot be locked, going on without: %s", path, error)
        lock = None
    try:
        yield
    finally:
        if lock is not None:
            with contextlib.suppress(OSError):
                lock.release()


def warn_unwritable(root: Path, error: OSError) -> None:
    """Say once per process and folder that nothing can be kept in it, why, and what to do."""
    if _WARNED.setdefault(root, error) is error:
        kept = "kernels and tuning records are kept until this process exits"
        _LOG.warning("the kernel cache %s cannot be written: %s; %s; %s", root, error.strerror, kept, remedy(error))


def remedy(error: OSError) -> str:
    """Return what a user can do about a folder that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free space there, or set GRIDSTONE_CACHE_DIR to a folder with room"
    return "set GRIDSTONE_CACHE_DIR to a folder that you can write"


@functools.cache
def private_folder(base: str | None) -> Path:
    """Make a folder that is gone when this process exits, once per process and base."""
    folder, owner = Path(tempfile.mkdtemp(prefix="gridstone-", dir=base)), os.getpid()

    def clean() -> None:
        if os.getpid() == owner:  # not in a fork of this process
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(clean)
    return folder


def runs_from(path: Path) -> bool:
    """Return whether the file system of a file lets code be loaded from it."""
    try:
        return not os.statvfs(path).f_flag & os.ST_NOEXEC
    except OSError:
        return True


def touch(path: Path) -> None:
    """Note a use of a file in its modification time, at most every `TOUCH_SECONDS`."""
    found, now = status(path), time.time()
    if found and found.st_mtime < now - TOUCH_SECONDS:
        with contextlib.suppress(OSError):
            os.utime(path, (now, now), follow_symlinks=False)


def status(path: Path) -> os.stat_result | None:
    """Return the status of a file or of a link itself; None when there is none."""
    try:
        return os.lstat(path)
    except OSError:
        return None


def age(path: Path, now: float) -> float:
    """Return how many seconds ago a file was modified; 0 when there is none."""
    found = status(path)
    return now - found.st_mtime if found else 0.0


def listed(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted; nothing when it cannot be read."""
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder))
    except OSError:
        return []


def remove(path: Path) -> bool:
    """Remove a file, or a folder that stands in its place; return whether it was there and is gone."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except OSError:
        return False
    return True


def free(path: Path) -> int:
    """Remove a file and return how many bytes that freed."""
    found = status(path)
    return found.st_size if remove(path) and found else 0


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    # Some file systems refuse this. The rename has happened, and readers verify, so at worst a crash costs a rebuild.
    with contextlib.suppress(OSError):
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(file)
        finally:
            os.close(file)
