"""Interpreting one of Dynamo's graphs under a tracer, with a note of which recorded call comes from which of its nodes.

A quantised weight enters every call that reads it as a plain stand-in. What cannot be traced without losing what it
switches on (modes, `torch.func`, higher-order ops), or cannot be traced at all, becomes one opaque call that no match
crosses.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.fx
import torch.utils._pytree as pytree
from torch.fx.experimental.proxy_tensor import get_proxy_mode, get_proxy_slot

from gridstone.ir.errors import CaptureError, GridstoneError
from gridstone.runtime.aten import MUTATES, Opaque, Untraced, name_of
from gridstone.runtime.dynamo_node import changes_weight, example, quantised
from gridstone.runtime.tensors import QuantTensor

ENTER, EXIT, GRAD = SWITCHES = ("_enter_autocast", "_exit_autocast", "_set_grad_enabled")
DECODE = "dequantize"
VALUES = (torch.Tensor, torch.SymInt, torch.SymFloat, torch.SymBool, int, float)


class Interpreter(torch.fx.Interpreter):
    """Runs Dynamo's graph under a tracer and notes which recorded call comes from which of its nodes."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, torch.fx.Node] = {}
        self.makers: dict[str, torch.fx.Node] = {}
        self.made: dict[torch.fx.Node, tuple[str, ...]] = {}
        self.weights: dict[str, torch.fx.Node] = {}
        self.results: dict[torch.fx.Node, tuple[str | None, ...]] = {}
        self.opaque: dict[torch.fx.Node, str] = {}
        self._opaques: list[Opaque] = []
        self._inputs: dict[str, str] = {}
        self._order: dict[str, int] = {}
        self._read: list[torch.Tensor] = []  # by opaque calls: kept in the trace, as if they were returned
        self._autocasts: list[Any] = []
        self._nesting = 0  # of torch.func's transforms

    def untraced(self) -> Untraced:
        """Return what the recorded calls do not say."""
        return Untraced(self._opaques, self._inputs, self._order)

    def leave_autocast(self) -> None:
        """Leave what an interrupted run has entered."""
        while self._autocasts:
            self._autocasts.pop().__exit__(None, None, None)

    def run_node(self, n: torch.fx.Node) -> Any:
        """Run, replace or note one node of Dynamo's."""
        if n.op == "output":
            return self._finish(n)
        if n.op == "placeholder":
            return super().run_node(n)
        if n.op == "get_attr":
            value = example(n)
            return self._stand_in(value) if isinstance(value, torch.Tensor) else super().run_node(n)
        result = self._called(n)
        if not isinstance(result, QuantTensor):
            self._note(n, result)
        return result

    def _finish(self, node: torch.fx.Node) -> list[torch.Tensor]:
        returned = [leaf for given in node.all_input_nodes for leaf in pytree.tree_leaves(self.env[given])]
        tracer_nodes = self._tracer().graph.nodes
        self._order.update({node.name: at for at, node in enumerate(tracer_nodes)})
        return [leaf for leaf in (*returned, *self._read) if self._name(leaf)]

    def _called(self, node: torch.fx.Node) -> Any:
        name, value = name_of(node.target), example(node)
        if name in SWITCHES:
            return self._switch(node, name)
        reason = self._transform(node, name)
        if not reason and isinstance(node.target, torch._ops.HigherOrderOperator):
            reason = f"{name} is a higher-order op"
        if not reason and not any(isinstance(leaf, VALUES) for leaf in pytree.tree_leaves(value)):
            reason = f"{name} gives no value"  # it is called for what it changes
        if name == DECODE and any(quantised(given) is not None for given in node.all_input_nodes):
            reason = "the program decodes the weight itself"
        if isinstance(value, QuantTensor):
            if reason or changes_weight(node):
                self._skip(node, reason or f"{name} changes a quantised weight in place")
            return value
        if reason:
            return self._skip(node, reason)
        nodes = self._tracer().graph.nodes
        last = next(iter(reversed(nodes)), None)
        made = lambda: [n.name for n in itertools.takewhile(lambda n: n is not last, reversed(nodes))]  # noqa: E731
        try:
            result = self._run(node)
            calls = [name for name in reversed(made()) if name not in self.weights]
            self.made[node] = tuple(calls)
            self.makers.update(dict.fromkeys(calls, node))
            return result
        except Exception as error:  # whatever it is, the call stays as the program has it
            self._inputs.update(dict.fromkeys(made(), ""))
            why = error.problem if isinstance(error, GridstoneError) else f"{type(error).__name__}: {error}"
            return self._skip(node, f"{name} cannot be matched: {why}")

    def _run(self, node: torch.fx.Node) -> Any:
        """Run a call with a stand-in for every quantised weight that it reads."""
        kinds = [leaf.dtype for leaf in pytree.tree_leaves(example(node)) if isinstance(leaf, torch.Tensor)]
        stand_ins: dict[torch.fx.Node, torch.Tensor] = {}
        for given in node.all_input_nodes:
            weight = self.env[given]
            if isinstance(weight, QuantTensor):  # it takes part in a product of any dtype, a plain one must have it
                dtype = next((kind for kind in kinds if kind.is_floating_point), weight.dtype)
                stand_in = torch.empty(weight.shape, dtype=dtype, device=weight.device)
                stand_ins[given] = stand_in
                self._made_up(stand_in, "")
                self.weights[self._name(stand_in) or ""] = given
        load = lambda given: stand_ins.get(given, self.env[given])  # noqa: E731
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), load)
        result = getattr(self, node.op)(node.target, args, kwargs)
        if _types(result) != _types(example(node)):
            raise CaptureError("its operands have different dtypes", "cast them to x's dtype to have it matched")
        return result

    def _switch(self, node: torch.fx.Node, name: str) -> Any:
        """Switch autocast or gradients as the program does: the one decides dtypes, both what Python code calls."""
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        with torch._C.DisableTorchFunction():  # the tracer would record the switch and leave it as it was
            result = self.call_function(node.target, args, kwargs)  # pyright: ignore[reportArgumentType]
        if name == ENTER:
            self._autocasts.append(result)
        elif name == EXIT:
            self._autocasts.remove(args[0])
        self._opaques.append(Opaque(node.name + MUTATES, name + MUTATES, len(self._tracer().graph.nodes)))
        return result

    def _transform(self, node: torch.fx.Node, name: str) -> str:
        """Return why a node belongs to one of torch.func's transforms, or nothing."""
        if "functorch" in str(getattr(node.target, "__module__", "")):
            self._nesting += name.endswith("increment_nesting") - name.endswith("decrement_nesting")
            return f"{name} is a part of a transform of torch.func"
        return "a transform of torch.func is applied to it" if self._nesting else ""

    def _skip(self, node: torch.fx.Node, reason: str) -> Any:
        """Make a node opaque; its result is made up in the shape that Dynamo found."""
        self.opaque[node] = reason
        leaves = [leaf for given in node.all_input_nodes for leaf in pytree.tree_leaves(self.env[given])]
        reads = {name: leaf for leaf in leaves if (name := self._name(leaf))}
        self._read.extend(reads.values())
        giver = node.name + MUTATES
        at = len(self._tracer().graph.nodes)
        self._opaques.append(Opaque(giver, name_of(node.target) + MUTATES, at, tuple(reads)))
        value = example(node)
        return value if isinstance(value, QuantTensor) else pytree.tree_map(lambda v: self._stand_in(v, giver), value)

    def _stand_in(self, value: Any, giver: str = "") -> Any:
        if not isinstance(value, torch.Tensor) or isinstance(value, QuantTensor):
            return value
        try:
            made = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)
        except Exception:  # a sparse tensor has no strides, a batched one refuses: whatever reads it is opaque as well
            return None
        self._made_up(made, giver)
        return made

    def _made_up(self, tensor: torch.Tensor, giver: str) -> None:
        name = self._name(tensor)
        if name is not None:
            self._inputs[name] = giver

    def _note(self, node: torch.fx.Node, result: Any) -> None:
        self.results[node] = tuple(self._name(leaf) for leaf in pytree.tree_leaves(result))
        name = self._name(result)
        if name is not None:
            self.values.setdefault(name, node)

    def _name(self, value: Any) -> str | None:
        """Return the recorded call that a tensor is the value of."""
        if not isinstance(value, torch.Tensor) or isinstance(value, QuantTensor):
            return None
        slot = get_proxy_slot(value, self._tracer(), None)
        return None if slot is None else slot.proxy.node.name

    def _tracer(self) -> Any:
        mode = get_proxy_mode()
        if mode is None:
            raise CaptureError("the tracer is gone in the middle of a trace")
        return mode.tracer


def _types(value: Any) -> list[tuple[torch.dtype, int]]:
    return [(leaf.dtype, leaf.dim()) for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]
