"""The C++ toolchain: the system's compiler, explicit ISA flags, a precompiled header, one shared object a kernel."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sysconfig
import tempfile
from pathlib import Path

import torch  # loaded before any kernel: they share the OpenMP runtime that it brings

from gridstone.ir.errors import BuildError, CacheError, LaunchError
from gridstone.ir.spec import Spec
from gridstone.kernel_cache.files import private_folder, runs_from
from gridstone.kernel_cache.key import Key
from gridstone.kernel_cache.launch_cpp import bind
from gridstone.kernel_cache.settings import read_settings
from gridstone.kernel_cache.shared_object import fault
from gridstone.kernel_cache.toolchain import Call
from gridstone.lower.target import Language, Target
from gridstone.templates.source import Source

PRELUDE = """\
#pragma once
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <omp.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
"""
# -ffp-contract=fast fuses a*b+c; nothing here relaxes NaN, infinities or the order of sums.
FLAGS = ("-std=c++17", "-O2", "-fPIC", "-fopenmp", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math",
         "-fvisibility=hidden", "-Wall", "-Wno-psabi", "-Wno-unknown-pragmas", "-Wno-unused-function")  # fmt: skip
TIMEOUT_S = 300.0
MACHINE = sysconfig.get_platform()  # such as linux-x86_64
ANOTHER = "point GRIDSTONE_CXX at another C++17 compiler; `gridstone doctor` tries it"


@functools.lru_cache(maxsize=8)
def _identify(compiler: str) -> str | None:
    """Return the compiler's name and version, or None when it does not run."""
    try:
        run = subprocess.run(
            [*shlex.split(compiler), "--version"],
            capture_output=True, text=True, errors="replace", timeout=30, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = run.stdout.strip().splitlines()
    return lines[0] if run.returncode == 0 and lines else None


def _silent(status: int) -> str:
    """Say how a compiler ended that said nothing."""
    if status > 0:
        return f"it said nothing and exited with {status}"
    out = "; the machine may be out of memory" if -status == signal.SIGKILL else ""
    return f"it was ended by signal {-status}{out}"


def _load_remedy(path: Path) -> str:
    if runs_from(path):
        return ANOTHER
    return "set GRIDSTONE_CACHE_DIR to a folder whose file system is not mounted noexec"


class CppToolchain:
    """Compiles with `GRIDSTONE_CXX`, `CXX`, or the first of c++, g++, clang++ that runs."""

    language = Language.CPP
    suffix = ".so"

    def compiler(self) -> str | None:
        """Return the compiler's command, or None when there is none that runs."""
        wanted = read_settings().compiler
        names = [wanted] if wanted else ["c++", "g++", "clang++"]
        for name in names:
            words = shlex.split(name)
            if words and shutil.which(words[0]) and _identify(name):
                return name
        return None

    def missing(self) -> str | None:
        """Say what to install when there is no compiler."""
        try:
            if self.compiler():
                return None
        except CacheError as error:  # a variable that is no command
            return f"{error.problem}; {error.remedy}"
        wanted = read_settings().compiler
        if wanted:
            return (
                f"the compiler {wanted!r} does not run; unset GRIDSTONE_CXX and CXX or point them at a C++17 compiler"
            )
        return "no C++ compiler found; install g++ or clang++, or set GRIDSTONE_CXX"

    def identity(self, target: Target) -> tuple[tuple[str, str], ...]:
        """Compiler, flags, prelude, and the machine: `generic` flags are the same on every one."""
        compiler = self.compiler()
        version = _identify(compiler) if compiler else None
        return (
            ("compiler", version or "none"),
            ("machine", MACHINE),
            ("flags", " ".join((*FLAGS, *target.flags))),
            ("prelude", PRELUDE),
        )

    def build(self, source: Source, target: Target) -> bytes:
        """Compile to a shared object and return its bytes, which were not loaded but look like one."""
        missing = self.missing()
        if missing:
            raise BuildError(missing)
        compiler = self.compiler()
        assert compiler is not None
        command = [*shlex.split(compiler), *FLAGS, *target.flags]
        try:
            with tempfile.TemporaryDirectory(prefix="gridstone-build-") as folder:
                text, binary = Path(folder, "kernel.cpp"), Path(folder, "kernel.so")
                text.write_text(source.text)
                # A fixed name and map keep the folder out of the artefact.
                place = [f"-ffile-prefix-map={folder}=.", "-include", str(self._prelude(command))]
                self._run([*command, *place, "-shared", "-o", str(binary), str(text)], source)
                blob = binary.read_bytes() if binary.exists() else None
        except OSError as error:
            remedy = "make room in TMPDIR, or point it elsewhere"
            raise BuildError(f"no kernel can be compiled: {error}", remedy) from error
        wrong = "wrote no file" if blob is None else fault(blob, source.entry)
        if blob is None or wrong:
            told = wrong if blob is None else f"what it wrote {wrong}"
            raise BuildError(f"{self.named()} exits with 0, but {told}", ANOTHER)
        return blob

    def examine(self, key: Key, blob: bytes) -> str:
        """Return why an artefact cannot be loaded, as far as its bytes show; empty for nothing."""
        fields = dict(key.fields)
        foreign = fields.get("machine", MACHINE) != MACHINE  # kept by another machine that shares the folder
        return "" if foreign else fault(blob, fields["entry"])

    def named(self) -> str:
        """Return the compiler's command and version, for messages."""
        compiler = self.compiler()
        return f"the compiler {compiler!r} ({_identify(compiler) if compiler else 'none'})"

    def _run(self, command: list[str], source: Source) -> None:
        run = self._start(command, f"compiling {source.origin.schedule}")
        if run.returncode:
            said = (run.stderr.strip() or run.stdout.strip())[:4000] or _silent(run.returncode)
            failure = BuildError(f"the compiler refused {source.origin.recipe}:\n{said}")
            failure.add_note(f"spec      {source.origin.spec}\nschedule  {source.origin.schedule}")
            raise failure

    def _start(self, command: list[str], doing: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise BuildError(f"{doing} took over {TIMEOUT_S:.0f} s", ANOTHER) from None
        except OSError as error:
            raise BuildError(f"the compiler could not be started: {error}", ANOTHER) from error

    def _prelude(self, command: list[str]) -> Path:
        """Return the prelude in the temporary folder, precompiled once per user, compiler and flags."""
        digest = hashlib.sha256("\0".join([*command, _identify(shlex.join(command[:1])) or "", PRELUDE]).encode())
        folder = Path(tempfile.gettempdir()) / f"gridstone-pch-{os.getuid()}-{digest.hexdigest()[:16]}"
        header = folder / "prelude.h"
        own = folder.is_dir() and not folder.is_symlink() and folder.lstat().st_uid == os.getuid()
        if own and header.exists() and header.stat().st_uid == os.getuid() and header.read_text() == PRELUDE:
            return header
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.lstat().st_uid != os.getuid():  # made by another user, who could put any code into it
            folder = private_folder(None)
            header = folder / "prelude.h"
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            text, compiled = Path(scratch, "prelude.h"), Path(scratch, "prelude.h.gch")
            text.write_text(PRELUDE)
            run = self._start([*command, "-x", "c++-header", "-o", str(compiled), str(text)], "precompiling a header")
            if run.returncode == 0 and compiled.exists():
                os.replace(compiled, folder / "prelude.h.gch")
            os.replace(text, header)
        return header

    def load(self, path: Path, source: Source, spec: Spec) -> Call:
        """Open the shared object and bind its entry point to tensors."""
        try:
            # The loader dies of a bus error on an object that is cut off, and takes the program with it.
            wrong = fault(path.read_bytes(), source.entry)
            if wrong:
                raise OSError(f"it {wrong}")
            library = ctypes.CDLL(str(path))
            entry = getattr(library, source.entry)
            scratch = getattr(library, source.launch.scratch_entry) if source.launch.scratch_entry else None
        except (OSError, AttributeError) as error:
            raise LaunchError(f"{path.name} cannot be loaded: {error}", _load_remedy(path)) from error
        torch.get_num_threads()  # the runtime is up before the first parallel region of a kernel
        return bind(entry, scratch, source, spec)
