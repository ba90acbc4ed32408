"""ATen calls, as a tracer records them, as nodes of a graph. Spellings that stay distinct there are normalised here.

So a pattern is matched by what a program means: the ways to transpose become one, and a dropout that does nothing
becomes its operand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx
from torch.fx.experimental.proxy_tensor import make_fx

from gridstone.ir.errors import CaptureError
from gridstone.ir.graph import INPUT, OUTPUT, Argument, Graph, Node, Ref

MUTATES = "!"  # ends the name of a call that may change its operands, or of which nothing is known
PURE_MODULES = ("_operator", "math")
TRANSPOSES = ("aten.t", "aten.numpy_T", "aten.mT", "aten.adjoint", "aten.matrix_H")


@dataclass(frozen=True, slots=True)
class Opaque:
    """A call that was not traced: nothing is known of it but what it reads and gives.

    Args:
        name: Unique, and no name of a traced call.
        target: Name of what is called, with `MUTATES`.
        at: How many calls were traced before it.
        reads: Names of the traced values that it reads.
    """

    name: str
    target: str
    at: int
    reads: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Untraced:
    """What a tracer cannot know of the calls that it recorded.

    Args:
        opaques: Calls between them that were not traced, in order.
        inputs: Values that were made up, by name: the opaque call that gives it, or nothing for an input.
        order: Number of each recorded call.
    """

    opaques: Sequence[Opaque] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    order: Mapping[str, int] = field(default_factory=dict)


def record(function: Callable[..., Any], values: Sequence[Any]) -> torch.fx.GraphModule:
    """Trace a function of tensors into ATen calls before dispatch.

    Raises:
        CaptureError: The function cannot be traced; the cause is attached.
    """
    try:
        return make_fx(function, pre_dispatch=True, tracing_mode="real")(*values)
    except Exception as error:  # whatever a traced program raises is the reason why it was not captured
        raise CaptureError(f"tracing failed: {type(error).__name__}: {error}") from error


def to_graph(recorded: torch.fx.Graph, untraced: Untraced | None = None) -> Graph:
    """Convert recorded calls to normalised nodes."""
    untraced = untraced or Untraced()
    kept = {node.name for node in recorded.nodes}
    pending = list(untraced.opaques)
    renamed: dict[str, str] = {}
    nodes: list[Node] = []
    position = -1
    for node in recorded.nodes:
        position = untraced.order.get(node.name, position)
        while pending and (pending[0].at <= position or node.op == "output"):
            call = pending.pop(0)
            reads = tuple(Ref(renamed.get(name, name)) for name in call.reads if name in kept)
            nodes.append(Node(call.name, call.target, reads))
        if node.op == "output":
            nodes.append(Node(node.name, OUTPUT, (_argument(node.args[0], renamed),)))
            continue
        shape, dtype = _type(node.meta.get("val"))
        if node.op in ("placeholder", "get_attr") or node.name in untraced.inputs:
            giver = untraced.inputs.get(node.name)
            nodes.append(Node(node.name, INPUT, (Ref(giver),) if giver else (), shape, dtype))
            continue
        name, arguments = _call(node, renamed)
        if is_identity(node) and isinstance(arguments[0], Ref):
            renamed[node.name] = arguments[0].node
            continue
        name, arguments = _normalised(name, arguments)
        nodes.append(Node(node.name, name, arguments, shape, dtype))
    return Graph(nodes)


def is_identity(node: torch.fx.Node) -> bool:
    """Whether a recorded call gives what it is given: dropout outside training."""
    return node.target == torch.ops.aten.dropout.default and node.args[2] is False


def name_of(target: Any) -> str:
    """Return how messages call what a node calls."""
    if isinstance(target, str):
        return target
    if isinstance(target, torch._ops.OpOverload):
        return target.overloadpacket._qualified_op_name.replace("::", ".")
    return str(getattr(target, "__name__", target))


def _call(node: torch.fx.Node, renamed: dict[str, str]) -> tuple[str, tuple[Argument, ...]]:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        pure = getattr(target, "__module__", "") in PURE_MODULES
        name = f"{name_of(target)}{'' if pure else MUTATES}"
        return name, tuple(_argument(argument, renamed) for argument in node.args)
    given = dict(zip((a.name for a in target._schema.arguments), node.args, strict=False)) | dict(node.kwargs)
    arguments = tuple(
        _argument(given.get(a.name, a.default_value if a.has_default_value() else None), renamed)
        for a in target._schema.arguments
    )
    name = name_of(target)
    return name + (MUTATES if target._schema.is_mutable and not name.endswith("_") else ""), arguments


def _argument(value: Any, renamed: dict[str, str]) -> Argument:
    if isinstance(value, torch.fx.Node):
        return Ref(renamed.get(value.name, value.name))
    if isinstance(value, (list, tuple)):
        return tuple(_argument(item, renamed) for item in value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def _normalised(name: str, arguments: tuple[Argument, ...]) -> tuple[str, tuple[Argument, ...]]:
    if name in TRANSPOSES:
        return "aten.t", arguments[:1]
    if name == "aten.transpose" and set(arguments[1:]) in ({0, 1}, {-1, -2}):
        return "aten.t", arguments[:1]
    if name == "aten.permute" and arguments[1] in ((1, 0), (-1, -2)):
        return "aten.t", arguments[:1]
    return name, arguments


def _type(value: Any) -> tuple[tuple[int | str, ...], str]:
    if not isinstance(value, torch.Tensor):
        return (), ""
    extents = tuple(extent if isinstance(extent, int) else str(extent) for extent in value.shape)
    return extents, str(value.dtype).removeprefix("torch.")
