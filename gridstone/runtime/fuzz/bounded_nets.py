"""Modules as functions of values with error bounds, of the parameters that the torch modules have."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from gridstone.ir.spec import Numerics
from gridstone.runtime.fuzz.arithmetic import added, multiplied
from gridstone.runtime.fuzz.bounded import Bounded, cast, exact, viewed
from gridstone.runtime.fuzz.bounded_ops import ACTIVATIONS
from gridstone.runtime.fuzz.contraction import layer, product
from gridstone.runtime.fuzz.nets import activation
from gridstone.runtime.fuzz.program import Net
from gridstone.runtime.fuzz.reductions import layer_norm, softmax, summed
from gridstone.runtime.tensors import QuantTensor


def constant(parameter: torch.Tensor, numerics: Numerics) -> Bounded:
    """Return a parameter as a value without an error; a quantised one with the class of its products."""
    if isinstance(parameter, QuantTensor):
        return exact(parameter.dequantize(torch.float64), parameter.dtype, numerics)
    return exact(parameter.detach().double(), parameter.dtype)


@dataclass(frozen=True, slots=True)
class BoundedNet:
    """A module as a function.

    Args:
        net: Which one.
        module: As torch runs it.
        numerics: Class of the products with its weights.
    """

    net: Net
    module: Any
    numerics: Numerics

    def __call__(self, x: Bounded) -> Any:
        """Return what the module gives."""
        return FORWARD[self.net.kind](self, self.module, x)

    def linear(self, part: Any, x: Bounded) -> Bounded:
        """Apply one of its linear layers."""
        bias = None if part.bias is None else constant(part.bias, self.numerics)
        return layer(x, constant(part.weight, self.numerics), bias)

    def norm(self, part: Any, x: Bounded) -> Bounded:
        """Apply one of its norms."""
        return layer_norm(x, constant(part.weight, self.numerics), constant(part.bias, self.numerics))

    def activate(self, x: Bounded) -> Bounded:
        """Apply its activation."""
        return ACTIVATIONS[activation(self.net)](x)


def _mlp(f: BoundedNet, module: Any, x: Bounded) -> Bounded:
    return f.linear(module[3], f.activate(f.linear(module[0], x)))


def _residual(f: BoundedNet, module: Any, x: Bounded) -> Bounded:
    y = x if module.post else f.norm(module.norm, x)
    y = added(x, f.linear(module.down, f.activate(f.linear(module.up, y))))
    return f.norm(module.norm, y) if module.post else y


def _twice(f: BoundedNet, module: Any, x: Bounded) -> Bounded:
    return f.linear(module.second, f.activate(f.linear(module.first, x)))


def _head(f: BoundedNet, module: Any, tokens: Bounded) -> Bounded:
    weight = module.embedding.weight.detach()
    x = exact(weight.double()[tokens.value.long()], weight.dtype)
    return f.linear(module.outer, f.activate(f.linear(module.inner, x)))


def _attention(f: BoundedNet, module: Any, x: Bounded) -> tuple[Bounded, Bounded]:
    """Self-attention of (batch, length, width) or (length, width), and its weights averaged over the heads."""
    heads, wide = module.num_heads, x.shape[-1]
    batched = x if x.value.dim() == 3 else viewed(x, lambda v: v.unsqueeze(0))
    batch, length = batched.shape[:2]
    qkv = layer(batched, constant(module.in_proj_weight, f.numerics), constant(module.in_proj_bias, f.numerics))

    def head(at: int) -> Bounded:
        return viewed(qkv, lambda v: v.reshape(batch, length, 3, heads, wide // heads).permute(2, 0, 3, 1, 4)[at])

    q = multiplied(head(0), 1 / math.sqrt(wide // heads))
    weights = softmax(product(q, viewed(head(1), lambda v: v.mT)), -1)
    y = viewed(product(weights, head(2)), lambda v: v.transpose(1, 2).reshape(batch, length, wide))
    y, weights = f.linear(module.out_proj, y), summed(weights, 1, mean=True)
    if x.value.dim() == 2:
        y, weights = viewed(y, lambda v: v.squeeze(0)), viewed(weights, lambda v: v.squeeze(0))
    return y, weights


def _encoder(f: BoundedNet, module: Any, x: Bounded) -> Bounded:
    """Under autocast torch's fused layer, which is called where no gradient is asked for, adds in a product's dtype."""
    fused = x.value.dim() == 3 and not module.self_attn.num_heads % 2 and not (x.past and torch.is_grad_enabled())

    def plus(x: Bounded, y: Bounded) -> Bounded:
        return cast(added(x, y), y.dtype) if fused else added(x, y)

    def feed(x: Bounded) -> Bounded:
        return f.linear(module.linear2, f.activate(f.linear(module.linear1, x)))

    if module.norm_first:
        x = plus(x, _attention(f, module.self_attn, f.norm(module.norm1, x))[0])
        return plus(x, feed(f.norm(module.norm2, x)))
    x = f.norm(module.norm1, plus(x, _attention(f, module.self_attn, x)[0]))
    return f.norm(module.norm2, plus(x, feed(x)))


FORWARD: dict[str, Callable[[BoundedNet, Any, Bounded], Any]] = {
    "mlp": _mlp,
    "residual": _residual,
    "twice": _twice,
    "head": _head,
    "attention": _attention,
    "encoder": _encoder,
}
