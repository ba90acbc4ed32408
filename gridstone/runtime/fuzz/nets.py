"""Modules that programs call, quantised or decoded."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch

from gridstone.ir.dtype import dtype
from gridstone.ir.errors import SpecError, nearest
from gridstone.runtime.fuzz.program import Net
from gridstone.runtime.model import quantize_model
from gridstone.runtime.tensors import QuantTensor

nn = torch.nn
MODULES = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "gelu_tanh": lambda: nn.GELU("tanh")}


class Residual(nn.Module):
    """x + down(activation(up(norm(x)))), or the norm of x + down(activation(up(x)))."""

    def __init__(self, width: int, hidden: int, activation: nn.Module, post: bool) -> None:
        super().__init__()
        self.norm, self.activation, self.post = nn.LayerNorm(width), activation, post
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., width) to (..., width)."""
        y = self.down(self.activation(self.up(x if self.post else self.norm(x))))
        return self.norm(x + y) if self.post else x + y


class Twice(nn.Module):
    """One layer after the other, with one weight for both."""

    def __init__(self, width: int, activation: nn.Module) -> None:
        super().__init__()
        self.first, self.activation, self.second = nn.Linear(width, width), activation, nn.Linear(width, width)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., width) to (..., width)."""
        return self.second(self.activation(self.first(x)))


class Head(nn.Module):
    """Tokens to scores: the embedding and the last layer start out with one weight."""

    def __init__(self, tokens: int, width: int, activation: nn.Module) -> None:
        super().__init__()
        self.embedding, self.inner = nn.Embedding(tokens, width), nn.Linear(width, width)
        self.activation, self.outer = activation, nn.Linear(width, tokens, bias=False)
        self.outer.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map (...,) to (..., tokens)."""
        return self.outer(self.activation(self.inner(self.embedding(tokens))))


def activation(net: Net) -> str:
    """Return the name of a module's activation."""
    return next((word for word in net.words if word in MODULES), "relu")


def _made(net: Net) -> nn.Module:
    return MODULES[activation(net)]()


def _mlp(net: Net) -> nn.Module:
    k, hidden, n = net.sizes
    bias = "nobias" not in net.words
    return nn.Sequential(nn.Linear(k, hidden, bias), _made(net), nn.Dropout(), nn.Linear(hidden, n, bias))


def _encoder(net: Net) -> nn.Module:
    width, heads, hidden = net.sizes
    return nn.TransformerEncoderLayer(
        width, heads, hidden, activation=activation(net), batch_first=True, norm_first="first" in net.words
    )


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of module: how many sizes it takes, which words it knows, and how it is made."""

    sizes: int
    words: tuple[str, ...]
    make: Callable[[Net], nn.Module]


_ALL = tuple(MODULES)
NETS = {
    "mlp": Kind(3, (*_ALL, "nobias"), _mlp),
    "residual": Kind(2, (*_ALL, "post"), lambda n: Residual(n.sizes[0], n.sizes[1], _made(n), "post" in n.words)),
    "twice": Kind(1, _ALL, lambda n: Twice(n.sizes[0], _made(n))),
    "head": Kind(2, _ALL, lambda n: Head(n.sizes[0], n.sizes[1], _made(n))),
    "attention": Kind(2, (), lambda n: nn.MultiheadAttention(n.sizes[0], n.sizes[1], batch_first=True)),
    "encoder": Kind(3, ("relu", "gelu", "first"), _encoder),
}


def check_net(net: Net) -> None:
    """Refuse what no module is.

    Raises:
        SpecError: Unknown kind, sizes that it does not take, or words that it does not know.
    """
    if net.kind not in NETS:
        raise SpecError(f"unknown kind of module {net.kind!r}", nearest(net.kind, NETS))
    kind = NETS[net.kind]
    if len(net.sizes) != kind.sizes or min(net.sizes) < 1:
        raise SpecError(f"{net.kind} takes {kind.sizes} positive sizes, not {net.sizes}")
    for word in net.words:
        if word not in kind.words:
            raise SpecError(f"{net.kind} knows no {word!r}", nearest(word, kind.words))


def make_net(net: Net, seed: int) -> nn.Module:
    """Return a module in evaluation mode, its linear layers quantised; parameters have no gradient."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        module = NETS[net.kind].make(net)
    kind = getattr(torch, dtype(net.dtype).torch)
    module = module.to(torch.float32 if kind == torch.float64 else kind).eval().requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a tied embedding is told about
        return quantize_model(module, net.format).to(kind)


def decoded_net(module: nn.Module) -> nn.Module:
    """Return the same module with every quantised weight decoded."""
    twin = copy.deepcopy(module)
    for part in twin.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            if isinstance(parameter, QuantTensor):
                plain = nn.Parameter(parameter.dequantize(), requires_grad=False)
                setattr(part, name, plain)
    return twin
