"""Prints the coefficients of `Constants<T>::kErfc` in activations.h, and how far their polynomial is off.

The function (1 + 2x) exp(x^2) erfc(x), smooth and of order one for x >= 0, is interpolated at Chebyshev nodes of
t = (x - k) / (x + k). Needs mpmath and numpy.
"""

import mpmath as mp
import numpy as np

mp.mp.dps = 50


def scaled(x):
    """The function to fit."""
    return (1 + 2 * x) * mp.exp(x * x) * mp.erfc(x)


def fit(k, largest, degree):
    """Monomial coefficients in t, lowest first, for 0 <= x <= largest."""
    count, top = degree + 1, (largest - k) / (largest + k)
    nodes = [mp.cos(mp.pi * (j + mp.mpf(1) / 2) / count) for j in range(count)]
    points = [(top - 1) / 2 + (top + 1) / 2 * node for node in nodes]
    powers = mp.matrix([[t**j for j in range(count)] for t in points])
    return mp.lu_solve(powers, mp.matrix([scaled(k * (1 + t) / (1 - t)) for t in points]))


def worst_error(coefficients, k, largest, dtype):
    """Largest relative error of the polynomial evaluated in ``dtype``, in units of its epsilon."""
    worst = 0.0
    for i in range(2000):
        x = dtype(largest * (i / 2000) ** 2)
        t, value = (x - dtype(k)) / (x + dtype(k)), dtype(0)
        for c in reversed(coefficients):
            value = dtype(value * t + dtype(c))
        worst = max(worst, float(abs(mp.mpf(float(value)) / scaled(mp.mpf(float(x))) - 1)))
    return worst / np.finfo(dtype).eps


for dtype, k, largest, degree in ((np.float32, 2, 10, 10), (np.float64, 3.75, 27, 22)):
    coefficients = [float(c) for c in fit(mp.mpf(k), mp.mpf(largest), degree)]
    print(f"{dtype.__name__}, k = {k}: {worst_error(coefficients, k, largest, dtype):.1f} eps")
    print(*map(repr, coefficients), sep=",\n")
