"""The Triton toolchain: cubins ahead of time for any architecture, without a GPU. Launching them needs no Triton."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gridstone
from gridstone.ir.errors import BuildError
from gridstone.ir.spec import Spec
from gridstone.kernel_cache.artefact import SUFFIX, Artefact, examine, fault
from gridstone.kernel_cache.launch_cuda import load
from gridstone.kernel_cache.toolchain import Call
from gridstone.lower.target import Language, Target
from gridstone.templates.source import ParamKind, Source

if TYPE_CHECKING:
    from gridstone.kernel_cache.key import Key

PACKED = "w"  # the operand that launchers refuse where it is not aligned
INSTALL = "pip install 'gridstone[triton]'"
# Sums may be fused multiply-adds, as everywhere here; a loop's depth of pipelining is in the text.
OPTIONS: dict[str, Any] = {"enable_fp_fusion": True, "num_ctas": 1}
WHERE_SPILLED = {"maxnreg": "all, where less spills"}  # what `triton_program` does
BLACKWELL = 100  # from here on Triton brings a ptxas of its own
TENSOR_COLUMNS = 512  # of Blackwell's tensor memory, that a block can have
TIMEOUT_S = 300.0
_MOST_WORDS = 4000  # characters of the compiler's words in a message


def _folder() -> Path | None:
    """Return the folder of the installed Triton, which is not imported here."""
    found = importlib.util.find_spec("triton")
    return Path(found.origin).parent if found is not None and found.origin is not None else None


@functools.cache
def _ptxas(folder: Path, blackwell: bool) -> str:
    """Return the version of the assembler that Triton brings."""
    name = "ptxas-blackwell" if blackwell else "ptxas"
    program = folder / "backends" / "nvidia" / "bin" / name
    if not program.exists():
        program = program.with_name("ptxas")
    try:
        run = subprocess.run([str(program), "--version"], capture_output=True, text=True, timeout=60, check=False)
    except OSError as error:
        return f"none: {error}"
    return run.stdout.strip().splitlines()[-1] if run.stdout.strip() else "unknown"


def arch_number(target: Target) -> int:
    """Return an architecture as Triton wants it.

    >>> from gridstone.lower.target import parse_target
    >>> arch_number(parse_target("triton:sm_90"))
    90
    """
    return int(target.arch.removeprefix("sm_"))


class TritonToolchain:
    """Compiles with the installed Triton, each kernel in a process of its own."""

    language = Language.TRITON
    suffix = SUFFIX

    def missing(self) -> str | None:
        """Say what to install where Triton is not there."""
        return None if _folder() else f"Triton is not installed; {INSTALL}"

    def identity(self, target: Target) -> tuple[tuple[str, str], ...]:
        """Versions of Triton and of its assembler, and the options that no text holds."""
        folder = _folder()
        if folder is None:
            return (("compiler", "none"),)
        return (
            ("compiler", f"Triton {importlib.metadata.version('triton')}"),
            ("ptxas", _ptxas(folder, arch_number(target) >= BLACKWELL)),
            ("options", json.dumps({**OPTIONS, **WHERE_SPILLED}, sort_keys=True)),
        )

    def build(self, source: Source, target: Target) -> bytes:
        """Compile to a cubin and return it packed with how it is launched."""
        missing = self.missing()
        if missing:
            raise BuildError(missing)
        return build_with(sys.executable, source, target)

    def examine(self, key: Key, blob: bytes) -> str:
        """Return why an artefact cannot be launched, as far as its bytes show; empty for nothing."""
        return examine(blob, dict(key.fields)["entry"])

    def load(self, path: Path, source: Source, spec: Spec) -> Call:
        """Load a cubin on torch's current GPU, and on others when they are used."""
        return load(path, source, spec)


def build_with(python: str, source: Source, target: Target) -> bytes:
    """Compile with the Triton of some Python and return the cubin packed with how it is launched.

    Args:
        python: Interpreter in which Triton is installed; it needs nothing else.
        source: Emitted Triton with a grid.
        target: What it was emitted for.

    Raises:
        BuildError: Triton refuses it, or made what cannot be launched as it was planned.
    """
    grid = source.launch.grid
    assert grid is not None, "a Triton recipe decides a grid"
    # What the launcher promises: packed weights and sums lie at multiples of 16 bytes.
    aligned = [
        at
        for at, param in enumerate(source.params)
        if param.kind is ParamKind.PARTS or (param.kind is ParamKind.POINTER and param.operand == PACKED)
    ]
    request = {
        "text": source.text, "entry": source.entry, "arch": arch_number(target), "aligned": aligned,
        "options": {**OPTIONS, "num_warps": grid.threads // 32},
    }  # fmt: skip
    facts, cubin = _run(python, request, source, target)
    wrong = fault(cubin, source.entry)
    if wrong:
        raise BuildError(f"Triton refuses nothing, but what it made {wrong}", INSTALL)
    scratch = facts["params"] - len(source.params)
    if facts["threads"] != grid.threads or scratch < 0 or facts["scratch_bytes"]:
        raise BuildError(f"Triton made a kernel that cannot be launched as it was planned: {facts}", INSTALL)
    if facts["tensor_columns"] > TENSOR_COLUMNS:
        # Triton leaves this to its own launcher; the kernel that it returns does nothing but trap.
        need = f"{facts['tensor_columns']} columns of tensor memory of {TENSOR_COLUMNS}"
        raise BuildError(f"{source.origin.schedule} needs {need} on {target}", "choose a smaller tile or step")
    if facts["shared_bytes"] > target.l1_bytes:
        need = f"{facts['shared_bytes']} bytes of shared memory of {target.l1_bytes}"
        raise BuildError(f"{source.origin.schedule} needs {need} on {target}", "choose smaller tiles or fewer stages")
    return Artefact(cubin, source.entry, facts["threads"], facts["shared_bytes"], scratch).pack()


def _run(python: str, request: dict[str, Any], source: Source, target: Target) -> tuple[dict[str, Any], bytes]:
    """Return what the building process answers."""
    # Variables of Triton's own would change what is built, and no key would say so.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}
    path = [str(Path(gridstone.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    # Without lines the cubin does not hold the path of its source.
    clean = {**kept, "PYTHONPATH": os.pathsep.join(path), "TRITON_DISABLE_LINE_INFO": "1"}
    try:
        run = subprocess.run(
            [python, "-P", "-m", "gridstone.kernel_cache.triton_program"],
            input=json.dumps(request).encode(), capture_output=True, timeout=TIMEOUT_S, check=False, env=clean,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        late = f"compiling {source.origin.schedule} for {target} took over {TIMEOUT_S:.0f} s"
        raise BuildError(late, "choose smaller tiles") from None
    except OSError as error:
        raise BuildError(f"the process that builds Triton kernels could not be started: {error}") from error
    line, _, cubin = run.stdout.partition(b"\n")
    if run.returncode or not line:
        said = run.stderr.decode(errors="replace").strip()[-_MOST_WORDS:] or f"it ended with {run.returncode}"
        failure = BuildError(f"Triton refused {source.origin.recipe} for {target}:\n{said}")
        failure.add_note(f"spec      {source.origin.spec}\nschedule  {source.origin.schedule}")
        raise failure
    return json.loads(line), cubin
