"""Poisoned outputs: NaN inside guard bands, so that what a kernel fails to write, or writes beside, shows."""

from __future__ import annotations

from dataclasses import dataclass

import torch

GUARD = 64  # elements before and after, more than any vector store is wide


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
        """Return what happened to the guard bands; empty when they survived."""
        before = int((~torch.isnan(self.whole[:GUARD])).sum())
        after = int((~torch.isnan(self.whole[self.whole.numel() - GUARD :])).sum())
        return f"{before} elements before and {after} after the output were overwritten" if before or after else ""


def poisoned(shape: tuple[int, ...], dtype: torch.dtype) -> PoisonedOutput:
    """Return a contiguous output of this shape and floating dtype, filled with NaN and guarded on both sides."""
    count = 1
    for extent in shape:
        count *= extent
    whole = torch.full((count + 2 * GUARD,), float("nan"), dtype=dtype)
    return PoisonedOutput(whole, whole[GUARD : GUARD + count].view(shape))
