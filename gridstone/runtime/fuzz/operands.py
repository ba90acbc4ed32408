"""What programs are given: tensors wherever their elements may lie, quantised weights, modules; drawn from a seed."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from gridstone.ir.format import parse_format
from gridstone.runtime.functional import quantize
from gridstone.runtime.fuzz.bounded import Bounded, Past, exact
from gridstone.runtime.fuzz.bounded_nets import BoundedNet, constant
from gridstone.runtime.fuzz.nets import decoded_net, make_net
from gridstone.runtime.fuzz.ops import KINDS
from gridstone.runtime.fuzz.program import Net, Packed, Plain, Program, Same
from gridstone.runtime.linear_key import numerics_named
from gridstone.runtime.tensors import QuantTensor

VALUES = ("normal", "huge", "tiny", "zeros", "blank", "powers", "nan", "inf")
LAYOUTS = ("compact", "offset", "gap", "step", "turned", "reversed", "repeated", "odd")
TOKENS = 16  # of an embedding: integers are below it
FAR = 7919  # a stride of an axis with one element, which nothing is read by


def make_tensors(program: Program, call: int) -> dict[str, torch.Tensor]:
    """Return the plain tensors that one of a program's calls is given."""
    made: dict[str, torch.Tensor] = {}
    for one in program.given:
        if isinstance(one, Plain):
            rows = program.call.M[call]
            shape = tuple(rows if isinstance(extent, str) else extent for extent in one.shape)
            made[one.name] = _tensor(one, shape, [program.call.seed, _number(one.name), call])
        if isinstance(one, Same):
            made[one.name] = made[one.of]
    return made


def make_weights(program: Program, only: str = "") -> dict[str, Any]:
    """Return the quantised weights and modules of a program, or one of them: the same ones in all of its calls."""
    made: dict[str, Any] = {}
    for one in program.given:
        if only and one.name != only:
            continue
        if isinstance(one, Packed):
            made[one.name] = make_weight(one, [program.call.seed, _number(one.name)])
        if isinstance(one, Net):
            made[one.name] = make_net(one, program.call.seed + _number(one.name))
    return made


def decoded(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return weights and modules as plain PyTorch has them."""
    return {name: w.dequantize() if isinstance(w, QuantTensor) else decoded_net(w) for name, w in weights.items()}


def bounded_weights(program: Program, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return weights and modules as values, and functions of values, with error bounds."""
    nets = {one.name: one for one in program.given if isinstance(one, Net)}
    numerics = numerics_named(program.call.numerics)
    return {
        name: BoundedNet(nets[name], w, numerics) if name in nets else constant(w, numerics)
        for name, w in weights.items()
    }


def bounded_tensors(program: Program, tensors: Mapping[str, torch.Tensor]) -> dict[str, Bounded]:
    """Return tensors as values with error bounds, where they lie in memory; one that is given twice is one value."""
    made: dict[str, Bounded] = {}
    for one in program.given:
        if isinstance(one, Plain):
            x = tensors[one.name].detach()
            flat = torch.as_strided(x, (x.untyped_storage().nbytes() // x.element_size(),), (1,), 0)
            made[one.name] = exact(flat.double().as_strided(x.shape, x.stride(), x.storage_offset()), x.dtype)
            made[one.name].past = Past() if one.grad else None
        if isinstance(one, Same):
            made[one.name] = made[one.of]
    return made


def _number(name: str) -> int:
    """Return a number for a name: a simpler program's values stay those of the program that it comes from."""
    return zlib.crc32(name.encode())


def make_weight(packed: Packed, seed: Sequence[int]) -> QuantTensor:
    """Return a quantised weight of about 1 / sqrt(K), of one sign where its format has no other."""
    n, k = packed.shape
    code = parse_format(packed.format)
    raw = np.random.default_rng(seed).standard_normal((n, k)) / math.sqrt(k)
    if not code.zero and (code.code.low == 0 or code.code.high == 0):
        raw = np.abs(raw) * (1 if code.code.low == 0 else -1)
    kind = KINDS[packed.dtype]
    w = quantize(torch.from_numpy(raw).to(torch.float32 if kind == torch.float64 else kind), packed.format)
    return w if w.dtype == kind else w.replace(dtype=kind)


def _tensor(plain: Plain, shape: tuple[int, ...], seed: Sequence[int]) -> torch.Tensor:
    kind = KINDS[plain.dtype]
    rng = np.random.default_rng(seed)
    offset, strides = laid_out(plain.layout, shape)
    last = offset + sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True) if extent > 1)
    memory = torch.full((last + 3,), 77, dtype=kind)  # between the elements lies what nobody may read or change
    x = memory.as_strided(shape, strides, offset)
    if 0 in shape:
        return x.requires_grad_(plain.grad)
    if plain.dtype == "i64":
        drawn = torch.from_numpy(rng.integers(0, TOKENS, shape))
    else:
        drawn = torch.from_numpy(np.asarray(_values(rng, shape, plain.values)))
    once = tuple(slice(0, 1) if not stride else slice(None) for stride in strides)  # what is repeated
    x[once] = drawn[once].to(kind)
    return x.requires_grad_(plain.grad)


def _values(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    raw = np.asarray(rng.standard_normal(shape))
    match kind:
        case "huge":
            return raw * 2.0**6
        case "tiny":
            return raw * 2.0**-10
        case "zeros":
            return raw * 0.0
        case "blank":  # some rows are zero, as padding is
            return raw * (rng.integers(0, 2, (*shape[:-1], 1)) if shape else 1)
        case "powers":
            return np.ldexp(rng.choice([-1.0, 1.0], shape), rng.integers(-6, 7, shape))
        case "nan" | "inf":
            if raw.size:
                raw.flat[int(rng.integers(raw.size))] = np.nan if kind == "nan" else rng.choice([-np.inf, np.inf])
            return raw
        case _:
            return raw


def laid_out(layout: str, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """Return offset and strides of a tensor.

    >>> laid_out("gap", (3, 4)), laid_out("turned", (3, 4)), laid_out("repeated", (3, 4))
    ((0, (7, 1)), (0, (1, 3)), (0, (0, 1)))
    """
    axes = list(range(len(shape)))
    match layout:
        case "turned":
            return 0, _dense(shape, [*axes[:-2], *reversed(axes[-2:])])
        case "reversed":
            return 0, _dense(shape, axes[::-1])
        case "repeated":
            return 0, tuple(0 if at == 0 else stride for at, stride in enumerate(_dense(shape, axes)))
        case "gap":
            return 0, _dense(shape, axes, 3)
        case "step":
            return 1, tuple(2 * stride for stride in _dense(shape, axes))
        case "odd":
            return 0, tuple(FAR if n == 1 else s for n, s in zip(shape, _dense(shape, axes), strict=True))
        case "offset":
            return 5, _dense(shape, axes)
        case _:
            return 0, _dense(shape, axes)


def _dense(shape: tuple[int, ...], order: Sequence[int], gap: int = 0) -> tuple[int, ...]:
    """Return strides with axes in this order, the last one closest, and a gap behind each run of that."""
    strides, step = [1] * len(shape), 1
    for at, axis in enumerate(reversed(order)):
        strides[axis] = step
        step *= max(shape[axis], 1)
        step += gap if not at else 0
    return tuple(strides)
