"""QuantTensor: a packed low-bit weight that stands where a float matrix stood."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NoReturn

import torch

from gridstone.after_torch import rebuild_quant_tensor
from gridstone.ir.errors import FormatError
from gridstone.ir.format import Quantized, parse_format
from gridstone.ir.storage import Storage, pack, storage, unpack
from gridstone.kernel_cache.decode import decode_storage
from gridstone.runtime.axes import PLAIN, Axes, extents, is_transposed
from gridstone.runtime.copies import COPIES, check_dtype, float_into_packed
from gridstone.runtime.products import PRODUCTS, undefined
from gridstone.runtime.views import VIEWS

HANDLERS = {**PRODUCTS, **VIEWS, **COPIES}


@lru_cache(maxsize=4096)
def _place(name: str, fmt: str, n: int, k: int) -> Storage:
    return storage(name, parse_format(fmt), n, k)


class QuantTensor(torch.Tensor):
    """A quantised (N, K) weight, or a view of one.

    It has the shape and the dtype of the matrix that it stands for and holds only its packed bytes. Linear layers and
    products (`F.linear`, `@`, `addmm`, `mv`, `bmm`, `einsum` of two operands) run Gridstone's kernels;
    `.dequantize()` gives the decoded matrix; anything else is refused with that remedy, because a silent copy in float
    would cost what quantising saved. Codes are not trained: it never requires a gradient, whoever asks.

    Args:
        packed: uint8 buffer, as `ir.storage.pack` makes it.
        format: Text form of the format.
        storage_name: Name of the storage.
        n, k: Shape of the stored matrix.
        dtype: Dtype of the matrix that it stands for.
        axes: Which view of the stored matrix it is, as in `runtime.axes`: (N, K) unless told.

    Raises:
        FormatError: The dtype is not float32, bfloat16, float16 or float64.
    """

    packed: torch.Tensor
    format: str
    storage_name: str
    n: int
    k: int
    axes: Axes
    transposed: bool
    is_plain: bool
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
        axes: Axes = PLAIN,
    ) -> QuantTensor:
        """Wrap a packed buffer, without a copy."""
        check_dtype(dtype)
        self = torch.Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls, extents(axes, n, k), dtype=dtype, device=packed.device, requires_grad=False
        )
        self.packed, self.format, self.storage_name, self.n, self.k = packed, format, storage_name, n, k
        self.axes, self.transposed, self.is_plain = axes, is_transposed(axes), axes == PLAIN
        self.key = f"{format}@{storage_name}({n},{k})"
        self.calls = {}
        return self

    def __tensor_flatten__(self) -> tuple[list[str], tuple[Any, ...]]:
        return ["packed"], (self.format, self.storage_name, self.n, self.k, self.dtype, self.axes)

    @staticmethod
    def __tensor_unflatten__(
        inner: dict[str, torch.Tensor], context: tuple[Any, ...], outer_size: object, outer_stride: object
    ) -> QuantTensor:
        return QuantTensor(inner["packed"], *context)

    def _stable_hash_for_caching(self) -> str:
        """Return what torch's cache of compiled graphs knows a tensor by: everything but its values."""
        packed = self.packed
        known = (
            *self.__tensor_flatten__()[1],
            tuple(packed.shape),
            packed.stride(),
            packed.dtype,
            packed.device,
            self.requires_grad,
        )
        return hashlib.blake2b(repr(known).encode(), digest_size=16).hexdigest()

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
        names = ("format", "storage_name", "n", "k", "dtype", "axes")
        context = {name: changes.get(name, getattr(self, name)) for name in names}
        with torch.inference_mode(False):  # a wrapper holds no values: it needs no inference tensor's savings
            return QuantTensor(self.packed if packed is None else packed, **context)

    def dequantize(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return the decoded matrix, in its own dtype unless another is asked for.

        Args:
            dtype: float32, bfloat16, float16 or float64.

        Raises:
            FormatError: Another dtype: rounding to integers would lose the scales.

        >>> import gridstone, torch
        >>> w = torch.randn(64, 128)
        >>> bool(((gridstone.quantize(w, "int8").dequantize() - w).abs() < 0.05).all())
        True
        """
        decoded = decode_storage(self.place, self.packed, check_dtype(self.dtype if dtype is None else dtype))
        decoded = decoded.contiguous()  # rows may come padded
        decoded = decoded.t() if self.transposed else decoded
        for at, axis in enumerate(self.axes):
            decoded = decoded.unsqueeze(at) if axis >= 0 else decoded
        return decoded.expand(self.shape)

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
        handler = HANDLERS.get(func)
        if handler is not None:
            return handler(func, *args, **(kwargs or {}))
        # Outside of inference mode torch takes composite operators (`to`, `reshape`, `einsum`) apart before they come
        # here; inside it leaves that to us.
        result = func.decompose(*args, **(kwargs or {}))
        if result is NotImplemented:
            raise undefined(func)
        return result

    # What torch does on a tensor's memory without asking `__torch_dispatch__`: there is none, so it would crash.

    def share_memory_(self) -> QuantTensor:
        """Move the packed bytes to shared memory."""
        self.packed.share_memory_()
        return self

    def is_shared(self) -> bool:
        """Whether the packed bytes lie in shared memory."""
        return self.packed.is_shared()

    def apply_(self, callable: object) -> NoReturn:
        """Refuse: codes are not changed element by element."""
        raise FormatError("a quantised weight cannot be changed element by element", "change .dequantize() of it")

    def __dlpack__(self, *args: object, **kwargs: object) -> NoReturn:
        raise FormatError("a quantised weight cannot be exported through DLPack", "export .packed, or .dequantize() it")

    # Codes have no gradient. `nn.Parameter` and `load_state_dict(assign=True)` ask for one unasked: they get none.

    def requires_grad_(self, mode: bool = True) -> QuantTensor:
        """Return it as it is, without a gradient."""
        return self

    def _get_requires_grad(self) -> bool:
        return torch.Tensor.requires_grad.__get__(self)  # pyright: ignore[reportAttributeAccessIssue]

    def _set_requires_grad(self, mode: bool) -> None:
        if mode:
            raise FormatError("a quantised weight has no gradient", "train the parameters that are not quantised")

    requires_grad = property(_get_requires_grad, _set_requires_grad)  # pyright: ignore[reportAssignmentType]

    # `.data = ...` swaps the memory behind torch's back, and would leave the packed bytes as they were.

    def _get_data(self) -> torch.Tensor:
        return torch.Tensor.data.__get__(self)  # pyright: ignore[reportAttributeAccessIssue]

    def _set_data(self, source: torch.Tensor) -> None:
        if not isinstance(source, QuantTensor):
            raise float_into_packed()
        torch.Tensor.data.__set__(self, source)  # pyright: ignore[reportAttributeAccessIssue]
        self.packed, self.format, self.storage_name = source.packed, source.format, source.storage_name
        self.n, self.k, self.key, self.calls = source.n, source.k, source.key, {}
        self.axes, self.transposed, self.is_plain = source.axes, source.transposed, source.is_plain

    data = property(_get_data, _set_data)  # pyright: ignore[reportAssignmentType,reportIncompatibleMethodOverride]
