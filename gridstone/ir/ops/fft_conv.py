"""fft_conv: y = postgate * (k conv x + skip * x) with x = pregate * u, one long filter per channel."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gridstone.ir.attribute import flag
from gridstone.ir.dtype import Values, f32
from gridstone.ir.epilogue import apply
from gridstone.ir.errors import SpecError
from gridstone.ir.rounding import DEVIATIONS, SMALLEST_NORMAL, compute_unit, tolerance
from gridstone.ir.spec import BadSample, Cost, Spec, Tolerance
from gridstone.ir.tensor import Dim, TensorType

# Multiplications up to which the reference sums by the definition.
DIRECT_WORK = 1 << 24
# A kernel may round intermediate values to the compute type once in so many levels of radix 2.
LEVELS_PER_STAGE = 4


@dataclass(frozen=True, slots=True)
class FftConv:
    """A convolution along the last axis. The name says how it is done fast; any algorithm may compute it.

    Causal: y[t] = sum over s <= t of k[s] x[t - s], a linear convolution cut off at L; taps beyond L have no effect.
    Circular: y[t] = sum over s of k[s] x[(t - s) mod L], with at most L taps. How far a value that is not finite
    spreads is not specified.

    Args:
        causal: Linear rather than circular.
        pregate: There is an operand `pregate` of u's shape, multiplied to u before everything else.
        postgate: There is an operand `postgate` of u's shape, multiplied to the result.
        skip: There is an operand `skip` of (H,): the gated input passes by the filter with this factor per channel.

    >>> FftConv(postgate=True).operands
    ('u', 'k', 'postgate')
    """

    name: ClassVar[str] = "fft_conv"

    causal: bool = True
    pregate: bool = False
    postgate: bool = False
    skip: bool = False

    def __post_init__(self) -> None:
        for field in ("causal", "pregate", "postgate", "skip"):
            flag(field, getattr(self, field))

    @property
    def operands(self) -> tuple[str, ...]:
        """u and k, then those of pregate, postgate and skip that the attributes ask for."""
        return ("u", "k", *(name for name in ("pregate", "postgate", "skip") if getattr(self, name)))

    def infer(self, types: tuple[TensorType, ...]) -> TensorType:
        """u: (B, H, L), k: (H, Lk), gates as u, skip: (H,) -> (B, H, L) in u's dtype. Filters may be f32."""
        given = dict(zip(self.operands, types, strict=True))
        u, k = given["u"], given["k"]
        if len(u.shape) != 3 or len(k.shape) != 2:
            raise SpecError(f"fft_conv takes u of (B, H, L) and k of (H, Lk), not {u} and {k}", "unsqueeze or flatten")
        if not u.dtype.is_float or u.format is not None:
            raise SpecError(f"fft_conv takes a floating-point input, not {u}", "cast u to f32, bf16 or f16")
        for name, type_ in given.items():
            allowed = (u.dtype, f32) if name in ("k", "skip") else (u.dtype,)
            if type_.dtype not in allowed or type_.format is not None:
                raise SpecError(
                    f"{name} is {type_}, but must be of dtype {' or '.join(map(str, dict.fromkeys(allowed)))}",
                    "cast it",
                )
            wanted = {"u": u.shape, "k": (u.shape[1], *k.shape[1:]), "skip": u.shape[1:2]}.get(name, u.shape)
            if type_.shape != wanted:
                shape = ",".join(map(str, wanted))
                raise SpecError(f"{name} is {type_}, but must have shape ({shape}) to fit u, which is {u}")
        channels, length, taps = u.static(1), u.shape[2], k.shape[1]
        if channels < 1 or length == 0 or taps == 0:
            raise SpecError(f"a convolution of {u} with {k} has no elements", "give every extent at least 1")
        if not self.causal and not isinstance(length, Dim) and not isinstance(taps, Dim) and taps > length:
            raise SpecError(f"a circular filter of {taps} taps wraps around a length of {length}", "fold it to L taps")
        return u

    def verify(self, spec: Spec) -> None:
        """Refuse numerics that no transform defines."""
        if spec.numerics.kind.quantises_activations:
            raise SpecError(f"numerics {spec.numerics} are not defined for fft_conv", "use numerics=exact")

    def cost(self, spec: Spec) -> Cost:
        """Each operand once, of a causal filter the first L taps.

        Flops are the fewer of the definition's 2 per product and those of real transforms of N points (5/2 N log2 N
        each: one per filter, two per sequence) with N/2 complex products of 6; gates add 1 and a skip 2 per element.
        """
        u, k = spec.input("u"), spec.input("k")
        batch, channels, length = (u.static(axis) for axis in range(3))
        taps = min(k.static(1), length)
        rest = [o.type for o in (*spec.inputs, *spec.extra_operands) if o.name != "k"]
        traffic = sum(t.plain_bytes() for t in rest) + channels * taps * k.dtype.bytes + spec.output.plain_bytes()
        sequences = batch * channels
        products = taps * length - taps * (taps - 1) // 2 if self.causal else taps * length
        points = self.points(length, taps)
        transforms = (2 * sequences + channels) * (5 * points * _log2(points) // 2) + sequences * 3 * points
        sides = sequences * length * (self.pregate + self.postgate + 2 * self.skip)
        return Cost(traffic, min(2 * sequences * products, transforms) + sides)

    def points(self, length: int, taps: int) -> int:
        """Return the length of the transform: L, or the power of 2 that holds the linear convolution."""
        return 1 << _log2(length + min(taps, length) - 1) if self.causal else length

    def reference(self, spec: Spec, operands: Mapping[str, Values]) -> Values:
        """float64 sum by the definition, or where that is long through transforms; then skip, gate and epilogues."""
        with np.errstate(invalid="ignore", over="ignore"):
            return apply(spec.epilogue, self._gated(operands), operands)

    def tolerance(self, spec: Spec, operands: Mapping[str, Values]) -> Tolerance:
        """Bound the error of any kernel that keeps the numerics class, whatever its radix.

        A transform of N points has log2 N levels, done in S = ceil(log2 N / 4) stages. Its error relative to its result
        in the 2-norm is, with u float32's unit roundoff and u_c the compute type's (the activations' in `exact`):

        - worst case, levels in float32: at most log2(N) * 6.7 u for radix 2 (Higham, "Accuracy and Stability of
          Numerical Algorithms", 2nd ed., theorem 24.2) and 136 u for a stage that is a dense 16-point matrix (sums of
          32 products, |F| has 4 times the norm of F); 144 u per stage stands for both. Values, twiddles and a dense
          matrix rounded to the compute type add 1, 1 and 4 u_c: e_w = (S + 1) 6 u_c + S 144 u, one stage more for the
          rounding of the operand, or of the product of spectra.
        - typical: roundings are independent and grow with sqrt(log2 N) (Schatzman, "Accuracy of the discrete Fourier
          transform and the fast Fourier transform", SISC 1996): e_t = sqrt((S + 1) u_c^2 + 4 log2(N) u^2).

        Let c be the whole convolution. An error of x's spectrum, e |x| in the 2-norm, meets k's, and the other way
        round; the inverse adds e |c|. By Cauchy and Schwarz an element moves by at most e_w (2 |x| |k| + |c|). When
        the roundings are independent, noise of x's spectrum is spread over all frequencies by the first stage and over
        the 16 frequencies of a group, near or equally spaced, by the last but one. Met by k's spectrum it has at most
        the energy e_t^2 max(|x|^2 |k|^2, g^2), with g^2 that of the convolution whose spectrum of x is smeared over
        such groups; likewise k's noise. In time noise is at most as concentrated as the operands. Hence an element
        moves by 8 e_t (sqrt(2) (min(|x| max|k|, max|x| |k|) + g / sqrt(L)) + max|c|); the smaller bound is taken. The
        energy of the error, at worst all of it in the L outputs, is e_t^2 (2 |x|^2 |k|^2 + 2 g^2 + |c|^2).

        A sum by the definition in float32 stays inside when it is made of runs of at most 256 products. skip * x may
        round x once more to the compute type; sums and gates round to float32.
        """
        x, k = self._input(operands), operands["k"]
        length = x.shape[2]
        taps = min(k.shape[1], length)
        k = k[None, :, :taps]
        levels = max(1, _log2(self.points(length, taps)))
        stages = -(-levels // LEVELS_PER_STAGE)
        unit, rough = f32.unit_roundoff, compute_unit(spec.numerics, spec.input("u").dtype)
        worst = (stages + 1) * 6 * rough + stages * 144 * unit
        likely = math.sqrt((stages + 1) * rough**2 + 4 * levels * unit**2)
        with np.errstate(invalid="ignore", over="ignore"):
            whole = _whole(x, k, self.causal)
            norms, peaks = _norm(x) * _norm(k), np.minimum(_norm(x) * _peak(k), _peak(x) * _norm(k))
            flushed = levels * length * SMALLEST_NORMAL * np.maximum(1.0, np.maximum(_peak(x), _peak(k)))
            smeared = _smeared(x, k, self.points(length, taps))
            independent = DEVIATIONS * likely * (2**0.5 * (peaks + smeared / length**0.5) + _peak(whole))
            element = np.minimum(worst * (2 * norms + _norm(whole)), independent) + flushed
            energy = 2 * norms**2 + 2 * smeared**2 + _norm(whole) ** 2
            typical = likely * np.sqrt(energy / length) + flushed
            y = whole[..., :length]
            element, typical = np.broadcast_to(element, y.shape), np.broadcast_to(typical, y.shape)
            if self.skip:
                past = operands["skip"][:, None] * x
                step = rough * np.abs(past) + 2 * unit * (np.abs(y) + np.abs(past))
                y, element, typical = y + past, element + step, typical + step
            if self.postgate:
                gate = operands["postgate"]
                y, step = y * gate, unit * np.abs(y * gate)
                element, typical = element * np.abs(gate) + step, typical * np.abs(gate) + step
            return tolerance(spec, y, (element, typical), operands)

    def _input(self, operands: Mapping[str, Values]) -> Values:
        return operands["u"] * operands["pregate"] if self.pregate else operands["u"]

    def _gated(self, operands: Mapping[str, Values]) -> Values:
        x, k = self._input(operands), operands["k"]
        small = x.size * min(k.shape[1], x.shape[2]) <= DIRECT_WORK
        y = convolve_direct(x, k, self.causal) if small else convolve_spectral(x, k, self.causal)
        if self.skip:
            y = y + operands["skip"][:, None] * x
        return y * operands["postgate"] if self.postgate else y

    def samples(self) -> Iterator[str]:
        """Lengths that are no power of 2, filters shorter and longer than the input, every gate, both boundaries."""
        for dtype in ("f32", "bf16", "f16"):
            yield f"fft_conv[u: {dtype}(2,3,L), k: {dtype}(3,L)]"
            yield f"fft_conv{{causal=false}}[u: {dtype}(B,2,256), k: f32(2,256)]"
            yield (
                "fft_conv{pregate=true,postgate=true,skip=true}"
                f"[u: {dtype}(2,3,L), k: f32(3,17), pregate: {dtype}(2,3,L), postgate: {dtype}(2,3,L), skip: f32(3)]"
            )
        yield "fft_conv[u: f32(1,2,100), k: f32(2,150)]"
        yield "fft_conv[u: f32(1,2,1), k: f32(2,1)]"
        yield "fft_conv{causal=false}[u: f32(2,2,97), k: f32(2,5)] + residual"
        yield "fft_conv{pregate=true}[u: bf16(B,2,L%8), k: bf16(2,64), pregate: bf16(B,2,L%8)] + silu -> f32(B,2,L%8)"
        yield "fft_conv{skip=true}[u: f32(1,2,500), k: f32(2,500), skip: f32(2)]"
        yield "fft_conv[u: f32(1,2,L), k: f32(2,L)]; bf16"

    def bad_samples(self) -> Iterator[BadSample]:
        """Each with a fragment of the message."""
        yield BadSample("fft_conv[u: f32(2,3,L), k: f32(4,L)]", "must have shape (3,L)")
        yield BadSample("fft_conv[u: f32(3,L), k: f32(3,L)]", "takes u of (B, H, L)")
        yield BadSample("fft_conv{pregate=true}[u: f32(2,3,L), k: f32(3,L)]", "takes operands u, k, pregate, not u, k")
        yield BadSample(
            "fft_conv{postgate=true}[u: f32(2,3,L), k: f32(3,L), postgate: f32(2,1,L)]", "must have shape (2,3,L)"
        )
        yield BadSample("fft_conv{gated}[u: f32(2,3,L), k: f32(3,L)]", "no attribute 'gated'")
        yield BadSample("fft_conv{causal=1}[u: f32(2,3,L), k: f32(3,L)]", "not true or false")
        yield BadSample("fft_conv{causal=false}[u: f32(2,3,64), k: f32(3,65)]", "wraps around")
        yield BadSample("fft_conv[u: f16(2,3,L), k: bf16(3,L)]", "must be of dtype f16 or f32")
        yield BadSample("fft_conv[u: i32(2,3,L), k: f32(3,L)]", "floating-point input")
        yield BadSample("fft_conv[u: f32(2,3,L), k: f32(3,0)]", "has no elements")
        yield BadSample("fft_conv[u: f32(2,3,L), k: f32(3,L)]; int8_act", "not defined for fft_conv")


def convolve_direct(x: Values, k: Values, causal: bool) -> Values:
    """Convolve (B, H, L) with (H, Lk) by the definition, tap after tap."""
    y, length = np.zeros(x.shape), x.shape[2]
    for tap in range(min(k.shape[1], length) if causal else k.shape[1]):
        factor = k[:, tap, None]
        if causal:
            y[..., tap:] += factor * x[..., : length - tap]
        else:
            y += factor * np.roll(x, tap, axis=2)
    return y


def convolve_spectral(x: Values, k: Values, causal: bool) -> Values:
    """Convolve (B, H, L) with (H, Lk) through float64 transforms."""
    length = x.shape[2]
    return _whole(x, k[None, :, :length] if causal else k[None], causal)[..., :length]


def _whole(x: Values, k: Values, causal: bool) -> Values:
    """Return the convolution with (1, H, Lk) before it is cut off at L."""
    end = x.shape[2] + k.shape[2] - 1 if causal else x.shape[2]
    points = 1 << _log2(end) if causal else end
    return np.fft.irfft(np.fft.rfft(x, points) * np.fft.rfft(k, points), points)[..., :end]


def _smeared(x: Values, k: Values, points: int) -> Values:
    """Return the 2-norm of the convolution with either spectrum's power averaged over groups of a radix-16 stage."""
    powers = [np.abs(np.fft.fft(part, points)) ** 2 for part in (x, k)]
    group = math.gcd(points, 1 << LEVELS_PER_STAGE)
    worst = np.zeros((*x.shape[:2], 1))
    for one, other in (powers, powers[::-1]):
        near = one.reshape(*one.shape[:2], -1, group).mean(axis=3, keepdims=True)
        spaced = one.reshape(*one.shape[:2], group, -1).mean(axis=2, keepdims=True)
        by_near = (near * other.reshape(*other.shape[:2], -1, group)).sum(axis=(2, 3))
        by_spaced = (spaced * other.reshape(*other.shape[:2], group, -1)).sum(axis=(2, 3))
        worst = np.fmax(worst, np.fmax(by_near, by_spaced)[..., None])
    return np.sqrt(worst / points)


def _log2(value: int) -> int:
    """Return the logarithm of the next power of 2."""
    return (value - 1).bit_length()


def _norm(values: Values) -> Values:
    return np.sqrt(np.sum(values**2, axis=2, keepdims=True))


def _peak(values: Values) -> Values:
    return np.max(np.abs(values), axis=2, keepdims=True)
