"""Cost against length: how it grows, from which length on a method beats dense attention, and CAB's efficiency length.

Zhang et al., "CAB: Comprehensive Attention Benchmarking on Long Sequence Modeling", ICML 2023, arXiv:2210.07661.
"""

import collections
import math

CAB_LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
SCALE = 8192  # lengths are divided by it before the fit, which keeps the normal equations well conditioned


def fit(lengths, costs, degree):
    """(coefficients of the powers of length / SCALE from the constant up, R^2), least squares."""
    x, size = [length / SCALE for length in lengths], degree + 1
    rows = [
        [sum(a ** (i + j) for a in x) for j in range(size)] + [sum(c * a**i for a, c in zip(x, costs))]
        for i in range(size)
    ]
    for i in range(size):
        pivot = max(range(i, size), key=lambda r: abs(rows[r][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for r in range(size):
            if r != i:
                rows[r] = [value - rows[r][i] * own for value, own in zip(rows[r], rows[i])]
    solution = [row[-1] for row in rows]
    mean = sum(costs) / len(costs)
    missed = sum((sum(s * a**i for i, s in enumerate(solution)) - c) ** 2 for a, c in zip(x, costs))
    total = sum((c - mean) ** 2 for c in costs)
    return solution, 1 - missed / total if total > 0 else (1.0 if missed == 0 else 0.0)


Efficiency = collections.namedtuple("Efficiency", "length dense_r2 method_r2")


def efficiency_length(dense, method, skip=()):
    """CAB's: where the parabola through dense attention's costs meets the line through the method's.

    Both are {length: cost} and need all of CAB_LENGTHS; the line goes without those to `skip` ((256,) for times).
    `length` is None where the parabola opens downwards or does not meet the line; the whole is None without the costs.
    """
    if not all(n in dense and n in method for n in CAB_LENGTHS):
        return None
    kept = [n for n in CAB_LENGTHS if n not in skip]
    (c, b, a), dense_r2 = fit(CAB_LENGTHS, [dense[n] for n in CAB_LENGTHS], 2)
    (e, d), method_r2 = fit(kept, [method[n] for n in kept], 1)
    discriminant = (b - d) ** 2 - 4 * a * (c - e)
    if a <= 1e-12 * max(map(abs, dense.values())) or discriminant < 0:
        return Efficiency(None, dense_r2, method_r2)
    root = (d - b + math.sqrt(discriminant)) / (2 * a) * SCALE
    return Efficiency(root if root > 0 else None, dense_r2, method_r2)


def crossing(dense, method):
    """(length, cost) from which on the method costs less than dense attention at every length measured, or None.

    Between two measured lengths on straight lines through the logarithms. (None, None): less from the first on.
    """
    both = sorted(set(dense) & set(method))
    slower = [n for n in both if method[n] >= dense[n]]
    if not both or both[-1] in slower:
        return None
    if not slower:
        return None, None
    before, after = slower[-1], both[both.index(slower[-1]) + 1]
    first, last = (math.log(method[n] / dense[n]) for n in (before, after))
    part = first / (first - last)
    return tuple(
        math.exp(math.log(a) + part * math.log(b / a)) for a, b in ((before, after), (dense[before], dense[after]))
    )


def power(costs):
    """The power of the length with which a cost grows over the last three doublings."""
    last = sorted(costs)[-4:]
    if len(last) < 2 or min(costs[n] for n in last) <= 0:
        return None
    return math.log(costs[last[-1]] / costs[last[0]]) / math.log(last[-1] / last[0])
