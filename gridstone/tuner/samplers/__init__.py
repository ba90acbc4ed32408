"""Samplers: which points to measure next, given what is known. With `search`, the only files that import Optuna."""

from __future__ import annotations

import importlib
from enum import Enum

import numpy as np
import numpy.typing as npt

from gridstone.tuner.feasible import FeasibleSet
from gridstone.tuner.samplers.base import FeasibleSampler, Known, Observation

__all__ = ["DEFAULT", "FeasibleSampler", "Known", "Observation", "Sampler", "make_sampler"]


class Sampler(Enum):
    """How points are proposed."""

    PROCESS = "gp"
    FOREST = "lfbo"
    PARZEN = "tpe"
    EVOLUTION = "evolution"
    RANDOM = "random"
    GRID = "grid"


DEFAULT = Sampler.PROCESS  # docs/decisions/0011 shows the table that decided it

# Imported when they are asked for: some bring libraries that take a second to import.
_PLACES = {
    Sampler.PROCESS: ("process", "Process"),
    Sampler.FOREST: ("forest", "Forest"),
    Sampler.PARZEN: ("projected", "Parzen"),
    Sampler.EVOLUTION: ("evolution", "Evolution"),
    Sampler.RANDOM: ("plain", "Uniform"),
    Sampler.GRID: ("plain", "Grid"),
}


def make_sampler(
    sampler: Sampler,
    points: FeasibleSet,
    seed: int = 0,
    *,
    first: tuple[int, ...] = (),
    barred: tuple[int, ...] = (),
    startup: int | None = None,
    prior: npt.NDArray[np.float64] | None = None,
) -> FeasibleSampler:
    """Return a sampler over a feasible set; arguments as of `FeasibleSampler`."""
    module, name = _PLACES[sampler]
    options = {} if startup is None else {"startup": startup}
    made = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return made(points, seed, first=first, barred=barred, prior=prior, **options)
