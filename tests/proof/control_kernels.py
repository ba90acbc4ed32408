"""Controls: what every checker must refuse, and what it must let pass, as callables with `out`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from bench.gpu_run import Runner
from gridstone.ir.dtype import DTYPES, Values, round_to
from gridstone.ir.format import Quantized, dequantize
from gridstone.ir.spec import Spec
from gridstone.ir.storage import pack, storage, unpack
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache.toolchain_library import library_call
from gridstone.proof.operands import to_tensor, to_values
from tests.proof.half_sums import in_turn

Call = Callable[..., torch.Tensor]
NEIGHBOUR, ALL_NEIGHBOURS, ONE = "a scale is its neighbour's", "a group has its neighbour's scales", "a scale is 1"
FAULTS: dict[str, Callable[[torch.Tensor], object]] = {
    "zeros": lambda y: y.zero_(),
    "rows shifted by one": lambda y: y.copy_(y.roll(1, 0)),
    "columns shifted by one": lambda y: y.copy_(y.roll(1, 1)),
    "NaN in one element": lambda y: y[-1:, 17].fill_(float("nan")),
    NEIGHBOUR: lambda y: None,
    ALL_NEIGHBOURS: lambda y: None,
    ONE: lambda y: None,
}


def any_rows(spec: Spec) -> Call:
    """The library's call, for any number of rows."""

    def call(*tensors, out):
        rows = replace(spec.inputs[0].type, shape=tuple(tensors[0].shape))
        return library_call(replace(spec, inputs=(replace(spec.inputs[0], type=rows), *spec.inputs[1:])))(
            *tensors, out=out
        )

    return call


def spoiled(kernel: Call, spec: Spec, fault: str) -> Call:
    """A kernel with one of `FAULTS`: it reads another weight than it is given, or its output is changed."""

    def call(*tensors, out):
        if fault in (NEIGHBOUR, ALL_NEIGHBOURS, ONE):
            tensors = (tensors[0], _reread(spec, tensors[1], fault), *tensors[2:])
        kernel(*tensors, out=out)
        FAULTS[fault](out)
        return out

    return call


def _parts(spec: Spec, packed: torch.Tensor) -> Quantized:
    kind = spec.input("w")
    assert kind.format is not None
    return unpack(storage(kind.storage, kind.format, *kind.shape), packed.numpy())


def _reread(spec: Spec, packed: torch.Tensor, fault: str) -> torch.Tensor:
    """A packed weight as a kernel reads it that drops a scale."""
    parts, kind = _parts(spec, packed), spec.input("w")
    assert kind.format is not None
    scales, (n, groups) = parts.scales.copy(), parts.scales.shape
    # One scale a row has its neighbour in the next row.
    other = np.roll(parts.scales, -1, axis=1 if groups > 1 else 0)
    match fault:
        case "a scale is its neighbour's":
            scales[n // 2, groups // 2] = other[n // 2, groups // 2]
        case "a group has its neighbour's scales":
            scales[:, groups // 2] = other[:, groups // 2]
        case _:
            scales[n // 2, groups // 2] = 1.0
    return torch.from_numpy(pack(storage(kind.storage, kind.format, *kind.shape), replace(parts, scales=scales)))


def decoded(spec: Spec, tensors: tuple[torch.Tensor, ...]) -> dict[str, Values]:
    """The values that tensors stand for, by operand."""
    names = [operand.name for operand in (*spec.inputs, *spec.extra_operands)]
    values = {name: to_values(tensor) for name, tensor in zip(names, tensors, strict=True)}
    if spec.input("w").format is not None:
        values["w"] = dequantize(spec.input("w").format, _parts(spec, tensors[1]))
    return values


def rounded_once(spec: Spec) -> Call:
    """The reference, rounded to the output's dtype: no kernel is better."""

    def call(*tensors, out):
        dtype = spec.output.dtype
        return out.copy_(to_tensor(dtype, round_to(dtype, spec.op.reference(spec, decoded(spec, tensors)))))

    return call


def added_in_half(spec: Spec) -> Call:
    """The product with a float16 accumulator, one term after the other, and then everything as it should be."""

    def call(*tensors, out):
        values = decoded(spec, tensors)
        terms = values["x"][:, None] * round_to(spec.input("x").dtype, values["w"])[None]
        y = in_turn(terms).astype(np.float64)
        after = spec.op.reference(spec, values) - values["x"] @ values["w"].T + y
        return out.copy_(to_tensor(spec.output.dtype, round_to(spec.output.dtype, after)))

    return call


def runner() -> Runner:
    """What answers in the worker of `bench.gpu --check`: the library's call, but zeros where there are zero points."""

    def bind(kernel, spec):
        call = any_rows(spec)
        return spoiled(call, spec, "zeros") if ":zero" in kernel.spec else call

    return Runner("cpu", bind, lambda: True)


def combinations() -> list[str]:
    """Specs of every epilogue with every dtype of activations, and with formats that go round."""
    epilogues = ("", " + bias", " + residual", " + scale(0.37)", " + relu", " + silu", " + gelu", " + gelu_tanh",
                 " + bias + gelu + residual:f32", " + residual + relu + bias")  # fmt: skip
    formats = ("int4:g32", "uint4:g16:bf16:zero", "int8:channel:f32", "uint8:g64:zero", "int2:g32:f32", "int3:g16")
    casts = (*("f32", "bf16", "f16"), "")
    texts = [
        f"gemm[x: {x}(9,128), w: {{}}(40,128)]{epilogue}" + (f" -> {cast}(9,40)" if cast else "")
        for x in ("f32", "bf16", "f16")
        for epilogue in epilogues
        for cast in casts
        if cast != x
    ]
    return [text.format(formats[at % len(formats)]) for at, text in enumerate(texts)]


def resolved(text: str, place: str = "lane16") -> Spec:
    spec = parse_spec(text).with_storage(place)
    assert spec.output.dtype in DTYPES.values()
    return spec
