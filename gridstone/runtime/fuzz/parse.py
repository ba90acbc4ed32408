"""Parsing the printed form of programs. What parses can be run, or raises in eager mode as any program may."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Collection
from dataclasses import fields, replace

from gridstone.ir.errors import SpecError, nearest
from gridstone.ir.format import parse_format
from gridstone.lower.target import parse_target
from gridstone.runtime.compile import RESTS
from gridstone.runtime.fuzz.machine import FORMS, MODES, form
from gridstone.runtime.fuzz.nets import NETS, check_net
from gridstone.runtime.fuzz.operands import LAYOUTS, VALUES
from gridstone.runtime.fuzz.ops import KINDS, OPS
from gridstone.runtime.fuzz.program import (
    ROWS,
    SEPARATOR,
    Call,
    Extent,
    Given,
    Instruction,
    Net,
    Packed,
    Plain,
    Program,
    Same,
)
from gridstone.runtime.linear_key import numerics_named

MOST = 1 << 18  # elements of a tensor
LONGEST = 64  # instructions
WORDS = {
    "by": ("gridstone", "torch", "export"),
    "rest": RESTS,
    "dynamic": ("none", "true", "false"),
    "mode": tuple(MODES),
}


def parse_program(text: str) -> Program:
    """Parse the printed form of a program.

    Raises:
        SpecError: It is malformed, reads a name before it is there, or is unreasonably large.
        GridstoneError: A format or a target is malformed, as its own parser says.
    """
    parts = text.strip().split(SEPARATOR)
    if len(parts) != 4:
        raise SpecError(f"{text!r} has {len(parts)} parts", "write GIVEN | BODY | RETURNS | CALL")
    call = _call(parts[3])
    given = tuple(_given(part) for part in _split(parts[0], ";"))
    body = tuple(_instruction(part) for part in _split(parts[1], ";"))
    returns = tuple(parts[2].split())
    if len(body) > LONGEST or not returns:
        raise SpecError(f"{text!r} has {len(body)} instructions and returns {len(returns)} values")
    program = Program(given, body, returns, call)
    _check(program)
    return program


def _split(text: str, at: str) -> list[str]:
    return [part.strip() for part in text.split(at) if part.strip()]


def _check(program: Program) -> None:
    known: set[str] = set()
    weights = {one.name for one in program.given if isinstance(one, (Packed, Net))}
    for one in program.given:
        if isinstance(one, Same) and (one.of not in known or one.of in weights):
            raise SpecError(f"{one} names no tensor before it")
        if one.name in known:
            raise SpecError(f"{one.name} is given twice")
        known.add(one.name)
        if isinstance(one, Plain):
            for rows in program.call.M:
                size = math.prod(max(rows if isinstance(extent, str) else extent, 1) for extent in one.shape)
                if size > MOST:
                    raise SpecError(f"{one} has {size} elements", f"at most {MOST}")
    symbolic = program.rows() is not None
    for instruction in program.body:
        for name in instruction.reads:
            if name not in known:
                raise SpecError(f"{instruction} reads {name}, which is not there", nearest(name, known))
        if not symbolic and any(ROWS in argument for argument in instruction.arguments):
            raise SpecError(f"{instruction} uses {ROWS}, which no tensor has")
        known.update(instruction.names)
    for name in program.returns:
        if name not in known or any(name == one.name and isinstance(one, Net) for one in program.given):
            raise SpecError(f"{name} is returned, which is no value", nearest(name, known))


def _name(text: str) -> str:
    if not FORMS["name"].fullmatch(text):
        raise SpecError(f"{text!r} is no name", "a lower-case letter, and letters and digits")
    return text


def _given(text: str) -> Given:
    name, colon, rest = text.partition(": ")
    words = rest.split()
    if not colon or not words:
        raise SpecError(f"{text!r} gives nothing", "write name: type")
    _name(name)
    if words[0] == "=" and len(words) == 2:
        return Same(name, _name(words[1]))
    found = re.fullmatch(r"([a-z0-9_:]+)\(([0-9M,]*)\)", words[0])
    if not found:
        raise SpecError(f"{words[0]!r} is no type", "write f32(M,64), int4:g32(48,64) or mlp(64,32,64)")
    kind, shape = found[1], tuple(_extent(part) for part in found[2].split(",") if part)
    if kind in KINDS:
        return _plain(name, kind, shape, words[1:])
    sizes = tuple(extent for extent in shape if isinstance(extent, int))
    if len(sizes) != len(shape):
        raise SpecError(f"only a plain tensor may have an extent {ROWS}, not {words[0]}")
    if ":" in kind and len(words) == 2 and len(sizes) == 2:
        fmt = parse_format(kind)
        fmt.check(*sizes)
        return Packed(name, str(fmt), sizes, _one_of(words[1], FLOATS, "dtype"))
    if kind not in NETS or len(words) < 3:
        raise SpecError(f"{text!r} is no weight and no module", nearest(kind, NETS))
    net = Net(name, kind, sizes, str(parse_format(words[1])), _one_of(words[2], FLOATS, "dtype"), tuple(words[3:]))
    check_net(net)
    return net


FLOATS = tuple(kind for kind in KINDS if kind != "i64")


def _extent(text: str) -> Extent:
    if text == ROWS:
        return text
    if not re.fullmatch(r"[0-9]{1,6}", text):
        raise SpecError(f"{text!r} is no extent")
    return int(text)


def _plain(name: str, kind: str, shape: tuple[Extent, ...], words: list[str]) -> Plain:
    plain = Plain(name, kind, shape)
    for word in words:
        if word in LAYOUTS:
            plain = replace(plain, layout=word)
        elif word in VALUES:
            plain = replace(plain, values=word)
        elif word == "grad" and kind != "i64":
            plain = replace(plain, grad=True)
        else:
            raise SpecError(f"{name}: unknown word {word!r}", nearest(word, (*LAYOUTS, *VALUES, "grad")))
    return plain


def _one_of(word: str, known: Collection[str], what: str) -> str:
    if word not in known:
        raise SpecError(f"unknown {what} {word!r}", nearest(word, known))
    return word


def _instruction(text: str) -> Instruction:
    left, equals, right = text.partition(" = ")
    head, _, mode = right.partition(" @")
    words = head.split()
    if not equals or not words:
        raise SpecError(f"{text!r} is no instruction", "write name = op arguments")
    if mode:
        _one_of(mode, MODES, "mode")
    op, arguments = _one_of(words[0], OPS, "op"), tuple(words[1:])
    for argument in arguments:
        if not form(argument):
            raise SpecError(f"{argument!r} is no argument, in {text!r}")
    try:
        inspect.signature(OPS[op]).bind(*arguments)
    except TypeError as error:
        raise SpecError(f"{text!r}: {error}") from error
    return Instruction(tuple(_name(name) for name in _split(left, ",")), op, arguments, mode)


def _call(text: str) -> Call:
    call = Call()
    known = {f.name: getattr(call, f.name) for f in fields(Call)}
    for part in text.split():
        name, equals, value = part.partition("=")
        if not equals or name not in known:
            raise SpecError(f"unknown part {part!r} of a call", nearest(name, known))
        call = replace(call, **{name: _value(name, value, known[name])})
    return call


def _value(name: str, text: str, like: object) -> object:
    if name == ROWS:
        found = tuple(_extent(part) for part in text.split(","))
        if len(found) > 8 or ROWS in found:
            raise SpecError(f"{ROWS}={text} is no list of at most 8 numbers")
        return found
    if isinstance(like, bool):
        return _one_of(text, ("true", "false"), name) == "true"
    if isinstance(like, int):
        return _extent(text)
    if name in WORDS:
        return _one_of(text, WORDS[name], name)
    if name == "numerics":
        numerics_named(text)
    elif text != "auto":
        parse_target(text)
    return text
