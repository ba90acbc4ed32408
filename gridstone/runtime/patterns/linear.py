"""Spellings of a linear layer and of what may follow it. A new spelling is one more function."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

X, FLAT, W, BIAS, Y = (2, 3, 8), (6, 8), (4, 8), (4,), (2, 3, 4)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A function of tensors, the roles of its inputs, and what a match means.

    Args:
        role: For a base pattern `linear` or `transposed`; for an epilogue `bias`, `residual` or an activation's name.
        function: Plain PyTorch.
        inputs: Role and example shape of each argument.
        kink: Whether its gradient is not the activation's at a kink: `clamp` passes it on at the limit itself.
    """

    role: str
    function: Callable[..., torch.Tensor]
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    kink: bool = False


_XW = (("x", X), ("w", W))
_FLAT = (("x", FLAT), ("w", W))
_STORED = (("x", X), ("w", (8, 4)))

BASES = (
    Pattern("linear", lambda x, w, bias: F.linear(x, w, bias), (*_XW, ("bias", BIAS))),
    Pattern("linear", lambda x, w: F.linear(x, w), _XW),
    Pattern("linear", lambda x, w: x @ w.t(), _XW),
    Pattern("linear", lambda x, w: torch.mm(x, w.t()), _FLAT),
    Pattern("linear", lambda bias, x, w: torch.addmm(bias, x, w.t()), (("bias", BIAS), *_FLAT)),
    Pattern("transposed", lambda x, w: x @ w, _STORED),
    Pattern("transposed", lambda x, w: torch.mm(x, w), (("x", FLAT), ("w", (8, 4)))),
    Pattern("transposed", lambda bias, x, w: torch.addmm(bias, x, w), (("bias", BIAS), ("x", FLAT), ("w", (8, 4)))),
)

_Y = (("y", Y),)

EPILOGUES = (
    Pattern("bias", lambda y, bias: y + bias, (*_Y, ("bias", BIAS))),
    Pattern("relu", lambda y: F.relu(y), _Y),
    Pattern("relu", lambda y: y.clamp(min=0), _Y, kink=True),
    Pattern("silu", lambda y: F.silu(y), _Y),
    Pattern("silu", lambda y: y * torch.sigmoid(y), _Y),
    Pattern("gelu", lambda y: F.gelu(y), _Y),
    Pattern("gelu", lambda y: y * 0.5 * (1.0 + torch.erf(y / math.sqrt(2.0))), _Y),
    Pattern("gelu_tanh", lambda y: F.gelu(y, approximate="tanh"), _Y),
    Pattern(
        "gelu_tanh",
        lambda y: 0.5 * y * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (y + 0.044715 * torch.pow(y, 3.0)))),
        _Y,
    ),
    Pattern("residual", lambda y, residual: y + residual, (*_Y, ("residual", Y))),
)
