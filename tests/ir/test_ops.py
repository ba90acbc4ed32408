"""Every op of the registry: its text, its cost, its reference, and that its tolerance parts right from wrong.

`emulate` is a kernel in NumPy: operands rounded as the numerics class allows, float32 sums. It must stay inside the
bounds; the same kernel with a fault must not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from gridstone.ir.dtype import DTYPES, DType, Values, bf16, f16, f32, round_to
from gridstone.ir.epilogue import ACTIVATIONS, Activation, Bias, Cast, Residual, Scale, apply
from gridstone.ir.errors import GridstoneError, SpecError
from gridstone.ir.format import Quantized, dequantize
from gridstone.ir.ops import OPS
from gridstone.ir.ops.attention import Attention
from gridstone.ir.ops.fft_conv import FftConv, convolve_direct, convolve_spectral
from gridstone.ir.ops.spmm import Spmm
from gridstone.ir.spec import BadSample, Numerics, NumericsClass, Operand, Spec, make_spec
from gridstone.ir.storage import storage
from gridstone.ir.tensor import TensorType
from gridstone.ir.text import parse_spec, print_spec

Floats = npt.NDArray[np.float32]
Drawn = dict[str, Values]

SAMPLES = [text for op in OPS.values() for text in op().samples()]
BAD_SAMPLES = [bad for op in OPS.values() for bad in op().bad_samples()]
TF32 = replace(f32, name="tf32", mantissa=10)
SHAPES = {
    "gemm": "gemm[x: {0}(24,{1}), w: {0}(32,{1})]",
    "attention": "attention[q: {0}(1,2,24,64), k: {0}(1,2,{1},64), v: {0}(1,2,{1},64)]",
    "fft_conv": "fft_conv[u: {0}(2,4,{1}), k: f32(4,{1})]",
    "spmm": "spmm[a: {0}(24,{1}), b: {0}({1},32)]",
}


def bound(spec: Spec, size: int) -> Spec:
    return spec.bind(**{dim.name: -(-size // dim.multiple_of) * dim.multiple_of for dim in spec.dims})


def draw(spec: Spec, seed: int, magnitude: float = 1.0) -> Drawn:
    rng = np.random.default_rng(seed)
    drawn: Drawn = {}
    for operand in (*spec.inputs, *spec.extra_operands):
        shape = tuple(operand.type.static(axis) for axis in range(len(operand.type.shape)))
        fmt = operand.type.format
        if fmt is None:
            size = 1.0 if "gate" in operand.name else magnitude  # products of four would leave f16's range
            drawn[operand.name] = round_to(operand.type.dtype, rng.standard_normal(shape) * size)
            continue
        groups = (shape[0], fmt.groups(shape[1]))
        codes = rng.integers(0, 1 << fmt.bits, shape).astype(np.uint8)
        zeros = rng.integers(0, 1 << fmt.bits, groups).astype(np.uint8) if fmt.zero else None
        scales = round_to(fmt.scale, rng.uniform(0.5, 1.5, groups) * magnitude / (1 << fmt.bits))
        drawn[operand.name] = dequantize(fmt, Quantized(codes, scales, zeros))
    if isinstance(spec.op, Spmm):
        drawn["a"] = spec.op.prune(drawn["a"])
    return drawn


def rounding_type(spec: Spec, dtype: DType) -> DType:
    """The type in which values are multiplied."""
    wanted = {NumericsClass.BF16: bf16, NumericsClass.TF32: TF32}.get(spec.numerics.kind, dtype)
    return wanted if wanted.mantissa < dtype.mantissa else dtype


def single(values: Values) -> Floats:
    return values.astype(np.float32)


def emulate_gemm(spec: Spec, given: Drawn) -> Floats:
    kind = rounding_type(spec, spec.input("x").dtype)
    return single(round_to(kind, given["x"])) @ single(round_to(kind, given["w"])).T


def emulate_spmm(spec: Spec, given: Drawn) -> Floats:
    kind = rounding_type(spec, spec.input("b").dtype)
    return single(round_to(kind, given["a"])) @ single(round_to(kind, given["b"]))


def emulate_attention(spec: Spec, given: Drawn, block: int = 16) -> Floats:
    """One pass over blocks of keys with a running maximum, the weights rounded before the second product."""
    op = spec.op
    assert isinstance(op, Attention)
    kind = rounding_type(spec, spec.input("q").dtype)
    q, k, v = (single(round_to(kind, given[name])) for name in "qkv")
    scale = np.float32(q.shape[3] ** -0.5 if op.scale is None else op.scale)
    y = np.zeros((*q.shape[:3], v.shape[3]), np.float32)
    first, end = op.visible(q.shape[2], k.shape[2])
    for b, h in np.ndindex(*q.shape[:2]):
        keys, values = k[b, h * k.shape[1] // q.shape[1]], v[b, h * k.shape[1] // q.shape[1]]
        top = np.full((q.shape[2], 1), -np.inf, np.float32)
        total, norm = np.zeros((q.shape[2], v.shape[3]), np.float32), np.zeros((q.shape[2], 1), np.float32)
        for start in range(0, k.shape[2], block):
            at = np.arange(start, min(start + block, k.shape[2]))
            scores = (q[b, h] @ keys[at].T) * scale
            if op.softcap is not None:
                scores = np.float32(op.softcap) * np.tanh(scores / np.float32(op.softcap))
            scores = np.where((at >= first[:, None]) & (at < end[:, None]), scores, np.float32(-np.inf))
            higher = np.maximum(top, scores.max(axis=1, keepdims=True))
            pivot = np.where(np.isneginf(higher), np.float32(0), higher)
            factor, p = np.exp(top - pivot), np.exp(scores - pivot)
            norm = norm * factor + p.sum(axis=1, keepdims=True)
            total = total * factor + single(round_to(kind, p)) @ values[at]
            top = higher
        y[b, h] = total / np.where(norm == 0, np.float32(1), norm)
    return y


def emulate_fft_conv(spec: Spec, given: Drawn) -> Floats:
    op = spec.op
    assert isinstance(op, FftConv)
    kind = rounding_type(spec, spec.input("u").dtype)
    x = given["u"] * given["pregate"] if op.pregate else given["u"]
    x, k = round_to(kind, single(x)), given["k"][:, : x.shape[2]]
    y = convolve_in(kind, x, k, op.points(x.shape[2], k.shape[1]))[..., : x.shape[2]]
    if op.skip:
        y = y + single(given["skip"])[:, None] * single(x)
    return y * single(given["postgate"]) if op.postgate else y


def convolve_in(kind: DType, x: Values, k: Values, points: int) -> Floats:
    """Convolve through transforms whose stages round their operands to a dtype; float32 uses NumPy's transform."""
    if kind == f32 or points & (points - 1):
        spectrum = np.fft.rfft(single(x), points) * np.fft.rfft(single(k), points)
        y = np.fft.irfft(spectrum.astype(np.complex64), points)
        assert y.dtype == np.float32
        return y
    powers = [np.exp2(-np.ceil(np.log2(np.abs(part).max()))) for part in (x, k)]  # keep f16 from underflow
    spectrum = transform(kind, x * powers[0], points)
    factors = rounded(kind, np.fft.fft(k * powers[1], points, norm="ortho"))
    y = np.conj(transform(kind, np.conj(spectrum * factors), points))
    return single(y.real * (points**0.5 / powers[0] / powers[1]))


def rounded(kind: DType, values: npt.NDArray[np.complexfloating]) -> npt.NDArray[np.complex64]:
    return (round_to(kind, values.real) + 1j * round_to(kind, values.imag)).astype(np.complex64)


def transform(kind: DType, x: npt.NDArray[np.generic], points: int) -> npt.NDArray[np.complex64]:
    """Return the unitary transform, made in stages of radix 16 with the operands of every product rounded."""
    y = np.zeros((*x.shape[:2], 1, points), np.complex64)
    y[..., 0, : x.shape[2]] = x
    frequency, rest, weight = np.zeros(1, np.int64), points, 1
    while rest > 1:
        size = min(16, rest)
        rest //= size
        matrix = rounded(kind, np.exp(-2j * np.pi * np.outer(np.arange(size), np.arange(size)) / size) / size**0.5)
        turn = np.outer(np.arange(size), np.arange(rest)) / (size * rest)
        y = rounded(kind, y).reshape(*x.shape[:2], -1, size, rest)
        y = rounded(kind, matrix @ y) * rounded(kind, np.exp(-2j * np.pi * turn))
        y = y.reshape(*x.shape[:2], -1, rest)
        frequency = (frequency[:, None] + weight * np.arange(size)).reshape(-1)
        weight *= size
    result = np.empty((*x.shape[:2], points), np.complex64)
    result[..., frequency] = y[..., 0]
    return result


EMULATORS: dict[str, Callable[[Spec, Drawn], Floats]] = {
    "gemm": emulate_gemm,
    "attention": emulate_attention,
    "fft_conv": emulate_fft_conv,
    "spmm": emulate_spmm,
}


def stored(spec: Spec, y: npt.NDArray[np.floating], given: Mapping[str, Values]) -> Values:
    """Epilogues in float32 and the rounding to the output's dtype."""
    after = apply(spec.epilogue, y, {name: single(values) for name, values in given.items()})
    return round_to(spec.output.dtype, after)


def emulate(spec: Spec, given: Drawn) -> Values:
    return stored(spec, EMULATORS[spec.op.name](spec, given), given)


def excess(spec: Spec, out: Values, given: Drawn) -> tuple[float, float]:
    """Return the largest error over its bound, element by element and of the root mean square. Above 1 is wrong."""
    want, allowed = spec.op.reference(spec, given), spec.op.tolerance(spec, given)
    assert out.shape == want.shape == allowed.element.shape
    assert np.isfinite(want).all()
    assert np.isfinite(allowed.element).all()
    if not np.isfinite(out).all():
        return np.inf, np.inf
    error = np.abs(out - want)
    return float((error / allowed.element).max()), float(np.sqrt(np.mean(error**2)) / allowed.rms)


def accepted(spec: Spec, out: Values, given: Drawn) -> bool:
    return max(excess(spec, out, given)) <= 1.0


@pytest.mark.parametrize("text", SAMPLES)
class TestEverySample:
    def test_its_text_round_trips(self, text: str) -> None:
        spec = parse_spec(text)
        assert parse_spec(print_spec(spec)) == spec
        assert print_spec(parse_spec(print_spec(spec))) == print_spec(spec)

    @pytest.mark.parametrize("size", [1, 40])
    def test_it_binds_and_costs_something(self, text: str, size: int) -> None:
        spec = bound(parse_spec(text), size)
        assert not spec.dims
        cost = spec.op.cost(spec)
        assert cost.bytes > 0
        assert cost.flops >= 0
        assert cost.floor(1e9, 1e9) > 0
        assert spec.op.reference(spec, draw(spec, 0)).shape == spec.output.shape

    @pytest.mark.parametrize("magnitude", [2.0**-8, 1.0, 2.0**3])
    def test_an_emulated_kernel_is_inside_the_bounds(self, text: str, magnitude: float) -> None:
        for seed, size in enumerate((1, 33, 96)):
            spec = bound(parse_spec(text), size)
            given = draw(spec, seed, magnitude)
            assert max(excess(spec, emulate(spec, given), given)) <= 1.0

    def test_a_result_of_zeros_or_a_nan_is_outside(self, text: str) -> None:
        spec = bound(parse_spec(text), 40)
        given = draw(spec, 1)
        out = emulate(spec, given)
        assert not accepted(spec, np.zeros_like(out), given)
        out.flat[-1] = np.nan
        assert not accepted(spec, out, given)


@pytest.mark.parametrize("bad", BAD_SAMPLES, ids=lambda bad: bad.text)
def test_a_bad_sample_is_refused_with_its_reason(bad: BadSample) -> None:
    with pytest.raises(GridstoneError) as caught:
        parse_spec(bad.text)
    assert bad.message in str(caught.value)


@pytest.mark.parametrize("name", OPS)
def test_every_op_brings_bad_samples_and_names_itself(name: str) -> None:
    op = OPS[name]()
    assert op.name == name
    assert len(list(op.bad_samples())) >= 4
    assert len(list(op.samples())) >= 4


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("length", [64, 4096])
@pytest.mark.parametrize("name", OPS)
class TestControls:
    """The right kernel passes and a wrong one does not, at small and large reduction lengths."""

    def spec(self, name: str, length: int, dtype: str) -> Spec:
        return parse_spec(SHAPES[name].format(dtype, length))

    def test_the_right_one_passes(self, name: str, length: int, dtype: str) -> None:
        spec = self.spec(name, length, dtype)
        for seed, magnitude in enumerate((2.0**-6, 1.0, 2.0**3)):
            given = draw(spec, seed, magnitude)
            assert max(excess(spec, emulate(spec, given), given)) <= 1.0

    def test_zeros_a_shift_and_a_lost_factor_fail(self, name: str, length: int, dtype: str) -> None:
        spec = self.spec(name, length, dtype)
        given = draw(spec, 3)
        out = emulate(spec, given)
        assert not accepted(spec, np.zeros_like(out), given)
        assert not accepted(spec, np.roll(out, 1, axis=-1), given)
        assert not accepted(spec, np.roll(out, 1, axis=-2), given)
        assert not accepted(spec, -out, given)
        assert not accepted(spec, out * 1.05, given)

    def test_one_term_less_fails(self, name: str, length: int, dtype: str) -> None:
        spec = self.spec(name, length, dtype)
        given = draw(spec, 4)
        less = {key: values.copy() for key, values in given.items()}
        if name == "attention":
            shorter = parse_spec(SHAPES[name].format(dtype, length - 1))
            less = {key: values if key == "q" else values[:, :, :-1] for key, values in given.items()}
            assert not accepted(spec, emulate(shorter, less), given)
            return
        if name == "spmm":
            last = less["a"].shape[1] - 1 - np.argmax(less["a"][:, ::-1] != 0, axis=1)
            less["a"][np.arange(len(last)), last] = 0
        elif name == "gemm":
            less["w"][:, -1] = 0
        else:  # the noise of a transform in bf16 is a quarter of one of 4096 taps: a vector of 8 shows
            less["k"][:, : 8 if dtype == "bf16" else 1] = 0
        assert not accepted(spec, emulate(spec, less), given)


class TestNumericsClasses:
    @pytest.mark.parametrize("name", OPS)
    @pytest.mark.parametrize("kind", [NumericsClass.TF32, NumericsClass.BF16])
    def test_a_coarser_class_passes_where_it_is_asked_for_and_fails_where_not(
        self, name: str, kind: NumericsClass
    ) -> None:
        exact = parse_spec(SHAPES[name].format("f32", 4096))
        coarse = make_spec(exact.op, exact.inputs, (), Numerics(kind))
        given = draw(exact, 5)
        out = emulate(coarse, given)
        assert accepted(coarse, out, given)
        assert not accepted(exact, out, given)

    @pytest.mark.parametrize("dtype", ["f32", "bf16"])
    def test_quantised_activations(self, dtype: str) -> None:
        text = f"gemm[x: {dtype}(16,2048), w: int8:g128(48,2048)]"
        exact = parse_spec(text)
        given = draw(exact, 6)
        x, w = given["x"], given["w"]
        largest = np.abs(x).max(axis=1, keepdims=True)
        int8 = np.rint(x / largest * 127) * largest / 127
        e4m3 = round_to(DType("e4m3", 8, f16.kind, 3, 5, "", "", "", "", ""), x / largest * 448) * largest / 448
        for name, seen in (("int8_act", int8), ("fp8_act", e4m3)):
            spec = parse_spec(f"{text}; {name}")
            out = round_to(spec.output.dtype, single(seen) @ single(w).T)
            assert accepted(spec, out, given)
            if dtype == "f32" or name == "fp8_act":  # bf16 loses as much as int8 does
                assert not accepted(exact, out, given)
        assert not accepted(parse_spec(f"{text}; int8_act"), round_to(exact.output.dtype, e4m3 @ w.T), given)


class TestGemm:
    def test_cost(self) -> None:
        spec = parse_spec("gemm[x: bf16(3,64), w: bf16(5,64)] + bias + residual:f32 -> f32(3,5)")
        assert spec.op.cost(spec).flops == 2 * 3 * 5 * 64
        assert spec.op.cost(spec).bytes == 2 * (3 * 64 + 5 * 64) + 4 * 3 * 5 + 4 * 5 + 4 * 3 * 5
        low = parse_spec("gemm[x: f32(3,64), w: int4:g32(64,64)]").with_storage("lane16")
        assert low.op.cost(low).bytes == 4 * 3 * 64 + (64 * 64 // 2 + 64 * 2 * 2) + 4 * 3 * 64

    def test_reference_is_torch_linear(self) -> None:
        spec = parse_spec("gemm[x: f32(7,33), w: f32(5,33)] + bias + silu")
        given = draw(spec, 7)
        tensors = {name: torch.from_numpy(values) for name, values in given.items()}
        want = torch.nn.functional.silu(torch.nn.functional.linear(tensors["x"], tensors["w"], tensors["bias"]))
        np.testing.assert_allclose(spec.op.reference(spec, given), want.numpy(), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
    def test_a_lost_scale_or_zero_point_of_one_group_fails(self, dtype: str) -> None:
        spec = parse_spec(f"gemm[x: {dtype}(16,4096), w: uint4:g128:zero(32,4096)]")
        rng = np.random.default_rng(8)
        fmt = spec.input("w").format
        assert fmt is not None
        codes = rng.integers(0, 16, (32, 4096)).astype(np.uint8)
        scales = round_to(f16, rng.uniform(0.01, 0.02, (32, 32)))
        zeros = rng.integers(6, 10, (32, 32)).astype(np.uint8)
        x = round_to(spec.input("x").dtype, rng.standard_normal((16, 4096)))
        given = {"x": x, "w": dequantize(fmt, Quantized(codes, scales, zeros))}
        assert accepted(spec, emulate(spec, given), given)
        one, neighbour = zeros.copy(), scales.copy()
        one[:, 5] += 1
        neighbour[:, 5] = scales[:, 6]
        for wrong in (Quantized(codes, scales, one), Quantized(codes, neighbour, zeros)):
            assert not accepted(spec, emulate(spec, {"x": x, "w": dequantize(fmt, wrong)}), given)

    @pytest.mark.parametrize(
        ("dtype", "k"), [("f32", 4096), ("f16", 4096), ("f32", 14336), ("f16", 14336), ("bf16", 14336)]
    )
    def test_float16_partial_sums_fail(self, dtype: str, k: int) -> None:
        spec = parse_spec(f"gemm[x: {dtype}(8,{k}), w: int4:g128(16,{k})]")
        given = draw(spec, 9)
        assert accepted(spec, emulate(spec, given), given)
        total = np.zeros((8, 16), np.float16)
        for at in range(k):
            total = (total + np.outer(given["x"][:, at], given["w"][:, at])).astype(np.float16)
        assert not accepted(spec, round_to(spec.output.dtype, total), given)

    @pytest.mark.parametrize("order", ["forward", "backward", "strided", "tree"])
    def test_any_order_of_summation_passes_on_structured_operands(self, order: str) -> None:
        k = 4096
        spec = parse_spec(f"gemm[x: f32(4,{k}), w: f32(4,{k})]")
        ramp, steps = np.linspace(-1, 1, k), np.sign(np.linspace(-1, 1, k))
        rows = {
            "x": np.stack([np.ones(k), ramp, np.abs(ramp), np.cos(ramp)]),
            "w": np.stack([ramp, steps, ramp**3, 1 + ramp]),
        }
        given = {name: round_to(f32, values) for name, values in rows.items()}
        terms = single(given["x"])[:, None, :] * single(given["w"])[None, :, :]
        if order == "backward":
            terms = terms[..., ::-1]
        elif order == "strided":
            terms = terms.reshape(4, 4, 16, -1).swapaxes(2, 3).reshape(4, 4, -1)
        total = terms.sum(axis=2) if order == "tree" else np.cumsum(terms, axis=2, dtype=np.float32)[..., -1]
        assert max(excess(spec, total.astype(np.float64), given)) <= 1.0


class TestEpilogues:
    STEPS = (Bias(f32), Residual(bf16), Scale(3.0), *map(Activation, ACTIVATIONS))

    @pytest.mark.parametrize("name", OPS)
    @pytest.mark.parametrize("step", STEPS, ids=str)
    def test_every_op_takes_every_epilogue(self, name: str, step: Bias | Residual | Scale | Activation) -> None:
        plain = parse_spec(SHAPES[name].format("f16", 48))
        spec = make_spec(plain.op, plain.inputs, (step, Cast(f32)))
        assert parse_spec(print_spec(spec)) == spec
        given = draw(spec, 10)
        assert accepted(spec, emulate(spec, given), given)
        assert spec.op.cost(spec).bytes >= plain.op.cost(plain).bytes
        if step != Activation("relu"):
            assert not accepted(spec, emulate(plain, given), given)

    def test_activations_are_torchs(self) -> None:
        x = np.linspace(-8, 8, 1001)
        for name, approximate in (("gelu", "none"), ("gelu_tanh", "tanh")):
            want = torch.nn.functional.gelu(torch.from_numpy(x), approximate=approximate).numpy()
            np.testing.assert_allclose(apply((Activation(name),), x, {}), want, atol=1e-12)
        for name in ("relu", "silu"):
            want = getattr(torch.nn.functional, name)(torch.from_numpy(x)).numpy()
            np.testing.assert_allclose(apply((Activation(name),), x, {}), want, atol=1e-12)

    def test_activations_take_a_scalar(self) -> None:
        for name in ACTIVATIONS:
            assert np.shape(apply((Activation(name),), np.array(0.5), {})) == ()

    @pytest.mark.parametrize("name", ACTIVATIONS)
    def test_no_slope_exceeds_the_stated_one(self, name: str) -> None:
        x = np.linspace(-12, 12, 200001)
        function, steepest = ACTIVATIONS[name]
        assert np.abs(np.diff(function(x)) / np.diff(x)).max() <= steepest


def attend(spec: Spec, given: Drawn) -> Values:
    """Attention written out: one query and one key at a time."""
    op = spec.op
    assert isinstance(op, Attention)
    q, k, v = (given[name] for name in "qkv")
    (batch, heads, s, d), t = q.shape, k.shape[2]
    y = np.zeros((batch, heads, s, v.shape[3]))
    for b, h, i in np.ndindex(batch, heads, s):
        kv = h // (heads // k.shape[1])
        place = i + (t - s if op.align == "bottom_right" else 0)
        weights: dict[int, float] = {}
        for j in range(t):
            if op.causal and j > place:
                continue
            if op.window is not None:
                left, right = op.window
                if left is not None and j < place - left:
                    continue
                if right is not None and j > place + right:
                    continue
            score = float(q[b, h, i] @ k[b, kv, j]) * (op.scale if op.scale is not None else 1 / np.sqrt(d))
            weights[j] = np.exp(score if op.softcap is None else op.softcap * np.tanh(score / op.softcap))
        for j, weight in weights.items():
            y[b, h, i] += weight / sum(weights.values()) * v[b, kv, j]
    return y


class TestAttention:
    @pytest.mark.parametrize("text", [text for text in Attention().samples() if "+" not in text])
    @pytest.mark.parametrize("lengths", [(5, 9), (9, 5), (1, 7), (6, 6)])
    def test_reference_is_the_sum_written_out(self, text: str, lengths: tuple[int, int]) -> None:
        spec = parse_spec(text).bind(S=lengths[0], T=lengths[1], B=2)
        given = draw(spec, 11)
        np.testing.assert_allclose(spec.op.reference(spec, given), attend(spec, given), rtol=1e-11, atol=1e-13)
        assert accepted(spec, emulate(spec, given), given)

    def test_reference_is_torchs(self) -> None:
        spec = parse_spec("attention{causal,align=top_left}[q: f64(2,4,9,8), k: f64(2,2,13,8), v: f64(2,2,13,6)]")
        given = draw(spec, 12)
        q, k, v = (torch.from_numpy(given[name]) for name in "qkv")
        want = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        np.testing.assert_allclose(spec.op.reference(spec, given), want.numpy(), rtol=1e-11, atol=1e-13)

    def test_long_rows_are_cut_without_a_seam(self, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = parse_spec(
            "attention{window=(3,2),align=bottom_right}[q: f32(1,2,50,8), k: f32(1,1,40,8), v: f32(1,1,40,8)]"
        )
        given = draw(spec, 13)
        whole, bounds = spec.op.reference(spec, given), spec.op.tolerance(spec, given)
        monkeypatch.setattr("gridstone.ir.ops.attention.BLOCK_SCORES", 200)
        np.testing.assert_allclose(spec.op.reference(spec, given), whole, rtol=1e-13)
        np.testing.assert_allclose(spec.op.tolerance(spec, given).element, bounds.element, rtol=1e-9, atol=1e-30)

    def test_a_row_without_keys_is_zero(self) -> None:
        spec = parse_spec("attention{causal,align=bottom_right}[q: f32(1,1,6,4), k: f32(1,1,2,4), v: f32(1,1,2,4)]")
        given = draw(spec, 14)
        y = spec.op.reference(spec, given)
        assert not y[0, 0, :4].any()
        assert y[0, 0, 4:].all()
        wrong = y.copy()
        wrong[0, 0, 0] = 1e-30
        assert not accepted(spec, wrong, given)

    @pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
    def test_masks_scales_and_heads_that_are_off_fail(self, dtype: str) -> None:
        rest = f"[q: {dtype}(1,4,64,32), k: {dtype}(1,2,64,32), v: {dtype}(1,2,64,32)]"
        spec = parse_spec("attention{causal,window=(15,0),align=top_left}" + rest)
        given = draw(spec, 15)
        assert accepted(spec, emulate(spec, given), given)
        for wrong in (
            "causal,window=(14,0),align=top_left",
            "causal,window=(16,0),align=top_left",
            "causal,align=top_left",
        ):
            assert not accepted(spec, emulate(parse_spec(f"attention{{{wrong}}}{rest}"), given), given)
        unscaled = replace(spec, op=Attention(causal=True, window=(15, 0), align="top_left", scale=0.2))
        assert not accepted(spec, emulate(unscaled, given), given)
        assert not accepted(spec, emulate(spec, given | {"k": given["k"][:, ::-1]}), given)

    @pytest.mark.parametrize("sharpness", [0.0, 1.0, 30.0, 300.0])
    @pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
    def test_flat_and_peaked_rows_pass(self, dtype: str, sharpness: float) -> None:
        spec = parse_spec(f"attention[q: {dtype}(1,2,32,64), k: {dtype}(1,2,512,64), v: {dtype}(1,2,512,64)]")
        given = draw(spec, 16)
        given["q"] = round_to(spec.input("q").dtype, given["q"] * sharpness)
        given["v"] += round_to(spec.input("v").dtype, np.full(given["v"].shape, 4.0))
        given["v"] = round_to(spec.input("v").dtype, given["v"])
        assert max(excess(spec, emulate(spec, given), given)) <= 1.0
        assert not accepted(spec, np.zeros(spec.output.shape), given)

    def test_cost(self) -> None:
        full = parse_spec("attention[q: bf16(2,4,10,8), k: bf16(2,2,20,8), v: bf16(2,2,20,6)]")
        assert full.op.cost(full).flops == 2 * 2 * 4 * 10 * 20 * (8 + 6)
        assert full.op.cost(full).bytes == 2 * 2 * (4 * 10 * 8 + 2 * 20 * (8 + 6) + 4 * 10 * 6)
        causal = parse_spec("attention{causal,align=top_left}[q: f32(1,1,10,8), k: f32(1,1,20,8), v: f32(1,1,20,8)]")
        assert causal.op.cost(causal).flops == 2 * (10 * 11 // 2) * 16
        assert causal.op.cost(causal).bytes == 4 * (10 * 8 + 10 * 16 + 10 * 8)
        decode = parse_spec(
            "attention{causal,window=(7,0),align=bottom_right}[q: f32(1,1,1,8), k: f32(1,1,999,8), v: f32(1,1,999,8)]"
        )
        assert decode.op.cost(decode).bytes == 4 * (8 + 8 * 16 + 8)

    def test_one_and_one_point_zero_are_one_spec(self) -> None:
        assert str(Attention(scale=1)) == str(Attention(scale=1.0))


class TestFftConv:
    @pytest.mark.parametrize("causal", [True, False])
    @pytest.mark.parametrize(("length", "taps"), [(1, 1), (7, 3), (8, 8), (13, 13), (100, 31), (257, 257)])
    def test_both_references_agree_with_the_sum_written_out(self, causal: bool, length: int, taps: int) -> None:
        rng = np.random.default_rng(17)
        x, k = rng.standard_normal((2, 3, length)), rng.standard_normal((3, taps))
        want = np.zeros(x.shape)
        for t in range(length):
            for s in range(taps):
                if t >= s or not causal:
                    want[:, :, t] += k[:, s] * x[:, :, (t - s) % length]
        scale = np.linalg.norm(x) * np.linalg.norm(k)
        np.testing.assert_allclose(convolve_direct(x, k, causal), want, atol=1e-15 * scale)
        np.testing.assert_allclose(convolve_spectral(x, k, causal), want, atol=1e-15 * scale)

    def test_a_causal_filter_longer_than_the_input_is_cut(self) -> None:
        rng = np.random.default_rng(18)
        x, k = rng.standard_normal((1, 2, 10)), rng.standard_normal((2, 15))
        for convolve in (convolve_direct, convolve_spectral):
            np.testing.assert_allclose(convolve(x, k, True), convolve(x, k[:, :10], True), atol=1e-13)

    def test_long_inputs_go_through_transforms_to_the_same_result(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for text in FftConv().samples():
            spec = bound(parse_spec(text), 64)
            given = draw(spec, 19)
            direct = spec.op.reference(spec, given)
            monkeypatch.setattr("gridstone.ir.ops.fft_conv.DIRECT_WORK", 0)
            np.testing.assert_allclose(spec.op.reference(spec, given), direct, atol=1e-11)
            monkeypatch.undo()

    def test_reference_is_torchs(self) -> None:
        spec = parse_spec(
            "fft_conv{pregate,postgate,skip}"
            "[u: f32(2,3,20), k: f32(3,7), pregate: f32(2,3,20), postgate: f32(2,3,20), skip: f32(3)]"
        )
        given = {name: torch.from_numpy(values) for name, values in draw(spec, 20).items()}
        x = given["u"] * given["pregate"]
        y = torch.nn.functional.conv1d(x, given["k"].flip(1)[:, None], padding=6, groups=3)[..., :20]
        want = (y + x * given["skip"][:, None]) * given["postgate"]
        found = spec.op.reference(spec, {name: tensor.numpy() for name, tensor in given.items()})
        np.testing.assert_allclose(found, want.numpy(), atol=1e-12)

    @pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
    @pytest.mark.parametrize("causal", [True, False])
    def test_signals_of_every_shape_pass(self, dtype: str, causal: bool) -> None:
        length = 1024
        kind, t, rng = DTYPES[dtype], np.arange(length), np.random.default_rng(21)
        shapes = {
            "impulse": (t == 3) * 1.7,
            "constant": np.full(length, 0.9),
            "ramp": t / length,
            "wave": np.cos(2 * np.pi * 37 * t / length),
            "next wave": np.sin(2 * np.pi * 38 * t / length),
            "far wave": np.cos(2 * np.pi * (37 + 64) * t / length),
            "decay": np.exp(-t / 20.0),
            "noise": rng.standard_normal(length),
            "outlier": rng.standard_normal(length) * 0.01 + (t == 100) * 5.0,
        }
        op = FftConv(causal=causal)
        u = np.stack([np.stack([shape] * len(shapes)) for shape in shapes.values()])
        k = np.stack(list(shapes.values()))
        types = (TensorType(kind, u.shape), TensorType(f32, k.shape))
        spec = make_spec(op, tuple(map(Operand, op.operands, types)))
        given = {"u": round_to(kind, u), "k": round_to(f32, k)}
        allowed = op.tolerance(spec, given)
        error = np.abs(emulate(spec, given) - op.reference(spec, given))
        assert (error / allowed.element).max() <= 1.0
        for row, channel in np.ndindex(u.shape[:2]):  # each pair of shapes on its own, for the root mean square
            pair = {"u": given["u"][row : row + 1, channel : channel + 1], "k": given["k"][channel : channel + 1]}
            lone = make_spec(
                op, tuple(Operand(n, TensorType(t.dtype, pair[n].shape)) for n, t in zip("uk", types, strict=True))
            )
            assert max(excess(lone, emulate(lone, pair), pair)) <= 1.0

    @pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
    def test_a_sum_by_the_definition_in_runs_passes(self, dtype: str) -> None:
        spec = parse_spec(f"fft_conv[u: {dtype}(1,2,2048), k: f32(2,256)]")
        given = draw(spec, 22)
        y = convolve_direct(single(given["u"]), single(given["k"]), True)
        assert max(excess(spec, round_to(spec.output.dtype, y), given)) <= 1.0

    @pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
    def test_the_wrong_boundary_or_a_lost_gate_fails(self, dtype: str) -> None:
        rest = (
            f"[u: {dtype}(2,2,512), k: f32(2,512), pregate: {dtype}(2,2,512), postgate: {dtype}(2,2,512), skip: f32(2)]"
        )
        spec = parse_spec("fft_conv{pregate,postgate,skip}" + rest)
        given = draw(spec, 23)
        assert accepted(spec, emulate(spec, given), given)
        assert not accepted(
            spec, emulate(parse_spec("fft_conv{causal=false,pregate,postgate,skip}" + rest), given), given
        )
        for name in ("pregate", "postgate", "skip"):
            lost = given | {name: np.zeros_like(given[name]) if name == "skip" else np.ones_like(given[name])}
            assert not accepted(spec, emulate(spec, lost), given)

    def test_a_tiny_gated_result_of_zeros_fails(self) -> None:
        # The published tests of another library accept zeros here, since their absolute tolerance is above the result.
        spec = parse_spec("fft_conv{pregate}[u: bf16(1,2,4096), k: f32(2,4096), pregate: bf16(1,2,4096)]")
        given = draw(spec, 24, 0.02)
        assert accepted(spec, emulate(spec, given), given)
        assert not accepted(spec, np.zeros(spec.output.shape), given)

    def test_cost(self) -> None:
        short = parse_spec("fft_conv[u: f32(2,3,100), k: f32(3,4)]")
        assert short.op.cost(short).bytes == 4 * (2 * 3 * 100 * 2 + 3 * 4)
        assert short.op.cost(short).flops == 2 * 2 * 3 * (100 + 99 + 98 + 97)
        long = parse_spec(
            "fft_conv{pregate,skip}[u: bf16(2,3,4096), k: f32(3,9999), pregate: bf16(2,3,4096), skip: f32(3)]"
        )
        assert long.op.cost(long).bytes == 2 * 3 * 2 * 4096 * 3 + 4 * 3 * 4096 + 4 * 3
        transforms = (2 * 6 + 3) * (5 * 8192 * 13 // 2) + 6 * 3 * 8192
        assert long.op.cost(long).flops == transforms + 6 * 4096 * 3


class TestSpmm:
    def test_cost_of_each_pattern(self) -> None:
        def cost(attributes: str) -> tuple[int, int]:
            spec = parse_spec(f"spmm{{{attributes}}}[a: f16(64,128), b: f16(128,10)]")
            found = spec.op.cost(spec)
            return found.bytes - 2 * 10 * (64 + 128), found.flops

        assert cost("density=0.5") == (4096 * 2 + 64 * 128 // 8, 2 * 4096 * 10)
        assert cost("density=0.01") == (82 * 2 + 82 * 2 + 4 * 65, 2 * 82 * 10)
        assert cost('pattern="2:4"') == (4096 * 2 + 4096 // 4, 2 * 4096 * 10)
        assert cost("pattern=block,block=(16,16),density=0.25") == (8 * 256 * 2 + 4, 2 * 8 * 256 * 10)

    @pytest.mark.parametrize("text", [text for text in Spmm().samples() if "+" not in text])
    def test_pruning_fits_the_pattern_and_keeps_the_largest(self, text: str) -> None:
        spec = parse_spec(text)
        op = spec.op
        assert isinstance(op, Spmm)
        m, k = spec.input("a").static(0), spec.input("a").static(1)
        a = np.random.default_rng(25).standard_normal((m, k))
        kept = op.prune(a)
        assert np.count_nonzero(kept) == op.nonzeros(m, k)
        assert (kept[kept != 0] == a[kept != 0]).all()
        if op.pattern == "2:4":
            assert (np.count_nonzero(kept.reshape(m, -1, 4), axis=2) == 2).all()
            assert (
                np.abs(kept.reshape(m, -1, 4)).max(axis=2).tolist() == np.abs(a.reshape(m, -1, 4)).max(axis=2).tolist()
            )
        if op.pattern == "unstructured":
            assert np.abs(a[kept == 0]).max(initial=0.0) <= np.abs(kept[kept != 0]).min()
        rows, columns = op.block
        filled = np.count_nonzero(kept.reshape(m // rows, rows, k // columns, columns), axis=(1, 3))
        assert op.pattern == "2:4" or set(filled.ravel().tolist()) <= {0, rows * columns}

    def test_reference_is_torchs_sparse_product(self) -> None:
        spec = parse_spec("spmm{density=0.2}[a: f32(9,14), b: f32(14,5)]")
        given = draw(spec, 26)
        want = torch.sparse.mm(torch.from_numpy(given["a"]).to_sparse(), torch.from_numpy(given["b"]))
        np.testing.assert_allclose(spec.op.reference(spec, given), want.numpy(), atol=1e-13)

    def test_the_bound_counts_nonzeros_not_columns(self) -> None:
        spec = parse_spec("spmm{density=0.01}[a: f32(16,4096), b: f32(4096,8)]")
        given = draw(spec, 27)
        dense = parse_spec("spmm{density=1.0}[a: f32(16,4096), b: f32(4096,8)]")
        full = given | {"a": np.where(given["a"] == 0, 1e-30, given["a"])}
        assert spec.op.tolerance(spec, given).element.max() < 0.5 * dense.op.tolerance(dense, full).element.max()


def test_binding_refuses_what_the_symbol_does_not_promise() -> None:
    spec = parse_spec("gemm[x: f32(M%8,64), w: f32(48,64)]")
    assert spec.bind(M=16).output.shape == (16, 48)
    with pytest.raises(SpecError, match="M=12 is not a multiple of 8"):
        spec.bind(M=12)


def test_operands_must_be_those_of_the_op() -> None:
    spec = parse_spec("gemm[x: f32(4,64), w: f32(48,64)]")
    with pytest.raises(SpecError, match="takes operands x, w, not w, x"):
        make_spec(spec.op, spec.inputs[::-1])
    with pytest.raises(SpecError, match="it has x, w"):
        spec.input("y")
    with pytest.raises(SpecError, match="cast last"):
        make_spec(spec.op, spec.inputs, (Cast(f16), Scale(2.0)))


def test_a_cast_to_the_outputs_own_dtype_is_left_out() -> None:
    """Its text would be that of a spec without it, and the two would not be equal."""
    spec = parse_spec("gemm[x: f32(4,64), w: f32(48,64)] + relu")
    assert make_spec(spec.op, spec.inputs, (*spec.epilogue, Cast(f32))) == spec


def test_a_factor_that_no_float_holds_is_refused() -> None:
    for factor in (math.inf, -math.inf, math.nan, 10**400):
        with pytest.raises(SpecError, match="not finite"):
            Scale(factor)
        with pytest.raises(SpecError, match="not a finite number"):
            Attention(scale=factor)


def test_the_cost_of_a_quantised_weight_is_its_storage() -> None:
    spec = parse_spec("gemm[x: f32(1,96), w: uint3:g32:zero@dense(10,96)]")
    fmt = spec.input("w").format
    assert fmt is not None
    place = storage("dense", fmt, 10, 96)
    assert spec.op.cost(spec).bytes == 4 * 96 + place.bytes + 4 * 10


@pytest.mark.parametrize(
    "epilogue", ["", " + relu + bias", " + silu", " + gelu + residual", " + gelu_tanh", " + scale(-2)"]
)
def test_infinities_leave_no_gap_in_the_bounds(epilogue):
    """Wherever the reference is finite its bound is too: relu(-inf) is 0, and a NaN for a bound would refuse it."""
    spec = parse_spec(f"gemm[x: f32(4,16), w: f32(8,16)]{epilogue}")
    rng = np.random.default_rng(1)
    shapes = {o.name: tuple(o.type.shape) for o in (*spec.inputs, *spec.extra_operands)}
    operands = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    operands["x"][1, 3], operands["x"][2, 5], operands["x"][3, 7] = np.inf, -np.inf, np.nan
    want, bound = spec.op.reference(spec, operands), spec.op.tolerance(spec, operands)
    finite = np.isfinite(want)
    assert finite[0].all()
    assert not finite.all()
    assert np.isfinite(bound.element[finite]).all()
    assert np.isfinite(bound.rms)
    assert (bound.element[0] > 0).all()
