"""The text form of specs: people read it, the CLI takes it, records keep it. Parsed by hand, never evaluated.

spec     := op ['{' attribute {',' attribute} '}'] '[' name ':' type {',' name ':' type} ']'
            {'+' epilogue} ['->' type] [';' numerics]
type     := (dtype | format ['@' storage]) '(' [extent {',' extent}] ')'
extent   := integer | symbol ['%' integer]
epilogue := ('bias' | 'residual') [':' dtype] | 'scale(' number ')' | activation
numerics := class ['ordered']
attribute := name ['=' literal], where a bare name means name=true
literal  := 'true' | 'false' | 'none' | integer | number | name | '"' text '"' | '(' [literal {',' literal} [',']] ')'

gemm[x: f16(M,4096), w: int4:g128(14336,4096)] + bias + silu -> f16(M,14336)
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import cast

from gridstone.ir.dtype import BY_TORCH, DTYPES, DType, dtype
from gridstone.ir.epilogue import ACTIVATIONS, Activation, Bias, Cast, Epilogue, Residual, Scale
from gridstone.ir.errors import GridstoneError, SpecError, nearest
from gridstone.ir.format import CODES, parse_format
from gridstone.ir.ops import OPS
from gridstone.ir.spec import EXACT, Numerics, NumericsClass, Op, Operand, Spec, make_spec
from gridstone.ir.storage import STORAGES
from gridstone.ir.tensor import Dim, Extent, TensorType, quantized

Literal = None | bool | int | float | str | tuple["Literal", ...]

_TOKEN = re.compile(
    r"""[ \t\r\n]*(->|[A-Za-z_][A-Za-z0-9_]*|-?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|"[^"]*"|[-+{}\[\]():,;%@=])"""
)
_SPACE = " \t\r\n"
_END = ""
_DEEPEST = 8  # tuples in a literal
_LONGEST = 18  # digits of an integer
_NAMES: dict[str, bool | None] = {"true": True, "false": False, "none": None}


class _Reader:
    """A cursor over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, int]] = []
        at, end = 0, len(text.rstrip(_SPACE))
        while at < end:
            found = _TOKEN.match(text, at)
            if found is None:
                start = end - len(text[at:end].lstrip(_SPACE))
                raise self.error(f"unexpected {text[start]!r}", start)
            self.tokens.append((found[1], found.start(1)))
            at = found.end()
        self.next = 0

    def error(self, problem: str, at: int | None = None, remedy: str = "") -> SpecError:
        """Return an error that shows the text with a caret under the offending place."""
        return SpecError(self.shown(problem, self.place(self.next) if at is None else at), remedy)

    def place(self, token: int) -> int:
        """Return the column where a token starts, from 0."""
        return self.tokens[token][1] if token < len(self.tokens) else len(self.text)

    def shown(self, problem: str, at: int) -> str:
        """Return a problem with the line that holds it and a caret under the offending place."""
        start = self.text.rfind("\n", 0, at) + 1
        line = self.text[start:].partition("\n")[0]
        return f"{problem} at column {at + 1}\n    {line}\n    {' ' * (at - start)}^"

    def unknown(self, problem: str, name: str, known: Iterable[str]) -> SpecError:
        """Return an error about the token just taken that suggests known names."""
        return self.error(f"{problem} {name!r}", self.place(self.next - 1), nearest(name, known))

    def peek(self, ahead: int = 0) -> str:
        """Return a coming token without taking it."""
        place = self.next + ahead
        return self.tokens[place][0] if place < len(self.tokens) else _END

    def take(self) -> str:
        """Take one token."""
        token = self.peek()
        if token == _END:
            raise self.error("unexpected end")
        self.next += 1
        return token

    def accept(self, token: str) -> bool:
        """Take the token if it is next."""
        if self.peek() != token:
            return False
        self.next += 1
        return True

    def expect(self, token: str) -> None:
        """Take the token or raise."""
        if not self.accept(token):
            raise self.error(f"expected {token!r}, found {self.peek() or 'the end'!r}")

    def word(self, what: str) -> str:
        """Take a name."""
        if not re.match(r"[A-Za-z_]", self.peek()):
            raise self.error(f"expected {what}, found {self.peek() or 'the end'!r}")
        return self.take()

    def integer(self) -> int:
        """Take an integer."""
        if not re.fullmatch(r"-?[0-9]+", self.peek()):
            raise self.error(f"expected an integer, found {self.peek() or 'the end'!r}")
        if len(self.peek()) > _LONGEST:
            raise self.error(f"the integer has more than {_LONGEST} digits")
        return int(self.take())

    def number(self) -> float:
        """Take a number."""
        try:
            value = float(self.peek())
        except ValueError:
            raise self.error(f"expected a number, found {self.peek() or 'the end'!r}") from None
        self.next += 1
        return value


def _extent(reader: _Reader) -> Extent:
    if re.match(r"[A-Za-z_]", reader.peek()):
        name = reader.take()
        return Dim(name, reader.integer()) if reader.accept("%") else Dim(name)
    value = reader.integer()
    if value < 0:
        raise reader.error(f"negative extent {value}", reader.place(reader.next - 1))
    return value


def _type(reader: _Reader) -> TensorType:
    at = reader.next
    head = reader.word("a dtype or a format")
    parts = [head]
    while reader.accept(":"):
        parts.append(reader.word("a part of a format"))
    place = ""
    if reader.accept("@"):
        place = reader.word("a storage")
        if place not in STORAGES:
            raise reader.unknown("unknown storage", place, STORAGES)
    reader.expect("(")
    extents: list[Extent] = []
    while not reader.accept(")"):
        if extents:
            reader.expect(",")
        extents.append(_extent(reader))
    if place and len(parts) == 1 and head not in CODES:
        raise reader.error(f"a plain {head} tensor has no storage {place!r}", reader.place(at))
    try:
        if len(parts) > 1 or head in CODES:
            return quantized(parse_format(":".join(parts)), tuple(extents), place)
        return TensorType(dtype(head), tuple(extents))
    except GridstoneError as error:
        raise type(error)(reader.shown(error.problem, reader.place(at)), error.remedy) from None


def _literal(reader: _Reader, depth: int = 0) -> Literal:
    token = reader.peek()
    if token == "(":
        if depth == _DEEPEST:
            raise reader.error(f"tuples are nested more than {_DEEPEST} deep")
        reader.take()
        items: list[Literal] = []
        while not reader.accept(")"):
            if items:
                reader.expect(",")
                if reader.accept(")"):
                    break
            items.append(_literal(reader, depth + 1))
        return tuple(items)
    if re.match(r"[A-Za-z_]", token):
        reader.take()
        return _NAMES.get(token, token)
    if token[:1] == '"':
        return reader.take()[1:-1]
    if re.fullmatch(r"-?[0-9]+", token):
        return reader.integer()
    return reader.number()


def _show(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, tuple):
        items = [_show(item) for item in cast("tuple[object, ...]", value)]
        return "(" + ",".join(items) + ("," if len(items) == 1 else "") + ")"
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value) and value not in _NAMES
        return value if plain else f'"{value}"'
    return repr(value)


def _op(reader: _Reader) -> Op:
    name = reader.word("an op")
    if name not in OPS:
        raise reader.unknown("unknown op", name, OPS)
    kind = OPS[name]
    fields = [field.name for field in dataclasses.fields(kind)]  # pyright: ignore[reportArgumentType]
    attributes: dict[str, Literal] = {}
    if reader.accept("{"):
        while not reader.accept("}"):
            if attributes:
                reader.expect(",")
            field = reader.word("an attribute")
            if not fields:
                raise reader.error(f"{name} has no attributes", reader.place(reader.next - 1))
            if field not in fields:
                raise reader.unknown(f"{name} has no attribute", field, fields)
            if field in attributes:
                raise reader.error(f"attribute {field!r} is given twice", reader.place(reader.next - 1))
            attributes[field] = _literal(reader) if reader.accept("=") else True
    return kind(**attributes)


def _dtype(reader: _Reader) -> DType:
    name = reader.word("a dtype")
    if name not in DTYPES and name not in BY_TORCH:
        raise reader.unknown("unknown dtype", name, DTYPES)
    return dtype(name)


def _epilogue(reader: _Reader, output: DType) -> Epilogue:
    name = reader.word("an epilogue")
    if name in ("bias", "residual"):
        of = _dtype(reader) if reader.accept(":") else output
        return Bias(of) if name == "bias" else Residual(of)
    if name == "scale":
        reader.expect("(")
        factor = reader.number()
        reader.expect(")")
        return Scale(factor)
    if name not in ACTIVATIONS:
        raise reader.unknown("unknown epilogue", name, ["bias", "residual", "scale", *ACTIVATIONS])
    return Activation(name)


def parse_type(text: str) -> TensorType:
    """Parse the text form of one tensor type, such as `bf16(M,256)` or `int4:g128@lane16(64,256)`."""
    reader = _Reader(text)
    found = _type(reader)
    if reader.peek() != _END:
        raise reader.error(f"unexpected {reader.peek()!r}")
    return found


def parse_spec(text: str) -> Spec:
    """Parse and verify the text form of a spec.

    Raises:
        SpecError, FormatError: With the column, and the nearest names where a name is unknown.

    >>> print_spec(parse_spec("gemm[x: bf16(M,256), w: int4:g128(64,256)]+bias+silu"))
    'gemm[x: bf16(M,256), w: int4:g128(64,256)] + bias + silu -> bf16(M,64)'
    """
    reader = _Reader(text)
    op = _op(reader)
    reader.expect("[")
    inputs: list[Operand] = []
    while not reader.accept("]"):
        if inputs:
            reader.expect(",")
        name = reader.word("an operand's name")
        reader.expect(":")
        inputs.append(Operand(name, _type(reader)))
    plain = make_spec(op, tuple(inputs))
    start = reader.next
    stated = _stated_output(reader)
    reader.next = start
    output = stated.dtype if stated else plain.output.dtype
    steps: list[Epilogue] = []
    while reader.accept("+"):
        steps.append(_epilogue(reader, output))
    if reader.accept("->"):
        _type(reader)
    if output != plain.output.dtype:
        steps.append(Cast(output))
    numerics = _numerics(reader) if reader.accept(";") else EXACT
    if reader.peek() != _END:
        raise reader.error(f"unexpected {reader.peek()!r}")
    spec = make_spec(op, plain.inputs, tuple(steps), numerics)
    if stated is not None and stated != spec.output:
        raise SpecError(f"the stated output {stated} is not what {op.name} gives", f"write -> {spec.output} or omit it")
    return spec


def _stated_output(reader: _Reader) -> TensorType | None:
    while reader.peek() not in ("->", ";", _END):
        reader.next += 1
    return _type(reader) if reader.accept("->") else None


def _numerics(reader: _Reader) -> Numerics:
    name = reader.word("a numerics class")
    classes = {kind.value: kind for kind in NumericsClass}
    if name not in classes:
        raise reader.unknown("unknown numerics class", name, classes)
    return Numerics(classes[name], reader.accept("ordered"))


def print_epilogue(step: Epilogue, output: DType) -> str:
    """Return the text of one epilogue; the dtype of an operand is omitted when it is the output's."""
    match step:
        case Bias(of) | Residual(of):
            return step.operand if of == output else f"{step.operand}:{of}"
        case Scale(factor):
            return f"scale({float(factor)!r})"
        case Activation(name):
            return name
        case Cast():
            return ""


def print_spec(spec: Spec) -> str:
    """Return the text form of a spec, which `parse_spec` reads back to an equal one."""
    fields = dataclasses.fields(spec.op)  # pyright: ignore[reportArgumentType]
    shown = [f"{f.name}={_show(getattr(spec.op, f.name))}" for f in fields if getattr(spec.op, f.name) != f.default]
    attributes = "{" + ",".join(shown) + "}" if shown else ""
    operands = ", ".join(f"{operand.name}: {operand.type}" for operand in spec.inputs)
    steps = [print_epilogue(step, spec.output.dtype) for step in spec.epilogue]
    text = " + ".join([f"{spec.op.name}{attributes}[{operands}]", *filter(None, steps)])
    tail = "" if spec.numerics == EXACT else f"; {spec.numerics}"
    return f"{text} -> {spec.output}{tail}"
