"""Facts of the machine at hand: which targets it runs, and what to call it in records."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path

from gridstone.kernel_cache.gpu import gpu_name, runs_on_gpu
from gridstone.lower.target import Language, Target, cpp_target, parse_target

CPUINFO = Path("/proc/cpuinfo")


@functools.cache
def cpu_facts() -> tuple[str, frozenset[str]]:
    """Return (model name, feature flags as Linux names them); no flags where the system does not tell."""
    try:
        text = CPUINFO.read_text()
    except OSError:
        return platform.processor() or platform.machine(), frozenset()
    rows = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    facts = {name.strip(): value.strip() for name, value in rows.items()}
    return facts.get("model name", platform.machine()), frozenset(facts.get("flags", "").split())


@functools.cache
def host_target() -> Target:
    """Return the widest C++ target that this CPU runs."""
    return cpp_target(cpu_facts()[1])


LIBRARY = parse_target("library:torch")


def runs_here(target: Target) -> bool:
    """Return whether code for a target runs on this machine."""
    return runs_on_gpu(target) if target.sms else target.cpu_flags <= cpu_facts()[1]


NO_GPU = "no GPU"  # in place of a GPU's name: what is kept under it was measured on none


def device_name(target: Target | None = None) -> str:
    """Return what records call this machine: its processor and the target that it is used as, the CPU's if omitted.

    The processor is the GPU for a GPU's target, and the CPU for any other. A search for another target has winners of
    its own: they must not take the place of the widest one's.
    """
    if target is None or target.language is Language.LIBRARY:
        target = host_target()
    processor = (gpu_name() or NO_GPU) if target.sms else cpu_facts()[0]
    return f"{processor} [{target.arch}]"


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
