"""emit: spec and schedule to source text, for any number of rows. Needs neither torch nor a compiler."""

from __future__ import annotations

from collections.abc import Callable

from gridstone.ir.spec import Spec
from gridstone.lower.bucket import generalize
from gridstone.lower.passes import lower
from gridstone.lower.plan import Plan
from gridstone.lower.schedule import Schedule
from gridstone.lower.target import Target
from gridstone.templates.recipe import Recipe
from gridstone.templates.render import render
from gridstone.templates.source import Source


def emit(
    recipe: Recipe[Schedule],
    spec: Spec,
    schedule: Schedule,
    target: Target,
    watch: Callable[[str, Plan], None] | None = None,
) -> Source:
    """Return the source of a spec with this schedule.

    Args:
        recipe: One that computes the spec on the target.
        spec: Its rows may be static or symbolic; native storages become the target's.
        schedule: Of the recipe's class.
        target: What the text is for; it need not run here.
        watch: Called with the pass's name and the plan so far, after each pass.

    Raises:
        ScheduleError: Names the violated constraint.
    """
    resolved = spec.with_storage(target.storage)
    recipe.space.check(schedule, resolved, target)
    return render(recipe, lower(generalize(resolved), schedule, target, watch))
