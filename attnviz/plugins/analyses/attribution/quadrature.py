"""Integrals over a path from 0 to 1: rules, and how many steps a function needs.

Gauss–Legendre is exact for polynomials up to degree 2S − 1. Its points crowd at the ends, where a function that is
equally restless all the way needs no more of them than elsewhere; transplanted by a map that spreads them (Hale &
Trefethen 2008, "New Quadrature Formulas from Conformal Maps", section 3) the same accuracy takes up to a third fewer.

How many steps are needed is found from values of the integral's own antiderivative, the number that is explained: they
cost a forward pass each, a gradient of every target many. A Chebyshev series through them tells what each rule would
miss.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.polynomial import chebyshev, legendre
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Rule = tuple[Numbers, Numbers]

LADDER = (4, 5, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Steps to choose from."""
_POINTS = (16, 32, 64, 128, 256, 512)
_MAP = np.array([40320, 6720, 3024, 1800, 1225]) / 53089  # of s, s³, s⁵, s⁷, s⁹: the series of arcsin, scaled to 1


def gauss_legendre(steps: int) -> Rule:
    """Points and weights [S] on 0..1."""
    points, weights = legendre.leggauss(steps)
    return (points + 1) / 2, weights / 2


def spread(steps: int) -> Rule:
    """Gauss–Legendre under the map: points and weights [S] on 0..1."""
    points, weights = legendre.leggauss(steps)
    odd = np.arange(1, 10, 2)
    moved = (_MAP * points[:, None] ** odd).sum(axis=1)
    slope = (_MAP * odd * points[:, None] ** (odd - 1)).sum(axis=1)
    return (moved + 1) / 2, weights * slope / 2


def steps_needed(values: Callable[[Numbers], Numbers], tolerance: float) -> NDArray[np.int64]:
    """[R] fewest steps of `spread` from which on the integral of each function's slope misses its difference between
    1 and 0 by no more than half of `tolerance`; the longest of the ladder where none is enough.

    values   [k] places -> [k, R] of the functions; called with more and more places until a series through them holds
    """
    series, difference = _series(values, tolerance)
    slope = np.asarray(2 * chebyshev.chebder(series), np.float64)  # [N, R], of the variable 0..1
    missed = np.stack([_missed(spread(steps), slope, difference) for steps in LADDER])  # [ladder, R]
    enough = np.logical_and.accumulate((np.abs(missed) <= tolerance / 2)[::-1])[
        ::-1
    ]  # here and for all that are longer
    first = np.where(enough.any(axis=0), enough.argmax(axis=0), len(LADDER) - 1)
    found: NDArray[np.int64] = np.array(LADDER)[first]
    return found


def _missed(rule: Rule, slope: Numbers, difference: Numbers) -> Numbers:
    points, weights = rule
    found: Numbers = chebyshev.chebval(2 * points - 1, slope) @ weights - difference
    return found


def _series(values: Callable[[Numbers], Numbers], tolerance: float) -> tuple[Numbers, Numbers]:
    """Chebyshev coefficients [N + 1, R] of the functions over −1..1, without mere noise; and f(1) − f(0) [R]."""
    known: dict[float, Numbers] = {}
    for count in _POINTS:
        places = (1 + np.cos(np.pi * np.arange(count + 1) / count)) / 2
        keys = [round(float(place), 12) for place in places]
        new = [index for index, key in enumerate(keys) if key not in known]
        known.update(zip((keys[index] for index in new), values(places[new]), strict=True))
        series = _coefficients(np.stack([known[key] for key in keys]))
        end = max(count // 8, 4)  # coefficients that tell whether the series has come to its end
        last, before = (np.abs(part).max(axis=0) for part in (series[-end:], series[-2 * end : -end]))
        if (last * count <= tolerance / 4).all():  # what the slope still changes by
            break
    noise = np.where(last > before / 4, 2 * last, 0)  # where the series does not fall any more
    series[np.abs(series) <= noise] = 0
    return series, known[keys[0]] - known[keys[-1]]


def _coefficients(values: Numbers) -> Numbers:
    """Of the polynomial through values [N + 1, R] at cos(πk/N), by a Fourier transform of their mirror image."""
    count = len(values) - 1
    series: Numbers = np.fft.rfft(np.concatenate([values, values[-2:0:-1]]), axis=0).real / count
    series[[0, -1]] /= 2
    return series
