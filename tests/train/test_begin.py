"""A run that has weights goes on at their scale."""

from dataclasses import asdict

import pytest
from tiny_stages import make_data, make_stage

from wfm_ar.data.episodes import open_episodes
from wfm_ar.train.checkpoint import save_checkpoint
from wfm_ar.train.stages import diffusion_decoder_stage


def begun(run, stage, scale: float) -> None:
    """First checkpoints of the stage and of its tokenizer, as `begin_from` writes them."""
    for name, module in (("video_tokenizer", stage.tokenizer), ("diffusion_decoder", stage.model)):
        model = asdict(module.config)
        model.pop("residual_scale", None)
        state = {"step": 0, "stage": name, "describe": {"model": model, "residual_scale": scale}}
        save_checkpoint(run / name, 0, {"model": module.state_dict(), "ema": module.state_dict(), "optimizer": {}}, state, keep=1)


@pytest.mark.parametrize("has_weights", [True, False])
def test_the_diffusion_decoder_keeps_the_scale_of_its_weights(tmp_path, has_weights):
    stage = make_stage("diffusion_decoder", make_data(tmp_path))
    begun(tmp_path / "run", stage, 0.75)
    if not has_weights:
        (tmp_path / "run" / "diffusion_decoder").rename(tmp_path / "elsewhere")
    clips = open_episodes(tmp_path / "videos")
    again = diffusion_decoder_stage(tmp_path / "run", stage.config, stage.training, clips, clips)
    expected = 0.75 if has_weights else stage.config.residual_scale
    assert again.config.residual_scale == again.model.config.residual_scale == expected != 0.75 * (not has_weights)
