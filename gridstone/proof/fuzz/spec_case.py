"""Specs as plain structs, and variations of the samples that every op brings.

The printed form of a spec is what is tried here, so a case cannot be that: what the printer loses, nobody would miss.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from gridstone.ir.dtype import DTYPES, dtype
from gridstone.ir.epilogue import ACTIVATIONS, Activation, Bias, Cast, Epilogue, Residual, Scale
from gridstone.ir.errors import GridstoneError
from gridstone.ir.format import CHANNEL, CODES, GROUPS, SCALES, Format
from gridstone.ir.ops import OPS
from gridstone.ir.spec import Numerics, NumericsClass, Op, Operand, Spec, make_spec
from gridstone.ir.storage import STORAGES
from gridstone.ir.tensor import Dim, Extent, TensorType, quantized
from gridstone.ir.text import parse_spec
from gridstone.proof.fuzz.hypothesis_law import Choose
from gridstone.proof.fuzz.subject import Wanted

VARIATIONS = 6  # of a sample, at most
EXTENTS = (1, 2, 3, 4, 5, 7, 8, 16, 17, 31, 32, 33, 48, 64, 100, 128, 255, 256, 257, 512, 768, 1024, 10**6, 10**17)

FORMATS = tuple(
    Format(code, group, scale, zero)
    for code in CODES.values()
    for group in (CHANNEL, *GROUPS)
    for scale in SCALES.values()
    for zero in (False, True)
)

Attribute = None | bool | int | float | str | tuple[int | None, ...]


class Symbol(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A symbolic extent."""

    name: str
    multiple_of: int


class FormatCase(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A format."""

    code: str
    group: int
    scale: str = "f16"
    zero: bool = False


class TypeCase(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A tensor type: plain of a dtype, or quantised with a format and a storage."""

    shape: tuple[int | Symbol, ...]
    dtype: str = ""
    format: FormatCase | None = None
    storage: str = ""


class Step(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An epilogue: the name of its class, and its dtype, factor or activation."""

    kind: str
    value: str | float


class SpecCase(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A spec. Its operands' names are those that its op has."""

    op: str
    inputs: tuple[TypeCase, ...]
    attributes: dict[str, Attribute] = {}
    epilogue: tuple[Step, ...] = ()
    numerics: str = "exact"
    ordered: bool = False


def format_of(case: FormatCase) -> Format:
    """Return the format of a case."""
    return Format(CODES[case.code], case.group, SCALES[case.scale], case.zero)


def type_of(case: TypeCase) -> TensorType:
    """Return the tensor type of a case."""
    shape = tuple(Dim(e.name, e.multiple_of) if isinstance(e, Symbol) else e for e in case.shape)
    if case.format is None:
        return TensorType(dtype(case.dtype), shape)
    return quantized(format_of(case.format), shape, case.storage)


def spec_of(case: SpecCase) -> Spec:
    """Return the spec of a case."""
    op = OPS[case.op](**case.attributes)
    inputs = tuple(Operand(name, type_of(of)) for name, of in zip(op.operands, case.inputs, strict=True))
    return make_spec(
        op, inputs, tuple(map(_step_of, case.epilogue)), Numerics(NumericsClass(case.numerics), case.ordered)
    )


def _step_of(step: Step) -> Epilogue:
    match step.kind:
        case "bias" | "residual" | "cast":
            return {"bias": Bias, "residual": Residual, "cast": Cast}[step.kind](dtype(str(step.value)))
        case "scale":
            return Scale(float(step.value))
        case _:
            return Activation(str(step.value))


def format_case(fmt: Format) -> FormatCase:
    """Return the case of a format."""
    return FormatCase(fmt.code.name, fmt.group, fmt.scale.name, fmt.zero)


def spec_case(spec: Spec) -> SpecCase:
    """Return the case of a spec."""
    given = [(field, getattr(spec.op, field.name)) for field in _fields(spec.op)]
    attributes = {field.name: value for field, value in given if value != field.default}
    steps = tuple(map(_step_case, spec.epilogue))
    inputs = tuple(type_case(operand.type) for operand in spec.inputs)
    return SpecCase(spec.op.name, inputs, attributes, steps, spec.numerics.kind.value, spec.numerics.ordered)


def type_case(of: TensorType) -> TypeCase:
    """Return the case of a tensor type."""
    shape = tuple(Symbol(e.name, e.multiple_of) if isinstance(e, Dim) else e for e in of.shape)
    if of.format is None:
        return TypeCase(shape, of.dtype.name)
    return TypeCase(shape, format=format_case(of.format), storage=of.storage)


def _step_case(step: Epilogue) -> Step:
    match step:
        case Scale(factor):
            return Step("scale", float(factor))
        case Activation(name):
            return Step("activation", name)
        case Bias(of) | Residual(of) | Cast(of):
            return Step(type(step).__name__.lower(), of.name)


def draw_format(choose: Choose, wanted: Wanted) -> Format:
    """Choose any format that is wanted."""
    return choose.one([fmt for fmt in FORMATS if wanted.takes_format(fmt.name)] if wanted.formats else FORMATS)


def draw_spec(choose: Choose, wanted: Wanted) -> Spec:
    """Vary a sample of a wanted op: formats, extents, dtypes, attributes, epilogues, numerics.

    A variation that the op refuses is left out, so that what is drawn is legal whatever the op.
    """
    spec = choose.one([spec for spec in samples() if wanted.takes_op(spec.op.name)])
    if wanted.formats:
        spec = _with_format(choose, wanted, spec)
        choose.require(any(o.type.format and wanted.takes_format(o.type.format.name) for o in spec.inputs))
    for _ in range(choose.integer(0, VARIATIONS)):
        with contextlib.suppress(GridstoneError):
            spec = choose.one(_VARIATIONS)(choose, wanted, spec)
    return spec


@functools.cache
def samples() -> tuple[Spec, ...]:
    """Return the samples of every op."""
    return tuple(parse_spec(text) for kind in OPS.values() for text in kind().samples())


def _remade(spec: Spec, change: Callable[[TensorType], TensorType]) -> Spec:
    inputs = tuple(Operand(operand.name, change(operand.type)) for operand in spec.inputs)
    return make_spec(spec.op, inputs, spec.epilogue, spec.numerics)


def _resized(spec: Spec, old: Extent, new: Extent) -> Spec:
    """Put another extent everywhere in the place of one."""
    return _remade(spec, lambda of: dataclasses.replace(of, shape=tuple(new if e == old else e for e in of.shape)))


def _with_format(choose: Choose, wanted: Wanted, spec: Spec) -> Spec:
    """Give the quantised operands another format, and a K that fits it."""
    fmt = draw_format(choose, wanted)
    for operand in spec.inputs:
        if operand.type.format and fmt.group != CHANNEL and operand.type.static(1) % fmt.group:
            spec = _remade(spec, lambda of: dataclasses.replace(of, format=_by_row(of.format)))
            spec = _resized(spec, operand.type.shape[1], fmt.group * choose.integer(1, 3))
    return _remade(spec, lambda of: quantized(fmt, of.shape, of.storage) if of.format else of)


def _by_row(fmt: Format | None) -> Format | None:
    """Return a format of one group a row, which fits any K."""
    return dataclasses.replace(fmt, group=CHANNEL) if fmt else None


def _with_storage(choose: Choose, wanted: Wanted, spec: Spec) -> Spec:
    place = choose.one(["", *STORAGES])
    return _remade(spec, lambda of: dataclasses.replace(of, storage=place) if of.format else of)


def _with_extent(choose: Choose, wanted: Wanted, spec: Spec) -> Spec:
    old = choose.one([extent for operand in spec.inputs for extent in operand.type.shape])
    symbol = Dim(choose.one(["M", "N", "B", "S2", "_", "true", "bias"]), choose.one([1, 2, 8, 64]))
    return _resized(spec, old, choose.one([*EXTENTS, symbol]))


def _with_dtype(choose: Choose, wanted: Wanted, spec: Spec) -> Spec:
    old = choose.one([operand.type.dtype for operand in spec.inputs if operand.type.format is None])
    new = choose.one(list(DTYPES.values()))
    return _remade(spec, lambda of: dataclasses.replace(of, dtype=new) if of.format is None and of.dtype == old else of)


def _with_attribute(choose: Choose, wanted: Wanted, spec: Spec) -> Spec:
    field = choose.one(_fields(spec.op))
    seen = [getattr(other.op, field.name) for other in samples() if type(other.op) is type(spec.op)]
    value = _another(choose, choose.one(seen))
    op: Op = dataclasses.replace(spec.op, **{field.name: value})  # pyright: ignore[reportArgumentType]
    given = {operand.name: operand for operand in spec.inputs}  # an attribute may bring operands
    inputs = tuple(given.get(name, Operand(name, spec.inputs[0].type)) for name in op.operands)
    return make_spec(op, inputs, spec.epilogue, spec.numerics)


def _another(choose: Choose, value: Attribute) -> Attribute:
    match value:
        case bool():
            return choose.flag()
        case int():
            return choose.integer(0, 10**17)
        case float():
            return choose.one([value, 1.0, -1.0, choose.real()])
        case tuple():
            return tuple(choose.one([item, None, choose.integer(0, 999)]) for item in value)
        case _:
            return value


def _with_epilogue(choose: Choose, wanted: Wanted, spec: Spec) -> Spec:
    of = choose.one(list(DTYPES.values()))
    step = choose.one(
        [Bias(of), Residual(of), Cast(of), Scale(choose.real()), *(Activation(name) for name in ACTIVATIONS)]
    )
    at = choose.integer(0, len(spec.epilogue))
    return make_spec(spec.op, spec.inputs, (*spec.epilogue[:at], step, *spec.epilogue[at:]), spec.numerics)


def _with_numerics(choose: Choose, wanted: Wanted, spec: Spec) -> Spec:
    return make_spec(spec.op, spec.inputs, spec.epilogue, Numerics(choose.one(list(NumericsClass)), choose.flag()))


_VARIATIONS = (
    _with_epilogue,
    _with_extent,
    _with_attribute,
    _with_numerics,
    _with_storage,
    _with_format,
    _with_dtype,
)


def _fields(op: Op) -> Sequence[dataclasses.Field[Any]]:
    return dataclasses.fields(op)  # pyright: ignore[reportArgumentType]
