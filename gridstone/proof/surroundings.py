"""What a call must leave alone beside memory: settings of torch and NumPy, and the functions that make a verdict.

Some of it belongs to every thread, some to one; a kernel that changes any of it changes what other people's code means.
What a call has changed is named and put back.
"""

from __future__ import annotations

import builtins
import ctypes
import hashlib
import math
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

OWN = ("gridstone.ir.", "gridstone.proof.")
Owner = ModuleType | type
# A verdict is computed with these; modules of gridstone's own are added as they are found.
WATCHED: tuple[Owner, ...] = (builtins, ctypes, hashlib, math, threading, np, np.linalg, torch.Tensor)
# Of these what C defines: torch replaces some of its Python functions itself, when its compiler is first used.
TORCH = (torch, torch.nn.functional)
BUILTINS = frozenset(name for name in vars(builtins) if not name.startswith("__"))


@dataclass(frozen=True, slots=True)
class Setting:
    """Something that a process or a thread has one of.

    Args:
        name: For messages.
        read: Returns it.
        write: Puts it back.
    """

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


@dataclass(frozen=True, slots=True)
class Piece:
    """A function or class, and what makes a Python function do what it does."""

    value: object
    code: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """All of it, at one time.

    Args:
        settings: What each of `SETTINGS` was.
        pieces: By module or class, functions and classes by name.
    """

    settings: tuple[Any, ...]
    pieces: dict[Owner, dict[str, Piece]]

    def restore(self) -> tuple[str, ...]:
        """Put back what has changed since; return what that was, nothing when nothing has."""
        found = [text for owner, before in self.pieces.items() for text in _restored(owner, before)]
        for setting, before in zip(SETTINGS, self.settings, strict=True):
            now = _read(setting)
            if now != before:
                found.append(f"{setting.name}: {before} became {now}")
                setting.write(before)
        return tuple(found)


def surroundings() -> Surroundings:
    """Return the surroundings as they are now."""
    own = [module for name, module in sys.modules.items() if name.startswith(OWN) and isinstance(module, ModuleType)]
    pieces = {owner: _pieces(owner) for owner in (*WATCHED, *TORCH, *own)}
    for module in own:
        classes = (value for value in vars(module).values() if isinstance(value, type))
        pieces |= {kind: _pieces(kind) for kind in classes if kind.__module__ == module.__name__}
    return Surroundings(tuple(map(_read, SETTINGS)), pieces)


def _names(owner: Owner) -> Mapping[str, object]:
    """Return what is found under each name: for a class its bases' too."""
    if isinstance(owner, type):
        found: dict[str, object] = {}
        for base in reversed(owner.__mro__[:-1]):
            found.update(vars(base))
        return found
    return vars(owner)


def _pieces(owner: Owner) -> dict[str, Piece]:
    kinds = BuiltinFunctionType if owner in TORCH else object
    return {
        name: Piece(value, _code(value))
        for name, value in _names(owner).items()
        if (callable(value) or isinstance(value, property)) and isinstance(value, kinds)
        if name != "_"  # where an interactive interpreter keeps its last result
    }


def _restored(owner: Owner, before: dict[str, Piece]) -> Iterator[str]:
    now = _names(owner)
    if owner.__name__.startswith(OWN):
        for name in BUILTINS & now.keys() - before.keys():
            if not isinstance(now[name], ModuleType):
                yield f"{owner.__name__}.{name} hides a builtin"
                delattr(owner, name)
    changed = [
        (name, piece)
        for name, piece in before.items()
        if now.get(name) is not piece.value or (piece.code and _code(piece.value) != piece.code)
    ]
    for name, piece in changed:
        yield f"{owner.__name__}.{name} was replaced"
        if now.get(name) is not piece.value:
            if name in vars(owner):
                delattr(owner, name)
            if _names(owner).get(name) is not piece.value:  # it was not a base's
                setattr(owner, name, piece.value)
        if isinstance(piece.value, FunctionType):
            piece.value.__code__, piece.value.__defaults__, piece.value.__kwdefaults__ = piece.code


def _code(value: object) -> tuple[Any, ...]:
    return (value.__code__, value.__defaults__, value.__kwdefaults__) if isinstance(value, FunctionType) else ()


def _read(setting: Setting) -> Any:
    try:
        return setting.read()
    except RuntimeError:  # torch refuses to say when two of its ways to set something were mixed
        return None


def _flushes() -> bool:
    """Return whether this thread takes subnormal numbers for zero; torch can set that and not say it."""
    return bool(np.array([5e-324]) * np.array([1.0]) == 0.0)


def _function_modes() -> tuple[object, ...]:
    """Return the modes that see every call of torch, but for a default device, which is one at the stack's bottom."""
    return tuple(mode for mode in _get_current_function_mode_stack() if not isinstance(mode, DeviceContext))


def _leave_function_modes(wanted: tuple[object, ...]) -> None:
    whole = [torch._C._pop_torch_function_stack() for _ in _get_current_function_mode_stack()]
    devices = [mode for mode in whole if isinstance(mode, DeviceContext)]
    for mode in (*devices, *wanted):
        torch._C._push_on_torch_function_stack(mode)


def _dispatch_modes() -> tuple[object, ...]:
    return tuple(_get_current_dispatch_mode_stack())


def _leave_dispatch_modes(wanted: tuple[object, ...]) -> None:
    while len(_dispatch_modes()) > len(wanted):
        torch._C._pop_torch_dispatch_stack(None)


SETTINGS = (
    # These see what torch is asked from here on, so they come first.
    Setting("the stack of torch dispatch modes", _dispatch_modes, _leave_dispatch_modes),
    Setting("the stack of torch function modes", _function_modes, _leave_function_modes),
    Setting(
        "torch's default device",
        torch.get_default_device,
        lambda device: torch.set_default_device(None if device.type == "cpu" else device),
    ),
    Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
    Setting("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
    Setting("grad mode", torch.is_grad_enabled, torch._C._set_grad_enabled),
    Setting(
        "torch's deterministic algorithms",
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda flags: torch.use_deterministic_algorithms(flags[0], warn_only=flags[1]),
    ),
    Setting("torch's float32 matmul precision", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    Setting(
        "autocast",
        lambda: (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
        lambda flags: [torch.set_autocast_enabled(*pair) for pair in zip(("cpu", "cuda"), flags, strict=True)],
    ),
    Setting("flushing of subnormal numbers", _flushes, torch.set_flush_denormal),
    Setting("NumPy's handling of errors", np.geterr, lambda errors: np.seterr(**errors)),
    Setting("the trace function", sys.gettrace, sys.settrace),
    Setting("the profile function", sys.getprofile, sys.setprofile),
)
