"""A run that has weights goes on at their scale, and from what they make of what they know."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from tiny_stages import make_data, make_stage
from tiny_world import SCHEMA, make_parts

from wfm_ar.data.formats import open_episodes
from wfm_ar.train.begin import begin_from
from wfm_ar.train.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from wfm_ar.train.stages import diffusion_decoder_stage
from wfm_ar.world_model import Sequence, SequenceConfig, WorldModel, WorldModelConfig


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


def test_a_world_model_learns_of_action_sums_and_begins_as_it_was(tmp_path):
    parts, data = make_parts(sums=False), SimpleNamespace(path=tmp_path, schema=SCHEMA)
    begin_from(parts, tmp_path / "run", data, action_sums=True)
    tensors, state = load_checkpoint(newest_checkpoint(tmp_path / "run" / "world_model"))
    config = SequenceConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in state["describe"]["sequence"].items()})
    assert config == replace(parts.sequence, action_sums=True)
    model = WorldModel(WorldModelConfig(**state["describe"]["model"]))
    model.load_state_dict(tensors["model"])
    tokens, bins = torch.randint(20, (3, 2, 3)), torch.randint(9, (2, 2, 2))
    before, after = (Sequence(each).pack(tokens, [1], bins) for each in (parts.sequence, config))
    assert after.hints.shape[1] > before.hints.shape[1]
    old, new = (
        m(row.ids[None], row.positions[None], hints_BLF=row.hints[None]) for m, row in ((parts.world_model, before), (model, after))
    )
    torch.testing.assert_close(old, new)
