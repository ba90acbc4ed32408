"""Refusals: why a part of a program is left to PyTorch, in words for people."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
import torch.fx

from gridstone.ir.epilogue import ACTIVATIONS
from gridstone.ir.graph import Node, references
from gridstone.runtime.aten import MUTATES, name_of
from gridstone.runtime.capture import Captured
from gridstone.runtime.dynamo_node import quantised
from gridstone.runtime.interpret import DECODE
from gridstone.runtime.match import LinearMatch

# Ops that one of our families could replace: each that stays gets a reason.
FAMILIES = {
    "aten.linear": "gemm", "aten.mm": "gemm", "aten.addmm": "gemm", "aten.matmul": "gemm", "aten.bmm": "gemm",
    "aten.baddbmm": "gemm", "aten.einsum": "gemm", "aten.scaled_dot_product_attention": "attention",
    "aten.fft_rfft": "fft_conv", "aten.fft_fft": "fft_conv", "aten._sparse_mm": "spmm",
    "aten.sparse_sampled_addmm": "spmm",
}  # fmt: skip
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Fallback:
    """A part of a program that runs as PyTorch would have run it, and why."""

    node: str
    op: str
    reason: str


def refusal(match: LinearMatch, captured: Captured) -> str:
    """Return why a match stays with PyTorch, or nothing."""
    graph = captured.graph
    node = captured.weights.get(match.w)
    if match.x in captured.weights:
        return "the quantised weight is the left operand of the product: it runs as in eager mode"
    if match.bias in captured.weights or match.residual in captured.weights:
        return "what is added is a quantised weight: it runs as in eager mode"
    if node is None:
        if any(graph[giver].target == DECODE + MUTATES for giver in references(graph[match.w].arguments)):
            return "the program decodes the weight itself; multiply with it as it is, without .dequantize()"
        return f"the weight is a plain {graph[match.w].dtype} tensor; gridstone.quantize_model quantises linear layers"
    weight = quantised(node)
    assert weight is not None
    if match.transposed != weight.transposed:
        return "the product runs along N of the stored weight, whose groups lie along K: it is decoded at every call"
    if match.activation and match.activation not in ACTIVATIONS:
        return f"no epilogue {match.activation!r}"
    if graph[match.x].dtype not in DTYPES:
        return f"activations of {graph[match.x].dtype}: it runs as in eager mode"
    if node not in captured.packed:
        return "the program computes or changes the weight: it runs as in eager mode"
    return ""


def hiding(match: LinearMatch, captured: Captured) -> list[torch.fx.Node]:
    """Return the program's calls that hold a part of a match beside something else, or one of its operands."""
    makers = {captured.makers[name] for name in match.nodes}
    operands = [name for name in (match.x, match.bias, match.residual, match.root) if name]
    hidden = [captured.makers[name] for name in operands if name not in captured.values]
    wider = [
        maker
        for maker in makers
        if any(name in captured.graph.nodes and name not in match.nodes for name in captured.made[maker])
    ]
    return list(dict.fromkeys([*wider, *hidden]))


def fallbacks(
    captured: Captured,
    covered: Collection[str],
    reasons: Mapping[str, str],
    callers: Collection[torch.fx.Node],
) -> list[Fallback]:
    """Return what stays with PyTorch of our families, and of the calls that read a quantised weight.

    Args:
        captured: The program.
        covered: Calls that were replaced.
        reasons: Why matched calls stay, by name.
        callers: Higher-order calls that were rewritten with the graphs that they call.
    """
    found: list[Fallback] = []
    for name, node in captured.graph.nodes.items():
        reads_weight = any(given in captured.weights for given in references(node.arguments))
        if name not in covered and (node.target in FAMILIES or reads_weight):
            maker = captured.makers.get(name)
            found.append(
                Fallback(maker.name if maker else name, node.target, reasons.get(name) or _why(node, reads_weight))
            )
    for node, reason in captured.opaque.items():
        reads_weight = any(quantised(given) is not None for given in node.all_input_nodes)
        if reads_weight and node not in callers and name_of(node.target) != DECODE:
            found.append(Fallback(node.name, name_of(node.target), f"{reason}: it runs as in eager mode"))
    return found


def _why(node: Node, reads_weight: bool) -> str:
    if reads_weight:
        return (
            "of what reads a quantised weight, F.linear, x @ w, mm and addmm of a vector are matched: "
            "it runs as in eager mode"
        )
    family = FAMILIES[node.target]
    if family == "gemm":
        return "not a product of activations with a quantised weight; gridstone.quantize_model quantises linear layers"
    return f"no recipe for {family} yet"
