"""gemm.library.torch: the torch call that a gemm replaces. Always a candidate, so tuning cannot lose to not tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gridstone.ir.spec import Numerics, NumericsClass, Spec
from gridstone.lower.decisions import Decision
from gridstone.lower.schedule import SearchSpace
from gridstone.lower.target import Language, Target
from gridstone.templates.recipe import Recipe
from gridstone.templates.source import Launch


@dataclass(frozen=True, slots=True)
class Torch:
    """torch chooses for itself."""

    decisions: ClassVar[tuple[type[Decision], ...]] = ()


def _refuses(spec: Spec, target: Target) -> str | None:
    kept: tuple[Numerics, ...] = (Numerics(NumericsClass.INT8_ACT), Numerics(NumericsClass.FP8_ACT))
    return f"numerics {spec.numerics} are not torch's" if Numerics(spec.numerics.kind) in kept else None


RECIPE = Recipe(
    "gemm.library.torch",
    "gemm",
    Language.LIBRARY,
    Torch,
    SearchSpace((), (), lambda spec, target: Torch()),
    (),
    "",
    (),
    Launch("", deterministic=True),
    _refuses,
    lambda spec, target: True,
)
