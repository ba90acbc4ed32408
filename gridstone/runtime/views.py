"""Views of packed weights: what ATen's shape operators do to a QuantTensor. No byte moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from gridstone.runtime.axes import Axes, expanded, viewed
from gridstone.runtime.products import undefined

if TYPE_CHECKING:
    from gridstone.runtime.tensors import QuantTensor

aten = torch.ops.aten
Handler = Callable[..., Any]


def _seen_as(func: Any, w: QuantTensor, axes: Axes | None) -> QuantTensor:
    if axes is None:
        raise undefined(func)
    return w.replace(axes=axes)


def _permute(func: Any, w: QuantTensor, dims: Sequence[int]) -> QuantTensor:
    return w.replace(axes=tuple(w.axes[at] for at in dims))


def _transpose(func: Any, w: QuantTensor, first: int = -2, second: int = -1) -> QuantTensor:
    axes = list(w.axes)
    axes[first], axes[second] = axes[second], axes[first]
    return w.replace(axes=tuple(axes))


def _expand(func: Any, w: QuantTensor, size: Sequence[int], **_: object) -> QuantTensor:
    return _seen_as(func, w, expanded(w.axes, w.n, w.k, size))


def _view(func: Any, w: QuantTensor, size: Sequence[int]) -> QuantTensor:
    return _seen_as(func, w, viewed(w.axes, w.n, w.k, size))


def _unsqueeze(func: Any, w: QuantTensor, dim: int) -> QuantTensor:
    at = dim % (w.dim() + 1)
    return w.replace(axes=(*w.axes[:at], 1, *w.axes[at:]))


def _squeeze(func: Any, w: QuantTensor, dims: int | Sequence[int] | None = None) -> QuantTensor:
    """Drop axes of extent 1; the matrix's own stay, so that a squeeze of a weight with N=1 is refused."""
    asked = range(w.dim()) if dims is None else [dims] if isinstance(dims, int) else dims
    drop = {at % w.dim() for at in asked if w.shape[at] == 1}
    return _seen_as(
        func,
        w,
        None if any(w.axes[at] < 0 for at in drop) else tuple(axis for at, axis in enumerate(w.axes) if at not in drop),
    )


VIEWS: dict[Any, Handler] = {
    aten.t.default: _transpose,
    aten.transpose.int: _transpose,
    aten.permute.default: _permute,
    aten.view.default: _view,
    aten._unsafe_view.default: _view,
    aten.expand.default: _expand,
    aten.unsqueeze.default: _unsqueeze,
    aten.squeeze.default: _squeeze,
    aten.squeeze.dim: _squeeze,
    aten.squeeze.dims: _squeeze,
}
