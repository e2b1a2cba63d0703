from dataclasses import replace

import numpy as np
import pytest
import torch

from wfm_ar.data.formats import open_episodes
from wfm_ar.data.video import write_video
from wfm_ar.errors import BadConfig, BadData
from wfm_ar.tokenizers.video import VideoTokenizerConfig
from wfm_ar.train.clips import Clips, psnr, to_float, to_uint8
from wfm_ar.train.tokens import encoder_hash
from wfm_ar.train.video_tokenizer_stage import VideoTokenizerStage, VideoTokenizerTraining, correlation
from wfm_ar.train.windows import Windows, WindowSampler, check_reach, still_picture

SMALL = VideoTokenizerConfig(height=64, width=64, encoder_channels=8, decoder_channels=8, z_channels=8, decoder_blocks=1)


@pytest.fixture
def clips(tmp_path):
    """Three clips of a white square that moves over a grey floor, in the upper left corner only."""
    for i in range(3):
        frames = np.full((13, 64, 64, 3), 90, np.uint8)
        for t in range(13):
            frames[t, 2 + i : 12 + i, t : t + 10] = 250
        write_video(tmp_path / f"{i}.mp4", frames, 10)
    return open_episodes(tmp_path)


def background(clips):
    return to_float(still_picture(Clips(clips, SMALL))).permute(2, 0, 1)


def test_the_median_is_what_never_moves(clips):
    still = still_picture(Clips(clips, SMALL))
    assert (still[32:].int() - 90).abs().max() <= 3


def test_batches_are_a_function_of_seed_and_step(clips):
    sampler = WindowSampler(Windows(crop=32), Clips(clips, SMALL), background(clips))
    one, again, other = sampler.batch(3, 6, 0), sampler.batch(3, 6, 0), sampler.batch(4, 6, 0)
    assert one["foreground"].shape == (6, 3, 9, 32, 32) and one["still"].shape == (6, 3, 1, 32, 32)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["foreground"], other["foreground"])


def test_crops_go_where_something_moves_and_weigh_it(clips):
    sampler = WindowSampler(Windows(crop=32, active=1.0, emphasis=4.0), Clips(clips, SMALL), background(clips))
    batch = sampler.batch(0, 16, 0)
    assert (batch["weight"].amax((1, 2, 3, 4)) == 5).all()
    bright = batch["foreground"].mean(1, keepdim=True) > 0.5
    assert (batch["weight"][bright] == 5).all() and (batch["weight"] == 1).float().mean() > 0.5


def test_both_sides_of_an_edge_weigh_the_same(clips):
    """A loss for which a missing piece of an object is dearer than an extra one makes objects too large."""
    sampler = WindowSampler(Windows(crop=32, active=1.0, emphasis=4.0), Clips(clips, SMALL), background(clips))
    batch = sampler.batch(0, 16, 0)
    bright = (batch["foreground"].mean(1, keepdim=True) > 0.5).float()
    beside = (torch.nn.functional.max_pool3d(bright, (1, 5, 5), 1, (0, 2, 2)) > 0) & (bright == 0)
    assert beside.any() and (batch["weight"][beside] == 5).all()


def test_foreground_plus_background_is_the_clip(clips):
    sampler = WindowSampler(Windows(crop=0, window=13), Clips(clips, SMALL), background(clips))
    batch = sampler.batch(0, 1, 0)
    frames = to_uint8((batch["foreground"] + batch["still"])[0].permute(1, 2, 3, 0))
    assert any(torch.equal(frames, Clips(clips, SMALL).load(i)) for i in range(3))


def test_short_episodes_are_passed_over_and_told_of_once(clips, capsys):
    short = clips.path / "short.mp4"
    write_video(short, np.zeros((5, 64, 64, 3), np.uint8), 10)
    sampler = WindowSampler(Windows(crop=0, windows_per_clip=1), Clips(open_episodes(clips.path), SMALL), None)
    batches = [sampler.batch(step, 8, 0) for step in range(3)]
    drawn = [name for batch in batches for name in sampler.clip_ids(batch)]
    assert set(drawn) == {"0.mp4", "1.mp4", "2.mp4"} and all(len(batch["clip"]) == 8 for batch in batches)
    told = capsys.readouterr().out
    assert told == f"note: {clips.path} episode short.mp4: got 5 frames, expected at least window=9: it is not sampled\n"
    again = WindowSampler(Windows(crop=0, windows_per_clip=1), Clips(open_episodes(clips.path), SMALL), None).batch(2, 8, 0)
    assert all(torch.equal(again[name], batches[2][name]) for name in again)  # whatever was drawn before
    only = replace(open_episodes(clips.path), episodes=tuple(e for e in open_episodes(clips.path) if e.id == "short.mp4"))
    with pytest.raises(BadData, match="like the 999 drawn before it; fix: a smaller window, or longer clips"):
        WindowSampler(Windows(crop=0), Clips(only, SMALL), None).batch(0, 1, 0)


def test_impossible_windows_are_refused(clips):
    with pytest.raises(BadConfig, match="crop"):
        WindowSampler(Windows(crop=40), Clips(clips, SMALL), None)
    with pytest.raises(BadConfig, match=r"1 \+ 4"):
        WindowSampler(Windows(window=8), Clips(clips, SMALL), None)
    with pytest.raises(BadData, match="13 frames"):
        WindowSampler(Windows(window=17), Clips(clips, SMALL), None).batch(0, 1, 0)


def test_polishing_the_decoder_changes_no_token(clips):
    torch.manual_seed(0)
    stage = VideoTokenizerStage(SMALL, VideoTokenizerTraining(crop=32, decoder_only=True), clips, clips)
    model, before = stage.model.train(), encoder_hash(stage.model)
    first = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    stage.loss(model, stage.batch(0, 4, 0), torch.Generator())[0].backward()
    optimizer.step()
    changed = {name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(p, first[name])}
    assert changed == {"decoder", "post_quant_conv"}
    assert encoder_hash(model) == before


def test_psnr_of_known_errors():
    assert float(psnr(torch.full((4,), 2.0))) == pytest.approx(0.0)
    assert float(psnr(torch.full((4,), 0.02))) == pytest.approx(40.0, abs=1e-4)


def test_correlation_of_copies_is_one_and_of_noise_none():
    torch.manual_seed(0)
    noise = torch.randn(4, 3, 2, 16, 16)
    assert float(correlation(noise)) < 0.01
    assert float(correlation(noise[:, :1].expand(-1, 3, -1, -1, -1))) > 0.99


def test_windows_that_show_too_little_of_the_past_are_refused_or_said(clips, capsys):
    with pytest.raises(BadConfig, match="got 5 frames, 2 latents, expected at least 9 for time_kernel=3.*fix: window=9, or"):
        check_reach(5, SMALL)
    with pytest.raises(BadConfig, match=r"window: got 1 frames, 1 latent, expected at least 3 for time_kernel=3"):
        VideoTokenizerStage(replace(SMALL, temporal_compression=1, patch_time=1), VideoTokenizerTraining(window=1, crop=32), clips, clips)
    assert check_reach(9, SMALL).startswith("window: 9 frames are shorter than the tokenizer's reach in time, 163 frames: ")
    assert check_reach(165, SMALL) == ""
    single = replace(SMALL, temporal_compression=1, patch_time=1, time_kernel=1)
    assert check_reach(1, single) == ""
    VideoTokenizerStage(SMALL, VideoTokenizerTraining(crop=32), clips, clips)
    assert capsys.readouterr().out.count("shorter than the tokenizer's reach in time") == 1
