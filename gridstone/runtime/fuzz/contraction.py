"""Products of values with error bounds: `ir.rounding.contraction`, and what errors of the operands add to it."""

from __future__ import annotations

import math

import numpy as np
import torch

from gridstone.ir.dtype import dtype as our_dtype
from gridstone.ir.rounding import EXTRA_TERMS, compute_unit, contraction, operand_unit
from gridstone.ir.spec import EXACT, Numerics
from gridstone.runtime.fuzz.arithmetic import added, passed
from gridstone.runtime.fuzz.bounded import Bounded, Errors, T, both, cast, frozen, linked, settled, unit, viewed

AUTOCAST = torch.bfloat16


def contracted(a: Bounded, b: Bounded, numerics: Numerics | None = None) -> Bounded:
    """Return a @ b.mT for a of (..., M, K) and b of (..., N, K), in a's dtype; in a weight's class unless one is named.

    Float64 is held to float32's bounds. To the roundings of `ir.rounding.contraction` come the operands' own errors:

    - in the worst case sum |da| |b| + |a| |db| + |da| |db|;
    - as a spread what independent ones add up to, sqrt(sum (da b)^2 + (a db)^2), what errors that are all alike do,
      |sum da b| + |sum a db|, and what roundings of equal values do, (u_a + u_b) |y|.
    """
    value = a.value @ b.value.mT
    x, w = _finite(a.value), _finite(b.value)
    (dx, sx), (dw, sw) = ((_finite(e) for e in o.errors) for o in (a, b))
    worst = dx @ (w.abs() + dw).mT + x.abs() @ dw.mT
    independent = ((sx**2) @ (w**2 + sw**2).mT + (x**2) @ (sw**2).mT).sqrt()
    alike = (sx @ w.mT).abs() + (x @ sw.mT).abs() + (unit(a.dtype) + unit(b.dtype)) * (x @ w.mT).abs()
    spread = torch.where(worst > 0, independent + alike, 0.0)
    own = _roundings(x, w, a, b, numerics or a.packed or b.packed or EXACT)
    nothing = x.abs() @ w.abs().mT + worst == 0  # every term is zero
    errors = both(lambda e, own: torch.where(nothing, 0.0, e + own), (worst, spread), own)
    ones = torch.ones_like
    doubt = a.doubt.double() @ ones(w).mT + ones(x) @ b.doubt.double().mT > 0
    first, second = frozen(a), frozen(b)

    def to_a(g: Bounded) -> Bounded:
        return passed(contracted(g, viewed(second, lambda x: x.mT), numerics), first)

    def to_b(g: Bounded) -> Bounded:
        turned = viewed(g, lambda x: x.mT)
        return passed(contracted(turned, viewed(first, lambda x: x.mT), numerics), second)

    return linked(settled(value, errors, doubt, a.dtype), (a, to_a), (b, to_b))


def _finite(x: T) -> T:
    return torch.where(torch.isfinite(x), x, 0.0)


def _roundings(x: T, w: T, a: Bounded, b: Bounded, numerics: Numerics) -> Errors:
    """Return what rounding does to each matrix of a batch; x and w are the finite values of a and b."""
    kind = our_dtype(str(a.dtype))
    x_unit, w_unit = (compute_unit(numerics, kind) if o.packed else operand_unit(numerics, kind) for o in (a, b))
    shape = torch.broadcast_shapes(x.shape[:-2], w.shape[:-2])
    m, n, k = x.shape[-2], w.shape[-2], x.shape[-1]
    if not m * n * k * math.prod(shape):
        empty = torch.zeros((*shape, m, n), dtype=torch.float64)
        return empty, empty
    flushed = torch.zeros(())
    if b.packed:  # a decoded element below the dtype's range is rounded by half its smallest number
        flushed = kind.smallest_subnormal / 2 * x.abs().sum(-1, keepdim=True)
    elif a.packed:
        flushed = kind.smallest_subnormal / 2 * w.abs().sum(-1).unsqueeze(-2)
    xs = x.expand(*shape, m, k).reshape(-1, m, k).numpy()
    ws = w.expand(*shape, n, k).reshape(-1, n, k).numpy()
    pairs = [
        contraction(p, q, x_unit * np.abs(p), x_unit, w_unit, k + EXTRA_TERMS) for p, q in zip(xs, ws, strict=True)
    ]
    worst, spread = (torch.from_numpy(np.stack(part)).reshape(*shape, m, n) for part in zip(*pairs, strict=True))
    return worst + flushed, spread + flushed


def product(a: Bounded, b: Bounded, numerics: Numerics | None = None) -> Bounded:
    """Return torch.matmul(a, b), whose operands autocast casts."""
    return uncast_product(autocast(a), autocast(b), numerics)


def uncast_product(a: Bounded, b: Bounded, numerics: Numerics | None = None) -> Bounded:
    """Return torch.matmul(a, b) of operands as they are: autocast does not know every spelling."""
    left = viewed(a, lambda x: x.unsqueeze(0)) if a.value.dim() == 1 else a
    right = viewed(b, lambda x: x.unsqueeze(-1)) if b.value.dim() == 1 else b
    y = contracted(left, viewed(right, lambda x: x.mT), numerics)
    if b.value.dim() == 1:
        y = viewed(y, lambda x: x.squeeze(-1))
    return viewed(y, lambda x: x.squeeze(-1 if b.value.dim() == 1 else -2)) if a.value.dim() == 1 else y


def layer(x: Bounded, w: Bounded, bias: Bounded | None = None, numerics: Numerics | None = None) -> Bounded:
    """Return F.linear(x, w, bias)."""
    x, w = autocast(x), autocast(w)
    y = product(x, viewed(w, lambda x: x.mT), numerics)
    return y if bias is None else added(y, autocast(bias))


def autocast(a: Bounded) -> Bounded:
    """Return an operand of a product in the dtype that autocast gives it, where that is on."""
    on = torch.is_autocast_enabled("cpu") and a.dtype != torch.float64
    return cast(a, AUTOCAST) if on else a
