"""Simpler cases: what to leave out of a kernel and its call, the boldest cut first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace

from gridstone.ir.dtype import DType, f16, f32
from gridstone.ir.epilogue import Bias, Cast, Epilogue, Residual, Scale
from gridstone.ir.errors import GridstoneError
from gridstone.ir.format import CHANNEL, Format
from gridstone.ir.spec import EXACT, Numerics, Operand, Spec, make_spec
from gridstone.ir.tensor import TensorType, quantized
from gridstone.lower.schedule import Schedule
from gridstone.proof.fuzz.case import Call, Case, KernelCase
from gridstone.templates.registry import refusal

_INDIFFERENT = ("M", "seed")  # fields of a call that have no simplest value


def simpler_cases(case: Case) -> Iterator[Case]:
    """Yield cases with one thing less, all legal: fewer rows, plainer views, fewer epilogues, smaller shapes."""
    for call in _calls(case.call):
        yield Case(case.kernel, call)
    for spec in _specs(case.kernel.spec):
        kernel = _kernel(case.kernel, spec)
        if kernel is not None:
            yield Case(kernel, case.call)
    for schedule in _schedules(case.kernel):
        yield Case(replace(case.kernel, schedule=schedule), case.call)


def _calls(call: Call) -> Iterator[Call]:
    plain = Call(M=call.M, seed=call.seed)
    if call != plain:
        yield plain
    for rows in sorted({0, 1, 2, call.M // 2, call.M - 1}):
        if 0 <= rows < call.M:
            yield replace(call, M=rows)
    for field in fields(Call):
        value = getattr(plain, field.name)
        if field.name not in _INDIFFERENT and getattr(call, field.name) != value:
            yield replace(call, **{field.name: value})
    if call.seed:
        yield replace(call, seed=0)
    if call.values not in ("normal", "integers"):
        yield replace(call, values="integers")
    if call.scales not in ("normal", "powers"):
        yield replace(call, scales="powers")
    for name in ("nan", "inf"):
        if getattr(call, name) > 1:
            yield replace(call, **{name: 1})


def _specs(spec: Spec) -> Iterator[Spec]:
    steps = spec.epilogue
    for at in range(len(steps)):
        yield from _made(spec, epilogue=(*steps[:at], *steps[at + 1 :]))
    for at, step in enumerate(steps):
        if isinstance(step, Bias | Residual | Cast) and step.dtype != f32:
            yield from _made(spec, epilogue=(*steps[:at], replace(step, dtype=f32), *steps[at + 1 :]))
        elif isinstance(step, Scale) and step.factor != 0.5:
            yield from _made(spec, epilogue=(*steps[:at], Scale(0.5), *steps[at + 1 :]))
    if spec.numerics != EXACT:
        yield from _made(spec, numerics=EXACT)
    x, w = spec.input("x"), spec.input("w")
    n, k = w.static(0), w.static(1)
    unit = w.format.group if w.format is not None and w.format.group != CHANNEL else 1
    for columns in sorted({unit, k // 2 // unit * unit, k - unit}):
        if 0 < columns < k:
            yield from _made(spec, k=columns)
    for rows in sorted({1, 16, n // 2, n - 1}):
        if 0 < rows < n:
            yield from _made(spec, n=rows)
    if x.dtype != f32:
        yield from _made(spec, dtype=f32)
    if w.format is not None:
        if w.format.zero:
            yield from _made(spec, fmt=replace(w.format, zero=False))
        if w.format.scale != f16:
            yield from _made(spec, fmt=replace(w.format, scale=f16))


def _made(
    spec: Spec,
    *,
    n: int = 0,
    k: int = 0,
    dtype: DType | None = None,
    fmt: Format | None = None,
    epilogue: tuple[Epilogue, ...] | None = None,
    numerics: Numerics | None = None,
) -> Iterator[Spec]:
    """Yield the spec with other parts, if there is such a one."""
    x, w = spec.input("x"), spec.input("w")
    to, shape = dtype or x.dtype, (n or w.static(0), k or w.static(1))
    kind = fmt or w.format
    weight = TensorType(to, shape) if kind is None else quantized(kind, shape, w.storage)
    inputs = (Operand("x", TensorType(to, (x.shape[0], shape[1]))), Operand("w", weight))
    steps = spec.epilogue if epilogue is None else epilogue
    try:
        changed = make_spec(spec.op, inputs, steps, numerics or spec.numerics)
    except GridstoneError:
        return
    yield changed


def _kernel(kernel: KernelCase, spec: Spec) -> KernelCase | None:
    """Return the kernel for another spec, with its schedule where that is still feasible, else with the default."""
    if refusal(kernel.recipe, spec, kernel.target) is not None:
        return None
    space = kernel.recipe.space
    if space.violated(kernel.schedule, spec, kernel.target) is None:
        return replace(kernel, spec=spec)
    default = space.default(spec, kernel.target)
    if space.violated(default, spec, kernel.target) is not None:
        return None
    return replace(kernel, spec=spec, schedule=default)


def _schedules(kernel: KernelCase) -> Iterator[Schedule]:
    """Yield the default schedule, and this one with one field as in it."""
    space, spec, target = kernel.recipe.space, kernel.spec, kernel.target
    default = space.default(spec, target)
    if kernel.schedule == default:
        return
    nearer = (replace(kernel.schedule, **{c.field: getattr(default, c.field)}) for c in space.fields)
    for schedule in (default, *nearer):
        if schedule != kernel.schedule and space.violated(schedule, spec, target) is None:
            yield schedule
