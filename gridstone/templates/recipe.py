"""Recipe: one algorithm for one op in one language: its schedule, its search space and its template."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from gridstone.ir.spec import Spec
from gridstone.lower.decisions import Decision
from gridstone.lower.schedule import Schedule, SearchSpace
from gridstone.lower.target import Language, Target
from gridstone.templates.requirement import Requirement
from gridstone.templates.source import Launch, Param

S = TypeVar("S", bound=Schedule)


@dataclass(frozen=True, slots=True)
class Recipe(Generic[S]):
    """One way to compute an op.

    Args:
        name: Unique name, `<op>.<language>.<algorithm>`.
        op: Name of the op.
        language: Language of the emitted text.
        schedule: The dataclass of its choices.
        space: Choices, constraints and default.
        decisions: The decisions that the template reads; their fields are exactly its variables.
        template: Path of the template below `templates/`; empty for a recipe without text (the library call).
        params: The entry point's parameters, in order.
        launch: How it is started.
        refuses: (spec, target) -> the reason why this recipe cannot compute the spec, or None.
        claims: (spec, target) -> whether it is the one to use when nothing was tuned.
        promises: What holds of the machine code of its kernels; nothing is promised of a CPU's.
    """

    name: str
    op: str
    language: Language
    schedule: type[S]
    space: SearchSpace[S]
    decisions: tuple[type[Decision], ...]
    template: str
    params: tuple[Param, ...]
    launch: Launch
    refuses: Callable[[Spec, Target], str | None]
    claims: Callable[[Spec, Target], bool]
    promises: tuple[Requirement, ...] = ()
