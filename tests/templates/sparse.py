"""Memory of many gigabytes of which a few pages are touched: zeros that cost nothing until they are written."""

from __future__ import annotations

import mmap

import pytest
import torch

FAR = 1 << 31  # what 32 bits with a sign do not hold
_NO_RESERVE = 0x4000  # MAP_NORESERVE of Linux, which Python names from 3.13 on
FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE


def sparse(size: int) -> mmap.mmap:
    """Return so many bytes of zeros, or skip the test where they cannot be had."""
    try:
        return mmap.mmap(-1, size, flags=FLAGS)
    except OSError as error:
        pytest.skip(f"no {size} bytes of addresses: {error}")


def far_apart(rows: int, dtype: torch.dtype) -> tuple[torch.Tensor, int]:
    """Return memory for matrices of so many rows whose last one lies FAR elements behind the first, and their stride.

    An offset that is computed in 32 bits with a sign ends in zeros before the first element, which is FAR elements
    behind the start of the memory.
    """
    stride = FAR // (rows - 1) + 8
    count = FAR + stride * rows
    return torch.frombuffer(sparse(count * dtype.itemsize), dtype=dtype), stride


def matrix_in(memory: torch.Tensor, stride: int, place: int, values: torch.Tensor) -> torch.Tensor:
    """Return a matrix of these values, `place` elements behind the first of the memory that `far_apart` gives."""
    view = memory.as_strided(tuple(values.shape), (stride, 1), FAR + place)
    for at in range(values.shape[0]):  # row by row: nothing else is touched
        view[at] = values[at]
    return view
