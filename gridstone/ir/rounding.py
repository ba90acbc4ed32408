"""Rounding: how the errors of rounded operands and of float32 sums reach a result. Every op's tolerance is made of it.

Each bound exists in three strengths. *Worst case*: roundings conspire. *Probabilistic*: they are independent and of
zero mean, and the sum of n of them stays below 8 sqrt(n) of the largest (Higham and Mary, "A new approach to
probabilistic rounding error analysis", SISC 2019); an element's bound is the smaller of these two. *Typical*: one
standard deviation, contributions added in quadrature; its root mean square over the output bounds the error's.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gridstone.ir.dtype import DType, Values, bf16, f32
from gridstone.ir.epilogue import apply, widen
from gridstone.ir.spec import Numerics, NumericsClass, Spec, Tolerance

# Width of the probabilistic bounds in standard deviations: exceeded with probability below 1e-14 per element.
DEVIATIONS = 8.0
# Roundings that every sum may add to one per term: a product, a scale, a group's sum, the merge of partial sums.
EXTRA_TERMS = 8
TF32_UNIT = 2.0**-11
# Products and operands below this may be flushed to zero.
SMALLEST_NORMAL = 2.0**-126
# A sum's partial sums are looked at in this many places.
PREFIXES = 16

Bounds = tuple[Values, Values]  # element by element: the bound, and the typical error


def operand_unit(numerics: Numerics, dtype: DType) -> float:
    """Return the largest relative error with which a plain operand may be rounded before it is multiplied.

    >>> operand_unit(Numerics(), f32), operand_unit(Numerics(NumericsClass.BF16), f32) == 2**-8
    (0.0, True)
    """
    unit = {NumericsClass.TF32: TF32_UNIT, NumericsClass.BF16: bf16.unit_roundoff}.get(numerics.kind, 0.0)
    return unit if unit > dtype.unit_roundoff else 0.0


def compute_unit(numerics: Numerics, dtype: DType) -> float:
    """Return the largest relative error with which an intermediate value may be rounded before it is multiplied."""
    return max(dtype.unit_roundoff, operand_unit(numerics, dtype))


def growth(terms: Values | float) -> Values:
    """Return by how many unit roundoffs of its terms' magnitudes a float32 sum of `terms` roundings may err."""
    return np.minimum(terms, DEVIATIONS * np.sqrt(terms))


def contraction(x: Values, w: Values, x_error: Values, x_unit: float, w_unit: float, terms: Values | float) -> Bounds:
    """Bound the error of y[m, n] = sum over k of x[m, k] w[n, k], summed in float32 in any order.

    Args:
        x, w: Exact operands, (M, K) and (N, K).
        x_error: Absolute error of each element of x, (M, K).
        x_unit: The relative part of `x_error`, which may be the same for equal values.
        w_unit: Largest relative error of the elements of w.
        terms: Roundings of one sum; a number or (M, 1).

    With S = sum |x w|, Q = sqrt(sum (x w)^2), P the largest of the partial sums, and u float32's unit roundoff:

    - accumulation: partial sums never exceed S: growth(terms) u S. Typically they walk as far as 2 (Q + P) in
      whatever order they are summed (any segment is a difference of two partial sums).
    - operands: worst case sum (dx |w| + u_w |x w|); independent 8 (sqrt(sum (dx w)^2 + (u_w x w)^2) + (u_x + u_w) |y|),
      the last term for roundings that are correlated because values repeat. The smaller one is taken.
    - underflow: every term may be flushed below 2^-126, scaled by the largest operand.
    """
    y, peak, walk, total = (np.zeros((x.shape[0], w.shape[0])) for _ in range(4))
    step = -(-x.shape[1] // PREFIXES)
    for start in range(0, x.shape[1], max(step, 1)):
        part = slice(start, start + step)
        y = y + x[:, part] @ w[:, part].T
        peak = np.fmax(peak, np.abs(y))
        walk += (x[:, part] ** 2) @ (w[:, part] ** 2).T
        total += np.abs(x[:, part]) @ np.abs(w[:, part]).T
    unit = f32.unit_roundoff
    operands, worst = w_unit**2 * walk, w_unit * total
    if x_error.any():
        operands, worst = operands + (x_error**2) @ (w**2).T, worst + x_error @ np.abs(w).T
    correlated = (x_unit + w_unit) * np.abs(y)
    underflow = terms * SMALLEST_NORMAL * max(1.0, finite_max(x), finite_max(w))
    rounded = np.minimum(worst, DEVIATIONS * (np.sqrt(operands) + correlated))
    typical_sum = np.sqrt(terms) * unit * np.minimum(total, 2 * (np.sqrt(walk) + peak))
    typical = np.sqrt(typical_sum**2 + operands + correlated**2)
    return growth(terms) * unit * total + rounded + underflow, typical + underflow


def tolerance(spec: Spec, y: Values, bounds: Bounds, operands: Mapping[str, Values]) -> Tolerance:
    """Carry bounds on y through the epilogues and the rounding to the output's dtype.

    The root mean square over n outputs of errors of deviation s exceeds s (1 + 8 / sqrt(n)) with probability below
    1e-14, so that a single output has the width of an element's bound and many outputs come close to s.

    Where y is infinite an operand is, and every order of summing it gives this infinity: there is no error to carry.
    """
    out, final = spec.output.dtype, np.abs(apply(spec.epilogue, y, operands))
    bounds = np.where(np.isinf(y), 0.0, bounds[0]), np.where(np.isinf(y), 0.0, bounds[1])
    element = widen(spec.epilogue, y, bounds[0], operands, out)
    element = element + out.unit_roundoff * (final + element) + out.smallest_subnormal
    typical = widen(spec.epilogue, y, bounds[1], operands, out)
    typical = np.sqrt(typical**2 + (out.unit_roundoff * final) ** 2) + out.smallest_subnormal
    finite = typical[np.isfinite(typical)]
    rms = float(np.sqrt(np.mean(finite**2))) * (1 + DEVIATIONS / finite.size**0.5) if finite.size else 0.0
    return Tolerance(element, rms)


def finite_max(values: Values) -> float:
    """Return the largest finite magnitude, 0 when there is none."""
    size = np.abs(values)
    return float(np.max(size, where=np.isfinite(size), initial=0.0))
