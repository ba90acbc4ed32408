"""Templates and recipes agree; what is emitted is headed by its facts and does not depend on M."""

from __future__ import annotations

import dataclasses
import re
import shlex

import jinja2
import pytest

from gridstone.ir.errors import ScheduleError, TemplateError
from gridstone.ir.text import parse_spec, print_spec
from gridstone.lower.bucket import generalize
from gridstone.lower.passes import lower
from gridstone.lower.schedule import parse_schedule, print_schedule
from gridstone.lower.target import TARGETS, Language, parse_target
from gridstone.templates import render
from gridstone.templates.emit import emit
from gridstone.templates.registry import RECIPES, default_recipe, recipe_named, recipes_for, refusals
from gridstone.templates.source import ParamKind

WITH_TEXT = tuple(recipe for recipe in RECIPES if recipe.template)
HOST = parse_target("cpp:avx512_bf16")
HOSTS = {Language.CPP: HOST, Language.CUDA: parse_target("cuda:sm_90"), Language.TRITON: parse_target("triton:sm_90")}
TEXT = "gemm[x: bf16({m},256), w: int4:g64:zero(200,256)] + bias + silu + residual"
every_recipe = pytest.mark.parametrize("recipe", WITH_TEXT, ids=lambda recipe: recipe.name)


on_each_target = pytest.mark.parametrize(
    ("recipe", "target"),
    [(recipe, t) for recipe in WITH_TEXT for t in TARGETS.values() if t.language is recipe.language],
    ids=lambda value: getattr(value, "name", str(value)),
)


def emitted(recipe, text, target=None):
    target = target or HOSTS[recipe.language]
    spec = parse_spec(text)
    resolved = spec.with_storage(target.storage)
    return emit(recipe, spec, recipe.space.default(resolved, target), target)


@every_recipe
def test_a_template_reads_exactly_its_decisions_fields(recipe):
    """Breaks when a field is decided that nothing reads, or a variable is read that nobody decides."""
    fields = render.decision_fields(recipe.decisions)
    assert len(set(fields)) == len(fields)
    assert render.template_variables(recipe.language, recipe.template) == set(fields)


@every_recipe
def test_specs_that_differ_in_rows_alone_share_one_text(recipe):
    """Breaks when a row count gets into the source: a compile per M."""
    host = HOSTS[recipe.language]
    schedule = recipe.space.default(parse_spec(TEXT.format(m=4)).with_storage(host.storage), host)
    sources = [emit(recipe, parse_spec(TEXT.format(m=m)), schedule, host) for m in (4, 3, 40, "M")]
    assert len({source.text for source in sources}) == 1
    assert len(set(sources)) == 1


@on_each_target
def test_the_header_says_what_was_emitted_and_how_to_emit_it_again(recipe, target):
    source = emitted(recipe, TEXT.format(m="M"), target)
    spec = generalize(parse_spec(TEXT.format(m="M")).with_storage(target.storage))
    header = source.text.split("\n\n")[0]
    schedule = print_schedule(recipe.space.default(spec, target))
    for fact in (
        print_spec(spec),
        schedule,
        str(target),
        recipe.name,
        render.recipe_hash(recipe),
        f"w: {target.storage}",
    ):
        assert fact in header, fact
    command = shlex.split(next(line for line in header.splitlines() if "repro" in line))
    text = command[command.index("emit") + 1]
    again = parse_schedule(
        command[command.index("--schedule") + 1], recipe.schedule, recipe.space.default(spec, target)
    )
    assert command[command.index("--target") + 1] == str(target)
    assert emit(recipe, parse_spec(text), again, target) == source
    assert all(line.startswith(("//", "#")) for line in header.splitlines())


@every_recipe
def test_every_parameter_is_an_operand_or_the_call_s(recipe):
    """Breaks when an entry point takes what a launcher cannot fill."""
    for param in recipe.params:
        assert (param.operand in {"x", "w", "bias", "residual", "y"}) == (
            param.kind not in (ParamKind.THREADS, ParamKind.SCRATCH, ParamKind.PARTS, ParamKind.TICKETS)
        )
    source = emitted(recipe, TEXT.format(m="M"))
    assert f"{source.entry}(" in source.text
    assert not source.launch.scratch_entry or f"{source.launch.scratch_entry}(" in source.text


@every_recipe
def test_nothing_of_jinja_is_left_in_the_text(recipe):
    text = emitted(recipe, TEXT.format(m="M")).text
    for left in ("$(", "//%", "<%%", "<##", "Undefined"):
        assert left not in text
    assert "\t" not in text


def _planted(monkeypatch, **templates):
    """Let the loader find these templates before the package's."""
    env = render.environment(Language.CPP)
    assert env.loader is not None
    planted = jinja2.ChoiceLoader([jinja2.DictLoader(templates), env.loader])
    monkeypatch.setattr(env, "loader", planted)
    monkeypatch.setattr(env, "cache", jinja2.environment.create_cache(0))
    for cached in (render.template_variables, render.template_hash):
        cached.cache_clear()


@pytest.fixture
def planted(monkeypatch):
    yield lambda **templates: _planted(monkeypatch, **templates)
    monkeypatch.undo()
    for cached in (render.template_variables, render.template_hash):
        cached.cache_clear()


def _with_template(recipe, template):
    return dataclasses.replace(recipe, template=template)


def test_an_unknown_variable_is_a_template_error(planted):
    planted(**{"bad.j2": "$(header)\nint a = $(block_m);\n"})
    recipe = _with_template(recipe_named("gemm.cpp.direct"), "bad.j2")
    with pytest.raises(
        TemplateError, match=r"bad\.j2: 'block_m' is undefined .*the recipe and its template must agree"
    ):
        emitted(recipe, TEXT.format(m="M"))


@pytest.mark.parametrize(
    ("text", "message"),
    [("//% if n\nint a;\n", "bad.j2"), ("//% include name\n", "computed name"), ("//% include 'none.j2'\n", "none.j2")],
)
def test_a_malformed_template_is_a_template_error(planted, text, message):
    planted(**{"bad.j2": text})
    recipe = _with_template(recipe_named("gemm.cpp.direct"), "bad.j2")
    with pytest.raises(TemplateError, match=message):
        emitted(recipe, TEXT.format(m="M"))


def test_cpp_stays_itself(planted):
    """Braces, preprocessor lines, shell-like dollars and comments are not Jinja's."""
    text = (
        'int a[2][2] = {{0, 1}, {2, 3}};\n#define D(x) {%d}\n/* {# kept #} */ asm("$0");\nf<<<g, b>>>(); // $n $(n)\n'
    )
    planted(**{"plain.j2": text})
    recipe = _with_template(recipe_named("gemm.cpp.direct"), "plain.j2")
    assert emitted(recipe, TEXT.format(m="M")).text == text.replace("$(n)", "200")


def test_the_hash_covers_what_a_template_includes(planted):
    """Breaks when a changed library header leaves a record of the old kernel fresh."""
    planted(**{"outer.j2": "//% include 'inner.j2'\n", "inner.j2": "int a;\n"})
    before = render.template_hash(Language.CPP, "outer.j2")
    planted(**{"outer.j2": "//% include 'inner.j2'\n", "inner.j2": "int b;\n"})
    assert render.template_hash(Language.CPP, "outer.j2") != before


def test_emit_refuses_an_infeasible_schedule_by_name():
    recipe = recipe_named("gemm.cpp.direct")
    spec = parse_spec("gemm[x: f32(M,64), w: int4:g32(70,64)]")
    wrong = parse_schedule("direct(dot=bf16)", recipe.schedule, recipe.space.default(spec, HOST))
    with pytest.raises(ScheduleError, match="the dot product keeps the numerics class"):
        emit(recipe, spec, wrong, HOST)


def test_emit_watches_every_pass():
    seen = []
    recipe = recipe_named("gemm.cpp.gemv")
    spec = parse_spec(TEXT.format(m="M")).with_storage("lane16")
    emit(recipe, spec, recipe.space.default(spec, HOST), HOST, lambda name, plan: seen.append(name))
    assert len(seen) == len(lower(generalize(spec), recipe.space.default(spec, HOST), HOST).decisions)


def test_recipe_names_are_unique_and_an_unknown_one_suggests_the_nearest():
    assert len({recipe.name for recipe in RECIPES}) == len(RECIPES)
    for recipe in RECIPES:
        assert recipe_named(recipe.name) is recipe
    with pytest.raises(ScheduleError, match=r"unknown recipe 'gemm.cpp.gemmv' \(did you mean gemm.cpp.gemv"):
        recipe_named("gemm.cpp.gemmv")


@pytest.mark.parametrize(
    ("text", "target", "reason"),
    [
        ("gemm[x: f32(M,64), w: f32(70,64)]", "cpp:avx2", "the weight is a plain f32 matrix"),
        ("gemm[x: f32(M,64), w: int3:g32(70,64)]", "cpp:avx2", "codes of 3 bits; the C\\+\\+ recipes decode 4 and 8"),
        ("gemm[x: f32(M,64), w: int4:g32@dense(70,64)]", "cpp:avx2", "stored as dense; the C\\+\\+ recipes read lane16"),  # noqa: E501
        ("gemm[x: bf16(M,64), w: int8:g32(70,64)]; int8_act", "cpp:avx512_bf16", "numerics int8_act are not"),
        ("gemm[x: f64(M,64), w: int8:g32(70,64)]", "cpp:avx512_bf16", "x is f64; the C\\+\\+ recipes read f32, bf16, f16"),  # noqa: E501
        ("gemm[x: f32(M,64), w: int8:g32(70,64)] + bias:f64", "cpp:avx2", "bias is f64"),
        ("gemm[x: f32(M,64), w: int8:g32(70,64)] + residual:i32", "cpp:avx2", "residual is i32"),
        ("gemm[x: bf16(M,64), w: int8:g32(70,64)] -> f16(M,70)", "cpp:avx2", "an output of f16 for activations of bf16"),  # noqa: E501
    ],
)  # fmt: skip
def test_what_no_recipe_computes_is_refused_with_a_reason(text, target, reason):
    spec, on = parse_spec(text), parse_target(target)
    assert recipes_for(spec, on) == ()
    assert default_recipe(spec, on) is None
    assert any(re.search(reason, each) for each in refusals(spec, on))


def test_the_library_takes_every_sample_but_quantised_activations():
    library = recipe_named("gemm.library.torch")
    on = parse_target("library:torch")
    for text in parse_spec(TEXT.format(m=4)).op.samples():
        assert library.refuses(parse_spec(text), on) is None
    assert "int8_act" in str(library.refuses(parse_spec("gemm[x: bf16(M,64), w: int8:g32(70,64)]; int8_act"), on))


@pytest.mark.parametrize(("m", "name"), [(1, "gemv"), (4, "gemv"), (16, "direct"), (999, "blocked"), ("M", "blocked")])
def test_the_default_recipe_by_rows(m, name):
    assert default_recipe(parse_spec(TEXT.format(m=m)), HOST).name == f"gemm.cpp.{name}"
