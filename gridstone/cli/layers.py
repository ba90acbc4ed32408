"""Layers timed: the library call, the default schedule and the tuned one, in turn, on weights that rotate.

One round measures the machine's limits and then every contestant once. A share of the roofline is formed within its
round, since a shared machine changes its speed between rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from gridstone.cli.console import Json
from gridstone.ir.dtype import DType, bf16, f32
from gridstone.ir.epilogue import Activation, Bias, Epilogue, Residual
from gridstone.ir.errors import BuildError, GridstoneError, SpecError
from gridstone.ir.ops.gemm import Gemm
from gridstone.ir.spec import NumericsClass, Operand, Spec, make_spec
from gridstone.ir.storage import storage
from gridstone.ir.tensor import TensorType
from gridstone.ir.text import print_spec
from gridstone.kernel_cache.host import host_target
from gridstone.kernel_cache.make import make_kernel
from gridstone.kernel_cache.records import Record
from gridstone.kernel_cache.toolchain import Call
from gridstone.kernel_cache.toolchain_library import library_call
from gridstone.lower.bucket import looked_up
from gridstone.lower.schedule import Schedule, parse_schedule, print_schedule
from gridstone.lower.target import Target, parse_target
from gridstone.proof.operands import random_packed
from gridstone.runtime.dispatch import tuned_record
from gridstone.templates.recipe import Recipe
from gridstone.templates.registry import default_recipe, recipe_named
from gridstone.tuner.limits import Limits, arena, measure_limits
from gridstone.tuner.measure import Rotation, calls_per_sample, copies_needed, last_level_cache, time_sample

MIB = 1 << 20
ARENA = 256 * MIB  # bytes read by the measurement of the bandwidth, a quarter at a time
ROUNDS = 15
FEWEST = 3


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to compute a layer, with its samples in seconds by round; two that are one kernel have the same."""

    name: str
    note: str
    samples: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """Median time of one call."""
        return statistics.median(self.samples)


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """One layer measured.

    Args:
        spec: Static, storages resolved.
        contestants: Names are `library f32`, `library bf16`, `default`, `tuned`.
        floors: Roofline floor in seconds by round; none where the limits cannot be measured.
        rotated: Bytes that the quantised contestants' operands rotate over.
    """

    spec: Spec
    contestants: tuple[Contestant, ...]
    floors: tuple[float, ...]
    rotated: int

    def seconds(self, name: str) -> float | None:
        """Return the median time of a contestant, or None when it did not take part."""
        return next((c.seconds for c in self.contestants if c.name == name), None)

    def share(self, name: str) -> float | None:
        """Return the median share of the roofline floor, 1 at the floor."""
        for contestant in self.contestants:
            if contestant.name == name and self.floors:
                return statistics.median(f / s for f, s in zip(self.floors, contestant.samples, strict=True))
        return None

    @property
    def is_default(self) -> bool:
        """Whether the tuned kernel is the default one."""
        default, tuned = (next((c for c in self.contestants if c.name == name), None) for name in ("default", "tuned"))
        return default is not None and tuned is not None and default.note == tuned.note

    @property
    def best(self) -> str:
        """`tuned` where there is one, else `default`."""
        return "tuned" if self.seconds("tuned") is not None else "default"

    @property
    def ratio(self) -> float | None:
        """How many times as fast as the faster library call."""
        ours, theirs = self.seconds(self.best), [self.seconds(name) for name in ("library f32", "library bf16")]
        known = [seconds for seconds in theirs if seconds is not None]
        return min(known) / ours if ours and known else None

    @property
    def beaten_by(self) -> Literal["", "same", "bf16"]:
        """Which library call is faster: that of the `same` numerics class, or only the one that rounds to `bf16`."""
        ours, plain, rounded = (self.seconds(name) for name in (self.best, "library f32", "library bf16"))
        if ours is None or plain is None or rounded is None:
            return ""
        if ours > (rounded if _in_bf16(self.spec) else plain):
            return "same"
        return "bf16" if ours > rounded else ""


def _in_bf16(spec: Spec) -> bool:
    return spec.input("x").dtype == bf16 or spec.numerics.kind is NumericsClass.BF16


def plain_spec(spec: Spec, dtype: DType) -> Spec:
    """Return the layer that a quantised one replaces: plain weights, everything in one dtype."""
    x, w = (TensorType(dtype, spec.input(name).shape) for name in ("x", "w"))
    steps: list[Epilogue] = []
    for step in spec.epilogue:
        if isinstance(step, (Bias, Residual)):
            step = type(step)(dtype)
        steps.append(step)
    return make_spec(Gemm(), (Operand("x", x), Operand("w", w)), tuple(steps))


def epilogue_text(spec: Spec) -> str:
    """Return `bias + gelu`, or a dash."""
    names = [
        step.operand if isinstance(step, (Bias, Residual)) else step.name
        for step in spec.epilogue
        if isinstance(step, (Bias, Residual, Activation))
    ]
    return " + ".join(names) or "-"


def random_operands(spec: Spec) -> tuple[torch.Tensor, ...]:
    """Return operands of a static spec: normal activations, random codes with one constant scale."""
    tensors: list[torch.Tensor] = []
    for operand in (*spec.inputs, *spec.extra_operands):
        kind = operand.type
        shape = tuple(kind.static(axis) for axis in range(len(kind.shape)))
        if kind.format is not None:
            tensors.append(random_packed(storage(kind.storage, kind.format, *shape)))
        else:
            tensors.append(torch.randn(shape, dtype=torch.bfloat16).to(getattr(torch, kind.dtype.torch)))
    return tuple(tensors)


@dataclass(frozen=True, slots=True)
class _Entrant:
    names: tuple[str, ...]  # of the contestants that it is
    note: str
    call: Call
    rotation: Rotation


def _set_bytes(tensors: Sequence[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _rotation(spec: Spec, threads: int, at_least: int) -> tuple[Rotation, int]:
    try:
        tensors = random_operands(spec)
        size = _set_bytes(tensors)
        copies = max(copies_needed(size, last_level_cache(), threads), -(-at_least // size))
        return Rotation(tensors, copies), copies * size
    except RuntimeError as error:  # torch's, for memory that is not there
        raise GridstoneError(f"no memory for the operands of {print_spec(spec)}: {error}", "take fewer rows") from None


def _kernel(spec: Spec, recipe: Recipe[Schedule], schedule: Schedule, target: Target) -> Call:
    return make_kernel(recipe, spec, schedule, target).call


def entrants_of(
    spec: Spec, target: Target, record: Record | None, threads: int, at_least: int
) -> tuple[tuple[_Entrant, ...], int]:
    """Return who takes part, and the bytes that the quantised operands rotate over."""
    if not isinstance(spec.op, Gemm):
        raise SpecError(f"{spec.op.name} cannot be benched yet", "gemm can")
    found: list[_Entrant] = []
    for dtype in (f32, bf16):
        plain = plain_spec(spec, dtype)
        found.append(
            _Entrant((f"library {dtype}",), "torch", library_call(plain), _rotation(plain, threads, at_least)[0])
        )
    rotation, size = _rotation(spec, threads, at_least)
    served = looked_up(spec)  # what a call with these rows runs is chosen, and its schedule checked, for their bucket
    recipe = default_recipe(served, target)
    choices: dict[tuple[str, Schedule, Target], tuple[str, ...]] = {}
    if recipe is not None:
        choices[recipe.name, recipe.space.default(served, target), target] = ("default",)
    if record is not None:
        best, on = recipe_named(record.recipe), parse_target(record.target)
        choice = best.name, parse_schedule(record.schedule, best.schedule, best.space.default(served, on)), on
        # One kernel is timed once: twice, noise would tell it from itself.
        choices[choice] = (*choices.get(choice, ()), "tuned")
    for (kind, schedule, on), names in choices.items():
        call = _kernel(served, recipe_named(kind), schedule, on)
        found.append(_Entrant(names, f"{kind} {print_schedule(schedule)}", call, rotation))
    return tuple(found), size


def measure_layer(
    spec: Spec, *, target: Target | None = None, threads: int | None = None, seconds: float = 2.0, at_least: int = 0
) -> LayerTimes:
    """Time every contestant of a layer in turn.

    Args:
        spec: Static; the tuned record is that of its M's bucket.
        target: What the default is emitted for and the tuned record is of; this machine's widest when omitted.
        threads: Torch's own number when omitted; a record of another number is not used.
        seconds: After this long no round begins, though there are a few rounds in any case.
        at_least: Bytes that every contestant's operands rotate over, if the caches do not ask for more.
    """
    on, number = target or host_target(), threads or torch.get_num_threads()
    resolved = spec.with_storage(on.storage)
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        with torch.inference_mode():
            record = tuned_record(looked_up(resolved), number, str(on))
            entrants, rotated = entrants_of(resolved, on, record, number, at_least)
            samples, floors = _rounds(entrants, _floor(resolved, number), seconds)
    finally:
        torch.set_num_threads(before)
    contestants = tuple(
        Contestant(name, e.note, tuple(row)) for e, row in zip(entrants, samples, strict=True) for name in e.names
    )
    return LayerTimes(resolved, contestants, tuple(floors), rotated)


def _rounds(
    entrants: Sequence[_Entrant], floor: Callable[[], float] | None, seconds: float
) -> tuple[list[list[float]], list[float]]:
    plans = [calls_per_sample(e.call, e.rotation, time.perf_counter)[0] for e in entrants]
    samples: list[list[float]] = [[] for _ in entrants]
    floors: list[float] = []
    end = time.perf_counter() + seconds
    for number in range(-1, ROUNDS):  # round -1 warms up
        if number >= FEWEST and time.perf_counter() >= end:
            break
        limit = floor() if floor is not None else None
        for at, entrant in enumerate(entrants):
            sample = time_sample(entrant.call, entrant.rotation, plans[at], time.perf_counter)
            if number >= 0:
                samples[at].append(sample)
        if number >= 0 and limit is not None:
            floors.append(limit)
    return samples, floors


def _floor(spec: Spec, threads: int) -> Callable[[], float] | None:
    """Return what measures the roofline floor of a spec in seconds, or None where nothing can be built."""
    parts = arena(ARENA).split(ARENA // 4)
    cost = spec.op.cost(spec)
    turn = 0

    def floor() -> float:
        nonlocal turn
        turn += 1
        now = measure_limits(parts[turn % 4], threads)
        return cost.floor(now.bandwidth, _peak(now, _in_bf16(spec)))

    try:
        floor()
    except BuildError:
        return None
    return floor


def _peak(limits: Limits, in_bf16: bool) -> float:
    return max(limits.bf16_flops, limits.f32_flops) if in_bf16 else limits.f32_flops


def as_plain(times: LayerTimes) -> dict[str, Json]:
    """Return plain values: medians and raw samples in seconds."""
    x, w = times.spec.input("x"), times.spec.input("w")
    return {
        "spec": print_spec(times.spec),
        "n": w.static(0),
        "k": w.static(1),
        "m": x.static(0),
        "epilogue": epilogue_text(times.spec),
        "seconds": {c.name: c.seconds for c in times.contestants},
        "schedule": {c.name: c.note for c in times.contestants},
        "samples": {c.name: list(c.samples) for c in times.contestants},
        "ratio_to_library": times.ratio,
        "beaten_by": times.beaten_by or None,
        "roofline_share": times.share(times.best),
        "floor_seconds": statistics.median(times.floors) if times.floors else None,
        "rotated_bytes": times.rotated,
    }
