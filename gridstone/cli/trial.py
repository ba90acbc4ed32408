"""A tiny kernel, built, run and checked in a process of its own: what a broken compiler makes may crash, or never end.

python -m gridstone.cli.trial    # one line of JSON
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import gridstone
from gridstone.ir.errors import GridstoneError, MismatchError
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache.host import host_target
from gridstone.templates.registry import default_recipe

TINY = "gemm[x: f32(3,64), w: int4:g32(64,64)] + bias + relu"
LIMIT_S = 120.0  # it takes two seconds on an idle machine
ANOTHER = "set GRIDSTONE_CXX to another C++17 compiler, such as g++ or clang++"
OPENMP = ("libgomp", "libomp", "libiomp")
SAID = 300  # characters of a problem that fit a table


@dataclass(frozen=True, slots=True)
class Trial:
    """How it went.

    Args:
        said: What was built and checked, or what is wrong.
        remedy: What to do; empty when all is well.
        openmp: The OpenMP runtimes that were loaded beside each other.
    """

    said: str
    remedy: str = ""
    openmp: tuple[str, ...] = ()


def attempt() -> Trial:
    """Build and run the kernel in a child process, and return how it went, whatever becomes of the child."""
    path = [str(Path(gridstone.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "gridstone.cli.trial"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
            start_new_session=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        )  # fmt: skip
    except OSError as error:
        return Trial(f"no process could be started for it: {error}", "free memory or processes")
    with child:
        try:
            out, err = child.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            return Trial(f"it did not end within {LIMIT_S:.0f} s", ANOTHER)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)  # with the compilers that it started
    if child.returncode < 0:
        return Trial(f"it was built, and crashed the process that ran it ({_signal(-child.returncode)})", ANOTHER)
    try:
        found = json.loads(out.strip().splitlines()[-1])
        return Trial(found["said"], found["remedy"], tuple(found["openmp"]))
    except (ValueError, LookupError, TypeError):
        last = (err.strip().splitlines() or ["nothing was said"])[-1]
        return Trial(f"the process that tried it ended with status {child.returncode}: {last[:SAID]}", ANOTHER)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def tiny_kernel() -> Trial:
    """Build, run and check the kernel here, in a store of its own."""
    import time

    from gridstone.kernel_cache.make import make_kernel  # torch
    from gridstone.kernel_cache.store import Store
    from gridstone.proof.judge import check

    target = host_target()
    spec = parse_spec(TINY).with_storage(target.storage)
    recipe = default_recipe(spec, target)
    assert recipe is not None
    try:
        with tempfile.TemporaryDirectory(prefix="gridstone-doctor-") as folder:
            start = time.perf_counter()
            kernel = make_kernel(recipe, spec, recipe.space.default(spec, target), target, Store(Path(folder), 1 << 30))
            took = time.perf_counter() - start
            checked = check(kernel, spec, seeds=(1, 2))
    except GridstoneError as error:
        said = " ".join(error.problem.split())
        wrong = "its results are wrong: " if isinstance(error, MismatchError) else ""
        return Trial((wrong + said)[:SAID], error.remedy or ANOTHER)
    except OSError as error:
        return Trial(str(error), "make room in TMPDIR, or point it elsewhere")
    right = f"{checked.cases} results right within {checked.worst_element:.2g} of tolerance"
    return Trial(f"built in {took:.1f} s, ran, {right}", "", loaded_openmp())


def loaded_openmp() -> tuple[str, ...]:
    """Return the OpenMP runtimes that this process has loaded."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return ()
    names = {Path(line.split()[-1]).name for line in lines if len(line.split()) > 5}
    return tuple(sorted(name for name in names if name.startswith(OPENMP)))


if __name__ == "__main__":
    print(json.dumps(asdict(tiny_kernel())))
