"""quantize_model: every linear layer of a module gets a packed weight."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Iterable
from typing import TypeVar

import torch

from gridstone.ir.errors import FormatError
from gridstone.runtime.functional import fitting_format, quantize
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
        The module. A weight shared by several linear layers stays shared; nothing keeps a float copy, but what shares
        one and is no linear layer, such as a tied embedding: it keeps the float weight, and a warning says so.

    Raises:
        FormatError: A layer does not fit the format (its name is given), or a name of `skip` matches no layer; then no
            layer was changed. Or a weight's scales leave the range of their dtype; the error says what was changed.
    """
    if not isinstance(module, torch.nn.Module):
        raise FormatError(f"a {type(module).__name__} is not a module", "gridstone.quantize takes a single weight")
    patterns = [skip] if isinstance(skip, str) else list(skip)
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, torch.nn.Linear)}
    # A compiled module calls the one inside `_orig_mod`: its layers may be named as they were before.
    names = {name: name.replace("_orig_mod.", "") for name in layers}
    for pattern in patterns:
        if not fnmatch.filter([*names, *names.values()], pattern):
            raise FormatError(f"skip={pattern!r} matches no linear layer", f"layers: {', '.join(list(layers)[:8])} ...")
    chosen = {
        name: layer
        for name, layer in layers.items()
        if not isinstance(layer.weight, QuantTensor)
        and not any(fnmatch.fnmatch(name, p) or fnmatch.fnmatch(names[name], p) for p in patterns)
    }
    for name, layer in chosen.items():  # all of them before the first is changed
        _check(name, layer, format, group_size)
    _warn_of_ties(module, chosen)
    packed: dict[int, torch.nn.Parameter] = {}
    for name, layer in chosen.items():
        weight = layer.weight
        if id(weight) not in packed:
            try:
                quantised = quantize(weight.data, format, group_size=group_size)
            except FormatError as error:
                done = f"; {len(packed)} before it quantised already" if packed else ""
                raise FormatError(f"layer {name}: {error.problem}{done}", error.remedy) from error
            packed[id(weight)] = torch.nn.Parameter(quantised, requires_grad=False)
        layer.weight = packed[id(weight)]
    return module


def _check(name: str, layer: torch.nn.Linear, format: str, group_size: int | None) -> None:
    weight = layer._parameters.get("weight")
    if weight is None:
        raise FormatError(
            f"layer {name}: its weight is computed from other parameters at every call",
            f"call {_undo(layer)} first, or skip=({name!r},)",
        )
    if isinstance(weight, torch.nn.UninitializedParameter):
        raise FormatError(f"layer {name}: its weight has no shape yet", "run the model once first")
    try:
        fitting_format(weight.data, format, group_size)
    except FormatError as error:
        raise FormatError(f"layer {name}: {error.problem}", error.remedy or f"skip=({name!r},)") from error


def _undo(layer: torch.nn.Linear) -> str:
    """Return the call that makes a computed weight a parameter again."""
    if "weight_g" in layer._parameters:
        return "torch.nn.utils.remove_weight_norm"
    if "weight_orig" in layer._parameters:
        return "torch.nn.utils." + ("prune.remove" if "weight_mask" in layer._buffers else "remove_spectral_norm")
    return "torch.nn.utils.parametrize.remove_parametrizations"


def _warn_of_ties(module: torch.nn.Module, chosen: dict[str, torch.nn.Linear]) -> None:
    """Say which linear layers share their weight with something that needs it in float, such as an embedding."""
    linear = {id(layer): None for layer in chosen.values()}
    owners = {id(layer.weight): name for name, layer in chosen.items()}
    for place, other in module.named_modules():
        for name, parameter in other.named_parameters(recurse=False):
            if id(parameter) in owners and id(other) not in linear:
                warnings.warn(
                    f"{place}.{name} shares the weight of layer {owners[id(parameter)]} and keeps it in float, untied: "
                    f"later changes of one do not reach the other",
                    stacklevel=3,
                )
