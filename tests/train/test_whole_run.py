"""The time left of a whole run: foretold for the parts to come, true for those that are over."""

import pytest

from wfm_ar.train.whole_run import WholeRun

PARTS = {"video_tokenizer": 100.0, "encoding": 50.0, "world_model": 300.0}


def test_time_left_is_that_of_this_part_and_of_all_after_it():
    run = WholeRun(PARTS)
    assert run.seconds_left("video_tokenizer", 40) == 390 and run.seconds_left("encoding train", 10) == 310
    assert run.seconds_left("world_model", 0) == 0 and run.share("world_model", 0) == 1
    assert run.share("video_tokenizer", 100) == 0 and run.share("encoding val", 25) == pytest.approx(125 / 450)
    assert run.told("encoding train", 10) == "whole run 31 %, 5 min left"


def test_what_is_measured_on_the_way_counts():
    run = WholeRun(PARTS, done={"video_tokenizer": 200.0})
    run.foretell("world_model", 600.0)
    assert run.seconds_left("encoding train", 50) == 650 and run.share("encoding train", 50) == pytest.approx(200 / 850)
    run.finish("encoding", 80.0)
    assert run.share("world_model", 300) == pytest.approx(580 / 880)


def test_a_part_that_nobody_foretold_takes_its_own_time_besides():
    assert WholeRun(PARTS).seconds_left("packing", 5) == 455
