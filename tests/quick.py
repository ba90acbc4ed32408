"""What of a long list of cases the quick suite runs; the rest is marked slow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def one_in(step: int, cases: Iterable[Any]) -> list[Any]:
    """Return the cases as parameters, all but every `step`-th of them slow."""
    return [
        case if at % step == 0 else pytest.param(*_values(case), marks=pytest.mark.slow)
        for at, case in enumerate(cases)
    ]


def _values(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)
