"""Subject `layout`: the laws of the layout algebra, and of what is read off a layout.

An operation gives what its law says, or refuses its operands by name. Where an answer must exist, or is known not to, a
refusal is wrong, or an answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from gridstone.ir.errors import LayoutError
from gridstone.ir.layout import (
    Layout,
    Swizzle,
    Swizzled,
    bank_conflicts,
    coalesce,
    complement,
    cosize,
    crd2idx,
    depth,
    f2_matrix,
    flatten,
    idx2crd,
    indices,
    left_inverse,
    make_layout,
    max_vector,
    modes,
    rank,
    right_inverse,
    select,
    size,
)
from gridstone.proof.fuzz import algebra
from gridstone.proof.fuzz.hypothesis_law import Choose, Law, LawSubject
from gridstone.proof.fuzz.layout_case import (
    Access,
    Mixed,
    One,
    accepted,
    draw_layout,
    first,
    images,
    leaves,
    nested,
    permuted,
    read,
    refuses,
    same,
)
from gridstone.proof.fuzz.subject import Wanted

# One layout -----------------------------------------------------------------------------------------------------------


def _function_fault(case: One) -> str:
    """A call, its batch and its parts are the function that shape and stride say; its text is itself."""
    layout = read(case.layout)
    table = images(layout)
    extents = leaves(layout.shape)
    shape, _, stride = str(layout).partition(":")
    coords = [idx2crd(number, layout.shape) for number in range(len(table))]
    digits = [tuple(reversed(digit)) for digit in itertools.product(*(range(e) for e in reversed(extents)))]
    far = max(table) >= 1 << 63
    return first(
        same("the text", (layout.shape, layout.stride), (nested(shape), nested(stride))),
        same("the text, read,", layout, Layout.parse(str(layout))),
        same("its text with spaces", layout, Layout.parse(f"  {str(layout).replace(',', ' , ')} ")),
        same("a call by numbers", table, [layout(number) for number in range(len(table))]),
        same("a call by coordinates", table, [layout(coord) for coord in coords]),
        same("the digits of a coordinate", digits, [tuple(leaves(coord)) for coord in coords]),
        same("crd2idx after idx2crd", list(range(len(table))), [crd2idx(coord, layout.shape) for coord in coords]),
        same("size", len(table), size(layout)),
        same("cosize", max(table) + 1, cosize(layout)),
        same("indices", table, None if far else indices(layout).tolist()) if not far else "",
        same("its modes, put together,", table, images(make_layout(*modes(layout)))),
        same("select of all modes", images(make_layout(*modes(layout))), images(select(layout, *range(rank(layout))))),
        "" if refuses(lambda: layout(len(table))) else f"a call with {len(table)} is not refused",
    )


def _coalesce_fault(case: One) -> str:
    """The same function of one integer, with as few modes as it can have; by mode, of every mode."""
    layout = read(case.layout)
    result, flat = coalesce(layout), flatten(layout)
    pairs = list(zip(leaves(result.shape), leaves(result.stride), strict=True))
    joined = any(step == extent * before for (extent, before), (_, step) in itertools.pairwise(pairs))
    target = (1,) * rank(layout)
    return first(
        same("coalesce", images(layout), images(result)),
        same("flatten", images(layout), images(flat)),
        same("the ints of flatten", leaves(layout.stride), list(flatten(layout.stride))),
        "" if depth(result) <= 1 and depth(flat) <= 1 else f"{result} or {flat} is still nested",
        f"{result} has a mode that could go" if joined or (len(pairs) > 1 and min(pairs)[0] == 1) else "",
        same("coalesce by mode", images(layout), images(coalesce(layout, target))),
        same("the modes of coalesce by mode", [coalesce(m) for m in modes(layout)], [*modes(coalesce(layout, target))])
        if isinstance(layout.shape, tuple)
        else "",
    )


def _inverse_fault(case: One) -> str:
    """left(layout(i)) == i, layout(right(j)) == j; there is no left one just where two coordinates share an index."""
    layout = read(case.layout)
    table = images(layout)
    right = right_inverse(layout)
    fault = same("the layout of its right inverse", list(range(size(right))), [layout(j) for j in images(right)])
    left = accepted(lambda: left_inverse(layout))
    one_to_one = len(set(table)) == len(table)
    if fault or left is None:
        able = one_to_one and accepted(lambda: complement(layout)) is not None
        return fault or ("a left inverse is refused, and there is a complement" if able else "")
    reached = set(table)
    return first(
        "" if one_to_one else f"{left} cannot lead back: two coordinates have one index",
        same("the left inverse of the layout", list(range(len(table))), [left(index) for index in table]),
        same("the run of the right inverse", next(j for j in itertools.count() if j not in reached), size(right)),
    )


def _draw_one(choose: Choose, wanted: Wanted) -> One:
    return One(str(draw_layout(choose)))


# Swizzles and accesses ------------------------------------------------------------------------------------------------


def _swizzle_fault(case: Mixed) -> str:
    """A swizzle is its own inverse, moves bit by bit, reads back, and is linear; overlapping fields are refused."""
    legal = min(case.bits, case.base) >= 0 and abs(case.shift) >= case.bits
    if not legal:
        refused = refuses(lambda: Swizzle(case.bits, case.base, case.shift))
        return "" if refused else f"a swizzle of {case.bits}, {case.base}, {case.shift} is not refused"
    swizzle, layout = Swizzle(case.bits, case.base, case.shift), read(case.layout)
    mixed = Swizzled(swizzle, layout)
    table, moved = images(layout), images(mixed)
    low = (1 << case.base) - 1
    near = max(moved) < 1 << 63 and case.bits + case.base + abs(case.shift) <= 62
    return first(
        same("the swizzle", moved, [swizzle(index) for index in table]),
        same("the swizzle of itself", table, [swizzle(index) for index in moved]),
        same("the low bits", [index & low for index in table], [index & low for index in moved]),
        same("a call", moved, [mixed(number) for number in range(size(layout))]),
        same("indices", moved, indices(mixed).tolist()) if near else "",
        same("its text", mixed, Swizzled.parse(str(mixed))),
        same("the swizzle's text", swizzle, Swizzle.parse(str(swizzle))),
        _linear_fault(layout, table),
        _linear_fault(mixed, moved),
    )


def _linear_fault(layout: Layout | Swizzled, table: Sequence[int]) -> str:
    """The matrix over bits exists just where the function is linear, and is the function."""
    whole = len(table) & (len(table) - 1) == 0
    powers = [1 << bit for bit in range(len(table).bit_length() - 1)]
    linear = (
        whole
        and all(
            table[number] == table[number ^ low] ^ table[low]
            for number in range(1, len(table))
            for low in [number & -number]
        )
        and table[0] == 0
    )
    try:
        matrix = f2_matrix(layout)
    except LayoutError:
        return f"{layout} is linear over bits, and its matrix is refused" if linear else ""
    return first(
        "" if linear else f"{layout} is not linear over bits, and has a matrix",
        same("the matrix", [table[power] for power in powers], list(matrix)),
    )


def _draw_mixed(choose: Choose, wanted: Wanted) -> Mixed:
    bits = choose.integer(0, 3)
    shift = choose.one([1, -1]) * (bits + choose.integer(-1, 2))
    strides = [1 << choose.integer(0, 8) for _ in range(choose.integer(0, 4))]
    powers = Layout(tuple(choose.one([1, 2, 4]) for _ in strides), tuple(strides))
    layout = powers if choose.flag() else draw_layout(choose, 128)
    return Mixed(bits, choose.integer(-1, 3) if choose.flag() else choose.integer(0, 3), shift, str(layout))


def _access_fault(case: Access) -> str:
    """A vector is the widest aligned run that holds everywhere; a conflict is a word too many in a bank."""
    layout = Swizzled(Swizzle(*case.swizzle), read(case.layout))
    table = [permuted(layout.swizzle, index + case.origin) for index in images(layout.layout)]
    width = max_vector(layout, limit=case.limit, origin=case.origin)
    return first(
        "" if width & (width - 1) == 0 and width <= case.limit else f"a vector of {width}, limited to {case.limit}",
        "" if _is_vector(table, width) else f"{width} elements are not together",
        f"{2 * width} elements are together"
        if not case.swizzle[0] and 2 * width <= case.limit and _is_vector(table, 2 * width) and size(layout.layout) > 1
        else "",
        _conflict_fault(case, layout),
    )


def _is_vector(table: Sequence[int], width: int) -> bool:
    """Whether each aligned group of `width` numbers lies at consecutive indices from a multiple of `width` on."""
    groups = [table[at : at + width] for at in range(0, len(table), width)]
    return len(table) % width == 0 and all(
        group[0] % width == 0 and list(group) == list(range(group[0], group[0] + width)) for group in groups
    )


def _conflict_fault(case: Access, layout: Swizzled) -> str:
    sizes = {"banks": case.banks, "bank_bytes": case.bank_bytes, "access_bytes": case.access_bytes}
    table = images(layout)
    legal = min(sizes.values()) > 0 and case.access_bytes & (case.access_bytes - 1) == 0
    if not legal or any(address % case.access_bytes for address in table):
        return "" if refuses(lambda: bank_conflicts(layout, **sizes)) else f"{sizes} are not refused"
    group = max(1, case.banks * case.bank_bytes // case.access_bytes)
    wavefronts = 0
    for start in range(0, len(table), group):
        words: dict[int, set[int]] = {}
        for address in table[start : start + group]:
            for byte in range(address, address + case.access_bytes):
                words.setdefault(byte // case.bank_bytes % case.banks, set()).add(byte // case.bank_bytes)
        wavefronts += max(map(len, words.values()))
    return same("bank_conflicts", wavefronts, bank_conflicts(layout, **sizes))


def _draw_access(choose: Choose, wanted: Wanted) -> Access:
    step = choose.one([1, 2, 4, 8, 16])
    plain = draw_layout(choose, 64)
    scaled = (leaf * choose.one([1, step]) for leaf in leaves(plain.stride))
    layout = Layout(tuple(leaves(plain.shape)), tuple(scaled))
    bits = choose.integer(0, 3)
    swizzle = (bits, choose.integer(0, 4), choose.one([1, -1]) * (bits + choose.integer(0, 2)))
    origin = choose.one([0, step, choose.integer(0, 64)])
    machine = (choose.one([32, 16, 3, 0]), choose.one([4, 8, 1]), choose.one([4, 1, 2, 8, 16, 3]))
    return Access(str(layout), swizzle, choose.one([1, 2, 3, 8, 16, 1 << 20]), origin, *machine)


LAWS: tuple[Law[Any], ...] = (
    Law("function", One, _draw_one, _function_fault),
    Law("coalesce", One, _draw_one, _coalesce_fault),
    Law("inverse", One, _draw_one, _inverse_fault),
    *algebra.LAWS,
    Law("swizzle", Mixed, _draw_mixed, _swizzle_fault),
    Law("access", Access, _draw_access, _access_fault),
)
SUBJECT = LawSubject("layout", LAWS)
