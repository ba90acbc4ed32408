"""gridstone emit: print the source of a kernel, and what a GPU's is predicted to take. Needs no torch, no compiler."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast

import typer

from gridstone.cli import prediction
from gridstone.cli.console import put, put_json, say
from gridstone.cli.options import Json, RecipeName, ScheduleText, SpecText, TargetName
from gridstone.ir.errors import BuildError, ScheduleError, SpecError, nearest
from gridstone.ir.spec import Spec
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache.host import host_target
from gridstone.lower.bucket import looked_up
from gridstone.lower.cost import Cost, GemmSchedule
from gridstone.lower.plan import Plan, print_decision
from gridstone.lower.schedule import Schedule, parse_schedule, print_schedule
from gridstone.lower.target import Language, Target, parse_target
from gridstone.templates.emit import emit as emit_source
from gridstone.templates.recipe import Recipe
from gridstone.templates.registry import default_recipe, recipe_named, recipes_for, refusals
from gridstone.templates.source import Source

if TYPE_CHECKING:
    from gridstone.cli.console import Json as JsonValue
    from gridstone.proof.cubin import Report


@dataclass(frozen=True, slots=True)
class Built:
    """What a compiler made.

    Args:
        size: Bytes of the artefact.
        seconds: That it took.
        report: What a GPU's machine code shows; None for a CPU's.
        unread: Why there is no report of a GPU's.
        broken: What the recipe promises and the machine code does not keep.
    """

    size: int
    seconds: float
    report: Report | None = None
    unread: str = ""
    broken: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Emitted:
    """What was emitted: the source, for what, what each pass decided, and what the cost model says of a GPU's."""

    source: Source
    target: Target
    passes: tuple[tuple[str, str], ...]
    spec: Spec
    cost: Cost | None = None


def emit(
    spec: SpecText,
    target: TargetName = "auto",
    schedule: ScheduleText = "",
    recipe: RecipeName = "",
    passes: Annotated[bool, typer.Option("--passes", help="Show what each pass decided, as comments.")] = False,
    build: Annotated[bool, typer.Option("--build", help="Compile it; of a GPU's show the machine code.")] = False,
    as_json: Json = False,
) -> None:
    """Print the source that is emitted for a spec. The text on stdout compiles as it is.

    Behind a GPU's follows, as comments, the time that it is predicted to take.
    """
    emitted = emitted_for(spec, target, schedule, recipe)
    built = _built(emitted) if build else None
    if as_json:
        put_json(_json(emitted, built))
        return
    comment = "#" if emitted.source.language is Language.TRITON else "//"
    if passes:
        for name, text in emitted.passes:
            put("\n".join([f"{comment} pass {name}", *(f"{comment}   {line}" for line in text.splitlines())]))
        put(comment)
    put(emitted.source.text)
    lines = prediction.lines(emitted.cost, emitted.spec, emitted.target) if emitted.target.sms else []
    if built:
        lines += [*str(built.report or "").splitlines(), *(f"  BROKEN PROMISE      {text}" for text in built.broken)]
    for line in lines:
        put(f"{comment} {line}")
    if built:
        say(f"built: {built.size} bytes in {built.seconds:.2f} s" + (f"; {built.unread}" if built.unread else ""))


def _json(emitted: Emitted, built: Built | None) -> dict[str, JsonValue]:
    origin = emitted.source.origin
    plain: dict[str, JsonValue] = {
        "text": emitted.source.text,
        "entry": emitted.source.entry,
        "spec": origin.spec,
        "schedule": origin.schedule,
        "target": origin.target,
        "recipe": origin.recipe,
        "recipe_hash": origin.recipe_hash,
        "passes": [{"pass": name, "decision": text} for name, text in emitted.passes],
    }
    if emitted.target.sms:
        plain["predicted"] = prediction.as_json(emitted.cost, emitted.target)
    plain["build"] = _build_json(built) if built else None
    return plain


def _build_json(built: Built) -> dict[str, JsonValue]:
    plain: dict[str, JsonValue] = {"bytes": built.size, "seconds": built.seconds}
    if built.report:
        plain["report"] = cast("JsonValue", built.report.json())
        plain["broken_promises"] = list(built.broken)
    elif built.unread:
        plain["report"] = None
        plain["unread"] = built.unread
    return plain


def emitted_for(spec: str, target: str, schedule: str = "", recipe: str = "") -> Emitted:
    """Emit for the texts that a user gave.

    Args:
        spec: Text of a spec.
        target: Name of a target, or `auto` for this machine's.
        schedule: Text, or empty for the default.
        recipe: Name, or empty for the one that the schedule belongs to, or else the default.

    Raises:
        GridstoneError: A text is malformed, a name unknown, or no recipe computes the spec.
    """
    on = host_target() if target == "auto" else parse_target(target)
    wanted = asked = parse_spec(spec).with_storage(on.storage)
    if not wanted.dims and recipes_for(wanted, on):
        wanted = looked_up(wanted)  # what a call with these rows runs
    chosen = choose_recipe(wanted, on, recipe, schedule)
    start = chosen.space.default(wanted, on)
    resolved = parse_schedule(schedule, chosen.schedule, start) if schedule else start
    steps: list[tuple[str, str]] = []

    def watch(name: str, plan: Plan) -> None:
        steps.append((name, print_decision(plan.decisions[-1])))

    source = emit_source(chosen, wanted, resolved, on, watch)
    if not source.text:
        raise SpecError(f"{on} calls torch: there is no text to emit", "emit for a cpp target")
    cost = prediction.predicted(asked, cast("GemmSchedule", resolved), on) if on.sms else None
    return Emitted(source, on, tuple(steps), asked, cost)


def choose_recipe(spec: Spec, target: Target, name: str, schedule: str) -> Recipe[Schedule]:
    """Return the recipe that a user named, or whose schedule was given, or the default."""
    able = recipes_for(spec, target)
    if name:
        recipe = recipe_named(name)
        if recipe in able:
            return recipe
        reason = recipe.refuses(spec, target) or f"it emits {recipe.language.value} for {recipe.op}"
        raise ScheduleError(f"{name} does not compute this spec on {target}: {reason}", "omit --recipe")
    if not able:
        reasons = "; ".join(refusals(spec, target)) or f"there is no recipe for {spec.op.name} on {target} yet"
        raise SpecError(f"nothing computes this spec on {target}: {reasons}")
    head = schedule.split("(")[0].strip()
    if not head:
        recipe = default_recipe(spec, target)
        assert recipe is not None
        return recipe
    heads = {print_schedule(r.space.default(spec, target)).split("(")[0]: r for r in able}
    if head not in heads:
        raise ScheduleError(f"no recipe for this spec on {target} has a schedule {head!r}", nearest(head, heads))
    return heads[head]


def _built(emitted: Emitted) -> Built:
    """Compile apart from the cache, and read a GPU's machine code."""
    from gridstone.kernel_cache.make import TOOLCHAINS  # torch

    source, target = emitted.source, emitted.target
    chain = TOOLCHAINS[source.language]
    missing = chain.missing()
    if missing:
        raise BuildError(f"nothing can be built: {missing}", "run `gridstone doctor`")
    start = time.perf_counter()
    binary = chain.build(source, target)
    seconds = time.perf_counter() - start
    if not target.sms:
        return Built(len(binary), seconds)
    from gridstone.kernel_cache.artefact import unpack
    from gridstone.proof.cubin import broken_promises, read_report

    try:
        report = read_report(unpack(binary), target)
    except BuildError as error:
        return Built(len(binary), seconds, unread=str(error))
    broken = broken_promises(report, recipe_named(source.origin.recipe).promises)
    return Built(len(binary), seconds, report, broken=broken)
