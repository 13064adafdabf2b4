"""Rules against integrals done by hand, and the number of steps against what it is for."""

from __future__ import annotations

import numpy as np
import pytest

from attnviz.plugins.analyses.attribution.quadrature import LADDER, gauss_legendre, spread, steps_needed


def integral(rule, function):
    points, weights = rule
    return float(weights @ function(points))


def test_two_points_by_hand():
    """(1 ∓ 1/√3)/2 with weight ½ each: exact up to degree 3."""
    points, weights = gauss_legendre(2)
    np.testing.assert_allclose(points, [(1 - 3**-0.5) / 2, (1 + 3**-0.5) / 2])
    np.testing.assert_allclose(weights, [0.5, 0.5])
    for degree in range(4):
        assert integral(gauss_legendre(2), lambda x, k=degree: x**k) == pytest.approx(1 / (degree + 1), rel=1e-12)


@pytest.mark.parametrize("rule", [gauss_legendre, spread])
def test_rules_integrate_what_is_smooth(rule):
    """∫₀¹ 20·cos 20x = sin 20; ∫₀¹ eˣ = e − 1."""
    assert integral(rule(64), lambda x: 20 * np.cos(20 * x)) == pytest.approx(np.sin(20), abs=1e-9)
    assert integral(rule(32), np.exp) == pytest.approx(np.e - 1, abs=1e-9)
    points, weights = rule(16)
    assert (np.diff(points) > 0).all()
    assert points[0] > 0
    assert points[-1] < 1
    assert (weights > 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-6)


def test_points_are_spread_and_so_fewer_are_needed():
    """Gaps at the end and in the middle; error of 25 full waves."""
    ratio = [np.diff(rule(32)[0])[15] / np.diff(rule(32)[0])[0] for rule in (gauss_legendre, spread)]
    assert ratio[1] < ratio[0] / 2
    wave = lambda x: 1 + np.cos(50 * np.pi * x)  # noqa: E731
    assert abs(integral(spread(40), wave) - 1) < abs(integral(gauss_legendre(40), wave) - 1) / 10


FUNCTIONS = {
    "line": lambda x: 3 * x + 1,
    "wave": lambda x: np.sin(40 * x),
    "bend": lambda x: 5 / (1 + np.exp(-30 * (x - 0.7))),
    "flat": lambda x: 0 * x,
}


@pytest.mark.parametrize("tolerance", [0.1, 1e-3, 1e-6])
def test_each_function_gets_the_steps_it_needs(tolerance):
    """Enough by the slope done exactly (central differences in float64), and not four times what is enough."""
    values = lambda places: np.stack([f(places) for f in FUNCTIONS.values()], axis=1)  # noqa: E731
    found = dict(zip(FUNCTIONS, steps_needed(values, tolerance).tolist(), strict=True))
    for name, f in FUNCTIONS.items():

        def slope(x, f=f):
            return (f(x + 1e-6) - f(x - 1e-6)) / 2e-6

        def missed(steps, f=f, slope=slope):
            return abs(integral(spread(steps), slope) - (f(1.0) - f(0.0)))

        assert missed(found[name]) <= tolerance
        assert found[name] == LADDER[0] or any(missed(s) > tolerance / 2 for s in LADDER if s * 4 >= found[name] > s)
    assert found["flat"] == LADDER[0]
    assert found["line"] <= 5  # under the map a slope of degree 8, for which 2·5 − 1 is enough
    assert found["wave"] > found["line"]


def test_noise_of_float32_is_not_taken_for_a_need():
    random = np.random.default_rng(0)
    values = lambda places: (np.sin(5 * places) * 20 + 1e-5 * random.normal(size=places.shape))[:, None]  # noqa: E731
    assert steps_needed(values, 0.01)[0] <= 12


def test_what_cannot_be_followed_gets_the_most_steps():
    jump = lambda places: np.where(places > 1 / 3, 1.0, 0.0)[:, None]  # noqa: E731
    assert steps_needed(jump, 0.01)[0] == LADDER[-1]


def test_places_are_asked_for_once():
    asked = []

    def values(places):
        asked.extend(places.tolist())
        return np.sin(150 * places)[:, None]

    steps_needed(values, 1e-4)
    assert len(np.unique(np.round(asked, 12))) == len(asked) > 65
