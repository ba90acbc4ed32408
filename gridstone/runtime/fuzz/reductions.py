"""Sums, softmax and layer norm of values with error bounds."""

from __future__ import annotations

import torch

from gridstone.ir.rounding import growth
from gridstone.runtime.fuzz.arithmetic import added, multiplied
from gridstone.runtime.fuzz.bounded import (
    EXTRA_TERMS,
    F32_UNIT,
    Bounded,
    T,
    both,
    cast,
    exact,
    frozen,
    linked,
    settled,
    unit,
    viewed,
)

EPS = 1e-5


def _sum_unit(terms: int, dtype: torch.dtype) -> float:
    """Return by how much of its terms' magnitudes a sum in float32, of whatever dtype, may err."""
    return float(growth(float(terms + EXTRA_TERMS))) * min(F32_UNIT, unit(dtype))


def summed(a: Bounded, dim: int, keep: bool = False, mean: bool = False) -> Bounded:
    """Return the sum or the mean along an axis."""
    n = a.shape[dim]
    scale = 1 / n if mean and n else float("nan") if mean else 1.0
    own = 0.0 if n == 1 else _sum_unit(n, a.dtype) * a.value.abs().sum(dim, keep)
    errors = both(lambda e: (e.sum(dim, keep) + own) * scale, a.errors)
    result = settled(a.value.sum(dim, keep) * scale, errors, a.doubt.any(dim, keep), a.dtype)
    shape = a.shape

    def back(g: Bounded) -> Bounded:
        wide = viewed(g if keep else viewed(g, lambda x: x.unsqueeze(dim)), lambda x: x.expand(shape))
        return multiplied(wide, scale) if mean else wide

    return linked(result, (a, back))


def softmax(a: Bounded, dim: int) -> Bounded:
    """Return softmax along an axis, computed in float32 whatever the dtype.

    With arguments off by at most d along a row, every exp(x_i) / sum exp(x_j) is multiplied by between exp(-2 d) and
    exp(2 d). Subtracting the largest rounds by u |x_i - max|, an argument's error; exp, the sum and the quotient err
    relatively, by the sum's n + 8 roundings. What lies below the smallest normal number may be lost. Along another axis
    than the last, torch stores exp(x_i - max) in the dtype before it divides.
    """
    value = torch.softmax(a.value, dim)
    n, u = a.shape[dim], min(F32_UNIT, unit(a.dtype))
    if not value.numel():
        return linked(exact(value, a.dtype), (a, lambda g: g))
    finite = torch.where(torch.isfinite(a.value), a.value, 0.0)
    span = (finite.amax(dim, keepdim=True) - finite).abs().amax(dim, keepdim=True)
    certain = ~torch.isfinite(a.value) & (value == 0)  # exp(-inf)
    between = unit(a.dtype) if dim % a.value.dim() != a.value.dim() - 1 else 0.0

    def off(e: T) -> T:
        within = torch.exp((2 * (e.amax(dim, keepdim=True) + 2 * u * span)).clamp(max=700.0))
        error = value * (within - 1 + ((n + EXTRA_TERMS) * u + between) * within)
        return (error.clamp(max=1.0) + torch.finfo(torch.float32).tiny).masked_fill(certain, 0.0)

    result = settled(value, both(off, a.errors), a.doubt.any(dim, True).expand(a.shape), a.dtype)
    kept = frozen(result)

    def back(g: Bounded) -> Bounded:
        along = summed(multiplied(g, kept), dim, keep=True)
        return multiplied(kept, added(g, along, -1.0))

    return linked(result, (a, back))


def layer_norm(a: Bounded, weight: Bounded | None, bias: Bounded | None) -> Bounded:
    """Return the layer norm along the last axis, computed in float32 whatever the dtype."""
    y = _normalised(a)
    y = y if weight is None else multiplied(y, weight)
    y = y if bias is None else added(y, bias)
    return cast(y, a.dtype)


def _normalised(a: Bounded) -> Bounded:
    """Return (x - mean) / sqrt(variance + eps) along the last axis, not yet rounded to the dtype.

    With c = x - mean, s the relative error of a sum and an error of x of d:

    - the mean is off by mean(d) + s mean|x|, hence c by d more;
    - the variance by mean(2 |c| dc + dc^2), and by 4 s mean(x^2), whichever way it is computed: from c, by updates,
      or as mean(x^2) - mean^2;
    - |sqrt(p) - sqrt(q)| = |p - q| / (sqrt(p) + sqrt(q)), and |1/p - 1/q| = |p - q| / (p q).
    """
    x, kind = a.value, torch.promote_types(a.dtype, torch.float32)
    s, u = _sum_unit(x.shape[-1], a.dtype), min(F32_UNIT, unit(a.dtype))
    mean = x.mean(-1, keepdim=True)
    c, size, square = x - mean, x.abs().mean(-1, keepdim=True), (x * x).mean(-1, keepdim=True)
    variance = (c * c).mean(-1, keepdim=True)
    root = (variance + EPS).sqrt()
    inverse = 1 / root

    def centred(e: T) -> T:
        return e + e.mean(-1, keepdim=True) + s * size + u * c.abs()

    def rooted(e: T) -> T:
        dc = centred(e)
        off = (2 * c.abs() * dc + dc * dc).mean(-1, keepdim=True) + 4 * s * square
        low = ((variance - off).clamp(min=0.0) + EPS).sqrt()
        return off / (root + low) / (root * low) + 4 * u * inverse

    scale = settled(inverse, both(rooted, a.errors), a.doubt.any(-1, keepdim=True), kind)
    errors = both(lambda e: centred(e) * (inverse + rooted(e)) + c.abs() * rooted(e), a.errors)
    result = settled(c * inverse, errors, scale.doubt.expand(x.shape), kind)
    kept, reach, given = frozen(result), x.abs() + mean.abs(), a.dtype
    # What the backward pass reads, mean and reciprocal root, may have been rounded to the dtype in between.
    saved = unit(given) * (mean.abs() * inverse + kept.value.abs()) * (1 + unit(given))
    kept = settled(kept.value, both(lambda e: e + saved, kept.errors), kept.doubt, kind)
    scale = settled(inverse, both(lambda e: e + unit(given) * inverse, scale.errors), scale.doubt, kind)

    def back(g: Bounded) -> Bounded:
        """inverse (g - mean(g) - y mean(g y)); or the same with y taken apart, where multiples of x and mean cancel."""
        along = multiplied(kept, summed(multiplied(g, kept), -1, keep=True, mean=True))
        inner = added(added(g, summed(g, -1, keep=True, mean=True), -1.0), along, -1.0)
        found = multiplied(inner, scale)
        cancelled = 4 * s * (g.value.abs() * reach).mean(-1, keepdim=True) * inverse**3 * reach
        return cast(settled(found.value, both(lambda e: e + cancelled, found.errors), found.doubt, kind), given)

    return linked(result, (a, back))
