"""Every error that Gridstone raises: one class per stage of the pipeline, one base to catch them all.

An exception means the user's input (or the machine) is at fault and says what to do; `assert` means our bug.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GridstoneError(Exception):
    """Base of all errors: what is wrong, and what to do about it.

    Args:
        problem: What was asked and what is wrong with it, naming the offending value.
        remedy: What the user can do, as an imperative sentence; may be empty.
    """

    stage = "gridstone"

    def __init__(self, problem: str, remedy: str = "") -> None:
        self.problem = problem
        self.remedy = remedy
        super().__init__(str(self))  # PyTorch shows the arguments of an error that a hook of ours raises

    def __reduce__(self) -> tuple[type[GridstoneError], tuple[str, str]]:
        return type(self), (self.problem, self.remedy)

    def __str__(self) -> str:
        text = f"{self.stage}: {self.problem}"
        return f"{text} ({self.remedy})" if self.remedy else text


class SpecError(GridstoneError):
    """The computation asked for is not well formed: shapes, dtypes, attributes, epilogues."""

    stage = "spec"


class LayoutError(SpecError, ValueError):
    """A layout operation is inadmissible, or a layout is malformed."""

    stage = "layout"


class FormatError(GridstoneError):
    """A quantised or sparse format is unknown, or does not fit the tensor it is asked for."""

    stage = "format"


class CaptureError(GridstoneError):
    """A PyTorch function could not be captured."""

    stage = "capture"


class ScheduleError(GridstoneError):
    """A schedule violates a named constraint of its recipe for this spec and target."""

    stage = "schedule"


class TemplateError(GridstoneError):
    """A template and the decisions it reads do not agree. Always a bug of a recipe."""

    stage = "template"


class BuildError(GridstoneError):
    """A toolchain is missing, or refused the emitted source."""

    stage = "build"


class LaunchError(GridstoneError):
    """A kernel could not be started, or died."""

    stage = "launch"


class MismatchError(GridstoneError):
    """A kernel's result is not the reference's within tolerance."""

    stage = "mismatch"


class CacheError(GridstoneError):
    """The kernel cache cannot do what was asked of it. Never raised on a read."""

    stage = "cache"


class PackError(GridstoneError):
    """A pack of records or artefacts is malformed, unsigned or does not fit."""

    stage = "pack"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a remedy that suggests the known names nearest to `name`.

    >>> nearest("int44", ["int4", "int8", "uint4"])
    'did you mean int4, uint4 or int8?'
    """
    names = list(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if not close:
        return "known: " + ", ".join(names)
    if len(close) == 1:
        return f"did you mean {close[0]}?"
    return f"did you mean {', '.join(close[:-1])} or {close[-1]}?"
