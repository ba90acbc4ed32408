"""Calls of a callable that nobody vouches for: what it is given, what is seen of each call, and whether that stays so.

Nothing that could be taken for the answer exists while it runs: no reference, no decoded values, no earlier output that
is not poisoned. Its output is read first of all, as bytes from its address. Operands lie at the same addresses in every
call, inside guard bands, so that only their values tell two calls apart.
"""

from __future__ import annotations

import ctypes
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from gridstone.ir.spec import Spec
from gridstone.proof.place import Adapt, Lane, Place, Tensor, bits, formed, size_of
from gridstone.proof.poison import POISON, PoisonedOutput, poisoned
from gridstone.proof.surroundings import surroundings

HELD = 4  # outputs that stay alive behind their call
FREED = 8  # blocks of an output's size that a call may be handed by the allocator, poisoned
PAUSE_S = 0.05  # before the last look, for what is still written then


@dataclass(frozen=True, slots=True)
class Way:
    """How a candidate is called.

    Args:
        out: Whether it gets `out=`, a tensor to write to; otherwise it returns one.
        weights: How it gets a quantised operand: `packed`, the buffer of its storage; `decoded`, a tensor in the dtype
            of the activations; or whatever a function makes of its parts.
        device: Where its tensors are.
    """

    out: bool
    weights: str | Adapt
    device: torch.device


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a call.

    Args:
        problem: What it did wrong beside its values; empty for nothing.
        output: The bytes that it had written when it returned.
        error: What it raised.
    """

    problem: str
    output: bytes = b""
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class _Held:
    """An output that was read and then poisoned: our own view of it, which nobody else can give other memory."""

    call: int
    tensor: Tensor
    address: int
    size: int

    def change(self) -> str:
        memory = self.tensor.untyped_storage()
        if self.tensor.data_ptr() != self.address or not _inside(memory, self.address, self.size):
            return f"the memory of call {self.call}'s output was taken away after it had returned"
        if bits(self.tensor).count(POISON) != self.size:
            return f"the output of call {self.call} was written to after it had returned"
        return ""


class Watch:
    """Calls a candidate, with an eye on everything that it can reach.

    Args:
        candidate: Of an unknown author.
        way: How it wants to be called.
    """

    def __init__(self, candidate: Callable[..., object], way: Way) -> None:
        self._candidate, self._way = candidate, way
        self._device = torch.empty(0, device=way.device).device  # with its index
        self._lane = Lane(self._device)
        self._places: dict[tuple[object, ...], Place] = {}
        self._digests: dict[tuple[object, ...], bytes] = {}
        self._held: deque[_Held] = deque(maxlen=HELD)
        self._calls = 0
        self._before = surroundings()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._before.restore()

    def call(self, spec: Spec, tensors: tuple[Tensor, ...]) -> Seen:
        """Call the candidate once.

        Args:
            spec: Static, storages resolved.
            tensors: Its operands, on the CPU, quantised ones packed.
        """
        late = self.change()
        if late:
            return Seen(late)
        self._calls += 1
        given, used = self._given(spec, tensors)
        marks = [[_mark(leaf) for leaf in tree_flatten(one)[0]] for one in given]
        shape = tuple(spec.output.static(axis) for axis in range(len(spec.output.shape)))
        dtype = getattr(torch, spec.output.dtype.torch)
        error: BaseException | None = None
        result: object = None
        with self._lane.queued():
            ours = poisoned(shape, dtype, self._device) if self._way.out else None
            theirs = None if ours is None else ours.output.view(shape)  # which may be given other memory
            _free_poison(shape, dtype, self._device)
            try:
                result = self._candidate(*given) if theirs is None else self._candidate(*given, out=theirs)
            except (Exception, SystemExit) as raised:
                error = raised
        with torch._C.DisableTorchFunction():
            if error is not None:
                seen = Seen(f"it raised {type(error).__name__}: {error}", b"", error)
            elif ours is not None and result is not None and result is not theirs:
                seen = Seen(f"it returned {_name(result)}, which is not the `out` that it was given")
            else:
                seen = self._read(result if ours is None else ours.output, shape, dtype)
            changed = self._before.restore()
            problem = "; ".join(filter(None, (seen.problem or self._damage(used, ours), *changed)))
        if not problem and marks != [[_mark(leaf) for leaf in tree_flatten(one)[0]] for one in given]:
            problem = "an operand is no longer the tensor that it was given: its shape, strides or memory changed"
        return Seen(problem, seen.output, seen.error)

    def change(self) -> str:
        """Return what has changed since the calls returned, empty for nothing."""
        self._lane.settle()
        for key, place in self._places.items():
            if place.digest() != self._digests[key]:
                return f"operand {place.name}, or memory beside it, was changed after its call had returned"
        return next(filter(None, (held.change() for held in self._held)), "")

    def close(self) -> str:
        """Look once more at everything, a little later; return what has changed."""
        time.sleep(PAUSE_S)
        return self.change() or "; ".join(self._before.restore())

    # ---- what it is given ----

    def _given(self, spec: Spec, tensors: tuple[Tensor, ...]) -> tuple[list[object], list[tuple[object, ...]]]:
        """Return the arguments, and the keys of the places that they lie in."""
        arguments: list[object] = []
        used: list[tuple[object, ...]] = []
        staged: list[tuple[Place, Tensor]] = []
        for operand, tensor in zip((*spec.inputs, *spec.extra_operands), tensors, strict=True):
            leaves, tree = tree_flatten(formed(self._way.weights, spec, operand, tensor))
            for at, leaf in enumerate(leaves):
                if type(leaf) is not Tensor or leaf.layout is not torch.strided:
                    continue
                strides = torch.empty_like(leaf, device="meta").stride()  # its own, where no two elements share memory
                key = (operand.name, at, tuple(leaf.shape), leaf.dtype, strides)
                if key not in self._places:
                    memory = poisoned(tuple(leaf.shape), leaf.dtype, self._device)
                    self._places[key] = Place(operand.name, memory, strides)
                place, leaf = self._places[key], leaf.detach().to(self._device)
                place.view().copy_(leaf)
                staged.append((place, leaf))
                used.append(key)
                leaves[at] = place.view()
            arguments.append(tree_unflatten(leaves, tree))
        self._lane.settle()
        self._digests |= {key: self._places[key].digest() for key in used}
        self._lane.delay(staged)
        return arguments, used

    # ---- what it did ----

    def _read(self, result: object, shape: tuple[int, ...], dtype: torch.dtype) -> Seen:
        try:
            if type(result) is not Tensor:
                return Seen(f"it returned {_name(result)}, not a plain torch.Tensor")
            if result.requires_grad:
                return Seen("its output requires grad, though no operand does: call it under torch.no_grad()")
            mine = Tensor.detach(result)  # without attributes that hide methods
            problem = _fault(mine, shape, dtype, self._device)
            if problem:
                return Seen(problem)
            output = self._lane.read(mine)
        except Exception as error:
            return Seen(f"its output cannot be read: {type(error).__name__}: {error}", b"", error)
        held = _Held(self._calls, mine, mine.data_ptr(), len(output))
        problem = self._shared(held)
        self._lane.settle()
        if not problem and bits(mine) != output:
            problem = "its output changed after it had returned"
        if not problem:
            _poison(mine, len(output))
            self._held.append(held)
        return Seen(problem, output)

    def _shared(self, mine: _Held) -> str:
        """Return with what the memory of an output is shared; empty when it is its own."""
        for place in self._places.values():
            if _meet(mine, place.memory.whole.data_ptr(), size_of(place.memory.whole)):
                return f"its output lies in the memory of operand {place.name}"
        for other in self._held:
            if _meet(mine, other.address, other.size):
                return f"its output lies in the memory of call {other.call}'s output, which is still held"
        return ""

    def _damage(self, used: list[tuple[object, ...]], ours: PoisonedOutput | None) -> str:
        for key in used:
            place = self._places[key]
            if place.digest() != self._digests[key]:
                return f"operand {place.name}, or memory beside it, was changed"
        return ours.damage() if ours is not None else ""


def _mark(leaf: object) -> tuple[object, ...]:
    """Return what of a tensor a call may not change in place; values are looked at elsewhere."""
    if type(leaf) is not Tensor:
        return (id(leaf),)
    return leaf.data_ptr(), tuple(leaf.shape), leaf.stride(), leaf.dtype, leaf.requires_grad


def _fault(result: Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> str:
    """Return what is wrong with an output but for its values."""
    if result.layout is not torch.strided:
        return f"its output has the layout {result.layout}"
    for what, got, want in (
        ("dtype", result.dtype, dtype), ("shape", tuple(result.shape), shape), ("device", result.device, device),
    ):  # fmt: skip
        if got != want:
            return f"its output has the {what} {got} instead of {want}"
    if result.is_neg() or result.is_conj():
        return "its output is a lazy view: negated or conjugated only when it is read"
    if not result.is_contiguous():
        return f"its output has the strides {result.stride()}, which are not those of a contiguous {shape}"
    if not _inside(result.untyped_storage(), result.data_ptr(), size_of(result)):
        return "its output reaches beyond its memory"
    return ""


def _inside(memory: torch.UntypedStorage, address: int, size: int) -> bool:
    """Return whether an output's bytes are there to be read."""
    start = memory.data_ptr()
    return not size or (start > 0 and start <= address and address + size <= start + memory.nbytes())


def _name(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}".removeprefix("builtins.")


def _meet(mine: _Held, start: int, size: int) -> bool:
    return bool(size and mine.size) and mine.address < start + size and start < mine.address + mine.size


def _poison(tensor: Tensor, size: int) -> None:
    """Overwrite what was read: whoever returns it again, or takes its memory unwritten, returns NaN."""
    if tensor.device.type == "cpu":
        ctypes.memset(Tensor.data_ptr(tensor), POISON, size)
    elif size:
        with torch.inference_mode():  # in which any tensor may be written to
            tensor.view(-1).view(torch.uint8).fill_(POISON)


def _free_poison(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    """Leave poison in the memory that the allocator hands out next for an output."""
    blocks = [torch.empty(shape, dtype=dtype, device=device) for _ in range(FREED)]
    for block in blocks:
        block.view(-1).view(torch.uint8).fill_(POISON)
