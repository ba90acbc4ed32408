"""Memory of a watched call's operands: the same in every call, between guard bands; on a GPU it is filled late."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from gridstone.ir.dtype import round_to
from gridstone.ir.errors import SpecError
from gridstone.ir.format import Format, Quantized, dequantize
from gridstone.ir.spec import Operand, Spec
from gridstone.ir.storage import storage, unpack
from gridstone.proof.operands import to_tensor
from gridstone.proof.poison import POISON, PoisonedOutput

SLEEP_CYCLES = 20_000_000  # for which a GPU's stream waits before its operands come, about 10 ms

Adapt = Callable[[Quantized, Format], object]
Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class Place:
    """Memory of an operand, which every call finds there."""

    name: str
    memory: PoisonedOutput
    strides: tuple[int, ...]

    def view(self) -> Tensor:
        """Return the operand, as a tensor object of its own."""
        shape = self.memory.output.shape
        return self.memory.whole.as_strided(shape, self.strides, self.memory.output.storage_offset())

    def digest(self) -> bytes:
        """Return a hash of the operand and the guard bands; unlike a copy it is of no use to a candidate."""
        return hashlib.blake2b(bits(self.memory.whole), digest_size=16).digest()


class Lane:
    """Where calls are queued: on a GPU a stream of its own, which is all that a call may count on to be in order."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def queued(self) -> contextlib.AbstractContextManager[object]:
        """Return the context of a call."""
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def delay(self, staged: list[tuple[Place, Tensor]]) -> None:
        """Poison operands that lie on a GPU, and let them come late: who does not wait for the stream reads NaN."""
        if self._stream is None:
            return
        for place, _ in staged:
            place.memory.whole.view(torch.uint8).fill_(POISON)
        self.settle()
        with torch.cuda.stream(self._stream):
            torch.cuda._sleep(SLEEP_CYCLES)
            for place, tensor in staged:
                tensor.record_stream(self._stream)
                place.view().copy_(tensor)

    def read(self, result: Tensor) -> bytes:
        """Return an output's bytes as they are when the call's own stream is done, whatever others still do."""
        if self._stream is None:
            return bits(result)
        with torch.cuda.stream(self._stream):
            host = result.cpu()
        self._stream.synchronize()
        return bits(host)

    def settle(self) -> None:
        """Wait for everything that a GPU does."""
        if self._stream is not None:
            torch.cuda.synchronize(self._stream.device)


def formed(weights: str | Adapt, spec: Spec, operand: Operand, tensor: Tensor) -> object:
    """Return an operand in the form in which the candidate wants it."""
    fmt = operand.type.format
    if fmt is None or weights == "packed":
        return tensor
    parts = unpack(storage(operand.type.storage, fmt, operand.type.static(0), operand.type.static(1)), tensor.numpy())
    if callable(weights):
        return weights(parts, fmt)
    if weights != "decoded":
        raise SpecError(f"unknown form of weights {weights!r}", "give 'packed', 'decoded' or a function of their parts")
    dtype = spec.inputs[0].type.dtype
    return to_tensor(dtype, round_to(dtype, dequantize(fmt, parts)))


def size_of(tensor: Tensor) -> int:
    """Return the bytes that a contiguous tensor takes."""
    return tensor.numel() * tensor.element_size()


def bits(tensor: Tensor) -> bytes:
    """Return the bytes of a contiguous tensor, from its address."""
    host = tensor if tensor.device.type == "cpu" else tensor.cpu()
    return ctypes.string_at(Tensor.data_ptr(host), size_of(host)) if host.numel() else b""
