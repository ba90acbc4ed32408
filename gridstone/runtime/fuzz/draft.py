"""A program while it is drawn: every instruction is tried on decoded weights before it is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gridstone.runtime.fuzz.machine import MODES, assemble, make_function
from gridstone.runtime.fuzz.operands import decoded, make_tensors, make_weights
from gridstone.runtime.fuzz.ops import DECODED
from gridstone.runtime.fuzz.program import Call, Given, Instruction, Packed, Plain, Program, Same

WRONG = 0.02  # share of instructions that raise and are kept: the last ones of their programs


class Draft:
    """What is drawn so far, and the values that it has.

    Args:
        rng: Draws.
        call: How the program will be called; values are those of its first call.
        formats: Formats of quantised weights.
    """

    def __init__(self, rng: np.random.Generator, call: Call, formats: Sequence[str]) -> None:
        self.rng, self.formats = rng, formats
        self.program = Program((), (), (), call)
        self.values: dict[str, Any] = {}
        self.mode = ""
        self.done = False

    def chance(self, share: float) -> bool:
        """Return True in a share of the cases."""
        return bool(self.rng.random() < share)

    def one_of(self, *choices: Any) -> Any:
        """Return one of several things; one that is repeated more often."""
        return choices[int(self.rng.integers(len(choices)))]

    def give(self, one: Given) -> str:
        """Add something to what the program is given, under a name of its own, which is returned."""
        name = f"{'x' if isinstance(one, (Plain, Same)) else 'w'}{len(self.program.given)}"
        self.program = replace(self.program, given=(*self.program.given, replace(one, name=name)))
        if isinstance(one, (Plain, Same)):
            self.values[name] = make_tensors(self.program, 0)[name]
        else:
            self.values |= decoded(make_weights(self.program, name))
        return name

    def add(self, op: str, *arguments: object, results: int = 1) -> tuple[str, ...]:
        """Add an instruction and return the names of its results; none when it raises."""
        count = len(self.program.body)
        names = tuple(f"{'abcdefgh'[at]}{count}" for at in range(results))
        instruction = Instruction(names, op, tuple(map(_written, arguments)), self.mode)
        alone = replace(self.program, body=(instruction,), returns=names)
        try:
            with MODES[self.program.call.mode]():
                found = make_function(assemble(alone, DECODED, ()), self.values)()
        except Exception:  # it does not fit: another one will
            if not self.done and self.chance(WRONG):
                self.program, self.done = replace(self.program, body=(*self.program.body, instruction)), True
            return ()
        if self.done:
            return ()
        self.program = replace(self.program, body=(*self.program.body, instruction))
        self.values |= dict(zip(names, found, strict=True))
        return names

    def tensors(self, fits: Callable[[torch.Tensor], bool] = lambda x: True) -> list[str]:
        """Return the names of plain tensors that fit, in order; not those of weights."""
        weights = {one.name for one in self.program.given if isinstance(one, Packed)}
        return [
            name
            for name, value in self.values.items()
            if name not in weights and isinstance(value, torch.Tensor) and value.is_floating_point() and fits(value)
        ]

    def pick(self, fits: Callable[[torch.Tensor], bool] = lambda x: True) -> str:
        """Return one of the tensors that fit, more often a late one; an empty name if none does."""
        names = self.tensors(fits)
        if not names:
            return ""
        return names[-1] if self.chance(0.6) else self.one_of(*names)

    def value(self, name: str) -> torch.Tensor:
        """Return the value that a name has."""
        return self.values[name]


def _written(argument: object) -> str:
    if argument is None:
        return "-"
    if isinstance(argument, (list, tuple)):
        return f"[{','.join(map(str, argument))}]"
    return f"{argument:.4f}" if isinstance(argument, float) else str(argument)
