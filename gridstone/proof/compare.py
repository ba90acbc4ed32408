"""Comparison of an output with the float64 reference: element by element, in norm, and by position of NaN and Inf."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gridstone.ir.dtype import DType, Values, round_to
from gridstone.ir.spec import Tolerance


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a comparison.

    Args:
        problem: What is wrong, with the first offending index; empty when the output is right.
        worst_element: Largest ratio of an element's error to its bound.
        worst_rms: Ratio of the error's root mean square to its bound.
    """

    problem: str
    worst_element: float
    worst_rms: float

    @property
    def right(self) -> bool:
        """Whether the output is within tolerance."""
        return not self.problem


def compare(got: Values, want: Values, tolerance: Tolerance, dtype: DType) -> Verdict:
    """Compare an output with the unrounded reference.

    Args:
        got: Output, widened to float64.
        want: Reference in float64, same shape.
        tolerance: Bounds for these operands.
        dtype: Dtype of the output: a reference beyond its range must be an infinity in the output.

    NaN must stand exactly where the reference has NaN. An infinity must stand where the rounded reference is one,
    except within tolerance of the largest finite value of its sign, where either is right.
    """
    if got.shape != want.shape:
        return Verdict(f"shape {got.shape} instead of {want.shape}", np.inf, np.inf)
    if not got.size:
        return Verdict("", 0.0, 0.0)
    wrong = np.isnan(got) != np.isnan(want)
    if wrong.any():
        at = _first(wrong)
        text = f"{int(wrong.sum())} elements differ in being NaN, first at {at}: {_instead(got, want, at)}"
        return Verdict(text, np.inf, np.inf)
    stored = round_to(dtype, want)
    with np.errstate(invalid="ignore"):
        reached = np.sign(got) * want + tolerance.element >= dtype.largest
    infinite = np.where(np.isinf(got), got, 0.0) != np.where(np.isinf(stored), stored, 0.0)
    # What is finite on both sides is held to its bound below.
    infinite &= ~(np.isfinite(want) & (np.isfinite(got) | reached))
    if infinite.any():
        at = _first(infinite)
        text = f"{int(infinite.sum())} infinities differ, first at {at}: {_instead(got, want, at)}"
        return Verdict(text, np.inf, np.inf)
    finite = np.isfinite(got) & np.isfinite(want)
    if not finite.any():
        return Verdict("", 0.0, 0.0)
    error = np.abs(np.where(finite, got, 0.0) - np.where(finite, want, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error > 0, error / np.where(finite, tolerance.element, 1.0), 0.0)
    worst = float(ratio.max())
    rms = float(np.sqrt(np.mean(error[finite] ** 2)))
    worst_rms = rms / tolerance.rms if rms > 0 else 0.0
    if not worst <= 1.0:
        at = _first((ratio == worst) | np.isnan(ratio))
        text = f"element {at} is {_instead(got, want, at)}: {worst:.3g} times its bound"
        return Verdict(text, worst, worst_rms)
    if not worst_rms <= 1.0:
        return Verdict(f"root mean square error {rms:.3g} is {worst_rms:.3g} times its bound", worst, worst_rms)
    return Verdict("", worst, worst_rms)


def _instead(got: Values, want: Values, at: tuple[int, ...]) -> str:
    return f"{got[at]:.8g} instead of {want[at]:.8g}"


def _first(mask: Values | np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(mask)[0])
