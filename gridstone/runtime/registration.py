"""The ops that Gridstone registers with PyTorch, with their fake and autograd rules.

- `gridstone::linear` takes plain tensors (the packed buffer and a key): what compiled graphs and exports hold.
- `gridstone::qlinear` takes a `QuantTensor`: what a traced program calls; its dispatch rewrites it to the former.
- `gridstone::linear_grad` multiplies a gradient with the decoded weight; `gridstone::dequantize` decodes one.

Registering is cheap: kernels, templates and the tuner are imported by the first call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from gridstone.ir.errors import SpecError
from gridstone.ir.storage import storage
from gridstone.kernel_cache.decode import decode_storage
from gridstone.runtime.linear_key import LinearKey, numerics_named, parse_key

LIBRARY = torch.library.Library("gridstone", "DEF")
LIBRARY.define("linear(Tensor x, Tensor packed, Tensor? bias, Tensor? residual, str key) -> Tensor")
LIBRARY.define("linear_grad(Tensor grad, Tensor packed, str key) -> Tensor")
LIBRARY.define("dequantize(Tensor packed, str key, bool transposed, str dtype) -> Tensor")
LIBRARY.define("qlinear(Tensor x, Tensor w, Tensor? bias, Tensor? residual, str activation, str numerics) -> Tensor")

Maybe = torch.Tensor | None
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
}


@functools.cache
def _runner() -> Callable[..., torch.Tensor]:
    from gridstone.runtime.dispatch import run_linear  # noqa: PLC0415  imports templates and jinja2

    return run_linear


def _linear(x: torch.Tensor, packed: torch.Tensor, bias: Maybe, residual: Maybe, key: str) -> torch.Tensor:
    y = _runner()(x, packed, bias, residual, key)
    # Autograd forbids in-place changes of a view that an op gives, and rows of more than one extent come as one.
    return torch.ops.aten._unsafe_view.default(y, y.shape) if y._is_view() else y


def _linear_fake(x: torch.Tensor, packed: torch.Tensor, bias: Maybe, residual: Maybe, key: str) -> torch.Tensor:
    if x.device != packed.device:  # otherwise an x on meta would go through as if nothing were wrong
        raise SpecError(f"x is on {x.device}, the weight on {packed.device}", "move both to one device")
    weight = parse_key(key).weight
    return _fake_layer(x, weight.static(0), weight.static(1), bias, residual)


def _fake_layer(x: torch.Tensor, n: int, k: int, bias: Maybe, residual: Maybe) -> torch.Tensor:
    """Refuse what a kernel would: a compiler drops a call whose result nobody reads, and its error with it."""
    if x.dim() == 0 or x.shape[-1] != k:
        raise SpecError(f"x of shape {tuple(x.shape)} does not fit a weight with K={k}", "check the last extent")
    shape = (*x.shape[:-1], n)
    for role, operand, want in (("bias", bias, (n,)), ("residual", residual, shape)):
        if operand is not None and operand.shape != want:
            remedy = "expand or move it first"
            raise SpecError(f"{role} of shape {tuple(operand.shape)} is not the output's {tuple(want)}", remedy)
    return x.new_empty(shape)


def _linear_grad(grad: torch.Tensor, packed: torch.Tensor, key: str) -> torch.Tensor:
    weight = parse_key(key).weight
    assert weight.format is not None
    place = storage(weight.storage, weight.format, weight.static(0), weight.static(1))
    return grad @ decode_storage(place, packed, grad.dtype)


def _linear_grad_fake(grad: torch.Tensor, packed: torch.Tensor, key: str) -> torch.Tensor:
    return grad.new_empty((*grad.shape[:-1], parse_key(key).weight.static(1)))


def _dequantize(packed: torch.Tensor, key: str, transposed: bool, dtype: str) -> torch.Tensor:
    weight = parse_key(f"{key}||exact").weight
    assert weight.format is not None
    place = storage(weight.storage, weight.format, weight.static(0), weight.static(1))
    decoded = decode_storage(place, packed, getattr(torch, dtype.removeprefix("torch."))).contiguous()
    return decoded.t() if transposed else decoded


def _dequantize_fake(packed: torch.Tensor, key: str, transposed: bool, dtype: str) -> torch.Tensor:
    weight = parse_key(f"{key}||exact").weight
    decoded = packed.new_empty((weight.static(0), weight.static(1)), dtype=getattr(torch, dtype.removeprefix("torch.")))
    return decoded.t() if transposed else decoded


def activation_grad(name: str, z: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """Return grad * f'(z) for one of our activations."""
    aten = torch.ops.aten
    match name:
        case "relu":
            return aten.threshold_backward(grad, z, 0)
        case "silu" if torch.is_grad_enabled():  # torch has no derivative of silu_backward: write it out
            s = torch.sigmoid(z)
            return grad * s * (1 + z * (1 - s))
        case "silu":
            return aten.silu_backward(grad, z)
        case "gelu":
            return aten.gelu_backward(grad, z)
        case _:
            return aten.gelu_backward(grad, z, approximate="tanh")


def _bias_grad(grad: torch.Tensor) -> torch.Tensor:
    return grad.reshape(-1, grad.shape[-1]).sum(0)


def _linear_setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, packed, bias, _, key = inputs
    ctx.key = key
    activated = bool(parse_key(key).activation)  # else neither is read: the program may change them before
    ctx.save_for_backward(x if activated else None, packed, bias if activated else None)


def _without_activation(key: str) -> str:
    parsed = parse_key(key)
    return str(LinearKey(parsed.weight, "", parsed.numerics, parsed.tune, parsed.target))


def _linear_backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    x, packed, bias = ctx.saved_tensors
    through = grad
    activation = parse_key(ctx.key).activation
    if activation:
        z = torch.ops.gridstone.linear(x, packed, bias, None, _without_activation(ctx.key))
        through = activation_grad(activation, z, grad)
    gx = torch.ops.gridstone.linear_grad(through, packed, ctx.key) if ctx.needs_input_grad[0] else None
    gb = _bias_grad(through) if ctx.needs_input_grad[2] else None
    return gx, None, gb, grad if ctx.needs_input_grad[3] else None, None


def _linear_grad_setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, packed, ctx.key = inputs
    ctx.save_for_backward(packed)


def _linear_grad_backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    """The gradient of g @ w along g is grad @ w.T, the layer's own product."""
    (packed,) = ctx.saved_tensors
    return torch.ops.gridstone.linear(grad, packed, None, None, _without_activation(ctx.key)), None, None


def _qlinear(
    x: torch.Tensor, w: torch.Tensor, bias: Maybe, residual: Maybe, activation: str, numerics: str
) -> torch.Tensor:
    raise TypeError("gridstone::qlinear takes a QuantTensor; use torch.nn.functional.linear for a plain weight")


def _qlinear_fake(
    x: torch.Tensor, w: torch.Tensor, bias: Maybe, residual: Maybe, activation: str, numerics: str
) -> torch.Tensor:
    return _fake_layer(x, w.shape[0], w.shape[1], bias, residual)


def _qlinear_setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, w, bias, _, ctx.activation, ctx.numerics = inputs
    ctx.save_for_backward(x if ctx.activation else None, w, bias if ctx.activation else None)


def _qlinear_backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    x, w, bias = ctx.saved_tensors
    through = grad
    if ctx.activation:
        z = torch.ops.gridstone.qlinear(x, w, bias, None, "", ctx.numerics)
        through = activation_grad(ctx.activation, z, grad)
    # By the same operator on the transpose, so that this can be differentiated again.
    gx = torch.ops.gridstone.qlinear(through, w.t(), None, None, "", ctx.numerics) if ctx.needs_input_grad[0] else None
    gb = _bias_grad(through) if ctx.needs_input_grad[2] else None
    return gx, None, gb, grad if ctx.needs_input_grad[3] else None, None, None


def is_transformed() -> bool:
    """Whether a `torch.func` transform or forward-mode differentiation is under way.

    Both ask more of an operator than a backward rule; where it has no more, torch drops a tangent without a word.
    """
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def in_steps(x: torch.Tensor, w: torch.Tensor, bias: Maybe, residual: Maybe, activation: str) -> torch.Tensor:
    """Compute a linear layer as one torch operator after the other, since torch has every rule for each of them.

    Args:
        x: (..., K).
        w: (N, K) of x's dtype, packed or plain.
        bias: (N,), or None.
        residual: (..., N), or None.
        activation: Name, or empty.
    """
    y = F.linear(x, w)
    for role, operand, want in (("bias", bias, y.shape[-1:]), ("residual", residual, y.shape)):
        if operand is not None and operand.shape != want:
            raise SpecError(f"{role} of shape {tuple(operand.shape)} is not {tuple(want)}", "expand or move it first")
    if bias is not None:
        y = y + bias.to(y.dtype)
    if activation:
        y = ACTIVATIONS[activation](y)
    return y if residual is None else y + residual.to(y.dtype)


def _decoded(packed: torch.Tensor, key: str, dtype: torch.dtype) -> torch.Tensor:
    return torch.ops.gridstone.dequantize(packed, str(parse_key(key).weight), False, str(dtype))


def _linear_steps(x: torch.Tensor, packed: torch.Tensor, bias: Maybe, residual: Maybe, key: str) -> torch.Tensor:
    return in_steps(x, _decoded(packed, key, x.dtype), bias, residual, parse_key(key).activation)


def _linear_grad_steps(grad: torch.Tensor, packed: torch.Tensor, key: str) -> torch.Tensor:
    return grad @ _decoded(packed, key, grad.dtype)


def _qlinear_steps(
    x: torch.Tensor, w: torch.Tensor, bias: Maybe, residual: Maybe, activation: str, numerics: str
) -> torch.Tensor:
    numerics_named(numerics)
    return in_steps(x, w.to(x.dtype), bias, residual, activation)


def _differentiate(
    name: str, setup: Callable[..., None], backward: Callable[..., Any], steps: Callable[..., torch.Tensor]
) -> None:
    """Give an operator its backward rule, and its steps for every other kind of derivative.

    `torch.library.register_autograd` would do for the first; it loses tangents, and refuses `torch.func`.
    """
    operator = getattr(torch.ops.gridstone, name).default

    def forward(ctx: Any, *arguments: Any) -> torch.Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            output = operator(*arguments)
        setup(ctx, arguments, output)
        return output

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    rule = type(f"gridstone_{name}", (torch.autograd.Function,), members)

    def kernel(*arguments: Any) -> torch.Tensor:
        if is_transformed():
            return steps(*arguments)
        if torch.is_grad_enabled() and any(isinstance(a, torch.Tensor) and a.requires_grad for a in arguments):
            return rule.apply(*arguments)
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*arguments)

    LIBRARY.impl(name, kernel, "Autograd")


for _name, _impl, _fake in (
    ("linear", _linear, _linear_fake),
    ("linear_grad", _linear_grad, _linear_grad_fake),
    ("qlinear", _qlinear, _qlinear_fake),
    ("dequantize", _dequantize, _dequantize_fake),
):
    LIBRARY.impl(_name, _impl, "CompositeExplicitAutograd")
    torch.library.register_fake(f"gridstone::{_name}", _fake, lib=LIBRARY)
_differentiate("linear", _linear_setup, _linear_backward, _linear_steps)
_differentiate("linear_grad", _linear_grad_setup, _linear_grad_backward, _linear_grad_steps)
_differentiate("qlinear", _qlinear_setup, _qlinear_backward, _qlinear_steps)
QLINEAR = torch.ops.gridstone.qlinear.default
