"""Capture: what one of Dynamo's graphs means, as a graph that patterns are matched in.

Dynamo's graph keeps a program's spellings and stays the program that runs. It is interpreted once, on Dynamo's own fake
tensors, by a tracer that records ATen calls; each of them remembers which of Dynamo's nodes made it.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
import torch.utils._pytree as pytree
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from gridstone.ir.graph import Graph, references
from gridstone.runtime.aten import MUTATES, record, to_graph
from gridstone.runtime.dynamo_node import example, packed_inputs
from gridstone.runtime.interpret import Interpreter
from gridstone.runtime.tensors import QuantTensor


@dataclass(frozen=True, slots=True)
class Captured:
    """One of Dynamo's graphs beside what it means.

    Args:
        module: Dynamo's.
        graph: Normalised ATen calls, the opaque ones between them.
        recorded: The ATen calls as they were recorded, by name.
        values: Dynamo's node that has the same value, by name of a call.
        makers: Dynamo's node that made a call, by its name.
        made: Names of the calls that a node of Dynamo's made.
        weights: Dynamo's node of the quantised weight, by name of the stand-in for it.
        packed: Input that holds the codes, by Dynamo's node of a quantised weight.
        results: Names of the values that a node of Dynamo's gives, in the order of its flattened result.
        opaque: Why a node of Dynamo's is opaque.
        dense: Names of the calls whose results' elements lie one after the other.
    """

    module: torch.fx.GraphModule
    graph: Graph
    recorded: Mapping[str, torch.fx.Node]
    values: Mapping[str, torch.fx.Node]
    makers: Mapping[str, torch.fx.Node]
    made: Mapping[torch.fx.Node, tuple[str, ...]]
    weights: Mapping[str, torch.fx.Node]
    packed: Mapping[torch.fx.Node, torch.fx.Node]
    results: Mapping[torch.fx.Node, tuple[str | None, ...]]
    opaque: Mapping[torch.fx.Node, str]
    dense: frozenset[str]

    def is_dense(self, root: str) -> bool:
        """Whether the elements of a value lie one after the other."""
        return root in self.dense

    def passes(self, root: str) -> bool:
        """Whether a gradient may pass back through a value."""
        given = self.values.get(root)
        return given is not None and example(given).requires_grad

    def lasts(self, operand: str, root: str) -> bool:
        """Whether a value is still what it is when gradients are computed that a fused call at `root` is a part of.

        An activation's gradient is computed from the operands of the layer, while an unfused one keeps the product.
        """
        if not self.passes(root):
            return True
        memory = _memory(self.recorded[operand])
        later = itertools.islice(self.graph.nodes.values(), list(self.graph.nodes).index(root) + 1, None)
        changes = [node for node in later if node.target.endswith(("_", MUTATES))]
        changed = {name for node in changes for name in references(node.arguments) if name in self.recorded}
        return memory is not None and memory not in {_memory(self.recorded[name]) for name in changed}


def _memory(call: torch.fx.Node) -> int | None:
    """Return what tells the memory of a recorded value from that of others, if it is a tensor with memory."""
    value = call.meta.get("val")
    try:
        return value.untyped_storage()._cdata if isinstance(value, torch.Tensor) else None
    except NotImplementedError:  # a sparse tensor
        return None


def capture(module: torch.fx.GraphModule) -> Captured:
    """Capture one of Dynamo's graphs on the fake values that Dynamo left in it; the module is not changed.

    Raises:
        CaptureError: It cannot be interpreted; the cause is attached.
    """
    inputs = [example(node) for node in module.graph.nodes if node.op == "placeholder"]
    plain = [at for at, value in enumerate(inputs) if not isinstance(value, QuantTensor)]
    interpreter = Interpreter(module)

    def run(*given: Any) -> list[torch.Tensor]:
        everything = list(inputs)
        for at, value in zip(plain, given, strict=True):
            everything[at] = value
        return interpreter.run(*everything)

    with _fake(_mode_of(module)), torch.set_grad_enabled(torch.is_grad_enabled()):
        try:
            recorded = record(run, [inputs[at] for at in plain])
        finally:
            interpreter.leave_autocast()
        dense = frozenset(node.name for node in recorded.graph.nodes if _is_dense(node.meta.get("val")))
    placeholders = [node for node in recorded.graph.nodes if node.op == "placeholder"]
    given = [node for node in module.graph.nodes if node.op == "placeholder"]
    values = {node.name: given[at] for node, at in zip(placeholders, plain, strict=True)}
    return Captured(
        module,
        to_graph(recorded.graph, interpreter.untraced()),
        {node.name: node for node in recorded.graph.nodes},
        interpreter.values | values,
        interpreter.makers,
        interpreter.made,
        interpreter.weights,
        packed_inputs(module.graph),
        interpreter.results,
        interpreter.opaque,
        dense,
    )


def _is_dense(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and value.is_contiguous()


def _mode_of(module: torch.fx.GraphModule) -> FakeTensorMode:
    for node in module.graph.nodes:
        for value in pytree.tree_leaves(example(node)):
            inner = value.packed if isinstance(value, QuantTensor) else value
            if isinstance(inner, FakeTensor):
                return inner.fake_mode
    return FakeTensorMode(allow_non_fake_inputs=True)


@contextlib.contextmanager
def _fake(mode: FakeTensorMode) -> Iterator[None]:
    """Compute on fake values without leaving a trace in their shape environment: asking must cost no recompilation."""
    with contextlib.ExitStack() as stack:
        if mode.shape_env is not None:
            stack.enter_context(mode.shape_env.suppress_guards())
            stack.enter_context(mode.shape_env.ignore_fresh_unbacked_symbols())
        stack.enter_context(mode)
        failures = logging.getLogger(FakeTensor.__module__)  # a call that fails here is opaque: no alarm
        stack.callback(setattr, failures, "disabled", failures.disabled)
        failures.disabled = True
        yield
