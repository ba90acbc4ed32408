"""compile: a Dynamo backend that gives matched parts to Gridstone and hands the rest on to Inductor."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import torch
import torch.fx
from torch._dynamo.backends.registry import lookup_backend
from torch._dynamo.exc import RestartAnalysis, SkipFrame

from gridstone.ir.errors import GridstoneError, SpecError, nearest
from gridstone.ir.spec import NumericsClass
from gridstone.kernel_cache.make import TOOLCHAINS
from gridstone.lower.target import Language, parse_target
from gridstone.runtime.dynamo_node import quantised
from gridstone.runtime.linear_key import TUNE, numerics_named
from gridstone.runtime.rewrite import Plan, Policy, apply, plan

log = logging.getLogger("gridstone")
RESTS = ("inductor", "eager", "aot_eager")
OPTIONS = "gridstone_options"  # attribute of what was compiled; `explain` reads it
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Backend:
    """What Dynamo calls with each graph that it captured.

    Args:
        target: `auto`, or a target for every kernel.
        tune: `cached` uses records and defaults and never blocks, `now` tunes on first call, `off` uses defaults.
        rest: Name of the torch backend that compiles what is left, `eager` for none.
        numerics: Class of the products that do not name their own.
    """

    target: str = "auto"
    tune: str = "cached"
    rest: str = "inductor"
    numerics: str = "exact"

    @property
    def policy(self) -> Policy:
        """What every replaced call is given."""
        return Policy(self.tune, self.target, numerics_named(self.numerics))

    def __call__(self, module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        """Return a callable of the graph's real inputs."""
        placeholders = module.graph.find_nodes(op="placeholder")
        if all(quantised(node) is None for node in placeholders):
            return self._compile_rest(module, inputs)
        found = self._planned(module)
        if found is None or (self.rest == "eager" and not (found.replacements or found.callers)):
            return self._compile_rest(module, inputs)
        apply(found)
        compiled = self._compile_rewritten(module, found.packed(inputs))
        return lambda *given: compiled(*found.packed(given))

    def _planned(self, module: torch.fx.GraphModule) -> Plan | None:
        try:
            return plan(module, self.policy)
        except (RestartAnalysis, SkipFrame):
            raise
        except Exception as error:  # the program is right without us; where it is wrong, running it says so
            kind = "" if isinstance(error, GridstoneError) else f"{type(error).__name__}: "
            log.warning("a graph runs as PyTorch would have run it: %s%s", kind, error)
            return None

    def _compile_rewritten(self, module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        try:
            return self._compile_rest(module, inputs)
        except (RestartAnalysis, SkipFrame):
            raise
        except Exception as error:  # whatever the other backend cannot do with a weight that was not matched
            log.warning("what is left runs eagerly: %s raised %s: %s", self.rest, type(error).__name__, error)
            return module

    def _compile_rest(self, module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        if self.rest == "eager":
            return module
        if self.rest == "inductor" and TOOLCHAINS[Language.CPP].missing():
            log.warning("what is left runs eagerly: Inductor needs a C++ compiler, and none runs here")
            return module
        return lookup_backend(self.rest)(module, list(inputs))


def backend(
    module: torch.fx.GraphModule, inputs: Sequence[Any], *, options: Mapping[str, str] | None = None
) -> Callable[..., Any]:
    """Compile one graph for `torch.compile(fn, backend="gridstone", options={...})`.

    Args:
        module, inputs: As Dynamo gives them.
        options: Fields of `Backend` by name.

    Raises:
        SpecError: An option or its value is unknown.
    """
    known = [field.name for field in dataclasses.fields(Backend)]
    for name in options or {}:
        if name not in known:
            raise SpecError(f"unknown option {name!r}", nearest(name, known))
    return make_backend(**(options or {}))(module, inputs)


def make_backend(
    target: str = "auto", tune: str = "cached", rest: str = "inductor", numerics: str = "exact"
) -> Backend:
    """Return a backend after checking its options.

    Raises:
        SpecError: Unknown target, tuning policy, backend for the rest or numerics class, or one that no kernel has.
    """
    for name, value in (("target", target), ("tune", tune), ("rest", rest), ("numerics", numerics)):
        if not isinstance(value, str):
            raise SpecError(f"{name}={value!r} is no name, but {type(value).__name__}", f"give {name} as a string")
    if target != "auto":
        parse_target(target)
    if tune not in TUNE:
        raise SpecError(f"unknown tuning policy {tune!r}", nearest(tune, TUNE))
    if rest not in RESTS:
        raise SpecError(f"unknown backend {rest!r} for the rest", nearest(rest, RESTS))
    if numerics_named(numerics).kind.quantises_activations:
        have = ", ".join(kind.value for kind in NumericsClass if not kind.quantises_activations)
        raise SpecError(f"no recipe computes numerics {numerics} yet", f"use one of {have}")
    return Backend(target, tune, rest, numerics)


@overload
def compile(
    fn_or_module: F,
    *,
    target: str = ...,
    tune: str = ...,
    dynamic: bool | None = ...,
    rest: str = ...,
    numerics: str = ...,
) -> F: ...
@overload
def compile(
    fn_or_module: None = None,
    *,
    target: str = ...,
    tune: str = ...,
    dynamic: bool | None = ...,
    rest: str = ...,
    numerics: str = ...,
) -> Callable[[F], F]: ...
def compile(
    fn_or_module: Any = None,
    *,
    target: str = "auto",
    tune: str = "cached",
    dynamic: bool | None = None,
    rest: str = "inductor",
    numerics: str = "exact",
) -> Any:
    """Compile a function or a module: linear layers on quantised weights run Gridstone's kernels.

    Args:
        fn_or_module: What to compile; omitted when used as a decorator with arguments.
        target: `auto`, or one of `gridstone doctor`'s targets.
        tune: `cached` uses tuning records and default schedules and never blocks; `now` tunes each new problem on
            its first call; `off` uses default schedules.
        dynamic: As in `torch.compile`; by default an extent that changes becomes symbolic after the first change.
        rest: What compiles the parts that Gridstone does not: `inductor`, `aot_eager` or `eager`.
        numerics: How the operands of products may be rounded: `exact` for not at all; `bf16` allows operands to be
            rounded to bfloat16, which lets AVX-512 bf16 kernels run, and is the precision of PyTorch's own bf16
            linear; `tf32` allows 10 explicit bits. Calls of `gridstone.linear` keep the class that they name.

    Raises:
        SpecError: An option is unknown, or no kernel has the numerics class.

    >>> import gridstone, torch
    >>> w = gridstone.quantize(torch.randn(64, 128), "int4", group_size=32)
    >>> @gridstone.compile(rest="eager")
    ... def layer(x):
    ...     return torch.nn.functional.silu(torch.nn.functional.linear(x, w))
    >>> layer(torch.randn(3, 128)).shape
    torch.Size([3, 64])
    """
    options = make_backend(target, tune, rest, numerics)
    if fn_or_module is None:
        return lambda given: _compiled(given, options, dynamic)
    return _compiled(fn_or_module, options, dynamic)


def _compiled(fn_or_module: Any, options: Backend, dynamic: bool | None) -> Any:
    compiled = torch.compile(fn_or_module, backend=options, dynamic=dynamic)
    vars(compiled)[OPTIONS] = options  # not setattr: a compiled module passes that on to the original
    return compiled
