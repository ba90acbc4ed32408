"""Offsets beyond 32 bits: rows that lie gigabytes apart, and weights of more than two gigabytes, in sparse memory.

A kernel that computes an offset in 32 bits finds zeros, or leaves the operand: the wrong result is seen either way.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import gridstone
from gridstone.ir.storage import storage
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache.toolchain_triton import TritonToolchain
from gridstone.lower.schedule import parse_schedule
from gridstone.lower.target import parse_target
from gridstone.proof.compare import compare
from gridstone.proof.emulate import emulated
from gridstone.proof.execute import Buffer, Shape, execute
from gridstone.proof.operands import Operands, draw_operands, to_values
from gridstone.proof.program import program
from gridstone.templates.emit import emit
from gridstone.templates.registry import recipe_named
from gridstone.templates.source import ParamKind
from tests.quick import one_in
from tests.templates import gemm_kernels
from tests.templates.sparse import FAR, far_apart, matrix_in, sparse

ROWS = 3
APART = "gemm[x: f16(M,64), w: int4:g64(48,64)] + residual"
LARGE_N, LARGE_K = 1 << 25, 192  # chunks of 64 k, a gigabyte each
LARGER_K = 576  # as many words as 32 bits do not hold
GPU = {
    "gemv": ("gemm.cuda.gemv", "cuda:sm_80"), "mma": ("gemm.cuda.mma", "cuda:sm_80"),
    "wgmma": ("gemm.cuda.wgmma", "cuda:sm_90a"),
}  # fmt: skip
PLACES = {"x": 0, "residual": 128, "y": 256}  # of one memory: rows of the three lie side by side


def placed(spec):
    """The operands of a spec in rows far apart, and an output there."""
    drawn = draw_operands(spec, 3)
    memory, stride = far_apart(ROWS, torch.float16)
    x, w, residual = drawn.tensors
    tensors = (matrix_in(memory, stride, PLACES["x"], x), w, matrix_in(memory, stride, PLACES["residual"], residual))
    out = matrix_in(memory, stride, PLACES["y"], torch.full(residual.shape, float("nan"), dtype=torch.float16))
    return Operands(tensors, drawn.values), out


def assert_result(got, spec, values):
    verdict = compare(
        to_values(got), spec.op.reference(spec, values), spec.op.tolerance(spec, values), spec.output.dtype
    )
    assert verdict.right, verdict.problem


@pytest.mark.parametrize("recipe", one_in(3, gemm_kernels.CPP_NAMES))
def test_rows_far_apart(recipe):
    spec = gemm_kernels.resolved(APART).bind(M=ROWS)
    operands, out = placed(spec)
    gemm_kernels.kernel(gemm_kernels.Case(APART, recipe))(*operands.tensors, out=out)
    assert_result(torch.stack([row.clone() for row in out]), spec, operands.values)


@pytest.mark.parametrize("recipe", one_in(3, gemm_kernels.CPP_NAMES))
def test_a_weight_of_more_than_two_gigabytes(recipe):
    """All of it is zero but the last block, which lies beyond 2^31 bytes."""
    k, last = 1 << 16, 64
    n = FAR // k + last
    text = "gemm[x: bf16(M,{k}), w: int8:channel({n},{k})]"
    small = gemm_kernels.resolved(text.format(n=last, k=k)).bind(M=1)
    x, block = draw_operands(small, 5).tensors
    place = storage("lane16", small.input("w").format, n, k)
    # Before the weight lies as much again: a negative offset finds zeros.
    memory = torch.frombuffer(sparse(FAR + place.bytes), dtype=torch.uint8)
    w = memory[FAR:]
    w[place.bytes - block.numel() :] = block
    got = gemm_kernels.kernel(gemm_kernels.Case(text.format(n=n, k=k), recipe))(x, w)
    assert not got[:, :-last].any()
    assert_result(got[:, -last:], small, draw_operands(small, 5).values)


@pytest.mark.parametrize("name", one_in(3, GPU))
def test_cuda_rows_far_apart(name):
    """Not of y: the machine that executes CUDA remembers more of each byte that is written than there is memory."""
    recipe, target = recipe_named(GPU[name][0]), parse_target(GPU[name][1])
    spec = parse_spec(APART).with_storage(target.storage).bind(M=ROWS)
    operands, out = placed(spec)
    source = emit(recipe, spec, recipe.space.default(spec, target), target)
    near = torch.empty(out.shape, dtype=out.dtype)
    emulated(source, spec)(*operands.tensors, out=near)
    assert_result(near, spec, operands.values)


def large(name, target, schedule, k=LARGE_K):
    """A kernel for a weight of 3 GB or more, its first block's part of the weight, and the result of that block."""
    recipe, on = recipe_named(name), parse_target(target)
    text = "gemm[x: f16(M,{k}), w: int4:channel({n},{k})]"
    spec = parse_spec(text.format(n=LARGE_N, k=k)).with_storage(on.storage).bind(M=1)
    default = recipe.space.default(spec, on)
    source = emit(recipe, spec, parse_schedule(schedule, recipe.schedule, default), on)
    small = parse_spec(text.format(n=256, k=k)).with_storage(on.storage).bind(M=1)
    drawn = draw_operands(small, 7)
    fmt = spec.input("w").format
    whole, part = storage(on.storage, fmt, LARGE_N, k), storage(on.storage, fmt, 256, k)
    packed = drawn.tensors[1].numpy()
    count = k // 64
    run, step = part.scales.base // 8 // count, whole.scales.base // 8 // count  # bytes of a chunk of k
    pieces = [(at * step, packed[at * run : at * run + run]) for at in range(count)]
    pieces.append((whole.scales.base // 8, packed[part.scales.base // 8 : part.scales.base // 8 + 512]))
    return source, small, drawn, whole.bytes, pieces


def assert_block(got, small, drawn):
    """The first columns are those of the small product."""
    columns = len(got)
    want = small.op.reference(small, drawn.values)[:, :columns]
    bound = small.op.tolerance(small, drawn.values)
    bound = dataclasses.replace(bound, element=bound.element[:, :columns], rms=np.inf)
    verdict = compare(got[None].astype(np.float64), want, bound, small.output.dtype)
    assert verdict.right, verdict.problem


@pytest.mark.parametrize(
    ("name", "schedule", "columns"),
    one_in(3, [
        ("gemv", "gemv(block_m=1,block_k=64,warps_n=1,warps_k=2,tiles_n=1,k_splits=1)", 16),
        ("mma", "mma(block_m=8,block_k=64,warps_n=1,warps_k=1,tiles_n=1,stages=2,k_splits=1)", 16),
        ("wgmma", "wgmma(block_m=8,block_k=64,warps_n=4,tiles_n=1,stages=3,k_splits=1)", 64),
    ]),
    ids=GPU,
)  # fmt: skip
def test_cuda_a_weight_of_more_than_two_gigabytes(name, schedule, columns):
    """One block is executed: its codes lie in all three gigabytes."""
    source, small, drawn, size, pieces = large(*GPU[name], schedule)
    memory = np.frombuffer(sparse(size), np.uint8)
    for at, piece in pieces:
        memory[at : at + len(piece)] = piece
    grid = source.launch.grid
    y = np.full(columns, np.nan, np.float16)
    given = {"x": Buffer("x", drawn.tensors[0].numpy()), "w": Buffer("w", memory), "y": Buffer("y", y, True, False)}
    arguments = [
        1 if p.kind is ParamKind.ROWS
        else LARGE_K if (p.kind, p.operand) == (ParamKind.STRIDE, "x")
        else given.get(p.operand) if p.kind is ParamKind.POINTER else None
        for p in source.params
    ]  # fmt: skip
    shape = Shape((1, 1, 1), (grid.threads, 1, 1), grid.shared_bytes)
    faults = execute(program(source.text, source.entry), shape, arguments)
    assert not faults, "\n".join(map(str, faults))
    assert_block(y, small, drawn)


# ---- Triton, in a process of its own ---------------------------------------------------------------------------------

needs_triton = pytest.mark.skipif(TritonToolchain().missing() is not None, reason="no Triton")


def interpreted_sparsely(source, grid, given, numbers, wanted):
    """Run one kernel on sparse buffers; return the bytes that are wanted.

    given: Of each operand its dtype, first element and count, the buffer's size, and the pieces that are not zero.
    numbers: Rows, and strides by operand.
    wanted: Operand, first byte, and how many.
    """
    memory, arguments, at = [], [], {}
    for param in source.params:
        name = {ParamKind.PARTS: "parts", ParamKind.TICKETS: "tickets"}.get(param.kind, param.operand)
        if param.kind in (ParamKind.ROWS, ParamKind.STRIDE):
            arguments.append({"value": ROWS if param.kind is ParamKind.ROWS else numbers.get(name, 0)})
            continue
        dtype, first, count, size, pieces = given.get(name, ("float16", 0, LARGE_N, 2 * LARGE_N, []))
        dtype, writable = {"parts": "float32", "tickets": "int32"}.get(name, dtype), name == "y"
        at[name] = len(memory)
        arguments.append({
            "name": name, "dtype": dtype, "buffer": len(memory), "first": first, "count": count, "writable": writable,
        })  # fmt: skip
        memory.append({"size": size, "pieces": [(place, bytes(piece).hex()) for place, piece in pieces]})
    request = {
        "text": source.text, "entry": source.entry, "arguments": arguments, "memory": memory, "seed": 0, "asm": False,
        "grid": grid, "wanted": [(at[name], start, size) for name, start, size in wanted],
    }  # fmt: skip
    path = [str(Path(gridstone.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    run = subprocess.run(
        [sys.executable, "-m", "tests.templates.sparse_triton"], input=json.dumps(request), text=True,
        capture_output=True, timeout=120, check=True, cwd=path[0],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "TRITON_INTERPRET": "1"},
    )  # fmt: skip
    answer = json.loads(run.stdout)
    assert not answer["problem"], answer["problem"]
    return [np.frombuffer(bytes.fromhex(found), np.float16) for found in answer["found"]]


@needs_triton
def test_triton_rows_far_apart():
    target, recipe = parse_target("triton:sm_90"), recipe_named("gemm.triton.small")
    spec = parse_spec(APART).with_storage(target.storage).bind(M=ROWS)
    schedule = parse_schedule("small(k_splits=1)", recipe.schedule, recipe.space.default(spec, target))
    source = emit(recipe, spec, schedule, target)
    drawn = draw_operands(spec, 3)
    x, w, residual = (tensor.numpy() for tensor in drawn.tensors)
    stride = FAR // (ROWS - 1) + 8
    size = 2 * (FAR + stride * ROWS)

    def rows_of(matrix):
        pieces = [(2 * (FAR + at * stride), row.tobytes()) for at, row in enumerate(matrix)]
        return "float16", FAR, stride * (ROWS - 1) + matrix.shape[1], size, pieces

    given = {
        "x": rows_of(x), "residual": rows_of(residual), "y": rows_of(np.full_like(residual, np.nan)),
        "w": ("uint8", 0, w.size, w.size, [(0, w.tobytes())]),
    }  # fmt: skip
    strides = dict.fromkeys(("x", "residual", "y"), stride)
    wanted = [("y", 2 * (FAR + at * stride), 2 * residual.shape[1]) for at in range(ROWS)]
    blocks = source.launch.grid.blocks_n
    found = interpreted_sparsely(source, [blocks, 1, 1], given, strides, wanted)
    assert_result(torch.from_numpy(np.stack(found)), spec, drawn.values)


@pytest.mark.slow
@needs_triton
def test_triton_a_weight_of_more_than_two_gigabytes():
    """Of more than eight: its offsets count words."""
    source, small, drawn, size, pieces = large(
        "gemm.triton.small", "triton:sm_90", "small(block_n=64,k_splits=1)", LARGER_K
    )
    x, columns = drawn.tensors[0].numpy(), 64
    given = {
        "x": ("float16", 0, ROWS * LARGER_K, ROWS * x.nbytes, [(at * x.nbytes, x.tobytes()) for at in range(ROWS)]),
        "w": ("uint8", 0, size, size, [(at, piece.tobytes()) for at, piece in pieces]),
        "y": ("float16", 0, ROWS * columns, 2 * ROWS * columns, []),
    }  # fmt: skip
    strides = {"x": LARGER_K, "y": columns}
    (found,) = interpreted_sparsely(source, [1, 1, 1], given, strides, [("y", 0, 2 * columns)])
    assert_block(found, small, drawn)
