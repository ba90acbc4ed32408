"""Memory for large buffers that are read once per call, from end to end: on huge pages where the system gives them.

A weight of 8 MB lies on two thousand small pages, and a call that streams it misses the translation of nearly every one
of them. Linux gives huge pages to memory that asks for them (`madvise`) and begins at a multiple of their size.
"""

from __future__ import annotations

import contextlib
import mmap

import numpy as np
import numpy.typing as npt

HUGE_PAGE = 2 << 20
LARGE = 2 * HUGE_PAGE  # bytes from which on it pays: below, the last page's rest would weigh too much


def zeroed(size: int) -> npt.NDArray[np.uint8]:
    """Return zeroed memory.

    Args:
        size: Bytes; at least `LARGE` of them begin at a multiple of a huge page and ask for such pages.

    >>> int(zeroed(100).sum()), zeroed(LARGE).ctypes.data % HUGE_PAGE
    (0, 0)
    """
    if size < LARGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros(size, np.uint8)
    # Private: pages that processes could share are huge on hardly any system.
    memory = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(memory, np.uint8)
    start = -whole.ctypes.data % HUGE_PAGE
    return whole[start : start + size]
