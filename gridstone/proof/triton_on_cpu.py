"""The program of the process in which Triton's interpreter runs: it serves cases over pipes until they close.

It is started with TRITON_INTERPRET set, since Triton reads that once, on import. What is mended of the interpreter, so
that it computes what a GPU would:

- products of bfloat16 are widened to float32 first (it multiplies the raw bits);
- casts to bfloat16 round to nearest even (it cuts float32 off, and takes an integer's value for bits);
- every access is held against the buffers of the call: one outside of them, or a store to one that is only read, is an
  error (it would read or write whatever lies there);
- programs run in an order drawn from a seed, as no GPU promises one;
- inline PTX runs, in NumPy, where the case asks for it (it refuses all of it).

A message is the length of a JSON object, the object, and the bytes of the buffers that it lists, one after the other.
"""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import sys
import tempfile
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


class Guard:
    """The buffers of the current call, sorted by address."""

    def __init__(self) -> None:
        self.starts = self.ends = np.zeros(0, np.uint64)
        self.writable = np.zeros(0, bool)
        self.names: list[str] = []
        self.order: np.ndarray = np.zeros(0, int)

    def hold(self, buffers: list[dict[str, Any]], programs: int, seed: int) -> None:
        """Allow accesses to these buffers only, and draw the order of programs."""
        buffers = sorted(buffers, key=lambda b: b["at"])
        self.starts = np.array([b["at"] for b in buffers], np.uint64)
        self.ends = np.array([b["at"] + b["span"] for b in buffers], np.uint64)
        self.writable = np.array([b["writable"] for b in buffers], bool)
        self.names = [b["name"] for b in buffers]
        self.order = np.random.default_rng(seed).permutation(programs)

    def check(self, what: str, pointers: Any, mask: Any, write: bool) -> None:
        """Raise IndexError unless every address that the mask lets through lies in a buffer."""
        at = np.broadcast_to(pointers.data, mask.data.shape)[mask.data].astype(np.uint64)
        if not at.size:
            return
        size = np.uint64(max(1, pointers.get_element_ty().primitive_bitwidth // 8))
        place = np.searchsorted(self.starts, at, side="right") - 1
        inside = (place >= 0) & (at + size <= self.ends[place])
        if not inside.all():
            first = at[~inside][0]
            near = int(np.argmin(np.abs(self.starts.astype(np.int64) - np.int64(first))))
            away = int(first) - int(self.starts[near])
            raise IndexError(f"{what} outside of every operand, {away} bytes from the start of {self.names[near]}")
        if write and not self.writable[place].all():
            raise IndexError(f"{what} to {self.names[int(place[~self.writable[place]][0])]}, which is only read")


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
    load, store, rmw = builder.create_masked_load, builder.create_masked_store, builder.create_atomic_rmw
    cast, place = builder.cast_impl, builder.set_grid_idx

    def create_dot(self: Any, a: Any, b: Any, d: Any, *_: Any) -> Any:
        product = np.matmul(widened(a).astype(np.float32), widened(b).astype(np.float32))
        return handle(product + d.data, d.dtype.scalar)

    def cast_impl(self: Any, source: Any, to: Any) -> Any:
        before, after = source.dtype.scalar, to.scalar
        if before == tl.bfloat16 and after not in (tl.float32, tl.bfloat16):
            source = cast(self, source, tl.float32)
        if after != tl.bfloat16 or before == tl.bfloat16:
            return cast(self, source, to)
        return handle(to_bf16(source.data.astype(np.float32)), tl.bfloat16)

    def create_masked_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        GUARD.check("a load", pointers, mask, False)
        return load(self, pointers, mask, *rest)

    def create_masked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        GUARD.check("a store", pointers, mask, True)
        return store(self, pointers, value, mask, *rest)

    def create_atomic_rmw(self: Any, op: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        GUARD.check("an atomic operation", pointers, mask, True)
        return rmw(self, op, pointers, value, mask, *rest)

    def set_grid_idx(self: Any, x: int, y: int, z: int) -> None:
        grid = self.grid_dim
        at = int(GUARD.order[(x * grid[1] + y) * grid[2] + z])
        place(self, at // (grid[1] * grid[2]), at // grid[2] % grid[1], at % grid[2])

    def create_inline_asm(self: Any, text: str, constraints: str, values: Any, types: Any, *_: Any) -> Any:
        results = run_ptx(text, constraints, [value.data for value in values])
        return Results(handle(bits.view(np_type(to)), to.scalar) for bits, to in zip(results, types, strict=True))

    for name, mended in {**locals()}.items():
        if name.startswith("create_") or name in ("cast_impl", "set_grid_idx"):
            setattr(builder, name, mended)


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
        path = folder / f"kernel{len(list(folder.iterdir()))}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        modules[text] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules[text])
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


def main() -> None:
    """Serve cases until the pipe closes."""
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
                root: BaseException = error
                while root.__cause__ is not None:
                    root = root.__cause__
                lines = [frame for frame in traceback.extract_tb(root.__traceback__) if "kernel" in frame.filename]
                where = f" at: {lines[-1].line}" if lines else ""
                problem = f"{type(root).__name__}: {root}{where}"
            answer = json.dumps({"problem": problem}).encode()
            replies.write(LENGTH.pack(len(answer)) + answer + b"".join(memory))
            replies.flush()


if __name__ == "__main__":
    main()
