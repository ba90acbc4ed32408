"""spmm: y[m, n] = sum over k of a[m, k] * b[k, n], where most of a is zero in a stated pattern."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gridstone.ir.attribute import is_count, is_pair, number
from gridstone.ir.dtype import Values
from gridstone.ir.epilogue import apply
from gridstone.ir.errors import SpecError, nearest
from gridstone.ir.rounding import EXTRA_TERMS, contraction, operand_unit, tolerance
from gridstone.ir.spec import BadSample, Cost, Spec, Tolerance
from gridstone.ir.tensor import TensorType

PATTERNS = ("unstructured", "block", "2:4")
ELEMENT = (1, 1)


@dataclass(frozen=True, slots=True)
class Spmm:
    """A matrix product whose first operand is sparse. `reference` takes it dense, with its zeros.

    Args:
        pattern: `unstructured`; `block`, whole blocks kept or dropped; `2:4`, at most 2 of 4 neighbours along K kept.
        density: Share of a that is kept, in (0, 1]; 0.5 for `2:4`.
        block: (rows, columns) of a block; (1, 1) unless the pattern is `block`.
    """

    name: ClassVar[str] = "spmm"

    pattern: str = "unstructured"
    density: float = 0.5
    block: tuple[int, int] = ELEMENT

    def __post_init__(self) -> None:
        if self.pattern not in PATTERNS:
            raise SpecError(f"unknown sparsity pattern {self.pattern!r}", nearest(str(self.pattern), PATTERNS))
        object.__setattr__(self, "density", number("density", self.density))
        if not 0.0 < self.density <= 1.0:
            raise SpecError(f"density {self.density} is not in (0, 1]", "give the share of elements that are kept")
        if not is_pair(self.block) or not all(is_count(extent, 1) for extent in self.block):
            raise SpecError(f"block is {self.block!r}, not (rows, columns)", "write block=(32,32)")
        if self.pattern == "block" and self.block == ELEMENT:
            raise SpecError("the pattern block needs the size of a block", "write block=(32,32)")
        if self.pattern != "block" and self.block != ELEMENT:
            raise SpecError(f"the pattern {self.pattern} has no blocks of {self.block}", "write pattern=block")
        if self.pattern == "2:4" and self.density != 0.5:
            raise SpecError(f"2:4 keeps half of the elements, not {self.density}", "omit density")

    @property
    def operands(self) -> tuple[str, ...]:
        """The sparse a and the dense b."""
        return ("a", "b")

    def infer(self, types: tuple[TensorType, ...]) -> TensorType:
        """a: (M, K), b: (K, N) -> (M, N) in b's dtype."""
        a, b = types
        if len(a.shape) != 2 or len(b.shape) != 2:
            raise SpecError(f"spmm takes a of (M, K) and b of (K, N), not {a} and {b}", "flatten leading dimensions")
        if a.dtype != b.dtype or not b.dtype.is_float or a.format is not None or b.format is not None:
            raise SpecError(
                f"a and b must share one floating-point dtype, not {a} and {b}", "cast them to f32, bf16 or f16"
            )
        if a.shape[1] != b.shape[0]:
            raise SpecError(f"K differs: a is {a}, b is {b}", "a's last extent must equal b's first")
        m, k = a.static(0), a.static(1)
        if m < 1 or k < 1:
            raise SpecError(f"a matrix of shape ({m}, {k}) has no elements", "give M and K of at least 1")
        rows, columns = self.block
        if m % rows or k % columns:
            raise SpecError(f"({m}, {k}) is not a whole number of blocks of ({rows}, {columns})", "pad a with zeros")
        if self.pattern == "2:4" and k % 4:
            raise SpecError(f"K={k} is not a multiple of 4, which 2:4 needs", "pad K with zeros")
        return TensorType(b.dtype, (m, b.shape[1]))

    def verify(self, spec: Spec) -> None:
        """Refuse numerics that spmm does not define."""
        if spec.numerics.kind.quantises_activations:
            raise SpecError(f"numerics {spec.numerics} are not defined for spmm", "use numerics=exact")

    def nonzeros(self, m: int, k: int) -> int:
        """Return how many elements of an (m, k) matrix are stored: whole blocks, at least one."""
        size = math.prod(self.block)
        return max(1, round(self.density * (m * k // size))) * size

    def index_bytes(self, m: int, k: int) -> int:
        """Return the bytes that say where the nonzeros are.

        2:4: two bits for each. Otherwise the smaller of a bitmap (a bit per element or block) and compressed rows (a
        column for each, of 2 bytes up to 65536 columns and else of 4, and 4 bytes per row and one more).
        """
        if self.pattern == "2:4":
            return -(-self.nonzeros(m, k) // 4)
        rows, columns = m // self.block[0], k // self.block[1]
        stored = self.nonzeros(m, k) // math.prod(self.block)
        return min(-(-rows * columns // 8), stored * (2 if columns <= 1 << 16 else 4) + 4 * (rows + 1))

    def prune(self, a: Values) -> Values:
        """Return the (M, K) matrix with its smallest elements zeroed to fit pattern and density.

        A block counts by its sum of squares. Where values tie, the first stays.
        """
        (m, k), (rows, columns) = a.shape, self.block
        if self.pattern == "2:4":
            fours = a.reshape(m, k // 4, 4)
            order = np.argsort(-np.abs(fours), axis=2, kind="stable")[:, :, :2]
            kept = np.zeros(fours.shape)
            np.put_along_axis(kept, order, np.take_along_axis(fours, order, axis=2), axis=2)
            return kept.reshape(m, k)
        blocks = a.reshape(m // rows, rows, k // columns, columns)
        weight = (blocks**2).sum(axis=(1, 3))
        chosen = np.argsort(-weight, axis=None, kind="stable")[: self.nonzeros(m, k) // (rows * columns)]
        i, j = np.unravel_index(chosen, weight.shape)
        kept = np.zeros(blocks.shape)
        kept[i, :, j] = blocks[i, :, j]
        return kept.reshape(m, k)

    def cost(self, spec: Spec) -> Cost:
        """The stored values and their index, b and the output once; 2 flops per stored value and column of b."""
        a, b = spec.input("a"), spec.input("b")
        m, k, n = a.static(0), a.static(1), b.static(1)
        stored = self.nonzeros(m, k)
        sparse = stored * a.dtype.bytes + self.index_bytes(m, k)
        extra = sum(o.type.plain_bytes() for o in spec.extra_operands)
        return Cost(sparse + b.plain_bytes() + spec.output.plain_bytes() + extra, 2 * stored * n)

    def reference(self, spec: Spec, operands: Mapping[str, Values]) -> Values:
        """float64 product with the dense a, and epilogues."""
        with np.errstate(invalid="ignore", over="ignore"):
            return apply(spec.epilogue, operands["a"] @ operands["b"], operands)

    def tolerance(self, spec: Spec, operands: Mapping[str, Values]) -> Tolerance:
        """Bound the error of any kernel that keeps the numerics class.

        `rounding.contraction` with as many roundings per row as it has nonzeros, and 8: a product with zero is exact,
        whether it is skipped or not. Operands enter as they are in `exact` and rounded once in `bf16` and `tf32`.
        """
        a, b = operands["a"], operands["b"]
        unit = operand_unit(spec.numerics, spec.input("b").dtype)
        terms = np.count_nonzero(a, axis=1, keepdims=True).astype(np.float64) + EXTRA_TERMS
        with np.errstate(invalid="ignore", over="ignore"):
            bounds = contraction(a, b.T, unit * np.abs(a), unit, unit, terms)
            return tolerance(spec, a @ b, bounds, operands)

    def samples(self) -> Iterator[str]:
        """Every pattern, densities from a few per mille to 1, ragged shapes."""
        for dtype in ("f32", "bf16", "f16"):
            yield f"spmm[a: {dtype}(96,160), b: {dtype}(160,N)]"
            yield f'spmm{{pattern="2:4"}}[a: {dtype}(64,128), b: {dtype}(128,N)]'
            yield f"spmm{{pattern=block,density=0.25,block=(16,16)}}[a: {dtype}(64,128), b: {dtype}(128,N)]"
        yield "spmm{density=0.003}[a: f32(77,131), b: f32(131,N)]"
        yield "spmm{density=1.0}[a: f32(33,70), b: f32(70,N)] + relu"
        yield "spmm{density=0.1}[a: bf16(70,300), b: bf16(300,N)] + bias + residual -> f32(70,N)"
        yield "spmm{pattern=block,density=0.1,block=(4,1)}[a: f32(100,90), b: f32(90,N%8)]"
        yield "spmm{density=0.3}[a: f32(64,200), b: f32(200,N)]; bf16"

    def bad_samples(self) -> Iterator[BadSample]:
        """Each with a fragment of the message."""
        rest = "[a: f32(64,128), b: f32(128,N)]"
        yield BadSample(f"spmm{{pattern=blocks}}{rest}", "did you mean block")
        yield BadSample(f"spmm{{density=0.0}}{rest}", "not in (0, 1]")
        yield BadSample(f"spmm{{density=half}}{rest}", "not a finite number")
        yield BadSample(f"spmm{{pattern=block}}{rest}", "needs the size of a block")
        yield BadSample(f"spmm{{pattern=block,block=32}}{rest}", "not (rows, columns)")
        yield BadSample(f"spmm{{block=(16,16)}}{rest}", "has no blocks")
        yield BadSample(f"spmm{{pattern=block,block=(48,16)}}{rest}", "not a whole number of blocks")
        yield BadSample(f'spmm{{pattern="2:4",density=0.25}}{rest}', "keeps half")
        yield BadSample('spmm{pattern="2:4"}[a: f32(64,126), b: f32(126,N)]', "not a multiple of 4")
        yield BadSample("spmm[a: f32(64,128), b: f32(64,N)]", "K differs")
        yield BadSample("spmm[a: int4:g32(64,128), b: f32(128,N)]", "one floating-point dtype")
        yield BadSample("spmm[a: f32(0,128), b: f32(128,N)]", "has no elements")
        yield BadSample(f"spmm{rest}; fp8_act", "not defined for spmm")
