"""Nodes of Dynamo's graphs: the fake values that it left in them, and which of them are quantised weights."""

from __future__ import annotations

from typing import Any

import torch
import torch.fx

from gridstone.runtime.aten import name_of
from gridstone.runtime.tensors import QuantTensor


def example(node: torch.fx.Node) -> Any:
    """Return the fake value that Dynamo left in one of its nodes."""
    return node.meta.get("example_value")


def quantised(node: torch.fx.Node) -> QuantTensor | None:
    """Return the fake weight that a node of Dynamo's has as its value, if it is one."""
    value = example(node)
    return value if isinstance(value, QuantTensor) else None


def changes_weight(node: torch.fx.Node) -> bool:
    """Whether a node of Dynamo's changes a quantised weight in place."""
    return node.op.startswith("call_") and name_of(node.target).endswith("_") and quantised(node) is not None


def packed_inputs(graph: torch.fx.Graph) -> dict[torch.fx.Node, torch.fx.Node]:
    """Return the input that holds the codes of each quantised weight of a graph, where that is simply one of them.

    Views, casts of what it stands for and copies have its codes; copies no longer when some weight is changed in place.
    """
    found: dict[torch.fx.Node, torch.fx.Node] = {}
    changing = any(map(changes_weight, graph.nodes))
    for node in graph.nodes:
        weight = quantised(node)
        if weight is None:
            continue
        if node.op == "placeholder":
            found[node] = node
            continue
        sources = [given for given in node.all_input_nodes if quantised(given) is not None]
        if len(sources) != 1 or changing or isinstance(node.target, torch._ops.HigherOrderOperator):
            continue
        source = found.get(sources[0])
        stored = None if source is None else quantised(source)
        if source is not None and stored is not None and (stored.key, stored.device) == (weight.key, weight.device):
            found[node] = source
    return found
