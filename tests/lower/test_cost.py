"""The cost model of GPU gemm: laws that any prediction must keep, and the figures that the benchmark shapes need."""

from __future__ import annotations

import dataclasses
import itertools
import random

import pytest

from gridstone.ir.text import parse_spec
from gridstone.lower.cost import floor, predict, rates
from gridstone.lower.issue import instruction_of
from gridstone.lower.target import TARGETS, parse_target
from gridstone.templates.registry import recipe_named, recipes_for

H200, H200_TRITON = parse_target("cuda:sm_90a"), parse_target("triton:sm_90")
GPUS = [target for target in TARGETS.values() if target.sms]
MMA, SMALL, LARGE = (recipe_named(f"gemm.{name}") for name in ("cuda.mma", "triton.small", "triton.large"))


def spec_of(m, n, k, x="bf16", code="int4:g128", more=""):
    return parse_spec(f"gemm[x: {x}({m},{k}), w: {code}({n},{k})]{more}").with_storage("mma16")


def default_of(recipe, spec, target=H200, **changes):
    return dataclasses.replace(recipe.space.default(spec, target), **changes)


def predictions(spec, target, most=10**9):
    """Every feasible schedule of every recipe with its prediction, or some drawn from them."""
    rng = random.Random(0)
    for recipe in recipes_for(spec, target):
        schedules = list(recipe.space.feasible(spec, target))
        for schedule in rng.sample(schedules, min(most, len(schedules))):
            yield predict(spec, schedule, target), schedule


@pytest.mark.parametrize("target", GPUS, ids=str)
@pytest.mark.parametrize("x", ["bf16", "f32"])
@pytest.mark.parametrize("m", [1, 16, 100])
def test_no_schedule_is_predicted_to_beat_the_floor(m, x, target):
    """A prediction below the floor would reward a schedule for work that it leaves out."""
    spec = spec_of(m, 1024, 1024, x)
    least, seconds = floor(spec, target)
    for cost, schedule in predictions(spec, target, 100):
        assert cost.bytes >= least == cost.floor_bytes, schedule
        assert cost.seconds > seconds == cost.floor_seconds, schedule
        assert cost.resident >= 1, schedule
        assert cost.waves > 0, schedule
        assert cost.bound in ("memory", "shared", "tensor", "instructions")


@pytest.mark.parametrize("target", [H200, H200_TRITON], ids=str)
@pytest.mark.parametrize("m", [1, 2, 4, 8, 16])
def test_small_batches_move_little_more_than_they_must(m, target):
    best, _ = min(predictions(spec_of(m, 28672, 8192), target), key=lambda entry: entry[0].seconds)
    assert best.bytes <= 1.05 * best.floor_bytes


def test_the_floor_is_the_packed_weight_and_the_activations():
    spec = spec_of(1, 28672, 8192)
    bytes_of_weight = 28672 * 8192 // 2 + 28672 * (8192 // 128) * 2
    assert floor(spec, H200)[0] == bytes_of_weight + 8192 * 2 + 28672 * 2
    assert floor(spec, H200)[1] == pytest.approx(floor(spec, H200)[0] / 4.8e12)
    more = spec_of(1, 28672, 8192, more=" + bias + residual")
    assert floor(more, H200)[0] == floor(spec, H200)[0] + 2 * 28672 * 2
    many = spec_of(4096, 8192, 8192)
    assert floor(many, H200)[1] == pytest.approx(2 * 4096 * 8192 * 8192 / 790e12)


def test_float32_is_held_to_the_rate_that_its_numerics_allow():
    """Exact products of float32 do not go through the tensor cores, so their floor is another."""
    exact, rounded = spec_of(64, 8192, 8192, "f32"), spec_of(64, 8192, 8192, "f32", more="; bf16")
    assert floor(exact, H200)[1] > 5 * floor(rounded, H200)[1]
    costs = [predict(spec, SMALL.space.default(spec, H200_TRITON), H200_TRITON) for spec in (exact, rounded)]
    assert dict(costs[0].engines)["tensor"] == 0.0
    assert costs[0].bound == "instructions"
    assert costs[1].seconds < costs[0].seconds


SIZES = {
    "m": [(m, 4096, 4096) for m in (1, 2, 5, 16, 33, 64, 65, 128, 700, 2048)],
    "n": [(4, n, 4096) for n in (512, 1024, 1040, 4096, 8192, 8208, 16384, 57344)],
    "k": [(64, 4096, k) for k in (1024, 2048, 4096, 4224, 8192, 28672)],
}


@pytest.mark.parametrize("target", [H200, H200_TRITON, parse_target("cuda:sm_80")], ids=str)
@pytest.mark.parametrize("along", SIZES)
def test_more_work_never_takes_less_time(along, target):
    """With one schedule, but for how the last of the rounds fills."""
    specs = [spec_of(*size) for size in SIZES[along]]
    start = spec_of(16, 4096, 4096)
    for _, schedule in predictions(start, target, 12):
        seconds = [predict(spec, schedule, target).seconds for spec in specs]
        for less, more in itertools.pairwise(seconds):
            assert more >= 0.98 * less, (schedule, seconds)


def test_a_wider_code_takes_more_bytes_and_time():
    four, eight = spec_of(1, 28672, 8192), spec_of(1, 28672, 8192, code="int8:g128")
    costs = [predict(spec, default_of(MMA, spec, k_splits=1), H200) for spec in (four, eight)]
    assert 1.9 < costs[1].bytes / costs[0].bytes < 2.0
    assert costs[1].seconds > costs[0].seconds


@pytest.mark.parametrize("ordered", [False, True])
def test_more_splits_cost_traffic(ordered):
    """What blocks hand to each other is moved, and more of it where it is kept apart to be added in order."""
    spec = spec_of(16, 8192, 8192)
    costs = [
        predict(spec, default_of(MMA, spec, k_splits=s, ordered=ordered or s == 1), H200) for s in (1, 2, 4, 8, 16)
    ]
    if ordered:
        assert all(more.bytes > less.bytes for less, more in itertools.pairwise(costs))
    else:
        assert costs[0].bytes < costs[1].bytes == costs[-1].bytes
    assert costs[0].bytes == costs[0].floor_bytes


def test_blocks_that_leave_most_of_the_device_idle_take_longer_than_blocks_that_share_k():
    spec = spec_of(16, 1024, 16384)
    one, eight = (predict(spec, default_of(MMA, spec, k_splits=s), H200) for s in (1, 8))
    assert one.blocks < H200.sms / 8
    assert eight.seconds < one.seconds


def test_a_round_that_is_hardly_begun_costs_almost_a_whole_one():
    """One block more than fill the device is one more for one multiprocessor."""
    schedule = default_of(MMA, spec_of(64, 128 * 132, 4096), block_m=64, warps_n=4, tiles_n=2, k_splits=1)
    full, over = (predict(spec_of(64, 128 * blocks, 4096), schedule, H200) for blocks in (132, 133))
    assert (full.blocks, over.blocks) == (132, 133)
    for name in ("tensor", "instructions"):
        assert dict(over.engines)[name] > 1.2 * dict(full.engines)[name], name


def test_rows_of_blocks_beyond_a_round_read_the_weight_again_where_it_does_not_stay_in_the_cache():
    """With many rows of blocks a weight comes from memory more than once; side by side they share it."""
    spec = spec_of(4096, 28672, 8192)
    assert predict(spec, default_of(MMA, spec, block_m=8), H200).bytes > 2 * predict(spec, default_of(MMA, spec), H200).floor_bytes  # fmt: skip  # noqa: E501
    small = spec_of(4096, 4096, 4096)
    assert predict(small, default_of(MMA, small, block_m=8), H200).bytes == floor(small, H200)[0]
    apart, together = (predict(spec, default_of(LARGE, spec, H200_TRITON, group_m=g), H200_TRITON) for g in (1, 16))
    assert together.bytes < apart.bytes / 2


def test_wide_blocks_ask_the_cache_for_x_less_often():
    """With 64 rows each block of 32 rows of the weight would bring twice its own bytes of x."""
    spec = spec_of(64, 28672, 8192)
    narrow, wide = (
        predict(spec, default_of(MMA, spec, warps_n=w, warps_k=1, tiles_n=2, k_splits=1), H200) for w in (1, 8)
    )
    assert narrow.bytes == wide.bytes
    assert dict(narrow.engines)["memory"] > 1.5 * dict(wide.engines)["memory"]


def test_deeper_pipelines_draw_more_of_the_memory():
    spec = spec_of(1, 4096, 4096)  # few blocks: what each has under way decides
    start = default_of(MMA, spec, warps_n=4, warps_k=1, tiles_n=1, block_k=64, k_splits=1)
    two, six = (predict(spec, dataclasses.replace(start, stages=stages), H200) for stages in (2, 6))
    assert two.seconds > six.seconds


def test_padded_rows_are_multiplied_too():
    spec = spec_of(65, 8192, 8192)
    low, high = (predict(spec, default_of(MMA, spec, block_m=m, k_splits=1), H200) for m in (16, 64))
    assert low.flops == pytest.approx(80 / 128 * high.flops)


def test_what_multiplies_is_the_targets_and_the_tiles():
    small = SMALL.space.default(spec_of(16, 8192, 8192), H200_TRITON)
    names = [instruction_of(small, parse_target(f"triton:sm_{arch}")) for arch in (80, 89, 90, 100)]
    assert names == ["mma", "mma", "wgmma", "wgmma"]
    assert instruction_of(dataclasses.replace(small, block_n=32), H200_TRITON) == "mma"
    # On Hopper mma.sync reaches a part of the peak, on Ampere it is what the peak is stated for.
    spec = spec_of(1024, 8192, 8192)
    for arch, share in (("sm_90a", 0.78), ("sm_80", 1.0)):
        target = parse_target(f"cuda:{arch}")
        cost = predict(spec, default_of(MMA, spec, target, k_splits=1), target)
        assert dict(cost.engines)["tensor"] >= cost.flops / (share * target.bf16_flops)


def test_it_prints_what_it_predicts_and_for_which_card():
    spec = spec_of(1, 28672, 8192)
    text = str(predict(spec, default_of(MMA, spec), H200))
    assert text.startswith("predicted ")
    assert "; floor 25.2 us, " in text
    assert "over the floor's" in text
    assert rates(parse_target("triton:sm_100")) == "B200 (8 TB/s, 2250 TFLOP/s bf16)"
