"""The emitted Triton kernels against float64, under Triton's interpreter; what is emitted is built for every target."""

from __future__ import annotations

import random

import pytest
import torch

from gridstone.ir.errors import MismatchError
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache.artefact import unpack
from gridstone.kernel_cache.make import build
from gridstone.kernel_cache.toolchain_triton import TritonToolchain
from gridstone.lower.target import parse_target
from gridstone.proof.cubin import broken_promises, read_report
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
    case = Case(SPLIT, 9, schedule=f"small(block_m=8,block_n=32,k_splits=4,ordered={str(ordered).lower()})")
    assert_right(case)
    first, *others = outputs(case, (2, 3))
    assert torch.isfinite(first).all()
    assert ordered <= all(torch.equal(first, other) for other in others)


def test_one_text_takes_any_number_of_rows():
    """Breaks when M gets into the text, or a row tile's remainder is wrong."""
    text = "gemm[x: bf16(M,160), w: int4:g32(33,160)] + residual"
    texts = {source_of(Case(text, rows, schedule="small(block_m=8,k_splits=1)")).text for rows in (1, 8, 31)}
    assert len(texts) == 1
    for rows in (1, 8, 31):
        assert_right(Case(text, rows, schedule="small(block_m=8,k_splits=1)"))


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
    "a scale is dropped": ("load_scales(w, n0, k)[:, None] * tl.dot", "tl.dot", SMALL),
    "a scale of the group before": ("tl.minimum(k // GROUP_K,", "tl.minimum(k // GROUP_K - 1,", LARGE),
    "nibbles in the wrong order": (
        "tl.join(tl.join(a, b), tl.join(c, d))", "tl.join(tl.join(a, c), tl.join(b, d))", SMALL,
    ),
    "k of a pair in the wrong order": ("tl.join(near, far)", "tl.join(far, near)", LARGE),
    "row halves swap zero points": (
        "load_zeros(w, n0, k, 0), load_zeros(w, n0, k, 1)", "load_zeros(w, n0, k, 1), load_zeros(w, n0, k, 0)", SMALL,
    ),
    "the last program is not waited for": ("== SPLITS - 1", "== SPLITS - 2", SMALL),
    "one part is left out": ("for s in range(SPLITS)", "for s in range(SPLITS - 1)", SMALL),
    "tickets are left behind": ("tl.store(tickets + parts_tile, 0)", "pass", SMALL),
}  # fmt: skip


@pytest.mark.parametrize("plant", one_in(2, PLANTS))
def test_the_check_finds_planted_faults(plant):
    """Negative controls: a wrong text is either refused or judged wrong."""
    old, new, recipe = PLANTS[plant]
    schedule = "small(block_m=16,k_splits=4)" if recipe == SMALL else "large(block_m=32,block_n=64,block_k=64,warps=4)"
    case = Case("gemm[x: f16(M,544), w: uint4:g32:zero(34,544)] + bias", 9, recipe, schedule)
    assert_right(case)
    try:
        found = verdict(case, change=lambda text: text.replace(old, new))
    except MismatchError:
        return
    assert not found.right


def test_the_ptx_that_is_checked_is_the_one_that_is_emitted():
    """Negative control of the run of inline PTX: a wrong constant in it is found, and only where it runs."""
    case = Case("gemm[x: f16(M,128), w: int4:g128(32,128)]", 4)
    for asm in (False, True):
        changed = Case(case.spec, case.rows, asm=asm)
        found = verdict(changed, change=lambda text: text.replace("0x00F000F0, 0x64006400", "0x00F000F0, 0x65006400"))
        assert found.right is not asm


@pytest.mark.slow
@pytest.mark.parametrize("recipe", NAMES)
def test_every_schedule_of_a_small_space(recipe):
    text = "gemm[x: bf16(M,128), w: int4:g32:zero(40,128)] + bias"
    for schedule in schedules(recipe_named(recipe), text, 20):
        assert_right(Case(text, 20, recipe, schedule))


LARGE_SPACES = {
    SMALL: ("gemm[x: f16(M,1056), w: int8:channel(70,1056)] + bias", 40),
    LARGE: ("gemm[x: f16(M,352), w: int8:channel(260,352)] + bias", 140),
}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("recipe", NAMES)
def test_many_schedules_of_a_large_space(recipe):
    text, rows = LARGE_SPACES[recipe]
    found = schedules(recipe_named(recipe), text, rows)
    for at, schedule in enumerate(random.Random(5).sample(found, min(200, len(found)))):
        assert_right(Case(text, rows, recipe, schedule, asm=at % 2 == 0), seed=at)


@pytest.mark.slow
@pytest.mark.timeout(1800)
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
