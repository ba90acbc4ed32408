"""Bytes of weights that a model really holds, counted over live storages."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from gridstone.runtime.tensors import QuantTensor


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of distinct storages.

    Args:
        linear: Of the weights of linear layers.
        total: Of all parameters and buffers.
    """

    linear: int
    total: int


def footprint(model: torch.nn.Module) -> Footprint:
    """Measure a model."""
    tensors = [*model.parameters(), *model.buffers()]
    return Footprint(_bytes(linear_weights(model)), _bytes(tensors))


def linear_weights(model: torch.nn.Module) -> list[torch.Tensor]:
    """Return the weights of all linear layers."""
    return [layer.weight for layer in model.modules() if isinstance(layer, torch.nn.Linear)]


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    storages = [_held(tensor).untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _held(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor whose storage holds the values: a quantised weight's own is empty."""
    inner = tensor.data if isinstance(tensor, torch.nn.Parameter) else tensor
    return inner.packed if isinstance(inner, QuantTensor) else inner


class Witness:
    """Watches the float storages of a model's linear weights, to tell whether any outlives quantisation.

    Args:
        model: Before it is quantised.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._storages = [StorageWeakRef(weight.untyped_storage()) for weight in linear_weights(model)]
        self._shapes = {tuple(weight.shape) for weight in linear_weights(model)}

    def survivors(self) -> int:
        """Return how many of the storages are still alive."""
        gc.collect()
        return sum(not storage.expired() for storage in self._storages)

    def copies(self, others: Iterable[torch.nn.Module]) -> int:
        """Return how many float matrices of a quantised weight's shape are alive, besides those of other models."""
        gc.collect()
        known = {_held(p).untyped_storage().data_ptr() for model in others for p in model.parameters()}
        known.add(0)  # fake and meta tensors hold nothing
        found: set[int] = set()
        shapes = self._shapes | {shape[::-1] for shape in self._shapes}
        for thing in gc.get_objects():
            if type(thing) not in (torch.Tensor, torch.nn.Parameter) or not thing.is_floating_point():
                continue
            if tuple(thing.shape) in shapes:
                found.add(thing.untyped_storage().data_ptr())
        return len(found - known)
