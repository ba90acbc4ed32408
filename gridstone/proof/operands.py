"""Random operands of a spec, as the tensors that a kernel takes and as the float64 values that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from gridstone.ir.dtype import DType, Values, round_to
from gridstone.ir.format import Format, Quantized, dequantize
from gridstone.ir.pages import zeroed
from gridstone.ir.spec import Spec
from gridstone.ir.storage import Storage, moves, pack, storage
from gridstone.ir.tensor import TensorType

TIMED_SCALE = 0.01  # of weights that are only timed: finite, and far from subnormal products
DISTRIBUTIONS = ("normal", "uniform", "huge", "tiny", "powers")


@dataclass(frozen=True, slots=True)
class Operands:
    """Operands of one call.

    Args:
        tensors: In the order of the spec's inputs and its epilogues' operands; a quantised one is its packed buffer.
        values: The same by name, decoded.
    """

    tensors: tuple[torch.Tensor, ...]
    values: Mapping[str, Values]


def to_tensor(dtype: DType, values: Values) -> torch.Tensor:
    """Return a tensor of values that are exact in the dtype."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(getattr(torch, dtype.torch))


def to_values(tensor: torch.Tensor) -> Values:
    """Return the float64 values of a plain tensor."""
    return tensor.detach().to(torch.float64).numpy()


def draw_values(rng: np.random.Generator, dtype: DType, shape: tuple[int, ...], kind: str) -> Values:
    """Draw values that are exact in a dtype, from one of `DISTRIBUTIONS`."""
    match kind:
        case "normal":
            raw = rng.standard_normal(shape)
        case "uniform":
            raw = rng.uniform(-1.0, 1.0, shape)
        case "huge":
            raw = rng.standard_normal(shape) * 2.0**6
        case "tiny":
            raw = rng.standard_normal(shape) * 2.0**-10
        case _:
            raw = np.ldexp(rng.choice([-1.0, 1.0], shape), rng.integers(-6, 7, shape))
    return round_to(dtype, raw)


def draw_quantized(rng: np.random.Generator, fmt: Format, n: int, k: int) -> Quantized:
    """Draw codes over the whole range, scales around 1/sqrt(K), and zero points over the whole range."""
    groups = fmt.groups(k)
    codes = rng.integers(0, 1 << fmt.bits, (n, k), dtype=np.uint8, endpoint=False)
    scales = round_to(fmt.scale, rng.uniform(0.5, 1.5, (n, groups)) / (np.sqrt(k) * (1 << (fmt.bits - 1))))
    zeros = rng.integers(0, 1 << fmt.bits, (n, groups), dtype=np.uint8, endpoint=False) if fmt.zero else None
    return Quantized(codes, scales, zeros)


def draw_operands(spec: Spec, seed: int, kind: str = "normal") -> Operands:
    """Draw fresh operands for a static spec whose storages are resolved."""
    rng = np.random.default_rng(seed)
    tensors: list[torch.Tensor] = []
    values: dict[str, Values] = {}
    for operand in (*spec.inputs, *spec.extra_operands):
        shape = tuple(operand.type.static(axis) for axis in range(len(operand.type.shape)))
        if operand.type.format is not None:
            tensor, exact = _draw_weight(rng, operand.type, shape)
        else:
            exact = draw_values(rng, operand.type.dtype, shape, kind)
            tensor = to_tensor(operand.type.dtype, exact)
        tensors.append(tensor)
        values[operand.name] = exact
    return Operands(tuple(tensors), values)


def _draw_weight(rng: np.random.Generator, of: TensorType, shape: tuple[int, ...]) -> tuple[torch.Tensor, Values]:
    assert of.format is not None
    n, k = shape
    parts = draw_quantized(rng, of.format, n, k)
    return torch.from_numpy(pack(storage(of.storage, of.format, n, k), parts)), dequantize(of.format, parts)


def random_packed(place: Storage) -> torch.Tensor:
    """Return a packed weight of random codes and zero points, all scales `TIMED_SCALE`: quick to make, for timing.

    Args:
        place: Its scales are written where its layout says that they lie.

    Returns:
        (place.bytes,) uint8.
    """
    buffer = torch.from_numpy(zeroed(place.bytes)).random_(0, 256)  # in memory such as `pack` returns
    words = buffer.view(torch.int32)
    bits = place.format.scale.bits
    as_integer = {16: torch.int16, 32: torch.int32}[bits]
    code = int(torch.tensor(TIMED_SCALE, dtype=getattr(torch, place.format.scale.torch)).view(as_integer))
    for move in moves(place.scales, place.groups):
        part = words.as_strided(move.extents, move.word_strides, move.word)
        kept = part & ~(((1 << bits) - 1) << move.word_shift) if bits < 32 else torch.zeros_like(part)
        part.copy_(kept | code << move.word_shift)
    return buffer
