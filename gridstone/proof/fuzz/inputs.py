"""Inputs of a case: operands with awkward values, as views with awkward strides, and a guarded, poisoned output.

Everything between the elements of a view is NaN: a kernel that reads there and lets it matter has a NaN in its output,
and one that writes there is seen.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from gridstone.ir.dtype import DType, Values, round_to
from gridstone.ir.errors import SpecError, nearest
from gridstone.ir.format import Format, Quantized, dequantize
from gridstone.ir.spec import Operand
from gridstone.ir.storage import pack, storage
from gridstone.proof.fuzz.case import Call, Case
from gridstone.proof.operands import DISTRIBUTIONS, Operands, draw_quantized, draw_values, to_tensor
from gridstone.proof.poison import GUARD, POISON

VALUES = (*DISTRIBUTIONS, "vast", "denormal", "integers", "sparse", "constant", "hill")
SCALES = ("normal", "powers", "huge", "tiny", "mixed", "signed", "positive")
SAME_WEIGHT = 8  # consecutive seeds share a weight: packing one takes longer than most calls
_LARGEST_WEIGHT = 60000.0  # f16 ends at 65504, and a weight is decoded to the activations' dtype
_ALIGNMENT = 64  # bytes: where torch's own allocations start, so that an offset is one from there


@dataclass(frozen=True, slots=True)
class Inputs:
    """What one call gets.

    Args:
        operands: Tensors in order, and their exact values by name.
        memory: The whole memory behind each tensor, gaps and all.
        output: What the kernel writes, filled with NaN.
        around: The memory that the output lies in.
    """

    operands: Operands
    memory: tuple[torch.Tensor, ...]
    output: torch.Tensor
    around: torch.Tensor

    def damage(self) -> str:
        """Return what was written beside the output; empty when nothing was."""
        changed = (self.around.view(torch.uint8).view(self.around.numel(), -1) != POISON).any(dim=1)
        out = self.output
        changed.as_strided(out.shape, out.stride(), out.storage_offset()).fill_(False)
        hurt = torch.nonzero(changed).flatten()
        if not hurt.numel():
            return ""
        return (
            f"{hurt.numel()} elements beside the output were overwritten, first {int(hurt[0]) - out.storage_offset()}"
        )


def draw_inputs(case: Case) -> Inputs:
    """Draw the operands of a case, and make room for its output.

    Raises:
        SpecError: Unknown kind of values.
    """
    call, spec = case.call, case.static
    for kind, known in ((call.values, VALUES), (call.scales, SCALES)):
        if kind not in known:
            raise SpecError(f"unknown kind of values {kind!r}", nearest(kind, known))
    rng = np.random.default_rng(call.seed)
    tensors: list[torch.Tensor] = []
    memory: list[torch.Tensor] = []
    values: dict[str, Values] = {}
    for operand in (*spec.inputs, *spec.extra_operands):
        if operand.type.format is not None:
            packed, exact = _weight(operand, call.scales, call.seed // SAME_WEIGHT)
            whole, tensor = _shifted(packed, call.w_offset)
        else:
            exact = _plain(rng, operand, call)
            whole, tensor = _viewed(to_tensor(operand.type.dtype, exact), operand.name, call)
        tensors.append(tensor)
        memory.append(whole)
        values[operand.name] = exact
    around, output = _output(case)
    return Inputs(Operands(tuple(tensors), values), tuple(memory), output, around)


def _plain(rng: np.random.Generator, operand: Operand, call: Call) -> Values:
    shape = tuple(operand.type.static(axis) for axis in range(len(operand.type.shape)))
    exact = _values(rng, operand.type.dtype, shape, call.values)
    flat = exact.reshape(-1)
    if flat.size:
        holes = rng.integers(0, flat.size, call.nan)
        if call.nan > 1:  # one at the end of its row, where tails are read in a way of their own
            holes[0] += shape[-1] - 1 - holes[0] % shape[-1]
        flat[holes] = np.nan
        flat[rng.integers(0, flat.size, call.inf)] = rng.choice([-np.inf, np.inf], call.inf)
    return exact


def _values(rng: np.random.Generator, dtype: DType, shape: tuple[int, ...], kind: str) -> Values:
    match kind:
        case "vast":  # f16: up to its end, so that outputs overflow; wider types: far from f16, and from overflow
            low, high = (8, 16) if dtype.largest < 1e5 else (40, 60)
            size = np.exp2(rng.uniform(low, high, shape))
            return round_to(dtype, np.minimum(size, dtype.largest) * rng.choice([-1.0, 1.0], shape))
        case "denormal":
            steps = rng.integers(-(1 << dtype.mantissa), 1 << dtype.mantissa, shape)
            return round_to(dtype, steps * dtype.smallest_subnormal)
        case "integers":
            return rng.integers(-4, 5, shape).astype(np.float64)
        case "sparse":
            return round_to(dtype, rng.standard_normal(shape) * (rng.random(shape) < 0.1))
        case "hill":  # with positive weights, partial sums climb over half of K and come back: short sums show
            climb = np.abs(rng.standard_normal(shape))
            climb[..., shape[-1] // 2 :] *= -1.0
            return round_to(dtype, climb)
        case "constant":
            return np.full(shape, round_to(dtype, rng.standard_normal(1))[0])
        case _:
            return draw_values(rng, dtype, shape, kind)


@functools.lru_cache(maxsize=8)
def _weight(operand: Operand, kind: str, seed: int) -> tuple[torch.Tensor, Values]:
    fmt = operand.type.format
    assert fmt is not None
    n, k = operand.type.static(0), operand.type.static(1)
    rng = np.random.default_rng((seed, 1))
    drawn = draw_quantized(rng, fmt, n, k)
    codes = _one_sided(fmt, drawn) if kind == "positive" else drawn.codes
    parts = Quantized(codes, _scales(rng, fmt, drawn.scales, kind), drawn.zeros)
    return torch.from_numpy(pack(storage(operand.type.storage, fmt, n, k), parts)), dequantize(fmt, parts)


def _one_sided(fmt: Format, drawn: Quantized) -> npt.NDArray[np.uint8]:
    """Return codes of one sign: none below its zero point, or none above where there are more below."""
    if drawn.zeros is not None:
        return np.maximum(drawn.codes, np.repeat(drawn.zeros, drawn.codes.shape[1] // drawn.zeros.shape[1], axis=1))
    away = np.minimum if 2 * fmt.code.bias > fmt.code.high - fmt.code.low else np.maximum
    return away(drawn.codes, np.uint8(fmt.code.bias))


def _scales(rng: np.random.Generator, fmt: Format, normal: Values, kind: str) -> Values:
    shape = normal.shape
    match kind:
        case "powers":
            scales = np.exp2(rng.integers(-8, 3, shape))
        case "huge":
            scales = rng.uniform(0.5, 1.0, shape) * _LARGEST_WEIGHT / (1 << fmt.bits)
        case "tiny":  # subnormal as f16, subnormal products as the wider types
            step = fmt.scale.smallest_subnormal if fmt.scale.largest < 1e5 else 2.0**-120
            scales = rng.integers(1, 64, shape) * step
        case "mixed":
            scales = np.exp2(rng.uniform(-12.0, 3.0, shape))
        case "signed":
            scales = normal * rng.choice([-1.0, 0.0, 1.0], shape)
        case _:
            scales = normal
    return round_to(fmt.scale, scales)


def _aligned(elements: int, dtype: torch.dtype) -> torch.Tensor:
    """Return memory that starts where an allocation of torch's own would."""
    size = torch.empty(0, dtype=dtype).element_size()
    raw = torch.empty(elements + _ALIGNMENT // size, dtype=dtype)
    lead = -raw.data_ptr() % _ALIGNMENT // size
    return raw[lead : lead + elements]


def _shifted(packed: torch.Tensor, offset: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the memory and the packed weight in it, `offset` bytes in, between bytes that decode to anything."""
    whole = _aligned(packed.numel() + offset + GUARD, torch.uint8)
    whole.fill_(0xA5)
    part = whole[offset : offset + packed.numel()]
    part.copy_(packed)
    return whole, part


def _viewed(values: torch.Tensor, name: str, call: Call) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the memory and the view of it that holds the values, with the call's offset, gap and order of axes."""
    offsets = {"x": call.x_offset, "w": call.w_offset, "residual": call.residual_offset, "bias": call.bias_offset}
    offset = offsets[name]
    gap = {"x": call.x_gap, "residual": call.residual_gap}.get(name, 0)
    if values.dim() == 1:
        strides: tuple[int, ...] = (1,)
    elif name == "x" and call.transposed:
        strides = (1, values.shape[0] + gap)
    else:
        strides = (values.shape[1] + gap, 1)
    extent = math.prod(values.shape) and 1 + sum((n - 1) * s for n, s in zip(values.shape, strides, strict=True))
    whole = _aligned(offset + extent + gap, values.dtype)
    whole.fill_(float("nan"))
    view = whole.as_strided(values.shape, strides, whole.storage_offset() + offset)
    view.copy_(values)
    return whole, view


def _output(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    spec, call = case.static, case.call
    rows, columns = spec.output.static(0), spec.output.static(1)
    stride = columns + call.out_gap
    around = torch.empty(2 * GUARD + call.out_offset + rows * stride, dtype=_dtype(spec.output.dtype))
    around.view(torch.uint8).fill_(POISON)
    return around, around.as_strided((rows, columns), (stride, 1), GUARD + call.out_offset)


def _dtype(of: DType) -> torch.dtype:
    return getattr(torch, of.torch)
