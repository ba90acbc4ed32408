"""Agreement of a compiled program with eager mode: in values, within the reference's bounds, and in everything else.

Everything else is: what is raised; dtypes, shapes, strides; which results share memory with each other and with what
was given; which require a gradient; and what became of the tensors that were given, the memory between their elements
included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from gridstone.ir.errors import GridstoneError
from gridstone.runtime.fuzz.bounded import Bounded
from gridstone.runtime.fuzz.run import Outcome, Reference
from gridstone.runtime.tensors import QuantTensor


def disagreement(got: Outcome, want: Outcome, decoded: bool = False) -> str:
    """Return in what a run differs from another one but in values; empty when in nothing.

    Args:
        got: The run.
        want: What it is compared with.
        decoded: Whether that is on decoded weights: where one is returned, the other is quantised.
    """
    if bool(got.raised) != bool(want.raised):
        return f"raises {got.raised}" if got.raised else f"gives a result, where eager mode raises {want.raised}"
    if got.raised:
        return ""
    if len(got.results) != len(want.results):
        return f"gives {len(got.results)} results, not {len(want.results)}"
    for at, (a, b) in enumerate(zip(got.results, want.results, strict=True)):
        if isinstance(a, QuantTensor) != isinstance(b, QuantTensor) and not decoded:
            return f"result {at} is a {type(a).__name__}, not a {type(b).__name__}"
        for fact, (x, y) in _facts(a, b).items():
            if x != y:
                return f"result {at} has {fact} {x}, not {y}"
    shared, expected = _sharing(got), _sharing(want)
    if shared != expected:
        return f"results and inputs share memory as {shared}, not {expected}"
    for name, grad in want.gradients.items():
        mine = got.gradients[name]
        if (grad is None) != (mine is None):
            return f"{name} has {'no' if mine is None else 'a'} gradient"
        if grad is not None and mine is not None and (mine.dtype, mine.shape) != (grad.dtype, grad.shape):
            return f"the gradient of {name} is {mine.dtype}{tuple(mine.shape)}, not {grad.dtype}{tuple(grad.shape)}"
    return ""


def _facts(a: Any, b: Any) -> dict[str, tuple[Any, Any]]:
    facts = {
        "dtype": (a.dtype, b.dtype),
        "shape": (tuple(a.shape), tuple(b.shape)),
        "requires_grad": (a.requires_grad, b.requires_grad),
    }
    if isinstance(a, QuantTensor) != isinstance(b, QuantTensor):
        return {"dtype": facts["dtype"], "shape": facts["shape"]}
    if isinstance(a, QuantTensor):
        codes = (a.packed.tolist(), b.packed.tolist())
        return {**facts, "key": (a.key, b.key), "axes": (a.axes, b.axes), "codes": codes}
    return {**facts, "strides": (_strides(a), _strides(b)), "is_inference": (a.is_inference(), b.is_inference())}


def _strides(x: torch.Tensor) -> tuple[int, ...]:
    """Return the strides that say where an element lies: of axes with more than one."""
    if not x.numel():
        return ()
    return tuple(stride for stride, extent in zip(x.stride(), x.shape, strict=True) if extent > 1)


def _sharing(outcome: Outcome) -> tuple[int, ...]:
    """Return for each input and each result the first of them that it shares its memory with."""
    tensors = [*outcome.tensors.values(), *outcome.results]
    places = [(x.packed if isinstance(x, QuantTensor) else x).untyped_storage().data_ptr() for x in tensors]
    return tuple(places.index(place) if place else at for at, place in enumerate(places))


def stray(got: torch.Tensor, want: Bounded) -> str:
    """Return how a tensor lies outside of the bounds; empty when it does not."""
    if tuple(got.shape) != tuple(want.shape):
        return f"of shape {tuple(got.shape)}, not {tuple(want.shape)}"
    if got.dtype != want.dtype:
        return f"of {got.dtype}, not {want.dtype}"
    x, y, e = got.detach().double(), want.value, want.bound
    certain = torch.isfinite(e)
    same = (x == y) | (torch.isnan(x) & torch.isnan(y))
    within = torch.where(torch.isfinite(y), (x - y).abs() <= e, same)
    wrong = certain & ~within
    if not bool(wrong.any()):
        return ""
    far = torch.where(wrong, (x - y).abs() / e.clamp(min=1e-300), 0.0).nan_to_num(nan=torch.inf, posinf=torch.inf)
    at = tuple(int(i) for i in torch.unravel_index(far.argmax(), far.shape)) if far.dim() else ()
    found, meant = float(x[at]), f"{float(y[at]):.7g} +- {float(e[at]):.2g}"
    return f"wrong in {int(wrong.sum())} of {wrong.numel()} elements, at {list(at)} {found:.7g} instead of {meant}"


def strays(got: Outcome, want: Reference) -> str:
    """Return what of a run lies outside of the reference's bounds."""
    for at, (x, y) in enumerate(zip(got.results, want.results, strict=True)):
        problem = "" if y.packed else stray(x, y)  # a weight is compared with the other run's
        if problem:
            return f"result {at} is {problem}"
    for name, x in got.tensors.items():
        problem = stray(x, want.tensors[name])
        if problem:
            return f"{name} afterwards is {problem}"
    for name, grad in got.gradients.items():
        bound = want.gradients.get(name)
        if grad is None or not want.known:
            continue
        problem = "there, and should not be" if bound is None else stray(grad, bound)
        if problem:
            return f"the gradient of {name} is {problem}"
    return ""


def memory(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the bytes of tensors, with those between their elements."""
    nothing = torch.empty(0, dtype=torch.uint8)
    return {name: nothing.new_empty(0).set_(x.detach().untyped_storage()).clone() for name, x in tensors.items()}


def trespass(got: Outcome, want: Outcome, before: Mapping[str, torch.Tensor]) -> str:
    """Return which input was changed where eager mode leaves it as it was: between its elements, or at all."""
    after, expected = memory(got.tensors), memory(want.tensors)
    for name, original in before.items():
        left = torch.ones_like(original, dtype=torch.bool)
        if not torch.equal(expected[name], original):  # then its values are compared
            left = ~_covered(got.tensors[name])
        if not torch.equal(after[name][left], original[left]):
            return f"changes {name}, or memory between its elements, which eager mode leaves alone"
    return ""


def _covered(x: torch.Tensor) -> torch.Tensor:
    """Return which bytes of a tensor's memory are its elements'."""
    marked = torch.zeros(x.untyped_storage().nbytes() // x.element_size(), dtype=torch.bool)
    marked.as_strided(x.shape, x.stride(), x.storage_offset()).fill_(True)
    return marked.repeat_interleave(x.element_size())


def unequal(got: Outcome, want: Outcome) -> str:
    """Return in what two runs that must be equal to the last bit are not."""
    pairs: list[tuple[str, Any, Any]] = [
        (f"result {at}", a, b) for at, (a, b) in enumerate(zip(got.results, want.results, strict=True))
    ]
    pairs += [(f"the gradient of {name}", got.gradients[name], grad) for name, grad in want.gradients.items()]
    for what, a, b in pairs:
        if a is not None and not bool(((a == b) | ((a != a) & (b != b))).all()):
            return f"{what} is not that of eager mode to the last bit, in a program without a quantised weight"
    return ""


def refused(outcome: Outcome) -> bool:
    """Whether a run was refused in words for people."""
    return isinstance(outcome.error, GridstoneError)


def complaint(said: Sequence[str]) -> str:
    """Return what was logged that is our bug: an exception, which is not ours, while a graph was planned."""
    for line in said:
        _, planned, why = line.partition("a graph runs as PyTorch would have run it: ")
        if planned and why.partition(": ")[0].endswith(("Error", "Exception")):
            return f"planning raised {why.splitlines()[0]}"
    return ""
