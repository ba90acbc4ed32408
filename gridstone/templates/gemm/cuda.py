"""What the CUDA gemm recipes share: their parameters, and what they refuse."""

from __future__ import annotations

from gridstone.ir.dtype import bf16, f16, f32
from gridstone.ir.spec import NumericsClass, Spec
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
    Param(ParamKind.PARTS),
    Param(ParamKind.TICKETS),
)
LAUNCH = Launch("", deterministic=True)


def refuses(spec: Spec, target: Target) -> str | None:
    """Return why no CUDA gemm recipe computes a spec, or None."""
    w = spec.input("w")
    if target.language is not Language.CUDA:
        return f"{target} is not a CUDA target"
    for operand in (*spec.inputs, *spec.extra_operands):
        if operand.type.dtype not in FLOATS:
            return f"{operand.name} is {operand.type.dtype}; the CUDA recipes read {', '.join(map(str, FLOATS))}"
    if w.format is None:
        return f"the weight is a plain {w.dtype} matrix; the CUDA recipes multiply with quantised weights"
    if w.format.bits not in BITS:
        return f"codes of {w.format.bits} bits; the CUDA recipes decode {' and '.join(map(str, BITS))} bits"
    if w.storage not in ("", target.storage):
        return f"the weight is stored as {w.storage}; the CUDA recipes read {target.storage}"
    if spec.numerics.kind not in (NumericsClass.EXACT, NumericsClass.BF16, NumericsClass.TF32):
        return f"numerics {spec.numerics.kind.value} are not implemented in CUDA"
    if spec.output.dtype not in (spec.input("x").dtype, f32):
        return f"an output of {spec.output.dtype} for activations of {spec.input('x').dtype}"
    return None


def refuses_tensor_core(spec: Spec, target: Target) -> str | None:
    """Return why the tensor cores cannot compute a spec, or None: they multiply operands of 16 bits."""
    x = spec.input("x").dtype
    if x == f32 and spec.numerics.kind is not NumericsClass.BF16:
        return "float32 activations lose bits in the tensor cores; ask for numerics bf16 if that is meant"
    return refuses(spec, target)
