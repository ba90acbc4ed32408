"""Emitted CUDA kernels as candidates of the usual check: tensors in, tensors out, executed on this CPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from gridstone.ir.dtype import Values
from gridstone.ir.errors import MismatchError
from gridstone.ir.format import Quantized
from gridstone.ir.spec import Spec
from gridstone.ir.storage import pack, storage
from gridstone.proof.execute import Argument, Buffer, Fault, Probe, Shape, Traffic, execute
from gridstone.proof.operands import draw_operands, to_tensor
from gridstone.proof.program import Program, program
from gridstone.templates.source import ParamKind, Source

OUTPUT = "y"
Report = Callable[[tuple[Fault, ...]], None]


def refuse(faults: tuple[Fault, ...]) -> None:
    """Raise MismatchError that lists the faults, when there are any."""
    if faults:
        raise MismatchError("executing it on a CPU shows faults:\n" + "\n".join(map(str, faults)))


def _span(tensor: torch.Tensor) -> np.ndarray:
    """Return the bytes from a tensor's first to its last element, gaps between its rows included."""
    whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())  # pyright: ignore[reportArgumentType]
    last = sum((extent - 1) * stride for extent, stride in zip(tensor.shape, tensor.stride(), strict=True))
    first, size = int(tensor.storage_offset()), tensor.element_size()
    return whole.numpy()[first * size : (first + last + 1) * size]


def emulated(
    source: Source,
    spec: Spec,
    *,
    seed: int = 0,
    report: Report = refuse,
    probe: tuple[Probe, int] = (Probe.NONE, 0),
    built: Program | None = None,
    count: Callable[[Traffic], None] | None = None,
) -> Callable[..., torch.Tensor]:
    """Return `call(*tensors, out)` that executes a CUDA kernel on this CPU.

    Args:
        source: Emitted CUDA with a grid.
        spec: What it computes; storages resolved.
        seed: Of the order of blocks and threads.
        report: Given the faults of each call; by default they are refused.
        probe: As in `execute`.
        built: The program, when it has been built already.
        count: Told each call's traffic.

    Raises:
        MismatchError: From the call, when the execution shows faults.
    """
    grid = source.launch.grid
    assert grid is not None
    names = [operand.name for operand in (*spec.inputs, *spec.extra_operands)]
    kernel = built or program(source.text, source.entry)

    def call(*tensors: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        given = dict(zip(names, tensors, strict=True)) | {OUTPUT: out}
        rows = given["x"].shape[0]
        if rows == 0:
            return out
        blocks_m = -(-rows // grid.block_m)
        tiles = blocks_m * grid.blocks_n
        ordered = source.launch.deterministic
        parts = np.full(tiles * grid.part_floats, np.nan if ordered else 0.0, np.float32)
        tickets = np.zeros(tiles, np.uint32)
        arguments: list[Argument] = []
        for param in source.params:
            tensor = given.get(param.operand)
            match param.kind:
                case ParamKind.PARTS:
                    arguments.append(Buffer("parts", parts, True, not ordered) if parts.size else None)
                case ParamKind.TICKETS:
                    arguments.append(Buffer("tickets", tickets, True, True) if grid.k_splits > 1 else None)
                case ParamKind.ROWS:
                    arguments.append(rows)
                case ParamKind.POINTER if tensor is not None:
                    write = param.operand == OUTPUT
                    arguments.append(Buffer(param.operand, _span(tensor), write, not write))
                case ParamKind.STRIDE if tensor is not None:
                    arguments.append(tensor.stride(0))
                case _:
                    arguments.append(0)
        shape = Shape((grid.blocks_n, blocks_m, grid.k_splits), (grid.threads, 1, 1), grid.shared_bytes)
        faults = execute(kernel, shape, arguments, seed, probe, count)
        if not faults and (tickets.any() or (not ordered and parts.any())):
            faults = (Fault("scratch", "tickets or sums are not left zero for the next launch", "", ""),)
        report(faults)
        return out

    return call


def probe_faults(source: Source, spec: Spec, *, seed: int = 0, built: Program | None = None) -> tuple[Fault, ...]:
    """Launch a tensor-core gemm four times on values that say where they belong; return all faults, with their lines.

    The rows and then the columns of x, then those of the weight, are counted modulo a fragment's. An operand of an mma
    that holds an element of another place is a fault `fragment` at that mma. What lies whole fragments off is not seen
    here; the comparison with the reference sees it.

    Args:
        source: Emitted CUDA in which the weight is the A operand.
        spec: A gemm with a quantised weight; static, storages resolved.
        seed: Of the order of blocks and threads.
        built: The program, when it has been built already.
    """
    kernel = built or program(source.text, source.entry)
    tensors = draw_operands(spec, seed).tensors
    output = torch.empty(spec.output.static(0), spec.output.static(1), dtype=getattr(torch, spec.output.dtype.torch))
    x, w = spec.input("x").dtype, spec.input("w")
    assert w.format is not None
    offset = 0 if w.format.zero else -w.format.code.bias
    found: list[Fault] = []
    rows, columns = np.arange(spec.input("x").static(0))[:, None], np.arange(w.static(1))
    for probe in (Probe.X_ROW, Probe.X_K, Probe.W_ROW, Probe.W_K):
        given = list(tensors)
        match probe:
            case Probe.X_ROW:
                given[0] = to_tensor(x, 1.0 + rows % 8 + 0.0 * columns)
            case Probe.X_K:
                given[0] = to_tensor(x, 1.0 + columns % 16 + 0.0 * rows)
            case _:
                given[1] = _probing_weight(spec, probe)
        call = emulated(source, spec, seed=seed, report=found.extend, probe=(probe, offset), built=kernel)
        call(*given, out=output)
    return tuple(dict.fromkeys(found))


def _probing_weight(spec: Spec, probe: Probe) -> torch.Tensor:
    """Return a packed weight whose codes are its rows or columns modulo 16, in its padding too."""
    w = spec.input("w")
    assert w.format is not None
    place = storage(w.storage, w.format, w.static(0), w.static(1))
    codes = np.zeros((place.rows, place.columns), np.uint8)
    codes += (np.arange(place.rows)[:, None] if probe is Probe.W_ROW else np.arange(place.columns)).astype(
        np.uint8
    ) % 16
    scales: Values = np.ones((place.rows, w.format.groups(place.columns)))
    zeros = np.zeros(scales.shape, np.uint8) if w.format.zero else None
    whole = storage(w.storage, w.format, place.rows, place.columns)
    assert whole.bytes == place.bytes
    return torch.from_numpy(pack(whole, Quantized(codes, scales, zeros)))
