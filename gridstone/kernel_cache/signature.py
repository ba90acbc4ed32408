"""Signature: what the tensors of a kernel's call must be, checked where people call one.

A kernel takes addresses. A tensor of another shape, dtype or device than it was emitted for is not an error there but
a read or a write beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gridstone.ir.errors import LaunchError, SpecError
from gridstone.ir.spec import Operand, Spec
from gridstone.ir.storage import storage
from gridstone.ir.tensor import Dim, Shape

OUTPUT = "out"
PLAIN = (torch.Tensor, torch.nn.Parameter)


@dataclass(frozen=True, slots=True)
class Expected:
    """What one tensor must be.

    Args:
        name: Of the operand.
        type: Its type, for messages.
        dtype: Its elements'.
        shape: A symbol stands for the same extent throughout a signature.
        bytes: Length of a quantised operand's packed buffer; 0 for a plain tensor.
    """

    name: str
    type: str
    dtype: torch.dtype
    shape: Shape
    bytes: int = 0

    def __str__(self) -> str:
        return f"the {self.bytes} contiguous bytes of {self.type}" if self.bytes else self.type


@dataclass(frozen=True, slots=True)
class Signature:
    """What the tensors of a call must be: the operands in order, the output, and the kind of device they all lie on."""

    operands: tuple[Expected, ...]
    output: Expected
    device: str = "cpu"

    def check(self, tensors: Sequence[torch.Tensor], out: torch.Tensor | None) -> None:
        """Check the tensors of one call.

        Raises:
            SpecError: One is missing, or has another shape, dtype or device.
            LaunchError: The memory of one cannot be read or written by address.
        """
        if len(tensors) != len(self.operands):
            names = ", ".join(f"{one.name}: {one}" for one in self.operands)
            raise SpecError(f"{len(tensors)} operands were given, not {len(self.operands)}", f"give {names}, in order")
        extents: dict[str, int] = {}
        for want, tensor in zip(self.operands, tensors, strict=True):
            _check_memory(want, tensor, self.device)
            _check_place(want, tensor, tensors[0])
            if want.bytes:
                _check_packed(want, tensor)
            else:
                _check_shape(want, tensor, extents)
        if out is None:
            return
        _check_memory(self.output, out, self.device)
        _check_place(self.output, out, tensors[0])
        _check_shape(self.output, out, extents)
        _check_rows(out)
        for want, tensor in zip(self.operands, tensors, strict=True):
            if _share(out, tensor):
                raise LaunchError(
                    f"out shares memory with {want.name}, which is read while out is written", "give another tensor"
                )


def signature_of(spec: Spec, device: str = "cpu") -> Signature:
    """Return the signature of a spec's kernel.

    Args:
        spec: Storages resolved; extents that vary from call to call are symbols.
        device: Kind of the device that it runs on, as torch calls it.
    """
    output = Expected(OUTPUT, str(spec.output), getattr(torch, spec.output.dtype.torch), spec.output.shape)
    return Signature(tuple(_expected(operand) for operand in (*spec.inputs, *spec.extra_operands)), output, device)


def _expected(operand: Operand) -> Expected:
    kind = operand.type
    if kind.format is None:
        return Expected(operand.name, str(kind), getattr(torch, kind.dtype.torch), kind.shape)
    place = storage(kind.storage, kind.format, kind.static(0), kind.static(1))
    return Expected(operand.name, str(kind), torch.uint8, (place.bytes,), place.bytes)


def _check_memory(want: Expected, tensor: torch.Tensor, device: str) -> None:
    if type(tensor) not in PLAIN:
        remedy = "give its packed buffer, `.packed`" if want.bytes else "give a plain tensor"
        raise SpecError(f"{want.name} is a {type(tensor).__name__}, not a plain tensor", remedy)
    if tensor.device.type != device:
        where = "the CPU" if device == "cpu" else "a GPU"
        raise SpecError(f"{want.name} is on {tensor.device}, and the kernel runs on {where}", "move it there first")
    if tensor.layout is not torch.strided or tensor.is_neg():
        kind = "lazily negated" if tensor.is_neg() else tensor.layout
        remedy = "call .resolve_neg() or .to_dense() first"
        raise LaunchError(f"{want.name} is {kind}: its memory is not its values", remedy)
    if tensor.dtype != want.dtype:
        raise SpecError(
            f"{want.name} is {_name(tensor.dtype)}({', '.join(map(str, tensor.shape))}), not {want}",
            f"convert it to {_name(want.dtype)}",
        )


def _check_place(want: Expected, tensor: torch.Tensor, first: torch.Tensor) -> None:
    if tensor.device != first.device:
        problem = f"{want.name} is on {tensor.device}, and the first operand on {first.device}"
        raise SpecError(problem, "move them to one device")


def _check_packed(want: Expected, tensor: torch.Tensor) -> None:
    if tensor.numel() != want.bytes or not tensor.is_contiguous():
        held = f"{tensor.numel()} bytes with strides {tuple(tensor.stride())}"
        raise SpecError(f"{want.name} is {held}, not {want}", "re-pack the weight for this spec")


def _check_shape(want: Expected, tensor: torch.Tensor, extents: dict[str, int]) -> None:
    shape = tuple(tensor.shape)
    fits = len(shape) == len(want.shape) and all(
        extents.setdefault(extent.name, found) == found and found % extent.multiple_of == 0
        if isinstance(extent, Dim)
        else extent == found
        for extent, found in zip(want.shape, shape, strict=True)
    )
    if not fits:
        known = "".join(f" with {name}={value}" for name, value in extents.items())
        raise SpecError(f"{want.name} has shape {shape}, not {want}{known}", "reshape it, or make a kernel for it")


def _check_rows(out: torch.Tensor) -> None:
    """Kernels write each row at one stretch, wherever it starts."""
    rows_apart = all(
        out.shape[at] < 2 or out.stride(at) >= out.shape[at + 1] * max(out.stride(at + 1), 1)
        for at in range(out.dim() - 1)
    )
    if out.numel() and not ((out.shape[-1] < 2 or out.stride(-1) == 1) and rows_apart):
        problem = f"out of shape {tuple(out.shape)} has strides {tuple(out.stride())}: its rows are not contiguous"
        raise LaunchError(f"{problem}, or overlap", "give a contiguous tensor and copy it from there")


def _share(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return whether two tensors have a byte in common; True where that is hard to tell."""
    if not a.numel() or not b.numel():
        return False
    (a0, a1), (b0, b1) = _span(a), _span(b)
    if a1 <= b0 or b1 <= a0:
        return False
    pitch = a.stride(0) * a.element_size() if a.dim() == 2 else 0
    if not pitch or b.dim() != 2 or b.stride(0) * b.element_size() != pitch or b.stride(1) != 1:
        return True
    # Columns of one wider matrix: what is left of b is where it starts within a row of a.
    start, wide, other = (b0 - a0) % pitch, a.shape[1] * a.element_size(), b.shape[1] * b.element_size()
    return not (wide <= start and start + other <= pitch)


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """Return the address of a tensor's first byte, and the one behind its last."""
    last = sum((extent - 1) * stride for extent, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
