"""Tells torch how to load a QuantTensor as soon as torch is there, without importing torch.

`torch.load(weights_only=True)` must know the class whichever of gridstone and torch a program imports first, while
`gridstone emit` and everything else up to source text must work, and start fast, without torch.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

TENSORS = "gridstone.runtime.tensors"


def rebuild_quant_tensor(parameter: bool, *arguments: object) -> object:
    """Return the QuantTensor that was pickled as its constructor's arguments, as a parameter if it was one.

    The name is part of saved files. The class is imported only now.
    """
    tensor = importlib.import_module(TENSORS).QuantTensor(*arguments)
    return importlib.import_module("torch.nn").Parameter(tensor, requires_grad=False) if parameter else tensor


def _allow() -> None:
    importlib.import_module("torch.serialization").add_safe_globals([rebuild_quant_tensor])


class _Loader(importlib.abc.Loader):
    """Loads torch as its own loader would, then registers."""

    def __init__(self, inner: importlib.abc.Loader) -> None:
        self.inner = inner

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create it as its own loader would."""
        return self.inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute it under its own loader's name."""
        if module.__spec__ is not None:
            module.__spec__.loader = self.inner
        module.__loader__ = self.inner
        self.inner.exec_module(module)
        _allow()


class _Finder(importlib.abc.MetaPathFinder):
    """Steps aside after the first import of torch."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return torch's own spec with a loader around its loader; nothing for any other module."""
        if fullname != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("torch")
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def register() -> None:
    """Register now if torch is loaded, else when it is."""
    if "torch" not in sys.modules:
        sys.meta_path.insert(0, _Finder())
    elif sys.modules["torch"] is not None:  # None where a program forbade the import
        _allow()
