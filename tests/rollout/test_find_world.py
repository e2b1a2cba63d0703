"""From a name to a world's folder, or a line that says what the name is instead."""

import os

import pytest

from wfm_ar import load_world
from wfm_ar.errors import BadCheckpoint, BadData
from wfm_ar.rollout.find_world import SHIPPED, STAGES, find_world, format_of, samples_of
from wfm_ar.train import stages


def test_shipped_worlds_have_names_and_others_are_folders(tmp_path):
    assert find_world("tabletop") == SHIPPED / "tabletop"
    (tmp_path / "world.json").touch()
    assert find_world(tmp_path) == tmp_path
    with pytest.raises(BadData, match="expected sample episodes"):
        samples_of(tmp_path)
    with pytest.raises(BadCheckpoint, match='world "tabeltop": no such folder or shipped world .did you mean "tabletop"'):
        find_world("tabeltop")
    with pytest.raises(BadCheckpoint, match="did you mean"):
        load_world("tabeltop")
    (tmp_path / "other").mkdir()
    (tmp_path / "drill" / "step-000500").mkdir(parents=True)  # of whatever lies beside it
    with pytest.raises(BadCheckpoint, match=r"no world.json in it, expected one of \['tabletop'\]"):
        find_world(tmp_path / "other")


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"format": 3}', '{"version": 1}'], ids=str)
def test_a_folder_that_names_no_format_has_none(text, tmp_path):
    """What is wrong with it is for its reader to say."""
    if text is not None:
        (tmp_path / "world.json").write_text(text)
    assert format_of(tmp_path) == "" and format_of(SHIPPED / "tabletop") == "wfm-ar world"


def test_the_folders_of_a_run_are_those_of_its_stages():
    assert set(stages.STAGES) == STAGES


def test_a_run_on_its_way_says_how_far_it_has_come(tmp_path):
    run = tmp_path / "run"
    for age, step in ((30, "video_tokenizer/step-000900"), (20, "world_model/step-000100"), (10, "world_model/step-000200")):
        (run / step).mkdir(parents=True)
        os.utime(run / step, (1e9 - age, 1e9 - age))
    (run / "world_model" / "step-000300.old").mkdir()  # set aside
    for name in ("", "world", "world_model", "world_model/step-000200", "video_tokenizer"):
        with pytest.raises(BadCheckpoint, match="it has made none yet, its newest checkpoint is of stage world_model, step 200; fix: "):
            find_world(run / name)
    (run / "world").mkdir()
    (run / "world" / "world.json").touch()
    assert find_world(run / "world") == run / "world"
    with pytest.raises(BadCheckpoint, match=f"belongs to the training run .*; fix: world={run}/world$"):
        find_world(run)
