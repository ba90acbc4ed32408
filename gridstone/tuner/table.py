"""Recorded tables: every configuration of a kernel with the times that were measured, to search in without the device.

Two formats are read, plain or gzip: T4 of the autotuning community's benchmark hub (F.-J. Willemsen et al., "Tuning the
tuner" and the hub's schema T4) and Kernel Tuner's cache files, whose last brackets may be missing.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gridstone.ir.errors import GridstoneError
from gridstone.lower.schedule import Choice, Value
from gridstone.tuner.feasible import Branch, FeasibleSet

_OBJECTIVE = "time"
_CLOSINGS = ("", "}", "}}")  # of a cache whose last entry is complete: none that completes a number that was cut
_GREATEST = 512 << 20  # bytes of a table
_MOST_VALUES = int(np.iinfo(np.int16).max)  # of a parameter: ordinals are that wide


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """What was recorded of a kernel on a device.

    Args:
        name: Of the file.
        points: Its configurations, one branch.
        seconds: (size,) the time of each, in the file's unit; NaN where it failed.
        samples: The single runs that are behind it, in order; empty where the file has none.
        unit: Of the times.
    """

    name: str
    points: FeasibleSet
    seconds: npt.NDArray[np.float64]
    samples: tuple[npt.NDArray[np.float64], ...]
    unit: str

    @property
    def optimum(self) -> float:
        """The shortest time."""
        return float(np.nanmin(self.seconds))

    def configuration(self, point: int) -> dict[str, Value]:
        """Return a point's value of every parameter."""
        axes = self.points.branches[0].axes
        return {axis.field: axis.values[i] for axis, i in zip(axes, self.points.ordinals(point), strict=True)}

    def find(self, configuration: Mapping[str, Value]) -> int | None:
        """Return the point of a configuration, None when it is none of the table's; other parameters do not matter."""
        row: list[int] = []
        for axis in self.points.branches[0].axes:
            if configuration.get(axis.field) not in axis.values:
                return None
            row.append(axis.values.index(configuration[axis.field]))
        return self.points.find(self.points.branches[0].name, row)


def read_table(path: Path) -> Table:
    """Read a recorded table.

    Args:
        path: T4 or a Kernel Tuner cache, plain or gzip.

    Raises:
        GridstoneError: It cannot be read, is neither, or has no valid configuration; says what to do.
    """
    text = _text(path)
    loaded = _loaded(text, path)
    try:
        if isinstance(loaded, dict) and isinstance(loaded.get("results"), list):
            rows = [_t4(entry, at) for at, entry in enumerate(loaded["results"])]
            unit = str(loaded.get("metadata", {}).get("timeunit", "")) or "ms"
        elif isinstance(loaded, dict) and isinstance(loaded.get("cache"), dict):
            keys = loaded.get("tune_params_keys") or list(loaded.get("tune_params", {}))
            rows = [_cached(entry, key, keys) for key, entry in loaded["cache"].items()]
            unit = "ms"
        else:
            raise GridstoneError(
                f"{path} is no recorded table: it has neither `results` (T4) nor `cache` (Kernel Tuner)",
                "give a T4 file or a cache file of Kernel Tuner",
            )
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        problem = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise GridstoneError(f"{path} is no valid table: {problem}", "give a T4 file or a cache file") from error
    return _table(path, rows, unit)


Row = tuple[dict[str, Value], float, tuple[float, ...]]


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            with gzip.open(path) as file:
                raw = file.read(_GREATEST + 1)
        if len(raw) > _GREATEST:
            raise GridstoneError(f"{path} holds more than {_GREATEST >> 20} MiB", "split it")
        return raw.decode("utf-8")
    except FileNotFoundError as error:
        raise GridstoneError(f"there is no file {path}", "give the path of a recorded table") from error
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise GridstoneError(f"{path} cannot be read: {error}", "fetch or record it again") from error


def _loaded(text: str, path: Path) -> Any:
    """Return the JSON of a file; a cache that was being written may lack its end."""
    first: Exception | None = None
    for closing in _CLOSINGS:
        try:
            return json.loads(text.rstrip().rstrip(",") + closing if closing else text)
        except (ValueError, RecursionError) as error:
            first = first or error
    raise GridstoneError(f"{path} is not JSON: {first}", "fetch or record it again")


def _t4(entry: Mapping[str, Any], at: int) -> Row:
    objective = (entry.get("objectives") or [_OBJECTIVE])[0]
    if objective != _OBJECTIVE:
        raise ValueError(f"results[{at}] is about {objective!r}, and only {_OBJECTIVE!r} can be replayed")
    configuration = {str(name): _value(value) for name, value in entry["configuration"].items()}
    found = next((one["value"] for one in entry.get("measurements", ()) if one["name"] == objective), None)
    valid = entry.get("invalidity", "correct") == "correct" and entry.get("correctness", 1) != 0
    return configuration, _seconds(found) if valid else math.nan, _samples(entry.get("times", {}).get("runtimes"))


def _cached(entry: Mapping[str, Any], key: str, keys: Sequence[str]) -> Row:
    missing = [name for name in keys if name not in entry]
    if missing:
        raise ValueError(f"the entry {key!r} has no {missing[0]!r}")
    failed = "__error__" in entry
    found = math.nan if failed else _seconds(entry.get(_OBJECTIVE))
    return {name: _value(entry[name]) for name in keys}, found, _samples(entry.get("times"))


def _value(value: Any) -> Value:
    if isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else repr(value)
    return json.dumps(value, sort_keys=True)


def _seconds(value: Any) -> float:
    """Return a time, or NaN for what stands for a failure: a word, nothing, or a number that is no time."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    return float(value) if 0.0 < value < 1e19 else math.nan


def _samples(found: Any) -> tuple[float, ...]:
    if not isinstance(found, list):
        return ()
    return tuple(second for second in map(_seconds, found) if not math.isnan(second))


def _table(path: Path, rows: Sequence[Row], unit: str) -> Table:
    merged: dict[tuple[tuple[str, Value], ...], Row] = {}
    for row in rows:
        merged[tuple(sorted(row[0].items()))] = row  # measured again: the last one counts
    kept = list(merged.values())
    if not any(math.isfinite(seconds) for _, seconds, _ in kept):
        raise GridstoneError(f"{path} has no valid configuration among {len(kept)}", "record it again")
    names = list(kept[0][0])
    if any(list(row[0]) != names and set(row[0]) != set(names) for row in kept):
        raise GridstoneError(f"the configurations of {path} have different parameters", "record it again")
    if not names:
        raise GridstoneError(f"the configurations of {path} have no parameters", "give a T4 file or a cache file")
    axes = tuple(Choice(name, _ordered({row[0][name] for row in kept})) for name in names)
    widest = max(axes, key=lambda axis: len(axis.values))
    if len(widest.values) > _MOST_VALUES:
        raise GridstoneError(
            f"{widest.field!r} has {len(widest.values)} values in {path}, more than {_MOST_VALUES}", "split it"
        )
    places = [{value: i for i, value in enumerate(axis.values)} for axis in axes]
    ordinals = [[place[row[0][name]] for name, place in zip(names, places, strict=True)] for row in kept]
    branch = Branch("table", axes, np.array(ordinals, dtype=np.int16).reshape(len(kept), len(axes)))
    seconds = np.array([found for _, found, _ in kept])
    samples = tuple(np.array(found) for _, _, found in kept)
    return Table(path.name, FeasibleSet([branch]), seconds, samples, unit)


def _ordered(values: set[Value]) -> tuple[Value, ...]:
    """Return values in ascending order; numbers that were written as text because they have a fraction, too."""
    try:
        return tuple(sorted(values, key=lambda value: (float(value), repr(value))))
    except (OverflowError, ValueError):
        return tuple(sorted(values, key=lambda value: (str(value), repr(value))))
