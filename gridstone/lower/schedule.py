"""Schedules: how a spec is computed. One frozen dataclass per recipe; its search space states the constraints once.

A `Constraint` names the fields it reads, so that the feasible set is enumerated by cutting a branch as soon as those
fields are chosen, instead of filtering a full product.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from gridstone.ir.errors import ScheduleError, nearest
from gridstone.ir.spec import Spec
from gridstone.lower.decisions import Decision
from gridstone.lower.target import Target

Value = int | str | bool
Order = Callable[[tuple[Value, ...]], Iterable[Value]]
_SPACE = " \t\r\n"
_LONGEST = 18  # digits of an integer


class Schedule(Protocol):
    """A frozen dataclass whose fields are the choices of a recipe, and which names the decisions that it leads to."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]
    decisions: ClassVar[tuple[type[Decision], ...]]


S = TypeVar("S", bound=Schedule)
T_contra = TypeVar("T_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class Choice:
    """A field of a schedule and the values that a search may give it, in ascending order where they are numbers."""

    field: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Constraint(Generic[T_contra]):
    """A named condition on a schedule.

    Args:
        name: What must hold, in words that an error message can quote.
        reads: The fields that the predicate looks at.
        holds: (schedule, spec, target) -> whether it holds.
    """

    name: str
    reads: tuple[str, ...]
    holds: Callable[[T_contra, Spec, Target], bool]


@dataclass(frozen=True, slots=True)
class SearchSpace(Generic[S]):
    """The choices of a recipe, what must hold between them, and the schedule used when nothing was tuned."""

    fields: tuple[Choice, ...]
    require: tuple[Constraint[S], ...]
    default: Callable[[Spec, Target], S]

    def violated(self, schedule: S, spec: Spec, target: Target) -> str | None:
        """Return the name of the first constraint that does not hold, or None; a value must be one of its field's."""
        for choice in self.fields:
            if getattr(schedule, choice.field) not in choice.values:
                return f"{choice.field} is one of {', '.join(_text(value) for value in choice.values)}"
        for constraint in self.require:
            if not constraint.holds(schedule, spec, target):
                return constraint.name
        return None

    def check(self, schedule: S, spec: Spec, target: Target) -> None:
        """Raise ScheduleError, naming the constraint, when the schedule is infeasible."""
        name = self.violated(schedule, spec, target)
        if name is not None:
            raise ScheduleError(f"{print_schedule(schedule)} on {target}: {name}", "choose a schedule of the space")

    def feasible(self, spec: Spec, target: Target, order: Order = iter) -> Iterator[S]:
        """Yield every feasible schedule once.

        Args:
            spec, target: What for.
            order: Puts the values of a field in order, each time anew; as they stand when omitted. With a shuffle, the
                first schedule is a random one, though not drawn uniformly: values with few continuations are as likely.
        """
        start = self.default(spec, target)
        fixed = [c for c in self.require if not set(c.reads) & {f.field for f in self.fields}]
        if not all(c.holds(start, spec, target) for c in fixed):
            return
        due: list[list[Constraint[S]]] = [[] for _ in self.fields]
        for constraint in self.require:
            last = [i for i, choice in enumerate(self.fields) if choice.field in constraint.reads]
            if last:
                due[max(last)].append(constraint)

        def walk(at: int, partial: S) -> Iterator[S]:
            if at == len(self.fields):
                yield partial
                return
            for value in order(self.fields[at].values):
                chosen = dataclasses.replace(partial, **{self.fields[at].field: value})
                if all(c.holds(chosen, spec, target) for c in due[at]):
                    yield from walk(at + 1, chosen)

        yield from walk(0, start)


def print_schedule(schedule: Schedule) -> str:
    """Return the text form, such as `direct(m_r=6,n_r=4)`, which `parse_schedule` reads."""
    fields = ",".join(f"{f.name}={_text(getattr(schedule, f.name))}" for f in dataclasses.fields(schedule))
    return f"{_name(type(schedule))}({fields})"


def _name(kind: type[Schedule]) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse_schedule(text: str, kind: type[S], default: S) -> S:
    """Parse the text form of a schedule of a known class; omitted fields come from `default`.

    Raises:
        ScheduleError: Malformed text, another class's name, a field that is unknown or given twice, or a value of the
            wrong type; names the piece.
    """
    example = f"write for example {print_schedule(default)}"
    found = re.fullmatch(r"([a-z_0-9]+)[ \t\r\n]*\(([^()]*)\)", text.strip(_SPACE))
    if found is None or found[1] != _name(kind):
        problem = "malformed schedule" if found is None else f"not a schedule of {_name(kind)}:"
        raise ScheduleError(f"{problem} {text!r}", example)
    known = {f.name: getattr(default, f.name) for f in dataclasses.fields(kind)}
    chosen: dict[str, Value] = {}
    for item in found[2].split(",") if found[2].strip(_SPACE) else ():
        name, equals, value = (part.strip(_SPACE) for part in item.partition("="))
        if name not in known:
            raise ScheduleError(f"unknown field {name!r} of {text!r}", nearest(name, known))
        if name in chosen:
            raise ScheduleError(f"{name} is given twice in {text!r}", f"leave {name}={value} out")
        if not equals:
            raise ScheduleError(f"{name} has no value in {text!r}", f"write {name}={_text(known[name])}")
        chosen[name] = _value(name, value, known[name])
    return dataclasses.replace(default, **chosen)


def _value(name: str, text: str, like: Value) -> Value:
    remedy = f"write for example {name}={_text(like)}"
    if isinstance(like, bool):
        if text not in ("true", "false"):
            raise ScheduleError(f"{name}={text} is not true or false", remedy)
        return text == "true"
    if isinstance(like, int):
        if not re.fullmatch(r"-?[0-9]+", text):
            raise ScheduleError(f"{name}={text} is not an integer", remedy)
        if len(text) > _LONGEST:
            raise ScheduleError(f"{name} has more than {_LONGEST} digits", remedy)
        return int(text)
    if not re.fullmatch(r"[A-Za-z0-9_]+", text):
        raise ScheduleError(f"{name}={text} is not a name", remedy)
    return text
