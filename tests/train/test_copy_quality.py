"""How well a tokenizer copies held-out pictures is measured as prompts are copied."""

import numpy as np
import pytest
import tiny_stages
import torch

from wfm_ar.data.formats import open_episodes
from wfm_ar.errors import BadConfig
from wfm_ar.rollout.detail import SLACK, Detail, TrainingCopies
from wfm_ar.tokenizers.video import VideoTokenizer
from wfm_ar.train.clips import Clips, to_float
from wfm_ar.train.copy_quality import training_copies


def test_copies_are_measured_as_those_of_prompts_are(tmp_path):
    torch.manual_seed(0)
    tokenizer = VideoTokenizer(tiny_stages.TOKENIZER).eval()
    episodes = open_episodes(tiny_stages.make_data(tmp_path) / "videos")
    found = training_copies(tokenizer, episodes)
    own = []
    for index in range(len(episodes)):
        for count in (1, 3):  # a picture, and with the latent of two frames behind it
            given = to_float(Clips(episodes, tokenizer.config).load(index, 0, count)).permute(3, 0, 1, 2)
            detail = Detail(given)
            with torch.inference_mode():
                detail.restore(tokenizer.decode(tokenizer.encode(given[None])))
            own.append(detail.copy_db)
    assert found.pictures == 8 and found.least_db == pytest.approx(min(own), abs=0.01)
    assert found.median_db == pytest.approx(np.median(own), abs=0.01) and found.expected_db == found.least_db - SLACK


@pytest.mark.parametrize("change", [{"pictures": 0}, {"least_db": 40.0}, {"median_db": float("nan")}, {"least_db": -1e9}])
def test_numbers_that_cannot_be(change):
    with pytest.raises(BadConfig, match="least_db: got .* expected least_db up to median_db"):
        TrainingCopies(**{"pictures": 8, "median_db": 30.0, "least_db": 27.0} | change)
