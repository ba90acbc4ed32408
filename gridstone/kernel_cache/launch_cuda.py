"""Launching GPU kernels: from tensors to the arguments of a cubin's entry, whichever toolchain made the cubin.

Nothing here waits for the GPU. A launch goes to torch's current stream of the tensors' device, and so does its
scratch, which torch's allocator hands out in the order of that stream: what is freed when a call returns is used by
nobody before the kernel is done. So calls may be captured in a CUDA graph, and several threads and streams may call.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from gridstone.ir.errors import LaunchError
from gridstone.ir.spec import Spec
from gridstone.kernel_cache.artefact import Artefact, unpack
from gridstone.kernel_cache.driver_cuda import WORD, Driver, live_driver
from gridstone.kernel_cache.toolchain import Call
from gridstone.templates.source import Param, ParamKind, Source

OUTPUT = "y"
MOST_BLOCKS = 65535  # of a grid along y
ALIGNMENT = 16  # bytes: of a packed weight, which is read in pieces of that size
MOST_KEPT = 1 << 24  # words of scratch that a stream keeps; more is made for each call
_LINE = 32  # words: tickets and sums lie in different lines of the cache

Tensors = tuple[torch.Tensor, ...]
Getter = Callable[[Tensors], int]


def _getter(param: Param, places: dict[str, int]) -> Getter | None:
    """Return the function that reads an argument off (operands..., output); None for one that is absent or scratch."""
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


def _check_aligned(name: str, tensor: torch.Tensor) -> None:
    if tensor.data_ptr() % ALIGNMENT:
        place = f"{name} lies {tensor.data_ptr() % ALIGNMENT} bytes behind a multiple of {ALIGNMENT}"
        raise LaunchError(f"{place}, and is read in pieces of that size", "clone it")


def load(path: Path, source: Source, spec: Spec) -> Call:
    """Make an artefact of a GPU callable.

    Raises:
        LaunchError: It is damaged, there is no GPU for it, or no CuPy.
    """
    driver = live_driver()
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise LaunchError(f"{path.name} cannot be read: {error}") from error
    return bind(unpack(blob), source, spec, driver)


def bind(artefact: Artefact, source: Source, spec: Spec, driver: Driver) -> Call:
    """Return `call(*tensors, out=None)` of a gemm kernel: any number of rows of x, an output of (rows, N).

    Rows of an operand must be contiguous; one whose last stride is not 1 is copied first. Nothing else is checked but
    that a packed weight lies at a multiple of 16 bytes, for a kernel that reads one elsewhere takes the GPU's whole
    context with it. Rows beyond what one grid covers are cut into several launches.

    Args:
        artefact: Made from the source.
        source: With a grid.
        spec: Storages resolved; its op must be gemm.
        driver: Of the machine, or a stand-in for it.

    Raises:
        LaunchError: The artefact cannot be loaded on the current device.
    """
    grid = source.launch.grid
    if spec.op.name != "gemm" or grid is None:
        raise LaunchError(f"no launcher for {spec.op.name} on a GPU", "add it to kernel_cache/launch_cuda.py")
    operands = (*spec.inputs, *spec.extra_operands)
    places = {name: at for at, name in enumerate([*(operand.name for operand in operands), OUTPUT])}
    matrices = [at for at, operand in enumerate(operands) if operand.type.format is None]
    packed = [(at, operand.name) for at, operand in enumerate(operands) if operand.type.format is not None]
    strided = {places[p.operand] for p in source.params if p.kind is ParamKind.STRIDE and p.operand in places}
    rows_at = places[next(param.operand for param in source.params if param.kind is ParamKind.ROWS)]
    found = [(at, _getter(param, places)) for at, param in enumerate(source.params)]
    getters = [(at, getter) for at, getter in found if getter is not None]
    absent = [0] * (len(source.params) + artefact.scratch_pointers)
    tickets_at = _place_of(ParamKind.TICKETS, source)
    parts_at = _place_of(ParamKind.PARTS, source)
    ordered = source.launch.deterministic
    columns, dtype = spec.output.static(1), getattr(torch, spec.output.dtype.torch)
    most_rows = MOST_BLOCKS * grid.block_m
    functions = {device: driver.function(artefact, device) for device in _current_device()}

    def start(tensors: Tensors, device: torch.device) -> None:
        """Launch once; the last tensor is the output."""
        index = -1 if device.index is None else device.index
        function = functions.get(index)
        if function is None:
            function = functions[index] = driver.function(artefact, index)
        blocks_m = -(-tensors[rows_at].shape[0] // grid.block_m)
        arguments = absent.copy()
        for at, getter in getters:
            arguments[at] = getter(tensors)
        stream = driver.stream(index)
        scratch: list[torch.Tensor] = []  # lives until the kernel is in the stream
        if grid.k_splits > 1:
            tiles = blocks_m * grid.blocks_n
            head = -(-tiles // _LINE) * _LINE
            sums = tiles * grid.part_floats
            count = head + (0 if ordered else sums)
            # A graph may run on any stream, beside the one that it is captured on.
            if count > MOST_KEPT or driver.capturing(index):
                scratch.append(torch.zeros(count, dtype=torch.int32, device=device))
                zeroed = scratch[0].data_ptr()
            else:
                zeroed = driver.zeroed(index, stream, count)
            arguments[tickets_at], arguments[parts_at] = zeroed, zeroed + head * WORD
            if ordered:
                scratch.append(torch.empty(sums, dtype=torch.float32, device=device))
                arguments[parts_at] = scratch[-1].data_ptr()
        blocks = (grid.blocks_n, blocks_m, grid.k_splits)
        driver.launch(function, index, blocks, artefact.threads, artefact.shared_bytes, stream, arguments)

    def call(*tensors: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        for at in matrices:
            if tensors[at].stride(-1) != 1 and tensors[at].shape[-1] > 1:
                tensors = tuple(t.contiguous() if i == at else t for i, t in enumerate(tensors))
        for at, name in packed:
            _check_aligned(name, tensors[at])
        x = tensors[rows_at]
        rows, device = x.shape[0], x.device
        y = torch.empty((rows, columns), dtype=dtype, device=device) if out is None else out
        whole = (*tensors, y)
        for first in range(0, rows, most_rows):
            if rows <= most_rows:
                start(whole, device)
            else:
                start(tuple(t[first : first + most_rows] if at in strided else t for at, t in enumerate(whole)), device)
        return y

    return call


def _place_of(kind: ParamKind, source: Source) -> int:
    """Return the position of the parameter of a kind; -1, which is never used, for none."""
    return next((at for at, param in enumerate(source.params) if param.kind is kind), -1)


def _current_device() -> tuple[int, ...]:
    """Return torch's current GPU, on which an artefact is loaded at once, so that its faults show before it is used."""
    return (torch.cuda.current_device(),) if torch.cuda.is_available() else ()
