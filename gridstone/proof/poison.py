"""Poisoned memory: NaN inside guard bands, so that what a kernel fails to write, or writes beside, shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

GUARD = 64  # elements before and after, more than any vector store is wide
POISON = 0xFF  # every byte of it: a NaN of every floating dtype


@dataclass(frozen=True, slots=True)
class PoisonedOutput:
    """An output tensor inside a larger poisoned buffer.

    Args:
        whole: The buffer, guard bands included.
        output: The view that the kernel writes.
    """

    whole: torch.Tensor
    output: torch.Tensor

    def damage(self) -> str:
        """Return what happened to the guard bands; empty when every bit of them survived, another NaN's too."""
        before = _overwritten(self.whole[:GUARD])
        after = _overwritten(self.whole[self.whole.numel() - GUARD :])
        return f"{before} elements before and {after} after the output were overwritten" if before or after else ""


def poisoned(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str = "cpu") -> PoisonedOutput:
    """Return a contiguous tensor of this shape, all of whose bytes are `POISON`, guarded on both sides."""
    count = math.prod(shape)
    whole = torch.empty(count + 2 * GUARD, dtype=dtype, device=device)
    whole.view(torch.uint8).fill_(POISON)
    return PoisonedOutput(whole, whole[GUARD : GUARD + count].view(shape))


def _overwritten(band: torch.Tensor) -> int:
    """Return how many elements of a guard band are no longer what they were."""
    return int((band.view(torch.uint8).view(band.numel(), -1) != POISON).any(dim=1).sum())
