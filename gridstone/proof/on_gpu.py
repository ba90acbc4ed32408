"""A GPU's kernel as a candidate of the usual check: operands go to the GPU, the poisoned output goes there and back."""

from __future__ import annotations

from collections.abc import Callable

import torch


def on_gpu(call: Callable[..., torch.Tensor], device: torch.device) -> Callable[..., torch.Tensor]:
    """Return `call(*tensors, out)` for tensors of the CPU that runs a kernel on another device.

    All memory around the output goes with it, so that guard bands show what was written beside it; operands come back
    too, so that one that the kernel changed is seen.

    Args:
        call: Of a kernel that runs on the device.
        device: Where it runs.
    """

    def candidate(*tensors: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        placed = [tensor.clone().to(device) for tensor in tensors]
        around = torch.empty(0, dtype=out.dtype).set_(out.untyped_storage())  # pyright: ignore[reportArgumentType]
        there = around.clone().to(device)
        call(*placed, out=there.as_strided(out.shape, out.stride(), out.storage_offset()))
        around.copy_(there)  # waits for the kernel
        for tensor, back in zip(tensors, placed, strict=True):
            tensor.copy_(back)
        return out

    return candidate
