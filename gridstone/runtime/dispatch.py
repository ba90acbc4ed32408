"""Dispatch: from live tensors to a bound kernel by one dictionary look-up, and what happens on a miss.

On a miss the tuned record of the problem's bucket decides; without one, the default schedule; where nothing can be
built, the library. Which of these it was, and why, is kept for `explain`, and a fall-back is warned of once.
"""

from __future__ import annotations

import logging
import math
import threading
from dataclasses import dataclass

import torch

from gridstone.ir.errors import (
    BuildError,
    CacheError,
    FormatError,
    GridstoneError,
    LaunchError,
    ScheduleError,
    SpecError,
)
from gridstone.ir.spec import Spec
from gridstone.ir.storage import storage
from gridstone.ir.text import print_spec
from gridstone.kernel_cache.host import LIBRARY, device_name, host_target, runs_here
from gridstone.kernel_cache.make import default_book, make_kernel
from gridstone.kernel_cache.records import Record
from gridstone.kernel_cache.staleness import stale
from gridstone.kernel_cache.toolchain import Call, Kernel
from gridstone.lower.bucket import BUCKETS, problem
from gridstone.lower.schedule import Schedule, parse_schedule, print_schedule
from gridstone.lower.target import Target, parse_target
from gridstone.runtime.linear_key import LinearKey, our_dtype, parse_key, spec_of
from gridstone.templates.recipe import Recipe
from gridstone.templates.registry import default_recipe, recipe_named, refusal, refusals

log = logging.getLogger("gridstone")
TUNE_NOW_SECONDS = 20.0
STRIDED = torch.strided
_TOP = BUCKETS[-1]


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was bound for a problem, and why.

    Args:
        spec: The problem, M bound to its bucket.
        recipe, schedule, target: What computes it.
        why: `tuned record`, and why it was not raced; `default schedule`, and why not a record where there is one; or
            `library: ` and the reason.
        kernel: The loaded kernel.
    """

    spec: Spec
    recipe: str
    schedule: str
    target: str
    why: str
    kernel: Kernel


@dataclass(frozen=True, slots=True)
class _Bound:
    call: Call
    n: int
    k: int
    bytes: int


class Dispatcher:
    """The table of bound kernels of this process.

    Python threads bind different problems at once: a build or a search of one holds up no other. Only searches wait for
    each other, since two at once would time each other. What is in progress during `clear` is forgotten with the rest.
    """

    def __init__(self) -> None:
        self._table: dict[tuple[object, ...], _Bound] = {}
        self._chosen: dict[str, Chosen] = {}
        self._warned: set[str] = set()
        self._locks: dict[str, threading.RLock] = {}  # one per problem
        self._warning, self._searching = threading.Lock(), threading.Lock()

    def linear(
        self,
        x: torch.Tensor,
        packed: torch.Tensor,
        bias: torch.Tensor | None,
        residual: torch.Tensor | None,
        key: str,
    ) -> torch.Tensor:
        """Compute act(x @ w.T + bias) + residual.

        Args:
            x: (..., K), f32, bf16 or f16.
            packed: Buffer of the weight that `key` describes.
            bias: (N,), or None.
            residual: (..., N), or None.
            key: Text of a `LinearKey`.
        """
        try:
            flat = x if x.dim() == 2 else _flat(x, key)
            rows, k = flat.shape
        except RuntimeError as error:
            raise _shapeless(x, error) from error
        slot = (
            key,
            1 << (rows - 1).bit_length() if 0 < rows <= _TOP else min(rows, _TOP),
            x.dtype,
            bias.dtype if bias is not None else None,
            residual.dtype if residual is not None else None,
            torch.get_num_threads(),
        )
        bound = self._table.get(slot)
        if bound is None:
            bound = self._bind(slot, rows, x, packed, bias, residual, key)
        if k != bound.k or not _holds(packed, bound.bytes) or not (x.is_cpu and packed.is_cpu and x.layout is STRIDED):
            raise self._refuse(x, packed, bound)
        if bias is None and residual is None:
            y = bound.call(flat, packed)
            return y if x.dim() == 2 else y.view(*x.shape[:-1], bound.n)
        operands = [flat, packed]
        if bias is not None:
            if bias.shape != (bound.n,) or not bias.is_cpu:
                raise SpecError(
                    f"bias of shape {tuple(bias.shape)} on {bias.device} does not fit N={bound.n} on the CPU"
                )
            operands.append(bias)
        if residual is not None:
            if residual.shape[-1:] != (bound.n,) or residual.shape[:-1] != x.shape[:-1] or not residual.is_cpu:
                want = f"{(*x.shape[:-1], bound.n)} on the CPU"
                raise SpecError(
                    f"residual of shape {tuple(residual.shape)} on {residual.device} is not the output's {want}",
                    "expand or move it first",
                )
            operands.append(residual if residual.dim() == 2 else residual.reshape(-1, bound.n))
        y = bound.call(*operands)
        return y if x.dim() == 2 else y.view(*x.shape[:-1], bound.n)

    def _refuse(self, x: torch.Tensor, packed: torch.Tensor, bound: _Bound) -> GridstoneError:
        if x.device != packed.device:
            return SpecError(f"x is on {x.device}, the weight on {packed.device}", "move both to one device")
        if x.layout is not STRIDED:
            return SpecError(f"x is a tensor of layout {x.layout}, whose memory is not its values", "call x.to_dense()")
        if not x.is_cpu:
            return SpecError(f"no recipe runs on {x.device} yet", "move model and inputs to the CPU")
        if x.shape[-1] != bound.k:
            return SpecError(
                f"x of shape {tuple(x.shape)} does not fit a weight with K={bound.k}", "check the last extent"
            )
        if packed.dtype != torch.uint8 or not packed.is_contiguous():
            return FormatError(f"a packed buffer of {packed.dtype}, strides {packed.stride()}", "pass contiguous uint8")
        return FormatError(f"a packed buffer of {packed.numel()} bytes, not {bound.bytes}", "re-pack the weight")

    def _bind(
        self,
        slot: tuple[object, ...],
        rows: int,
        x: torch.Tensor,
        packed: torch.Tensor,
        bias: torch.Tensor | None,
        residual: torch.Tensor | None,
        text: str,
    ) -> _Bound:
        table, key = self._table, parse_key(text)
        kind = our_dtype(x)
        assert kind is not None
        assert key.weight.format is not None
        spec = spec_of(key, kind, our_dtype(bias), our_dtype(residual))
        n, k = key.weight.static(0), key.weight.static(1)
        size = storage(key.weight.storage, key.weight.format, n, k).bytes
        probe = _Bound(_never, n, k, size)
        if x.shape[-1] != k or not _holds(packed, size) or not (x.is_cpu and packed.is_cpu and x.layout is STRIDED):
            raise self._refuse(x, packed, probe)
        for role, operand in (("bias", bias), ("residual", residual)):
            if operand is not None and not _is_added(operand, role):
                real = "take its .real part" if operand.is_complex() else f"cast it, for example {role}.to(x.dtype)"
                raise SpecError(f"a {role} of {operand.dtype} cannot be added to products in {x.dtype}", real)
        chosen = self.choose(spec, rows, key)
        bound = table[slot] = _Bound(chosen.kernel.call, n, k, size)
        return bound

    def choose(self, spec: Spec, rows: int, key: LinearKey) -> Chosen:
        """Decide what computes a spec for a row count and load it."""
        threads = torch.get_num_threads()
        at = problem(spec, max(rows, 1))
        name = f"{print_spec(at)} on {key.target}, tune={key.tune}, {threads} threads"
        chosen = self._chosen
        with self._locks.setdefault(name, threading.RLock()):
            if name not in chosen:
                target = host_target() if key.target == "auto" else parse_target(key.target)
                chosen[name] = self._load(at, target, key, threads)
            return chosen[name]

    def _load(self, spec: Spec, target: Target, key: LinearKey, threads: int) -> Chosen:
        record, past = self._record(spec, target, key, threads)
        why, topic = f"default schedule, as {past}" if past else "default schedule", ""
        if record is not None:
            try:
                why_tuned = f"tuned record, {record.doubt}" if record.doubt else "tuned record"
                return self._made(spec, *_of_record(record, spec), why_tuned)
            except GridstoneError as error:  # whatever an older version or another machine left in it
                self._warn(f"the tuned record of {print_spec(spec)} cannot be used: {error}")
                why = f"default schedule, as the tuned record cannot be used: {error}"
        recipe = default_recipe(spec, target)
        if recipe is not None:
            try:
                if not runs_here(target):
                    raise LaunchError(f"{target} does not run on this machine", "use target=auto")
                schedule = recipe.space.default(spec, target)
                return self._made(spec, recipe, schedule, target, why)
            except (BuildError, CacheError, LaunchError, ScheduleError) as error:
                why = str(error)
                topic = f"{type(error).__name__} on {target}"  # said once, not once per recipe; explain says each
        else:
            why = "; ".join(refusals(spec, target)) or f"no recipe for {target}"
        library = recipe_named(f"{spec.op.name}.library.torch")
        refused = refusal(library, spec, LIBRARY)
        if refused is not None:
            raise SpecError(f"nothing computes {print_spec(spec)}: {why}; {refused}", "use numerics=exact or bf16")
        if target != LIBRARY:
            self._warn(f"{spec.op.name} runs through the library instead of {target}: {why}", topic)
        return self._made(spec, library, library.space.default(spec, LIBRARY), LIBRARY, f"library: {why}".rstrip(": "))

    def _record(self, spec: Spec, target: Target, key: LinearKey, threads: int) -> tuple[Record | None, str]:
        """Return the record that decides, or else why the one that there is does not."""
        if key.tune == "off" or (key.tune == "now" and target == LIBRARY):
            return None, ""
        try:
            if key.tune == "cached":
                return find_record(spec, threads, key.target)
            from gridstone.tuner.job import tune  # noqa: PLC0415  brings Optuna, which only this policy needs

            with self._searching:
                return tune(spec, (target, LIBRARY), budget_seconds=TUNE_NOW_SECONDS, threads=threads).winner, ""
        except GridstoneError as error:  # it costs the record, not the call
            if not isinstance(error, CacheError):  # which the build says too
                self._warn(f"{print_spec(spec)} could not be tuned: {error}", f"not tuned: {error}")
            return None, f"no record could be had: {error}"

    def _made(self, spec: Spec, recipe: Recipe[Schedule], schedule: Schedule, target: Target, why: str) -> Chosen:
        kernel = make_kernel(recipe, spec, schedule, target)
        return Chosen(spec, recipe.name, print_schedule(schedule), str(target), why, kernel)

    def _warn(self, text: str, topic: str = "") -> None:
        with self._warning:
            said = (topic or text) in self._warned
            self._warned.add(topic or text)
        if not said:
            log.warning("%s", text)

    def chosen(self) -> tuple[Chosen, ...]:
        """Return everything bound so far, in order."""
        return tuple(self._chosen.values())

    def clear(self) -> None:
        """Forget all bindings, so that new records are looked up."""
        self._table, self._chosen, self._locks, self._warned = {}, {}, {}, set()


def _holds(packed: torch.Tensor, size: int) -> bool:
    """Whether a packed buffer is what kernels read: this many bytes, one after the other."""
    return packed.numel() == size and packed.dtype == torch.uint8 and packed.is_contiguous()


def _is_added(operand: torch.Tensor, role: str) -> bool:
    """Whether torch adds such an operand to floats without losing a part of it: integers to a sum, not to a product."""
    return not operand.is_complex() and (operand.is_floating_point() or role == "residual")


def _shapeless(x: torch.Tensor, error: RuntimeError) -> Exception:
    if not x.is_nested:
        return error
    return SpecError("x is a nested tensor", "pass its .values(), or x.to_padded_tensor(0.0)")


def _flat(x: torch.Tensor, key: str) -> torch.Tensor:
    if not x.dim():
        raise SpecError(f"x is a scalar; the weight has K={parse_key(key).weight.static(1)}", "give x of (..., K)")
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _never(*tensors: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    raise AssertionError("a probe is never called")


def _of_record(record: Record, spec: Spec) -> tuple[Recipe[Schedule], Schedule, Target]:
    recipe = recipe_named(record.recipe)
    target = parse_target(record.target)
    return recipe, parse_schedule(record.schedule, recipe.schedule, recipe.space.default(spec, target)), target


def find_record(spec: Spec, threads: int, target: str = "auto") -> tuple[Record | None, str]:
    """Return the winner for a static spec on this machine, or None and what to say of one that is stale."""
    past, device = "", device_name(None if target == "auto" else parse_target(target))
    for record in default_book().get(print_spec(spec), device, threads):
        if record.status != "winner" or (target != "auto" and record.target not in (target, str(LIBRARY))):
            continue
        past = stale(record)
        if not past:
            return record, ""
    return None, f"the tuned record is stale: {past} (tune again)" if past else ""


def tuned_record(spec: Spec, threads: int, target: str = "auto") -> Record | None:
    """Return the winner for a static spec on this machine, unless it is stale."""
    return find_record(spec, threads, target)[0]


DISPATCHER = Dispatcher()
run_linear = DISPATCHER.linear
