"""The cost model of GPU gemm: laws that any prediction must keep, and the figures that the benchmark shapes need."""

from __future__ import annotations

import dataclasses

import pytest

from gridstone.ir.text import parse_spec
from gridstone.lower.cost import floor, predict
from gridstone.lower.target import parse_target
from gridstone.templates.registry import recipe_named, recipes_for

H200 = parse_target("cuda:sm_90a")
SHAPES = ((4096, 4096), (8192, 8192), (28672, 8192), (8192, 28672))


def spec_of(m, n, k, x="bf16", code="int4:g128"):
    return parse_spec(f"gemm[x: {x}({m},{k}), w: {code}({n},{k})]").with_storage("mma16")


def predictions(spec, target=H200):
    return [
        (predict(spec, schedule, target), recipe.name, schedule)
        for recipe in recipes_for(spec, target)
        if recipe.template.endswith(".cu.j2")
        for schedule in recipe.space.feasible(spec, target)
    ]


@pytest.mark.parametrize("m", [1, 16, 100])
def test_no_schedule_is_predicted_to_beat_the_floor(m):
    """A prediction below the floor would reward a schedule for work that it leaves out."""
    spec = spec_of(m, 1024, 1024)
    least, seconds = floor(spec, H200)
    for cost, _, schedule in predictions(spec):
        assert cost.bytes >= least == cost.floor_bytes, schedule
        assert cost.seconds > seconds == cost.floor_seconds, schedule
        assert cost.waves > 0, schedule
        assert cost.resident >= 1, schedule
        assert cost.bound in ("memory", "tensor", "decode")


@pytest.mark.parametrize("m", [1, 4, 16])
def test_small_batches_move_little_more_than_they_must(m):
    best, _, _ = min(predictions(spec_of(m, 28672, 8192)), key=lambda entry: entry[0].seconds)
    assert best.bytes <= 1.05 * best.floor_bytes


def test_the_floor_is_the_packed_weight_and_the_activations():
    spec = spec_of(1, 28672, 8192)
    bytes_of_weight = 28672 * 8192 // 2 + 28672 * (8192 // 128) * 2
    assert floor(spec, H200)[0] == bytes_of_weight + 8192 * 2 + 28672 * 2
    assert floor(spec, H200)[1] == pytest.approx(floor(spec, H200)[0] / 4.8e12)


def test_more_rows_never_take_less_time():
    recipe = recipe_named("gemm.cuda.mma")
    schedule = recipe.space.default(spec_of(16, 8192, 8192), H200)
    seconds = [predict(spec_of(m, 8192, 8192), schedule, H200).seconds for m in (1, 16, 17, 64, 256, 1024, 4096)]
    assert seconds == sorted(seconds)


def test_a_wider_code_takes_more_bytes_and_time():
    recipe = recipe_named("gemm.cuda.mma")
    four, eight = spec_of(1, 28672, 8192), spec_of(1, 28672, 8192, code="int8:g128")
    costs = [predict(spec, recipe.space.default(spec, H200), H200) for spec in (four, eight)]
    assert 1.9 < costs[1].bytes / costs[0].bytes < 2.0
    assert costs[1].seconds > costs[0].seconds


def test_rows_of_blocks_beyond_a_wave_read_the_weight_again():
    """With one block a multiprocessor and many rows of blocks, the weight comes from memory more than once."""
    recipe = recipe_named("gemm.cuda.mma")
    spec = spec_of(4096, 28672, 8192)
    schedule = dataclasses.replace(recipe.space.default(spec, H200), block_m=8)
    cost = predict(spec, schedule, H200)
    assert cost.bytes > 2 * cost.floor_bytes


def test_deeper_pipelines_draw_more_of_the_memory():
    recipe = recipe_named("gemm.cuda.mma")
    spec = spec_of(1, 4096, 4096)  # few blocks: what each has under way decides
    start = dataclasses.replace(
        recipe.space.default(spec, H200), warps_n=4, warps_k=1, tiles_n=1, block_k=64, k_splits=1
    )
    two, six = (predict(spec, dataclasses.replace(start, stages=stages), H200) for stages in (2, 6))
    assert two.seconds > six.seconds


def test_it_prints_what_it_predicts():
    spec = spec_of(1, 28672, 8192)
    recipe = recipe_named("gemm.cuda.gemv")
    text = str(predict(spec, recipe.space.default(spec, H200), H200))
    assert text.startswith("predicted ")
    assert "floor" in text
    assert "over the floor's" in text
