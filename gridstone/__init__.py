"""Gridstone: a kernel compiler and autotuner for PyTorch.

Names load on first use, so that `import gridstone` costs little and the command line works without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from gridstone import after_torch
from gridstone.ir.errors import GridstoneError

if TYPE_CHECKING:
    from gridstone.runtime.compile import compile
    from gridstone.runtime.explain import explain
    from gridstone.runtime.functional import linear, quantize
    from gridstone.runtime.model import quantize_model
    from gridstone.runtime.tensors import QuantTensor
    from gridstone.runtime.tune import tune

__version__ = "0.1.0"
__all__ = ["GridstoneError", "QuantTensor", "compile", "explain", "linear", "quantize", "quantize_model", "tune"]

_HOMES = {
    "QuantTensor": "tensors",
    "compile": "compile",
    "explain": "explain",
    "linear": "functional",
    "quantize": "functional",
    "quantize_model": "model",
    "tune": "tune",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'gridstone' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"gridstone.runtime.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


after_torch.register()
