"""Sparse rows: which tokens are kept, and that rows that keep all of them have the loss of dense rows."""

import numpy as np
import pytest
import torch

from wfm_ar.data.shards import TokenClip, write_store
from wfm_ar.train.sparse_rows import ELSEWHERE, NEAR_CONTENT, NEAR_FORETOLD, SURE, UNKNOWN, keep_probability, usual_tokens
from wfm_ar.train.world_model_rows import SPARSE_ROWS, WorldModelTraining
from wfm_ar.train.world_model_stage import WorldModelStage
from wfm_ar.world_model import SequenceConfig, WorldModelConfig
from wfm_ar.world_model.sequence import NOT_TOLD

EMPTY, STILL, MOVING = 3, 11, 17


def clip(i: int) -> TokenClip:
    """5 latents of 8 x 8 empty places, a thing that stays in a corner, and one that goes right by a place a latent in row 5."""
    rng = np.random.default_rng(i)
    video = np.full((5, 8, 8), EMPTY, np.uint16)
    video[:, 0, 7] = STILL
    for t in range(5):
        video[t, 5, t + i % 3] = MOVING
    return TokenClip(str(i), video, rng.integers(3, size=(4, 1, 1)).astype(np.int16), None)


@pytest.fixture
def store(tmp_path):
    return write_store(tmp_path, {"actions": True}, 12, lambda part: map(clip, part), 32, lambda done: None)


def make(store, **training) -> WorldModelStage:
    torch.manual_seed(0)
    sequence = SequenceConfig(
        video_vocab=20, levels=(5, 4), grid_h=8, grid_w=8, rate=1, action_bins=(3,), max_text=0, max_latents=5, hint_latents=2
    )
    model = WorldModelConfig(layers=1, dim=16, heads=2, kv_heads=1, head_dim=8, hidden=16, hint_hidden=16, theta=100.0)
    settings = {"val_clips": 2, "corrupt": 0.0, "action_dropout": 0.0, "short_share": 0.0} | training
    stage = WorldModelStage(model, sequence, WorldModelTraining(**settings), store, store, None)
    torch.nn.init.normal_(stage.model.head.weight, std=0.1)
    return stage


def test_the_usual_token_of_a_place_is_the_one_it_mostly_has():
    usual = usual_tokens([clip(i).video for i in range(6)], 20)
    assert usual[0, 7] == STILL and (np.delete(usual.ravel(), 7) == EMPTY).all()


def test_what_is_kept_rests_on_earlier_latents_alone():
    tokens, usual = clip(0).video.astype(np.int64), np.full((8, 8), EMPTY)
    kept = keep_probability(tokens, usual)
    later = tokens.copy()
    later[3:] = 0  # whatever comes, latents 0 to 3 are kept as before
    assert np.array_equal(keep_probability(later, usual)[1:4], kept[1:4])
    assert kept[0, 5, 0] == kept[0, 0, 7] == SURE and kept[0, 3, 3] == np.float32(ELSEWHERE)
    assert kept[1, 5, 1] == kept[1, 0, 6] == np.float32(UNKNOWN)  # nothing says yet what moves
    assert kept[3, 5, 3] == SURE  # where the thing gets to
    assert kept[3, 0, 7] == kept[3, 1, 6] == np.float32(NEAR_CONTENT) and kept[3, 2, 2] == np.float32(ELSEWHERE)


def test_a_lookahead_says_where_something_moves():
    tokens, usual = clip(0).video.astype(np.int64), np.full((8, 8), EMPTY)
    ahead = np.zeros((5, 8, 8, 3), np.int8)
    ahead[:2] = NOT_TOLD  # of the first latent, and of one whose actions are not known
    ahead[2, 1, 1, 2] = 40
    kept, plain = keep_probability(tokens, usual, ahead), keep_probability(tokens, usual)
    assert np.array_equal(kept[:2], plain[:2])
    assert kept[2, 1, 1] == SURE and (kept[2, 0:3, 0:3] == np.float32(NEAR_FORETOLD)).sum() == 8
    assert kept[2, 5, 2] == kept[3, 5, 3] == np.float32(NEAR_CONTENT)  # it moves, but nothing says so


@pytest.mark.parametrize("own_errors", [0.0, 1.0])
def test_rows_that_keep_all_have_the_loss_of_dense_rows(store, own_errors):
    stage = make(store, sparse=1.0, own_errors=own_errors)
    cuts = [stage.rows.cut(store, 5, np.random.default_rng(i)) for i in range(3)]
    dense, sparse = stage.rows.packed(cuts, 5), stage.rows.packed(cuts, 5, lambda seen, told: np.ones(seen.shape, bool))
    first = (dense["video"] >= 0) & (dense["video"] < 64)
    dense["weights"][first] = 0  # of a sparse row the first latent is seen, not asked for
    L = dense["ids"].shape[1]
    if own_errors:
        swaps = stage.rows.swaps(dense, np.random.default_rng(5))
        dense |= swaps
        sparse |= {name: torch.nn.functional.pad(each, (0, sparse["ids"].shape[1] - L)) for name, each in swaps.items()}
    one, two = (stage.loss(stage.model.eval(), batch, None)[0] for batch in (dense, sparse))
    assert torch.equal(sparse["ids"][:, :L], dense["ids"])
    torch.testing.assert_close(one, two)


def test_sparse_rows_are_shorter_and_keep_what_their_probabilities_say(store):
    stage = make(store, sparse=1.0)
    dense = make(store).batch(0, 40, 0)
    batches = [stage.batch(step, 10, 0) for step in range(12)]
    assert all(batch["ids"].shape[0] == 40 for batch in batches)
    assert max(batch["ids"].shape[1] for batch in batches) < 0.5 * dense["ids"].shape[1]
    kept = np.mean([float((batch["video"] >= 0).sum()) for batch in batches])
    chance = np.mean([keep_probability(clip(i).video.astype(np.int64), stage.rows.usual).sum() for i in range(12)])
    assert kept == pytest.approx(40 * chance, rel=0.05)
    for batch in batches:
        first = (batch["video"] >= 0) & (batch["video"] < 64)
        assert (batch["weights"][first] == 0).all() and (batch["weights"][batch["video"] >= 64] == 1).all()


def test_the_next_token_of_a_sparse_row_is_the_next_one_that_is_kept(store):
    stage = make(store, sparse=1.0)
    batch = stage.batch(0, 2, 0)
    for row in range(8):
        shown = batch["tokens"][row].flatten()
        for column in torch.where(batch["video"][row] >= 0)[0].tolist():
            token = int(shown[batch["video"][row, column]])
            assert batch["targets"][row, column] == token
            if column + 1 < batch["ids"].shape[1]:
                assert batch["ids"][row, column + 1] == token


def test_sparse_policy_rows_see_what_is_in_the_image_and_few_of_its_empty_places(store):
    stage = make(store, sparse=1.0, policy_share=1.0)
    batches = [stage.batch(step, 8, 0) for step in range(24)]
    whole, sparse = ([batch for batch in batches if (batch["ids"].shape[1] > 64) is wide] for wide in (True, False))
    assert 2 <= len(whole) <= 10  # a few whole images, as a rollout has them
    assert all(len(batch["ids"]) == SPARSE_ROWS * len(whole[0]["ids"]) for batch in sparse)
    for batch in sparse:
        for row in range(len(batch["ids"])):
            seen, there = batch["tokens"][row, 0], batch["video"][row]
            kept = torch.zeros(64, dtype=torch.bool)
            kept[there[there >= 0]] = True
            assert kept[(seen != torch.tensor(stage.rows.usual)).flatten()].all() and kept.sum() < 40 and there.max() < 64
            (at,) = batch["weights"][row].nonzero()[:, 0].tolist()
            assert batch["targets"][row, at] - stage.sequence.action_start in torch.tensor(store[-1 - int(batch["clip"][row])].bins)
    assert stage.loss(stage.model, sparse[0], None)[0].requires_grad
