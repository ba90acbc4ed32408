"""Random programs: how they are called, what they start with, what they return."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gridstone.ir.format import CODES
from gridstone.proof.fuzz.subject import Wanted
from gridstone.runtime.fuzz.actions import ACTIONS, SHARES, call_net, give_tensor, product
from gridstone.runtime.fuzz.draft import Draft
from gridstone.runtime.fuzz.program import ROWS, Call, Extent, Instruction, Program

FORMATS = ("int4:g32:f32", "int4:g32:f32", "int8:g32:f32", "uint4:g32:f32:zero", "int2:g16:bf16", "int8:channel:f16")
LEADS: tuple[tuple[Extent, ...], ...] = (
    (ROWS,), (ROWS,), (ROWS,), (2, ROWS), (ROWS, 3), (), (ROWS, 1), (1, ROWS), (2, ROWS, 2), (2, 1, ROWS),
)  # fmt: skip


def draw_program(rng: np.random.Generator, wanted: Wanted) -> Program:
    """Draw a program."""
    every = (*FORMATS, *(f"{name}:g32:f32{':zero' if name.startswith('u') else ''}" for name in CODES))
    common = [name for name in FORMATS if wanted.takes_format(name)]
    formats = [name for name in every if wanted.takes_format(name)] or list(wanted.formats)
    draft = Draft(rng, _draw_call(rng), [*common * 8, *formats])
    _first(draft)
    for _ in range(int(rng.integers(1, 9))):
        action = ACTIONS[int(rng.choice(len(ACTIONS), p=SHARES))]
        if not draft.done:
            action(draft)
    return _finished(draft)


def _draw_call(rng: np.random.Generator) -> Call:
    chance = lambda share: bool(rng.random() < share)  # noqa: E731
    count = int(rng.choice([1, 2, 3, 4], p=[0.7, 0.15, 0.1, 0.05]))
    rows = tuple(int(rng.choice([0, 17, 40]) if chance(0.08) else rng.integers(1, 9)) for _ in range(count))
    by = str(rng.choice(["gridstone", "torch", "export"], p=[0.75, 0.2, 0.05]))
    rest = str(rng.choice(["eager", "aot_eager", "inductor"], p=[0.72, 0.24, 0.04]))
    mode = str(rng.choice(["plain", "no_grad", "inference", "autocast"], p=[0.68, 0.12, 0.08, 0.12]))
    return Call(
        M=rows,
        by=by,
        rest="eager" if by == "export" else rest,
        dynamic=str(rng.choice(["none", "true", "false"], p=[0.6, 0.25, 0.15])),
        mode=mode if by != "export" or mode == "no_grad" else "plain",
        numerics="bf16" if by != "export" and chance(0.06) else "exact",
        target="library:torch" if chance(0.6) else "auto",
        held=chance(0.4),
        backward=by != "export" and mode == "plain" and chance(0.4),
        seed=int(rng.integers(100000)),
    )


def _first(draft: Draft) -> None:
    """The first input, and nearly always a product of it."""
    lead = draft.one_of(*LEADS)
    kind = draft.one_of("f32", "f32", "f32", "f32", "bf16", "bf16", "f16", "f64" if draft.chance(0.2) else "f32")
    give_tensor(draft, (*lead, draft.one_of(32, 64, 64, 20) if draft.chance(0.1) else draft.one_of(32, 64)), kind)
    if draft.chance(0.12):
        call_net(draft)
    elif draft.chance(0.85):
        product(draft)


def _finished(draft: Draft) -> Program:
    """Choose what is returned: mostly the last value, often others, at times an input or a view of a weight."""
    made = _made(draft.program.body)
    plain = [name for name in draft.tensors() if name in made]
    names = plain[-1:] or [draft.program.given[0].name]
    for _ in range(int(draft.rng.integers(0, 3))):
        known = [name for name in draft.values if name in made] if draft.chance(0.03) else draft.tensors()
        names.append(draft.one_of(*(plain if plain and draft.chance(0.9) else known or names)))
    return replace(draft.program, returns=tuple(names))


def _made(body: tuple[Instruction, ...]) -> set[str]:
    return {name for instruction in body for name in instruction.names}
