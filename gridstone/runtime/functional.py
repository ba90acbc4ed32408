"""The functions that users call on tensors: quantize, linear."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from gridstone.ir.dtype import BY_TORCH
from gridstone.ir.epilogue import ACTIVATIONS
from gridstone.ir.errors import FormatError, SpecError, nearest
from gridstone.ir.format import CHANNEL, CODES, Format, parse_format
from gridstone.runtime.dispatch import run_linear
from gridstone.runtime.linear_key import numerics_named
from gridstone.runtime.quantizers.nearest import quantize_nearest
from gridstone.runtime.tensors import QuantTensor

NATIVE_STORAGE = "lane16"
PLAIN = (torch.Tensor, torch.nn.Parameter)
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def resolve_format(format: str, group_size: int, k: int, dtype: torch.dtype) -> Format:
    """Return the format that a user named: a full text form, or a bare code with the group size beside it.

    A bare code takes scales in the weight's own dtype.
    """
    head, _, rest = format.partition(":")
    if rest and rest != "zero":
        return parse_format(format)
    if head not in CODES:
        raise FormatError(f"unknown format {format!r}", nearest(head, CODES))
    group = CHANNEL if group_size == CHANNEL else group_size
    scale = BY_TORCH[str(dtype).removeprefix("torch.")]
    return Format(CODES[head], group, scale, rest == "zero")


def quantize(
    w: torch.Tensor,
    format: str,
    *,
    group_size: int = 128,
) -> QuantTensor:
    """Quantise a weight matrix by rounding to nearest and pack it for this machine.

    Args:
        w: (N, K) matrix of float32, bfloat16 or float16, finite; as in `torch.nn.Linear.weight`.
        format: A code (`int4`, `uint4:zero`, ...), or a whole format such as `uint4:g32:f32:zero`.
        group_size: Elements along K that share a scale, -1 for one scale per row; read when `format` does not say.

    Raises:
        FormatError: Unknown format, K not a multiple of the group, NaN or infinite weights, not a matrix.

    >>> w = quantize(torch.randn(64, 256), "int4")
    >>> w.shape, w.format
    (torch.Size([64, 256]), 'int4:g128:f32')
    """
    if isinstance(w, QuantTensor):
        raise FormatError(f"the weight is already quantised ({w.format})", "call .dequantize() first")
    if w.dim() != 2:
        raise FormatError(f"a weight of shape {tuple(w.shape)} is not a matrix", "flatten it to (N, K)")
    if w.dtype not in FLOATS:
        raise FormatError(f"weights of {w.dtype} cannot be quantised", "cast to float32, bfloat16 or float16")
    fmt = resolve_format(format, group_size, w.shape[1], w.dtype)
    parts = quantize_nearest(w, fmt)
    packed = QuantTensor.from_parts(parts, str(fmt), NATIVE_STORAGE, w.dtype)
    return packed.replace(packed.packed.to(w.device))


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

    Args:
        x: (..., K), float32, bfloat16 or float16.
        w: (N, K) `QuantTensor`, or a plain matrix of x's dtype, which runs as PyTorch would.
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
    if activation is not None and activation not in ACTIVATIONS:
        raise SpecError(f"unknown activation {activation!r}", nearest(activation, ACTIVATIONS))
    if not isinstance(w, QuantTensor):
        numerics_named(numerics)
        return _plain(x, w, bias, activation, residual)
    if w.transposed:
        raise SpecError(f"the weight is the transpose of a quantised matrix, {tuple(w.shape)}", "pass w.t()")
    name = activation or ""
    if torch.is_autocast_enabled("cpu") and x.is_cpu and x.dtype != torch.float64:
        lower = torch.get_autocast_dtype("cpu")
        x = x.to(lower)
        bias = None if bias is None else bias.to(lower)
        residual = None if residual is None else residual.to(lower)
    if (
        torch.compiler.is_compiling()
        or not (_is_direct(x) and _is_direct(bias) and _is_direct(residual))
        or (torch.is_grad_enabled() and _wants_grad(x, bias, residual))
    ):
        return torch.ops.gridstone.qlinear(x, w, bias, residual, name, numerics)
    return run_linear(x, w.packed, bias, residual, w.call_key(name, numerics))


def _is_direct(tensor: torch.Tensor | None) -> bool:
    """Whether a tensor's memory is its values, so that a kernel may read them; the dispatcher resolves all others."""
    return tensor is None or (type(tensor) in PLAIN and not tensor.is_neg())


def _wants_grad(*tensors: torch.Tensor | None) -> bool:
    return any(t is not None and t.requires_grad for t in tensors)


_FUNCTIONS = {"relu": F.relu, "silu": F.silu, "gelu": F.gelu}


def _plain(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, activation: str | None, residual: torch.Tensor | None
) -> torch.Tensor:
    y = F.linear(x, w, bias)
    if activation == "gelu_tanh":
        y = F.gelu(y, approximate="tanh")
    elif activation is not None:
        y = _FUNCTIONS[activation](y)
    return y if residual is None else y + residual
