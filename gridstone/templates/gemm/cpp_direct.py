"""gemm.cpp.direct: weights are decoded in registers by every row tile. For M from a few rows up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gridstone.ir.spec import Spec
from gridstone.lower.decisions import (
    Buffers,
    Codes,
    Decision,
    Extents,
    Finish,
    Pipeline,
    RegisterTile,
    Slabs,
    Types,
    Vector,
    WeightLayout,
)
from gridstone.lower.schedule import SearchSpace
from gridstone.lower.target import Language, Target
from gridstone.templates.gemm.cpp import DOT, DOT_ALLOWED, LAUNCH, PARAMS, PREFETCH, default_dot, refuses
from gridstone.templates.gemm.cpp_tile import M_CHUNK, M_R, N_R, TILE_FITS, default_chunk, default_tile, panel_pays
from gridstone.templates.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Direct:
    """Choices of the kernel that decodes in registers.

    Args:
        dot: Product of the inner loop.
        m_r, n_r: Rows and vectors of the register tile.
        m_chunk: Rows whose float32 results stay in cache while all of K passes by.
        prefetch: Bytes ahead.
    """

    dot: str
    m_r: int
    n_r: int
    m_chunk: int
    prefetch: int

    decisions: ClassVar[tuple[type[Decision], ...]] = (
        Extents, Types, Codes, WeightLayout, Vector, RegisterTile, Slabs, Buffers, Pipeline, Finish,
    )  # fmt: skip


def _default(spec: Spec, target: Target) -> Direct:
    dot = default_dot(spec, target)
    m_r, n_r = default_tile(spec, target, dot)
    return Direct(dot, m_r, n_r, default_chunk(spec), 8192)


RECIPE = Recipe(
    "gemm.cpp.direct",
    "gemm",
    Language.CPP,
    Direct,
    SearchSpace((DOT, M_R, N_R, M_CHUNK, PREFETCH), (DOT_ALLOWED, *TILE_FITS), _default),
    Direct.decisions,
    "gemm/direct.cpp.j2",
    PARAMS,
    LAUNCH,
    refuses,
    lambda spec, target: not panel_pays(spec, target, default_dot(spec, target)),
)
