"""Search spaces: what is enumerated is exactly what the constraints allow; schedules as text."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridstone.ir.errors import ScheduleError
from gridstone.ir.text import parse_spec
from gridstone.lower.bucket import generalize
from gridstone.lower.passes import lower
from gridstone.lower.schedule import Choice, Constraint, SearchSpace, parse_schedule, print_schedule
from gridstone.lower.target import TARGETS, Language, parse_target
from gridstone.templates.registry import RECIPES, recipe_named

SPECS = (
    "gemm[x: bf16(1,4096), w: int4:g128(1024,4096)] + bias + silu",
    "gemm[x: f32(3,4096), w: uint8:g32:zero(1024,4096)]",
    "gemm[x: f32(64,512), w: int4:g64:f32(4096,512)]; bf16",
    "gemm[x: bf16(300,77), w: int8:channel(100,77)]",
    "gemm[x: f16(M,256), w: uint4:g256(64,256)]",
    "gemm[x: bf16(M,48), w: int4:g16:zero(64,48)]; bf16",
)
CPP = tuple(recipe for recipe in RECIPES if recipe.language is Language.CPP)
TARGETS_CPP = tuple(target for target in TARGETS.values() if target.language is Language.CPP)
every_recipe = pytest.mark.parametrize("recipe", CPP, ids=lambda recipe: recipe.name)
every_target = pytest.mark.parametrize("target", TARGETS_CPP, ids=str)
every_spec = pytest.mark.parametrize("text", SPECS)


@every_recipe
@every_target
@every_spec
def test_feasible_is_the_filtered_product(recipe, target, text):
    """Breaks when a branch is cut that holds a feasible schedule, or a constraint is asked too early."""
    spec, space = parse_spec(text).with_storage(target.storage), recipe.space
    default = space.default(spec, target)
    product = itertools.product(*(choice.values for choice in space.fields))
    points = [
        dataclasses.replace(default, **dict(zip((c.field for c in space.fields), p, strict=True))) for p in product
    ]
    want = [s for s in points if all(c.holds(s, spec, target) for c in space.require)]
    got = list(space.feasible(spec, target))
    assert got == want
    assert len(set(got)) == len(got) > 0
    assert all(space.violated(schedule, spec, target) is None for schedule in got)
    rest = set(points) - set(got)
    assert all(space.violated(schedule, spec, target) in {c.name for c in space.require} for schedule in rest)


@every_recipe
@every_target
@every_spec
def test_the_default_is_in_the_space(recipe, target, text):
    """Breaks when an untuned call would start outside what the tuner may choose, or be refused."""
    spec = parse_spec(text).with_storage(target.storage)
    assert recipe.space.default(spec, target) in set(recipe.space.feasible(spec, target))


@every_recipe
@every_target
def test_every_feasible_schedule_lowers(recipe, target):
    """Constraints are stated once: what they allow no pass may refuse."""
    for text in SPECS[1:4]:
        spec = parse_spec(text).with_storage(target.storage)
        for schedule in list(recipe.space.feasible(spec, target))[:: 1 if recipe.name.endswith("gemv") else 7]:
            lower(generalize(spec), schedule, target)


@every_recipe
def test_every_schedule_reads_back_what_it_prints(recipe):
    target = parse_target("cpp:avx512_bf16")
    spec = parse_spec(SPECS[2]).with_storage(target.storage)
    default = recipe.space.default(spec, target)
    for schedule in recipe.space.feasible(spec, target):
        assert parse_schedule(print_schedule(schedule), recipe.schedule, default) == schedule


@pytest.mark.parametrize(
    ("x", "w", "k", "folded"),
    [
        ("f32", "int4:g32", 256, True),
        ("f32", "int8:g64:zero", 256, True),
        ("f32", "int4:g128", 256, False),
        ("f32", "int4:channel", 256, False),
        ("f32", "int4:g32", 64, False),
        ("bf16", "int4:g32", 256, False),
    ],
)
def test_short_groups_of_float32_products_are_scaled_in_the_panel(x, w, k, folded):
    """Breaks when a result is updated for every 32 k, or bf16 operands are scaled where rounding is not asked for."""
    spec = parse_spec(f"gemm[x: {x}(300,{k}), w: {w}(100,{k})]")
    default = recipe_named("gemm.cpp.blocked").space.default(spec, parse_target("cpp:avx512_bf16"))
    assert (default.fold_scale, default.panel_k) == (folded, 128 if folded else 256)


@every_recipe
def test_omitted_fields_are_the_default_s(recipe):
    target = parse_target("cpp:avx2")
    spec = parse_spec(SPECS[1]).with_storage(target.storage)
    default = recipe.space.default(spec, target)
    name = print_schedule(default).partition("(")[0]
    assert parse_schedule(f" {name} ( ) ", recipe.schedule, default) == default
    assert parse_schedule(f"{name}(prefetch = 2048)", recipe.schedule, default) == dataclasses.replace(
        default, prefetch=2048
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("direct", "malformed schedule 'direct'.*write for example direct\\(dot="),
        ("direct(m_r=6", "malformed schedule"),
        ("blocked(m_r=6)", "not a schedule of direct: 'blocked\\(m_r=6\\)'.*direct\\(dot="),
        ("direct(m_rr=6)", "unknown field 'm_rr' of .*did you mean m_r"),
        ("direct(m_r=six)", "m_r=six is not an integer"),
        ("direct(m_r=6.0)", "m_r=6.0 is not an integer"),
        ("direct(m_r)", "m_r has no value in 'direct\\(m_r\\)' \\(write m_r="),
        ("direct(m_r=4,n_r=2,m_r=6)", "m_r is given twice in .*leave m_r=6 out"),
        ("direct(m_r=\uff14)", "m_r=\uff14 is not an integer .write for example m_r="),
        ("direct(m_r=" + "9" * 5000 + ")", "m_r has more than 18 digits"),
        ("direct(dot=f32 m_r=4)", "dot=f32 m_r=4 is not a name .write for example dot=f32"),
        ("direct(dot=)", "dot= is not a name"),
        ("direct(m_r=6)(", "malformed schedule"),
        ("direct(m_r=6) and more", "malformed schedule"),
        ("direct\xa0(m_r=6)", "malformed schedule"),
        ("direct(,)", "unknown field ''"),
    ],
)
def test_malformed_schedules(text, message):
    recipe = recipe_named("gemm.cpp.direct")
    spec = parse_spec(SPECS[1])
    with pytest.raises(ScheduleError, match=message):
        parse_schedule(text, recipe.schedule, recipe.space.default(spec, parse_target("cpp:avx2")))


PIECES = ("m_r=4", ",", "=", "(", ")", "-", "0", "\uff14", "\xb2", "9" * 5000, " ", "\n", "true", "f32", "direct", "_")


@given(st.data())
def test_no_damaged_text_raises_anything_else_and_what_is_read_prints_back(data):
    recipe, target = recipe_named("gemm.cpp.direct"), parse_target("cpp:avx2")
    default = recipe.space.default(parse_spec(SPECS[1]), target)
    text = print_schedule(default)
    for _ in range(data.draw(st.integers(1, 3))):
        start, end = (data.draw(st.integers(0, len(text))) for _ in range(2))
        text = text[:start] + data.draw(st.sampled_from(PIECES) | st.text(max_size=2)) + text[end:]
    try:
        read = parse_schedule(text, recipe.schedule, default)
    except ScheduleError:
        return
    assert parse_schedule(print_schedule(read), recipe.schedule, default) == read
    assert text.isascii()


def test_a_boolean_is_true_or_false():
    recipe = recipe_named("gemm.cpp.blocked")
    default = recipe.space.default(parse_spec(SPECS[1]), parse_target("cpp:avx2"))
    assert parse_schedule("blocked(fold_scale=true)", recipe.schedule, default).fold_scale is True
    with pytest.raises(ScheduleError, match=r"fold_scale=1 is not true or false .write for example fold_scale="):
        parse_schedule("blocked(fold_scale=1)", recipe.schedule, default)


@pytest.mark.parametrize(
    ("recipe", "text", "target", "schedule", "message"),
    [
        ("gemm.cpp.gemv", SPECS[1], "cpp:avx512_bf16", "gemv(dot=bf16)", "the dot product keeps the numerics class"),
        ("gemm.cpp.gemv", SPECS[0], "cpp:avx512", "gemv(dot=bf16)", "the dot product keeps the numerics class"),
        ("gemm.cpp.gemv", SPECS[1], "cpp:avx2", "gemv(n_r=3)", "n_r is one of 1, 2, 4"),
        ("gemm.cpp.gemv", SPECS[3], "cpp:avx2", "gemv(k_splits=2)", "K is split only where there are few blocks"),
        ("gemm.cpp.direct", SPECS[2], "cpp:avx2", "direct(m_r=14,n_r=2)", "fit the vector registers"),
        ("gemm.cpp.direct", SPECS[2], "cpp:avx2", "direct(m_r=4,n_r=1)", "enough independent sums"),
        ("gemm.cpp.direct", SPECS[1], "cpp:avx2", "direct(m_chunk=384)", "no more rows are kept in cache than there are"),  # noqa: E501
        ("gemm.cpp.direct", SPECS[2], "cpp:avx2", "direct(m_chunk=0)", "m_chunk is one of 48, 96, 192, 384"),
        ("gemm.cpp.direct", SPECS[2], "cpp:avx2", "direct(dot=fp32)", "dot is one of bf16, f32"),
        ("gemm.cpp.blocked", SPECS[0], "cpp:avx512_bf16", "blocked(fold_scale=true)", "folding scales into the panel"),
        ("gemm.cpp.blocked", SPECS[2], "cpp:avx512_bf16", "blocked(panel_k=512)", "panel"),
    ],
)  # fmt: skip
def test_an_infeasible_schedule_is_refused_by_the_constraint_s_name(recipe, text, target, schedule, message):
    found, on = recipe_named(recipe), parse_target(target)
    spec = parse_spec(text).with_storage(on.storage)
    chosen = parse_schedule(schedule, found.schedule, found.space.default(spec, on))
    with pytest.raises(ScheduleError, match=message) as failure:
        found.space.check(chosen, spec, on)
    assert print_schedule(chosen) in str(failure.value)
    assert target in str(failure.value)
    assert chosen not in set(found.space.feasible(spec, on))


@dataclasses.dataclass(frozen=True)
class Two:
    a: int
    b: int
    decisions = ()


def test_a_constraint_on_nothing_chosen_empties_the_space():
    """One that reads no field of the space is asked once, before anything is enumerated."""
    spec, target = parse_spec(SPECS[0]), parse_target("cpp:avx2")
    never = Constraint("never", (), lambda schedule, spec, target: False)
    space = SearchSpace((Choice("a", (1, 2)), Choice("b", (1, 2))), (never,), lambda spec, target: Two(1, 1))
    assert list(space.feasible(spec, target)) == []
    assert space.violated(Two(1, 1), spec, target) == "never"


def test_a_branch_is_cut_as_soon_as_its_fields_are_chosen():
    """Breaks when enumeration falls back to filtering the product: asked per point, not per branch."""
    asked = []
    small = Constraint("small", ("a",), lambda s, spec, target: asked.append(s) is None and s.a < 2)
    space = SearchSpace(
        (Choice("a", tuple(range(50))), Choice("b", tuple(range(50)))), (small,), lambda spec, target: Two(0, 0)
    )
    assert len(list(space.feasible(parse_spec(SPECS[0]), parse_target("cpp:avx2")))) == 100
    assert len(asked) == 50
