"""gemm: y[m, n] = sum over k of x[m, k] * w[n, k]. The weight is (N, K) as in `torch.nn.Linear`, plain or low-bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gridstone.ir.dtype import Values
from gridstone.ir.epilogue import apply
from gridstone.ir.errors import SpecError
from gridstone.ir.rounding import EXTRA_TERMS, compute_unit, contraction, operand_unit, tolerance
from gridstone.ir.spec import BadSample, Cost, NumericsClass, Spec, Tolerance
from gridstone.ir.storage import storage
from gridstone.ir.tensor import TensorType


@dataclass(frozen=True, slots=True)
class Gemm:
    """A matrix product with a transposed second operand."""

    name: ClassVar[str] = "gemm"

    @property
    def operands(self) -> tuple[str, ...]:
        """Activations x and weight w."""
        return ("x", "w")

    def infer(self, types: tuple[TensorType, ...]) -> TensorType:
        """x: (M, K), w: (N, K) -> (M, N) in x's dtype."""
        x, w = types
        if len(x.shape) != 2 or len(w.shape) != 2:
            raise SpecError(f"gemm takes x of (M, K) and w of (N, K), not {x} and {w}", "flatten leading dimensions")
        if not x.dtype.is_float or x.format is not None:
            raise SpecError(f"gemm takes floating-point activations, not {x}", "cast x to f32, bf16 or f16")
        if w.format is None and w.dtype != x.dtype:
            raise SpecError(f"a plain weight must have the activations' dtype {x.dtype}, not {w.dtype}")
        if x.shape[1] != w.shape[1]:
            raise SpecError(f"K differs: x is {x}, w is {w}", "x's last extent must equal w's last extent")
        n, k = w.static(0), w.static(1)
        if w.format is not None:
            w.format.check(n, k)
        elif n < 1 or k < 1:
            raise SpecError(f"a weight of shape ({n}, {k}) has no elements", "give N and K of at least 1")
        return TensorType(x.dtype, (x.shape[0], n))

    def verify(self, spec: Spec) -> None:
        """Refuse numerics that no gemm defines."""
        if spec.numerics.kind.quantises_activations and spec.input("w").format is None:
            raise SpecError(f"numerics {spec.numerics} need a quantised weight", "use numerics=exact")

    def cost(self, spec: Spec) -> Cost:
        """Each operand once; 2 M N K flops."""
        x, w = spec.input("x"), spec.input("w")
        m, n, k = x.static(0), w.static(0), w.static(1)
        extra = sum(o.type.plain_bytes() for o in spec.extra_operands)
        weight = storage(w.storage or "dense", w.format, n, k).bytes if w.format else w.plain_bytes()
        return Cost(x.plain_bytes() + weight + spec.output.plain_bytes() + extra, 2 * m * n * k)

    def reference(self, spec: Spec, operands: Mapping[str, Values]) -> Values:
        """float64 product and epilogues."""
        with np.errstate(invalid="ignore", over="ignore"):
            return apply(spec.epilogue, operands["x"] @ operands["w"].T, operands)

    def tolerance(self, spec: Spec, operands: Mapping[str, Values]) -> Tolerance:
        """Bound the error of any kernel that keeps the numerics class: `rounding.contraction` with K + 8 roundings.

        Operands err before they are multiplied as the class allows:

        - a quantised weight is decoded to the activations' dtype (to bf16 in `bf16`, to 10 bits in `tf32`): each
          element is rounded once, by a relative error or by half the dtype's smallest subnormal;
        - plain operands are used as they are in `exact`, and rounded likewise in the other classes;
        - `int8_act` rounds x to multiples of its row's largest magnitude / 127, hence by at most half of that;
        - `fp8_act` rounds x to e4m3 (3 explicit bits, smallest subnormal 2^-9) scaled so that its row's largest
          magnitude is 448.
        """
        x, w = operands["x"], operands["w"]
        dtype, kind = spec.input("x").dtype, spec.numerics.kind
        x_unit = w_unit = operand_unit(spec.numerics, dtype)
        with np.errstate(invalid="ignore", over="ignore"):
            largest = np.max(np.abs(x), axis=1, keepdims=True, initial=0.0)
            x_error = x_unit * np.abs(x)
            if kind is NumericsClass.INT8_ACT:
                x_unit = 0.5 / 127
                x_error = np.broadcast_to(x_unit * largest, x.shape)
            elif kind is NumericsClass.FP8_ACT:
                x_unit = 2.0**-4
                x_error = np.maximum(x_unit * np.abs(x), 2.0**-10 / 448 * largest)
            if spec.input("w").format is not None:
                w_unit = compute_unit(spec.numerics, dtype)
            element, typical = contraction(x, w, x_error, x_unit, w_unit, w.shape[1] + EXTRA_TERMS)
            if spec.input("w").format is not None:
                flushed = dtype.smallest_subnormal / 2 * np.sum(np.abs(x), axis=1, keepdims=True)
                element, typical = element + flushed, typical + flushed
            return tolerance(spec, x @ w.T, (element, typical), operands)

    def samples(self) -> Iterator[str]:
        """Weights of every width, group, scale and zero-point choice; activations of every dtype; epilogues."""
        yield "gemm[x: f32(M,64), w: f32(48,64)]"
        for dtype in ("f32", "bf16", "f16"):
            yield f"gemm[x: {dtype}(M,256), w: int4:g128(192,256)]"
            yield f"gemm[x: {dtype}(M,96), w: uint4:g32:zero(100,96)]"
            yield f"gemm[x: {dtype}(M,80), w: int8:g16:bf16(64,80)]"
        yield "gemm[x: f32(M,384), w: uint4:g32:f32:zero(384,384)] + bias + gelu"
        yield "gemm[x: bf16(M,512), w: int4:g256(70,512)] + bias + silu"
        yield "gemm[x: bf16(M,256), w: int4:g64(130,256)] + bias + residual -> f32(M,130)"
        yield "gemm[x: bf16(M,128), w: int4:g128(64,128)] + scale(0.5) + relu; bf16"
        yield "gemm[x: f32(M,250), w: int4:channel:f32(90,250)] + gelu_tanh"
        yield "gemm[x: f32(M,77), w: int8:channel(33,77)]"
        yield "gemm[x: bf16(M,128), w: uint8:g64:zero(64,128)]; bf16 ordered"

    def bad_samples(self) -> Iterator[BadSample]:
        """Each with a fragment of the message."""
        yield BadSample("gemm[x: f32(M,100), w: int4:g32(64,100)]", "K=100 is not a multiple of the group size 32")
        yield BadSample("gemm[x: i32(M,64), w: int4:g32(64,64)]", "floating-point activations")
        yield BadSample("gemm[x: f32(M,64), w: int4:g32(64,96)]", "K differs")
        yield BadSample("gemm[x: f32(M,64), w: int4:g32(0,64)]", "has no elements")
        yield BadSample("gemm[x: f32(M,64), w: int44:g32(64,64)]", "did you mean int4")
        yield BadSample("gemm[x: f32(2,M,64), w: int4:g32(64,64)]", "flatten leading dimensions")
        yield BadSample("gemm[x: f32(M,64), w: int4:g32(64,64)] + bias + bias", "two bias epilogues")
        yield BadSample("gemm[x: f32(M,64), w: int4:g32(64,64)] + gello", "did you mean gelu")
