"""What a result file says of the machine it was measured on."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path

import torch

import gridstone
from gridstone.kernel_cache.host import cpu_facts, host_target
from gridstone.kernel_cache.make import TOOLCHAINS
from gridstone.lower.target import Language


def describe() -> dict[str, object]:
    """Return facts as plain JSON values."""
    caches = Path("/sys/devices/system/cpu/cpu0/cache")
    sizes = {f.parent.name: f.read_text().strip() for f in sorted(caches.glob("index*/size"))}
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "cpu": cpu_facts()[0],
        "target": str(host_target()),
        "cores": os.cpu_count(),
        "caches": sizes,
        "huge_pages": pages.read_text().partition("[")[2].partition("]")[0] if pages.exists() else "none",
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "compiler": dict(TOOLCHAINS[Language.CPP].identity(host_target()))["compiler"],
        "gridstone": gridstone.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
