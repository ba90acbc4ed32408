"""Registers of the Triton recipes' default schedules: none is spilled, on any architecture, for any kind of weight."""

from __future__ import annotations

import itertools

import pytest

from gridstone.ir.text import parse_spec
from gridstone.kernel_cache.artefact import unpack
from gridstone.kernel_cache.toolchain_triton import TritonToolchain
from gridstone.lower.schedule import parse_schedule
from gridstone.lower.target import parse_target
from gridstone.proof.cubin import broken_promises, read_report
from gridstone.templates.emit import emit
from gridstone.templates.registry import recipe_named
from gridstone.templates.requirement import NO_SPILLS
from tests.templates.triton_kernels import LARGE, NAMES, SMALL, TRITON_TARGETS

pytestmark = pytest.mark.skipif(TritonToolchain().missing() is not None, reason="no Triton")

WEIGHTS = ("int4", "uint4:zero", "int8", "uint8:zero")
GROUPS = ("g128", "g32", "channel")
ROWS = (1, 16, 64, 256)
# Each spilled when its schedule was chosen, or its kernel compiled, in another way.
FOUND = (
    (LARGE, "triton:sm_89", "f16", 256, "int8", "g128"),
    (LARGE, "triton:sm_80", "bf16", 16, "int4", "g128"),
    (SMALL, "triton:sm_89", "bf16", 64, "int4", "g32"),
)


def wanted(recipe, target, x, rows, weight, group):
    """A default's source; the weight's group goes before its zero points."""
    code, zero, _ = f"{weight}:".partition(":zero")
    on, found = parse_target(target), recipe_named(recipe)
    text = f"gemm[x: {x}({rows},4096), w: {code.strip(':')}:{group}{zero}(14336,4096)]"
    spec = parse_spec(text).with_storage(on.storage)
    return emit(found, spec, found.space.default(spec, on), on), on


def assert_well_built(source, on):
    report = read_report(unpack(TritonToolchain().build(source, on)), on)
    promises = recipe_named(source.origin.recipe).promises
    assert NO_SPILLS in promises
    assert report.stack == 0
    assert not broken_promises(report, promises), f"{source.origin.schedule}\n{report}"
    assert report.occupancy.blocks > 0
    assert report.tensor_cores > 0
    assert set(report.widths("LDGSTS")) == {16, width_of_x(source)}, "codes and x come in pieces of 16 bytes"


def width_of_x(source):
    """Bytes of x that a thread copies at once: 16, or less where a tile of x, or a group's part of it, has no more."""
    recipe, spec = recipe_named(source.origin.recipe), parse_spec(source.origin.spec)
    default = recipe.space.default(spec, parse_target(source.origin.target))
    schedule = parse_schedule(source.origin.schedule, recipe.schedule, default)
    group = spec.input("w").format.group
    columns = min(group, schedule.block_k) if group > 0 else schedule.block_k
    return min(16, schedule.block_m * columns * spec.input("x").dtype.bytes // (32 * schedule.warps))


@pytest.mark.parametrize("target", TRITON_TARGETS, ids=str)
def test_every_default_is_feasible(target):
    """Also for what is small, of float32, or of any number of rows; and rows of blocks share weights from the cache."""
    shapes = ((17, 64), (33, 128), (100, 256), (4096, 14336), (28672, 8192))
    for x, rows, weight, group, (n, k) in itertools.product(
        ("f16", "f32"), ("M", 1, 9, 33, 64, 65, 300, 5000), WEIGHTS, ("g16", "g64", "channel"), shapes
    ):
        code, zero, _ = f"{weight}:".partition(":zero")
        text = f"gemm[x: {x}({rows},{k}), w: {code.strip(':')}:{group}{zero}({n},{k})]"
        spec = parse_spec(text).with_storage(target.storage)
        for recipe in map(recipe_named, NAMES):
            default = recipe.space.default(spec, target)
            assert recipe.space.violated(default, spec, target) is None, f"{default} {text}"
            if recipe.name == LARGE and rows != "M":
                assert default.group_m >= min(8, -(-rows // default.block_m))


@pytest.mark.parametrize("case", FOUND, ids=str)
def test_what_once_spilled_does_not(case):
    assert_well_built(*wanted(*case))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("target", [str(target) for target in TRITON_TARGETS])
@pytest.mark.parametrize("recipe", NAMES)
def test_no_default_spills(recipe, target):
    """Rows that give the same schedule give the same kernel."""
    seen = set()
    for x, rows, weight, group in itertools.product(("bf16", "f16"), ROWS, WEIGHTS, GROUPS):
        source, on = wanted(recipe, target, x, rows, weight, group)
        body = source.text.partition("import triton")[2]
        if body not in seen:
            seen.add(body)
            assert_well_built(source, on)
