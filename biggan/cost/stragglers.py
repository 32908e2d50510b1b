"""How long processes wait for the slowest of them, where they meet. Pure arithmetic; docs/scaling.md explains."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import NormalDist


def straggling(compute_seconds: float, noise: float, meetings: int, updates: int, processes: int, group: int) -> float:
    """Expected wait in a step of `meetings`, evenly spread: `updates` of all processes, the others of each group alone.

    `group` processes share BatchNorm statistics. Each interval between meetings has its own noise,
    noise * sqrt(compute / meetings). A group pays the mean of the largest of its draws at each meeting, those of an
    update included: sqrt(meetings) times what meeting once would cost. Meanwhile groups drift apart, each by the
    deviation of that largest draw, and an update waits for the slowest group. Where all are one group nothing drifts;
    groups of one have no meetings but the updates.
    """
    mean, deviation = largest_of(group)
    slowest_group, _ = largest_of(processes // group)
    lost = math.sqrt(meetings) * mean + math.sqrt(updates) * deviation * slowest_group
    return noise * math.sqrt(compute_seconds) * lost


def largest_of(n: int) -> tuple[float, float]:
    """Mean and standard deviation of the largest of `n` independent standard normal values.

    (0, 1) for one, (0.56, 0.83) for two, (3.44, 0.33) for 2,048.
    """
    if n == 1:
        return 0.0, 1.0
    # With F = P(max < x): E[max] is 8 - integral of F, E[max^2] is 64 - integral of 2 x F, from -8 to 8.
    normal, step = NormalDist(), 1 / 64
    edges = [k * step for k in range(-8 * 64, 8 * 64 + 1)]
    below = [(x, normal.cdf(x) ** n) for x in edges]
    mean = 8 - sum((a + b) / 2 * step for (_, a), (_, b) in pairwise(below))
    square = 64 - sum((x * a + y * b) * step for (x, a), (y, b) in pairwise(below))
    return mean, math.sqrt(square - mean**2)
