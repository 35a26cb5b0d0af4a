"""Prints the polynomials of `Constants<T>` in activations.h, coefficients lowest first, and how far each is off.

Every one is the best of its degree by Remez' algorithm, in the relative error of the function that it is a part of.
Needs mpmath.
"""

import mpmath as mp

mp.mp.dps = 40
GRID = 1000


def best(function, weight, low, high, count):
    """The `count` coefficients whose polynomial has the least largest |weight * error|, and that largest error."""
    grid = [(low + high) / 2 - (high - low) / 2 * mp.cos(mp.pi * (i + mp.mpf(0.5)) / GRID) for i in range(GRID)]
    values, weights = [function(x) for x in grid], [weight(x) for x in grid]
    chosen = [int(GRID * (i + 0.5) / (count + 1)) for i in range(count + 1)]
    while True:
        # The error alternates between +e and -e at the chosen points: linear in the coefficients and e.
        rows = [[grid[k] ** j for j in range(count)] + [(-1) ** i / weights[k]] for i, k in enumerate(chosen)]
        solution = mp.lu_solve(mp.matrix(rows), mp.matrix([values[k] for k in chosen]))
        coefficients = list(solution)[:count]
        error = [w * (mp.polyval(coefficients[::-1], x) - y) for x, y, w in zip(grid, values, weights, strict=True)]
        # The next points: the worst one of every stretch of one sign.
        stretches = [[0]]
        for k in range(1, GRID):
            if error[k] * error[k - 1] < 0:
                stretches.append([])
            stretches[-1].append(k)
        previous, chosen = chosen, [max(stretch, key=lambda k: abs(error[k])) for stretch in stretches]
        if len(chosen) != count + 1 or chosen == previous:
            return coefficients, max(map(abs, error))


def exponential(r):
    """exp(r) = 1 + r + r^2 / 2 + r^3 P(r)."""
    return (mp.expm1(r) - r - r * r / 2) / r**3


def logarithm(t):
    """log(1 + e) = e - e^2 P(e - 1/2)."""
    e = t + mp.mpf(0.5)
    return (e - mp.log1p(e)) / e**2


def tangent(z):
    """tanh(a) = a + a^3 P(a^2)."""
    return (mp.tanh(mp.sqrt(z)) / mp.sqrt(z) - 1) / z


def sine(z):
    """sin(r) = r + r^3 P(r^2)."""
    return (mp.sin(mp.sqrt(z)) / mp.sqrt(z) - 1) / z


def cosine(z):
    """cos(r) = 1 - r^2 / 2 + r^4 P(r^2)."""
    return (mp.cos(mp.sqrt(z)) - 1 + z / 2) / z**2


def normal(z):
    """The normal distribution's function is 1/2 + a P(a^2)."""
    return mp.erf(mp.sqrt(z / 2)) / (2 * mp.sqrt(z))


def mills(centre):
    """The normal distribution's tail from x on is exp(-x^2 / 2) / (x + c) P((x - c) / (x + c)), c the centre."""

    def polynomial(t):
        x = centre * (1 + t) / (1 - t)
        return (x + centre) * mp.exp(x * x / 2) * mp.erfc(x / mp.sqrt(2)) / 2

    return polynomial


def show(kind, name, function, weight, low, high, count):
    """Prints one polynomial."""
    coefficients, error = best(function, weight, mp.mpf(low), mp.mpf(high), count)
    digits, epsilon, suffix = (9, 2.0**-23, "f") if kind == "float" else (17, 2.0**-52, "")
    print(f"{kind} {name}, {float(error / epsilon):.3f} eps:")
    print(*(f"{float(c):#.{digits}g}{suffix}" for c in coefficients), sep=", ")


if __name__ == "__main__":
    half_ln2, eighth_turn = mp.log(2) / 2, mp.pi**2 / 16
    for kind, exp, log, tanh, sin, cos, centre, phi, tail, top in (
        ("float", 4, 9, 4, 3, 3, 3, 5, 8, 13.3),
        ("double", 9, 20, 10, 6, 6, 5, 11, 19, 37.7),
    ):
        show(kind, "kExp", exponential, lambda r: abs(r) ** 3 / mp.exp(r), -half_ln2, half_ln2, exp)
        show(kind, "kLog", logarithm, lambda t: (t + 0.5) ** 2 / mp.log1p(t + 0.5), -0.5, 0.5, log)
        show(kind, "kTanh", tangent, lambda z: mp.sqrt(z) ** 3 / mp.tanh(mp.sqrt(z)), 0, 0.55**2, tanh)
        show(kind, "kSin", sine, lambda z: mp.sqrt(z) ** 3 / mp.sin(mp.sqrt(z)), 0, eighth_turn, sin)
        show(kind, "kCos", cosine, lambda z: z**2 / mp.cos(mp.sqrt(z)), 0, eighth_turn, cos)
        # Relative to the function of -a, the smaller one.
        show(kind, "kNormal", normal, lambda z: 2 * mp.sqrt(z) / mp.erfc(mp.sqrt(z / 2)), 0, 1, phi)
        ratio = mills(centre)
        ends = [(mp.mpf(x) - centre) / (mp.mpf(x) + centre) for x in (1, top)]
        show(kind, f"kMills about {centre}", ratio, lambda t, ratio=ratio: 1 / ratio(t), *ends, tail)
