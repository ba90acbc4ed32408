"""The Gaussian process, against linear algebra that is written out, finite differences and quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad

from gridstone.tuner import gaussian
from gridstone.tuner.gaussian import LEAST_NOISE, GaussianProcess, apart, belief, fit, loss
from gridstone.tuner.samplers.process import expected_improvement

EPS = float(np.finfo(np.float64).eps)
WIDTH = 3


def kernel(theta, one, other):
    """The Matern 5/2 covariance, entry by entry."""
    lengths, signal = np.exp(theta[:-2]), math.exp(theta[-2])
    found = np.empty((len(one), len(other)))
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            r = math.sqrt(5 * sum(((x - y) / length) ** 2 for x, y, length in zip(a, b, lengths, strict=True)))
            found[i, j] = signal * (1 + r + r * r / 3) * math.exp(-r)
    return found


def brute(theta, places, values, mean, scale, at):
    """Return means and variances at places, and by how much rounding may change them."""
    noise = math.exp(theta[-1]) + LEAST_NOISE
    covariance = kernel(theta, places, places) + noise * np.eye(len(places))
    inverse, across = np.linalg.inv(covariance), kernel(theta, places, at)
    means = across.T @ inverse @ ((values - mean) / scale) * scale + mean
    variances = (math.exp(theta[-2]) - np.einsum("ij,ik,kj->j", across, inverse, across)) * scale**2
    rounding = EPS * np.linalg.cond(covariance) * len(places) * max(1.0, scale**2, np.abs(values).max())
    return means, variances, float(rounding)


@pytest.fixture(scope="module")
def learned():
    """A process that was fitted, and the values."""
    rng = np.random.default_rng(3)
    places = rng.random((14, WIDTH))
    values = 5.0 + 2.0 * np.sin(3.0 * places[:, 0]) + places[:, 1] ** 2
    return fit(places, values), values


def thetas(count=6):
    rng = np.random.default_rng(1)
    middle, spread = belief(WIDTH)
    return [middle, *(middle + spread * rng.standard_normal(len(middle)) for _ in range(count))]


class TestLoss:
    @staticmethod
    def disagreement(theta, gradient):
        """Return by how many times the error of central differences a gradient is off, at worst."""
        rng = np.random.default_rng(2)
        places = rng.random((9, WIDTH))
        values = rng.standard_normal(9)
        apart_, step, worst = apart(places), EPS**0.25, 0.0
        at = loss(theta, apart_, values)[0]
        for i, slope in enumerate(gradient(loss(theta, apart_, values)[1])):

            def central(h, i=i):
                ahead, behind = theta.copy(), theta.copy()
                ahead[i] += h
                behind[i] -= h
                return (loss(ahead, apart_, values)[0] - loss(behind, apart_, values)[0]) / (2 * h)

            near, far = central(step), central(2 * step)
            # The error of a step falls with its square: that of the near one is a third of what they differ by.
            noise = math.exp(theta[-1]) + LEAST_NOISE
            rounding = EPS * max(1.0, abs(at)) * (1.0 + math.exp(theta[-2]) / noise) / step
            worst = max(worst, abs(slope - near) / (abs(near - far) + rounding))
        return worst

    @pytest.mark.parametrize("theta", thetas())
    def test_gradient_is_that_of_finite_differences(self, theta):
        assert self.disagreement(theta, lambda gradient: gradient) <= 1

    @pytest.mark.parametrize("wrong", range(WIDTH + 2))
    def test_a_gradient_that_is_one_per_cent_off_is_found(self, wrong):
        """The negative control."""

        def spoilt(gradient):
            return gradient * np.where(np.arange(len(gradient)) == wrong, 1.01, 1.0)

        assert self.disagreement(thetas()[0], spoilt) > 1

    def test_is_the_density_that_is_written_out(self):
        rng = np.random.default_rng(4)
        places, values = rng.random((7, WIDTH)), rng.standard_normal(7)
        middle, spread = belief(WIDTH)

        def density(theta):
            covariance = kernel(theta, places, places) + (math.exp(theta[-1]) + LEAST_NOISE) * np.eye(7)
            likelihood = 0.5 * values @ np.linalg.inv(covariance) @ values + 0.5 * np.linalg.slogdet(covariance)[1]
            return likelihood + 0.5 * (((theta - middle) / spread) ** 2).sum()

        for theta in thetas():
            assert loss(theta, apart(places), values)[0] == pytest.approx(density(theta))

    def test_fitting_lowers_it(self, learned):
        process, values = learned
        scaled = (values - process.mean) / process.scale
        found = loss(process.theta, apart(process.places), scaled)[0]
        assert found < min(loss(theta, apart(process.places), scaled)[0] for theta in thetas())

    def test_what_cannot_be_factored_is_no_place_to_go(self, monkeypatch):
        monkeypatch.setattr(gaussian, "LEAST_NOISE", 0.0)
        theta, _ = belief(1)
        theta[-1] = -90.0
        found, gradient = loss(theta, apart(np.zeros((3, 1))), np.array([1.0, 0.0, -1.0]))
        assert found >= 1e12
        assert not gradient.any()


class TestPrediction:
    def test_is_that_of_the_linear_algebra(self, learned):
        process, values = learned
        at = np.random.default_rng(5).random((20, WIDTH)) * 1.5
        means, variances, rounding = brute(process.theta, process.places, values, process.mean, process.scale, at)
        mean, variance = process.predict(at)
        assert np.abs(mean - means).max() <= rounding
        assert np.abs(variance - variances).max() <= rounding
        shifted, _, _ = brute(process.theta, process.places, values[::-1], process.mean, process.scale, at)
        assert np.abs(mean - shifted).max() > rounding  # the negative control

    def test_goes_through_values_that_have_no_noise(self, learned):
        process, values = learned
        mean, variance = process.predict(process.places)
        noise = math.exp(process.theta[-1]) + LEAST_NOISE
        # What is left over is noise times weights, a variance at a measured point at most the noise.
        _, _, rounding = brute(process.theta, process.places, values, process.mean, process.scale, process.places)
        assert np.abs(mean - values).max() <= noise * np.abs(process.weights).max() * process.scale + rounding
        assert np.abs(mean - values).max() < 0.1 * process.scale
        assert variance.max() <= noise * process.scale**2 + rounding

    def test_is_less_sure_the_farther_it_is_from_what_was_measured(self):
        places = 0.05 * np.random.default_rng(6).random((6, 2))
        process = fit(places, np.array([1.0, 1.1, 0.9, 1.2, 1.0, 0.8]))
        away = np.linspace(0.05, 50.0, 40)[:, None] * np.ones(2)
        mean, variance = process.predict(away)
        assert (np.diff(variance) >= -EPS * variance.max()).all()
        assert variance[0] < variance[-1]
        assert variance[-1] == pytest.approx(math.exp(process.theta[-2]) * process.scale**2)
        assert mean[-1] == pytest.approx(process.mean)

    def test_learns_which_feature_matters(self):
        rng = np.random.default_rng(7)
        places = rng.random((30, 2))
        process = fit(places, np.sin(6.0 * places[:, 1]))
        assert process.theta[1] < process.theta[0]  # the shorter length is where values change

    def test_equal_values_are_survived(self):
        process = fit(np.eye(3), np.ones(3))
        mean, variance = process.predict(np.zeros((1, 3)))
        assert mean == pytest.approx(1.0)
        assert variance > 0

    def test_no_features_are_survived(self):
        mean, variance = fit(np.zeros((3, 0)), np.array([1.0, 2.0, 3.0])).predict(np.zeros((2, 0)))
        assert np.isfinite([mean, variance]).all()

    def test_is_the_same_each_time(self, learned):
        process, values = learned
        assert fit(process.places, values).theta.tolist() == process.theta.tolist()

    def test_a_start_of_another_width_is_ignored(self, learned):
        process, values = learned
        assert fit(process.places, values, np.zeros(9)).theta.tolist() == process.theta.tolist()
        again = fit(process.places, values, process.theta)
        scaled = (values - process.mean) / process.scale
        at = apart(process.places)
        assert loss(again.theta, at, scaled)[0] <= loss(process.theta, at, scaled)[0]


class TestBelieving:
    @pytest.fixture
    def believed(self):
        return np.random.default_rng(8).random((4, WIDTH))

    def test_means_stay_and_variances_fall(self, learned, believed):
        process, values = learned
        at = np.vstack([np.random.default_rng(9).random((20, WIDTH)), believed])
        (mean, variance), (means, variances) = process.predict(at), process.believing(believed).predict(at)
        rounding = brute(process.theta, process.places, values, process.mean, process.scale, at)[2]
        assert np.abs(means - mean).max() <= rounding
        assert (variances <= variance + rounding).all()
        assert (variances[-4:] < variance[-4:] - rounding).all()

    @staticmethod
    def off(process: GaussianProcess, values, believed, extra):
        """Return by how much believing differs from measuring a value beside the mean, and the rounding."""
        at = np.random.default_rng(9).random((20, WIDTH))
        places = np.vstack([process.places, believed])
        told = np.concatenate([values, process.predict(believed)[0] + extra])
        means, variances, rounding = brute(process.theta, places, told, process.mean, process.scale, at)
        mean, variance = process.believing(believed).predict(at)
        return np.abs(mean - means).max(), np.abs(variance - variances).max(), rounding

    def test_is_measuring_what_was_expected(self, learned, believed):
        means, variances, rounding = self.off(*learned, believed, 0.0)
        assert means <= rounding
        assert variances <= rounding

    def test_is_not_measuring_anything_else(self, learned, believed):
        """The negative control."""
        means, _, rounding = self.off(*learned, believed, 0.01)
        assert means > rounding

    def test_one_after_the_other_is_all_at_once(self, learned, believed):
        process, _ = learned
        at = np.random.default_rng(10).random((9, WIDTH))
        once, turns = process.believing(believed), process
        for place in believed:
            turns = turns.believing(place[None])
        rounding = brute(process.theta, once.places, np.zeros(len(once.places)), 0.0, process.scale, at)[2]
        assert np.abs(once.predict(at)[1] - turns.predict(at)[1]).max() <= rounding

    def test_a_place_that_was_measured_or_comes_twice_is_survived(self, learned):
        process, _ = learned
        again = process.believing(process.places[[0, 0, 3]])
        assert np.isfinite(again.predict(process.places)).all()


@pytest.mark.parametrize(("best", "mean", "variance"), [(0.0, 0.0, 1.0), (1.0, 2.5, 0.3), (-1.0, -4.0, 2.0)])
def test_expected_improvement_is_the_integral(best, mean, variance):
    spread = math.sqrt(variance)

    def below(value):
        density = math.exp(-0.5 * ((value - mean) / spread) ** 2) / (spread * math.sqrt(2 * math.pi))
        return (best - value) * density

    wanted, error = quad(below, mean - 12 * spread, best, points=[mean - 3 * spread])
    found = expected_improvement(best, np.array([mean]), np.array([variance]))[0]
    assert abs(found - wanted) <= error + 4 * EPS * abs(best - mean)
    assert abs(1.001 * found - wanted) > error + 4 * EPS * abs(best - mean)


def test_expected_improvement_of_the_sure_is_what_they_gain():
    gains = expected_improvement(1.0, np.array([0.5, 1.0, 2.0]), np.full(3, 1e-12))
    assert gains[0] == pytest.approx(0.5)
    assert gains[0] > gains[1] > gains[2] >= 0
