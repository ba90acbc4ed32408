"""Copies and moves of packed weights: what ATen's memory operators do to a QuantTensor's bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from gridstone.ir.errors import FormatError
from gridstone.runtime.products import is_packed

if TYPE_CHECKING:
    from gridstone.runtime.tensors import QuantTensor

aten = torch.ops.aten
Handler = Callable[..., Any]

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return a dtype that a weight may stand for; FormatError for any other."""
    if dtype not in DTYPES:
        raise FormatError(
            f"a quantised weight cannot stand for {dtype}",
            "use a floating-point dtype: float32, bfloat16, float16, float64",
        )
    return dtype


def float_into_packed() -> FormatError:
    """Return the error for float values that would have to be quantised on the way."""
    return FormatError("a float tensor cannot be copied into a quantised weight", "quantise it with gridstone.quantize")


def _to_copy(func: Any, w: QuantTensor, *, dtype: torch.dtype | None = None, **kwargs: Any) -> QuantTensor:
    kind = check_dtype(w.dtype if dtype is None else dtype)
    moved = {name: value for name, value in kwargs.items() if name in ("device", "non_blocking")}
    return w.replace(func(w.packed, **moved), dtype=kind)


def _empty_like(func: Any, w: QuantTensor, *, dtype: torch.dtype | None = None, **kwargs: Any) -> QuantTensor:
    """What `Module.to_empty` asks for: room for a weight of the same format."""
    return w.replace(func(w.packed, device=kwargs.get("device")), dtype=check_dtype(dtype or w.dtype))


def _same(func: Any, w: QuantTensor, *args: Any, **kwargs: Any) -> QuantTensor:
    return w.replace(func(w.packed, *args, **kwargs))


def _is_pinned(func: Any, w: QuantTensor, *args: Any) -> bool:
    return func(w.packed, *args)


def _copy(func: Any, target: Any, source: Any, *args: Any, **kwargs: Any) -> Any:
    both = is_packed(target) and is_packed(source)
    if both and target.key == source.key and target.axes == source.axes:
        target.packed.copy_(source.packed)
        return target
    if is_packed(source):
        raise FormatError(
            f"a quantised weight ({source.format}) cannot be copied into a plain tensor: it would decode in silence"
            if not is_packed(target)
            else f"a quantised weight ({source.format}) cannot be copied into one of {target.format}",
            "use load_state_dict(..., assign=True), or .dequantize() it first",
        )
    raise float_into_packed()


def _equal(func: Any, a: Any, b: Any) -> bool:
    both = is_packed(a) and is_packed(b)
    return both and a.key == b.key and a.axes == b.axes and torch.equal(a.packed, b.packed)


COPIES: dict[Any, Handler] = {
    aten._to_copy.default: _to_copy,
    aten.empty_like.default: _empty_like,
    aten.clone.default: _same,
    aten.detach.default: _same,
    aten.alias.default: _same,
    aten._pin_memory.default: _same,
    aten.is_pinned.default: _is_pinned,
    aten.copy_.default: _copy,
    aten.equal.default: _equal,
}
