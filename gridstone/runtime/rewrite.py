"""Rewriting: matched parts of a captured program become `gridstone::` calls; the rest stays as it was."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.fx

from gridstone.ir.dtype import dtype
from gridstone.ir.epilogue import ACTIVATIONS
from gridstone.ir.graph import Graph, Ref
from gridstone.ir.spec import EXACT, Numerics, Spec
from gridstone.ir.text import parse_type
from gridstone.kernel_cache.host import host_target
from gridstone.lower.target import Target, parse_target
from gridstone.runtime.capture import Captured
from gridstone.runtime.linear_key import LinearKey, numerics_named, spec_of
from gridstone.runtime.match import LinearMatch, linear_matches
from gridstone.runtime.tensors import QuantTensor

# Ops that one of our families could replace: each that stays gets a reason.
FAMILIES = {
    "aten.linear": "gemm", "aten.mm": "gemm", "aten.addmm": "gemm", "aten.matmul": "gemm", "aten.bmm": "gemm",
    "aten.baddbmm": "gemm", "aten.einsum": "gemm", "aten.scaled_dot_product_attention": "attention",
    "aten.fft_rfft": "fft_conv", "aten.fft_fft": "fft_conv", "aten._sparse_mm": "spmm",
    "aten.sparse_sampled_addmm": "spmm",
}  # fmt: skip
LOOK_THROUGH = ("aten._to_copy", "aten.to", "aten.detach", "aten.alias", "aten.contiguous")


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
class Fallback:
    """A part of a program that runs as PyTorch would have run it, and why."""

    node: str
    op: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A program whose matched parts are `gridstone::` calls.

    Args:
        module: Takes the packed buffer wherever the original took a QuantTensor.
        inputs: Fake inputs of the module.
        packed: Positions of the inputs that are packed buffers.
        matched, fallbacks: What became of each part.
    """

    module: torch.fx.GraphModule
    inputs: tuple[Any, ...]
    packed: tuple[int, ...]
    matched: tuple[Matched, ...]
    fallbacks: tuple[Fallback, ...]


def weight_of(graph: Graph, name: str) -> str:
    """Return the input that a weight comes from, through casts, detaches and copies."""
    node = graph[name]
    while node.target in LOOK_THROUGH and isinstance(node.arguments[0], Ref):
        node = graph[node.arguments[0].node]
    return node.name


def rewrite(captured: Captured, tune: str, target: str) -> Rewritten:
    """Replace every linear layer on a quantised weight that some recipe can compute.

    Args:
        captured: The program; its module is changed in place.
        tune: Policy of the calls.
        target: A target, or `auto`.
    """
    graph, module = captured.graph, captured.module
    nodes = {node.name: node for node in module.graph.nodes}
    on = host_target() if target == "auto" else parse_target(target)
    matched: list[Matched] = []
    reasons: dict[str, str] = {}
    for match in _candidates(captured):
        resolved = replace(match, w=weight_of(graph, match.w))
        weight = captured.weights.get(resolved.w)
        reason = _refusal(resolved, weight, graph, on)
        if reason:
            reasons.update(dict.fromkeys(match.nodes, reason))
            continue
        assert weight is not None
        numerics = _numerics(captured, match)
        key = LinearKey(parse_type(weight.key), match.activation, numerics, tune, target)
        matched.append(_replace(nodes, graph, resolved, key))
    for name, weight in captured.weights.items():
        _decode_leftover(module, nodes[name], weight)
    module.graph.eliminate_dead_code()
    module.recompile()
    left = {node.name for node in module.graph.nodes}
    fallbacks = [
        Fallback(name, node.target, reasons.get(name, _why_unmatched(node.target)))
        for name, node in graph.nodes.items()
        if node.target in FAMILIES and name in left
    ]
    packed = tuple(i for i, value in enumerate(captured.inputs) if isinstance(value, QuantTensor))
    inputs = tuple(value.packed if isinstance(value, QuantTensor) else value for value in captured.inputs)
    return Rewritten(module, inputs, packed, tuple(matched), tuple(fallbacks))


def _candidates(captured: Captured) -> list[LinearMatch]:
    """Patterns, and the calls that a program made to `gridstone.linear` itself."""
    explicit = [
        LinearMatch(name, frozenset({name}), *_names(node.arguments[:4]), activation=str(node.arguments[4]))
        for name, node in captured.graph.nodes.items()
        if node.target == "gridstone.qlinear"
    ]
    return [*linear_matches(captured.graph), *explicit]


def _names(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(argument.node if isinstance(argument, Ref) else None for argument in arguments)


def _numerics(captured: Captured, match: LinearMatch) -> Numerics:
    node = captured.graph[match.root]
    return numerics_named(str(node.arguments[5])) if node.target == "gridstone.qlinear" else EXACT


def _why_unmatched(op: str) -> str:
    family = FAMILIES[op]
    if family == "gemm":
        return "not a product of activations with a quantised weight; gridstone.quantize_model quantises linear layers"
    return f"no recipe for {family} yet"


def _refusal(match: LinearMatch, weight: QuantTensor | None, graph: Graph, target: Target) -> str:
    """Return why a match stays with PyTorch, or nothing."""
    if weight is None:
        return f"the weight is a plain {graph[match.w].dtype} tensor; gridstone.quantize_model quantises linear layers"
    if match.transposed != weight.transposed:
        return "the product runs along N of the stored weight, whose groups lie along K: it is decoded at every call"
    if match.activation and match.activation not in ACTIVATIONS:
        return f"no epilogue {match.activation!r}"
    if graph[match.x].dtype not in ("float32", "bfloat16", "float16"):
        return f"activations of {graph[match.x].dtype}"
    return ""


def _replace(nodes: dict[str, torch.fx.Node], graph: Graph, match: LinearMatch, key: LinearKey) -> Matched:
    root = nodes[match.root]
    fx = root.graph
    kinds = {role: graph[name].dtype for role in ("x", "bias", "residual") if (name := getattr(match, role))}
    if kinds["x"] != graph[match.root].dtype:  # autocast cast the operands of the calls that this one replaces
        kinds = dict.fromkeys(kinds, graph[match.root].dtype)
    with fx.inserting_before(root):
        x, bias, residual = (
            _cast(nodes[name], kinds[role]) if (name := getattr(match, role)) else None
            for role in ("x", "bias", "residual")
        )
        operands = (x, nodes[match.w], bias, residual)
        call = fx.call_function(torch.ops.gridstone.linear.default, (*operands, str(key)))
    call.meta["val"] = root.meta["val"]
    root.replace_all_uses_with(call)
    fx.erase_node(root)
    nodes[match.root] = call
    rows: int | None = 1
    for extent in graph[match.x].shape[:-1]:
        rows = None if rows is None or extent is None else rows * extent
    types = {role: dtype(kind) for role, kind in kinds.items()}
    return Matched(match.root, spec_of(key, types["x"], types.get("bias"), types.get("residual")), rows, key)


def _cast(node: torch.fx.Node, kind: str) -> torch.fx.Node:
    value = node.meta["val"]
    if value.dtype == getattr(torch, kind):
        return node
    cast = node.graph.call_function(torch.ops.aten._to_copy.default, (node,), {"dtype": getattr(torch, kind)})
    cast.meta["val"] = value.to(getattr(torch, kind))
    return cast


def _decode_leftover(module: torch.fx.GraphModule, weight: torch.fx.Node, tensor: QuantTensor) -> None:
    """Let users of a quantised weight that were not replaced read its decoded form."""
    others = [user for user in weight.users if user.target != torch.ops.gridstone.linear.default]
    weight.meta["val"] = tensor.packed
    if not others:
        return
    with module.graph.inserting_after(weight):
        decoded = module.graph.call_function(
            torch.ops.gridstone.dequantize.default, (weight, tensor.key, tensor.transposed, str(tensor.dtype))
        )
    decoded.meta["val"] = None
    for user in others:
        user.replace_input_with(weight, decoded)
