"""Is a kernel right, and is it well built.

`check` takes anybody's kernel; it loads on first use, because the room's other modules are light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gridstone.proof.foreign import Ruling, check

__all__ = ["Ruling", "check"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'gridstone.proof' has no attribute {name!r}")
    return getattr(importlib.import_module("gridstone.proof.foreign"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
