"""Findings in files, one each: what was wrong, as remarks, and the case, which can be run for ever."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gridstone.ir.errors import SpecError
from gridstone.proof.fuzz.subject import Finding

SUFFIX = ".case"
_REMARK = "# "


def save(finding: Finding, folder: Path) -> Path:
    """Write a finding; the same case is always the same file.

    Args:
        finding: Shrunk.
        folder: Made when it is not there.

    Raises:
        OSError: It cannot be written.
    """
    case = f"{finding.subject}: {finding.case}"
    remarks = [f"what was wrong: {finding.problem}", f"found as: {finding.first}"]
    lines = [_REMARK + line for remark in remarks for line in remark.splitlines() if line.strip()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{finding.subject}-{hashlib.sha256(case.encode()).hexdigest()[:12]}{SUFFIX}"
    with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as unfinished:
        unfinished.write("\n".join([*lines, case, ""]))
    os.chmod(unfinished.name, 0o644)
    os.replace(unfinished.name, path)
    return path


def read_case(path: Path) -> str:
    """Return the case of a saved file, `subject: case`.

    Raises:
        SpecError: The file does not hold exactly one.
    """
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    cases = [line for line in lines if not line.startswith(_REMARK.rstrip())]
    if len(cases) != 1:
        raise SpecError(f"{path.name} holds {len(cases)} cases, not one", "give each a file of its own")
    return cases[0]


def saved(folder: Path) -> Iterator[Path]:
    """Yield the saved files of a folder, in the order of their names."""
    yield from sorted(folder.glob(f"*{SUFFIX}"))
