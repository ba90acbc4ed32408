"""gemm.cpp.gemv: for M up to 4 the weights are the traffic; they stream once through registers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gridstone.ir.spec import Spec
from gridstone.ir.storage import BLOCK_N
from gridstone.ir.tensor import Dim
from gridstone.lower.decisions import (
    Codes,
    Decision,
    Extents,
    Finish,
    Pipeline,
    Slabs,
    Split,
    StreamTile,
    Types,
    Vector,
    WeightLayout,
)
from gridstone.lower.schedule import Choice, Constraint, SearchSpace
from gridstone.lower.target import Language, Target
from gridstone.templates.gemm.cpp import DOT, DOT_ALLOWED, LAUNCH, PARAMS, PREFETCH, default_dot, lanes, refuses
from gridstone.templates.recipe import Recipe

MAX_ROWS = 4


@dataclass(frozen=True, slots=True)
class Gemv:
    """Choices of the streaming kernel.

    Args:
        dot: Product of the inner loop.
        n_r: Vectors of n at a time for one row; fewer for more rows, as registers allow.
        sums: Independent sums wanted, so that the product's latency is hidden.
        prefetch: Bytes ahead.
        k_splits: Parts of K computed apart, for when there are few blocks of n.
    """

    dot: str
    n_r: int
    sums: int
    prefetch: int
    k_splits: int

    decisions: ClassVar[tuple[type[Decision], ...]] = (
        Extents, Types, Codes, WeightLayout, Vector, StreamTile, Slabs, Pipeline, Split, Finish,
    )  # fmt: skip


def _vectors_divide(schedule: Gemv, spec: Spec, target: Target) -> bool:
    return BLOCK_N // lanes(target, schedule.dot) % schedule.n_r == 0


def _split_pays(schedule: Gemv, spec: Spec, target: Target) -> bool:
    w = spec.input("w")
    return schedule.k_splits == 1 or (w.static(0) <= 32 * BLOCK_N and w.static(1) >= 512 * schedule.k_splits)


def _default(spec: Spec, target: Target) -> Gemv:
    dot = default_dot(spec, target)
    return Gemv(dot, min(4, BLOCK_N // lanes(target, dot)), 13 if target.registers >= 32 else 8, 4096, 1)


def _refuses(spec: Spec, target: Target) -> str | None:
    rows = spec.input("x").shape[0]
    reason = refuses(spec, target)  # first: it is every recipe's
    if reason is None and not isinstance(rows, Dim) and rows > MAX_ROWS:
        return f"M={rows}; gemv is for M up to {MAX_ROWS}"
    return reason


RECIPE = Recipe(
    "gemm.cpp.gemv",
    "gemm",
    Language.CPP,
    Gemv,
    SearchSpace(
        (DOT, Choice("n_r", (1, 2, 4)), Choice("sums", (4, 8, 13)), PREFETCH, Choice("k_splits", (1, 2, 4))),
        (
            DOT_ALLOWED,
            Constraint("a block of n is a whole number of tiles", ("dot", "n_r"), _vectors_divide),
            Constraint("K is split only where there are few blocks of n and much K", ("k_splits",), _split_pays),
        ),
        _default,
    ),
    Gemv.decisions,
    "gemm/gemv.cpp.j2",
    PARAMS,
    LAUNCH,
    _refuses,
    lambda spec, target: not isinstance(spec.input("x").shape[0], Dim),
)
