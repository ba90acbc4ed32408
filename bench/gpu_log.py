"""Results as they come, a line of JSON each: what was found survives whatever comes next, and is not done twice."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

LONGEST = 2000  # characters of an error: thousands of entries stay below 16 MiB
Entry = dict[str, Any]


class Log:
    """The results of one kind.

    Args:
        path: A file of JSON lines, with what an earlier call wrote; None keeps them in memory.
        before: A file of an earlier call that is only read.
    """

    def __init__(self, path: Path | None, before: Path | None = None) -> None:
        self._path = path
        self._entries: dict[str, Entry] = {}
        for file in dict.fromkeys((before, path)):
            if file is not None and file.is_file():
                self._entries |= {entry["key"]: entry for entry in _read(file)}
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = [json.dumps(entry) + "\n" for entry in self._entries.values()]
            fresh = path.with_name(path.name + ".new")
            fresh.write_text("".join(whole))  # without the line that the end of an earlier call cut off
            fresh.replace(path)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __getitem__(self, key: str) -> Entry:
        return self._entries[key]

    def put(self, key: str, **facts: object) -> None:
        """Keep a result and write it at once."""
        entry: Entry = {"key": key} | {
            name: fact[:LONGEST] if isinstance(fact, str) else fact for name, fact in facts.items()
        }
        self._entries[key] = entry
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(entry) + "\n")
                file.flush()
                os.fsync(file.fileno())


def _read(file: Path) -> list[Entry]:
    entries: list[Entry] = []
    for line in file.read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # cut off
            continue
        if isinstance(entry, dict) and "key" in entry:
            entries.append(entry)
    return entries
