"""The split of an episode follows from its name: it never changes, and about the share asked for is held out."""

import pytest

from wfm_ar.data.splits import split_of


def test_split_of_is_stable_and_keeps_the_share():
    names = [f"{i:06d}" for i in range(4000)]
    share = sum(split_of(name, 0.05) == "val" for name in names) / len(names)
    assert share == pytest.approx(0.05, abs=0.012)
    assert [split_of(name, 0.05) for name in ("000040", "000041", "000042")] == [split_of(f"0000{i}", 0.05) for i in (40, 41, 42)]
    assert split_of("x", 0.0) == "train" and split_of("x", 1.0) == "val"
