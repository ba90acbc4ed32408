"""Passes and plans: which decisions, that they are watched and verified, and what they say about the storage."""

from __future__ import annotations

import dataclasses
import random

import pytest

from gridstone.ir.errors import ScheduleError
from gridstone.ir.text import parse_spec
from gridstone.lower import passes
from gridstone.lower.bucket import generalize
from gridstone.lower.decisions import (
    Budget,
    Codes,
    Finish,
    RegisterTile,
    Slabs,
    Split,
    StreamTile,
    Types,
    Vector,
    WeightLayout,
)
from gridstone.lower.passes import PASSES, lower, weight_storage
from gridstone.lower.plan import Plan
from gridstone.lower.target import TARGETS, Language, parse_target
from gridstone.lower.verify import verify
from gridstone.templates.registry import RECIPES, recipe_named

CPP = tuple(recipe for recipe in RECIPES if recipe.language is Language.CPP)
HOST = parse_target("cpp:avx512_bf16")
SPEC = generalize(parse_spec("gemm[x: bf16(64,512), w: int4:g64:zero(200,512)] + bias + silu").with_storage("lane16"))


def plan_of(recipe, spec=SPEC, target=HOST, watch=None):
    return lower(spec, recipe.space.default(spec, target), target, watch)


@pytest.mark.parametrize("recipe", CPP, ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("target", [t for t in TARGETS.values() if t.language is Language.CPP], ids=str)
def test_a_plan_holds_the_recipe_s_decisions_and_a_budget(recipe, target):
    """Breaks when a template's decision is not taken, or one that it does not read is."""
    kinds = [type(decision) for decision in plan_of(recipe, target=target).decisions]
    assert set(kinds) == {*recipe.decisions, Budget}
    assert len(set(kinds)) == len(kinds)
    order = [kind for kind, _ in PASSES]
    assert kinds == sorted(kinds, key=order.index)


def test_the_library_decides_nothing():
    assert plan_of(recipe_named("gemm.library.torch")).decisions == ()


@pytest.mark.parametrize("recipe", CPP, ids=lambda recipe: recipe.name)
def test_watch_is_called_after_each_pass_with_the_plan_so_far(recipe):
    """Dumps, goldens and explain hang on it."""
    seen: list[tuple[str, Plan]] = []
    plan = plan_of(recipe, watch=lambda name, plan: seen.append((name, plan)))
    names = {kind: run.__name__ for kind, run in PASSES}
    assert [name for name, _ in seen] == [names[type(decision)] for decision in plan.decisions]
    assert [p.decisions for _, p in seen] == [plan.decisions[: at + 1] for at in range(len(plan.decisions))]
    assert seen[-1][1] == plan


@pytest.mark.parametrize("recipe", CPP, ids=lambda recipe: recipe.name)
def test_a_plan_prints_every_field_of_every_decision(recipe):
    plan = plan_of(recipe)
    text = str(plan)
    assert "gemm[x: bf16(M,512)" in text
    for decision in plan.decisions:
        for field in dataclasses.fields(decision):
            assert f"{field.name} = {getattr(decision, field.name)}" in text


def test_a_plan_is_frozen_and_asking_too_early_is_our_bug():
    plan = plan_of(CPP[0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.decisions = ()
    with pytest.raises(AssertionError, match="no Slabs decision yet"):
        Plan(SPEC, plan.schedule, HOST).the(Slabs)


@pytest.mark.parametrize(
    ("kind", "broken", "message"),
    [
        (Codes, Codes(3, 4, False), "codes of 3 bits do not fill a 32-bit word"),
        (WeightLayout, {"word_k": 7}, "not a whole number of code words"),
        (WeightLayout, {"padded_k": 500}, "K not a whole number of groups"),
        (WeightLayout, {"group_bytes": 100}, "do not start on cache lines"),
        (WeightLayout, {"block_bytes": 32}, "do not start on cache lines"),
        (RegisterTile, RegisterTile(0, 2), "an empty register tile"),
        (RegisterTile, RegisterTile(2, 0), "an empty register tile"),
        (StreamTile, StreamTile((4, 0), (1, 1)), "an empty stream tile"),
        (StreamTile, StreamTile((4, 2), (1, 0)), "an empty stream tile"),
        (Slabs, Slabs(12), "not a whole number of code words"),
        (Slabs, Slabs(96), "not a whole number of groups"),
        (Split, Split(0), "K is split into no parts"),
        (Budget, Budget(33, 1, 1), "needs 33 vector registers of 32"),
    ],
)
def test_verify_catches_a_planted_decision(kind, broken, message, monkeypatch):
    """A pass that decides wrongly is stopped before anything is rendered, with the invariant's name."""
    recipe = next(recipe for recipe in CPP if kind in (*recipe.decisions, Budget))
    good = plan_of(recipe)
    verify(Plan(SPEC, good.schedule, HOST, good.decisions[: good.decisions.index(good.the(kind)) + 1]))
    planted = dataclasses.replace(good.the(kind), **broken) if isinstance(broken, dict) else broken

    def wrong(plan, schedule):
        return planted

    table = tuple((each, wrong if each is kind else run) for each, run in PASSES)
    monkeypatch.setattr(passes, "PASSES", table)
    with pytest.raises(ScheduleError, match=message):
        plan_of(recipe)


@pytest.mark.parametrize("seed", range(12))
def test_the_weight_s_strides_are_the_storage_s(seed):
    """A kernel addresses the code of (n, k) as these strides say.

    The same bit as the storage's layout, for every (n, k).
    """
    rng = random.Random(seed)
    bits, zero = rng.choice((4, 8)), rng.choice(("", ":zero"))
    group = rng.choice(("g16", "g32", "g64", "g128", "g256", "channel"))
    k = rng.randint(1, 300) if group == "channel" else rng.randint(1, 4) * int(group[1:])
    n = rng.randint(1, 200)
    spec = parse_spec(f"gemm[x: f32(M,{k}), w: uint{bits}:{group}:{rng.choice(('f16', 'f32'))}{zero}({n},{k})]")
    spec = spec.with_storage("lane16")
    place, at = weight_storage(spec), plan_of(CPP[0], spec).the(WeightLayout)
    for _ in range(200):
        row, column = rng.randrange(n), rng.randrange(k)
        block, lane = divmod(row, at.block_n)
        g, inside = divmod(column, at.group_k)
        word, within = divmod(inside, at.word_k)
        byte = block * at.block_bytes + g * at.group_bytes
        bit = within % 2 * 16 + within // 2 * bits  # even k in the low half, odd k in the high half
        assert place.codes[0].layout((row, column)) == (byte + word * at.word_bytes + lane * 4) * 8 + bit
        size = place.format.scale.bytes
        assert place.scales.base + place.scales.layout((row, g)) == (byte + at.scales_at + lane * size) * 8
        if place.zeros is not None:
            assert place.zeros.base + place.zeros.layout((row, g)) == (byte + at.zeros_at + lane) * 8


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dot", ["bf16", "f32"])
@pytest.mark.parametrize("sums", [4, 8, 13])
@pytest.mark.parametrize("target", ["cpp:avx512_bf16", "cpp:avx2", "cpp:generic"])
def test_stream_tiles_fit_the_registers(bits, dot, sums, target):
    """More rows take fewer vectors, never more registers than there are, and sums that a code word's steps fill."""
    on = parse_target(target)
    dot = dot if on.bf16_flops else "f32"
    spec = generalize(parse_spec(f"gemm[x: bf16(1,512), w: int{bits}:g64(200,512)]").with_storage("lane16"))
    recipe = recipe_named("gemm.cpp.gemv")
    schedule = dataclasses.replace(recipe.space.default(spec, on), dot=dot, sums=sums)
    tile = lower(spec, schedule, on).the(StreamTile)
    steps = 32 // bits // (2 if dot == "bf16" else 1)
    for rows, (vectors, parts) in enumerate(zip(tile.stream_vectors, tile.stream_sums, strict=True), 1):
        assert parts * rows * vectors + vectors < on.registers
        assert steps % parts == 0


def test_types_are_spelled_for_cpp():
    spec = parse_spec("gemm[x: bf16(M,64), w: int4:g32:f32(70,64)] + bias:f32 + residual:f16 -> f32(M,70)")
    assert plan_of(CPP[0], spec.with_storage("lane16")).the(Types) == Types("bf16", "float", "float", "f16", "float")


def test_epilogues_become_expressions_in_their_order():
    spec = parse_spec("gemm[x: bf16(M,64), w: int4:g32(70,64)] + residual + gelu + scale(1e+20) + bias -> f32(M,70)")
    steps = plan_of(CPP[0], spec.with_storage("lane16")).the(Finish).steps
    assert steps == ("a + residual", "gelu(a)", "a * 1e+20f", "a + bias")


@pytest.mark.parametrize(("dot", "target", "name"), [
    ("bf16", "cpp:avx512_bf16", "avx512_bf16"), ("f32", "cpp:avx512_bf16", "avx512"), ("f32", "cpp:avx512", "avx512"),
    ("f32", "cpp:avx2", "avx2"), ("f32", "cpp:generic", "generic"),
])  # fmt: skip
def test_the_vocabulary_follows_the_product_and_the_target(dot, target, name):
    on = parse_target(target)
    schedule = dataclasses.replace(CPP[0].space.default(SPEC, on), dot=dot)
    assert lower(SPEC, schedule, on).the(Vector) == Vector(name)
