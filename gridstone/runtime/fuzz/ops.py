"""The calls of programs, as people write them. Each is traced by Dynamo as if it stood in the user's own function."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from gridstone.ir.dtype import dtype
from gridstone.runtime import functional

KINDS = {name: getattr(torch, dtype(name).torch) for name in ("f32", "bf16", "f16", "f64", "i64")}


def _iadd(x: Any, y: Any) -> Any:
    x += y
    return x


def _set_columns(x: Any, start: int, stop: int, y: Any) -> Any:
    x[..., start:stop] = y
    return x


def _by_rows(x: Any, least: int) -> Any:
    """Control flow that depends on a shape."""
    if x.shape[0] >= least:
        return F.relu(x)
    return -x


OPS: dict[str, Callable[..., Any]] = {
    # products
    "linear": lambda x, w, b=None: F.linear(x, w, b),
    "matmul": lambda a, b: a @ b,
    "torch_matmul": lambda a, b: torch.matmul(a, b),
    "mm": lambda a, b: torch.mm(a, b),
    "bmm": lambda a, b: torch.bmm(a, b),
    "mv": lambda a, v: torch.mv(a, v),
    "addmm": lambda bias, a, b, beta=1, alpha=1: torch.addmm(bias, a, b, beta=beta, alpha=alpha),
    "baddbmm": lambda bias, a, b: torch.baddbmm(bias, a, b),
    "einsum": lambda x, w: torch.einsum("...k,nk->...n", x, w),
    "fused": lambda x, w, b, r, activation, numerics: functional.linear(
        x, w, b, activation=activation, residual=r, numerics=numerics
    ),
    "dequantize": lambda w: w.dequantize(),
    # views
    "t": lambda x: x.t(),
    "mT": lambda x: x.mT,
    "transpose": lambda x, i, j: x.transpose(i, j),
    "permute": lambda x, dims: x.permute(dims),
    "reshape": lambda x, shape: x.reshape(shape),
    "view": lambda x, shape: x.view(shape),
    "flatten": lambda x, i, j: x.flatten(i, j),
    "unflatten": lambda x, dim, shape: x.unflatten(dim, shape),
    "narrow": lambda x, dim, start, length: x.narrow(dim, start, length),
    "rows": lambda x, start, stop: x[start:stop],
    "columns": lambda x, start, stop, step=1: x[..., start:stop:step],
    "select": lambda x, dim, at: x.select(dim, at),
    "unsqueeze": lambda x, dim: x.unsqueeze(dim),
    "squeeze": lambda x, dim: x.squeeze(dim),
    "expand": lambda x, shape: x.expand(shape),
    "chunk": lambda x, parts, dim: x.chunk(parts, dim),
    "split": lambda x, sizes, dim: x.split(sizes, dim),
    "detach": lambda x: x.detach(),
    # copies
    "contiguous": lambda x: x.contiguous(),
    "clone": lambda x: x.clone(),
    "cat": lambda dim, *parts: torch.cat(parts, dim),
    "stack": lambda dim, *parts: torch.stack(parts, dim),
    "to": lambda x, kind: x.to(KINDS[kind]),
    "to_float": lambda x: x.float(),
    "to_half": lambda x: x.half(),
    "type_as": lambda x, y: x.type_as(y),
    # element by element
    "add": lambda a, b, alpha=1: torch.add(a, b, alpha=alpha),
    "plus": lambda a, b: a + b,
    "minus": lambda a, b: a - b,
    "times": lambda a, b: a * b,
    "over": lambda a, b: a / b,
    "neg": lambda x: -x,
    "relu": lambda x: F.relu(x),
    "clamp": lambda x, low, high=None: x.clamp(min=low, max=high),
    "silu": lambda x: F.silu(x),
    "silu_written": lambda x: x * torch.sigmoid(x),
    "gelu": lambda x: F.gelu(x),
    "gelu_written": lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_tanh_written": lambda x: (
        0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))
    ),
    "tanh": lambda x: torch.tanh(x),
    "sigmoid": lambda x: torch.sigmoid(x),
    "dropout": lambda x, p: F.dropout(x, p, training=False),
    "by_rows": _by_rows,
    # along an axis
    "softmax": lambda x, dim: torch.softmax(x, dim),
    "layer_norm": lambda x, w=None, b=None: F.layer_norm(x, x.shape[-1:], w, b),
    "sum": lambda x, dim: x.sum(dim),
    "mean": lambda x, dim: x.mean(dim),
    # in place
    "relu_": lambda x: x.relu_(),
    "silu_": lambda x: F.silu(x, inplace=True),
    "clamp_": lambda x, low: x.clamp_(min=low),
    "add_": lambda x, y: x.add_(y),
    "iadd": _iadd,
    "mul_": lambda x, y: x.mul_(y),
    "copy_": lambda x, y: x.copy_(y),
    "set_columns": _set_columns,
    "add_out": lambda x, y, out: torch.add(x, y, out=out),
    # modules
    "call": lambda module, x: module(x),
    "attend": lambda module, x: module(x, x, x),
}
IN_PLACE = ("relu_", "silu_", "clamp_", "add_", "iadd", "mul_", "copy_", "set_columns", "add_out")
# What they are on decoded weights: `dequantize` of a plain tensor is torch's own, which gives float32.
DECODED = {**OPS, "dequantize": lambda w: w.clone()}
