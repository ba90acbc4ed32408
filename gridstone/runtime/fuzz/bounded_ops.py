"""The calls of programs, on values with error bounds: the same table as `ops.OPS`, by the same names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from gridstone.runtime.fuzz.arithmetic import (
    Operand,
    added,
    clamped,
    curved,
    divided,
    multiplied,
    negated,
    relu,
)
from gridstone.runtime.fuzz.bounded import Bounded, T, both, cast, exact, frozen, linked, settled, viewed
from gridstone.runtime.fuzz.contraction import autocast, layer, product, uncast_product
from gridstone.runtime.fuzz.ops import KINDS
from gridstone.runtime.fuzz.reductions import layer_norm, softmax, summed
from gridstone.runtime.linear_key import numerics_named

ACTIVATIONS: dict[str, Callable[[Bounded], Bounded]] = {
    "relu": relu,
    "silu": lambda x: curved(x, "silu"),
    "gelu": lambda x: curved(x, "gelu"),
    "gelu_tanh": lambda x: curved(x, "gelu_tanh"),
}


def _moved(look: Callable[..., T]) -> Callable[..., Bounded]:
    """Return a call that moves elements, of its tensor and what else it takes."""
    return lambda x, *rest: viewed(x, lambda given: look(given, *rest))


def _pieces(look: Callable[..., Sequence[T]]) -> Callable[..., tuple[Bounded, ...]]:
    def cut(x: Bounded, *rest: Any) -> tuple[Bounded, ...]:
        count = len(look(x.value, *rest))
        return tuple(viewed(x, lambda given, at=at: look(given, *rest)[at]) for at in range(count))

    return cut


def _joined(parts: Sequence[Bounded], join: Callable[[Sequence[T]], T]) -> Bounded:
    kind = parts[0].dtype
    for part in parts[1:]:
        kind = torch.promote_types(kind, part.dtype)
    errors = join([p.errors[0] for p in parts]), join([p.errors[1] for p in parts])
    result = settled(join([p.value for p in parts]), errors, torch.isinf(errors[0]), kind, rounds=False)

    def back(at: int) -> Callable[[Bounded], Bounded]:
        shapes = [p.shape for p in parts]
        dtype = parts[at].dtype

        def take(g: Bounded) -> Bounded:
            with torch.enable_grad():
                zeros = [torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
                whole = join(zeros)
            pull = lambda v: torch.autograd.grad(whole, zeros[at], v, retain_graph=True)[0]  # noqa: E731
            return cast(Bounded(pull(g.value), both(pull, g.errors), g.dtype), dtype)

        return take

    return linked(result, *((part, back(at)) for at, part in enumerate(parts)))


def _fused(
    x: Bounded, w: Bounded, b: Bounded | None, r: Bounded | None, activation: str | None, numerics: str
) -> Bounded:
    y = layer(x, w, None, numerics_named(numerics))
    kind = y.dtype
    y = y if b is None else cast(added(y, autocast(b)), kind)
    y = y if activation is None else ACTIVATIONS[activation](y)
    return y if r is None else cast(added(y, autocast(r)), kind)


def _addmm(bias: Bounded, a: Bounded, b: Bounded, beta: float = 1, alpha: float = 1) -> Bounded:
    """A factor of zero leaves out even what is not finite."""
    y, bias = product(a, b), autocast(bias)
    y = y if alpha == 1 else multiplied(y, alpha) if alpha else _left_out(y)
    return added(y, bias if beta == 1 else multiplied(bias, beta) if beta else _left_out(bias))


def _left_out(a: Bounded) -> Bounded:
    """Return zeros in place of a, which has a gradient, of zeros, all the same."""
    return linked(exact(torch.zeros_like(a.value), a.dtype), (a, lambda g: multiplied(g, 0.0)))


def _gelu_written(x: Bounded) -> Bounded:
    return multiplied(multiplied(x, 0.5), added(1.0, curved(divided(x, math.sqrt(2.0)), "erf")))


def _gelu_tanh_written(x: Bounded) -> Bounded:
    cubed = multiplied(multiplied(x, x), x)
    inner = multiplied(math.sqrt(2.0 / math.pi), added(x, multiplied(0.044715, cubed)))
    return multiplied(multiplied(0.5, x), added(1.0, curved(inner, "tanh")))


def _dequantize(w: Bounded) -> Bounded:
    value = w.value.contiguous()
    constant = exact(value, w.dtype)
    return settled(value, constant.errors, constant.doubt, w.dtype)


def _stored(x: Bounded, result: Bounded) -> Bounded:
    """Change a value in place."""
    result = cast(result, x.dtype)
    x.value.copy_(result.value)
    for mine, error in zip(x.errors, result.errors, strict=True):
        mine.copy_(error)
    if torch.is_grad_enabled():
        x.past = result.past
    return x


def _spread(y: Bounded, like: Bounded) -> Bounded:
    return viewed(y, lambda v: v.expand(like.shape).clone())


def _constant(value: float, like: Bounded) -> Bounded:
    return added(exact(torch.zeros_like(like.value), like.dtype), value)


def _set_columns(x: Bounded, start: int, stop: int, y: Operand) -> Bounded:
    """The columns lose their gradient to y, in y's own dtype."""
    part = viewed(x, lambda v: v[..., start:stop])
    new = cast(_spread(y, part), x.dtype) if isinstance(y, Bounded) else cast(_constant(y, part), x.dtype)
    whole = frozen(x)
    for into, of in zip((whole.value, *whole.errors), (new.value, *new.errors), strict=True):
        into[..., start:stop] = of

    def kept(g: Bounded) -> Bounded:
        left = frozen(g)
        for part in (left.value, *left.errors):
            part[..., start:stop] = 0.0
        return left

    linked(whole, (x, kept), (new, lambda g: viewed(g, lambda v: v[..., start:stop])))
    return _stored(x, whole)


def _attend(module: Any, x: Bounded) -> Any:
    return module(x)


BOUNDED: dict[str, Callable[..., Any]] = {
    # products
    "linear": layer,
    "matmul": product,
    "torch_matmul": product,
    "mm": product,
    "bmm": product,
    "mv": uncast_product,
    "addmm": _addmm,
    "baddbmm": _addmm,
    "einsum": layer,
    "fused": _fused,
    "dequantize": _dequantize,
    # views
    "t": _moved(lambda x: x.t()),
    "mT": _moved(lambda x: x.mT),
    "transpose": _moved(torch.Tensor.transpose),
    "permute": _moved(torch.Tensor.permute),
    "reshape": _moved(torch.Tensor.reshape),
    "view": _moved(torch.Tensor.view),
    "flatten": _moved(torch.Tensor.flatten),
    "unflatten": _moved(torch.Tensor.unflatten),
    "narrow": _moved(torch.Tensor.narrow),
    "rows": _moved(lambda x, start, stop: x[start:stop]),
    "columns": _moved(lambda x, start, stop, step=1: x[..., start:stop:step]),
    "select": _moved(torch.Tensor.select),
    "unsqueeze": _moved(torch.Tensor.unsqueeze),
    "squeeze": _moved(torch.Tensor.squeeze),
    "expand": _moved(torch.Tensor.expand),
    "chunk": _pieces(torch.Tensor.chunk),
    "split": _pieces(torch.Tensor.split),
    "detach": lambda x: Bounded(x.value, x.errors, x.dtype, None, x.packed),
    # copies
    "contiguous": lambda x: x if x.packed or x.value.is_contiguous() else viewed(x, torch.Tensor.contiguous),
    "clone": _moved(torch.Tensor.clone),
    "cat": lambda dim, *parts: _joined(parts, lambda given: torch.cat(list(given), dim)),
    "stack": lambda dim, *parts: _joined(parts, lambda given: torch.stack(list(given), dim)),
    "to": lambda x, kind: cast(x, KINDS[kind]),
    "to_float": lambda x: cast(x, torch.float32),
    "to_half": lambda x: cast(x, torch.float16),
    "type_as": lambda x, y: cast(x, y.dtype),
    # element by element
    "add": added,
    "plus": added,
    "minus": lambda a, b: added(a, b, -1.0),
    "times": multiplied,
    "over": divided,
    "neg": negated,
    "relu": relu,
    "clamp": lambda x, low, high=math.inf: clamped(x, low, high),
    "silu": ACTIVATIONS["silu"],
    "silu_written": lambda x: multiplied(x, curved(x, "sigmoid")),
    "gelu": ACTIVATIONS["gelu"],
    "gelu_written": _gelu_written,
    "gelu_tanh": ACTIVATIONS["gelu_tanh"],
    "gelu_tanh_written": _gelu_tanh_written,
    "tanh": lambda x: curved(x, "tanh"),
    "sigmoid": lambda x: curved(x, "sigmoid"),
    "dropout": lambda x, p: x,
    "by_rows": lambda x, least: relu(x) if x.shape[0] >= least else negated(x),
    # along an axis
    "softmax": softmax,
    "layer_norm": lambda x, w=None, b=None: layer_norm(x, w, b),
    "sum": summed,
    "mean": lambda x, dim: summed(x, dim, mean=True),
    # in place
    "relu_": lambda x: _stored(x, relu(x)),
    "silu_": lambda x: _stored(x, curved(x, "silu")),
    "clamp_": lambda x, low: _stored(x, clamped(x, low)),
    "add_": lambda x, y: _stored(x, added(x, y)),
    "iadd": lambda x, y: _stored(x, added(x, y)),
    "mul_": lambda x, y: _stored(x, multiplied(x, y)),
    "copy_": lambda x, y: _stored(x, _spread(y, x)),
    "set_columns": _set_columns,
    "add_out": lambda x, y, out: _stored(out, added(x, y)),
    # modules
    "call": lambda module, x: module(x),
    "attend": _attend,
}
