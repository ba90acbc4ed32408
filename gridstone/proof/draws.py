"""Operands for a callable that nobody vouches for: in which order they come, and values that tell right from nearly so.

A call is a value, from which its operands are drawn again at any time, so that nobody has to keep them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from gridstone.ir.dtype import Values, round_to
from gridstone.ir.format import Quantized, dequantize
from gridstone.ir.ops.gemm import Gemm
from gridstone.ir.ops.spmm import Spmm
from gridstone.ir.spec import Operand, Spec
from gridstone.ir.storage import pack, storage, unpack
from gridstone.proof.operands import Operands, draw_operands, to_tensor

HILL = "hill"
KINDS = ("normal", HILL, "uniform", "huge", "powers", "tiny")
PLAIN = ("normal", HILL, "uniform", "tiny")  # where the weight is drawn like the activations: others leave f16's range
MODEST = ("normal", "uniform")  # of ops in which values are exponents, or are multiplied several times
NUDGE = 32.0  # times the largest magnitude: what one changed element is
GROUP = 4  # calls: operands, the same again, the same with one element changed, and others


@dataclass(frozen=True, slots=True)
class Draw:
    """A call of a spec.

    Args:
        spec: Static, storages resolved.
        seed: Of all values.
        kind: One of `KINDS`.
        nudged: Name of an operand, one element of which is another; empty for none.
    """

    spec: Spec
    seed: int
    kind: str
    nudged: str = ""

    def operands(self) -> Operands:
        """Draw the operands."""
        kind = "normal" if self.kind == HILL else self.kind
        drawn = draw_operands(self.spec, self.seed, kind)
        if isinstance(self.spec.op, Spmm):
            drawn = _with(self.spec, drawn, "a", self.spec.op.prune(drawn.values["a"]))
        if self.kind == HILL:
            drawn = hill(self.spec, drawn)
        return _nudge(self.spec, drawn, self.nudged) if self.nudged else drawn

    def __str__(self) -> str:
        return f"{self.kind} values" + (f", one element of {self.nudged} changed" if self.nudged else "")


def draws(spec: Spec, calls: int, rows: tuple[int, ...], rng: np.random.Generator) -> tuple[Draw, ...]:
    """Return the calls of one check, in an order that says nothing.

    Args:
        spec: Storages resolved.
        calls: How many.
        rows: What symbolic extents are, one after the other; drawn when empty.
        rng: Draws everything.

    Operands come alone, a second time, and with one element changed, so that what was kept from another call shows.
    """
    specs = _bound(spec, rows or _ragged(rng)) if spec.dims else [spec]
    kinds = itertools.cycle(_kinds(spec))
    names = [operand.name for operand in (*spec.inputs, *spec.extra_operands)]
    made: list[Draw] = []
    for at in itertools.count():
        if len(made) >= calls:
            break
        first, other = (Draw(specs[at % len(specs)], int(rng.integers(1 << 31)), next(kinds)) for _ in range(2))
        made += [first, first, replace(first, nudged=names[at % len(names)]), other]
    return tuple(made[at] for at in rng.permutation(calls))


def hill(spec: Spec, operands: Operands) -> Operands:
    """Return operands of a gemm whose partial sums climb over the first half of K and come back over the second.

    Every partial sum is far larger than the result. A float32 sum does not mind, and the bound knows how far it went; a
    float16 sum has errors of the size of the hill. The weight has one sign throughout, x another in each half.
    """
    x = np.abs(operands.values["x"])
    x[:, x.shape[1] // 2 :] *= -1.0
    made = _with(spec, operands, "x", x)
    kind = spec.input("w")
    if kind.format is None:
        return _with(spec, made, "w", np.abs(operands.values["w"]))
    parts, fmt = _parts(spec, made), kind.format
    if parts.zeros is not None:
        zeros = parts.zeros // 2
        return _with_parts(spec, made, Quantized(np.maximum(parts.codes, _spread(zeros, parts)), parts.scales, zeros))
    away = np.minimum if 2 * fmt.code.bias > fmt.code.high - fmt.code.low else np.maximum
    return _with_parts(spec, made, replace(parts, codes=away(parts.codes, np.uint8(fmt.code.bias))))


def _nudge(spec: Spec, operands: Operands, name: str) -> Operands:
    """Return operands with one element in the middle of one changed by much: of a packed weight, a group's scale."""
    kind = _operand(spec, name).type
    if kind.format is not None:
        parts = _parts(spec, operands)
        scales = parts.scales.copy()
        scales[scales.shape[0] // 2, scales.shape[1] // 2] *= 4.0
        return _with_parts(spec, operands, replace(parts, scales=scales))
    values = operands.values[name].copy()
    flat = values.reshape(-1)
    if flat.size:
        at = flat.size // 2
        if isinstance(spec.op, Spmm) and name == "a":
            at = int(np.flatnonzero(flat)[np.count_nonzero(flat) // 2])
        flat[at] = -np.copysign(NUDGE * np.abs(flat).max(), flat[at])
    return _with(spec, operands, name, round_to(kind.dtype, values))


def _kinds(spec: Spec) -> tuple[str, ...]:
    if not isinstance(spec.op, Gemm):
        return MODEST
    return PLAIN if spec.input("w").format is None else KINDS


def _ragged(rng: np.random.Generator) -> tuple[int, ...]:
    """Return one, and three more numbers of rows, odd where they are larger than any tile's register block."""
    small, some, many = (int(rng.integers(*span)) for span in ((2, 9), (5, 16), (17, 40)))
    return 1, small, 2 * some + 1, 2 * many + 1


def _bound(spec: Spec, rows: tuple[int, ...]) -> list[Spec]:
    return [spec.bind(**{dim.name: count * dim.multiple_of for dim in spec.dims}) for count in rows]


def _operand(spec: Spec, name: str) -> Operand:
    return next(operand for operand in (*spec.inputs, *spec.extra_operands) if operand.name == name)


def _with(spec: Spec, operands: Operands, name: str, values: Values) -> Operands:
    """Return operands with other values of a plain one."""
    at = list(operands.values).index(name)
    tensors = list(operands.tensors)
    tensors[at] = to_tensor(_operand(spec, name).type.dtype, values)
    return Operands(tuple(tensors), {**operands.values, name: values})


def _parts(spec: Spec, operands: Operands) -> Quantized:
    kind = spec.input("w")
    assert kind.format is not None
    place = storage(kind.storage, kind.format, kind.static(0), kind.static(1))
    return unpack(place, operands.tensors[list(operands.values).index("w")].numpy())


def _with_parts(spec: Spec, operands: Operands, parts: Quantized) -> Operands:
    """Return operands with another weight."""
    kind = spec.input("w")
    assert kind.format is not None
    place = storage(kind.storage, kind.format, kind.static(0), kind.static(1))
    at = list(operands.values).index("w")
    tensors = list(operands.tensors)
    tensors[at] = torch.from_numpy(pack(place, parts))
    return Operands(tuple(tensors), {**operands.values, "w": dequantize(kind.format, parts)})


def _spread(zeros: npt.NDArray[np.uint8], parts: Quantized) -> npt.NDArray[np.uint8]:
    """Return each element's own zero point."""
    return np.repeat(zeros, parts.codes.shape[1] // zeros.shape[1], axis=1)
