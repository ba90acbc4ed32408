"""Matching: where a captured program does what a pattern does."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol

import torch

from gridstone.ir.graph import INPUT, Argument, Graph, Node, Ref
from gridstone.runtime.aten import MUTATES, record, to_graph
from gridstone.runtime.patterns.linear import BASES, EPILOGUES, Pattern

COMMUTATIVE = ("aten.add", "aten.mul")


class Facts(Protocol):
    """What is known of the values of a captured program, beside their types."""

    def is_dense(self, root: str) -> bool:
        """Whether the elements of a value lie one after the other, as those of a kernel's result do."""
        ...

    def passes(self, root: str) -> bool:
        """Whether a gradient may pass back through a value."""
        ...

    def lasts(self, operand: str, root: str) -> bool:
        """Whether an operand still has its value when the gradient passes back through a fused call at `root`."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """One occurrence of a pattern: what its inputs are bound to, and the nodes that it covers."""

    inputs: Mapping[str, str]
    nodes: frozenset[str]


@dataclass(frozen=True, slots=True)
class LinearMatch:
    """A linear layer with the epilogues that follow it.

    Args:
        root: The node whose value the layer computes.
        nodes: Everything that it replaces.
        x, w, bias, residual: Names of the nodes that feed it; None where there is none.
        transposed: Whether w is stored as the transpose of what the program multiplies with.
        activation: Name, or empty.
        numerics: Class that the program names, or empty.
    """

    root: str
    nodes: frozenset[str]
    x: str
    w: str
    bias: str | None = None
    residual: str | None = None
    transposed: bool = False
    activation: str = ""
    numerics: str = ""


@cache
def captured_pattern(pattern: Pattern) -> tuple[Graph, tuple[str, ...]]:
    """Return a pattern's graph and the names of its input nodes, in the order of `pattern.inputs`."""
    traced = record(pattern.function, [torch.empty(shape, device="meta") for _, shape in pattern.inputs])
    graph = to_graph(traced.graph)
    return graph, tuple(node.name for node in graph.nodes.values() if node.target == INPUT)


def find(pattern: Pattern, graph: Graph, root: str, bound: Mapping[str, str] | None = None) -> Found | None:
    """Return how a pattern occurs with its result at a node, or None.

    `bound` fixes inputs beforehand, so that of a sum's two operands the right one is taken for it.
    Nodes inside an occurrence must have no users outside it, since they will no longer be computed.
    """
    shape, names = captured_pattern(pattern)
    roles = dict(zip(names, (role for role, _ in pattern.inputs), strict=True))
    state = _unify(shape, graph, Ref(shape.result()), Ref(root), roles, (dict(bound or {}), frozenset()))
    if state is None:
        return None
    inputs, covered = state
    for node in covered - {root}:
        if not set(graph.users(node)) <= covered:
            return None
    return Found(inputs, covered)


_State = tuple[dict[str, str], frozenset[str]]


def _unify(
    pattern: Graph, graph: Graph, want: Argument, have: Argument, roles: Mapping[str, str], state: _State
) -> _State | None:
    if isinstance(want, Ref):
        if not isinstance(have, Ref):
            return None
        if want.node in roles:
            role = roles[want.node]
            bound, covered = state
            if role in bound:
                return state if bound[role] == have.node else None
            return {**bound, role: have.node}, covered
        return _unify_node(pattern, graph, pattern[want.node], graph[have.node], roles, state)
    if isinstance(want, tuple):
        if not isinstance(have, tuple) or len(want) != len(have):
            return None
        return _unify_all(pattern, graph, want, have, roles, state)
    if isinstance(have, Ref | tuple):
        return None
    same = want == have and isinstance(want, bool) == isinstance(have, bool)  # True is no 1, but 3 is 3.0
    return state if same else None


def _unify_node(
    pattern: Graph, graph: Graph, want: Node, have: Node, roles: Mapping[str, str], state: _State
) -> _State | None:
    if want.target != have.target:
        return None
    bound, covered = state
    inside = (bound, covered | {have.name})
    straight = _unify_all(pattern, graph, want.arguments, have.arguments, roles, inside)
    if straight is not None or want.target not in COMMUTATIVE:
        return straight
    first, second, *rest = have.arguments
    return _unify_all(pattern, graph, want.arguments, (second, first, *rest), roles, inside)


def _unify_all(
    pattern: Graph,
    graph: Graph,
    want: tuple[Argument, ...],
    have: tuple[Argument, ...],
    roles: Mapping[str, str],
    state: _State | None,
) -> _State | None:
    if len(want) != len(have):
        return None
    for wanted, had in zip(want, have, strict=True):
        if state is None:
            return None
        state = _unify(pattern, graph, wanted, had, roles, state)
    return state


def linear_at(graph: Graph, root: str, taken: Set[str], facts: Facts) -> LinearMatch | None:
    """Return the linear layer whose product is computed at a node, with the epilogues that are not taken yet."""
    for pattern in BASES:
        found = find(pattern, graph, root)
        if found is None:
            continue
        bias = found.inputs.get("bias")
        if len(graph[found.inputs["w"]].shape) != 2 or (bias is not None and not _is_bias(graph[bias], graph[root])):
            continue
        match = LinearMatch(
            root, found.nodes, found.inputs["x"], found.inputs["w"], bias, transposed=pattern.role == "transposed"
        )
        return _with_epilogues(graph, match, taken, facts)
    return None


def _with_epilogues(graph: Graph, match: LinearMatch, taken: Set[str], facts: Facts) -> LinearMatch:
    while True:
        longer = _next_epilogue(graph, match, facts)
        if longer is None or longer.nodes & taken or _mutates_between(graph, match.root, longer.root):
            return match
        match = longer


def _mutates_between(graph: Graph, first: str, last: str) -> bool:
    """Whether a tensor is changed in place between two nodes: an operand read later might have another value."""
    names = list(graph.nodes)
    return any(graph[name].target.endswith(("_", MUTATES)) for name in names[names.index(first) : names.index(last)])


def _next_epilogue(graph: Graph, match: LinearMatch, facts: Facts) -> LinearMatch | None:
    """Return the match extended by one epilogue, in the order bias, activation, residual."""
    if match.residual is not None:
        return None
    for pattern in EPILOGUES:
        if pattern.role == "bias" and (match.bias is not None or match.activation):
            continue
        if pattern.role not in ("bias", "residual") and match.activation:
            continue
        for root in _downstream(graph, match.root):
            found = find(pattern, graph, root, {"y": match.root})
            if found is None or not set(graph.users(match.root)) <= found.nodes:
                continue
            if not _same_type(graph[root], graph[match.root]):  # widened by an operand, or by autocast
                continue
            grown = replace(match, root=root, nodes=match.nodes | found.nodes)
            if pattern.role == "bias":
                bias = found.inputs["bias"]
                if not _is_bias(graph[bias], graph[match.root]):
                    continue
                return replace(grown, bias=bias)
            if pattern.role == "residual":
                residual = found.inputs["residual"]
                if residual == match.root or not _same_type(graph[residual], graph[match.root]):
                    continue
                if not facts.is_dense(root):
                    continue
                return replace(grown, residual=residual)
            if pattern.kink and facts.passes(root):
                continue
            if all(facts.lasts(operand, root) for operand in (match.x, match.bias) if operand):
                return replace(grown, activation=pattern.role)
    return None


def _downstream(graph: Graph, name: str) -> list[str]:
    """Return the nodes near a value's users that an epilogue pattern may end at, nearest first."""
    found: dict[str, None] = {}
    edge = [name]
    for _ in range(8):
        edge = [user for node in edge for user in graph.users(node) if user not in found]
        found.update(dict.fromkeys(edge))
        if not edge or len(found) > 32:
            break
    return list(found)


def _is_bias(bias: Node, y: Node) -> bool:
    return len(bias.shape) == 1 and bias.shape == y.shape[-1:]


def _same_type(a: Node, b: Node) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype


def linear_matches(graph: Graph, facts: Facts) -> list[LinearMatch]:
    """Return every linear layer of a graph, in order; no node is covered twice.

    Args:
        graph: A captured program.
        facts: What is known of it. An activation is not fused where its gradient would be another one, nor a residual
            where the sum lies in memory as that does.
    """
    covered: set[str] = set()
    matches: list[LinearMatch] = []
    for name in graph.nodes:
        if name in covered:
            continue
        match = linear_at(graph, name, covered, facts)
        if match is not None and not match.nodes & covered:
            covered |= match.nodes
            matches.append(match)
    return matches


def explicit_matches(graph: Graph) -> list[LinearMatch]:
    """Return the calls that a program made to `gridstone.linear` itself."""
    matches: list[LinearMatch] = []
    for name, node in graph.nodes.items():
        if node.target != "gridstone.qlinear":
            continue
        x, w, bias, residual = (given.node if isinstance(given, Ref) else None for given in node.arguments[:4])
        assert x is not None
        assert w is not None
        activation, numerics = map(str, node.arguments[4:6])
        matches.append(LinearMatch(name, frozenset({name}), x, w, bias, residual, False, activation, numerics))
    return matches
