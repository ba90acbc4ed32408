"""Restore: run a program and give its tensors and random generators back as they were.

What a program keeps in tensors (running statistics, caches, inputs changed in place) is put back, and so are the states
of torch's and Python's generators. What it keeps elsewhere, such as a counter in an attribute, is not.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch.autograd.grad_mode import _unsafe_preserve_version_counter

from gridstone.runtime.tensors import QuantTensor


class Kept:
    """Copies of tensors, to be put back."""

    def __init__(self) -> None:
        self._copies: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._versions = contextlib.ExitStack()  # autograd refuses a saved tensor whose version has changed

    def keep(self, values: Iterable[Any], parameters: bool) -> None:
        """Copy tensors that were not copied before; parameters and quantised weights only on demand."""
        for leaf in pytree.tree_leaves(list(values)):
            weight = isinstance(leaf, (QuantTensor, torch.nn.Parameter))
            if not isinstance(leaf, torch.Tensor) or leaf.layout != torch.strided or (weight and not parameters):
                continue
            tensor = leaf.packed if isinstance(leaf, QuantTensor) else leaf
            if id(tensor) not in self._copies:
                self._copies[id(tensor)] = (tensor, tensor.detach().clone())
                if not tensor.is_inference():
                    self._versions.enter_context(_unsafe_preserve_version_counter(tensor))

    def put_back(self) -> None:
        """Undo every change."""
        with self._versions:
            for tensor, copy in self._copies.values():
                if not _same(tensor.detach(), copy):
                    with torch.inference_mode() if tensor.is_inference() else torch.no_grad():
                        tensor.copy_(copy)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape:
        return True  # resized: there is nothing to copy back into
    return bool(((a == b) | ((a != a) & (b != b))).all())


@contextlib.contextmanager
def restored(program: object) -> Iterator[Kept]:
    """Run something and put back what was kept, a module's buffers, and the random generators."""
    kept = Kept()
    if isinstance(program, torch.nn.Module):
        kept.keep(program.buffers(), parameters=False)
    python = random.getstate()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(list(devices)):
        try:
            yield kept
        finally:
            kept.put_back()
            random.setstate(python)
