"""How sure a mean is: bootstrap intervals over episodes. Pure numpy."""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000


def mean_interval(values: Sequence[Sequence[float]], *, seed: int = 0) -> list[float] | None:
    """[mean, low, high]: the mean of all values and its 95 % bootstrap interval (percentiles).

    `values`: those of each episode, possibly none. Whole episodes are drawn with replacement, as what happens within one is not
    independent. None where there is no value at all.
    """
    sums, counts = np.array([sum(row) for row in values], np.float64), np.array([len(row) for row in values])
    if not counts.sum():
        return None
    sums, counts = sums[counts > 0], counts[counts > 0]
    drawn = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=RESAMPLES)
    low, high = np.percentile(drawn @ sums / (drawn @ counts), (2.5, 97.5))
    return [float(sums.sum() / counts.sum()), float(low), float(high)]
