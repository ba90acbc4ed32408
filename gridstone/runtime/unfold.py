"""Unfolding: a call that hides a linear layer among others becomes the ATen calls that it makes.

`torch.nn.functional.multi_head_attention_forward` is one node for Dynamo; its output projection is matched once the
node is unfolded. Autocast, autograd and random numbers work below these calls, so they mean what the one call meant.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable

import torch
import torch.fx

from gridstone.runtime.capture import Captured
from gridstone.runtime.dynamo_node import example


def unfold(captured: Captured, nodes: Iterable[torch.fx.Node]) -> bool:
    """Replace nodes of Dynamo's graph by the calls that each made; return whether any could be.

    Args:
        captured: The program; its module is changed in place and must be captured anew.
        nodes: Those to replace. One that gives or reads what has no node of its own stays.
    """
    gone: dict[torch.fx.Node, torch.fx.Node] = {}  # a later one may read what an earlier one gave
    done = [_unfold_one(captured, node, gone) for node in nodes]
    captured.module.recompile()
    return any(done)


def _unfold_one(captured: Captured, node: torch.fx.Node, gone: dict[torch.fx.Node, torch.fx.Node]) -> bool:
    graph = node.graph
    calls = [captured.recorded[name] for name in captured.made[node] if name in captured.recorded]
    known = dict(captured.weights) | dict(captured.values)
    outside = {given.name for call in calls for given in call.all_input_nodes} - {call.name for call in calls}
    if not outside <= known.keys() or any(call.op != "call_function" for call in calls):
        return False
    given = {name: gone.get(known[name], known[name]) for name in outside}
    wanted = _wanted(captured, node)
    if wanted is None or not set(wanted.values()) <= {call.name for call in calls} | given.keys():
        return False
    local: dict[str, torch.fx.Node] = dict(given)
    with graph.inserting_before(node):
        for call in calls:
            args, kwargs = torch.fx.map_arg((call.args, call.kwargs), lambda n: local[n.name])
            local[call.name] = graph.create_node(call.op, call.target, args, kwargs)
            local[call.name].meta = dict(node.meta) | {"example_value": call.meta.get("val")}
    for reader, name in wanted.items():
        reader.replace_all_uses_with(local[name])
        graph.erase_node(reader)
        gone[reader] = local[name]
    if node not in wanted:
        graph.erase_node(node)
    return True


def _wanted(captured: Captured, node: torch.fx.Node) -> dict[torch.fx.Node, str] | None:
    """Return the nodes to replace and the names of their values; None where one has none."""
    names = captured.results.get(node, ())
    if isinstance(example(node), torch.Tensor):
        readers = {node: names[0]}
    else:
        if not isinstance(example(node), tuple) or len(example(node)) != len(names):
            return None
        if not all(user.target is operator.getitem and isinstance(user.args[1], int) for user in node.users):
            return None
        readers = {user: names[int(str(user.args[1]))] for user in node.users}
    found = {reader: name for reader, name in readers.items() if name is not None}
    return found if len(found) == len(readers) else None
