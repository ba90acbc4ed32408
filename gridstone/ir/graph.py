"""Graph: a captured program as values, free of torch. What patterns are, and what they are matched in.

Nodes are frozen; the graph indexes them once in a networkx digraph whose edges run from a value to its users.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import networkx as nx

Constant = None | bool | int | float | str


@dataclass(frozen=True, slots=True)
class Ref:
    """The value of a node."""

    node: str

    def __str__(self) -> str:
        return f"%{self.node}"


Argument = Ref | Constant | tuple["Argument", ...]

INPUT = "input"  # target of a node that is fed from outside
OUTPUT = "output"  # target of the node that holds the results


@dataclass(frozen=True, slots=True)
class Node:
    """One call.

    Args:
        name: Unique in its graph.
        target: Normalised op, such as `aten.linear`; `INPUT` or `OUTPUT` for the ends.
        arguments: Values, constants, or nested tuples of them, defaults filled in.
        shape: Extents of the result, the text of a symbolic one. Empty for a result that is no tensor.
        dtype: torch's name of the result's dtype, or empty.
    """

    name: str
    target: str
    arguments: tuple[Argument, ...] = ()
    shape: tuple[int | str, ...] = ()
    dtype: str = ""

    def __str__(self) -> str:
        arguments = ", ".join(_show(argument) for argument in self.arguments)
        extents = ",".join(map(str, self.shape))
        return f"%{self.name} = {self.target}({arguments}) : {self.dtype}({extents})"


def _show(argument: Argument) -> str:
    if isinstance(argument, tuple):
        return "(" + ", ".join(_show(item) for item in argument) + ")"
    return str(argument)


def references(argument: Argument) -> Iterator[str]:
    """Yield the names of the nodes that an argument reads."""
    if isinstance(argument, Ref):
        yield argument.node
    elif isinstance(argument, tuple):
        for item in argument:
            yield from references(item)


class Graph:
    """Nodes in an order in which every value precedes its users."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes = {node.name: node for node in nodes}
        self._users: nx.DiGraph[str] = nx.DiGraph()
        self._users.add_nodes_from(self.nodes)
        for node in self.nodes.values():
            for name in references(node.arguments):
                self._users.add_edge(name, node.name)
        assert nx.is_directed_acyclic_graph(self._users), "a captured program has no cycles"

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def users(self, name: str) -> tuple[str, ...]:
        """Return the nodes that read a value."""
        return tuple(self._users.successors(name))

    def result(self) -> str:
        """Return the name of the single value that the graph returns."""
        (output,) = (node for node in self.nodes.values() if node.target == OUTPUT)
        (name,) = references(output.arguments)
        return name

    def __str__(self) -> str:
        return "\n".join(map(str, self.nodes.values()))
