"""The functions that users call on tensors: quantize, linear."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F

from gridstone.ir.dtype import BY_TORCH, DType, f32
from gridstone.ir.epilogue import ACTIVATIONS
from gridstone.ir.errors import FormatError, SpecError, nearest
from gridstone.ir.format import Format, complete_format
from gridstone.runtime.axes import COLUMNS, ROWS
from gridstone.runtime.dispatch import run_linear
from gridstone.runtime.linear_key import numerics_named
from gridstone.runtime.quantizers.nearest import quantize_nearest, refuse_non_finite
from gridstone.runtime.registration import ACTIVATIONS as TORCH_ACTIVATIONS
from gridstone.runtime.registration import in_steps, is_transformed
from gridstone.runtime.tensors import QuantTensor

NATIVE_STORAGE = "lane16"
MEMORY = (torch.Tensor, torch.nn.Parameter)
DEFAULT_GROUP = 128
TRANSPOSED = (COLUMNS, ROWS)
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_NAMES = ", ".join(sorted(ACTIVATIONS))


def quantize(
    w: torch.Tensor,
    format: str,
    *,
    group_size: int | None = None,
) -> QuantTensor:
    """Quantise a weight matrix by rounding to nearest and pack it for this machine.

    Args:
        w: (N, K) matrix of float32, bfloat16 or float16, finite; as in `torch.nn.Linear.weight`.
        format: A whole format such as `uint4:g32:f32:zero`, or one without its group (`int4`, `uint4:zero`), whose
            scales have the weight's dtype unless it names theirs; f32 where float16 cannot hold them.
        group_size: Elements along K that share a scale, -1 for one scale per row; 128 unless told here or by `format`.

    Raises:
        FormatError: Unknown format, K not a multiple of the group, NaN or infinite weights, not a matrix, a group size
            that is no integer or is not the one that `format` states.

    >>> w = quantize(torch.randn(64, 256), "int4")
    >>> w.shape, w.format
    (torch.Size([64, 256]), 'int4:g128:f32')
    """
    fmt = fitting_format(w, format, group_size)
    try:
        parts = quantize_nearest(w, fmt)
    except FormatError:
        wider = _format_of(format, group_size, f32)
        if fmt.scale == f32 or wider.scale != f32:  # nothing wider, or the user's own choice
            raise
        fmt, parts = wider, quantize_nearest(w, wider)
    packed = QuantTensor.from_parts(parts, str(fmt), NATIVE_STORAGE, w.dtype)
    return packed.replace(packed.packed.to(w.device))


def fitting_format(w: torch.Tensor, format: str, group_size: int | None) -> Format:
    """Return the format that `quantize` would give a weight; FormatError for one that it would refuse.

    Only the range of the scales is not looked at, which takes rounding.
    """
    if isinstance(w, QuantTensor):
        raise FormatError(f"the weight is already quantised ({w.format})", "call .dequantize() first")
    if not isinstance(w, torch.Tensor):
        raise FormatError(f"the weight is a {type(w).__name__}, not a tensor", "pass torch.as_tensor(w)")
    if w.dim() != 2:
        raise FormatError(f"a weight of shape {tuple(w.shape)} is not a matrix", "flatten it to (N, K)")
    if w.dtype not in FLOATS:
        raise FormatError(f"weights of {w.dtype} cannot be quantised", "cast to float32, bfloat16 or float16")
    if w.layout != torch.strided or w.is_meta:
        remedy = "load it first" if w.is_meta else "call .to_dense() first"
        raise FormatError(f"a {w.layout} weight on {w.device} has no values to round", remedy)
    fmt = _format_of(format, group_size, BY_TORCH[str(w.dtype).removeprefix("torch.")])
    fmt.check(*w.shape)
    refuse_non_finite(w)
    return fmt


def _format_of(format: str, group_size: int | None, scale: DType) -> Format:
    """Return the format that a user named, with a group size beside it or not."""
    if not isinstance(format, str):
        raise FormatError(f"the format is {format!r}, not a text", "write one such as 'int4:g128'")
    if group_size is None:
        return complete_format(format, DEFAULT_GROUP, scale)
    if isinstance(group_size, bool) or not hasattr(group_size, "__index__"):
        raise FormatError(f"group_size={group_size!r} is not an integer", "use 16, 32, 64, 128, 256, or -1")
    group = operator.index(group_size)
    fmt = complete_format(format, group, scale)
    if fmt.group != group:
        raise FormatError(f"format {format!r} and group_size={group} do not agree", "leave one of them out")
    return fmt


def linear(
    x: torch.Tensor,
    w: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    activation: str | None = None,
    residual: torch.Tensor | None = None,
    numerics: str = "exact",
) -> torch.Tensor:
    """Return activation(x @ w.T + bias) + residual, in x's dtype.

    It is differentiable along x, bias and residual, forwards and backwards and any number of times, and takes part in
    `torch.func` transforms; there its steps run one by one, each rounded to x's dtype as PyTorch does.

    Args:
        x: (..., K), float32, bfloat16 or float16; float64 runs through the library. Autocast casts it as a layer's.
        w: (N, K) `QuantTensor`, whatever dtype it stands for; or a plain matrix of x's dtype, which runs as PyTorch
            would.
        bias: (N,).
        activation: `relu`, `silu`, `gelu` (erf) or `gelu_tanh`.
        residual: (..., N).
        numerics: `exact`, or `bf16` to allow operands to be rounded to bfloat16.

    Raises:
        SpecError: Shapes, dtypes or devices do not fit together, or a name is unknown.

    >>> w = quantize(torch.randn(64, 128), "int8")
    >>> linear(torch.randn(2, 3, 128), w, activation="silu").shape
    torch.Size([2, 3, 64])
    """
    if activation is not None and not (isinstance(activation, str) and activation in ACTIVATIONS):
        remedy = nearest(activation, ACTIVATIONS) if isinstance(activation, str) else f"name one of {_NAMES}, or None"
        raise SpecError(f"unknown activation {activation!r}", remedy)
    if not isinstance(numerics, str):
        raise SpecError(f"numerics={numerics!r} is not the name of a class", "use exact or bf16")
    if torch.is_autocast_enabled("cpu"):
        x, bias, residual = _autocast(x), _autocast(bias), _autocast(residual)
    if not isinstance(w, QuantTensor):
        numerics_named(numerics)
        return _plain(x, w, bias, activation, residual)
    if not w.is_plain:
        what = "the transpose of a quantised matrix" if w.axes == TRANSPOSED else "a view of a quantised matrix"
        raise SpecError(f"the weight is {what}, {tuple(w.shape)}", "pass w.t()" if w.dim() == 2 else "pass the matrix")
    name = activation or ""
    if (
        torch.compiler.is_compiling()
        or not (_is_direct(x) and (bias is None or _is_direct(bias)) and (residual is None or _is_direct(residual)))
        or is_transformed()
    ):
        return _through_torch(x, w, bias, residual, name, numerics)
    if torch.is_grad_enabled() and (
        x.requires_grad
        or (bias is not None and bias.requires_grad)
        or (residual is not None and residual.requires_grad)
    ):
        return torch.ops.gridstone.qlinear(x, w, bias, residual, name, numerics)
    return run_linear(x, w.packed, bias, residual, w.call_key(name, numerics))


def _is_direct(tensor: torch.Tensor) -> bool:
    """Whether a tensor's memory is its values, so that a kernel may read them; the dispatcher resolves all others."""
    return type(tensor) in MEMORY and not tensor.is_neg()


def _autocast(tensor: Any) -> Any:
    """Cast an operand as autocast does those of `F.linear`: floating-point ones but float64."""
    if isinstance(tensor, torch.Tensor) and tensor.dtype in FLOATS and tensor.is_cpu:
        return tensor.to(torch.get_autocast_dtype("cpu"))
    return tensor


def _through_torch(
    x: torch.Tensor, w: QuantTensor, bias: torch.Tensor | None, residual: torch.Tensor | None, name: str, numerics: str
) -> torch.Tensor:
    """Compute what a kernel cannot be handed at once: traced, transformed, or no tensors at all."""
    for role, operand in (("x", x), ("bias", bias), ("residual", residual)):
        if not isinstance(operand, torch.Tensor) and (operand is not None or role == "x"):
            raise SpecError(f"{role} is a {type(operand).__name__}, not a tensor", f"pass torch.as_tensor({role})")
    if torch.compiler.is_compiling() or not is_transformed():
        return torch.ops.gridstone.qlinear(x, w, bias, residual, name, numerics)
    numerics_named(numerics)
    return in_steps(x, w if w.dtype == x.dtype else w.replace(dtype=x.dtype), bias, residual, name)


def _plain(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, activation: str | None, residual: torch.Tensor | None
) -> torch.Tensor:
    y = F.linear(x, w, bias)
    y = y if activation is None else TORCH_ACTIVATIONS[activation](y)
    if residual is None:
        return y
    z = y + residual
    return z.to(y.dtype) if z.is_floating_point() else z  # as with a packed weight: a wider residual widens nothing
