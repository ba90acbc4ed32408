"""Planted recipes: what the worker runs in their place is written here, faults included.

The worker imports this by `--plants tuner_plants:plants`; tests take the recipes' search spaces from it.
"""

import contextlib
import ctypes
import gc
import os
import signal
import time
from dataclasses import dataclass

import torch

from gridstone.ir.text import parse_spec
from gridstone.kernel_cache.toolchain_library import library_call
from gridstone.lower.schedule import Choice, Constraint, SearchSpace
from gridstone.lower.target import Language
from gridstone.templates.gemm import library
from gridstone.templates.recipe import Recipe
from gridstone.templates.source import Launch
from gridstone.tuner.exam import Case

SPEC = parse_spec("gemm[x: f32(8,64), w: f32(48,64)]")
FAULTS = (
    "none", "abort", "segfault", "exit", "killed", "loop", "wrong", "nan", "outside", "before", "stray", "input",
    "garbage", "replies", "raises", "memory", "late", "fast",
)  # fmt: skip
TILES = (1, 2, 4, 8, 16, 32)
STAGES = (1, 2, 3, 4)


@dataclass(frozen=True, slots=True)
class Knobs:
    tile: int
    stages: int


@dataclass(frozen=True, slots=True)
class Fault:
    fault: str


def _recipe(name, schedule, space, claims=True):
    return Recipe(
        name, "gemm", Language.CPP, schedule, space, (), "", (), Launch("", True),
        refuses=lambda spec, target: None, claims=lambda spec, target: claims,
    )  # fmt: skip


_SMALL = Constraint("tile and stages fit", ("tile", "stages"), lambda s, spec, target: s.tile * s.stages <= 64)
KNOBS = _recipe(
    "gemm.planted.knobs",
    Knobs,
    SearchSpace((Choice("tile", TILES), Choice("stages", STAGES)), (_SMALL,), lambda spec, target: Knobs(1, 1)),
)
FAULTY = _recipe(
    "gemm.planted.faulty",
    Fault,
    SearchSpace((Choice("fault", FAULTS),), (), lambda spec, target: Fault("none")),
)
KNOBS_AND_LIBRARY = (KNOBS, library.RECIPE)


def plants():
    return {"gemm.planted.faulty": _faulty, "gemm.planted.knobs": _knobs, "gemm.library.torch": _slow_library}


def _slow_library(spec, schedule, target):
    return _delayed(spec, 4e-3)


def _knobs(spec, schedule, target):
    return _delayed(spec, 0.0 if schedule == "knobs(tile=8,stages=2)" else 2e-3)


def _delayed(spec, seconds):
    call = library_call(spec)

    def delayed(*tensors, out=None):
        if seconds:
            time.sleep(seconds)
        return call(*tensors, out=out)

    return delayed


def _faulty(spec, schedule, target):
    fault = schedule.removeprefix("fault(fault=").removesuffix(")")
    right = library_call(spec)
    calls = 0

    def call(*tensors, out=None):
        nonlocal calls
        calls += 1
        y = right(*tensors, out=out)
        match fault:
            case "none":
                time.sleep(2e-3)
            case "fast":
                pass
            case "slow":  # not among those that a job tries
                time.sleep(0.3)
            case "abort":
                os.abort()
            case "segfault":
                ctypes.string_at(0)
            case "exit":
                os._exit(0)
            case "killed":  # as by the system when memory runs out
                os.kill(os.getpid(), signal.SIGKILL)
            case "loop":
                while True:
                    pass
            case "wrong":
                y *= 1.01
            case "nan":
                y[0, 0] = float("nan")
            case "outside":
                torch.as_strided(y, (1,), (1,), y.storage_offset() + y.numel())[0] = 1.0
            case "before":
                torch.as_strided(y, (1,), (1,), y.storage_offset() - 1)[0] = 1.0
            case "stray":  # far from its operands, and only while it is timed
                if calls > 2:
                    for case in gc.get_objects():
                        if isinstance(case, Case) and case.operands.tensors[0].shape != tensors[0].shape:
                            case.operands.tensors[0].add_(1.0)
            case "input":
                tensors[0][0, 0] += 1.0
            case "garbage":
                time.sleep(2e-3)
                os.write(1, b"\x00\xff garbage \n" * 10_000)
                os.write(2, b"more garbage")
            case "replies":  # into every file that is open, the pipe to the job included
                for file in range(3, 64):
                    with contextlib.suppress(OSError):
                        os.write(file, b"\xff" * 64)
            case "memory":
                torch.empty(1 << 60, dtype=torch.uint8)
            case "raises":
                raise RuntimeError("a planted failure")
            case "late":  # right while it is checked first, wrong once it has been timed
                time.sleep(1e-3)
                if calls > 4:
                    y += 1.0
        return y

    return call
