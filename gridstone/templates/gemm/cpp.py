"""What the C++ gemm recipes share: their parameters, and which products the host's instructions allow."""

from __future__ import annotations

from typing import Protocol

from gridstone.ir.dtype import bf16, f16, f32
from gridstone.ir.spec import NumericsClass, Spec
from gridstone.lower.schedule import Choice, Constraint
from gridstone.lower.target import Language, Target
from gridstone.templates.source import Launch, Param, ParamKind

BITS = (4, 8)
FLOATS = (f32, bf16, f16)
PARAMS = (
    Param(ParamKind.POINTER, "x"),
    Param(ParamKind.STRIDE, "x"),
    Param(ParamKind.POINTER, "w"),
    Param(ParamKind.POINTER, "bias"),
    Param(ParamKind.POINTER, "residual"),
    Param(ParamKind.STRIDE, "residual"),
    Param(ParamKind.POINTER, "y"),
    Param(ParamKind.STRIDE, "y"),
    Param(ParamKind.ROWS, "x"),
    Param(ParamKind.THREADS),
    Param(ParamKind.SCRATCH),
)
LAUNCH = Launch("gs_gemm_scratch", deterministic=True)
DOT = Choice("dot", ("bf16", "f32"))
PREFETCH = Choice("prefetch", (2048, 4096, 8192, 16384))


class HasDot(Protocol):
    """A schedule that chooses the product of its inner loop."""

    @property
    def dot(self) -> str:
        """`bf16` or `f32`."""
        ...


def bf16_dot_keeps(spec: Spec, target: Target) -> bool:
    """Return whether bf16 products are allowed: the target has them, and rounding x to bf16 loses nothing promised."""
    exact = spec.input("x").dtype == bf16 or spec.numerics.kind is NumericsClass.BF16
    return target.bf16_flops > 0 and exact


def dot_is_allowed(schedule: HasDot, spec: Spec, target: Target) -> bool:
    """The named constraint `the dot product keeps the numerics class`."""
    return schedule.dot == "f32" or bf16_dot_keeps(spec, target)


DOT_ALLOWED: Constraint[HasDot] = Constraint("the dot product keeps the numerics class", ("dot",), dot_is_allowed)


def default_dot(spec: Spec, target: Target) -> str:
    """Return the faster product that is allowed."""
    return "bf16" if bf16_dot_keeps(spec, target) else "f32"


def lanes(target: Target, dot: str) -> int:
    """Return the float32 lanes of the vectors that a dot product works on."""
    return 16 if dot == "bf16" else target.vector_bits // 32


def refuses(spec: Spec, target: Target) -> str | None:
    """Return why no C++ gemm recipe computes a spec, or None."""
    w = spec.input("w")
    if target.language is not Language.CPP:
        return f"{target} is not a C++ target"
    for operand in (*spec.inputs, *spec.extra_operands):
        if operand.type.dtype not in FLOATS:
            return f"{operand.name} is {operand.type.dtype}; the C++ recipes read {', '.join(map(str, FLOATS))}"
    if w.format is None:
        return f"the weight is a plain {w.dtype} matrix; the C++ recipes multiply with quantised weights"
    if w.format.bits not in BITS:
        return f"codes of {w.format.bits} bits; the C++ recipes decode {' and '.join(map(str, BITS))} bits"
    if w.storage not in ("", target.storage):
        return f"the weight is stored as {w.storage}; the C++ recipes read {target.storage}"
    if spec.numerics.kind not in (NumericsClass.EXACT, NumericsClass.BF16, NumericsClass.TF32):
        return f"numerics {spec.numerics.kind.value} are not implemented in C++"
    if spec.output.dtype not in (spec.input("x").dtype, f32):
        return f"an output of {spec.output.dtype} for activations of {spec.input('x').dtype}"
    return None
