"""Epilogues: what happens to an output element after the main computation, in order, before it is stored.

They are values, fused by every recipe or refused with a reason. `apply` is their float64 definition and `widen` how
an error of the element before them propagates.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gridstone.ir.dtype import DType, Values, f32
from gridstone.ir.errors import SpecError, nearest

# Emitted activations evaluate f(x) within this absolute error times max(1, |x|): a contract that the C++ library's
# own tests sweep over float32. 2^-21 is 4 units in the last place of 1.0 in float32.
ACTIVATION_ERROR = 2.0**-21


@dataclass(frozen=True, slots=True)
class Bias:
    """Add a vector over the last axis, given as operand `bias`."""

    dtype: DType
    operand = "bias"


@dataclass(frozen=True, slots=True)
class Residual:
    """Add a tensor of the output's shape, given as operand `residual`."""

    dtype: DType
    operand = "residual"


@dataclass(frozen=True, slots=True)
class Scale:
    """Multiply by a constant."""

    factor: float

    def __post_init__(self) -> None:
        if not abs(self.factor) <= sys.float_info.max:  # an int may be too large for a float
            raise SpecError(f"epilogue scale {self.factor} is not finite")


@dataclass(frozen=True, slots=True)
class Activation:
    """Apply one of `ACTIVATIONS` element by element."""

    name: str

    def __post_init__(self) -> None:
        if self.name not in ACTIVATIONS:
            raise SpecError(f"unknown activation {self.name!r}", nearest(self.name, ACTIVATIONS))


@dataclass(frozen=True, slots=True)
class Cast:
    """Store in this dtype instead of the op's own. Only the last epilogue can be one."""

    dtype: DType


Epilogue = Bias | Residual | Scale | Activation | Cast

_erf = np.frompyfunc(math.erf, 1, 1)


def _sigmoid(x: Values) -> Values:
    with np.errstate(over="ignore"):
        return 1.0 / (1.0 + np.exp(-x))


def _relu(x: Values) -> Values:
    return np.where(np.isnan(x), x, np.maximum(x, 0.0))


def _silu(x: Values) -> Values:
    return x * _sigmoid(x)


def _gelu(x: Values) -> Values:
    return 0.5 * x * (1.0 + np.asarray(_erf(x / math.sqrt(2.0)), dtype=np.float64))


def _gelu_tanh(x: Values) -> Values:
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


# name -> (definition, Lipschitz constant rounded up)
ACTIVATIONS = {"relu": (_relu, 1.0), "silu": (_silu, 1.1), "gelu": (_gelu, 1.13), "gelu_tanh": (_gelu_tanh, 1.13)}


def apply(steps: tuple[Epilogue, ...], y: Values, operands: Mapping[str, Values]) -> Values:
    """Return the float64 result of the epilogues on y; `operands` holds `bias` and `residual` when they occur."""
    for step in steps:
        match step:
            case Bias() | Residual():
                y = y + operands[step.operand]
            case Scale(factor):
                y = y * factor
            case Activation(name):
                with np.errstate(invalid="ignore", over="ignore"):
                    y = ACTIVATIONS[name][0](y)
            case Cast():
                pass
    return y


def widen(
    steps: tuple[Epilogue, ...], y: Values, error: Values, operands: Mapping[str, Values], stored: DType
) -> Values:
    """Return a bound on the error after the epilogues, given one before them.

    Between two steps the element may be rounded to the output's dtype, `stored`: an unfused program stores it there,
    and a kernel that keeps float32 is only better. Each sum and product rounds once to float32; an activation
    multiplies the error by its Lipschitz constant and adds its contract's own error. Infinities are not rounded: what
    follows from one, such as relu(-inf) = 0, is exact.
    """
    unit = f32.unit_roundoff
    for step in steps:
        if isinstance(step, Cast):
            continue
        size = _finite(y)
        error = error + stored.unit_roundoff * (size + error)
        after = apply((step,), y, operands)
        match step:
            case Bias() | Residual():
                error = error + unit * (_finite(after) + error)
            case Scale(factor):
                error = abs(factor) * error * (1 + unit) + unit * _finite(after)
            case Activation(name):
                error = ACTIVATIONS[name][1] * error + ACTIVATION_ERROR * np.maximum(1.0, size)
        y = after
    return error


def _finite(y: Values) -> Values:
    """Return magnitudes, 0 for infinities."""
    return np.where(np.isinf(y), 0.0, np.abs(y))
