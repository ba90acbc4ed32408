"""Settings from the environment: the only file that reads variables of Gridstone's own."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import platformdirs

from gridstone.ir.errors import CacheError

DEFAULT_LIMIT = 2 << 30  # bytes

_UNITS = {
    **{"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12},
    **{"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40},
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user may set through the environment.

    A limit only bounds the cache, so a malformed one is complained about and the default holds. A malformed folder or
    compiler is refused: no other one is what its user meant.

    Args:
        cache_dir: Root of the kernel cache (`GRIDSTONE_CACHE_DIR`); it need not exist, nor be writable.
        cache_limit: Bytes beyond which the least recently used artefacts are pruned (`GRIDSTONE_CACHE_LIMIT`).
        compiler: Command of the C++ compiler in shell words, such as "ccache g++" (`GRIDSTONE_CXX`, then `CXX`); None
            means that the toolchain searches for one.
        complaints: What was set and is not heeded, each with the variable, its value and a remedy.
    """

    cache_dir: Path
    cache_limit: int
    compiler: str | None
    complaints: tuple[CacheError, ...] = ()


def read_settings() -> Settings:
    """Read the environment as it is now; a variable that is empty counts as not set.

    Raises:
        CacheError: The folder's or the compiler's value is malformed; names the variable, the value and a remedy.
    """
    limit, complaints = _cache_limit()
    return Settings(_cache_dir(), limit, _compiler(), complaints)


def parse_size(text: str) -> int:
    """Return a number of bytes, at least 1; units are powers of 1000 (MB) or of 1024 (MiB).

    Raises:
        ValueError: The text is not a size.

    >>> parse_size("1.5 GiB"), parse_size("500MB"), parse_size("4096")
    (1610612736, 500000000, 4096)
    """
    found = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,9})?)\s*([A-Za-z]*)\s*", text, re.ASCII)
    if found is None or found[2].lower() not in _UNITS:
        raise ValueError(f"not a size: {text!r}")
    size = int(Decimal(found[1]) * _UNITS[found[2].lower()])
    if size < 1:
        raise ValueError(f"smaller than one byte: {text!r}")
    return size


def _cache_dir() -> Path:
    text = os.environ.get("GRIDSTONE_CACHE_DIR", "")
    try:
        folder = Path(text).expanduser() if text else platformdirs.user_cache_path("gridstone")
    except RuntimeError as error:  # ~name of a user that does not exist
        raise CacheError(f"GRIDSTONE_CACHE_DIR={text!r}: {error}", "set it to the path of a folder") from None
    if folder.parts[:1] == ("~",):  # no HOME and no passwd row, as in some containers: never make a folder named ~
        raise CacheError("GRIDSTONE_CACHE_DIR is not set and there is no home folder", "set it to the path of a folder")
    return folder.absolute()


def _cache_limit() -> tuple[int, tuple[CacheError, ...]]:
    text = os.environ.get("GRIDSTONE_CACHE_LIMIT", "")
    if not text:
        return DEFAULT_LIMIT, ()
    try:
        return parse_size(text), ()
    except ValueError:
        problem = f"GRIDSTONE_CACHE_LIMIT={text!r} is not a size, so the limit is {DEFAULT_LIMIT >> 30} GiB"
        return DEFAULT_LIMIT, (CacheError(problem, "write a positive size such as 2GiB, 500MB or 1000000"),)


def _compiler() -> str | None:
    for variable in ("GRIDSTONE_CXX", "CXX"):
        text = os.environ.get(variable, "").strip()
        if not text:
            continue
        try:
            shlex.split(text)
            return text
        except ValueError as error:
            remedy = "write a command as in a shell, such as g++-13 or 'ccache clang++'"
            raise CacheError(f"{variable}={text!r} is not a command: {error}", remedy) from None
    return None
