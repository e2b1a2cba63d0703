import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from wfm_ar.data.shards import TokenClip, TokenStore, write_store
from wfm_ar.errors import BadData
from wfm_ar.tokenizers.text import TextTokenizer
from wfm_ar.tokenizers.video import VideoTokenizer, VideoTokenizerConfig
from wfm_ar.train.world_model_rows import WorldModelTraining
from wfm_ar.train.world_model_stage import WorldModelStage
from wfm_ar.world_model import SequenceConfig, WorldModelConfig

TEXTS = ["push the red cube left", "push the blue ball right", "do nothing"]
MODEL = WorldModelConfig(layers=2, dim=32, heads=2, kv_heads=1, head_dim=16, hidden=48, theta=100.0)


@pytest.fixture
def store(tmp_path):
    """Clips in which token (t, y, x) is (first + t * bin) % 20: the action says how the whole picture counts on."""

    def clip(i: int) -> TokenClip:
        rng = np.random.default_rng(i)
        bins = rng.integers(3, size=(4, 2, 1)).astype(np.int16)
        bins[:, 1] = bins[:, 0]
        video = np.zeros((5, 2, 2), np.uint16)
        video[0] = rng.integers(20)
        for t in range(4):
            video[t + 1] = (video[t] + bins[t, 0, 0]) % 20
        return TokenClip(str(i), video, bins, TEXTS[i % 3], images=(video + 10) % 20)

    return write_store(tmp_path, {"actions": True}, 60, lambda part: map(clip, part), 32, lambda done: None)


def make(store, policy_store=None, **training) -> WorldModelStage:
    torch.manual_seed(0)
    text = TextTokenizer.train(TEXTS, vocab_size=300, max_tokens=16)
    sequence = SequenceConfig(
        video_vocab=20, levels=(5, 4), grid_h=2, grid_w=2, rate=2, action_bins=(3,), text_vocab=text.vocab_size, max_text=16, max_latents=5
    )
    settings = {"short": 3, "val_clips": 8} | training
    training = WorldModelTraining(**{"late_actions": 0.0} | settings)
    return WorldModelStage(MODEL, sequence, training, store, store, text, policy_store=policy_store)


def test_batches_are_a_function_of_seed_and_step_and_keep_their_token_count(store):
    stage = make(store)
    one, again = stage.batch(5, 6, 0), stage.batch(5, 6, 0)
    assert all(torch.equal(one[name], again[name]) for name in one)
    rows = {stage.batch(step, 6, 0)["ids"].shape[0] for step in range(20)}
    assert rows == {6, 10}  # long windows of 5 latents, short ones of 3


def test_the_windows_of_a_seed_and_step_never_change(store):
    """A run that goes on under a newer version reads what it would have read; the numbers are those of the first version."""
    stage, drawn = make(store, corrupt=0.0, short_share=1.0), []

    def packed(cuts, latents):
        for cut in cuts:
            start = next(s for s in range(5) if np.array_equal(store[cut.clip].video[s : s + latents], cut.truth))
            drawn.append((cut.clip, start, len(cut.truth), cut.text is not None, cut.bins is not None))
        return {}

    stage.rows.packed = packed
    for step in (0, 3):
        stage.batch(step, 2, 7)  # short windows: three of 3 latents for two of 5
    assert drawn == [
        (41, 2, 3, True, True),
        (3, 0, 3, True, False),
        (29, 2, 3, True, True),
        (32, 2, 3, True, True),
        (0, 1, 3, True, True),
        (56, 1, 3, True, True),
    ]


def test_reading_is_fast_enough(tmp_path):
    """The goals are 50 M tokens/s in order and 2 M in shuffled windows on two cores; tools/token_bench.py measures them at full size."""
    rng, grid = np.random.default_rng(0), {"video_vocab": 20, "grid_h": 8, "grid_w": 8, "rate": 2}

    def clips(part):
        return (TokenClip(str(i), rng.integers(20, size=(33, 8, 8)).astype(np.uint16), None, None) for i in part)

    store = write_store(tmp_path, {"actions": False}, 1024, clips, 256, lambda done: None)
    sequence = SequenceConfig(**grid, action_bins=(), text_vocab=0, max_text=0, max_latents=9)

    stage = WorldModelStage(MODEL, sequence, WorldModelTraining(short_share=0.0, corrupt=0.0), store, store, None)
    stage.rows.packed = lambda cuts, latents: {"ids": torch.from_numpy(np.stack([cut.seen for cut in cuts]))}

    def in_order() -> int:
        return sum(store[i].video.astype(np.int64).size for i in range(len(store)))

    def shuffled() -> int:
        return sum(stage.batch(step, 64, 0)["ids"].numel() for step in range(16))

    for read, goal in ((in_order, 50e6), (shuffled, 2e6)):
        assert read() > 500_000  # and the files are in memory afterwards
        rates = []
        for _ in range(3):
            began = time.perf_counter()
            tokens = read()
            rates.append(tokens / (time.perf_counter() - began))
        assert max(rates) > goal, (read.__name__, rates)


def test_one_shard_open_at_a_time_is_enough(store, monkeypatch):
    expected = [make(store).batch(step, 6, 0) for step in range(3)]
    monkeypatch.setattr("wfm_ar.data.shards.OPEN_SHARDS", 1)
    again = TokenStore(store.root)
    for step, batch in enumerate(expected):
        got = make(again).batch(step, 6, 0)
        assert all(torch.equal(batch[name], got[name]) for name in batch) and len(again._open) == 1


def test_targets_are_the_next_tokens_and_text_is_never_one(store):
    stage = make(store, short_share=0.0, corrupt=0.0, text_dropout=0.0, action_dropout=0.0)
    batch = stage.batch(0, 1, 0)
    ids, targets, weights = batch["ids"][0], batch["targets"][0], batch["weights"][0]
    begin = int((ids == stage.sequence.bov).nonzero())
    end = int(weights.nonzero().max())  # rows are padded to one length
    assert torch.equal(targets[begin:end], ids[begin + 1 : end + 1]) and not weights[:begin].any()
    assert (weights[begin : begin + 4] == stage.training.first_weight).all()
    actions = (targets >= stage.sequence.action_start) & (weights > 0)
    assert int(actions.sum()) == 8 and (weights[actions] == stage.training.action_weight).all()


def test_corruption_touches_the_input_alone(store):
    clean, dirty = make(store, corrupt=0.0), make(store, corrupt=0.5)
    cuts = [stage.rows.cut(store, 5, np.random.default_rng(0)) for stage in (clean, dirty)]
    one, two = (clean.rows.packed([cut], 5) for cut in cuts)
    assert torch.equal(one["targets"], two["targets"]) and not torch.equal(one["ids"], two["ids"])
    assert torch.equal(one["tokens"][:, 0], two["tokens"][:, 0])  # the first latent is given


def test_actions_may_begin_late(store):
    stage = make(store, late_actions=1.0, action_dropout=0.0, short_share=0.0, corrupt=0.0)
    batch = stage.batch(0, 8, 0)
    there = (batch["bins"] >= 0).flatten(2).all(2)
    assert there[:, -1].all() and not there[:, 0].any() and len(there.sum(1).unique()) > 1
    assert torch.equal((batch["weights"] == stage.training.action_weight).sum(1), 2 * there.sum(1))
    assert stage.loss(stage.model, batch, None)[0].requires_grad


def test_a_clip_shorter_than_the_window_counts_as_far_as_it_goes(store, tmp_path):
    def clip(i: int) -> TokenClip:
        one = store[i]
        return one._replace(video=one.video[:3], bins=one.bins[:2], frames=None, images=one.images[:3])

    short = write_store(tmp_path / "short", {"actions": True}, 9, lambda part: map(clip, part), 32, lambda done: None)
    batch = make(short, short_share=0.0, action_dropout=0.0).batch(0, 4, 0)
    assert batch["tokens"].shape[1] == 5 and ((batch["weights"] > 0).sum(1) == 3 * 4 + 2 * 2).all()


def test_steps_of_own_errors_show_what_the_model_would_draw_and_ask_for_the_truth(store):
    plain, stage = make(store, corrupt=0.0), make(store, corrupt=0.0, own_errors=1.0)
    stage.model.norm.register_forward_hook(lambda module, args, out: torch.full_like(out, 3.0))
    stage.model.head.weight.data[7] = 1.0  # so it draws token 7, always
    for step in range(4):  # long and short windows, with and without text and actions
        batch, truth = stage.batch(step, 6, 0), plain.batch(step, 6, 0)
        assert all(torch.equal(batch[name], truth[name]) for name in truth)
        seen = stage._shown_own_errors(stage.model, batch)
        assert all(torch.equal(seen[name], truth[name]) for name in ("targets", "weights", "positions"))
        row, column = batch["swap"].nonzero().T
        assert (seen["tokens"].flatten(1)[row, batch["video"][row, column]] == 7).all()
        changed = seen["ids"] != truth["ids"]
        assert 0.03 < changed.float().mean() < 0.7 and (seen["ids"][changed] == 7).all()
        for ids, other in zip(truth["ids"], changed, strict=True):
            begin = int((ids == stage.sequence.bov).nonzero())
            assert not other[: begin + 5].any()  # text, BOV and the first latent
    assert stage.loss(stage.model, stage.batch(0, 6, 0), None)[0].requires_grad


def test_tokens_that_share_digits_begin_alike(store):
    """5 * 4 tokens: of two that share a digit, embeddings and rows of the head are nearer than of two that share none."""
    stage = make(store)
    for weight in (stage.model.embedding.weight, stage.model.head.weight):
        rows = weight[:20].detach()
        shared, other = (rows[0] - rows[1]).norm(), (rows[0] - rows[6]).norm()  # digits (0, 0), (1, 0), (1, 1)
        assert 0 < shared < 0.8 * other
        assert float((rows[0] - rows[1] - rows[5] + rows[6]).norm()) < 1e-5  # a digit's direction is the same everywhere


def test_own_errors_begin_after_a_number_of_steps(store):
    stage = make(store, own_errors=1.0, own_errors_after=3)
    assert ["swap" in stage.batch(step, 4, 0) for step in range(6)] == [False] * 3 + [True] * 3


def test_image_steps_have_a_text_and_one_latent(store):
    stage = make(store, image_share=1.0, text_dropout=0.0)
    batch = stage.batch(0, 4, 0)
    assert batch["tokens"].shape[1] == 1 and batch["ids"].shape[1] == stage.sequence.length(1) - 1
    assert ((batch["weights"] > 0).sum(1) == 4).all() and (batch["bins"] < 0).all()
    first = [np.array_equal(batch["tokens"][row, 0], store[-1 - int(i)].video[0]) for row, i in enumerate(batch["clip"])]
    assert sum(first) >= len(first) // 3
    loss, logs = stage.loss(stage.model, batch, None)
    assert loss.requires_grad and 0 <= logs["accuracy"] <= 1


def test_policy_steps_have_many_short_rows_whose_actions_alone_count(store):
    stage = make(store, policy_share=1.0, text_dropout=0.0)
    batch, size = stage.batch(0, 4, 0), stage.sequence.max_length * 4 // (16 + 1 + 4 + 2)
    assert batch["ids"].shape == (size, 16 + 1 + 4 + 2 - 1) and len(batch["clip"]) == size
    begins, starts = (batch["ids"] == stage.sequence.bov).nonzero()[:, 1].tolist(), set()
    for row, begin in enumerate(begins):
        one, ids, targets = store[-1 - int(batch["clip"][row])], batch["ids"][row], batch["targets"][row]
        assert batch["weights"][row].nonzero()[:, 0].tolist() == [begin + 4, begin + 5]
        shown, acted = int(ids[begin + 1]), (targets[begin + 4 : begin + 6] - stage.sequence.action_start).tolist()
        possible = [k for k in range(4) if one.images[k, 0, 0] == shown and one.bins[k].flatten().tolist() == acted]
        assert possible and (ids[begin + 1 : begin + 5] == shown).all()
        starts.add(possible[0])
    assert len(starts) > 1
    loss, logs = stage.loss(stage.model, batch, None)
    assert loss.requires_grad and "accuracy" not in logs and 0 <= logs["action_accuracy"] <= 1


def test_policy_steps_want_clips_with_actions(store, tmp_path):
    def clip(i: int) -> TokenClip:
        return store[i]._replace(bins=store[i].bins if i % 3 == 0 else np.full_like(store[i].bins, -1))

    some = write_store(tmp_path / "some", {"actions": True}, 9, lambda part: map(clip, part), 32, lambda done: None)
    batch = make(some, policy_share=1.0).batch(0, 4, 0)
    assert set(batch["clip"].tolist()) == {-1, -4, -7} and (batch["weights"] > 0).sum(1).tolist() == [2] * len(batch["clip"])
    none = write_store(tmp_path / "none", {"actions": False}, 9, lambda part: map(lambda i: store[i], part), 32, lambda done: None)
    with pytest.raises(BadData, match="hardly a clip has actions, expected some for policy_share=0.5; fix: policy_share=0"):
        [make(none, policy_share=0.5).batch(step, 4, 0) for step in range(8)]


def test_policy_steps_can_be_of_episodes_of_their_own(store, tmp_path):
    def beginning(i: int) -> TokenClip:
        one = store[i]
        return one._replace(id=f"start {i}", video=one.video[:2], bins=one.bins[:1], frames=None, images=one.images[:2])

    starts = write_store(tmp_path / "starts", {"actions": True}, 5, lambda part: map(beginning, part), 32, lambda done: None)
    stage = make(store, starts, policy_share=0.5)
    names = [stage.clip_ids(stage.batch(step, 4, 0)) for step in range(12)]
    of_starts = [all(name.startswith("start ") for name in each) for each in names]
    assert any(of_starts) and not all(of_starts)
    assert all(is_start or not any(name.startswith("start ") for name in each) for is_start, each in zip(of_starts, names, strict=True))


def test_dropout_leaves_text_and_actions_out(store):
    stage = make(store, text_dropout=1.0, action_dropout=1.0, short_share=0.0)
    assert ((stage.batch(0, 4, 0)["weights"] > 0).sum(1) == 5 * 4).all()


def test_it_learns_what_actions_do(store):
    stage = make(store, corrupt=0.0)
    optimizer = torch.optim.AdamW(stage.model.parameters(), lr=1e-2)
    before, _ = stage.validate(stage.model.eval(), torch.device("cpu"))
    stage.model.train()
    for step in range(120):
        optimizer.zero_grad()
        stage.loss(stage.model, stage.batch(step, 8, 0), torch.Generator())[0].backward()
        optimizer.step()
    after, _ = stage.validate(stage.model.eval(), torch.device("cpu"))
    assert before["loss"] > 2.9  # ln 23: nothing known
    assert after["accuracy"] > 0.9 and after["loss"] < 0.5


def test_validation_shows_rollouts_beside_the_truth(store):
    stage = make(store)
    assert stage.validate(stage.model.eval(), torch.device("cpu"))[1] == {}  # nothing to paint with
    config = VideoTokenizerConfig(
        height=16, width=16, temporal_compression=2, patch_time=2, spatial_compression=8, encoder_channels=8, decoder_channels=8,
        multipliers=(1, 1), encoder_blocks=1, decoder_blocks=1, z_channels=8, levels=(5, 4),
    )  # fmt: skip
    stage.tokenizer = VideoTokenizer(config).eval()
    _, pictures = stage.validate(stage.model.eval(), torch.device("cpu"))
    picture = pictures["rollouts"]
    assert picture.dtype == torch.uint8 and picture.shape == (3 * 2 * 16, 5 * 16, 3)  # three clips, truth and rollout, five latents
    truth, rollout = picture[:16], picture[16:32]
    assert torch.equal(truth[:, :16], rollout[:, :16]) and not torch.equal(truth[:, 16:], rollout[:, 16:])


def test_a_scene_reader_learns_from_the_latent_that_follows(store):
    stage = make(store, policy_share=1.0, text_dropout=0.0)
    plain = stage.batch(0, 6, 0)
    images = [store[-1 - int(clip)].images for clip in plain["clip"]]
    for row, of_clip in enumerate(images):
        shown, then = plain["tokens"][row].numpy()
        assert any(np.array_equal(shown, of_clip[k]) and np.array_equal(then, of_clip[k + 1]) for k in range(len(of_clip) - 1))
        assert np.array_equal(plain["moves"][row, 0].numpy(), shown != then) and not plain["moves"][row, 1].any()
    torch.manual_seed(0)
    reading = replace(MODEL, scene_channels=8, scene_blocks=1)
    stage = WorldModelStage(reading, stage.sequence.config, stage.training, store, store, stage.text)
    optimizer = torch.optim.AdamW(stage.model.parameters(), lr=3e-3)

    def missed(step: int) -> torch.Tensor:
        return stage.model.scene(stage._inputs(stage.batch(step, 6, 0))["scenes"])[1]

    before = float(missed(100))
    for step in range(30):
        optimizer.zero_grad()
        stage.loss(stage.model, stage.batch(step, 6, 0), None)[0].backward()
        optimizer.step()
    assert float(missed(100)) < 0.8 * before


def test_bins_whose_values_are_near_begin_alike(store):
    stage = make(store)
    start, stop = stage.sequence.action_range(0)
    for weight in (stage.model.embedding.weight, stage.model.head.weight):
        low, middle, high = weight[start:stop].detach()
        assert 0 < (low - middle).norm() < 1.5 * (low - high).norm()
