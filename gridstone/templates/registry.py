"""The registry of recipes: one line each, in the order in which a default is looked for."""

from __future__ import annotations

from typing import cast

from gridstone.ir.errors import ScheduleError, nearest
from gridstone.ir.spec import Spec
from gridstone.lower.schedule import Schedule
from gridstone.lower.target import Target
from gridstone.templates.gemm import (
    cpp_blocked,
    cpp_direct,
    cpp_gemv,
    cuda_gemv,
    cuda_mma,
    cuda_wgmma,
    library,
    triton_large,
    triton_small,
)
from gridstone.templates.recipe import Recipe

RECIPES = cast(
    tuple[Recipe[Schedule], ...],
    (
        cpp_gemv.RECIPE,
        cpp_direct.RECIPE,
        cpp_blocked.RECIPE,
        cuda_gemv.RECIPE,
        cuda_wgmma.RECIPE,
        cuda_mma.RECIPE,
        triton_small.RECIPE,
        triton_large.RECIPE,
        library.RECIPE,
    ),
)


def recipe_named(name: str) -> Recipe[Schedule]:
    """Return the recipe of this name; ScheduleError suggests the nearest."""
    for recipe in RECIPES:
        if recipe.name == name:
            return recipe
    raise ScheduleError(f"unknown recipe {name!r}", nearest(name, [recipe.name for recipe in RECIPES]))


def of_target(spec: Spec, target: Target) -> tuple[Recipe[Schedule], ...]:
    """Return the recipes for a spec's op in a target's language, whether they accept the spec or not."""
    return tuple(r for r in RECIPES if r.op == spec.op.name and r.language is target.language)


def refusal(recipe: Recipe[Schedule], spec: Spec, target: Target) -> str | None:
    """Return why a recipe cannot compute a spec as it is asked for, or None."""
    if spec.numerics.ordered and not recipe.launch.deterministic:
        return f"{recipe.name} does not fix the order of its sums"
    return recipe.refuses(spec, target)


def recipes_for(spec: Spec, target: Target) -> tuple[Recipe[Schedule], ...]:
    """Return the recipes that compute a spec on a target."""
    return tuple(recipe for recipe in of_target(spec, target) if refusal(recipe, spec, target) is None)


def refusals(spec: Spec, target: Target) -> tuple[str, ...]:
    """Return why each recipe of a target's language refuses a spec."""
    reasons = [refusal(recipe, spec, target) for recipe in of_target(spec, target)]
    return tuple(dict.fromkeys(reason for reason in reasons if reason))


def default_recipe(spec: Spec, target: Target) -> Recipe[Schedule] | None:
    """Return the recipe to use when nothing was tuned, or None when all refuse: the first that claims the spec."""
    able = recipes_for(spec, target)
    return next((recipe for recipe in able if recipe.claims(spec, target)), able[-1] if able else None)
