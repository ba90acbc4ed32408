"""Edits of C++ and CUDA texts, each of which is a fault that somebody could have made."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gridstone.proof.c_frozen import BARRIERS, frozen, functions, scheduled, statement_end
from gridstone.proof.c_tokens import Code, Kind, read
from gridstone.proof.edit import Edit

RELATIONS = {"<": "<=", ">": ">=", "<=": "<", ">=": ">"}
EQUALITIES = {"==": "!=", "!=": "=="}
LOGIC = {"&&": "||", "||": "&&"}
BITS = {"&": "|", "|": "&", "^": "|"}
SUMS = {"+": "-", "-": "+", "/": "%", "%": "/"}
EXTREMA = {"min": "max", "max": "min", "at_most": "at_least", "at_least": "at_most"}
COMPOUND = ("+=", "-=", "*=", "/=", "|=", "&=", "^=")
ASSIGNMENTS = ("=", *COMPOUND, "<<=", ">>=")
_WAITS = re.compile(r"syncthreads|syncwarp|barrier|wait|commit|fence")
NO_INSTRUCTION = ("ptx::wgmma_hold",)  # calls that only tell a compiler where registers may change
_NO_CALLS = frozenset({"return", "if", "for", "while", "switch", "asm"})
_INTEGER = re.compile(r"(0[xX][0-9a-fA-F]+|\d+)([uUlL]*)")
_ZERO = re.compile(r"0(?:\.0*)?[fF]|0\.0*")
FILL = "0x3F"  # a byte that memory may be set to instead of zero: floats of 0.75


def edits(text: str, compiled: frozenset[int] | None = None, *, on_cpu: bool = False) -> Iterator[Edit]:
    """Yield the edits of a text.

    Args:
        text: C++ or CUDA as it is emitted.
        compiled: Numbers of the lines that have machine code, as an unoptimised build says. A function that has none is
            left alone: this kernel does not use it. Constant expressions leave none, so `constexpr` ones are not.
        on_cpu: Whether it is C++, where numbers that divide the work are left alone.
    """
    code = read(text)
    kept = frozen(code) | (_unused(code, compiled) if compiled is not None else frozenset())
    kept |= scheduled(code) if on_cpu else frozenset()
    body = {i for _, first, last in functions(code) for i in range(first + 1, last)}
    extents = _extents(code)
    pointers = _pointers(code)
    for at, token in enumerate(code.tokens):
        if at in kept:
            continue
        match token.kind:
            case Kind.DIRECTIVE if token.text.endswith(BARRIERS):
                yield Edit("barrier", token.start, token.end, "")
            case Kind.NUMBER:
                yield from _numbers(code, at, extents)
            case Kind.NAME:
                yield from _names(code, at)
            case Kind.MARK:
                yield from _marks(code, at, extents, pointers)
            case _:
                continue
        if at in body:
            yield from _statement(code, at)


def _unused(code: Code, compiled: frozenset[int]) -> frozenset[int]:
    """Return the tokens of functions that have no machine code."""
    line, last, lines = 1, 0, []
    for token in code.tokens:
        line, last = line + code.text.count("\n", last, token.start), token.start
        lines.append(line)
    found: set[int] = set()
    for _, first, end in functions(code):
        head = first
        while head > 0 and code.word(head - 1) not in (";", "}", "{") and code.kind(head - 1) is not Kind.DIRECTIVE:
            head -= 1
        constant = any(code.word(i) == "constexpr" for i in range(head, first))
        if not constant and not compiled.intersection(range(lines[first], lines[end] + 1)):
            found.update(range(head, end + 1))
    return frozenset(found)


# ---- one token ----------------------------------------------------------------------------------------------------


def _numbers(code: Code, at: int, extents: frozenset[int]) -> Iterator[Edit]:
    token, before = code.tokens[at], code.word(at - 1)
    if _fills(code, at):
        yield Edit("zero", token.start, token.end, FILL)
        return
    if _ZERO.fullmatch(token.text):
        yield Edit("zero", token.start, token.end, token.text.replace("0", "1", 1))
        return
    found = _INTEGER.fullmatch(token.text)
    if found is None:
        return
    value, base = int(found[1], 0), 16 if found[1][:2].lower() == "0x" else 10
    operator = "shift" if before in ("<<", ">>") else "constant"
    for other in (value - 1,) if at in extents else (value + 1, value - 1):
        if not (at in extents and other < 1):
            yield Edit(operator, token.start, token.end, _spelled(other, base) + found[2])
    if value > 1 and (base == 16 or "&" in (before, code.word(at + 1))):
        yield Edit("mask", token.start, token.end, _spelled(value & ~(1 << value.bit_length() - 1), base) + found[2])


def _spelled(value: int, base: int) -> str:
    return f"0x{value:X}" if base == 16 and value >= 0 else str(value)


def _fills(code: Code, at: int) -> bool:
    """Whether a number is what `memset` fills memory with."""
    opening = at - 1
    while opening > 0 and code.partner.get(opening, 0) <= opening:
        opening = code.partner.get(opening, opening) - 1
    return code.word(opening - 1) == "memset" and code.word(at - 1) == ","


def _names(code: Code, at: int) -> Iterator[Edit]:
    token = code.tokens[at]
    if token.text in ("true", "false"):
        yield Edit("boolean", token.start, token.end, "false" if token.text == "true" else "true")
    elif token.text in EXTREMA and code.word(at + 1) == "(" and code.word(code.partner[at + 1] + 1) != "{":
        yield Edit("extremum", token.start, token.end, EXTREMA[token.text])
    elif token.text == "if":
        opening = at + 2 if code.word(at + 1) == "constexpr" else at + 1
        yield from _forced(code, opening + 1, code.partner[opening] - 1)


def _forced(code: Code, first: int, last: int) -> Iterator[Edit]:
    for value in ("true", "false"):
        if code.span(first, last) != value:
            yield Edit("condition", code.tokens[first].start, code.tokens[last].end, value)


def _marks(code: Code, at: int, extents: frozenset[int], pointers: frozenset[str]) -> Iterator[Edit]:
    token = code.tokens[at]
    binary = code.ends_operand(at - 1)
    match token.text:
        case "<" | ">" | "<=" | ">=" if at not in code.angles:
            chosen = _choice(code, at)
            if chosen:  # where both are equal it does not matter which is taken
                yield Edit("extremum", token.start, token.end, {"<": ">", ">": "<", "<=": ">=", ">=": "<="}[token.text])
            else:
                yield Edit("relational", token.start, token.end, RELATIONS[token.text])
        case "==" | "!=":
            yield Edit("equality", token.start, token.end, EQUALITIES[token.text])
        case "&&" | "||":
            yield Edit("logical", token.start, token.end, LOGIC[token.text])
        case "&" | "|" | "^" if binary:
            yield Edit("bitwise", token.start, token.end, BITS[token.text])
        case "+" | "-" | "/" | "%" if binary:
            yield Edit("arithmetic", token.start, token.end, SUMS[token.text])
            if token.text == "+" and code.kind(at - 1) is Kind.NAME and code.word(at - 1) in pointers:
                yield Edit("index", token.start, token.end, "+ 1 +")
                yield Edit("index", token.start, token.end, "- 1 +")
        case "*" if binary and code.operand_end(at + 1) is not None:
            last = code.operand_end(at + 1)
            assert last is not None
            yield Edit("arithmetic", code.tokens[at - 1].end, code.tokens[last].end, "")
        case "-" | "!" | "~":
            yield Edit("negation", token.start, token.end, "")
        case "<<" | ">>" if code.kind(at + 1) is not Kind.NUMBER:
            yield Edit("shift", token.end, token.end, " 1 +")
        case "?":
            yield from _forced(code, _condition_start(code, at), at - 1)
        case "[" if at in code.partner and code.partner[at] > at + 1:
            yield from _subscript(code, at, extents)
        case "{" if code.partner.get(at) == at + 1 and (code.word(at - 1) in ("=", *code.types)):
            yield Edit("zero", token.end, token.end, "1")
        case mark if mark in COMPOUND:
            yield Edit("accumulate", token.start, token.end, "=")
        case _:
            return


def _subscript(code: Code, at: int, extents: frozenset[int]) -> Iterator[Edit]:
    first, last = code.tokens[at].end, code.tokens[code.partner[at]].start
    inside = code.text[first:last]
    if at + 1 in extents:
        if not (code.partner[at] == at + 2 and code.kind(at + 1) is Kind.NUMBER):  # a number alone is a constant
            yield Edit("extent", first, last, f"({inside}) - 1")
    elif code.kind(at + 1) is not Kind.NUMBER or code.partner[at] > at + 2:
        yield Edit("index", first, last, f"({inside}) + 1")
        yield Edit("index", first, last, f"({inside}) - 1")


def _condition_start(code: Code, at: int) -> int:
    """Return the first token of the condition before a question mark."""
    before = at - 1
    while before >= 0:
        word = code.word(before)
        if before in code.partner and code.partner[before] < before:
            before = code.partner[before] - 1
            continue
        if before in code.partner or word in (",", ";", ":", "?", "return", "{", "}", *ASSIGNMENTS):
            break
        before -= 1
    return before + 1


def _choice(code: Code, at: int) -> bool:
    """Whether a comparison chooses the lesser or the greater of its own sides: `a < b ? a : b`."""
    question = at + 1
    while question < len(code.tokens) and code.word(question) not in ("?", ";", ",", ":", "{"):
        if question in code.partner:
            if code.partner[question] < question:
                return False
            question = code.partner[question]
        question += 1
    if code.word(question) != "?":
        return False
    colon = question + 1
    while code.word(colon) not in (":", ";", ""):
        colon = code.partner[colon] + 1 if code.partner.get(colon, 0) > colon else colon + 1
    end = colon + 1
    while code.word(end) not in (";", ",", ":", "") and not code.partner.get(end, end) < end:
        end = code.partner[end] + 1 if code.partner.get(end, 0) > end else end + 1
    sides = {_plain(code, _condition_start(code, question), at - 1), _plain(code, at + 1, question - 1)}
    return sides == {_plain(code, question + 1, colon - 1), _plain(code, colon + 1, end - 1)} and len(sides) == 2


def _plain(code: Code, first: int, last: int) -> str:
    """Return the words of an expression without a cast before it and parentheses around it."""
    while code.word(first) == "(":
        if code.is_cast(first):
            first = code.partner[first] + 1
        elif code.partner[first] == last:
            first, last = first + 1, last - 1
        else:
            break
    return " ".join(code.word(i) for i in range(first, last + 1))


# ---- statements and declarations -----------------------------------------------------------------------------------


def _statement(code: Code, at: int) -> Iterator[Edit]:
    """Yield the removal of a statement that starts here, if it is a call or an assignment."""
    before = code.word(at - 1)
    headed = before == ")" and code.word(code.partner.get(at - 1, 0) - 1) in ("if", "for", "while", "constexpr")
    label = before == ":" and any(code.word(i) in ("case", "default") for i in (at - 2, at - 3))
    begins = before in (";", "{", "}", "else") or headed or label or code.kind(at - 1) is Kind.DIRECTIVE
    if not begins or code.word(at) in code.types:
        return
    if code.word(at) in ("break", "continue") and code.word(at + 1) == ";":
        if not headed:
            yield Edit("statement", code.tokens[at].start, code.tokens[at + 1].end, ";")
        return
    last = code.operand_end(at)
    after = code.word(last + 1) if last is not None else ""
    if last is None or code.word(at) in _NO_CALLS or after not in (";", ",", *ASSIGNMENTS):
        return
    if after in (";", ",") and code.word(last) != ")":
        return
    end = statement_end(code, at)
    if code.word(end) != ";" or code.span(at, at + 2) in NO_INSTRUCTION:
        return
    called = after == ";" and _WAITS.search(code.span(at, at + 2))
    yield Edit("barrier" if called else "statement", code.tokens[at].start, code.tokens[end].end, ";")


def _extents(code: Code) -> frozenset[int]:
    """Return the tokens between the brackets of arrays that are declared: one more would only be more memory."""
    found: set[int] = set()
    for at, token in enumerate(code.tokens):
        if token.text != "[" or code.kind(at - 1) is not Kind.NAME or at not in code.partner:
            continue
        starred = code.word(at - 2) == "*" and code.word(at - 3) in code.types
        typed = code.word(at - 2) in code.types or starred
        if not typed and at - 2 not in code.angles and code.word(at - 2) != ",":
            continue
        if code.word(at - 2) == "," and not _declares(code, at):
            continue
        opening = at
        while code.word(opening) == "[":
            found.update(range(opening + 1, code.partner[opening]))
            opening = code.partner[opening] + 1
    return frozenset(found)


def _declares(code: Code, at: int) -> bool:
    """Whether the statement around a token begins with a type, as in `vf a, b[2];`."""
    first = at
    while first > 0 and code.word(first - 1) not in (";", "{", "}", "("):
        first = code.partner[first - 1] if code.partner.get(first - 1, first) < first - 1 else first - 1
    return code.word(first) in code.types and code.kind(first + 1) is Kind.NAME


def _pointers(code: Code) -> frozenset[str]:
    """Return the names that are declared as pointers anywhere in the text."""
    return frozenset(
        code.word(at + 1)
        for at, token in enumerate(code.tokens)
        if token.text == "*" and code.close(at) and code.kind(at + 1) is Kind.NAME
    )
