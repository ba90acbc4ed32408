"""A Gaussian process: a guess at every point's time, and how sure it is, from the few that were measured.

Matern 5/2 with a length for each feature (Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006,
chapters 2, 4 and 5). Lengths, variance and noise maximise the likelihood times log-normal priors, which keep them
sensible while there is little to learn from (MAP).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize

Vector = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float64]

LENGTH, LENGTH_SPREAD = 0.7, 1.0  # prior median of a feature's length, and standard deviation of its logarithm
SIGNAL_SPREAD = 1.0  # of the variance, whose prior median is that of the values
NOISE, NOISE_SPREAD = 3e-3, 1.5  # of the noise's share of the variance
LEAST_NOISE = 1e-6
STEPS = 30
_ROOT = math.sqrt(5.0)


@dataclass(frozen=True, slots=True, eq=False)
class GaussianProcess:
    """What was learned from measured points.

    Args:
        places: (points, features) of what was measured.
        theta: Logarithms of lengths, variance and noise, of values scaled to mean 0 and variance 1.
        mean, scale: Of the values.
        root: Lower Cholesky factor of the covariance.
        weights: The covariance's inverse times the scaled values.
    """

    places: Matrix
    theta: Vector
    mean: float
    scale: float
    root: Matrix
    weights: Vector

    def predict(self, places: Matrix) -> tuple[Vector, Vector]:
        """Return means and variances of the values at (n, features) places, without the noise of measuring them."""
        across = _matern(_squares(self.places, places, self._lengths), self._signal)
        explained = solve_triangular(self.root, across, lower=True, check_finite=False)
        variance = np.maximum(self._signal - (explained * explained).sum(axis=0), 1e-12)
        return across.T @ self.weights * self.scale + self.mean, variance * self.scale**2

    def believing(self, places: Matrix) -> GaussianProcess:
        """Return the process as if values had been measured at places and had come out as expected.

        Means stay what they are, and variances fall.
        """
        across = _matern(_squares(self.places, places, self._lengths), self._signal)
        explained = solve_triangular(self.root, across, lower=True, check_finite=False)
        rest = _matern(_squares(places, places, self._lengths), self._signal) - explained.T @ explained
        corner = np.linalg.cholesky(rest + self._noise * np.eye(len(places)))
        root = np.block([[self.root, np.zeros((len(self.root), len(places)))], [explained.T, corner]])
        weights = np.concatenate([self.weights, np.zeros(len(places))])
        return replace(self, places=np.vstack([self.places, places]), root=root, weights=weights)

    @property
    def _signal(self) -> float:
        return math.exp(self.theta[-2])

    @property
    def _noise(self) -> float:
        return math.exp(self.theta[-1]) + LEAST_NOISE

    @property
    def _lengths(self) -> Vector:
        return np.exp(self.theta[:-2])


def fit(places: Matrix, values: Vector, start: Vector | None = None) -> GaussianProcess:
    """Learn from values at places.

    Args:
        places: (points, features), each feature about 0 to 1.
        values: (points,) finite.
        start: Where the search for theta begins: that of a process with fewer points.
    """
    width = places.shape[1]
    mean, scale = float(values.mean()), float(values.std()) or 1.0
    scaled = (values - mean) / scale
    middle, spread = belief(width)
    first = middle if start is None or len(start) != width + 2 else start
    bounds = [(m - 4.0 * s, m + 4.0 * s) for m, s in zip(middle, spread, strict=True)]
    found = minimize(
        loss, first, args=(apart(places), scaled), jac=True, method="L-BFGS-B", bounds=bounds,
        options={"maxiter": STEPS},
    )  # fmt: skip
    theta = np.asarray(found.x)
    kernel = _matern(_squares(places, places, np.exp(theta[:width])), math.exp(theta[width]))
    noise = (math.exp(theta[width + 1]) + LEAST_NOISE) * np.eye(len(values))
    root = np.asarray(np.linalg.cholesky(kernel + noise), dtype=np.float64)
    weights = np.asarray(cho_solve((root, True), scaled, check_finite=False))
    return GaussianProcess(places, theta, mean, scale, root, weights)


def belief(width: int) -> tuple[Vector, Vector]:
    """Return medians and standard deviations of what is believed of theta before anything is measured."""
    middle = np.array([math.log(LENGTH)] * width + [0.0, math.log(NOISE)])
    return middle, np.array([LENGTH_SPREAD] * width + [SIGNAL_SPREAD, NOISE_SPREAD])


def apart(places: Matrix) -> npt.NDArray[np.float64]:
    """Return (features, points, points) squared differences."""
    return (places.T[:, :, None] - places.T[:, None, :]) ** 2


def loss(theta: Vector, apart: npt.NDArray[np.float64], scaled: Vector) -> tuple[float, Vector]:
    """Return the negative logarithm of likelihood times priors, but for a constant, and its gradient.

    Args:
        theta: Where: logarithms of lengths, variance and noise.
        apart: (features, points, points) squared differences.
        scaled: (points,) values.
    """
    width, (middle, spread) = len(apart), belief(len(apart))
    inverse, signal, noise = np.exp(-2.0 * theta[:width]), math.exp(theta[width]), math.exp(theta[width + 1])
    squares = np.tensordot(inverse, apart, 1)
    distance = _ROOT * np.sqrt(squares)
    fall = signal * np.exp(-distance)
    kernel = fall * (1.0 + distance + distance * distance / 3.0)
    try:
        root = np.linalg.cholesky(kernel + (noise + LEAST_NOISE) * np.eye(len(scaled)))
    except np.linalg.LinAlgError:
        return 1e12, np.zeros_like(theta)
    weights = cho_solve((root, True), scaled, check_finite=False)
    rest = cho_solve((root, True), np.eye(len(scaled)), check_finite=False) - np.outer(weights, weights)
    # The kernel changes by fall * 5/3 * (1 + distance) * share for a feature's share of the squares.
    slope = (5.0 / 6.0) * rest * fall * (1.0 + distance)
    gradient = np.empty_like(theta)
    gradient[:width] = np.tensordot(apart, slope, 2) * inverse
    gradient[width] = 0.5 * (rest * kernel).sum()
    gradient[width + 1] = 0.5 * np.trace(rest) * noise
    off = (theta - middle) / spread
    total = 0.5 * scaled @ weights + np.log(np.diag(root)).sum() + 0.5 * off @ off
    return float(total), gradient + off / spread


def _squares(one: Matrix, other: Matrix, lengths: Vector) -> Matrix:
    """Return squared distances between (n, features) and (m, features), each feature over its length."""
    a, b = one / lengths, other / lengths
    return np.maximum((a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None, :] - 2.0 * (a @ b.T), 0.0)


def _matern(squares: Matrix, variance: float) -> Matrix:
    distance = _ROOT * np.sqrt(squares)
    return variance * np.exp(-distance) * (1.0 + distance + distance * distance / 3.0)
