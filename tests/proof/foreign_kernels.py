"""Callables that claim to be kernels: honest ones, and those that only look right. Made afresh, since some remember."""

from __future__ import annotations

import gc
import sys
import threading
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

PLAIN = "gemm[x: f32(M,64), w: f32(48,64)]"
LATE_S = 0.01  # after which a thread does what it should have done before the call returned


def right(x, w):
    return F.linear(x, w)


def after(spoil):
    """Right, and then something else happens."""

    def make():
        def candidate(x, w):
            y = right(x, w)
            return spoil(x, w, y)

        return candidate

    return make


def later(act):
    """Do something once the call has returned."""

    def run():
        time.sleep(LATE_S)
        act()

    threading.Thread(target=run, daemon=True).start()


def keyed(key):
    """Right for what it was first called with, among calls that it takes for the same."""

    def make():
        kept = {}

        def candidate(x, w):
            name = key(x, w)
            if name not in kept:
                kept[name] = right(x, w)
            return kept[name].clone()

        return candidate

    return make


def counted(rightly):
    """Right in those calls for whose number the condition holds."""

    def make():
        calls = 0

        def candidate(x, w):
            nonlocal calls
            calls += 1
            return right(x, w) if rightly(calls) else torch.zeros(x.shape[0], w.shape[0])

        return candidate

    return make


def scavenger():
    """Looks for the answer in whatever this process holds; one element of it is computed, to know it by."""

    def arrays():
        frame = sys._getframe(2)
        while frame is not None:
            yield from frame.f_locals.values()
            frame = frame.f_back
        for thing in gc.get_objects():
            try:
                yield thing
                if type(thing) is list:
                    yield from thing
            except ReferenceError:
                continue

    def candidate(x, w):
        shape, corner = (x.shape[0], w.shape[0]), float(x[0].double() @ w[0].double())
        for thing in arrays():
            if type(thing) is bytes and len(thing) == 4 * shape[0] * shape[1]:
                thing = np.frombuffer(thing, np.float32).reshape(shape)
            if type(thing) in (np.ndarray, torch.Tensor) and tuple(thing.shape) == shape:
                found = torch.as_tensor(thing).to(torch.float32)
                if abs(float(found[0, 0]) - corner) <= 1e-5 * abs(corner):
                    return found.clone()
        return torch.zeros(shape)

    return candidate


def stale():
    """Returns the tensor that it returned before, filled anew."""
    kept = {}

    def candidate(x, w):
        y = kept.setdefault(tuple(x.shape), torch.empty(x.shape[0], w.shape[0]))
        return y.copy_(right(x, w))

    return candidate


def returns_at_once():
    """The work is done by a thread that is still at it when the call returns."""

    def candidate(x, w):
        y = torch.empty(x.shape[0], w.shape[0])
        x, w = x.clone(), w.clone()
        later(lambda: y.copy_(right(x, w)))
        return y

    return candidate


def borrows_x():
    """Changes an operand and lets a thread put it back."""

    def candidate(x, w):
        y, before = right(x, w), x.clone()
        x.zero_()
        later(lambda: x.copy_(before))
        return y

    return candidate


class Agreeing(torch.Tensor):
    """Is close to everything."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function in (torch.allclose, torch.equal):
            return True
        return super().__torch_function__(function, types, args, kwargs or {})


class Lying:
    """Says that it is an array."""

    def __init__(self, y):
        self.y, self.shape, self.dtype = y, y.shape, y.dtype

    def __array__(self, *_, **__):
        return self.y.numpy()


class Agreed(TorchFunctionMode):
    """Sees every call of torch and finds everything close."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.allclose, torch.equal):
            return True
        return function(*args, **(kwargs or {}))


def unwritten(x, w):
    return torch.empty(x.shape[0], w.shape[0])


def nan(x, w):
    return torch.full((x.shape[0], w.shape[0]), float("nan"))


def beyond(x, w):
    """Reads a row that is not there, and counts on it being zero."""
    longer = torch.as_strided(x, (x.shape[0] + 1, x.shape[1]), x.stride(), x.storage_offset())
    return right(x, w) + 0.0 * longer[-1:].sum()


def memo():
    """Remembers by all bytes: not a kernel that one would want to time, and right."""
    return keyed(lambda x, w: (bytes(x.numpy()), bytes(w.numpy())))()


def dies(x, w):
    import os

    os._exit(3)


def hangs(x, w):
    time.sleep(3600)


def overrules(x, w):
    """Wrong, and has every comparison within its reach find it right."""
    from gridstone.proof import compare, foreign, judge

    def agrees(*_):
        return compare.Verdict("", 0.0, 0.0)

    for module in (compare, foreign, judge):
        module.compare = agrees
    np.isnan = np.isfinite = lambda values, *_: np.zeros(np.shape(values), bool)
    torch.allclose = torch.equal = lambda *_, **__: True
    return torch.zeros(x.shape[0], w.shape[0])
