"""What counts as collapsed codes, and that nobody reads an accuracy off them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_stages import make_data, make_stage

from wfm_ar.data.shards import TokenClip, write_store
from wfm_ar.train.code_use import collapse, count_codes, perplexity
from wfm_ar.train.world_model_stage import WorldModelStage


def counts(codebook, **used):
    out = torch.zeros(codebook)
    for code, times in used.items():
        out[int(code[1:])] = times
    return out


@pytest.mark.parametrize(
    ("counted", "collapsed"),
    [
        (counts(2187, _3=900, _5=80, _7=20), True),  # three codes
        (counts(2187, _3=900), True),
        (counts(8, _0=5, _1=5, _2=5, _3=5), True),
        (counts(8, _0=5, _1=5, _2=5, _3=5, _4=1), False),
        (counts(2, _0=5, _1=5), False),
        (torch.cat((torch.ones(20), torch.zeros(2167))) * 1000, True),  # 0.9 % of the codebook
        (torch.cat((torch.ones(250), torch.zeros(19433))) * 1000, False),
        (torch.cat((torch.full((1,), 1e6), torch.ones(60), torch.zeros(2126))), False),  # a camera that stands still
        (torch.cat((torch.ones(6), torch.zeros(19677))), False),  # of six tokens all are different
        (torch.zeros(100), False),  # nothing was looked at
    ],
)
def test_collapse_is_of_different_codes(counted, collapsed):
    assert bool(collapse(counted)) == collapsed


def test_the_line_names_share_and_perplexity():
    line = collapse(counts(2187, _3=50, _5=50))
    assert line.startswith("CODES HAVE COLLAPSED: 2 of 2187 are used (0.1%), perplexity 2.0: ") and "; fix: " in line
    assert float(perplexity(torch.ones(7))) == pytest.approx(7, rel=1e-5)
    assert count_codes([np.array([[[1, 1]], [[0, 3]]]), np.array([[[3, 3]]])], 4).tolist() == [1, 2, 0, 3]


def test_stage_one_warns_after_its_validation(tmp_path):
    stage = make_stage("video_tokenizer", make_data(tmp_path))
    stage.model.eval()
    with torch.no_grad():
        stage.model.quant_conv.weight.zero_()
        stage.model.quant_conv.bias.zero_()  # every place gets one code
    numbers, _ = stage.validate(stage.model, torch.device("cpu"))
    assert numbers["codes_used"] == pytest.approx(1 / 36) and stage.warning.startswith("CODES HAVE COLLAPSED: 1 of 36")


def test_stage_two_reports_no_accuracy_on_collapsed_codes(tmp_path):
    sound = make_stage("world_model", make_data(tmp_path))
    assert not sound.warning and "accuracy" in sound.validate(sound.model.eval(), torch.device("cpu"))[0]

    def clip(i):
        video = np.random.default_rng(i).integers(2, size=(5, 2, 2)).astype(np.uint16)
        return TokenClip(str(i), video, np.zeros((4, 2, 1), np.int16), None)

    store = write_store(tmp_path / "two", {"actions": True}, 12, lambda part: map(clip, part), 8, lambda done: None)
    config = replace(sound.sequence.config)
    stage = WorldModelStage(sound.config, config, sound.training, store, store, sound.text)
    numbers, _ = stage.validate(stage.model.eval(), torch.device("cpu"))
    assert stage.warning.startswith("CODES HAVE COLLAPSED: 2 of 20") and {"loss", "action_accuracy"} <= numbers.keys()
    _, logs = stage.loss(stage.model, stage.batch(0, 2, 0), torch.Generator())
    assert "accuracy" not in numbers and "accuracy" not in logs
