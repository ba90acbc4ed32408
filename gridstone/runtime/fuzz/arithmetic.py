"""Arithmetic on values with error bounds, element by element, with the rules by which gradients pass back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from gridstone.ir.epilogue import ACTIVATION_ERROR, ACTIVATIONS
from gridstone.runtime.fuzz.bounded import Bounded, Errors, T, both, cast, frozen, linked, pulled, settled, unit

Operand = Bounded | float


def result_dtype(*operands: Operand) -> torch.dtype:
    """Return what torch gives operands' results: scalars and tensors without extents widen no tensor that has some."""
    stand_ins = [torch.empty((1,) * o.value.dim(), dtype=o.dtype) for o in operands if isinstance(o, Bounded)]
    widest = stand_ins[0]
    for other in stand_ins[1:]:
        kind = torch.result_type(widest, other)
        widest = torch.empty((1,) * max(widest.dim(), other.dim()), dtype=kind)
    return widest.dtype


def passed(g: Bounded, to: Bounded) -> Bounded:
    """Return a gradient summed over the axes along which an operand was repeated, in the operand's dtype."""
    if g.shape == to.shape:
        return cast(g, to.dtype)
    shape = g.shape
    return pulled(g, lambda x: x.expand(shape), to.shape, to.dtype)


def _parts(operand: Operand, dtype: torch.dtype) -> tuple[T, Errors, T]:
    """Return value, errors and doubt of an operand; a scalar may be rounded to the dtype of the result."""
    if isinstance(operand, Bounded):
        return operand.value, operand.errors, operand.doubt
    value = torch.tensor(operand, dtype=torch.float64)
    error = (value.to(dtype).double() != value) * unit(dtype) * value.abs()
    return value, (error, error), torch.tensor(False)


def _backs(*pairs: tuple[Operand, Callable[[Bounded], Bounded]]) -> list[tuple[Bounded, Callable[[Bounded], Bounded]]]:
    return [
        (operand, lambda g, operand=operand, back=back: passed(back(g), operand))
        for operand, back in pairs
        if isinstance(operand, Bounded)
    ]


def added(a: Operand, b: Operand, alpha: float = 1.0) -> Bounded:
    """Return a + alpha * b."""
    kind = result_dtype(a, b)
    (x, dx, p), (y, dy, q) = _parts(a, kind), _parts(b, kind)
    own = 0.0 if abs(alpha) == 1.0 else 2 * unit(kind) * (alpha * y).abs()  # alpha and the product are rounded
    result = settled(x + alpha * y, both(lambda dx, dy: dx + abs(alpha) * dy + own, dx, dy), p | q, kind)
    return linked(result, *_backs((a, lambda g: g), (b, lambda g: g if alpha == 1.0 else multiplied(g, alpha))))


def multiplied(a: Operand, b: Operand) -> Bounded:
    """Return a * b."""
    kind = result_dtype(a, b)
    (x, dx, p), (y, dy, q) = _parts(a, kind), _parts(b, kind)
    errors = both(lambda dx, dy: x.abs() * dy + y.abs() * dx + dx * dy, dx, dy)
    first, second = (frozen(o) if isinstance(o, Bounded) else o for o in (a, b))
    result = settled(x * y, errors, p | q, kind)
    return linked(result, *_backs((a, lambda g: multiplied(g, second)), (b, lambda g: multiplied(g, first))))


def divided(a: Bounded, by: float) -> Bounded:
    """Return a / by; its reciprocal, rounded, may be multiplied with instead."""
    relative = float(_parts(by, a.dtype)[1][0]) / abs(by) + unit(a.dtype)
    value = a.value / by
    result = settled(value, both(lambda e: e / abs(by) + value.abs() * relative, a.errors), a.doubt, a.dtype)
    return linked(result, (a, lambda g: divided(g, by)))


def negated(a: Bounded) -> Bounded:
    """Return -a, which does not round."""
    return linked(settled(-a.value, a.errors, a.doubt, a.dtype, rounds=False), (a, negated))


def clamped(a: Bounded, low: float, high: float = math.inf, closed: bool = True) -> Bounded:
    """Return a between two constants; the gradient passes at a constant itself where the interval is `closed`.

    Where the bounds leave open on which side a lies, the gradient may pass or not.
    """
    rounds = any(float(torch.tensor(end, dtype=a.dtype)) != end for end in (low, high))
    result = settled(a.value.clamp(min=low, max=high), a.errors, a.doubt, a.dtype, rounds)
    z, e, doubt = a.value.clone(), a.bound, a.doubt

    def back(g: Bounded) -> Bounded:
        inside = ((z >= low) & (z <= high)) if closed else ((z > low) & (z < high))
        unsure = (e > 0) & (((z - low).abs() <= e) | ((z - high).abs() <= e))
        known = lambda dg: torch.where(unsure, g.value.abs() + dg, torch.where(inside, dg, 0.0))  # noqa: E731
        return settled(torch.where(inside, g.value, 0.0), both(known, g.errors), g.doubt | doubt, g.dtype, rounds=False)

    return linked(result, (a, back))


def relu(a: Bounded) -> Bounded:
    """Return max(a, 0); its gradient at 0 is 0."""
    return clamped(a, 0.0, closed=False)


@dataclass(frozen=True, slots=True)
class Curve:
    """A smooth function.

    Args:
        value, slope: The function and its derivative, of float64.
        steepest: Largest slope, rounded up: by what an error of the argument is multiplied.
        bend: Largest second derivative, rounded up: likewise for the slope.
        growth: Power of max(1, |x|) that times `ACTIVATION_ERROR` bounds the function's own error in float32.
        slope_growth: Likewise, the slope's.
        of_result: Where the slope is computed from the stored result, which is rounded: its derivative along that.
    """

    value: Callable[[T], T]
    slope: Callable[[T], T]
    steepest: float
    bend: float
    growth: int = 1
    slope_growth: int = 1
    of_result: Callable[[T], T] | None = None


def _silu_slope(x: T) -> T:
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))


def _sigmoid_slope(x: T) -> T:
    return torch.sigmoid(x) * torch.sigmoid(-x)


def _gelu_slope(x: T) -> T:
    return 0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _gelu_tanh_slope(x: T) -> T:
    c = math.sqrt(2 / math.pi)
    t = torch.tanh(c * (x + 0.044715 * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x)


# The constants are what tests find by a scan, rounded up. The slope of gelu_tanh subtracts numbers that cancel and
# multiplies by x cubed what is left.
CURVES = {
    "silu": Curve(torch.nn.functional.silu, _silu_slope, ACTIVATIONS["silu"][1], 0.51),
    "gelu": Curve(torch.nn.functional.gelu, _gelu_slope, ACTIVATIONS["gelu"][1], 0.80),
    "gelu_tanh": Curve(
        lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
        _gelu_tanh_slope,
        ACTIVATIONS["gelu_tanh"][1],
        0.81,
        slope_growth=3,
    ),
    "tanh": Curve(torch.tanh, lambda x: 1 - torch.tanh(x) ** 2, 1.0, 0.77, 0, 0, lambda y: 2 * y.abs()),
    "sigmoid": Curve(torch.sigmoid, _sigmoid_slope, 0.25, 0.097, 0, 0, lambda y: (1 - 2 * y).abs()),
    "erf": Curve(torch.erf, lambda x: 2 / math.sqrt(math.pi) * torch.exp(-x * x), 1.13, 0.97, 0, 0),
}


def curved(a: Bounded, name: str) -> Bounded:
    """Return one of `CURVES` of a. Nothing is known of it at infinities: there torch's own vectorised loops differ."""
    curve, kept = CURVES[name], frozen(a)
    own, doubt = _own(a.value, curve.growth), a.doubt | torch.isinf(a.value)
    result = settled(curve.value(a.value), both(lambda e: curve.steepest * e + own, a.errors), doubt, a.dtype)

    stored = frozen(result)

    def back(g: Bounded) -> Bounded:
        slope, own = curve.slope(kept.value), _own(kept.value, curve.slope_growth)
        if curve.of_result is not None:
            lost = unit(stored.dtype) * stored.value.abs()
            own = own + (curve.of_result(stored.value) + lost) * lost
        spread = lambda e, dg: slope.abs() * dg + (curve.bend * e + own) * (g.value.abs() + dg)  # noqa: E731
        errors = both(spread, kept.errors, g.errors)
        return settled(slope * g.value, errors, g.doubt | kept.doubt, g.dtype)

    return linked(result, (a, back))


def _own(x: T, power: int) -> T:
    return ACTIVATION_ERROR * x.abs().clamp(min=1.0) ** power
