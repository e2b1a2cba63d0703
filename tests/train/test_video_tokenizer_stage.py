"""Stage 1 on numbers that are not finite; what it learns from good ones is tested in test_resume.py and the smoke test."""

import math

import pytest
import tiny_stages as tiny
import torch


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_codes_that_are_not_finite_give_a_loss_that_says_so(tmp_path, value):
    """Not an error of the counting of codes: the loop skips such a step, and would end with anything else (the NaN campaign)."""
    stage = tiny.make_stage("video_tokenizer", tiny.make_data(tmp_path))
    with torch.no_grad():
        for parameter in stage.model.encoder.parameters():
            parameter.fill_(value)
    loss, logs = stage.loss(stage.model, stage.batch(0, 2, 0), torch.Generator().manual_seed(0))
    assert not torch.isfinite(loss)
    assert 0 <= float(logs["codes_in_batch"]) <= 1
