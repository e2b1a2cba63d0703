"""Stage 5: actions are read off pairs of frames, true ones and copies; what nobody knows does not count."""

from dataclasses import replace

import numpy as np
import pytest
import tiny_robot
import torch

from wfm_ar.data.formats import open_episodes
from wfm_ar.errors import BadData
from wfm_ar.inverse_dynamics.network import InverseDynamicsConfig
from wfm_ar.tokenizers.video import VideoTokenizer, VideoTokenizerConfig
from wfm_ar.train.inverse_dynamics_stage import InverseDynamicsStage, InverseDynamicsTraining, correlations
from wfm_ar.train.loop import train
from wfm_ar.train.rng import seed_all
from wfm_ar.train.settings import LoopConfig, OptimizerConfig
from wfm_ar.train.stages import INVERSE_DYNAMICS, STAGES

THIN = {"encoder_channels": 8, "decoder_channels": 8, "multipliers": (1, 1), "encoder_blocks": 0, "decoder_blocks": 0, "z_channels": 8}


class ExactTokenizer(VideoTokenizer):
    """Gives frames back as they are: what is tested is the reader."""

    def forward(self, video_BCTHW):
        return video_BCTHW, None, None


def stage_of(tmp_path, rate: int = 1, exact: bool = True, **data) -> InverseDynamicsStage:
    seed_all(0)
    episodes = open_episodes(tiny_robot.write_robot(tmp_path, **data))
    config = VideoTokenizerConfig(
        height=32, width=32, crop="stretch", temporal_compression=rate, patch_time=rate, time_kernel=1 if rate == 1 else 3,
        spatial_compression=8, background=True, levels=(4, 4), **THIN,
    )  # fmt: skip
    tokenizer = (ExactTokenizer if exact else VideoTokenizer)(config)
    network = InverseDynamicsConfig(channels=(16, 24), heads=2, hidden=32)
    return InverseDynamicsStage(network, InverseDynamicsTraining(), tokenizer, episodes.of_split("train"), episodes.of_split("val"))


def test_values_are_the_means_of_what_leads_to_a_latent(tmp_path):
    for rate in (1, 2):
        stage = stage_of(tmp_path / str(rate), rate, clips=3, frames=9, held_out=1)
        assert stage.config.actions == 2  # the constant channel has none
        batch = stage.batch(0, 4, 0)
        assert batch["foreground"].shape == (4, 3, 1 + rate, 32, 32) and batch["values"].shape == (4, 2)
        for clip, start, values in zip(batch["clip"].tolist(), batch["start"].tolist(), batch["values"], strict=True):
            true = stage.train_set.load_actions(clip)[start : start + rate, :2].mean(0) / 4
            np.testing.assert_allclose(values, true, atol=1e-6)


def test_actions_that_nobody_knows_do_not_count(tmp_path):
    stage = stage_of(tmp_path, clips=3, frames=9, held_out=1)
    batch, generator = stage.batch(0, 4, 0), torch.Generator().manual_seed(0)
    whole = stage.loss(stage.model, batch, generator)[0]
    batch["values"][1:] = torch.nan
    one = {name: tensor[:1] for name, tensor in batch.items()}
    part, alone = (stage.loss(stage.model, each, torch.Generator().manual_seed(0))[0] for each in (batch, one))
    torch.testing.assert_close(part, alone)
    assert not torch.isclose(part, whole)
    batch["values"][:] = torch.nan
    assert stage.loss(stage.model, batch, generator)[0] == 0


def test_data_without_actions_are_refused(tmp_path):
    stage = stage_of(tmp_path, clips=3, frames=9, held_out=1)
    without = replace(stage.train_set, schema=None)
    with pytest.raises(BadData, match="got no actions, expected some for inverse_dynamics"):
        InverseDynamicsStage(InverseDynamicsConfig(), InverseDynamicsTraining(), stage.tokenizer, without, without)


def test_correlations_leave_out_what_is_not_known_and_what_does_not_vary():
    a = np.array([[1.0, 1.0, 0.0], [2.0, 1.0, 0.0], [3.0, np.nan, 1.0], [9.0, 1.0, 2.0]])
    b = np.array([[2.0, 5.0, 0.0], [4.0, 6.0, 1.0], [6.0, 7.0, 0.0], [np.nan, 8.0, 5.0]])
    assert correlations(a, b)[:2] == [pytest.approx(1.0), 0.0] and 0 < correlations(a, b)[2] < 1
    assert STAGES[-1] == INVERSE_DYNAMICS


def test_validation_reads_copies_of_held_out_clips(tmp_path):
    for rate in (1, 2):
        stage = stage_of(tmp_path / str(rate), rate, exact=False, clips=4, frames=9, held_out=2)
        numbers, pictures = stage.validate(stage.model.eval(), torch.device("cpu"))
        assert -1 <= numbers["r"] <= 1 and pictures == {}


@pytest.mark.slow
def test_it_learns_to_read_how_a_square_moves(tmp_path):
    stage = stage_of(tmp_path / "data", clips=24, frames=24, held_out=4, height=32, width=32)
    stage.validate = lambda model, device: ({}, {})  # which encodes; the reader alone is tested
    settings = OptimizerConfig(lr=3e-3, warmup_steps=20, ema=0.95)
    train(
        stage,
        LoopConfig(steps=250, batch_size=24, val_every=250, checkpoint_every=250, num_workers=0, optimizer=settings),
        tmp_path / "run",
    )
    batch = stage.batch(10**6, 64, 1)
    with torch.no_grad():
        frames = batch["foreground"] + batch["still"]
        read = stage.model(frames[:, :, 0], frames[:, :, -1]).numpy()
    assert min(correlations(read, batch["values"].numpy())) > 0.8
