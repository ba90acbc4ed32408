"""Whether the threads of a Triton program wait for each other where they share scratch.

The interpreter runs a program as one thread, so a barrier that is missing changes nothing there. This reads the text
instead: between two accesses to what programs share, one of which writes, or one of which draws a ticket, a barrier
must stand. Accesses to different memory, neither of which draws a ticket, need none.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gridstone.proof.mutate_triton import live_nodes

SHARED = ("parts", "tickets")
ACCESSES = {"load": False, "store": True, "atomic_add": True}  # and whether they write


def missing_barrier(text: str, entry: str) -> str:
    """Return what is not kept apart, with its lines; empty when everything is."""
    since: list[tuple[int, str, str]] = []  # the last barrier
    for line, call, memory in _accesses(text, entry):
        if call == "debug_barrier":
            since.clear()
            continue
        for first, earlier, other in since:
            draws = "atomic_add" in (call, earlier) and memory != other
            conflict = memory == other and (ACCESSES[call] or ACCESSES[earlier])
            if draws or conflict:
                return f"no barrier between {earlier} of {other} at line {first} and {call} of {memory} at line {line}"
        since.append((line, call, memory))
    return ""


def _accesses(text: str, entry: str) -> Iterator[tuple[int, str, str]]:
    """Yield (line, call, memory) of every access to shared scratch, and of every barrier, in order of place."""
    for node in live_nodes(text, entry):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name = node.func.attr
        if name == "debug_barrier":
            yield node.lineno, name, ""
        elif name in ACCESSES:
            names = {part.id for part in ast.walk(node.args[0]) if isinstance(part, ast.Name)}
            for memory in SHARED:
                if memory in names:
                    yield node.lineno, name, memory
