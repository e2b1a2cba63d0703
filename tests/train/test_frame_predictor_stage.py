"""Stage 2: it learns where a square goes that actions move, and what it tells of a token store is worked out once."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_stages import TOKENIZER

from wfm_ar.data.formats import open_episodes
from wfm_ar.data.frame_cache import FrameCache
from wfm_ar.data.shards import TokenClip, locked, write_store
from wfm_ar.data.video import write_video
from wfm_ar.errors import BadConfig, BadData
from wfm_ar.frame_predictor.network import FramePredictor, FramePredictorConfig, places
from wfm_ar.rollout.lookahead import Lookahead, expected_tokens
from wfm_ar.tokenizers.video import VideoTokenizer
from wfm_ar.train.frame_predictor_stage import FramePredictorStage, FramePredictorTraining, cut_at, cut_inside
from wfm_ar.train.look_ahead import LONGEST, look_ahead, told_of_clip
from wfm_ar.train.world_model_rows import WorldModelTraining
from wfm_ar.train.world_model_stage import WorldModelStage
from wfm_ar.world_model import SequenceConfig, WorldModelConfig
from wfm_ar.world_model.sequence import NOT_TOLD

FRAMES = replace(TOKENIZER, temporal_compression=1, patch_time=1, time_kernel=1)
FRAMES_SIZE = (FRAMES.height, FRAMES.width)
NETWORK = FramePredictorConfig(history=3, patch=2, channels=(16, 16), blocks=(1, 1, 1), embedding=8)


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    """Six clips of a square that goes 2 pixels right or left, as the action of each frame says."""
    folder = tmp_path_factory.mktemp("squares")
    (folder / "videos").mkdir()
    rows, channel = [], {"name": "x", "unit": "m", "low": -1.0, "high": 1.0, "bins": 9}
    for i in range(6):
        rng = np.random.default_rng(i)
        actions, x, frames = rng.choice([-1.0, 1.0], (12, 1)).astype(np.float32), 8, []
        for t in range(13):
            frame = np.full((16, 24, 3), 60, np.uint8)
            frame[4:12, x : x + 8] = 240
            frames.append(frame)
            x = int(np.clip(x + 2 * actions[t, 0], 0, 16)) if t < 12 else x
        write_video(folder / "videos" / f"{i}.mp4", np.stack(frames), 10)
        np.save(folder / f"{i}.npy", actions)
        rows.append({"id": str(i), "video": f"videos/{i}.mp4", "actions": f"{i}.npy", "fps": 10.0, "split": "train"})
    (folder / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "actions.json").write_text(json.dumps({"rate_hz": 10.0, "channels": [channel]}))
    return open_episodes(folder)


class Copies(VideoTokenizer):
    """A tokenizer whose copies are the frames themselves."""

    def forward(self, foreground_BCTHW):
        codes = foreground_BCTHW.new_zeros(len(foreground_BCTHW), 3, 1, 2, 3)
        return foreground_BCTHW, codes, codes


def make(episodes, **training) -> FramePredictorStage:
    torch.manual_seed(0)
    settings = {"window": 4, "crop": 0, "edge": 0, "begun": 0.0, "action_dropout": 0.0, "val_clips": 2} | training
    return FramePredictorStage(NETWORK, FramePredictorTraining(**settings), Copies(FRAMES), episodes, episodes)


def test_it_learns_what_actions_do(episodes):
    stage = make(episodes)
    optimizer = torch.optim.AdamW(stage.model.parameters(), 1e-2)
    losses = []
    for step in range(150):
        loss, _ = stage.loss(stage.model, stage.batch(step, 8, 0), None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.3 * losses[0]
    blind = stage.batch(99, 16, 0)
    told, _ = stage.loss(stage.model, blind, None)
    blind["bins"] = -blind["bins"] + 8  # the opposite actions
    misled, _ = stage.loss(stage.model, blind, None)
    assert misled > 3 * told


def test_actions_belong_to_the_frames_of_the_window(episodes):
    stage = make(episodes, window=4)
    batch = stage.batch(3, 12, 0)
    for frames_3THW, bins_tA in zip(batch["foreground"], batch["bins"], strict=True):
        columns = (frames_3THW[0] > 0.5).any(1).float()  # [T, W]: where the square is
        places = columns.argmax(1)
        for k in range(3):
            expected = int((places[k] + (2 if bins_tA[k, 0] > 4 else -2)).clamp(0, 16))
            assert abs(int(places[k + 1]) - expected) <= 1  # lossy video
    assert torch.equal(batch["bins"], stage.batch(3, 12, 0)["bins"])


def test_samples_may_lack_actions_and_a_first_frame(episodes):
    stage = make(episodes, begun=1.0, action_dropout=1.0)
    batch = stage.batch(0, 16, 0)
    assert set(batch["missing"].tolist()) == {1, 2} and (batch["bins"] == -1).all()
    assert stage.loss(stage.model, batch, None)[0].isfinite()


def test_a_missing_piece_of_an_object_costs_what_an_extra_one_costs(episodes):
    stage = make(episodes)
    small, large, still = torch.zeros(1, 3, 16, 24), torch.zeros(1, 3, 16, 24), torch.zeros(1, 1, 16, 24, dtype=torch.bool)
    small[..., 4:8, 4:8], large[..., 2:10, 2:10] = 1.0, 1.0
    one, other = stage._weight(still, small, large), stage._weight(still, large, small)
    assert torch.equal(one, other) and (one[..., 2:10, 2:10] == 1 + stage.training.content).all() and (one[..., 12:] == 1).all()


def test_validation_has_numbers_and_a_picture(episodes):
    torch.manual_seed(0)
    stage = FramePredictorStage(NETWORK, FramePredictorTraining(crop=0, val_clips=6), VideoTokenizer(FRAMES), episodes, episodes)
    numbers, pictures = stage.validate(stage.model, torch.device("cpu"))
    assert numbers.keys() == {"psnr_moved_next", "psnr_moved_16"} and all(np.isfinite(value) for value in numbers.values())
    assert pictures["rolled_alone"].shape[2] == 3


def test_the_time_left_knows_what_is_to_be_decoded(episodes, tmp_path):
    stage = make(episodes)
    stage.windows.clips.cache = FrameCache(tmp_path, 1e9)
    assert stage.to_decode() == (6 * 13, 6 * 13)
    stage.batch(0, 2, 0)
    assert stage.to_decode()[0] < 6 * 13


def test_a_window_must_hold_a_frame_to_predict(episodes):
    with pytest.raises(BadConfig, match="window: got 3 frames with burn_in=0, expected 4 or more: 3 that are seen, and one"):
        make(episodes, window=3)
    with pytest.raises(BadConfig, match="got 5 frames with burn_in=2, expected 6 or more: 3 that are seen and 2 of burn_in, and one"):
        make(episodes, window=5, burn_in=2)


def test_burn_in_leads_to_what_counts_and_has_no_gradient(episodes):
    stage = make(episodes, window=9, burn_in=4)
    batches = {int(batch["burn_in"]): batch for batch in (stage.batch(step, 4, 0) for step in range(40))}
    assert set(batches) == {0, 1, 2, 3, 4}
    called = []
    real = stage.model.forward

    def forward(frames, *more):
        called.append((torch.is_grad_enabled(), frames[:, -1].clone()))
        return real(frames, *more)

    stage.model.forward = forward
    for burn_in, batch in batches.items():
        called.clear()
        loss, logs = stage.loss(stage.model, batch, None)
        assert [grad for grad, _ in called] == [False] * burn_in + [True] * 2
        assert set(logs) == {"loss_1", "loss_2", "crop_psnr"} and loss.requires_grad  # whatever was drawn: ranks add up what they log
        assert loss.item() == pytest.approx(float(logs["loss_1"] + logs["loss_2"]) / 2)


@pytest.fixture
def lookahead() -> Lookahead:
    torch.manual_seed(0)
    predictor = FramePredictor(replace(NETWORK, actions=1))
    for parameter in predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return Lookahead(VideoTokenizer(FRAMES).eval(), predictor.eval(), (9,))


def clip(i: int, latents: int = 24) -> TokenClip:
    rng = np.random.default_rng(i)
    video = rng.integers(36, size=(latents, 2, 3)).astype(np.uint16)
    return TokenClip(str(i), video, rng.integers(9, size=(latents - 1, 1, 1)).astype(np.int16), None)


def store_of(folder, count: int = 6):
    return write_store(folder, {"actions": True, "tokenizer": "x"}, count, lambda part: map(clip, part), 4, lambda done: None)


def test_what_is_told_of_true_pasts_is_what_a_rollout_is_told(lookahead, tmp_path):
    told = look_ahead(lookahead, store_of(tmp_path / "tokens"), tmp_path / "ahead", own=False)
    seen, ahead = told[5]
    assert np.array_equal(seen, clip(5).video) and (ahead[0] == NOT_TOLD).all()
    past, acting = (torch.from_numpy(each.astype(np.int64)) for each in (clip(5).video[5:8], clip(5).bins[6:8, 0]))
    alone = lookahead(past[None], acting[None])[0].numpy()
    assert np.abs(ahead[8].astype(int) - alone).max() <= 1


def test_own_stretches_follow_the_predictor_and_come_back_to_the_truth(lookahead):
    stretches = 0
    for i in range(12):
        one = clip(i)
        seen, ahead = told_of_clip(lookahead, one, np.random.default_rng(i))
        own = (seen != one.video).any((1, 2))
        runs = "".join("x" if each else "." for each in own).replace(".", " ").split()
        assert not own[0] and all(len(run) <= LONGEST for run in runs)
        stretches += len(runs)
        for k in np.flatnonzero(own):
            last = torch.from_numpy(seen[k - 1].astype(np.int64))
            expected = expected_tokens(torch.from_numpy(ahead[k]), last, FRAMES.levels).numpy()
            assert np.array_equal(seen[k], expected)
    assert stretches > 6


def test_it_is_worked_out_once_and_again_for_other_networks(lookahead, tmp_path, monkeypatch):
    store, out = store_of(tmp_path / "tokens"), tmp_path / "ahead"
    first = [np.array(each) for each in look_ahead(lookahead, store, out, own=True)[3]]
    calls = []
    real = told_of_clip
    monkeypatch.setattr("wfm_ar.train.look_ahead.told_of_clip", lambda *words: calls.append(1) or real(*words))
    again = look_ahead(lookahead, store, out, own=True)[3]
    assert not calls and all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    (out / "shard-00001").rename(tmp_path / "lost")
    look_ahead(lookahead, store, out, own=True)
    assert len(calls) == 2  # the clips of the missing shard alone
    torch.nn.init.normal_(lookahead.predictor.leave.weight)
    look_ahead(lookahead, store, out, own=True)
    assert len(calls) == 2 + 6


def test_two_processes_share_the_work(lookahead, tmp_path):
    store, out = store_of(tmp_path / "tokens"), tmp_path / "ahead"
    out.mkdir()
    with ThreadPoolExecutor(1) as pool:
        with locked(out / ".lock-00000", True):  # another one works on the first shard
            made = pool.submit(look_ahead, lookahead, store, out, own=False)
            for _ in range(600):
                if (out / "shard-00001").exists():
                    break
                time.sleep(0.05)
            assert (out / "shard-00001").exists() and not made.done() and not (out / "shard-00000").exists()
        assert len(made.result(60)[0][0]) == len(store[0].video)


def test_damaged_files_are_named(lookahead, tmp_path):
    store, out = store_of(tmp_path / "tokens"), tmp_path / "ahead"
    look_ahead(lookahead, store, out, own=True)
    (out / "shard-00000" / "ahead.npy").write_bytes(b"nothing")
    with pytest.raises(BadData, match=r"shard-00000: cannot be read .*; fix: delete .*ahead, it is made again"):
        look_ahead(lookahead, store, out, own=True)[0]


def test_a_world_model_begins_with_the_tokens_of_the_predicted_frame(lookahead, tmp_path):
    store = store_of(tmp_path / "tokens")
    told = look_ahead(lookahead, store, tmp_path / "ahead", own=False)
    grid = dict(video_vocab=36, levels=FRAMES.levels, grid_h=2, grid_w=3, rate=1, action_bins=(9,), max_text=0, max_latents=4)
    network = WorldModelConfig(layers=1, dim=64, heads=2, kv_heads=1, head_dim=32, hidden=32, hint_hidden=64, theta=100.0)
    right = []
    for given in (True, False):
        torch.manual_seed(0)
        shares = {"short_share": 0.0, "corrupt": 0.0, "late_actions": 0.0, "action_dropout": 0.0 if given else 1.0}
        training = WorldModelTraining(val_clips=2, **shares)
        ahead = {"train": told, "val": told}
        stage = WorldModelStage(
            network, SequenceConfig(**grid, lookahead=True), training, store, store, None, lookahead=lookahead, ahead=ahead
        )
        batch = stage.batch(0, 8, 0)
        assert ((batch["ahead"] == NOT_TOLD).all() == (not given)) and (batch["ahead"][:, 0] == NOT_TOLD).all()
        logits = stage.model(batch["ids"], batch["positions"], hints_BLF=stage._hints(batch))
        later = (batch["video"] >= 6) & (batch["targets"] < 36)
        row, column = torch.where(later)
        at = batch["video"][row, column]
        told_nK = batch["ahead"][row, at // 6, at % 6 // 3, at % 3]
        told_nK = torch.cat((told_nK[:, :-1], torch.full((len(row), 1), 100)), 1)  # as if it changed: whatever the frame shows
        expected = expected_tokens(told_nK, torch.zeros(len(row), dtype=torch.int64), FRAMES.levels)
        right.append((logits[row, column, :36].argmax(-1) == expected).float().mean().item())
    assert right[0] > 0.9 and right[1] < 0.3


def test_crops_know_their_place_and_count_up_to_the_edges_of_the_frame(episodes):
    stage = make(episodes, crop=8, edge=2)
    batch = stage.batch(0, 16, 0)
    whole = places(*FRAMES_SIZE, 2)
    cut = cut_at(whole, batch["corner"], (8, 8), 2)
    seen = {}
    for corner, mine, picture in zip(batch["corner"].tolist(), cut, batch["still"], strict=True):
        y, x = corner
        assert torch.equal(mine, whole[0, :, y // 2 : y // 2 + 4, x // 2 : x // 2 + 4]) and picture.shape[-2:] == (8, 8)
        seen[y, x] = cut_inside(FRAMES_SIZE, torch.tensor([corner]), (8, 8), 2)[0, 0]
    assert len(seen) > 2
    for (y, x), inside in seen.items():
        rows, columns = inside.any(1).nonzero().flatten().tolist(), inside.any(0).nonzero().flatten().tolist()
        assert rows == list(range(0 if y == 0 else 2, 8 if y == 8 else 6))
        assert columns == list(range(0 if x == 0 else 2, 8 if x == 16 else 6))
