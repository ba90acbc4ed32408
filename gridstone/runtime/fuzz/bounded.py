"""Values in float64 beside bounds on how far a stored result may lie from them: one rounding at every step.

The value is what the program means, in exact arithmetic but for float64's own rounding. Bounds hold for a program that
stores every result in its dtype, and therefore for one that keeps more digits between some of the steps, as a fused
kernel does. There are two, as in `ir.rounding`:

- the *worst case*, in which errors conspire;
- the *spread*, in which errors along the sum of a product are independent and of zero mean, or all the same, and add up
  in quadrature; `DEVIATIONS` times it is exceeded by no element. Elsewhere both follow the same formulas.

The smaller one counts. Through a dozen layers the worst case grows beyond the values themselves, the spread does not;
through none it is the other way round.

An infinite bound says that nothing is known: a result near the largest of its dtype may or may not overflow. A value
that is NaN or infinite by itself has the bound 0: just that must come out.

A view of a `Bounded` shares the memory of its tensors, so a change in place reaches it as it does in the program.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from gridstone.ir.dtype import dtype as our_dtype
from gridstone.ir.rounding import DEVIATIONS, growth
from gridstone.ir.spec import Numerics

T = torch.Tensor
F32_UNIT = 2.0**-24
FLOAT64_UNIT = 2.0**-50  # in place of 2^-53: the value itself is computed in float64
EXTRA_TERMS = 8  # roundings of a sum beside one per term, as in `ir.rounding`
Errors = tuple[T, T]
_COUNT = itertools.count()


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """What a value was computed from: for each source, how a gradient passes through to it."""

    sources: tuple[tuple[Past, Callable[[Bounded], Bounded]], ...] = ()
    order: int = field(default_factory=lambda: next(_COUNT))


@dataclass(slots=True, eq=False)
class Bounded:
    """A value with bounds on its error.

    Args:
        value: float64.
        errors: Worst case and spread, float64, of the same shape and strides.
        dtype: That the program stores it in.
        past: None where no gradient passes through. A change in place replaces it.
        packed: Of a quantised weight, which is decoded whenever it is multiplied: the class of its products that name
            none. None for any other value.
    """

    value: T
    errors: Errors
    dtype: torch.dtype
    past: Past | None = None
    packed: Numerics | None = None

    @property
    def shape(self) -> torch.Size:
        """Its extents."""
        return self.value.shape

    @property
    def bound(self) -> T:
        """How far a stored result may lie from it."""
        return torch.minimum(self.errors[0], DEVIATIONS * self.errors[1])

    @property
    def doubt(self) -> T:
        """Where nothing is known of it."""
        return torch.isinf(self.errors[0])


def unit(dtype: torch.dtype) -> float:
    """Return the largest relative error of rounding to a dtype."""
    return FLOAT64_UNIT if dtype == torch.float64 else our_dtype(str(dtype)).unit_roundoff


def exact(value: T, dtype: torch.dtype, packed: Numerics | None = None) -> Bounded:
    """Return a value that has no error, such as an operand."""
    zero = torch.zeros(value.shape, dtype=torch.float64)
    return Bounded(value, (_strided_like(value, zero), _strided_like(value, zero)), dtype, packed=packed)


def both(formula: Callable[..., T], *operands: Errors) -> Errors:
    """Return a formula of the worst cases of some operands, and the same of their spreads."""
    return formula(*(errors[0] for errors in operands)), formula(*(errors[1] for errors in operands))


def settled(value: T, errors: Errors, doubt: T, dtype: torch.dtype, rounds: bool = True) -> Bounded:
    """Return a value as it is stored.

    Args:
        value: Exact.
        errors: Before it is stored; anything where the value is not finite.
        doubt: Where an operand is not known.
        dtype: Of the result.
        rounds: Whether storing it rounds. A zero without an error is stored as it is.
    """
    if rounds:
        lost = torch.where((value == 0) & (errors[0] == 0), 0.0, our_dtype(str(dtype)).smallest_subnormal / 2)
        errors = both(lambda e: e + unit(dtype) * (value.abs() + e) + lost, errors)
    finite = torch.isfinite(value)
    least = torch.minimum(errors[0], DEVIATIONS * errors[1])
    doubt = doubt | (finite & ((value.abs() + least >= torch.finfo(dtype).max) | torch.isnan(least)))
    known = both(lambda e: torch.where(finite, e, 0.0).masked_fill(doubt, torch.inf), errors)
    return Bounded(value, both(lambda e: _strided_like(value, e), known), dtype)


def _strided_like(value: T, error: T) -> T:
    """Return an error in memory of its own with its value's strides: the same views can be taken of both."""
    made = torch.empty_strided(value.shape, value.stride(), dtype=torch.float64)
    once = [slice(0, 1) if not stride else slice(None) for stride in value.stride()]
    made[tuple(once)] = error[tuple(once)]
    return made


def linked(result: Bounded, *sources: tuple[Bounded, Callable[[Bounded], Bounded]]) -> Bounded:
    """Return a result that knows how gradients pass through to what it was computed from."""
    kept = tuple((source.past, back) for source, back in sources if source.past is not None)
    if kept and torch.is_grad_enabled():
        result.past = Past(kept)
    return result


def frozen(a: Bounded) -> Bounded:
    """Return a copy as a constant: what a later change in place does not reach."""
    return Bounded(a.value.clone(), both(torch.clone, a.errors), a.dtype, None, a.packed)


def viewed(a: Bounded, look: Callable[[T], T]) -> Bounded:
    """Return a view, or a copy that moves elements and computes nothing."""
    shape, dtype = a.shape, a.dtype
    result = Bounded(look(a.value), both(look, a.errors), dtype, packed=a.packed)
    return linked(result, (a, lambda g: pulled(g, look, shape, dtype)))


def pulled(g: Bounded, look: Callable[[T], T], shape: Sequence[int], dtype: torch.dtype) -> Bounded:
    """Return what passes back through a view: where it repeats an element, the sum over the repetitions.

    Such a sum is rounded once per term in float32, or to the dtype before it is summed, and stored.
    """
    with torch.enable_grad():
        source = torch.zeros(tuple(shape), dtype=torch.float64, requires_grad=True)
        seen = look(source)

    def pull(values: T) -> T:
        return torch.autograd.grad(seen, source, values, retain_graph=True)[0]

    most = float(pull(torch.ones_like(g.value)).max()) if source.numel() else 0.0
    errors = both(pull, g.errors)
    doubt = torch.isinf(errors[0])
    if most > 1:
        sums = float(growth(most + EXTRA_TERMS)) * F32_UNIT + unit(dtype)
        errors = both(lambda e: e + sums * pull(g.value.abs() + g.bound), errors)
    return settled(pull(g.value), errors, doubt, dtype, rounds=most > 1 or g.dtype != dtype)


def cast(a: Bounded, dtype: torch.dtype) -> Bounded:
    """Return a value in another dtype; the same one in its own."""
    if a.dtype == dtype:
        return a
    before = a.dtype
    if a.packed:  # it stands for another dtype; its codes are the same
        return Bounded(a.value, a.errors, dtype, None, a.packed)
    wider = torch.promote_types(before, dtype) == dtype
    result = settled(a.value.clone(), a.errors, a.doubt, dtype, rounds=not wider)
    return linked(result, (a, lambda g: cast(g, before)))
