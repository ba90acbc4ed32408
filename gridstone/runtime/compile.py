"""compile: a Dynamo backend that gives matched parts to Gridstone and hands the rest on to Inductor."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import torch
import torch.fx
from torch._dynamo.backends.registry import lookup_backend

from gridstone.ir.errors import CaptureError, SpecError, nearest
from gridstone.kernel_cache.make import TOOLCHAINS
from gridstone.lower.target import Language, parse_target
from gridstone.runtime.capture import Captured, trace
from gridstone.runtime.linear_key import TUNE
from gridstone.runtime.rewrite import Rewritten, rewrite

log = logging.getLogger("gridstone")
MODES = ("_enter_autocast", "_exit_autocast", "_set_grad_enabled", "_enter_inference_mode", "_exit_inference_mode")
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Backend:
    """What Dynamo calls with each graph that it captured.

    Args:
        target: `auto`, or a target for every kernel.
        tune: `cached` uses records and defaults and never blocks, `now` tunes on first call, `off` uses defaults.
        rest: Name of the torch backend that compiles what is left, `eager` for none.
    """

    target: str = "auto"
    tune: str = "cached"
    rest: str = "inductor"

    def __call__(self, module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        """Return a callable of the graph's real inputs."""
        try:
            program = rewrite(captured(module), self.tune, self.target)
        except CaptureError as error:
            log.warning("a graph runs as PyTorch would have run it: %s", error)
            return module
        compiled = self._compile_rest(program)
        if not program.packed:
            return compiled

        def run(*arguments: Any) -> Any:
            plain = list(arguments)
            for at in program.packed:
                plain[at] = plain[at].packed
            return compiled(*plain)

        return run

    def _compile_rest(self, program: Rewritten) -> Callable[..., Any]:
        if self.rest == "eager":
            return program.module
        if self.rest == "inductor" and TOOLCHAINS[Language.CPP].missing():
            log.warning("what is left runs eagerly: Inductor needs a C++ compiler, and none runs here")
            return program.module
        return lookup_backend(self.rest)(program.module, list(program.inputs))


def captured(module: torch.fx.GraphModule) -> Captured:
    """Capture one of Dynamo's graphs on the fake inputs that Dynamo left in it."""
    for node in module.graph.nodes:
        reason = _keeps_dynamo(node)
        if reason:
            raise CaptureError(reason, "move it out of the compiled function to have its linear layers replaced")
    values = [node.meta["example_value"] for node in module.graph.nodes if node.op == "placeholder"]
    return trace(lambda *arguments: module(*arguments), values)


def _keeps_dynamo(node: torch.fx.Node) -> str:
    """Return why a call must not be traced once more, or nothing: what it switches on would be lost or baked in."""
    if node.op != "call_function":
        return ""
    name = getattr(node.target, "__name__", str(node.target))
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return f"the program holds {name}, whose rules do not survive a second trace"
    if name in MODES or "functorch" in str(getattr(node.target, "__module__", "")):
        return f"the program holds {name}, which changes what the calls after it mean"
    return ""


def backend(
    module: torch.fx.GraphModule, inputs: Sequence[Any], *, options: Mapping[str, str] | None = None
) -> Callable[..., Any]:
    """Compile one graph for `torch.compile(fn, backend="gridstone", options={...})`.

    Args:
        module, inputs: As Dynamo gives them.
        options: Fields of `Backend` by name.
    """
    known = [field.name for field in dataclasses.fields(Backend)]
    for name in options or {}:
        if name not in known:
            raise SpecError(f"unknown option {name!r}", nearest(name, known))
    return make_backend(**(options or {}))(module, inputs)


def make_backend(target: str = "auto", tune: str = "cached", rest: str = "inductor") -> Backend:
    """Return a backend after checking its options.

    Raises:
        SpecError: Unknown target, tuning policy or backend for the rest.
    """
    if target != "auto":
        parse_target(target)
    if tune not in TUNE:
        raise SpecError(f"unknown tuning policy {tune!r}", nearest(tune, TUNE))
    if rest not in ("inductor", "eager", "aot_eager"):
        raise SpecError(f"unknown backend {rest!r} for the rest", nearest(rest, ("inductor", "eager", "aot_eager")))
    return Backend(target, tune, rest)


@overload
def compile(
    fn_or_module: F, *, target: str = ..., tune: str = ..., dynamic: bool | None = ..., rest: str = ...
) -> F: ...
@overload
def compile(
    fn_or_module: None = None, *, target: str = ..., tune: str = ..., dynamic: bool | None = ..., rest: str = ...
) -> Callable[[F], F]: ...
def compile(
    fn_or_module: Any = None,
    *,
    target: str = "auto",
    tune: str = "cached",
    dynamic: bool | None = None,
    rest: str = "inductor",
) -> Any:
    """Compile a function or a module: linear layers on quantised weights run Gridstone's kernels.

    Args:
        fn_or_module: What to compile; omitted when used as a decorator with arguments.
        target: `auto`, or one of `gridstone doctor`'s targets.
        tune: `cached` uses tuning records and default schedules and never blocks; `now` tunes each new problem on
            its first call; `off` uses default schedules.
        dynamic: As in `torch.compile`; by default an extent that changes becomes symbolic after the first change.
        rest: What compiles the parts that Gridstone does not: `inductor`, `aot_eager` or `eager`.

    Raises:
        SpecError: An option is unknown.

    >>> import gridstone, torch
    >>> w = gridstone.quantize(torch.randn(64, 128), "int4", group_size=32)
    >>> @gridstone.compile(rest="eager")
    ... def layer(x):
    ...     return torch.nn.functional.silu(torch.nn.functional.linear(x, w))
    >>> layer(torch.randn(3, 128)).shape
    torch.Size([3, 64])
    """
    if fn_or_module is None:
        return functools.partial(compile, target=target, tune=tune, dynamic=dynamic, rest=rest)
    return torch.compile(fn_or_module, backend=make_backend(target, tune, rest), dynamic=dynamic)
