"""gemm as a library call: torch's own product, what every kernel for it falls back to.

A quantised weight is decoded in panels, which are multiplied as they come: 64 MiB at most beside the call's tensors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from gridstone.ir.epilogue import Activation, Bias, Cast, Residual, Scale
from gridstone.ir.errors import BuildError
from gridstone.ir.spec import Spec
from gridstone.ir.storage import BLOCK_N, Storage, storage
from gridstone.kernel_cache.decode import decode_storage
from gridstone.kernel_cache.toolchain import Call

# Working set of one panel. A product may hold a second, re-ordered copy of its weight: half of 64 MiB leaves room.
PANEL_BYTES = 32 << 20
ACTIVATIONS = {
    "relu": F.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda y: F.gelu(y, approximate="tanh"),
}


def panel_rows(place: Storage, element_bytes: int) -> int:
    """Return how many rows of a weight are decoded at a time, a multiple of the storage's block.

    Decoding holds int32 codes beside the float32 values, then those beside the result: 8 bytes an element at most, and
    a part of the codes at a time while they are gathered.
    """
    rows = PANEL_BYTES // (place.columns * (8 + element_bytes))
    return max(BLOCK_N, rows // BLOCK_N * BLOCK_N)


def _product(spec: Spec, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """x @ w.T for a plain or a packed weight."""
    kind = spec.input("w")
    if kind.format is None:
        return F.linear(x, w)
    n, k = kind.static(0), kind.static(1)
    place = storage(kind.storage, kind.format, n, k)
    rows = panel_rows(place, x.element_size())
    if rows >= n:
        return F.linear(x, decode_storage(place, w, x.dtype))
    if kind.storage != "lane16":  # only lane16 keeps a block of rows together
        raise BuildError(f"storage {kind.storage!r} cannot be decoded in panels", "re-pack the weight as lane16")
    y = torch.empty((x.shape[0], n), dtype=x.dtype, device=x.device)
    block_bytes = place.bytes // (place.rows // BLOCK_N)
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        part = storage(kind.storage, kind.format, stop - start, k)
        first = start // BLOCK_N * block_bytes
        panel = decode_storage(part, w[first : first + part.bytes], x.dtype)
        y[:, start:stop] = F.linear(x, panel)
    return y


def gemm_call(spec: Spec) -> Call:
    """Return `call(*tensors, out=None)` that computes a gemm spec with torch, as a program without Gridstone would.

    Every step stores its result in the activations' dtype, as PyTorch does, unless the spec's output is wider.
    """
    names = [operand.name for operand in (*spec.inputs, *spec.extra_operands)]
    dtype = getattr(torch, spec.output.dtype.torch)
    widened = spec.output.dtype != spec.input("x").dtype

    def call(*tensors: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        operands = dict(zip(names, tensors, strict=True))
        x, w = operands["x"], operands["w"]
        # float16 products are pathologically slow on CPUs without an instruction for them: go through float32.
        if widened or (x.dtype == torch.float16 and x.device.type == "cpu"):
            x, w = x.float(), w.float() if w.is_floating_point() else w
        y = _product(spec, x, w)
        for step in spec.epilogue:
            match step:
                case Bias() | Residual():
                    y = y + operands[step.operand]
                case Scale(factor):
                    y = y * factor
                case Activation(name):
                    y = ACTIVATIONS[name](y)
                case Cast():
                    pass
        y = y.to(dtype)
        return y if out is None else out.copy_(y)

    return call
