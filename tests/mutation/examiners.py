"""Processes that examine mutants, started when they are needed and started again when they die."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# One thread each, and none that spins while it waits: the mutants' own threads are to have the processor.
QUIET = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


class ExaminerDied(Exception):
    """An examiner died of a mutant twice, or said that it cannot examine it."""


class Examiner:
    """One such process; it takes one mutant at a time.

    Args:
        folder: For what it builds; may be shared with others.
        cache: Kernel cache; one in the folder when omitted.
    """

    def __init__(self, folder: Path, cache: Path | None = None) -> None:
        self._folder, self._cache = folder, cache or folder / "cache"
        self._process: subprocess.Popen[str] | None = None

    def ask(self, subject: str, text: str, *, always: bool = False) -> dict[str, Any]:
        """Return the verdict on a text, as `examine.Verdict.json` gives it.

        Args:
            subject: Name of the kernel.
            text: Its text, changed or not.
            always: Whether it is judged even if its machine code is the original's.

        Raises:
            ExaminerDied: There is none.
        """
        request = json.dumps({"subject": subject, "text": text, "always": always})
        for _ in range(2):
            process = self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(request + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except OSError:
                line = ""
            if line:
                answer = json.loads(line)
                if "error" in answer:
                    raise ExaminerDied(f"{subject}: {answer['error']}")
                return answer
            self.close()
        raise ExaminerDied(f"{subject}: the examiner died of a mutant twice")

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            scratch = self._folder / "tmp"
            scratch.mkdir(mode=0o700, exist_ok=True)
            places = {"TMPDIR": str(scratch), "GRIDSTONE_CACHE_DIR": str(self._cache)}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.mutation.examiner"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
                env={**os.environ, **QUIET, **places},
            )  # fmt: skip
        return self._process

    def close(self) -> None:
        """End the process, with whatever it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None
