"""QuantTensor: a packed low-bit weight that stands where a float matrix stood."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch

from gridstone.after_torch import rebuild_quant_tensor
from gridstone.ir.errors import FormatError
from gridstone.ir.format import Quantized, parse_format
from gridstone.ir.storage import Storage, pack, storage, unpack
from gridstone.kernel_cache.decode import decode_storage
from gridstone.runtime import registration  # the ops must exist before a tensor dispatches to them

aten = torch.ops.aten
Handler = Callable[..., Any]


@lru_cache(maxsize=4096)
def _place(name: str, fmt: str, n: int, k: int) -> Storage:
    return storage(name, parse_format(fmt), n, k)


class QuantTensor(torch.Tensor):
    """A quantised (N, K) weight, or the transpose of one.

    It has the shape and the dtype of the matrix that it stands for and holds only its packed bytes. `F.linear`, `@`
    and `addmm` run Gridstone's kernels; `.dequantize()` gives the decoded matrix; anything else is refused with that
    remedy, because a silent copy in float would cost what quantising saved.

    Args:
        packed: uint8 buffer, as `ir.storage.pack` makes it.
        format: Text form of the format.
        storage_name: Name of the storage.
        n, k: Shape of the stored matrix.
        dtype: Dtype of the matrix that it stands for.
        transposed: Whether it stands for the (K, N) transpose.
        lead: Leading extents over which the matrix is repeated, as torch repeats it for a product with an x of more
            than two dimensions whose rows do not follow each other; empty otherwise.
    """

    packed: torch.Tensor
    format: str
    storage_name: str
    n: int
    k: int
    transposed: bool
    lead: tuple[int, ...]
    key: str
    calls: dict[tuple[str, str], str]

    @staticmethod
    def __new__(
        cls: type[QuantTensor],
        packed: torch.Tensor,
        format: str,
        storage_name: str,
        n: int,
        k: int,
        dtype: torch.dtype,
        transposed: bool = False,
        lead: tuple[int, ...] = (),
    ) -> QuantTensor:
        """Wrap a packed buffer, without a copy."""
        shape = (*lead, k, n) if transposed else (*lead, n, k)
        self = torch.Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls, shape, dtype=dtype, device=packed.device, requires_grad=False
        )
        self.packed, self.format, self.storage_name = packed, format, storage_name
        self.n, self.k, self.transposed, self.lead = n, k, transposed, lead
        self.key = f"{format}@{storage_name}({n},{k})"
        self.calls = {}
        return self

    def __tensor_flatten__(self) -> tuple[list[str], tuple[Any, ...]]:
        fields = (self.format, self.storage_name, self.n, self.k, self.dtype, self.transposed)
        return ["packed"], (*fields, self.lead) if self.lead else fields

    @staticmethod
    def __tensor_unflatten__(
        inner: dict[str, torch.Tensor], context: tuple[Any, ...], outer_size: object, outer_stride: object
    ) -> QuantTensor:
        return QuantTensor(inner["packed"], *context)

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        _, context = self.__tensor_flatten__()
        return rebuild_quant_tensor, (isinstance(self, torch.nn.Parameter), self.packed, *context)

    def __repr__(self, *, tensor_contents: object = None) -> str:
        size = f"{self.packed.numel()} bytes"
        return f"QuantTensor({self.format}, shape={tuple(self.shape)}, dtype={self.dtype}, {size} {self.storage_name})"

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    def call_key(self, activation: str, numerics: str) -> str:
        """Return the key of a `gridstone::linear` call on this weight, made once."""
        key = self.calls.get((activation, numerics))
        if key is None:
            key = self.calls[activation, numerics] = f"{self.key}|{activation}|{numerics}"
        return key

    @property
    def place(self) -> Storage:
        """Where the bits lie."""
        return _place(self.storage_name, self.format, self.n, self.k)

    def replace(self, packed: torch.Tensor | None = None, **changes: Any) -> QuantTensor:
        """Return one with another buffer or other fields."""
        names = ("format", "storage_name", "n", "k", "dtype", "transposed", "lead")
        context = {name: changes.get(name, getattr(self, name)) for name in names}
        with torch.inference_mode(False):  # a wrapper holds no values: it needs no inference tensor's savings
            return QuantTensor(self.packed if packed is None else packed, **context)

    def dequantize(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return the decoded matrix, in its own dtype unless another is asked for.

        >>> import gridstone, torch
        >>> w = torch.randn(64, 128)
        >>> bool(((gridstone.quantize(w, "int8").dequantize() - w).abs() < 0.05).all())
        True
        """
        decoded = decode_storage(self.place, self.packed, dtype or self.dtype)
        return decoded.t() if self.transposed else decoded

    def parts(self) -> Quantized:
        """Return the unpacked codes, scales and zero points."""
        return unpack(self.place, self.packed.cpu().numpy())

    @classmethod
    def from_parts(cls, parts: Quantized, fmt: str, storage_name: str, dtype: torch.dtype) -> QuantTensor:
        """Pack parts that were quantised elsewhere."""
        n, k = parts.codes.shape
        place = _place(storage_name, fmt, n, k)
        return cls(torch.from_numpy(pack(place, parts)), str(place.format), storage_name, n, k, dtype)

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        handler = _HANDLERS.get(func)
        if handler is None:
            raise _undefined(func)
        return handler(func, *args, **(kwargs or {}))


def _undefined(func: Any) -> FormatError:
    return FormatError(
        f"{func} is not defined on a quantised weight", "call .dequantize() first if a float copy is meant"
    )


def _linear(x: torch.Tensor, w: QuantTensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x @ stored.T + bias, or x @ stored for a weight that is not transposed (the gradient's product)."""
    if x.shape[-1] != w.k:
        raise FormatError(
            f"x of {tuple(x.shape)} cannot be multiplied with a weight of K={w.k}", "check the last extent"
        )
    return torch.ops.gridstone.linear(x, w.packed, bias, None, w.call_key("", "exact"))


def _times_stored(g: torch.Tensor, w: QuantTensor) -> torch.Tensor:
    return torch.ops.gridstone.linear_grad(g, w.packed, w.call_key("", "exact"))


def _qlinear(
    func: Any,
    x: torch.Tensor,
    w: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    activation: str,
    numerics: str,
) -> torch.Tensor:
    if not isinstance(w, QuantTensor):
        raise FormatError("the weight of gridstone::qlinear is not quantised", "quantise it with gridstone.quantize")
    if w.transposed:
        raise FormatError("gridstone::qlinear takes a weight of (N, K), not its transpose", "pass w.t()")
    return torch.ops.gridstone.linear(x, w.packed, bias, residual, w.call_key(activation, numerics))


def _mm(func: Any, a: Any, b: Any) -> torch.Tensor:
    if isinstance(b, QuantTensor):
        if isinstance(a, QuantTensor):
            raise FormatError("two quantised matrices cannot be multiplied", "call .dequantize() on one of them")
        return _linear(a, b) if b.transposed else _times_stored(a, b)
    return _times_stored(b.t(), a).t() if a.transposed else _linear(b.t(), a).t()


def _addmm(func: Any, bias: torch.Tensor, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> torch.Tensor:
    if isinstance(b, QuantTensor) and b.transposed and beta == 1 and alpha == 1 and bias.dim() == 1:
        return _linear(a, b, bias)
    return beta * bias + alpha * _mm(func, a, b)


def _linear_op(func: Any, x: torch.Tensor, w: QuantTensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    if w.transposed:
        y = _times_stored(x.reshape(-1, w.n), w).reshape(*x.shape[:-1], w.k)
        return y if bias is None else y + bias
    return _linear(x, w, bias)


def _matmul(func: Any, a: Any, b: Any) -> torch.Tensor:
    if isinstance(b, QuantTensor) and not isinstance(a, QuantTensor) and a.dim() != 2:
        flat = a.reshape(-1, a.shape[-1])
        return _mm(func, flat, b).reshape(*a.shape[:-1], b.shape[-1])
    return _mm(func, a, b)


def _bmm(func: Any, a: Any, b: Any) -> torch.Tensor:
    if isinstance(b, QuantTensor) and not isinstance(a, QuantTensor):
        return _matmul(func, a, b.replace(lead=()))
    raise _undefined(func)


def _transpose(func: Any, w: QuantTensor, *dims: int) -> QuantTensor:
    rank = w.dim()
    swapped = sorted(d % rank for d in dims) or [rank - 2, rank - 1]
    if swapped[0] == swapped[1]:
        return w.replace()
    if swapped != [rank - 2, rank - 1]:
        raise _undefined(func)
    return w.replace(transposed=not w.transposed)


def _permute(func: Any, w: QuantTensor, dims: Sequence[int]) -> QuantTensor:
    order, rank = [d % w.dim() for d in dims], w.dim()
    if order[:-2] != list(range(rank - 2)):
        raise _undefined(func)
    return w.replace() if order[-2] < order[-1] else _transpose(func, w)


def _expand(func: Any, w: QuantTensor, size: Sequence[int], **_: object) -> QuantTensor:
    if w.lead or any(want not in (-1, have) for want, have in zip(size[-2:], w.shape, strict=True)):
        raise _undefined(func)
    return w.replace(lead=tuple(size[:-2]))


def _view(func: Any, w: QuantTensor, size: Sequence[int]) -> QuantTensor:
    """Only the leading extents may change."""
    if len(size) < 2 or tuple(size[-2:]) != tuple(w.shape[-2:]) or -1 in size:
        raise _undefined(func)
    return w.replace(lead=tuple(size[:-2]))


def _to_copy(func: Any, w: QuantTensor, *, dtype: torch.dtype | None = None, **kwargs: Any) -> QuantTensor:
    if dtype is not None and not dtype.is_floating_point:
        raise FormatError(f"a quantised weight cannot stand for {dtype}", "use a floating-point dtype")
    moved = {name: value for name, value in kwargs.items() if name in ("device", "non_blocking")}
    return w.replace(func(w.packed, **moved), dtype=dtype or w.dtype)


def _same(func: Any, w: QuantTensor, *args: Any, **kwargs: Any) -> QuantTensor:
    return w.replace(func(w.packed, *args, **kwargs))


def _copy(func: Any, target: Any, source: Any, *args: Any, **kwargs: Any) -> Any:
    if (
        isinstance(target, QuantTensor)
        and isinstance(source, QuantTensor)
        and target.key == source.key
        and (target.transposed == source.transposed)
    ):
        target.packed.copy_(source.packed)
        return target
    if isinstance(source, QuantTensor):
        raise FormatError(
            f"a quantised weight ({source.format}) cannot be copied into a plain tensor: it would decode in silence",
            "use load_state_dict(..., assign=True), or .dequantize() it first",
        )
    raise FormatError("a float tensor cannot be copied into a quantised weight", "quantise it with gridstone.quantize")


def _equal(func: Any, a: Any, b: Any) -> bool:
    both = isinstance(a, QuantTensor) and isinstance(b, QuantTensor)
    return both and a.key == b.key and a.transposed == b.transposed and torch.equal(a.packed, b.packed)


_HANDLERS: dict[Any, Handler] = {
    aten.mm.default: _mm,
    aten.matmul.default: _matmul,
    aten.addmm.default: _addmm,
    aten.linear.default: _linear_op,
    aten.t.default: _transpose,
    aten.transpose.int: _transpose,
    aten.permute.default: _permute,
    aten.numpy_T.default: _transpose,
    aten._to_copy.default: _to_copy,
    aten.clone.default: _same,
    aten.detach.default: _same,
    aten.alias.default: _same,
    aten.view.default: _view,
    aten._unsafe_view.default: _view,
    aten.expand.default: _expand,
    aten.bmm.default: _bmm,
    aten.copy_.default: _copy,
    aten.equal.default: _equal,
    registration.QLINEAR: _qlinear,
}
