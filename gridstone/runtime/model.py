"""quantize_model: every linear layer of a module gets a packed weight."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import TypeVar

import torch

from gridstone.ir.errors import FormatError
from gridstone.runtime.functional import quantize
from gridstone.runtime.tensors import QuantTensor

M = TypeVar("M", bound=torch.nn.Module)


def quantize_model(
    module: M,
    format: str,
    *,
    group_size: int | None = None,
    skip: Iterable[str] = (),
) -> M:
    """Quantise the weight of every `torch.nn.Linear` in place, by rounding to nearest.

    Args:
        module: Any module; linear layers are found recursively.
        format: As in `quantize`.
        group_size: As in `quantize`.
        skip: Names of layers to leave alone, as `named_modules()` spells them, or one such name; `*` and `?` match.

    Returns:
        The module. A weight shared by several layers stays shared; nothing keeps a float copy.

    Raises:
        FormatError: A layer does not fit the format (its name is given), or a name of `skip` matches no layer.
    """
    if not isinstance(module, torch.nn.Module):
        raise FormatError(f"a {type(module).__name__} is not a module", "gridstone.quantize takes a single weight")
    patterns = [skip] if isinstance(skip, str) else list(skip)
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, torch.nn.Linear)}
    for pattern in patterns:
        if not fnmatch.filter(layers, pattern):
            raise FormatError(f"skip={pattern!r} matches no linear layer", f"layers: {', '.join(list(layers)[:8])} ...")
    packed: dict[int, torch.nn.Parameter] = {}
    for name, layer in layers.items():
        if any(fnmatch.fnmatch(name, pattern) for pattern in patterns) or isinstance(layer.weight, QuantTensor):
            continue
        weight = layer._parameters.get("weight")
        if weight is None:
            raise FormatError(
                f"layer {name}: its weight is computed from other parameters at every call",
                f"call torch.nn.utils.parametrize.remove_parametrizations first, or skip=({name!r},)",
            )
        if isinstance(weight, torch.nn.UninitializedParameter):
            raise FormatError(f"layer {name}: its weight has no shape yet", "run the model once first")
        if id(weight) not in packed:
            try:
                quantised = quantize(weight.data, format, group_size=group_size)
            except FormatError as error:
                raise FormatError(f"layer {name}: {error.problem}", error.remedy or f"skip=({name!r},)") from error
            packed[id(weight)] = torch.nn.Parameter(quantised, requires_grad=False)
        layer.weight = packed[id(weight)]
    return module
