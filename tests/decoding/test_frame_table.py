"""What the tables of a container say of its frames: kept from one part of a file to the next, and what rate their times have."""

import os
import tempfile

import pytest
from numbered_clip import write_numbered

from wfm_ar.decoding import reading
from wfm_ar.decoding.frame_table import FrameTables, evenly_spaced, rate_of_times
from wfm_ar.decoding.limits import DecodeLimits, Refused
from wfm_ar.decoding.pictures import Sink


def test_a_table_is_kept_and_not_of_another_file(tmp_path):
    tables, limits, path = FrameTables(), DecodeLimits(), tmp_path / "a.mp4"
    write_numbered(path, range(40), g="7")

    def read(start: int, count: int) -> int:
        fd = os.open(path, os.O_RDONLY)
        try:
            with tempfile.TemporaryFile() as file:
                sink = Sink(file.fileno(), limits)
                reading.read(fd, start, count, sink, lambda pixels: None, tables)
                return sink.frames
        finally:
            os.close(fd)

    assert read(30, 5) == 5
    write_numbered(path, range(20))  # the same name, another file
    assert read(10, 5) == 5
    with pytest.raises(Refused, match="got 20 frames in all, expected frames 30 to 34 too"):
        read(30, 5)


def test_even_times():
    assert evenly_spaced([]) and evenly_spaced([0, 5]) and evenly_spaced([0, 0.033, 0.067, 0.1])
    assert not evenly_spaced([0, 1, 2, 9]) and not evenly_spaced([0, 0, 0])


def test_rates_of_times():
    assert rate_of_times([], 25) == rate_of_times([0], 25) == 25 and rate_of_times([0, 0.5], 0) == 2
    assert rate_of_times([0, 0.033, 0.067, 0.1], 30) == 30  # Matroska's thousandths
    assert rate_of_times([i / 10 for i in range(20)], 9.5) == pytest.approx(10)  # a last frame that is said to last longer
    assert rate_of_times([*(i / 10 for i in range(20)), 60], 3) == pytest.approx(10)
    assert rate_of_times([0, 0, 0, 1], 3) > 0
