"""Cases of a kernel: which kernel, and which call of it. They print on one line, and the line is parsed again.

    gemm[x: f32(M,96), w: int4:g32(33,96)] + bias; exact | gemm.cpp.direct | direct(m_r=4) | cpp:avx2 | M=17 seed=3

The last part is the call: what differs from `Call()`, as `name=value`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace

from gridstone.ir.errors import SpecError, nearest
from gridstone.ir.spec import Spec
from gridstone.ir.text import parse_spec, print_spec
from gridstone.lower.bucket import ROWS
from gridstone.lower.schedule import Schedule, parse_schedule, print_schedule
from gridstone.lower.target import Target, parse_target
from gridstone.templates.recipe import Recipe
from gridstone.templates.registry import recipe_named, refusal

SEPARATOR = " | "
MOST = 1 << 20  # of any number in a call: larger ones would take memory that no case is worth
MOST_SEED = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class KernelCase:
    """A kernel.

    Args:
        spec: Storages resolved; rows symbolic, or a number where the kernel is emitted for just so many.
        recipe: Emits it.
        schedule: Of the recipe's class.
        target: What it is emitted for.
    """

    spec: Spec
    recipe: Recipe[Schedule]
    schedule: Schedule
    target: Target

    def __str__(self) -> str:
        parts = (print_spec(self.spec), self.recipe.name, print_schedule(self.schedule), str(self.target))
        return SEPARATOR.join(parts)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a kernel.

    Args:
        M: Rows of x.
        values: One of `inputs.VALUES`: of activations and epilogue operands.
        scales: One of `inputs.SCALES`: of a quantised weight.
        seed: Of all values.
        nan, inf: How many elements of the plain operands are NaN and infinite.
        x_gap, residual_gap, out_gap: Elements between the end of a row and the start of the next.
        x_offset, residual_offset, bias_offset, w_offset, out_offset: Elements between the start of the memory and the
            operand's first element; bytes of a packed weight.
        transposed: Whether x is a view with its last axis strided.
        threads: Of a C++ kernel.
        order: Seed of the order in which a GPU's blocks and threads come.
        asm: Whether inline PTX of Triton's runs instead of its plain twin.
        sanitized: Whether CUDA runs as a program under AddressSanitizer and UBSan.
    """

    M: int = 1
    values: str = "normal"
    scales: str = "normal"
    seed: int = 0
    nan: int = 0
    inf: int = 0
    x_gap: int = 0
    residual_gap: int = 0
    out_gap: int = 0
    x_offset: int = 0
    residual_offset: int = 0
    bias_offset: int = 0
    w_offset: int = 0
    out_offset: int = 0
    transposed: bool = False
    threads: int = 1
    order: int = 0
    asm: bool = False
    sanitized: bool = False

    def __str__(self) -> str:
        plain = Call()
        parts = [
            f"{f.name}={str(getattr(self, f.name)).lower()}"
            for f in fields(self)
            if f.name == "M" or getattr(self, f.name) != getattr(plain, f.name)
        ]
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Case:
    """A call of a kernel."""

    kernel: KernelCase
    call: Call

    def __str__(self) -> str:
        return f"{self.kernel}{SEPARATOR}{self.call}"

    @property
    def static(self) -> Spec:
        """The spec with the call's rows."""
        return self.kernel.spec.bind(**{ROWS: self.call.M})


def parse_case(text: str) -> Case:
    """Parse the printed form of a case.

    Raises:
        SpecError: Not five parts, the recipe does not compute the spec on the target, or a part of the call is unknown,
            repeated or out of range.
        ScheduleError: The schedule is not feasible.
        GridstoneError: A part is malformed, as its own parser says.
    """
    parts = text.strip().split(SEPARATOR)
    if len(parts) != 5:
        raise SpecError(f"{text!r} has {len(parts)} parts", "write SPEC | RECIPE | SCHEDULE | TARGET | CALL")
    target, recipe = parse_target(parts[3]), recipe_named(parts[1])
    spec = parse_spec(parts[0]).with_storage(target.storage)
    reason = (
        refusal(recipe, spec, target) if recipe.language is target.language else f"{recipe.name} is not for {target}"
    )
    if reason is not None:
        raise SpecError(f"{text!r} is no case: {reason}")
    schedule = parse_schedule(parts[2], recipe.schedule, recipe.space.default(spec, target))
    recipe.space.check(schedule, spec, target)
    return Case(KernelCase(spec, recipe, schedule, target), _call(parts[4]))


def _call(text: str) -> Call:
    plain, chosen = Call(), {}
    known = {f.name: getattr(plain, f.name) for f in fields(Call)}
    for part in text.split():
        name, equals, value = part.partition("=")
        if name not in known or not equals:
            raise SpecError(f"unknown part {part!r} of a call", nearest(name, known))
        if name in chosen:
            raise SpecError(f"{name} is given twice in {text!r}", f"leave {part} out")
        chosen[name] = _value(part, value, known[name])
    return replace(plain, **chosen)


def _value(part: str, text: str, like: int | str | bool) -> int | str | bool:
    if isinstance(like, bool):
        if text in ("true", "false"):
            return text == "true"
        raise SpecError(f"{part!r} is not true or false")
    if isinstance(like, int):
        most = MOST_SEED if part.startswith(("seed", "order")) else MOST
        if re.fullmatch(r"[0-9]{1,10}", text) and int(text) <= most:
            return int(text)
        raise SpecError(f"{part!r} is not a number up to {most}")
    return text
