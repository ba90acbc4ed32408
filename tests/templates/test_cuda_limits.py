"""What a CUDA schedule may need of shared memory, held against what its cubin says that it takes."""

from __future__ import annotations

import dataclasses

import pytest

from gridstone.ir.errors import ScheduleError
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache.artefact import unpack
from gridstone.kernel_cache.make import TOOLCHAINS
from gridstone.lower.occupancy import occupancy
from gridstone.lower.target import TARGETS, Language, parse_target
from gridstone.proof.cubin import read_resources
from gridstone.templates.emit import emit
from gridstone.templates.gemm.cuda import declared_shared
from gridstone.templates.gemm.cuda_wgmma import RECIPE as WGMMA
from gridstone.templates.registry import RECIPES, recipe_named, refusal
from tests.quick import one_in

SPEC = parse_spec("gemm[x: f16(M,16384), w: int8:g128:f32:zero(4096,16384)]")
ROWS = {"gemm.cuda.gemv": 4}  # of those recipes that do not take any number
CASES = [
    (recipe.name, str(target))
    for recipe in RECIPES
    for target in TARGETS.values()
    if recipe.language is target.language is Language.CUDA
    and not refusal(recipe, SPEC.bind(M=ROWS.get(recipe.name, 64)), target)
]


def largest(recipe, target):
    """The feasible schedule whose blocks take most shared memory, all that the kernel declares included."""
    spec = SPEC.bind(M=ROWS.get(recipe.name, 64)).with_storage(target.storage)
    return spec, max(
        recipe.space.feasible(spec, target), key=lambda s: (s.shared_bytes(spec) + declared_shared(s), s.k_splits)
    )


@pytest.mark.parametrize(("name", "on"), one_in(3, CASES))
def test_the_largest_schedule_can_be_launched(name, on):
    """A block has a fixed most, its declared variables included: one byte more and no launch succeeds."""
    recipe, target = recipe_named(name), parse_target(on)
    spec, schedule = largest(recipe, target)
    artefact = unpack(TOOLCHAINS[recipe.language].build(emit(recipe, spec, schedule, target), target))
    needs = read_resources(artefact, target)
    assert needs.static_shared == declared_shared(schedule)
    assert artefact.shared_bytes == schedule.shared_bytes(spec)
    assert needs.static_shared + artefact.shared_bytes <= target.l1_bytes
    assert needs.static_shared + artefact.shared_bytes > target.l1_bytes // 2, "some schedule goes near the limit"
    assert occupancy(target, artefact.threads, needs.registers, needs.static_shared + artefact.shared_bytes).blocks


def test_what_a_kernel_declares_counts():
    """A schedule that fits to the byte, if nothing were declared, does not."""
    recipe, target = WGMMA, parse_target("cuda:sm_90a")
    spec = SPEC.bind(M=64).with_storage(target.storage)
    schedule = recipe.space.default(spec, target)
    exact = dataclasses.replace(target, l1_bytes=schedule.shared_bytes(spec) + 1024)
    recipe.space.check(schedule, spec, exact)
    short = dataclasses.replace(exact, l1_bytes=exact.l1_bytes - 1)
    with pytest.raises(ScheduleError, match="shared memory suffices"):
        recipe.space.check(schedule, spec, short)
