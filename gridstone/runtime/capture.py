"""Capture: from Dynamo's graph to a normalised one.

Dynamo's graph keeps a program's spellings. Tracing it once more, before dispatch and on Dynamo's own fake tensors,
gives ATen calls; what stays distinct there (the ways to transpose, dropout that does nothing) is normalised here, so
that a pattern is matched by what a program means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from gridstone.ir.errors import CaptureError
from gridstone.ir.graph import INPUT, OUTPUT, Argument, Graph, Node, Ref
from gridstone.runtime.tensors import QuantTensor

MUTATES = "!"  # ends the name of a call that may change its operands, or of which nothing is known
TRANSPOSES = ("aten.t", "aten.numpy_T", "aten.mT", "aten.adjoint", "aten.matrix_H")


@dataclass(frozen=True, slots=True)
class Captured:
    """A program, twice: as ATen calls that torch runs, and as a graph that patterns are matched in.

    Args:
        module: ATen calls. Inputs that are QuantTensors are plain stand-ins of the same shape here.
        graph: The same calls, normalised; a node has the name of its FX node.
        weights: Quantised inputs by the name of their placeholder.
        inputs: What the module was traced on, one fake value or symbolic integer per placeholder.
    """

    module: torch.fx.GraphModule
    graph: Graph
    weights: dict[str, QuantTensor]
    inputs: tuple[Any, ...]


def fake_mode_of(values: Sequence[Any]) -> FakeTensorMode | None:
    """Return the mode that fake values belong to."""
    for value in values:
        inner = value.packed if isinstance(value, QuantTensor) else value
        if isinstance(inner, FakeTensor):
            return inner.fake_mode
    return None


def trace(function: Callable[..., Any], values: Sequence[Any]) -> Captured:
    """Trace a function of tensors into ATen calls before dispatch.

    Args:
        function: Called with the values' stand-ins.
        values: Fake tensors, fake or real QuantTensors, real tensors, integers.

    Raises:
        CaptureError: The function cannot be traced; the cause is attached.
    """
    mode = fake_mode_of(values)
    if mode is None:
        mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        stand_ins = [_stand_in(value) for value in values]
        try:
            module = make_fx(function, pre_dispatch=True, tracing_mode="real")(*stand_ins)
        except Exception as error:  # whatever a traced program raises is the reason why it was not captured
            raise CaptureError(f"tracing failed: {type(error).__name__}: {error}") from error
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    weights = {
        node.name: value for node, value in zip(placeholders, values, strict=True) if isinstance(value, QuantTensor)
    }
    return Captured(module, to_graph(module.graph), weights, tuple(values))


def _stand_in(value: Any) -> Any:
    if isinstance(value, QuantTensor):
        return torch.empty(value.shape, dtype=value.dtype, device=value.device)
    return value


def to_graph(graph: torch.fx.Graph) -> Graph:
    """Convert ATen calls to normalised nodes."""
    renamed: dict[str, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op == "output":
            nodes.append(Node(node.name, OUTPUT, (_argument(node.args[0], renamed),)))
            continue
        shape, dtype = _type(node.meta.get("val"))
        if node.op in ("placeholder", "get_attr"):
            nodes.append(Node(node.name, INPUT, (), shape, dtype))
            continue
        name, arguments = _call(node, renamed)
        if name == "aten.dropout" and arguments[2] is False and isinstance(arguments[0], Ref):
            renamed[node.name] = arguments[0].node  # dropout outside training is the identity
            continue
        name, arguments = _normalised(name, arguments)
        nodes.append(Node(node.name, name, arguments, shape, dtype))
    return Graph(nodes)


def _call(node: torch.fx.Node, renamed: dict[str, str]) -> tuple[str, tuple[Argument, ...]]:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return f"{target}{MUTATES}", tuple(_argument(argument, renamed) for argument in node.args)
    given = dict(zip((a.name for a in target._schema.arguments), node.args, strict=False)) | dict(node.kwargs)
    arguments = tuple(
        _argument(given.get(a.name, a.default_value if a.has_default_value() else None), renamed)
        for a in target._schema.arguments
    )
    name = target.overloadpacket._qualified_op_name.replace("::", ".")
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


def _type(value: Any) -> tuple[tuple[int | None, ...], str]:
    if not isinstance(value, torch.Tensor):
        return (), ""
    extents = tuple(extent if isinstance(extent, int) else None for extent in value.shape)
    return extents, str(value.dtype).removeprefix("torch.")
