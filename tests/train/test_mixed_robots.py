"""Stage 2 on clips of several robots, and of none: every row has the tokens of its own robot, and the checkpoint says what they mean."""

import numpy as np
import torch

from wfm_ar.data.episodes import Episode, EpisodeSet
from wfm_ar.data.shards import TokenClip
from wfm_ar.schema import ActionChannel, ActionSchema, MixedSchema
from wfm_ar.tokenizers.action import ActionVocabulary
from wfm_ar.train.tokens import action_vocabulary, bins_of
from wfm_ar.train.world_model_rows import WorldModelTraining
from wfm_ar.train.world_model_stage import WorldModelStage
from wfm_ar.world_model import SequenceConfig, WorldModelConfig


def schema(width: int) -> ActionSchema:
    channels = tuple(ActionChannel(name=f"c{i}", unit="", low=-1, high=1, bins=3) for i in range(width))
    return ActionSchema(channels=channels, rate_hz=5)


MIXED = MixedSchema(embodiments=(("arm", schema(2)), ("hand", schema(1))))
VOCABULARY = ActionVocabulary(MIXED)
ACTING = {"arm": {8, 9, 10, 11, 12, 13}, "hand": {14, 15, 16}, None: set()}  # ids behind a codebook of 8


class Store(list):
    num_tokens = 0


def clip(robot: str | None) -> TokenClip:
    bins = VOCABULARY.absent(4)
    if robot:
        values = np.tile([-1.0, 0.0, 1.0, 1.0], (MIXED.of(robot).width, 1)).T
        bins = VOCABULARY.encode(values, robot)
    tokens = np.arange(12).reshape(3, 2, 2).astype(np.uint16) % 8
    made = dict(id=robot or "none", video=tokens, bins=bins.numpy().astype(np.int16).reshape(2, 2, 3), text=None)
    return TokenClip(**made, **({"frames": np.array([0, 1, 3])} if "frames" in TokenClip._fields else {}))


def stage(*robots: str | None) -> WorldModelStage:
    sequence = SequenceConfig(video_vocab=8, grid_h=2, grid_w=2, rate=2, action_bins=VOCABULARY.bins, max_latents=3)
    config = WorldModelConfig(layers=1, dim=16, heads=2, kv_heads=1, head_dim=8, hidden=16)
    training = WorldModelTraining(short=3, action_dropout=0.0, late_actions=0.0, corrupt=0.0)
    store = Store(clip(robot) for robot in robots)
    return WorldModelStage(config, sequence, training, store, store, None, MIXED)


def test_every_row_has_the_tokens_of_its_own_robot():
    for robot, ids in ACTING.items():
        made = stage(robot)
        batch = made.batch(0, 2, seed=0)
        row = batch["ids"][0]
        acting = set(row[(row >= made.sequence.action_start) & (row < made.sequence.text_start)].tolist())
        assert acting <= ids and bool(acting) == (robot is not None)
        width = 0 if robot is None else MIXED.of(robot).width
        assert int(((row >= 8) & (row < 17)).sum()) == 2 * 2 * width  # two latents of two frames each


def test_the_loss_is_finite_and_the_schema_is_kept():
    made = stage("arm", "hand", None)
    batch = made.batch(0, 6, seed=1)
    loss, _ = made.loss(made.model, batch, torch.Generator())
    assert torch.isfinite(loss)
    assert made.describe()["schema"] == MIXED.to_json()


class _Reader:
    def num_frames(self, episode):
        return 5

    def actions(self, episode, schema):
        return np.zeros((4, schema.width), np.float32)


def test_bins_of_episodes():
    paths = dict(video="v", text=None, state=None, fps=5, split="train")
    episodes = EpisodeSet(
        path="p",
        format="mix",
        schema=MIXED,
        reader=_Reader(),
        episodes=(
            Episode(id="a", actions="a", embodiment="arm", **paths),
            Episode(id="h", actions="h", embodiment="hand", **paths),
            Episode(id="n", actions=None, **paths),
        ),
    )
    rows = [bins_of(episodes, i, 3, VOCABULARY)[0].tolist() for i in range(3)]
    assert rows == [[1, 1, -1], [-1, -1, 1], [-1, -1, -1]]
    assert action_vocabulary(None) is None and action_vocabulary(MIXED).bins == (3, 3, 3)
    still = ActionSchema(channels=(ActionChannel(name="x", unit="", low=1, high=1, constant=True),), rate_hz=5)
    assert action_vocabulary(still) is None
