"""Launching C++ kernels: from tensors to the arguments of a C entry point.

What an output looks like is the op's affair, so each op has a launcher, a line of `LAUNCHERS`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch

from gridstone.ir.errors import LaunchError
from gridstone.ir.spec import Spec
from gridstone.kernel_cache.toolchain import Call
from gridstone.templates.source import Param, ParamKind, Source

OUTPUT = "y"
CPU = torch.device("cpu")  # named at each allocation: a program may have made another device its default
KNOWN_SIZES = 1024  # scratch sizes remembered per kernel
Tensors = tuple[torch.Tensor, ...]
Getter = Callable[[Tensors], int]


def _getter(param: Param, places: dict[str, int]) -> Getter | None:
    """Return the function that reads an argument off (operands..., output); None for one that is absent or scratch."""
    if param.kind is ParamKind.THREADS:
        return lambda _: torch.get_num_threads()
    if param.operand not in places:
        return None
    at = places[param.operand]
    match param.kind:
        case ParamKind.POINTER:
            return lambda tensors: _address(tensors[at])
        case ParamKind.STRIDE:
            return lambda tensors: tensors[at].stride(0)
        case _:
            return lambda tensors: tensors[at].shape[0]


def _address(tensor: torch.Tensor) -> int:
    """Return where a tensor's values lie; LaunchError for one that has none, which a kernel would take for absent."""
    address = tensor.data_ptr()
    if not address and tensor.numel():
        raise LaunchError(f"an operand of shape {tuple(tensor.shape)} has no memory", "pass a plain, strided tensor")
    return address


def bind(entry: Any, scratch_entry: Any | None, source: Source, spec: Spec) -> Call:  # ctypes functions have no type
    """Return `call(*tensors, out=None)` for an entry point whose parameters the source describes; nothing is checked.

    Raises:
        LaunchError: The spec's op has no launcher.
    """
    if spec.op.name not in LAUNCHERS:
        raise LaunchError(f"no launcher for {spec.op.name}", "add it to LAUNCHERS in kernel_cache/launch_cpp.py")
    return LAUNCHERS[spec.op.name](entry, scratch_entry, source, spec)


def bind_gemm(entry: Any, scratch_entry: Any | None, source: Source, spec: Spec) -> Call:
    """Return the call of a gemm kernel: any number of rows of x, an output of (rows, N).

    Rows of an operand must be contiguous; one whose last stride is not 1 is copied first. Every call owns its output
    and its scratch, so that Python threads may call at once: ctypes releases the lock.
    """
    names = [operand.name for operand in (*spec.inputs, *spec.extra_operands)]
    places = {name: at for at, name in enumerate([*names, OUTPUT])}
    matrices = [at for at, o in enumerate((*spec.inputs, *spec.extra_operands)) if o.type.format is None]
    rows_at = places[next(param.operand for param in source.params if param.kind is ParamKind.ROWS)]
    kinds = {ParamKind.THREADS: ctypes.c_int64, ParamKind.ROWS: ctypes.c_int64, ParamKind.STRIDE: ctypes.c_int64}
    entry.argtypes = [kinds.get(param.kind, ctypes.c_void_p) for param in source.params]
    entry.restype = None
    found = [(at, _getter(param, places)) for at, param in enumerate(source.params)]
    getters = [(at, getter) for at, getter in found if getter is not None]
    absent = [0] * len(source.params)
    scratch_at = next((at for at, param in enumerate(source.params) if param.kind is ParamKind.SCRATCH), None)
    if scratch_entry is not None:
        scratch_entry.argtypes = [ctypes.c_int64, ctypes.c_int64]
        scratch_entry.restype = ctypes.c_int64
    columns = spec.output.static(1)
    dtype = getattr(torch, spec.output.dtype.torch)
    sizes: dict[tuple[int, int], int] = {}
    empty, get_num_threads = torch.empty, torch.get_num_threads

    def call(*tensors: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        for at in matrices:
            if tensors[at].stride(-1) != 1 and tensors[at].shape[-1] > 1:
                tensors = tuple(t.contiguous() if i == at else t for i, t in enumerate(tensors))
        rows = tensors[rows_at].shape[0]
        y = empty((rows, columns), dtype=dtype, device=CPU) if out is None else out
        if rows == 0:
            return y
        operands = (*tensors, y)
        arguments = absent.copy()
        for at, getter in getters:
            arguments[at] = getter(operands)
        if scratch_at is not None:
            threads = get_num_threads()
            size = sizes.get((rows, threads))
            if size is None:
                assert scratch_entry is not None
                size = sizes[rows, threads] = scratch_entry(rows, threads)
                if len(sizes) > KNOWN_SIZES:
                    sizes.clear()
            if size:
                scratch = empty(size, dtype=torch.uint8, device=CPU)  # lives until the call returns
                arguments[scratch_at] = scratch.data_ptr()
        entry(*arguments)
        return y

    return call


LAUNCHERS: dict[str, Callable[[Any, Any | None, Source, Spec], Call]] = {"gemm": bind_gemm}
