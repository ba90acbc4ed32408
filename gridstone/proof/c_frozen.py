"""What of a C++ or CUDA text no mutant may touch, because it names a type, or because it only bears on speed.

Types, attributes, directives and inline assembly: a change is another language, not another kernel. Prefetches, with
the loops that only count them, the functions that do nothing else and the constants that nothing else reads: they have
no effect on any value, by construction. Nor have, on a CPU, the numbers that divide the work.
"""

from __future__ import annotations

from collections.abc import Iterator

from gridstone.proof.c_tokens import Code, Kind

PREFETCH = frozenset({"__builtin_prefetch"})
_GROUPS = frozenset({
    ("template", "<"), ("__attribute__", "("), ("alignas", "("), ("__align__", "("), ("__launch_bounds__", "("),
    ("static_assert", "("), ("asm", "("), ("__builtin_prefetch", "("),
})  # fmt: skip
_HEADS = frozenset({"if", "for", "while"})
BARRIERS = ("omp barrier",)
# Of C++ texts, how the work is divided: other numbers are other schedules, which compute the same by design. On a GPU
# the launch depends on such numbers.
SCHEDULED = frozenset({"M_R", "N_R", "M_CHUNK", "K_SPLITS", "VECTORS", "SUMS"})


def frozen(code: Code) -> frozenset[int]:
    """Return the positions of the tokens that stay as they are."""
    found = set(_fixed(code))
    idle = PREFETCH
    while True:
        wasted = {i for first, last in _prefetching(code, idle) for i in range(first, last + 1)}
        named = idle | {name for name, first, last in functions(code) if _only(code, first, last, wasted)}
        if named == idle:
            break
        idle = named
    found |= wasted
    return frozenset(found | set(_unread(code, found)))


def scheduled(code: Code) -> frozenset[int]:
    """Return the positions of the tokens that declare what the schedule chose."""
    found: set[int] = set()
    for at, token in enumerate(code.tokens):
        if token.text == "constexpr" and SCHEDULED.intersection(code.word(at + i) for i in (2, 3)):
            found.update(range(at, statement_end(code, at) + 1))
    return frozenset(found)


def _fixed(code: Code) -> Iterator[int]:
    for at, token in enumerate(code.tokens):
        following = code.partner.get(at + 1)
        if token.kind is Kind.STRING or (token.kind is Kind.DIRECTIVE and not token.text.endswith(BARRIERS)):
            yield at
        elif following and (token.text, code.word(at + 1)) in _GROUPS:
            yield from range(at, following + 1)
        elif token.text in ("typedef", "using", "enum"):
            yield from range(at, next(i for i in range(at, len(code.tokens)) if code.word(i) == ";") + 1)
        elif at in code.angles and token.text == "<" and code.word(code.partner[at] + 1) != "(":
            yield from range(at, code.partner[at] + 1)  # a type's arguments, not a call's
        elif token.text == "(" and code.word(at + 1) in ("&", "*") and code.word(code.partner[at] + 1) == "[":
            last = code.partner[at] + 1  # a reference to an array: (&d)[4]
            while code.word(last) == "[":
                yield from range(last, code.partner[last] + 1)
                last = code.partner[last] + 1


def functions(code: Code) -> Iterator[tuple[str, int, int]]:
    """Yield (name, first, last) of what looks like a function's body: a name, (...), perhaps words, {...}."""
    for at, token in enumerate(code.tokens):
        if token.text != "{" or at not in code.partner:
            continue
        before = at - 1
        while code.word(before) in ("const", "noexcept", "override"):
            before -= 1
        opening = code.partner.get(before, 0) if code.word(before) == ")" else 0
        if opening and code.kind(opening - 1) is Kind.NAME and code.word(opening - 1) not in (*_HEADS, "switch"):
            yield code.word(opening - 1), at, code.partner[at]
        elif opening and code.word(opening - 1) == ")":  # operator()(...)
            yield "operator", at, code.partner[at]


def statement_end(code: Code, at: int) -> int:
    """Return the position of the last token of the statement that starts here."""
    while code.kind(at) is Kind.DIRECTIVE:
        at += 1
    if code.word(at) == "{":
        return code.partner[at]
    if code.word(at) in _HEADS:
        opening = at + 2 if code.word(at + 1) == "constexpr" else at + 1
        last = statement_end(code, code.partner[opening] + 1)
        return statement_end(code, last + 2) if code.word(last + 1) == "else" else last
    while code.word(at) not in (";", ")", "]", "}", ""):
        at = code.partner[at] + 1 if code.partner.get(at, 0) > at else at + 1
    return at


def _prefetching(code: Code, idle: frozenset[str]) -> Iterator[tuple[int, int]]:
    """Yield the first and last tokens of statements that do nothing but call idle functions."""
    for at, token in enumerate(code.tokens):
        if token.text in idle and code.word(at + 1) == "(" and code.word(code.partner[at + 1] + 1) == ";":
            first, last = at, code.partner[at + 1] + 1
            while True:  # the heads of loops and conditions that it is all of
                before = first - 1
                while code.kind(before) is Kind.DIRECTIVE:
                    before -= 1
                opening = code.partner.get(before, 0) if code.word(before) == ")" else 0
                if code.word(opening - 1) not in _HEADS or code.word(last + 1) == "else":
                    break
                first = opening - 1
            yield first, last


def _only(code: Code, first: int, last: int, wasted: set[int]) -> bool:
    """Whether nothing but idle statements stands between the braces of a body."""
    return last > first + 1 and all(i in wasted for i in range(first + 1, last))


def _unread(code: Code, touched: set[int]) -> Iterator[int]:
    """Yield the declarations of constants that nothing but frozen tokens reads."""
    places: dict[str, list[int]] = {}
    for at, token in enumerate(code.tokens):
        if token.kind is Kind.NAME:
            places.setdefault(token.text, []).append(at)
    for at, token in enumerate(code.tokens):
        name = at + 2 if code.kind(at + 2) is Kind.NAME else at + 1
        if token.text == "constexpr" and code.word(name + 1) == "=":
            others = [place for place in places[code.word(name)] if place != name]
            end = statement_end(code, at)
            alone = not any(code.word(i) == "," for i in range(name, end))
            if alone and others and all(place in touched for place in others):
                yield from range(at, end + 1)
