"""Inline PTX in NumPy: the few instructions with which Triton kernels decode weights, on whole arrays at once.

Each is written from the PTX ISA's words, not from what the kernels want of it. Registers hold 32 or 16 bits; an
instruction that is not listed is an error. It imports nothing of Gridstone or Triton.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

Bits = Any  # arrays of uint32
_STATEMENT = re.compile(r"([a-z][a-z0-9_.]*)\s+(.*)", re.DOTALL)
_OPERAND = re.compile(r"\{[^}]*\}|[^,\s]+")


def _halves(a: Bits) -> tuple[Bits, Bits]:
    return a & np.uint32(0xFFFF), a >> np.uint32(16)


def _f16(a: Bits) -> Any:
    return a.astype(np.uint16).view(np.float16).astype(np.float64)


def _bf16(a: Bits) -> Any:
    return (a << np.uint32(16)).view(np.float32).astype(np.float64)


def _to_f16(a: Any) -> Bits:
    return a.astype(np.float16).view(np.uint16).astype(np.uint32)


def _to_bf16(a: Any) -> Bits:
    # A product and sum of bfloat16 numbers as small as codes is exact in float64 and in float32: one rounding.
    bits = a.astype(np.float32).view(np.uint32)
    return (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)


def _pairwise(
    of: Callable[[Bits], Any], to: Callable[[Any], Bits], operation: Callable[..., Any]
) -> Callable[..., Bits]:
    """Return an operation on both halves of words."""

    def both(*operands: Bits) -> Bits:
        low, high = zip(*(_halves(operand) for operand in operands), strict=True)
        return to(operation(*map(of, low))) | to(operation(*map(of, high))) << np.uint32(16)

    return both


def _lop3(a: Bits, b: Bits, c: Bits, table: Bits) -> Bits:
    """Bit by bit: the table's bit at 4 a + 2 b + c."""
    result = np.zeros_like(a)
    for at in range(8):
        if int(table.flat[0]) >> at & 1:
            result |= (a if at & 4 else ~a) & (b if at & 2 else ~b) & (c if at & 1 else ~c)
    return result


def _prmt(a: Bits, b: Bits, selector: Bits) -> Bits:
    """Byte i is the one of {b, a} that nibble i of the selector names; nibbles from 8 on would copy signs."""
    result = np.zeros_like(a)
    for i in range(4):
        name = int(selector.flat[0]) >> 4 * i & 15
        if name > 7:
            raise NotImplementedError(f"prmt with a selector of {int(selector.flat[0]):#x}")
        result |= ((b if name & 4 else a) >> np.uint32(8 * (name & 3)) & np.uint32(255)) << np.uint32(8 * i)
    return result


def _sub_f32(a: Bits, b: Bits) -> Bits:
    return (a.view(np.float32) - b.view(np.float32)).view(np.uint32)


def _cvt_bf16x2(high: Bits, low: Bits) -> Bits:
    return _to_bf16(low.view(np.float32)) | _to_bf16(high.view(np.float32)) << np.uint32(16)


INSTRUCTIONS: dict[str, Callable[..., Bits]] = {
    "mov.b32": lambda a: a,
    "shr.u32": lambda a, b: a >> b,
    "lop3.b32": _lop3,
    "prmt.b32": _prmt,
    "sub.rn.f16x2": _pairwise(_f16, _to_f16, lambda a, b: a - b),
    "fma.rn.f16x2": _pairwise(_f16, _to_f16, lambda a, b, c: a * b + c),
    "fma.rn.bf16x2": _pairwise(_bf16, _to_bf16, lambda a, b, c: a * b + c),
    "sub.rn.f32": _sub_f32,
    "cvt.rn.bf16x2.f32": _cvt_bf16x2,
}


def run_ptx(text: str, constraints: str, inputs: list[Any]) -> list[Any]:
    """Run inline assembly of one element on arrays of them.

    Args:
        text: Statements; `$i` are the operands, results first.
        constraints: As in LLVM: `=h` and `=r` are results of 16 and 32 bits.
        inputs: Arrays of 32-bit integers.

    Returns:
        One array of bits for each result: uint16 or uint32.
    """
    results = [part.strip() for part in constraints.split(",") if part.strip().startswith("=")]
    shape = np.broadcast_shapes(*(given.shape for given in inputs))
    registers: dict[str, Bits] = {
        f"${len(results) + at}": np.broadcast_to(given, shape).astype(np.int64).astype(np.uint32)
        for at, given in enumerate(inputs)
    }

    def value(name: str) -> Bits:
        if name[0].isdigit():
            return np.full(shape, int(name, 0), np.uint32)
        if name not in registers:
            raise NameError(f"register {name} is read before it is written")
        return registers[name]

    for statement in text.strip().strip("{}").split(";"):
        found = _STATEMENT.fullmatch(statement.strip())
        if found is None or found[1].startswith(".reg"):
            continue
        target, *operands = _OPERAND.findall(found[2])
        if found[1] not in INSTRUCTIONS:
            raise NotImplementedError(f"PTX instruction {found[1]}")
        bits = INSTRUCTIONS[found[1]](*map(value, operands))
        if target.startswith("{"):
            low, high = (name.strip() for name in target.strip("{}").split(","))
            registers[low], registers[high] = _halves(bits)
        else:
            registers[target] = bits
    return [value(f"${at}").astype(np.uint16 if kind == "=h" else np.uint32) for at, kind in enumerate(results)]
