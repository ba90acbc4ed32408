"""Spec: what is computed. Hashable, printable, free of any tile size.

An op is a frozen dataclass of attributes with the methods of the `Op` protocol; `Spec` joins it with the types of its
operands, its epilogues and its numerics class.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar, Protocol

from gridstone.ir.dtype import DType, Values
from gridstone.ir.epilogue import Bias, Cast, Epilogue, Residual
from gridstone.ir.errors import SpecError
from gridstone.ir.tensor import Dim, Extent, TensorType


class NumericsClass(Enum):
    """How operands may be rounded before they are multiplied. A class is never left without being asked."""

    EXACT = "exact"  # decoded operands in the activations' dtype, float32 accumulation
    TF32 = "tf32"  # operands rounded to 10 explicit bits
    BF16 = "bf16"  # operands rounded to bf16
    INT8_ACT = "int8_act"  # activations quantised to int8 on the fly
    FP8_ACT = "fp8_act"  # activations quantised to fp8 on the fly

    @property
    def quantises_activations(self) -> bool:
        """Whether activations lose more than a floating-point type's precision."""
        return self in (NumericsClass.INT8_ACT, NumericsClass.FP8_ACT)


@dataclass(frozen=True, slots=True)
class Numerics:
    """The numerics class, and whether the order of every reduction is fixed (bit-equal results from run to run)."""

    kind: NumericsClass = NumericsClass.EXACT
    ordered: bool = False

    def __str__(self) -> str:
        return self.kind.value + (" ordered" if self.ordered else "")


EXACT = Numerics()


@dataclass(frozen=True, slots=True)
class Operand:
    """A named input."""

    name: str
    type: TensorType


@dataclass(frozen=True, slots=True)
class Cost:
    """What any kernel for a spec must move and compute, whatever its schedule.

    Args:
        bytes: Compulsory traffic: each input read once, each output written once.
        flops: Multiplications and additions.
    """

    bytes: int
    flops: int

    def floor(self, bandwidth: float, peak: float) -> float:
        """Return the roofline's lower bound in seconds for bytes/s and flop/s."""
        return max(self.bytes / bandwidth, self.flops / peak)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a kernel's output may lie from the float64 reference.

    Args:
        element: Bound on the absolute error of every output element (the output's shape).
        rms: Bound on the root mean square of the error over the whole output. Tighter than the mean of `element`,
            because independent roundings average out and a missing term does not.
    """

    element: Values
    rms: float


@dataclass(frozen=True, slots=True)
class BadSample:
    """Input that must be refused: its text, and a fragment that the error message must hold."""

    text: str
    message: str


class Op(Protocol):
    """What a file of `ops/` provides."""

    name: ClassVar[str]

    @property
    def operands(self) -> tuple[str, ...]:
        """Names of the operands in order; attributes may add some."""
        ...

    def infer(self, types: tuple[TensorType, ...]) -> TensorType:
        """Return the type of the output before any cast; raise SpecError when the operands do not fit together."""
        ...

    def verify(self, spec: Spec) -> None:
        """Raise SpecError when attributes, epilogues or numerics do not fit."""
        ...

    def cost(self, spec: Spec) -> Cost:
        """Return compulsory bytes and flops of a static spec."""
        ...

    def reference(self, spec: Spec, operands: Mapping[str, Values]) -> Values:
        """Return the float64 output, epilogues included, unrounded. `operands` are decoded values by name."""
        ...

    def tolerance(self, spec: Spec, operands: Mapping[str, Values]) -> Tolerance:
        """Return the error bound for these operands."""
        ...

    def samples(self) -> Iterator[str]:
        """Yield texts of specs that cover shapes, dtypes and attribute corners."""
        ...

    def bad_samples(self) -> Iterator[BadSample]:
        """Yield texts that must be refused."""
        ...


@dataclass(frozen=True, slots=True)
class Spec:
    """What is computed. Make one with `make_spec` or `text.parse_spec`, which infer the output and verify."""

    op: Op
    inputs: tuple[Operand, ...]
    output: TensorType
    epilogue: tuple[Epilogue, ...] = ()
    numerics: Numerics = EXACT

    def input(self, name: str) -> TensorType:
        """Return the type of an operand; SpecError when there is none of this name."""
        for operand in self.inputs:
            if operand.name == name:
                return operand.type
        raise SpecError(f"{self.op.name} has no operand {name!r}", f"it has {', '.join(o.name for o in self.inputs)}")

    @property
    def dims(self) -> tuple[Dim, ...]:
        """Symbolic extents, in order of appearance."""
        found = [e for operand in self.inputs for e in operand.type.shape if isinstance(e, Dim)]
        return tuple(dict.fromkeys(found))

    def bind(self, **values: int) -> Spec:
        """Return the spec with symbolic extents replaced by numbers.

        Raises:
            SpecError: A value is not a multiple of what its symbol promises.
        """

        def bound(extent: Extent) -> Extent:
            if not isinstance(extent, Dim) or extent.name not in values:
                return extent
            if values[extent.name] % extent.multiple_of:
                raise SpecError(f"{extent.name}={values[extent.name]} is not a multiple of {extent.multiple_of}")
            return values[extent.name]

        inputs = tuple(Operand(o.name, replace(o.type, shape=tuple(map(bound, o.type.shape)))) for o in self.inputs)
        return make_spec(self.op, inputs, self.epilogue, self.numerics)

    def with_storage(self, name: str) -> Spec:
        """Return the spec with every quantised operand of native storage stored as `name`."""
        inputs = tuple(
            Operand(o.name, replace(o.type, storage=name)) if o.type.format and not o.type.storage else o
            for o in self.inputs
        )
        return replace(self, inputs=inputs)

    @property
    def extra_operands(self) -> tuple[Operand, ...]:
        """Operands that the epilogues bring."""
        extras: list[Operand] = []
        for step in self.epilogue:
            if isinstance(step, Bias):
                extras.append(Operand(step.operand, TensorType(step.dtype, self.output.shape[-1:])))
            elif isinstance(step, Residual):
                extras.append(Operand(step.operand, TensorType(step.dtype, self.output.shape)))
        return tuple(extras)


def make_spec(
    op: Op, inputs: tuple[Operand, ...], epilogue: tuple[Epilogue, ...] = (), numerics: Numerics = EXACT
) -> Spec:
    """Infer the output, verify, and return the spec. A cast to the output's own dtype is left out.

    Raises:
        SpecError: Operands, epilogues or numerics do not fit together.
    """
    names = tuple(operand.name for operand in inputs)
    if names != op.operands:
        wanted = ", ".join(op.operands)
        raise SpecError(f"{op.name} takes operands {wanted}, not {', '.join(names)}", f"write {wanted}, in this order")
    for step, later in itertools.pairwise(epilogue):
        if isinstance(step, Cast):
            raise SpecError(f"a cast to {step.dtype} is followed by {type(later).__name__.lower()}", "cast last")
    for kind in (Bias, Residual):
        if sum(isinstance(step, kind) for step in epilogue) > 1:
            raise SpecError(f"two {kind.__name__.lower()} epilogues", "add the second to the first beforehand")
    output = op.infer(tuple(operand.type for operand in inputs))
    match epilogue:
        case (*steps, Cast(of)) if of == output.dtype:  # nothing to do, and no text would say so
            epilogue = tuple(steps)
        case (*_, Cast(of)):
            output = replace(output, dtype=of)
        case _:
            pass
    spec = Spec(op, inputs, output, epilogue, numerics)
    op.verify(spec)
    return spec


def operand_dtypes(spec: Spec) -> dict[str, DType]:
    """Return the dtype of every plain (not quantised) operand by name, epilogue operands included."""
    return {o.name: o.type.dtype for o in (*spec.inputs, *spec.extra_operands) if o.type.format is None}
