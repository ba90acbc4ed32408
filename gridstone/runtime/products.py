"""Products with packed weights: what ATen's linear operators do when one operand is a QuantTensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from gridstone.ir.errors import FormatError, SpecError
from gridstone.runtime import encoder, registration  # the ops must exist before a tensor dispatches to them
from gridstone.runtime.axes import COLUMNS, ROWS, viewed

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from gridstone.runtime.tensors import QuantTensor

aten = torch.ops.aten
Handler = Callable[..., Any]


def is_packed(operand: Any) -> TypeIs[QuantTensor]:
    """Whether an operand is a QuantTensor, told by its bytes: that class is built on this file."""
    return hasattr(operand, "packed")


def undefined(func: Any) -> FormatError:
    """Return the error for what would need a float copy."""
    return FormatError(
        f"{func} is not defined on a quantised weight", "call .dequantize() first if a float copy is meant"
    )


def _check_product(x: torch.Tensor, w: QuantTensor, name: str, inner: int) -> None:
    """Refuse what torch would refuse of a product with a plain matrix of the same shape and dtype."""
    if x.dim() == 0 or x.shape[-1] != inner:
        raise SpecError(
            f"x of {tuple(x.shape)} cannot be multiplied with a weight of {name}={inner}", "check the last extent"
        )
    if not x.dtype.is_floating_point:
        raise SpecError(f"gemm takes floating-point activations, not {x.dtype}", "cast x to f32, bf16 or f16")
    if x.dtype != w.dtype:
        remedy = "call .to(x.dtype) on the weight, or cast x; gridstone.linear takes either as it is"
        raise SpecError(f"x is {x.dtype}, the weight stands for {w.dtype}", remedy)


def _along_k(x: torch.Tensor, w: QuantTensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x @ stored.T + bias: the product of a linear layer, for an x of any rank."""
    _check_product(x, w, "K", w.k)
    return torch.ops.gridstone.linear(x, w.packed, bias, None, w.call_key("", "exact"))


def _along_n(x: torch.Tensor, w: QuantTensor) -> torch.Tensor:
    """x @ stored: the product of its gradient."""
    _check_product(x, w, "N", w.n)
    return torch.ops.gridstone.linear_grad(x, w.packed, w.call_key("", "exact"))


def _times(x: torch.Tensor, w: QuantTensor) -> torch.Tensor:
    """x @ w, for the matrix w or a batch that repeats it."""
    return _along_k(x, w) if w.transposed else _along_n(x, w)


def _times_turned(x: torch.Tensor, w: QuantTensor) -> torch.Tensor:
    """x @ w.mT."""
    return _along_n(x, w) if w.transposed else _along_k(x, w)


def _qlinear(
    func: Any,
    x: torch.Tensor,
    w: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    activation: str,
    numerics: str,
) -> torch.Tensor:
    if not is_packed(w):
        raise FormatError("the weight of gridstone::qlinear is not quantised", "quantise it with gridstone.quantize")
    key = w.call_key(activation, numerics)
    if w.is_plain:
        return torch.ops.gridstone.linear(x, w.packed, bias, residual, key)
    if w.dim() != 2 or bias is not None or residual is not None or activation:
        raise FormatError("gridstone::qlinear takes a transposed weight for a bare product only", "pass w.t()")
    return torch.ops.gridstone.linear_grad(x, w.packed, key)


def _mm(func: Any, a: Any, b: Any) -> torch.Tensor:
    if is_packed(a) and is_packed(b):
        raise FormatError("two quantised matrices cannot be multiplied", "call .dequantize() on one of them")
    if a.dim() != 2 or b.dim() != 2:
        raise SpecError(f"{func} of {tuple(a.shape)} and {tuple(b.shape)}: both must be matrices", "use @ for batches")
    if is_packed(b):
        return _times(a, b)
    return _times_turned(b.t(), a).t().contiguous()


def _mv(func: Any, w: Any, v: Any) -> torch.Tensor:
    if not is_packed(w) or w.dim() != 2 or v.dim() != 1:
        raise undefined(func)
    return _times_turned(v, w)


def _bmm(func: Any, a: Any, b: Any) -> torch.Tensor:
    """A packed operand repeats one matrix along the batch; any other view of it is no product with that matrix."""
    w, x = (b, a) if is_packed(b) else (a, b)
    axes = viewed(w.axes, w.n, w.k, w.shape) if is_packed(w) else None  # an own axis of extent 1 is no batch
    if axes is None or is_packed(x) or w.dim() != 3 or x.dim() != 3 or axes[0] < 0:
        raise undefined(func)
    if a.shape[0] != b.shape[0]:
        raise SpecError(f"a batch of {a.shape[0]} cannot be multiplied with one of {b.shape[0]}", "expand one of them")
    if w is b:
        return _times(x, w.replace(axes=axes))
    return _times_turned(x.transpose(1, 2), w.replace(axes=axes)).transpose(1, 2).contiguous()


def _addmm(func: Any, bias: torch.Tensor, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> torch.Tensor:
    fits = is_packed(b) and b.axes == (COLUMNS, ROWS) and bias.shape == (b.n,)
    if fits and (beta, alpha) == (1, 1) and a.dim() == 2 and not is_packed(a):
        _check_added(bias, a)
        return _along_k(a, b, bias)
    return _added(_mm, func, bias, a, b, beta, alpha)


def _addmv(func: Any, bias: torch.Tensor, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> torch.Tensor:
    return _added(_mv, func, bias, a, b, beta, alpha)


def _baddbmm(func: Any, bias: torch.Tensor, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> torch.Tensor:
    return _added(_bmm, func, bias, a, b, beta, alpha)


def _added(product: Handler, func: Any, bias: torch.Tensor, a: Any, b: Any, beta: float, alpha: float) -> torch.Tensor:
    """beta * bias + alpha * (a @ b), where a factor of zero leaves out even what is not finite, as in torch."""
    y = product(func, a, b)
    _check_added(bias, y)
    bias = bias.expand(y.shape)
    y = torch.zeros_like(y) if alpha == 0 else y if alpha == 1 else alpha * y
    return y if beta == 0 else y + (bias if beta == 1 else beta * bias)


def _check_added(bias: torch.Tensor, like: torch.Tensor) -> None:
    if bias.dtype != like.dtype:
        raise SpecError(f"{bias.dtype} cannot be added to a product of {like.dtype}", "cast the bias, or x and weight")


def _linear(func: Any, x: torch.Tensor, w: Any, bias: torch.Tensor | None = None) -> Any:
    if not is_packed(w) or w.dim() != 2 or is_packed(x) or x.is_nested:
        raise undefined(func)
    if bias is not None:
        _check_added(bias, x)
    if w.is_plain and (bias is None or bias.shape == (w.n,)):
        return _along_k(x, w, bias)
    y = _times_turned(x, w)
    return y if bias is None else y + bias


PRODUCTS: dict[Any, Handler] = {
    aten.mm.default: _mm,
    aten.mv.default: _mv,
    aten.bmm.default: _bmm,
    aten.addmm.default: _addmm,
    aten.addmv.default: _addmv,
    aten.baddbmm.default: _baddbmm,
    aten.linear.default: _linear,
    registration.QLINEAR: _qlinear,
    aten._transformer_encoder_layer_fwd.default: encoder.encoder_layer,
    aten._native_multi_head_attention.default: encoder.self_attention,
}
