"""Subject `text`: what prints reads back as itself, and what is no such text is refused with an error of ours.

Values are drawn as structures, so that a printer cannot lose a part unnoticed. Texts are samples that were cut, joined
and strewn with what parsers trip over, made long, or nothing but noise.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from gridstone.ir.dtype import DTYPES, dtype
from gridstone.ir.errors import GridstoneError, SpecError, nearest
from gridstone.ir.format import complete_format, parse_format
from gridstone.ir.layout import Layout, Swizzle, Swizzled
from gridstone.ir.ops import OPS
from gridstone.ir.text import parse_spec, parse_type, print_spec
from gridstone.lower.schedule import Schedule, parse_schedule, print_schedule
from gridstone.lower.target import TARGETS, Target, parse_target
from gridstone.proof.fuzz.case import SEPARATOR, parse_case
from gridstone.proof.fuzz.hypothesis_law import Choose, Law, LawSubject
from gridstone.proof.fuzz.spec_case import (
    FormatCase,
    SpecCase,
    TypeCase,
    draw_format,
    draw_spec,
    format_case,
    format_of,
    samples,
    spec_case,
    spec_of,
    type_case,
    type_of,
)
from gridstone.proof.fuzz.subject import Wanted
from gridstone.templates.recipe import Recipe
from gridstone.templates.registry import RECIPES, recipe_named, recipes_for

LENGTHS = (0, 30, 600, 5000, 12_000, 50_000)  # characters of a repetition
_MARKS = (
    '-> [ ] ( ) { } : , ; % @ = + - | . o Sw< > 0 1 -1 1e999 1.5 nan inf true none f32 ١ é "2:4" (4,) ((((((( )))))))'
)
_WORDS = "int4 :g128 :zero lane16 M bias cast scale( M=1 seed=0"
PIECES = ("", *_MARKS.split(" "), *_WORDS.split(" "), " ", "\n", "\t", "\0", "\xa0", "\ud800", "9" * 30)
REPEATED = ("(", "(1,", "1,", "9", " ", "+relu", "a", ":", "-", '"', "\n", ")", "0.", "g1:", "[", "\u3000")


class Read(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A text for one of the parsers: `head`, then `times` times `piece`, then `tail`."""

    parser: str
    head: str
    piece: str = ""
    times: int = 0
    tail: str = ""

    def __post_init__(self) -> None:
        if self.parser not in parsers():
            raise SpecError(f"no parser {self.parser!r}", nearest(self.parser, parsers()))
        if not 0 <= self.times * len(self.piece) <= LENGTHS[-1]:
            raise SpecError(f"{self.times} times {self.piece!r} is not at most {LENGTHS[-1]} characters")

    @property
    def text(self) -> str:
        """What is parsed."""
        return self.head + self.piece * self.times + self.tail


class Completed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A format's text with a group and a scale dtype beside it."""

    text: str
    group: int
    scale: str


class ScheduleCase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A schedule by its fields, and another one that fills in what a text leaves out."""

    recipe: str
    fields: dict[str, bool | int | str]
    default: dict[str, bool | int | str]


@dataclass(frozen=True, slots=True)
class Parser:
    """A pair of functions that undo each other, and texts that the first one takes."""

    parse: Callable[[str], Any]
    show: Callable[[Any], str]
    seeds: tuple[str, ...]


@functools.cache
def parsers() -> dict[str, Parser]:
    """Return every parser by name; a recipe's schedules are read by one of their own."""
    specs = tuple(print_spec(spec) for spec in samples())
    refused = tuple(bad.text for kind in OPS.values() for bad in kind().bad_samples())
    types = tuple(str(operand.type) for spec in samples() for operand in spec.inputs)
    formats = tuple(str(operand.type.format) for spec in samples() for operand in spec.inputs if operand.type.format)
    layouts = ("(4,(2,3)):(1,(4,8))", "8:1", "()", "((4,),(2,2)):((0,),(1,35))", " ( 8 , 512 ) : ( 1 , 8 ) ")
    kernels = tuple(filter(None, map(_sample_kernel, RECIPES)))
    return {
        "spec": Parser(parse_spec, print_spec, (*specs, *refused)),
        "type": Parser(parse_type, str, types),
        "format": Parser(parse_format, str, formats),
        "target": Parser(parse_target, str, tuple(TARGETS)),
        "layout": Parser(Layout.parse, str, layouts),
        "swizzle": Parser(Swizzle.parse, str, ("Sw<3,4,3>", "Sw<2,0,-5>")),
        "swizzled": Parser(Swizzled.parse, str, tuple(f"Sw<3,4,3> o {layout}" for layout in layouts)),
        "case": Parser(parse_case, str, tuple(_sample_case(*kernel) for kernel in kernels)),
        **{
            kernel[0].name: Parser(_schedule_parser(*kernel), print_schedule, (print_schedule(_default(*kernel)),))
            for kernel in kernels
        },
    }


Kernel = tuple[Recipe[Schedule], str, Target]


def _sample_kernel(recipe: Recipe[Schedule]) -> Kernel | None:
    """Return a recipe with a sample that it computes and a target for it; None where no sample is for it."""
    for target in TARGETS.values():
        for spec in samples() if target.language is recipe.language else ():
            if recipe in recipes_for(spec.with_storage(target.storage), target):
                return recipe, print_spec(spec), target
    return None


def _default(recipe: Recipe[Schedule], spec: str, target: Target) -> Schedule:
    return recipe.space.default(parse_spec(spec).with_storage(target.storage), target)


def _schedule_parser(recipe: Recipe[Schedule], spec: str, target: Target) -> Callable[[str], Schedule]:
    default = _default(recipe, spec, target)
    return lambda text: parse_schedule(text, recipe.schedule, default)


def _sample_case(recipe: Recipe[Schedule], spec: str, target: Target) -> str:
    schedule = print_schedule(_default(recipe, spec, target))
    return SEPARATOR.join((spec, recipe.name, schedule, str(target), "M=17 seed=3 x_gap=8 values=huge asm=true"))


# Drawing --------------------------------------------------------------------------------------------------------------


def _draw_parser(choose: Choose, wanted: Wanted) -> str:
    schedules = [recipe.name for recipe in _recipes(wanted)]
    name = choose.one(["spec", *(name for name in parsers() if "." not in name), *schedules[:1]])
    return choose.one(schedules) if name in schedules else name


def _draw_read(choose: Choose, wanted: Wanted) -> Read:
    name = _draw_parser(choose, wanted)
    text = choose.one([*parsers()[name].seeds, ""])
    for _ in range(choose.integer(1, 4)):
        text = _edited(choose, text)
    return Read(name, text)


def _edited(choose: Choose, text: str) -> str:
    """Replace, repeat, move or drop a word or a mark, or put anything anywhere."""
    pieces = re.findall(r"\w+|\W", text)
    at, to = choose.integer(0, len(pieces)), choose.integer(0, len(pieces))
    head, this, tail = pieces[:at], pieces[at : at + 1], pieces[at + 1 :]
    match choose.integer(0, 5):
        case 0:
            this = [choose.one(PIECES)]
        case 1:
            this = []
        case 2:
            this = this * 2
        case 3:
            head, this, tail = pieces[:to], this, pieces[to:]
        case 4:
            this = [*this, choose.one(PIECES)]
        case _:
            this = [choose.text(4), *(piece[1:] for piece in this)]
    return "".join([*head, *this, *tail])


def _draw_noise(choose: Choose, wanted: Wanted) -> Read:
    return Read(_draw_parser(choose, wanted), choose.text(60))


def _draw_long(choose: Choose, wanted: Wanted) -> Read:
    name, piece = _draw_parser(choose, wanted), choose.one(REPEATED)
    text = choose.one([*parsers()[name].seeds, ""])
    at = choose.integer(0, len(text))
    return Read(name, text[:at], piece, choose.one(LENGTHS) // len(piece), text[at:])


def _draw_spec(choose: Choose, wanted: Wanted) -> SpecCase:
    return spec_case(draw_spec(choose, wanted))


def _draw_type(choose: Choose, wanted: Wanted) -> TypeCase:
    return type_case(choose.one(draw_spec(choose, wanted).inputs).type)


def _draw_completed(choose: Choose, wanted: Wanted) -> Completed:
    parts = str(draw_format(choose, wanted)).split(":")
    kept = [part for part in choose.shuffled(parts[1:]) if choose.flag()]
    text = ":".join([parts[0], *kept, *choose.some(0, 1, lambda: choose.one(PIECES))])
    return Completed(text, choose.one([-1, 0, 16, 32, 48, 128, 256]), choose.one(list(DTYPES)))


def _draw_schedule(choose: Choose, wanted: Wanted) -> ScheduleCase:
    recipe = choose.one(_recipes(wanted))
    fields, default = ({choice.field: choose.one(choice.values) for choice in recipe.space.fields} for _ in range(2))
    return ScheduleCase(recipe.name, fields, default)


def _recipes(wanted: Wanted) -> list[Recipe[Schedule]]:
    """Return the wanted recipes: of a wanted op, for any of the wanted targets."""
    targets = [target for target in TARGETS.values() if wanted.takes_target(str(target))]
    languages = {target.language for target in targets}
    return [r for r in RECIPES if r.name in parsers() and wanted.takes_op(r.op) and r.language in languages]


# Laws -----------------------------------------------------------------------------------------------------------------


def returns(value: object, show: Callable[[Any], str], parse: Callable[[str], Any]) -> str:
    """Return how a value differs from what its printed form reads back as; empty when it does not.

    Args:
        value: Hashable.
        show: Prints it.
        parse: Reads that.
    """
    text = show(value)
    again = parse(text)
    if again != value or hash(again) != hash(value):
        return f"it prints as {text!r}, which reads as another: {show(again)!r}"
    if show(again) != text:
        return f"it prints as {text!r}, and once read as {show(again)!r}"
    return f"its printed form {text!r} has more than one line" if len(text.splitlines()) > 1 else ""


def read_fault(case: Read) -> str:
    """Return what is wrong with a parser's answer to a text: it reads it, or refuses it and says why."""
    parser = parsers()[case.parser]
    try:
        value = parser.parse(case.text)
    except GridstoneError as error:
        return "" if error.problem.strip() else "it is refused without a reason"
    return returns(value, parser.show, parser.parse)


def _format_fault(case: FormatCase) -> str:
    fmt = format_of(case)
    fault = returns(fmt, str, parse_format)
    if not fault and complete_format(str(fmt), 16, DTYPES["f32"]) != fmt:
        return f"{fmt} means something else where another group is given beside it"
    return fault


def _completed_fault(case: Completed) -> str:
    try:
        fmt = complete_format(case.text, case.group, dtype(case.scale))
    except GridstoneError:
        return ""
    parts = case.text.strip().split(":")
    if "channel" in parts or any(part[:1] == "g" for part in parts):
        return "" if parse_format(case.text) == fmt else f"it reads as {fmt}, but alone as {parse_format(case.text)}"
    stated = any(part in DTYPES for part in parts)
    if fmt.group != case.group or (fmt.scale.name != case.scale and not stated):
        return f"it reads as {fmt}, which is not what was given beside it"
    return ""


def _schedule_fault(case: ScheduleCase) -> str:
    recipe = recipe_named(case.recipe)
    schedule, default = recipe.schedule(**case.fields), recipe.schedule(**case.default)
    return returns(schedule, print_schedule, lambda text: parse_schedule(text, recipe.schedule, default))


LAWS: tuple[Law[Any], ...] = (
    Law("spec", SpecCase, _draw_spec, lambda case: returns(spec_of(case), print_spec, parse_spec), examples=150),
    Law("type", TypeCase, _draw_type, lambda case: returns(type_of(case), str, parse_type)),
    Law("format", FormatCase, lambda choose, wanted: format_case(draw_format(choose, wanted)), _format_fault),
    Law("completed", Completed, _draw_completed, _completed_fault),
    Law("schedule", ScheduleCase, _draw_schedule, _schedule_fault),
    Law("damaged", Read, _draw_read, read_fault, examples=150),
    Law("noise", Read, _draw_noise, read_fault),
    Law("long", Read, _draw_long, read_fault, examples=100),
)
SUBJECT = LawSubject("text", LAWS)
