"""Emitted CUDA kernels as candidates of the usual check: tensors in, tensors out, executed on this CPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from gridstone.ir.errors import MismatchError
from gridstone.ir.spec import Spec
from gridstone.proof.execute import Argument, Buffer, Fault, Probe, Program, Shape, execute, program
from gridstone.templates.source import ParamKind, Source

OUTPUT = "y"
Report = Callable[[tuple[Fault, ...]], None]


def refuse(faults: tuple[Fault, ...]) -> None:
    """Raise MismatchError that lists the faults, when there are any."""
    if faults:
        raise MismatchError("executing it on a CPU shows faults:\n" + "\n".join(map(str, faults)))


def _bytes_of(tensor: torch.Tensor) -> np.ndarray:
    """Return the whole memory that a tensor lies in."""
    whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())  # pyright: ignore[reportArgumentType]
    return whole.numpy()


def emulated(
    source: Source,
    spec: Spec,
    *,
    seed: int = 0,
    report: Report = refuse,
    probe: tuple[Probe, int] = (Probe.NONE, 0),
    built: Program | None = None,
) -> Callable[..., torch.Tensor]:
    """Return `call(*tensors, out)` that executes a CUDA kernel on this CPU.

    Args:
        source: Emitted CUDA with a grid.
        spec: What it computes; storages resolved.
        seed: Of the order of blocks and threads.
        report: Given the faults of each call; by default they are refused.
        probe: As in `execute`.
        built: The program, when it has been built already.

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
                    place = int(tensor.storage_offset()) * tensor.element_size()
                    write = param.operand == OUTPUT
                    arguments.append(Buffer(param.operand, _bytes_of(tensor), write, not write, place))
                case ParamKind.STRIDE if tensor is not None:
                    arguments.append(tensor.stride(0))
                case _:
                    arguments.append(0)
        shape = Shape((grid.blocks_n, blocks_m, grid.k_splits), (grid.threads, 1, 1), grid.shared_bytes)
        faults = execute(kernel, shape, arguments, seed, probe)
        if not faults and (tickets.any() or (not ordered and parts.any())):
            faults = (Fault("scratch", "tickets or sums are not left zero for the next launch", "", ""),)
        report(faults)
        return out

    return call
