"""A C++ kernel as a program of its own under AddressSanitizer and UBSan, which cannot be loaded into Python's.

Walls stand where operands end, on one side at a time. The sanitizers watch both sides of every buffer, and arrays on
the stack as well, which no wall protects.
"""

from __future__ import annotations

import re
import shlex
import struct
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from gridstone.ir.errors import BuildError
from gridstone.kernel_cache.toolchain_cpp import FLAGS, PRELUDE, CppToolchain
from gridstone.lower.target import Target
from gridstone.templates.source import Source
from tests.mutation.bounded import Argument, Scratch, span

SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g1", "-O1", "-w")
TIMEOUT_S = 300.0
_NUMBER, _BUFFER, _SCRATCH = 0, 1, 2
_SAID = re.compile(r"ERROR: (.*)|runtime error: (.*)")
_AT = re.compile(r"kernel\.cpp:(\d+)")
DRIVER = """\
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
extern "C" void ENTRY(PARAMETERS);
extern "C" int64_t SIZED(int64_t rows, int64_t threads);
static int64_t number(FILE* from) { int64_t v; if (fread(&v, 8, 1, from) != 1) exit(3); return v; }
int main(int, char** words) {
  FILE* from = fopen(words[1], "rb");
  for (int64_t calls = number(from); calls; --calls) {
    const int64_t rows = number(from), threads = number(from);
    int64_t a[COUNT];
    void* owned[COUNT];
    for (int i = 0; i < COUNT; ++i) {
      const int64_t kind = number(from), value = number(from);
      const int64_t size = kind == 2 ? SIZED(rows, threads) : value;
      owned[i] = nullptr;
      a[i] = value;
      if (kind == 0) continue;
      if (size && posix_memalign(&owned[i], 64, (size_t)size)) return 4;
      a[i] = (int64_t)owned[i];
      if (kind == 1 && size && fread(owned[i], (size_t)size, 1, from) != 1) return 3;
      if (kind == 2 && size) memset(owned[i], 0xFF, (size_t)size);
    }
    ENTRY(GIVEN);
    for (void* p : owned) free(p);
  }
}
"""


def build_program(source: Source, target: Target, folder: Path) -> Path:
    """Build a kernel with a program that calls it.

    Raises:
        BuildError: There is no compiler, or it refuses the text.
    """
    compiler = CppToolchain().compiler()
    if compiler is None:
        raise BuildError("no C++ compiler", "install g++")
    count = len(source.params)
    scratch = source.launch.scratch_entry
    words = {
        "ENTRY": source.entry, "SIZED": scratch or "no_scratch", "COUNT": str(count),
        "PARAMETERS": ", ".join(["int64_t"] * count), "GIVEN": ", ".join(f"a[{at}]" for at in range(count)),
    }  # fmt: skip
    driver = re.sub("|".join(words), lambda found: words[found[0]], DRIVER)
    if not scratch:
        driver += 'extern "C" int64_t no_scratch(int64_t, int64_t) { return 0; }\n'
    (folder / "prelude.h").write_text(PRELUDE)
    (folder / "kernel.cpp").write_text(source.text)
    (folder / "driver.cpp").write_text(driver)
    command = [*shlex.split(compiler), *FLAGS, *target.flags, *SANITIZE]
    made = folder / "kernel.o"
    _run([*command, "-include", str(folder / "prelude.h"), "-c", str(folder / "kernel.cpp"), "-o", str(made)])
    _run([*command, str(folder / "driver.cpp"), str(made), "-o", str(folder / "program")])
    return folder / "program"


def _run(command: Sequence[str]) -> None:
    run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False)
    if run.returncode:
        raise BuildError(f"the compiler refuses it under sanitizers:\n{run.stderr[:2000]}")


def fault(program: Path, calls: Iterable[tuple[int, int, Sequence[Argument]]]) -> str:
    """Make calls, and return what a sanitizer says; empty when it says nothing.

    Args:
        program: From `build_program`.
        calls: (rows, threads, arguments) of each.
    """
    made = [_packed(*call) for call in calls]
    problem = program.with_name("problem")
    problem.write_bytes(struct.pack("<q", len(made)) + b"".join(made))
    run = subprocess.run(
        [str(program), str(problem)], capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False,
        env={"ASAN_OPTIONS": "detect_leaks=0:handle_segv=1", "OMP_WAIT_POLICY": "passive"},
    )  # fmt: skip
    if run.returncode == 0:
        return ""
    said, at = _SAID.search(run.stderr), _AT.search(run.stderr)
    text = (said[1] or said[2]) if said else f"it ended with {run.returncode}"
    return f"{text}{f' at line {at[1]}' if at else ''}"


def _packed(rows: int, threads: int, given: Sequence[Argument]) -> bytes:
    parts = [struct.pack("<qq", rows, threads)]
    for argument in given:
        if isinstance(argument, torch.Tensor):
            content = span(argument).tobytes()
            parts.append(struct.pack("<qq", _BUFFER, len(content)) + content)
        elif isinstance(argument, Scratch):
            parts.append(struct.pack("<qq", _SCRATCH, 0))
        else:
            parts.append(struct.pack("<qq", _NUMBER, argument))
    return b"".join(parts)
