"""Bootstrap intervals: over episodes, not over what is in them."""

import numpy as np
import pytest

from wfm_ar.evaluate.intervals import mean_interval


def test_the_mean_is_of_all_values_and_lies_in_its_interval():
    rows = [[1.0, 0.0], [1.0], [], [0.0, 0.0, 1.0]]
    mean, low, high = mean_interval(rows)
    assert mean == pytest.approx(0.5) and low < 0.5 < high


def test_the_interval_of_many_draws_is_that_of_theory():
    values = np.random.default_rng(0).normal(3, 1, 400)
    mean, low, high = mean_interval([[value] for value in values])
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.1) and low < mean < high


def test_copies_within_an_episode_do_not_narrow_it():
    one, many = mean_interval([[0.0], [1.0], [0.0], [1.0]]), mean_interval([[0.0] * 50, [1.0] * 50, [0.0] * 50, [1.0] * 50])
    assert one == many


def test_nothing_has_no_mean():
    assert mean_interval([[], []]) is None and mean_interval([]) is None
    assert mean_interval([[], [2.0]]) == [2.0, 2.0, 2.0]
