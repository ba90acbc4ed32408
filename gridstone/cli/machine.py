"""Examining this machine: each finding says what is there, and what to install where something is not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gridstone.cli.trial import attempt
from gridstone.ir.errors import GridstoneError
from gridstone.kernel_cache.gpu import why_not_here
from gridstone.kernel_cache.host import cpu_facts, host_target, runs_here, usable_cores
from gridstone.kernel_cache.settings import Settings, read_settings
from gridstone.lower.target import TARGETS, Language

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact.

    Args:
        name, value: For the table.
        fine: Whether nothing is amiss.
        needed: Whether kernels can be built and run only if it is fine.
        remedy: What to do when it is not.
    """

    name: str
    value: str
    fine: bool = True
    needed: bool = False
    remedy: str = ""


def examine() -> tuple[Finding, ...]:
    """Return all findings; no finding is missing because another is amiss."""
    return (*_cpu(), *_packages(), *_compiler(), *_gpu(), *_cache())


def _cpu() -> Iterator[Finding]:
    model, flags = cpu_facts()
    yield Finding("processor", model)
    wanted = sorted(set().union(*(target.cpu_flags for target in TARGETS.values())))
    yield Finding("features", " ".join(flag for flag in wanted if flag in flags) or "none that kernels use")
    cores, load = usable_cores(), os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    yield Finding("cores", f"{cores} usable; load {load:.1f}" + (": measurements will be noisy" if load > 0.5 else ""))
    yield Finding("caches", _caches())
    here = [name for name, target in TARGETS.items() if target.language is Language.CPP and runs_here(target)]
    yield Finding("targets", f"{', '.join(here)}; auto is {host_target()}")


def _caches() -> str:
    found: list[str] = []
    for index in sorted(CACHES.glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        found.append(f"L{level}{kind[0].lower() if kind != 'Unified' else ''} {size}")
    return ", ".join(found) or "unknown"


def _packages() -> Iterator[Finding]:
    yield Finding("python", platform.python_version())
    for name, needed in (("torch", True), ("numpy", True), ("optuna", False), ("transformers", False)):
        extra = "'gridstone[examples]', for the demo" if name == "transformers" else name
        version = _version(name)
        yield Finding(name, version or "not installed", bool(version), needed, f"pip install {extra}")


def _version(name: str, module: str = "") -> str:
    """Return the version of a package, or nothing where its module, of the same name if omitted, cannot be imported."""
    try:
        found = importlib.util.find_spec(module or name)
        return importlib.metadata.version(name) if found else ""
    except (ImportError, ValueError, importlib.metadata.PackageNotFoundError):
        return ""


def _compiler() -> Iterator[Finding]:
    remedy = "install g++ or clang++ (apt install g++, dnf install gcc-c++), or set GRIDSTONE_CXX"
    try:
        from gridstone.kernel_cache.toolchain_cpp import CppToolchain  # torch
    except ImportError as error:
        yield Finding("compiler", f"not looked for: {error}", False, True, "pip install torch")
        return
    chain = CppToolchain()
    try:
        missing = chain.missing()
        identity = dict(chain.identity(host_target()))
    except GridstoneError as error:  # a variable of the environment is malformed
        yield Finding("compiler", error.problem, False, True, error.remedy)
        return
    yield Finding("compiler", missing or f"{chain.compiler()}: {identity['compiler']}", not missing, True, remedy)
    if missing:
        return
    trial = attempt()
    yield Finding("a tiny kernel", trial.said, not trial.remedy, True, trial.remedy)
    if trial.remedy:
        return
    fine = len(trial.openmp) <= 1
    shared = "shared with torch" if fine else "not shared with torch: threads compete"
    yield Finding("OpenMP", f"{', '.join(trial.openmp) or 'none'}; {shared}",
                  fine, False, "set GRIDSTONE_CXX to the compiler whose OpenMP torch uses (g++)")  # fmt: skip


def _gpu() -> Iterator[Finding]:
    triton = _version("triton")
    yield Finding("triton", triton or "not installed", bool(triton), False, "pip install 'gridstone[triton]'")
    for name, look, remedy in (
        ("NVRTC", _nvrtc, "pip install 'gridstone[cuda13]', to build for CUDA targets; that needs no GPU"),
        ("disassembler", _disassembler, "pip install 'triton>=3.9', to see what became of a kernel"),
    ):
        found = look()
        yield Finding(name, found or "not found", bool(found), False, remedy)
    cupy = _version("cupy-cuda13x", "cupy") or _version("cupy-cuda12x", "cupy")
    yield Finding("CuPy", cupy or "not installed", bool(cupy), False,
                  "pip install 'gridstone[cuda13]', to launch kernels on an NVIDIA GPU")  # fmt: skip
    gpu = _nvidia()
    reasons = {name: why_not_here(target) for name, target in TARGETS.items() if target.sms} if gpu else {}
    here = [name for name, reason in reasons.items() if not reason]
    said = f"{gpu}; targets {', '.join(here) or 'none'}" if gpu else "no NVIDIA GPU"
    if gpu:
        remedy = "; ".join(dict.fromkeys(filter(None, reasons.values())))
    else:
        remedy = "kernels for GPUs are built here and not run; that needs a GPU that torch sees, and CuPy"
    yield Finding("CUDA", said, bool(here), False, remedy)


def _nvrtc() -> str:
    """Return the version of NVRTC, or nothing."""
    from gridstone.kernel_cache.nvrtc import find_nvrtc

    found = find_nvrtc()
    return ".".join(map(str, found.version)) if found else ""


def _disassembler() -> str:
    """Return the release and place of nvdisasm, or nothing."""
    from gridstone.proof.disassembler import find_disassembler

    found = find_disassembler()
    return f"{'.'.join(map(str, found.release))} in {found.nvdisasm.parent}" if found else ""


def _nvidia() -> str:
    """Return the GPUs that the driver names."""
    if not shutil.which("nvidia-smi"):
        return ""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "; ".join(run.stdout.strip().splitlines()) if run.returncode == 0 else ""


def _cache() -> Iterator[Finding]:
    try:
        settings = read_settings()
    except GridstoneError as error:
        yield Finding("cache", error.problem, False, False, error.remedy)
        return
    folder = settings.cache_dir
    held = f"{folder}: {_size(folder) / 2**20:.1f} MiB of {settings.cache_limit / 2**20:.0f} MiB"
    said = "; ".join([held, *(complaint.problem for complaint in settings.complaints)])
    remedies = "; ".join(complaint.remedy for complaint in settings.complaints)
    yield Finding("cache", said, not settings.complaints, False, remedies)
    problem = _unwritable(settings)
    remedy = "set GRIDSTONE_CACHE_DIR to a folder that can be written; until then kernels are built anew in each run"
    yield Finding("cache writable", problem or "yes", not problem, False, remedy)
    free = shutil.disk_usage(_existing(folder)).free
    yield Finding("free space", f"{free / 2**30:.1f} GiB", free > settings.cache_limit, False,
                  "free some, or set GRIDSTONE_CACHE_LIMIT below it")  # fmt: skip


def _existing(folder: Path) -> Path:
    """Return the nearest folder that exists."""
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def _size(folder: Path) -> int:
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except OSError:
                continue
    return total


def _unwritable(settings: Settings) -> str:
    """Return why nothing can be written to the cache, or nothing."""
    try:
        with tempfile.TemporaryFile(dir=_existing(settings.cache_dir)):
            return ""
    except OSError as error:
        return f"no: {error.strerror}"
