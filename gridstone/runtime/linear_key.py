"""The text that a `gridstone::linear` call carries: all of it that is not a tensor. One string, hashed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from gridstone.ir.dtype import DType, dtype
from gridstone.ir.epilogue import ACTIVATIONS, Activation, Bias, Epilogue, Residual
from gridstone.ir.errors import GridstoneError, SpecError, nearest
from gridstone.ir.ops.gemm import Gemm
from gridstone.ir.spec import EXACT, Numerics, NumericsClass, Operand, Spec, make_spec
from gridstone.ir.tensor import Dim, TensorType, quantized
from gridstone.ir.text import parse_type
from gridstone.lower.bucket import ROWS
from gridstone.lower.target import parse_target

TUNE = ("cached", "now", "off")


@dataclass(frozen=True, slots=True)
class LinearKey:
    """The static part of a linear call.

    Args:
        weight: Type of the packed weight.
        activation: Name of the activation, empty for none.
        numerics: Numerics class.
        tune: One of `TUNE`.
        target: A target, or `auto`.
    """

    weight: TensorType
    activation: str = ""
    numerics: Numerics = EXACT
    tune: str = "cached"
    target: str = "auto"

    def __str__(self) -> str:
        tail = f"|{self.tune}|{self.target}" if (self.tune, self.target) != ("cached", "auto") else ""
        return f"{self.weight}|{self.activation}|{self.numerics}{tail}"


@lru_cache(maxsize=4096)
def parse_key(text: str) -> LinearKey:
    """Parse the text form of a key; SpecError when it is malformed."""
    parts = text.split("|")
    if len(parts) not in (3, 5):
        raise SpecError(f"malformed key {text!r}", "write weight|activation|numerics, as QuantTensor.call_key does")
    try:
        return _parsed(*parts)
    except GridstoneError as error:
        remedy = "; ".join(
            filter(None, (error.remedy, "a program that was exported by another version has to be exported again"))
        )
        raise SpecError(f"the key {text!r} is not one of this version's: {error.problem}", remedy) from error


def _parsed(weight: str, activation: str, numerics: str, tune: str = "cached", target: str = "auto") -> LinearKey:
    kind = parse_type(weight)
    if kind.format is None or not kind.storage or len(kind.shape) != 2:
        raise SpecError(f"{weight} is not a packed matrix", "write for example int4:g128:f32@lane16(4096,4096)")
    for axis in (0, 1):
        kind.static(axis)
    if activation and activation not in ACTIVATIONS:
        raise SpecError(f"unknown activation {activation!r}", nearest(activation, ACTIVATIONS))
    if tune not in TUNE:
        raise SpecError(f"unknown tuning policy {tune!r}", nearest(tune, TUNE))
    if target != "auto":
        parse_target(target)
    return LinearKey(kind, activation, numerics_named(numerics), tune, target)


@lru_cache(maxsize=64)
def numerics_named(name: str) -> Numerics:
    """Return the numerics class that a user named, such as `exact` or `bf16 ordered`."""
    classes = {kind.value: kind for kind in NumericsClass}
    head, _, tail = name.partition(" ")
    if head not in classes or tail not in ("", "ordered"):
        raise SpecError(f"unknown numerics class {name!r}", nearest(head, classes))
    return Numerics(classes[head], tail == "ordered")


def spec_of(key: LinearKey, x: DType, bias: DType | None, residual: DType | None) -> Spec:
    """Return the spec of a call, with symbolic rows: act(x @ w.T + bias) + residual in x's dtype."""
    steps: list[Epilogue] = []
    if bias is not None:
        steps.append(Bias(bias))
    if key.activation:
        steps.append(Activation(key.activation))
    if residual is not None:
        steps.append(Residual(residual))
    assert key.weight.format is not None
    rows = TensorType(x, (Dim(ROWS), key.weight.shape[1]))
    weight = quantized(key.weight.format, key.weight.shape, key.weight.storage)
    return make_spec(Gemm(), (Operand("x", rows), Operand("w", weight)), tuple(steps), key.numerics)


def our_dtype(tensor: torch.Tensor | None) -> DType | None:
    """Return our dtype of a tensor; SpecError for one that Gridstone does not know."""
    return None if tensor is None else dtype(str(tensor.dtype))
