"""gemm.cpp.blocked: a panel of weights is decoded once, into cache, and read by all row tiles. For large M."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from gridstone.ir.format import CHANNEL
from gridstone.ir.spec import NumericsClass, Spec
from gridstone.lower.decisions import (
    Buffers,
    Codes,
    Decision,
    Extents,
    Finish,
    Panel,
    Pipeline,
    RegisterTile,
    Slabs,
    Types,
    Vector,
    WeightLayout,
)
from gridstone.lower.schedule import Choice, Constraint, SearchSpace
from gridstone.lower.target import Language, Target
from gridstone.templates.gemm.cpp import DOT, DOT_ALLOWED, LAUNCH, PARAMS, PREFETCH, default_dot, refuses
from gridstone.templates.gemm.cpp_tile import M_CHUNK, M_R, N_R, TILE_FITS, default_chunk, default_tile
from gridstone.templates.recipe import Recipe

# k of a default's panel with folded scales. Where groups are shorter, updating the float32 result for each costs
# more than multiplying every decoded weight once: with groups of 32, 65 against 84 % of the float32 peak on Zen 4.
FOLDED_PANEL = 128


@dataclass(frozen=True, slots=True)
class Blocked:
    """Choices of the kernel with a decoded panel.

    Args:
        dot: Product of the inner loop.
        m_r, n_r: Rows and vectors of the register tile.
        m_chunk: Rows whose float32 results stay in cache while all of K passes by.
        fold_scale: Whether the panel holds code * scale, rounded to the operand type, instead of exact codes.
        panel_k: k of a panel with folded scales; one scale group otherwise.
        prefetch: Bytes ahead.
    """

    dot: str
    m_r: int
    n_r: int
    m_chunk: int
    fold_scale: bool
    panel_k: int
    prefetch: int

    decisions: ClassVar[tuple[type[Decision], ...]] = (
        Extents, Types, Codes, WeightLayout, Vector, RegisterTile, Slabs, Buffers, Panel, Pipeline, Finish,
    )  # fmt: skip


def _fold_allowed(schedule: Blocked, spec: Spec, target: Target) -> bool:
    # In float32, code * scale rounds once, like any product of the exact class; in bf16 only that class allows it.
    return not schedule.fold_scale or schedule.dot == "f32" or spec.numerics.kind is NumericsClass.BF16


def _group(spec: Spec) -> int:
    w = spec.input("w")
    return w.static(1) if w.format is None or w.format.group == CHANNEL else w.format.group


def _panel_used(schedule: Blocked, spec: Spec, target: Target) -> bool:
    if not schedule.fold_scale:
        return schedule.panel_k == 256
    group = _group(spec)
    fits = group % schedule.panel_k == 0 or schedule.panel_k % group == 0
    return schedule.panel_k < 2 * spec.input("w").static(1) and fits


def _default(spec: Spec, target: Target) -> Blocked:
    dot = default_dot(spec, target)
    m_r, n_r = default_tile(spec, target, dot)
    chosen = Blocked(dot, m_r, n_r, default_chunk(spec), False, 256, 8192)
    if dot == "f32" and _group(spec) < FOLDED_PANEL:
        folded = dataclasses.replace(chosen, fold_scale=True, panel_k=FOLDED_PANEL)
        return folded if _panel_used(folded, spec, target) else chosen
    return chosen


RECIPE = Recipe(
    "gemm.cpp.blocked",
    "gemm",
    Language.CPP,
    Blocked,
    SearchSpace(
        (DOT, M_R, N_R, M_CHUNK, Choice("fold_scale", (False, True)), Choice("panel_k", (128, 256, 512)), PREFETCH),
        (
            DOT_ALLOWED,
            *TILE_FITS,
            Constraint("folding scales into the panel keeps the numerics class", ("dot", "fold_scale"), _fold_allowed),
            Constraint("panels are whole groups, or groups whole panels", ("fold_scale", "panel_k"), _panel_used),
        ),
        _default,
    ),
    Blocked.decisions,
    "gemm/blocked.cpp.j2",
    PARAMS,
    LAUNCH,
    refuses,
    lambda spec, target: True,
)
