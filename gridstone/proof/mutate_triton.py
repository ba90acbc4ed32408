"""Edits of Triton texts, each of which is a fault that somebody could have made.

Only functions that the entry point reaches are touched, and in them only branches whose conditions on the text's own
constants hold. Arguments that only bear on speed (`num_stages`, `eviction_policy` ...) are left alone, with constants
that nothing else reads, and so is inline PTX, which is a string.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gridstone.proof.edit import Edit

SPEED = frozenset(
    {"num_stages", "num_warps", "eviction_policy", "cache_modifier", "pack", "is_pure", "sem", "input_precision"}
)
HINTS = frozenset({"multiple_of", "max_contiguous", "max_constancy"})
MEMORY = frozenset({"load", "store", "atomic_add"})
EXTREMA = {"minimum": "maximum", "maximum": "minimum", "min": "max", "max": "min"}
_COMPARISONS: dict[type[ast.cmpop], tuple[str, str, str]] = {
    ast.Lt: ("relational", "<", "<="),
    ast.LtE: ("relational", "<=", "<"),
    ast.Gt: ("relational", ">", ">="),
    ast.GtE: ("relational", ">=", ">"),
    ast.Eq: ("equality", "==", "!="),
    ast.NotEq: ("equality", "!=", "=="),
}
_BINARY: dict[type[ast.operator], tuple[str, str, str]] = {
    ast.Add: ("arithmetic", "+", "-"),
    ast.Sub: ("arithmetic", "-", "+"),
    ast.FloorDiv: ("arithmetic", "//", "%"),
    ast.Mod: ("arithmetic", "%", "//"),
    ast.BitAnd: ("bitwise", "&", "|"),
    ast.BitOr: ("bitwise", "|", "&"),
    ast.BitXor: ("bitwise", "^", "|"),
}


def edits(text: str, entry: str) -> Iterator[Edit]:
    """Yield the edits of a text.

    Args:
        text: Triton as it is emitted.
        entry: The kernel's function.
    """
    tree = ast.parse(text)
    reader = _Reader(text, _constants(tree))
    live = [*live_nodes(text, entry)]
    constants = [node for node in tree.body if isinstance(node, ast.Assign)]
    read = {n.id for n in (*live, *reader.live(constants)) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    for node in constants:
        yield from reader.constant_edits(node, read)
    for node in live:
        yield from reader.edits(node)


def live_nodes(text: str, entry: str) -> Iterator[ast.AST]:
    """Yield the nodes that can run of every function that the entry point reaches, a function after the other."""
    tree = ast.parse(text)
    reader = _Reader(text, _constants(tree))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    reached, queue = {entry}, [entry]
    for name in queue:  # grows while it is read
        for node in reader.live(functions[name].body):
            yield node
            if isinstance(node, ast.Name) and node.id in functions and node.id not in reached:
                reached.add(node.id)
                queue.append(node.id)


class _Unknown(Exception):
    """An expression is not made of the text's constants."""


def _constants(tree: ast.Module) -> dict[str, object]:
    """Return the values of the text's constants, as far as they are numbers, truth values and names."""
    found: dict[str, object] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            target = node.targets[0]
            pairs = (
                zip(target.elts, node.value.elts, strict=True)
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                else [(target, node.value)]
            )
            for name, value in pairs:
                try:
                    found[ast.unparse(name)] = _value(value, found)
                except _Unknown:
                    continue
    return found


_OPERATIONS: dict[type, Callable[[Any, Any], object]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.LShift: operator.lshift, ast.Eq: operator.eq, ast.NotEq: operator.ne,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip


def _value(node: ast.expr, known: dict[str, object]) -> object:
    """Return the value of an expression of known constants."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Name() if node.id in known:
            return known[node.id]
        case ast.Attribute(attr="value"):
            return _value(node.value, known)
        case ast.Attribute(value=ast.Name(id="tl")):
            return ast.unparse(node)  # a type
        case ast.Call(func=ast.Attribute(attr="constexpr"), args=[inner]):
            return _value(inner, known)
        case ast.Call(func=ast.Name(id="max" | "min" as name), args=arguments):
            values = [_value(argument, known) for argument in arguments]
            return max(values) if name == "max" else min(values)  # type: ignore[type-var]
        case ast.BinOp() if type(node.op) in _OPERATIONS:
            return _OPERATIONS[type(node.op)](_value(node.left, known), _value(node.right, known))
        case ast.Compare(ops=[only], comparators=[right]) if type(only) in _OPERATIONS:
            return _OPERATIONS[type(only)](_value(node.left, known), _value(right, known))
        case ast.UnaryOp(op=ast.Not()):
            return not _value(node.operand, known)
        case ast.BoolOp():
            return _joined(node, known)
        case ast.IfExp():
            return _value(node.body if _value(node.test, known) else node.orelse, known)
        case _:
            raise _Unknown


def _joined(node: ast.BoolOp, known: dict[str, object]) -> bool:
    """Return the value of `and` or `or`, which one side may decide alone."""
    decides, doubtful = isinstance(node.op, ast.Or), False
    for part in node.values:
        try:
            if bool(_value(part, known)) is decides:
                return decides
        except _Unknown:
            doubtful = True
    if doubtful:
        raise _Unknown
    return not decides


@dataclass(frozen=True, slots=True)
class _Reader:
    """A text whose nodes are looked up by place.

    Args:
        text: All of it, ASCII.
        known: Values of its constants.
    """

    text: str
    known: dict[str, object]

    def live(self, body: Sequence[ast.AST]) -> Iterator[ast.AST]:
        """Yield every node that can run, in order of place."""
        for node in body:
            yield from self._live(node)

    def _live(self, node: ast.AST) -> Iterator[ast.AST]:
        yield node
        if isinstance(node, ast.If | ast.IfExp):
            yield from self._live(node.test)
            branches: list[ast.AST] = []
            for branch, taken in ((node.body, True), (node.orelse, False)):
                if self._decided(node.test) in (taken, None):
                    branches += branch if isinstance(branch, list) else [branch]
            for part in branches:
                yield from self._live(part)
            return
        for part in ast.iter_child_nodes(node):
            if isinstance(part, ast.keyword) and part.arg in SPEED:
                continue
            if isinstance(part, ast.arguments) or (isinstance(node, ast.AnnAssign) and part is node.annotation):
                continue
            if isinstance(node, ast.Call) and self._called(node) in HINTS and part is not node.args[0]:
                continue
            yield from self._live(part)

    def _decided(self, test: ast.expr) -> bool | None:
        try:
            return bool(_value(test, self.known))
        except _Unknown:
            return None

    @staticmethod
    def _called(node: ast.Call) -> str:
        return node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)

    def start(self, node: ast.expr | ast.stmt) -> int:
        """Return the place of a node's first character."""
        return self._place(node.lineno, node.col_offset)

    def end(self, node: ast.expr | ast.stmt) -> int:
        """Return the place behind a node's last character."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._place(node.end_lineno, node.end_col_offset)

    def _place(self, line: int, column: int) -> int:
        at = 0
        for _ in range(line - 1):
            at = self.text.index("\n", at) + 1
        return at + column

    def _between(self, left: ast.expr, right: ast.expr, old: str, new: str, kind: str) -> Edit:
        at = self.text.index(old, self.end(left), self.start(right))
        return Edit(kind, at, at + len(old), new)

    def _wrapped(self, kind: str, node: ast.expr, before: str, after: str) -> Edit:
        start, end = self.start(node), self.end(node)
        return Edit(kind, start, end, f"{before}{self.text[start:end]}{after}")

    def constant_edits(self, node: ast.Assign, read: set[str]) -> Iterator[Edit]:
        """Yield the edits of constants that anything but hints reads."""
        target = node.targets[0]
        pairs = (
            zip(target.elts, node.value.elts, strict=True)
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
            else [(target, node.value)]
        )
        for name, value in pairs:
            if ast.unparse(name) in read:
                for part in self.live([value]):
                    yield from self.edits(part)

    def edits(self, node: ast.AST) -> Iterator[Edit]:
        """Yield the edits of one node, those of its parts excepted."""
        match node:
            case ast.Compare():
                for left, op, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
                    if type(op) in _COMPARISONS:
                        kind, old, new = _COMPARISONS[type(op)]
                        yield self._between(left, right, old, new, kind)
            case ast.BoolOp():
                old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
                for left, right in zip(node.values, node.values[1:], strict=False):
                    yield self._between(left, right, old, new, "logical")
            case ast.BinOp():
                yield from self._binary(node)
            case ast.UnaryOp():
                sign = 3 if isinstance(node.op, ast.Not) else 1
                yield Edit("negation", self.start(node), self.start(node) + sign, "")
            case ast.Constant():
                yield from self._constant(node)
            case ast.AugAssign():
                old = {ast.Add: "+=", ast.Sub: "-=", ast.Mult: "*="}[type(node.op)]
                yield self._between(node.target, node.value, old, "=", "accumulate")
                yield Edit("statement", self.start(node), self.end(node), "pass")
            case ast.Expr(value=ast.Call() as call):
                kind = "barrier" if "barrier" in self._called(call) else "statement"
                yield Edit(kind, self.start(node), self.end(node), "pass")
            case ast.Call():
                yield from self._call(node)
            case ast.If() | ast.IfExp():
                for value in ("True", "False"):
                    yield Edit("condition", self.start(node.test), self.end(node.test), value)
            case _:
                return

    def _binary(self, node: ast.BinOp) -> Iterator[Edit]:
        if type(node.op) in _BINARY:
            kind, old, new = _BINARY[type(node.op)]
            yield self._between(node.left, node.right, old, new, kind)
        elif isinstance(node.op, ast.LShift | ast.RShift):
            at = self.start(node.right)
            yield Edit("shift", at, at, "1 + ")
            yield Edit("shift", at, at, "-1 + ")
        elif isinstance(node.op, ast.Mult):
            at, end = self.text.index("*", self.end(node.left), self.start(node.right)), self.end(node.right)
            for _ in range(self.text.count("(", at, self.start(node.right))):
                end = self.text.index(")", end) + 1
            yield Edit("arithmetic", at, end, "")

    def _constant(self, node: ast.Constant) -> Iterator[Edit]:
        start, end = self.start(node), self.end(node)
        value, spelled = node.value, self.text[start:end]
        if self.text[:start].rstrip().endswith(("<<", ">>")):
            return  # the shift's own edits
        if isinstance(value, bool):
            yield Edit("boolean", start, end, str(not value))
        elif isinstance(value, int):
            for other in (value + 1, value - 1):
                yield Edit("constant", start, end, f"0x{other:X}" if spelled.startswith("0x") else str(other))
            if spelled.startswith("0x") and value > 1:
                yield Edit("mask", start, end, f"0x{value & ~(1 << value.bit_length() - 1):X}")
        elif isinstance(value, float) and value == 0.0:
            yield Edit("zero", start, end, "1.0")

    def _call(self, node: ast.Call) -> Iterator[Edit]:
        name = self._called(node)
        if name in EXTREMA:
            at = self.end(node.func) - len(name)
            yield Edit("extremum", at, at + len(name), EXTREMA[name])
        if name in MEMORY:
            yield self._wrapped("index", node.args[0], "(", ") + 1")
            yield self._wrapped("index", node.args[0], "(", ") - 1")
        if name == "range":
            yield self._wrapped("index", node.args[-1], "(", ") + 1")
            yield self._wrapped("index", node.args[-1], "(", ") - 1")
        if name == "zeros":
            yield self._wrapped("zero", node, "(", " + 1)")
        if name == "where":
            yield self._wrapped("condition", node.args[0], "((", ") | True)")
            yield self._wrapped("condition", node.args[0], "((", ") & False)")
        for keyword in node.keywords:
            if keyword.arg == "mask":
                yield self._wrapped("mask", keyword.value, "(", ") | True")
