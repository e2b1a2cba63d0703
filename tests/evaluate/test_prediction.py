"""Teacher-forced loss and accuracy against a direct computation, one prediction at a time."""

import numpy as np
import pytest
import torch

from wfm_ar.evaluate.prediction import prediction_row, prediction_summary
from wfm_ar.world_model.sequence import Sequence, SequenceConfig
from wfm_ar.world_model.transformer import WorldModel, WorldModelConfig

CONFIG = SequenceConfig(video_vocab=20, grid_h=2, grid_w=3, rate=2, action_bins=(4, 5), text_vocab=7, max_latents=4)


@pytest.fixture(scope="module")
def model() -> tuple[WorldModel, Sequence]:
    torch.manual_seed(0)
    sequence = Sequence(CONFIG)
    small = {"layers": 2, "dim": 32, "heads": 2, "kv_heads": 1, "head_dim": 16, "hidden": 32}
    world_model = WorldModel(WorldModelConfig(**small, **sequence.model_vocabularies())).eval()
    torch.nn.init.normal_(world_model.head.weight)
    return world_model, sequence


@pytest.mark.parametrize("with_actions", [True, False])
def test_the_loss_is_that_of_each_token_given_all_before_it(model, with_actions):
    world_model, sequence = model
    tokens = torch.randint(20, (4, 2, 3), generator=torch.Generator().manual_seed(1))
    tokens[3] = tokens[2]
    tokens[3, 0, 0] = (tokens[2, 0, 0] + 1) % 20
    bins = torch.randint(4, (3, 2, 2), generator=torch.Generator().manual_seed(2)) if with_actions else None
    row = prediction_row(world_model, sequence, tokens, [1, 2], bins)
    packed = sequence.pack(tokens, [1, 2], bins)
    expected, hits = [], []
    with torch.inference_mode():
        for i in range(1, len(packed.ids)):
            if packed.ids[i] < 20:
                logits = world_model(packed.ids[None, :i], packed.positions[None, :i], hints_BLF=packed.hints[None, :i])[0, -1]
                expected.append(float(torch.nn.functional.cross_entropy(logits, packed.ids[i])))
                hits.append(bool(logits.argmax() == packed.ids[i]))
    np.testing.assert_allclose(row.loss.ravel(), expected, atol=1e-5)
    assert row.correct.ravel().tolist() == hits
    assert row.changed[3].sum() == 1 and row.changed[3, 0, 0] and not row.changed[:2].any()


def test_the_summary_means(model):
    world_model, sequence = model
    tokens = torch.zeros(4, 2, 3, dtype=torch.int64)
    other = tokens.clone()
    other[2] = 5
    rows = [prediction_row(world_model, sequence, clip) for clip in (tokens, other)]
    numbers = prediction_summary(rows)
    assert numbers["loss"] == pytest.approx(np.mean([row.loss.mean() for row in rows]))
    assert numbers["loss_changed"] == pytest.approx(rows[1].loss[2:].mean())  # latents 2 and 3 of the second clip change wholly
    assert numbers["changed_tokens"] == 0.5 and numbers["tokens"] == 48 and len(numbers["loss_by_latent"]) == 4
    assert prediction_summary(rows[:1])["loss_changed"] is None
