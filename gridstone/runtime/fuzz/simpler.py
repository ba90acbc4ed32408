"""Simpler programs: fewer instructions first, then fewer results, calls and options, then plainer and smaller operands.

Each step takes something away for good, so that following them ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import fields, replace

from gridstone.ir.errors import GridstoneError
from gridstone.runtime.fuzz.parse import parse_program
from gridstone.runtime.fuzz.program import ROWS, Call, Given, Instruction, Net, Packed, Plain, Program, Same

FEWEST = {"linear": 2, "layer_norm": 1, "addmm": 3, "add": 2, "clamp": 2, "columns": 3}  # arguments that it needs
PLAIN_FORMAT = "int4:channel"
NUMBER = re.compile(r"[0-9]+")


def simpler_programs(program: Program) -> Iterator[Program]:
    """Yield simpler programs, the simplest first."""
    seen = {program}
    for step in STEPS:
        for found in step(program):
            simple = _pruned(found)
            if simple not in seen and _is_program(simple):
                seen.add(simple)
                yield simple


def _is_program(program: Program) -> bool:
    try:
        return parse_program(str(program)) == program
    except GridstoneError:
        return False


def _pruned(program: Program) -> Program:
    """Return a program without what it is given and does not use."""
    used = {name for instruction in program.body for name in instruction.reads} | set(program.returns)
    used |= {one.of for one in program.given if isinstance(one, Same) and one.name in used}
    rows = program.rows()
    if rows and any(ROWS in argument for instruction in program.body for argument in instruction.arguments):
        used.add(rows[0])
    return replace(program, given=tuple(one for one in program.given if one.name in used))


def _first_instructions(program: Program) -> Iterator[Program]:
    for at, instruction in enumerate(program.body[:-1]):
        yield replace(program, body=program.body[: at + 1], returns=instruction.names)


def _without(program: Program) -> Iterator[Program]:
    """Leave one instruction out, and all that depend on it."""
    for instruction in program.body:
        gone = set(instruction.names)
        kept: list[Instruction] = []
        for other in program.body:
            if other is instruction or gone & set(other.reads):
                gone |= set(other.names)
            else:
                kept.append(other)
        returns = tuple(name for name in program.returns if name not in gone)
        last = kept[-1].names if kept else ()
        if returns or last:
            yield replace(program, body=tuple(kept), returns=returns or last)


def _around(program: Program) -> Iterator[Program]:
    """Leave one instruction out, and read one of its arguments where its results were read."""
    for at, instruction in enumerate(program.body):
        for instead in dict.fromkeys(instruction.reads):
            rename = lambda name, i=instruction, to=instead: to if name in i.names else name  # noqa: E731
            rest = tuple(_renamed(other, rename) for other in program.body[at + 1 :])
            returns = tuple(map(rename, program.returns))
            yield replace(program, body=(*program.body[:at], *rest), returns=returns)


def _renamed(instruction: Instruction, rename: Callable[[str], str]) -> Instruction:
    return replace(instruction, arguments=tuple(map(rename, instruction.arguments)))


def _returns(program: Program) -> Iterator[Program]:
    for at in range(len(program.returns)):
        yield replace(program, returns=program.returns[:at] + program.returns[at + 1 :])


def _calls(program: Program) -> Iterator[Program]:
    call, rows = program.call, program.call.M
    for at in range(len(rows)):
        if len(rows) > 1:
            yield replace(program, call=replace(call, M=rows[:at] + rows[at + 1 :]))
        for fewer in sorted({1, 2, rows[at] // 2}):
            if 0 < fewer < rows[at]:
                yield replace(program, call=replace(call, M=(*rows[:at], fewer, *rows[at + 1 :])))
    plain = Call()
    for field in fields(Call):
        if field.name not in (ROWS, "seed"):
            yield replace(program, call=replace(call, **{field.name: getattr(plain, field.name)}))


def _modes(program: Program) -> Iterator[Program]:
    yield replace(program, body=tuple(replace(i, mode="") for i in program.body))
    for at, instruction in enumerate(program.body):
        yield replace(program, body=_changed(program.body, at, replace(instruction, mode="")))


def _changed(body: tuple[Instruction, ...], at: int, instruction: Instruction) -> tuple[Instruction, ...]:
    return (*body[:at], instruction, *body[at + 1 :])


def _arguments(program: Program) -> Iterator[Program]:
    """Leave optional operands out."""
    for at, instruction in enumerate(program.body):
        given = instruction.arguments
        if len(given) > FEWEST.get(instruction.op, len(given)):
            yield replace(program, body=_changed(program.body, at, replace(instruction, arguments=given[:-1])))
        if instruction.op == "fused":
            for place, none in ((2, "-"), (3, "-"), (4, "-"), (5, "'exact'")):
                less = (*given[:place], none, *given[place + 1 :])
                yield replace(program, body=_changed(program.body, at, replace(instruction, arguments=less)))


def _operands(program: Program) -> Iterator[Program]:
    for at, one in enumerate(program.given):
        simple: list[Given] = []
        if isinstance(one, Plain):
            simple = [replace(one, layout="compact"), replace(one, values="normal"), replace(one, grad=False)]
            simple.append(replace(one, shape=one.shape[1:]))
        elif isinstance(one, Packed):
            simple = [replace(one, format=PLAIN_FORMAT), replace(one, format=one.format.partition(":")[0] + ":channel")]
        elif isinstance(one, Net):
            simple = [
                replace(one, format=PLAIN_FORMAT),
                *(replace(one, words=one.words[:n]) for n in range(len(one.words))),
            ]
        else:
            rename = lambda name, one=one: one.of if name == one.name else name  # noqa: E731
            body = tuple(_renamed(i, rename) for i in program.body)
            yield replace(program, body=body, returns=tuple(map(rename, program.returns)))
        for other in simple:
            if other != one:
                yield replace(program, given=(*program.given[:at], other, *program.given[at + 1 :]))


def _dtypes(program: Program) -> Iterator[Program]:
    """Everything in float32."""
    given = tuple(
        one if isinstance(one, Same) or one.dtype == "i64" else replace(one, dtype="f32") for one in program.given
    )
    yield replace(program, given=given)


def _extents(program: Program) -> Iterator[Program]:
    """One extent, wherever it stands, becomes a smaller one."""
    found = {
        extent
        for one in program.given
        if not isinstance(one, Same)
        for extent in (one.sizes if isinstance(one, Net) else one.shape)
        if isinstance(extent, int)
    }
    for extent in sorted(found, reverse=True):
        for fewer in sorted({1, 2, extent // 2}):
            if 0 < fewer < extent:
                yield _with_extent(program, extent, fewer)


def _with_extent(program: Program, before: int, after: int) -> Program:
    given: list[Given] = []
    for one in program.given:
        if isinstance(one, Same):
            given.append(one)
        elif isinstance(one, Net):
            given.append(replace(one, sizes=tuple(after if size == before else size for size in one.sizes)))
        else:
            given.append(replace(one, shape=tuple(after if extent == before else extent for extent in one.shape)))
    text = lambda argument: NUMBER.sub(lambda m: str(after) if m[0] == str(before) else m[0], argument)  # noqa: E731
    body = tuple(
        replace(i, arguments=tuple(text(a) if a.startswith("[") or a.isdigit() else a for a in i.arguments))
        for i in program.body
    )
    return replace(program, given=tuple(given), body=body)


STEPS: tuple[Callable[[Program], Iterator[Program]], ...] = (
    _first_instructions,
    _without,
    _around,
    _returns,
    _calls,
    _modes,
    _arguments,
    _operands,
    _dtypes,
    _extents,
)
