"""The program of the process in which Triton's interpreter runs: it serves cases over pipes until they close.

It is started with TRITON_INTERPRET set, since Triton reads that once, on import. What is mended of the interpreter, so
that it computes what a GPU would:

- products of bfloat16 are widened to float32 first (it multiplies the raw bits);
- casts to bfloat16 round to nearest even (it cuts float32 off, and takes an integer's value for bits), and casts from
  it keep subnormal numbers (it makes others of them);
- every access is held against the buffer that its pointer was made from: one outside of it, even if another buffer lies
  there, or a store to one that is only read, is an error (it would read or write whatever lies there). Pointers carry
  the number of their buffer in bits that no address has;
- a promise that addresses are multiples is held against the addresses (it is ignored, and a GPU traps);
- programs run in an order drawn from a seed, as no GPU promises one;
- inline PTX runs, in NumPy, where the case asks for it (it refuses all of it).

A message is the length of a JSON object, the object, and the bytes of the buffers that it lists, one after the other.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import os
import signal
import struct
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

from gridstone.proof.ptx_on_cpu import run_ptx

LENGTH = struct.Struct("<q")
_KEPT = 64  # modules kept in memory
_TAG = np.uint64(56)  # from this bit on a pointer carries the number of its buffer; addresses end at bit 56 or before
_ADDRESS = (np.uint64(1) << _TAG) - np.uint64(1)
_ORPHANED_S = 1.0  # seconds between two looks whether the parent lives


class Guard:
    """The buffers of the current call and the program that runs."""

    def __init__(self) -> None:
        self.starts = self.ends = np.zeros(0, np.uint64)
        self.writable = np.zeros(0, bool)
        self.names: list[str] = []
        self.order: np.ndarray = np.zeros(0, int)
        self.traffic: dict[str, list[int]] = {}
        self.program = (0, 0, 0)

    def hold(self, buffers: list[dict[str, Any]], programs: int, seed: int) -> None:
        """Allow accesses to these buffers only, and draw the order of programs."""
        self.starts = np.array([b["at"] for b in buffers], np.uint64)
        self.ends = np.array([b["at"] + b["span"] for b in buffers], np.uint64)
        self.writable = np.array([b["writable"] for b in buffers], bool)
        self.names = [b["name"] for b in buffers]
        self.traffic = {name: [0, 0] for name in self.names}
        self.order = np.random.default_rng(seed).permutation(programs)

    def tagged(self, pointer: np.ndarray) -> np.ndarray:
        """Return the address of a buffer's first element with the buffer's number."""
        (number,) = np.flatnonzero(self.starts == pointer)
        return pointer | np.uint64(number + 1) << _TAG

    def checked(self, what: str, pointers: Any, mask: np.ndarray, write: bool) -> Any:
        """Return the addresses of pointers, or raise IndexError where the mask lets one out of its buffer through."""
        at = np.broadcast_to(pointers.data, mask.shape)[mask]
        if at.size:
            number = (at >> _TAG).astype(np.int64) - 1
            known = (number >= 0) & (number < len(self.names))
            if not known.all():
                raise IndexError(f"{what} through a pointer that is not made from any operand's{self._where()}")
            address, size = at & _ADDRESS, np.uint64(max(1, pointers.get_element_ty().primitive_bitwidth // 8))
            outside = (address < self.starts[number]) | (address + size > self.ends[number])
            if outside.any():
                first = int(np.argmax(outside))
                which = int(number[first])
                start, end = int(self.starts[which]), int(self.ends[which])
                byte = int(address[first]) - start
                raise IndexError(
                    f"{what} of byte {byte} of {self.names[which]}, which has {end - start}{self._where()}"
                )
            if write and not self.writable[number].all():
                name = self.names[int(number[~self.writable[number]][0])]
                raise IndexError(f"{what} to {name}, which is only read{self._where()}")
            for which, times in zip(*np.unique(number, return_counts=True), strict=True):
                counted = self.traffic[self.names[which]]
                counted[0] += int(times)
                counted[1] += int(times) * int(size)
        return interpreter.TensorHandle(pointers.data & _ADDRESS, pointers.dtype)

    def _where(self) -> str:
        return f", in program {self.program}"


GUARD = Guard()


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Return the bits of float32 values rounded to bfloat16, to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)


def widened(handle: Any) -> np.ndarray:
    """Return the values of an operand of a product in float32, if it is bfloat16."""
    if handle.dtype.scalar != tl.bfloat16:
        return handle.data
    return (handle.data.astype(np.uint32) << np.uint32(16)).view(np.float32)


def mend() -> None:
    """Replace what the interpreter gets wrong; see the top of this file."""
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    load, store = builder.create_masked_load, builder.create_masked_store
    rmw, cas = builder.create_atomic_rmw, builder.create_atomic_cas
    cast, place, convert = builder.cast_impl, builder.set_grid_idx, interpreter._implicit_cvt

    def create_dot(self: Any, a: Any, b: Any, d: Any, *_: Any) -> Any:
        product = np.matmul(widened(a).astype(np.float32), widened(b).astype(np.float32))
        return handle(product + d.data, d.dtype.scalar)

    def cast_impl(self: Any, source: Any, to: Any) -> Any:
        before, after = source.dtype.scalar, to.scalar
        if before == after == tl.bfloat16:
            return source
        if before == tl.bfloat16:
            source, before = handle(widened(source), tl.float32), tl.float32
        if after == tl.bfloat16:
            return handle(to_bf16(source.data.astype(np.float32)), tl.bfloat16)
        return source if before == after else cast(self, source, to)

    def create_masked_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        return load(self, GUARD.checked("a load", pointers, mask.data, False), mask, *rest)

    def create_masked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        return store(self, GUARD.checked("a store", pointers, mask.data, True), value, mask, *rest)

    def create_atomic_rmw(self: Any, op: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        found = GUARD.checked("an atomic operation", pointers, mask.data, True)
        return rmw(self, op, found, value, mask, *rest)

    def create_atomic_cas(self: Any, pointers: Any, *rest: Any) -> Any:
        everywhere = np.ones_like(pointers.data, dtype=bool)
        return cas(self, GUARD.checked("an atomic operation", pointers, everywhere, True), *rest)

    def implicit_cvt(argument: Any) -> Any:
        found = convert(argument)
        if hasattr(argument, "data_ptr"):
            found.handle.data = GUARD.tagged(found.handle.data)
        return found

    def set_grid_idx(self: Any, x: int, y: int, z: int) -> None:
        grid = self.grid_dim
        at = int(GUARD.order[(x * grid[1] + y) * grid[2] + z])
        GUARD.program = at // (grid[1] * grid[2]), at // grid[2] % grid[1], at % grid[2]
        place(self, *GUARD.program)

    def create_inline_asm(self: Any, text: str, constraints: str, values: Any, types: Any, *_: Any) -> Any:
        results = run_ptx(text, constraints, [value.data for value in values])
        return Results(handle(bits.view(np_type(to)), to.scalar) for bits, to in zip(results, types, strict=True))

    for name, mended in {**locals()}.items():
        if name.startswith("create_") or name in ("cast_impl", "set_grid_idx"):
            setattr(builder, name, mended)
    interpreter._implicit_cvt = implicit_cvt
    handle.set_attr = set_attr


def set_attr(self: Any, key: str, value: Any) -> None:
    """Take a hint on the elements of a tensor, and hold it against them: the first of each run must be a multiple."""
    self.attr[key] = value
    if key != "tt.divisibility":
        return
    step = max(1, self.get_element_ty().primitive_bitwidth // 8) if isinstance(self.dtype, tl.pointer_type) else 1
    for axis, multiple in enumerate(value):
        along = np.moveaxis(np.atleast_1d(self.data), axis, -1).astype(np.int64)
        first = np.ones(along.shape, bool)
        first[..., 1:] = np.diff(along, axis=-1) != step
        past = along[first] % multiple
        if past.any():
            raise ValueError(f"{past[past != 0][0]} past a multiple of {multiple}, which the kernel promises")


class Results(list[Any]):
    """The results of inline assembly, as Triton's front end asks for them."""

    def get_result(self, at: int) -> Any:
        """Return one of them."""
        return self[at]


def np_type(of: Any) -> Any:
    """Return the NumPy type in which the interpreter holds a type."""
    return {tl.float16: np.float16, tl.bfloat16: np.uint16, tl.float32: np.float32, tl.int32: np.int32}[of.scalar]


def entry(modules: dict[str, Any], folder: Path, text: str, name: str) -> Any:
    """Return the entry point of a text, imported once."""
    if text not in modules:
        if len(modules) >= _KEPT:
            modules.clear()
            interpreter.InterpretedFunction.rewritten_fn.clear()
        path = folder / f"kernel{len(list(folder.iterdir()))}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        modules[text] = module  # one that fails must fail again
    return getattr(modules[text], name)


def serve(request: dict[str, Any], memory: list[bytearray], modules: dict[str, Any], folder: Path) -> None:
    """Run one case; the buffers in `memory` are changed in place."""
    function = entry(modules, folder, request["text"], request["entry"])
    arguments: list[Any] = []
    held: list[dict[str, Any]] = []
    for argument in request["arguments"]:
        if "value" in argument:
            arguments.append(argument["value"])
            continue
        tensor = torch.frombuffer(memory[argument["buffer"]], dtype=getattr(torch, argument["dtype"]))
        arguments.append(tensor[argument["first"] :])
        size = tensor.element_size()
        held.append(argument | {"at": arguments[-1].data_ptr(), "span": argument["count"] * size})
    grid = request["grid"]
    GUARD.hold(held, grid[0] * grid[1] * grid[2], request["seed"])
    function[tuple(grid)](*arguments, ASM=request["asm"])


def read(source: BinaryIO, count: int) -> bytes:
    """Return exactly so many bytes; the end of the pipe ends this process."""
    found = source.read(count)
    if len(found) != count:
        sys.exit(0)
    return found


def problem_of(error: BaseException) -> str:
    """Return what went wrong first, and the line of the kernel."""
    while error.__cause__ is not None:
        error = error.__cause__
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "kernel" in Path(frame.filename).stem]
    where = f" at line {frames[-1].lineno}: {frames[-1].line}" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def end_with(parent: int) -> None:
    """End this process soon after its parent: a kernel that never ends would outlive it."""
    while os.getppid() == parent:
        time.sleep(_ORPHANED_S)
    os._exit(1)


def main() -> None:
    """Serve cases until the pipe closes; the argument is the parent's number."""
    threading.Thread(target=end_with, args=(int(sys.argv[1]),), daemon=True).start()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)  # a parent that waits in vain asks where this process is
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever is printed is no reply
    mend()
    np.seterr(all="ignore")  # infinities and NaN are what kernels are tried on
    modules: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="gridstone-interpret-") as folder:
        while True:
            (length,) = LENGTH.unpack(read(sys.stdin.buffer, LENGTH.size))
            request = json.loads(read(sys.stdin.buffer, length))
            memory = [bytearray(read(sys.stdin.buffer, count)) for count in request["bytes"]]
            problem = ""
            try:
                serve(request, memory, modules, Path(folder))
            except Exception as error:  # reported to the parent, which names the case
                problem = problem_of(error)
            answer = json.dumps({"problem": problem, "traffic": GUARD.traffic}).encode()
            replies.write(LENGTH.pack(len(answer)) + answer + b"".join(memory))
            replies.flush()


if __name__ == "__main__":
    main()
