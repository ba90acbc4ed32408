"""Gradients of values with error bounds: reverse accumulation over the pasts that the values have."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gridstone.runtime.fuzz.arithmetic import added
from gridstone.runtime.fuzz.bounded import Bounded, Past


def gradients(results: Sequence[tuple[Bounded, Bounded]], leaves: Sequence[Bounded]) -> list[Bounded | None]:
    """Return the gradients of a sum of products along values.

    Args:
        results: Values, each with the constant that it is multiplied with, in its dtype.
        leaves: Values that were computed from nothing.
    """
    found: dict[Past, Bounded] = {}

    def give(past: Past, g: Bounded) -> None:
        found[past] = added(found[past], g) if past in found else g

    waiting: dict[Past, None] = {}

    def reach(past: Past) -> None:
        if past not in waiting:
            waiting[past] = None
            for source, _ in past.sources:
                reach(source)

    for result, seed in results:
        if result.past is not None:
            reach(result.past)
            give(result.past, seed)
    with torch.no_grad():
        for past in sorted(waiting, key=lambda past: past.order, reverse=True):
            if past in found:
                for source, back in past.sources:
                    give(source, back(found[past]))
    return [None if leaf.past is None else found.get(leaf.past) for leaf in leaves]
