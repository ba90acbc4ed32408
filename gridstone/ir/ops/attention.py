"""attention: softmax over the visible keys of scale * q . k, times v; heads of q share heads of k and v in groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from gridstone.ir.attribute import flag, is_count, is_pair, number
from gridstone.ir.dtype import Values, f32
from gridstone.ir.epilogue import ACTIVATION_ERROR, apply
from gridstone.ir.errors import SpecError, nearest
from gridstone.ir.rounding import (
    DEVIATIONS,
    EXTRA_TERMS,
    SMALLEST_NORMAL,
    Bounds,
    compute_unit,
    finite_max,
    growth,
    operand_unit,
    tolerance,
)
from gridstone.ir.spec import BadSample, Cost, Spec, Tolerance
from gridstone.ir.tensor import TensorType

ALIGNMENTS = ("top_left", "bottom_right")
UNALIGNED = "none"
# Emitted exponentials of the softmax err by at most this factor from 1: the contract of the C++ library and of exp2.
EXP_ERROR = 2.0**-21
# Scores held at once by reference and tolerance.
BLOCK_SCORES = 1 << 20

Bound = int | None  # of a window; None is unlimited
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Attention:
    """Scaled dot-product attention, with a mask that is an interval of keys per query.

    Query i stands at key i where `align` is `top_left` (torch's `is_causal`), at key i + T - S where it is
    `bottom_right` (flash-attn, decoding). With p that place, the keys in [p - left, p + right] are visible. A row
    without visible keys gives 0. A score is `softcap * tanh(scale * q . k / softcap)`, or `scale * q . k` without one.
    What becomes of a value that is not finite under a mask is not specified.

    Args:
        causal: Hide the keys after the query's place.
        window: (left, right), each a number of keys or None for no limit; right must be 0 when causal.
        align: `top_left` or `bottom_right`; must be stated exactly when there is a mask.
        scale: Factor of the scores; None means 1 / sqrt(D).
        softcap: Bound on the scores' magnitude, or None.

    >>> Attention(causal=True, align="bottom_right").visible(2, 5)
    (array([0, 0]), array([4, 5]))
    """

    name: ClassVar[str] = "attention"

    causal: bool = False
    window: tuple[Bound, Bound] | None = None
    align: str = UNALIGNED
    scale: float | None = None
    softcap: float | None = None

    def __post_init__(self) -> None:
        flag("causal", self.causal)
        if self.window is not None:
            self._check_window()
        masked = self.causal or self.window is not None
        if self.align not in (*ALIGNMENTS, UNALIGNED):
            raise SpecError(f"unknown alignment {self.align!r}", nearest(str(self.align), ALIGNMENTS))
        if masked and self.align == UNALIGNED:
            raise SpecError(
                "the alignment of the mask is not stated",
                "add align=top_left (torch's is_causal) or align=bottom_right (flash-attn)",
            )
        if self.align != UNALIGNED and not masked:
            raise SpecError(f"align={self.align} without a mask means nothing", "omit it, or add causal or window")
        if self.scale is not None:
            object.__setattr__(self, "scale", number("scale", self.scale))
        if self.softcap is not None:
            object.__setattr__(self, "softcap", number("softcap", self.softcap))
            if self.softcap <= 0:
                raise SpecError(f"softcap {self.softcap} is not positive", "omit softcap for none")

    def _check_window(self) -> None:
        if self.window is None or not is_pair(self.window):
            raise SpecError(f"window is {self.window!r}, not (left, right)", "write window=(127,none) for 128 keys")
        for bound in self.window:
            if bound is not None and not is_count(bound, 0):
                raise SpecError(
                    f"window bound {bound!r} is not a number of keys", "give an integer of at least 0, or none"
                )
        left, right = self.window
        if left is None and right is None:
            raise SpecError("window=(none,none) hides nothing", "omit it")
        if self.causal and right != 0:
            raise SpecError(f"a causal window sees no keys to the right, not {right}", "write window=(left,0)")
        if right == 0 and (left is None or not self.causal):
            raise SpecError(
                f"window=({left},0) is a causal mask", "write causal, and window=(left,0) if left is limited"
            )

    @property
    def operands(self) -> tuple[str, ...]:
        """Queries, keys and values."""
        return ("q", "k", "v")

    def infer(self, types: tuple[TensorType, ...]) -> TensorType:
        """q: (B, H, S, D), k: (B, Hk, T, D), v: (B, Hk, T, Dv) -> (B, H, S, Dv) in q's dtype."""
        q, k, v = types
        if any(len(t.shape) != 4 for t in types):
            raise SpecError(
                f"attention takes (batch, heads, length, width) tensors, not {q}, {k}, {v}", "unsqueeze them"
            )
        if any(t.dtype != q.dtype or not t.dtype.is_float or t.format is not None for t in types):
            raise SpecError(
                f"q, k and v must share one floating-point dtype, not {q}, {k}, {v}", "cast them to f32, bf16 or f16"
            )
        heads, kv_heads = q.static(1), k.static(1)
        width, _ = q.static(3), v.static(3)
        if any(extent == 0 for t in types for extent in t.shape):
            raise SpecError(f"attention of {q}, {k}, {v} has no elements", "give every extent at least 1")
        if k.shape[0] != q.shape[0] or v.shape[:3] != k.shape[:3]:
            raise SpecError(
                f"batch, key heads or length differ: q is {q}, k is {k}, v is {v}", "k and v must agree up to the width"
            )
        if k.shape[3] != width:
            raise SpecError(f"head width differs: q is {q}, k is {k}", "q's last extent must equal k's")
        if heads % kv_heads:
            raise SpecError(f"{heads} query heads cannot share {kv_heads} key heads", "H must be a multiple of Hk")
        return TensorType(q.dtype, (*q.shape[:3], v.shape[3]))

    def verify(self, spec: Spec) -> None:
        """Refuse numerics that attention does not define."""
        if spec.numerics.kind.quantises_activations:
            raise SpecError(f"numerics {spec.numerics} are not defined for attention", "use numerics=exact")

    def visible(self, s: int, t: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the first visible key of each of s queries among t keys, and one past the last; equal for none."""
        place = np.arange(s, dtype=np.int64) + (t - s if self.align == "bottom_right" else 0)
        left, right = self.window or (None, 0 if self.causal else None)
        first = np.zeros_like(place) if left is None else np.clip(place - left, 0, t)
        end = np.full_like(place, t) if right is None else np.clip(place + right + 1, 0, t)
        return first, np.maximum(first, end)

    def cost(self, spec: Spec) -> Cost:
        """Each visible key, its value, each query that sees one and the output once.

        2 (D + Dv) flops per visible pair; exponentials are not counted.
        """
        q, k, v = spec.input("q"), spec.input("k"), spec.input("v")
        first, end = self.visible(q.static(2), k.static(2))
        seen = end > first
        pairs, queries = int((end - first).sum()), int(seen.sum())
        # Neighbouring queries' intervals overlap or touch, so that their union is one interval.
        keys = int(end[seen].max() - first[seen].min()) if queries else 0
        batch, heads, kv_heads, width, value_width = q.static(0), q.static(1), k.static(1), q.static(3), v.static(3)
        read = batch * (heads * queries * width + kv_heads * keys * (width + value_width))
        extra = sum(o.type.plain_bytes() for o in spec.extra_operands)
        traffic = read * q.dtype.bytes + spec.output.plain_bytes() + extra
        return Cost(traffic, 2 * batch * heads * pairs * (width + value_width))

    def reference(self, spec: Spec, operands: Mapping[str, Values]) -> Values:
        """float64 softmax over the visible keys, times v, and epilogues."""
        v = operands["v"]
        y = np.zeros((*operands["q"].shape[:3], v.shape[3]))
        with np.errstate(invalid="ignore", over="ignore"):
            for block in self._blocks(operands):
                y[block.rows] = block.weights @ v[block.keys]
            return apply(spec.epilogue, y, operands)

    def tolerance(self, spec: Spec, operands: Mapping[str, Values]) -> Tolerance:
        """Bound the error of any kernel that keeps the numerics class, one-pass or not.

        For one row let s_j be the scores, p_j = exp(s_j - m) / l the weights, y = sum p_j v_j, A = scale sum |q k| and
        Q = scale sqrt(sum (q k)^2) over D, u the unit roundoff of float32, u_o that of operands (0 in `exact`, where q
        and k enter as they are and the scale multiplies in float32), u_p that of the type in which the weights are
        multiplied with v (q's dtype, or the numerics class's).

        - scores: e_j = growth(D + 8) u A for the sum; min(2 u_o A, 8 u_o (sqrt(2) Q + 2 |s|)) for the operands; flushed
          products. A softcap has slope at most 1 and adds its tanh's own error. The exponent is s - m times log2(e),
          each rounded, a few u of |s| + |m|; the exponential adds EXP_ERROR.
        - through the softmax: d p_j = p_j (d s_j - sum p d s), so that y moves by sum p_j d s_j (v_j - y), at most
          sum p_j e_j (|v_j| + |y|) to first order. The exact change of p_j lies between exp(-2 e) and exp(2 e) for e
          the row's largest e_j; the factor expm1(2 e) / (2 e) covers what is beyond first order. The typical error adds
          the terms of the sum in quadrature.
        - weights: exp(s_j - m) is rounded with r_j = u_p exp(s_j - m), at least half the smallest subnormal and at most
          itself, whether or not l is the sum of the rounded ones: sum r_j (|v_j| + |y|) / l in the worst case, or
          8 (sqrt(sum r_j^2 (v_j^2 + y^2)) / l + u_p |y|) when the roundings are independent but may be common.
        - second sum over n visible keys, and l: growth(n + 8) u (sum p |v| + |y|), and flushed products.

        Rescalings of a one-pass kernel multiply y's sum and l by the same factors; their roundings are among n + 8.
        """
        q, k, v = operands["q"], operands["k"], operands["v"]
        shape = (*q.shape[:3], v.shape[3])
        y, element, typical = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        dtype, unit = spec.input("q").dtype, f32.unit_roundoff
        loose, weight_unit = operand_unit(spec.numerics, dtype), compute_unit(spec.numerics, dtype)
        terms = q.shape[3] + EXTRA_TERMS
        with np.errstate(invalid="ignore", over="ignore"):
            for block in self._blocks(operands):
                left, right = q[block.rows], k[block.keys]
                scale = abs(self._scale(q))
                total = scale * (np.abs(left) @ np.abs(right).T)
                spread = scale * np.sqrt((left**2) @ (right**2).T)
                size = np.abs(block.scores)
                fixed = 4 * unit * (size + np.abs(block.pivot)) + EXP_ERROR
                fixed = fixed + terms * SMALLEST_NORMAL * max(1.0, finite_max(left), finite_max(right))
                if self.softcap is not None:
                    fixed = fixed + self.softcap * ACTIVATION_ERROR + 2 * unit * size
                raw = size if self.softcap is None else scale * np.abs(left @ right.T)
                rounded = np.minimum(2 * loose * total, DEVIATIONS * loose * (2**0.5 * spread + 2 * raw))
                error = growth(terms) * unit * total + rounded + fixed
                likely = np.sqrt(terms * (unit * total) ** 2 + 2 * loose**2 * (spread**2 + 2 * raw**2)) + fixed
                y[block.rows] = block.weights @ v[block.keys]
                bounds = _softmax_bounds(
                    block, error, likely, v[block.keys], weight_unit, loose, dtype.smallest_subnormal
                )
                element[block.rows], typical[block.rows] = bounds
            return tolerance(spec, y, (element, typical), operands)

    def _scale(self, q: Values) -> float:
        return q.shape[3] ** -0.5 if self.scale is None else self.scale

    def _blocks(self, operands: Mapping[str, Values]) -> Iterator[_Block]:
        """Yield the softmax of a few rows of one head at a time, only the union of their visible keys."""
        q, k = operands["q"], operands["k"]
        batch, heads, s, _ = q.shape
        t, group = k.shape[2], heads // k.shape[1]
        first, end = self.visible(s, t)
        step = max(1, BLOCK_SCORES // max(t, 1))
        for b, h, start in np.ndindex(batch, heads, -(-s // step)):
            rows = slice(start * step, min(s, (start + 1) * step))
            span = slice(int(first[rows].min()), int(end[rows].max()))
            columns = np.arange(span.start, span.stop)
            mask: Mask = (columns >= first[rows, None]) & (columns < end[rows, None])
            scores = self._scale(q) * (q[b, h, rows] @ k[b, h // group, span].T)
            if self.softcap is not None:
                scores = self.softcap * np.tanh(scores / self.softcap)
            top = np.max(scores, axis=1, keepdims=True, where=mask, initial=-np.inf)
            pivot = np.where(top == -np.inf, 0.0, top)
            powers = np.where(mask, np.exp(np.where(mask, scores - pivot, 0.0)), 0.0)
            norm = powers.sum(axis=1, keepdims=True)
            norm = np.where(norm == 0.0, 1.0, norm)
            seen = (end - first)[rows, None].astype(np.float64)
            yield _Block((b, h, rows), (b, h // group, span), np.where(mask, scores, 0.0), pivot, powers, norm, seen)

    def samples(self) -> Iterator[str]:
        """Masks of both alignments, windows, grouped heads, odd and unequal widths, decoding, softcap."""
        for dtype in ("f32", "bf16", "f16"):
            yield f"attention[q: {dtype}(2,4,S,32), k: {dtype}(2,4,T,32), v: {dtype}(2,4,T,32)]"
            yield (
                f"attention{{causal,align=bottom_right}}"
                f"[q: {dtype}(1,6,S,64), k: {dtype}(1,2,T,64), v: {dtype}(1,2,T,64)]"
            )
        yield "attention{causal,align=top_left}[q: f32(2,2,S,40), k: f32(2,2,S,40), v: f32(2,2,S,24)]"
        yield "attention{causal,align=bottom_right}[q: f32(1,2,70,16), k: f32(1,1,33,16), v: f32(1,1,33,16)]"
        yield "attention{causal,align=top_left}[q: f32(1,2,33,16), k: f32(1,1,70,16), v: f32(1,1,70,16)]"
        yield (
            "attention{causal,window=(15,0),align=bottom_right}"
            "[q: bf16(1,2,S,32), k: bf16(1,2,T,32), v: bf16(1,2,T,32)]"
        )
        yield "attention{window=(7,9),align=top_left}[q: f32(1,2,S,32), k: f32(1,2,T,32), v: f32(1,2,T,32)]"
        yield "attention{window=(none,3),align=bottom_right}[q: f16(1,2,S,32), k: f16(1,2,T,32), v: f16(1,2,T,32)]"
        yield "attention{causal,align=bottom_right}[q: bf16(B,8,1,64), k: bf16(B,2,T,64), v: bf16(B,2,T,64)]"
        yield "attention{softcap=30.0,scale=0.25}[q: f32(1,2,S,17), k: f32(1,2,T,17), v: f32(1,2,T,5)]"
        yield "attention[q: bf16(1,2,S,64), k: bf16(1,2,T,64), v: bf16(1,2,T,64)] + residual -> f32(1,2,S,64)"
        yield "attention[q: f32(1,2,S,64), k: f32(1,2,T,64), v: f32(1,2,T,64)]; bf16"
        yield "attention[q: f32(1,2,S,64), k: f32(1,2,T,64), v: f32(1,2,T,64)] + scale(2.0); tf32 ordered"

    def bad_samples(self) -> Iterator[BadSample]:
        """Each with a fragment of the message."""
        rest = "[q: f32(1,2,S,16), k: f32(1,2,T,16), v: f32(1,2,T,16)]"
        yield BadSample(f"attention{{causal}}{rest}", "alignment of the mask is not stated")
        yield BadSample(f"attention{{causal,align=top_lef}}{rest}", "did you mean top_left")
        yield BadSample(f"attention{{align=top_left}}{rest}", "without a mask")
        yield BadSample(f"attention{{causal=1,align=top_left}}{rest}", "not true or false")
        yield BadSample(f"attention{{window=16,align=top_left}}{rest}", "not (left, right)")
        yield BadSample(f"attention{{window=(-1,4),align=top_left}}{rest}", "not a number of keys")
        yield BadSample(f"attention{{window=(4,0),align=top_left}}{rest}", "is a causal mask")
        yield BadSample(f"attention{{causal,window=(4,2),align=top_left}}{rest}", "no keys to the right")
        yield BadSample(f"attention{{softcap=0}}{rest}", "not positive")
        yield BadSample(f"attention{{scale=big}}{rest}", "not a finite number")
        yield BadSample(f"attention{{casual}}{rest}", "did you mean causal")
        yield BadSample("attention[q: f32(1,3,S,16), k: f32(1,2,T,16), v: f32(1,2,T,16)]", "cannot share 2 key heads")
        yield BadSample("attention[q: f32(1,2,S,16), k: f32(1,2,T,8), v: f32(1,2,T,16)]", "head width differs")
        yield BadSample("attention[q: f32(1,2,S,16), k: f32(1,2,T,16), v: f32(1,2,S,16)]", "length differ")
        yield BadSample("attention[q: f32(1,2,S,16), k: f16(1,2,T,16), v: f32(1,2,T,16)]", "one floating-point dtype")
        yield BadSample("attention[q: f32(2,S,16), k: f32(2,T,16), v: f32(2,T,16)]", "(batch, heads, length, width)")
        yield BadSample(f"attention{rest}; int8_act", "not defined for attention")


@dataclass(frozen=True, slots=True)
class _Block:
    """Exact softmax of some rows of one head: powers = exp(scores - pivot), 0 where masked, and their row sums."""

    rows: tuple[int, int, slice]
    keys: tuple[int, int, slice]
    scores: Values
    pivot: Values
    powers: Values
    norm: Values
    seen: Values

    @property
    def weights(self) -> Values:
        return self.powers / self.norm


def _softmax_bounds(
    block: _Block, error: Values, likely: Values, v: Values, weight_unit: float, loose: float, subnormal: float
) -> Bounds:
    """Carry errors of the scores and roundings of the weights over to sum p v; see `Attention.tolerance`."""
    unit, p = f32.unit_roundoff, block.weights
    y, size, square = np.abs(p @ v), np.abs(v), v**2
    worst = np.max(np.where(p > 0, error, 0.0), axis=1, keepdims=True, initial=1e-300)
    moved = p * error * (np.expm1(2 * worst) / (2 * worst))
    rounded = np.minimum(block.powers, weight_unit * block.powers + subnormal / 2) / block.norm

    def linear(weight: Values) -> Values:
        return weight @ size + weight.sum(axis=1, keepdims=True) * y

    def quadratic(weight: Values) -> Values:
        weight = weight**2
        return weight @ square + weight.sum(axis=1, keepdims=True) * y**2

    terms = block.seen + EXTRA_TERMS
    total = p @ size + y
    flushed = terms * SMALLEST_NORMAL * max(1.0, finite_max(v))
    spread = (p**2) @ square
    element = linear(moved) + growth(terms) * unit * total + flushed
    element = element + np.minimum(linear(rounded), DEVIATIONS * (np.sqrt(quadratic(rounded)) + weight_unit * y))
    element = element + np.minimum(loose * total, DEVIATIONS * loose * (np.sqrt(spread) + y))
    typical = quadratic(p * likely) + terms * (unit * total) ** 2
    typical = typical + quadratic(rounded) + (weight_unit * y) ** 2 + loose**2 * (spread + y**2)
    return element, np.sqrt(typical) + flushed
