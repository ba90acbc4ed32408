"""The text of specs: reading it back gives the same spec, and every error says where and what instead."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridstone.ir.dtype import DTYPES, bf16, f16, f32
from gridstone.ir.epilogue import ACTIVATIONS, Activation, Bias, Cast, Epilogue, Residual, Scale
from gridstone.ir.errors import FormatError, GridstoneError, SpecError
from gridstone.ir.format import CHANNEL, CODES, GROUPS, SCALES, Format
from gridstone.ir.ops import OPS
from gridstone.ir.ops.attention import Attention
from gridstone.ir.ops.fft_conv import FftConv
from gridstone.ir.ops.gemm import Gemm
from gridstone.ir.ops.spmm import Spmm
from gridstone.ir.spec import Numerics, NumericsClass, Op, Operand, Spec, make_spec
from gridstone.ir.storage import STORAGES
from gridstone.ir.tensor import Dim, Extent, TensorType, quantized
from gridstone.ir.text import parse_spec, parse_type, print_spec

SAMPLES = [text for op in OPS.values() for text in op().samples()]
FLOATS = st.sampled_from([f32, bf16, f16])
STATIC = st.integers(1, 10**6)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
DIMS = st.builds(Dim, st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,6}", fullmatch=True), st.integers(1, 64))
EXTENTS: st.SearchStrategy[Extent] = STATIC | DIMS


@st.composite
def weights(draw: st.DrawFn, k: int) -> TensorType:
    groups = [CHANNEL, *(group for group in GROUPS if k % group == 0)]
    scales, codes = st.sampled_from(list(SCALES.values())), st.sampled_from(list(CODES.values()))
    fmt = Format(draw(codes), draw(st.sampled_from(groups)), draw(scales), draw(st.booleans()))
    return quantized(fmt, (draw(STATIC), k), draw(st.sampled_from(["", *STORAGES])))


@st.composite
def computations(draw: st.DrawFn) -> tuple[Op, tuple[TensorType, ...]]:
    of = draw(FLOATS)
    match draw(st.sampled_from(list(OPS))):
        case "gemm":
            k = draw(STATIC)
            plain = TensorType(of, (draw(STATIC), k))
            return Gemm(), (TensorType(of, (draw(EXTENTS), k)), draw(st.just(plain) | weights(k)))
        case "attention":
            bounds = st.none() | st.integers(0, 999)
            window = draw(st.none() | st.tuples(bounds, bounds.filter(lambda right: right != 0)))
            causal = draw(st.booleans())
            if causal:
                window = draw(st.none() | st.tuples(st.integers(0, 999), st.just(0)))
            elif window == (None, None):
                window = None
            masked = causal or window is not None
            align = draw(st.sampled_from(["top_left", "bottom_right"])) if masked else "none"
            softcap = draw(st.none() | st.floats(1e-300, 1e300) | st.integers(1, 99))
            op = Attention(causal, window, align, draw(st.none() | FINITE), softcap)
            b, s, t, d, dv, hk = draw(EXTENTS), draw(EXTENTS), draw(EXTENTS), draw(STATIC), draw(STATIC), draw(STATIC)
            q = TensorType(of, (b, hk * draw(st.integers(1, 8)), s, d))
            return op, (q, TensorType(of, (b, hk, t, d)), TensorType(of, (b, hk, t, dv)))
        case "fft_conv":
            conv = FftConv(draw(st.booleans()), draw(st.booleans()), draw(st.booleans()), draw(st.booleans()))
            u = TensorType(of, (draw(EXTENTS), draw(STATIC), draw(EXTENTS)))
            given_types = {
                "u": u,
                "k": TensorType(draw(st.sampled_from([of, f32])), u.shape[1:]),
                "skip": TensorType(f32, u.shape[1:2]),
            }
            return conv, tuple(given_types.get(name, u) for name in conv.operands)
        case _:
            pattern = draw(st.sampled_from(["unstructured", "block", "2:4"]))
            rows, columns = draw(st.tuples(st.integers(2, 64), st.integers(1, 64))) if pattern == "block" else (1, 1)
            density = 0.5 if pattern == "2:4" else draw(st.floats(0, 1, exclude_min=True))
            m, k = rows * draw(STATIC), 4 * columns * draw(STATIC)
            op = Spmm(pattern, density, (rows, columns))
            return op, (TensorType(of, (m, k)), TensorType(of, (k, draw(EXTENTS))))


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    op, types = draw(computations())
    factors, every = st.builds(Scale, FINITE | st.integers(-9, 9)), st.sampled_from(list(DTYPES.values()))
    steps: list[Epilogue] = draw(
        st.lists(factors | st.builds(Activation, st.sampled_from(list(ACTIVATIONS))), max_size=3)
    )
    for kind in (Bias, Residual):
        if draw(st.booleans()):
            steps.insert(draw(st.integers(0, len(steps))), kind(draw(FLOATS)))
    cast = draw(st.none() | every)
    if cast is not None:
        steps.append(Cast(cast))
    kinds = [NumericsClass.EXACT, NumericsClass.TF32, NumericsClass.BF16]
    if isinstance(op, Gemm) and types[1].format is not None:
        kinds = list(NumericsClass)
    numerics = Numerics(draw(st.sampled_from(kinds)), draw(st.booleans()))
    return make_spec(op, tuple(map(Operand, op.operands, types)), tuple(steps), numerics)


@given(specs())
def test_any_spec_reads_back_as_itself(spec: Spec) -> None:
    text = print_spec(spec)
    assert parse_spec(text) == spec
    assert print_spec(parse_spec(text)) == text
    assert hash(parse_spec(text)) == hash(spec)


@given(specs())
def test_any_type_reads_back_as_itself(spec: Spec) -> None:
    for operand in spec.inputs:
        assert parse_type(str(operand.type)) == operand.type


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_our_error(noise: bytes) -> None:
    for read in (parse_spec, parse_type):
        with pytest.raises(GridstoneError):
            read(noise.decode("latin-1"))


PIECES = """-> [ ] ( ) { } : , ; % @ = + - 0 1 -1 1e999 99999999999999999999 1.5 nan inf
"2:4" " true none f32 int4 lane16 M bias cast scale""".split()  # noqa: SIM905  a list of 40 quoted marks is unreadable


@given(st.data())
def test_no_damaged_text_raises_anything_but_our_error(data: st.DataObject) -> None:
    """Cut, doubled, swapped and foreign pieces of valid texts reach deeper than noise does."""
    text = data.draw(st.sampled_from(SAMPLES))
    for _ in range(data.draw(st.integers(1, 4))):
        start, end = (data.draw(st.integers(0, len(text))) for _ in range(2))
        text = text[:start] + data.draw(st.sampled_from(PIECES) | st.text(max_size=3)) + text[end:]
    try:
        spec = parse_spec(text)
    except GridstoneError:
        return
    assert parse_spec(print_spec(spec)) == spec


GOOD = "gemm[x: bf16(M,256), w: int4:g128(64,256)]"


@pytest.mark.parametrize(
    ("marked", "message"),
    [
        ("gemm[x: bf16(M,256), w: int4:g128(64,256)|", "expected ',', found 'the end'"),
        ("gemm[x |bf16(M,256)]", "expected ':', found 'bf16'"),
        ("gemm[x: bf16(M,256) |? w]", "unexpected '?'"),
        ("gemm[x: bf16(M,|\u00a0256)]", "unexpected '\\xa0'"),
        ("|gemn[x: bf16(M,256)]", "did you mean gemm?"),
        ("gemm{|k=1}[x: bf16(M,256)]", "gemm has no attributes"),
        ("attention{|casual}[q: f32(1,2,S,16)]", "did you mean causal"),
        ("attention{causal,|causal}[q: f32(1,2,S,16)]", "given twice"),
        ("attention{window=((((((((|((1))))))))))}[q: f32(1)]", "nested more than 8 deep"),
        ("gemm[x: |f23(M,256), w: int4:g128(64,256)]", "did you mean"),
        ("gemm[x: f32(M,256), w: |int44:g128(64,256)]", "did you mean int4"),
        ("gemm[x: f32(M,256), w: |int4:h128(64,256)]", "unknown part 'h128'"),
        ("gemm[x: f32(M,256), w: int4:g128@|lane61(64,256)]", "did you mean lane16?"),
        ("gemm[x: |f32@lane16(M,256), w: int4:g128(64,256)]", "has no storage 'lane16'"),
        ("gemm[x: f32(M,|-1), w: int4:g128(64,256)]", "negative extent -1"),
        ("gemm[x: f32(M,|2.5), w: int4:g128(64,256)]", "expected an integer, found '2.5'"),
        ("gemm[x: f32(M,|" + "9" * 5000 + ")]", "more than 18 digits"),
        (GOOD + " + bias:|f23", "unknown dtype 'f23'"),
        (GOOD + " + |gello", "did you mean gelu"),
        (GOOD + " + scale(|x)", "expected a number, found 'x'"),
        (GOOD + "; |exakt", "did you mean exact?"),
        (GOOD + "; exact |order", "unexpected 'order'"),
        (GOOD + "\n + bias\n + |gello", "did you mean gelu"),
    ],
)
def test_an_error_points_at_its_place(marked: str, message: str) -> None:
    """The bar stands before the token that is wrong."""
    text, at = marked.replace("|", ""), marked.index("|")
    with pytest.raises(GridstoneError) as caught:
        parse_spec(text)
    shown = str(caught.value)
    assert message in shown
    assert f"at column {at + 1}\n" in shown
    _, line, caret, *_ = shown.splitlines()
    assert line.strip() in text
    assert line[caret.index("^") :] == text[at:].partition("\n")[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + " -> bf16(M,65)", "is not what gemm gives"),
        (GOOD + " + scale(inf)", "not finite"),
        (GOOD + " + bias + residual + bias", "two bias epilogues"),
        ("gemm[x: bf16(M%0,256), w: int4:g128(64,256)]", "cannot be a multiple of 0"),
        ("gemm[w: bf16(M,256), x: int4:g128(64,256)]", "takes operands x, w, not w, x"),
        ("gemm[]", "takes operands x, w, not"),
    ],
)
def test_a_spec_that_does_not_fit_is_refused(text: str, message: str) -> None:
    with pytest.raises(GridstoneError) as caught:
        parse_spec(text)
    assert message in str(caught.value)


def test_the_class_of_an_error_survives_its_place() -> None:
    with pytest.raises(FormatError):
        parse_spec("gemm[x: f32(M,256), w: int4:g17(64,256)]")
    with pytest.raises(SpecError):
        parse_type("f23(4)")


def test_space_and_optional_parts_do_not_matter() -> None:
    long = parse_spec(
        "gemm [ x : bf16 ( M , 256 ) , w : int4:g128 ( 64 , 256 ) ]\n+ bias : bf16 + silu -> bf16(M,64) ; exact"
    )
    assert long == parse_spec("gemm[x:bf16(M,256),w:int4:g128(64,256)]+bias+silu")
    assert print_spec(long) == GOOD + " + bias + silu -> bf16(M,64)"


def test_literals() -> None:
    rest = "[q: f32(1,2,S,16), k: f32(1,2,T,16), v: f32(1,2,T,16)]"
    bare, spelled = (f"attention{{{flag},align=top_left}}{rest}" for flag in ("causal", "causal=true"))
    assert parse_spec(bare) == parse_spec(spelled)
    window = parse_spec(f"attention{{window=(3,none,),align=top_left}}{rest}")
    assert window.op == Attention(window=(3, None), align="top_left")
    assert "window=(3,none)" in print_spec(window)
    whole, real = (parse_spec(f"attention{{scale={scale}}}{rest}") for scale in ("2", "2.0"))
    assert print_spec(whole) == print_spec(real)
    assert math.isclose(parse_spec(f"attention{{scale=-1e-3}}{rest}").op.scale, -1e-3)
    sparse = parse_spec('spmm{pattern="2:4"}[a: f32(4,8), b: f32(8,N)]')
    assert print_spec(sparse).startswith('spmm{pattern="2:4"}[')
    assert parse_spec('spmm{pattern="block",block=(2,2)}[a: f32(4,8), b: f32(8,N)]').op == Spmm("block", 0.5, (2, 2))


def test_a_bias_of_the_outputs_dtype_is_bare() -> None:
    wide = parse_spec(GOOD + " + bias -> f32(M,64)")
    assert wide.epilogue == (Bias(f32), Cast(f32))
    own = parse_spec(GOOD + " + bias:bf16 -> f32(M,64)")
    assert own.epilogue == (Bias(bf16), Cast(f32))
    assert "bias:bf16" in print_spec(own)
