"""The emitted Triton kernels against float64, under Triton's interpreter; what is emitted is built for every target."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from gridstone.ir.errors import MismatchError
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache.artefact import unpack
from gridstone.kernel_cache.make import build
from gridstone.kernel_cache.toolchain_triton import TritonToolchain
from gridstone.lower.schedule import parse_schedule
from gridstone.lower.target import parse_target
from gridstone.proof.cubin import broken_promises, read_report
from gridstone.proof.interpret import interpreted
from gridstone.proof.operands import draw_operands
from gridstone.templates.emit import emit
from gridstone.templates.registry import default_recipe, recipe_named, refusals
from tests.quick import one_in
from tests.templates.test_golden import SPECS
from tests.templates.triton_kernels import (
    HOST,
    LARGE,
    NAMES,
    SMALL,
    TRITON,
    TRITON_TARGETS,
    Case,
    assert_order_does_not_matter,
    assert_right,
    drawn_cases,
    outputs,
    schedules,
    source_of,
    verdict,
)

pytestmark = pytest.mark.skipif(TritonToolchain().missing() is not None, reason="no Triton")

SPLIT = "gemm[x: bf16(M,576), w: int4:g64:zero(40,576)] + bias"
# Every format, dtype, group, scale, epilogue and numerics class once; N and K off every tile.
QUICK = (
    Case("gemm[x: f16(M,256), w: int4:g128(100,256)]", 5, asm=True),
    Case("gemm[x: bf16(M,352), w: int4:g32(75,352)] + bias + gelu", 17),
    Case("gemm[x: bf16(M,96), w: uint4:g16:zero(100,96)] + bias + gelu_tanh", 1, asm=True),
    Case("gemm[x: f16(M,80), w: int8:g16:bf16(70,80)] + silu", 33, asm=True),
    Case("gemm[x: bf16(M,200), w: uint8:channel:zero(75,200)] + residual", 7, schedule="small(block_k=256)", asm=True),
    Case("gemm[x: f32(M,77), w: int8:channel:f32(33,77)] + bias:f32 + silu + residual", 13),
    Case("gemm[x: f32(M,192), w: uint4:g64:zero(65,192)] + scale(0.37) + relu; tf32", 16),
    Case("gemm[x: f32(M,96), w: int4:g32(40,96)] + bias -> f32(M,40); bf16", 24),
    Case(
        "gemm[x: f16(M,512), w: uint8:g256:zero(17,512)] + residual + relu -> f32(M,17)", 3, schedule="small(block_m=8)"
    ),
    Case("gemm[x: bf16(M,200), w: int8:channel(130,200)]", 80, LARGE),
    Case("gemm[x: f16(M,384), w: int4:g128:f32:zero(150,384)] + bias + gelu", 77, LARGE, asm=True),
    Case("gemm[x: f32(M,64), w: uint8:g32(70,64)] + bias; exact ordered", 65, LARGE, "large(block_m=32,group_m=4)"),
)


@pytest.mark.parametrize("case", one_in(2, QUICK), ids=str)
def test_kernels_are_right(case):
    """Breaks when a decoder, a group, a tail, a mask, an epilogue or a cast is wrong."""
    assert_right(case)


@pytest.mark.parametrize("ordered", [True, False])
def test_programs_that_share_k(ordered):
    """Sums meet in scratch, which unordered ones leave zero; in order, the last program to come changes no bit."""
    case = Case(SPLIT, 9, schedule=f"small(block_m=8,block_n=32,block_k=64,k_splits=4,ordered={str(ordered).lower()})")
    assert_right(case)
    first, *others = outputs(case, (2, 3))
    assert torch.isfinite(first).all()
    assert ordered <= all(torch.equal(first, other) for other in others)


def test_one_text_takes_any_number_of_rows():
    """Breaks when M gets into the text, or a row tile's remainder is wrong."""
    text = "gemm[x: bf16(M,160), w: int4:g32(33,160)] + residual"
    recipe, case = recipe_named(SMALL), Case(text, 1, schedule="small(block_m=8,k_splits=1)")
    schedule = parse_schedule(case.schedule, recipe.schedule, recipe.space.default(case.any_rows, HOST))
    bodies = {
        emit(recipe, spec, schedule, HOST).text.partition("import triton")[2]
        for spec in (case.any_rows, *(case.any_rows.bind(M=rows) for rows in (8, 31)))
    }
    assert len(bodies) == 1
    for rows in (1, 8, 31):
        assert_right(replace(case, rows=rows))


def test_every_code_and_zero_point_is_decoded_by_ptx_as_by_its_twin():
    """All 256 codes beside every kind of operand: the two ways of decoding give the same bits."""
    for x, code, scale in (
        ("f16", "uint4", "f16"),
        ("bf16", "int4", "bf16"),
        ("f16", "int8", "f32"),
        ("bf16", "uint8", "f16"),
    ):
        text = f"gemm[x: {x}(M,512), w: {code}:g64:{scale}:zero(64,512)]"
        (plain,), (ptx,) = outputs(Case(text, 3), (1,)), outputs(Case(text, 3, asm=True), (1,))
        assert torch.equal(plain, ptx)


PLANTS = {
    "a mask of M is dropped": (" & (rows < m)[None, :]\n", "\n", SMALL),
    "a mask of K is dropped": (" & (columns < K)[None, :]", "", LARGE),
    "a scale is dropped": ("scale * tl.dot", "tl.dot", SMALL),
    "a scale of the group before": ("tl.minimum(k // GROUP_K +", "tl.minimum(k // GROUP_K - 1 +", LARGE),
    "scales are those of the step before": ("load_scales(w, n0, after)", "load_scales(w, n0, k)", LARGE),
    "halves of a step's groups change places": (
        "low, high = tl.split(tl.permute(tl.reshape(v", "high, low = tl.split(tl.permute(tl.reshape(v", SMALL,
    ),
    "nibbles in the wrong order": (
        "tl.join(tl.join(a, b), tl.join(c, d))", "tl.join(tl.join(a, c), tl.join(b, d))", SMALL,
    ),
    "k of a pair in the wrong order": ("tl.join(near, far)", "tl.join(far, near)", LARGE),
    "row halves swap zero points": (
        "load_zeros(w, n0, k, 0), load_zeros(w, n0, k, 1)", "load_zeros(w, n0, k, 1), load_zeros(w, n0, k, 0)", SMALL,
    ),
    "the last program is not waited for": ("== SPLITS - 1", "== SPLITS - 2", SMALL),
    "one part is left out": ("for s in range(SPLITS)", "for s in range(SPLITS - 1)", SMALL),
    "an output is NaN": ("a.to(tl.", "(a * float('nan')).to(tl.", SMALL),
    "an output is not written": ("mask=inside)\n", "mask=inside & (n != 33)[:, None])\n", LARGE),
    "tickets are left behind": ("tl.store(tickets + parts_tile, 0)", "pass", SMALL),
}  # fmt: skip


@pytest.mark.parametrize("plant", one_in(2, PLANTS))
def test_the_check_finds_planted_faults(plant):
    """Negative controls: a wrong text is either refused or judged wrong."""
    old, new, recipe = PLANTS[plant]
    schedule = (
        "small(block_m=16,block_n=64,block_k=64,k_splits=4)"
        if recipe == SMALL
        else "large(block_m=32,block_n=64,block_k=64,warps=4)"
    )
    case = Case("gemm[x: f16(M,544), w: uint4:g32:zero(34,544)] + bias", 9, recipe, schedule)
    assert_right(case)
    try:
        found = verdict(case, change=lambda text: text.replace(old, new))
    except MismatchError:
        return
    assert not found.right


ESCAPES = {
    "x": ("(rows < m)[:, None] & ", ""),
    "w": ("tl.load(places, mask=(n < PADDED_N)[None, :], other=0)", "tl.load(places)"),
    "bias": ("tl.load(bias + n, mask=n < N, other=0.0)", "tl.load(bias + n)"),
    "residual": ("tl.load(residual + n[:, None] + (rows * ldr)[None, :], mask=inside, other=0.0)",
                 "tl.load(residual + n[:, None] + (rows * ldr)[None, :], mask=(n < N)[:, None])"),
    "y": ("(rows * ldy)[None, :], a.to(tl.float16), mask=inside)", "(rows * ldy)[None, :], a.to(tl.float16))"),
}  # fmt: skip


@pytest.mark.parametrize("operand", one_in(3, ESCAPES))
def test_an_access_past_the_end_of_an_operand_is_reported(operand):
    """Some of these change no result, and a GPU may let them pass; the wrong address alone gives them away."""
    k = 128 if operand == "w" else 96  # the scales of four groups end with the buffer, and 96 is off every tile
    spec = f"gemm[x: f16(M,{k}), w: int8:g32(33,{k})] + bias + residual"
    case = Case(spec, 5, schedule="small(block_n=64,k_splits=1)")
    what = "store" if operand == "y" else "load"
    with pytest.raises(MismatchError, match=rf"a {what} of byte \d+ of {operand}, which has \d+, in program") as raised:
        verdict(case, change=lambda text: text.replace(*ESCAPES[operand]))
    assert " at line " in str(raised.value)
    assert "5 rows\nschedule  small(" in raised.value.__notes__[0]


def test_rows_that_are_not_aligned_take_the_other_loop():
    """A kernel for whole pieces of x is told by a view whether it has them."""
    case = Case("gemm[x: f16(M,96), w: int4:g32(33,96)]", 7, schedule="small(k_splits=1)")
    source, (x, w) = source_of(case), draw_operands(case.static, 3).tensors
    want = interpreted(source, case.static)(x, w, out=torch.empty(7, 33, dtype=torch.float16))
    for pad, first in ((8, 0), (5, 0), (8, 1)):  # elements behind each row, and before all of them
        view = torch.full((7 * (96 + pad) + first,), float("nan"), dtype=torch.float16)
        view = view[first:].view(7, 96 + pad)[:, :96].copy_(x)
        found = interpreted(source, case.static)(view, w, out=torch.empty(7, 33, dtype=torch.float16))
        assert torch.equal(found, want)
    promise = ("(x.to(tl.int64) | ldx * X_BYTES) % 16 == 0", "x.to(tl.int64) != 0")
    wrong = replace(source, text=source.text.replace(*promise))
    with pytest.raises(MismatchError, match="past a multiple of 16, which the kernel promises"):
        interpreted(wrong, case.static)(view, w, out=torch.empty(7, 33, dtype=torch.float16))


def test_the_ptx_that_is_checked_is_the_one_that_is_emitted():
    """Negative control of the run of inline PTX: a wrong constant in it is found, and only where it runs."""
    case = Case("gemm[x: f16(M,128), w: int4:g128(32,128)]", 4)
    for asm in (False, True):
        changed = Case(case.spec, case.rows, asm=asm)
        found = verdict(changed, change=lambda text: text.replace("0x00F000F0, 0x64006400", "0x00F000F0, 0x65006400"))
        assert found.right is not asm


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("recipe", NAMES)
def test_every_schedule_of_a_small_space(recipe):
    """N and K off every tile; rows anew for each."""
    text, rng = "gemm[x: bf16(M,160), w: int4:g32:zero(40,160)] + bias", random.Random(3)
    for schedule in schedules(recipe_named(recipe), text):
        case = Case(text, rng.randint(1, 80), recipe, schedule, rng.random() < 0.5)
        assert_right(case)
        assert_order_does_not_matter(case)


LARGE_SPACES = {
    SMALL: ("gemm[x: f16(M,1065), w: int8:channel(70,1065)] + bias",),
    LARGE: ("gemm[x: f16(M,357), w: int8:channel(530,357)] + bias", "gemm[x: bf16(M,320), w: uint4:g64:zero(530,320)]"),
}


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(8))
@pytest.mark.parametrize("recipe", NAMES)
def test_many_schedules_of_a_large_space(recipe, part):
    """200 of each recipe, in parts."""
    found = [(text, schedule) for text in LARGE_SPACES[recipe] for schedule in schedules(recipe_named(recipe), text)]
    drawn = random.Random(5).sample(found, 200)
    for seed, (text, schedule) in list(enumerate(drawn))[part::8]:
        rows = random.Random(seed).randint(1, 80)
        case = Case(text, rows, recipe, schedule, seed % 2 == 0)
        assert_right(case, seed)
        assert_order_does_not_matter(case)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("case", list(drawn_cases(seed=7, count=200)), ids=str)
def test_many_drawn_cases(case):
    assert_right(case)


def _golden_source(recipe, kind, target):
    found, on, spec = recipe_named(recipe), parse_target(target), parse_spec(SPECS[kind])
    return emit(found, spec, found.space.default(spec.with_storage(on.storage), on), on), on


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("recipe", NAMES)
def test_goldens(recipe, kind, golden):
    """A changed golden is read by a person before it is accepted."""
    golden(f"{recipe}.{kind}.py", _golden_source(recipe, kind, str(HOST))[0].text)


def _built(recipe, kind, target):
    source, on = _golden_source(recipe, kind, target)
    artefact = unpack(build(source, on).read_bytes())
    assert (artefact.entry, artefact.threads) == (source.entry, source.launch.grid.threads)
    return source, artefact, on


def test_a_golden_is_built_and_keeps_its_promises():
    """What makes the recipe fast shows in its machine code: wide asynchronous copies, wgmma, nothing spilled."""
    _, artefact, on = _built(SMALL, "aligned", "triton:sm_90")
    report = read_report(artefact, on)
    assert broken_promises(report, recipe_named(SMALL).promises) == ()
    assert report.count("HGMMA") > 0


@pytest.mark.slow
@pytest.mark.parametrize("target", [str(target) for target in TRITON_TARGETS])
@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("recipe", NAMES)
def test_every_golden_is_built_for_every_target(recipe, kind, target):
    source, artefact, on = _built(recipe, kind, target)
    assert broken_promises(read_report(artefact, on), recipe_named(recipe).promises) == ()
    assert artefact.shared_bytes <= on.l1_bytes
    assert source.launch.grid.shared_bytes >= 0.9 * artefact.shared_bytes, "the estimate is too low to be of use"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("gemm[x: f32(M,64), w: f32(70,64)]", "the weight is a plain f32 matrix; the Triton recipes multiply with"),
        ("gemm[x: f32(M,64), w: int3:g32(70,64)]", "codes of 3 bits; the Triton recipes decode 4 and 8 bits"),
        ("gemm[x: f32(M,64), w: int4:g32@dense(70,64)]", "stored as dense; the Triton recipes read mma16"),
        ("gemm[x: bf16(M,64), w: int8:g32(70,64)]; int8_act", "numerics int8_act are not implemented in Triton"),
        ("gemm[x: f64(M,64), w: int8:g32(70,64)]", "x is f64; the Triton recipes read f32, bf16, f16"),
        ("gemm[x: bf16(M,64), w: int8:g32(70,64)] -> f16(M,70)", "an output of f16 for activations of bf16"),
    ],
)
def test_what_triton_does_not_compute_is_refused_with_a_reason(text, reason):
    assert default_recipe(parse_spec(text), HOST) is None
    assert any(reason in each for each in refusals(parse_spec(text), HOST))


@pytest.mark.parametrize(("rows", "name"), [(1, SMALL), (64, SMALL), (65, LARGE), ("M", LARGE)])
def test_the_default_recipe_by_rows(rows, name):
    found = default_recipe(parse_spec(f"gemm[x: f16({rows},512), w: int4:g128(256,512)]"), HOST)
    assert found is not None
    assert found.name == name
    assert found in TRITON
