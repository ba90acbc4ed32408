"""Rewriting: the matched parts of one of Dynamo's graphs become `gridstone::` calls; the rest stays as it was.

`plan` says what would be replaced and what stays, and why; `apply` does it. A graph that was rewritten takes packed
buffers where it took quantised weights: replaced calls read those, and for what stays a `QuantTensor` is put around
them inside the graph, so that no backend meets one among its inputs.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx

from gridstone.ir.dtype import dtype
from gridstone.ir.spec import EXACT, Numerics, Spec
from gridstone.ir.text import parse_type
from gridstone.runtime.aten import is_identity, name_of
from gridstone.runtime.capture import Captured, capture
from gridstone.runtime.dynamo_node import example, quantised
from gridstone.runtime.interpret import DECODE
from gridstone.runtime.linear_key import LinearKey, numerics_named, spec_of
from gridstone.runtime.match import LinearMatch, explicit_matches, linear_matches
from gridstone.runtime.refusal import Fallback, fallbacks, hiding, refusal
from gridstone.runtime.tensors import QuantTensor
from gridstone.runtime.unfold import unfold

LINEAR, DEQUANTIZE = torch.ops.gridstone.linear.default, torch.ops.gridstone.dequantize.default


@dataclass(frozen=True, slots=True)
class Policy:
    """What every replaced call is given.

    Args:
        tune: Policy of tuning, one of `TUNE`.
        target: A target, or `auto`.
        numerics: Class of the products that do not name their own.
    """

    tune: str = "cached"
    target: str = "auto"
    numerics: Numerics = EXACT


@dataclass(frozen=True, slots=True)
class Matched:
    """A part of a program that Gridstone computes.

    Args:
        node: Name of the node whose value it is.
        spec: With symbolic rows.
        rows: Row count that the program was captured with, or None when symbolic.
        key: The call's key.
    """

    node: str
    spec: Spec
    rows: int | None
    key: LinearKey


@dataclass(frozen=True, slots=True)
class Replacement:
    """One call of `gridstone::linear` to be.

    Args:
        root: Dynamo's node whose value it computes.
        operands: Dynamo's nodes of x, the packed weight, bias and residual.
        kind: Dtype to cast x, bias and residual to, as autocast would have; empty to leave them.
        nodes: Dynamo's nodes that it makes superfluous.
        matched: For `explain`.
    """

    root: torch.fx.Node
    operands: tuple[torch.fx.Node | None, ...]
    kind: str
    nodes: frozenset[torch.fx.Node]
    matched: Matched


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of one of Dynamo's graphs.

    Args:
        module: Dynamo's.
        weights: Positions of its inputs that are quantised.
        inputs: Input that holds the codes, by node of a quantised weight.
        replacements: The calls to replace.
        callers: Higher-order calls whose quantised operands become packed buffers.
        bodies: Plans of the graphs that these call.
        matched, fallbacks: What became of each part, those of the bodies included.
    """

    module: torch.fx.GraphModule
    weights: tuple[int, ...]
    inputs: Mapping[torch.fx.Node, torch.fx.Node]
    replacements: tuple[Replacement, ...]
    callers: tuple[torch.fx.Node, ...]
    bodies: tuple[Plan, ...]
    matched: tuple[Matched, ...]
    fallbacks: tuple[Fallback, ...]

    def packed(self, given: Sequence[Any]) -> list[Any]:
        """Return the inputs of the rewritten module: packed buffers where the original took quantised weights."""
        inputs = list(given)
        for at in self.weights:
            inputs[at] = inputs[at].packed
        return inputs


def plan(module: torch.fx.GraphModule, policy: Policy) -> Plan:
    """Decide what to replace in one of Dynamo's graphs. Calls that hide a linear layer are unfolded in place already.

    Raises:
        CaptureError: The graph cannot be captured.
    """
    captured, found = _matches(module)
    hidden = {node: None for match in found if not refusal(match, captured) for node in hiding(match, captured)}
    if hidden and unfold(captured, hidden):
        captured, found = _matches(module)
    identities = _identities(captured)
    replacements: list[Replacement] = []
    covered: set[str] = set()
    reasons: dict[str, str] = {}
    for match in found:
        reason = refusal(match, captured)
        if not reason and (inside := hiding(match, captured)):
            reason = f"it is a part of {', '.join(name_of(node.target) for node in inside)}: it runs as in eager mode"
        if reason:
            reasons.update(dict.fromkeys(match.nodes, reason))
        else:
            covered |= match.nodes
            replacements.append(_replacement(captured, match, policy, identities))
    callers = _callers(captured)
    bodies = {body: None for caller in callers for body in _bodies(caller)}
    plans = [plan(body, policy) for body in bodies]
    left = fallbacks(captured, covered, reasons, callers)
    inputs = module.graph.find_nodes(op="placeholder")
    return Plan(
        module,
        tuple(at for at, node in enumerate(inputs) if quantised(node) is not None),
        captured.packed,
        tuple(replacements),
        callers,
        tuple(plans),
        (*(one.matched for one in replacements), *(part for body in plans for part in body.matched)),
        (*left, *(part for body in plans for part in body.fallbacks)),
    )


def _matches(module: torch.fx.GraphModule) -> tuple[Captured, list[LinearMatch]]:
    captured = capture(module)
    return captured, [*linear_matches(captured.graph, captured), *explicit_matches(captured.graph)]


def _callers(captured: Captured) -> tuple[torch.fx.Node, ...]:
    """Return higher-order calls that read quantised weights and whose bodies can read packed buffers instead."""
    taken: list[torch.fx.Node] = []
    refused: set[torch.fx.GraphModule] = set()
    for node in captured.module.graph.nodes:
        weights = [given for given in node.all_input_nodes if quantised(given) is not None]
        if not weights or not isinstance(node.target, torch._ops.HigherOrderOperator):
            continue
        if all(given in captured.packed for given in weights) and all(map(_takes_packed, _bodies(node))):
            taken.append(node)
        else:
            refused.update(_bodies(node))
    return tuple(node for node in taken if refused.isdisjoint(_bodies(node)))  # two calls may share a body


def _bodies(caller: torch.fx.Node) -> list[torch.fx.GraphModule]:
    owner = caller.graph.owning_module
    named = [getattr(owner, str(given.target), None) for given in caller.all_input_nodes if given.op == "get_attr"]
    return [body for body in named if isinstance(body, torch.fx.GraphModule)]


def _takes_packed(body: torch.fx.GraphModule) -> bool:
    """Whether Dynamo left values in a body's inputs, and it gives no quantised weight."""
    (output,) = body.graph.find_nodes(op="output")
    known = all("example_value" in node.meta for node in body.graph.find_nodes(op="placeholder"))
    return known and all(quantised(given) is None for given in output.all_input_nodes)


def _replacement(
    captured: Captured, match: LinearMatch, policy: Policy, identities: frozenset[torch.fx.Node]
) -> Replacement:
    graph, values = captured.graph, captured.values
    weight = quantised(captured.weights[match.w])
    assert weight is not None
    kinds = {role: graph[name].dtype for role in ("x", "bias", "residual") if (name := getattr(match, role))}
    kind = "" if kinds["x"] == graph[match.root].dtype else graph[match.root].dtype
    types = {role: dtype(kind or given) for role, given in kinds.items()}
    numerics = numerics_named(match.numerics) if match.numerics else policy.numerics
    key = LinearKey(parse_type(weight.key), match.activation, numerics, policy.tune, policy.target)
    rows: int | None = 1
    for extent in graph[match.x].shape[:-1]:
        rows = None if rows is None or isinstance(extent, str) else rows * extent
    spec = spec_of(key, types["x"], types.get("bias"), types.get("residual"))
    root = values[match.root]
    return Replacement(
        root,
        (
            values[match.x],
            captured.packed[captured.weights[match.w]],
            values[match.bias] if match.bias else None,
            values[match.residual] if match.residual else None,
        ),
        kind,
        frozenset(captured.makers[name] for name in match.nodes) | identities,
        Matched(root.name, spec, rows, key),
    )


def _identities(captured: Captured) -> frozenset[torch.fx.Node]:
    """Return the nodes that give what they are given: a match skips them."""
    recorded = captured.recorded
    return frozenset(
        node
        for node, made in captured.made.items()
        if made and all(name in recorded and is_identity(recorded[name]) for name in made)
    )


def apply(plan: Plan) -> None:
    """Rewrite a plan's module, and the bodies that it calls, in place."""
    graph = plan.module.graph
    idle = {node for one in plan.replacements for node in one.nodes}
    idle |= {node for node in plan.inputs if node.op != "placeholder"}
    for body in plan.bodies:
        apply(body)
    for caller in plan.callers:
        caller.args, caller.kwargs = torch.fx.map_arg((caller.args, caller.kwargs), lambda n: plan.inputs.get(n, n))
    calls = [_call(one) for one in plan.replacements]  # all of them before any is put to use: they read each other
    for one, call in zip(plan.replacements, calls, strict=True):
        one.root.replace_all_uses_with(call)
    for node in graph.find_nodes(op="call_method", target=DECODE):
        _decode(node, plan.inputs)
    idle |= set(_wrap(graph, {*plan.callers, *calls}))
    for node in reversed(list(graph.nodes)):  # what else has no reader may have an effect
        if node in idle and not node.users:
            graph.erase_node(node)
    plan.module.recompile()


def _call(one: Replacement) -> torch.fx.Node:
    graph = one.root.graph
    x, packed, *others = one.operands
    with graph.inserting_before(one.root):
        x, *others = (_cast(node, one.kind) for node in (x, *others))
        call = graph.call_function(LINEAR, (x, packed, *others, str(one.matched.key)))
    call.meta = dict(one.root.meta)
    return call


def _cast(node: torch.fx.Node | None, kind: str) -> torch.fx.Node | None:
    if node is None or not kind or example(node).dtype == getattr(torch, kind):
        return node
    cast = node.graph.call_method("to", (node, getattr(torch, kind)))
    cast.meta["example_value"] = example(node).to(getattr(torch, kind))
    return cast


def _decode(node: torch.fx.Node, inputs: Mapping[torch.fx.Node, torch.fx.Node]) -> None:
    """Let a program's own `dequantize` be one call, not the many that decode."""
    weight = quantised(node.all_input_nodes[0])
    packed = inputs.get(node.all_input_nodes[0])
    if weight is None or packed is None or weight.dim() != 2:
        return
    with node.graph.inserting_before(node):
        arguments = (packed, weight.key, weight.transposed, str(example(node).dtype))
        call = node.graph.call_function(DEQUANTIZE, arguments)
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    node.graph.erase_node(node)


def _wrap(graph: torch.fx.Graph, readers: Container[torch.fx.Node]) -> list[torch.fx.Node]:
    """Let quantised inputs be packed buffers, as `readers` read them; all others get a weight around the buffer."""
    inputs = graph.find_nodes(op="placeholder")
    wrapped: list[torch.fx.Node] = []
    for node in inputs:
        weight = quantised(node)
        if weight is None:
            continue
        others = [user for user in node.users if user not in readers and user.target != DEQUANTIZE]
        with graph.inserting_after(inputs[-1]):
            wrapped.append(graph.call_function(QuantTensor, (node, *weight.__tensor_flatten__()[1])))
        wrapped[-1].meta["example_value"] = weight
        node.meta["example_value"] = weight.packed
        for user in others:
            user.replace_input_with(node, wrapped[-1])
    return wrapped
