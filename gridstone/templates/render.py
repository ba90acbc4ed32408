"""Rendering: a plan and its recipe to source text.

Templates keep the look of their language: variables are `$(name)`, statements are lines that start with `//%` (C++,
CUDA) or `#%` (Triton), and the block and comment delimiters of Jinja are moved out of the way so that `{{0, 0}}` and
`<<<grid, block>>>` stay themselves.
"""

from __future__ import annotations

import dataclasses
import hashlib
from functools import cache

import jinja2
from jinja2 import meta, nodes

from gridstone.ir.errors import TemplateError
from gridstone.ir.storage import storage
from gridstone.ir.text import print_spec
from gridstone.lower.decisions import Decision, Grid, SplitK
from gridstone.lower.plan import Plan
from gridstone.lower.schedule import Schedule, print_schedule
from gridstone.lower.target import Language
from gridstone.templates.recipe import Recipe
from gridstone.templates.source import Launch, Origin, Source

HEADER = "header"
_LINE_STATEMENT = {Language.CPP: "//%", Language.CUDA: "//%", Language.TRITON: "#%"}
_COMMENT = {Language.CPP: "//", Language.CUDA: "//", Language.TRITON: "#"}


@cache
def environment(language: Language) -> jinja2.Environment:
    """Return the Jinja environment of a language."""
    base = jinja2.Environment(
        loader=jinja2.PackageLoader("gridstone", "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        variable_start_string="$(",
        variable_end_string=")",
        block_start_string="<%%",
        block_end_string="%%>",
        comment_start_string="<##",
        comment_end_string="##>",
        autoescape=False,
    )
    return base.overlay(line_statement_prefix=_LINE_STATEMENT[language])


def _texts(language: Language, template: str) -> dict[str, str]:
    """Return the text of a template and of everything it includes, by path."""
    env = environment(language)
    assert env.loader is not None
    found: dict[str, str] = {}
    queue = [template]
    while queue:
        path = queue.pop()
        if path in found:
            continue
        found[path] = env.loader.get_source(env, path)[0]
        for include in env.parse(found[path]).find_all(nodes.Include):
            if not isinstance(include.template, nodes.Const):
                raise TemplateError(f"{path} includes a template by a computed name", "name the file")
            queue.append(str(include.template.value))
    return found


@cache
def template_variables(language: Language, template: str) -> frozenset[str]:
    """Return the variables that a template and its includes read, the header excepted."""
    env = environment(language)
    names: set[str] = set()
    for text in _texts(language, template).values():
        names |= meta.find_undeclared_variables(env.parse(text))
    return frozenset(names - {HEADER})


@cache
def template_hash(language: Language, template: str) -> str:
    """Return the hash of a template and its includes: records made with another one are stale."""
    digest = hashlib.sha256()
    for path, text in sorted(_texts(language, template).items()):
        digest.update(f"{path}\0{text}\0".encode())
    return digest.hexdigest()[:16]


def decision_fields(decisions: tuple[type[Decision], ...]) -> list[str]:
    """Return the names that decisions offer to a template, in order."""
    return [field.name for kind in decisions for field in dataclasses.fields(kind)]


def _header(origin: Origin, plan: Plan, comment: str) -> str:
    lines = [
        "Emitted by gridstone; do not edit.",
        f"spec      {origin.spec}",
        f"schedule  {origin.schedule}",
        f"target    {origin.target}",
        f"recipe    {origin.recipe}, template {origin.recipe_hash}",
        f"flags     {' '.join(plan.target.flags) or 'none beyond the toolchain'}",
        *_layouts(plan),
        f"repro     gridstone emit '{origin.spec}' --target {origin.target} --schedule '{origin.schedule}'",
    ]
    return "\n".join(f"{comment} {line}" for line in lines)


def _layouts(plan: Plan) -> list[str]:
    """Return where the bits of every stored operand lie, as maps to bit addresses."""
    lines: list[str] = []
    for operand in plan.spec.inputs:
        kind = operand.type
        if kind.format is None:
            continue
        place = storage(kind.storage, kind.format, kind.static(0), kind.static(1))
        lines.append(f"storage   {operand.name}: {place.name}, {place.bytes} bytes; maps to bits:")
        parts = [("codes (n,k)", field) for field in place.codes]
        parts += [("scales (n,group)", place.scales)]
        parts += [("zeros (n,group)", place.zeros)] if place.zeros is not None else []
        lines.extend(f"            {what} -> {field.base} + {field.layout}" for what, field in parts)
    return lines


def recipe_hash(recipe: Recipe[Schedule]) -> str:
    """Return the hash that tells whether a record of this recipe is stale."""
    if not recipe.template:
        return "library"
    return template_hash(recipe.language, recipe.template)


def render(recipe: Recipe[Schedule], plan: Plan) -> Source:
    """Emit the source of a plan.

    Raises:
        TemplateError: The template and the decisions do not agree.
    """
    text, entry = "", f"gs_{plan.spec.op.name}"
    values = {
        field.name: getattr(decision, field.name)
        for kind in recipe.decisions
        for decision in (plan.the(kind),)
        for field in dataclasses.fields(decision)
    }
    try:
        origin = Origin(
            recipe.name, recipe_hash(recipe), print_spec(plan.spec), print_schedule(plan.schedule), str(plan.target)
        )
        if recipe.template:
            template = environment(recipe.language).get_template(recipe.template)
            text = template.render(**values, **{HEADER: _header(origin, plan, _COMMENT[recipe.language])})
    except jinja2.TemplateError as error:
        raise TemplateError(f"{recipe.template}: {error}", "the recipe and its template must agree") from error
    return Source(text, recipe.language, entry, recipe.params, _launch(recipe, plan), origin)


def _launch(recipe: Recipe[Schedule], plan: Plan) -> Launch:
    """Return how the kernel is started; a GPU's grid and the order of its sums are the schedule's."""
    if Grid not in plan.schedule.decisions:
        return recipe.launch
    split = plan.the(SplitK)
    return Launch(recipe.launch.scratch_entry, split.ordered or split.k_splits == 1, plan.the(Grid))
