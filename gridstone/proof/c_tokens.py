"""Tokens of C++ and CUDA texts as they are emitted: enough to tell a comparison from a template's bracket.

This is no parser. It leans on how emitted text is written: an angle bracket that opens a template's arguments follows
its name at once, and operators between operands have a space on either side. `tests/proof/test_mutate.py` holds that
against every recipe's text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a token is."""

    NAME = "name"
    NUMBER = "number"
    STRING = "string"
    DIRECTIVE = "directive"  # a preprocessor line, with its continuations
    MARK = "mark"  # operators and brackets


@dataclass(frozen=True, slots=True)
class Token:
    """A word of the text.

    Args:
        kind: What it is.
        text: As it stands there.
        start: Its first character's place in the text.
    """

    kind: Kind
    text: str
    start: int

    @property
    def end(self) -> int:
        """The place behind its last character."""
        return self.start + len(self.text)


_PATTERN = re.compile(
    r"""
    (?P<skip>\s+|//[^\n]*|/\*.*?\*/)
  | (?P<directive>(?:(?<=\n)|^)[ \t]*\#(?:[^\n\\]|\\.)*)
  | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
  | (?P<number>0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*[pP][+-]?\d+[fF]?|[0-9a-fA-F']+[uUlL]*)
      |\d+\.?\d*(?:[eE][+-]?\d+)?[uUlLfF]*|\.\d+(?:[eE][+-]?\d+)?[fF]?)
  | (?P<name>[A-Za-z_]\w*)
  | (?P<mark><<=|>>=|\.\.\.|->\*|::|\+\+|--|->|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_CLOSING = {"(": ")", "[": "]", "{": "}"}
TYPE_WORDS = frozenset({
    "bool", "char", "short", "int", "long", "float", "double", "void", "unsigned", "signed", "const", "size_t",
    "int8_t", "int16_t", "int32_t", "int64_t", "uint8_t", "uint16_t", "uint32_t", "uint64_t",
    "float2", "float4", "uint2", "uint4", "__m128i", "__m256i", "__m512", "__m512i",
})  # fmt: skip


def tokens(text: str) -> Iterator[Token]:
    """Yield the tokens of a text, without spaces and comments.

    >>> [t.text for t in tokens("a<b>(1) /* no < */ >= 2;")]
    ['a', '<', 'b', '>', '(', '1', ')', '>=', '2', ';']
    """
    at = 0
    while at < len(text):
        found = _PATTERN.match(text, at)
        assert found is not None
        at = found.end()
        match found.lastgroup:
            case "skip":
                continue
            case "directive":
                lead = len(found[0]) - len(found[0].lstrip())
                line = re.split(r"//|/\*", found[0].strip())[0].rstrip()
                yield Token(Kind.DIRECTIVE, line, found.start() + lead)
            case kind:
                yield Token(Kind(kind), found[0], found.start())


@dataclass(frozen=True, slots=True)
class Code:
    """The tokens of a text, with what belongs together.

    Args:
        text: All of it.
        tokens: In order.
        partner: From a bracket's position among the tokens to its counterpart's, for (), [], {} and templates' <>.
        angles: Positions of the brackets that open or close a template's arguments.
        types: Names of types that the text declares, and C's own.
    """

    text: str
    tokens: tuple[Token, ...]
    partner: dict[int, int]
    angles: frozenset[int]
    types: frozenset[str]

    def word(self, at: int) -> str:
        """Return the text of a token; empty beyond either end."""
        return self.tokens[at].text if 0 <= at < len(self.tokens) else ""

    def kind(self, at: int) -> Kind | None:
        """Return the kind of a token; None beyond either end."""
        return self.tokens[at].kind if 0 <= at < len(self.tokens) else None

    def span(self, first: int, last: int) -> str:
        """Return the text from one token to another, both included."""
        return self.text[self.tokens[first].start : self.tokens[last].end]

    def close(self, at: int) -> bool:
        """Whether a token follows the one before without a space."""
        return at > 0 and self.tokens[at - 1].end == self.tokens[at].start

    def is_cast(self, opening: int) -> bool:
        """Whether a parenthesis holds a type and nothing else: `(const uint8_t*)`."""
        inside = range(opening + 1, self.partner.get(opening, opening))
        return bool(inside) and all(
            self.word(i) in self.types or self.word(i) in ("*", "&", "::", "ptx") for i in inside
        )

    def ends_operand(self, at: int) -> bool:
        """Whether a value ends with this token, so that what follows is an operator between two operands."""
        word, kind = self.word(at), self.kind(at)
        if kind is Kind.NAME:
            return word not in ("return", "case", "else", "throw") and word not in self.types
        if word in (")", "]"):
            return not (word == ")" and self.is_cast(self.partner.get(at, at)))
        return kind in (Kind.NUMBER, Kind.STRING) or (word == ">" and at in self.angles) or word == "}"

    def operand_end(self, at: int) -> int | None:
        """Return the position of the last token of the unary expression that starts here; None for none."""
        while self.word(at) in ("-", "!", "~", "*", "&", "++", "--") or (self.word(at) == "(" and self.is_cast(at)):
            at = self.partner[at] + 1 if self.word(at) == "(" else at + 1
        if self.word(at) == "(":
            at = self.partner[at]
        elif self.kind(at) not in (Kind.NAME, Kind.NUMBER):
            return None
        while True:
            following = self.word(at + 1)
            if following in ("(", "[") or (following in ("<", "{") and at + 1 in self.partner and self.close(at + 1)):
                at = self.partner[at + 1]
            elif following in (".", "->", "::") and self.kind(at + 2) is Kind.NAME:
                at += 2
            else:
                return at


def read(text: str) -> Code:
    """Read a text."""
    found = list(tokens(text))
    angles = _angles(found)
    partner: dict[int, int] = {}
    opened: list[int] = []
    for at, token in enumerate(found):
        if token.kind is not Kind.MARK:
            continue
        if token.text in _CLOSING or (token.text == "<" and at in angles):
            opened.append(at)
        elif opened and (token.text in _CLOSING.values() or (token.text == ">" and at in angles)):
            partner[at] = opened.pop()
            partner[partner[at]] = at
    return Code(text, tuple(found), partner, frozenset(angles), frozenset(_types(found)) | TYPE_WORDS)


def _angles(found: list[Token]) -> set[int]:
    """Return the positions of templates' brackets; a `>>` that closes two of them is cut in two."""
    angles: set[int] = set()
    at = 0
    while at < len(found):
        if found[at].text == "<" and at not in angles and at > 0:
            before = found[at - 1]
            joined = before.kind is Kind.NAME and before.end == found[at].start
            if joined or before.text == "template":
                angles.update(_arguments(found, at))
        at += 1
    return angles


def _arguments(found: list[Token], opening: int) -> list[int]:
    """Return the brackets of a template's arguments from an opening one on; empty when it is a comparison."""
    pairs, opened, depth = [opening], 1, 0
    at = opening + 1
    while at < len(found):
        token = found[at]
        if token.text in "([{":
            depth += 1
        elif token.text in ")]}":
            depth -= 1
            if depth < 0:
                return []
        elif token.text == ";":
            return []
        elif token.text == "<" and not depth and found[at - 1].end == token.start:
            opened += 1
            pairs.append(at)
        elif token.text == ">>" and not depth and opened > 1:
            found[at : at + 1] = [Token(Kind.MARK, ">", token.start), Token(Kind.MARK, ">", token.start + 1)]
            continue
        elif token.text == ">" and not depth:
            opened -= 1
            pairs.append(at)
            if not opened:
                return pairs
        at += 1
    return []


def _types(found: list[Token]) -> Iterator[str]:
    """Yield the names that the text declares as types, templates' parameters among them."""
    for at, token in enumerate(found):
        following = found[at + 1] if at + 1 < len(found) else None
        if following is None or token.kind is not Kind.NAME:
            continue
        if token.text in ("struct", "class", "enum", "typename", "using") and following.kind is Kind.NAME:
            yield following.text
        if token.text == "typedef":
            end = next(i for i in range(at, len(found)) if found[i].text == ";")
            names = [t for t in found[at + 1 : end] if t.kind is Kind.NAME]
            # The name that is declared: the last before an extent or an attribute, or inside (*name).
            stop = next((i for i in range(at, end) if found[i].text in ("[", "__attribute__")), end)
            inner = [found[i + 2] for i in range(at, end) if (found[i].text, found[i + 1].text) == ("(", "*")]
            yield (inner or [t for t in names if t.start < found[stop].start])[-1].text
